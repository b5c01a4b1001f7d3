"""A small U-Net finds discs among discs, squares and noise that this program draws.

python examples/unet_shapes.py
"""

from __future__ import annotations

from time import perf_counter

import numpy as np

import pynn
from pynn.models import UNet
from pynn.nn import functional as F
from pynn.train import Trainer

BRIEF = {"epochs": 4, "n": 400}
SIDE = 32


def drawn(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(images, masks of their discs), float32 (n, 1, SIDE, SIDE): one to three shapes each, and noise."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    images, masks = (np.zeros((n, 1, SIDE, SIDE), np.float32) for _ in range(2))
    for image, mask in zip(images, masks):
        for k in range(rng.integers(1, 4)):
            r, (y, x) = rng.uniform(3, 7), rng.uniform(5, SIDE - 5, 2)
            disc = k == 0 or rng.random() < 0.5
            away = np.hypot(rows - y, columns - x) if disc else np.maximum(abs(rows - y), abs(columns - x))
            inside = away <= r
            image[0][inside] = rng.uniform(0.4, 1)
            mask[0][inside] = disc
    images += rng.normal(0, 0.15, images.shape).astype(np.float32)
    return images, masks


def iou(masks: np.ndarray, scores: np.ndarray) -> float:
    """Pixels found that are right, of those found or right."""
    found = scores > 0
    return float((found & (masks > 0)).sum() / (found | (masks > 0)).sum())


def overlap_loss(scores: pynn.Tensor, masks: pynn.Tensor) -> pynn.Tensor:
    """Cross-entropy of pixels plus what the discs fail to overlap."""
    return F.binary_cross_entropy_with_logits(scores, masks) + F.dice_loss(scores.sigmoid(), masks)


def main(epochs: int = 8, n: int = 1000, seed: int = 0, compile: bool = True, progress: bool = True) -> dict:
    images, masks = drawn(n, 1000 + seed)
    test = drawn(200, 5000 + seed)
    pynn.manual_seed(seed)
    model = UNet(width=8)
    optimizer = pynn.optim.Adam(model.parameters(), lr=4e-3)
    trainer = Trainer(model, overlap_loss, optimizer, metrics=[iou], compile=compile)
    start = perf_counter()
    history = trainer.fit(images, masks, epochs, 16, validation_data=test, drop_last=True, progress=progress)
    seconds = perf_counter() - start
    return {"trainer": trainer, "history": history, "seconds": seconds, **trainer.evaluate(*test)}


if __name__ == "__main__":
    found = main()
    print(f"IoU {found['iou']:.3f} on shapes never seen, trained in {found['seconds']:.1f} s")
