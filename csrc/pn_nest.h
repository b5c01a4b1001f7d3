/* pn_nest.h: loops over several arrays of one shape, in few dimensions. */
#ifndef PN_NEST_H
#define PN_NEST_H

#include "pn.h"

static inline int64_t pn_itemsize(int dtype) {
    static const int8_t size[PN_NDTYPE] = {4, 8, 8, 4, 1, 1};
    return size[dtype];
}

typedef int64_t pn_steps[PN_MAXDIM];

/* Orders the dimensions by the strides of array `lead` and merges neighbours where all n
 * arrays allow it. An array that is absent has no data, and steps of 0. Returns the elements in all. */
static inline int64_t pn_nest(const pn_array *const *arr, int n, int lead, int *ndim,
                              pn_steps shape, pn_steps *stride) {
    const pn_array *first = arr[lead];
    int order[PN_MAXDIM], n_dim = 0, to = 0;
    int64_t total = 1;
    for (int d = 0; d < first->ndim; d++)
        if (first->shape[d] != 1) order[n_dim++] = d;
    for (int i = 1; i < n_dim; i++)
        for (int j = i; j > 0 && first->strides[order[j - 1]] < first->strides[order[j]]; j--) {
            int d = order[j];
            order[j] = order[j - 1], order[j - 1] = d;
        }
    for (int i = 0; i < n_dim; i++) {
        int64_t size = first->shape[order[i]];
        int merge = to > 0;
        for (int k = 0; merge && k < n; k++)
            if (arr[k]->data) merge = stride[k][to - 1] == arr[k]->strides[order[i]] * size;
        if (!merge) shape[to++] = 1;
        shape[to - 1] *= size;
        for (int k = 0; k < n; k++)
            stride[k][to - 1] = arr[k]->data ? arr[k]->strides[order[i]] : 0;
        total *= size;
    }
    if (to == 0) {
        to = 1, shape[0] = 1;
        for (int k = 0; k < n; k++) stride[k][0] = 1;
    }
    *ndim = to;
    return total;
}

#endif
