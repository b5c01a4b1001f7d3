/* test_math.c: tests of pn_simd.h and pn_math.h at one ISA level and dtype.
 *
 * gcc -std=gnu11 -O3 -ffp-contract=off -Wall -Wextra -Werror -Icsrc -DPN_ISA_NAME=avx2 -mavx2 \
 *     -mfma -DPN_TNAME=f32 tests/c/test_math.c -lm -o test_math && ./test_math 4099
 * (other levels: the flags of the level; with -DPN_VBYTES=64 -Wno-psabi the widest vectors on any)
 *
 * f32: ./test_math [stride [function]] takes every stride-th of the 2^32 bit patterns (1: all of
 * them, some minutes a function; default 4099, 1 s in all), compares with libm in double, prints
 * the largest error in ULP of each function and where it is. f64: ./test_math tests vector
 * operations and special values; ./test_math 0 <function> maps stdin to stdout, an argument in
 * hexadecimal bits a line (two for pow): ulp_f64.py is its caller.
 *
 * Exits with 1 if an error exceeds 4 ULP or a check fails. Subnormals are flushed while pynn's code
 * runs, as in kernels: a subnormal argument counts as zero, a subnormal result may be zero.
 */
#define _GNU_SOURCE
#include "pn_math.h"

#include <float.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define MAX_ULP 4.0

static int failures;

