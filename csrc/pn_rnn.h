/* pn_rnn.h: what rnn.c, lstm.c and gru.c share: the order of steps and sequences, and products by weights
 * that stay packed from step to step.
 *
 *     acc[i][v] += Σ_k a[i][k] w[k][v]         rows a[i] of any address, v a vector of columns of w
 *
 * Arrays are dense and time comes first: x[T, N, I], y[T, N, P]. A step's work is a grid of units: a panel of
 * weights, that is up to VECS vectors of columns, by up to GROUP sequences. A unit multiplies, then goes on
 * with its sums while they are in L1: gates, state, or their gradients. pn_for joins the units of a step, as
 * each of the next reads whole rows of what this one wrote.
 *
 * Panels lie as [panel][k][vector]: packed once for all steps. Packing at each step, as a product of its own
 * must, costs a quarter more at 32 rows and twice as much at one. Every sum is one chain of fused
 * multiply-adds in the order of k, begun with what is in acc: blocks of k, tiles, groups and threads move
 * data only. (DIRECT rows and less are not worth packing: there lanes of a row are summed, then a tree.)
 *
 * With lengths, sequences are ordered by falling length, so that those that have a step t are the first
 * count(t) of them. The others are left out; what belongs to them is written as 0.
 */
#ifndef PN_RNN_H
#define PN_RNN_H

#include <string.h>

#include "pn_gemm.h"
#include "pn_math.h"

#if PN_FLOAT

/* A tile is HIGH rows by VECS vectors: its sums, a row of the panel and an element fill 32 registers, or 16. A
 * group is what a unit takes at once; of a panel its tiles use PANEL_BYTES at a time, half of L1. */
#define VECS 4
#if PN_VBYTES == 64 || defined __aarch64__
#define HIGH 6
#else
#define HIGH 3
#endif
#define GROUP (4 * HIGH)
#define PANEL_BYTES 24576

/* Multiplications of a chunk, some 2 us; rows in all steps up to which weights are read as they are. */
#define UNIT_WORK (1 << 18)
#define DIRECT 4

#define EACH(i, n) PN_UNROLL for (int i = 0; i < (n); i++)

/* ---- steps and sequences ------------------------------------------------------------------------ */

typedef struct seq {
    int64_t steps, n; /* T, N */
    const int64_t *len; /* [N], or NULL: all are T */
    int64_t *order; /* [N]: the sequences by falling length, equal ones as they come */
    int64_t *counts; /* [T + 1]: sequences that have step t; 0 at T */
    int reverse;
} seq;

/* Takes n elements of type E from *p, which may count from NULL when only the size is asked for. */
static inline void *take(char **p, int64_t bytes) {
    void *at = *p;
    *p += pn_ceil_div(bytes, PN_ALIGN) * PN_ALIGN;
    return at;
}
#define TAKE(p, E, n) ((E *)take(p, (n) * (int64_t)sizeof(E)))

/* Whether the lengths are 0..T; if not, the call fails. Fills order and counts. */
static inline int arrange(pn_call *c, seq *q, int len_arg) {
    int ok = 1;
    for (int64_t t = 0; t <= q->steps; t++) q->counts[t] = q->len || t == q->steps ? 0 : q->n;
    for (int64_t i = 0; i < q->n; i++) q->order[i] = i;
    if (!q->len) return 1;
    for (int64_t i = 0; i < q->n; i++) {
        if (q->len[i] >= 0 && q->len[i] <= q->steps) continue;
        pn_fail(c, PN_E_VALUE, len_arg, i, (double)q->len[i]);
        ok = 0;
    }
    if (!ok) return 0;
    /* counts[t] = how many are longer than t; those of length t + 1 stand behind all longer ones */
    for (int64_t i = 0; i < q->n; i++)
        if (q->len[i]) q->counts[q->len[i] - 1]++;
    for (int64_t t = q->steps - 2; t >= 0; t--) q->counts[t] += q->counts[t + 1];
    int64_t at = 0;
    for (int64_t t = q->steps; t >= 0; t--)
        for (int64_t i = 0; at < (t ? q->counts[t - 1] : q->n) && i < q->n; i++)
            if (q->len[i] == t) q->order[at++] = i;
    return 1;
}

