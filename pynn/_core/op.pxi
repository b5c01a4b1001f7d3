# OpBase: an entry, compiled. pynn/op.py turns an entry's strings into these tables once, at
# registration; here a call's shapes are checked against them and its outputs' shapes inferred.

cdef enum:
    MAX_ARG = 24     # arguments of one op, scratch included
    MAX_SYM = 12     # named dimensions of one op
    MAX_TERM = 6     # summands of a flops expression

# what an argument may hold: T the call's floating dtype; C the same, but a constant for derivatives;
# A the call's dtype, integers included; i int64; b bool; any = its own dtype
cdef struct Spec:
    int n_dims, ell      # named dimensions, and the place of "..." among them (-1: none)
    int[8] sym           # index of the symbol, -1 for a plain number
    int64_t[8] coef      # its factor, or the number
    char kind
    bint optional
    int bound            # symbol below which an index must lie, -1: none

cdef enum:  # the places of pynn.op.LAYOUTS
    ANY_ORDER, ROW_MAJOR, CHANNELS_LAST

cdef struct Dims:
    int64_t[MAX_SYM] sym  # -1 while unbound
    pn_array ell          # the dimensions that "..." stands for, broadcast over the inputs

cdef struct Term:
    double coef
    int n
    int[8] sym            # or one of the T_ below

cdef enum:
    T_OUT = -1    # n: elements of the first output
    T_ITEM = -2   # item: bytes of one of them
    T_ELL = -3    # lead: elements of "..."


