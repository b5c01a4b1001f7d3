"""Attention: what the derived tests of its two ops do not say."""

import numpy as np
import pytest

import pynn
from pynn import OPS
from pynn.nn import functional as F
from pynn.ops.attention import attention_weights

sdpa = F.scaled_dot_product_attention


def draw(*shapes, dtype=np.float64, seed=0):
    rng = np.random.default_rng(seed)
    return [pynn.tensor(rng.standard_normal(s).astype(dtype)) for s in shapes]


def plain(q, k, v, seen=None, scale=None):
    """By the definition, in NumPy."""
    s = q @ np.swapaxes(k, -1, -2) * (q.shape[-1] ** -0.5 if scale is None else scale)
    if seen is not None:
        s = np.where(seen, s, -np.inf)
    with np.errstate(invalid="ignore"):
        p = np.exp(s - s.max(-1, keepdims=True))
        p = np.nan_to_num(p / p.sum(-1, keepdims=True))
    return p @ v


@pytest.mark.parametrize("lead", [(), (3,), (2, 3), (2, 1, 3)])
def test_leading_dimensions(lead):
    q, k, v = draw((*lead, 5, 4), (*lead, 7, 4), (*lead, 7, 3))
    y = sdpa(q, k, v)
    assert y.shape == (*lead, 5, 3)
    np.testing.assert_allclose(y.numpy(), plain(q.numpy(), k.numpy(), v.numpy()), rtol=1e-12, atol=1e-14)


