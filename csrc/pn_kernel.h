/* pn_kernel.h: what a kernel file includes. It is compiled once per ISA level and dtype, with
 * PN_ISA_NAME (base, avx2, ...) and PN_TNAME (f32, f64, i64, any) set by the build. */
#ifndef PN_KERNEL_H
#define PN_KERNEL_H

#include "pn.h"

#define PN_CAT_(a, b, c) pn_##a##_##b##_##c
#define PN_CAT(a, b, c) PN_CAT_(a, b, c)
#define PN_NAME(name) PN_CAT(name, PN_TNAME, PN_ISA_NAME) /* pn_<name>_<dtype>_<isa> */
#define PN_FN(name) void PN_NAME(name)(pn_call * c)
#define PN_SCRATCH_FN(name) int64_t PN_CAT(name##_scratch, PN_TNAME, PN_ISA_NAME)(const pn_call *c)

#define PN_f32 1
#define PN_f64 2
#define PN_i64 3
#define PN_any 4
#define PN_IS_(t) PN_##t
#define PN_IS(t) PN_IS_(t)
#define PN_KIND PN_IS(PN_TNAME)

#if PN_KIND == PN_f32
typedef float T;
#define PN_DTYPE PN_F32
#define PN_FLOAT 1
#elif PN_KIND == PN_f64
typedef double T;
#define PN_DTYPE PN_F64
#define PN_FLOAT 1
#elif PN_KIND == PN_i64
typedef int64_t T;
#define PN_DTYPE PN_I64
#define PN_FLOAT 0
#else
#define PN_FLOAT 0
#endif

/* Places of arguments and parameters, from kernels.inc: ARG(relu_bwd, dy), PAR(leaky_relu_fwd, slope).f */
#define PN_COUNT_(a, b, c, d, e, f, g, h, i, j, k, l, m, o, p, q, n, ...) n
#define PN_COUNT(...)                                                                              \
    PN_COUNT_(__VA_ARGS__, 16, 15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0)
#define PN_E1(p, x) p##x
#define PN_E2(p, x, ...) p##x, PN_E1(p, __VA_ARGS__)
#define PN_E3(p, x, ...) p##x, PN_E2(p, __VA_ARGS__)
#define PN_E4(p, x, ...) p##x, PN_E3(p, __VA_ARGS__)
#define PN_E5(p, x, ...) p##x, PN_E4(p, __VA_ARGS__)
#define PN_E6(p, x, ...) p##x, PN_E5(p, __VA_ARGS__)
#define PN_E7(p, x, ...) p##x, PN_E6(p, __VA_ARGS__)
#define PN_E8(p, x, ...) p##x, PN_E7(p, __VA_ARGS__)
#define PN_E9(p, x, ...) p##x, PN_E8(p, __VA_ARGS__)
#define PN_E10(p, x, ...) p##x, PN_E9(p, __VA_ARGS__)
#define PN_E11(p, x, ...) p##x, PN_E10(p, __VA_ARGS__)
#define PN_E12(p, x, ...) p##x, PN_E11(p, __VA_ARGS__)
#define PN_E13(p, x, ...) p##x, PN_E12(p, __VA_ARGS__)
#define PN_E14(p, x, ...) p##x, PN_E13(p, __VA_ARGS__)
#define PN_E15(p, x, ...) p##x, PN_E14(p, __VA_ARGS__)
#define PN_E16(p, x, ...) p##x, PN_E15(p, __VA_ARGS__)
#define PN_ENUM__(n, p, ...) PN_E##n(p, __VA_ARGS__)
#define PN_ENUM_(n, p, ...) PN_ENUM__(n, p, __VA_ARGS__)
#define PN_ENUM(p, ...) PN_ENUM_(PN_COUNT(__VA_ARGS__), p, __VA_ARGS__)
#define PN_FIRST(p, ...) __VA_OPT__(PN_ENUM(p, __VA_ARGS__), ) /* an effect may read nothing */
#define PN_UNPAREN(...) __VA_ARGS__

#define PN_KERNEL(stem, name, kinds, ins, outs, pars)                                              \
    enum { PN_FIRST(PNA_##name##_, PN_UNPAREN ins) PN_ENUM(PNA_##name##_, PN_UNPAREN outs) };      \
    enum { PN_ENUM(PNP_##name##_, PN_UNPAREN pars) };
#define PN_SCRATCH(name, kinds)
#include "kernels.inc"
#undef PN_KERNEL
#undef PN_SCRATCH

#define ARG(kernel, x) (&c->arg[PNA_##kernel##_##x])
#define PAR(kernel, x) (c->par[PNP_##kernel##_##x])

static inline int64_t pn_size(const pn_array *a) {
    int64_t n = 1;
    for (int d = 0; d < a->ndim; d++) n *= a->shape[d];
    return n;
}

/* Whether outputs of so many bytes go past the caches: more than a core's share of the last one. What
 * reads them next would not find them there, and a line that is not read before it is written saves a
 * third of the traffic. */
#define PN_FAR (12 << 20)
static inline int pn_is_far(int64_t bytes) { return bytes >= pn_grain(PN_FAR); }

static inline int64_t pn_ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
static inline int64_t pn_min(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t pn_max(int64_t a, int64_t b) { return a > b ? a : b; }

#endif
