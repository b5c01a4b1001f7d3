"""Augmentation: what happens to image k in an epoch depends on (seed, epoch, k) alone, not on the batch it is in."""

from __future__ import annotations

import math

import numpy as np

from ..op import OPS
from ..ops.dropout import philox
from ..tensor import Tensor, from_numpy

__all__ = ["Augment"]

_DRAWS = 16  # uniform numbers an image


def uniforms(seed: int, epoch: int, index: np.ndarray, n: int = _DRAWS) -> np.ndarray:
    """[len(index), n] numbers in [0, 1), those of row k fixed by (seed, epoch, index[k])."""
    k = np.asarray(index, np.uint64)[:, None]
    low = np.uint64(0xFFFFFFFF)
    block = np.arange(-(-n // 4), dtype=np.uint64) + 0 * k
    counter = (block, k & low, k >> np.uint64(32), np.full_like(block, epoch & 0xFFFFFFFF))
    words = philox(counter, (seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF))
    return np.moveaxis(words, 0, -1).reshape(len(k), -1)[:, :n] / 2.0**32


class Augment:
    """Moves, cuts and recolours batches of images, at random.

    Args:
        shift: up to how many pixels an image moves, each way; whole pixels, as crops of a padded image do.
        flip: whether every other image, by chance, is mirrored left to right.
        rotate: up to how many degrees it turns about its centre. scale: (least, most) factor of its size.
        brightness, contrast, saturation: up to which share these change, in [0, 1]; saturation of 3 channels.
        noise: standard deviation of normal noise, in units of the result.
        cutout: side of a square that is set to 0, in pixels.
        mixup: α of Beta(α, α), the share of another image of the batch; needs labels.
        size: (height, width) of the result, cut from the middle; None keeps the images'.
        seed: with the epoch and an image's number it fixes what happens to it.

    Called with uint8 images (N, H, W, C) or (N, H, W), or floating ones (N, C, H, W), it gives float32 (N, C, H, W),
    channels-last in memory, uint8 divided by 255.

    Raises:
        ValueError: amounts out of range; images of another shape. TypeError: images of another dtype.

    Source: S1 §6.6 (F-REG-11); DeVries and Taylor, arXiv 1708.04552 (cut-out); Zhang et al., arXiv 1710.09412 (mixup).
    """

    def __init__(
        self, *, shift: int = 0, flip: bool = False, rotate: float = 0.0, scale: tuple[float, float] = (1.0, 1.0),
        brightness: float = 0.0, contrast: float = 0.0, saturation: float = 0.0, noise: float = 0.0, cutout: int = 0,
        mixup: float = 0.0, size: tuple[int, int] | None = None, seed: int = 0,
    ):  # fmt: skip
        amounts = {"shift": shift, "rotate": rotate, "noise": noise, "cutout": cutout, "mixup": mixup}
        shares = {"brightness": brightness, "contrast": contrast, "saturation": saturation}
        for name, v in {**amounts, **shares}.items():
            if not (0 <= v < math.inf) or (name in shares and v > 1):
                wanted = "in [0, 1]" if name in shares else ">= 0"
                raise ValueError(f"Augment: argument '{name}': expected a number {wanted}, got {v}")
        if not 0 < scale[0] <= scale[1] < math.inf:
            raise ValueError(f"Augment: argument 'scale': expected 0 < least <= most, got {scale}")
        self.shift, self.flip, self.rotate, self.scale, self.cutout = int(shift), flip, rotate, scale, int(cutout)
        self.brightness, self.contrast, self.saturation = brightness, contrast, saturation
        self.noise, self.mixup, self.size, self.seed = noise, mixup, size, int(seed)

    def __call__(self, images, labels=None, *, epoch: int = 0, index=None, n_classes: int | None = None):
        """The images of numbers `index` (0, 1, … by default) as they are in that epoch.

        With labels it gives (images, labels); with mixup these are probabilities (N, n_classes).
        """
        x, scale = _images(images)
        n, h, w, _ = x.shape
        index = np.arange(n) if index is None else np.asarray(index)
        if index.shape != (n,):
            raise ValueError(f"Augment: argument 'index': expected a number for each of {n} images, got {index.shape}")
        u = uniforms(self.seed, epoch, index)
        size = (h, w) if self.size is None else tuple(self.size)
        given = self._place(u, h, w, size), self._colour(u, x, scale), self._hole(u, size)
        args = [None if a is None else Tensor(a) for a in given]
        y = OPS.augment(from_numpy(x), *args, size=size, scale=scale)
        if self.noise:
            y = y + Tensor(self._noise(y.shape, epoch, index))
        y = y.permute(0, 3, 1, 2)
        if self.mixup and n:
            return self._mixed(y, labels, u, n_classes)
        return y if labels is None else (y, labels)

    def _place(self, u, h, w, size):
        """[N, 6]: where each pixel of the result comes from. Turned and scaled about the centre, then moved."""
        angle = np.deg2rad(self.rotate) * (2 * u[:, 0] - 1)
        factor = self.scale[0] + (self.scale[1] - self.scale[0]) * u[:, 1]
        mirror = np.where(self.flip & (u[:, 2] < 0.5), -1.0, 1.0)
        dx, dy = (np.floor((2 * self.shift + 1) * u[:, k]) - self.shift for k in (3, 4))
        a, b = np.cos(angle) / factor, np.sin(angle) / factor
        to = (size[1] - 1) / 2, (size[0] - 1) / 2
        a0, a1, a3, a4 = mirror * a, mirror * b, -b, a
        return np.stack([
            a0, a1, (w - 1) / 2 + dx - a0 * to[0] - a1 * to[1],
            a3, a4, (h - 1) / 2 + dy - a3 * to[0] - a4 * to[1],
        ], 1).astype(np.float32)  # fmt: skip

    def _colour(self, u, x, scale):
        """[N, C, C + 1] of brightness, contrast about the image's mean, saturation about each pixel's grey."""
        if not (self.brightness or self.contrast or self.saturation):
            return None
        n, c = len(x), x.shape[3]
        bright, contrast, colourful = (
            1 + share * (2 * u[:, 5 + k] - 1)
            for k, share in enumerate((self.brightness, self.contrast, self.saturation))
        )
        grey = np.array([0.299, 0.587, 0.114]) if c == 3 else np.full(c, 1 / c)
        colourful = colourful if c == 3 else np.ones(n)
        mean = x.mean((1, 2), dtype=np.float64) @ grey * scale * bright
        mix = colourful[:, None, None] * np.eye(c) + (1 - colourful)[:, None, None] * grey
        m = np.empty((n, c, c + 1), np.float32)
        m[:, :, :c] = mix * (bright * contrast)[:, None, None]
        m[:, :, c] = ((1 - contrast) * mean)[:, None]  # each row of mix sums to 1
        return m

    def _hole(self, u, size):
        if not self.cutout:
            return None
        corner = [np.floor(u[:, 8 + k] * size[k]).astype(np.int64) - self.cutout // 2 for k in (0, 1)]
        return np.stack([corner[0], corner[0] + self.cutout, corner[1], corner[1] + self.cutout], 1)

    def _noise(self, shape, epoch, index):
        """Normal numbers, those of an image from a stream of its own."""
        noise = np.empty(shape, np.float32)
        for k, number in enumerate(index.tolist()):
            stream = np.random.Generator(np.random.Philox(key=[self.seed, epoch], counter=[0, 0, number, 1]))
            stream.standard_normal(dtype=np.float32, out=noise[k])
        noise *= self.noise
        return noise

    def _mixed(self, y, labels, u, n_classes):
        """λ·image + (1 − λ)·its neighbour in an order by chance, labels alike."""
        from scipy.special import betaincinv

        if labels is None or n_classes is None:
            raise ValueError("Augment: mixup needs labels and n_classes")
        share = betaincinv(self.mixup, self.mixup, u[:, 10])
        order = np.argsort(u[:, 11], kind="stable")
        partner = np.empty_like(order)
        partner[order] = np.roll(order, 1)
        one_hot = np.eye(n_classes, dtype=np.float32)[np.asarray(labels)]
        t = share.astype(np.float32)[:, None]
        mixed = y * Tensor(t[:, :, None, None]) + y[Tensor(partner)] * Tensor(1 - t[:, :, None, None])
        return mixed, Tensor(t * one_hot + (1 - t) * one_hot[partner])


def _images(images) -> tuple[np.ndarray, float]:
    """(images as N, H, W, C, what they are multiplied with)."""
    x = images._array() if isinstance(images, Tensor) else np.asarray(images)
    if x.dtype == np.uint8 and x.ndim in (3, 4):
        return (x[..., None] if x.ndim == 3 else x), 1 / 255
    if x.ndim != 4:
        raise ValueError(f"Augment: argument 'images': expected uint8 (N, H, W, C) or floats (N, C, H, W), got "
                         f"{x.dtype} of shape {x.shape}")  # fmt: skip
    if x.dtype.kind != "f":
        raise TypeError(f"Augment: argument 'images': expected uint8 or a floating dtype, got {x.dtype}")
    return x.transpose(0, 2, 3, 1).astype(np.float32, copy=False), 1.0
