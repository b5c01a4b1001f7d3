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

typedef struct gru {
    seq q;
    int64_t in, h; /* I, H */
    const T *x, *h0, *w_ih, *w_hh, *b_ih, *b_hh, *zero; /* zero: a row of them */
    T *y, *saved;
    int after, direct; /* after: the reset; direct: few rows, weights as they are */
    panels of_x, of_h, of_n; /* of_n: W_hn, with the reset before; of_h is without it then */
    T *bias;                 /* [4H]: what r, z, n get, and q */
    /* backward */
    grads g;
    T *da, *dh; /* [T, N, 4H], [N, H]: dh z of the step after */
    T *xs, *apart; /* with lengths: x with 0 where absent; the first steps' da[N, 4H] */
    char *scratch;
} gru;

/* w, from what both kernels are given */
#define SET(kernel)                                                                                \
    gru w = {                                                                                      \
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
        .saved = ARG(kernel, saved)->data,                                                         \
        .after = PAR(kernel, reset_after).i != 0,                                                  \
    }

static char *take_order(gru *w, char *at) {
    w->q.order = TAKE(&at, int64_t, w->q.n);
    w->q.counts = TAKE(&at, int64_t, w->q.steps + 1);
    w->zero = TAKE(&at, T, w->h);
    return at;
}

PN_INLINE T *saved_at(const gru *w, int64_t t, int64_t r) {
    return w->saved + row_at(&w->q, t, r) * SAVED * w->h;
}
PN_INLINE const T *h_before(const gru *w, int64_t t, int64_t r) {
    return state_before(&w->q, t, r, w->y, w->h, w->h0, w->h, w->zero);
}

/* ---- forward ------------------------------------------------------------------------------------ */

