/* pn_index.h: rows by number and back: what index.c and embedding.c share.
 *
 * gather   y[n, c] = x[idx[n], c]
 * fold     y[r, c] = Σ w[n] x[from[n], c] over to[n] = r, added in the order of n
 *
 * A fold sorts the pairs (to[n], n) first, by counting 8 bits at a time: blocks of pairs count their
 * digits, a sum over digits and blocks tells each block where its pairs go, and keeps their order. Then
 * every row of y is one run of pairs, summed in registers and written once, and rows are what threads
 * share: no atomics, no partial sums, and the same bits whatever the number of threads. Pairs that lie
 * in order already, as the tokens of bags do, are not sorted.
 */
#ifndef PN_INDEX_H
#define PN_INDEX_H

#include <string.h>

#include "pn_kernel.h"
#if PN_FLOAT
#include "pn_simd.h"
#endif

#define CHUNK 32768 /* elements a chunk */
#define AHEAD 8     /* rows fetched ahead of their use */

static inline int64_t item_size(int dtype) {
    static const int8_t size[PN_NDTYPE] = {4, 8, 8, 4, 1, 1};
    return size[dtype];
}

/* The leading dimensions of an array, counted through as rows. */
typedef struct rows {
    const pn_array *a;
    int ndim, flat; /* flat: row n begins at n * step */
    int64_t step;
} rows;

static inline rows rows_of(const pn_array *a, int ndim) {
    rows r = {.a = a, .ndim = ndim, .flat = 1};
    int64_t size = 0;
    for (int d = ndim - 1; d >= 0; d--) {
        if (a->shape[d] == 1) continue;
        if (size == 0)
            r.step = a->strides[d], size = a->shape[d];
        else if (a->strides[d] == r.step * size)
            size *= a->shape[d];
        else
            r.flat = 0;
    }
    return r;
}

static inline int64_t row_at(const rows *r, int64_t n) {
    int64_t off = 0;
    if (r->flat) return n * r->step;
    for (int d = r->ndim - 1; d >= 0; d--)
        off += n % r->a->shape[d] * r->a->strides[d], n /= r->a->shape[d];
    return off;
}

static inline int64_t index_at(const rows *r, int64_t n) {
    return ((const int64_t *)r->a->data)[row_at(r, n)];
}

static inline void fetch(const char *p, int64_t bytes) {
    for (int64_t i = 0; i < bytes && i < 512; i += PN_ALIGN) __builtin_prefetch(p + i);
}

/* ---- gather --------------------------------------------------------------------------------- */

static inline void copy_run(char *to, const char *from, int64_t step, int64_t n, int64_t size) {
    if (step == 1 && n > 1)
        memcpy(to, from, (size_t)(n * size));
    else if (size == 4)
        for (int64_t i = 0; i < n; i++) ((uint32_t *)to)[i] = ((const uint32_t *)from)[i * step];
    else if (size == 8)
        for (int64_t i = 0; i < n; i++) ((uint64_t *)to)[i] = ((const uint64_t *)from)[i * step];
    else
        for (int64_t i = 0; i < n; i++) to[i] = from[i * step];
}

typedef struct pick {
    const pn_array *x; /* [R, C] */
    char *y;           /* [N, C] */
    rows idx;
    int64_t N, R, C, skip, grain; /* rows of y whose index is skip are 0 */
    int place;                    /* of idx among the arguments */
} pick;

static void pick_chunk(pn_call *c, void *arg, int64_t chunk, int worker) {
    const pick *j = arg;
    int64_t size = item_size(j->x->dtype), lo = chunk * j->grain, hi = pn_min(j->N, lo + j->grain);
    int64_t step = j->x->strides[0] * size, bytes = j->C * size;
    const char *x = j->x->data;
    (void)worker;
    for (int64_t n = lo; n < hi; n++) {
        int64_t r = index_at(&j->idx, n);
        if (r < 0 || r >= j->R) {
            pn_fail(c, PN_E_INDEX, j->place, n, (double)r);
            return;
        }
        if (n + AHEAD < hi && j->x->strides[1] == 1) {
            int64_t next = index_at(&j->idx, n + AHEAD);
            if (next >= 0 && next < j->R) fetch(x + next * step, bytes);
        }
        if (r == j->skip)
            memset(j->y + n * bytes, 0, (size_t)bytes);
        else
            copy_run(j->y + n * bytes, x + r * step, j->x->strides[1], j->C, size);
    }
}

