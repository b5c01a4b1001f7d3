/* gru.c: a GRU over a whole sequence, and its backward.
 *
 *   r, z = σ(a_r), σ(a_z),  a = x_t W_ihᵀ + b_ih + h' W_hhᵀ + b_hh, in the order r, z, n
 *   reset after the product:   n = tanh(x_t W_inᵀ + b_in + r q),  q = h' W_hnᵀ + b_hn
 *   reset before it:           n = tanh(x_t W_inᵀ + b_in + q W_hnᵀ + b_hn),  q = r h'
 *   h_t = n + z (h' - n)
 *
 * h' is the state before the step. x[T, N, I], y[T, N, H] = h_t; saved[T, N, 4H] = (r, z, n, q).
 *
 * Forward: x W_ihᵀ of all steps is one product, into saved. A step multiplies h' by a panel of W_hhᵀ, the three
 * gates of some hidden units, and goes on to h_t; with the reset before, W_hn has a pass of its own.
 *
 * Backward, from the last step on, da[T, N, 4H] = (dn, dr, dz, dq) such that what W_ih gets (r, z; n) and what W_hh
 * gets (r, z, n) are each contiguous:
 *   dh = dy_t + dh_(t+1) z_(t+1) + (dr, dz, dq)_(t+1) W_hh
 *   dn = dh (1 - z) (1 - n²),  dz = dh (h' - n) z (1 - z)
 *   after:   dq = dn r,  dr = dn q r (1 - r)
 *   before:  d = dn W_hn,  dr = d h' r (1 - r),  dh' gets d r;  dq = dn, for the sums over b_hn
 */
#include "pn_rnn.h"

#if PN_FLOAT

enum { GR, GZ, GN, GQ, SAVED };
enum { DN, DR, DZ, DQ };
#define GATES 3

static layer layer_of_fwd(const pn_call *c) {
    layer w = LAYER(gru_fwd, GATES);
    w.saved = ARG(gru_fwd, saved)->data, w.reset_after = PAR(gru_fwd, reset_after).i != 0;
    return w;
}

static layer layer_of_bwd(const pn_call *c) {
    layer w = LAYER(gru_bwd, GATES);
    w.saved = ARG(gru_bwd, saved)->data, w.reset_after = PAR(gru_bwd, reset_after).i != 0;
    SET_GRADS(gru_bwd, w);
    return w;
}

PN_INLINE T *saved_at(const layer *w, int64_t t, int64_t r) {
    return w->saved + row_at(&w->q, t, r) * SAVED * w->h;
}
PN_INLINE const T *h_before(const layer *w, int64_t t, int64_t r) {
    return state_before(&w->q, t, r, w->y, w->h, w->h0, w->h, w->zero);
}

/* ---- forward ------------------------------------------------------------------------------------ */

/* Reset after the product: a whole step of a panel's hidden units */
static void forward(const void *arg, int64_t t, int64_t j, int64_t r, int64_t m) {
    const layer *w = arg;
    const int64_t h = w->h, u = j * PN_VL, n = units_in(&w->of_h, j, 0);
    V acc[GROUP * GATES], given[GROUP * GATES];
    const T *from[GROUP] = {NULL}, *x[GROUP] = {NULL};
    for (int64_t i = 0; i < m; i++) {
        const T *g = (w->direct ? w->bias : saved_at(w, t, r + i)) + u;
        from[i] = h_before(w, t, r + i);
        x[i] = w->x + row_at(&w->q, t, r + i) * w->in;
        EACH(v, GATES) given[i * GATES + v] = pn_load_part(g + v * h, n, 0);
    }
    if (w->direct) product(&w->of_x, j, x, m, given);
    for (int64_t i = 0; i < m; i++) {
        acc[i * GATES + GR] = given[i * GATES + GR];
        acc[i * GATES + GZ] = given[i * GATES + GZ];
        acc[i * GATES + GN] = pn_load_part(w->bias + GQ * h + u, n, 0);
    }
    product(&w->of_h, j, from, m, acc);
    for (int64_t i = 0; i < m; i++) {
        T *s = saved_at(w, t, r + i) + u;
        V gr = pn_sigmoid(acc[i * GATES + GR]), gz = pn_sigmoid(acc[i * GATES + GZ]);
        V q = acc[i * GATES + GN], gn = pn_tanh(pn_fma(gr, q, given[i * GATES + GN]));
        pn_store_part(s + GR * h, gr, n);
        pn_store_part(s + GZ * h, gz, n);
        pn_store_part(s + GN * h, gn, n);
        pn_store_part(s + GQ * h, q, n);
        pn_store_part(w->y + row_at(&w->q, t, r + i) * h + u,
                      pn_fma(gz, pn_load_part(from[i] + u, n, 0) - gn, gn), n);
    }
}

