"""pynn.inspect: derivatives and spectra against torch.func, float64 differences and closed forms."""

from pathlib import Path

import numpy as np
import pytest
from fixtures.make_inspect_torch import draws

import pynn
from pynn import OPS, Tensor, inspect, nn
from pynn.nn import functional as F

with np.load(Path(__file__).with_name("fixtures") / "inspect_torch.npz") as file:
    TORCH = dict(file)


def network(name):
    """(model, closure of (loss, outputs), v) of make_inspect_torch.py."""
    arrays, x, y, v = draws(name)
    if name == "mlp":
        model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))
    else:
        model = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
                              nn.Conv2d(3, 2, 3, padding=1), nn.Sigmoid(), nn.MaxPool2d(2),
                              nn.Flatten(), nn.Linear(8, 3))  # fmt: skip
    model.double()
    with pynn.no_grad():
        for p, a in zip(model.parameters(), arrays, strict=True):
            p.copy_(Tensor(a))
    x, y = Tensor(x), Tensor(y)

    def closure():
        z = model(x)
        return F.cross_entropy(z, y), z

    return model, closure, v


def close(got, want, tol=1e-8):
    """Equal to tol relative to the largest value."""
    got = got.numpy_copy() if isinstance(got, Tensor) else np.asarray(got)
    np.testing.assert_allclose(got, want, rtol=0, atol=tol * max(np.abs(want).max(), 1e-30))


def quadratic(values, seed=0):
    """(closure, parameter, matrix) of ½wᵀAw with the given eigenvalues, at a point that is not the minimum."""
    rng = np.random.default_rng(seed)
    q, _ = np.linalg.qr(rng.standard_normal((len(values), len(values))))
    a = (q * values) @ q.T
    w = Tensor(rng.standard_normal(len(values)), requires_grad=True)
    m = Tensor(a)
    return lambda: 0.5 * (w * (m @ w)).sum(), w, a


# ---- derivatives ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_products_as_torch_func(name):
    """F-AD-7: HVP and GGN product of an MLP and a CNN to 1e-8."""
    model, closure, v = network(name)
    h = inspect.Hessian(lambda: closure()[0], model.parameters())
    g = inspect.GaussNewton(closure, model.parameters())
    for op in (h, g):
        close(op.loss, TORCH[f"{name}/loss"])
        close(op.gradient, TORCH[f"{name}/gradient"])
    for _ in range(2):  # a product may be repeated
        close(h @ v, TORCH[f"{name}/hvp"])
        close(g @ v, TORCH[f"{name}/ggn_vp"])
    assert (h.products, h.size) == (2, v.size)


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_products_as_differences(name):
    """F-AD-7: Hv by differences of gradients, in float64."""
    model, closure, v = network(name)
    params = list(model.parameters())
    h = inspect.Hessian(lambda: closure()[0], params)
    want, v = h @ v, v / np.linalg.norm(v)
    got, eps = 0.0, 1e-3
    with inspect.stability.Point(params) as point:
        for weight, step in ((8, eps), (-8, -eps), (-1, 2 * eps), (1, -2 * eps)):
            point.go(step * v)
            got = got + weight * inspect.stability.gradient_at(lambda: closure()[0], params)
    close(got / (12 * eps) * np.linalg.norm(draws(name)[3]), want, 1e-8)


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_gauss_newton_and_jacobians_as_differences(name):
    """F-AD-5, F-AD-7: J of the outputs by differences in float64, by parameters and by inputs; Gv = Jᵀ(H_L(Jv)) with
    the closed form of cross-entropy's H_L = (diag(p) − ppᵀ)/N."""
    model, closure, v = network(name)
    x = draws(name)[1]

    def differences(f, n, eps=3e-5):  # small beside the distance to ReLU's kinks
        return np.stack([(8 * (f(eps * e) - f(-eps * e)) - f(2 * eps * e) + f(-2 * eps * e)) / (12 * eps)
                         for e in np.eye(n)], axis=-1)  # fmt: skip

    with pynn.no_grad():
        p = OPS.softmax(model(Tensor(x))).numpy_copy()
        with inspect.surface.Point(model.parameters()) as point:

            def moved(offset):
                point.go(offset)
                return model(Tensor(x)).numpy_copy()

            j = differences(moved, v.size)
        by_x = differences(lambda d: model(Tensor(x + d.reshape(x.shape))).numpy_copy(), x.size)
    jv = j @ v
    hjv = p * (jv - (p * jv).sum(1, keepdims=True)) / len(x)
    close(inspect.GaussNewton(closure, model.parameters()) @ v, np.einsum("nci,nc->i", j, hjv))
    close(inspect.jacobian(model, Tensor(x)), by_x.reshape(*p.shape, *x.shape))


