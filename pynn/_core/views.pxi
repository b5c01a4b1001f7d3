# Views: ops without a kernel, which look at the same storage through another shape and strides.

cdef enum:
    NO_VIEW, V_ALIAS, V_PERMUTE, V_EXPAND, V_SLICE, V_RESHAPE

cdef dict VIEW_KINDS = {"alias": V_ALIAS, "permute": V_PERMUTE, "expand": V_EXPAND, "slice": V_SLICE,
                        "reshape": V_RESHAPE}


cdef int as_axis(object v, int n, tuple axes) except -2:
    """A number of 0 .. n - 1, or one that counts from the end; -1 for any other."""
    try:
        v = PyNumber_Index(v)
    except TypeError:
        raise TypeError(f"permute: argument 'axes': expected integers, got {shown(axes)}") from None
    return v % n if -n <= v < n else -1


cdef int permuted(const pn_array *x, tuple axes, pn_array *y) except -1:
    cdef int d, k
    cdef int seen = 0
    y[0] = x[0]
    if len(axes) != x.ndim:
        raise ValueError(f"permute: argument 'axes': expected {x.ndim} axes for shape {shape_tuple(x)}, got {axes}")
    for k in range(x.ndim):
        d = as_axis(axes[k], x.ndim, axes)
        if d < 0 or seen & (1 << d):
            raise ValueError(f"permute: argument 'axes': expected a permutation of {x.ndim} axes, got {shown(axes)}")
        seen |= 1 << d
        y.shape[k] = x.shape[d]
        y.strides[k] = x.strides[d]
    return 0


cdef bint expanded(const pn_array *x, const pn_array *to, pn_array *y) noexcept nogil:
    """y is x with to's shape, stride 0 where it is repeated. False where x does not broadcast."""
    cdef int d, k, off = to.ndim - x.ndim
    if off < 0:
        return False
    y.data = x.data
    y.dtype = x.dtype
    y.ndim = to.ndim
    for d in range(to.ndim):
        k = d - off
        y.shape[d] = to.shape[d]
        if k < 0:
            y.strides[d] = 0
        elif x.shape[k] == to.shape[d]:
            y.strides[d] = x.strides[k]
        elif x.shape[k] == 1:
            y.strides[d] = 0
        else:
            return False
    return True


cdef bint reshaped(const pn_array *x, pn_array *y) noexcept nogil:
    """Strides of y, whose shape is set and whose size is x's, on x's memory. False where none exist.

    Walks the dimensions > 1 of both from the last: a group of x's dimensions that is dense among
    itself may be cut anew.
    """
    cdef int i = x.ndim - 1, j = y.ndim - 1, k
    cdef int64_t have, want, step
    y.data = x.data
    y.dtype = x.dtype
    if size_of(x) == 0:
        dense_strides(y)
        return True
    while True:
        while i >= 0 and x.shape[i] == 1:
            i -= 1
        while j >= 0 and y.shape[j] == 1:
            y.strides[j] = 1
            j -= 1
        if i < 0 or j < 0:
            return True
        have = x.shape[i]
        step = x.strides[i]
        want = y.shape[j]
        y.strides[j] = step
        while have != want:
            if want < have:
                j -= 1
                y.strides[j] = step * want
                want *= y.shape[j]
            else:
                k = i - 1
                while x.shape[k] == 1:
                    k -= 1
                if x.strides[k] != step * have:
                    return False
                i = k
                have *= x.shape[i]
        i -= 1
        j -= 1


cdef int reshape_target(const pn_array *x, tuple shape, pn_array *y) except -1:
    """y's shape from shape, in which one -1 stands for what is left."""
    cdef int64_t known = 1, n = size_of(x)
    cdef int d, hole = -1
    cdef bint over = False
    if len(shape) > PN_MAXDIM:
        raise ValueError(f"reshape: argument 'shape': expected at most {PN_MAXDIM} dimensions, got {shown(shape)}")
    y.ndim = len(shape)
    for d in range(y.ndim):
        y.shape[d] = as_int(shape[d], "reshape: argument 'shape'")
        if y.shape[d] == -1 and hole < 0:
            hole = d
        elif y.shape[d] < 0:
            raise ValueError(f"reshape: argument 'shape': expected sizes >= 0 and at most one -1, got {shown(shape)}")
        else:
            over = pn_mul_overflow(known, y.shape[d], &known) or over
    if 0 in shape:
        known, over = 0, False
    if over:
        known = -1
    if hole >= 0 and known > 0 and n % known == 0:
        y.shape[hole] = n // known
        known = n
    if known != n or (hole >= 0 and y.shape[hole] < 0):
        raise ValueError(f"reshape: argument 'shape': expected {n} elements as in {shape_tuple(x)}, got {shown(shape)}")
    return 0


cdef int sliced(const pn_array *x, tuple begin, tuple shape, tuple step, pn_array *y) except -1:
    """Elements begin + i*step, i in [0, shape), along each dimension; bounds were checked by the caller."""
    cdef int d
    cdef int64_t b, s, n, last, off = 0
    y[0] = x[0]
    if not (len(begin) == len(shape) == len(step) == x.ndim):
        raise ValueError(f"slice: expected {x.ndim} entries for shape {shape_tuple(x)}, got {begin}, {shape}, {step}")
    for d in range(x.ndim):
        b = as_int(begin[d], "slice: argument 'begin'")
        s = as_int(step[d], "slice: argument 'step'")
        n = as_int(shape[d], "slice: argument 'shape'")
        if n < 0 or (n > 0 and (not 0 <= b < x.shape[d] or pn_mul_overflow(n - 1, s, &last) or
                                not -b <= last < x.shape[d] - b)):
            raise IndexError(f"slice: {n} elements from {b} by {s} leave dimension {d} of size {x.shape[d]}")
        y.shape[d] = n
        y.strides[d] = x.strides[d] * s
        if n > 0:
            off += b * x.strides[d]
    y.data = <char *>x.data + off * ITEMSIZE[x.dtype]
    return 0


cdef bint is_packed(const pn_array *a) noexcept nogil:
    """Without gaps or overlaps in memory, whatever the order of the dimensions."""
    cdef int64_t n = 1
    cdef int d, found
    cdef int done = 0  # bit mask
    for d in range(a.ndim):
        if a.shape[d] == 0:
            return True
        if a.shape[d] == 1:
            done |= 1 << d
    while done != (1 << a.ndim) - 1:
        found = -1
        for d in range(a.ndim):
            if not done & (1 << d) and a.strides[d] == n:
                found = d
        if found < 0:
            return False
        done |= 1 << found
        n *= a.shape[found]
    return True
