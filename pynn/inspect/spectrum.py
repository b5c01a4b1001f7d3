"""The spectrum of a Hessian known by its products: extremes, trace, density, and what kind of point it tells of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..arrays import as_count
from ..curvature import Operator

__all__ = ["Density", "Stationary", "classify", "curvature", "density", "eigenvalues", "trace"]

SMALL = 64  # parameters up to which the whole matrix is formed: Lanczos needs more products than that


def eigenvalues(
    h: Operator, k: int = 10, which: str = "largest", vectors: bool = False, tol: float = 1e-6, seed: int = 0
):
    """Extreme eigenvalues by SciPy's Lanczos (eigsh) on products, or of the whole matrix where it is small.

    Args:
        h: a Hessian or GaussNewton.
        k: how many; which: "largest" or "smallest" (algebraically), "magnitude", or "all".
        vectors: return (eigenvalues, eigenvectors in columns).
        tol: relative accuracy; seed: of the start vector, so that results repeat.

    Returns:
        eigenvalues, the most extreme first ("all": ascending).

    Source: S1 §5.2.8; F-UND-2.
    """
    if which not in ("largest", "smallest", "magnitude", "all"):
        raise ValueError(f"eigenvalues: argument 'which': expected 'largest', 'smallest', 'magnitude' or 'all', "
                         f"got {which!r}")  # fmt: skip
    k = as_count("eigenvalues", "k", k)
    _check_finite(h, "eigenvalues")
    if which == "all" or h.size <= max(SMALL, 2 * k + 1):
        values, found = np.linalg.eigh(h.dense())
    else:
        from scipy.sparse.linalg import eigsh

        start = np.random.default_rng(seed).standard_normal(h.size)
        name = {"largest": "LA", "smallest": "SA", "magnitude": "LM"}[which]
        values, found = eigsh(h.linear_operator(), k=k, which=name, v0=start, tol=tol)
    order = {"largest": -values, "magnitude": -np.abs(values)}.get(which, values)
    order = np.argsort(order, kind="stable")
    if which != "all":
        order = order[:k]
    return (values[order], found[:, order]) if vectors else values[order]


def _check_finite(h: Operator, what: str) -> None:
    if not np.isfinite(h.gradient).all():
        raise ValueError(f"{what}: expected a gradient without NaN and Inf; pynn.detect_anomaly names where they begin")


def curvature(h: Operator, direction: np.ndarray) -> float:
    """uᵀHu for the direction's unit vector u, such as -h.gradient (F-OPT-10)."""
    u = np.asarray(direction, np.float64).ravel()
    norm = np.linalg.norm(u)
    if not norm > 0:
        raise ValueError("curvature: argument 'direction': expected a vector that is not 0")
    return float(u @ h.matvec(u)) / float(norm * norm)


def trace(h: Operator, probes: int = 32, seed: int = 0) -> tuple[float, float]:
    """(trace, its standard error) by Hutchinson: the mean of zᵀHz over random signs z, whose variance is
    2·Σ_{i≠j} H²ᵢⱼ.

    Source: Hutchinson 1990; F-UND-2.
    """
    rng = np.random.default_rng(seed)
    probes, found = as_count("trace", "probes", probes), []
    for _ in range(probes):
        z = rng.choice([-1.0, 1.0], h.size)
        found.append(z @ h.matvec(z))
    error = np.std(found, ddof=1) / np.sqrt(probes) if probes > 1 else np.inf
    return float(np.mean(found)), float(error)


@dataclass
class Density:
    """An estimate of the spectral density: nodes with weights that sum to 1, by probe, and their smooth sum."""

    nodes: np.ndarray
    weights: np.ndarray

    def moment(self, k: int) -> float:
        """tr(Hᵏ)/n, exact in expectation for k < 2·steps."""
        return float((self.weights * self.nodes**k).sum())

    def curve(self, points: int = 400, width: float | None = None) -> tuple[np.ndarray, np.ndarray]:
        """(x, density at x): Gaussians of standard deviation `width` (a hundredth of the range) on the nodes."""
        low, high = self.nodes.min(), self.nodes.max()
        width = width or max(high - low, 1e-12) / 100
        x = np.linspace(low - 4 * width, high + 4 * width, points)
        bumps = np.exp(-0.5 * ((x[:, None] - self.nodes) / width) ** 2) / (width * np.sqrt(2 * np.pi))
        return x, bumps @ self.weights


def lanczos(matvec, start: np.ndarray, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Diagonal and off-diagonal of the tridiagonal matrix; each vector is made orthogonal to all before, twice."""
    q = start / np.linalg.norm(start)
    basis, diagonal, beside = [q], [], []
    for _ in range(min(steps, start.size)):
        w = matvec(basis[-1])
        diagonal.append(float(basis[-1] @ w))
        kept = np.stack(basis)
        for _ in range(2):
            w = w - kept.T @ (kept @ w)
        norm = float(np.linalg.norm(w))
        if norm < 1e-10 * max(1.0, abs(diagonal[0])) or len(diagonal) == min(steps, start.size):
            break
        beside.append(norm)
        basis.append(w / norm)
    return np.array(diagonal), np.array(beside[: len(diagonal) - 1])


def density(h: Operator, probes: int = 8, steps: int = 48, seed: int = 0) -> Density:
    """The spectral density by stochastic Lanczos quadrature: probes·steps products.

    Source: Ghorbani, Krishnan and Xiao, arXiv 1901.10159; Golub and Welsch 1969.
    """
    probes, steps = as_count("density", "probes", probes), as_count("density", "steps", steps)
    _check_finite(h, "density")
    rng = np.random.default_rng(seed)
    nodes, weights = [], []
    for _ in range(probes):
        diagonal, beside = lanczos(h.matvec, rng.standard_normal(h.size), steps)
        values, vectors = np.linalg.eigh(np.diag(diagonal) + np.diag(beside, 1) + np.diag(beside, -1))
        nodes.append(values)
        weights.append(vectors[0] ** 2 / probes)
    return Density(np.concatenate(nodes), np.concatenate(weights))


@dataclass
class Stationary:
    """What kind of point this is: "minimum", "maximum", "saddle", "degenerate" or "not stationary", and why."""

    kind: str
    gradient_norm: float
    smallest: float
    largest: float

    def __str__(self):
        return (f"{self.kind}: |gradient| = {self.gradient_norm:.3g}, eigenvalues from {self.smallest:.6g} to "
                f"{self.largest:.6g}")  # fmt: skip


def classify(h: Operator, gradient_tol: float = 1e-4, flat: float = 1e-6) -> Stationary:
    """The kind of a stationary point by the signs of its curvatures.

    Args:
        gradient_tol: a gradient of a larger norm makes it "not stationary".
        flat: eigenvalues within flat·max|λ| of 0 count as 0; with one of them and no sign change the point is
            "degenerate", about which second derivatives cannot tell.

    Source: S1 §5.2.8, Table 5.1; F-UND-3.
    """
    norm = float(np.linalg.norm(h.gradient))
    if h.size <= SMALL:
        values = eigenvalues(h, which="all")
        low, high = float(values[0]), float(values[-1])
    else:
        low = float(eigenvalues(h, 1, "smallest")[0])
        high = float(eigenvalues(h, 1, "largest")[0])
    zero = flat * max(abs(low), abs(high))
    if norm > gradient_tol:
        kind = "not stationary"
    elif low < -zero and high > zero:
        kind = "saddle"
    elif low > zero:
        kind = "minimum"
    elif high < -zero:
        kind = "maximum"
    else:
        kind = "degenerate"
    return Stationary(kind, norm, low, high)
