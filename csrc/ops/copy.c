/* copy.c: y = x between any dtypes and strides, and its relatives.
 *
 * copy     y[i] = x[i], converted
 * zeros    y[i] = 0
 * unslice  y = 0; y[begin + i*step] = x[i]: the adjoint of slicing. place[2,ndim] = begin, step
 *
 * The dimensions are merged as in pn_each.h; a row is copied whole where it is contiguous. Where x and y
 * are contiguous along different dimensions, as in a transpose, squares of SIDE x SIDE elements go
 * through a buffer: read along the one, turned in 4 x 4 pieces, written along the other, so that every
 * cache line is moved once whatever the strides.
 * Where y's contiguous dimension has only 2 or 3 elements, as channels of an image have, they are woven: x is read
 * along as many lines at once.
 * A float out of an integer's range becomes the nearest integer that fits, NaN becomes 0.
 */
#include <string.h>

#include "pn_kernel.h"

#if PN_KIND == PN_any

#define CHUNK 32768
#ifdef __clang__
#define TURN32(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#define TURN64 TURN32
#else
#define TURN32(a, b, ...) __builtin_shuffle(a, b, (four32){__VA_ARGS__})
#define TURN64(a, b, ...) __builtin_shuffle(a, b, (two64){__VA_ARGS__})
#endif

typedef struct nest {
    int ndim, from, to;
    int64_t shape[PN_MAXDIM], xs[PN_MAXDIM], ys[PN_MAXDIM], total, grain;
    const char *x; /* NULL: zeros */
    char *y;
} nest;

static const int8_t itemsize[PN_NDTYPE] = {4, 8, 8, 4, 1, 1};

static nest merged(const pn_array *x, const pn_array *y) {
    nest t = {.from = x->dtype, .to = y->dtype, .total = 1, .x = x->data, .y = y->data};
    int order[PN_MAXDIM], n = 0;
    for (int d = 0; d < y->ndim; d++)
        if (y->shape[d] != 1) order[n++] = d;
    for (int i = 1; i < n; i++) /* in the order of y's memory */
        for (int j = i; j > 0 && y->strides[order[j - 1]] < y->strides[order[j]]; j--) {
            int d = order[j];
            order[j] = order[j - 1], order[j - 1] = d;
        }
    for (int i = 0; i < n; i++) {
        int d = order[i];
        int64_t size = y->shape[d];
        if (t.ndim > 0 && t.xs[t.ndim - 1] == x->strides[d] * size &&
            t.ys[t.ndim - 1] == y->strides[d] * size)
            t.ndim--;
        else
            t.shape[t.ndim] = 1;
        t.shape[t.ndim] *= size;
        t.xs[t.ndim] = x->strides[d], t.ys[t.ndim] = y->strides[d];
        t.ndim++;
        t.total *= size;
    }
    if (t.ndim == 0) t.ndim = 1, t.shape[0] = 1, t.xs[0] = t.ys[0] = 1;
    return t;
}

/* a float as an integer type, saturating */
#define SAT(name, type, from, lo, hi)                                                              \
    static inline type name(from v) {                                                              \
        return v >= (from)(hi) ? (type)(hi) : v > (from)(lo) ? (type)v : v != v ? 0 : (type)(lo);  \
    }
SAT(f32_i64, int64_t, float, INT64_MIN, INT64_MAX)
SAT(f64_i64, int64_t, double, INT64_MIN, INT64_MAX)
SAT(f32_i32, int32_t, float, INT32_MIN, INT32_MAX)
SAT(f64_i32, int32_t, double, INT32_MIN, INT32_MAX)
SAT(f32_u8, uint8_t, float, 0, UINT8_MAX)
SAT(f64_u8, uint8_t, double, 0, UINT8_MAX)

#define LOOP(from, to, expr)                                                                       \
    {                                                                                              \
        const from *x = xp;                                                                        \
        to *y = yp;                                                                                \
        for (int64_t i = 0; i < n; i++) {                                                          \
            from v = x[i * xs];                                                                    \
            y[i * ys] = expr;                                                                      \
        }                                                                                          \
        break;                                                                                     \
    }
