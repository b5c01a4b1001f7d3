/* pn_conv_tile.h: the tiles of sums that the registers hold.
 *
 *   gather   y[p, o] = Σ_k x_p[k] w[k, o] + bias[o]     mr pixels by nv vectors of output channels
 *   outer    c[i, o] (+)= Σ_p x[p, i] d[p, o]           mr inputs' channels by nv vectors of output channels
 *
 * gather finds each pixel by a pointer of its own, so that a tile may go over the ends of rows and images; k
 * runs over rows of taps, taps and channels, in one chain of fused multiply-adds whatever the tile is. w is
 * packed: NR (or PN_VL, in a last narrow panel) outputs for each k. Each element of x is broadcast.
 */
#ifndef PN_CONV_TILE_H
#define PN_CONV_TILE_H

#include "pn_conv.h"

#define ALL(i, n) _Pragma("GCC unroll 16") for (int i = 0; i < n; i++)
#define TILE ALL(i, mr) ALL(v, nv)
#define OPAQUE(x) __asm__ volatile("" : "+r"(x)) /* not to be computed ahead of the loop */

/* x[i][j] and x[j][i] change places. */
PN_INLINE void transpose(V x[PN_VL]) {
    PN_UNROLL
    for (int s = PN_VL / 2; s > 0; s /= 2) {
        PN_UNROLL
        for (int i = 0; i < PN_VL; i++) {
            if (i & s) continue;
            V a = x[i], b = x[i + s];
#ifdef __clang__
            for (int l = 0; l < PN_VL; l++) {
                x[i][l] = l & s ? b[l - s] : a[l];
                x[i + s][l] = l & s ? b[l] : a[l + s];
            }
#else
            const VI up = ((PN_LANES & s) != 0) & (PN_VL - s);
            x[i] = __builtin_shuffle(a, b, PN_LANES + up);
            x[i + s] = __builtin_shuffle(a, b, PN_LANES + s + up);
#endif
        }
    }
}

/* to[j, i] = x[i, j] for i < m, j < n; rows are ts and xs apart. */
static void flip(T *to, int64_t ts, const T *x, int64_t xs, int64_t m, int64_t n) {
    for (int64_t i = 0; i < m; i += PN_VL)
        for (int64_t j = 0; j < n; j += PN_VL) {
            if (i + PN_VL <= m && j + PN_VL <= n) {
                V v[PN_VL];
                ALL(k, PN_VL) v[k] = pn_load(x + (i + k) * xs + j);
                transpose(v);
                ALL(k, PN_VL) pn_store(to + (j + k) * ts + i, v[k]);
                continue;
            }
            for (int64_t q = j; q < pn_min(n, j + PN_VL); q++)
                for (int64_t p = i; p < pn_min(m, i + PN_VL); p++) to[q * ts + p] = x[p * xs + q];
        }
}

/* What will be read next, fetched into L2 by and by: `step` bytes a time. */
typedef struct ahead {
    const char *at, *end;
    int64_t step;
} ahead;
static inline void fetch(ahead *f) {
    const char *to = f->at + f->step;
    if (to > f->end) to = f->end;
    for (; f->at < to; f->at += 64) __builtin_prefetch(f->at, 0, 2);
}
/* The next step's bytes, for a tile to fetch. */
static inline void take(ahead *f, const char **at, const char **end) {
    *at = f->at;
    f->at = f->end - f->at < f->step ? f->end : f->at + f->step;
    *end = f->at;
}
static inline ahead fetching(const T *from, int64_t n, int64_t times) {
    int64_t bytes = n * (int64_t)sizeof(T);
    return (ahead){(const char *)from, (const char *)from + bytes,
                   round_up(pn_ceil_div(bytes, pn_max(1, times)), 64)};
}

/* Where the k of a pixel lie, from its pointer: row of taps, tap in the row, then `run` in a row. */
typedef struct reads {
    int64_t rows, row_step, taps, tap_step, run;
} reads;

/* What becomes of the sums: nr channels from dst[pixel] + to on. */
typedef struct target {
    T *const *dst;
    int64_t to, nr;
    const T *bias; /* the first of nr, or NULL */
    const T *y, *residual; /* y: where residual's elements are added; or NULL */
    int relu, add; /* add: to what is there; nr is whole vectors then */
    const char *at, *end; /* of gather: what it fetches to L2 on its way */
} target;

typedef void (*gather_fn)(const T *const *row, int64_t at, const reads *r, const T *w,
                          const target *t);

