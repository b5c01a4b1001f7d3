# The plan: a tape whose lifetimes are known, so that every temporary has a fixed place in one pool.

cdef enum:
    TEMP, FIXED, ARGUMENT, RESULT, BOUND, ENTRY, GONE  # where a buffer's memory comes from in a replay
    UNDO_BYTES = 1 << 20     # effects before a check are undone where they write no more

cdef extern from "Python.h":
    PyObject *PyList_GET_ITEM(list l, Py_ssize_t i)
    PyObject *PyDict_GetItem(dict d, object key)


cdef struct Place:
    int kind
    int index           # of the argument, result, leaf, or the memory held
    int64_t offset      # in the pool
    int64_t nbytes
    int first, last     # the calls that use it
    bint written
    bint constant       # the plan's alone, and never written


@cython.final
cdef class Plan:
    """An immutable list of calls. What a replay reads besides: the memory held, arguments, `.grad`s."""
    cdef TapeCall *call
    cdef pn_array *arg
    cdef int32_t *arg_buf
    cdef int64_t *arg_off
    cdef uint8_t *arg_mode
    cdef pn_value *par
    cdef pn_chain *chain        # of its calls of pn_chain_run
    cdef Place *place
    cdef readonly int64_t n_call, n_arg, n_buf, pool_bytes
    cdef int64_t n_par, n_chain
    cdef int32_t *use           # the arguments that point into a buffer whose memory changes, by buffer
    cdef int32_t *first_use     # of each buffer, n_buf + 1
    cdef readonly double cost   # nanoseconds of a replay: estimated, then the least of the first N_TIMED
    cdef int n_timed
    cdef list ops
    cdef list held              # Storages, by index
    cdef list written_held      # those of them that a replay writes
    cdef readonly list written_args  # indices of arguments that it writes
    cdef readonly list leaves   # (leaf, its storage, whether it asks for a gradient), of what it reads
    cdef list vary              # buffers of arguments and of results
    # (buffer, Tensor that shows shape and place) each; (-1, the object to return), or (-2, index of the same result)
    cdef list results
    cdef list spare_bytes       # of each result's memory
    # (leaf or argument index, buffer or -1, template) each: grads that a replay binds; of a gradient by rows the
    # template is (type, (buffer, template) of its parts, shape)
    cdef list bound
    cdef list entry             # (leaf or argument index, template or None, buffer): grads that it expects
    cdef list turned            # (storage, version) of weights that it has in a form of its own
    cdef list undo              # buffers of the program's that are written before the last call that may fail
    cdef list early             # of each grad that it binds, whether it is written before then
    cdef list idle              # Instances that wait
    cdef readonly int64_t n_instance

    def __dealloc__(self):
        free(self.call)
        free(self.arg)
        free(self.arg_buf)
        free(self.arg_off)
        free(self.arg_mode)
        free(self.par)
        free(self.chain)
        free(self.place)
        free(self.use)
        free(self.first_use)

    @property
    def nbytes(self):
        """Bytes that the plan and its instances keep, apart from what it shares with the program."""
        cdef int64_t n = self.n_arg * (sizeof(pn_array) + 13) + self.n_call * sizeof(TapeCall)
        n += self.n_chain * sizeof(pn_chain)
        return n + self.n_instance * (self.pool_bytes + self.n_arg * sizeof(pn_array) + self.n_call * sizeof(pn_call))


cdef bint may_fail(OpBase op):
    """Whether op's kernel checks values of its arguments."""
    cdef int k
    for k in range(op.n_in):
        if op.spec[k].bound >= 0:
            return True
    return bool(getattr(op, "valid", None)) or (op.fwd is not None and may_fail(op.fwd))


