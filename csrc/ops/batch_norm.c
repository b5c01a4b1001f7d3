/* batch_norm.c: batch norm and group norm of channels-last x[item, row, c], each with its backward.
 *
 *   y = h w[c] + b[c],  h = (x - μ) s,  s = 1/√(σ² + ε),  then relu(y + residual) where asked for
 *   dx = s (g - Σ g/n - h Σ g h/n),  g = dy w[c];  dw[c] = Σ dy h,  db[c] = Σ dy
 *
 * μ and σ² are those of the n elements of one item and one group of neighbouring channels. Batch norm
 * is one item with groups of one channel, instance norm many items with groups of one.
 *
 * Lines: few channels would leave lanes idle, so that `fold` rows stand side by side in a line of up to
 * LANES lanes; a lane belongs to channel lane % C. The last line of an item may be shorter.
 *
 * Sums: BLOCK lines make a block. Each lane of it sums d and d², d = x - the block's first line, in T:
 * a mean far from 0 costs nothing, and an outlier in that line at most a factor BLOCK. Blocks, then
 * lanes, then channels of a group are joined in double about one origin, the group's first element,
 * in their order. So the order of a sum depends on sizes only. μ is kept as mean = (its nearest T,
 * what that lacks), as in layer_norm.c; backward sums dy and dy (x - mean[0]).
 */
#include "pn_rows.h"

#if PN_FLOAT

#define LANES 128 /* of a line that is made of rows; of a strip that is joined in double */
#define BLOCK 64 /* lines */
#define GROUP 4 /* lines that share a load of what belongs to their channels */
#define FAR_BYTES (2 << 20) /* of an image's array: several are at work */
#define AHEAD (6144 / sizeof(T)) /* elements: three to four arrays' fit the first cache */
#define COLUMNS 512 /* channels of dw and db that a chunk adds up over items */

typedef struct norm {
    const T *dy, *x, *w, *b, *residual, *mean, *var, *y_kept;
    T *y, *dx, *dw, *db, *dresidual, *mean_out, *var_out;
    T *parts; /* [item, block, 2, width]: the two sums of a block's lanes */
    T *table; /* [item, n_table, width]: what a lane's elements are computed with */
    T *own; /* backward: [item, 2, channels]: Σ dy and Σ dy h */
    int64_t items, rows, channels, groups, per_group; /* per_group: channels */
    int64_t fold, width, lines, last, blocks; /* of an item; last: lanes of its last line */
    int64_t strip, strips; /* groups whose sums a chunk joins */
    int64_t per, chunks; /* lines a chunk, chunks an item */
    int n_table, relu;
    int far,
        past; /* so large that what is read is fetched ahead; that what is written goes past the caches */
    double eps;
} norm;

static norm norm_of(const pn_array *x, int64_t items, int64_t groups, int n_table, double eps) {
    norm a = {.x = x->data, .items = items, .channels = x->shape[1], .groups = groups};
    a.rows = x->shape[0] / pn_max(1, items) * x->shape[2] * x->shape[3];
    a.per_group = groups ? a.channels / groups : 0;
    a.fold = pn_max(1, pn_min(a.rows, LANES / pn_max(1, a.channels)));
    a.width = a.fold * a.channels;
    a.lines = pn_ceil_div(a.rows, a.fold);
    a.last = (a.rows - (a.lines - 1) * a.fold) * a.channels;
    a.blocks = pn_ceil_div(a.lines, BLOCK);
    a.strip = a.fold > 1 ? pn_max(1, groups) : pn_max(1, LANES / pn_max(1, a.per_group));
    a.strips = pn_ceil_div(groups, a.strip);
    a.far = pn_size(x) * (int64_t)sizeof(T) >= FAR_BYTES;
    a.per = pn_max(1, pn_grain((a.far ? ROW_WORK_FAR : ROW_WORK) / pn_max(1, a.width)));
    a.chunks = pn_ceil_div(a.lines, a.per);
    a.n_table = n_table, a.eps = eps;
    a.past = pn_size(x) * (int64_t)sizeof(T) >= PN_FAR && a.width % PN_VL == 0 &&
             (items == 1 || a.rows * a.channels % PN_VL == 0);
    return a;
}
static int64_t scratch_of(const norm *a, int backward) {
    int64_t sums = a->blocks * 2 * a->width, own = backward ? 2 * a->channels : 0;
    return a->items * (sums + a->n_table * a->width + own) * (int64_t)sizeof(T);
}
static void check_past(norm *a) { /* what goes past the caches is aligned */
    uintptr_t places = (uintptr_t)a->y | (uintptr_t)a->dx | (uintptr_t)a->dresidual;
    a->past = a->past && places % PN_ALIGN == 0;
}

