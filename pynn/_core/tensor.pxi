# TensorBase: a pn_array on a storage, with its place in the graph. pynn/tensor.py gives it methods.

cdef object TensorType = None  # pynn.Tensor, once tensor.py has defined it
cdef tuple _no_args = ()
cdef object row_sum = None     # adds gradients of which one is by rows; see pynn/sparse.py


cdef extern from *:
    """
    /* Python fills the operator slots of a class with functions that look the methods up by name, even where it
     * inherits them. */
    static void pn_take_operators(PyTypeObject *to, PyTypeObject *from) {
        PyNumberMethods *t = to->tp_as_number, *f = from->tp_as_number;
        t->nb_add = f->nb_add, t->nb_subtract = f->nb_subtract, t->nb_multiply = f->nb_multiply;
        t->nb_true_divide = f->nb_true_divide, t->nb_matrix_multiply = f->nb_matrix_multiply;
    }
    """
    void pn_take_operators(type to, type from_)


def set_tensor_type(cls):
    """Names the class of which apply() makes its results."""
    global TensorType
    TensorType = cls
    pn_take_operators(cls, TensorBase)


def set_row_sum(fn):
    """Names the function that adds two gradients of which one is by rows."""
    global row_sum
    row_sum = fn


def without_values(cls, shape, dtype):
    """A tensor of class cls that has a shape and a dtype but no memory: a gradient by rows."""
    cdef TensorBase t = <TensorBase>tensor_new(TensorBase, cls, _no_args)
    t.a.dtype = dtype_tag(dtype)
    set_shape(&t.a, shape)
    dense_strides(&t.a)
    return t


cdef inline TensorBase blank():
    """A tensor without storage yet."""
    return <TensorBase>tensor_new(TensorBase, TensorType, _no_args)


cdef inline int64_t size_of(const pn_array *a) noexcept nogil:
    cdef int64_t n = 1
    cdef int d
    for d in range(a.ndim):
        n *= a.shape[d]
    return n


cdef inline void dense_strides(pn_array *a) noexcept nogil:
    cdef int64_t n = 1
    cdef int d
    for d in range(a.ndim - 1, -1, -1):
        a.strides[d] = n
        n *= a.shape[d] if a.shape[d] > 0 else 1


cdef inline void nhwc_strides(pn_array *a) noexcept nogil:
    """Logically N,C,H,W, stored N,H,W,C."""
    a.strides[1] = 1
    a.strides[3] = a.shape[1]
    a.strides[2] = a.strides[3] * a.shape[3]
    a.strides[0] = a.strides[2] * a.shape[2]


cdef inline bint is_dense(const pn_array *a) noexcept nogil:
    """Row-major without gaps; dimensions of size 1 may have any stride."""
    cdef int64_t n = 1
    cdef int d
    for d in range(a.ndim - 1, -1, -1):
        if a.shape[d] == 0:
            return True
        if a.shape[d] != 1:
            if a.strides[d] != n:
                return False
            n *= a.shape[d]
    return True


cdef inline bint is_nhwc(const pn_array *a) noexcept nogil:
    """Stored channels-last without gaps, as read from the strides of dimensions > 1."""
    cdef int64_t n = 1
    cdef int d, k
    cdef int[4] order = [1, 3, 2, 0]
    if a.ndim != 4:
        return False
    for k in range(4):
        d = order[k]
        if a.shape[d] == 0:
            return True
        if a.shape[d] != 1:
            if a.strides[d] != n:
                return False
            n *= a.shape[d]
    return True


cdef void pack_like(const pn_array *a, pn_array *out) noexcept nogil:
    """out: a's shape and dtype for memory of its own, in a's order where that has no gaps."""
    out[0] = a[0]
    out.data = NULL
    if not is_packed(a):
        dense_strides(out)


cdef inline bint same_steps(const pn_array *a, const pn_array *b) noexcept nogil:
    """Whether the elements of two arrays of one shape lie in the same order."""
    cdef int d
    for d in range(a.ndim):
        if a.shape[d] > 1 and a.strides[d] != b.strides[d]:
            return False
    return True


