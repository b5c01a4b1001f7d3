"""`python -m pynn bench [name ...]`: every op from its entry, forward and forward + backward.

A row tells the time of a call and its share of the roofline: what the machine needs, measured in the same
run, to move the call's compulsory bytes (inputs read once, outputs written once) at the same footprint and mix
of reads and writes, or to do its flops. The time is that of a Python call, whose own cost is all there is to see
at size small.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import _core, limits
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
    widest = max(len(dims) for _, dims, *_ in op.in_specs)
    if widest > 0:  # rows of dim elements, and as many elements in all
        ell, dim = (math.prod(ell) // dim,), dim if widest < 3 else round(math.prod(ell) ** (1 / widest))
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


def traffic(op: Op, args: list, params: dict, outs: list) -> tuple[float, float, float]:
    """(bytes read, bytes written, flops) of one forward call."""
    total = _core.bytes_of(op, tuple(args), tuple(outs), params)
    written = min(total, sum(map(nbytes, outs)))
    return total - written, written, _core.flops_of(op, tuple(args), params, outs[0].size if outs else 0)


def nbytes(t: Tensor | None) -> int:
    return 0 if t is None else t.size * t.dtype.itemsize


def back_traffic(op: Op, args: list, outs: list) -> tuple[float, float]:
    """(bytes read, bytes written) by the op's backward kernel."""
    size = dict(zip((*op.in_names, *op.out_names), map(nbytes, (*args, *outs)), strict=True))
    sizes = size | {"d" + name: n for name, n in size.items()}
    return sum(sizes[n] for n in op.bwd.in_names), sum(sizes[n] for n in op.bwd.out_names)


def row(op: Op, size: str, rng: np.random.Generator, dtype) -> dict | None:
    """One measured row, or None where the op cannot be called by itself."""
    made = arguments(op, size, rng, dtype)
    if made is None:
        return None
    args, params = made
    result = op(*args, **params)
    outs = [t for t in (result if isinstance(result, tuple) else (result,)) if isinstance(t, Tensor)]
    read, written, flops = traffic(op, args, params, outs)
    forward = timed(lambda: op(*args, **params))
    least = limits.roofline(read, written, flops)
    entry = {"op": op.name, "size": size, "shapes": [None if a is None else a.shape for a in args],
             "bytes": read + written, "flops": flops, "forward_us": forward * 1e6,
             "roofline_us": least * 1e6, "share": least / forward}  # fmt: skip
    live = [a for a in args if a is not None and a.dtype.kind == "f"]
    slope = outs and outs[0].dtype.kind == "f" and op.out_specs[0][3] != "C"
    if live and slope and not isinstance(op, Effect):
        both = timed(forward_backward(op, args, params, live, outs[0]))
        entry["forward_backward_us"] = both * 1e6
        if op.bwd is not None and None not in args:
            least += limits.roofline(*back_traffic(op, args, outs), 0)
            entry["forward_backward_share"] = least / both
    return entry


def forward_backward(op: Op, args: list, params: dict, live: list, y: Tensor) -> Callable[[], None]:
    """A function that computes the value and the gradients of `live`, from a gradient of y that is 1."""
    for a in live:
        a.requires_grad = True
    seed = Tensor(np.ones(y.shape, y.dtype))

    def both():
        y = op(*args, **params)
        y = y[0] if isinstance(y, tuple) else y
        y.backward(seed)
        for a in live:
            a.grad = None

    return both


def told(r: dict) -> str:
    """A row as text."""
    seconds, share = r["forward_us"] / 1e6, r.get("forward_backward_share")
    both = f"{r['forward_backward_us']:11.2f}" if "forward_backward_us" in r else " " * 11
    of_both = "" if share is None else f"{share:.0%}"
    return (f"{r['op']:32} {r['forward_us']:11.2f} {r['share']:7.0%} {both} {of_both:>7} "
            f"{r['bytes'] / seconds / 1e9:8.2f} {r['flops'] / seconds / 1e9:8.2f}")  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m pynn bench", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="ops to measure (default: all)")
    parser.add_argument("--size", choices=SIZES, default="medium")
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    parser.add_argument("--threads", type=int, help="default: as many as pynn.show_config() says")
    parser.add_argument("--limits", action="store_true", help="measure the machine's limits alone")
    parser.add_argument("--json", metavar="FILE", help="also write the rows as JSON")
    options = parser.parse_args(argv)
    unknown = [n for n in options.names if n not in OPS]
    if unknown:
        parser.error(f"no such op: {', '.join(unknown)}; there are {', '.join(sorted(op.name for op in OPS))}")
    if options.threads:
        _core.set_num_threads(options.threads)
    found: dict[str, Any] = {"isa": _core.isa(), "threads": _core.get_num_threads(), "dtype": options.dtype}
    if options.limits or not options.names:
        found["limits"] = limits.measured()
        print(limits.told(found["limits"]), flush=True)
    if not options.limits:
        found["rows"] = measure(options)
    if options.json:
        with open(options.json, "w") as f:
            json.dump(found, f, indent=1)
    return 0


def measure(options: argparse.Namespace) -> list[dict]:
    """Measures and prints the rows that were asked for."""
    rng = np.random.default_rng(0)
    print(f"isa {_core.isa()}, {_core.get_num_threads()} thread(s), {options.dtype}, "
          f"multiply-adds {limits.peak_flops() / 1e9:.1f} GFLOP/s")  # fmt: skip
    print(f"{'op':32} {'forward µs':>11} {'of roof':>7} {'fwd+bwd µs':>11} {'of roof':>7} {'GB/s':>8} {'GFLOP/s':>8}")
    rows = []
    for op in OPS:
        if (options.names and op.name not in options.names) or isinstance(op, Effect):
            continue
        r = row(op, options.size, rng, np.dtype(options.dtype))
        if r is None:
            print(f"{op.name:32} needs arguments of its own: no sample in its entry")
            continue
        rows.append(r)
        print(told(r), flush=True)
    return rows