static inline void pick_rows(pn_call *c, const pn_array *x, const pn_array *idx, int place,
                             const pn_array *y, int64_t skip) {
    pick j = {.x = x,
              .y = y->data,
              .idx = rows_of(idx, idx->ndim),
              .N = pn_size(idx),
              .R = x->shape[0],
              .C = x->shape[1],
              .skip = skip,
              .place = place};
    j.grain = pn_max(1, pn_grain(CHUNK) / pn_max(1, j.C));
    pn_for(c, pn_ceil_div(j.N, j.grain), pick_chunk, &j);
}

#if PN_FLOAT

/* ---- the order of pairs ----------------------------------------------------------------------- */

#define DIGITS 256
#define BLOCKS 32    /* of pairs, at most, in a pass of the sort */
#define RUNS 256     /* of pairs, at most, whose sums are merged */
#define PAIRS 16384  /* in a block, at least */

typedef struct fold {
    rows x, from, to, w; /* rows of x, from and w may be absent: from[n] = n, w[n] = 1 */
    int64_t N, S, R, C, xc; /* pairs; rows of x and of y; columns, and their stride in x */
    int64_t skip_from, skip_to; /* pairs with such an index do not count; < 0: none */
    int from_place, to_place;
    uint64_t *key, *other; /* [N]: to[n] << shift | n; R for to[n] where the pair does not count */
    int64_t *count; /* [BLOCKS, DIGITS], later [RUNS] */
    int64_t block, blocks, grain, row_parts, col_parts;
    int shift, digit;
    T *y;
    int64_t *index, n_out; /* of merged rows: their numbers, and how many find room */
} fold;

static inline int bits_of(int64_t n) { return n > 0 ? 64 - __builtin_clzll((uint64_t)n) : 0; }

static inline int64_t fold_scratch(int64_t N) {
    return 2 * N * (int64_t)sizeof(uint64_t) + BLOCKS * DIGITS * (int64_t)sizeof(int64_t);
}

/* Checks the indices of a block and writes its keys; count[block] tells whether they are in order. */
static void key_chunk(pn_call *c, void *arg, int64_t chunk, int worker) {
    fold *f = arg;
    int64_t lo = chunk * f->block, hi = pn_min(f->N, lo + f->block);
    uint64_t last = 0, ordered = 1;
    (void)worker;
    for (int64_t n = lo; n < hi; n++) {
        int64_t to = index_at(&f->to, n), skipped = f->skip_to >= 0 && to == f->skip_to;
        if (!skipped && (to < 0 || to >= f->R)) {
            pn_fail(c, PN_E_INDEX, f->to_place, n, (double)to);
            return;
        }
        if (f->from.a) {
            int64_t from = index_at(&f->from, n);
            if (from < 0 || from >= f->S) {
                pn_fail(c, PN_E_INDEX, f->from_place, n, (double)from);
                return;
            }
            skipped |= f->skip_from >= 0 && from == f->skip_from;
        }
        uint64_t key = (uint64_t)(skipped ? f->R : to) << f->shift | (uint64_t)n;
        ordered &= key >= last;
        f->key[n] = last = key;
    }
    f->count[chunk] = (int64_t)ordered;
}

static void count_chunk(pn_call *c, void *arg, int64_t chunk, int worker) {
    fold *f = arg;
    int64_t lo = chunk * f->block, hi = pn_min(f->N, lo + f->block),
            *count = f->count + chunk * DIGITS;
    (void)c, (void)worker;
    memset(count, 0, DIGITS * sizeof *count);
    for (int64_t n = lo; n < hi; n++) count[f->key[n] >> f->digit & (DIGITS - 1)]++;
}

static void move_chunk(pn_call *c, void *arg, int64_t chunk, int worker) {
    fold *f = arg;
    int64_t lo = chunk * f->block, hi = pn_min(f->N, lo + f->block),
            *at = f->count + chunk * DIGITS;
    (void)c, (void)worker;
    for (int64_t n = lo; n < hi; n++)
        f->other[at[f->key[n] >> f->digit & (DIGITS - 1)]++] = f->key[n];
}

