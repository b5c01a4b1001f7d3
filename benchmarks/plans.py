"""What plans and sessions cost and gain, each figure beside its target.

    python benchmarks/plans.py [own] [serve] [chains] [threads] [--python PEER] [--rounds N]

PEER is a Python that has onnx and onnxruntime (default: this one). Replayed steps beside other libraries:
benchmarks/steps.py --plan.

own      what a replayed call and its guards cost, the capturing step, page faults, memory, a busy neighbour
serve    session.predict beside ONNX Runtime, NumPy in and out; several Python threads; p99
chains   elementwise chains as one call beside the same calls one by one
threads  T1 replayed beside eager, on two threads

Libraries run in processes of their own that take turns (turns.py): medians of the rounds' ratios, with
lower quartile and range. A ratio tells how many times as long the other takes.
"""

import argparse
import contextlib
import functools
import itertools
import resource
import statistics
import sys
import threading
import time

import numpy as np
import turns
from turns import excerpt, ratio, take_turns, told
from workloads import build
from workloads.mlp import SIZES, make_data

SERVED = {"64-32-10": (64, 32, 10), "784-256-128-10": (784, 256, 128, 10)}


def each(fn, n, rounds=7):
    """Median seconds of fn, called n times, over rounds; with the lowest and highest."""
    found = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        for _ in range(n):
            fn()
        found.append((time.perf_counter() - start) / n)
    found = sorted(found[1:])
    return found[len(found) // 2], found[0], found[-1]


def line(what, figures, unit, scale, target):
    middle, low, high = (f * scale for f in figures)
    print(f"{what}: {middle:.3g} {unit} ({low:.3g}–{high:.3g}); target {target}", flush=True)


# ---- own ---------------------------------------------------------------------------------------------


def trained(name, plan=True):
    """A step of steps.py, its compiled function, and one batch."""
    step = build(name, "pynn, plan" if plan else "pynn")
    for _ in range(30):
        step()
    cells = dict(zip(step.__code__.co_freevars, (c.cell_contents for c in step.__closure__)))
    k, (_, x, y) = SIZES[name][1], make_data(name)
    return step, cells["train"], x[:k], y[:k]


def replayed_call():
    """Seconds of one more call of one element in a plan, its kernel included."""
    import pynn

    def chain(n):
        def f(x):
            for _ in range(n):
                x = -x
            return x

        f = pynn.compile(f)
        x = pynn.ones(1)
        with pynn.no_grad():
            f(x)
            return [each(lambda: f(x), 3000, 1)[0] for _ in range(9)]

    return sorted((b - a) / 400 for a, b in zip(chain(100), chain(500)))


def own():
    import pynn
    from pynn import _core

    found = replayed_call()
    line("a call more in a plan, kernel included", (found[4], found[0], found[-1]), "ns", 1e9, "60 beyond the kernel")
    _, train, x, y = trained("T2")
    args = (pynn.from_numpy(x), pynn.from_numpy(y))
    line("T2's arguments and guards", each(lambda: train._prepared(args, {}), 20000), "ns", 1e9, "300")
    line("T2's replay", each(lambda: train(*args), 20000), "µs", 1e6, "-")
    for name in ("T2", "T1"):
        captures(name)
    for name in ("T2", "T1"):
        steady(name)
    neighbour()
    _core.reset_peak()


def captures(name):
    """The recording step beside an eager one."""
    import pynn

    _, eager, x, y = trained(name, plan=False)
    args = (pynn.from_numpy(x), pynn.from_numpy(y))
    ratios = []
    for _ in range(30):
        start = time.perf_counter()
        eager(*args)
        between = time.perf_counter()
        pynn.compile(eager)(*args)
        ratios.append((time.perf_counter() - between) / (between - start))
    ratios = sorted(ratios[5:])
    line(
        f"{name}: the capturing step, in eager steps", (statistics.median(ratios), ratios[0], ratios[-1]), "", 1, "≤ 3"
    )


def steady(name):
    """Page faults and allocations of 1000 replays; memory beside the eager step's."""
    import gc

    from pynn import _core

    def live(plan):
        gc.collect()
        base = _core.alloc_stats()["live"]
        step, train, *_ = trained(name, plan)
        _core.reset_peak()
        for _ in range(20):
            step()
        return step, train, _core.alloc_stats()["peak_live"] - base

    _, _, eager = live(False)
    step, train, planned = live(True)
    before, faults = _core.alloc_stats(), resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(1000):
        step()
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
    after = _core.alloc_stats()
    print(f"{name}: in 1000 replays {after['n_alloc'] - before['n_alloc']} allocations, {faults} page faults; target 0")
    print(f"{name}: peak of live bytes {planned:,} replayed, {eager:,} eager; pool {train.plans[0].pool_bytes:,}; "
          "target ≤ eager")  # fmt: skip


@contextlib.contextmanager
def busy():
    """A Python thread that counts."""
    stop = False

    def count():
        k = 0
        while not stop:
            k += 1

    thread = threading.Thread(target=count)
    thread.start()
    try:
        yield
    finally:
        stop = True
        thread.join()


def neighbour():
    """A step, and Python code alone, beside a busy thread: sharing alike gives 2, the system adds to both."""
    step, *_ = trained("T2")
    for what, fn, target in (("T2", step, "≤ 2.5"), ("a loop in Python", lambda: sum(range(500)), "-")):
        alone = each(fn, 20000)
        with busy():
            beside = each(fn, 20000, 9)
        line(f"{what} beside a busy Python thread, in times alone", [b / alone[0] for b in beside], "", 1, target)


# ---- beside others --------------------------------------------------------------------------------------


def serving(lib, sizes, batch):
    """A function from nothing to the prediction for a batch, as an array."""
    rng = np.random.default_rng(0)
    weights = [(rng.standard_normal((o, i)).astype("f4") / np.float32(np.sqrt(i)), rng.standard_normal(o).astype("f4"))
               for i, o in itertools.pairwise(sizes)]  # fmt: skip
    x = rng.standard_normal((batch, sizes[0])).astype("f4")
    if lib == "pynn":
        session = served(weights)
        return lambda: session.predict(x)
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    nodes, values, name = [], [], "x"
    for k, (w, b) in enumerate(weights):
        values += [numpy_helper.from_array(w, f"w{k}"), numpy_helper.from_array(b, f"b{k}")]
        last = k == len(weights) - 1
        nodes.append(helper.make_node("Gemm", [name, f"w{k}", f"b{k}"], ["y" if last else f"z{k}"], transB=1))
        if not last:
            nodes.append(helper.make_node("Relu", [f"z{k}"], [f"a{k}"]))
        name = f"a{k}"
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", s]) for n, s in zip("xy", (sizes[0], sizes[-1]))]
    graph = helper.make_graph(nodes, "mlp", ends[:1], ends[1:], values)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"x": x})[0]


