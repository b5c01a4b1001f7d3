/* pn_blas.c: the product of pn_gemm.h by a BLAS that the user has chosen.
 *
 *     C = A B (+ C) by ?gemm, or ?gemv where C is one row;  then act(C + bias + res), while C is in cache
 *
 * BLAS counts columns first, so that it is given C' = B' A'. It takes matrices whose rows or whose columns
 * are contiguous and at least as far apart as they are long, sizes below 2^31, and k > 0: all else is left
 * to pn_gemm.c. A large C is cut into blocks, at places that depend on sizes alone, and each block is one
 * call of BLAS from the thread team: BLAS itself must use one thread. Its sums may be added in an order
 * that changes with the block's size and place, thus the promises of pn_gemm.h on bits do not hold here.
 *
 * Integers are passed as 64-bit ones. What reads 32 bits finds the same number there, the lower half coming
 * first in memory on every machine that pynn knows, so that one code serves both kinds of BLAS.
 */
#include <string.h>

#include "pn_gemm.h"
#include "pn_simd.h"

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "BLAS's integers are passed as if the lower half came first"
#endif

#define MOST INT32_MAX
#define CUT (1 << 22)     /* multiplications worth a call of their own, some 100 us */
#define CUTS 8            /* enough blocks, unless they are larger than */
#define LARGE (32 * CUT)
#define GROUP (1 << 20)   /* small products of a batch are taken together up to this */
#define UNIT 16           /* blocks begin at multiples of it */

typedef void (*blas_gemm)(char *ta, char *tb, int64_t *m, int64_t *n, int64_t *k, T *alpha, T *a,
                          int64_t *lda, T *b, int64_t *ldb, T *beta, T *c, int64_t *ldc);
typedef void (*blas_gemv)(char *t, int64_t *m, int64_t *n, T *alpha, T *a, int64_t *lda, T *x,
                          int64_t *incx, T *beta, T *y, int64_t *incy);

/* A matrix as BLAS sees it: trans 'N' where its rows are contiguous here, 'T' where its columns are. */
typedef struct operand {
    char trans;
    int64_t ld;
} operand;

typedef struct job {
    pn_gemm_args g;
    operand a, b;
    const pn_blas_table *blas;
    int vector; /* by gemv */
    int64_t mc, nc, rows, cols, units,
        group; /* a block's size, the grid, blocks, those of a chunk */
} job;

static int read_operand(const pn_mat *x, int64_t rows, int64_t cols, operand *o) {
    if ((cols == 1 || x->cs == 1) && (rows == 1 || x->rs >= cols))
        *o = (operand){'N', rows == 1 ? cols : x->rs};
    else if ((rows == 1 || x->rs == 1) && (cols == 1 || x->cs >= rows))
        *o = (operand){'T', cols == 1 ? rows : x->cs};
    else
        return 0;
    return o->ld <= MOST;
}

static void transpose(pn_gemm_args *g) {
    pn_mat *x[] = {&g->a, &g->b, &g->c, &g->bias, &g->res}, t;
    int64_t m = g->m, rs;
    for (int e = 0; e < 5; e++) rs = x[e]->rs, x[e]->rs = x[e]->cs, x[e]->cs = rs;
    t = g->a, g->a = g->b, g->b = t;
    g->m = g->n, g->n = m;
}

static int64_t cut(int64_t size, int64_t parts) {
    return pn_ceil_div(pn_ceil_div(size, parts), UNIT) * UNIT;
}

