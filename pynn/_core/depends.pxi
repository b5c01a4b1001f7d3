# What a function depends on besides its arguments: found by a walk from it when a plan is made. Names that it
# reads are compared before each replay (guards); what modules and optimizers are like (described) where any changed.

cdef enum:
    DEPTH = 4  # how far containers and objects are searched for modules

cdef object _Module = None, _Optimizer = None  # they enter themselves: no layer is imported for their sake
# of a module's attributes those that its base keeps: they are described by what they hold
cdef frozenset _own = frozenset(("_parameters", "_buffers", "_modules", "_forward_hooks", "_forward_pre_hooks",
                                 "_not_saved", "_arguments", "_plan"))
cdef frozenset _foreign = frozenset(("pynn", "numpy", "__future__")) | _sys.stdlib_module_names
cdef int _load_global = _opmap["LOAD_GLOBAL"], _extended = _opmap["EXTENDED_ARG"]
cdef int _name_shift = 1 if _sys.version_info >= (3, 11) else 0  # where the argument has a flag besides


def bind_module(kind):
    """Gives the engine the base of modules."""
    global _Module
    _Module = kind


def bind_optimizer(kind):
    """Gives the engine the base of optimizers."""
    global _Optimizer
    _Optimizer = kind


cdef inline bint is_module(object v):
    return _Module is not None and isinstance(v, _Module)


cdef inline bint is_optimizer(object v):
    return _Optimizer is not None and isinstance(v, _Optimizer)


cdef bint is_foreign(object thing):
    """Whether a function or class is of pynn, NumPy or Python's own library."""
    name = thing.__module__
    return type(name) is str and name.partition(".")[0] in _foreign


@cython.final
cdef class _Walk:
    """From a function to the names that it reads, and to the modules and optimizers that they lead to."""
    cdef list guards   # (container, key, value): of a dict its key; a closure's cell, or a function, has None
    cdef list things   # modules and optimizers
    cdef dict depths   # id → least depth at which it was met
    cdef list stack    # (object, depth)

    def __init__(self):
        self.guards, self.things, self.depths, self.stack = [], [], {}, []

    cdef int run(self, object fn) except -1:
        cdef int depth
        self.stack.append((fn, 0))
        if not isinstance(fn, (_FunctionType, _MethodType)):
            self.push_methods(type(fn))
        while self.stack:
            v, depth = self.stack.pop()
            self.visit(v, depth)
        return 0

    cdef inline int push(self, object v, int depth) except -1:
        if v is None or type(v) in (int, float, str, bool, bytes) or isinstance(v, (TensorBase, np.ndarray, type)):
            return 0
        if depth <= DEPTH:
            self.stack.append((v, depth))
        return 0

    cdef int visit(self, object v, int depth) except -1:
        cdef object u
        if self.depths.get(id(v), DEPTH + 1) <= depth:
            return 0
        met = id(v) in self.depths
        self.depths[id(v)] = depth
        if type(v) is _FunctionType:
            if not met:
                self.enter_function(v)
        elif is_module(v):
            if not met:
                self.things.append(v)
                self.enter_module(v, depth)
        elif is_optimizer(v):
            if not met:
                self.things.append(v)
        elif isinstance(v, (tuple, list, set)):
            for u in v:
                self.push(u, depth + 1)
        elif isinstance(v, dict):
            for u in v.values():
                self.push(u, depth + 1)
        elif type(v) is _MethodType:
            self.push(v.__self__, depth)
            self.push(v.__func__, depth)
            self.push_methods(type(v.__self__))
        elif isinstance(v, _partial):
            for u in (v.func, *v.args, *v.keywords.values()):
                self.push(u, depth)
        elif type(v) is not _ModuleType and hasattr(v, "__dict__"):
            for u in vars(v).values():
                self.push(u, depth + 1)
        return 0

    cdef int enter_function(self, object f) except -1:
        """Guards what f reads by name, and follows it. Of what is not the user's the closure is enough: a decorator
        has its function there, a Trainer's step its model."""
        cdef object v, cell, code, c
        cdef list codes = [] if is_foreign(f) else [f.__code__]
        if codes:
            self.guards.append((f, None, (f.__code__, f.__defaults__, f.__kwdefaults__)))
        self.push(f.__dict__.get("__wrapped__"), 0)
        for v in f.__defaults__ or ():
            self.push(v, 0)
        for k, v in (f.__kwdefaults__ or {}).items():
            self.guard(f.__kwdefaults__, k, v)
        for cell in f.__closure__ or ():
            o = PyCell_GET(cell)
            if o != NULL:
                self.guard(cell, None, <object>o)
        while codes:
            code = codes.pop()
            names = code.co_names
            for c in code.co_consts:
                if type(c) is _CodeType:
                    codes.append(c)
            if names:
                self.enter_globals(f.__globals__, names, code.co_code)
        return 0

    cdef int enter_globals(self, dict space, tuple names, bytes code) except -1:
        cdef int64_t k, arg = 0
        cdef int op
        cdef const unsigned char *b = code
        for k in range(0, len(code) - 1, 2):
            op, arg = b[k], arg << 8 | b[k + 1]
            if op == _load_global:
                name = names[arg >> _name_shift]
                v = space.get(name, TENSOR)
                if v is not TENSOR:
                    self.guard(space, name, v)
                if type(v) is _ModuleType and v.__name__.partition(".")[0] not in _foreign:
                    for name in names:  # module.name
                        u = v.__dict__.get(name, TENSOR)
                        if u is not TENSOR:
                            self.guard(v.__dict__, name, u)
            if op != _extended:
                arg = 0
        return 0

    cdef int guard(self, object container, object key, object v) except -1:
        if type(v) is not _ModuleType and not isinstance(v, type):
            self.guards.append((container, key, v))
            self.push(v, 0)
        return 0

    cdef int enter_module(self, object m, int depth) except -1:
        """The functions of a module's class and of those of its parts, and what their attributes lead to."""
        cdef object child, k, v
        if not is_foreign(type(m)):
            self.push_methods(type(m))
            for k, v in m.__dict__.items():
                if k not in _own and not is_module(v):
                    self.push(v, depth + 1)
        for child in m._modules.values():
            if child is not None and id(child) not in self.depths:
                self.depths[id(child)] = 0
                self.enter_module(child, depth)
        return 0

    cdef int push_methods(self, type kind) except -1:
        for base in kind.__mro__:
            if not is_foreign(base) and base.__module__ != "builtins":
                for v in base.__dict__.values():
                    if type(v) is _FunctionType and v.__name__ != "__init__":
                        self.push(v, 0)
        return 0


