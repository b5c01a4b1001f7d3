"""Batch, group and instance norm of channels, fused with their derivatives; kernels in csrc/ops/batch_norm.c.

The ops are pure: they give the batch's mean and variance beside y. Running statistics are written by the
effect bn_update alone.
"""

import math

import numpy as np

from ..op import OPS, Effect, Op
from ..recompute import recomputing
from ..tensor import Tensor

__all__ = ["batch_norm", "group_norm", "instance_norm"]


# ---- formulas ------------------------------------------------------------------------------------


def _mean_over(x, shape):
    """The mean of x over the dimensions that are 1 in shape; NaN of nothing."""
    n = x.size // (math.prod(shape) or 1)
    return OPS.sum_to(x, shape=shape) / float(n or math.nan)


def _by_channel(p, ndim=4):
    return p.reshape((-1,) + (1,) * (ndim - 2))


def _normed(x, stats, eps):
    """((x − mean)/std, mean, variance, 1/std), the statistics of shape stats."""
    mean = _mean_over(x, stats)
    d = x - mean
    var = _mean_over(d * d, stats)
    s = 1.0 / OPS.sqrt(var + eps)
    return d * s, mean, var, s


def _scaled(h, weight, bias=None):
    y = h if weight is None else h * _by_channel(weight)
    return y if bias is None else y + _by_channel(bias)


def _two_parts(mean, shape):
    """(mean, 0): float64 loses nothing in rounding it."""
    first = Tensor(np.array([1, 0])).astype(mean.dtype)
    return OPS.expand(mean.detach().reshape(shape), shape=(*shape[:-2], 2, shape[-1])) * first.reshape(2, 1)


def _batch_formula(x, weight, bias, eps):
    c = x.shape[1]
    h, mean, var, _ = _normed(x, (1, c, 1, 1), eps)
    return _scaled(h, weight, bias), _two_parts(mean, (1, c)), var.detach().reshape(c)


def _back(dy, x, weight, eps, stats, shape):
    """(dx, dweight, dbias): x and dy of `shape` as the statistics see them."""
    to_groups = (lambda a: a.reshape(shape)) if shape != x.shape else lambda a: a
    h, _, _, s = _normed(to_groups(x), stats, eps)
    g = to_groups(_scaled(dy, weight))
    dx = s * (g - _mean_over(g, stats) - h * _mean_over(g * h, stats))
    h, c = h.reshape(x.shape), x.shape[1]
    of_channels = (1, c, 1, 1)
    return (dx.reshape(x.shape), OPS.sum_to(dy * h, shape=of_channels).reshape(c),
            OPS.sum_to(dy, shape=of_channels).reshape(c))  # fmt: skip


def _batch_back(dy, x, weight, mean, var, eps):
    return _back(dy, x, weight, eps, (1, x.shape[1], 1, 1), x.shape)


def _passed(dy, y):
    return OPS.where(OPS.le(y, 0.0), 0.0, dy)


def _relu_formula(x, weight, bias, residual, eps):
    y, mean, var = _batch_formula(x, weight, bias, eps)
    return OPS.relu(y if residual is None else y + residual), mean, var


def _relu_back(dy, x, weight, y, mean, var, eps):
    g = _passed(dy, y)
    return *_batch_back(g, x, weight, mean, var, eps), g


def _eval_formula(x, weight, bias, running_mean, running_var, residual, eps, relu):
    s = 1.0 / OPS.sqrt(running_var + eps)
    y = _scaled((x - _by_channel(running_mean)) * _by_channel(s), weight, bias)
    y = y if residual is None else y + residual
    return OPS.relu(y) if relu else y


