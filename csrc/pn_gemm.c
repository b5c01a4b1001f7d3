/* pn_gemm.c: C = act(A B (+ C) + bias + res), see pn_gemm.h.
 *
 *     c_ij = S_1 + S_2 + ...,  S_q = fma(a_ip, b_pj, ...fma(a_i0, b_0j, 0)) over the q-th block of k
 *
 * k is cut into blocks of at most KC, as equal as can be, and an element is the sum of its blocks in
 * order, each of them one chain of fused multiply-adds. Nothing else touches the value: tiles, packing,
 * chunks, layouts and batches move data only, and no lane looks at another. So the same row gives the
 * same bits in any batch, and all ISA levels that fuse give the same bits too.
 *
 * One kind of product stands apart, for two to three times the speed: that of few rows by a B whose columns are
 * contiguous (x W' with a W by rows; by symmetry A x' with an A by rows). Its elements are dot products along
 * memory, in an order of their own: see pn_gemm_row.h.
 *
 * Algorithm (Goto and van de Geijn 2008; Van Zee and van de Geijn 2015), per chunk of C:
 *
 *     for each block of k                       A's rows are packed where they are read often
 *       for each panel of NR columns            B's panel takes half of L1
 *         for each tile of <= MR rows           kernel: MR x NR of C in registers
 *
 * A product of many rows is cut into chunks of rows, and packs B beforehand, once for all of them. Others
 * are cut into chunks of columns too, and each packs its own part of B, or reads it in place where it is
 * contiguous and read by few tiles. A deep product with few elements is cut along k: chunks leave the S_q of
 * their blocks in scratch, which are then added in order. A single row packs nothing.
 *
 * Tiles of a chunk have almost equal heights (32 rows are 6+6+5+5+5+5, not 5 times 6 and 2) and each height
 * has its own kernel. At the right edge the two vectors of a tile overlap; a C of fewer columns than a
 * vector takes masks or, where the machine has none, a padded copy; if it is much less and A's columns are
 * contiguous, or its rows turn fast, C' = B'A' is solved, which fills the vectors. C's columns must be
 * contiguous for the kernel: a column-major C is solved as C' = B'A', others go through a tile-sized buffer.
 *
 * How many chunks there are depends on m, n, k and the batch only; pn_gemm_choices.h has the sizes.
 */
#include "pn_gemm_row.h"

/* ---- one chunk, or a whole small product ------------------------------------------------------ */

PN_INLINE void copy(T *to, int64_t trs, int64_t tcs, const T *from, int64_t rs, int64_t cs,
                    int64_t m, int64_t n) {
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++) to[i * trs + j * tcs] = from[i * rs + j * cs];
}

/* What is added to a tile, to a buf whose rows are NR apart. */
static void spread(T *buf, const T *from, int64_t rs, int64_t cs, int64_t m, int64_t n) {
    if (cs) copy(buf, NR, 1, from, rs, cs, m, n);
    for (int64_t i = 0; !cs && i < m; i++)
        ALL(v, NV) pn_store(buf + i * NR + v * PN_VL, pn_set1(from[i * rs]));
}

/* A tile in buf, whose rows are NR apart, to its place in C. buf has room for PN_VL rows. */
static void put(const pn_gemm_args *g, T *c, const T *buf, int64_t mr, int64_t nr) {
    int64_t j = 0;
    if (g->c.rs == 1 && mr <= PN_VL) {
        const char *from[THIRDS];
        ALL(i, THIRDS) from[i] = (const char *)(buf + 3 * i * NR);
        for (; j + TL <= nr; j += TL) {
            V r[TL];
            turn(r, from, NR * (int)sizeof(T));
            ALL(i, TL) pn_store_part(c + (j + i) * g->c.cs, r[i], mr);
        }
    }
    copy(c + j * g->c.cs, g->c.rs, g->c.cs, buf + j, NR, 1, mr, nr - j);
}

/* Where a tile's sums of one block of k come from. */
typedef struct source {
    const T *a, *b;
    int64_t k, ars, acs, brs;
    int form, first, last, far; /* far: C is likely to lie beyond L2 */
} source;

/* The mr x nr tile at i, j. What the kernel cannot read or write in place, because it is narrower than a
 * vector or its columns are not contiguous, goes through buf. */
