"""Convolutions: the functions and layers around the ops, beside PyTorch and SciPy."""

import sys
from pathlib import Path

import numpy as np
import pytest

import pynn
from pynn import OPS, nn, optim, testing
from pynn.nn import functional as F

sys.path.append(str(Path(__file__).parent / "fixtures"))
from make_conv2d_torch import CASES, draw

TORCH = np.load(Path(__file__).parent / "fixtures" / "conv2d_torch.npz")


def leaf(a):
    x = pynn.tensor(a)
    x.requires_grad = True
    return x


def close(a, b, tol):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    assert a.shape == b.shape
    assert np.abs(a - b).max(initial=0) <= tol * max(1.0, np.abs(b).max(initial=0))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", CASES)
def test_torch(case, dtype):
    """Values and gradients of every function, with PyTorch's argument names."""
    name, options, *_ = CASES[case]
    arrays = [None if a is None else leaf(a.astype(dtype)) for a in draw(case)[:3]]
    y = getattr(F, name)(*arrays, **options)
    y.backward(pynn.tensor(draw(case)[3].astype(dtype)))
    tol = 1e-12 if dtype == np.float64 else 2e-5
    close(y.detach(), TORCH[f"{case}/y"], tol)
    for what, x in zip("xWb", arrays):
        if x is not None:
            close(x.grad, TORCH[f"{case}/d{what}"], tol)


def test_scipy():
    signal = pytest.importorskip("scipy.signal")
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((1, 1, 9, 13)), rng.standard_normal((1, 1, 4, 3))
    y = F.conv2d(pynn.tensor(x), pynn.tensor(w))
    close(y[0, 0], signal.correlate2d(x[0, 0], w[0, 0], "valid"), 1e-13)
    up = F.conv_transpose2d(pynn.tensor(x), pynn.tensor(w))
    close(up[0, 0], signal.convolve2d(x[0, 0], w[0, 0], "full"), 1e-13)


LAYERS = {
    "Conv1d(3, 8, kernel_size=(3,), stride=(2,), padding=(1,))": lambda: nn.Conv1d(3, 8, 3, 2, 1),
    "Conv2d(4, 6, kernel_size=(3, 2), stride=(1, 1), padding='same', dilation=(2, 1), groups=2, bias=False)":
        lambda: nn.Conv2d(4, 6, (3, 2), 1, "same", (2, 1), 2, bias=False),
    "Conv2d(1, 2, kernel_size=(1, 1), stride=(1, 1), activation='relu')": lambda: nn.Conv2d(1, 2, 1, activation="relu"),
    "ConvTranspose2d(4, 2, kernel_size=(3, 3), stride=(2, 2), padding=(1, 1), output_padding=(1, 1))":
        lambda: nn.ConvTranspose2d(4, 2, 3, 2, 1, 1),
    "ConvTranspose1d(4, 2, kernel_size=(4,), stride=(2,))": lambda: nn.ConvTranspose1d(4, 2, 4, stride=2),
}  # fmt: skip


@pytest.mark.parametrize("text", LAYERS)
def test_layers(text):
    """repr, shapes and names of parameters as PyTorch's, their range, gradients in the parameters' own layout."""
    layer = LAYERS[text]()
    assert repr(layer) == text
    bound = 1 / np.sqrt(np.prod(layer.weight.shape[1:]))
    for p in layer.parameters():
        assert 0 < np.abs(p.detach().numpy()).max() <= bound
    n = len(layer.kernel_size)
    x = leaf(np.random.default_rng(1).standard_normal((2, layer.in_channels, *(9, 8)[:n])).astype(np.float32))
    y = layer(x)
    assert y.shape[:2] == (2, layer.out_channels)
    y.sum().backward()
    for p in layer.parameters():
        assert p.grad.shape == p.shape
        assert p.grad.strides == p.strides
    assert layer(x[0]).shape == y.shape[1:]
    np.testing.assert_array_equal(layer(x[0]).detach().numpy(), y[0].detach().numpy())


