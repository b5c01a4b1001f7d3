"""Counting before computing: what a Vision Transformer costs, and what many dimensions do to bases and distances."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

__all__ = ["ViTCost", "distance_contrast", "grid_cells", "polynomial_terms", "shell_volume", "vit_cost"]


@dataclass(frozen=True)
class ViTCost:
    """The numbers of one forward pass of one image.

    Attributes:
        tokens: N = (H/P)(W/P) + 1. head_width: D/h.
        attention_entries: h·N² of a layer. mlp_width: r·D.
        attention_flops: of QKᵀ and of the product with V, 4N²D a layer; projection_flops: of Q, K, V and the output,
        8ND²; mlp_flops: 4N·D·rD; patch_flops: of the embedding; head_flops: of the classifier. All
        of depth layers; a multiply–add counts 2.
        parameters: with biases, layer norms, positions and classifier.
        activations: floats that a training step keeps: the outputs of each layer's products, softmax, norms.
    """

    tokens: int
    head_width: int
    attention_entries: int
    mlp_width: int
    attention_flops: int
    projection_flops: int
    mlp_flops: int
    patch_flops: int
    head_flops: int
    parameters: int
    activations: int

    @property
    def flops(self) -> int:
        return self.attention_flops + self.projection_flops + self.mlp_flops + self.patch_flops + self.head_flops


def vit_cost(
    image=224, patch: int = 16, dim: int = 192, depth: int = 12, heads: int = 3, mlp_ratio: float = 4,
    channels: int = 3, classes: int = 1000, cls_token: bool = True,
) -> ViTCost:  # fmt: skip
    """What a Vision Transformer of this configuration costs (ViT-Tiny by default).

    Args:
        image: side of a square image, or (height, width).
        patch, dim, depth, heads, mlp_ratio: P, D, L, h and r.

    Raises:
        ValueError: an image that patches do not divide, a width that heads do not.

    Source: S1 §7.2–7.7; Dosovitskiy et al., arXiv 2010.11929; F-UND-9.
    """
    h, w = image if isinstance(image, (tuple, list)) else (image, image)
    if h % patch or w % patch:
        raise ValueError(f"vit_cost: argument 'patch': expected a divisor of the image's {h} x {w}, got {patch}")
    if dim % heads:
        raise ValueError(f"vit_cost: argument 'heads': expected a divisor of dim = {dim}, got {heads}")
    patches = (h // patch) * (w // patch)
    n = patches + cls_token
    wide = round(mlp_ratio * dim)
    inputs = channels * patch * patch
    block = 4 * dim * dim + 4 * dim + 2 * dim * wide + wide + dim + 4 * dim  # projections, MLP, two layer norms
    ends = inputs * dim + dim + cls_token * dim + n * dim + 2 * dim + dim * classes + classes
    kept = n * (2 * dim + 3 * dim + dim + dim + 2 * wide + dim) + heads * n * n  # norms, QKV, heads, out, MLP, out
    return ViTCost(
        tokens=n, head_width=dim // heads, attention_entries=heads * n * n, mlp_width=wide,
        attention_flops=depth * 4 * n * n * dim, projection_flops=depth * 8 * n * dim * dim,
        mlp_flops=depth * 4 * n * dim * wide, patch_flops=2 * patches * inputs * dim,
        head_flops=2 * dim * classes,
        parameters=depth * block + ends, activations=depth * kept + n * dim,
    )  # fmt: skip


def polynomial_terms(dim: int, order: int) -> int:
    """C(D + M, M): the coefficients of a polynomial of order M in D variables, about Dᴹ/M! (S1 §4.1; F-UND-7)."""
    return math.comb(dim + order, order)


def grid_cells(dim: int, bins: int) -> int:
    """Kᴰ: the cells of a grid with K bins a dimension (S1 §4.2; F-UND-7)."""
    return bins**dim


def shell_volume(dim: int, eps: float) -> float:
    """1 − (1 − ε)ᴰ: the share of a ball's volume within ε of its surface (S1 §4.3.1; F-UND-7)."""
    return -math.expm1(dim * math.log1p(-eps)) if eps < 1 else 1.0


def distance_contrast(dim: int, points: int = 200, seed: int = 0) -> float:
    """(largest − smallest)/smallest distance from a random point of the unit cube to `points` others: it falls with D,
    so that the nearest is hardly nearer than the farthest (Beyer et al. 1999; S1 §4.3.1; F-UND-7)."""
    rng = np.random.default_rng(seed)
    far = np.linalg.norm(rng.random((points, dim)) - rng.random(dim), axis=1)
    return float((far.max() - far.min()) / far.min())
