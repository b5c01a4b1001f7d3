"""RowGradient: the gradient of a table of which few rows were used."""

from __future__ import annotations

import numpy as np

from . import _core
from .op import OPS
from .tensor import Tensor

__all__ = ["RowGradient"]


class RowGradient(Tensor):
    """A gradient of shape [R, C] that holds only some rows; the others are 0. What `weight.grad` is after an
    embedding with sparse=True.

    Args:
        indices: row numbers, integers of any order; the values of equal ones are added up in their order.
        values: a row each, [K, C].
        shape: (R, C).

    It has the shape and dtype of the dense gradient but not its memory: `indices`, `values` and `to_dense()`
    read it, gradients add up with it, optimizers and clipping take it. Any other operation raises TypeError.

    Raises:
        IndexError: a number out of [0, R). TypeError: no integers. ValueError: shapes that do not fit.
    """

    # Inside, the numbers are in order and differ. Memory is for min(tokens, R) rows whatever the tokens were, so
    # that sizes do not depend on values; behind the rows that are used stand number R and zeros.
    __slots__ = ("_index", "_rows")
    is_sparse = True

    def __new__(cls, indices, values, shape):
        indices = indices if isinstance(indices, Tensor) else Tensor(np.asarray(indices))
        values = values.detach() if isinstance(values, Tensor) else Tensor(values)
        if len(shape) != 2 or values.shape != (*indices.shape, shape[1]) or indices.ndim != 1:
            raise ValueError(f"RowGradient: expected indices [K], values [K, C] and a shape (R, C), got "
                             f"{indices.shape}, {values.shape} and {tuple(shape)}")  # fmt: skip
        return cls._of(*OPS.merge_rows(values, indices, rows=shape[0]), shape)

    @classmethod
    def _of(cls, index: Tensor, rows: Tensor, shape: tuple) -> RowGradient:
        """From what merge_rows gave."""
        x = _core.without_values(cls, shape, rows.dtype)
        x._index, x._rows = index, rows
        return x

    @property
    def indices(self) -> Tensor:
        """The numbers of the rows held, rising."""
        return self._index[: self._count()]

    @property
    def values(self) -> Tensor:
        """The rows held, [K, C]."""
        return self._rows[: self._count()]

    def _count(self) -> int:
        return int(np.searchsorted(self._index._array(), self.shape[0]))

    def to_dense(self) -> Tensor:
        """The gradient with all its rows."""
        return OPS.scatter_add(self._rows, self._index, rows=self.shape[0], skip=self.shape[0])

    def detach(self) -> RowGradient:
        return self

    def clone(self) -> RowGradient:
        return self._of(self._index.clone(), self._rows.clone(), self.shape)

    def zero_(self) -> RowGradient:
        """Holds no row any more."""
        self._index.fill_(self.shape[0])
        self._rows.zero_()
        return self

    def plus(self, other: Tensor) -> Tensor:
        """The sum with another gradient of this shape: by rows if both are, else dense."""
        if not isinstance(other, RowGradient):
            return OPS.add(self.to_dense(), other)
        rows, columns = self.shape
        index = OPS.cat(*(x._index.reshape(1, -1, 1) for x in (self, other)))
        values = OPS.cat(*(x._rows.unsqueeze(0) for x in (self, other)))
        n = index.shape[1]
        merged = OPS.merge_rows(values.reshape(n, columns), index.reshape(n), rows=rows, skip=rows)
        return self._of(*merged, self.shape)

    @property
    def _no_values(self) -> str:
        return (f"a gradient by rows, of shape {self.shape}, from an embedding with sparse=True: expected a dense "
                "tensor here; x.to_dense() makes one")  # fmt: skip

    def __repr__(self):
        return f"RowGradient(indices={self.indices}, values={self.values}, shape={self.shape})"

    def __deepcopy__(self, memo):
        return memo.setdefault(id(self), self.clone())

    def __reduce__(self):
        return RowGradient, (self.indices.numpy_copy(), self.values.numpy_copy(), self.shape)


def _plus(a: Tensor, b: Tensor) -> Tensor:
    """a + b, one of which is by rows."""
    return a.plus(b) if isinstance(a, RowGradient) else b.plus(a)


_core.set_row_sum(_plus)
