"""Convolutions, pynn beside PyTorch, in both of its memory formats, and JAX.

    python benchmarks/conv.py [ROW ...] [--peers LIB,LIB] [--python PEER] [--threads N] [--rounds N] [--exact]
                              [--json FILE]
    python benchmarks/conv.py --random 200    # shapes of a seeded generator instead, forward and backward

PEER is a Python that has the peers (default: this one); torch+ is PyTorch with channels-last tensors. Each
library runs in a process of its own; they take turns, one working at a time, for at least 5 rounds. A row is
measured forward, and forward with both backwards; its results are compared first. The table tells the median
of the rounds' ratios, peer ÷ pynn, with lower quartile and range, and the effective GFLOP/s: those of the
direct sum, whatever the algorithm. With --exact pynn computes float32 as it is written.
"""

import argparse
import json
import math
import os
import statistics
import sys
import time

import numpy as np
from turns import Worker, ratio, take_turns, write

ROWS = {  # N, C, H, W, O, kernel, options
    "c64x56": (16, 64, 56, 56, 64, (3, 3), {"padding": 1}),
    "c128x28": (16, 128, 28, 28, 128, (3, 3), {"padding": 1}),
    "c256x14": (16, 256, 14, 14, 256, (3, 3), {"padding": 1}),
    "c512x7": (16, 512, 7, 7, 512, (3, 3), {"padding": 1}),
    "p1x1": (16, 256, 56, 56, 64, (1, 1), {}),
    "stem7x7": (16, 3, 224, 224, 64, (7, 7), {"stride": 2, "padding": 3}),
    "dw3x3": (16, 128, 56, 56, 128, (3, 3), {"padding": 1, "groups": 128}),
    "c1x28": (64, 1, 28, 28, 32, (3, 3), {"padding": 1}),
}
PEERS = ("torch", "torch+", "jax")
PHASES = ("fwd", "fwdbwd")