#define TO(from, f_i64, f_i32, f_u8)                                                               \
    switch (to) {                                                                                  \
    case PN_F32:                                                                                   \
        LOOP(from, float, (float)v)                                                                \
    case PN_F64:                                                                                   \
        LOOP(from, double, (double)v)                                                              \
    case PN_I64:                                                                                   \
        LOOP(from, int64_t, f_i64(v))                                                              \
    case PN_I32:                                                                                   \
        LOOP(from, int32_t, f_i32(v))                                                              \
    case PN_U8:                                                                                    \
        LOOP(from, uint8_t, f_u8(v))                                                               \
    case PN_BOOL:                                                                                  \
        LOOP(from, uint8_t, v != 0)                                                                \
    }                                                                                              \
    break;
#define PLAIN(v) (v)

static void row(int from, int to, const void *xp, int64_t xs, void *yp, int64_t ys, int64_t n) {
    if (from == to && xs == 1 && ys == 1) {
        memcpy(yp, xp, (size_t)(n * itemsize[to]));
        return;
    }
    switch (from) {
    case PN_F32:
        TO(float, f32_i64, f32_i32, f32_u8)
    case PN_F64:
        TO(double, f64_i64, f64_i32, f64_u8)
    case PN_I64:
        TO(int64_t, PLAIN, PLAIN, PLAIN)
    case PN_I32:
        TO(int32_t, PLAIN, PLAIN, PLAIN)
    default:
        TO(uint8_t, PLAIN, PLAIN, PLAIN)
    }
}

/* All bits zero: the 0 of every dtype. */
static void clear(char *y, int64_t step, int64_t item, int64_t n) {
    if (step == item) {
        memset(y, 0, (size_t)(n * item));
        return;
    }
    for (int64_t i = 0; i < n; i++) memset(y + i * step, 0, (size_t)item);
}

static void copy_chunk(pn_call *c, void *arg, int64_t chunk, int worker) {
    const nest *t = arg;
    int last = t->ndim - 1;
    int64_t lo = chunk * t->grain, hi = pn_min(t->total, lo + t->grain);
    (void)c, (void)worker;
    while (lo < hi) {
        int64_t rest = lo, x = 0, y = 0, n = pn_min(hi - lo, t->shape[last] - lo % t->shape[last]);
        for (int d = last; d >= 0; d--) {
            x += rest % t->shape[d] * t->xs[d], y += rest % t->shape[d] * t->ys[d];
            rest /= t->shape[d];
        }
        if (!t->x)
            clear(t->y + y * itemsize[t->to], t->ys[last] * itemsize[t->to], itemsize[t->to], n);
        else
            row(t->from, t->to, t->x + x * itemsize[t->from], t->xs[last],
                t->y + y * itemsize[t->to], t->ys[last], n);
        lo += n;
    }
}

/* ---- transposes ---------------------------------------------------------------------------------- */

#define SIDE 32

typedef uint32_t four32 __attribute__((vector_size(16), aligned(4), may_alias));
typedef uint64_t two64 __attribute__((vector_size(16), aligned(8), may_alias));

/* y[j, i] = s[i, j] for i < n, j < m; y's rows are step apart. s is SIDE wide, and full up to a multiple of 4. */
static void turn32(const uint32_t *s, uint32_t *y, int64_t step, int64_t n, int64_t m) {
    for (int64_t j = 0; j < m; j += 4)
        for (int64_t i = 0; i < n; i += 4) {
            const uint32_t *p = s + i * SIDE + j;
            four32 a = *(const four32 *)p, b = *(const four32 *)(p + SIDE),
                   c = *(const four32 *)(p + 2 * SIDE), d = *(const four32 *)(p + 3 * SIDE);
            four32 ab0 = TURN32(a, b, 0, 4, 1, 5), ab1 = TURN32(a, b, 2, 6, 3, 7),
                   cd0 = TURN32(c, d, 0, 4, 1, 5), cd1 = TURN32(c, d, 2, 6, 3, 7);
            four32 row[4] = {TURN32(ab0, cd0, 0, 1, 4, 5), TURN32(ab0, cd0, 2, 3, 6, 7),
                             TURN32(ab1, cd1, 0, 1, 4, 5), TURN32(ab1, cd1, 2, 3, 6, 7)};
            for (int64_t k = 0; k < 4 && j + k < m; k++) {
                uint32_t *to = y + (j + k) * step + i;
                if (i + 4 <= n)
                    *(four32 *)to = row[k];
                else
                    memcpy(to, &row[k], (size_t)(n - i) * sizeof *to);
            }
        }
}