static void run_tile(const pn_gemm_args *g, const source *s, int64_t i, int64_t mr, int64_t j,
                     int64_t nr) {
    T buf[3][(MR > PN_VL ? MR : PN_VL) * NR] __attribute__((aligned(PN_ALIGN)));
    int narrow = !MASKED && nr < PN_VL, through = narrow || g->c.cs != 1;
    T *c = g->c.p + i * g->c.rs + j * g->c.cs;
    target t = {c,
                g->c.rs,
                {NULL, NULL},
                {0, 0},
                nr - PN_VL,
                nr,
                g->accumulate || !s->first,
                s->last && g->relu};
    if (through) {
        t.c = buf[0];
        t.rs = NR;
        if (t.accumulate) copy(t.c, NR, 1, c, g->c.rs, g->c.cs, mr, nr);
    }
    for (int e = 0; s->last && e < 2; e++) {
        const pn_mat *x = e ? &g->res : &g->bias;
        if (!x->p) continue;
        t.add[e] = x->p + i * x->rs + j * x->cs;
        t.add_rs[e] = x->rs;
        if (narrow || x->cs != 1) {
            spread(buf[1 + e], t.add[e], x->rs, x->cs, x->rs ? mr : 1, nr);
            t.add[e] = buf[1 + e];
            t.add_rs[e] = x->rs ? NR : 0;
        }
    }
    kernels[mr - 1][(nr - 1) / PN_VL](s->k, s->form, s->a, s->ars, s->acs, s->b, s->brs, &t);
    if (through) put(g, c, t.c, mr, nr);
}

/* The panel at column j. packed: A's tiles, or NULL where A is read in place; odd: room for a tile of an A
 * with neither rows nor columns contiguous. */
static void run_panel(const pn_gemm_args *g, source *s, parts ts, const T *a, const T *packed,
                      T *odd, int64_t j, int64_t nr) {
    const T *bias = s->last ? g->bias.p : NULL, *res = s->last ? g->res.p : NULL;
    int plain = (MASKED || nr >= PN_VL) && g->c.cs == 1 && (!bias || g->bias.cs == 1) &&
                (!res || g->res.cs == 1);
    int wide = nr > PN_VL;
    target t = {g->c.p + j,
                g->c.rs,
                {bias ? bias + j : NULL, res ? res + j : NULL},
                {g->bias.rs, g->res.rs},
                nr - PN_VL,
                nr,
                g->accumulate || !s->first,
                s->last && g->relu};
    for (int64_t n = 0, i = 0, mr; n < ts.n; n++, i += mr) {
        mr = ts.size + (n < ts.longer);
        s->a = packed ? packed + n * TILE_ROOM(s->k) : a + i * g->a.rs;
        if (odd) {
            pack_a(odd, s->a, g->a.rs, g->a.cs, (parts){1, mr, 0}, s->k);
            s->a = odd;
        }
        if (!plain) {
            run_tile(g, s, i, mr, j, nr);
            continue;
        }
        if (t.accumulate || s->far)
            for (int64_t e = 0; e < mr; e++) {
                __builtin_prefetch(t.c + e * t.rs, 1);
                if (NR * sizeof(T) > PN_ALIGN) __builtin_prefetch(t.c + e * t.rs + NR - PN_VL, 1);
            }
        kernels[mr - 1][wide](s->k, s->form, s->a, s->ars, s->acs, s->b, s->brs, &t);
        t.c += mr * t.rs;
        if (bias) t.add[0] += mr * t.add_rs[0];
        if (res) t.add[1] += mr * t.add_rs[1];
    }
}

/* How the work is cut, and what is packed where. */
typedef struct job {
    const pn_gemm_args *g; /* the caller's, or `own` where batch or sides have been changed */
    parts ks; /* the blocks of k */
    int64_t rows, cols; /* the grid of chunks in one matrix, cut at multiples of MR and NR */
    int64_t units, group; /* chunks in all matrices, and how many of them pn_for sees as one */
    int64_t a_bytes, b_bytes; /* of a worker's packed A, and of the packed B that all share; or 0 */
    int split; /* the sums of all blocks go to scratch and are added afterwards */
    int dots; /* few rows by contiguous columns */
    int64_t q0, q1, at_once; /* the blocks that B has been packed for, and how many it is */
    char *scratch;
    pn_gemm_args own;
} job;

