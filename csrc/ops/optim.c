/* optim.c: the steps of optimizers and the clipping of gradients, over a list of tensors in one call.
 *
 * sgd     g = ±dp + wd p;  b = first step ? g : mu b + (1 - tau) g;  g = nesterov ? g + mu b : b
 *         p -= lr g
 * adam    g = ±dp + wd p  (decoupled: p *= 1 - lr wd instead)
 *         m += (1 - beta1)(g - m);  v = beta2 v + (1 - beta2) g^2;  x = amsgrad ? max(x, v) : v
 *         p -= lr / (1 - beta1^t) m / (sqrt(x) / sqrt(1 - beta2^t) + eps)
 * grad_norm                 sum |x|^p, or min(1, max_norm / (norm + 1e-6))
 * grad_scale, grad_clamp    x *= min(1, max_norm / (norm + 1e-6));  clamp(x)
 *
 * A call is a list as pn_list.h has them: for Adam lr and scale, which multiplies g first (clipping to a
 * norm), then (g, p, m, v, x, t) for each parameter. lr and the step count t are 0-d and float64 or
 * float32. The kernel counts t up after the pass. What depends on t is computed in double.
 */
#include <math.h>
#include <string.h>

#include "pn_list.h"

#if PN_FLOAT

#include "pn_table.h"

#define BLOCK 1024 /* elements whose powers are summed in one go */

/* ---- SGD ---------------------------------------------------------------------------------------- */

enum { SGD_G, SGD_P, SGD_B, SGD_T, SGD_WIDTH };

typedef struct sgd {
    V sign, lr, decay, momentum, damp; /* sign carries scale; damp = 1 - tau */
    int has_decay, has_momentum, nesterov, far;
} sgd;

static sgd sgd_of(const pn_value *par, double lr, double scale) {
    double decay = par[PNP_sgd_step_weight_decay].f;
    return (sgd){
        .sign = pn_set1((T)(par[PNP_sgd_step_maximize].i ? -scale : scale)),
        .lr = pn_set1((T)lr),
        .decay = pn_set1((T)decay),
        .momentum = pn_set1((T)par[PNP_sgd_step_momentum].f),
        .damp = pn_set1((T)(1 - par[PNP_sgd_step_dampening].f)),
        .has_decay = decay != 0,
        .has_momentum = par[PNP_sgd_step_momentum].f != 0,
        .nesterov = (int)par[PNP_sgd_step_nesterov].i,
    };
}

/* The new p; b, where there is one, is updated. */
PN_INLINE V sgd_vec(const sgd *s, V g, V p, V *b, int first) {
    g = g * s->sign;
    if (s->has_decay) g = pn_fma(s->decay, p, g);
    if (b) {
        *b = first ? g : pn_fma(s->damp, g, s->momentum * *b);
        g = s->nesterov ? pn_fma(s->momentum, *b, g) : *b;
    }
    return pn_fnma(s->lr, g, p);
}

/* n elements; whether b is there is a constant of each of its copies below */
PN_INLINE void sgd_loop(const sgd *how, const T *g, T *p, T *b, int64_t n, int first) {
    const sgd copy = *how, *s = &copy; /* in registers: a store to p cannot change it */
    int64_t i = 0;
    for (; i + PN_VL <= n; i += PN_VL) {
        V buf = b ? pn_load(b + i) : pn_set1(0);
        if (s->far)
            __builtin_prefetch(g + i + PN_LIST_AHEAD), __builtin_prefetch(p + i + PN_LIST_AHEAD);
        if (s->far && b) __builtin_prefetch(b + i + PN_LIST_AHEAD);
        pn_store(p + i, sgd_vec(s, pn_load(g + i), pn_load(p + i), b ? &buf : NULL, first));
        if (b) pn_store(b + i, buf);
    }
    if (i < n) {
        int64_t m = n - i;
        V now = pn_load_part(p + i, m, 0), buf = b ? pn_load_part(b + i, m, 0) : now;
        now = sgd_vec(s, pn_load_part(g + i, m, 0), now, b ? &buf : NULL, first);
        pn_store_part(p + i, now, m);
        if (b) pn_store_part(b + i, buf, m);
    }
}

