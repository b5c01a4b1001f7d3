/* matmul.c: y[..., i, j] = Σ_k a[..., i, k] b[..., k, j], any strides, through pn_gemm.
 *
 * The leading dimensions are the product's batch; where b is the same for the last of them and a's
 * rows go on regularly, it joins the rows, so that one tall product is computed instead of many.
 */
#include "pn_gemm.h"

#if PN_FLOAT

static void last_two(pn_mat *m, const pn_array *x) {
    m->p = x->data, m->rs = x->strides[x->ndim - 2], m->cs = x->strides[x->ndim - 1];
}

/* Field by field: to clear all of g first takes as long as a small product's arithmetic. */
static void product(pn_gemm_args *g, const pn_array *a, const pn_array *b, const pn_array *y) {
    int nd = y->ndim, d = nd - 3;
    g->m = a->shape[nd - 2], g->k = a->shape[nd - 1], g->n = b->shape[nd - 1];
    last_two(&g->a, a);
    last_two(&g->b, b);
    last_two(&g->c, y);
    g->bias.p = g->res.p = NULL;
    g->bias.rs = g->bias.cs = g->res.rs = g->res.cs = 0;
    g->accumulate = g->relu = g->n_batch = 0;
    g->act = NULL, g->act_arg = NULL;
    for (; d >= 0; d--) {
        int64_t size = y->shape[d];
        int joins = b->strides[d] == 0 && a->strides[d] == g->a.rs * g->m &&
                    y->strides[d] == g->c.rs * g->m;
        if (size != 1 && !joins) break;
        g->m *= size;
    }
    for (; d >= 0; d--) {
        int e = g->n_batch;
        if (y->shape[d] == 1) continue;
        g->a.bs[e] = a->strides[d], g->b.bs[e] = b->strides[d], g->c.bs[e] = y->strides[d];
        g->bias.bs[e] = g->res.bs[e] = 0;
        g->batch[e] = y->shape[d];
        g->n_batch++;
    }
}

PN_FN(matmul_fwd) {
    pn_gemm_args g;
    product(&g, ARG(matmul_fwd, a), ARG(matmul_fwd, b), ARG(matmul_fwd, y));
    PN_NAME(gemm)(c, &g, ARG(matmul_fwd, scratch)->data);
}

PN_SCRATCH_FN(matmul_fwd) {
    pn_gemm_args g;
    product(&g, ARG(matmul_fwd, a), ARG(matmul_fwd, b), ARG(matmul_fwd, y));
    return PN_NAME(gemm_scratch)(&g);
}

#endif
