"""The affine map, the identity, and the flattening before it."""

from __future__ import annotations

import math

import numpy as np

from .. import _core
from ..op import OPS
from ..ops.linear import activated, activation_of, linear
from . import init
from .module import Module, Parameter

__all__ = ["Flatten", "Identity", "Linear"]


class Linear(Module):
    """y = x·Wᵀ + b on the last dimension: (…, in_features) → (…, out_features).

    Args:
        in_features, out_features: sizes of the last dimension.
        bias: whether there is a b.
        dtype: float32 or float64 of the parameters, and so of x.
        activation: what is applied to the result, by name, as pynn.nn.functional.linear takes it.

    Parameters: weight (out_features, in_features), bias (out_features,), both uniform in
    ±1/√in_features to begin with, as torch.nn.Linear.

    Raises:
        ValueError: x's last dimension is not in_features; an unknown activation. TypeError: x has another dtype
            than weight.

    Source: S0; S1 §2.8; S3 §2.
    """

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, dtype=np.float32, activation=None
    ):  # fmt: skip
        super().__init__()
        if activation is not None:
            activation_of(activation)  # raises for what is none
        self.in_features, self.out_features, self.activation = in_features, out_features, activation
        self.weight = Parameter(_core.empty((out_features, in_features), dtype or np.float32))
        self.register_parameter("bias", Parameter(_core.empty((out_features,), dtype or np.float32)) if bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws weight and bias anew from the default generator."""
        if self.in_features == 0:
            if self.bias is not None:
                init.zeros_(self.bias)
            return
        init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            bound = 1 / math.sqrt(self.in_features)
            init.uniform_(self.bias, -bound, bound)

    def forward(self, x):
        if self.activation is not None:
            return linear(x, self.weight, self.bias, self.activation)
        return OPS.linear(x, self.weight, self.bias)

    def _activated(self, x, act):
        """act(forward(x)) by one op where that is faster; see Sequential."""
        return activated(x, self.weight, self.bias, act)

    def extra_repr(self) -> str:
        text = f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"
        return text if self.activation is None else f"{text}, activation={self.activation!r}"


class Identity(Module):
    """y = x. Takes and ignores any arguments, so that it can stand in for another layer."""

    def __init__(self, *args, **kwargs):
        super().__init__()

    def forward(self, x):
        return x


class Flatten(Module):
    """Dimensions start_dim..end_dim merged into one, in logical order: (N, C, H, W) → (N, C·H·W)."""

    def __init__(self, start_dim: int = 1, end_dim: int = -1):
        super().__init__()
        self.start_dim, self.end_dim = start_dim, end_dim

    def forward(self, x):
        return x.flatten(self.start_dim, self.end_dim)

    def extra_repr(self) -> str:
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"
