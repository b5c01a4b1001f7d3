"""What is specific to activations, softmax and losses; the checks that every op gets are in test_ops.py.

The ids name the rows of the feature list: F-ACT-1 … F-ACT-6, F-LOSS-1, 2, 4, 5, 6.
"""

import numpy as np
import pytest
from scipy import special

import pynn
from pynn.ops import losses as L
from pynn.ops import softmax as S
from pynn.ops.activation import (
    elu,
    gelu,
    hardsigmoid,
    hardswish,
    hardtanh,
    leaky_relu,
    logsigmoid,
    mish,
    prelu,
    relu,
    relu6,
    selu,
    silu,
    softplus,
)  # fmt: skip

INF, NAN = np.inf, np.nan


def leaf(a, dtype=np.float64):
    return pynn.tensor(np.asarray(a, dtype), requires_grad=True)


def values(x):
    return x.detach().numpy()


def derivative(f, x):
    x = leaf(x)
    return values(pynn.grad(f(x).sum(), x)[0])


def close(got, want, tol=1e-12):
    got = values(got) if isinstance(got, pynn.Tensor) else got
    np.testing.assert_allclose(
        got, want, rtol=tol, atol=tol * np.abs(np.asarray(want)[np.isfinite(want)]).max(initial=0)
    )


def cdf(x):
    return special.ndtr(x)


ACTIVATIONS = {
    "F-ACT-1 sigmoid": (pynn.OPS.sigmoid, special.expit),
    "F-ACT-2 tanh": (pynn.OPS.tanh, np.tanh),
    "F-ACT-3 relu": (relu, lambda x: np.maximum(x, 0)),
    "F-ACT-4 leaky_relu": (lambda x: leaky_relu(x, 0.2), lambda x: np.where(x > 0, x, 0.2 * x)),
    "F-ACT-5 softmax": (S.softmax, lambda x: special.softmax(x, -1)),
    "F-ACT-5 log_softmax": (S.log_softmax, lambda x: special.log_softmax(x, -1)),
    "F-ACT-6 gelu": (gelu, lambda x: x * cdf(x)),
    "F-ACT-6 gelu tanh": (
        lambda x: gelu(x, approximate="tanh"),
        lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    ),
    "silu": (silu, lambda x: x * special.expit(x)),
    "elu": (lambda x: elu(x, 1.5), lambda x: np.where(x > 0, x, 1.5 * np.expm1(np.minimum(x, 0)))),
    "selu": (
        selu,
        lambda x: 1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * np.expm1(np.minimum(x, 0))),
    ),
    "softplus": (softplus, lambda x: np.where(x > 20, x, np.logaddexp(0, x))),
    "softplus beta": (
        lambda x: softplus(x, 2, 3), lambda x: np.where(2 * x > 3, x, np.logaddexp(0, 2 * x) / 2)
    ),
    "logsigmoid": (logsigmoid, special.log_expit),
    "hardsigmoid": (hardsigmoid, lambda x: np.clip(x / 6 + 0.5, 0, 1)),
    "hardswish": (hardswish, lambda x: x * np.clip(x / 6 + 0.5, 0, 1)),
    "hardtanh": (lambda x: hardtanh(x, -0.5, 2), lambda x: np.clip(x, -0.5, 2)),
    "relu6": (relu6, lambda x: np.clip(x, 0, 6)),
    "mish": (mish, lambda x: x * np.tanh(np.logaddexp(0, x))),
}  # fmt: skip
EXTREME = np.array([-1e4, -1e3, -100, -50, -20, -3, -1, -0.5, -1e-6, 0, 1e-6, 0.5, 1, 2, 3, 6, 19.9, 20.1, 100, 1e4])


@pytest.mark.parametrize(("f", "reference"), ACTIVATIONS.values(), ids=ACTIVATIONS)
def test_values_from_1e_6_to_1e4(f, reference):
    y = f(pynn.tensor(EXTREME))
    assert y.dtype == np.float64
    close(y, reference(EXTREME))
    y = f(pynn.tensor(EXTREME.astype(np.float32)))
    assert y.dtype == np.float32
    close(y, reference(EXTREME.astype(np.float32).astype(np.float64)), 1e-6)


