"""Initial values of weights, with PyTorch's names and arguments: in place on leaves, from a Generator's numbers.

A good start keeps the variance of signals on their way forward (fan in) or backward (fan out).
"""

from __future__ import annotations

import math
import warnings

import numpy as np

from ..autograd import no_grad
from ..tensor import Tensor, number

__all__ = [
    "calculate_gain",
    "constant_",
    "eye_",
    "kaiming_normal_",
    "kaiming_uniform_",
    "normal_",
    "ones_",
    "orthogonal_",
    "trunc_normal_",
    "uniform_",
    "xavier_normal_",
    "xavier_uniform_",
    "zeros_",
]


_CONVOLUTIONS = tuple(f"conv{kind}{n}d" for kind in ("", "_transpose") for n in (1, 2, 3))


def _numbers(generator) -> np.random.Generator:
    """The source of random numbers behind a pynn.Generator; the default one for None."""
    if generator is None:
        from ..random import default_generator

        generator = default_generator
    if isinstance(generator, np.random.Generator):
        return generator
    if not hasattr(generator, "numpy"):
        raise TypeError(f"init: argument 'generator': expected a Generator or None, got {type(generator).__name__}")
    return generator.numpy()


def _fill(tensor: Tensor, values) -> Tensor:
    with no_grad(), tensor.writable() as a:
        a[...] = values
    return tensor


def _checked(tensor: Tensor, what: str) -> Tensor:
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{what}: argument 'tensor': expected a Tensor, got {type(tensor).__name__}")
    return tensor


def _floating(tensor: Tensor, what: str) -> None:
    _checked(tensor, what)
    if tensor.dtype.kind != "f":
        raise TypeError(f"{what}: argument 'tensor': expected a floating dtype, got {tensor.dtype}")


def _fans(tensor: Tensor, what: str) -> tuple[int, int]:
    """(fan in, fan out): for how many values an output is summed, and to how many outputs an input goes."""
    _floating(tensor, what)
    if tensor.ndim < 2:
        raise ValueError(
            f"{what}: Fan in and fan out can not be computed for tensor with fewer than 2 dimensions, "
            f"got shape {tensor.shape}"
        )
    field = math.prod(tensor.shape[2:])
    return tensor.shape[1] * field, tensor.shape[0] * field


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """The factor that keeps the variance through a nonlinearity.

    linear, conv*, sigmoid 1; tanh 5/3; relu √2; leaky_relu √(2/(1 + param²)), param = 0.01 by default; selu 3/4.

    Raises:
        ValueError: an unknown name, or a param that is no number.

    Source: He et al., arXiv 1502.01852, §2.2; the table is PyTorch's.
    """
    if nonlinearity in ("linear", "sigmoid", *_CONVOLUTIONS):
        return 1.0
    if nonlinearity == "tanh":
        return 5.0 / 3
    if nonlinearity == "relu":
        return math.sqrt(2.0)
    if nonlinearity == "leaky_relu":
        slope = 0.01 if param is None else param
        if isinstance(slope, bool) or not isinstance(slope, (int, float)):
            raise ValueError(f"negative_slope {param} not a valid number")
        return math.sqrt(2.0 / (1 + slope**2))
    if nonlinearity == "selu":
        return 3.0 / 4
    raise ValueError(f"Unsupported nonlinearity {nonlinearity}")


def uniform_(tensor: Tensor, a: float = 0.0, b: float = 1.0, generator=None) -> Tensor:
    """Fills tensor from U(a, b)."""
    _floating(tensor, "uniform_")
    if not number(a, "uniform_: argument 'a'") <= number(b, "uniform_: argument 'b'"):
        raise ValueError(f"uniform_: expected a <= b, got a={a}, b={b}")
    return _fill(tensor, a + (b - a) * _numbers(generator).random(tensor.shape, tensor.dtype))


def normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0, generator=None) -> Tensor:
    """Fills tensor from N(mean, std²)."""
    _floating(tensor, "normal_")
    number(mean, "normal_: argument 'mean'")
    if not number(std, "normal_: argument 'std'") >= 0:
        raise ValueError(f"normal_: argument 'std': expected a number >= 0, got {std}")
    return _fill(tensor, mean + std * _numbers(generator).standard_normal(tensor.shape, tensor.dtype))


def trunc_normal_(
    tensor: Tensor, mean: float = 0.0, std: float = 1.0, a: float = -2.0, b: float = 2.0, generator=None
) -> Tensor:
    """Fills tensor from N(mean, std²) restricted to [a, b].

    Drawn by rejection, exactly: from the normal where [a, b] holds much of it, else from a uniform, or in a
    tail from an exponential, distribution on [a, b]. Source: Robert, Statistics and Computing 5 (1995).
    """
    _floating(tensor, "trunc_normal_")
    if not (std > 0 and a < b):
        raise ValueError(f"trunc_normal_: expected std > 0 and a < b, got std={std}, a={a}, b={b}")
    numbers, z = _numbers(generator), np.empty(tensor.size)
    lo, hi = (a - mean) / std, (b - mean) / std
    filled = 0
    while filled < z.size:
        more = _truncated(numbers, lo, hi, z.size - filled)
        z[filled : filled + more.size] = more
        filled += more.size
    return _fill(tensor, np.clip((mean + std * z).astype(tensor.dtype), a, b).reshape(tensor.shape))