static void use_scratch(norm *a, const pn_array *scratch) {
    a->table = scratch->data;
    a->parts = a->table + a->items * a->n_table * a->width;
    a->own = a->parts + a->items * a->blocks * 2 * a->width;
    check_past(a);
}

/* Places */
static int64_t at_item(const norm *a, int64_t item) { return item * a->rows * a->channels; }
static T *parts_of(const norm *a, int64_t item, int64_t block) {
    return a->parts + (item * a->blocks + block) * 2 * a->width;
}
static T *table_of(const norm *a, int64_t item) { return a->table + item * a->n_table * a->width; }
static int64_t lanes_of(const norm *a, int64_t line) {
    return line == a->lines - 1 ? a->last : a->width;
}
static double invstd(double var, double eps) { return 1 / sqrt(var + eps); }

/* The statement for lines [lo, hi): `count` at once, each of n lanes; count is a constant, at_once or 1 */
#define BY_LINES(a, lo, hi, at_once, ...)                                                          \
    for (int64_t line = (lo), full_ = (a)->lines - ((a)->last < (a)->width); line < (hi);) {       \
        if ((at_once) > 1 && line + (at_once) <= pn_min((hi), full_)) {                            \
            enum { count = at_once };                                                              \
            const int64_t n = (a)->width;                                                          \
            __VA_ARGS__                                                                            \
            line += count;                                                                         \
        } else {                                                                                   \
            enum { count = 1 };                                                                    \
            const int64_t n = lanes_of((a), line);                                                 \
            __VA_ARGS__                                                                            \
            line++;                                                                                \
        }                                                                                          \
    }

/* The groups of a chunk of strips: their item, and lanes [first, end) that hold them */
typedef struct strip {
    int64_t item, g0, g1, first, end;
} strip;
static strip strip_of(const norm *a, int64_t chunk) {
    strip s = {.item = chunk / a->strips, .g0 = chunk % a->strips * a->strip};
    s.g1 = pn_min(a->groups, s.g0 + a->strip);
    s.first = a->fold > 1 ? 0 : s.g0 * a->per_group;
    s.end = a->fold > 1 ? a->width : s.g1 * a->per_group;
    return s;
}

/* The statement with `far` a constant */
#define NEAR_OR_FAR(a, ...)                                                                        \
    if ((a)->far) {                                                                                \
        enum { far = 1 };                                                                          \
        __VA_ARGS__                                                                                \
    } else {                                                                                       \
        enum { far = 0 };                                                                          \
        __VA_ARGS__                                                                                \
    }
/* Memory is quick where lines are read and written one after another, and fetched in that order. */
#define AT_ONCE (far ? 1 : GROUP)
#define FETCH_AHEAD(p)                                                                             \
    do {                                                                                           \
        if (far) __builtin_prefetch((p) + i * count + j * PN_VL + AHEAD, 0, 3);                    \
    } while (0)
#define WRITE(p, v)                                                                                \
    do {                                                                                           \
        if (far && past)                                                                           \
            PUT(p, v);                                                                             \
        else                                                                                       \
            STORE(p, v);                                                                           \
    } while (0)

/* ---- forward ---------------------------------------------------------------------------------- */

PN_INLINE void sum_lines(const T *x, const T *first, T *of_d, T *of_dd, int64_t width, int64_t n,
                         int count, int far) {
    PN_ROW(
        n, V base = LOAD(first, 0); V s = LOAD(of_d, 0); V q = LOAD(of_dd, 0);
        for (int j = 0; j < count; j++) {
            FETCH_AHEAD(x);
            V d = LOAD(x + j * width, 0) - base;
            s += d;
            q = pn_fma(d, d, q);
        } STORE(of_d, s);
        STORE(of_dd, q););
}