def test_whole_matrices_as_torch_func():
    """F-AD-5, F-UND-2: the Hessian of all parameters and the Jacobian of the outputs."""
    model, closure, _ = network("mlp")
    close(inspect.Hessian(lambda: closure()[0], model.parameters()).dense(), TORCH["mlp/hessian"])
    close(inspect.jacobian(model, Tensor(draws("mlp")[1])), TORCH["mlp/jacobian"])


def test_jacobians_of_elementwise_and_affine_maps():
    """F-AD-6: diag(f′), W, diag(b) for a∘b, and xᵀ ⊗ I for Wx by W."""
    rng = np.random.default_rng(0)
    x, b, w = rng.standard_normal(4), rng.standard_normal(4), rng.standard_normal((3, 4))
    close(inspect.jacobian(lambda t: OPS.tanh(t), Tensor(x)), np.diag(1 - np.tanh(x) ** 2))
    close(inspect.jacobian(lambda t: Tensor(w) @ t + 1.0, Tensor(x)), w)
    ja, jb = inspect.jacobian(lambda s, t: s * t, (Tensor(x), Tensor(b)))
    close(ja, np.diag(b))
    close(jb, np.diag(x))
    close(inspect.jacobian(lambda m: m @ Tensor(x), Tensor(w)), np.einsum("ij,k->ijk", np.eye(3), x))
    wide = inspect.jacobian(lambda t: OPS.sin(t).expand(5, 4) * 2.0, Tensor(x))  # more outputs: by columns
    close(wide, np.broadcast_to(np.diag(2 * np.cos(x)), (5, 4, 4)))


def test_hessian_of_a_function():
    """S1 §2.11.1's form: f = x²y + sin y, and several inputs."""
    x, y = Tensor(np.array([1.5, -0.5])), Tensor(np.array([0.3, 2.0]))
    (xx, xy), (yx, yy) = inspect.hessian(lambda a, b: (a * a * b + OPS.sin(b)).sum(), (x, y))
    close(xx, np.diag([0.6, 4.0]))
    close(xy, np.diag([3.0, -1.0]))
    close(yx, np.diag([3.0, -1.0]))
    close(yy, np.diag(-np.sin([0.3, 2.0])))
    close(inspect.hessian(lambda a: (a * 2.0).sum(), x), np.zeros((2, 2)))


def test_ggn_of_a_function():
    """JᵀJ for half squares, whatever the curvature of the function; and the value of the loss."""
    x, v = Tensor(np.array([0.3, -1.2, 0.7])), np.array([1.0, 2.0, -1.0])
    m = np.random.default_rng(1).standard_normal((4, 3))

    def f(t):
        return OPS.tanh(Tensor(m) @ t)

    j = (1 - np.tanh(m @ x.numpy_copy()) ** 2)[:, None] * m
    loss, got = inspect.ggn_vp(f, lambda z: 0.5 * (z * z).sum(), x, v)
    close(got, j.T @ (j @ v))
    close(loss, 0.5 * np.sum(np.tanh(m @ x.numpy_copy()) ** 2))
    with pytest.raises(ValueError, match="ggn_vp: argument 'v'"):
        inspect.ggn_vp(f, lambda z: z.sum(), x, v[:2])


def test_a_changed_parameter_is_told():
    closure, w, _ = quadratic([1.0, 2.0])
    h = inspect.Hessian(lambda: closure() ** 2, [w])
    with pynn.no_grad():
        w.copy_(w * 2.0)
    with pytest.raises(RuntimeError, match="changed in place"):
        h @ np.ones(2)
    with pytest.raises(ValueError, match="expected a vector of 2 elements, got 3"):
        h @ np.ones(3)