/* The row in [T, N, ...] of the r-th sequence at step t. */
PN_INLINE int64_t row_at(const seq *q, int64_t t, int64_t r) { return t * q->n + q->order[r]; }

PN_INLINE int has(const seq *q, int64_t t, int64_t r) {
    return t >= 0 && t < q->steps && r < q->counts[t];
}

PN_INLINE int64_t before(const seq *q, int64_t t) { return q->reverse ? t + 1 : t - 1; }
PN_INLINE int64_t after(const seq *q, int64_t t) { return q->reverse ? t - 1 : t + 1; }
/* The k-th step to be computed, and the last step of the sequence i, or -1. */
PN_INLINE int64_t step_at(const seq *q, int64_t k) { return q->reverse ? q->steps - 1 - k : k; }
static inline int64_t last_step(const seq *q, int64_t i) {
    int64_t n = q->len ? q->len[i] : q->steps;
    return n == 0 ? -1 : q->reverse ? 0 : n - 1;
}

/* The r-th sequence's row of the state before step t, width long: of all[T, N, ...] whose rows are rs apart,
 * or, where t is its first step, of start[N, width] (or zero, where there is no start). */
PN_INLINE const T *state_before(const seq *q, int64_t t, int64_t r, const T *all, int64_t rs,
                                const T *start, int64_t width, const T *zero) {
    int64_t b = before(q, t);
    if (has(q, b, r)) return all + row_at(q, b, r) * rs;
    return start ? start + q->order[r] * width : zero;
}

/* 0 to the rows, width long and rs apart, of steps that sequences do not have. */
static inline void clear_absent(const seq *q, T *all, int64_t rs, int64_t width) {
    for (int64_t t = 0; q->len && t < q->steps; t++)
        for (int64_t r = q->counts[t]; r < q->n; r++)
            memset(all + row_at(q, t, r) * rs, 0, (size_t)width * sizeof(T));
}

/* With lengths: to[T, N, width] = from, with 0 for steps that sequences do not have. */
static inline void copy_present(const seq *q, T *to, const T *from, int64_t width) {
    if (!q->len) return;
    memcpy(to, from, (size_t)(q->steps * q->n * width) * sizeof(T));
    clear_absent(q, to, width, width);
}

/* to[N, width] = the state after the last step; start where there is none. */
static inline void final_state(const seq *q, T *to, const T *all, int64_t rs, const T *start,
                               int64_t width) {
    for (int64_t i = 0; i < q->n; i++) {
        int64_t t = last_step(q, i);
        const T *from = t >= 0 ? all + (t * q->n + i) * rs : start ? start + i * width : NULL;
        if (from)
            memcpy(to + i * width, from, (size_t)width * sizeof(T));
        else
            memset(to + i * width, 0, (size_t)width * sizeof(T));
    }
}

/* With lengths: to[N, width] = the sequences' first rows of all; 0 where there is none. */
static inline void gather_first(const seq *q, T *to, const T *all, int64_t width) {
    for (int64_t i = 0; q->len && i < q->n; i++) {
        int64_t t = q->reverse ? q->len[i] - 1 : 0;
        if (q->len[i])
            memcpy(to + i * width, all + (t * q->n + i) * width, (size_t)width * sizeof(T));
        else
            memset(to + i * width, 0, (size_t)width * sizeof(T));
    }
}

/* to[N, width] = the gradient of the last state where a sequence has no step, which is its first; else 0. */
static inline void start_without_steps(const seq *q, T *to, const T *end, int64_t width) {
    for (int64_t i = 0; i < q->n; i++, to += width, end += width) {
        if (last_step(q, i) < 0)
            memcpy(to, end, (size_t)width * sizeof(T));
        else
            memset(to, 0, (size_t)width * sizeof(T));
    }
}