def _truncated(numbers: np.random.Generator, lo: float, hi: float, n: int) -> np.ndarray:
    """At most n standard normals in [lo, hi]: n candidates without those rejected."""
    if math.erf(hi / math.sqrt(2)) - math.erf(lo / math.sqrt(2)) > 0.5:
        z = numbers.standard_normal(n)
        return z[(lo <= z) & (z <= hi)]
    sign = -1.0 if hi < 0 else 1.0  # the lower tail is the upper one, mirrored
    lo, hi = (lo, hi) if sign > 0 else (-hi, -lo)
    near, width = max(lo, 0.0), hi - lo
    u = numbers.random(n)
    if near * width < 1:
        z = lo + width * u
        log_accept = (near * near - z * z) / 2
    else:  # density e^(−near·t) on [0, width], t = z − near
        t = -np.log1p(u * math.expm1(-near * width)) / near
        z, log_accept = near + t, -t * t / 2
    return sign * z[np.log1p(-numbers.random(n)) <= log_accept]


def constant_(tensor: Tensor, val: float) -> Tensor:
    """Fills tensor with val."""
    return _fill(_checked(tensor, "constant_"), number(val, "constant_: argument 'val'"))


def ones_(tensor: Tensor) -> Tensor:
    """Fills tensor with 1."""
    return _fill(_checked(tensor, "ones_"), 1)


def zeros_(tensor: Tensor) -> Tensor:
    """Fills tensor with 0."""
    return _fill(_checked(tensor, "zeros_"), 0)


def eye_(tensor: Tensor) -> Tensor:
    """Fills a matrix with 1 on its diagonal, 0 elsewhere."""
    if _checked(tensor, "eye_").ndim != 2:
        raise ValueError(f"eye_: Only tensors with 2 dimensions are supported, got shape {tensor.shape}")
    return _fill(tensor, np.eye(*tensor.shape))


def xavier_uniform_(tensor: Tensor, gain: float = 1.0, generator=None) -> Tensor:
    """Fills tensor from U(−c, c), c = gain·√(6/(fan in + fan out)).

    Source: Glorot & Bengio 2010; S1 §5.3 (F-INIT-1).
    """
    c = gain * math.sqrt(6.0 / max(1, sum(_fans(tensor, "xavier_uniform_"))))
    return uniform_(tensor, -c, c, generator)


def xavier_normal_(tensor: Tensor, gain: float = 1.0, generator=None) -> Tensor:
    """Fills tensor from N(0, s²), s = gain·√(2/(fan in + fan out)).

    Source: Glorot & Bengio 2010; S1 §5.3 (F-INIT-1).
    """
    s = gain * math.sqrt(2.0 / max(1, sum(_fans(tensor, "xavier_normal_"))))
    return normal_(tensor, 0.0, s, generator)


def _kaiming_std(tensor: Tensor, a: float, mode: str, nonlinearity: str, what: str) -> float:
    _floating(tensor, what)
    mode = str(mode).lower()
    if mode not in ("fan_in", "fan_out"):
        raise ValueError(f"Mode {mode} not supported, please use one of ['fan_in', 'fan_out']")
    if 0 in tensor.shape:
        warnings.warn("Initializing zero-element tensors is a no-op", stacklevel=3)
    fan = _fans(tensor, what)[mode == "fan_out"]
    return calculate_gain(nonlinearity, a) / math.sqrt(max(1, fan))


def kaiming_uniform_(
    tensor: Tensor, a: float = 0, mode: str = "fan_in", nonlinearity: str = "leaky_relu", generator=None
) -> Tensor:
    """Fills tensor from U(−c, c), c = gain·√(3/fan), for layers followed by a rectifier of negative slope a.

    Source: He et al., arXiv 1502.01852; S1 §5.3 (F-INIT-2).
    """
    c = math.sqrt(3.0) * _kaiming_std(tensor, a, mode, nonlinearity, "kaiming_uniform_")
    return uniform_(tensor, -c, c, generator)


def kaiming_normal_(
    tensor: Tensor, a: float = 0, mode: str = "fan_in", nonlinearity: str = "leaky_relu", generator=None
) -> Tensor:
    """Fills tensor from N(0, s²), s = gain/√fan, for layers followed by a rectifier of negative slope a.

    Source: He et al., arXiv 1502.01852; S1 §5.3 (F-INIT-2).
    """
    return normal_(tensor, 0.0, _kaiming_std(tensor, a, mode, nonlinearity, "kaiming_normal_"), generator)


def orthogonal_(tensor: Tensor, gain: float = 1, generator=None) -> Tensor:
    """Fills tensor, as a matrix W of its first dimension against all others, with gain times orthonormal vectors.

    WᵀW = gain²·I where W is tall, WWᵀ = gain²·I where it is wide; uniform over all such W (the signs of the QR
    decomposition are fixed by those of R's diagonal).

    Source: Saxe et al., arXiv 1312.6120; S3 §6.3 (F-INIT-3).
    """
    _floating(tensor, "orthogonal_")
    if tensor.ndim < 2:
        raise ValueError(f"orthogonal_: Only tensors with 2 or more dimensions are supported, got shape {tensor.shape}")
    if 0 in tensor.shape:
        return tensor
    rows, cols = tensor.shape[0], math.prod(tensor.shape[1:])
    flat = _numbers(generator).standard_normal((max(rows, cols), min(rows, cols)))
    q, r = np.linalg.qr(flat)
    q *= np.where(np.diagonal(r) < 0, -1.0, 1.0)
    return _fill(tensor, (gain * (q if rows >= cols else q.T)).reshape(tensor.shape))
