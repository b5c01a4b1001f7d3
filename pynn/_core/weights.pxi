# Passes over the tape that concern weights: batch norm multiplied into them, and forms of them that are kept.

cdef enum:
    # weights are turned for so many columns and rows of a linear layer's result
    TURN_COLUMNS = 32
    TURN_FROM = 2
    TURN_TO = 96
    MOST_TURNED = 1 << 28  # bytes that the plans of a function may keep so


# ---- batch norm behind convolutions -----------------------------------------------------------------------

cdef int join_norms(Plan p, OpBase joint) except -1:
    """Lets a convolution and the batch norm of given statistics that alone reads it be one call, of the op joint, and
    with them what follows: a residual that is added, then relu."""
    cdef int64_t i, j
    cdef dict uses = uses_of(p)
    for i in range(p.n_call):
        if p.call[i].fn == NULL or (<OpBase>p.ops[i]).name != "conv2d":
            continue
        j = only_reader(p, i, 3, uses)
        if j < 0 or (<OpBase>p.ops[j]).name != "batch_norm_eval" or not reads_there(p, j, 0, p.call[i].first_arg + 3):
            continue
        join_norm(p, i, j, joint)
        uses = uses_of(p)
        while j >= 0:
            j = join_next(p, j, uses)
            uses = uses_of(p)
    return 0


cdef int64_t only_reader(Plan p, int64_t i, int n_in, dict uses) except -2:
    """The call that alone reads the result of call i, whose n_in arguments are then the same; -1: there is none."""
    cdef int64_t k, at = p.call[i].first_arg + n_in, j
    if p.place[p.arg_buf[at]].kind != TEMP or len(uses[p.arg_buf[at]]) != 2:
        return -1
    j = uses[p.arg_buf[at]][1][0]
    for k in range(p.call[i].first_arg, at):
        if p.arg_buf[k] < 0:
            continue
        if any([i < c < j and p.arg_mode[a] & WRITE for c, a in uses[p.arg_buf[k]]]):
            return -1
        if is_outside(p, p.arg_buf[k]) and writes_outside(p, i, j):
            return -1
    return j


cdef bint reads_there(Plan p, int64_t j, int k, int64_t at) noexcept:
    """Whether argument k of call j is what argument `at` is, in the same layout."""
    cdef int64_t a = p.call[j].first_arg + k
    return p.arg_buf[a] == p.arg_buf[at] and same_form(p, a, at) and p.arg_off[a] == p.arg_off[at]


cdef bint same_form(Plan p, int64_t a, int64_t b) noexcept:
    return p.arg[a].dtype == p.arg[b].dtype and same_shape(&p.arg[a], &p.arg[b]) and same_steps(&p.arg[a], &p.arg[b])


cdef int64_t join_next(Plan p, int64_t i, dict uses) except -2:
    """Lets call i, of conv2d_norm, do what the call does that reads its result; gives the number that it has then."""
    cdef int64_t first = p.call[i].first_arg, residual = first + 7, y = first + 8, j = only_reader(p, i, 8, uses), other
    cdef pn_value *relu = &p.par[p.call[i].first_par + 1]
    if j < 0 or relu.i:
        return -1
    other = p.call[j].first_arg
    if (<OpBase>p.ops[j]).name == "relu" and same_form(p, other + 1, y):
        relu.i = 1
        other += 1
    elif (<OpBase>p.ops[j]).name == "add" and p.arg_buf[residual] < 0 and same_form(p, other, y) and \
            same_form(p, other + 1, y) and same_form(p, other + 2, y):
        put_arg(p, residual, other + (p.arg_buf[other] == p.arg_buf[y]))
        other += 2
    else:
        return -1
    put_arg(p, y, other)
    p.call[j], p.ops[j] = p.call[i], p.ops[i]
    p.call[i].fn = NULL
    return j


cdef void put_arg(Plan p, int64_t to, int64_t j) noexcept:
    """Makes an argument like the j-th."""
    p.arg[to], p.arg_buf[to], p.arg_off[to], p.arg_mode[to] = p.arg[j], p.arg_buf[j], p.arg_off[j], p.arg_mode[j]


cdef int join_norm(Plan p, int64_t i, int64_t j, OpBase joint) except -1:
    """Puts one call in the place of a norm, call j, and of the convolution before it, call i."""
    cdef int64_t a = p.call[i].first_arg, b = p.call[j].first_arg, first = p.n_arg, k
    cdef TapeCall *call = &p.call[j]
    cdef pn_call c
    resize_plan(p, p.n_arg + 10, p.n_par + 9, p.n_buf + 1)
    for k in [a, a + 1, a + 2, b + 1, b + 2, b + 3, b + 4, b + 5, b + 6]:
        copy_arg(p, p.n_arg, k, p.arg_mode[k])
    memcpy(&p.par[p.n_par], &p.par[call.first_par], 2 * sizeof(pn_value))
    memcpy(&p.par[p.n_par + 2], &p.par[p.call[i].first_par], 7 * sizeof(pn_value))
    memset(&c, 0, sizeof(pn_call))
    c.arg, c.par, c.n_arg, c.n_worker = &p.arg[first], &p.par[p.n_par], 9, call.n_worker
    add_scratch(p, pn_kernel_scratch(joint.kernel_id, p.arg[a].dtype)(&c))
    call.fn = pn_kernel_fn(joint.kernel_id, p.arg[a].dtype)
    call.first_arg, call.n_arg, call.first_par = first, 10, p.n_par
    call.cost, call.dims = p.call[i].cost, p.call[i].dims  # joint names the same sizes in the same order
    p.ops[j] = joint
    p.n_par += 9
    p.call[i].fn = NULL
    return 0


