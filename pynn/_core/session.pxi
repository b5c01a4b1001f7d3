# Serving: arrays in, arrays out, through an instance of a plan whose arguments point straight at the caller's
# memory. Several Python threads may call at once; each takes an instance of its own.


cdef inline bint fits_template(object arr, const pn_array *a):
    """Whether arr is an array that a kernel may read in place of a."""
    cdef cnp.ndarray v
    cdef int d
    if type(arr) is not np.ndarray:
        return False
    v = <cnp.ndarray>arr
    if cnp.PyArray_NDIM(v) != a.ndim or cnp.PyArray_TYPE(v) != NPY_OF[a.dtype]:
        return False
    for d in range(a.ndim):
        if cnp.PyArray_DIM(v, d) != a.shape[d]:
            return False
    return cnp.PyArray_ISCARRAY_RO(v)


cdef class ServedPlans(PlanCache):
    """Plans of a function that writes nothing, called with arrays."""

    def serve(self, tuple xs, tuple outs):
        """The results for xs as arrays, in outs where that is no empty tuple; None where no plan fits."""
        cdef Entry e
        cdef int k
        cdef bint fits
        for e in self.entries:
            if len(e.key.shapes) != len(xs) or e.structure != structure or not same_engine(e.key):
                continue
            fits = True
            for k in range(len(xs)):
                fits = fits and fits_template(<object>PyTuple_GET_ITEM(xs, k), &(<TensorBase>e.key.shapes[k]).a)
            if not fits or not leaves_fit(e.plan.leaves) or not turned_fit(e.plan.turned) or not guards_hold(e.guards):
                continue
            self._first(e)
            self.replays += 1
            return served(e.plan, xs, outs)
        return None


cdef object served(Plan p, tuple xs, tuple outs):
    cdef Instance n
    cdef list made = []
    cdef int64_t k, failed
    cdef int i
    for i in range(len(p.results)):
        made.append(outs[i] if outs else new_array(&(<TensorBase>p.results[i][1]).a))
    n = take_instance(p)
    try:
        for k in p.vary:
            i = p.place[k].index
            if p.place[k].kind == ARGUMENT:
                point(n, k, cnp.PyArray_DATA(<cnp.ndarray>PyTuple_GET_ITEM(xs, i)))
        for i in range(len(p.results)):
            k = p.results[i][0]
            point(n, k, cnp.PyArray_DATA(<cnp.ndarray>PyList_GET_ITEM(made, i)))
        failed = run_calls(n, NULL)
        if failed < p.n_call:
            call_failed(n, failed)
    finally:
        give_back(p, n)
    return made[0] if len(made) == 1 else tuple(made)


cdef object new_array(const pn_array *a):
    cdef cnp.npy_intp[8] dims
    cdef int d
    for d in range(a.ndim):
        dims[d] = a.shape[d]
    return cnp.PyArray_EMPTY(a.ndim, dims, NPY_OF[a.dtype], 0)


def fills_new_storage(TensorBase y not None):
    """Whether y is the whole, row-major, of memory that the recorded run made."""
    return (pn_rec != NULL and y.storage is not None and y.storage.rec == (<Recorder>pn_rec).id and is_dense(&y.a) and
            y.a.data == y.storage.data and size_of(&y.a) * ITEMSIZE[y.a.dtype] == y.storage.nbytes)


def not_servable(Plan p not None):
    """Why a plan cannot serve; None where it can."""
    if p.written_held or p.written_args or p.bound or p.entry:
        return "the model changes what outlives the call (random numbers, statistics, gradients)"
    for k, y in p.results:
        if k < 0 or p.place[k].kind != RESULT:
            return "a result is no kernel's"
    return None


def result_forms(Plan p not None):
    """(shape, dtype) of each result."""
    return [(y.shape, y.dtype) for _, y in p.results]
