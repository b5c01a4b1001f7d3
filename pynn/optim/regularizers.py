"""Penalties and constraints on weights, as objects that add up.

    penalty = L1(1e-4) + L2(1e-3, on="weight")
    loss = criterion(model(x), y) + penalty(model)
    optimizer = pynn.optim.SGD(L2(1e-3).groups(model), lr=0.1)      # the same L2, fused into the step

`on` says which parameters: "weight" (names that end in it; biases excluded, S1 §6.11), "bias", "all", a prefix with a
dot ("encoder.") for a part of the model, or a function of (name, parameter).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ..autograd import jvp, no_grad
from ..nn.module import Module
from ..op import OPS
from ..tensor import Tensor

__all__ = ["L1", "L2", "Lp", "MaxNorm", "Penalty", "Rescaling", "Tangent"]


def chosen(model: Module, on) -> list[tuple[str, Tensor]]:
    """The (name, parameter) of model that `on` means; those that are frozen left out."""
    if callable(on):
        fits = on
    elif on == "all":
        fits = lambda name, p: True  # noqa: E731
    elif on in ("weight", "bias"):
        fits = lambda name, p: name.rpartition(".")[2] == on  # noqa: E731
    elif isinstance(on, str) and on.endswith("."):
        fits = lambda name, p: name.startswith(on)  # noqa: E731
    else:
        raise ValueError(f"expected on='weight', 'bias', 'all', a prefix that ends in a dot, or a function, got {on!r}")
    return [(name, p) for name, p in model.named_parameters() if p.requires_grad and fits(name, p)]


def _strength(what: str, value: float) -> float:
    if not float(value) >= 0:
        raise ValueError(f"{what}: argument 'strength': expected a number >= 0, got {value}")
    return float(value)


class Penalty:
    """A number for a model, which is added to the loss. Penalties add up: a + b. Trainer takes one, or a sum.

    What repr tells, the strength as a rule, may change between epochs of a Trainer's fit.
    """

    def __call__(self, model: Module, *data) -> Tensor:
        """The penalty, 0-d; data is what those that look at inputs take."""
        raise NotImplementedError

    def __add__(self, other: Penalty) -> Penalty:
        return _Sum([self, other]) if isinstance(other, Penalty) else NotImplemented

    def __repr__(self):
        numbers = {k: v for k, v in vars(self).items() if isinstance(v, (int, float, str))}
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in numbers.items())})"


class _Sum(Penalty):
    def __init__(self, parts: Iterable[Penalty]):
        self.parts = [q for p in parts for q in (p.parts if isinstance(p, _Sum) else [p])]

    def __call__(self, model, *data):
        total = self.parts[0](model, *data)
        for p in self.parts[1:]:
            total = total + p(model, *data)
        return total

    def __repr__(self):
        return " + ".join(map(repr, self.parts))


class Lp(Penalty):
    """λ/p · Σ|w|ᵖ for p > 0, with the gradient λ|w|^(p−2)·w, which is 0 at 0.

    Source: S1 §6.10–6.11; F-REG-3.
    """

    def __init__(self, strength: float, p: float, on: str | Callable = "weight"):
        self.strength, self.p, self.on = _strength(type(self).__name__, strength), float(p), on
        if not self.p > 0:
            raise ValueError(f"Lp: argument 'p': expected a number > 0, got {p}")

    def _of(self, w: Tensor) -> Tensor:
        """Σ|w|ᵖ"""
        zero = OPS.eq(w, 0.0)  # |w|^p is not differentiable there for p <= 1
        return OPS.where(zero, 0.0, OPS.pow(OPS.where(zero, 1.0, OPS.abs(w)), self.p)).sum()

    def __call__(self, model, *data):
        total = None
        for _, w in chosen(model, self.on):
            part = self._of(w)
            total = part if total is None else total + part
        return Tensor(0.0) if total is None else total * (self.strength / self.p)

    def __repr__(self):
        return f"{type(self).__name__}({self.strength!r}, p={self.p:g}, on={self.on!r})"


class L1(Lp):
    """λ·Σ|w|, whose gradient λ·sign(w) makes weights 0. Source: S1 §6.10; F-REG-2."""

    def __init__(self, strength: float, on: str | Callable = "weight"):
        super().__init__(strength, 1, on)

    def _of(self, w):
        return OPS.abs(w).sum()


class L2(Lp):
    """λ/2·Σw²: Tikhonov's penalty, a Gaussian prior of variance 1/λ. Source: S1 §6.1, §6.4, §6.10; F-REG-1, 14."""

    def __init__(self, strength: float, on: str | Callable = "weight"):
        super().__init__(strength, 2, on)

    def _of(self, w):
        return (w * w).sum()

    def groups(self, model: Module) -> list[dict]:
        """Parameter groups whose weight_decay makes the same steps without a pass of its own: for SGD, Adam and the
        others with coupled decay; decoupled in AdamW and Lion (F-REG-4, 5)."""
        mine = {id(p) for _, p in chosen(model, self.on)}
        with_decay = [p for p in model.parameters() if id(p) in mine]
        without = [p for p in model.parameters() if id(p) not in mine]
        groups = [{"params": with_decay, "weight_decay": self.strength}, {"params": without, "weight_decay": 0.0}]
        return [g for g in groups if g["params"]]