/* Whether BLAS can compute it, and how. */
static int plan(job *w, const pn_gemm_args *g0) {
    pn_gemm_args *g = &w->g;
    int64_t batch = 1, rows = 1, cols = 1;
    *g = *g0;
    for (int d = 0; d < g->n_batch; d++) batch *= g->batch[d];
    if (!batch || !g->m || !g->n || !g->k) return 0;
    if (g->m > MOST || g->n > MOST || g->k > MOST) return 0;
    if (g->m > 1 && (g->n == 1 || g->c.cs != 1)) transpose(g);
    w->vector = g->m == 1 && (g->k == 1 || (g->a.cs > 0 && g->a.cs <= MOST)) &&
                (g->n == 1 || (g->c.cs > 0 && g->c.cs <= MOST));
    if (!read_operand(&g->b, g->k, g->n, &w->b)) return 0;
    if (!w->vector) {
        int dense = (g->n == 1 || g->c.cs == 1) && (g->m == 1 || g->c.rs >= g->n);
        if (!dense || g->c.rs > MOST || !read_operand(&g->a, g->m, g->k, &w->a)) return 0;
    }
    for (;;) { /* halves the longer side */
        int64_t mc = pn_ceil_div(g->m, rows), nc = pn_ceil_div(g->n, cols), work = mc * nc * g->k;
        int enough = batch * rows * cols >= CUTS;
        if (work <= (enough ? pn_grain(LARGE) : pn_grain(CUT)) || pn_max(mc, nc) <= 2 * UNIT) break;
        if (mc > nc)
            rows *= 2;
        else
            cols *= 2;
    }
    w->mc = cut(g->m, rows), w->nc = cut(g->n, cols);
    w->rows = pn_ceil_div(g->m, w->mc), w->cols = pn_ceil_div(g->n, w->nc);
    w->units = batch * w->rows * w->cols;
    w->group = pn_max(1, pn_grain(GROUP) / (pn_min(g->m, w->mc) * pn_min(g->n, w->nc) * g->k));
    return 1;
}

static void move(pn_mat *x, const pn_gemm_args *g, int64_t at, int64_t i, int64_t j) {
    if (!x->p) return;
    x->p += i * x->rs + j * x->cs;
    for (int d = g->n_batch - 1; d >= 0; d--) {
        x->p += at % g->batch[d] * x->bs[d];
        at /= g->batch[d];
    }
}

/* Up to PN_VL elements of row i from column j on. */
PN_INLINE V pick(const pn_mat *x, int64_t i, int64_t j, int64_t n) {
    const T *p = x->p + i * x->rs + j * x->cs;
    V v;
    if (x->cs == 1) return pn_load_part(p, n, 0);
    v = pn_set1(*p);
    for (int64_t e = 1; x->cs && e < pn_min(n, PN_VL); e++) v[e] = p[e * x->cs];
    return v;
}

/* c = act(c + bias + res); the columns of C are contiguous, or it has one row and is narrow or strided. */
static void finish(const pn_gemm_args *g) {
    for (int64_t i = 0; i < g->m && (g->bias.p || g->res.p || g->relu); i++)
        for (int64_t j = 0; j < g->n; j += PN_VL) {
            int64_t n = pn_min(PN_VL, g->n - j);
            T *c = g->c.p + i * g->c.rs + j * g->c.cs;
            V x = pick(&g->c, i, j, n);
            if (g->bias.p) x += pick(&g->bias, i, j, n);
            if (g->res.p) x += pick(&g->res, i, j, n);
            if (g->relu) x = pn_select(x <= (V){0}, (V){0}, x);
            if (g->c.cs == 1)
                pn_store_part(c, x, n);
            else
                for (int64_t e = 0; e < n; e++) c[e * g->c.cs] = x[e];
        }
    if (g->act) g->act(g);
}

static void run(const job *w, pn_gemm_args *g) {
    T one = 1, beta = g->accumulate;
    int64_t lda = w->a.ld, ldb = w->b.ld, ldc = pn_max(g->m > 1 ? g->c.rs : g->n, 1);
    char ta = w->a.trans, tb = w->b.trans;
    if (w->vector) {
        int64_t incx = g->k > 1 ? g->a.cs : 1, incy = g->n > 1 ? g->c.cs : 1;
        for (int64_t j = 0; !g->accumulate && j < g->n; j++) g->c.p[j * incy] = 0; /* not 0 * NaN */
        ((blas_gemv)w->blas->gemv[PN_DTYPE])(&tb, tb == 'N' ? &g->n : &g->k,
                                             tb == 'N' ? &g->k : &g->n, &one, g->b.p, &ldb, g->a.p,
                                             &incx, &one, g->c.p, &incy);
    } else
        ((blas_gemm)w->blas->gemm[PN_DTYPE])(&tb, &ta, &g->n, &g->m, &g->k, &one, g->b.p, &ldb,
                                             g->a.p, &lda, &beta, g->c.p, &ldc);
    finish(g);
}

static void body(pn_call *c, void *arg, int64_t chunk, int worker) {
    const job *w = arg;
    (void)c, (void)worker;
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
        run(w, &g);
    }
}

int PN_NAME(blas)(pn_call *c, const pn_gemm_args *g) {
    job w;
    w.blas = pn_blas();
    if (!w.blas || !plan(&w, g)) return 0;
    pn_for(c, pn_ceil_div(w.units, w.group), body, &w);
    return 1;
}
