"""The running loss and metrics of an epoch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import _core
from ..tensor import Tensor
from .metrics import Metric

__all__ = ["Totals"]

HELD_BATCHES, HELD_BYTES = 32, 1 << 20  # outputs held back for the metrics


class Totals:
    """Sums over the batches of an epoch. Outputs are held back for the metrics, which take many batches at a time.

    Args:
        metrics: what is measured; several Totals may share them one after the other.
        per_sample: the loss is a mean over its batch, not a sum.
    """

    def __init__(self, metrics: Sequence[Metric], per_sample: bool):
        self._metrics = metrics
        self._per_sample = per_sample
        self._loss = 0.0
        self._weight = 0.0
        self._held: list[tuple[Any, Any]] = []
        self._held_bytes = 0
        for m in metrics:
            m.reset()

    def add(self, loss: float, output: Any, target: Any, n: int, weight: float | None = None) -> None:
        """One more batch of n samples; weight is the sum of their weights where they have some."""
        weight = n if weight is None else weight
        self._loss += loss * weight if self._per_sample else loss
        self._weight += weight
        if self._metrics:
            if not isinstance(output, Tensor) or not isinstance(target, Tensor):
                raise TypeError(
                    "Trainer: metrics need one output and one target; metrics=None, or a model and loss of one each"
                )
            y, t = _core.read_view(output), _core.read_view(target)
            self._held.append((y, t))
            self._held_bytes += y.nbytes + t.nbytes
            if len(self._held) == HELD_BATCHES or self._held_bytes > HELD_BYTES:
                self._count()

    def _count(self) -> None:
        """Gives the batches held back to the metrics."""
        if self._held:
            joined = None
            for m in self._metrics:
                if m.exact:
                    joined = joined or [np.concatenate(part) for part in zip(*self._held, strict=True)]
                    m.update(*joined)
                else:
                    for y, t in self._held:
                        m.update(y, t)
            self._held.clear()
            self._held_bytes = 0

    def means(self, prefix: str = "", cheap: bool = False) -> dict[str, float]:
        """The loss and each metric of the samples so far; cheap leaves out what takes long."""
        self._count()
        figures = {prefix + "loss": self._loss / self._weight if self._weight else math.nan}
        for m in self._metrics:
            if m.cheap or not cheap:
                figures[prefix + m.name] = m.value()
        return figures

    def state(self) -> dict[str, Any]:
        """The sums so far: numbers, arrays and lists of them."""
        self._count()
        return {"loss": self._loss, "weight": self._weight, "metrics": [m.state() for m in self._metrics]}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on from what state() gave.

        Raises:
            ValueError: other metrics.
        """
        if len(state["metrics"]) != len(self._metrics):
            raise ValueError(
                f"Trainer: expected the state of {len(self._metrics)} metrics, got {len(state['metrics'])}"
            )
        self._loss, self._weight = state["loss"], state["weight"]
        self._held.clear()
        self._held_bytes = 0
        for m, s in zip(self._metrics, state["metrics"]):
            m.set_state(s)
