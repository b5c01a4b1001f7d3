"""Resizing and padding as modules; the equations and their derivatives are in pynn/ops/resize2d.py."""

from __future__ import annotations

from . import functional as F
from .module import Module

__all__ = ["ConstantPad2d", "PixelShuffle", "PixelUnshuffle", "ReflectionPad2d", "ReplicationPad2d", "Upsample",
           "ZeroPad2d"]  # fmt: skip


class Upsample(Module):
    """(N, C, L) or (N, C, H, W) resized; arguments as pynn.nn.functional.interpolate's.

    Raises:
        ValueError: both or neither of size and scale_factor, an unknown mode.
    """

    def __init__(self, size=None, scale_factor=None, mode: str = "nearest", align_corners: bool | None = None):
        super().__init__()
        self.size, self.scale_factor, self.mode, self.align_corners = size, scale_factor, mode, align_corners

    def forward(self, input):
        return F.interpolate(input, self.size, self.scale_factor, self.mode, self.align_corners)

    def extra_repr(self) -> str:
        by = f"size={self.size}" if self.size is not None else f"scale_factor={self.scale_factor}"
        return f"{by}, mode={self.mode!r}"


class _Pad2d(Module):
    """padding: an integer, or (left, right, top, bottom); negative numbers crop."""

    mode = "constant"
    value: float = 0.0

    def __init__(self, padding):
        super().__init__()
        self.padding = (padding,) * 4 if isinstance(padding, int) else tuple(padding)
        if len(self.padding) != 4:
            raise ValueError(f"{self._get_name()}: argument 'padding': expected an integer or four, got {padding!r}")

    def forward(self, input):
        return F.pad(input, self.padding, self.mode, self.value if self.mode == "constant" else None)

    def extra_repr(self) -> str:
        return f"{self.padding}"


class ZeroPad2d(_Pad2d):
    """(…, H, W) with zeros around: padding an integer, or (left, right, top, bottom)."""


class ConstantPad2d(_Pad2d):
    """(…, H, W) with `value` around: padding an integer, or (left, right, top, bottom)."""

    def __init__(self, padding, value: float):
        super().__init__(padding)
        self.value = value


class ReflectionPad2d(_Pad2d):
    """(…, H, W) mirrored around, without the edge: padding an integer, or (left, right, top, bottom)."""

    mode = "reflect"


class ReplicationPad2d(_Pad2d):
    """(…, H, W) with its edge repeated around: padding an integer, or (left, right, top, bottom)."""

    mode = "replicate"


class PixelShuffle(Module):
    """(…, C·r², H, W) → (…, C, H·r, W·r). Source: Shi et al., arXiv 1609.05158."""

    def __init__(self, upscale_factor: int):
        super().__init__()
        self.upscale_factor = upscale_factor

    def forward(self, input):
        return F.pixel_shuffle(input, self.upscale_factor)

    def extra_repr(self) -> str:
        return f"upscale_factor={self.upscale_factor}"


class PixelUnshuffle(Module):
    """(…, C, H·r, W·r) → (…, C·r², H, W): the inverse of PixelShuffle."""

    def __init__(self, downscale_factor: int):
        super().__init__()
        self.downscale_factor = downscale_factor

    def forward(self, input):
        return F.pixel_unshuffle(input, self.downscale_factor)

    def extra_repr(self) -> str:
        return f"downscale_factor={self.downscale_factor}"