/* Fills f->key with the pairs in order; 0 after an error. */
static int fold_sort(pn_call *c, fold *f, void *scratch) {
    int ordered = 1;
    f->shift = bits_of(f->N - 1);
    if (f->shift + bits_of(f->R) > 64) { /* scratch for so many pairs would not fit either */
        pn_fail(c, PN_E_MEMORY, f->to_place, 0, 0);
        return 0;
    }
    f->key = scratch, f->other = f->key + f->N, f->count = (int64_t *)(f->other + f->N);
    f->block = pn_max(pn_grain(PAIRS), pn_ceil_div(f->N, BLOCKS));
    f->blocks = pn_ceil_div(f->N, f->block);
    pn_for(c, f->blocks, key_chunk, f);
    if (c->err.code != PN_OK) return 0;
    for (int64_t b = 0; b < f->blocks; b++)
        ordered &= f->count[b] && (b == 0 || f->key[b * f->block] >= f->key[b * f->block - 1]);
    if (ordered) return 1;
    for (f->digit = f->shift; f->digit < f->shift + bits_of(f->R); f->digit += 8) {
        int64_t sum = 0;
        uint64_t *swap = f->key;
        pn_for(c, f->blocks, count_chunk, f);
        for (int d = 0; d < DIGITS; d++)
            for (int64_t b = 0; b < f->blocks; b++) {
                int64_t n = f->count[b * DIGITS + d];
                f->count[b * DIGITS + d] = sum, sum += n;
            }
        pn_for(c, f->blocks, move_chunk, f);
        f->key = f->other, f->other = swap;
    }
    return 1;
}

static inline int64_t row_of(const fold *f, int64_t i) { return (int64_t)(f->key[i] >> f->shift); }

