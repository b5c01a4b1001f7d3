"""Layer norm and RMS norm as modules; the equations and their derivatives are in pynn/ops/layer_norm.py."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .. import _core
from ..ops.layer_norm import sizes_of
from . import functional as F
from . import init
from .module import Module, Parameter

__all__ = ["LayerNorm", "RMSNorm"]


class _Norm(Module):
    """normalized_shape, and a weight of that shape that begins as 1."""

    def __init__(self, normalized_shape: int | Sequence[int], eps, elementwise_affine: bool, dtype):
        super().__init__()
        shape = sizes_of(normalized_shape, f"{self._get_name()}: argument 'normalized_shape'")
        self.normalized_shape, self.eps, self.elementwise_affine = shape, eps, elementwise_affine
        self._add("weight", elementwise_affine, dtype)

    def _add(self, name: str, wanted: bool, dtype) -> None:
        values = Parameter(_core.empty(self.normalized_shape, dtype or np.float32)) if wanted else None
        self.register_parameter(name, values)

    def reset_parameters(self) -> None:
        """Sets weight to 1."""
        if self.weight is not None:
            init.ones_(self.weight)

    def extra_repr(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}"


class LayerNorm(_Norm):
    """y = (x − μ)/√(σ² + eps)·weight + bias over the last dimensions, which are normalized_shape.

    Args:
        normalized_shape: their sizes; a number means one dimension.
        elementwise_affine: whether there are weight and bias. bias: whether there is a bias beside the weight.
        dtype: float32 or float64 of the parameters, and so of x.

    Parameters: weight (normalized_shape) of ones, bias (normalized_shape) of zeros, as torch.nn.LayerNorm.

    Raises:
        ValueError: x does not end with normalized_shape. TypeError: x has another dtype than weight.

    Source: Ba, Kiros and Hinton, arXiv 1607.06450; S1 §5.3.
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        dtype=np.float32,
    ):
        super().__init__(normalized_shape, eps, elementwise_affine, dtype)
        self._add("bias", elementwise_affine and bias, dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Sets weight to 1 and bias to 0."""
        super().reset_parameters()
        if self.bias is not None:
            init.zeros_(self.bias)

    def forward(self, x):
        return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)


class RMSNorm(_Norm):
    """y = x/√(mean(x²) + eps)·weight over the last dimensions, which are normalized_shape.

    Args:
        normalized_shape: their sizes; a number means one dimension.
        eps: None is the machine epsilon of x's dtype.
        elementwise_affine: whether there is a weight. dtype: of the weight, and so of x.

    Parameters: weight (normalized_shape) of ones, as torch.nn.RMSNorm.

    Raises:
        ValueError: x does not end with normalized_shape. TypeError: x has another dtype than weight.

    Source: Zhang and Sennrich, arXiv 1910.07467.
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float | None = None,
        elementwise_affine: bool = True,
        dtype=np.float32,
    ):
        super().__init__(normalized_shape, eps, elementwise_affine, dtype)
        self.reset_parameters()

    def forward(self, x):
        return F.rms_norm(x, self.normalized_shape, self.weight, self.eps)
