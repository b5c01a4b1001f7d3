"""A CNN learns handwritten digits from shifted, turned and scaled copies of them.

python examples/digits_cnn.py
"""

from __future__ import annotations

from time import perf_counter

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import pynn
from pynn import nn
from pynn.data import Augment, ImageLoader
from pynn.train import Trainer

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


def main(epochs: int = 30, seed: int = 0, compile: bool = True, progress: bool = True) -> dict:
    X, X_test, y, y_test = data()
    pynn.manual_seed(seed)
    model = network()
    optimizer = pynn.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=1e-2)
    augment = Augment(shift=1, rotate=12, scale=(0.9, 1.1), seed=seed)
    loader = ImageLoader(X, y, augment, batch_size=32, shuffle=True, drop_last=True, prefetch=2)

    trainer = Trainer(
        model, nn.CrossEntropyLoss(label_smoothing=0.05), optimizer, compile=compile,
        schedule=pynn.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs),
    )  # fmt: skip
    start = perf_counter()
    history = trainer.fit(loader, epochs=epochs, progress=progress)
    seconds = perf_counter() - start
    return {"trainer": trainer, "history": history, "seconds": seconds, **trainer.evaluate(X_test, y_test)}


if __name__ == "__main__":
    found = main()
    print(f"{found['accuracy']:.2%} of the test scans, trained in {found['seconds']:.1f} s")
