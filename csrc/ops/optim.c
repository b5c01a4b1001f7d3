/* optim.c: the steps of optimizers and the clipping of gradients, over a list of tensors in one call.
 *
 * sgd     g = ±dp + wd p;  b = first step ? g : mu b + (1 - tau) g;  g = nesterov ? g + mu b : b
 *         p -= lr g
 * adam    g = ±dp + wd p  (decoupled: p *= 1 - lr wd instead)
 *         m += (1 - beta1)(g - m);  v = beta2 v + (1 - beta2) g^2;  x = amsgrad ? max(x, v) : v
 *         p -= lr / (1 - beta1^t) m / (sqrt(x) / sqrt(1 - beta2^t) + eps)
 * grad_norm, grad_scale, grad_clamp    sum |x|^p;  x *= min(1, max_norm / (norm + 1e-6));  clamp(x)
 *
 * A call's arguments are a few single tensors, then rows of equally many: for Adam lr, then
 * (g, p, m, v, x, t) for each parameter. The large members of a row share one dense order of memory, so
 * that n elements are what a kernel sees; lr and the step count t are 0-d and float64 or float32. The
 * kernel counts t up after the pass. What depends on t is computed in double.
 *
 * Threads share the list end to end: each tensor takes its size rounded up to UNIT elements, and a
 * chunk is a piece of that line. Tails run the vector code, padded, so that chunks do not change bits.
 */
#include <math.h>
#include <string.h>

#include "pn_kernel.h"
#include "pn_simd.h"

#if PN_FLOAT

#define CHUNK 16384
#define UNIT 64 /* elements, so that pieces start on whole vectors */
#define BLOCK 1024 /* elements whose powers are summed in one go */
#define MARKS 64

typedef struct list {
    const pn_array *rows; /* [n_rows, width] */
    int64_t n_rows, width, lead, unit, total, grain;
    int64_t skip, mark[MARKS]; /* where every skip-th row begins on the line */
    /* elements lo .. hi of a row that begins at base */
    void (*span)(const struct list *l, const pn_array *row, int64_t base, int64_t lo, int64_t hi);
    const void *how;
} list;

static int64_t room(const list *l, int64_t r) {
    return pn_ceil_div(pn_size(&l->rows[r * l->width + l->lead]), l->unit) * l->unit;
}

/* The rows behind n_fixed single tensors; the lead-th of a row tells its size. */
static list list_of(const pn_call *c, int n_fixed, int width, int lead, int n_scratch,
                    int64_t unit) {
    int64_t n_rows = (c->n_arg - n_fixed - n_scratch) / width;
    list l = {
        .rows = &c->arg[n_fixed], .n_rows = n_rows, .width = width, .lead = lead, .unit = unit};
    l.skip = pn_ceil_div(n_rows, MARKS);
    for (int64_t r = 0; r < l.n_rows; r++) {
        if (r % l.skip == 0) l.mark[r / l.skip] = l.total;
        l.total += room(&l, r);
    }
    l.grain = pn_ceil_div(pn_grain(CHUNK), unit) * unit;
    return l;
}

static void list_body(pn_call *c, void *arg, int64_t chunk, int worker) {
    const list *l = arg;
    int64_t at = chunk * l->grain, end = pn_min(l->total, at + l->grain), r = 0, base;
    (void)c, (void)worker;
    while (r + l->skip < l->n_rows && l->mark[r / l->skip + 1] <= at) r += l->skip;
    for (base = l->mark[r / l->skip]; at < end; r++) {
        int64_t next = base + room(l, r);
        const pn_array *row = l->rows + r * l->width;
        if (next > at) {
            l->span(l, row, base, at - base, pn_min(pn_size(&row[l->lead]), end - base));
            at = next;
        }
        base = next;
    }
}

static void list_run(pn_call *c, list *l) {
    pn_for(c, pn_ceil_div(l->total, l->grain), list_body, l);
}

static double number(const pn_array *a) {
    return a->dtype == PN_F64 ? *(const double *)a->data : *(const float *)a->data;
}

static void set_number(const pn_array *a, double x) {
    if (a->dtype == PN_F64)
        *(double *)a->data = x;
    else
        *(float *)a->data = (float)x;
}

/* t += 1 for every row */
static void count_steps(const list *l, int column) {
    for (int64_t r = 0; r < l->n_rows; r++) {
        const pn_array *t = &l->rows[r * l->width + column];
        set_number(t, number(t) + 1);
    }
}

/* ---- SGD ---------------------------------------------------------------------------------------- */

enum { SGD_G, SGD_P, SGD_B, SGD_T, SGD_WIDTH };

typedef struct sgd {
    V sign, lr, decay, momentum, damp; /* damp = 1 - tau */
    int has_decay, nesterov;
} sgd;

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

