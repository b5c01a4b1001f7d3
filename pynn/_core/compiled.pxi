# A compiled function: the plans made of it so far, found by the signature of a call.

cdef enum:
    STALE = 8  # changes of weights after which plans read them where they are

cdef object TENSOR = object()  # stands for a tensor in a signature


cdef class Same:
    """An argument that is neither tensor nor plain value: the same only as itself."""
    cdef readonly object it

    def __init__(self, it):
        self.it = it

    def __eq__(self, other):
        return isinstance(other, Same) and self.it is (<Same>other).it

    def __hash__(self):
        return id(self.it)


cdef object gather(object v, list tensors):
    """v's part of a signature; the tensors in it are appended to tensors."""
    if isinstance(v, TensorBase):
        tensors.append(v)
        return TENSOR
    if isinstance(v, np.ndarray):
        tensors.append(from_argument(v, tensors))
        return TENSOR
    if type(v) is float and (v == 0 or v != v):  # 0.0 equals -0.0, and no NaN another
        return float, str(v)
    if v is None or type(v) in (int, float, bool, str):
        return type(v), v
    if type(v) in (tuple, list):
        return type(v), tuple([gather(u, tensors) for u in v])
    if type(v) is dict:
        return dict, tuple([(k, gather(u, tensors)) for k, u in v.items()])
    if isinstance(v, np.generic):
        return type(v), gather(v.item(), tensors)
    return Same(v)


cdef object restored(object v, list tensors, int64_t *at):
    """v, an argument, with its arrays replaced by the next of tensors."""
    if isinstance(v, (TensorBase, np.ndarray)):
        at[0] += 1
        return tensors[at[0] - 1]
    if type(v) in (tuple, list):
        return type(v)([restored(u, tensors, at) for u in v])
    if type(v) is dict:
        return {k: restored(u, tensors, at) for k, u in v.items()}
    return v


def restore(v, list tensors):
    """v, the arguments of a call, with its arrays replaced by tensors, in order."""
    cdef int64_t at = 0
    return restored(v, tensors, &at)


cdef TensorBase from_argument(object arr, list tensors):
    """An array as a tensor on its memory where that is possible; the same one for the same array."""
    cdef object t
    cdef int tag = array_tag(arr)
    for t in tensors:
        if (<TensorBase>t).storage is not None and (<TensorBase>t).storage.owner is arr:
            return t
    if tag != PN_NONE and in_whole_items(arr, ITEMSIZE[tag]):
        return share_array(arr)
    return from_array(arr, None, "argument")


cdef inline bint plain_layout(const pn_array *a) noexcept nogil:
    return is_dense(a) or is_nhwc(a)


cdef class Key:
    """What a plan holds for: the form of the arguments and the modes of the engine."""
    cdef object form            # nested (type, value), TENSOR for tensors
    cdef list shapes            # Tensors without memory, which show shape, dtype and strides
    cdef list asks              # whether each asks for a gradient
    cdef list twin              # index of the first argument that is the same object
    cdef bint grad
    cdef int threads, isa, exact
    cdef int64_t div
    cdef bint anomaly           # each result is looked at: no call is part of a chain


cdef Key key_of(object form, list ins):
    cdef Key k = Key.__new__(Key)
    cdef TensorBase x
    cdef int i
    k.form = form
    k.shapes = [husk_of(x, False) for x in ins]
    k.asks = [x.leaf_grad for x in ins]
    k.twin = [first_same(ins, i) for i in range(len(ins))]
    k.grad = pn_grad_off == 0
    k.threads, k.isa, k.div = pn_get_num_threads(), pn_isa(), pn_get_chunk_div()
    k.exact = pn_exact()  # kernels choose by it, and with it the size of their scratch
    k.anomaly = pn_anomaly > 0
    return k


cdef inline bint same_engine(Key k) noexcept:
    """Whether threads, ISA level and so on are as they were when the plan was made."""
    return (k.threads == pn_get_num_threads() and k.isa == pn_isa() and k.div == pn_get_chunk_div() and
            k.exact == pn_exact() and k.anomaly == (pn_anomaly > 0))


cdef int first_same(list ins, int i) noexcept:
    cdef int j
    for j in range(i):
        if (<TensorBase>ins[j]).storage is (<TensorBase>ins[i]).storage:
            return j
    return i