cdef int check_values(TensorBase x) except -1:
    """Raises for a tensor that holds no memory: Tensor() without data, or an input that an op did not save."""
    if x.storage is None:
        if row_sum is not None and hasattr(x, "_no_values"):
            raise TypeError(x._no_values)
        raise RuntimeError(f"a tensor of shape {x.shape} without values: either Tensor() without data, or an input "
                           "of a node whose entry does not name it in `saves`")
    return 0


cdef int checked_bytes(const pn_array *a, int64_t *out) except -1:
    cdef int64_t n = ITEMSIZE[a.dtype]
    cdef int d
    cdef bint over = False
    for d in range(a.ndim):
        if a.shape[d] == 0:
            out[0] = 0
            return 0
    for d in range(a.ndim):
        over = over or pn_mul_overflow(n, a.shape[d], &n)
    if over:
        raise MemoryError(f"pynn: a tensor of shape {shape_tuple(a)} does not fit into memory")
    out[0] = n
    return 0


cdef tuple shape_tuple(const pn_array *a):
    cdef tuple t = PyTuple_New(a.ndim)
    cdef object v
    cdef int d
    for d in range(a.ndim):
        v = a.shape[d]
        Py_INCREF(v)
        PyTuple_SET_ITEM(t, d, v)
    return t


cdef int allocate(TensorBase t) except -1:
    """Gives t, whose array has dtype, shape and strides, memory of its own."""
    cdef int64_t nbytes
    checked_bytes(&t.a, &nbytes)
    t.storage = new_storage(nbytes)
    t.a.data = t.storage.data
    return 0


cdef int set_shape(pn_array *a, object shape) except -1:
    cdef object v
    cdef int64_t n
    a.ndim = 0
    for v in (shape if isinstance(shape, (tuple, list)) else (shape,)):
        if a.ndim == PN_MAXDIM:
            raise ValueError(f"shape: expected at most {PN_MAXDIM} dimensions, got {shown(shape)}")
        n = as_size(v, shape)
        a.shape[a.ndim] = n
        a.ndim += 1
    return 0


