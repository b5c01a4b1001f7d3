/* test_gemm.c: pn_gemm against its definition, for one ISA level and dtype.
 *
 *     test_gemm [cases] [seed]      random products, compared to the bit with a scalar loop in the order
 *                                   that pn_gemm.c promises, and to a tolerance with one in wider floats
 *     test_gemm bench [threads [m k n]] GFLOP/s against the FMA peak measured in the same rounds
 *
 * Equality with one definition by element is what makes layouts, positions, batches, chunks and threads
 * irrelevant to the bits. Operands live in buffers of exactly their extent, so that a sanitizer sees any
 * step beyond; gaps within C and guards around it hold a mark that must survive.
 *
 * Built with pn_gemm.c and pn_par.c of the same flags; with -DPN_TEST_SERIAL without the latter.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "pn_gemm.h"
#include "pn_simd.h"

#define KC 256 /* of pn_gemm_choices.h: part of its promise, as the next four */
#define KD 2048
#define DOT_ROWS 4
#define DOT_FROM 128
#define SUMS ((int)(256 / sizeof(T)))
#define MAXD (PN_GEMM_BATCH + 2)
#define GUARD 64
#define MARK ((T) - 12345.5)

#if PN_KIND == PN_f32
typedef double wide;
#define EPS 1.2e-7
#define FMA fmaf
#else
typedef long double wide;
#define EPS 2.3e-16
#define FMA fma
#endif

#ifndef PN_TEST_BLAS /* see test_blas.c */
int PN_NAME(blas)(pn_call *c, const pn_gemm_args *g) {
    (void)c, (void)g;
    return 0;
}
#endif

#ifdef PN_TEST_SERIAL
static int64_t div_ = 1;
void pn_for(pn_call *c, int64_t n, pn_body body, void *arg) {
    for (int64_t i = 0; i < n; i++) body(c, arg, i, 0);
}
int pn_max_workers(void) { return 1; }
int64_t pn_grain(int64_t n) { return n / div_ > 1 ? n / div_ : 1; }
int pn_set_num_threads(int n) { return n == 1 ? 0 : -1; }
void pn_set_chunk_div(int64_t d) { div_ = d; }
#endif

/* ---- random numbers and matrices -------------------------------------------------------------- */

static uint64_t state = 1;
static uint64_t next(void) {
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return state * 0x2545F4914F6CDD1Dull >> 11;
}
static int64_t below(int64_t n) { return (int64_t)(next() % (uint64_t)n); }
static int chance(int percent) { return below(100) < percent; }
static T value(void) { return (T)((double)next() / (double)(1ull << 52) - 1); }

/* A matrix with batch dimensions in memory of its own: base[0..n) with GUARD marks on either side,
 * or none for what is only read. */
typedef struct store {
    T *base;
    int64_t n, guard;
} store;

enum { PLAIN, TURNED, ANY };

/* Strides for shape d[0..nd) = batch..., rows, columns; returns the extent, *low the lowest offset. */
static int64_t lay_out(int nd, const int64_t *d, int64_t *s, int form, int zeros, int64_t *low) {
    int order[MAXD];
    int64_t run = 1, lo = 0, hi = 0;
    for (int i = 0; i < nd; i++) order[i] = i; /* outermost first */
    if (form == TURNED) order[nd - 2] = nd - 1, order[nd - 1] = nd - 2;
    for (int i = nd - 1; form == ANY && i > 0; i--) {
        int j = (int)below(i + 1), t = order[i];
        order[i] = order[j], order[j] = t;
    }
    for (int i = nd - 1; i >= 0; i--) {
        int64_t n = d[order[i]], gap = form == ANY && chance(40) ? below(3) : 0;
        s[order[i]] = run = i == nd - 1 ? 1 + gap : run + gap;
        if (form == ANY && chance(20)) s[order[i]] = -run;
        if (zeros && chance(15))
            s[order[i]] = 0;
        else
            run *= n ? n : 1;
        if (n && s[order[i]] < 0) lo += (n - 1) * s[order[i]];
        if (n && s[order[i]] > 0) hi += (n - 1) * s[order[i]];
    }
    *low = lo;
    return hi - lo + 1;
}

