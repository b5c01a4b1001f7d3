"""Linear with an activation: one op that has the bits of two, and Sequential that calls it where it may."""

import numpy as np
import pytest

import pynn
from pynn import OPS, nn, no_grad, tensor
from pynn.nn import functional as F
from pynn.nn.activation import AS_OP
from pynn.nn.containers import _joined
from pynn.ops.linear import _kernels_of
from pynn.testing import assert_same_bits

FUSABLE = [op.name for op in OPS if _kernels_of(op)]
PARAMS = {
    "leaky_relu": {"negative_slope": 0.3},
    "elu": {"alpha": 0.7, "scale": 1.3},
    "hardtanh": {"min_val": -0.4, "max_val": 0.9},
    "softplus": {"beta": 2.0, "threshold": 1.5},
}


def leaves(rng, dtype, *shapes):
    xs = [tensor(rng.standard_normal(s).astype(dtype)) for s in shapes]
    for x in xs:
        x.requires_grad = True
    return xs


def test_what_can_be_fused():
    assert set(FUSABLE) >= {
        "relu", "leaky_relu", "hardtanh", "relu6", "gelu", "gelu_tanh", "silu", "elu", "selu", "softplus", "logsigmoid",
        "hardsigmoid", "hardswish", "mish", "tanh", "sigmoid",
    }  # fmt: skip
    assert not set(FUSABLE) & {"prelu", "add", "exp", "linear", "cast"}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", FUSABLE)
def test_the_bits_of_two_ops(name, dtype):
    """Values and gradients, without grad mode and with it, for results in several parts and for one row."""
    rng = np.random.default_rng(4)
    params = PARAMS.get(name, {})
    act = (name, params) if params else name
    for lead, i, o in (((70,), 33, 45), ((3, 50), 40, 130), ((), 9, 5), ((0,), 3, 2), ((257,), 5, 17)):
        x, w, b = leaves(rng, dtype, (*lead, i), (o, i), (o,))
        for bias in (b, None):
            ins = [t for t in (x, w, bias) if t is not None]
            plain = OPS[name](F.linear(x, w, bias), **params)
            fused = F.linear(x, w, bias, activation=act)
            assert_same_bits(fused, plain)
            dy = tensor(rng.standard_normal(plain.shape).astype(dtype))
            assert_same_bits(pynn.grad([fused], ins, [dy]), pynn.grad([plain], ins, [dy]))
            with no_grad():
                assert_same_bits(F.linear(x, w, bias, activation=act), plain)


def test_negative_zero():
    """relu(-0) is 0 in the product's epilogue too."""
    x = tensor(np.full((2, 1), -1e-30, np.float32))
    w = tensor(np.full((3, 1), 1e-30, np.float32))  # the product rounds to -0
    assert_same_bits(F.linear(x, w, None, activation="relu"), OPS.relu(F.linear(x, w, None)))


@pytest.mark.parametrize("name", ["relu", "tanh", "hardtanh"])
def test_gradients_in_any_order_of_memory(name):
    rng = np.random.default_rng(5)
    x, w, b = leaves(rng, np.float32, (4, 70, 6), (9, 6), (9,))
    turned = tensor(rng.standard_normal((9, 70, 4)).astype(np.float32)).permute(2, 1, 0)
    seeds = [turned, tensor(rng.standard_normal((70, 9)).astype(np.float32)).expand(4, 70, 9), turned[..., :1].expand(
        4, 70, 9), tensor(np.float32(0.5)).expand(4, 70, 9)]  # fmt: skip
    for dy in seeds:
        fused = pynn.grad([F.linear(x, w, b, activation=name)], [x, w, b], [dy])
        plain = pynn.grad([OPS[name](F.linear(x, w, b))], [x, w, b], [dy])
        assert_same_bits(fused, plain)
        dense = tensor(dy.numpy_copy())
        for p, q in zip(pynn.grad([F.linear(x, w, b, activation=name)], [x, w, b], [dense]), fused):
            np.testing.assert_allclose(p.numpy(), q.numpy(), rtol=1e-4, atol=1e-4)


