"""The passes over a plan: each is seen to have happened, and leaves every bit as it was."""

import contextlib

import numpy as np
import pytest

import pynn
from pynn import OPS, Tensor, _core, nn, optim
from pynn.nn import functional as F


@pytest.fixture(autouse=True)
def always():
    old = _core.set_fuse_bytes(1)
    yield
    _core.set_fuse_bytes(old)


def rand(*shape, seed=0, dtype="f4"):
    return Tensor(np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype))


def calls(compiled):
    """The ops of the plan used last."""
    return [row[0] for row in _core.describe_plan(compiled.plans[0])]


def equal(fn, *xs, n=2):
    """compile(fn), whose replays give fn's bits without history."""
    f = pynn.compile(fn)
    with pynn.no_grad():
        want = fn(*xs)
        for _ in range(n + 1):
            got = f(*xs)
            for a, b in zip(*(v if isinstance(v, tuple) else (v,) for v in (got, want))):
                assert a.dtype == b.dtype
                assert a.numpy_copy().tobytes() == b.numpy_copy().tobytes()
    assert f.replays == n
    return f


# ---- chains ------------------------------------------------------------------------------------------

ELEMENTWISE = [  # a copy is folded before
    op for op in OPS
    if op.kernel_id >= 0 and op.name != "copy" and op.n_in and not op.n_write and op.like and not op.has_scratch
    and all(not s[1] and s[2] == 0 and s[5] < 0 for s in op.in_specs) and not op.shape_fn
]  # fmt: skip


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("op", ELEMENTWISE, ids=lambda op: op.name)
def test_every_elementwise_op_can_be_part_of_a_chain(op, dtype):
    """The op between two others, so that what it reads and what it writes are tiles."""
    params = {"dtype": np.dtype("f8" if dtype == "f4" else "f4")} if op.name == "cast" else dict(op.defaults)
    if any(isinstance(v, type) for v in params.values()):
        pytest.skip("its parameters have no defaults")

    def fn(*xs):
        ys = op(*(x if s[3] == "b" else OPS.abs(x) for x, s in zip(xs, op.in_specs)), **params)
        y = ys[0] if isinstance(ys, tuple) else ys
        return OPS.where(y, 1.0, 2.0) if y.dtype == np.bool_ else OPS.neg(y)

    xs = [rand(3, 1357, seed=k, dtype=dtype) for k in range(len(op.in_specs))]
    xs = [x > 0 if s[3] == "b" else x for x, s in zip(xs, op.in_specs)]
    try:
        with pynn.no_grad():
            fn(*xs)
    except TypeError as e:
        pytest.skip(str(e))
    f = equal(fn, *xs)
    (call,) = calls(f)
    assert op.name in call


def gated(x, g):
    y = F.silu(x) * g + x * 0.5
    return F.elu(y) - g, y


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("n", [1, 15, 2047, 2048, 2049, 40000, 100001])
def test_sizes(n, dtype):
    f = equal(gated, rand(n, dtype=dtype), rand(n, seed=1, dtype=dtype))
    assert calls(f) == ["chain of silu, mul, mul, add, elu, sub"]


