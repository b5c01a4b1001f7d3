# apply(): the one way from Tensors to a kernel. Converts, checks shapes, allocates outputs, runs the
# kernel, records the node. Effects take the same way but record nothing and bump what they write.

cdef double GIL_NS = 50e3  # the GIL is released where a kernel is estimated to take longer
cdef dict _no_params = {}

# ops that the engine itself calls
cdef enum:
    OP_ADD, OP_SUB, OP_MUL, OP_DIV, OP_MATMUL, OP_SUM_TO, OP_CAST, OP_COPY, OP_ALIAS, OP_ZEROS, OP_ACCUMULATE, N_CORE
cdef list CORE_NAMES = [
    "add", "sub", "mul", "div", "matmul", "sum_to", "cast", "copy", "alias", "zeros", "accumulate_"]
cdef list _core_ops = [None] * N_CORE


def bind_core(registry):
    """Gives the engine the entries that it calls by itself."""
    for k, name in enumerate(CORE_NAMES):
        _core_ops[k] = registry[name]


cdef inline OpBase core_op(int which):
    return <OpBase>_core_ops[which]


cdef inline object operate(int which, object a, object b):
    """The value of an operator of Python's: an op of two arguments and no parameters."""
    return apply(core_op(which), (a, b), _no_params)


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
        if k < len(args) and args[k] is None and op.spec[k].optional:
            continue
        if k >= len(args) or xs[k] is not args[k]:
            raise TypeError(f"{op.name}: argument '{op.in_names[k]}' is written: expected a Tensor of dtype "
                            f"{_dtypes[(<TensorBase>xs[k]).a.dtype] if xs[k] is not None else 'its own'}, got "
                            f"{args[k].dtype if k < len(args) and isinstance(args[k], TensorBase) else 'no Tensor'}")
    return 0


cdef object execute(OpBase op, tuple xs, dict params, int dtype):
    cdef pn_array[MAX_ARG + 1] arr
    cdef Dims dims
    cdef list held = None, apart = None
    cdef tuple outs, memory = PyTuple_New(op.n_in)  # another thread may give x other memory while the kernel runs
    cdef TensorBase x
    cdef object t
    cdef int k
    cdef int64_t total = 0
    for k in range(op.n_in):
        t = <object>PyTuple_GET_ITEM(xs, k)
        if t is None:
            arr[k].dtype = PN_NONE
            arr[k].data = NULL
            arr[k].ndim = 0
        else:
            x = <TensorBase>t
            if x.storage is None and op is not core_op(OP_ZEROS):
                check_values(x)
            t = x.storage
            if pn_rec != NULL:
                (<Recorder>pn_rec).see_tensor(x)
            arr[k] = x.a
        Py_INCREF(t)
        PyTuple_SET_ITEM(memory, k, t)
    match_inputs(op, arr, params, &dims)
    for k in range(op.n_in):
        if arr[k].dtype != PN_NONE:
            broadcast_input(&op.spec[k], &dims, &arr[k])
    if op.n_write:
        check_written(op, xs, arr)
        apart = separate(op, xs, arr)
    outs = make_outs(op, xs, arr, params, dtype, &dims)
    for k in range(op.n_out):
        x = <TensorBase>PyTuple_GET_ITEM(outs, k)
        arr[op.n_in + k] = x.a
        total += size_of(&x.a)
    if op.order != ANY_ORDER:
        held = conform(op, arr, op.n_in - op.n_write)
    if total > 0 or op.n_out == 0 or has_indices(op, arr):
        launch(op, arr, op.n_in + op.n_out, params, dtype, &dims, total)
    if op.n_write:
        for k in range(op.n_in - op.n_write, op.n_in):
            if xs[k] is not None:
                (<TensorBase>xs[k]).storage.version = tick()
        if op.n_out == 0:
            return None
    elif not pn_grad_off and wants_grad(op, xs):
        record(op, xs, params, outs, op.save_in, op.save_out)
    return outs[0] if op.n_out == 1 else outs


cdef bint has_indices(OpBase op, const pn_array *arr) noexcept:
    """Whether there are indices to be checked, be the outputs empty or not."""
    cdef int k
    for k in range(op.n_in):
        if op.spec[k].bound >= 0 and arr[k].dtype != PN_NONE and size_of(&arr[k]) > 0:
            return True
    return False


cdef inline int see_all(list xs) except -1:
    """Enters what xs hold in the recording, if there is one."""
    if pn_rec != NULL:
        for x in xs:
            if x is not None:
                (<Recorder>pn_rec).see((<TensorBase>x).storage)
    return 0


