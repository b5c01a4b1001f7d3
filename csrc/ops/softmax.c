/* softmax.c: softmax and log-softmax along rows.
 *
 *   softmax      y[r, i] = e^(x[r, i] - max) / s,  s = Σ_j e^(x[r, j] - max)
 *                dx[r, i] = y[r, i] (dy[r, i] - Σ_j dy[r, j] y[r, j])
 *   log_softmax  y[r, i] = (x[r, i] - max) - log s
 *                dx[r, i] = dy[r, i] - e^y[r, i] Σ_j dy[r, j]
 *
 * Arrays are dense and their last dimension is the row. A row in three passes: the maximum, the sum of
 * exponentials, the result. Beyond the caches these run in one loop, of the next row, of this one and
 * of the last one. Threads share the rows. A row of -inf alone, or with an inf, is NaN.
 */
#include "pn_rows.h"

#if PN_FLOAT

#define KEPT (1 << 15) /* bytes of the longest row whose exponentials are kept between two passes */

typedef struct rows {
    const T *a, *b;
    T *y;
    int64_t n, count, per; /* elements of a row, rows, rows a chunk */
    void (*run)(const struct rows *r, int64_t lo, int64_t hi);
} rows;

static void rows_chunk(pn_call *c, void *arg, int64_t chunk, int worker) {
    const rows *r = arg;
    (void)c, (void)worker;
    r->run(r, chunk * r->per, pn_min(r->count, (chunk + 1) * r->per));
}

/* y[r] = f(a[r], b[r]) for every row of arrays of one shape, by run; by run_far beyond the caches */
static void rows_run(pn_call *c, const pn_array *a, const pn_array *b, const pn_array *y,
                     void (*run)(const rows *, int64_t, int64_t),
                     void (*run_far)(const rows *, int64_t, int64_t)) {
    rows r = {.a = a->data, .b = b ? b->data : NULL, .y = y->data, .n = y->shape[y->ndim - 1]};
    if (r.n == 0) return;
    r.count = pn_size(y) / r.n;
    int far = r.n * sizeof(T) <= KEPT && rows_past(r.y, r.n, r.count);
    r.run = far ? run_far : run;
    r.per = pn_grain(pn_max(1, (far ? ROW_WORK_FAR : ROW_WORK) / r.n));
    pn_for(c, pn_ceil_div(r.count, r.per), rows_chunk, &r);
}

/* ---- forward ---------------------------------------------------------------------------------- */

static void softmax_row(const T *x, T *y, int64_t n) {
    double total = 0;
    V top = pn_set1(row_max(x, n));
    if (n <= PN_VL) { /* one vector holds the row */
        V e = pn_exp_down(pn_load_part(x, n, (T)-INFINITY) - top);
        pn_store_part(y, e * pn_set1((T)(1 / (double)pn_hsum(e))), n);
        return;
    }
    PN_ROW_SUM(total, n, V e = pn_exp_down(LOAD(x, -INFINITY) - top); STORE(y, e); sum[k] += e;)
    V scale = pn_set1((T)(1 / total));
    PN_ROW(n, STORE(y, LOAD(y, 0) * scale););
}

static void log_softmax_row(const T *x, T *y, int64_t n) {
    T max = row_max(x, n);
    V top = pn_set1(max), log_sum = pn_set1(log_of(row_sum_exp(x, n, max)));
    PN_ROW(n, STORE(y, LOAD(x, 0) - top - log_sum););
}

/* The sum of exponentials of row x. Meanwhile the maximum of the next row is found, and the last row,
 * whose terms are in `kept`, is stored to y, unless y is NULL; kept then has this row's terms.
 * logs is a constant. */
PN_INLINE double row_amid(const T *x, const T *next, T *y, T *kept, int64_t n, T *top, V last,
                          int logs) {
    const V low = pn_set1((T)-INFINITY), shift = pn_set1(*top);
    V most[4] = {low, low, low, low};
    double total = 0;
    PN_ROW_SUM(total, n, FETCH(next + ROW_AHEAD);
               most[k] = pn_max_b(LOAD(next, -INFINITY), most[k]); V d = LOAD(x, -INFINITY) - shift;
               V e = pn_exp_down(d); sum[k] += e;
               if (y) PUT(y, logs ? LOAD(kept, 0) - last : LOAD(kept, 0) * last);
               STORE(kept, logs ? d : e);)
    *top = max_of_four(most);
    return total;
}

