/* pn_winograd.h: 3x3 convolution of stride 1 with fewer multiplications, in float32.
 *
 *   y tile (m x m) = Aᵀ [ Σ_i U_i ⊙ V_i ] A,    U = G w Gᵀ,  V = Bᵀ d B,  d an (m+2) x (m+2) patch of x
 *   dW = Gᵀ [ Σ_tiles V ⊙ (A dy Aᵀ) ] G         the adjoint in w
 *
 * for m = 4 (points 0, ±1, ±2, ∞: 36 products where 144 are due) and m = 2 (0, ±1, ∞: 16 for 36), where that
 * wastes less at the edges. Each of the (m+2)² places is a matrix product of its own,
 *
 *   forward, by data   M[tile, o] = Σ_i V[tile, i] U[i, o]     gather tiles, a group of tiles of y at a time
 *   by weights         D[i, o] += Σ_tile V[tile, i] E[tile, o]  outer tiles
 *
 * Rounding grows with the size of the transforms' numbers: the largest error on normal data is below 1e-4 of
 * the result's RMS, which the tests hold it to. A NaN spreads over its tile. Source: Lavin and Gray,
 * arXiv 1509.09308.
 */
#ifndef PN_WINOGRAD_H
#define PN_WINOGRAD_H

#include "pn_conv_weight.h"

#define MOST 6    /* places along one direction */
#define CHAIN 128 /* input channels of one chain of sums */

/* ---- transforms along one direction, s vectors apart ------------------------------------------------ */

typedef void (*line_fn)(const int m, V *to, const V *x, const int s);

PN_INLINE V times(double a, V x) { return pn_set1((T)a) * x; }
PN_INLINE V plus(V y, double a, V x) { return pn_fma(pn_set1((T)a), x, y); }

PN_INLINE void line_bt(const int m, V *t, const V *d, const int s) { /* Bᵀ d */
    if (m == 2) {
        t[0] = d[0] - d[2 * s], t[s] = d[s] + d[2 * s], t[2 * s] = d[2 * s] - d[s];
        t[3 * s] = d[s] - d[3 * s];
        return;
    }
    V a = plus(d[4 * s], -4, d[2 * s]), b = plus(d[3 * s], -4, d[s]);
    V c = d[4 * s] - d[2 * s], e = times(2, d[3 * s] - d[s]);
    t[0] = plus(plus(d[4 * s], -5, d[2 * s]), 4, d[0]);
    V last = plus(plus(d[5 * s], -5, d[3 * s]), 4, d[s]);
    t[s] = a + b, t[2 * s] = a - b, t[3 * s] = c + e, t[4 * s] = c - e, t[5 * s] = last;
}

PN_INLINE void line_at(const int m, V *y, const V *x, const int s) { /* Aᵀ x */
    V a = x[s] + x[2 * s], b = x[s] - x[2 * s];
    if (m == 2) {
        y[0] = x[0] + a, y[s] = b - x[3 * s];
        return;
    }
    V c = x[3 * s] + x[4 * s], e = x[3 * s] - x[4 * s];
    y[0] = x[0] + a + c, y[s] = plus(b, 2, e), y[2 * s] = plus(a, 4, c);
    y[3 * s] = plus(b, 8, e) + x[5 * s];
}

PN_INLINE void line_a(const int m, V *e, const V *y, const int s) { /* A y */
    if (m == 2) {
        V a = y[0], b = y[s];
        e[0] = a, e[s] = a + b, e[2 * s] = a - b, e[3 * s] = -b;
        return;
    }
    V a = y[0] + y[2 * s], b = y[s] + y[3 * s], c = plus(y[0], 4, y[2 * s]),
      f = times(2, plus(y[s], 4, y[3 * s])), last = y[3 * s];
    e[0] = y[0], e[s] = a + b, e[2 * s] = a - b, e[3 * s] = c + f, e[4 * s] = c - f,
    e[5 * s] = last;
}