static int64_t block_start(parts ks, int64_t q) { return q * ks.size + pn_min(q, ks.longer); }

static void add_row(T *to, const T *x, int64_t cs, int64_t n) {
    if (cs == 1)
        for (int64_t e = 0; e < n; e++) to[e] += x[e];
    else
        for (int64_t e = 0; e < n; e++) to[e] += x[e * cs];
}

/* n elements of row i, from column j on, whose blocks of k have been summed: what is left, and to C. */
static void finish_row(const pn_gemm_args *g, T *total, int64_t i, int64_t j, int64_t n) {
    if (g->bias.p) add_row(total, g->bias.p + i * g->bias.rs + j * g->bias.cs, g->bias.cs, n);
    if (g->res.p) add_row(total, g->res.p + i * g->res.rs + j * g->res.cs, g->res.cs, n);
    for (int64_t e = 0; g->relu && e < n; e++) total[e] = total[e] <= 0 ? 0 : total[e];
    pn_gemm_args part = *g;
    part.m = 1, part.n = n, part.c.p = g->c.p + i * g->c.rs + j * g->c.cs;
    copy(part.c.p, 0, g->c.cs, total, 0, 1, 1, n);
    if (g->act) g->act(&part);
}

/* Dot products, or one row by a B that need not be packed. */
static void run_rows(const job *w, const pn_gemm_args *g) {
    T sums[PN_DOT_ROWS * STRIP] __attribute__((aligned(PN_ALIGN))),
        total[PN_DOT_ROWS * STRIP] __attribute__((aligned(PN_ALIGN))), rows[PN_DOT_ROWS * KD];
    for (int64_t j = 0, n; j < g->n; j += n) {
        T *c = g->c.p + j * g->c.cs;
        n = pn_min(STRIP, g->n - j);
        for (int64_t q = 0; q < w->ks.n; q++) {
            int64_t k0 = block_start(w->ks, q), k = w->ks.size + (q < w->ks.longer);
            const T *a = g->a.p + k0 * g->a.cs, *b = g->b.p + k0 * g->b.rs + j * g->b.cs;
            T *to = q ? sums : total;
            if (!w->dots)
                row_by_rows(to, a, g->a.cs, b, g->b.rs, n, k);
            else if (g->a.cs == 1)
                rows_by_columns(g->m, to, STRIP, a, g->a.rs, b, g->b.cs, n, k);
            else {
                copy(rows, KD, 1, a, g->a.rs, g->a.cs, g->m, k);
                rows_by_columns(g->m, to, STRIP, rows, KD, b, g->b.cs, n, k);
            }
            for (int64_t i = 0; i < g->m; i++)
                if (q)
                    add_row(total + i * STRIP, sums + i * STRIP, 1, n);
                else if (g->accumulate)
                    add_row(total + i * STRIP, c + i * g->c.rs, g->c.cs, n);
        }
        for (int64_t i = 0; i < g->m; i++) finish_row(g, total + i * STRIP, i, j, n);
    }
}

/* Whether rows so far apart meet in one set of L1. */
static int meets(int64_t rs) { return rs * (int64_t)sizeof(T) % WAY_BYTES == 0; }

/* Rows of a tile: no more of them than L1 keeps of one set where those of C meet there. */
static int64_t tile_height(const pn_gemm_args *g) {
    return g->c.cs == 1 && g->m > MR && meets(g->c.rs) ? pn_min(MR, MET) : MR;
}

/* packed: room for A's tiles in one block of k, or NULL; b: B's panels from column j0 of all columns on,
 * for blocks q0 to q1, or NULL. */
