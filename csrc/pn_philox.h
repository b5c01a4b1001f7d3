/* pn_philox.h: random words by position, of Philox4x32-10 (Salmon, Moraes, Dror, Shaw: Parallel random numbers: as
 * easy as 1, 2, 3, SC 2011), and which positions dropout keeps.
 *
 * The word of position i is under key seed and counter (block, counter of the key). A group of 32 positions is
 * 8 blocks: word w of block k of group q belongs to position 32q + 8w + k, so that 8 blocks run side by side and
 * no word changes its lane. Strides, threads and ISA have no part in it.
 */
#ifndef PN_PHILOX_H
#define PN_PHILOX_H

#include <string.h>

#include "pn_kernel.h"
#if defined __x86_64__
#include <immintrin.h>
#endif

#define PHILOX_GROUP 32 /* positions that 8 blocks serve */

#if defined __AVX512F__
#define PHILOX_LANES 8
#elif defined __AVX2__
#define PHILOX_LANES 4
#else
#define PHILOX_LANES 2
#endif
typedef uint64_t philox_u __attribute__((vector_size(8 * PHILOX_LANES)));
typedef uint32_t philox_w __attribute__((vector_size(4 * PHILOX_LANES)));

/* the product of the lower halves of each lane */
static inline philox_u philox_mul(philox_u a, philox_u b) {
#if defined __AVX512F__
    return (philox_u)_mm512_mul_epu32((__m512i)a, (__m512i)b);
#elif defined __AVX2__
    return (philox_u)_mm256_mul_epu32((__m256i)a, (__m256i)b);
#elif defined __x86_64__
    return (philox_u)_mm_mul_epu32((__m128i)a, (__m128i)b);
#else
    return (a & 0xffffffff) * (b & 0xffffffff);
#endif
}

#define PHILOX_ROUNDS 10
/* vectors worked on side by side: a round waits for its products */
#define PHILOX_SIDE (8 / PHILOX_LANES < 2 ? 1 : 2)

/* The words of n positions from lo, a multiple of PHILOX_GROUP; rounded up to whole groups. What a round leaves in
 * the upper half of a lane is never read. */
static inline void philox_words(uint32_t *out, int64_t lo, int64_t n, const int64_t *key) {
    const philox_u m0 = (philox_u){0} + 0xD2511F53u, m1 = (philox_u){0} + 0xCD9E8D57u;
    const philox_u low = (philox_u){0} + (uint32_t)key[1],
                   high = (philox_u){0} + ((uint64_t)key[1] >> 32);
    philox_u k0[PHILOX_ROUNDS], k1[PHILOX_ROUNDS], lanes;
    for (uint32_t r = 0; r < PHILOX_ROUNDS; r++) {
        k0[r] = (philox_u){0} + (uint32_t)((uint32_t)key[0] + r * 0x9E3779B9u);
        k1[r] = (philox_u){0} + (uint32_t)((uint32_t)((uint64_t)key[0] >> 32) + r * 0xBB67AE85u);
    }
    for (int l = 0; l < PHILOX_LANES; l++) lanes[l] = (uint64_t)l;
    for (int64_t i = 0; i < n; i += PHILOX_GROUP)
        for (int part = 0; part < 8; part += PHILOX_SIDE * PHILOX_LANES) {
            philox_u c[PHILOX_SIDE][4];
            for (int s = 0; s < PHILOX_SIDE; s++) {
                c[s][0] = lanes + (uint64_t)((lo + i) / PHILOX_GROUP * 8 + part + s * PHILOX_LANES);
                c[s][1] = c[s][0] >> 32, c[s][2] = low, c[s][3] = high;
            }
            for (int r = 0; r < PHILOX_ROUNDS; r++)
                for (int s = 0; s < PHILOX_SIDE; s++) {
                    philox_u p0 = philox_mul(m0, c[s][0]), p1 = philox_mul(m1, c[s][2]);
                    c[s][0] = (p1 >> 32) ^ c[s][1] ^ k0[r], c[s][1] = p1;
                    c[s][2] = (p0 >> 32) ^ c[s][3] ^ k1[r], c[s][3] = p0;
                }
            for (int s = 0; s < PHILOX_SIDE; s++)
                for (int w = 0; w < 4; w++) {
                    const philox_w half = __builtin_convertvector(c[s][w], philox_w);
                    memcpy(out + i + 8 * w + part + s * PHILOX_LANES, &half, sizeof half);
                }
        }
}

/* What dropout with probability p keeps under a key: positions whose word is at most top. */
typedef struct keeping {
    int64_t key[2];
    int none; /* nothing is kept */
    uint32_t top;
} keeping;

static inline keeping keeping_of(const pn_array *key, double p) {
    const int64_t *k = key->data;
    double keep = (1 - p) * 4294967296.0 + 0.5;
    keeping d = {.key = {k[0], k[key->strides[0]]}, .none = keep < 1};
    d.top = keep >= 4294967296.0 ? UINT32_MAX : d.none ? 0 : (uint32_t)keep - 1;
    return d;
}

#endif
