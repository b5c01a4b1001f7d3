/* test_blas.c: test_gemm.c's random products through pn_blas.c and a BLAS written here.
 *
 * This BLAS adds in the order that pn_gemm.c promises, so that all products must give the bits of their
 * definition, whether it took them or they were left to pn_gemm.c. It checks what it is called with.
 */
#define PN_TEST_BLAS
#define main test_products
#include "test_gemm.c"
#undef main

static int64_t gemms, gemvs;

/* Integers of 32 bits, as in most of SciPy's builds. */
static int read_int(const void *p) { return *(const int32_t *)p; }

static void expect(int ok, const char *what) {
    if (!ok) fprintf(stderr, "BLAS was called with a bad %s\n", what), exit(1);
}

/* *c = the sum of a[p * as] b[p * bs], after beta times what c holds */
static void dot(int k, T *a, int64_t as, T *b, int64_t bs, T beta, T *c) {
    int64_t most = along ? KD : KC, blocks = k ? (k + most - 1) / most : 1, p = 0;
    pn_gemm_args g = {.k = k, .a = {.p = b, .cs = bs}, .b = {.p = a, .rs = as}};
    T r = beta != 0 ? *c : 0;
    for (int64_t q = 0; q < blocks; q++) {
        int64_t n = k / blocks + (q < k % blocks);
        T s = along ? tree(&g, 0, 0, 0, p, n) : 0;
        for (int64_t e = p + n; p < e; p++)
            if (!along) s = madd(b[p * bs], a[p * as], s);
        r = q || beta != 0 ? r + s : s;
    }
    *c = r;
}

/* Column by column, as Fortran has it. */
static void fake_gemm(char *ta, char *tb, void *m_, void *n_, void *k_, T *alpha, T *a, void *lda_,
                      T *b, void *ldb_, T *beta, T *c, void *ldc_) {
    int m = read_int(m_), n = read_int(n_), k = read_int(k_), lda = read_int(lda_),
        ldb = read_int(ldb_), ldc = read_int(ldc_);
    expect(m > 0 && n > 0 && k > 0, "size");
    expect((*ta == 'N' || *ta == 'T') && (*tb == 'N' || *tb == 'T'), "letter");
    expect(lda >= (*ta == 'N' ? m : k) && ldb >= (*tb == 'N' ? k : n) && ldc >= m, "distance");
    expect(*alpha == 1 && (*beta == 0 || *beta == 1), "factor");
    __atomic_add_fetch(&gemms, 1, __ATOMIC_RELAXED);
    for (int j = 0; j < n; j++)
        for (int i = 0; i < m; i++)
            dot(k, *ta == 'N' ? a + i : a + (int64_t)i * lda, *ta == 'N' ? lda : 1,
                *tb == 'N' ? b + (int64_t)j * ldb : b + j, *tb == 'N' ? 1 : ldb, *beta,
                c + i + (int64_t)j * ldc);
}

static void fake_gemv(char *t, void *m_, void *n_, T *alpha, T *a, void *lda_, T *x, void *incx_,
                      T *beta, T *y, void *incy_) {
    int m = read_int(m_), n = read_int(n_), lda = read_int(lda_), incx = read_int(incx_),
        incy = read_int(incy_), plain = *t == 'N';
    expect(m > 0 && n > 0 && (plain || *t == 'T') && lda >= m && incx > 0 && incy > 0, "number");
    expect(*alpha == 1 && (*beta == 0 || *beta == 1), "factor");
    __atomic_add_fetch(&gemvs, 1, __ATOMIC_RELAXED);
    int k = plain ? n : m, as = plain ? lda : 1;
    for (int i = 0; i < (plain ? m : n); i++)
        dot(k, plain ? a + i : a + (int64_t)i * lda, as, x, incx, *beta, y + (int64_t)i * incy);
}

const pn_blas_table *pn_blas(void) {
    static const pn_blas_table fake = {{(void *)fake_gemm, (void *)fake_gemm},
                                       {(void *)fake_gemv, (void *)fake_gemv}};
    return &fake;
}

int main(int argc, char **argv) {
    int failed = test_products(argc, argv);
    printf("%lld by gemm, %lld by gemv\n", (long long)gemms, (long long)gemvs);
    return failed || gemms < 100 || gemvs < 10;
}
