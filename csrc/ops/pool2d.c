/* pool2d.c: max and average pooling of channels-last x[n, h, w, c] to y[n, p, q, c], with their adjoints.
 *
 *   max_pool2d   y = max of x over the window of (p, q); place = that element's number in the window
 *   max_pick2d   y = x at the window's place:   linear in x, given the places
 *   max_spread2d dx = Σ dy of the windows whose place is this element: the adjoint of max_pick2d
 *   avg_pool2d   y = Σ x over the window / its count
 *   avg_spread2d dx = Σ dy / count of the windows that hold this element: the adjoint of avg_pool2d
 *
 * Windows: that of output i along a dimension of size n is i stride - pad + k dilation, 0 <= k < kernel,
 * as far as it lies within [0, n); with kernel 0 it is adaptive, [floor(i n/m), ceil((i + 1) n/m)) for m
 * outputs. An element's number is k_h K_w + k_w, K the largest window. The first of equal elements wins,
 * and a NaN wins over all, as in PyTorch.
 *
 * Everything runs along channels, in vectors. Adjoints gather: an element asks the windows that may hold
 * it, so that each is written once, in a fixed order of terms. A sum over a window adds rows of sums.
 */
#include <string.h>

#include "pn_rows.h"

#if PN_FLOAT

#define WORK 16384 /* elements read in a chunk */

typedef struct axis {
    int64_t n, m; /* sizes of the image and of what is pooled */
    int64_t kernel, stride, pad, dilation, most; /* most: of a window */
} axis;
typedef struct window {
    int64_t first, step, k0, k1; /* elements first + k step, k0 <= k < k1 */
} window;

typedef struct pool {
    const T *x; /* the image; of spreading, what was pooled */
    T *y;
    const void *place;
    void *place_out;
    int32_t place_dtype;
    int64_t channels, per, pixels; /* pixels: of y, in all items */
    axis h, w;
    int64_t whole, divisor; /* average: whether padding counts; what is divided by, 0: the count */
} pool;

static int64_t most_of(const axis *a) {
    if (a->kernel) return a->kernel;
    return a->m ? pn_min(a->n, pn_ceil_div(a->n, a->m) + 1) : 0;
}
PN_INLINE int64_t floor_div(int64_t a, int64_t b) {
    if (b == 1) return a; /* most often: a division takes as long as a few vectors */
    return a / b - (a % b != 0 && (a < 0) != (b < 0));
}

PN_INLINE window window_of(const axis *a, int64_t i) {
    if (!a->kernel) {
        int64_t lo = i * a->n / a->m, hi = pn_ceil_div((i + 1) * a->n, a->m);
        return (window){lo, 1, 0, hi - lo};
    }
    window w = {i * a->stride - a->pad, a->dilation, 0, 0};
    if (w.first < 0) w.k0 = -floor_div(w.first, a->dilation);
    w.k1 = pn_max((int64_t)0, floor_div(a->n - 1 - w.first, a->dilation) + 1);
    w.k1 = pn_min(a->kernel, w.k1);
    w.k0 = pn_min(w.k0, w.k1);
    return w;
}

/* Outputs whose windows may hold element e: [*lo, *hi) */
PN_INLINE void holders(const axis *a, int64_t e, int64_t *lo, int64_t *hi) {
    if (!a->kernel) {
        *lo = e * a->m / a->n, *hi = pn_ceil_div((e + 1) * a->m, a->n);
        return;
    }
    int64_t reach = (a->kernel - 1) * a->dilation;
    *lo = pn_max((int64_t)0, -floor_div(reach - e - a->pad, a->stride));
    *hi = pn_min(a->m, floor_div(e + a->pad, a->stride) + 1);
}
/* e's number in the window, or -1 */
PN_INLINE int64_t number_in(const window *w, int64_t e) {
    int64_t d = e - w->first, k = floor_div(d, w->step);
    return k * w->step == d && k >= w->k0 && k < w->k1 ? k : -1;
}

/* What a window's sum is divided by: with padding counted, its part within the padded image */
static int64_t extent(const axis *a, int64_t i, const window *w, int whole) {
    if (!whole || !a->kernel) return w->k1 - w->k0;
    int64_t lo = i * a->stride - a->pad;
    return pn_min(lo + a->kernel, a->n + a->pad) - lo;
}
static T share_of(const pool *p, int64_t i, int64_t j, const window *h, const window *w) {
    int64_t whole = p->whole, by = p->divisor;
    if (!by) by = extent(&p->h, i, h, (int)whole) * extent(&p->w, j, w, (int)whole);
    return (T)(1 / (double)by);
}

/* ---- places: written as uint8 or int32, read as int64 too -------------------------------------- */

typedef uint8_t bytes __attribute__((vector_size(PN_VL)));
typedef int32_t words __attribute__((vector_size(4 * PN_VL)));

