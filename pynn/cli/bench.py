"""`python -m pynn bench [name ...]`: every op from its entry, forward and forward + backward.

A row tells the time of a call, the bandwidth of its compulsory bytes (inputs read once, outputs
written once) and the arithmetic rate, each against what this machine reaches in the same run: the
copy kernel on the same footprint, and the product 512×512×512.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import numpy as np

from .. import _core
from ..op import OPS, Effect, Op
from ..tensor import Tensor

SIZES = {"small": ((8, 32), 32), "medium": ((128, 512), 128), "large": ((1024, 4096), 512)}


def timed(fn, budget: float = 0.1, rounds: int = 5) -> float:
    """Median seconds of one call of fn over rounds of about budget/rounds seconds each."""
    fn()
    start = time.perf_counter()
    fn()
    once = max(time.perf_counter() - start, 1e-7)
    n = max(1, int(budget / rounds / once))
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        for _ in range(n):
            fn()
        times.append((time.perf_counter() - start) / n)
    return statistics.median(times)


def arguments(op: Op, size: str, rng: np.random.Generator, dtype) -> tuple[list, dict] | None:
    """Inputs of the entry's shapes at a size; None where only the entry's own samples can say them."""
    ell, dim = SIZES[size]
    if op.required:
        return from_sample(op, rng, dtype)
    bound = {}
    args = []
    for name, dims, place, kind, optional, limit in op.in_specs:
        if optional and kind != "T":
            args.append(None)
            continue
        shape = [factor * (1 if sym < 0 else bound.setdefault(sym, dim)) for sym, factor in dims]
        if place >= 0:
            shape[place:place] = ell if len(shape) < 2 else (2,)
        if kind == "i":
            high = dim if limit >= 0 else 2
            args.append(Tensor(rng.integers(0, high, shape)))
        elif kind == "b":
            args.append(Tensor(rng.integers(0, 2, shape).astype(bool)))
        else:
            low, high = op.domain.get(name, (-2, 2))
            args.append(Tensor(rng.uniform(low, high, shape).astype(dtype)))
    return args, {}


def from_sample(op: Op, rng: np.random.Generator, dtype) -> tuple[list, dict] | None:
    """The entry's own sample with the most elements."""
    if op.samples is None:
        return None
    args, params = max(op.samples(rng), key=lambda s: sum(np.size(a) for a in s[0] if a is not None))
    return [None if a is None else Tensor(np.asarray(a, dtype if np.asarray(a).dtype.kind == "f" else None))
            for a in args], params  # fmt: skip


def cost(op: Op, args: list, params: dict, outs: list) -> tuple[int, float]:
    """(compulsory bytes, flops) of one forward call."""
    nbytes = int(_core.bytes_of(op, tuple(args), tuple(outs), params))
    return nbytes, _core.flops_of(op, tuple(args), params, outs[0].size if outs else 0)


def row(op: Op, size: str, rng: np.random.Generator, dtype) -> dict | None:
    """One measured row, or None where the op cannot be called by itself."""
    made = arguments(op, size, rng, dtype)
    if made is None:
        return None
    args, params = made
    result = op(*args, **params)
    outs = [t for t in (result if isinstance(result, tuple) else (result,)) if isinstance(t, Tensor)]
    nbytes, flops = cost(op, args, params, outs)
    forward = timed(lambda: op(*args, **params))
    entry = {"op": op.name, "size": size, "shapes": [None if a is None else a.shape for a in args], "bytes": nbytes,
             "flops": flops, "forward_us": forward * 1e6}  # fmt: skip
    live = [a for a in args if a is not None and a.dtype.kind == "f"]
    if live and outs and outs[0].dtype.kind == "f" and not isinstance(op, Effect):
        for a in live:
            a.requires_grad = True
        seed = Tensor(np.ones(outs[0].shape, outs[0].dtype))

        def both():
            y = op(*args, **params)
            y = y[0] if isinstance(y, tuple) else y
            y.backward(seed)
            for a in live:
                a.grad = None

        entry["forward_backward_us"] = timed(both) * 1e6
    entry["copy_us"] = copy_time(nbytes) * 1e6
    entry["bandwidth_share"] = entry["copy_us"] / entry["forward_us"]
    return entry


def copy_time(nbytes: int) -> float:
    """Seconds that the copy kernel takes to move nbytes (half read, half written)."""
    x = Tensor(np.zeros(max(1, nbytes // 8), np.float32))
    return timed(lambda: OPS.copy(x), budget=0.03)


def peak_gflops(dtype) -> float:
    """What the product 512×512×512 reaches here, in GFLOP/s."""
    a = Tensor(np.ones((512, 512), dtype))
    return 2 * 512**3 / timed(lambda: OPS.matmul(a, a)) / 1e9


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m pynn bench", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="ops to measure (default: all)")
    parser.add_argument("--size", choices=SIZES, default="medium")
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    parser.add_argument("--json", metavar="FILE", help="also write the rows as JSON")
    options = parser.parse_args(argv)
    unknown = [n for n in options.names if n not in OPS]
    if unknown:
        parser.error(f"no such op: {', '.join(unknown)}; there are {', '.join(sorted(op.name for op in OPS))}")
    rng = np.random.default_rng(0)
    peak = peak_gflops(options.dtype)
    print(f"isa {_core.isa()}, {_core.get_num_threads()} threads, {options.dtype}; matmul 512³: {peak:.1f} GFLOP/s")
    print(f"{'op':24} {'forward µs':>11} {'fwd+bwd µs':>11} {'GB/s':>8} {'of copy':>8} {'GFLOP/s':>8} {'of peak':>8}")
    rows = []
    for op in OPS:
        if (options.names and op.name not in options.names) or isinstance(op, Effect):
            continue
        r = row(op, options.size, rng, np.dtype(options.dtype))
        if r is None:
            print(f"{op.name:24} needs arguments of its own: no sample in its entry")
            continue
        rows.append(r)
        seconds = r["forward_us"] / 1e6
        both = f"{r['forward_backward_us']:11.2f}" if "forward_backward_us" in r else " " * 11
        rate = r["flops"] / seconds / 1e9
        print(f"{r['op']:24} {r['forward_us']:11.2f} {both} {r['bytes'] / seconds / 1e9:8.2f} "
              f"{r['bandwidth_share']:7.0%} {rate:8.2f} {rate / peak:7.0%}")  # fmt: skip
    if options.json:
        with open(options.json, "w") as f:
            json.dump(
                {"isa": _core.isa(), "threads": _core.get_num_threads(), "peak_gflops": peak, "rows": rows}, f, indent=1
            )
    return 0