static void sgd_run(const sgd *s, const T *g, T *p, T *b, int64_t n, int first) {
    if (b)
        sgd_loop(s, g, p, b, n, first);
    else
        sgd_loop(s, g, p, NULL, n, 0);
}

static void sgd_span(const pn_list *l, const pn_array *row, int64_t base, int64_t i, int64_t hi) {
    const sgd *s = l->how;
    T *b = s->has_momentum ? row[SGD_B].data : NULL;
    (void)base;
    sgd_run(s, (const T *)row[SGD_G].data + i, (T *)row[SGD_P].data + i, b ? b + i : NULL, hi - i,
            b && pn_number(&row[SGD_T]) == 0);
}

PN_FN(sgd_step) {
    sgd s = sgd_of(c->par, pn_number(ARG(sgd_step, lr)), pn_number(ARG(sgd_step, scale)));
    pn_list l = pn_list_of(c, 2, SGD_WIDTH, SGD_P, 0, PN_LIST_UNIT);
    s.far = l.total * (int64_t)sizeof(T) > PN_LIST_FAR;
    l.how = &s, l.span = sgd_span;
    pn_list_run(c, &l);
    if (s.has_momentum) pn_count_steps(&l, SGD_T);
}

/* ---- Adam --------------------------------------------------------------------------------------- */

enum { ADAM_G, ADAM_P, ADAM_M, ADAM_V, ADAM_X, ADAM_T, ADAM_WIDTH };

typedef struct adam {
    double beta1, beta2, lr;
    double t, bias1, bias2; /* the first row's count, which is most rows', and 1 - beta^(t + 1) */
    V sign, decay, keep, beta1_v, new1, beta2_v, new2, eps; /* keep = 1 - lr wd, new = 1 - beta */
    int l2, lerp_from_g, amsgrad, far; /* far: the list is larger than caches */
} adam;

static adam adam_of(const pn_value *par, double lr, double scale, double t) {
    double beta1 = par[PNP_adam_step_beta1].f, beta2 = par[PNP_adam_step_beta2].f;
    double decay = par[PNP_adam_step_weight_decay].f;
    int64_t decoupled = par[PNP_adam_step_decoupled].i;
    return (adam){
        .beta1 = beta1,
        .beta2 = beta2,
        .lr = lr,
        .t = t,
        .bias1 = 1 - pow(beta1, t + 1),
        .bias2 = 1 - pow(beta2, t + 1),
        .sign = pn_set1((T)(par[PNP_adam_step_maximize].i ? -scale : scale)),
        .decay = pn_set1((T)decay),
        .keep = pn_set1((T)(decoupled ? 1 - lr * decay : 1)),
        .beta1_v = pn_set1((T)beta1),
        .new1 = pn_set1((T)(1 - beta1)),
        .beta2_v = pn_set1((T)beta2),
        .new2 = pn_set1((T)(1 - beta2)),
        .eps = pn_set1((T)par[PNP_adam_step_eps].f),
        .l2 = !decoupled && decay != 0,
        .amsgrad = (int)par[PNP_adam_step_amsgrad].i,
        .lerp_from_g = beta1 <= 0.5, /* from the nearer end: exact at beta1 = 0 */
    };
}

/* The new p; m, v and, where it is, x are updated. size = lr / bias1, unbias = 1 / sqrt(bias2). */
PN_INLINE V adam_vec(const adam *s, V g, V p, V *m, V *v, V *x, V size, V unbias) {
    V d;
    g = g * s->sign;
    if (s->l2) g = pn_fma(s->decay, p, g);
    d = g - *m;
    *m = s->lerp_from_g ? pn_fnma(s->beta1_v, d, g) : pn_fma(s->new1, d, *m);
    *v = pn_fma(s->new2 * g, g, s->beta2_v * *v);
    if (x) *x = pn_vmax(*x, *v);
    d = pn_fma(pn_sqrt(x ? *x : *v), unbias, s->eps);
    return pn_fnma(size, *m / d, p * s->keep);
}

