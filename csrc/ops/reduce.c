/* reduce.c: sums and extrema over any dimensions.
 *
 * sum_to   y[o] = Σ_r x[o, r]                 y has size 1, or no dimension, where x is summed over
 * prod     y[o] = Π_r x[o, r]               1 for no factor
 * amax     y[o] = max_r x[o, r]               NaN where any is; amin likewise
 * argmax   y[o] = the first r (row-major over the reduced dimensions) where x is largest; NaN is
 *
 * The dimensions are sorted into kept and reduced ones and merged. The reduced elements of an output
 * are cut into parts of PART, which are what threads share; a part into blocks, whose sums are added
 * pairwise. Two ways to sum a block:
 *   rows      BLOCK neighbouring elements of one output, lane by lane, then the lanes by a fixed tree
 *   columns   BLOCK_ROWS rows of TILE neighbouring outputs, UP rows at once, where the kept dimension is
 *             the contiguous one. Narrow rows that follow one another in memory are taken `fold` at a
 *             time, as one row, whose sums are added up in the end.
 * So the order of a sum depends on sizes and strides only, never on threads or position, and its error
 * grows with the logarithm of the number of blocks.
 */
#include "pn_each.h"

#if PN_KIND != PN_any

#define PART 32768
#define BLOCK 2048
#define BLOCK_ROWS 32
#define UP 8
#define TILE 512
#define ARGMAX_TILE 128
#define LEVELS 24

typedef struct reduce {
    int n_keep, n_red, columns, dtype;
    int short_rows; /* an output is one block in place */
    int64_t keep[PN_MAXDIM], keep_s[PN_MAXDIM], red[PN_MAXDIM], red_s[PN_MAXDIM];
    int64_t outs, reds; /* outputs, elements of each */
    int64_t part, parts; /* reduced elements of a part */
    int64_t tile, tiles, fold; /* columns: their width, how many make the kept dimension */
    int64_t out_chunk, out_chunks; /* outputs of a chunk, or tiles */
    const char *x;
    T *to; /* [parts, outs] */
} reduce;

static void add_dim(int *n, int64_t *size, int64_t *stride, int64_t m, int64_t s) {
    if (*n > 0 && stride[*n - 1] == s * m)
        size[*n - 1] *= m, stride[*n - 1] = s;
    else
        size[*n] = m, stride[(*n)++] = s;
}

/* In columns of width tile only up to `most` reduced elements. */
static reduce plan_reduce(const pn_array *x, const pn_array *y, int64_t tile, int64_t most) {
    reduce r = {.dtype = x->dtype, .x = x->data, .outs = 1, .reds = 1};
    int lead = x->ndim - y->ndim; /* leading dimensions that y lacks are reduced */
    for (int d = 0; d < x->ndim; d++) {
        int64_t m = x->shape[d];
        if (m == 1) continue;
        if (d < lead || y->shape[d - lead] == 1)
            add_dim(&r.n_red, r.red, r.red_s, m, x->strides[d]), r.reds *= m;
        else
            add_dim(&r.n_keep, r.keep, r.keep_s, m, x->strides[d]), r.outs *= m;
    }
    if (r.n_keep == 0) add_dim(&r.n_keep, r.keep, r.keep_s, 1, 1);
    if (r.n_red == 0) add_dim(&r.n_red, r.red, r.red_s, 1, 1);
    int64_t inner = r.keep[r.n_keep - 1];
    r.columns = r.keep_s[r.n_keep - 1] == 1 && r.red_s[r.n_red - 1] != 1 && inner >= 4 &&
                x->dtype == PN_DTYPE && r.reds <= most;
    r.short_rows =
        !r.columns && r.n_red == 1 && r.red_s[0] == 1 && r.reds <= BLOCK && x->dtype == PN_DTYPE;
    r.part = PART, r.fold = 1;
    if (r.columns) {
        int64_t width = pn_min(inner, tile);
        r.tile = tile, r.tiles = pn_ceil_div(inner, tile);
        r.part = 2 * pn_ceil_div(PART / width, BLOCK_ROWS) * BLOCK_ROWS;
        if (r.n_red == 1 && r.red_s[0] == inner)
            r.fold = pn_max(1, pn_min(tile / 2 / inner, pn_min(r.reds, r.part) / UP));
        r.out_chunk = pn_grain(pn_max(1, PART / width / pn_max(1, pn_min(r.reds, r.part))));
        r.out_chunks = pn_ceil_div(r.outs / inner * r.tiles, r.out_chunk);
    } else {
        r.out_chunk = pn_grain(pn_max(1, PART / pn_max(1, pn_min(r.reds, PART))));
        r.out_chunks = pn_ceil_div(r.outs, r.out_chunk);
    }
    r.parts = pn_max(1, pn_ceil_div(r.reds, r.part));
    return r;
}

