# apply(): the one way from Tensors to a kernel. Converts, checks shapes, allocates outputs, runs the
# kernel, records the node. Effects take the same way but record nothing and bump what they write.

cdef double GIL_NS = 50e3  # the GIL is released where a kernel is estimated to take longer
cdef dict _no_params = {}

# ops that the engine itself calls
cdef enum:
    OP_ADD, OP_SUM_TO, OP_CAST, OP_COPY, OP_ALIAS, OP_ZEROS, OP_ACCUMULATE, N_CORE
cdef list CORE_NAMES = ["add", "sum_to", "cast", "copy", "alias", "zeros", "accumulate_"]
cdef list _core_ops = [None] * N_CORE


def bind_core(registry):
    """Gives the engine the entries that it calls by itself."""
    for k, name in enumerate(CORE_NAMES):
        _core_ops[k] = registry[name]


cdef inline OpBase core_op(int which):
    return <OpBase>_core_ops[which]


cdef object apply(OpBase op, tuple args, dict params):
    """The value of op on args: a Tensor, or a tuple of them."""
    cdef int dtype = PN_NONE
    if op.view_kind != NO_VIEW:
        return apply_view(op, args, params)
    if op.kernel_id < 0 and op.py_kernel is None:
        if op.formula is None:
            raise TypeError(f"{op.name}: it has neither a kernel nor a formula")
        return op.formula(*args, **params)
    cdef tuple xs = convert(op, args, &dtype)
    if op.n_write:
        check_same(op, args, xs)
    return execute(op, xs, params, dtype)


cdef int check_same(OpBase op, tuple args, tuple xs) except -1:
    """What is written must be the caller's own tensor, not what it was converted to."""
    cdef int k
    if op.n_fixed < op.n_in:
        raise TypeError(f"{op.name}: an effect over lists of tensors takes rows")
    for k in range(op.n_in - op.n_write, op.n_in):
        if k >= len(args) or xs[k] is not args[k]:
            raise TypeError(f"{op.name}: argument '{op.in_names[k]}' is written: expected a Tensor of dtype "
                            f"{_dtypes[(<TensorBase>xs[k]).a.dtype] if xs[k] is not None else 'its own'}, got "
                            f"{args[k].dtype if k < len(args) and isinstance(args[k], TensorBase) else 'no Tensor'}")
    return 0


cdef object execute(OpBase op, tuple xs, dict params, int dtype):
    cdef pn_array[MAX_ARG + 1] arr
    cdef Dims dims
    cdef list outs, held = None, apart = None, memory = []
    cdef TensorBase x
    cdef int k
    cdef int64_t total = 0
    for k in range(op.n_in):
        if xs[k] is None:
            arr[k].dtype = PN_NONE
            arr[k].data = NULL
            arr[k].ndim = 0
        else:
            x = <TensorBase>xs[k]
            if x.storage is None and op is not core_op(OP_ZEROS):
                check_values(x)
            memory.append(x.storage)  # another thread may give x other memory while the kernel runs
            arr[k] = x.a
    match_inputs(op, arr, params, &dims)
    for k in range(op.n_in):
        if arr[k].dtype != PN_NONE:
            broadcast_input(&op.spec[k], &dims, &arr[k])
    if op.n_write:
        check_written(op, xs, arr)
        apart = separate(op, xs, arr)
    outs = make_outs(op, xs, arr, params, dtype, &dims)
    for k in range(op.n_out):
        x = <TensorBase>outs[k]
        arr[op.n_in + k] = x.a
        total += size_of(&x.a)
    if op.rows:
        held = conform(op, arr, op.n_in - op.n_write)
    if total > 0 or op.n_out == 0:
        launch(op, arr, op.n_in + op.n_out, params, dtype, &dims, total)
    if op.n_write:
        for k in range(op.n_in - op.n_write, op.n_in):
            (<TensorBase>xs[k]).storage.version = tick()
        if op.n_out == 0:
            return None
    elif not pn_grad_off and wants_grad(op, xs):
        record(op, xs, params, outs, op.save_in, op.save_out)
    return outs[0] if op.n_out == 1 else tuple(outs)


