/* pn_chain.c: elementwise calls that feed one another, run as one.
 *
 *     for each tile of the arrays' common shape
 *         for each call of the chain, in order
 *             the call, on this tile
 *
 * The outer arrays are those that others see. What only the chain reads, its inner arrays, lies in
 * slots of scratch, a tile for each worker, which stay in the caches: memory sees every outer array
 * once, and no inner one. A call is the block function of its kernel (pn_each.h) where its arrays are
 * contiguous and of its dtype, else the kernel as it is, on parts of its arrays. An element's value never
 * depends on its position, so that the bits are those of the calls one after another.
 *
 * The dimensions are merged as in pn_each.h. Tiles cut one of them, the first inside of which a tile
 * has room for all that lies further in; those before it are walked one by one. What is broadcast so
 * that all tiles read the same is spread out once for each chunk.
 */
#include <string.h>

#include "pn_nest.h"
#ifdef __x86_64__
#include <xmmintrin.h>
#endif

#define TILE 2048   /* elements: what the calls of a chain leave to each other fits in L1 */
#define CHUNK 32768 /* elements */
#define SLOT (TILE * 8 + PN_ALIGN) /* bytes of a slot; they start in different sets of the caches */
#define STREAM (16 << 20) /* bytes, as in pn_each.h */

typedef struct walk {
    const pn_chain *chain;
    const pn_array *const *arr;
    int ndim, cut, stream;
    int direct[PN_CHAIN_CALLS], spread[PN_CHAIN_ARRAYS]; /* spread: its slot, or -1 */
    pn_steps shape, stride[PN_CHAIN_ARRAYS];
    int64_t step, inner; /* indices of a tile along the dimension that is cut, elements of one */
    int64_t along, tiles, group; /* tiles along it; all of them; those of a chunk */
    int64_t slots; /* of a worker */
    char *scratch;
} walk;

static int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

static void cut_tiles(walk *w, int64_t total) {
    int64_t tile = least(TILE, pn_grain(CHUNK)), outer = 1;
    w->cut = w->ndim - 1;
    w->inner = 1;
    while (w->cut > 0 && w->inner * w->shape[w->cut] <= tile) w->inner *= w->shape[w->cut--];
    for (int d = 0; d < w->cut; d++) outer *= w->shape[d];
    w->step = least(tile / w->inner, w->shape[w->cut]);
    if (w->step < 1) w->step = 1;
    w->along = ceil_div(w->shape[w->cut], w->step);
    w->tiles = total > 0 ? outer * w->along : 0;
    w->group = pn_grain(CHUNK) / (w->step * w->inner);
    if (w->group < 1) w->group = 1;
}

/* Whether array k is contiguous in a tile. */
static int is_dense(const walk *w, int k) {
    int64_t n = 1;
    for (int d = w->ndim - 1; d >= w->cut; d--) {
        if (w->stride[k][d] != n) return 0;
        n *= w->shape[d];
    }
    return 1;
}

static int is_repeated(const walk *w, int k) {
    for (int d = 0; d <= w->cut; d++)
        if (w->stride[k][d] != 0) return 0;
    return 1;
}

/* Which arrays are spread out, and which calls can be block functions. */
static void find_direct(walk *w) {
    const pn_chain *t = w->chain;
    w->slots = t->n_inner;
    for (int k = 0; k < t->n_outer; k++)
        w->spread[k] = !t->written[k] && is_repeated(w, k) ? (int)w->slots++ : -1;
    for (int s = 0; s < t->n_call; s++) {
        const pn_block *b = &t->block[s];
        w->direct[s] = b->fn && b->n_in + b->n_out == t->first[s + 1] - t->first[s];
        for (int i = t->first[s]; i < t->first[s + 1]; i++) {
            int k = t->which[i];
            w->direct[s] &= k >= 0 && t->dtype[i] == b->dtype &&
                            (k >= t->n_outer || w->spread[k] >= 0 || is_dense(w, k));
        }
    }
}

static char *slot(const walk *w, int64_t k, int worker) {
    return w->scratch + (worker * w->slots + k) * SLOT;
}

/* A tile of array k, which is the same everywhere. */
static void spread(const walk *w, int k, char *to) {
    int64_t item = pn_itemsize(w->arr[k]->dtype), all = w->step * w->inner * item;
    for (int64_t i = 0; i < w->inner; i++) {
        int64_t off = 0, rest = i;
        for (int d = w->ndim - 1; d > w->cut; d--)
            off += rest % w->shape[d] * w->stride[k][d], rest /= w->shape[d];
        memcpy(to + i * item, (const char *)w->arr[k]->data + off * item, (size_t)item);
    }
    for (int64_t n = w->inner * item; n < all; n *= 2)
        memcpy(to + n, to, (size_t)least(n, all - n));
}

