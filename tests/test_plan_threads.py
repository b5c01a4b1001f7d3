"""Plans and Python threads: the GIL, modules that change meanwhile, functions sent to other processes."""

import contextlib
import copy
import multiprocessing
import pickle
import sys
import threading
import time

import numpy as np
import pytest
from plan_helpers import make_model, make_step

import pynn
from pynn import Tensor, nn, optim


@contextlib.contextmanager
def at_work(n, work):
    """n threads that call work(k) again and again; what they raise is raised here."""
    stop, faults = threading.Event(), []

    def loop(k):
        try:
            while not stop.is_set():
                work(k)
        except BaseException as e:
            faults.append(e)

    threads = [threading.Thread(target=loop, args=(k,)) for k in range(n)]
    for t in threads:
        t.start()
    try:
        yield
    finally:
        stop.set()
        for t in threads:
            t.join()
    if faults:
        raise faults[0]


@contextlib.contextmanager
def switching(seconds):
    before = sys.getswitchinterval()
    sys.setswitchinterval(seconds)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def test_a_short_replay_keeps_the_gil():
    pynn.set_num_threads(1)
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    step = pynn.compile(make_step(model, optim.SGD(model.parameters(), lr=0.01, momentum=0.9)))
    rng = np.random.default_rng(0)
    x, y = Tensor(rng.standard_normal((32, 64)).astype("f4")), Tensor(rng.integers(0, 10, 32))
    step(x, y)
    assert step.plans[0].cost > 20e3  # what its entries say
    for _ in range(20):
        step(x, y)
    assert step.plans[0].cost < 20e3
    count = [0]

    def work(k):
        count[0] += 1
        time.sleep(0)  # gives the GIL back at once

    with switching(60), at_work(1, work):  # no thread is made to give it
        while not count[0]:
            time.sleep(0.001)
        before = count[0]
        for _ in range(3000):
            step(x, y)
        after = count[0]
    assert after == before


@pytest.mark.parametrize("kind", ["function", "session"])
def test_modules_that_change_while_threads_call(kind):
    model = make_model().eval()
    rows = [np.random.default_rng(r).standard_normal((r, 8)).astype("f4") for r in range(1, 9)]
    with pynn.no_grad():
        want = [model(Tensor(x)).numpy_copy() for x in rows]
    f = pynn.compile(model, max_bytes=20000) if kind == "function" else None
    s = model.session(max_bytes=20000)

    def work(k):
        with pynn.no_grad():
            for x, y in zip(rows, want):
                got = f(Tensor(x)).numpy() if f else s.predict(x)
                np.testing.assert_array_equal(got, y)

    with switching(1e-5), at_work(6, work):
        end = time.monotonic() + 1.5
        while time.monotonic() < end:
            model.something = object()
            if f:
                f.clear()
            else:
                model.train()
            time.sleep(1e-3)


@pynn.compile
def decorated(x):
    return x * 3


@pytest.mark.parametrize("through", [lambda f: pickle.loads(pickle.dumps(f)), copy.copy, copy.deepcopy])
def test_a_decorated_function_goes_by_its_name(through):
    assert through(decorated) is decorated


def test_a_compiled_module_goes_as_its_module():
    model = make_model()
    f = pynn.compile(model, strict=False, max_bytes=1000)
    x = Tensor(np.ones((2, 8), "f4"))
    with pynn.no_grad():
        f(x)
        g = pickle.loads(pickle.dumps(f))
        assert (g.plans, g.strict, g.max_bytes) == ([], False, 1000)
        assert g.fn is not model
        np.testing.assert_array_equal(g(x).numpy(), f(x).numpy())


def test_a_decorated_function_in_a_spawned_process():
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        got = pool.map(decorated, [np.ones(2, "f4"), np.full(2, 2, "f4")])
    assert [y.tolist() for y in got] == [[3, 3], [6, 6]]