cdef bint key_fits(Key k, object form, list ins):
    cdef TensorBase x, y
    cdef int i, n = len(ins)
    if n != len(k.shapes) or k.grad != (pn_grad_off == 0) or not same_engine(k):
        return False
    for i in range(n):
        x, y = <TensorBase>ins[i], <TensorBase>k.shapes[i]
        if x.a.dtype != y.a.dtype or not same_shape(&x.a, &y.a) or not same_steps(&x.a, &y.a):
            return False
        if x.leaf_grad != <bint>k.asks[i] or first_same(ins, i) != <int>k.twin[i] or x.a.data != x.storage.data:
            return False
    return k.form == form


cdef class Entry:
    """A plan with what it holds for."""
    cdef Key key
    cdef readonly Plan plan
    cdef list guards
    cdef readonly object form    # how the results are nested
    cdef readonly int64_t structure
    cdef readonly object modules  # describes modules and optimizers; None where none are known
    cdef readonly int64_t used


cdef class PlanCache:
    """The plans of one function. A call replays the one that fits; a subclass defines what happens elsewise:
    _missed(args, kwargs, form, tensors, ins), and _state_of_modules(), what `described` tells of the modules now."""
    cdef list entries          # the one used last comes first
    cdef dict packs            # weights in forms of the plans' own
    cdef readonly int64_t replays, clock
    cdef int stale             # how often such weights have changed

    def __cinit__(self, *args, **kwargs):
        self.entries, self.packs = [], {}

    @property
    def plans(self):
        """The plans in the cache, the one used last first."""
        return [(<Entry>e).plan for e in self.entries]

    @property
    def nbytes(self):
        """Bytes that the plans keep, apart from what they share with the program."""
        return sum([(<Entry>e).plan.nbytes for e in self.entries]) + sum([t.nbytes for _, t in self.packs.values()])

    def clear(self):
        """Drops all plans."""
        self.entries, self.packs = [], {}

    def _packs(self):
        """Where plans keep weights in forms of their own; None where these change too often for that."""
        return self.packs if self.stale < STALE else None

    def _trim(self):
        """Drops the weights that no plan reads any more."""
        if not self.packs:
            return
        used = {s for e in self.entries for s, _ in (<Entry>e).plan.turned}
        self.packs = {key: kept for key, kept in self.packs.items() if key[0] in used}

    def __call__(self, *args, **kwargs):
        cdef list tensors = [], ins, outs
        cdef Entry e
        if pn_rec != NULL:
            return self.fn(*args, **kwargs)
        form = tuple([gather(v, tensors) for v in args])
        if kwargs:
            form = (form, tuple([(k, gather(v, tensors)) for k, v in kwargs.items()]))
        ins = in_plain_layout(tensors)
        e = self.find(form, tensors, ins)
        if e is None:
            return self._missed(args, kwargs, form, tensors, ins)
        self.replays += 1
        outs = run_plan(e.plan, tensors, ins)
        return outs[0] if e.form is None else rebuild(e.form, iter(outs))

    def _signature(self, tuple args):
        """(form, tensors) of positional arguments."""
        cdef list tensors = []
        return tuple([gather(v, tensors) for v in args]), tensors

    def _prepared(self, args, kwargs):
        """(plan, tensors, ins) of a call for which there is a plan; None where there is none."""
        cdef list tensors = [], ins
        cdef Entry e
        form = tuple([gather(v, tensors) for v in args])
        if kwargs:
            form = (form, tuple([(k, gather(v, tensors)) for k, v in kwargs.items()]))
        ins = in_plain_layout(tensors)
        e = self.find(form, tensors, ins)
        return None if e is None else (e.plan, tensors, ins)

    def _found(self, form, list tensors):
        """The plan that fits, None where none does; it is the first one then."""
        cdef Entry e = self.find(form, tensors, tensors)
        return None if e is None else e.plan

    cdef Entry find(self, object form, list tensors, list ins):
        """The entry that fits these tensors, as they lie in ins; None where there is none."""
        cdef Entry e
        cdef object now = None
        cdef int64_t version = structure
        cdef bint known = False
        for e in self.entries:  # a list that changes is another one: another thread may run in between
            if not key_fits(e.key, form, ins) or not guards_hold(e.guards) or not grads_fit(e.plan, tensors):
                continue
            if not leaves_fit(e.plan.leaves):
                continue
            if not turned_fit(e.plan.turned):
                self.stale += 1
                self.clear()
                return None
            if e.structure != version:
                if not known:
                    now, known = self._state_of_modules(), True
                if now is None or e.modules is None or not same_state(now[0], e.modules[0]):
                    self._drop(e)  # what has changed does not change back
                    continue
                if now[1] != e.modules[1]:  # train and eval do
                    continue
                e.structure = version
            if overlaps_written(e.plan, tensors, ins):
                return None
            self._first(e)
            self.clock += 1
            e.used = self.clock
            return e
        return None

    cdef int _first(self, Entry e) except -1:
        """Moves e to the front."""
        if self.entries[0] is not e:
            self.entries = [e] + [o for o in self.entries if o is not e]
        return 0

    cdef int _drop(self, Entry e) except -1:
        self.entries = [o for o in self.entries if o is not e]
        self._trim()
        return 0

    def _add(self, form, list ins, Plan plan not None, guards, results, modules, int64_t version, int64_t max_bytes):
        """Enters a plan; those used longest ago go where they take more than max_bytes in all."""
        cdef Entry e = Entry.__new__(Entry)
        e.key = key_of(form, ins)
        e.plan, e.guards, e.form = plan, guards, results
        e.modules, e.structure = modules, version
        self.clock += 1
        e.used = self.clock
        entries = [e, *self.entries]
        while len(entries) > 1 and sum([(<Entry>o).plan.nbytes for o in entries]) > max_bytes:
            entries.pop()
        self.entries = entries
        self._trim()
        return e


