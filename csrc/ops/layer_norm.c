/* layer_norm.c: layer norm and RMS norm of rows x[r, n], each with its backward.
 *
 *   layer_norm   y[i] = h[i] w[i] + b[i],  h[i] = (x[i] - μ) s,  s = 1/√(Σ (x - μ)²/n + ε)
 *                dx[i] = s (g[i] - Σ g/n - h[i] Σ g h/n),  g = dy w
 *   rms_norm     the same with μ = 0, and without b and Σ g/n
 *                dw[i] = Σ_r dy[r, i] h[r, i],  db[i] = Σ_r dy[r, i]
 *
 * Arrays are dense. μ is kept as mean[r] = (its nearest T, what that lacks), so that a row far from
 * 0 loses nothing: x - mean[0] is exact there, and what lacks enters the fused step h = (x - mean[0]) s
 * - mean[1] s. The variance is that of x - mean[0], less mean[1]². Sums run in vectors over blocks,
 * which add up in double.
 *
 * Backward reads a row twice, the second time from cache: for its two sums, then, GROUP rows at once,
 * for dx and their share of dw and db. Those of rows_of(n) rows are one partial sum; the partial sums
 * lie in scratch and are added by a tree. So the order of a sum depends on sizes only.
 */
#include "pn_rows.h"

#if PN_FLOAT

#define GROUP 4          /* rows whose shares of dw and db are added up in registers */
#define COLUMNS 1024     /* columns of partial sums that a chunk adds up */
#define SHIFT(high, s) (-(high)[1] * (s)) /* h = (x - mean[0]) s + shift */

typedef struct norm {
    const T *dy, *x, *w, *b, *mean, *invstd; /* mean: NULL where μ = 0 */
    T *y, *dx, *mean_out, *invstd_out, *parts; /* parts[block]: dw[n], then db[n] where wanted */
    T *dw, *db;
    int64_t n, rows, per, blocks, block_rows;
    int n_sums; /* of dw and db, how many are wanted */
    double eps;
} norm;

static norm norm_of(const pn_array *x, const pn_array *w, double eps) {
    norm a = {.x = x->data, .w = w->data, .n = x->shape[x->ndim - 1], .rows = 1, .eps = eps};
    for (int d = 0; d < x->ndim - 1; d++) a.rows *= x->shape[d];
    a.per = pn_grain(pn_max(1, ROW_WORK / pn_max(1, a.n)));
    return a;
}

/* ---- forward ---------------------------------------------------------------------------------- */

/* y = ((x - high) s + shift) w + b; centre, weighted, biased are constants */
PN_INLINE void scale_row(const norm *a, const T *x, T *y, T high, T s_of, T shift_of, int centre,
                         int weighted, int biased) {
    V mean = pn_set1(high), s = pn_set1(s_of), shift = pn_set1(shift_of);
    PN_ROW(a->n, V h = LOAD(x, 0); h = centre ? pn_fma(h - mean, s, shift) : h * s;
           if (weighted && biased) h = pn_fma(h, LOAD(a->w, 0), LOAD(a->b, 0));
           else if (weighted) h = h * LOAD(a->w, 0); else if (biased) h = h + LOAD(a->b, 0);
           STORE(y, h););
}

static void scaled_row(const norm *a, const T *x, T *y, T high, T s, T shift) {
    if (a->w && a->b)
        scale_row(a, x, y, high, s, shift, 1, 1, 1);
    else if (a->w)
        scale_row(a, x, y, high, s, shift, 1, 1, 0);
    else
        scale_row(a, x, y, high, s, shift, 1, 0, a->b != NULL);
}

static void layer_norm_chunk(pn_call *c, void *arg, int64_t chunk, int worker) {
    const norm *a = arg;
    const double n = (double)a->n;
    (void)c, (void)worker;
    for (int64_t r = chunk * a->per; r < pn_min(a->rows, (chunk + 1) * a->per); r++) {
        const T *x = a->x + r * a->n;
        double rest = 0, squares = 0;
        T high = (T)(row_sum(x, a->n) / n);
        V mean = pn_set1(high);
        PN_ROW_SUM2(rest, squares, a->n, V d = LOAD(x, high) - mean; sum[k] += d;
                    sum2[k] = pn_fma(d, d, sum2[k]);)
        rest /= n;
        double var = squares / n - rest * rest;
        T s = (T)(1 / sqrt((var < 0 ? 0 : var) + a->eps));
        T *kept = a->mean_out + 2 * r;
        kept[0] = high, kept[1] = (T)rest, a->invstd_out[r] = s;
        scaled_row(a, x, a->y + r * a->n, high, s, SHIFT(kept, s));
    }
}

