"""The steps of optimizers and the clipping of gradients: effects over lists of tensors; kernels in csrc/ops/optim.c.

What changes from step to step, the learning rate and the step counts, is read from 0-d tensors.
"""

from ..op import ListEffect

__all__ = ["adam_step", "grad_clamp_step", "grad_norm_step", "grad_scale_step", "sgd_step"]

sgd_step = ListEffect(
    "sgd_step", "lr[]:* g_list[...]", "p_list[...] momentum_list[...]? step_list[]?:*", kernel="sgd_step", flops="8*n",
    params={"momentum": 0.0, "dampening": 0.0, "weight_decay": 0.0, "nesterov": False, "maximize": False},
    doc="""g = ±g + weight_decay·p; b = g in the first step, then momentum·b + (1 − dampening)·g;
g = g + momentum·b with nesterov, else b; p −= lr·g. With momentum 0 neither b nor the step count is touched.
Sources: S0 Optimizers; Sutskever et al. 2013 in PyTorch's form.""",
)  # fmt: skip

adam_step = ListEffect(
    "adam_step", "lr[]:* g_list[...]",
    "p_list[...] m_list[...] v_list[...] vmax_list[...]? step_list[]:*",
    kernel="adam_step", flops="30*n",
    params={"beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.0, "decoupled": False, "amsgrad": False,
            "maximize": False},
    doc="""t += 1; g = ±g + weight_decay·p, or p *= 1 − lr·weight_decay where decoupled;
m += (1 − β₁)(g − m); v = β₂v + (1 − β₂)g²; with amsgrad vmax = max(vmax, v) stands for v in the root;
p −= lr/(1 − β₁ᵗ) · m / (√v/√(1 − β₂ᵗ) + eps). Sources: Kingma & Ba, arXiv 1412.6980; Reddi et al.,
arXiv 1904.09237 (amsgrad); Loshchilov & Hutter, arXiv 1711.05101 (decoupled).""",
)  # fmt: skip

grad_norm_step = ListEffect(
    "grad_norm_step", "x_list[...]", "total[]:*", kernel="grad_norm_step", flops="2*n", params={"p": 2.0}, whole=True,
    doc="total = Σ|x|ᵖ over every element of every x, or max|x| for p = ∞; in double, by blocks and a fixed tree.",
)  # fmt: skip

grad_scale_step = ListEffect(
    "grad_scale_step", "norm[]:*", "x_list[...]", kernel="grad_scale_step", params={"max_norm": float},
    doc="x *= max_norm/(norm + 1e-6) where that is not ≥ 1. Source: Pascanu et al., arXiv 1211.5063.",
)  # fmt: skip

grad_clamp_step = ListEffect(
    "grad_clamp_step", "", "x_list[...]", kernel="grad_clamp_step", params={"clip_value": float},
    doc="x = min(max(x, −clip_value), clip_value); NaN stays.",
)  # fmt: skip