def test_only_what_is_asked_for():
    rng = np.random.default_rng(6)
    x, w, b = leaves(rng, np.float32, (70, 6), (9, 6), (9,))
    whole = pynn.grad([F.linear(x, w, b, activation="relu").sum()], [x, w, b])
    for k, t in enumerate((x, w, b)):
        (part,) = pynn.grad([F.linear(x, w, b, activation="relu").sum()], [t])
        assert_same_bits(part, whole[k])


@pytest.mark.parametrize("rows", [1, 63, 64, 65, 129, 5000])
def test_bias_gradient(rows):
    """The sum over blocks of rows, against float64."""
    rng = np.random.default_rng(7)
    dy = rng.standard_normal((rows, 530)).astype(np.float32)
    x, w, b = leaves(rng, np.float32, (rows, 2), (530, 2), (530,))
    (db,) = pynn.grad([F.linear(x, w, b)], [b], [tensor(dy)])
    np.testing.assert_allclose(db.numpy(), dy.astype(np.float64).sum(0), atol=2e-6 * rows**0.5 * 8)


def test_second_order_computes_what_is_asked_for(monkeypatch):
    """The derivative of dW by dy: the formula of dW is one product, its derivative another; dx is none."""
    rng = np.random.default_rng(8)
    x, w, b = leaves(rng, np.float64, (5, 3), (4, 3), (4,))
    (dy,) = leaves(rng, np.float64, (5, 4))
    (dw,) = pynn.grad([F.linear(x, w, b)], [w], [dy], create_graph=True)
    count, matmul = 0, OPS.matmul

    def counted(*args):
        nonlocal count
        count += 1
        return matmul(*args)

    monkeypatch.setattr(OPS, "matmul", counted)
    v = rng.standard_normal((4, 3))
    (got,) = pynn.grad([dw], [dy], [tensor(v)])
    np.testing.assert_allclose(got.numpy(), x.detach().numpy() @ v.T, rtol=1e-12)
    assert count == 2


def test_arguments():
    x, w = tensor(np.ones((2, 3))), tensor(np.ones((4, 3)))
    with pytest.raises(ValueError, match=r"linear: argument 'activation': expected None or one of elu, .*, got 'exp'"):
        F.linear(x, w, None, "exp")
    for bad in (3, ("relu", {}, 1), OPS.relu, ["relu"]):
        with pytest.raises(ValueError, match="linear: argument 'activation': expected None or one of elu"):
            F.linear(x, w, activation=bad)
    with pytest.raises(TypeError, match=r"expected \('gelu', a dict of no parameters\)"):
        F.linear(x, w, activation=("gelu", {"slope": 1}))
    with pytest.raises(ValueError, match="one of elu"):
        nn.Linear(3, 4, activation="none")
    layer = nn.Linear(3, 4, activation="relu")
    assert repr(layer) == "Linear(in_features=3, out_features=4, bias=True, activation='relu')"
    x = pynn.randn(5, 3)
    assert_same_bits(layer(x), F.relu(F.linear(x, layer.weight, layer.bias)))


# ---- Sequential -------------------------------------------------------------------------------------------------


def call_count(monkeypatch, model, x):
    """(result, how often linear_act was called) of a call of model."""
    count, activated = 0, nn.Linear._activated

    def counted(*args):
        nonlocal count
        count += 1
        return activated(*args)

    monkeypatch.setattr(nn.Linear, "_activated", counted)
    y = model(x)
    monkeypatch.setattr(nn.Linear, "_activated", activated)
    return y, count


@pytest.mark.parametrize("kind", list(AS_OP), ids=lambda k: k.__name__)
def test_sequential_has_the_bits_of_its_modules(kind, monkeypatch):
    model = nn.Sequential(nn.Linear(6, 40), kind(), nn.Linear(40, 3, bias=False), kind())
    x = pynn.randn(70, 6)

    def modules(x):
        for m in model:
            x = m(x)
        return x

    y, count = call_count(monkeypatch, model, x)
    assert count == 2
    assert_same_bits(y, modules(x))
    fused = pynn.grad([y.sum()], list(model.parameters()))
    assert_same_bits(fused, pynn.grad([modules(x).sum()], list(model.parameters())))
    with no_grad():
        assert_same_bits(model(x), modules(x))