def rebuild(form, leaves):
    """The results of a function from their leaves, nested as form says; None stands for a leaf."""
    if form is None:
        return next(leaves)
    kind, parts = form
    if kind is dict:
        return {k: rebuild(f, leaves) for k, f in parts.items()}
    return kind([rebuild(f, leaves) for f in parts])


cdef bint leaves_fit(list leaves):
    cdef TensorBase leaf
    cdef object s, asks
    for leaf, s, asks in leaves:
        if leaf.storage is not s or leaf.leaf_grad != <bint>asks or leaf._hooks:
            return False
    return True


cdef bint overlaps_written(Plan p, list tensors, list ins):
    """Whether an argument lies in memory that the plan writes, or is written itself and stands in for another, or for
    memory that the plan reads besides."""
    cdef TensorBase x
    cdef Storage s
    cdef int k
    for x in ins:
        for s in p.written_held:
            if share_memory(x.storage, s):
                return True
        for k in p.written_args:
            if tensors[k] is not ins[k]:
                return True
            if x is not ins[k] and share_memory(x.storage, (<TensorBase>ins[k]).storage):
                return True
    for k in p.written_args:
        for s in p.held:
            if share_memory((<TensorBase>ins[k]).storage, s):
                return True
        for s, _ in p.turned:
            if share_memory((<TensorBase>ins[k]).storage, s):
                return True
    return False


cdef list in_plain_layout(list tensors):
    """tensors, those that are neither row-major nor channels-last, or lie inside of other memory, as copies."""
    cdef TensorBase x
    cdef list ins = tensors
    cdef int k
    for k in range(len(tensors)):
        x = tensors[k]
        check_values(x)
        if not plain_layout(&x.a) or x.a.data != x.storage.data:
            if ins is tensors:
                ins = list(tensors)
            ins[k] = rewrapped(x)
    return ins


def rewrapped(TensorBase x not None):
    """x as the whole of a storage of its own: a view of its memory where that is dense, else a copy."""
    cdef TensorBase t = blank()
    cdef int64_t nbytes
    if not plain_layout(&x.a):
        return dense_copy(&x.a)
    t.a = x.a
    checked_bytes(&x.a, &nbytes)
    t.storage = borrow_storage(x.a.data, nbytes, x.storage, x.storage.readonly)
    t.storage.version = x.storage.version
    return t


def same_memory(TensorBase x not None, TensorBase y not None):
    """Whether two tensors start at one place in memory."""
    return x.a.data == y.a.data


# ---- the structure of modules ----------------------------------------------------------------------

cdef int64_t structure = 0  # raised by every change of any module or optimizer that a plan depends on


def bump_structure():
    """Marks all plans made so far as possibly outdated."""
    global structure
    structure += 1
    if pn_rec != NULL:
        (<Recorder>pn_rec).restructured = True


def structure_version():
    """A number that changes with every change of any module: attributes, train/eval, hooks, requires_grad."""
    return structure
