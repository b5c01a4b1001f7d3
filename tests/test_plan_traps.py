"""More traps for plans: odd arguments, shared and replaced modules, buffers, derivatives of derivatives, processes."""

import copy
import gc
import os
import pickle
import weakref

import numpy as np
import pytest
from plan_helpers import batches, make_model, make_step

import pynn
from pynn import NotRecordable, Tensor, _core, nn, optim


def rand(*shape, seed=0):
    return Tensor(np.random.default_rng(seed).standard_normal(shape).astype("f4"))


def same(a, b):
    assert a.numpy_copy().tobytes() == b.numpy_copy().tobytes()


# ---- arguments ---------------------------------------------------------------------------------------


def test_nested_arguments_and_none():
    def f(batch, mask=None, *, scale=1.0):
        x = batch["x"] * scale + batch["rest"][0][1]
        return {"y": x if mask is None else x * mask, "n": batch["n"]}

    g = pynn.compile(f)
    batch = {"x": rand(3), "rest": [(None, rand(3, seed=1))], "n": 5}
    m = rand(3, seed=2)
    for _ in range(2):
        same(g(batch)["y"], f(batch)["y"])
        same(g(batch, m)["y"], f(batch, m)["y"])
        same(g(batch, mask=m)["y"], f(batch, m)["y"])
        same(g(batch, scale=2.0)["y"], f(batch, scale=2.0)["y"])
    assert (g.captures, g.replays) == (4, 4)
    other = {**batch, "n": 6}
    assert g(other)["n"] == 6  # a plain value is part of the signature
    assert g.captures == 5


def test_the_order_of_keywords_does_not_swap_values():
    def f(*, a, b):
        return a - b

    g = pynn.compile(f)
    a, b = rand(4), rand(4, seed=1)
    for kwargs in ({"a": a, "b": b}, {"b": b, "a": a}, {"a": b, "b": a}, {"b": a, "a": b}):
        same(g(**kwargs), f(**kwargs))
        same(g(**kwargs), f(**kwargs))


def test_dicts_of_another_order_or_with_other_keys():
    g = pynn.compile(lambda d: d["a"] - d["b"] if "b" in d else d["a"])
    a, b = rand(4), rand(4, seed=1)
    for d in ({"a": a, "b": b}, {"b": b, "a": a}, {"a": a}, {"a": b, "b": a}):
        same(g(d), g.fn(d))
        same(g(d), g.fn(d))


def test_arrays_of_changing_dtype_shape_and_layout():
    g = pynn.compile(lambda x: x * 2)
    for dtype in ("f4", "f8", "i8", "i4", "f2", ">f4", "f4"):
        for x in (np.arange(6).astype(dtype), np.arange(12).astype(dtype)[::2], np.arange(6).astype(dtype)[::-1]):
            for _ in range(2):
                np.testing.assert_array_equal(g(x).numpy(), x.astype(x.dtype.newbyteorder("=")) * 2)
    structured = np.zeros(3, [("a", "i1"), ("b", "f4")])["b"]  # elements that are not aligned
    structured[:] = [1, 2, 3]
    np.testing.assert_array_equal(g(structured).numpy(), [2, 4, 6])


# ---- parameters and modules --------------------------------------------------------------------------


def test_a_view_of_a_parameter_read_beside_it():
    w = nn.Parameter(rand(4, 4))
    o = optim.SGD([w], lr=0.1)

    def step(x):
        o.zero_grad()
        e = (x @ w + w[0] * w.transpose(0, 1)).sum()
        e.backward()
        o.step()
        return e

    start = w.numpy_copy()
    want = [(step(rand(4, 4, seed=k)).item(), w.numpy_copy()) for k in range(4)]
    with pynn.no_grad():
        w.copy_(Tensor(start))
    g = pynn.compile(step)
    for k in range(4):
        assert g(rand(4, 4, seed=k)).item() == want[k][0]
        np.testing.assert_array_equal(w.numpy(), want[k][1])
    assert g.replays == 3


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)
        self.b.weight = self.a.weight
        self.c = nn.Linear(8, 4)

    def forward(self, x):
        return self.c(self.b(self.a(x)))