# ---- weights ---------------------------------------------------------------------------------------------

cdef int keep_weights(Plan p, dict packs) except -1:
    """Lets layers read their weights in the form that their sums do, made once. packs: (storage, ...) → (version,
    memory), shared by the plans of a function."""
    cdef int64_t i
    for i in range(p.n_call):
        name = (<OpBase>p.ops[i]).name
        if name in ("linear", "linear_act"):
            turn_weights(p, i, packs)
        elif name in ("conv2d", "conv2d_act", "conv2d_norm"):
            pack_weights(p, i, packs)
    return 0


cdef int turn_weights(Plan p, int64_t i, dict packs) except -1:
    """Of a linear layer W[O, I], into memory in which its columns are contiguous, as products of few rows want to, but
    for those that are dot products, whose sums have the order of memory."""
    cdef int64_t j = p.call[i].first_arg + 1, rows
    cdef Storage s = constant(p, j)
    cdef pn_array *w = &p.arg[j]
    rows = size_of(&p.arg[p.call[i].first_arg]) // max(1, w.shape[1])
    if s is None or not is_dense(w) or w.shape[0] < TURN_COLUMNS or not TURN_FROM <= rows <= TURN_TO:
        return 0
    if rows <= PN_DOT_ROWS and w.shape[1] >= PN_DOT_FROM:
        return 0
    return read_turned(p, j, s, packs)


cdef Storage constant(Plan p, int64_t j):
    """The memory of argument j where its version tells of every change; None where it is no such."""
    cdef Storage s
    if p.arg_buf[j] < 0 or p.place[p.arg_buf[j]].kind != FIXED or p.place[p.arg_buf[j]].written:
        return None
    s = p.held[p.place[p.arg_buf[j]].index]
    return s if may_be_turned(s) else None


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
        if not has_room(packs, nbytes):
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


cdef bint has_room(dict packs, int64_t nbytes) except -1:
    return sum([kept.nbytes for _, kept in packs.values()]) + nbytes <= MOST_TURNED


cdef int pack_weights(Plan p, int64_t i, dict packs) except -1:
    """Of a convolution, into an argument behind its scratch: csrc/ops/conv2d.c says how."""
    cdef OpBase op = p.ops[i]
    cdef int64_t first = p.call[i].first_arg, n = p.call[i].n_arg, j, need
    cdef int dtype = p.arg[first].dtype
    cdef list weights = []  # (storage, version, place)
    cdef tuple read = ("residual",) if op.name == "conv2d_norm" else ("b",)  # at each call
    cdef pn_array[MAX_ARG] arr
    cdef pn_call c
    cdef Storage s, scratch = new_storage(p.arg[first + n - 1].shape[0])
    for j in range(n):
        arr[j] = p.arg[first + j]
        arr[j].data = NULL
        if p.arg_buf[first + j] < 0 or not 1 <= j < op.n_in or op.in_names[j] in read:
            continue
        s = constant(p, first + j)
        if s is None:
            return 0
        arr[j].data = <char *>s.data + p.arg_off[first + j]
        weights.append((s, s.version, p.arg_off[first + j]))
    arr[n - 1].data = scratch.data
    bytes_array(&arr[n], NULL, 0)
    memset(&c, 0, sizeof(pn_call))
    c.arg, c.par, c.n_arg, c.n_worker = arr, &p.par[p.call[i].first_par], <int32_t>n + 1, p.call[i].n_worker
    need = pn_kernel_scratch(op.kernel_id, dtype)(&c)
    if size_of(&arr[op.n_in]) == 0:
        return 0
    versions = tuple([version for _, version, _ in weights])
    # what the bytes depend on beside them is told by their number
    key = (weights[0][0], tuple([(s, at) for s, _, at in weights]), op.name, need, dtype,
           tuple([p.par[p.call[i].first_par + j].i for j in range(len(op.par_names))]))
    found = packs.get(key)
    if found is None or found[0] != versions:
        if not has_room(packs, need):
            return 0
        s = new_storage(need)
        bytes_array(&arr[n], s.data, need)
        p.call[i].fn(&c)
        packs[key] = found = versions, s
    move_args(p, i, 1)
    s = found[1]
    add_held(p, s)
    for s, version, _ in weights:
        p.turned.append((s, version))
    return 0


cdef int move_args(Plan p, int64_t i, int64_t more) except -1:
    """Puts the arguments of call i behind all others, where `more` may be added to them."""
    cdef int64_t j, first = p.call[i].first_arg
    resize_plan(p, p.n_arg + p.call[i].n_arg + more, p.n_par, p.n_buf + more)
    p.call[i].first_arg = p.n_arg
    for j in range(first, first + p.call[i].n_arg):
        copy_arg(p, p.n_arg, j, p.arg_mode[j])
    p.call[i].n_arg += <int32_t>more
    return 0


cdef int add_held(Plan p, Storage s) except -1:
    """Appends an argument that is the whole of s."""
    bytes_array(&p.arg[p.n_arg], NULL, s.nbytes)
    p.arg_mode[p.n_arg], p.arg_off[p.n_arg], p.arg_buf[p.n_arg] = READ, 0, <int32_t>p.n_buf
    hold(p, p.n_buf, s)
    p.place[p.n_buf].nbytes = s.nbytes
    p.n_arg += 1
    p.n_buf += 1
    return 0


cdef bint turned_fit(list turned) noexcept:
    """Whether the weights that a plan has turned are as they were."""
    for s, version in turned:
        if (<Storage>s).version != <int64_t>version or not may_be_turned(s):
            return False
    return True
