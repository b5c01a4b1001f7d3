# The walk from outputs to leaves: each node once, consumers before producers, gradients added up where
# a value has several uses.

# ---- the derivative of one node ------------------------------------------------------------------

cdef list node_grads(Node n, list dys, int need, bint create_graph):
    """Gradients of n's inputs from those of its outputs; None where not in need."""
    global pn_need_mask
    cdef int k, before
    cdef object gs
    check_saved(n)
    for k in range(n.n_out if n.op.vjp is not None or n.op.bwd is not None else 0):  # a formula does without
        if dys[k] is None and n.n_out > 1 and n.shadows[k] is not None and n.op.spec[n.op.n_in + k].kind != c'C':
            dys[k] = zeros_like_array(&(<TensorBase>n.shadows[k]).a)
    if n.op.vjp is not None:
        before = pn_need_mask
        pn_need_mask = need
        try:
            gs = n.op.vjp(n, *dys)
        finally:
            pn_need_mask = before
        return list(gs) if isinstance(gs, (tuple, list)) else [gs]
    if n.op.bwd is not None:
        return run_bwd(n, dys, need)
    return differentiate(n, dys, need, create_graph)


cdef TensorBase zeros_like_array(const pn_array *a):
    cdef TensorBase t = empty_like_array(a, a.dtype)
    memset(t.a.data, 0, t.storage.nbytes)
    return t


cdef list run_bwd(Node n, list dys, int need):
    """The fused backward kernel. Its arguments: dys of the floating outputs, saved inputs, saved
    outputs; its results: the gradients of the inputs of kind T."""
    cdef OpBase op = n.op, b = op.bwd
    cdef pn_array[MAX_ARG + 1] arr
    cdef pn_array[MAX_ARG] full
    cdef Dims dims
    cdef list xs = [], outs = [], grads = [None] * op.n_in
    cdef int k, j = 0
    cdef int64_t total = 0
    cdef TensorBase t
    cdef char kind
    for k in range(op.n_in):
        if n.inputs[k] is None:
            full[k].dtype = PN_NONE
        else:
            full[k] = (<TensorBase>n.inputs[k]).a
    match_inputs(op, full, n.given, &dims)
    for k in range(op.n_out):
        kind = op.spec[op.n_in + k].kind
        if kind == c'T':
            xs.append(dys[k])
    for k in range(op.n_in):
        if full[k].dtype != PN_NONE:
            broadcast_input(&op.spec[k], &dims, &full[k])
        if op.save_in & (1 << k):
            xs.append(n.inputs[k])
    for k in range(op.n_out):
        if op.save_out & (1 << k):
            xs.append(saved_out(n, k))
    memory = [(<TensorBase>x).storage for x in xs if x is not None]  # as in execute
    see_all(xs)
    j = fill_bwd_inputs(op, xs, full, arr)
    held = conform(op, arr, j) if op.order != ANY_ORDER else None
    for k in range(op.n_in):
        if op.spec[k].kind != c'T':
            continue
        t = None
        arr[j].dtype = PN_NONE
        arr[j].data = NULL
        arr[j].ndim = 0
        if need & (1 << k) and full[k].dtype != PN_NONE:
            t = blank()
            t.a = full[k]
            lay_out(op, &t.a, arr, len(xs))
            allocate(t)
            arr[j] = t.a
            total += size_of(&t.a)
        j += 1
        outs.append(t)
        grads[k] = t
    if total > 0:
        launch(b, arr, j, n.given, (<TensorBase>xs[0]).a.dtype, &dims, total)
    if not pn_grad_off:
        p = dict(n.given)
        p["_need"] = need
        record(b, tuple(xs), p, tuple(outs), -1, 0)
    return grads


