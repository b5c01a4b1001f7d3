"""The door: what users give to fit, evaluate and predict becomes batches (x, t, w) of tensors, or a clear error.

x is what the model takes: a tensor, a tuple of them (several arguments) or a dict (arguments by name); t is what the
loss takes, nested likewise; w is a weight for each sample, or None. A Feed gives them in an order that a key fixes,
from any batch on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from .. import _core
from ..arrays import check_finite, real_array
from ..data.loader import DataLoader, TensorDataset
from ..nn.module import Module
from ..tensor import Tensor
from .step import applied, eval_mode

__all__ = ["ArrayFeed", "Door", "StreamFeed", "is_stream", "named_arrays", "nested"]

TARGETS = ("y", "target", "labels")  # names of the target in a batch that is a dict
INPUTS = ("x", "X", "input")  # names of an input that is the model's only argument


def named_arrays(value: Any, what: str, name: str) -> tuple[Any, dict[str, np.ndarray]]:
    """(form, {name: array}): form is None for one array, a number for a tuple of so many, names for a dict.

    Raises:
        TypeError, ValueError: as real_array; an empty tuple or dict.
    """
    if isinstance(value, (Mapping, tuple)):
        if not value:
            raise ValueError(
                f"{what}: argument '{name}': expected at least one array, got an empty {type(value).__name__}"
            )
        pairs = value.items() if isinstance(value, Mapping) else enumerate(value)
        arrays = {f"{name}[{k!r}]": real_array(v, f"{what}: argument '{name}[{k!r}]'") for k, v in pairs}
        return (tuple(value) if isinstance(value, Mapping) else len(value)), arrays
    return None, {name: real_array(value, f"{what}: argument '{name}'")}


def nested(form: Any, flat: list | tuple) -> Any:
    """What form describes, from its parts."""
    if form is None:
        return flat[0]
    return tuple(flat) if isinstance(form, int) else dict(zip(form, flat))


def is_stream(X: Any) -> bool:
    """Whether X gives batches itself, as a list of them does, and is no array."""
    if isinstance(X, list):
        return bool(X) and all(map(_is_batch, X))
    if isinstance(X, (Tensor, np.ndarray, tuple, Mapping, str, bytes)) or hasattr(X, "__array__"):
        return False
    return hasattr(X, "__iter__") and not (hasattr(X, "to_numpy") and hasattr(X, "iloc"))


def _is_batch(value: Any) -> bool:
    """Whether value is (x, y), (x, y, weights) or a dict, and no row of numbers."""
    if isinstance(value, list):  # of numbers, it is a row, of lists a matrix
        return bool(value) and all(hasattr(part, "__array__") for part in value)
    return isinstance(value, Mapping) or (isinstance(value, tuple) and not any(map(np.isscalar, value)))


class Door:
    """How a model's inputs and a loss's targets are cast.

    Args:
        dtype: of the model's parameters: what floats become.
        labels: whether integers are class labels to the loss; else they become dtype.
        model: what the inputs are for: where it refuses integers that became floats, as tables do, they stay integers.
    """

    def __init__(self, dtype: np.dtype, labels: bool, model: Module):
        self.dtype, self.labels, self.model = dtype, labels, model
        self._looked_up: dict[Any, bool] = {}  # answers, by the form of the inputs

    def inputs(self, what: str, X: Any, name: str = "X") -> tuple[Any, dict[str, np.ndarray], list[np.dtype]]:
        """(form, checked arrays by name, the dtypes of their batches)."""
        form, arrays = named_arrays(X, what, name)
        integers = [k for k, a in arrays.items() if a.dtype.kind in "iu"]
        keep = bool(integers) and self._keeps_integers(form, arrays, tuple(integers))
        dtypes = [np.dtype(np.int64) if keep and k in integers else self.dtype for k in arrays]
        cast = {k: _cast(a, d, f"{what}: argument '{k}'", k) for (k, a), d in zip(arrays.items(), dtypes)}
        return form, cast, dtypes

    def _keeps_integers(self, form: Any, arrays: dict[str, np.ndarray], integers: tuple) -> bool:
        key = (form, integers)
        if key not in self._looked_up:
            if not all(len(a) for a in arrays.values()):
                return False
            flat = [_core.from_array(np.ascontiguousarray(a[:2]), self.dtype) for a in arrays.values()]
            whole = [
                _core.from_array(np.ascontiguousarray(a[:2]), np.int64 if k in integers else self.dtype)
                for k, a in arrays.items()
            ]
            self._looked_up[key] = self._refuses(nested(form, flat)) and not self._refuses(nested(form, whole))
        return self._looked_up[key]

    def _refuses(self, x: Any) -> bool:
        """Whether the model raises TypeError for x."""
        with eval_mode(self.model):
            try:
                applied(self.model, x)
            except TypeError:
                return True
            except Exception:
                return False  # shapes and the like: told where they are used
        return False

    def targets(self, what: str, y: Any, name: str = "y") -> tuple[Any, dict[str, np.ndarray], list[np.dtype]]:
        """As inputs; class labels int64, everything else as the parameters."""
        form, arrays = named_arrays(y, what, name)
        cast, dtypes = {}, []
        for k, a in arrays.items():
            if a.dtype.kind in "iu" and self.labels:
                if a.dtype == np.uint64 and a.size and a.max() > np.iinfo(np.int64).max:
                    raise ValueError(f"{what}: argument '{k}': expected labels that int64 holds, got {a.max()}")
                dtypes.append(np.dtype(np.int64))
                cast[k] = a.astype(np.int64, copy=False)
            else:
                dtypes.append(self.dtype)
                cast[k] = _cast(a, self.dtype, f"{what}: argument '{k}'", k)
        return form, cast, dtypes


def _cast(arr: np.ndarray, dtype: np.dtype, what: str, name: str) -> np.ndarray:
    """arr as dtype, finite. Memory maps, and what is smaller than dtype, stay as they are and are cast by the batch."""
    if dtype.kind == "i":
        return arr if _mapped(arr) else arr.astype(dtype, copy=False)
    if arr.dtype == dtype or (arr.dtype.kind in "iub" and arr.itemsize < dtype.itemsize):
        cast = arr
    elif _mapped(arr):
        check_finite(arr, what, name, dtype=dtype)
        return arr
    else:
        with np.errstate(over="ignore"):  # what becomes Inf is reported with its place
            cast = arr.astype(dtype)
    check_finite(cast, what, name, arr)
    return cast


def _mapped(arr: np.ndarray) -> bool:
    """Whether arr is, or is part of, a memory map."""
    base: Any = arr
    while isinstance(base, np.ndarray):
        if isinstance(base, np.memmap):
            return True
        base = base.base
    return False


class ArrayFeed:
    """Batches of arrays, from a DataLoader."""

    def __init__(self, door: Door, what: str, X, y, batch_size: int | None, weights=None, **options):
        form, xs, dtypes = door.inputs(what, X)
        self.forms: tuple[Any, Any] = form, None
        arrays, self.n_inputs = dict(xs), len(xs)
        if y is not None:
            t_form, ts, t_dtypes = door.targets(what, y)
            self.forms = form, t_form
            arrays.update(ts)
            dtypes = dtypes + t_dtypes
        self.weighted = weights is not None
        if weights is not None:
            arrays["sample_weight"] = _cast(weights, door.dtype, f"{what}: argument 'sample_weight'", "sample_weight")
            dtypes = [*dtypes, door.dtype]
        lengths = {k: len(a) for k, a in arrays.items()}
        if len(set(lengths.values())) > 1:
            names, counts = list(lengths), [str(n) for n in lengths.values()]
            raise ValueError(f"{what}: expected {_listed(names)} of one length, got {_listed(counts)} samples")
        self.arrays = arrays
        self.length = next(iter(lengths.values()))
        if self.length == 0:
            shape = next(iter(arrays.values())).shape
            raise ValueError(f"{what}: expected at least one sample, got none (X has shape {shape})")
        size = rows_of_a_batch(list(xs.values())) if batch_size is None else batch_size
        self.loader = DataLoader(TensorDataset(*arrays.values()), size, dtypes=tuple(dtypes), **options)

    def __len__(self) -> int:
        return len(self.loader)

    @property
    def n_samples(self) -> int:
        return self.loader.n_samples

    def signature(self) -> list:
        """What a run that goes on must find again."""
        return [[list(a.shape), str(a.dtype)] for a in self.arrays.values()] + [self.loader.batch_size]

    def first(self, n: int) -> tuple:
        """(x, t, w) of the first n samples."""
        return self._nested(self.loader.first(n))

    def targets(self) -> list[np.ndarray]:
        """All targets."""
        arrays = list(self.arrays.values())[self.n_inputs :]
        return arrays[:-1] if self.weighted else arrays

    def take_key(self):
        return self.loader.take_key()

    def batches(self, key, start: int = 0) -> Iterator[tuple]:
        """(x, t, w) from batch number `start` on, in the order that key fixes."""
        if self.forms == (None, None) and len(self.arrays) == 2 and not self.weighted:
            return ((x, t, None) for x, t in self.loader.batches(key, start))
        return map(self._nested, self.loader.batches(key, start))

    def _nested(self, flat: tuple) -> tuple:
        w = flat[-1] if self.weighted else None
        ts = flat[self.n_inputs : len(flat) - self.weighted]
        return nested(self.forms[0], flat[: self.n_inputs]), nested(self.forms[1], ts) if ts else None, w


class StreamFeed:
    """Batches that an iterable of the user's gives: (x, t), (x, t, w), or dicts."""

    n_samples = None

    def __init__(self, door: Door, what: str, batches: Any):
        if hasattr(batches, "__next__"):  # iter() of it would be the same, and might draw random numbers
            raise TypeError(f"{what}: argument 'X': expected arrays, or batches that can be gone through again and "
                            f"again, got {type(batches).__name__}; list(…) keeps what comes once")  # fmt: skip
        self.door, self.what, self.source = door, what, batches
        self._sized = hasattr(batches, "__len__")
        self._keyed = hasattr(batches, "take_key") and hasattr(batches, "batches")

    def __len__(self) -> int:
        """Batches of an epoch; 0 where they are not counted."""
        return len(self.source) if self._sized else 0

    def signature(self) -> list:
        return [type(self.source).__name__, len(self)]

    def take_key(self):
        return self.source.take_key() if self._keyed else None

    def batches(self, key, start: int = 0) -> Iterator[tuple]:
        """(x, t, w) from batch number `start` on. Those before it are asked for and dropped where there are no keys."""
        if self._keyed:
            found, at = self.source.batches(key, start), start
        else:
            found, at = iter(self.source), 0
        for k, batch in enumerate(found, at):
            if k >= start:
                yield self._checked(batch, k)

    def _checked(self, batch: Any, k: int) -> tuple:
        what = f"{self.what}: batch {k}"
        x, y, w = _parts(batch, what)
        form, xs, dtypes = self.door.inputs(what, x)
        flat = [_core.from_array(a, d) for a, d in zip(xs.values(), dtypes)]
        t = None
        n = len(flat[0])
        if n == 0:
            raise ValueError(f"{what}: expected at least one sample, got none (X has shape {flat[0].shape})")
        if y is not None:
            t_form, ts, t_dtypes = self.door.targets(what, y)
            targets = [_core.from_array(a, d) for a, d in zip(ts.values(), t_dtypes)]
            if len(targets[0]) != n:
                raise ValueError(f"{what}: expected X and y of one length, got {n} and {len(targets[0])} samples")
            t = nested(t_form, targets)
        if w is not None:
            w = _core.from_array(checked_weights(what, w, n), self.door.dtype)
        return nested(form, flat), t, w


