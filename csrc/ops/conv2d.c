/* conv2d.c: convolution over the rows and columns of images, its two adjoints, and its derivatives.
 *
 *   y[n, p, q, o]  = b[o] + Σ_{a, b, i} x[n, p sh - ph + a dh, q sw - pw + b dw, i] W[o, a, b, i]
 *   dx[n, h, w, i] = Σ_{a, b, o} dy[n, p, q, o] W[o, a, b, i]       over p sh - ph + a dh = h, likewise q
 *   dW[o, a, b, i] = Σ_{n, p, q} dy[n, p, q, o] x[n, p sh - ph + a dh, q sw - pw + b dw, i]
 *   db[o]          = Σ_{n, p, q} dy[n, p, q, o]
 *
 * What lies outside of x counts as 0; ph and pw are what is padded before, the size of y tells the rest.
 * x, y: N,H,W,C in memory; W: O,kH,kW,I. With groups, i runs over the group of o. The convolution is linear in
 * x and in W, so that conv2d, conv2d_by_data (dx from dy and W, which is the transposed convolution) and
 * conv2d_by_weight (dW from dy and x) are one another's derivatives.
 *
 *   y = act(conv2d(x, W, b))       relu in the tiles' epilogue, others in place
 *   dz = dy act'(y)                then as above
 *
 *   y = relu(conv2d(x, W s, (b - running_mean) s + bias) + residual),  s = weight / sqrt(running_var + eps)
 *
 * A plan may keep W as the sums read it, in an argument behind scratch (kept below): sized by the scratch
 * function, filled by a call whose y has no memory. Such a call's result has the same bits.
 */
#include "pn_conv_lanes.h"
#include "pn_conv_scatter.h"
#include "pn_winograd.h"

#if PN_FLOAT

/* ---- the three products ------------------------------------------------------------------------------- */

/* Scratch suffices for either algorithm, as the precision may be set between its being sized and the call. */
static int is_fast(const conv *form) { return suits_winograd(form) && !pn_exact(); }

static void run_form_by(pn_call *c, const conv *form, int fast, void *scratch) {
    if (is_depthwise(form))
        run_lanes(c, form, scratch);
    else if (fast)
        run_winograd(c, form, scratch);
    else
        run_direct(c, form, scratch);
}

static void run_form(pn_call *c, const conv *form, void *scratch) {
    run_form_by(c, form, is_fast(form), scratch);
}

static int64_t form_scratch(const conv *form) {
    if (is_depthwise(form)) return lanes_scratch(form);
    int64_t need = direct_scratch(form);
    return suits_winograd(form) ? pn_max(need, winograd_scratch(form)) : need;
}

static void by_data(pn_call *c, const geometry *g, const pn_array *dy, const pn_array *w,
                    const pn_array *b, pn_array *dx, void *scratch) {
    scatter few = scatter_of(g, dy, w, dx);
    if (suits_scatter(&few)) {
        run_scatter(c, &few, b ? b->data : NULL, scratch);
        return;
    }
    for (int64_t r0 = 0; r0 < pn_min(g->stride[0], dx->shape[2]); r0++)
        for (int64_t r1 = 0; r1 < pn_min(g->stride[1], dx->shape[3]); r1++) {
            conv part = by_data_of(g, dy, w, dx, r0, r1);
            part.bias = b ? b->data : NULL;
            run_form(c, &part, scratch);
        }
}

static int64_t by_data_scratch(const geometry *g, const pn_array *dy, const pn_array *w,
                               const pn_array *dx) {
    int64_t need = 0;
    scatter few = scatter_of(g, dy, w, dx);
    if (suits_scatter(&few)) return scatter_scratch(&few);
    for (int64_t r0 = 0; r0 < pn_min(g->stride[0], dx->shape[2]); r0++)
        for (int64_t r1 = 0; r1 < pn_min(g->stride[1], dx->shape[3]); r1++) {
            conv part = by_data_of(g, dy, w, dx, r0, r1);
            need = pn_max(need, form_scratch(&part));
        }
    return need;
}

