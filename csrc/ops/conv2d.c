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
 */
#include "pn_conv_lanes.h"
#include "pn_conv_scatter.h"
#include "pn_winograd.h"

#if PN_FLOAT

/* ---- the three products ------------------------------------------------------------------------------- */

/* Scratch suffices for either algorithm, as the precision may be set between its being sized and the call. */
static void run_form(pn_call *c, const conv *form, void *scratch) {
    if (is_depthwise(form))
        run_lanes(c, form, scratch);
    else if (suits_winograd(form) && !pn_exact())
        run_winograd(c, form, scratch);
    else
        run_direct(c, form, scratch);
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

/* ---- forward -------------------------------------------------------------------------------------------- */

PN_FN(conv2d_fwd) {
    geometry g = GEOMETRY(conv2d_fwd);
    conv form = forward_of(&g, ARG(conv2d_fwd, x), ARG(conv2d_fwd, W), ARG(conv2d_fwd, y));
    form.bias = ARG(conv2d_fwd, b)->data;
    run_form(c, &form, ARG(conv2d_fwd, scratch)->data);
}

PN_SCRATCH_FN(conv2d_fwd) {
    geometry g = GEOMETRY(conv2d_fwd);
    conv form = forward_of(&g, ARG(conv2d_fwd, x), ARG(conv2d_fwd, W), ARG(conv2d_fwd, y));
    return form_scratch(&form);
}

void PN_NAME(relu_fwd)(pn_call *c); /* of activation.c: the tiles have it in their epilogue */

PN_FN(conv2d_act_fwd) {
    pn_array *y = ARG(conv2d_act_fwd, y), arg[2] = {*y, *y};
    pn_call act = {.arg = arg, .par = c->par, .n_arg = 2};
    pn_fn fn = pn_kernel_fn((int)PAR(conv2d_act_fwd, fwd).i, PN_DTYPE);
    geometry g = GEOMETRY(conv2d_act_fwd);
    conv form = forward_of(&g, ARG(conv2d_act_fwd, x), ARG(conv2d_act_fwd, W), y);
    form.bias = ARG(conv2d_act_fwd, b)->data;
    form.relu = fn == PN_NAME(relu_fwd);
    run_form(c, &form, ARG(conv2d_act_fwd, scratch)->data);
    if (!form.relu) fn(&act);
}

PN_SCRATCH_FN(conv2d_act_fwd) {
    geometry g = GEOMETRY(conv2d_act_fwd);
    conv form =
        forward_of(&g, ARG(conv2d_act_fwd, x), ARG(conv2d_act_fwd, W), ARG(conv2d_act_fwd, y));
    return form_scratch(&form);
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
