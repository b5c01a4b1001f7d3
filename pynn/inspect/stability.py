"""What a quadratic model of the loss says, and measurements of it: Taylor errors, the largest stable rate."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from ..autograd import no_grad
from ..curvature import Hessian, Operator, Point, gradient_at
from ..recompute import repeatable
from ..tensor import Tensor
from .spectrum import eigenvalues

__all__ = ["StableRate", "Taylor", "rate_factors", "stable_rate", "taylor"]


@dataclass
class Taylor:
    """The loss along a line, and the first- and second-order models of it.

    Attributes: steps, loss, first, second (one number for each step).
    """

    steps: np.ndarray
    loss: np.ndarray
    first: np.ndarray
    second: np.ndarray


def taylor(closure: Callable[[], Tensor], params: Iterable[Tensor], direction: np.ndarray, steps) -> Taylor:
    """E(w + s·d), E + s·gᵀd, and E + s·gᵀd + ½s²·dᵀHd for each s of steps; params keep their values.

    The errors fall as s² and s³. Source: S1 §5.2.2, §5.2.7; F-UND-1.
    """
    params, closure = list(params), repeatable(closure)
    h = Hessian(closure, params)
    d, s = Point(h.params).direction(direction, "taylor"), np.asarray(steps, np.float64)
    slope, bend = float(h.gradient @ d), float(d @ h.matvec(d))
    losses = []
    with Point(h.params) as point, no_grad():
        for step in s:
            point.go(step * d)
            losses.append(closure().item())
    first = h.loss + s * slope
    return Taylor(s, np.array(losses), first, first + 0.5 * s * s * bend)


def rate_factors(rate: float, eigenvalues) -> np.ndarray:
    """1 − ηλ: by what a step of gradient descent multiplies the error along each eigenvector (S1 §5.2.10; F-UND-4)."""
    return 1 - rate * np.asarray(eigenvalues)


@dataclass
class StableRate:
    """The bound 2/λmax on the rate of gradient descent, and growth per step that was measured around it.

    Attributes:
        rate: the bound; inf without positive curvature. curvature: λmax.
        measured: {rate: factor a step by which a distance along the steepest direction grew}.
        expected: {rate: |1 − rate·λmax|}.
    """

    rate: float
    curvature: float
    measured: dict[float, float]
    expected: dict[float, float]

    def __str__(self):
        lines = [f"gradient descent is stable below a rate of {self.rate:.4g} (curvature {self.curvature:.4g})"]
        for rate, growth in self.measured.items():
            verdict = "diverges" if growth > 1 else "converges"
            lines.append(f"  rate {rate:.4g}: x {growth:.3f} a step, expected x {self.expected[rate]:.3f}: {verdict}")
        return "\n".join(lines)


def stable_rate(
    closure: Callable[[], Tensor], params: Iterable[Tensor], factors=(0.9, 1.1), steps: int = 5, apart: float = 1e-3
) -> StableRate:
    """The largest stable learning rate 2/λmax, checked by gradient descent itself.

    The loss less its linear part here has the same Hessian and is stationary here. From a point that lies `apart`
    (relative to the parameters' norm) away along the steepest direction, `steps` steps of gradient descent on it are
    taken at each factor of the bound: they must lead back below the bound, and away above it. params keep their values.

    Source: S1 §5.2.10; F-UND-4.
    """
    params, closure = [p for p in params if p.requires_grad], repeatable(closure)
    h = Hessian(closure, params)
    values, vectors = eigenvalues(h, 1, "largest", vectors=True)
    top, u = float(values[0]), vectors[:, 0]
    if top <= 0:
        return StableRate(np.inf, top, {}, {})
    bound = 2 / top
    measured, expected = {}, {}
    distance = apart * max(1.0, float(np.linalg.norm(Operator.flat(params))))
    with Point(params) as point:
        for factor in factors:
            rate, at = factor * bound, distance * u
            for _ in range(steps):
                point.go(at)
                at = at - rate * (gradient_at(closure, params) - h.gradient)
            measured[rate] = float(abs(u @ at) / distance) ** (1 / steps)
            expected[rate] = abs(1 - rate * top)
    return StableRate(bound, top, measured, expected)
