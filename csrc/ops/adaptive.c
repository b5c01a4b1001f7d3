/* adaptive.c: the steps of optimizers whose rate is the elements' own, beside Adam's, over a list of tensors.
 *
 * In all, g = ±scale dp + wd p; where decoupled, p *= 1 - lr wd instead.
 *
 * adagrad  s += g^2;  p -= lr / (1 + t decay) g / (sqrt(s) + eps)
 * rmsprop  v = alpha v + (1 - alpha) g^2;  centered: a += (1 - alpha)(g - a), x = v - a^2, else x = v
 *          d = g / (sqrt(x) + eps);  momentum: b = mu b + d, d = b;  p -= lr d
 * lion     p -= lr sign(beta1 m + (1 - beta1) g);  m = beta2 m + (1 - beta2) g
 * moments  m += (1 - beta1)(g - m);  v = beta2 v + (1 - beta2) g^2;  p -= (cg g + cm m) / (sqrt(v) unbias + eps)
 *          with numbers of the step alone: cm = lr / (1 - beta1^t), unbias = 1 / sqrt(1 - beta2^t) and cg = 0 are Adam's;
 *          nesterov and rectified, NAdam and RAdam, below
 * lamb     m, v as above; r = m / (1 - beta1^t) / (sqrt(v) / sqrt(1 - beta2^t) + eps) + wd p;
 *          p -= lr |p| / |r| r, the norms over the whole tensor, their ratio 1 where one of them is 0
 *
 * With eps_inside the root is sqrt(x + eps). What depends on t is computed in double. See pn_list.h for the list.
 */
#include <math.h>
#include <string.h>

#include "pn_kernel.h"

#if PN_FLOAT

#include "pn_list.h"
#include "pn_table.h"

#define ZERO pn_set1(0)
#define ONE pn_set1(1)

enum { G, P, S0, S1, S2 }; /* columns of a row: the gradient, the parameter, its state */

typedef struct step {
    V sign, lr, decay, keep, eps; /* keep = 1 - lr wd where decoupled */
    V a, new_a, b, new_b; /* decays of running means, and 1 minus these */
    V cg, cm, unbias; /* moments */
    double lr_d, beta1, beta2;
    int l2, inside, far;
} step;

static step step_of(double lr, double scale, int64_t maximize, double decay, int64_t decoupled,
                    double eps, double a, double b) {
    return (step){.sign = pn_set1((T)(maximize ? -scale : scale)),
                  .lr = pn_set1((T)lr),
                  .decay = pn_set1((T)decay),
                  .keep = pn_set1((T)(decoupled ? 1 - lr * decay : 1)),
                  .eps = pn_set1((T)eps),
                  .a = pn_set1((T)a),
                  .new_a = pn_set1((T)(1 - a)),
                  .b = pn_set1((T)b),
                  .new_b = pn_set1((T)(1 - b)),
                  .lr_d = lr,
                  .beta1 = a,
                  .beta2 = b,
                  .l2 = !decoupled && decay != 0};
}

#define STEP_OF(kernel, decoupled, eps, a, b)                                                      \
    step_of(pn_number(ARG(kernel, lr)), pn_number(ARG(kernel, scale)), PAR(kernel, maximize).i,    \
            PAR(kernel, weight_decay).f, decoupled, eps, a, b)

PN_INLINE V root(const step *s, V x) {
    return s->inside ? pn_sqrt(x + s->eps) : pn_sqrt(x) + s->eps;
}

/* The new values of x = (p, state ...) in place, from the gradient g */
typedef void (*rule)(const step *s, V g, V *x);

/* n elements of the columns x, of which there are k; a rule and a k of its own in each copy */
PN_INLINE void walk(const step *how, rule f, int k, const T *g, T *const *x, int64_t n) {
    const step copy = *how, *s = &copy; /* in registers: a store cannot change it */
    int64_t i = 0, m;
    V now[4], d;
    for (; i + PN_VL <= n; i += PN_VL) {
        if (s->far) {
            __builtin_prefetch(g + i + PN_LIST_AHEAD);
            for (int j = 0; j < k; j++) __builtin_prefetch(x[j] + i + PN_LIST_AHEAD);
        }
        for (int j = 0; j < k; j++) now[j] = pn_load(x[j] + i);
        d = pn_load(g + i) * s->sign;
        if (s->l2) d = pn_fma(s->decay, now[0], d);
        f(s, d, now);
        for (int j = 0; j < k; j++) pn_store(x[j] + i, now[j]);
    }
    if ((m = n - i) > 0) {
        for (int j = 0; j < k; j++) now[j] = pn_load_part(x[j] + i, m, 0);
        d = pn_load_part(g + i, m, 0) * s->sign;
        if (s->l2) d = pn_fma(s->decay, now[0], d);
        f(s, d, now);
        for (int j = 0; j < k; j++) pn_store_part(x[j] + i, now[j], m);
    }
}