cdef int fill_bwd_inputs(OpBase op, list xs, const pn_array *full, pn_array *arr) except -1:
    """arr from xs; saved inputs take the broadcast shapes in full."""
    cdef int j, k, first = 0
    cdef TensorBase t
    for k in range(op.n_out):
        first += op.spec[op.n_in + k].kind == c'T'
    for j in range(len(xs)):
        if xs[j] is None:
            arr[j].dtype = PN_NONE
            arr[j].data = NULL
            arr[j].ndim = 0
        else:
            arr[j] = (<TensorBase>xs[j]).a
    j = first
    for k in range(op.n_in):
        if op.save_in & (1 << k):
            if xs[j] is not None:
                t = xs[j]
                arr[j] = full[k]
                arr[j].data = t.a.data
            j += 1
    return len(xs)


cdef dict asked_of(Node n, list dys):
    """The parameters of a derived backward, `_need` less what no gradient comes in for: its formula computes
    no more than is asked of it here."""
    cdef dict p = dict(n.given)
    cdef int k, j = 0, need = p["_need"]
    for k in range(n.op.fwd.n_in):
        if n.op.fwd.spec[k].kind == c'T':
            if dys[j] is None:
                need &= ~(1 << k)
            j += 1
    p["_need"] = need
    return p


cdef list differentiate(Node n, list dys, int need, bint create_graph):
    """Gradients by differentiating the formula of n's op at its inputs."""
    global pn_grad_off
    cdef int k, off = pn_grad_off
    cdef list leaves = [], wanted = [], places = []
    cdef TensorBase x, leaf
    for k in range(len(n.inputs)):
        if n.inputs[k] is None:
            leaves.append(None)
            continue
        x = n.inputs[k]
        if need & (1 << k):
            if create_graph:
                leaf = <TensorBase>apply_view(core_op(OP_ALIAS), (x,), _no_params)
            else:
                leaf = view_of(x, &x.a)
                leaf.leaf_grad = True
            wanted.append(leaf)
            places.append(k)
        else:
            leaf = x if create_graph else view_of(x, &x.a)  # others may be asked for in the second order
        leaves.append(leaf)
    pn_grad_off = 0
    try:
        ys = n.op.formula(*leaves, **(n.given if n.op.fwd is None else asked_of(n, dys)))
    finally:
        pn_grad_off = off
    ys = list(ys) if isinstance(ys, (tuple, list)) else [ys]
    check_formula(n.op, ys, dys)
    pairs = [(y, d) for y, d in zip(ys, dys) if asks_grad(y) and d is not None]
    # what is recorded of the walk refers to the formula's nodes
    found = walk([p[0] for p in pairs], [p[1] for p in pairs], wanted, create_graph, create_graph)
    grads = [None] * len(n.inputs)
    for k, g in zip(places, found):
        grads[k] = g
    return grads


cdef int check_formula(OpBase op, list ys, list dys) except -1:
    """A formula's values have the shapes of the op's own."""
    cdef int k
    if len(ys) != op.n_out:
        raise ValueError(f"{op.name}: expected {op.n_out} values from its formula, got {len(ys)}")
    for k in range(op.n_out):
        if ys[k] is None:
            continue
        if not isinstance(ys[k], TensorBase):
            raise TypeError(f"{op.name}: expected Tensors from its formula, got {type(ys[k]).__name__}")
        if dys[k] is not None and not same_shape(&(<TensorBase>ys[k]).a, &(<TensorBase>dys[k]).a):
            raise ValueError(f"{op.name}: expected shape {dys[k].shape} from its formula for '{op.out_names[k]}', "
                             f"got {ys[k].shape}")
    return 0


# ---- the walk ------------------------------------------------------------------------------------

cdef int64_t oldest(list xs) noexcept:
    """The smallest number of the nodes that made xs; 0 where one is a leaf. No older node leads to any of xs."""
    cdef int64_t seq = node_count
    cdef object x
    for x in xs:
        if (<TensorBase>x).node is None:
            return 0
        seq = min(seq, (<TensorBase>x).node.seq)
    return seq