static void sgd_plain(const list *l, const pn_array *row, int64_t base, int64_t i, int64_t hi) {
    const sgd *s = l->how;
    const T *g = row[SGD_G].data;
    T *p = row[SGD_P].data;
    (void)base;
    for (; i + PN_VL <= hi; i += PN_VL)
        pn_store(p + i, sgd_vec(s, pn_load(g + i), pn_load(p + i), NULL, 0));
    if (i < hi) {
        V new = sgd_vec(s, pn_load_part(g + i, hi - i, 0), pn_load_part(p + i, hi - i, 0), NULL, 0);
        pn_store_part(p + i, new, hi - i);
    }
}

static void sgd_momentum(const list *l, const pn_array *row, int64_t base, int64_t i, int64_t hi) {
    const sgd *s = l->how;
    const T *g = row[SGD_G].data;
    T *p = row[SGD_P].data, *b = row[SGD_B].data;
    int first = number(&row[SGD_T]) == 0;
    (void)base;
    for (; i + PN_VL <= hi; i += PN_VL) {
        V buf = pn_load(b + i);
        pn_store(p + i, sgd_vec(s, pn_load(g + i), pn_load(p + i), &buf, first));
        pn_store(b + i, buf);
    }
    if (i < hi) {
        int64_t n = hi - i;
        V buf = pn_load_part(b + i, n, 0);
        pn_store_part(p + i,
                      sgd_vec(s, pn_load_part(g + i, n, 0), pn_load_part(p + i, n, 0), &buf, first),
                      n);
        pn_store_part(b + i, buf, n);
    }
}

PN_FN(sgd_step) {
    double momentum = PAR(sgd_step, momentum).f, decay = PAR(sgd_step, weight_decay).f;
    sgd s = {
        .sign = pn_set1(PAR(sgd_step, maximize).i ? -1 : 1),
        .lr = pn_set1((T)number(ARG(sgd_step, lr))),
        .decay = pn_set1((T)decay),
        .momentum = pn_set1((T)momentum),
        .damp = pn_set1((T)(1 - PAR(sgd_step, dampening).f)),
        .has_decay = decay != 0,
        .nesterov = (int)PAR(sgd_step, nesterov).i,
    };
    list l = list_of(c, 1, SGD_WIDTH, SGD_P, 0, UNIT);
    l.how = &s;
    l.span = momentum != 0 ? sgd_momentum : sgd_plain;
    list_run(c, &l);
    if (momentum != 0) count_steps(&l, SGD_T);
}

/* ---- Adam --------------------------------------------------------------------------------------- */

enum { ADAM_G, ADAM_P, ADAM_M, ADAM_V, ADAM_X, ADAM_T, ADAM_WIDTH };

typedef struct adam {
    double beta1, beta2, lr;
    double t, bias1, bias2; /* the first row's count, which is most rows', and 1 - beta^(t + 1) */
    V sign, decay, keep, beta1_v, new1, beta2_v, new2, eps; /* keep = 1 - lr wd, new = 1 - beta */
    int l2, lerp_from_g;
} adam;

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

#define ADAM_SPAN(name, use_x)                                                                     \
    static void name(const list *l, const pn_array *row, int64_t base, int64_t i, int64_t hi) {    \
        const adam *s = l->how;                                                                    \
        const T *gp = row[ADAM_G].data;                                                            \
        T *pp = row[ADAM_P].data, *mp = row[ADAM_M].data, *vp = row[ADAM_V].data;                  \
        T *xp = use_x ? row[ADAM_X].data : vp;                                                     \
        double t = number(&row[ADAM_T]);                                                           \
        double bias1 = t == s->t ? s->bias1 : 1 - pow(s->beta1, t + 1);                            \
        double bias2 = t == s->t ? s->bias2 : 1 - pow(s->beta2, t + 1);                            \
        V size = pn_set1((T)(s->lr / bias1)), unbias = pn_set1((T)(1 / sqrt(bias2))), m, v, x;     \
        (void)base;                                                                                \
        for (; i + PN_VL <= hi; i += PN_VL) {                                                      \
            m = pn_load(mp + i), v = pn_load(vp + i), x = pn_load(xp + i);                         \
            V p = adam_vec(s, pn_load(gp + i), pn_load(pp + i), &m, &v, use_x ? &x : NULL, size,   \
                           unbias);                                                                \
            pn_store(pp + i, p), pn_store(mp + i, m), pn_store(vp + i, v);                         \
            if (use_x) pn_store(xp + i, x);                                                        \
        }                                                                                          \
        if (i < hi) {                                                                              \
            int64_t n = hi - i;                                                                    \
            V g = pn_load_part(gp + i, n, 0), p = pn_load_part(pp + i, n, 0);                      \
            m = pn_load_part(mp + i, n, 0), v = pn_load_part(vp + i, n, 0),                        \
            x = pn_load_part(xp + i, n, 0);                                                        \
            p = adam_vec(s, g, p, &m, &v, use_x ? &x : NULL, size, unbias);                        \
            pn_store_part(pp + i, p, n), pn_store_part(mp + i, m, n), pn_store_part(vp + i, v, n); \
            if (use_x) pn_store_part(xp + i, x, n);                                                \
        }                                                                                          \
    }
