"""Newton–CG and averaged weights."""

import copy

import numpy as np
import pytest
from scipy.optimize import minimize, rosen

import pynn
from pynn import Tensor, nn
from pynn.nn import functional as F
from pynn.optim import Adam, AveragedModel, NewtonCG, update_bn
from pynn.optim.newton_cg import steihaug


def spd(values, seed=0):
    rng = np.random.default_rng(seed)
    q, _ = np.linalg.qr(rng.standard_normal((len(values), len(values))))
    return (q * values) @ q.T, rng.standard_normal(len(values))


# ---- Steihaug's conjugate gradients ---------------------------------------------------------------------------


def test_conjugate_gradients_solve():
    """F-OPT-9: without a radius p = −B⁻¹g, in as many steps as there are distinct eigenvalues."""
    b, g = spd([1.0, 1.0, 5.0, 5.0, 30.0])
    calls = []
    p, why = steihaug(lambda v: calls.append(0) or b @ v, g, tol=1e-12)
    np.testing.assert_allclose(p, -np.linalg.solve(b, g), rtol=1e-9)
    assert why == "converged"
    assert len(calls) <= 4


@pytest.mark.parametrize("values", [[1.0, 4.0, 9.0], [-2.0, 1.0, 5.0]], ids=["convex", "indefinite"])
def test_trust_region(values):
    """On the boundary, better than the Cauchy point, and no better than the exact solution of the subproblem."""
    b, g = spd(values)
    g = 10 * g
    for radius in (0.01, 0.1, 0.5, 0.9 * np.linalg.norm(np.linalg.solve(b, g))):  # the last: not in the first step
        p, why = steihaug(lambda v: b @ v, g, radius, 1e-12)
        assert why in ("boundary", "negative curvature")
        np.testing.assert_allclose(np.linalg.norm(p), radius, rtol=1e-9)
        model = lambda d: g @ d + 0.5 * d @ b @ d  # noqa: E731
        cauchy = -radius * g / np.linalg.norm(g)
        bend = g @ b @ g
        cauchy *= 1 if bend <= 0 else min(1, np.linalg.norm(g) ** 3 / (radius * bend))
        e, q = np.linalg.eigh(b)
        low, high = max(0, -e[0]) + 1e-12, 1e9
        for _ in range(200):  # (B + mI)p = -g with ‖p‖ = radius, by bisection
            m = (low + high) / 2
            best = -q @ ((q.T @ g) / (e + m))
            low, high = (m, high) if np.linalg.norm(best) > radius else (low, m)
        assert model(best) - 1e-9 <= model(p) <= model(cauchy) + 1e-12


def test_negative_curvature_is_followed():
    """At a saddle, along the gradient, CG sees it at once; without a radius the step is −g."""
    b, g = np.diag([-1.0, 2.0]), np.array([0.3, 0.0])
    p, why = steihaug(lambda v: b @ v, g, 2.0)
    assert why == "negative curvature"
    np.testing.assert_allclose(p, [-2.0, 0.0])
    p, why = steihaug(lambda v: b @ v, g)
    np.testing.assert_allclose(p, -g)


# ---- Newton–CG --------------------------------------------------------------------------------------------------


def least_squares(condition=1e6, n=20):
    """½‖A(w − w*)‖² with singular values spread over √condition: (closure of (loss, outputs), w)."""
    rng = np.random.default_rng(0)
    u, _ = np.linalg.qr(rng.standard_normal((40, n)))
    v, _ = np.linalg.qr(rng.standard_normal((n, n)))
    a = Tensor((u * np.logspace(0, -0.5 * np.log10(condition), n)) @ v.T)
    b = a @ Tensor(rng.standard_normal(n))
    w = Tensor(np.zeros(n), requires_grad=True)

    def closure():
        z = a @ w - b
        return 0.5 * (z * z).sum(), z

    return closure, w


