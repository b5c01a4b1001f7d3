# The plan: a tape whose lifetimes are known, so that every temporary has a fixed place in one pool; and its
# instances, each a pool with the calls patched to point into it. Replay runs an instance's calls in one C loop.

cdef enum:
    TEMP, FIXED, ARGUMENT, RESULT, BOUND, ENTRY, GONE  # where a buffer's memory comes from in a replay
    N_SPARE = 2              # memory of results that the caller has dropped is used again
    UNDO_BYTES = 1 << 20     # effects before a check are undone where they write no more

cdef double REPLAY_GIL_NS = 20e3  # the GIL is released where a whole replay is estimated to take longer

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


@cython.final
cdef class Plan:
    """An immutable list of calls. What a replay reads besides: the memory held, arguments, `.grad`s."""
    cdef TapeCall *call
    cdef pn_array *arg
    cdef int32_t *arg_buf
    cdef int64_t *arg_off
    cdef uint8_t *arg_mode
    cdef pn_value *par
    cdef Place *place
    cdef readonly int64_t n_call, n_arg, n_buf, pool_bytes
    cdef int64_t n_par
    cdef int32_t *use           # the arguments that point into a buffer whose memory changes, by buffer
    cdef int32_t *first_use     # of each buffer, n_buf + 1
    cdef readonly double cost   # estimated serial nanoseconds of a replay
    cdef list ops
    cdef list held              # Storages, by index
    cdef list written_held      # those of them that a replay writes
    cdef readonly list written_args  # indices of arguments that it writes
    cdef readonly list leaves   # (leaf, its storage, whether it asks for a gradient), of what it reads
    cdef list vary              # buffers of arguments and of results
    cdef list results           # (buffer, Tensor that shows shape and place, or the object to return) each
    cdef list spare_bytes       # of each result's memory
    cdef list bound             # (leaf or argument index, buffer or -1, template) each: grads that a replay binds
    cdef list entry             # (leaf or argument index, template or None, buffer): grads that it expects
    cdef list undo              # held Storages that are written before the last call that may fail
    cdef list idle              # Instances that wait
    cdef readonly int64_t n_instance

    def __dealloc__(self):
        free(self.call)
        free(self.arg)
        free(self.arg_buf)
        free(self.arg_off)
        free(self.arg_mode)
        free(self.par)
        free(self.place)
        free(self.use)
        free(self.first_use)

    @property
    def nbytes(self):
        """Bytes that the plan and its instances keep, apart from what it shares with the program."""
        cdef int64_t n = self.n_arg * (sizeof(pn_array) + 13) + self.n_call * sizeof(TapeCall)
        return n + self.n_instance * (self.pool_bytes + self.n_arg * sizeof(pn_array) + self.n_call * sizeof(pn_call))


cdef bint may_fail(OpBase op):
    """Whether op's kernel checks values of its arguments."""
    cdef int k
    for k in range(op.n_in):
        if op.spec[k].bound >= 0:
            return True
    return bool(getattr(op, "valid", None)) or (op.fwd is not None and may_fail(op.fwd))


def plan_of(Recorder r not None, list inputs, list outs):
    """The plan of what r recorded: a function of `inputs` that gave `outs`, Tensors and other objects.

    Returns None, with the reason in r.why, where a replay could not do the same.
    """
    cdef Plan p = Plan.__new__(Plan)
    cdef int64_t k
    r.stop()
    if r.why is not None:
        return None
    p.n_buf, p.n_call, p.n_arg, p.n_par = r.n_buf, r.n_call, r.n_arg, r.n_par
    p.ops, p.held, p.idle, p.leaves = r.ops, [], [], list(r.leaves.values())
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
    drop_dead(p)
    lay_out_pool(p)
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


cdef object argument_index(object leaf, list inputs):
    """leaf, or its place among the arguments."""
    for k, x in enumerate(inputs):
        if x is leaf:
            return k
    return leaf


cdef bint place_results(Plan p, Recorder r, list inputs, list outs) except -1:
    """Where what the function returned comes from."""
    cdef TensorBase y
    cdef int k
    p.results, p.spare_bytes = [], []
    for out in outs:
        if not isinstance(out, TensorBase):
            p.results.append((-1, out))
            continue
        y = out
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
            p.place[k].kind = RESULT
            p.place[k].index = len(p.spare_bytes)
            p.spare_bytes.append(r.buf[k].nbytes)
        p.results.append((k, template_of(y, r.buf[k].start)))
    return True