def dependencies(fn):
    """(guards, things): what fn reads by name, and the modules and optimizers that it leads to."""
    cdef _Walk w = _Walk()
    w.run(fn)
    return w.guards, w.things


cdef bint guards_hold(list guards):
    cdef object c, key, v
    cdef PyObject *now
    for c, key, v in guards:
        if type(c) is dict:
            now = PyDict_GetItem(<dict>c, key)
        elif type(c) is _FunctionType:
            if not same_function(c, v):
                return False
            continue
        else:
            now = PyCell_GET(c)
        if now != <PyObject *>v and (now == NULL or not alike(<object>now, v)):
            return False
    return True


cdef inline bint same_function(object f, tuple was) noexcept:
    """Whether f has the code and the defaults that it had."""
    cdef PyObject *now
    cdef int k
    for k in range(3):
        now = PyFunction_GET_CODE(f) if k == 0 else PyFunction_GET_DEFAULTS(f) if k == 1 else \
            PyFunction_GET_KW_DEFAULTS(f)
        if (now if now != NULL else <PyObject *>None) != PyTuple_GET_ITEM(was, k):
            return False
    return True


cdef bint alike(object a, object b):
    """Whether two values are the same, or plain and equal to the bit: 0.0 is not -0.0."""
    cdef double u, v
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    if type(a) is float:
        u, v = a, b
        return memcmp(&u, &v, sizeof(double)) == 0
    if type(a) in (int, str, bool, bytes):
        return a == b
    if isinstance(a, np.generic):
        return a.tobytes() == b.tobytes()
    if type(a) is tuple:
        return len(a) == len(b) and all([alike(x, y) for x, y in zip(a, b)])
    return False


# ---- what modules and optimizers are like ----------------------------------------------------------


def described(list things, bint mode=True):
    """(state, modes): everything about modules and optimizers that a step may depend on and that is no tensor's value;
    train and eval in modes, which is empty where not mode. The parts are held, so that none is taken for another."""
    cdef list state = [], modes = []
    cdef set seen = set()
    for thing in things:
        if is_module(thing):
            describe_module(thing, state, modes, seen)
        else:
            describe_optimizer(thing, state)
    return state, (modes if mode else [])


cdef int describe_module(object m, list state, list modes, set seen) except -1:
    cdef object k, v, child
    if id(m) in seen:
        return 0
    seen.add(id(m))
    state.append(m)
    for k, v in m.__dict__.items():
        if k == "training":
            modes.append(v)
        elif k not in _own:
            state.append(k)
            describe_value(v, state)
    for v in m._parameters.values():
        describe_value(v, state)
    for v in m._buffers.values():
        describe_value(v, state)
    state.append(tuple(m._forward_hooks))
    state.append(tuple(m._forward_pre_hooks))
    for child in m._modules.values():
        if child is not None:
            describe_module(child, state, modes, seen)
    return 0


cdef int describe_value(object v, list state) except -1:
    state.append(v)
    if isinstance(v, TensorBase):
        state.append((<TensorBase>v).storage)
        state.append((<TensorBase>v).leaf_grad)
    return 0


cdef set _parts_of_optimizers = {"param_groups", "state", "defaults", "_scale"}  # what is looked into besides


cdef int describe_optimizer(object o, list state) except -1:
    cdef object group, k, v
    state.append(o)
    for k, v in o.__dict__.items():
        if k not in _parts_of_optimizers:
            state.append(k)
            describe_value(v, state)
    for group in o.param_groups:
        state.append(group)
        for k, v in group.items():
            if k == "params":
                state.extend(v)
            elif k != "lr":  # which is in a tensor besides
                state.append(k)
                state.append(v)
    for values in o.state.values():
        for v in values.values():
            if isinstance(v, TensorBase):
                describe_value(v, state)
    return 0


cdef bint same_state(list a, list b):
    cdef int64_t k
    if len(a) != len(b):
        return False
    for k in range(len(a)):
        if a[k] is not b[k] and not alike(a[k], b[k]):
            return False
    return True
