"""Optimizers against plain NumPy, and against what PyTorch computed once."""

import contextlib
import itertools
import math
import time
from pathlib import Path

import numpy as np
import pytest
from fixtures.make_optim_torch import CASES, STEPS, draws
from optim_helpers import data, leaves, set_grads, values, views

import pynn
from pynn import OPS, _core
from pynn.nn.utils import clip_grad_norm_, clip_grad_value_
from pynn.optim import SGD, Adam, AdamW, Optimizer

DTYPES = ("float32", "float64")


@contextlib.contextmanager
def threads(n, chunk_div=1):
    before = _core.get_num_threads()
    _core.set_num_threads(n)
    _core.set_chunk_div(chunk_div)
    _core.par_stats(reset=True)
    try:
        yield
    finally:
        _core.set_num_threads(before)
        _core.set_chunk_div(1)


def with_workers(n, run):
    """The result of run() where workers took part in it; threads of a busy machine may need several tries."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        with threads(n, 64):
            result = run()
            if _core.par_stats()["chunks_by_workers"] > 0:
                return result
    pytest.fail("the team never ran")


# ---- the update rules ------------------------------------------------------------------------------


def sgd_reference(start, grads, lrs, momentum=0, dampening=0, weight_decay=0, nesterov=False, maximize=False):
    ps, buf = [np.array(p, np.float64) for p in start], [None] * len(start)
    for lr, gs in zip(lrs, grads):
        for k, g in enumerate(gs):
            g = (-g if maximize else g).astype(np.float64) + weight_decay * ps[k]
            if momentum:
                buf[k] = g if buf[k] is None else momentum * buf[k] + (1 - dampening) * g
                g = g + momentum * buf[k] if nesterov else buf[k]
            ps[k] = ps[k] - lr * g
    return np.concatenate([p.ravel() for p in ps])


def adam_reference(
    start, grads, lrs, betas=(0.9, 0.999), eps=1e-8, weight_decay=0, amsgrad=False, maximize=False,
    decoupled_weight_decay=False,
):  # fmt: skip
    ps = [np.array(p, np.float64) for p in start]
    ms, vs, xs = ([np.zeros_like(p) for p in ps] for _ in range(3))
    for t, (lr, gs) in enumerate(zip(lrs, grads), 1):
        for k, g in enumerate(gs):
            g = (-g if maximize else g).astype(np.float64)
            if decoupled_weight_decay:
                ps[k] = ps[k] * (1 - lr * weight_decay)
            else:
                g = g + weight_decay * ps[k]
            ms[k] = betas[0] * ms[k] + (1 - betas[0]) * g
            vs[k] = betas[1] * vs[k] + (1 - betas[1]) * g * g
            xs[k] = np.maximum(xs[k], vs[k])
            root = np.sqrt((xs if amsgrad else vs)[k] / (1 - betas[1] ** t))
            ps[k] = ps[k] - lr / (1 - betas[0] ** t) * ms[k] / (root + eps)
    return np.concatenate([p.ravel() for p in ps])


def follow(cls, reference, options, dtype, steps=20):
    """The largest difference between 20 steps of an optimizer and of its reference, with a falling rate."""
    start, grads = data(steps, dtype=dtype)
    lrs = [0.1 * 0.9**k for k in range(steps)]
    params = leaves(start, dtype)
    opt = cls(params, lr=1.0, **options)
    for lr, gs in zip(lrs, grads):
        opt.param_groups[0]["lr"] = lr
        set_grads(params, gs)
        opt.step()
    assert all(p.dtype == dtype for p in params)
    return np.abs(values(params) - reference(start, grads, lrs, **options)).max()


SGD_OPTIONS = [
    {"momentum": m, "dampening": d, "weight_decay": w, "nesterov": n, "maximize": x}
    for m, d, w, n, x in itertools.product((0, 0.9), (0, 0.3), (0, 0.1), (False, True), (False, True))
    if not n or (m and not d)
]
ADAM_OPTIONS = [
    {"betas": b, "weight_decay": w, "decoupled_weight_decay": c, "amsgrad": a, "maximize": x, "eps": e}
    for b, w, c, a, x, e in itertools.product(
        ((0.9, 0.999), (0.3, 0.6)), (0, 0.2), (False, True), (False, True), (False, True), (1e-8, 1e-2)
    )
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", SGD_OPTIONS, ids=lambda o: "-".join(f"{v:g}" for v in o.values()))
def test_sgd_follows_its_equations(options, dtype):
    """F-OPT-1, F-OPT-2 (γv + ηg), F-OPT-3; its weight_decay is the gradient of an L2 penalty (F-REG-1)."""
    assert follow(SGD, sgd_reference, options, dtype) < (1e-13 if dtype == "float64" else 2e-5)


@pytest.mark.parametrize("dtype", DTYPES)
def test_momentum_in_both_forms(dtype):
    """F-OPT-2: v ← βv + (1 − β)g at the rate η/(1 − β) takes the steps of v ← βv + g at η (S1 §1.3)."""
    start, grads = data(20, dtype=dtype)
    eta, beta = 0.05, 0.9
    params = leaves(start, dtype)
    opt = SGD(params, lr=eta, momentum=beta)
    ps, vs = [np.array(p, np.float64) for p in start], [np.zeros(np.shape(p)) for p in start]
    for gs in grads:
        set_grads(params, gs)
        opt.step()
        for k, g in enumerate(gs):
            vs[k] = beta * vs[k] + (1 - beta) * g
            ps[k] = ps[k] - eta / (1 - beta) * vs[k]
    want = np.concatenate([p.ravel() for p in ps])
    np.testing.assert_allclose(values(params), want, rtol=0, atol=1e-13 if dtype == "float64" else 2e-5)


def test_weight_decay_is_the_gradient_of_half_the_sum_of_squares():
    """F-REG-1: λ in the optimizer and λ/2·‖w‖² in the loss take the same steps (S1 ch. 6)."""
    start, _ = data(1, ((4, 3),))
    with_decay, with_penalty = leaves(start, "float64"), leaves(start, "float64")
    one, two = SGD(with_decay, lr=0.1, weight_decay=0.3), SGD(with_penalty, lr=0.1)
    for _ in range(5):
        for opt, (w,), penalty in ((one, with_decay, 0.0), (two, with_penalty, 0.15)):
            opt.zero_grad()
            ((w**3).sum() + penalty * (w * w).sum()).backward()
            opt.step()
    np.testing.assert_allclose(values(with_decay), values(with_penalty), rtol=1e-14)


@pytest.mark.parametrize("dtype", DTYPES)
def test_adam_follows_its_equations(dtype):
    """F-OPT-6, eps outside of the root, as PyTorch's; decoupled: F-OPT-7, F-REG-5."""
    for options in ADAM_OPTIONS:
        assert follow(Adam, adam_reference, options, dtype) < (1e-12 if dtype == "float64" else 2e-5), options