cdef int check_written(OpBase op, tuple xs, const pn_array *arr) except -1:
    cdef TensorBase x
    cdef int k
    for k in range(op.n_in - op.n_write, op.n_in):
        if xs[k] is None:
            continue
        x = xs[k]
        check_writable(x, op.name)
        if not same_shape(&x.a, &arr[k]):
            raise ValueError(f"{op.name}: argument '{op.in_names[k]}' is written and cannot be broadcast from "
                             f"{x.shape} to {shape_tuple(&arr[k])}")
        check_distinct(op, k, x)
        if op.order != ANY_ORDER and not is_dense(&x.a):
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
            if (xs[k] is not None and xs[w] is not None
                    and share_memory((<TensorBase>xs[k]).storage, (<TensorBase>xs[w]).storage)
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


cdef tuple make_outs(OpBase op, tuple xs, const pn_array *arr, dict params, int dtype, Dims *dims):
    """Fresh outputs of the shapes, dtypes and layout that the entry promises."""
    cdef tuple outs = PyTuple_New(op.n_out)
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
        Py_INCREF(y)
        PyTuple_SET_ITEM(outs, k, y)
    return outs


cdef int unknown_size(OpBase op, int k) except -1:
    raise ValueError(f"{op.name}: the arguments given do not tell the shape {spec_text(op, k)} of its output "
                     f"'{op.out_names[k - op.n_in]}'")


cdef void lay_out(OpBase op, pn_array *y, const pn_array *arr, int n) noexcept:
    """Strides of a fresh result: channels-last where the entry says so, or an elementwise op's first 4-D operand is."""
    cdef int k
    if op.order == CHANNELS_LAST and y.ndim == 4:
        nhwc_strides(y)
        return
    if op.like and y.ndim == 4:
        for k in range(n):
            if arr[k].dtype != PN_NONE and same_shape(y, &arr[k]):
                if is_nhwc(&arr[k]) and not is_dense(&arr[k]):
                    nhwc_strides(y)
                    return
                break
    dense_strides(y)


cdef list conform(OpBase op, pn_array *arr, int n):
    """Copies, held by the list, of those of arr[:n] that are not laid out as the entry asks."""
    cdef list held = []
    cdef TensorBase t
    cdef int k
    for k in range(n):
        if arr[k].dtype == PN_NONE:
            continue
        if op.order == CHANNELS_LAST and arr[k].ndim == 4:
            if is_nhwc(&arr[k]):
                nhwc_strides(&arr[k])  # as a kernel expects them, also along dimensions of size 1
                continue
            t = blank()
            t.a = arr[k]
            nhwc_strides(&t.a)
            allocate(t)
            copy_into(&arr[k], &t.a)
        elif is_dense(&arr[k]):
            continue
        else:
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
    cdef bint recording = pn_rec != NULL
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
    c.ask = NULL
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
    cdef double cost = call_cost(op, dims, arr, n_arg, n_out) if dims != NULL else n_out * 1.0
    if recording and op.n_write:
        (<Recorder>pn_rec).before(op, arr, c.n_arg)
    run_kernel(fn, &c, cost)
    if c.err.code != PN_OK:
        kernel_error(op, &c, dims)
    if recording:
        (<Recorder>pn_rec).write(op, fn, &c, <int>len(op.par_names), cost, dims)
    if pn_anomaly:
        check_finite(op, &arr[op.n_in], n_arg - op.n_in)
    return 0


def flops_of(OpBase op, tuple xs, dict params, int64_t n_out):
    """The entry's flops for op(*xs, **params), whose first output has n_out elements; xs may have None."""
    cdef pn_array[MAX_ARG] arr
    cdef Dims dims
    cdef int k
    if len(xs) != op.n_in:
        raise TypeError(f"flops_of: expected the {op.n_in} arguments of {op.name}, got {len(xs)}")
    for k in range(op.n_in):
        if xs[k] is None:
            arr[k].dtype = PN_NONE
        else:
            arr[k] = (<TensorBase?>xs[k]).a
    match_inputs(op, arr, merged(op, params), &dims)
    return count_flops(op, &dims, n_out)


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
    not_recordable(f"'{op.name}' has a kernel written in Python")
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
            if pn_rec != NULL:
                (<Recorder>pn_rec).see(x.storage)
            dense = dense_copy(&x.a)
            reshaped(&dense.a, &y.a)
    if op.view_kind != V_ALIAS and op.view_kind != V_PERMUTE:
        checked_bytes(&y.a, &nbytes)  # 2³² × 2³² must not count as 0 elements
    y.storage = x.storage if dense is None else dense.storage
    if not pn_grad_off and (x.node is not None or x.leaf_grad):
        record(op, (x,), params, (y,), 0, 0)
    return y
