# Instances of a plan, each a pool with the calls patched to point into it. A replay points an instance at the
# arguments, results and gradients of the moment and runs its calls in one C loop.

cdef enum:
    N_SPARE = 2              # memory of results that the caller has dropped is used again
    N_TIMED = 8              # replays of a plan that are timed
    POOL_ALONE = 4 << 20     # bytes of a pool that asks for the allocator's free memory to be given back first

# The GIL is released where a whole replay takes longer. Beside a busy Python thread each release may cost that
# thread's 5 ms, so that an estimate does not do: entries count for far more than a call in the caches takes.
cdef double REPLAY_GIL_NS = 20e3


@cython.final
cdef class Instance:
    """A pool, and the calls patched to point into it. One replay at a time runs in it."""
    cdef Plan plan              # None while it is idle: the plan holds it then, and would never go without a collector
    cdef Storage pool
    cdef pn_array *arg
    cdef pn_call *call
    cdef char **now             # where the buffers with changing memory lie
    cdef list grads             # Tensors that were bound last
    cdef list others            # in turn with those that are written before a check
    cdef list spare             # memory of results, N_SPARE each

    def __dealloc__(self):
        free(self.arg)
        free(self.call)
        free(self.now)


cdef Instance take_instance(Plan p):
    """An instance that waits, or a new one."""
    cdef Instance n = p.idle.pop() if p.idle else new_instance(p)
    n.plan = p
    return n


cdef int give_back(Plan p, Instance n) except -1:
    n.plan = None
    p.idle.append(n)
    return 0


cdef Instance new_instance(Plan p):
    cdef Instance n = Instance.__new__(Instance)
    cdef int64_t i, j, k
    cdef char *base
    if p.pool_bytes >= POOL_ALONE:  # it takes the place of what the recording left free
        pn_empty_cache()
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
    n.grads, n.others = [None] * len(p.bound), [None] * len(p.bound)
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
    cdef PyObject *o
    if n.grads[i] is None and not n.plan.entry and not n.plan.early[i] and fills(leaf._grad, shape, nbytes):
        n.grads[i] = leaf._grad  # of a step that was no replay of this instance's
    o = PyList_GET_ITEM(n.grads, i)
    cdef bint mine = o != <PyObject *>None
    if mine:
        mine = (Py_REFCNT(o) == 1 + (leaf._grad is <object>o) and
                Py_REFCNT(<PyObject *>(<TensorBase>o).storage) == 1 and not (<TensorBase>o).storage.exposed and
                (<TensorBase>o).node is None and not (<TensorBase>o).leaf_grad)
    if mine:
        t = <TensorBase>o
        t.storage.version = tick()
        return t
    t = placed(shape, new_storage(nbytes))
    n.grads[i] = t
    return t


cdef bint fills(TensorBase t, TensorBase like, int64_t nbytes):
    """Whether t has like's place in nbytes of memory of its own."""
    return (t is not None and t.storage is not None and not t.storage.borrowed and t.storage.nbytes == nbytes and
            t.a.dtype == like.a.dtype and same_shape(&t.a, &like.a) and same_steps(&t.a, &like.a) and
            <char *>t.a.data == <char *>t.storage.data + <int64_t>like.a.data)


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
        if g.storage is None and template is not g:  # by rows
            return False
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
    cdef Instance n = take_instance(p)
    cdef list outs
    try:
        outs = run_instance(n, inputs, ins, NULL)
    finally:
        give_back(p, n)
    return outs


cdef list run_instance(Instance n, list inputs, list ins, int64_t *times):
    cdef Plan p = n.plan
    cdef list stores = [], grads = [], entries = [], before = None, outs = []
    cdef TensorBase t
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
            t = leaf_at(who, inputs)
            if p.early[i] and n.grads[i] is t._grad:  # what is bound may have to stay as it is
                n.grads[i], n.others[i] = n.others[i], n.grads[i]
            t = spare_grad(n, i, t, template, p.place[k].nbytes)
            grads.append(t)
            point(n, k, t.storage.data)
        else:
            grads.append(None)
    for k in p.vary:
        i = p.place[k].index
        point(n, k, (<TensorBase>ins[i]).storage.data if p.place[k].kind == ARGUMENT else (<Storage>stores[i]).data)
    if p.undo:
        before = [PyBytes_FromStringAndSize(memory_of(n, k), p.place[k].nbytes) for k in p.undo]
    try:
        failed = run_calls(n, times)
        if failed < p.n_call:
            for k, old in zip(p.undo, before or ()):
                memcpy(memory_of(n, k), <const char *>old, p.place[k].nbytes)
            call_failed(n, failed)
    finally:  # what was written has another version, whatever came of it
        for s in p.written_held:
            s.version = tick()
        for s in entries:
            s.version = tick()
        for k in p.written_args:
            (<TensorBase>ins[k]).storage.version = tick()
    for i in range(len(p.bound)):
        template = p.bound[i][2]
        leaf_at(p.bound[i][0], inputs)._grad = rows_at(p, template, stores) if type(template) is tuple else grads[i]
    for k, what in p.results:
        if k < 0:
            outs.append(what if k == -1 else outs[what])
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
            outs.append(placed(what, s))
    return outs


