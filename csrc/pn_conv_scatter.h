/* pn_conv_scatter.h: by data where dx has few channels, as that of a first layer.
 *
 *     for each row of dy     t[q, (a, b, i)] = Σ_o dy[q, o] W[o, (a, b, i)]      gather tiles: W as it is
 *                            dx[p sh - ph + a dh, q sw - pw + b dw, i] += t[q, (a, b, i)]
 *
 * Channels of dx alone would fill a small part of a vector. A chunk is a block of rows of dx; it runs through all
 * rows of dy that reach it, in order. Pixels that write to the same places follow each other at a distance, as
 * reading what was just written would wait.
 */
#ifndef PN_CONV_SCATTER_H
#define PN_CONV_SCATTER_H

#include "pn_conv_direct.h"

#define SCATTER_ROWS 48        /* of dx in a chunk, at least; many, as rows of dy at its edges are run through twice */
#define SCATTER_MACS (1 << 20) /* fewer are not worth it */

typedef struct scatter {
    geometry g;
    const T *dy, *w, *bias;
    T *dx;
    int64_t n, p, q, o, h, wide, i, kh, kw; /* dy: [n, p, q, o], dx: [n, h, wide, i] */
    int64_t cols, room;                     /* kh kw i, and that rounded up */
    int64_t rows, n_block, w_bytes, worker_bytes;
    char *scratch; /* [packed W | t of each worker] */
} scatter;

static scatter scatter_of(const geometry *g, const pn_array *dy, const pn_array *w,
                          const pn_array *dx) {
    scatter s = {.g = *g, .dy = dy->data, .w = w->data, .dx = dx->data,
                 .n = dy->shape[0], .p = dy->shape[2], .q = dy->shape[3], .o = dy->shape[1],
                 .h = dx->shape[2], .wide = dx->shape[3], .i = dx->shape[1],
                 .kh = w->shape[2], .kw = w->shape[3]};
    s.cols = s.kh * s.kw * s.i, s.room = round_up(s.cols, PN_VL);
    s.n_block = pn_max(1, pn_min(s.h / pn_max(SCATTER_ROWS, 4 * s.kh * g->dil[0]),
                                 pn_ceil_div(16, pn_max(1, s.n))));
    s.rows = pn_ceil_div(s.h, s.n_block), s.n_block = pn_ceil_div(s.h, pn_max(1, s.rows));
    s.w_bytes = bytes_of(s.room * s.o);
    s.worker_bytes = bytes_of(s.q * s.room);
    return s;
}

static int suits_scatter(const scatter *s) {
    return s->g.groups == 1 && 4 * s->i <= PN_VL && s->kh * s->kw > 1 &&
           s->n * s->p * s->q * s->o * s->cols >= SCATTER_MACS;
}

static int64_t scatter_scratch(const scatter *s) {
    return s->w_bytes + s->worker_bytes * pn_max_workers();
}

/* t of one row of dy */
static void scatter_products(const scatter *s, const T *dy, T *t) {
    const T *row[MR];
    T *dst[MR];
    parts tiles = cut(s->q, MR);
    reads r = {1, 0, 1, 0, s->o};
    for (int64_t k = 0, q = 0, mr; k < tiles.n; k++, q += mr) {
        mr = tiles.size + (k < tiles.longer);
        for (int64_t e = 0; e < mr; e++) row[e] = dy + (q + e) * s->o, dst[e] = t + (q + e) * s->room;
        for (int64_t c = 0; c < s->room; c += NR) {
            target to = {dst, c, pn_min(NR, s->room - c), NULL, 0};
            gathers[mr - 1][(to.nr - 1) / PN_VL](row, 0, &r, (const T *)s->scratch + c * s->o, &to);
        }
    }
}

static inline void add_to(T *to, const T *x, int64_t n) {
    for (int64_t e = 0; e < n; e += PN_VL)
        pn_store_part(to + e, pn_load_part(to + e, n - e, 0) + pn_load_part(x + e, n - e, 0), n - e);
}

/* A row of taps of all pixels in t to a row of dx */
static void scatter_row(const scatter *s, const T *t, T *dx) {
    int64_t sw = s->g.stride[1], dw = s->g.dil[1], run = dw == 1 ? s->kw : 1;
    int64_t apart = pn_ceil_div((s->kw - 1) * dw + 1, sw);
    for (int64_t first = 0; first < apart; first++)
        for (int64_t q = first; q < s->q; q += apart)
            for (int64_t b = 0; b < s->kw; b += run) {
                int64_t at = q * sw - s->g.pad[1] + b * dw, lo = pn_max(0, -at),
                        hi = pn_min(run, s->wide - at);
                if (lo < hi)
                    add_to(dx + (at + lo) * s->i, t + q * s->room + (b + lo) * s->i, (hi - lo) * s->i);
            }
}

static void scatter_body(pn_call *call, void *arg, int64_t chunk, int worker) {
    const scatter *s = arg;
    int64_t n = chunk / s->n_block, h0 = chunk % s->n_block * s->rows,
            h1 = pn_min(s->h, h0 + s->rows), sh = s->g.stride[0], ph = s->g.pad[0];
    T *dx = s->dx + n * s->h * s->wide * s->i, *t = (T *)(s->scratch + s->w_bytes + worker * s->worker_bytes);
    int64_t reach = (s->kh - 1) * s->g.dil[0];
    int64_t p0 = pn_max(0, h0 + ph - reach) / sh, p1 = pn_min(s->p, (h1 - 1 + ph) / sh + 1);
    (void)call;
    for (int64_t e = h0 * s->wide * s->i; e < h1 * s->wide * s->i; e++)
        dx[e] = s->bias ? s->bias[e % s->i] : 0;
    for (int64_t p = p0; p < p1; p++) {
        scatter_products(s, s->dy + (n * s->p + p) * s->q * s->o, t);
        for (int64_t a = 0; a < s->kh; a++) {
            int64_t h = p * sh - ph + a * s->g.dil[0];
            if (h >= h0 && h < h1)
                scatter_row(s, t + a * s->kw * s->i, dx + h * s->wide * s->i);
        }
    }
}

static void run_scatter(pn_call *call, scatter *s, const T *bias, void *scratch) {
    T *to = scratch;
    s->bias = bias, s->scratch = scratch;
    for (int64_t c = 0; c < s->room; c += NR) { /* panels of W's columns */
        int64_t wide = pn_min(NR, s->room - c), n = pn_min(wide, s->cols - c);
        for (int64_t o = 0; o < s->o; o++, to += wide) {
            memcpy(to, s->w + o * s->cols + c, (size_t)n * sizeof(T));
            memset(to + n, 0, (size_t)(wide - n) * sizeof(T));
        }
    }
    pn_for(call, s->n * s->n_block, scatter_body, s);
}

#endif
