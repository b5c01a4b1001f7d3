# The tape: what a recorder writes down while a function runs eagerly. Every kernel that is launched becomes
# one call of it, whose arguments are places in buffers, never pointers. plan.pxi makes a plan of it.

cdef enum:
    READ = 1, WRITE = 2     # what a kernel does with an argument; both where it changes what is there
    MADE = 0, INPUT, HELD, SLOT  # a buffer's origin: the recorded run, an argument, from before, a .grad from before
    INIT_BYTES = 4096       # what the host wrote before an effect changes it is kept up to this size

cdef struct Buf:
    char *start
    int64_t nbytes
    PyObject *storage   # borrowed; NULL once it is gone
    int origin, index   # index of the input, or of the leaf
    bint written        # by a kernel
    bint changed        # by an effect, which saw what was there
    bint hosted         # what its first reader saw was written by the host

cdef struct TapeCall:
    pn_fn fn
    int32_t n_arg, n_worker
    int64_t first_arg, first_par
    double cost
    Dims dims

cdef char[64] _nothing
cdef list _recorders = []    # those at work, on any thread
cdef int64_t _recorder_count = 0


cdef void *grown(void *p, int64_t *cap, int64_t n, size_t item) except NULL:
    """p with room for n items."""
    cdef void *q
    if n <= cap[0] and p != NULL:
        return p
    cap[0] = max(n, 2 * cap[0], 64)
    q = realloc(p, cap[0] * item)
    if q == NULL:
        raise MemoryError("compile: out of memory for the tape")
    return q


