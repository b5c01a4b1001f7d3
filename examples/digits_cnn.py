"""A CNN learns handwritten digits from shifted, turned and scaled copies of them.

python examples/digits_cnn.py
"""

from __future__ import annotations

import statistics
from time import perf_counter
from types import SimpleNamespace

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import pynn
from pynn import nn
from pynn.data import Augment, ImageLoader
from pynn.nn import functional as F

BRIEF = {"epochs": 3}


def data():
    """(X, X_test, y, y_test): 1797 scans of 8×8 pixels as float images, a quarter for the test."""
    X, y = load_digits(return_X_y=True)
    images = (X / 16).astype(np.float32).reshape(-1, 1, 8, 8)
    return train_test_split(images, y, test_size=0.25, stratify=y, random_state=0)


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.AdaptiveAvgPool2d(2),
        nn.Flatten(), nn.Dropout(0.3), nn.Linear(256, 10),
    )  # fmt: skip


def accuracy(model: nn.Module, images: np.ndarray, labels: np.ndarray) -> float:
    model.eval()
    with pynn.no_grad():
        found = model(pynn.tensor(images)).argmax(1).numpy()
    return float((found == labels).mean())


def main(epochs: int = 30, seed: int = 0, compile: bool = True, progress: bool = True) -> dict:
    X, X_test, y, y_test = data()
    pynn.manual_seed(seed)
    model = network()
    optimizer = pynn.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=1e-2)
    augment = Augment(shift=1, rotate=12, scale=(0.9, 1.1), seed=seed)
    loader = ImageLoader(X, y, augment, batch_size=32, shuffle=True, drop_last=True, prefetch=2)

    def step(images, labels):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images), labels, label_smoothing=0.05)
        loss.backward()
        optimizer.step()
        return loss

    run = pynn.compile(step) if compile else step
    start, losses = perf_counter(), []
    for epoch in range(epochs):
        for group in optimizer.param_groups:  # down to nothing along half a cosine
            group["lr"] = 4e-3 * (1 + np.cos(np.pi * epoch / epochs)) / 2
        model.train()
        losses.append(statistics.fmean(run(images, labels).item() for images, labels in loader))
        if progress:
            print(f"epoch {epoch + 1}: loss {losses[-1]:.3f}")
    trainer = SimpleNamespace(model=model, steps=epochs * len(loader), replayed=getattr(run, "replays", 0))
    return {
        "trainer": trainer, "losses": losses, "seconds": perf_counter() - start,
        "accuracy": accuracy(model, X_test, y_test),
    }  # fmt: skip


if __name__ == "__main__":
    found = main()
    print(f"{found['accuracy']:.2%} of the test scans, trained in {found['seconds']:.1f} s")
