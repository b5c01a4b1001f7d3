"""The seeds' worked examples, digit for digit; where the printed digits are wrong, docs/seed-errata.md says why."""

import numpy as np
import pytest

from pynn import OPS, Tensor, grad, hvp, jvp, no_grad, vjp


def leaf(value):
    return Tensor(np.array(value, dtype=np.float64), requires_grad=True)


def printed(x, digits):
    """x as the seeds print it."""
    return np.round(np.asarray(x.detach().numpy() if isinstance(x, Tensor) else x), digits).tolist()


def relu(z):
    return OPS.maximum(z, 0.0)


def test_single_neuron():
    """F-EX-1, S1 §2.7 Table 2.1: ŷ = σ(3·2 + 1)."""
    x, w, b = 2.0, leaf(3.0), leaf(1.0)
    z = w * x + b
    y = OPS.sigmoid(z)
    loss = 0.5 * (1.0 - y) ** 2
    assert z.item() == 7
    assert printed(y, 6) == 0.999089
    assert printed(loss * 1e7, 2) == 4.15


def test_two_layers_of_tables_2_2_and_2_3():
    """F-EX-1, S1 §2.7 Tables 2.2–2.3, with the signs and digits of the errata."""
    x, w1, b1, w2, b2 = 2.0, leaf(3.0), leaf(1.0), leaf(4.0), leaf(-2.0)
    z1 = w1 * x + b1
    a1 = OPS.sigmoid(z1)
    z2 = w2 * a1 + b2
    y = OPS.sigmoid(z2)
    loss = 0.5 * (y - 1.0) ** 2
    dy, dz2, da1, dz1, dw2, db2, dw1, db1 = grad(loss, [y, z2, a1, z1, w2, b2, w1, b1])
    assert printed(dy, 6) == -0.119586
    assert printed(dz2, 7) == -0.0125906
    assert printed(dw2, 7) == -0.0125792
    assert printed(db2, 7) == -0.0125906
    assert printed(da1, 7) == -0.0503626
    assert printed(dz1 * 1e5, 3) == -4.584
    assert printed(dw1 * 1e5, 3) == -9.168
    assert printed(db1 * 1e5, 3) == -4.584


PARAMETERS = {"w1": 1.5, "b1": -1.0, "w2": 0.5, "b2": 0.1, "w3": 2.0, "b3": -0.3}


def three_layers(p, x=2.0, y=1.0):
    """Every quantity of S1 §2.8 and §3.9: ReLU, tanh, sigmoid, ½(ŷ − y)²."""
    q = dict(p)
    q["z1"] = p["w1"] * x + p["b1"]
    q["a1"] = relu(q["z1"])
    q["z2"] = p["w2"] * q["a1"] + p["b2"]
    q["a2"] = OPS.tanh(q["z2"])
    q["z3"] = p["w3"] * q["a2"] + p["b3"]
    q["ŷ"] = OPS.sigmoid(q["z3"])
    q["loss"] = 0.5 * (q["ŷ"] - y) ** 2
    return q


def test_three_layers_scalar():
    """F-EX-2 (S1 §2.8, Tables 2.4–2.7) and F-EX-4 (S1 §3.9, the update at η = 0.1)."""
    p = {k: leaf(v) for k, v in PARAMETERS.items()}
    q = three_layers(p)
    forward = {"z1": 2.0, "a1": 2.0, "z2": 1.1, "a2": 0.800499, "z3": 1.300998, "ŷ": 0.786003, "loss": 0.022897}
    assert {k: printed(q[k], 6) for k in forward} == forward
    backward = {
        "ŷ": -0.213997, "z3": -0.035995, "w3": -0.028814, "b3": -0.035995, "a2": -0.071990, "z2": -0.025859,
        "w2": -0.051718, "b2": -0.025859, "a1": -0.012929, "z1": -0.012929, "w1": -0.025859, "b1": -0.012929,
    }  # fmt: skip
    found = dict(zip(backward, grad(q["loss"], [q[k] for k in backward], retain_graph=True)))
    assert {k: printed(g, 6) for k, g in found.items()} == backward
    (slope,) = grad(q["ŷ"], [q["z3"]], retain_graph=True)
    assert printed(slope, 6) == 0.168202
    (slope,) = grad(q["a2"], [q["z2"]], retain_graph=True)
    assert printed(slope, 6) == 0.359201
    # Table 3.2: the Jacobians of the layers
    assert printed(grad(q["ŷ"], [q["a2"]], retain_graph=True)[0], 6) == 0.336405
    assert printed(grad(q["a2"], [q["a1"]], retain_graph=True)[0], 6) == 0.179601
    # §3.9.7: one step of gradient descent at η = 0.1
    q["loss"].backward()
    with no_grad():
        for t in p.values():
            t.copy_(t - 0.1 * t.grad)
    updated = {"w1": 1.502586, "b1": -0.998707, "w2": 0.505172, "b2": 0.102586, "w3": 2.002881, "b3": -0.296401}
    assert {k: printed(t, 6) for k, t in p.items()} == updated


