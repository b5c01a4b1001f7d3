"""The steps of optimizers and the clipping of gradients; kernels in csrc/ops/optim.c.

Dense gradients are stepped by effects over lists of tensors, gradients by rows one table at a time. What
changes from step to step, the learning rate, the scale and the step counts, is read from 0-d tensors.
"""

import math

import numpy as np

from .. import _core
from ..op import OPS, Effect, ListEffect
from ..sparse import RowGradient
from ..tensor import Tensor

__all__ = ["adam_rows_step", "adam_step", "clip_scale", "grad_clamp_step", "grad_norm_step", "grad_scale_step",
           "gradients", "sgd_rows_step", "sgd_step", "total_norm"]  # fmt: skip

_SGD = {"momentum": 0.0, "dampening": 0.0, "weight_decay": 0.0, "nesterov": False, "maximize": False}
_ADAM = {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.0, "decoupled": False, "amsgrad": False,
         "maximize": False}  # fmt: skip

sgd_step = ListEffect(
    "sgd_step", "lr[]:* scale[]:* g_list[...]", "p_list[...] momentum_list[...]? step_list[]?:*", kernel="sgd_step",
    flops="8*n", params=_SGD,
    needs={"momentum_list": "momentum", "step_list": "momentum"},
    doc="""g = ±scale·g + weight_decay·p; b = g in the first step, then momentum·b + (1 − dampening)·g;
g = g + momentum·b with nesterov, else b; p −= lr·g. With momentum 0 neither b nor the step count is touched.
Sources: S0 Optimizers; Sutskever et al. 2013 in PyTorch's form.""",
)  # fmt: skip

adam_step = ListEffect(
    "adam_step", "lr[]:* scale[]:* g_list[...]",
    "p_list[...] m_list[...] v_list[...] vmax_list[...]? step_list[]:*",
    kernel="adam_step", flops="30*n", params=_ADAM,
    needs={"vmax_list": "amsgrad"},
    doc="""t += 1; g = ±scale·g + weight_decay·p, or p *= 1 − lr·weight_decay where decoupled;
m += (1 − β₁)(g − m); v = β₂v + (1 − β₂)g²; with amsgrad vmax = max(vmax, v) stands for v in the root;
p −= lr/(1 − β₁ᵗ) · m / (√v/√(1 − β₂ᵗ) + eps). Sources: Kingma & Ba, arXiv 1412.6980; Reddi et al.,
arXiv 1904.09237 (amsgrad); Loshchilov & Hutter, arXiv 1711.05101 (decoupled).""",
)  # fmt: skip

# ---- the same for rows -------------------------------------------------------------------------------


def rows_samples(state, cases):
    def samples(rng):
        for options in cases:
            for (rows, columns), index in (
                ((5, 3), (0, 3, 5, 5)), ((9, 70), (0, 1, 4, 8)), ((3, 2), ()), ((4, 1), (2, 4)),
                ((300, 33), (*range(1, 300, 2), 300, 300)),
            ):  # fmt: skip
                tensors = [rng.standard_normal((rows, columns)) ** 2 for _ in range(state + 1)]
                g = rng.standard_normal((len(index), columns))
                index = np.array(index, np.int64)
                yield (np.array(0.125), np.array(0.5), g, index, *tensors, np.array(3.0)), options

    return samples


def _sgd_rows_reference(lr, scale, g, index, p, buffer, step, momentum, dampening, weight_decay, nesterov, maximize):
    live = index < len(p)
    r, g = index[live], (-scale if maximize else scale) * g[live]
    g = g + weight_decay * p[r]
    if momentum:
        buffer[r] = g if step == 0 else momentum * buffer[r] + (1 - dampening) * g
        g = g + momentum * buffer[r] if nesterov else buffer[r]
        step = step + 1
    p[r] -= lr * g
    return p, buffer, step


_ROWS_ERRORS = (
    (np.array([3, 1]), r"argument 'index': expected rising row numbers, then the number of rows, got 1 at index\[1\]"),
    (np.array([0, 0]), r"argument 'index': expected rising row numbers, then the number of rows, got 0 at index\[1\]"),
    (np.array([-1, 0]), r"got -1 at index\[0\]"),
    (np.array([0, 6]), r"got 6 at index\[1\]"),
    (np.array([5, 0]), r"got 0 at index\[1\]"),
)


def rows_errors(state):
    def call(index):
        return (np.array(0.1), np.array(1.0), np.ones((2, 3)), index, *np.ones((state + 1, 5, 3)), np.array(1.0))

    return [(call(index), {}, ValueError, text) for index, text in _ROWS_ERRORS]


rows_valid = {"index": "rising row numbers, then the number of rows"}

