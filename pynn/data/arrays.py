"""The door: whatever users have becomes real, finite, row-major NumPy arrays, or a clear error."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..tensor import Tensor

__all__ = ["check_finite", "real_array"]


def real_array(value: Any, what: str) -> np.ndarray:
    """value as a row-major array of real numbers or bools in native byte order, without a copy where it is one.

    Raises:
        TypeError: text, objects, complex numbers, dates. ValueError: ragged lists, or a single number.
    """
    if isinstance(value, Tensor):
        value = value._array()
    try:
        arr = np.asarray(value)
    except ValueError as e:
        raise ValueError(f"{what}: expected numbers in a rectangular array, got a ragged one ({e})") from None
    if arr.dtype.kind not in "fiub":
        hint = "; np.asarray(values, dtype=float) converts numbers kept as objects" if arr.dtype.kind == "O" else ""
        raise TypeError(f"{what}: expected real numbers, got dtype {arr.dtype}{hint}")
    if arr.ndim == 0:
        raise ValueError(f"{what}: expected an array with samples along its first dimension, got a single number")
    if not arr.dtype.isnative:
        arr = arr.astype(arr.dtype.newbyteorder("="))
    return np.require(arr, requirements=["C", "A"])


def check_finite(arr: np.ndarray, what: str, name: str, original: np.ndarray | None = None) -> None:
    """Raises ValueError with the place of the first NaN or Inf in arr; original is arr before its conversion."""
    if arr.dtype.kind != "f" or arr.size == 0 or (np.isfinite(arr.min()) and np.isfinite(arr.max())):
        return
    bad = ~np.isfinite(arr)
    where = np.unravel_index(int(bad.argmax()), arr.shape)
    place = f"{name}[{', '.join(map(str, where))}]"
    value = arr[where] if original is None else original[where]
    text = f"{what}: expected finite numbers, got {value} at {place}"
    if np.isfinite(value):
        text += f", which {arr.dtype} cannot hold"
    count = int(np.count_nonzero(bad))
    raise ValueError(text + (f" ({count} such values in all)" if count > 1 else ""))