/* Where the first steps' rows of all[T, N, width] are: in place, unless they must be gathered to `apart`. */
static inline const T *first_of(const seq *q, const T *all, int64_t width, const T *apart) {
    if (q->len) return apart;
    return q->reverse && q->steps ? all + (q->steps - 1) * q->n * width : all;
}

/* ---- packed weights ----------------------------------------------------------------------------- */

/* The columns of W as panels. Of one gate, the vectors of a panel are neighbours, and the last panel may have
 * fewer; of several, a panel has one vector of each gate, that of the same hidden units. */
typedef struct panels {
    const T *w; /* the weights: column c's elements are w[c * cs + k * ks] */
    int64_t cs, ks, k; /* one of cs, ks is 1 */
    int64_t width; /* columns of a gate */
    int gates, vecs; /* vecs: vectors of a panel, at most */
    int64_t n; /* panels */
    T *packed; /* [panel][k][vector], or NULL: used as they are */
} panels;

static inline panels panels_of(const T *w, int64_t cs, int64_t ks, int64_t k, int gates,
                               int64_t width) {
    panels p = {.w = w, .cs = cs, .ks = ks, .k = k, .width = width, .gates = gates};
    p.vecs = gates > 1 ? gates : VECS;
    p.n = pn_ceil_div(width, gates > 1 ? PN_VL : VECS * PN_VL);
    return p;
}

/* Room for what is packed: the last panel counts as whole. */
static inline int64_t packed_size(const panels *p) { return p->n * p->vecs * PN_VL * p->k; }

/* Hidden units of a panel: the first of vector v, and how many vector v has. */
PN_INLINE int64_t unit_of(const panels *p, int64_t j, int v) {
    return p->gates > 1 ? j * PN_VL : (j * VECS + v) * PN_VL;
}
PN_INLINE int64_t units_in(const panels *p, int64_t j, int v) {
    return pn_min((int64_t)PN_VL, p->width - unit_of(p, j, v));
}
PN_INLINE int vecs_of(const panels *p, int64_t j) {
    if (p->gates > 1) return p->gates;
    return (int)pn_min((int64_t)VECS, pn_ceil_div(p->width - j * VECS * PN_VL, PN_VL));
}
PN_INLINE int64_t column_of(const panels *p, int64_t j, int v) {
    return p->gates > 1 ? v * p->width + j * PN_VL : (j * VECS + v) * PN_VL;
}

/* Turns a square of PN_VL vectors: lane b of x[a] and lane a of x[b] change places. */
PN_INLINE void turn_square(V *x) {
    PN_UNROLL
    for (int w = PN_VL / 2; w > 0; w /= 2) {
        VI low = (PN_LANES & w) == 0;
        EACH(a, PN_VL) {
            if (a & w) continue;
            V up = pn_select(low, x[a], pn_swap(x[a | w], w));
            x[a | w] = pn_select(low, pn_swap(x[a], w), x[a | w]);
            x[a] = up;
        }
    }
}

static inline void pack_body(pn_call *c, void *arg, int64_t j, int worker) {
    const panels *p = arg;
    const int vecs = vecs_of(p, j);
    (void)c, (void)worker;
    for (int v = 0; v < vecs; v++) {
        const T *from = p->w + column_of(p, j, v) * p->cs;
        T *to = p->packed + (j * p->vecs * p->k + v) * PN_VL;
        int64_t n = units_in(p, j, v), k = 0, step = vecs * PN_VL;
        if (p->cs == 1) {
            for (; k < p->k; k++) pn_store(to + k * step, pn_load_part(from + k * p->ks, n, 0));
            continue;
        }
        for (; k < p->k; k += PN_VL) {
            V x[PN_VL];
            int64_t deep = pn_min((int64_t)PN_VL, p->k - k);
            EACH(l, PN_VL) x[l] = l < n ? pn_load_part(from + l * p->cs + k, deep, 0) : (V){0};
            turn_square(x);
            EACH(l, PN_VL) if (l < deep) pn_store(to + (k + l) * step, x[l]);
        }
    }
}

