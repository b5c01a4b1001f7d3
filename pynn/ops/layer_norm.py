"""Layer norm and RMS norm over trailing dimensions, fused with their derivatives; kernels in csrc/ops/layer_norm.c."""

import math

import numpy as np

from ..op import OPS, Op
from ..tensor import Tensor, takes_tensor

__all__ = ["layer_norm", "rms_norm"]


def _row_mean(x):
    return OPS.sum_to(x, shape=(*x.shape[:-1], 1)) / float(x.shape[-1] or math.nan)


def _normed(x, eps):
    """((x − mean)/std, mean, 1/std) of each row."""
    mean = _row_mean(x)
    d = x - mean
    d = d - _row_mean(d)  # far from 0 the mean is rounded
    s = 1.0 / OPS.sqrt(_row_mean(d * d) + eps)
    return d * s, mean, s


def _scaled(h, weight, bias=None):
    y = h if weight is None else h * weight
    return y if bias is None else y + bias


def _dropped(x):
    return OPS.reshape(x, shape=x.shape[:-1])


def _layer_formula(x, weight, bias, eps):
    h, mean, s = _normed(x, eps)
    first = Tensor(np.array([1, 0])).astype(x.dtype)
    return _scaled(h, weight, bias), mean.detach() * first, _dropped(s.detach())


def _layer_back(dy, x, weight, mean, invstd, eps):
    h, _, s = _normed(x, eps)
    g = _scaled(dy, weight)
    dx = s * (g - _row_mean(g) - h * _row_mean(g * h))
    return dx, OPS.sum_to(dy * h, shape=x.shape[-1:]), OPS.sum_to(dy, shape=x.shape[-1:])


def _rms_formula(x, weight, eps):
    s = 1.0 / OPS.sqrt(_row_mean(x * x) + eps)
    return _scaled(x * s, weight), _dropped(s.detach())


def _rms_back(dy, x, weight, invstd, eps):
    s = 1.0 / OPS.sqrt(_row_mean(x * x) + eps)
    h, g = x * s, _scaled(dy, weight)
    return s * (g - h * _row_mean(g * h)), OPS.sum_to(dy * h, shape=x.shape[-1:])


def _layer_reference(x, weight=None, bias=None, eps=1e-5):
    n = x.shape[-1] or np.nan
    mean = x.sum(-1, keepdims=True) / n
    d = x - mean
    d = d - d.sum(-1, keepdims=True) / n  # far from 0 the mean is rounded
    s = 1 / np.sqrt((d**2).sum(-1, keepdims=True) / n + eps)
    y = d * s * (1 if weight is None else weight) + (0 if bias is None else bias)
    return y, mean * np.array([1, 0]), s[..., 0]


def _rms_reference(x, weight=None, eps=1e-5):
    s = 1 / np.sqrt((x * x).sum(-1, keepdims=True) / (x.shape[-1] or np.nan) + eps)
    return x * s * (1 if weight is None else weight), s[..., 0]


def _samples(n_params):
    """Odd sizes beside whole vectors and groups of rows, wide rows, equal rows, rows far from 0, nothing."""

    def samples(rng):
        shapes = ((7, 5), (1, 1), (13,), (2, 3, 17), (0, 4), (3, 0), (37, 64), (70, 33), (5, 2500), (600, 3))
        for k, shape in enumerate(shapes):
            ps = [rng.uniform(-2, 2, shape[-1:]) if k % (2 + j) == 0 else None for j in range(n_params)]
            yield (rng.standard_normal(shape), *ps), {}
        w = [rng.uniform(-2, 2, 9)] * n_params
        yield (rng.standard_normal((4, 9)), *w), {"eps": 0.3}
        yield (np.full((5, 9), 0.75), *w), {}
        yield (rng.standard_normal((5, 9)) + 1e4, *w), {}

    return samples


def _errors(name, nones):
    def bad(exception, pattern, *args):
        return args, {}, exception, f"^{name}: argument {pattern}"

    x = np.zeros((2, 3))
    return [
        bad(ValueError, r"'weight': expected shape \[C\] with C=3, got \(4,\)$", x, np.ones(4), *nones),
        bad(TypeError, "'x': expected dtype float32 as 'weight' has, got float64", x, np.ones(3, np.float32), *nones),
        bad(TypeError, "'x': expected a floating dtype, got int64", np.zeros((2, 3), int), None, *nones),
    ]


