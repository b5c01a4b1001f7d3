"""L-BFGS, by SciPy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..autograd import enable_grad
from ..curvature import Operator, Point
from ..tensor import Tensor
from .optimizer import Optimizer, number

__all__ = ["LBFGS"]


class LBFGS(Optimizer):
    """Limited-memory BFGS with SciPy's line search. A step is a whole minimization of max_iter iterations at most.

    Args:
        params: Tensors; one group of them.
        max_iter: iterations of a step. max_eval: evaluations of closure; 1.25·max_iter by default.
        tolerance_grad: ends where the largest element of the gradient is below it.
        tolerance_change: ends where the loss falls by less, relative to it.
        history_size: pairs of vectors kept within a step; each step starts without any.

    step(closure) takes a closure that clears gradients, computes the loss, calls backward() and returns the loss, as
    PyTorch's does. Attributes after it: iterations, evaluations, message.

    Source: Liu and Nocedal 1989; scipy.optimize.minimize(method="L-BFGS-B").
    """

    def __init__(
        self, params, max_iter: int = 20, max_eval: int | None = None, tolerance_grad: float = 1e-7,
        tolerance_change: float = 1e-9, history_size: int = 100,
    ):  # fmt: skip
        super().__init__(
            params,
            {
                "max_iter": max_iter,
                "max_eval": max_eval or max_iter * 5 // 4,
                "tolerance_grad": tolerance_grad,
                "tolerance_change": tolerance_change,
                "history_size": history_size,
            },
        )
        if len(self.param_groups) != 1:
            raise ValueError("LBFGS doesn't support per-parameter options (parameter groups)")
        self.iterations = self.evaluations = 0
        self.message = ""

    def check(self, group):
        for name in ("max_iter", "max_eval", "history_size"):
            if not number(group[name], name) >= 1:
                raise ValueError(f"Invalid {name}: {group[name]}")

    def step(self, closure: Callable | None = None, *, max_norm=None):
        """Minimizes closure(); returns the loss at the start, as PyTorch's does."""
        if closure is None or max_norm is not None:
            raise TypeError("LBFGS: step() needs a closure that computes loss and gradients, and clips nothing")
        from scipy.optimize import minimize

        group = self.param_groups[0]
        losses = []
        point = Point(group["params"])

        def at(offset):
            point.go(offset)
            with enable_grad():
                loss = closure()
            losses.append(float(loss.item()))
            flat = Operator.flat(Tensor.zeros_like(p) if p.grad is None else p.grad for p in point.params)
            return losses[-1], flat

        found = minimize(
            at, np.zeros(point.at.size), jac=True, method="L-BFGS-B",
            options={"maxiter": int(group["max_iter"]), "maxfun": int(group["max_eval"]),
                     "gtol": group["tolerance_grad"], "ftol": group["tolerance_change"],
                     "maxcor": int(group["history_size"])},
        )  # fmt: skip
        point.go(found.x)
        self.iterations, self.evaluations, self.message = int(found.nit), int(found.nfev), str(found.message)
        return losses[0]
