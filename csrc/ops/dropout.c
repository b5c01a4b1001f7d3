/* dropout.c: random bits by position, and what drops elements with them.
 *
 * philox_mask  mask[i] = u[i] < (1 - p)·2³²
 * dropout      y[i] = x[i]/(1 - p) where the mask is true, else 0
 * rng_take     key = state = (seed, counter); counter += 1
 *
 * u[i], i the logical (row-major) position, is a word of Philox4x32-10 (Salmon, Moraes, Dror, Shaw: Parallel
 * random numbers: as easy as 1, 2, 3, SC 2011) under key seed and counter (block, counter of the key). A
 * group of 32 positions is 8 blocks: word w of block k of group q belongs to position 32q + 8w + k, so that
 * 8 blocks run side by side and no word changes its lane. Strides, threads and ISA have no part in it.
 */
#include <string.h>

#include "pn_kernel.h"
#if defined __x86_64__
#include <immintrin.h>
#endif

#define GROUP 32     /* positions that 8 blocks serve */
#define BLOCK 256    /* positions worked on at once */
#define CHUNK 32768  /* positions a chunk */

#if defined __AVX512F__
#define LANES 8
#elif defined __AVX2__
#define LANES 4
#else
#define LANES 2
#endif
typedef uint64_t U __attribute__((vector_size(8 * LANES)));
typedef uint32_t W __attribute__((vector_size(4 * LANES)));

/* the product of the lower halves of each lane */
static inline U mul_low(U a, U b) {
#if defined __AVX512F__
    return (U)_mm512_mul_epu32((__m512i)a, (__m512i)b);
#elif defined __AVX2__
    return (U)_mm256_mul_epu32((__m256i)a, (__m256i)b);
#elif defined __x86_64__
    return (U)_mm_mul_epu32((__m128i)a, (__m128i)b);
#else
    return (a & 0xffffffff) * (b & 0xffffffff);
#endif
}

#define ROUNDS 10
#define SIDE                                                                                       \
    (8 / LANES < 2 ? 1 : 2) /* vectors worked on side by side: a round waits for its products */

/* The words of n positions from lo, a multiple of GROUP; rounded up to whole groups. What a round leaves in
 * the upper half of a lane is never read. */
static void words(uint32_t *out, int64_t lo, int64_t n, const int64_t *key) {
    const U m0 = (U){0} + 0xD2511F53u, m1 = (U){0} + 0xCD9E8D57u;
    const U low = (U){0} + (uint32_t)key[1], high = (U){0} + ((uint64_t)key[1] >> 32);
    U k0[ROUNDS], k1[ROUNDS], lanes;
    for (uint32_t r = 0; r < ROUNDS; r++) {
        k0[r] = (U){0} + (uint32_t)((uint32_t)key[0] + r * 0x9E3779B9u);
        k1[r] = (U){0} + (uint32_t)((uint32_t)((uint64_t)key[0] >> 32) + r * 0xBB67AE85u);
    }
    for (int l = 0; l < LANES; l++) lanes[l] = (uint64_t)l;
    for (int64_t i = 0; i < n; i += GROUP)
        for (int part = 0; part < 8; part += SIDE * LANES) {
            U c[SIDE][4];
            for (int s = 0; s < SIDE; s++) {
                c[s][0] = lanes + (uint64_t)((lo + i) / GROUP * 8 + part + s * LANES);
                c[s][1] = c[s][0] >> 32, c[s][2] = low, c[s][3] = high;
            }
            for (int r = 0; r < ROUNDS; r++)
                for (int s = 0; s < SIDE; s++) {
                    U p0 = mul_low(m0, c[s][0]), p1 = mul_low(m1, c[s][2]);
                    c[s][0] = (p1 >> 32) ^ c[s][1] ^ k0[r], c[s][1] = p1;
                    c[s][2] = (p0 >> 32) ^ c[s][3] ^ k1[r], c[s][3] = p0;
                }
            for (int s = 0; s < SIDE; s++)
                for (int w = 0; w < 4; w++) {
                    const W half = __builtin_convertvector(c[s][w], W);
                    memcpy(out + i + 8 * w + part + s * LANES, &half, sizeof half);
                }
        }
}

typedef struct drop {
    int64_t key[2], total, grain;
    int none, dense; /* none: nothing is kept */
    uint32_t top; /* an element is kept where its word is at most top */
    const pn_array *x, *y;
} drop;

