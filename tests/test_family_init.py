"""Initialisers: gains, moments, bounds, orthogonality."""

import math

import numpy as np
import pytest
from optim_helpers import views

import pynn
from pynn.nn import init

DTYPES = ("float32", "float64")


def rng():
    return np.random.default_rng(3)


def test_gains():
    assert init.calculate_gain("linear") == init.calculate_gain("conv2d") == init.calculate_gain("sigmoid") == 1
    assert init.calculate_gain("tanh") == 5 / 3
    assert init.calculate_gain("relu") == math.sqrt(2)
    assert init.calculate_gain("leaky_relu") == math.sqrt(2 / (1 + 0.01**2))
    assert init.calculate_gain("leaky_relu", 0.5) == math.sqrt(1.6)
    assert init.calculate_gain("selu") == 0.75
    with pytest.raises(ValueError, match="Unsupported nonlinearity step"):
        init.calculate_gain("step")
    with pytest.raises(ValueError, match="negative_slope x not a valid number"):
        init.calculate_gain("leaky_relu", "x")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(300, 200), (60, 20, 5, 7)])
@pytest.mark.parametrize(
    ("fill", "options", "gain2", "fan"),
    [
        (init.xavier_uniform_, {"gain": 1.5}, 2.25, "mean"),
        (init.xavier_normal_, {}, 1.0, "mean"),
        (init.kaiming_uniform_, {"nonlinearity": "relu"}, 2.0, "in"),
        (init.kaiming_uniform_, {"a": 0.5, "mode": "fan_out"}, 1.6, "out"),
        (init.kaiming_normal_, {}, 2.0, "in"),
        (init.kaiming_normal_, {"mode": "fan_out", "nonlinearity": "tanh"}, 25 / 9, "out"),
    ],
)
def test_variance_and_bounds_of_xavier_and_he(fill, options, gain2, fan, shape, dtype):
    """F-INIT-1, F-INIT-2: variances gain²/fan (S1 §5.3)."""
    p = pynn.tensor(np.zeros(shape, dtype), requires_grad=True)
    before = p._version
    assert fill(p, **options, generator=rng()) is p
    assert p._version > before
    assert p.dtype == dtype
    field = math.prod(shape[2:])
    fans = {"in": shape[1] * field, "out": shape[0] * field, "mean": (shape[0] + shape[1]) * field / 2}
    x = p.numpy_copy().ravel().astype(np.float64)
    want = gain2 / fans[fan]
    # standard error of a variance: √((kurtosis − 1)/n), kurtosis 9/5 or 3
    uniform = "uniform" in fill.__name__
    assert abs(x.var() / want - 1) < 4.5 * math.sqrt((0.8 if uniform else 2.0) / x.size)
    assert abs(x.mean()) < 4.5 * math.sqrt(want / x.size)
    if uniform:
        assert 0.999 < np.abs(x).max() / math.sqrt(3 * want) <= 1 + 1e-6
    else:
        assert np.abs(x).max() > 3 * math.sqrt(want)


@pytest.mark.parametrize("shape", [(40, 40), (50, 20), (20, 50), (8, 3, 5, 5), (1, 6), (3, 1)])
def test_orthogonal(shape):
    """F-INIT-3: WᵀW = gain²·I, or WWᵀ where W is wide."""
    w = init.orthogonal_(pynn.tensor(np.zeros(shape), requires_grad=True), gain=2.0, generator=rng()).numpy_copy()
    w = w.reshape(shape[0], -1)
    gram = w @ w.T if w.shape[0] <= w.shape[1] else w.T @ w
    np.testing.assert_allclose(gram, 4 * np.eye(len(gram)), atol=1e-13)


def test_orthogonal_is_uniform_over_rotations():
    numbers, square = rng(), pynn.tensor(np.zeros((2, 2)))
    draws = [init.orthogonal_(square, generator=numbers).numpy_copy() for _ in range(800)]
    means = np.mean(draws, axis=0)
    assert np.abs(means).max() < 4.5 * math.sqrt(0.5 / 800)  # a fixed sign of R's diagonal alone would give 2/π
    assert 0.4 < np.mean([np.linalg.det(d) > 0 for d in draws]) < 0.6


def test_constants_and_eye():
    p = pynn.tensor(np.full((3, 5), 7.0, np.float32), requires_grad=True)
    assert init.zeros_(p).tolist() == np.zeros((3, 5)).tolist()
    assert init.ones_(p).tolist() == np.ones((3, 5)).tolist()
    assert init.constant_(p, 0.5).tolist() == np.full((3, 5), 0.5).tolist()
    assert init.eye_(p).tolist() == np.eye(3, 5).tolist()


