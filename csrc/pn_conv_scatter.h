/* pn_conv_scatter.h: by data where dx has few channels, or few in a group, as that of a first layer.
 *
 *     for each row p of dy     dx[p sh - ph + a dh, q sw - pw + b dw, i] += Σ_o W[o, a, b, i] dy[p, q, o]
 *
 * by gather tiles whose rows are (a, i), for one b, and whose vectors run along q: dy's rows are
 * transposed before. While it is at work a row of dx lies in planes by channel and by remainder of the column
 * by sw, so that a tile adds to places side by side. A chunk is a block of rows of dx; it runs through all
 * rows of dy that reach it, in order. Channels of dx alone would fill a small part of a vector. Groups follow
 * one another.
 */
#ifndef PN_CONV_SCATTER_H
#define PN_CONV_SCATTER_H

#include "pn_conv_direct.h"

#define SCATTER_ROWS 48 /* of dx in a chunk, at least: rows of dy at its edges are read twice */
#define SCATTER_MACS (1 << 20) /* fewer are not worth it */

typedef struct scatter {
    geometry g;
    const T *dy, *w, *bias;
    T *dx;
    int64_t n, p, q, o, h, wide, i, kh, kw; /* of a group: dy: [n, p, q, o], dx: [n, h, wide, i] */
    int64_t o_all, i_all; /* of all groups */
    int64_t room, left; /* of a plane's row; where column 0 is in it */
    int64_t rows, n_block, w_bytes, dy_bytes, worker_bytes;
    char *scratch; /* [W as (b, a, i), o | for each worker: planes, dy's row transposed] */
} scatter;

static scatter scatter_of(const geometry *g, const pn_array *dy, const pn_array *w,
                          const pn_array *dx) {
    scatter s = {.g = *g,
                 .dy = dy->data,
                 .w = w->data,
                 .dx = dx->data,
                 .n = dy->shape[0],
                 .p = dy->shape[2],
                 .q = dy->shape[3],
                 .o = dy->shape[1] / g->groups,
                 .h = dx->shape[2],
                 .wide = dx->shape[3],
                 .i = dx->shape[1] / g->groups,
                 .o_all = dy->shape[1],
                 .i_all = dx->shape[1],
                 .kh = w->shape[2],
                 .kw = w->shape[3]};
    int64_t sw = g->stride[1];
    s.left = pn_ceil_div(g->pad[1], sw);
    s.room = s.left + round_up(s.q, PN_VL) + ((s.kw - 1) * g->dil[1]) / sw + 1;
    s.room = pn_max(s.room, s.left + pn_ceil_div(s.wide, sw));
    s.n_block = pn_max(1, pn_min(s.h / pn_max(SCATTER_ROWS, 4 * s.kh * g->dil[0]),
                                 pn_ceil_div(16, pn_max(1, s.n))));
    s.rows = pn_ceil_div(s.h, s.n_block), s.n_block = pn_ceil_div(s.h, pn_max(1, s.rows));
    s.w_bytes = bytes_of(s.kh * s.kw * s.i * s.o);
    s.dy_bytes = bytes_of(round_up(s.q, PN_VL) * s.o);
    s.worker_bytes = bytes_of(s.rows * s.i * sw * s.room) + s.dy_bytes;
    return s;
}

static int suits_scatter(const scatter *s) {
    return (s->g.groups == 1 || s->o > 1) && 4 * s->i <= PN_VL && s->kh * s->kw > 1 &&
           s->kh <= 16 && s->n * s->p * s->q * s->o_all * s->kh * s->kw * s->i >= SCATTER_MACS;
}

static int64_t scatter_scratch(const scatter *s) {
    return s->w_bytes + s->worker_bytes * pn_max_workers();
}

/* A row of dy in panels [o, NR of q]; what is beyond q counts as 0. */
static void turn_row(const scatter *s, const T *dy, T *to) {
    for (int64_t q = 0; q < s->q; q += NR) {
        int64_t n = pn_min(NR, s->q - q), wide = panel_width(n);
        if (n < wide) memset(to, 0, (size_t)(s->o * wide) * sizeof(T));
        flip(to, wide, dy + q * s->o_all, s->o_all, n, s->o);
        to += s->o * wide;
    }
}

