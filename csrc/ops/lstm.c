/* lstm.c: an LSTM over a whole sequence, and its backward.
 *
 *   i, f, o = σ(a_i), σ(a_f), σ(a_o),  g = tanh(a_g),  a = x_t W_ihᵀ + b_ih + h' W_hhᵀ + b_hh
 *   c_t = f c' + i g,  m_t = o tanh(c_t),  h_t = m_t, or m_t W_hrᵀ with a projection
 *
 * h' and c' are the state before the step: h0 and c0 to begin with. x[T, N, I], y[T, N, P] = h_t, P = H without
 * a projection, gates in the order i, f, g, o. saved[T, N, 5H] = (i, f, g, o, c_t) is what backward needs.
 *
 * Forward: x W_ihᵀ of all steps is one product, into saved. A step multiplies h' by a panel of W_hhᵀ, the four
 * gates of some hidden units, and with the sums in L1 goes on to i, f, g, o, c_t and h_t.
 *
 * Backward, from the last step on:
 *   dh = dy_t + da_(t+1) W_hh,  dm = dh, or dh W_hr
 *   do = dm tanh(c_t) o (1 - o),  dc = dc' + dm o (1 - tanh²(c_t))
 *   di = dc g i (1 - i),  df = dc c' f (1 - f),  dg = dc i (1 - g²),  dc' = dc f
 * da of all steps stays; dx, dW_ih, dW_hh, dW_hr and db are products over all steps.
 */
#include "pn_rnn.h"

#if PN_FLOAT

enum { GI, GF, GG, GO, GATES };
#define SAVED (GATES + 1)

static layer layer_of_fwd(const pn_call *c) {
    layer w = LAYER(lstm_fwd, GATES);
    w.c0 = ARG(lstm_fwd, c0)->data, w.saved = ARG(lstm_fwd, saved)->data;
    w.w_hr = ARG(lstm_fwd, w_hr)->data, w.project = w.w_hr != NULL;
    return w;
}

static layer layer_of_bwd(const pn_call *c) {
    layer w = LAYER(lstm_bwd, GATES);
    w.c0 = ARG(lstm_bwd, c0)->data, w.saved = ARG(lstm_bwd, saved)->data;
    w.w_hr = ARG(lstm_bwd, w_hr)->data, w.project = w.w_hr != NULL;
    SET_GRADS(lstm_bwd, w);
    return w;
}

/* ---- forward ------------------------------------------------------------------------------------ */

static void forward(const void *arg, int64_t t, int64_t j, int64_t r, int64_t m) {
    const layer *w = arg;
    const seq *q = &w->q;
    const int64_t h = w->h, u = j * PN_VL, n = units_in(&w->of_h, j, 0);
    V acc[GROUP * GATES];
    const T *from[GROUP] = {NULL}, *x[GROUP] = {NULL};
    for (int64_t i = 0; i < m; i++) {
        int64_t row = row_at(q, t, r + i);
        const T *g = w->direct ? w->bias + u : w->saved + row * SAVED * h + u;
        from[i] = state_before(q, t, r + i, w->y, w->p, w->h0, w->p, w->zero);
        x[i] = w->x + row * w->in;
        EACH(v, GATES) acc[i * GATES + v] = pn_load_part(g + v * h, n, 0);
    }
    if (w->direct) product(&w->of_x, j, x, m, acc);
    product(&w->of_h, j, from, m, acc);
    for (int64_t i = 0; i < m; i++) {
        const V *a = acc + i * GATES;
        int64_t row = row_at(q, t, r + i);
        const T *before_c =
            state_before(q, t, r + i, w->saved + GATES * h, SAVED * h, w->c0, h, w->zero);
        T *s = w->saved + row * SAVED * h + u;
        V gi = pn_sigmoid(a[GI]), gf = pn_sigmoid(a[GF]), gg = pn_tanh(a[GG]),
          go = pn_sigmoid(a[GO]);
        V cell = pn_fma(gf, pn_load_part(before_c + u, n, 0), gi * gg);
        pn_store_part(s + GI * h, gi, n);
        pn_store_part(s + GF * h, gf, n);
        pn_store_part(s + GG * h, gg, n);
        pn_store_part(s + GO * h, go, n);
        pn_store_part(s + GATES * h, cell, n);
        T *to = w->project ? w->m + (r + i) * h : w->y + row * h;
        pn_store_part(to + u, go * pn_tanh(cell), n);
    }
}

