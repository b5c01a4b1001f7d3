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
 *   columns   BLOCK_ROWS rows of TILE neighbouring outputs, where the kept dimension is the contiguous one
 * So the order of a sum depends on sizes and strides only, never on threads or position, and its error
 * grows with the logarithm of the number of blocks.
 */
#include "pn_each.h"

#if PN_KIND != PN_any

#define PART 32768
#define BLOCK 512
#define BLOCK_ROWS 32
#define TILE 256
#define LEVELS 24

typedef struct reduce {
    int n_keep, n_red, columns, dtype;
    int short_rows; /* an output is one block in place */
    int64_t keep[PN_MAXDIM], keep_s[PN_MAXDIM], red[PN_MAXDIM], red_s[PN_MAXDIM];
    int64_t outs, reds, parts, out_chunk,
        out_chunks; /* outs counts outputs, reds elements of each */
    const char *x;
    T *to; /* [parts, outs] */
} reduce;

static void add_dim(int *n, int64_t *size, int64_t *stride, int64_t m, int64_t s) {
    if (*n > 0 && stride[*n - 1] == s * m)
        size[*n - 1] *= m, stride[*n - 1] = s;
    else
        size[*n] = m, stride[(*n)++] = s;
}

static reduce plan_reduce(const pn_array *x, const pn_array *y) {
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
    r.columns = r.keep_s[r.n_keep - 1] == 1 && r.red_s[r.n_red - 1] != 1 &&
                r.keep[r.n_keep - 1] >= 4 && x->dtype == PN_DTYPE;
    r.short_rows =
        !r.columns && r.n_red == 1 && r.red_s[0] == 1 && r.reds <= BLOCK && x->dtype == PN_DTYPE;
    r.parts = pn_max(1, pn_ceil_div(r.reds, PART));
    r.out_chunk = pn_max(1, PART / pn_max(1, pn_min(r.reds, PART)));
    r.out_chunk = pn_max(r.columns ? TILE / 16 : 1, pn_grain(r.out_chunk));
    r.out_chunks = pn_ceil_div(r.outs, r.out_chunk);
    return r;
}

static int64_t offset(int n, const int64_t *size, const int64_t *stride, int64_t i) {
    int64_t off = 0;
    for (int d = n - 1; d >= 0; d--) off += i % size[d] * stride[d], i /= size[d];
    return off;
}

/* The parts' results, or those of integers narrower than T, are put down before they become y. */
static int via_scratch(const reduce *r, const pn_array *y) {
    return r->parts > 1 || y->dtype != PN_DTYPE;
}