static store make(pn_mat *x, int nd, const int64_t *d, int form, int zeros, int64_t guard) {
    int64_t s[MAXD], low, n = lay_out(nd, d, s, form, zeros, &low);
    store r = {malloc((size_t)(n + 2 * guard) * sizeof(T)), n, guard};
    for (int64_t i = 0; i < n + 2 * guard; i++) r.base[i] = guard ? MARK : value();
    *x = (pn_mat){.p = r.base + guard - low, .rs = s[nd - 2], .cs = s[nd - 1]};
    for (int i = 0; i < nd - 2; i++) x->bs[i] = s[i];
    return r;
}

static T *at(const pn_mat *x, const pn_gemm_args *g, int64_t b, int64_t i, int64_t j) {
    T *p = x->p + i * x->rs + j * x->cs;
    for (int d = g->n_batch - 1; d >= 0; d--) {
        p += b % g->batch[d] * x->bs[d];
        b /= g->batch[d];
    }
    return p;
}

/* ---- the definition --------------------------------------------------------------------------- */

static T madd(T a, T b, T c) {
#if defined __FMA__ || defined __aarch64__
    return FMA(a, b, c);
#else
    return a * b + c;
#endif
}

static void scale(const pn_gemm_args *g) {
    T by = *(const T *)g->act_arg;
    for (int64_t i = 0; i < g->m; i++)
        for (int64_t j = 0; j < g->n; j++) g->c.p[i * g->c.rs + j * g->c.cs] *= by;
}

/* Rows of all matrices that share a B, however they lie. */
static int64_t rows_by_b(const pn_gemm_args *g) {
    int64_t rows = g->m;
    for (int d = 0; d < g->n_batch; d++)
        if (g->b.bs[d] == 0) rows *= g->batch[d];
    return rows;
}

/* Whether the elements are dot products along memory: few rows by contiguous columns, or contiguous rows by few
 * columns. */
static int dots(const pn_gemm_args *g) {
    int64_t rows = rows_by_b(g);
    if (rows <= DOT_ROWS && g->b.rs == 1 && g->k >= (rows == 1 ? 2 : DOT_FROM)) return 1;
    return rows > 1 && g->n <= DOT_ROWS && g->a.cs == 1 && g->k >= (g->n == 1 ? 2 : DOT_FROM);
}

/* The sum of n products from p on: SUMS chains, joined by halves. */
static T tree(const pn_gemm_args *g, int64_t b, int64_t i, int64_t j, int64_t p, int64_t n) {
    T s[SUMS] = {0};
    for (int64_t e = 0; e < (n + SUMS - 1) / SUMS * SUMS; e++) {
        T x = e < n ? *at(&g->a, g, b, i, p + e) : 0, y = e < n ? *at(&g->b, g, b, p + e, j) : 0;
        s[e % SUMS] = madd(x, y, s[e % SUMS]);
    }
    for (int w = SUMS / 2; w > 0; w /= 2)
        for (int l = 0; l < w; l++) s[l] += s[l + w];
    return s[0];
}

static T define(const pn_gemm_args *g, int64_t b, int64_t i, int64_t j, wide *sum, wide *size) {
    int64_t most = dots(g) ? KD : KC, blocks = g->k ? (g->k + most - 1) / most : 1;
    int64_t p = 0;
    T old = *at(&g->c, g, b, i, j), r = 0;
    *sum = g->accumulate ? old : 0;
    *size = fabs((double)*sum);
    for (int64_t q = 0; q < blocks; q++) {
        int64_t n = g->k / blocks + (q < g->k % blocks);
        T s = most == KD ? tree(g, b, i, j, p, n) : 0;
        for (int64_t e = p + n; p < e; p++) {
            T x = *at(&g->a, g, b, i, p), y = *at(&g->b, g, b, p, j);
            if (most == KC) s = madd(x, y, s);
            *sum += (wide)x * y;
            *size += fabs((double)x * (double)y);
        }
        r = q ? r + s : g->accumulate ? old + s : s;
    }
    for (int e = 0; e < 2; e++) {
        const pn_mat *x = e ? &g->res : &g->bias;
        if (!x->p) continue;
        r += *at(x, g, b, i, j);
        *sum += *at(x, g, b, i, j);
        *size += fabs((double)*at(x, g, b, i, j));
    }
    if (g->relu && r <= 0) r = 0;
    if (g->relu && *sum < 0) *sum = 0;
    if (g->act) r *= 2, *sum *= 2, *size *= 2;
    return r;
}

