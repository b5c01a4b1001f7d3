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

static layer layer_of_fwd(const pn_call *c) {
    layer w = LAYER(rnn_fwd, 1);
    w.relu = PAR(rnn_fwd, relu).i != 0;
    return w;
}

static layer layer_of_bwd(const pn_call *c) {
    layer w = LAYER(rnn_bwd, 1);
    w.relu = PAR(rnn_bwd, relu).i != 0;
    SET_GRADS(rnn_bwd, w);
    return w;
}

/* ---- forward ------------------------------------------------------------------------------------ */

static void forward(const void *arg, int64_t t, int64_t j, int64_t r, int64_t m) {
    const layer *w = arg;
    const panels *p = &w->of_h;
    const int vecs = vecs_of(p, j);
    V acc[GROUP * VECS];
    const T *from[GROUP] = {NULL}, *x[GROUP] = {NULL};
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

static char *lay_forward(layer *w, char *at) {
    at = take_order(w, at);
    w->direct = w->q.steps * w->q.n <= DIRECT;
    w->of_x = panels_of(w->w_ih, w->in, 1, w->in, 1, w->h);
    w->of_h = panels_of(w->w_hh, w->h, 1, w->h, 1, w->h);
    w->bias = TAKE(&at, T, w->h);
    if (!w->direct) w->of_h.packed = TAKE(&at, T, packed_size(&w->of_h));
    w->scratch = at;
    return w->direct ? at : at + multiply(NULL, of_all_x(w, w->h, w->y, w->h), 0, NULL);
}

PN_FN(rnn_fwd) {
    layer w = layer_of_fwd(c);
    seq *q = &w.q;
    lay_forward(&w, ARG(rnn_fwd, scratch)->data);
    if (!begin(c, &w, PNA_rnn_fwd_lengths)) return;
    sum_biases(&w, w.h);
    if (!w.direct) {
        multiply(c, of_all_x(&w, w.h, w.y, w.h), 0, w.scratch);
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
    layer w = layer_of_fwd(c);
    return (int64_t)(uintptr_t)lay_forward(&w, NULL);
}

/* ---- backward ----------------------------------------------------------------------------------- */

static void backward(const void *arg, int64_t t, int64_t j, int64_t r, int64_t m) {
    const layer *w = arg;
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

static char *lay_backward(layer *w, char *at) {
    const int64_t rows = w->q.steps * w->q.n;
    at = take_order(w, at);
    w->da = TAKE(&at, T, rows * w->h);
    w->of_h = panels_of(w->w_hh, 1, w->h, w->h, 1, w->h);
    w->of_h.packed = TAKE(&at, T, packed_size(&w->of_h));
    at = take_absent(w, at, w->h);
    w->scratch = at;
    return at + last_products(NULL, w, w->h);
}

PN_FN(rnn_bwd) {
    layer w = layer_of_bwd(c);
    seq *q = &w.q;
    lay_backward(&w, ARG(rnn_bwd, scratch)->data);
    w.g = (grads){ARG(rnn_bwd, dy)->data, w.da, ARG(rnn_bwd, dhn)->data, w.h, w.h, 0};
    if (!begin(c, &w, PNA_rnn_bwd_lengths)) return;
    if (q->steps > 1) pack(c, &w.of_h);
    clear_absent(q, w.da, w.h, w.h);
    copy_present(q, w.xs, w.x, w.in);
    for (int64_t k = q->steps - 1; k >= 0; k--) {
        int64_t t = step_at(q, k);
        run_step(c, backward, &w, &w.of_h, t, q->counts[t]);
    }
    gather_first(q, w.apart, w.da, w.h);
    last_products(c, &w, w.h);
}

PN_SCRATCH_FN(rnn_bwd) {
    layer w = layer_of_bwd(c);
    return (int64_t)(uintptr_t)lay_backward(&w, NULL);
}

#endif