static inline void pack(pn_call *c, panels *p) {
    if (p->k > 0) pn_for(c, p->n, pack_body, p);
}

/* ---- products ----------------------------------------------------------------------------------- */

typedef void (*tile_fn)(int64_t k, const T *const *a, int64_t at, const T *w, V *acc);

/* high and vecs are constants at each call, so that the sums live in registers. */
PN_INLINE void tile(const int high, const int vecs, int64_t k, const T *const *a, int64_t at,
                    const T *w, V *acc) {
    V sum[HIGH][VECS], y[VECS];
    const T *row[HIGH];
    EACH(i, high) {
        row[i] = a[i] + at;
        EACH(v, vecs) sum[i][v] = acc[i * vecs + v];
    }
    for (int64_t p = 0; p < k; p++, w += vecs * PN_VL) {
        EACH(v, vecs) y[v] = pn_load(w + v * PN_VL);
        EACH(i, high) {
            V x = pn_set1(row[i][p]);
            EACH(v, vecs) pn_fma_to(&sum[i][v], x, y[v]);
        }
    }
    EACH(i, high) EACH(v, vecs) acc[i * vecs + v] = sum[i][v];
}

#define TILE(high, vecs)                                                                           \
    static void tile_##high##_##vecs(int64_t k, const T *const *a, int64_t at, const T *w,         \
                                     V *acc) {                                                     \
        tile(high, vecs, k, a, at, w, acc);                                                        \
    }
#define TILES(high) TILE(high, 1) TILE(high, 2) TILE(high, 3) TILE(high, 4)
#define TILE_ROW(high) {tile_##high##_1, tile_##high##_2, tile_##high##_3, tile_##high##_4},
#if HIGH == 6
#define HIGHS(X) X(1) X(2) X(3) X(4) X(5) X(6)
#else
#define HIGHS(X) X(1) X(2) X(3)
#endif
HIGHS(TILES)
static const tile_fn tiles[HIGH][VECS] = {HIGHS(TILE_ROW)};

/* Σ_k w[c * cs + k] a[k] for the columns c of a vector; those beyond n repeat the last. */
PN_INLINE V dots(const T *w, int64_t cs, int64_t n, const T *a, int64_t k) {
    V x[PN_VL];
    const T *row[PN_VL];
    EACH(l, PN_VL) {
        x[l] = (V){0};
        row[l] = w + (l < n ? l : n - 1) * cs;
    }
    int64_t p = 0;
    for (; p + PN_VL <= k; p += PN_VL) {
        V y = pn_load(a + p);
        EACH(l, PN_VL) pn_fma_to(&x[l], pn_load(row[l] + p), y);
    }
    if (p < k) {
        V y = pn_load_part(a + p, k - p, 0);
        EACH(l, PN_VL) pn_fma_to(&x[l], pn_load_part(row[l] + p, k - p, 0), y);
    }
    PN_UNROLL
    for (int w2 = PN_VL / 2; w2 > 0; w2 /= 2) { /* lane l: the sum of x[l]'s lanes, by one tree */
        VI low = (PN_LANES & w2) == 0;
        EACH(l, w2)
        x[l] = pn_select(low, x[l], pn_swap(x[l + w2], w2)) +
               pn_select(low, pn_swap(x[l], w2), x[l + w2]);
    }
    return x[0];
}

/* acc[m][vecs of panel j] += a W */
static inline void product(const panels *p, int64_t j, const T *const *a, int64_t m, V *acc) {
    const int vecs = vecs_of(p, j);
    if (!p->packed) {
        for (int64_t i = 0; i < m; i++)
            for (int v = 0; v < vecs; v++)
                acc[i * vecs + v] +=
                    dots(p->w + column_of(p, j, v) * p->cs, p->cs, units_in(p, j, v), a[i], p->k);
        return;
    }
    if (m == 0) return;
    const T *w = p->packed + j * p->vecs * PN_VL * p->k;
    int64_t n = pn_ceil_div(m, HIGH), size = m / n, longer = m % n,
            most = PANEL_BYTES / (vecs * (int64_t)sizeof(V));
    for (int64_t at = 0; at < p->k; at += most, w += most * vecs * PN_VL)
        for (int64_t e = 0, i = 0, high; e < n; e++, i += high) {
            high = size + (e < longer);
            tiles[high - 1][vecs - 1](pn_min(most, p->k - at), a + i, at, w, acc + i * vecs);
        }
}