@pytest.mark.parametrize(("f", "reference"), ACTIVATIONS.values(), ids=ACTIVATIONS)
def test_derivatives_are_differences_of_the_reference(f, reference):
    """With a seed, so that softmax's row sum does not hide its own; away from kinks, five points, in float64."""
    x, v, h = np.array([-2.7, -1.4, -0.3, 0.4, 1.2, 2.3]), np.array([0.7, -1.1, 1.9, 0.4, -0.6, 1.3]), 1e-3
    t = leaf(x)
    want = [
        sum(c * (v @ reference(x + k * h * e)) for k, c in ((1, 8), (-1, -8), (2, -1), (-2, 1))) / (12 * h)
        for e in np.eye(len(x))
    ]
    close(pynn.grad(f(t), [t], pynn.Tensor(v))[0], np.array(want), 1e-9)


@pytest.mark.parametrize(("f", "reference"), ACTIVATIONS.values(), ids=ACTIVATIONS)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_derivatives_are_finite_at_1e4(f, reference, dtype):
    x = leaf(EXTREME, dtype)
    (g,) = pynn.grad(f(x).sum(), x, create_graph=True)
    assert np.isfinite(values(g)).all()
    if g.requires_grad:
        (h,) = pynn.grad((g * g).sum(), x, allow_unused=True)  # none where f is linear in pieces
        assert h is None or np.isfinite(values(h)).all()


@pytest.mark.parametrize(("f", "reference"), ACTIVATIONS.values(), ids=ACTIVATIONS)
def test_nan_stays_nan(f, reference):
    assert np.isnan(values(f(pynn.tensor([NAN, 1.0, -1.0])))[0])


@pytest.mark.parametrize(("f", "x", "want"), [
    (relu, [0.0, -0.0, 1e-9, -1e-9], [0, 0, 1, 0]),
    (lambda x: leaky_relu(x, 0.1), [0.0, 1, -1], [0.1, 1, 0.1]),
    (relu6, [0.0, 6.0, 3.0], [0, 0, 1]),
    (hardtanh, [-1.0, 1.0, 0.0], [0, 0, 1]),
    (hardsigmoid, [-3.0, 3.0, 0.0], [0, 0, 1 / 6]),
    (hardswish, [-3.0, 3.0, 0.0], [0, 1, 0.5]),
    (elu, [0.0], [1]),
    (softplus, [0.0, 25.0], [0.5, 1]),
    (gelu, [0.0], [0.5]),
    (lambda x: prelu(x, pynn.tensor([0.25], dtype=np.float64)), [0.0, -2.0], [0.25, 0.25]),
], ids=["F-ACT-3 relu", "F-ACT-4 leaky_relu", "relu6", "hardtanh", "hardsigmoid", "hardswish", "elu", "softplus",
        "F-ACT-6 gelu", "prelu"])  # fmt: skip
def test_derivative_at_kinks_is_pytorchs(f, x, want):
    close(derivative(f, x), np.array(want, float))


@pytest.mark.parametrize(("op", "saved"), [
    ("relu", ["y"]), ("hardtanh", ["y"]), ("gelu", ["x"]), ("softmax", ["y"]), ("log_softmax", ["y"]),
])  # fmt: skip
def test_only_what_backward_needs_is_saved(op, saved):
    y = pynn.OPS[op](leaf([[0.5, -0.5]]))
    assert [row[0] for row in y.grad_fn.saved] == saved


def test_softplus_has_a_second_derivative_at_0():
    x = leaf([0.0])
    (g,) = pynn.grad(softplus(x), x, create_graph=True)
    close(pynn.grad(g, x)[0], [0.25])