cdef class OpBase:
    """A compiled entry. pynn.Op adds what only Python reads."""
    cdef readonly str name
    cdef readonly tuple in_names, out_names, sym_names, par_names
    cdef readonly int n_in, n_out, n_write  # written inputs stand last among the inputs
    cdef readonly int n_fixed       # of a list effect: inputs that are single tensors; the others are columns
    cdef int[MAX_ARG] list_order    # of a list effect: the inputs, the single ones first
    cdef readonly tuple needs       # of a list effect: (input, parameter that asks for it) each
    cdef Spec[MAX_ARG] spec         # inputs, then outputs
    cdef readonly int kernel_id     # -1: no C kernel
    cdef readonly bint has_scratch, promote, like
    cdef readonly int order         # of memory, that the kernel wants
    cdef public bint compares       # a comparison of two inputs: their order alone matters
    cdef readonly bint whole        # an effect that writes its tensors whole, without a look at what they held
    cdef readonly bytes par_kinds
    cdef readonly int view_kind     # 0: not a view
    cdef readonly int save_in, save_out  # bit masks: what backward needs
    cdef int named_max              # the most named dimensions beside a "..."
    cdef int n_term, n_byte_term    # of flops, and of bytes (0: the arguments and results, each once)
    cdef Term[MAX_TERM] term, byte_term
    cdef dict preset
    cdef readonly tuple required    # parameters without a default
    cdef readonly object shape_fn, dtype_fn, py_kernel, vjp, formula
    cdef readonly object bwd        # the derived op of the first-order backward
    cdef readonly OpBase fwd        # on a derived op: what it is the backward of

    @property
    def defaults(self):
        """The parameters' defaults by name; a type stands for a parameter that must be given."""
        return PyDictProxy_New(self.preset)

    def __cinit__(self):  # so that an entry that was never set up can be called: it raises
        self.name = "an op without an entry"
        self.in_names = self.out_names = self.sym_names = self.par_names = self.required = self.needs = ()
        self.par_kinds = b""
        self.preset = {}
        self.kernel_id = -1
        self.promote = True

    def _set_name(self, str name, dict defaults):
        self.name = name
        self.preset = defaults
        self.required = tuple([k for k, v in defaults.items() if isinstance(v, type)])

    def _set_specs(self, ins, outs, sym_names, int n_write=0):
        """ins, outs: (name, [(sym, coef)], ellipsis place, kind, optional, bound) each."""
        cdef int k, d
        self.sym_names = tuple(sym_names)
        self.in_names = tuple([s[0] for s in ins])
        self.out_names = tuple([s[0] for s in outs])
        self.n_in = len(ins)
        self.n_out = len(outs)
        self.n_write = n_write
        self._order_columns()
        if self.n_in + self.n_out >= MAX_ARG or len(sym_names) > MAX_SYM:
            raise ValueError(f"{self.name}: too many arguments or named dimensions")
        for k, (name, dims, ell, kind, optional, bound) in enumerate(list(ins) + list(outs)):
            if len(dims) > PN_MAXDIM:
                raise ValueError(f"{self.name}: argument '{name}' has more than {PN_MAXDIM} dimensions")
            if ell >= 0 and len(dims) > self.named_max:
                self.named_max = len(dims)
            self.spec[k].n_dims = len(dims)
            self.spec[k].ell = ell
            for d, (sym, coef) in enumerate(dims):
                self.spec[k].sym[d] = sym
                self.spec[k].coef[d] = coef
            self.spec[k].kind = ord(kind)
            self.spec[k].optional = optional
            self.spec[k].bound = bound

    def _set_needs(self, needs):
        self.needs = needs

    def _order_columns(self):
        cdef int k, n = 0
        for columns in (False, True):
            for k, name in enumerate(self.in_names):
                if name.endswith("_list") == columns and n < MAX_ARG:
                    self.list_order[n] = k
                    n += 1
            if not columns:
                self.n_fixed = n

    def _set_kernel(self, int kernel_id, par_names, bytes par_kinds, bint has_scratch, int order, bint like,
                    bint promote):
        check_kernel(kernel_id)
        self.kernel_id = kernel_id
        self.par_names = tuple(par_names)
        self.par_kinds = par_kinds
        self.has_scratch = has_scratch
        self.order = order
        self.like = like
        self.promote = promote

    def _set_rules(self, shape_fn, dtype_fn, py_kernel, vjp, formula, int save_in, int save_out, view):
        self.shape_fn = shape_fn
        self.dtype_fn = dtype_fn
        self.py_kernel = py_kernel
        self.vjp = vjp
        self.formula = formula
        self.save_in = save_in
        self.save_out = save_out
        self.view_kind = VIEW_KINDS[view] if view else NO_VIEW

    def _set_whole(self):
        self.whole = True

    def _set_bwd(self, OpBase bwd not None):
        self.bwd = bwd
        bwd.fwd = self

    def _set_flops(self, terms):
        """terms: (coefficient, [symbol index, or one of T_OUT, T_ITEM, T_ELL]) each; the cost is their sum."""
        self.n_term = set_terms(self.name, "flops", terms, self.term)

    def _set_bytes(self, terms):
        self.n_byte_term = set_terms(self.name, "bytes", terms, self.byte_term)

    def __call__(self, *args, **params):
        return apply(self, args, merged(self, params))

    def _apply(self, tuple args, dict params):
        """The call with every parameter given; params is kept and must not change."""
        return apply(self, args, params)

    def __repr__(self):
        return f"<op {self.name}>"


cdef int set_terms(str name, str what, terms, Term *out) except -1:
    cdef int k, d
    if len(terms) > MAX_TERM:
        raise ValueError(f"{name}: {what} has more than {MAX_TERM} summands")
    for k, (coef, syms) in enumerate(terms):
        if len(syms) > 8:
            raise ValueError(f"{name}: {what} has a product of more than 8 factors")
        out[k].coef = coef
        out[k].n = len(syms)
        for d, s in enumerate(syms):
            out[k].sym[d] = s
    return len(terms)


