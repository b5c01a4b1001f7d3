/* pn_math_f32.h: functions of float lanes. Included by pn_math.h only. */

PN_POLY_OF(pn_poly, V, float, pn_fma, pn_set1)
#define PN_POLY(x, ...)                                                                            \
    pn_poly(x, (const float[]){__VA_ARGS__}, sizeof((const float[]){__VA_ARGS__}) / sizeof(float))

/* e^r - 1 where x = k ln2 + r, |r| <= ln2/2; `bits` holds k + bias in its low bits. k is rounded by
 * adding 1.5 * 2^23 (+ bias), whose unit in the last place is 1. ln2 = hi + lo, hi with 9 bits, so
 * that k * hi is exact. e^r - 1 = r + r^2 q(r), deg q = 4, minimax: 2^-25.8. */
PN_INLINE V pn_exp_core(V x, float bias, VU *bits) {
    const float magic = 0x1.8p23f + bias;
    V kb = pn_fma(x, pn_set1(0x1.715476p+0f), pn_set1(magic));
    V k = kb - pn_set1(magic);
    V r = pn_fnma(k, pn_set1(0x1.63p-1f), x);
    r = pn_fnma(k, pn_set1(-0x1.bd0106p-13f), r);
    V q =
        PN_POLY(r, 0x1.fffffep-2f, 0x1.5554bp-3f, 0x1.555674p-5f, 0x1.1227b2p-7f, 0x1.6bec0cp-10f);
    *bits = (VU)kb;
    return pn_fma(r * r, q, r);
}

/* e^x = 2^k e^r. 1.1 ULP.
 * Scaled in two steps, 2^floor(k/2) and 2^ceil(k/2), as 2^k itself overflows or underflows near the
 * ends where e^x does not. Clamping to [-104, 89] keeps k in range: beyond it e^x is 0 or inf. */
PN_INLINE V pn_exp(V x) {
    VU n; /* k + 254 */
    x = pn_clamp(x, pn_set1(-104), pn_set1(89));
    V p = pn_exp_core(x, 254, &n) + pn_set1(1);
    return p * (V)((n >> 1) << 23) * (V)((n - (n >> 1)) << 23);
}

/* e^x for x <= 88 (or NaN), 0 from -88 down: one step of scaling suffices. 1.1 ULP. */
PN_INLINE V pn_exp_down(V x) {
    VU n; /* k + 127; k = -127 gives s = 0 */
    V p = pn_exp_core(pn_max_b(pn_set1(-88), x), 127, &n);
    V s = (V)(n << 23);
#ifdef PN_FUSED
    return pn_fma(s, p, s);
#else
    return s * (p + pn_set1(1)); /* s p alone could be flushed */
#endif
}

/* e^x - 1 = 2 (s (e^r - 1) + (s - 1/2)), s = 2^(k-1). 1.9 ULP.
 * s is finite wherever e^x is. Below -18 the result is -1. Tiny x is its own result: halved and
 * doubled it would be flushed. */
PN_INLINE V pn_expm1(V x) {
    VU n; /* k + 126 */
    V p = pn_exp_core(pn_clamp(x, pn_set1(-18), pn_set1(89)), 126, &n);
    V s = (V)(n << 23);
    V y = pn_fma(s, p, s - pn_set1(0.5f));
    return pn_select(pn_abs(x) < pn_set1(0x1p-30f), x, y + y);
}

/* u = 2^e m, m in [sqrt(1/2), sqrt 2), u > 0 and normal; gives m, e and the bits of e << 23. */
PN_INLINE V pn_log_split(V u, V *e, VI *shift) {
    VI t = (VI)u - 0x3f3504f3; /* sqrt(1/2): where m starts, so does the exponent field of t */
    *shift = t & ~0x7fffff;
    *e = __builtin_convertvector(t >> 23, V);
    return (V)((VI)u - *shift);
}

/* e ln2 + log(1 + f), f in [sqrt(1/2) - 1, sqrt 2 - 1]: log(1 + f) = f - f^2/2 + f^3 p(f),
 * deg p = 7, minimax: 2^-27. ln2 = hi + lo, hi with 9 bits: e * hi is exact. */
PN_INLINE V pn_log_sum(V e, V f) {
    V z = f * f;
    V p = PN_POLY(f, 0x1.555554p-2f, -0x1.000226p-2f, 0x1.99a008p-3f, -0x1.547244p-3f,
                  0x1.22da24p-3f, -0x1.0d854cp-3f, 0x1.055b32p-3f, -0x1.38b4aep-4f);
    p = pn_fma(z * f, p, e * pn_set1(-0x1.bd0106p-13f));
    p = pn_fnma(z, pn_set1(0.5f), p);
    return pn_fma(e, pn_set1(0x1.63p-1f), f + p);
}