static void turn64(const uint64_t *s, uint64_t *y, int64_t step, int64_t n, int64_t m) {
    for (int64_t j = 0; j < m; j += 2)
        for (int64_t i = 0; i < n; i += 2) {
            const uint64_t *p = s + i * SIDE + j;
            two64 a = *(const two64 *)p, b = *(const two64 *)(p + SIDE);
            two64 row[2] = {TURN64(a, b, 0, 2), TURN64(a, b, 1, 3)};
            for (int64_t k = 0; k < 2 && j + k < m; k++) {
                uint64_t *to = y + (j + k) * step + i;
                if (i + 2 <= n)
                    *(two64 *)to = row[k];
                else
                    *to = row[k][0];
            }
        }
}

static void turn8(const uint8_t *s, uint8_t *y, int64_t step, int64_t n, int64_t m) {
    for (int64_t j = 0; j < m; j++)
        for (int64_t i = 0; i < n; i++) y[j * step + i] = s[i * SIDE + j];
}

/* The dimension along which x is contiguous where y is along its last; -1: no transpose of one dtype. */
static int turned(const nest *t) {
    int last = t->ndim - 1;
    if (!t->x || t->from != t->to || t->ys[last] != 1 || t->xs[last] == 1 || t->shape[last] < 4)
        return -1;
    for (int d = 0; d < last; d++)
        if (t->xs[d] == 1 && t->shape[d] >= 4) return d;
    return -1;
}

typedef struct square {
    int64_t x, y, n, m; /* where it begins; its sizes along y's and x's contiguous dimensions */
} square;

/* The squares of each place in the other dimensions follow one another. */
static square square_at(const nest *t, int d, int64_t q) {
    int last = t->ndim - 1;
    int64_t N = t->shape[last], M = t->shape[d], across = pn_ceil_div(N, SIDE);
    int64_t down = pn_ceil_div(M, SIDE), i = q % across * SIDE, j = q / across % down * SIDE;
    square s = {i * t->xs[last] + j, i + j * t->ys[d], pn_min(SIDE, N - i), pn_min(SIDE, M - j)};
    q = q / across / down;
    for (int e = last - 1; e >= 0; e--) {
        if (e == d) continue;
        s.x += q % t->shape[e] * t->xs[e], s.y += q % t->shape[e] * t->ys[e];
        q /= t->shape[e];
    }
    return s;
}

/* Fetches what the next square reads and writes: its rows are no stream that the hardware would see. */
static void fetch_square(const nest *t, int d, const square *s) {
    int64_t size = itemsize[t->to], xs = t->xs[t->ndim - 1];
    for (int64_t k = 0; k < s->n; k++)
        for (int64_t b = 0; b < s->m * size; b += PN_ALIGN)
            __builtin_prefetch(t->x + (s->x + k * xs) * size + b, 0);
    for (int64_t k = 0; k < s->m; k++)
        for (int64_t b = 0; b < s->n * size; b += PN_ALIGN)
            __builtin_prefetch(t->y + (s->y + k * t->ys[d]) * size + b, 1);
}

static void turn_chunk(pn_call *c, void *arg, int64_t chunk, int worker) {
    const nest *t = arg;
    int d = turned(t);
    int64_t size = itemsize[t->to], step = t->ys[d], xs = t->xs[t->ndim - 1];
    int64_t q = chunk * t->grain, end = pn_min(t->total, q + t->grain);
    uint64_t buffer[SIDE * SIDE] = {0}; /* read up to a multiple of 4, whatever of it was filled */
    square s = square_at(t, d, q), next = s;
    (void)c, (void)worker;
    for (; q < end; q++, s = next) {
        char *y = t->y + s.y * size;
        for (int64_t k = 0; k < s.n; k++)
            memcpy((char *)buffer + k * SIDE * size, t->x + (s.x + k * xs) * size,
                   (size_t)(s.m * size));
        if (q + 1 < end) {
            next = square_at(t, d, q + 1);
            fetch_square(t, d, &next);
        }
        if (size == 4)
            turn32((const uint32_t *)buffer, (uint32_t *)y, step, s.n, s.m);
        else if (size == 8)
            turn64(buffer, (uint64_t *)y, step, s.n, s.m);
        else
            turn8((const uint8_t *)buffer, (uint8_t *)y, step, s.n, s.m);
    }
}

/* ---- few channels ------------------------------------------------------------------------------- */

static int woven(const nest *t) {
    int last = t->ndim - 1;
    return t->x && t->from == t->to && t->ys[last] == 1 && t->xs[last] != 1 &&
           t->shape[last] <= 3 && last > 0 && t->xs[last - 1] == 1;
}

