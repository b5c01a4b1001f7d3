"""A small U-Net finds discs among discs, squares and noise that this program draws.

python examples/unet_shapes.py
"""

from __future__ import annotations

import statistics
from time import perf_counter
from types import SimpleNamespace

import numpy as np

import pynn
from pynn import nn
from pynn.data import DataLoader
from pynn.models import UNet
from pynn.nn import functional as F

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


def iou(model: nn.Module, images: np.ndarray, masks: np.ndarray) -> float:
    """Pixels found that are right, of those found or right."""
    model.eval()
    with pynn.no_grad():
        found = model(pynn.tensor(images)).numpy() > 0
    return float((found & (masks > 0)).sum() / (found | (masks > 0)).sum())


def main(epochs: int = 8, n: int = 1000, seed: int = 0, compile: bool = True, progress: bool = True) -> dict:
    images, masks = drawn(n, 1000 + seed)
    test = drawn(200, 5000 + seed)
    pynn.manual_seed(seed)
    model = UNet(width=8)
    optimizer = pynn.optim.Adam(model.parameters(), lr=4e-3)

    def step(x, t):
        optimizer.zero_grad()
        y = model(x)
        loss = F.binary_cross_entropy_with_logits(y, t) + F.dice_loss(y.sigmoid(), t)
        loss.backward()
        optimizer.step()
        return loss

    run = pynn.compile(step) if compile else step
    loader = DataLoader((images, masks), 16, shuffle=True, drop_last=True)
    start, losses = perf_counter(), []
    for epoch in range(epochs):
        model.train()
        losses.append(statistics.fmean(run(x, t).item() for x, t in loader))
        if progress:
            print(f"epoch {epoch + 1}: loss {losses[-1]:.3f}, IoU {iou(model, *test):.3f}")
    trainer = SimpleNamespace(model=model, steps=epochs * len(loader), replayed=getattr(run, "replays", 0))
    return {
        "trainer": trainer, "losses": losses, "seconds": perf_counter() - start, "iou": iou(model, *test),
    }  # fmt: skip


if __name__ == "__main__":
    found = main()
    print(f"IoU {found['iou']:.3f} on shapes never seen, trained in {found['seconds']:.1f} s")