/* ---- a step ------------------------------------------------------------------------------------- */

/* m sequences from the r-th by panel j, at step t */
typedef void (*unit_fn)(const void *arg, int64_t t, int64_t j, int64_t r, int64_t m);

typedef struct step {
    unit_fn unit;
    const void *arg;
    int64_t t, panels, rows, groups, per;
} step;

/* Every other step takes the panels from the last on: what is left in L2 of the one before serves it. */
static inline void step_body(pn_call *c, void *arg, int64_t chunk, int worker) {
    const step *s = arg;
    (void)c, (void)worker;
    for (int64_t u = chunk * s->per; u < pn_min(s->panels * s->groups, (chunk + 1) * s->per); u++) {
        int64_t j = u / s->groups, g = u % s->groups;
        int64_t r = g * s->rows / s->groups, end = (g + 1) * s->rows / s->groups;
        s->unit(s->arg, s->t, s->t & 1 ? s->panels - 1 - j : j, r, end - r);
    }
}

/* The units of `rows` sequences by all panels of p at step t. */
static inline void run_step(pn_call *c, unit_fn unit, const void *arg, const panels *p, int64_t t,
                            int64_t rows) {
    step s = {unit, arg, t, p->n, rows, pn_ceil_div(rows, GROUP), 1};
    if (!rows || !p->n) return;
    /* a row alone takes as long as some do together: it waits for the weights */
    int64_t work = pn_max(pn_ceil_div(rows, s.groups), 2 * HIGH) * p->vecs * PN_VL * (p->k + 64);
    s.per = pn_max(1, pn_grain(UNIT_WORK) / work);
    pn_for(c, pn_ceil_div(s.panels * s.groups, s.per), step_body, &s);
}

/* Where the gradient of h_t comes from: dy[T, N, width], the gates' gradients of the step after, rows of p->k
 * out of da[T, N, ...] that are rs apart, and more[N, width]: where `always` from every step, else where a
 * sequence has no step after. */
typedef struct grads {
    const T *dy, *da, *more;
    int64_t width, rs;
    int always;
} grads;

/* acc[m][vecs of panel j] = the gradient of h_t */
static inline void grad_of_h(const seq *q, const grads *g, const panels *p, int64_t t, int64_t j,
                             int64_t r, int64_t m, V *acc) {
    const int vecs = vecs_of(p, j);
    const T *from[GROUP] = {NULL};
    int64_t live = 0, next = after(q, t);
    for (int64_t i = 0; i < m; i++) {
        const T *dy = g->dy + row_at(q, t, r + i) * g->width;
        const T *more = g->more + q->order[r + i] * g->width;
        int goes_on = has(q, next, r + i); /* these come first, as longer ones do */
        if (goes_on) from[live++] = g->da + row_at(q, next, r + i) * g->rs;
        for (int v = 0; v < vecs; v++) {
            int64_t u = unit_of(p, j, v), n = units_in(p, j, v);
            V d = pn_load_part(dy + u, n, 0);
            acc[i * vecs + v] = goes_on && !g->always ? d : d + pn_load_part(more + u, n, 0);
        }
    }
    product(p, j, from, live, acc);
}

/* ---- products over all steps, by pn_gemm ---------------------------------------------------------- */

static inline pn_mat rows_of(const T *p, int64_t rs) {
    return (pn_mat){.p = (T *)p, .rs = rs, .cs = 1};
}
static inline pn_mat turned(const T *p, int64_t rs) {
    return (pn_mat){.p = (T *)p, .rs = 1, .cs = rs};
}