static void rms_norm_chunk(pn_call *c, void *arg, int64_t chunk, int worker) {
    const norm *a = arg;
    (void)c, (void)worker;
    for (int64_t r = chunk * a->per; r < pn_min(a->rows, (chunk + 1) * a->per); r++) {
        const T *x = a->x + r * a->n;
        double squares = 0;
        PN_ROW_SUM(squares, a->n, V v = LOAD(x, 0); sum[k] = pn_fma(v, v, sum[k]);)
        T s = a->invstd_out[r] = (T)(1 / sqrt(squares / (double)a->n + a->eps));
        if (a->w)
            scale_row(a, x, a->y + r * a->n, 0, s, 0, 0, 1, 0);
        else
            scale_row(a, x, a->y + r * a->n, 0, s, 0, 0, 0, 0);
    }
}

PN_FN(layer_norm_fwd) {
    norm a =
        norm_of(ARG(layer_norm_fwd, x), ARG(layer_norm_fwd, weight), PAR(layer_norm_fwd, eps).f);
    a.b = ARG(layer_norm_fwd, bias)->data, a.y = ARG(layer_norm_fwd, y)->data;
    a.mean_out = ARG(layer_norm_fwd, mean)->data, a.invstd_out = ARG(layer_norm_fwd, invstd)->data;
    pn_for(c, pn_ceil_div(a.rows, a.per), layer_norm_chunk, &a);
}

PN_FN(rms_norm_fwd) {
    norm a = norm_of(ARG(rms_norm_fwd, x), ARG(rms_norm_fwd, weight), PAR(rms_norm_fwd, eps).f);
    a.y = ARG(rms_norm_fwd, y)->data, a.invstd_out = ARG(rms_norm_fwd, invstd)->data;
    pn_for(c, pn_ceil_div(a.rows, a.per), rms_norm_chunk, &a);
}

/* ---- backward --------------------------------------------------------------------------------- */

/* Rows whose shares of dw and db make one partial sum: scratch stays below a quarter of x. */
static int64_t rows_of(int64_t n) { return n <= 2048 ? 32 : n <= 4096 ? 16 : 2 * GROUP; }

typedef struct row_consts {
    const T *x, *dy;
    T *dx;
    V mean, s, shift, c1, c2; /* dx = s (g - c1 - h c2) */
} row_consts;

/* h of row q; centre is a constant */
#define H(q) (centre ? pn_fma(LOAD((q).x, 0) - (q).mean, (q).s, (q).shift) : LOAD((q).x, 0) * (q).s)
#define G(q) (a->w ? LOAD((q).dy, 0) * LOAD(a->w, 0) : LOAD((q).dy, 0))

PN_INLINE row_consts consts_of(const norm *a, int64_t r, int centre) {
    T s = a->invstd[r];
    row_consts q = {.x = a->x + r * a->n, .dy = a->dy + r * a->n, .s = pn_set1(s)};
    double of_g = 0, of_gh = 0;
    if (centre) {
        q.mean = pn_set1(a->mean[2 * r]);
        q.shift = pn_set1(SHIFT(a->mean + 2 * r, s));
    }
    if (!a->dx) return q;
    q.dx = a->dx + r * a->n;
    if (centre) {
        PN_ROW_SUM2(of_g, of_gh, a->n, V g = G(q); sum[k] += g; sum2[k] = pn_fma(g, H(q), sum2[k]);)
    } else {
        PN_ROW_SUM(of_gh, a->n, sum[k] = pn_fma(G(q), H(q), sum[k]);)
    }
    q.c1 = pn_set1((T)(of_g / (double)a->n)), q.c2 = pn_set1((T)(of_gh / (double)a->n));
    return q;
}

/* dx of `count` rows from r, and their shares added to dw and db; count and centre are constants */
PN_INLINE void back_rows(const norm *a, int64_t r, int count, int centre, T *dw, T *db) {
    row_consts q[GROUP];
    for (int j = 0; j < count; j++) q[j] = consts_of(a, r + j, centre);
    PN_ROW(
        a->n, V of_w = {0}; V of_b = {0}; V w = a->w ? LOAD(a->w, 0) : pn_set1(1);
        for (int j = 0; j < count; j++) {
            V dy = LOAD(q[j].dy, 0);
            V h = H(q[j]);
            if (a->dx) {
                V g = pn_fnma(h, q[j].c2, centre ? pn_fma(dy, w, -q[j].c1) : dy * w);
                STORE(q[j].dx, g * q[j].s);
            }
            of_w = pn_fma(dy, h, of_w);
            of_b += dy;
        } if (dw) STORE(dw, LOAD(dw, 0) + of_w);
        if (db) STORE(db, LOAD(db, 0) + of_b););
}

