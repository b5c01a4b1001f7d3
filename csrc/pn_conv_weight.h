/* pn_conv_weight.h: the derivative by the weights, and the sums of dy.
 *
 *   dW[o, a, b, i] = Σ_{n, p, q} dy[n, p, q, o] x[n, p sh - ph + a dh, q sw - pw + b dw, i]
 *   db[o]          = Σ_{n, p, q} dy[n, p, q, o]
 *
 * dW is gathered as packed panels [a, b, i, NR of o] by outer tiles: for a tap the pixels that it finds
 * inside of x are a rectangle, which is read in place. Where a tap has few channels the taps of a row are one
 * run, but for the columns that not all of them find inside. Pixels are cut into shares, each with panels of
 * its own that are added up in the end, and a share into blocks, whose dy stays in L1: how many of them sizes
 * tell, so that they are part of the value.
 */
#ifndef PN_CONV_WEIGHT_H
#define PN_CONV_WEIGHT_H

#include "pn_conv_direct.h"

#define DY_BYTES (24 * 1024)    /* of a panel of dy in a block */
#define JOINT_BYTES (96 * 1024) /* the same where few tiles read it */
#define SHARE_BYTES (4 << 20)      /* of the panels of all shares */
#define SHARES 16                  /* chunks of work that suffice */
#define SUM_PIXELS 512             /* of a share of db */

typedef struct by_weight {
    conv c; /* as forward: x, w = dW (read by none), y = dy */
    T *dw;
    int64_t images, rows, n_image, n_row; /* of a block; blocks */
    int64_t shares, panels, depth, packed; /* elements of a share's panels */
    int joint; /* the taps of a row are one run */
    int64_t at_once; /* panels of a chunk: all, or one */
    int64_t dy_bytes, acc_bytes, unpack_at_once;
    char *scratch; /* [shares' panels | dy of each worker] */
} by_weight;

/* Tiles over `run` channels from x on. */
static void weigh_run(const T *x, const T *d, const pixels *p, T *acc, int64_t run, int64_t nr,
                      int add, ahead *next) {
    parts tiles = cut(run, MR);
    int64_t wide = panel_width(nr);
    for (int64_t k = 0; k < tiles.n; k++) {
        int64_t mr = tiles.size + (k < tiles.longer);
        fetch(next), fetch(next + 1);
        outers[mr - 1][(nr - 1) / PN_VL](x, d, p, acc, add);
        x += mr, acc += mr * wide;
    }
}

/* A row of taps: x and d are at column 0, acc at the row's first tap. */
static void weigh_taps(const by_weight *j, const T *x, const T *d, pixels p, T *acc, int64_t nr,
                       int add, ahead *next) {
    const axis *cols = &j->c.cols;
    int64_t left = 0, right = cols->n, lo, hi, ki = j->c.ki, wide = panel_width(nr);
#define AT_COLUMN(q, b) x + (q) * p.xc + (cols->x0 + (b) * cols->xt) * j->c.ci, d + (q) * p.dc
    for (int64_t b = 0; b < cols->taps && j->joint; b++) {
        inside(cols, b, j->c.wi, &lo, &hi);
        left = pn_max(left, lo), right = pn_min(right, hi);
    }
    right = pn_max(left, right);
    if (j->joint) {
        p.cols = right - left;
        weigh_run(AT_COLUMN(left, 0), &p, acc, cols->taps * ki, nr, add, next);
    }
    for (int64_t b = 0; b < cols->taps; b++, acc += ki * wide) {
        inside(cols, b, j->c.wi, &lo, &hi);
        if (!j->joint) {
            p.cols = hi - lo;
            weigh_run(AT_COLUMN(lo, b), &p, acc, ki, nr, add, next);
            continue;
        }
        p.cols = pn_min(hi, left) - lo;
        if (p.cols > 0) weigh_run(AT_COLUMN(lo, b), &p, acc, ki, nr, 1, next);
        lo = pn_max(lo, right), p.cols = hi - lo;
        if (p.cols > 0) weigh_run(AT_COLUMN(lo, b), &p, acc, ki, nr, 1, next);
    }
#undef AT_COLUMN
}

