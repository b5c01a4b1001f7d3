"""What a plan sees of the function that it stands for: names, modules, optimizers, and how results and grads lie."""

import functools
import types

import numpy as np
import pytest
from plan_helpers import batches, make_model, make_step

import pynn
from pynn import NotRecordable, Tensor, _core, nn, optim
from pynn.session import Session

SCALE = 2.0
config = types.ModuleType("some_config")
config.SCALE = 2.0


def rand(*shape, seed=0):
    return Tensor(np.random.default_rng(seed).standard_normal(shape).astype("f4"))


def same(a, b):
    assert a.numpy_copy().tobytes() == b.numpy_copy().tobytes()


# ---- names ---------------------------------------------------------------------------------------------


def by_default(x, k=2.0):
    return x * k


def by_keyword(x, *, k=2.0):
    return x * k


@pytest.mark.parametrize(
    ("fn", "name", "value"),
    [
        (by_default, "__defaults__", (5.0,)),
        (by_keyword, "__kwdefaults__", {"k": 5.0}),
        (by_default, "__code__", (lambda x, k: x * 5).__code__),
    ],
)
def test_defaults_and_code_that_are_replaced(monkeypatch, fn, name, value):
    g = pynn.compile(fn)
    x = pynn.ones(2)
    assert [g(x).tolist(), g(x).tolist()] == [[2, 2]] * 2
    monkeypatch.setattr(fn, name, value)
    assert g(x).tolist() == [5, 5]


class ByGlobal(nn.Module):
    def forward(self, x):
        return self.helper(x)

    def helper(self, x):
        return x * SCALE


class Plain:
    def step(self, x):
        return self.inner(x)

    def inner(self, x):
        return x * SCALE

    __call__ = step


def test_globals_of_methods(monkeypatch):
    made = [pynn.compile(f) for f in (ByGlobal(), nn.Sequential(ByGlobal()), Plain().step, Plain())]
    session = ByGlobal().session()
    x = pynn.ones(2)
    for scale in (2.0, 2.0, 5.0):
        monkeypatch.setitem(globals(), "SCALE", scale)
        assert [g(x).tolist() for g in made] == [[scale, scale]] * 4
        assert session.predict(np.ones(2, "f4")).tolist() == [scale, scale]
    assert [(g.captures, g.replays) for g in made] == [(2, 1)] * 4


def squared(y, t):
    return (((y - t) * SCALE) ** 2).mean()


def test_globals_of_a_loss_that_a_trainer_replays(monkeypatch):
    def go(compiled):
        pynn.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 1), ByGlobal())
        opt = optim.SGD(model.parameters(), lr=0.01)
        trainer = pynn.train.Trainer(model, squared, opt, compile=compiled)
        x, y = rand(32, 3).numpy(), rand(32, 1, seed=1).numpy()
        losses = []
        for scale in (2.0, 3.0, 2.0):
            monkeypatch.setitem(globals(), "SCALE", scale)
            losses += trainer.fit(x, y, epochs=2, batch_size=8, shuffle=False, progress=False)["loss"]
        return losses

    assert go(True) == go(False)


def test_a_name_of_another_module(monkeypatch):
    g = pynn.compile(lambda x: x * config.SCALE)
    x = pynn.ones(2)
    g(x)
    monkeypatch.setattr(config, "SCALE", 4.0)
    assert g(x).tolist() == [4, 4]


def test_an_attribute_named_like_a_global_is_no_global(monkeypatch):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.changing = nn.Linear(2, 2)

    m = Model()
    g = pynn.compile(lambda x: m.changing(x).detach())
    for k in range(4):
        monkeypatch.setitem(globals(), "changing", k)
        g(pynn.ones(1, 2))
    assert g.captures == 1


def test_the_closure_of_a_compiled_function_inside():
    k = 2.0
    inner = pynn.compile(lambda x: x * k)
    outer = pynn.compile(lambda x: inner(x) + 1)
    x = pynn.ones(2)
    assert [outer(x).tolist() for _ in range(2)] == [[3, 3]] * 2
    k = 5.0
    assert outer(x).tolist() == [6, 6]


def test_the_arguments_of_a_partial():
    class Scaled(nn.Module):
        k = 2.0

        def forward(self, x):
            return x * self.k

    m, other = Scaled(), nn.Linear(2, 2)
    g = pynn.compile(functools.partial(lambda m, x: other(x).detach() * 0 + m(x), m))
    x = pynn.ones(1, 2)
    g(x)
    m.k = 3.0
    assert g(x).tolist() == [[3, 3]]


