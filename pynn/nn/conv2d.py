"""Convolution and transposed convolution along one or two dimensions; the ops are in pynn/ops/conv2d.py."""

from __future__ import annotations

import math

import numpy as np

from .. import _core
from ..op import OPS
from ..ops.conv2d import activated, conv1d, conv2d, conv_transpose1d, conv_transpose2d, geometry
from ..ops.linear import activation_of
from ..ops.resize2d import pad
from . import init
from .module import Module, Parameter

__all__ = ["Conv1d", "Conv2d", "ConvTranspose1d", "ConvTranspose2d"]


def _weight(shape: tuple[int, ...], dtype) -> Parameter:
    """A parameter of logical shape (O, I, …, K), laid out (O, …, K, I) in memory, as the kernels read it."""
    n = len(shape)
    p = Parameter()
    p._rebind(OPS.permute(_core.empty((shape[0], *shape[2:], shape[1]), dtype), axes=(0, n - 1, *range(1, n - 1))))
    return p


class _Conv(Module):
    """What all share. _n is the number of dimensions beside batch and channels."""

    _n = 2
    transposed = False
    _padding_modes: tuple[str, ...] = ("zeros",)

    def _set(
        self, in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, dtype
    ):
        name, n = type(self).__name__, self._n
        if padding_mode not in self._padding_modes:
            raise ValueError(
                f"{name}: argument 'padding_mode': expected {' or '.join(self._padding_modes)}, got {padding_mode!r}"
            )
        size = geometry(name, n, kernel_size, 0, 1, groups, first="kernel_size")[0]
        self.stride, self.padding, self.dilation = geometry(name, n, stride, padding, dilation, groups)
        for what, channels in (("in_channels", in_channels), ("out_channels", out_channels)):
            if channels < 0 or channels % groups:
                raise ValueError(f"{name}: argument '{what}': expected a number that groups={groups} divide, got "
                                 f"{channels}")  # fmt: skip
        self.in_channels, self.out_channels, self.kernel_size = in_channels, out_channels, size
        self.groups, self.padding_mode = groups, padding_mode
        first, second = (in_channels, out_channels) if self.transposed else (out_channels, in_channels)
        self.weight = _weight((first, second // groups, *size), dtype or np.float32)
        self.register_parameter("bias", Parameter(_core.empty((out_channels,), dtype or np.float32)) if bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws weight and bias anew from the default generator."""
        fan_in = math.prod(self.weight.shape[1:])
        if fan_in:
            init.kaiming_uniform_(self.weight, a=math.sqrt(5))
            if self.bias is not None:
                init.uniform_(self.bias, -1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in))
        elif self.bias is not None:
            init.zeros_(self.bias)

    def extra_repr(self) -> str:
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        zeros, ones = (0,) * self._n, (1,) * self._n
        more = (("padding", zeros), ("dilation", ones), ("output_padding", zeros), ("groups", 1),
                ("padding_mode", "zeros"))  # fmt: skip
        text += "".join(f", {k}={getattr(self, k)!r}" for k, usual in more if getattr(self, k, usual) != usual)
        return text + (", bias=False" if self.bias is None else "")


class _Forward(_Conv):
    _padding_modes = ("zeros", "reflect", "replicate", "circular")

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size, stride=1, padding=0, dilation=1, groups: int = 1,
        bias: bool = True, padding_mode: str = "zeros", dtype=np.float32, activation=None,
    ):  # fmt: skip
        super().__init__()
        if activation is not None:
            activation_of(activation, type(self).__name__)  # raises for what is none
        self.activation = activation
        self._set(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, dtype)

    def _padded(self, x):
        """x with borders that are not zeros, and the padding that is left to the op."""
        if self.padding_mode == "zeros" or self.padding == "valid":
            return x, self.padding
        borders: list[int] = []
        for k in reversed(range(self._n)):
            both = self.dilation[k] * (self.kernel_size[k] - 1) if self.padding == "same" else 2 * self.padding[k]
            borders += both // 2, both - both // 2
        return pad(x, borders, self.padding_mode), 0

    def forward(self, input):
        f, (x, padding) = conv2d if self._n == 2 else conv1d, self._padded(input)
        return f(x, self.weight, self.bias, self.stride, padding, self.dilation, self.groups, self.activation)

    def _activated(self, x, act):
        """act(forward(x)) by one op where that is faster; see Sequential."""
        x, padding = self._padded(x)
        return activated(self._n, x, self.weight, self.bias, self.stride, padding, self.dilation, self.groups, act)

    def extra_repr(self) -> str:
        text = super().extra_repr()
        return text if self.activation is None else f"{text}, activation={self.activation!r}"


class Conv2d(_Forward):
    """The cross-correlation of images with kernels, plus bias: (N, C, H, W) or (C, H, W) → (N, O, P, Q).

    P = ⌊(H + 2·padding − dilation·(kernel_size − 1) − 1)/stride⌋ + 1 and likewise Q. The result is channels-last in
    memory; inputs in that layout are read without a copy.

    Args:
        in_channels, out_channels: C and O.
        kernel_size, stride, padding, dilation: a number, or one for rows and one for columns. padding may be "same"
            (at stride 1) or "valid".
        groups: channels fall into so many groups, each seen by its own kernels; groups = C is depthwise.
        bias: whether there is one.
        padding_mode: what stands beyond the border: "zeros", or "reflect", "replicate", "circular" as F.pad has them.
        dtype: float32 or float64 of the parameters, and so of x.
        activation: what is applied to the result, by name, as pynn.nn.functional.linear takes it.

    Parameters: weight (O, C/groups, kH, kW), bias (O,), both uniform in ±1/√(C/groups·kH·kW) to begin with, as
    torch.nn.Conv2d.

    Raises:
        ValueError: numbers that do not fit one another or x. TypeError: x has another dtype than weight.

    Source: arXiv 1603.07285.
    """


class Conv1d(_Forward):
    """As Conv2d along one dimension: (N, C, L) or (C, L) → (N, O, M). weight is (O, C/groups, K)."""

    _n = 1


class _Transposed(_Conv):
    transposed = True

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size, stride=1, padding=0, output_padding=0, groups: int = 1,
        bias: bool = True, dilation=1, padding_mode: str = "zeros", dtype=np.float32,
    ):  # fmt: skip
        super().__init__()
        if isinstance(padding, str):
            raise ValueError(f"{type(self).__name__}: argument 'padding': expected numbers, got {padding!r}")
        self.output_padding = geometry(
            type(self).__name__, self._n, 1, output_padding, 1, 1, second="output_padding"
        )[1]  # fmt: skip
        self._set(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, dtype)

    def forward(self, input):
        f = conv_transpose2d if self._n == 2 else conv_transpose1d
        more = self.output_padding, self.groups, self.dilation
        return f(input, self.weight, self.bias, self.stride, self.padding, *more)


class ConvTranspose2d(_Transposed):
    """The adjoint of Conv2d in its input, plus bias: (N, C, H, W) or (C, H, W) → (N, O, P, Q).

    P = (H − 1)·stride − 2·padding + dilation·(kernel_size − 1) + output_padding + 1 and likewise Q.

    Args:
        output_padding: rows and columns more at the end of the result, fewer than stride or dilation; of the sizes
            that Conv2d maps to H it chooses one. The others are Conv2d's.

    Parameters: weight (C, O/groups, kH, kW), bias (O,), both uniform in ±1/√(O/groups·kH·kW) to begin with, as
    torch.nn.ConvTranspose2d. Errors as Conv2d's. Source: arXiv 1603.07285.
    """


class ConvTranspose1d(_Transposed):
    """As ConvTranspose2d along one dimension: (N, C, L) or (C, L) → (N, O, M). weight is (C, O/groups, K)."""

    _n = 1
