/* table.c: kernel name → function, for each ISA level that this build has.
 *
 * The build sets PN_LEVELS_ALL, or PN_LEVEL_BASE alone, by what the compiler can target. Each line
 * of kernels.inc declares its functions and fills a row; the row's ISA is chosen at run time, as is the
 * BLAS, if any, that computes products.
 */
#include <stdatomic.h>

#include "pn.h"

#if defined(__x86_64__)
#define PN_BASE base
#define PN_HAS_WIDE 1
static const char *const isa_names[PN_NISA] = {"base", "avx2", "avx512"};
#else
#define PN_BASE neon
#define PN_HAS_WIDE 0
static const char *const isa_names[PN_NISA] = {"neon", NULL, NULL};
#endif

#define SYM_(name, t, isa) pn_##name##_##t##_##isa
#define SYM(name, t, isa) SYM_(name, t, isa)
#if PN_HAS_WIDE
#define ROW(name, t) {SYM(name, t, PN_BASE), SYM(name, t, avx2), SYM(name, t, avx512)}
#define DECLARE(type, name, t)                                                                     \
    type SYM(name, t, PN_BASE) ARGS;                                                               \
    type SYM(name, t, avx2) ARGS;                                                                  \
    type SYM(name, t, avx512) ARGS;
#else
#define ROW(name, t) {SYM(name, t, PN_BASE), NULL, NULL}
#define DECLARE(type, name, t) type SYM(name, t, PN_BASE) ARGS;
#endif
#define NONE {NULL, NULL, NULL}

enum { F32, F64, INT, N_FORM }; /* the forms of a kernel */

/* declarations */
#define ARGS (pn_call *)
#define FLOATS(name) DECLARE(void, name, f32) DECLARE(void, name, f64)
#define NUMBERS(name) FLOATS(name) DECLARE(void, name, i64)
#define BOOLS(name) DECLARE(void, name, i64)
#define ANY(name) DECLARE(void, name, any)
#define PN_KERNEL(stem, name, kinds, ins, outs, pars) kinds(name)
#define PN_SCRATCH(name, kinds)
#include "kernels.inc"
#undef PN_KERNEL
#undef PN_SCRATCH
#undef ARGS
#define ARGS (int, int64_t, float *)
DECLARE(double, limit_fma, f32)
#undef ARGS
#define ARGS (int, float *const *, int, float *const *, int, int64_t, int64_t, int)
DECLARE(void, limit_stream, f32)
#undef ARGS
#define ARGS (const pn_call *)
#define PN_KERNEL(stem, name, kinds, ins, outs, pars)
#undef FLOATS
#undef NUMBERS
#undef BOOLS
#undef ANY
#define FLOATS(name) DECLARE(int64_t, name, f32) DECLARE(int64_t, name, f64)
#define NUMBERS(name) FLOATS(name) DECLARE(int64_t, name, i64)
#define ANY(name) DECLARE(int64_t, name, any)
#define PN_SCRATCH(name, kinds) kinds(name##_scratch)
#include "kernels.inc"
#undef PN_KERNEL
#undef PN_SCRATCH
#undef FLOATS
#undef NUMBERS
#undef BOOLS
#undef ANY

/* the rows */
#define FLOATS(name) {ROW(name, f32), ROW(name, f64), NONE}
#define NUMBERS(name) {ROW(name, f32), ROW(name, f64), ROW(name, i64)}
#define BOOLS(name) {NONE, NONE, ROW(name, i64)}
#define ANY(name) {ROW(name, any), ROW(name, any), ROW(name, any)}

static const struct {
    pn_kernel_info info;
    pn_fn fn[N_FORM][PN_NISA];
} kernels[] = {
#define PN_SCRATCH(name, kinds)
#define PN_KERNEL(stem, name, kinds, ins, outs, pars)                                              \
    {{#stem, #name, #ins, #outs, #pars}, kinds(name)},
#include "kernels.inc"
#undef PN_KERNEL
#undef PN_SCRATCH
};

static const struct {
    const char *name;
    pn_scratch_fn fn[N_FORM][PN_NISA];
} scratches[] = {
#define PN_KERNEL(stem, name, kinds, ins, outs, pars)
#define PN_SCRATCH(name, kinds) {#name, kinds(name##_scratch)},
#include "kernels.inc"
    {NULL, {NONE, NONE, NONE}},
};

static atomic_int isa_level = -1;

static int form_of(int dtype) { return dtype == PN_F32 ? F32 : dtype == PN_F64 ? F64 : INT; }

static int same(const char *a, const char *b) {
    while (*a && *a == *b) a++, b++;
    return *a == *b;
}

const char *pn_isa_name(int level) {
    return level >= 0 && level < PN_NISA ? isa_names[level] : NULL;
}

int pn_isa(void) {
    int level = atomic_load_explicit(&isa_level, memory_order_relaxed);
    return level >= 0 ? level : pn_isa_best();
}

int pn_use_isa(int level) {
    if (!pn_isa_name(level) || level > pn_isa_best()) return -1;
    atomic_store(&isa_level, level);
    return 0;
}

static _Atomic(const pn_blas_table *) blas;

const pn_blas_table *pn_blas(void) { return atomic_load_explicit(&blas, memory_order_acquire); }

void pn_use_blas(const pn_blas_table *t) { atomic_store_explicit(&blas, t, memory_order_release); }

static atomic_int exact;

int pn_exact(void) { return atomic_load_explicit(&exact, memory_order_relaxed); }

void pn_use_exact(int on) { atomic_store_explicit(&exact, on, memory_order_relaxed); }

int pn_n_kernels(void) { return (int)(sizeof kernels / sizeof kernels[0]); }

const pn_kernel_info *pn_kernel(int id) { return &kernels[id].info; }

pn_fn pn_kernel_fn(int id, int dtype) { return kernels[id].fn[form_of(dtype)][pn_isa()]; }

pn_scratch_fn pn_kernel_scratch(int id, int dtype) {
    /* 1 + the place in scratches, found once; every thread that races here writes the same */
    static _Atomic int16_t place[sizeof kernels / sizeof kernels[0]];
    int at = atomic_load_explicit(&place[id], memory_order_relaxed);
    if (at == 0) {
        while (scratches[at].name && !same(scratches[at].name, kernels[id].info.name)) at++;
        atomic_store_explicit(&place[id], (int16_t)++at, memory_order_relaxed);
    }
    return scratches[at - 1].name ? scratches[at - 1].fn[form_of(dtype)][pn_isa()] : NULL;
}

double pn_limit_fma(int isa, int threads, int64_t rounds, float *result) {
    static double (*const fn[PN_NISA])(int, int64_t, float *) = ROW(limit_fma, f32);
    return fn[isa](threads, rounds, result);
}

void pn_limit_stream(int isa, int threads, float *const *x, int reads, float *const *y, int writes,
                     int64_t n, int64_t passes, int how) {
    static void (*const fn[PN_NISA])(int, float *const *, int, float *const *, int, int64_t,
                                     int64_t, int) = ROW(limit_stream, f32);
    fn[isa](threads, x, reads, y, writes, n, passes, how);
}
