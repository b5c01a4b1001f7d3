"""Layer norm and RMS norm: PyTorch's semantics, rows far from 0, shapes, errors."""

import numpy as np
import pytest

import pynn
from pynn import nn
from pynn.nn import functional as F


def reference(x, dims, w=None, b=None, eps=1e-5, centre=True):
    """float64, whatever x is."""
    x, axes = x.astype(np.float64), tuple(range(-dims, 0))
    d = x - x.mean(axes, keepdims=True) if centre else x
    y = d / np.sqrt((d * d).mean(axes, keepdims=True) + eps)
    return y * (1 if w is None else w) + (0 if b is None else b)


def leaf(a):
    x = pynn.tensor(np.asarray(a))
    x.requires_grad = True
    return x


@pytest.mark.parametrize(("shape", "dims"), [((5,), 1), ((5, 4), 1), ((5, 4), 2), ((2, 5, 4), 2), ((2, 5, 4), 3)])
@pytest.mark.parametrize("given", ["", "w", "b", "wb"])
def test_trailing_dimensions(shape, dims, given):
    """F-NORM-3: S1 §5.3."""
    rng = np.random.default_rng(0)
    x, normal = rng.standard_normal(shape) + 3, shape[-dims:]
    w = rng.standard_normal(normal) if "w" in given else None
    b = rng.standard_normal(normal) if "b" in given else None
    ws, bs = (None if a is None else pynn.tensor(a) for a in (w, b))
    y = F.layer_norm(pynn.tensor(x), normal, ws, bs, 0.01)
    np.testing.assert_allclose(y.numpy(), reference(x, dims, w, b, 0.01), rtol=1e-12, atol=1e-12)
    if bs is None:
        y = F.rms_norm(pynn.tensor(x), normal, ws, 0.01)
        np.testing.assert_allclose(y.numpy(), reference(x, dims, w, eps=0.01, centre=False), rtol=1e-12)


@pytest.mark.parametrize("n", [9, 64, 1000, 5000])
@pytest.mark.parametrize("offset", [0, 1e2, 1e4, -1e5])
def test_rows_far_from_0(n, offset):
    """float32: neither E[x²] − E[x]² nor a rounded mean would pass."""
    rng = np.random.default_rng(1)
    x = (rng.standard_normal((6, n)) + offset).astype(np.float32)
    g, w = rng.standard_normal((6, n)).astype(np.float32), rng.uniform(-2, 2, n).astype(np.float32)
    wide = [leaf(a.astype(np.float64)) for a in (x, w, w)]
    F.layer_norm(wide[0], n, *wide[1:]).backward(pynn.tensor(g.astype(np.float64)))
    near = [leaf(a) for a in (x, w, w)]
    y = F.layer_norm(near[0], n, *near[1:])
    y.backward(pynn.tensor(g))
    np.testing.assert_allclose(y.detach().numpy(), reference(x, 1, w, w), atol=4e-6)
    for a, b in zip(near, wide):
        np.testing.assert_allclose(a.grad.numpy(), b.grad.numpy(), rtol=0, atol=3e-6 * np.abs(b.grad.numpy()).max())


@pytest.mark.parametrize("value", [0.0, 0.1, -1e4, 3e30])
def test_equal_elements_give_the_bias(value):
    x = leaf(np.full((3, 700), value, np.float32))
    w, b = leaf(np.full(700, 2, np.float32)), leaf(np.arange(700, dtype=np.float32))
    y = F.layer_norm(x, 700, w, b)
    assert (y.detach().numpy() == b.detach().numpy()).all()
    y.sum().backward()
    assert not w.grad.numpy().any()
    assert not np.isnan(x.grad.numpy()).any()


def test_the_two_norms_of_table_5_4_differ_in_their_axes():
    """F-NORM-4: layer norm's statistics are a sample's own, those of the batch change nothing."""
    x = np.random.default_rng(2).standard_normal((8, 16))
    one = F.layer_norm(pynn.tensor(x[:1]), 16).numpy()
    assert (F.layer_norm(pynn.tensor(x), 16).numpy()[:1] == one).all()
    np.testing.assert_allclose(one.mean(), 0, atol=1e-15)


