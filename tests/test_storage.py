"""Memory, its owners and versions; dtypes and conversions; layouts; what is freed when."""

import copy
import gc
import pickle

import numpy as np
import pytest

import pynn
from pynn import OPS, Tensor, _core, from_numpy, no_grad, tensor

DTYPES = ("float32", "float64", "int64", "int32", "uint8", "bool")


def live():
    return _core.alloc_stats()["live"]


# ---- sharing and copying ---------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_from_numpy_shares_and_tensor_copies(dtype):
    a = np.arange(6).reshape(2, 3).astype(dtype)
    shared, copied = from_numpy(a), tensor(a)
    a[1, 2] = 0
    assert shared.dtype == copied.dtype == a.dtype
    assert shared.numpy()[1, 2] == 0
    assert copied.numpy()[1, 2] == np.array(5, dtype)
    assert np.shares_memory(shared.numpy(), a)
    assert not np.shares_memory(copied.numpy(), a)


@pytest.mark.parametrize(
    "cut", [np.s_[::2, ::-1], np.s_[1:, 2], np.s_[..., None, 1:2], np.s_[3:1], np.s_[:, ::3]], ids=str
)
def test_from_numpy_takes_any_strides(cut):
    a = np.arange(24.0).reshape(4, 6)[cut]
    t = from_numpy(a)
    assert t.shape == a.shape
    np.testing.assert_array_equal(t.numpy(), a)
    np.testing.assert_array_equal((t + 1).numpy(), a + 1)
    np.testing.assert_array_equal(tensor(a).numpy(), a)


def test_memory_outlives_its_makers():
    a = np.arange(1000.0)
    t = from_numpy(a)
    del a
    view = (t * 2).numpy()
    shared = t.numpy()
    del t
    gc.collect()
    _ = [tensor(np.zeros(1000)) for _ in range(20)]
    np.testing.assert_array_equal(view, 2 * np.arange(1000.0))
    np.testing.assert_array_equal(shared, np.arange(1000.0))


def test_views_share_storage_and_version():
    x = tensor(np.arange(12.0).reshape(3, 4))
    views = [x.reshape(4, 3), x.T, x[1:, ::2], x.expand(2, 3, 4), x.detach(), x.flatten(), x.unsqueeze(0), x[0]]
    assert all(v.storage_ is x.storage_ for v in views)
    before = x._version
    x.zero_()
    assert x._version != before
    assert {v._version for v in views} == {x._version}
    assert all((v.numpy() == 0).all() for v in views)
    views[0][0, 0] = 7.0
    assert x.numpy()[0, 0] == 7
    assert x.T.reshape(12).storage_ is not x.storage_  # no strides say that: a copy


def test_reading_leaves_the_version_alone():
    x = tensor([1.0, 2.0])
    before = x._version
    x + 1, x.sum(), x.numpy(), x.tolist(), repr(x), x.reshape(2, 1), np.asarray(x), x.clone()
    assert x._version == before


def test_numpy_is_read_only_where_a_gradient_is_asked_for():
    x = tensor([1.0, 2.0], requires_grad=True)
    for t in (x, x * 2):
        assert not t.numpy().flags.writeable
        assert not np.asarray(t).flags.writeable
    y = tensor([1.0, 2.0])
    assert not y.storage_.exposed
    y.numpy()[0] = 5
    assert y.storage_.exposed  # its version says nothing any more
    assert y.tolist() == [5, 2]
    assert not tensor([1.0]).clone()._array().flags.writeable


def test_writable():
    x = tensor([1.0, 2.0], requires_grad=True)
    before = x._version
    with (
        pytest.raises(RuntimeError, match=r"^writable: a leaf that requires grad .* only under pynn\.no_grad"),
        x.writable(),
    ):
        pass
    with no_grad(), x.writable() as a:
        a[0] = 9
    assert x._version != before
    assert x.tolist() == [9, 2]
    before = x._version
    with pytest.raises(KeyError), no_grad(), x.writable():  # also where the writing failed half way
        raise KeyError
    assert x._version != before
    with pytest.raises(RuntimeError, match=r"^writable: a tensor with history"), (x * 2).writable():
        pass