PN_INLINE void put_place(const pool *p, int64_t at, VI number, int64_t count) {
    bytes b = __builtin_convertvector(number, bytes);
    words w = __builtin_convertvector(number, words);
    if (p->place_dtype == PN_U8)
        memcpy((uint8_t *)p->place_out + at, &b, (size_t)count);
    else
        memcpy((int32_t *)p->place_out + at, &w, 4 * (size_t)count);
}
PN_INLINE VI get_place(const pool *p, int64_t at, int64_t count) {
    bytes b = {0};
    words w = {0};
    VI v = {0};
    if (p->place_dtype == PN_U8) {
        memcpy(&b, (const uint8_t *)p->place + at, (size_t)count);
        return __builtin_convertvector(b, VI);
    }
    if (p->place_dtype == PN_I32) {
        memcpy(&w, (const int32_t *)p->place + at, 4 * (size_t)count);
        return __builtin_convertvector(w, VI);
    }
    for (int64_t i = 0; i < count; i++) v[i] = (pn_int)((const int64_t *)p->place)[at + i];
    return v;
}

#define LEFT (full ? PN_VL : m) /* lanes of this vector within PN_ROW */

/* The last statement for each pixel (item, row, col) of an image of height x width in the chunk, which lies at `at`;
 * of_row before those of a row */
#define PIXELS(height, width, of_row, ...)                                                         \
    const pool *p = arg;                                                                           \
    const int64_t C = p->channels, last_ = pn_min(p->pixels, (chunk + 1) * p->per);                \
    (void)c, (void)worker;                                                                         \
    for (int64_t pixel_ = chunk * p->per; pixel_ < last_;) {                                       \
        const int64_t line_ = pixel_ / (width), row = line_ % (height), item = line_ / (height);   \
        const int64_t end_ = pn_min(last_, (line_ + 1) * (width));                                 \
        of_row;                                                                                    \
        for (int64_t col = pixel_ - line_ * (width); pixel_ < end_; pixel_++, col++) {             \
            const int64_t at = pixel_ * C;                                                         \
            __VA_ARGS__                                                                            \
        }                                                                                          \
    }
#define BOTH_OF(...) __VA_ARGS__ /* one argument of a macro, whatever commas are in it */
/* ... for each pixel of what is pooled, with its windows */
#define WINDOWS(...)                                                                               \
    PIXELS(p->h.m, p->w.m,                                                                         \
           BOTH_OF(const T *image = p->x + item * p->h.n * p->w.n * C;                             \
                   const window h = window_of(&p->h, row)),                                        \
           const window w = window_of(&p->w, col);                                                 \
           __VA_ARGS__)
/* ... for each element (kh, kw) of the window: number, and v within PN_ROW */
#define ELEMENTS(kh) for (int64_t kw = w.k0; kw < w.k1; kw++)
#define ELEMENT(kh)                                                                                \
    LOAD(image + ((h.first + (kh) * h.step) * p->w.n + w.first + kw * w.step) * C, 0)
#define NUMBER(kh, kw) ((pn_int)((kh) * p->w.most + (kw)) - (VI){0})

static void max_chunk(pn_call *c, void *arg, int64_t chunk, int worker) {
    WINDOWS(PN_ROW(
                C, V best = pn_set1((T)-INFINITY); VI where = NUMBER(h.k0, w.k0);
                for (int64_t kh = h.k0; kh < h.k1; kh++) ELEMENTS(kh) {
                    V v = ELEMENT(kh);
                    VI wins = (v > best) | pn_isnan(v);
                    best = pn_select(wins, v, best);
                    where = (wins & NUMBER(kh, kw)) | (~wins & where);
                } STORE(p->y + at, best);
                put_place(p, at + i, where, LEFT);););
}

static void pick_chunk(pn_call *c, void *arg, int64_t chunk, int worker) {
    WINDOWS(PN_ROW(
                C, V found = pn_set1(0); VI where = get_place(p, at + i, LEFT);
                for (int64_t kh = h.k0; kh < h.k1; kh++) ELEMENTS(kh) {
                    found = pn_select(where == NUMBER(kh, kw), ELEMENT(kh), found);
                } STORE(p->y + at, found);););
}

static void average_chunk(pn_call *c, void *arg, int64_t chunk, int worker) {
    WINDOWS(const V share = pn_set1(share_of(p, row, col, &h, &w)); PN_ROW(
                C, V sum = pn_set1(0); for (int64_t kh = h.k0; kh < h.k1; kh++) {
                    V line = pn_set1(0);
                    ELEMENTS(kh) { line += ELEMENT(kh); }
                    sum += line;
                } STORE(p->y + at, sum * share);););
}

/* The statement for each window (above, left) that holds the pixel, which is its element (kh, kw); first: none before */
#define HOLDERS(...)                                                                               \
    PIXELS(                                                                                        \
        p->h.n, p->w.n, BOTH_OF(int64_t top, bottom; holders(&p->h, row, &top, &bottom)),          \
        int64_t begin, end;                                                                        \
        int first = 1; T *y = p->y + at; holders(&p->w, col, &begin, &end);                        \
        for (int64_t above = top; above < bottom; above++) {                                       \
            const window h = window_of(&p->h, above);                                              \
            const int64_t kh = number_in(&h, row);                                                 \
            for (int64_t left = begin; kh >= 0 && left < end; left++) {                            \
                const window w = window_of(&p->w, left);                                           \
                const int64_t kw = number_in(&w, col);                                             \
                if (kw < 0) continue;                                                              \
                const int64_t from = ((item * p->h.m + above) * p->w.m + left) * C;                \
                __VA_ARGS__                                                                        \
                first = 0;                                                                         \
            }                                                                                      \
        } if (first) memset(y, 0, (size_t)C * sizeof(T));)