static void by_weights(pn_call *c, const geometry *g, const pn_array *dy, const pn_array *x,
                       pn_array *dw, void *scratch) {
    conv form = forward_of(g, x, dw, dy);
    if (is_depthwise(&form))
        run_lane_weights(c, &form, dw->data, scratch);
    else if (suits_winograd(&form) && !pn_exact())
        run_adjoint(c, &form, dw->data, scratch);
    else
        run_by_weight(c, &form, dw->data, scratch);
}

static int64_t by_weights_scratch(const geometry *g, const pn_array *dy, const pn_array *x,
                                  const pn_array *dw) {
    conv form = forward_of(g, x, dw, dy);
    if (is_depthwise(&form)) return lane_weights_scratch(&form);
    int64_t need = by_weight_scratch(&form);
    return suits_winograd(&form) ? pn_max(need, adjoint_scratch(&form)) : need;
}

/* ---- weights that are kept ------------------------------------------------------------------------------ */

typedef struct kept { /* [this | bias of the call's own | w as the sums read it] */
    int64_t fast; /* the algorithm that it is for, whatever the precision is by now */
    T bias[];
} kept;

#define KEPT(k) (c->n_arg > PNA_##k##_scratch + 1 ? c->arg[PNA_##k##_scratch + 1].data : NULL)
#define IS_KEPT(k) (c->n_arg > PNA_##k##_scratch + 1)

static int64_t kept_head(const conv *form) {
    return round_up((int64_t)sizeof(kept), PN_ALIGN) + bytes_of(form->co);
}

static int64_t kept_bytes(const conv *form) {
    int64_t w = is_depthwise(form) ? lanes_scratch(form)
                : is_fast(form)    ? all_weights_bytes(form)
                                   : plan_direct(form).w_bytes;
    return kept_head(form) + w;
}

static void keep(pn_call *c, conv *form, kept *to) {
    to->fast = is_fast(form);
    form->ready = (char *)to + kept_head(form);
    if (is_depthwise(form)) {
        lanes j = plan_lanes(form);
        pack_lanes(&j, form->ready);
    } else if (to->fast) {
        all_weights(c, form);
    } else {
        direct j = plan_direct(form);
        pack_direct(c, &j, form->ready);
    }
    for (int64_t o = 0; form->bias && o < form->co; o++) to->bias[o] = form->bias[o];
}

/* The convolution, or, where y has no memory, its weights alone. */
static void run_kept(pn_call *c, conv *form, kept *k, void *scratch) {
    if (!k) {
        run_form(c, form, scratch);
    } else if (!form->y) {
        keep(c, form, k);
    } else {
        form->ready = (char *)k + kept_head(form);
        run_form_by(c, form, (int)k->fast, scratch);
    }
}

/* ---- forward -------------------------------------------------------------------------------------------- */

#define FORWARD(k)                                                                                 \
    geometry g = GEOMETRY(k);                                                                      \
    conv form = forward_of(&g, ARG(k, x), ARG(k, W), ARG(k, y))

PN_FN(conv2d_fwd) {
    FORWARD(conv2d_fwd);
    form.bias = ARG(conv2d_fwd, b)->data;
    run_kept(c, &form, KEPT(conv2d_fwd), ARG(conv2d_fwd, scratch)->data);
}

PN_SCRATCH_FN(conv2d_fwd) {
    FORWARD(conv2d_fwd);
    return IS_KEPT(conv2d_fwd) ? kept_bytes(&form) : form_scratch(&form);
}

void PN_NAME(relu_fwd)(pn_call *c); /* of activation.c: the tiles have it in their epilogue */