#define CHECK(ok, ...)                                                                             \
    do {                                                                                           \
        if (!(ok)) {                                                                               \
            failures++;                                                                            \
            printf("FAIL %s:%d: %s: ", __func__, __LINE__, #ok);                                   \
            printf(__VA_ARGS__);                                                                   \
            printf("\n");                                                                          \
        }                                                                                          \
    } while (0)

static T from_bits(pn_uint b) {
    T x;
    memcpy(&x, &b, sizeof x);
    return x;
}

static pn_uint to_bits(T x) {
    pn_uint b;
    memcpy(&b, &x, sizeof b);
    return b;
}

/* Same bits, or both NaN. */
static int same(T a, T b) { return to_bits(a) == to_bits(b) || (isnan(a) && isnan(b)); }

static uint64_t flush_on(void) {
#ifdef __x86_64__
    uint32_t old = _mm_getcsr();
    _mm_setcsr(old | 0x8040);
#else
    uint64_t old;
    __asm__ volatile("mrs %0, fpcr" : "=r"(old));
    __asm__ volatile("msr fpcr, %0" : : "r"(old | (1u << 24)) : "memory");
#endif
    return old;
}

static void flush_restore(uint64_t old) {
#ifdef __x86_64__
    _mm_setcsr((uint32_t)old);
#else
    __asm__ volatile("msr fpcr, %0" : : "r"(old) : "memory");
#endif
}

/* ---- pn_simd.h ----------------------------------------------------------------------------- */

static uint64_t rng_state = 1;

/* In [-2, 2), by a linear congruence. */
static T uniform(void) {
    rng_state = rng_state * 6364136223846793005u + 1442695040888963407u;
    return (T)((double)(int64_t)rng_state * 0x1p-62);
}

static T tree_sum(const T *x, int n) {
    T t[PN_VL];
    memcpy(t, x, n * sizeof(T));
    for (n /= 2; n > 0; n /= 2)
        for (int i = 0; i < n; i++) t[i] += t[i + n];
    return t[0];
}

static void test_across_lanes(void) {
    for (int round = 0; round < 1000; round++) {
        T x[PN_VL], top = -(T)HUGE_VAL;
        for (int i = 0; i < PN_VL; i++) x[i] = uniform(), top = x[i] > top ? x[i] : top;
        T sum = pn_hsum(pn_load(x)), max = pn_hmax(pn_load(x));
        CHECK(same(sum, tree_sum(x, PN_VL)), "%a", (double)sum);
        CHECK(same(max, top), "%a %a", (double)max, (double)top);
        x[round % PN_VL] = NAN;
        CHECK(isnan(pn_hmax(pn_load(x))), "lane %d", round % PN_VL);
    }
}

/* Parts of vectors that end where the page ends; the page behind it must not be touched. */
static void test_parts(void) {
    const size_t page = 65536;
    char *m = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (m == MAP_FAILED || mprotect(m + page, page, PROT_NONE)) {
        CHECK(0, "no guard page");
        return;
    }
    T *end = (T *)(m + page), seq[PN_VL + 2], out[PN_VL];
    for (int i = 0; i < PN_VL + 2; i++) seq[i] = (T)(i + 1);
    for (volatile int64_t n = -1; n <= PN_VL + 2; n++) {
        int64_t count = n < 0 ? 0 : n;
        T *p = end - count;
        p[-1] = -7;
        memcpy(p, seq, count * sizeof(T));
        pn_store(out, pn_load_part(p, n, (T)0.5));
        for (int i = 0; i < PN_VL; i++)
            CHECK(out[i] == (i < n ? i + 1 : (T)0.5), "n %d lane %d", (int)n, i);
        memset(p, 0, count * sizeof(T));
        pn_store_part(p, pn_load(seq + 1), n);
        CHECK(p[-1] == -7, "n %d: wrote before the start", (int)n);
        for (int i = 0; i < count; i++)
            CHECK(p[i] == (i < PN_VL ? i + 2 : 0), "n %d lane %d", (int)n, i);
    }
    munmap(m, 2 * page);
}

/* One lane's result of f(a, b) with neighbours that differ. */
#define LANE(expr, a_, b_)                                                                         \
    ({                                                                                             \
        T xs[PN_VL], ys[PN_VL], rs[PN_VL];                                                         \
        for (int i = 0; i < PN_VL; i++) xs[i] = uniform(), ys[i] = uniform();                      \
        int lane = (int)((rng_state >> 60) % PN_VL);                                               \
        xs[lane] = (a_), ys[lane] = (b_);                                                          \
        V a = pn_load(xs), b = pn_load(ys);                                                        \
        (void)b;                                                                                   \
        pn_store(rs, (expr));                                                                      \
        rs[lane];                                                                                  \
    })

static void test_arithmetic(void) {
    const T inf = (T)HUGE_VAL, nan = NAN, big = sizeof(T) == 4 ? (T)0x1p30 : (T)0x1p80;
    const T v[] = {0,       (T)-0.0, (T)0.5, (T)-0.5, (T)1.5, (T)2.5, (T)-1.5, (T)-2.5,
                   (T)0.49, 3,       -4,     inf,     -inf,   nan,    big};
    const int n = sizeof v / sizeof *v;
    for (int i = 0; i < n; i++) {
        T x = v[i];
        CHECK(same(LANE(pn_round(a), x, 0), (T)rint(x)), "%a", (double)x);
        CHECK(same(LANE(pn_floor(a), x, 0), (T)floor(x)), "%a", (double)x);
        CHECK(same(LANE(pn_ceil(a), x, 0), (T)ceil(x)), "%a", (double)x);
        CHECK(same(LANE(pn_trunc(a), x, 0), (T)trunc(x)), "%a", (double)x);
        CHECK(same(LANE(pn_abs(a), x, 0), (T)fabs(x)), "%a", (double)x);
        CHECK(same(LANE(pn_sqrt(a), x, 0), sizeof(T) == 4 ? (T)sqrtf(x) : (T)sqrt(x)), "%a",
              (double)x);
        for (int j = 0; j < n; j++) {
            T y = v[j], lo = x < y ? x : y, hi = x > y ? x : y;
            if (isnan(x) || isnan(y)) lo = hi = nan;
            CHECK(LANE(pn_max(a, b), x, y) == hi || isnan(hi), "%a %a", (double)x, (double)y);
            CHECK(LANE(pn_min(a, b), x, y) == lo || isnan(lo), "%a %a", (double)x, (double)y);
            CHECK(!isnan(hi) || isnan(LANE(pn_max(a, b), x, y)), "%a %a", (double)x, (double)y);
            CHECK(!isnan(lo) || isnan(LANE(pn_min(a, b), x, y)), "%a %a", (double)x, (double)y);
            CHECK(same(LANE(pn_copysign(a, b), x, y), (T)copysign(x, y)), "%a %a", (double)x,
                  (double)y);
            CHECK(same(LANE(pn_select(a < b, a, b), x, y), x < y ? x : y), "%a %a", (double)x,
                  (double)y);
        }
        CHECK(same(LANE(pn_clamp(a, pn_set1(-1), pn_set1(2)), x, 0), x < -1  ? -1
                                                                     : x > 2 ? 2
                                                                             : x),
              "%a", (double)x);
    }
    CHECK(signbit(pn_set1((T)-0.0)[0]), "set1(-0)");
    CHECK(pn_max((int64_t)3, (int64_t)4) == 4 && pn_min((int64_t)3, (int64_t)4) == 3, "integers");
    CHECK(LANE((V)pn_isnan(a), nan, 0) != 0 && to_bits(LANE((V)pn_isnan(a), 1, 0)) == 0, "isnan");
    for (int lane = 0; lane < PN_VL; lane++) {
        VI m = {0};
        CHECK(!pn_any(m), "none");
        m[lane] = -1;
        CHECK(pn_any(m), "lane %d", lane);
    }
}

/* a b - round(a b) is the rounding error where the ISA fuses, 0 where it does not. */
static void test_fma(void) {
    for (int i = 0; i < 1000; i++) {
        T x = uniform(), y = uniform(), p = x * y;
#if defined __FMA__ || defined __aarch64__
        T rest = sizeof(T) == 4 ? (T)fmaf((float)x, (float)y, (float)-p) : (T)fma(x, y, -p);
#else
        T rest = 0;
#endif
        CHECK(LANE(pn_fma(a, b, pn_set1(-p)), x, y) == rest, "%a %a", (double)x, (double)y);
        CHECK(LANE(pn_fnma(a, b, pn_set1(p)), x, y) == -rest, "%a %a", (double)x, (double)y);
    }
#if PN_KIND == PN_f32
    for (int i = 0; i < 100; i++) {
        T x[PN_VL], y[PN_VL];
        for (int k = 0; k < PN_VL; k++) x[k] = uniform();
        pn_store(y, pn_narrow(pn_widen_lo(pn_load(x)), pn_widen_hi(pn_load(x))));
        CHECK(!memcmp(x, y, sizeof x), "widen and narrow");
        VD h = pn_fma_d(pn_widen_hi(pn_load(x)), pn_set1_d(3), pn_widen_lo(pn_load(x)));
        for (int k = 0; k < PN_VL / 2; k++)
            CHECK(h[k] == 3.0 * (double)x[k + PN_VL / 2] + (double)x[k], "lane %d", k);
    }
#endif
}

/* ---- pn_math.h ----------------------------------------------------------------------------- */

static double sigmoid_ref(double x) { return 1 / (1 + exp(-x)); }
static double softplus_ref(double x) { return x > 0 ? x + log1p(exp(-x)) : log1p(exp(x)); }

/* pn_exp_down where it holds: up to 88 (709), and below -88 (-709) to zero. */
#define END (sizeof(T) == 4 ? 88 : 709)
PN_INLINE V pn_exp_below(V x) { return pn_exp_down(pn_select(x > pn_set1(END), pn_set1(END), x)); }
static double exp_below_ref(double x) { return x < -END ? 0 : exp(x > END ? END : x); }

/* clang-format off */
#define FUNCTIONS(F)                                                                               \
    F(exp, exp) F(expm1, expm1) F(log, log) F(log1p, log1p) F(tanh, tanh) F(sigmoid, sigmoid_ref)  \
    F(erf, erf) F(softplus, softplus_ref) F(sin, sin) F(cos, cos) F(exp_below, exp_below_ref)
/* clang-format on */

/* y[i] = f(x[i]), as a kernel does it: full vectors, then a part. */
#define RUN(f, ref)                                                                                \
    static void __attribute__((noinline)) run_##f(const T *x, T *y, int64_t n) {                   \
        int64_t i = 0;                                                                             \
        for (; i + PN_VL <= n; i += PN_VL) pn_store(y + i, pn_##f(pn_load(x + i)));                \
        if (i < n) pn_store_part(y + i, pn_##f(pn_load_part(x + i, n - i, 0)), n - i);             \
    }
FUNCTIONS(RUN)

static void __attribute__((noinline)) run_pow(const T *x, const T *e, T *y, int64_t n) {
    int64_t i = 0;
    for (; i + PN_VL <= n; i += PN_VL) pn_store(y + i, pn_pow(pn_load(x + i), pn_load(e + i)));
    if (i < n)
        pn_store_part(y + i, pn_pow(pn_load_part(x + i, n - i, 1), pn_load_part(e + i, n - i, 1)),
                      n - i);
}

typedef struct function {
    const char *name;
    void (*run)(const T *, T *, int64_t);
    double (*ref)(double);
} function;
#define ROW(f, ref) {#f, run_##f, ref},
static const function functions[] = {FUNCTIONS(ROW)};
#define N_FUNCTIONS ((int)(sizeof functions / sizeof *functions))

static const T smallest = sizeof(T) == 4 ? (T)FLT_MIN : (T)DBL_MIN; /* normal number */

static T flushed(T x) { return fabs((double)x) < (double)smallest ? (T)copysign(0, x) : x; }

/* Zeros, infinities and NaN give what C says, signs of zeros included. */
static void test_special(void) {
    const T x[] = {0, (T)-0.0, (T)HUGE_VAL, -(T)HUGE_VAL, NAN, -NAN};
    const T v[] = {0,           (T)-0.0,
                   (T)HUGE_VAL, -(T)HUGE_VAL,
                   NAN,         1,
                   -1,          2,
                   -2,          3,
                   -3,          (T)0.5,
                   (T)-0.5,     (T)2.5,
                   (T)-2.5,     smallest,
                   -smallest,   smallest / 4,
                   (T)16777217, (T)-16777217,
                   (T)1e30,     (T)-1e30};
    enum { NX = sizeof x / sizeof *x, NV = sizeof v / sizeof *v };
    T y[NV], e[NV];
    for (int f = 0; f < N_FUNCTIONS; f++) {
        uint64_t old = flush_on();
        functions[f].run(x, y, NX);
        flush_restore(old);
        for (int i = 0; i < NX; i++) {
            T want = (T)functions[f].ref((double)x[i]);
            int near = want != 0 && fabs((double)y[i] - (double)want) < 1e-6;
            CHECK(near || same(y[i], want), "%s(%a) = %a", functions[f].name, (double)x[i],
                  (double)y[i]);
        }
    }
    for (int j = 0; j < NV; j++) {
        for (int i = 0; i < NV; i++) e[i] = v[j];
        uint64_t old = flush_on();
        run_pow(v, e, y, NV);
        flush_restore(old);
        for (int i = 0; i < NV; i++) {
            T want = flushed((T)pow((double)flushed(v[i]), (double)flushed(v[j])));
            int near = fabs((double)y[i] - (double)want) < 1e-6 * fabs((double)want);
            CHECK(near || same(y[i], want), "pow(%a, %a) = %a", (double)v[i], (double)v[j],
                  (double)y[i]);
        }
    }
}

/* Phi: its error is absolute; from 6 (9) on it is 0 and 1 to the bit. */
static void test_normal(void) {
    const double end = sizeof(T) == 4 ? 6 : 9;
    const T unit = sizeof(T) == 4 ? (T)0x1p-24 : (T)0x1p-53;
    double most = 0;
    for (int i = 0; i < 2000000; i++) {
        T x = i < 4000 ? (T)(i - 2000) : 5 * uniform();
        T y = i % 2 ? LANE(pn_normal(a), x, 0) : pn_normal(pn_set1(x))[0];
        double err = fabs((double)y - 0.5 * erfc(-(double)x * sqrt(0.5))) / (double)unit;
        most = err > most ? err : most;
        CHECK(fabs((double)x) < end || y == (x > 0), "%a: %a", (double)x, (double)y);
    }
    CHECK(most <= MAX_ULP, "%g units", most);
    CHECK(isnan(pn_normal(pn_set1(NAN))[0]), "NaN");
    CHECK(pn_normal(pn_set1((T)HUGE_VAL))[0] == 1 && pn_normal(pn_set1(-(T)HUGE_VAL))[0] == 0,
          "inf");
    printf("normal   %8.3f units of %a\n", most, (double)unit);
}

#if PN_KIND == PN_f32

/* |got - want| in units in the last place of float at want. Beyond FLT_MAX inf stands for 2^128. */
static double ulp(float got, double want) {
    if (isnan(got) || isnan(want)) return isnan(got) && isnan(want) ? 0 : HUGE_VAL;
    double size = fabs(want) < 0x1p128 ? fabs(want) : 0x1p128;
    int e = size < FLT_MIN ? -126 : size >= 0x1p127 ? 127 : ilogb(size);
    double unit = ldexp(1, e - 23);
    if (flushed(got) == 0 && size < 2 * FLT_MIN) /* flushed, which a result below FLT_MIN may be */
        return size < FLT_MIN ? 0 : (size - FLT_MIN) / unit + 1;

    double g = isinf(got) ? copysign(0x1p128, got) : got;
    return fabs(g - copysign(size, want)) / unit;
}

typedef struct worst {
    double err;
    float x, y, got;
} worst;

static void judge(worst *w, float x, float y, float got, double want) {
    double err = ulp(got, want);
    if (err > w->err) *w = (worst){err, x, y, got};
}

static void report(const char *name, double y, const worst *w) {
    printf("%-9s", name);
    if (!isnan(y)) printf("y = %-10g", y);
    printf("%8.3f ULP at x = %-15a (%.9g), got %a\n", w->err, (double)w->x, (double)w->x,
           (double)w->got);
    fflush(stdout);
    if (w->err > MAX_ULP) failures++;
}

#define BLOCK 1024

/* The next bit patterns from *b on; gives how many. */
static int fill(float *x, uint64_t *b, uint64_t stride) {
    int n = 0;
    for (; n < BLOCK && *b >> 32 == 0; *b += stride) x[n++] = from_bits((uint32_t)*b);
    return n;
}

static void sweep(const function *f, uint64_t stride) {
    static float x[BLOCK], y[BLOCK], moved[BLOCK + 1];
    worst w = {0, 0, 0, 0};
    for (uint64_t b = 0; b >> 32 == 0;) {
        int n = fill(x, &b, stride);
        uint64_t old = flush_on();
        f->run(x, y, n);
        f->run(x + 1, moved + 1, n - 1); /* every element in another lane, one or more in a part */
        flush_restore(old);
        for (int i = 1; i < n; i++)
            CHECK(same(y[i], moved[i]), "%s(%a) depends on its lane", f->name, (double)x[i]);
        for (int i = 0; i < n; i++) judge(&w, x[i], 0, y[i], f->ref((double)flushed(x[i])));
    }
    report(f->name, NAN, &w);
}

static void sweep_pow(uint64_t stride) {
    static const float exponents[] = {0,       0.5f, 1,     -1,           2,     -2,
                                      3,       2.7f, -2.3f, 0.333333343f, 1e-3f, 10.5f,
                                      -40.25f, 1e4f, -3e7f, 1e-30f};
    static float x[BLOCK], e[BLOCK], y[BLOCK];
    if (stride < 67) stride = 67;
    for (int k = 0; k < (int)(sizeof exponents / sizeof *exponents); k++) {
        worst w = {0, 0, 0, 0};
        for (int i = 0; i < BLOCK; i++) e[i] = exponents[k];
        for (uint64_t b = 0; b >> 32 == 0;) {
            uint64_t first = b;
            int n = fill(x, &b, stride);
            if (fabsf(exponents[k]) >= 1000) /* all else is 0 or inf: take x around 1 */
                for (int i = 0; i < n; i++)
                    x[i] = from_bits(0x3f780000 + (uint32_t)((first + i * stride) >> 12));
            uint64_t old = flush_on();
            run_pow(x, e, y, n);
            flush_restore(old);
            for (int i = 0; i < n; i++)
                judge(&w, x[i], e[i], y[i], pow((double)flushed(x[i]), (double)e[i]));
        }
        report("pow", (double)exponents[k], &w);
    }
}

static void measure(uint64_t stride, const char *only) {
    for (int f = 0; f < N_FUNCTIONS; f++)
        if (!only || !strcmp(only, functions[f].name)) sweep(&functions[f], stride);
    if (!only || !strcmp(only, "pow")) sweep_pow(stride);
}

#else

static int map_stdin(const char *name) {
    enum { MOST = 1 << 20 };
    static T x[MOST], e[MOST], y[MOST];
    int n = 0, is_pow = !strcmp(name, "pow");
    for (unsigned long long a, b = 0; n < MOST; n++) {
        if (scanf("%llx", &a) != 1 || (is_pow && scanf("%llx", &b) != 1)) break;
        x[n] = from_bits(a), e[n] = from_bits(b);
    }
    int known = is_pow;
    uint64_t old = flush_on();
    if (is_pow) run_pow(x, e, y, n);
    for (int f = 0; f < N_FUNCTIONS; f++)
        if (!strcmp(name, functions[f].name)) functions[f].run(x, y, n), known = 1;
    flush_restore(old);
    for (int i = 0; i < n; i++) printf("%llx\n", (unsigned long long)to_bits(y[i]));
    return !known;
}

#endif

int main(int argc, char **argv) {
    uint64_t stride = argc > 1 ? strtoull(argv[1], NULL, 0) : 4099;
    const char *only = argc > 2 ? argv[2] : NULL;
#if PN_KIND == PN_f64
    if (only) return map_stdin(only);
#endif
    test_across_lanes();
    test_parts();
    test_arithmetic();
    test_fma();
    test_special();
    test_normal();
#if PN_KIND == PN_f32
    measure(stride ? stride : 1, only);
#else
    (void)stride;
#endif
    printf("%s, %d failures\n", failures ? "FAILED" : "passed", failures);
    return failures > 0;
}