def test_state_dict_and_optimizer():
    """Plain shapes go in and out; a step on channels-last weights is that on row-major ones."""
    layer = nn.Conv2d(3, 5, 3)
    state = {k: np.array(v) for k, v in layer.state_dict().items()}
    assert {k: v.shape for k, v in state.items()} == {"weight": (5, 3, 3, 3), "bias": (5,)}
    plain = pynn.nn.Parameter(state["weight"])
    x = pynn.randn(2, 3, 6, 6)
    for params in ([layer.weight], [plain]):
        optimizer = pynn.optim.Adam(params, lr=0.1)
        F.conv2d(x, params[0]).sum().backward()
        optimizer.step()
    close(layer.weight.detach(), plain.detach(), 1e-6)
    other = nn.Conv2d(3, 5, 3)
    other.load_state_dict(state)
    np.testing.assert_array_equal(other.weight.detach().numpy(), state["weight"])
    assert other.weight.strides == layer.weight.strides


def test_sequential_joins_activation():
    x = pynn.randn(2, 3, 8, 8)
    conv = nn.Conv2d(3, 4, 3, padding=1)
    for act in (nn.ReLU(), nn.Tanh(), nn.GELU()):
        model = nn.Sequential(conv, act)
        np.testing.assert_array_equal(model(x).detach().numpy(), act(conv(x)).detach().numpy())
    with pynn.no_grad():
        assert nn.Sequential(conv, nn.ReLU())(x).numpy().min() == 0
    model = nn.Sequential(conv, nn.ReLU())
    assert model(x).grad_fn.name == "conv2d_act"


def test_same_padding_with_even_kernels():
    """One more at the end, as PyTorch; the derivative knows."""
    x = leaf(np.arange(5.0).reshape(1, 1, 1, 5))
    y = F.conv2d(x, pynn.tensor(np.array([1.0, 10.0]).reshape(1, 1, 1, 2)), padding="same")
    assert y.detach().numpy().ravel().tolist() == [10, 21, 32, 43, 4]
    y[0, 0, 0, 4].backward()
    assert x.grad.numpy().ravel().tolist() == [0, 0, 0, 0, 1]


@pytest.mark.parametrize(("mode", "name"), [("reflect", "reflect"), ("replicate", "edge"), ("circular", "wrap")])
@pytest.mark.parametrize("padding", [(2, 1), "same"])
def test_padding_modes(mode, name, padding):
    """Borders that are not zeros are NumPy's, also where an activation is joined."""
    layer = nn.Conv2d(3, 4, (4, 3), padding=padding, padding_mode=mode)
    x = np.random.default_rng(1).standard_normal((2, 3, 6, 5)).astype(np.float32)
    borders = [(1, 2), (1, 1)] if padding == "same" else [(2, 2), (1, 1)]
    want = F.conv2d(np.pad(x, [(0, 0), (0, 0), *borders], name), layer.weight, layer.bias)
    np.testing.assert_array_equal(layer(pynn.tensor(x)).numpy(), want.numpy())
    joined = nn.Sequential(layer, nn.ReLU())(pynn.tensor(x[0]))
    np.testing.assert_allclose(joined.numpy(), np.maximum(want.numpy()[0], 0), rtol=1e-5, atol=1e-6)
    assert f"padding_mode={mode!r}" in repr(layer)


def test_hvp_is_a_few_convolutions():
    """Every node of a derivative of order two is one of the three convolutions, or linear around them."""
    conv = nn.Conv2d(2, 3, 3, dtype=np.float64)
    x = pynn.tensor(np.random.default_rng(0).standard_normal((1, 2, 5, 5)))
    x.requires_grad = True
    with_graph = pynn.grad((conv(x) ** 2).sum(), [conv.weight, x], create_graph=True)
    seen, todo = set(), [g.grad_fn for g in with_graph]
    while todo:
        node = todo.pop()
        if hasattr(node, "next_functions") and node not in seen:
            seen.add(node)
            todo += [n for n, _ in node.next_functions]
    names = {n.name for n in seen}
    assert "conv2d_bwd" in names
    again = pynn.grad([g.sum() for g in with_graph], [conv.weight, x], create_graph=True)
    deep, todo = set(), [g.grad_fn for g in again]
    while todo:
        node = todo.pop()
        if hasattr(node, "next_functions") and node not in deep:
            deep.add(node)
            todo += [n for n, _ in node.next_functions]
    names = {n.name for n in deep}
    assert {"conv2d_by_data", "conv2d_by_weight"} <= names
    assert not names & {"matmul", "unslice", "gather_rows"}


