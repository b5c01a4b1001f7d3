# The graph. A node keeps its inputs (whole where backward needs their values, as husks of shape and
# producer where not) and shadows of the outputs that backward needs: no cycle, so memory goes when
# the last tensor does, without the garbage collector.

cdef int64_t node_count = 0  # a node's number: its inputs' nodes have smaller ones
cdef list _graveyard = []    # what a deep graph leaves to be freed iteratively

cdef extern from *:
    """
    static __thread int pn_need_mask = -1;  /* inputs whose gradient the running vjp is asked for */
    """
    int pn_need_mask


@cython.final
@cython.freelist(256)
cdef class Node:
    """One recorded call of an op."""
    cdef readonly OpBase op
    cdef dict given              # the call's parameters
    cdef tuple inputs            # TensorBase or None each; None as a whole once freed
    cdef tuple shadows           # outputs without history: values where saved, husks where not
    cdef int n_out
    cdef int save_in, save_out
    cdef int64_t seq
    cdef int64_t[MAX_ARG] version  # of what was saved, at that moment
    cdef dict hooks              # output index → functions of its gradient

    def __dealloc__(self):
        # a chain of a million nodes must not recurse a million times
        global pn_free_depth
        if self.inputs is None:
            return
        if pn_free_depth >= 64:
            _graveyard.append(self.inputs)
            self.inputs = None
            return
        pn_free_depth += 1
        self.inputs = None
        pn_free_depth -= 1
        if pn_free_depth == 0 and _graveyard:
            drain_graveyard()

    def __init__(self):
        raise TypeError("a Node is made by the engine alone")

    @property
    def name(self):
        return node_name(self)

    @property
    def params(self):
        """The call's parameters by name."""
        return PyDictProxy_New(self.given or _no_params)

    @property
    def ins(self):
        """The inputs, in the entry's order; None where one was left out."""
        if self.inputs is None:
            freed_error(self)
        return self.inputs

    @property
    def outs(self):
        """The saved outputs; with history where the walk itself is being recorded."""
        cdef int k
        return tuple([saved_out(self, k) for k in range(self.n_out)])

    def need(self, int k):
        """Inside a vjp: whether the gradient of input k is asked for."""
        return pn_need_mask & (1 << k) != 0

    @property
    def next_functions(self):
        """(node, output index) for each input; (None, 0) where an input has no history.

        A leaf that requires grad stands for itself.
        """
        cdef TensorBase x
        if self.inputs is None:
            return ()
        return tuple([(None, 0) if t is None or not ((<TensorBase>t).leaf_grad or (<TensorBase>t).node is not None)
                      else ((<TensorBase>t).node, (<TensorBase>t).out_idx) if (<TensorBase>t).node is not None
                      else (t, 0) for t in self.inputs])

    @property
    def saved(self):
        """What this call keeps for backward: (name, shape, dtype, bytes) each."""
        cdef int k
        cdef list rows = []
        for k in range(len(self.inputs or ())):
            if self.save_in & (1 << k) and self.inputs[k] is not None:
                rows.append(saved_row(self.op.in_names[k], self.inputs[k]))
        for k in range(self.n_out):
            if self.save_out & (1 << k) and self.shadows is not None and self.shadows[k] is not None:
                rows.append(saved_row(self.op.out_names[k], self.shadows[k]))
        return rows

    def _add_hook(self, int k, fn):
        if self.hooks is None:
            self.hooks = {}
        self.hooks.setdefault(k, []).append(fn)

    def _remove_hook(self, int k, fn):
        self.hooks[k].remove(fn)

    def __repr__(self):
        return f"<{node_name(self)} node>"


cdef str node_name(Node n):
    return n.op.name if n.op is not None else "a Node that no call made"


cdef tuple saved_row(str name, TensorBase t):
    return name, t.shape, t.dtype, size_of(&t.a) * ITEMSIZE[t.a.dtype]


cdef void drain_graveyard():
    global pn_free_depth
    pn_free_depth += 1
    while _graveyard:
        _graveyard.pop()
    pn_free_depth -= 1


cdef int freed_error(Node n) except -1:
    raise RuntimeError(f"backward: the graph of '{node_name(n)}' was freed by an earlier backward; "
                       "call that one with retain_graph=True to walk it twice")


cdef inline bint asks_grad(object t) noexcept:
    return t is not None and ((<TensorBase>t).leaf_grad or (<TensorBase>t).node is not None)


cdef bint wants_grad(OpBase op, tuple xs) noexcept:
    cdef int k
    for k in range(op.n_in):
        if op.spec[k].kind != c'C' and asks_grad(<object>PyTuple_GET_ITEM(xs, k)):
            return True
    return False


