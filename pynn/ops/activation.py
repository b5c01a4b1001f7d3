"""Activations: y = f(x) element by element, with fused derivatives; kernels in csrc/ops/activation.c.

sigmoid and tanh are elementary functions and in elementwise.py. A function takes what PyTorch's of that
name takes but `inplace`: values never change.
"""

import math

import numpy as np

from ..op import OPS, Op
from ..tensor import number, operand, takes_tensor

__all__ = [
    "elu", "gelu", "hardsigmoid", "hardswish", "hardtanh", "leaky_relu", "logsigmoid", "mish", "prelu", "relu", "relu6",
    "selu", "silu", "softplus",
]  # fmt: skip


def _activation(name, formula, reference, saves="x", kernel=None, **entry):
    kernel = kernel or name
    return Op(name, "x[...]", "y[...]", kernel=kernel + "_fwd", bwd=kernel + "_bwd", saves=saves, formula=formula,
              reference=reference, like=True, **entry)  # fmt: skip


def _erf(x):
    return np.vectorize(math.erf, otypes=[np.float64])(x)


def _normal_cdf(x):
    return 0.5 * (1 + _erf(x / math.sqrt(2)))


def _expit(x):
    return np.exp(-np.logaddexp(0, -x))


relu = _activation(
    "relu",
    lambda x: OPS.where(OPS.le(x, 0.0), 0.0, x),
    lambda x: np.maximum(x, 0),
    saves="y",
    bwd_formula=lambda dy, y: OPS.where(OPS.le(y, 0.0), 0.0, dy),
    kinks=(0,),
    doc="y = max(0, x); the derivative at 0 is 0, NaN stays NaN. Source: S0; S1 §1.1; S3 §2.2.",
)
_leaky_relu = _activation(
    "leaky_relu",
    lambda x, negative_slope: OPS.where(OPS.gt(x, 0.0), x, negative_slope * x),
    lambda x, negative_slope: np.where(x > 0, x, negative_slope * x),
    params={"negative_slope": 0.01},
    samples=lambda rng: [((rng.uniform(0.1, 2, (3, 7)) * rng.choice([-1, 1], (3, 7)),), {"negative_slope": -0.5})],
    kinks=(0,),
    doc="y = x where x > 0, else negative_slope·x. Source: S0; S1 §1.1.",
)
_prelu = Op(
    "prelu", "x[...] weight[...]", "y[...]", kernel="prelu_fwd", bwd="prelu_bwd", saves="x weight", like=True,
    formula=lambda x, weight: OPS.where(OPS.gt(x, 0.0), x, weight * OPS.where(OPS.gt(x, 0.0), 0.0, x)),
    reference=lambda x, weight: np.where(x > 0, x, weight * x),
    kinks=(0,),
    doc="y = x where x > 0, else weight·x, the weight learned (He et al. 2015, arXiv 1502.01852).",
)  # fmt: skip


def _hardtanh_entry(name, low, high, doc):
    def inside(dy, y, min_val, max_val):
        return OPS.where(OPS.logical_or(OPS.le(y, min_val), OPS.ge(y, max_val)), 0.0, dy)

    return _activation(
        name,
        lambda x, min_val, max_val: OPS.where(OPS.lt(x, min_val), min_val, OPS.where(OPS.gt(x, max_val), max_val, x)),
        lambda x, min_val, max_val: np.clip(x, min_val, max_val),
        kernel="hardtanh",
        params={"min_val": low, "max_val": high},
        saves="y",
        bwd_formula=inside,
        kinks=(low, high),
        doc=doc,
    )


_hardtanh = _hardtanh_entry(
    "hardtanh", -1.0, 1.0, "y = min(max(x, min_val), max_val); the derivative at the bounds is 0."
)
_relu6 = _hardtanh_entry("relu6", 0.0, 6.0, "y = min(max(x, 0), 6) (MobileNets, arXiv 1704.04861).")