cdef TensorBase template_of(TensorBase y, const char *start):
    """y's shape and strides, with its offset in the buffer in place of an address."""
    cdef TensorBase t = blank()
    t.a = y.a
    t.a.data = <void *>(<char *>y.a.data - start)
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
        if g.node is not None and g.node.inputs is not None:
            r.why = "a gradient keeps its history (create_graph=True)"
            return False
        k = r.buffer_of(g.storage)
        if k < 0 or r.buf[k].origin != MADE or k in r.kept or p.place[k].kind != GONE or not r.buf[k].written:
            r.why = f"the gradient of a leaf of shape {leaf.shape} shares memory with something else"
            return False
        p.place[k].kind = BOUND
        p.place[k].index = len(p.bound)
        p.bound.append((who, k, template_of(g, r.buf[k].start)))
    return True


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


# ---- passes --------------------------------------------------------------------------------------

cdef int drop_dead(Plan p) except -1:
    """Leaves out calls whose results no one reads."""
    cdef int64_t i, j, k, n = 0
    cdef bint live
    cdef uint8_t *wanted = <uint8_t *>calloc(max(1, p.n_buf), 1)
    cdef uint8_t *keep = <uint8_t *>calloc(max(1, p.n_call), 1)
    cdef list ops = []
    if wanted == NULL or keep == NULL:
        free(wanted)
        free(keep)
        raise MemoryError("compile: out of memory for the plan")
    for i in range(p.n_call - 1, -1, -1):
        live = may_fail(p.ops[i])
        for j in range(p.call[i].first_arg, p.call[i].first_arg + p.call[i].n_arg):
            k = p.arg_buf[j]
            if k >= 0 and p.arg_mode[j] & WRITE and (wanted[k] or p.place[k].kind != TEMP):
                live = True
        if live and p.call[i].fn != NULL:
            keep[i] = 1
            for j in range(p.call[i].first_arg, p.call[i].first_arg + p.call[i].n_arg):
                if p.arg_buf[j] >= 0 and p.arg_mode[j] & READ:
                    wanted[p.arg_buf[j]] = 1
    for i in range(p.n_call):
        if keep[i]:
            p.call[n] = p.call[i]
            ops.append(p.ops[i])
            n += 1
    p.n_call = n
    p.ops = ops
    free(wanted)
    free(keep)
    return 0


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
        insort(placed, k, key=lambda k: p.place[k].offset)
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
    """Memory that effects write before the last call that may fail: it is put back where one does."""
    cdef int64_t i, j, k, last = -1
    p.undo = []
    for i in range(p.n_call):
        if may_fail(p.ops[i]):
            last = i
    for i in range(last):
        for j in range(p.call[i].first_arg, p.call[i].first_arg + p.call[i].n_arg):
            k = p.arg_buf[j]
            if k >= 0 and p.arg_mode[j] & WRITE and p.place[k].kind == FIXED:
                s = p.held[p.place[k].index]
                if s not in p.undo and (<Storage>s).nbytes <= UNDO_BYTES:
                    p.undo.append(s)
    return 0


# ---- instances -----------------------------------------------------------------------------------

@cython.final
cdef class Instance:
    """A pool, and the calls patched to point into it. One replay at a time runs in it."""
    cdef Plan plan
    cdef Storage pool
    cdef pn_array *arg
    cdef pn_call *call
    cdef char **now             # where the buffers with changing memory lie
    cdef list grads             # Tensors that were bound last
    cdef list spare             # memory of results, N_SPARE each

    def __dealloc__(self):
        free(self.arg)
        free(self.call)
        free(self.now)


