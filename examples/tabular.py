"""MLPs on three small tables of real measurements, beside scikit-learn's models.

Five-fold cross-validation, the same folds for all: the tables are so small that one split tells little. Nothing was
tuned on them but the number of epochs and the strength of decay, which are the same for all three.

    python examples/tabular.py
"""

from __future__ import annotations

from statistics import mean

import numpy as np
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine
from sklearn.model_selection import KFold, StratifiedKFold
from sklearn.preprocessing import StandardScaler

import pynn
from pynn import nn
from pynn.train import Trainer

BRIEF = {"folds": 2}
TABLES = {"diabetes": load_diabetes, "breast cancer": load_breast_cancer, "wine": load_wine}


def folds_of(y: np.ndarray, n: int):
    """(training, test) rows of each fold."""
    kind = KFold if y.dtype.kind == "f" else StratifiedKFold
    return kind(n, shuffle=True, random_state=0).split(np.zeros(len(y)), y)


def fitted(X, y, epochs: int, compile: bool, progress: bool) -> Trainer:
    """A small MLP, trained on scaled columns."""
    outputs = 1 if y.dtype.kind == "f" else int(y.max()) + 1
    model = nn.Sequential(nn.Linear(X.shape[1], 32), nn.SiLU(), nn.Dropout(0.2), nn.Linear(32, outputs))
    loss = nn.MSELoss() if outputs == 1 else nn.CrossEntropyLoss()
    optimizer = pynn.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=0.1)
    trainer = Trainer(model, loss, optimizer, compile=compile)
    trainer.fit(X, y[:, None] if outputs == 1 else y, epochs=epochs, progress=progress)
    return trainer


def r2(found: np.ndarray, y: np.ndarray) -> float:
    return float(1 - np.mean((found - y) ** 2) / np.mean((y - y.mean()) ** 2))


def score(table: str, epochs: int, folds: int, compile: bool, progress: bool) -> tuple[float, list[Trainer]]:
    """(R² or accuracy on rows not trained on, mean of the folds; the trainers)."""
    X, y = TABLES[table](return_X_y=True)
    scores, trainers = [], []
    for train, test in folds_of(y, folds):
        scale = StandardScaler().fit(X[train])
        center, spread = (y[train].mean(), y[train].std()) if y.dtype.kind == "f" else (0, 1)
        trainer = fitted(scale.transform(X[train]), (y[train] - center) / spread if center else y[train],
                         epochs, compile, progress)  # fmt: skip
        found = trainer.predict(scale.transform(X[test]))
        hit = r2(found[:, 0] * spread + center, y[test]) if center else np.mean(found.argmax(1) == y[test])
        scores.append(float(hit))
        trainers.append(trainer)
    return mean(scores), trainers


def main(epochs: int = 60, seed: int = 0, compile: bool = True, progress: bool = False, folds: int = 5) -> dict:
    pynn.manual_seed(seed)
    results: dict = {"trainers": []}
    for table in TABLES:
        results[table], trainers = score(table, epochs, folds, compile, progress)
        results["trainers"] += trainers
    return results


def baselines() -> dict[str, dict[str, float]]:
    """{table: {model: score}} of scikit-learn's models, with their own settings and the same folds."""
    from sklearn.ensemble import (
        GradientBoostingClassifier,
        GradientBoostingRegressor,
    )
    from sklearn.linear_model import LinearRegression, LogisticRegression
    from sklearn.model_selection import cross_val_score
    from sklearn.neural_network import MLPClassifier, MLPRegressor
    from sklearn.pipeline import make_pipeline

    found: dict[str, dict[str, float]] = {}
    for table, load in TABLES.items():
        X, y = load(return_X_y=True)
        if y.dtype.kind == "f":
            models = (
                LinearRegression(),
                MLPRegressor(max_iter=1000, random_state=0),
                GradientBoostingRegressor(random_state=0),
            )
        else:
            models = (
                LogisticRegression(),
                MLPClassifier(max_iter=500, random_state=0),
                GradientBoostingClassifier(random_state=0),
            )
        found[table] = {
            type(m).__name__: cross_val_score(make_pipeline(StandardScaler(), m), X, y, cv=list(folds_of(y, 5))).mean()
            for m in models
        }
    return found


if __name__ == "__main__":
    mine = main()
    for table, others in baselines().items():
        what = "R²" if table == "diabetes" else "accuracy"
        print(f"{table} ({what}): pynn {mine[table]:.3f}, " + ", ".join(f"{k} {v:.3f}" for k, v in others.items()))