/* Reset before the product: r, z and q */
static void forward_rz(const void *arg, int64_t t, int64_t j, int64_t r, int64_t m) {
    const layer *w = arg;
    const int64_t h = w->h, u = j * PN_VL, n = units_in(&w->of_h, j, 0);
    V acc[GROUP * 2];
    const T *from[GROUP] = {NULL};
    for (int64_t i = 0; i < m; i++) {
        from[i] = h_before(w, t, r + i);
        EACH(v, 2) acc[i * 2 + v] = pn_load_part(saved_at(w, t, r + i) + v * h + u, n, 0);
    }
    product(&w->of_h, j, from, m, acc);
    for (int64_t i = 0; i < m; i++) {
        T *s = saved_at(w, t, r + i) + u;
        V gr = pn_sigmoid(acc[i * 2 + GR]);
        pn_store_part(s + GR * h, gr, n);
        pn_store_part(s + GZ * h, pn_sigmoid(acc[i * 2 + GZ]), n);
        pn_store_part(s + GQ * h, gr * pn_load_part(from[i] + u, n, 0), n);
    }
}

/* ... and n and h_t */
static void forward_n(const void *arg, int64_t t, int64_t j, int64_t r, int64_t m) {
    const layer *w = arg;
    const panels *p = &w->of_m;
    const int64_t h = w->h;
    const int vecs = vecs_of(p, j);
    V acc[GROUP * VECS];
    const T *from[GROUP] = {NULL};
    for (int64_t i = 0; i < m; i++) {
        const T *s = saved_at(w, t, r + i);
        from[i] = s + GQ * h;
        for (int v = 0; v < vecs; v++)
            acc[i * vecs + v] = pn_load_part(s + GN * h + unit_of(p, j, v), units_in(p, j, v), 0);
    }
    product(p, j, from, m, acc);
    for (int64_t i = 0; i < m; i++)
        for (int v = 0; v < vecs; v++) {
            int64_t u = unit_of(p, j, v), n = units_in(p, j, v);
            T *s = saved_at(w, t, r + i) + u;
            V gn = pn_tanh(acc[i * vecs + v]), was = pn_load_part(h_before(w, t, r + i) + u, n, 0);
            pn_store_part(s + GN * h, gn, n);
            pn_store_part(w->y + row_at(&w->q, t, r + i) * h + u,
                          pn_fma(pn_load_part(s + GZ * h, n, 0), was - gn, gn), n);
        }
}

static char *lay_forward(layer *w, char *at) {
    const int64_t h = w->h;
    at = take_order(w, at);
    w->direct = w->reset_after && w->q.steps * w->q.n <= DIRECT;
    w->of_x = panels_of(w->w_ih, w->in, 1, w->in, GATES, h);
    w->of_h = panels_of(w->w_hh, h, 1, h, w->reset_after ? GATES : 2, h);
    w->bias = TAKE(&at, T, SAVED * h);
    if (!w->direct) w->of_h.packed = TAKE(&at, T, packed_size(&w->of_h));
    if (!w->reset_after) {
        w->of_m = panels_of(w->w_hh + 2 * h * h, h, 1, h, 1, h);
        w->of_m.packed = TAKE(&at, T, packed_size(&w->of_m));
    }
    w->scratch = at;
    return w->direct
               ? at
               : at + multiply(NULL, of_all_x(w, GATES * w->h, w->saved, SAVED * w->h), 0, NULL);
}

static void set_bias(const layer *w) {
    const int64_t h = w->h;
    for (int64_t e = 0; e < SAVED * h; e++) {
        T by_x = w->b_ih && e < 3 * h ? w->b_ih[e] : 0;
        T by_h = !w->b_hh                                      ? 0
                 : e < 2 * h || (e < 3 * h && !w->reset_after) ? w->b_hh[e]
                 : e >= 3 * h                                  ? w->b_hh[e - h]
                                                               : 0;
        w->bias[e] = by_x + by_h;
    }
}

