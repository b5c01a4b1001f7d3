# Passes over the tape before its lifetimes are planned. Each leaves every value as it was, bit for bit.

cdef enum:
    WINDOW = 64              # calls in which the next of a chain is looked for
    # weights are turned for so many columns and rows of a linear layer's result
    TURN_COLUMNS = 32
    TURN_FROM = 2
    TURN_TO = 96
    MOST_TURNED = 1 << 28  # bytes that the plans of a function may keep so

cdef int64_t FUSE_BYTES = 1 << 20  # memory traffic that a chain must save


def set_fuse_bytes(int64_t n):
    """Sets the memory traffic, in bytes, that a chain of elementwise calls must save; returns what it was."""
    global FUSE_BYTES
    cdef int64_t old = FUSE_BYTES
    FUSE_BYTES = n
    return old


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


# ---- copies ----------------------------------------------------------------------------------------------

cdef int fold_copies(Plan p) except -1:
    """Lets the readers of a copy read what was copied, or the maker of what is copied write the copy."""
    cdef int64_t i
    cdef dict uses = None
    for i in range(p.n_call):
        if p.call[i].fn == NULL or (<OpBase>p.ops[i]).kernel_id != core_op(OP_COPY).kernel_id:
            continue
        if uses is None:
            uses = uses_of(p)
        if read_source(p, i, uses) or write_target(p, i, uses):
            uses = None
    return 0


cdef dict uses_of(Plan p):
    """{buffer: [(call, argument)]} in order."""
    cdef dict uses = {}
    cdef int64_t i, j
    for i in range(p.n_call):
        for j in range(p.call[i].first_arg, p.call[i].first_arg + p.call[i].n_arg):
            if p.arg_buf[j] >= 0 and p.call[i].fn != NULL:
                uses.setdefault(p.arg_buf[j], []).append((i, j))
    return uses


cdef bint read_source(Plan p, int64_t i, dict uses) except -1:
    """Of y = x, y a temporary that is never written again: its readers read x, where that stays as it is."""
    cdef int64_t x = p.call[i].first_arg, y = x + 1, c, j, last
    cdef bint alike
    if p.arg_buf[x] < 0 or p.arg_buf[y] < 0 or p.arg[x].dtype != p.arg[y].dtype or p.arg_buf[x] == p.arg_buf[y]:
        return False
    readers = [(c, j) for c, j in uses[p.arg_buf[y]] if j != y]
    if p.place[p.arg_buf[y]].kind != TEMP or not readers or any([c < i or p.arg_mode[j] & WRITE for c, j in readers]):
        return False
    last = readers[len(readers) - 1][0]
    if any([i < c <= last and p.arg_mode[j] & WRITE for c, j in uses[p.arg_buf[x]]]):
        return False
    if is_outside(p, p.arg_buf[x]) and writes_outside(p, i + 1, last):
        return False
    alike = same_steps(&p.arg[x], &p.arg[y])
    for c, j in readers:  # those of another layout must take any, and the whole
        if not alike and (len(readers) > 1 or not by_elements(p.ops[c]) or p.arg_off[j] != p.arg_off[y] or
                          not same_shape(&p.arg[j], &p.arg[y]) or not same_steps(&p.arg[j], &p.arg[y])):
            return False
    for c, j in readers:
        p.arg_off[j] += p.arg_off[x] - p.arg_off[y]
        p.arg_buf[j] = p.arg_buf[x]
        if not alike:
            p.arg[j] = p.arg[x]
    p.call[i].fn = NULL
    return True


cdef bint writes_outside(Plan p, int64_t first, int64_t last) noexcept:
    """Whether calls from first to last write memory of the program's, which others may overlap."""
    cdef int64_t i, j
    for i in range(first, last + 1):
        for j in range(p.call[i].first_arg, p.call[i].first_arg + p.call[i].n_arg):
            if p.arg_mode[j] & WRITE and is_outside(p, p.arg_buf[j]):
                return True
    return False


