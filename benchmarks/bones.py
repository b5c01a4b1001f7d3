"""What the engine owes its users beside speed: cost of a call, good neighbourhood, start, memory, bits.

    python benchmarks/bones.py [FIGURE ...] [--python PEER]

Each figure is taken in processes of its own, as a median with its range, and printed beside what its upper
quartile must reach. Training on data of T1 and T2 is that of workloads/ and of tests/test_training.py, which
asserts what holds on any machine (bits, memory, imports). `torch` needs PEER, a Python that has torch.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
ROUNDS = 9


def median_time(call, seconds=0.1, rounds=ROUNDS):
    """Seconds of a call: the rounds' means; a round takes about as many seconds as told."""
    call()
    start = time.perf_counter()
    call()
    n = max(1, int(seconds / (time.perf_counter() - start)))
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        for _ in itertools.repeat(None, n):
            call()
        times.append((time.perf_counter() - start) / n)
    return times


def program(code):
    """What a program in a process of its own prints, read as JSON."""
    command = [sys.executable, "-c", code]
    env = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}  # as users find it: compiled once
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=HERE, env=env).stdout)


# ---- the figures: each returns its values, of which the median counts, or one value ------------------


def add():
    """µs of pynn.add of two 4×4 tensors that require grad, the node freed"""
    import pynn

    pynn.set_num_threads(1)
    a, b = pynn.ones(4, 4, requires_grad=True), pynn.ones(4, 4, requires_grad=True)
    add = pynn.add
    return [t * 1e6 for t in median_time(lambda: add(a, b))]


def t2_step():
    from workloads import build

    import pynn

    pynn.set_num_threads(1)
    step = build("T2", "pynn")
    for _ in range(100):
        step()
    return step


def backward():
    """time of the backward walk of an MLP, in that of its forward pass (F-AD-2)"""
    import pynn
    from pynn import nn

    pynn.set_num_threads(1)
    width, found = 512, []
    model = nn.Sequential(*[m for _ in range(6) for m in (nn.Linear(width, width), nn.ReLU())])
    x = pynn.randn(256, width, requires_grad=True)
    for _ in range(ROUNDS):
        forward = median_time(lambda: model(x).sum(), 0.1, 1)[0]
        both = median_time(lambda: model(x).sum().backward(), 0.1, 1)[0]
        found.append(both / forward - 1)
    return found


def busy():
    """T2's step beside one Python thread that counts, in its time alone"""
    step, stop = t2_step(), threading.Event()

    def count():
        n = 0
        while not stop.is_set():
            n += 1

    ratios = []
    for _ in range(ROUNDS):
        alone = statistics.median(median_time(step, 0.2, 1))
        stop.clear()
        other = threading.Thread(target=count)
        other.start()
        beside = statistics.median(median_time(step, 0.5, 1))
        stop.set()
        other.join()
        ratios.append(beside / alone)
    return ratios


def dot():
    """np.dot (192×192, 2 threads) and a 2-thread op in turn, in the time of the two alone"""
    import pynn

    pynn.set_num_threads(2)
    a = np.random.default_rng(0).standard_normal((192, 192)).astype(np.float32)
    x, big = pynn.from_numpy(a), pynn.ones(1 << 18)
    worst = []
    for op in (lambda: pynn.matmul(x, x), lambda: pynn.tanh(big)):
        pynn._core.par_stats(reset=True)

        def both(op=op):
            np.dot(a, a)
            op()

        ratios = []
        for _ in range(ROUNDS):
            alone = median_time(lambda: np.dot(a, a), 0.05, 1)[0] + median_time(op, 0.05, 1)[0]
            ratios.append(median_time(both, 0.1, 1)[0] / alone)
        if pynn._core.par_stats()["chunks_by_workers"] == 0:
            raise RuntimeError("the op ran on one thread")
        worst = max(worst, ratios, key=lambda r: statistics.median(r or [0]))
    return worst


def idle():
    """% of a CPU in 2 s of idling after use of 4 threads"""
    import pynn

    pynn.set_num_threads(4)
    big = pynn.ones(1 << 22)
    for _ in range(20):
        pynn.tanh(big)
    time.sleep(0.05)
    found = []
    for _ in range(3):
        before = time.process_time()
        time.sleep(2)
        found.append((time.process_time() - before) / 2 * 100)
    return found