cdef TensorBase husk_of(TensorBase x, bint with_node):
    """x's shape, dtype and place in the graph without its memory."""
    cdef TensorBase h = blank()
    h.a = x.a
    h.a.data = NULL
    if with_node:
        h.node = x.node
        h.out_idx = x.out_idx
    return h


cdef int record(OpBase op, tuple xs, dict params, tuple outs, int save_in, int save_out) except -1:
    """Makes outs the outputs of a new node with inputs xs."""
    global node_count
    cdef Node n = Node.__new__(Node)
    cdef int k, n_in = len(xs)
    cdef tuple inputs = PyTuple_New(n_in)
    cdef object t
    cdef TensorBase x, y
    for k in range(n_in):
        t = <object>PyTuple_GET_ITEM(xs, k)
        if t is not None:
            x = <TensorBase>t
            if save_in & (1 << k):
                n.version[k] = x.storage.version
            elif not x.leaf_grad:
                t = husk_of(x, True)
        Py_INCREF(t)
        PyTuple_SET_ITEM(inputs, k, t)
    node_count += 1
    n.seq = node_count
    n.op = op
    n.given = params
    n.inputs = inputs
    n.n_out = len(outs)
    n.save_in = save_in
    n.save_out = save_out
    if n.n_out > 1 or save_out:
        n.shadows = tuple([shadow_of(n, k, outs[k]) for k in range(n.n_out)])
    for k in range(n.n_out):
        if outs[k] is not None:
            y = <TensorBase>outs[k]
            if y.a.dtype <= PN_F64 and (k >= op.n_out or op.spec[op.n_in + k].kind != c'C'):
                y.node = n
                y.out_idx = k
    return 0


def next_number():
    """What node_number of the next node will be."""
    return node_count + 1


def linked(OpBase op not None, tuple xs not None, dict params not None, list ys not None, int save_in):
    """Makes ys, tensors without history, the results of a node of op with inputs xs, of which save_in are saved.

    For values that were computed by other means: op's vjp alone is asked.
    """
    cdef TensorBase t
    if op.vjp is None or len(xs) > op.n_in or len(ys) > op.n_out:
        raise ValueError(f"{op.name}: expected an op with a vjp and at most {op.n_in} inputs and {op.n_out} results, "
                         f"got {len(xs)} and {len(ys)}")
    for t in ys:
        if asks_grad(t):
            raise ValueError(f"{op.name}: expected results without history, got one of {node_name(t.node)}")
    for t in xs:
        if t is not None and t.storage is None and t.node is None:
            check_values(t)
    record(op, xs, params, tuple(ys), save_in, 0)


cdef TensorBase shadow_of(Node n, int k, object out):
    if out is None:
        return None
    cdef TensorBase y = out
    if n.save_out & (1 << k):
        n.version[MAX_ARG - 1 - k] = y.storage.version
        return view_of(y, &y.a)
    return husk_of(y, False)


cdef TensorBase saved_out(Node n, int k):
    cdef TensorBase shadow, y
    if not n.save_out & (1 << k) or n.shadows is None or n.shadows[k] is None:
        return None
    shadow = n.shadows[k]
    y = view_of(shadow, &shadow.a)
    if not pn_grad_off and y.a.dtype <= PN_F64 and n.op.spec[n.op.n_in + k].kind != c'C':
        y.node = n
        y.out_idx = k
    return y


cdef int check_saved(Node n) except -1:
    """Raises where a saved value was changed in place after it was saved."""
    cdef int k
    if n.inputs is None:
        freed_error(n)
    for k in range(len(n.inputs)):
        if n.save_in & (1 << k) and n.inputs[k] is not None:
            if (<TensorBase>n.inputs[k]).storage.version != n.version[k]:
                changed_error(n, n.op.in_names[k], n.inputs[k])
    for k in range(n.n_out):
        if n.save_out & (1 << k):
            if (<TensorBase>n.shadows[k]).storage.version != n.version[MAX_ARG - 1 - k]:
                changed_error(n, n.op.out_names[k], n.shadows[k])
    return 0


cdef int changed_error(Node n, str name, TensorBase t) except -1:
    raise RuntimeError(f"backward: '{name}' of shape {t.shape}, saved for the derivative of '{n.op.name}', "
                       "was changed in place afterwards")


def output_index(TensorBase x not None):
    """Which output of its node x is."""
    return x.out_idx


def retain_grad(TensorBase x not None):
    """Lets walks leave x's gradient in x.grad, as long as x lives."""
    if x.retains:
        return
    x.retains = True
    ref = weakref.ref(x)

    def keep(g):
        t = ref()
        if t is not None:
            t.grad = g if t.grad is None else core_op(OP_ADD)(t.grad, g)

    x.node._add_hook(x.out_idx, keep)
