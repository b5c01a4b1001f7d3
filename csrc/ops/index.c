/* index.c: rows by number and back, joining, running sums, clamping.
 *
 * gather_rows    y[n, c] = x[idx[n], c]                      x[R,C], idx of any shape
 * scatter_add    y[r, c] = Σ g[n, c] over idx[n] = r         its adjoint
 * gather_along   y[b, n, c] = x[b, idx[b, n, c], c]
 * scatter_along  y[b, r, c] = Σ g[b, n, c] over idx[b, n, c] = r
 * cat            y[b, :, c] = a0[b, :, c], a1[b, :, c], ...
 * cumsum         y[b, n, c] = x[b, 0, c] + ... + x[b, n, c]
 * clamp          y = min(max(x, lo), hi)
 *
 * The first pair is the second with one batch, so both run the same loops: rows of c, copied whole where
 * a row has one index. Outputs are row-major, inputs have any strides; every offset is 64-bit.
 * A chunk of a scatter owns rows and columns of y, reads all indices, and adds what falls to it in the
 * order of occurrence: the sums do not depend on the number of threads. An index out of range is an error.
 */
#include "pn_index.h"
#if PN_FLOAT
#include "pn_each.h"
#endif

#define IDX 1 /* the place of idx among the arguments of all four */

typedef struct job {
    const pn_array *x, *y; /* from, to */
    rows idx, g;           /* g: the rows that a scatter reads */
    int64_t xs[3], gc, ic; /* strides of x[B,R,C]; of g and idx along c */
    int64_t B, N, R, C;    /* N rows of C in each of B batches; indices are below R */
    int64_t per;           /* indices a row: 1 or C */
    int64_t grain, row_parts, col_parts;
} job;

static inline const int64_t *index_row(const job *j, int64_t row) {
    return (const int64_t *)j->idx.a->data + row_at(&j->idx, row);
}

#if PN_KIND == PN_any

static void gather_chunk(pn_call *c, void *arg, int64_t chunk, int worker) {
    const job *j = arg;
    int64_t size = item_size(j->x->dtype), lo = chunk * j->grain,
            hi = pn_min(j->B * j->N, lo + j->grain);
    int64_t run = j->ic == 0 ? j->C : 1; /* elements that share an index */
    (void)worker;
    for (int64_t n = lo; n < hi; n++) {
        const int64_t *idx = index_row(j, n);
        const char *x = (const char *)j->x->data + n / j->N * j->xs[0] * size;
        char *y = (char *)j->y->data + n * j->C * size;
        for (int64_t k = 0; k < j->C; k += run) {
            int64_t r = idx[k * j->ic];
            if (r < 0 || r >= j->R) {
                pn_fail(c, PN_E_INDEX, IDX, n * j->per + k, (double)r);
                return;
            }
            copy_run(y + k * size, x + (r * j->xs[1] + k * j->xs[2]) * size, j->xs[2], run, size);
        }
    }
}

static void gather(pn_call *c, job *j) {
    j->grain = pn_max(1, pn_grain(CHUNK) / pn_max(1, j->C));
    pn_for(c, pn_ceil_div(j->B * j->N, j->grain), gather_chunk, j);
}

PN_FN(gather_rows_fwd) {
    pick_rows(c, ARG(gather_rows_fwd, x), ARG(gather_rows_fwd, idx), IDX, ARG(gather_rows_fwd, y),
              PAR(gather_rows_fwd, skip).i);
}

PN_FN(gather_along_fwd) {
    const pn_array *x = ARG(gather_along_fwd, x), *idx = ARG(gather_along_fwd, idx);
    job j = {.x = x,
             .y = ARG(gather_along_fwd, y),
             .idx = rows_of(idx, 2),
             .xs = {x->strides[0], x->strides[1], x->strides[2]},
             .ic = idx->strides[2],
             .B = x->shape[0],
             .N = idx->shape[1],
             .R = x->shape[1],
             .C = x->shape[2]};
    j.per = j.C;
    if (j.C == 1) j.ic = 0;
    gather(c, &j);
}