cdef inline bint is_outside(Plan p, int64_t k) noexcept:
    """Whether buffer k is memory of the program's, which other memory of it may overlap."""
    return k >= 0 and p.place[k].kind in (FIXED, ARGUMENT, ENTRY)


cdef bint write_target(Plan p, int64_t i, dict uses) except -1:
    """Of y = x, x a temporary and y memory that is handed out: what makes x makes it in y."""
    cdef int64_t x = p.call[i].first_arg, y = x + 1, c, j
    cdef int32_t old = p.arg_buf[x], new = p.arg_buf[y]
    if old < 0 or new < 0 or old == new or p.arg[x].dtype != p.arg[y].dtype or p.arg_off[x] or p.arg_off[y]:
        return False
    if p.place[old].kind != TEMP or p.place[new].kind not in (RESULT, BOUND) or \
            p.place[old].nbytes != p.place[new].nbytes or not same_steps(&p.arg[x], &p.arg[y]) or \
            distinct_bytes(&p.arg[x]) != p.place[old].nbytes:
        return False
    if any([c < i or (j != y and p.arg_mode[j] & WRITE) for c, j in uses[new]]):
        return False
    if any([c > i and p.arg_mode[j] & WRITE for c, j in uses[old]]):
        return False
    for c, j in uses[old]:
        p.arg_buf[j] = new
    p.call[i].fn = NULL
    return True


# ---- chains of elementwise calls ---------------------------------------------------------------------

@cython.final
cdef class Chain:
    """Calls of one shape that a single pass over memory can make, one after another, tile by tile."""
    cdef Plan plan
    cdef list calls          # in order
    cdef dict views          # buffer → the one view of it that is written, or the views that are read
    cdef set written         # buffers
    cdef int64_t n_arg

    def __init__(self, Plan p):
        self.plan, self.calls, self.views, self.written = p, [], {}, set()

    cdef bint take(self, int64_t i) except -1:
        """Appends call i where it fits."""
        cdef Plan p = self.plan
        cdef int64_t j, k
        cdef set written = set()
        cdef dict views = {}
        for j in range(p.call[i].first_arg, p.call[i].first_arg + p.call[i].n_arg):
            k = p.arg_buf[j]
            if k < 0:
                continue
            views.setdefault(k, set(self.views.get(k, ()))).add(view_key(p, j))
            if p.arg_mode[j] & WRITE:
                written.add(k)
        written |= self.written
        if self.n_arg + p.call[i].n_arg > PN_CHAIN_ARGS or len(self.calls) == PN_CHAIN_CALLS:
            return False
        for k in written:
            if len(views.get(k) or self.views[k]) > 1:  # a tile would not be all that a place depends on
                return False
        views = {**self.views, **views}
        if sum([len(v) for v in views.values()]) > PN_CHAIN_ARRAYS:
            return False
        self.views, self.written = views, written
        self.calls.append(i)
        self.n_arg += p.call[i].n_arg
        return True

    cdef Chain connected(self):
        """What of it works on buffers that lead to those of its first call."""
        cdef Plan p = self.plan
        cdef Chain t = Chain(p)
        cdef set near = set(), mine
        cdef int64_t i, size = -1
        while size < len(near):
            size = len(near)
            for i in self.calls:
                mine = buffers_of(p, i)
                if not near or near & mine:
                    near |= mine
        for i in self.calls:
            if near & buffers_of(p, i):
                t.take(i)
        return t

    cdef dict inner(self, const int32_t *uses):
        """{buffer: slot} of temporaries that nothing else uses; uses: of each buffer in the whole plan."""
        cdef dict own = {}, last = {}, slots = {}
        cdef set met = set()  # a slot is given when an array is made, or never
        cdef list idle = list(range(PN_CHAIN_SLOTS))
        cdef Plan p = self.plan
        cdef int64_t i, j, k
        for i in self.calls:
            for j in range(p.call[i].first_arg, p.call[i].first_arg + p.call[i].n_arg):
                own[p.arg_buf[j]] = own.get(p.arg_buf[j], 0) + 1
                last[p.arg_buf[j]] = i
        for i in self.calls:
            for j in range(p.call[i].first_arg, p.call[i].first_arg + p.call[i].n_arg):
                k = p.arg_buf[j]
                if k >= 0 and k not in met and p.place[k].kind == TEMP and own[k] == uses[k] and idle:
                    slots[k] = idle.pop(0)
                met.add(k)
            idle = sorted(idle + [slots[k] for k in slots if last[k] == i])
        return slots

    cdef int64_t saved(self, dict inner) except -1:
        """Bytes that memory moves less: those of inner arrays, and what several calls read."""
        cdef Plan p = self.plan
        cdef int64_t i, j, n = 0
        cdef set seen = set()
        for i in self.calls:
            for j in range(p.call[i].first_arg, p.call[i].first_arg + p.call[i].n_arg):
                if p.arg_buf[j] < 0:
                    continue
                key = p.arg_buf[j], view_key(p, j)
                if p.arg_buf[j] in inner or key in seen:
                    n += distinct_bytes(&p.arg[j])
                seen.add(key)
        return n


