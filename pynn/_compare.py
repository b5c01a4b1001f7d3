"""How pynn.testing compares tensors and arrays."""

from __future__ import annotations

from typing import Any

import numpy as np

from .tensor import Tensor


def assert_same_bits(a: Any, b: Any, what: str = "values") -> None:
    """Raises AssertionError unless a and b (tensors, arrays, None, or lists of them) agree in every bit."""
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        assert len(a) == len(b), f"{what}: {len(a)} against {len(b)} values"
        for k, (p, q) in enumerate(zip(a, b)):
            assert_same_bits(p, q, f"{what}[{k}]")
        return
    assert (a is None) == (b is None), f"{what}: {a} against {b}"
    if a is None:
        return
    a, b = _array(a), _array(b)
    assert (a.shape, a.dtype) == (b.shape, b.dtype), f"{what}: {a.dtype}{a.shape} against {b.dtype}{b.shape}"
    bits = np.dtype(f"u{a.dtype.itemsize}")
    differ = np.argwhere(np.ascontiguousarray(a).view(bits) != np.ascontiguousarray(b).view(bits))
    if len(differ) and a.ndim:
        at = tuple(int(k) for k in differ[0])
        raise AssertionError(f"{what}: {len(differ)} of {a.size} differ, first at {at}: {a[at]!r} against {b[at]!r}")
    assert not len(differ), f"{what}: {a!r} against {b!r}"


def _array(x: Any) -> np.ndarray:
    return x.detach().numpy_copy() if isinstance(x, Tensor) else np.asarray(x)


def _assert_close(got: Any, want: Any, tol: float, what: str) -> None:
    """|got − want| ≤ tol · max|want|, the same infinities and the same NaNs.

    Where all of want is 0, an eighth of a unit in the last place of 1 is allowed.
    """
    got = _array(got)
    with np.errstate(all="ignore"):
        want = np.asarray(want).astype(got.dtype)
    assert got.shape == want.shape, f"{what}: shape {got.shape}, expected {want.shape}"
    if got.dtype.kind != "f":
        bad = got != want
    else:
        floor = np.finfo(got.dtype).eps / 8
        got, want = got.astype(np.float64), want.astype(np.float64)
        finite = np.isfinite(want)
        scale = np.abs(want[finite]).max(initial=0)
        with np.errstate(invalid="ignore"):
            near = np.abs(got - want) <= tol * scale + floor
            bad = ~np.where(finite, near, (got == want) | (np.isnan(got) & np.isnan(want)))
    if bad.any():
        at = tuple(int(k) for k in np.argwhere(bad)[0])
        raise AssertionError(f"{what}: {bad.sum()} of {got.size} differ, first at {at}: "
                             f"got {got[at]!r}, expected {want[at]!r} (tolerance {tol:.1e})")  # fmt: skip