LAYOUTS = {
    "rows": lambda: (rand(70, 300), rand(300)),
    "columns": lambda: (rand(70, 300), rand(70, 1)),
    "scalar": lambda: (rand(70, 300), Tensor(1.5)),
    "both": lambda: (rand(70, 1, 30), rand(40, 1)),
    "long rows": lambda: (rand(3, 5000), rand(5000)),
    "transposed": lambda: (rand(70, 300), rand(300, 70).transpose(0, 1)),
    "steps": lambda: (rand(70, 300), rand(70, 600)[:, ::2]),
    "reversed": lambda: (rand(70, 300), rand(70, 300).flip(1) if hasattr(Tensor, "flip") else rand(70, 300)),
    "deep": lambda: (rand(3, 4, 5, 6, 7), rand(4, 1, 6, 1)),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts(name):
    def fn(x, g):
        y = F.silu(x) * g + x * 0.5
        return F.elu(y) - g

    f = equal(fn, *LAYOUTS[name]())
    assert any(c.startswith("chain of") for c in calls(f))


def test_dtypes_meet_in_a_chain():
    def fn(x, k):
        m = (x > 0) | (k == 2)
        y = OPS.where(m, x, OPS.cast(k, dtype=np.dtype("f4")))
        return y * 2, OPS.cast(y, dtype=np.dtype("i8"))

    f = equal(fn, rand(33, 100), Tensor(np.arange(3300).reshape(33, 100) % 5))
    assert len(calls(f)) < 6


def test_what_others_read_stays_in_memory():
    w = rand(50, 50)

    def fn(x):
        y = x * 2 + 1
        z = OPS.matmul(y, w)
        return z * y + x, y

    f = equal(fn, rand(40, 50))
    assert [c for c in calls(f) if c.startswith("chain")] == ["chain of mul, add", "chain of mul, add"]


def test_a_call_moves_over_others_that_it_does_not_touch():
    w = rand(50, 50)

    def fn(x):
        y = x * 2
        z = OPS.matmul(x, w)
        return y + 1, z

    assert calls(equal(fn, rand(40, 50))) == ["chain of mul, add", "matmul"]


def test_no_call_moves_over_a_write_of_what_it_reads():
    state = rand(40, 50)

    def fn(x):
        y = x * 2
        z = y + state
        with pynn.no_grad():
            state.copy_(z * 0.5)
        return y + state

    f = pynn.compile(fn)
    start = state.numpy_copy()
    x = rand(40, 50, seed=1)
    want = [fn(x).numpy_copy() for _ in range(4)]
    state.copy_(Tensor(start))
    for w in want:
        np.testing.assert_array_equal(f(x).numpy(), w)
    assert f.replays == 3


def test_another_view_of_what_a_chain_writes_is_no_part_of_it():
    def fn(x):
        y = x * 2 + 1
        return y + y.transpose(0, 1)

    assert calls(equal(fn, rand(60, 60))) == ["chain of mul, add", "add"]


def test_long_chains_are_cut_and_slots_run_out():
    def long(x):
        for k in range(40):
            x = x * 0.9 + k
        return x

    def wide(x):
        parts = [x + k for k in range(12)]
        y = parts[0]
        for p in parts[1:]:
            y = y * p
        return y

    f = equal(long, rand(3000))
    assert len(calls(f)) < 10
    f = equal(wide, rand(3000))
    assert len(calls(f)) < 23


class Residual(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.inner, self.gate, self.out = nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x):
        return x + self.out(F.silu(self.inner(x)) * self.gate(x)) * 0.5


def train(compiled, steps=8, accumulate=False, dtype="f4"):
    pynn.manual_seed(0)
    model = nn.Sequential(Residual(24), Residual(24), nn.Linear(24, 3))
    o = optim.AdamW(model.parameters(), lr=0.01)

    def step(x, y):
        if not accumulate:
            o.zero_grad()
        e = ((model(x) - y) * (model(x) - y)).mean()
        e.backward()
        o.step()
        return e

    step = pynn.compile(step) if compiled else step
    losses = [step(rand(40, 24, seed=k), rand(40, 3, seed=99 + k)).item() for k in range(steps)]
    return losses, [p.numpy_copy() for p in model.parameters()], step


@pytest.mark.parametrize("accumulate", [False, True])
@pytest.mark.parametrize("threads", [1, 2, 4])
def test_a_step_with_chains_gives_the_same_bits(threads, accumulate):
    want, params, _ = train(False, accumulate=accumulate)
    div = _core.get_chunk_div()
    with pynn.threads(threads):
        _core.set_chunk_div(64)
        try:
            before = _core.par_stats()["parallel"]
            got, mine, step = train(True, accumulate=accumulate)
            assert threads == 1 or _core.par_stats()["parallel"] > before
        finally:
            _core.set_chunk_div(div)
    assert got == want
    for a, b in zip(mine, params):
        np.testing.assert_array_equal(a, b)
    assert sum(c.startswith("chain of") for c in calls(step)) >= 2
    assert step.replays >= 6


@pytest.mark.parametrize("level", _core.isa_levels())
def test_every_isa_level(level):
    old = _core.isa()
    _core.use_isa(level)
    try:
        assert calls(equal(gated, rand(5000), rand(5000, seed=1)))[0].startswith("chain")
    finally:
        _core.use_isa(old)


def test_large_results_go_past_the_caches():
    f = equal(gated, rand(5_000_000), rand(5_000_000, seed=1), n=1)
    assert len(calls(f)) == 1


def test_chains_need_traffic_that_is_worth_it():
    _core.set_fuse_bytes(1 << 20)
    assert len(calls(equal(gated, rand(1000), rand(1000, seed=1)))) == 6
    assert len(calls(equal(gated, rand(300_000), rand(300_000, seed=1)))) == 1


def test_a_chain_spares_the_pool():
    def fn(x):
        return ((x * 2 + 1) * x + 3) * x

    x = rand(1_000_000)
    fused = equal(fn, x).plans[0].pool_bytes
    _core.set_fuse_bytes(1 << 60)
    assert fused < 1 << 18 < equal(fn, x).plans[0].pool_bytes


def test_anomalies_inside_of_a_chain_are_named():
    f = pynn.compile(lambda x: OPS.maximum(pynn.log(x) * 2, 0.0) * 0)
    f(pynn.ones(3000))
    assert len(calls(f)) == 1
    with pynn.detect_anomaly(), pytest.raises(FloatingPointError, match="log made Inf"):
        f(pynn.ones(3000) * 0)
    assert f(pynn.ones(3000)).tolist() == [0] * 3000


# ---- copies ------------------------------------------------------------------------------------------


@pytest.fixture
def no_chains():
    _core.set_fuse_bytes(1 << 60)


W = rand(6, 6, seed=7)
COPIES = {  # function of x[6, 6]: the calls that are left
    "a copy that is read": (lambda x: OPS.copy(x * 2) + 1, ["mul", "add"]),
    "by several": (lambda x: (lambda y: OPS.matmul(y, y))(OPS.copy(x * 2)), ["mul", "matmul"]),
    "a part of it": (lambda x: OPS.copy(x * 2)[1:4] + 1, ["mul", "add"]),
    "of an argument": (lambda x: OPS.copy(x) + 1, ["add"]),
    "one after another": (lambda x: OPS.copy(OPS.copy(OPS.copy(x * 2))) + 1, ["mul", "add"]),
    "of another layout, read by elements": (lambda x: x.transpose(0, 1).contiguous() + W, ["add"]),
    "of another layout, read by a product": (
        lambda x: OPS.matmul((x * 2).transpose(0, 1).contiguous(), W), ["mul", "copy", "matmul"]),
    "of another layout, read twice": (
        lambda x: (lambda y: (y + W, y * W))(x.transpose(0, 1).contiguous()), ["copy", "add", "mul"]),
    "a result": (lambda x: OPS.copy(x * 2), ["mul"]),
    "a result whose source is read besides": (
        lambda x: (lambda y: (OPS.copy(y), OPS.matmul(y, W)))(x * 2), ["mul", "matmul"]),
    "a result of another layout": (lambda x: (x * 2).transpose(0, 1).contiguous(), ["mul", "copy"]),
    "a result that is an argument's copy": (lambda x: OPS.copy(x), ["copy"]),
    "to another dtype": (lambda x: OPS.cast(x * 2, dtype=np.dtype("f8")) + 1, ["mul", "cast", "add"]),
    "no one reads": (lambda x: (OPS.copy(x * 3) + 1, x * 2)[1], ["mul"]),
}  # fmt: skip


@pytest.mark.parametrize("name", COPIES)
def test_copies(name, no_chains):
    fn, left = COPIES[name]
    assert calls(equal(fn, rand(6, 6))) == left


def test_a_copy_of_what_is_written_afterwards_stays(no_chains):
    state = rand(6, 6)

    def fn(x):
        old = OPS.copy(state)
        with pynn.no_grad():
            state.copy_(x)
        return old + 1

    f = pynn.compile(fn)
    for k in range(4):
        was = state.numpy_copy()
        np.testing.assert_array_equal(f(rand(6, 6, seed=k)).numpy(), was + 1)
    assert f.replays == 3


def test_a_copy_of_memory_that_is_written_by_another_name_stays(no_chains):
    array = np.zeros((2, 6), "f4")
    a, b = pynn.from_numpy(array), pynn.from_numpy(array[:1])

    def fn(x):
        old = OPS.copy(a)
        with pynn.no_grad():
            b.copy_(x)
        return old + 1

    f = pynn.compile(fn)
    for k in range(4):
        was = array.copy()
        np.testing.assert_array_equal(f(rand(1, 6, seed=k)).numpy(), was + 1)
    assert f.replays == 3


def test_dead_calls_go_with_what_only_they_read(no_chains):
    def fn(x):
        y = x * 3
        for _ in range(5):
            y = OPS.matmul(y, W) + 1
        return x * 2

    assert calls(equal(fn, rand(6, 6))) == ["mul"]


# ---- weights -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [1, 2, 17, 64, 200])
@pytest.mark.parametrize("act", [nn.ReLU, nn.Tanh, nn.GELU, None])
def test_turned_weights_give_the_same_bits(rows, act):
    layers = [nn.Linear(70, 45), *([act()] if act else []), nn.Linear(45, 33), nn.Linear(33, 5)]
    model = nn.Sequential(*layers)
    f = equal(model, rand(rows, 70))
    assert _core.n_turned(f.plans[0]) == (2 if 1 < rows < 100 else 0)


def test_weights_of_dot_products_are_not_turned():
    """Their sums have the order of memory, with up to 4 rows of 128 elements."""
    model = nn.Linear(128, 40)
    for x in (rand(2, 128), rand(4, 128), rand(2, 2, 128), rand(2, 4, 128)[:, :2], rand(128, 3).transpose(0, 1)):
        assert _core.n_turned(equal(model, x).plans[0]) == 0
    for x in (rand(5, 128), rand(3, 2, 128), rand(3, 4, 128)[:, :2]):  # 6 rows in steps that no matrix has
        assert _core.n_turned(equal(model, x).plans[0]) == 1
    assert _core.n_turned(equal(nn.Linear(127, 40), rand(4, 127)).plans[0]) == 1


def test_turned_weights_follow_the_parameters():
    model = nn.Sequential(nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 40))
    f, session = pynn.compile(model), model.session()
    x = rand(8, 40)
    for k in range(12):
        with pynn.no_grad():
            for _ in range(2):
                want = model(x).numpy_copy()
                np.testing.assert_array_equal(f(x).numpy(), want)
                np.testing.assert_array_equal(session.predict(x.numpy()), want)
            assert (_core.n_turned(f.plans[0]) > 0) == (k < 8)  # then they are left where they are
            model[0].weight.copy_(rand(40, 40, seed=k))
    assert f.captures == 9


