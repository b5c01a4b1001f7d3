/* pn_conv_lanes.h: depthwise convolution: each channel is on its own, in a lane of vectors.
 *
 *   y[p, c]  = bias[c] + Σ_t x_p[t, c] w[t, c]      in the form of pn_conv.h
 *   dW[c, t] = Σ_p dy[p, c] x_p[t, c]
 *
 * x is read in place. y goes by strips of some columns and channels, down the rows of a chunk, so that a row of
 * x stays in L1 for all rows of y that read it. Columns that find all taps inside of x go up to MR at a time, those
 * at the ends one by one. A sum is one chain over the taps; of dW, over the pixels of a share, whose number
 * sizes tell.
 */
#ifndef PN_CONV_LANES_H
#define PN_CONV_LANES_H

#include "pn_conv_tile.h"

#define STREAM_BYTES (16 << 20)   /* of a result that goes past the caches */
#define LANE_MACS (1 << 20)       /* multiplications worth a chunk, some 20 us */
#define LANE_BYTES (28 << 10)     /* of x that a strip reads, to stay in L1 */
#define LANE_SHARES 16            /* of the rows of dy, at most, */
#define LANE_ROWS 4               /* and how many rows one has, at least */
#define LANE_PIXELS 16            /* whose sums go on in registers */

typedef struct lanes {
    conv c;             /* w is not used */
    const T *w;         /* [taps, wide] */
    int64_t wide;       /* channels in whole vectors */
    int64_t left, right; /* columns of y that find all taps */
    int64_t at_once, n_row; /* rows of y in a chunk, chunks of an image */
    int64_t channels;       /* of a strip */
    int stream, square;     /* square: lanes_3x3 serves */
    int64_t shares, packed; /* of dW, and its elements in each */
    T *acc;
} lanes;

static int is_depthwise(const conv *c) { return c->groups > 1 && c->ki == 1 && c->ko == 1; }

/* The taps of output u that are inside of x: [first, end). */
static inline void found(const axis *a, int64_t u, int64_t size, int64_t *first, int64_t *end) {
    int64_t at = a->x0 + u * a->xs;
    *first = *end = 0;
    if (!a->taps) return;
    if (at < 0) *first = pn_min(a->taps, pn_ceil_div(-at, a->xt));
    if (at < size) *end = pn_min(a->taps, (size - 1 - at) / a->xt + 1);
    *end = pn_max(*first, *end);
}

static lanes plan_lanes(const conv *c) {
    lanes j = {.c = *c, .wide = round_up(c->co, PN_VL), .right = c->cols.n};
    for (int64_t b = 0, lo, hi; b < c->cols.taps; b++) {
        inside(&c->cols, b, c->wi, &lo, &hi);
        j.left = pn_max(j.left, lo), j.right = pn_min(j.right, hi);
    }
    j.left = pn_min(j.left, c->cols.n), j.right = pn_max(j.left, j.right);
    j.packed = c->rows.taps * c->cols.taps * j.wide;
    return j;
}

/* ---- y -------------------------------------------------------------------------------------------- */

/* Of the taps those that are inside of x: rows [a0, a1), columns [b0, b1). */
typedef struct seen {
    int64_t a0, a1, b0, b1;
} seen;

/* Ends of mr sums: of pixels next to one another, from y on, by n channels. */
PN_INLINE void lanes_end(const int mr, const lanes *j, V *sum, T *y, int64_t o, const int whole) {
    const conv *c = &j->c;
    const int64_t n = whole ? PN_VL : c->co - o, yq = c->cols.ys * c->co;
    V bias = c->bias ? pn_load_part(c->bias + o, n, 0) : (V){0};
    ALL(i, mr) sum[i] += bias;
    if (c->residual) {
        const T *from = c->residual + (y - c->y);
        ALL(i, mr) sum[i] += pn_load_part(from + i * yq, n, 0);
    }
    ALL(i, mr) {
        V v = sum[i];
        if (c->relu) v = pn_select(v <= (V){0}, (V){0}, v);
        if (whole && j->stream)
            pn_stream(y, v);
        else
            pn_store_part(y, v, n);
        y += yq;
    }
}

/* Fetches what the next row of y reads beside what this one does, whose first taps are at x. */
PN_INLINE void lanes_fetch(const int mr, const conv *c, const T *x) {
    const int64_t row = c->wi * c->ci, xq = c->cols.xs * c->ci;
    x += ((c->rows.taps - 1) * c->rows.xt + 1) * row;
    for (int64_t a = 0; a < c->rows.xs; a++)
        for (int64_t b = 0; b < c->cols.xs; b++) {
            const T *p = x + a * row + b * c->ci;
            ALL(i, mr) {
                __builtin_prefetch(p, 0, 2);
                p += xq;
            }
        }
}