cdef list collect(list ys, int64_t first):
    """The nodes below ys with numbers from `first`, consumers before producers."""
    cdef list stack = [], order = []
    cdef set seen = set()
    cdef Node n
    for y in ys:
        if (<TensorBase>y).node is not None:
            stack.append((<TensorBase>y).node)
    while stack:
        n = stack.pop()
        if n in seen or n.seq < first:
            continue
        seen.add(n)
        order.append(n)
        if n.inputs is None:
            if n.seq == first:
                continue
            freed_error(n)
        for t in n.inputs:
            if t is not None and (<TensorBase>t).node is not None and (<TensorBase>t).node not in seen:
                stack.append((<TensorBase>t).node)
    order.sort(key=node_number, reverse=True)
    return order


def node_number(Node n):
    return n.seq


cdef class Wanted:
    """Which leaves and which outputs of nodes a walk is asked for, and which nodes lead to them."""
    cdef set leaves   # id(leaf)
    cdef set outputs  # (node, output index)
    cdef set nodes    # nodes of outputs
    cdef set leading  # nodes below which something wanted lies

    def __init__(self, list xs, list order):
        cdef Node n
        cdef TensorBase x
        self.leaves = {id(x) for x in xs if x.node is None}
        self.outputs = {(x.node, x.out_idx) for x in xs if x.node is not None}
        self.nodes = {n for n, _ in self.outputs}
        self.leading = set()
        for n in reversed(order):
            if n.inputs is None:
                continue  # the oldest of the wanted, whose own history is gone and not needed
            for t in n.inputs:
                if t is not None and self.asks(<TensorBase>t):
                    self.leading.add(n)
                    break

    cdef bint asks(self, TensorBase t):
        if t.node is None:
            return t.leaf_grad and id(t) in self.leaves
        return t.node in self.leading or (t.node in self.nodes and (t.node, t.out_idx) in self.outputs)


cdef int need_of(Node n, Wanted wanted) except -1:
    cdef int k, need = 0
    for k in range(len(n.inputs)):
        t = n.inputs[k]
        if asks_grad(t) and (wanted is None or wanted.asks(<TensorBase>t)):
            if k >= n.op.n_in or n.op.spec[k].kind != c'C':
                need |= 1 << k
    return need


cdef TensorBase fitted(TensorBase g, TensorBase x):
    """g reduced to the shape, and cast to the dtype, of the input it belongs to."""
    if not same_shape(&g.a, &x.a):
        g = <TensorBase>apply(core_op(OP_SUM_TO), (g,), {"shape": x.shape})
    if g.a.dtype != x.a.dtype:
        g = <TensorBase>apply(core_op(OP_CAST), (g,), {"dtype": x.dtype})
    return g


cdef object plus(TensorBase a, TensorBase b):
    """The sum of two gradients. One without memory is by rows."""
    if a.storage is None or b.storage is None:
        return row_sum(a, b)
    return apply(core_op(OP_ADD), (a, b), _no_params)


cdef int add_to_slot(dict slots, Node n, int k, TensorBase g) except -1:
    cdef list slot = slots.get(n)
    if slot is None:
        slot = [None] * n.n_out
        slots[n] = slot
    slot[k] = g if slot[k] is None else plus(slot[k], g)
    return 0


