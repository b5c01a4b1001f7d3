"""RBF, polynomial and grid features, and pooling over sets: F-LAY-15 and F-LAY-16."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist

import pynn
from pynn import Tensor, inspect, nn, testing

RNG = np.random.default_rng(2)


def test_rbf():
    """F-LAY-15, S1 §4.5: exp(−‖x − c‖²/s²), by SciPy's distances; learned centers and widths have gradients."""
    x, c = RNG.standard_normal((7, 3)), RNG.standard_normal((5, 3))
    layer = nn.RBF(3, 5, c, 0.7).double()
    np.testing.assert_allclose(layer(Tensor(x)).numpy(), np.exp(-(cdist(x, c) ** 2) / 0.7**2), rtol=1e-12)
    np.testing.assert_allclose(layer(Tensor(c)).numpy().diagonal(), 1.0)
    layer(Tensor(x)).sum().backward()
    assert layer.centers.grad.shape == (5, 3)
    assert layer.log_width.grad.shape == (5,)

    def f(x, c, w):
        layer = nn.RBF(3, 5, np.zeros((5, 3)), learned=False)
        layer.centers, layer.log_width = c, w
        return layer(x)

    testing.gradcheck(f, (x, c, np.log(RNG.uniform(0.5, 1, 5))), order=2)
    fixed = nn.RBF(3, 5, c, learned=False)
    assert list(fixed.parameters()) == []
    assert fixed(Tensor(x.reshape(7, 1, 3))).shape == (7, 1, 5)
    for bad in ({"centers": c[:4]}, {"width": 0.0}):
        with pytest.raises(ValueError, match="RBF: argument"):
            nn.RBF(3, 5, **bad)


def test_rbf_interpolates_its_centers():
    """A basis function on each sample makes the least squares exact there."""
    x = RNG.standard_normal((6, 2))
    y = RNG.standard_normal(6)
    basis = nn.RBF(2, 6, x, learned=False)(Tensor(x)).numpy()
    np.testing.assert_allclose(basis @ np.linalg.solve(basis, y), y, rtol=1e-9)


@pytest.mark.parametrize(("dim", "degree"), [(1, 4), (2, 3), (4, 2), (3, 0)])
def test_polynomial(dim, degree):
    """F-LAY-15, S1 §4.1: the terms and their order are scikit-learn's, C(D + M, M) of them."""
    preprocessing = pytest.importorskip("sklearn.preprocessing")
    x = RNG.standard_normal((5, dim))
    layer = nn.PolynomialFeatures(dim, degree)
    got = layer(Tensor(x))
    np.testing.assert_allclose(got.numpy(), preprocessing.PolynomialFeatures(degree).fit_transform(x), rtol=1e-12)
    assert got.shape[1] == layer.out_features == inspect.polynomial_terms(dim, degree)
    testing.gradcheck(layer, (x,), order=2)


def test_grid():
    """F-LAY-15, S1 §4.2: one cell of K^D each, those beyond at the border, counted as NumPy counts."""
    x = RNG.uniform(-0.2, 1.2, (50, 2))
    layer = nn.GridFeatures(2, 4)
    got = layer(Tensor(x)).numpy()
    assert got.shape == (50, inspect.grid_cells(2, 4))
    cell = np.clip(np.floor(x * 4), 0, 3).astype(int)
    np.testing.assert_array_equal(got.argmax(1), np.ravel_multi_index(cell.T, (4, 4)))
    np.testing.assert_array_equal(got.sum(1), 1.0)
    wide = nn.GridFeatures(1, 2, -1.0, 3.0)
    assert wide(Tensor(np.array([[0.9], [1.1]]))).tolist() == [[1, 0], [0, 1]]
    with pytest.raises(ValueError, match="low < high"):
        nn.GridFeatures(1, 2, 1.0, 1.0)


@pytest.mark.parametrize("how", ["sum", "mean", "max"])
def test_sets(how):
    """F-LAY-16, S1 §6.8: the same for every order of the elements, with a network before and after too."""
    pynn.manual_seed(0)
    x = RNG.standard_normal((3, 6, 4))
    mask = np.array([[1, 1, 1, 1, 1, 1], [1, 1, 0, 0, 0, 0], [0, 1, 0, 1, 0, 1]], bool)
    pool = nn.SetPool(how)
    numpy = {"sum": np.sum, "mean": np.mean, "max": np.max}[how]
    np.testing.assert_allclose(pool(Tensor(x)).numpy(), numpy(x, axis=1), rtol=1e-12)
    want = [numpy(a[m], axis=0) for a, m in zip(x, mask)]
    np.testing.assert_allclose(pool(Tensor(x), mask).numpy(), want, rtol=1e-12)
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), pool, nn.Linear(8, 2)).double()
    order = RNG.permutation(6)
    assert inspect.equivariance(net, x, lambda a: a[:, order], tol=1e-12)
    assert not inspect.equivariance(nn.Flatten(), x, lambda a: a[:, order])
    testing.gradcheck(lambda a: pool(a, mask), (x,), order=2)
    with pytest.raises(ValueError, match="SetPool: argument 'how'"):
        nn.SetPool("median")