@pytest.mark.parametrize("curvature", ["gauss-newton", "hessian"])
def test_ill_conditioned_least_squares_needs_a_tenth_of_adams_gradients(curvature):
    """F-OPT-9, by gradient evaluations, a product counted as two: the loss 1e-6 of the start's."""
    closure, w = least_squares()
    whole = closure if curvature == "gauss-newton" else lambda: closure()[0]
    opt = NewtonCG([w], curvature=curvature, damping=1e-6, radius=10.0, max_cg=100, tol=1e-4)
    goal = 1e-6 * closure()[0].item()
    for _ in range(10):
        if closure()[0].item() <= goal:
            break
        opt.step(whole)
    assert closure()[0].item() <= goal
    used = opt.evaluations["gradient"] + 2 * opt.evaluations["product"]
    best = np.inf
    for lr in (0.3, 0.1, 0.03, 0.01):
        closure, w = least_squares()
        adam = Adam([w], lr=lr)
        for k in range(1, 10 * used):
            adam.zero_grad()
            loss = closure()[0]
            if loss.item() <= goal:
                best = min(best, k)
                break
            loss.backward()
            adam.step()
    assert best >= 10 * used, f"Adam needed {best} gradients, Newton-CG {used}"


def test_quadratic_in_one_step():
    """An exact Newton step of a quadratic ends at its minimum; the damping shrinks, for the model kept its word."""
    closure, w = least_squares(condition=10.0)
    opt = NewtonCG([w], damping=0.0, max_cg=200, tol=1e-13)
    before = opt.step(closure)
    assert before > 1e-3
    assert closure()[0].item() < 1e-18
    opt = NewtonCG([w], damping=1.0)
    closure()  # at the minimum nothing more is promised, and nothing moves
    w2 = w.numpy_copy()
    opt.step(closure)
    np.testing.assert_allclose(w.numpy_copy(), w2, atol=1e-8)


def test_damped_step_in_closed_form():
    """F-OPT-9: p = −(JᵀJ + λI)⁻¹Jᵀr of half squares."""
    rng = np.random.default_rng(2)
    j, r, start = rng.standard_normal((8, 4)), rng.standard_normal(8), rng.standard_normal(4)
    w = Tensor(start, requires_grad=True)

    def closure():
        z = Tensor(j) @ w
        return 0.5 * ((z - Tensor(r)) ** 2).sum(), z

    NewtonCG([w], damping=3.0, max_cg=50, tol=1e-13).step(closure)
    want = start - np.linalg.solve(j.T @ j + 3.0 * np.eye(4), j.T @ (j @ start - r))
    np.testing.assert_allclose(w.numpy_copy(), want, rtol=1e-10)


@pytest.mark.parametrize("curvature", ["gauss-newton", "hessian"])
def test_a_step_sees_one_mask_and_counts_one_batch(curvature):
    """Trials of a step are of the loss that was differentiated: under the same dropout, statistics taken once."""
    pynn.manual_seed(3)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 2)).double()
    rng = np.random.default_rng(0)
    x, y = Tensor(rng.standard_normal((20, 4))), Tensor(rng.standard_normal((20, 2)))
    opt, seen = NewtonCG(model.parameters(), curvature, damping=1.0), []

    def closure():
        z = model(x)
        loss = ((z - y) ** 2).mean()
        seen.append(loss.item())
        return (loss, z) if curvature == "gauss-newton" else loss

    state = pynn.random.default_generator.get_state().tolist()
    for k in range(1, 4):
        before = len(seen)
        start = [p.numpy_copy() for p in model.parameters()]
        opt.step(closure)
        assert len(seen) > before + 1, "there were trials"
        assert model[1].num_batches_tracked.item() == k
        assert pynn.random.default_generator.get_state().tolist() == [state[0], state[1] + k]
        if opt.taken:
            assert seen[-1] < seen[before]
    with pynn.no_grad():  # where it started, the mask of the last step gives the loss that step began with
        for p, a in zip(model.parameters(), start):
            p.copy_(Tensor(a))
    pynn.random.default_generator.set_state([state[0], state[1] + 2])
    closure()
    assert seen[-1] == seen[before]


def test_levenberg_marquardt_rule():
    """Damping halves where the model keeps its word and doubles where it does not; a step that fails is not taken."""
    closure, w = least_squares(condition=10.0)
    opt = NewtonCG([w], damping=1.0)
    opt.step(closure)
    assert opt.damping == 0.5
    assert opt.taken
    w = Tensor(np.array([0.5]), requires_grad=True)

    def cusp():  # far steeper than its curvature says
        z = w * 1.0
        return 1e-3 * z.sum() + 100.0 * ((z - 0.5) ** 4).sum(), z

    opt = NewtonCG([w], damping=1e-6, max_cg=5)
    opt.step(cusp)
    assert opt.damping == 2e-6