static int64_t offset(int n, const int64_t *size, const int64_t *stride, int64_t i) {
    int64_t off = 0;
    for (int d = n - 1; d >= 0; d--) off += i % size[d] * stride[d], i /= size[d];
    return off;
}

static inline int64_t red_offset(const reduce *r, int64_t i) {
    return r->n_red == 1 ? i * r->red_s[0] : offset(r->n_red, r->red, r->red_s, i);
}

static inline int64_t keep_offset(const reduce *r, int64_t o) {
    return r->n_keep == 1 ? o * r->keep_s[0] : offset(r->n_keep, r->keep, r->keep_s, o);
}

/* The t-th tile: its width, its first output and that one's place in x. */
static int64_t tile_at(const reduce *r, int64_t t, int64_t *out, int64_t *keep) {
    int64_t inner = r->keep[r->n_keep - 1], outer = t / r->tiles, j = t % r->tiles * r->tile;
    *out = outer * inner + j;
    *keep = offset(r->n_keep - 1, r->keep, r->keep_s, outer) + j;
    return pn_min(r->tile, inner - j);
}

/* The parts' results, or those of integers narrower than T, are put down before they become y. */
static int via_scratch(const reduce *r, const pn_array *y) {
    return r->parts > 1 || y->dtype != PN_DTYPE;
}

/* n elements of one output from the i-th reduced one, as contiguous T: in place, or through buffer */
static const T *gather(const reduce *r, int64_t keep, int64_t i, int64_t n, T *buffer) {
    int last = r->n_red - 1, item = (int)pn_itemsize(r->dtype);
    int64_t inner = r->red[last], s = r->red_s[last];
    if (r->dtype == PN_DTYPE && s == 1 && (r->n_red == 1 || i % inner + n <= inner))
        return (const T *)r->x + keep + red_offset(r, i);
    for (int64_t k = 0, m; k < n; k += m) {
        m = pn_min(n - k, inner - (i + k) % inner);
        pn_block_load(buffer + k, r->dtype,
                      r->x + (keep + offset(r->n_red, r->red, r->red_s, i + k)) * item, s, m);
    }
    return buffer;
}

#if PN_FLOAT
#define LOAD_PART pn_load_part
#define STORE_PART pn_store_part
#define PN_TILE PN_INLINE
#else /* one lane: a part of a vector is a whole one */
#define LOAD_PART(p, m, fill) ((void)(m), pn_load(p))
#define STORE_PART(p, v, m) ((void)(m), pn_store(p, v))
#define PN_TILE static inline
#define PN_UNROLL
#endif

/* Where four vectors will be read 8 KB from now: with L2 the hardware's own fetching ends with each page. */
#define FETCH_FOUR(p)                                                                              \
    for (int line = 0; line < 4 * PN_VL * (int)sizeof(T); line += PN_ALIGN)                        \
        __builtin_prefetch((const char *)(p) + 8192 + line);

#define DEFINE_BLOCK(name, vcomb, hcomb, identity)                                                 \
    static T name##_block(const T *p, int64_t n) {                                                 \
        V s0 = pn_set1(identity), s1 = s0, s2 = s0, s3 = s0;                                       \
        int64_t i = 0;                                                                             \
        for (; i + 4 * PN_VL <= n; i += 4 * PN_VL) {                                               \
            FETCH_FOUR(p + i)                                                                      \
            s0 = vcomb(s0, pn_load(p + i)), s1 = vcomb(s1, pn_load(p + i + PN_VL));                \
            s2 = vcomb(s2, pn_load(p + i + 2 * PN_VL)),                                            \
            s3 = vcomb(s3, pn_load(p + i + 3 * PN_VL));                                            \
        }                                                                                          \
        for (; i + PN_VL <= n; i += PN_VL) s0 = vcomb(s0, pn_load(p + i));                         \
        if (i < n) s1 = vcomb(s1, pn_load_part(p + i, n - i, identity));                           \
        return hcomb(vcomb(vcomb(s0, s1), vcomb(s2, s3)));                                         \
    }

