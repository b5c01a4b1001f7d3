"""A convolutional autoencoder."""

from __future__ import annotations

from .. import nn

__all__ = ["ConvAutoencoder"]


class ConvAutoencoder(nn.Module):
    """Reconstruction (N, in_channels, S, S), within [0, 1], of images alike, by way of latent_dim numbers.

    Two convolutions of stride 2 and a linear layer, and the same backwards with nearest upsampling.

    Raises:
        ValueError: image_size is no multiple of 4.
    """

    def __init__(self, in_channels: int = 1, image_size: int = 28, latent_dim: int = 16, width: int = 16):
        super().__init__()
        if image_size < 4 or image_size % 4:
            raise ValueError(f"ConvAutoencoder: argument 'image_size': expected a multiple of 4, got {image_size}")
        self._shape = (2 * width, image_size // 4, image_size // 4)
        n = 2 * width * (image_size // 4) ** 2
        self.encoder = nn.Sequential(
            nn.Conv2d(in_channels, width, 3, stride=2, padding=1), nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1), nn.ReLU(),
            nn.Flatten(), nn.Linear(n, latent_dim),
        )  # fmt: skip
        self.expand = nn.Sequential(nn.Linear(latent_dim, n), nn.ReLU())
        self.decoder = nn.Sequential(
            nn.Upsample(scale_factor=2), nn.Conv2d(2 * width, width, 3, padding=1), nn.ReLU(),
            nn.Upsample(scale_factor=2), nn.Conv2d(width, in_channels, 3, padding=1), nn.Sigmoid(),
        )  # fmt: skip

    def encode(self, x):
        """The latent numbers (N, latent_dim) of images."""
        return self.encoder(x)

    def decode(self, z):
        """The images of latent numbers."""
        return self.decoder(self.expand(z).reshape(z.shape[0], *self._shape))

    def forward(self, x):
        return self.decode(self.encode(x))
