"""Reductions over inner, middle and outer dimensions, at sizes beyond the blocks, against NumPy."""

import numpy as np
import pytest

import pynn
from pynn import OPS, Tensor

AXES = (0, 1, 2, (0, 1), (0, 2), (1, 2), (0, 1, 2))
SHAPES = ((3, 70, 300), (70, 3, 5), (5, 1100, 4), (2, 3, 520))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", ["f4", "f8", "i8", "i4"])
def test_reductions_over_every_dimension(shape, dtype):
    rng = np.random.default_rng(0)
    a = rng.integers(-9, 9, shape).astype(dtype)  # sums of whole numbers are exact in any order
    factors = rng.choice([-1, 1, 1, 2], shape, p=[0.3, 0.3, 0.399, 0.001]).astype(dtype)
    for order in ((0, 1, 2), (2, 1, 0), (1, 2, 0)):
        x, z = a.transpose(order), factors.transpose(order)
        t = pynn.from_numpy(a).permute(*order)
        for axis in AXES:
            np.testing.assert_array_equal(t.sum(axis).numpy(), x.sum(axis))
            np.testing.assert_array_equal(t.amax(axis).numpy(), x.max(axis))
            np.testing.assert_array_equal(t.amin(axis).numpy(), x.min(axis))
            np.testing.assert_array_equal(pynn.from_numpy(factors).permute(*order).prod(axis).numpy(), z.prod(axis))
            np.testing.assert_allclose(t.mean(axis).numpy(), x.mean(axis, dtype=np.float64), rtol=1e-6, atol=1e-9)
            if isinstance(axis, int):
                np.testing.assert_array_equal(t.argmax(axis).numpy(), x.argmax(axis))
                np.testing.assert_array_equal(t.argmin(axis).numpy(), x.argmin(axis))


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_argmax_of_ties_nan_and_infinities(dtype):
    rng = np.random.default_rng(1)
    a = rng.choice([-np.inf, -1.0, 2.0, np.inf], (40, 37, 40)).astype(dtype)
    a[rng.random(a.shape) < 0.002] = np.nan
    a[:, 3] = -np.inf
    for axis in (0, 1, 2):
        np.testing.assert_array_equal(Tensor(a).argmax(axis).numpy(), a.argmax(axis))
        np.testing.assert_array_equal(Tensor(a).argmin(axis).numpy(), a.argmin(axis))
    for k in (0, 7, 500, 513, 1030):
        row = np.zeros(1040, dtype)
        row[k:] = np.nan
        assert Tensor(row).argmax().item() == k


def test_prod_of_nothing_is_1_and_has_no_slope():
    for dtype in ("f4", "f8", "i8", "?"):
        assert pynn.prod(Tensor(np.zeros((0, 3), dtype)), 0).tolist() == [1, 1, 1]
        assert pynn.prod(Tensor(np.zeros(0, dtype))).item() == 1
    x = Tensor(np.zeros((0, 3)), requires_grad=True)
    (g,) = pynn.grad(pynn.prod(x, 0).sum(), x)
    assert g.shape == (0, 3)
    assert pynn.prod(Tensor(np.ones((2, 3, 4))), (0, 2)).shape == (3,)
    assert pynn.prod(Tensor(np.full((2, 3), 2.0)), 1, keepdim=True).tolist() == [[8.0], [8.0]]


def test_means_of_integers_are_those_of_their_exact_sum():
    a = np.full(1001, 2**24 + 1, np.int64)
    a[0] += 1000
    assert pynn.mean(Tensor(a)).item() == a.sum() / 1001
    b = np.array([2**53, 1, -(2**53)])
    np.testing.assert_allclose(pynn.mean(Tensor(b)).item(), 1 / 3, rtol=1e-7)
    assert pynn.mean(Tensor(b)).dtype == np.float64
    assert pynn.mean(Tensor(np.array([True, False, True, True]))).item() == 0.75
    np.testing.assert_allclose(pynn.mean(Tensor(np.arange(6).reshape(2, 3)), 1).numpy(), [1, 4])


def test_flatten_names_itself():
    with pytest.raises(ValueError, match=r"flatten: expected start_dim <= end_dim, got 2 and 0 for shape \(2, 3, 4\)"):
        Tensor(np.ones((2, 3, 4))).flatten(2, 0)


@pytest.mark.parametrize("name", ["sum_to", "prod", "amax", "amin"])
def test_reductions_do_not_depend_on_threads_or_position(name):
    a = np.random.default_rng(2).standard_normal((65, 130, 33)).astype(np.float32)
    op = OPS[name]
    for shape in ((1, 130, 33), (65, 1, 33), (65, 130, 1)):
        want = op(Tensor(a), shape=shape).numpy_copy()
        for threads in (2, 4):
            with pynn.threads(threads):
                assert op(Tensor(a), shape=shape).numpy_copy().tobytes() == want.tobytes()
        moved = op(Tensor(np.roll(a, 5, 2)), shape=shape).numpy_copy()  # the same columns in other places
        if shape[2] > 1:
            assert moved.tobytes() == np.roll(want, 5, 2).tobytes()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ["amax", "amin"])
def test_extrema_of_rows_longer_than_a_block(name, dtype):
    """The largest may lie in any of a row's blocks, and so may a NaN."""
    a = np.random.default_rng(5).standard_normal((12, 7000)).astype(dtype)
    for k, at in enumerate((0, 2500, 4500, 6999)):
        a[k, at], a[k + 4, at], a[k + 8, at] = 9, -9, np.nan
    np.testing.assert_array_equal(getattr(pynn.tensor(a), name)(1).numpy(), getattr(a, name[1:])(1))
