"""Figures beside the loss, of a whole epoch: counted or summed over its batches, never averages of averages.

A metric has a name, `update(output, target)` for a batch of NumPy arrays, `value()` for all batches since `reset()`,
and its state in plain attributes. `exact` ones do not depend on how samples are cut into batches, to the last bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..nn import BCELoss, BCEWithLogitsLoss, CrossEntropyLoss

__all__ = ["METRICS", "Metric", "metrics_of", "takes_labels"]


def takes_labels(loss) -> bool:
    """Whether integers are class labels to this loss, and no numbers to come near to."""
    return isinstance(loss, CrossEntropyLoss) or getattr(loss, "__name__", "") in ("cross_entropy", "nll_loss")


class Metric:
    """The base of metrics.

    Attributes:
        name: what history calls it.
        better: "max" or "min".
        exact: whether batches may be joined before update; else each is given alone.
        cheap: whether value() may be asked while an epoch runs.
    """

    name = ""
    better = "max"
    exact = True
    cheap = True

    def reset(self) -> None:
        """Nothing was seen yet."""
        raise NotImplementedError

    def update(self, output: np.ndarray, target: np.ndarray) -> None:
        """Takes in a batch."""
        raise NotImplementedError

    def value(self) -> float:
        """The figure of all batches; NaN where it is not defined."""
        raise NotImplementedError

    def state(self) -> dict[str, Any]:
        """What was seen: numbers, arrays and lists of them."""
        return {
            k: v.copy() if isinstance(v, (list, np.ndarray)) else v for k, v in vars(self).items() if k in self.kept
        }

    kept: tuple[str, ...] = ()

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on from what state() gave."""
        vars(self).update(state)


class _Sums(Metric):
    """A quotient of two sums."""

    kept = ("total", "count")

    def reset(self):
        self.total, self.count = 0, 0

    def value(self):
        return float(self.total / self.count) if self.count else math.nan