@pytest.mark.parametrize(
    ("shape", "n"), [((4, 3, 5), 3), ((4, 3), 3), ((4, 3, 2, 5), 3), ((4, 3, 5), 1), ((7,), 1), ((), 1)]
)
def test_prelu_weight_runs_along_dimension_1(shape, n):
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal(shape), rng.standard_normal(n)
    x, w, seed = leaf(a), leaf(b), rng.standard_normal(shape)
    wide = b.reshape((n,) + (1,) * (len(shape) - 2)) if n > 1 else b[0]
    y = prelu(x, w)
    close(y, np.where(a > 0, a, wide * a))
    dx, dw = pynn.grad(y, [x, w], pynn.tensor(seed))
    close(dx, seed * np.where(a > 0, 1, wide))
    each = seed * np.where(a > 0, 0, a)
    close(dw, each.sum(tuple(d for d in range(len(shape)) if d != 1)) if n > 1 else each.sum().reshape(1))


def test_bad_arguments_of_activations():
    x = pynn.tensor([1.0, 2.0])
    with pytest.raises(ValueError, match=r"^gelu: argument 'approximate': expected 'none' or 'tanh', got 'erf'$"):
        gelu(x, approximate="erf")
    with pytest.raises(ValueError, match=r"^hardtanh: argument 'max_val': expected at least min_val=1, got -1$"):
        hardtanh(x, 1, -1)
    with pytest.raises(ValueError, match=r"^prelu: argument 'weight': expected 1 dimension, got shape \(1, 2\)$"):
        prelu(x, pynn.tensor([[1.0, 2.0]]))
    text = r"^prelu: argument 'weight': expected 1 element or 3, the size of dimension 1 of input \(2, 3\), got 2$"
    with pytest.raises(ValueError, match=text):
        prelu(pynn.tensor(np.ones((2, 3))), x)
    with pytest.raises(TypeError, match=r"^relu: argument 'x': expected"):
        relu("text")


# ---- softmax -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [0, 1, 2, -1, -2, -3])
@pytest.mark.parametrize(("f", "reference"), [(S.softmax, special.softmax), (S.log_softmax, special.log_softmax)],
                         ids=["F-ACT-5 softmax", "F-ACT-5 log_softmax"])  # fmt: skip
def test_softmax_along_any_dimension(f, reference, dim):
    a = np.random.default_rng(0).standard_normal((3, 70, 17)) * 5
    close(f(pynn.tensor(a), dim), reference(a, dim))
    close(
        f(pynn.tensor(a.astype(np.float32)), dim, dtype=np.float64), reference(a.astype(np.float32).astype(float), dim)
    )


@pytest.mark.parametrize(("row", "soft", "log"), [
    ([1e4, -1e4, 1e4], [0.5, 0, 0.5], [-np.log(2), -2e4 - np.log(2), -np.log(2)]),
    ([-INF, 0.0, 0.0], [0, 0.5, 0.5], [-INF, -np.log(2), -np.log(2)]),
    ([-INF, -INF, -INF], [NAN] * 3, [NAN] * 3),
    ([INF, 0.0, 1.0], [NAN] * 3, [NAN] * 3),
    ([NAN, 0.0, 1.0], [NAN] * 3, [NAN] * 3),
], ids=["1e4", "one -inf", "all -inf", "inf", "nan"])  # fmt: skip
@pytest.mark.parametrize("repeat", [1, 20])  # a row within one vector, and over several
def test_softmax_of_extreme_rows(row, soft, log, repeat):
    x = pynn.tensor(np.tile(row, repeat))
    close(S.softmax(x), np.tile(soft, repeat) / repeat)
    close(S.log_softmax(x), np.tile(log, repeat) - np.log(repeat))


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0,)])
def test_softmax_of_nothing(shape):
    x = leaf(np.zeros(shape))
    for f in (S.softmax, S.log_softmax):
        y = f(x)
        assert y.shape == shape
        assert pynn.grad(y.sum(), x)[0].shape == shape


def test_softmax_of_a_number_and_dimensions_out_of_range():
    assert S.softmax(pynn.tensor(3.0), 0).item() == 1
    with pytest.raises(IndexError, match=r"^softmax: argument 'dim': expected -2 <= dim < 2, got 2$"):
        S.softmax(pynn.tensor([[1.0]]), 2)
    with pytest.raises(IndexError, match=r"^log_softmax: argument 'dim': expected 0 or -1 for a 0-d tensor, got 1$"):
        S.log_softmax(pynn.tensor(1.0), 1)


