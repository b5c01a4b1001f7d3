"""pynn.inspect: gradient flow, graphs, saved tensors, watching a training, noise, symmetry, cost, ridge."""

import numpy as np
import pytest

import pynn
from pynn import OPS, Tensor, inspect, models, nn
from pynn.nn import functional as F
from pynn.recompute import repeatable
from pynn.train import Trainer


def deep(activation, depth, width=24, scale=1.0, seed=0):
    """Linear layers without biases with that activation behind each, weights normal of scale/√width."""
    rng = np.random.default_rng(seed)
    layers = []
    for _ in range(depth):
        linear = nn.Linear(width, width, bias=False).double()
        with pynn.no_grad():
            linear.weight.copy_(Tensor(scale * rng.standard_normal((width, width)) / np.sqrt(width)))
        layers.append(nn.Sequential(linear, activation()))
    return nn.Sequential(*layers)


# ---- how gradients fare ------------------------------------------------------------------------------------


def test_spectral_norms():
    """‖J‖ of a linear map is its largest singular value; of diag(σ′)W the product's (S1 §5.2.12)."""
    rng = np.random.default_rng(0)
    w, x = rng.standard_normal((4, 6)), rng.standard_normal((3, 6))
    got = inspect.spectral_norm(lambda t: t @ Tensor(w.T), Tensor(x), 200)
    np.testing.assert_allclose(got, np.linalg.norm(w, 2), rtol=1e-6)
    got = inspect.spectral_norm(lambda t: OPS.sigmoid(t @ Tensor(w.T)), Tensor(x), 200)
    s = 1 / (1 + np.exp(-x @ w.T))
    want = [np.linalg.norm((v * (1 - v))[:, None] * w, 2) for v in s]
    np.testing.assert_allclose(got, want, rtol=1e-6)


def test_chain_of_scalars():
    """F-TR-4: (ws)^{L−ℓ}: a gradient through L − ℓ sigmoids at z with weights w (S1 §5.2.13)."""
    w, depth = 0.8, 6
    model = deep(nn.Sigmoid, depth, width=1)
    with pynn.no_grad():
        for p in model.parameters():
            p.fill_(w)
    a = 0.35
    for _ in range(200):  # the point that the chain maps to itself: all layers have one slope
        a = 1 / (1 + np.exp(-w * a))
    flow = inspect.gradient_flow(model, np.full((1, 1), a))
    step = w * a * (1 - a)
    np.testing.assert_allclose([x.gradient for x in flow.layers], step ** np.arange(depth - 1, -1, -1), rtol=1e-9)
    np.testing.assert_allclose([x.norm for x in flow.layers], step, rtol=1e-9)
    np.testing.assert_allclose([x.gain for x in flow.layers], step, rtol=1e-9)
    np.testing.assert_allclose(flow.per_layer, step, rtol=1e-9)


@pytest.mark.parametrize(
    ("activation", "scale", "verdict"),
    [(nn.Sigmoid, 1.0, "vanishing"), (nn.ReLU, np.sqrt(2), "healthy"), (nn.Identity, 3.0, "exploding")],
)
def test_verdicts(activation, scale, verdict):
    """F-TR-4: sigmoids lose the gradient, He's scale keeps it, large weights blow it up."""
    x = np.random.default_rng(1).standard_normal((4, 24))
    flow = inspect.gradient_flow(deep(activation, 10, scale=scale), x)
    assert flow.verdict == verdict
    assert flow.words.startswith(verdict)
    assert len(str(flow).splitlines()) == 12
    assert ("What helps" in flow.words) == (verdict != "healthy")


def test_gains_of_a_linear_layer():
    """The root mean square gain is ‖W‖_F/√(outputs)."""
    model = deep(nn.Identity, 2, scale=2.0)
    w = model[1][0].weight.numpy_copy()
    got = inspect.gradient_flow(model, np.ones((50, 24))).layers[1].gain
    np.testing.assert_allclose(got, np.linalg.norm(w) / np.sqrt(24), rtol=0.03)