def plan_of(Recorder r not None, list inputs, list outs, dict packs=None, OpBase joint=None):
    """The plan of what r recorded: a function of `inputs` that gave `outs`, Tensors and other objects.

    packs: where weights that the plan may keep in a form of its own are kept; see keep_weights.
    joint: conv2d_norm, where a convolution and the batch norm behind it may become one, which changes last bits.
    Returns None, with the reason in r.why, where a replay could not do the same.
    """
    cdef Plan p = Plan.__new__(Plan)
    cdef int64_t k
    r.stop()
    if r.why is not None:
        return None
    p.n_buf, p.n_call, p.n_arg, p.n_par = r.n_buf, r.n_call, r.n_arg, r.n_par
    p.ops, p.held, p.idle, p.leaves = r.ops, [], [], list(r.leaves.values())
    p.spare_bytes, p.turned = [], []
    p.place = <Place *>calloc(max(1, p.n_buf), sizeof(Place))
    if p.place == NULL:
        raise MemoryError("compile: out of memory for the plan")
    for k in range(p.n_buf):
        p.place[k].kind = GONE
        p.place[k].nbytes = r.buf[k].nbytes
        p.place[k].written = r.buf[k].written
    if not (place_grads(p, r, inputs) and place_results(p, r, inputs, outs) and place_others(p, r)):
        return None
    take_tape(p, r)
    fold_copies(p)
    if joint is not None:
        join_norms(p, joint)
    drop_dead(p)
    if packs is not None and pn_grad_off and not p.bound and not p.entry:
        keep_weights(p, packs)
    fuse_chains(p)  # last: chains point into the plan's parameters
    lay_out_pool(p)
    let_go(p)
    find_uses(p)
    find_undo(p)
    p.written_held = [p.held[p.place[k].index] for k in range(p.n_buf) if p.place[k].kind == FIXED and
                      p.place[k].written]
    p.written_args = [p.place[k].index for k in range(p.n_buf) if p.place[k].kind == ARGUMENT and p.place[k].written]
    p.vary = [k for k in range(p.n_buf) if p.place[k].kind in (ARGUMENT, RESULT)]
    p.cost = 0
    for k in range(p.n_call):
        p.cost += p.call[k].cost
    return p


cdef int hold(Plan p, int64_t k, Storage s) except -1:
    p.place[k].kind = FIXED
    p.place[k].index = len(p.held)
    p.held.append(s)
    return 0


cdef int64_t first_index(list found, object x) noexcept:
    """Where x itself is first in a list; the list's length if it is not."""
    cdef int64_t k
    for k in range(len(found)):
        if found[k] is x:
            return k
    return len(found)


cdef object argument_index(object leaf, list inputs):
    """leaf, or its place among the arguments."""
    cdef int64_t k = first_index(inputs, leaf)
    return k if k < len(inputs) else leaf


cdef bint place_results(Plan p, Recorder r, list inputs, list outs) except -1:
    """Where what the function returned comes from."""
    cdef TensorBase y
    cdef int k
    p.results = []
    for n, out in enumerate(outs):
        if not isinstance(out, TensorBase):
            p.results.append((-1, out))
            continue
        twin = first_index(outs, out)
        if twin < n:
            p.results.append((-2, twin))
            continue
        y = out
        if y.storage is None:
            r.why = f"it returns a gradient by rows, of shape {y.shape}; return its to_dense()"
            return False
        if y.node is not None and y.node.inputs is not None:
            r.why = (f"it returns a tensor of shape {y.shape} with history; return x.detach(), call it under "
                     "pynn.no_grad(), or have backward() inside")
            return False
        k = r.buffer_of(y.storage)
        if k < 0 or r.buf[k].origin in (HELD, SLOT) or k in r.kept:
            if k >= 0 and k in r.kept:
                r.why = f"it returns a tensor of shape {y.shape} that no kernel made"
                return False
            p.results.append((-1, out))
            continue
        if r.buf[k].origin == INPUT:
            who = argument_index(out, inputs)
            p.results.append((k, who if who is not out else template_of(y, r.buf[k].start)))
            if p.place[k].kind == GONE:
                p.place[k].kind = ARGUMENT
                p.place[k].index = r.buf[k].index
            continue
        if p.place[k].kind == BOUND:
            who, _, _ = p.bound[p.place[k].index]
            if leaf_at(who, inputs)._grad is out:
                p.results.append((k, None))
                continue
        if p.place[k].kind == GONE:
            add_result(p, k)
        p.results.append((k, template_of(y, r.buf[k].start)))
    return True


cdef TensorBase template_of(TensorBase y, const char *start):
    """y's shape and strides, with its offset in the buffer in place of an address."""
    cdef TensorBase t = blank()
    t.a = y.a
    t.a.data = <void *>(<char *>y.a.data - start)
    t.leaf_grad = y.leaf_grad
    return t


cdef bint place_grads(Plan p, Recorder r, list inputs) except -1:
    """Which leaves' gradients a replay expects, and which it binds."""
    cdef TensorBase leaf, g
    cdef int k
    p.bound, p.entry = [], []
    for leaf, before in r.entry.values():
        who = argument_index(leaf, inputs)
        if before is None:
            p.entry.append((who, None, -1))
            continue
        g = before
        k = r.buffer_of(g.storage)
        if k >= 0 and r.buf[k].origin == SLOT:
            p.place[k].kind = ENTRY
            p.entry.append((who, template_of(g, r.buf[k].start), k))
        else:  # the same memory has another part in the step
            p.entry.append((who, g, -1))
    for leaf in r.bound.values():
        who = argument_index(leaf, inputs)
        if leaf._grad is None:
            p.bound.append((who, -1, None))
            continue
        g = leaf._grad
        if g.storage is None:
            if not place_rows(p, r, who, g):
                return False
            continue
        if g.node is not None and g.node.inputs is not None:
            r.why = "a gradient keeps its history (create_graph=True)"
            return False
        k = r.buffer_of(g.storage)
        if k >= 0 and stays_bound(p, who, g, k, r.buf[k].start):
            continue
        if k < 0 or r.buf[k].origin != MADE or k in r.kept or p.place[k].kind != GONE or not r.buf[k].written:
            r.why = f"the gradient of a leaf of shape {leaf.shape} shares memory with something else"
            return False
        p.place[k].kind = BOUND
        p.place[k].index = len(p.bound)
        p.bound.append((who, k, template_of(g, r.buf[k].start)))
    return True


