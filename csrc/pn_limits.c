/* pn_limits.c: what the machine can do, for benchmarks to hold kernels against.
 *
 *   fma      c_k = a c_k + b, k < CHAINS, on registers: the rate of arithmetic
 *   stream   y_j[i] = Σ_k x_k[i], j < writes, k < reads: the rate of memory. Without writes the sums
 *            stay in registers. y_j may be x_j: a line that was read is then written back.
 *
 * Both are cut into as many chunks as there are threads; a chunk goes over its share again and again.
 */
#include "pn_kernel.h"
#include "pn_simd.h"

#define CHAINS 12       /* cover the latency of two units; with a and b they fit 16 registers */
#define AHEAD_BYTES 1024 /* that PN_STREAM_AHEAD fetches ahead */

typedef struct fma_work {
    int64_t rounds;
    T *result;
} fma_work;

static void fma_chunk(pn_call *c, void *arg, int64_t chunk, int worker) {
    const fma_work *f = arg;
    V a = pn_set1((T)0.5), b = pn_set1((T)chunk), x[CHAINS];
    (void)c, (void)worker;
    for (int k = 0; k < CHAINS; k++) x[k] = pn_set1((T)k);
    for (int64_t i = 0; i < f->rounds; i++) {
        PN_UNROLL
        for (int k = 0; k < CHAINS; k++) x[k] = pn_fma(a, x[k], b);
    }
    for (int k = 1; k < CHAINS; k++) x[0] += x[k];
    f->result[chunk] = pn_hsum(x[0]);
}

/* The flops of `threads` shares of rounds; result has room for as many numbers. */
double PN_NAME(limit_fma)(int threads, int64_t rounds, T *result) {
    fma_work f = {rounds, result};
    pn_call c = {0};
    pn_for(&c, threads, fma_chunk, &f);
    return 2.0 * CHAINS * PN_VL * (double)rounds * threads;
}

typedef struct stream_work {
    T *const *x, *const *y;
    int64_t n, passes;
    int reads, writes, how, threads;
} stream_work;

/* Elements lo .. hi, whole groups of 4 vectors; reads, writes and how are constants */
PN_INLINE V stream_loop(const stream_work *s, int64_t lo, int64_t hi, int reads, int writes,
                        int how) {
    T *x[PN_STREAM_READS], *y[PN_STREAM_WRITES];
    V total[4] = {0};
    for (int k = 0; k < reads; k++) x[k] = s->x[k];
    for (int j = 0; j < writes; j++) y[j] = s->y[j];
    for (int64_t i = lo; i < hi; i += 4 * PN_VL) {
        if (how == PN_STREAM_AHEAD)
            for (int k = 0; k < reads; k++)
                for (int b = 0; b < 4 * PN_VBYTES; b += PN_ALIGN)
                    __builtin_prefetch((char *)(x[k] + i) + AHEAD_BYTES + b);
        PN_UNROLL
        for (int u = 0; u < 4; u++) {
            V v = reads ? pn_load(x[0] + i + u * PN_VL) : pn_set1(1);
            for (int k = 1; k < reads; k++) v += pn_load(x[k] + i + u * PN_VL);
            if (!writes) total[u] += v;
            for (int j = 0; j < writes; j++)
                if (how == PN_STREAM_PAST)
                    pn_stream(y[j] + i + u * PN_VL, v);
                else
                    pn_store(y[j] + i + u * PN_VL, v);
        }
    }
    return (total[0] + total[1]) + (total[2] + total[3]);
}

#define CASE(r, w, h)                                                                              \
    case (r * 4 + w) * 3 + h:                                                                      \
        return stream_loop(s, lo, hi, r, w, h);
#define HOWS(r, w) CASE(r, w, 0) CASE(r, w, 1) CASE(r, w, 2)
#define WRITES(r) HOWS(r, 1) HOWS(r, 2) HOWS(r, 3)

static V stream_pass(const stream_work *s, int64_t lo, int64_t hi) {
    switch ((s->reads * 4 + s->writes) * 3 + s->how) {
        WRITES(0)
        HOWS(1, 0) WRITES(1) HOWS(2, 0) WRITES(2) HOWS(3, 0) WRITES(3) HOWS(4, 0) WRITES(4)
    }
    return pn_set1(0);
}

static void stream_chunk(pn_call *c, void *arg, int64_t chunk, int worker) {
    const stream_work *s = arg;
    int64_t unit = 4 * PN_VL, share = pn_ceil_div(s->n / unit, s->threads) * unit;
    int64_t lo = chunk * share, hi = pn_min(s->n / unit * unit, lo + share);
    V sum = {0};
    (void)c, (void)worker;
    for (int64_t k = 0; k < s->passes; k++) {
        sum += stream_pass(s, lo, hi);
        __asm__ volatile("" : : : "memory"); /* a pass is not the next one's repetition */
    }
    if (s->how == PN_STREAM_PAST) pn_stream_end();
    volatile T kept = pn_hsum(sum); /* what was read is used */
    (void)kept;
}

void PN_NAME(limit_stream)(int threads, T *const *x, int reads, T *const *y, int writes, int64_t n,
                           int64_t passes, int how) {
    stream_work s = {x, y, n, passes, reads, writes, how, threads};
    pn_call c = {0};
    pn_for(&c, threads, stream_chunk, &s);
}