cdef int check_written(OpBase op, tuple xs, const pn_array *arr) except -1:
    cdef TensorBase x
    cdef int k
    for k in range(op.n_in - op.n_write, op.n_in):
        x = xs[k]
        check_writable(x, op.name)
        if not same_shape(&x.a, &arr[k]):
            raise ValueError(f"{op.name}: argument '{op.in_names[k]}' is written and cannot be broadcast from "
                             f"{x.shape} to {shape_tuple(&arr[k])}")
        check_distinct(op, k, x)
        if op.rows and not is_dense(&x.a):
            raise ValueError(f"{op.name}: argument '{op.in_names[k]}' is written and must be row-major, got strides "
                             f"{x.strides}")
    return 0


cdef list separate(OpBase op, tuple xs, pn_array *arr):
    """Copies, held by the list, of what an effect reads from the memory that it writes, other than place by place."""
    cdef list held = []
    cdef TensorBase t
    cdef int k, w
    for w in range(op.n_in - op.n_write, op.n_in):
        for k in range(op.n_in - op.n_write):
            if (xs[k] is not None and share_memory((<TensorBase>xs[k]).storage, (<TensorBase>xs[w]).storage)
                    and not same_places(&arr[k], &arr[w])):
                t = dense_copy(&arr[k])
                arr[k] = t.a
                held.append(t)
    return held


cdef bint share_memory(Storage a, Storage b) noexcept:
    """Whether the bytes of two storages overlap: one and the same, or borrowed from one array."""
    return a is b or (<char *>a.data < <char *>b.data + b.nbytes and <char *>b.data < <char *>a.data + a.nbytes)


cdef bint same_places(const pn_array *a, const pn_array *b) noexcept:
    """Whether equal indices mean the same memory; the shapes are equal."""
    cdef int d
    if a.data != b.data or a.dtype != b.dtype:
        return False
    for d in range(a.ndim):
        if a.shape[d] != 1 and a.strides[d] != b.strides[d]:
            return False
    return True


cdef list make_outs(OpBase op, tuple xs, const pn_array *arr, dict params, int dtype, Dims *dims):
    """Fresh outputs of the shapes, dtypes and layout that the entry promises."""
    cdef list outs = []
    cdef object shapes = None
    cdef TensorBase y
    cdef Spec *s
    cdef int k, d
    if op.shape_fn is not None:
        shapes = op.shape_fn(tuple([None if x is None else x.shape for x in xs]), **params)
        if not isinstance(shapes, (list, tuple)) or len(shapes) != op.n_out:
            raise ValueError(f"{op.name}: expected {op.n_out} shapes, one for each output, from its shape, "
                             f"got {shown(shapes)}")
    for k in range(op.n_out):
        s = &op.spec[op.n_in + k]
        y = blank()
        if shapes is None:
            spec_shape(s, dims, &y.a)
            for d in range(y.a.ndim):
                if y.a.shape[d] < 0:
                    unknown_size(op, op.n_in + k)
        else:
            set_shape(&y.a, shapes[k])
        if s.kind == c'i':
            y.a.dtype = PN_I64
        elif s.kind == c'b':
            y.a.dtype = PN_BOOL
        elif s.kind == c'*':
            y.a.dtype = dtype_tag(op.dtype_fn(*[None if x is None else x.dtype for x in xs], **params))
        else:
            y.a.dtype = dtype
        lay_out(op, &y.a, arr, op.n_in)
        allocate(y)
        outs.append(y)
    return outs


cdef int unknown_size(OpBase op, int k) except -1:
    raise ValueError(f"{op.name}: the arguments given do not tell the shape {spec_text(op, k)} of its output "
                     f"'{op.out_names[k - op.n_in]}'")


cdef void lay_out(OpBase op, pn_array *y, const pn_array *arr, int n) noexcept:
    """Strides of a fresh result: channels-last where an elementwise op's first 4-D operand is."""
    cdef int k
    if op.like and y.ndim == 4:
        for k in range(n):
            if arr[k].dtype != PN_NONE and same_shape(y, &arr[k]):
                if is_nhwc(&arr[k]) and not is_dense(&arr[k]):
                    nhwc_strides(y)
                    return
                break
    dense_strides(y)