def _norms(w: Tensor, dim: int) -> Tensor:
    """Euclidean norms of the rows (dim 0) or columns (1) of a weight [out, in, …], 0 with derivative 0 for zeros."""
    w = w.reshape(len(w), w.shape[1], -1)
    squares = OPS.sum_to(w * w, shape=(len(w), 1, 1) if dim == 0 else (1, w.shape[1], 1)).reshape(-1)
    zero = OPS.eq(squares, 0.0)
    return OPS.where(zero, 0.0, OPS.sqrt(OPS.where(zero, 1.0, squares)))


class Rescaling(Penalty):
    """λ·Σⱼ ‖row j of W₁‖·‖column j of W₂‖ over the hidden units between two layers.

    Unlike L2 it does not change when a unit's ingoing weights are multiplied by c and its outgoing ones by 1/c, which
    leaves a network of ReLUs as it is: it is the smallest λ/2·(‖W₁‖² + ‖W₂‖²) among all networks of that kind.

    Args:
        first, second: weights [hidden, in, …] and [out, hidden, …].

    Source: S1 §6.13; Neyshabur et al., arXiv 1506.02617; F-REG-13.
    """

    def __init__(self, strength: float, first: Tensor, second: Tensor):
        self.strength = _strength("Rescaling", strength)
        if first.ndim < 2 or second.ndim < 2 or first.shape[0] != second.shape[1]:
            raise ValueError(f"Rescaling: expected weights of shapes (hidden, in) and (out, hidden), got {first.shape} "
                             f"and {second.shape}")  # fmt: skip
        self.first, self.second = first, second

    def __call__(self, model=None, *data):
        return (_norms(self.first, 0) * _norms(self.second, 1)).sum() * self.strength


class Tangent(Penalty):
    """λ/2 · mean ‖∂f/∂x · t‖²: the outputs should not change when the input moves along t.

    Args:
        tangent: tangent(x) → t, the derivative of a transformation of x, such as (shift(x, 1) − shift(x, −1))/2.

    Called with the model and the input. Source: S1 §6.9; Simard et al. 1991; F-REG-10.
    """

    def __init__(self, strength: float, tangent: Callable[[Tensor], Tensor]):
        self.strength, self.tangent = _strength("Tangent", strength), tangent

    def __call__(self, model, *data):
        (x,) = data
        _, change = jvp(model, x, self.tangent(x), create_graph=True)
        return (change * change).sum() * (self.strength / (2 * len(x)))


class MaxNorm:
    """‖w‖ ≤ C: call it after each step, and weights beyond are scaled back onto the ball.

    Args:
        limit: C. on: as for penalties.
        by_unit: of each row (the ingoing weights of a unit), or of whole tensors.

    Source: S1 §6.2; Srivastava et al. 2014; F-REG-12.
    """

    def __init__(self, limit: float, on: str | Callable = "weight", by_unit: bool = True):
        if not float(limit) > 0:
            raise ValueError(f"MaxNorm: argument 'limit': expected a number > 0, got {limit}")
        self.limit, self.on, self.by_unit = float(limit), on, by_unit

    @no_grad()
    def __call__(self, model: Module) -> None:
        for _, w in chosen(model, self.on):
            shape = (len(w), *(1,) * (w.ndim - 1)) if self.by_unit and w.ndim > 1 else (1,) * w.ndim
            norm = OPS.sqrt(OPS.sum_to(w * w, shape=shape))
            w.copy_(w * (self.limit / OPS.maximum(norm, self.limit)))
