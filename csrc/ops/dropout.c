/* dropout.c: random bits by position, and what drops elements with them.
 *
 * philox_mask  mask[i] = u[i] < (1 - p)·2³²
 * dropout      y[i] = x[i]/(1 - p) where the mask is true, else 0
 * rng_take     key = state = (seed, counter); counter += 1
 *
 * u[i] is the word of the logical (row-major) position i: see pn_philox.h.
 */
#include "pn_philox.h"

#define BLOCK 256   /* positions worked on at once */
#define CHUNK 32768 /* positions a chunk */

typedef struct drop {
    keeping keep;
    int64_t total, grain;
    int dense;
    const pn_array *x, *y;
} drop;

static drop plan_drop(const pn_array *key, const pn_array *x, const pn_array *y, double p) {
    drop d = {.keep = keeping_of(key, p), .total = pn_size(y), .x = x, .y = y};
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
        philox_words(u, lo, n, d->keep.key);
        for (int64_t i = 0; i < n; i++) y[lo + i] = u[i] <= d->keep.top && !d->keep.none;
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
            to[k * y->strides[last]] =
                kept(from[k * x->strides[last]] * scale, u[i + k], d->keep.top);
    }
}

static void drop_chunk(pn_call *c, void *arg, int64_t chunk, int worker) {
    const drop *d = arg;
    int64_t lo = chunk * d->grain, hi = pn_min(d->total, lo + d->grain);
    const T scale = d->keep.none ? 0 : (T)(1 / (1 - PAR(dropout_fwd, p).f)), *x = d->x->data;
    T *y = d->y->data;
    uint32_t u[BLOCK];
    (void)worker;
    if (d->keep.none) memset(u, 0xff, sizeof u); /* above top, which is 0 */
    for (; lo < hi; lo += BLOCK) {
        int64_t n = pn_min(BLOCK, hi - lo);
        if (!d->keep.none) philox_words(u, lo, n, d->keep.key);
        if (!d->dense)
            drop_strided(d, u, lo, n, scale);
        else
            for (int64_t i = 0; i < n; i++) y[lo + i] = kept(x[lo + i] * scale, u[i], d->keep.top);
    }
}

PN_FN(dropout_fwd) {
    const pn_array *x = ARG(dropout_fwd, x), *y = ARG(dropout_fwd, y);
    drop d = plan_drop(ARG(dropout_fwd, key), x, y, PAR(dropout_fwd, p).f);
    d.dense = is_dense(x) && is_dense(y);
    pn_for(c, pn_ceil_div(d.total, d.grain), drop_chunk, &d);
}

#endif