static void sums_chunk(pn_call *c, void *arg, int64_t chunk, int worker) {
    const norm *a = arg;
    const int64_t item = chunk / a->blocks, block = chunk % a->blocks, lo = block * BLOCK;
    const T *x = a->x + at_item(a, item);
    T *part = parts_of(a, item, block);
    (void)c, (void)worker;
    for (int64_t i = 0; i < 2 * a->width; i++) part[i] = 0;
    NEAR_OR_FAR(a, BY_LINES(a, lo, pn_min(a->lines, lo + BLOCK), GROUP,
                            sum_lines(x + line * a->width, x + lo * a->width, part, part + a->width,
                                      a->width, n, count, far);))
}

/* Adds to s1 and s2 the sums of x - origin and of its square over m lines, whose block is (first, of_d, of_dd) */
static void join(const T *first, const T *of_d, const T *of_dd, const double *origin, int64_t m,
                 int64_t n, double *s1, double *s2) {
    const double count = (double)m, share = 1 / count;
    for (int64_t j = 0; m > 0 && j < n; j++) {
        double d = (double)of_d[j], away = (double)first[j] - origin[j] + d * share;
        s1[j] += count * away;
        s2[j] += (double)of_dd[j] - d * d * share + count * away * away;
    }
}

static void join_lanes(const norm *a, int64_t item, int64_t lo, int64_t n, const double *origin,
                       double *s1, double *s2) {
    const T *x = a->x + at_item(a, item);
    for (int64_t k = 0; k < a->blocks; k++) {
        const T *part = parts_of(a, item, k) + lo, *first = x + k * BLOCK * a->width + lo;
        int64_t m = pn_min(BLOCK, a->lines - k * BLOCK), whole = n;
        if (k == a->blocks - 1) whole = pn_max((int64_t)0, pn_min(n, a->last - lo));
        join(first, part, part + a->width, origin, m, whole, s1, s2);
        join(first + whole, part + whole, part + a->width + whole, origin + whole, m - 1, n - whole,
             s1 + whole, s2 + whole);
    }
}

/* What the elements of lanes [first, end) are computed with: y = (x - table[0]) table[1] + table[2] */
static void fill_table(const norm *a, strip s, const double *mean, const double *low,
                       const double *scale) {
    T *high = table_of(a, s.item), *factor = high + a->width, *shift = factor + a->width;
    for (int64_t i = s.first; i < s.end; i++) {
        int64_t ch = i % a->channels, g = ch / a->per_group - s.g0;
        double f = scale[g] * (a->w ? (double)a->w[ch] : 1);
        high[i] = (T)mean[g];
        factor[i] = (T)f;
        shift[i] = (T)((a->b ? (double)a->b[ch] : 0) - low[g] * f);
    }
}

static void stats_chunk(pn_call *c, void *arg, int64_t chunk, int worker) {
    const norm *a = arg;
    const strip s = strip_of(a, chunk);
    const T *x = a->x + at_item(a, s.item);
    const double n = (double)(a->rows * a->per_group);
    double sum[LANES] = {0}, squares[LANES] = {0}, scale[LANES], low[LANES];
    (void)c, (void)worker;
    for (int64_t lo = s.first; lo < s.end; lo += LANES) {
        double s1[LANES] = {0}, s2[LANES] = {0}, origin[LANES];
        int64_t count = pn_min(LANES, s.end - lo), group[LANES];
        for (int64_t j = 0; j < count; j++) {
            group[j] = (lo + j) % a->channels / a->per_group;
            origin[j] = a->rows ? (double)x[group[j] * a->per_group] : 0;
        }
        join_lanes(a, s.item, lo, count, origin, s1, s2);
        for (int64_t j = 0; j < count; j++)
            sum[group[j] - s.g0] += s1[j], squares[group[j] - s.g0] += s2[j];
    }
    T *high = a->mean_out + s.item * 2 * a->groups;
    for (int64_t g = s.g0; g < s.g1; g++) {
        double off = sum[g - s.g0] / n, var = squares[g - s.g0] / n - off * off;
        double origin = a->rows ? (double)x[g * a->per_group] : 0;
        high[g] = (T)(origin + off);
        low[g - s.g0] = origin - (double)high[g] + off;
        high[a->groups + g] = (T)low[g - s.g0];
        var = var < 0 ? 0 : var;
        a->var_out[s.item * a->groups + g] = (T)var;
        sum[g - s.g0] = (double)high[g], scale[g - s.g0] = invstd(var, a->eps);
    }
    fill_table(a, s, sum, low, scale);
}