PN_INLINE void back_block(const norm *a, int64_t block, int centre) {
    int64_t r = block * a->block_rows, end = pn_min(a->rows, r + a->block_rows);
    T *part = a->parts ? a->parts + block * a->n_sums * a->n : NULL;
    T *dw = a->dw ? part : NULL, *db = a->db ? part + (a->n_sums - 1) * a->n : NULL;
    for (int64_t i = 0; i < a->n_sums * a->n; i++) part[i] = 0;
    for (; r + GROUP <= end; r += GROUP) back_rows(a, r, GROUP, centre, dw, db);
    for (; r < end; r++) back_rows(a, r, 1, centre, dw, db);
}

static void back_chunk(pn_call *c, void *arg, int64_t chunk, int worker) {
    const norm *a = arg;
    (void)c, (void)worker;
    for (int64_t k = chunk * a->per; k < pn_min(a->blocks, (chunk + 1) * a->per); k++) {
        if (a->mean)
            back_block(a, k, 1);
        else
            back_block(a, k, 0);
    }
}

/* Adds up COLUMNS columns of the partial sums: blocks k and k + 1, then k and k + 2, ... */
static void columns_chunk(pn_call *c, void *arg, int64_t chunk, int worker) {
    const norm *a = arg;
    int64_t width = a->n_sums * a->n, lo = chunk * COLUMNS, hi = pn_min(width, lo + COLUMNS);
    (void)c, (void)worker;
    for (int64_t half = 1; half < a->blocks; half *= 2)
        for (int64_t k = 0; k + half < a->blocks; k += 2 * half) {
            T *to = a->parts + k * width;
            const T *from = to + half * width;
            for (int64_t i = lo; i < hi; i++) to[i] += from[i];
        }
    for (int64_t i = lo; i < hi; i++) {
        T total = a->blocks ? a->parts[i] : 0;
        if (a->dw && i < a->n)
            a->dw[i] = total;
        else
            a->db[i - (a->n_sums - 1) * a->n] = total;
    }
}

static int64_t parts_bytes(const pn_array *x, const pn_array *dw, const pn_array *db) {
    int64_t n = x->shape[x->ndim - 1], rows = n ? pn_size(x) / n : 0;
    return pn_ceil_div(rows, rows_of(n)) * ((dw->data != NULL) + (db && db->data)) * n *
           (int64_t)sizeof(T);
}

static void back_run(pn_call *c, norm *a, const pn_array *dx, const pn_array *dw,
                     const pn_array *db, const pn_array *scratch) {
    a->dx = dx->data, a->dw = dw->data, a->db = db ? db->data : NULL, a->parts = scratch->data;
    a->n_sums = (a->dw != NULL) + (a->db != NULL);
    a->block_rows = rows_of(a->n), a->blocks = a->n ? pn_ceil_div(a->rows, a->block_rows) : 0;
    a->per = pn_max(1, pn_grain(ROW_WORK / pn_max(1, a->n)) / a->block_rows);
    pn_for(c, pn_ceil_div(a->blocks, a->per), back_chunk, a);
    pn_for(c, pn_ceil_div(a->n_sums * a->n, COLUMNS), columns_chunk, a);
}

PN_FN(layer_norm_bwd) {
    norm a = norm_of(ARG(layer_norm_bwd, x), ARG(layer_norm_bwd, weight), 0);
    a.dy = ARG(layer_norm_bwd, dy)->data;
    a.mean = ARG(layer_norm_bwd, mean)->data, a.invstd = ARG(layer_norm_bwd, invstd)->data;
    back_run(c, &a, ARG(layer_norm_bwd, dx), ARG(layer_norm_bwd, dweight),
             ARG(layer_norm_bwd, dbias), ARG(layer_norm_bwd, scratch));
}
PN_SCRATCH_FN(layer_norm_bwd) {
    return parts_bytes(ARG(layer_norm_bwd, x), ARG(layer_norm_bwd, dweight),
                       ARG(layer_norm_bwd, dbias));
}

PN_FN(rms_norm_bwd) {
    norm a = norm_of(ARG(rms_norm_bwd, x), ARG(rms_norm_bwd, weight), 0);
    a.dy = ARG(rms_norm_bwd, dy)->data, a.invstd = ARG(rms_norm_bwd, invstd)->data;
    back_run(c, &a, ARG(rms_norm_bwd, dx), ARG(rms_norm_bwd, dweight), NULL,
             ARG(rms_norm_bwd, scratch));
}
PN_SCRATCH_FN(rms_norm_bwd) {
    return parts_bytes(ARG(rms_norm_bwd, x), ARG(rms_norm_bwd, dweight), NULL);
}

#endif