/* n elements in step t + 1; has_x and far are constants of each of its copies below */
PN_INLINE void adam_loop(const adam *how, const T *gp, T *pp, T *mp, T *vp, T *xp, int64_t n,
                         double t, int has_x, int far) {
    const adam copy = *how, *s = &copy; /* in registers: a store to p cannot change it */
    double bias1 = t == s->t ? s->bias1 : 1 - pow(s->beta1, t + 1);
    double bias2 = t == s->t ? s->bias2 : 1 - pow(s->beta2, t + 1);
    V size = pn_set1((T)(s->lr / bias1)), unbias = pn_set1((T)(1 / sqrt(bias2))), g, p, m, v, x;
    int64_t i = 0;
    for (; i + PN_VL <= n; i += PN_VL) {
        if (far) { /* the hardware's own fetching ends with each page */
            __builtin_prefetch(gp + i + PN_LIST_AHEAD), __builtin_prefetch(pp + i + PN_LIST_AHEAD);
            __builtin_prefetch(mp + i + PN_LIST_AHEAD), __builtin_prefetch(vp + i + PN_LIST_AHEAD);
        }
        m = pn_load(mp + i), v = pn_load(vp + i);
        if (has_x) x = pn_load(xp + i);
        p = adam_vec(s, pn_load(gp + i), pn_load(pp + i), &m, &v, has_x ? &x : NULL, size, unbias);
        pn_store(pp + i, p), pn_store(mp + i, m), pn_store(vp + i, v);
        if (has_x) pn_store(xp + i, x);
    }
    if (i < n) {
        int64_t k = n - i;
        g = pn_load_part(gp + i, k, 0), p = pn_load_part(pp + i, k, 0);
        m = pn_load_part(mp + i, k, 0), v = pn_load_part(vp + i, k, 0);
        if (has_x) x = pn_load_part(xp + i, k, 0);
        p = adam_vec(s, g, p, &m, &v, has_x ? &x : NULL, size, unbias);
        pn_store_part(pp + i, p, k), pn_store_part(mp + i, m, k), pn_store_part(vp + i, v, k);
        if (has_x) pn_store_part(xp + i, x, k);
    }
}

static void adam_run(const adam *s, const T *g, T *p, T *m, T *v, T *x, int64_t n, double t) {
    if (x)
        adam_loop(s, g, p, m, v, x, n, t, 1, 0);
    else if (s->far)
        adam_loop(s, g, p, m, v, NULL, n, t, 0, 1);
    else
        adam_loop(s, g, p, m, v, NULL, n, t, 0, 0);
}

static void adam_span(const pn_list *l, const pn_array *row, int64_t base, int64_t i, int64_t hi) {
    const adam *s = l->how;
    T *x = s->amsgrad ? row[ADAM_X].data : NULL;
    (void)base;
    adam_run(s, (const T *)row[ADAM_G].data + i, (T *)row[ADAM_P].data + i,
             (T *)row[ADAM_M].data + i, (T *)row[ADAM_V].data + i, x ? x + i : NULL, hi - i,
             pn_number(&row[ADAM_T]));
}

PN_FN(adam_step) {
    pn_list l = pn_list_of(c, 2, ADAM_WIDTH, ADAM_P, 0, PN_LIST_UNIT);
    adam s = adam_of(c->par, pn_number(ARG(adam_step, lr)), pn_number(ARG(adam_step, scale)),
                     pn_number(&l.rows[ADAM_T]));
    s.far = l.total * (int64_t)sizeof(T) > PN_LIST_FAR;
    l.how = &s, l.span = adam_span;
    pn_list_run(c, &l);
    pn_count_steps(&l, ADAM_T);
}

/* ---- the same steps for those rows of a table that a gradient names ------------------------------- */