def served(weights):
    import pynn
    from pynn import nn

    layers = []
    for w, b in weights:
        layer = nn.Linear(*w.shape[::-1])
        with pynn.no_grad():
            layer.weight.copy_(pynn.tensor(w))
            layer.bias.copy_(pynn.tensor(b))
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1]).session()


def worker(lib, name, batch):
    """One library's process."""
    if lib == "pynn":
        import pynn

        pynn.set_num_threads(1)
    fn = serving(lib, SERVED[name], batch)
    turns.serve(excerpt([fn()])[0], {"call": fn})


def beside(name, batch, options):
    """ONNX Runtime's time beside pynn's."""
    libs = {"pynn": sys.executable, "onnxruntime": options.python}
    workers = {
        lib: turns.Worker([python, __file__, "--worker", lib, "--case", name, "--batch", str(batch)])
        for lib, python in libs.items()
    }
    first = {lib: w.results() for lib, w in workers.items()}
    np.testing.assert_allclose(first["pynn"], first["onnxruntime"], rtol=1e-3, atol=1e-5)
    times = take_turns(workers, str, options.rounds)
    for w in workers.values():
        w.close()
    return ratio(times, "onnxruntime")


def serve(options):
    for name, batch, share in (("64-32-10", 1, 0.5), ("784-256-128-10", 1, 0.75), ("784-256-128-10", 64, 1.0)):
        r = beside(name, batch, options)
        low, high = r["range"]
        print(f"{name} at batch {batch}: {told('ONNX Runtime', r)}; its time x {1 / r['ratio']:.2f} "
              f"({1 / high:.2f}–{1 / low:.2f}); target ≤ {share}", flush=True)  # fmt: skip
    together("784-256-128-10 at batch 64", serving("pynn", SERVED["784-256-128-10"], 64), ("≥ 1.7", "≥ 0.95"))
    together("64-32-10 at batch 1", serving("pynn", SERVED["64-32-10"], 1), ("≥ 0.9", "-"))
    together("T4's CNN at batch 64", build("I_cnn_64", "pynn"), ("≥ 1.7", "≥ 0.95"))


