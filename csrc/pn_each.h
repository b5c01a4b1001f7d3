/* pn_each.h: elementwise loops over arrays of one shape, with any strides.
 *
 * y[i] = f(a[i], b[i], ...) for every i. The dimensions are put into the order in which the first
 * output lies in memory and merged where all arrays allow it; what is left is a number of rows of
 * `inner` elements. A row on which every array is contiguous is computed in place; else blocks of
 * PN_BLOCK elements go through buffers, where other dtypes become T. A block's last elements run the
 * same vector code, padded, so that no value depends on its position. Outputs that
 * are far (pn_is_far) go past the caches.
 *
 * PN_EACH(kernel, n_in, n_out, before, body) defines a kernel: `body` computes y (and z, w) from
 * a, b, c, d; `before` declares what does not change, from par. For the i64 form V is int64_t.
 */
#ifndef PN_EACH_H
#define PN_EACH_H

#include <string.h>

#include "pn_kernel.h"
#include "pn_nest.h"
#if PN_FLOAT
#include "pn_math.h"
#include "pn_simd.h"
#elif PN_KIND == PN_i64
typedef int64_t V;
typedef int64_t VI;
#define PN_VL 1
#define pn_load(p) (*(p))
#define pn_store(p, v) (*(p) = (v))
#define pn_set1(x) ((T)(x))
#define pn_load_part(p, n, fill) (fill)
#define pn_store_part(p, v, n) ((void)(v))
#define pn_stream(p, v) pn_store(p, v)
#define pn_stream_end() ((void)0)
#define pn_select(m, a, b) ((m) ? (a) : (b))
#define pn_vmax(a, b) ((a) > (b) ? (a) : (b))
#define pn_vmin(a, b) ((a) < (b) ? (a) : (b))
#define pn_abs(a) ((a) < 0 ? -(a) : (a))
#endif

#define PN_BLOCK 256
#define PN_EACH_MAX 8          /* arrays of one loop */
#define PN_EACH_CHUNK 32768    /* elements a chunk */
#define PN_EACH_AHEAD 4096 /* bytes fetched ahead where arrays lie beyond the caches */

typedef struct pn_each {
    int n_in, n_arr, ndim;
    pn_steps shape, stride[PN_EACH_MAX];
    const pn_array *arr[PN_EACH_MAX];
    pn_block_fn block;
    const pn_value *par;
    int64_t total, grain;
    int direct; /* every array is T and contiguous along a row */
    int stream;
} pn_each;

#define PN_LOAD_AS(tag, type)                                                                      \
    case tag:                                                                                      \
        for (int64_t i = 0; i < n; i++) dst[i] = (T)((const type *)p)[i * stride];                 \
        break;

static void pn_block_load(T *dst, int dtype, const void *p, int64_t stride, int64_t n) {
    switch (dtype) {
        PN_LOAD_AS(PN_F32, float)
        PN_LOAD_AS(PN_F64, double)
        PN_LOAD_AS(PN_I64, int64_t)
        PN_LOAD_AS(PN_I32, int32_t)
        PN_LOAD_AS(PN_U8, uint8_t)
        PN_LOAD_AS(PN_BOOL, uint8_t)
    }
}

#define PN_STORE_AS(tag, type)                                                                     \
    case tag:                                                                                      \
        for (int64_t i = 0; i < n; i++) ((type *)p)[i * stride] = (type)src[i];                    \
        break;

static void pn_block_store(const T *src, int dtype, void *p, int64_t stride, int64_t n) {
    switch (dtype) {
        PN_STORE_AS(PN_F32, float)
        PN_STORE_AS(PN_F64, double)
        PN_STORE_AS(PN_I64, int64_t)
        PN_STORE_AS(PN_I32, int32_t)
        PN_STORE_AS(PN_U8, uint8_t)
    case PN_BOOL:
        for (int64_t i = 0; i < n; i++) ((uint8_t *)p)[i * stride] = src[i] != 0;
        break;
    }
}

/* n elements of a row; at[k] points at array k's first. */
static void pn_each_row(const pn_each *e, char *const *at, int64_t n) {
    const void *in[PN_EACH_MAX];
    void *out[PN_EACH_MAX];
    T buffer[PN_EACH_MAX][PN_BLOCK] __attribute__((aligned(64)));
    int last = e->ndim - 1;
    for (int64_t i = 0, m; i < n; i += m) {
        m = e->direct ? n : pn_min(PN_BLOCK, n - i);
        for (int k = 0; k < e->n_arr; k++) {
            int dtype = e->arr[k]->dtype, own = dtype == PN_DTYPE && e->stride[k][last] == 1;
            char *p = at[k] + i * e->stride[k][last] * (at[k] ? pn_itemsize(dtype) : 0);
            if (k >= e->n_in) {
                out[k - e->n_in] = own && at[k] ? (void *)p : buffer[k];
            } else if (own) {
                in[k] = p;
            } else {
                in[k] = buffer[k];
                pn_block_load(buffer[k], dtype, p, e->stride[k][last], m);
            }
        }
        int stream = e->stream;
        for (int k = 0; k < e->n_arr - e->n_in; k++) stream &= (uintptr_t)out[k] % PN_ALIGN == 0;
        e->block(in, out, m, e->par, stream);
        for (int k = e->n_in; k < e->n_arr; k++)
            if (at[k] && out[k - e->n_in] == buffer[k])
                pn_block_store(buffer[k], e->arr[k]->dtype,
                               at[k] + i * e->stride[k][last] * pn_itemsize(e->arr[k]->dtype),
                               e->stride[k][last], m);
    }
}