def test_flow_of_any_model():
    """Layers of a model that is no Sequential, in the order of their calls; dropout and statistics do not act."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.last, self.first, self.drop = nn.Linear(4, 2), nn.Linear(3, 4), nn.Dropout(0.9)

        def forward(self, x):
            return self.last(self.drop(OPS.tanh(self.first(x))))

    net = Net()
    x = np.ones((2, 3), np.float32)
    flow = inspect.gradient_flow(net, x)
    assert [x.name for x in flow.layers] == ["first", "drop", "last"]
    np.testing.assert_allclose([flow.layers[1].norm, flow.layers[1].gain], 1.0, rtol=1e-6)
    np.testing.assert_allclose(flow.layers[-1].gradient, 1.0, rtol=1e-6)
    assert net.training
    assert [x.name for x in inspect.gradient_flow(net, x, layers=[net.last]).layers] == ["last"]
    assert not net.first._forward_hooks


class Last(nn.Module):
    """The last state of a recurrent layer, and a head."""

    def __init__(self, layer):
        super().__init__()
        self.layer, self.head = layer(3, 5, batch_first=True), nn.Linear(5, 4)

    def forward(self, x):
        return self.head(self.layer(x)[0][:, -1])


NETWORKS = {
    "cnn": (lambda: nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2),
                                  nn.Dropout(0.5), nn.Flatten(), nn.Linear(64, 4)), (6, 1, 8, 8)),
    "vit": (lambda: models.ViT(8, 4, 1, 4, embed_dim=12, depth=2, num_heads=3, drop_rate=0.2), (6, 1, 8, 8)),
    "lstm": (lambda: Last(nn.LSTM), (6, 4, 3)),
    "gru": (lambda: Last(nn.GRU), (6, 4, 3)),
    "mlp": (lambda: nn.Sequential(nn.Linear(3, 8), nn.GELU(), nn.Dropout(0.3), nn.LayerNorm(8), nn.Linear(8, 4)),
            (6, 3)),
}  # fmt: skip


def state_of(model):
    """What inspection must leave alone."""
    arrays = [np.array(v) for v in model.state_dict().values()]
    grads = [None if p.grad is None else p.grad.numpy_copy() for p in model.parameters()]
    modes = [(m.training, len(m._forward_hooks)) for m in model.modules()]
    flags = [p.requires_grad for p in model.parameters()]
    return arrays, grads, (modes, flags, pynn.random.default_generator.get_state().tolist())


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", NETWORKS)
def test_inspection_leaves_any_model_as_it_was(name, dtype, training):
    """Frozen parameters, gradients, modes, statistics, random numbers; and a loss under dropout repeats."""
    make, shape = NETWORKS[name]
    pynn.manual_seed(1)
    model = make().to(dtype)
    params = list(model.train(training).parameters())
    params[0].requires_grad = False
    params[-1].grad = Tensor(np.full(params[-1].shape, 7, dtype))
    rng = np.random.default_rng(0)
    x, y = Tensor(rng.standard_normal(shape).astype(dtype)), Tensor(rng.integers(0, 4, 6))
    d = rng.standard_normal(sum(p.size for p in params[1:]))
    d /= np.linalg.norm(d)

    def loss():
        return F.cross_entropy(model(x), y)

    def outputs():
        z = model(x)
        return F.cross_entropy(z, y), z

    calls = {
        "products": lambda: [inspect.Hessian(loss, params) @ d, inspect.GaussNewton(outputs, params) @ d],
        "batches": lambda: inspect.BatchMean(lambda x, y: F.cross_entropy(model(x), y), params,
                                             pynn.data.DataLoader((x, y), 4, shuffle=True)) @ d,
        "spectrum": lambda: inspect.eigenvalues(inspect.Hessian(loss, params), 1),
        "trace": lambda: inspect.trace(inspect.Hessian(loss, params), 2),
        "models": lambda: [vars(inspect.taylor(loss, params, d, [0.0, 1e-3]))[k] for k in ("loss", "second")],
        "rate": lambda: inspect.stable_rate(loss, params, steps=2).curvature,
        "slice": lambda: inspect.slice_loss(loss, params, d, [0.0, 0.1, 0.0]),
        "contour": lambda: inspect.contour(loss, params, d, inspect.random_direction(params), [0, 1], [0]).loss,
        "flow": lambda: inspect.gradient_flow(model, x, iterations=2).ratio,
        "noise": lambda: inspect.gradient_noise(lambda i: F.cross_entropy(model(x[i]), y[i]), params, 6, [3], 4).spread,
        "jacobian": lambda: inspect.jacobian(model, x).numpy_copy(),
        "symmetry": lambda: inspect.equivariance(model, x, lambda a: a[::-1], lambda a: a[::-1]).relative,
    }  # fmt: skip
    for what, call in calls.items():
        before, found = state_of(model), call()
        for a, b in zip(before, state_of(model)):
            np.testing.assert_equal(b, a, err_msg=what)
        np.testing.assert_equal(call(), found, err_msg=f"{what}, again")
    one, _, again = calls["slice"]()
    assert one == again
    t = inspect.taylor(loss, params, d, [0.0])
    np.testing.assert_allclose(t.loss, t.first, rtol=1e-6)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", NETWORKS)
def test_products_of_any_model_as_differences(name, training):
    """F-AD-7: Hv of batch norm, dropout, attention and recurrent layers by differences of gradients, to 1e-8."""
    make, shape = NETWORKS[name]
    pynn.manual_seed(1)
    model, rng = make().double().train(training), np.random.default_rng(0)
    x, y = Tensor(rng.standard_normal(shape)), Tensor(rng.integers(0, 4, 6))
    params = list(model.parameters())
    d = rng.standard_normal(sum(p.size for p in params))
    d /= np.linalg.norm(d)
    loss = repeatable(lambda: F.cross_entropy(model(x), y))
    want, got, eps = inspect.Hessian(loss, params) @ d, 0.0, 1e-5 if name == "cnn" else 1e-3  # kinks of ReLU
    with inspect.stability.Point(params) as point:
        for weight, step in ((8, eps), (-8, -eps), (-1, 2 * eps), (1, -2 * eps)):
            point.go(step * d)
            got = got + weight * inspect.stability.gradient_at(loss, params)
    np.testing.assert_allclose(got / (12 * eps), want, rtol=0, atol=1e-8 * np.abs(want).max())


# ---- the graph ---------------------------------------------------------------------------------------------


def test_two_branches():
    """F-AD-3, S1 §6.12: data loss and penalty meet in the last node and share nothing but weights."""
    pynn.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.Sigmoid(), nn.Linear(3, 2))
    y = model(Tensor(np.ones((5, 4), np.float32)))
    reg = sum(
        (OPS.pow(OPS.abs(p), 3.0).sum() for n, p in model.named_parameters() if n.endswith("weight")), Tensor(0.0)
    )
    loss = F.mse_loss(y, Tensor(np.zeros((5, 2), np.float32))) + (1e-4 / 3) * reg
    assert loss.grad_fn.name == "add"
    g = inspect.graph(loss, model)
    data, penalty = g.branch(0), g.branch(1)
    assert data[0] == "mse_loss"
    assert {"linear", "linear_act"} <= set(data) or {"linear", "sigmoid"} <= set(data)
    assert {"abs", "pow"} <= set(penalty)
    assert not {"abs", "pow"} & set(data)
    assert g.kinds.count("leaf") == 4
    assert g.kinds[0] == "result"
    leaves = {g.labels[k].split("\n")[0] for k, kind in enumerate(g.kinds) if kind == "leaf"}
    assert leaves == {"0.weight", "0.bias", "2.weight", "2.bias"}
    w = Tensor(2.0, requires_grad=True)
    shared = OPS.exp(w)
    both = inspect.graph(OPS.sin(shared) * OPS.cos(shared), {"w": w})
    assert dict(zip(both.labels, both.kinds)) == {"mul": "result", "sin": 0, "cos": 1, "exp": "both", "w\n()": "leaf"}
    into = {b for a, b in g.edges if g.labels[a].startswith("0.weight")}
    assert {g.labels[k] for k in into} == {"abs", next(n for n in data if n.startswith("linear") and n != "linear")}


def test_pictures_of_a_graph(tmp_path, monkeypatch):
    import xml.etree.ElementTree as ET

    a = Tensor(2.0, requires_grad=True)
    g = inspect.graph((a * a) + OPS.sin(a), {"a <&>": a})
    root = ET.fromstring(g.svg())
    assert len(root.findall("{*}rect")) == len(g.labels) == 4
    assert len(root.findall("{*}line")) == len(g.edges) == 4
    assert "a <&>" in [t.text for t in root.findall("{*}text")]
    rows = [r for r, _ in g._places()]
    assert rows == [2, *rows[1:-1], 0]
    assert len({*g._places()}) == len(g.labels), "no two nodes in one place"
    assert '"a <&>\\n()"' in g.dot()
    monkeypatch.setattr(inspect.picture.shutil, "which", lambda name: None)
    for ending in ("svg", "dot"):
        g.save(tmp_path / f"g.{ending}")
        assert (tmp_path / f"g.{ending}").read_text() == getattr(g, ending)()
    with pytest.raises(RuntimeError, match="needs Graphviz"):
        g.save(tmp_path / "g.png")
    with pytest.raises(ValueError, match="expected a tensor with history"):
        inspect.graph(Tensor(1.0))


def test_report_of_saved_tensors():
    """F-AD-8, Table 2.8: what each op keeps, once each, parameters apart; nothing in inference."""
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)).double()
    x = Tensor(np.ones((5, 4)))
    report = inspect.saved_tensors(model(x))
    assert report.nbytes == 8 * (5 * 4 + 5 * 3), "the input and the hidden layer"
    assert [r.shape for r in report if r.leaf] == [(2, 3), (3, 4)]
    assert sum(r.again for r in report) == 1, "the hidden layer is output of one and input of the other"
    assert f"{report.nbytes:,} bytes" in str(report)
    with pynn.no_grad():
        assert inspect.saved_tensors(model(x)) == []


# ---- watching a training -----------------------------------------------------------------------------------


def fitted(callbacks, epochs=2):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((40, 3)).astype("f4")
    pynn.manual_seed(0)
    model = nn.Linear(3, 1)
    trainer = Trainer(
        model, loss=nn.MSELoss(), optimizer=pynn.optim.SGD(model.parameters(), lr=0.1), callbacks=callbacks
    )
    start = [p.numpy_copy() for p in model.parameters()]
    trainer.fit(x, x.sum(1, keepdims=True), epochs=epochs, batch_size=10, progress=False)
    return model, start


def test_gradient_flow_callback(tmp_path):
    """F-TR-3: with plain SGD the update ratio is lr·‖g‖/‖w‖; histograms count every element."""
    flow, way = inspect.GradientFlow(bins=5), inspect.Trajectory(every=1)
    model, start = fitted([flow, way])
    assert flow.steps == list(range(1, 9))
    w = [p[:3] for p in way.points]
    np.testing.assert_allclose(w[0], start[0].ravel())
    for k in range(8):
        np.testing.assert_allclose(flow.norms["weight"][k], np.linalg.norm(w[k + 1] - w[k]) / 0.1, rtol=1e-3)
        want = 0.1 * flow.norms["weight"][k] / np.linalg.norm(w[k])
        np.testing.assert_allclose(flow.ratios["weight"][k], want, rtol=1e-5)
    assert [h[0].sum() for h in flow.histograms["weight"]] == [3, 3]
    assert flow.table().splitlines()[1].startswith("weight")
    np.testing.assert_allclose(way.points[-1][:3], model.weight.numpy_copy().ravel())
    sparse = inspect.GradientFlow(every=3, bins=0)
    fitted([sparse])
    assert sparse.steps == [3, 6]
    np.testing.assert_allclose(sparse.ratios["weight"], [flow.ratios["weight"][2], flow.ratios["weight"][5]], rtol=1e-6)
    assert not sparse.histograms
    pytest.importorskip("matplotlib")
    flow.draw(tmp_path / "flow.png")
    assert (tmp_path / "flow.png").stat().st_size > 1000


def test_callbacks_go_on_in_a_resumed_run(tmp_path):
    """What was recorded before is part of the checkpoint, and the whole is that of a run that never stopped."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((40, 3)).astype("f4")
    y = x.sum(1, keepdims=True)

    def trainer():
        pynn.manual_seed(0)
        model = nn.Linear(3, 1)
        both = [inspect.GradientFlow(bins=4), inspect.Trajectory(every=1)]
        return both, Trainer(model, nn.MSELoss(), pynn.optim.SGD(model.parameters(), lr=0.1), callbacks=both)

    (flow, way), whole = trainer()
    whole.fit(x, y, epochs=3, batch_size=10, progress=False)
    _, first = trainer()
    first.fit(x, y, epochs=2, batch_size=10, progress=False)
    first.save(tmp_path / "run")
    (flow2, way2), again = trainer()
    again.load(tmp_path / "run")
    again.resume(x, y, epochs=3, progress=False)
    assert flow2.steps == flow.steps == list(range(1, 13))
    assert flow2.ratios == flow.ratios
    assert way2.steps == way.steps
    np.testing.assert_array_equal(way2.points, way.points)
    for a, b in zip(flow.histograms["weight"], flow2.histograms["weight"], strict=True):
        np.testing.assert_array_equal(a[0], b[0])