/* log x = e ln2 + log m. 0.9 ULP. -inf at 0, NaN below, inf at inf. */
PN_INLINE V pn_log(V x) {
    V e;
    VI shift;
    V m = pn_log_split(x, &e, &shift);
    V y = pn_log_sum(e, m - pn_set1(1));
    y = pn_select(x < pn_set1(HUGE_VALF), y, x);
    y = pn_select(x < pn_set1(0x1p-126f), pn_set1(-HUGE_VALF), y);
    return pn_select(x <= pn_set1(-0x1p-126f), pn_set1(NAN), y);
}

/* log(1 + x), u = 1 + x rounded, c = x - (u - 1) what the rounding lost: f = m - 1 + 2^-e c.
 * 1.5 ULP. c is exact where it matters, below 2^24. 2^-e has no bits for it from e = 127 on; there
 * c = 0. */
PN_INLINE V pn_log1p(V x) {
    V u = x + pn_set1(1), c = x - (u - pn_set1(1)), e;
    VI shift;
    V m = pn_log_split(u, &e, &shift);
    V scale = (V)((0x3f800000 - shift) & (c != 0)); /* 2^-e */
    V y = pn_log_sum(e, pn_fma(c, scale, m - pn_set1(1)));
    y = pn_select(x < pn_set1(HUGE_VALF), y, x);
    y = pn_select(x <= pn_set1(-1), pn_set1(-HUGE_VALF), y);
    y = pn_select(x < pn_set1(-1), pn_set1(NAN), y);
    return pn_copysign(y, x); /* log1p(-0) = -0 */
}

/* log(1 + t), 0 <= t <= 1, without a split. With s = t / (2 + t), z = s^2 <= 1/9:
 * log(1 + t) = 2 atanh s = 2 s + s z R(z) = t - s (t - z R(z)), deg R = 3, minimax: 2^-27. */
PN_INLINE V pn_log1p_unit(V t) {
    V s = t / (t + pn_set1(2)), z = s * s;
    V r = PN_POLY(z, 0x1.555502p-1f, 0x1.99d22ep-2f, 0x1.1eba74p-2f, 0x1.1ee5b2p-2f);
    return pn_fnma(s, pn_fnma(z, r, t), t);
}

/* tanh x = t / (t + 2), t = e^(2|x|) - 1, by exp's parts so that tiny x stays itself. 2.7 ULP.
 * From |x| = 10 on the result is 1. */
PN_INLINE V pn_tanh(V x) {
    VU n; /* k + 127 */
    V a = pn_min_b(pn_set1(20), pn_abs(x + x));
    V p = pn_exp_core(a, 127, &n);
    V s = (V)(n << 23);
    V t = pn_fma(s, p, s - pn_set1(1));
    return pn_copysign(t / (t + pn_set1(2)), x);
}

/* sigmoid(x) = 1 / (1 + e^-x). 2.6 ULP. As x -> -inf the sum is e^-x: no cancellation. From -88 down
 * the result is subnormal. */
PN_INLINE V pn_sigmoid(V x) {
    return pn_set1(1) / (pn_set1(1) + pn_exp_down(pn_min_b(pn_set1(88), -x)));
}

/* erf |x| = 1 - e^-g, g = -log(erfc |x|) = |x| + |x| p(|x|), deg p = 8 on [0, 4], minimax: 2^-27 of
 * erf. 2.2 ULP. 1 - e^-g by exp's parts: nothing cancels. From 4 on it is 1. (|x| is scaled up,
 * and -g down, by 2^24: |x| p(|x|) of the smallest x must not be flushed.) */
PN_INLINE V pn_erf(V x) {
    VU n; /* k + 127 */
    V a = pn_min_b(pn_set1(4), pn_abs(x));
    V big = a * pn_set1(0x1p24f);
    V p = PN_POLY(a, 0x1.06eba8p-3f, 0x1.45f2fap-1f, 0x1.a4fa5ep-4f, -0x1.39cddcp-6f,
                  -0x1.503ed4p-13f, 0x1.b4fb06p-10f, -0x1.4bc32ep-11f, 0x1.ed5ba6p-14f,
                  -0x1.3686b8p-17f);
    p = pn_exp_core(pn_fma(big, p, big) * pn_set1(-0x1p-24f), 127, &n);
    V s = (V)(n << 23);
    return pn_copysign(pn_fma(s, p, s - pn_set1(1)), x);
}