/* relu, add and far are constants */
PN_INLINE void apply_lines(const norm *a, const T *x, const T *residual, T *y, const T *t,
                           int64_t n, int count, int relu, int add, int far) {
    const int64_t width = a->width;
    const int past = a->past;
    PN_ROW(
        n, V high = LOAD(t, 0); V factor = LOAD(t + width, 0); V shift = LOAD(t + 2 * width, 0);
        for (int j = 0; j < count; j++) {
            FETCH_AHEAD(x);
            V v = pn_fma(LOAD(x + j * width, 0) - high, factor, shift);
            if (add) {
                FETCH_AHEAD(residual);
                v += LOAD(residual + j * width, 0);
            }
            if (relu) v = pn_select(v <= pn_set1(0), pn_set1(0), v);
            WRITE(y + j * width, v);
        });
}

/* From the end: that is what the pass before has left in the caches. */
static void apply_chunk(pn_call *c, void *arg, int64_t chunk_, int worker) {
    const norm *a = arg;
    const int64_t chunk = a->items * a->chunks - 1 - chunk_;
    const int64_t item = chunk / a->chunks, lo = chunk % a->chunks * a->per, at = at_item(a, item);
    const int64_t hi = pn_min(a->lines, lo + a->per);
    const T *x = a->x + at, *r = a->residual ? a->residual + at : NULL, *t = table_of(a, item);
    T *y = a->y + at;
    (void)c, (void)worker;
#define APPLY(relu, add)                                                                           \
    NEAR_OR_FAR(a,                                                                                 \
                BY_LINES(a, lo, hi, AT_ONCE, const int64_t p = line * a->width; apply_lines(       \
                             a, x + p, add ? r + p : NULL, y + p, t, n, count, relu, add, far);))
    if (a->relu && r) {
        APPLY(1, 1)
    } else if (a->relu) {
        APPLY(1, 0)
    } else if (r) {
        APPLY(0, 1)
    } else {
        APPLY(0, 0)
    }
#undef APPLY
    if (a->past) pn_stream_end();
}

static void forward(pn_call *c, norm *a, const pn_array *scratch) {
    use_scratch(a, scratch);
    pn_for(c, a->items * a->blocks, sums_chunk, a);
    pn_for(c, a->items * a->strips, stats_chunk, a);
    pn_for(c, a->items * a->chunks, apply_chunk, a);
}

/* ---- backward --------------------------------------------------------------------------------- */

/* dx = (dy - MID) OF_DY + (x - HIGH) OF_X + REST, each from its part of the table. MID is Σ dy/n where a
 * group is one channel: what cancels there leaves nothing. */
enum { HIGH, MID, OF_DY, OF_X, REST, N_BACK };

/* dy where the activation let it pass */
#define DY(j)                                                                                      \
    (relu ? pn_select(LOAD(kept + (j) * width, 0) <= pn_set1(0), pn_set1(0),                       \
                      LOAD(dy + (j) * width, 0))                                                   \
          : LOAD(dy + (j) * width, 0))

PN_INLINE void back_sum_lines(const T *dy, const T *x, const T *kept, const T *high, T *part,
                              int64_t width, int64_t n, int count, int relu, int far) {
    PN_ROW(
        n, V base = LOAD(high, 0); V s = LOAD(part, 0); V q = LOAD(part + width, 0);
        for (int j = 0; j < count; j++) {
            FETCH_AHEAD(dy);
            FETCH_AHEAD(x);
            if (relu) FETCH_AHEAD(kept);
            V g = DY(j);
            s += g;
            q = pn_fma(g, LOAD(x + j * width, 0) - base, q);
        } STORE(part, s);
        STORE(part + width, q););
}