/* y_t = m W_hrᵀ */
static void project(const void *arg, int64_t t, int64_t j, int64_t r, int64_t m) {
    const layer *w = arg;
    const int vecs = vecs_of(&w->of_m, j);
    V acc[GROUP * VECS];
    const T *from[GROUP] = {NULL};
    for (int64_t i = 0; i < m; i++) from[i] = w->m + (r + i) * w->h;
    memset(acc, 0, (size_t)(m * vecs) * sizeof(V));
    product(&w->of_m, j, from, m, acc);
    for (int64_t i = 0; i < m; i++)
        for (int v = 0; v < vecs; v++)
            pn_store_part(w->y + row_at(&w->q, t, r + i) * w->p + unit_of(&w->of_m, j, v),
                          acc[i * vecs + v], units_in(&w->of_m, j, v));
}

static char *lay_forward(layer *w, char *at) {
    at = take_order(w, at);
    w->direct = w->q.steps * w->q.n <= DIRECT;
    w->of_x = panels_of(w->w_ih, w->in, 1, w->in, GATES, w->h);
    w->of_h = panels_of(w->w_hh, w->p, 1, w->p, GATES, w->h);
    w->bias = TAKE(&at, T, GATES * w->h);
    if (!w->direct) w->of_h.packed = TAKE(&at, T, packed_size(&w->of_h));
    if (w->project) {
        w->of_m = panels_of(w->w_hr, w->h, 1, w->h, 1, w->p);
        w->m = TAKE(&at, T, w->q.n * w->h);
        if (!w->direct) w->of_m.packed = TAKE(&at, T, packed_size(&w->of_m));
    }
    w->scratch = at;
    return w->direct
               ? at
               : at + multiply(NULL, of_all_x(w, GATES * w->h, w->saved, SAVED * w->h), 0, NULL);
}

PN_FN(lstm_fwd) {
    layer w = layer_of_fwd(c);
    seq *q = &w.q;
    lay_forward(&w, ARG(lstm_fwd, scratch)->data);
    if (!begin(c, &w, PNA_lstm_fwd_lengths)) return;
    sum_biases(&w, GATES * w.h);
    if (!w.direct) {
        multiply(c, of_all_x(&w, GATES * w.h, w.saved, SAVED * w.h), 0, w.scratch);
        pack(c, &w.of_h);
        if (w.project) pack(c, &w.of_m);
    }
    clear_absent(q, w.saved, SAVED * w.h, SAVED * w.h);
    clear_absent(q, w.y, w.p, w.p);
    for (int64_t k = 0; k < q->steps; k++) {
        int64_t t = step_at(q, k);
        run_step(c, forward, &w, &w.of_h, t, q->counts[t]);
        if (w.project) run_step(c, project, &w, &w.of_m, t, q->counts[t]);
    }
    final_state(q, ARG(lstm_fwd, hn)->data, w.y, w.p, w.h0, w.p);
    final_state(q, ARG(lstm_fwd, cn)->data, w.saved + GATES * w.h, SAVED * w.h, w.c0, w.h);
}

PN_SCRATCH_FN(lstm_fwd) {
    layer w = layer_of_fwd(c);
    return (int64_t)(uintptr_t)lay_forward(&w, NULL);
}

/* ---- backward ----------------------------------------------------------------------------------- */

/* dh_t, with a projection */
static void backward_h(const void *arg, int64_t t, int64_t j, int64_t r, int64_t m) {
    const layer *w = arg;
    const int vecs = vecs_of(&w->of_h, j);
    V acc[GROUP * VECS];
    grad_of_h(&w->q, &w->g, &w->of_h, t, j, r, m, acc);
    for (int64_t i = 0; i < m; i++)
        for (int v = 0; v < vecs; v++)
            pn_store_part(w->dh + row_at(&w->q, t, r + i) * w->p + unit_of(&w->of_h, j, v),
                          acc[i * vecs + v], units_in(&w->of_h, j, v));
}

/* da_t and dc' of n hidden units from u on, of the sequence in place r, from their dm */
static void backward_gates(const layer *w, int64_t t, int64_t r, int64_t u, int64_t n, V dm) {
    const seq *q = &w->q;
    const int64_t h = w->h, row = row_at(q, t, r);
    const T *s = w->saved + row * SAVED * h + u;
    const T *before_c = state_before(q, t, r, w->saved + GATES * h, SAVED * h, w->c0, h, w->zero);
    T *da = w->da + row * GATES * h + u, *dc_after = w->carried + q->order[r] * h + u;
    V gi = pn_load_part(s + GI * h, n, 0), gf = pn_load_part(s + GF * h, n, 0),
      gg = pn_load_part(s + GG * h, n, 0), go = pn_load_part(s + GO * h, n, 0);
    V top = pn_tanh(pn_load_part(s + GATES * h, n, 0)), ones = pn_set1(1);
    V dc = pn_fma(dm * go, pn_fnma(top, top, ones), pn_load_part(dc_after, n, 0));
    V di = dc * gg * gi * (ones - gi),
      df = dc * pn_load_part(before_c + u, n, 0) * gf * (ones - gf);
    V dg = dc * gi * pn_fnma(gg, gg, ones), d_o = dm * top * go * (ones - go);
    pn_store_part(da + GI * h, di, n);
    pn_store_part(da + GF * h, df, n);
    pn_store_part(da + GG * h, dg, n);
    pn_store_part(da + GO * h, d_o, n);
    pn_store_part(dc_after, dc * gf, n);
    if (w->project) pn_store_part(w->all_m + row * h + u, go * top, n);
}