cdef inline char *memory_of(Instance n, int64_t k) noexcept:
    """Where a buffer of the program's lies in this replay."""
    cdef Place *b = &n.plan.place[k]
    return <char *>(<Storage>n.plan.held[b.index]).data if b.kind == FIXED else n.now[k]


cdef TensorBase placed(TensorBase template, Storage s):
    """A Tensor like template in s."""
    cdef TensorBase t = blank()
    t.a = template.a
    t.a.data = <char *>s.data + <int64_t>template.a.data
    t.storage = s
    t.leaf_grad = template.leaf_grad
    return t


cdef object rows_at(Plan p, tuple template, list stores):
    """The gradient by rows that a replay has left in stores."""
    kind, parts, shape = template
    return kind._of(*[placed(like, stores[p.place[<int64_t>k].index]) for k, like in parts], shape)


cdef int64_t run_calls(Instance n, int64_t *times):
    """Runs the calls; the place of the one that failed, or their number."""
    cdef Plan p = n.plan
    cdef int64_t failed, took = 0
    cdef int64_t *clock = &took if p.n_timed < N_TIMED else NULL
    cdef bint hot = pn_get_num_threads() > 1
    if pn_anomaly:
        return run_checked(n)
    if hot:
        pn_hot(1)
    if p.cost > REPLAY_GIL_NS:
        with nogil:
            failed = call_all(p.call, n.call, p.n_call, times, clock)
    else:
        failed = call_all(p.call, n.call, p.n_call, times, clock)
    if hot:
        pn_hot(0)
    if clock != NULL and failed == p.n_call:
        p.cost = took if p.n_timed == 0 else min(p.cost, <double>took)
        p.n_timed += 1
    return failed


cdef int64_t call_all(const TapeCall *tape, pn_call *call, int64_t n, int64_t *times, int64_t *took) noexcept nogil:
    cdef int64_t i, start = nanoseconds() if took != NULL else 0
    for i in range(n):
        tape[i].fn(&call[i])
        if call[i].err.code != PN_OK:
            return i
        if times != NULL:
            times[i] = nanoseconds()
    if took != NULL:
        took[0] = nanoseconds() - start
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


# ---- what a plan looks like ----------------------------------------------------------------------


def describe_plan(Plan p not None):
    """A row for each call: (op, shapes of what it reads, shapes of what it writes, bytes, flops)."""
    cdef int64_t i, j, n_out, nbytes
    cdef pn_array *a
    rows = []
    for i in range(p.n_call):
        reads, writes = [], []
        nbytes, n_out = 0, 0
        for j in range(p.call[i].first_arg, p.call[i].first_arg + p.call[i].n_arg):
            a = &p.arg[j]
            if a.dtype == PN_NONE or p.arg_buf[j] < 0:
                continue
            nbytes += size_of(a) * ITEMSIZE[a.dtype]
            if p.arg_mode[j] & WRITE:
                n_out = size_of(a) if n_out == 0 else n_out
                writes.append(shape_tuple(a))
            else:
                reads.append(shape_tuple(a))
        rows.append(((<OpBase>p.ops[i]).name, tuple(reads), tuple(writes), nbytes,
                     count_flops(p.ops[i], &p.call[i].dims, n_out)))
    return rows


def n_turned(Plan p not None):
    """How many weights the plan reads from a form of its own."""
    return len(p.turned)


def written_storages(Plan p not None):
    """The storages from before the recording that a replay writes."""
    return list(p.written_held)


def storage_bytes(Storage s not None):
    """A copy of what a storage holds."""
    return PyBytes_FromStringAndSize(<char *>s.data, s.nbytes)


def set_storage_bytes(Storage s not None, bytes old not None):
    """Puts back what storage_bytes gave."""
    if len(old) != s.nbytes:
        raise ValueError(f"set_storage_bytes: expected {s.nbytes} bytes, got {len(old)}")
    memcpy(s.data, <const char *>old, s.nbytes)
    s.version = tick()


def grad_leaves(Plan p not None, list inputs):
    """The leaves whose gradients a replay reads or binds."""
    found = []
    for who, *_ in p.entry + p.bound:
        leaf = leaf_at(who, inputs)
        if not any([leaf is x for x in found]):
            found.append(leaf)
    return found


def timed_replay(Plan p not None, list tensors, list ins):
    """Replays p once: (results, nanoseconds of each call)."""
    cdef Instance n = take_instance(p)
    cdef int64_t *times = <int64_t *>calloc(p.n_call + 1, sizeof(int64_t))
    cdef int64_t i
    if times == NULL:
        raise MemoryError("profile: out of memory")
    try:
        times[0] = nanoseconds()
        outs = run_instance(n, tensors, ins, times + 1)
        return outs, [times[i + 1] - times[i] for i in range(p.n_call)]
    finally:
        free(times)
        give_back(p, n)
