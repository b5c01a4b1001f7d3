/* pn_conv_direct.h: the form of pn_conv.h by gather tiles, any stride, dilation and groups.
 *
 *     pack w into panels of NR output channels, in the order of the sums
 *     for each block of pixels (and group of panels)         a chunk of pn_for
 *       copy the rows that it reads, with zeros around        where taps reach outside of x
 *       for each panel, for each tile of <= MR pixels         gather
 *
 * Where the taps of a row lie side by side they are one run of k. A block's rows stay in L2; an element's
 * value is one chain over all k, and does not depend on blocks.
 */
#ifndef PN_CONV_DIRECT_H
#define PN_CONV_DIRECT_H

#include "pn_conv_tile.h"

#define BLOCK_PIXELS (16 * MR)     /* of a chunk */
#define BLOCK_BYTES (192 * 1024)   /* of its rows of x */
#define BLOCKS 8                   /* fewer than that: panels are shared out, too */
#define CHUNK_MACS (1 << 18)       /* multiplications worth a chunk, some 5 us */
#define CHUNK_PACKED (1 << 14)     /* elements of w worth one */

typedef struct direct {
    conv c;
    int64_t images, rows, cols; /* of a block */
    int64_t n_image, n_row, n_col, panel_groups, per_group;
    int64_t panels, depth; /* panels of a group of channels; k of all taps */
    int64_t at_once, packs_at_once; /* blocks, or rows of taps, of a chunk */
    int64_t hb, wb;        /* rows and columns of x that a block reads */
    int copies;
    int64_t w_bytes, copy_bytes, worker_bytes;
    char *scratch; /* [packed w, unless it is ready | for each worker: copy, pointers to x, to y] */
    T *packed;
} direct;

/* ---- packing --------------------------------------------------------------------------------------- */

static inline int64_t panel_at(int64_t ko, int64_t group, int64_t o, int64_t depth) {
    return (group * round_up(ko, PN_VL) + o) * depth;
}
static inline int64_t panel_width(int64_t left) { return left > PN_VL ? NR : PN_VL; }

/* Row t of taps of one panel: to[s, i, 0 .. wide). */
static void pack_taps(const conv *c, int64_t group, int64_t o, int64_t t, T *to) {
    int64_t n = pn_min(NR, c->ko - o), wide = panel_width(c->ko - o);
    to += t * c->cols.taps * c->ki * wide;
    if (n < wide) memset(to, 0, (size_t)(c->cols.taps * c->ki * wide) * sizeof(T));
    for (int64_t s = 0; s < c->cols.taps; s++, to += c->ki * wide) {
        const T *w = c->w + group * c->wg + o * c->wo_ + (c->rows.w0 + t * c->rows.wt) * c->wa +
                     (c->cols.w0 + s * c->cols.wt) * c->wb;
        if (c->wo_ == 1) {
            for (int64_t i = 0; i < c->ki; i++)
                memcpy(to + i * wide, w + i * c->wi_, (size_t)n * sizeof(T));
            continue;
        }
        flip(to, wide, w, c->wo_, n, c->ki);
    }
}

static void pack_body(pn_call *call, void *arg, int64_t chunk, int worker) {
    const direct *j = arg;
    const conv *c = &j->c;
    int64_t first = chunk * j->packs_at_once,
            end = pn_min(first + j->packs_at_once, c->groups * j->panels * c->rows.taps);
    (void)call, (void)worker;
    for (int64_t k = first; k < end; k++) {
        int64_t t = k % c->rows.taps, p = k / c->rows.taps, group = p / j->panels,
                o = p % j->panels * NR;
        pack_taps(c, group, o, t, j->packed + panel_at(c->ko, group, o, j->depth));
    }
}

/* ---- a block ---------------------------------------------------------------------------------------- */

