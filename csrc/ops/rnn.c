/* rnn.c: a plain recurrent layer over a whole sequence, and its backward.
 *
 *   h_t = act(x_t W_ihᵀ + b_ih + h' W_hhᵀ + b_hh),  act = tanh or max(., 0)
 *
 * h' is the state before the step. x[T, N, I], y[T, N, H] = h_t, which is all that backward needs.
 *
 * Forward: x W_ihᵀ of all steps is one product, into y; a step adds h' by a panel of W_hhᵀ and applies act.
 * Backward, from the last step on: da_t = (dy_t + da_(t+1) W_hh) act'(h_t); dx, dW and db are products over all
 * steps.
 */
#include "pn_rnn.h"

#if PN_FLOAT

typedef struct rnn {
    seq q;
    int64_t in, h; /* I, H */
    const T *x, *h0, *w_ih, *w_hh, *b_ih, *b_hh, *zero; /* zero: a row of them */
    T *y;
    int relu, direct; /* direct: few rows, weights as they are */
    panels of_x, of_h;
    T *bias; /* [H], of both */
    /* backward */
    grads g;
    T *da;         /* [T, N, H] */
    T *xs, *apart; /* with lengths: x with 0 where absent; the first steps' da[N, H] */
    char *scratch;
} rnn;

/* w, from what both kernels are given */
#define SET(kernel)                                                                                \
    rnn w = {                                                                                      \
        .q = {.steps = ARG(kernel, x)->shape[0],                                                   \
              .n = ARG(kernel, x)->shape[1],                                                       \
              .len = ARG(kernel, lengths)->data,                                                   \
              .reverse = PAR(kernel, reverse).i != 0},                                             \
        .in = ARG(kernel, x)->shape[2],                                                            \
        .h = ARG(kernel, w_hh)->shape[1],                                                          \
        .x = ARG(kernel, x)->data,                                                                 \
        .h0 = ARG(kernel, h0)->data,                                                               \
        .w_ih = ARG(kernel, w_ih)->data,                                                           \
        .w_hh = ARG(kernel, w_hh)->data,                                                           \
        .b_ih = ARG(kernel, b_ih)->data,                                                           \
        .b_hh = ARG(kernel, b_hh)->data,                                                           \
        .y = ARG(kernel, y)->data,                                                                 \
        .relu = PAR(kernel, relu).i != 0,                                                          \
    }

static char *take_order(rnn *w, char *at) {
    w->q.order = TAKE(&at, int64_t, w->q.n);
    w->q.counts = TAKE(&at, int64_t, w->q.steps + 1);
    w->zero = TAKE(&at, T, w->h);
    return at;
}

/* ---- forward ------------------------------------------------------------------------------------ */

static void forward(const void *arg, int64_t t, int64_t j, int64_t r, int64_t m) {
    const rnn *w = arg;
    const panels *p = &w->of_h;
    const int vecs = vecs_of(p, j);
    V acc[GROUP * VECS];
    const T *from[GROUP], *x[GROUP];
    for (int64_t i = 0; i < m; i++) {
        int64_t row = row_at(&w->q, t, r + i);
        const T *given = w->direct ? w->bias : w->y + row * w->h;
        from[i] = state_before(&w->q, t, r + i, w->y, w->h, w->h0, w->h, w->zero);
        x[i] = w->x + row * w->in;
        for (int v = 0; v < vecs; v++)
            acc[i * vecs + v] = pn_load_part(given + unit_of(p, j, v), units_in(p, j, v), 0);
    }
    if (w->direct) product(&w->of_x, j, x, m, acc);
    product(p, j, from, m, acc);
    for (int64_t i = 0; i < m; i++)
        for (int v = 0; v < vecs; v++) {
            V a = acc[i * vecs + v];
            pn_store_part(w->y + row_at(&w->q, t, r + i) * w->h + unit_of(p, j, v),
                          w->relu ? pn_max(a, (V){0}) : pn_tanh(a), units_in(p, j, v));
        }
}

/* x W_ihᵀ + b of all steps, into y */
static pn_gemm_args of_all_x(const rnn *w) {
    pn_gemm_args g = gemm_of(w->q.steps * w->q.n, w->h, w->in, rows_of(w->x, w->in),
                             turned(w->w_ih, w->in), rows_of(w->y, w->h));
    g.bias = (pn_mat){.p = w->bias, .cs = 1};
    return g;
}

static char *lay_forward(rnn *w, char *at) {
    at = take_order(w, at);
    w->direct = w->q.steps * w->q.n <= DIRECT;
    w->of_x = panels_of(w->w_ih, w->in, 1, w->in, 1, w->h);
    w->of_h = panels_of(w->w_hh, w->h, 1, w->h, 1, w->h);
    w->bias = TAKE(&at, T, w->h);
    if (!w->direct) w->of_h.packed = TAKE(&at, T, packed_size(&w->of_h));
    w->scratch = at;
    return w->direct ? at : at + multiply(NULL, of_all_x(w), 0, NULL);
}

