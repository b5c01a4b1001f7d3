"""L-BFGS: PyTorch's, with its state, and a line search by the strong Wolfe conditions."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ..autograd import enable_grad
from ..curvature import Operator, Point
from ..tensor import Tensor
from .optimizer import Optimizer, check_not_negative, number

__all__ = ["LBFGS"]

CURVED = 1e-10  # the least yᵀs of a pair that is kept: the matrix stays positive
SEARCHED = 25  # evaluations of a line search
DESCENT, SLOPE = 1e-4, 0.9  # c₁ and c₂ of the Wolfe conditions


class LBFGS(Optimizer):
    """Limited-memory BFGS: x ← x − t·H·∇f, with H from the last changes of x (s) and of the gradient (y).

    A step is up to max_iter iterations, and the next step goes on with the pairs of those before.

    Args:
        params: Tensors; one group of them.
        lr: the length t of an iteration, or where the line search begins; in the very first one times 1/‖∇f‖₁ at most.
        max_iter: iterations of a step. max_eval: evaluations of closure; 1.25·max_iter by default.
        tolerance_grad: ends where no element of the gradient is larger.
        tolerance_change: ends where the loss, or every parameter, changes by less.
        history_size: pairs (s, y) that are kept.
        line_search_fn: None, or "strong_wolfe": lengths after which the loss and its slope are smaller.

    step(closure) takes a closure that clears gradients, computes the loss, calls backward() and returns the loss; step
    returns what it returned first. Vectors are float64, whatever the parameters are. Where closure raises, parameters
    and state are what they were before the step. Attributes: iterations and evaluations of the last step.

    Raises:
        ValueError: arguments out of range, or several groups. TypeError: step without a closure, or with max_norm.

    Source: Liu & Nocedal 1989; Nocedal & Wright 2006, algorithms 7.4, 3.5 and 3.6.
    """

    def __init__(
        self, params, lr: float = 1, max_iter: int = 20, max_eval: int | None = None, tolerance_grad: float = 1e-7,
        tolerance_change: float = 1e-9, history_size: int = 100, line_search_fn: str | None = None,
    ):  # fmt: skip
        super().__init__(
            params,
            {
                "lr": lr,
                "max_iter": max_iter,
                "max_eval": max_iter * 5 // 4 if max_eval is None else max_eval,
                "tolerance_grad": tolerance_grad,
                "tolerance_change": tolerance_change,
                "history_size": history_size,
                "line_search_fn": line_search_fn,
            },
        )
        if len(self.param_groups) != 1:
            raise ValueError("LBFGS doesn't support per-parameter options (parameter groups)")
        self.iterations = self.evaluations = 0

    def check(self, group):
        check_not_negative(group, "lr", "learning rate")
        for name in ("max_iter", "max_eval", "history_size"):
            if not number(group[name], name) >= 1:
                raise ValueError(f"Invalid {name}: {group[name]}")
        for name in ("tolerance_grad", "tolerance_change"):
            check_not_negative(group, name, name)
        if group["line_search_fn"] not in (None, "strong_wolfe"):
            raise ValueError(f"Invalid line_search_fn: {group['line_search_fn']!r}; None or 'strong_wolfe'")

    def step(self, closure: Callable | None = None, *, max_norm=None):
        """Goes max_iter iterations further down; returns what closure returned at the start."""
        if closure is None or max_norm is not None:
            raise TypeError("LBFGS: step() needs a closure that computes loss and gradients, and clips nothing")
        params = self.param_groups[0]["params"]
        point = Point(params)
        work = _Step(self.param_groups[0], point, closure, self.state.get(params[0], {}))
        with contextlib.ExitStack() as undo:
            undo.enter_context(point)  # whose end goes back to the start
            work.run()
            undo.pop_all()
        self.state[params[0]].update(work.state)
        self.iterations, self.evaluations = work.iterations, work.evaluations
        return work.first

    # ---- dictionaries --------------------------------------------------------------------------

    def state_dict(self):
        """PyTorch's structure: the state of the first parameter holds that of all, in flat arrays."""
        return copy.deepcopy(super().state_dict())

    def load_state_dict(self, state_dict):
        """As Optimizer.load_state_dict; of PyTorch's too. ValueError for vectors of another length."""
        given = state_dict["state"].get(0, {})
        size = sum(p.size for p in self._params() if p.requires_grad)
        state = {k: _loaded(k, v, size) for k, v in given.items() if k in _KINDS and v is not None}
        needed = _KINDS if state.get("n_iter", 1) else ()  # steps that began at a minimum leave no more than counts
        if missing := [k for k in needed if state and k not in state]:
            raise ValueError(f"load_state_dict: state 0: expected {', '.join(_KINDS)}, got no {', '.join(missing)}")
        super().load_state_dict({**state_dict, "state": {}})
        if state:
            self.state[self._params()[0]].update(state)