/* Runs span over the rows behind lr and scale. */
static pn_list run(pn_call *c, step *s, int width,
                   void (*span)(const pn_list *, const pn_array *, int64_t, int64_t, int64_t)) {
    pn_list l = pn_list_of(c, 2, width, P, 0, PN_LIST_UNIT);
    s->far = l.total * (int64_t)sizeof(T) > PN_LIST_FAR;
    l.how = s, l.span = span;
    pn_list_run(c, &l);
    return l;
}

#define AT(column) ((T *)row[column].data + lo)

/* ---- Adagrad ------------------------------------------------------------------------------------ */

PN_INLINE void adagrad_rule(const step *s, V g, V *x) {
    x[1] = pn_fma(g, g, x[1]);
    x[0] = pn_fnma(s->lr, g / root(s, x[1]), x[0]);
}

static void adagrad_span(const pn_list *l, const pn_array *row, int64_t base, int64_t lo,
                         int64_t hi) {
    step s = *(const step *)l->how;
    T *x[] = {AT(P), AT(S0)};
    (void)base;
    s.lr = pn_set1((T)(s.lr_d / (1 + pn_number(&row[S1]) * s.beta2)));
    walk(&s, adagrad_rule, 2, AT(G), x, hi - lo);
}

#define ADAGRAD_OF(kernel) STEP_OF(kernel, 0, PAR(kernel, eps).f, 0, PAR(kernel, lr_decay).f)

PN_FN(adagrad_step) {
    step s = ADAGRAD_OF(adagrad_step);
    s.inside = (int)PAR(adagrad_step, eps_inside).i;
    pn_list l = run(c, &s, 4, adagrad_span);
    pn_count_steps(&l, S1);
}

static void adagrad_row(const step *s, const T *g, T *p, T *sum, int64_t n) {
    T *x[] = {p, sum};
    walk(s, adagrad_rule, 2, g, x, n);
}
PN_TABLE_CHUNK(adagrad_rows, adagrad_row(t->how, g, p, t->a + at, t->C))

PN_FN(adagrad_rows_step) {
    const pn_array *steps = ARG(adagrad_rows_step, step);
    step s = ADAGRAD_OF(adagrad_rows_step);
    s.inside = (int)PAR(adagrad_rows_step, eps_inside).i;
    pn_table t = PN_TABLE_OF(adagrad_rows_step);
    if (c->err.code != PN_OK) return;
    t.a = ARG(adagrad_rows_step, sum)->data;
    t.t = pn_number(steps);
    s.lr = pn_set1((T)(s.lr_d / (1 + t.t * s.beta2)));
    t.how = &s;
    pn_table_run(c, &t, adagrad_rows);
    pn_set_number(steps, t.t + 1);
}

/* ---- RMSprop ------------------------------------------------------------------------------------ */

PN_INLINE V rms(const step *s, V g, V *v) {
    *v = pn_fma(s->new_a * g, g, s->a * *v);
    return g / root(s, *v);
}

PN_INLINE V rms_centered(const step *s, V g, V *v, V *a) {
    *v = pn_fma(s->new_a * g, g, s->a * *v);
    *a = pn_fma(s->new_a, g - *a, *a);
    return g / root(s, pn_vmax(pn_fnma(*a, *a, *v), ZERO)); /* rounding may go below 0 */
}

#define STEP_BY(x, d) x = pn_fnma(s->lr, d, x)
PN_INLINE void rms_rule(const step *s, V g, V *x) { STEP_BY(x[0], rms(s, g, &x[1])); }
PN_INLINE void rms_centered_rule(const step *s, V g, V *x) {
    STEP_BY(x[0], rms_centered(s, g, &x[1], &x[2]));
}
PN_INLINE void rms_momentum_rule(const step *s, V g, V *x) {
    x[2] = pn_fma(s->b, x[2], rms(s, g, &x[1]));
    STEP_BY(x[0], x[2]);
}
PN_INLINE void rms_both_rule(const step *s, V g, V *x) {
    x[3] = pn_fma(s->b, x[3], rms_centered(s, g, &x[1], &x[2]));
    STEP_BY(x[0], x[3]);
}

