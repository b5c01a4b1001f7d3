/* pn_list.h: kernels over a list of tensors in one call, as an optimizer's step is.
 *
 * A call has a few single tensors, then rows of equally many: (g, p, m, v, t) for each parameter. The large members
 * of a row share one dense order of memory, so that n elements are what a kernel sees.
 *
 * Threads share the list end to end: each tensor takes its size rounded up to `unit` elements, and a chunk is a
 * piece of that line. Tails run the vector code, padded, so that chunks do not change bits.
 */
#ifndef PN_LIST_H
#define PN_LIST_H

#include "pn_kernel.h"
#include "pn_simd.h"

/* Elements, at least a PN_LIST_CHUNKS-th of the list: with each chunk memory's streams begin anew. */
#define PN_LIST_CHUNK 16384
#define PN_LIST_CHUNKS 64
#define PN_LIST_UNIT 64 /* elements, so that pieces start on whole vectors */
#define PN_LIST_MARKS 64
#define PN_LIST_FAR (4 << 20) /* bytes of one column from which on a step is bound by memory */
/* Elements that such a step fetches ahead: the hardware's own fetching ends with each page. */
#define PN_LIST_AHEAD 256

typedef struct pn_list {
    const pn_array *rows; /* [n_rows, width] */
    int64_t n_rows, width, lead, unit, total, grain;
    int64_t skip, mark[PN_LIST_MARKS]; /* where every skip-th row begins on the line */
    /* elements lo .. hi of a row that begins at base */
    void (*span)(const struct pn_list *l, const pn_array *row, int64_t base, int64_t lo,
                 int64_t hi);
    const void *how;
} pn_list;

static inline int64_t pn_list_room(const pn_list *l, int64_t r) {
    return pn_ceil_div(pn_size(&l->rows[r * l->width + l->lead]), l->unit) * l->unit;
}

/* The rows behind n_fixed single tensors; the lead-th of a row tells its size. */
static inline pn_list pn_list_of(const pn_call *c, int n_fixed, int width, int lead, int n_scratch,
                                 int64_t unit) {
    int64_t n_rows = (c->n_arg - n_fixed - n_scratch) / width;
    pn_list l = {
        .rows = &c->arg[n_fixed], .n_rows = n_rows, .width = width, .lead = lead, .unit = unit};
    l.skip = pn_ceil_div(n_rows, PN_LIST_MARKS);
    for (int64_t r = 0; r < l.n_rows; r++) {
        if (r % l.skip == 0) l.mark[r / l.skip] = l.total;
        l.total += pn_list_room(&l, r);
    }
    l.grain = pn_ceil_div(pn_grain(pn_max(PN_LIST_CHUNK, l.total / PN_LIST_CHUNKS)), unit) * unit;
    return l;
}

static inline void pn_list_body(pn_call *c, void *arg, int64_t chunk, int worker) {
    const pn_list *l = arg;
    int64_t at = chunk * l->grain, end = pn_min(l->total, at + l->grain), r = 0, base;
    (void)c, (void)worker;
    while (r + l->skip < l->n_rows && l->mark[r / l->skip + 1] <= at) r += l->skip;
    for (base = l->mark[r / l->skip]; at < end; r++) {
        int64_t next = base + pn_list_room(l, r);
        const pn_array *row = l->rows + r * l->width;
        if (next > at) {
            l->span(l, row, base, at - base, pn_min(pn_size(&row[l->lead]), end - base));
            at = next;
        }
        base = next;
    }
}

static inline void pn_list_run(pn_call *c, pn_list *l) {
    pn_for(c, pn_ceil_div(l->total, l->grain), pn_list_body, l);
}

static inline double pn_number(const pn_array *a) {
    return a->dtype == PN_F64 ? *(const double *)a->data : *(const float *)a->data;
}

static inline void pn_set_number(const pn_array *a, double x) {
    if (a->dtype == PN_F64)
        *(double *)a->data = x;
    else
        *(float *)a->data = (float)x;
}

/* t += 1 for every row */
static inline void pn_count_steps(const pn_list *l, int column) {
    for (int64_t r = 0; r < l->n_rows; r++) {
        const pn_array *t = &l->rows[r * l->width + column];
        pn_set_number(t, pn_number(t) + 1);
    }
}

#endif
