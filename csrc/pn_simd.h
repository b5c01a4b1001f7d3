/* pn_simd.h: one vector type, V, of PN_VL lanes of T, on GCC's and Clang's vector extensions.
 *
 * + - * / and comparisons (which give VI: all ones or all zeros per lane) are the compiler's own;
 * this file adds what the language has no operator for. Bits of a lane's result depend on that
 * lane's operands only, never on the lane or on its neighbours.
 *
 *   load, store     pn_load pn_store pn_set1 pn_load_part pn_store_part pn_stream pn_stream_end
 *   arithmetic      pn_fma pn_fnma pn_sqrt pn_max pn_min pn_clamp pn_abs pn_copysign
 *   rounding        pn_round (nearest, ties to even) pn_floor pn_ceil pn_trunc
 *   choice          pn_select pn_isnan pn_any pn_first
 *   across lanes    pn_hsum pn_hmax
 *   double lanes    VD VDI pn_widen_lo pn_widen_hi pn_narrow pn_fma_d ...: functions of f32 in f64
 *
 * The width follows the ISA flags of the file: 64 bytes, 32 or 16. With -DPN_VBYTES=64 the widest
 * code runs on any machine: what needs an intrinsic is then done on hardware pieces, H.
 * For integer T this header is empty.
 */
#ifndef PN_SIMD_H
#define PN_SIMD_H

#include "pn_kernel.h"

#if PN_FLOAT

#include <math.h>
#if defined __x86_64__
#include <immintrin.h>
#elif defined __aarch64__
#include <arm_neon.h>
#else
#error "pynn knows x86-64 and aarch64"
#endif

#ifndef PN_VBYTES
#if defined __AVX512F__
#define PN_VBYTES 64
#elif defined __AVX2__
#define PN_VBYTES 32
#else
#define PN_VBYTES 16
#endif
#endif

#if PN_KIND == PN_f32
#define PN_VL (PN_VBYTES / 4)
typedef int32_t pn_int;
typedef uint32_t pn_uint;
#else
#define PN_VL (PN_VBYTES / 8)
typedef int64_t pn_int;
typedef uint64_t pn_uint;
#endif

#if defined __AVX512F__ && PN_VBYTES >= 64
#define PN_HBYTES 64
#elif defined __AVX2__ && PN_VBYTES >= 32
#define PN_HBYTES 32
#else
#define PN_HBYTES 16
#endif
#define PN_PIECES (PN_VBYTES / PN_HBYTES)

#if defined __FMA__ || defined __aarch64__
#define PN_FUSED 1 /* pn_fma rounds once */
#endif

#if PN_PIECES > 1 && !defined __clang__ /* a V wider than a register: an ABI that nobody uses */
#pragma GCC diagnostic ignored "-Wpsabi"
#endif

#define PN_INLINE static inline __attribute__((always_inline))
#ifdef __clang__
#define PN_UNROLL _Pragma("unroll")
#else
#define PN_UNROLL _Pragma("GCC unroll 16")
#endif

typedef T V __attribute__((vector_size(PN_VBYTES)));
typedef pn_int VI __attribute__((vector_size(PN_VBYTES)));
typedef pn_uint VU __attribute__((vector_size(PN_VBYTES))); /* right shifts bring in zeros */
typedef T pn_vmem __attribute__((vector_size(PN_VBYTES), aligned(sizeof(T)), may_alias));
typedef T pn_h __attribute__((vector_size(PN_HBYTES)));
typedef pn_int pn_hi __attribute__((vector_size(PN_HBYTES)));

/* ---- load and store ----------------------------------------------------------------------- */

/* Any address that suits a T. */
PN_INLINE V pn_load(const T *p) { return *(const pn_vmem *)p; }
PN_INLINE void pn_store(T *p, V v) { *(pn_vmem *)p = v; }

/* x - 0 is x for every x, -0 and NaN included (0 + x is not), and compiles to a broadcast. */
PN_INLINE V pn_set1(T x) { return x - (V){0}; }

/* 0, 1, 2, ... */
#if PN_VL == 2
#define PN_LANES ((VI){0, 1})
#elif PN_VL == 4
#define PN_LANES ((VI){0, 1, 2, 3})
#elif PN_VL == 8
#define PN_LANES ((VI){0, 1, 2, 3, 4, 5, 6, 7})
#else
#define PN_LANES ((VI){0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15})
#endif

/* ---- what the hardware has an instruction for, on one register ---------------------------- */

#if defined __x86_64__