def test_uniform_and_normal():
    p = pynn.tensor(np.zeros(40_000, np.float32), requires_grad=True)
    x = init.uniform_(p, -2.0, 6.0, generator=rng()).numpy_copy()
    assert -2 <= x.min() < -1.99
    assert 5.99 < x.max() <= 6
    assert abs(x.mean() - 2) < 0.06
    x = init.normal_(p, 3.0, 0.5, generator=rng()).numpy_copy()
    assert abs(x.mean() - 3) < 0.012
    assert abs(x.std() - 0.5) < 0.008


def truncated_moments(mean, std, a, b):
    """Mean and variance of the restricted normal, by quadrature."""
    t = np.linspace(a, b, 200_001)
    w = np.exp(-((t - mean) ** 2 - min((max(a, min(b, mean)) - mean) ** 2, np.inf)) / (2 * std**2))
    mu = (t * w).sum() / w.sum()
    return mu, ((t - mu) ** 2 * w).sum() / w.sum()


@pytest.mark.parametrize(
    ("mean", "std", "a", "b"),
    [
        (0, 1, -2, 2),
        (0, 1, -0.01, 0.02),
        (0, 1, 5, 9),
        (0, 1, -40, -6),
        (1, 2, 1.5, 3),
        (3, 0.1, 0, 2.5),
        (0, 1, 0.2, 50),
    ],
)
def test_trunc_normal(mean, std, a, b):
    x = init.trunc_normal_(pynn.tensor(np.zeros((100, 200)), requires_grad=True), mean, std, a, b, generator=rng())
    x = x.numpy_copy().ravel()
    assert a <= x.min() <= x.max() <= b
    mu, var = truncated_moments(mean, std, a, b)
    assert abs(x.mean() - mu) < 4.5 * math.sqrt(var / x.size)
    assert abs(x.var() / var - 1) < 0.1


def test_initialisers_write_other_layouts_and_take_their_numbers_from_the_generator():
    a = np.zeros((2, 3, 5, 4), np.float32)
    first = None
    for _, p in views(a):
        x = init.kaiming_normal_(p, generator=rng()).tolist()
        first = x if first is None else first
        assert x == first
    other = init.kaiming_normal_(pynn.tensor(a), generator=np.random.default_rng(4)).tolist()
    assert other != first


def test_initialisers_use_the_default_generator():
    random = pytest.importorskip("pynn.random")
    x = pynn.tensor(np.zeros((3, 4), np.float32))
    random.manual_seed(5)
    one, two = init.xavier_uniform_(x).tolist(), init.xavier_uniform_(x).tolist()
    random.manual_seed(5)
    assert init.xavier_uniform_(x).tolist() == one != two
    assert init.xavier_uniform_(x, generator=random.Generator(5)).tolist() == one


def test_errors_of_initialisers():
    p = pynn.tensor(np.zeros((3, 4), np.float32), requires_grad=True)
    flat = pynn.tensor(np.zeros(3, np.float32))
    cases = [
        (lambda: init.xavier_normal_(flat, generator=rng()), ValueError, "xavier_normal_: Fan in and fan out can not"),
        (lambda: init.kaiming_uniform_(p, mode="fan", generator=rng()), ValueError, "Mode fan not supported"),
        (lambda: init.orthogonal_(flat, generator=rng()), ValueError, "Only tensors with 2 or more dimensions"),
        (lambda: init.eye_(flat), ValueError, "Only tensors with 2 dimensions are supported"),
        (lambda: init.uniform_(p, 2.0, 1.0, generator=rng()), ValueError, "uniform_: expected a <= b, got a=2.0"),
        (lambda: init.normal_(p, 0.0, -1.0, generator=rng()), ValueError, "normal_: argument 'std'"),
        (
            lambda: init.trunc_normal_(p, a=1, b=1, generator=rng()),
            ValueError,
            "trunc_normal_: expected std > 0 and a < b",
        ),
        (lambda: init.normal_(p * 2, generator=rng()), RuntimeError, "a tensor with history cannot be changed"),
        (lambda: init.normal_(pynn.tensor([1, 2]), generator=rng()), TypeError, "expected a floating dtype, got int64"),
        (lambda: init.normal_(np.zeros(3), generator=rng()), TypeError, "expected a Tensor, got ndarray"),
        (
            lambda: init.normal_(p, generator=7),
            TypeError,
            "argument 'generator': expected a Generator or None, got int",
        ),
    ]
    for call, error, text in cases:
        with pytest.raises(error, match=text):
            call()
    assert p.tolist() == np.zeros((3, 4)).tolist()


def test_initialisers_of_empty_tensors():
    empty = pynn.tensor(np.zeros((0, 4), np.float32), requires_grad=True)
    for fill in (init.xavier_uniform_, init.xavier_normal_, init.orthogonal_, init.trunc_normal_, init.normal_):
        assert fill(empty, generator=rng()).shape == (0, 4)
    with pytest.warns(UserWarning, match="zero-element tensors is a no-op"):
        init.kaiming_normal_(empty, generator=rng())