cdef list walk(list ys, list dys, list xs, bint create_graph, bint retain_graph, int64_t since=0):
    """Reverse-mode derivative of ys. xs None: accumulates into the leaves' grad; else returns those of xs.

    Nodes with numbers below `since` are not gone through.
    """
    global pn_grad_off
    cdef dict slots = {}, leaf_grads = {}, hooked = {}
    cdef list order = collect(ys, max(since, oldest(xs) if xs is not None else 0)), slot
    cdef Wanted wanted = Wanted(xs, order) if xs is not None else None
    cdef Node n
    cdef TensorBase y
    cdef int k, off = pn_grad_off
    cdef object d, g
    pn_grad_off = 0 if create_graph else 1
    try:
        for y, d in zip(ys, dys):
            if y.node is not None:
                add_to_slot(slots, y.node, y.out_idx, d)
            elif y.leaf_grad:
                give_leaf(y, d, leaf_grads, wanted, hooked)
        for k in range(len(order)):
            n = <Node>order[k]
            order[k] = None
            slot = slots.pop(n, None)
            if slot is None:
                continue
            if n.hooks is not None:
                run_hooks(n, slot)
            if wanted is not None:
                if n in wanted.nodes:
                    slots[n] = list(slot)
                if n not in wanted.leading:
                    continue
            step(n, slot, slots, leaf_grads, wanted, hooked, create_graph)
            slot = None
            if not retain_graph:
                n.inputs = None
                n.shadows = None
        for y, d in list(hooked.values()):
            not_recordable("a hook of a tensor")
            for fn in list(y._hooks):
                g = fn(d)
                if g is not None:
                    d = replaced(d, g)
            give_leaf(y, d, leaf_grads, wanted, None)
    finally:
        pn_grad_off = off
    if xs is None:
        return None
    return [leaf_grads.get(id(y)) if y.node is None else slots[y.node][y.out_idx] if y.node in slots else None
            for y in xs]


cdef int step(Node n, list slot, dict slots, dict leaf_grads, Wanted wanted, dict hooked,
              bint create_graph) except -1:
    """Passes the gradients of n's outputs on to its inputs."""
    cdef int k, need = need_of(n, wanted)
    cdef list gs
    cdef TensorBase x, g
    try:
        gs = node_grads(n, slot, need, create_graph)
    except FloatingPointError as e:
        raise FloatingPointError(f"{e}, in the backward of '{n.op.name}'") from None
    if len(gs) != len(n.inputs):
        raise ValueError(f"{n.op.name}: expected {len(n.inputs)} gradients from its vjp, one for each input, "
                         f"got {len(gs)}")
    for k in range(len(gs)):
        if gs[k] is None or not need & (1 << k):
            continue
        if not isinstance(gs[k], TensorBase):
            raise TypeError(f"{n.op.name}: expected a Tensor or None from its vjp for '{n.op.in_names[k]}', "
                            f"got {type(gs[k]).__name__}")
        x = <TensorBase>n.inputs[k]
        g = <TensorBase>gs[k]
        gs[k] = None
        g = fitted(g, x)
        if x.node is not None:
            add_to_slot(slots, x.node, x.out_idx, g)
        else:
            give_leaf(x, g, leaf_grads, wanted, hooked)
    return 0


cdef int run_hooks(Node n, list slot) except -1:
    not_recordable("a hook of a tensor")
    for k, fns in n.hooks.items():
        if slot[k] is not None:
            for fn in list(fns):
                g = fn(slot[k])
                if g is not None:
                    slot[k] = replaced(slot[k], g)
    return 0


cdef object replaced(TensorBase g, object new):
    """What a hook returned in place of the gradient g."""
    if not isinstance(new, TensorBase):
        raise TypeError(f"hook: expected a Tensor or None as its result, got {type(new).__name__}")
    if not same_shape(&(<TensorBase>new).a, &g.a) or (<TensorBase>new).a.dtype != g.a.dtype:
        raise ValueError(f"hook: expected a gradient of shape {g.shape} and dtype {g.dtype}, "
                         f"got {new.shape} and {new.dtype}")
    return new


cdef bint may_add_to(TensorBase grad, TensorBase g) noexcept:
    """Whether g may be added to grad in place."""
    return grad.storage is not None and g.storage is not None and grad.node is None and not grad.storage.readonly