/* ---- cat: rows of C elements, of which operand k holds those from start[k] in each batch */

#define CAT_MAX 10

typedef struct joint {
    int64_t start[CAT_MAX + 1], rows, grain, C; /* rows: all batches' */
} joint;

static void cat_chunk(pn_call *c, void *arg, int64_t chunk, int worker) {
    const joint *j = arg;
    const pn_array *y = ARG(cat_fwd, y);
    int64_t size = item_size(y->dtype), M = j->start[CAT_MAX];
    int64_t lo = chunk * j->grain, hi = pn_min(j->rows, lo + j->grain);
    (void)worker;
    for (int64_t n; lo < hi; lo += n) {
        int64_t b = lo / M, m = lo % M;
        int k = 0;
        while (m >= j->start[k + 1]) k++;
        const pn_array *a = &c->arg[k];
        n = pn_min(hi - lo, j->start[k + 1] - m);
        const char *from =
            (const char *)a->data + (b * a->strides[0] + (m - j->start[k]) * a->strides[1]) * size;
        char *to = (char *)y->data + lo * j->C * size;
        if (j->C == 1)
            copy_run(to, from, a->strides[1], n, size);
        else if (a->strides[1] == j->C && a->strides[2] == 1)
            copy_run(to, from, 1, n * j->C, size);
        else
            for (int64_t i = 0; i < n; i++)
                copy_run(to + i * j->C * size, from + i * a->strides[1] * size, a->strides[2], j->C,
                         size);
    }
}

PN_FN(cat_fwd) {
    const pn_array *y = ARG(cat_fwd, y);
    joint j = {.C = y->shape[2], .rows = y->shape[0] * y->shape[1]};
    for (int k = 0; k < CAT_MAX; k++)
        j.start[k + 1] = j.start[k] + (c->arg[k].data ? c->arg[k].shape[1] : 0);
    j.grain = pn_max(1, pn_grain(CHUNK) / pn_max(1, j.C));
    pn_for(c, pn_ceil_div(j.rows, j.grain), cat_chunk, &j);
}

#endif

#if PN_FLOAT

/* ---- scatter: first all indices are checked, then every chunk fills its part of y */

static void check_chunk(pn_call *c, void *arg, int64_t chunk, int worker) {
    const job *j = arg;
    int64_t lo = chunk * j->grain, hi = pn_min(j->B * j->N, lo + j->grain);
    int64_t per = j->ic == 0 ? 1 : j->C;
    (void)worker;
    for (int64_t n = lo; n < hi; n++)
        for (int64_t k = 0; k < per; k++) {
            int64_t r = index_row(j, n)[k * j->ic];
            if (r < 0 || r >= j->R) {
                pn_fail(c, PN_E_INDEX, IDX, n * j->per + k, (double)r);
                return;
            }
        }
}

static void scatter_chunk(pn_call *c, void *arg, int64_t chunk, int worker) {
    const job *j = arg;
    int64_t b = chunk / (j->row_parts * j->col_parts), cp = chunk % j->col_parts;
    int64_t rp = chunk / j->col_parts % j->row_parts;
    int64_t lo = rp * j->R / j->row_parts, hi = (rp + 1) * j->R / j->row_parts;
    int64_t from = cp * j->C / j->col_parts, n_col = (cp + 1) * j->C / j->col_parts - from;
    T *y = (T *)j->y->data + b * j->R * j->C + from;
    (void)c, (void)worker;
    for (int64_t r = lo; r < hi; r++) memset(y + r * j->C, 0, (size_t)n_col * sizeof(T));
    for (int64_t n = b * j->N; n < (b + 1) * j->N; n++) {
        const int64_t *idx = index_row(j, n);
        const T *g = (const T *)j->g.a->data + row_at(&j->g, n) + from * j->gc;
        if (j->ic == 0) {
            if (*idx < lo || *idx >= hi) continue;
            T *to = y + *idx * j->C;
            if (j->gc == 1)
                for (int64_t k = 0; k < n_col; k++) to[k] += g[k];
            else
                for (int64_t k = 0; k < n_col; k++) to[k] += g[k * j->gc];
        } else {
            for (int64_t k = 0; k < n_col; k++) {
                int64_t r = idx[(from + k) * j->ic];
                if (r >= lo && r < hi) y[r * j->C + k] += g[k * j->gc];
            }
        }
    }
}