/* y[i, k] = x[k, i], k < m; m is a constant, and xs and step are bytes from row to row */
#define WEAVE(type, m)                                                                             \
    for (int64_t i = 0; i < n; i++)                                                                \
        for (int k = 0; k < m; k++) ((type *)(y + i * step))[k] = ((const type *)(x + k * xs))[i]; \
    break

static void weave(int64_t size, int64_t m, const char *x, int64_t xs, char *y, int64_t step,
                  int64_t n) {
    switch (size * 4 + m) {
    case 4 + 2:
        WEAVE(uint8_t, 2);
    case 4 + 3:
        WEAVE(uint8_t, 3);
    case 16 + 2:
        WEAVE(uint32_t, 2);
    case 16 + 3:
        WEAVE(uint32_t, 3);
    case 32 + 2:
        WEAVE(uint64_t, 2);
    case 32 + 3:
        WEAVE(uint64_t, 3);
    }
}

/* total counts the places of all dimensions but the last */
static void weave_chunk(pn_call *c, void *arg, int64_t chunk, int worker) {
    const nest *t = arg;
    int last = t->ndim - 1;
    int64_t size = itemsize[t->to], lo = chunk * t->grain, hi = pn_min(t->total, lo + t->grain);
    (void)c, (void)worker;
    for (int64_t n; lo < hi; lo += n) {
        int64_t rest = lo, x = 0, y = 0;
        n = pn_min(hi - lo, t->shape[last - 1] - lo % t->shape[last - 1]);
        for (int d = last - 1; d >= 0; d--) {
            x += rest % t->shape[d] * t->xs[d], y += rest % t->shape[d] * t->ys[d];
            rest /= t->shape[d];
        }
        weave(size, t->shape[last], t->x + x * size, t->xs[last] * size, t->y + y * size,
              t->ys[last - 1] * size, n);
    }
}

static void copy(pn_call *c, const pn_array *x, const pn_array *y) {
    nest t = merged(x, y);
    int d = turned(&t);
    if (woven(&t)) {
        t.total /= t.shape[t.ndim - 1];
        t.grain = pn_grain(CHUNK / 2);
        pn_for(c, pn_ceil_div(t.total, t.grain), weave_chunk, &t);
        return;
    }
    if (d >= 0) {
        int64_t n = t.shape[t.ndim - 1], m = t.shape[d];
        t.total = t.total / (n * m) * pn_ceil_div(n, SIDE) * pn_ceil_div(m, SIDE);
        t.grain = pn_max(1, pn_grain(CHUNK) / (SIDE * SIDE));
        pn_for(c, pn_ceil_div(t.total, t.grain), turn_chunk, &t);
        return;
    }
    t.grain = pn_grain(CHUNK);
    pn_for(c, pn_ceil_div(t.total, t.grain), copy_chunk, &t);
}

PN_FN(copy_fwd) { copy(c, ARG(copy_fwd, x), ARG(copy_fwd, y)); }

static void zero(pn_call *c, const pn_array *y) {
    pn_array x = *y;
    x.data = NULL;
    copy(c, &x, y);
}

PN_FN(zeros_fwd) { zero(c, ARG(zeros_fwd, y)); }

PN_FN(unslice_fwd) {
    const pn_array *x = ARG(unslice_fwd, x), *place = ARG(unslice_fwd, place),
                   *y = ARG(unslice_fwd, y);
    pn_array part = *y;
    const int64_t *p = place->data;
    int64_t off = 0;
    int64_t n = pn_size(x);
    for (int d = 0; d < y->ndim; d++) {
        int64_t begin = p[d * place->strides[1]],
                step = p[place->strides[0] + d * place->strides[1]], last;
        int wraps = __builtin_mul_overflow(x->shape[d] - 1, step, &last) ||
                    __builtin_add_overflow(begin, last, &last);
        if (n && (wraps || begin < 0 || begin >= y->shape[d] || last < 0 || last >= y->shape[d])) {
            int which = begin >= 0 && begin < y->shape[d]; /* begin, else step */
            pn_fail(c, PN_E_INDEX, PNA_unslice_fwd_place, which * y->ndim + d,
                    (double)(which ? step : begin));
            return;
        }
        off += n ? begin * y->strides[d] : 0;
        part.shape[d] = x->shape[d];
        part.strides[d] = n ? y->strides[d] * step : 0;
    }
    zero(c, y);
    if (n == 0) return;
    part.data = (char *)y->data + off * itemsize[y->dtype];
    copy(c, x, &part);
}

#endif
