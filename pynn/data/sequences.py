"""Batches of sequences of different lengths, padded to few lengths."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from .. import _core
from ..arrays import as_count, check_finite, real_array
from ..random import default_generator, stream_of
from ..tensor import Tensor
from .prefetch import prefetched

__all__ = ["SequenceLoader", "pad_sequences"]


def pad_sequences(sequences: Sequence, value: float = 0, multiple: int = 1) -> np.ndarray:
    """(N, L, …): sequences (lᵢ, …) filled up with `value` behind, L the longest, rounded up to a multiple.

    Raises:
        ValueError: no sequences, or of different shapes beyond the first dimension.
    """
    if not len(sequences):
        raise ValueError("pad_sequences: expected at least one sequence, got none")
    arrays = [np.asarray(s) for s in sequences]
    if len({a.shape[1:] for a in arrays}) > 1 or arrays[0].ndim == 0:
        raise ValueError(f"pad_sequences: expected sequences (l, …) of one shape beyond l, got "
                         f"{sorted({a.shape for a in arrays})[:4]}")  # fmt: skip
    longest = -(-max(len(a) for a in arrays) // multiple) * multiple
    out = np.full((len(arrays), longest, *arrays[0].shape[1:]), value, np.result_type(*{a.dtype for a in arrays}))
    for row, a in zip(out, arrays):
        row[: len(a)] = a
    return out


class SequenceLoader:
    """Batches of sequences of like lengths: ((x, lengths), y) each, or (x, lengths) without targets.

    x is (B, L, …), filled up behind; lengths (B,) int64. Sequences are put in order of length within windows of
    `window` batches, so that little is padded; L is a multiple of `multiple`, so that few plans are made.

    Args:
        sequences: arrays or lists (lᵢ, …).
        targets: array with one row for each sequence, or None.
        batch_size: sequences in a batch; the last may be smaller.
        shuffle: new batches in a new order for each iteration, drawn from generator; else in the order of length.
        multiple: L is a multiple of it.
        window: batches within which sequences are sorted.
        value: what is filled in.
        drop_last, generator, prefetch: as in DataLoader.
        dtype: of x; None: float32 for floats, int64 for integers.

    Raises:
        ValueError: not a target for each sequence, an empty or not finite sequence. TypeError: text, objects.
    """

    def __init__(
        self, sequences: Sequence, targets=None, batch_size: int = 32, shuffle: bool = False, *, multiple: int = 8,
        window: int = 50, value: float = 0, drop_last: bool = False, generator=None, prefetch: int = 0, dtype=None,
    ):  # fmt: skip
        for name, number, least in (("batch_size", batch_size, 1), ("multiple", multiple, 1), ("window", window, 1),
                                    ("prefetch", prefetch, 0)):  # fmt: skip
            as_count("SequenceLoader", name, number, least)
        self.sequences = [real_array(s, f"SequenceLoader: sequence {k}") for k, s in enumerate(sequences)]
        for k, s in enumerate(self.sequences):
            check_finite(s, f"SequenceLoader: sequence {k}", "sequence")
            if not len(s):
                raise ValueError(f"SequenceLoader: sequence {k}: expected at least one element, got none")
        self.targets = None if targets is None else real_array(targets, "SequenceLoader: argument 'targets'")
        if self.targets is not None and len(self.targets) != len(self.sequences):
            raise ValueError(f"SequenceLoader: expected a target for each of {len(self.sequences)} sequences, got "
                             f"{len(self.targets)}")  # fmt: skip
        self.lengths = np.array([len(s) for s in self.sequences], np.int64)
        self.batch_size, self.shuffle, self.multiple, self.window = int(batch_size), shuffle, multiple, window
        self.value, self.drop_last, self.generator, self.prefetch = value, drop_last, generator, int(prefetch)
        kinds = {s.dtype.kind for s in self.sequences}
        self.dtype = np.dtype(dtype or (np.float32 if "f" in kinds else np.int64))

    @property
    def n_samples(self) -> int:
        """The sequences of an iteration."""
        n = len(self.sequences)
        return n - n % self.batch_size if self.drop_last else n

    def __len__(self) -> int:
        return -(-self.n_samples // self.batch_size)

    def take_key(self) -> list[int] | None:
        """As DataLoader.take_key."""
        return (self.generator or default_generator).take().tolist() if self.shuffle else None

    def _order(self, key) -> list[np.ndarray]:
        """The rows of each batch."""
        b, n = self.batch_size, self.n_samples
        if key is None:
            order = np.argsort(self.lengths, kind="stable")[:n]
            return [order[at : at + b] for at in range(0, n, b)]
        rng = stream_of(key)
        order = rng.permutation(len(self.sequences))[:n]
        parts = []
        for at in range(0, n, b * self.window):
            rows = order[at : at + b * self.window]
            rows = rows[np.argsort(self.lengths[rows], kind="stable")]
            parts += [rows[k : k + b] for k in range(0, len(rows), b)]
        whole = [p for p in parts if len(p) == b]
        rest = [p for p in parts if len(p) < b]  # at most one, of the last window: it stays last
        return [whole[k] for k in rng.permutation(len(whole))] + rest

    def batches(self, key, start: int = 0) -> Iterator[tuple]:
        """As DataLoader.batches."""
        made = (self._batch(rows) for rows in self._order(key)[start:])
        return prefetched(made, self.prefetch) if self.prefetch else made

    def __iter__(self) -> Iterator[tuple]:
        return self.batches(self.take_key())

    def _batch(self, rows: np.ndarray) -> tuple:
        padded = pad_sequences([self.sequences[k] for k in rows], self.value, self.multiple)
        x = _core.from_array(padded, self.dtype), Tensor(self.lengths[rows])
        return x if self.targets is None else (x, Tensor(self.targets[rows]))
