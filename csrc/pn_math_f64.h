/* pn_math_f64.h: functions of double lanes. Included by pn_math.h only. Names in _d
 * serve f32 too. */

/* x = k ln2 + r, |r| <= ln2/2; gives r, and `bits` that hold k + bias in their low bits. k is
 * rounded by adding 1.5 * 2^52 (+ bias), whose unit in the last place is 1. ln2 = hi + lo, hi with
 * 32 bits, so that k * hi is exact. */
PN_INLINE VD pn_exp_split_d(VD x, double bias, VDU *bits) {
    const double magic = 0x1.8p52 + bias;
    VD kb = pn_fma_d(x, pn_set1_d(0x1.71547652b82fep+0), pn_set1_d(magic));
    VD k = kb - pn_set1_d(magic);
    *bits = (VDU)kb;
    VD r = pn_fnma_d(k, pn_set1_d(0x1.62e42feep-1), x);
    return pn_fnma_d(k, pn_set1_d(0x1.a39ef35793c76p-33), r);
}

/* e^r - 1 = r + r^2 q(r), deg q = 10, minimax: 2^-60, where x = k ln2 + r as above. */
PN_INLINE VD pn_exp_core_d(VD x, double bias, VDU *bits) {
    VD r = pn_exp_split_d(x, bias, bits);
    VD q = PN_POLY_D(r, 0.5, 0x1.5555555555559p-3, 0x1.555555555553fp-5, 0x1.111111110f6c4p-7,
                     0x1.6c16c16c1f0b9p-10, 0x1.a01a01afdde69p-13, 0x1.a01a017bbce39p-16,
                     0x1.71ddf862ec994p-19, 0x1.27e53629c375cp-22, 0x1.af5ea99efcb3cp-26,
                     0x1.1ee8af16442afp-29);
    return pn_fma_d(r * r, q, r);
}

/* e^x = 2^k e^r. 1.0 ULP.
 * Scaled in two steps, 2^floor(k/2) and 2^ceil(k/2), as 2^k itself overflows or underflows near the
 * ends where e^x does not. Clamping to [-746, 710] keeps k in range: beyond it e^x is 0 or inf. */
PN_INLINE VD pn_exp_d(VD x) {
    VDU n; /* k + 2046 */
    x = pn_clamp_d(x, pn_set1_d(-746), pn_set1_d(710));
    VD p = pn_exp_core_d(x, 2046, &n) + pn_set1_d(1);
    return p * (VD)((n >> 1) << 52) * (VD)((n - (n >> 1)) << 52);
}

/* e^x for x <= 709 (or NaN), 0 from -709 down: one step of scaling suffices. 1.0 ULP. */
PN_INLINE VD pn_exp_down_d(VD x) {
    VDU n; /* k + 1023; k = -1023 gives s = 0 */
    VD low = pn_set1_d(-709);
    VD p = pn_exp_core_d(pn_select_d(x < low, low, x), 1023, &n);
    VD s = (VD)(n << 52);
#ifdef PN_FUSED
    return pn_fma_d(s, p, s);
#else
    return s * (p + pn_set1_d(1)); /* s p alone could be flushed */
#endif
}

/* u = 2^e m, m in [sqrt(1/2), sqrt 2), u > 0 and normal; gives m, e and the bits of e << 52. */
PN_INLINE VD pn_log_split_d(VD u, VD *e, VDU *shift) {
    VDU t = (VDU)u - 0x3fe6a09e667f3bcdu; /* sqrt(1/2): where m starts, so does the exponent of t */
    VDU eb = (t + 0x4000000000000000u) >> 52; /* e + 1024, made a double by the bits of 2^52 */
    *shift = t & 0xfff0000000000000u;
    *e = (VD)(eb | 0x4330000000000000u) - pn_set1_d(0x1p52 + 1024);
    return (VD)((VDU)u - *shift);
}

/* e ln2 + log(1 + f), f in [sqrt(1/2) - 1, sqrt 2 - 1]. With s = f / (2 + f), z = s^2:
 * log(1 + f) = 2 atanh s = 2 s + s z R(z) = f - s (f - z R(z)), deg R = 6, minimax: 2^-58.
 * ln2 = hi + lo, hi with 32 bits: e * hi is exact. */