def test_the_closure_of_a_session():
    k, layer = 2.0, nn.Linear(2, 2)
    s = Session(lambda x: layer(x) * k)
    x = rand(3, 2)
    for change in ("none", "number", "module"):
        k = 3.0 if change == "number" else k
        layer = nn.Linear(2, 2) if change == "module" else layer
        np.testing.assert_array_equal(s.predict(x.numpy()), (layer(x) * k).detach().numpy())


@pytest.mark.parametrize("how", ["argument", "closure", "numpy"])
def test_signs_of_zero_and_nan(how):
    k = 0.0
    f = pynn.compile((lambda x, _: x * k) if how == "closure" else (lambda x, k: x * k))
    x = pynn.ones(1)
    for k in (0.0, -0.0, 0.0, float("nan"), float("-nan")):
        got = f(x, np.float32(k) if how == "numpy" else k if how == "argument" else None).item()
        assert (got != got) if k != k else np.signbit(got) == np.signbit(k)


# ---- modules and optimizers ------------------------------------------------------------------------------


class Buffered(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("b", pynn.ones(2))

    def forward(self, x):
        return x + self.b


def test_a_buffer_that_got_other_memory():
    m = Buffered()
    g, s = pynn.compile(m), m.session()
    x = pynn.ones(2)
    with pynn.no_grad():
        g(x)
        s.predict(x.numpy())
        m.double()
        m.float()
        m.b.fill_(7)
        assert g(x).tolist() == s.predict(x.numpy()).tolist() == [8, 8]


def test_an_attribute_at_the_address_of_the_one_before():
    class Scaled(nn.Module):
        k = np.float32(0)

        def forward(self, x):
            return x * float(self.k)

    m, x = Scaled(), pynn.ones(2)
    g = pynn.compile(m)
    for v in range(1, 40):
        m.k = None
        m.k = np.float32(v)
        assert g(x).tolist() == [v, v]


def test_plans_for_train_and_for_eval_are_kept():
    m, x = make_model(dropout=0.5), batches(1)[0][0]
    g = pynn.compile(m)
    with pynn.no_grad():
        for k in range(6):
            m.train(k % 2 == 0)
            g(x)
    assert (g.captures, g.replays) == (2, 4)


def test_a_tensor_that_begins_to_ask_for_a_gradient():
    w, x = Tensor([1.0, 2.0]), pynn.ones(2)

    def f(x):
        y = (x * w).sum()
        if y.requires_grad:
            y.backward()
        return y.detach()

    g = pynn.compile(f)
    g(x)
    g(x)
    w.requires_grad = True
    for _ in range(3):
        w.grad = None
        g(x)
        assert w.grad.tolist() == [1, 1]


def test_state_of_an_optimizer_that_is_replaced():
    def go(compiled):
        model = make_model()
        o = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        step = make_step(model, o)
        step = pynn.compile(step) if compiled else step
        losses = []
        for k, (x, y) in enumerate(batches(8)):
            if k == 4:
                for p in model.parameters():
                    o.state[p]["momentum_buffer"] = pynn.zeros(*p.shape)
                o.param_groups[0]["nesterov"] = True  # what lies in dicts is looked at where anything changed
            losses.append(step(x, y).item())
        return losses

    assert go(True) == go(False)


def test_exact_arithmetic_has_plans_of_its_own():
    conv, x = nn.Conv2d(32, 32, 3, padding=1), rand(1, 32, 28, 28)
    g = pynn.compile(conv)
    was = _core.exact()
    try:
        with pynn.no_grad():
            for on in (True, False, True, False):  # kernels of other scratch
                _core.use_exact(on)
                same(g(x), conv(x))
        assert (g.captures, g.replays) == (2, 2)
    finally:
        _core.use_exact(was)


# ---- arguments and results -----------------------------------------------------------------------------


def test_an_argument_that_is_written_and_is_read_besides():
    w = rand(64, 64)

    def f(x, z):
        with pynn.no_grad():
            z.copy_(z * 3)
            return nn.functional.linear(x, w)

    g, x = pynn.compile(f), rand(8, 64)
    same(g(x, rand(64, 64, seed=3)), nn.functional.linear(x, w))  # the plan may read w in a form of its own
    with pytest.raises(NotRecordable, match="overlaps"):
        g(x, w)
    same(w, rand(64, 64) * 3)


def test_results_that_ask_for_a_gradient_or_are_one():
    def f(x):
        y = x * 2
        return y, (x * 3).detach().requires_grad_(True), y, y[0:1]

    g = pynn.compile(f)
    for k in range(3):
        a, b, c, d = g(pynn.ones(2) * k)
        assert a is c
        assert (a.requires_grad, b.requires_grad) == (False, True)
        with pynn.no_grad():
            a.fill_(9)
        assert d.tolist() == [9]


def test_views_and_exports_outlive_replays():
    g = pynn.compile(lambda x: x * 2)
    kept = []
    for k in range(8):
        y = g(pynn.ones(4) * k)
        kept.append((y[1:3], y.numpy(), memoryview(np.asarray(y)), np.from_dlpack(y))[k % 4])
        del y
    for k, v in enumerate(kept):
        assert set(v.tolist()) == {2 * k}


@pytest.mark.parametrize("of", ["shared", "argument", "parameter"])
def test_gradients_in_memory_that_has_another_part(of):
    def go(compiled):
        a, b = nn.Parameter(rand(3)), nn.Parameter(rand(3, seed=1))

        def f(x):
            (a * x * b).sum().backward()
            return x * 2 + b.detach()

        f = pynn.compile(f, strict=False) if compiled else f
        seen = []
        for k in range(7):
            x = rand(3, seed=k + 5)
            if k == 4:
                a.grad = {"shared": b.grad, "argument": x, "parameter": b.detach()}[of]
            seen += [f(x).tolist(), x.tolist(), a.grad.tolist(), b.grad.tolist(), b.tolist()]
        return seen

    assert go(True) == go(False)


# ---- failures --------------------------------------------------------------------------------------------


def test_a_write_before_an_exception_reaches_the_argument():
    def f(x):
        with pynn.no_grad():
            x.copy_(x + 1)
        raise KeyError("mine")

    x = pynn.zeros(4, 2).transpose(0, 1)[0]
    before = x._version
    with pytest.raises(KeyError):
        pynn.compile(f)(x)
    assert x.tolist() == [1] * 4
    assert x._version != before


@pytest.mark.parametrize("clear", [True, False], ids=["bound anew", "accumulated"])
def test_a_bad_second_loss_leaves_gradients_and_arguments(clear):
    a, b = nn.Parameter(rand(4, 4)), nn.Parameter(rand(4, 4, seed=1))
    criterion = nn.CrossEntropyLoss()

    def f(s, x, y1, y2):
        if clear:
            a.grad = b.grad = None
        with pynn.no_grad():
            s.copy_(s + 1)
        criterion(x @ a, y1).backward()
        criterion(x @ b, y2).backward()

    g, s = pynn.compile(f), pynn.zeros(2)
    x, y1, y2 = rand(3, 4), Tensor(np.array([0, 1, 2])), Tensor(np.array([0, 1, 2]))
    for _ in range(4):
        g(s, x, y1, y2)
    before = _core.alloc_stats()["n_alloc"]
    for _ in range(4):
        g(s, x, y1, y2)
    assert _core.alloc_stats()["n_alloc"] == before
    grads = [(id(p.grad), p.grad.numpy_copy()) for p in (a, b)]  # held by the parameters alone
    replays = g.replays
    for _ in range(3):
        with pytest.raises(IndexError, match="target"):
            g(s, rand(3, 4, seed=9), y1, Tensor(np.array([0, 1, 9])))
    assert g.replays == replays + 3
    assert s.tolist() == [8, 8]
    for p, (grad, was) in zip((a, b), grads):
        assert id(p.grad) == grad
        np.testing.assert_array_equal(p.grad.numpy(), was)


@pytest.mark.parametrize("change", ["attribute", "state"])
def test_optimizers_attributes_and_state_taken_out(change):
    """A replay has the formula and the moments that the optimizer has now."""

    def trained(compiled):
        p = nn.Parameter(Tensor(np.array([1.0, -2.0], "f4")))
        opt = optim.RMSprop([p], lr=0.1)

        def step():
            opt.zero_grad()
            (p * p).sum().backward()
            opt.step()

        run = pynn.compile(step) if compiled else step
        for k in range(8):
            if k == 4 and change == "attribute":
                opt.eps_inside = True
            elif k == 4:
                opt.state.clear()
            run()
        return p.numpy().tolist()

    assert trained(True) == trained(False)
