/* augment.c: images moved, cut out and recoloured: y[n, p, q, c] from x[n, h, w, c], uint8 or T.
 *
 *   y[p, q] = scale x(sx, sy),  sx = a0 q + a1 p + a2,  sy = a3 q + a4 p + a5,  a = place[n]
 *   x between pixels is bilinear, and 0 outside of the image
 *   y[c] = Σ_k colour[n, c, k] y[k] + colour[n, c, C], where colour is given
 *   y = 0 in rows [hole[0], hole[1]), columns [hole[2], hole[3]), where hole is given
 *
 * A neighbour of weight 0 is not looked at, so that shifts and flips by whole pixels are exact.
 */
#include <math.h>

#include "pn_kernel.h"

#if PN_FLOAT

#define WORK 8192
#define CHANNELS 64 /* that are recoloured through a buffer */

typedef struct images {
    const void *x;
    const T *place, *colour;
    const int64_t *hole;
    T *y, scale;
    int64_t n, h, w, c, p, q, per;
    int bytes;
} images;

static inline T value(const images *a, int64_t at) {
    return (a->bytes ? (T)((const uint8_t *)a->x)[at] : ((const T *)a->x)[at]) * a->scale;
}

/* y[c] += share x at (row, col) of the item, if that lies within the image */
static inline void add_pixel(const images *a, int64_t item, int64_t row, int64_t col, T share,
                             T *y) {
    if (row < 0 || row >= a->h || col < 0 || col >= a->w || share == 0) return;
    int64_t at = ((item * a->h + row) * a->w + col) * a->c;
    for (int64_t k = 0; k < a->c; k++) y[k] += share * value(a, at + k);
}

/* The source's coordinate as a place within the image's surroundings: what is far outside stays outside */
static inline double within(double s, int64_t n) {
    return s > -2 && s < (double)n + 1 ? s : -2; /* NaN too */
}

static void recolour(const images *a, const T *m, T *y) {
    T from[CHANNELS];
    for (int64_t k = 0; k < a->c; k++) from[k] = y[k];
    for (int64_t k = 0; k < a->c; k++, m += a->c + 1) {
        T sum = m[a->c];
        for (int64_t j = 0; j < a->c; j++) sum += m[j] * from[j];
        y[k] = sum;
    }
}

static void image_row(const images *a, int64_t item, int64_t p) {
    const T *t = a->place + 6 * item;
    const int64_t *hole = a->hole ? a->hole + 4 * item : NULL;
    T *y = a->y + (item * a->p + p) * a->q * a->c;
    const int in_hole = hole && p >= hole[0] && p < hole[1];
    for (int64_t q = 0; q < a->q; q++, y += a->c) {
        for (int64_t k = 0; k < a->c; k++) y[k] = 0;
        if (in_hole && q >= hole[2] && q < hole[3]) continue;
        double sx = (double)t[0] * (double)q + (double)t[1] * (double)p + (double)t[2];
        double sy = (double)t[3] * (double)q + (double)t[4] * (double)p + (double)t[5];
        sx = within(sx, a->w), sy = within(sy, a->h);
        int64_t col = (int64_t)floor(sx), row = (int64_t)floor(sy);
        T u = (T)(sx - (double)col), v = (T)(sy - (double)row);
        add_pixel(a, item, row, col, (1 - v) * (1 - u), y);
        add_pixel(a, item, row, col + 1, (1 - v) * u, y);
        add_pixel(a, item, row + 1, col, v * (1 - u), y);
        add_pixel(a, item, row + 1, col + 1, v * u, y);
        if (a->colour) recolour(a, a->colour + item * a->c * (a->c + 1), y);
    }
}

static void augment_chunk(pn_call *c, void *arg, int64_t chunk, int worker) {
    const images *a = arg;
    (void)c, (void)worker;
    for (int64_t r = chunk * a->per; r < pn_min(a->n * a->p, (chunk + 1) * a->per); r++)
        image_row(a, r / a->p, r % a->p);
}

PN_FN(augment_fwd) {
    const pn_array *x = ARG(augment_fwd, x), *y = ARG(augment_fwd, y);
    const pn_array *hole = ARG(augment_fwd, hole);
    images a = {.x = x->data, .place = ARG(augment_fwd, place)->data, .y = y->data};
    a.colour = ARG(augment_fwd, colour)->data, a.hole = hole->data;
    a.scale = (T)PAR(augment_fwd, scale).f, a.bytes = x->dtype == PN_U8;
    if (x->dtype != PN_U8 && x->dtype != PN_DTYPE) {
        pn_fail(c, PN_E_VALUE, PNA_augment_fwd_x, 0, x->dtype);
        return;
    }
    a.n = x->shape[0], a.h = x->shape[1], a.w = x->shape[2], a.c = x->shape[3];
    a.p = y->shape[1], a.q = y->shape[2];
    a.per = pn_max(1, pn_grain(WORK) / pn_max(1, a.q * a.c));
    pn_for(c, pn_ceil_div(a.n * a.p, a.per), augment_chunk, &a);
}

#endif