ADAM_SPAN(adam_span, 0)
ADAM_SPAN(amsgrad_span, 1)

PN_FN(adam_step) {
    double lr = number(ARG(adam_step, lr)), decay = PAR(adam_step, weight_decay).f;
    double beta1 = PAR(adam_step, beta1).f, beta2 = PAR(adam_step, beta2).f;
    int64_t decoupled = PAR(adam_step, decoupled).i;
    list l = list_of(c, 1, ADAM_WIDTH, ADAM_P, 0, UNIT);
    double t = number(&l.rows[ADAM_T]);
    adam s = {
        .beta1 = beta1,
        .beta2 = beta2,
        .lr = lr,
        .t = t,
        .bias1 = 1 - pow(beta1, t + 1),
        .bias2 = 1 - pow(beta2, t + 1),
        .sign = pn_set1(PAR(adam_step, maximize).i ? -1 : 1),
        .decay = pn_set1((T)decay),
        .keep = pn_set1((T)(decoupled ? 1 - lr * decay : 1)),
        .beta1_v = pn_set1((T)beta1),
        .new1 = pn_set1((T)(1 - beta1)),
        .beta2_v = pn_set1((T)beta2),
        .new2 = pn_set1((T)(1 - beta2)),
        .eps = pn_set1((T)PAR(adam_step, eps).f),
        .l2 = !decoupled && decay != 0,
        .lerp_from_g = beta1 <= 0.5, /* from the nearer end: exact at beta1 = 0 */
    };
    l.how = &s;
    l.span = PAR(adam_step, amsgrad).i ? amsgrad_span : adam_span;
    list_run(c, &l);
    count_steps(&l, ADAM_T);
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

/* sum |x|^p of a block, or max |x|; lane by lane, then the lanes by a fixed tree */
static double block_power(double p, const T *x, int64_t n) {
    double lane[PN_VL] = {0};
    if (p == 2) {
        VD s[sizeof(T) == 4 ? 2 : 1] = {{0}};
        for (int64_t i = 0; i < n; i += PN_VL) {
            V v = pn_load_part(x + i, n - i, 0);
#if PN_KIND == PN_f32
            VD lo = pn_widen_lo(v), hi = pn_widen_hi(v);
            s[0] += lo * lo, s[1] += hi * hi;
#else
            s[0] += v * v;
#endif
        }
        memcpy(lane, s, sizeof s);
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

static void norm_span(const list *l, const pn_array *row, int64_t base, int64_t lo, int64_t hi) {
    const norm *s = l->how;
    for (const T *x = row->data; lo < hi; lo += BLOCK)
        s->part[(base + lo) / BLOCK] = block_power(s->p, x + lo, pn_min(BLOCK, hi - lo));
}

/* total, then rows of x, then scratch */
PN_FN(grad_norm_step) {
    norm s = {PAR(grad_norm_step, p).f, c->arg[c->n_arg - 1].data};
    list l = list_of(c, 1, 1, 0, 1, BLOCK);
    int64_t n = l.total / BLOCK;
    l.how = &s, l.span = norm_span;
    list_run(c, &l);
    for (int64_t half = 1; half < n; half *= 2)
        for (int64_t k = 0; k + half < n; k += 2 * half)
            s.part[k] = join(s.p, s.part[k], s.part[k + half]);
    set_number(&c->arg[0], n ? s.part[0] : 0);
}
PN_SCRATCH_FN(grad_norm_step) {
    return list_of(c, 1, 1, 0, 0, BLOCK).total / BLOCK * (int64_t)sizeof(double);
}

#define IN_PLACE(name, declare, expr)                                                              \
    static void name(const list *l, const pn_array *row, int64_t base, int64_t i, int64_t hi) {    \
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
    double factor = PAR(grad_scale_step, max_norm).f / (number(ARG(grad_scale_step, norm)) + 1e-6);
    T factor_t = (T)factor;
    list l = list_of(c, 1, 1, 0, 0, UNIT);
    l.how = &factor_t, l.span = scale_span;
    if (!(factor >= 1)) list_run(c, &l);
}

PN_FN(grad_clamp_step) {
    T most = (T)PAR(grad_clamp_step, clip_value).f;
    list l = list_of(c, 0, 1, 0, 0, UNIT);
    l.how = &most, l.span = clamp_span;
    list_run(c, &l);
}

#endif