def _parts(batch: Any, what: str) -> tuple:
    """(x, y, w) of a batch."""
    if isinstance(batch, Mapping):
        found = dict(batch)
        w = found.pop("sample_weight", None)
        target = next((k for k in TARGETS if k in found), None)
        y = found.pop(target) if target else None
        if len(found) == 1 and next(iter(found)) in INPUTS:
            return next(iter(found.values())), y, w
        return found, y, w
    if isinstance(batch, (tuple, list)) and 1 <= len(batch) <= 3:
        x, y, w = [*batch, None, None][:3]
        return (tuple(x) if isinstance(x, list) and x and not np.isscalar(x[0]) else x), y, w
    raise TypeError(f"{what}: expected (x, y), (x, y, sample_weight) or a dict, got {type(batch).__name__}")


def checked_weights(what: str, weights: Any, n: int, name: str = "sample_weight") -> np.ndarray:
    """weights as (n,) numbers >= 0, of which one is positive.

    Raises:
        ValueError: other shapes, negative numbers, or zeros alone.
    """
    w = real_array(weights, f"{what}: argument '{name}'").astype(np.float64)
    if w.shape != (n,):
        raise ValueError(f"{what}: argument '{name}': expected shape ({n},), got {w.shape}")
    check_finite(w, f"{what}: argument '{name}'", name)
    if w.size and (w.min() < 0 or w.max() <= 0):
        raise ValueError(f"{what}: argument '{name}': expected numbers >= 0, of which one is positive, got "
                         f"numbers from {w.min():g} to {w.max():g}")  # fmt: skip
    return w


def _listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


BATCH_BYTES = 4 << 20  # a batch of predict and evaluate takes about this much of the input …
BATCH_ROWS = 1024  # … and no more samples than this


def rows_of_a_batch(xs: list[np.ndarray]) -> int:
    """Samples in a batch of predict and evaluate."""
    row = max(1, sum(x[:1].nbytes for x in xs))
    return max(1, min(BATCH_ROWS, BATCH_BYTES // row))