@cython.c_api_binop_methods(True)
cdef class TensorBase:
    cdef pn_array a
    cdef Storage storage
    cdef Node node        # what computed it; None for a leaf
    cdef int out_idx      # which output of node it is
    cdef bint leaf_grad   # a leaf that asks for its gradient
    cdef bint retains     # a computed tensor that keeps its gradient
    cdef readonly object _grad
    cdef readonly object _hooks
    cdef object __weakref__

    @property
    def shape(self):
        """The sizes of the dimensions, a tuple."""
        return shape_tuple(&self.a)

    @property
    def strides(self):
        """Steps between neighbours along each dimension, in elements."""
        cdef int d
        return tuple([self.a.strides[d] for d in range(self.a.ndim)])

    @property
    def ndim(self):
        return self.a.ndim

    @property
    def size(self):
        """The number of elements."""
        return size_of(&self.a)

    @property
    def dtype(self):
        """The NumPy dtype: float32, float64, int64, int32, uint8 or bool."""
        return _dtypes[self.a.dtype]

    @property
    def storage_(self):
        return self.storage

    @property
    def _version(self):
        check_values(self)
        return self.storage.version

    @property
    def grad_fn(self):
        """The node that computed this tensor; None for a leaf."""
        return self.node

    @property
    def is_leaf(self):
        return self.node is None

    @property
    def requires_grad(self):
        """Whether derivatives flow to this tensor. Settable on leaves of a floating dtype."""
        return self.leaf_grad or self.node is not None

    @requires_grad.setter
    def requires_grad(self, bint value):
        if self.node is not None:
            if value:
                return
            raise RuntimeError("requires_grad: only a leaf's can be cleared; use x.detach() for a computed tensor")
        if value and self.a.dtype > PN_F64:
            raise TypeError(f"requires_grad: expected a floating dtype, got {self.dtype}")
        self.leaf_grad = value

    @property
    def grad(self):
        """The accumulated gradient, of this tensor's shape; None where there is none yet."""
        if pn_rec != NULL:
            (<Recorder>pn_rec).reads_grad(self)
        return self._grad

    @grad.setter
    def grad(self, value):
        cdef TensorBase g
        if value is not None:
            if not isinstance(value, TensorBase):
                raise TypeError(f"grad: expected a Tensor or None, got {type(value).__name__}")
            g = value
            if g is self:
                raise ValueError("grad: expected another tensor, got the tensor itself")
            if not same_shape(&g.a, &self.a) or g.a.dtype != self.a.dtype:
                raise ValueError(f"grad: expected shape {self.shape} and dtype {self.dtype}, "
                                 f"got {g.shape} and {g.dtype}")
        set_grad(self, value)

    @grad.deleter
    def grad(self):
        self._grad = None

    # Operators, either side of which may be the tensor. They stand here and not in pynn/tensor.py, where a call
    # of Python's would take as long as a small op.

    def __add__(a, b):
        return operate(OP_ADD, a, b)

    def __sub__(a, b):
        return operate(OP_SUB, a, b)

    def __mul__(a, b):
        return operate(OP_MUL, a, b)

    def __truediv__(a, b):
        return operate(OP_DIV, a, b)

    def __matmul__(a, b):
        if isinstance(a, TensorBase) and isinstance(b, TensorBase):
            if (<TensorBase>a).a.ndim > 1 and (<TensorBase>b).a.ndim > 1:
                return operate(OP_MATMUL, a, b)
        return (a if isinstance(a, TensorBase) else TensorType(a)).matmul(b)

    def is_contiguous(self):
        """Whether the elements lie row-major without gaps."""
        return bool(is_dense(&self.a))

    def is_channels_last(self):
        """Whether a 4-D tensor N,C,H,W is stored as N,H,W,C without gaps."""
        return bool(is_nhwc(&self.a))

    def detach(self):
        """The same values without history."""
        return view_of(self, &self.a)

    def numpy(self):
        """A NumPy array on the same memory; read-only where this tensor requires grad."""
        check_values(self)
        if pn_rec != NULL:
            host_reads(self, "numpy()")
        cdef bint writable = not (self.leaf_grad or self.node is not None or self.storage.readonly)
        if writable:
            self.storage.exposed = True
        return to_numpy(self, writable)

    def _writable(self):
        """A writable NumPy array on the memory of a leaf; the caller bumps the version."""
        cdef int d
        if pn_rec != NULL:
            host_writes(self, "writable()")
        check_writable(self, "writable")
        for d in range(self.a.ndim):
            if self.a.shape[d] > 1 and self.a.strides[d] == 0:
                raise ValueError(f"writable: dimension {d} of shape {self.shape} repeats the same memory; "
                                 "use x.clone()")
        return to_numpy(self, True)

    def _bump(self):
        check_values(self)
        self.storage.version = tick()

    def _rebind(self, TensorBase other not None):
        """Takes other's memory, dtype and layout in place of its own (Module.double, deepcopy)."""
        if self.node is not None:
            raise RuntimeError("only a leaf can take other memory")
        if pn_rec != NULL:
            host_writes(self, "new memory")
        bump_structure()
        self.storage = other.storage
        self.a = other.a

    def _set_hooks(self, hooks):
        self._hooks = hooks

    def item(self):
        """The value of a tensor of one element, as a Python number."""
        if size_of(&self.a) != 1:
            raise ValueError(f"item: expected a tensor of one element, got shape {self.shape}")
        check_values(self)
        if pn_rec != NULL:
            host_reads(self, "item()")
        return read_scalar(&self.a)


cdef object read_scalar(const pn_array *a):
    if a.dtype == PN_F32:
        return (<float *>a.data)[0]
    if a.dtype == PN_F64:
        return (<double *>a.data)[0]
    if a.dtype == PN_I64:
        return (<int64_t *>a.data)[0]
    if a.dtype == PN_I32:
        return (<int32_t *>a.data)[0]
    if a.dtype == PN_U8:
        return (<uint8_t *>a.data)[0]
    return (<uint8_t *>a.data)[0] != 0


cdef inline bint same_shape(const pn_array *a, const pn_array *b) noexcept nogil:
    cdef int d
    if a.ndim != b.ndim:
        return False
    for d in range(a.ndim):
        if a.shape[d] != b.shape[d]:
            return False
    return True


cdef TensorBase view_of(TensorBase x, const pn_array *a):
    """A leaf on x's memory, seen as a."""
    cdef TensorBase t = blank()
    t.a = a[0]
    t.storage = x.storage
    return t