cdef Instance new_instance(Plan p):
    cdef Instance n = Instance.__new__(Instance)
    cdef int64_t i, j, k
    cdef char *base
    n.plan = p
    n.pool = new_storage(p.pool_bytes)
    n.arg = <pn_array *>malloc(max(1, p.n_arg) * sizeof(pn_array))
    n.call = <pn_call *>calloc(max(1, p.n_call), sizeof(pn_call))
    n.now = <char **>calloc(max(1, p.n_buf), sizeof(char *))
    if n.arg == NULL or n.call == NULL or n.now == NULL:
        raise MemoryError("compile: out of memory for the plan")
    memcpy(n.arg, p.arg, p.n_arg * sizeof(pn_array))
    for i in range(p.n_call):
        n.call[i].arg = &n.arg[p.call[i].first_arg]
        n.call[i].par = &p.par[p.call[i].first_par]
        n.call[i].n_arg = p.call[i].n_arg
        n.call[i].n_worker = p.call[i].n_worker
        for j in range(p.call[i].first_arg, p.call[i].first_arg + p.call[i].n_arg):
            k = p.arg_buf[j]
            if k < 0:
                continue
            if p.place[k].kind == TEMP:
                base = <char *>n.pool.data + p.place[k].offset
            elif p.place[k].kind == FIXED:
                base = <char *>(<Storage>p.held[p.place[k].index]).data
            else:
                continue
            n.arg[j].data = base + p.arg_off[j]
    n.grads = [None] * len(p.bound)
    n.spare = [None] * (N_SPARE * len(p.spare_bytes))
    p.n_instance += 1
    return n


cdef inline void point(Instance n, int64_t k, void *base) noexcept:
    """Lets the arguments of buffer k lie at base."""
    cdef Plan p = n.plan
    cdef int32_t i
    if n.now[k] == <char *>base:
        return
    n.now[k] = <char *>base
    for i in range(p.first_use[k], p.first_use[k + 1]):
        n.arg[p.use[i]].data = <char *>base + p.arg_off[p.use[i]]


cdef Storage spare_storage(Instance n, int k):
    """Memory for the k-th result: some that its last owner has dropped, or new."""
    cdef int i
    cdef Storage s
    cdef PyObject *o
    for i in range(N_SPARE * k, N_SPARE * (k + 1)):
        o = PyList_GET_ITEM(n.spare, i)
        if o != <PyObject *>None and Py_REFCNT(o) == 1 and not (<Storage>o).exposed:
            s = <Storage>o
            s.version = tick()
            return s
    s = new_storage(n.plan.spare_bytes[k])
    for i in range(N_SPARE * k, N_SPARE * (k + 1)):
        if n.spare[i] is None or i == N_SPARE * (k + 1) - 1:
            n.spare[i] = n.spare[N_SPARE * k] if n.spare[i] is not None else s
            if n.spare[i] is not s:
                n.spare[N_SPARE * k] = s
            return s


cdef TensorBase spare_grad(Instance n, int i, TensorBase leaf, TensorBase shape, int64_t nbytes):
    """A Tensor for leaf's gradient: the one bound last where no one else holds it, or a new one."""
    cdef TensorBase t
    cdef PyObject *o = PyList_GET_ITEM(n.grads, i)
    cdef bint mine = o != <PyObject *>None
    if mine:
        mine = (Py_REFCNT(o) == 1 + (leaf._grad is <object>o) and
                Py_REFCNT(<PyObject *>(<TensorBase>o).storage) == 1 and not (<TensorBase>o).storage.exposed and
                (<TensorBase>o).node is None and not (<TensorBase>o).leaf_grad)
    if mine:
        t = <TensorBase>o
        t.storage.version = tick()
        return t
    t = blank()
    t.a = shape.a
    t.storage = new_storage(nbytes)
    t.a.data = <char *>t.storage.data + <int64_t>shape.a.data
    n.grads[i] = t
    return t


cdef inline TensorBase leaf_at(object who, list inputs):
    return <TensorBase>who if isinstance(who, TensorBase) else <TensorBase>inputs[who]


cdef bint grads_fit(Plan p, list inputs):
    """Whether the leaves' gradients are there, or not, as they were when the plan was made."""
    cdef TensorBase leaf, want, g
    for who, template, k in p.entry:
        leaf = leaf_at(who, inputs)
        if template is None:
            if leaf._grad is not None:
                return False
            continue
        if leaf._grad is None:
            return False
        g = leaf._grad
        if k < 0:
            if g is not template:
                return False
            continue
        want = template
        if (g.a.dtype != want.a.dtype or not same_shape(&g.a, &want.a) or not same_steps(&g.a, &want.a) or
                g.node is not None or g.storage.readonly or
                <char *>g.a.data != <char *>g.storage.data + <int64_t>want.a.data):
            return False
    return True


cdef list run_plan(Plan p, list inputs, list ins):
    """Replays p. inputs: the arguments' tensors; ins: the same in the layout that p expects."""
    cdef Instance n = p.idle.pop() if p.idle else new_instance(p)
    cdef list outs
    try:
        outs = run_instance(n, inputs, ins, NULL)
    finally:
        p.idle.append(n)
    return outs