cdef set buffers_of(Plan p, int64_t i):
    return {p.arg_buf[j] for j in range(p.call[i].first_arg, p.call[i].first_arg + p.call[i].n_arg)
            if p.arg_buf[j] >= 0}


cdef tuple view_key(Plan p, int64_t j):
    """What argument j sees of its buffer; the shape is that of the chain."""
    cdef pn_array *a = &p.arg[j]
    return p.arg_off[j], a.dtype, tuple([a.strides[d] if a.shape[d] != 1 else 0 for d in range(a.ndim)])


cdef int64_t distinct_bytes(const pn_array *a) noexcept nogil:
    cdef int64_t n = ITEMSIZE[a.dtype]
    cdef int d
    for d in range(a.ndim):
        n *= 1 if a.strides[d] == 0 else a.shape[d]
    return n


cdef bint by_elements(OpBase op):
    """Whether element i of every result of op's kernel depends on the i-th elements of its arguments alone."""
    cdef int k
    if op.kernel_id < 0 or op.has_scratch or op.order != ANY_ORDER or op.shape_fn is not None or op.n_fixed < op.n_in:
        return False
    for k in range(op.n_in + op.n_out):
        if op.spec[k].ell != 0 or op.spec[k].n_dims or op.spec[k].bound >= 0:
            return False
    return not may_fail(op)


cdef bint can_chain(Plan p, int64_t i) except -1:
    """Whether call i is elementwise, and large enough."""
    cdef int64_t j, total = 0
    cdef pn_array *a
    cdef pn_array *lead = NULL
    for j in range(p.call[i].first_arg, p.call[i].first_arg + p.call[i].n_arg):
        a = &p.arg[j]
        if a.dtype == PN_NONE:
            continue
        if p.arg_buf[j] < 0 or (lead != NULL and not same_shape(lead, a)):
            return False
        if p.arg_mode[j] & WRITE and is_outside(p, p.arg_buf[j]):
            return False
        lead = a
        total += distinct_bytes(a)
    return lead != NULL and total * PN_CHAIN_CALLS >= FUSE_BYTES and by_elements(p.ops[i])


cdef int fuse_chains(Plan p) except -1:
    """Elementwise calls that feed one another become one where memory traffic falls."""
    cdef int64_t i, j
    cdef list found = []
    cdef Chain t
    cdef int32_t *uses
    cdef uint8_t *fit
    if pn_anomaly:  # each result is looked at
        return 0
    uses = <int32_t *>calloc(max(1, p.n_buf), sizeof(int32_t))
    fit = <uint8_t *>calloc(max(1, p.n_call), 1)
    try:
        if uses == NULL or fit == NULL:
            raise MemoryError("compile: out of memory for the plan")
        for i in range(p.n_call):
            fit[i] = can_chain(p, i)
            for j in range(p.call[i].first_arg, p.call[i].first_arg + p.call[i].n_arg):
                if p.arg_buf[j] >= 0:
                    uses[p.arg_buf[j]] += 1
        for i in range(p.n_call):
            if fit[i]:
                t = chain_from(p, i, fit)
                inner = t.inner(uses)
                if len(t.calls) > 1 and t.saved(inner) >= FUSE_BYTES:
                    found.append((t, inner))
                    for j in t.calls:
                        fit[j] = 0
        if found:
            replace_chains(p, found)
    finally:
        free(uses)
        free(fit)
    return 0


