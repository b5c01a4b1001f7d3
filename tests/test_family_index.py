"""Indexing, gathers and scatters, joining, splitting, moving."""

import re
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pynn
from pynn import OPS, Tensor, _core
from pynn.nn import functional as F
from pynn.ops import index

RNG = None  # a generator of its own for each test


@pytest.fixture(autouse=True)
def _own_numbers():
    """Each test draws the same numbers whichever ran before it."""
    global RNG
    RNG = np.random.default_rng(11)


def numbered(*shape):
    return np.arange(float(np.prod(shape))).reshape(shape)


def shares_memory(x, y):
    return np.shares_memory(x.detach().numpy(), y.detach().numpy())


# ---- keys against NumPy ------------------------------------------------------------------------------


@st.composite
def shapes_and_keys(draw):
    shape = tuple(draw(st.lists(st.integers(0, 5), min_size=0, max_size=4)))
    lead = draw(st.lists(st.integers(1, 3), min_size=0, max_size=2))  # the shape that index arrays broadcast to
    key, dim = [], 0
    stop = draw(st.integers(0, len(shape)))
    while dim < stop:
        n = shape[dim]
        more = ["none", "bool"] if len(key) < dim + 2 else []  # at most 8 dimensions in all
        kind = draw(st.sampled_from(["slice", "int", "array", "mask", *more]))
        if kind == "slice":
            ends = st.none() | st.integers(-7, 7)
            key.append(slice(draw(ends), draw(ends), draw(st.none() | st.integers(1, 3) | st.integers(-3, -1))))
        elif kind == "none":
            key.append(None)
            continue
        elif kind == "bool":
            key.append(draw(st.booleans()))
            continue
        elif kind == "mask" and draw(st.booleans()):
            dims = draw(st.integers(1, len(shape) - dim))
            mask = np.zeros(shape[dim : dim + dims], bool)
            hits = draw(st.integers(0, 1))
            mask.reshape(-1)[: hits * mask.size] = hits
            key.append(mask)
            dim += dims
            continue
        elif kind == "int" and n:
            key.append(draw(st.integers(-n, n - 1)))
        elif n:
            sub = [draw(st.sampled_from([1, m])) for m in lead[draw(st.integers(0, len(lead))) :]]
            size = int(np.prod(sub))
            values = draw(st.lists(st.integers(-n, n - 1), min_size=size, max_size=size))
            key.append(np.array(values, np.int64).reshape(sub))
        else:
            key.append(slice(None))
        dim += 1
    if draw(st.booleans()):
        key.insert(draw(st.integers(0, len(key))), Ellipsis)
    return shape, tuple(key)


@settings(max_examples=400, deadline=None)
@given(shapes_and_keys())
def test_getitem_is_numpys(case):
    shape, key = case
    a = numbered(*shape)
    try:
        want = a[key]
    except IndexError:
        with pytest.raises(IndexError, match=r"^getitem: "):
            Tensor(a)[key]
        return
    x = Tensor(a, requires_grad=True)
    try:
        y = x[key]
    except IndexError:  # stricter than NumPy, which lets a key that does not fit pass where nothing is chosen
        if want.size:
            raise
        with pytest.raises(IndexError, match=r"out of bounds|does not fit"):
            x[key]
        return
    assert y.shape == want.shape
    np.testing.assert_array_equal(y.detach().numpy(), want)
    seed = np.random.default_rng(1).standard_normal(want.shape)
    (g,) = pynn.grad(y, x, Tensor(seed)) if y.size else (pynn.zeros(shape, dtype="f8"),)
    expected = np.zeros(shape)
    np.add.at(expected, key, seed)
    np.testing.assert_allclose(g.numpy(), expected, atol=1e-12)
    if y.size and not any(isinstance(k, (np.ndarray, bool)) for k in key):
        assert shares_memory(x, y)
    as_tensors = tuple(Tensor(k) if isinstance(k, np.ndarray) else k for k in key)
    np.testing.assert_array_equal(x.detach()[as_tensors].numpy(), want)


@pytest.mark.parametrize("dtype", _core.DTYPES)
def test_every_dtype_is_indexed(dtype):
    a = numbered(4, 5).astype(dtype)
    for key in ([2, -1, 2], (slice(None), [0, 3]), (slice(3, 0, -2), 1), a > 3):
        np.testing.assert_array_equal(Tensor(a)[key].numpy(), a[key])
        assert Tensor(a)[key].dtype == dtype