# ---- noise ---------------------------------------------------------------------------------------------------


def test_gradient_noise_falls_with_the_root_of_the_batch():
    """F-TR-5: σ/√B; of ½(w − xᵢ)² the gradients are w − xᵢ, whose spread is the data's."""
    x = np.random.default_rng(0).standard_normal((200, 2)) * [3.0, 1.0]
    w = Tensor(np.array([2.0, 1.0]), requires_grad=True)
    found = inspect.gradient_noise(
        lambda i: ((w - Tensor(x[i])) ** 2).sum() * (0.5 / len(i)), [w], len(x), sizes=(1, 4, 16, 100), draws=300
    )
    np.testing.assert_allclose(found.sigma, np.sqrt(x.var(0).sum()), rtol=1e-9)
    np.testing.assert_allclose(found.gradient_norm, np.linalg.norm([2, 1] - x.mean(0)), rtol=1e-9)
    np.testing.assert_allclose(found.scale, found.sigma**2 / found.gradient_norm**2, rtol=1e-9)
    np.testing.assert_allclose(found.spread, found.expected(), rtol=0.12)


def test_bias_and_variance():
    """F-UND-5: polynomials fitted to a noisy sine: a line is biased, order 9 varies, and the parts make the error."""
    x = np.linspace(0.05, 0.95, 60)
    truth = np.sin(2 * np.pi * x)

    def fit(order):
        return lambda X, y, seed: np.poly1d(np.polyfit(X, y, order))

    def draw(rng):
        X = rng.uniform(0, 1, 25)
        return X, np.sin(2 * np.pi * X) + 0.3 * rng.standard_normal(25)

    line, good, wild = (inspect.bias_variance(fit(k), draw, x, truth, 0.3, 60) for k in (1, 3, 9))
    assert line.bias2 > 10 * good.bias2
    assert wild.variance > 2 * good.variance
    assert good.error < min(line.error, wild.error)
    for found in (line, good):
        np.testing.assert_allclose(found.bias2 + found.variance + found.noise, found.error, rtol=0.1)
    np.testing.assert_allclose(good.noise, 0.09)
    # the identity itself: mean (f − ŷ)² = bias² + variance, exactly
    np.testing.assert_allclose(np.mean((wild.predictions - truth) ** 2), wild.bias2 + wild.variance, rtol=1e-12)