cdef Chain chain_from(Plan p, int64_t first, const uint8_t *fit):
    """The chain that begins with a call: those after it that may run at its place."""
    cdef Chain t = Chain(p)
    cdef int64_t i, j, k
    cdef set read = set(), written = set()  # by the calls passed over
    cdef bint free_to_move, outside = False
    t.take(first)
    for i in range(first + 1, min(p.n_call, first + WINDOW)):
        if fit[i] and same_shape(&p.arg[p.call[i].first_arg], &p.arg[p.call[first].first_arg]):
            free_to_move = True
            for j in range(p.call[i].first_arg, p.call[i].first_arg + p.call[i].n_arg):
                k = p.arg_buf[j]
                if k in written or (k in read and p.arg_mode[j] & WRITE) or (outside and is_outside(p, k)):
                    free_to_move = False
            if free_to_move and t.take(i):
                continue
        if may_fail(p.ops[i]):
            break
        outside = outside or writes_outside(p, i, i)
        for j in range(p.call[i].first_arg, p.call[i].first_arg + p.call[i].n_arg):
            if p.arg_buf[j] >= 0:
                if p.arg_mode[j] & WRITE:
                    written.add(p.arg_buf[j])
                if p.arg_mode[j] & READ:
                    read.add(p.arg_buf[j])
    return t.connected()


cdef int replace_chains(Plan p, list found) except -1:
    """Puts a call of pn_chain_run in the place of the first call of each chain; the others go."""
    cdef int64_t i, n_arg = p.n_arg, n = 0
    cdef Chain t
    cdef TapeCall call
    cdef dict first = {}, inner
    cdef set gone = set()
    cdef list ops = []
    for t, inner in found:
        first[t.calls[0]] = t, inner
        gone.update(t.calls[1:])
        n_arg += PN_CHAIN_ARRAYS + 1
    resize_plan(p, n_arg, p.n_par + len(found), p.n_buf + len(found))
    p.chain = <pn_chain *>calloc(len(found), sizeof(pn_chain))
    if p.chain == NULL:
        raise MemoryError("compile: out of memory for the plan")
    for i in range(p.n_call):
        if i in gone:
            continue
        call = p.call[i]
        if i in first:
            t, inner = first[i]
            ops.append(chain_op(t))
            write_chain(t, inner, &call)
        else:
            ops.append(p.ops[i])
        p.call[n] = call
        n += 1
    p.n_call, p.ops = n, ops
    return 0


cdef int resize_plan(Plan p, int64_t n_arg, int64_t n_par, int64_t n_buf) except -1:
    """Room for so many arguments, parameters and buffers."""
    cdef int64_t cap
    cdef int64_t k
    cap = 0
    p.arg = <pn_array *>grown(p.arg, &cap, n_arg, sizeof(pn_array))
    cap = 0
    p.arg_buf = <int32_t *>grown(p.arg_buf, &cap, n_arg, sizeof(int32_t))
    cap = 0
    p.arg_off = <int64_t *>grown(p.arg_off, &cap, n_arg, sizeof(int64_t))
    cap = 0
    p.arg_mode = <uint8_t *>grown(p.arg_mode, &cap, n_arg, 1)
    cap = 0
    p.par = <pn_value *>grown(p.par, &cap, n_par, sizeof(pn_value))
    cap = 0
    p.place = <Place *>grown(p.place, &cap, n_buf, sizeof(Place))
    for k in range(p.n_buf, n_buf):
        memset(&p.place[k], 0, sizeof(Place))
    return 0


