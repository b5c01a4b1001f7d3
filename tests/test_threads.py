"""The thread team as Python sees it: forks, several callers, limits, idling, floating-point state."""

import multiprocessing
import os
import subprocess
import sys
import threading
import time
import traceback

import numpy as np
import pytest

import pynn
from pynn import OPS, _core, tensor
from pynn.testing import with_team

X = np.random.default_rng(0).standard_normal((40, 4000)).astype("f4")
linux = pytest.mark.skipif(sys.platform != "linux", reason="Linux only")
forks = pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")


def work():
    """Some parallel regions; their bits."""
    x = tensor(X, requires_grad=True)
    y = OPS.tanh(x) @ x.T
    (y * y).mean().backward()
    return y.detach().numpy().tobytes() + x.grad.numpy().tobytes()


def run(program, **env):
    """The output of a Python program in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, env={**os.environ, **env}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def child(queue, want):
    """In a forked or spawned process: a fresh team does the same work."""
    try:
        _core.set_num_threads(2)
        _core.set_chunk_div(64)
        queue.put("right" if with_team(work) == want else "other bits")
    except BaseException:
        queue.put(traceback.format_exc())


@forks
@linux
def test_a_hundred_forks():
    _core.set_num_threads(2)
    _core.set_chunk_div(64)
    want = work()
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    for k in range(100):
        process = context.Process(target=child, args=(queue, want))
        process.start()
        process.join(30)
        assert process.exitcode == 0, f"fork {k}: {process.exitcode}"
        assert queue.get() == "right"
        if k % 20 == 0:
            assert work() == want  # the parent's team goes on


@forks
@linux
def test_forks_from_a_thread_while_others_compute():
    _core.set_num_threads(2)
    _core.set_chunk_div(64)
    want = work()
    stop, faults = threading.Event(), []

    def busy():
        while not stop.is_set():
            if work() != want:
                faults.append("other bits beside a fork")

    others = [threading.Thread(target=busy) for _ in range(2)]
    for t in others:
        t.start()
    context = multiprocessing.get_context("fork")
    try:
        for _ in range(10):
            queue = context.SimpleQueue()
            process = context.Process(target=child, args=(queue, want))
            process.start()
            process.join(60)
            assert process.exitcode == 0
            assert queue.get() == "right"
    finally:
        stop.set()
        for t in others:
            t.join()
    assert not faults


def test_spawn():
    _core.set_num_threads(2)
    _core.set_chunk_div(64)
    want = work()
    context = multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    started = [context.Process(target=child, args=(queue, want)) for _ in range(2)]
    for p in started:
        p.start()
    for p in started:
        p.join(60)
        assert p.exitcode == 0
        assert queue.get() == "right"


def test_eight_callers_at_once():
    """Right bits, and never more computing threads than the budget or the callers."""
    _core.set_chunk_div(64)
    for budget in (2, 4):
        _core.set_num_threads(budget)
        want = work()
        faults, most, stop = [], [0], threading.Event()
        start = threading.Barrier(9)

        def call(want=want, start=start, faults=faults):
            start.wait()
            for _ in range(10):
                if work() != want:
                    faults.append("other bits beside other callers")

        def watch(start=start, stop=stop, most=most):
            start.wait()
            while not stop.is_set():
                most[0] = max(most[0], len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else 0)
                time.sleep(0.002)

        before = threading.active_count()
        _core.par_stats(reset=True)
        callers = [threading.Thread(target=call) for _ in range(8)]
        watcher = threading.Thread(target=watch)
        for t in (*callers, watcher):
            t.start()
        for t in callers:
            t.join()
        stop.set()
        watcher.join()
        stats = _core.par_stats()
        assert not faults
        assert stats["regions"] >= stats["parallel"] + stats["serial"]
        of_team = stats["regions"] - stats["serial"]  # some members come and find nothing left
        assert stats["granted"] <= of_team * (budget - 1)
        assert stats["team"] <= budget
        assert most[0] <= before + 9 + budget, "a team for each caller?"


def test_one_thread_runs_alone():
    _core.set_num_threads(1)
    _core.set_chunk_div(64)
    _core.par_stats(reset=True)
    work()
    stats = _core.par_stats()
    assert stats["regions"] > 0
    assert stats["parallel"] == stats["granted"] == stats["chunks_by_workers"] == 0


def test_workers_take_part():
    _core.set_num_threads(2)
    _core.set_chunk_div(64)
    with_team(work)
    stats = _core.par_stats()
    assert stats["parallel"] > 0
    assert stats["chunks_by_workers"] > 0
    assert stats["backend"] == "pthreads"


def test_every_chunk_runs_once_whatever_the_number_of_threads():
    _core.set_num_threads(1)
    want = work()
    _core.set_chunk_div(64)
    for n in (2, 3, 8, 11):  # more than there are counters, too
        _core.set_num_threads(n)
        assert with_team(work) == want


def test_bad_numbers_of_threads():
    for bad in (0, -1):
        with pytest.raises(ValueError, match=r"^set_num_threads: argument 'n': expected at least 1, got"):
            _core.set_num_threads(bad)
    with pytest.raises(ValueError, match=r"^set_chunk_div: argument 'div': expected at least 1, got 0$"):
        _core.set_chunk_div(0)
    with pytest.raises(ValueError, match=r"^use_isa: expected one of .*, got 'mmx'$"):
        _core.use_isa("mmx")


@linux
def test_affinity_limits_the_threads():
    cpu = sorted(os.sched_getaffinity(0))[0]
    assert run(f"import os; os.sched_setaffinity(0, {{{cpu}}}); import pynn; print(pynn.get_num_threads())") == "1"


def test_environment_limits_the_threads():
    program = "import pynn; print(pynn.get_num_threads())"
    assert run(program, OMP_NUM_THREADS="1") == "1"
    assert run(program, PYNN_NUM_THREADS="3") == "3"


def test_environment_caps_the_isa_level():
    for level in _core.isa_levels():
        assert run("from pynn import _core; print(_core.isa())", PYNN_ISA=level) == level


@linux
def test_idle_after_use():
    """Less than 0.5 % of a CPU over a second of idling, for every member of the process."""
    program = """
