/* pn_gemm.c: C = act(A B (+ C) + bias + res), see pn_gemm.h.
 *
 *     c_ij = S_1 + S_2 + ...,  S_q = fma(a_ip, b_pj, ...fma(a_i0, b_0j, 0)) over the q-th block of k
 *
 * k is cut into blocks of at most KC, as equal as can be, and an element is the sum of its blocks in
 * order, each of them one chain of fused multiply-adds. Nothing else touches the value: tiles, packing,
 * chunks, layouts and batches move data only, and no lane looks at another. So the same row gives the
 * same bits alone or in a batch, and all ISA levels that fuse give the same bits too.
 *
 * Algorithm (Goto and van de Geijn 2008; Van Zee and van de Geijn 2015), per chunk of C:
 *
 *     for each block of k                       A's rows are packed where they are read often
 *       for each panel of NR columns            B's panel goes to 1/2 L1, unless it can be read in place
 *         for each tile of <= MR rows           kernel: MR x NR of C in registers
 *
 * The kernel reads A and B by strides, broadcasting a_ip and loading NR of b_p at once, so that packed or
 * not is the same code. Small products pack nothing but a B whose columns are not contiguous, and a single
 * row turns such a B in registers. Tiles of a chunk have almost equal heights (32 rows are 6+6+5+5+5+5,
 * not 5 times 6 and 2) and each height has its own kernel. At the right edge the two vectors of a tile
 * overlap; only a C of fewer columns than a vector takes a padded copy. C's columns must be contiguous for
 * the kernel: a column-major C is solved as C' = B'A', others go through a tile-sized buffer.
 *
 * Chunks are at most MC x NC, in parallel; their size depends on m, n, k and the batch only.
 */
#include <string.h>

#include "pn_gemm.h"
#include "pn_simd.h"

#define NV 2
#define NR (NV * PN_VL)
#define KC 256
#define MC 192
#define NC 512
#define CHUNK (1 << 20)   /* multiplications worth a chunk of their own, some 20 us */
#define CHUNKS 8          /* enough of them to keep a machine busy */
#define IN_PLACE (8 * MR) /* rows from which on B's panel is worth packing */

/* Tile heights: MR * NV sums, NV of b and one of a fit the registers: 32, 32, 16, 16. */
#if PN_VBYTES == 64
#define MR 14
#define HEIGHTS(X) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14)
#elif defined __aarch64__
#define MR 8
#define HEIGHTS(X) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8)
#elif PN_VBYTES == 32
#define MR 6
#define HEIGHTS(X) X(1) X(2) X(3) X(4) X(5) X(6)
#else
#define MR 4
#define HEIGHTS(X) X(1) X(2) X(3) X(4)
#endif

/* ---- the kernel: one tile of C ---------------------------------------------------------------- */

/* A tile's place in C and what becomes of its sums there; columns are contiguous in all of them. */
typedef struct target {
    T *c;
    int64_t rs;
    const T *add[2]; /* bias and res, or NULL */
    int64_t add_rs[2];
    int64_t v1;     /* the column of the second vector: PN_VL, or less where the tile is ragged */
    const T *start; /* sums that are done already, of one row, or NULL */
    int accumulate, relu;
} target;

typedef void (*kernel_fn)(int64_t k, const T *a, int64_t ars, int64_t acs, const T *b, int64_t brs,
                          const target *t);

#define ALL(i, n) _Pragma("GCC unroll 16") for (int i = 0; i < n; i++)
#define TILE ALL(i, mr) ALL(v, nv)

/* m and n are constants at each call, so that the sums live in registers. A's rows are addressed in
 * groups of three from one pointer each, as x86 can add a register once or twice to an address. The two
 * vectors of a ragged tile overlap: the columns in both come out the same in both. */