PN_FN(conv2d_act_fwd) {
    pn_array *y = ARG(conv2d_act_fwd, y), arg[2] = {*y, *y};
    pn_call act = {.arg = arg, .par = c->par, .n_arg = 2};
    pn_fn fn = pn_kernel_fn((int)PAR(conv2d_act_fwd, fwd).i, PN_DTYPE);
    FORWARD(conv2d_act_fwd);
    form.bias = ARG(conv2d_act_fwd, b)->data;
    form.relu = fn == PN_NAME(relu_fwd);
    run_kept(c, &form, KEPT(conv2d_act_fwd), ARG(conv2d_act_fwd, scratch)->data);
    if (!form.relu && y->data) fn(&act);
}

PN_SCRATCH_FN(conv2d_act_fwd) {
    FORWARD(conv2d_act_fwd);
    return IS_KEPT(conv2d_act_fwd) ? kept_bytes(&form) : form_scratch(&form);
}

/* ---- with batch norm of given statistics ----------------------------------------------------------------- */

typedef struct folding {
    const pn_array *w;
    const T *b, *weight, *bias, *mean, *var;
    double eps;
    T *to, *to_bias;
} folding;

/* W s and (b - mean) s + bias of one output channel */
static void fold_body(pn_call *call, void *arg, int64_t o, int worker) {
    const folding *f = arg;
    int64_t n = f->w->shape[1] * f->w->shape[2] * f->w->shape[3];
    const T *w = (const T *)f->w->data + o * n;
    double s = (f->weight ? (double)f->weight[o] : 1) / sqrt((double)f->var[o] + f->eps);
    double b = (f->b ? (double)f->b[o] : 0) - (double)f->mean[o];
    (void)call, (void)worker;
    for (int64_t k = 0; k < n; k++) f->to[o * n + k] = w[k] * (T)s;
    f->to_bias[o] = (T)(b * s + (f->bias ? (double)f->bias[o] : 0));
}

/* scratch: [W s | bias | that of the convolution] */
PN_FN(conv2d_norm_fwd) {
    kept *k = KEPT(conv2d_norm_fwd);
    char *scratch = ARG(conv2d_norm_fwd, scratch)->data;
    FORWARD(conv2d_norm_fwd);
    folding f = {.w = ARG(conv2d_norm_fwd, W),
                 .b = ARG(conv2d_norm_fwd, b)->data,
                 .weight = ARG(conv2d_norm_fwd, weight)->data,
                 .bias = ARG(conv2d_norm_fwd, bias)->data,
                 .mean = ARG(conv2d_norm_fwd, running_mean)->data,
                 .var = ARG(conv2d_norm_fwd, running_var)->data,
                 .eps = PAR(conv2d_norm_fwd, eps).f,
                 .to = (T *)scratch};
    scratch += bytes_of(pn_size(f.w));
    f.to_bias = (T *)scratch, scratch += bytes_of(form.co);
    if (!k || !form.y) pn_for(c, form.co, fold_body, &f);
    form.w = f.to, form.bias = k && form.y ? k->bias : f.to_bias;
    form.relu = PAR(conv2d_norm_fwd, relu).i != 0;
    form.residual = ARG(conv2d_norm_fwd, residual)->data;
    run_kept(c, &form, k, scratch);
}

PN_SCRATCH_FN(conv2d_norm_fwd) {
    FORWARD(conv2d_norm_fwd);
    if (IS_KEPT(conv2d_norm_fwd)) return kept_bytes(&form);
    return bytes_of(pn_size(ARG(conv2d_norm_fwd, W))) + bytes_of(form.co) + form_scratch(&form);
}

/* ---- the adjoints as ops ------------------------------------------------------------------------------ */

PN_FN(conv2d_by_data_fwd) {
    geometry g = GEOMETRY(conv2d_by_data_fwd);
    by_data(c, &g, ARG(conv2d_by_data_fwd, dy), ARG(conv2d_by_data_fwd, W),
            ARG(conv2d_by_data_fwd, b), ARG(conv2d_by_data_fwd, dx),
            ARG(conv2d_by_data_fwd, scratch)->data);
}