PN_TABLE_CHUNK(sgd_rows, sgd_run(t->how, g, p, t->a ? t->a + at : NULL, t->C, t->t == 0))
PN_TABLE_CHUNK(adam_rows,
               adam_run(t->how, g, p, t->a + at, t->b + at, t->x ? t->x + at : NULL, t->C, t->t))

_Static_assert((int)PNP_sgd_rows_step_maximize == (int)PNP_sgd_step_maximize, "sgd_of reads both");
PN_FN(sgd_rows_step) {
    const pn_array *steps = ARG(sgd_rows_step, step);
    sgd s = sgd_of(c->par, pn_number(ARG(sgd_rows_step, lr)), pn_number(ARG(sgd_rows_step, scale)));
    pn_table t = PN_TABLE_OF(sgd_rows_step);
    if (c->err.code != PN_OK) return;
    t.how = &s;
    if (s.has_momentum) t.a = ARG(sgd_rows_step, buffer)->data, t.t = pn_number(steps);
    pn_table_run(c, &t, sgd_rows);
    if (t.a) pn_set_number(steps, t.t + 1);
}

_Static_assert((int)PNP_adam_rows_step_maximize == (int)PNP_adam_step_maximize,
               "adam_of reads both");
PN_FN(adam_rows_step) {
    const pn_array *steps = ARG(adam_rows_step, step);
    pn_table t = PN_TABLE_OF(adam_rows_step);
    if (c->err.code != PN_OK) return;
    t.a = ARG(adam_rows_step, m)->data, t.b = ARG(adam_rows_step, v)->data;
    t.t = pn_number(steps);
    adam s = adam_of(c->par, pn_number(ARG(adam_rows_step, lr)),
                     pn_number(ARG(adam_rows_step, scale)), t.t);
    if (PAR(adam_rows_step, scaled_eps).i) s.eps = s.eps / pn_set1((T)sqrt(s.bias2));
    if (s.amsgrad) t.x = ARG(adam_rows_step, vmax)->data;
    t.how = &s;
    pn_table_run(c, &t, adam_rows);
    pn_set_number(steps, t.t + 1);
}

/* ---- gradients: their norm, scaling, clamping ---------------------------------------------------- */

typedef struct norm {
    double p;
    double *part; /* one sum for each BLOCK of the line */
} norm;

static double join(double p, double a, double b) {
    if (!isinf(p)) return a + b;
    return a != a ? a : b != b ? b : a > b ? a : b;
}