PN_INLINE void kernel(const int mr, const int nv, int64_t k, const T *a, int64_t ars, int64_t acs,
                      const T *b, int64_t brs, const target *t) {
    const int64_t v1 = t->v1;
    V sum[MR][NV];
    const T *row[(MR + 2) / 3];
    TILE sum[i][v] = t->start ? pn_load(t->start + v * v1) : (V){0};
    ALL(g, (mr + 2) / 3) row[g] = a + 3 * g * ars;
    for (int64_t p = 0; p < k; p++) {
        V y[NV];
        ALL(v, nv) y[v] = pn_load(b + v * v1);
        ALL(i, mr) {
            V x = pn_set1(row[i / 3][i % 3 * ars]);
            ALL(v, nv) sum[i][v] = pn_fma(x, y[v], sum[i][v]);
        }
        ALL(g, (mr + 2) / 3) row[g] += acs;
        b += brs;
    }
    if (t->accumulate) TILE sum[i][v] = pn_load(t->c + i * t->rs + v * v1) + sum[i][v];
    if (t->add[0]) TILE sum[i][v] += pn_load(t->add[0] + i * t->add_rs[0] + v * v1);
    if (t->add[1]) TILE sum[i][v] += pn_load(t->add[1] + i * t->add_rs[1] + v * v1);
    if (t->relu) TILE sum[i][v] = pn_select(sum[i][v] <= (V){0}, (V){0}, sum[i][v]);
    TILE pn_store(t->c + i * t->rs + v * v1, sum[i][v]);
}

#define KERNEL(mr, nv)                                                                             \
    static void kernel_##mr##_##nv(int64_t k, const T *a, int64_t ars, int64_t acs, const T *b,    \
                                   int64_t brs, const target *t) {                                 \
        kernel(mr, nv, k, a, ars, acs, b, brs, t);                                                 \
    }
#define KERNELS(mr) KERNEL(mr, 1) KERNEL(mr, 2)
HEIGHTS(KERNELS)
#define ROW(mr) {kernel_##mr##_1, kernel_##mr##_2},
static const kernel_fn kernels[MR][NV] = {HEIGHTS(ROW)};

/* ---- packing ---------------------------------------------------------------------------------- */

/* 16 bytes: small enough that a square of them turns in registers on every machine. */
typedef T Q __attribute__((vector_size(16)));
typedef T qmem __attribute__((vector_size(16), aligned(sizeof(T)), may_alias));
#define QL ((int)(16 / sizeof(T)))

/* r[i][j] = from_j[p + i], i and j < QL */
PN_INLINE void turn(Q *r, const T *const *from, int64_t p) {
    Q s[QL];
    ALL(j, QL) r[j] = *(const qmem *)(from[j] + p);
#if PN_KIND == PN_f32
    s[0] = __builtin_shufflevector(r[0], r[1], 0, 4, 1, 5);
    s[1] = __builtin_shufflevector(r[2], r[3], 0, 4, 1, 5);
    s[2] = __builtin_shufflevector(r[0], r[1], 2, 6, 3, 7);
    s[3] = __builtin_shufflevector(r[2], r[3], 2, 6, 3, 7);
    r[0] = __builtin_shufflevector(s[0], s[1], 0, 1, 4, 5);
    r[1] = __builtin_shufflevector(s[0], s[1], 2, 3, 6, 7);
    r[2] = __builtin_shufflevector(s[2], s[3], 0, 1, 4, 5);
    r[3] = __builtin_shufflevector(s[2], s[3], 2, 3, 6, 7);
#else
    s[0] = __builtin_shufflevector(r[0], r[1], 0, 2);
    s[1] = __builtin_shufflevector(r[0], r[1], 1, 3);
    r[0] = s[0];
    r[1] = s[1];
#endif
}

/* A panel of B, n columns of k rows: to[p * w + j] = b[p * rs + j * cs]. The w - n columns beyond n
 * repeat the last: they are never stored, and any number of B's own is safe and no slower than it. */
static void pack_b(T *to, int64_t w, const T *b, int64_t rs, int64_t cs, int64_t n, int64_t k) {
    if (cs == 1 && n >= PN_VL) {
        for (int64_t p = 0; p < k; p++, to += w, b += rs) {
            __builtin_prefetch(b + n);
            pn_store(to, pn_load(b));
            pn_store(to + n - PN_VL, pn_load(b + n - PN_VL));
        }
        return;
    }
    for (int64_t j = 0; j < w; j += QL) {
        const T *from[QL];
        for (int i = 0; i < QL; i++) from[i] = b + (j + i < n ? j + i : n - 1) * cs;
        int64_t p = 0;
        if (rs == 1)
            for (; p + QL <= k; p += QL) {
                Q r[QL];
                turn(r, from, p);
                ALL(i, QL) * (qmem *)(to + (p + i) * w + j) = r[i];
            }
        for (; p < k; p++) ALL(i, QL) to[p * w + j + i] = from[i][p * rs];
    }
}