def test_adamw_is_adam_with_decoupled_decay():
    """F-OPT-7, F-REG-5."""
    start, grads = data(3)
    a, b = leaves(start, "float64"), leaves(start, "float64")
    one, two = AdamW(a, weight_decay=0.3), Adam(b, weight_decay=0.3, decoupled_weight_decay=True)
    for gs in grads:
        for params, opt in ((a, one), (b, two)):
            set_grads(params, gs)
            opt.step()
    np.testing.assert_array_equal(values(a), values(b))
    want = adam_reference(start, grads, [1e-3] * len(grads), weight_decay=0.3, decoupled_weight_decay=True)
    np.testing.assert_allclose(values(a), want, rtol=1e-13)
    assert AdamW(a).param_groups[0]["weight_decay"] == 1e-2


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES)
def test_sgd_and_adam_as_pytorch(case, dtype):
    """F-OPT-1, 2, 3, 6 and 7, against what PyTorch computed."""
    name, options = CASES[case]
    with np.load(Path(__file__).with_name("fixtures") / "optim_torch.npz") as file:
        want, state = file[f"{case}/{dtype}"], file[f"{case}/{dtype}/state"]
    start, grads = draws()
    params = leaves(start, dtype)
    opt = {"SGD": SGD, "Adam": Adam, "AdamW": AdamW}[name](params, **options)
    rows = []
    for step, gs in enumerate(grads, 1):
        set_grads(params, gs)
        opt.step()
        if step in (1, 2, STEPS):
            rows.append(values(params))
    tolerance = 1e-14 if dtype == "float64" else 1e-6
    np.testing.assert_allclose(np.stack(rows), want, rtol=tolerance, atol=tolerance)
    found = [v for s in opt.state_dict()["state"].values() for _, v in sorted(s.items())]
    np.testing.assert_allclose(np.concatenate([np.zeros(0), *[v.ravel() for v in found]]), state, rtol=tolerance * 10)