@pytest.mark.parametrize("dim", [0, 1, (0, 2), -1])
@pytest.mark.parametrize("keepdim", [False, True])
def test_logsumexp(dim, keepdim):
    a = np.random.default_rng(0).standard_normal((3, 4, 5))
    a[0] = [1e4] * 5
    a[1, 2, :3] = -INF
    x = leaf(a)
    y = S.logsumexp(x, dim, keepdim)
    close(y, special.logsumexp(a, dim, keepdims=keepdim))
    close(pynn.grad(y.sum(), x)[0], special.softmax(np.where(np.isinf(a), -1e9, a), dim))


def test_logsumexp_of_infinities():
    assert values(S.logsumexp(pynn.tensor([[-INF, -INF], [INF, 0.0]]), 1)).tolist() == [-INF, INF]
    assert values(S.logsumexp(pynn.ones(2, 0), 1)).tolist() == [-INF, -INF]
    assert S.logsumexp(pynn.ones(0, 3), 1, True).shape == (0, 1)


# ---- cross-entropy -------------------------------------------------------------------------------


def reference(x, q, w, reduction, total):
    """−Σ q·w·log p over the last dimension."""
    loss = -(np.where(q == 0, 0, q * w) * special.log_softmax(x, -1)).sum(-1)
    return {"none": loss, "sum": loss.sum(), "mean": loss.sum() / total}[reduction]


def slope(x, q, w, reduction, total):
    """The derivative of reference()'s sum: p·Σ q·w − q·w, which is p − y for one label."""
    a = q * w
    return (special.softmax(x, -1) * a.sum(-1, keepdims=True) - a) / (total if reduction == "mean" else 1)


def case(shape=(37, 10), seed=0):
    rng = np.random.default_rng(seed)
    return (
        rng.standard_normal(shape) * 3,
        np.asarray(rng.integers(0, shape[-1], shape[:-1])),
        rng.uniform(0.2, 2, shape[-1]),
    )


def one_hot(t, c):
    return np.eye(c)[t]


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("smooth", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("weighted", [False, True], ids=["", "weight"])
@pytest.mark.parametrize("shape", [(37, 10), (10,), (1, 1), (1000, 3), (5, 300)], ids=str)
def test_cross_entropy_by_index(shape, weighted, smooth, reduction):
    """F-LOSS-4: the mean divides by the labels' weights, smoothing weights every class."""
    x, t, w = case(shape)
    c = shape[-1]
    q = (1 - smooth) * one_hot(t, c) + smooth / c
    of = x, q, w if weighted else np.ones(c), reduction, w[t].sum() if weighted else t.size
    weight, z = pynn.tensor(w) if weighted else None, leaf(x)
    got = L.cross_entropy(z, pynn.tensor(t), weight, reduction=reduction, label_smoothing=smooth)
    close(got, reference(*of))
    close(pynn.grad(got.sum(), z)[0], slope(*of))


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("smooth", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True], ids=["", "weight"])
def test_cross_entropy_by_probability(weighted, smooth, reduction):
    """F-LOSS-4: the mean divides by the rows, whatever the weights."""
    x, _t, w = case()
    q = np.random.default_rng(1).dirichlet(np.ones(10), 37)
    of = x, (1 - smooth) * q + smooth / 10, w if weighted else np.ones(10), reduction, 37
    weight, z = pynn.tensor(w) if weighted else None, leaf(x)
    got = L.cross_entropy(z, pynn.tensor(q), weight, reduction=reduction, label_smoothing=smooth)
    close(got, reference(*of))
    close(pynn.grad(got.sum(), z)[0], slope(*of))


def test_cross_entropy_of_one_hot_is_that_of_labels():
    """F-LOSS-4"""
    x, t, _ = case()
    a, b = leaf(x), leaf(x)
    by_index = L.cross_entropy(a, pynn.tensor(t))
    by_one_hot = L.cross_entropy(b, pynn.tensor(one_hot(t, 10)))
    close(by_index, values(by_one_hot))
    close(pynn.grad(by_index, a)[0], values(pynn.grad(by_one_hot, b)[0]))


