# Effects over lists of tensors: one call of a kernel for all parameters of an optimizer.

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
    c.ask = NULL
    if op.has_scratch:
        need = pn_kernel_scratch(op.kernel_id, dtype)(&c)
        scratch = new_storage(need)
        memset(&arr[n_arg], 0, sizeof(pn_array))
        arr[n_arg].dtype = PN_U8
        arr[n_arg].data = scratch.data
        c.n_arg += 1
    cdef double cost = call_cost(op, NULL, arr, n_arg, n)
    if pn_rec != NULL:
        (<Recorder>pn_rec).before(op, arr, c.n_arg)
    run_kernel(pn_kernel_fn(op.kernel_id, dtype), &c, cost)
    if c.err.code != PN_OK:
        raise RuntimeError(f"{op.name}: the kernel reported {c.err.code} for argument {c.err.arg}")
    if pn_rec != NULL:
        (<Recorder>pn_rec).write(op, pn_kernel_fn(op.kernel_id, dtype), &c, <int>len(op.par_names), cost, NULL)
    return 0


cdef int put_number(OpBase op, int k, TensorBase t, pn_array *to, list held) except -1:
    """t, a 0-d floating tensor, as argument k."""
    if t.a.ndim != 0 or t.a.dtype > PN_F64:
        raise ValueError(f"{op.name}: argument '{op.in_names[k]}': expected a 0-d floating tensor, "
                         f"got shape {t.shape} and dtype {t.dtype}")
    if is_written(op, k):
        check_writable(t, op.name)
    if pn_rec != NULL:
        (<Recorder>pn_rec).see(t.storage)
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
    if pn_rec != NULL:
        (<Recorder>pn_rec).see_tensor(t)
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
