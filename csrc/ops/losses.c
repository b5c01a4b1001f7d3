/* losses.c: losses, each with its backward, and their reductions none, mean and sum.
 *
 * Cross-entropy of logits x[r, c]: with m = max_c x, ls = log Σ_c e^(x - m), log p = (x - m) - ls,
 *   by index        l[r] = -(1-ε) w[t] log p[t] - ε/C Σ_c w[c] log p[c];  mean: Σ l / Σ w[t]
 *   by probability  l[r] = -Σ_c q'[c] w[c] log p[c],  q' = (1-ε) q + ε/C;  mean: Σ l / rows
 *   backward        dx[c] = g (p[c] Σ_j q'[j] w[j] - q'[c] w[c]): p - y for one label
 * norm[r] = (m, ls) is kept apart, for their sum would lose ls beside a large m. nll is -w[t] x[t] of
 * log-probabilities. A row whose label is ignore_index counts nowhere.
 *
 * Elementwise losses l(x, t) of one shape, mean: Σ l / n. All arrays are dense.
 *
 * The sums have one order for any number of threads: what each row or each block of SUM_BLOCK elements gives
 * is kept (on the stack where there is little of it, else in scratch) and added up at the end.
 */
#include "pn_each.h"
#include "pn_rows.h"

#if PN_FLOAT

enum { NONE, MEAN, SUM };
#define KEPT 256      /* partial sums on the stack */
#define FEW 32        /* classes up to which PN_VL rows are normed at once, a lane each */
#define SUM_BLOCK 128 /* elements whose sum is one partial sum */

static double sum_of(const double *p, int64_t n) {
    double s[8] = {0};
    for (int64_t i = 0; i < n; i++) s[i & 7] += p[i];
    return ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]));
}

static int64_t kept_bytes(int64_t n, int64_t reduction) {
    return reduction != NONE && n > KEPT ? n * (int64_t)sizeof(double) : 0;
}

/* ---- rows: cross-entropy and nll -------------------------------------------------------------- */

typedef struct entropy {
    const T *x, *q, *w, *norm_in, *g; /* q: probabilities; or t: labels */
    const int64_t *t;
    T *loss, *norm, *dx, *dq;
    double *kept, smooth, off, all_w, scale; /* ε; ε/C, Σ_c w[c], 0 where ε is; scale of g */
    int64_t n, rows, per, ignore;
    int t_arg, reduction;
    double (*row)(const struct entropy *e, int64_t r, int64_t label);
    void (*back)(const struct entropy *e, int64_t r, int64_t label, T g);
} entropy;

static entropy entropy_of(const pn_array *x, const pn_array *w, int64_t reduction) {
    entropy e = {.x = x->data, .w = w->data, .n = x->shape[x->ndim - 1], .rows = 1, .scale = 1};
    for (int d = 0; d < x->ndim - 1; d++) e.rows *= x->shape[d];
    e.reduction = (int)reduction;
    e.per = pn_grain(pn_max(1, ROW_WORK / pn_max(1, e.n)));
    return e;
}

static void set_smooth(entropy *e, double smooth) {
    e->smooth = smooth;
    if (smooth > 0)
        e->off = smooth / (double)e->n, e->all_w = e->w ? row_sum(e->w, e->n) : (double)e->n;
}

/* Row r's label, or -1 where it does not count; one out of range is reported to c, if given. It is
 * read once: what another thread writes between two reads must not pass unchecked. */
static int64_t label_of(pn_call *c, const entropy *e, int64_t r) {
    if (!e->t) return 0;
    int64_t t = __atomic_load_n(e->t + r, __ATOMIC_RELAXED);
    if (t == e->ignore) return -1;
    if (t >= 0 && t < e->n) return t;
    if (c) pn_fail(c, PN_E_INDEX, e->t_arg, r, (double)t);
    return -1;
}

/* (m, ls) of one row. A NaN of the row makes both NaN. */
static void norm_row(const entropy *e, int64_t r) {
    const T *x = e->x + r * e->n;
    T top = row_max(x, e->n), log_sum = log_of(row_sum_exp(x, e->n, top));
    e->norm[2 * r] = log_sum == log_sum ? top : log_sum;
    e->norm[2 * r + 1] = log_sum;
}