/* A tap outside of x: what is NaN stays so. */
PN_INLINE void lanes_zero(const int mr, V sum[MR], const T *w) {
    V e = pn_load(w);
    ALL(i, mr) pn_fma_to(&sum[i], (V){0}, e);
}

/* mr pixels next to one another, whose first taps are at x, by a vector of channels from o on. */
PN_INLINE void lanes_any(const int mr, const lanes *j, const T *x, const seen *s, T *y, int64_t o,
                         const int whole) {
    const conv *c = &j->c;
    const int64_t n = whole ? PN_VL : c->co - o, xq = c->cols.xs * c->ci;
    const int64_t row = c->rows.xt * c->wi * c->ci, tap = c->cols.xt * c->ci;
    const T *w = j->w + o;
    V sum[MR];
    ALL(i, mr) sum[i] = (V){0};
    for (int64_t a = 0; a < c->rows.taps; a++) {
        int64_t in = a >= s->a0 && a < s->a1, b0 = in ? s->b0 : c->cols.taps, b1 = in ? s->b1 : b0,
                b = 0;
        const T *from = x + o + a * row + b0 * tap;
        for (; b < b0; b++, w += j->wide) lanes_zero(mr, sum, w);
        for (; b < b1; b++, w += j->wide, from += tap) {
            const T *p = from;
            V e = pn_load(w);
            ALL(i, mr) {
                pn_fma_to(&sum[i], whole ? pn_load(p) : pn_load_part(p, n, 0), e);
                p += xq;
            }
        }
        for (; b < c->cols.taps; b++, w += j->wide) lanes_zero(mr, sum, w);
    }
    lanes_end(mr, j, sum, y + o, o, whole);
    lanes_fetch(mr, c, x + o);
}

/* The same for 3x3 kernels whose pixels and taps are one step apart: each element of x is read once. The first
 * and the last column that is read may be outside, and rows of taps. */
PN_INLINE void lanes_3x3(const int mr, const lanes *j, const T *x, const seen *s, T *y, int64_t o) {
    const conv *c = &j->c;
    const int64_t xq = c->cols.xs * c->ci, row = c->rows.xt * c->wi * c->ci;
    const T *w = j->w + o;
    V sum[MR], e[3][3];
    ALL(i, mr) sum[i] = (V){0};
    ALL(a, 3) ALL(b, 3) e[a][b] = pn_load(w + (a * 3 + b) * j->wide);
    ALL(a, 3) {
        const T *p = x + o + a * row;
        if (a < s->a0 || a >= s->a1)
            ALL(b, 3) lanes_zero(mr, sum, w + (a * 3 + b) * j->wide);
        else
            ALL(q, mr + 2) {
                V v = (V){0};
                if ((q > 0 || s->b0 == 0) && (q < mr + 1 || s->b1 == 3)) v = pn_load(p);
                p += xq;
                ALL(b, 3) if (q >= b && q - b < mr) pn_fma_to(&sum[q - b], v, e[a][b]);
            }
    }
    lanes_end(mr, j, sum, y + o, o, 1);
    lanes_fetch(mr, c, x + o);
}

typedef void (*lanes_fn)(const lanes *j, const T *x, const seen *s, T *y, int64_t o, int64_t end);

#define LANES(mr)                                                                                  \
    static void lanes_##mr(const lanes *j, const T *x, const seen *s, T *y, int64_t o,             \
                           int64_t end) {                                                          \
        for (; o + PN_VL <= end; o += PN_VL)                                                       \
            if (j->square)                                                                         \
                lanes_3x3(mr, j, x, s, y, o);                                                      \
            else                                                                                   \
                lanes_any(mr, j, x, s, y, o, 1);                                                   \
        if (o < end) lanes_any(mr, j, x, s, y, o, 0);                                              \
    }
#define NAME(mr) lanes_##mr,
HEIGHTS(LANES)
static const lanes_fn lanes_of[MR] = {HEIGHTS(NAME)};
#undef NAME

/* mr columns from v on, which see taps [b0, b1), of channels [o, end), down rows [u0, u1) of an image. */
static void lanes_strip(const lanes *j, int64_t n, int64_t u0, int64_t u1, int64_t v, int64_t mr,
                        seen s, int64_t o, int64_t end) {
    const conv *c = &j->c;
    const axis *rows = &c->rows, *cols = &c->cols;
    for (int64_t u = u0; u < u1; u++) {
        int64_t h = n * c->hi + rows->x0 + u * rows->xs, p = n * c->ho + rows->y0 + u * rows->ys;
        found(rows, u, c->hi, &s.a0, &s.a1);
        lanes_of[mr - 1](j, c->x + (h * c->wi + cols->x0 + v * cols->xs) * c->ci, &s,
                         c->y + (p * c->wo + cols->y0 + v * cols->ys) * c->co, o, end);
    }
}

