/* linear.c: y = x Wᵀ + b over the rows of x, and its derivatives.
 *
 *   y[r, o]  = Σ_i x[r, i] W[o, i] + b[o]       the bias in the product's epilogue
 *   dx[r, i] = Σ_o dy[r, o] W[o, i]
 *   dW[o, i] = Σ_r dy[r, o] x[r, i]
 *   db[o]    = Σ_r dy[r, o]                     the product of a row of ones with dy
 *
 * The rows are all leading dimensions of x, as one product where they go on regularly in memory, else
 * as a batch of products; dW and db then add the entries up in order.
 */
#include "pn_gemm.h"

#if PN_FLOAT

/* How the leading dimensions of a pair of arrays fall into rows and batch: the first is walked in
 * steps rs[0] and bs[.][0], the second in rs[1] and bs[.][1]. */
typedef struct rows {
    int64_t m, rs[2], size[PN_MAXDIM], bs[PN_MAXDIM][2];
    int n_batch;
} rows;

static rows rows_of(const pn_array *x, const pn_array *y) {
    rows r = {.m = 1, .rs = {1, 1}};
    int d = x->ndim - 2;
    for (int k = 0; k <= d; k++)
        if (x->shape[k] == 0) return (rows){.m = 0, .rs = {1, 1}};
    for (; d >= 0; d--) {
        if (x->shape[d] == 1) continue;
        if (r.m == 1)
            r.rs[0] = x->strides[d], r.rs[1] = y->strides[d];
        else if (x->strides[d] != r.rs[0] * r.m || y->strides[d] != r.rs[1] * r.m)
            break;
        r.m *= x->shape[d];
    }
    for (; d >= 0; d--) {
        if (x->shape[d] == 1) continue;
        r.bs[r.n_batch][0] = x->strides[d], r.bs[r.n_batch][1] = y->strides[d];
        r.size[r.n_batch++] = x->shape[d];
    }
    return r;
}

static pn_mat weight(const pn_array *w) { /* as [O, I] */
    return (pn_mat){.p = w->data, .rs = w->strides[0], .cs = w->strides[1]};
}

static pn_mat leading(const pn_array *x, const rows *r, int which) {
    pn_mat m = {.p = x->data, .rs = r->rs[which], .cs = x->strides[x->ndim - 1]};
    for (int d = 0; d < r->n_batch; d++) m.bs[d] = r->bs[d][which];
    return m;
}

static pn_mat swapped(pn_mat m) {
    int64_t rs = m.rs;
    m.rs = m.cs, m.cs = rs;
    return m;
}

static void set_batch(pn_gemm_args *g, const rows *r) {
    g->n_batch = r->n_batch;
    for (int d = 0; d < r->n_batch; d++) g->batch[d] = r->size[d];
}

static pn_gemm_args value(const pn_call *c) {
    const pn_array *x = ARG(linear_fwd, x), *w = ARG(linear_fwd, W), *b = ARG(linear_fwd, b);
    rows r = rows_of(x, ARG(linear_fwd, y));
    pn_gemm_args g = {.m = r.m,
                      .n = w->shape[0],
                      .k = w->shape[1],
                      .a = leading(x, &r, 0),
                      .b = swapped(weight(w)),
                      .c = leading(ARG(linear_fwd, y), &r, 1)};
    if (b->data) g.bias.p = b->data, g.bias.cs = b->strides[0];
    set_batch(&g, &r);
    return g;
}

PN_FN(linear_fwd) {
    pn_gemm_args g = value(c);
    PN_NAME(gemm)(c, &g, ARG(linear_fwd, scratch)->data);
}

PN_SCRATCH_FN(linear_fwd) {
    pn_gemm_args g = value(c);
    return PN_NAME(gemm_scratch)(&g);
}

static pn_gemm_args grad_x(const pn_call *c) {
    const pn_array *dy = ARG(linear_bwd, dy), *w = ARG(linear_bwd, W), *dx = ARG(linear_bwd, dx);
    rows r = rows_of(dy, dx);
    pn_gemm_args g = {.m = r.m,
                      .n = w->shape[1],
                      .k = w->shape[0],
                      .a = leading(dy, &r, 0),
                      .b = weight(w),
                      .c = leading(dx, &r, 1)};
    set_batch(&g, &r);
    return g;
}

/* dW, or with x replaced by ones db; the batch entries come one after another */
static pn_gemm_args grad_w(const pn_call *c, const rows *r, T *ones) {
    const pn_array *dy = ARG(linear_bwd, dy), *x = ARG(linear_bwd, x), *dw = ARG(linear_bwd, dW),
                   *db = ARG(linear_bwd, db);
    pn_gemm_args g = {.m = dy->shape[dy->ndim - 1], .k = r->m, .a = swapped(leading(dy, r, 0))};
    if (!ones) {
        g.n = x->shape[x->ndim - 1], g.b = leading(x, r, 1), g.c = weight(dw);
    } else {
        g.n = g.m, g.m = 1, g.b = leading(dy, r, 0);
        g.a = (pn_mat){.p = ones}, g.c = (pn_mat){.p = db->data, .cs = db->strides[0]};
    }
    return g;
}

static void sum_entries(pn_call *c, const rows *r, pn_gemm_args g, T *ones, void *scratch) {
    int64_t n = 1;
    const pn_mat a = g.a, b = g.b;
    for (int d = 0; d < r->n_batch; d++) n *= r->size[d];
    for (int64_t i = 0; i < n; i++, g.accumulate = 1) {
        int64_t rest = i, off[2] = {0, 0};
        for (int d = 0; d < r->n_batch; d++) {
            int64_t at = rest % r->size[d];
            rest /= r->size[d];
            off[0] += at * r->bs[d][0], off[1] += at * r->bs[d][1];
        }
        g.a.p = ones ? ones : a.p + off[0];
        g.b.p = ones ? b.p + off[0] : b.p + off[1];
        PN_NAME(gemm)(c, &g, scratch);
    }
}

PN_FN(linear_bwd) {
    const pn_array *dx = ARG(linear_bwd, dx), *dw = ARG(linear_bwd, dW), *db = ARG(linear_bwd, db);
    void *scratch = ARG(linear_bwd, scratch)->data;
    rows r = rows_of(ARG(linear_bwd, dy), ARG(linear_bwd, x));
    T one = 1;
    if (dx->data) {
        pn_gemm_args g = grad_x(c);
        PN_NAME(gemm)(c, &g, scratch);
    }
    if (dw->data) sum_entries(c, &r, grad_w(c, &r, NULL), NULL, scratch);
    if (db->data) sum_entries(c, &r, grad_w(c, &r, &one), &one, scratch);
}

PN_SCRATCH_FN(linear_bwd) {
    rows r = rows_of(ARG(linear_bwd, dy), ARG(linear_bwd, x));
    T one = 1;
    int64_t need = 0;
    pn_gemm_args g;
    if (ARG(linear_bwd, dx)->data) g = grad_x(c), need = PN_NAME(gemm_scratch)(&g);
    if (ARG(linear_bwd, dW)->data)
        g = grad_w(c, &r, NULL), need = pn_max(need, PN_NAME(gemm_scratch)(&g));
    if (ARG(linear_bwd, db)->data)
        g = grad_w(c, &r, &one), need = pn_max(need, PN_NAME(gemm_scratch)(&g));
    return need;
}

#endif