PN_INLINE Q fma_q(Q a, Q b, Q c) {
#if defined __aarch64__ || PN_HBYTES == 16
    return pn_fma_h(a, b, c);
#elif PN_KIND == PN_f32
    return _mm_fmadd_ps(a, b, c);
#else
    return _mm_fmadd_pd(a, b, c);
#endif
}

/* One row of A by n columns of B that are contiguous (x W' with a W by rows), turned on the fly, as
 * nothing is read twice. A cache line of each column at a time: columns 4096 bytes apart share a set. */
static __attribute__((noinline)) void row_sums(T *to, const T *a, int64_t acs, const T *b,
                                               int64_t cs, int64_t n, int64_t k) {
    enum { GROUPS = NR / QL, LINE = PN_ALIGN / sizeof(T) };
    const T *from[GROUPS][QL];
    Q sum[GROUPS], r[2][QL] = {{{0}}};
    ALL(g, GROUPS) ALL(i, QL) from[g][i] = b + pn_min(g * QL + i, n - 1) * cs;
    ALL(g, GROUPS) sum[g] = (Q){0};
    for (int64_t p0 = 0; p0 < k; p0 += LINE) {
        int64_t end = pn_min(p0 + LINE, k);
        for (int g = 0; g < GROUPS; g += 2) { /* two sums at once, lest each wait for itself */
            Q s = sum[g], t = sum[g + 1];
            int64_t p = p0;
            for (; p + QL <= end; p += QL) {
                turn(r[0], from[g], p);
                turn(r[1], from[g + 1], p);
                ALL(i, QL) {
                    Q x = a[(p + i) * acs] - (Q){0};
                    s = fma_q(x, r[0][i], s);
                    t = fma_q(x, r[1][i], t);
                }
            }
            for (; p < end; p++) {
                ALL(i, QL) r[0][0][i] = from[g][i][p], r[1][0][i] = from[g + 1][i][p];
                s = fma_q(a[p * acs] - (Q){0}, r[0][0], s);
                t = fma_q(a[p * acs] - (Q){0}, r[1][0], t);
            }
            sum[g] = s;
            sum[g + 1] = t;
        }
    }
    ALL(g, GROUPS) * (qmem *)(to + g * QL) = sum[g];
}

/* A tile of A: by rows, k apart, or, where A's columns are the contiguous ones, by columns, MR apart.
 * left: the rows that A has from here on; whole columns of MR are copied where that many are left. */
static void pack_a(T *to, const T *a, int64_t rs, int64_t cs, int64_t m, int64_t left, int64_t k) {
    if (rs != 1)
        for (int64_t i = 0; i < m; i++)
            for (int64_t p = 0; p < k; p++) to[i * k + p] = a[i * rs + p * cs];
    else if (left >= MR)
        for (int64_t p = 0; p < k; p++) memcpy(to + p * MR, a + p * cs, MR * sizeof(T));
    else
        for (int64_t p = 0; p < k; p++)
            for (int64_t i = 0; i < m; i++) to[p * MR + i] = a[p * cs + i];
}

/* ---- one chunk, or a whole small product ------------------------------------------------------ */

PN_INLINE void copy(T *to, int64_t trs, int64_t tcs, const T *from, int64_t rs, int64_t cs,
                    int64_t m, int64_t n) {
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++) to[i * trs + j * tcs] = from[i * rs + j * cs];
}

/* Where a tile's sums of one block of k come from. */
typedef struct source {
    const T *a, *b;
    int64_t k, ars, acs, brs;
    int first, last;
    const T *sums; /* of one row, ready made */
} source;

/* The mr x nr tile at i, j. What the kernel cannot read or write in place, because it is narrower than a
 * vector or its columns are not contiguous, goes through buf. */