/* The rows of x that a block reads, from (n, h, v) of x on, with zeros where there is no x. */
static void copy_block(const direct *j, int64_t n, int64_t images, int64_t h, int64_t v, T *to) {
    const conv *c = &j->c;
    int64_t lo = pn_min(j->wb, pn_max(0, -v)), hi = pn_max(lo, pn_min(j->wb, c->wi - v)),
            ci = c->ci;
    for (int64_t b = 0; b < images; b++)
        for (int64_t r = 0; r < j->hb; r++, to += j->wb * ci) {
            if (h + r < 0 || h + r >= c->hi) {
                memset(to, 0, (size_t)(j->wb * ci) * sizeof(T));
                continue;
            }
            memset(to, 0, (size_t)(lo * ci) * sizeof(T));
            memcpy(to + lo * ci, c->x + (((n + b) * c->hi + h + r) * c->wi + v + lo) * ci,
                   (size_t)((hi - lo) * ci) * sizeof(T));
            memset(to + hi * ci, 0, (size_t)((j->wb - hi) * ci) * sizeof(T));
        }
}

static void run_tiles(const direct *j, const T *const *row, T *const *dst, int64_t pixels,
                      const reads *r, int64_t group, int64_t panel, ahead *next) {
    const conv *c = &j->c;
    parts tiles = cut(pixels, MR);
    int64_t o = panel * NR, nr = pn_min(NR, c->ko - o), to = group * c->ko + o;
    const T *w = j->packed + panel_at(c->ko, group, o, j->depth);
    target t = {.dst = dst,
                .to = to,
                .nr = nr,
                .bias = c->bias ? c->bias + to : NULL,
                .y = c->y,
                .residual = c->residual,
                .relu = c->relu};
    for (int64_t k = 0; k < tiles.n; k++) {
        int64_t mr = tiles.size + (k < tiles.longer);
        take(next, &t.at, &t.end);
        gathers[mr - 1][(nr - 1) / PN_VL](row, group * c->ki, r, w, &t);
        row += mr, t.dst += mr;
    }
}

static void run_block(const direct *j, int64_t k0, int worker) {
    const conv *c = &j->c;
    int64_t pg = k0 % j->panel_groups, block = k0 / j->panel_groups;
    int64_t v = block % j->n_col * j->cols, u = block / j->n_col % j->n_row * j->rows,
            n = block / j->n_col / j->n_row * j->images;
    int64_t images = pn_min(j->images, c->n - n), rows = pn_min(j->rows, c->rows.n - u),
            cols = pn_min(j->cols, c->cols.n - v), pixels = images * rows * cols;
    char *own = j->scratch + j->w_bytes + worker * j->worker_bytes;
    const T **row = (const T **)(own + j->copy_bytes);
    T **dst = (T **)(row + j->images * j->rows * j->cols);
    int64_t h = u * c->rows.xs + c->rows.x0, x = v * c->cols.xs + c->cols.x0;
    const T *base = j->copies ? (const T *)own : c->x + ((n * c->hi + h) * c->wi + x) * c->ci;
    int64_t rs = (j->copies ? j->wb : c->wi) * c->ci, is = (j->copies ? j->hb : c->hi) * rs, p = 0;
    if (j->copies) copy_block(j, n, images, h, x, (T *)own);
    for (int64_t b = 0; b < images; b++)
        for (int64_t k = u; k < u + rows; k++) {
            const T *from = base + b * is + (k - u) * c->rows.xs * rs;
            T *to = c->y + (((n + b) * c->ho + c->rows.y0 + k * c->rows.ys) * c->wo + c->cols.y0 +
                            v * c->cols.ys) *
                               c->co;
            for (int64_t e = 0; e < cols; e++) {
                row[p] = from, dst[p++] = to;
                from += c->cols.xs * c->ci, to += c->cols.ys * c->co;
            }
        }
    reads r = {c->rows.taps, c->rows.xt * rs, c->cols.taps, c->cols.xt * c->ci, c->ki};
    int64_t first = pg * j->per_group, last = pn_min(first + j->per_group, j->panels * c->groups);
    int64_t tiles = pn_ceil_div(pixels, MR) * (last - first);
    ahead next =
        fetching(c->x + ((n + images - 1) * c->hi + h + j->hb) * c->wi * c->ci,
                 (j->n_row == 1 ? images * c->hi : rows * c->rows.xs) * c->wi * c->ci, tiles);
    if (c->groups == 1 && c->cols.xt == 1) r.run *= r.taps, r.taps = 1;
    for (int64_t k = first; k < last; k++)
        run_tiles(j, row, dst, pixels, &r, k / j->panels, k % j->panels, &next);
}