def together(name, predict, targets):
    """Predictions per second of one, two and eight Python threads, and percentiles of the time of one."""
    seconds = 0.4

    def run(n):
        counts, stop = [0] * n, []

        def work(k):
            while not stop:
                for _ in range(10):
                    predict()
                counts[k] += 10

        threads = [threading.Thread(target=work, args=(k,)) for k in range(n)]
        start = time.perf_counter()
        for t in threads:
            t.start()
        time.sleep(seconds)
        stop.append(True)
        for t in threads:
            t.join()
        return sum(counts) / (time.perf_counter() - start)

    rows = [[run(n) for n in (1, 2, 8)] for _ in range(8)][1:]
    two = sorted(b / a for a, b, _ in rows)
    eight = sorted(c / b for _, b, c in rows)
    for what, r, target in (("two threads, in times one", two, targets[0]), ("eight, in times two", eight, targets[1])):
        print(f"{name}: {what}: {r[3]:.2f} (quartile {r[1]:.2f}, {r[0]:.2f}–{r[-1]:.2f}); "
              f"target {target}", flush=True)  # fmt: skip
    times = []
    end = time.perf_counter() + 1
    while (start := time.perf_counter()) < end:
        predict()
        times.append(time.perf_counter() - start)
    p50, p99 = np.percentile(times, (50, 99)) * 1e6
    print(f"{name}: p50 {p50:.2f} µs, p99 {p99:.2f} µs", flush=True)


# ---- chains and threads --------------------------------------------------------------------------------


def in_turns(a, b, n, rounds=9):
    """Ratios of b's time to a's, sorted, with the median microseconds of both."""
    for f in (a, b):
        f()
    pairs = [(each(a, n, 1)[0], each(b, n, 1)[0]) for _ in range(rounds)]
    ratios = sorted(y / x for x, y in pairs)
    return [statistics.median(t) * 1e6 for t in zip(*pairs)], ratios


def chains():
    import pynn
    from pynn import _core
    from pynn.nn import functional as F

    rng = np.random.default_rng(0)
    cases = {
        "gradients added up": lambda x, g: x + g + x + g,
        "residual": lambda x, g: (x + g) * 0.5 + x,
        "gated silu": lambda x, g: F.silu(x) * g + x * 0.5,
        "elu of 8": lambda x, g: F.elu((x * g + x) * 0.5 + g) * x - g,
    }
    for (what, fn), mb in itertools.product(cases.items(), (0.25, 1, 4, 16)):
        n = int(mb * (1 << 18))
        x, g = (pynn.from_numpy(rng.standard_normal(n).astype("f4")) for _ in range(2))
        fused, plain = pynn.compile(fn), pynn.compile(fn)
        with pynn.no_grad():
            for f, least in ((fused, 1), (plain, 1 << 60)):
                old = _core.set_fuse_bytes(least)
                want = f(x, g).numpy().tobytes()
                _core.set_fuse_bytes(old)
            assert fused(x, g).numpy().tobytes() == plain(x, g).numpy().tobytes() == want
            times, r = in_turns(functools.partial(fused, x, g), functools.partial(plain, x, g), max(2, int(2e7 / n)))
        print(f"{what}, {mb} MB an array: {times[0]:.1f} µs as one, {times[1]:.1f} µs as {plain.plans[0].n_call}, "
              f"ratio {r[4]:.2f} (quartile {r[2]:.2f}, {r[0]:.2f}–{r[-1]:.2f})", flush=True)  # fmt: skip


def threads():
    import pynn

    pynn.set_num_threads(2)
    replayed, eager = trained("T1")[0], trained("T1", plan=False)[0]
    times, r = in_turns(replayed, eager, 200)
    print(f"T1 on 2 threads: {times[0]:.0f} µs replayed, {times[1]:.0f} µs eager, ratio {r[4]:.2f} "
          f"(quartile {r[2]:.2f}, {r[0]:.2f}–{r[-1]:.2f})")  # fmt: skip
    pynn.set_num_threads(1)
    one = in_turns(trained("T1")[0], trained("T1", plan=False)[0], 200)
    print(f"T1 on 1 thread: {one[0][0]:.0f} µs replayed, {one[0][1]:.0f} µs eager")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parts = ("own", "serve", "chains", "threads")
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(parts))
    parser.add_argument("--python", default=sys.executable, help="a Python that has the other libraries")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("--batch", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(options.worker, options.case, options.batch)
        return
    import pynn

    for part in options.parts or parts:
        pynn.set_num_threads(1)
        {"own": own, "serve": lambda: serve(options), "chains": chains,
         "threads": threads}[part]()  # fmt: skip


if __name__ == "__main__":
    main()