#define SO_FAR (first ? pn_set1(0) : LOAD(y, 0))

static void max_spread_chunk(pn_call *c, void *arg, int64_t chunk, int worker) {
    HOLDERS(PN_ROW(C, VI where = get_place(p, from + i, LEFT); V dy = LOAD(p->x + from, 0);
                   V mine = pn_select(where == NUMBER(kh, kw), dy, pn_set1(0));
                   STORE(y, first ? mine : SO_FAR + mine);););
}

static void average_spread_chunk(pn_call *c, void *arg, int64_t chunk, int worker) {
    HOLDERS(const V share = pn_set1(share_of(p, above, left, &h, &w));
            PN_ROW(C, STORE(y, pn_fma(LOAD(p->x + from, 0), share, SO_FAR));););
}

/* ---- kernels ---------------------------------------------------------------------------------- */

#define AXES(kernel)                                                                               \
    (const int64_t[8]) {                                                                           \
        PAR(kernel, kh).i, PAR(kernel, sh).i, PAR(kernel, ph).i, PAR(kernel, dh).i,                \
            PAR(kernel, kw).i, PAR(kernel, sw).i, PAR(kernel, pw).i, PAR(kernel, dw).i             \
    }

static pool pool_of(const pn_array *image, const pn_array *pooled, const int64_t *q) {
    pool p = {.channels = image->shape[1]};
    p.h = (axis){image->shape[2], pooled->shape[2], q[0], q[1], q[2], q[3], 0};
    p.w = (axis){image->shape[3], pooled->shape[3], q[4], q[5], q[6], q[7], 0};
    p.h.most = most_of(&p.h), p.w.most = most_of(&p.w);
    return p;
}
/* x to y, y the larger image where `spreads` */
static void run(pn_call *c, pool *p, const pn_array *x, const pn_array *y, int spreads,
                pn_body body) {
    int64_t reads = pn_max(1, p->channels) * (spreads ? 2 : pn_max(1, p->h.most * p->w.most));
    p->x = x->data, p->y = y->data;
    p->pixels = p->channels ? pn_size(y) / p->channels : 0;
    p->per = pn_max(1, pn_grain(WORK) / reads);
    pn_for(c, pn_ceil_div(p->pixels, p->per), body, p);
}

PN_FN(max_pool2d_fwd) {
    const pn_array *x = ARG(max_pool2d_fwd, x), *y = ARG(max_pool2d_fwd, y);
    const pn_array *place = ARG(max_pool2d_fwd, place);
    pool p = pool_of(x, y, AXES(max_pool2d_fwd));
    p.place_out = place->data, p.place_dtype = place->dtype;
    run(c, &p, x, y, 0, max_chunk);
}

PN_FN(max_pick2d_fwd) {
    const pn_array *x = ARG(max_pick2d_fwd, x), *y = ARG(max_pick2d_fwd, y);
    const pn_array *place = ARG(max_pick2d_fwd, place);
    pool p = pool_of(x, y, AXES(max_pick2d_fwd));
    p.place = place->data, p.place_dtype = place->dtype;
    run(c, &p, x, y, 0, pick_chunk);
}

PN_FN(max_spread2d_fwd) {
    const pn_array *dy = ARG(max_spread2d_fwd, dy), *dx = ARG(max_spread2d_fwd, dx);
    const pn_array *place = ARG(max_spread2d_fwd, place);
    pool p = pool_of(dx, dy, AXES(max_spread2d_fwd));
    p.place = place->data, p.place_dtype = place->dtype;
    run(c, &p, dy, dx, 1, max_spread_chunk);
}

PN_FN(avg_pool2d_fwd) {
    const pn_array *x = ARG(avg_pool2d_fwd, x), *y = ARG(avg_pool2d_fwd, y);
    pool p = pool_of(x, y, AXES(avg_pool2d_fwd));
    p.whole = PAR(avg_pool2d_fwd, whole).i, p.divisor = PAR(avg_pool2d_fwd, divisor).i;
    run(c, &p, x, y, 0, average_chunk);
}

PN_FN(avg_spread2d_fwd) {
    const pn_array *dy = ARG(avg_spread2d_fwd, dy), *dx = ARG(avg_spread2d_fwd, dx);
    pool p = pool_of(dx, dy, AXES(avg_spread2d_fwd));
    p.whole = PAR(avg_spread2d_fwd, whole).i, p.divisor = PAR(avg_spread2d_fwd, divisor).i;
    run(c, &p, dy, dx, 1, average_spread_chunk);
}

#endif