PN_SCRATCH_FN(conv2d_by_data_fwd) {
    geometry g = GEOMETRY(conv2d_by_data_fwd);
    return by_data_scratch(&g, ARG(conv2d_by_data_fwd, dy), ARG(conv2d_by_data_fwd, W),
                           ARG(conv2d_by_data_fwd, dx));
}

PN_FN(conv2d_by_weight_fwd) {
    geometry g = GEOMETRY(conv2d_by_weight_fwd);
    by_weights(c, &g, ARG(conv2d_by_weight_fwd, dy), ARG(conv2d_by_weight_fwd, x),
               ARG(conv2d_by_weight_fwd, dW), ARG(conv2d_by_weight_fwd, scratch)->data);
}

PN_SCRATCH_FN(conv2d_by_weight_fwd) {
    geometry g = GEOMETRY(conv2d_by_weight_fwd);
    return by_weights_scratch(&g, ARG(conv2d_by_weight_fwd, dy), ARG(conv2d_by_weight_fwd, x),
                              ARG(conv2d_by_weight_fwd, dW));
}

/* ---- backward ------------------------------------------------------------------------------------------- */

typedef struct grads {
    const pn_array *dy, *x, *w;
    pn_array *dx, *dw, *db;
} grads;

static int64_t pixels_of(const pn_array *x) { return x->shape[0] * x->shape[2] * x->shape[3]; }

static void run_grads(pn_call *c, const geometry *g, const grads *t, void *scratch) {
    if (t->dx->data) by_data(c, g, t->dy, t->w, NULL, t->dx, scratch);
    if (t->dw->data) by_weights(c, g, t->dy, t->x, t->dw, scratch);
    if (t->db->data)
        run_sums(c, t->dy->data, pixels_of(t->dy), t->dy->shape[1], t->db->data, scratch);
}

static int64_t grads_scratch(const geometry *g, const grads *t) {
    int64_t need = 0;
    if (t->dx->data) need = by_data_scratch(g, t->dy, t->w, t->dx);
    if (t->dw->data) need = pn_max(need, by_weights_scratch(g, t->dy, t->x, t->dw));
    if (t->db->data) need = pn_max(need, sums_scratch(pixels_of(t->dy), t->dy->shape[1]));
    return need;
}

#define GRADS(k) ((grads){ARG(k, dy), ARG(k, x), ARG(k, W), ARG(k, dx), ARG(k, dW), ARG(k, db)})

PN_FN(conv2d_bwd) {
    geometry g = GEOMETRY(conv2d_bwd);
    grads t = GRADS(conv2d_bwd);
    run_grads(c, &g, &t, ARG(conv2d_bwd, scratch)->data);
}

PN_SCRATCH_FN(conv2d_bwd) {
    geometry g = GEOMETRY(conv2d_bwd);
    grads t = GRADS(conv2d_bwd);
    return grads_scratch(&g, &t);
}

/* scratch: [dz | that of the products] */
PN_FN(conv2d_act_bwd) {
    geometry g = GEOMETRY(conv2d_act_bwd);
    grads t = GRADS(conv2d_act_bwd);
    char *scratch = ARG(conv2d_act_bwd, scratch)->data;
    pn_array arg[3] = {*t.dy, *ARG(conv2d_act_bwd, y), *t.dy};
    pn_call act = {.arg = arg, .par = c->par, .n_arg = 3};
    arg[2].data = scratch;
    pn_kernel_fn((int)PAR(conv2d_act_bwd, bwd).i, PN_DTYPE)(&act);
    t.dy = &arg[2];
    run_grads(c, &g, &t, scratch + bytes_of(pn_size(t.dy)));
}

PN_SCRATCH_FN(conv2d_act_bwd) {
    geometry g = GEOMETRY(conv2d_act_bwd);
    grads t = GRADS(conv2d_act_bwd);
    return bytes_of(pn_size(t.dy)) + grads_scratch(&g, &t);
}

#endif