def test_mean_over_batches():
    """F-UND-2: the Hessian and the Gauss–Newton matrix from batches of different sizes are torch.func's of all."""
    model, _, v = network("mlp")
    _, x, y, _ = draws("mlp")
    batches = pynn.data.DataLoader((x, y), len(x) - 1, shuffle=True)

    def outputs(x, y):
        z = model(x)
        return F.cross_entropy(z, y), z

    params = list(model.parameters())
    h = inspect.BatchMean(lambda x, y: outputs(x, y)[0], params, batches)
    g = inspect.BatchMean(outputs, params, [(x[:2], y[:2]), (x[2:], y[2:])], inspect.GaussNewton)
    for op in (h, g):
        close(op.loss, TORCH["mlp/loss"])
        close(op.gradient, TORCH["mlp/gradient"])
    close(h @ v, TORCH["mlp/hvp"])
    close(g @ v, TORCH["mlp/ggn_vp"])
    close(h.flat(h.product(h.parts(v))), TORCH["mlp/hvp"])
    close(inspect.eigenvalues(h, 3), np.sort(np.linalg.eigvalsh(TORCH["mlp/hessian"]))[:-4:-1])
    assert h.products > 2
    with pytest.raises(ValueError, match="BatchMean: argument 'batches': expected batches each time"):
        inspect.BatchMean(outputs, params, iter(()))
    once = inspect.BatchMean(outputs, params, (b for b in [(x, y)]), inspect.GaussNewton)
    with pytest.raises(ValueError, match="BatchMean: argument 'batches': expected batches each time"):
        once @ v


def test_closures_that_give_something_else():
    w = Tensor(np.ones(2), requires_grad=True)
    with pytest.raises(TypeError, match=r"Hessian: expected .* scalar Tensor, got shape \(2,\)"):
        inspect.Hessian(lambda: w * w, [w])
    with pytest.raises(TypeError, match=r"Hessian: expected .* scalar Tensor, got float"):
        inspect.Hessian(lambda: 1.0, [w])
    with pytest.raises(TypeError, match=r"GaussNewton: argument 'closure': .* returns \(loss, outputs\), got Tensor"):
        inspect.GaussNewton(lambda: (w * w).sum(), [w])
    with pytest.raises(ValueError, match="Hessian: argument 'params': expected tensors that require grad, got none"):
        inspect.Hessian(lambda: (w * w).sum(), [w.detach()])
    with pytest.raises(TypeError, match=r"hessian: expected .* scalar Tensor, got shape \(2,\)"):
        inspect.hessian(lambda t: t * t, w)
    with pytest.raises(TypeError, match="jacobian: argument 'inputs': expected floating Tensors, got one of int64"):
        inspect.jacobian(lambda t: t, Tensor(np.arange(2)))


def test_arguments_of_inspection():
    """Directions of another size, numbers of nothing, and values that are not finite are named."""
    closure, w, _ = quadratic([1.0, 2.0, 3.0])
    two, three, text = np.ones(2), np.ones(3), "expected a direction of 3 elements, as the .* got 2"
    for what, call in {
        "taylor": lambda: inspect.taylor(closure, [w], two, [1.0]),
        "slice_loss": lambda: inspect.slice_loss(closure, [w], two, [1.0]),
        "contour": lambda: inspect.contour(closure, [w], three, two, [1.0], [1.0]),
        "contour: argument 'origin'": lambda: inspect.contour(closure, [w], three, three, [1.0], [1.0], two),
    }.items():
        with pytest.raises(ValueError, match=f"{what}: {text}"):
            call()
    h = inspect.Hessian(closure, [w])
    for what, call in {
        "eigenvalues: argument 'k'": lambda: inspect.eigenvalues(h, 0),
        "trace: argument 'probes'": lambda: inspect.trace(h, 0),
        "density: argument 'steps'": lambda: inspect.density(h, steps=0),
    }.items():
        with pytest.raises(ValueError, match=f"{what}: expected an integer >= 1, got 0"):
            call()
    one = np.ones(1)
    for way in ([], [two], [two, two], [one, one, one], [two, two, three], [two, two * np.nan, two]):
        with pytest.raises(ValueError, match="main_directions: argument 'points': expected at least 3 finite points"):
            inspect.main_directions(way)
    with pytest.raises(TypeError, match="gradient_flow: argument 'model': expected a Module, got function"):
        inspect.gradient_flow(lambda t: t, w)
    with pynn.no_grad():
        w.fill_(np.nan)
    h = inspect.Hessian(closure, [w])
    for call in (inspect.eigenvalues, inspect.density, inspect.classify):
        with pytest.raises(ValueError, match=r"expected a gradient without NaN and Inf; pynn\.detect_anomaly names"):
            call(h)
    with pytest.raises(ValueError, match="expected a gradient without NaN and Inf"):
        inspect.stable_rate(closure, [w])


def test_gradients_by_rows_are_dense_here():
    table, rows = nn.Embedding(4, 2, sparse=True).double(), Tensor(np.array([1, 2, 1]))
    found = inspect.gradient_noise(lambda i: (table(rows[i]) ** 2).sum() * (1 / len(i)), table.parameters(), 3, [2], 4)
    e = table.weight.numpy_copy()[[1, 2, 1]]
    g = np.zeros((3, 4, 2))
    g[np.arange(3), [1, 2, 1]] = 2 * e
    close(found.sigma, np.sqrt(((g - g.mean(0)) ** 2).sum() / 3))


