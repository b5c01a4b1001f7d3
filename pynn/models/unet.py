"""A small U-Net for segmentation."""

from __future__ import annotations

import itertools

from .. import nn
from ..nn import functional as F
from ..ops.index import cat

__all__ = ["UNet"]


class _Double(nn.Module):
    """Twice a 3×3 convolution, batch norm and ReLU."""

    def __init__(self, inp: int, out: int):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inp, out, 3, padding=1, bias=False), nn.BatchNorm2d(out)
        self.conv2, self.bn2 = nn.Conv2d(out, out, 3, padding=1, bias=False), nn.BatchNorm2d(out)

    def forward(self, x):
        return self.bn2(self.conv2(self.bn1(self.conv1(x), relu=True)), relu=True)


class UNet(nn.Module):
    """Logits (N, num_classes, H, W) of images (N, in_channels, H, W), for each pixel.

    Args:
        width: channels at the full resolution; doubled at each of `depth` halvings.

    Each level's features go to the decoder, which doubles the resolution (bilinear), joins them and convolves.

    Raises:
        ValueError: H or W is no multiple of 2^depth.

    Source: Ronneberger, Fischer and Brox, arXiv 1505.04597, with padded convolutions and batch norm.
    """

    def __init__(self, in_channels: int = 1, num_classes: int = 1, width: int = 16, depth: int = 2):
        super().__init__()
        widths = [width << k for k in range(depth + 1)]
        self.depth = depth
        self.down = nn.ModuleList(_Double(a, b) for a, b in zip([in_channels, *widths], widths))
        self.up = nn.ModuleList(_Double(a + b, a) for a, b in reversed(list(itertools.pairwise(widths))))
        self.head = nn.Conv2d(width, num_classes, 1)

    def forward(self, x):
        side = 1 << self.depth
        if x.ndim != 4 or x.shape[2] % side or x.shape[3] % side:
            raise ValueError(
                f"UNet: argument 'x': expected (N, C, H, W) with H and W multiples of {side}, got {x.shape}"
            )
        kept = []
        for k, block in enumerate(self.down):
            x = block(x if k == 0 else F.max_pool2d(x, 2))
            kept.append(x)
        for block, level in zip(self.up, reversed(kept[:-1])):
            x = block(cat([level, F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)], 1))
        return self.head(x)