cdef list conform(OpBase op, pn_array *arr, int n):
    """Dense copies, held by the list, of those of arr[:n] that are not row-major."""
    cdef list held = []
    cdef TensorBase t
    cdef int k
    for k in range(n):
        if arr[k].dtype != PN_NONE and not is_dense(&arr[k]):
            t = dense_copy(&arr[k])
            arr[k] = t.a
            held.append(t)
    return held


cdef TensorBase dense_copy(const pn_array *a):
    cdef TensorBase t = empty_like_array(a, a.dtype)
    copy_into(a, &t.a)
    return t


cdef int copy_into(const pn_array *src, const pn_array *dst) except -1:
    """dst = src, both of one shape, any dtypes and strides."""
    cdef pn_array[2] arr
    cdef int64_t n = size_of(src)
    if n == 0:
        return 0
    arr[0] = src[0]
    arr[1] = dst[0]
    launch(core_op(OP_COPY), arr, 2, _no_params, src.dtype, NULL, n)
    return 0


cdef int launch(OpBase op, pn_array *arr, int n_arg, dict params, int dtype, Dims *dims, int64_t n_out) except -1:
    """Runs op's kernel on arr, which has room for one more array (scratch)."""
    cdef pn_call c
    cdef pn_value[12] par
    cdef pn_fn fn
    cdef pn_scratch_fn scratch_fn
    cdef Storage scratch = None
    cdef int64_t need
    if op.py_kernel is not None:
        return launch_python(op, arr, params)
    if dtype == PN_NONE:  # indices, bools, or arguments of any dtype alone: the first result tells the form
        dtype = arr[op.n_in].dtype if op.n_out > 0 else PN_F32
    fn = pn_kernel_fn(op.kernel_id, dtype)
    if fn == NULL:
        raise TypeError(f"{op.name}: expected a floating dtype, got {_dtypes[dtype]}")
    fill_params(op, params, par)
    memset(&c.err, 0, sizeof(pn_error))
    c.arg = arr
    c.par = par
    c.n_arg = n_arg
    c.lock = 0
    c.n_worker = pn_max_workers()
    if op.has_scratch:
        scratch_fn = pn_kernel_scratch(op.kernel_id, dtype)
        need = scratch_fn(&c)
        arr[n_arg].dtype = PN_U8
        arr[n_arg].ndim = 1
        arr[n_arg].shape[0] = need
        arr[n_arg].strides[0] = 1
        arr[n_arg].data = NULL
        if need > 0:
            scratch = new_storage(need)
            arr[n_arg].data = scratch.data
        c.n_arg += 1
    run_kernel(fn, &c, call_cost(op, dims, arr, n_arg, n_out) if dims != NULL else n_out * 1.0)
    if c.err.code != PN_OK:
        kernel_error(op, &c, dims)
    if pn_anomaly:
        check_finite(op, &arr[op.n_in], n_arg - op.n_in)
    return 0


cdef inline void run_kernel(pn_fn fn, pn_call *c, double cost) noexcept:
    if cost > GIL_NS:
        with nogil:
            fn(c)
    else:
        fn(c)


cdef object array_view(const pn_array *a):
    """a as a NumPy array, for kernels written in Python; valid during the call only."""
    cdef cnp.npy_intp[8] dims
    cdef cnp.npy_intp[8] steps
    cdef int d
    if a.dtype == PN_NONE:
        return None
    for d in range(a.ndim):
        dims[d] = a.shape[d]
        steps[d] = a.strides[d] * ITEMSIZE[a.dtype]
    return cnp.PyArray_New(cnp.ndarray, a.ndim, dims, NPY_OF[a.dtype], steps, a.data, 0, cnp.NPY_ARRAY_WRITEABLE, None)


