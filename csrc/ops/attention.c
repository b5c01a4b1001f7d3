/* attention.c: scaled dot-product attention, without the N x M matrix in memory.
 *
 *   s_ij = scale q_i·k_j + mask_ij           for the keys first(i) <= j < last(i) that query i sees
 *   y_i  = Σ_j e^(s_ij - m_i) v_j / l_i,  m_i = max_j s_ij,  l_i = Σ_j e^(s_ij - m_i);  0 where it sees none
 *   lse_i = m_i + ln l_i
 *   with dropout the p_ij of y are those that it keeps, by k_ij = 1/(1 - dropout), the others 0
 *
 *   p_ij = e^(s_ij - lse_i)                  dv_j = Σ_i p_ij k_ij dy_i
 *   ds_ij = p_ij (k_ij dy_i·v_j - δ_i)       dq_i = scale Σ_j ds_ij k_j
 *   δ_i = dy_i·y_i                           dk_j = scale Σ_i ds_ij q_i
 *
 * q[B, G, R, N, D]: R heads of queries share a head of keys k[B, G, M, D] and values v[B, G, M, E]. Any
 * strides. Query i stands at place i + offset, key j at j. A causal query sees no later place; with a
 * window it sees places less than `window` away. Dropout's mask is that of p[B, G, R, N, M], by position: both
 * passes draw what they need of it, a block at a time.
 *
 * Forward (Milakov and Gimelshein, arXiv 1805.02867; Dao et al., arXiv 2205.14135): a block of rows goes over
 * blocks of keys with a running maximum m, sum l and result o; where the maximum rises by d, l and o shrink
 * by e^-d. Both products of a block run on the tile kernel of pn_gemm; keys and values are packed for
 * it once for all rows. A query alone, as in decoding, reads them where they are. Backward keeps lse and
 * computes the blocks of p again; one pass over the pairs of blocks adds to dq, dk and dv. A chunk is a block
 * of rows forward, a head of keys backward; blocks depend on sizes only.
 */
#include "pn_gemm_row.h"
#include "pn_math.h"
#include "pn_philox.h"

#if PN_FLOAT

#define ROWS_AT_ONCE (4 * MR)
#define KEYS_AT_ONCE (4 * NR)
#define WORK (1 << 20) /* multiplications worth a chunk */

typedef struct attention {
    pn_array q, k, v, mask, y, lse, dy, dq, dk, dv; /* absent: data is NULL */
    int64_t B, G, R, N, M, D, E, Mp, Dp, Ep;        /* p: padded to whole vectors */
    T scale;
    int causal;
    int64_t window, offset, per; /* per: blocks of rows in a chunk */
    int drops;
    keeping keep; /* where it drops */
    T kept;       /* what is kept is multiplied by it */
    T *shared, *own;             /* scratch of all, and of each worker */
    int64_t shared_size, own_size;
} attention;

/* ---- what both passes need -------------------------------------------------------------------- */

#define AT(x, ...)                                                                                 \
    at(x, (const int64_t[]){__VA_ARGS__},                                                          \
       (int)(sizeof((const int64_t[]){__VA_ARGS__}) / sizeof(int64_t)))
static T *at(const pn_array *x, const int64_t *place, int n) {
    T *p = x->data;
    for (int d = 0; d < n; d++) p += place[d] * x->strides[d];
    return p;
}

/* The keys that query i sees. */
static int64_t first_key(const attention *a, int64_t i) {
    return a->window > 0 ? pn_min(a->M, pn_max(0, i + a->offset - a->window + 1)) : 0;
}
static int64_t end_key(const attention *a, int64_t i) {
    int64_t end = a->M;
    if (a->causal) end = pn_min(end, i + a->offset + 1);
    if (a->window > 0) end = pn_min(end, i + a->offset + a->window);
    return pn_max(0, end);
}

/* B as pack_b's panels, each of `depth` rows, of which a product may take fewer, from row `first` on. */
typedef struct panels {
    const T *p;
    int64_t depth, first;
} panels;

/* C[m, n] (+)= A[m, k] B; C has room for whole vectors. form as the kernel's: with ROWS a row of A is
 * contiguous, with COLS a column. */