/* The same for extrema of floats: NaN is looked for apart, in two vectors by one comparison; where there
 * is none, name_across picks from the lanes. */
#define DEFINE_EXTREME_BLOCK(name, pick, identity)                                                 \
    PN_INLINE T name##_across(V v) {                                                               \
        PN_UNROLL                                                                                  \
        for (int w = PN_VL / 2; w > 0; w /= 2) v = pick(v, pn_swap(v, w));                         \
        return v[0];                                                                               \
    }                                                                                              \
    static T name##_block(const T *p, int64_t n) {                                                 \
        V s0 = pn_set1(identity), s1 = s0, s2 = s0, s3 = s0;                                       \
        VI none = {0};                                                                             \
        int64_t i = 0;                                                                             \
        for (; i + 4 * PN_VL <= n; i += 4 * PN_VL) {                                               \
            FETCH_FOUR(p + i)                                                                      \
            V a = pn_load(p + i), b = pn_load(p + i + PN_VL);                                      \
            V c = pn_load(p + i + 2 * PN_VL), d = pn_load(p + i + 3 * PN_VL);                      \
            s0 = pick(a, s0), s1 = pick(b, s1), s2 = pick(c, s2), s3 = pick(d, s3);                \
            none |= (pn_isnan(a) | pn_isnan(b)) | (pn_isnan(c) | pn_isnan(d));                     \
        }                                                                                          \
        for (; i < n; i += PN_VL) {                                                                \
            V a = pn_load_part(p + i, n - i, identity);                                            \
            s0 = pick(a, s0), none |= pn_isnan(a);                                                 \
        }                                                                                          \
        return pn_any(none) ? (T)NAN : name##_across(pick(pick(s0, s1), pick(s2, s3)));            \
    }

