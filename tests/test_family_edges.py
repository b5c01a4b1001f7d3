"""Infinities, NaN, ties and integers, where a kernel and its formula part easily; labels that change meanwhile."""

import contextlib
import threading
import time

import numpy as np
import pytest

import pynn
from pynn import OPS
from pynn.nn import functional as F

INF, NAN = np.inf, np.nan
POINTS = np.array([INF, -INF, NAN, 0.1, -0.1, 2.9, 3.1, -2.9, -3.1, 19, 21, 88, -88, 100, -100, 1e30, -1e30])
ONE = "relu leaky_relu hardtanh relu6 gelu gelu_tanh silu elu selu softplus logsigmoid hardsigmoid hardswish".split()


def slopes(f, *arrays, seed=1.0):
    """(value, gradients of all arguments from a seed)."""
    xs = [pynn.tensor(np.asarray(a, np.float64)) for a in arrays]
    for x in xs:
        x.requires_grad = True
    y = f(*xs)
    g = pynn.grad(y, xs, pynn.tensor(np.broadcast_to(np.float64(seed), y.shape).copy()))
    return [v.detach().numpy_copy() for v in (y, *g)]


def both(op, *arrays, **params):
    params = {**op.defaults, **params}
    kernel = slopes(lambda *xs: op(*xs, **params), *arrays)
    formula = slopes(lambda *xs: op.formula(*xs, **params), *arrays)
    for k, (a, b) in enumerate(zip(kernel, formula, strict=True)):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12, err_msg=f"{op.name}, {k}")


@pytest.mark.parametrize("name", ONE)
def test_activations_agree_with_their_formulas(name):
    op = OPS[name]
    if name == "hardsigmoid":  # the derivative at a NaN is PyTorch's, 0, which the backward's formula says
        got = slopes(op, POINTS)[1]
        want = op.bwd_formula(pynn.tensor(np.ones(len(POINTS))), pynn.tensor(POINTS)).numpy()
        assert (got == want).all()
        assert got[2] == 0
    points = POINTS if name != "hardsigmoid" else POINTS[~np.isnan(POINTS)]
    both(op, points)


def test_prelu_and_losses_agree_with_their_formulas():
    both(OPS.prelu, POINTS, np.full(len(POINTS), 0.25))
    a, b = (m.reshape(-1) for m in np.meshgrid(POINTS, POINTS))
    for name in ("mse_loss", "l1_loss", "huber_loss"):
        both(OPS[name], a, b, reduction=0)


def test_l1_derivative_of_infinities():
    _, dx, dt = slopes(lambda x, t: F.l1_loss(x, t, reduction="none"), [INF, INF, 0, NAN], [INF, -INF, INF, 0])
    np.testing.assert_array_equal(dx, [NAN, 1, -1, NAN])
    np.testing.assert_array_equal(dt, -dx)


@pytest.mark.parametrize(("f", "sign"), [(pynn.maximum, 1), (pynn.minimum, -1)])
def test_an_infinite_gradient_stays_with_the_operand_chosen(f, sign):
    a, b = sign * np.array([1.0, 2, 3]), sign * np.array([2.0, 1, 3])
    _, da, db = slopes(f, a, b, seed=INF)
    assert da.tolist() == [0, INF, INF]
    assert db.tolist() == [INF, 0, INF]
    _, da, db = slopes(f, a, b, seed=4.0)
    assert da.tolist() == [0, 4, 2]
    assert db.tolist() == [4, 0, 2]
    _, da, db = slopes(f, [NAN, 1.0], [1.0, NAN])  # as PyTorch
    assert da.tolist() == db.tolist() == [1, 1]


def test_logsumexp_of_rows_without_a_finite_element():
    """As PyTorch: the value is the limit, the gradient NaN where nothing decides it."""
    x = [[-INF, -INF], [INF, 0], [0, -INF]]
    y, dx = slopes(lambda x: pynn.logsumexp(x, -1), x)
    assert y.tolist() == [-INF, INF, 0]
    np.testing.assert_array_equal(dx, [[NAN, NAN], [NAN, 0], [1, 0]])


def test_mean_of_integers():
    big = 2**53 - 1
    table = ((np.int64, np.float64), (np.int32, np.float64), (np.uint8, np.float32), (np.bool_, np.float32))
    for dtype, gives in table:
        y = pynn.mean(pynn.tensor(np.array([[1, 0], [1, 1]], dtype)), 0)
        assert y.tolist() == [1, 0.5]
        assert y.dtype == gives
    assert pynn.mean(pynn.tensor(np.array([big, big]))).item() == big
    assert pynn.mean(pynn.tensor(np.full(2**20, 255, np.uint8))).item() == 255
    assert np.isnan(pynn.mean(pynn.tensor(np.zeros(0, np.int64))).item())


@pytest.mark.parametrize("f", [F.cross_entropy, pynn.ops.losses.nll_loss], ids=["cross_entropy", "nll_loss"])
def test_labels_that_another_thread_writes(f):
    """A label is read once and checked: any sequence of good and bad ones gives a number or an IndexError."""
    labels = np.zeros(4096, np.int64)
    x = pynn.tensor(np.zeros((4096, 40), np.float32))
    x.requires_grad = True
    stop = threading.Event()

    def write():
        while not stop.is_set():
            labels.fill(2**50)
            labels.fill(0)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        end, done = time.monotonic() + 0.5, 0
        while time.monotonic() < end:
            with contextlib.suppress(IndexError):
                loss = f(x, pynn.from_numpy(labels), weight=pynn.ones(40), reduction="sum")
                loss.backward()
            done += 1
    finally:
        stop.set()
        writer.join()
    assert done > 1
    assert x.grad is None or np.isfinite(x.grad.numpy()).all()
