"""Corners of the kernels and entries that samples of the registry do not reach."""

import numpy as np
import pytest

import pynn
from pynn import OPS, _core, no_grad, tensor


@pytest.mark.parametrize(
    "call",
    [
        lambda: OPS.gather_rows(tensor(np.ones((3, 2))), tensor(np.zeros((1,) * 8, np.int64))),
        lambda: OPS.cross_entropy(tensor(np.zeros((1,) * 7 + (3,))), tensor(np.zeros((1,) * 8, np.int64)), None),
        lambda: OPS.scatter_add(tensor(np.zeros((2, 3))), tensor(np.zeros((1,) * 7 + (2,), np.int64)), rows=2),
    ],
)
def test_nine_dimensions_are_an_error(call):
    with pytest.raises(ValueError, match="expected at most 8 dimensions"):
        call()


@pytest.mark.parametrize("n", [8, 100_001])
def test_copy_between_overlapping_views(n):
    want = np.arange(n, dtype=np.float32)
    x = tensor(want)
    for to, source in ((np.s_[:], np.s_[::-1]), (np.s_[1:], np.s_[:-1]), (np.s_[:-1], np.s_[1:])):
        x[to].copy_(x[source])
        want[to] = want[source].copy()
        assert np.array_equal(x.numpy(), want)
    x.copy_(x)
    assert np.array_equal(x.numpy(), want)


def test_what_shares_memory_with_itself_is_not_written():
    x = OPS.expand(tensor(np.zeros((1, 2))), shape=(3, 2))
    with no_grad(), pytest.raises(ValueError, match="copy_: argument 'y' is written, and dimension 0 of its shape"):
        x.copy_(tensor(np.ones((3, 2))))


def test_the_smallest_integer():
    least = np.iinfo(np.int64).min
    x = tensor(np.array([0, least, 5, least]))
    assert pynn.argmin(x).item() == 1
    assert pynn.argmax(x).item() == 2
    assert pynn.abs(x).numpy().tolist() == [0, least, 5, least]  # as NumPy's


def grads(f, *arrays):
    xs = [tensor(np.asarray(a)) for a in arrays]
    for x in xs:
        x.requires_grad = True
    f(*xs).sum().backward()
    return [x.grad.numpy() for x in xs]


def test_quotients_whose_square_overflows():
    for dtype in (np.float32, np.float64):
        big = np.array([1e25, 1e-25, 2], dtype) ** (1 if dtype == np.float32 else 8)
        da, db = grads(lambda a, b: a / b, big, big)
        assert np.allclose(db * big, -1, rtol=1e-6)
        assert np.allclose(da * big, 1, rtol=1e-6)


def test_pow_to_zero():
    (da,) = grads(lambda a: a**0.0, [0.0, 2.0, -1.0])
    assert da.tolist() == [0, 0, 0]
    # the mixed second derivative at b = 0 is 1/a
    a, b = tensor(np.array([2.0, 4.0])), tensor(np.zeros(2))
    a.requires_grad = b.requires_grad = True
    (da,) = pynn.grad(OPS.pow(a, b).sum(), [a], create_graph=True)
    (dab,) = pynn.grad(da.sum(), [b])
    assert np.allclose(dab.numpy(), [0.5, 0.25])


def test_roots_of_zero_have_no_slope():
    for f in (pynn.norm, lambda x: pynn.norm(x, 3), pynn.std):
        assert grads(f, np.zeros(4))[0].tolist() == [0, 0, 0, 0]
    assert np.allclose(grads(pynn.norm, [3.0, -4.0])[0], [0.6, -0.8])


def test_norms_of_other_orders():
    x = tensor(np.array([3.0, 0, -5, 2]))
    assert pynn.norm(x, float("-inf")).item() == 0
    assert pynn.norm(x, float("inf")).item() == 5
    assert pynn.norm(x, 0).item() == 3
    assert np.isclose(pynn.norm(x[2:], -1).item(), 1 / (1 / 5 + 1 / 2))


def test_prod_of_integers_and_of_no_dimension():
    y = pynn.prod(tensor(np.array([200, 2], np.uint8)))
    assert y.item() == 400
    assert y.dtype == np.int64
    assert pynn.prod(tensor(np.array([True, False]))).dtype == np.int64
    with pytest.raises(IndexError, match="prod: argument 'dim'"):
        pynn.prod(tensor(np.ones((2, 3))), 2)


def test_amax_of_columns_keeps_the_bits_of_its_position():
    rng = np.random.default_rng(0)
    x = rng.choice([-0.0, 0.0, -1.0], (40, 37))
    whole = OPS.amax(tensor(x), shape=(1, 37)).numpy()
    for n in range(1, 37):
        moved = OPS.amax(tensor(np.roll(x, n, 1)), shape=(1, 37)).numpy()
        assert moved.tobytes() == np.roll(whole, n, 1).tobytes()


@pytest.mark.parametrize("n", [100_001, 65_536])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("threads", [1, 2])
def test_outputs_beyond_the_caches_have_the_same_bits(n, dtype, threads):
    """Stored past the caches from 16 MB on; chunks of a 64th bring that down to 256 KB."""
    rng = np.random.default_rng(0)
    a, b = (tensor(rng.standard_normal(n).astype(dtype)) for _ in range(2))
    calls = [lambda: OPS.add(a, b), lambda: OPS.gelu(a), lambda: OPS.add(a[1:], b[:-1]), lambda: OPS.prelu(a, b)]
    want = [f().numpy_copy() for f in calls]
    before, div = _core.get_num_threads(), _core.get_chunk_div()
    _core.set_num_threads(threads)
    _core.set_chunk_div(64)
    try:
        got = [f().numpy_copy() for f in calls for _ in range(3)]
    finally:
        _core.set_num_threads(before)
        _core.set_chunk_div(div)
    for k, y in enumerate(got):
        assert y.tobytes() == want[k // 3].tobytes()