/* The first pair of row r or of a later one. */
static int64_t first_pair(const fold *f, int64_t r) {
    int64_t lo = 0, hi = f->N;
    while (lo < hi) {
        int64_t mid = lo + (hi - lo) / 2;
        if (row_of(f, mid) < r)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

/* ---- sums of runs of pairs ---------------------------------------------------------------------- */

/* The row of x, from column k, that pair i adds, and its weight. from was checked, but its memory may
 * be written by another thread since. */
PN_INLINE const T *source(const fold *f, int64_t i, int64_t k) {
    int64_t n = (int64_t)(f->key[i] & (((uint64_t)1 << f->shift) - 1));
    if (f->from.a) {
        n = index_at(&f->from, n);
        if (n < 0 || n >= f->S) n = 0;
    }
    return (const T *)f->x.a->data + row_at(&f->x, n) + k * f->xc;
}

PN_INLINE T weight(const fold *f, int64_t i) {
    int64_t n = (int64_t)(f->key[i] & (((uint64_t)1 << f->shift) - 1));
    return ((const T *)f->w.a->data)[row_at(&f->w, n)];
}

/* m elements of p, of stride step */
PN_INLINE V spread(const T *p, int64_t step, int64_t m) {
    V v = pn_set1(0);
    if (step == 1) return pn_load_part(p, m, 0);
    for (int64_t i = 0; i < pn_min(m, PN_VL); i++) v[i] = p[i * step];
    return v;
}

/* Columns k .. k + m of the sum of pairs lo .. hi, n_vec vectors of which all but the last are full. */
PN_INLINE void sum_tile(const fold *f, int64_t lo, int64_t hi, T *y, int64_t k, int64_t m,
                        int n_vec) {
    V sum[8];
    for (int v = 0; v < n_vec; v++) sum[v] = pn_set1(0);
    for (int64_t i = lo; i < hi; i++) {
        const T *p = source(f, i, k);
        V w = pn_set1(f->w.a ? weight(f, i) : 1);
        for (int v = 0; v < n_vec; v++) {
            V x = n_vec > 1 ? pn_load(p + v * PN_VL) : spread(p, f->xc, m);
            sum[v] = f->w.a ? pn_fma(w, x, sum[v]) : sum[v] + x;
        }
    }
    for (int v = 0; v < n_vec; v++) pn_store_part(y + v * PN_VL, sum[v], m - v * PN_VL);
}

/* y[0 .. n) = columns from k of the sum of pairs lo .. hi */
static void sum_run(const fold *f, int64_t lo, int64_t hi, T *y, int64_t k, int64_t n) {
    int64_t at = 0, bytes = n * (int64_t)sizeof(T);
    if (f->xc == 1)
        for (int64_t i = pn_min(lo + AHEAD, f->N); i < pn_min(hi + AHEAD, f->N); i++)
            if (row_of(f, i) < f->R) fetch((const char *)source(f, i, k), bytes);
    for (; f->xc == 1 && n - at >= 8 * PN_VL; at += 8 * PN_VL)
        sum_tile(f, lo, hi, y + at, k + at, 8 * PN_VL, 8);
    for (; f->xc == 1 && n - at >= 2 * PN_VL; at += 2 * PN_VL)
        sum_tile(f, lo, hi, y + at, k + at, 2 * PN_VL, 2);
    for (; at < n; at += PN_VL) sum_tile(f, lo, hi, y + at, k + at, n - at, 1);
}

/* Rows and columns of y that belong to a chunk, those without a pair set to 0. */
static void fold_chunk(pn_call *c, void *arg, int64_t chunk, int worker) {
    const fold *f = arg;
    int64_t lo = chunk / f->col_parts * f->grain, hi = pn_min(f->R, lo + f->grain);
    int64_t part = chunk % f->col_parts, k = part * f->C / f->col_parts;
    int64_t n = (part + 1) * f->C / f->col_parts - k, i = first_pair(f, lo);
    (void)c, (void)worker;
    for (int64_t r = lo; r < hi;) {
        int64_t next = i < f->N ? pn_min(hi, row_of(f, i)) : hi, end = i;
        if (n == f->C)
            memset(f->y + r * n, 0, (size_t)((next - r) * n) * sizeof(T));
        else
            for (; r < next; r++) memset(f->y + r * f->C + k, 0, (size_t)n * sizeof(T));
        if ((r = next) == hi) break;
        while (end < f->N && row_of(f, end) == r) end++;
        sum_run(f, i, end, f->y + r * f->C + k, k, n);
        i = end, r++;
    }
}

/* y[R, C] = the sums */
static inline void fold_rows(pn_call *c, fold *f, const pn_array *y, void *scratch) {
    if (!fold_sort(c, f, scratch)) return;
    f->y = y->data;
    f->grain = pn_grain(CHUNK) / pn_max(1, f->C * (1 + f->N / pn_max(1, f->R)));
    f->grain = pn_max(1, f->grain);
    f->row_parts = pn_ceil_div(f->R, f->grain);
    /* where rows are few, their columns are shared too, in whole cache lines */
    f->col_parts =
        pn_max(1, pn_min(8 / pn_max(1, f->row_parts), f->C * (int64_t)sizeof(T) / PN_ALIGN));
    pn_for(c, f->row_parts * f->col_parts, fold_chunk, f);
}

/* ---- merging: only the rows that a pair leads to -------------------------------------------------- */

static inline int heads(const fold *f, int64_t i) {
    return row_of(f, i) < f->R && (i == 0 || row_of(f, i) != row_of(f, i - 1));
}

static void heads_chunk(pn_call *c, void *arg, int64_t chunk, int worker) {
    fold *f = arg;
    int64_t n = 0;
    (void)c, (void)worker;
    for (int64_t i = chunk * f->grain; i < pn_min(f->N, (chunk + 1) * f->grain); i++)
        n += heads(f, i);
    f->count[chunk] = n;
}

static void merge_chunk(pn_call *c, void *arg, int64_t chunk, int worker) {
    const fold *f = arg;
    int64_t u = f->count[chunk];
    (void)c, (void)worker;
    for (int64_t i = chunk * f->grain; i < pn_min(f->N, (chunk + 1) * f->grain); i++) {
        int64_t end = i + 1;
        if (!heads(f, i)) continue;
        while (end < f->N && row_of(f, end) == row_of(f, i)) end++;
        sum_run(f, i, end, f->y + u * f->C, 0, f->C);
        f->index[u++] = row_of(f, i);
    }
}

/* index[K], y[K, C]: the rows that a pair leads to, in order, then the number R and zeros */
static inline void merge_rows(pn_call *c, fold *f, const pn_array *index, const pn_array *y,
                              void *scratch) {
    int64_t n = 0, K = index->shape[0], chunks;
    if (!fold_sort(c, f, scratch)) return;
    f->y = y->data, f->index = index->data;
    f->grain = pn_max(pn_max(1, pn_grain(CHUNK) / pn_max(1, f->C)), pn_ceil_div(f->N, RUNS));
    chunks = pn_ceil_div(f->N, f->grain);
    pn_for(c, chunks, heads_chunk, f);
    for (int64_t k = 0; k < chunks; k++) {
        int64_t m = f->count[k];
        f->count[k] = n, n += m;
    }
    pn_for(c, chunks, merge_chunk, f);
    for (int64_t k = n; k < K; k++) f->index[k] = f->R;
    memset(f->y + n * f->C, 0, (size_t)((K - n) * f->C) * sizeof(T));
}

#endif
#endif
