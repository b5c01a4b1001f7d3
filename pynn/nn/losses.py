"""Losses as modules; the functions, their equations and their derivatives are in pynn/ops/losses.py."""

from __future__ import annotations

from ..tensor import Tensor, tensor
from . import functional as F
from .module import Module

__all__ = ["BCELoss", "BCEWithLogitsLoss", "CrossEntropyLoss", "DiceLoss", "IoULoss", "L1Loss", "MSELoss"]

REDUCTIONS = ("mean", "sum", "none")


class _Loss(Module):
    def __init__(self, reduction: str):
        super().__init__()
        if reduction not in REDUCTIONS:
            raise ValueError(
                f"{self._get_name()}: argument 'reduction': expected one of {', '.join(REDUCTIONS)}, got {reduction!r}"
            )
        self.reduction = reduction

    def _keep(self, name: str, values) -> None:
        """values, a tensor or what makes one, as a buffer."""
        kept = values if values is None or isinstance(values, Tensor) else tensor(values)
        self.register_buffer(name, kept)


class CrossEntropyLoss(_Loss):
    """Softmax and cross-entropy of logits (N, C, …) against class labels (N, …) or probabilities (N, C, …).

    Args:
        weight: (C,) factor of each class.
        ignore_index: labels that do not count.
        reduction: "mean", "sum" or "none".
        label_smoothing: ε in [0, 1]: the target becomes (1 − ε)·target + ε/C.

    Raises:
        IndexError: a label outside of [0, C), which one and where. ValueError: shapes that do not fit.

    Source: S1 §1.2; S3 §3; S4.
    """

    def __init__(self, weight=None, *, ignore_index: int = -100, reduction: str = "mean", label_smoothing: float = 0.0):
        super().__init__(reduction)
        if not 0 <= label_smoothing <= 1:
            raise ValueError(
                f"CrossEntropyLoss: argument 'label_smoothing': expected a number in [0, 1], got {label_smoothing}"
            )
        self._keep("weight", weight)
        self.ignore_index, self.label_smoothing = ignore_index, label_smoothing

    def forward(self, input, target):
        return F.cross_entropy(
            input,
            target,
            weight=self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
        )


class MSELoss(_Loss):
    """(input − target)², averaged, summed or as it is. Source: S1 §1.2; S3 §3 (there with a factor ½)."""

    def __init__(self, *, reduction: str = "mean"):
        super().__init__(reduction)

    def forward(self, input, target):
        return F.mse_loss(input, target, reduction=self.reduction)


class L1Loss(_Loss):
    """|input − target|, averaged, summed or as it is; derivative 0 where they are equal. Source: S1 §1.2."""

    def __init__(self, *, reduction: str = "mean"):
        super().__init__(reduction)

    def forward(self, input, target):
        return F.l1_loss(input, target, reduction=self.reduction)


class BCELoss(_Loss):
    """−t·log p − (1 − t)·log(1 − p) of probabilities p, logarithms kept above −100. Source: S1 §1.2; S3 §3."""

    def __init__(self, weight=None, *, reduction: str = "mean"):
        super().__init__(reduction)
        self._keep("weight", weight)

    def forward(self, input, target):
        return F.binary_cross_entropy(input, target, weight=self.weight, reduction=self.reduction)


class BCEWithLogitsLoss(_Loss):
    """Sigmoid and binary cross-entropy of logits, stable for large ones; pos_weight is the factor of t = 1.

    Source: S1 §1.2; S4.
    """

    def __init__(self, weight=None, *, reduction: str = "mean", pos_weight=None):
        super().__init__(reduction)
        self._keep("weight", weight)
        self._keep("pos_weight", pos_weight)

    def forward(self, input, target):
        return F.binary_cross_entropy_with_logits(
            input, target, weight=self.weight, reduction=self.reduction, pos_weight=self.pos_weight
        )


class DiceLoss(_Loss):
    """1 − (2 Σ p·t + smooth)/(Σ p + Σ t + smooth) of probabilities (N, C, …) and masks, for each item and channel.

    Source: S1 §1.2.6; Milletari, Navab and Ahmadi, arXiv 1606.04797.
    """

    def __init__(self, smooth: float = 1.0, *, reduction: str = "mean"):
        super().__init__(reduction)
        self.smooth = smooth

    def forward(self, input, target):
        return F.dice_loss(input, target, self.smooth, self.reduction)


class IoULoss(DiceLoss):
    """1 − (Σ p·t + smooth)/(Σ p + Σ t − Σ p·t + smooth): the soft Jaccard loss; otherwise as DiceLoss.

    Source: S1 §1.2.6; Rahman and Wang, ISVC 2016.
    """

    def forward(self, input, target):
        return F.iou_loss(input, target, self.smooth, self.reduction)
