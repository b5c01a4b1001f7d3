"""Batches: slices or chosen rows of arrays, a whole batch at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from .. import _core
from ..arrays import as_count, real_array
from ..random import default_generator, stream_of
from ..tensor import Tensor, from_numpy
from .prefetch import prefetched
from .samplers import RandomSampler

__all__ = ["DataLoader", "TensorDataset"]

_DTYPES = frozenset(_core.DTYPES)


class TensorDataset:
    """Arrays of one length, sample k being row k of each.

    Args:
        arrays: NumPy arrays, memory maps, tensors, or nested lists, with samples along the first dimension.

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
        dataset: a TensorDataset, one array, or a tuple of arrays of one length. Memory maps are read as needed.
        batch_size: samples in a batch; the last may be smaller.
        shuffle: a new order for each iteration, drawn from generator.
        sampler: BalancedSampler, WeightedRandomSampler, or an object with order(rng) → rows and a length: which
            samples, instead of each once.
        drop_last: leaves out a last batch that is smaller.
        generator: a pynn.Generator; None takes the default one, which pynn.manual_seed sets.
        prefetch: batches that a thread makes ahead; 0: none. Worth it where making one takes time (memory maps).
        rows: the rows that are the samples, as of a split; None: all. A sampler counts among them.
        dtypes: the dtype of each array's batches; None keeps the arrays' (float16 and small integers become
            the smallest dtype of pynn that holds them).

    Unshuffled batches share the arrays' memory where dtypes agree.

    Raises:
        ValueError: a batch size below 1, arrays of different lengths, shuffle beside a sampler, an order of another
        length than the sampler's. IndexError: rows that there are not.
    """

    def __init__(
        self,
        dataset,
        batch_size: int = 1,
        shuffle: bool = False,
        sampler=None,
        *,
        drop_last: bool = False,
        generator=None,
        prefetch: int = 0,
        rows=None,
        dtypes: tuple | None = None,
    ):
        if not isinstance(dataset, TensorDataset):
            dataset = TensorDataset(*(dataset if isinstance(dataset, tuple) else (dataset,)))
        self.batch_size = as_count("DataLoader", "batch_size", batch_size)
        self.prefetch = as_count("DataLoader", "prefetch", prefetch, 0)
        if sampler is not None and shuffle:
            raise ValueError("DataLoader: expected shuffle or a sampler, got both")
        if sampler is not None and not hasattr(sampler, "order"):
            raise TypeError(f"DataLoader: argument 'sampler': expected an object with order(rng), got {sampler!r}")
        self.dataset, self.shuffle = dataset, bool(shuffle)
        self.rows = None if rows is None else _checked(rows, "rows", len(dataset))
        self.sampler = RandomSampler(self._count) if shuffle else sampler
        self.drop_last, self.generator = drop_last, generator
        wanted = [a.dtype for a in dataset.arrays] if dtypes is None else [np.dtype(d) for d in dtypes]
        held = [_held_by(d) for d in wanted]
        self._pairs = [(a, None if a.dtype == d else d) for a, d in zip(dataset.arrays, held, strict=True)]

    @property
    def _count(self) -> int:
        """The samples that there are."""
        return len(self.dataset) if self.rows is None else len(self.rows)

    @property
    def n_samples(self) -> int:
        """The samples of an iteration."""
        n = self._count if self.sampler is None else len(self.sampler)
        return n - n % self.batch_size if self.drop_last else n

    def __len__(self) -> int:
        """The number of batches of an iteration."""
        return -(-self.n_samples // self.batch_size)

    def first(self, n: int) -> tuple[Tensor, ...]:
        """The first n samples, in the arrays' order."""
        rows = slice(n) if self.rows is None else self.rows[:n]
        return tuple([_sliced(a, rows, to) for a, to in self._pairs])

    def take_key(self) -> list[int] | None:
        """What fixes the order of one iteration: a key from the generator; None where the order is always the same."""
        return None if self.sampler is None else (self.generator or default_generator).take().tolist()

    def batches(self, key: list[int] | None, start: int = 0) -> Iterator[tuple[Tensor, ...]]:
        """The batches from number `start` on, in the order that key fixes."""
        made = self._made(key, start)
        return prefetched(made, self.prefetch) if self.prefetch else made

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        return self.batches(self.take_key())

    def _made(self, key, start: int) -> Iterator[tuple[Tensor, ...]]:
        n, b, pairs = self.n_samples, self.batch_size, self._pairs
        order = self._order(key)
        if order is None:
            for at in range(start * b, n, b):
                rows = slice(at, min(n, at + b))
                yield tuple([from_numpy(a[rows]) if to is None else _sliced(a, rows, to) for a, to in pairs])
            return
        for at in range(start * b, n, b):
            chosen = order[at : at + b]
            yield tuple([_taken(a, chosen, to) for a, to in pairs])

    def _order(self, key) -> np.ndarray | None:
        """The rows of an iteration; None: all, as they lie."""
        if key is None:
            return self.rows
        order = _checked(self.sampler.order(stream_of(key)), "sampler", self._count)
        if len(order) != len(self.sampler):
            raise ValueError(f"DataLoader: argument 'sampler': expected an order of its length, {len(self.sampler)}, "
                             f"got {len(order)} rows")  # fmt: skip
        return order if self.rows is None else self.rows[order]


def _checked(rows: Any, name: str, n: int) -> np.ndarray:
    """rows of n samples, as an array of integers."""
    arr = np.asarray(rows)
    if arr.ndim != 1 or (arr.size and arr.dtype.kind not in "iu"):
        raise ValueError(f"DataLoader: argument '{name}': expected integers in one dimension, got {arr.dtype} of shape "
                         f"{arr.shape}")  # fmt: skip
    if arr.size and (arr.min() < 0 or arr.max() >= n):
        raise IndexError(f"DataLoader: argument '{name}': expected rows 0 <= row < {n}, got {arr.min()} to {arr.max()}")
    return arr.astype(np.int64, copy=False)


def _held_by(dtype: np.dtype) -> np.dtype:
    """The smallest dtype of pynn that holds dtype."""
    return dtype if dtype in _DTYPES else _core.from_array(np.empty(0, dtype)).dtype


def _sliced(a: np.ndarray, rows, to: np.dtype | None) -> Tensor:
    return from_numpy(a[rows]) if to is None else _core.from_array(a[rows], to)


def _taken(a: np.ndarray, rows: np.ndarray, to: np.dtype | None) -> Tensor:
    """Rows of a in memory of pynn's, whose allocator keeps a steady step from touching fresh pages."""
    t = _core.empty((len(rows), *a.shape[1:]), to or a.dtype)
    if to is None:
        a.take(rows, axis=0, out=t._writable(), mode="clip")  # "raise" would take a copy of out
    else:
        np.copyto(t._writable(), a.take(rows, axis=0), casting="unsafe")
    return t