@cython.final
cdef class Recorder:
    """Writes down the kernels that run on this thread between start() and stop()."""
    cdef int64_t id
    cdef Buf *buf
    cdef TapeCall *call
    cdef pn_array *arg        # of all calls, one after the other; data is NULL
    cdef int32_t *arg_buf     # the buffer of each, -1 for none
    cdef int64_t *arg_off     # in bytes
    cdef uint8_t *arg_mode
    cdef pn_value *par
    cdef int64_t n_input  # the first buffers
    cdef int64_t n_buf, n_call, n_arg, n_par, cap_buf, cap_call, cap_arg, cap_par, cap_off, cap_mode, cap_place
    cdef list ops             # of each call
    cdef dict seen            # Storage → buffer, of those not made here
    cdef dict kept            # buffer → Storage, of those made here that the host filled
    cdef dict inits           # buffer → call that fills it, for a kept one that an effect changes
    cdef dict entry           # id(leaf) → (leaf, grad at entry), of leaves whose grad was read before it was set
    cdef dict bound           # id(leaf) → leaf, of leaves whose grad was set
    cdef dict leaves          # id(leaf) → (leaf, its storage, whether it asks for a gradient)
    cdef readonly bint restructured  # a module or an optimizer was changed
    cdef readonly str why     # why this run cannot be replayed; None while it can
    cdef object where         # tells the user's line that is running

    def __cinit__(self):
        global _recorder_count
        _recorder_count += 1
        self.id = _recorder_count
        self.ops, self.seen, self.kept, self.inits = [], {}, {}, {}
        self.entry, self.bound, self.leaves = {}, {}, {}

    def __dealloc__(self):
        free(self.buf)
        free(self.call)
        free(self.arg)
        free(self.arg_buf)
        free(self.arg_off)
        free(self.arg_mode)
        free(self.par)

    def start(self, where):
        """Begins to record this thread's calls; where() names the line that runs."""
        global pn_rec
        if pn_rec != NULL:
            raise RuntimeError("compile: this thread is recording already")
        self.where = where
        _recorders.append(self)
        pn_rec = <PyObject *>self

    def stop(self):
        """Ends recording, however it went."""
        global pn_rec
        if pn_rec == <PyObject *>self:
            pn_rec = NULL
        if self in _recorders:
            _recorders.remove(self)

    def add_input(self, TensorBase x not None, int index):
        """x's memory is the index-th input. False where it overlaps that of another."""
        cdef int64_t k
        if x.storage in self.seen:
            return True
        for k in range(self.n_buf):
            if x.storage.nbytes and self.buf[k].start < <char *>x.storage.data + x.storage.nbytes \
                    and <char *>x.storage.data < self.buf[k].start + self.buf[k].nbytes:
                return False
        self.seen[x.storage] = self.new_buf(x.storage, INPUT, index)
        self.n_input += 1
        return True

    cpdef int spoil(self, str why) except -1:
        """This run can not be replayed: the recording ends, the run goes on."""
        if self.why is None:
            place = self.where()
            self.why = f"{why} (at {place})" if place else why
        self.stop()
        return 0

    cdef int new_buf(self, Storage s, int origin, int index) except -1:
        cdef Buf *b
        self.buf = <Buf *>grown(self.buf, &self.cap_buf, self.n_buf + 1, sizeof(Buf))
        b = &self.buf[self.n_buf]
        memset(b, 0, sizeof(Buf))
        b.start = <char *>s.data
        b.nbytes = s.nbytes
        b.storage = <PyObject *>s
        b.origin = origin
        b.index = index
        self.n_buf += 1
        return self.n_buf - 1

    cdef int made(self, Storage s) except -1:
        s.buf = self.new_buf(s, MADE, 0)
        s.rec = self.id
        return 0

    cdef int see(self, Storage s) except -1:
        """Enters memory from before the recording."""
        cdef int64_t k
        if s is not None and s.rec != self.id and s not in self.seen:
            for k in range(self.n_input):
                if share_memory(s, <Storage>self.buf[k].storage):
                    self.spoil(f"argument tensor {self.buf[k].index} overlaps memory that is used besides")
            self.seen[s] = self.new_buf(s, HELD, 0)
        return 0

    cdef int see_tensor(self, TensorBase x) except -1:
        """Enters x's memory, and x itself where the step depends on whether it asks for a gradient."""
        self.see(x.storage)
        if x.storage is None or x.storage.rec == self.id or id(x) in self.leaves:
            return 0
        if x.leaf_grad or type(x) is not TensorType or (not pn_grad_off and x.node is None and x.a.dtype <= PN_F64):
            if self.seen.get(x.storage) is not None and self.buf[<int64_t>self.seen[x.storage]].origin == HELD:
                self.leaves[id(x)] = (x, x.storage, x.leaf_grad)
        return 0

    cdef int buffer_of(self, Storage s) except -2:
        if s.rec == self.id:
            return s.buf
        return self.seen.get(s, -1)

    cdef int64_t find(self, const void *p) noexcept:
        """The buffer that p points into; -1 for none."""
        cdef int64_t k
        for k in range(self.n_buf - 1, -1, -1):
            if self.buf[k].storage != NULL and self.buf[k].start <= <char *>p < self.buf[k].start + self.buf[k].nbytes:
                return k
        return -1

    # ---- a call ------------------------------------------------------------------------------

    cdef int before(self, OpBase op, const pn_array *arr, int64_t n_arg) except -1:
        """Keeps what the host wrote into small memory of this run that an effect is about to change."""
        cdef int64_t i, k
        cdef pn_array[2] copy
        cdef Storage s
        for i in range(n_arg):
            if mode_of(op, i, n_arg) != READ | WRITE or size_of(&arr[i]) == 0:
                continue
            k = self.find(arr[i].data)
            if k < 0 or self.buf[k].origin != MADE or self.buf[k].written or self.buf[k].hosted:
                continue
            if self.buf[k].nbytes > INIT_BYTES:
                continue
            s = new_storage(self.buf[k].nbytes)  # a constant, which the host fills
            memcpy(s.data, self.buf[k].start, s.nbytes)
            self.kept[s.buf] = s
            self.inits[k] = self.n_call
            bytes_array(&copy[0], s.data, s.nbytes)
            bytes_array(&copy[1], self.buf[k].start, s.nbytes)
            self.write_copy(copy)
            self.buf[k].written = False
        return 0

    cdef int write_copy(self, const pn_array *pair) except -1:
        cdef pn_call c
        memset(&c, 0, sizeof(pn_call))
        c.arg = <pn_array *>pair
        c.n_arg = 2
        self.write(core_op(OP_COPY), pn_kernel_fn(core_op(OP_COPY).kernel_id, PN_U8), &c, 0, 0, NULL)
        return 0

    cdef int write(self, OpBase op, pn_fn fn, const pn_call *c, int n_par, double cost, const Dims *dims) except -1:
        """Appends a call that has just run."""
        cdef TapeCall *t
        cdef int64_t i, k, n = self.n_arg + c.n_arg
        cdef pn_array *a
        cdef Buf *b
        cdef int mode
        self.call = <TapeCall *>grown(self.call, &self.cap_call, self.n_call + 1, sizeof(TapeCall))
        self.arg = <pn_array *>grown(self.arg, &self.cap_arg, n, sizeof(pn_array))
        self.arg_buf = <int32_t *>grown(self.arg_buf, &self.cap_place, n, sizeof(int32_t))
        self.arg_off = <int64_t *>grown(self.arg_off, &self.cap_off, n, sizeof(int64_t))
        self.arg_mode = <uint8_t *>grown(self.arg_mode, &self.cap_mode, n, 1)
        self.par = <pn_value *>grown(self.par, &self.cap_par, self.n_par + n_par, sizeof(pn_value))
        t = &self.call[self.n_call]
        t.fn, t.cost, t.n_arg, t.n_worker = fn, cost, c.n_arg, c.n_worker
        t.first_arg, t.first_par = self.n_arg, self.n_par
        if dims != NULL:
            t.dims = dims[0]
        if n_par:
            memcpy(&self.par[self.n_par], c.par, n_par * sizeof(pn_value))
        for i in range(c.n_arg):
            a = &self.arg[self.n_arg + i]
            a[0] = c.arg[i]
            a.data = NULL
            mode = mode_of(op, i, c.n_arg)
            self.arg_mode[self.n_arg + i] = mode
            self.arg_buf[self.n_arg + i] = -1
            if a.dtype == PN_NONE or c.arg[i].data == NULL:
                continue
            if size_of(a) == 0:
                a.data = <void *>_nothing  # a kernel tells an argument without elements from one left out
                continue
            k = self.find(c.arg[i].data)
            if k < 0:
                return self.spoil(f"'{op.name}' works on memory that the recorder has not seen")
            b = &self.buf[k]
            if b.origin == MADE and not b.written and mode & READ and not b.hosted:
                b.hosted = True
                self.kept[k] = <Storage>b.storage
            b.written = b.written or mode & WRITE
            b.changed = b.changed or mode == READ | WRITE
            self.arg_buf[self.n_arg + i] = <int32_t>k
            self.arg_off[self.n_arg + i] = <char *>c.arg[i].data - b.start
        self.ops.append(op)
        self.n_call += 1
        self.n_arg = n
        self.n_par += n_par
        return 0

    # ---- gradients of leaves -------------------------------------------------------------------

    cdef int reads_grad(self, TensorBase leaf) except -1:
        cdef TensorBase g
        if id(leaf) in self.bound or id(leaf) in self.entry:
            return 0
        self.entry[id(leaf)] = (leaf, leaf._grad)
        if leaf._grad is not None and (<TensorBase>leaf._grad).storage is None:
            return self.spoil("a gradient by rows is there already")
        if leaf._grad is not None:
            g = leaf._grad
            if g.storage is not None and g.storage.rec != self.id and g.storage not in self.seen:
                self.seen[g.storage] = self.new_buf(g.storage, SLOT, len(self.entry) - 1)
        return 0

    # ---- the host ------------------------------------------------------------------------------

    cdef bint knows(self, Storage s):
        """Whether what a storage holds belongs to the step: not where the host made it here for itself."""
        return s is None or s.rec != self.id or self.buf[s.buf].written


