/* layer_norm.c: layer norm and RMS norm of rows x[r, n], each with its backward.
 *
 *   layer_norm   y[i] = h[i] w[i] + b[i],  h[i] = (x[i] - μ) s,  s = 1/√(Σ (x - μ)²/n + ε)
 *                dx[i] = s (g[i] - Σ g/n - h[i] Σ g h/n),  g = dy w
 *   rms_norm     the same with μ = 0, and without b and Σ g/n
 *                dw[i] = Σ_r dy[r, i] h[r, i],  db[i] = Σ_r dy[r, i]
 *
 * Arrays are dense. μ is kept as mean[r] = (its nearest T, what that lacks), so that a row far from
 * 0 loses nothing: x - mean[0] is exact there, and what lacks enters the fused step h = (x - mean[0]) s
 * - mean[1] s. Mean and variance are those of x - μ', in one pass, where μ' is the mean of the first
 * GUESS elements: (μ - μ')² is at most n/GUESS times the variance, which bounds what subtracting it
 * loses. Sums run in vectors over blocks, which add up in double. Beyond the caches the pass that
 * scales a row runs beside the one that sums the next, where the two and w and b fit the first cache;
 * else each pass fetches a half of the next row.
 *
 * Backward reads a row twice, the second time from cache: for its two sums, then for dx and its share
 * of dw and db. Those of rows_of(n) rows are one partial sum; the partial sums lie in scratch and are
 * added by a tree. So the order of a sum depends on sizes only.
 */
#include "pn_rows.h"

#if PN_FLOAT

#define GUESS 256        /* elements whose mean is near enough to a row's */
#define BESIDE (40 << 10) /* bytes of what runs side by side */
#define COLUMNS 1024     /* columns of partial sums that a chunk adds up */
#define SHIFT(high, s) (-(high)[1] * (s)) /* h = (x - mean[0]) s + shift */

typedef struct norm {
    const T *dy, *x, *w, *b, *mean, *invstd; /* mean: NULL where μ = 0 */
    T *y, *dx, *mean_out, *invstd_out, *parts; /* parts[block]: dw[n], then db[n] where wanted */
    T *dw, *db;
    int64_t n, rows, per, blocks, block_rows;
    int n_sums; /* of dw and db, how many are wanted */
    int far, beside; /* results are stored past the caches; see above */
    double eps;
} norm;

static norm norm_of(const pn_array *x, const pn_array *w, const pn_array *to, double eps) {
    norm a = {.x = x->data, .w = w->data, .n = x->shape[x->ndim - 1], .rows = 1, .eps = eps};
    for (int d = 0; d < x->ndim - 1; d++) a.rows *= x->shape[d];
    a.far = to->data && a.n > 0 && rows_past(to->data, a.n, a.rows);
    a.beside = a.far && 4 * a.n * sizeof(T) <= BESIDE;
    a.per = pn_grain(pn_max(1, (a.far ? ROW_WORK_FAR : ROW_WORK) / pn_max(1, a.n)));
    return a;
}

/* ---- forward ---------------------------------------------------------------------------------- */

typedef struct scaling {
    T high, s, shift; /* h = (x - high) s + shift; high and shift are 0 for RMS norm */
} scaling;

/* y = h w + b of row x; centre, weighted, biased, far are constants */
PN_INLINE void scale_row(const norm *a, const T *x, T *y, scaling q, int centre, int weighted,
                         int biased, int far) {
    V mean = pn_set1(q.high), s = pn_set1(q.s), shift = pn_set1(q.shift);
    const T *ahead = x + a->n + a->n / 2;
    PN_ROW(
        a->n, V h = LOAD(x, 0); h = centre ? pn_fma(h - mean, s, shift) : h * s;
        if (weighted && biased) h = pn_fma(h, LOAD(a->w, 0), LOAD(a->b, 0));
        else if (weighted) h = h * LOAD(a->w, 0); else if (biased) h = h + LOAD(a->b, 0); if (far) {
            FETCH_HALF(ahead);
            PUT(y, h);
        } else STORE(y, h););
}

/* The mean and the scale of row r, from Σ (x - from) and Σ (x - from)². */
PN_INLINE scaling scaling_of(const norm *a, int64_t r, T from, double sum, double squares,
                             int centre) {
    double rest = sum / (double)a->n, var = squares / (double)a->n - rest * rest;
    scaling q = {.s = (T)(1 / sqrt((var < 0 ? 0 : var) + a->eps))};
    a->invstd_out[r] = q.s;
    if (!centre) return q;
    T *kept = a->mean_out + 2 * r;
    kept[0] = q.high = (T)((double)from + rest);
    kept[1] = (T)((double)from - (double)q.high + rest);
    q.shift = SHIFT(kept, q.s);
    return q;
}