cdef list run_instance(Instance n, list inputs, list ins, int64_t *times):
    cdef Plan p = n.plan
    cdef list stores = [], grads = [], entries = [], before = None, outs = []
    cdef TensorBase x, leaf, t
    cdef Storage s
    cdef int64_t k, failed
    cdef int i
    for who, template, k in p.entry:
        if k >= 0:
            t = leaf_at(who, inputs)._grad
            entries.append(t.storage)
            point(n, k, t.storage.data)
    for i in range(len(p.spare_bytes)):
        stores.append(spare_storage(n, i))
    for i in range(len(p.bound)):
        who, k, template = p.bound[i]
        if k >= 0:
            t = spare_grad(n, i, leaf_at(who, inputs), template, p.place[k].nbytes)
            grads.append(t)
            point(n, k, t.storage.data)
        else:
            grads.append(None)
    for k in p.vary:
        i = p.place[k].index
        point(n, k, (<TensorBase>ins[i]).storage.data if p.place[k].kind == ARGUMENT else (<Storage>stores[i]).data)
    if p.undo:
        before = [PyBytes_FromStringAndSize(<char *>(<Storage>s).data, (<Storage>s).nbytes) for s in p.undo]
    failed = run_calls(n, times)
    if failed < p.n_call:
        for s, old in zip(p.undo, before or ()):
            memcpy((<Storage>s).data, <const char *>old, (<Storage>s).nbytes)
        call_failed(n, failed)
    for s in p.written_held:
        s.version = tick()
    for s in entries:
        s.version = tick()
    for k in p.written_args:
        (<TensorBase>ins[k]).storage.version = tick()
    for i in range(len(p.bound)):
        leaf_at(p.bound[i][0], inputs)._grad = grads[i]
    for k, what in p.results:
        if k < 0:
            outs.append(what)
        elif isinstance(what, int):
            outs.append(inputs[what])
        else:
            if p.place[k].kind == BOUND:
                t = <TensorBase>grads[p.place[k].index]
                if what is None:
                    outs.append(t)
                    continue
                s = t.storage
            elif p.place[k].kind == ARGUMENT:
                s = (<TensorBase>ins[p.place[k].index]).storage
            else:
                s = stores[p.place[k].index]
            t = blank()
            t.a = (<TensorBase>what).a
            t.a.data = <char *>s.data + <int64_t>t.a.data
            t.storage = s
            outs.append(t)
    return outs


cdef int64_t run_calls(Instance n, int64_t *times):
    """Runs the calls; the place of the one that failed, or their number."""
    cdef int64_t failed
    cdef bint hot = pn_get_num_threads() > 1
    if pn_anomaly:
        return run_checked(n)
    if hot:
        pn_hot(1)
    if n.plan.cost > REPLAY_GIL_NS:
        with nogil:
            failed = call_all(n.plan.call, n.call, n.plan.n_call, times)
    else:
        failed = call_all(n.plan.call, n.call, n.plan.n_call, times)
    if hot:
        pn_hot(0)
    return failed


cdef int64_t call_all(const TapeCall *tape, pn_call *call, int64_t n, int64_t *times) noexcept nogil:
    cdef int64_t i
    for i in range(n):
        tape[i].fn(&call[i])
        if call[i].err.code != PN_OK:
            return i
        if times != NULL:
            times[i] = nanoseconds()
    return n


cdef int64_t nanoseconds() noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_MONOTONIC, &t)
    return t.tv_sec * 1000000000 + t.tv_nsec


cdef int64_t run_checked(Instance n) except -1:
    """Runs the calls under detect_anomaly: each one's outputs are looked at."""
    cdef Plan p = n.plan
    cdef int64_t i, j
    for i in range(p.n_call):
        p.call[i].fn(&n.call[i])
        if n.call[i].err.code != PN_OK:
            return i
        for j in range(p.call[i].n_arg):
            if p.arg_mode[p.call[i].first_arg + j] & WRITE and n.call[i].arg[j].dtype <= PN_F64:
                check_finite(p.ops[i], &n.call[i].arg[j], 1)
    return p.n_call


cdef int call_failed(Instance n, int64_t i) except -1:
    """Raises what call i reported."""
    cdef pn_call c = n.call[i]
    memset(&n.call[i].err, 0, sizeof(pn_error))
    return kernel_error(n.plan.ops[i], &c, &n.plan.call[i].dims)
