"""Adagrad, RMSprop, NAdam, RAdam, Lion and LAMB; each step is one call of a fused kernel of pynn/ops/adaptive.py."""

from __future__ import annotations

from typing import Any

from .. import _core
from ..op import OPS
from ..sparse import RowGradient
from ..tensor import tensor
from .adam import _check_adam
from .optimizer import Optimizer, check_not_negative, zero_number

__all__ = ["LAMB", "Adagrad", "Lion", "NAdam", "RAdam", "RMSprop"]


class _Fused(Optimizer):
    """An optimizer whose step is one list effect.

    A subclass names the effect, gives its options, and the state of a parameter in the order of its columns.
    """

    effect: str

    def __init__(self, params, defaults: dict[str, Any], eps_inside: bool = False):
        self.eps_inside = eps_inside  # not in the groups, which have PyTorch's structure
        super().__init__(params, defaults)

    def options(self, group) -> dict[str, Any]:
        """The effect's parameters."""
        raise NotImplementedError

    def columns(self, s: dict[str, Any], p, group) -> tuple:
        """The state of p, made where it is missing, and None for what is not used."""
        raise NotImplementedError

    def by_rows(self, g, p, group) -> None:
        """The step of p whose gradient holds only some rows."""
        raise RuntimeError(f"{type(self).__name__} does not support gradients by rows; SGD, Adagrad, Adam, AdamW and "
                           "SparseAdam do")  # fmt: skip

    def check(self, group):
        check_not_negative(group, "lr", "learning rate")
        check_not_negative(group, "weight_decay", "weight_decay value")
        if "eps" in group:
            check_not_negative(group, "eps", "epsilon value")

    def update(self, group):
        rows = []
        for p in group["params"]:
            g = p.grad
            if g is None:
                continue
            if type(g) is RowGradient:
                self.by_rows(g, p, group)
            else:
                rows.append((g, p, *self.columns(self.state[p], p, group)))
        _core.run_list(OPS[self.effect], (group.lr_tensor, self._scale), rows, self.options(group))


def _kept(s: dict[str, Any], name: str, p):
    """The state `name` of p, zeros of p's layout where there is none."""
    if name not in s:
        s[name] = _core.zeros_as(p)
    return s[name]


def _count(s: dict[str, Any]):
    if "step" not in s:
        s["step"] = zero_number()
    return s["step"]


class Adagrad(_Fused):
    """Rates that fall with the sum s of squared gradients: p ← p − lr/(1 + t·lr_decay) · g/(√s + eps).

    Args:
        params: Tensors, or groups of them (dicts).
        lr, lr_decay: the rate, and how fast it falls besides.
        weight_decay: λ; adds λ·p to the gradient.
        initial_accumulator_value: where s starts.
        eps: added to the root, or to s with eps_inside, as S1 has it.
        maximize: ascend.

    Of a table whose gradient is by rows (nn.Embedding with sparse=True) the rows of the gradient alone are updated,
    and their sums and decay with them; all count one step.

    Source: Duchi, Hazan, Singer, JMLR 12 (2011); S1 §1.3.3; F-OPT-4.
    """

    effect = "adagrad_step"
    needed = ("step", "sum")

    def __init__(
        self, params, lr: float = 1e-2, lr_decay: float = 0, weight_decay: float = 0,
        initial_accumulator_value: float = 0, eps: float = 1e-10, *, maximize: bool = False, eps_inside: bool = False,
    ):  # fmt: skip
        super().__init__(
            params,
            {
                "lr": lr,
                "lr_decay": lr_decay,
                "weight_decay": weight_decay,
                "initial_accumulator_value": initial_accumulator_value,
                "eps": eps,
                "maximize": maximize,
            },
            eps_inside,
        )

    def check(self, group):
        super().check(group)
        check_not_negative(group, "lr_decay", "lr_decay value")
        check_not_negative(group, "initial_accumulator_value", "initial_accumulator_value value")

    def options(self, group):
        return {name: group[name] for name in ("lr_decay", "weight_decay", "eps", "maximize")} | {
            "eps_inside": self.eps_inside
        }

    def columns(self, s, p, group):
        return _kept(s, "sum", p), _count(s)

    def by_rows(self, g, p, group):
        state = self.columns(self.state[p], p, group)
        OPS.adagrad_rows_step(group.lr_tensor, self._scale, g._rows, g._index, p, *state, **self.options(group))

    def add_param_group(self, param_group):
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        if group["initial_accumulator_value"]:  # before the first step, which may be recorded
            for p in group["params"]:
                s = self.state[p]
                self.columns(s, p, group)
                s["sum"].fill_(group["initial_accumulator_value"])


