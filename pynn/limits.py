"""What this machine can do, at the ISA level and with the threads set: arithmetic, memory, regions of the team.

Benchmarks and profiles of plans hold kernels against it. Memory is measured at the footprint and at the mix of reads
and writes that a kernel has, with plain stores, with stores past the caches and with reads fetched ahead; the best
one counts.
"""

from __future__ import annotations

import functools
import math
import statistics
import time

from . import _core

# (arrays read, arrays written, whether in place), as csrc/pn_limits.c has them
MIXES = ((1, 0, False), (0, 1, False), (4, 1, False), (3, 1, False), (2, 1, False), (3, 2, False), (1, 1, False),
         (1, 2, False), (1, 3, False), (1, 1, True), (4, 3, True))  # fmt: skip
FOOTPRINTS = (24 << 10, 512 << 10, 4 << 20, 16 << 20, 256 << 20)  # bytes of the table: L1, L2, L3 twice, memory
UNIT = 64  # elements: what four vectors of the widest level hold


def _levels() -> tuple:
    return _core.isa(), _core.get_num_threads()


def peak_flops(level: str | None = None) -> float:
    """float32 flops a second of multiply-adds on registers, at an ISA level (default: the one in use)."""
    return _peak_flops(level or _core.isa(), _core.get_num_threads())


@functools.lru_cache
def _peak_flops(level: str, threads: int) -> float:
    rounds = 100_000  # about 1 ms
    _core.limit_fma(level, rounds)
    return max(flops / seconds for seconds, flops in (_core.limit_fma(level, rounds) for _ in range(10)))


def nearest_mix(reads: float, writes: float) -> tuple[int, int]:
    """The numbers of arrays read and written whose ratio is nearest to that of the bytes."""
    angle = math.atan2(writes, reads)
    return min(((r, w) for r, w, in_place in MIXES if not in_place),
               key=lambda mix: abs(math.atan2(mix[1], mix[0]) - angle))  # fmt: skip


def bandwidth(reads: int, writes: int, footprint: float, in_place: bool = False) -> float:
    """Bytes a second, read and written, at best: `reads` arrays read and `writes` written, which together take
    `footprint` bytes. It is measured once for all footprints of one eighth of an octave."""
    step = round(8 * math.log2(max(footprint, 256)))
    return _bandwidth(reads, writes, step, in_place, *_levels())[0]


@functools.cache
def _bandwidth(reads: int, writes: int, step: int, in_place: bool, level: str, threads: int) -> tuple[float, str]:
    """(bytes a second, how they were stored and read)"""
    arrays = reads + (0 if in_place else writes)
    n = max(UNIT * threads, round(2 ** (step / 8) / 4 / arrays / UNIT / threads) * UNIT * threads)
    moved = 4 * n * (reads + writes)
    passes = max(1, int(2e7 / moved))  # a tenth of a millisecond and more

    def rate(how):
        return moved / min(_core.limit_stream(reads, writes, n, passes, how, in_place) for _ in range(5))

    hows = [h for h in _core.STREAM_HOWS if h != "past" or (writes and not in_place)]
    return max((rate(how), how) for how in hows)


def roofline(reads: float, writes: float, flops: float) -> float:
    """Seconds that the machine needs at least to read and write so many bytes, once each, and to do the flops."""
    seconds = flops / peak_flops()
    if reads + writes > 0:
        seconds = max(seconds, (reads + writes) / bandwidth(*nearest_mix(reads, writes), reads + writes))
    return seconds


def region_costs() -> tuple[float, float]:
    """(hot, parked) seconds of a region of the team: one after another, and after pauses of 3 ms. Medians."""
    _core.limit_region(100)
    hot = statistics.median(_core.limit_region(1000) for _ in range(9))
    parked = []
    for _ in range(25):
        time.sleep(0.003)
        parked.append(_core.limit_region(1))
    return hot, statistics.median(parked)


def measured() -> dict:
    """All limits: what `python -m pynn bench --limits` prints, in GFLOP/s, GB/s and µs."""
    hot, parked = region_costs()
    table = [
        {"reads": r, "writes": w, "in_place": in_place, "bytes": size,
         "gbs": bandwidth(r, w, size, in_place) / 1e9,
         "how": _bandwidth(r, w, round(8 * math.log2(size)), in_place, *_levels())[1]}
        for r, w, in_place in MIXES for size in FOOTPRINTS
    ]  # fmt: skip
    return {"threads": _core.get_num_threads(), "gflops": {v: peak_flops(v) / 1e9 for v in _core.isa_levels()},
            "region_hot_us": hot * 1e6, "region_parked_us": parked * 1e6, "bandwidth": table}  # fmt: skip


def told(limits: dict) -> str:
    """The limits as text."""
    rows = [f"{limits['threads']} thread(s); multiply-adds, GFLOP/s: "
            + ", ".join(f"{level} {rate:.1f}" for level, rate in limits["gflops"].items()),
            f"a region of the team: hot {limits['region_hot_us']:.2f} µs, parked {limits['region_parked_us']:.1f} µs",
            "GB/s of arrays read : written" + "".join(f"{_size(b):>12}" for b in FOOTPRINTS)]  # fmt: skip
    for r, w, in_place in MIXES:
        cells = [x for x in limits["bandwidth"] if (x["reads"], x["writes"], x["in_place"]) == (r, w, in_place)]
        marks = {"plain": " ", "past": "*", "ahead": "+"}
        name = f"{r} : {w}" + (", in place" if in_place else "")
        rows.append(f"{name:29}" + "".join(f"{x['gbs']:11.1f}{marks[x['how']]}" for x in cells))
    return "\n".join([*rows, "best of plain stores, * stores past the caches, + reads fetched ahead"])


def _size(n: int) -> str:
    return f"{n >> 20} MB" if n >> 20 else f"{n >> 10} KB"
