"""Equivariance and invariance of any model under any transformation: S(T(x)) = T′(S(x))."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..autograd import no_grad
from ..nn.module import Module
from ..tensor import Tensor
from ..train.step import eval_mode

__all__ = ["Symmetry", "equivariance"]


@dataclass
class Symmetry:
    """How far S(T(x)) lies from T′(S(x)): the largest difference by the largest value, and norm by norm."""

    largest: float
    relative: float
    tol: float

    @property
    def holds(self) -> bool:
        return self.largest <= self.tol

    def __bool__(self):
        return self.holds


def _arrays(x):
    return x.detach().numpy_copy() if isinstance(x, Tensor) else np.asarray(x)


def equivariance(
    model: Callable, x, transform: Callable, transform_out: Callable | None = None, inner: tuple = (...,),
    tol: float = 1e-4,
) -> Symmetry:  # fmt: skip
    """Compares model(transform(x)) with transform_out(model(x)).

    Args:
        model: a Module, evaluated in eval mode, or a function of a Tensor.
        x: a batch, Tensor or array.
        transform: T, from arrays to arrays: a shift, a rotation, a permutation.
        transform_out: T′ of the output; None: invariance, T′(y) = y.
        inner: index of the part of the output that is compared: away from edges that a shift fills with zeros.
        tol: bound on the largest difference, relative to the largest value, for `holds`.

    Source: S1 §6.8; F-UND-8.
    """
    x = _arrays(x)

    def run(a):
        a = Tensor(np.ascontiguousarray(a))
        if isinstance(model, Module):
            with eval_mode(model):
                return _arrays(model(a))
        with no_grad():
            return _arrays(model(a))

    moved, base = run(transform(x)), run(x)
    want = base if transform_out is None else np.asarray(transform_out(base))
    if moved.shape != want.shape:
        raise ValueError(f"equivariance: model(transform(x)) has shape {moved.shape}, transform_out(model(x)) "
                         f"{want.shape}")  # fmt: skip
    off, size = (moved[inner] - want[inner]).astype(np.float64), want[inner].astype(np.float64)
    largest = float(np.abs(off).max(initial=0.0) / max(np.abs(base).max(initial=0.0), np.finfo(np.float64).tiny))
    relative = float(np.linalg.norm(off) / max(np.linalg.norm(size), np.finfo(np.float64).tiny))
    return Symmetry(largest, relative, tol)