cdef OpBase chain_op(Chain t):
    """What stands for a chain in the plan's list."""
    cdef OpBase op = OpBase.__new__(OpBase)
    cdef Plan p = t.plan
    cdef int64_t i
    cdef double flops = 0
    cdef pn_array *a = &p.arg[p.call[<int64_t>t.calls[0]].first_arg]
    for i in t.calls:
        flops += count_flops(p.ops[i], &p.call[i].dims, size_of(a))
    op._set_name("chain of " + ", ".join([(<OpBase>p.ops[i]).name for i in t.calls]), {})
    op._set_flops([(flops / size_of(a), [T_OUT])])
    return op


cdef int write_chain(Chain t, dict inner, TapeCall *call) except -1:
    """Makes call, a copy of t's first, the whole of it; inner: buffer → slot of scratch."""
    cdef Plan p = t.plan
    cdef pn_chain *c = &p.chain[p.n_chain]
    cdef int64_t i, j, k, first = p.n_arg
    cdef dict mode = {}, sample = {}, place = {}  # of each outer array (buffer, view)
    for i in t.calls:
        c.fn[c.n_call], c.par[c.n_call], c.first[c.n_call] = p.call[i].fn, &p.par[p.call[i].first_par], c.n_arg
        c.n_call += 1
        c.n_arg += p.call[i].n_arg
        for j in range(p.call[i].first_arg, p.call[i].first_arg + p.call[i].n_arg):
            if p.arg_buf[j] >= 0 and p.arg_buf[j] not in inner:
                key = p.arg_buf[j], view_key(p, j)
                mode[key] = mode.get(key, 0) | (p.arg_mode[j] & WRITE if key in mode else p.arg_mode[j])
                sample[key] = j
    c.first[c.n_call] = c.n_arg
    for key in [key for key in mode if not mode[key] & WRITE] + [key for key in mode if mode[key] & WRITE]:
        place[key] = c.n_outer
        c.written[c.n_outer] = mode[key] & WRITE
        c.n_outer += 1
        copy_arg(p, p.n_arg, sample[key], mode[key])
    c.n_inner = max(inner.values(), default=-1) + 1
    k = 0
    for i in t.calls:
        for j in range(p.call[i].first_arg, p.call[i].first_arg + p.call[i].n_arg):
            c.dtype[k] = p.arg[j].dtype
            if p.arg_buf[j] < 0:
                c.which[k] = -1
            elif p.arg_buf[j] in inner:
                c.which[k] = c.n_outer + <int>inner[p.arg_buf[j]]
            else:
                c.which[k] = place[p.arg_buf[j], view_key(p, j)]
            k += 1
    find_leaves(t, inner, c)
    pn_chain_ask(c)
    add_scratch(p, pn_chain_scratch(c, call.n_worker))
    call.fn = pn_chain_run
    call.cost = sum([p.call[i].cost for i in t.calls])
    call.first_par = p.n_par
    p.par[p.n_par].p = c
    p.n_par += 1
    p.n_chain += 1
    call.first_arg, call.n_arg = first, <int32_t>(p.n_arg - first)
    return 0


cdef int find_leaves(Chain t, dict inner, pn_chain *c) except -1:
    """Marks the calls of which nothing is read later in the chain: what they write may go past the caches."""
    cdef Plan p = t.plan
    cdef int64_t i, j, s
    cdef set read = set()
    for s in range(c.n_call - 1, -1, -1):
        i = t.calls[s]
        c.leaves[s] = True
        for j in range(p.call[i].first_arg, p.call[i].first_arg + p.call[i].n_arg):
            if p.arg_mode[j] & WRITE and (p.arg_buf[j] in inner or p.arg_buf[j] in read):
                c.leaves[s] = False
        for j in range(p.call[i].first_arg, p.call[i].first_arg + p.call[i].n_arg):
            if p.arg_mode[j] & READ:
                read.add(p.arg_buf[j])
    return 0