PN_INLINE void gather_steps(const int steps, const int mr, const int nv, V sum[MR][NV],
                            const T *const *row, int64_t k, const T *w) {
    ALL(q, steps) {
        V y[NV];
        ALL(v, nv) y[v] = pn_load(w + (q * nv + v) * PN_VL);
        ALL(i, mr) {
            V x = pn_set1(row[i][k + q]);
            ALL(v, nv) pn_fma_to(&sum[i][v], x, y[v]);
        }
    }
}

PN_INLINE void gather(const int mr, const int nv, const T *const *row, int64_t at, const reads *r,
                      const T *w, const target *t) {
    V sum[MR][NV];
    TILE sum[i][v] = (V){0};
    const char *next = t->at, *stop = t->end;
    for (int64_t a = 0; a < r->rows; a++)
        for (int64_t b = 0; b < r->taps; b++) {
            int64_t k = at + a * r->row_step + b * r->tap_step, end = k + r->run;
            for (; k + 4 <= end && next < stop; k += 4, w += 4 * nv * PN_VL, next += 128) {
                __builtin_prefetch(next, 0, 2);
                __builtin_prefetch(next + 64, 0, 2);
                gather_steps(4, mr, nv, sum, row, k, w);
            }
            for (; k + 4 <= end; k += 4, w += 4 * nv * PN_VL)
                gather_steps(4, mr, nv, sum, row, k, w);
            for (; k < end; k++, w += nv * PN_VL) gather_steps(1, mr, nv, sum, row, k, w);
        }
    if (t->add) TILE sum[i][v] += pn_load(t->dst[i] + t->to + v * PN_VL);
    if (t->bias) ALL(v, nv) {
            V b = pn_load_part(t->bias + v * PN_VL, t->nr - v * PN_VL, 0);
            ALL(i, mr) sum[i][v] += b;
        }
    if (t->residual) TILE {
            const T *from = t->residual + (t->dst[i] - t->y) + t->to + v * PN_VL;
            sum[i][v] += pn_load_part(from, t->nr - v * PN_VL, 0);
        }
    if (t->relu) TILE sum[i][v] = pn_select(sum[i][v] <= (V){0}, (V){0}, sum[i][v]);
    if (t->nr == nv * PN_VL)
        TILE pn_store(t->dst[i] + t->to + v * PN_VL, sum[i][v]);
    else
        TILE pn_store_part(t->dst[i] + t->to + v * PN_VL, sum[i][v], t->nr - v * PN_VL);
}

/* Pixels of outer: [n, rows, cols] with their steps in x and in d. */
typedef struct pixels {
    int64_t n, rows, cols, xn, xr, xc, dn, dr, dc;
} pixels;

typedef void (*outer_fn)(const T *x, const T *d, const pixels *p, T *c, int accumulate);

PN_INLINE void outer(const int mr, const int nv, const T *x0, const T *d0, const pixels *p, T *c,
                     int accumulate) {
    V sum[MR][NV];
    TILE sum[i][v] = (V){0};
    for (int64_t n = 0; n < p->n; n++)
        for (int64_t r = 0; r < p->rows; r++) {
            const T *x = x0 + n * p->xn + r * p->xr, *d = d0 + n * p->dn + r * p->dr;
            for (int64_t q = 0; q < p->cols; q++, x += p->xc, d += p->dc) {
                V y[NV];
                ALL(v, nv) y[v] = pn_load(d + v * PN_VL);
                ALL(i, mr) {
                    V e = pn_set1(x[i]);
                    ALL(v, nv) pn_fma_to(&sum[i][v], e, y[v]);
                }
            }
        }
    if (accumulate) TILE sum[i][v] += pn_load(c + (i * nv + v) * PN_VL);
    TILE pn_store(c + (i * nv + v) * PN_VL, sum[i][v]);
}

#define FORMS(mr, nv)                                                                              \
    static void gather_##mr##_##nv(const T *const *row, int64_t at, const reads *r, const T *w,    \
                                   const target *t) {                                              \
        gather(mr, nv, row, at, r, w, t);                                                          \
    }                                                                                              \
    static void outer_##mr##_##nv(const T *x, const T *d, const pixels *p, T *c, int accumulate) { \
        outer(mr, nv, x, d, p, c, accumulate);                                                     \
    }
#define KINDS(mr)                                                                                  \
    FORMS(mr, 1)                                                                                   \
    FORMS(mr, 2)
HEIGHTS(KINDS)
#define GATHERS(mr) {gather_##mr##_1, gather_##mr##_2},
#define OUTERS(mr) {outer_##mr##_1, outer_##mr##_2},
static const gather_fn gathers[MR][NV] = {HEIGHTS(GATHERS)};
static const outer_fn outers[MR][NV] = {HEIGHTS(OUTERS)};

#endif
