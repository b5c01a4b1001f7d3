"""Where a token stands: sinusoidal, learned and rotary positions."""

from __future__ import annotations

import numpy as np

from .. import _core
from ..arrays import as_count
from ..ops.index import cat, stack
from ..tensor import Tensor
from . import init
from .module import Module, Parameter

__all__ = ["LearnedPositions", "RotaryPositions", "SinusoidalPositions"]


class _Positions(Module):
    """A table with a row for each of max_len places, of which calls take those from `offset` on."""

    def __init__(self, max_len: int, dim: int):
        super().__init__()
        as_count(self._get_name(), "max_len", max_len)
        as_count(self._get_name(), "dim", dim)
        self.max_len, self.dim = max_len, dim

    def _checked(self, x, offset: int) -> slice:
        """The places of x (…, T, dim)."""
        if x.ndim < 2 or x.shape[-1] != self.dim:
            raise ValueError(f"{self._get_name()}: argument 'x': expected shape (…, T, {self.dim}), got {x.shape}")
        end = offset + x.shape[-2]
        if not 0 <= offset <= end <= self.max_len:
            raise ValueError(
                f"{self._get_name()}: expected places below max_len {self.max_len}, got {offset} to {end - 1}"
            )
        return slice(offset, end)

    def extra_repr(self) -> str:
        return f"{self.max_len}, {self.dim}"


class SinusoidalPositions(_Positions):
    """y[…, t, :] = x[…, t, :] + P[t + offset], P[p, 2i] = sin(p/base^(2i/dim)), P[p, 2i+1] = cos(p/base^(2i/dim)).

    Args:
        max_len: places that there are. dim: width of x.
        dtype: float32 or float64 of x. P is computed in float64; it is no part of the state.

    Raises:
        ValueError: x is not (…, T, dim), or places beyond max_len.

    Source: Vaswani et al., arXiv 1706.03762 §3.5.
    """

    def __init__(self, max_len: int, dim: int, base: float = 10000.0, dtype=None):
        super().__init__(max_len, dim)
        angles = _angles(max_len, -(-dim // 2), dim, base)
        table = np.stack([np.sin(angles), np.cos(angles)], -1).reshape(max_len, -1)[:, :dim]
        self.register_buffer("table", Tensor(table.astype(dtype or np.float32)), persistent=False)

    def forward(self, x, offset: int = 0):
        return x + self.table[self._checked(x, offset)]


class LearnedPositions(_Positions):
    """y[…, t, :] = x[…, t, :] + weight[t + offset].

    Parameters: weight (max_len, dim), N(0, std²) to begin with.

    Raises:
        ValueError: x is not (…, T, dim), or places beyond max_len.
    """

    def __init__(self, max_len: int, dim: int, std: float = 0.02, dtype=None):
        super().__init__(max_len, dim)
        self.std = std
        self.weight = Parameter(_core.empty((max_len, dim), dtype or np.float32))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws weight anew from the default generator."""
        init.normal_(self.weight, 0.0, self.std)

    def forward(self, x, offset: int = 0):
        return x + self.weight[self._checked(x, offset)]


class RotaryPositions(_Positions):
    """Pairs of features turned by an angle that grows with the place, so that products of two turned vectors depend on
    how far apart they stand: (a, b) → (a·cos φ − b·sin φ, b·cos φ + a·sin φ), φ = (t + offset)/base^(2i/dim).

    Args:
        max_len: places that there are. dim: width of a head, even.
        interleaved: pair i is features 2i and 2i + 1, as in the paper. Otherwise it is i and i + dim/2, as in most
            models that are published; the two differ by a fixed order of features.
        dtype: float32 or float64 of x.

    Shapes: queries or keys (…, T, dim) → the same.

    Raises:
        ValueError: an odd dim; x is not (…, T, dim); places beyond max_len.

    Source: Su et al., arXiv 2104.09864.
    """

    def __init__(self, max_len: int, dim: int, base: float = 10000.0, interleaved: bool = False, dtype=None):
        super().__init__(max_len, dim)
        if dim % 2:
            raise ValueError(f"RotaryPositions: argument 'dim': expected an even number, got {dim}")
        self.interleaved = interleaved
        angles = _angles(max_len, dim // 2, dim, base)
        for name, table in (("cos", np.cos(angles)), ("sin", np.sin(angles))):
            self.register_buffer(name, Tensor(table.astype(dtype or np.float32)), persistent=False)

    def forward(self, x, offset: int = 0):
        places, half = self._checked(x, offset), self.dim // 2
        cos, sin = self.cos[places], self.sin[places]
        if self.interleaved:
            pairs = x.reshape(*x.shape[:-1], half, 2)
            a, b = pairs[..., 0], pairs[..., 1]
            return stack([a * cos - b * sin, b * cos + a * sin], -1).reshape(x.shape)
        a, b = x[..., :half], x[..., half:]
        return cat([a * cos - b * sin, b * cos + a * sin], -1)


def _angles(places: int, pairs: int, dim: int, base: float) -> np.ndarray:
    """p/base^(2i/dim) for each place p and pair i."""
    return np.arange(places)[:, None] * base ** (-2.0 * np.arange(pairs) / dim)