cdef dict merged(OpBase op, dict params):
    """params over the entry's defaults; an unknown name raises."""
    cdef dict p
    for k in op.required:
        if k not in params:
            raise TypeError(f"{op.name}: missing argument '{k}'")
    if not params:
        return op.preset
    p = op.preset.copy()
    for k in params:
        if k not in p:
            raise TypeError(f"{op.name}: unexpected argument {k!r}; expected {', '.join(p) or 'no named arguments'}")
    p.update(params)
    return p


cdef str spec_text(OpBase op, int k):
    """[N,C] of argument k, as the entry writes it."""
    cdef Spec *s = &op.spec[k]
    cdef list parts = []
    cdef int d
    for d in range(s.n_dims + 1):
        if d == s.ell:
            parts.append("...")
        if d < s.n_dims:
            if s.sym[d] < 0:
                parts.append(str(s.coef[d]))
            else:
                parts.append((str(s.coef[d]) if s.coef[d] != 1 else "") + op.sym_names[s.sym[d]])
    return f"[{','.join(parts)}]"


cdef int shape_error(OpBase op, int k, const pn_array *arr, dict params, Dims *dims) except -1:
    cdef const pn_array *a = &arr[k]
    cdef int d
    bind_dims(op, arr, k, params, dims)  # what the arguments before this one say, without what it bound itself
    known = [f"{n}={dims.sym[d]}" for d, n in enumerate(op.sym_names) if dims.sym[d] >= 0 and
             n in spec_text(op, k)]
    if op.spec[k].ell >= 0 and dims.ell.ndim > 0:
        known.append(f"...={shape_tuple(&dims.ell)}")
    where = f" with {', '.join(known)}" if known else ""
    raise ValueError(f"{op.name}: argument '{op.in_names[k]}': expected shape {spec_text(op, k)}{where}, "
                     f"got {shape_tuple(a)}")


cdef bint match_dim(const Spec *s, int d, int64_t n, Dims *dims) noexcept nogil:
    if s.sym[d] < 0:
        return n == s.coef[d]
    if dims.sym[s.sym[d]] >= 0:
        return n == dims.sym[s.sym[d]] * s.coef[d]
    if n % s.coef[d]:
        return False
    dims.sym[s.sym[d]] = n // s.coef[d]
    return True


cdef bint broadcast_into(pn_array *ell, const pn_array *a, int first, int n) noexcept nogil:
    """Widens ell by the n dimensions of a from first, right-aligned, as NumPy does."""
    cdef int d, k, off
    if n > ell.ndim:
        off = n - ell.ndim
        for d in range(ell.ndim - 1, -1, -1):
            ell.shape[d + off] = ell.shape[d]
        for d in range(off):
            ell.shape[d] = 1
        ell.ndim = n
    off = ell.ndim - n
    for d in range(n):
        k = d + off
        if ell.shape[k] == 1:
            ell.shape[k] = a.shape[first + d]
        elif a.shape[first + d] != 1 and a.shape[first + d] != ell.shape[k]:
            return False
    return True


cdef bint match_input(const Spec *s, const pn_array *a, Dims *dims) noexcept nogil:
    cdef int d, tail, n_ell = a.ndim - s.n_dims
    if n_ell < 0 or (s.ell < 0 and n_ell != 0):
        return False
    tail = s.ell if s.ell >= 0 else s.n_dims
    for d in range(tail):
        if not match_dim(s, d, a.shape[d], dims):
            return False
    if s.ell < 0:
        return True
    for d in range(tail, s.n_dims):
        if not match_dim(s, d, a.shape[d + n_ell], dims):
            return False
    return broadcast_into(&dims.ell, a, tail, n_ell)


cdef int bind_dims(OpBase op, const pn_array *arr, int n, dict params, Dims *dims) except -1:
    """Binds the named dimensions to the shapes of arr[:n]; the place of the first that does not fit, else n."""
    cdef int k
    for k in range(MAX_SYM):
        dims.sym[k] = -1
    dims.ell.ndim = 0
    if params:
        for k, name in enumerate(op.sym_names):
            if name in params:
                dims.sym[k] = as_dimension(op, name, params[name])
    for k in range(n):
        if arr[k].dtype != PN_NONE and not match_input(&op.spec[k], &arr[k], dims):
            return k
    return n