PN_INLINE void line_g(const int m, V *u, const V *g, const int s) { /* G g */
    V a = g[0] + g[2 * s], first = g[0], mid = g[s], last = g[2 * s];
    if (m == 2) {
        u[0] = first, u[s] = times(0.5, a + mid), u[2 * s] = times(0.5, a - mid), u[3 * s] = last;
        return;
    }
    V b = plus(times(1. / 6, last), 1. / 24, first), c = times(1. / 12, mid);
    u[0] = times(0.25, first), u[s] = times(-1. / 6, a + mid), u[2 * s] = times(-1. / 6, a - mid);
    u[3 * s] = b + c, u[4 * s] = b - c, u[5 * s] = last;
}

PN_INLINE void line_gt(const int m, V *g, const V *u, const int s) { /* Gᵀ u */
    V a = u[s] + u[2 * s], b = u[s] - u[2 * s];
    if (m == 2) {
        V last = plus(u[3 * s], 0.5, a);
        g[0] = plus(u[0], 0.5, a), g[s] = times(0.5, b), g[2 * s] = last;
        return;
    }
    V c = u[3 * s] + u[4 * s], e = u[3 * s] - u[4 * s], last = u[5 * s] + times(1. / 6, c - a);
    g[0] = plus(plus(times(0.25, u[0]), -1. / 6, a), 1. / 24, c);
    g[s] = plus(times(1. / 12, e), -1. / 6, b), g[2 * s] = last;
}

/* to = L x Lᵀ: x is n x n, to is k x k, both in rows of MOST. */
PN_INLINE void square(line_fn line, const int m, const int n, const int k, V *to, const V *x) {
    V half[MOST * MOST];
    for (int j = 0; j < n; j++) line(m, half + j, x + j, MOST);
    for (int i = 0; i < k; i++) line(m, to + i * MOST, half + i * MOST, 1);
}

/* ---- a convolution cut into tiles --------------------------------------------------------------------- */

typedef struct winograd {
    conv c;
    int m, places; /* of a tile; (m + 2)² */
    int64_t across, down, tiles; /* tiles in an image's rows and columns, in all */
    int64_t group, n_group; /* tiles at a time */
    int64_t ci, co, depth; /* channels rounded up; a panel's k */
    int64_t x_step, y_step, w_step; /* from one place to the next: V, M or E, U or D */
    int64_t most, o0, no; /* y's channels at work: at most, from, how many */
    int64_t first, at_work; /* tiles at work */
    int shared;
    T *dw;
    char *u, *v, *e; /* U, V and M, or D, V and E; unless shared, a worker has its own V and M */
    int64_t own; /* bytes of a worker */
} winograd;

/* Steps between places are odd multiples of a vector, lest all places fall into the same lines of a cache. */
static inline int64_t place_step(int64_t n) { return (round_up(n, PN_VL) / PN_VL | 1) * PN_VL; }

/* The corner of a tile in y; x's is at rows.x0, cols.x0 from it. */
static inline void corner(const winograd *w, int64_t tile, int64_t *n, int64_t *p, int64_t *q) {
    *q = tile % w->across * w->m, *p = tile / w->across % w->down * w->m;
    *n = tile / w->across / w->down;
}

/* An (size x size) patch of an image [h, wide, c] from (p, q) on, lanes from channel o; 0 outside. */
PN_INLINE void patch(V *to, const int size, const T *x, int64_t h, int64_t wide, int64_t c,
                     int64_t p, int64_t q, int64_t o) {
    if (p >= 0 && q >= 0 && p + size <= h && q + size <= wide && o + PN_VL <= c) {
        x += (p * wide + q) * c + o;
        for (int i = 0; i < size; i++)
            for (int j = 0; j < size; j++) to[i * MOST + j] = pn_load(x + (i * wide + j) * c);
        return;
    }
    for (int i = 0; i < size; i++)
        for (int j = 0; j < size; j++) {
            int in = p + i >= 0 && p + i < h && q + j >= 0 && q + j < wide;
            to[i * MOST + j] =
                in ? pn_load_part(x + ((p + i) * wide + q + j) * c + o, c - o, 0) : (V){0};
        }
}