PN_INLINE T guess_of(const T *x, int64_t n, int centre) {
    int64_t m = pn_min(n, GUESS);
    return centre ? (T)(row_sum(x, m) / (double)m) : 0;
}

#define ADD_TO_SUMS                                                                                \
    V d = centre ? LOAD(x, from) - shift : LOAD(x, 0);                                             \
    if (centre) sum[k] += d;                                                                       \
    sum2[k] = pn_fma(d, d, sum2[k]);

/* The scaling of row r, which is x; centre and far are constants */
PN_INLINE scaling sum_row(const norm *a, int64_t r, const T *x, int centre, int far) {
    double total = 0, squares = 0;
    T from = guess_of(x, a->n, centre);
    V shift = pn_set1(from);
    PN_ROW_SUM2(total, squares, a->n, if (far) FETCH_HALF(x + a->n); ADD_TO_SUMS)
    return scaling_of(a, r, from, total, squares, centre);
}

/* The same, while the row before it is scaled by q and stored to y */
PN_INLINE scaling sum_beside(const norm *a, int64_t r, const T *x, T *y, scaling q, int centre) {
    const T *last = x - a->n, *w = a->w, *b = a->b;
    double total = 0, squares = 0;
    T from = guess_of(x, a->n, centre);
    V shift = pn_set1(from), mean = pn_set1(q.high), s = pn_set1(q.s), add = pn_set1(q.shift);
    PN_ROW_SUM2(total, squares, a->n, FETCH(x + ROW_AHEAD); ADD_TO_SUMS V h = LOAD(last, 0);
                h = centre ? pn_fma(h - mean, s, add) : h * s;
                if (w && b) h = pn_fma(h, LOAD(w, 0), LOAD(b, 0)); else if (w) h = h * LOAD(w, 0);
                else if (b) h = h + LOAD(b, 0); PUT(y, h);)
    return scaling_of(a, r, from, total, squares, centre);
}

PN_INLINE void norm_rows(const norm *a, int64_t lo, int64_t hi, int centre, int weighted,
                         int biased, int far) {
    scaling q = {0};
    for (int64_t r = lo; r < hi; r++) {
        const T *x = a->x + r * a->n;
        T *y = a->y + r * a->n;
        if (far && a->beside && r > lo)
            q = sum_beside(a, r, x, y - a->n, q, centre);
        else
            q = sum_row(a, r, x, centre, far);
        if (!far || !a->beside || r == hi - 1) scale_row(a, x, y, q, centre, weighted, biased, far);
    }
    if (far) pn_stream_end();
}

/* The chunk's rows, by a copy of norm_rows for what is given */
PN_INLINE void norm_chunk(const norm *a, int64_t chunk, int centre, int weighted, int biased) {
    int64_t lo = chunk * a->per, hi = pn_min(a->rows, lo + a->per);
    if (a->far)
        norm_rows(a, lo, hi, centre, weighted, biased, 1);
    else
        norm_rows(a, lo, hi, centre, weighted, biased, 0);
}

static void layer_norm_chunk(pn_call *c, void *arg, int64_t chunk, int worker) {
    const norm *a = arg;
    (void)c, (void)worker;
    if (a->w && a->b)
        norm_chunk(a, chunk, 1, 1, 1);
    else if (a->w)
        norm_chunk(a, chunk, 1, 1, 0);
    else
        norm_chunk(a, chunk, 1, 0, a->b != NULL);
}

static void rms_norm_chunk(pn_call *c, void *arg, int64_t chunk, int worker) {
    const norm *a = arg;
    (void)c, (void)worker;
    if (a->w)
        norm_chunk(a, chunk, 0, 1, 0);
    else
        norm_chunk(a, chunk, 0, 0, 0);
}

PN_FN(layer_norm_fwd) {
    norm a = norm_of(ARG(layer_norm_fwd, x), ARG(layer_norm_fwd, weight), ARG(layer_norm_fwd, y),
                     PAR(layer_norm_fwd, eps).f);
    a.b = ARG(layer_norm_fwd, bias)->data, a.y = ARG(layer_norm_fwd, y)->data;
    a.mean_out = ARG(layer_norm_fwd, mean)->data, a.invstd_out = ARG(layer_norm_fwd, invstd)->data;
    pn_for(c, pn_ceil_div(a.rows, a.per), layer_norm_chunk, &a);
}

PN_FN(rms_norm_fwd) {
    norm a = norm_of(ARG(rms_norm_fwd, x), ARG(rms_norm_fwd, weight), ARG(rms_norm_fwd, y),
                     PAR(rms_norm_fwd, eps).f);
    a.y = ARG(rms_norm_fwd, y)->data, a.invstd_out = ARG(rms_norm_fwd, invstd)->data;
    pn_for(c, pn_ceil_div(a.rows, a.per), rms_norm_chunk, &a);
}