PN_FN(gru_fwd) {
    layer w = layer_of_fwd(c);
    seq *q = &w.q;
    lay_forward(&w, ARG(gru_fwd, scratch)->data);
    if (!begin(c, &w, PNA_gru_fwd_lengths)) return;
    set_bias(&w);
    if (!w.direct) {
        multiply(c, of_all_x(&w, GATES * w.h, w.saved, SAVED * w.h), 0, w.scratch);
        pack(c, &w.of_h);
        if (!w.reset_after) pack(c, &w.of_m);
    }
    clear_absent(q, w.saved, SAVED * w.h, SAVED * w.h);
    clear_absent(q, w.y, w.h, w.h);
    for (int64_t k = 0; k < q->steps; k++) {
        int64_t t = step_at(q, k);
        run_step(c, w.reset_after ? forward : forward_rz, &w, &w.of_h, t, q->counts[t]);
        if (!w.reset_after) run_step(c, forward_n, &w, &w.of_m, t, q->counts[t]);
    }
    final_state(q, ARG(gru_fwd, hn)->data, w.y, w.h, w.h0, w.h);
}

PN_SCRATCH_FN(gru_fwd) {
    layer w = layer_of_fwd(c);
    return (int64_t)(uintptr_t)lay_forward(&w, NULL);
}

/* ---- backward ----------------------------------------------------------------------------------- */

/* da of n hidden units from u on, of the sequence in place r, from their dh; dr not with the reset before */
static void backward_gates(const layer *w, int64_t t, int64_t r, int64_t u, int64_t n, V dh) {
    const int64_t h = w->h;
    const T *s = saved_at(w, t, r) + u;
    T *da = w->da + row_at(&w->q, t, r) * SAVED * h + u;
    V gr = pn_load_part(s + GR * h, n, 0), gz = pn_load_part(s + GZ * h, n, 0),
      gn = pn_load_part(s + GN * h, n, 0), ones = pn_set1(1);
    V was = pn_load_part(h_before(w, t, r) + u, n, 0);
    V dn = dh * (ones - gz) * pn_fnma(gn, gn, ones);
    pn_store_part(da + DN * h, dn, n);
    pn_store_part(da + DZ * h, dh * (was - gn) * gz * (ones - gz), n);
    pn_store_part(da + DQ * h, w->reset_after ? dn * gr : dn, n);
    if (w->reset_after)
        pn_store_part(da + DR * h, dn * pn_load_part(s + GQ * h, n, 0) * gr * (ones - gr), n);
    pn_store_part(w->carried + w->q.order[r] * h + u, dh * gz, n);
}

static void backward(const void *arg, int64_t t, int64_t j, int64_t r, int64_t m) {
    const layer *w = arg;
    const panels *p = &w->of_h;
    const int vecs = vecs_of(p, j);
    V acc[GROUP * VECS];
    grad_of_h(&w->q, &w->g, p, t, j, r, m, acc);
    for (int64_t i = 0; i < m; i++)
        for (int v = 0; v < vecs; v++)
            backward_gates(w, t, r + i, unit_of(p, j, v), units_in(p, j, v), acc[i * vecs + v]);
}

/* Reset before the product: dr, and what dh' gets by q */
static void backward_r(const void *arg, int64_t t, int64_t j, int64_t r, int64_t m) {
    const layer *w = arg;
    const panels *p = &w->of_m;
    const int64_t h = w->h;
    const int vecs = vecs_of(p, j);
    V acc[GROUP * VECS];
    const T *from[GROUP] = {NULL};
    for (int64_t i = 0; i < m; i++) from[i] = w->da + row_at(&w->q, t, r + i) * SAVED * h + DN * h;
    memset(acc, 0, (size_t)(m * vecs) * sizeof(V));
    product(p, j, from, m, acc);
    for (int64_t i = 0; i < m; i++)
        for (int v = 0; v < vecs; v++) {
            int64_t u = unit_of(p, j, v), n = units_in(p, j, v);
            T *dh = w->carried + w->q.order[r + i] * h + u;
            V gr = pn_load_part(saved_at(w, t, r + i) + GR * h + u, n, 0), d = acc[i * vecs + v];
            V was = pn_load_part(h_before(w, t, r + i) + u, n, 0);
            pn_store_part((T *)from[i] + (DR - DN) * h + u, d * was * gr * (pn_set1(1) - gr), n);
            pn_store_part(dh, pn_fma(d, gr, pn_load_part(dh, n, 0)), n);
        }
}

/* What the last products of backward compute, where it is wanted; or, where no call is given, the scratch
 * that they need. */
