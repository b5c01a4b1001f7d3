"""python -m pynn demo: a network learns to read handwritten digits.

The 1797 scans are scikit-learn's load_digits: real handwriting (NIST forms, counted down to 8×8 with 17
grey levels). A quarter is kept for the test, the same whatever the seed, and is looked at once, at the
end: nothing is stopped or chosen by it. A tenth of the rest is for validation curves.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

import numpy as np

SPLIT = 0  # random_state of both splits: they never depend on the seed


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(prog="python -m pynn demo", description="a network learns to read digits")
    parser.add_argument("--out", type=Path, default=Path("demo-output"), metavar="DIR", help="folder for what it makes")
    parser.add_argument("--seed", type=int, default=0, help="of initialisation, order and dropout")
    parser.add_argument("--epochs", type=int, default=40, help="passes over the training scans")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser.parse_args(argv)


def digits() -> tuple[np.ndarray, ...]:
    """(X, y) of training, validation and test, as six arrays; grey levels as 0…1."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    X, y = load_digits(return_X_y=True)
    X, X_test, y, y_test = train_test_split(X / 16, y, test_size=0.25, stratify=y, random_state=SPLIT)
    X, X_val, y, y_val = train_test_split(X, y, test_size=0.1, stratify=y, random_state=SPLIT)
    return X, y, X_val, y_val, X_test, y_test


def train(seed: int, epochs: int, data: tuple[np.ndarray, ...], progress: bool):
    """(trainer, history) of the demo's network, trained.

    Its sizes, dropout and smoothing were chosen by cross-validation within the training part.
    """
    import pynn
    from pynn import nn

    X, y, X_val, y_val = data[:4]
    pynn.manual_seed(seed)
    model = nn.Sequential(
        nn.Linear(64, 256),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(256, 128),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(128, 10),
    )
    optimizer = pynn.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01)
    trainer = pynn.train.Trainer(model, nn.CrossEntropyLoss(label_smoothing=0.1), optimizer)
    history = trainer.fit(X, y, epochs=epochs, batch_size=32, validation_data=(X_val, y_val), progress=progress)
    return trainer, history


def main(argv: Sequence[str] | None = None) -> int:
    """Trains, tests, saves, draws, and says what it did."""
    args = arguments(argv)
    try:
        import matplotlib  # noqa: F401
        import sklearn  # noqa: F401
    except ImportError as e:
        print(f"The demo needs {e.name}, which is not installed: pip install 'pynn-core[demo]'")
        return 1
    from ..config import config
    from ..nn.saving import save
    from .pictures import confusion_picture

    data = digits()
    X_test, y_test = data[4:]
    c = config()
    print(
        f"Real handwritten digits, 8×8 pixels: {len(data[0])} to train on, {len(data[2])} for validation, "
        f"{len(X_test)} for the test."
    )
    print(f"pynn {c['versions']['pynn']}, {c['isa']['level']} kernels, {c['threads']['n']} thread(s), seed {args.seed}")
    start = perf_counter()
    trainer, history = train(args.seed, args.epochs, data, not args.quiet)
    seconds = perf_counter() - start
    scores = trainer.predict(X_test)
    predicted = scores.argmax(1)
    right = int((predicted == y_test).sum())
    print(trainer.model)
    print(f"{history.epochs} epochs in {seconds:.1f} s.")
    print(f"Test accuracy: {right / len(y_test):.2%} ({right} of {len(y_test)} scans that were never trained on)")

    args.out.mkdir(parents=True, exist_ok=True)
    save(trainer.model, args.out / "model.safetensors", metadata={"made by": "python -m pynn demo"})
    if history.epochs:
        history.plot(args.out / "curves.png")
    confusion_picture(X_test, y_test, predicted, args.out / "confusion.png")
    print(f"\nIn {args.out}/:")
    print("  model.safetensors  the network and its weights")
    print("  curves.png         loss and accuracy by epoch")
    print("  confusion.png      which digit was read as which, and the scans that were read wrongly")
    print(
        "\nTo go on:\n"
        f"  model = pynn.load({str(args.out / 'model.safetensors')!r})     # a Module, to train on\n"
        "  model.session().predict(x)                                # arrays in, arrays out\n"
        f"or read pynn/cli/demo.py, which is short. Other runs: python -m pynn demo --seed 1 --epochs 100"
    )
    return 0
