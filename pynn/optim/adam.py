"""Adam and AdamW, with AMSGrad, and SparseAdam."""

from __future__ import annotations

from .. import _core
from ..op import OPS
from ..sparse import RowGradient
from .optimizer import Optimizer, check_not_negative, number, zero_number

__all__ = ["Adam", "AdamW", "SparseAdam"]


def _check_adam(group):
    check_not_negative(group, "lr", "learning rate")
    check_not_negative(group, "eps", "epsilon value")
    betas = group["betas"]
    if not isinstance(betas, (tuple, list)) or len(betas) != 2:
        raise ValueError(f"Invalid betas: expected two numbers, got {betas!r}")
    for k, beta in enumerate(betas):
        if not 0.0 <= number(beta, "betas") < 1.0:
            raise ValueError(f"Invalid beta parameter at index {k}: {beta}")


class Adam(Optimizer):
    """Steps scaled by running means of the gradient and of its square, both corrected for their start at 0.

    Args:
        params: Tensors, or groups of them (dicts).
        lr: learning rate.
        betas: decay of the two means.
        eps: added to the root.
        weight_decay: λ; adds λ·p to the gradient (L2 penalty), or scales p by 1 − lr·λ with decoupled_weight_decay.
        amsgrad: divide by the largest mean square so far.
        maximize: ascend.
        eps_inside: √(v̂ + eps) in place of √v̂ + eps, as S1 §1.3.5 has it; not with amsgrad or gradients by rows.

    Of a table whose gradient is by rows (nn.Embedding with sparse=True) the rows of the gradient alone are updated,
    and their moments and decay with them; all count one step.

    Raises:
        ValueError: a hyper-parameter out of range. TypeError: parameters that are no Tensors.

    Source: Kingma & Ba, arXiv 1412.6980, algorithm 1; Reddi et al., arXiv 1904.09237; S0 Optimizers.
    """

    needed = ("step", "exp_avg", "exp_avg_sq")

    def __init__(
        self,
        params,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        decoupled_weight_decay: bool = False,
        eps_inside: bool = False,
    ):
        self.eps_inside = eps_inside  # not in the groups, which have PyTorch's structure
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": betas,
                "eps": eps,
                "weight_decay": weight_decay,
                "amsgrad": amsgrad,
                "maximize": maximize,
                "decoupled_weight_decay": decoupled_weight_decay,
            },
        )

    def check(self, group):
        _check_adam(group)
        check_not_negative(group, "weight_decay", "weight_decay value")
        if self.eps_inside and group["amsgrad"]:
            raise ValueError("Adam: expected eps_inside or amsgrad, got both")

    def update(self, group):
        amsgrad, state, lr = group["amsgrad"], self.state, group.lr_tensor
        beta1, beta2 = group["betas"]
        options = {
            "beta1": beta1,
            "beta2": beta2,
            "eps": group["eps"],
            "weight_decay": group["weight_decay"],
            "decoupled": group["decoupled_weight_decay"],
            "amsgrad": amsgrad,
            "maximize": group["maximize"],
        }
        rows = []
        for p in group["params"]:
            g = p.grad
            if g is None:
                continue
            s = state[p]
            if not s:
                _start(p, s)
            if amsgrad and "max_exp_avg_sq" not in s:
                s["max_exp_avg_sq"] = _core.zeros_as(p)
            row = p, s["exp_avg"], s["exp_avg_sq"], s["max_exp_avg_sq"] if amsgrad else None, s["step"]
            if type(g) is RowGradient:
                if self.eps_inside:
                    raise RuntimeError("Adam does not support eps_inside with gradients by rows")
                OPS.adam_rows_step(lr, self._scale, g._rows, g._index, *row, **options)
            else:
                rows.append((g, *row))
        if self.eps_inside:
            del options["amsgrad"]
            rules = {"eps_inside": True, "nesterov": False, "rectified": False, "momentum_decay": 0.0}
            _core.run_list(OPS.moments_step, (lr, self._scale), rows, options | rules)
        else:
            _core.run_list(OPS.adam_step, (lr, self._scale), rows, options)


def _start(p, s):
    """The state of a parameter before its first step."""
    s["step"] = zero_number()
    s["exp_avg"] = _core.zeros_as(p)
    s["exp_avg_sq"] = _core.zeros_as(p)


class AdamW(Adam):
    """Adam with decoupled weight decay: p is scaled by 1 − lr·weight_decay, and the gradient left alone.

    Args and errors as for Adam. Source: Loshchilov & Hutter, arXiv 1711.05101, algorithm 2.
    """

    def __init__(
        self,
        params,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        eps_inside: bool = False,
    ):
        super().__init__(
            params, lr, betas, eps, weight_decay, amsgrad, maximize=maximize, decoupled_weight_decay=True,
            eps_inside=eps_inside,
        )  # fmt: skip


class SparseAdam(Optimizer):
    """Adam for tables whose gradients are by rows: only rows of the gradient move, with their moments.

    p ← p − lr·√(1 − β₂ᵗ)/(1 − β₁ᵗ) · m/(√v + eps): eps stands beside the uncorrected root, where Adam's stands beside
    the corrected one.

    Args:
        params: Tensors, or groups of them (dicts).
        lr, betas, eps, maximize: as in Adam.

    Raises:
        ValueError: a hyper-parameter out of range. RuntimeError: a dense gradient, in step().

    Source: torch.optim.SparseAdam.
    """

    needed = ("step", "exp_avg", "exp_avg_sq")

    def __init__(
        self,
        params,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        maximize: bool = False,
    ):
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "maximize": maximize})

    def check(self, group):
        _check_adam(group)

    def update(self, group):
        beta1, beta2 = group["betas"]
        found = [(p, p.grad) for p in group["params"] if p.grad is not None]
        for _, g in found:
            if type(g) is not RowGradient:
                raise RuntimeError("SparseAdam does not support dense gradients, please consider Adam instead")
        for p, g in found:
            s = self.state[p]
            if not s:
                _start(p, s)
            OPS.adam_rows_step(
                group.lr_tensor, self._scale, g._rows, g._index, p, s["exp_avg"], s["exp_avg_sq"], None, s["step"],
                beta1=beta1, beta2=beta2, eps=group["eps"], maximize=group["maximize"], scaled_eps=True,
            )  # fmt: skip