cdef int launch_python(OpBase op, const pn_array *arr, dict params) except -1:
    """A user's kernel: kernel(outs, ins, **params) on NumPy arrays; what is not wanted is None.

    It works on copies, so that an array that it keeps never looks at memory that was given back.
    """
    cdef int k
    cdef list ins = [private_array(&arr[k], True) for k in range(op.n_in)]
    cdef list outs = [private_array(&arr[op.n_in + k], False) for k in range(op.n_out)]
    op.py_kernel(outs, ins, **params)
    for k in range(op.n_out):
        if outs[k] is not None:
            np.copyto(array_view(&arr[op.n_in + k]), outs[k])
    return 0


cdef object private_array(const pn_array *a, bint filled):
    """A NumPy array of its own of a's shape and dtype, read-only with a's values where filled."""
    cdef object view = array_view(a), own
    if view is None:
        return None
    if not filled:
        return np.empty_like(view)
    own = view.copy()
    own.flags.writeable = False
    return own


cdef object apply_view(OpBase op, tuple args, dict params):
    """The value of a view op: x's storage through another shape and strides."""
    cdef TensorBase x, y, dense = None
    cdef pn_array to
    cdef int64_t nbytes
    if len(args) != 1 or not isinstance(args[0], TensorBase):
        raise TypeError(f"{op.name}: argument 'x': expected a Tensor, got {[type(a).__name__ for a in args]}")
    x = args[0]
    y = blank()
    if op.view_kind == V_ALIAS:
        y.a = x.a
    elif op.view_kind == V_PERMUTE:
        permuted(&x.a, sizes_in(op, params, "axes"), &y.a)
    elif op.view_kind == V_SLICE:
        sliced(&x.a, sizes_in(op, params, "begin"), sizes_in(op, params, "shape"), sizes_in(op, params, "step"), &y.a)
    elif op.view_kind == V_EXPAND:
        to.dtype = x.a.dtype
        set_shape(&to, sizes_in(op, params, "shape"))
        if not expanded(&x.a, &to, &y.a):
            raise ValueError(f"expand: argument 'shape': expected a shape that {x.shape} broadcasts to, "
                             f"got {shown(params['shape'])}")
    else:
        reshape_target(&x.a, sizes_in(op, params, "shape"), &y.a)
        if not reshaped(&x.a, &y.a):
            dense = dense_copy(&x.a)
            reshaped(&dense.a, &y.a)
    if op.view_kind != V_ALIAS and op.view_kind != V_PERMUTE:
        checked_bytes(&y.a, &nbytes)  # 2³² × 2³² must not count as 0 elements
    y.storage = x.storage if dense is None else dense.storage
    if not pn_grad_off and (x.node is not None or x.leaf_grad):
        record(op, (x,), params, [y], 0, 0)
    return y


# ---- effects over lists of tensors ---------------------------------------------------------------

cdef extern from "stdlib.h" nogil:
    void *malloc(size_t)
    void free(void *)


cdef class ListCall:
    """The arrays of one call of a list effect: the single tensors, then the rows of one floating dtype."""
    cdef pn_array *arr           # room for every row and for scratch
    cdef int64_t n_arg, n_row, size
    cdef list held, back, written

    def __dealloc__(self):
        free(self.arr)