def test_strided_sources_and_lists_and_scalars():
    a = numbered(4, 6, 5)
    x = Tensor(a).permute(2, 0, 1)[:, ::-1]
    b = a.transpose(2, 0, 1)[:, ::-1]
    i = [[0, 1], [3, -1]]
    np.testing.assert_array_equal(x[:, i].numpy(), b[:, i])
    np.testing.assert_array_equal(x[i, :, 2].numpy(), b[i, :, 2])
    np.testing.assert_array_equal(x[0, ..., [1, 2]].numpy(), b[0, ..., [1, 2]])
    assert x[Tensor(2), np.int32(1), 3].item() == b[2, 1, 3]
    assert x[:, i, ..., [0, 1]].shape == b[:, i, ..., [0, 1]].shape
    assert [float(v) for v in x[0, 0]] == b[0, 0].tolist()
    assert x[[]].shape == (0, 4, 6)
    assert x[:0][:, [1, 2]].shape == (0, 2, 6)
    assert x[x > 1e9].shape == (0,)
    assert x[:0][np.zeros((0, 4), bool)].shape == (0, 6)
    assert x[np.zeros((2, 0), int)].shape == (2, 0, 4, 6)


@pytest.mark.parametrize(
    ("key", "text"),
    [
        (5, "getitem: index 5 is out of bounds for dimension 0 of size 3"),
        ((0, -5), "getitem: index -5 is out of bounds for dimension 1 of size 4"),
        ((slice(None), [0, 4]), "getitem: index 4 is out of bounds for dimension 1 of size 4"),
        ((None, [[-4]]), "getitem: index -4 is out of bounds for dimension 0 of size 3"),
        ((0, 0, 0), r"getitem: too many indices: shape \(3, 4\) has 2 dimensions, the key has 3"),
        ((..., 0, ...), "getitem: expected at most one Ellipsis"),
        (np.ones(4, bool), r"getitem: a mask of shape \(4,\) does not fit dimension 0 of size 3"),
        (([0, 1], [0, 1, 2]), r"getitem: index arrays of shapes \(2,\), \(3,\) do not broadcast together"),
        ("a", "getitem: expected ints, slices, None, .* got str"),
        ([0.5], "getitem: expected ints, slices, None, .* got an array of dtype float64"),
        (1.0, "getitem: expected ints, slices, None, .* got float"),
    ],
)
def test_bad_keys(key, text):
    with pytest.raises(IndexError, match=f"^{text}"):
        Tensor(numbered(3, 4))[key]


def test_a_bad_index_reaches_no_kernel():
    x = Tensor(numbered(3, 4))
    before = _core.alloc_stats()["n_alloc"]
    with pytest.raises(IndexError):
        x[[0, 7]]
    assert _core.alloc_stats()["n_alloc"] == before


def nines(*places):
    """Indices [2, 3, 4] of zeros, but 9 at the places."""
    idx = np.zeros((2, 3, 4), np.int64)
    for place in places:
        idx[place] = 9
    return Tensor(idx)


@pytest.mark.parametrize(
    ("op", "call", "where"),
    [
        ("gather_along", lambda: OPS.gather_along(pynn.zeros(2, 5, 4), nines((1, 2, 3))), "got 9 at idx[1, 2, 3]"),
        ("scatter_along", lambda: OPS.scatter_along(pynn.zeros(2, 3, 4), nines((1, 2, 3)), rows=5),
         "got 9 at idx[1, 2, 3]"),
        ("unslice step", lambda: OPS.unslice(pynn.zeros(2, 3), Tensor([[0, 0], [1, 7]]), shape=(5, 6)),
         "got 7 at place[1, 1]"),
        ("unslice begin", lambda: OPS.unslice(pynn.zeros(2, 3), Tensor([[0, -3], [1, 1]]), shape=(5, 6)),
         "got -3 at place[0, 1]"),
    ],
)  # fmt: skip
def test_an_error_tells_where_the_bad_index_is(op, call, where):
    with pytest.raises(IndexError, match=re.escape(where)):
        call()