PN_INLINE VD pn_log_sum_d(VD e, VD f) {
    VD s = f / (f + pn_set1_d(2)), z = s * s;
    VD r = z * PN_POLY_D(z, 0x1.5555555555593p-1, 0x1.999999997f852p-2, 0x1.2492494243769p-2,
                         0x1.c71c51c1ee05ep-3, 0x1.74664e71d41b3p-3, 0x1.39a0142ba337fp-3,
                         0x1.2f16d61c624f4p-3);
    VD g = pn_fnma_d(e, pn_set1_d(0x1.a39ef35793c76p-33), s * (f - r));
    return pn_fma_d(e, pn_set1_d(0x1.62e42feep-1), f - g);
}

/* log x = e ln2 + log m. 0.9 ULP. -inf at 0, NaN below, inf at inf. */
PN_INLINE VD pn_log_d(VD x) {
    VD e;
    VDU shift;
    VD m = pn_log_split_d(x, &e, &shift);
    VD y = pn_log_sum_d(e, m - pn_set1_d(1));
    y = pn_select_d(x < pn_set1_d(HUGE_VAL), y, x);
    y = pn_select_d(x < pn_set1_d(0x1p-1022), pn_set1_d(-HUGE_VAL), y);
    return pn_select_d(x <= pn_set1_d(-0x1p-1022), pn_set1_d(NAN), y);
}

/* Quadrant q of an angle, from bits whose low two are q: sin r, cos r, -sin r, -cos r. */
PN_INLINE VD pn_quadrant_d(VDU q, VD sine, VD cosine) {
    VD y = pn_select_d((VDI)((q & 1) != 0), cosine, sine);
    return (VD)((VDU)y ^ ((q & 2) << 62));
}

#if PN_KIND == PN_f32

#define PN_SIN_MAX 0x1p20f

/* sin(x + turn pi/2) of floats, |x| <= 2^20: x = k pi/2 + r, |r| <= pi/4, r to within 2^-60 in two
 * steps: the first part of pi/2 has 32 bits, so that k times it is exact. sin r = r + r z s(z),
 * deg s = 2, minimax: 2^-28; cos r = 1 - z/2 + z^2 c(z), deg c = 2: 2^-33; z = r^2. */
PN_INLINE VD pn_sin_core_d(VD x, uint64_t turn) {
    VD kb = pn_fma_d(x, pn_set1_d(0x1.45f306dc9c883p-1), pn_set1_d(0x1.8p52));
    VD k = kb - pn_set1_d(0x1.8p52);
    VD r = pn_fnma_d(k, pn_set1_d(0x1.921fb544p+0), x);
    r = pn_fnma_d(k, pn_set1_d(0x1.0b4611a626331p-34), r);
    VD z = r * r;
    VD s = PN_POLY_D(z, 1, -0x1.555545972955bp-3, 0x1.11075f5f55265p-7, -0x1.994e5c8d90e49p-13);
    VD c =
        PN_POLY_D(z, 1, -0.5, 0x1.55554ab2f714fp-5, -0x1.6c0c8b061bdb1p-10, 0x1.9a022152367fep-16);
    return pn_quadrant_d((VDU)kb + turn, r * s, c);
}

#else

PN_INLINE V pn_exp(V x) { return pn_exp_d(x); }
PN_INLINE V pn_exp_down(V x) { return pn_exp_down_d(x); }
PN_INLINE V pn_log(V x) { return pn_log_d(x); }

/* e^x - 1 = 2 (s (e^r - 1) + (s - 1/2)), s = 2^(k-1). 1.6 ULP.
 * s is finite wherever e^x is. Below -38 the result is -1. Tiny x is its own result: halved and
 * doubled it would be flushed. */
PN_INLINE V pn_expm1(V x) {
    VU n; /* k + 1022 */
    V p = pn_exp_core_d(pn_clamp(x, pn_set1(-38), pn_set1(710)), 1022, &n);
    V s = (V)(n << 52);
    V y = pn_fma(s, p, s - pn_set1(0.5));
    return pn_select(pn_abs(x) < pn_set1(0x1p-60), x, y + y);
}

/* log(1 + x), u = 1 + x rounded, c = x - (u - 1) what the rounding lost: f = m - 1 + 2^-e c.
 * 1.2 ULP. c is exact where it matters, below 2^53. 2^-e has no bits for it from e = 1023 on;
 * there c = 0. */