static void high_chunk(pn_call *c, void *arg, int64_t item, int worker) {
    const norm *a = arg;
    T *high = table_of(a, item);
    (void)c, (void)worker;
    for (int64_t i = 0; i < a->width; i++)
        high[i] = a->mean[item * 2 * a->groups + i % a->channels / a->per_group];
}

static void back_sums_chunk(pn_call *c, void *arg, int64_t chunk, int worker) {
    const norm *a = arg;
    const int64_t item = chunk / a->blocks, block = chunk % a->blocks, lo = block * BLOCK;
    const int64_t at = at_item(a, item), hi = pn_min(a->lines, lo + BLOCK), width = a->width;
    const T *x = a->x + at, *dy = a->dy + at, *t = table_of(a, item);
    T *part = parts_of(a, item, block);
    (void)c, (void)worker;
    for (int64_t i = 0; i < 2 * width; i++) part[i] = 0;
    if (a->relu) {
        const T *kept = a->y_kept + at;
        NEAR_OR_FAR(a, BY_LINES(a, lo, hi, AT_ONCE, const int64_t p = line * width; back_sum_lines(
                                    dy + p, x + p, kept + p, t, part, width, n, count, 1, far);))
    } else {
        NEAR_OR_FAR(a, BY_LINES(a, lo, hi, AT_ONCE, const int64_t p = line * width; back_sum_lines(
                                    dy + p, x + p, NULL, t, part, width, n, count, 0, far);))
    }
}

/* s1[i], s2[i] = Σ dy, Σ dy (x - high) of channel lo + i */
static void join_back(const norm *a, int64_t item, int64_t lo, int64_t n, double *s1, double *s2) {
    for (int64_t k = 0; k < a->blocks; k++) {
        const T *part = parts_of(a, item, k) + lo;
        for (int64_t j = 0; j < n; j++)
            s1[j] += (double)part[j], s2[j] += (double)part[a->width + j];
    }
    for (int64_t j = a->channels; a->fold > 1 && j < n; j++)
        s1[j % a->channels] += s1[j], s2[j % a->channels] += s2[j];
}

static void back_table(const norm *a, strip s, const double *of_g, const double *of_gh) {
    const T *own = a->own + s.item * 2 * a->channels;
    T *t = table_of(a, s.item);
    const T *mean = a->mean + s.item * 2 * a->groups, *var = a->var + s.item * a->groups;
    const double n = (double)(a->rows * a->per_group);
    for (int64_t i = s.first; i < s.end; i++) {
        int64_t ch = i % a->channels, g = ch / a->per_group;
        double scale = invstd((double)var[g], a->eps), low = (double)mean[a->groups + g];
        double slope = scale * scale * of_gh[g - s.g0] / n;
        double mid = a->per_group == 1 ? (double)own[ch] / n : 0;
        double shift = a->per_group == 1 ? 0 : scale * of_g[g - s.g0] / n;
        t[MID * a->width + i] = (T)mid;
        t[OF_DY * a->width + i] = (T)(scale * (a->w ? (double)a->w[ch] : 1));
        t[OF_X * a->width + i] = (T)-slope;
        t[REST * a->width + i] = (T)(slope * low - shift);
    }
}

static void back_stats_chunk(pn_call *c, void *arg, int64_t chunk, int worker) {
    const norm *a = arg;
    const strip s = strip_of(a, chunk);
    const T *mean = a->mean + s.item * 2 * a->groups, *var = a->var + s.item * a->groups;
    T *own = a->own + s.item * 2 * a->channels;
    double of_g[LANES] = {0}, of_gh[LANES] = {0};
    (void)c, (void)worker;
    for (int64_t lo = s.first; lo < s.end; lo += LANES) {
        double s1[LANES] = {0}, s2[LANES] = {0};
        int64_t lanes = pn_min(LANES, s.end - lo), count = pn_min(lanes, a->channels);
        join_back(a, s.item, lo, lanes, s1, s2);
        for (int64_t j = 0; j < count; j++) {
            int64_t ch = lo + j, g = ch / a->per_group;
            double w = a->w ? (double)a->w[ch] : 1, low = (double)mean[a->groups + g];
            double dot = a->rows ? invstd((double)var[g], a->eps) * (s2[j] - low * s1[j]) : 0;
            own[ch] = (T)s1[j], own[a->channels + ch] = (T)dot;
            of_g[g - s.g0] += w * s1[j], of_gh[g - s.g0] += w * dot;
        }
    }
    back_table(a, s, of_g, of_gh);
}