cdef int copy_arg(Plan p, int64_t to, int64_t j, int mode) except -1:
    """Appends an argument like the j-th."""
    p.arg[to], p.arg_buf[to], p.arg_off[to], p.arg_mode[to] = p.arg[j], p.arg_buf[j], p.arg_off[j], mode
    p.n_arg = to + 1
    return 0


cdef int add_scratch(Plan p, int64_t nbytes) except -1:
    """Appends an argument that is a temporary of so many bytes."""
    cdef int64_t j = p.n_arg
    bytes_array(&p.arg[j], NULL, nbytes)
    p.arg_mode[j], p.arg_off[j], p.arg_buf[j] = WRITE, 0, -1
    if nbytes:
        p.arg_buf[j] = <int32_t>p.n_buf
        p.place[p.n_buf].kind, p.place[p.n_buf].nbytes, p.place[p.n_buf].written = TEMP, nbytes, True
        p.n_buf += 1
    p.n_arg += 1
    return 0


# ---- weights ---------------------------------------------------------------------------------------------

cdef int turn_weights(Plan p, dict packs) except -1:
    """Lets linear layers read W[O, I] from memory in which its columns are contiguous, as products of few rows want
    to: written once. packs: (storage, place) → (version, memory), shared by the plans of a function."""
    cdef int64_t i, j, rows
    cdef Storage s
    cdef pn_array *w
    for i in range(p.n_call):
        if (<OpBase>p.ops[i]).name not in ("linear", "linear_act"):
            continue
        j = p.call[i].first_arg + 1
        w = &p.arg[j]
        rows = size_of(&p.arg[p.call[i].first_arg]) // max(1, w.shape[1])
        if rows <= PN_DOT_ROWS and w.shape[1] >= PN_DOT_FROM:
            continue  # its sums have the order of memory
        if p.arg_buf[j] < 0 or p.place[p.arg_buf[j]].kind != FIXED or p.place[p.arg_buf[j]].written or \
                not is_dense(w) or w.shape[0] < TURN_COLUMNS or not TURN_FROM <= rows <= TURN_TO:
            continue
        s = p.held[p.place[p.arg_buf[j]].index]
        if may_be_turned(s):
            read_turned(p, j, s, packs)
    return 0


cdef bint may_be_turned(Storage s) noexcept:
    """Whether the version of s tells of every change: memory that others may write has no such version."""
    return not s.exposed and not s.borrowed and not s.n_open


cdef int read_turned(Plan p, int64_t j, Storage s, dict packs) except -1:
    """Argument j, a weight in s, comes from packs."""
    cdef pn_array src = p.arg[j], dst = p.arg[j]
    cdef Storage t
    cdef int64_t version = s.version, nbytes = size_of(&src) * ITEMSIZE[src.dtype]
    key = s, p.arg_off[j], src.shape[0], src.shape[1], src.dtype
    found = packs.get(key)
    dst.strides[0], dst.strides[1] = 1, src.shape[0]
    if found is None or found[0] != version:
        if sum([kept.nbytes for _, kept in packs.values()]) + nbytes > MOST_TURNED:
            return 0
        t = new_storage(nbytes)
        src.data, dst.data = <char *>s.data + p.arg_off[j], t.data
        copy_into(&src, &dst)
        packs[key] = found = version, t
    resize_plan(p, p.n_arg, p.n_par, p.n_buf + 1)
    hold(p, p.n_buf, found[1])
    p.place[p.n_buf].nbytes = (<Storage>found[1]).nbytes
    dst.data = NULL
    p.arg[j], p.arg_buf[j], p.arg_off[j] = dst, <int32_t>p.n_buf, 0
    p.n_buf += 1
    p.turned.append((s, version))
    return 0


cdef bint turned_fit(list turned) noexcept:
    """Whether the weights that a plan has turned are as they were."""
    for s, version in turned:
        if (<Storage>s).version != <int64_t>version or not may_be_turned(s):
            return False
    return True