static inline pn_gemm_args gemm_of(int64_t m, int64_t n, int64_t k, pn_mat a, pn_mat b, pn_mat c) {
    return (pn_gemm_args){.m = m, .n = n, .k = k, .a = a, .b = b, .c = c};
}

/* A product, or, where no call is given, the scratch that it needs. */
static inline int64_t multiply(pn_call *c, pn_gemm_args g, int accumulate, void *scratch) {
    g.accumulate = accumulate;
    if (!c) return PN_NAME(gemm_scratch)(&g);
    PN_NAME(gemm)(c, &g, scratch);
    return 0;
}

/* A column of ones: by rows x it gives their sum. */
static const T one = 1;
static inline pn_gemm_args sum_of(T *to, const T *x, int64_t rs, int64_t rows, int64_t n) {
    return gemm_of(1, n, rows, (pn_mat){.p = (T *)&one}, rows_of(x, rs), rows_of(to, n));
}

/* dw[g, width] = Σ da[row, g] h'[row, width] over all steps: h' is y of the step before, and h0 (or NULL) for
 * the first rows, which are at `first`, as far apart as those of da. */
static inline int64_t grad_by_h(pn_call *c, const seq *q, T *dw, const T *da, const T *first,
                                int64_t rs, int64_t g, const T *y, const T *h0, int64_t width,
                                void *scratch) {
    const int64_t rows = q->steps * q->n, later = q->reverse ? 0 : q->n, earlier = q->n - later;
    pn_mat to = rows_of(dw, width);
    int64_t need = multiply(c,
                            gemm_of(g, width, pn_max(0, rows - q->n), turned(da + later * rs, rs),
                                    rows_of(y + earlier * width, width), to),
                            0, scratch);
    if (!h0 || !rows) return need;
    return pn_max(need,
                  multiply(c, gemm_of(g, width, q->n, turned(first, rs), rows_of(h0, width), to), 1,
                           scratch));
}

/* ---- a call ------------------------------------------------------------------------------------- */

/* What a kernel works on; what its kind of layer lacks stays empty. */
typedef struct layer {
    seq q;
    int64_t in, h, p; /* I, H, P: of x, of a gate, of h_t */
    const T *x, *h0, *c0, *w_ih, *w_hh, *b_ih, *b_hh, *w_hr;
    const T *zero; /* a row of zeros, in place of a state that is not given */
    T *y, *saved;
    int relu, reset_after, project;
    int direct; /* few rows: weights as they are */
    panels of_x, of_h, of_m; /* W_ih, W_hh; W_hr, or gru.c's W_hn */
    T *bias, *m; /* [gates H] of both; with a projection [N, H] of a step */
    grads g; /* what follows is for backward */
    T *da, *carried; /* [T, N, gates H]; [N, H] from step to step */
    T *dh, *all_m; /* with a projection: [T, N, P], [T, N, H] */
    T *xs, *apart; /* with lengths: x with 0 where absent; the first steps' da */
    T *dx, *dh0, *dw_ih, *dw_hh, *db_ih, *db_hh; /* gradients, where they are wanted */
    char *scratch; /* of products */
} layer;

#define LAYER(kernel, gates)                                                                       \
    {.q = {.steps = ARG(kernel, x)->shape[0],                                                      \
           .n = ARG(kernel, x)->shape[1],                                                          \
           .len = ARG(kernel, lengths)->data,                                                      \
           .reverse = PAR(kernel, reverse).i != 0},                                                \
     .in = ARG(kernel, x)->shape[2],                                                               \
     .h = ARG(kernel, w_hh)->shape[0] / (gates),                                                   \
     .p = ARG(kernel, w_hh)->shape[1],                                                             \
     .x = ARG(kernel, x)->data,                                                                    \
     .h0 = ARG(kernel, h0)->data,                                                                  \
     .w_ih = ARG(kernel, w_ih)->data,                                                              \
     .w_hh = ARG(kernel, w_hh)->data,                                                              \
     .b_ih = ARG(kernel, b_ih)->data,                                                              \
     .b_hh = ARG(kernel, b_hh)->data,                                                              \
     .y = ARG(kernel, y)->data}