static void backward(const void *arg, int64_t t, int64_t j, int64_t r, int64_t m) {
    const layer *w = arg;
    const panels *p = w->project ? &w->of_m : &w->of_h;
    const int vecs = vecs_of(p, j);
    V acc[GROUP * VECS];
    if (w->project) {
        const T *from[GROUP] = {NULL};
        for (int64_t i = 0; i < m; i++) from[i] = w->dh + row_at(&w->q, t, r + i) * w->p;
        memset(acc, 0, (size_t)(m * vecs) * sizeof(V));
        product(p, j, from, m, acc);
    } else {
        grad_of_h(&w->q, &w->g, p, t, j, r, m, acc);
    }
    for (int64_t i = 0; i < m; i++)
        for (int v = 0; v < vecs; v++)
            backward_gates(w, t, r + i, unit_of(p, j, v), units_in(p, j, v), acc[i * vecs + v]);
}

/* dW_hr, and what other layers have too; or, where no call is given, the scratch that it needs. */
static int64_t all_products(pn_call *c, const layer *w, T *dw_hr) {
    int64_t need = last_products(c, w, GATES * w->h), h = w->h, p = w->p;
    if (dw_hr)
        DO(gemm_of(p, h, w->q.steps * w->q.n, turned(w->dh, p), rows_of(w->all_m, h),
                   rows_of(dw_hr, h)),
           0);
    return need;
}

static char *lay_backward(const pn_call *c, layer *w, char *at) {
    const int64_t rows = w->q.steps * w->q.n;
    const pn_array *dc0 = ARG(lstm_bwd, dc0);
    at = take_order(w, at);
    w->da = TAKE(&at, T, rows * GATES * w->h);
    w->carried = dc0->data ? dc0->data : TAKE(&at, T, w->q.n * w->h);
    w->of_h = panels_of(w->w_hh, 1, w->p, GATES * w->h, 1, w->p);
    w->of_h.packed = TAKE(&at, T, packed_size(&w->of_h));
    if (w->project) {
        w->of_m = panels_of(w->w_hr, 1, w->h, w->p, 1, w->h);
        w->of_m.packed = TAKE(&at, T, packed_size(&w->of_m));
        w->dh = TAKE(&at, T, rows * w->p);
        w->all_m = TAKE(&at, T, rows * w->h);
    }
    at = take_absent(w, at, GATES * w->h);
    w->scratch = at;
    return at + all_products(NULL, w, ARG(lstm_bwd, dw_hr)->data);
}

PN_FN(lstm_bwd) {
    layer w = layer_of_bwd(c);
    seq *q = &w.q;
    lay_backward(c, &w, ARG(lstm_bwd, scratch)->data);
    w.g = (grads){ARG(lstm_bwd, dy)->data, w.da, ARG(lstm_bwd, dhn)->data, w.p, GATES * w.h, 0};
    if (!begin(c, &w, PNA_lstm_bwd_lengths)) return;
    if (q->steps > 1) pack(c, &w.of_h);
    if (w.project) pack(c, &w.of_m);
    memcpy(w.carried, ARG(lstm_bwd, dcn)->data, (size_t)(q->n * w.h) * sizeof(T));
    clear_absent(q, w.da, GATES * w.h, GATES * w.h);
    copy_present(q, w.xs, w.x, w.in);
    if (w.project) {
        clear_absent(q, w.dh, w.p, w.p);
        clear_absent(q, w.all_m, w.h, w.h);
    }
    for (int64_t k = q->steps - 1; k >= 0; k--) {
        int64_t t = step_at(q, k);
        if (w.project) run_step(c, backward_h, &w, &w.of_h, t, q->counts[t]);
        run_step(c, backward, &w, w.project ? &w.of_m : &w.of_h, t, q->counts[t]);
    }
    gather_first(q, w.apart, w.da, GATES * w.h);
    all_products(c, &w, ARG(lstm_bwd, dw_hr)->data);
}

PN_SCRATCH_FN(lstm_bwd) {
    layer w = layer_of_bwd(c);
    return (int64_t)(uintptr_t)lay_backward(c, &w, NULL);
}

#endif
