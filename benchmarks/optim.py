"""Optimizers' steps and clipping on 10 million parameters (workload K5), pynn beside PyTorch.

    python benchmarks/optim.py [ROW ...] [--python PEER] [--threads N] [--rounds N]

PEER is a Python that has torch (default: this one). Each library runs in a process of its own; they take
turns, one working at a time; a row tells the median of the rounds' ratios with its lower quartile and
range. PyTorch runs its fused steps. `clip` is clip_grad_norm_ and a step, in pynn step(max_norm=...);
the last lines tell what clipping adds to pynn's own step. Parameters after 3 steps are compared first.
"""

import argparse
import statistics
import sys

import numpy as np
from turns import Worker, excerpt, ratio, serve, take_turns, told, write

K5 = (50, 200_000)  # tensors, elements of each
ROWS = {  # optimizer, its options, number and size of the tensors, whether gradients are clipped
    "adam": ("Adam", {}, K5, False),
    "adamw": ("AdamW", {}, K5, False),
    "amsgrad": ("Adam", {"amsgrad": True}, K5, False),
    "sgd": ("SGD", {"momentum": 0.9}, K5, False),
    "adam_clip": ("Adam", {}, K5, True),
    "sgd_clip": ("SGD", {"momentum": 0.9}, K5, True),
    "adam_tiny": ("Adam", {}, (4, 10), False),
    "adam_tiny_clip": ("Adam", {}, (4, 10), True),
}
MAX_NORM = 1.0  # far below the norm: every clipping scales


def make(lib, row):
    """(a function that makes one step, the parameters)."""
    name, options, (n, size), clips = ROWS[row]
    if lib == "pynn":
        import pynn as L
        from pynn import optim
    else:
        import torch as L
        from torch import optim
        from torch.nn.utils import clip_grad_norm_

        options = {**options, "fused": True}
    rng = np.random.default_rng(0)
    start = [(rng.standard_normal(size, np.float32), rng.standard_normal(size, np.float32)) for _ in range(n)]
    params = [L.from_numpy(p).clone() for p, _ in start]
    for p, (_, g) in zip(params, start):
        p.requires_grad = True
        p.grad = L.from_numpy(g).clone()
    opt = getattr(optim, name)(params, lr=1e-3, **options)
    if not clips:
        return opt.step, params
    if lib == "pynn":
        return lambda: opt.step(max_norm=MAX_NORM), params

    def step():
        clip_grad_norm_(params, MAX_NORM)
        opt.step()

    return step, params


def worker(lib, row, threads):
    """Answers each line of input, a number of steps, with the seconds that they took."""
    if lib == "pynn":
        import pynn as L
    else:
        import torch as L
    L.set_num_threads(threads)
    step, params = make(lib, row)
    for _ in range(3):
        step()
    serve(excerpt([p.detach() for p in params[::7]]), {"step": step})


def turns(jobs, options):
    """Times of each job {label: (library, row)}, which take turns; their results are compared where rows agree."""
    workers = {
        label: Worker([sys.executable if lib == "pynn" else options.python, __file__, row, "--worker", lib,
                       "--threads", str(options.threads)])
        for label, (lib, row) in jobs.items()
    }  # fmt: skip
    found = {label: w.results() for label, w in workers.items()}
    times = take_turns(workers, str, max(5, options.rounds))
    for w in workers.values():
        w.close()
    return found, times


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="ROW", help=f"default: all of {', '.join(ROWS)}")
    parser.add_argument("--python", default=sys.executable, help="a Python that has torch")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", metavar="FILE", help="also write the rows as JSON")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if unknown := [name for name in options.names if name not in ROWS]:
        parser.error(f"no such row: {', '.join(unknown)}; there are {', '.join(ROWS)}")
    if options.worker:
        worker(options.worker, options.names[0], options.threads)
        return
    names = options.names or list(ROWS)
    rows = []
    for row in names:
        found, times = turns({"pynn": ("pynn", row), "torch": ("torch", row)}, options)
        np.testing.assert_allclose(found["pynn"], found["torch"], rtol=1e-4, atol=1e-6)
        rows.append({"row": row, "threads": options.threads, "peer": "torch", **ratio(times, "torch")})
        print(f"{row} {options.threads} thread(s): {told('torch', rows[-1])}", flush=True)
    for row in (r for r in names if r.endswith("_clip")):
        _, times = turns({"clipped": ("pynn", row), "plain": ("pynn", row.removesuffix("_clip"))}, options)
        added = sorted(a / b - 1 for a, b in zip(times["clipped"], times["plain"]))
        next(r for r in rows if r["row"] == row)["clipping_adds"] = statistics.median(added)
        print(f"{row} {options.threads} thread(s): clipping adds {statistics.median(added):.0%} to pynn's step "
              f"(range {added[0]:.0%} to {added[-1]:.0%})", flush=True)  # fmt: skip
    if options.json:
        write(options.json, "optim", rows, options.python)


if __name__ == "__main__":
    main()