def test_setitem():
    x = pynn.zeros(3, 4)
    version = x._version
    x[1, ::2] = 5
    x[Tensor([0, 2]), Tensor([1, 1])] = Tensor([7.0, 8.0])
    x[x > 7] = -1
    np.testing.assert_array_equal(x.numpy(), [[0, 7, 0, 0], [5, 0, 5, 0], [0, -1, 0, 0]])
    assert x._version != version
    w = pynn.zeros(2, requires_grad=True)
    with pytest.raises(RuntimeError, match="no_grad"):
        w[0] = 1
    with pynn.no_grad():
        w[0] = 1
    with pytest.raises(RuntimeError, match="index_put"):
        (w * 2)[0] = 1
    with pytest.raises(IndexError):
        x[9] = 0


# ---- index_put ---------------------------------------------------------------------------------------

PUTS = [
    ((3, 4), (1, slice(None, None, 2))),
    ((3, 4), ([0, 2, 0, 2], [1, 1, 1, 3])),
    ((3, 4), np.array([[True, False, True, False]] * 3)),
    ((5,), slice(4, None, -3)),
    ((2, 3, 4), (slice(None), [2, 2], [0, 0])),
    ((3,), ([],)),
    ((0, 3), slice(None)),
]


@pytest.mark.parametrize(("shape", "key"), PUTS)
@pytest.mark.parametrize("dtype", ["f8", "f4", "i8", "i4"])
def test_index_put(shape, key, dtype):
    a = (RNG.standard_normal(shape) * 9).astype(dtype)
    v = (RNG.standard_normal(a[key].shape) * 9).astype(dtype)
    b, c = a.copy(), a.copy()
    b[key] = v
    np.add.at(c, key, v)
    y, z = pynn.index_put(Tensor(a), key, Tensor(v)), Tensor(a).index_put(key, Tensor(v), accumulate=True)
    assert y.dtype == a.dtype
    assert z.dtype == a.dtype
    np.testing.assert_array_equal(y.numpy(), b)
    # Sums in float32 may cancel: the bound goes by the size of what is added, not of the sum.
    np.testing.assert_allclose(z.numpy(), c, rtol=0, atol=1e-5 if dtype == "f4" else 1e-12)


def test_index_put_derivatives():
    x, v = Tensor(numbered(4) + 1, requires_grad=True), Tensor([5.0, 6.0, 7.0], dtype="f8", requires_grad=True)
    y = pynn.index_put(x, [1, 3, 1], v)
    gx, gv = pynn.grad((y * y).sum(), [x, v])
    np.testing.assert_array_equal(gx.numpy(), [2, 0, 6, 0])
    np.testing.assert_array_equal(gv.numpy(), [0, 12, 14])  # the last of two stands
    gx, gv = pynn.grad((pynn.index_put(x, [1, 3, 1], v, accumulate=True) ** 2).sum(), [x, v])
    np.testing.assert_array_equal(gx.numpy(), [2, 28, 6, 20])
    np.testing.assert_array_equal(gv.numpy(), [28, 20, 28])
    with pytest.raises(ValueError, match=r"index_put: argument 'values': expected a shape that broadcasts to \(2,\)"):
        pynn.index_put(x, [0, 1], v)


# ---- gathers and scatters ----------------------------------------------------------------------------


def both_orders(fn, *arrays):
    """Compares the first and second derivatives of Σ w·fn(x²) with central differences, in float64."""
    xs = [Tensor(a) for a in arrays]
    vs = [RNG.standard_normal(a.shape) for a in arrays]
    with pynn.no_grad():
        w = Tensor(RNG.standard_normal(fn(*xs).shape))

    def scalar(*xs):
        y = fn(*(x * x for x in xs))
        return (y * y * w).sum()

    def moved(eps):
        return [Tensor(a + eps * v) for a, v in zip(arrays, vs)]

    def flat(ts):
        return np.concatenate([t.detach().numpy().ravel() for t in ts])

    _, g = pynn.vjp(scalar, xs)
    slope = (scalar(*moved(1e-5)).item() - scalar(*moved(-1e-5)).item()) / 2e-5
    assert abs(slope - flat(g) @ np.concatenate([v.ravel() for v in vs])) <= 1e-6 * max(1, abs(slope))
    _, h = pynn.hvp(scalar, xs, [Tensor(v) for v in vs])
    want = (flat(pynn.vjp(scalar, moved(1e-5))[1]) - flat(pynn.vjp(scalar, moved(-1e-5))[1])) / 2e-5
    np.testing.assert_allclose(flat(h), want, atol=1e-6 * max(1, np.abs(want).max(initial=0)))