/* (m, ls) of `count` rows from r, at most PN_VL, of at most FEW classes: lane k of a vector is row r + k. */
static void norm_rows(const entropy *e, int64_t r, int64_t count) {
    T x[FEW][PN_VL] __attribute__((aligned(64))), top_of[PN_VL], log_of_sum[PN_VL];
    V top = pn_set1((T)-INFINITY), sum = pn_set1(0);
    for (int64_t i = 0; i < e->n; i++)
        for (int64_t k = 0; k < PN_VL; k++) x[i][k] = k < count ? e->x[(r + k) * e->n + i] : 0;
    for (int64_t i = 0; i < e->n; i++) top = pn_max_b(pn_load(x[i]), top);
    for (int64_t i = 0; i < e->n; i++) sum += pn_exp_down(pn_load(x[i]) - top);
    sum = pn_log(sum);
    pn_store(top_of, pn_select(pn_isnan(sum), sum, top));
    pn_store(log_of_sum, sum);
    for (int64_t k = 0; k < count; k++)
        e->norm[2 * (r + k)] = top_of[k], e->norm[2 * (r + k) + 1] = log_of_sum[k];
}

static void entropy_chunk(pn_call *c, void *arg, int64_t chunk, int worker) {
    const entropy *e = arg;
    int64_t lo = chunk * e->per, hi = pn_min(e->rows, lo + e->per);
    int few = e->norm && e->n <= FEW;
    (void)worker;
    for (int64_t r = lo; few && r < hi; r += PN_VL) norm_rows(e, r, pn_min(PN_VL, hi - r));
    for (int64_t r = lo; r < hi; r++) {
        double loss = 0;
        int64_t t = label_of(c, e, r);
        if (t >= 0) {
            if (e->norm && !few) norm_row(e, r);
            loss = e->row(e, r, t);
        } else if (e->norm) {
            e->norm[2 * r] = e->norm[2 * r + 1] = 0;
        }
        if (e->reduction == NONE)
            e->loss[r] = (T)loss;
        else
            e->kept[r] = loss;
    }
}

static double weight_of(const entropy *e, int64_t label) { return e->w ? (double)e->w[label] : 1; }

/* Runs the rows and reduces; *total is what the mean divides by. */
static void entropy_run(pn_call *c, entropy *e, const pn_array *loss, T *total, void *scratch) {
    double kept[KEPT], sum = (double)e->rows;
    e->loss = loss->data;
    e->kept = e->rows > KEPT ? scratch : kept;
    pn_for(c, pn_ceil_div(e->rows, e->per), entropy_chunk, e);
    if (c->err.code != PN_OK) return;
    if (e->t) {
        sum = 0;
        for (int64_t r = 0; r < e->rows; r++) {
            int64_t t = label_of(NULL, e, r);
            if (t >= 0) sum += weight_of(e, t);
        }
        *total = (T)sum;
    }
    if (e->reduction != NONE)
        e->loss[0] = (T)(sum_of(e->kept, e->rows) / (e->reduction == MEAN ? sum : 1));
}

static void entropy_back_chunk(pn_call *c, void *arg, int64_t chunk, int worker) {
    const entropy *e = arg;
    (void)worker;
    for (int64_t r = chunk * e->per; r < pn_min(e->rows, (chunk + 1) * e->per); r++) {
        int64_t t = label_of(c, e, r);
        if (t >= 0)
            e->back(e, r, t, (T)(e->g[e->reduction == NONE ? r : 0] * e->scale));
        else
            memset(e->dx + r * e->n, 0, (size_t)e->n * sizeof(T));
    }
}

static void entropy_back_run(pn_call *c, entropy *e) {
    pn_for(c, pn_ceil_div(e->rows, e->per), entropy_back_chunk, e);
}

#define WEIGHT(w) ((w) ? LOAD(w, 0) : pn_set1(1))
#define P(x) pn_exp_down(LOAD(x, 0) - top - log_sum) /* softmax, from norm */

/* -Σ_c w[c] log p[c] */
static double smooth_row(const entropy *e, const T *x, T top, T log_sum) {
    double shifted = 0;
    V m0 = pn_set1(top);
    PN_ROW_SUM(shifted, e->n, sum[k] = pn_fma(WEIGHT(e->w), LOAD(x, top) - m0, sum[k]);)
    return log_sum * e->all_w - shifted;
}

