"""Tensors of given values: PyTorch's names and arguments. A dtype left out means float32, or int64 where
all the numbers given are integers and the values count (arange, full); a shape is numbers or one tuple."""

from __future__ import annotations

import math

import numpy as np

from . import _core, random
from .op import OPS
from .tensor import Tensor, float32, number, takes_tensor
from .tensor import full as _full

__all__ = [
    "arange", "empty", "empty_like", "eye", "full", "full_like", "linspace", "ones", "ones_like", "rand_like",
    "randn_like", "tril", "triu", "zeros", "zeros_like",
]  # fmt: skip


def _sizes(size):
    """zeros(2, 3) and zeros((2, 3)) alike."""
    return tuple(size[0]) if len(size) == 1 and isinstance(size[0], (tuple, list)) else size


def _leaf(x: Tensor, requires_grad: bool) -> Tensor:
    if requires_grad:
        x.requires_grad = True
    return x


def zeros(*size, dtype=None, requires_grad=False) -> Tensor:
    """0 of shape size."""
    return _leaf(_full(_sizes(size), 0, dtype or float32), requires_grad)


def ones(*size, dtype=None, requires_grad=False) -> Tensor:
    """1 of shape size."""
    return _leaf(_full(_sizes(size), 1, dtype or float32), requires_grad)


def empty(*size, dtype=None, requires_grad=False) -> Tensor:
    """Of shape size, the values not set."""
    return _leaf(_core.empty(_sizes(size), dtype or float32), requires_grad)


def full(size, fill_value, *, dtype=None, requires_grad=False) -> Tensor:
    """fill_value, a number, everywhere; a dtype left out is that of pynn.tensor(fill_value)."""
    if isinstance(fill_value, Tensor):
        fill_value = fill_value.item()
    return _leaf(_full(size, fill_value, dtype or Tensor(fill_value).dtype), requires_grad)


@takes_tensor
def zeros_like(input, *, dtype=None, requires_grad=False) -> Tensor:
    """0 of input's shape, and of its dtype and layout if no dtype is given."""
    if dtype is not None and np.dtype(dtype) != input.dtype:
        return zeros(input.shape, dtype=dtype, requires_grad=requires_grad)
    return _leaf(Tensor.zeros_like(input), requires_grad)


@takes_tensor
def ones_like(input, *, dtype=None, requires_grad=False) -> Tensor:
    """1 of input's shape, and of its dtype if none is given."""
    return full_like(input, 1, dtype=dtype, requires_grad=requires_grad)


@takes_tensor
def full_like(input, fill_value, *, dtype=None, requires_grad=False) -> Tensor:
    """fill_value of input's shape, and of its dtype if none is given."""
    return full(input.shape, fill_value, dtype=dtype or input.dtype, requires_grad=requires_grad)


@takes_tensor
def empty_like(input, *, dtype=None, requires_grad=False) -> Tensor:
    """Of input's shape, and of its dtype if none is given, the values not set."""
    return empty(input.shape, dtype=dtype or input.dtype, requires_grad=requires_grad)


@takes_tensor
def rand_like(input, *, generator=None, dtype=None, requires_grad=False) -> Tensor:
    """pynn.rand of input's shape, and of its dtype if none is given."""
    return random.rand(input.shape, generator=generator, dtype=dtype or input.dtype, requires_grad=requires_grad)


@takes_tensor
def randn_like(input, *, generator=None, dtype=None, requires_grad=False) -> Tensor:
    """pynn.randn of input's shape, and of its dtype if none is given."""
    return random.randn(input.shape, generator=generator, dtype=dtype or input.dtype, requires_grad=requires_grad)


def arange(start, end=None, step=1, *, dtype=None, requires_grad=False) -> Tensor:
    """start, start + step, … before end; arange(end) starts at 0. int64 where all are integers, else float32."""
    start, end = (0, start) if end is None else (start, end)
    for name, v in (("start", start), ("end", end), ("step", step)):
        number(v, f"arange: argument '{name}'")
    if step == 0:
        raise ValueError("arange: argument 'step': expected a number other than 0, got 0")
    whole = all(isinstance(v, (int, np.integer)) for v in (start, end, step))
    n = max(0, -(-(end - start) // step))
    if isinstance(n, int) or math.isfinite(n):
        _core.check_shape((int(n),), np.int64)  # NumPy's errors name no size
    values = np.arange(start, end, step, None if whole else np.float64)
    return _leaf(Tensor(values, dtype=dtype or (np.int64 if whole else float32)), requires_grad)


def linspace(start, end, steps: int, *, dtype=None, requires_grad=False) -> Tensor:
    """steps numbers at equal distances from start to end, both included."""
    _core.check_shape((steps,), np.float64)
    return _leaf(Tensor(np.linspace(start, end, steps), dtype=dtype or float32), requires_grad)


def eye(n: int, m: int | None = None, *, dtype=None, requires_grad=False) -> Tensor:
    """[n, m] (m = n by default) with 1 on the diagonal and 0 elsewhere."""
    _core.check_shape((n, n if m is None else m), np.float64)
    return _leaf(Tensor(np.eye(n, m), dtype=dtype or float32), requires_grad)


@takes_tensor
def tril(input, diagonal: int = 0) -> Tensor:
    """The last two dimensions' elements on and below a diagonal (0: the main one, > 0: above it), 0 elsewhere."""
    return _triangle(input, diagonal, "tril", False)


@takes_tensor
def triu(input, diagonal: int = 0) -> Tensor:
    """The last two dimensions' elements on and above a diagonal (0: the main one, > 0: above it), 0 elsewhere."""
    return _triangle(input, diagonal - 1, "triu", True)


def _triangle(x, diagonal, what, upper):
    if x.ndim < 2:
        raise ValueError(f"{what}: argument 'input': expected at least 2 dimensions, got shape {x.shape}")
    rows, columns = x.shape[-2:]
    below = np.tri(rows, columns, max(-rows, min(diagonal, columns)), dtype=np.bool_)
    return OPS.where(Tensor(below != upper), x, 0)
