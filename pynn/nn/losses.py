"""Losses as modules; the functions, their equations and their derivatives are in pynn/ops/losses.py."""

from __future__ import annotations

from collections.abc import Callable

from ..tensor import Tensor, tensor
from . import functional as F
from .module import Module

__all__ = [
    "BCELoss", "BCEWithLogitsLoss", "ContrastiveLoss", "CosineEmbeddingLoss", "CrossEntropyLoss", "DiceLoss",
    "FocalLoss", "HuberLoss", "IoULoss", "KLDivLoss", "L1Loss", "LogSquaredLoss", "MSELoss", "NLLLoss",
    "PerceptualLoss", "SmoothL1Loss", "TotalVariationLoss", "TripletMarginLoss",
]  # fmt: skip

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


# ---- of pynn/nn/criteria.py -------------------------------------------------------------------------


class FocalLoss(_Loss):
    """focal_loss of logits (N, C, …) and labels. Source: Lin et al., arXiv 1708.02002; S1 §1.2.5."""

    def __init__(self, alpha=None, gamma: float = 2, *, reduction: str = "mean"):
        super().__init__(reduction)
        self._keep("alpha", alpha)
        self.gamma = gamma

    def forward(self, input, target):
        return F.focal_loss(input, target, self.alpha, self.gamma, self.reduction)


class KLDivLoss(Module):
    """kl_div of log-probabilities. Source: S1 §1.2.7."""

    def __init__(self, reduction: str = "mean", log_target: bool = False):
        super().__init__()
        self.reduction, self.log_target = reduction, log_target

    def forward(self, input, target):
        return F.kl_div(input, target, self.reduction, self.log_target)


class NLLLoss(_Loss):
    """−input at the labels, for log-probabilities (N, C, …). Source: S1 §1.2."""

    def __init__(self, weight=None, ignore_index: int = -100, *, reduction: str = "mean"):
        super().__init__(reduction)
        self._keep("weight", weight)
        self.ignore_index = ignore_index

    def forward(self, input, target):
        return F.nll_loss(input, target, self.weight, self.ignore_index, self.reduction)


class HuberLoss(_Loss):
    """d²/2 where d = |input − target| ≤ delta, else delta·(d − delta/2). Source: Huber 1964; S1 §1.2.3."""

    def __init__(self, delta: float = 1.0, *, reduction: str = "mean"):
        super().__init__(reduction)
        self.delta = delta

    def forward(self, input, target):
        return F.huber_loss(input, target, self.reduction, self.delta)


class SmoothL1Loss(_Loss):
    """HuberLoss/beta. Source: Girshick, arXiv 1504.08083; S1 §1.2."""

    def __init__(self, beta: float = 1.0, *, reduction: str = "mean"):
        super().__init__(reduction)
        self.beta = beta

    def forward(self, input, target):
        return F.smooth_l1_loss(input, target, self.reduction, self.beta)


class TripletMarginLoss(_Loss):
    """triplet_margin_loss of anchors, positives and negatives (N, D). Source: arXiv 1503.03832; S1 §1.2."""

    def __init__(
        self, margin: float = 1.0, p: float = 2.0, eps: float = 1e-6, swap: bool = False, *, reduction: str = "mean"
    ):
        super().__init__(reduction)
        self.margin, self.p, self.eps, self.swap = margin, p, eps, swap

    def forward(self, anchor, positive, negative):
        return F.triplet_margin_loss(
            anchor, positive, negative, self.margin, self.p, self.eps, self.swap, self.reduction
        )


class ContrastiveLoss(_Loss):
    """contrastive_loss of pairs (N, D). Source: Hadsell, Chopra and LeCun, CVPR 2006; S1 §1.2."""

    def __init__(self, margin: float = 1.0, *, reduction: str = "mean"):
        super().__init__(reduction)
        self.margin = margin

    def forward(self, x1, x2, target):
        return F.contrastive_loss(x1, x2, target, self.margin, reduction=self.reduction)


class CosineEmbeddingLoss(_Loss):
    """cosine_embedding_loss of pairs (N, D) and targets 1 or −1. Source: S1 §1.2."""

    def __init__(self, margin: float = 0.0, *, reduction: str = "mean"):
        super().__init__(reduction)
        self.margin = margin

    def forward(self, input1, input2, target):
        return F.cosine_embedding_loss(input1, input2, target, self.margin, self.reduction)


class LogSquaredLoss(_Loss):
    """ln(1 + (input − target)²). Source: S1 §3.11, Table 3.3."""

    def __init__(self, *, reduction: str = "mean"):
        super().__init__(reduction)

    def forward(self, input, target):
        return F.log_squared_loss(input, target, self.reduction)


class TotalVariationLoss(_Loss):
    """total_variation_loss of images (N, C, H, W). Source: Rudin, Osher and Fatemi 1992; S1 §1.2."""

    def __init__(self, power: float = 1, *, reduction: str = "mean"):
        super().__init__(reduction)
        self.power = power

    def forward(self, input):
        return F.total_variation_loss(input, self.power, self.reduction)


class PerceptualLoss(Module):
    """distance(φ(input), φ(target)) in the features φ of a frozen network, which stays in eval mode.

    Args:
        features: a Module that gives a Tensor, or several (their distances are added up); its parameters are frozen.
        distance: of two Tensors; the mean square by default.

    Gradients reach the input alone. Source: Johnson et al., arXiv 1603.08155; S1 §1.2; F-LOSS-14.
    """

    def __init__(self, features: Module, distance: Callable | None = None):
        super().__init__()
        if not isinstance(features, Module):
            raise TypeError(f"PerceptualLoss: argument 'features': expected a Module, got {type(features).__name__}")
        self.features = features.eval().requires_grad_(False)
        self.distance = distance or F.mse_loss

    def train(self, mode: bool = True):
        super().train(mode)
        self.features.eval()
        return self

    def forward(self, input, target):
        ours, theirs = self.features(input), self.features(target.detach())
        if isinstance(ours, Tensor):
            return self.distance(ours, theirs)
        parts = [self.distance(a, b) for a, b in zip(ours, theirs, strict=True)]
        return sum(parts[1:], parts[0])
