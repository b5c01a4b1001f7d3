# cython: language_level=3, auto_pickle=False
"""The engine: storage, tensors, the call of a kernel, and the backward walk. The only Cython.

Arrows go one way: storage → tensor → op (apply, effect) → graph → autograd → tape → plan. Kernels know none
of it: they see the pn_call of csrc/pn.h.
"""
cimport cython
cimport numpy as cnp
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF
from cpython.tuple cimport PyTuple_GET_ITEM, PyTuple_New, PyTuple_SET_ITEM
from libc.stdint cimport int32_t, int64_t, uint8_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcmp, memcpy, memset
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

import sys as _sys
import weakref
from bisect import insort as _insort
from dis import opmap as _opmap
from functools import partial as _partial
from sys import _getframe
from types import CodeType as _CodeType
from types import FunctionType as _FunctionType
from types import MethodType as _MethodType
from types import ModuleType as _ModuleType

import numpy as np

cnp.import_array()

cdef extern from "pn.h" nogil:
    enum:
        PN_DOT_ROWS, PN_DOT_FROM
        PN_MAXDIM, PN_NONE, PN_F32, PN_F64, PN_I64, PN_I32, PN_U8, PN_BOOL, PN_NDTYPE
        PN_OK, PN_E_INDEX, PN_E_VALUE, PN_E_MEMORY, PN_NISA
    ctypedef struct pn_array:
        void *data
        int32_t dtype, ndim
        int64_t shape[8]
        int64_t strides[8]
    ctypedef union pn_value:
        int64_t i
        double f
        const void *p
    ctypedef struct pn_error:
        int32_t code, arg
        int64_t index
        double value
    ctypedef struct pn_call:
        pn_array *arg
        const pn_value *par
        int32_t n_arg, lock, n_worker
        pn_error err
        void *ask
    ctypedef void (*pn_fn)(pn_call *) noexcept nogil
    ctypedef int64_t (*pn_scratch_fn)(const pn_call *) noexcept nogil
    enum:
        PN_CHAIN_CALLS, PN_CHAIN_ARGS, PN_CHAIN_ARRAYS, PN_CHAIN_SLOTS
    ctypedef struct pn_chain:
        int32_t n_call, n_arg, n_outer, n_inner
        pn_fn fn[16]
        const pn_value *par[16]
        int32_t first[17]
        int32_t which[64]
        int32_t dtype[64]
        int32_t leaves[16]
        int32_t written[24]
    void pn_chain_run(pn_call *) noexcept nogil
    void pn_chain_ask(pn_chain *) noexcept
    int64_t pn_chain_scratch(const pn_chain *, int n_worker) noexcept nogil
    int pn_max_workers() noexcept
    int pn_set_num_threads(int n) noexcept
    int pn_get_num_threads() noexcept
    void pn_set_chunk_div(int64_t div) noexcept
    int64_t pn_get_chunk_div() noexcept
    ctypedef struct pn_par_info:
        int64_t regions, parallel, granted, serial, chunks_by_workers
        int32_t team, threads
    void pn_par_stats(pn_par_info *out) noexcept
    void pn_par_stats_reset() noexcept
    const char *pn_par_backend() noexcept
    void pn_team_stop() noexcept
    void pn_hot(int on) noexcept
    void *pn_alloc(int64_t bytes) noexcept
    void pn_free(void *p, int64_t bytes) noexcept
    void pn_empty_cache() noexcept
    ctypedef struct pn_alloc_info:
        int64_t live, peak_live, cached, reserved, n_alloc, n_free, n_hit, n_system
    void pn_alloc_stats(pn_alloc_info *out) noexcept
    void pn_alloc_reset_peak() noexcept
    const char *pn_isa_name(int level) noexcept
    int pn_isa_best() noexcept
    int pn_isa() noexcept
    int pn_use_isa(int level) noexcept
    int pn_exact() noexcept
    void pn_use_exact(int on) noexcept
    ctypedef struct pn_kernel_info:
        const char *stem
        const char *name
        const char *ins
        const char *outs
        const char *pars
    int pn_n_kernels() noexcept
    const pn_kernel_info *pn_kernel(int id) noexcept
    pn_fn pn_kernel_fn(int id, int dtype) noexcept
    pn_scratch_fn pn_kernel_scratch(int id, int dtype) noexcept
    enum:
        PN_STREAM_PLAIN, PN_STREAM_PAST, PN_STREAM_AHEAD, PN_STREAM_HOWS, PN_STREAM_READS, PN_STREAM_WRITES
    double pn_limit_fma(int isa, int threads, int64_t rounds, float *result) noexcept
    void pn_limit_stream(int isa, int threads, float **x, int reads, float **y, int writes, int64_t n,
                         int64_t passes, int how) noexcept

cdef extern from "Python.h":
    object PyDictProxy_New(object)
    PyObject *PyCell_GET(object)
    PyObject *PyFunction_GET_CODE(object)
    PyObject *PyFunction_GET_DEFAULTS(object)
    PyObject *PyFunction_GET_KW_DEFAULTS(object)

cdef extern from *:
    """
    static __thread int pn_grad_off = 0;      /* > 0: nothing is recorded on this thread */
    static __thread int pn_free_depth = 0;    /* nesting of Node deallocation */
    static __thread int pn_anomaly = 0;       /* > 0: outputs are checked for NaN and Inf on this thread */
    static __thread PyObject *pn_rec = NULL;  /* this thread's recorder, borrowed */
    #define pn_mul_overflow(a, b, r) __builtin_mul_overflow(a, b, r)
    #define tensor_new(base, type, args) (((PyTypeObject *)(base))->tp_new((PyTypeObject *)(type), args, NULL))
    """
    int pn_grad_off, pn_free_depth, pn_anomaly
    PyObject *pn_rec
    Py_ssize_t Py_REFCNT(PyObject *)
    bint pn_mul_overflow(int64_t a, int64_t b, int64_t *r) nogil
    object tensor_new(object base, object type, tuple args)

include "storage.pxi"
include "numbers.pxi"
include "tensor.pxi"
include "views.pxi"
include "op.pxi"
include "apply.pxi"
include "lists.pxi"
include "report.pxi"
include "graph.pxi"
include "autograd.pxi"
include "tape.pxi"
include "plan.pxi"
include "passes.pxi"
include "weights.pxi"
include "replay.pxi"
include "depends.pxi"
include "compiled.pxi"
include "session.pxi"
include "runtime.pxi"
include "blas.pxi"
include "limits.pxi"