cdef TensorBase empty_like_array(const pn_array *shape_of, int dtype):
    cdef TensorBase t = blank()
    t.a = shape_of[0]
    t.a.dtype = dtype
    dense_strides(&t.a)
    allocate(t)
    return t


cdef object to_numpy(TensorBase x, bint writable):
    cdef cnp.npy_intp[8] dims
    cdef cnp.npy_intp[8] steps
    cdef int64_t item = ITEMSIZE[x.a.dtype]
    cdef int d
    check_values(x)
    for d in range(x.a.ndim):
        dims[d] = x.a.shape[d]
        steps[d] = x.a.strides[d] * item
    cdef cnp.ndarray out = cnp.PyArray_New(
        cnp.ndarray, x.a.ndim, dims, NPY_OF[x.a.dtype], steps, x.a.data, 0,
        cnp.NPY_ARRAY_WRITEABLE if writable else 0, None)
    cnp.set_array_base(out, x.storage)
    return out


cdef object readable(object data, str what):
    """data as a NumPy array of one of our dtypes in native byte order; raises what cannot be one."""
    cdef object arr
    try:
        arr = np.asarray(data)
    except ValueError as e:
        raise ValueError(f"{what}: expected numbers in a rectangular array, got a ragged one ({e})") from None
    d = arr.dtype
    if d not in _dtype_tags:
        native = d.newbyteorder("=")
        if native in _dtype_tags:
            return arr.astype(native)
        if native in _read_as:
            return arr.astype(_read_as[native])
        if not isinstance(data, (np.ndarray, np.generic)) and all([isinstance(v, int) for v in arr.flat]):
            raise OverflowError(f"{what}: expected integers of at most 64 bits, got {shown(data)}")
        raise TypeError(f"{what}: expected real numbers or bools "
                        f"({', '.join(map(str, _dtypes))}), got dtype {d}")
    return arr


def empty(shape, dtype=np.float32):
    """A tensor of the given shape whose values are not set."""
    cdef TensorBase t = blank()
    t.a.dtype = dtype_tag(dtype)
    set_shape(&t.a, shape)
    dense_strides(&t.a)
    allocate(t)
    return t


def check_shape(shape, dtype):
    """Raises MemoryError, ValueError where no tensor of that shape and dtype can be."""
    cdef pn_array a
    cdef int64_t nbytes
    a.dtype = dtype_tag(dtype)
    set_shape(&a, shape)
    checked_bytes(&a, &nbytes)


def from_array(data, dtype=None, str what="data"):
    """A tensor on a copy of data. Python numbers become float32, int64 or bool."""
    cdef bint plain = not isinstance(data, (np.ndarray, np.generic))
    if pn_rec != NULL:
        host_data(data, what)
    refuse_mask(data, what)
    cdef object arr = readable(data, what)
    cdef TensorBase t = blank()
    if dtype is not None:
        t.a.dtype = dtype_tag(dtype)
    elif plain and arr.dtype == np.float64:
        t.a.dtype = PN_F32
    else:
        t.a.dtype = dtype_tag(arr.dtype)
    set_shape(&t.a, arr.shape)
    dense_strides(&t.a)
    allocate(t)
    if plain and (t.a.dtype == PN_I32 or t.a.dtype == PN_U8) and arr.dtype == np.int64 and arr.size:
        fits_in(t.a.dtype, arr, what)
    cdef object dst = to_numpy(t, True)
    np.copyto(dst, arr, casting="unsafe")
    return t