class RMSprop(_Fused):
    """Steps by the root of a running mean v of squared gradients: p ← p − lr·g/(√v + eps).

    Args:
        params: Tensors, or groups of them (dicts).
        lr: learning rate.
        alpha: decay of the means.
        eps: added to the root, or to v with eps_inside, as S1 has it.
        weight_decay: λ; adds λ·p to the gradient.
        momentum: b ← momentum·b + g/(√v + eps) is stepped along.
        centered: √(v − a²) in place of √v, a the running mean of g: the variance.
        maximize: ascend.

    Source: Hinton, lecture 6e; Graves, arXiv 1308.0850; S1 §1.3.4; F-OPT-5.
    """

    effect = "rmsprop_step"
    needed = ("square_avg",)

    def __init__(
        self, params, lr: float = 1e-2, alpha: float = 0.99, eps: float = 1e-8, weight_decay: float = 0,
        momentum: float = 0, centered: bool = False, *, maximize: bool = False, eps_inside: bool = False,
    ):  # fmt: skip
        super().__init__(
            params,
            {
                "lr": lr,
                "alpha": alpha,
                "eps": eps,
                "weight_decay": weight_decay,
                "momentum": momentum,
                "centered": centered,
                "maximize": maximize,
            },
            eps_inside,
        )

    def check(self, group):
        super().check(group)
        check_not_negative(group, "alpha", "alpha value")
        check_not_negative(group, "momentum", "momentum value")

    def options(self, group):
        names = ("alpha", "momentum", "weight_decay", "eps", "centered", "maximize")
        return {name: group[name] for name in names} | {"eps_inside": self.eps_inside}

    def columns(self, s, p, group):
        return (
            _kept(s, "square_avg", p),
            _kept(s, "grad_avg", p) if group["centered"] else None,
            _kept(s, "momentum_buffer", p) if group["momentum"] else None,
        )


class _Moments(_Fused):
    """Adam's means with other weights of mean and gradient."""

    effect = "moments_step"
    needed = ("step", "exp_avg", "exp_avg_sq")
    rule: str  # the effect's parameter that is on

    def __init__(self, params, lr, betas, eps, weight_decay, decoupled_weight_decay, maximize, eps_inside, **more):
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": betas,
                "eps": eps,
                "weight_decay": weight_decay,
                **more,
                "decoupled_weight_decay": decoupled_weight_decay,
                "maximize": maximize,
            },
            eps_inside,
        )

    def check(self, group):
        _check_adam(group)
        super().check(group)

    def options(self, group):
        beta1, beta2 = group["betas"]
        return {
            "beta1": beta1,
            "beta2": beta2,
            "eps": group["eps"],
            "eps_inside": self.eps_inside,
            "weight_decay": group["weight_decay"],
            "decoupled": group["decoupled_weight_decay"],
            "nesterov": False,
            "rectified": False,
            "momentum_decay": group.get("momentum_decay", 0.0),
            "maximize": group["maximize"],
            self.rule: True,
        }

    def columns(self, s, p, group):
        return _kept(s, "exp_avg", p), _kept(s, "exp_avg_sq", p), None, _count(s)