_gelu = _activation(
    "gelu",
    lambda x: 0.5 * x * (1.0 + OPS.erf(x * math.sqrt(0.5))),
    lambda x: x * _normal_cdf(x),
    doc="y = x·Φ(x), Φ(x) = (1 + erf(x/√2))/2 (Hendrycks and Gimpel, arXiv 1606.08415). Source: S3 §2.2; S4.",
)


def _gelu_tanh_formula(x):
    # (1 + tanh u)/2 = σ(2u); beyond 24 it is 0 or 1, and x cut off there keeps u' finite
    cut = OPS.maximum(OPS.minimum(x, 24.0), -24.0)
    return x * OPS.sigmoid(math.sqrt(8 / math.pi) * (cut + 0.044715 * cut * cut * cut))


_gelu_tanh = _activation(
    "gelu_tanh",
    _gelu_tanh_formula,
    lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    doc="y = x·(1 + tanh(√(2/π)·(x + 0.044715·x³)))/2 (arXiv 1606.08415). Source: S3 §2.2; S4.",
)
_silu = _activation(
    "silu",
    lambda x: x * OPS.sigmoid(x),
    lambda x: x * _expit(x),
    doc="y = x·σ(x), also called swish (Elfwing et al., arXiv 1702.03118). Source: S4.",
)


def _elu_entry(name, alpha, scale, doc):
    return _activation(
        name,
        # the where within keeps e^x finite where it is not wanted
        lambda x, alpha, scale: scale * OPS.where(
            OPS.gt(x, 0.0), x, alpha * OPS.expm1(OPS.where(OPS.gt(x, 0.0), 0.0, x))),
        lambda x, alpha, scale: scale * np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0))),
        kernel="elu",
        params={"alpha": alpha, "scale": scale},
        kinks=(0,),
        doc=doc,
    )  # fmt: skip


_elu = _elu_entry(
    "elu", 1.0, 1.0, "y = scale·x where x > 0, else scale·alpha·(eˣ − 1) (Clevert et al., arXiv 1511.07289)."
)
_selu = _elu_entry(
    "selu", 1.6732632423543772848170429916717, 1.0507009873554804934193349852946,
    "elu with alpha and scale such that layers keep mean 0 and variance 1 (Klambauer et al., arXiv 1706.02515).",
)  # fmt: skip


def _softplus_formula(x, beta, threshold):
    u = beta * x
    return OPS.where(OPS.gt(u, threshold), x, (OPS.maximum(u, 0.0) + OPS.log1p(OPS.exp(-OPS.abs(u)))) / beta)


_softplus = _activation(
    "softplus",
    _softplus_formula,
    lambda x, beta, threshold: np.where(beta * x > threshold, x, np.logaddexp(0, beta * x) / beta),
    params={"beta": 1.0, "threshold": 20.0},
    bwd_formula=lambda dy, x, beta, threshold: OPS.where(
        OPS.gt(beta * x, threshold), dy, dy * OPS.sigmoid(beta * x)),
    samples=lambda rng: [((rng.standard_normal((3, 7)),), {"beta": 2.5, "threshold": 3.0})],
    doc="y = ln(1 + e^(beta·x))/beta; x where beta·x > threshold, where the two agree to rounding.",
)  # fmt: skip
logsigmoid = _activation(
    "logsigmoid",
    lambda x: -OPS.softplus(-x, threshold=math.inf),
    lambda x: -np.logaddexp(0, -x),
    bwd_formula=lambda dy, x: dy * OPS.sigmoid(-x),
    doc="y = ln σ(x) = −ln(1 + e⁻ˣ)",
)
hardsigmoid = _activation(
    "hardsigmoid",
    lambda x: OPS.hardtanh(x + 3.0, min_val=0.0, max_val=6.0) / 6.0,
    lambda x: np.clip(x + 3, 0, 6) / 6,
    bwd_formula=lambda dy, x: OPS.where(OPS.lt(OPS.abs(x), 3.0), dy / 6.0, 0.0),
    kinks=(-3, 3),
    doc="y = min(max(x + 3, 0), 6)/6 (Howard et al., arXiv 1905.02244).",
)
hardswish = _activation(
    "hardswish",
    lambda x: x * OPS.hardsigmoid(x),
    lambda x: x * np.clip(x + 3, 0, 6) / 6,
    bwd_formula=lambda dy, x: dy * OPS.where(
        OPS.le(x, -3.0), 0.0, OPS.where(OPS.ge(x, 3.0), 1.0, x / 3.0 + 0.5)),
    kinks=(-3, 3),
    doc="y = x·min(max(x + 3, 0), 6)/6 (Howard et al., arXiv 1905.02244); at ±3 the derivative from outside.",
)  # fmt: skip
mish = _activation(
    "mish",
    lambda x: x * OPS.tanh(OPS.softplus(x)),
    lambda x: x * np.tanh(np.logaddexp(0, x)),
    doc="y = x·tanh(ln(1 + eˣ)) (Misra, arXiv 1908.08681).",
)