PN_INLINE void forward_far(const rows *r, int64_t lo, int64_t hi, int logs) {
    const int64_t n = r->n;
    T kept[KEPT / sizeof(T)] __attribute__((aligned(PN_ALIGN)));
    T *y = r->y + lo * n, top = row_max(r->a + lo * n, n);
    V last = pn_set1(0);
    for (int64_t k = lo; k < hi; k++) {
        const T *x = r->a + k * n, *next = k + 1 < hi ? x + n : x;
        double total = row_amid(x, next, k > lo ? y - n : NULL, kept, n, &top, last, logs);
        last = pn_set1(logs ? log_of(total) : (T)(1 / total));
        y += n;
    }
    y -= n;
    PN_ROW(n, PUT(y, logs ? LOAD(kept, 0) - last : LOAD(kept, 0) * last););
    pn_stream_end();
}

/* ---- backward; far is a constant ---------------------------------------------------------------- */

PN_INLINE void softmax_back(const T *dy, const T *y, T *dx, int64_t n, int far) {
    double dot = 0;
    PN_ROW_SUM(dot, n, sum[k] = pn_fma(LOAD(dy, 0), LOAD(y, 0), sum[k]);)
    V mean = pn_set1((T)dot);
    PN_ROW(
        n, V v = LOAD(y, 0) * (LOAD(dy, 0) - mean); if (far) {
            FETCH(dy + ROW_AHEAD);
            FETCH(y + ROW_AHEAD);
            PUT(dx, v);
        } else STORE(dx, v););
}

PN_INLINE void log_softmax_back(const T *dy, const T *y, T *dx, int64_t n, int far) {
    V total = pn_set1((T)row_sum(dy, n)); /* y <= 0 but for rounding */
    PN_ROW(
        n, V v = LOAD(dy, 0) - pn_exp_down(LOAD(y, 0)) * total; if (far) {
            FETCH(dy + ROW_AHEAD);
            FETCH(y + ROW_AHEAD);
            PUT(dx, v);
        } else STORE(dx, v););
}

#define EACH_ROW(name, row, ...)                                                                   \
    static void name(const rows *r, int64_t lo, int64_t hi) {                                      \
        const int64_t n = r->n;                                                                    \
        for (int64_t k = lo * n; k < hi * n; k += n) row(r->a + k, __VA_ARGS__);                   \
    }
EACH_ROW(softmax_near, softmax_row, r->y + k, n)
EACH_ROW(log_softmax_near, log_softmax_row, r->y + k, n)
EACH_ROW(softmax_back_near, softmax_back, r->b + k, r->y + k, n, 0)
EACH_ROW(softmax_back_far, softmax_back, r->b + k, r->y + k, n, 1)
EACH_ROW(log_softmax_back_near, log_softmax_back, r->b + k, r->y + k, n, 0)
EACH_ROW(log_softmax_back_far, log_softmax_back, r->b + k, r->y + k, n, 1)
static void softmax_far(const rows *r, int64_t lo, int64_t hi) { forward_far(r, lo, hi, 0); }
static void log_softmax_far(const rows *r, int64_t lo, int64_t hi) { forward_far(r, lo, hi, 1); }

PN_FN(softmax_fwd) {
    rows_run(c, ARG(softmax_fwd, x), NULL, ARG(softmax_fwd, y), softmax_near, softmax_far);
}
PN_FN(softmax_bwd) {
    rows_run(c, ARG(softmax_bwd, dy), ARG(softmax_bwd, y), ARG(softmax_bwd, dx), softmax_back_near,
             softmax_back_far);
}
PN_FN(log_softmax_fwd) {
    rows_run(c, ARG(log_softmax_fwd, x), NULL, ARG(log_softmax_fwd, y), log_softmax_near,
             log_softmax_far);
}
PN_FN(log_softmax_bwd) {
    rows_run(c, ARG(log_softmax_bwd, dy), ARG(log_softmax_bwd, y), ARG(log_softmax_bwd, dx),
             log_softmax_back_near, log_softmax_back_far);
}

#endif