PN_FN(rnn_fwd) {
    SET(rnn_fwd);
    seq *q = &w.q;
    lay_forward(&w, ARG(rnn_fwd, scratch)->data);
    if (!arrange(c, q, PNA_rnn_fwd_lengths)) return;
    memset((T *)w.zero, 0, (size_t)w.h * sizeof(T));
    for (int64_t e = 0; e < w.h; e++)
        w.bias[e] = (w.b_ih ? w.b_ih[e] : 0) + (w.b_hh ? w.b_hh[e] : 0);
    if (!w.direct) {
        multiply(c, of_all_x(&w), 0, w.scratch);
        pack(c, &w.of_h);
    }
    clear_absent(q, w.y, w.h, w.h);
    for (int64_t k = 0; k < q->steps; k++) {
        int64_t t = step_at(q, k);
        run_step(c, forward, &w, &w.of_h, t, q->counts[t]);
    }
    final_state(q, ARG(rnn_fwd, hn)->data, w.y, w.h, w.h0, w.h);
}

PN_SCRATCH_FN(rnn_fwd) {
    SET(rnn_fwd);
    return (int64_t)(uintptr_t)lay_forward(&w, NULL);
}

/* ---- backward ----------------------------------------------------------------------------------- */

static void backward(const void *arg, int64_t t, int64_t j, int64_t r, int64_t m) {
    const rnn *w = arg;
    const panels *p = &w->of_h;
    const int vecs = vecs_of(p, j);
    V acc[GROUP * VECS];
    grad_of_h(&w->q, &w->g, p, t, j, r, m, acc);
    for (int64_t i = 0; i < m; i++)
        for (int v = 0; v < vecs; v++) {
            int64_t at = row_at(&w->q, t, r + i) * w->h + unit_of(p, j, v), n = units_in(p, j, v);
            V y = pn_load_part(w->y + at, n, 0), d = acc[i * vecs + v];
            d = w->relu ? pn_select(y <= (V){0}, (V){0}, d) : d * pn_fnma(y, y, pn_set1(1));
            pn_store_part(w->da + at, d, n);
        }
}

/* What the last products of backward compute, where it is wanted; or, where no call is given, the scratch
 * that they need. */
static int64_t last_products(pn_call *c, const pn_call *args, const rnn *w) {
#define WANTED(x) ((T *)args->arg[PNA_rnn_bwd_##x].data)
#define DO(...) need = pn_max(need, multiply(c, __VA_ARGS__, w->scratch))
    const seq *q = &w->q;
    const int64_t rows = q->steps * q->n, in = w->in, h = w->h;
    const T *first = first_of(q, w->da, h, w->apart);
    int64_t need = 0;
    if (WANTED(dx))
        DO(gemm_of(rows, in, h, rows_of(w->da, h), rows_of(w->w_ih, in), rows_of(WANTED(dx), in)),
           0);
    if (WANTED(dw_ih))
        DO(gemm_of(h, in, rows, turned(w->da, h), rows_of(w->xs, in), rows_of(WANTED(dw_ih), in)),
           0);
    if (WANTED(dw_hh))
        need = pn_max(
            need, grad_by_h(c, q, WANTED(dw_hh), w->da, first, h, h, w->y, w->h0, h, w->scratch));
    T *db = WANTED(db_ih) ? WANTED(db_ih) : WANTED(db_hh);
    if (db) DO(sum_of(db, w->da, h, rows, h), 0);
    if (WANTED(dh0) && rows) /* it holds what sequences without a step give */
        DO(gemm_of(q->n, h, h, rows_of(first, h), rows_of(w->w_hh, h), rows_of(WANTED(dh0), h)), 1);
    return need;
}

static char *lay_backward(const pn_call *c, rnn *w, char *at) {
    const int64_t rows = w->q.steps * w->q.n;
    at = take_order(w, at);
    w->da = TAKE(&at, T, rows * w->h);
    w->of_h = panels_of(w->w_hh, 1, w->h, w->h, 1, w->h);
    w->of_h.packed = TAKE(&at, T, packed_size(&w->of_h));
    w->xs = (T *)w->x;
    if (w->q.len) {
        w->xs = TAKE(&at, T, rows * w->in);
        w->apart = TAKE(&at, T, w->q.n * w->h);
    }
    w->scratch = at;
    return at + last_products(NULL, c, w);
}

PN_FN(rnn_bwd) {
    SET(rnn_bwd);
    seq *q = &w.q;
    T *dh0 = ARG(rnn_bwd, dh0)->data, *db_ih = ARG(rnn_bwd, db_ih)->data,
      *db_hh = ARG(rnn_bwd, db_hh)->data;
    const T *dhn = ARG(rnn_bwd, dhn)->data;
    lay_backward(c, &w, ARG(rnn_bwd, scratch)->data);
    w.g = (grads){ARG(rnn_bwd, dy)->data, w.da, dhn, w.h, w.h, 0};
    if (!arrange(c, q, PNA_rnn_bwd_lengths)) return;
    if (q->steps > 1) pack(c, &w.of_h);
    clear_absent(q, w.da, w.h, w.h);
    copy_present(q, w.xs, w.x, w.in);
    for (int64_t k = q->steps - 1; k >= 0; k--) {
        int64_t t = step_at(q, k);
        run_step(c, backward, &w, &w.of_h, t, q->counts[t]);
    }
    gather_first(q, w.apart, w.da, w.h);
    if (dh0) start_without_steps(q, dh0, dhn, w.h);
    last_products(c, c, &w);
    if (db_ih && db_hh) memcpy(db_hh, db_ih, (size_t)w.h * sizeof(T));
}

PN_SCRATCH_FN(rnn_bwd) {
    SET(rnn_bwd);
    return (int64_t)(uintptr_t)lay_backward(c, &w, NULL);
}

#endif