static void lanes_body(pn_call *call, void *arg, int64_t chunk, int worker) {
    const lanes *j = arg;
    const axis *cols = &j->c.cols;
    int64_t n = chunk / j->n_row, u0 = chunk % j->n_row * j->at_once;
    int64_t u1 = pn_min(u0 + j->at_once, j->c.rows.n);
    parts tiles = cut(j->right - j->left, MR);
    (void)call, (void)worker;
    for (int64_t o = 0; o < j->c.co; o += j->channels)
        for (int64_t v = 0, k = 0, mr, b; v < cols->n; v += mr) {
            seen s;
            mr = v < j->left || v >= j->right ? 1 : tiles.size + (k++ < tiles.longer);
            found(cols, v, j->c.wi, &s.b0, &b);
            found(cols, v + mr - 1, j->c.wi, &b, &s.b1);
            lanes_strip(j, n, u0, u1, v, mr, s, o, pn_min(o + j->channels, j->c.co));
        }
    if (j->stream) pn_stream_end();
}

static int64_t lanes_scratch(const conv *c) { return bytes_of(plan_lanes(c).packed); }

static void pack_lanes(const lanes *j, T *w) {
    const conv *c = &j->c;
    for (int64_t t = 0; t < c->rows.taps; t++)
        for (int64_t s = 0; s < c->cols.taps; s++, w += j->wide) {
            const T *from = c->w + (c->rows.w0 + t * c->rows.wt) * c->wa +
                            (c->cols.w0 + s * c->cols.wt) * c->wb;
            for (int64_t o = 0; o < j->wide; o++) w[o] = o < c->co ? from[o * c->wg] : 0;
        }
}

static void run_lanes(pn_call *call, const conv *c, void *scratch) {
    lanes j = plan_lanes(c);
    if (!c->cols.n) return;
    if (!c->ready) pack_lanes(&j, scratch);
    j.w = c->ready ? c->ready : scratch;
    j.square = c->rows.taps == 3 && c->cols.taps == 3 && c->cols.xs == c->cols.xt &&
               c->co % PN_VL == 0 && j.left <= 1 && j.right >= c->cols.n - 1 && j.left <= j.right;
    if (j.square) j.left = 0, j.right = c->cols.n;
    j.stream = c->co % PN_VL == 0 && (uintptr_t)c->y % PN_ALIGN == 0 &&
               c->n * c->ho * c->wo * c->co * (int64_t)sizeof(T) >= STREAM_BYTES;
    j.at_once = pn_max(1, pn_min(c->rows.n, pn_grain(LANE_MACS) / pn_max(1, c->cols.n * j.packed)));
    j.n_row = pn_ceil_div(c->rows.n, j.at_once);
    j.channels = round_up(
        pn_max(1, LANE_BYTES / (int64_t)sizeof(T) / (MR + c->cols.taps) / (c->rows.taps + 1)),
        PN_VL);
    pn_for(call, c->n * j.n_row, lanes_body, &j);
}

/* ---- dW --------------------------------------------------------------------------------------------- */

typedef struct lane_pixels { /* n pixels, and the steps to the next pixel, row and tap */
    int64_t n, xq, xa, xb, dq, aa, ab;
} lane_pixels;

/* acc[a, b] += Σ_q x[q, a, b] d[q] for na rows of nb taps and a vector of channels */
PN_INLINE void lane_sums(const int na, const int nb, const T *x, const T *d, const lane_pixels *p,
                         int64_t channels, T *acc) {
    V sum[MR > 9 ? MR : 9];
    ALL(a, na) ALL(b, nb) sum[a * nb + b] = pn_load(acc + a * p->aa + b * p->ab);
    if (channels >= PN_VL)
        for (int64_t q = 0; q < p->n; q++, x += p->xq, d += p->dq) {
            V e = pn_load(d);
            ALL(a, na)
            ALL(b, nb) pn_fma_to(&sum[a * nb + b], pn_load(x + a * p->xa + b * p->xb), e);
        }
    else
        for (int64_t q = 0; q < p->n; q++, x += p->xq, d += p->dq) {
            V e = pn_load_part(d, channels, 0);
            ALL(a, na)
            ALL(b, nb)
            pn_fma_to(&sum[a * nb + b], pn_load_part(x + a * p->xa + b * p->xb, channels, 0), e);
        }
    ALL(a, na) ALL(b, nb) pn_store(acc + a * p->aa + b * p->ab, sum[a * nb + b]);
}

