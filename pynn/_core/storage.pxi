# Storage: a piece of memory with a version. Tensors, NumPy views and saved values share it.

cdef int64_t clock = 0  # versions are drawn from one clock: equal versions mean the same bytes

# NumPy type numbers, itemsizes and dtypes by PN tag
cdef int[6] NPY_OF = [cnp.NPY_FLOAT32, cnp.NPY_FLOAT64, cnp.NPY_INT64, cnp.NPY_INT32, cnp.NPY_UINT8, cnp.NPY_BOOL]
cdef int64_t[6] ITEMSIZE = [4, 8, 8, 4, 1, 1]
DTYPES = (np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.int64), np.dtype(np.int32),
          np.dtype(np.uint8), np.dtype(np.bool_))
cdef tuple _dtypes = DTYPES
cdef dict _dtype_tags = {d: i for i, d in enumerate(DTYPES)}
# other real dtypes are read as the smallest of ours that holds them
cdef dict _read_as = {np.dtype(a): np.dtype(b) for a, b in (
    ("f2", "f4"), ("i1", "i4"), ("i2", "i4"), ("u2", "i4"), ("u4", "i8"))}


cdef int dtype_tag(object dtype) except -2:
    """The PN tag of anything that names a dtype."""
    cdef object d = _dtype_tags.get(dtype) if isinstance(dtype, np.dtype) else None
    if d is None:
        try:
            d = _dtype_tags.get(np.dtype(dtype)) if dtype is not None else None
        except (TypeError, ValueError):
            d = None
        if d is None:
            raise TypeError(f"dtype: expected one of {', '.join(map(str, _dtypes))}, got {shown(dtype)}")
    return d


cdef inline int array_tag(cnp.ndarray arr) except -2:
    """The PN tag of an array's dtype; PN_NONE where it is none of ours, or not in native byte order."""
    cdef int d, kind = cnp.PyArray_TYPE(arr)
    if cnp.PyArray_ISNOTSWAPPED(arr):
        for d in range(PN_NDTYPE):
            if NPY_OF[d] == kind:
                return d
    return _dtype_tags.get((<object>arr).dtype, PN_NONE)


cdef inline bint in_whole_items(cnp.ndarray arr, int64_t item) noexcept:
    """Whether an array's elements are aligned and whole items apart."""
    cdef int d
    for d in range(cnp.PyArray_NDIM(arr)):
        if cnp.PyArray_DIM(arr, d) > 1 and cnp.PyArray_STRIDE(arr, d) % item:
            return False
    return cnp.PyArray_ISALIGNED(arr)


@cython.no_gc
@cython.freelist(256)
cdef class Storage:
    """Memory of a tensor: pynn's own, or a BorrowedStorage. It refers to no object, which spares the collector."""
    cdef void *data
    cdef readonly int64_t nbytes
    cdef readonly int64_t version
    cdef readonly bint borrowed
    cdef readonly bint readonly
    cdef int n_open  # contexts in which it is written under its old version
    cdef readonly bint exposed  # a writable view is outside: its version says nothing any more
    cdef int64_t rec            # the recorder under which it was made, and its buffer there; 0: none
    cdef int buf

    def __dealloc__(self):
        if self.rec != 0:
            storage_dies(self)
        if not self.borrowed and self.data != NULL:
            pn_free(self.data, self.nbytes)

    def hold_open(self, int by):
        """by = 1: it is written from now on without a new version; −1: no more."""
        self.n_open += by

    @property
    def ptr(self):
        return <size_t>self.data

    @property
    def owner(self):
        """Whose memory it is: None where it is pynn's own."""
        return (<BorrowedStorage>self).lender if self.borrowed else None


@cython.final
@cython.no_gc_clear  # a tensor of the cycle lets go of the storage, before that of its owner
cdef class BorrowedStorage(Storage):
    """Memory of another object, which is held alive and may, in a cycle, hold a tensor on it."""
    cdef object lender


cdef inline int64_t tick() noexcept:
    global clock
    clock += 1
    return clock


cdef Storage new_storage(int64_t nbytes):
    cdef Storage s = Storage.__new__(Storage)
    cdef void *p = pn_alloc(nbytes)
    if p == NULL:
        raise MemoryError(f"pynn: could not allocate {nbytes} bytes")
    s.data = p
    s.nbytes = nbytes
    s.version = tick()
    if pn_rec != NULL:
        (<Recorder>pn_rec).made(s)
    return s


cdef Storage borrow_storage(void *data, int64_t nbytes, object owner, bint readonly):
    cdef BorrowedStorage s = BorrowedStorage.__new__(BorrowedStorage)
    s.data = data
    s.nbytes = nbytes
    s.borrowed = True
    s.lender = owner
    s.readonly = readonly
    s.exposed = not readonly
    s.version = tick()
    return s


cdef Storage storage_under(object arr, char *begin, char *end):
    """The storage that a NumPy array looks into, if it is one of ours, else None."""
    cdef Storage s
    cdef PyObject *base = <PyObject *>arr
    while base != NULL and cnp.PyArray_Check(<object>base):
        base = <PyObject *>(<cnp.ndarray>base).base
    if base == NULL or not isinstance(<object>base, Storage):
        return None
    s = <Storage>base
    return s if <char *>s.data <= begin and end <= <char *>s.data + s.nbytes else None


def alloc_stats():
    """Counters of the allocator: bytes live, peak_live, cached, reserved; calls of each kind."""
    cdef pn_alloc_info i
    pn_alloc_stats(&i)
    return {"live": i.live, "peak_live": i.peak_live, "cached": i.cached, "reserved": i.reserved,
            "n_alloc": i.n_alloc, "n_free": i.n_free, "n_hit": i.n_hit, "n_system": i.n_system}


def empty_cache():
    """Gives the allocator's free memory back to the system."""
    pn_empty_cache()


def reset_peak():
    """Lets peak_live start again from what is live now."""
    pn_alloc_reset_peak()