def run_list(OpBase op not None, tuple fixed not None, rows, dict params not None):
    """Runs a list effect on every row in one call, or in two where rows of both floating dtypes occur.

    fixed holds the entry's single tensors in the entry's order, a row (a tuple) those whose names end in
    `_list`: 0-d ones for state that counts, and large ones of one shape and dtype. The kernel gets
    these in one dense order of memory, that of the first one written; what lies otherwise goes through
    a copy, and back. Everything is checked before anything is written.
    """
    cdef int lead = lead_column(op), needed = needed_columns(op, params), dtype
    cdef list calls = [None, None]
    cdef TensorBase head
    cdef object row
    if op.n_in == op.n_fixed or op.kernel_id < 0:
        raise TypeError(f"{op.name}: expected an effect over lists of tensors")
    if len(fixed) != op.n_fixed:
        raise TypeError(f"{op.name}: expected {op.n_fixed} single tensors, got {len(fixed)}")
    rows = tuple(rows)  # a list of the caller's may change while this runs
    for row in rows:
        if not isinstance(row, tuple) or len(<tuple>row) != op.n_in - op.n_fixed:
            raise TypeError(f"{op.name}: expected rows of {op.n_in - op.n_fixed} tensors, got "
                            f"{len(row) if isinstance(row, tuple) else type(row).__name__}")
        head = member_of(op, op.list_order[op.n_fixed + lead], <object>PyTuple_GET_ITEM(row, lead))
        if head.a.dtype > PN_F64:
            raise TypeError(f"{op.name}: argument '{op.in_names[op.list_order[op.n_fixed + lead]]}': "
                            f"expected a floating dtype, got {head.dtype}")
        dtype = head.a.dtype
        if calls[dtype] is None:
            calls[dtype] = start_list(op, fixed, len(rows))
        put_row(op, <ListCall>calls[dtype], <tuple>row, head, needed)
    for dtype in range(2):
        if calls[dtype] is not None:
            launch_list(op, <ListCall>calls[dtype], params, dtype)


cdef int needed_columns(OpBase op, dict params) except -1:
    """Bit mask of the optional inputs that these parameters ask for."""
    cdef int k, mask = 0
    for k, name in op.needs:
        if params[name]:
            mask |= 1 << k
    return mask


cdef TensorBase member_of(OpBase op, int k, object t):
    if not isinstance(t, TensorBase):
        raise TypeError(f"{op.name}: argument '{op.in_names[k]}': expected a Tensor, got {type(t).__name__}")
    check_values(<TensorBase>t)
    return <TensorBase>t


cdef inline bint is_written(OpBase op, int k) noexcept:
    return k >= op.n_in - op.n_write


cdef int lead_column(OpBase op) noexcept:
    """The column whose tensors set shape, dtype and layout of their rows: the first one written, or the first."""
    cdef int j
    for j in range(op.n_in - op.n_fixed):
        if is_written(op, op.list_order[op.n_fixed + j]):
            return j
    return 0


cdef ListCall start_list(OpBase op, tuple fixed, int64_t n_rows):
    """A call that holds the single tensors, with room for the rows."""
    cdef ListCall call = ListCall.__new__(ListCall)
    cdef int j, k
    call.held, call.back, call.written = [], [], []
    call.arr = <pn_array *>malloc((op.n_fixed + n_rows * (op.n_in - op.n_fixed) + 1) * sizeof(pn_array))
    if call.arr == NULL:
        raise MemoryError(f"{op.name}: out of memory")
    for j in range(op.n_fixed):
        k = op.list_order[j]
        put_number(op, k, member_of(op, k, fixed[j]), &call.arr[j], call.held)
        if is_written(op, k):
            call.written.append((<TensorBase>fixed[j]).storage)
    call.n_arg = op.n_fixed
    return call


cdef int put_row(OpBase op, ListCall call, tuple row, TensorBase head, int needed) except -1:
    """Adds a row, whose tensors are of head's shape and dtype."""
    cdef pn_array want
    cdef int j, k
    cdef object member
    pack_like(&head.a, &want)
    for j in range(op.n_in - op.n_fixed):
        k = op.list_order[op.n_fixed + j]
        member = <object>PyTuple_GET_ITEM(row, j)
        if member is None and needed & (1 << k):
            raise ValueError(f"{op.name}: argument '{op.in_names[k]}': expected a Tensor, which "
                             f"{' and '.join([p for i, p in op.needs if i == k])} asks for, got None")
        put_member(op, k, member, &want, &call.arr[call.n_arg], call.held, call.back)
        call.n_arg += 1
        if is_written(op, k) and member is not None:
            call.written.append((<TensorBase>member).storage)
    call.n_row += 1
    call.size += size_of(&want)
    return 0