W1 = [[1.0, 2.0], [-0.5, 1.5]]
W2 = [[0.7, -1.2], [1.1, 0.3]]
W3 = [[1.4, -0.8]]


def layer1(x):
    return relu(Tensor(np.array(W1)) @ x + Tensor(np.array([0.1, -0.2])))


def layer2(a):
    return OPS.tanh(Tensor(np.array(W2)) @ a + Tensor(np.array([0.05, -0.1])))


def layer3(a):
    return OPS.sigmoid(Tensor(np.array(W3)) @ a + 0.2)


def jacobian(f, x, n):
    return np.stack([vjp(f, x, Tensor(e))[1].numpy() for e in np.eye(n)])


def test_three_layers_with_jacobians():
    """F-EX-3 and F-AD-5, S1 §3.5–3.6: forward, the Jacobians J1, J2, J3 and their product."""
    x = Tensor(np.array([2.0, 1.0]))
    a1 = layer1(x)
    a2 = layer2(a1)
    y = layer3(a2)
    assert printed(a1, 6) == [4.1, 0.3]
    assert printed(a2, 8) == [0.98811896, 0.99975321]
    assert printed(y, 8) == [0.68644772]
    error = y.numpy() - 1.0
    assert printed(error, 8) == [-0.31355228]
    j1, j2, j3 = jacobian(layer1, x, 2), jacobian(layer2, a1, 2), jacobian(layer3, a2, 1)
    assert printed(j1, 6) == W1
    assert printed(j2, 6) == [[0.016535, -0.028345], [0.000543, 0.000148]]
    assert printed(j3, 6) == [[0.301332, -0.172190]]
    whole = jacobian(lambda x: layer3(layer2(layer1(x))), x, 1)
    np.testing.assert_allclose(whole, j3 @ j2 @ j1, rtol=1e-13)
    leaf_x = leaf([2.0, 1.0])
    b1 = layer1(leaf_x)
    b2 = layer2(b1)
    loss = (0.5 * (layer3(b2) - 1.0) ** 2).sum()
    d2, d1, dx = grad(loss, [b2, b1, leaf_x])
    assert printed(d2, 8) == [-0.09448338, 0.05399050]
    assert printed(d1, 8) == [-0.00153294, 0.00268614]
    assert printed(dx, 8) == [-0.00287601, 0.00096332]
    np.testing.assert_allclose(dx.numpy(), (error @ whole).ravel(), rtol=1e-12)
    direction = Tensor(np.array([1.0, -1.0]))
    np.testing.assert_allclose(jvp(layer1, x, direction)[1].numpy(), j1 @ [1.0, -1.0], rtol=1e-13)


# ---- S1 §3.11–3.15: the first backward signal ---------------------------------------------------------------


def v7(x1, x2):
    return x1 * OPS.exp(x2) + OPS.cos(x1 * x2)


SEEDS = {
    "v7": (lambda v, t: v, lambda v, t: 1.0),
    "½(v7−t)²": (lambda v, t: 0.5 * (v - t) ** 2, lambda v, t: v - t),
    "|v7−t|": (lambda v, t: abs(v - t), lambda v, t: np.sign(v - t)),
    "log(1+(v7−t)²)": (lambda v, t: OPS.log(1.0 + (v - t) ** 2), lambda v, t: 2 * (v - t) / (1 + (v - t) ** 2)),
}