static void rms_span(const pn_list *l, const pn_array *row, int64_t base, int64_t lo, int64_t hi) {
    T *x[] = {AT(P), AT(S0)};
    (void)base;
    walk(l->how, rms_rule, 2, AT(G), x, hi - lo);
}
static void rms_centered_span(const pn_list *l, const pn_array *row, int64_t base, int64_t lo,
                              int64_t hi) {
    T *x[] = {AT(P), AT(S0), AT(S1)};
    (void)base;
    walk(l->how, rms_centered_rule, 3, AT(G), x, hi - lo);
}
static void rms_momentum_span(const pn_list *l, const pn_array *row, int64_t base, int64_t lo,
                              int64_t hi) {
    T *x[] = {AT(P), AT(S0), AT(S2)};
    (void)base;
    walk(l->how, rms_momentum_rule, 3, AT(G), x, hi - lo);
}
static void rms_both_span(const pn_list *l, const pn_array *row, int64_t base, int64_t lo,
                          int64_t hi) {
    T *x[] = {AT(P), AT(S0), AT(S1), AT(S2)};
    (void)base;
    walk(l->how, rms_both_rule, 4, AT(G), x, hi - lo);
}

PN_FN(rmsprop_step) {
    step s = STEP_OF(rmsprop_step, 0, PAR(rmsprop_step, eps).f, PAR(rmsprop_step, alpha).f,
                     PAR(rmsprop_step, momentum).f);
    s.inside = (int)PAR(rmsprop_step, eps_inside).i;
    int momentum = PAR(rmsprop_step, momentum).f != 0;
    if (PAR(rmsprop_step, centered).i)
        run(c, &s, 5, momentum ? rms_both_span : rms_centered_span);
    else
        run(c, &s, 5, momentum ? rms_momentum_span : rms_span);
}

/* ---- Lion --------------------------------------------------------------------------------------- */

PN_INLINE void lion_rule(const step *s, V g, V *x) {
    V u = pn_fma(s->new_a, g, s->a * x[1]);
    V d = pn_select(u > ZERO, ONE, pn_select(u < ZERO, -ONE, u)); /* NaN stays */
    x[0] = pn_fnma(s->lr, d, x[0] * s->keep);
    x[1] = pn_fma(s->new_b, g, s->b * x[1]);
}

static void lion_span(const pn_list *l, const pn_array *row, int64_t base, int64_t lo, int64_t hi) {
    T *x[] = {AT(P), AT(S0)};
    (void)base;
    walk(l->how, lion_rule, 2, AT(G), x, hi - lo);
}

PN_FN(lion_step) {
    step s = STEP_OF(lion_step, 1, 0, PAR(lion_step, beta1).f, PAR(lion_step, beta2).f);
    run(c, &s, 3, lion_span);
}

/* ---- Adam with other weights of m and g ---------------------------------------------------------- */

enum { MOMENTS_PRODUCT = S2, MOMENTS_T, MOMENTS_WIDTH };

PN_INLINE void means(const step *s, V g, V *m, V *v) {
    *m = pn_fma(s->new_a, g - *m, *m);
    *v = pn_fma(s->new_b * g, g, s->b * *v);
}

PN_INLINE void moments_rule(const step *s, V g, V *x) {
    V down;
    means(s, g, &x[1], &x[2]);
    if (s->inside)
        down = pn_sqrt(pn_fma(x[2], s->unbias * s->unbias, s->eps));
    else
        down = pn_fma(pn_sqrt(x[2]), s->unbias, s->eps);
    x[0] = x[0] * s->keep - pn_fma(s->cg, g, s->cm * x[1]) / down;
}

/* mu_t of NAdam: beta1 (1 - 0.96^(t psi) / 2) */
static double nadam_mu(double beta1, double psi, double t) {
    return beta1 * (1 - 0.5 * pow(0.96, t * psi));
}

typedef struct moments {
    step s;
    int nesterov, rectified;
    double psi;
} moments;