cdef int launch_list(OpBase op, ListCall call, dict params, int dtype) except -1:
    """Runs the kernel on the rows, and marks what it wrote."""
    cdef int width = op.n_in - op.n_fixed, j
    cdef int64_t i
    cdef TensorBase head
    cdef Storage s
    launch_rows(op, call.arr, call.n_arg, params, dtype, call.size)
    for head, copy in call.back:
        copy_into(&(<TensorBase>copy).a, &head.a)
    for s in call.written:
        s.version = tick()
    if pn_anomaly:
        for i in range(call.n_row):
            for j in range(width):
                if is_written(op, op.list_order[op.n_fixed + j]):
                    check_finite(op, &call.arr[op.n_fixed + i * width + j], 1)
    return 0


cdef int launch_rows(OpBase op, pn_array *arr, int64_t n_arg, dict params, int dtype, int64_t n) except -1:
    """Runs the kernel on arr, which has room for scratch behind its n_arg arrays."""
    cdef pn_call c
    cdef pn_value[12] par
    cdef Storage scratch
    cdef int64_t need
    fill_params(op, params, par)
    memset(&c.err, 0, sizeof(pn_error))
    c.arg, c.par, c.n_arg, c.lock, c.n_worker = arr, par, n_arg, 0, pn_max_workers()
    if op.has_scratch:
        need = pn_kernel_scratch(op.kernel_id, dtype)(&c)
        scratch = new_storage(need)
        memset(&arr[n_arg], 0, sizeof(pn_array))
        arr[n_arg].dtype = PN_U8
        arr[n_arg].data = scratch.data
        c.n_arg += 1
    run_kernel(pn_kernel_fn(op.kernel_id, dtype), &c, call_cost(op, NULL, arr, n_arg, n))
    if c.err.code != PN_OK:
        raise RuntimeError(f"{op.name}: the kernel reported {c.err.code} for argument {c.err.arg}")
    return 0


cdef int put_number(OpBase op, int k, TensorBase t, pn_array *to, list held) except -1:
    """t, a 0-d floating tensor, as argument k."""
    if t.a.ndim != 0 or t.a.dtype > PN_F64:
        raise ValueError(f"{op.name}: argument '{op.in_names[k]}': expected a 0-d floating tensor, "
                         f"got shape {t.shape} and dtype {t.dtype}")
    if is_written(op, k):
        check_writable(t, op.name)
    held.append(t.storage)
    to[0] = t.a
    return 0


cdef int put_member(OpBase op, int k, object member, const pn_array *want, pn_array *to,
                    list held, list back) except -1:
    """A member of a row as the kernel may see it: where it does not lie as `want` says, a copy."""
    cdef TensorBase t, copy
    if member is None:
        if not op.spec[k].optional:
            raise TypeError(f"{op.name}: argument '{op.in_names[k]}': expected a Tensor, got None")
        to.dtype = PN_NONE
        to.data = NULL
        to.ndim = 0
        return 0
    t = member_of(op, k, member)
    if op.spec[k].n_dims == 0 and op.spec[k].ell < 0:
        return put_number(op, k, t, to, held)
    if not same_shape(&t.a, want) or t.a.dtype != want.dtype:
        raise ValueError(f"{op.name}: argument '{op.in_names[k]}': expected shape {shape_tuple(want)} and dtype "
                         f"{_dtypes[want.dtype]}, got {t.shape} and {t.dtype}")
    if is_written(op, k):
        check_writable(t, op.name)
    if same_steps(&t.a, want):
        held.append(t.storage)
        to[0] = t.a
        return 0
    copy = blank()
    copy.a = want[0]
    allocate(copy)
    copy_into(&t.a, &copy.a)
    to[0] = copy.a
    held.append(copy)
    if is_written(op, k):
        check_distinct(op, k, t)
        back.append((t, copy))
    return 0


cdef int check_distinct(OpBase op, int k, TensorBase t) except -1:
    """Raises where several elements of what is written share one place in memory."""
    cdef int d
    for d in range(t.a.ndim):
        if t.a.shape[d] > 1 and t.a.strides[d] == 0:
            raise ValueError(f"{op.name}: argument '{op.in_names[k]}' is written, and dimension {d} of its shape "
                             f"{t.shape} repeats the same memory; use x.clone()")
    return 0
