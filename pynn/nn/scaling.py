"""Layers that bring inputs to one scale by what was seen in the training data; they are saved with the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..arrays import as_count, check_finite, real_array
from ..autograd import no_grad
from ..tensor import Tensor, tensor
from .module import Module

__all__ = ["Normalize", "Standardize"]

CHUNK = 8 << 20  # bytes of data looked at at a time


class _Scaling(Module):
    """y = (x − shift)/scale, by feature; both are buffers, 0 and 1 before fit."""

    def __init__(self, num_features: int, dim: int = -1, dtype=None):
        super().__init__()
        self.num_features, self.dim = as_count(self._get_name(), "num_features", num_features), dim
        self.register_buffer("shift", tensor(np.zeros(self.num_features, dtype or np.float32)))
        self.register_buffer("scale", tensor(np.ones(self.num_features, dtype or np.float32)))

    def fit(self, X: Any):
        """Takes shift and scale from the training data X, (N, …) with the features along `dim`; returns the layer.

        Memory maps are read in parts. A feature that never changes is only shifted.

        Raises:
            ValueError: no samples, another number of features, or NaN or Inf (where).
        """
        name = f"{self._get_name()}.fit: argument 'X'"
        arr = real_array(X, name)
        if arr.ndim < 2 or arr.shape[self.dim] != self.num_features:
            raise ValueError(f"{name}: expected {self.num_features} features along dimension {self.dim}, got shape "
                             f"{arr.shape}")  # fmt: skip
        if not arr.size:
            raise ValueError(f"{name}: expected at least one sample, got shape {arr.shape}")
        check_finite(arr, name, "X")
        rows = max(1, CHUNK * len(arr) // arr.nbytes)
        parts = (np.moveaxis(arr[at : at + rows], self.dim, -1) for at in range(0, len(arr), rows))
        shift, scale = self._of(p.reshape(-1, self.num_features).astype(np.float64) for p in parts)
        with no_grad():
            self.shift.copy_(tensor(shift))
            self.scale.copy_(tensor(np.where(scale > 0, scale, 1.0)))
        return self

    def _of(self, parts) -> tuple[np.ndarray, np.ndarray]:
        """(shift, scale) of rows in float64."""
        raise NotImplementedError

    def _shaped(self, values: Tensor, ndim: int) -> Tensor:
        """values so that they stand along dimension dim of ndim."""
        shape: list[int] | Sequence[int] = [1] * ndim
        shape[self.dim] = self.num_features  # type: ignore[index]
        return values.reshape(tuple(shape))

    def forward(self, x):
        return (x - self._shaped(self.shift, x.ndim)) / self._shaped(self.scale, x.ndim)

    def inverse(self, y: Tensor) -> Tensor:
        """x of y: what a scaled target means."""
        return y * self._shaped(self.scale, y.ndim) + self._shaped(self.shift, y.ndim)

    def extra_repr(self) -> str:
        return f"{self.num_features}, dim={self.dim}"


class Standardize(_Scaling):
    """y = (x − mean)/standard deviation of each feature, as they were in the training data.

    Args:
        num_features: features along dim. dim: −1 for tables, 1 for images (N, C, H, W).
        dtype: float32 or float64 of shift and scale, and so of x.

    Buffers: shift, the means, and scale, the deviations (divided by N), both (num_features).

    Raises:
        ValueError: num_features below 1. Source: S1 §5.3; S3 §7; F-NORM-1.
    """

    def _of(self, parts):
        n, mean, spread = 0, np.zeros(self.num_features), np.zeros(self.num_features)
        for p in parts:  # merged about the means: Chan et al. 1979
            step, both = p.mean(0) - mean, n + len(p)
            spread += np.square(p - p.mean(0)).sum(0) + np.square(step) * (n * len(p) / both)
            mean += step * (len(p) / both)
            n = both
        return mean, np.sqrt(spread / n)


class Normalize(_Scaling):
    """y = (x − min)/(max − min) of each feature, as they were in the training data: those lie in [0, 1].

    Arguments as for Standardize. Buffers: shift, the minima, and scale, the ranges. Source: S3 §7; F-NORM-1.
    """

    def _of(self, parts):
        ends = [(p.min(0), p.max(0)) for p in parts]
        low = np.min([a for a, _ in ends], axis=0)
        return low, np.max([b for _, b in ends], axis=0) - low
