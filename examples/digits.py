"""An MLP learns handwritten digits, beside scikit-learn's MLP and gradient boosting.

python examples/digits.py
"""

from __future__ import annotations

from time import perf_counter

from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import pynn
from pynn import nn
from pynn.train import Trainer

BRIEF = {"epochs": 4}


def data():
    """(X, X_test, y, y_test): 1797 scans of 8×8 pixels, a quarter for the test."""
    X, y = load_digits(return_X_y=True)
    return train_test_split(X / 16, y, test_size=0.25, stratify=y, random_state=0)


def main(epochs: int = 40, seed: int = 0, compile: bool = True, progress: bool = True) -> dict:
    X, X_test, y, y_test = data()
    pynn.manual_seed(seed)
    model = nn.Sequential(
        nn.Linear(64, 256), nn.ReLU(), nn.Dropout(0.5),
        nn.Linear(256, 128), nn.ReLU(), nn.Dropout(0.5),
        nn.Linear(128, 10),
    )  # fmt: skip
    optimizer = pynn.optim.AdamW(model.parameters(), lr=2e-3)
    trainer = Trainer(model, nn.CrossEntropyLoss(label_smoothing=0.1), optimizer, compile=compile)
    start = perf_counter()
    history = trainer.fit(X, y, epochs=epochs, progress=progress)
    seconds = perf_counter() - start
    return {"trainer": trainer, "history": history, "seconds": seconds, **trainer.evaluate(X_test, y_test)}


def baselines() -> dict[str, float]:
    """Test accuracy of scikit-learn's models with their own settings."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.neural_network import MLPClassifier

    X, X_test, y, y_test = data()
    models = MLPClassifier((256, 128), random_state=0), HistGradientBoostingClassifier(random_state=0)
    return {type(m).__name__: m.fit(X, y).score(X_test, y_test) for m in models}


if __name__ == "__main__":
    found = main()
    print(f"pynn: {found['accuracy']:.2%} of the test scans, trained in {found['seconds']:.1f} s")
    for name, accuracy in baselines().items():
        print(f"{name}: {accuracy:.2%}")