static void tiles(int64_t m, int64_t n, int64_t k, int form, const T *a, int64_t stride, panels b,
                  T *c, int64_t crs, int accumulate) {
    parts ts = cut(m, MR);
    for (int64_t j = 0, nr; j < n; j += nr) {
        nr = panel_width(n - j);
        int64_t w = round_up(nr, PN_VL);
        const T *x = a;
        target t = {.c = c + j, .rs = crs, .v1 = w - PN_VL, .nr = w, .accumulate = accumulate};
        for (int64_t e = 0, mr; e < ts.n; e++) {
            mr = ts.size + (e < ts.longer);
            kernels[mr - 1][w > PN_VL](k, form, x, stride, stride, b.p + j * b.depth + b.first * w,
                                       w, &t);
            x += form == ROWS ? mr * stride : mr;
            t.c += mr * crs;
        }
    }
}

/* Of `packed` keys from j on, so many are worth a look where those from `end` on are not seen: whole panels. */
static int64_t worth(int64_t packed, int64_t j, int64_t end) {
    return packed % NR ? packed : pn_min(packed, round_up(end - j, NR));
}

/* n rows of x as contiguous rows of `size`, times by. */
static void gather(T *to, const T *x, int64_t rs, int64_t cs, int64_t n, int64_t size, T by) {
    for (int64_t i = 0; i < n; i++, x += rs, to += size)
        if (cs == 1)
            for (int64_t d = 0; d < size; d++) to[d] = x[d] * by;
        else
            for (int64_t d = 0; d < size; d++) to[d] = x[d * cs] * by;
}

/* n rows of `size` to x, each from a row of `padded`, times by. */
static void scatter(const pn_array *x, T *to, const T *from, int64_t n, int64_t size,
                    int64_t padded, T by) {
    int64_t rs = x->strides[x->ndim - 2], cs = x->strides[x->ndim - 1];
    for (int64_t i = 0; i < n; i++, to += rs, from += padded)
        for (int64_t d = 0; d < size; d++) to[d * cs] = from[d] * by;
}

/* Of the n keys from j0 on, query i sees those from lo to hi. */
static void seen(const attention *a, int64_t i, int64_t j0, int64_t n, int64_t *lo, int64_t *hi) {
    *lo = pn_min(n, pn_max(0, first_key(a, i) - j0));
    *hi = pn_max(*lo, pn_min(n, end_key(a, i) - j0));
}

/* Row i of a block of scores: keys j0 to j0 + n, of which lanes up to the next vector are there. What i does
 * not see becomes -inf. */
static void finish_scores(const attention *a, T *s, const T *mask, int64_t i, int64_t j0,
                          int64_t n) {
    int64_t lo, hi, padded = round_up(n, PN_VL);
    seen(a, i, j0, n, &lo, &hi);
    if (mask) {
        int64_t cs = a->mask.strides[4];
        mask += j0 * cs;
        if (cs == 1)
            for (int64_t j = lo; j < hi; j++) s[j] += mask[j];
        else
            for (int64_t j = lo; j < hi; j++) s[j] += mask[j * cs];
    }
    for (int64_t j = 0; j < lo; j++) s[j] = (T)-INFINITY;
    for (int64_t j = hi; j < padded; j++) s[j] = (T)-INFINITY;
}

/* For the n keys from j on of query i: what dropout multiplies their weights by, up to the next vector. */
static void draw(const attention *a, const int64_t *h, int64_t i, int64_t j, int64_t n, T *keep) {
    uint32_t u[KEYS_AT_ONCE + 2 * PHILOX_GROUP];
    int64_t at = (((h[0] * a->G + h[1]) * a->R + h[2]) * a->N + i) * a->M + j,
            off = at % PHILOX_GROUP;
    n = round_up(n, PN_VL);
    philox_words(u, at - off, off + n, a->keep.key);
    for (int64_t k = 0; k < n; k++)
        keep[k] = u[off + k] <= a->keep.top && !a->keep.none ? a->kept : 0;
}

/* Drops weights of n keys from j on of query i. */
static void drop_row(const attention *a, const int64_t *h, int64_t i, int64_t j, int64_t n, T *s) {
    T keep[KEYS_AT_ONCE];
    draw(a, h, i, j, n, keep);
    for (int64_t k = 0; k < round_up(n, PN_VL); k++) s[k] *= keep[k];
}

/* ---- forward ---------------------------------------------------------------------------------- */