/* One row of dy to the n rows (a, i) of planes that it reaches */
static void scatter_row(const scatter *s, const T *turned, const int64_t *wrow, T *const *plane,
                        int64_t n) {
    const T *row[MR];
    T *dst[MR];
    parts tiles = cut(n, MR);
    reads r = {1, 0, 1, 0, s->o};
    for (int64_t b = 0; b < s->kw; b++) {
        int64_t sw = s->g.stride[1], at = b * s->g.dil[1] - s->g.pad[1] + s->left * sw;
        int64_t shift = at % sw * s->room + at / sw;
        for (int64_t k = 0, e = 0, mr; k < tiles.n; k++, e += mr) {
            mr = tiles.size + (k < tiles.longer);
            for (int64_t f = 0; f < mr; f++) {
                row[f] = (const T *)s->scratch + (b * s->kh * s->i + wrow[e + f]) * s->o;
                dst[f] = plane[e + f] + shift;
            }
            for (int64_t q = 0; q < s->q; q += NR) {
                target to = {.dst = dst, .to = q, .nr = panel_width(s->q - q), .add = 1};
                gathers[mr - 1][to.nr / PN_VL - 1](row, 0, &r, turned + q * s->o, &to);
            }
        }
    }
}

static void scatter_body(pn_call *call, void *arg, int64_t chunk, int worker) {
    enum { ROWS = 16 * PN_VL / 4 }; /* kh i, at most */
    const scatter *s = arg;
    int64_t n = chunk / s->n_block, h0 = chunk % s->n_block * s->rows, wrow[ROWS];
    int64_t h1 = pn_min(s->h, h0 + s->rows), sh = s->g.stride[0], ph = s->g.pad[0],
            dh = s->g.dil[0];
    int64_t p0 = pn_max(0, h0 + ph - (s->kh - 1) * dh) / sh,
            p1 = pn_min(s->p, (h1 - 1 + ph) / sh + 1);
    int64_t sw = s->g.stride[1], step = sw * s->room;
    T *turned = (T *)(s->scratch + s->w_bytes + worker * s->worker_bytes), *plane[ROWS];
    T *planes = (T *)((char *)turned + s->dy_bytes);
    (void)call;
    memset(planes, 0, (size_t)((h1 - h0) * s->i * step) * sizeof(T));
    for (int64_t p = p0; p < p1; p++) {
        int64_t rows = 0;
        for (int64_t a = 0; a < s->kh; a++) {
            int64_t h = p * sh - ph + a * dh;
            for (int64_t i = 0; i < s->i && h >= h0 && h < h1; i++, rows++) {
                wrow[rows] = a * s->i + i;
                plane[rows] = planes + ((h - h0) * s->i + i) * step;
            }
        }
        turn_row(s, s->dy + (n * s->p + p) * s->q * s->o_all, turned);
        scatter_row(s, turned, wrow, plane, rows);
    }
    for (int64_t h = h0; h < h1; h++)
        for (int64_t i = 0; i < s->i; i++) {
            const T *x = planes + ((h - h0) * s->i + i) * step + s->left,
                    b = s->bias ? s->bias[i] : 0;
            T *dx = s->dx + (n * s->h + h) * s->wide * s->i_all + i;
            for (int64_t f = 0; f < sw; f++)
                for (int64_t v = f, k = 0; v < s->wide; v += sw, k++)
                    dx[v * s->i_all] = x[f * s->room + k] + b;
        }
}

static void run_scatter(pn_call *call, scatter *s, const T *bias, void *scratch) {
    s->bias = bias, s->scratch = scratch;
    for (int64_t k = 0; k < s->g.groups; k++) {
        T *to = scratch;
        for (int64_t b = 0; b < s->kw; b++)
            for (int64_t a = 0; a < s->kh; a++, to += s->i * s->o)
                flip(to, s->o, s->w + (a * s->kw + b) * s->i, s->kh * s->kw * s->i, s->o, s->i);
        pn_for(call, s->n * s->n_block, scatter_body, s);
        s->dy += s->o, s->dx += s->i, s->w += s->o * s->kh * s->kw * s->i;
        if (bias) s->bias += s->i;
    }
}

#endif
