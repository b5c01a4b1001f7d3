/* elementwise.c: arithmetic, comparisons and the elementary functions, one line each.
 *
 *   y = f(a), y = f(a, b), y = f(a, b, c), element by element, on arrays of one shape
 *
 * Comparisons and logic store a bool; the integers' form computes in int64 and stores what it is
 * asked for. The derivatives are in pynn/ops/elementwise.py, written in these same ops; those of tanh and
 * sigmoid, activations, are also here.
 */
#include "pn_each.h"

#if PN_KIND != PN_any

#define ONE pn_set1(1)
#define ZERO pn_set1(0)
#define BOOL(mask) pn_select(mask, ONE, ZERO)

/* Integers wrap around, as NumPy's do: i64 is compiled with -fwrapv. */
PN_EACH(add_fwd, 2, 1, , y = a + b;)
PN_EACH(sub_fwd, 2, 1, , y = a - b;)
PN_EACH(mul_fwd, 2, 1, , y = a * b;)
PN_EACH(neg_fwd, 1, 1, , y = ZERO - a;)
PN_EACH(abs_fwd, 1, 1, , y = pn_abs(a);)
PN_EACH(sign_fwd, 1, 1, , y = pn_select(a > ZERO, ONE, pn_select(a < ZERO, ZERO - ONE, a));)
PN_EACH(maximum_fwd, 2, 1, , y = pn_vmax(a, b);)
PN_EACH(minimum_fwd, 2, 1, , y = pn_vmin(a, b);)
PN_EACH(where_fwd, 3, 1, , y = pn_select(a != ZERO, b, c);)

PN_EACH(eq_fwd, 2, 1, , y = BOOL(a == b);)
PN_EACH(ne_fwd, 2, 1, , y = BOOL(a != b);)
PN_EACH(lt_fwd, 2, 1, , y = BOOL(a < b);)
PN_EACH(le_fwd, 2, 1, , y = BOOL(a <= b);)
PN_EACH(gt_fwd, 2, 1, , y = BOOL(a > b);)
PN_EACH(ge_fwd, 2, 1, , y = BOOL(a >= b);)

#endif

#if PN_FLOAT

PN_EACH(div_fwd, 2, 1, , y = a / b;)
PN_EACH(sqrt_fwd, 1, 1, , y = pn_sqrt(a);)
PN_EACH(exp_fwd, 1, 1, , y = pn_exp(a);)
PN_EACH(expm1_fwd, 1, 1, , y = pn_expm1(a);)
PN_EACH(log_fwd, 1, 1, , y = pn_log(a);)
PN_EACH(log1p_fwd, 1, 1, , y = pn_log1p(a);)
PN_EACH(sin_fwd, 1, 1, , y = pn_sin(a);)
PN_EACH(cos_fwd, 1, 1, , y = pn_cos(a);)
PN_EACH(tanh_fwd, 1, 1, , y = pn_tanh(a);)
PN_EACH(tanh_bwd, 2, 1, , y = a * pn_fnma(b, b, ONE);)
PN_EACH(erf_fwd, 1, 1, , y = pn_erf(a);)
PN_EACH(sigmoid_fwd, 1, 1, , y = pn_sigmoid(a);)
PN_EACH(sigmoid_bwd, 2, 1, , y = a * (b * (ONE - b));)
PN_EACH(pow_fwd, 2, 1, , y = pn_pow(a, b);)
PN_EACH(floor_fwd, 1, 1, , y = pn_floor(a);)
PN_EACH(ceil_fwd, 1, 1, , y = pn_ceil(a);)
PN_EACH(round_fwd, 1, 1, , y = pn_round(a);)

/* y += a, in place */
static void accumulate_block(const void *const *in, void *const *out, int64_t n,
                             const pn_value *par, int stream);
PN_FN(accumulate_step) {
    pn_array arg[3] = {c->arg[0], c->arg[1], c->arg[1]};
    pn_call in_place = {.arg = arg, .par = c->par, .n_arg = 3};
    pn_each_run(&in_place, 2, 1, accumulate_block);
}
PN_EACH_BLOCK(accumulate, 2, 1, , y = b + a;)

#elif PN_KIND == PN_i64

/* logic: nonzero is true */
PN_EACH(logical_and_fwd, 2, 1, , y = a && b;)
PN_EACH(logical_or_fwd, 2, 1, , y = a || b;)
PN_EACH(logical_not_fwd, 1, 1, , y = !a;)

#endif