typedef void (*lane_sums_fn)(const T *x, const T *d, const lane_pixels *p, int64_t channels,
                             T *acc);

#define LANE_SUMS(nb)                                                                              \
    static void lane_sums_##nb(const T *x, const T *d, const lane_pixels *p, int64_t channels,     \
                               T *acc) {                                                           \
        lane_sums(1, nb, x, d, p, channels, acc);                                                  \
    }
#define NAME(nb) lane_sums_##nb,
HEIGHTS(LANE_SUMS)
static const lane_sums_fn lane_sums_of[MR] = {HEIGHTS(NAME)};
#undef NAME

/* Three rows of three, the usual kernel: nine chains, where three would wait for one another. */
static void lane_sums_3x3(const T *x, const T *d, const lane_pixels *p, int64_t channels, T *acc) {
    lane_sums(3, 3, x, d, p, channels, acc);
}

/* Rows of taps over pixels; x, d and acc are at channel 0 of the first of each. */
static void weigh_lanes(const lanes *j, const T *x, const T *d, const lane_pixels *p, int64_t rows,
                        int64_t taps, T *acc) {
    for (int64_t o = 0; o < j->c.co; o += PN_VL) {
        if (rows == 3 && taps == 3) {
            lane_sums_3x3(x + o, d + o, p, j->c.co - o, acc + o);
            continue;
        }
        for (int64_t a = 0; a < rows; a++)
            for (int64_t b = 0; b < taps; b += MR)
                lane_sums_of[pn_min(MR, taps - b) - 1](x + a * p->xa + b * p->xb + o, d + o, p,
                                                       j->c.co - o,
                                                       acc + a * p->aa + b * p->ab + o);
    }
}

static void weigh_lanes_body(pn_call *call, void *arg, int64_t chunk, int worker) {
    const lanes *j = arg;
    const conv *c = &j->c;
    const axis *rows = &c->rows, *cols = &c->cols;
    int64_t n_rows = c->n * rows->n, a0, a1, b0, b1;
    parts cutting = {j->shares, n_rows / j->shares, n_rows % j->shares};
    lane_pixels p = {.xq = cols->xs * c->ci,
                     .xa = rows->xt * c->wi * c->ci,
                     .xb = cols->xt * c->ci,
                     .dq = c->co,
                     .aa = cols->taps * j->wide,
                     .ab = j->wide};
    T *acc = j->acc + chunk * j->packed;
    (void)call, (void)worker;
    memset(acc, 0, (size_t)j->packed * sizeof(T));
    for (int64_t r = part_start(cutting, chunk); r < part_start(cutting, chunk + 1); r++) {
        int64_t u = r % rows->n;
        found(rows, u, c->hi, &a0, &a1);
        const T *d = c->y + r * c->wo * c->co;
        const T *x =
            c->x + cols->x0 * c->ci +
            (r / rows->n * c->hi + rows->x0 + u * rows->xs + a0 * rows->xt) * c->wi * c->ci;
        for (int64_t v = 0; v < cols->n; v += p.n) {
            found(cols, v, c->wi, &b0, &b1);
            p.n = v < j->left || v >= j->right ? 1 : pn_min(LANE_PIXELS, j->right - v);
            weigh_lanes(j, x + v * p.xq + b0 * p.xb, d + v * p.dq, &p, a1 - a0, b1 - b0,
                        acc + a0 * p.aa + b0 * p.ab);
        }
    }
}

static int64_t lane_shares(const conv *c) {
    return pn_max(1, pn_min(LANE_SHARES, c->n * c->rows.n / LANE_ROWS));
}

static int64_t lane_weights_scratch(const conv *c) {
    return bytes_of(lane_shares(c) * plan_lanes(c).packed);
}

/* c as forward, with dy for y */
static void run_lane_weights(pn_call *call, const conv *c, T *dw, void *scratch) {
    lanes j = plan_lanes(c);
    int64_t taps = c->rows.taps * c->cols.taps;
    j.shares = lane_shares(c), j.acc = scratch;
    pn_for(call, j.shares, weigh_lanes_body, &j);
    for (int64_t o = 0; o < c->co; o++)
        for (int64_t t = 0; t < taps; t++) {
            T sum = j.acc[t * j.wide + o];
            for (int64_t s = 1; s < j.shares; s++) sum += j.acc[s * j.packed + t * j.wide + o];
            dw[o * taps + t] = sum;
        }
}

#endif