/* Pairwise: a stack of sums of 1, 2, 4, ... blocks; two of a size become one of the next. */
#define DEFINE(name, vcomb, scomb, identity)                                                       \
    static T name##_one(const reduce *r, int64_t keep, int64_t lo, int64_t hi) {                   \
        T stack[LEVELS], buffer[BLOCK] __attribute__((aligned(64)));                               \
        int top = 0;                                                                               \
        for (int64_t b = 0, i = lo; i < hi; i += BLOCK, b++) {                                     \
            int64_t n = pn_min(BLOCK, hi - i);                                                     \
            stack[top++] = name##_block(gather(r, keep, i, n, buffer), n);                         \
            for (int64_t k = b; k & 1; k >>= 1)                                                    \
                stack[top - 2] = scomb(stack[top - 2], stack[top - 1]), top--;                     \
        }                                                                                          \
        if (top == 0) return identity;                                                             \
        while (top > 1) stack[top - 2] = scomb(stack[top - 2], stack[top - 1]), top--;             \
        return stack[0];                                                                           \
    }                                                                                              \
    static void name##_add(T *a, const T *b, int64_t n) {                                          \
        int64_t i = 0;                                                                             \
        for (; i + PN_VL <= n; i += PN_VL) pn_store(a + i, vcomb(pn_load(a + i), pn_load(b + i))); \
        if (i < n) /* the same code as before, that a value does not depend on its position */     \
            pn_store_part(                                                                         \
                a + i,                                                                             \
                vcomb(pn_load_part(a + i, n - i, identity), pn_load_part(b + i, n - i, identity)), \
                n - i);                                                                            \
    }                                                                                              \
    /* to = to + (UP rows, by a tree) */                                                           \
    PN_TILE V name##_tree(const T *const *row, int64_t j, int64_t m, int full) {                   \
        V v[UP];                                                                                   \
        PN_UNROLL                                                                                  \
        for (int k = 0; k < UP; k++)                                                               \
            v[k] = full ? pn_load(row[k] + j) : LOAD_PART(row[k] + j, m, identity);                \
        PN_UNROLL                                                                                  \
        for (int w = 1; w < UP; w *= 2)                                                            \
            for (int k = 0; k < UP; k += 2 * w) v[k] = vcomb(v[k], v[k + w]);                      \
        return v[0];                                                                               \
    }                                                                                              \
    static void name##_up(const T *const *row, T *to, int64_t n) {                                 \
        int64_t j = 0;                                                                             \
        for (; j + PN_VL <= n; j += PN_VL)                                                         \
            pn_store(to + j, vcomb(pn_load(to + j), name##_tree(row, j, PN_VL, 1)));               \
        if (j < n)                                                                                 \
            STORE_PART(to + j,                                                                     \
                       vcomb(LOAD_PART(to + j, n - j, identity), name##_tree(row, j, n - j, 0)),   \
                       n - j);                                                                     \
    }                                                                                              \
    /* The rows lo .. hi of n neighbouring outputs */                                              \
    static void name##_tile(const reduce *r, int64_t keep, int64_t lo, int64_t hi, T *to,          \
                            int64_t n) {                                                           \
        T stack[12][TILE] __attribute__((aligned(64)));                                            \
        const T *x = (const T *)r->x + keep, *row[UP];                                             \
        int64_t m = r->fold, wide = m * n, rows = (hi - lo) / m, tail = (hi - lo) % m * n;         \
        int top = 0;                                                                               \
        for (int64_t b = 0, i = 0; b == 0 || i < rows; b++) {                                      \
            int64_t end = pn_min(rows, i + BLOCK_ROWS);                                            \
            T *sum = stack[top++];                                                                 \
            for (int64_t j = 0; j < wide; j++) sum[j] = identity;                                  \
            for (; i + UP <= end; i += UP) {                                                       \
                for (int k = 0; k < UP; k++) row[k] = x + red_offset(r, lo + (i + k) * m);         \
                name##_up(row, sum, wide);                                                         \
            }                                                                                      \
            for (; i < end; i++) name##_add(sum, x + red_offset(r, lo + i * m), wide);             \
            for (int64_t k = b; k & 1; k >>= 1)                                                    \
                name##_add(stack[top - 2], stack[top - 1], wide), top--;                           \
        }                                                                                          \
        for (; top > 1; top--) name##_add(stack[top - 2], stack[top - 1], wide);                   \
        if (tail) name##_add(stack[0], x + red_offset(r, lo + rows * m), tail);                    \
        for (int64_t k = 1; k < m; k++) name##_add(stack[0], stack[0] + k * n, n);                 \
        memcpy(to, stack[0], n * sizeof(T));                                                       \
    }                                                                                              \
    static void name##_chunk(pn_call *c, void *arg, int64_t chunk, int worker) {                   \
        const reduce *r = arg;                                                                     \
        int64_t part = chunk / r->out_chunks, lo = part * r->part,                                 \
                hi = pn_min(r->reds, lo + r->part);                                                \
        int64_t o = chunk % r->out_chunks * r->out_chunk, out, keep;                               \
        T *to = r->to + part * r->outs;                                                            \
        (void)c, (void)worker;                                                                     \
        if (r->columns) {                                                                          \
            int64_t n_tile = r->outs / r->keep[r->n_keep - 1] * r->tiles;                          \
            for (int64_t t = o; t < pn_min(n_tile, o + r->out_chunk); t++) {                       \
                int64_t n = tile_at(r, t, &out, &keep);                                            \
                name##_tile(r, keep, lo, hi, to + out, n);                                         \
            }                                                                                      \
            return;                                                                                \
        }                                                                                          \
        for (int64_t end = pn_min(r->outs, o + r->out_chunk); o < end; o++) {                      \
            keep = keep_offset(r, o);                                                              \
            to[o] = r->short_rows ? name##_block((const T *)r->x + keep, r->reds)                  \
                                  : name##_one(r, keep, lo, hi);                                   \
        }                                                                                          \
    }                                                                                              \
    static void name##_run(pn_call *c, const pn_array *x, const pn_array *y, void *scratch) {      \
        reduce r = plan_reduce(x, y, TILE, INT64_MAX);                                             \
        r.to = via_scratch(&r, y) ? scratch : y->data;                                             \
        pn_for(c, r.parts * r.out_chunks, name##_chunk, &r);                                       \
        for (int64_t half = 1; half < r.parts; half *= 2)                                          \
            for (int64_t k = 0; k + half < r.parts; k += 2 * half)                                 \
                name##_add(r.to + k * r.outs, r.to + (k + half) * r.outs, r.outs);                 \
        if (r.to != y->data) pn_block_store(r.to, y->dtype, y->data, 1, r.outs);                   \
    }

