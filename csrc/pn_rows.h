/* pn_rows.h: what softmax and cross-entropy do along a row of n neighbouring elements, in T.
 *
 * Sums run in vectors over blocks of ROW_BLOCK elements, and the blocks' sums in double: their order
 * depends on n alone, and their error hardly on it.
 */
#ifndef PN_ROWS_H
#define PN_ROWS_H

#include "pn_math.h"
#include "pn_simd.h"

#if PN_FLOAT

#define ROW_BLOCK 1024
#define ROW_WORK 8192 /* elements a chunk */

/* Sums `term`, an expression of LOAD(p, fill), over a row; a lane beyond the end sees fill. */
#define LOAD(p, fill) pn_load_part((p) + i, m, (T)(fill))
#define PN_ROW_SUM(sum, n, term)                                                                   \
    for (int64_t lo = 0; lo < (n); lo += ROW_BLOCK) {                                              \
        V partial = pn_set1(0);                                                                    \
        int64_t hi = pn_min((n), lo + ROW_BLOCK);                                                  \
        for (int64_t i = lo; i < hi; i += PN_VL) {                                                 \
            int64_t m = hi - i;                                                                    \
            partial += (term);                                                                     \
        }                                                                                          \
        sum += (double)pn_hsum(partial);                                                           \
    }

/* Stores `value`, an expression of LOAD(p, fill), to y for every element of a row. */
#define PN_ROW_EACH(y, n, value)                                                                   \
    for (int64_t i = 0; i < (n); i += PN_VL) {                                                     \
        int64_t m = (n) - i;                                                                       \
        pn_store_part((y) + i, (value), m);                                                        \
    }

/* The largest element; -inf for none. A NaN may get lost: the sum of exponentials keeps it. */
PN_INLINE T row_max(const T *x, int64_t n) {
    V top = pn_set1((T)-INFINITY);
    for (int64_t i = 0; i < n; i += PN_VL) {
        int64_t m = n - i;
        top = pn_max_b(LOAD(x, -INFINITY), top);
    }
#pragma GCC unroll 8
    for (int w = PN_VL / 2; w > 0; w /= 2) top = pn_max_b(pn_swap(top, w), top);
    return top[0];
}

PN_INLINE double row_sum(const T *x, int64_t n) {
    double sum = 0;
    PN_ROW_SUM(sum, n, LOAD(x, 0))
    return sum;
}

/* Σ e^(x - top) */
PN_INLINE double row_sum_exp(const T *x, int64_t n, T top) {
    double sum = 0;
    V shift = pn_set1(top);
    PN_ROW_SUM(sum, n, pn_exp(LOAD(x, -INFINITY) - shift))
    return sum;
}

PN_INLINE T log_of(double x) { return pn_log(pn_set1((T)x))[0]; }

#endif
#endif
