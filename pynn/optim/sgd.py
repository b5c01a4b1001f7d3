"""Stochastic gradient descent, with momentum."""

from __future__ import annotations

from .. import _core
from ..op import OPS
from ..sparse import RowGradient
from .optimizer import Optimizer, check_not_negative, number, zero_number

__all__ = ["SGD"]


class SGD(Optimizer):
    """Gradient descent: p ← p − lr·g; with momentum b ← momentum·b + (1 − dampening)·g, which starts at g, for g.

    Args:
        params: Tensors, or groups of them (dicts).
        lr: learning rate.
        momentum, dampening, nesterov: the running direction; nesterov looks one step ahead (g + momentum·b).
        weight_decay: adds weight_decay·p to the gradient (L2 penalty).
        maximize: ascend.

    Of a table whose gradient is by rows (nn.Embedding with sparse=True) the rows of the gradient alone are updated,
    their momentum and decay included.

    Raises:
        ValueError: a hyper-parameter out of range. TypeError: parameters that are no Tensors.

    Source: S0 Optimizers; S1 §1.3; Sutskever et al. 2013; the form is PyTorch's.
    """

    needed = ("momentum_buffer",)
    hidden = ("step",)  # tells the first step from the others

    def __init__(
        self,
        params,
        lr: float = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
    ):
        super().__init__(
            params,
            {
                "lr": lr,
                "momentum": momentum,
                "dampening": dampening,
                "weight_decay": weight_decay,
                "nesterov": nesterov,
                "maximize": maximize,
            },
        )

    def check(self, group):
        check_not_negative(group, "lr", "learning rate")
        check_not_negative(group, "momentum", "momentum value")
        check_not_negative(group, "weight_decay", "weight_decay value")
        number(group["dampening"], "dampening")
        if group["nesterov"] and (group["momentum"] <= 0 or group["dampening"] != 0):
            raise ValueError("Nesterov momentum requires a momentum and zero dampening")

    def update(self, group):
        momentum = group["momentum"]
        options = {
            "momentum": momentum,
            "dampening": group["dampening"],
            "weight_decay": group["weight_decay"],
            "nesterov": group["nesterov"],
            "maximize": group["maximize"],
        }
        rows = []
        for p in group["params"]:
            g = p.grad
            if g is None:
                continue
            buffer = step = None
            if momentum != 0:
                s = self.state[p]
                if "step" not in s:
                    self._start(p, s)
                buffer, step = s["momentum_buffer"], s["step"]
            if type(g) is RowGradient:
                OPS.sgd_rows_step(group.lr_tensor, self._scale, g._rows, g._index, p, buffer, step, **options)
            else:
                rows.append((g, p, buffer, step))
        _core.run_list(OPS.sgd_step, (group.lr_tensor, self._scale), rows, options)

    def _start(self, p, s):
        s["step"] = zero_number()
        if "momentum_buffer" in s:  # loaded: the first step lies behind
            _core.set_number(s["step"], 1.0)
        else:
            s["momentum_buffer"] = _core.zeros_as(p)