PN_INLINE void spread(T *to, int64_t step, const int a, const V *x) {
    for (int i = 0; i < a; i++)
        for (int j = 0; j < a; j++) pn_store(to + (i * a + j) * step, x[i * MOST + j]);
}

/* L d Lᵀ of a size x size patch at (p, q) of an image [h, wide, c]: to[place, channel], step between places */
PN_INLINE void places_of(line_fn line, const int m, const int size, const T *x, int64_t h,
                         int64_t wide, int64_t c, int64_t p, int64_t q, T *to, int64_t step) {
    V d[MOST * MOST], t[MOST * MOST];
    for (int64_t i = 0; i < c; i += PN_VL) {
        patch(d, size, x, h, wide, c, p, q, i);
        square(line, m, size, m + 2, t, d);
        spread(to + i, step, m + 2, t);
    }
}

/* V of one tile */
PN_INLINE void tile_in(const winograd *w, const int m, int64_t tile, T *to) {
    const conv *c = &w->c;
    int64_t n, p, q;
    corner(w, tile, &n, &p, &q);
    places_of(line_bt, m, m + 2, c->x + n * c->hi * c->wi * c->ci, c->hi, c->wi, c->ci,
              p + c->rows.x0, q + c->cols.x0, to, w->x_step);
}

/* E of one tile of y */
PN_INLINE void tile_back(const winograd *w, const int m, int64_t tile, T *to) {
    const conv *c = &w->c;
    int64_t n, p, q;
    corner(w, tile, &n, &p, &q);
    places_of(line_a, m, m, c->y + n * c->ho * c->wo * c->co, c->ho, c->wo, c->co, p, q, to,
              w->y_step);
}

/* One tile of y's channels at work from from[place, o] */
PN_INLINE void tile_out(const winograd *w, const int m, int64_t tile, const T *from) {
    const conv *c = &w->c;
    int64_t n, p, q;
    V d[MOST * MOST], t[MOST * MOST];
    corner(w, tile, &n, &p, &q);
    int64_t rows = pn_min(m, c->ho - p), cols = pn_min(m, c->wo - q);
    T *y = c->y + ((n * c->ho + p) * c->wo + q) * c->co;
    for (int64_t k = 0, o; k < w->no; k += PN_VL) {
        o = w->o0 + k;
        for (int i = 0; i < m + 2; i++)
            for (int j = 0; j < m + 2; j++)
                d[i * MOST + j] = pn_load(from + (i * (m + 2) + j) * w->y_step + k);
        square(line_at, m, m + 2, m, t, d);
        V b = c->bias ? pn_load_part(c->bias + o, c->co - o, 0) : (V){0};
        for (int64_t i = 0; i < rows; i++)
            for (int64_t j = 0; j < cols; j++) {
                V v = t[i * MOST + j] + b;
                T *to = y + (i * c->wo + j) * c->co + o;
                if (c->residual) v += pn_load_part(c->residual + (to - c->y), c->co - o, 0);
                if (c->relu) v = pn_select(v <= (V){0}, (V){0}, v);
                pn_store_part(to, v, c->co - o);
            }
    }
}

#define TILES(name, tile_fn, type, step)                                                           \
    static void name(const winograd *w, int64_t tile, int64_t n, type *x) {                        \
        for (int64_t k = 0; k < n; k++, x += w->step)                                              \
            if (w->m == 4)                                                                         \
                tile_fn(w, 4, tile + k, x);                                                        \
            else                                                                                   \
                tile_fn(w, 2, tile + k, x);                                                        \
    }
TILES(tiles_in, tile_in, T, ci)
TILES(tiles_back, tile_back, T, co)
TILES(tiles_out, tile_out, const T, no)

/* ---- weights ------------------------------------------------------------------------------------------ */