@pytest.fixture
def precision():
    before = pynn.get_float32_precision()
    yield
    pynn.set_float32_precision(before)


LARGE = (  # (input, O, kernel, options): where other kernels are chosen than for the samples of the ops
    ((2, 3, 61, 50), 64, (7, 7), {"stride": 2, "padding": 3}),
    ((9, 1, 28, 28), 32, (3, 3), {"padding": 1}),
    ((1, 2, 130, 9), 40, (5, 3), {"padding": (0, 2), "dilation": (3, 2)}),
    ((3, 20, 30, 31), 20, (3, 3), {"padding": 1, "groups": 20}),
    ((2, 18, 17, 40), 18, (5, 16), {"padding": (2, 9), "stride": 2, "groups": 18}),
    ((17, 70, 5, 4), 65, (3, 3), {"padding": 1}),
    ((2, 130, 40, 3), 20, (1, 1), {}),
    ((2, 8, 43, 35), 48, (5, 3), {"groups": 4, "stride": (1, 2), "padding": 1}),
    ((2, 3, 40, 41), 96, (3, 3), {"groups": 3, "dilation": 2}),
)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", range(len(LARGE)))
def test_large(case, dtype, precision):
    """Values and gradients are the references', with the same bits for 1, 2 and 4 threads."""
    pynn.set_float32_precision("exact")
    shape, o, kernel, options = LARGE[case]
    rng = np.random.default_rng(case)
    x, w = rng.standard_normal(shape), rng.standard_normal((o, shape[1] // options.get("groups", 1), *kernel))
    geo = [options.get(k, d) for k, d in (("stride", 1), ("padding", 0), ("dilation", 1))]
    both = [v for g in geo for v in (g if isinstance(g, tuple) else (g, g))]
    geo = dict(zip(("sh", "sw", "ph", "pw", "dh", "dw"), both))
    geo["groups"] = options.get("groups", 1)
    found = []
    for threads in (1, 2, 4):
        with pynn.threads(threads):
            xs = leaf(x.astype(dtype)), leaf(w.astype(dtype))
            y = F.conv2d(*xs, **options)
            dy = np.random.default_rng(1).standard_normal(y.shape)
            y.backward(pynn.tensor(dy.astype(dtype)))
            found.append([y.detach(), xs[0].grad, xs[1].grad])
        testing.assert_same_bits(found[-1], found[0])
    want = (OPS.conv2d.reference(x, w, None, size=dy.shape[2:], **geo),
            OPS.conv2d_by_data.reference(dy, w, None, size=x.shape[2:], **geo),
            OPS.conv2d_by_weight.reference(dy, x, size=kernel, **geo))  # fmt: skip
    for a, b in zip(found[0], want):
        close(a, b, 1e-12 if dtype == np.float64 else 1e-5)


# ---- precision -------------------------------------------------------------------------------------------

FAST = ((4, 32, 14, 14, 32), (2, 64, 29, 30, 48), (1, 40, 16, 17, 33), (32, 512, 7, 7, 512), (3, 64, 2, 60, 64))


@pytest.mark.parametrize("sizes", FAST)
def test_fast_float32_keeps_its_bound(sizes, precision):
    """Winograd: largest error against float64 ≤ 1e-4 of the result's RMS on normal data; not exact's bits."""
    n, c, h, w, o = sizes
    rng = np.random.default_rng(5)
    arrays = [rng.standard_normal(s) for s in ((n, c, h, w), (o, c, 3, 3), (o,), (n, o, h, w))]

    def results(dtype):
        x, weight, b = (leaf(a.astype(dtype)) for a in arrays[:3])
        y = F.conv2d(x, weight, b, padding=1)
        y.backward(pynn.tensor(arrays[3].astype(dtype)))
        return [a.numpy_copy() for a in (y.detach(), x.grad, weight.grad)]

    exact = [a.astype(np.float64) for a in results(np.float64)]
    pynn.set_float32_precision("exact")
    plain = results(np.float32)
    pynn.set_float32_precision("fast")
    for name, want, a, b in zip(("y", "dx", "dW"), exact, results(np.float32), plain):
        rms = np.sqrt((want**2).mean())
        assert np.abs(a - want).max() <= 1e-4 * rms, name
        assert np.abs(b - want).max() <= 1e-4 * rms, name
        assert (a != b).any(), name


def test_fast_float32_keeps_its_bound_in_a_trained_network(precision):
    """The same on what a trained network's convolutions see: inputs, weights, and the gradients of their results."""
    digits = pytest.importorskip("sklearn.datasets").load_digits()
    pynn.set_float32_precision("fast")
    pynn.manual_seed(0)
    images, labels = (digits.images / 16).astype(np.float32)[:, None], digits.target
    layers = []
    for i, o in ((1, 32), (32, 64), (64, 64)):
        layers += [nn.Conv2d(i, o, 3, padding=1), nn.BatchNorm2d(o), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * 64, 10))
    optimizer, hits, seen = optim.Adam(model.parameters(), lr=1e-3), [], []

    def loss_of(part):
        z = model(pynn.tensor(images[part]))
        hits.append((z.detach().numpy().argmax(1) == labels[part]).mean())
        return F.cross_entropy(z, pynn.tensor(labels[part]))

    for k in range(60):
        optimizer.zero_grad()
        loss_of(slice(k % 20 * 64, k % 20 * 64 + 64)).backward()
        optimizer.step()
    assert np.mean(hits[-20:]) > 0.97
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)][1:]
    for m in convolutions:
        m.register_forward_hook(lambda m, args, y: seen.append((m, args[0], y)))
    loss = loss_of(slice(0, 64))
    found = pynn.grad(loss, [y for _, _, y in seen])
    assert len(seen) == 2
    for (m, x, _), dy in zip(seen, found):
        results = []
        for dtype in (np.float64, np.float32):
            arrays = [leaf(a.detach().numpy_copy().astype(dtype)) for a in (x, m.weight)]
            y = F.conv2d(*arrays, padding=1)
            y.backward(pynn.tensor(dy.numpy_copy().astype(dtype)))
            results.append([a.numpy_copy() for a in (y.detach(), arrays[0].grad, arrays[1].grad)])
        for name, want, a in zip(("y", "dx", "dW"), *results):
            # images that are told well have gradients of another size
            axes = (1, 2, 3) if name == "dx" else None
            rms = np.sqrt((want**2).mean(axes, keepdims=True))
            assert (np.abs(a - want) <= 1e-4 * rms).all(), name


