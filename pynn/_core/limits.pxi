# What the machine can do, measured by csrc/pn_limits.c: benchmarks hold kernels against it.

STREAM_HOWS = ("plain", "past", "ahead")  # stores past the caches; reads fetched ahead


cdef int level_of(str name) except -1:
    levels = isa_levels()
    if name not in levels:
        raise ValueError(f"limit_fma: expected an ISA level of {', '.join(levels)}, got {name!r}")
    return levels.index(name)


def limit_fma(str level, int64_t rounds):
    """(seconds, float32 flops) of multiply-adds on registers, `rounds` of them on each thread."""
    cdef int isa_level = level_of(level), n = pn_get_num_threads()
    cdef Storage result = new_storage(n * sizeof(float))
    cdef double done
    cdef int64_t start
    with nogil:
        start = nanoseconds()
        done = pn_limit_fma(isa_level, n, rounds, <float *>result.data)
        start = nanoseconds() - start
    return start * 1e-9, done


def limit_stream(int reads, int writes, int64_t n, int64_t passes, str how="plain", bint in_place=False):
    """Seconds of one pass of all threads over `reads` arrays of n float32 that are read and `writes` that are written,
    each thread on its own share, the mean of `passes`. in_place: the writes go to the arrays that are read first.
    """
    if not (0 <= reads <= PN_STREAM_READS and 0 <= writes <= PN_STREAM_WRITES and reads + writes > 0):
        raise ValueError(f"limit_stream: expected at most {PN_STREAM_READS} reads and {PN_STREAM_WRITES} writes, got "
                         f"{reads} and {writes}")
    if how not in STREAM_HOWS or n < 1 or passes < 1 or (in_place and writes > reads):
        raise ValueError(f"limit_stream: expected sizes of at least 1 and one of {STREAM_HOWS}, got {n}, {passes} and "
                         f"{how!r}")
    cdef int k, kind = STREAM_HOWS.index(how), level = pn_isa(), threads = pn_get_num_threads()
    cdef float *x[4]
    cdef float *y[3]
    cdef Storage s
    cdef int64_t start
    kept = []
    for k in range(reads + (0 if in_place else writes)):
        s = new_storage(n * sizeof(float))
        memset(s.data, 1, n * sizeof(float))  # zeros travel faster: up to 1.5 times so on a Zen 5
        kept.append(s)
        if k < reads:
            x[k] = <float *>s.data
        else:
            y[k - reads] = <float *>s.data
    for k in range(writes if in_place else 0):
        y[k] = x[k]
    with nogil:
        pn_hot(1)
        pn_limit_stream(level, threads, x, reads, y, writes, n, 1, kind)
        start = nanoseconds()
        pn_limit_stream(level, threads, x, reads, y, writes, n, passes, kind)
        start = nanoseconds() - start
        pn_hot(0)
    return start * 1e-9 / passes


def limit_region(int64_t n):
    """Seconds of a region of the thread team in which a thread has next to nothing to do, the mean of n one after
    another. With n = 1 after a pause the workers are parked first."""
    cdef int threads = pn_get_num_threads()
    cdef int64_t k
    cdef Storage result = new_storage(threads * sizeof(float))
    cdef int64_t start
    with nogil:
        start = nanoseconds()
        for k in range(n):
            pn_limit_fma(0, threads, 0, <float *>result.data)
        start = nanoseconds() - start
    return start * 1e-9 / n
