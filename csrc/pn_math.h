/* pn_math.h: elementary functions of a V, for f32 and f64 at every ISA level.
 *
 *   pn_exp pn_expm1 pn_log pn_log1p pn_tanh pn_sigmoid pn_erf pn_softplus pn_sin pn_cos pn_pow
 *
 * Kernels run with subnormals flushed, and these functions agree to it: a subnormal argument counts as
 * zero of its sign, a subnormal result may be zero. Otherwise NaN gives NaN, overflow gives inf, poles
 * and domain errors are C's. Errors are in ULP of the exact result, the worst over the ISA levels;
 * tests/c/test_math.c and tests/c/ulp_f64.py measure them and fail above 4. tests/c/minimax.py computes
 * the coefficients. Nothing here branches on a value but where it says so, and a lane's bits never
 * depend on its neighbours.
 */
#ifndef PN_MATH_H
#define PN_MATH_H

#include "pn_simd.h"

#if PN_FLOAT

/* a polynomial c[0] + c[1] x + ... + c[n-1] x^(n-1) by Horner's rule; n is a constant */
PN_INLINE VD pn_horner_d(VD x, const double *c, int n) {
    VD p = pn_set1_d(c[n - 1]);
#pragma GCC unroll 32
    for (int i = n - 2; i >= 0; i--) p = pn_fma_d(p, x, pn_set1_d(c[i]));
    return p;
}
#define PN_HORNER_D(x, ...) \
    pn_horner_d(x, (const double[]){__VA_ARGS__}, sizeof((const double[]){__VA_ARGS__}) / sizeof(double))

/* f per lane, by the scalar of libm */
typedef T (*pn_libm1)(T);
PN_INLINE V pn_map1(V x, pn_libm1 f) {
    for (int i = 0; i < PN_VL; i++) x[i] = f(x[i]);
    return x;
}

#include "pn_math_f64.h" /* double lanes: functions of f64, and cores for those of f32 */
#if PN_KIND == PN_f32
#include "pn_math_f32.h"
#endif

/* softplus(x) = log(1 + e^x) = max(x, 0) + log1p(e^-|x|): never overflows, keeps relative accuracy
 * as x -> -inf. (pn_max gives NaN for NaN.) */
PN_INLINE V pn_softplus(V x) {
    V m = pn_max(x, (V){0});
    return m + pn_log1p(pn_exp(-pn_abs(x)));
}

#endif /* PN_FLOAT */
#endif