/* n elements of one output from the i-th reduced one, as contiguous T: in place, or through buffer */
static const T *gather(const reduce *r, int64_t keep, int64_t i, int64_t n, T *buffer) {
    int last = r->n_red - 1, item = (int)pn_itemsize(r->dtype);
    int64_t inner = r->red[last], s = r->red_s[last];
    if (r->dtype == PN_DTYPE && s == 1 && i % inner + n <= inner)
        return (const T *)r->x + keep + offset(r->n_red, r->red, r->red_s, i);
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
#endif

/* Pairwise: a stack of sums of 1, 2, 4, ... blocks; two of a size become one of the next. */
#define DEFINE(name, vcomb, scomb, hcomb, identity)                                                \
    static T name##_block(const T *p, int64_t n) {                                                 \
        V s0 = pn_set1(identity), s1 = s0, s2 = s0, s3 = s0;                                       \
        int64_t i = 0;                                                                             \
        for (; i + 4 * PN_VL <= n; i += 4 * PN_VL) {                                               \
            s0 = vcomb(s0, pn_load(p + i)), s1 = vcomb(s1, pn_load(p + i + PN_VL));                \
            s2 = vcomb(s2, pn_load(p + i + 2 * PN_VL)),                                            \
            s3 = vcomb(s3, pn_load(p + i + 3 * PN_VL));                                            \
        }                                                                                          \
        for (; i + PN_VL <= n; i += PN_VL) s0 = vcomb(s0, pn_load(p + i));                         \
        if (i < n) s1 = vcomb(s1, pn_load_part(p + i, n - i, identity));                           \
        return hcomb(vcomb(vcomb(s0, s1), vcomb(s2, s3)));                                         \
    }                                                                                              \
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
    /* columns j .. j + m of a block's rows, n_vec vectors: all but the last are full */           \
    PN_TILE void name##_rows(const T *const *row, int64_t n_row, T *to, int64_t j, int64_t m,      \
                             int n_vec) {                                                          \
        V sum[4];                                                                                  \
        for (int v = 0; v < n_vec; v++) sum[v] = pn_set1(identity);                                \
        for (int64_t k = 0; k < n_row; k++)                                                        \
            for (int v = 0; v < n_vec; v++)                                                        \
                sum[v] = vcomb(sum[v], n_vec > 1 ? pn_load(row[k] + j + v * PN_VL)                 \
                                                 : LOAD_PART(row[k] + j, m, identity));            \
        for (int v = 0; v < n_vec; v++) STORE_PART(to + j + v * PN_VL, sum[v], m - v * PN_VL);     \
    }                                                                                              \
    static void name##_tile(const reduce *r, int64_t keep, int64_t lo, int64_t hi, T *to,          \
                            int64_t n) {                                                           \
        T stack[12][TILE] __attribute__((aligned(64)));                                            \
        const T *row[BLOCK_ROWS];                                                                  \
        int top = 0;                                                                               \
        for (int64_t b = 0, i = lo; i < hi; i += BLOCK_ROWS, b++) {                                \
            int64_t n_row = pn_min(BLOCK_ROWS, hi - i), j = 0;                                     \
            for (int64_t k = 0; k < n_row; k++)                                                    \
                row[k] = (const T *)r->x + keep + offset(r->n_red, r->red, r->red_s, i + k);       \
            for (; j + 4 * PN_VL <= n; j += 4 * PN_VL)                                             \
                name##_rows(row, n_row, stack[top], j, 4 * PN_VL, 4);                              \
            for (; j < n; j += PN_VL) name##_rows(row, n_row, stack[top], j, n - j, 1);            \
            top++;                                                                                 \
            for (int64_t k = b; k & 1; k >>= 1)                                                    \
                name##_add(stack[top - 2], stack[top - 1], n), top--;                              \
        }                                                                                          \
        for (; top > 1; top--) name##_add(stack[top - 2], stack[top - 1], n);                      \
        for (int64_t j = 0; j < n; j++) to[j] = top ? stack[0][j] : identity;                      \
    }                                                                                              \
    static void name##_chunk(pn_call *c, void *arg, int64_t chunk, int worker) {                   \
        const reduce *r = arg;                                                                     \
        int64_t part = chunk / r->out_chunks, lo = part * PART, hi = pn_min(r->reds, lo + PART);   \
        int64_t o = chunk % r->out_chunks * r->out_chunk, end = pn_min(r->outs, o + r->out_chunk); \
        int64_t inner = r->keep[r->n_keep - 1];                                                    \
        (void)c, (void)worker;                                                                     \
        for (int64_t n; o < end; o += n) {                                                         \
            int64_t keep =                                                                         \
                r->n_keep == 1 ? o * r->keep_s[0] : offset(r->n_keep, r->keep, r->keep_s, o);      \
            n = r->columns ? pn_min(pn_min(TILE, end - o), inner - o % inner) : 1;                 \
            if (r->columns)                                                                        \
                name##_tile(r, keep, lo, hi, r->to + part * r->outs + o, n);                       \
            else if (r->short_rows)                                                                \
                r->to[o] = name##_block((const T *)r->x + keep, r->reds);                          \
            else                                                                                   \
                r->to[part * r->outs + o] = name##_one(r, keep, lo, hi);                           \
        }                                                                                          \
    }                                                                                              \
    static void name##_run(pn_call *c, const pn_array *x, const pn_array *y, void *scratch) {      \
        reduce r = plan_reduce(x, y);                                                              \
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
static inline T hmin(V v) {
    T lanes[PN_VL], m;
    pn_store(lanes, v);
    m = lanes[0];
    for (int i = 1; i < PN_VL; i++) m = min_of(m, lanes[i]);
    return m;
}
static inline T hprod(V v) {
    PN_UNROLL
    for (int w = PN_VL / 2; w > 0; w /= 2) v *= pn_swap(v, w);
    return v[0];
}
#define LEAST ((T) - INFINITY)
DEFINE(sum, ADD, ADD, pn_hsum, 0)
DEFINE(prod, MUL, MUL, hprod, 1)
DEFINE(amax, pn_vmax, max_of, pn_hmax, (T)-INFINITY)
DEFINE(amin, pn_vmin, min_of, hmin, (T)INFINITY)
#else
#define IS_NAN(v) 0
#define SELF(v) (v)
#define LEAST INT64_MIN
DEFINE(sum, ADD, ADD, SELF, 0)
DEFINE(prod, MUL, MUL, SELF, 1)
DEFINE(amax, pn_vmax, pn_vmax, SELF, INT64_MIN)
DEFINE(amin, pn_vmin, pn_vmin, SELF, INT64_MAX)
#endif