def test_parameters_of_activations_are_read_anew():
    model = nn.Sequential(nn.Linear(6, 4), nn.LeakyReLU(0.1), nn.Linear(4, 4), nn.GELU())
    x = pynn.randn(7, 6)
    for change in (lambda: setattr(model[1], "negative_slope", 0.7), lambda: setattr(model[3], "approximate", "tanh")):
        model(x)
        change()
        z = model[1](model[0](x))
        assert_same_bits(model(x), model[3](model[2](z)))
    model[3].approximate = "no such"
    with pytest.raises(ValueError, match="gelu: argument 'approximate'"):
        model(x)


def test_what_is_not_plain_is_called(monkeypatch):
    """Hooks, subclasses, replaced forwards and activations of the layer's own keep the two calls."""

    class Mine(nn.Linear):
        pass

    class Act(nn.ReLU):
        def forward(self, x):
            return x * 2

    x, seen = pynn.randn(7, 6), []
    for place in (0, 1):
        model = nn.Sequential(nn.Linear(6, 4), nn.ReLU())
        assert call_count(monkeypatch, model, x)[1] == 1
        handle = model[place].register_forward_hook(lambda m, args, y: seen.append(y))
        y, count = call_count(monkeypatch, model, x)
        assert count == 0
        assert_same_bits(seen[-1], y if place else F.linear(x, model[0].weight, model[0].bias))
        handle.remove()
        assert call_count(monkeypatch, model, x)[1] == 1
        model[place].register_forward_pre_hook(lambda m, args: (args[0] * 0,))
        y, count = call_count(monkeypatch, model, x)
        assert count == 0
        assert place == 0 or not y.numpy().any()
    own = nn.Linear(6, 4, activation="tanh")
    for layer, act in ((Mine(6, 4), nn.ReLU()), (nn.Linear(6, 4), Act()), (own, nn.ReLU()),
                       (nn.Linear(6, 4), nn.PReLU()), (nn.ReLU(), nn.ReLU())):  # fmt: skip
        assert _joined(layer, act) is None
    model = nn.Sequential(nn.Linear(6, 4), nn.ReLU())
    model(x)
    model[1].forward = lambda x: x - 1
    assert_same_bits(model(x), model[0](x) - 1)


def test_anomalies_are_found():
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    with pynn.detect_anomaly(), pytest.raises(FloatingPointError, match="linear_act made NaN"):
        model(tensor(np.array([[np.nan, 1]], np.float32)))


def test_errors_name_the_layer():
    """What is wrong with the input is said as of a Linear alone."""
    model = nn.Sequential(nn.Linear(3, 2), nn.ReLU())
    with pytest.raises(ValueError, match=r"^linear: argument 'W': expected shape \[O,I\] with I=4, got \(2, 3\)"):
        model(pynn.randn(5, 4))
    with pytest.raises(TypeError, match=r"^linear: argument 'x': expected dtype float32 as '[Wb]' has, got float64"):
        model(tensor(np.ones((5, 3))))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("columns", [1, 3, 4, 5, 40])
@pytest.mark.parametrize("depth", [1, 100, 127, 128, 200, 2100])
def test_few_rows(depth, columns, dtype):
    """Up to four rows, or columns, are dot products along memory where both operands lie so."""
    rng = np.random.default_rng(depth)
    w, bias = rng.standard_normal((columns, depth)).astype(dtype), rng.standard_normal(columns).astype(dtype)
    for rows in range(7):
        x = rng.standard_normal((rows, depth)).astype(dtype)
        want = x.astype(np.longdouble) @ w.T.astype(np.longdouble) + bias
        bound = (np.abs(x) @ np.abs(w.T) + np.abs(bias)) * 8 * np.finfo(dtype).eps * np.sqrt(depth)
        for a in (x, np.asfortranarray(x)):
            for b in (w, np.asfortranarray(w)):
                y = F.linear(pynn.from_numpy(a), pynn.from_numpy(b), pynn.from_numpy(bias)).numpy()
                assert (np.abs(y - want) <= bound).all(), (rows, a.strides, b.strides)