/* relu, to_dx, to_dres and far are constants */
PN_INLINE void back_lines(const norm *a, int64_t at, const T *t, int64_t n, int count, int relu,
                          int to_dx, int to_dres, int far) {
    const int64_t width = a->width;
    const int past = a->past;
    const T *dy = a->dy + at, *x = a->x + at, *kept = relu ? a->y_kept + at : NULL;
    T *dx = to_dx ? a->dx + at : NULL, *dres = to_dres ? a->dresidual + at : NULL;
    PN_ROW(
        n, V high = LOAD(t + HIGH * width, 0); V of_dy = LOAD(t + OF_DY * width, 0);
        V of_x = LOAD(t + OF_X * width, 0); V rest = LOAD(t + REST * width, 0);
        V mid = LOAD(t + MID * width, 0); for (int j = 0; j < count; j++) {
            FETCH_AHEAD(dy);
            if (relu) FETCH_AHEAD(kept);
            V g = DY(j);
            if (to_dres) WRITE(dres + j * width, g);
            if (!to_dx) continue;
            FETCH_AHEAD(x);
            V more = pn_fma(LOAD(x + j * width, 0) - high, of_x, rest);
            WRITE(dx + j * width, pn_fma(g - mid, of_dy, more));
        });
}

static void back_chunk(pn_call *c, void *arg, int64_t chunk_, int worker) {
    const norm *a = arg;
    const int64_t chunk = a->items * a->chunks - 1 - chunk_;
    const int64_t item = chunk / a->chunks, lo = chunk % a->chunks * a->per, at = at_item(a, item);
    const int64_t hi = pn_min(a->lines, lo + a->per);
    const T *t = table_of(a, item);
    (void)c, (void)worker;
#define BACK(relu, to_dx, to_dres)                                                                 \
    NEAR_OR_FAR(                                                                                   \
        a, BY_LINES(a, lo, hi, AT_ONCE,                                                            \
                    back_lines(a, at + line * a->width, t, n, count, relu, to_dx, to_dres, far);))
    if (!a->relu) {
        BACK(0, 1, 0)
    } else if (!a->dresidual) {
        BACK(1, 1, 0)
    } else if (a->dx) {
        BACK(1, 1, 1)
    } else {
        BACK(1, 0, 1)
    }
#undef BACK
    if (a->past) pn_stream_end();
}

/* dw and db of some channels: the items' shares in their order */
static void columns_chunk(pn_call *c, void *arg, int64_t chunk, int worker) {
    const norm *a = arg;
    (void)c, (void)worker;
    for (int64_t i = chunk * COLUMNS; i < pn_min(a->channels, (chunk + 1) * COLUMNS); i++) {
        double of_dy = 0, of_dyh = 0;
        for (int64_t item = 0; item < a->items; item++) {
            const T *own = a->own + item * 2 * a->channels;
            of_dy += (double)own[i], of_dyh += (double)own[a->channels + i];
        }
        if (a->db) a->db[i] = (T)of_dy;
        if (a->dw) a->dw[i] = (T)of_dyh;
    }
}

static void backward(pn_call *c, norm *a, const pn_array *scratch) {
    use_scratch(a, scratch);
    if (a->dx || a->dw || a->db) {
        pn_for(c, a->items, high_chunk, a);
        pn_for(c, a->items * a->blocks, back_sums_chunk, a);
        pn_for(c, a->items * a->strips, back_stats_chunk, a);
    }
    if (a->dw || a->db) pn_for(c, pn_ceil_div(a->channels, COLUMNS), columns_chunk, a);
    if (a->dx || a->dresidual) pn_for(c, a->items * a->chunks, back_chunk, a);
}

/* ---- kernels ---------------------------------------------------------------------------------- */

static norm one_item(const pn_array *x, int n_table, double eps) {
    return norm_of(x, 1, x->shape[1], n_table, eps);
}

