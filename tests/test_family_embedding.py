"""Embeddings and bags of them, gradients by rows, and the optimizers that update rows only."""

import copy
import itertools
import math
import pickle

import numpy as np
import pytest

import pynn
from pynn import OPS, RowGradient, Tensor, nn, testing
from pynn.nn import functional as F

V, E = 7, 3


def table(dtype="float64", rows=V, columns=E, seed=0):
    return Tensor(np.random.default_rng(seed).standard_normal((rows, columns)).astype(dtype), requires_grad=True)


def dense_gradient(fn, w, **options):
    """The gradient of a bent function of fn(w), computed densely."""
    (g,) = pynn.grad(bent(fn(w, **options)), w)
    return g.to_dense().numpy_copy() if g.is_sparse else g.numpy_copy()


def bent(y):
    return (y * y * Tensor(np.linspace(1, 2, y.size, dtype=y.dtype).reshape(y.shape))).sum()


# ---- embedding --------------------------------------------------------------------------------------


def test_embedding_rows_padding_and_errors():
    w = table()
    i = Tensor([[1, 4, 1], [0, 6, 1]])
    y = F.embedding(i, w, padding_idx=-1)
    np.testing.assert_array_equal(y.detach().numpy(), w.detach().numpy()[i.numpy()])
    (g,) = pynn.grad(y.sum(), w)
    np.testing.assert_array_equal(g.numpy()[:, 0], [1, 3, 0, 0, 1, 0, 0])
    assert F.embedding(pynn.zeros(0, 2, dtype="i8"), w).shape == (0, 2, E)
    with pytest.raises(
        IndexError, match=r"embedding: argument 'input': expected 0 <= value < 7, got 7 at input\[1, 0\]"
    ):
        F.embedding(Tensor([[1, 0], [7, -7]]), w)
    for bad in (V, -V - 1):
        with pytest.raises(ValueError, match=f"embedding: argument 'padding_idx': expected -7 <= value < 7, got {bad}"):
            F.embedding(i, w, padding_idx=bad)
    with pytest.raises(TypeError, match="embedding: argument 'input': expected integers"):
        F.embedding(w, w)
    with pytest.raises(ValueError, match=r"argument 'sparse': a gradient by rows stops at the weight: .* from 'mul'"):
        F.embedding(i, w * 2, sparse=True)


@pytest.mark.parametrize("op", ["gather_rows", "embedding"])
def test_bad_indices_are_told_where_the_result_is_empty(op):
    with pytest.raises(IndexError, match="expected 0 <= value < 3, got 9"):
        OPS[op](np.ones((3, 0)), np.array([0, 9]))
    with pytest.raises(IndexError, match="expected 0 <= value < 3, got -1"):
        OPS.scatter_add(np.ones((2, 0)), np.array([0, -1]), rows=3)
    with pytest.raises(IndexError, match="expected 0 <= value < 0, got 0"):
        OPS.scatter_add(np.ones((1, 2)), np.array([0]), rows=0)
    assert OPS[op](np.ones((0, 3)), np.zeros(0, np.int64)).shape == (0, 3)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_scale_grad_by_freq_divides_by_the_number_of_uses(dtype):
    w, i = table(dtype), Tensor([5, 2, 5, 5, 0])
    plain = dense_gradient(lambda w: F.embedding(i, w), w)
    for sparse in (False, True):
        scaled = dense_gradient(
            lambda w, sparse=sparse: F.embedding(i, w, None, scale_grad_by_freq=True, sparse=sparse), w
        )
        np.testing.assert_allclose(scaled[5], plain[5] / 3, rtol=1e-6)
        np.testing.assert_allclose(np.delete(scaled, 5, 0), np.delete(plain, 5, 0), rtol=1e-6)


def test_max_norm_shortens_the_rows_that_are_used():
    for p in (1.0, 2.0, math.inf):
        w = table()
        with pynn.no_grad():
            w.copy_(w * 10)
        before, version = w.numpy_copy() if not w.requires_grad else w.detach().numpy_copy(), w._version
        y = F.embedding(Tensor([3, 0, 3]), w, max_norm=1.5, norm_type=p)
        after = w.detach().numpy_copy()
        assert w._version > version
        np.testing.assert_allclose(np.linalg.norm(after[[0, 3]], p, axis=1), 1.5, rtol=1e-6)
        np.testing.assert_array_equal(np.delete(after, (0, 3), 0), np.delete(before, (0, 3), 0))
        np.testing.assert_array_equal(y.detach().numpy(), after[[3, 0, 3]])
        F.embedding(Tensor([3, 0]), w, max_norm=2.0, norm_type=p)
        np.testing.assert_array_equal(w.detach().numpy(), after)
    with pytest.raises(ValueError, match="argument 'max_norm': expected a number > 0, got 0"):
        F.embedding(Tensor([0]), w, max_norm=0)
    with pytest.raises(IndexError, match="got 9"):
        F.embedding(Tensor([9]), w, max_norm=1.0)