def test_leading_dimensions_are_broadcast():
    q, k, v = draw((2, 3, 5, 4), (3, 7, 4), (1, 1, 7, 4))
    np.testing.assert_allclose(sdpa(q, k, v).numpy(), plain(q.numpy(), k.numpy(), v.numpy()), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("shape", [(6, 6), (1, 6), (2, 1, 6, 6), (3, 6, 6), (2, 3, 6, 6)])
def test_masks_of_bools_and_of_numbers(shape):
    q, k, v = draw((2, 3, 6, 4), (2, 3, 6, 4), (2, 3, 6, 4))
    seen = np.random.default_rng(1).random(shape) < 0.6
    seen[..., 0, :] = False
    want = plain(q.numpy(), k.numpy(), v.numpy(), seen)
    np.testing.assert_allclose(sdpa(q, k, v, pynn.tensor(seen)).numpy(), want, rtol=1e-12, atol=1e-14)
    added = pynn.tensor(np.where(seen, 0.0, -np.inf))
    np.testing.assert_allclose(sdpa(q, k, v, added).numpy(), want, rtol=1e-12, atol=1e-14)
    assert not want[:, :, 0].any()


def test_shared_heads():
    q, k, v = draw((2, 6, 5, 4), (2, 2, 7, 4), (2, 2, 7, 4))
    wide = [np.repeat(x.numpy(), 3, 1) for x in (k, v)]
    np.testing.assert_allclose(sdpa(q, k, v, enable_gqa=True).numpy(), plain(q.numpy(), *wide), rtol=1e-12, atol=1e-14)
    with pytest.raises(ValueError, match="heads of query to be a multiple"):
        sdpa(q, *draw((2, 4, 7, 4), (2, 4, 7, 4)), enable_gqa=True)


@pytest.mark.parametrize("n", [1, 5, 57, 200])
def test_window_and_causal(n):
    q, k, v = draw((2, n, 8), (2, n, 8), (2, n, 8))
    away = np.arange(n)[:, None] - np.arange(n)
    for causal, window in ((True, 0), (False, 3), (True, 60), (False, 1)):
        seen = (away >= 0 if causal else True) & (np.abs(away) < (window or n + 1))
        want = plain(q.numpy(), k.numpy(), v.numpy(), seen)
        got = sdpa(q, k, v, is_causal=causal, window=window).numpy()
        np.testing.assert_allclose(got, want, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("value", [3.0, np.nan, np.inf])
def test_what_comes_later_changes_no_bit(dtype, value):
    q, k, v = draw((1, 150, 24), (1, 150, 24), (1, 150, 24), dtype=dtype)
    before = sdpa(q, k, v, is_causal=True).numpy_copy()
    for t in (1, 40, 149):
        later = [x.numpy_copy() for x in (q, k, v)]
        for x in later:
            x[:, t:] = value
        after = sdpa(*map(pynn.tensor, later), is_causal=True).numpy()
        assert after[:, :t].tobytes() == before[:, :t].tobytes()


def test_cached_keys_give_what_the_whole_gives():
    q, k, v = draw((2, 30, 8), (2, 30, 8), (2, 30, 8))
    whole = sdpa(q, k, v, is_causal=True).numpy()
    for t in range(30):
        one = sdpa(q[:, t : t + 1], k[:, : t + 1], v[:, : t + 1], is_causal=True, offset=t).numpy()
        np.testing.assert_allclose(one, whole[:, t : t + 1], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_query_alone_reads_rows_with_gaps(dtype):
    """Keys and values whose features lie apart give the bits of dense ones; what is not seen may be anything."""
    q, k, v = draw((2, 3, 1, 20), (2, 3, 20, 200), (2, 3, 36, 200), dtype=dtype)
    k, v = k.transpose(2, 3), v.transpose(2, 3)
    options = {"is_causal": True, "offset": 150}
    y = sdpa(q, k, v, **options).numpy()
    np.testing.assert_array_equal(y, sdpa(q, k.contiguous(), v.contiguous(), **options).numpy())
    seen = [x.numpy_copy() for x in (k, v)]
    for x in seen:
        x[:, :, 151:] = np.nan
    np.testing.assert_array_equal(y, sdpa(q, *map(pynn.tensor, seen), **options).numpy())


def test_order_of_keys_does_not_matter():
    q, k, v = draw((1, 9, 4), (1, 20, 4), (1, 20, 4))
    order = np.random.default_rng(2).permutation(20)
    got = sdpa(q, pynn.tensor(k.numpy()[:, order]), pynn.tensor(v.numpy()[:, order])).numpy()
    np.testing.assert_allclose(got, sdpa(q, k, v).numpy(), rtol=1e-12, atol=1e-14)


def test_self_attention_is_attention_of_its_parts():
    (x,) = draw((2, 37, 3, 2, 16))
    x.requires_grad = True
    q, k, v = (x[:, :, i].permute(0, 2, 1, 3) for i in range(3))
    apart = sdpa(q, k, v, is_causal=True).permute(0, 2, 1, 3)
    joined = OPS.self_attention(x, None, scale=0.25, causal=True)[0]
    np.testing.assert_array_equal(joined.numpy_copy(), apart.numpy_copy())
    (g,) = draw(joined.shape, seed=3)
    (one,), (other,) = (pynn.grad(y, [x], g, retain_graph=True) for y in (apart, joined))
    np.testing.assert_array_equal(one.numpy(), other.numpy())


def test_weights_and_their_gradients():
    q, k, v = draw((2, 5, 4), (2, 7, 4), (2, 7, 3))
    p = attention_weights(q, k)
    np.testing.assert_allclose((p @ v).numpy(), sdpa(q, k, v).numpy(), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(p.sum(-1).numpy(), 1, rtol=1e-12)
    mask = pynn.tensor(np.zeros((5, 7)), requires_grad=True)
    (g,) = pynn.grad(sdpa(q, k, v, mask).sum(), [mask])
    assert g.shape == (5, 7)
    np.testing.assert_allclose(g.sum(1).numpy(), 0, atol=1e-12)


def test_dropped_weights():
    q, k = draw((4, 60, 4), (4, 60, 4))
    eye = pynn.tensor(np.broadcast_to(np.eye(60), (4, 60, 60)).copy())
    pynn.manual_seed(0)
    kept = sdpa(q, k, eye, dropout_p=0.5).numpy()
    p = attention_weights(q, k).numpy()
    np.testing.assert_allclose(kept[kept > 0], 2 * p[kept > 0], rtol=1e-10)
    assert 0.45 < (kept > 0).mean() < 0.55


@pytest.mark.parametrize(
    ("shapes", "options", "text"),
    [
        (((4,), (7, 4), (7, 4)), {}, "argument 'query': expected at least 2 dimensions"),
        (((5, 4), (7, 3), (7, 4)), {}, "argument 'key': expected 4 features"),
        (((5, 4), (7, 4), (6, 4)), {}, "argument 'value': expected 7 places"),
        (((2, 5, 4), (3, 7, 4), (3, 7, 4)), {}, "leading dimensions that can be broadcast"),
        (((5, 4), (7, 4), (7, 4)), {"dropout_p": 2.0}, "argument 'dropout_p'"),
        (((5, 4), (7, 4), (7, 4)), {"attn_mask": pynn.tensor(np.ones((4, 7), bool))}, "argument 'attn_mask'"),
    ],
)
def test_bad_calls(shapes, options, text):
    with pytest.raises(ValueError, match=text):
        sdpa(*draw(*shapes), **options)


@pytest.mark.parametrize("dropout_p", [0.0, 0.2])
def test_memory_does_not_grow_with_the_square(dropout_p):
    from pynn import _core

    q, k, v = draw((1, 4000, 16), (1, 4000, 16), (1, 4000, 16), dtype=np.float32)
    for x in (q, k, v):
        x.requires_grad = True
    sdpa(q[:, :10], k[:, :10], v[:, :10], dropout_p=dropout_p).sum().backward()
    _core.reset_peak()
    before = _core.alloc_stats()["live"]
    sdpa(q, k, v, dropout_p=dropout_p).sum().backward()
    peak = _core.alloc_stats()["peak_live"] - before
    assert peak < 4000 * 4000 * 4 / 4, f"{peak} bytes for sequences of 4000"


@pytest.mark.parametrize("options", [{}, {"is_causal": True}, {"window": 30, "offset": 5}])
def test_dropout_by_blocks_is_dropout_of_the_matrix(options):
    """Keys before, in and behind a block; values and gradients, and the matrix made by other ops."""
    args = draw((2, 3, 61, 8), (2, 3, 300, 8), (2, 3, 300, 5))
    for x in args:
        x.requires_grad = True
    pynn.manual_seed(4)
    y = sdpa(*args, dropout_p=0.3, **options)
    (y * y).sum().backward()
    found = [y.detach(), *(x.grad for x in args)]
    for x in args:
        x.grad = None
    pynn.manual_seed(4)
    weights = attention_weights(*args[:2], **options)
    dropped = F.dropout(weights, 0.3)
    assert 0.2 < (dropped.detach().numpy() == 0)[weights.detach().numpy() > 0].mean() < 0.4
    y = dropped @ args[2]
    (y * y).sum().backward()
    for a, b in zip(found, [y.detach(), *(x.grad for x in args)]):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-9, atol=1e-11)


def test_everything_is_dropped():
    q, k, v = draw((2, 5, 4), (2, 7, 4), (2, 7, 3))
    v.requires_grad = True
    y = sdpa(q, k, v, dropout_p=1.0)
    y.sum().backward()
    assert not y.detach().numpy().any()
    assert not v.grad.numpy().any()


def test_a_mask_of_another_dtype():
    q, k, v = draw((2, 5, 4), (2, 7, 4), (2, 7, 3), dtype=np.float32)
    with pytest.raises(TypeError, match=r"argument 'attn_mask': expected bool or float32, got float64"):
        sdpa(q, k, v, pynn.tensor(np.zeros((5, 7))))