#define FEW 16 /* input channels at a time */

PN_INLINE void weights_in(const winograd *w, const int m, const T *packed, int64_t n, int64_t wide,
                          T *to) {
    for (int64_t i = 0; i < n * wide; i += PN_VL) {
        V g[MOST * MOST], t[MOST * MOST];
        for (int k = 0; k < 9; k++) g[k / 3 * MOST + k % 3] = pn_load(packed + k * n * wide + i);
        square(line_g, m, 3, m + 2, t, g);
        spread(to + i, w->w_step, m + 2, t);
    }
}

/* U of FEW input channels of one panel at work */
static void weights_body(pn_call *call, void *arg, int64_t chunk, int worker) {
    const winograd *w = arg;
    int64_t few = pn_ceil_div(w->c.ci, FEW), o = w->o0 + chunk / few * NR, i = chunk % few * FEW;
    int64_t wide = panel_width(w->c.co - o);
    T packed[9 * FEW * NR] __attribute__((aligned(PN_ALIGN)));
    conv part = w->c;
    part.w += i * part.wi_, part.ki = pn_min(FEW, w->c.ci - i);
    for (int64_t t = 0; t < 3; t++) pack_taps(&part, 0, o, t, packed);
    T *to = (T *)w->u + (o - w->o0) * w->depth + i * wide;
    (void)call, (void)worker;
    if (w->m == 4)
        weights_in(w, 4, packed, part.ki, wide, to);
    else
        weights_in(w, 2, packed, part.ki, wide, to);
}

/* dW of FEW input channels of one panel at work */
PN_INLINE void weights_out(const winograd *w, const int m, int64_t o, int64_t i0) {
    const conv *c = &w->c;
    int64_t n = pn_min(FEW, c->ci - i0), wide = panel_width(c->co - o), nr = pn_min(NR, c->co - o);
    T g[9][FEW * NR] __attribute__((aligned(PN_ALIGN)));
    const T *from = (const T *)w->u + (o - w->o0) * w->depth + i0 * wide;
    for (int64_t i = 0; i < n * wide; i += PN_VL) {
        V d[MOST * MOST], t[MOST * MOST];
        for (int k = 0; k < (m + 2) * (m + 2); k++)
            d[k / (m + 2) * MOST + k % (m + 2)] = pn_load(from + k * w->w_step + i);
        square(line_gt, m, m + 2, 3, t, d);
        for (int k = 0; k < 9; k++) pn_store(g[k] + i, t[k / 3 * MOST + k % 3]);
    }
    for (int k = 0; k < 9; k++)
        flip(w->dw + o * c->wo_ + k / 3 * c->wa + k % 3 * c->wb + i0, c->wo_, g[k], wide, n, nr);
}

static void weights_out_body(pn_call *call, void *arg, int64_t chunk, int worker) {
    const winograd *w = arg;
    int64_t few = pn_ceil_div(w->c.ci, FEW), o = w->o0 + chunk / few * NR, i = chunk % few * FEW;
    (void)call, (void)worker;
    if (w->m == 4)
        weights_out(w, 4, o, i);
    else
        weights_out(w, 2, o, i);
}

/* ---- products of one place ---------------------------------------------------------------------------- */

/* M = V U for n tiles, channels o0 to o1 of those at work. An element is the sum of chains over blocks of k:
 * the transform back enlarges the rounding of long ones. */