def test_saddle_is_left():
    """F-OPT-9: Rosenbrock, and x⁴/4 − x²/2 + y² from beside its saddle, by the exact Hessian."""
    p = Tensor(np.array([1e-3, 0.5]), requires_grad=True)
    x, y = Tensor(np.array([1.0, 0.0])), Tensor(np.array([0.0, 1.0]))
    whys = []

    def closure():
        a, b = (p * x).sum(), (p * y).sum()
        return a**4 / 4.0 - a * a / 2.0 + b * b

    opt = NewtonCG([p], curvature="hessian", radius=0.5)
    for _ in range(20):
        opt.step(closure)
        whys.append(opt.why)
    assert "negative curvature" in whys
    np.testing.assert_allclose(p.numpy_copy(), [1.0, 0.0], atol=1e-6)


def test_rosenbrock_as_scipy():
    start = np.array([-1.2, 1.0, 0.7, -0.5])
    p = Tensor(start, requires_grad=True)
    opt = NewtonCG([p], curvature="hessian", tol=1e-8)

    def closure():
        a, b = p[:-1], p[1:]
        return (100.0 * (b - a * a) ** 2 + (1.0 - a) ** 2).sum()

    for _ in range(60):
        opt.step(closure)
    want = minimize(rosen, start, method="trust-ncg", jac=lambda x: _rosen(x)[0], hess=lambda x: _rosen(x)[1]).x
    np.testing.assert_allclose(p.numpy_copy(), want, atol=1e-5)


def _rosen(x):
    from scipy.optimize import rosen_der, rosen_hess

    return rosen_der(x), rosen_hess(x)


def test_bad_values():
    w = Tensor(np.ones(2), requires_grad=True)
    for options, text in (
        ({"curvature": "none"}, "curvature"),
        ({"damping": -1}, "damping"),
        ({"max_cg": 0}, "max_cg"),
    ):
        with pytest.raises(ValueError, match=text):
            NewtonCG([w], **options)
    with pytest.raises(TypeError, match="needs a closure"):
        NewtonCG([w]).step()


# ---- averages --------------------------------------------------------------------------------------------------------


def test_averaged_model():
    """SWA: the mean of the weights seen; with decay, the exponential one; statistics by update_bn."""
    pynn.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    swa, ema = AveragedModel(model), AveragedModel(model, decay=0.9)
    seen, running = [], None
    for k in range(4):
        with pynn.no_grad():
            for p in model.parameters():
                p.copy_(p + float(k + 1))
        swa.update_parameters(model)
        ema.update_parameters(model)
        w = model[0].weight.numpy_copy()
        seen.append(w)
        running = w if running is None else 0.9 * running + 0.1 * w
    np.testing.assert_allclose(swa.module[0].weight.numpy_copy(), np.mean(seen, axis=0), rtol=1e-6)
    np.testing.assert_allclose(ema.module[0].weight.numpy_copy(), running, rtol=1e-6)
    assert swa.n_averaged.item() == 4
    x = np.random.default_rng(0).standard_normal((3, 8, 3)).astype("f4")
    update_bn(x, swa)
    h = [copy.deepcopy(swa.module[0])(Tensor(b)).detach().numpy_copy() for b in x]
    norm = swa.module[1]
    np.testing.assert_allclose(norm.running_mean.numpy_copy(), np.mean([a.mean(0) for a in h], axis=0), rtol=1e-5)
    np.testing.assert_allclose(norm.running_var.numpy_copy(), np.mean([a.var(0, ddof=1) for a in h], axis=0), rtol=1e-5)
    assert norm.momentum == 0.1
    assert norm.training
    assert F.mse_loss(swa(Tensor(x[0])), swa.module(Tensor(x[0]))).item() == 0
    with pytest.raises(ValueError, match="'decay'"):
        AveragedModel(model, decay=1.5)