# ---- symmetry, cost, geometry ------------------------------------------------------------------------------


def test_equivariance():
    """F-UND-8: a convolution moves along with its input, a mean over all of it stays, a linear layer does neither."""
    pynn.manual_seed(0)
    x = np.random.default_rng(0).standard_normal((2, 1, 9, 9)).astype("f4")

    def shift(a):
        return np.roll(a, (1, 2), (2, 3))

    conv = nn.Conv2d(1, 3, 3, padding=1)
    inner = (..., slice(3, -3), slice(3, -3))
    assert inspect.equivariance(conv, x, shift, shift, inner)
    assert not inspect.equivariance(conv, x, shift, None, inner)
    assert not inspect.equivariance(conv, x, shift, shift, tol=1e-6), "at the edges zeros come in"
    mean = nn.Sequential(conv, nn.AdaptiveAvgPool2d(1))
    periodic = lambda a: F.conv2d(F.pad(a, (1, 1, 1, 1), mode="circular"), conv.weight).mean((2, 3))  # noqa: E731
    assert inspect.equivariance(periodic, x, shift)
    assert not inspect.equivariance(nn.Sequential(nn.Flatten(), nn.Linear(81, 4)), x, shift)
    assert inspect.equivariance(mean, x, shift).relative > 0
    found = inspect.equivariance(lambda t: t * 2.0, np.array([[3.0, 4.0]]), lambda a: a + 1.0)
    np.testing.assert_allclose([found.largest, found.relative], [2 / 8, np.sqrt(8) / 10])
    with pytest.raises(ValueError, match="has shape"):
        inspect.equivariance(lambda t: t, x, lambda a: a[:1])