static double index_row(const entropy *e, int64_t r, int64_t t) {
    const T *x = e->x + r * e->n;
    T top = e->norm[2 * r], log_sum = e->norm[2 * r + 1];
    double loss = (1 - e->smooth) * weight_of(e, t) * (log_sum - (double)(x[t] - top));
    if (e->smooth > 0) loss += e->off * smooth_row(e, x, top, log_sum);
    return loss;
}

static void index_back(const entropy *e, int64_t r, int64_t t, T g) {
    const T *x = e->x + r * e->n;
    T *dx = e->dx + r * e->n;
    double at = (1 - e->smooth) * weight_of(e, t), off = e->off;
    V top = pn_set1(e->norm_in[2 * r]), log_sum = pn_set1(e->norm_in[2 * r + 1]);
    V all = pn_set1((T)(g * (at + off * e->all_w))), flat = pn_set1((T)(g * off));
    if (e->smooth > 0)
        PN_ROW(e->n, STORE(dx, all * P(x) - flat * WEIGHT(e->w)););
    else
        PN_ROW(e->n, STORE(dx, all * P(x)););
    dx[t] -= (T)(g * at);
}

PN_FN(cross_entropy_fwd) {
    entropy e = entropy_of(ARG(cross_entropy_fwd, input), ARG(cross_entropy_fwd, weight),
                           PAR(cross_entropy_fwd, reduction).i);
    e.t = ARG(cross_entropy_fwd, target)->data, e.t_arg = PNA_cross_entropy_fwd_target;
    e.ignore = PAR(cross_entropy_fwd, ignore_index).i;
    set_smooth(&e, PAR(cross_entropy_fwd, label_smoothing).f);
    e.norm = ARG(cross_entropy_fwd, norm)->data, e.row = index_row;
    entropy_run(c, &e, ARG(cross_entropy_fwd, loss), ARG(cross_entropy_fwd, total)->data,
                ARG(cross_entropy_fwd, scratch)->data);
}
PN_SCRATCH_FN(cross_entropy_fwd) {
    return kept_bytes(pn_size(ARG(cross_entropy_fwd, target)), PAR(cross_entropy_fwd, reduction).i);
}
PN_FN(cross_entropy_bwd) {
    entropy e = entropy_of(ARG(cross_entropy_bwd, input), ARG(cross_entropy_bwd, weight),
                           PAR(cross_entropy_bwd, reduction).i);
    e.t = ARG(cross_entropy_bwd, target)->data, e.t_arg = PNA_cross_entropy_bwd_target;
    e.ignore = PAR(cross_entropy_bwd, ignore_index).i;
    set_smooth(&e, PAR(cross_entropy_bwd, label_smoothing).f);
    e.norm_in = ARG(cross_entropy_bwd, norm)->data, e.g = ARG(cross_entropy_bwd, dloss)->data;
    e.dx = ARG(cross_entropy_bwd, dinput)->data, e.back = index_back;
    if (e.reduction == MEAN) e.scale = 1 / (double)*(const T *)ARG(cross_entropy_bwd, total)->data;
    entropy_back_run(c, &e);
}

static double soft_row(const entropy *e, int64_t r, int64_t t) {
    (void)t;
    const T *x = e->x + r * e->n, *q = e->q + r * e->n;
    double mass = 0, shifted = 0;
    T top = e->norm[2 * r], log_sum = e->norm[2 * r + 1];
    V m0 = pn_set1(top);
    PN_ROW_SUM2(mass, shifted, e->n, V qw = LOAD(q, 0) * WEIGHT(e->w); sum[k] += qw;
                sum2[k] = pn_fma(qw, LOAD(x, top) - m0, sum2[k]);)
    double loss = (1 - e->smooth) * (mass * log_sum - shifted);
    if (e->smooth > 0) loss += e->off * smooth_row(e, x, top, log_sum);
    return loss;
}

