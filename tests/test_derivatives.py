"""Derivatives of higher order against closed forms; products with Jacobians and Hessians against differences."""

import numpy as np
import pytest

from pynn import OPS, Tensor, grad, hvp, jvp, vjp


def leaf(value):
    return Tensor(np.array(value, dtype=np.float64), requires_grad=True)


def closed_forms():
    """name, function, derivatives of order 0 to 3 at x."""
    e, s, c, t = np.exp, np.sin, np.cos, np.tanh
    return [
        ("x**5", lambda x: x * x * x * x * x, [
            lambda x: x**5, lambda x: 5 * x**4, lambda x: 20 * x**3, lambda x: 60 * x**2]),
        ("exp(sin)", lambda x: OPS.exp(OPS.sin(x)), [
            lambda x: e(s(x)), lambda x: e(s(x)) * c(x), lambda x: e(s(x)) * (c(x) ** 2 - s(x)),
            lambda x: e(s(x)) * c(x) * (c(x) ** 2 - 3 * s(x) - 1)]),
        ("tanh", OPS.tanh, [
            t, lambda x: 1 - t(x) ** 2, lambda x: -2 * t(x) * (1 - t(x) ** 2),
            lambda x: (1 - t(x) ** 2) * (6 * t(x) ** 2 - 2)]),
        ("1/x", lambda x: 1 / x, [lambda x: 1 / x, lambda x: -(x**-2), lambda x: 2 * x**-3, lambda x: -6 * x**-4]),
        ("log", OPS.log, [np.log, lambda x: 1 / x, lambda x: -(x**-2), lambda x: 2 * x**-3]),
        ("x**2.5", lambda x: x**2.5, [
            lambda x: x**2.5, lambda x: 2.5 * x**1.5, lambda x: 3.75 * x**0.5, lambda x: 1.875 * x**-0.5]),
    ]  # fmt: skip


@pytest.mark.parametrize(("name", "fn", "exact"), closed_forms(), ids=[c[0] for c in closed_forms()])
def test_third_order(name, fn, exact):
    x = leaf(np.linspace(0.3, 1.7, 7))
    y = fn(x)
    for order, want in enumerate(exact):
        np.testing.assert_allclose(y.detach().numpy(), want(x.detach().numpy()), rtol=1e-12, err_msg=f"order {order}")
        if order < 3:
            (y,) = grad(y.sum(), [x], create_graph=True)


def test_gradient_of_a_gradient_norm():
    """d/dx ½|∇f|² = H ∇f for f = Σ x³: H = 6x, ∇f = 3x²."""
    x = leaf([1.0, -2.0, 0.5])
    (g,) = grad((x * x * x).sum(), [x], create_graph=True)
    (0.5 * (g * g).sum()).backward()
    np.testing.assert_allclose(x.grad.numpy(), 18 * x.detach().numpy() ** 3, rtol=1e-14)


def test_create_graph_backward_leaves_differentiable_gradients():
    x = leaf(2.0)
    (x * x * x).backward(create_graph=True)
    g = x.grad
    x.grad = None
    assert g.requires_grad
    g.backward()
    assert (g.item(), x.grad.item()) == (12, 12)


# ---- products with derivatives ----------------------------------------------------------------------------


def model(x, w):
    return OPS.tanh(x @ w).sum(dim=1)


def test_vjp_jvp_hvp_against_differences():
    """F-AD-5, F-AD-7."""
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((3, 4)), rng.standard_normal((4, 2))
    u, dx, dw = rng.standard_normal(3), rng.standard_normal((3, 4)), rng.standard_normal((4, 2))
    y, (gx, gw) = vjp(model, [Tensor(x), Tensor(w)], Tensor(u))
    _, t = jvp(model, [Tensor(x), Tensor(w)], [Tensor(dx), Tensor(dw)])
    h = 1e-5
    numeric = (model(Tensor(x + h * dx), Tensor(w + h * dw)) - model(Tensor(x - h * dx), Tensor(w - h * dw))) / (2 * h)
    np.testing.assert_allclose(t.numpy(), numeric.numpy(), rtol=1e-8)
    np.testing.assert_allclose((gx.numpy() * dx).sum() + (gw.numpy() * dw).sum(), (u * t.numpy()).sum(), rtol=1e-12)
    np.testing.assert_allclose(y.detach().numpy(), np.tanh(x @ w).sum(1), rtol=1e-12)

    def loss(w):
        return (model(Tensor(x), w) * Tensor(u)).sum()

    _, hv = hvp(loss, Tensor(w), Tensor(dw))
    up, down = (grad(loss(p), [p])[0].numpy() for p in (leaf(w + h * dw), leaf(w - h * dw)))
    np.testing.assert_allclose(hv.numpy(), (up - down) / (2 * h), rtol=1e-7)


def test_jacobian_row_by_row():
    """F-AD-5, F-AD-6: rows from vjp, columns from jvp, and the matrix by hand."""
    w = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    x = Tensor(np.array([0.1, -0.2, 0.3]))

    def f(x):
        return OPS.tanh(Tensor(w) @ x)

    exact = (1 - np.tanh(w @ x.numpy()) ** 2)[:, None] * w
    rows = np.stack([vjp(f, x, Tensor(e))[1].numpy() for e in np.eye(2)])
    columns = np.stack([jvp(f, x, Tensor(e))[1].numpy() for e in np.eye(3)], axis=1)
    np.testing.assert_allclose(rows, exact, rtol=1e-13)
    np.testing.assert_allclose(columns, exact, rtol=1e-13)


def test_products_where_nothing_flows():
    x = Tensor(np.array([1.0, 2.0]))
    assert vjp(lambda x: x * 0 + 1, x, Tensor(np.ones(2)))[1].numpy().tolist() == [0, 0]
    assert jvp(lambda x: Tensor(np.ones(3)), x, Tensor(np.ones(2)))[1].numpy().tolist() == [0, 0, 0]
    assert hvp(lambda x: (x * 3).sum(), x, Tensor(np.ones(2)))[1].numpy().tolist() == [0, 0]
    with pytest.raises(ValueError, match=r"^jvp: argument 'v': expected a direction"):
        jvp(lambda x: x, x)


def test_products_check_their_directions():
    x = Tensor(np.array([1.0, 2.0]))
    with pytest.raises(ValueError, match=r"^jvp: argument 'v': expected shape \(2,\) as input 0 has, got \(3,\)$"):
        jvp(lambda x: x * x, x, Tensor(np.ones(3)))
    with pytest.raises(ValueError, match=r"^jvp: argument 'v': expected 1 directions, one for each input, got 2$"):
        jvp(lambda x: x * x, x, [Tensor(np.ones(2)), Tensor(np.ones(2))])
    with pytest.raises(ValueError, match=r"^hvp: argument 'v': expected 1 directions, one for each input, got 2$"):
        hvp(lambda x: (x * x).sum(), x, [Tensor(np.ones(2)), Tensor(np.ones(2))])