def test_fast_float32_is_the_same_for_any_number_of_threads(precision):
    pynn.set_float32_precision("fast")
    for sizes in ((2, 40, 30, 31, 33), (16, 33, 9, 9, 40)):
        n, c, h, w, o = sizes
        rng = np.random.default_rng(6)
        arrays = [rng.standard_normal(s).astype(np.float32) for s in ((n, c, h, w), (o, c, 3, 3), (n, o, h, w))]

        def call(arrays=arrays):
            x, weight = leaf(arrays[0]), leaf(arrays[1])
            y = F.conv2d(x, weight, padding=1, activation="relu")
            y.backward(pynn.tensor(arrays[2]))
            return [y.detach(), x.grad, weight.grad]

        first = None
        for threads in (1, 2, 4):
            with pynn.threads(threads):
                ys = call() if threads == 1 else testing.with_team(call)
            first = first or ys
            testing.assert_same_bits(ys, first)


def test_precision_is_named(precision):
    assert pynn.set_float32_precision("exact") in ("exact", "fast")
    assert pynn.get_float32_precision() == "exact"
    assert pynn.config()["float32_precision"] == "exact"
    with pytest.raises(
        ValueError, match="set_float32_precision: argument 'name': expected 'exact' or 'fast', got 'tf'"
    ):
        pynn.set_float32_precision("tf")