PN_FN(batch_norm_fwd) {
    norm a = one_item(ARG(batch_norm_fwd, x), 3, PAR(batch_norm_fwd, eps).f);
    a.w = ARG(batch_norm_fwd, weight)->data, a.b = ARG(batch_norm_fwd, bias)->data;
    a.y = ARG(batch_norm_fwd, y)->data;
    a.mean_out = ARG(batch_norm_fwd, mean)->data, a.var_out = ARG(batch_norm_fwd, var)->data;
    forward(c, &a, ARG(batch_norm_fwd, scratch));
}
PN_SCRATCH_FN(batch_norm_fwd) {
    norm a = one_item(ARG(batch_norm_fwd, x), 3, 0);
    return scratch_of(&a, 0);
}

PN_FN(batch_norm_bwd) {
    norm a = one_item(ARG(batch_norm_bwd, x), N_BACK, PAR(batch_norm_bwd, eps).f);
    a.dy = ARG(batch_norm_bwd, dy)->data, a.w = ARG(batch_norm_bwd, weight)->data;
    a.mean = ARG(batch_norm_bwd, mean)->data, a.var = ARG(batch_norm_bwd, var)->data;
    a.dx = ARG(batch_norm_bwd, dx)->data;
    a.dw = ARG(batch_norm_bwd, dweight)->data, a.db = ARG(batch_norm_bwd, dbias)->data;
    backward(c, &a, ARG(batch_norm_bwd, scratch));
}
PN_SCRATCH_FN(batch_norm_bwd) {
    norm a = one_item(ARG(batch_norm_bwd, x), N_BACK, 0);
    return scratch_of(&a, 1);
}

PN_FN(batch_norm_relu_fwd) {
    norm a = one_item(ARG(batch_norm_relu_fwd, x), 3, PAR(batch_norm_relu_fwd, eps).f);
    a.w = ARG(batch_norm_relu_fwd, weight)->data, a.b = ARG(batch_norm_relu_fwd, bias)->data;
    a.residual = ARG(batch_norm_relu_fwd, residual)->data, a.relu = 1;
    a.y = ARG(batch_norm_relu_fwd, y)->data;
    a.mean_out = ARG(batch_norm_relu_fwd, mean)->data;
    a.var_out = ARG(batch_norm_relu_fwd, var)->data;
    forward(c, &a, ARG(batch_norm_relu_fwd, scratch));
}
PN_SCRATCH_FN(batch_norm_relu_fwd) {
    norm a = one_item(ARG(batch_norm_relu_fwd, x), 3, 0);
    return scratch_of(&a, 0);
}

PN_FN(batch_norm_relu_bwd) {
    norm a = one_item(ARG(batch_norm_relu_bwd, x), N_BACK, PAR(batch_norm_relu_bwd, eps).f);
    a.dy = ARG(batch_norm_relu_bwd, dy)->data, a.w = ARG(batch_norm_relu_bwd, weight)->data;
    a.mean = ARG(batch_norm_relu_bwd, mean)->data, a.var = ARG(batch_norm_relu_bwd, var)->data;
    a.y_kept = ARG(batch_norm_relu_bwd, y)->data, a.relu = 1;
    a.dx = ARG(batch_norm_relu_bwd, dx)->data;
    a.dresidual = ARG(batch_norm_relu_bwd, dresidual)->data;
    a.dw = ARG(batch_norm_relu_bwd, dweight)->data, a.db = ARG(batch_norm_relu_bwd, dbias)->data;
    backward(c, &a, ARG(batch_norm_relu_bwd, scratch));
}
PN_SCRATCH_FN(batch_norm_relu_bwd) {
    norm a = one_item(ARG(batch_norm_relu_bwd, x), N_BACK, 0);
    return scratch_of(&a, 1);
}