# ---- spectra ----------------------------------------------------------------------------------------------

VALUES = np.concatenate([[-3.0, -0.5], np.linspace(0.1, 5, 95), [20.0, 40.0, 75.0]])


def test_extremes():
    """F-UND-2, against the matrix's own eigenvalues: by Lanczos, and whole where it is small."""
    closure, w, a = quadratic(VALUES)
    h = inspect.Hessian(closure, [w])
    close(inspect.eigenvalues(h, 3), [75, 40, 20], 1e-6)
    assert h.products < h.size
    close(inspect.eigenvalues(h, 2, "smallest"), [-3, -0.5], 1e-6)
    values, vectors = inspect.eigenvalues(h, 4, "magnitude", vectors=True)
    close(values, [75, 40, 20, 5], 1e-6)
    close(a @ vectors, vectors * values, 1e-5)
    close(inspect.eigenvalues(h, which="all"), np.sort(VALUES), 1e-9)
    np.testing.assert_array_equal(inspect.eigenvalues(h, 3), inspect.eigenvalues(h, 3))
    with pytest.raises(ValueError, match="'which'"):
        inspect.eigenvalues(h, 1, "middle")


def test_trace_and_curvature():
    closure, w, a = quadratic(VALUES)
    h = inspect.Hessian(closure, [w])
    mean, error = inspect.trace(h, 200)
    assert abs(mean - VALUES.sum()) < 4 * error
    off = a - np.diag(np.diag(a))
    assert 0.7 < error / np.sqrt(2 * np.sum(off**2) / 200) < 1.4
    u = np.random.default_rng(3).standard_normal(len(VALUES))
    close(inspect.curvature(h, u), u @ a @ u / (u @ u))
    close(inspect.curvature(h, -h.gradient), h.gradient @ a @ h.gradient / (h.gradient @ h.gradient))


def test_density():
    """Lanczos quadrature: moments and mass are where the eigenvalues are, and low moments of a start vector exact."""
    closure, w, a = quadratic(VALUES)
    h = inspect.Hessian(closure, [w])
    d = inspect.density(h, probes=20, steps=30)
    close(d.moment(0), 1.0, 1e-12)
    n = len(VALUES)
    assert abs(d.moment(1) - VALUES.mean()) < 0.2 * VALUES.mean()
    assert abs(d.moment(2) - (VALUES**2).mean()) < 0.4 * (VALUES**2).mean()
    close(np.sum(d.weights[d.nodes > 10]) * n, 3.0, 0.35)
    x, y = d.curve(width=1.0)
    close(np.sum(y) * (x[1] - x[0]), 1.0, 1e-3)
    from pynn.inspect.spectrum import lanczos

    start = np.random.default_rng(0).standard_normal(n)
    diagonal, beside = lanczos(lambda v: a @ v, start, 12)
    t = np.diag(diagonal) + np.diag(beside, 1) + np.diag(beside, -1)
    u, e = start / np.linalg.norm(start), np.eye(12)[0]
    for k in range(6):  # moments of the start vector are those of the tridiagonal matrix
        close(e @ np.linalg.matrix_power(t, k) @ e, u @ np.linalg.matrix_power(a, k) @ u, 1e-9)


@pytest.mark.parametrize(
    ("values", "kind"),
    [([1.0, 2.0, 3.0], "minimum"), ([-1.0, -2.0], "maximum"), ([1.0, -0.1, 4.0], "saddle"), ([1.0, 0.0], "degenerate"),
     ([-1.0, 0.0], "degenerate"),
     (list(np.linspace(1, 4, 90)), "minimum"), ([*np.linspace(1, 4, 90), -0.5], "saddle")],
    ids=["minimum", "maximum", "saddle", "degenerate", "degenerate below", "minimum by lanczos", "saddle by lanczos"],
)  # fmt: skip
def test_classification(values, kind):
    """F-UND-3, Table 5.1."""
    closure, w, _ = quadratic(values)
    found = inspect.classify(inspect.Hessian(closure, [w]))
    assert found.kind == "not stationary"
    with pynn.no_grad():
        w.zero_()
    found = inspect.classify(inspect.Hessian(closure, [w]))
    assert found.kind == kind
    assert str(found).startswith(kind)
    close([found.smallest, found.largest], [min(values), max(values)], 1e-5)


# ---- models of the surface -----------------------------------------------------------------------------


