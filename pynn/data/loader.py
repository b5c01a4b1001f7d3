"""Batches: slices or shuffled rows of arrays, a whole batch at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from .. import _core
from ..random import randperm
from ..tensor import Tensor, from_numpy
from .arrays import real_array

__all__ = ["DataLoader", "TensorDataset"]

_DTYPES = frozenset(_core.DTYPES)


class TensorDataset:
    """Arrays of one length, sample k being row k of each.

    Args:
        arrays: NumPy arrays, tensors, or nested lists, with samples along the first dimension.

    Raises:
        ValueError: no arrays, or different lengths. TypeError: text, objects, complex numbers.
    """

    def __init__(self, *arrays: Any):
        if not arrays:
            raise ValueError("TensorDataset: expected at least one array, got none")
        self.arrays = tuple(real_array(a, f"TensorDataset: array {k}") for k, a in enumerate(arrays))
        lengths = [len(a) for a in self.arrays]
        if len(set(lengths)) > 1:
            raise ValueError(f"TensorDataset: expected arrays of one length, got {lengths}")

    def __len__(self) -> int:
        return len(self.arrays[0])

    def __getitem__(self, index) -> tuple[np.ndarray, ...]:
        return tuple(a[index] for a in self.arrays)


class DataLoader:
    """Iterates over arrays in batches: each is a tuple of Tensors, one for each array.

    Args:
        dataset: a TensorDataset, one array, or a tuple of arrays of one length.
        batch_size: samples in a batch; the last may be smaller.
        shuffle: a new order for each iteration, drawn from generator.
        drop_last: leaves out a last batch that is smaller.
        generator: a pynn.Generator; None takes the default one, which pynn.manual_seed sets.
        dtypes: the dtype of each array's batches; None keeps the arrays' (float16 and small integers become
            the smallest dtype of pynn that holds them).

    Unshuffled batches share the arrays' memory where dtypes agree.

    Raises:
        ValueError: a batch size below 1, arrays of different lengths.
    """

    def __init__(
        self,
        dataset,
        batch_size: int = 1,
        shuffle: bool = False,
        *,
        drop_last: bool = False,
        generator=None,
        dtypes: tuple | None = None,
    ):
        if not isinstance(dataset, TensorDataset):
            dataset = TensorDataset(*(dataset if isinstance(dataset, tuple) else (dataset,)))
        if isinstance(batch_size, bool) or not isinstance(batch_size, (int, np.integer)) or batch_size < 1:
            raise ValueError(f"DataLoader: argument 'batch_size': expected an integer >= 1, got {batch_size!r}")
        self.dataset, self.batch_size, self.shuffle = dataset, int(batch_size), shuffle
        self.drop_last, self.generator = drop_last, generator
        wanted = [a.dtype for a in dataset.arrays] if dtypes is None else [np.dtype(d) for d in dtypes]
        self._pairs = list(zip(dataset.arrays, [_held_by(d) for d in wanted], strict=True))

    def __len__(self) -> int:
        """The number of batches of an iteration."""
        n, b = len(self.dataset), self.batch_size
        return n // b if self.drop_last else -(-n // b)

    def first(self, n: int) -> tuple[Tensor, ...]:
        """The first n samples, in the arrays' order."""
        return tuple([_sliced(a, slice(n), dtype) for a, dtype in self._pairs])

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        n, b = len(self.dataset), self.batch_size
        pairs = self._pairs
        order = randperm(n, generator=self.generator)._array() if self.shuffle else None
        for k in range(len(self)):
            if order is None:
                rows = slice(k * b, min(n, (k + 1) * b))
                yield tuple([_sliced(a, rows, dtype) for a, dtype in pairs])
            else:
                rows = order[k * b : (k + 1) * b]
                yield tuple([_taken(a, rows, dtype) for a, dtype in pairs])


def _held_by(dtype: np.dtype) -> np.dtype:
    """The smallest dtype of pynn that holds dtype."""
    return dtype if dtype in _DTYPES else _core.from_array(np.empty(0, dtype)).dtype


def _sliced(a: np.ndarray, rows: slice, dtype: np.dtype) -> Tensor:
    part = a[rows]
    return from_numpy(part) if a.dtype == dtype else _core.from_array(part, dtype)


def _taken(a: np.ndarray, rows: np.ndarray, dtype: np.dtype) -> Tensor:
    """Rows of a in memory of pynn's, whose allocator keeps a steady step from touching fresh pages."""
    t = _core.empty((len(rows), *a.shape[1:]), dtype)
    if a.dtype == dtype:
        a.take(rows, axis=0, out=t._writable(), mode="clip")  # "raise" would take a copy of out
    else:
        np.copyto(t._writable(), a.take(rows, axis=0), casting="unsafe")
    return t
