/* pn_gemm.h: the one door for matrix products.
 *
 *     C[b] = act( A[b] B[b]  (+ C[b])  + bias[b] + res[b] )
 *
 * A is m x k, B is k x n, all others are m x n; b runs over up to PN_GEMM_BATCH batch dimensions.
 * Every operand has a row, a column and a stride per batch dimension, in elements: any value for what
 * is read (0 broadcasts, negative walks back), distinct elements for C, which overlaps no operand.
 * A bias per column has rs = 0, one per row has cs = 0. k == 0 gives act(bias + ...).
 */
#ifndef PN_GEMM_H
#define PN_GEMM_H

#include "pn_kernel.h"

#define PN_GEMM_BATCH (PN_MAXDIM - 2)

typedef struct pn_mat {
    T *p;                      /* the first element; a bias or res that is absent is all zeros */
    int64_t rs, cs;            /* from row to row, from column to column */
    int64_t bs[PN_GEMM_BATCH]; /* from one place of a batch dimension to the next */
} pn_mat;

typedef struct pn_gemm_args {
    int64_t m, n, k;
    pn_mat a, b, c, bias, res;
    int accumulate; /* add to what C holds */
    int relu;       /* act = max(x, 0), NaN stays */
    /* Any other activation, element by element: called for each part of C that is done, with m, n and c
     * (which may lie transposed) of that part, and act_arg of the whole. */
    void (*act)(const struct pn_gemm_args *part);
    const void *act_arg;
    int n_batch;
    int64_t batch[PN_GEMM_BATCH];
} pn_gemm_args;

/* By the kernels of pn_gemm.c, or by BLAS (pn_blas.c) where the user has chosen it and it can.
 * With the former the value of an element depends on its row of A, its column of B, what is added, k,
 * and whether it is a dot product along memory: of a single row, or of up to PN_DOT_ROWS (all that share B) with
 * k >= PN_DOT_FROM, by contiguous columns, or the same with A and B in each other's place. */
void PN_NAME(gemm)(pn_call *c, const pn_gemm_args *g, void *scratch);

/* Bytes of scratch for this product, often 0; it holds while the number of threads and
 * PYNN_CHUNK_DIV stay as they are. Only the pointers of g may still be missing. */
int64_t PN_NAME(gemm_scratch)(const pn_gemm_args *g);

/* pn_blas.c: whether BLAS computed this product. Not where none is chosen, nor where it cannot. */
int PN_NAME(blas)(pn_call *c, const pn_gemm_args *g);

#endif
