/* pn_conv.h: the one form of convolution that forward and by-data share.
 *
 *   y[n, y0 + u ys, ., o] = bias[o] + Σ_{t, s, i} x[n, x0 + u xs + t xt, ., i] w[o, w0 + t wt, ., i]
 *
 * along rows (u, t) and likewise along columns (v, s); what lies outside of x counts as 0. x and y are
 * channels-last and dense, channels fall into groups.
 *
 *   forward   y0 = 0, ys = 1, xs = stride, x0 = -padding, xt = dilation; taps in the kernel's order
 *   by data   x is dy, y is dx. Of dx's rows those with the same remainder by the stride see the same taps,
 *             which follow one another by lcm(stride, dilation) / dilation: a convolution of stride 1 each.
 *             In reverse order their places in dy ascend.
 */
#ifndef PN_CONV_H
#define PN_CONV_H

#include <string.h>

#include "pn_gemm_choices.h" /* MR, NV, NR: a tile of sums in registers, as of products */

typedef struct axis {
    int64_t n, y0, ys;   /* outputs, their places in y */
    int64_t xs, x0, xt;  /* the first one's places in x, and the step to the next one's */
    int64_t taps, w0, wt; /* places in the kernel */
} axis;

typedef struct conv {
    const T *x, *w, *bias;
    T *y;
    int64_t n, hi, wi, ci, ho, wo, co; /* x: [n, hi, wi, ci], y: [n, ho, wo, co] */
    int64_t groups, ki, ko;            /* channels of a group */
    int64_t wo_, wi_, wa, wb, wg; /* steps in w: output and input channel, row, column, group */
    axis rows, cols;
    int relu;
    const T *residual; /* like y, added before relu; or NULL */
    void *ready; /* w as the sums read it, or NULL */
} conv;

typedef struct geometry { /* parameters of a call */
    int64_t stride[2], pad[2], dil[2], groups;
} geometry;

#define GEOMETRY(k)                                                                                \
    ((geometry){{PAR(k, sh).i, PAR(k, sw).i},                                                      \
                {PAR(k, ph).i, PAR(k, pw).i},                                                      \
                {PAR(k, dh).i, PAR(k, dw).i},                                                      \
                PAR(k, groups).i})

static inline int64_t round_up(int64_t n, int64_t to) { return pn_ceil_div(n, to) * to; }
static inline int64_t bytes_of(int64_t n) { return round_up(n * (int64_t)sizeof(T), PN_ALIGN); }

/* n cut into parts of at most `most`, as equal as can be: the first `longer` have one more. */
typedef struct parts {
    int64_t n, size, longer;
} parts;
static inline parts cut(int64_t n, int64_t most) {
    int64_t k = pn_ceil_div(n, most);
    return k ? (parts){k, n / k, n % k} : (parts){0, 0, 0};
}
static inline int64_t part_start(parts p, int64_t k) { return k * p.size + pn_min(k, p.longer); }

/* ---- from a call to the form ---------------------------------------------------------------------- */

/* d: 2 for rows, 3 for columns of x, y and W, which are logically N,C,H,W and O,I,kH,kW. */
static inline axis forward_axis(const geometry *g, const pn_array *y, const pn_array *w, int d) {
    return (axis){y->shape[d], 0, 1, g->stride[d - 2], -g->pad[d - 2], g->dil[d - 2],
                  w->shape[d], 0, 1};
}

static inline conv forward_of(const geometry *g, const pn_array *x, const pn_array *w,
                              const pn_array *y) {
    int64_t o = w->shape[0], i = w->shape[1], kh = w->shape[2], kw = w->shape[3];
    return (conv){.x = x->data,
                  .w = w->data,
                  .y = y->data,
                  .n = x->shape[0],
                  .hi = x->shape[2],
                  .wi = x->shape[3],
                  .ci = x->shape[1],
                  .ho = y->shape[2],
                  .wo = y->shape[3],
                  .co = o,
                  .groups = g->groups,
                  .ki = i,
                  .ko = o / g->groups,
                  .wo_ = kh * kw * i,
                  .wi_ = 1,
                  .wa = kw * i,
                  .wb = i,
                  .wg = o / g->groups * kh * kw * i,
                  .rows = forward_axis(g, y, w, 2),
                  .cols = forward_axis(g, y, w, 3)};
}

static inline int64_t gcd(int64_t a, int64_t b) {
    while (b) {
        int64_t r = a % b;
        a = b, b = r;
    }
    return a;
}

/* Of dx's rows (or columns) those at r, r + stride, ... */
static inline axis by_data_axis(const geometry *g, const pn_array *dx, const pn_array *w, int d,
                                int64_t r) {
    int64_t s = g->stride[d - 2], pad = g->pad[d - 2], dil = g->dil[d - 2], k = w->shape[d];
    int64_t step = s / gcd(dil, s), first = 0;
    axis a = {.n = pn_ceil_div(pn_max(0, dx->shape[d] - r), s), .y0 = r, .ys = s, .xs = 1};
    while (first < pn_min(step, k) && (r + pad - first * dil) % s != 0) first++;
    if (first == pn_min(step, k)) return a;
    a.taps = (k - 1 - first) / step + 1;
    a.w0 = first + (a.taps - 1) * step, a.wt = -step;
    a.x0 = (r + pad - a.w0 * dil) / s, a.xt = step * dil / s;
    return a;
}

/* The class of dx's pixels at rows r0 + u stride and columns r1 + v stride. */
static inline conv by_data_of(const geometry *g, const pn_array *dy, const pn_array *w,
                              const pn_array *dx, int64_t r0, int64_t r1) {
    int64_t o = w->shape[0], i = w->shape[1], kh = w->shape[2], kw = w->shape[3];
    return (conv){.x = dy->data,
                  .w = w->data,
                  .y = dx->data,
                  .n = dy->shape[0],
                  .hi = dy->shape[2],
                  .wi = dy->shape[3],
                  .ci = o,
                  .ho = dx->shape[2],
                  .wo = dx->shape[3],
                  .co = dx->shape[1],
                  .groups = g->groups,
                  .ki = o / g->groups,
                  .ko = i,
                  .wo_ = 1,
                  .wi_ = kh * kw * i,
                  .wa = kw * i,
                  .wb = i,
                  .wg = o / g->groups * kh * kw * i,
                  .rows = by_data_axis(g, dx, w, 2, r0),
                  .cols = by_data_axis(g, dx, w, 3, r1)};
}

/* The u of [0, n) whose place in x is inside for tap t: [lo, hi). */
static inline void inside(const axis *a, int64_t t, int64_t size, int64_t *lo, int64_t *hi) {
    int64_t at = a->x0 + t * a->xt;
    *lo = at >= 0 ? 0 : pn_ceil_div(-at, a->xs);
    *hi = at >= size ? 0 : pn_min(a->n, (size - 1 - at) / a->xs + 1);
    *lo = pn_min(*lo, a->n);
    *hi = pn_max(*lo, *hi);
}

/* From the first place in x that an output needs to the one after the last of n outputs. */
static inline int64_t span_of(const axis *a, int64_t n) {
    return (n - 1) * a->xs + pn_max(0, a->taps - 1) * a->xt + 1;
}

static inline int all_inside(const axis *a, int64_t size) {
    return a->x0 >= 0 && a->x0 + span_of(a, a->n) <= size;
}

#endif
