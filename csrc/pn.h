/* pn.h: the ABI of pynn's kernels, and the only header that Python's side sees.
 *
 * A kernel is `void pn_<op>_<pass>(pn_call *c)`. It reads its inputs, writes its outputs whole, and
 * neither allocates, nor holds globals, nor opens a parallel region: its only parallel construct is
 * pn_for. That makes a call a value, which can be recorded and run again.
 *
 * Sizes and strides are 64-bit and counted in elements. An optional argument that was left out, and
 * a gradient that nobody asked for, has data == NULL and dtype == PN_NONE.
 */
#ifndef PN_H
#define PN_H

#include <stddef.h>
#include <stdint.h>

#define PN_MAXDIM 8
#define PN_ALIGN 64 /* every storage starts on a cache line, the width of the widest vector */

/* Products of up to PN_DOT_ROWS rows of PN_DOT_FROM elements or more by contiguous columns have an
 * order of sums of their own (pn_gemm.h): by contiguous rows they have other last bits. */
enum { PN_DOT_ROWS = 4, PN_DOT_FROM = 128 };

enum { PN_NONE = -1, PN_F32, PN_F64, PN_I64, PN_I32, PN_U8, PN_BOOL, PN_NDTYPE };

typedef struct pn_array {
    void *data; /* the first element */
    int32_t dtype, ndim;
    int64_t shape[PN_MAXDIM];
    int64_t strides[PN_MAXDIM]; /* in elements; 0 where a dimension is broadcast */
} pn_array;

typedef union pn_value {
    int64_t i;
    double f;
    const void *p; /* what a plan made for its own calls */
} pn_value;

/* What went wrong. `arg` is the argument's place in the kernel's line of kernels.inc, `index` the
 * element's place in it in logical (row-major) order, `value` what was found there. Where several
 * elements are bad, the one with the lowest index is reported, whatever the number of threads. */
enum {
    PN_OK,
    PN_E_INDEX /* value out of range */,
    PN_E_VALUE /* value not allowed */,
    PN_E_MEMORY
};

typedef struct pn_error {
    int32_t code, arg;
    int64_t index;
    double value;
} pn_error;

/* n elements of an elementwise kernel, contiguous and of its own dtype. stream: the outputs are aligned to
 * PN_ALIGN and go past the caches. */
typedef void (*pn_block_fn)(const void *const *in, void *const *out, int64_t n, const pn_value *par,
                            int stream);

typedef struct pn_block {
    pn_block_fn fn;
    int32_t dtype, n_in, n_out;
} pn_block;

typedef struct pn_call {
    pn_array *arg;       /* inputs, then outputs, in the order of kernels.inc */
    const pn_value *par; /* parameters, in the order of kernels.inc */
    int32_t n_arg;       /* more than kernels.inc names where a kernel takes a list of tensors */
    int32_t lock;        /* guards err while the team runs */
    int32_t n_worker;    /* workers that scratch was sized for; 0: any number */
    pn_error err;
    pn_block *ask; /* where it is set, a kernel of pn_each.h tells what it is made of instead */
} pn_call;

typedef void (*pn_fn)(pn_call *);
typedef int64_t (*pn_scratch_fn)(const pn_call *); /* bytes of scratch that this call needs */

/* ---- pn_par.c: threads ------------------------------------------------------------------------ */

/* One chunk of a kernel's work. `worker` is in [0, pn_max_workers()) and no two chunks that run at
 * the same time see the same one: it picks a slice of scratch. */
typedef void (*pn_body)(pn_call *c, void *arg, int64_t chunk, int worker);

/* Runs body for every chunk in [0, n_chunks), by the team where it is free, else here in order.
 * Subnormals are flushed to zero inside and the caller's floating-point state is restored. */
void pn_for(pn_call *c, int64_t n_chunks, pn_body body, void *arg);

int pn_max_workers(void); /* upper bound of `worker` + 1: the number of threads set */
int64_t pn_grain(int64_t n); /* n elements a chunk, divided by PYNN_CHUNK_DIV (tests) */
void pn_fail(pn_call *c, int code, int arg, int64_t index, double value);

int pn_set_num_threads(int n); /* 0, or -1 where the threads could not be made */
int pn_get_num_threads(void);
void pn_set_chunk_div(int64_t div);
int64_t pn_get_chunk_div(void);

typedef struct pn_par_info {
    int64_t regions; /* pn_for calls with more than one chunk */
    int64_t parallel; /* ... that ran with at least one worker beside the caller */
    int64_t granted; /* workers granted, summed over regions */
    int64_t serial; /* ... that ran alone because another caller had the team */
    int64_t chunks_by_workers;
    int32_t team, threads; /* members of the team alive, threads set */
} pn_par_info;
void pn_par_stats(pn_par_info *out);
void pn_par_stats_reset(void);
const char *pn_par_backend(void); /* "pthreads" */
void pn_team_stop(void); /* ends the workers; the next region starts them again */
void pn_hot(int on); /* while on (counted), workers spin instead of parking */