def test_adam_first_mean_is_the_gradient_for_beta_0():
    p = leaves([[1.0]], "float32")
    opt = Adam(p, betas=(0.0, 0.9))
    for g in (1e10, 1e-10):
        set_grads(p, [[g]])
        opt.step()
        assert opt.state[p[0]]["exp_avg"].tolist() == [np.float32(g)]


# ---- which parameters --------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [lambda p: SGD(p, 0.1, momentum=0.9), Adam], ids=["sgd", "adam"])
def test_parameters_without_gradient_are_left_alone(make):
    a, b = leaves([[1.0, 2.0], [3.0]], "float32")
    opt = make([a, b])
    set_grads([a], [[1.0, 1.0]])
    before = b._version
    opt.step()
    assert b.tolist() == [3.0]
    assert b._version == before
    assert b not in opt.state
    set_grads([a, b], [None, [1.0]])
    at = a.tolist()
    opt.step()
    assert a.tolist() == at
    assert b.item() < 3.0
    opt.zero_grad()
    opt.step()  # nothing to do
    assert a.tolist() == at


def test_sgd_and_adam_of_both_dtypes_in_one_group():
    for cls, reference in ((SGD, sgd_reference), (Adam, adam_reference)):
        start, grads = data(4, ((4, 3), (5,)))
        params = leaves(start[:1], "float32") + leaves(start[1:], "float64")
        opt = cls(params, lr=0.1)
        for gs in grads:
            set_grads(params, gs)
            opt.step()
        np.testing.assert_allclose(values(params), reference(start, grads, [0.1] * 4), atol=1e-6)
        assert [p.dtype for p in params] == list(DTYPES)


def test_groups_have_their_own_hyper_parameters():
    start, grads = data(3)
    params = leaves(start, "float64")
    opt = SGD([{"params": params[:2], "lr": 0.3}, {"params": params[2:], "momentum": 0.5}], lr=0.1)
    opt.add_param_group({"params": leaves([[1.0]], "float64"), "lr": 0.7})
    for gs in grads:
        set_grads(params, gs)
        opt.step()
    halves = [(slice(0, 2), 0.3, 0), (slice(2, None), 0.1, 0.5)]
    want = [sgd_reference(start[s], [g[s] for g in grads], [lr] * 3, momentum=m) for s, lr, m in halves]
    np.testing.assert_allclose(values(params), np.concatenate(want), atol=1e-14)
    assert [g["lr"] for g in opt.param_groups] == [0.3, 0.1, 0.7]


def test_many_small_parameters():
    """F-OPT-12."""
    shapes = [(k % 5, 3) for k in range(700)]
    start, grads = data(2, shapes)
    params = leaves(start, "float64")
    opt = Adam(params, lr=0.1)
    for gs in grads:
        set_grads(params, gs)
        opt.step()
    np.testing.assert_allclose(values(params), adam_reference(start, grads, [0.1] * 2), atol=1e-13)


def test_late_parameters_have_their_own_step_count():
    start, grads = data(5, ((3,), (4,)))
    params = leaves(start, "float64")
    opt = Adam(params, lr=0.1, betas=(0.5, 0.7))
    for k, gs in enumerate(grads):
        set_grads(params, [gs[0], gs[1] if k > 2 else None])
        opt.step()
    for k, first in ((0, 0), (1, 3)):
        gs = [[g[k]] for g in grads[first:]]
        want = adam_reference(start[k : k + 1], gs, [0.1] * len(gs), betas=(0.5, 0.7))
        np.testing.assert_allclose(params[k].tolist(), want, atol=1e-14)
        assert opt.state[params[k]]["step"].item() == 5 - first


# ---- memory ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [lambda p: SGD(p, 0.1, momentum=0.9), lambda p: Adam(p, 0.1, amsgrad=True)],
                         ids=["sgd", "adam"])  # fmt: skip