typedef struct state {
    T top[ROWS_AT_ONCE]; /* m */
    V sum[ROWS_AT_ONCE]; /* l, by lanes */
} state;

/* A row of scores to e^(s - m); m, l and the row of o follow. */
PN_INLINE void soften(T *s, int64_t n, T *top, V *sum, T *o, int64_t Ep) {
    V most = pn_set1(*top), total = {0};
    for (int64_t j = 0; j < n; j += PN_VL) most = pn_max_b(pn_load(s + j), most);
    PN_UNROLL
    for (int w = PN_VL / 2; w > 0; w /= 2) most = pn_max_b(pn_swap(most, w), most);
    V base = pn_select(most == pn_set1((T)-INFINITY), (V){0}, most);
    for (int64_t j = 0; j < n; j += PN_VL) {
        V e = pn_exp_down(pn_load(s + j) - base);
        pn_store(s + j, e);
        total += e;
    }
    if (most[0] != *top) {
        V shrink = pn_exp_down(pn_set1(*top) - base);
        *sum *= shrink;
        for (int64_t d = 0; d < Ep; d += PN_VL) pn_store(o + d, pn_load(o + d) * shrink);
        *top = most[0];
    }
    *sum += total;
}

/* o += p v for n rows and a block of keys. Where a value is not finite, 0 times it would reach queries that do
 * not see it: such a block goes row by row, with the same bits for the others. */
static void add_values(const attention *a, const T *p, panels v, int64_t i0, int64_t n, int64_t j,
                       int64_t keys, int odd, T *o) {
    if (!odd) {
        tiles(n, a->E, keys, ROWS, p, KEYS_AT_ONCE, v, o, a->Ep, 1);
        return;
    }
    for (int64_t i = 0, lo, hi; i < n; i++) {
        seen(a, i0 + i, j, keys, &lo, &hi);
        v.first = lo;
        tiles(1, a->E, hi - lo, ROWS, p + i * KEYS_AT_ONCE + lo, KEYS_AT_ONCE, v, o + i * a->Ep,
              a->Ep, 1);
    }
}

/* Before the first key: q scaled, o = 0. */
static void begin_rows(const attention *a, const int64_t *h, int64_t i0, int64_t n, T *q, T *o,
                       state *st) {
    gather(q, AT(&a->q, h[0], h[1], h[2], i0), a->q.strides[3], a->q.strides[4], n, a->D, a->scale);
    memset(o, 0, (size_t)(n * a->Ep) * sizeof(T));
    for (int64_t i = 0; i < n; i++) st->top[i] = (T)-INFINITY, st->sum[i] = (V){0};
}

/* Behind the last key: y = o / l, lse = m + ln l. */
static void end_rows(const attention *a, const int64_t *h, int64_t i0, int64_t n, T *o,
                     const state *st) {
    T *y = AT(&a->y, h[0], h[1], h[2], i0), *lse = AT(&a->lse, h[0], h[1], h[2], i0);
    for (int64_t i = 0; i < n; i++) {
        T l = pn_hsum(st->sum[i]), *row = o + i * a->Ep;
        if (l == 0) memset(row, 0, (size_t)a->Ep * sizeof(T));
        scatter(&a->y, y + i * a->y.strides[3], row, 1, a->E, a->Ep, l == 0 ? 0 : 1 / l);
        lse[i] = st->top[i] + pn_log(pn_set1(l))[0];
    }
}

/* n rows of x[B, G, M, size] from j on, and how far apart they are: in place, or in `spare` where a
 * row has gaps. */
static const T *rows_of(const pn_array *x, const int64_t *h, int64_t j, int64_t n, T *spare,
                        int64_t *apart) {
    const T *rows = AT(x, h[0], h[1], j);
    *apart = x->strides[2];
    if (x->strides[3] == 1) return rows;
    gather(spare, rows, *apart, x->strides[3], n, x->shape[3], 1);
    *apart = x->shape[3];
    return spare;
}

