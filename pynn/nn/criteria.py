"""Losses that are a few Tensor operations: focal, KL, triplet, contrastive, cosine, perceptual, total variation, …

Under PyTorch's names where PyTorch has them; nn.functional offers them, their modules are in losses.py, the fused
losses in pynn/ops/losses.py.
"""

from __future__ import annotations

import math

import numpy as np

from ..op import OPS
from ..ops import losses
from ..ops.activation import logsigmoid
from ..ops.losses import huber_loss, nll_loss, smooth_l1_loss
from ..ops.softmax import log_softmax
from ..tensor import Tensor

__all__ = [
    "contrastive_loss", "cosine_embedding_loss", "cosine_similarity", "focal_loss", "hard_triplets", "huber_loss",
    "kl_div", "log_squared_loss", "nll_loss", "pairwise_distance", "sigmoid_focal_loss", "smooth_l1_loss",
    "total_variation_loss", "triplet_margin_loss",
]  # fmt: skip


def _reduced(what: str, loss: Tensor, reduction: str) -> Tensor:
    return losses._reduced(loss, losses._number(reduction, what), float(loss.size or math.nan))


def _last_sum(x: Tensor) -> Tensor:
    return OPS.sum_to(x, shape=(*x.shape[:-1], 1)).reshape(x.shape[:-1])


def _same_shape(what: str, **tensors: Tensor) -> None:
    (first, x), *others = tensors.items()
    for name, y in others:
        if y.shape != x.shape:
            raise ValueError(f"{what}: argument '{name}': expected the shape of {first} {x.shape}, got {y.shape}")


# ---- classes ---------------------------------------------------------------------------------------------


def sigmoid_focal_loss(
    input: Tensor, target: Tensor, alpha: float = 0.25, gamma: float = 2, reduction: str = "none"
) -> Tensor:
    """−α_t·(1 − p_t)^γ·ln p_t of logits and targets in [0, 1], p_t = p for t = 1 and 1 − p for t = 0.

    alpha: α_t = α for t = 1 and 1 − α for t = 0; a negative one: 1 for both.

    Source: Lin et al., arXiv 1708.02002 (torchvision's name and defaults); S1 §1.2.5; F-LOSS-7.
    """
    _same_shape("sigmoid_focal_loss", input=input, target=target)
    # from ln p and ln(1 − p) alone, so that nothing cancels for large logits
    log_p, log_q = logsigmoid(input), logsigmoid(-input)
    right = OPS.exp(gamma * log_q) * log_p
    wrong = OPS.exp(gamma * log_p) * log_q
    a, b = (1.0, 1.0) if alpha < 0 else (alpha, 1 - alpha)
    return _reduced("sigmoid_focal_loss", -(a * target * right + b * (1.0 - target) * wrong), reduction)


def focal_loss(input: Tensor, target: Tensor, alpha=None, gamma: float = 2, reduction: str = "mean") -> Tensor:
    """−α_c·(1 − p_c)^γ·ln p_c of logits (N, C, …) at the labels c (N, …); alpha: (C,) weights, or None.

    The mean is over the labels: unlike cross_entropy's it does not divide by the weights.

    Source: Lin et al., arXiv 1708.02002; S1 §1.2.5; F-LOSS-7.
    """
    log_p = log_softmax(input, 1)
    if alpha is not None and not isinstance(alpha, Tensor):
        alpha = Tensor(np.asarray(alpha, input.dtype))
    rest = 1.0 - OPS.exp(-nll_loss(log_p, target, reduction="none"))
    # (1 − p)^γ has no derivative at p = 1 for γ < 1; the loss is 0 there
    sure = OPS.le(rest, 0.0)
    factor = OPS.where(sure, 0.0, OPS.pow(OPS.where(sure, 1.0, rest), float(gamma)))
    loss = factor * nll_loss(log_p, target, alpha, reduction="none")
    return _reduced("focal_loss", loss, reduction)


def kl_div(input: Tensor, target: Tensor, reduction: str = "mean", log_target: bool = False) -> Tensor:
    """Σ t·(ln t − input) of log-probabilities input, 0 where t is; of log-probabilities target with log_target.

    reduction: "batchmean" divides the sum by the batch and is the divergence; "mean" divides by all elements, "sum",
    "none".

    Source: S1 §1.2.7; F-LOSS-10.
    """
    _same_shape("kl_div", input=input, target=target)
    if log_target:
        loss = OPS.exp(target) * (target - input)
    else:
        none = OPS.eq(target, 0.0)
        loss = OPS.where(none, 0.0, target * (OPS.log(OPS.where(none, 1.0, target)) - input))
    if reduction == "batchmean":
        return loss.sum() / float(len(input) if input.ndim else 1)
    return _reduced("kl_div", loss, reduction)


# ---- distances -------------------------------------------------------------------------------------------


def pairwise_distance(x1: Tensor, x2: Tensor, p: float = 2.0, eps: float = 1e-6) -> Tensor:
    """‖x1 − x2 + eps‖ₚ over the last dimension; eps keeps derivatives finite where the two are equal."""
    d = OPS.abs(x1 - x2 + eps)
    if math.isinf(p):
        return d.amax(-1)
    if p == 2:
        return OPS.sqrt(_last_sum(d * d))
    return OPS.pow(_last_sum(OPS.pow(d, float(p))), 1 / p) if p != 1 else _last_sum(d)


