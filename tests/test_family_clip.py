"""Clipping of gradients against NumPy."""

import math

import numpy as np
import pytest
from optim_helpers import data, leaves, set_grads, values, views

import pynn
from pynn.nn.utils import clip_grad_norm_, clip_grad_value_

DTYPES = ("float32", "float64")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("p", [1, 2, 2.5, math.inf])
@pytest.mark.parametrize("max_norm", [0.0, 0.7, 1e9])
def test_clip_grad_norm_and_grad_scale_against_numpy(dtype, p, max_norm):
    """F-REG-8, by norm."""
    shapes = ((5, 7), (), (0, 3), (1025,), (2, 3, 40, 50), (4,))
    start, (grads,) = data(1, shapes, dtype)
    params = leaves(start, dtype)
    set_grads(params, [*grads[:-1], None])
    norm = clip_grad_norm_(params, max_norm, norm_type=p)
    flat = np.concatenate([g.ravel() for g in grads[:-1]]).astype(np.float64)
    want = np.linalg.norm(flat, p)
    assert norm.shape == ()
    assert norm.dtype == dtype
    tolerance = 1e-13 if dtype == "float64" else 3e-7
    np.testing.assert_allclose(norm.item(), want, rtol=tolerance)
    factor = min(1.0, max_norm / (want + 1e-6))
    np.testing.assert_allclose(values([q.grad for q in params[:-1]]), flat * factor, rtol=tolerance * 2, atol=0)
    if factor == 1:
        np.testing.assert_array_equal(values([q.grad for q in params[:-1]]), flat)


def test_clip_grad_norm_adds_1e_6_to_small_norms():
    for p_norm in (2.0, math.inf):
        (p,) = leaves([np.zeros(1)], "float64")
        set_grads([p], [np.array([3e-6])])
        clip_grad_norm_(p, 2e-6, p_norm)
        np.testing.assert_allclose(p.grad.tolist(), [3e-6 * 2e-6 / (3e-6 + 1e-6)], rtol=1e-12)
    (p,) = leaves([np.zeros(1)], "float64")
    set_grads([p], [np.array([3e-6])])
    pynn.optim.SGD([p], lr=1.0).step(max_norm=2e-6)
    np.testing.assert_allclose(p.tolist(), [-3e-6 * 2e-6 / (3e-6 + 1e-6)], rtol=1e-12)


def test_clip_grad_norm_of_both_dtypes_and_other_layouts():
    (a,), _ = data(1, ((2, 3, 5, 4),), "float32")
    for p_norm in (1, 2, math.inf):
        params = [p for _, p in views(a)] + leaves([[3.0, -400.0]], "float64")
        for q in params[:-1]:
            q.grad = q.detach()  # a view of the parameter: clipped in its own layout
        params[-1].grad = pynn.tensor(np.array([3.0, -400.0]))
        want = np.linalg.norm(np.concatenate([a.ravel()] * 5 + [[3.0, -400.0]]), p_norm)
        norm = clip_grad_norm_(params, 1.0, p_norm)
        assert norm.dtype == np.float64
        np.testing.assert_allclose(norm.item(), want, rtol=1e-7)
        for q in params[:-1]:
            np.testing.assert_allclose(q.grad.numpy_copy(), a / (want + 1e-6), rtol=1e-6)
        np.testing.assert_allclose(params[-1].grad.tolist(), np.array([3.0, -400.0]) / (want + 1e-6), rtol=1e-7)


def test_clip_grad_norm_is_accurate_where_float32_sums_are_not():
    (p,) = leaves([np.zeros(1_000_000)], "float32")
    set_grads([p], [np.full(1_000_000, 1e-3) + np.arange(1_000_000) * 1e-9])
    want = np.linalg.norm(p.grad.numpy_copy().astype(np.float64))
    np.testing.assert_allclose(clip_grad_norm_(p, 1.0).item(), want, rtol=1e-7)
    set_grads([p], [np.full(1_000_000, 1e30)])  # the squares overflow float32
    np.testing.assert_allclose(clip_grad_norm_(p, 1.0).item(), 1e33, rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(p.grad.numpy_copy().astype(np.float64)), 1, rtol=1e-5)


def test_clip_grad_norm_where_it_is_not_finite():
    for bad in (np.nan, np.inf):
        for norm_type in (1, 2, 3, math.inf):
            (p,) = leaves([[1.0, 2.0]], "float32")
            set_grads([p], [[bad, 2.0]])
            with pytest.raises(RuntimeError, match=rf"total norm of order {norm_type} .* is non-finite"):
                clip_grad_norm_([p], 1.0, norm_type, error_if_nonfinite=True)
            np.testing.assert_array_equal(p.grad.tolist(), [bad, 2.0])
            np.testing.assert_equal(clip_grad_norm_([p], 1.0, norm_type).item(), bad)
            np.testing.assert_array_equal(p.grad.tolist(), [np.nan, np.nan if np.isnan(bad) else 0.0])


@pytest.mark.parametrize("dtype", DTYPES)
def test_clip_grad_value_and_grad_clamp(dtype):
    """F-REG-8, by value."""
    start, (grads,) = data(1, dtype=dtype)
    params = leaves(start, dtype)
    set_grads(params, grads)
    before = params[0].grad._version
    clip_grad_value_(params, 0.25)
    np.testing.assert_array_equal(values([p.grad for p in params]),
                                  np.clip(np.concatenate([g.ravel() for g in grads]), -0.25, 0.25))  # fmt: skip
    assert params[0].grad._version > before
    set_grads(params[:1], [np.full((5, 7), np.nan)])
    clip_grad_value_(iter(params), 0.25)
    assert np.isnan(params[0].grad.numpy_copy()).all()


def test_clipping_errors_and_nothing_to_clip():
    (p,) = leaves([[1.0]], "float32")
    assert clip_grad_norm_([p], 1.0).item() == 0.0
    assert clip_grad_norm_([], 1.0).item() == 0.0
    clip_grad_value_([p], 1.0)
    set_grads([p], [[2.0]])
    for norm_type in (0, -1, math.nan):
        with pytest.raises(ValueError, match="argument 'norm_type': expected a number > 0 or inf"):
            clip_grad_norm_(p, 1.0, norm_type)
    with pytest.raises(ValueError, match="argument 'max_norm': expected a number >= 0, got -1"):
        clip_grad_norm_(p, -1)
    with pytest.raises(ValueError, match="argument 'clip_value': expected a number >= 0, got nan"):
        clip_grad_value_(p, math.nan)
    with pytest.raises(TypeError, match="clip_grad_norm_: argument 'parameters': expected Tensors, got float"):
        clip_grad_norm_([1.0], 1.0)
    assert p.grad.tolist() == [2.0]