static void moments_span(const pn_list *l, const pn_array *row, int64_t base, int64_t lo,
                         int64_t hi) {
    const moments *h = l->how;
    step s = h->s;
    T *x[] = {AT(P), AT(S0), AT(S1)};
    double t = pn_number(&row[MOMENTS_T]) + 1, cg = 0, cm = s.lr_d / (1 - pow(s.beta1, t));
    double bias2 = 1 - pow(s.beta2, t), unbias = 1 / sqrt(bias2);
    (void)base;
    if (h->nesterov) { /* Dozat 2016, as PyTorch has it */
        double mu = nadam_mu(s.beta1, h->psi, t), next = nadam_mu(s.beta1, h->psi, t + 1);
        double product = pn_number(&row[MOMENTS_PRODUCT]) * mu;
        cg = s.lr_d * (1 - mu) / (1 - product);
        cm = s.lr_d * next / (1 - product * next);
    } else if (h->rectified) { /* Liu et al. 2019: the root counts once its variance is bounded */
        double most = 2 / (1 - s.beta2) - 1, rho = most - 2 * t * (1 - bias2) / bias2;
        if (rho > 5) {
            cm *= sqrt((rho - 4) * (rho - 2) * most / ((most - 4) * (most - 2) * rho) * bias2);
            unbias = 1;
        } else {
            unbias = 0, s.eps = ONE;
        }
    }
    s.cg = pn_set1((T)cg), s.cm = pn_set1((T)cm), s.unbias = pn_set1((T)unbias);
    walk(&s, moments_rule, 3, AT(G), x, hi - lo);
}

PN_FN(moments_step) {
    moments h = {.s =
                     STEP_OF(moments_step, PAR(moments_step, decoupled).i, PAR(moments_step, eps).f,
                             PAR(moments_step, beta1).f, PAR(moments_step, beta2).f),
                 .nesterov = (int)PAR(moments_step, nesterov).i,
                 .rectified = (int)PAR(moments_step, rectified).i,
                 .psi = PAR(moments_step, momentum_decay).f};
    h.s.inside = (int)PAR(moments_step, eps_inside).i;
    pn_list l = pn_list_of(c, 2, MOMENTS_WIDTH, P, 0, PN_LIST_UNIT);
    h.s.far = l.total * (int64_t)sizeof(T) > PN_LIST_FAR;
    l.how = &h, l.span = moments_span;
    pn_list_run(c, &l);
    for (int64_t r = 0; h.nesterov && r < l.n_rows; r++) {
        const pn_array *row = &l.rows[r * MOMENTS_WIDTH], *product = &row[MOMENTS_PRODUCT];
        double mu = nadam_mu(h.s.beta1, h.psi, pn_number(&row[MOMENTS_T]) + 1);
        pn_set_number(product, pn_number(product) * mu);
    }
    pn_count_steps(&l, MOMENTS_T);
}

/* ---- LAMB ---------------------------------------------------------------------------------------
 * One pass makes the means and sums p^2 and r^2 of each BLOCK, a second one steps. */

#define BLOCK 1024
enum { LAMB_T = S2, LAMB_WIDTH };

typedef struct lamb {
    step s;
    double *part; /* [blocks of the line, 2] */
} lamb;

/* The numbers of a row's step */
static step lamb_row(const lamb *h, const pn_array *row) {
    step s = h->s;
    double t = pn_number(&row[LAMB_T]) + 1;
    s.cm = pn_set1((T)(1 / (1 - pow(s.beta1, t))));
    s.unbias = pn_set1((T)(1 / sqrt(1 - pow(s.beta2, t))));
    return s;
}

PN_INLINE V lamb_r(const step *s, V p, V m, V v) {
    V down;
    if (s->inside)
        down = pn_sqrt(pn_fma(v, s->unbias * s->unbias, s->eps));
    else
        down = pn_fma(pn_sqrt(v), s->unbias, s->eps);
    return pn_fma(s->decay, p, s->cm * m / down);
}

/* s += x^2 in double, of f32 exactly; memory of s is PN_VL sums */
PN_INLINE void add_squares(VD *s, V x) {
#if PN_KIND == PN_f32
    VD lo = pn_widen_lo(x), hi = pn_widen_hi(x);
    s[0] = pn_fma_d(lo, lo, s[0]);
    s[1] = pn_fma_d(hi, hi, s[1]);
#else
    s[0] = pn_fma(x, x, s[0]);
#endif
}

/* The sum of PN_VL lanes by a fixed tree */
static double lanes_sum(double *lane) {
    for (int w = PN_VL / 2; w > 0; w /= 2)
        for (int i = 0; i < w; i++) lane[i] += lane[i + w];
    return lane[0];
}