/* Squares are added up in double, of f32 exactly; lane l of the k-th vector in sum k % 4. */
static void block_squares(const T *x, int64_t n, double *lane) {
#if PN_KIND == PN_f32
    VD s[8] = {{0}};
#define SQUARE(k, v)                                                                               \
    VD lo##k = pn_widen_lo(v), hi##k = pn_widen_hi(v);                                             \
    s[2 * (k)] = pn_fma_d(lo##k, lo##k, s[2 * (k)]);                                               \
    s[2 * (k) + 1] = pn_fma_d(hi##k, hi##k, s[2 * (k) + 1]);
    enum { WIDE = 2 };
#else
    VD s[4] = {{0}};
#define SQUARE(k, v) s[k] = pn_fma(v, v, s[k]);
    enum { WIDE = 1 };
#endif
    int64_t i = 0;
    for (; i + 4 * PN_VL <= n; i += 4 * PN_VL) {
        V a = pn_load(x + i), b = pn_load(x + i + PN_VL), c = pn_load(x + i + 2 * PN_VL),
          d = pn_load(x + i + 3 * PN_VL);
        __builtin_prefetch(x + i + 2 * BLOCK), __builtin_prefetch(x + i + 2 * BLOCK + 2 * PN_VL);
        SQUARE(0, a) SQUARE(1, b) SQUARE(2, c) SQUARE(3, d)
    }
    for (; i < n; i += PN_VL) {
        V a = pn_load_part(x + i, n - i, 0);
        SQUARE(0, a)
    }
    for (int k = 0; k < WIDE; k++)
        s[k] = (s[k] + s[k + WIDE]) + (s[k + 2 * WIDE] + s[k + 3 * WIDE]);
    memcpy(lane, s, PN_VL * sizeof *lane);
}

/* sum |x|^p of a block, or max |x|; lane by lane, then the lanes by a fixed tree */
static double block_power(double p, const T *x, int64_t n) {
    double lane[PN_VL] = {0};
    if (p == 2) {
        block_squares(x, n, lane);
    } else {
        for (int64_t i = 0; i < n; i++) {
            double a = fabs((double)x[i]);
            lane[i % PN_VL] = join(p, lane[i % PN_VL], p == 1 || isinf(p) ? a : pow(a, p));
        }
    }
    for (int w = PN_VL / 2; w > 0; w /= 2)
        for (int i = 0; i < w; i++) lane[i] = join(p, lane[i], lane[i + w]);
    return lane[0];
}

static void norm_span(const pn_list *l, const pn_array *row, int64_t base, int64_t lo, int64_t hi) {
    const norm *s = l->how;
    for (const T *x = row->data; lo < hi; lo += BLOCK)
        s->part[(base + lo) / BLOCK] = block_power(s->p, x + lo, pn_min(BLOCK, hi - lo));
}

/* total, then rows of x, then scratch */
PN_FN(grad_norm_step) {
    norm s = {.p = PAR(grad_norm_step, p).f, .part = c->arg[c->n_arg - 1].data};
    pn_list l = pn_list_of(c, 1, 1, 0, 1, BLOCK);
    int64_t n = l.total / BLOCK;
    l.how = &s, l.span = norm_span;
    pn_list_run(c, &l);
    for (int64_t half = 1; half < n; half *= 2)
        for (int64_t k = 0; k + half < n; k += 2 * half)
            s.part[k] = join(s.p, s.part[k], s.part[k + half]);
    double total = n ? s.part[0] : 0, max_norm = PAR(grad_norm_step, max_norm).f;
    if (max_norm >= 0) {
        double norm = s.p == 2 ? sqrt(total) : s.p == 1 || isinf(s.p) ? total : pow(total, 1 / s.p);
        double scale = max_norm / (norm + 1e-6);
        total = scale >= 1 ? 1 : scale; /* NaN stays */
    }
    pn_set_number(&c->arg[0], total);
}
PN_SCRATCH_FN(grad_norm_step) {
    return pn_list_of(c, 1, 1, 0, 0, BLOCK).total / BLOCK * (int64_t)sizeof(double);
}

#define IN_PLACE(name, declare, expr)                                                              \
    static void name(const pn_list *l, const pn_array *row, int64_t base, int64_t i, int64_t hi) { \
        T *p = row->data;                                                                          \
        V x;                                                                                       \
        declare(void) base;                                                                        \
        for (; i < hi; i += PN_VL)                                                                 \
            x = pn_load_part(p + i, hi - i, 0), pn_store_part(p + i, expr, hi - i);                \
    }
IN_PLACE(scale_span, V factor = pn_set1(*(const T *)l->how);, x *factor)
IN_PLACE(clamp_span, V most = pn_set1(*(const T *)l->how);, pn_clamp(x, -most, most))

/* norm, then rows of x; no pass where nothing is to change */
PN_FN(grad_scale_step) {
    double factor =
        PAR(grad_scale_step, max_norm).f / (pn_number(ARG(grad_scale_step, norm)) + 1e-6);
    T factor_t = (T)factor;
    pn_list l = pn_list_of(c, 1, 1, 0, 0, PN_LIST_UNIT);
    l.how = &factor_t, l.span = scale_span;
    if (!(factor >= 1)) pn_list_run(c, &l);
}

PN_FN(grad_clamp_step) {
    T most = (T)PAR(grad_clamp_step, clip_value).f;
    pn_list l = pn_list_of(c, 0, 1, 0, 0, PN_LIST_UNIT);
    l.how = &most, l.span = clamp_span;
    pn_list_run(c, &l);
}

#endif
