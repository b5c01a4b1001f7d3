"""The loss as a surface over the parameters: slices along lines, contours over planes, trajectories upon them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ..autograd import no_grad
from ..curvature import Point
from ..recompute import repeatable
from ..tensor import Tensor

__all__ = ["Contour", "contour", "main_directions", "random_direction", "slice_loss"]


def random_direction(params: Iterable[Tensor], seed: int = 0, by_filter: bool = True) -> np.ndarray:
    """A random direction, flat; by_filter: each row of a weight (filter, unit) of the norm that the parameter's own row
    has, and 0 for biases, so that pictures of networks that differ by a rescaling agree.

    Source: Li et al., arXiv 1712.09913.
    """
    rng = np.random.default_rng(seed)
    parts = []
    for p in params:
        if not p.requires_grad:
            continue
        d = rng.standard_normal(p.shape)
        if by_filter and p.ndim > 1:
            rows, own = d.reshape(len(d), -1), p.numpy_copy().astype(np.float64).reshape(len(d), -1)
            d = rows / np.linalg.norm(rows, axis=1)[:, None] * np.linalg.norm(own, axis=1)[:, None]
        elif by_filter:
            d = np.zeros(p.shape)
        parts.append(d.ravel())
    return np.concatenate(parts)


def slice_loss(closure: Callable[[], Tensor], params: Iterable[Tensor], direction: np.ndarray, at) -> np.ndarray:
    """closure() at params + a·direction for each a; params keep their values."""
    closure, found = repeatable(closure), []
    with Point(params) as point, no_grad():
        direction = point.direction(direction, "slice_loss")
        for a in np.asarray(at, np.float64).ravel():
            point.go(a * direction)
            found.append(closure().item())
    return np.array(found)


@dataclass
class Contour:
    """The loss over a plane through the parameters.

    Attributes:
        origin: flat; directions: two of them. a, b: coordinates along each; loss [len(b), len(a)].
    """

    origin: np.ndarray
    directions: tuple[np.ndarray, np.ndarray]
    a: np.ndarray
    b: np.ndarray
    loss: np.ndarray

    def project(self, points: Sequence[np.ndarray]) -> np.ndarray:
        """The coordinates [len(points), 2] of points (flat), by least squares."""
        plane = np.stack(self.directions, axis=1)
        off = np.stack([np.asarray(p, np.float64) for p in points], axis=1) - self.origin[:, None]
        return np.linalg.lstsq(plane, off, rcond=None)[0].T

    def draw(self, path: str | os.PathLike, points: Sequence[np.ndarray] | None = None) -> None:
        """A picture, with the way through points upon it; needs matplotlib."""
        from ._figures import figure

        with figure(path) as ax:
            drawn = ax.contour(self.a, self.b, self.loss, 24, linewidths=0.7)
            ax.clabel(drawn, fontsize="x-small")
            if points is not None:
                ax.plot(*self.project(points).T, "o-", ms=2.5, lw=0.8, color="tab:red")
            ax.set(xlabel="along the first direction", ylabel="along the second direction")


def contour(
    closure: Callable[[], Tensor], params: Iterable[Tensor], first: np.ndarray, second: np.ndarray, a, b,
    origin: np.ndarray | None = None,
) -> Contour:  # fmt: skip
    """closure() at origin + a·first + b·second; params, which the origin is by default, keep their values."""
    a, b, closure = np.asarray(a, np.float64), np.asarray(b, np.float64), repeatable(closure)
    with Point(params) as point, no_grad():
        first, second = (point.direction(d, "contour") for d in (first, second))
        shift = 0.0 if origin is None else point.direction(origin, "contour: argument 'origin'") - point.at
        loss = np.empty((b.size, a.size))
        for i, y in enumerate(b):
            for j, x in enumerate(a):
                point.go(shift + x * first + y * second)
                loss[i, j] = closure().item()
    return Contour(point.at + shift, (first, second), a, b, loss)


def main_directions(points: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(first, second, share of the variance of each of them): the plane in which a trajectory moves most, from its
    last point; by the singular value decomposition.

    Raises:
        ValueError: fewer than three points, points of one element or of different sizes, or NaN or Inf in them.
    """
    flat = [np.asarray(p, np.float64).ravel() for p in points]
    sizes = sorted({p.size for p in flat})
    if len(flat) < 3 or len(sizes) > 1 or sizes[0] < 2 or not np.isfinite(flat).all():
        raise ValueError("main_directions: argument 'points': expected at least 3 finite points of one size of 2 or "
                         f"more, got {len(flat)} of sizes {sizes}")  # fmt: skip
    off = np.stack(flat[:-1]) - flat[-1]
    _, s, vt = np.linalg.svd(off, full_matrices=False)
    share = s * s / max(float((s * s).sum()), np.finfo(float).tiny)
    return vt[0], vt[1], share[:2]
