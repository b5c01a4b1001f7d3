# Python's numbers at the door: taken as they are, or an error that names who was given them.

from cpython.long cimport PyLong_AsLongLongAndOverflow
from cpython.number cimport PyNumber_Index

# what the integer dtypes hold, by PN tag less PN_I64
cdef tuple _int_ranges = tuple([(int(np.iinfo(d).min), int(np.iinfo(d).max)) for d in _dtypes[PN_I64:PN_BOOL]])


cpdef str shown(object v):
    """v for an error message, whatever it is: Python refuses to print integers of thousands of digits."""
    try:
        text = repr(v)
    except Exception:
        if isinstance(v, int):
            return f"an integer of {v.bit_length()} bits"
        return f"an object of type {type(v).__name__} that cannot be printed"
    return text if len(text) <= 200 else text[:200] + "…"


cdef object type_or_range(str what, object v):
    """The error for a v that is no number, or one beyond float64."""
    if isinstance(v, int):
        return OverflowError(f"{what}: expected a number within the range of float64, got {shown(v)}")
    return TypeError(f"{what}: expected a number, got {shown(v)}")


cdef int64_t as_int(object v, str what) except? -1:
    """An integer as int64; TypeError and OverflowError begin with `what`."""
    cdef int over = 0
    cdef int64_t n
    try:
        v = PyNumber_Index(v)
    except TypeError:
        raise TypeError(f"{what}: expected an integer, got {shown(v)}") from None
    n = PyLong_AsLongLongAndOverflow(v, &over)
    if over:
        raise OverflowError(f"{what}: expected an integer of at most 64 bits, got {shown(v)}")
    return n


cdef int64_t as_size(object v, object shape) except -1:
    """One size of a shape: an integer >= 0."""
    cdef int over = 0
    cdef int64_t n
    try:
        v = PyNumber_Index(v)
    except TypeError:
        raise ValueError(f"shape: expected non-negative integers, got {shown(shape)}") from None
    n = PyLong_AsLongLongAndOverflow(v, &over)
    if over > 0:
        raise MemoryError(f"pynn: a tensor of shape {shown(shape)} does not fit into memory")
    if n < 0:
        raise ValueError(f"shape: expected non-negative integers, got {shown(shape)}")
    return n


cdef int refuse_mask(data, str what) except -1:
    """Raises for NumPy's masked arrays: a tensor has no mask, and what it hides is no value."""
    if type(data) is not np.ndarray and isinstance(data, np.ndarray) and hasattr(data, "mask"):
        raise TypeError(f"{what}: expected an array without a mask, got {type(data).__name__}; use its filled(value)")
    return 0


cdef int side_of(object v, int dtype) except -2:
    """-1 or 1 where the integer v lies below or above what an integer dtype holds, else 0."""
    if dtype < PN_I64 or dtype > PN_U8 or not isinstance(v, int):
        return 0
    low, high = _int_ranges[dtype - PN_I64]
    return -1 if v < low else 1 if v > high else 0


cdef TensorBase number_input(OpBase op, int k, object v, int dtype):
    """Input k, a Python number, as a 0-d tensor of dtype."""
    if side_of(v, dtype):
        low, high = _int_ranges[dtype - PN_I64]
        raise OverflowError(f"{op.name}: argument '{op.in_names[k]}': expected {low} <= value <= {high} for dtype "
                            f"{_dtypes[dtype]}, got {shown(v)}")
    try:
        return scalar_tensor(v, dtype)
    except OverflowError:
        raise type_or_range(f"{op.name}: argument '{op.in_names[k]}'", v) from None


cdef int compare_beyond(list xs, int dtype) except -1:
    """Of a comparison: a Python integer outside of dtype lies on one side of every value, so that the
    order of 0 and 1 answers for all of them."""
    cdef int k, side
    cdef TensorBase x, y
    for k in range(2):
        side = side_of(xs[k], dtype) if is_number(xs[k]) and isinstance(xs[1 - k], TensorBase) else 0
        if side:
            x = xs[1 - k]
            y = scalar_tensor(side < 0, dtype)
            y.a.ndim = x.a.ndim
            y.a.shape = x.a.shape
            memset(y.a.strides, 0, sizeof(y.a.strides))
            xs[1 - k], xs[k] = y, side > 0
    return 0


cdef int bad_parameter(OpBase op, str name, object v, str expected) except -1:
    raise TypeError(f"{op.name}: argument '{name}': expected {expected}, got {shown(v)}")


cdef int fill_params(OpBase op, dict params, pn_value *par) except -1:
    """A kernel's parameters as its line in kernels.inc orders them; None counts as -1."""
    cdef int k
    cdef str name
    cdef object v
    for k in range(len(op.par_names)):
        name = <str>PyTuple_GET_ITEM(op.par_names, k)
        v = params[name]
        if (<const char *>op.par_kinds)[k] == c'f':
            par[k].f = as_float(op, name, v)
        else:
            par[k].i = -1 if v is None else 1 if v is True else 0 if v is False else as_parameter(op, name, v)
    return 0


cdef double as_float(OpBase op, str name, object v) except? -1:
    try:
        return v
    except (TypeError, OverflowError):
        raise type_or_range(f"{op.name}: argument '{name}'", v) from None


cdef int64_t as_parameter(OpBase op, str name, object v) except? -1:
    cdef int over = 0
    cdef int64_t n = 0
    try:
        v = PyNumber_Index(v)
    except TypeError:
        bad_parameter(op, name, v, "an integer")
    n = PyLong_AsLongLongAndOverflow(v, &over)
    if over:
        raise OverflowError(f"{op.name}: argument '{name}': expected an integer of at most 64 bits, got {shown(v)}")
    return n


cdef int64_t as_dimension(OpBase op, str name, object v) except -1:
    """A parameter that is the size of a dimension."""
    cdef int64_t n = as_parameter(op, name, v)
    if n < 0:
        raise ValueError(f"{op.name}: argument '{name}': expected a size >= 0, got {n}")
    return n


cdef tuple sizes_in(OpBase op, dict params, str name):
    """A parameter that is a tuple of integers, one for each dimension."""
    v = params[name]
    if isinstance(v, tuple):
        return v
    try:
        return tuple(v)
    except TypeError:
        bad_parameter(op, name, v, "a tuple of integers")


cdef int fits_in(int dtype, object arr, str what) except -1:
    """Python's integers do not wrap around silently."""
    low, high = np.iinfo(_dtypes[dtype]).min, np.iinfo(_dtypes[dtype]).max
    for v in (arr.min(), arr.max()):
        if not low <= v <= high:
            raise OverflowError(f"{what}: expected {low} <= value <= {high} for dtype {_dtypes[dtype]}, got {v}")
    return 0
