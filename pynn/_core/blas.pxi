# BLAS as the other back end of products: SciPy's routines, taken at run time from the capsules of
# scipy.linalg.cython_blas. pynn is neither built nor linked against them.

from cpython.pycapsule cimport PyCapsule_CheckExact, PyCapsule_GetName, PyCapsule_GetPointer

cdef extern from "pn.h" nogil:
    ctypedef struct pn_blas_table:
        void *gemm[2]
        void *gemv[2]
    const pn_blas_table *pn_blas() noexcept
    void pn_use_blas(const pn_blas_table *t) noexcept

cdef pn_blas_table blas_table

# the arguments of a routine: c a letter, i an integer, r a real number, each by pointer
cdef dict BLAS_ARGUMENTS = {"gemm": "cciiirririrri", "gemv": "ciirririrri"}
cdef dict BLAS_INTEGERS = {"int": 32, "int32_t": 32, "long": 64, "long long": 64, "int64_t": 64, "npy_int64": 64}


def blas_int_bits(str routine, str signature):
    """The width of the integers, 32 or 64, that a BLAS routine (sgemm, ...) of that C signature takes; None where
    it names them by a type of its own, which may be either.

    Raises:
        ImportError: it is not the signature of that routine.
    """
    kinds = BLAS_ARGUMENTS[routine[1:]]
    head, _, tail = signature.partition("(")
    args = [a.strip() for a in tail.rstrip(") ").split(",")]
    types = {"c": set(), "i": set(), "r": set()}
    good = head.strip() == "void" and len(args) == len(kinds) and all([a.endswith("*") for a in args])
    if good:
        for kind, a in zip(kinds, args):
            types[kind].add(a.removesuffix("*").strip())
        integer, real = next(iter(types["i"])), next(iter(types["r"]))
        good = types["c"] == {"char"} and len(types["i"]) == len(types["r"]) == 1
        good = good and (integer in BLAS_INTEGERS or integer.endswith("blas_int"))
        good = good and (real == {"s": "float", "d": "double"}[routine[0]] or real.endswith("_" + routine[0]))
    if not good:
        raise ImportError(f"set_gemm: scipy.linalg.cython_blas.{routine} has the signature {signature!r}, which pynn "
                          "does not know; use another version of SciPy, or pynn's own kernels")
    return BLAS_INTEGERS.get(integer)


def load_blas(dict capsules):
    """Takes sgemm, dgemm, sgemv and dgemv from capsules; returns the width of their integers, as blas_int_bits."""
    bits = []
    for k, letter in enumerate("sd"):
        for name in ("gemm", "gemv"):
            capsule = capsules.get(letter + name)
            if not PyCapsule_CheckExact(capsule):
                raise ImportError(f"set_gemm: scipy.linalg.cython_blas has no {letter + name}")
            bits.append(blas_int_bits(letter + name, PyCapsule_GetName(capsule).decode()))
            if name == "gemm":
                blas_table.gemm[k] = PyCapsule_GetPointer(capsule, PyCapsule_GetName(capsule))
            else:
                blas_table.gemv[k] = PyCapsule_GetPointer(capsule, PyCapsule_GetName(capsule))
    if len(set(bits)) != 1:
        raise ImportError("set_gemm: the routines of scipy.linalg.cython_blas differ in the width of their integers")
    return bits[0]


def use_blas(bint on):
    """Gives products to the BLAS loaded by load_blas, or to pynn's own kernels."""
    if on and blas_table.gemm[0] == NULL:
        raise RuntimeError("use_blas: no BLAS is loaded")
    pn_use_blas(&blas_table if on else NULL)


def blas_used():
    """Whether products are given to a BLAS."""
    return pn_blas() != NULL
