"""Newton's method for networks: conjugate gradients on exact products with the Hessian or the Gauss–Newton matrix."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..autograd import no_grad
from ..curvature import GaussNewton, Hessian, Point
from ..recompute import repeatable
from .optimizer import Optimizer, number

__all__ = ["NewtonCG", "steihaug"]


def steihaug(
    product: Callable[[np.ndarray], np.ndarray], g: np.ndarray, radius: float = np.inf, tol: float = 1e-6,
    max_iter: int = 100,
) -> tuple[np.ndarray, str]:  # fmt: skip
    """Minimizes gᵀp + ½pᵀBp over ‖p‖ ≤ radius by conjugate gradients, as far as they go.

    Returns:
        (p, why it ended): "converged" (residual ≤ tol·‖g‖), "boundary", "negative curvature" (then p lies on the
        boundary, along the direction that showed it; without a radius p is what was found before, or −g) or
        "iterations".

    Source: Steihaug 1983; Nocedal and Wright, algorithm 7.2.
    """
    p, r = np.zeros_like(g), g.copy()
    d, rr = -r, float(r @ r)
    stop = tol * tol * rr
    for _ in range(max_iter):
        if rr <= stop:
            return p, "converged"
        bd = product(d)
        bend = float(d @ bd)
        if bend <= 0:
            if np.isinf(radius):
                return (p if p.any() else d), "negative curvature"
            return p + _to_boundary(p, d, radius) * d, "negative curvature"
        step = rr / bend
        if np.linalg.norm(p + step * d) >= radius:
            return p + _to_boundary(p, d, radius) * d, "boundary"
        p, r = p + step * d, r + step * bd
        before, rr = rr, float(r @ r)
        d = -r + rr / before * d
    return p, "converged" if rr <= stop else "iterations"


def _to_boundary(p: np.ndarray, d: np.ndarray, radius: float) -> float:
    """t ≥ 0 with ‖p + t·d‖ = radius."""
    a, b, c = float(d @ d), 2 * float(p @ d), float(p @ p) - radius * radius
    return (-b + np.sqrt(max(b * b - 4 * a * c, 0.0))) / (2 * a)


class NewtonCG(Optimizer):
    """Newton–CG, also called Hessian-free: each step minimizes a quadratic model of the loss by products alone.

    curvature="gauss-newton": the model (B + damping·I), B positive semidefinite; damping follows Levenberg–Marquardt:
    it shrinks where the loss falls by more than ¾ of what the model said, grows where by less than ¼; a backtracking
    line search shortens the step until the loss falls enough (Armijo).

    curvature="hessian": the exact Hessian within a trust region, whose radius follows the same rule; directions of
    negative curvature are followed to its boundary, which leads away from saddles.

    A step that would raise the loss is not taken; damping grows, or the radius shrinks.

    Args:
        params: Tensors; one group of them.
        curvature: "gauss-newton" or "hessian".
        damping: λ at the start. radius: at the start.
        max_cg: products of a step at most. tol: of the residual; min(tol, √‖g‖)·‖g‖ ends it.
        factor: by which damping grows and shrinks.

    step(closure) takes a closure that computes the loss without backward(): it gives loss ("hessian") or
    (loss, outputs) ("gauss-newton"), from the same batch each time within a step.

    Attributes: damping, radius; evaluations: {"loss", "gradient", "product"}: how many were computed; why: how the last
    conjugate gradients ended; taken: whether the last step was.

    Source: Martens 2010; Nocedal and Wright, algorithms 4.1 and 7.2; S1 §2.11.5; F-OPT-9.
    """

    def __init__(
        self, params, curvature: str = "gauss-newton", damping: float = 1e-2, radius: float = 1.0, max_cg: int = 50,
        tol: float = 0.1, factor: float = 2.0,
    ):  # fmt: skip
        super().__init__(
            params,
            {
                "curvature": curvature,
                "damping": damping,
                "radius": radius,
                "max_cg": max_cg,
                "tol": tol,
                "factor": factor,
            },
        )
        if len(self.param_groups) != 1:
            raise ValueError("NewtonCG doesn't support per-parameter options (parameter groups)")
        self.damping, self.radius = float(damping), float(radius)
        self.evaluations = {"loss": 0, "gradient": 0, "product": 0}
        self.why, self.taken = "", False

    def check(self, group):
        if group["curvature"] not in ("gauss-newton", "hessian"):
            raise ValueError(f"Invalid curvature: expected 'gauss-newton' or 'hessian', got {group['curvature']!r}")
        for name, least in (("damping", 0), ("radius", 0), ("max_cg", 1), ("tol", 0), ("factor", 1)):
            if not number(group[name], name) >= least:
                raise ValueError(f"Invalid {name}: {group[name]}")

    def step(self, closure: Callable | None = None, *, max_norm=None):
        """One step; returns the loss before it, a number."""
        if closure is None or max_norm is not None:
            raise TypeError("NewtonCG: step() needs a closure that computes the loss, and clips nothing")
        group = self.param_groups[0]
        gauss = group["curvature"] == "gauss-newton"
        again = repeatable(closure)  # trials see the mask of the step's dropout, and change no statistics
        loss, params, p, slope, promised = self._model_step(closure, group)
        with no_grad(), Point(params) as point:
            ratio, scale = self._search(again, point, p, slope, loss, promised, gauss)
        self.taken = scale > 0
        if self.taken:
            Point(params).go(scale * p)
        self._adapt(ratio, float(np.linalg.norm(p)), gauss, group["factor"])
        return loss

    def _model_step(self, closure, group) -> tuple:
        """(loss, parameters, step, slope along it, fall of the loss that the model promises). The graph goes at the
        end: the trials that follow need its memory."""
        gauss = group["curvature"] == "gauss-newton"
        damping, radius = (self.damping, np.inf) if gauss else (0.0, self.radius)
        b = (GaussNewton if gauss else Hessian)(closure, group["params"], effects=True)
        g = b.gradient
        tol = min(group["tol"], float(np.linalg.norm(g)) ** 0.5)
        p, self.why = steihaug(lambda v: b.matvec(v) + damping * v, g, radius, tol, int(group["max_cg"]))
        slope = float(g @ p)
        promised = -(slope + 0.5 * float(p @ b.matvec(p)) + 0.5 * damping * float(p @ p))
        self.evaluations["gradient"] += 1
        self.evaluations["product"] += b.products
        return b.loss, b.params, p, slope, promised

    def _search(self, closure, point, p, slope, loss, promised, gauss) -> tuple[float, float]:
        """(fall of the loss at the whole step by what was promised, the share of the step to take; 0: none)."""
        ratio, scale = -np.inf, 1.0
        for k in range(10 if gauss else 1):
            point.go(scale * p)
            now = closure()
            now = (now[0] if gauss else now).item()
            self.evaluations["loss"] += 1
            if k == 0:
                ratio = (loss - now) / promised if promised > 0 and np.isfinite(now) else -np.inf
            enough = now <= loss + 1e-4 * scale * slope if gauss else ratio > 1e-4
            if enough:
                return ratio, scale
            scale /= 2
        return ratio, 0.0

    def _adapt(self, ratio: float, length: float, gauss: bool, factor: float) -> None:
        if gauss:
            self.damping *= 1 / factor if ratio > 0.75 else factor if ratio < 0.25 else 1
        elif ratio < 0.25:
            self.radius = 0.25 * length
        elif ratio > 0.75 and length > 0.99 * self.radius:
            self.radius *= 2