def test_any_layout_gives_the_same_bits(make):
    (a,), grads = data(3, ((2, 3, 5, 4),), "float32")
    want = None
    for base, p in views(a):
        opt = make([p])
        for (g,) in grads:
            p.grad = pynn.tensor(g)
            opt.step()
        want = p.tolist() if want is None else want
        assert p.tolist() == want
        if p.size != base.size:
            assert (base[1::2] == 77).all()
            assert (base[..., :1] == 77).all()
            assert (base[..., -2:] == 77).all()
        opt.load_state_dict(opt.state_dict())
        opt.step()
    assert want != a.tolist()


def test_state_lies_as_its_parameter():
    (a,), _ = data(1, ((2, 3, 5, 4),), "float32")
    for _, p in views(a):
        opt = Adam([p])
        p.grad = pynn.tensor(a)
        opt.step()
        state = opt.state[p]["exp_avg"]
        opt.load_state_dict(opt.state_dict())
        packed = sorted(p.strides)[0] == 1 and np.prod(p.shape) == max(n * s for n, s in zip(p.shape, p.strides))
        if packed:
            assert state.strides == p.strides
        else:
            assert state.is_contiguous()


def test_gradients_of_leaves_with_gaps():
    (a,), _ = data(1, ((2, 3, 5, 4),), "float32")
    for _, p in views(a):
        for k in (1, 2):
            (p * p).sum().backward()
            np.testing.assert_allclose(p.grad.numpy_copy(), 2 * k * a, rtol=1e-6)


def test_overlapping_parameter_raises():
    p = pynn.tensor([[1.0], [2.0]]).expand(2, 3).detach().requires_grad_()
    p.grad = pynn.tensor(np.ones((2, 3), np.float32))
    with pytest.raises(ValueError, match=r"sgd_step: argument 'p_list' is written, and dimension 1 .*repeats"):
        SGD([p], 0.1).step()


def test_a_step_bumps_versions_and_voids_saved_values():
    (p,) = leaves([[1.0, 2.0]], "float32")
    opt = Adam([p])
    loss = (p * p).sum()
    set_grads([p], [[1.0, 1.0]])
    opt.step()
    with pytest.raises(RuntimeError, match="changed in place"):
        loss.backward()
    state = opt.state[p]
    before = [t._version for t in (p, *state.values())]
    opt.step()
    assert all(t._version > v for t, v in zip((p, *state.values()), before))


def test_steps_leave_no_memory_behind():
    (a,), (grads,) = data(1, ((2, 3, 5, 4),), "float32")
    params = [p for _, p in views(a)]
    opts = [SGD(params, 0.01, momentum=0.9), Adam(params)]
    for k in range(30):
        for p in params:
            p.grad = pynn.tensor(grads[0])
        for opt in opts:
            opt.step()
        clip_grad_norm_(params, 1e-3)
        if k == 2:
            live = _core.alloc_stats()["live"]
    assert _core.alloc_stats()["live"] == live


def test_large_steps_have_the_same_bits_for_any_threads_and_chunks():
    shapes = ((3,), (257, 33), (0, 4), (16384,), (), (1, 1000), (7, 11, 13))

    def train(make):
        start, grads = data(3, shapes, "float32")
        params = leaves(start, "float32")
        opt = make(params)
        norms = []
        for gs in grads:
            set_grads(params, gs)
            norms.append(clip_grad_norm_(params, 50.0).item())
            clip_grad_value_(params, 0.9)
            opt.step()
        return values(params).tobytes(), norms

    makers = [lambda p: SGD(p, 0.1, momentum=0.9, weight_decay=0.1), lambda p: AdamW(p, 0.1, amsgrad=True), Adam]
    for level in _core.isa_levels():
        _core.use_isa(level)
        for make in makers:
            with threads(1):
                want = train(make)
            with threads(1, 7):
                assert train(make) == want
            for n in (2, 4):
                assert with_workers(n, lambda make=make: train(make)) == want


def test_sgd_and_adam_at_every_isa_level():
    for level in _core.isa_levels():
        _core.use_isa(level)
        assert follow(SGD, sgd_reference, SGD_OPTIONS[-2], "float64") < 1e-13
        assert follow(Adam, adam_reference, ADAM_OPTIONS[5], "float64") < 1e-12
        assert follow(Adam, adam_reference, ADAM_OPTIONS[5], "float32") < 2e-5