IDX = Tensor([[0, 2, 1], [2, 2, 0]])
KEY = Tensor([3, 4])
FUNCTIONS = {
    "getitem": lambda x: x[[0, 2, 2], :, [1, 0, 1]],
    "getitem middle": lambda x: x[:, [[0, 1], [1, 1]]],
    "mask": lambda x: x[Tensor(numbered(3, 2) % 2 == 0)],
    "gather": lambda x: pynn.gather(x[:, 0], 0, IDX),
    "take_along_dim": lambda x: pynn.take_along_dim(x, Tensor([[[0]], [[1]], [[0]]]), 1),
    "index_put": lambda x: pynn.index_put(x, ([0, 1, 0], 1), x[0, 0]),
    "cat": lambda x: pynn.cat([x, x[:, :1], x], 1),
    "stack": lambda x: pynn.stack([x, x * 2], -1),
    "split": lambda x: pynn.split(x, [1, 3], 2)[1],
    "pad": lambda x: F.pad(x, (1, 2, -1, 1), value=3.0),
    "flip": lambda x: pynn.flip(x, (0, 2)),
    "roll": lambda x: pynn.roll(x, (1, -1), (0, 2)),
    "cumsum": lambda x: pynn.cumsum(x, 1),
    "clamp": lambda x: pynn.clamp(x, 0.01, 9.5) * x,
    "clamp by tensors": lambda x: pynn.clamp(x, x[0] * 0.5, x[1] * 3),
    "where": lambda x: pynn.where(IDX.sum() > 0, x, 2.0),
    "tril": lambda x: pynn.tril(x, 1),
    "triu": lambda x: x.where(Tensor(True), 0.0) + pynn.triu(x),
    "dropout": lambda x: OPS.dropout(x, KEY, p=0.3),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_derivatives_of_orders_1_and_2(name):
    both_orders(FUNCTIONS[name], 0.5 + RNG.random((3, 2, 4)))


@pytest.mark.parametrize(("rows", "cols", "n"), [(40, 7, 900), (3, 300, 500), (900, 1, 2000), (5, 64, 0), (1, 1, 1)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_scatter_adds_in_the_order_of_occurrence(rows, cols, n, dtype):
    g, idx = RNG.standard_normal((n, cols)).astype(dtype), RNG.integers(0, rows, n)
    want = np.zeros((rows, cols), dtype)
    for k in range(n):
        want[idx[k]] += g[k]
    _core.set_chunk_div(64)
    for threads in (1, 2, 4):
        _core.set_num_threads(threads)
        for level in _core.isa_levels():
            _core.use_isa(level)
            got = OPS.scatter_add(Tensor(g), Tensor(idx), rows=rows).numpy()
            np.testing.assert_array_equal(got, want)
            wide = OPS.scatter_along(Tensor(g[None]), Tensor(np.repeat(idx[None, :, None], cols, 2)), rows=rows)
            np.testing.assert_array_equal(wide.numpy()[0], want)


def assert_parallel(call):
    """That the team takes part; on a busy machine a worker may come too late for one call."""
    _core.par_stats(reset=True)
    assert any(call() is not None and _core.par_stats()["parallel"] for _ in range(200)), _core.par_stats()


def test_scatter_runs_on_the_team():
    _core.set_num_threads(2)
    g, idx = pynn.ones(4000, 64), Tensor(RNG.integers(0, 50, 4000))
    assert_parallel(lambda: OPS.scatter_add(g, idx, rows=50))


def test_gather_is_torchs():
    a, idx = numbered(3, 4, 5), RNG.integers(0, 4, (2, 7, 5))
    last = RNG.integers(0, 5, (2, 4, 6))
    np.testing.assert_array_equal(pynn.gather(Tensor(a), 1, Tensor(idx)).numpy(), np.take_along_axis(a[:2], idx, 1))
    np.testing.assert_array_equal(Tensor(a).gather(-1, last).numpy(), np.take_along_axis(a[:2], last, 2))
    np.testing.assert_array_equal(pynn.take_along_dim(Tensor(a), Tensor([7, 7, 0])).numpy(), a.ravel()[[7, 7, 0]])
    with pytest.raises(
        IndexError, match=r"gather: index 4 at index\[1, 0\] is out of bounds for dimension 0 of size 3$"
    ):
        pynn.gather(Tensor(a[:, 0]), 0, Tensor([[0, 2], [4, -1]]))
    with pytest.raises(ValueError, match="gather: argument 'index': expected a shape of at most"):
        pynn.gather(Tensor(a), 1, Tensor(idx[0]))
    spread = Tensor([[0, 5]]).unsqueeze(-1).expand(1, 2, 3)
    with pytest.raises(IndexError, match=r"gather_along: .* got 5 at idx\[0, 1, 0\]"):
        OPS.gather_along(pynn.ones(1, 4, 3), spread)
    with pytest.raises(IndexError, match=r"scatter_along: .* got 5 at idx\[0, 1, 0\]"):
        OPS.scatter_along(pynn.ones(1, 2, 3), spread, rows=4)
    with pytest.raises(TypeError, match="gather: argument 'index': expected integers, got dtype float32"):
        pynn.gather(Tensor(a), 1, pynn.ones(3, 4, 5))


def test_one_hot():
    np.testing.assert_array_equal(index.one_hot(Tensor([[2, 0]]), 4).numpy(), np.eye(4, dtype=int)[[[2, 0]]])
    assert index.one_hot(Tensor([2, 0])).shape == (2, 3)
    assert index.one_hot(Tensor([2, 0])).dtype == np.int64
    with pytest.raises(IndexError, match=r"one_hot: index 3 at input\[1\] is out of bounds for dimension 1 of size 3"):
        index.one_hot(Tensor([2, 3]), 3)


@pytest.fixture
def huge():
    """A table of 9.6 GB of which only the touched pages exist."""
    with open("/proc/meminfo") as f:
        free = {line.split(":")[0]: int(line.split()[1]) for line in f}["MemAvailable"] / 2**20
    if free < 12:
        pytest.skip(f"needs 12 GB of free memory, MemAvailable is {free:.1f} GB")
    return np.zeros((300_000_000, 8), np.float32)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/meminfo and relies on lazy pages")
def test_a_9_gb_table_is_indexed_at_its_ends(huge):
    huge[0], huge[-1], huge[-2, 3] = 1, np.arange(8), 5
    x = pynn.from_numpy(huge)
    n = len(huge)
    np.testing.assert_array_equal(OPS.gather_rows(x, Tensor([n - 1, 0, n - 2])).numpy(), huge[[-1, 0, -2]])
    np.testing.assert_array_equal(x[[-1, 0]].numpy(), huge[[-1, 0]])
    assert x[-2, 3].item() == 5
    np.testing.assert_array_equal(x[::-1][0].numpy(), np.arange(8))
    np.testing.assert_array_equal(x[n - 2 :, 1:4].clone().numpy(), [[0, 0, 5], [1, 2, 3]])
    flat = x.reshape(-1)
    assert flat[8 * n - 1].item() == 7
    assert pynn.gather(flat, 0, Tensor([8 * n - 2])).item() == 6
    with pytest.raises(IndexError, match=f"index {n} is out of bounds for dimension 0 of size {n}"):
        x[n]


# ---- joining, splitting, moving ----------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 10, 11, 23])
@pytest.mark.parametrize("dim", [0, 1, -1])
def test_cat(count, dim):
    parts = [RNG.standard_normal([3 if d != dim % 3 else k % 4 for d in range(3)]) for k in range(count)]
    np.testing.assert_array_equal(pynn.cat([Tensor(p) for p in parts], dim).numpy(), np.concatenate(parts, dim))
    odd = [Tensor(np.ascontiguousarray(p.transpose(2, 0, 1))).permute(1, 2, 0) for p in parts]
    np.testing.assert_array_equal(pynn.cat(odd, dim).numpy(), np.concatenate(parts, dim))


def test_cat_promotes_keeps_channels_last_and_copies():
    y = pynn.cat([Tensor([1, 2]), Tensor([0.5])])
    assert y.tolist() == [1, 2, 0.5]
    images = [pynn.randn(2, 5, 4, c).permute(0, 3, 1, 2) for c in (3, 2)]
    y = pynn.cat(images, 1)
    assert y.is_channels_last()
    np.testing.assert_array_equal(y.numpy(), np.concatenate([i.numpy() for i in images], 1))
    x = pynn.ones(3)
    assert not shares_memory(x, pynn.cat([x]))
    text = r"cat: argument 'tensors': expected shape \(2, 3\) but for dimension 1, got \(3, 3\) at 1$"
    with pytest.raises(ValueError, match=text):
        pynn.cat([pynn.ones(2, 3), pynn.ones(3, 3)], 1)
    with pytest.raises(ValueError, match="cat: argument 'tensors': expected at least one"):
        pynn.cat([])
    with pytest.raises(IndexError, match="cat: argument 'dim': expected -2 <= dim < 2, got 2"):
        pynn.cat([pynn.ones(2, 3)], 2)


def test_stack_split_chunk():
    a = numbered(7, 3)
    x = Tensor(a)
    np.testing.assert_array_equal(pynn.stack([x, x + 1], 1).numpy(), np.stack([a, a + 1], 1))
    with pytest.raises(ValueError, match="stack"):
        pynn.stack([x, x[:3]])
    for size in (1, 3, 7, 9):
        parts = x.split(size)
        assert all(shares_memory(x, p) for p in parts)
        np.testing.assert_array_equal(np.concatenate([p.numpy() for p in parts]), a)
        assert [len(p) for p in parts[:-1]] == [size] * (len(parts) - 1)
    assert [p.shape for p in pynn.split(x, [2, 0, 5])] == [(2, 3), (0, 3), (5, 3)]
    assert [len(p) for p in x.chunk(3)] == [3, 3, 1]
    assert [len(p) for p in pynn.chunk(x[:0], 2)] == [0, 0]
    with pytest.raises(ValueError, match="split"):
        pynn.split(x, [2, 6])
    with pytest.raises(ValueError, match="chunk"):
        pynn.chunk(x, 0)


@pytest.mark.parametrize("dtype", ["f4", "i4", "?"])
def test_pad_flip_roll(dtype):
    a = numbered(3, 4).astype(dtype)
    x = Tensor(a)
    np.testing.assert_array_equal(F.pad(x, (1, 2, 0, 1)).numpy(), np.pad(a, ((0, 1), (1, 2))))
    cut = np.pad(a, ((0, 0), (0, 1)), constant_values=1)[:, 1:]
    np.testing.assert_array_equal(F.pad(x, (-1, 1), value=1).numpy(), cut)
    np.testing.assert_array_equal(pynn.flip(x, [0, 1]).numpy(), a[::-1, ::-1])
    assert not shares_memory(x, pynn.flip(x, 0))
    np.testing.assert_array_equal(pynn.roll(x, 5).numpy(), np.roll(a, 5))
    np.testing.assert_array_equal(pynn.roll(x, (1, -2), (0, 1)).numpy(), np.roll(a, (1, -2), (0, 1)))
    with pytest.raises(ValueError, match="pad: argument 'pad'"):
        F.pad(x, (1,))
    with pytest.raises(ValueError, match="pad: argument 'pad'"):
        F.pad(x, (-3, -2))


def test_pad_with_infinity_and_cumsum():
    assert F.pad(pynn.ones(1), (1, 0), value=float("-inf")).tolist() == [float("-inf"), 1]
    a = RNG.standard_normal((3, 1000)).astype(np.float32)
    np.testing.assert_allclose(pynn.cumsum(Tensor(a), -1).numpy(), np.cumsum(a, -1, np.float64), rtol=2e-6, atol=1e-5)
    assert Tensor([True, True]).cumsum(0).tolist() == [1, 2]
    assert pynn.cumsum(Tensor(3.0), 0).item() == 3


def test_clamp():
    x = Tensor([-2.0, -1.0, 0.0, 2.0, 3.0, float("nan")], requires_grad=True)
    y = x.clamp(-1, 2)
    np.testing.assert_array_equal(y.detach().numpy(), [-1, -1, 0, 2, 2, np.nan])
    (g,) = pynn.grad(y, x, pynn.ones(6))
    assert g.tolist()[:5] == [0, 1, 1, 1, 0]
    assert Tensor([1, 5, 9]).clamp(2, 7).tolist() == [2, 5, 7]
    assert Tensor([1, 5]).clamp(min=2).dtype == np.int64
    assert x.detach().clamp(max=Tensor(1.0)).tolist()[:3] == [-2, -1, 0]
    with pytest.raises(ValueError, match="clamp"):
        x.clamp()