/* The only query of a head. Blocks begin with the first key that it sees and end with the last. */
static void forward_row(const attention *a, const int64_t *h, T *own) {
    T *q = own, *s = q + a->Dp, *o = s + KEYS_AT_ONCE, *pv = o + a->Ep, *spare = pv + a->Ep;
    const T *mask = a->mask.data ? AT(&a->mask, h[0], h[1], h[2], 0) : NULL;
    int64_t apart, to = end_key(a, 0);
    state st;
    begin_rows(a, h, 0, 1, q, o, &st);
    for (int64_t j = first_key(a, 0), n; j < to; j += n) {
        n = pn_min(KEYS_AT_ONCE, to - j);
        const T *rows = rows_of(&a->k, h, j, n, spare, &apart);
        rows_by_columns(1, s, 0, q, 0, rows, apart, n, a->D);
        finish_scores(a, s, mask, 0, j, n);
        soften(s, round_up(n, PN_VL), st.top, st.sum, o, a->Ep);
        if (a->drops) drop_row(a, h, 0, j, n, s);
        rows = rows_of(&a->v, h, j, n, spare, &apart);
        row_by_rows(pv, s, 1, rows, apart, a->E, n);
        for (int64_t d = 0; d < a->Ep; d += PN_VL)
            pn_store(o + d, pn_load(o + d) + pn_load(pv + d));
    }
    end_rows(a, h, 0, 1, o, &st);
}

/* Rows i0 to i0 + n of a head. kt, vt: its packed keys and values. */
static void forward_rows(const attention *a, const int64_t *h, int64_t i0, int64_t n, const T *kt,
                         const T *vt, const T *odd, T *own) {
    T *q = own, *s = q + ROWS_AT_ONCE * a->D, *o = s + ROWS_AT_ONCE * KEYS_AT_ONCE;
    int64_t from = first_key(a, i0) / KEYS_AT_ONCE * KEYS_AT_ONCE, to = end_key(a, i0 + n - 1);
    state st;
    begin_rows(a, h, i0, n, q, o, &st);
    for (int64_t j = from; j < to; j += KEYS_AT_ONCE) {
        int64_t packed = pn_min(KEYS_AT_ONCE, a->M - j), keys = worth(packed, j, to);
        tiles(n, keys, a->D, ROWS, q, a->D, (panels){kt + j * a->D, a->D, 0}, s, KEYS_AT_ONCE, 0);
        for (int64_t i = 0; i < n; i++) {
            T *row = s + i * KEYS_AT_ONCE;
            finish_scores(a, row, a->mask.data ? AT(&a->mask, h[0], h[1], h[2], i0 + i) : NULL,
                          i0 + i, j, keys);
            soften(row, round_up(keys, PN_VL), &st.top[i], &st.sum[i], o + i * a->Ep, a->Ep);
            if (a->drops) drop_row(a, h, i0 + i, j, keys, row);
        }
        add_values(a, s, (panels){vt + j * a->Ep, packed, 0}, i0, n, j, keys,
                   odd[j / KEYS_AT_ONCE] != 0, o);
    }
    end_rows(a, h, i0, n, o, &st);
}

/* For each block of keys, not 0 where a value is not finite. */
static T *odd_of(const attention *a, int64_t kv) {
    return a->shared + a->B * a->G * a->Mp * (a->D + a->Ep) + kv * pn_ceil_div(a->M, KEYS_AT_ONCE);
}

static void forward_chunk(pn_call *c, void *arg, int64_t chunk, int worker) {
    const attention *a = arg;
    int64_t blocks = pn_ceil_div(a->N, ROWS_AT_ONCE), end = blocks * a->B * a->G * a->R;
    (void)c;
    for (int64_t u = chunk * a->per; u < pn_min(end, (chunk + 1) * a->per); u++) {
        int64_t head = u / blocks, i0 = u % blocks * ROWS_AT_ONCE, kv = head / a->R;
        int64_t h[] = {kv / a->G, kv % a->G, head % a->R};
        T *kt = a->shared + kv * a->Mp * (a->D + a->Ep), *own = a->own + worker * a->own_size;
        if (a->N == 1)
            forward_row(a, h, own);
        else
            forward_rows(a, h, i0, pn_min(ROWS_AT_ONCE, a->N - i0), kt, kt + a->Mp * a->D,
                         odd_of(a, kv), own);
    }
}