# ---- functions -----------------------------------------------------------------------------------


def leaky_relu(input, negative_slope=0.01):
    """x where x > 0, else negative_slope·x (S0; S1 §1.1). Any shape."""
    return _leaky_relu(input, negative_slope=negative_slope)


@takes_tensor
def prelu(input, weight):
    """x where x > 0, else weight·x (arXiv 1502.01852).

    Shapes: input [N, C, ...] or any; weight [1], or [C] for the channels of dimension 1.

    Raises:
        ValueError: a weight that fits neither.
    """
    weight = operand(weight, "prelu: argument 'weight'")
    if weight.ndim > 1:
        raise ValueError(f"prelu: argument 'weight': expected 1 dimension, got shape {weight.shape}")
    shape = input.shape
    if weight.size != 1:
        channels = shape[1] if len(shape) > 1 else 1
        if weight.size != channels:
            raise ValueError(f"prelu: argument 'weight': expected 1 element or {channels}, the size of dimension 1 of "
                             f"input {shape}, got {weight.size}")  # fmt: skip
        weight = OPS.reshape(weight, shape=(channels,) + (1,) * (len(shape) - 2))
    elif weight.ndim > len(shape):
        weight = OPS.reshape(weight, shape=())
    return _prelu(input, weight)


def hardtanh(input, min_val=-1.0, max_val=1.0):
    """x cut off at min_val and max_val; the derivative at the bounds is 0. Any shape.

    Raises:
        ValueError: min_val > max_val.
    """
    if number(min_val, "hardtanh: argument 'min_val'") > number(max_val, "hardtanh: argument 'max_val'"):
        raise ValueError(f"hardtanh: argument 'max_val': expected at least min_val={min_val}, got {max_val}")
    return _hardtanh(input, min_val=min_val, max_val=max_val)


def relu6(input):
    """min(max(x, 0), 6) (arXiv 1704.04861). Any shape."""
    return _relu6(input)


def gelu(input, approximate="none"):
    """x·Φ(x), exactly ("none") or in its form with tanh ("tanh") (arXiv 1606.08415; S3 §2.2). Any shape.

    Raises:
        ValueError: another `approximate`.
    """
    if approximate == "none":
        return _gelu(input)
    if approximate == "tanh":
        return _gelu_tanh(input)
    raise ValueError(f"gelu: argument 'approximate': expected 'none' or 'tanh', got {approximate!r}")


def silu(input):
    """x·σ(x) (arXiv 1702.03118; S4). Any shape."""
    return _silu(input)


def elu(input, alpha=1.0):
    """x where x > 0, else alpha·(eˣ − 1) (arXiv 1511.07289). Any shape."""
    return _elu(input, alpha=alpha)


def selu(input):
    """elu with the two constants that keep mean 0 and variance 1 (arXiv 1706.02515). Any shape."""
    return _selu(input)


def softplus(input, beta=1.0, threshold=20.0):
    """ln(1 + e^(beta·x))/beta; x itself where beta·x > threshold. Any shape."""
    return _softplus(input, beta=beta, threshold=threshold)