def test_cross_entropy_gradient_is_p_minus_y():
    """F-LOSS-4: S1 §1.2."""
    x, t, _ = case()
    z = leaf(x)
    (g,) = pynn.grad(L.cross_entropy(z, pynn.tensor(t)), z)
    close(g, (special.softmax(x, -1) - one_hot(t, 10)) / 37)


@pytest.mark.parametrize("ignore", [-100, 3, 10])
@pytest.mark.parametrize("weighted", [False, True], ids=["", "weight"])
@pytest.mark.parametrize("smooth", [0.0, 0.1])
def test_ignored_rows_count_nowhere(ignore, weighted, smooth):
    """F-LOSS-4: neither in the sum, nor in what the mean divides by, nor in the gradient."""
    x, t, w = case()
    t[::3] = ignore
    counts = t != ignore
    x[~counts, 0] = NAN  # not even a NaN
    weight = pynn.tensor(w) if weighted else None
    z, y = leaf(x), leaf(x[counts])
    options = {"weight": weight, "label_smoothing": smooth}
    loss = L.cross_entropy(z, pynn.tensor(t), ignore_index=ignore, **options)
    kept = L.cross_entropy(y, pynn.tensor(t[counts]), **options)
    close(loss, values(kept))
    dz = values(pynn.grad(loss, z)[0])
    close(dz[counts], values(pynn.grad(kept, y)[0]))
    assert not dz[~counts].any()
    each = L.cross_entropy(z, pynn.tensor(t), ignore_index=ignore, reduction="none", **options)
    assert not values(each)[~counts].any()


def test_means_of_nothing_are_nan_as_in_pytorch():
    """F-LOSS-4"""
    none = pynn.tensor(np.zeros((0, 3))), pynn.tensor(np.zeros(0, int))
    x = leaf(np.zeros((2, 3)))
    ignored = pynn.tensor([-100, -100])
    assert np.isnan(L.cross_entropy(*none).item())
    assert L.cross_entropy(*none, reduction="sum").item() == 0
    assert L.cross_entropy(*none, reduction="none").shape == (0,)
    assert np.isnan(L.cross_entropy(x, ignored).item())
    loss = L.cross_entropy(x, ignored, reduction="sum")
    assert loss.item() == 0
    assert not values(pynn.grad(loss, x)[0]).any()


def test_empty_batch_has_an_empty_gradient():
    """F-LOSS-4"""
    x = leaf(np.zeros((0, 3)))
    L.cross_entropy(x, pynn.tensor(np.zeros(0, int))).backward()
    assert x.grad.shape == (0, 3)


@pytest.mark.parametrize(("dtype", "tol"), [(np.float64, 1e-12), (np.float32, 1e-6)])
def test_cross_entropy_at_1e4(dtype, tol):
    """F-LOSS-4: neither overflow nor the loss of log Σ beside a large maximum."""
    x = np.array([[1e4, 1e4 - 1, -1e4], [-1e4, -1e4, -1e4], [0, 1e4, 0]])
    z = leaf(x, dtype)
    loss = L.cross_entropy(z, pynn.tensor([0, 1, 0]), reduction="none")
    close(loss, [np.log1p(np.exp(-1)), np.log(3), 1e4], tol)
    (g,) = pynn.grad(loss.sum(), z)
    close(g, special.softmax(x, -1) - one_hot([0, 1, 0], 3), tol)


def test_cross_entropy_with_classes_that_cannot_occur():
    """F-LOSS-4: a logit of -inf has probability 0 and gradient 0."""
    z = leaf([[0.0, -INF, 1.0]])
    loss = L.cross_entropy(z, pynn.tensor([0]))
    close(loss, np.log1p(np.e))
    close(pynn.grad(loss, z)[0], [[1 / (1 + np.e) - 1, 0, np.e / (1 + np.e)]])


@pytest.mark.parametrize("soft", [False, True], ids=["index", "probability"])
def test_classes_are_dimension_1_of_images(soft):
    """F-LOSS-4"""
    rng = np.random.default_rng(0)
    x, t = rng.standard_normal((2, 5, 3, 4)), rng.integers(0, 5, (2, 3, 4))
    q = np.moveaxis(one_hot(t, 5), -1, 1)
    z = leaf(x)
    loss = L.cross_entropy(z, pynn.tensor(q if soft else t), reduction="none")
    p = special.softmax(x, 1)
    close(loss, -np.log((p * q).sum(1)))
    close(pynn.grad(loss.sum(), z)[0], p - q)
    nll = L.nll_loss(S.log_softmax(pynn.tensor(x), 1), pynn.tensor(t), reduction="none")
    close(nll, values(loss))