/* The form that every argument of the chain has in a tile, and where it is if not in an outer array. */
static void shape_args(const walk *w, pn_array *arg, int worker) {
    const pn_chain *t = w->chain;
    pn_array dense = {.ndim = w->ndim - w->cut};
    int64_t n = 1;
    for (int d = dense.ndim - 1; d >= 0; d--) {
        dense.shape[d] = d ? w->shape[w->cut + d] : w->step;
        dense.strides[d] = n;
        n *= dense.shape[d];
    }
    for (int i = 0; i < t->n_arg; i++) {
        int k = t->which[i];
        arg[i] = dense;
        arg[i].dtype = t->dtype[i];
        if (k >= t->n_outer)
            arg[i].data = slot(w, k - t->n_outer, worker);
        else if (k >= 0 && w->spread[k] >= 0)
            arg[i].data = slot(w, w->spread[k], worker);
        else
            for (int d = 0; k >= 0 && d < dense.ndim; d++)
                arg[i].strides[d] = w->stride[k][w->cut + d];
    }
}

/* Where the outer arrays are in a tile; returns its indices along the dimension that is cut. */
static int64_t find_tile(const walk *w, int64_t tile, char **at) {
    int64_t i = tile % w->along * w->step, rest = tile / w->along;
    for (int k = 0; k < w->chain->n_outer; k++) {
        int64_t off = i * w->stride[k][w->cut], r = rest;
        for (int d = w->cut - 1; d >= 0; d--)
            off += r % w->shape[d] * w->stride[k][d], r /= w->shape[d];
        at[k] = (char *)w->arr[k]->data + off * pn_itemsize(w->arr[k]->dtype);
    }
    return least(w->step, w->shape[w->cut] - i);
}

static void run_block(const walk *w, int s, const pn_array *arg, int64_t n) {
    const pn_chain *t = w->chain;
    const pn_block *b = &t->block[s];
    const void *in[PN_CHAIN_ARGS];
    void *out[PN_CHAIN_ARGS];
    int stream = w->stream && t->leaves[s];
    for (int i = 0; i < b->n_in; i++) in[i] = arg[i].data;
    for (int i = 0; i < b->n_out; i++) {
        out[i] = arg[b->n_in + i].data;
        stream &= (uintptr_t)out[i] % PN_ALIGN == 0;
    }
    b->fn(in, out, n, t->par[s], stream);
}

static void body(pn_call *c, void *arg, int64_t chunk, int worker) {
    const walk *w = arg;
    const pn_chain *t = w->chain;
    pn_array args[PN_CHAIN_ARGS];
    char *at[PN_CHAIN_ARRAYS];
    (void)c;
    shape_args(w, args, worker);
    for (int k = 0; k < t->n_outer; k++)
        if (w->spread[k] >= 0) spread(w, k, slot(w, w->spread[k], worker));
    for (int64_t tile = chunk * w->group; tile < least(w->tiles, (chunk + 1) * w->group); tile++) {
        int64_t n = find_tile(w, tile, at);
        for (int i = 0; i < t->n_arg; i++) {
            int k = t->which[i];
            args[i].shape[0] = n;
            if (k >= 0 && k < t->n_outer && w->spread[k] < 0) args[i].data = at[k];
        }
        for (int s = 0; s < t->n_call; s++) {
            if (w->direct[s]) {
                run_block(w, s, args + t->first[s], n * w->inner);
                continue;
            }
            pn_call part = {.arg = args + t->first[s],
                            .par = t->par[s],
                            .n_arg = t->first[s + 1] - t->first[s]};
            t->fn[s](&part);
        }
    }
#ifdef __x86_64__
    if (w->stream) _mm_sfence();
#endif
}

void pn_chain_ask(pn_chain *t) {
    for (int s = 0; s < t->n_call; s++) {
        pn_array none[PN_CHAIN_ARGS] = {
            {0}}; /* so that a kernel that does not answer does nothing */
        pn_call c = {.arg = none, .par = t->par[s], .ask = &t->block[s]};
        c.n_arg = t->first[s + 1] - t->first[s];
        t->block[s] = (pn_block){0};
        for (int i = 0; i < c.n_arg; i++)
            none[i].ndim = 1, none[i].dtype = t->dtype[t->first[s] + i];
        t->fn[s](&c);
    }
}

int64_t pn_chain_scratch(const pn_chain *t, int n_worker) {
    int64_t n = t->n_inner;
    for (int k = 0; k < t->n_outer; k++) n += !t->written[k]; /* any of them may be spread out */
    return (int64_t)n_worker * n * SLOT;
}

void pn_chain_run(pn_call *c) {
    const pn_chain *t = c->par[0].p;
    const pn_array *arr[PN_CHAIN_ARRAYS];
    walk w = {.chain = t, .arr = arr, .scratch = c->arg[t->n_outer].data};
    int64_t largest = 0;
    for (int k = 0; k < t->n_outer; k++) arr[k] = &c->arg[k];
    int64_t total = pn_nest(arr, t->n_outer, t->n_outer - 1, &w.ndim, w.shape, w.stride);
    for (int k = 0; k < t->n_outer; k++)
        if (t->written[k] && pn_itemsize(arr[k]->dtype) > largest)
            largest = pn_itemsize(arr[k]->dtype);
    w.stream = total * largest >= pn_grain(STREAM);
    cut_tiles(&w, total);
    find_direct(&w);
    pn_for(c, ceil_div(w.tiles, w.group), body, &w);
}
