"""A small vision transformer learns handwritten digits from shifted and turned copies of them.

A quarter of the scans is for the test alone. Of the rest a fifth is for choosing settings, then it is trained on, too:
rate 2e-3 and positions of a deviation of 0.3, as large as the patches' vectors, had 97.65 % of it right, 0.02, which
suits wide models, 96.91 %, rates of 4e-3 and 8e-3 97.53 and 96.67 %.

    python examples/vit_digits.py [choose]
"""

from __future__ import annotations

import itertools
import sys
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


def data(held: str):
    """(X, X_held, y, y_held): of 1797 scans of 8×8 pixels as float images those to learn from and those held out."""
    X, y = load_digits(return_X_y=True)
    images = (X / 16).astype(np.float32).reshape(-1, 1, 8, 8)
    X, X_test, y, y_test = train_test_split(images, y, test_size=0.25, stratify=y, random_state=0)
    if held == "test":
        return X, X_test, y, y_test
    return train_test_split(X, y, test_size=0.2, stratify=y, random_state=0)


def network(spread: float) -> nn.Module:
    """16 patches of 2×2 pixels and the class token, whose scores come from the mean over patches."""
    model = ViT(8, 2, 1, 10, "avg", embed_dim=48, depth=4, num_heads=4, mlp_ratio=2)
    nn.init.normal_(model.pos_embed, std=spread)
    return model


def main(
    epochs: int = 40, seed: int = 0, compile: bool = True, progress: bool = True, rate: float = 2e-3,
    spread: float = 0.3, held: str = "test",
) -> dict:  # fmt: skip
    X, X_held, y, y_held = data(held)
    pynn.manual_seed(seed)
    model = network(spread)
    optimizer = pynn.optim.AdamW(model.parameters(), lr=rate, weight_decay=5e-2)
    augment = Augment(shift=0.5, rotate=10, seed=seed)
    loader = ImageLoader(X, y, augment, batch_size=32, shuffle=True, drop_last=True, prefetch=2)

    trainer = Trainer(
        model, nn.CrossEntropyLoss(label_smoothing=0.05), optimizer, compile=compile,
        schedule=pynn.optim.lr_scheduler.OneCycleLR(optimizer, rate, epochs=epochs, steps_per_epoch=len(loader)),
        schedule_every="step",
    )  # fmt: skip
    start = perf_counter()
    history = trainer.fit(loader, epochs=epochs, progress=progress)
    seconds = perf_counter() - start
    return {"trainer": trainer, "history": history, "seconds": seconds, **trainer.evaluate(X_held, y_held)}


def choose() -> None:
    """What settings give on the scans that are held out for choosing."""
    for rate, spread in itertools.product((2e-3, 4e-3, 8e-3), (0.02, 0.3)):
        found = [main(seed=seed, progress=False, rate=rate, spread=spread, held="choice") for seed in range(3)]
        accuracy = np.mean([f["accuracy"] for f in found])
        print(f"rate {rate}, positions of a deviation of {spread}: {accuracy:.2%} of the scans held out", flush=True)


if __name__ == "__main__":
    if sys.argv[1:] == ["choose"]:
        choose()
    else:
        found = main()
        print(f"{found['accuracy']:.2%} of the test scans, trained in {found['seconds']:.1f} s")