def test_probabilities_have_gradients():
    """F-LOSS-4"""
    x, t, w = case((4, 5))
    q = leaf(one_hot(t, 5))
    loss = L.cross_entropy(pynn.tensor(x), q, pynn.tensor(w), reduction="sum", label_smoothing=0.25)
    close(pynn.grad(loss, q)[0], -0.75 * w * special.log_softmax(x, -1))


@pytest.mark.parametrize("f", [L.cross_entropy, L.nll_loss], ids=["F-LOSS-4 cross_entropy", "nll_loss"])
@pytest.mark.parametrize("bad", [3, -1, -100, 2**40])
def test_a_label_out_of_range_is_named(f, bad):
    t = np.zeros((2, 4), int)
    t[1, 2] = bad
    t[1, 3] = 99
    text = rf"^{f.__name__}: argument 'target': expected 0 <= value < 3, got {bad} at target\[1, 2\]$"
    x = leaf(np.zeros((2, 3, 4)))
    with pytest.raises(IndexError, match=text):
        f(x, pynn.tensor(t), ignore_index=-7)
    assert x.grad is None
    if bad == -100:
        assert np.isfinite(f(pynn.tensor(np.zeros((2, 3, 4))), pynn.tensor(np.where(t == 99, 0, t))).item())


def test_bad_arguments_of_cross_entropy():
    """F-LOSS-4"""
    x, t = pynn.tensor(np.zeros((2, 3))), pynn.tensor([0, 1])
    for args, options, error, text in (
        ((x, pynn.tensor([0, 1, 2])), {}, ValueError, r"argument 'target': expected shape .*, got \(3,\)"),
        ((x, pynn.tensor([0])), {}, ValueError,
         r"argument 'target': expected shape \(2,\) for input \(2, 3\) with classes last, got \(1,\)"),
        ((x, pynn.tensor([0.0, 1.0])), {}, TypeError, "argument 'target': expected integers, got dtype float32"),
        ((x, pynn.tensor(np.ones((2, 3), int))), {}, TypeError,
         r"argument 'target': expected floating class probabilities, for it has the shape \(2, 3\) of input, "
         "got dtype int64"),
        ((x, t, pynn.tensor(np.ones(4))), {}, ValueError,
         r"argument 'weight': expected shape \[C\] with C=3, got \(4,\)"),
        ((x, t), {"reduction": "avg"}, ValueError, "argument 'reduction': expected 'none', 'mean' or 'sum', got 'avg'"),
        ((x, t), {"label_smoothing": 1.5}, ValueError, "argument 'label_smoothing': expected 0 to 1, got 1.5"),
        ((pynn.tensor(1.0), t), {}, ValueError,
         r"argument 'input': expected shape \[C\], \[N,C\] or \[N,C,...\], got \(\)"),
        ((pynn.tensor(np.zeros((2, 0))), t), {}, ValueError,
         r"argument 'input': expected at least one class, got shape \(2, 0\)"),
        ((pynn.tensor(np.zeros((2, 3, 4))), t), {}, ValueError,
         r"argument 'target': expected shape \(2, 4\) for input \(2, 3, 4\), got \(2,\)"),
    ):  # fmt: skip
        with pytest.raises(error, match=f"^cross_entropy: {text}$"):
            L.cross_entropy(*args, **options)


def test_what_the_kernel_keeps_has_no_history():
    loss, norm, total = pynn.OPS.cross_entropy(leaf(np.zeros((2, 3))), pynn.tensor([0, 1]))
    assert loss.requires_grad
    assert not norm.requires_grad
    assert not total.requires_grad


# ---- elementwise losses --------------------------------------------------------------------------

