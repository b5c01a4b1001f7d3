"""The door: whatever users have becomes real, finite, row-major NumPy arrays, and counts integers, or a clear error."""

from __future__ import annotations

from typing import Any

import numpy as np

from .tensor import Tensor

__all__ = ["as_count", "as_counts", "check_finite", "real_array"]


def as_count(what: str, name: str, value: Any, least: int = 1) -> int:
    """value as an int. Raises ValueError for what is no integer of at least `least`; a bool is none."""
    if not _is_count(value, least):
        raise ValueError(f"{what}: argument '{name}': expected an integer >= {least}, got {value!r}")
    return int(value)


def as_counts(what: str, name: str, value: Any, n: int, least: int = 1) -> tuple[int, ...]:
    """value, an integer or n of them, as a tuple of n. Raises ValueError as as_count does."""
    values = value if isinstance(value, (tuple, list)) else (value,)
    if len(values) not in (1, n) or not all(_is_count(v, least) for v in values):
        raise ValueError(f"{what}: argument '{name}': expected an integer >= {least} or {n} of them, got {value!r}")
    return tuple(map(int, values)) * (n // len(values))


def _is_count(value: Any, least: int) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and value >= least


def real_array(value: Any, what: str) -> np.ndarray:
    """value as a row-major array of real numbers or bools in native byte order, without a copy where it is one.

    Raises:
        TypeError: text, objects, complex numbers, dates, a mask. ValueError: ragged lists, or a single number.
    """
    if isinstance(value, Tensor):
        value = value._array()
    elif isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{what}: expected an array without a mask, got {type(value).__name__}; use its filled(value)")
    elif hasattr(value, "to_numpy") and hasattr(value, "iloc"):
        value = _of_frame(value)
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


def _of_frame(frame: Any) -> np.ndarray:
    """A DataFrame or Series as one array, NA as NaN; pandas gives objects for bools beside floats."""
    arr = frame.to_numpy()
    kinds = {getattr(d, "kind", "O") for d in (frame.dtypes if frame.ndim == 2 else [frame.dtype])}
    if arr.dtype != object or not kinds <= set("fiub"):
        return arr
    whole = "f" not in kinds and not frame.isna().to_numpy().any()
    return frame.to_numpy(dtype=np.int64) if whole else frame.to_numpy(dtype=np.float64, na_value=np.nan)


CHUNK = 8 << 20  # bytes looked at at a time


def check_finite(arr: np.ndarray, what: str, name: str, original: np.ndarray | None = None, dtype=None) -> None:
    """Raises ValueError with the place of the first NaN or Inf in arr, or of what becomes Inf as dtype.

    Memory maps are read in parts. original is arr before its conversion.
    """
    if arr.dtype.kind != "f" or arr.size == 0:
        return
    rows = max(1, CHUNK * len(arr) // max(arr.nbytes, 1))
    for at in range(0, len(arr), rows):
        part = arr[at : at + rows]
        if not _finite(part, dtype):
            _raise_first(arr, what, name, original, dtype, at)


def _finite(part: np.ndarray, dtype) -> bool:
    ends = np.array([part.min(), part.max()])
    with np.errstate(over="ignore"):
        return bool(np.isfinite(ends if dtype is None else ends.astype(dtype)).all())


def _raise_first(arr: np.ndarray, what: str, name: str, original, dtype, at: int) -> None:
    """The error for the first bad value, which is not before row `at`; all are counted."""
    held = np.dtype(dtype or arr.dtype)
    with np.errstate(over="ignore"):
        bad = ~np.isfinite(arr[at:].astype(held, copy=False))
    where = list(np.unravel_index(int(bad.argmax()), bad.shape))
    where[0] += at
    value = (arr if original is None else original)[tuple(where)]
    text = f"{what}: expected finite numbers, got {value} at {name}[{', '.join(map(str, where))}]"
    if np.isfinite(value):
        text += f", which {held} cannot hold"
    count = int(np.count_nonzero(bad))
    raise ValueError(text + (f" ({count} such values in all)" if count > 1 else ""))
