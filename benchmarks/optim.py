"""Optimizers' steps and clipping on 10 million parameters (workload K5), pynn beside PyTorch.

    python benchmarks/optim.py [ROW ...] [--python PEER] [--threads N] [--rounds N] [--triads]

PEER is a Python that has torch (default: this one). Each library runs in a process of its own; they take
turns, one working at a time; a row tells the median of the rounds' ratios with its lower quartile and
range. PyTorch runs its fused steps. `clip` is clip_grad_norm_ and a step, in pynn step(max_norm=...);
the last lines tell what clipping adds to pynn's own step. Parameters after 3 steps are compared first.

--triads: pynn's steps alone, each beside loops that read and write as many arrays in place and compute next to
nothing (pynn.limits): the share of memory's rate that a step reaches, median of the rounds and quartiles.
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
    "adagrad": ("Adagrad", {}, K5, False),
    "rmsprop": ("RMSprop", {}, K5, False),
    "rmsprop_all": ("RMSprop", {"centered": True, "momentum": 0.9}, K5, False),
    "nadam": ("NAdam", {}, K5, False),
    "radam": ("RAdam", {}, K5, False),
    "adam_tiny": ("Adam", {}, (4, 10), False),
    "adam_tiny_clip": ("Adam", {}, (4, 10), True),
}
ALONE = {  # torch has none of them
    "sgd_plain": ("SGD", {}, K5, False),
    "lion": ("Lion", {}, K5, False),
    "lamb": ("LAMB", {}, K5, False),
}
TRIADS = {  # passes over memory: arrays read, and those of them that are written
    "sgd_plain": [(2, 1)], "sgd": [(3, 2)], "adagrad": [(3, 2)], "rmsprop": [(3, 2)], "lion": [(3, 2)],
    "adam": [(4, 3)], "adamw": [(4, 3)], "nadam": [(4, 3)], "radam": [(4, 3)],
    "amsgrad": [(5, 4)], "rmsprop_all": [(5, 4)],
    "lamb": [(4, 2), (3, 1)],  # norms are of the whole tensor: the step is a pass of its own
}  # fmt: skip
MAX_NORM = 1.0  # far below the norm: every clipping scales


def make(lib, row):
    """(a function that makes one step, the parameters)."""
    name, options, (n, size), clips = (ROWS | ALONE)[row]
    if lib == "pynn":
        import pynn as L
        from pynn import optim
    else:
        import torch as L
        from torch import optim
        from torch.nn.utils import clip_grad_norm_

        if name in ("SGD", "Adam", "AdamW", "Adagrad"):
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


def triads(names, threads, rounds):
    """Prints the share of the best triads' rate that each step reaches."""
    import time

    import pynn
    from pynn import limits

    pynn.set_num_threads(threads)
    for row in names:
        step, params = make("pynn", row)
        nbytes = 4 * sum(p.size for p in params)
        step(), step()
        shares = []
        for _ in range(rounds):
            limits._bandwidth.cache_clear()
            best = 0.0
            for reads, writes in TRIADS[row]:
                known = min(reads, 4), min(writes, 3)  # of more arrays than that a loop was not made
                best += nbytes * (reads + writes) / limits.bandwidth(*known, nbytes * known[0], in_place=True)
            took = []
            for _ in range(15):  # as often as bandwidth() tries: five times in three ways
                start = time.perf_counter()
                step()
                took.append(time.perf_counter() - start)
            shares.append(best / min(took))
        low, mid, high = statistics.quantiles(shares, n=4)
        print(f"{row} {threads} thread(s): {mid:.0%} of the best triad (quartiles {low:.0%} to {high:.0%}), "
              f"{min(took) * 1e3:.2f} ms", flush=True)  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="ROW", help=f"default: all of {', '.join(ROWS)}")
    parser.add_argument("--python", default=sys.executable, help="a Python that has torch")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--triads", action="store_true", help="pynn's steps against memory's rate, without a peer")
    parser.add_argument("--json", metavar="FILE", help="also write the rows as JSON")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    known = TRIADS if options.triads else ROWS
    if unknown := [name for name in options.names if name not in known]:
        parser.error(f"no such row: {', '.join(unknown)}; there are {', '.join(known)}")
    if options.triads:
        triads(options.names or list(TRIADS), options.threads, max(5, options.rounds))
        return
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