static void run(const job *w, const pn_gemm_args *g, T *packed, const T *b, int64_t j0) {
    T panel[WIDE_BYTES / sizeof(T)] __attribute__((aligned(PN_ALIGN)));
    T tile[MR * KC];
    parts ts = cut(g->m, tile_height(g));
    source s = {.ars = g->a.rs, .acs = g->a.cs, .far = b != NULL};
    int odd = !packed && g->a.cs != 1 && g->a.rs != 1 && g->m > 1;
    int in_place = g->b.cs == 1 && (g->m <= IN_PLACE || g->k * g->b.rs <= SMALL_B);
    s.form = odd || (packed && g->a.rs != 1)       ? BLOCKS
             : packed || g->a.cs != 1 || g->m == 1 ? COLS
                                                   : ROWS;
    for (int64_t q = w->q0; q < w->q1; q++) {
        int64_t k0 = block_start(w->ks, q), packed_to = 0, from = 0;
        const T *a = g->a.p + k0 * g->a.cs;
        s.k = w->ks.size + (q < w->ks.longer);
        s.first = q == 0;
        s.last = q == w->ks.n - 1;
        if (packed) {
            pack_a(packed, a, g->a.rs, g->a.cs, ts, s.k);
            s.acs = tallest(ts);
        }
        for (int64_t j = 0, nr; j < g->n; j += nr) {
            nr = panel_width(g->n - j);
            s.b = g->b.p + k0 * g->b.rs + j * g->b.cs;
            s.brs = g->b.rs;
            if (b) {
                s.brs = round_up(nr, PN_VL);
                s.b = b + (k0 - block_start(w->ks, w->q0)) * round_up(w->g->n, PN_VL) +
                      (j0 + j) * s.k;
            } else if (!in_place || (!MASKED && nr < PN_VL)) {
                if (j == packed_to) {
                    packed_to = pn_min(g->n, j + WIDE);
                    if (g->n - packed_to > 0 && g->n - packed_to < PN_VL)
                        packed_to = pn_max(packed_to - NR, j + PN_VL); /* as panel_width does */
                    if (in_place) packed_to = j + nr;
                    pack_b(panel, s.b, g->b.rs, g->b.cs, packed_to - j, s.k);
                    from = j;
                }
                s.brs = round_up(nr, PN_VL);
                s.b = panel + (j - from) * s.k;
            }
            run_panel(g, &s, ts, a, packed, odd ? tile : NULL, j, nr);
        }
    }
    if (g->act && w->q1 == w->ks.n) g->act(g);
}

/* ---- the whole -------------------------------------------------------------------------------- */

/* Rows of a batch dimension that follow on another become rows of one matrix where B is shared. */
static void merge_rows(pn_gemm_args *g) {
    pn_mat *x[] = {&g->a, &g->c, &g->bias, &g->res};
    for (int d = g->n_batch - 1; d >= 0; d--) {
        int ok = g->b.bs[d] == 0;
        for (int e = 0; e < 4; e++) ok &= g->m == 1 || x[e]->bs[d] == g->m * x[e]->rs;
        if (!ok) continue;
        for (int e = 0; e < 4 && g->m == 1; e++) x[e]->rs = x[e]->bs[d];
        g->m *= g->batch[d];
        g->batch[d] = 1;
    }
}

/* C' = B' A', where that makes C's columns contiguous or fills the vectors. */
static void transpose(pn_gemm_args *g) {
    pn_mat *x[] = {&g->a, &g->b, &g->c, &g->bias, &g->res}, t;
    int64_t m = g->m;
    for (int e = 0; e < 5; e++) {
        int64_t rs = x[e]->rs;
        x[e]->rs = x[e]->cs;
        x[e]->cs = rs;
    }
    t = g->a, g->a = g->b, g->b = t;
    g->m = g->n, g->n = m;
}

/* Chunks of a product that packs B once for all: of rows first, as these pack no part of A twice. */
static void plan_shared(job *w) {
    const pn_gemm_args *g = w->g;
    int64_t mc = pn_max(MC / 4, pn_min(MC, pn_ceil_div(g->m, CHUNKS))), nc = g->n;
    w->rows = pn_ceil_div(g->m, mc);
    while (w->rows * pn_ceil_div(g->n, nc) < CHUNKS && mc * nc * g->k > 2 * CHUNK && nc > 8 * NR)
        nc /= 2;
    w->cols = pn_ceil_div(g->n, nc);
    int64_t most = w->ks.size + (w->ks.longer > 0);
    w->b_bytes = round_up(round_up(g->n, PN_VL) * most * (int64_t)sizeof(T), PN_ALIGN);
    w->at_once = pn_min(w->ks.n, pn_max(1, SHARED_BYTES / w->b_bytes));
    w->b_bytes *= w->at_once;
}