static void pn_each_body(pn_call *c, void *arg, int64_t chunk, int worker) {
    const pn_each *e = arg;
    int64_t lo = chunk * e->grain, hi = pn_min(e->total, lo + e->grain),
            inner = e->shape[e->ndim - 1];
    (void)c, (void)worker;
    while (lo < hi) {
        int64_t n = pn_min(hi - lo, inner - lo % inner), index[PN_MAXDIM], rest = lo;
        char *at[PN_EACH_MAX];
        for (int d = e->ndim - 1; d >= 0; d--) index[d] = rest % e->shape[d], rest /= e->shape[d];
        for (int k = 0; k < e->n_arr; k++) {
            int64_t off = 0;
            for (int d = 0; d < e->ndim; d++) off += index[d] * e->stride[k][d];
            at[k] = e->arr[k]->data ? (char *)e->arr[k]->data + off * pn_itemsize(e->arr[k]->dtype)
                                    : NULL;
        }
        pn_each_row(e, at, n);
        lo += n;
    }
    if (e->stream) pn_stream_end();
}

/* Runs block over the call's first n_in + n_out arrays. An output left out has no data. */
static inline void pn_each_run(pn_call *c, int n_in, int n_out, pn_block_fn block) {
    if (c->ask) {
        *c->ask = (pn_block){block, PN_DTYPE, n_in, n_out};
        return;
    }
    pn_each e = {.n_in = n_in, .n_arr = n_in + n_out, .block = block, .par = c->par};
    int lead = n_in;
    while (!c->arg[lead].data && lead < n_in + n_out - 1) lead++;
    for (int k = 0; k < e.n_arr; k++) e.arr[k] = &c->arg[k];
    e.total = pn_nest(e.arr, e.n_arr, lead, &e.ndim, e.shape, e.stride);
    e.direct = 1;
    for (int k = 0; k < e.n_arr; k++)
        e.direct &= e.arr[k]->data && e.arr[k]->dtype == PN_DTYPE && e.stride[k][e.ndim - 1] == 1;
    e.stream = e.direct && pn_is_far(e.total * n_out * (int64_t)sizeof(T));
    e.grain = pn_grain(PN_EACH_CHUNK);
    pn_for(c, pn_ceil_div(e.total, e.grain), pn_each_body, &e);
}

/* Pointers of its own: what a store writes could be in[] and out[], for all that the compiler knows. */
#define PN_PI1 const T *in0 = in[0];
#define PN_PI2 PN_PI1 const T *in1 = in[1];
#define PN_PI3 PN_PI2 const T *in2 = in[2];
#define PN_PI4 PN_PI3 const T *in3 = in[3];
#define PN_PO1 T *out0 = out[0];
#define PN_PO2 PN_PO1 T *out1 = out[1];
#define PN_PO3 PN_PO2 T *out2 = out[2];
#define PN_V1(f) V a = f(in0 + i);
#define PN_V2(f) PN_V1(f) V b = f(in1 + i);
#define PN_V3(f) PN_V2(f) V c = f(in2 + i);
#define PN_V4(f) PN_V3(f) V d = f(in3 + i);
#define PN_O1(f) f(out0 + i, y);
#define PN_O2(f) PN_O1(f) f(out1 + i, z);
#define PN_O3(f) PN_O2(f) f(out2 + i, w);
#define PN_D1 V y;
#define PN_D2 V y, z;
#define PN_D3 V y, z, w;
#define PN_FULL_LOAD(p)                                                                            \
    pn_load(p);                                                                                    \
    if (stream) __builtin_prefetch((const char *)(p) + PN_EACH_AHEAD)
#define PN_PART_LOAD(p) pn_load_part(p, n - i, (T)1)
#define PN_PART_STORE(p, v) pn_store_part(p, v, n - i)
#define PN_FULL_STORE(p, v)                                                                        \
    if (stream)                                                                                    \
        pn_stream(p, v);                                                                           \
    else                                                                                           \
        pn_store(p, v)

#define PN_EACH_BLOCK(kernel, n_in, n_out, before, body)                                           \
    static void kernel##_block(const void *const *in, void *const *out, int64_t n,                 \
                               const pn_value *par, int stream) {                                  \
        int64_t i = 0;                                                                             \
        PN_PI##n_in PN_PO##n_out(void) par;                                                        \
        before for (; i + PN_VL <= n; i += PN_VL) {                                                \
            PN_V##n_in(PN_FULL_LOAD) PN_D##n_out body PN_O##n_out(PN_FULL_STORE)                   \
        }                                                                                          \
        if (PN_VL > 1 && i < n) {                                                                  \
            PN_V##n_in(PN_PART_LOAD) PN_D##n_out body PN_O##n_out(PN_PART_STORE)                   \
        }                                                                                          \
    }
#define PN_EACH(kernel, n_in, n_out, before, body)                                                 \
    PN_EACH_BLOCK(kernel, n_in, n_out, before, body)                                               \
    PN_FN(kernel) { pn_each_run(c, n_in, n_out, kernel##_block); }

#endif
