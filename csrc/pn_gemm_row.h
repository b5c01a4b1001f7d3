/* pn_gemm_row.h: one row of A by B, where nothing is read twice.
 *
 *     to[j] = fma(a_p, b_pj, ... fma(a_0, b_0j, 0)),  p < k, j < n
 *
 * B is streamed once, 8 rows at a time where its rows are contiguous (x W), turned in registers where its
 * columns are (x W' with a W by rows). The sums are those of the tile kernel, in its order.
 */
#ifndef PN_GEMM_ROW_H
#define PN_GEMM_ROW_H

#include "pn_gemm_pack.h"

PN_INLINE void add_rows(const int rows, T *to, const T *a, int64_t acs, const T *b, int64_t rs,
                        int64_t n) {
    V x[STREAMS];
    int64_t j = 0;
    ALL(i, rows) x[i] = pn_set1(a[i * acs]);
    for (; j + PN_VL <= n; j += PN_VL) {
        V s = pn_load(to + j);
        ALL(i, rows) pn_fma_to(&s, x[i], pn_load(b + i * rs + j));
        pn_store(to + j, s);
    }
    if (j < n) {
        V s = pn_load(to + j);
        ALL(i, rows) pn_fma_to(&s, x[i], pn_load_part(b + i * rs + j, n - j, 0));
        pn_store(to + j, s);
    }
}

/* B's rows are contiguous; to has room for whole vectors. */
static void row_by_rows(T *to, const T *a, int64_t acs, const T *b, int64_t rs, int64_t n,
                        int64_t k) {
    for (int64_t j = 0; j < n; j += PN_VL) pn_store(to + j, (V){0});
    for (; k >= STREAMS; k -= STREAMS, a += STREAMS * acs, b += STREAMS * rs)
        add_rows(STREAMS, to, a, acs, b, rs, n);
    for (; k > 0; k--, a += acs, b += rs) add_rows(1, to, a, acs, b, rs, n);
}

/* B's columns are contiguous. A cache line of a column at a time, as columns 4096 bytes apart share a set
 * of the cache; several vectors of sums by turns, lest each wait for itself. */
PN_INLINE void turned(const int groups, T *to, const T *a, int64_t acs, const T *b, int64_t cs,
                      int64_t k) {
    enum { LINE = PN_ALIGN / sizeof(T) };
    V sum[GROUPS], r[QL];
    ALL(g, groups) sum[g] = (V){0};
    for (int64_t p0 = 0, n; p0 < k; p0 += n, a += n * acs, b += n) {
        n = pn_min(LINE, k - p0);
        for (int g = 0; g < groups; g++) {
            const T *first = b + g * PN_VL * cs;
            const char *from[THIRDS];
            V s = sum[g];
            int64_t p = 0;
            ALL(i, THIRDS) from[i] = (const char *)(first + 3 * i * cs);
            ALL(i, PN_VL) __builtin_prefetch(first + i * cs + 2 * LINE);
            for (; p + QL <= n; p += QL) {
                turn(r, from, cs * (int64_t)sizeof(T));
                ALL(i, QL) pn_fma_to(&s, pn_set1(a[(p + i) * acs]), r[i]);
            }
            for (; p < n; p++) {
                V x = {0};
                ALL(i, PN_VL) x[i] = first[i * cs + p];
                pn_fma_to(&s, pn_set1(a[p * acs]), x);
            }
            sum[g] = s;
        }
    }
    ALL(g, groups) pn_store(to + g * PN_VL, sum[g]);
}

/* n >= PN_VL; the last vector overlaps the one before where n is no multiple */
static void row_by_columns(T *to, const T *a, int64_t acs, const T *b, int64_t cs, int64_t n,
                           int64_t k) {
    int64_t j = 0;
    for (; j + GROUP <= n; j += GROUP) turned(GROUPS, to + j, a, acs, b + j * cs, cs, k);
    for (; j < n; j += PN_VL) {
        j = pn_min(j, n - PN_VL);
        turned(1, to + j, a, acs, b + j * cs, cs, k);
    }
}

#endif