static int64_t blocks_of(const direct *j) {
    return j->n_image * j->n_row * j->n_col * j->panel_groups;
}

static void direct_body(pn_call *call, void *arg, int64_t chunk, int worker) {
    const direct *j = arg;
    int64_t first = chunk * j->at_once, end = pn_min(first + j->at_once, blocks_of(j));
    (void)call;
    for (int64_t k = first; k < end; k++) run_block(j, k, worker);
}

/* ---- the whole ---------------------------------------------------------------------------------------- */

static direct plan_direct(const conv *c) {
    direct j = {.c = *c, .images = 1, .rows = 1, .cols = c->cols.n};
    int64_t most = pn_max(1, pn_grain(BLOCK_PIXELS)),
            room = BLOCK_BYTES / (int64_t)sizeof(T) / pn_max(1, c->ci);
    j.depth = c->rows.taps * c->cols.taps * c->ki;
    j.panels = pn_ceil_div(c->ko, NR);
    j.w_bytes = bytes_of(c->groups * round_up(c->ko, PN_VL) * j.depth);
    if (!c->n || !c->rows.n || !c->cols.n) return j;
    j.copies = j.depth && !(all_inside(&c->rows, c->hi) && all_inside(&c->cols, c->wi));
    while (j.cols > MR &&
           (j.cols > most || (j.copies && span_of(&c->rows, 1) * span_of(&c->cols, j.cols) > room)))
        j.cols = pn_ceil_div(j.cols, 2);
    while (j.cols == c->cols.n && j.rows < c->rows.n && (j.rows + 1) * j.cols <= most &&
           (!j.copies || span_of(&c->rows, j.rows + 1) * span_of(&c->cols, j.cols) <= room))
        j.rows++;
    j.n_col = pn_ceil_div(c->cols.n, j.cols);
    j.n_row = pn_ceil_div(c->rows.n, j.rows);
    j.rows = pn_ceil_div(c->rows.n, j.n_row);
    j.hb = span_of(&c->rows, j.rows), j.wb = span_of(&c->cols, j.cols);
    if (j.n_row == 1 && j.n_col == 1)
        j.images = pn_max(1, pn_min(c->n, pn_min(most / (j.rows * j.cols), room / (j.hb * j.wb))));
    j.n_image = pn_ceil_div(c->n, j.images);
    int64_t blocks = j.n_image * j.n_row * j.n_col, panels = j.panels * c->groups;
    int64_t macs = j.images * j.rows * j.cols * pn_max(1, j.depth) * NR; /* of a panel's block */
    j.panel_groups = pn_min(panels, pn_ceil_div(BLOCKS, blocks));
    j.per_group = pn_max(1, pn_ceil_div(panels, pn_max(1, j.panel_groups)));
    j.panel_groups = pn_ceil_div(panels, j.per_group);
    j.at_once = pn_max(1, pn_grain(CHUNK_MACS) / (macs * j.per_group));
    j.packs_at_once = pn_max(1, pn_grain(CHUNK_PACKED) / pn_max(1, c->cols.taps * c->ki * NR));
    j.copy_bytes = j.copies ? bytes_of(j.images * j.hb * j.wb * c->ci) : 0;
    j.worker_bytes =
        j.copy_bytes + round_up(2 * j.images * j.rows * j.cols * (int64_t)sizeof(T *), PN_ALIGN);
    return j;
}

static int64_t direct_scratch(const conv *c) {
    direct j = plan_direct(c);
    return j.w_bytes + j.worker_bytes * pn_max_workers();
}

static void pack_direct(pn_call *call, direct *j, void *to) {
    int64_t n = j->c.groups * j->panels * j->c.rows.taps;
    j->packed = to;
    pn_for(call, pn_ceil_div(n, j->packs_at_once), pack_body, j);
}

static void run_direct(pn_call *call, const conv *c, void *scratch) {
    direct j = plan_direct(c);
    j.scratch = scratch;
    if (!j.n_image || !j.panels) return;
    if (c->ready)
        j.packed = c->ready;
    else
        pack_direct(call, &j, scratch);
    pn_for(call, pn_ceil_div(blocks_of(&j), j.at_once), direct_body, &j);
}

#endif
