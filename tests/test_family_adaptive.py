"""Adagrad, RMSprop, NAdam, RAdam, Lion and LAMB against plain NumPy, and against what PyTorch computed once."""

from pathlib import Path

import numpy as np
import pytest
from fixtures.make_adaptive_torch import CASES, KEPT
from fixtures.make_optim_torch import draws
from optim_helpers import data, leaves, set_grads, values, views
from test_family_optim import threads, with_workers

import pynn
from pynn import nn
from pynn.optim import LAMB, Adagrad, Adam, AdamW, Lion, NAdam, RAdam, RMSprop

DTYPES = ("float32", "float64")


# ---- the update rules: (p, g, state, t, lr, **options) → p ------------------------------------------


def adagrad(p, g, s, t, lr, lr_decay=0, weight_decay=0, initial_accumulator_value=0, eps=1e-10, eps_inside=False):
    g = g + weight_decay * p
    s["s"] = s.get("s", initial_accumulator_value) + g * g
    return p - lr / (1 + (t - 1) * lr_decay) * g / _root(s["s"], eps, eps_inside)


def _root(x, eps, inside):
    return np.sqrt(x + eps) if inside else np.sqrt(x) + eps


def rmsprop(p, g, s, t, lr, alpha=0.99, eps=1e-8, weight_decay=0, momentum=0, centered=False, eps_inside=False):
    g = g + weight_decay * p
    s["v"] = alpha * s.get("v", 0) + (1 - alpha) * g * g
    s["a"] = alpha * s.get("a", 0) + (1 - alpha) * g
    d = g / _root(s["v"] - s["a"] ** 2 if centered else s["v"], eps, eps_inside)
    s["b"] = momentum * s.get("b", 0) + d
    return p - lr * s["b"]


def _means(g, s, betas):
    s["m"] = betas[0] * s.get("m", 0) + (1 - betas[0]) * g
    s["v"] = betas[1] * s.get("v", 0) + (1 - betas[1]) * g * g


def nadam(p, g, s, t, lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0, momentum_decay=4e-3,
          decoupled_weight_decay=False, eps_inside=False):  # fmt: skip
    if decoupled_weight_decay:
        p = p * (1 - lr * weight_decay)
    else:
        g = g + weight_decay * p
    _means(g, s, betas)
    mu, after = (betas[0] * (1 - 0.5 * 0.96 ** (k * momentum_decay)) for k in (t, t + 1))
    s["mu"] = s.get("mu", 1) * mu
    down = _root(s["v"] / (1 - betas[1] ** t), eps, eps_inside)
    return p - lr * ((1 - mu) / (1 - s["mu"]) * g + after / (1 - s["mu"] * after) * s["m"]) / down


def radam(p, g, s, t, lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0, decoupled_weight_decay=False):
    if decoupled_weight_decay:
        p = p * (1 - lr * weight_decay)
    else:
        g = g + weight_decay * p
    _means(g, s, betas)
    m, rest = s["m"] / (1 - betas[0] ** t), 1 - betas[1] ** t
    most = 2 / (1 - betas[1]) - 1
    rho = most - 2 * t * (1 - rest) / rest
    if rho <= 5:
        return p - lr * m
    r = np.sqrt((rho - 4) * (rho - 2) * most / ((most - 4) * (most - 2) * rho))
    return p - lr * r * m * np.sqrt(rest) / (np.sqrt(s["v"]) + eps)


def lion(p, g, s, t, lr, betas=(0.9, 0.99), weight_decay=0):
    m = s.get("m", 0)
    s["m"] = betas[1] * m + (1 - betas[1]) * g
    return p * (1 - lr * weight_decay) - lr * np.sign(betas[0] * m + (1 - betas[0]) * g)


def lamb(p, g, s, t, lr, betas=(0.9, 0.999), eps=1e-6, weight_decay=0, eps_inside=False):
    _means(g, s, betas)
    r = s["m"] / (1 - betas[0] ** t) / _root(s["v"] / (1 - betas[1] ** t), eps, eps_inside) + weight_decay * p
    a, b = np.linalg.norm(p), np.linalg.norm(r)
    return p - lr * (a / b if a > 0 and b > 0 else 1) * r