static void soft_back(const entropy *e, int64_t r, int64_t t, T g) {
    (void)t;
    const T *x = e->x + r * e->n, *q = e->q + r * e->n;
    double mass = 0, off = e->off;
    V top = pn_set1(e->norm_in[2 * r]), log_sum = pn_set1(e->norm_in[2 * r + 1]);
    V keep = pn_set1((T)(g * (1 - e->smooth))), flat = pn_set1((T)(g * off));
    PN_ROW_SUM(mass, e->n, sum[k] = pn_fma(LOAD(q, 0), WEIGHT(e->w), sum[k]);)
    V all = pn_set1((T)(g * ((1 - e->smooth) * mass + off * e->all_w)));
    T *dx = e->dx ? e->dx + r * e->n : NULL, *dq = e->dq ? e->dq + r * e->n : NULL;
    if (dx) PN_ROW(e->n, STORE(dx, all * P(x) - WEIGHT(e->w) * pn_fma(keep, LOAD(q, 0), flat)););
    if (dq) PN_ROW(e->n, STORE(dq, keep * WEIGHT(e->w) * (log_sum - (LOAD(x, 0) - top))););
}

PN_FN(cross_entropy_soft_fwd) {
    entropy e = entropy_of(ARG(cross_entropy_soft_fwd, input), ARG(cross_entropy_soft_fwd, weight),
                           PAR(cross_entropy_soft_fwd, reduction).i);
    e.q = ARG(cross_entropy_soft_fwd, target)->data;
    set_smooth(&e, PAR(cross_entropy_soft_fwd, label_smoothing).f);
    e.norm = ARG(cross_entropy_soft_fwd, norm)->data, e.row = soft_row;
    entropy_run(c, &e, ARG(cross_entropy_soft_fwd, loss), NULL,
                ARG(cross_entropy_soft_fwd, scratch)->data);
}
PN_SCRATCH_FN(cross_entropy_soft_fwd) {
    int64_t rows = pn_size(ARG(cross_entropy_soft_fwd, norm)) / 2;
    return kept_bytes(rows, PAR(cross_entropy_soft_fwd, reduction).i);
}
PN_FN(cross_entropy_soft_bwd) {
    entropy e = entropy_of(ARG(cross_entropy_soft_bwd, input), ARG(cross_entropy_soft_bwd, weight),
                           PAR(cross_entropy_soft_bwd, reduction).i);
    e.q = ARG(cross_entropy_soft_bwd, target)->data;
    set_smooth(&e, PAR(cross_entropy_soft_bwd, label_smoothing).f);
    e.norm_in = ARG(cross_entropy_soft_bwd, norm)->data,
    e.g = ARG(cross_entropy_soft_bwd, dloss)->data;
    e.dx = ARG(cross_entropy_soft_bwd, dinput)->data,
    e.dq = ARG(cross_entropy_soft_bwd, dtarget)->data;
    e.back = soft_back;
    if (e.reduction == MEAN) e.scale = 1 / (double)e.rows;
    entropy_back_run(c, &e);
}

static double nll_row(const entropy *e, int64_t r, int64_t t) {
    return -weight_of(e, t) * (double)e->x[r * e->n + t];
}

static void nll_back(const entropy *e, int64_t r, int64_t t, T g) {
    memset(e->dx + r * e->n, 0, (size_t)e->n * sizeof(T));
    e->dx[r * e->n + t] = (T)(-weight_of(e, t) * g);
}

PN_FN(nll_loss_fwd) {
    entropy e = entropy_of(ARG(nll_loss_fwd, input), ARG(nll_loss_fwd, weight),
                           PAR(nll_loss_fwd, reduction).i);
    e.t = ARG(nll_loss_fwd, target)->data, e.t_arg = PNA_nll_loss_fwd_target;
    e.ignore = PAR(nll_loss_fwd, ignore_index).i, e.row = nll_row;
    entropy_run(c, &e, ARG(nll_loss_fwd, loss), ARG(nll_loss_fwd, total)->data,
                ARG(nll_loss_fwd, scratch)->data);
}
PN_SCRATCH_FN(nll_loss_fwd) {
    return kept_bytes(pn_size(ARG(nll_loss_fwd, target)), PAR(nll_loss_fwd, reduction).i);
}
PN_FN(nll_loss_bwd) {
    entropy e = entropy_of(ARG(nll_loss_bwd, input), ARG(nll_loss_bwd, weight),
                           PAR(nll_loss_bwd, reduction).i);
    e.t = ARG(nll_loss_bwd, target)->data, e.t_arg = PNA_nll_loss_bwd_target;
    e.ignore = PAR(nll_loss_bwd, ignore_index).i, e.g = ARG(nll_loss_bwd, dloss)->data;
    e.dx = ARG(nll_loss_bwd, dinput)->data, e.back = nll_back;
    if (e.reduction == MEAN) e.scale = 1 / (double)*(const T *)ARG(nll_loss_bwd, total)->data;
    entropy_back_run(c, &e);
}

