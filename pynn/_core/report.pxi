# What a kernel reported, and what it made, as exceptions that name op, argument and place.


cdef int kernel_error(OpBase op, const pn_call *c, const Dims *dims) except -1:
    """Raises what a kernel reported."""
    cdef pn_array *a
    cdef pn_array one
    cdef int k = c.err.arg, d
    cdef int64_t i = c.err.index, off = 0
    cdef list place = []
    cdef object value = c.err.value
    if c.err.code == PN_E_MEMORY:
        raise MemoryError(f"{op.name}: out of memory")
    names = op.in_names + op.out_names
    a = &c.arg[k]
    for d in range(a.ndim - 1, -1, -1):
        place.insert(0, i % a.shape[d])
        off += i % a.shape[d] * a.strides[d]
        i //= a.shape[d]
    where = f"[{', '.join(map(str, place))}]" if place else ""
    if a.dtype > PN_F64:  # the kernel tells a double, which rounds integers beyond 2⁵³
        one.dtype = a.dtype
        one.data = <char *>a.data + off * ITEMSIZE[a.dtype]
        exact = int(read_scalar(&one))
        value = exact if float(exact) == value else int(value)
    bound = getattr(op, "valid", _no_params).get(names[k], "a valid value")
    if dims != NULL and op.spec[k].bound >= 0:
        bound = f"0 <= value < {dims.sym[op.spec[k].bound]}"
    text = f"{op.name}: argument '{names[k]}': expected {bound}, got {value} at {names[k]}{where}"
    if c.err.code == PN_E_INDEX:
        raise IndexError(text)
    raise ValueError(text)


cdef int check_finite(OpBase op, const pn_array *arr, int n) except -1:
    cdef int k
    for k in range(n):
        a = array_view(&arr[k])
        if a is not None and a.dtype.kind == "f" and not np.isfinite(a).all():
            bad = "NaN" if np.isnan(a).any() else "Inf"
            raise FloatingPointError(f"detect_anomaly: {op.name} made {bad} in its output of shape {a.shape}")
    return 0