RULES = {
    "adagrad": (Adagrad, adagrad, [{}, {"lr_decay": 0.3, "weight_decay": 0.1, "initial_accumulator_value": 0.2},
                                   {"eps": 0.1}, {"eps": 0.1, "eps_inside": True}, {"maximize": True}]),
    "rmsprop": (RMSprop, rmsprop, [{}, {"centered": True, "alpha": 0.7, "eps": 1e-2}, {"momentum": 0.8},
                                   {"maximize": True}, {"momentum": 0.8, "centered": True, "weight_decay": 0.1,
                                                        "eps": 1e-2},
                                   {"eps": 0.1, "eps_inside": True, "alpha": 0.5}]),
    "nadam_moments": (NAdam, nadam, [{}, {"betas": (0.6, 0.8), "momentum_decay": 0.3, "weight_decay": 0.1},
                                     {"weight_decay": 0.1, "decoupled_weight_decay": True, "maximize": True},
                                     {"eps": 0.1, "eps_inside": True}]),
    "radam_moments": (RAdam, radam, [{}, {"betas": (0.6, 0.9), "weight_decay": 0.1, "eps": 0.1},
                                     {"weight_decay": 0.1, "decoupled_weight_decay": True, "maximize": True}]),
    "lion": (Lion, lion, [{}, {"betas": (0.5, 0.8), "weight_decay": 0.2}, {"maximize": True}]),
    "lamb": (LAMB, lamb, [{}, {"betas": (0.6, 0.8), "weight_decay": 0.3, "eps": 0.1}, {"maximize": True},
                          {"eps": 0.1, "eps_inside": True}]),
}  # fmt: skip
CLASSES = {name: rule[0] for name, rule in RULES.items()}
BIG = ((5, 7), (), (33,), (0, 4), (2, 3, 4, 5), (70, 61))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", RULES)
def test_follows_its_equations(name, dtype):
    """F-OPT-4 (adagrad), F-OPT-5 (rmsprop), F-OPT-6 (ε inside the root too), F-OPT-8 (lamb), F-REG-5 (lion)."""
    cls, rule, cases = RULES[name]
    for options in cases:
        start, grads = data(20, BIG, dtype)
        params = leaves(start, dtype)
        opt = cls(params, lr=1.0, **options)
        told = {k: v for k, v in options.items() if k != "maximize"}
        ps, states = [np.array(p, np.float64) for p in start], [{} for _ in start]
        for t, gs in enumerate(grads, 1):
            lr = opt.param_groups[0]["lr"] = 0.03 * 0.9**t
            set_grads(params, gs)
            opt.step()
            for k, g in enumerate(gs):
                g = np.asarray(-g if options.get("maximize") else g, np.float64)
                ps[k] = rule(ps[k], g, states[k], t, lr, **told)
        want = np.concatenate([p.ravel() for p in ps])
        np.testing.assert_allclose(values(params), want, rtol=0, atol=1e-12 if dtype == "float64" else 2e-5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES)
def test_as_pytorch(case, dtype):
    """F-OPT-4, F-OPT-5, against what PyTorch computed: adagrad, rmsprop, and the rules of moments."""
    name, options = CASES[case]
    with np.load(Path(__file__).with_name("fixtures") / "adaptive_torch.npz") as file:
        want = file[f"{case}/{dtype}"]
    start, grads = draws()
    params = leaves(start, dtype)
    opt = getattr(pynn.optim, name)(params, **options)
    rows = []
    for step, gs in enumerate(grads, 1):
        set_grads(params, gs)
        opt.step()
        if step in KEPT:
            rows.append(values(params))
    exact = dtype == "float64" and name != "NAdam"  # which keeps its product in float32 there
    tolerance = 1e-13 if exact else 3e-6
    np.testing.assert_allclose(np.stack(rows), want, rtol=tolerance, atol=tolerance)


# ---- what all have in common -----------------------------------------------------------------------------


def run(cls, start, grads, dtype, **options):
    params = leaves(start, dtype)
    opt = cls(params, lr=0.01, **options)
    for gs in grads:
        set_grads(params, gs)
        opt.step()
    return params, opt


@pytest.mark.parametrize(("name", "case"), [(name, k) for name in RULES for k in range(len(RULES[name][2]))])
def test_same_bits_for_all_threads(name, case):
    start, grads = data(3, ((70, 61), (3,), (9000,)), "float32")

    def trained():
        return values(run(CLASSES[name], start, grads, "float32", **RULES[name][2][case])[0])

    with threads(1):
        want = trained()
    for n in (2, 4):
        np.testing.assert_array_equal(with_workers(n, trained), want)