/* Keys as columns, values as rows, of one block of keys. */
static void pack_chunk(pn_call *c, void *arg, int64_t chunk, int worker) {
    const attention *a = arg;
    int64_t blocks = pn_ceil_div(a->M, KEYS_AT_ONCE), kv = chunk / blocks;
    int64_t j = chunk % blocks * KEYS_AT_ONCE, n = pn_min(KEYS_AT_ONCE, a->M - j);
    T *kt = a->shared + kv * a->Mp * (a->D + a->Ep), *vt = kt + a->Mp * a->D;
    const int64_t *ks = a->k.strides, *vs = a->v.strides;
    V odd = {0};
    (void)c, (void)worker;
    pack_b(kt + j * a->D, AT(&a->k, kv / a->G, kv % a->G, j), ks[3], ks[2], n, a->D);
    pack_b(vt + j * a->Ep, AT(&a->v, kv / a->G, kv % a->G, j), vs[2], vs[3], a->E, n);
    for (int64_t e = j * a->Ep; e < (j + n) * a->Ep; e += PN_VL)
        odd += pn_load(vt + e) - pn_load(vt + e);
    odd_of(a, kv)[j / KEYS_AT_ONCE] = pn_hsum(odd);
}

/* What depends on sizes alone, and on the parameters, which all kernels here have in the same order. */
static void set_sizes(attention *a, const pn_array *key, const pn_value *par) {
    a->B = a->q.shape[0], a->G = a->q.shape[1], a->R = a->q.shape[2];
    a->N = a->q.shape[3], a->D = a->q.shape[4], a->M = a->k.shape[2], a->E = a->v.shape[3];
    a->Mp = round_up(a->M, PN_VL), a->Dp = round_up(a->D, PN_VL), a->Ep = round_up(a->E, PN_VL);
    a->scale = (T)par[PNP_attention_fwd_scale].f;
    a->causal = par[PNP_attention_fwd_causal].i != 0;
    a->window = par[PNP_attention_fwd_window].i, a->offset = par[PNP_attention_fwd_offset].i;
    double p = par[PNP_attention_fwd_dropout].f;
    a->drops = key->data && p > 0;
    if (!a->drops) return;
    a->keep = keeping_of(key, p);
    a->kept = p < 1 ? (T)(1 / (1 - p)) : 0;
}

static void set_forward(attention *a) {
    int64_t unit = PN_ALIGN / sizeof(T), blocks = pn_ceil_div(a->M, KEYS_AT_ONCE);
    int64_t rows = a->N == 1 ? 1 : ROWS_AT_ONCE, packed = a->Mp * (a->D + a->Ep) + blocks;
    a->per = pn_max(1, pn_grain(WORK) / (rows * pn_max(1, a->M) * (a->D + a->E + 1)));
    a->shared_size = a->N == 1 ? 0 : round_up(a->B * a->G * packed, unit);
    a->own_size = round_up(ROWS_AT_ONCE * (a->D + KEYS_AT_ONCE + a->Ep), unit);
    if (a->N == 1)
        a->own_size = round_up(a->Dp + KEYS_AT_ONCE * (1 + pn_max(a->D, a->E)) + 2 * a->Ep, unit);
}

static void run_forward(pn_call *c, attention *a, T *scratch) {
    int64_t rows = a->B * a->G * a->R * pn_ceil_div(a->N, ROWS_AT_ONCE);
    a->shared = scratch, a->own = scratch + a->shared_size;
    if (a->N != 1) pn_for(c, a->B * a->G * pn_ceil_div(a->M, KEYS_AT_ONCE), pack_chunk, a);
    pn_for(c, pn_ceil_div(rows, a->per), forward_chunk, a);
}

static int64_t scratch_bytes(const attention *a) {
    return (a->shared_size + a->own_size * pn_max_workers()) * (int64_t)sizeof(T);
}

/* ---- backward --------------------------------------------------------------------------------- */

/* A worker's memory: what it packs of a head of keys, of a head of queries, and a pair of blocks. */
typedef struct packed {
    T *kt, *vt, *kp, *dk, *dv;       /* k and v as columns, k as rows; by blocks of keys */
    T *q, *qp, *dy, *dyp, *dq, *less; /* scale q and dy as they are and as panels; δ */
    T *p, *ds;
} packed;