/* A deep product with few elements: of its blocks of k, as many at once as suit the caches. */
static void plan_split(job *w) {
    int64_t bytes = w->g->m * w->g->n * (int64_t)sizeof(T);
    w->split = 1;
    w->at_once = pn_min(w->ks.n, pn_max(CHUNKS, SPLIT_BYTES / bytes));
    w->b_bytes = round_up(w->at_once * bytes, PN_ALIGN);
    w->group = pn_max(1, pn_grain(CHUNK) / (w->g->m * w->g->n * w->ks.size));
}

static void plan_own(job *w, int64_t batch) {
    const pn_gemm_args *g = w->g;
    int64_t mc = pn_min(g->m, MC), nc = pn_min(g->n, g->m <= PN_DOT_ROWS ? STRIP : NC);
    for (;; nc > 4 * NR ? (nc /= 2) : (mc /= 2)) {
        w->rows = pn_ceil_div(g->m, mc);
        w->cols = pn_ceil_div(g->n, nc);
        if (batch * w->rows * w->cols >= CHUNKS || mc * nc * g->k <= CHUNK ||
            (nc <= 4 * NR && mc < 16 * MR))
            break;
    }
}

static int64_t batch_of(const pn_gemm_args *g) {
    int64_t batch = 1;
    for (int d = 0; d < g->n_batch; d++) batch *= g->batch[d];
    return batch;
}

/* Whether it is one chunk, for which nothing is packed beforehand. */
static int is_small(const pn_gemm_args *g, int64_t batch) {
    return g->m * g->n * g->k * batch <= pn_grain(CHUNK);
}

/* Whether A's columns, contiguous or turned on the way, fill vectors that B's few columns would leave half empty. */
static int is_narrow(const pn_gemm_args *g) {
    return g->n <= PN_VL * 3 / 4 && g->m >= PN_VL && g->k >= NARROW && g->a.cs != g->a.rs &&
           (g->a.rs == 1 || (TURN_ROWS && g->a.cs == 1));
}

/* Rows by one B: those of a batch count, whether their strides let them be merged or not. */
static int64_t rows_by_b(const pn_gemm_args *g) {
    int64_t rows = g->m;
    for (int d = 0; d < g->n_batch; d++) rows *= g->b.bs[d] ? 1 : g->batch[d];
    return rows;
}

/* Whether elements are dot products along memory. */
static int has_dots(const pn_gemm_args *g, int64_t rows) {
    return rows <= PN_DOT_ROWS && g->b.rs == 1 && g->k >= (rows == 1 ? 2 : PN_DOT_FROM);
}

/* Whether C' = B' A' is solved: always where that makes dot products. */
static int turns(const pn_gemm_args *g) {
    if (g->m == 1 || has_dots(g, rows_by_b(g))) return 0;
    return g->n == 1 || (g->n <= PN_DOT_ROWS && g->a.cs == 1 && g->k >= PN_DOT_FROM) ||
           (g->c.cs != 1 && g->c.rs == 1) || is_narrow(g);
}

/* Whether A is read better from a packed copy: what a tile reads at once meets in one set of L1, or is a small
 * part of each line, or is not contiguous. */
static int is_scattered(const pn_mat *a) {
    int64_t step = a->cs == 1 ? a->rs : a->rs == 1 ? a->cs : 0;
    return meets(step) || (a->cs != 1 && MR * sizeof(T) <= PN_ALIGN * 3 / 4);
}