static int same(T x, T y) { return memcmp(&x, &y, sizeof x) == 0 || (x != x && y != y); }

/* ---- one random product ----------------------------------------------------------------------- */

static int64_t some_size(void) {
    static const int64_t edge[] = {1, 4, 6, 8, 14, 16, 32, 64, 128, 192, 256};
    int r = (int)below(100);
    if (r < 3) return 0;
    if (r < 45) return edge[below(9)] + below(3) - 1;
    if (r < 55) return edge[below(11)] + below(3) - 1;
    if (r < 95) return below(70);
    return 70 + below(230);
}

static void set_special(pn_gemm_args *g, pn_mat *x, int64_t rows, int64_t cols) {
    static const T what[] = {(T)NAN, (T)INFINITY, (T)-INFINITY, (T)-0.0, (T)3e38};
    for (int e = 0; rows && cols && e < 3; e++)
        *at(x, g, 0, below(rows), below(cols)) = what[below(5)];
}

static void check(const pn_gemm_args *g, const store *c, const T *before, const T *want,
                  int64_t count, int threads, int64_t div) {
    T *was = malloc((size_t)(c->n + 2 * c->guard) * sizeof(T));
    memcpy(was, before, (size_t)(c->n + 2 * c->guard) * sizeof(T));
    for (int64_t e = 0; e < count; e++) {
        int64_t j = e % g->n, i = e / g->n % g->m, b = e / g->n / g->m;
        T *p = at(&g->c, g, b, i, j), got = *p;
        if (!same(got, want[e])) {
            fprintf(stderr,
                    "%lldx%lldx%lld b %lld at %lld,%lld: %.9g, not %.9g (%d threads, div %lld)\n",
                    (long long)g->m, (long long)g->k, (long long)g->n, (long long)b, (long long)i,
                    (long long)j, (double)got, (double)want[e], threads, (long long)div);
            exit(1);
        }
        was[p - c->base] = got;
    }
    if (memcmp(was, c->base, (size_t)(c->n + 2 * c->guard) * sizeof(T))) {
        fprintf(stderr, "%lldx%lldx%lld: wrote outside of C\n", (long long)g->m, (long long)g->k,
                (long long)g->n);
        exit(1);
    }
    free(was);
}

static int along; /* whether the product that runs is one of dots */

static void run(const pn_gemm_args *g) {
    pn_call call = {0};
    int64_t bytes = PN_NAME(gemm_scratch)(g);
    void *scratch = NULL;
    if (bytes && posix_memalign(&scratch, PN_ALIGN, (size_t)bytes)) abort();
    along = dots(g);
    PN_NAME(gemm)(&call, g, scratch);
    free(scratch);
}

static void run_all_ways(const pn_gemm_args *g, const store *c, const T *want, int64_t count) {
    size_t bytes = (size_t)(c->n + 2 * c->guard) * sizeof(T);
    T *before = malloc(bytes);
    memcpy(before, c->base, bytes);
    for (int threads = 1; threads <= 4; threads *= 2)
        for (int64_t div = 1; div <= 64; div *= 64) {
            if (pn_set_num_threads(threads)) continue;
            pn_set_chunk_div(div);
            memcpy(c->base, before, bytes);
            run(g);
            check(g, c, before, want, count, threads, div);
        }
    free(before);
}