cdef int mode_of(OpBase op, int64_t i, int64_t n_arg) noexcept:
    """What op does with the i-th of n_arg arguments of its kernel."""
    cdef int k = <int>i, width
    if op.n_fixed < op.n_in:
        if op.has_scratch and i == n_arg - 1:
            return WRITE
        width = op.n_in - op.n_fixed
        k = op.list_order[i if i < op.n_fixed else op.n_fixed + (i - op.n_fixed) % width]
    if k >= op.n_in:
        return WRITE
    if not is_written(op, k):
        return READ
    return WRITE if op.whole else READ | WRITE


cdef void bytes_array(pn_array *a, void *data, int64_t n) noexcept:
    memset(a, 0, sizeof(pn_array))
    a.data = data
    a.dtype = PN_U8
    a.ndim = 1
    a.shape[0] = n
    a.strides[0] = 1


cdef int host_reads(TensorBase x, str what) except -1:
    """Called where the host looks at x's values while this thread records."""
    cdef Recorder r = <Recorder>pn_rec
    if r.knows(x.storage):
        r.spoil(f"{what} reads a value of shape {x.shape} on the host")
    return 0


cdef int host_writes(TensorBase x, str what) except -1:
    cdef Recorder r = <Recorder>pn_rec
    if r.knows(x.storage):
        r.spoil(f"{what} writes a tensor of shape {x.shape} on the host")
    return 0


cdef int host_data(object data, str what) except -1:
    """Called where an array becomes a tensor: a replay would see what it holds now. pynn's own are constants."""
    if isinstance(data, np.ndarray):
        frame = _getframe(0)
        while frame is not None and frame.f_globals.get("__name__") in ("pynn.tensor", "pynn.creation"):
            frame = frame.f_back
        if frame is None or not frame.f_globals.get("__name__", "").startswith("pynn."):
            note_array(data, what)
    return 0


def note_array(data, str what):
    """Says that data, the user's, becomes a tensor: an array may hold something else at the next call."""
    if pn_rec != NULL and isinstance(data, np.ndarray):
        (<Recorder>pn_rec).spoil(f"{what}: an array becomes a tensor inside; pass it as an argument, or make the "
                                 "tensor before")


cdef void storage_dies(Storage s) noexcept:
    for r in _recorders:
        if (<Recorder>r).id == s.rec:
            (<Recorder>r).buf[s.buf].storage = NULL


def recording():
    """Whether this thread is being recorded."""
    return pn_rec != NULL


def not_recordable(str why):
    """Says that what runs now cannot be replayed; nothing where this thread is not being recorded."""
    if pn_rec != NULL:
        (<Recorder>pn_rec).spoil(why)
