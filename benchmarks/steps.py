"""Whole training steps and inference, pynn beside PyTorch, JAX, scikit-learn and ONNX Runtime.

    python benchmarks/steps.py T1 T2 T3 T10 T10_sparse [--python PEER] [--peers torch,torch+] [--threads N]
                               [--rounds N] [--plan] [--json FILE]

PEER is a Python that has the peers (default: this one). Each library runs in a process of its own; they take turns,
one working at a time, for at least 5 rounds; the table tells the median of the rounds' ratios with lower quartile
and range. A step is zero_grad, a fresh batch, forward, loss, backward, optimizer; the loss is read every 10 steps.
The first results of all are compared before timing. At the end each process tells its peak of resident memory, after
200 calls and more (large steps: 2 s and more). With --plan pynn replays its step (pynn.compile) in place of running it
eagerly. torch+ steps its optimizer fused; torch.compile and the variant with jemalloc (where it is found) do so too.
The workloads are in benchmarks/workloads.
"""

import argparse
import ctypes.util
import os
import sys
import time

import numpy as np
from turns import Worker, excerpt, ratio, serve, take_turns, told, write
from workloads import VARIANTS, WORKLOADS, build, variants

FOLDERS = ("/usr/lib", "/usr/lib64", "/usr/local/lib", "/opt/homebrew/lib", f"/usr/lib/{os.uname().machine}-linux-gnu")


def jemalloc():
    """The path of its library, None where it is not installed."""
    name = ctypes.util.find_library("jemalloc")
    return next((p for p in (os.path.join(d, name) for d in FOLDERS) if os.path.exists(p)), None) if name else None


def worker(name, variant, threads):
    """One library's process."""
    v = VARIANTS[variant]
    if v.library in ("pynn", "torch"):
        v.modules()[0].set_num_threads(threads)
    call = build(name, variant)
    first = [excerpt([call()])[0] for _ in range(5)]
    end = time.perf_counter() + 2
    for _ in range(195):
        if time.perf_counter() < end:
            call()
    serve(first, {"call": call})


def start(name, variant, options):
    """The process of one variant."""
    v = VARIANTS[variant]
    env = {**os.environ, "OMP_NUM_THREADS": str(options.threads), "OPENBLAS_NUM_THREADS": str(options.threads)}
    if v.preload:
        env["LD_PRELOAD"] = jemalloc()
    python = sys.executable if v.library == "pynn" else options.python
    command = [python, __file__, name, "--worker", variant, "--threads", str(options.threads)]
    return Worker(command, env, options.threads if v.only_cpus else None)


def compare(name, options):
    """Runs the rounds of one workload; returns the rows of the report."""
    mine = "pynn, plan" if options.plan else "pynn"
    wanted = options.peers.split(",") if options.peers else list(VARIANTS)
    peers = [v for v in variants(name) if v in wanted and not (VARIANTS[v].preload and not jemalloc())]
    workers = {"pynn": start(name, mine, options)} | {v: start(name, v, options) for v in peers}
    results = {lib: w.results() for lib, w in workers.items()}
    for lib in peers:
        for a, b in zip(results["pynn"], results[lib], strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * np.abs(b).max(), err_msg=f"{name} {lib}")
    times = take_turns(workers, str, max(5, options.rounds), options.budget)
    peak = {lib: w.close() for lib, w in workers.items()}
    return [
        {"row": name, "threads": options.threads, "plan": options.plan, "peer": lib, **ratio(times, lib),
         "pynn_mb": peak["pynn"], "peer_mb": peak[lib]}
        for lib in peers
    ]  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="+", choices=WORKLOADS, metavar="NAME", help=", ".join(WORKLOADS))
    parser.add_argument("--python", default=sys.executable, help="a Python that has the peers")
    parser.add_argument(
        "--peers", help=f"of {', '.join(v for v in VARIANTS if not v.startswith('pynn'))} (default: all)"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--budget", type=float, default=0.3, help="seconds of a round")
    parser.add_argument("--plan", action="store_true", help="let pynn replay its step")
    parser.add_argument("--json", metavar="FILE", help="also write the rows as JSON")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(options.names[0], options.worker, options.threads)
        return
    rows = []
    for name in options.names:
        rows += compare(name, options)
        for r in (r for r in rows if r["row"] == name):
            print(f"{name} {options.threads} thread(s){', plan' * options.plan}: {told(r['peer'], r)}; "
                  f"peak {r['pynn_mb']:.0f} and {r['peer_mb']:.0f} MB", flush=True)  # fmt: skip
        if options.json:  # each time: a workload that fails takes none with it
            write(options.json, "steps", rows, options.python)


if __name__ == "__main__":
    main()