/* One block of one panel. */
static void weigh_block(const by_weight *j, int64_t block, int64_t group, int64_t o, T *acc, T *own,
                        int add, ahead *next) {
    const conv *c = &j->c;
    int64_t n = block / j->n_row * j->images, u = block % j->n_row * j->rows;
    int64_t images = pn_min(j->images, c->n - n), rows = pn_min(j->rows, c->rows.n - u);
    int64_t nr = pn_min(NR, c->ko - o), wide = panel_width(nr), lo, hi;
    const T *d = c->y + ((n * c->ho + u) * c->wo) * c->co + group * c->ko + o;
    pixels p = {.n = images,
                .xn = c->hi * c->wi * c->ci,
                .xr = c->rows.xs * c->wi * c->ci,
                .xc = c->cols.xs * c->ci,
                .dn = c->ho * c->wo * c->co,
                .dr = c->wo * c->co,
                .dc = c->co};
    if (nr < wide) { /* a vector of dy would go beyond its pixel */
        T *to = own;
        for (int64_t b = 0; b < images; b++)
            for (int64_t k = 0; k < rows * c->wo; k++, to += wide)
                for (int64_t e = 0; e < wide; e++) to[e] = e < nr ? d[b * p.dn + k * c->co + e] : 0;
        d = own, p.dn = rows * c->wo * wide, p.dr = c->wo * wide, p.dc = wide;
    }
    for (int64_t a = 0; a < c->rows.taps; a++, acc += c->cols.taps * c->ki * wide) {
        inside(&c->rows, a, c->hi, &lo, &hi);
        lo = pn_min(pn_max(lo, u), u + rows), hi = pn_max(lo, pn_min(hi, u + rows));
        p.rows = hi - lo;
        const T *x = c->x + n * p.xn +
                     (lo * c->rows.xs + c->rows.x0 + a * c->rows.xt) * c->wi * c->ci +
                     group * c->ki;
        weigh_taps(j, x, d + (lo - u) * p.dr, p, acc, nr, add, next);
    }
}

static void weigh_body(pn_call *call, void *arg, int64_t chunk, int worker) {
    const by_weight *j = arg;
    const conv *c = &j->c;
    int64_t panels = j->panels * c->groups, groups = panels / j->at_once, share = chunk / groups;
    int64_t p0 = chunk % groups * j->at_once, blocks = j->n_image * j->n_row;
    parts cutting = {j->shares, blocks / j->shares, blocks % j->shares};
    int64_t first = part_start(cutting, share), end = part_start(cutting, share + 1);
    T *own = (T *)(j->scratch + j->acc_bytes + worker * j->dy_bytes);
    int64_t rows = j->n_row == 1 ? j->images * c->hi : j->rows * c->rows.xs;
    int64_t tiles = j->at_once * c->rows.taps * (j->joint ? 1 : c->cols.taps) *
                    pn_ceil_div(j->joint ? c->cols.taps * c->ki : c->ki, MR);
    (void)call;
    for (int64_t b = first; b < end; b++) {
        int64_t n = b / j->n_row * j->images, h = b % j->n_row * j->rows * c->rows.xs;
        const T *d = c->y + (b + 1) * j->images * j->rows * c->wo * c->co;
        ahead next[2] = {
            fetching(c->x + (n * c->hi + h + rows) * c->wi * c->ci, rows * c->wi * c->ci, tiles),
            fetching(d, j->images * j->rows * c->wo * c->co, tiles)};
        for (int64_t p = p0; p < p0 + j->at_once; p++) {
            int64_t group = p / j->panels, o = p % j->panels * NR;
            T *acc = (T *)j->scratch + share * j->packed + panel_at(c->ko, group, o, j->depth);
            weigh_block(j, b, group, o, acc, own, b > first, next);
        }
    }
}

/* dW from the panels of all shares. */
static void unpack_panel(const by_weight *j, int64_t k) {
    const conv *c = &j->c;
    int64_t a = k % c->rows.taps, p = k / c->rows.taps, group = p / j->panels,
            o = p % j->panels * NR;
    int64_t nr = pn_min(NR, c->ko - o), wide = panel_width(c->ko - o), run = c->cols.taps * c->ki;
    T *acc = (T *)j->scratch + panel_at(c->ko, group, o, j->depth) + a * run * wide;
    T *to = j->dw + group * c->wg + o * c->wo_ + a * c->wa;
    for (int64_t s = 1; s < j->shares; s++)
        for (int64_t e = 0; e < run * wide; e += PN_VL)
            pn_store(acc + e, pn_load(acc + e) + pn_load(acc + s * j->packed + e));
    flip(to, c->wo_, acc, wide, run, nr);
}

static void unpack_body(pn_call *call, void *arg, int64_t chunk, int worker) {
    const by_weight *j = arg;
    int64_t first = chunk * j->unpack_at_once,
            end = pn_min(first + j->unpack_at_once, j->c.groups * j->panels * j->c.rows.taps);
    (void)call, (void)worker;
    for (int64_t k = first; k < end; k++) unpack_panel(j, k);
}

/* ---- the whole --------------------------------------------------------------------------------------- */

