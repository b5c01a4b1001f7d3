/* pn_gemm_row.h: one row of A by B, where nothing is read twice and memory sets the pace.
 *
 *     rows of B contiguous:      to[j] = fma(a_p, b_pj, ... fma(a_0, b_0j, 0)),  p < k
 *     columns of B contiguous:   to[j] = tree of l < SUMS of s_l,  s_l = fma(a_p, b_pj, ...) over p % SUMS == l
 *
 * The former (x W) are the sums of the tile kernel in its order; B is streamed once, STREAMS rows at a time, or,
 * where it has no more than 8 vectors a row, row by row into sums that stay in registers.
 * The latter (x W' with a W by rows) are dot products along memory, one column after another. The tile
 * kernel's order would need a transpose in registers, which takes twice the time of reading B from L2 or L3.
 * k counts as padded with zeros; the tree halves: lane l is joined with l + SUMS/2, then SUMS/4 ... 1.
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

/* A row of nv vectors, the last of which may be part of one: its sums stay in registers for all of k. */
PN_INLINE void short_row(const int nv, T *to, const T *a, int64_t acs, const T *b, int64_t rs,
                         int64_t n, int64_t k) {
    V s[8];
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

/* b + ahead is where the next columns lie, or b. */
PN_INLINE T dot(const T *a, const T *b, int64_t k, int64_t ahead) {
    enum { NS = SUMS / PN_VL };
    V s[NS];
    int64_t p = 0;
    ALL(i, NS) s[i] = (V){0};
    for (; p + SUMS <= k; p += SUMS) ALL(i, NS) {
            const T *at = b + p + i * PN_VL;
            if (i % (PN_ALIGN / PN_VBYTES) == 0) __builtin_prefetch(at + ahead);
            pn_fma_to(&s[i], pn_load(a + p + i * PN_VL), pn_load(at));
        }
    if (p < k) ALL(i, NS) {
            int64_t at = p + i * PN_VL, left = k - at;
            pn_fma_to(&s[i], pn_load_part(a + at, left, 0), pn_load_part(b + at, left, 0));
        }
    ALL(i, NS / 2) s[i] += s[i + NS / 2]; /* by constants, or the sums would live in memory */
    ALL(i, NS / 4) s[i] += s[i + NS / 4];
    ALL(i, NS / 8) s[i] += s[i + NS / 8];
    ALL(i, NS / 16) s[i] += s[i + NS / 16];
    return pn_hsum(s[0]);
}

/* B's columns are contiguous, and a is. */
static void row_by_columns(T *to, const T *a, const T *b, int64_t cs, int64_t n, int64_t k) {
    int64_t ahead = cs >= k && cs - k <= k / 4 ? DOT_AHEAD : 0;
    for (int64_t j = 0; j < n; j++) to[j] = dot(a, b + j * cs, k, ahead);
}

#endif
