# Threads, ISA level, grad mode, anomaly detection: what surrounds a call.


def grad_enabled():
    """Whether this thread records history."""
    return pn_grad_off == 0


def set_grad_enabled(bint on):
    """Switches recording on this thread; returns what it was."""
    global pn_grad_off
    was = pn_grad_off == 0
    pn_grad_off = 0 if on else 1
    return was


def set_anomaly(bint on):
    """Switches the check of the outputs of this thread's kernels for NaN and Inf; returns what it was."""
    global pn_anomaly
    was = pn_anomaly != 0
    pn_anomaly = on
    return was


def set_num_threads(n):
    """Lets kernels use n threads, of which pn_par.c takes no more than 4095."""
    cdef int64_t k = as_int(n, "set_num_threads: argument 'n'")
    if k < 1:
        raise ValueError(f"set_num_threads: argument 'n': expected at least 1, got {n}")
    if k > 4095 or pn_set_num_threads(<int>k) != 0:
        raise ValueError(f"set_num_threads: argument 'n': expected at most 4095, got {n}")


def get_num_threads():
    """The number of threads that a kernel may use."""
    return pn_get_num_threads()


def set_chunk_div(div):
    """Shrinks the chunks of work by div, so that small samples split among threads (tests)."""
    cdef int64_t n = as_int(div, "set_chunk_div: argument 'div'")
    if n < 1:
        raise ValueError(f"set_chunk_div: argument 'div': expected at least 1, got {n}")
    pn_set_chunk_div(n)


def get_chunk_div():
    """By how much chunks of work are shrunk: 1, or PYNN_CHUNK_DIV."""
    return pn_get_chunk_div()


def par_stats(bint reset=False):
    """Counters of the thread team; reset=True starts them again."""
    cdef pn_par_info i
    pn_par_stats(&i)
    if reset:
        pn_par_stats_reset()
    return {"regions": i.regions, "parallel": i.parallel, "granted": i.granted, "serial": i.serial,
            "chunks_by_workers": i.chunks_by_workers, "team": i.team, "threads": i.threads,
            "backend": pn_par_backend().decode()}


def team_stop():
    """Ends the worker threads; the next region starts them again."""
    pn_team_stop()


def isa():
    """The ISA level in use: base, avx2, avx512 or neon."""
    return pn_isa_name(pn_isa()).decode()


def isa_levels():
    """The ISA levels that this build and this machine have, lowest first."""
    return [pn_isa_name(k).decode() for k in range(pn_isa_best() + 1) if pn_isa_name(k) != NULL]


def use_isa(str name):
    """Switches the kernels to an ISA level; returns the one before."""
    was = isa()
    levels = isa_levels()
    if name not in levels:
        raise ValueError(f"use_isa: expected one of {', '.join(levels)}, got {name!r}")
    pn_use_isa(levels.index(name))
    return was


def use_exact(bint on):
    """Has float32 computed as written, or lets kernels use faster algorithms whose rounding is larger."""
    pn_use_exact(on)


def exact():
    """Whether float32 is computed as written."""
    return pn_exact() != 0


def kernels():
    """Every C kernel: {name: (id, stem, inputs, outputs, parameters)}, as csrc/kernels.inc has them."""
    cdef const pn_kernel_info *k
    cdef int i
    table = {}
    for i in range(pn_n_kernels()):
        k = pn_kernel(i)
        table[k.name.decode()] = (i, k.stem.decode(), names_in(k.ins), names_in(k.outs), names_in(k.pars))
    return table


cdef tuple names_in(const char *text):
    inner = text.decode().strip("()").strip()
    return tuple([s.strip() for s in inner.split(",")]) if inner else ()


cdef int check_kernel(int kernel_id) except -1:
    if not -1 <= kernel_id < pn_n_kernels():
        raise ValueError(f"kernel {kernel_id}: expected one of {pn_n_kernels()}")
    return 0


def has_form(int kernel_id, dtype):
    """Whether a kernel has a form for dtype."""
    check_kernel(kernel_id)
    return kernel_id >= 0 and pn_kernel_fn(kernel_id, dtype_tag(dtype)) != NULL