def test_vit_cost():
    """F-UND-9, S1 §7.5–7.7 as printed; ViT-B/16's parameters are those of its paper's implementation."""
    small, fine = inspect.vit_cost(patch=16), inspect.vit_cost(patch=8)
    assert (small.tokens, small.head_width, small.attention_entries) == (197, 64, 116427)
    assert (fine.tokens, fine.attention_entries) == (785, 1848675)
    assert small.mlp_width == 768
    base = inspect.vit_cost(dim=768, heads=12)
    assert base.parameters == 86_567_656
    assert small.parameters == 5_717_416
    assert small.attention_flops == 12 * 4 * 197**2 * 192
    assert small.mlp_flops == 12 * 16 * 197 * 192**2
    assert 2.4e9 < small.flops < 2.6e9, "1.25 G multiply-adds"
    assert inspect.vit_cost(image=(224, 112)).tokens == 99
    with pytest.raises(ValueError, match="'patch'"):
        inspect.vit_cost(patch=15)
    with pytest.raises(ValueError, match="'heads'"):
        inspect.vit_cost(heads=5)


def test_many_dimensions():
    """F-UND-7, S1 ch. 4: counts of bases, the shell's volume, distances."""
    assert [inspect.polynomial_terms(d, 3) for d in (1, 2, 5, 50, 100)] == [4, 10, 56, 23426, 176851]
    assert [inspect.grid_cells(d, 10) for d in (2, 5, 10)] == [10**2, 10**5, 10**10]
    np.testing.assert_allclose([inspect.shell_volume(d, 0.1) for d in (1, 2, 20)], [0.1, 0.19, 1 - 0.9**20], rtol=1e-14)
    assert inspect.shell_volume(5, 1.0) == 1.0
    contrast = [inspect.distance_contrast(d) for d in (2, 20, 2000)]
    assert contrast[0] > 4 > contrast[1] > 0.4 > contrast[2]