/* ---- backward --------------------------------------------------------------------------------- */

/* Rows whose shares of dw and db make one partial sum: scratch stays below a quarter of x. */
static int64_t rows_of(int64_t n) { return n <= 2048 ? 32 : n <= 4096 ? 16 : 8; }

/* dx = s (g - c1 - h c2) of row r, and its shares added to dw and db. centre and far are constants; far: the
 * second pass, which waits for memory less, fetches ahead. */
PN_INLINE void back_row(const norm *a, int64_t r, int centre, int far, T *dw, T *db) {
    const int64_t n = a->n;
    const T *x = a->x + r * n, *dy = a->dy + r * n, *w = a->w;
    T *dx = a->dx ? a->dx + r * n : NULL;
    V s = pn_set1(a->invstd[r]), mean = {0}, shift = {0}, c1 = {0}, c2 = {0};
    double of_g = 0, of_gh = 0;
    if (centre) {
        mean = pn_set1(a->mean[2 * r]);
        shift = pn_set1(SHIFT(a->mean + 2 * r, a->invstd[r]));
    }
#define H (centre ? pn_fma(LOAD(x, 0) - mean, s, shift) : LOAD(x, 0) * s)
    if (dx && centre) {
        PN_ROW_SUM2(of_g, of_gh, n, V g = w ? LOAD(dy, 0) * LOAD(w, 0) : LOAD(dy, 0); sum[k] += g;
                    sum2[k] = pn_fma(g, H, sum2[k]);)
    } else if (dx) {
        PN_ROW_SUM(of_gh, n, V g = w ? LOAD(dy, 0) * LOAD(w, 0) : LOAD(dy, 0);
                   sum[k] = pn_fma(g, H, sum[k]);)
    }
    c1 = pn_set1((T)(of_g / (double)n)), c2 = pn_set1((T)(of_gh / (double)n));
    PN_ROW(
        n,
        if (far) {
            FETCH(x + ROW_AHEAD);
            FETCH(dy + ROW_AHEAD);
        } V g = LOAD(dy, 0);
        V h = H; if (dw) STORE(dw, pn_fma(g, h, LOAD(dw, 0))); if (db) STORE(db, LOAD(db, 0) + g);
        if (dx) {
            V weight = w ? LOAD(w, 0) : pn_set1(1);
            g = pn_fnma(h, c2, centre ? g * weight - c1 : g * weight) * s;
            if (far)
                PUT(dx, g);
            else
                STORE(dx, g);
        });
}

PN_INLINE void back_block(const norm *a, int64_t block, int centre, int far) {
    int64_t r = block * a->block_rows, end = pn_min(a->rows, r + a->block_rows);
    T *part = a->parts ? a->parts + block * a->n_sums * a->n : NULL;
    T *dw = a->dw ? part : NULL, *db = a->db ? part + (a->n_sums - 1) * a->n : NULL;
    for (int64_t i = 0; i < a->n_sums * a->n; i++) part[i] = 0;
    for (; r < end; r++) back_row(a, r, centre, far, dw, db);
}

static void back_chunk(pn_call *c, void *arg, int64_t chunk, int worker) {
    const norm *a = arg;
    (void)c, (void)worker;
    for (int64_t k = chunk * a->per; k < pn_min(a->blocks, (chunk + 1) * a->per); k++) {
        if (a->mean && a->far)
            back_block(a, k, 1, 1);
        else if (a->mean)
            back_block(a, k, 1, 0);
        else if (a->far)
            back_block(a, k, 0, 1);
        else
            back_block(a, k, 0, 0);
    }
    if (a->far) pn_stream_end();
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
    norm a =
        norm_of(ARG(layer_norm_bwd, x), ARG(layer_norm_bwd, weight), ARG(layer_norm_bwd, dx), 0);
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
    norm a = norm_of(ARG(rms_norm_bwd, x), ARG(rms_norm_bwd, weight), ARG(rms_norm_bwd, dx), 0);
    a.dy = ARG(rms_norm_bwd, dy)->data, a.invstd = ARG(rms_norm_bwd, invstd)->data;
    back_run(c, &a, ARG(rms_norm_bwd, dx), ARG(rms_norm_bwd, dweight), NULL,
             ARG(rms_norm_bwd, scratch));
}
PN_SCRATCH_FN(rms_norm_bwd) {
    return parts_bytes(ARG(rms_norm_bwd, x), ARG(rms_norm_bwd, dweight), NULL);
}

#endif