@pytest.mark.parametrize("target", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("goal", SEEDS)
def test_first_signal_comes_from_the_loss(goal, target):
    """F-AD-4, S1 Table 3.3: dL/dv7 of each loss, and the same gradients when it is given as the seed."""
    loss, signal = SEEDS[goal]
    x1, x2 = leaf(0.6), leaf(0.6)
    v = v7(x1, x2)
    dv, d1, d2 = grad(loss(v, target), [v, x1, x2], retain_graph=True)
    seed = signal(v.item(), target)
    assert dv.item() == pytest.approx(seed, rel=1e-14)
    s1, s2 = grad(v, [x1, x2], Tensor(np.array(seed)))
    assert (d1.item(), d2.item()) == pytest.approx((s1.item(), s2.item()), rel=1e-14)
    a, b = 0.6, 0.6
    exact = seed * np.array([np.exp(b) - b * np.sin(a * b), a * np.exp(b) - a * np.sin(a * b)])
    assert (d1.item(), d2.item()) == pytest.approx(exact, rel=1e-13)


def descend(start, rate, steps, loss):
    x1, x2 = leaf(start), leaf(start)
    for _ in range(steps):
        d1, d2 = grad(loss(v7(x1, x2)), [x1, x2])
        with no_grad():
            x1.copy_(x1 - rate * d1)
            x2.copy_(x2 - rate * d2)
    return x1.item(), x2.item(), v7(x1, x2).item()


def test_descent_on_v7():
    """F-EX-5, S1 §3.15.1: ten steps of 0.01 from (0.6, 0.6)."""
    x1, x2, _ = descend(0.6, 1e-2, 10, lambda v: v)
    assert (round(x1, 3), round(x2, 3)) == (0.441, 0.523)


def test_descent_to_zero():
    """F-EX-5, S1 §3.15.2: v7 → 0 from (0.5, 0.5)."""
    x1, x2, v = descend(0.5, 1e-3, 5000, lambda v: 0.5 * v**2)
    assert (round(x1, 3), round(x2, 3)) == (-0.555, 0.543)
    assert abs(v) < 1e-8


def test_descent_to_one():
    """F-EX-5, S1 §3.15.3: v7 → 1 from (1.5, 1.5), at the point of the errata; the printed one solves v7 = 1 too."""
    x1, x2, v = descend(1.5, 1e-3, 5000, lambda v: 0.5 * (v - 1.0) ** 2)
    assert (round(x1, 7), round(x2, 4)) == (2.28e-5, 0.3793)
    assert v == pytest.approx(1, abs=5e-5)
    assert v7(leaf(-42.54), leaf(-82.86)).item() == pytest.approx(0.99999, abs=1e-5)


# ---- S1 §2.11: Hessian–vector products ------------------------------------------------------------------------


def test_scalar_hessian_vector_product():
    """F-AD-7, S1 §2.11.1: H = [[2, 3], [3, 4]], u = (1, −1), Hu = (−1, −1)."""

    def f(w1, w2):
        return w1 * w1 + 3 * w1 * w2 + 2 * w2 * w2

    u = [Tensor(np.array(1.0)), Tensor(np.array(-1.0))]
    for w in ((0.3, -0.7), (5.0, 2.0)):
        _, (h1, h2) = hvp(f, [Tensor(np.array(v)) for v in w], u)
        assert (h1.item(), h2.item()) == pytest.approx((-1, -1), abs=1e-14)


def test_three_layer_hessian_vector_product():
    """F-AD-7, S1 §2.11.2: for ŷ = w3(w2(w1·x + b1) + b2) + b3 and any u, Hu = g(gᵀu) + (ŷ − y)·∇²ŷ·u."""
    rng = np.random.default_rng(3)
    x, y = 1.7, 0.4
    for _ in range(5):
        w1, b1, w2, b2, w3, b3 = theta = rng.standard_normal(6)
        u = rng.standard_normal(6)

        def loss(w1, b1, w2, b2, w3, b3):
            return 0.5 * (w3 * (w2 * (w1 * x + b1) + b2) + b3 - y) ** 2

        a1 = w1 * x + b1
        a2 = w2 * a1 + b2
        error = w3 * a2 + b3 - y
        g = np.array([w3 * w2 * x, w3 * w2, w3 * a1, w3, a2, 1.0])
        h = np.zeros((6, 6))
        for i, j, v in ((0, 2, w3 * x), (0, 4, w2 * x), (1, 2, w3), (1, 4, w2), (2, 4, a1), (3, 4, 1.0)):
            h[i, j] = h[j, i] = v
        value, found = hvp(loss, [Tensor(np.array(t)) for t in theta], [Tensor(np.array(t)) for t in u])
        assert value.item() == pytest.approx(0.5 * error**2, rel=1e-12)
        np.testing.assert_allclose([t.item() for t in found], g * (g @ u) + error * (h @ u), rtol=1e-11, atol=1e-12)