def test_read_only_arrays():
    a = np.arange(3.0)
    a.flags.writeable = False
    t = from_numpy(a)
    np.testing.assert_array_equal((t * 2).numpy(), [0, 2, 4])
    assert not t.numpy().flags.writeable
    for change in (t.zero_, lambda: t.__setitem__(0, 1.0), lambda: t.copy_(tensor([1.0]))):
        with pytest.raises(ValueError, match="the tensor's memory is read-only"):
            change()
    np.testing.assert_array_equal(a, [0, 1, 2])


def test_overlapping_copies_read_before_they_write():
    for make in (lambda x: (x, x[::-1]), lambda x: (x[1:], x[:-1]), lambda x: (x[:-1], x[1:])):
        x = tensor(np.arange(1000.0))
        to, source = make(x)
        want = source.numpy_copy()
        to.copy_(source)
        np.testing.assert_array_equal(to.numpy(), want)
    x = tensor(np.arange(6.0).reshape(2, 3)[:, :2])
    x.copy_(x.T)
    np.testing.assert_array_equal(x.numpy(), [[0, 3], [1, 4]])


def test_repeated_memory_is_not_written():
    x = tensor([1.0]).expand(3)
    for change in (x.zero_, lambda: x.copy_(tensor([1.0, 2.0, 3.0])), lambda: x.__setitem__(0, 1.0)):
        with pytest.raises(
            ValueError, match=r"dimension 0 of .*shape \(3,\) repeats the same memory; use x\.clone\(\)"
        ):
            change()


def test_copies():
    x = tensor(np.arange(6.0).reshape(2, 3)).T
    for twin in (x.clone(), copy.deepcopy(x), pickle.loads(pickle.dumps(x)), tensor(x)):
        assert twin.storage_ is not x.storage_
        np.testing.assert_array_equal(twin.numpy(), x.numpy())
        assert twin.dtype == x.dtype
    y = tensor(np.zeros((2, 3)), dtype=np.int64)
    y.copy_(tensor([1.9, -1.9, 300.0]))
    assert y.tolist() == [[1, -1, 300]] * 2


# ---- dtypes ------------------------------------------------------------------------------------------


def test_python_values():
    for value, dtype in (
        (1.5, "float32"),
        (3, "int64"),
        (True, "bool"),
        ([1, 2.5], "float32"),
        ([[1], [2]], "int64"),
        ([], "float32"),
    ):
        assert tensor(value).dtype == dtype
    assert tensor(np.float64(1.5)).dtype == np.float64
    assert tensor([np.float32(1), np.float32(2)]).dtype == np.float32
    assert tensor([1, 2], dtype="float64").dtype == np.float64
    assert tensor(range(3)).tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("source", "kept"),
    [("f2", "f4"), ("i1", "i4"), ("i2", "i4"), ("u2", "i4"), ("u4", "i8"), (">f4", "f4"), (">i8", "i8")],
)
def test_other_real_dtypes_are_converted(source, kept):
    a = np.array([0, 1, 100], dtype=source)
    t = tensor(a)
    assert t.dtype == kept
    assert t.tolist() == [0, 1, 100]
    assert (OPS.add(a, 1)).tolist() == [1, 2, 101]
    with pytest.raises(
        TypeError, match=r"^from_numpy: argument 'array': expected one of .*; pynn\.tensor\(array\) converts a copy$"
    ):
        from_numpy(a)