static void plan(job *w, const pn_gemm_args *g) {
    int64_t batch, mc, nc, rows = rows_by_b(g);
    w->g = g;
    if (g->n_batch || turns(g)) { /* most products need no copy */
        w->own = *g;
        merge_rows(&w->own);
        if (turns(&w->own)) {
            transpose(&w->own);
            rows = w->own.m;
        }
        w->g = g = &w->own;
    }
    batch = batch_of(g);
    w->units = 0;
    w->a_bytes = w->b_bytes = w->split = 0;
    if (!batch || !g->m || !g->n) return;
    w->dots = has_dots(g, rows);
    w->ks = cut(g->k, w->dots ? KD : KC);
    w->q0 = 0, w->q1 = w->ks.n;
    w->rows = w->cols = 1, w->units = w->group = batch;
    if (is_small(g, batch)) return; /* no division is spent on it */
    if (batch == 1 && g->m * g->n <= SPLIT_MOST && w->ks.n >= SPLIT_BLOCKS) {
        plan_split(w);
        return;
    }
    if (batch == 1 && g->m >= SHARED_ROWS && g->n >= 2 * NR && g->k >= KC / 8)
        plan_shared(w);
    else
        plan_own(w, batch);
    mc = pn_max(1, pn_grain(pn_ceil_div(g->m, w->rows)) / MR);
    nc = pn_max(1, pn_grain(pn_ceil_div(g->n, w->cols)) / NR);
    if (pn_grain(CHUNK) < CHUNK) {
        w->rows = pn_ceil_div(pn_ceil_div(g->m, MR), mc);
        w->cols = pn_ceil_div(pn_max(1, g->n / NR), nc);
    }
    mc = pn_ceil_div(pn_ceil_div(g->m, MR), w->rows) * MR;
    nc = pn_ceil_div(g->n, w->cols);
    w->units = batch * w->rows * w->cols;
    w->group = pn_max(1, pn_grain(CHUNK) / pn_max(1, mc * nc * g->k));
    if (mc >= 4 * MR && nc >= PACK_A && g->k >= KC / 4 && is_scattered(&g->a))
        w->a_bytes = round_up(pn_ceil_div(mc, tile_height(g)) * TILE_ROOM(pn_min(g->k, KC)) *
                                  (int64_t)sizeof(T),
                              PN_ALIGN);
}

/* The at-th of n parts of whole units, the last of which takes what is beyond the last unit. */
static int64_t part_start(int64_t size, int64_t unit, int64_t units, int64_t at, int64_t n) {
    return at == n ? size : at * units / n * unit;
}

/* Moves x to its place in the batch and to row i, column j. */
static void move(pn_mat *x, const pn_gemm_args *g, int64_t at, int64_t i, int64_t j) {
    if (!x->p) return;
    x->p += i * x->rs + j * x->cs;
    for (int d = g->n_batch - 1; d >= 0; d--) {
        x->p += at % g->batch[d] * x->bs[d];
        at /= g->batch[d];
    }
}

static void run_one(const job *w, const pn_gemm_args *g, T *packed, const T *b, int64_t j0) {
    if (w->dots || (g->m == 1 && !b && g->b.cs == 1))
        run_rows(w, g);
    else
        run(w, g, packed, b, j0);
}

static void body(pn_call *c, void *arg, int64_t chunk, int worker) {
    const job *w = arg;
    const T *b = w->b_bytes ? (const T *)w->scratch : NULL;
    T *packed = w->a_bytes ? (T *)(w->scratch + w->b_bytes + worker * w->a_bytes) : NULL;
    (void)c;
    if (w->units == 1 && !w->g->n_batch) { /* most small products */
        run_one(w, w->g, packed, b, 0);
        return;
    }
    for (int64_t u = chunk * w->group; u < pn_min(w->units, (chunk + 1) * w->group); u++) {
        pn_gemm_args g = *w->g;
        int64_t at = u / (w->rows * w->cols), r = u % w->rows, s = u / w->rows % w->cols;
        int64_t tiles = pn_ceil_div(g.m, MR), panels = pn_max(1, g.n / NR);
        int64_t i = part_start(g.m, MR, tiles, r, w->rows),
                j = part_start(g.n, NR, panels, s, w->cols);
        move(&g.a, &g, at, i, 0);
        move(&g.b, &g, at, 0, j);
        move(&g.c, &g, at, i, j);
        move(&g.bias, &g, at, i, j);
        move(&g.res, &g, at, i, j);
        g.m = part_start(g.m, MR, tiles, r + 1, w->rows) - i;
        g.n = part_start(g.n, NR, panels, s + 1, w->cols) - j;
        run_one(w, &g, packed, b, j);
    }
}