def test_turned_weights_are_shared_by_plans_and_never_by_training():
    model = nn.Sequential(nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 40))
    f = pynn.compile(model)
    with pynn.no_grad():
        f(rand(8, 40))
        one = f.nbytes
        for rows in range(9, 20):
            f(rand(rows, 40))
    assert f.nbytes < one + 11 * 40 * 40 * 4
    o = optim.SGD(model.parameters(), lr=0.1)

    def step(x):
        o.zero_grad()
        model(x).sum().backward()
        o.step()

    g = pynn.compile(step)
    g(rand(8, 40))
    g(rand(8, 40))
    assert (g.replays, _core.n_turned(g.plans[0])) == (1, 0)


def test_weights_that_others_may_write_are_not_turned():
    array = np.random.default_rng(0).standard_normal((40, 40)).astype("f4")
    w = pynn.from_numpy(array)
    f = pynn.compile(lambda x: nn.functional.linear(x, w))
    x = rand(8, 40)
    with pynn.no_grad():
        for _ in range(3):
            array += 1
            np.testing.assert_array_equal(f(x).numpy(), OPS.linear(x, Tensor(array), None).numpy())
    assert _core.n_turned(f.plans[0]) == 0


def test_a_slot_that_falls_idle_is_not_given_to_an_array_that_is_there():
    """All slots are taken when some arrays are made, and others fall idle before these are read."""

    def many(x):
        a, b, c, d, e = x * 1.5, x * -0.25, x > 0.1, x * 3.0, x * 4.0
        f, g, h, i = x < 0.3, x * 6.0, x * 7.0, x * 8.0
        s = (a + b) * i
        return (pynn.where(c, d, e) + pynn.where(f, g, h)) + s

    assert len(calls(equal(many, rand(64, 70)))) < 10


