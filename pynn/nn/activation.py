"""Activations as modules; the functions, their equations and their derivatives are in pynn/ops/activation.py."""

from __future__ import annotations

import numpy as np

from .. import _core
from . import functional as F
from . import init
from .module import Module, Parameter

__all__ = [
    "ELU",
    "GELU",
    "SELU",
    "Hardsigmoid",
    "Hardswish",
    "Hardtanh",
    "LeakyReLU",
    "LogSigmoid",
    "LogSoftmax",
    "Mish",
    "PReLU",
    "ReLU",
    "ReLU6",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Softplus",
    "Tanh",
]


class _InPlace(Module):
    """What takes torch's argument inplace: the result is the same, and x stays as it is."""

    def __init__(self, inplace: bool = False):
        super().__init__()
        self.inplace = inplace

    def extra_repr(self) -> str:
        return "inplace=True" if self.inplace else ""


class ReLU(_InPlace):
    """y = max(x, 0), with derivative 0 at 0. Source: S1 §1.1, §5.1."""

    def forward(self, x):
        return F.relu(x)


class ReLU6(_InPlace):
    """y = min(max(x, 0), 6)."""

    def forward(self, x):
        return F.relu6(x)


class SELU(_InPlace):
    """y = λ·(x where x > 0, α(eˣ − 1) elsewhere), with the constants of Klambauer et al., arXiv 1706.02515."""

    def forward(self, x):
        return F.selu(x)


class SiLU(_InPlace):
    """y = x·σ(x)."""

    def forward(self, x):
        return F.silu(x)


class Mish(_InPlace):
    """y = x·tanh(softplus(x))."""

    def forward(self, x):
        return F.mish(x)


class Hardswish(_InPlace):
    """y = x·min(max(x + 3, 0), 6)/6."""

    def forward(self, x):
        return F.hardswish(x)


class Hardsigmoid(_InPlace):
    """y = min(max(x + 3, 0), 6)/6."""

    def forward(self, x):
        return F.hardsigmoid(x)


class LeakyReLU(_InPlace):
    """y = x where x > 0, negative_slope·x elsewhere. Source: S1 §1.1."""

    def __init__(self, negative_slope: float = 0.01, inplace: bool = False):
        super().__init__(inplace)
        self.negative_slope = negative_slope

    def forward(self, x):
        return F.leaky_relu(x, self.negative_slope)

    def extra_repr(self) -> str:
        return f"negative_slope={self.negative_slope}" + (", inplace=True" if self.inplace else "")


class ELU(_InPlace):
    """y = x where x > 0, alpha·(eˣ − 1) elsewhere."""

    def __init__(self, alpha: float = 1.0, inplace: bool = False):
        super().__init__(inplace)
        self.alpha = alpha

    def forward(self, x):
        return F.elu(x, self.alpha)

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}" + (", inplace=True" if self.inplace else "")


class Hardtanh(_InPlace):
    """y = x kept within [min_val, max_val].

    Raises:
        ValueError: min_val is not below max_val.
    """

    def __init__(self, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False):
        super().__init__(inplace)
        if not min_val < max_val:
            raise ValueError(f"Hardtanh: expected min_val < max_val, got {min_val} and {max_val}")
        self.min_val, self.max_val = min_val, max_val

    def forward(self, x):
        return F.hardtanh(x, self.min_val, self.max_val)

    def extra_repr(self) -> str:
        return f"min_val={self.min_val}, max_val={self.max_val}" + (", inplace=True" if self.inplace else "")


class GELU(Module):
    """y = x·Φ(x); approximate="tanh" takes the tanh form. Source: S0; Hendrycks and Gimpel, arXiv 1606.08415."""

    def __init__(self, approximate: str = "none"):
        super().__init__()
        self.approximate = approximate

    def forward(self, x):
        return F.gelu(x, self.approximate)

    def extra_repr(self) -> str:
        return f"approximate={self.approximate!r}"


class Softplus(Module):
    """y = log(1 + exp(beta·x))/beta, and x itself where beta·x > threshold."""

    def __init__(self, beta: float = 1.0, threshold: float = 20.0):
        super().__init__()
        self.beta, self.threshold = beta, threshold

    def forward(self, x):
        return F.softplus(x, self.beta, self.threshold)

    def extra_repr(self) -> str:
        return f"beta={self.beta}, threshold={self.threshold}"


class PReLU(Module):
    """y = x where x > 0, weight·x elsewhere; weight is learned, one number or one per channel (dimension 1)."""

    def __init__(self, num_parameters: int = 1, init: float = 0.25, dtype=np.float32):
        super().__init__()
        self.num_parameters, self.init = num_parameters, init
        self.weight = Parameter(_core.empty((num_parameters,), dtype or np.float32))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Sets weight to its first value."""
        init.constant_(self.weight, self.init)

    def forward(self, x):
        return F.prelu(x, self.weight)

    def extra_repr(self) -> str:
        return f"num_parameters={self.num_parameters}"


class Sigmoid(Module):
    """y = 1/(1 + e⁻ˣ). Source: S1 §1.1; S3 §2.2."""

    def forward(self, x):
        return F.sigmoid(x)


class Tanh(Module):
    """y = tanh(x). Source: S1 §1.1."""

    def forward(self, x):
        return F.tanh(x)


class LogSigmoid(Module):
    """y = −log(1 + e⁻ˣ)."""

    def forward(self, x):
        return F.logsigmoid(x)


def _dim_of(x) -> int:
    """Where no dimension was named: the classes of (C), (N, C), (C, H, W), (N, C, …), as torch guesses."""
    return 0 if x.ndim in (0, 1, 3) else 1


class Softmax(Module):
    """y = exp(x − max x)/Σ exp(x − max x) along dim; None takes dimension 1, or 0 of 1-d and 3-d x.

    Source: S1 §1.1; S4.
    """

    def __init__(self, dim: int | None = None):
        super().__init__()
        self.dim = dim

    def forward(self, x):
        return F.softmax(x, _dim_of(x) if self.dim is None else self.dim)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"


class LogSoftmax(Module):
    """y = log softmax(x) along dim, without forming the softmax; None as in Softmax."""

    def __init__(self, dim: int | None = None):
        super().__init__()
        self.dim = dim

    def forward(self, x):
        return F.log_softmax(x, _dim_of(x) if self.dim is None else self.dim)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"


# Each class as an op and its parameters, for what can apply it together with another op; None where it cannot.
AS_OP = {
    ReLU: lambda m: ("relu", {}),
    ReLU6: lambda m: ("relu6", {}),
    SELU: lambda m: ("selu", {}),
    SiLU: lambda m: ("silu", {}),
    Mish: lambda m: ("mish", {}),
    Hardswish: lambda m: ("hardswish", {}),
    Hardsigmoid: lambda m: ("hardsigmoid", {}),
    LeakyReLU: lambda m: ("leaky_relu", {"negative_slope": m.negative_slope}),
    ELU: lambda m: ("elu", {"alpha": m.alpha}),
    Hardtanh: lambda m: ("hardtanh", {"min_val": m.min_val, "max_val": m.max_val}) if m.min_val < m.max_val else None,
    GELU: lambda m: {"none": ("gelu", {}), "tanh": ("gelu_tanh", {})}.get(m.approximate),
    Softplus: lambda m: ("softplus", {"beta": m.beta, "threshold": m.threshold}),
    Sigmoid: lambda m: ("sigmoid", {}),
    Tanh: lambda m: ("tanh", {}),
    LogSigmoid: lambda m: ("logsigmoid", {}),
}
