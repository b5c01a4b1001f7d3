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
    """correct(output, target) → (right, counted) for a loss of classification; None for another one."""
    if takes_labels(loss):
        ignored = getattr(loss, "ignore_index", -100)
        return lambda output, target: _right_class(output, target, ignored)
    if isinstance(loss, (BCELoss, BCEWithLogitsLoss)):
        border = 0.0 if isinstance(loss, BCEWithLogitsLoss) else 0.5
        return lambda output, target: (np.count_nonzero((output > border) == (target > 0.5)), output.size)
    return None


def _right_class(output: np.ndarray, target: np.ndarray, ignored: int) -> tuple[int, int]:
    """Classes along dimension 1; target holds labels, or probabilities of output's shape."""
    if target.ndim == output.ndim:
        target = target.argmax(1)
        ignored = -1  # probabilities all count
    right = output.argmax(1) == target
    counted = target != ignored
    return np.count_nonzero(right & counted), np.count_nonzero(counted)


def total_of(metric: Callable) -> Callable:
    """A user's metric(output, target) → mean over the batch, as (sum, count)."""

    def total(output, target):
        return float(metric(output, target)) * len(output), len(output)

    return total