/* ---- elementwise losses ----------------------------------------------------------------------- */

#define PN_PI5 PN_PI4 const T *in4 = in[4];
#define PN_V5(f) PN_V4(f) V e = f(in4 + i);
#define MAX_IN 5

typedef struct pairs {
    const T *in[MAX_IN]; /* NULL: `fill` everywhere */
    T fill[MAX_IN], *out[2];
    double *kept; /* sums of blocks, in place of out[0]; NULL where out is wanted */
    int64_t n, per; /* elements, blocks a chunk */
    int n_in, n_out, unit; /* unit: in[0] must lie in [0, 1] */
    pn_block_fn block;
    const pn_value *par;
} pairs;

/* Reports the first element outside of [0, 1]; a NaN goes on into the loss. */
static void check_unit(pn_call *c, const T *x, int64_t first, int64_t n) {
    int bad = 0;
    for (int64_t i = 0; i < n; i++) bad |= x[i] < 0 || x[i] > 1;
    for (int64_t i = 0; bad && i < n; i++)
        if (x[i] < 0 || x[i] > 1) {
            pn_fail(c, PN_E_VALUE, 0, first + i, (double)x[i]);
            return;
        }
}

static void pairs_chunk(pn_call *c, void *arg, int64_t chunk, int worker) {
    const pairs *p = arg;
    T filled[MAX_IN][SUM_BLOCK] __attribute__((aligned(64))),
        sink[2][SUM_BLOCK] __attribute__((aligned(64)));
    const void *in[MAX_IN];
    void *out[2];
    int64_t end = pn_min(p->n, (chunk + 1) * p->per * SUM_BLOCK);
    (void)worker;
    for (int k = 0; k < p->n_in; k++)
        for (int64_t i = 0; !p->in[k] && i < pn_min(SUM_BLOCK, p->n); i++)
            filled[k][i] = p->fill[k];
    for (int64_t first = chunk * p->per * SUM_BLOCK; first < end; first += SUM_BLOCK) {
        int64_t n = pn_min(SUM_BLOCK, end - first);
        for (int k = 0; k < p->n_in; k++) in[k] = p->in[k] ? p->in[k] + first : filled[k];
        for (int k = 0; k < p->n_out; k++) out[k] = p->out[k] ? p->out[k] + first : sink[k];
        if (p->unit) check_unit(c, in[0], first, n);
        p->block(in, out, n, p->par, 0);
        if (p->kept) p->kept[first / SUM_BLOCK] = row_sum(sink[0], n);
    }
}

static void pairs_run(pn_call *c, pairs *p) {
    p->par = c->par;
    p->per = pn_grain(PN_EACH_CHUNK / SUM_BLOCK);
    pn_for(c, pn_ceil_div(p->n, p->per * SUM_BLOCK), pairs_chunk, p);
}

/* loss = the reduction of block(inputs); an input left out is 1 everywhere. */
static void loss_run(pn_call *c, int n_in, int64_t reduction, int unit, pn_block_fn block) {
    pn_array *loss = &c->arg[n_in];
    pairs p = {.n = pn_size(&c->arg[0]), .n_in = n_in, .n_out = 1, .unit = unit, .block = block};
    double kept[KEPT];
    int64_t blocks = pn_ceil_div(p.n, SUM_BLOCK);
    for (int k = 0; k < n_in; k++) p.in[k] = c->arg[k].data, p.fill[k] = 1;
    if (reduction == NONE)
        p.out[0] = loss->data;
    else
        p.kept = blocks > KEPT ? c->arg[n_in + 1].data : kept;
    pairs_run(c, &p);
    if (reduction == NONE) return;
    *(T *)loss->data = (T)(sum_of(p.kept, blocks) / (reduction == MEAN ? (double)p.n : 1));
}

