/* pn_rows.h: loops along a row of n neighbouring elements, in T: softmax, cross-entropy, layer norm.
 *
 * A loop's body runs once for each vector of the row: LOAD(p, fill) is row p's vector there, a lane
 * beyond the end sees fill; STORE(p, v) leaves such lanes alone; k is 0, 1, 2, 3 in turn. Sums take
 * sum[k], so that four additions are under way at once, over blocks of ROW_BLOCK elements, and add up
 * the blocks' sums in double: their order depends on n alone, and their error hardly on it.
 *
 * Beyond the caches (far) a row has to be read while the last one is still computed, or memory stands
 * idle meanwhile: the passes of neighbouring rows run side by side in one loop, which fetches ahead
 * (FETCH) and stores past the caches (PUT).
 */
#ifndef PN_ROWS_H
#define PN_ROWS_H

#include "pn_math.h"
#include "pn_simd.h"

#if PN_FLOAT

#define ROW_BLOCK 1024
#define ROW_WORK 8192 /* elements a chunk */
#define ROW_WORK_FAR (1 << 17)

#define LOAD(p, fill) (full ? pn_load((p) + i) : pn_load_part((p) + i, m, (T)(fill)))
#define STORE(p, v)                                                                                \
    do {                                                                                           \
        if (full)                                                                                  \
            pn_store((p) + i, v);                                                                  \
        else                                                                                       \
            pn_store_part((p) + i, v, m);                                                          \
    } while (0)
/* STORE past the caches: every row begins on a line */
#define PUT(p, v)                                                                                  \
    do {                                                                                           \
        if (full)                                                                                  \
            pn_stream((p) + i, v);                                                                 \
        else                                                                                       \
            pn_store_part((p) + i, v, m);                                                          \
    } while (0)
#define ROW_AHEAD                                                                                  \
    (8192 / sizeof(T)) /* two pages: the hardware's own fetching ends with each page */
#define FETCH(p) __builtin_prefetch((p) + i, 0, 2)
#define FETCH_HALF(p) /* a pass over a row fetches half as much */                                 \
    if (k & 1) __builtin_prefetch((p) + i / 2, 0, 2)
#define PN_ROW_STEP(k_, full_, ...)                                                                \
    {                                                                                              \
        enum { k = k_, full = full_ };                                                             \
        __VA_ARGS__                                                                                \
        i += PN_VL;                                                                                \
    }

/* The body for elements [first, last) */
#define PN_ROW_PART(first, last, ...)                                                              \
    do {                                                                                           \
        int64_t i = (first), end_ = (last), m = 0;                                                 \
        while (i + 4 * PN_VL <= end_) {                                                            \
            PN_ROW_STEP(0, 1, __VA_ARGS__)                                                         \
            PN_ROW_STEP(1, 1, __VA_ARGS__)                                                         \
            PN_ROW_STEP(2, 1, __VA_ARGS__)                                                         \
            PN_ROW_STEP(3, 1, __VA_ARGS__)                                                         \
        }                                                                                          \
        while (i + PN_VL <= end_) PN_ROW_STEP(0, 1, __VA_ARGS__)                                   \
        m = end_ - i;                                                                              \
        if (m > 0) PN_ROW_STEP(1, 0, __VA_ARGS__)                                                  \
    } while (0)
#define PN_ROW(n, ...) PN_ROW_PART(0, n, __VA_ARGS__)

/* Adds up over a row what the body adds to sum[k]; to and to2 (sum2[k]) are doubles. */
#define PN_ROW_SUM(to, n, ...)                                                                     \
    for (int64_t lo_ = 0; lo_ < (n); lo_ += ROW_BLOCK) {                                           \
        V sum[4] = {0};                                                                            \
        PN_ROW_PART(lo_, pn_min((n), lo_ + ROW_BLOCK), __VA_ARGS__);                               \
        to += (double)pn_hsum((sum[0] + sum[1]) + (sum[2] + sum[3]));                              \
    }
#define PN_ROW_SUM2(to, to2, n, ...)                                                               \
    for (int64_t lo_ = 0; lo_ < (n); lo_ += ROW_BLOCK) {                                           \
        V sum[4] = {0}, sum2[4] = {0};                                                             \
        PN_ROW_PART(lo_, pn_min((n), lo_ + ROW_BLOCK), __VA_ARGS__);                               \
        to += (double)pn_hsum((sum[0] + sum[1]) + (sum[2] + sum[3]));                              \
        to2 += (double)pn_hsum((sum2[0] + sum2[1]) + (sum2[2] + sum2[3]));                         \
    }

/* Whether `count` rows of n from p are to be stored past the caches. */
static inline int rows_past(const T *p, int64_t n, int64_t count) {
    return (uintptr_t)p % PN_ALIGN == 0 && n * sizeof(T) % PN_ALIGN == 0 &&
           pn_is_far(n * count * (int64_t)sizeof(T));
}

/* The largest element; -inf for none. A NaN may get lost: the sum of exponentials keeps it. */
PN_INLINE T max_of_four(const V *top) {
    V max = pn_max_b(pn_max_b(top[0], top[1]), pn_max_b(top[2], top[3]));
    PN_UNROLL
    for (int w = PN_VL / 2; w > 0; w /= 2) max = pn_max_b(pn_swap(max, w), max);
    return max[0];
}

PN_INLINE T row_max(const T *x, int64_t n) {
    V low = pn_set1((T)-INFINITY), top[4] = {low, low, low, low};
    PN_ROW(n, top[k] = pn_max_b(LOAD(x, -INFINITY), top[k]););
    return max_of_four(top);
}

PN_INLINE double row_sum(const T *x, int64_t n) {
    double total = 0;
    PN_ROW_SUM(total, n, sum[k] += LOAD(x, 0);)
    return total;
}

/* Σ e^(x - top), top >= x */
PN_INLINE double row_sum_exp(const T *x, int64_t n, T top) {
    double total = 0;
    V shift = pn_set1(top);
    PN_ROW_SUM(total, n, sum[k] += pn_exp_down(LOAD(x, -INFINITY) - shift);)
    return total;
}

PN_INLINE T log_of(double x) { return pn_log(pn_set1((T)x))[0]; }

#endif
#endif