_KINDS = {
    "func_evals": int, "n_iter": int, "d": np.ndarray, "t": float, "old_dirs": list, "old_stps": list, "ro": list,
    "H_diag": float, "prev_flat_grad": np.ndarray, "prev_loss": float,
}  # fmt: skip


def _loaded(name: str, value: Any, size: int) -> Any:
    """A part of a loaded state."""
    kind = _KINDS[name]
    if kind is list and name == "ro":
        return [float(v) for v in value]
    if kind not in (list, np.ndarray):
        return kind(value)
    vectors = [np.array(v, np.float64) for v in (value if kind is list else [value])]
    for v in vectors:
        if v.shape != (size,):
            raise ValueError(f"load_state_dict: state 0, {name!r}: expected shape ({size},), got {v.shape}")
    return vectors if kind is list else vectors[0]


class _At(NamedTuple):
    """A place on the way: how far along the direction, the loss, its slope along it, its gradient."""

    t: float
    loss: float
    slope: float
    grad: np.ndarray


class _Step:
    """One call of step: works on copies of the state."""

    def __init__(self, group: dict, point: Point, closure: Callable, state: dict[str, Any]):
        self.group, self.point, self.closure = group, point, closure
        self.at = np.zeros(point.at.size)
        self.state = {"n_iter": 0, "func_evals": 0, "old_dirs": [], "old_stps": [], "ro": [], "H_diag": 1.0}
        if "d" not in state or state["d"].size == self.at.size:  # else parameters were frozen, or are no more
            self.state.update({k: list(v) if isinstance(v, list) else v for k, v in state.items()})
        self.first: Any = None
        self.iterations = self.evaluations = 0

    def evaluate(self, offset: np.ndarray) -> tuple[float, np.ndarray]:
        """(loss, gradient) there, where the parameters then are."""
        self.point.go(offset)
        with enable_grad():
            loss = self.closure()
        if not self.evaluations:
            self.first = loss
        self.evaluations += 1
        flat = Operator.flat(Tensor.zeros_like(p) if p.grad is None else p.grad for p in self.point.params)
        return float(loss.item() if isinstance(loss, Tensor) else loss), flat

    def run(self) -> None:
        """Iterations until one of the ends."""
        group, state = self.group, self.state
        loss, grad = self.evaluate(self.at)
        flat = np.abs(grad).max(initial=0.0) <= group["tolerance_grad"]
        while not flat and self.iterations < group["max_iter"]:
            d = self.direction(grad)
            begin = state["n_iter"] == 0
            state["n_iter"] += 1
            self.iterations += 1
            t = group["lr"] * (min(1.0, 1.0 / np.abs(grad).sum()) if begin else 1.0)
            state.update(d=d, t=t, prev_flat_grad=grad, prev_loss=loss)
            if not grad @ d <= -group["tolerance_change"]:  # NaN ends it too
                break
            before = loss
            if group["line_search_fn"] is None or t == 0:  # a rate of 0, where schedules end, is no way to search
                self.at = self.at + t * d
                if self.iterations == group["max_iter"]:
                    self.point.go(self.at)
                    break
                loss, grad = self.evaluate(self.at)
            else:
                t, loss, _, grad = self.searched(_At(0.0, loss, grad @ d, grad), d, t)
                self.at = self.at + t * d
                state["t"] = t
                self.point.go(self.at)
            flat = np.abs(grad).max() <= group["tolerance_grad"]
            moved, change = np.abs(t * d).max(), abs(loss - before)
            if self.evaluations >= group["max_eval"] or min(moved, change) <= group["tolerance_change"]:
                break
        state["func_evals"] += self.evaluations

    def direction(self, grad: np.ndarray) -> np.ndarray:
        """−H·grad by two loops over the pairs, the last change being one of them."""
        state = self.state
        dirs, steps, ro = state["old_dirs"], state["old_stps"], state["ro"]
        if state["n_iter"]:
            y, s = grad - state["prev_flat_grad"], state["d"] * state["t"]
            if y @ s > CURVED:
                for kept, new in ((dirs, y), (steps, s), (ro, 1.0 / (y @ s))):
                    kept.append(new)
                    del kept[: max(0, len(kept) - int(self.group["history_size"]))]
                state["H_diag"] = (y @ s) / (y @ y)
        q = -grad
        shares = []
        for y, s, r in zip(reversed(dirs), reversed(steps), reversed(ro)):
            shares.append(r * (s @ q))
            q = q - shares[-1] * y
        q = q * state["H_diag"]
        for y, s, r, share in zip(dirs, steps, ro, reversed(shares)):
            q = q + (share - r * (y @ q)) * s
        return q

    # ---- the line search -----------------------------------------------------------------------

    def along(self, t: float, d: np.ndarray) -> _At:
        loss, grad = self.evaluate(self.at + t * d)
        return _At(t, loss, grad @ d, grad)

    def searched(self, start: _At, d: np.ndarray, t: float) -> _At:
        """A place by the strong Wolfe conditions, or the best one that was seen (Nocedal & Wright, algorithm 3.5)."""
        last = start
        for k in range(SEARCHED):
            now = self.along(t, d)
            if not self.descends(start, now) or (k and now.loss >= last.loss):
                return self.between(start, last, now, d, SEARCHED - k)
            if abs(now.slope) <= -SLOPE * start.slope:
                return now
            if now.slope >= 0:
                return self.between(start, now, last, d, SEARCHED - k)
            t = min(max(_cubic(last, now), now.t + 0.01 * (now.t - last.t)), 10 * now.t)
            last = now
        return last

    def between(self, start: _At, low: _At, high: _At, d: np.ndarray, left: int) -> _At:
        """Narrows down a stretch that holds such a place, low being its better end (algorithm 3.6)."""
        for _ in range(left):
            near, far = sorted((low.t, high.t))
            if (far - near) * np.abs(d).max() < self.group["tolerance_change"]:
                break
            edge = 0.1 * (far - near)
            now = self.along(min(max(_cubic(low, high), near + edge), far - edge), d)
            if not self.descends(start, now) or now.loss >= low.loss:
                high = now
                continue
            if abs(now.slope) <= -SLOPE * start.slope:
                return now
            if now.slope * (high.t - low.t) >= 0:
                high = low
            low = now
        return low

    @staticmethod
    def descends(start: _At, now: _At) -> bool:
        """Whether the loss fell by a share of what the slope promised; no for NaN."""
        return now.loss <= start.loss + DESCENT * now.t * start.slope


def _cubic(a: _At, b: _At) -> float:
    """Where the cubic through two places is least, by their losses and slopes; the middle where there is none."""
    middle = (a.t + b.t) / 2
    bend = a.slope + b.slope - 3 * (a.loss - b.loss) / (a.t - b.t)
    inner = bend * bend - a.slope * b.slope
    if not 0 <= inner < math.inf:
        return middle
    root = math.copysign(math.sqrt(inner), b.t - a.t)
    below = b.slope - a.slope + 2 * root
    found = b.t - (b.t - a.t) * (b.slope + root - bend) / below if below else middle
    return found if math.isfinite(found) else middle