#if PN_KIND == PN_f32
#define PN_SUF(op) op##_ps
#else
#define PN_SUF(op) op##_pd
#endif
#if PN_HBYTES == 64
#define PN_MM(op) PN_SUF(_mm512_##op)
#define PN_MM_ROUND(a, mode) PN_SUF(_mm512_roundscale)(a, mode)
#elif PN_HBYTES == 32
#define PN_MM(op) PN_SUF(_mm256_##op)
#define PN_MM_ROUND(a, mode) PN_SUF(_mm256_round)(a, mode)
#else
#define PN_MM(op) PN_SUF(_mm_##op)
#define PN_MM_ROUND(a, mode) PN_SUF(_mm_round)(a, mode)
#endif

#ifdef __FMA__
PN_INLINE pn_h pn_fma_h(pn_h a, pn_h b, pn_h c) { return PN_MM(fmadd)(a, b, c); }
PN_INLINE pn_h pn_fnma_h(pn_h a, pn_h b, pn_h c) { return PN_MM(fnmadd)(a, b, c); }
#else
PN_INLINE pn_h pn_fma_h(pn_h a, pn_h b, pn_h c) { return a * b + c; }
PN_INLINE pn_h pn_fnma_h(pn_h a, pn_h b, pn_h c) { return c - a * b; }
#endif
PN_INLINE pn_h pn_sqrt_h(pn_h a) { return PN_MM(sqrt)(a); }
PN_INLINE pn_h pn_round_h(pn_h a) {
    return PN_MM_ROUND(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
PN_INLINE pn_h pn_floor_h(pn_h a) {
    return PN_MM_ROUND(a, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
}
PN_INLINE pn_h pn_ceil_h(pn_h a) {
    return PN_MM_ROUND(a, _MM_FROUND_TO_POS_INF | _MM_FROUND_NO_EXC);
}
PN_INLINE pn_h pn_trunc_h(pn_h a) { return PN_MM_ROUND(a, _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC); }
/* max and min of x86 give b where either operand is NaN. */
PN_INLINE pn_h pn_max_b_h(pn_h a, pn_h b) { return PN_MM(max)(a, b); }
PN_INLINE pn_h pn_min_b_h(pn_h a, pn_h b) { return PN_MM(min)(a, b); }

#if PN_HBYTES == 64
PN_INLINE int pn_any_h(pn_hi m) { return _mm512_test_epi32_mask((__m512i)m, (__m512i)m) != 0; }
#elif PN_HBYTES == 32
PN_INLINE int pn_any_h(pn_hi m) { return _mm256_movemask_epi8((__m256i)m) != 0; }
#else
PN_INLINE int pn_any_h(pn_hi m) { return _mm_movemask_epi8((__m128i)m) != 0; }
#endif

#else /* aarch64 */

#if PN_KIND == PN_f32
#define PN_NEON(op) op##_f32
#else
#define PN_NEON(op) op##_f64
#endif
PN_INLINE pn_h pn_fma_h(pn_h a, pn_h b, pn_h c) { return PN_NEON(vfmaq)(c, a, b); }
PN_INLINE pn_h pn_fnma_h(pn_h a, pn_h b, pn_h c) { return PN_NEON(vfmsq)(c, a, b); }
PN_INLINE pn_h pn_sqrt_h(pn_h a) { return PN_NEON(vsqrtq)(a); }
PN_INLINE pn_h pn_round_h(pn_h a) { return PN_NEON(vrndnq)(a); }
PN_INLINE pn_h pn_floor_h(pn_h a) { return PN_NEON(vrndmq)(a); }
PN_INLINE pn_h pn_ceil_h(pn_h a) { return PN_NEON(vrndpq)(a); }
PN_INLINE pn_h pn_trunc_h(pn_h a) { return PN_NEON(vrndq)(a); }
/* fmax and fmin of aarch64 give NaN where either operand is NaN. */
PN_INLINE pn_h pn_max_b_h(pn_h a, pn_h b) { return PN_NEON(vmaxq)(a, b); }
PN_INLINE pn_h pn_min_b_h(pn_h a, pn_h b) { return PN_NEON(vminq)(a, b); }
PN_INLINE int pn_any_h(pn_hi m) { return vmaxvq_u32((uint32x4_t)m) != 0; }

#endif

/* ---- the same on a V ---------------------------------------------------------------------- */

#if PN_PIECES == 1
#define PN_LIFT1(name)                                                                             \
    PN_INLINE V name(V a) { return name##_h(a); }
#define PN_LIFT2(name)                                                                             \
    PN_INLINE V name(V a, V b) { return name##_h(a, b); }
#define PN_LIFT3(name)                                                                             \
    PN_INLINE V name(V a, V b, V c) { return name##_h(a, b, c); }
PN_INLINE int pn_any(VI m) { return pn_any_h(m); }
#else
typedef union {
    V v;
    pn_h h[PN_PIECES];
} pn_pieces;
#define PN_LIFT1(name)                                                                             \
    PN_INLINE V name(V a) {                                                                        \
        pn_pieces x = {a}, r;                                                                      \
        for (int i = 0; i < PN_PIECES; i++) r.h[i] = name##_h(x.h[i]);                             \
        return r.v;                                                                                \
    }
#define PN_LIFT2(name)                                                                             \
    PN_INLINE V name(V a, V b) {                                                                   \
        pn_pieces x = {a}, y = {b}, r;                                                             \
        for (int i = 0; i < PN_PIECES; i++) r.h[i] = name##_h(x.h[i], y.h[i]);                     \
        return r.v;                                                                                \
    }
#define PN_LIFT3(name)                                                                             \
    PN_INLINE V name(V a, V b, V c) {                                                              \
        pn_pieces x = {a}, y = {b}, z = {c}, r;                                                    \
        for (int i = 0; i < PN_PIECES; i++) r.h[i] = name##_h(x.h[i], y.h[i], z.h[i]);             \
        return r.v;                                                                                \
    }
PN_INLINE int pn_any(VI m) {
    union {
        VI v;
        pn_hi h[PN_PIECES];
    } x = {m};
    int any = 0;
    for (int i = 0; i < PN_PIECES; i++) any |= pn_any_h(x.h[i]);
    return any;
}
#endif

/* The first lane of a mask that is set; PN_VL where none is. */
PN_INLINE int pn_first(VI m) {
#if PN_HBYTES == 64
    unsigned bits =
        PN_KIND == PN_f32 ? _mm512_movepi32_mask((__m512i)m) : _mm512_movepi64_mask((__m512i)m);
    return __builtin_ctz(bits | 1u << PN_VL);
#elif PN_HBYTES == 32 && PN_PIECES == 1
    unsigned bits = (unsigned)PN_MM(movemask)((V)m);
    return __builtin_ctz(bits | 1u << PN_VL);
#else
    int i = 0;
    while (i < PN_VL && !m[i]) i++;
    return i;
#endif
}

PN_LIFT3(pn_fma)   /* a * b + c, rounded once where the ISA fuses (not at the x86 baseline) */
PN_LIFT3(pn_fnma)  /* c - a * b, likewise */
PN_LIFT1(pn_sqrt)
PN_LIFT1(pn_round) /* to nearest, ties to even */
PN_LIFT1(pn_floor)
PN_LIFT1(pn_ceil)
PN_LIFT1(pn_trunc)
PN_LIFT2(pn_max_b) /* NaN where b is NaN; where only a is, b on x86 and NaN on aarch64 */
PN_LIFT2(pn_min_b)

/* To an address aligned to V, past the caches where the machine can; other threads see it after
 * pn_stream_end. */
PN_INLINE void pn_stream(T *p, V v) {
#ifdef __x86_64__
    const union {
        V v;
        pn_h h[PN_PIECES];
    } x = {v};
    for (int i = 0; i < PN_PIECES; i++) PN_MM(stream)(p + i * (PN_HBYTES / sizeof(T)), x.h[i]);
#else
    pn_store(p, v);
#endif
}
PN_INLINE void pn_stream_end(void) {
#ifdef __x86_64__
    _mm_sfence();
#endif
}

/* *c += a * b as pn_fma, in c's own register: left to choose among the forms of the instruction, GCC
 * ends a loop that fills the registers with a copy for every few sums. */
#if defined __x86_64__ && defined __FMA__ && PN_PIECES == 1
PN_INLINE void pn_fma_to(V *c, V a, V b) {
#if PN_KIND == PN_f32
    __asm__("vfmadd231ps %2, %1, %0" : "+v"(*c) : "v"(a), "v"(b));
#else
    __asm__("vfmadd231pd %2, %1, %0" : "+v"(*c) : "v"(a), "v"(b));
#endif
}
#else
PN_INLINE void pn_fma_to(V *c, V a, V b) { *c = pn_fma(a, b, *c); }
#endif

/* ---- choice, signs, bounds ---------------------------------------------------------------- */

/* mask ? a : b; a mask's lane is all ones or all zeros, as comparisons give. */
PN_INLINE V pn_select(VI mask, V a, V b) {
#if PN_HBYTES == 32 && PN_PIECES == 1
    return PN_MM(blendv)(b, a, (V)mask);
#else
    return (V)((mask & (VI)a) | (~mask & (VI)b));
#endif
}

#define PN_SIGN ((pn_int)((pn_uint)1 << (8 * sizeof(T) - 1)))
PN_INLINE VI pn_signs(void) { return PN_SIGN - (VI){0}; }
PN_INLINE V pn_abs(V x) { return (V)((VI)x & ~pn_signs()); }
PN_INLINE V pn_copysign(V x, V sign) {
    return (V)(((VI)x & ~pn_signs()) | ((VI)sign & pn_signs()));
}
PN_INLINE VI pn_isnan(V x) { return x != x; }

/* ---- parts of a vector -------------------------------------------------------------------- */

/* Lanes [0, n) from p, the others = fill; no byte beyond p[n-1] is touched. (A masked lane of x86's
 * masked moves never faults.) */
PN_INLINE V pn_load_part(const T *p, int64_t n, T fill) {
    if (n >= PN_VL) return pn_load(p);
    V v = pn_set1(fill);
#if PN_HBYTES == 64
    return PN_MM(mask_loadu)(v, n > 0 ? (1u << n) - 1 : 0, p);
#elif PN_HBYTES == 32 && PN_PIECES == 1
    VI inside = PN_LANES < (pn_int)(n > 0 ? n : 0);
    return pn_select(inside, PN_MM(maskload)((const void *)p, (__m256i)inside), v);
#else
    for (int64_t i = 0; i < n; i++) v[i] = p[i];
    return v;
#endif
}

/* Lanes [0, n) to p; no byte beyond p[n-1] is touched. */
PN_INLINE void pn_store_part(T *p, V v, int64_t n) {
    if (n >= PN_VL) {
        pn_store(p, v);
        return;
    }
#if PN_HBYTES == 64
    PN_MM(mask_storeu)(p, n > 0 ? (1u << n) - 1 : 0, v);
#elif PN_HBYTES == 32 && PN_PIECES == 1
    PN_MM(maskstore)(p, (__m256i)(PN_LANES < (pn_int)(n > 0 ? n : 0)), v);
#else
    for (int64_t i = 0; i < n; i++) p[i] = v[i];
#endif
}

/* NaN where either is, in whatever position, as NumPy's maximum. */
PN_INLINE V pn_vmax(V a, V b) {
    V m = pn_max_b(a, b);
#ifdef __x86_64__
    m = pn_select(pn_isnan(a), a, m);
#endif
    return m;
}
PN_INLINE V pn_vmin(V a, V b) {
    V m = pn_min_b(a, b);
#ifdef __x86_64__
    m = pn_select(pn_isnan(a), a, m);
#endif
    return m;
}

/* pn_max(V, V) and pn_max(int64_t, int64_t) of pn_kernel.h under one name. A macro does not expand
 * within itself, so that `pn_max` below is the function of integers. */
#define pn_max(a, b) _Generic((a), V: pn_vmax, default: pn_max)((a), (b))
#define pn_min(a, b) _Generic((a), V: pn_vmin, default: pn_min)((a), (b))

/* min(max(x, lo), hi), NaN where x is NaN; lo and hi are not NaN. Two instructions. */
PN_INLINE V pn_clamp(V x, V lo, V hi) { return pn_min_b(hi, pn_max_b(lo, x)); }

/* ---- across lanes ------------------------------------------------------------------------- */

/* The one tree: w = PN_VL/2, PN_VL/4, ..., 1: lane i is joined with lane i + w. Its shape depends
 * on PN_VL only. (By exchange every lane holds the result, and a + b = b + a to the bit.) */
PN_INLINE V pn_swap(V v, int w) {
#ifdef __clang__
    V r = v;
    for (int i = 0; i < PN_VL; i++) r[i] = v[i ^ w];
    return r;
#else
    return __builtin_shuffle(v, PN_LANES ^ w);
#endif
}

PN_INLINE T pn_hsum(V v) {
    PN_UNROLL
    for (int w = PN_VL / 2; w > 0; w /= 2) v += pn_swap(v, w);
    return v[0];
}

PN_INLINE T pn_hmax(V v) {
    PN_UNROLL
    for (int w = PN_VL / 2; w > 0; w /= 2) v = pn_vmax(v, pn_swap(v, w));
    return v[0];
}

/* ---- double lanes ------------------------------------------------------------------------- */

/* VD has as many bytes as V. For f32 a V widens to two of them, exactly; for f64 VD is V. */
#if PN_KIND == PN_f64

typedef V VD;
typedef VI VDI;
typedef VU VDU;
#define pn_set1_d pn_set1
#define pn_fma_d pn_fma
#define pn_fnma_d pn_fnma
#define pn_select_d pn_select
#define pn_clamp_d pn_clamp

#else

typedef double VD __attribute__((vector_size(PN_VBYTES)));
typedef int64_t VDI __attribute__((vector_size(PN_VBYTES)));
typedef uint64_t VDU __attribute__((vector_size(PN_VBYTES)));

#if PN_HBYTES == 64
PN_INLINE VD pn_widen_lo(V v) { return _mm512_cvtps_pd(_mm512_castps512_ps256(v)); }
PN_INLINE VD pn_widen_hi(V v) { return _mm512_cvtps_pd(_mm512_extractf32x8_ps(v, 1)); }
PN_INLINE V pn_narrow(VD lo, VD hi) { /* rounds to nearest even, overflows to inf */
    return _mm512_insertf32x8(_mm512_castps256_ps512(_mm512_cvtpd_ps(lo)), _mm512_cvtpd_ps(hi), 1);
}
#elif PN_HBYTES == 32 && PN_PIECES == 1
PN_INLINE VD pn_widen_lo(V v) { return _mm256_cvtps_pd(_mm256_castps256_ps128(v)); }
PN_INLINE VD pn_widen_hi(V v) { return _mm256_cvtps_pd(_mm256_extractf128_ps(v, 1)); }
PN_INLINE V pn_narrow(VD lo, VD hi) {
    return _mm256_set_m128(_mm256_cvtpd_ps(hi), _mm256_cvtpd_ps(lo));
}
#elif defined __x86_64__ && PN_PIECES == 1
PN_INLINE VD pn_widen_lo(V v) { return _mm_cvtps_pd(v); }
PN_INLINE VD pn_widen_hi(V v) { return _mm_cvtps_pd(_mm_movehl_ps(v, v)); }
PN_INLINE V pn_narrow(VD lo, VD hi) { return _mm_movelh_ps(_mm_cvtpd_ps(lo), _mm_cvtpd_ps(hi)); }
#else
typedef float pn_half __attribute__((vector_size(PN_VBYTES / 2)));
typedef union {
    V v;
    pn_half half[2];
} pn_halves;
PN_INLINE VD pn_widen_lo(V v) { return __builtin_convertvector(((pn_halves){v}).half[0], VD); }
PN_INLINE VD pn_widen_hi(V v) { return __builtin_convertvector(((pn_halves){v}).half[1], VD); }
PN_INLINE V pn_narrow(VD lo, VD hi) {
    pn_halves r = {
        .half = {__builtin_convertvector(lo, pn_half), __builtin_convertvector(hi, pn_half)}};
    return r.v;
}
#endif

PN_INLINE VD pn_set1_d(double x) { return x - (VD){0}; }
PN_INLINE VD pn_select_d(VDI mask, VD a, VD b) { return (VD)((mask & (VDI)a) | (~mask & (VDI)b)); }
PN_INLINE VD pn_clamp_d(VD x, VD lo, VD hi) {
    x = pn_select_d(x < lo, lo, x);
    return pn_select_d(x > hi, hi, x);
}

typedef double pn_hd __attribute__((vector_size(PN_HBYTES)));
typedef union {
    VD v;
    pn_hd h[PN_PIECES];
} pn_pieces_d;
PN_INLINE pn_hd pn_fma_hd(pn_hd a, pn_hd b, pn_hd c) {
#if defined __aarch64__
    return vfmaq_f64(c, a, b);
#elif !defined __FMA__
    return a * b + c;
#elif PN_HBYTES == 64
    return _mm512_fmadd_pd(a, b, c);
#elif PN_HBYTES == 32
    return _mm256_fmadd_pd(a, b, c);
#else
    return _mm_fmadd_pd(a, b, c);
#endif
}
PN_INLINE VD pn_fma_d(VD a, VD b, VD c) {
    pn_pieces_d x = {a}, y = {b}, z = {c}, r;
    for (int i = 0; i < PN_PIECES; i++) r.h[i] = pn_fma_hd(x.h[i], y.h[i], z.h[i]);
    return r.v;
}
PN_INLINE VD pn_fnma_d(VD a, VD b, VD c) { return pn_fma_d(-a, b, c); }

#endif

#endif /* PN_FLOAT */
#endif