static void run_tile(const pn_gemm_args *g, const source *s, int64_t i, int64_t mr, int64_t j,
                     int64_t nr) {
    T buf[3][MR * NR] __attribute__((aligned(PN_ALIGN)));
    int narrow = nr < PN_VL, through = narrow || g->c.cs != 1;
    T *c = g->c.p + i * g->c.rs + j * g->c.cs;
    target t = {c,
                g->c.rs,
                {NULL, NULL},
                {0, 0},
                nr - PN_VL,
                s->sums,
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
            copy(buf[1 + e], NR, 1, t.add[e], x->rs, x->cs, x->rs ? mr : 1, nr);
            t.add[e] = buf[1 + e];
            t.add_rs[e] = x->rs ? NR : 0;
        }
    }
    kernels[mr - 1][(nr - 1) / PN_VL](s->sums ? 0 : s->k, s->a, s->ars, s->acs, s->b, s->brs, &t);
    if (through) copy(c, g->c.rs, g->c.cs, t.c, NR, 1, mr, nr);
}

/* n parts, as equal as can be: the first `longer` have size + 1 rows, the others size. */
typedef struct parts {
    int64_t n, size, longer;
} parts;

static parts cut(int64_t rows, int64_t most) {
    int64_t n = rows <= most ? 1 : (rows + most - 1) / most;
    return n == 1 ? (parts){1, rows, 0} : (parts){n, rows / n, rows % n};
}

/* The panel at column j. packed: A's tiles, or NULL where A is read in place. */
static void run_panel(const pn_gemm_args *g, source *s, parts ts, const T *a, const T *packed,
                      int64_t j, int64_t nr) {
    for (int64_t t = 0, i = 0, mr; t < ts.n; t++, i += mr) {
        mr = ts.size + (t < ts.longer);
        s->a = packed ? packed + t * MR * s->k : a + i * g->a.rs;
        run_tile(g, s, i, mr, j, nr);
    }
}

static void pack_tiles(const pn_gemm_args *g, const source *s, parts ts, const T *a, T *packed) {
    for (int64_t t = 0, i = 0, mr; t < ts.n; t++, i += mr) {
        mr = ts.size + (t < ts.longer);
        pack_a(packed + t * MR * s->k, a + i * g->a.rs, g->a.rs, g->a.cs, mr, g->m - i, s->k);
    }
}

/* As wide as the kernel takes, such that the last panel is no less than a vector wide if n is not. */
static int64_t panel_width(int64_t left) {
    if (left <= NR) return left;
    return left < NR + PN_VL ? PN_VL : NR;
}

/* packed: room for A's tiles in one block of k, or NULL. */
static void run(const pn_gemm_args *g, T *packed) {
    T panel[KC * NR] __attribute__((aligned(PN_ALIGN)));
    parts ts = cut(g->m, MR), ks = cut(g->k, KC);
    source s = {.ars = g->a.rs, .acs = g->a.cs};
    int dots = g->m == 1 && g->b.rs == 1 && g->b.cs != 1;
    for (int64_t q = 0, k0 = 0; q < ks.n; q++, k0 += s.k) {
        const T *a = g->a.p + k0 * g->a.cs;
        s.k = ks.size + (q < ks.longer);
        s.first = q == 0;
        s.last = q == ks.n - 1;
        if (packed) {
            pack_tiles(g, &s, ts, a, packed);
            s.ars = g->a.rs != 1 ? s.k : 1;
            s.acs = g->a.rs != 1 ? 1 : MR;
        }
        for (int64_t j = 0, nr; j < g->n; j += nr) {
            nr = panel_width(g->n - j);
            s.b = g->b.p + k0 * g->b.rs + j * g->b.cs;
            s.brs = g->b.rs;
            if (dots) {
                row_sums(panel, a, g->a.cs, s.b, g->b.cs, nr, s.k);
                s.sums = panel;
            } else if (g->b.cs != 1 || nr < PN_VL || g->m > IN_PLACE) {
                s.brs = (nr + PN_VL - 1) / PN_VL * PN_VL;
                pack_b(panel, s.brs, s.b, g->b.rs, g->b.cs, nr, s.k);
                s.b = panel;
            }
            run_panel(g, &s, ts, a, packed, j, nr);
        }
    }
    if (g->act) g->act(g);
}