static void place_product(const winograd *w, int64_t place, int64_t n, const T *v, T *to,
                          int64_t o0, int64_t o1, ahead *next) {
    const T *row[MR], *u = (const T *)w->u + place * w->w_step;
    T *dst[MR];
    parts rows = cut(n, MR), ks = cut(w->c.ci, CHAIN);
    for (int64_t o = o0; o < o1; o += NR) {
        target t = {.dst = dst, .to = o, .nr = pn_min(NR, w->no - o)};
        for (int64_t k = 0, i = 0, mr; k < rows.n; k++, i += mr) {
            mr = rows.size + (k < rows.longer);
            fetch(next);
            for (int64_t e = 0; e < mr; e++) {
                row[e] = v + place * w->x_step + (i + e) * w->ci;
                dst[e] = to + place * w->y_step + (i + e) * w->no;
            }
            for (int64_t b = 0; b < ks.n; b++) {
                int64_t k0 = part_start(ks, b);
                reads r = {1, 0, 1, 0, ks.size + (b < ks.longer)};
                t.add = b > 0;
                gathers[mr - 1][(t.nr - 1) / PN_VL](row, k0, &r, u + o * w->depth + k0 * t.nr, &t);
            }
        }
    }
}

/* D (+)= Vᵀ E for n tiles, one panel */
static void place_adjoint(const winograd *w, int64_t place, int64_t o, int64_t n, int add,
                          ahead *next) {
    int64_t nr = pn_min(NR, w->co - o);
    pixels p = {.n = 1, .rows = 1, .cols = n, .xc = w->ci, .dc = w->co};
    weigh_run((const T *)w->v + place * w->x_step, (const T *)w->e + place * w->y_step + o, &p,
              (T *)w->u + place * w->w_step + (o - w->o0) * w->depth, w->c.ci, nr, add, next);
}

/* ---- the cut ------------------------------------------------------------------------------------------- */

#define U_BYTES (6 << 20) /* of U or D at work, where all tiles are */

/* U beyond L2 comes from memory, which takes as long as the products of so many tiles. */
#define U_TILES 25
#define U_NEAR (1 << 20)

static winograd cut_tiles(const conv *c) {
    winograd w = {.c = *c};
    int64_t work[2];
    for (int k = 0; k < 2; k++) { /* which m needs less time */
        int64_t m = k ? 2 : 4, places = (m + 2) * (m + 2);
        int64_t far = places * c->ci * c->co * (int64_t)sizeof(T) > U_NEAR ? U_TILES : 0;
        work[k] = places * (c->n * pn_ceil_div(c->ho, m) * pn_ceil_div(c->wo, m) + far);
    }
    w.m = work[0] <= work[1] ? 4 : 2;
    w.places = (w.m + 2) * (w.m + 2);
    w.down = pn_ceil_div(c->ho, w.m), w.across = pn_ceil_div(c->wo, w.m);
    w.tiles = c->n * w.down * w.across;
    w.ci = round_up(c->ci, PN_VL), w.co = round_up(c->co, PN_VL);
    w.depth = c->ci;
    return w;
}

static void set_group(winograd *w, int64_t group) {
    w->n_group = pn_ceil_div(w->tiles, group);
    w->group = pn_ceil_div(w->tiles, w->n_group);
    w->x_step = place_step(w->group * w->ci), w->y_step = place_step(w->group * w->co);
}

/* y's channels at work: all, or as many as U_BYTES hold. */
static void set_channels(winograd *w, int all) {
    int64_t panel = w->places * w->depth * NR * (int64_t)sizeof(T);
    w->most = all ? w->co : pn_min(w->co, pn_max(1, U_BYTES / panel) * NR);
    w->w_step = place_step(w->most * w->depth);
}

static int64_t next_channels(winograd *w, int64_t o0) {
    w->o0 = o0, w->no = pn_min(w->most, w->co - o0);
    return pn_ceil_div(w->no, NR);
}

/* ---- forward and by data -------------------------------------------------------------------------------- */

#define GROUP_BYTES (768 * 1024) /* of a worker's V and M */
#define LEAST_GROUPS 8 /* fewer than that: a group is shared out */
#define SHARED_GROUP 512 /* tiles of one that is */
#define SHARED_TILES 4 /* of a chunk of it */