BAD = {
    "text": ("text", r"got dtype <U4"),
    "texts": (["a", "bc"], r"got dtype <U2"),
    "bytes": (b"ab", r"got dtype \|S2"),
    "object": (object(), r"got dtype object"),
    "none": ([1.0, None], r"got dtype object"),
    "complex": (1 + 2j, r"got dtype complex128"),
    "complex array": (np.ones(2, "c8"), r"got dtype complex64"),
    "date": (np.datetime64("2026-01-01"), r"got dtype datetime64"),
    "structure": (np.zeros(2, [("a", "f4")]), r"got dtype \[\('a'"),
    "long double": (np.ones(2, np.longdouble), r"got dtype (float128|longdouble|float96)"),
    "uint64": (np.ones(2, np.uint64), r"got dtype uint64"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_number(kind):
    value, got = BAD[kind]
    if kind == "long double" and np.dtype(np.longdouble) == np.float64:
        pytest.skip("long double is double here")
    want = r"^tensor: argument 'data': expected real numbers or bools \(float32, float64, int64, int32, uint8, bool\), "
    with pytest.raises(TypeError, match=want + got):
        tensor(value)
    if isinstance(value, np.ndarray | list):
        with pytest.raises(TypeError, match=r"^add: argument 'b': expected real numbers or bools .*" + got):
            tensor([1.0, 2.0]) + value


def test_ragged_lists():
    with pytest.raises(
        ValueError, match=r"^tensor: argument 'data': expected numbers in a rectangular array, got a ragged one"
    ):
        tensor([[1.0, 2.0], [3.0]])


def test_unaligned_arrays():
    raw = np.zeros(33, np.uint8)
    a = raw[1:].view(np.float64)
    a[:] = [1, 2, 3, 4]
    assert not a.flags.aligned
    with pytest.raises(
        ValueError, match=r"^from_numpy: argument 'array': expected aligned elements, got an unaligned array"
    ):
        from_numpy(a)
    field = np.zeros(3, [("a", "f4"), ("b", "f8")])["b"]  # strides that are no multiple of the element
    with pytest.raises(ValueError, match=r"^from_numpy: argument 'array': expected aligned elements"):
        from_numpy(field)
    np.testing.assert_array_equal(tensor(a).numpy(), [1, 2, 3, 4])
    np.testing.assert_array_equal(OPS.mul(a, 2.0).numpy(), [2, 4, 6, 8])


def test_overflowing_numbers():
    x = tensor(np.array([1, 2], np.uint8))
    for value in (300, -1):
        for call in (
            lambda v: x + v,
            lambda v: OPS.maximum(v, x),
            lambda v: tensor([v], np.uint8),
            lambda v: x.fill_(v),
        ):
            with pytest.raises(OverflowError):
                call(value)
    with pytest.raises(OverflowError):
        tensor([1], np.int32) + 2**40
    with pytest.raises(OverflowError):
        tensor([1]) + 2**70
    assert (x + 254).tolist() == [255, 0]  # wraps around, as NumPy's
    assert (tensor([1.0]) + 1e300).tolist() == [np.inf]


@pytest.mark.parametrize("a", DTYPES)
def test_promotion_is_numpys(a):
    """NEP 50, against NumPy ≥ 2 itself."""
    x = np.ones(2, a)
    for b in DTYPES:
        y = np.ones(2, b)
        assert OPS.add(tensor(x), tensor(y)).dtype == np.result_type(x, y)
        assert OPS.maximum(tensor(x), y).dtype == np.result_type(x, y)
        assert pynn.where(tensor([True, False]), tensor(x), tensor(y)).dtype == np.result_type(x, y)
    if np.lib.NumpyVersion(np.__version__) < "2.0.0":
        return
    for number in (True, 1, 1.0):
        assert (tensor(x) + number).dtype == (x + number).dtype
        assert (number * tensor(x)).dtype == (number * x).dtype
    for scalar in (np.float64(1), np.float32(1), np.int64(1), np.uint8(1)):
        assert (tensor(x) + scalar).dtype == (x + scalar).dtype


def test_layers_ops_do_not_promote():
    with pytest.raises(TypeError, match=r"^linear: argument 'x': expected dtype float64 as 'W' has, got float32$"):
        OPS.linear(tensor(np.ones((2, 3), "f4")), tensor(np.ones((4, 3))), None)


# ---- sizes ---------------------------------------------------------------------------------------------


def test_zero_sized_dimensions():
    x = tensor(np.zeros((0, 3)), requires_grad=True)
    y = (x * 2 + 1).sum(dim=0)
    assert y.tolist() == [0, 0, 0]
    y.sum().backward()
    assert x.grad.shape == (0, 3)
    assert (x @ tensor(np.ones((3, 2)))).shape == (0, 2)
    assert (tensor(np.ones((2, 0))) @ tensor(np.ones((0, 3)))).tolist() == [[0, 0, 0]] * 2
    assert x.reshape(3, 0).T.shape == (0, 3)
    assert from_numpy(np.zeros((2, 0, 3))).numpy().shape == (2, 0, 3)
    with pytest.raises(ValueError, match=r"^amax: argument 'x': expected at least one element"):
        x.amax(dim=0)


def test_too_large():
    with pytest.raises(MemoryError, match=r"does not fit into memory"):
        pynn.empty(2**40, 2**40)
    with pytest.raises(MemoryError, match=r"could not allocate \d+ bytes"):
        pynn.empty(2**50)
    with pytest.raises(MemoryError):
        tensor([1.0]).expand(2**30, 2**30) + 1.0
    with pytest.raises(ValueError, match=r"expected at most 8 dimensions"):
        pynn.empty((1,) * 9)
    with pytest.raises(ValueError, match=r"expected at most 8 dimensions"):
        tensor(np.zeros((1,) * 9))
    x = pynn.ones(3)
    assert (x + 1).tolist() == [2, 2, 2]  # all goes on


def test_too_many_broadcast_dimensions():
    a, b = tensor(np.ones((2,) * 8)), tensor(np.ones((1,) * 8))
    assert (a + b).ndim == 8
    with pytest.raises(ValueError, match=r"8 dimensions"):
        a.unsqueeze(0)
    with pytest.raises(ValueError, match=r"8 dimensions"):
        OPS.linear(tensor(np.ones((1,) * 8)), tensor(np.ones((4, 1))), None).expand((2,) * 9)


def test_bad_shapes():
    x = tensor(np.arange(6.0))
    for call, text in (
        (lambda: x.reshape(4, 2), r"^reshape: argument 'shape': expected 6 elements as in \(6,\), got \(4, 2\)$"),
        (lambda: x.reshape(-1, -1), r"^reshape: argument 'shape': expected sizes >= 0 and at most one -1"),
        (lambda: x.permute(0, 1), r"^permute: argument 'axes': expected 1 axes for shape \(6,\)"),
        (
            lambda: x.expand(2, 5),
            r"^expand: argument 'shape': expected a shape that \(6,\) broadcasts to, got \(2, 5\)$",
        ),
        (
            lambda: x + tensor(np.ones(5)),
            r"^add: argument 'b': expected shape \[\.\.\.\] with \.\.\.=\(6,\), got \(5,\)$",
        ),
        (
            lambda: x @ tensor(np.ones((5, 2))),
            r"^matmul: argument 'b': expected shape \[\.\.\.,K,N\] with K=6, got \(5, 2\)$",
        ),
        (lambda: pynn.zeros(-1), r"^shape: expected non-negative integers"),
        (lambda: pynn.zeros(2.5), r"^shape: expected non-negative integers"),
    ):
        with pytest.raises(ValueError, match=text):
            call()


def test_host_values():
    assert float(tensor([[2.5]])) == 2.5
    assert int(tensor(3)) == 3
    assert [10, 20, 30][tensor(1)] == 20
    assert bool(tensor([0.0])) is False
    assert len(tensor(np.zeros((4, 2)))) == 4
    assert [t.tolist() for t in tensor([[1, 2], [3, 4]])] == [[1, 2], [3, 4]]
    assert f"{tensor(1.25):.1f}" == "1.2"
    for call, exception, text in (
        (lambda: tensor([1.0, 2.0]).item(), ValueError, r"^item: expected a tensor of one element, got shape \(2,\)$"),
        (lambda: bool(tensor([1.0, 2.0])), ValueError, r"one element"),
        (lambda: len(tensor(1.0)), TypeError, r"0-d"),
        (lambda: list(tensor(1.0)), TypeError, r"0-d"),
        (lambda: [1, 2][tensor(1.0)], TypeError, r"only integer tensors"),
    ):
        with pytest.raises(exception, match=text):
            call()


def test_numpy_left_operands_reach_the_tensor():
    a, t = np.array([1.0, 2.0]), tensor([3.0, 4.0], requires_grad=True)
    for y in (a + t, a * t, a - t, a / t, a**t, a @ t, np.float64(2) * t, a < t):
        assert isinstance(y, Tensor)
    assert (a - t).tolist() == [-2, -2]


# ---- layouts ---------------------------------------------------------------------------------------------


def test_elementwise_ops_keep_channels_last():
    x = from_numpy(np.random.default_rng(0).standard_normal((2, 4, 5, 3))).permute(0, 3, 1, 2)
    assert x.is_channels_last()
    assert not x.is_contiguous()
    for y in (
        x + 1,
        OPS.exp(x),
        x * x,
        x + tensor(np.ones((3, 1, 1))),
        pynn.where(x > 0, x, 0.0),
        x.clone(),
        OPS.cast(x, dtype="f4"),
    ):
        assert y.is_channels_last(), y
        assert not y.is_contiguous()
    plain = tensor(x)
    assert plain.is_contiguous()
    assert (plain + x).is_contiguous()
    assert (x + plain).is_channels_last()
    np.testing.assert_array_equal((x + plain).numpy(), 2 * x.numpy())
    assert x.contiguous().is_contiguous()
    np.testing.assert_array_equal(x.contiguous().numpy(), x.numpy())
    flat = x.flatten(1)
    np.testing.assert_array_equal(flat.numpy(), x.numpy().reshape(2, -1))
    leaf = x.detach()
    leaf.requires_grad = True
    (leaf * leaf).sum().backward()
    assert leaf.grad.strides == leaf.strides
    both = tensor(np.ones((2, 1, 4, 5)))
    assert both.is_channels_last()
    assert both.is_contiguous()


# ---- exchange ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_dlpack_both_ways(dtype):
    t = tensor(np.arange(6).reshape(2, 3).astype(dtype))
    a = np.from_dlpack(t)
    assert a.dtype == dtype
    assert np.shares_memory(a, t.numpy())
    source = np.arange(6).reshape(2, 3).astype(dtype)[:, ::2]
    back = pynn.from_dlpack(source)
    source[0, 0] = 1
    assert back.dtype == dtype
    np.testing.assert_array_equal(back.numpy(), source)
    assert t.__dlpack_device__() == (1, 0)
    assert pynn.from_dlpack(t).storage_ is not t.storage_
    assert np.shares_memory(pynn.from_dlpack(t).numpy(), t.numpy())


def test_dlpack_refuses_what_has_gradients():
    for t in (tensor([1.0], requires_grad=True), tensor([1.0], requires_grad=True) * 2):
        with pytest.raises(BufferError, match=r"requires grad.*detach"):
            t.__dlpack__()
    with pytest.raises(TypeError, match=r"^from_dlpack: argument 'x': expected an object with __dlpack__, got list$"):
        pynn.from_dlpack([1.0])


def test_array_protocol():
    t = tensor([1.5, 2.5])
    assert np.asarray(t).dtype == np.float32
    assert np.shares_memory(np.asarray(t), t.numpy())
    assert np.array(t, dtype=np.float64).tolist() == [1.5, 2.5]
    assert not np.shares_memory(np.array(t), t.numpy())
    assert np.mean(np.asarray(t)) == 2


# ---- what is freed when ---------------------------------------------------------------------------------------


def test_training_steps_return_to_the_baseline_without_the_collector():
    """Live bytes after each step are those after the second, with varying batches and gc off."""
    from pynn import nn, optim

    model = nn.Sequential(nn.Linear(20, 30), nn.Tanh(), nn.Linear(30, 5))
    optimizer = optim.Adam(model.parameters())
    rng = np.random.default_rng(0)
    gc.collect()
    gc.disable()
    try:
        found = []
        for step in range(12):
            n = int(rng.integers(1, 50))
            loss = nn.CrossEntropyLoss()(
                model(tensor(rng.standard_normal((n, 20)), "float32")), tensor(rng.integers(0, 5, n))
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            assert np.isfinite(loss.item())
            del loss
            if step:
                found.append(live())
        assert len(set(found)) == 1, found
    finally:
        gc.enable()


def test_everything_is_freed():
    gc.collect()
    before = live()
    x = tensor(np.ones((100, 100)), requires_grad=True)
    y = (x @ x).sum()
    y.backward(retain_graph=True)
    view = x.grad.T
    del x, y
    assert live() > before
    del view
    assert live() == before
    stats = _core.alloc_stats()
    assert stats["live"] <= stats["peak_live"]
    assert stats["n_alloc"] >= stats["n_free"]