cdef bint stays_bound(Plan p, object who, TensorBase g, int k, const char *start):
    """Whether g, which is bound, is the memory of the gradient that was there already."""
    cdef TensorBase t
    for leaf, template, slot in p.entry:
        if leaf is who and slot == k and p.place[k].kind == ENTRY:
            t = template
            return same_shape(&t.a, &g.a) and same_steps(&t.a, &g.a) and <char *>g.a.data == start + <int64_t>t.a.data
    return False


cdef bint place_rows(Plan p, Recorder r, object who, object g) except -1:
    """A gradient by rows: its numbers and its rows get memory as results do."""
    cdef TensorBase x
    cdef int k
    cdef list parts = []
    for x in (g._index, g._rows):
        k = r.buffer_of(x.storage)
        if k < 0 or r.buf[k].origin != MADE or k in r.kept or p.place[k].kind != GONE or not r.buf[k].written:
            r.why = f"the gradient by rows of a leaf of shape {g.shape} shares memory with something else"
            return False
        add_result(p, k)
        parts.append((k, template_of(x, r.buf[k].start)))
    p.bound.append((who, -1, (type(g), parts, g.shape)))
    return True


cdef int add_result(Plan p, int k) except -1:
    """Buffer k is memory that a replay hands out."""
    p.place[k].kind = RESULT
    p.place[k].index = len(p.spare_bytes)
    p.spare_bytes.append(p.place[k].nbytes)
    return 0


cdef bint place_others(Plan p, Recorder r) except -1:
    cdef int64_t k
    cdef Storage s
    for s, k in r.seen.items():
        if p.place[k].kind == GONE:
            if r.buf[k].origin == INPUT:
                p.place[k].kind = ARGUMENT
                p.place[k].index = r.buf[k].index
            else:
                hold(p, k, s)
    for k in r.kept:
        alone = Py_REFCNT(PyDict_GetItem(r.kept, k)) == 1
        s = r.kept[k]
        if r.buf[k].changed and alone and k in r.inits:
            p.place[k].kind = TEMP
            continue
        if k in r.inits:  # it outlives the step, as the state of an optimizer does: filled once, here
            r.call[<int64_t>r.inits[k]].fn = NULL
        if r.buf[k].changed and alone:
            r.why = f"{s.nbytes} bytes are filled by the host and changed by an effect, all inside"
            return False
        p.place[k].constant = alone and not r.buf[k].written
        hold(p, k, s)
    for k in range(p.n_buf):
        if p.place[k].kind != GONE:
            continue
        if r.buf[k].storage != NULL and r.buf[k].written:
            r.why = (f"a tensor of {r.buf[k].nbytes} bytes, computed inside, is kept outside: in an attribute, a list, "
                     "or the history of something else")
            return False
        if r.buf[k].written:
            p.place[k].kind = TEMP
    return True


cdef int take_tape(Plan p, Recorder r) except -1:
    """The tape's arrays change hands."""
    p.call, r.call = r.call, NULL
    p.arg, r.arg = r.arg, NULL
    p.arg_buf, r.arg_buf = r.arg_buf, NULL
    p.arg_off, r.arg_off = r.arg_off, NULL
    p.arg_mode, r.arg_mode = r.arg_mode, NULL
    p.par, r.par = r.par, NULL
    return 0


# ---- memory ---------------------------------------------------------------------------------------