#define SET_GRADS(kernel, w)                                                                       \
    ((w).dx = ARG(kernel, dx)->data, (w).dh0 = ARG(kernel, dh0)->data,                             \
     (w).dw_ih = ARG(kernel, dw_ih)->data, (w).dw_hh = ARG(kernel, dw_hh)->data,                   \
     (w).db_ih = ARG(kernel, db_ih)->data, (w).db_hh = ARG(kernel, db_hh)->data)

/* need = the larger of it and what the product takes; c, need and w are the function's own. */
#define DO(...) need = pn_max(need, multiply(c, __VA_ARGS__, w->scratch))

/* The first parts of scratch, from `at` on; gives their end. */
static inline char *take_order(layer *w, char *at) {
    w->q.order = TAKE(&at, int64_t, w->q.n);
    w->q.counts = TAKE(&at, int64_t, w->q.steps + 1);
    w->zero = TAKE(&at, T, pn_max(w->h, w->p));
    return at;
}

/* Fills them; 0 where the call has failed. */
static inline int begin(pn_call *c, layer *w, int len_arg) {
    memset((T *)w->zero, 0, (size_t)pn_max(w->h, w->p) * sizeof(T));
    return arrange(c, &w->q, len_arg);
}

/* Parts of scratch of a backward whose da has rows of g. */
static inline char *take_absent(layer *w, char *at, int64_t g) {
    w->xs = (T *)w->x;
    if (!w->q.len) return at;
    w->xs = TAKE(&at, T, w->q.steps * w->q.n * w->in);
    w->apart = TAKE(&at, T, w->q.n * g);
    return at;
}

static inline void sum_biases(const layer *w, int64_t n) {
    for (int64_t e = 0; e < n; e++)
        w->bias[e] = (w->b_ih ? w->b_ih[e] : 0) + (w->b_hh ? w->b_hh[e] : 0);
}

/* x W_ihᵀ + bias of all steps, n columns, to rows that are rs apart */
static inline pn_gemm_args of_all_x(const layer *w, int64_t n, T *to, int64_t rs) {
    pn_gemm_args g = gemm_of(w->q.steps * w->q.n, n, w->in, rows_of(w->x, w->in),
                             turned(w->w_ih, w->in), rows_of(to, rs));
    g.bias = (pn_mat){.p = w->bias, .cs = 1};
    return g;
}

/* The last products of a backward whose da has rows of g for W_ih and W_hh alike, where they are wanted; or,
 * where no call is given, the scratch that they need. */
static inline int64_t last_products(pn_call *c, const layer *w, int64_t g) {
    const seq *q = &w->q;
    const int64_t rows = q->steps * q->n, in = w->in, p = w->p;
    const T *first = first_of(q, w->da, g, w->apart);
    pn_mat da = rows_of(w->da, g), turned_da = turned(w->da, g);
    T *db = w->db_ih ? w->db_ih : w->db_hh;
    int64_t need = 0;
    if (w->dx) DO(gemm_of(rows, in, g, da, rows_of(w->w_ih, in), rows_of(w->dx, in)), 0);
    if (w->dw_ih) DO(gemm_of(g, in, rows, turned_da, rows_of(w->xs, in), rows_of(w->dw_ih, in)), 0);
    if (w->dw_hh) {
        int64_t takes = grad_by_h(c, q, w->dw_hh, w->da, first, g, g, w->y, w->h0, p, w->scratch);
        need = pn_max(need, takes);
    }
    if (db) DO(sum_of(db, w->da, g, rows, g), 0);
    if (c && w->db_ih && w->db_hh) memcpy(w->db_hh, w->db_ih, (size_t)g * sizeof(T));
    if (c && w->dh0) start_without_steps(q, w->dh0, w->g.more, p);
    if (w->dh0 && rows)
        DO(gemm_of(q->n, p, g, rows_of(first, g), rows_of(w->w_hh, p), rows_of(w->dh0, p)), 1);
    return need;
}

#endif
#endif