cdef inline int match_inputs(OpBase op, const pn_array *arr, dict params, Dims *dims) except -1:
    """Binds the named dimensions to arr's shapes; raises for the first argument that does not fit."""
    cdef int k = bind_dims(op, arr, op.n_in, params, dims)
    if k < op.n_in:
        shape_error(op, k, arr, params, dims)
    if dims.ell.ndim + op.named_max > PN_MAXDIM:
        raise ValueError(f"{op.name}: expected at most {PN_MAXDIM} dimensions in every argument and result, got "
                         f"{op.named_max} beside ...={shape_tuple(&dims.ell)}")
    return 0


cdef void spec_shape(const Spec *s, const Dims *dims, pn_array *y) noexcept nogil:
    """y's shape from s and the bound dimensions."""
    cdef int d, e
    y.ndim = 0
    for d in range(s.n_dims + 1):
        if d == s.ell:
            for e in range(dims.ell.ndim):
                y.shape[y.ndim] = dims.ell.shape[e]
                y.ndim += 1
        if d < s.n_dims:
            y.shape[y.ndim] = s.coef[d] if s.sym[d] < 0 else s.coef[d] * dims.sym[s.sym[d]]
            y.ndim += 1


cdef void broadcast_input(const Spec *s, const Dims *dims, pn_array *a) noexcept nogil:
    """Gives a, in place, the full shape that its spec has in this call; repeated elements get stride 0."""
    cdef pn_array full
    cdef int d, k, pad
    if s.ell < 0 or dims.ell.ndim == 0:
        return
    spec_shape(s, dims, &full)
    pad = full.ndim - a.ndim
    for d in range(full.ndim):
        if d < s.ell:
            full.strides[d] = a.strides[d]
        elif d < s.ell + pad:
            full.strides[d] = 0
        else:
            k = d - pad
            full.strides[d] = 0 if a.shape[k] != full.shape[d] else a.strides[k]
    for d in range(full.ndim):
        a.shape[d] = full.shape[d]
        a.strides[d] = full.strides[d]
    a.ndim = full.ndim


cdef double sum_terms(const Term *term, int n, const Dims *dims, int64_t n_out, int64_t item) noexcept nogil:
    """A sum of products of the entry for one call."""
    cdef double total = 0, product
    cdef int k, d, s
    for k in range(n):
        product = term[k].coef
        for d in range(term[k].n):
            s = term[k].sym[d]
            if s >= 0:
                product *= dims.sym[s]
            elif s == T_ELL:
                product *= size_of(&dims.ell)
            else:
                product *= n_out if s == T_OUT else item
        total += product
    return total


cdef double count_flops(OpBase op, const Dims *dims, int64_t n_out) noexcept nogil:
    return sum_terms(op.term, op.n_term, dims, n_out, 0)


cdef double count_bytes(OpBase op, const Dims *dims, const pn_array *arr, int n_arg, int64_t n_out) noexcept nogil:
    """What a call must move: what the entry says, else every argument and result once."""
    cdef double total = 0
    cdef int k
    if op.n_byte_term and dims != NULL:
        return sum_terms(op.byte_term, op.n_byte_term, dims, n_out, ITEMSIZE[arr[op.n_in].dtype])
    for k in range(n_arg):
        if arr[k].dtype >= 0:
            total += size_of(&arr[k]) * ITEMSIZE[arr[k].dtype]
    return total