/* Reset after the product: a whole step of a panel's hidden units */
static void forward(const void *arg, int64_t t, int64_t j, int64_t r, int64_t m) {
    const gru *w = arg;
    const int64_t h = w->h, u = j * PN_VL, n = units_in(&w->of_h, j, 0);
    V acc[GROUP * GATES], given[GROUP * GATES];
    const T *from[GROUP], *x[GROUP];
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
    const gru *w = arg;
    const int64_t h = w->h, u = j * PN_VL, n = units_in(&w->of_h, j, 0);
    V acc[GROUP * 2];
    const T *from[GROUP];
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
    const gru *w = arg;
    const panels *p = &w->of_n;
    const int64_t h = w->h;
    const int vecs = vecs_of(p, j);
    V acc[GROUP * VECS];
    const T *from[GROUP];
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

/* x W_ihᵀ + b of all steps, into saved */
static pn_gemm_args of_all_x(const gru *w) {
    pn_gemm_args g = gemm_of(w->q.steps * w->q.n, GATES * w->h, w->in, rows_of(w->x, w->in),
                             turned(w->w_ih, w->in), rows_of(w->saved, SAVED * w->h));
    g.bias = (pn_mat){.p = w->bias, .cs = 1};
    return g;
}

static char *lay_forward(gru *w, char *at) {
    const int64_t h = w->h;
    at = take_order(w, at);
    w->direct = w->after && w->q.steps * w->q.n <= DIRECT;
    w->of_x = panels_of(w->w_ih, w->in, 1, w->in, GATES, h);
    w->of_h = panels_of(w->w_hh, h, 1, h, w->after ? GATES : 2, h);
    w->bias = TAKE(&at, T, SAVED * h);
    if (!w->direct) w->of_h.packed = TAKE(&at, T, packed_size(&w->of_h));
    if (!w->after) {
        w->of_n = panels_of(w->w_hh + 2 * h * h, h, 1, h, 1, h);
        w->of_n.packed = TAKE(&at, T, packed_size(&w->of_n));
    }
    w->scratch = at;
    return w->direct ? at : at + multiply(NULL, of_all_x(w), 0, NULL);
}

static void set_bias(const gru *w) {
    const int64_t h = w->h;
    for (int64_t e = 0; e < SAVED * h; e++) {
        T by_x = w->b_ih && e < 3 * h ? w->b_ih[e] : 0;
        T by_h = !w->b_hh                                ? 0
                 : e < 2 * h || (e < 3 * h && !w->after) ? w->b_hh[e]
                 : e >= 3 * h                            ? w->b_hh[e - h]
                                                         : 0;
        w->bias[e] = by_x + by_h;
    }
}

PN_FN(gru_fwd) {
    SET(gru_fwd);
    seq *q = &w.q;
    lay_forward(&w, ARG(gru_fwd, scratch)->data);
    if (!arrange(c, q, PNA_gru_fwd_lengths)) return;
    memset((T *)w.zero, 0, (size_t)w.h * sizeof(T));
    set_bias(&w);
    if (!w.direct) {
        multiply(c, of_all_x(&w), 0, w.scratch);
        pack(c, &w.of_h);
        if (!w.after) pack(c, &w.of_n);
    }
    clear_absent(q, w.saved, SAVED * w.h, SAVED * w.h);
    clear_absent(q, w.y, w.h, w.h);
    for (int64_t k = 0; k < q->steps; k++) {
        int64_t t = step_at(q, k);
        run_step(c, w.after ? forward : forward_rz, &w, &w.of_h, t, q->counts[t]);
        if (!w.after) run_step(c, forward_n, &w, &w.of_n, t, q->counts[t]);
    }
    final_state(q, ARG(gru_fwd, hn)->data, w.y, w.h, w.h0, w.h);
}

PN_SCRATCH_FN(gru_fwd) {
    SET(gru_fwd);
    return (int64_t)(uintptr_t)lay_forward(&w, NULL);
}

/* ---- backward ----------------------------------------------------------------------------------- */

/* da of n hidden units from u on, of the sequence in place r, from their dh; dr not with the reset before */
static void backward_gates(const gru *w, int64_t t, int64_t r, int64_t u, int64_t n, V dh) {
    const int64_t h = w->h;
    const T *s = saved_at(w, t, r) + u;
    T *da = w->da + row_at(&w->q, t, r) * SAVED * h + u;
    V gr = pn_load_part(s + GR * h, n, 0), gz = pn_load_part(s + GZ * h, n, 0),
      gn = pn_load_part(s + GN * h, n, 0), ones = pn_set1(1);
    V was = pn_load_part(h_before(w, t, r) + u, n, 0);
    V dn = dh * (ones - gz) * pn_fnma(gn, gn, ones);
    pn_store_part(da + DN * h, dn, n);
    pn_store_part(da + DZ * h, dh * (was - gn) * gz * (ones - gz), n);
    pn_store_part(da + DQ * h, w->after ? dn * gr : dn, n);
    if (w->after)
        pn_store_part(da + DR * h, dn * pn_load_part(s + GQ * h, n, 0) * gr * (ones - gr), n);
    pn_store_part(w->dh + w->q.order[r] * h + u, dh * gz, n);
}

static void backward(const void *arg, int64_t t, int64_t j, int64_t r, int64_t m) {
    const gru *w = arg;
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
    const gru *w = arg;
    const panels *p = &w->of_n;
    const int64_t h = w->h;
    const int vecs = vecs_of(p, j);
    V acc[GROUP * VECS];
    const T *from[GROUP];
    for (int64_t i = 0; i < m; i++) from[i] = w->da + row_at(&w->q, t, r + i) * SAVED * h + DN * h;
    memset(acc, 0, (size_t)(m * vecs) * sizeof(V));
    product(p, j, from, m, acc);
    for (int64_t i = 0; i < m; i++)
        for (int v = 0; v < vecs; v++) {
            int64_t u = unit_of(p, j, v), n = units_in(p, j, v);
            T *dh = w->dh + w->q.order[r + i] * h + u;
            V gr = pn_load_part(saved_at(w, t, r + i) + GR * h + u, n, 0), d = acc[i * vecs + v];
            V was = pn_load_part(h_before(w, t, r + i) + u, n, 0);
            pn_store_part((T *)from[i] + (DR - DN) * h + u, d * was * gr * (pn_set1(1) - gr), n);
            pn_store_part(dh, pn_fma(d, gr, pn_load_part(dh, n, 0)), n);
        }
}

/* What the last products of backward compute, where it is wanted; or, where no call is given, the scratch
 * that they need. */
static int64_t last_products(pn_call *c, const pn_call *args, const gru *w) {
#define WANTED(x) ((T *)args->arg[PNA_gru_bwd_##x].data)
#define DO(...) need = pn_max(need, multiply(c, __VA_ARGS__, w->scratch))
    const seq *q = &w->q;
    const int64_t rows = q->steps * q->n, in = w->in, h = w->h, rs = SAVED * h, rz = 2 * h;
    const int64_t g = w->after ? 3 * h : rz; /* of W_hh's rows, those that h' is multiplied by */
    const T *dn = w->da + DN * h, *dr = w->da + DR * h,
            *first = first_of(q, w->da, rs, w->apart) + DR * h;
    int64_t need = 0;
    if (WANTED(dx)) {
        pn_mat to = rows_of(WANTED(dx), in);
        DO(gemm_of(rows, in, rz, rows_of(dr, rs), rows_of(w->w_ih, in), to), 0);
        DO(gemm_of(rows, in, h, rows_of(dn, rs), rows_of(w->w_ih + rz * in, in), to), 1);
    }
    if (WANTED(dw_ih)) {
        pn_mat x = rows_of(w->xs, in);
        DO(gemm_of(rz, in, rows, turned(dr, rs), x, rows_of(WANTED(dw_ih), in)), 0);
        DO(gemm_of(h, in, rows, turned(dn, rs), x, rows_of(WANTED(dw_ih) + rz * in, in)), 0);
    }
    if (WANTED(dw_hh)) {
        need = pn_max(need,
                      grad_by_h(c, q, WANTED(dw_hh), dr, first, rs, g, w->y, w->h0, h, w->scratch));
        if (!w->after)
            DO(gemm_of(h, h, rows, turned(dn, rs), rows_of(w->saved + GQ * h, rs),
                       rows_of(WANTED(dw_hh) + rz * h, h)),
               0);
    }
    if (WANTED(db_ih)) {
        DO(sum_of(WANTED(db_ih), dr, rs, rows, rz), 0);
        DO(sum_of(WANTED(db_ih) + rz, dn, rs, rows, h), 0);
    }
    if (WANTED(db_hh)) DO(sum_of(WANTED(db_hh), dr, rs, rows, 3 * h), 0);
    if (WANTED(dh0) && rows)
        DO(gemm_of(q->n, h, g, rows_of(first, rs), rows_of(w->w_hh, h), rows_of(WANTED(dh0), h)),
           1);
    return need;
}

static char *lay_backward(const pn_call *c, gru *w, char *at) {
    const int64_t rows = w->q.steps * w->q.n, h = w->h;
    const pn_array *dh0 = ARG(gru_bwd, dh0);
    at = take_order(w, at);
    w->da = TAKE(&at, T, rows * SAVED * h);
    w->dh = dh0->data ? dh0->data : TAKE(&at, T, w->q.n * h);
    w->of_h = panels_of(w->w_hh, 1, h, (w->after ? 3 : 2) * h, 1, h);
    w->of_h.packed = TAKE(&at, T, packed_size(&w->of_h));
    if (!w->after) {
        w->of_n = panels_of(w->w_hh + 2 * h * h, 1, h, h, 1, h);
        w->of_n.packed = TAKE(&at, T, packed_size(&w->of_n));
    }
    w->xs = (T *)w->x;
    if (w->q.len) {
        w->xs = TAKE(&at, T, rows * w->in);
        w->apart = TAKE(&at, T, w->q.n * SAVED * h);
    }
    w->scratch = at;
    return at + last_products(NULL, c, w);
}

PN_FN(gru_bwd) {
    SET(gru_bwd);
    seq *q = &w.q;
    const int64_t rs = SAVED * w.h;
    lay_backward(c, &w, ARG(gru_bwd, scratch)->data);
    w.g = (grads){ARG(gru_bwd, dy)->data, w.da + DR * w.h, w.dh, w.h, rs, 1};
    if (!arrange(c, q, PNA_gru_bwd_lengths)) return;
    memset((T *)w.zero, 0, (size_t)w.h * sizeof(T));
    if (q->steps > 1) pack(c, &w.of_h);
    if (!w.after) pack(c, &w.of_n);
    memcpy(w.dh, ARG(gru_bwd, dhn)->data, (size_t)(q->n * w.h) * sizeof(T));
    clear_absent(q, w.da, rs, rs);
    copy_present(q, w.xs, w.x, w.in);
    for (int64_t k = q->steps - 1; k >= 0; k--) {
        int64_t t = step_at(q, k);
        run_step(c, backward, &w, &w.of_h, t, q->counts[t]);
        if (!w.after) run_step(c, backward_r, &w, &w.of_n, t, q->counts[t]);
    }
    gather_first(q, w.apart, w.da, rs);
    last_products(c, c, &w);
}

PN_SCRATCH_FN(gru_bwd) {
    SET(gru_bwd);
    return (int64_t)(uintptr_t)lay_backward(c, &w, NULL);
}

#endif