def imports():
    """time of `import pynn`, in that of `import numpy`; medians of 5 each"""
    code = "import time; s = time.perf_counter(); import {}; print(time.perf_counter() - s)"
    program(code.format("pynn"))  # compiles and caches what Python has to
    pairs = [[(program(code.format("pynn")), program(code.format("numpy"))) for _ in range(5)] for _ in range(ROUNDS)]
    return [statistics.median(p for p, _ in group) / statistics.median(n for _, n in group) for group in pairs]


FIRST_STEP = """
import time
from workloads import build
build("T1", "pynn")().item()
print(time.monotonic())
"""


def first():
    """s from the start of the process to the end of T1's first step"""
    program(FIRST_STEP)
    found = []
    for _ in range(ROUNDS):
        start = time.monotonic()
        found.append(program(FIRST_STEP) - start)
    return found


def scipy():
    """modules of SciPy after 10 steps of T1"""
    from workloads import build

    import pynn  # noqa: F401

    step = build("T1", "pynn")
    for _ in range(10):
        step().item()
    return sum(name.partition(".")[0] == "scipy" for name in sys.modules)


def drift(collect):
    sys.path.insert(0, str(HERE.parent / "tests"))
    from test_training import memory_drift

    rss, live = memory_drift(collect)
    if live > 0:
        raise RuntimeError(f"{live} bytes more are alive")
    return rss / 2**20


def memory():
    """MB by which the RSS grows over 10 000 steps of T2 with random batch sizes"""
    return drift(True)


def memory_nogc():
    """MB by which the RSS grows so with gc.disable()"""
    return drift(False)


def bits():
    """results of 50 steps of T1 and T2 on 1, 2, 4 threads that differ, over all ISA levels"""
    sys.path.insert(0, str(HERE.parent / "tests"))
    from test_training import T1, T2, train

    from pynn import _core
    from pynn.testing import with_team

    _core.set_chunk_div(64)
    differ = 0
    for isa, workload in itertools.product(_core.isa_levels(), (T1, T2)):
        _core.use_isa(isa)
        _core.set_num_threads(1)
        want = train(workload, 50)
        for n in (2, 4):
            _core.set_num_threads(n)
            differ += with_team(lambda w=workload: train(w, 50)) != want  # raises where no worker took part
    return differ


def torch(python):
    """PyTorch's eager step of T2, in pynn's time"""
    from steps import compare

    options = {"python": python, "threads": 1, "rounds": ROUNDS, "plan": False, "peers": "torch", "budget": 0.3}
    return compare("T2", argparse.Namespace(**options))[0]


FIGURES = {  # function: what it must reach; at most, but for torch
    add: 2.0, backward: 2.5, busy: 2.5, dot: 1.5, idle: 0.5, imports: 1.4, first: 0.5, scipy: 0,
    memory: 2.0, memory_nogc: 2.0, bits: 0, torch: 4.0,
}  # fmt: skip


def told(figure, target, found):
    if figure is torch:
        value, (low, high), reached = found["ratio"], found["range"], found["lower_quartile"] >= target
    else:
        values = found if isinstance(found, list) else [found]
        value, low, high = statistics.median(values), min(values), max(values)
        reached = float(np.quantile(values, 0.75)) <= target
    more = f" ({low:.3g} to {high:.3g})" if low < high else ""
    bound = "at least" if figure is torch else "at most"
    return f"{value:8.3g}{more:20} {bound} {target:g}: {'reached' if reached else 'MISSED '}  {figure.__doc__}"


def main():
    names = {f.__name__: f for f in FIGURES}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("figures", nargs="*", metavar="FIGURE", help=", ".join(names))
    parser.add_argument("--python", help="a Python that has torch")
    options = parser.parse_args()
    if unknown := set(options.figures) - set(names):
        parser.error(f"expected some of {', '.join(names)}, got {', '.join(sorted(unknown))}")
    chosen = options.figures or [n for n in names if n != "torch" or options.python]
    for name in chosen:
        figure = names[name]
        if figure is torch:
            found = torch(options.python or sys.executable)
        else:
            found = program(f"import bones, json; print(json.dumps(bones.{name}()))")
        print(f"{name:12} {told(figure, FIGURES[figure], found)}", flush=True)


if __name__ == "__main__":
    main()