@pytest.mark.parametrize("name", RULES)
def test_replay_is_the_eager_step(name):
    """A plan counts steps and reads the rate as the eager step does."""
    rng = np.random.default_rng(0)
    x, y = pynn.Tensor(rng.standard_normal((8, 5)).astype("f4")), pynn.Tensor(rng.standard_normal((8, 2)).astype("f4"))
    found = []
    for compiled in (False, True):
        pynn.manual_seed(1)
        model = nn.Linear(5, 2)
        opt = CLASSES[name](model.parameters(), lr=0.01)

        def step(x, y, model=model, opt=opt):
            opt.zero_grad()
            loss = nn.functional.mse_loss(model(x), y)
            loss.backward()
            opt.step()
            return loss

        call = pynn.compile(step) if compiled else step
        for k in range(6):
            opt.param_groups[0]["lr"] = 0.01 * (k + 1)
            call(x, y)
        assert not compiled or call.replays >= 4
        found.append(values(model.parameters()))
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("name", RULES)
def test_state_goes_through_a_dictionary(name):
    start, grads = data(6, ((5, 7), (3,)), "float64")
    want, _ = run(CLASSES[name], start, grads, "float64")
    params, opt = run(CLASSES[name], start, grads[:3], "float64")
    twins = leaves([p.numpy_copy() for p in params], "float64")
    other = CLASSES[name](twins, lr=0.5)
    other.load_state_dict(opt.state_dict())
    for gs in grads[3:]:
        set_grads(twins, gs)
        other.step()
    np.testing.assert_array_equal(values(twins), values(want))


@pytest.mark.parametrize("name", RULES)
def test_any_layout_and_clipping(name):
    rng = np.random.default_rng(2)
    a, g = rng.standard_normal((2, 3, 4, 5)), rng.standard_normal((2, 3, 4, 5))
    scale = 0.5 / (np.linalg.norm(g) + 1e-6)
    plain = leaves([a], "float64")
    opt = CLASSES[name](plain, lr=0.1)
    for _ in range(2):
        set_grads(plain, [g * scale])
        opt.step()
    for _, p in views(a):
        opt = CLASSES[name]([p], lr=0.1)
        for _ in range(2):
            p.grad = pynn.tensor(g)
            opt.step(max_norm=0.5)
        np.testing.assert_allclose(p.numpy_copy(), plain[0].numpy_copy(), rtol=1e-12)


@pytest.mark.parametrize("name", RULES)
def test_bad_values_are_named(name):
    cls, p = CLASSES[name], leaves([[1.0]], "float32")
    for bad, text in (({"lr": -1}, "learning rate"), ({"weight_decay": -1}, "weight_decay"),
                      ({"lr": float("nan")}, "learning rate")):  # fmt: skip
        with pytest.raises(ValueError, match=text):
            cls(p, **bad)
    if "moments" in name or name in ("lion", "lamb"):
        with pytest.raises(ValueError, match="beta parameter at index 1"):
            cls(p, betas=(0.9, 1.0))


def test_adam_with_eps_inside_the_root():
    """F-OPT-6, F-OPT-7 as S1 §1.3.5–1.3.6 has them: p −= lr·(m̂/√(v̂ + ε) + λp), by the kernel of moments."""
    for cls, options in ((Adam, {"eps": 0.1}), (AdamW, {"eps": 0.3, "weight_decay": 0.2, "betas": (0.6, 0.8)})):
        start, grads = data(8)
        params = leaves(start, "float64")
        opt = cls(params, lr=0.05, eps_inside=True, **options)
        beta1, beta2 = options.get("betas", (0.9, 0.999))
        ps, states = [np.array(p) for p in start], [{} for _ in start]
        for t, gs in enumerate(grads, 1):
            set_grads(params, gs)
            opt.step()
            for k, g in enumerate(gs):
                _means(g, states[k], (beta1, beta2))
                m, v = states[k]["m"] / (1 - beta1**t), states[k]["v"] / (1 - beta2**t)
                ps[k] = ps[k] - 0.05 * (m / np.sqrt(v + options["eps"]) + options.get("weight_decay", 0) * ps[k])
        np.testing.assert_allclose(values(params), np.concatenate([p.ravel() for p in ps]), rtol=0, atol=1e-13)
    with pytest.raises(ValueError, match="eps_inside or amsgrad"):
        Adam(leaves([[1.0]], "float64"), amsgrad=True, eps_inside=True)


def test_lamb_trust_ratio_by_hand():
    """F-OPT-8: at the first step r is the sign of g, so that p moves by lr·‖p‖/√n against it."""
    p = leaves([[3.0, 4.0, 0.0, 0.0]], "float64")
    opt = LAMB(p, lr=0.1, eps=0.0)
    set_grads(p, [np.array([1.0, -2.0, 5.0, -0.1])])
    opt.step()
    np.testing.assert_allclose(p[0].numpy_copy(), [3 - 0.25, 4 + 0.25, -0.25, 0.25], rtol=1e-14)


def test_lion_keeps_nan_and_stands_still_at_zero():
    p = leaves([[1.0, 1.0]], "float64")
    opt = Lion(p, lr=0.1)
    set_grads(p, [np.array([np.nan, 0.0])])
    opt.step()
    assert np.isnan(p[0].numpy_copy()[0])
    assert p[0].numpy_copy()[1] == 1.0