static void lamb_means_span(const pn_list *l, const pn_array *row, int64_t base, int64_t lo,
                            int64_t hi) {
    const lamb *h = l->how;
    const step s = lamb_row(h, row);
    const T *gp = row[G].data, *pp = row[P].data;
    T *mp = row[S0].data, *vp = row[S1].data;
    for (; lo < hi; lo += BLOCK) {
        int64_t i = lo, end = pn_min(hi, lo + BLOCK), k;
        VD p2[2] = {{0}}, r2[2] = {{0}};
        double of_p[PN_VL], of_r[PN_VL];
        V p, m, v, r;
        for (; i + PN_VL <= end; i += PN_VL) {
            p = pn_load(pp + i), m = pn_load(mp + i), v = pn_load(vp + i);
            __builtin_prefetch(gp + i + PN_LIST_AHEAD), __builtin_prefetch(pp + i + PN_LIST_AHEAD);
            __builtin_prefetch(mp + i + PN_LIST_AHEAD), __builtin_prefetch(vp + i + PN_LIST_AHEAD);
            means(&s, pn_load(gp + i) * s.sign, &m, &v);
            add_squares(p2, p), add_squares(r2, lamb_r(&s, p, m, v));
            pn_store(mp + i, m), pn_store(vp + i, v);
        }
        memcpy(of_p, p2, sizeof of_p), memcpy(of_r, r2, sizeof of_r);
        if ((k = end - i) > 0) { /* what pads it must not count: 0 / 0 where eps is 0 */
            p = pn_load_part(pp + i, k, 0), m = pn_load_part(mp + i, k, 0);
            v = pn_load_part(vp + i, k, 0);
            means(&s, pn_load_part(gp + i, k, 0) * s.sign, &m, &v);
            r = lamb_r(&s, p, m, v);
            pn_store_part(mp + i, m, k), pn_store_part(vp + i, v, k);
            for (int j = 0; j < k; j++) {
                of_p[j] += (double)p[j] * p[j];
                of_r[j] += (double)r[j] * r[j];
            }
        }
        h->part[2 * ((base + lo) / BLOCK)] = lanes_sum(of_p);
        h->part[2 * ((base + lo) / BLOCK) + 1] = lanes_sum(of_r);
    }
}

static void lamb_span(const pn_list *l, const pn_array *row, int64_t base, int64_t lo, int64_t hi) {
    const lamb *h = l->how;
    const step s = lamb_row(h, row);
    const double *sum = h->part + 2 * (base / BLOCK); /* the row's own, added up before */
    double ratio = sum[0] > 0 && sum[1] > 0 ? sqrt(sum[0]) / sqrt(sum[1]) : 1;
    V size = pn_set1((T)(s.lr_d * ratio));
    const T *mp = row[S0].data, *vp = row[S1].data;
    T *pp = row[P].data;
    V p, m, v;
    for (; lo + PN_VL <= hi; lo += PN_VL) {
        p = pn_load(pp + lo), m = pn_load(mp + lo), v = pn_load(vp + lo);
        __builtin_prefetch(pp + lo + PN_LIST_AHEAD), __builtin_prefetch(mp + lo + PN_LIST_AHEAD);
        __builtin_prefetch(vp + lo + PN_LIST_AHEAD);
        pn_store(pp + lo, pn_fnma(size, lamb_r(&s, p, m, v), p));
    }
    if (lo < hi) {
        p = pn_load_part(pp + lo, hi - lo, 0), m = pn_load_part(mp + lo, hi - lo, 0);
        v = pn_load_part(vp + lo, hi - lo, 0);
        pn_store_part(pp + lo, pn_fnma(size, lamb_r(&s, p, m, v), p), hi - lo);
    }
}

PN_FN(lamb_step) {
    lamb h = {.s = STEP_OF(lamb_step, 0, PAR(lamb_step, eps).f, PAR(lamb_step, beta1).f,
                           PAR(lamb_step, beta2).f),
              .part = c->arg[c->n_arg - 1].data};
    h.s.inside = (int)PAR(lamb_step, eps_inside).i;
    pn_list l = pn_list_of(c, 2, LAMB_WIDTH, P, 1, BLOCK);
    l.how = &h, l.span = lamb_means_span;
    pn_list_run(c, &l);
    for (int64_t r = 0, at = 0; r < l.n_rows; r++) {
        double *part = h.part + 2 * at;
        int64_t n = pn_list_room(&l, r) / BLOCK;
        for (int64_t half = 1; half < n; half *= 2)
            for (int64_t k = 0; k + half < n; k += 2 * half) {
                part[2 * k] += part[2 * (k + half)];
                part[2 * k + 1] += part[2 * (k + half) + 1];
            }
        at += n;
    }
    l.span = lamb_span;
    pn_list_run(c, &l);
    pn_count_steps(&l, LAMB_T);
}
PN_SCRATCH_FN(lamb_step) {
    return pn_list_of(c, 2, LAMB_WIDTH, P, 0, BLOCK).total / BLOCK * 2 * (int64_t)sizeof(double);
}

#endif