class _Classes:
    """What output and target say of classes: for a loss of labels, or of yes and no."""

    def __init__(self, loss):
        self.binary = isinstance(loss, (BCELoss, BCEWithLogitsLoss))
        self.border = 0.0 if isinstance(loss, BCEWithLogitsLoss) else 0.5
        self.ignored = getattr(loss, "ignore_index", -100)

    def labels(self, output: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(predicted, true) labels that count, in one dimension."""
        if self.binary:
            return (output > self.border).ravel().astype(np.int64), (target > 0.5).ravel().astype(np.int64)
        if target.ndim == output.ndim:  # probabilities all count
            return output.argmax(1).ravel(), target.argmax(1).ravel()
        counted = target != self.ignored
        return output.argmax(1)[counted], target[counted]

    def scores(self, output: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(scores (N, C), true labels (N,)) that count; (N, 1) for yes and no."""
        if self.binary:
            return output.reshape(-1, 1), (target > 0.5).ravel().astype(np.int64)
        rows = np.moveaxis(output, 1, -1).reshape(-1, output.shape[1])
        if target.ndim == output.ndim:
            return rows, target.argmax(1).ravel()
        counted = target.ravel() != self.ignored
        return rows[counted], target.ravel()[counted]


class Accuracy(_Sums):
    """The part of samples whose class is right."""

    name = "accuracy"

    def __init__(self, classes: _Classes):
        self._classes = classes
        self.reset()

    def update(self, output, target):
        found, true = self._classes.labels(output, target)
        self.total += int(np.count_nonzero(found == true))
        self.count += found.size


class TopK(_Sums):
    """The part of samples whose class is among the k with the highest outputs."""

    def __init__(self, classes: _Classes, k: int):
        self._classes, self.k, self.name = classes, k, f"top{k}"
        self.reset()

    def update(self, output, target):
        scores, true = self._classes.scores(output, target)
        own = scores[np.arange(len(true)), true][:, None]
        self.total += int(np.count_nonzero((scores > own).sum(1) < self.k))
        self.count += len(true)


class FromCounts(Metric):
    """Precision, recall or F1: of the class "yes", or averaged over classes that occur (macro)."""

    kept = ("counts",)

    def __init__(self, classes: _Classes, name: str):
        self._classes, self.name = classes, name
        self.reset()

    def reset(self):
        self.counts = np.zeros((0, 0), np.int64)  # by (true, found) class

    def update(self, output, target):
        found, true = self._classes.labels(output, target)
        n = 2 if self._classes.binary else output.shape[1]
        if len(self.counts) < n:
            self.counts = np.zeros((n, n), np.int64)
        self.counts += np.bincount(true * n + found, minlength=n * n).reshape(n, n)

    def value(self):
        right, found, true = np.diagonal(self.counts), self.counts.sum(0), self.counts.sum(1)
        below = {"precision": found, "recall": true, "f1": found + true}[self.name]
        by_class = np.divide((2 if self.name == "f1" else 1) * right, below, out=np.zeros(len(right)), where=below > 0)
        if self._classes.binary:
            return float(by_class[1]) if self.counts.size else math.nan
        there = found + true > 0
        return float(by_class[there].mean()) if there.any() else math.nan


class AUC(Metric):
    """The area under the ROC curve: the chance that a sample of the class scores above another one, ties half.

    For several classes the mean over them, each against the rest. Source: Mann & Whitney 1947; Fawcett 2006.
    """

    name, cheap, kept = "auc", False, ("scores", "true")

    def __init__(self, classes: _Classes):
        self._classes = classes
        self.reset()

    def reset(self):
        self.scores: list[np.ndarray] = []
        self.true: list[np.ndarray] = []

    def update(self, output, target):
        scores, true = self._classes.scores(output, target)
        self.scores.append(np.array(scores))
        self.true.append(np.array(true))

    def value(self):
        if not self.scores:
            return math.nan
        scores, true = np.concatenate(self.scores).astype(np.float64), np.concatenate(self.true)
        if scores.shape[1] == 1:
            return area(scores[:, 0], true == 1)
        if scores.shape[1] == 2:
            return area(scores[:, 1] - scores[:, 0], true == 1)
        odds = scores - np.logaddexp.reduce(scores, axis=1, keepdims=True)
        return float(np.nanmean([area(odds[:, c], true == c) for c in range(scores.shape[1])]))


def area(scores: np.ndarray, positive: np.ndarray) -> float:
    """The area under the ROC curve of one class; NaN without samples of both kinds."""
    n_yes = int(positive.sum())
    n_no = len(positive) - n_yes
    if not n_yes or not n_no:
        return math.nan
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    rank = np.cumsum(counts) - (counts - 1) / 2  # of tied scores the middle one
    return float((rank[inverse][positive].sum() - n_yes * (n_yes + 1) / 2) / (n_yes * n_no))


class Errors(_Sums):
    """The mean absolute error, or the root of the mean squared one."""

    better, exact = "min", False

    def __init__(self, name: str):
        self.name, self._of = name, {"mae": np.abs, "rmse": np.square}[name]
        self.reset()

    def update(self, output, target):
        self.total += float(self._of(np.subtract(output, target, dtype=np.float64)).sum())
        self.count += output.size

    def value(self):
        mean = super().value()
        return math.sqrt(mean) if self.name == "rmse" else mean


class R2(Metric):
    """1 − Σ(t − y)²/Σ(t − mean t)²: the part of the variance that is explained, the mean over columns.

    Sums of squares are merged about their means, so that a large mean costs no digits. Source: Chan et al. 1979.
    """

    name, exact, kept = "r2", False, ("count", "error", "mean", "spread")

    def __init__(self):
        self.reset()

    def reset(self):
        self.count, self.error, self.mean, self.spread = 0, 0.0, 0.0, 0.0

    def update(self, output, target):
        t = target.reshape(len(target), -1).astype(np.float64)
        y = output.reshape(len(output), -1).astype(np.float64)
        n = len(t)
        if not n:
            return
        mean = t.mean(0)
        step = mean - self.mean
        both = self.count + n
        self.error = self.error + np.square(t - y).sum(0)
        self.spread = self.spread + np.square(t - mean).sum(0) + np.square(step) * (self.count * n / both)
        self.mean = self.mean + step * (n / both)
        self.count = both

    def value(self):
        spread = np.atleast_1d(self.spread)
        if not self.count or not np.all(spread > 0):
            return math.nan
        return float(np.mean(1 - np.atleast_1d(self.error) / spread))


class OfEpoch(Metric):
    """A function f(y, ŷ) of all targets and all outputs of an epoch."""

    cheap, kept = False, ("outputs", "targets")

    def __init__(self, f: Callable):
        self._f, self.name = f, getattr(f, "__name__", type(f).__name__)
        self.better = getattr(f, "better", "max")
        self.reset()

    def reset(self):
        self.outputs: list[np.ndarray] = []
        self.targets: list[np.ndarray] = []

    def update(self, output, target):
        self.outputs.append(np.array(output))
        self.targets.append(np.array(target))

    def value(self):
        if not self.outputs:
            return math.nan
        found = self._f(np.concatenate(self.targets), np.concatenate(self.outputs))
        try:
            return float(found)
        except (TypeError, ValueError):
            raise TypeError(f"metric {self.name!r}: expected a number, got {found!r:.80}") from None


OF_CLASSES = ("accuracy", "precision", "recall", "f1", "auc")
OF_NUMBERS = ("mae", "rmse", "r2")
METRICS = (*OF_CLASSES, "top5", *OF_NUMBERS)


def metrics_of(metrics: Sequence[str | Callable] | str | None, loss) -> list[Metric]:
    """The metrics that Trainer's argument names.

    Raises:
        ValueError: a name that is none, or one of classification where the loss is not.
    """
    if metrics is None:
        return []
    classifies = takes_labels(loss) or isinstance(loss, (BCELoss, BCEWithLogitsLoss))
    if isinstance(metrics, str):
        if metrics == "auto":
            return [Accuracy(_Classes(loss))] if classifies else []
        metrics = (metrics,)
    return [_metric(m, loss, classifies) for m in metrics]


def _metric(m, loss, classifies: bool) -> Metric:
    if isinstance(m, Metric):
        return m
    if not isinstance(m, str) and callable(m):
        return OfEpoch(m)
    top = isinstance(m, str) and m.startswith("top") and m[3:].isdigit() and int(m[3:]) > 0
    if top or m in OF_CLASSES:
        if not classifies:
            raise ValueError(f"Trainer: metric {m!r} needs a loss of classification, got {loss!r}")
        classes = _Classes(loss)
        if top:
            return TopK(classes, int(m[3:]))
        return {"accuracy": Accuracy, "auc": AUC}[m](classes) if m in ("accuracy", "auc") else FromCounts(classes, m)
    if m in OF_NUMBERS:
        return R2() if m == "r2" else Errors(m)
    raise ValueError(f"Trainer: argument 'metrics': expected names of {', '.join(METRICS)}, or functions, got {m!r}")