_layer_norm = Op(
    "layer_norm", "x[...,C] weight[C]? bias[C]?", "y[...,C] mean[...,2]:C invstd[...]:C",
    kernel="layer_norm_fwd", bwd="layer_norm_bwd", saves="x weight mean invstd", layout="dense", promote=False,
    params={"eps": 1e-5}, formula=_layer_formula, bwd_formula=_layer_back, reference=_layer_reference, flops="8*n",
    samples=_samples(2), errors=_errors("layer_norm", [None]),
    doc="y = (x − μ)/√(σ² + eps)·weight + bias, μ and σ² the mean and the variance (by n) along the last dimension; "
        "dx = (g − mean(g) − h·mean(g·h))/√(σ² + eps), g = dy·weight, h = (x − μ)/√(σ² + eps). mean = (μ, what is lost "
        "in rounding it) and invstd are what backward needs. Source: arXiv 1607.06450; S1 §5.3.",
)  # fmt: skip
_rms_norm = Op(
    "rms_norm", "x[...,C] weight[C]?", "y[...,C] invstd[...]:C",
    kernel="rms_norm_fwd", bwd="rms_norm_bwd", saves="x weight invstd", layout="dense", promote=False,
    params={"eps": 1e-5}, formula=_rms_formula, bwd_formula=_rms_back, reference=_rms_reference, flops="5*n",
    samples=_samples(1), errors=_errors("rms_norm", []),
    doc="y = x/√(mean(x²) + eps)·weight along the last dimension; dx = (g − h·mean(g·h))/√(mean(x²) + eps), "
        "g = dy·weight, h = x/√(mean(x²) + eps). Source: Zhang and Sennrich, arXiv 1910.07467.",
)  # fmt: skip


# ---- functions -----------------------------------------------------------------------------------


def sizes_of(normalized_shape, what):
    """normalized_shape as a tuple; raises a ValueError that begins with what."""
    shape = normalized_shape if isinstance(normalized_shape, (tuple, list)) else (normalized_shape,)
    if not (shape and all(isinstance(n, (int, np.integer)) and n >= 0 for n in shape)):
        raise ValueError(f"{what}: expected sizes of at least one dimension, got {normalized_shape!r}")
    return tuple(map(int, shape))


def _rows(name, input, normalized_shape, params):
    """input and params with the normalized dimensions as one."""
    shape = sizes_of(normalized_shape, f"{name}: argument 'normalized_shape'")
    if input.shape[-len(shape) :] != shape:
        raise ValueError(
            f"{name}: argument 'input': expected a shape that ends with normalized_shape {shape}, got {input.shape}"
        )
    for what, p in params.items():
        if p is not None and p.shape != shape:
            raise ValueError(f"{name}: argument '{what}': expected shape {shape}, got {p.shape}")
    if len(shape) == 1:
        return input, *params.values()
    n = math.prod(shape)
    rows = OPS.reshape(input, shape=(*input.shape[: -len(shape)], n))
    return rows, *(None if p is None else OPS.reshape(p, shape=(n,)) for p in params.values())


def _shaped(y, input):
    return y if y.shape == input.shape else OPS.reshape(y, shape=input.shape)


@takes_tensor
def layer_norm(input, normalized_shape, weight=None, bias=None, eps=1e-5):
    """(input − μ)/√(σ² + eps)·weight + bias, μ and σ² over the trailing dimensions normalized_shape.

    Shapes: input (…, *normalized_shape); weight and bias normalized_shape, or None; result as input. The
    variance divides by the number of elements.

    Raises:
        ValueError: shapes that do not fit. TypeError: another dtype than weight's, integers.

    Source: Ba, Kiros and Hinton, arXiv 1607.06450; S1 §5.3.
    """
    x, w, b = _rows("layer_norm", input, normalized_shape, {"weight": weight, "bias": bias})
    return _shaped(_layer_norm(x, w, b, eps=float(eps))[0], input)


@takes_tensor
def rms_norm(input, normalized_shape, weight=None, eps=None):
    """input/√(mean(input²) + eps)·weight over the trailing dimensions normalized_shape.

    eps: None is the machine epsilon of input's dtype. Shapes and errors as layer_norm's.

    Source: Zhang and Sennrich, arXiv 1910.07467.
    """
    x, w = _rows("rms_norm", input, normalized_shape, {"weight": weight})
    if eps is None:
        eps = np.finfo(input.dtype if input.dtype.kind == "f" else np.float32).eps
    return _shaped(_rms_norm(x, w, eps=float(eps))[0], input)