X, W = np.ones((2, 3, 8, 8), np.float32), np.ones((4, 3, 3, 3), np.float32)
BAD = [
    ("conv2d", (X[:, :2], W), {}, r"'input': expected 3 channels, as weight \(4, 3, 3, 3\) has with groups=1"),
    ("conv2d", (X[0, 0], W), {}, r"'input': expected shape \(N, C, H, W\) or \(C, H, W\), got \(8, 8\)"),
    ("conv2d", (X, W[0]), {}, r"'weight': expected shape \(O, I, kH, kW\), got \(3, 3, 3\)"),
    ("conv2d", (X, np.ones((4, 3, 11, 3), np.float32)), {"padding": (1, 0)},
     r"'input': expected at least as many elements, padded, as the kernel spans \(11, 3\), got \(10, 8\)"),
    ("conv2d", (X, W), {"stride": 0}, r"'stride': expected an integer >= 1 or 2 of them, got 0"),
    ("conv2d", (X, W), {"stride": (1, 2, 3)}, r"'stride': expected an integer >= 1 or 2 of them"),
    ("conv2d", (X, W), {"dilation": 1.5}, r"'dilation': expected an integer >= 1"),
    ("conv2d", (X, W), {"padding": -1}, r"'padding': expected an integer >= 0"),
    ("conv2d", (X, W), {"padding": "full"}, r"'padding': expected numbers, 'same' or 'valid', got 'full'"),
    ("conv2d", (X, W), {"padding": "same", "stride": 2}, r"'padding': expected numbers or 'valid' with stride 2"),
    ("conv2d", (X, W), {"groups": 2}, r"'input': expected channels that groups=2 divide, got 3"),
    ("conv2d", (X, W), {"groups": 0}, r"'groups': expected an integer >= 1, got 0"),
    ("conv2d", (X, W, np.ones(3, np.float32)), {}, r"'bias': expected shape \(4,\), got \(3,\)"),
    ("conv1d", (X, W), {}, r"'input': expected shape \(N, C, L\) or \(C, L\), got \(2, 3, 8, 8\)"),
    ("conv_transpose2d", (X, W), {}, r"'input': expected 4 channels, as weight \(4, 3, 3, 3\) has, got shape"),
    ("conv_transpose2d", (X[:, [0, 1, 2, 0]], W), {"output_padding": 1},
     r"'output_padding': expected less than stride \(1, 1\) or dilation \(1, 1\), got \(1, 1\)"),
    ("conv_transpose2d", (X[:, [0, 1, 2, 0]], W), {"padding": "same"}, r"'padding': expected numbers, got 'same'"),
    ("conv_transpose2d", (X[:, [0, 1, 2, 0]], W), {"padding": 9}, r"'input': expected a result of at least one"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "args", "options", "pattern"), BAD)
def test_bad_calls(name, args, options, pattern):
    with pytest.raises(ValueError, match=f"^{name}: argument {pattern}"):
        getattr(F, name)(*map(pynn.tensor, args), **options)


def test_bad_layers():
    for make, pattern in (
        (lambda: nn.Conv2d(3, 4, 0), "Conv2d: argument 'kernel_size': expected an integer >= 1"),
        (
            lambda: nn.Conv2d(3, 4, 3, groups=2),
            "Conv2d: argument 'in_channels': expected a number that groups=2 divide",
        ),
        (lambda: nn.Conv2d(3, 4, 3, padding_mode="mirror"), "'padding_mode': expected zeros or reflect or rep"),
        (lambda: nn.ConvTranspose1d(3, 4, 3, padding_mode="reflect"), "'padding_mode': expected zeros, got 'reflect'"),
        (lambda: nn.Conv2d(3, 4, 3, activation="no"), "Conv2d: argument 'activation': expected None or one of"),
        (lambda: nn.ConvTranspose1d(3, 4, 3, output_padding=-1), "ConvTranspose1d: argument 'output_padding'"),
        (lambda: nn.ConvTranspose2d(3, 4, 3, padding="same"), "ConvTranspose2d: argument 'padding': expected numbers"),
    ):
        with pytest.raises(ValueError, match=pattern):
            make()
    with pytest.raises(TypeError, match=r"conv2d: argument 'x': expected dtype float32 as 'W' has, got float64"):
        nn.Conv2d(3, 4, 3, bias=False)(pynn.tensor(X.astype(np.float64)))
    with pytest.raises(TypeError, match=r"conv2d: argument 'x': expected dtype float32 as 'W' has, got float64"):
        nn.Conv2d(3, 4, 3, bias=False, activation="relu")(pynn.tensor(X.astype(np.float64)))
