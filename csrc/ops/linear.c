/* linear.c: y[..., o] = Σ_i x[..., i] W[o, i] + b[o]
 *
 * One product for all rows where the leading dimensions of x go on regularly, else one a batch entry;
 * the bias is added in the product's epilogue.
 */
#include "pn_gemm.h"

#if PN_FLOAT

static pn_gemm_args product(const pn_call *c) {
    const pn_array *x = ARG(linear_fwd, x), *w = ARG(linear_fwd, W), *b = ARG(linear_fwd, b), *y = ARG(linear_fwd, y);
    int d = x->ndim - 2;
    pn_gemm_args g = {.m = 1, .n = w->shape[0], .k = w->shape[1]};
    g.a.p = x->data, g.a.cs = x->strides[x->ndim - 1], g.a.rs = 1;
    g.b.p = w->data, g.b.rs = w->strides[1], g.b.cs = w->strides[0];
    g.c.p = y->data, g.c.cs = y->strides[y->ndim - 1], g.c.rs = g.n;
    if (b->data) g.bias.p = b->data, g.bias.cs = b->strides[0];
    for (; d >= 0; d--) {
        if (x->shape[d] == 1) continue;
        if (g.m == 1) g.a.rs = x->strides[d], g.c.rs = y->strides[d];
        else if (x->strides[d] != g.a.rs * g.m || y->strides[d] != g.c.rs * g.m) break;
        g.m *= x->shape[d];
    }
    for (; d >= 0; d--) {
        if (x->shape[d] == 1) continue;
        g.a.bs[g.n_batch] = x->strides[d], g.c.bs[g.n_batch] = y->strides[d];
        g.batch[g.n_batch++] = x->shape[d];
    }
    return g;
}

PN_FN(linear_fwd) {
    pn_gemm_args g = product(c);
    PN_NAME(gemm)(c, &g, ARG(linear_fwd, scratch)->data);
}

PN_SCRATCH_FN(linear_fwd) {
    pn_gemm_args g = product(c);
    return PN_NAME(gemm_scratch)(&g);
}

#endif