def bytes_of(OpBase op not None, tuple xs not None, tuple outs not None, dict params not None):
    """The bytes that a call of op must move, as the thread grain and the benchmarks count them; xs may have None."""
    cdef pn_array[MAX_ARG] arr
    cdef Dims dims
    cdef int k
    if len(xs) != op.n_in or len(outs) != op.n_out:
        raise TypeError(f"bytes_of: expected the {op.n_in} arguments and {op.n_out} results of {op.name}, got "
                        f"{len(xs)} and {len(outs)}")
    for k, x in enumerate(xs + outs):
        if x is None:
            arr[k].dtype = PN_NONE
        else:
            arr[k] = (<TensorBase?>x).a
    match_inputs(op, arr, merged(op, params), &dims)
    return count_bytes(op, &dims, arr, op.n_in + op.n_out, outs[0].size if outs else 0)


cdef double call_cost(OpBase op, const Dims *dims, const pn_array *arr, int n_arg, int64_t n_out) noexcept nogil:
    """Estimated serial nanoseconds: the larger of flops at 20 GFLOP/s and bytes at 10 GB/s."""
    cdef double flops = count_flops(op, dims, n_out) / 20
    cdef double nbytes = count_bytes(op, dims, arr, n_arg, n_out)
    return flops if flops > nbytes / 10 else nbytes / 10


# ---- promotion (NEP 50, pynn's own table: the same on every NumPy) -------------------------------

cdef int[6][6] PROMOTE = [
    #  f32     f64     i64     i32     u8      bool
    [PN_F32, PN_F64, PN_F64, PN_F64, PN_F32, PN_F32],
    [PN_F64, PN_F64, PN_F64, PN_F64, PN_F64, PN_F64],
    [PN_F64, PN_F64, PN_I64, PN_I64, PN_I64, PN_I64],
    [PN_F64, PN_F64, PN_I64, PN_I32, PN_I32, PN_I32],
    [PN_F32, PN_F64, PN_I64, PN_I32, PN_U8, PN_U8],
    [PN_F32, PN_F64, PN_I64, PN_I32, PN_U8, PN_BOOL],
]
cdef int[6] AS_FLOAT = [PN_F32, PN_F64, PN_F64, PN_F64, PN_F32, PN_F32]


cdef int weak_dtype(int dtype, object scalar) except -2:
    """The dtype of a tensor of dtype (PN_NONE: no tensor) and a Python number together."""
    if isinstance(scalar, bool):
        return PN_BOOL if dtype == PN_NONE else dtype
    if isinstance(scalar, int):
        return PN_I64 if dtype in (PN_NONE, PN_BOOL) else dtype
    if dtype == PN_NONE:
        return PN_F32
    return dtype if dtype <= PN_F64 else PN_F64


cdef bint is_number(object v):
    return isinstance(v, (int, float)) and not isinstance(v, np.generic)


cdef int dtype_error(OpBase op, int k, str expected, object got) except -1:
    raise TypeError(f"{op.name}: argument '{op.in_names[k]}': expected {expected}, got {got}")


cdef int mixed_error(OpBase op, list xs) except -1:
    """Raises for the first input that is of another dtype than most. Where it stands one against one, the
    last is right: entries name data first and parameters last."""
    cdef int k, t, want
    at = [(<TensorBase>xs[k]).a.dtype if op.spec[k].kind in (c'T', c'A', c'C') and isinstance(xs[k], TensorBase)
          else PN_NONE for k in range(op.n_in)]
    _, _, like = max([(t <= PN_F64, at.count(t), k) for k, t in enumerate(at) if t != PN_NONE])
    want = at[like]
    for k, t in enumerate(at):
        if t != PN_NONE and t != want:
            dtype_error(op, k, f"dtype {_dtypes[want]} as '{op.in_names[like]}' has", _dtypes[t])
    return 0


cdef object one_input(OpBase op, int k, object v):
    """v as a TensorBase, or as a Python number that takes the others' dtype."""
    if isinstance(v, TensorBase) or is_number(v):
        return v
    if v is None:
        if op.spec[k].optional:
            return None
        dtype_error(op, k, "a Tensor", "None")
    if isinstance(v, (np.ndarray, np.generic, list, tuple)):
        return from_array(v, None, f"{op.name}: argument '{op.in_names[k]}'")
    dtype_error(op, k, "a Tensor, an array or a number", type(v).__name__)


