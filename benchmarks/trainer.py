"""What Trainer and loader cost a step beyond the bare step, and a loader beside slicing.

    python benchmarks/trainer.py

T2 is an MLP 64-32-10 with SGD and momentum at batches of 32. The bare step is its replayed halves on one batch, with
the loss read; both are timed in turns, in one process, and the difference is quoted.
"""

from __future__ import annotations

import statistics
from time import perf_counter

import numpy as np

import pynn
from pynn import nn
from pynn.data import DataLoader
from pynn.train import Trainer

ROUNDS, N, BATCH = 15, 32 * 2000, 32


def parts():
    """(trainer, X, y) of T2."""
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((N, 64)).astype(np.float32), rng.integers(0, 10, N)
    pynn.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    optimizer = pynn.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    return Trainer(model, nn.CrossEntropyLoss(), optimizer), X, y


def bare(trainer, X, y, steps: int) -> float:
    """Seconds a step of the replayed halves alone, with zero checks, batches or figures."""
    step = trainer._step()
    x, t = pynn.tensor(X[:BATCH]), pynn.tensor(y[:BATCH])
    start = perf_counter()
    for _ in range(steps):
        e, _, rows = step.differentiate(x, t)
        e.item()
        step.update(rows)
    return (perf_counter() - start) / steps


def fitted(trainer, X, y, steps: int, shuffle: bool) -> float:
    """Seconds a step of fit. What fit does once is taken off by a fit of no epochs."""
    seconds = []
    for epochs in (0, 1):
        start = perf_counter()
        trainer.fit(X, y, epochs=epochs, batch_size=BATCH, shuffle=shuffle, progress=False)
        seconds.append(perf_counter() - start)
    return (seconds[1] - seconds[0]) / steps


def loading(X, y, shuffle: bool) -> tuple[float, float]:
    """(seconds a batch of a DataLoader, of slicing or indexing by hand into tensors)."""
    loader = DataLoader((X, y), BATCH, shuffle)
    start = perf_counter()
    for _ in loader:
        pass
    mine = (perf_counter() - start) / len(loader)
    order = np.random.default_rng(0).permutation(len(X))
    start = perf_counter()
    for at in range(0, len(X), BATCH):
        rows = order[at : at + BATCH] if shuffle else slice(at, at + BATCH)
        pynn.from_numpy(X[rows]), pynn.from_numpy(y[rows])
    return mine, (perf_counter() - start) / len(loader)


def shown(name: str, values: list[float], unit: str = "µs") -> None:
    scale = 1e6 if unit == "µs" else 1.0
    print(f"{name:38} {statistics.median(values) * scale:7.2f} {unit}   "
          f"({min(values) * scale:.2f} to {max(values) * scale:.2f})")  # fmt: skip


def main() -> None:
    pynn.set_num_threads(1)
    trainer, X, y = parts()
    trainer.fit(X, y, epochs=1, batch_size=BATCH, progress=False)
    steps = N // BATCH
    alone: list[float] = []
    beyond: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(ROUNDS):
        before = bare(trainer, X, y, steps)
        alone.append(before)
        for shuffle in (False, True):
            beyond[shuffle].append(fitted(trainer, X, y, steps, shuffle) - bare(trainer, X, y, steps))
    shown("T2, the bare step", alone)
    shown("fit beyond it, in order", beyond[False])
    shown("fit beyond it, shuffled", beyond[True])
    for shuffle in (False, True):
        pairs = [loading(X, y, shuffle) for _ in range(ROUNDS)]
        what = "indexing" if shuffle else "slicing"
        shown(f"a batch of DataLoader ({what})", [a for a, _ in pairs])
        shown(f"  times {what} by hand", [a / b for a, b in pairs], "×")


if __name__ == "__main__":
    main()