def triplet_margin_loss(
    anchor: Tensor, positive: Tensor, negative: Tensor, margin: float = 1.0, p: float = 2.0, eps: float = 1e-6,
    swap: bool = False, reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """max(0, d(a, p) − d(a, n) + margin) of embeddings (N, D); swap: the smaller of d(a, n) and d(p, n).

    Source: Schroff et al., arXiv 1503.03832; Balntas et al., BMVC 2016 (swap); S1 §1.2; F-LOSS-11.
    """
    _same_shape("triplet_margin_loss", anchor=anchor, positive=positive, negative=negative)
    near, far = pairwise_distance(anchor, positive, p, eps), pairwise_distance(anchor, negative, p, eps)
    if swap:
        far = OPS.minimum(far, pairwise_distance(positive, negative, p, eps))
    return _reduced("triplet_margin_loss", OPS.maximum(near - far + margin, 0.0), reduction)


def hard_triplets(embeddings: Tensor, labels, margin: float | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(anchors, positives, negatives), numbers of rows: for each anchor with a partner and a stranger the farthest
    of its label and the nearest of others; with a margin, semi-hard: the nearest stranger that is farther than the
    positive but by less than margin, where there is one.

    Source: Hermans et al., arXiv 1703.07737 (batch hard); Schroff et al., arXiv 1503.03832 (semi-hard); F-LOSS-11.
    """
    x = embeddings.detach().numpy_copy().astype(np.float64)
    labels = np.asarray(labels.numpy_copy() if isinstance(labels, Tensor) else labels).ravel()
    if labels.shape != x.shape[:1]:
        raise ValueError(f"hard_triplets: argument 'labels': expected {len(x)} labels, got shape {labels.shape}")
    squares = (x * x).sum(1)
    d = np.sqrt(np.maximum(squares[:, None] + squares - 2 * x @ x.T, 0))
    same = labels[:, None] == labels
    partners = same & ~np.eye(len(x), dtype=bool)
    anchors = np.flatnonzero(partners.any(1) & (~same).any(1))
    positives = np.where(partners, d, -np.inf)[anchors].argmax(1)
    strangers = np.where(same, np.inf, d)[anchors]
    if margin is not None:
        reach = d[anchors, positives][:, None]
        semi = np.where((strangers > reach) & (strangers < reach + margin), strangers, np.inf)
        strangers = np.where(np.isfinite(semi).any(1)[:, None], semi, strangers)
    return anchors, positives, strangers.argmin(1)


def contrastive_loss(
    x1: Tensor, x2: Tensor, target: Tensor, margin: float = 1.0, eps: float = 1e-6, reduction: str = "mean"
) -> Tensor:
    """½·t·d² + ½·(1 − t)·max(0, margin − d)² of pairs (N, D), d their distance, t = 1 for pairs that belong together.

    Source: Hadsell, Chopra and LeCun, CVPR 2006; S1 §1.2; F-LOSS-12.
    """
    _same_shape("contrastive_loss", x1=x1, x2=x2)
    d = pairwise_distance(x1, x2, 2.0, eps)
    _same_shape("contrastive_loss", distance=d, target=target)
    apart = OPS.maximum(margin - d, 0.0)
    return _reduced("contrastive_loss", 0.5 * (target * d * d + (1.0 - target) * apart * apart), reduction)


def cosine_similarity(x1: Tensor, x2: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    """x1·x2/(max(‖x1‖, eps)·max(‖x2‖, eps)) along dim."""

    def norm(x):
        return OPS.sqrt(OPS.maximum((x * x).sum(dim), eps * eps))

    return (x1 * x2).sum(dim) / (norm(x1) * norm(x2))


def cosine_embedding_loss(
    input1: Tensor, input2: Tensor, target: Tensor, margin: float = 0.0, reduction: str = "mean"
) -> Tensor:
    """1 − cos for pairs of target 1, max(0, cos − margin) for those of −1.

    Source: torch.nn.CosineEmbeddingLoss; S1 §1.2; F-LOSS-13.
    """
    _same_shape("cosine_embedding_loss", input1=input1, input2=input2)
    cos = cosine_similarity(input1, input2, -1, 1e-6)
    _same_shape("cosine_embedding_loss", similarity=cos, target=target)
    loss = OPS.where(OPS.eq(target, 1), 1.0 - cos, OPS.maximum(cos - margin, 0.0))
    return _reduced("cosine_embedding_loss", loss, reduction)


# ---- regression and images -----------------------------------------------------------------------------------


def log_squared_loss(input: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """ln(1 + (input − target)²), whose derivative 2d/(1 + d²) falls for outliers (S1 §3.11, Table 3.3; F-LOSS-16)."""
    _same_shape("log_squared_loss", input=input, target=target)
    d = input - target
    return _reduced("log_squared_loss", OPS.log1p(d * d), reduction)


def total_variation_loss(input: Tensor, power: float = 1, reduction: str = "mean") -> Tensor:
    """Σ|x[i+1, j] − x[i, j]|ᵖ + Σ|x[i, j+1] − x[i, j]|ᵖ of images (N, C, H, W): one number an image, reduced over N.

    power: 1 keeps edges, 2 smooths them. Source: Rudin, Osher and Fatemi 1992 (anisotropic); S1 §1.2; F-LOSS-15.
    """
    if input.ndim != 4:
        raise ValueError(f"total_variation_loss: argument 'input': expected shape (N, C, H, W), got {input.shape}")
    if power not in (1, 2):
        raise ValueError(f"total_variation_loss: argument 'power': expected 1 or 2, got {power}")
    total = None
    for d in (input[:, :, 1:] - input[:, :, :-1], input[:, :, :, 1:] - input[:, :, :, :-1]):
        part = (OPS.abs(d) if power == 1 else d * d).reshape(len(input), d.size // max(1, len(input))).sum(1)
        total = part if total is None else total + part
    return _reduced("total_variation_loss", total, reduction)