cdef tuple convert(OpBase op, tuple args, int *dtype_out):
    """args as tensors of the dtypes that the entry asks for; dtype_out is the call's dtype."""
    cdef int k, n = len(args), dtype = PN_NONE, t
    cdef char kind
    cdef object v
    cdef list xs
    if n > op.n_in:
        raise TypeError(f"{op.name}: expected at most {op.n_in} arguments ({', '.join(op.in_names)}), got {n}")
    if n == op.n_in:  # the usual call: tensors that are what the entry asks for
        for k in range(n):
            v = <object>PyTuple_GET_ITEM(args, k)
            kind = op.spec[k].kind
            if v is None and op.spec[k].optional:
                continue
            if not isinstance(v, TensorBase):
                break
            t = (<TensorBase>v).a.dtype
            if kind == c'i' or kind == c'b':
                if t != (PN_I64 if kind == c'i' else PN_BOOL):
                    break
            elif kind == c'*' or t > PN_F64 or (dtype != PN_NONE and t != dtype):
                break
            else:
                dtype = t
        else:
            dtype_out[0] = dtype
            return args
        dtype = PN_NONE
    xs = [one_input(op, k, args[k] if k < n else None) for k in range(op.n_in)]
    dtype = PN_NONE
    for k in range(op.n_in):
        if op.spec[k].kind in (c'T', c'A', c'C') and isinstance(xs[k], TensorBase):
            t = (<TensorBase>xs[k]).a.dtype
            if not op.promote and dtype != PN_NONE and t != dtype:
                mixed_error(op, xs)
            dtype = t if dtype == PN_NONE else PROMOTE[dtype][t]
    for k in range(op.n_in):
        if op.spec[k].kind in (c'T', c'A', c'C') and is_number(xs[k]):
            dtype = weak_dtype(dtype, xs[k])
    if dtype != PN_NONE and dtype > PN_F64 and any([op.spec[k].kind in (c'T', c'C') for k in range(op.n_in)]):
        if not op.promote:
            for k in range(op.n_in):
                if op.spec[k].kind == c'T':
                    dtype_error(op, k, "a floating dtype", _dtypes[dtype])
        dtype = AS_FLOAT[dtype]
    if op.compares:
        compare_beyond(xs, dtype)
    for k in range(op.n_in):
        xs[k] = as_kind(op, k, xs[k], dtype)
    dtype_out[0] = dtype
    return tuple(xs)


cdef object as_kind(OpBase op, int k, object v, int dtype):
    """Input k with the dtype that its spec asks for."""
    cdef char kind = op.spec[k].kind
    cdef TensorBase x
    cdef int want
    if v is None:
        return None
    if not isinstance(v, TensorBase):
        if kind == c'i':
            if not isinstance(v, int) or isinstance(v, bool):
                dtype_error(op, k, "integers", type(v).__name__)
            return number_input(op, k, v, PN_I64)
        if kind == c'b':
            return scalar_tensor(bool(v), PN_BOOL)
        return number_input(op, k, v, weak_dtype(PN_NONE, v) if kind == c'*' else dtype)
    x = v
    if kind == c'*':
        return x
    if kind == c'i':
        if x.a.dtype not in (PN_I64, PN_I32, PN_U8):
            dtype_error(op, k, "integers", f"dtype {_dtypes[x.a.dtype]}")
        want = PN_I64
    elif kind == c'b':
        if x.a.dtype != PN_BOOL:
            dtype_error(op, k, "dtype bool", f"dtype {_dtypes[x.a.dtype]}")
        want = PN_BOOL
    else:
        want = dtype
    if x.a.dtype == want:
        return x
    return apply(core_op(OP_CAST), (x,), {"dtype": _dtypes[want]})