/* With given statistics, a sum over nothing remains. */
PN_FN(batch_norm_eval_fwd) {
    norm a = one_item(ARG(batch_norm_eval_fwd, x), 3, PAR(batch_norm_eval_fwd, eps).f);
    const T *mean = ARG(batch_norm_eval_fwd, running_mean)->data;
    const T *var = ARG(batch_norm_eval_fwd, running_var)->data;
    a.w = ARG(batch_norm_eval_fwd, weight)->data, a.b = ARG(batch_norm_eval_fwd, bias)->data;
    a.residual = ARG(batch_norm_eval_fwd, residual)->data;
    a.relu = PAR(batch_norm_eval_fwd, relu).i != 0;
    a.y = ARG(batch_norm_eval_fwd, y)->data, a.table = ARG(batch_norm_eval_fwd, scratch)->data;
    T *factor = a.table + a.width, *shift = factor + a.width;
    for (int64_t i = 0; i < a.width; i++) {
        int64_t ch = i % a.channels;
        a.table[i] = mean[ch];
        factor[i] = (T)(invstd((double)var[ch], a.eps) * (a.w ? (double)a.w[ch] : 1));
        shift[i] = a.b ? a.b[ch] : 0;
    }
    check_past(&a);
    pn_for(c, a.chunks, apply_chunk, &a);
}
PN_SCRATCH_FN(batch_norm_eval_fwd) {
    norm a = one_item(ARG(batch_norm_eval_fwd, x), 3, 0);
    return 3 * a.width * (int64_t)sizeof(T);
}

PN_FN(group_norm_fwd) {
    const pn_array *x = ARG(group_norm_fwd, x);
    norm a =
        norm_of(x, x->shape[0], PAR(group_norm_fwd, num_groups).i, 3, PAR(group_norm_fwd, eps).f);
    a.w = ARG(group_norm_fwd, weight)->data, a.b = ARG(group_norm_fwd, bias)->data;
    a.y = ARG(group_norm_fwd, y)->data;
    a.mean_out = ARG(group_norm_fwd, mean)->data, a.var_out = ARG(group_norm_fwd, var)->data;
    forward(c, &a, ARG(group_norm_fwd, scratch));
}
PN_SCRATCH_FN(group_norm_fwd) {
    const pn_array *x = ARG(group_norm_fwd, x);
    norm a = norm_of(x, x->shape[0], PAR(group_norm_fwd, num_groups).i, 3, 0);
    return scratch_of(&a, 0);
}

PN_FN(group_norm_bwd) {
    const pn_array *x = ARG(group_norm_bwd, x);
    norm a = norm_of(x, x->shape[0], PAR(group_norm_bwd, num_groups).i, N_BACK,
                     PAR(group_norm_bwd, eps).f);
    a.dy = ARG(group_norm_bwd, dy)->data, a.w = ARG(group_norm_bwd, weight)->data;
    a.mean = ARG(group_norm_bwd, mean)->data, a.var = ARG(group_norm_bwd, var)->data;
    a.dx = ARG(group_norm_bwd, dx)->data;
    a.dw = ARG(group_norm_bwd, dweight)->data, a.db = ARG(group_norm_bwd, dbias)->data;
    backward(c, &a, ARG(group_norm_bwd, scratch));
}
PN_SCRATCH_FN(group_norm_bwd) {
    const pn_array *x = ARG(group_norm_bwd, x);
    norm a = norm_of(x, x->shape[0], PAR(group_norm_bwd, num_groups).i, N_BACK, 0);
    return scratch_of(&a, 1);
}

/* running = (1 - momentum) running + momentum batch, its variance by count - 1; momentum < 0: 1/tracked */
PN_FN(bn_update_step) {
    const T *mean = ARG(bn_update_step, mean)->data, *var = ARG(bn_update_step, var)->data;
    T *to_mean = ARG(bn_update_step, running_mean)->data;
    T *to_var = ARG(bn_update_step, running_var)->data;
    int64_t *tracked = ARG(bn_update_step, tracked)->data, n = ARG(bn_update_step, var)->shape[0];
    double count = PAR(bn_update_step, count).f, m = PAR(bn_update_step, momentum).f;
    if (tracked) ++*tracked;
    if (m < 0) m = tracked ? 1 / (double)*tracked : 0;
    for (int64_t i = 0; i < n; i++) {
        double batch = (double)mean[i] + (double)mean[n + i];
        to_mean[i] = (T)((1 - m) * (double)to_mean[i] + m * batch);
        batch = (double)var[i] * count / (count - 1);
        to_var[i] = (T)((1 - m) * (double)to_var[i] + m * batch);
    }
}

#endif
