"""Whole training steps: the same bits on any number of threads, flat memory, nothing imported without need."""

import gc
import itertools
import resource
import subprocess
import sys

import numpy as np
import pytest

import pynn
from pynn import _core, nn
from pynn.testing import with_team

T1 = (784, 256, 128, 10), 64
T2 = (64, 32, 10), 32


def mlp(sizes):
    layers = []
    for i, o in itertools.pairwise(sizes):
        layers += [nn.Linear(i, o), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def optimizer_for(workload, model):
    if workload is T1:
        return pynn.optim.Adam(model.parameters(), lr=1e-3)
    return pynn.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)


def train(workload, steps, seed=0):
    """The parameters after some steps, as bytes."""
    sizes, batch = workload
    pynn.manual_seed(seed)
    model = mlp(sizes)
    optimizer = optimizer_for(workload, model)
    criterion = nn.CrossEntropyLoss()
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        x = pynn.tensor(rng.standard_normal((batch, sizes[0])).astype(np.float32))
        y = pynn.tensor(rng.integers(0, sizes[-1], batch))
        optimizer.zero_grad()
        criterion(model(x), y).backward()
        optimizer.step()
    return b"".join(p.tobytes() for p in model.state_dict().values())


@pytest.mark.parametrize("workload", [T1, T2], ids=["T1", "T2"])
@pytest.mark.parametrize("isa", _core.isa_levels())
def test_same_bits_on_1_2_and_4_threads(workload, isa, settings):
    _core.use_isa(isa)
    _core.set_chunk_div(64)
    want = None
    for threads in (1, 2, 4):
        pynn.set_num_threads(threads)
        _core.par_stats(reset=True)
        got = train(workload, 50) if threads == 1 else with_team(lambda: train(workload, 50))
        assert (_core.par_stats()["chunks_by_workers"] > 0) == (threads > 1)
        want = want or got
        assert got == want, f"{threads} threads"
    _core.set_chunk_div(1)
    assert train(workload, 50) == want, "chunks of another size"


def test_another_seed_gives_other_bits():
    assert train(T2, 2, seed=0) != train(T2, 2, seed=1)


def current_rss():
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * resource.getpagesize()


def memory_drift(collect):
    """Bytes by which RSS and live memory grow over 10 000 steps, after 1000."""
    sizes, _ = T2
    model = mlp(sizes)
    optimizer = optimizer_for(T2, model)
    criterion = nn.CrossEntropyLoss()
    rng = np.random.default_rng(0)
    x, y = pynn.tensor(rng.standard_normal((64, sizes[0])).astype(np.float32)), pynn.tensor(rng.integers(0, 10, 64))

    def steps(n):
        for size in rng.integers(1, 65, n).tolist():
            optimizer.zero_grad()
            criterion(model(x[:size]), y[:size]).backward()
            optimizer.step()

    if not collect:
        gc.disable()
    steps(1000)
    before, live = current_rss(), _core.alloc_stats()["live"]
    steps(10000)
    return current_rss() - before, _core.alloc_stats()["live"] - live


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("collect", [True, False], ids=["gc on", "gc off"])
def test_memory_stays_flat_over_10000_steps_of_random_batches(collect):
    """In a process of its own: what other tests left moves the RSS of this one."""
    code = f"import sys; sys.path.insert(0, 'tests'); from test_training import memory_drift as d; print(*d({collect}))"
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    rss, live = map(int, run.stdout.split())
    assert rss < 2 << 20
    assert live <= 0


def test_training_imports_no_scipy():
    code = (
        "import sys; sys.path.insert(0, 'tests'); from test_training import train, T1; train(T1, 10); "
        "assert 'scipy' not in sys.modules, 'scipy was imported'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