static int64_t parts_bytes(const pn_array *x, const pn_array *y) {
    reduce r = plan_reduce(x, y);
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

/* The first of n elements that is top; there is one. */
static int64_t place_of(const T *p, int64_t n, T top) {
    int64_t k = 0;
#if PN_FLOAT
    V want = pn_set1(top);
    while (k + PN_VL <= n &&
           !pn_any((pn_load(p + k) == want) | (pn_isnan(pn_load(p + k)) & pn_isnan(want))))
        k += PN_VL;
#endif
    while (k < n - 1 && p[k] != top && !(IS_NAN(top) && IS_NAN(p[k]))) k++;
    return k;
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

/* The places of n <= TILE neighbouring outputs, row by row; places travel in V's lanes, as integers. */
static void argmax_tile(const reduce *r, int64_t keep, int64_t *to, int64_t n) {
    T top[TILE], best[TILE];
    for (int64_t j = 0; j < n; j++) top[j] = LEAST, best[j] = 0;
    for (int64_t i = 0; i < r->reds; i += BLOCK_ROWS) {
        int64_t n_row = pn_min(BLOCK_ROWS, r->reds - i);
        const T *row[BLOCK_ROWS];
        for (int64_t k = 0; k < n_row; k++)
            row[k] = (const T *)r->x + keep + offset(r->n_red, r->red, r->red_s, i + k);
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
    int64_t o = chunk * r->out_chunk, end = pn_min(r->outs, o + r->out_chunk);
    int64_t *to = (int64_t *)r->to, inner = r->keep[r->n_keep - 1];
    int tiles = r->columns && r->reds <= PLACES_MAX;
    (void)c, (void)worker;
    for (int64_t n; o < end; o += n) {
        int64_t keep = offset(r->n_keep, r->keep, r->keep_s, o);
        n = tiles ? pn_min(pn_min(TILE, end - o), inner - o % inner) : 1;
        if (tiles)
            argmax_tile(r, keep, to + o, n);
        else
            to[o] = argmax_one(r, keep);
    }
}

PN_FN(argmax_fwd) {
    const pn_array *y = ARG(argmax_fwd, y);
    reduce r = plan_reduce(ARG(argmax_fwd, x), y);
    r.to = y->data; /* int64, as y is, whatever T */
    pn_for(c, r.out_chunks, argmax_chunk, &r);
}

#endif