PAIRS = {
    "F-LOSS-1 mse_loss": (L.mse_loss, lambda x, t: (x - t) ** 2, lambda x, t: 2 * (x - t)),
    "F-LOSS-2 l1_loss": (L.l1_loss, lambda x, t: np.abs(x - t), lambda x, t: np.sign(x - t)),
    "huber_loss": (
        lambda x, t, **o: L.huber_loss(x, t, delta=0.7, **o), lambda x, t: special.huber(0.7, x - t),
        lambda x, t: np.clip(x - t, -0.7, 0.7),
    ),
    "smooth_l1_loss": (
        lambda x, t, **o: L.smooth_l1_loss(x, t, beta=0.5, **o), lambda x, t: special.huber(0.5, x - t) / 0.5,
        lambda x, t: np.clip(x - t, -0.5, 0.5) / 0.5,
    ),
    "F-LOSS-5 binary_cross_entropy": (
        L.binary_cross_entropy, lambda x, t: -special.xlogy(t, x) - special.xlog1py(1 - t, -x),
        lambda x, t: (x - t) / (x * (1 - x)),
    ),
    "F-LOSS-6 binary_cross_entropy_with_logits": (
        L.binary_cross_entropy_with_logits, lambda x, t: np.logaddexp(0, x) - t * x, lambda x, t: special.expit(x) - t,
    ),
}  # fmt: skip


@pytest.mark.parametrize("shape", [(), (7,), (33, 5), (400, 300)], ids=str)
@pytest.mark.parametrize(("f", "each", "slope"), PAIRS.values(), ids=PAIRS)
def test_elementwise_losses(f, each, slope, shape):
    rng = np.random.default_rng(0)
    x, t = rng.uniform(0.01, 0.99, shape), rng.uniform(0, 1, shape)
    n = max(1, x.size)
    for reduction, scale in (("none", 1), ("sum", 1), ("mean", n)):
        z = leaf(x)
        loss = f(z, pynn.tensor(t), reduction=reduction)
        close(loss, each(x, t) if reduction == "none" else each(x, t).sum() / scale)
        close(pynn.grad(loss.sum(), z)[0], slope(x, t) / scale)


@pytest.mark.parametrize(("f", "each", "slope"), PAIRS.values(), ids=PAIRS)
def test_elementwise_losses_of_nothing_and_of_other_shapes(f, each, slope):
    z = leaf(np.zeros((0, 3)))
    assert np.isnan(f(z, z.detach()).item())
    loss = f(z, z.detach(), reduction="sum")
    assert loss.item() == 0
    assert pynn.grad(loss, z)[0].shape == (0, 3)
    name = r"\w+: argument 'target': expected the shape of input \(4, 1\), got \(4,\)$"
    with pytest.raises(ValueError, match=name):
        f(pynn.tensor(np.full((4, 1), 0.5)), pynn.tensor(np.full(4, 0.5)))
    with pytest.raises(ValueError, match="argument 'reduction': expected 'none', 'mean' or 'sum', got None"):
        f(z, z.detach(), reduction=None)


def test_half_the_sum_of_squares():
    """F-LOSS-1: its gradient is the difference (S1 §1.2)."""
    x, t = leaf([1.0, 2.0, 4.0]), pynn.tensor(np.array([1.0, 0.0, 1.0]))
    loss = 0.5 * L.mse_loss(x, t, reduction="sum")
    assert loss.item() == 6.5
    assert values(pynn.grad(loss, x)[0]).tolist() == [0, 2, 3]


def test_l1_derivative_is_0_at_0():
    """F-LOSS-2"""
    assert derivative(lambda x: L.l1_loss(x, pynn.tensor(np.ones(3)), "sum"), [0, 1, 2]).tolist() == [-1, 0, 1]


def test_targets_have_gradients():
    """F-LOSS-1"""
    x, t = leaf([1.0, 2.0]), leaf([0.0, 5.0])
    assert values(pynn.grad(L.mse_loss(x, t), t)[0]).tolist() == [-1, 3]