static drop plan_drop(const pn_array *key, const pn_array *x, const pn_array *y, double p) {
    const int64_t *k = key->data;
    double keep = (1 - p) * 4294967296.0 + 0.5;
    drop d = {.key = {k[0], k[key->strides[0]]}, .total = pn_size(y), .x = x, .y = y};
    d.none = keep < 1;
    d.top = keep >= 4294967296.0 ? UINT32_MAX : d.none ? 0 : (uint32_t)keep - 1;
    d.grain = pn_ceil_div(pn_grain(CHUNK), BLOCK) * BLOCK;
    return d;
}

#if PN_KIND == PN_any

static void mask_chunk(pn_call *c, void *arg, int64_t chunk, int worker) {
    const drop *d = arg;
    int64_t lo = chunk * d->grain, hi = pn_min(d->total, lo + d->grain);
    uint8_t *y = d->y->data;
    uint32_t u[BLOCK];
    (void)c, (void)worker;
    for (; lo < hi; lo += BLOCK) {
        int64_t n = pn_min(BLOCK, hi - lo);
        words(u, lo, n, d->key);
        for (int64_t i = 0; i < n; i++) y[lo + i] = u[i] <= d->top && !d->none;
    }
}

PN_FN(philox_mask_fwd) {
    const pn_array *mask = ARG(philox_mask_fwd, mask);
    drop d = plan_drop(ARG(philox_mask_fwd, key), NULL, mask, PAR(philox_mask_fwd, p).f);
    pn_for(c, pn_ceil_div(d.total, d.grain), mask_chunk, &d);
}

PN_FN(rng_take_step) {
    pn_array *state = ARG(rng_take_step, state), *key = ARG(rng_take_step, key);
    int64_t *s = state->data, *k = key->data, step = state->strides[0];
    k[0] = s[0], k[1] = s[step];
    s[step] = (int64_t)((uint64_t)s[step] + 1);
}

#endif

#if PN_FLOAT

static int is_dense(const pn_array *a) {
    int64_t n = 1;
    for (int d = a->ndim - 1; d >= 0; d--) {
        if (a->shape[d] != 1 && a->strides[d] != n) return 0;
        n *= a->shape[d];
    }
    return 1;
}

#if PN_KIND == PN_f32
typedef uint32_t bits;
#else
typedef uint64_t bits;
#endif

/* v where its word is at most top, else 0; by a mask of bits, since a branch would often be guessed wrong */
static inline T kept(T v, uint32_t word, uint32_t top) {
    bits b;
    memcpy(&b, &v, sizeof b);
    b &= -(bits)(word <= top);
    memcpy(&v, &b, sizeof b);
    return v;
}

/* n positions from lo whose words are u: a row of the last dimension at a time */
static void drop_strided(const drop *d, const uint32_t *u, int64_t lo, int64_t n, T scale) {
    const pn_array *x = d->x, *y = d->y;
    int last = y->ndim - 1;
    for (int64_t i = 0, m; i < n; i += m) {
        int64_t rest = lo + i, xo = 0, yo = 0;
        m = pn_min(n - i, y->shape[last] - rest % y->shape[last]);
        for (int k = last; k >= 0; k--) {
            xo += rest % y->shape[k] * x->strides[k], yo += rest % y->shape[k] * y->strides[k];
            rest /= y->shape[k];
        }
        const T *from = (const T *)x->data + xo;
        T *to = (T *)y->data + yo;
        for (int64_t k = 0; k < m; k++)
            to[k * y->strides[last]] = kept(from[k * x->strides[last]] * scale, u[i + k], d->top);
    }
}

static void drop_chunk(pn_call *c, void *arg, int64_t chunk, int worker) {
    const drop *d = arg;
    int64_t lo = chunk * d->grain, hi = pn_min(d->total, lo + d->grain);
    const T scale = d->none ? 0 : (T)(1 / (1 - PAR(dropout_fwd, p).f)), *x = d->x->data;
    T *y = d->y->data;
    uint32_t u[BLOCK];
    (void)worker;
    if (d->none) memset(u, 0xff, sizeof u); /* above top, which is 0 */
    for (; lo < hi; lo += BLOCK) {
        int64_t n = pn_min(BLOCK, hi - lo);
        if (!d->none) words(u, lo, n, d->key);
        if (!d->dense)
            drop_strided(d, u, lo, n, scale);
        else
            for (int64_t i = 0; i < n; i++) y[lo + i] = kept(x[lo + i] * scale, u[i], d->top);
    }
}

PN_FN(dropout_fwd) {
    const pn_array *x = ARG(dropout_fwd, x), *y = ARG(dropout_fwd, y);
    drop d = plan_drop(ARG(dropout_fwd, key), x, y, PAR(dropout_fwd, p).f);
    d.dense = is_dense(x) && is_dense(y);
    pn_for(c, pn_ceil_div(d.total, d.grain), drop_chunk, &d);
}

#endif