/* The normal distribution's Phi(x) = 1/2 + x p(z)/q(z), z = x^2, deg p = deg q = 5 on [0, 5.6^2],
 * minimax: 2^-25.7 (absolute). Within 3.1 * 2^-24 of Phi: half of erf's work, for what needs no relative
 * accuracy as x -> -inf. From |x| = 5.5 on it is 0 or 1: there the quotient is 1/2 to the bit. */
PN_INLINE V pn_normal(V x) {
    const V end = pn_set1(0x1.60000ap+2f);
    x = pn_clamp(x, -end, end);
    V z = x * x;
    V p = PN_POLY(z, 0x1.98845p-2f, 0x1.199c66p-5f, 0x1.347ef4p-8f, 0x1.6c98b4p-13f,
                  0x1.aa94d6p-18f, 0x1.7c7398p-26f);
    V q = PN_POLY(z, 1, 0x1.02e706p-2f, 0x1.da2814p-6f, 0x1.f57ab2p-10f, 0x1.3b00f8p-14f,
                  0x1.3ccf72p-20f);
    return x * p / q + pn_set1(0.5f);
}

/* sin and cos by pn_sin_core_d; lanes beyond its range, and they alone, by libm in double: this
 * branches on values. */
PN_INLINE V pn_sincos(V x, uint64_t turn, double (*libm)(double)) {
    V y = pn_narrow(pn_sin_core_d(pn_widen_lo(x), turn), pn_sin_core_d(pn_widen_hi(x), turn));
    VI far = pn_abs(x) > pn_set1(PN_SIN_MAX);
    if (__builtin_expect(pn_any(far), 0))
        for (int i = 0; i < PN_VL; i++)
            if (far[i]) y[i] = (float)libm((double)x[i]);
    return y;
}

/* 0.6 ULP */
PN_INLINE V pn_sin(V x) { return pn_sincos(x, 0, sin); }
PN_INLINE V pn_cos(V x) { return pn_sincos(x, 1, cos); }

/* e^(y log x) in double lanes for floats x > 0, finite: pn_log_d's and pn_exp_d's methods with
 * shorter polynomials, deg R = 3: 2^-37, deg q = 5: 2^-34. An error of log x counts |y log x|
 * times, at most 104. */
PN_INLINE VD pn_pow_core_d(VD x, VD y) {
    VD e;
    VDU shift, n; /* n: k + 1023 */
    VD f = pn_log_split_d(x, &e, &shift) - pn_set1_d(1);
    VD s = f / (f + pn_set1_d(2)), z = s * s;
    VD r = PN_POLY_D(z, 0x1.555554fcda338p-1, 0x1.999a7c0272dc2p-2, 0x1.2438735e0fc33p-2,
                     0x1.e306330d2c40cp-3);
    VD l = pn_fma_d(e, pn_set1_d(0x1.62e42fefa39efp-1), pn_fnma_d(s, pn_fnma_d(z, r, f), f));
    r = pn_exp_split_d(pn_clamp_d(y * l, pn_set1_d(-110), pn_set1_d(90)), 1023, &n);
    VD q = PN_POLY_D(r, 0x1.000000430a929p-1, 0x1.555555992de48p-3, 0x1.5554800c448d9p-5,
                     0x1.11107b6480f35p-7, 0x1.6d96cb9df45bbp-10, 0x1.a1b9f7719089cp-13);
    return pn_fma_d(r * r, q, r + pn_set1_d(1)) * (VD)(n << 52);
}

/* x^y = e^(y log |x|) in double, with C's rules. 0.51 ULP.
 *   x^0 = 1^y = 1, NaN included; (-1)^+-inf = 1
 *   |x| = 0 or inf: 0 or inf, by the sign of y
 *   x < 0: NaN where y is not whole (x finite); odd y keep the sign of x */
PN_INLINE V pn_pow(V x, V y) {
    V ax = pn_abs(x), one = pn_set1(1), inf = pn_set1(HUGE_VALF), zero = {0};
    V r = pn_narrow(pn_pow_core_d(pn_widen_lo(ax), pn_widen_lo(y)),
                    pn_pow_core_d(pn_widen_hi(ax), pn_widen_hi(y)));
    V half = y * pn_set1(0.5f);
    VI whole = pn_trunc(y) == y, odd = whole & (pn_trunc(half) != half);
    VI null = ax == zero, grows = (y > zero) ^ null;
    r = pn_select(null | (ax == inf), (V)((VI)inf & grows), r);
    r = pn_select(ax == one, one, r);
    r = (V)((VI)r | (odd & (VI)x & pn_signs()));
    r = pn_select((x != x) | (y != y) | ((x < zero) & (ax < inf) & ~whole), pn_set1(NAN), r);
    return pn_select((x == one) | (y == zero), one, r);
}
