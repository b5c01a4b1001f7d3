/* activation.c: activations, element by element, each with its backward below it.
 *
 *   y = f(x), dx = dy f'(x), on arrays of one shape and any strides
 *
 * A backward reads x, or y where y tells as much and is needed later anyway (relu, hardtanh). At a kink the
 * derivative is PyTorch's choice, and a NaN of x stays one in y. No infinity is subtracted from an
 * infinity: exponentials are taken of -|x|, or of x cut off where the result no longer depends on it.
 */
#include "pn_each.h"

#if PN_FLOAT

#define ZERO pn_set1(0)
#define ONE pn_set1(1)
#define SET(name, kernel, p) V name = pn_set1((T)par[PNP_##kernel##_##p].f);

/* max(0, x) */
PN_EACH(relu_fwd, 1, 1, , y = pn_select(a <= ZERO, ZERO, a);)
PN_EACH(relu_bwd, 2, 1, , y = pn_select(b <= ZERO, ZERO, a);)

/* x, or s x below 0 */
PN_EACH(leaky_relu_fwd, 1, 1, SET(s, leaky_relu_fwd, negative_slope),
        y = pn_select(a > ZERO, a, s *a);)
PN_EACH(leaky_relu_bwd, 2, 1, SET(s, leaky_relu_bwd, negative_slope),
        y = pn_select(b > ZERO, a, s *a);)

/* the same with a weight that is learned */
PN_EACH(prelu_fwd, 2, 1, , y = pn_select(a > ZERO, a, b *a);)
PN_EACH(prelu_bwd, 3, 2, , y = pn_select(b > ZERO, a, c *a); z = pn_select(b > ZERO, ZERO, b *a);)

/* x cut off at lo and hi */
#define BOUNDS(kernel) SET(lo, kernel, min_val) SET(hi, kernel, max_val)
PN_EACH(hardtanh_fwd, 1, 1, BOUNDS(hardtanh_fwd), y = pn_clamp(a, lo, hi);)
PN_EACH(hardtanh_bwd, 2, 1, BOUNDS(hardtanh_bwd), y = pn_select((b <= lo) | (b >= hi), ZERO, a);)

/* x Φ(x), Φ(x) = (1 + erf(x/√2))/2;  f' = Φ + x e^(-x²/2)/√(2π) */
PN_EACH(gelu_fwd, 1, 1, , y = a * pn_normal(a);)
PN_EACH(gelu_bwd, 2, 1, ,
        V density = pn_set1((T)0.39894228040143267794) * pn_exp_down(pn_set1((T)-0.5) * b * b);
        y = a * pn_fma(b, density, pn_normal(b));)

/* x s, s = (1 + tanh u)/2 = σ(2u), u = √(2/π)(x + 0.044715 x³);  f' = s + x s (1 - s) 2u'.
 * Beyond 16 the last term is 0, and cutting it off there keeps u' finite. */
#define TWO_U(x, k) (k * (x) * pn_fma(pn_set1((T)0.044715) * (x), (x), ONE))
#define K pn_set1((T)1.59576912160573071176)
PN_EACH(gelu_tanh_fwd, 1, 1, , y = a * pn_sigmoid(TWO_U(a, K));)
PN_EACH(gelu_tanh_bwd, 2, 1, , V s = pn_sigmoid(TWO_U(b, K));
        V x = pn_clamp(b, pn_set1(-16), pn_set1(16));
        V slope = K * pn_fma(pn_set1((T)0.134145) * x, x, ONE);
        y = a * pn_fma(x * slope, s *(ONE - s), s);)

/* x σ(x);  f' = σ (1 + x (1 - σ)) */
PN_EACH(silu_fwd, 1, 1, , y = a * pn_sigmoid(a);)
PN_EACH(silu_bwd, 2, 1, , V s = pn_sigmoid(b); y = a * s * pn_fma(b, ONE - s, ONE);)

/* k x, or k α (e^x - 1) below 0: elu with k = 1, selu with its own two constants */
#define ALPHA(kernel) SET(alpha, kernel, alpha) SET(k, kernel, scale)
PN_EACH(elu_fwd, 1, 1, ALPHA(elu_fwd), y = k * pn_select(a > ZERO, a, alpha *pn_expm1(a));)
PN_EACH(elu_bwd, 2, 1, ALPHA(elu_bwd), y = k * a * pn_select(b > ZERO, ONE, alpha *pn_exp_down(b));)

/* log(1 + e^(βx))/β, x where βx > threshold;  f' = σ(βx) */
#define BETA(kernel) SET(beta, kernel, beta) SET(top, kernel, threshold)
PN_EACH(softplus_fwd, 1, 1, BETA(softplus_fwd), V u = beta * a;
        y = pn_select(u > top, a, pn_softplus(u) / beta);)
PN_EACH(softplus_bwd, 2, 1, BETA(softplus_bwd), V u = beta * b;
        y = pn_select(u > top, a, a *pn_sigmoid(u));)

/* log σ(x) = -softplus(-x);  f' = σ(-x) */
PN_EACH(logsigmoid_fwd, 1, 1, , y = -pn_softplus(-a);)
PN_EACH(logsigmoid_bwd, 2, 1, , y = a * pn_sigmoid(-b);)

/* x h, h = min(max(x + 3, 0), 6)/6;  f' = x/3 + 1/2 between -3 and 3 */
#define SIXTH pn_set1((T)(1.0 / 6.0))
#define INNER(x) (pn_clamp((x) + pn_set1(3), ZERO, pn_set1(6)) * SIXTH)
PN_EACH(hardsigmoid_fwd, 1, 1, , y = INNER(a);)
PN_EACH(hardsigmoid_bwd, 2, 1, , y = pn_select(pn_abs(b) < pn_set1(3), a *SIXTH, ZERO);)
PN_EACH(hardswish_fwd, 1, 1, , y = a * INNER(a);)
PN_EACH(hardswish_bwd, 2, 1, , V slope = pn_fma(b, pn_set1((T)(1.0 / 3.0)), pn_set1((T)0.5));
        slope = pn_select(b >= pn_set1(3), ONE, pn_select(b <= pn_set1(-3), ZERO, slope));
        y = a * slope;)

/* x t, t = tanh(log(1 + e^x)) = q/(q + 2), q = e^x (e^x + 2);  f' = t + x 4 e^x (1 + e^x)/(q + 2)².
 * At x = 20, t is 1 to the last bit: e^x is cut off there. */
PN_EACH(mish_fwd, 1, 1, , V e = pn_exp_down(pn_min_b(pn_set1(20), a)); V q = e * (e + pn_set1(2));
        y = a * (q / (q + pn_set1(2)));)
PN_EACH(mish_bwd, 2, 1, , V x = pn_min_b(pn_set1(20), b); V e = pn_exp_down(x);
        V q = e * (e + pn_set1(2)); V r = ONE / (q + pn_set1(2));
        y = a * pn_fma(x, pn_set1(4) * e * (ONE + e) * r * r, q *r);)

#endif