static by_weight plan_by_weight(const conv *c) {
    by_weight j = {.c = *c, .images = 1, .rows = 1};
    j.depth = c->rows.taps * c->cols.taps * c->ki;
    j.panels = pn_ceil_div(c->ko, NR);
    j.packed = c->groups * round_up(c->ko, PN_VL) * j.depth;
    j.unpack_at_once = pn_max(1, pn_grain(CHUNK_PACKED) / pn_max(1, c->cols.taps * c->ki * NR));
    if (!c->n || !c->rows.n || !c->cols.n || !j.packed) return j;
    j.joint = c->groups == 1 && c->cols.xt == 1 && c->cols.taps > 1 && c->ki < MR;
    int64_t pixels = (j.joint ? JOINT_BYTES : DY_BYTES) / (NR * (int64_t)sizeof(T));
    j.rows = pn_max(1, pn_min(c->rows.n, pixels / c->cols.n));
    j.n_row = pn_ceil_div(c->rows.n, j.rows);
    j.rows = pn_ceil_div(c->rows.n, j.n_row);
    if (j.n_row == 1) j.images = pn_max(1, pn_min(c->n, pixels / (j.rows * c->cols.n)));
    j.n_image = pn_ceil_div(c->n, j.images);
    int64_t panels = j.panels * c->groups;
    j.shares = pn_min(SHARES, SHARE_BYTES / (j.packed * (int64_t)sizeof(T)));
    j.at_once = j.shares >= SHARES / 2 ? panels : 1;
    if (j.at_once == 1) j.shares = pn_min(j.shares, pn_ceil_div(SHARES, panels));
    j.shares = pn_max(1, pn_min(j.shares, j.n_image * j.n_row));
    j.acc_bytes = bytes_of(j.shares * j.packed);
    if (c->ko % PN_VL) j.dy_bytes = bytes_of(j.images * j.rows * c->wo * NR);
    return j;
}

static int64_t by_weight_scratch(const conv *c) {
    by_weight j = plan_by_weight(c);
    return j.acc_bytes + j.dy_bytes * pn_max_workers();
}

static void run_by_weight(pn_call *call, const conv *c, T *dw, void *scratch) {
    by_weight j = plan_by_weight(c);
    j.dw = dw, j.scratch = scratch;
    if (!j.shares) { /* no pixels */
        memset(dw, 0, (size_t)(c->co * j.depth) * sizeof(T));
        return;
    }
    pn_for(call, j.shares * (j.panels * c->groups / j.at_once), weigh_body, &j);
    pn_for(call, pn_ceil_div(c->groups * j.panels * c->rows.taps, j.unpack_at_once), unpack_body,
           &j);
}

/* ---- db ------------------------------------------------------------------------------------------- */

typedef struct sums {
    const T *dy;
    int64_t pixels, o;
    T *parts; /* [shares, o] */
} sums;

static void sums_body(pn_call *call, void *arg, int64_t chunk, int worker) {
    enum { ACROSS = 4 }; /* chains at once, lest each wait for itself */
    const sums *s = arg;
    int64_t n = pn_min(SUM_PIXELS, s->pixels - chunk * SUM_PIXELS), o = 0;
    const T *d = s->dy + chunk * SUM_PIXELS * s->o;
    T *to = s->parts + chunk * s->o;
    (void)call, (void)worker;
    for (; o + ACROSS * PN_VL <= s->o; o += ACROSS * PN_VL) {
        V sum[ACROSS] = {{0}};
        for (int64_t p = 0; p < n; p++)
            ALL(v, ACROSS) sum[v] += pn_load(d + p * s->o + o + v * PN_VL);
        ALL(v, ACROSS) pn_store(to + o + v * PN_VL, sum[v]);
    }
    for (; o < s->o; o += PN_VL) {
        V sum = {0};
        for (int64_t p = 0; p < n; p++) sum += pn_load_part(d + p * s->o + o, s->o - o, 0);
        pn_store_part(to + o, sum, s->o - o);
    }
}

static int64_t sums_scratch(int64_t pixels, int64_t o) {
    return bytes_of(pn_ceil_div(pixels, SUM_PIXELS) * o);
}

static void run_sums(pn_call *call, const T *dy, int64_t pixels, int64_t o, T *db, void *scratch) {
    sums s = {dy, pixels, o, scratch};
    int64_t shares = pn_ceil_div(pixels, SUM_PIXELS);
    pn_for(call, shares, sums_body, &s);
    for (int64_t e = 0; e < o; e++) {
        T sum = 0;
        for (int64_t k = 0; k < shares; k++) sum += s.parts[k * o + e];
        db[e] = sum;
    }
}

#endif