static void group_body(pn_call *call, void *arg, int64_t chunk, int worker) {
    const winograd *w = arg;
    int64_t tile = chunk * w->group, n = pn_min(w->group, w->tiles - tile), b, p, q;
    T *v = (T *)(w->v + worker * w->own), *to = v + w->places * w->x_step;
    (void)call;
    corner(w, tile + n, &b, &p, &q);
    ahead next = fetching(w->c.x + (b * w->c.hi + p) * w->c.wi * w->c.ci,
                          pn_ceil_div(n, w->across) * w->m * w->c.wi * w->c.ci,
                          w->places * pn_ceil_div(w->co, NR) * pn_ceil_div(n, MR));
    tiles_in(w, tile, n, v);
    for (int64_t k = 0; k < w->places; k++) place_product(w, k, n, v, to, 0, w->co, &next);
    tiles_out(w, tile, n, to);
}

/* A group whose work is shared: tiles, or places and panels, are the chunks. */
static void shared_in(pn_call *call, void *arg, int64_t chunk, int worker) {
    const winograd *w = arg;
    int64_t k = chunk * SHARED_TILES;
    (void)call, (void)worker;
    tiles_in(w, w->first + k, pn_min(SHARED_TILES, w->at_work - k), (T *)w->v + k * w->ci);
}

static void shared_product(pn_call *call, void *arg, int64_t chunk, int worker) {
    const winograd *w = arg;
    int64_t panels = pn_ceil_div(w->no, NR), o = chunk % panels * NR;
    ahead none = {0};
    (void)call, (void)worker;
    place_product(w, chunk / panels, w->at_work, (const T *)w->v, (T *)w->e, o,
                  pn_min(o + NR, w->no), &none);
}

static void shared_out(pn_call *call, void *arg, int64_t chunk, int worker) {
    const winograd *w = arg;
    int64_t k = chunk * SHARED_TILES;
    (void)call, (void)worker;
    tiles_out(w, w->first + k, pn_min(SHARED_TILES, w->at_work - k), (const T *)w->e + k * w->no);
}

static winograd plan_winograd(const conv *c) {
    winograd w = cut_tiles(c);
    int64_t group = GROUP_BYTES / (int64_t)sizeof(T) / (w.places * (w.ci + w.co));
    group = pn_max(pn_max(group / MR, 2) * MR, round_up(w.co / 8, MR));
    w.shared = w.tiles < LEAST_GROUPS * group ||
               w.places * w.co * w.depth * (int64_t)sizeof(T) > 2 * U_BYTES;
    set_group(&w, w.shared ? pn_min(w.tiles, SHARED_GROUP) : group);
    set_channels(&w, !w.shared || c->ready);
    w.own = bytes_of(w.places * (w.x_step + w.y_step));
    return w;
}

static int64_t winograd_scratch(const conv *c) {
    winograd w = plan_winograd(c);
    return bytes_of(w.places * w.w_step) + w.own * (w.shared ? 1 : pn_max_workers());
}

/* U of all of c's weights, to c->ready */
static int64_t all_weights_bytes(const conv *c) {
    winograd w = cut_tiles(c);
    set_channels(&w, 1);
    return bytes_of(w.places * w.w_step);
}

static void all_weights(pn_call *call, const conv *c) {
    winograd w = plan_winograd(c);
    int64_t panels = next_channels(&w, 0);
    w.u = c->ready;
    pn_for(call, panels * pn_ceil_div(c->ci, FEW), weights_body, &w);
}

static void run_winograd(pn_call *call, const conv *c, void *scratch) {
    winograd w = plan_winograd(c);
    int64_t few = pn_ceil_div(c->ci, FEW), panels = next_channels(&w, 0);
    w.u = c->ready ? c->ready : scratch;
    w.v = c->ready ? scratch : w.u + bytes_of(w.places * w.w_step);
    w.e = (char *)((T *)w.v + w.places * w.x_step);
    if (!w.shared) {
        if (!c->ready) pn_for(call, panels * few, weights_body, &w);
        pn_for(call, w.n_group, group_body, &w);
        return;
    }
    for (w.first = 0; w.first < w.tiles; w.first += w.group) {
        w.at_work = pn_min(w.group, w.tiles - w.first);
        int64_t chunks = pn_ceil_div(w.at_work, SHARED_TILES);
        pn_for(call, chunks, shared_in, &w);
        for (int64_t o = 0; o < w.co; o += w.no) {
            panels = next_channels(&w, o);
            if (!c->ready) pn_for(call, panels * few, weights_body, &w);
            pn_for(call, w.places * panels, shared_product, &w);
            pn_for(call, chunks, shared_out, &w);
        }
    }
}