# ---- the learning rate ---------------------------------------------------------------------------------


def test_every_way_to_write_the_learning_rate_reaches_its_tensor():
    (p,) = leaves([[1.0]], "float32")
    group = SGD([p], 0.5).param_groups[0]
    seen = [group.lr_tensor.item()]
    at = group.lr_tensor
    group["lr"] = 0.25
    seen.append(at.item())
    group.update(lr=0.125)
    seen.append(at.item())
    group |= {"lr": 2}
    seen.append(at.item())
    group["lr"] = pynn.tensor(4.0)
    seen.append(at.item())
    group["lr"] *= 2
    seen.append(at.item())
    assert seen == [0.5, 0.25, 0.125, 2.0, 4.0, 8.0]
    assert group["lr"] == 8.0
    assert type(group["lr"]) is float
    with pytest.raises(TypeError, match="'lr': expected a number, got 'fast'"):
        group["lr"] = "fast"


# ---- the optimizer's other methods -----------------------------------------------------------------------


def test_zero_grad():
    (p,) = leaves([[1.0, 2.0]], "float32")
    opt = SGD([p], 0.1)
    opt.zero_grad(set_to_none=False)
    assert p.grad is None
    set_grads([p], [[3.0, 4.0]])
    opt.zero_grad(set_to_none=False)
    assert p.grad.tolist() == [0.0, 0.0]
    opt.zero_grad()
    assert p.grad is None


def test_zero_grad_of_a_gradient_with_history():
    (p,) = leaves([[1.0, 2.0]], "float32")
    (p * p * p).sum().backward(create_graph=True)
    SGD([p], 0.1).zero_grad(set_to_none=False)
    assert p.grad.tolist() == [0.0, 0.0]
    assert p.grad.is_leaf


def test_step_calls_the_closure_with_recording_on():
    (p,) = leaves([[3.0]], "float32")
    opt = SGD([p], 0.1)

    def closure():
        opt.zero_grad()
        loss = (p * p).sum()
        loss.backward()
        return loss

    with pynn.no_grad():
        assert opt.step(closure).item() == 9.0
        assert not pynn.is_grad_enabled()
    assert pynn.is_grad_enabled()
    assert p.item() == pytest.approx(2.4)


def test_detect_anomaly_names_the_step():
    (p,) = leaves([[1.0]], "float32")
    set_grads([p], [[np.inf]])
    for opt, name in ((SGD([p], 0.1), "sgd_step"), (Adam([p]), "adam_step")):
        with pynn.detect_anomaly(), pytest.raises(FloatingPointError, match=name):
            opt.step()
        assert pynn.is_grad_enabled()


def test_repr_shows_the_groups():
    (p,) = leaves([[1.0]], "float32")
    assert repr(SGD([p], 0.5)).splitlines()[:4] == [
        "SGD (", "Parameter Group 0", "    dampening: 0", "    lr: 0.5"
    ]  # fmt: skip


# ---- errors ------------------------------------------------------------------------------------------------


def test_errors_of_parameters():
    (p,) = leaves([[1.0]], "float32")
    cases = [
        (
            p,
            TypeError,
            "params argument given to the optimizer should be an iterable of Tensors or dicts, but got Tensor",
        ),
        ([], ValueError, "optimizer got an empty parameter list"),
        ([p, "x"], TypeError, "optimizer can only optimize Tensors, but one of the params is str"),
        ([np.zeros(2)], TypeError, "one of the params is ndarray"),
        ([p * 2], ValueError, "can't optimize a non-leaf Tensor"),
        ([p, p], ValueError, "duplicate parameters"),
        ([{"params": {p}}], TypeError, "need to be organized in ordered collections"),
        ([{"params": [p]}, {"params": [p]}], ValueError, "some parameters appear in more than one parameter group"),
        ([{"lr": 0.1}], ValueError, "expected a parameter group with the key 'params'"),
        ([{"params": [p]}, [p]], TypeError, "param_group must be a dict, but got <class 'list'>"),
    ]
    for params, error, text in cases:
        with pytest.raises(error, match=text):
            SGD(params, 0.1)
    assert [g["params"] for g in SGD(iter([p])).param_groups] == [[p]]
    assert [g["params"] for g in SGD([{"params": p}]).param_groups] == [[p]]