def test_ridge_and_its_filters():
    """F-REG-9, 14 and 7: closed form, spectral filter, k steps of gradient descent, a Gaussian prior."""
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((9, 4)) * [3.0, 1.0, 0.3, 0.05], rng.standard_normal((9, 2))
    want = np.linalg.solve(a.T @ a + 0.7 * np.eye(4), a.T @ b)
    np.testing.assert_allclose(inspect.ridge(a, b, 0.7), want, rtol=1e-10)
    np.testing.assert_allclose(inspect.ridge(a, b[:, 0], 0.7), want[:, 0], rtol=1e-10)
    w = Tensor(np.zeros((4, 2)), requires_grad=True)
    opt = pynn.optim.SGD([w], lr=0.01)
    for _ in range(25):
        opt.zero_grad()
        (0.5 * (Tensor(a) @ w - Tensor(b)) ** 2).sum().backward()
        opt.step()
    u, s, vt = np.linalg.svd(a, full_matrices=False)
    stopped = vt.T @ (inspect.early_stopping_filter(s, 0.01, 25)[:, None] * (u.T @ b))
    np.testing.assert_allclose(w.numpy_copy(), stopped, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(inspect.early_stopping_filter(s, 0.01, 10**6), 1 / s, rtol=1e-9)
    assert inspect.prior_strength(0.3, 2.0) == pytest.approx(0.0225)
    # the posterior's maximum: the derivative of ‖Ax − b‖²/2σ² + ‖x‖²/2τ² is 0 there
    x = inspect.ridge(a, b[:, 0], inspect.prior_strength(0.3, 2.0))
    np.testing.assert_allclose(a.T @ (a @ x - b[:, 0]) / 0.3**2 + x / 2.0**2, 0, atol=1e-10)