/* ---- by weights ------------------------------------------------------------------------------------------ */

#define ADJOINT_BYTES (1 << 20) /* of V and E at a time, at least */

static void adjoint_in(pn_call *call, void *arg, int64_t chunk, int worker) {
    const winograd *w = arg;
    int64_t k = chunk * SHARED_TILES, n = pn_min(SHARED_TILES, w->at_work - k);
    (void)call, (void)worker;
    tiles_in(w, w->first + k, n, (T *)w->v + k * w->ci);
    tiles_back(w, w->first + k, n, (T *)w->e + k * w->co);
}

static void adjoint_product(pn_call *call, void *arg, int64_t chunk, int worker) {
    const winograd *w = arg;
    int64_t panels = pn_ceil_div(w->no, NR);
    ahead none[2] = {{0}};
    (void)call, (void)worker;
    place_adjoint(w, chunk / panels, w->o0 + chunk % panels * NR, w->at_work, w->first > 0, none);
}

/* Groups are a part of the value: no setting changes them. They are so large that reading and writing D
 * for each of them costs little. */
static winograd plan_adjoint(const conv *c) {
    winograd w = cut_tiles(c);
    int64_t group = ADJOINT_BYTES / (int64_t)sizeof(T) / (w.places * (w.ci + w.co));
    set_group(&w, pn_max(pn_max(64, group), 2 * w.ci * w.co / (w.ci + w.co)));
    set_channels(&w, w.n_group > 1);
    return w;
}

static int64_t adjoint_scratch(const conv *c) {
    winograd w = plan_adjoint(c);
    return bytes_of(w.places * w.w_step) + bytes_of(w.places * w.x_step) +
           bytes_of(w.places * w.y_step);
}

static void run_adjoint(pn_call *call, const conv *c, T *dw, void *scratch) {
    winograd w = plan_adjoint(c);
    int64_t few = pn_ceil_div(c->ci, FEW);
    w.dw = dw;
    w.u = scratch, w.v = w.u + bytes_of(w.places * w.w_step),
    w.e = w.v + bytes_of(w.places * w.x_step);
    for (int64_t o = 0; o < w.co; o += w.no) {
        int64_t panels = next_channels(&w, o);
        for (w.first = 0; w.first < w.tiles; w.first += w.group) {
            w.at_work = pn_min(w.group, w.tiles - w.first);
            if (o == 0) pn_for(call, pn_ceil_div(w.at_work, SHARED_TILES), adjoint_in, &w);
            pn_for(call, w.places * panels, adjoint_product, &w);
        }
        w.first = 0;
        pn_for(call, panels * few, weights_out_body, &w);
    }
}

/* ---- when -------------------------------------------------------------------------------------------------- */

/* Whether it computes c, by sizes alone: enough channels for the transforms to be cheap, enough tiles for
 * the weights' one. */
static int suits_winograd(const conv *c) {
    const axis *r = &c->rows, *s = &c->cols;
    if (PN_KIND != PN_f32 || c->groups != 1 || r->taps != 3 || s->taps != 3) return 0;
    if (r->xs != 1 || s->xs != 1 || r->xt != 1 || s->xt != 1 || r->ys != 1 || s->ys != 1) return 0;
    if (pn_min(c->ci, c->co) < 32) return 0;
    winograd w = cut_tiles(c);
    return w.tiles >= 16 && 3 * w.places * w.tiles <= 2 * 9 * c->n * c->ho * c->wo;
}

#endif