PN_INLINE V pn_log1p(V x) {
    V u = x + pn_set1(1), c = x - (u - pn_set1(1)), e;
    VU shift;
    V m = pn_log_split_d(u, &e, &shift);
    V scale = (V)((0x3ff0000000000000u - shift) & (VU)(c != 0)); /* 2^-e */
    V y = pn_log_sum_d(e, pn_fma(c, scale, m - pn_set1(1)));
    y = pn_select(x < pn_set1(HUGE_VAL), y, x);
    y = pn_select(x <= pn_set1(-1), pn_set1(-HUGE_VAL), y);
    y = pn_select(x < pn_set1(-1), pn_set1(NAN), y);
    return pn_copysign(y, x); /* log1p(-0) = -0 */
}

/* log(1 + t), 0 <= t <= 1, without a split. With s = t / (2 + t), z = s^2 <= 1/9:
 * log(1 + t) = 2 atanh s = 2 s + s z R(z) = t - s (t - z R(z)), deg R = 9, minimax: 2^-59. */
PN_INLINE V pn_log1p_unit(V t) {
    V s = t / (t + pn_set1(2)), z = s * s;
    V r = PN_POLY_D(z, 0x1.5555555555535p-1, 0x1.99999999a079ep-2, 0x1.2492492089d26p-2,
                    0x1.c71c741dbae89p-3, 0x1.745cb3d14893cp-3, 0x1.3b1ddf79d43dap-3,
                    0x1.10678e70a4526p-3, 0x1.efdbc7f98225p-4, 0x1.55a1585236769p-4,
                    0x1.5c87ea50146bep-3);
    return pn_fnma(s, pn_fnma(z, r, t), t);
}

/* tanh x = t / (t + 2), t = e^(2|x|) - 1, by exp's parts so that tiny x stays itself. 2.0 ULP.
 * From |x| = 20 on the result is 1. */
PN_INLINE V pn_tanh(V x) {
    VU n; /* k + 1023 */
    V a = pn_min_b(pn_set1(40), pn_abs(x + x));
    V p = pn_exp_core_d(a, 1023, &n);
    V s = (V)(n << 52);
    V t = pn_fma(s, p, s - pn_set1(1));
    return pn_copysign(t / (t + pn_set1(2)), x);
}

/* sigmoid(x) = 1 / (1 + e^-x). 1.9 ULP. As x -> -inf the sum is e^-x: no cancellation. From -709
 * down the result is subnormal. */
PN_INLINE V pn_sigmoid(V x) {
    return pn_set1(1) / (pn_set1(1) + pn_exp_down(pn_min_b(pn_set1(709), -x)));
}

/* erf |x| = 1 - e^-g, g = -log(erfc |x|) = |x| + |x| p(|x|), deg p = 24 on [0, 6], minimax: 2^-56
 * of erf. 1.5 ULP. 1 - e^-g by exp's parts: nothing cancels. From 6 on it is 1. (|x| is scaled up,
 * and -g down, by 2^64: |x| p(|x|) of the smallest x must not be flushed.) */
PN_INLINE V pn_erf(V x) {
    VU n; /* k + 1023 */
    V a = pn_min_b(pn_set1(6), pn_abs(x));
    V big = a * pn_set1(0x1p64);
    V p = PN_POLY_D(a, 0x1.06eba8214db68p-3, 0x1.45f306dc9c897p-1, 0x1.a4f4e2a1b207bp-4,
                    -0x1.39668593d7ceap-6, -0x1.b6b68bee486bp-13, 0x1.bca67bd0dd181p-10,
                    -0x1.35654f991cbcfp-11, 0x1.b22bc1d0008f7p-16, 0x1.0e7f9c2067cbfp-14,
                    -0x1.f2afd234ee301p-16, 0x1.c950f7b7ac3e3p-19, 0x1.7c8660f018cf9p-19,
                    -0x1.d37d9bc026d12p-20, 0x1.692937bcb981ep-22, 0x1.269b1f77fb473p-23,
                    -0x1.306fa41226b35p-23, 0x1.1a53a3f6fab01p-24, -0x1.6823d4ba7816bp-26,
                    0x1.5771a64e55acfp-28, -0x1.f34ec2838bbb1p-31, 0x1.12885bbe95a69p-33,
                    -0x1.bbb7f9b7cddbfp-37, 0x1.f1f92c4e77206p-41, -0x1.5ad5ab8df6c8bp-45,
                    0x1.c3a047cb851f3p-51);
    p = pn_exp_core_d(pn_fma(big, p, big) * pn_set1(-0x1p-64), 1023, &n);
    V s = (V)(n << 52);
    return pn_copysign(pn_fma(s, p, s - pn_set1(1)), x);
}