/* ---- pn_chain.c: elementwise calls run as one --------------------------------------------------- */

enum { PN_CHAIN_CALLS = 16, PN_CHAIN_ARGS = 64, PN_CHAIN_ARRAYS = 24, PN_CHAIN_SLOTS = 8 };

typedef struct pn_chain {
    int32_t n_call, n_arg, n_outer, n_inner; /* outer arrays, and slots of scratch for inner ones */
    pn_fn fn[PN_CHAIN_CALLS];
    pn_block block[PN_CHAIN_CALLS]; /* by pn_chain_ask */
    const pn_value *par[PN_CHAIN_CALLS];
    int32_t first[PN_CHAIN_CALLS + 1]; /* each call's first argument, and n_arg */
    int32_t which[PN_CHAIN_ARGS]; /* outer array k: k, slot k: n_outer + k, left out: -1 */
    int32_t dtype[PN_CHAIN_ARGS];
    int32_t leaves[PN_CHAIN_CALLS]; /* whether no later call reads what this one writes */
    int32_t written[PN_CHAIN_ARRAYS]; /* whether the chain writes an outer array */
} pn_chain;

/* A kernel: arg = outer arrays, of one shape, then scratch; par = the chain. */
void pn_chain_run(pn_call *c);
void pn_chain_ask(pn_chain *t); /* once, when all else is set */
int64_t pn_chain_scratch(const pn_chain *t, int n_worker);

/* ---- pn_alloc.c: storage ---------------------------------------------------------------------- */

void *pn_alloc(int64_t bytes); /* PN_ALIGN-aligned, not cleared; NULL where memory ends */
void pn_free(void *p, int64_t bytes); /* bytes as given to pn_alloc; from any thread */
void pn_empty_cache(void);

typedef struct pn_alloc_info {
    int64_t live, peak_live; /* bytes asked for and not yet freed */
    int64_t cached; /* bytes free in the cache */
    int64_t reserved; /* bytes held from the system: live, rounded up to classes, and cached */
    int64_t n_alloc, n_free, n_hit,
        n_system; /* calls, those met from the cache, those that asked the system */
} pn_alloc_info;
void pn_alloc_stats(pn_alloc_info *out);
void pn_alloc_reset_peak(void);

/* ---- cpu.c, table.c: the machine and its kernels ---------------------------------------------- */

enum {
    PN_ISA_BASE,
    PN_ISA_MID,
    PN_ISA_WIDE,
    PN_NISA
}; /* x86: v2, avx2, avx512; aarch64: neon only */
const char *pn_isa_name(int level); /* NULL where this build has no such level */
int pn_isa_best(void); /* the highest level that this build and this machine have */
int pn_isa(void);
int pn_use_isa(int level); /* 0, or -1 where the level is absent */

/* A BLAS for products: ?gemm and ?gemv by Fortran's convention, for PN_F32 and PN_F64. */
typedef struct pn_blas_table {
    void *gemm[2], *gemv[2];
} pn_blas_table;
const pn_blas_table *pn_blas(void); /* NULL: pynn's own kernels compute them */
void pn_use_blas(const pn_blas_table *t); /* t stays as it is from now on, or is NULL */

/* Whether float32 is computed as written, or by faster algorithms whose rounding is larger (Winograd). */
int pn_exact(void);
void pn_use_exact(int on);

typedef struct pn_kernel_info {
    const char *stem, *name;
    const char *ins, *outs, *pars; /* as in kernels.inc: "(a, b)" */
} pn_kernel_info;
int pn_n_kernels(void);
const pn_kernel_info *pn_kernel(int id);
pn_fn pn_kernel_fn(int id, int dtype); /* NULL where the kernel has no form for dtype */
pn_scratch_fn pn_kernel_scratch(int id, int dtype); /* NULL where it needs none */

/* ---- pn_limits.c: what the machine can do, for benchmarks -------------------------------------- */

enum {
    PN_STREAM_PLAIN,
    PN_STREAM_PAST,
    PN_STREAM_AHEAD,
    PN_STREAM_HOWS
}; /* past the caches; fetching ahead */
enum { PN_STREAM_READS = 4, PN_STREAM_WRITES = 3 };

/* At an ISA level: flops done by `threads` shares of rounds; result holds `threads` numbers. */
double pn_limit_fma(int isa, int threads, int64_t rounds, float *result);
/* passes over n elements each of x[reads] and y[writes], aligned to PN_ALIGN */
void pn_limit_stream(int isa, int threads, float *const *x, int reads, float *const *y, int writes,
                     int64_t n, int64_t passes, int how);

#endif
