"""LeNet: two convolutions with pooling, three linear layers."""

from __future__ import annotations

from .. import nn

__all__ = ["LeNet"]


class LeNet(nn.Module):
    """Logits (N, num_classes) of images (N, in_channels, image_size, image_size); ReLU and max pooling throughout.

    Raises:
        ValueError: images of less than 12 pixels a side.

    Source: LeCun, Bottou, Bengio and Haffner, Proc. IEEE 86 (1998), with today's activations; S1 §3.
    """

    def __init__(self, num_classes: int = 10, in_channels: int = 1, image_size: int = 28):
        super().__init__()
        if image_size < 12:
            raise ValueError(f"LeNet: argument 'image_size': expected at least 12 pixels, got {image_size}")
        side = (image_size // 2 - 4) // 2
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2),
        )  # fmt: skip
        self.classifier = nn.Sequential(
            nn.Flatten(), nn.Linear(16 * side * side, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(),
            nn.Linear(84, num_classes),
        )  # fmt: skip

    def forward(self, x):
        return self.classifier(self.features(x))
