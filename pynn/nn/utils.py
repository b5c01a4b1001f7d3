"""Clipping of gradients, by norm and by value, in place and in one pass over all of them."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from .. import _core
from ..autograd import no_grad
from ..op import OPS
from ..ops.optim import gradients, total_norm
from ..tensor import Tensor, number, tensor

__all__ = ["clip_grad_norm_", "clip_grad_value_"]


def _grads(parameters: Tensor | Iterable[Tensor], what: str) -> list[Tensor]:
    """The gradients of those parameters that have one; of gradients by rows the rows."""
    parameters = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    for p in parameters:
        if not isinstance(p, Tensor):
            raise TypeError(f"{what}: argument 'parameters': expected Tensors, got {type(p).__name__}")
    return gradients(parameters)


@no_grad()
def clip_grad_norm_(
    parameters: Tensor | Iterable[Tensor],
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
) -> Tensor:
    """Scales the gradients of all parameters so that their common norm is at most max_norm.

    g ← g·min(1, max_norm/(norm + 1e-6)), norm = (Σ|g|ᵖ)^(1/p) over every element of every gradient.
    optimizer.step(max_norm=…) makes the same step without the pass that scales.

    Args:
        parameters: a Tensor or several; those without a gradient are skipped.
        max_norm: the bound.
        norm_type: p > 0, or inf for the largest absolute value.
        error_if_nonfinite: raise where the norm is NaN or infinite; else the gradients become what the formula gives.

    Returns:
        the norm before clipping, 0-d, of the gradients' dtype.

    Raises:
        ValueError: norm_type ≤ 0, max_norm < 0 or NaN. RuntimeError: a norm that is not finite.

    Source: Pascanu et al., arXiv 1211.5063, §3.2; F-REG-8.
    """
    grads = _grads(parameters, "clip_grad_norm_")
    p = float(number(norm_type, "clip_grad_norm_: argument 'norm_type'"))
    max_norm = float(number(max_norm, "clip_grad_norm_: argument 'max_norm'"))
    if not p > 0:
        raise ValueError(f"clip_grad_norm_: argument 'norm_type': expected a number > 0 or inf, got {norm_type}")
    if not max_norm >= 0:
        raise ValueError(f"clip_grad_norm_: argument 'max_norm': expected a number >= 0, got {max_norm}")
    if not grads:
        return tensor(0.0)
    norm = total_norm(grads, p)
    if error_if_nonfinite and not math.isfinite(norm.item()):
        raise RuntimeError(
            f"The total norm of order {norm_type} for gradients from `parameters` is non-finite, so it cannot be "
            "clipped. To disable this error and scale the gradients by the non-finite norm anyway, set "
            "`error_if_nonfinite=False`"
        )
    _core.run_list(OPS.grad_scale_step, (norm,), [(g,) for g in grads], {"max_norm": max_norm})
    return norm.astype(np.result_type(*[g.dtype for g in grads]))


@no_grad()
def clip_grad_value_(parameters: Tensor | Iterable[Tensor], clip_value: float) -> None:
    """Clamps every element of the gradients to [−clip_value, clip_value]; NaN stays.

    Args:
        parameters: a Tensor or several; those without a gradient are skipped.
        clip_value: the bound.

    Raises:
        ValueError: clip_value < 0 or NaN.

    Source: F-REG-8.
    """
    grads = _grads(parameters, "clip_grad_value_")
    clip_value = float(number(clip_value, "clip_grad_value_: argument 'clip_value'"))
    if not clip_value >= 0:
        raise ValueError(f"clip_grad_value_: argument 'clip_value': expected a number >= 0, got {clip_value}")
    _core.run_list(OPS.grad_clamp_step, (), [(g,) for g in grads], {"clip_value": clip_value})