def test_binary_cross_entropy_at_0_and_1():
    """F-LOSS-5: logarithms end at -100, so that no loss is infinite."""
    x, t = leaf([0, 1, 0, 1]), pynn.tensor(np.array([0.0, 1.0, 1.0, 0.0]))
    loss = L.binary_cross_entropy(x, t, reduction="none")
    assert values(loss).tolist() == [0, 0, 100, 100]
    close(pynn.grad(loss.sum(), x)[0], [0, 0, -1e12, 1e12])


@pytest.mark.parametrize("bad", [1.5, -0.25, INF])
def test_binary_cross_entropy_outside_of_0_and_1(bad):
    """F-LOSS-5"""
    x = np.full((3, 100), 0.5)
    x[1, 70] = bad
    text = rf"^binary_cross_entropy: argument 'input': expected 0 <= value <= 1, got {bad} at input\[1, 70\]$"
    with pytest.raises(ValueError, match=text):
        L.binary_cross_entropy(pynn.tensor(x), pynn.tensor(np.zeros((3, 100))))


def test_weights_of_binary_losses():
    """F-LOSS-5, F-LOSS-6: weight multiplies each loss, pos_weight that of t = 1; the mean divides by the count."""
    rng = np.random.default_rng(0)
    x, t = rng.standard_normal((6, 4)), rng.uniform(0, 1, (6, 4))
    w, pw = rng.uniform(0.2, 2, (6, 1)), rng.uniform(0.2, 2, 4)
    p = special.expit(x)
    want = -w * (pw * t * np.log(p) + (1 - t) * np.log1p(-p))
    z = leaf(x)
    args = [pynn.tensor(a) for a in (t, w)]
    loss = L.binary_cross_entropy_with_logits(z, *args, pos_weight=pynn.tensor(pw))
    close(loss, want.mean())
    close(pynn.grad(loss, z)[0], w * ((1 - t) * p - pw * t * (1 - p)) / 24)
    got = L.binary_cross_entropy(pynn.tensor(p), *args, reduction="sum")
    close(got, (-w * (t * np.log(p) + (1 - t) * np.log1p(-p))).sum())
    text = r"argument 'pos_weight': expected shape \[...\] with ...=\(6, 4\), got \(6,\)"
    with pytest.raises(ValueError, match=text):
        L.binary_cross_entropy_with_logits(z, args[0], pos_weight=pynn.tensor(np.ones(6)))
    with pytest.raises(ValueError, match=r"argument 'weight': expected a shape that broadcasts to input \(6, 4\)"):
        L.binary_cross_entropy_with_logits(z, args[0], weight=pynn.tensor(np.ones((2, 6, 4))))


@pytest.mark.parametrize(("dtype", "tol"), [(np.float64, 1e-12), (np.float32, 1e-6)])
def test_logits_of_1e4(dtype, tol):
    """F-LOSS-6: accurate where σ(x) is 0 or 1 to rounding."""
    x = np.array([1e4, -1e4, 1e4, -1e4, 30, -30, 30, -30])
    t = np.array([1.0, 0.0, 0.0, 1.0] * 2)
    z = leaf(x, dtype)
    loss = L.binary_cross_entropy_with_logits(z, pynn.tensor(t.astype(dtype)), reduction="none")
    np.testing.assert_allclose(values(loss), [0, 0, 1e4, 1e4, np.exp(-30), np.exp(-30), 30, 30], rtol=max(tol, 1e-12))
    close(pynn.grad(loss.sum(), z)[0], special.expit(x) - t, tol)


@pytest.mark.parametrize("f", [L.smooth_l1_loss, L.l1_loss])
def test_smooth_l1_without_a_bend_is_l1(f):
    x, t = pynn.tensor(np.array([1.0, -2.0])), pynn.tensor(np.array([0.5, 0.0]))
    assert f(x, t, **({"beta": 0} if f is L.smooth_l1_loss else {})).item() == 1.25


def test_bad_bends():
    x = pynn.tensor([1.0])
    with pytest.raises(ValueError, match=r"^huber_loss: argument 'delta': expected a number > 0, got 0$"):
        L.huber_loss(x, x, delta=0)
    with pytest.raises(ValueError, match=r"^smooth_l1_loss: argument 'beta': expected a number >= 0, got -1$"):
        L.smooth_l1_loss(x, x, beta=-1)