/* The normal distribution's Phi(x) = (1 + erf(x/sqrt 2))/2, to 2^-52 (absolute). */
PN_INLINE V pn_normal(V x) {
    return pn_set1(0.5) * (pn_set1(1) + pn_erf(x * pn_set1(0x1.6a09e667f3bcdp-1)));
}

#define PN_SIN_MAX 0x1p19

/* a + b = sum + *err, exactly (Knuth). */
PN_INLINE V pn_two_sum(V a, V b, V *err) {
    V sum = a + b, bb = sum - a;
    *err = (a - (sum - bb)) + (b - bb);
    return sum;
}

/* sin(x + turn pi/2), |x| <= 2^19: x = k pi/2 + r + lo, |r| <= pi/4. pi/2 in four parts, the first
 * three of 32 bits, so that k times each is exact: their differences are kept exactly in two
 * numbers, for r may cancel to 2^-60. With z = r^2, sin r = r + r z s(z) and
 * cos r = 1 - z/2 + z^2 c(z), both of degree 5, minimax: 2^-57; lo counts to first order. */
PN_INLINE V pn_sin_core(V x, uint64_t turn) {
    V kb = pn_fma(x, pn_set1(0x1.45f306dc9c883p-1), pn_set1(0x1.8p52)), lo2, lo3;
    V k = kb - pn_set1(0x1.8p52);
    V r = pn_fnma(k, pn_set1(0x1.921fb544p+0), x);
    r = pn_two_sum(r, k * pn_set1(-0x1.0b4611a6p-34), &lo2);
    r = pn_two_sum(r, k * pn_set1(-0x1.3198a2ep-69), &lo3);
    V lo = pn_fnma(k, pn_set1(0x1.b839a252049c1p-104), lo2 + lo3);
    V r1 = r + lo; /* after cancellation lo may exceed r's last place */
    lo = lo - (r1 - r);
    r = r1;
    V z = r * r, h = z * pn_set1(0.5), one = pn_set1(1);
    V s = PN_POLY_D(z, -0x1.5555555555549p-3, 0x1.111111110f87ap-7, -0x1.a01a019c119a1p-13,
                    0x1.71de3577b6efdp-19, -0x1.ae5e663ad021cp-26, 0x1.5d930112c599fp-33);
    V c = PN_POLY_D(z, 0x1.555555555554cp-5, -0x1.6c16c16c1517dp-10, 0x1.a01a019cb1ba3p-16,
                    -0x1.27e4f809edf73p-22, 0x1.1ee9ebe74311bp-29, -0x1.8fae9b6a67adfp-37);
    V sine = r + pn_fma(z * r, s, lo * (one - h));
    V w = one - h, cosine = w + (((one - w) - h) + pn_fma(z * z, c, -(r * lo)));
    return pn_quadrant_d((VU)kb + turn, sine, cosine);
}

/* Lanes beyond the range, and they alone, by libm: this branches on values. */
PN_INLINE V pn_sincos(V x, uint64_t turn, double (*libm)(double)) {
    V y = pn_sin_core(x, turn);
    VI far = pn_abs(x) > pn_set1(PN_SIN_MAX);
    if (__builtin_expect(pn_any(far), 0))
        for (int i = 0; i < PN_VL; i++)
            if (far[i]) y[i] = libm(x[i]);
    return y;
}

/* Tiny x is its own sine, -0 too. 0.8 ULP. */
PN_INLINE V pn_sin(V x) { return pn_select(pn_abs(x) < pn_set1(0x1p-30), x, pn_sincos(x, 0, sin)); }

/* 0.8 ULP. */
PN_INLINE V pn_cos(V x) { return pn_sincos(x, 1, cos); }

/* x^y by libm, lane by lane, as y log x would need log x to 64 bits. 0.51 ULP with glibc.
 * Subnormals are made zeros here, as libm may read their bits. */
PN_INLINE V pn_pow(V x, V y) {
    V least = pn_set1(0x1p-1022);
    x = pn_select(pn_abs(x) < least, pn_copysign((V){0}, x), x);
    y = pn_select(pn_abs(y) < least, (V){0}, y);
    for (int i = 0; i < PN_VL; i++) x[i] = pow(x[i], y[i]);
    return x;
}

#endif