cdef int give_leaf(TensorBase leaf, TensorBase g, dict leaf_grads, Wanted wanted, dict hooked) except -1:
    """Adds g to a leaf's share: to leaf.grad, or to leaf_grads where a walk returns gradients.

    What a leaf with hooks gets is collected in `hooked` first: a hook sees the whole gradient, once.
    """
    if hooked is not None and leaf._hooks:
        old = hooked.get(id(leaf))
        hooked[id(leaf)] = (leaf, g if old is None else plus(old[1], g))
        return 0
    if wanted is not None:
        if id(leaf) in wanted.leaves:
            old = leaf_grads.get(id(leaf))
            leaf_grads[id(leaf)] = g if old is None else plus(old, g)
        return 0
    if pn_rec != NULL:
        (<Recorder>pn_rec).reads_grad(leaf)
    if leaf._grad is None:
        set_grad(leaf, owned(g, leaf))
    elif pn_grad_off and may_add_to(<TensorBase>leaf._grad, g):
        apply(core_op(OP_ACCUMULATE), (g, leaf._grad), _no_params)
    else:
        set_grad(leaf, plus(leaf._grad, g))
    return 0


cdef inline int set_grad(TensorBase leaf, object g) except -1:
    if pn_rec != NULL:
        (<Recorder>pn_rec).bound[id(leaf)] = leaf
    leaf._grad = g
    return 0


cdef TensorBase owned(TensorBase g, TensorBase leaf):
    """g as a leaf's gradient: in the leaf's order of memory, which nothing else sees."""
    cdef TensorBase t
    cdef pn_array want
    cdef bint same = Py_REFCNT(<PyObject *>g.storage) == 1 and Py_REFCNT(<PyObject *>g) <= 2
    if g.node is not None or g.storage is None:
        return g
    see_all([g])
    pack_like(&leaf.a, &want)
    if same and same_steps(&g.a, &want):
        return g
    t = blank()
    t.a = want
    allocate(t)
    copy_into(&g.a, &t.a)
    return t


cdef list seeds(list ys, object dys, str what):
    """The gradients that a walk starts from: dys checked against ys, 1 for a scalar left without."""
    cdef list out = []
    cdef TensorBase y, d
    cdef pn_array one
    for k, t in enumerate(ys):
        if not isinstance(t, TensorBase):
            raise TypeError(f"{what}: expected Tensors to differentiate, got {type(t).__name__} at {k}")
    dys = [None] * len(ys) if dys is None else list(dys) if isinstance(dys, (list, tuple)) else [dys]
    if len(dys) != len(ys):
        raise ValueError(f"{what}: expected {len(ys)} gradients, one for each output, got {len(dys)}")
    for y, g in zip(ys, dys):
        if not asks_grad(y):
            raise RuntimeError(f"{what}: the output of shape {y.shape} has no history: it was computed from no "
                               "tensor that requires grad, or under no_grad()")
        if g is None:
            if size_of(&y.a) != 1:
                raise RuntimeError(f"{what}: the gradient of a non-scalar needs a seed: expected one of shape "
                                   f"{y.shape}, got none")
            d = scalar_tensor(1.0, y.a.dtype)
            one = y.a
            d.a.ndim = y.a.ndim
            for k in range(y.a.ndim):
                d.a.shape[k] = 1
                d.a.strides[k] = 1
        else:
            d = g if isinstance(g, TensorBase) else from_array(g, y.dtype, what)
            if not same_shape(&d.a, &y.a):
                raise ValueError(f"{what}: expected a gradient of shape {y.shape}, got {d.shape}")
            if d.a.dtype != y.a.dtype:
                d = apply(core_op(OP_CAST), (d,), {"dtype": y.dtype})
        out.append(d)
    return out


def run_backward(list ys, dys, xs, bint create_graph, bint retain_graph, bint allow_unused, str what,
                 int64_t since=0):
    """backward (xs None) and grad (xs a list): see pynn/autograd.py, and walk."""
    cdef TensorBase x
    seed = seeds(ys, dys, what)
    if xs is None:
        walk(ys, seed, None, create_graph, retain_graph)
        return None
    for k, x in enumerate(xs):
        if not asks_grad(x):
            raise RuntimeError(f"{what}: input {k} of shape {x.shape} does not require grad")
    found = walk(ys, seed, xs, create_graph, retain_graph, since)
    for k, g in enumerate(found):
        if g is None and not allow_unused:
            raise RuntimeError(f"{what}: input {k} was not used to compute the outputs; "
                               "pass allow_unused=True to get None for it")
    return found