def random_row(k):
    """The k-th of a sequence of shapes: odd sizes, few and many channels, strides, groups, dilations, batch 1."""
    rng = np.random.default_rng([20, k])
    groups = int(rng.choice([1, 1, 1, 2, 4]))
    c, o = (int(v) * groups for v in rng.choice([1, 3, 5, 8, 16, 33, 64, 96], 2))
    if rng.random() < 0.1:
        groups = o = c
    kernel = tuple(int(v) for v in ([(1, 1), (3, 3), (3, 3), (3, 3), (5, 5), (2, 3), (7, 7), (1, 3)][rng.integers(8)]))
    dilation = int(rng.choice([1, 1, 1, 2]))
    h, w = (int(v) for v in rng.integers(dilation * (max(kernel) - 1) + 1, 48, 2))
    options = {"stride": int(rng.choice([1, 1, 2, 3])), "padding": int(rng.integers(0, max(kernel) // 2 + 1)),
               "dilation": dilation, "groups": groups}  # fmt: skip
    return int(rng.choice([1, 2, 8, 32])), c, h, w, o, kernel, options


def row_of(name):
    return random_row(int(name[6:])) if name.startswith("random") else ROWS[name]


def arrays(name):
    """(x, W, dy) that every library starts from."""
    n, c, h, w, o, kernel, options = row_of(name)
    rng = np.random.default_rng(0)
    size = [
        (e + 2 * options.get("padding", 0) - options.get("dilation", 1) * (k - 1) - 1) // options.get("stride", 1) + 1
        for e, k in zip((h, w), kernel)
    ]
    shapes = (n, c, h, w), (o, c // options.get("groups", 1), *kernel), (n, o, *size)
    return [rng.standard_normal(s, np.float32) for s in shapes]


def flops(name):
    _, w, dy = arrays(name)
    return 2 * dy.size * math.prod(w.shape[1:])


def jax_calls(name):
    """(forward, forward and backward) in JAX, channels last, compiled; results in PyTorch's order of dimensions."""
    import jax

    x, w, dy = arrays(name)
    x, dy = (jax.numpy.asarray(np.moveaxis(a, 1, -1)) for a in (x, dy))
    w = jax.numpy.asarray(np.moveaxis(w, (0, 1), (3, 2)))
    o = row_of(name)[-1]
    stride, pad, dil = (o.get(k, d) for k, d in (("stride", 1), ("padding", 0), ("dilation", 1)))

    def conv(x, w):
        return jax.lax.conv_general_dilated(
            x, w, (stride, stride), [(pad, pad)] * 2, rhs_dilation=(dil, dil),
            dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=o.get("groups", 1),
        )  # fmt: skip

    fwd = jax.jit(conv)

    @jax.jit
    def both(x, w, dy):
        y, back = jax.vjp(conv, x, w)
        return y, *back(dy)

    def results():
        y, dx, dw = both(x, w, dy)
        return np.moveaxis(y, -1, 1), np.moveaxis(dx, -1, 1), np.moveaxis(dw, (3, 2), (0, 1))

    return {
        "fwd": lambda: fwd(x, w).block_until_ready(),
        "fwdbwd": lambda: jax.block_until_ready(both(x, w, dy)),
    }, results


def eager_calls(lib, name):
    """The same in pynn, or in PyTorch with either memory format."""
    if lib == "pynn":
        import pynn as L
        from pynn.nn import functional as F
    else:
        import torch as L
        from torch.nn import functional as F
    x, w, dy = map(L.from_numpy, arrays(name))
    if lib == "torch+":
        x, w, dy = (a.contiguous(memory_format=L.channels_last) for a in (x, w, dy))
    elif lib == "pynn":  # as its layers have them
        x, w, dy = (L.from_numpy(np.moveaxis(np.ascontiguousarray(np.moveaxis(a.numpy(), 1, -1)), -1, 1))
                    for a in (x, w, dy))  # fmt: skip
        w = w.detach()
    options = row_of(name)[-1]
    x.requires_grad = w.requires_grad = True

    def forward():
        with L.no_grad():
            return F.conv2d(x, w, **options)

    def both():
        x.grad = w.grad = None
        y = F.conv2d(x, w, **options)
        y.backward(dy)
        return y

    def results():
        y = both()
        return [np.asarray(a) for a in (y.detach(), x.grad, w.grad)]

    return {"fwd": forward, "fwdbwd": both}, results


def worker(lib, threads, exact):
    """Answers "row NAME" with projections of the results, "PHASE N" with the seconds of N calls."""
    if lib == "jax":
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])  # or it takes all
    elif lib == "pynn":
        import pynn

        pynn.set_num_threads(threads)
        pynn.set_float32_precision("exact" if exact else "fast")
    else:
        import torch

        torch.set_num_threads(threads)
    calls = {}
    for line in sys.stdin:
        word, value = line.split()
        if word == "row":
            calls, results = jax_calls(value) if lib == "jax" else eager_calls(lib, value)
            rng = np.random.default_rng(1)
            told = []
            for a in results():
                a = np.asarray(a, np.float64)
                told += [float((a * rng.standard_normal(a.shape)).sum()), float(np.sqrt((a * a).sum()))]
            print(json.dumps(told), flush=True)
            continue
        start = time.perf_counter()
        for _ in range(int(value)):
            calls[word]()
        print(time.perf_counter() - start, flush=True)


def same(name, results):
    """Each pair is a projection and the norm that its error is relative to."""
    for lib, told in results.items():
        for k in range(0, 6, 2):
            error = abs(told[k] - results["pynn"][k]) / max(told[k + 1], 1e-30)
            if not error < 1e-3:
                raise SystemExit(f"{name}: {'y dx dW'.split()[k // 2]} of {lib} and pynn differ by {error:g}")


def compare(name, workers, options):
    """{(phase, peer): ratio} of a row."""
    results = {}
    for lib, w in workers.items():
        w.process.stdin.write(f"row {name}\n")
        w.process.stdin.flush()
        results[lib] = w.results()
    same(name, results)
    found = {}
    for phase in PHASES if not options.random else PHASES[1:]:
        budget = 0.01 if options.random else 0.15
        times = take_turns(workers, lambda n, p=phase: f"{p} {n}", max(5, options.rounds), budget, 1)
        for peer in options.peers.split(","):
            found[phase, peer] = ratio(times, peer)
    return found


def show(name, found):
    for phase in dict.fromkeys(p for p, _ in found):
        rows = {peer: r for (p, peer), r in found.items() if p == phase}
        mine = next(iter(rows.values()))["pynn_us"]
        speed = flops(name) * (1 if phase == "fwd" else 3) / mine * 1e-3
        cells = [f"{name:>9} {phase:6} pynn {mine / 1e3:8.3f} ms {speed:6.1f} GFLOP/s"]
        for peer, r in rows.items():
            low, high = r["range"]
            quartile = r["lower_quartile"]
            cells.append(f"{peer} {r['peer_us'] / 1e3:.3f} ms, {r['ratio']:.2f} ({quartile:.2f}; {low:.2f}–{high:.2f})")
        print(" | ".join(cells), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", nargs="*", default=list(ROWS))
    parser.add_argument("--peers", default=",".join(PEERS))
    parser.add_argument("--python", default=sys.executable, help="a Python that has the peers")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--exact", action="store_true", help="no Winograd")
    parser.add_argument("--random", type=int, default=0, help="so many shapes of the generator")
    parser.add_argument("--json", metavar="FILE", help="also write the rows as JSON")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(options.worker, options.threads, options.exact)
        return
    workers = {}
    for lib in ("pynn", *options.peers.split(",")):
        python = sys.executable if lib == "pynn" else options.python
        args = [python, __file__, "--worker", lib, "--threads", str(options.threads)]
        workers[lib] = Worker(args + ["--exact"] * options.exact)
    best, rows = [], []
    for name in [f"random{k}" for k in range(options.random)] or options.rows:
        found = compare(name, workers, options)
        show(name, found)
        rows += [{"row": name + ", exact" * options.exact, "pass": phase, "threads": options.threads, "peer": peer, **r}
                 for (phase, peer), r in found.items()]  # fmt: skip
        best.append(min(r["ratio"] for (phase, _), r in found.items() if phase == PHASES[-1]))
    print(f"geometric mean of the best peer ÷ pynn, {PHASES[-1]}, {len(best)} rows, {options.threads} thread(s): "
          f"{math.exp(statistics.fmean(map(math.log, best))):.3f}; least {min(best):.2f}, median "
          f"{statistics.median(best):.2f}, below 0.6: {sum(b < 0.6 for b in best)}")  # fmt: skip
    if options.json:
        write(options.json, "conv_random" if options.random else "conv", rows, options.python)


if __name__ == "__main__":
    main()
