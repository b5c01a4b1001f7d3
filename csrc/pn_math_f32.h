/* pn_math_f32.h: functions of float lanes. Included by pn_math.h only. */

PN_INLINE V pn_horner(V x, const float *c, int n) {
    V p = pn_set1(c[n - 1]);
#pragma GCC unroll 32
    for (int i = n - 2; i >= 0; i--) p = pn_fma(p, x, pn_set1(c[i]));
    return p;
}
#define PN_HORNER(x, ...) \
    pn_horner(x, (const float[]){__VA_ARGS__}, sizeof((const float[]){__VA_ARGS__}) / sizeof(float))

/* e^r - 1, x = k ln2 + r, |r| <= ln2/2; `bits` holds k + bias in its low bits.
 * k is rounded by adding 1.5 * 2^23 (+ bias), whose unit in the last place is 1. ln2 = hi + lo, hi with
 * 9 bits, so that k * hi is exact. e^r - 1 = r + r^2 q(r), deg q = 4, minimax: 2^-25.8. */
PN_INLINE V pn_exp_core(V x, float bias, VU *bits) {
    const float magic = 0x1.8p23f + bias;
    V kb = pn_fma(x, pn_set1(0x1.715476p+0f), pn_set1(magic));
    V k = kb - pn_set1(magic);
    V r = pn_fnma(k, pn_set1(0x1.63p-1f), x);
    r = pn_fnma(k, pn_set1(-0x1.bd0106p-13f), r);
    V q = PN_HORNER(r, 0x1.fffffep-2f, 0x1.5554bp-3f, 0x1.555674p-5f, 0x1.1227b2p-7f, 0x1.6bec0cp-10f);
    *bits = (VU)kb;
    return pn_fma(r * r, q, r);
}

/* e^x = 2^k e^r, scaled in two steps, as 2^k may overflow or underflow where e^x does not. Clamping to
 * [-104, 89] keeps k in range: beyond it e^x is 0 or inf. */
PN_INLINE V pn_exp(V x) {
    VU n; /* k + 254 */
    x = pn_clamp(x, pn_set1(-104), pn_set1(89));
    V p = pn_exp_core(x, 254, &n) + pn_set1(1);
    return p * (V)((n >> 1) << 23) * (V)((n - (n >> 1)) << 23);
}

/* e^x - 1 = 2 (s (e^r - 1) + (s - 1/2)), s = 2^(k-1): exact where k = 0, so that tiny x keeps its bits,
 * and s is finite where e^x is. Below -17.4 the result is -1. The sign is x's, -0 included. */
PN_INLINE V pn_expm1(V x) {
    VU n; /* k + 126 */
    V p = pn_exp_core(pn_clamp(x, pn_set1(-18), pn_set1(89)), 126, &n);
    V s = (V)(n << 23);
    V y = pn_fma(s, p, s - pn_set1(0.5f));
    return pn_copysign(y + y, x);
}

/* log(u + c), |c| a rounding error of u > 0, normal: u = 2^e m, m in [sqrt(1/2), sqrt 2),
 * f = m - 1 + c 2^-e: log(1 + f) = f - f^2/2 + f^3 p(f), deg p = 7, minimax: 2^-27. */
PN_INLINE V pn_log_core(V u, V c) {
    VI t = (VI)u - 0x3f3504f3;
    VI shift = t & (VI)pn_set1(-HUGE_VALF); /* e << 23 */
    V e = __builtin_convertvector(t >> 23, V);
    V f = (V)((VI)u - shift) - pn_set1(1);
    VI scale = 0x3f800000 - shift; /* 2^-e; c = 0 where that is out of range */
    f = f + c * (V)(scale & (VI)(c != 0));
    V z = f * f;
    V p = PN_HORNER(f, 0x1.555554p-2f, -0x1.000226p-2f, 0x1.99a008p-3f, -0x1.547244p-3f, 0x1.22da24p-3f,
                    -0x1.0d854cp-3f, 0x1.055b32p-3f, -0x1.38b4aep-4f);
    p = pn_fma(z * f, p, e * pn_set1(-0x1.bd0106p-13f));
    p = pn_fnma(z, pn_set1(0.5f), p);
    return pn_fma(e, pn_set1(0x1.63p-1f), f + p);
}

/* log x: -inf at 0, NaN below, inf at inf. */
PN_INLINE V pn_log(V x) {
    V y = pn_log_core(x, (V){0});
    y = pn_select(x < pn_set1(HUGE_VALF), y, x);
    y = pn_select(x < pn_set1(0x1p-126f), pn_set1(-HUGE_VALF), y);
    return pn_select(x < -pn_set1(0x1p-126f), pn_set1(NAN), y);
}

/* log(1 + x): u = 1 + x rounded, c = x - (u - 1) what the rounding lost, exactly. */
PN_INLINE V pn_log1p(V x) {
    V u = x + pn_set1(1), c = x - (u - pn_set1(1));
    V y = pn_log_core(u, c);
    y = pn_select(x < pn_set1(HUGE_VALF), y, x);
    y = pn_select(x <= pn_set1(-1), pn_set1(-HUGE_VALF), y);
    y = pn_select(x < pn_set1(-1), pn_set1(NAN), y);
    return pn_copysign(y, x);
}

/* tanh x = t / (t + 2), t = e^(2|x|) - 1; 1 to the last bit from |x| = 10 on. */
PN_INLINE V pn_tanh(V x) {
    VU n; /* k + 127 */
    V a = pn_min_b(pn_set1(20), pn_abs(x) + pn_abs(x));
    V p = pn_exp_core(a, 127, &n);
    V s = (V)(n << 23);
    V t = pn_fma(s, p, s - pn_set1(1));
    return pn_copysign(t / (t + pn_set1(2)), x);
}

/* sigmoid(x) = 1 / (1 + e^-x). Relative accuracy holds as x -> -inf, for the sum is then e^-x. */
PN_INLINE V pn_sigmoid(V x) { return pn_set1(1) / (pn_set1(1) + pn_exp(-x)); }

/* erf x = x p(x^2) / q(x^2), |x| <= 3.92, deg p = 6, deg q = 5, minimax: 2^-24; 1 beyond. All
 * coefficients are positive: nothing cancels. */
PN_INLINE V pn_erf(V x) {
    V a = pn_min_b(pn_set1(3.92f), pn_abs(x)), z = a * a;
    V p = PN_HORNER(z, 0x1.20dd74p+0f, 0x1.8f9f1ap-3f, 0x1.b237c8p-5f, 0x1.ff4346p-9f, 0x1.1c9dc4p-12f,
                    0x1.b4ee7ap-20f, 0x1.cc178cp-30f);
    V q = PN_HORNER(z, 1, 0x1.03348cp-1f, 0x1.da08ep-4f, 0x1.f266f2p-7f, 0x1.32bffp-10f, 0x1.1c857cp-15f);
    V y = pn_min_b(pn_set1(1), a * p / q);
    return pn_copysign(y, x);
}

PN_INLINE V pn_sin(V x) { return pn_map1(x, sinf); }
PN_INLINE V pn_cos(V x) { return pn_map1(x, cosf); }
PN_INLINE V pn_pow(V x, V y) {
    for (int i = 0; i < PN_VL; i++) x[i] = powf(x[i], y[i]);
    return x;
}
