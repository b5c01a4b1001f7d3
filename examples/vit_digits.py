"""A small vision transformer learns handwritten digits from shifted and turned copies of them.

python examples/vit_digits.py
"""

from __future__ import annotations

from time import perf_counter

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import pynn
from pynn import nn
from pynn.data import Augment, ImageLoader
from pynn.models import ViT
from pynn.train import Trainer

BRIEF = {"epochs": 3}


def data():
    """(X, X_test, y, y_test): 1797 scans of 8×8 pixels as float images, a quarter for the test."""
    X, y = load_digits(return_X_y=True)
    images = (X / 16).astype(np.float32).reshape(-1, 1, 8, 8)
    return train_test_split(images, y, test_size=0.25, stratify=y, random_state=0)


def network() -> nn.Module:
    """16 patches of 2×2 pixels and the class token, whose scores come from the mean over patches."""
    model = ViT(8, 2, 1, 10, "avg", embed_dim=48, depth=4, num_heads=4, mlp_ratio=2)
    # as large as the patches' vectors: from the 0.02 that suits wide models this one learns places late
    nn.init.normal_(model.pos_embed, std=0.3)
    return model


def main(epochs: int = 40, seed: int = 0, compile: bool = True, progress: bool = True) -> dict:
    X, X_test, y, y_test = data()
    pynn.manual_seed(seed)
    model = network()
    optimizer = pynn.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=5e-2)
    augment = Augment(shift=0.5, rotate=10, seed=seed)
    loader = ImageLoader(X, y, augment, batch_size=32, shuffle=True, drop_last=True, prefetch=2)

    trainer = Trainer(
        model, nn.CrossEntropyLoss(label_smoothing=0.05), optimizer, compile=compile,
        schedule=pynn.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, epochs=epochs, steps_per_epoch=len(loader)),
        schedule_every="step",
    )  # fmt: skip
    start = perf_counter()
    history = trainer.fit(loader, epochs=epochs, progress=progress)
    seconds = perf_counter() - start
    return {"trainer": trainer, "history": history, "seconds": seconds, **trainer.evaluate(X_test, y_test)}


if __name__ == "__main__":
    found = main()
    print(f"{found['accuracy']:.2%} of the test scans, trained in {found['seconds']:.1f} s")
