/* linear.c: y = x Wᵀ + b over the rows of x, and its derivatives.
 *
 *   y[r, o]  = Σ_i x[r, i] W[o, i] + b[o]       the bias in the product's epilogue
 *   dx[r, i] = Σ_o dy[r, o] W[o, i]
 *   dW[o, i] = Σ_r dy[r, o] x[r, i]
 *   db[o]    = Σ_r dy[r, o]                     the product of a row of ones with dy
 *
 * The rows are all leading dimensions of x, as one product where they go on regularly in memory, else
 * as a batch of products; dW then adds the entries up in order. db is a sum over blocks of rows, each a
 * chain, in order.
 *
 *   y = act(z), z = x Wᵀ + b                    relu in the product's epilogue, others in place
 *   dz = dy act'(y)                             with db from each part of it; then as above
 *
 * act is any kernel of one argument, element by element, known by its number in kernels.inc.
 */
#include <string.h>

#include "pn_gemm.h"
#include "pn_simd.h"

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

/* x Wᵀ + b to out, for linear_fwd and linear_act_fwd */
static pn_gemm_args value(const pn_call *c, const pn_array *out) {
    const pn_array *x = ARG(linear_fwd, x), *w = ARG(linear_fwd, W), *b = ARG(linear_fwd, b);
    rows r = rows_of(x, out);
    pn_gemm_args g = {.m = r.m,
                      .n = w->shape[0],
                      .k = w->shape[1],
                      .a = leading(x, &r, 0),
                      .b = swapped(weight(w)),
                      .c = leading(out, &r, 1)};
    if (b->data) g.bias.p = b->data, g.bias.cs = b->strides[0];
    set_batch(&g, &r);
    return g;
}

PN_FN(linear_fwd) {
    pn_gemm_args g = value(c, ARG(linear_fwd, y));
    PN_NAME(gemm)(c, &g, ARG(linear_fwd, scratch)->data);
}