static double one_case(void) {
    static const int form[] = {PLAIN, PLAIN, TURNED, ANY};
    pn_gemm_args g = {.m = some_size(), .n = some_size(), .k = some_size()};
    int64_t d[MAXD], count = 1;
    double worst = 0;
    store s[5] = {{0}};
    if (chance(15)) g.k += 300 * below(4);
    if (chance(8))
        g.m = 64 + below(150), g.n = 64 + below(150), g.k = 64 + below(150); /* packed, in chunks */
    if (chance(5)) g.m = 1 + below(20), g.n = 1 + below(20), g.k = 1800 + below(3000); /* k split */
    if (chance(4))
        g.m = 1 + below(5), g.n = below(12), g.k = (chance(30) ? 16000 : 1900) + below(3000);
    if (chance(6)) /* dots */
        *(chance(50) ? &g.m : &g.n) = 1 + below(6), g.k = 100 + below(60);
    if (chance(4)) /* rows of C meet in one set of L1 */
        g.m = 10 + below(40), g.n = 4096 / (int)sizeof(T), g.k = 60 + below(20);
    if (chance(12)) *(chance(70) ? &g.m : &g.n) = 1;
    g.accumulate = chance(30);
    g.relu = chance(30);
    g.n_batch = chance(70) ? 0 : 1 + (int)below(3);
    for (int i = 0; i < g.n_batch; i++) count *= d[i] = g.batch[i] = chance(4) ? 0 : 1 + below(3);
    static const T two = 2;
    int nd = g.n_batch + 2, zeros = chance(30);
    if (count * g.m * g.n * g.k > 30000000) return 0;
    d[nd - 2] = g.m, d[nd - 1] = g.k;
    s[0] = make(&g.a, nd, d, form[below(4)], zeros, 0);
    d[nd - 2] = g.k, d[nd - 1] = g.n;
    s[1] = make(&g.b, nd, d, form[below(4)], zeros, 0);
    for (int i = 0; i < g.n_batch; i++) g.b.bs[i] = chance(40) ? 0 : g.b.bs[i];
    d[nd - 2] = g.m, d[nd - 1] = g.n;
    s[2] = make(&g.c, nd, d, form[below(4)], 0, GUARD);
    if (chance(40)) {
        s[3] = make(&g.bias, nd, d, form[below(4)], zeros, 0);
        if (chance(60)) *(chance(70) ? &g.bias.rs : &g.bias.cs) = 0;
    }
    if (chance(30)) s[4] = make(&g.res, nd, d, form[below(4)], zeros, 0);
    if (chance(15)) g.act = scale, g.act_arg = &two;
    count *= g.m * g.n;
    int special = count && chance(10);
    if (special) set_special(&g, &g.a, g.m, g.k), set_special(&g, &g.b, g.k, g.n);
    T *want = malloc((size_t)(count + 1) * sizeof(T));
    for (int64_t e = 0; e < count; e++)
        *at(&g.c, &g, e / g.n / g.m, e / g.n % g.m, e % g.n) = value();
    for (int64_t e = 0; e < count; e++) {
        wide sum, size;
        want[e] = define(&g, e / g.n / g.m, e / g.n % g.m, e % g.n, &sum, &size);
        double err =
            fabs((double)(want[e] - sum)) / (EPS * ((double)g.k / 2 + 4) * (double)size + 1e-300);
        if (!special && !(err <= worst)) worst = err;
    }
    run_all_ways(&g, &s[2], want, count);
    free(want);
    for (int e = 0; e < 5; e++) free(s[e].base);
    if (!(worst <= 1))
        fprintf(stderr, "the definition itself is off: %g of its bound\n", worst), exit(1);
    return worst;
}

/* ---- speed ------------------------------------------------------------------------------------ */

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Sums that do not wait for one another, kept in registers by the empty asm. */
#ifdef __aarch64__
#define KEEP(x) __asm__ volatile("" : "+w"(x))
#else
#define KEEP(x) __asm__ volatile("" : "+x"(x))
#endif
static double peak(void) {
    pn_h x = 1 - (pn_h){0}, y = x / 2, a = x, b = x, c = x, d = x, e = x, f = x, g = x, h = x,
         i = x, j = x;
    int64_t n = 20000;
    double t = now();
    for (int64_t r = 0; r < n; r++) {
#define STEP(s)                                                                                    \
    s = pn_fma_h(s, x, y);                                                                         \
    KEEP(s);
        STEP(a) STEP(b) STEP(c) STEP(d) STEP(e) STEP(f) STEP(g) STEP(h) STEP(i) STEP(j)
    }
    return 2e-9 * 10 * (double)(sizeof x / sizeof(T)) * (double)n / (now() - t);
}

typedef struct shape {
    int64_t m, k, n;
} shape;

/* One product timed over some 100 us or more; form: 0 NN, 1 NT, 2 TN. */
static double speed(const shape *s, int form, T *a, T *b, T *c, T *bias, void *scratch) {
    pn_gemm_args g = {.m = s->m, .n = s->n, .k = s->k, .relu = bias != NULL};
    pn_call call = {0};
    double flop = 2. * (double)s->m * (double)s->n * (double)s->k;
    int64_t rep = 1 + (int64_t)(1e7 / flop);
    g.a = form == 2 ? (pn_mat){.p = a, .rs = 1, .cs = s->m} : (pn_mat){.p = a, .rs = s->k, .cs = 1};
    g.b = form == 1 ? (pn_mat){.p = b, .rs = 1, .cs = s->k} : (pn_mat){.p = b, .rs = s->n, .cs = 1};
    g.c = (pn_mat){.p = c, .rs = s->n, .cs = 1};
    g.bias = bias ? (pn_mat){.p = bias, .rs = 0, .cs = 1} : (pn_mat){0};
    PN_NAME(gemm)(&call, &g, scratch);
    double t = now();
    for (int64_t r = 0; r < rep; r++) PN_NAME(gemm)(&call, &g, scratch);
    return 1e-9 * flop * (double)rep / (now() - t);
}