def test_embedding_is_differentiable_to_any_order():
    i = np.array([[0, 2, 2], [6, 0, 1]])
    count = np.bincount(i.ravel(), minlength=V)[:, None]
    for options, scale in (
        ({}, 1),
        ({"sparse": True}, 1),
        ({"padding_idx": 2}, (np.arange(V) != 2)[:, None]),
        ({"scale_grad_by_freq": True}, 1 / np.maximum(count, 1)),
    ):
        w = table()
        x = w.detach().numpy()
        (g,) = pynn.grad((F.embedding(Tensor(i), w, **options) ** 3).sum(), w, create_graph=True)
        assert not g.is_sparse
        np.testing.assert_allclose(g.detach().numpy(), 3 * count * scale * x**2, rtol=1e-12)
        (h,) = pynn.grad((g * g).sum(), w)
        h = h.to_dense() if h.is_sparse else h
        # the walk back through the lookup scales once more
        np.testing.assert_allclose(h.numpy(), 36 * count**2 * scale**3 * x**3, rtol=1e-10)


# ---- bags -------------------------------------------------------------------------------------------

TOKENS = np.array([3, 0, 3, 6, 1, 1, 2, 5, 0])
OFFSETS = np.array([0, 2, 2, 7])


def bag_reference(w, tokens, offsets, mode, factors=None, padding=None):
    ends = [*offsets[1:], len(tokens)]
    rows = []
    for lo, hi in zip(offsets, ends):
        live = [n for n in range(lo, hi) if tokens[n] != padding]
        x = w[tokens[live]] * (1 if factors is None else factors[live][:, None])
        rows.append(np.zeros(w.shape[1]) if not live else
                    {"sum": x.sum, "mean": x.mean, "max": x.max}[mode](axis=0))  # fmt: skip
    return np.array(rows)


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
@pytest.mark.parametrize("padding", [None, 3, 1])
def test_bags_by_offsets_and_by_rows(mode, padding):
    w = table()
    x = w.detach().numpy()
    want = bag_reference(x, TOKENS, OFFSETS, mode, padding=padding)
    y = F.embedding_bag(Tensor(TOKENS), w, Tensor(OFFSETS), mode=mode, padding_idx=padding)
    np.testing.assert_allclose(y.detach().numpy(), want, rtol=1e-12, atol=1e-15)
    last = np.append(OFFSETS, len(TOKENS))
    y = F.embedding_bag(Tensor(TOKENS), w, Tensor(last), mode=mode, padding_idx=padding, include_last_offset=True)
    np.testing.assert_allclose(y.detach().numpy(), want, rtol=1e-12, atol=1e-15)
    square = TOKENS.reshape(3, 3)
    y = F.embedding_bag(Tensor(square), w, mode=mode, padding_idx=padding)
    want = bag_reference(x, TOKENS, [0, 3, 6], mode, padding=padding)
    np.testing.assert_allclose(y.detach().numpy(), want, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
@pytest.mark.parametrize("padding", [None, 3])
def test_bags_are_differentiable_and_agree_with_their_parts(mode, padding):
    def bags(w):
        return F.embedding_bag(Tensor(TOKENS), w, Tensor(OFFSETS), mode=mode, padding_idx=padding)

    def parts(w):
        rows = []
        for lo, hi in zip(OFFSETS, [*OFFSETS[1:], len(TOKENS)]):
            live = [t for t in TOKENS[lo:hi].tolist() if t != padding]
            x = w[live] if live else None
            rows.append(
                w[0] * 0.0 if x is None else x.amax(0) if mode == "max" else x.sum(0) if mode == "sum" else x.mean(0)
            )
        return pynn.stack(rows)

    w = table()
    testing.gradcheck(lambda w: bags(w) ** 3, (w.detach().numpy_copy(),), order=2)
    np.testing.assert_allclose(dense_gradient(bags, w), dense_gradient(parts, w), rtol=1e-12)


@pytest.mark.parametrize("wanted", [False, True], ids=["constant weights", "trained weights"])
def test_per_sample_weights(wanted):
    factors = np.linspace(-1, 2, len(TOKENS))
    w, f = table(), Tensor(factors, requires_grad=wanted)

    def bags(w, f):
        return F.embedding_bag(Tensor(TOKENS), w, Tensor(OFFSETS), mode="sum", per_sample_weights=f)

    want = bag_reference(w.detach().numpy(), TOKENS, OFFSETS, "sum", factors)
    np.testing.assert_allclose(bags(w, f).detach().numpy(), want, rtol=1e-12, atol=1e-15)
    if wanted:
        testing.gradcheck(lambda w, f: bags(w, f) ** 3, (w.detach().numpy_copy(), factors), order=2)
    else:
        testing.gradcheck(lambda w: bags(w, f) ** 3, (w.detach().numpy_copy(),), order=2)


def test_bag_errors():
    w, i, o = table(), Tensor(TOKENS), Tensor(OFFSETS)
    for args, options, text in (
        ((i, w), {}, "'offsets': expected where the bags of a 1-D input begin, got none"),
        ((i.reshape(3, 3), w, o), {}, "'offsets': expected none beside a 2-D input"),
        ((i.reshape(1, 3, 3), w), {}, "'input': expected 1 or 2 dimensions"),
        ((i, w, Tensor([1, 2])), {}, r"'offsets': expected numbers that begin at 0 and rise to at most 9, got"),
        ((i, w, Tensor([0, 5, 4])), {}, "'offsets': expected numbers that begin at 0"),
        ((i, w, Tensor([0, 10])), {}, "'offsets': expected numbers that begin at 0"),
        ((i, w, Tensor([[0]])), {}, "'offsets': expected 1 dimension"),
        ((i, w, o), {"mode": "min"}, "'mode': expected 'sum', 'mean' or 'max', got 'min'"),
        ((i, w, o), {"mode": "max", "sparse": True}, "'sparse': expected False with mode 'max'"),
        ((i, w, o), {"per_sample_weights": Tensor(TOKENS * 1.0)}, "'per_sample_weights': expected mode 'sum'"),
        ((i, w, o), {"mode": "sum", "per_sample_weights": Tensor([1.0])}, "'per_sample_weights': expected input"),
        ((i, w, o), {"padding_idx": 7}, "'padding_idx': expected -7 <= value < 7"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=f"embedding_bag: argument {text}"):
            F.embedding_bag(*args, **options)
    for mode in ("sum", "mean", "max"):
        with pytest.raises(IndexError, match="expected 0 <= value < 7, got 7"):
            F.embedding_bag(Tensor([[0, 7]]), w, mode=mode)
        assert F.embedding_bag(Tensor(np.zeros((2, 0), np.int64)), w, mode=mode).tolist() == [[0] * E] * 2
        none = Tensor(np.zeros(0, np.int64))
        assert F.embedding_bag(none, w, none, mode=mode).shape == (0, E)


# ---- gradients by rows --------------------------------------------------------------------------------


def by_rows(indices, rows=V, columns=E, dtype="float64", seed=1):
    values = np.random.default_rng(seed).standard_normal((len(indices), columns)).astype(dtype)
    return RowGradient(indices, values, (rows, columns)), values


def test_row_gradient_holds_different_rows_in_order():
    g, values = by_rows([5, 1, 5, 0])
    assert g.indices.tolist() == [0, 1, 5]
    np.testing.assert_array_equal(g.values.numpy(), [values[3], values[1], values[0] + values[2]])
    assert (g.shape, g.dtype, g.is_sparse, g.ndim) == ((V, E), np.float64, True, 2)
    assert repr(g).startswith("RowGradient(indices=tensor([0, 1, 5]), values=tensor([[")
    dense = np.zeros((V, E))
    np.add.at(dense, [5, 1, 5, 0], values)
    np.testing.assert_array_equal(g.to_dense().numpy(), dense)
    for twin in (copy.deepcopy(g), pickle.loads(pickle.dumps(g)), g.clone()):
        assert twin.indices.tolist() == [0, 1, 5]
        np.testing.assert_array_equal(twin.to_dense().numpy(), dense)
    assert g.zero_().indices.tolist() == []
    assert not g.to_dense().numpy().any()
    assert twin.indices.tolist() == [0, 1, 5]


def test_row_gradient_errors():
    with pytest.raises(IndexError, match="expected 0 <= value < 7, got 7"):
        by_rows([0, 7])
    for bad in ([[0]], [0, 1, 2]):
        with pytest.raises(ValueError, match=r"RowGradient: expected indices \[K\], values \[K, C\]"):
            RowGradient(bad, np.ones((2, E)), (V, E))
    g, _ = by_rows([1])
    for use in (lambda: g + 1, lambda: g.numpy(), lambda: g.tolist(), lambda: pynn.sum(g), lambda: g.astype("f4"),
                lambda: g[0].tolist(), lambda: g.reshape(-1).tolist()):  # fmt: skip
        with pytest.raises((TypeError, RuntimeError), match=r"a gradient by rows, of shape|without values"):
            use()
    with pytest.raises(TypeError, match=r"a gradient by rows, of shape \(7, 3\).*to_dense\(\)"):
        pynn.exp(g)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sparse_gradients_are_the_dense_ones(dtype):
    w = table(dtype)
    i = Tensor([[1, 4, 1], [0, 6, 1]])
    cases = {
        "embedding": lambda w, **o: F.embedding(i, w, **o),
        "padded": lambda w, **o: F.embedding(i, w, padding_idx=1, **o),
        "bags": lambda w, **o: F.embedding_bag(i, w, **o),
        "offsets": lambda w, **o: F.embedding_bag(Tensor(TOKENS), w, Tensor(OFFSETS), mode="sum", padding_idx=3, **o),
        "weights": lambda w, **o: F.embedding_bag(
            i, w, mode="sum", per_sample_weights=Tensor(np.linspace(1, 2, 6, dtype=dtype).reshape(2, 3)), **o),
        "by frequency": lambda w, **o: F.embedding_bag(i, w, scale_grad_by_freq=True, **o),
    }  # fmt: skip
    for name, fn in cases.items():
        w.grad = None
        bent(fn(w, sparse=True)).backward()
        g = w.grad
        assert g.is_sparse, name
        assert 1 not in g.indices.tolist() or name != "padded"
        np.testing.assert_allclose(g.to_dense().numpy(), dense_gradient(fn, w), rtol=2e-6, err_msg=name)


def test_sparse_gradients_accumulate():
    w, i, j = table(), Tensor([1, 4, 1]), Tensor([0, 4])
    one, two = (dense_gradient(lambda w, k=k: F.embedding(k, w), w) for k in (i, j))
    bent(F.embedding(i, w, sparse=True)).backward()
    bent(F.embedding(j, w, sparse=True)).backward()
    assert w.grad.indices.tolist() == [0, 1, 4]
    np.testing.assert_allclose(w.grad.to_dense().numpy(), one + two, rtol=1e-12)
    (bent(F.embedding(i, w, sparse=True)) + bent(F.embedding(j, w, sparse=True))).backward()  # in one walk
    assert w.grad.is_sparse
    np.testing.assert_allclose(w.grad.to_dense().numpy(), 2 * (one + two), rtol=1e-12)
    (g,) = pynn.grad(bent(F.embedding(i, w, sparse=True)) + bent(F.embedding(j, w, sparse=True)), w)
    np.testing.assert_allclose(g.to_dense().numpy(), one + two, rtol=1e-12)
    bent(F.embedding(i, w)).backward()  # with a dense one: dense
    assert not w.grad.is_sparse
    np.testing.assert_allclose(w.grad.numpy(), 3 * one + 2 * two, rtol=1e-12)
    bent(F.embedding(j, w, sparse=True)).backward()
    np.testing.assert_allclose(w.grad.numpy(), 3 * (one + two), rtol=1e-12)
    seen = []
    w.grad = None
    w.register_hook(lambda g: seen.append(g))
    (bent(F.embedding(i, w, sparse=True)) + bent(F.embedding(j, w, sparse=True))).backward()
    assert len(seen) == 1
    np.testing.assert_allclose(w.grad.to_dense().numpy(), one + two, rtol=1e-12)


def test_models_with_sparse_gradients_can_be_copied():
    m = nn.Embedding(V, E, sparse=True)
    m(Tensor([1, 2])).sum().backward()
    twin = copy.deepcopy(m)
    assert twin.weight.grad.indices.tolist() == [1, 2]
    m.weight.grad.zero_()
    assert twin.weight.grad.indices.tolist() == [1, 2]


@pytest.mark.parametrize("sizes", [(1, 1, 1), (3000, 5, 64), (40000, 900, 3), (3000, 100000, 2), (700, 40, 130)])
def test_folds_have_the_same_bits_for_any_number_of_threads(sizes):
    """Large sums, in blocks of a sort that has several passes."""
    n, rows, columns = sizes
    rng = np.random.default_rng(3)
    idx = (rows * rng.random(n) ** 3).astype(np.int64)
    g = rng.standard_normal((n, columns)).astype(np.float32)
    want = np.zeros((rows, columns), np.float32)
    np.add.at(want, idx, g)
    found = []
    for threads, div in itertools.product((1, 2, 4), (1, 64)):
        with pynn.threads(threads):
            before = pynn._core.get_chunk_div() if hasattr(pynn._core, "get_chunk_div") else 1
            pynn._core.set_chunk_div(div)
            try:
                y = OPS.scatter_add(g, idx, rows=rows)
                s = RowGradient(idx, g, (rows, columns))
            finally:
                pynn._core.set_chunk_div(before)
        found.append((y.numpy_copy(), s.indices.numpy_copy(), s.values.numpy_copy()))
    for y, i, v in found:
        np.testing.assert_array_equal(y, want)  # NumPy adds in the same order
        np.testing.assert_array_equal(i, np.unique(idx))
        np.testing.assert_array_equal(v, want[np.unique(idx)])
