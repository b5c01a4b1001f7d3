"""The steps of adaptive optimizers beside Adam's own, over lists of tensors; kernels in csrc/ops/adaptive.c.

What changes from step to step, the learning rate, the scale and the step counts, is read from 0-d tensors.
"""

import numpy as np

from ..op import Effect, ListEffect
from .optim import rows_errors, rows_samples, rows_valid

__all__ = ["adagrad_rows_step", "adagrad_step", "lamb_step", "lion_step", "moments_step", "rmsprop_step"]

_ADAGRAD = {"lr_decay": 0.0, "weight_decay": 0.0, "eps": 1e-10, "eps_inside": False, "maximize": False}

adagrad_step = ListEffect(
    "adagrad_step", "lr[]:* scale[]:* g_list[...]", "p_list[...] sum_list[...] step_list[]:*", kernel="adagrad_step",
    flops="8*n",
    params=_ADAGRAD,
    doc="""g = ±scale·g + weight_decay·p; s += g²; p −= lr/(1 + t·lr_decay) · g/(√s + eps), or g/√(s + eps) with
eps_inside; t += 1. Sources: Duchi, Hazan, Singer, JMLR 12 (2011); S1 §1.3.3 (eps inside).""",
)  # fmt: skip


def _adagrad_rows_reference(lr, scale, g, index, p, total, step, lr_decay, weight_decay, eps, eps_inside, maximize):
    live = index < len(p)
    r = index[live]
    g = (-scale if maximize else scale) * g[live] + weight_decay * p[r]
    total[r] += g * g
    root = np.sqrt(total[r] + eps) if eps_inside else np.sqrt(total[r]) + eps
    p[r] -= lr / (1 + step * lr_decay) * g / root
    return p, total, step + 1


adagrad_rows_step = Effect(
    "adagrad_rows_step", "lr[]:* scale[]:* g[K,C] index[K]:i", "p[R,C] sum[R,C] step[]:*", kernel="adagrad_rows_step",
    layout="dense", promote=False, flops="8*K*C", params=_ADAGRAD, shape=lambda shapes, **options: [],
    valid=rows_valid,
    samples=rows_samples(1, ({}, {"lr_decay": 0.5, "weight_decay": 0.1, "maximize": True},
                             {"eps": 0.25, "eps_inside": True})),
    reference=_adagrad_rows_reference, errors=rows_errors(1),
    doc="""adagrad_step for the rows of p that index names: their gradients are the rows of g, and only their sums move.
index rises and ends with numbers R, which stand for nothing (see merge_rows).""",
)  # fmt: skip

rmsprop_step = ListEffect(
    "rmsprop_step", "lr[]:* scale[]:* g_list[...]", "p_list[...] square_list[...] mean_list[...]? momentum_list[...]?",
    kernel="rmsprop_step", flops="12*n",
    params={"alpha": 0.99, "momentum": 0.0, "weight_decay": 0.0, "eps": 1e-8, "eps_inside": False, "centered": False,
            "maximize": False},
    needs={"mean_list": "centered", "momentum_list": "momentum"},
    doc="""g = ±scale·g + weight_decay·p; v = α·v + (1 − α)g²; centered: a += (1 − α)(g − a), x = v − a², else x = v;
d = g/(√x + eps), or g/√(x + eps) with eps_inside; with momentum b = momentum·b + d, d = b; p −= lr·d. Sources: Hinton,
lecture 6e; Graves, arXiv 1308.0850 (centered); S1 §1.3.4 (eps inside).""",
)  # fmt: skip

lion_step = ListEffect(
    "lion_step", "lr[]:* scale[]:* g_list[...]", "p_list[...] m_list[...]", kernel="lion_step", flops="10*n",
    params={"beta1": 0.9, "beta2": 0.99, "weight_decay": 0.0, "maximize": False},
    doc="""g = ±scale·g; p = p(1 − lr·weight_decay) − lr·sign(β₁m + (1 − β₁)g); m = β₂m + (1 − β₂)g. Source: Chen et
al., arXiv 2302.06675, algorithm 2.""",
)  # fmt: skip

moments_step = ListEffect(
    "moments_step", "lr[]:* scale[]:* g_list[...]",
    "p_list[...] m_list[...] v_list[...] product_list[]?:* step_list[]:*", kernel="moments_step", flops="30*n",
    params={"beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "eps_inside": False, "weight_decay": 0.0, "decoupled": False,
            "nesterov": False, "rectified": False, "momentum_decay": 0.004, "maximize": False},
    needs={"product_list": "nesterov"},
    doc="""t += 1; g = ±scale·g + weight_decay·p, or p *= 1 − lr·weight_decay where decoupled; m += (1 − β₁)(g − m);
v = β₂v + (1 − β₂)g²; v̂ = v/(1 − β₂ᵗ); p −= lr·(c_g·g + c_m·m)/(√v̂ + eps), or /√(v̂ + eps) with eps_inside. c_g = 0,
c_m = 1/(1 − β₁ᵗ); nesterov: with μₜ = β₁(1 − ½·0.96^(t·momentum_decay)) and Π = μ₁⋯μₜ, kept as product,
c_g = (1 − μₜ)/(1 − Π), c_m = μₜ₊₁/(1 − Π·μₜ₊₁). rectified: with ρ∞ = 2/(1 − β₂) − 1, ρ = ρ∞ − 2tβ₂ᵗ/(1 − β₂ᵗ), where
ρ > 5, c_m = √((ρ − 4)(ρ − 2)ρ∞/((ρ∞ − 4)(ρ∞ − 2)ρ))·√(1 − β₂ᵗ)/(1 − β₁ᵗ) over √v + eps, else c_m = 1/(1 − β₁ᵗ) over 1.
Sources: S1 §1.3.5 (eps inside); Dozat, ICLR workshop 2016; Liu et al., arXiv 1908.03265; the forms are PyTorch's.""",
)  # fmt: skip

lamb_step = ListEffect(
    "lamb_step", "lr[]:* scale[]:* g_list[...]", "p_list[...] m_list[...] v_list[...] step_list[]:*",
    kernel="lamb_step", flops="40*n",
    params={"beta1": 0.9, "beta2": 0.999, "eps": 1e-6, "eps_inside": False, "weight_decay": 0.0, "maximize": False},
    doc="""t += 1; g = ±scale·g; m and v as Adam's; r = m̂/(√v̂ + eps) + weight_decay·p, or m̂/√(v̂ + eps) with eps_inside;
p −= lr·‖p‖/‖r‖·r, norms over the whole tensor, their ratio 1 where one is 0. Sources: You et al., arXiv 1904.00962,
algorithm 2; S1 §1.3.7 (eps inside).""",
)  # fmt: skip