/* Its places in `own`, where that is given; the elements that it takes. */
static int64_t lay_out(const attention *a, packed *w, T *own) {
    int64_t unit = PN_ALIGN / sizeof(T), used = 0;
#define TAKE(x, n) w->x = own ? own + used : NULL, used += round_up(n, unit)
    TAKE(kt, a->Mp * a->D), TAKE(vt, a->Mp * a->E), TAKE(kp, a->M * a->Dp);
    TAKE(dk, a->Mp * a->Dp), TAKE(dv, a->Mp * a->Ep);
    TAKE(q, a->N * a->D), TAKE(qp, a->N * a->Dp), TAKE(dy, a->N * a->E), TAKE(dyp, a->N * a->Ep);
    TAKE(dq, a->N * a->Dp), TAKE(less, a->N);
    TAKE(p, ROWS_AT_ONCE * KEYS_AT_ONCE), TAKE(ds, ROWS_AT_ONCE * KEYS_AT_ONCE);
#undef TAKE
    return used;
}

static void pack_keys(const attention *a, const packed *w, int64_t b, int64_t g) {
    const int64_t *ks = a->k.strides, *vs = a->v.strides;
    for (int64_t j = 0, n; j < a->M; j += n) {
        n = pn_min(KEYS_AT_ONCE, a->M - j);
        const T *k = AT(&a->k, b, g, j), *v = AT(&a->v, b, g, j);
        pack_b(w->kt + j * a->D, k, ks[3], ks[2], n, a->D);
        pack_b(w->vt + j * a->E, v, vs[3], vs[2], n, a->E);
        pack_b(w->kp + j * a->Dp, k, ks[2], ks[3], a->D, n);
    }
    memset(w->dk, 0, (size_t)(a->Mp * a->Dp) * sizeof(T));
    memset(w->dv, 0, (size_t)(a->Mp * a->Ep) * sizeof(T));
}

static void pack_queries(const attention *a, const packed *w, const int64_t *h) {
    const int64_t *qs = a->q.strides, *ds = a->dy.strides, *ys = a->y.strides;
    const T *dy = AT(&a->dy, h[0], h[1], h[2], 0), *y = AT(&a->y, h[0], h[1], h[2], 0);
    gather(w->q, AT(&a->q, h[0], h[1], h[2], 0), qs[3], qs[4], a->N, a->D, a->scale);
    gather(w->dy, dy, ds[3], ds[4], a->N, a->E, 1);
    for (int64_t i = 0, n; i < a->N; i += n) {
        n = pn_min(ROWS_AT_ONCE, a->N - i);
        pack_b(w->qp + i * a->Dp, w->q + i * a->D, a->D, 1, a->D, n);
        pack_b(w->dyp + i * a->Ep, w->dy + i * a->E, a->E, 1, a->E, n);
    }
    for (int64_t i = 0; i < a->N; i++) {
        double less = 0;
        for (int64_t e = 0; e < a->E; e++)
            less += (double)w->dy[i * a->E + e] * (double)y[i * ys[3] + e * ys[4]];
        w->less[i] = (T)less;
    }
    memset(w->dq, 0, (size_t)(a->N * a->Dp) * sizeof(T));
}

/* Row i: scores to p, dy·v to ds, over n lanes; keep: what dropout multiplies p by, or NULL. */
PN_INLINE void back_row(T *p, T *ds, int64_t n, T lse, T less, const T *keep) {
    V top = pn_set1(lse == -INFINITY ? (T)0 : lse), minus = pn_set1(less);
    for (int64_t j = 0; j < n; j += PN_VL) {
        V e = pn_exp_down(pn_load(p + j) - top), dp = pn_load(ds + j);
        if (keep) dp *= pn_load(keep + j);
        pn_store(p + j, keep ? e * pn_load(keep + j) : e);
        /* a key that is not seen adds nothing, whatever its v */
        pn_store(ds + j, pn_select(e == (V){0}, (V){0}, e * (dp - minus)));
    }
}