def test_rms_eps_is_the_dtypes_epsilon():
    for dtype in (np.float32, np.float64):
        x = np.full((2, 4), 1e-4, dtype)
        eps = np.finfo(dtype).eps
        got = F.rms_norm(pynn.tensor(x), 4).numpy()
        np.testing.assert_allclose(got, reference(x, 1, eps=eps, centre=False), rtol=1e-6)
        np.testing.assert_allclose(nn.RMSNorm(4, dtype=dtype)(pynn.tensor(x)).detach().numpy(), got)


def test_modules():
    m = nn.LayerNorm((3, 4))
    assert {k: v.shape for k, v in m.state_dict().items()} == {"weight": (3, 4), "bias": (3, 4)}
    assert (m.weight.detach().numpy() == 1).all()
    assert not m.bias.detach().numpy().any()
    assert "(3, 4), eps=1e-05, elementwise_affine=True" in repr(m)
    assert list(nn.LayerNorm(4, bias=False).state_dict()) == ["weight"]
    assert not nn.LayerNorm(4, elementwise_affine=False).state_dict()
    assert not nn.RMSNorm(4, elementwise_affine=False).state_dict()
    r = nn.RMSNorm([5])
    assert list(r.state_dict()) == ["weight"]
    assert r.normalized_shape == (5,)
    assert r.eps is None
    x = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)
    np.testing.assert_allclose(m(pynn.tensor(x)).detach().numpy(), reference(x, 2), atol=1e-6)
    wide = nn.LayerNorm(4, dtype=np.float64)
    assert wide.weight.dtype == np.float64
    for size in ((), (2, -1)):
        with pytest.raises(ValueError, match="LayerNorm: argument 'normalized_shape': expected sizes of at least one"):
            nn.LayerNorm(size)


def test_bad_arguments():
    x, w = pynn.ones(2, 3, 4), pynn.ones(3, 4)
    for f in (F.layer_norm, F.rms_norm):
        name = f.__name__
        with pytest.raises(
            ValueError, match=rf"^{name}: argument 'input': expected a shape that ends with .* \(4, 4\)"
        ):
            f(x, (4, 4))
        with pytest.raises(ValueError, match=rf"^{name}: argument 'input': expected a shape that ends .*\(2, 3, 4\)$"):
            f(x, 3)
        with pytest.raises(ValueError, match=rf"^{name}: argument 'weight': expected shape \(3, 4\), got \(4, 3\)$"):
            f(x, (3, 4), pynn.ones(4, 3))
        with pytest.raises(
            ValueError, match=rf"^{name}: argument 'normalized_shape': expected sizes of at least one dimension"
        ):
            f(x, ())
        with pytest.raises(TypeError, match=rf"^{name}: argument 'x': expected dtype float64 as 'weight' has"):
            f(x, (3, 4), w.astype(np.float64))
        with pytest.raises(TypeError, match=rf"^{name}: argument 'x': expected a floating dtype, got int64"):
            f(x.astype(np.int64), (3, 4))


def test_bias_may_change_before_backward():
    """It is not needed there, so an optimizer may have stepped on it."""
    x, w, b = leaf(np.random.default_rng(0).standard_normal((3, 5))), leaf(np.ones(5)), leaf(np.zeros(5))
    y = F.layer_norm(x, 5, w, b)
    with pynn.no_grad():
        b.fill_(7.0)
    y.sum().backward()
    assert b.grad.tolist() == [3] * 5


@pytest.mark.parametrize("wanted", range(1, 8))
def test_each_gradient_alone_has_the_bits_of_all(wanted):
    """Frozen parameters and inputs take no part of the work, and change no bit of the rest."""
    rng = np.random.default_rng(3)
    arrays = [rng.standard_normal(s).astype(np.float32) for s in ((71, 19), (19,), (19,))]
    g = pynn.tensor(rng.standard_normal((71, 19)).astype(np.float32))
    every = [leaf(a) for a in arrays]
    F.layer_norm(every[0], 19, *every[1:]).backward(g)
    some = [leaf(a) if wanted >> k & 1 else pynn.tensor(a) for k, a in enumerate(arrays)]
    F.layer_norm(some[0], 19, *some[1:]).backward(g)
    for k in range(3):
        if wanted >> k & 1:
            assert (some[k].grad.numpy() == every[k].grad.numpy()).all()
        else:
            assert some[k].grad is None