/* ---- the whole -------------------------------------------------------------------------------- */

typedef struct job {
    pn_gemm_args g;
    int64_t mc, nc, rows, cols; /* a chunk's size, and the grid of chunks in one matrix */
    int64_t units, group; /* chunks in all matrices, and how many of them pn_for sees as one */
    int64_t a_bytes; /* of a worker's packed A, 0 where A is read in place */
    char *scratch;
} job;

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

static int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

static int64_t chunk_size(int64_t n, int64_t most, int64_t unit) {
    int64_t even = pn_ceil_div(n, pn_ceil_div(n, most));
    return round_up(pn_max(1, pn_grain(even)), unit);
}

static void plan(job *w, const pn_gemm_args *g0) {
    pn_gemm_args *g = &w->g;
    int64_t batch = 1, mc, nc;
    *g = *g0;
    merge_rows(g);
    if (g->m > 1 && (g->n == 1 || (g->c.cs != 1 && g->c.rs == 1))) transpose(g);
    for (int d = 0; d < g->n_batch; d++) batch *= g->batch[d];
    w->units = 0;
    w->a_bytes = 0;
    if (!batch || !g->m || !g->n) return;
    w->mc = g->m, w->nc = g->n, w->rows = w->cols = 1, w->units = w->group = batch;
    if (g->m * g->n * g->k * batch <= pn_grain(CHUNK))
        return; /* one chunk: no division is spent on it */
    for (mc = pn_min(g->m, MC), nc = pn_min(g->n, NC);; nc > 4 * NR ? (nc /= 2) : (mc /= 2)) {
        int64_t count = batch * pn_ceil_div(g->m, mc) * pn_ceil_div(g->n, nc);
        if (count >= CHUNKS || mc * nc * g->k <= CHUNK || (nc <= 4 * NR && mc < 16 * MR)) break;
    }
    w->mc = chunk_size(g->m, mc, MR);
    w->nc = chunk_size(g->n, nc, NR);
    w->rows = pn_ceil_div(g->m, w->mc);
    w->cols = pn_ceil_div(g->n, w->nc);
    w->units = batch * w->rows * w->cols;
    w->group = pn_max(1, pn_grain(CHUNK) / pn_max(1, w->mc * w->nc * g->k));
    if (w->mc >= 4 * MR && w->nc >= 4 * NR && g->k >= KC / 4)
        w->a_bytes = round_up(w->mc * pn_min(g->k, KC) * (int64_t)sizeof(T), PN_ALIGN);
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

static void body(pn_call *c, void *arg, int64_t chunk, int worker) {
    const job *w = arg;
    T *packed = w->a_bytes ? (T *)(w->scratch + worker * w->a_bytes) : NULL;
    (void)c;
    if (w->units == 1 && !w->g.n_batch) { /* most small products */
        run(&w->g, packed);
        return;
    }
    for (int64_t u = chunk * w->group; u < pn_min(w->units, (chunk + 1) * w->group); u++) {
        pn_gemm_args g = w->g;
        int64_t at = u / (w->rows * w->cols), i = u % w->rows * w->mc,
                j = u / w->rows % w->cols * w->nc;
        move(&g.a, &g, at, i, 0);
        move(&g.b, &g, at, 0, j);
        move(&g.c, &g, at, i, j);
        move(&g.bias, &g, at, i, j);
        move(&g.res, &g, at, i, j);
        g.m = pn_min(w->mc, g.m - i);
        g.n = pn_min(w->nc, g.n - j);
        run(&g, packed);
    }
}

int64_t PN_NAME(gemm_scratch)(const pn_gemm_args *g) {
    job w;
    plan(&w, g);
    return w.a_bytes * pn_max_workers();
}

void PN_NAME(gemm)(pn_call *c, const pn_gemm_args *g, void *scratch) {
    job w;
    if (PN_NAME(blas)(c, g)) return;
    plan(&w, g);
    w.scratch = scratch;
    if (w.units) pn_for(c, w.units == w.group ? 1 : pn_ceil_div(w.units, w.group), body, &w);
}