PN_SCRATCH_FN(linear_fwd) {
    pn_gemm_args g = value(c, ARG(linear_fwd, y));
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

/* dW; the batch entries come one after another */
static pn_gemm_args grad_w(const pn_call *c, const rows *r) {
    const pn_array *dy = ARG(linear_bwd, dy), *x = ARG(linear_bwd, x), *dw = ARG(linear_bwd, dW);
    return (pn_gemm_args){.m = dy->shape[dy->ndim - 1],
                          .n = x->shape[x->ndim - 1],
                          .k = r->m,
                          .a = swapped(leading(dy, r, 0)),
                          .b = leading(x, r, 1),
                          .c = weight(dw)};
}

static void sum_entries(pn_call *c, const rows *r, pn_gemm_args g, void *scratch) {
    int64_t n = 1;
    const pn_mat a = g.a, b = g.b;
    for (int d = 0; d < r->n_batch; d++) n *= r->size[d];
    for (int64_t i = 0; i < n; i++, g.accumulate = 1) {
        int64_t rest = i;
        g.a.p = a.p, g.b.p = b.p;
        for (int d = 0; d < r->n_batch; d++) {
            int64_t at = rest % r->size[d];
            rest /= r->size[d];
            g.a.p += at * r->bs[d][0], g.b.p += at * r->bs[d][1];
        }
        PN_NAME(gemm)(c, &g, scratch);
    }
}

/* dx and dW from a call of linear_bwd */
static void products(pn_call *c, void *scratch) {
    rows r = rows_of(ARG(linear_bwd, dy), ARG(linear_bwd, x));
    if (ARG(linear_bwd, dx)->data) {
        pn_gemm_args g = grad_x(c);
        PN_NAME(gemm)(c, &g, scratch);
    }
    if (ARG(linear_bwd, dW)->data) sum_entries(c, &r, grad_w(c, &r), scratch);
}

static int64_t products_scratch(const pn_call *c) {
    rows r = rows_of(ARG(linear_bwd, dy), ARG(linear_bwd, x));
    int64_t need = 0;
    pn_gemm_args g;
    if (ARG(linear_bwd, dx)->data) g = grad_x(c), need = PN_NAME(gemm_scratch)(&g);
    if (ARG(linear_bwd, dW)->data)
        g = grad_w(c, &r), need = pn_max(need, PN_NAME(gemm_scratch)(&g));
    return pn_ceil_div(need, PN_ALIGN) * PN_ALIGN;
}

/* ---- db, and before it dz ---------------------------------------------------------------------- */

#define SUM_ROWS 64   /* rows of one chain of db: part of its value */
#define SUM_COLS 512  /* columns of a chunk, at most */

/* A pass over the rows of dy, or of dz = dy act'(y) that it computes first. */
typedef struct pass {
    const pn_array *dy; /* [..., O], any strides */
    pn_fn act;          /* NULL: dz is there; else dy's rows are dy_rs apart, y and dz dense */
    const pn_value *par;
    T *y, *dz;          /* dz: what is summed, NULL: dy, row by row */
    int64_t dy_rs, dz_rs, m, n, nc,
        across; /* rows, columns; columns of a chunk, chunks side by side */
    T *sums;            /* [blocks of rows, n], or NULL */
} pass;

static const T *row_of(const pn_array *x, int64_t r) {
    const T *p = x->data;
    for (int d = x->ndim - 2; d >= 0; d--) p += r % x->shape[d] * x->strides[d], r /= x->shape[d];
    return p;
}

static void act_part(const pass *w, int64_t r, int64_t j, int64_t m, int64_t n) {
    const pn_array *dy = w->dy;
    int64_t cs = dy->strides[dy->ndim - 1], at = r * w->n + j;
    pn_array arg[3];
    pn_call part = {.arg = arg, .par = w->par, .n_arg = 3};
    arg[0] = (pn_array){(T *)dy->data + r * w->dy_rs + j * cs, PN_DTYPE, 2, {m, n}, {w->dy_rs, cs}};
    arg[1] = (pn_array){w->y + at, PN_DTYPE, 2, {m, n}, {w->n, 1}};
    arg[2] = (pn_array){w->dz + at, PN_DTYPE, 2, {m, n}, {w->n, 1}};
    w->act(&part);
}

/* sum[j] = 0 + x[0][j] + x[1][j] + ... over m rows, rs apart */
static void add_rows(T *sum, const T *x, int64_t rs, int64_t m, int64_t n) {
    enum { WIDE = 4 }; /* chains at once, lest each wait for itself */
    int64_t j = 0;
    for (; j + WIDE * PN_VL <= n; j += WIDE * PN_VL) {
        V s[WIDE] = {{0}};
        for (int64_t i = 0; i < m; i++) {
            PN_UNROLL
            for (int v = 0; v < WIDE; v++) s[v] += pn_load(x + i * rs + j + v * PN_VL);
        }
        PN_UNROLL
        for (int v = 0; v < WIDE; v++) pn_store(sum + j + v * PN_VL, s[v]);
    }
    for (; j < n; j += PN_VL) {
        V s = {0};
        for (int64_t i = 0; i < m; i++) s += pn_load_part(x + i * rs + j, n - j, 0);
        pn_store_part(sum + j, s, n - j);
    }
}

/* The same from row r of any array on. */
static void add_any_rows(T *sum, const pn_array *x, int64_t r, int64_t j, int64_t m, int64_t n) {
    int64_t cs = x->strides[x->ndim - 1];
    memset(sum, 0, (size_t)n * sizeof(T));
    for (int64_t i = r; i < r + m; i++) {
        const T *p = row_of(x, i) + j * cs;
        for (int64_t k = 0; k < n; k++) sum[k] += p[k * cs];
    }
}

static void pass_body(pn_call *c, void *arg, int64_t chunk, int worker) {
    const pass *w = arg;
    int64_t r = chunk / w->across * SUM_ROWS, j = chunk % w->across * w->nc,
            m = pn_min(SUM_ROWS, w->m - r), n = pn_min(w->nc, w->n - j);
    T *sum = w->sums ? w->sums + r / SUM_ROWS * w->n + j : NULL;
    (void)c, (void)worker;
    if (w->act) act_part(w, r, j, m, n);
    if (!sum) return;
    if (w->dz)
        add_rows(sum, w->dz + r * w->dz_rs + j, w->dz_rs, m, n);
    else
        add_any_rows(sum, w->dy, r, j, m, n);
}

static void run_pass(pn_call *c, pass *w, const pn_array *db) {
    int64_t blocks = pn_ceil_div(w->m, SUM_ROWS);
    w->nc = pn_min(SUM_COLS, pn_max(PN_VL, pn_grain(SUM_ROWS * SUM_COLS) / SUM_ROWS));
    w->across = pn_ceil_div(w->n, w->nc);
    if (!db->data) w->sums = NULL;
    pn_for(c, blocks * w->across, pass_body, w);
    T *to = db->data;
    for (int64_t j = 0; to && j < w->n; j++) {
        T sum = blocks ? w->sums[j] : 0;
        for (int64_t b = 1; b < blocks; b++) sum += w->sums[b * w->n + j];
        to[j * db->strides[0]] = sum;
    }
}

static int64_t count_rows(const pn_array *x) {
    int64_t m = 1;
    for (int d = 0; d < x->ndim - 1; d++) m *= x->shape[d];
    return m;
}

static int64_t sums_scratch(const pn_array *dy, const pn_array *db) {
    int64_t n = pn_ceil_div(count_rows(dy), SUM_ROWS) * dy->shape[dy->ndim - 1];
    return db->data ? pn_ceil_div(n * (int64_t)sizeof(T), PN_ALIGN) * PN_ALIGN : 0;
}

/* scratch: [sums of blocks | that of the products] */
PN_FN(linear_bwd) {
    const pn_array *dy = ARG(linear_bwd, dy), *db = ARG(linear_bwd, db);
    char *scratch = ARG(linear_bwd, scratch)->data;
    products(c, scratch + sums_scratch(dy, db));
    if (db->data) {
        rows r = rows_of(dy, dy);
        pass w = {
            .dy = dy, .m = count_rows(dy), .n = dy->shape[dy->ndim - 1], .sums = (T *)scratch};
        if (!r.n_batch && dy->strides[dy->ndim - 1] == 1) w.dz = dy->data, w.dz_rs = r.rs[0];
        run_pass(c, &w, db);
    }
}

PN_SCRATCH_FN(linear_bwd) {
    return sums_scratch(ARG(linear_bwd, dy), ARG(linear_bwd, db)) + products_scratch(c);
}

/* ---- with an activation -------------------------------------------------------------------------- */

void PN_NAME(relu_fwd)(pn_call *c); /* of activation.c: pn_gemm has it in its epilogue */

PN_FN(linear_act_fwd) {
    pn_array *y = ARG(linear_act_fwd, y), arg[2] = {*y, *y};
    pn_call act = {.arg = arg, .par = c->par, .n_arg = 2};
    pn_fn fn = pn_kernel_fn((int)PAR(linear_act_fwd, fwd).i, PN_DTYPE);
    pn_gemm_args g = value(c, y);
    g.relu = fn == PN_NAME(relu_fwd);
    PN_NAME(gemm)(c, &g, ARG(linear_act_fwd, scratch)->data);
    if (!g.relu) fn(&act);
}

PN_SCRATCH_FN(linear_act_fwd) {
    pn_gemm_args g = value(c, ARG(linear_act_fwd, y));
    return PN_NAME(gemm_scratch)(&g);
}

/* The call of linear_bwd that is left when dz is known, with dz where data says. */
static pn_call rest_of(const pn_call *c, pn_array *arg, void *data) {
    arg[PNA_linear_bwd_dy] = *ARG(linear_act_bwd, dy);
    arg[PNA_linear_bwd_x] = *ARG(linear_act_bwd, x);
    arg[PNA_linear_bwd_W] = *ARG(linear_act_bwd, W);
    arg[PNA_linear_bwd_dx] = *ARG(linear_act_bwd, dx);
    arg[PNA_linear_bwd_dW] = *ARG(linear_act_bwd, dW);
    arg[PNA_linear_bwd_db] = *ARG(linear_act_bwd, db);
    pn_array *dz = &arg[PNA_linear_bwd_dy];
    dz->data = data;
    for (int64_t d = dz->ndim - 1, run = 1; d >= 0; run *= dz->shape[d--]) dz->strides[d] = run;
    return (pn_call){.arg = arg, .n_arg = PNA_linear_bwd_scratch, .n_worker = c->n_worker};
}

static int64_t dz_bytes(const pn_call *c) {
    return pn_ceil_div(pn_size(ARG(linear_act_bwd, dy)) * (int64_t)sizeof(T), PN_ALIGN) * PN_ALIGN;
}

/* scratch: [dz | sums of blocks | that of the products] */
PN_FN(linear_act_bwd) {
    pn_array *dy = ARG(linear_act_bwd, dy), *y = ARG(linear_act_bwd, y),
             *db = ARG(linear_act_bwd, db);
    char *scratch = ARG(linear_act_bwd, scratch)->data;
    pn_array arg[PNA_linear_bwd_scratch + 1];
    pn_call rest = rest_of(c, arg, scratch);
    rows r = rows_of(dy, y);
    pass w = {.dy = dy,
              .act = pn_kernel_fn((int)PAR(linear_act_bwd, bwd).i, PN_DTYPE),
              .par = c->par,
              .y = y->data,
              .dz = (T *)scratch,
              .dy_rs = r.rs[0],
              .dz_rs = dy->shape[dy->ndim - 1],
              .m = count_rows(dy),
              .n = dy->shape[dy->ndim - 1],
              .sums = (T *)(scratch + dz_bytes(c))};
    if (r.n_batch) { /* dy in no regular order: all of dz at once */
        pn_array whole[3] = {*dy, *y, arg[PNA_linear_bwd_dy]};
        pn_call first = {.arg = whole, .par = c->par, .n_arg = 3};
        w.act(&first);
        w.act = NULL;
    }
    if (w.act || db->data) run_pass(c, &w, db);
    products(&rest, scratch + dz_bytes(c) + sums_scratch(dy, db));
}

PN_SCRATCH_FN(linear_act_bwd) {
    pn_array arg[PNA_linear_bwd_scratch + 1];
    pn_call rest = rest_of(c, arg, NULL);
    return dz_bytes(c) + sums_scratch(ARG(linear_act_bwd, dy), ARG(linear_act_bwd, db)) +
           products_scratch(&rest);
}

#endif
