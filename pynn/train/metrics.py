"""Figures beside the loss, summed over the batches of an epoch and averaged at its end."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..nn import BCELoss, BCEWithLogitsLoss, CrossEntropyLoss

__all__ = ["accuracy_for", "takes_labels", "total_of"]


def takes_labels(loss) -> bool:
    """Whether integers are class labels to this loss, and no numbers to come near to."""
    return isinstance(loss, CrossEntropyLoss) or getattr(loss, "__name__", "") in ("cross_entropy", "nll_loss")


def accuracy_for(loss) -> Callable | None:
    """correct(pairs) → (right, counted) for a loss of classification; None for another one."""
    if takes_labels(loss):
        ignored = getattr(loss, "ignore_index", -100)
        return lambda pairs: _right_class(*_joined(pairs), ignored)
    if isinstance(loss, (BCELoss, BCEWithLogitsLoss)):
        border = 0.0 if isinstance(loss, BCEWithLogitsLoss) else 0.5
        return lambda pairs: _right_side(*_joined(pairs), border)
    return None


def _joined(pairs: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Several batches' (output, target) as one."""
    outputs, targets = zip(*pairs, strict=True)
    return np.concatenate(outputs), np.concatenate(targets)


def _right_class(output: np.ndarray, target: np.ndarray, ignored: int) -> tuple[int, int]:
    """Classes along dimension 1; target holds labels, or probabilities of output's shape."""
    if target.ndim == output.ndim:
        target = target.argmax(1)
        ignored = -1  # probabilities all count
    counted = target != ignored
    return np.count_nonzero((output.argmax(1) == target) & counted), np.count_nonzero(counted)


def _right_side(output: np.ndarray, target: np.ndarray, border: float) -> tuple[int, int]:
    """Yes or no: output above its border, target above one half."""
    return np.count_nonzero((output > border) == (target > 0.5)), output.size


def total_of(metric: Callable) -> Callable:
    """A user's metric(output, target) → mean over a batch, as total(pairs) → (sum, count)."""

    def total(pairs):
        return sum(float(metric(y, t)) * len(y) for y, t in pairs), sum(len(y) for y, _ in pairs)

    return total
