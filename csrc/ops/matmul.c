/* matmul.c: y[..., i, j] = Σ_k a[..., i, k] b[..., k, j], any strides, through pn_gemm.
 *
 * The leading dimensions are the product's batch; where b is the same for the last of them and a's
 * rows go on regularly, it joins the rows, so that one tall product is computed instead of many.
 */
#include "pn_gemm.h"

#if PN_FLOAT

static pn_mat last_two(const pn_array *x) {
    pn_mat m = {.p = x->data, .rs = x->strides[x->ndim - 2], .cs = x->strides[x->ndim - 1]};
    return m;
}

static pn_gemm_args product(const pn_array *a, const pn_array *b, const pn_array *y) {
    int nd = y->ndim;
    pn_gemm_args g = {.m = a->shape[nd - 2],
                      .k = a->shape[nd - 1],
                      .n = b->shape[nd - 1],
                      .a = last_two(a),
                      .b = last_two(b),
                      .c = last_two(y)};
    int d = nd - 3;
    for (; d >= 0; d--) {
        int64_t size = y->shape[d];
        int joins =
            b->strides[d] == 0 && a->strides[d] == g.a.rs * g.m && y->strides[d] == g.c.rs * g.m;
        if (size != 1 && !joins) break;
        g.m *= size;
    }
    for (; d >= 0; d--) {
        if (y->shape[d] == 1) continue;
        g.a.bs[g.n_batch] = a->strides[d], g.b.bs[g.n_batch] = b->strides[d],
        g.c.bs[g.n_batch] = y->strides[d];
        g.batch[g.n_batch++] = y->shape[d];
    }
    return g;
}

PN_FN(matmul_fwd) {
    pn_gemm_args g = product(ARG(matmul_fwd, a), ARG(matmul_fwd, b), ARG(matmul_fwd, y));
    PN_NAME(gemm)(c, &g, ARG(matmul_fwd, scratch)->data);
}

PN_SCRATCH_FN(matmul_fwd) {
    pn_gemm_args g = product(ARG(matmul_fwd, a), ARG(matmul_fwd, b), ARG(matmul_fwd, y));
    return PN_NAME(gemm_scratch)(&g);
}

#endif