static void bench_shape(const shape *s, int threads, T **x, void *scratch) {
    enum { ROUNDS = 15, FORMS = 4 };
    static const char *name[] = {"NN", "NT", "TN", "NT+bias+relu"};
    double f[FORMS][ROUNDS], share[FORMS][ROUNDS],
        flop = 2. * (double)s->m * (double)s->n * (double)s->k;
    for (int r = 0; r < ROUNDS; r++)
        for (int form = 0; form < FORMS; form++) {
            double p = peak();
            f[form][r] =
                speed(s, form == 3 ? 1 : form, x[0], x[1], x[2], form == 3 ? x[3] : NULL, scratch);
            share[form][r] = f[form][r] / (p + peak()) * 2 / threads;
        }
    printf("%5lldx%4lldx%4lld ", (long long)s->m, (long long)s->k, (long long)s->n);
    for (int form = 0; form < FORMS; form++) {
        qsort(f[form], ROUNDS, sizeof(double), ascending);
        qsort(share[form], ROUNDS, sizeof(double), ascending);
        printf("| %s %6.1f %3.0f%% (%.0f-%.0f) %8.2f us ", name[form], f[form][ROUNDS / 2],
               100 * share[form][ROUNDS / 2], 100 * share[form][ROUNDS / 4],
               100 * share[form][ROUNDS * 3 / 4], 1e-3 * flop / f[form][ROUNDS / 2]);
    }
    puts("");
}

static void bench(int threads, const shape *only) {
    static const shape shapes[] = {{1, 1, 1},       {32, 32, 10},     {64, 128, 10},
                                   {32, 64, 32},    {64, 64, 64},     {128, 128, 128},
                                   {256, 256, 256}, {512, 512, 512},  {1024, 1024, 1024},
                                   {64, 784, 256},  {1576, 192, 576}, {1, 784, 256}};
    T *x[4];
    void *scratch;
    if (pn_set_num_threads(threads)) exit(1);
    for (int i = 0; i < 4; i++) {
        size_t n = 2048 * 1024;
        if (posix_memalign((void **)&x[i], PN_ALIGN, n * sizeof(T))) exit(1);
        for (size_t j = 0; j < n; j++) x[i][j] = value();
    }
    if (posix_memalign(&scratch, PN_ALIGN, (size_t)64 << 20)) exit(1);
    if (only) bench_shape(only, threads, x, scratch);
    for (size_t k = 0; !only && k < sizeof shapes / sizeof *shapes; k++)
        bench_shape(&shapes[k], threads, x, scratch);
}

int main(int argc, char **argv) {
    if (argc > 1 && !strcmp(argv[1], "bench")) {
        shape s =
            argc > 5 ? (shape){atoi(argv[3]), atoi(argv[4]), atoi(argv[5])} : (shape){0, 0, 0};
        bench(argc > 2 ? atoi(argv[2]) : 1, argc > 5 ? &s : NULL);
        return 0;
    }
    int cases = argc > 1 ? atoi(argv[1]) : 400;
    uint64_t seed = argc > 2 ? (uint64_t)atoll(argv[2]) : 1;
    double worst = 0;
    for (int i = 0; i < cases; i++) {
        state = (seed * 1000003u + (uint64_t)i) * 0x9E3779B97F4A7C15ull | 1;
        for (int w = 0; w < 4; w++) next();
        double e = one_case();
        if (e > worst) worst = e;
    }
    printf("gemm: %d products, largest error %.2f of its bound\n", cases, worst);
#ifndef PN_TEST_SERIAL
    pn_par_info info;
    pn_par_stats(&info);
    if (!info.parallel) fprintf(stderr, "the team never ran\n"), exit(1);
#endif
    return 0;
}