static int64_t all_products(pn_call *c, const layer *w) {
    const seq *q = &w->q;
    const int64_t rows = q->steps * q->n, in = w->in, h = w->h, rs = SAVED * h, rz = 2 * h;
    const int64_t g =
        w->reset_after ? 3 * h : rz; /* of W_hh's rows, those that h' is multiplied by */
    const T *dn = w->da + DN * h, *dr = w->da + DR * h,
            *first = first_of(q, w->da, rs, w->apart) + DR * h;
    int64_t need = 0;
    if (w->dx) {
        pn_mat to = rows_of(w->dx, in);
        DO(gemm_of(rows, in, rz, rows_of(dr, rs), rows_of(w->w_ih, in), to), 0);
        DO(gemm_of(rows, in, h, rows_of(dn, rs), rows_of(w->w_ih + rz * in, in), to), 1);
    }
    if (w->dw_ih) {
        pn_mat x = rows_of(w->xs, in);
        DO(gemm_of(rz, in, rows, turned(dr, rs), x, rows_of(w->dw_ih, in)), 0);
        DO(gemm_of(h, in, rows, turned(dn, rs), x, rows_of(w->dw_ih + rz * in, in)), 0);
    }
    if (w->dw_hh) {
        need =
            pn_max(need, grad_by_h(c, q, w->dw_hh, dr, first, rs, g, w->y, w->h0, h, w->scratch));
        if (!w->reset_after)
            DO(gemm_of(h, h, rows, turned(dn, rs), rows_of(w->saved + GQ * h, rs),
                       rows_of(w->dw_hh + rz * h, h)),
               0);
    }
    if (w->db_ih) {
        DO(sum_of(w->db_ih, dr, rs, rows, rz), 0);
        DO(sum_of(w->db_ih + rz, dn, rs, rows, h), 0);
    }
    if (w->db_hh) DO(sum_of(w->db_hh, dr, rs, rows, 3 * h), 0);
    if (w->dh0 && rows)
        DO(gemm_of(q->n, h, g, rows_of(first, rs), rows_of(w->w_hh, h), rows_of(w->dh0, h)), 1);
    return need;
}

static char *lay_backward(layer *w, char *at) {
    const int64_t rows = w->q.steps * w->q.n, h = w->h;
    at = take_order(w, at);
    w->da = TAKE(&at, T, rows * SAVED * h);
    w->carried = w->dh0 ? w->dh0 : TAKE(&at, T, w->q.n * h);
    w->of_h = panels_of(w->w_hh, 1, h, (w->reset_after ? 3 : 2) * h, 1, h);
    w->of_h.packed = TAKE(&at, T, packed_size(&w->of_h));
    if (!w->reset_after) {
        w->of_m = panels_of(w->w_hh + 2 * h * h, 1, h, h, 1, h);
        w->of_m.packed = TAKE(&at, T, packed_size(&w->of_m));
    }
    at = take_absent(w, at, SAVED * h);
    w->scratch = at;
    return at + all_products(NULL, w);
}

PN_FN(gru_bwd) {
    layer w = layer_of_bwd(c);
    seq *q = &w.q;
    const int64_t rs = SAVED * w.h;
    lay_backward(&w, ARG(gru_bwd, scratch)->data);
    w.g = (grads){ARG(gru_bwd, dy)->data, w.da + DR * w.h, w.carried, w.h, rs, 1};
    if (!begin(c, &w, PNA_gru_bwd_lengths)) return;
    if (q->steps > 1) pack(c, &w.of_h);
    if (!w.reset_after) pack(c, &w.of_m);
    memcpy(w.carried, ARG(gru_bwd, dhn)->data, (size_t)(q->n * w.h) * sizeof(T));
    clear_absent(q, w.da, rs, rs);
    copy_present(q, w.xs, w.x, w.in);
    for (int64_t k = q->steps - 1; k >= 0; k--) {
        int64_t t = step_at(q, k);
        run_step(c, backward, &w, &w.of_h, t, q->counts[t]);
        if (!w.reset_after) run_step(c, backward_r, &w, &w.of_m, t, q->counts[t]);
    }
    gather_first(q, w.apart, w.da, rs);
    all_products(c, &w);
}

PN_SCRATCH_FN(gru_bwd) {
    layer w = layer_of_bwd(c);
    return (int64_t)(uintptr_t)lay_backward(&w, NULL);
}

#endif