@pytest.mark.parametrize("how", ["a bad label", "a large weight and a bad label", "an anomaly"])
def test_turned_weights_follow_what_a_failed_replay_wrote(how):
    n = 600 if "large" in how else 64
    W, x, z, labels = rand(n, n), rand(8, n), rand(4, 5), pynn.tensor([0, 1, 2, 3])
    look = pynn.compile(lambda x: F.linear(x, W))

    def write(z, labels):
        W.copy_(W * 2.0)
        return F.cross_entropy(z, labels) if "label" in how else z.abs().log()

    step = pynn.compile(write)
    bad = (z, pynn.tensor([0, 1, 2, 77])) if "label" in how else (z * float("nan"), labels)
    with pynn.no_grad(), contextlib.nullcontext() if "label" in how else pynn.detect_anomaly():
        for _ in range(2):
            step(z, labels)
            look(x)
        look(x)
        assert _core.n_turned(look.plans[0]) == 1
        with pytest.raises((IndexError, FloatingPointError)):
            step(*bad)
        assert look(x).numpy_copy().tobytes() == F.linear(x, W).numpy_copy().tobytes()


def test_weights_are_turned_only_where_their_version_tells_of_changes():
    lin, x = nn.Linear(64, 64), rand(8, 64)
    lent = pynn.from_numpy(lin.weight.numpy())  # read-only, and yet it changes
    f, g = (pynn.compile(lambda x, w=w: F.linear(x, w)) for w in (lent, lin.weight))
    with pynn.no_grad():
        for _ in range(3):
            lin.weight.copy_(lin.weight * 2.0)
            assert f(x).numpy_copy().tobytes() == F.linear(x, lent).numpy_copy().tobytes()
            g(x)
        with lin.weight.writable() as a:
            for k in range(3):
                a[0, k] += 1
                assert g(x).numpy_copy().tobytes() == F.linear(x, lin.weight).numpy_copy().tobytes()
        g(x)


def test_turned_weights_go_with_their_plans():
    lin, x = nn.Linear(256, 256), np.zeros((4, 256), np.float32)
    session = lin.session()
    for k in range(5):
        lin.weight = nn.Parameter(rand(256, 256, seed=k))
        session.predict(x)
    assert session._plans.nbytes < 2 * 256 * 256 * 4