cdef int lay_out_pool(Plan p) except -1:
    """Offsets of the temporaries: the largest first, each at the lowest place free during its life."""
    cdef int64_t i, j, k, at, end
    cdef Place *b
    cdef Place *o
    for k in range(p.n_buf):
        p.place[k].first, p.place[k].last = -1, -1
    for i in range(p.n_call):
        for j in range(p.call[i].first_arg, p.call[i].first_arg + p.call[i].n_arg):
            if p.arg_buf[j] >= 0:
                b = &p.place[p.arg_buf[j]]
                b.last = <int>i
                if b.first < 0:
                    b.first = <int>i
    temps = sorted([k for k in range(p.n_buf) if p.place[k].kind == TEMP and p.place[k].first >= 0],
                   key=lambda k: (-p.place[k].nbytes, p.place[k].first))
    placed = []  # by offset
    p.pool_bytes = 0
    for k in temps:
        b = &p.place[k]
        at = 0
        for i in placed:
            o = &p.place[i]
            if o.last < b.first or b.last < o.first:
                continue
            if at + b.nbytes <= o.offset:
                break
            end = o.offset + o.nbytes
            at = max(at, (end + 63) // 64 * 64)
        b.offset = at
        p.pool_bytes = max(p.pool_bytes, at + b.nbytes)
        _insort(placed, k, key=lambda k: p.place[k].offset)
    return 0


cdef int let_go(Plan p) except -1:
    """Holds no memory that no call is left to use."""
    cdef int64_t k
    cdef list held = []
    for k in range(p.n_buf):
        if p.place[k].kind == FIXED and p.place[k].first < 0:
            p.place[k].kind = GONE
        elif p.place[k].kind == FIXED:
            held.append(p.held[p.place[k].index])
            p.place[k].index = <int>len(held) - 1
    p.held = held
    return 0


cdef int find_uses(Plan p) except -1:
    """For each buffer the arguments that point into it."""
    cdef int64_t i, j, k, n = 0
    for i in range(p.n_call):
        n += p.call[i].n_arg
    p.first_use = <int32_t *>calloc(p.n_buf + 1, sizeof(int32_t))
    p.use = <int32_t *>calloc(max(1, n), sizeof(int32_t))
    if p.first_use == NULL or p.use == NULL:
        raise MemoryError("compile: out of memory for the plan")
    for i in range(p.n_call):
        for j in range(p.call[i].first_arg, p.call[i].first_arg + p.call[i].n_arg):
            if p.arg_buf[j] >= 0:
                p.first_use[p.arg_buf[j] + 1] += 1
    for k in range(p.n_buf):
        p.first_use[k + 1] += p.first_use[k]
    cdef int32_t *at = <int32_t *>malloc(max(1, p.n_buf) * sizeof(int32_t))
    if at == NULL:
        raise MemoryError("compile: out of memory for the plan")
    memcpy(at, p.first_use, p.n_buf * sizeof(int32_t))
    for i in range(p.n_call):
        for j in range(p.call[i].first_arg, p.call[i].first_arg + p.call[i].n_arg):
            k = p.arg_buf[j]
            if k >= 0:
                p.use[at[k]] = <int32_t>j
                at[k] += 1
    free(at)
    return 0


cdef int find_undo(Plan p) except -1:
    """What is written before the last call that may fail: memory of the program's is put back where one does, and
    a gradient that is still bound from the last replay gets none of it."""
    cdef int64_t i, j, k, last = -1
    cdef set checked = set()
    p.undo, p.early = [], [False] * len(p.bound)
    for i in range(p.n_call):
        if may_fail(p.ops[i]) and checks_anew(p, i, checked):
            last = i
    for i in range(last):
        for j in range(p.call[i].first_arg, p.call[i].first_arg + p.call[i].n_arg):
            k = p.arg_buf[j]
            if k < 0 or not p.arg_mode[j] & WRITE:
                continue
            if p.place[k].kind == BOUND:
                p.early[p.place[k].index] = True
            elif is_outside(p, k) and k not in p.undo and p.place[k].nbytes <= UNDO_BYTES:
                p.undo.append(k)
    return 0


cdef bint checks_anew(Plan p, int64_t i, set checked) except -1:
    """Whether call i checks anything but constants, and indices that a call before it has checked; these are added to
    checked."""
    cdef OpBase op = p.ops[i]
    cdef int64_t j, before = len(checked)
    cdef int k
    cdef set valid = {*(getattr(op, "valid", None) or ()), *(getattr(op.fwd, "valid", None) or ())}
    if op.n_fixed < op.n_in or not valid.issubset(op.in_names):
        return True
    for k in range(op.n_in):
        j = p.call[i].first_arg + k
        if p.arg_buf[j] < 0 or p.place[p.arg_buf[j]].constant:
            continue
        if op.in_names[k] in valid:
            return True
        if op.spec[k].bound >= 0:
            if p.place[p.arg_buf[j]].kind not in (ARGUMENT, FIXED) or p.place[p.arg_buf[j]].written:
                return True
            checked.add((view_key(p, j), p.arg_buf[j], shape_tuple(&p.arg[j]), p.call[i].dims.sym[op.spec[k].bound]))
    return len(checked) > before