/* Chunks of packing B: SLICE columns of one block of k, or what is left of them. */
static void pack_body(pn_call *c, void *arg, int64_t chunk, int worker) {
    const job *w = arg;
    const pn_gemm_args *g = w->g;
    int64_t slices = pn_max(1, g->n / SLICE), q = w->q0 + chunk / slices,
            j = chunk % slices * SLICE;
    int64_t k0 = block_start(w->ks, q), k = w->ks.size + (q < w->ks.longer);
    int64_t n = chunk % slices == slices - 1 ? g->n - j : SLICE;
    T *to = (T *)w->scratch + (k0 - block_start(w->ks, w->q0)) * round_up(g->n, PN_VL) + j * k;
    (void)c, (void)worker;
    pack_b(to, g->b.p + k0 * g->b.rs + j * g->b.cs, g->b.rs, g->b.cs, n, k);
}

/* The sums of `group` blocks of k, of each of them m rows of n. */
static void split_body(pn_call *c, void *arg, int64_t chunk, int worker) {
    const job *w = arg;
    (void)c, (void)worker;
    for (int64_t e = chunk * w->group, q; e < (chunk + 1) * w->group; e++) {
        if ((q = w->q0 + e) >= w->q1) break;
        int64_t k0 = block_start(w->ks, q), k = w->ks.size + (q < w->ks.longer);
        pn_gemm_args g = {.m = w->g->m, .n = w->g->n, .k = k, .a = w->g->a, .b = w->g->b};
        job one = {.ks = {1, k, 0}, .q1 = 1, .dots = w->dots};
        move(&g.a, w->g, 0, 0, k0);
        move(&g.b, w->g, 0, k0, 0);
        g.c = (pn_mat){.p = (T *)w->scratch + e * g.m * g.n, .rs = g.n, .cs = 1};
        run_one(&one, &g, NULL, NULL, 0);
    }
}

/* Adds the sums of blocks q0 to q1 in their order, a row of C after another. */
static void add_body(pn_call *c, void *arg, int64_t chunk, int worker) {
    const job *w = arg;
    const pn_gemm_args *g = w->g;
    T total[STRIP];
    (void)c, (void)worker;
    for (int64_t j = 0, n; j < g->n; j += n) {
        const T *sums = (const T *)w->scratch + chunk * g->n + j;
        T *to = g->c.p + chunk * g->c.rs + j * g->c.cs;
        n = pn_min(STRIP, g->n - j);
        memcpy(total, sums, (size_t)n * sizeof(T));
        if (w->q0 || g->accumulate) add_row(total, to, g->c.cs, n);
        for (int64_t q = w->q0 + 1; q < w->q1; q++) add_row(total, sums += g->m * g->n, 1, n);
        if (w->q1 == w->ks.n)
            finish_row(g, total, chunk, j, n);
        else
            copy(to, 0, g->c.cs, total, 0, 1, 1, n);
    }
}

int64_t PN_NAME(gemm_scratch)(const pn_gemm_args *g) {
    job w;
    if (is_small(g, batch_of(g))) return 0;
    plan(&w, g);
    return w.b_bytes + w.a_bytes * pn_max_workers();
}

void PN_NAME(gemm)(pn_call *c, const pn_gemm_args *g, void *scratch) {
    job w;
    if (PN_NAME(blas)(c, g)) return;
    plan(&w, g);
    w.scratch = scratch;
    if (!w.units) return;
    int64_t chunks = w.units == w.group ? 1 : pn_ceil_div(w.units, w.group);
    if (!w.b_bytes) {
        pn_for(c, chunks, body, &w);
        return;
    }
    int64_t slices = pn_max(1, w.g->n / SLICE);
    for (w.q0 = 0; w.split && w.q0 < w.ks.n; w.q0 = w.q1) {
        w.q1 = pn_min(w.ks.n, w.q0 + w.at_once);
        pn_for(c, pn_ceil_div(w.q1 - w.q0, w.group), split_body, &w);
        pn_for(c, w.g->m, add_body, &w);
    }
    for (w.q0 = 0; !w.split && w.q0 < w.ks.n; w.q0 = w.q1) {
        w.q1 = pn_min(w.ks.n, w.q0 + w.at_once);
        pn_for(c, (w.q1 - w.q0) * slices, pack_body, &w);
        pn_for(c, chunks, body, &w);
    }
}
