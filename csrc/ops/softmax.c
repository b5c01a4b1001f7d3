/* softmax.c: softmax and log-softmax along rows.
 *
 *   softmax      y[r, i] = e^(x[r, i] - max) / s,  s = Σ_j e^(x[r, j] - max)
 *                dx[r, i] = y[r, i] (dy[r, i] - Σ_j dy[r, j] y[r, j])
 *   log_softmax  y[r, i] = (x[r, i] - max) - log s
 *                dx[r, i] = dy[r, i] - e^y[r, i] Σ_j dy[r, j]
 *
 * Arrays are dense and their last dimension is the row. A row in three passes: the maximum, the sum of
 * exponentials, the result. Threads share the rows. A row of -inf alone, or with an inf, is NaN.
 */
#include "pn_rows.h"

#if PN_FLOAT

typedef void (*row_fn)(const T *a, const T *b, T *y, int64_t n);
typedef struct rows {
    const T *a, *b;
    T *y;
    int64_t n, count, per; /* elements of a row, rows, rows a chunk */
    row_fn row;
} rows;

static void rows_chunk(pn_call *c, void *arg, int64_t chunk, int worker) {
    const rows *r = arg;
    int64_t lo = chunk * r->per, hi = pn_min(r->count, lo + r->per);
    (void)c, (void)worker;
    for (int64_t k = lo * r->n; k < hi * r->n; k += r->n)
        r->row(r->a + k, r->b ? r->b + k : NULL, r->y + k, r->n);
}

/* y[r] = row(a[r], b[r]) for every row of arrays of one shape */
static void rows_run(pn_call *c, const pn_array *a, const pn_array *b, const pn_array *y,
                     row_fn row) {
    rows r = {.a = a->data, .b = b ? b->data : NULL, .y = y->data, .row = row};
    r.n = y->shape[y->ndim - 1];
    if (r.n == 0) return;
    r.count = pn_size(y) / r.n;
    r.per = pn_grain(pn_max(1, ROW_WORK / r.n));
    pn_for(c, pn_ceil_div(r.count, r.per), rows_chunk, &r);
}

static void softmax_row(const T *x, const T *unused, T *y, int64_t n) {
    double total = 0;
    V top = pn_set1(row_max(x, n));
    (void)unused;
    if (n <= PN_VL) { /* one vector holds the row */
        V e = pn_exp_down(pn_load_part(x, n, (T)-INFINITY) - top);
        pn_store_part(y, e * pn_set1((T)(1 / (double)pn_hsum(e))), n);
        return;
    }
    PN_ROW_SUM(total, n, V e = pn_exp_down(LOAD(x, -INFINITY) - top); STORE(y, e); sum[k] += e;)
    V scale = pn_set1((T)(1 / total));
    PN_ROW(n, STORE(y, LOAD(y, 0) * scale););
}

static void softmax_back(const T *dy, const T *y, T *dx, int64_t n) {
    double dot = 0;
    PN_ROW_SUM(dot, n, sum[k] = pn_fma(LOAD(dy, 0), LOAD(y, 0), sum[k]);)
    V mean = pn_set1((T)dot);
    PN_ROW(n, STORE(dx, LOAD(y, 0) * (LOAD(dy, 0) - mean)););
}

static void log_softmax_row(const T *x, const T *unused, T *y, int64_t n) {
    T max = row_max(x, n);
    V top = pn_set1(max), log_sum = pn_set1(log_of(row_sum_exp(x, n, max)));
    (void)unused;
    PN_ROW(n, STORE(y, LOAD(x, 0) - top - log_sum););
}

static void log_softmax_back(const T *dy, const T *y, T *dx, int64_t n) {
    V total = pn_set1((T)row_sum(dy, n)); /* y <= 0 but for rounding */
    PN_ROW(n, STORE(dx, LOAD(dy, 0) - pn_exp_down(LOAD(y, 0)) * total););
}

PN_FN(softmax_fwd) { rows_run(c, ARG(softmax_fwd, x), NULL, ARG(softmax_fwd, y), softmax_row); }
PN_FN(softmax_bwd) {
    rows_run(c, ARG(softmax_bwd, dy), ARG(softmax_bwd, y), ARG(softmax_bwd, dx), softmax_back);
}
PN_FN(log_softmax_fwd) {
    rows_run(c, ARG(log_softmax_fwd, x), NULL, ARG(log_softmax_fwd, y), log_softmax_row);
}
PN_FN(log_softmax_bwd) {
    rows_run(c, ARG(log_softmax_bwd, dy), ARG(log_softmax_bwd, y), ARG(log_softmax_bwd, dx),
             log_softmax_back);
}

#endif
