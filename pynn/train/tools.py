"""Beside a fit: a search for its learning rate, and the same fit with several seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from ..autograd import enable_grad
from ..random import manual_seed
from .checkpoint import undo
from .history import History
from .trainer import Trainer

__all__ = ["Rates", "Runs", "lr_find", "repeat"]


class Rates(NamedTuple):
    """What lr_find saw: the loss, smoothed, at each rate, and the rate where it fell fastest."""

    rates: np.ndarray
    losses: np.ndarray
    suggestion: float

    def plot(self, ax=None):
        """Draws the loss by rate on matplotlib axes (new ones for None), with the suggestion; returns the axes."""
        from matplotlib import pyplot

        ax = pyplot.figure(layout="constrained").subplots() if ax is None else ax
        ax.plot(self.rates, self.losses)
        ax.axvline(self.suggestion, color="#999", linewidth=1)
        ax.set_xscale("log")
        ax.set_xlabel("learning rate")
        ax.set_ylabel("loss")
        return ax


def lr_find(
    trainer: Trainer, X, y=None, low: float = 1e-7, high: float = 10.0, steps: int = 100, batch_size: int = 32,
    smooth: float = 0.9,
) -> Rates:  # fmt: skip
    """Trains for some steps at rates that grow from low to high, and puts everything back as it was.

    Stops where the smoothed loss is four times the least one, or not finite. The suggestion is where it falls fastest
    by the logarithm of the rate.

    Args:
        X, y: as for fit.
        smooth: part of the running mean that stays at each step.

    Raises:
        ValueError: arguments out of range, or a loss that is not finite from the start; besides, as fit.

    Source: Smith, arXiv 1506.01186, §3.3.
    """
    if not 0 < low < high or steps < 10 or not 0 <= smooth < 1:
        raise ValueError(f"lr_find: expected 0 < low < high, steps >= 10 and 0 <= smooth < 1, got {low}, "
                         f"{high}, {steps} and {smooth}")  # fmt: skip
    if trainer.optimizer is None:
        raise ValueError("lr_find: the Trainer was made without an optimizer")
    feed = trainer._feed("lr_find", X, y, batch_size, None, **({} if y is None else {"shuffle": True}))
    put_back = undo(trainer)
    first = [g["lr"] for g in trainer.optimizer.param_groups]
    evaluating = [m for m in trainer.model.modules() if not m.training]
    tried = low * (high / low) ** (np.arange(steps) / (steps - 1))
    losses: list[float] = []
    try:
        for value in _steps(trainer, feed, tried, first):
            mean = value if not losses else smooth * losses[-1] + (1 - smooth) * value
            if not math.isfinite(mean) or (losses and mean > 4 * min(losses)):
                break
            losses.append(mean)
    finally:
        put_back()
        for m in evaluating:
            m.training = False
    if len(losses) < 5:
        raise ValueError(f"lr_find: expected a loss that stays finite for a while, got {losses} at rates from {low}")
    rates = tried[: len(losses)]
    slope = np.gradient(np.array(losses), np.log(rates))
    return Rates(rates, np.array(losses), float(rates[int(np.argmin(slope))]))


def _steps(trainer: Trainer, feed, rates: np.ndarray, first: list[float]):
    """The loss of each step at its rate; groups keep the ratios of their rates."""
    step = trainer._step()
    trainer.model.train()
    top = max(first) or 1.0
    with enable_grad():
        for (x, t, w), rate in zip(_endless(feed), rates):
            for group, own in zip(trainer.optimizer.param_groups, first):
                group["lr"] = rate * (own / top or 1.0)
            if w is not None:
                step.use_weights()
            e, _, rows = step.differentiate(x, t) if w is None else step.differentiate(x, t, w)
            value = e.item()
            if math.isfinite(value):
                step.update(rows)
            yield value


def _endless(feed):
    """Batches of one epoch after the other."""
    while True:
        found = None
        for found in feed.batches(feed.take_key()):
            yield found
        if found is None:
            raise ValueError("lr_find: expected at least one batch, got none")


class Runs(NamedTuple):
    """The fits of repeat, in the order of their seeds."""

    seeds: list[int]
    trainers: list[Trainer]
    histories: list[History]

    def summary(self) -> dict[str, tuple[float, float]]:
        """{figure: (mean, standard deviation)} over the seeds, of the last epoch; the deviation with N − 1."""
        last = {name: np.array([h[name][-1] for h in self.histories]) for name in self.histories[0]}
        return {k: (float(v.mean()), float(v.std(ddof=1)) if len(v) > 1 else math.nan) for k, v in last.items()}

    def __str__(self) -> str:
        return "\n".join(f"{k}: {m:.4g} ± {s:.2g}" for k, (m, s) in self.summary().items())


def repeat(make: Callable[[], Trainer], seeds: Iterable[int], *data: Any, **fit: Any) -> Runs:
    """Makes a Trainer and fits it, once for each seed; a single run tells little about a method.

    Args:
        make: make() → Trainer, called after pynn.manual_seed(seed), with a new model and optimizer.
        seeds: of the default generator.
        data, fit: the arguments of Trainer.fit.

    Raises:
        ValueError: no seeds. TypeError: make gives no Trainer.
    """
    runs = Runs([], [], [])
    for seed in seeds:
        manual_seed(seed)
        trainer = make()
        if not isinstance(trainer, Trainer):
            raise TypeError(f"repeat: argument 'make': expected a function that gives a Trainer, got {trainer!r}")
        runs.histories.append(trainer.fit(*data, **fit))
        runs.seeds.append(seed)
        runs.trainers.append(trainer)
    if not runs.seeds:
        raise ValueError("repeat: argument 'seeds': expected at least one, got none")
    return runs
