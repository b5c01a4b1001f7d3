/* pn_table.h: a step of an optimizer for those rows of a table that a gradient names.
 *
 * index rises and ends with numbers R, which stand for nothing; p and its state are [R, C], g has a row for each
 * number. */
#ifndef PN_TABLE_H
#define PN_TABLE_H

#include "pn_list.h"

typedef struct pn_table {
    const T *g;
    const int64_t *index;
    T *p, *a, *b, *x; /* a, b, x: the state, as far as there is any */
    int64_t n, R, C, grain;
    double t;
    const void *how;
} pn_table;

/* How many rows index names; 0, and an error, where it is not as said above. */
static inline int64_t pn_named_rows(pn_call *c, const pn_array *index, int place, int64_t R) {
    const int64_t *r = index->data;
    int64_t n = 0;
    for (int64_t k = 0; k < index->shape[0]; k++) {
        if (r[k] < 0 || r[k] > R || (k > 0 && r[k] <= r[k - 1] && r[k] < R)) {
            pn_fail(c, PN_E_VALUE, place, k, (double)r[k]);
            return 0;
        }
        n += r[k] < R;
    }
    return n;
}

/* The rows of p that index, argument `place`, names; none, and an error, where it is not as said above. */
static inline pn_table pn_table_of(pn_call *c, const pn_array *g, const pn_array *index, int place,
                                   const pn_array *p) {
    return (pn_table){.g = g->data,
                      .index = index->data,
                      .p = p->data,
                      .n = pn_named_rows(c, index, place, p->shape[0]),
                      .R = p->shape[0],
                      .C = p->shape[1]};
}

#define PN_TABLE_OF(kernel)                                                                        \
    pn_table_of(c, ARG(kernel, g), ARG(kernel, index), PNA_##kernel##_index, ARG(kernel, p))

/* Fetches the row that is some rows ahead: rows lie anywhere. */
static inline void pn_fetch_row(const pn_table *t, int64_t k) {
    int64_t r = t->index[pn_min(k, t->n - 1)], at = r * t->C;
    if (r < 0 || r >= t->R) return;
    for (int64_t i = 0; i < pn_min(t->C, 128); i += PN_ALIGN / (int64_t)sizeof(T)) {
        __builtin_prefetch(t->p + at + i);
        if (t->a) __builtin_prefetch(t->a + at + i);
        if (t->b) __builtin_prefetch(t->b + at + i);
    }
}

#define PN_TABLE_CHUNK(name, run)                                                                  \
    static void name(pn_call *c, void *arg, int64_t chunk, int worker) {                           \
        const pn_table *t = arg;                                                                   \
        (void)c, (void)worker;                                                                     \
        for (int64_t k = chunk * t->grain; k < pn_min(t->n, (chunk + 1) * t->grain); k++) {        \
            int64_t r = t->index[k], at = r * t->C;                                                \
            const T *g = t->g + k * t->C;                                                          \
            T *p = t->p + at;                                                                      \
            if (r < 0 || r >= t->R) continue; /* checked; another thread may write since */        \
            pn_fetch_row(t, k + 4);                                                                \
            run;                                                                                   \
        }                                                                                          \
    }

static inline void pn_table_run(pn_call *c, pn_table *t, pn_body body) {
    t->grain = pn_max(1, pn_grain(PN_LIST_CHUNK) / pn_max(1, t->C));
    pn_for(c, pn_ceil_div(t->n, t->grain), body, t);
}

#endif
