"""Fixed and learned bases of inputs, and pooling over sets: what chapter 4 of S1 sets against deep networks."""

from __future__ import annotations

import itertools
import math

import numpy as np

from .. import _core
from ..op import OPS
from ..ops.index import cat
from ..random import default_generator
from ..tensor import Tensor
from .module import Module, Parameter

__all__ = ["RBF", "GridFeatures", "PolynomialFeatures", "SetPool"]


class RBF(Module):
    """φₙ(x) = exp(−‖x − cₙ‖²/s²) of inputs (…, D): (…, N).

    Args:
        in_features, out_features: D and N.
        centers: (N, D), such as training samples; standard normal by default. width: s.
        learned: centers and widths (one for each n) are parameters; else buffers.

    Source: Broomhead and Lowe 1988; S1 §4.5; F-LAY-15.
    """

    def __init__(self, in_features: int, out_features: int, centers=None, width: float = 1.0, learned: bool = True):
        super().__init__()
        self.in_features, self.out_features, self.learned = in_features, out_features, learned
        if centers is None:
            centers = default_generator.numpy().standard_normal((out_features, in_features)).astype(np.float32)
        centers = centers if isinstance(centers, Tensor) else Tensor(np.asarray(centers))
        if centers.shape != (out_features, in_features):
            raise ValueError(
                f"RBF: argument 'centers': expected shape {(out_features, in_features)}, got {centers.shape}"
            )
        if not width > 0:
            raise ValueError(f"RBF: argument 'width': expected a number > 0, got {width}")
        log_width = Tensor(np.full(out_features, math.log(width), centers.dtype))
        if learned:
            self.centers, self.log_width = Parameter(centers), Parameter(log_width)
        else:
            self.register_buffer("centers", centers.detach())
            self.register_buffer("log_width", log_width)

    def forward(self, x):
        # ‖x − c‖² by products would cancel near a center
        d = x.unsqueeze(-2) - self.centers
        squares = OPS.sum_to(d * d, shape=(*d.shape[:-1], 1)).reshape(d.shape[:-1])
        return OPS.exp(-squares * OPS.exp(-2.0 * self.log_width))

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, learned={self.learned}"


class PolynomialFeatures(Module):
    """All monomials of inputs (…, D) up to a degree M: (…, C(D + M, M)), the constant first, then by degree.

    Source: S1 §4.1; the order is scikit-learn's; F-LAY-15.
    """

    def __init__(self, in_features: int, degree: int):
        super().__init__()
        self.in_features, self.degree = in_features, degree
        terms = [t for k in range(degree + 1) for t in itertools.combinations_with_replacement(range(in_features), k)]
        # each term as one of the degree before times an input
        place = {t: k for k, t in enumerate(terms)}
        for k in range(1, degree + 1):
            pairs = np.array([(place[t[:-1]], t[-1]) for t in terms if len(t) == k])
            self.register_buffer(f"before{k}", Tensor(pairs[:, 0].copy()), persistent=False)
            self.register_buffer(f"factor{k}", Tensor(pairs[:, 1].copy()), persistent=False)
        self.out_features = len(terms)

    def forward(self, x):
        done = x[..., :1] * 0.0 + 1.0
        for k in range(1, self.degree + 1):
            before, factor = self._buffers[f"before{k}"], self._buffers[f"factor{k}"]
            done = cat([done, done[..., before] * x[..., factor]], -1)
        return done

    def extra_repr(self) -> str:
        return f"{self.in_features}, degree={self.degree}"


class GridFeatures(Module):
    """Which of K^D cells of a grid over [low, high]^D an input (…, D) lies in, as 0 and 1: (…, K^D).

    Inputs beyond count to the cells at the border. There is no derivative: the features are constant in each cell.

    Source: S1 §4.2; F-LAY-15.
    """

    def __init__(self, in_features: int, bins: int, low: float = 0.0, high: float = 1.0):
        super().__init__()
        if not high > low:
            raise ValueError(f"GridFeatures: expected low < high, got {low} and {high}")
        self.in_features, self.bins, self.low, self.high = in_features, bins, low, high
        self.out_features = bins**in_features
        _core.check_shape((self.out_features,), np.float32)

    def forward(self, x):
        at = OPS.floor((x.detach() - self.low) * (self.bins / (self.high - self.low)))
        at = OPS.minimum(OPS.maximum(at, 0.0), float(self.bins - 1))
        weights = Tensor(np.array([float(self.bins**k) for k in range(self.in_features)][::-1], x.dtype))
        cell = OPS.sum_to(at * weights, shape=(*x.shape[:-1], 1))
        return OPS.cast(OPS.eq(cell, Tensor(np.arange(self.out_features, dtype=x.dtype))), dtype=x.dtype)

    def extra_repr(self) -> str:
        return f"{self.in_features}, bins={self.bins}, low={self.low}, high={self.high}"


class SetPool(Module):
    """Σ over the elements of sets (N, L, D), of those that mask (N, L) counts: (N, D), whatever their order.

    Args:
        how: "sum", "mean" or "max".

    With networks before and after it this is a deep set: ρ(Σ φ(x)).

    Source: Zaheer et al., arXiv 1703.06114; S1 §6.8; F-LAY-16.
    """

    def __init__(self, how: str = "sum"):
        super().__init__()
        if how not in ("sum", "mean", "max"):
            raise ValueError(f"SetPool: argument 'how': expected 'sum', 'mean' or 'max', got {how!r}")
        self.how = how

    def forward(self, x, mask=None):
        if mask is not None:
            mask = mask if isinstance(mask, Tensor) else Tensor(np.asarray(mask))
            counts = mask.astype(np.bool_).unsqueeze(-1)
            x = OPS.where(counts, x, -math.inf if self.how == "max" else 0.0)
        if self.how == "max":
            return x.amax(1)
        total = x.sum(1)
        if self.how == "sum":
            return total
        return total / (float(x.shape[1]) if mask is None else counts.astype(x.dtype).sum(1))

    def extra_repr(self) -> str:
        return f"how={self.how!r}"
