"""Residual networks, with torchvision's names and shapes of parameters."""

from __future__ import annotations

from .. import nn

__all__ = ["BasicBlock", "Bottleneck", "ResNet", "resnet18", "resnet34", "resnet50"]


def _conv(inp: int, out: int, size: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inp, out, size, stride=stride, padding=size // 2, bias=False)


class BasicBlock(nn.Module):
    """relu(bn(conv3×3(relu(bn(conv3×3(x))))) + x), x through `downsample` where shapes differ."""

    expansion = 1

    def __init__(self, inplanes: int, planes: int, stride: int = 1, downsample: nn.Module | None = None):
        super().__init__()
        self.conv1, self.bn1 = _conv(inplanes, planes, 3, stride), nn.BatchNorm2d(planes)
        self.conv2, self.bn2 = _conv(planes, planes, 3), nn.BatchNorm2d(planes)
        self.add_module("downsample", downsample)

    def forward(self, x):
        same = x if self.downsample is None else self.downsample(x)
        out = self.bn1(self.conv1(x), relu=True)
        return self.bn2(self.conv2(out), residual=same, relu=True)


class Bottleneck(nn.Module):
    """A block of 1×1, 3×3 (which has the stride) and 1×1 convolutions, of 4·planes channels."""

    expansion = 4

    def __init__(self, inplanes: int, planes: int, stride: int = 1, downsample: nn.Module | None = None):
        super().__init__()
        self.conv1, self.bn1 = _conv(inplanes, planes, 1), nn.BatchNorm2d(planes)
        self.conv2, self.bn2 = _conv(planes, planes, 3, stride), nn.BatchNorm2d(planes)
        self.conv3, self.bn3 = _conv(planes, 4 * planes, 1), nn.BatchNorm2d(4 * planes)
        self.add_module("downsample", downsample)

    def forward(self, x):
        same = x if self.downsample is None else self.downsample(x)
        out = self.bn1(self.conv1(x), relu=True)
        out = self.bn2(self.conv2(out), relu=True)
        return self.bn3(self.conv3(out), residual=same, relu=True)


class ResNet(nn.Module):
    """Logits (N, num_classes) of images (N, in_channels, H, W).

    Args:
        block: BasicBlock or Bottleneck. layers: how many in each of the four stages.
        stem: "imagenet", a 7×7 convolution of stride 2 and max pooling, or "cifar", a 3×3 convolution alone.
        zero_init_residual: whether each block begins as its shortcut: the last norm's weight is 0.

    Raises:
        ValueError: another stem.

    Source: He, Zhang, Ren and Sun, arXiv 1512.03385; the parameters' names are torchvision's.
    """

    def __init__(
        self, block, layers, num_classes: int = 1000, *, stem: str = "imagenet", in_channels: int = 3,
        zero_init_residual: bool = False,
    ):  # fmt: skip
        super().__init__()
        if stem not in ("imagenet", "cifar"):
            raise ValueError(f"ResNet: argument 'stem': expected 'imagenet' or 'cifar', got {stem!r}")
        self.stem = stem
        self.conv1 = _conv(in_channels, 64, 7, 2) if stem == "imagenet" else _conv(in_channels, 64, 3)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, 2, 1) if stem == "imagenet" else nn.Identity()
        inplanes = 64
        for k, n in enumerate(layers):
            stage, inplanes = _stage(block, inplanes, 64 << k, n, 1 if k == 0 else 2)
            self.add_module(f"layer{k + 1}", stage)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(inplanes, num_classes)
        self._draw(zero_init_residual)

    def _draw(self, zero_init_residual: bool) -> None:
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")
            elif zero_init_residual and isinstance(m, (BasicBlock, Bottleneck)):
                nn.init.zeros_((m.bn2 if isinstance(m, BasicBlock) else m.bn3).weight)

    def forward(self, x):
        x = self.maxpool(self.bn1(self.conv1(x), relu=True))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(self.avgpool(x).flatten(1))


def _stage(block, inplanes: int, planes: int, n: int, stride: int) -> tuple[nn.Sequential, int]:
    """(n blocks, the channels that come out of them)."""
    out, downsample = planes * block.expansion, None
    if stride != 1 or inplanes != out:
        downsample = nn.Sequential(_conv(inplanes, out, 1, stride), nn.BatchNorm2d(out))
    blocks = [block(inplanes, planes, stride, downsample), *(block(out, planes) for _ in range(n - 1))]
    return nn.Sequential(*blocks), out


def resnet18(num_classes: int = 1000, **options) -> ResNet:
    """ResNet-18; options as ResNet's."""
    return ResNet(BasicBlock, (2, 2, 2, 2), num_classes, **options)


def resnet34(num_classes: int = 1000, **options) -> ResNet:
    """ResNet-34; options as ResNet's."""
    return ResNet(BasicBlock, (3, 4, 6, 3), num_classes, **options)


def resnet50(num_classes: int = 1000, **options) -> ResNet:
    """ResNet-50; options as ResNet's."""
    return ResNet(Bottleneck, (3, 4, 6, 3), num_classes, **options)