class NAdam(_Moments):
    """Adam with Nesterov's look ahead: the mean is weighted as the next step will, the gradient beside it.

    Args:
        params: Tensors, or groups of them (dicts).
        lr, betas, eps, weight_decay, decoupled_weight_decay, maximize: as Adam's.
        momentum_decay: ψ of μₜ = β₁(1 − ½·0.96^(t·ψ)).

    Source: Dozat, ICLR workshop 2016; the form is PyTorch's.
    """

    rule = "nesterov"
    needed = ("step", "mu_product", "exp_avg", "exp_avg_sq")

    def __init__(
        self, params, lr: float = 2e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
        weight_decay: float = 0, momentum_decay: float = 4e-3, decoupled_weight_decay: bool = False, *,
        maximize: bool = False, eps_inside: bool = False,
    ):  # fmt: skip
        super().__init__(params, lr, betas, eps, weight_decay, decoupled_weight_decay, maximize, eps_inside,
                         momentum_decay=momentum_decay)  # fmt: skip

    def check(self, group):
        super().check(group)
        check_not_negative(group, "momentum_decay", "momentum_decay value")

    def columns(self, s, p, group):
        if "mu_product" not in s:
            s["mu_product"] = tensor(1.0, zero_number().dtype)
        return _kept(s, "exp_avg", p), _kept(s, "exp_avg_sq", p), s["mu_product"], _count(s)


class RAdam(_Moments):
    """Adam whose first steps are plain momentum, until the variance of its root is bounded.

    Args as Adam's. Source: Liu et al., arXiv 1908.03265; the form is PyTorch's.
    """

    rule = "rectified"

    def __init__(
        self, params, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
        weight_decay: float = 0, decoupled_weight_decay: bool = False, *, maximize: bool = False,
    ):  # fmt: skip
        super().__init__(params, lr, betas, eps, weight_decay, decoupled_weight_decay, maximize, False)


class Lion(_Fused):
    """Steps of one size by the sign of a running mean: p ← p(1 − lr·weight_decay) − lr·sign(β₁m + (1 − β₁)g).

    Args:
        params: Tensors, or groups of them (dicts).
        lr: a tenth to a third of Adam's. betas: of the sign, and of the mean that is kept.
        weight_decay: decoupled; three to ten times Adam's.
        maximize: ascend.

    Source: Chen et al., arXiv 2302.06675, algorithm 2.
    """

    effect = "lion_step"
    needed = ("exp_avg",)

    def __init__(
        self, params, lr: float = 1e-4, betas: tuple[float, float] = (0.9, 0.99), weight_decay: float = 0, *,
        maximize: bool = False,
    ):  # fmt: skip
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay, "maximize": maximize})

    def check(self, group):
        _check_adam({"eps": 0.0, **group})
        super().check(group)

    def options(self, group):
        beta1, beta2 = group["betas"]
        return {"beta1": beta1, "beta2": beta2, "weight_decay": group["weight_decay"], "maximize": group["maximize"]}

    def columns(self, s, p, group):
        return (_kept(s, "exp_avg", p),)


class LAMB(_Fused):
    """Adam's direction r = m̂/(√v̂ + eps) + weight_decay·p, stepped as far as the tensor is large:
    p ← p − lr·‖p‖/‖r‖·r.

    Args:
        params: Tensors, or groups of them (dicts). Norms are of each tensor.
        lr, betas, eps, maximize: as Adam's; eps_inside: eps within the root, as S1 has it.
        weight_decay: part of r.

    Source: You et al., arXiv 1904.00962, algorithm 2 with φ the identity; S1 §1.3.7; F-OPT-8.
    """

    effect = "lamb_step"
    needed = ("step", "exp_avg", "exp_avg_sq")

    def __init__(
        self, params, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-6,
        weight_decay: float = 0, *, maximize: bool = False, eps_inside: bool = False,
    ):  # fmt: skip
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": betas,
                "eps": eps,
                "weight_decay": weight_decay,
                "maximize": maximize,
            },
            eps_inside,
        )

    def check(self, group):
        _check_adam(group)
        super().check(group)

    def options(self, group):
        beta1, beta2 = group["betas"]
        names = ("eps", "weight_decay", "maximize")
        own = {"beta1": beta1, "beta2": beta2, "eps_inside": self.eps_inside}
        return own | {name: group[name] for name in names}

    def columns(self, s, p, group):
        return _kept(s, "exp_avg", p), _kept(s, "exp_avg_sq", p), _count(s)