static void scatter(pn_call *c, job *j) {
    int64_t want = pn_min(32, pn_ceil_div(j->B * (j->R + j->N) * j->C, pn_grain(CHUNK)));
    j->grain = pn_max(1, pn_grain(CHUNK) / (j->ic == 0 ? 1 : pn_max(1, j->C)));
    pn_for(c, pn_ceil_div(j->B * j->N, j->grain), check_chunk, j);
    if (c->err.code != PN_OK) return;
    /* columns in whole cache lines first, since they share the work evenly; rows where those are too few */
    j->col_parts = pn_max(1, pn_min(pn_ceil_div(want, j->B), j->C * (int64_t)sizeof(T) / PN_ALIGN));
    j->row_parts = pn_max(1, pn_min(pn_min(want / (j->B * j->col_parts), 8), j->R));
    pn_for(c, j->B * j->row_parts * j->col_parts, scatter_chunk, j);
}

PN_FN(scatter_add_fwd) {
    const pn_array *g = ARG(scatter_add_fwd, g), *idx = ARG(scatter_add_fwd, idx),
                   *y = ARG(scatter_add_fwd, y);
    fold f = {.x = rows_of(g, g->ndim - 1),
              .to = rows_of(idx, idx->ndim),
              .to_place = IDX,
              .N = pn_size(idx),
              .R = y->shape[0],
              .C = y->shape[1],
              .xc = g->strides[g->ndim - 1],
              .skip_to = PAR(scatter_add_fwd, skip).i};
    fold_rows(c, &f, y, ARG(scatter_add_fwd, scratch)->data);
}
PN_SCRATCH_FN(scatter_add_fwd) { return fold_scratch(pn_size(ARG(scatter_add_fwd, idx))); }

PN_FN(scatter_along_fwd) {
    const pn_array *g = ARG(scatter_along_fwd, g), *idx = ARG(scatter_along_fwd, idx),
                   *y = ARG(scatter_along_fwd, y);
    job j = {.y = y,
             .idx = rows_of(idx, 2),
             .g = rows_of(g, 2),
             .gc = g->strides[2],
             .ic = idx->strides[2],
             .B = y->shape[0],
             .N = g->shape[1],
             .R = y->shape[1],
             .C = y->shape[2]};
    j.per = j.C;
    if (j.C == 1) j.ic = 0;
    scatter(c, &j);
}

/* ---- cumsum: a chunk owns columns of one batch; sums run in double */

#define COLUMNS 64

static void cumsum_chunk(pn_call *c, void *arg, int64_t chunk, int worker) {
    const pn_array *x = ARG(cumsum_fwd, x), *y = arg;
    int64_t N = y->shape[1], C = y->shape[2], strips = pn_ceil_div(C, COLUMNS);
    int64_t b = chunk / strips, from = chunk % strips * COLUMNS, m = pn_min(COLUMNS, C - from);
    const T *p = (const T *)x->data + b * x->strides[0] + from * x->strides[2];
    T *to = (T *)y->data + b * N * C + from;
    double sum[COLUMNS] = {0};
    (void)worker;
    for (int64_t n = 0; n < N; n++, p += x->strides[1], to += C)
        for (int64_t k = 0; k < m; k++) to[k] = (T)(sum[k] += p[k * x->strides[2]]);
}

PN_FN(cumsum_fwd) {
    pn_array *y = ARG(cumsum_fwd, y);
    pn_for(c, y->shape[0] * pn_ceil_div(y->shape[2], COLUMNS), cumsum_chunk, y);
}

PN_EACH(clamp_fwd, 1, 1, const V lo = pn_set1((T)par[PNP_clamp_fwd_min].f);
        const V hi = pn_set1((T)par[PNP_clamp_fwd_max].f);, V up = pn_select(a < lo, lo, a);
        y = pn_select(up > hi, hi, up);)

#endif
