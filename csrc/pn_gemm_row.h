/* pn_gemm_row.h: one row or a few of A by B, where B is read once and memory sets the pace.
 *
 *     rows of B contiguous:      to[j] = fma(a_p, b_pj, ... fma(a_0, b_0j, 0)),  p < k
 *     columns of B contiguous:   to[j] = tree of l < SUMS of s_l,  s_l = fma(a_p, b_pj, ...) over p % SUMS == l
 *
 * The former (x W with a single row x) are the sums of the tile kernel in its order; B is streamed once,
 * STREAMS rows at a time, or, where it has no more than SHORT vectors a row, row by row into sums that stay
 * in registers. The latter (x W' with a W by rows, up to PN_DOT_ROWS rows x) are dot products along memory,
 * one column after another. The tile kernel's order would need a transpose in registers, which takes twice
 * the time of reading B from L2 or L3. k counts as padded with zeros; the tree halves: lane l is joined with
 * l + SUMS/2, then SUMS/4 ... 1.
 */
#ifndef PN_GEMM_ROW_H
#define PN_GEMM_ROW_H

#include "pn_gemm_pack.h"

PN_INLINE void add_part(const int rows, const int nv, T *to, const V *x, const T *b, int64_t rs) {
    V s[RUN];
    ALL(v, nv) s[v] = pn_load(to + v * PN_VL);
    ALL(i, rows) ALL(v, nv) {
        const T *at = b + i * rs + v * PN_VL;
        if (nv > 1 && v % (PN_ALIGN / PN_VBYTES) == 0) __builtin_prefetch(at + ROW_AHEAD);
        pn_fma_to(&s[v], x[i], pn_load(at));
    }
    ALL(v, nv) pn_store(to + v * PN_VL, s[v]);
}

PN_INLINE void add_rows(const int rows, T *to, const T *a, int64_t acs, const T *b, int64_t rs,
                        int64_t n) {
    V x[STREAMS];
    int64_t j = 0;
    ALL(i, rows) x[i] = pn_set1(a[i * acs]);
    for (; j + RUN * PN_VL <= n; j += RUN * PN_VL) add_part(rows, RUN, to + j, x, b + j, rs);
    for (; j + PN_VL <= n; j += PN_VL) add_part(rows, 1, to + j, x, b + j, rs);
    if (j < n) {
        V s = pn_load(to + j);
        ALL(i, rows) pn_fma_to(&s, x[i], pn_load_part(b + i * rs + j, n - j, 0));
        pn_store(to + j, s);
    }
}

#define SHORT 8 /* vectors of a row whose sums stay in registers */

/* A row of nv vectors, the last of which may be part of one: its sums stay in registers for all of k. */
PN_INLINE void short_row(const int nv, T *to, const T *a, int64_t acs, const T *b, int64_t rs,
                         int64_t n, int64_t k) {
    V s[SHORT];
    ALL(v, nv) s[v] = (V){0};
    for (; k > 0; k--, a += acs, b += rs) {
        V x = pn_set1(*a);
        ALL(v, nv - 1) pn_fma_to(&s[v], x, pn_load(b + v * PN_VL));
        pn_fma_to(&s[nv - 1], x, pn_load_part(b + (nv - 1) * PN_VL, n - (nv - 1) * PN_VL, 0));
    }
    ALL(v, nv) pn_store(to + v * PN_VL, s[v]);
}

#define SHORT_ROW(nv)                                                                              \
    case nv:                                                                                       \
        short_row(nv, to, a, acs, b, rs, n, k);                                                    \
        return;

/* B's rows are contiguous; to has room for whole vectors. */
static void row_by_rows(T *to, const T *a, int64_t acs, const T *b, int64_t rs, int64_t n,
                        int64_t k) {
    switch ((n + PN_VL - 1) / PN_VL) {
        SHORT_ROW(1)
        SHORT_ROW(2) SHORT_ROW(3) SHORT_ROW(4) SHORT_ROW(5) SHORT_ROW(6) SHORT_ROW(7) SHORT_ROW(8)
    }
    for (int64_t j = 0; j < n; j += PN_VL) pn_store(to + j, (V){0});
    for (; k >= STREAMS; k -= STREAMS, a += STREAMS * acs, b += STREAMS * rs)
        add_rows(STREAMS, to, a, acs, b, rs, n);
    for (; k > 0; k--, a += acs, b += rs) add_rows(1, to, a, acs, b, rs, n);
}

/* A column of B by rows of A that are ars apart; how many is a constant.
 * b + ahead is where the next columns lie, or b. */
PN_INLINE void dots(const int rows, T *to, int64_t ld, const T *a, int64_t ars, const T *b,
                    int64_t k, int64_t ahead) {
    enum { NS = SUMS / PN_VL };
    V s[PN_DOT_ROWS][NS];
    int64_t p = 0;
    ALL(r, rows) ALL(i, NS) s[r][i] = (V){0};
    for (; p + SUMS <= k; p += SUMS) ALL(i, NS) {
            const T *at = b + p + i * PN_VL;
            V y = pn_load(at);
            if (i % (PN_ALIGN / PN_VBYTES) == 0) __builtin_prefetch(at + ahead);
            ALL(r, rows) pn_fma_to(&s[r][i], pn_load(a + r * ars + p + i * PN_VL), y);
        }
    if (p < k) ALL(i, NS) {
            int64_t at = p + i * PN_VL, left = k - at;
            V y = pn_load_part(b + at, left, 0);
            ALL(r, rows) pn_fma_to(&s[r][i], pn_load_part(a + r * ars + at, left, 0), y);
        }
    ALL(r, rows) {
        ALL(i, NS / 2)
        s[r][i] += s[r][i + NS / 2]; /* by constants, or the sums would live in memory */
        ALL(i, NS / 4) s[r][i] += s[r][i + NS / 4];
        ALL(i, NS / 8) s[r][i] += s[r][i + NS / 8];
        ALL(i, NS / 16) s[r][i] += s[r][i + NS / 16];
        to[r * ld] = pn_hsum(s[r][0]);
    }
}

/* B's columns are contiguous, and a's rows are. */
static void rows_by_columns(int64_t m, T *to, int64_t ld, const T *a, int64_t ars, const T *b,
                            int64_t cs, int64_t n, int64_t k) {
    int64_t ahead = cs >= k && cs - k <= k / 4 ? DOT_AHEAD : 0;
    for (int64_t j = 0; j < n; j++, to++, b += cs) {
#if PN_VBYTES == 64
        switch (m) {
        case 1:
            dots(1, to, ld, a, ars, b, k, ahead);
            break;
        case 2:
            dots(2, to, ld, a, ars, b, k, ahead);
            break;
        case 3:
            dots(3, to, ld, a, ars, b, k, ahead);
            break;
        default:
            dots(PN_DOT_ROWS, to, ld, a, ars, b, k, ahead);
        }
#else /* the sums of one row fill half of the registers */
        for (int64_t r = 0; r < m; r++) dots(1, to + r * ld, ld, a + r * ars, ars, b, k, ahead);
#endif
    }
}

#endif
