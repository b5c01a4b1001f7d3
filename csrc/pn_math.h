/* pn_math.h: elementary functions of a V, for f32 and f64 at every ISA level.
 *
 *   pn_exp pn_exp_down pn_expm1 pn_log pn_log1p pn_tanh pn_sigmoid pn_erf pn_normal pn_softplus
 *   pn_sin pn_cos pn_pow
 *
 * Kernels run with subnormals flushed, and these functions agree to it: a subnormal argument counts
 * as zero of its sign, a subnormal result may be zero. Otherwise NaN gives NaN, overflow gives inf,
 * poles and domain errors are C's. Errors are in ULP of the exact result, the worst over the ISA
 * levels: for f32 over all arguments or every 13th, for f64 over 1e5. tests/c/test_math.c and
 * tests/c/ulp_f64.py measure them and fail above 4; tests/c/minimax.py computes the coefficients.
 * Nothing branches on a value but where it says so, and a lane's bits never depend on its
 * neighbours.
 */
#ifndef PN_MATH_H
#define PN_MATH_H

#include "pn_simd.h"

#if PN_FLOAT

/* c[0] + c[1] x + ... + c[n-1] x^(n-1), n >= 2 a constant: two Horner chains, of the even and of
 * the odd powers, which take half the time where a vector waits for itself. */
#define PN_POLY_OF(name, VEC, SCALAR, FMA, SET1)                                                   \
    PN_INLINE VEC name(VEC x, const SCALAR *c, int n) {                                            \
        VEC even = SET1(c[(n - 1) & ~1]), odd = SET1(c[(n - 2) | 1]), z = x * x;                   \
        PN_UNROLL                                                                                  \
        for (int i = ((n - 1) & ~1) - 2; i >= 0; i -= 2) even = FMA(even, z, SET1(c[i]));          \
        PN_UNROLL                                                                                  \
        for (int i = ((n - 2) | 1) - 2; i >= 1; i -= 2) odd = FMA(odd, z, SET1(c[i]));             \
        return FMA(odd, x, even);                                                                  \
    }
PN_POLY_OF(pn_poly_d, VD, double, pn_fma_d, pn_set1_d)
#define PN_POLY_D(x, ...)                                                                          \
    pn_poly_d(x, (const double[]){__VA_ARGS__},                                                    \
              sizeof((const double[]){__VA_ARGS__}) / sizeof(double))

#include "pn_math_f64.h" /* double lanes: functions of f64, and cores for those of f32 */
#if PN_KIND == PN_f32
#include "pn_math_f32.h"
#endif

/* softplus(x) = log(1 + e^x) = max(x, 0) + log1p(e^-|x|). f32 2.1, f64 1.6 ULP.
 * It never overflows and keeps relative accuracy as x -> -inf. (pn_max gives NaN for NaN.) */
PN_INLINE V pn_softplus(V x) { return pn_max(x, (V){0}) + pn_log1p_unit(pn_exp_down(-pn_abs(x))); }

#endif /* PN_FLOAT */
#endif
