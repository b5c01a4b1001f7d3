/* pn_math_f64.h: functions of double lanes. Included by pn_math.h only. */

/* e^r - 1 and the scale: x = k ln2 + r, |r| <= ln2/2. `bits` holds k + bias in its low bits.
 *
 * k is rounded by adding 1.5 * 2^52 (+ bias), whose unit in the last place is 1. ln2 = hi + lo, hi with
 * 32 bits, so that k * hi is exact. e^r - 1 = r + r^2 q(r), deg q = 9, minimax: 2^-54. */
PN_INLINE VD pn_exp_core_d(VD x, double bias, VDU *bits) {
    const double magic = 0x1.8p52 + bias;
    VD kb = pn_fma_d(x, pn_set1_d(0x1.71547652b82fep+0), pn_set1_d(magic));
    VD k = kb - pn_set1_d(magic);
    VD r = pn_fnma_d(k, pn_set1_d(0x1.62e42feep-1), x);
    r = pn_fnma_d(k, pn_set1_d(0x1.a39ef35793c76p-33), r);
    VD q = PN_HORNER_D(r, 0x1.0000000000005p-1, 0x1.5555555555539p-3, 0x1.555555555228fp-5,
                       0x1.111111111901bp-7, 0x1.6c16c17ee72b3p-10, 0x1.a01a0174f8eccp-13,
                       0x1.a019a74a5177bp-16, 0x1.71de882835407p-19, 0x1.28a206bafbc6ep-22,
                       0x1.ae6ba83fee96cp-26);
    *bits = (VDU)kb;
    return pn_fma_d(r * r, q, r);
}

/* e^x = 2^k e^r, scaled in two steps, 2^floor(k/2) and 2^ceil(k/2), as 2^k itself may overflow or
 * underflow where e^x does not. Clamping to [-746, 710] keeps k in range: beyond it e^x is 0 or inf. */
PN_INLINE VD pn_exp_d(VD x) {
    VDU n; /* k + 2046 */
    x = pn_clamp_d(x, pn_set1_d(-746), pn_set1_d(710));
    VD p = pn_exp_core_d(x, 2046, &n) + pn_set1_d(1);
    return p * (VD)((n >> 1) << 52) * (VD)((n - (n >> 1)) << 52);
}

/* log(u + c) with |c| a rounding error of u > 0, normal: u = 2^e m, m in [sqrt(1/2), sqrt 2),
 * f = m - 1 + c 2^-e, s = f / (2 + f), z = s^2: log(1 + f) = 2 atanh s = f - s (f - z R(z)), deg R = 6,
 * minimax: 2^-58. ln2 = hi + lo, hi with 32 bits: e * hi is exact. */
PN_INLINE VD pn_log_core_d(VD u, VD c) {
    VDU t = (VDU)u - 0x3fe6a09e667f3bcdu;       /* exponent field: e, as m starts at sqrt(1/2) */
    VDU eb = (t + 0x4000000000000000u) >> 52;   /* e + 1024 */
    VD e = (VD)(eb | 0x4330000000000000u) - pn_set1_d(0x1p52 + 1024);
    VDU shift = t & 0xfff0000000000000u;
    VD f = (VD)((VDU)u - shift) - pn_set1_d(1);
    VDU scale = 0x3ff0000000000000u - shift;    /* 2^-e; c = 0 where that is out of range */
    f = f + (VD)((VDU)c & (VDU)(c != 0)) * (VD)(scale & (VDU)(c != 0));
    VD s = f / (f + pn_set1_d(2)), z = s * s;
    VD r = z * PN_HORNER_D(z, 0x1.5555555555593p-1, 0x1.999999997f852p-2, 0x1.2492494243769p-2,
                           0x1.c71c51c1ee05ep-3, 0x1.74664e71d41b3p-3, 0x1.39a0142ba337fp-3,
                           0x1.2f16d61c624f4p-3);
    VD g = pn_fnma_d(e, pn_set1_d(0x1.a39ef35793c76p-33), s * (f - r));
    return pn_fma_d(e, pn_set1_d(0x1.62e42feep-1), f - g);
}

/* log x: -inf at 0, NaN below, inf at inf. */
PN_INLINE VD pn_log_d(VD x) {
    VD y = pn_log_core_d(x, (VD){0});
    y = pn_select_d(x < pn_set1_d(HUGE_VAL), y, x);
    y = pn_select_d(x < pn_set1_d(0x1p-1022), pn_set1_d(-HUGE_VAL), y);
    return pn_select_d(x < -pn_set1_d(0x1p-1022), pn_set1_d(NAN), y);
}

#if PN_KIND == PN_f64

PN_INLINE V pn_exp(V x) { return pn_exp_d(x); }
PN_INLINE V pn_log(V x) { return pn_log_d(x); }
PN_INLINE V pn_expm1(V x) { return pn_map1(x, expm1); }
PN_INLINE V pn_log1p(V x) { return pn_map1(x, log1p); }
PN_INLINE V pn_tanh(V x) { return pn_map1(x, tanh); }
PN_INLINE V pn_sigmoid(V x) { return pn_set1(1) / (pn_set1(1) + pn_exp(-x)); }
PN_INLINE V pn_erf(V x) { return pn_map1(x, erf); }
PN_INLINE V pn_sin(V x) { return pn_map1(x, sin); }
PN_INLINE V pn_cos(V x) { return pn_map1(x, cos); }
PN_INLINE V pn_pow(V x, V y) {
    for (int i = 0; i < PN_VL; i++) x[i] = pow(x[i], y[i]);
    return x;
}

#endif