def share_array(arr, str what="from_numpy: argument 'array'"):
    """A tensor on the memory of a NumPy array, which it keeps alive."""
    cdef TensorBase t
    cdef Storage under
    cdef cnp.ndarray v
    cdef int d
    cdef int64_t item, n, step
    cdef char *begin
    cdef char *end
    if not cnp.PyArray_Check(arr):
        raise TypeError(f"{what}: expected a NumPy array, got {type(arr).__name__}")
    refuse_mask(arr, what)
    if pn_rec != NULL:
        host_data(arr, what)
    v = <cnp.ndarray>arr
    t = blank()
    t.a.dtype = array_tag(v)
    if t.a.dtype == PN_NONE:
        raise TypeError(f"{what}: expected one of {', '.join(map(str, _dtypes))} in native "
                        f"byte order, got dtype {arr.dtype.str!r}; pynn.tensor(array) converts a copy")
    item = ITEMSIZE[t.a.dtype]
    if not in_whole_items(v, item):
        raise ValueError(f"{what}: expected aligned elements, got an unaligned array; pynn.tensor(array) makes an "
                         "aligned copy")
    if cnp.PyArray_NDIM(v) > PN_MAXDIM:
        set_shape(&t.a, arr.shape)  # raises
    t.a.ndim = cnp.PyArray_NDIM(v)
    t.a.data = begin = <char *>cnp.PyArray_DATA(v)
    end = begin + item
    for d in range(t.a.ndim):
        n, step = cnp.PyArray_DIM(v, d), cnp.PyArray_STRIDE(v, d)
        t.a.shape[d] = n
        t.a.strides[d] = step // item if n > 1 else 1
        begin += min(0, (n - 1) * step)
        end += max(0, (n - 1) * step)
    if size_of(&t.a) == 0:
        begin = end = <char *>t.a.data
    under = storage_under(arr, begin, end)
    if under is not None and under.readonly != cnp.PyArray_ISWRITEABLE(v):
        t.storage = under  # one version for all that see this memory
    else:
        owner = arr
        while under is not None:  # a chain of views of views stays short
            owner, under = under, under.owner if isinstance(under.owner, Storage) else None
        t.storage = borrow_storage(begin, end - begin, owner, not cnp.PyArray_ISWRITEABLE(v))
    return t


cdef TensorBase scalar_tensor(object value, int dtype):
    """A 0-d tensor of a Python number."""
    cdef TensorBase t = blank()
    t.a.dtype = dtype
    t.a.ndim = 0
    allocate(t)
    if dtype == PN_F32:
        (<float *>t.a.data)[0] = value
    elif dtype == PN_F64:
        (<double *>t.a.data)[0] = value
    elif dtype == PN_I64:
        (<int64_t *>t.a.data)[0] = value
    elif dtype == PN_I32:
        (<int32_t *>t.a.data)[0] = value
    elif dtype == PN_U8:
        (<uint8_t *>t.a.data)[0] = value
    else:
        (<uint8_t *>t.a.data)[0] = bool(value)
    return t


def zeros_as(TensorBase x not None):
    """Zeros of x's shape, dtype and order in memory."""
    cdef TensorBase t = blank()
    pack_like(&x.a, &t.a)
    allocate(t)
    memset(t.a.data, 0, t.storage.nbytes)
    return t


def set_number(TensorBase x not None, number):
    """Overwrites a 0-d floating tensor: the value of a hyper-parameter."""
    cdef double value
    try:
        value = number
    except (TypeError, OverflowError):
        raise type_or_range("set_number: argument 'number'", number) from None
    if pn_rec != NULL:
        host_writes(x, "a new value of a hyper-parameter")
    check_writable(x, "set_number")
    if x.a.ndim != 0 or x.a.dtype > PN_F64:
        raise TypeError(f"set_number: expected a 0-d floating tensor, got shape {x.shape} and dtype {x.dtype}")
    if x.a.dtype == PN_F32:
        (<float *>x.a.data)[0] = value
    else:
        (<double *>x.a.data)[0] = value
    x.storage.version = tick()


cdef int check_writable(TensorBase x, str what) except -1:
    """Values with history never change; leaves do, where nothing is being recorded."""
    check_values(x)
    if x.node is not None:
        raise RuntimeError(f"{what}: a tensor with history cannot be changed in place; compute a new one "
                           "(pynn.where, pynn.index_put), or change x.detach().clone()")
    if x.leaf_grad and not pn_grad_off:
        raise RuntimeError(f"{what}: a leaf that requires grad can be changed in place only under pynn.no_grad()")
    if x.storage.readonly:
        raise ValueError(f"{what}: the tensor's memory is read-only")
    return 0


def overwrite(TensorBase x not None, values):
    """Puts an array's values into x's memory, whatever x is: for those who put back what they took."""
    np.copyto(to_numpy(x, True), values)
    x.storage.version = tick()


def read_view(TensorBase x not None):
    """A read-only NumPy array on x's memory."""
    if pn_rec != NULL:
        host_reads(x, "this")
    return to_numpy(x, False)