/* What queries i0 to i0 + n and the block of keys at j give each other. */
static void back_pair(const attention *a, const packed *w, const int64_t *h, int64_t i0, int64_t n,
                      int64_t j) {
    int64_t packed = pn_min(KEYS_AT_ONCE, a->M - j);
    int64_t keys = worth(packed, j, end_key(a, i0 + n - 1));
    const T *lse = AT(&a->lse, h[0], h[1], h[2], i0), *q = w->q + i0 * a->D,
            *dy = w->dy + i0 * a->E;
    panels kt = {w->kt + j * a->D, a->D, 0}, vt = {w->vt + j * a->E, a->E, 0};
    panels kp = {w->kp + j * a->Dp, packed, 0}, qp = {w->qp + i0 * a->Dp, n, 0},
           dyp = {w->dyp + i0 * a->Ep, n, 0};
    T keep[KEYS_AT_ONCE];
    tiles(n, keys, a->D, ROWS, q, a->D, kt, w->p, KEYS_AT_ONCE, 0);   /* s = scale q·k */
    tiles(n, keys, a->E, ROWS, dy, a->E, vt, w->ds, KEYS_AT_ONCE, 0); /* dp = dy·v */
    for (int64_t i = 0; i < n; i++) {
        T *p = w->p + i * KEYS_AT_ONCE;
        finish_scores(a, p, a->mask.data ? AT(&a->mask, h[0], h[1], h[2], i0 + i) : NULL, i0 + i, j,
                      keys);
        if (a->drops) {
            draw(a, h, i0 + i, j, keys, keep);
            back_row(p, w->ds + i * KEYS_AT_ONCE, round_up(keys, PN_VL), lse[i], w->less[i0 + i],
                     keep);
        } else {
            back_row(p, w->ds + i * KEYS_AT_ONCE, round_up(keys, PN_VL), lse[i], w->less[i0 + i],
                     NULL);
        }
    }
    /* y = p v; s = scale q·k by its two sides */
    if (a->dv.data)
        tiles(keys, a->E, n, COLS, w->p, KEYS_AT_ONCE, dyp, w->dv + j * a->Ep, a->Ep, 1);
    if (a->dk.data)
        tiles(keys, a->D, n, COLS, w->ds, KEYS_AT_ONCE, qp, w->dk + j * a->Dp, a->Dp, 1);
    if (a->dq.data)
        tiles(n, a->D, keys, ROWS, w->ds, KEYS_AT_ONCE, kp, w->dq + i0 * a->Dp, a->Dp, 1);
}

static void back_chunk(pn_call *c, void *arg, int64_t kv, int worker) {
    const attention *a = arg;
    int64_t h[] = {kv / a->G, kv % a->G, 0};
    packed w;
    (void)c;
    lay_out(a, &w, a->own + worker * a->own_size);
    pack_keys(a, &w, h[0], h[1]);
    for (; h[2] < a->R; h[2]++) {
        pack_queries(a, &w, h);
        for (int64_t j = 0; j < a->M; j += KEYS_AT_ONCE)
            for (int64_t i = 0, n; i < a->N; i += n) {
                n = pn_min(ROWS_AT_ONCE, a->N - i);
                if (end_key(a, i + n - 1) > j && first_key(a, i) < j + KEYS_AT_ONCE)
                    back_pair(a, &w, h, i, n, j);
            }
        if (a->dq.data)
            scatter(&a->dq, AT(&a->dq, h[0], h[1], h[2], 0), w.dq, a->N, a->D, a->Dp, a->scale);
    }
    if (a->dk.data) scatter(&a->dk, AT(&a->dk, h[0], h[1]), w.dk, a->M, a->D, a->Dp, 1);
    if (a->dv.data) scatter(&a->dv, AT(&a->dv, h[0], h[1]), w.dv, a->M, a->E, a->Ep, 1);
}

static void set_backward(attention *a) {
    packed w;
    a->shared_size = 0, a->own_size = lay_out(a, &w, NULL);
}

static void run_backward(pn_call *c, attention *a, T *scratch) {
    a->own = scratch;
    pn_for(c, a->B * a->G, back_chunk, a);
}

/* ---- queries, keys and values apart ----------------------------------------------------------- */

static attention apart_forward(const pn_call *c) {
    attention a = {
        .q = *ARG(attention_fwd, q), .k = *ARG(attention_fwd, k), .v = *ARG(attention_fwd, v)};
    a.mask = *ARG(attention_fwd, mask), a.y = *ARG(attention_fwd, y),
    a.lse = *ARG(attention_fwd, lse);
    set_sizes(&a, ARG(attention_fwd, key), c->par), set_forward(&a);
    return a;
}
static attention apart_backward(const pn_call *c) {
    attention a = {
        .q = *ARG(attention_bwd, q), .k = *ARG(attention_bwd, k), .v = *ARG(attention_bwd, v)};
    a.mask = *ARG(attention_bwd, mask), a.y = *ARG(attention_bwd, y),
    a.lse = *ARG(attention_bwd, lse);
    a.dy = *ARG(attention_bwd, dy), a.dq = *ARG(attention_bwd, dq);
    a.dk = *ARG(attention_bwd, dk), a.dv = *ARG(attention_bwd, dv);
    set_sizes(&a, ARG(attention_bwd, key), c->par), set_backward(&a);
    return a;
}