sgd_rows_step = Effect(
    "sgd_rows_step", "lr[]:* scale[]:* g[K,C] index[K]:i", "p[R,C] buffer[R,C]? step[]?:*", kernel="sgd_rows_step",
    layout="dense", promote=False, flops="8*K*C", params=_SGD, shape=lambda shapes, **options: [], valid=rows_valid,
    samples=rows_samples(1, ({}, {"momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1, "maximize": True},
                              {"momentum": 0.5, "nesterov": True})),
    reference=_sgd_rows_reference, errors=rows_errors(1),
    doc="""sgd_step for the rows of p that index names: the rows of g are their gradients, and only their buffer moves.
index rises and ends with numbers R, which stand for nothing (see merge_rows).""",
)  # fmt: skip


def _adam_rows_reference(lr, scale, g, index, p, m, v, vmax, step, beta1, beta2, eps, weight_decay, decoupled, amsgrad,
                         maximize, scaled_eps):  # fmt: skip
    live = index < len(p)
    r, g = index[live], (-scale if maximize else scale) * g[live]
    t = step + 1
    if decoupled:
        p[r] *= 1 - lr * weight_decay
    else:
        g = g + weight_decay * p[r]
    m[r] += (1 - beta1) * (g - m[r])
    v[r] = beta2 * v[r] + (1 - beta2) * g * g
    if amsgrad:
        vmax[r] = np.maximum(vmax[r], v[r])
    root = np.sqrt(1 - beta2**t)
    p[r] -= (
        lr / (1 - beta1**t) * m[r] / (np.sqrt((vmax if amsgrad else v)[r]) / root + eps / (root if scaled_eps else 1))
    )
    return p, m, v, vmax, t


adam_rows_step = Effect(
    "adam_rows_step", "lr[]:* scale[]:* g[K,C] index[K]:i", "p[R,C] m[R,C] v[R,C] vmax[R,C]? step[]:*",
    kernel="adam_rows_step", layout="dense", promote=False, flops="30*K*C", params=_ADAM | {"scaled_eps": False},
    shape=lambda shapes, **options: [], valid=rows_valid,
    samples=rows_samples(3, ({}, {"amsgrad": True, "weight_decay": 0.1, "maximize": True},
                              {"beta1": 0.3, "beta2": 0.6, "decoupled": True, "weight_decay": 0.1},
                              {"scaled_eps": True, "eps": 0.1})),
    reference=_adam_rows_reference, errors=rows_errors(3),
    doc="""adam_step for the rows of p that index names: their gradients are the rows of g, and only their moments move.
index rises and ends with numbers R, which stand for nothing (see merge_rows). With scaled_eps, eps is divided by
√(1 − β₂ᵗ), as in PyTorch's SparseAdam.""",
)  # fmt: skip

# ---- clipping ------------------------------------------------------------------------------------------

grad_norm_step = ListEffect(
    "grad_norm_step", "x_list[...]", "total[]:*", kernel="grad_norm_step", flops="2*n",
    params={"p": 2.0, "max_norm": -1.0}, whole=True,
    doc="total = Σ|x|ᵖ over every element of every x, or max|x| for p = ∞; in double, by blocks and a fixed tree. "
        "With max_norm ≥ 0 the scale of clipping instead: min(1, max_norm/(total^(1/p) + 1e-6)).",
)  # fmt: skip

grad_scale_step = ListEffect(
    "grad_scale_step", "norm[]:*", "x_list[...]", kernel="grad_scale_step", params={"max_norm": float},
    doc="x *= max_norm/(norm + 1e-6) where that is not ≥ 1. Source: Pascanu et al., arXiv 1211.5063.",
)  # fmt: skip

grad_clamp_step = ListEffect(
    "grad_clamp_step", "", "x_list[...]", kernel="grad_clamp_step", params={"clip_value": float},
    doc="x = min(max(x, −clip_value), clip_value); NaN stays.",
)  # fmt: skip


def gradients(parameters) -> list[Tensor]:
    """What of the parameters' gradients lies in memory, to be read or changed in place: of those by rows the rows."""
    found = (p.grad for p in parameters)
    return [g._rows if isinstance(g, RowGradient) else g for g in found if g is not None]


def total_norm(grads: list[Tensor], p: float) -> Tensor:
    """The p-norm of all elements of all gradients, a 0-d float64 tensor."""
    total = None
    for dtype in sorted({g.dtype for g in grads}, key=str):
        part = _core.empty((), np.float64)
        _core.run_list(OPS.grad_norm_step, (part,), [(g,) for g in grads if g.dtype == dtype],
                       {"p": p, "max_norm": -1.0})  # fmt: skip
        if total is not None:
            part = OPS.maximum(total, part) if math.isinf(p) else OPS.add(total, part)
        total = part
    if p == 2:
        return OPS.sqrt(total)
    return total if p == 1 or math.isinf(p) else OPS.pow(total, 1 / p)


def clip_scale(grads: list[Tensor], max_norm: float) -> Tensor:
    """min(1, max_norm/(norm + 1e-6)): what clipping gradients to a 2-norm of max_norm multiplies them by."""
    if len({g.dtype for g in grads}) > 1:
        return OPS.minimum(OPS.div(max_norm, OPS.add(total_norm(grads, 2.0), 1e-6)), 1.0)
    scale = _core.empty((), np.float64)
    _core.run_list(OPS.grad_norm_step, (scale,), [(g,) for g in grads], {"p": 2.0, "max_norm": max_norm})
    return scale
