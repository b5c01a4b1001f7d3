"""Matrix products, pynn beside SciPy's OpenBLAS, NumPy, PyTorch and JAX.

    python benchmarks/gemm.py [ROW ...] [--peers LIB,LIB] [--python PEER] [--threads N] [--rounds N] [--f64]
                              [--json FILE]

A row is m×k×n, as in 64x784x256; without any, all of K6 but 2048³ are measured, each as NN (A·B), NT (B given
as its transpose) and TN. PEER is a Python that has the peers. Each library runs in a process of its own and is
called as its users call it; they take turns, one working at a time, for at least 5 rounds; the table tells the
median of the rounds' ratios, peer ÷ pynn, with lower quartile and range. Each process compares its product
with one in float64 before it is timed.
"""

import argparse
import json
import math
import os
import statistics
import sys
import time

from turns import pause, ratio, resume, start, write

ROWS = """16x16x16 64x64x64 64x128x10 128x128x128 256x256x256 512x512x512 1024x1024x1024 64x784x256 1576x192x576
1576x192x768 1x784x256 1x1024x4096""".split()
PEERS = ("scipy", "numpy", "torch", "jax")
BURST = 3e-3  # seconds


def make_product(lib, m, k, n, form, dtype):
    """A function that multiplies in library `lib`, and the operands as NumPy holds them."""
    import numpy as np

    rng = np.random.default_rng(0)
    a = rng.standard_normal((k, m) if form == "TN" else (m, k)).astype(dtype)
    b = rng.standard_normal((n, k) if form == "NT" else (k, n)).astype(dtype)
    x, y = a.T if form == "TN" else a, b.T if form == "NT" else b
    if lib == "numpy":
        return lambda: x @ y, x, y
    if lib == "scipy":  # column by column: Cᵀ = Bᵀ·Aᵀ
        from scipy.linalg import blas

        gemm = blas.sgemm if dtype == "float32" else blas.dgemm
        left, right = np.asfortranarray(b.T), np.asfortranarray(a.T)
        ta, tb = form == "NT", form == "TN"
        return lambda: gemm(1.0, left, right, trans_a=ta, trans_b=tb).T, x, y
    if lib == "jax":
        import jax

        p, q = jax.numpy.asarray(a), jax.numpy.asarray(b)
        product = jax.jit(lambda p, q: (p.T if form == "TN" else p) @ (q.T if form == "NT" else q))
        return lambda: product(p, q).block_until_ready(), x, y
    if lib == "torch":
        import torch as L
    else:
        import pynn as L
    p, q = L.from_numpy(a), L.from_numpy(b)
    p, q = p.T if form == "TN" else p, q.T if form == "NT" else q
    return lambda: p @ q, x, y


def worker(lib, threads, dtype):
    """Answers each line, [m, k, n, form] or a number of calls, with a word or the seconds that they took."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])  # JAX takes every core that it sees
    if lib in ("scipy", "numpy"):
        os.environ["OPENBLAS_NUM_THREADS"] = str(threads)
    elif lib == "jax":
        os.environ["XLA_FLAGS"] = (
            f"--xla_cpu_multi_thread_eigen={str(threads > 1).lower()} intra_op_parallelism_threads={threads}"
        )
        os.environ["JAX_ENABLE_X64"] = "1"
    elif lib == "torch":
        import torch

        torch.set_num_threads(threads)
    else:
        import pynn

        pynn.set_num_threads(threads)
    import numpy as np

    product = None
    for line in sys.stdin:
        task = json.loads(line)
        if isinstance(task, list):
            product, x, y = make_product(lib, *task, dtype)
            want = x.astype(np.float64) @ y.astype(np.float64)
            error = np.abs(np.asarray(product()) - want).max() / max(1e-30, np.abs(want).max())
            tolerance = (1e-5 if dtype == "float32" else 1e-13) * math.sqrt(task[1])
            print(json.dumps("ok" if error <= tolerance else f"{lib} is off by {error:g}"), flush=True)
            continue
        start = time.perf_counter()
        for _ in range(task):
            product()
        print(time.perf_counter() - start, flush=True)


class Library:
    """A worker process."""

    def __init__(self, lib, python, options):
        args = [python, __file__, "--worker", lib, "--threads", str(options.threads)] + ["--f64"] * options.f64
        self.process = start(args)

    def ask(self, task):
        resume(self.process)
        self.process.stdin.write(json.dumps(task) + "\n")
        self.process.stdin.flush()
        found = json.loads(self.process.stdout.readline())
        pause(self.process)
        return found


def compare(libs, task, rounds):
    """The seconds of one call, {lib: [per round]}."""
    calls, seconds = {}, {lib: [] for lib in libs}
    for lib, process in libs.items():
        word = process.ask(task)
        if word != "ok":
            raise SystemExit(f"{task}: {word}")
        process.ask(3)
        calls[lib] = max(1, int(BURST / process.ask(1)))
        calls[lib] = max(1, int(BURST * calls[lib] / process.ask(calls[lib])))
    for _ in range(max(5, rounds)):
        for lib, process in libs.items():
            seconds[lib].append(process.ask(calls[lib]) / calls[lib])
    return seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", nargs="*", default=ROWS)
    parser.add_argument("--forms", default="NN,NT,TN")
    parser.add_argument("--peers", default=",".join(PEERS))
    parser.add_argument("--python", default=sys.executable, help="a Python that has the peers")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--f64", action="store_true")
    parser.add_argument("--json", metavar="FILE", help="also write the rows as JSON")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(options.worker, options.threads, "float64" if options.f64 else "float32")
        return
    libs = {"pynn": Library("pynn", sys.executable, options)}
    libs |= {lib: Library(lib, options.python, options) for lib in options.peers.split(",")}
    best, rows = [], []
    for row in options.rows:
        for form in options.forms.split(","):
            task = [*map(int, row.split("x")), form]
            seconds = compare(libs, task, options.rounds)
            mine = statistics.median(seconds["pynn"])
            flops = 2 * math.prod(task[:3])
            cells = [f"{row:>15} {form} pynn {mine * 1e6:9.2f} µs {flops / mine * 1e-9:6.1f} GFLOP/s"]
            found = {lib: ratio(seconds, lib) for lib in options.peers.split(",")}
            for lib, r in found.items():
                low, high = r["range"]
                cells.append(f"{lib} {r['ratio']:.2f} ({r['lower_quartile']:.2f}; {low:.2f}–{high:.2f})")
                name = f"{row} {form}" + " float64" * options.f64
                rows.append({"row": name, "threads": options.threads, "peer": lib, **r})
            best.append(min(r["ratio"] for r in found.values()))
            print(" | ".join(cells), f"| best peer {best[-1]:.2f}", flush=True)
    mean = math.exp(statistics.mean(map(math.log, best)))
    print(f"geometric mean of best peer ÷ pynn over {len(best)} products, {options.threads} thread(s): {mean:.3f}")
    if options.json:
        write(options.json, "gemm", rows, options.python)


if __name__ == "__main__":
    main()