PN_FN(attention_fwd) {
    attention a = apart_forward(c);
    run_forward(c, &a, ARG(attention_fwd, scratch)->data);
}
PN_SCRATCH_FN(attention_fwd) {
    attention a = apart_forward(c);
    return scratch_bytes(&a);
}
PN_FN(attention_bwd) {
    attention a = apart_backward(c);
    run_backward(c, &a, ARG(attention_bwd, scratch)->data);
}
PN_SCRATCH_FN(attention_bwd) {
    attention a = apart_backward(c);
    return scratch_bytes(&a);
}

/* ---- self-attention: queries, keys and values of all heads side by side, x[B, N, 3, H, D] ------- */

/* Part `which` of x, or y[B, N, H, D] itself with which = 0: [B, H, N, D], or with one head of queries to each of keys. */
static pn_array part(const pn_array *x, int64_t which, int queries) {
    int packed = x->ndim == 5, h = packed + 2;
    pn_array a = {.dtype = x->dtype, .data = x->data};
    if (!x->data && x->ndim == 0) return a;
    const int64_t shape[] = {x->shape[0], x->shape[h], 1, x->shape[1], x->shape[h + 1]};
    const int64_t stride[] = {x->strides[0], x->strides[h], 0, x->strides[1], x->strides[h + 1]};
    if (packed && x->data) a.data = (T *)x->data + which * x->strides[2];
    for (int d = 0; d < 5; d++) {
        if (d == 2 && !queries) continue;
        a.shape[a.ndim] = shape[d], a.strides[a.ndim++] = stride[d];
    }
    return a;
}

/* mask[B, H, N, N] and lse[B, H, N] with one head of queries to each of keys */
static pn_array with_group(const pn_array *x) {
    pn_array a = {.dtype = x->dtype, .data = x->data};
    for (int d = 0; d < x->ndim; d++) {
        if (d == 2) a.shape[a.ndim] = 1, a.strides[a.ndim++] = 0;
        a.shape[a.ndim] = x->shape[d], a.strides[a.ndim++] = x->strides[d];
    }
    return a;
}

static attention joined(const pn_array *x, const pn_array *mask, const pn_array *key,
                        const pn_array *y, const pn_array *lse, const pn_value *par) {
    attention a = {.q = part(x, 0, 1), .k = part(x, 1, 0), .v = part(x, 2, 0)};
    a.mask = with_group(mask), a.y = part(y, 0, 1), a.lse = with_group(lse);
    set_sizes(&a, key, par);
    return a;
}
static attention joined_forward(const pn_call *c) {
    attention a = joined(ARG(self_attention_fwd, x), ARG(self_attention_fwd, mask),
                         ARG(self_attention_fwd, key), ARG(self_attention_fwd, y),
                         ARG(self_attention_fwd, lse), c->par);
    set_forward(&a);
    return a;
}
static attention joined_backward(const pn_call *c) {
    const pn_array *dx = ARG(self_attention_bwd, dx);
    attention a = joined(ARG(self_attention_bwd, x), ARG(self_attention_bwd, mask),
                         ARG(self_attention_bwd, key), ARG(self_attention_bwd, y),
                         ARG(self_attention_bwd, lse), c->par);
    a.dy = part(ARG(self_attention_bwd, dy), 0, 1);
    a.dq = part(dx, 0, 1), a.dk = part(dx, 1, 0), a.dv = part(dx, 2, 0);
    set_backward(&a);
    return a;
}

PN_FN(self_attention_fwd) {
    attention a = joined_forward(c);
    run_forward(c, &a, ARG(self_attention_fwd, scratch)->data);
}
PN_SCRATCH_FN(self_attention_fwd) {
    attention a = joined_forward(c);
    return scratch_bytes(&a);
}
PN_FN(self_attention_bwd) {
    attention a = joined_backward(c);
    run_backward(c, &a, ARG(self_attention_bwd, scratch)->data);
}
PN_SCRATCH_FN(self_attention_bwd) {
    attention a = joined_backward(c);
    return scratch_bytes(&a);
}

#endif