#define ADD(a, b) ((a) + (b))
#define MUL(a, b) ((a) * (b))
#if PN_FLOAT
#define IS_NAN(v) ((v) != (v))
static inline T max_of(T a, T b) { return a != a ? a : b != b ? b : a > b ? a : b; }
static inline T min_of(T a, T b) { return a != a ? a : b != b ? b : a < b ? a : b; }
static inline T hprod(V v) {
    PN_UNROLL
    for (int w = PN_VL / 2; w > 0; w /= 2) v *= pn_swap(v, w);
    return v[0];
}
#define LEAST ((T) - INFINITY)
DEFINE_BLOCK(sum, ADD, pn_hsum, 0)
DEFINE_BLOCK(prod, MUL, hprod, 1)
DEFINE_EXTREME_BLOCK(amax, pn_max_b, LEAST)
DEFINE_EXTREME_BLOCK(amin, pn_min_b, -LEAST)
DEFINE(sum, ADD, ADD, 0)
DEFINE(prod, MUL, MUL, 1)
DEFINE(amax, pn_vmax, max_of, LEAST)
DEFINE(amin, pn_vmin, min_of, -LEAST)
#else
#define IS_NAN(v) 0
#define SELF(v) (v)
#define LEAST INT64_MIN
DEFINE_BLOCK(sum, ADD, SELF, 0)
DEFINE_BLOCK(prod, MUL, SELF, 1)
DEFINE_BLOCK(amax, pn_vmax, SELF, INT64_MIN)
DEFINE_BLOCK(amin, pn_vmin, SELF, INT64_MAX)
DEFINE(sum, ADD, ADD, 0)
DEFINE(prod, MUL, MUL, 1)
DEFINE(amax, pn_vmax, pn_vmax, INT64_MIN)
DEFINE(amin, pn_vmin, pn_vmin, INT64_MAX)
#endif

static int64_t parts_bytes(const pn_array *x, const pn_array *y) {
    reduce r = plan_reduce(x, y, TILE, INT64_MAX);
    return via_scratch(&r, y) ? r.parts * r.outs * (int64_t)sizeof(T) : 0;
}

PN_FN(sum_to_fwd) {
    sum_run(c, ARG(sum_to_fwd, x), ARG(sum_to_fwd, y), ARG(sum_to_fwd, scratch)->data);
}
PN_FN(amax_fwd) { amax_run(c, ARG(amax_fwd, x), ARG(amax_fwd, y), ARG(amax_fwd, scratch)->data); }
PN_FN(amin_fwd) { amin_run(c, ARG(amin_fwd, x), ARG(amin_fwd, y), ARG(amin_fwd, scratch)->data); }
PN_FN(prod_fwd) { prod_run(c, ARG(prod_fwd, x), ARG(prod_fwd, y), ARG(prod_fwd, scratch)->data); }
PN_SCRATCH_FN(prod_fwd) { return parts_bytes(ARG(prod_fwd, x), ARG(prod_fwd, y)); }
PN_SCRATCH_FN(sum_to_fwd) { return parts_bytes(ARG(sum_to_fwd, x), ARG(sum_to_fwd, y)); }
PN_SCRATCH_FN(amax_fwd) { return parts_bytes(ARG(amax_fwd, x), ARG(amax_fwd, y)); }
PN_SCRATCH_FN(amin_fwd) { return parts_bytes(ARG(amin_fwd, x), ARG(amin_fwd, y)); }

/* ---- argmax ----------------------------------------------------------------------------------- */

/* The first of n elements that is top, the largest; there is one. Only beside a NaN is top NaN, too. */
static int64_t place_of(const T *p, int64_t n, T top) {
    int64_t k = 0;
#if PN_FLOAT
    V want = pn_set1(top);
#define HIT(v) (((v) == want) | pn_isnan(v))
    while (k + 4 * PN_VL <= n) {
        V a = pn_load(p + k), b = pn_load(p + k + PN_VL);
        V c = pn_load(p + k + 2 * PN_VL), d = pn_load(p + k + 3 * PN_VL);
        if (pn_any((HIT(a) | HIT(b)) | (HIT(c) | HIT(d)))) break;
        k += 4 * PN_VL;
    }
    for (; k < n; k += PN_VL) {
        int lane = pn_first(HIT(pn_load_part(p + k, n - k, LEAST)));
        if (lane < PN_VL) return pn_min(k + lane, n - 1);
    }
    return n - 1;
#else
    while (k < n - 1 && p[k] != top) k++;
    return k;
#endif
}

