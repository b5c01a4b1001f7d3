/* selftest.c: the C core without Python, on any machine: allocator, thread team, kernel table, and
 * the kernels that have an obvious plain loop, compared with it. Links with all of csrc. */
#include "pn.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(ok)                                                                                  \
    do {                                                                                           \
        if (!(ok)) {                                                                               \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #ok);                               \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

/* ---- allocator and team ----------------------------------------------------------------------- */

static void test_alloc(void) {
    for (int64_t n = 0; n < 20 << 20; n += n / 3 + 1) {
        char *p = pn_alloc(n);
        CHECK(p && (uintptr_t)p % PN_ALIGN == 0);
        memset(p, 1, (size_t)n);
        pn_free(p, n);
    }
    pn_empty_cache();
    pn_alloc_info s;
    pn_alloc_stats(&s);
    CHECK(s.live == 0 && s.cached == 0 && s.n_alloc == s.n_free);
}

enum { N_CHUNK = 1000 };
static int32_t times_run[N_CHUNK];

static void mark(pn_call *c, void *arg, int64_t chunk, int worker) {
    CHECK(worker >= 0 && worker < pn_max_workers());
    __atomic_add_fetch(&((int32_t *)arg)[chunk], 1, __ATOMIC_RELAXED);
    if (chunk % 100 == 37) pn_fail(c, PN_E_INDEX, 0, chunk, 0.5);
}

static void test_for(void) {
    static const int threads[] = {1, 2, 4};
    for (int i = 0; i < 3; i++) {
        CHECK(pn_set_num_threads(threads[i]) == 0 && pn_get_num_threads() == threads[i]);
        for (int round = 0; round < 50; round++) {
            pn_call c = {.n_arg = 0};
            memset(times_run, 0, sizeof times_run);
            pn_for(&c, N_CHUNK, mark, times_run);
            for (int k = 0; k < N_CHUNK; k++) CHECK(times_run[k] == 1);
            CHECK(c.err.code == PN_E_INDEX && c.err.index == 37); /* the lowest wins */
        }
    }
}

/* ---- the table -------------------------------------------------------------------------------- */

enum { FLOATS, NUMBERS, BOOLS, ANY };

static const struct {
    const char *name;
    int kind;
} listed[] = {
#define PN_KERNEL(stem, name, kinds, ins, outs, pars) {#name, kinds},
#define PN_SCRATCH(name, kinds)
#include "kernels.inc"
#undef PN_KERNEL
#undef PN_SCRATCH
};

static void test_table(void) {
    CHECK(pn_n_kernels() == (int)(sizeof listed / sizeof listed[0]));
    CHECK(pn_isa_name(pn_isa_best()) && !pn_isa_name(-1) && !pn_isa_name(PN_NISA));
    CHECK(pn_use_isa(-1) == -1 && pn_use_isa(PN_NISA) == -1);
    for (int id = 0; id < pn_n_kernels(); id++) {
        const pn_kernel_info *k = pn_kernel(id);
        CHECK(!strcmp(k->name, listed[id].name));
        for (int other = 0; other < id; other++) CHECK(strcmp(k->name, listed[other].name));
        for (int t = 0; t < PN_NDTYPE; t++) {
            int is_float = t == PN_F32 || t == PN_F64;
            int absent = listed[id].kind == (is_float ? BOOLS : FLOATS);
            CHECK((pn_kernel_fn(id, t) == NULL) == absent);
        }
    }
}

/* ---- kernels against plain loops -------------------------------------------------------------- */

static double ref_add(double a, double b) { return a + b; }
static double ref_sub(double a, double b) { return a - b; }
static double ref_mul(double a, double b) { return a * b; }
static double ref_div(double a, double b) { return a / b; }
static double ref_max(double a, double b) { return a > b ? a : b; }
static double ref_min(double a, double b) { return a < b ? a : b; }
static double ref_neg(double a, double b) { return (void)b, -a; }
static double ref_abs(double a, double b) { return (void)b, fabs(a); }
static double ref_exp(double a, double b) { return (void)b, exp(a); }
static double ref_tanh(double a, double b) { return (void)b, tanh(a); }
static double ref_erf(double a, double b) { return (void)b, erf(a); }
static double ref_sin(double a, double b) { return (void)b, sin(a); }
static double ref_cos(double a, double b) { return (void)b, cos(a); }
static double ref_relu(double a, double b) { return (void)b, a > 0 ? a : 0; }
static double ref_sigmoid(double a, double b) { return (void)b, 1 / (1 + exp(-a)); }

static const struct {
    const char *name;
    int n_in;
    double (*f)(double, double);
} plain[] = {
    {"add_fwd", 2, ref_add},   {"sub_fwd", 2, ref_sub},     {"mul_fwd", 2, ref_mul},
    {"div_fwd", 2, ref_div},   {"maximum_fwd", 2, ref_max}, {"minimum_fwd", 2, ref_min},
    {"neg_fwd", 1, ref_neg},   {"abs_fwd", 1, ref_abs},     {"exp_fwd", 1, ref_exp},
    {"tanh_fwd", 1, ref_tanh}, {"erf_fwd", 1, ref_erf},     {"sin_fwd", 1, ref_sin},
    {"cos_fwd", 1, ref_cos},   {"relu_fwd", 1, ref_relu},   {"sigmoid_fwd", 1, ref_sigmoid},
};

static int64_t item_size(int dtype) { return dtype == PN_F32 ? 4 : 8; }

static double get(const pn_array *a, int64_t i) {
    if (a->dtype == PN_F32) return ((float *)a->data)[i];
    return a->dtype == PN_F64 ? ((double *)a->data)[i] : (double)((int64_t *)a->data)[i];
}

static void set(const pn_array *a, int64_t i, double v) {
    if (a->dtype == PN_F32)
        ((float *)a->data)[i] = (float)v;
    else if (a->dtype == PN_F64)
        ((double *)a->data)[i] = v;
    else
        ((int64_t *)a->data)[i] = (int64_t)v;
}

static pn_array matrix(int dtype, int64_t rows, int64_t cols) {
    pn_array a = {.dtype = dtype, .ndim = 2, .shape = {rows, cols}, .strides = {cols, 1}};
    a.data = pn_alloc(rows * cols * item_size(dtype));
    CHECK(a.data);
    for (int64_t i = 0; i < rows * cols; i++) set(&a, i, (double)((i * 37) % 101 - 50) / 8);
    return a;
}

/* A sampled kernel is one whose line says what we know of it: its inputs, one output, no parameter. */
static int known(int id, int n_in) {
    const pn_kernel_info *k = pn_kernel(id);
    int n = 1;
    for (const char *s = k->ins; *s; s++) n += *s == ',';
    return n == n_in && !strchr(k->outs, ',') && !strcmp(k->pars, "()");
}

static void compare(int id, int n_in, double (*f)(double, double), int dtype, int64_t rows,
                    int64_t cols) {
    pn_array arg[3];
    for (int i = 0; i <= n_in; i++) arg[i] = matrix(dtype, rows, cols);
    const pn_array *y = &arg[n_in];
    if (n_in == 2) /* no division by zero */
        for (int64_t i = 0; i < rows * cols; i++) set(&arg[1], i, 2.5 + (double)(i % 7));
    pn_call c = {.arg = arg, .n_arg = n_in + 1};
    pn_fn fn = pn_kernel_fn(id, dtype);
    CHECK(fn);
    fn(&c);
    CHECK(c.err.code == PN_OK);
    for (int64_t i = 0; i < rows * cols; i++) {
        double want = f(get(&arg[0], i), n_in == 2 ? get(&arg[1], i) : 0), got = get(y, i);
        double tol = dtype == PN_F32 ? 1e-6 : 1e-14;
        if (fabs(got - want) > tol * fmax(1, fabs(want))) {
            fprintf(stderr, "%s, %s, element %lld: %.17g, not %.17g\n", pn_kernel(id)->name,
                    pn_isa_name(pn_isa()), (long long)i, got, want);
            exit(1);
        }
    }
    for (int i = 0; i <= n_in; i++) pn_free(arg[i].data, rows * cols * item_size(dtype));
}

static int test_kernels(void) {
    int compared = 0;
    for (int id = 0; id < pn_n_kernels(); id++)
        for (size_t i = 0; i < sizeof plain / sizeof plain[0]; i++) {
            if (strcmp(pn_kernel(id)->name, plain[i].name) || !known(id, plain[i].n_in)) continue;
            for (int dtype = PN_F32; dtype <= PN_F64; dtype++) {
                compare(id, plain[i].n_in, plain[i].f, dtype, 0, 3);
                compare(id, plain[i].n_in, plain[i].f, dtype, 1, 1);
                compare(id, plain[i].n_in, plain[i].f, dtype, 37, 29);
                compare(id, plain[i].n_in, plain[i].f, dtype, 300, 1001);
            }
            compared++;
        }
    return compared;
}

int main(void) {
    test_alloc();
    test_for();
    for (int level = pn_isa_best(); level >= 0; level--) {
        CHECK(pn_use_isa(level) == 0 && pn_isa() == level);
        test_table();
        int n = test_kernels();
        printf("selftest, %s: ok, %d of %d kernels compared with plain loops\n", pn_isa_name(level),
               n, pn_n_kernels());
    }
    pn_team_stop();
    return 0;
}
