/* resize2d.c: images resized or padded: y[n, p, q, c] from channels-last x[n, h, w, c], and the adjoint.
 *
 *   y[p, q] = Σ a[p, h] b[q, w] x[h, w], a and b with one or two terms a row: each output takes from
 *   nearest        floor(p r)
 *   bilinear       the neighbours of s = max(0, (p + 1/2) r - 1/2), or s = p r where corners are aligned,
 *                  by 1 - (s - floor(s)) and s - floor(s)
 *   pads           p - r, mirrored without the edge (reflect), the edge (replicate) or the other side
 *                  (circular) outside of the image; a negative r crops
 *   resize_spread2d  dx[h, w] = Σ a[p, h] b[q, w] dy[p, q]
 *
 * The adjoint adds whole rows of y one after the other into an item's image, a strip of channels at a
 * time: the order of terms depends on sizes only, and no two chunks share an element.
 */
#include <string.h>

#include "pn_rows.h"

#if PN_FLOAT

#define STRIP 64 /* channels of an item that a chunk of the adjoint takes */
#define WORK 16384

enum { NEAREST, BILINEAR, ALIGNED, REFLECT, REPLICATE, CIRCULAR };

typedef struct taps { /* y = (1 - t) x[lo] + t x[hi] */
    int64_t lo, hi;
    T t;
} taps;

typedef struct resize {
    const T *x;
    T *y;
    int64_t items, channels, h, w, oh, ow, per,
        strips; /* h, w: the image; oh, ow: what is made of it */
    int mode;
    double rh, rw;
} resize;

static taps taps_of(int mode, int64_t i, int64_t n, double r) {
    if (mode == BILINEAR || mode == ALIGNED) {
        double s = mode == ALIGNED ? (double)i * r : ((double)i + 0.5) * r - 0.5;
        s = s < 0 ? 0 : s;
        int64_t lo = pn_min(n - 1, (int64_t)s);
        return (taps){lo, pn_min(n - 1, lo + 1), (T)(s - (double)lo)};
    }
    int64_t at = mode == NEAREST ? pn_min(n - 1, (int64_t)((double)i * r)) : i - (int64_t)r;
    if (mode == REFLECT && at < 0) at = -at;
    if (mode == REFLECT && at >= n) at = 2 * (n - 1) - at;
    if (mode == REPLICATE) at = pn_max((int64_t)0, pn_min(n - 1, at));
    if (mode == CIRCULAR) at = at < 0 ? at + n : at >= n ? at - n : at;
    return (taps){at, at, 0};
}

static void blend(T *y, const T *a, const T *b, const T *d, const T *e, T across, T down,
                  int64_t n) {
    V t = pn_set1(across), u = pn_set1(down);
    PN_ROW(
        n, V above = LOAD(a, 0); V under = LOAD(d, 0); above = pn_fma(LOAD(b, 0) - above, t, above);
        under = pn_fma(LOAD(e, 0) - under, t, under); STORE(y, pn_fma(under - above, u, above)););
}

static void resize_chunk(pn_call *c, void *arg, int64_t chunk, int worker) {
    const resize *z = arg;
    const int64_t C = z->channels, last = pn_min(z->items * z->oh, (chunk + 1) * z->per);
    const size_t bytes = (size_t)C * sizeof(T);
    (void)c, (void)worker;
    for (int64_t line = chunk * z->per; line < last; line++) {
        const taps v = taps_of(z->mode, line % z->oh, z->h, z->rh);
        const T *upper = z->x + (line / z->oh * z->h + v.lo) * z->w * C;
        const T *lower = upper + (v.hi - v.lo) * z->w * C;
        T *y = z->y + line * z->ow * C;
        for (int64_t q = 0; q < z->ow; q++, y += C) {
            const taps u = taps_of(z->mode, q, z->w, z->rw);
            if (z->mode == BILINEAR || z->mode == ALIGNED)
                blend(y, upper + u.lo * C, upper + u.hi * C, lower + u.lo * C, lower + u.hi * C,
                      u.t, v.t, C);
            else
                memcpy(y, upper + u.lo * C, bytes);
        }
    }
}

static void add_scaled(T *y, const T *dy, T by, int64_t n) {
    V share = pn_set1(by);
    PN_ROW(n, STORE(y, pn_fma(LOAD(dy, 0), share, LOAD(y, 0))););
}

static void spread_chunk(pn_call *c, void *arg, int64_t chunk, int worker) {
    const resize *z = arg;
    const int64_t C = z->channels, item = chunk / z->strips, first = chunk % z->strips * STRIP;
    const int64_t n = pn_min(STRIP, C - first), blends = z->mode == BILINEAR || z->mode == ALIGNED;
    T *image = z->y + item * z->h * z->w * C + first;
    const T *dy = z->x + item * z->oh * z->ow * C + first;
    (void)c, (void)worker;
    for (int64_t i = 0; i < z->h * z->w; i++) memset(image + i * C, 0, (size_t)n * sizeof(T));
    for (int64_t p = 0; p < z->oh; p++) {
        const taps v = taps_of(z->mode, p, z->h, z->rh);
        T *upper = image + v.lo * z->w * C, *lower = upper + (v.hi - v.lo) * z->w * C;
        for (int64_t q = 0; q < z->ow; q++, dy += C) {
            const taps u = taps_of(z->mode, q, z->w, z->rw);
            add_scaled(upper + u.lo * C, dy, (1 - v.t) * (1 - u.t), n);
            if (!blends) continue;
            add_scaled(upper + u.hi * C, dy, (1 - v.t) * u.t, n);
            add_scaled(lower + u.lo * C, dy, v.t * (1 - u.t), n);
            add_scaled(lower + u.hi * C, dy, v.t * u.t, n);
        }
    }
}

static resize resize_of(const pn_array *image, const pn_array *made) {
    return (resize){.items = image->shape[0],
                    .channels = image->shape[1],
                    .h = image->shape[2],
                    .w = image->shape[3],
                    .oh = made->shape[2],
                    .ow = made->shape[3]};
}

PN_FN(resize2d_fwd) {
    const pn_array *x = ARG(resize2d_fwd, x), *y = ARG(resize2d_fwd, y);
    resize z = resize_of(x, y);
    z.x = x->data, z.y = y->data, z.mode = (int)PAR(resize2d_fwd, mode).i;
    z.rh = PAR(resize2d_fwd, rh).f, z.rw = PAR(resize2d_fwd, rw).f;
    z.per = pn_max(1, pn_grain(WORK) / pn_max(1, z.ow * z.channels));
    pn_for(c, pn_ceil_div(z.items * z.oh, z.per), resize_chunk, &z);
}

PN_FN(resize_spread2d_fwd) {
    const pn_array *dy = ARG(resize_spread2d_fwd, dy), *dx = ARG(resize_spread2d_fwd, dx);
    resize z = resize_of(dx, dy);
    z.x = dy->data, z.y = dx->data, z.mode = (int)PAR(resize_spread2d_fwd, mode).i;
    z.rh = PAR(resize_spread2d_fwd, rh).f, z.rw = PAR(resize_spread2d_fwd, rw).f;
    z.strips = pn_ceil_div(z.channels, STRIP);
    pn_for(c, z.items * z.strips, spread_chunk, &z);
}

#endif