def _groups(x, num_groups):
    n, c, h, w = x.shape
    return (n, num_groups, c // num_groups, h, w), (n, num_groups, 1, 1, 1)


def _group_formula(x, weight, bias, num_groups, eps):
    shape, stats = _groups(x, num_groups)
    h, mean, var, _ = _normed(x.reshape(shape), stats, eps)
    return (_scaled(h.reshape(x.shape), weight, bias), _two_parts(mean, (x.shape[0], 1, num_groups)),
            var.detach().reshape(x.shape[0], num_groups))  # fmt: skip


def _group_back(dy, x, weight, mean, var, num_groups, eps):
    shape, stats = _groups(x, num_groups)
    return _back(dy, x, weight, eps, stats, shape)


# ---- references ----------------------------------------------------------------------------------


def _affine(h, weight, bias):
    w = 1 if weight is None else weight[:, None, None]
    return h * w + (0 if bias is None else bias[:, None, None])


def _statistics(x, axes):
    n = math.prod(x.shape[a] for a in axes) or np.nan
    mean = x.sum(axes, keepdims=True) / n
    mean = mean + (x - mean).sum(axes, keepdims=True) / n  # what rounding of a large mean took
    return mean, ((x - mean) ** 2).sum(axes, keepdims=True) / n


def _batch_reference(x, weight=None, bias=None, eps=1e-5):
    mean, var = _statistics(x, (0, 2, 3))
    y = _affine((x - mean) / np.sqrt(var + eps), weight, bias)
    return y, np.stack([mean.ravel(), 0 * mean.ravel()]), var.ravel()


def _relu_reference(x, weight=None, bias=None, residual=None, eps=1e-5):
    y, mean, var = _batch_reference(x, weight, bias, eps)
    return np.maximum(y + (0 if residual is None else residual), 0), mean, var


def _eval_reference(x, weight, bias, running_mean, running_var, residual=None, eps=1e-5, relu=False):
    h = (x - running_mean[:, None, None]) / np.sqrt(running_var + eps)[:, None, None]
    y = _affine(h, weight, bias) + (0 if residual is None else residual)
    return np.maximum(y, 0) if relu else y


def _group_reference(x, weight, bias, num_groups, eps=1e-5):
    shape, _ = _groups(x, num_groups)
    parts = x.reshape(shape)
    mean, var = _statistics(parts, (2, 3, 4))
    y = _affine(((parts - mean) / np.sqrt(var + eps)).reshape(x.shape), weight, bias)
    mean = mean.reshape(shape[:2])
    return y, np.stack([mean, 0 * mean], 1), var.reshape(shape[:2])


def _update_reference(mean, var, running_mean, running_var, tracked, momentum, count):
    if tracked is not None:
        tracked = tracked + 1
    m = momentum if momentum >= 0 else 1 / tracked
    return ((1 - m) * running_mean + m * (mean[0] + mean[1]), (1 - m) * running_var + m * var * count / (count - 1),
            tracked)  # fmt: skip


# ---- entries -------------------------------------------------------------------------------------

# lines of one row and of many, part of one; blocks of lines; strips of channels; channels far from 0, one value
_SHAPES = ((3, 5, 4, 2), (1, 1, 1, 1), (2, 3, 1, 1), (33, 70, 9, 1), (7, 3, 31, 9), (2, 130, 3, 3), (5, 16, 20, 9),
           (3, 300, 2, 1), (5, 64, 1, 1))  # fmt: skip


def _samples(rng):
    for k, (n, c, h, w) in enumerate(_SHAPES):
        ps = [rng.uniform(-2, 2, c) if k % (2 + j) == 0 else None for j in range(2)]
        yield (rng.standard_normal((n, c, h, w)), *ps), {"eps": 0.3} if k == 2 else {}
    w = rng.uniform(-2, 2, 9)
    yield (np.full((5, 9, 2, 3), 0.75), w), {}
    yield (rng.standard_normal((50, 9, 2, 3)) + 1e4, w), {}


def _relu_samples(rng):
    """_samples with residuals that lead away from 0; without them where there are too many elements for gradcheck."""
    for args, params in (*_samples(rng), ((rng.standard_normal((0, 3, 2, 2)), np.ones(3)), {})):
        x, w, b = (*args, None)[:3]
        y, r = _batch_reference(x, w, b, **params)[0], rng.standard_normal(x.shape)
        r += np.where(np.abs(y + r) < 0.2, 0.4 * np.sign(y + r), 0)
        yield (x, w, b, None if x.size > 3000 or np.abs(x).max(initial=0) > 1e3 else r), params


def _relu_shapes(shapes, eps):
    return [shapes[0], (2, shapes[0][1]), shapes[0][1:2]]


def _group_samples(rng):
    for k, (n, c, h, w) in enumerate(_SHAPES):
        ps = [rng.uniform(-2, 2, c) if k % (2 + j) == 0 else None for j in range(2)]
        for groups in dict.fromkeys((1, c, next(g for g in (5, 2, 3, 1) if c % g == 0))):
            yield (rng.standard_normal((n, c, h, w)), *ps), {"num_groups": groups}
    yield (rng.standard_normal((50, 9, 2, 3)) + 1e4, rng.uniform(-2, 2, 9)), {"num_groups": 3, "eps": 0.3}
    for shape in ((0, 6, 2, 2), (2, 6, 0, 2)):
        yield (rng.standard_normal(shape), rng.uniform(-2, 2, 6), rng.uniform(-2, 2, 6)), {"num_groups": 2}


def _eval_samples(rng):
    for k, (n, c, h, w) in enumerate(_SHAPES):
        ps = [rng.uniform(-2, 2, c) if k % (2 + j) == 0 else None for j in range(2)]
        x = rng.standard_normal((n, c, h, w))
        residual = rng.standard_normal(x.shape) if k % 3 else None
        yield (x, *ps, rng.standard_normal(c), rng.uniform(0, 2, c), residual), {"relu": k % 2 == 1}


def _group_shapes(shapes, num_groups, eps):
    n, c = shapes[0][:2]
    if num_groups < 1 or c % num_groups:
        raise ValueError(f"group_norm: argument 'num_groups': expected a divisor of the {c} channels of x {shapes[0]}, "
                         f"got {num_groups}")  # fmt: skip
    return [shapes[0], (n, 2, num_groups), (n, num_groups)]


def _errors(name, params, *more):
    x, more = np.zeros((2, 3, 1, 1)), (None, *more) if more else ()
    return [
        ((x, np.ones(4), *more), params, ValueError,
         rf"^{name}: argument 'weight': expected shape \[C\] with C=3, got \(4,\)$"),
        ((x, np.ones(3, np.float32), *more), params, TypeError,
         rf"^{name}: argument '\w+': expected dtype float\d+ as '\w+' has, got float\d+"),
    ]  # fmt: skip


_X = "x[N,C,H,W] weight[C]? bias[C]?"
_STATISTICS = ("mean[0] + mean[1] is μ, mean[1] what is lost in rounding it; var is σ² (by n): what backward and "
               "running statistics need. ")  # fmt: skip
_SOURCE = "Source: Ioffe and Szegedy, arXiv 1502.03167; S1 §5.3."

_batch_norm = Op(
    "batch_norm", _X, "y[N,C,H,W] mean[2,C]:C var[C]:C",
    kernel="batch_norm_fwd", bwd="batch_norm_bwd", saves="x weight mean var", layout="nhwc", promote=False,
    params={"eps": 1e-5}, formula=_batch_formula, bwd_formula=_batch_back, reference=_batch_reference, flops="10*n",
    samples=_samples, errors=_errors("batch_norm", {}),
    doc="y = (x − μ)/√(σ² + eps)·weight + bias, μ and σ² of each channel over the batch; dx = (g − mean(g) − "
        f"h·mean(g·h))/√(σ² + eps), g = dy·weight, h = (x − μ)/√(σ² + eps). {_STATISTICS}{_SOURCE}",
)  # fmt: skip

_batch_norm_relu = Op(
    "batch_norm_relu", f"{_X} residual[N,C,H,W]?", "y[N,C,H,W] mean[2,C]:C var[C]:C",
    kernel="batch_norm_relu_fwd", bwd="batch_norm_relu_bwd", saves="x weight y mean var", layout="nhwc",
    promote=False, params={"eps": 1e-5}, formula=_relu_formula, bwd_formula=_relu_back, reference=_relu_reference,
    flops="12*n", shape=_relu_shapes, samples=_relu_samples, errors=_errors("batch_norm_relu", {}),
    doc=f"relu(batch_norm(x) + residual) in one pass, with the bits of the three. {_SOURCE}",
)  # fmt: skip

_batch_norm_eval = Op(
    "batch_norm_eval", f"{_X} running_mean[C]:C running_var[C]:C residual[N,C,H,W]?", "y[N,C,H,W]",
    kernel="batch_norm_eval_fwd", layout="nhwc", promote=False, params={"eps": 1e-5, "relu": False},
    formula=_eval_formula, reference=_eval_reference, flops="5*n", domain={"running_var": (0.25, 4)},
    samples=_eval_samples, errors=_errors("batch_norm_eval", {}, np.zeros(3), np.ones(3)),
    doc="y = (x − running_mean)/√(running_var + eps)·weight + bias + residual, then relu where asked for: batch norm "
        f"with given statistics, which are constants. {_SOURCE}",
)  # fmt: skip

_group_norm = Op(
    "group_norm", _X, "y[N,C,H,W] mean[N,2,G]:C var[N,G]:C",
    kernel="group_norm_fwd", bwd="group_norm_bwd", saves="x weight mean var", layout="nhwc", promote=False,
    params={"num_groups": int, "eps": 1e-5}, shape=_group_shapes, formula=_group_formula, bwd_formula=_group_back,
    reference=_group_reference, flops="10*n", samples=_group_samples,
    errors=[*_errors("group_norm", {"num_groups": 1}),
            ((np.zeros((2, 6, 1, 1)),), {"num_groups": 4}, ValueError,
             r"^group_norm: argument 'num_groups': expected a divisor of the 6 channels of x \(2, 6, 1, 1\), got 4")],
    doc="y = (x − μ)/√(σ² + eps)·weight + bias, μ and σ² of each item and group of C/num_groups neighbouring "
        f"channels; dx as batch_norm's. {_STATISTICS}Source: Wu and He, arXiv 1803.08494.",
)  # fmt: skip

bn_update = Effect(
    "bn_update", "mean[2,C] var[C]", "running_mean[C] running_var[C] tracked[]?:i", kernel="bn_update_step",
    layout="dense", promote=False, params={"momentum": 0.1, "count": float}, reference=_update_reference,
    samples=lambda rng: [
        ((rng.standard_normal((2, c)), rng.uniform(0, 2, c), rng.standard_normal(c), rng.uniform(0, 2, c),
          np.array(4)), {"momentum": m, "count": 12.0})
        for c, m in ((1, 0.1), (70, -1.0), (33, 0.25), (0, 0.1))],
    doc="tracked += 1; running = (1 − m)·running + m·batch, the variance taken as var·count/(count − 1); m is "
        f"momentum, or 1/tracked where that is negative. {_SOURCE}",
)  # fmt: skip


# ---- functions -----------------------------------------------------------------------------------


def _images(name, input, least):
    """input as (N, C, H, W)."""
    if not least <= input.ndim:
        raise ValueError(f"{name}: argument 'input': expected shape (N, C, …) of at least {least} dimensions, got "
                         f"{input.shape}")  # fmt: skip
    if input.ndim == 4:
        return input
    n, c = input.shape[:2]
    if input.ndim == 2:
        return input.reshape(n, c, 1, 1)
    return input.reshape(n, c, input.shape[2], math.prod(input.shape[3:]))


def _shaped(y, input):
    return y if y.shape == input.shape else y.reshape(input.shape)


def _check_statistics(name, running_mean, running_var, needed):
    if (running_mean is None) != (running_var is None):
        raise ValueError(f"{name}: expected running_mean and running_var, or neither")
    if needed and running_mean is None:
        raise ValueError(f"{name}: expected running_mean and running_var, since the batch's own are not used")


def _update(x, mean, var, running_mean, running_var, momentum, tracked):
    if recomputing():
        return
    count = x.size // max(1, x.shape[1])
    OPS.bn_update(mean, var, running_mean, running_var, tracked, momentum=momentum, count=float(count))


def batch_norm(
    input, running_mean=None, running_var=None, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5,
    *, residual=None, relu=False, num_batches_tracked=None,
):  # fmt: skip
    """(input − μ)/√(σ² + eps)·weight + bias, μ and σ² of each channel: the batch's in training, else the running ones.

    Args:
        input: (N, C, …). weight, bias: (C,) or None.
        running_mean, running_var: (C,) or None. Written in training, momentum being the share of the batch, with
            the variance divided by n − 1; read otherwise.
        residual, relu: relu(result + residual) in the same pass; residual of input's shape, with relu only.
        num_batches_tracked: int64 (), counted up in training; then momentum=None averages over all batches.

    Raises:
        ValueError: shapes that do not fit, one value for each channel in training. TypeError: another dtype than
            weight's.

    Source: Ioffe and Szegedy, arXiv 1502.03167; S1 §5.3.
    """
    x = _images("batch_norm", input, 2)
    if residual is not None and not relu:
        raise ValueError("batch_norm: argument 'residual': expected relu=True beside it")
    if residual is not None:
        if residual.shape != input.shape:
            raise ValueError(f"batch_norm: argument 'residual': expected input's shape {input.shape}, got "
                             f"{residual.shape}")  # fmt: skip
        residual = residual.reshape(x.shape)
    _check_statistics("batch_norm", running_mean, running_var, not training)
    if not training:
        args = x, weight, bias, running_mean, running_var, residual
        return _shaped(OPS.batch_norm_eval(*args, eps=float(eps), relu=bool(relu)), input)
    if x.shape[0] * x.shape[2] * x.shape[3] == 1:
        raise ValueError(f"batch_norm: argument 'input': expected more than 1 value for each channel in training, got "
                         f"shape {input.shape}")  # fmt: skip
    if momentum is None and num_batches_tracked is None and running_mean is not None:
        raise ValueError("batch_norm: argument 'momentum': expected a number, since no num_batches_tracked is given")
    if relu:
        y, mean, var = _batch_norm_relu(x, weight, bias, residual, eps=float(eps))
    else:
        y, mean, var = _batch_norm(x, weight, bias, eps=float(eps))
    if running_mean is not None and x.size:
        share = -1.0 if momentum is None else float(momentum)
        _update(x, mean, var, running_mean, running_var, share, num_batches_tracked)
    return _shaped(y, input)


def group_norm(input, num_groups, weight=None, bias=None, eps=1e-5):
    """(input − μ)/√(σ² + eps)·weight + bias, μ and σ² of each item of the batch and each of num_groups groups of
    neighbouring channels.

    Shapes: input (N, C, …); weight and bias (C,) or None.

    Raises:
        ValueError: num_groups does not divide C; shapes that do not fit. TypeError: another dtype than weight's.

    Source: Wu and He, arXiv 1803.08494.
    """
    x = _images("group_norm", input, 2)
    return _shaped(_group_norm(x, weight, bias, num_groups=int(num_groups), eps=float(eps))[0], input)


def instance_norm(
    input, running_mean=None, running_var=None, weight=None, bias=None, use_input_stats=True, momentum=0.1, eps=1e-5,
):  # fmt: skip
    """(input − μ)/√(σ² + eps)·weight + bias, μ and σ² of each item of the batch and each channel.

    Args:
        input: (N, C, …). weight, bias: (C,) or None.
        running_mean, running_var: (C,) or None: written with the mean over the batch of the items' statistics,
            momentum being its share; read where not use_input_stats.

    Raises:
        ValueError: shapes that do not fit, one value for each item and channel. TypeError: another dtype than weight's.

    Source: Ulyanov, Vedaldi and Lempitsky, arXiv 1607.08022.
    """
    x = _images("instance_norm", input, 3)
    _check_statistics("instance_norm", running_mean, running_var, not use_input_stats)
    if not use_input_stats:
        return _shaped(OPS.batch_norm_eval(x, weight, bias, running_mean, running_var, eps=float(eps)), input)
    n, c, h, w = x.shape
    if h * w == 1:
        raise ValueError(f"instance_norm: argument 'input': expected more than 1 value for each item and channel, got "
                         f"shape {input.shape}")  # fmt: skip
    y, mean, var = _group_norm(x, weight, bias, num_groups=c, eps=float(eps))
    if running_mean is not None and x.size and not recomputing():
        with_items = OPS.sum_to(mean, shape=(1, 2, c)).reshape(2, c) / float(n)
        args = with_items, OPS.sum_to(var, shape=(1, c)).reshape(c) / float(n), running_mean, running_var, None
        OPS.bn_update(*args, momentum=float(momentum), count=float(h * w))
    return _shaped(y, input)