def test_taylor_errors_fall_as_their_orders():
    """F-UND-1: a tenth of the step leaves 1/100 and 1/1000 of the error."""
    model, closure, v = network("mlp")
    before = [p.numpy_copy() for p in model.parameters()]
    t = inspect.taylor(lambda: closure()[0], model.parameters(), v, [1e-2, 1e-3])
    first, second = np.abs(t.first - t.loss), np.abs(t.second - t.loss)
    assert 90 < first[0] / first[1] < 110
    assert 850 < second[0] / second[1] < 1150
    for p, a in zip(model.parameters(), before):
        np.testing.assert_array_equal(p.numpy_copy(), a)


def test_stable_rate():
    """F-UND-4: η < 2/λmax, measured on either side; exact for a quadratic, and of a network away from a minimum."""
    closure, w, _ = quadratic([10.0, 1.0, -0.5])
    found = inspect.stable_rate(closure, [w], factors=(0.5, 0.9, 1.1))
    close(found.rate, 0.2)
    close(list(found.measured.values()), [1e-16, 0.8, 1.2], 1e-3)
    close(list(found.expected.values()), [0.0, 0.8, 1.2], 1e-9)
    assert "diverges" in str(found).splitlines()[-1]
    assert "converges" in str(found).splitlines()[-2]
    model, both, _ = network("mlp")
    found = inspect.stable_rate(lambda: both()[0], model.parameters(), apart=1e-5)
    below, above = found.measured.values()
    assert below < 0.85 < 1.15 < above
    close(inspect.rate_factors(0.1, [10.0, 1.0, 30.0]), [0.0, 0.9, -2.0], 1e-12)


def test_gradient_descent_follows_the_factors():
    """F-UND-4: along each eigenvector the error falls by 1 − ηλ a step (S1 §5.2.10)."""
    closure, w, a = quadratic([8.0, 2.0, 0.5])
    values, vectors = np.linalg.eigh(a)
    start = vectors.T @ w.numpy_copy()
    opt = pynn.optim.SGD([w], lr=0.2)
    for _ in range(7):
        opt.zero_grad()
        closure().backward()
        opt.step()
    close(vectors.T @ w.numpy_copy(), start * inspect.rate_factors(0.2, values) ** 7, 1e-12)


def test_slices_contours_and_trajectories():
    """Along lines and planes of a quadratic the loss is what algebra says; the way through a plane is found again."""
    closure, w, a = quadratic([3.0, 1.0, 0.2])
    here = w.numpy_copy()
    d, e = np.eye(3)[0], np.eye(3)[1]
    got = inspect.slice_loss(closure, [w], d, [-1.0, 0.0, 2.0])
    close(got, [0.5 * (here + s * d) @ a @ (here + s * d) for s in (-1, 0, 2)])
    c = inspect.contour(closure, [w], d, e, [-1.0, 1.0], [0.0, 0.5, 1.0], origin=np.zeros(3))
    assert c.loss.shape == (3, 2)
    close(c.loss[2, 0], 0.5 * (e - d) @ a @ (e - d))
    np.testing.assert_array_equal(w.numpy_copy(), here)
    close(c.project([2 * d - 3 * e]), [[2.0, -3.0]])
    way = [np.array([t * 1.0, 0.3 * np.sin(t), 0.0]) for t in np.linspace(5, 0, 40)]
    first, second, share = inspect.main_directions(way)
    close(abs(first[0]), 1.0, 0.02)
    assert abs(first[2]) + abs(second[2]) < 1e-12
    assert share[0] > 0.98
    close(share.sum(), 1.0, 1e-12)


def test_random_directions_by_filter():
    model, _, _ = network("cnn")
    d = inspect.random_direction(model.parameters())
    for p, part in zip(model.parameters(), inspect.derivatives.Operator(model.parameters()).parts(d)):
        norms = [np.linalg.norm(t.numpy_copy().reshape(len(t), -1), axis=1) for t in (p, part)]
        close(norms[1], norms[0] if p.ndim > 1 else 0 * norms[0], 1e-9)


def test_pictures(tmp_path):
    pytest.importorskip("matplotlib")
    closure, w, _ = quadratic([3.0, 1.0])
    c = inspect.contour(closure, [w], np.eye(2)[0], np.eye(2)[1], np.linspace(-1, 1, 5), np.linspace(-1, 1, 4))
    c.draw(tmp_path / "c.png", [np.zeros(2), w.numpy_copy()])
    assert (tmp_path / "c.png").read_bytes()[:4] == b"\x89PNG"
