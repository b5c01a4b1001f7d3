/* embedding.c: rows of a table by number, sums of them, and the rows of its gradient.
 *
 * embedding    y[n, e] = weight[input[n], e]                    weight[V,E], input of any shape
 * sum_rows     y[r, c] = Σ weight[n] x[source[n], c] over target[n] = r
 * merge_rows   index[k] = the k-th of the different numbers in idx, in order; values[k, c] = Σ g[n, c]
 *              over idx[n] = index[k]; from where they end on index = rows and values = 0
 * bag_argmax   y[b, e] = that idx[n] with bag[n] = b for which x[idx[n], e] is largest; 0 for no n
 *
 * sum_rows is a bag of embeddings forward (bags are the targets) and backward (rows of the table are),
 * so it is its own adjoint. Pairs n whose number is `skip` do not count. The sums are the folds of
 * pn_index.h: in the order of n, whatever the number of threads.
 */
#include "pn_index.h"

#if PN_FLOAT

PN_FN(embedding_fwd) {
    pick_rows(c, ARG(embedding_fwd, weight), ARG(embedding_fwd, input), PNA_embedding_fwd_input,
              ARG(embedding_fwd, y), -1);
}

PN_FN(sum_rows_fwd) {
    const pn_array *x = ARG(sum_rows_fwd, x), *source = ARG(sum_rows_fwd, source),
                   *target = ARG(sum_rows_fwd, target), *weight = ARG(sum_rows_fwd, weight),
                   *y = ARG(sum_rows_fwd, y);
    fold f = {.x = rows_of(x, 1),
              .from = rows_of(source, source->ndim),
              .to = rows_of(target, target->ndim),
              .N = pn_size(target),
              .S = x->shape[0],
              .R = y->shape[0],
              .C = x->shape[1],
              .xc = x->strides[1],
              .skip_from = PAR(sum_rows_fwd, skip_source).i,
              .skip_to = PAR(sum_rows_fwd, skip_target).i,
              .from_place = PNA_sum_rows_fwd_source,
              .to_place = PNA_sum_rows_fwd_target};
    if (weight->data) f.w = rows_of(weight, weight->ndim);
    fold_rows(c, &f, y, ARG(sum_rows_fwd, scratch)->data);
}
PN_SCRATCH_FN(sum_rows_fwd) { return fold_scratch(pn_size(ARG(sum_rows_fwd, target))); }

PN_FN(merge_rows_fwd) {
    const pn_array *g = ARG(merge_rows_fwd, g), *idx = ARG(merge_rows_fwd, idx);
    fold f = {.x = rows_of(g, g->ndim - 1),
              .to = rows_of(idx, idx->ndim),
              .N = pn_size(idx),
              .R = PAR(merge_rows_fwd, rows).i,
              .C = g->shape[g->ndim - 1],
              .xc = g->strides[g->ndim - 1],
              .skip_to = PAR(merge_rows_fwd, skip).i,
              .to_place = PNA_merge_rows_fwd_idx};
    merge_rows(c, &f, ARG(merge_rows_fwd, index), ARG(merge_rows_fwd, values),
               ARG(merge_rows_fwd, scratch)->data);
}
PN_SCRATCH_FN(merge_rows_fwd) { return fold_scratch(pn_size(ARG(merge_rows_fwd, idx))); }

/* ---- bag_argmax: a chunk owns bags; bags are found by halving, since their numbers never fall */

#define TILE 256 /* columns whose largest values so far are kept */

typedef struct bags {
    const pn_array *x;
    rows idx, bag;
    int64_t *y;
    int64_t N, R, B, E, skip, grain; /* tokens, rows of x, bags, columns */
} bags;

static int64_t first_token(const bags *g, int64_t bag) {
    int64_t lo = 0, hi = g->N;
    while (lo < hi) {
        int64_t mid = lo + (hi - lo) / 2;
        if (index_at(&g->bag, mid) < bag)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

/* Columns e .. e + m of the bag of tokens lo .. hi. The first of equals wins, and a NaN against all. */
static void argmax_tile(const bags *g, int64_t lo, int64_t hi, int64_t *y, int64_t e, int64_t m) {
    T top[TILE];
    int64_t xs = g->x->strides[1], seen = 0;
    memset(y, 0, (size_t)m * sizeof *y);
    for (int64_t n = lo; n < hi; n++) {
        int64_t r = index_at(&g->idx, n);
        const T *x = (const T *)g->x->data + r * g->x->strides[0] + e * xs;
        if (r == g->skip || r < 0 || r >= g->R)
            continue; /* checked; another thread may write since */
        for (int64_t k = 0; k < m; k++) {
            T v = x[k * xs];
            if (!seen || v > top[k] || (v != v && top[k] == top[k])) top[k] = v, y[k] = r;
        }
        seen = 1;
    }
}

static void bags_chunk(pn_call *c, void *arg, int64_t chunk, int worker) {
    const bags *g = arg;
    int64_t b = chunk * g->grain, last = pn_min(g->B, b + g->grain), lo = first_token(g, b);
    (void)c, (void)worker;
    for (; b < last; b++) {
        int64_t hi = first_token(g, b + 1);
        for (int64_t e = 0; e < g->E; e += TILE)
            argmax_tile(g, lo, hi, g->y + b * g->E + e, e, pn_min(TILE, g->E - e));
        lo = hi;
    }
}

PN_FN(bag_argmax_fwd) {
    const pn_array *x = ARG(bag_argmax_fwd, x), *idx = ARG(bag_argmax_fwd, idx),
                   *bag = ARG(bag_argmax_fwd, bag), *y = ARG(bag_argmax_fwd, y);
    bags g = {.x = x,
              .idx = rows_of(idx, idx->ndim),
              .bag = rows_of(bag, bag->ndim),
              .y = y->data,
              .N = pn_size(idx),
              .R = x->shape[0],
              .B = y->shape[0],
              .E = y->shape[1],
              .skip = PAR(bag_argmax_fwd, skip).i};
    for (int64_t n = 0, before = 0; n < g.N; n++) {
        int64_t r = index_at(&g.idx, n), b = index_at(&g.bag, n);
        if (r < 0 || r >= g.R) pn_fail(c, PN_E_INDEX, PNA_bag_argmax_fwd_idx, n, (double)r);
        if (b < before || b >= g.B) pn_fail(c, PN_E_INDEX, PNA_bag_argmax_fwd_bag, n, (double)b);
        if (c->err.code != PN_OK) return;
        before = b;
    }
    g.grain = pn_max(1, pn_grain(CHUNK) / pn_max(1, g.E * (1 + g.N / pn_max(1, g.B))));
    pn_for(c, pn_ceil_div(g.B, g.grain), bags_chunk, &g);
}

#endif