import time, numpy as np, pynn.testing
from pynn import OPS, _core, tensor
_core.set_num_threads(4)
_core.set_chunk_div(64)
x = tensor(np.ones((100, 1000), "f4"))
pynn.testing.with_team(lambda: OPS.tanh(x))
time.sleep(0.05)
before = time.process_time()
time.sleep(1.0)
print(time.process_time() - before)
"""
    assert float(run(program)) < 0.005


def test_subnormals_of_the_caller_survive():
    """Flushing to zero is set inside of regions only: 5e-324 is there after import and use, on every thread."""
    tiny = np.array([5e-324])
    found = []

    def check():
        _core.set_chunk_div(64)
        _core.set_num_threads(2)
        work()
        found.append(float(tiny[0] * 1.0) == 5e-324)
        found.append((tiny * np.array([1.0]))[0] != 0)

    check()
    t = threading.Thread(target=check)
    t.start()
    t.join()
    assert found == [True] * 4
    assert (
        run("import pynn; x = 5e-324; print((pynn.ones(99999) * 2).sum().item() > 0 and x * 1.0 == 5e-324)") == "True"
    )


def test_threads_context():
    before = pynn.get_num_threads()
    with pynn.threads(3):
        assert pynn.get_num_threads() == 3
        with pynn.threads(1):
            assert pynn.get_num_threads() == 1
        assert pynn.get_num_threads() == 3
    assert pynn.get_num_threads() == before


def test_team_stops_and_starts_again():
    _core.set_num_threads(2)
    _core.set_chunk_div(64)
    want = work()
    for _ in range(3):
        _core.team_stop()
        assert _core.par_stats()["team"] <= 1
        assert work() == want


def test_training_is_the_same_for_any_number_of_threads():
    """Same seed, same bits after 20 steps with 1, 2 and 4 threads, at every ISA level on its own."""
    from pynn import nn, optim

    rng = np.random.default_rng(1)
    data, labels = tensor(rng.standard_normal((64, 50)), "float32"), tensor(rng.integers(0, 10, 64))

    def train():
        pynn.manual_seed(3)
        model = nn.Sequential(nn.Linear(50, 70), nn.ReLU(), nn.Dropout(0.3), nn.Linear(70, 10))
        optimizer = optim.AdamW(model.parameters(), lr=1e-2)
        for _ in range(20):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(data), labels).backward()
            optimizer.step()
        return b"".join(p.detach().numpy().tobytes() for p in model.parameters())

    _core.set_chunk_div(64)
    for level in _core.isa_levels():
        _core.use_isa(level)
        found = set()
        for n in (1, 2, 4):
            _core.set_num_threads(n)
            found.add(train() if n == 1 else with_team(train))
        assert len(found) == 1, f"{level}: bits depend on the number of threads"


PLACES = """
import os, numpy as np, pynn
from pynn import _core, tensor
_core.set_chunk_div(64)
x = tensor(np.ones((100, 1000), "f4"))
for _ in range(20):
    pynn.tanh(x)
masks = set()
for task in os.listdir("/proc/self/task"):
    with open(f"/proc/self/task/{task}/status") as f:
        masks.add(next(line.split()[1] for line in f if line.startswith("Cpus_allowed_list")))
s = _core.par_stats()
print(pynn.get_num_threads(), s["team"], s["parallel"] > 0, *masks, sep="|")
"""


@linux
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs 2 CPUs")
def test_settings_of_openmp_bind_no_thread():
    """All threads may run where the process may: bound ones would share a CPU, and each region wait for both."""
    cpus = sorted(os.sched_getaffinity(0))
    every = run(PLACES, PYNN_NUM_THREADS="2", OMP_PROC_BIND="false").split("|")
    assert every[:3] == ["2", "1", "True"]
    for env in ({"OMP_PROC_BIND": "true"}, {"OMP_PROC_BIND": "close", "OMP_PLACES": f"{{{cpus[0]}}}"},
                {"GOMP_CPU_AFFINITY": str(cpus[0])}, {"OMP_WAIT_POLICY": "active"}):  # fmt: skip
        assert run(PLACES, PYNN_NUM_THREADS="2", **env).split("|") == every, env
        n, team, parallel, *_ = run(PLACES, **env).split("|")
        assert (int(n), int(team), parallel) == (len(cpus), len(cpus) - 1, "True"), env
    assert run(PLACES, OMP_NUM_THREADS="1").split("|")[:3] == ["1", "0", "False"]
    pinned = f"import os; os.sched_setaffinity(0, {{{cpus[0]}}})" + PLACES
    assert run(pinned).split("|") == ["1", "0", "False", str(cpus[0])]


@linux
def test_no_openmp_runtime_is_loaded():
    """libgomp ends the process where it cannot make a thread, and binds the thread that loads it."""
    assert run('import pynn; print("gomp" in open("/proc/self/maps").read())') == "False"