def run(make, compiled, steps=6, change=None, loss=None):
    pynn.manual_seed(0)
    model = make()
    o = optim.Adam(model.parameters(), lr=0.01)
    step = make_step(model, o, loss=loss)
    step = pynn.compile(step) if compiled else step
    losses = []
    for k, (x, y) in enumerate(batches(steps)):
        if change:
            change(k, model)
        losses.append(step(x, y).item())
    return losses, [p.numpy_copy() for p in model.parameters()] + [b.numpy_copy() for b in model.buffers()], step


def check(make, replays, **options):
    want, params, _ = run(make, False, **options)
    got, mine, step = run(make, True, **options)
    assert got == want
    for a, b in zip(mine, params):
        np.testing.assert_array_equal(a, b)
    assert step.replays == replays


def test_a_parameter_shared_by_two_modules():
    check(Tied, 5)


def test_a_module_replaced_by_setattr():
    def change(k, model):
        if k == 3:
            with pynn.no_grad():
                fresh = nn.Linear(8, 8)
                fresh.weight.copy_(rand(8, 8, seed=9))
                fresh.bias.copy_(rand(8, seed=10))
            model.a = fresh

    check(Tied, 3, change=change)  # its gradients are None once, then there: no optimizer drops them


class Running(nn.Module):
    """Writes a buffer in forward, as batch norm does, and replaces none."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", pynn.zeros(8))
        self.register_buffer("count", pynn.zeros(()))
        self.layer = nn.Linear(8, 4)

    def forward(self, x):
        if self.training:
            with pynn.no_grad():
                self.mean.copy_(self.mean * 0.9 + x.mean(0) * 0.1)
                self.count.copy_(self.count + 1)
        return self.layer(x - self.mean)


def test_buffers_written_in_forward():
    check(Running, 5)


def test_a_buffer_that_is_rebound_in_forward_is_never_replayed():
    class Rebinds(Running):
        def forward(self, x):
            self.mean = self.mean * 0.9 + x.mean(0).detach() * 0.1
            return self.layer(x - self.mean)

    with pytest.raises(NotRecordable, match=r"an attribute of a module|kept outside"):
        run(Rebinds, True, steps=2)


# ---- derivatives ---------------------------------------------------------------------------------------


def test_a_graph_that_is_kept_and_walked_twice():
    w = nn.Parameter(rand(5))

    def f(x):
        w.grad = None
        e = (w * x).exp().sum()
        e.backward(retain_graph=True)
        e.backward()
        return e

    g = pynn.compile(f)
    for k in range(3):
        x = rand(5, seed=k)
        e = f(x)
        want = w.grad.numpy_copy()
        same(g(x), e)
        np.testing.assert_array_equal(w.grad.numpy(), want)
    assert g.replays == 2


def test_second_derivatives_inside():
    w = nn.Parameter(rand(5))

    def f(x):
        (d,) = pynn.grad((w * x).tanh().sum(), [w], create_graph=True)
        (h,) = pynn.grad((d * d).sum(), [w])
        return h, d.detach()

    g = pynn.compile(f)
    for k in range(3):
        x = rand(5, seed=k)
        for a, b in zip(g(x), f(x)):
            same(a, b)
    assert g.replays == 2


@pytest.mark.parametrize("clear", ["never", "zero", "every third"])
def test_gradients_accumulate_over_replays(clear):
    def go(compiled):
        pynn.manual_seed(0)
        model = make_model()
        o = optim.SGD(model.parameters(), lr=0.1)
        criterion = nn.CrossEntropyLoss()

        def add(x, y):
            e = criterion(model(x), y)
            e.backward()
            return e

        add = pynn.compile(add) if compiled else add
        grads = []
        for k, (x, y) in enumerate(batches(9)):
            add(x, y)
            grads.append([p.grad.numpy_copy() for p in model.parameters()])
            if clear == "every third" and k % 3 == 2:
                o.step()
                o.zero_grad()
            elif clear == "zero":
                o.step()
                o.zero_grad(set_to_none=False)
        return grads, add

    want, _ = go(False)
    got, add = go(True)
    for a, b in zip(got, want):
        for x, y in zip(a, b):
            np.testing.assert_array_equal(x, y)
    assert (add.captures, add.replays) == (2, 7)


def test_zero_grad_that_keeps_the_memory_inside_of_a_step():
    model, twin = make_model(), make_model()

    def step_of(m):
        o = optim.SGD(m.parameters(), lr=0.1)
        criterion = nn.CrossEntropyLoss()

        def step(x, y):
            o.zero_grad(set_to_none=False)
            e = criterion(m(x), y)
            e.backward()
            o.step()
            return e

        return step

    g, eager = pynn.compile(step_of(model)), step_of(twin)
    for x, y in batches(6):
        same(g(x, y), eager(x, y))
    for a, b in zip(model.parameters(), twin.parameters()):
        same(a, b)
        same(a.grad, b.grad)


# ---- gradients by rows -------------------------------------------------------------------------------------

TABLES = {
    "Adagrad": lambda p: optim.Adagrad(p, lr=0.01, lr_decay=0.1),
    "SparseAdam": lambda p: optim.SparseAdam(p, lr=0.01),
    "SGD": lambda p: optim.SGD(p, lr=0.1, momentum=0.9),
    "Adam": lambda p: optim.Adam(p, lr=0.01),
}


def words(compiled, make, twice=False, clip=None):
    pynn.manual_seed(0)
    table, head = nn.Embedding(50, 6, sparse=True), nn.Linear(6, 3)
    both = make(table.parameters()), optim.Adam(head.parameters(), lr=0.01)
    criterion = nn.CrossEntropyLoss()

    def step(x, y):
        for o in both:
            o.zero_grad()
        z = table(x).mean(1)
        e = criterion(head(z + table(x[:, :2]).sum(1) if twice else z), y)
        e.backward()
        if clip:
            nn.utils.clip_grad_norm_([table.weight, *head.parameters()], clip)
        for o in both:
            o.step()
        return e

    step = pynn.compile(step) if compiled else step
    rng = np.random.default_rng(1)
    found, kept = [], []
    for _ in range(8):
        x, y = Tensor(rng.integers(0, 50, (7, 5))), Tensor(rng.integers(0, 3, 7))
        e = step(x, y)
        kept.append(table.weight.grad)
        found.append((e.item(), table.weight.numpy_copy().tobytes(), table.weight.grad.to_dense().numpy_copy()))
    return found, kept, step


@pytest.mark.parametrize("options", [{}, {"twice": True}, {"clip": 0.1}], ids=str)
@pytest.mark.parametrize("name", TABLES)
def test_steps_whose_gradients_are_by_rows(name, options):
    want, _, _ = words(False, TABLES[name], **options)
    got, kept, step = words(True, TABLES[name], **options)
    for (e, table, grad), (e2, table2, grad2), g in zip(got, want, kept):
        assert (e, table) == (e2, table2)
        np.testing.assert_array_equal(grad, grad2)
        np.testing.assert_array_equal(g.to_dense().numpy(), grad2)  # those that were kept are left alone
    assert (step.captures, step.replays) == (1, 7)


def test_gradients_by_rows_verify_and_ask_for_no_memory():
    _, kept, step = words(True, TABLES["SparseAdam"])
    kept.clear()
    x, y = Tensor(np.arange(35).reshape(7, 5)), Tensor(np.zeros(7, "i8"))
    step.verify(x, y, n=2)
    for _ in range(5):
        step(x, y)
    before = _core.alloc_stats()["n_alloc"]
    for _ in range(20):
        step(x, y)
    assert _core.alloc_stats()["n_alloc"] == before


def test_a_gradient_by_rows_is_no_result():
    table = nn.Embedding(9, 2, sparse=True)

    def f(x):
        table.weight.grad = None
        table(x).sum().backward()
        return table.weight.grad

    with pytest.raises(NotRecordable, match="to_dense"):
        pynn.compile(f)(Tensor(np.array([1, 2])))


# ---- failures, processes, memory ----------------------------------------------------------------------------


def test_bad_labels_in_a_replay_leave_parameters_gradients_and_buffers():
    class Model(Running):
        def __init__(self):
            super().__init__()
            self.drop = nn.Dropout(0.5)

        def forward(self, x):
            return super().forward(self.drop(x))

    model = Model()
    o = optim.Adam(model.parameters(), lr=0.01)
    step = pynn.compile(make_step(model, o))
    data = batches(3)
    for x, y in data:
        step(x, y)
    before = [p.numpy_copy() for p in (*model.parameters(), *model.buffers())]
    grads = [(p.grad, p.grad.numpy_copy()) for p in model.parameters()]
    state = pynn.default_generator.get_state().tolist()
    with pytest.raises(IndexError, match="target"):
        step(data[0][0], Tensor(np.full(16, 4)))
    assert step.replays == 3
    for p, was in zip((*model.parameters(), *model.buffers()), before):
        np.testing.assert_array_equal(p.numpy(), was)
    for p, (g, was) in zip(model.parameters(), grads):
        assert p.grad is g
        np.testing.assert_array_equal(g.numpy(), was)
    assert pynn.default_generator.get_state().tolist() == state


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("threads", [1, 2])
def test_a_forked_child_replays(threads):
    model = make_model()
    step = pynn.compile(make_step(model, optim.SGD(model.parameters(), lr=0.1)))
    (x, y), *_ = batches(1)
    with pynn.threads(threads):
        step(x, y)
        step(x, y)
        pid = os.fork()
        if pid == 0:
            ok = False
            try:
                ok = np.isfinite(step(x, y).item()) and step.replays == 2 and step.captures == 1
            finally:
                os._exit(0 if ok else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        step(x, y)
    assert (step.captures, step.replays) == (1, 2)


def scaled(x):
    return x * 3


@pytest.mark.parametrize("through", [lambda f: pickle.loads(pickle.dumps(f)), copy.copy, copy.deepcopy])
def test_pickled_and_copied_functions_make_plans_of_their_own(through):
    g = pynn.compile(scaled)
    g(rand(3))
    h = through(g)
    assert h.plans == []
    for k in range(3):
        same(h(rand(3, seed=k)), scaled(rand(3, seed=k)))
    assert (h.replays, g.replays) == (2, 0)


def test_plans_and_their_pools_are_freed():
    gc.collect()
    _core.empty_cache()
    before = _core.alloc_stats()["live"]
    model = make_model()
    step = pynn.compile(make_step(model, optim.Adam(model.parameters())))
    for x, y in batches(3, rows=512):
        step(x, y)
    gone = weakref.ref(step)
    del step, model, x, y
    gc.collect()
    assert gone() is None
    assert _core.alloc_stats()["live"] == before


def test_a_plan_keeps_its_pool_and_no_more():
    """Not what the host wrote into an optimizer's state before the first step, for one."""
    model = make_model()
    step = pynn.compile(make_step(model, optim.SGD(model.parameters(), lr=0.1, momentum=0.9)))
    for x, y in batches(4):
        step(x, y)
    gc.collect()
    live, pool = _core.alloc_stats()["live"], step.plans[0].pool_bytes
    step.clear()
    gc.collect()
    assert live - _core.alloc_stats()["live"] == pool + 2 * 4  # the memory of two losses


def test_fifty_batch_sizes_in_turn():
    model = make_model()
    step = pynn.compile(make_step(model, optim.SGD(model.parameters(), lr=0.01)))
    twin = make_model()
    eager = make_step(twin, optim.SGD(twin.parameters(), lr=0.01))
    data = [batches(1, rows=r, seed=r)[0] for r in range(1, 51)]
    for x, y in data * 3:
        same(step(x, y), eager(x, y))
    assert (step.captures, step.replays) == (50, 100)
    small = pynn.compile(make_step(model, optim.SGD(model.parameters(), lr=0.01)), max_bytes=step.nbytes // 4)
    for x, y in data * 2:
        small(x, y)
        assert small.nbytes <= step.nbytes // 4 or len(small.plans) == 1
    assert small.captures == 100  # each is gone before it comes again


def test_a_plan_per_thread_count():
    model = make_model()
    f = pynn.compile(model.eval())
    x = rand(64, 8)
    with pynn.no_grad():
        want = model(x)
        for threads in (1, 2, 4, 1, 2, 4):
            with pynn.threads(threads):
                same(f(x), want)
    assert (f.captures, f.replays) == (3, 3)