/* Gradients of the first n_out of n_in inputs, which follow dloss. */
static void loss_back(pn_call *c, int n_in, int n_out, int64_t reduction, pn_block_fn block) {
    pairs p = {.n = pn_size(&c->arg[1]), .n_in = n_in + 1, .n_out = n_out, .block = block};
    for (int k = 0; k <= n_in; k++) p.in[k] = c->arg[k].data, p.fill[k] = 1;
    for (int k = 0; k < n_out; k++) p.out[k] = c->arg[n_in + 1 + k].data;
    if (reduction != NONE)
        p.fill[0] = p.in[0][0] / (reduction == MEAN ? (T)p.n : 1), p.in[0] = NULL;
    pairs_run(c, &p);
}

#define LOSS(kernel, n_in, unit, before, body)                                                     \
    PN_EACH_BLOCK(kernel, n_in, 1, before, body)                                                   \
    PN_FN(kernel) { loss_run(c, n_in, PAR(kernel, reduction).i, unit, kernel##_block); }           \
    PN_SCRATCH_FN(kernel) {                                                                        \
        return kept_bytes(pn_ceil_div(pn_size(&c->arg[0]), SUM_BLOCK), PAR(kernel, reduction).i);  \
    }
#define LOSS_BACK(kernel, n_in, n_all, before, body)                                               \
    PN_EACH_BLOCK(kernel, n_all, 2, before, body)                                                  \
    PN_FN(kernel) { loss_back(c, n_in, 2, PAR(kernel, reduction).i, kernel##_block); }

#define ZERO pn_set1(0)
#define ONE pn_set1(1)
#define SET(name, kernel, p) V name = pn_set1((T)par[PNP_##kernel##_##p].f);

/* (x - t)² */
LOSS(mse_loss_fwd, 2, 0, , y = (a - b) * (a - b);)
LOSS_BACK(mse_loss_bwd, 2, 3, , y = pn_set1(2) * a * (b - c); z = -y;)

/* |x - t|, derivative sign(x - t): 0 at 0, NaN where that is */
LOSS(l1_loss_fwd, 2, 0, , y = pn_abs(a - b);)
LOSS_BACK(l1_loss_bwd, 2, 3, , V d = b - c;
          y = a * pn_select(d > ZERO, ONE, pn_select(d < ZERO, -ONE, d)); z = -y;)

/* d²/2 where |d| = |x - t| <= δ, else δ (|d| - δ/2) */
LOSS(huber_loss_fwd, 2, 0, SET(delta, huber_loss_fwd, delta), V d = pn_abs(a - b);
     V half = pn_set1((T)0.5); y = pn_select(d <= delta, half * d * d, delta *(d - half * delta));)
LOSS_BACK(huber_loss_bwd, 2, 3, SET(delta, huber_loss_bwd, delta),
          y = a * pn_clamp(b - c, -delta, delta);
          z = -y;)

/* -w (t log x + (1-t) log(1-x)), logarithms not below -100; derivative w (x-t)/max(x (1-x), 1e-12) */
#define LOG(x) pn_max(pn_log(x), pn_set1(-100))
#define LOG_REST(x) pn_max(pn_log1p(-(x)), pn_set1(-100))
LOSS(binary_cross_entropy_fwd, 3, 1, , y = c * ((b - ONE) * LOG_REST(a) - b * LOG(a));)
LOSS_BACK(binary_cross_entropy_bwd, 3, 4, ,
          y = a * d * (b - c) / pn_max(b * (ONE - b), pn_set1((T)1e-12));
          z = a * d * (LOG_REST(b) - LOG(b));)

/* w ((1-t) softplus(x) + pw t softplus(-x));  derivative w ((1 + (pw-1) t) σ(x) - pw t) */
LOSS(binary_cross_entropy_with_logits_fwd, 4, 0, , V l = pn_log1p_unit(pn_exp_down(-pn_abs(a)));
     y = c * ((ONE - b) * (pn_max(a, ZERO) + l) + d * b * (pn_max(-a, ZERO) + l));)
LOSS_BACK(binary_cross_entropy_with_logits_bwd, 4, 5, ,
          V l = pn_log1p_unit(pn_exp_down(-pn_abs(b)));
          V s = pn_sigmoid(b); y = a * d * ((ONE + (e - ONE) * c) * s - e * c);
          z = a * d * (e * (pn_max(-b, ZERO) + l) - (pn_max(b, ZERO) + l));)

#endif