@pytest.mark.parametrize(
    ("cls", "options", "text"),
    [
        (SGD, {"lr": -0.1}, "Invalid learning rate: -0.1"),
        (SGD, {"lr": math.nan}, "Invalid learning rate: nan"),
        (SGD, {"momentum": -1}, "Invalid momentum value: -1"),
        (SGD, {"weight_decay": -1}, "Invalid weight_decay value: -1"),
        (SGD, {"nesterov": True}, "Nesterov momentum requires a momentum and zero dampening"),
        (SGD, {"nesterov": True, "momentum": 0.9, "dampening": 0.1}, "Nesterov momentum requires"),
        (Adam, {"lr": -1}, "Invalid learning rate: -1"),
        (Adam, {"eps": -1}, "Invalid epsilon value: -1"),
        (Adam, {"betas": (1.0, 0.9)}, "Invalid beta parameter at index 0: 1.0"),
        (Adam, {"betas": (0.9, -0.1)}, "Invalid beta parameter at index 1: -0.1"),
        (AdamW, {"weight_decay": -1}, "Invalid weight_decay value: -1"),
        (Adam, {"betas": 0.9}, "Invalid betas: expected two numbers, got 0.9"),
    ],
)
def test_errors_of_hyper_parameters(cls, options, text):
    (p,) = leaves([[1.0]], "float32")
    with pytest.raises(ValueError, match=text):
        cls([p], **options)
    with pytest.raises(ValueError, match=text):
        cls([{"params": [p], **options}])


@pytest.mark.parametrize(
    ("cls", "name"), [(SGD, "lr"), (SGD, "momentum"), (SGD, "dampening"), (Adam, "eps"), (AdamW, "weight_decay")]
)
def test_hyper_parameters_must_be_numbers(cls, name):
    with pytest.raises(TypeError, match=f"optimizer: '{name}': expected a number, got 'much'"):
        cls(leaves([[1.0]], "float32"), **{name: "much"})
    with pytest.raises(TypeError, match="'betas': expected a number, got None"):
        Adam(leaves([[1.0]], "float32"), betas=(0.9, None))


def test_errors_of_list_effects():
    x, y = leaves([[1.0, 2.0], [3.0]], "float32")
    lr, one = pynn.tensor(0.1, np.float64), pynn.tensor(1.0)
    with pytest.raises(RuntimeError, match=r"sgd_step: a leaf that requires grad .*no_grad"):
        OPS.sgd_step(lr, one, [(x.detach(), x, None, None)])
    with pynn.no_grad():
        cases = [
            ((lr, one, [(y, x, None, None)]), {}, ValueError, r"sgd_step: argument 'g_list': expected shape \(2,\)"),
            ((lr, one, [(x.detach().double(), x, None, None)]), {}, ValueError, "dtype float32, got .* float64"),
            ((x, one, [(x, x, None, None)]), {}, ValueError, "argument 'lr': expected a 0-d floating tensor"),
            ((lr, one, [(None, x, None, None)]), {}, TypeError, "'g_list': expected a Tensor, got None"),
            ((lr, one, [(x, x)]), {}, TypeError, "expected rows of 4 tensors, got 2"),
            ((lr, x, [(x, x, None, None)]), {}, ValueError, "argument 'scale': expected a 0-d floating tensor"),
            (([(x, x, None, None)],), {}, TypeError, "expected 2 single tensors, got 0"),
            (
                (lr, one, [(x, x, None, None)]),
                {"speed": 1},
                TypeError,
                "expected single tensors, rows and momentum.*speed",
            ),
            ((lr, one, [(x, pynn.tensor([1, 2]), None, None)]), {}, TypeError, "'p_list': expected a floating dtype"),
        ]
        for args, params, error, text in cases:
            with pytest.raises(error, match=text):
                OPS.sgd_step(*args, **params)
        frozen = np.ones(2, np.float32)
        frozen.flags.writeable = False
        with pytest.raises(ValueError, match="sgd_step: the tensor's memory is read-only"):
            OPS.sgd_step(lr, one, [(x, pynn.from_numpy(frozen), None, None)])
    assert x.tolist() == [1.0, 2.0]


def test_a_bare_optimizer_says_what_it_lacks():
    with pytest.raises(NotImplementedError):
        Optimizer(leaves([[1.0]], "float32"), {})