/* The same of a row of n <= BLOCK elements */
static int64_t argmax_row(const T *p, int64_t n) {
#if PN_FLOAT
    if (n <= PN_VL) { /* one vector holds it: extrema of so few cost what calls and loops cost */
        V v = pn_load_part(p, n, LEAST);
        VI nan = pn_isnan(v);
        return pn_first(pn_any(nan) ? nan : v == pn_set1(amax_across(v)));
    }
#endif
    return place_of(p, n, amax_block(p, n));
}

static int64_t argmax_one(const reduce *r, int64_t keep) {
    T buffer[BLOCK] __attribute__((aligned(64))), top = 0;
    int64_t best = 0;
    for (int64_t i = 0; i < r->reds; i += BLOCK) {
        int64_t n = pn_min(BLOCK, r->reds - i);
        const T *p = gather(r, keep, i, n, buffer);
        T most = amax_block(p, n);
        if (i == 0 || most > top || (IS_NAN(most) && !IS_NAN(top)))
            top = most, best = i + place_of(p, n, most);
    }
    return best;
}

#if PN_FLOAT
#define PLACES_MAX (sizeof(pn_int) == 4 ? INT32_MAX : INT64_MAX)
PN_INLINE void take_larger(V v, V at, V *top, V *best) {
    VI more = (v > *top) | (pn_isnan(v) & ~pn_isnan(*top));
    *top = pn_select(more, v, *top);
    *best = (V)((more & (VI)at) | (~more & (VI)*best));
}
PN_INLINE V place(int64_t i) { return (V)((pn_int)i - (VI){0}); }
#else
#define PLACES_MAX INT64_MAX
static inline void take_larger(V v, V at, V *top, V *best) {
    *best = v > *top ? at : *best, *top = v > *top ? v : *top;
}
static inline V place(int64_t i) { return i; }
typedef int64_t pn_int;
#endif

/* The places of n <= ARGMAX_TILE neighbouring outputs, row by row; places travel in V's lanes, as integers. */
static void argmax_tile(const reduce *r, int64_t keep, int64_t *to, int64_t n) {
    T top[ARGMAX_TILE], best[ARGMAX_TILE];
    for (int64_t j = 0; j < n; j++) top[j] = LEAST, best[j] = 0;
    for (int64_t i = 0; i < r->reds; i += BLOCK_ROWS) {
        int64_t n_row = pn_min(BLOCK_ROWS, r->reds - i);
        const T *row[BLOCK_ROWS];
        for (int64_t k = 0; k < n_row; k++) row[k] = (const T *)r->x + keep + red_offset(r, i + k);
        for (int64_t j = 0; j < n; j += PN_VL) {
            V t = LOAD_PART(top + j, n - j, LEAST), b = LOAD_PART(best + j, n - j, 0);
            for (int64_t k = 0; k < n_row; k++)
                take_larger(LOAD_PART(row[k] + j, n - j, LEAST), place(i + k), &t, &b);
            STORE_PART(top + j, t, n - j), STORE_PART(best + j, b, n - j);
        }
    }
    for (int64_t j = 0; j < n; j++) {
        pn_int at;
        memcpy(&at, best + j, sizeof at);
        to[j] = at;
    }
}

static void argmax_chunk(pn_call *c, void *arg, int64_t chunk, int worker) {
    const reduce *r = arg;
    int64_t o = chunk * r->out_chunk, *to = (int64_t *)r->to, out, keep;
    (void)c, (void)worker;
    if (r->columns) {
        int64_t n_tile = r->outs / r->keep[r->n_keep - 1] * r->tiles;
        for (int64_t t = o; t < pn_min(n_tile, o + r->out_chunk); t++) {
            int64_t n = tile_at(r, t, &out, &keep);
            argmax_tile(r, keep, to + out, n);
        }
        return;
    }
    for (int64_t end = pn_min(r->outs, o + r->out_chunk); o < end; o++)
        to[o] = r->short_rows ? argmax_row((const T *)r->x + keep_offset(r, o), r->reds)
                              : argmax_one(r, keep_offset(r, o));
}

PN_FN(argmax_fwd) {
    const pn_array *y = ARG(argmax_fwd, y);
    reduce r = plan_reduce(ARG(argmax_fwd, x), y, ARGMAX_TILE, PLACES_MAX);
    r.to = y->data; /* int64, as y is, whatever T */
    pn_for(c, r.out_chunks, argmax_chunk, &r);
}

#endif
