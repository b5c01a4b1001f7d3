"""The vision transformer, and what one costs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .. import _core, nn
from ..arrays import as_count
from ..op import OPS
from ..ops.index import cat
from .blocks import Block

__all__ = ["ViT", "vit_base", "vit_small", "vit_tiny"]


class PatchEmbed(nn.Module):
    """Images (N, C, H, W) as tokens (N, H/P·W/P, embed_dim): a map of each P×P patch.

    Parameters: proj.weight (embed_dim, C, P, P), proj.bias, timm's names.
    """

    def __init__(self, patch_size: int, in_chans: int, embed_dim: int, dtype=None):
        super().__init__()
        self.proj = nn.Conv2d(in_chans, embed_dim, patch_size, patch_size, dtype=dtype)

    def forward(self, x):
        return self.proj(x).flatten(2).transpose(1, 2)


class TokenMerging(nn.Module):
    """2×2 neighbouring patches as one: (N, h·w, dim) → (N, h/2·w/2, dim), an affine map of the four's layer norm.

    Parameters: norm.weight, norm.bias (4·dim,), reduction.weight (dim, 4·dim), Swin's names.
    """

    def __init__(self, dim: int, dtype=None):
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim, 1e-6, dtype=dtype)
        self.reduction = nn.Linear(4 * dim, dim, bias=False, dtype=dtype)

    def forward(self, x, h: int, w: int):
        return self.reduction(self.norm(_squares(x, h, w, 2).reshape(x.shape[0], h * w // 4, -1)))


def _squares(x, h: int, w: int, side: int):
    """Patches (N, h·w, D) by squares: (N·h/side·w/side, side², D)."""
    n, _, d = x.shape
    x = x.reshape(n, h // side, side, w // side, side, d).permute(0, 1, 3, 2, 4, 5)
    return x.reshape(n * (h // side) * (w // side), side * side, d)


def _unsquared(x, n: int, h: int, w: int, side: int):
    """What _squares undoes."""
    d = x.shape[-1]
    x = x.reshape(n, h // side, w // side, side, side, d).permute(0, 1, 3, 2, 4, 5)
    return x.reshape(n, h * w, d)


class ViT(nn.Module):
    """Classes of images: patches become tokens, positions are added, a transformer encoder follows, and an affine map
    of the class token, or of the mean over patches.

    Args:
        img_size: side of an image. patch_size: side P of a patch, which divides it.
        in_chans: channels. num_classes: scores of an image; 0: the features that the scores are made of.
        global_pool: "token" reads the class token, "avg" the mean over patches.
        embed_dim, depth, num_heads: width of a token, number of blocks, heads of attention in each.
        mlp_ratio: width between the maps of the feed-forward network, as a multiple of embed_dim.
        qkv_bias: whether queries, keys and values have biases.
        class_token: whether there is one.
        drop_rate: dropout in training, of attention weights and behind each map.
        dtype: float32 or float64 of the parameters.
        window: side of the squares of patches within which attention stays; 0: it is global. It needs
            class_token=False. global_blocks: numbers of blocks whose attention is global nevertheless.
        merge_at: numbers of blocks before which 2×2 patches are merged into one.

    Shapes: (N, in_chans, img_size, img_size) → (N, num_classes).

    Parameters: cls_token (1, 1, D), pos_embed (1, tokens, D), patch_embed.proj, blocks.k.{norm1, attn.qkv, attn.proj,
    norm2, mlp.fc1, mlp.fc2}, norm (fc_norm with "avg"), head: names, shapes and order as timm's VisionTransformer;
    merges.k.{norm, reduction}. Maps within blocks begin as Xavier's uniform, as in the paper, which narrow models
    learn from much faster than from timm's fixed 0.02; head and pos_embed as N(0, 0.02²) cut at ±2; biases as 0.

    Raises:
        ValueError: sizes that do not fit, images of another size.

    Source: S1 ch. 7; Dosovitskiy et al., arXiv 2010.11929; windows: Li et al., arXiv 2203.16527; merging: Liu et al.,
    arXiv 2103.14030.
    """

    def __init__(
        self, img_size: int = 224, patch_size: int = 16, in_chans: int = 3, num_classes: int = 1000,
        global_pool: str = "token", embed_dim: int = 768, depth: int = 12, num_heads: int = 12, mlp_ratio: float = 4.0,
        qkv_bias: bool = True, class_token: bool = True, drop_rate: float = 0.0, dtype=None, *, window: int = 0,
        global_blocks: Sequence[int] = (), merge_at: Sequence[int] = (),
    ):  # fmt: skip
        super().__init__()
        for name, n in (("patch_size", patch_size), ("embed_dim", embed_dim), ("depth", depth)):
            as_count("ViT", name, n)
        self.img_size, self.patch_size, self.class_token, self.depth = img_size, patch_size, class_token, depth
        self.global_pool = global_pool
        self.window, self.global_blocks, self.merge_at = window, tuple(global_blocks), tuple(merge_at)
        self._check()
        self.prefix = int(class_token)
        tokens = (img_size // patch_size) ** 2 + self.prefix
        self.register_parameter("cls_token", _drawn((1, 1, embed_dim), 1e-6, dtype) if class_token else None)
        self.pos_embed = _drawn((1, tokens, embed_dim), 0.02, dtype)
        self.patch_embed = PatchEmbed(patch_size, in_chans, embed_dim, dtype)
        self.dropout = nn.Dropout(drop_rate)
        self.blocks = nn.ModuleList(
            Block(embed_dim, num_heads, mlp_ratio, dropout=drop_rate, eps=1e-6, dtype=dtype, qkv_bias=qkv_bias)
            for _ in range(depth)
        )
        norm = nn.LayerNorm(embed_dim, 1e-6, dtype=dtype)
        self.norm, self.fc_norm = (nn.Identity(), norm) if global_pool == "avg" else (norm, nn.Identity())
        self.head = nn.Linear(embed_dim, num_classes, dtype=dtype) if num_classes else nn.Identity()
        self.merges = nn.ModuleDict({str(k): TokenMerging(embed_dim, dtype) for k in self.merge_at})
        for m in self.modules():
            if isinstance(m, nn.Linear):
                if m is self.head:
                    nn.init.trunc_normal_(m.weight, std=0.02)
                else:
                    nn.init.xavier_uniform_(m.weight)
                if m.bias is not None:
                    nn.init.zeros_(m.bias)

    def _check(self) -> None:
        def need(good: bool, name: str, what: str, got) -> None:
            if not good:
                raise ValueError(f"ViT: argument '{name}': expected {what}, got {got!r}")

        pool, grid = self.global_pool, self.img_size // self.patch_size
        need(self.img_size % self.patch_size == 0, "patch_size", f"a divisor of {self.img_size}", self.patch_size)
        need(pool == "avg" or (pool == "token" and self.class_token), "global_pool",
             "'avg', or 'token' with a class token", pool)  # fmt: skip
        for name in ("global_blocks", "merge_at"):
            given = getattr(self, name)
            need(all(0 <= k < self.depth for k in given), name, f"numbers of blocks below {self.depth}", given)
        halvings = len(set(self.merge_at))
        need(halvings == len(self.merge_at) and grid % (1 << halvings) == 0, "merge_at",
             f"different blocks, so many that {grid} patches a side can be halved", self.merge_at)  # fmt: skip
        need(not (self.window and self.class_token), "window", "0 with a class token", self.window)
        for k in range(self.depth if self.window else 0):
            side = grid >> sum(m <= k for m in self.merge_at)
            need(k in self.global_blocks or side % self.window == 0, "window",
                 f"a divisor of {side}, the patches a side at block {k}", self.window)  # fmt: skip

    def forward_features(self, x):
        """Images as tokens behind the last block."""
        if x.ndim != 4 or x.shape[2:] != (self.img_size, self.img_size):
            raise ValueError(
                f"ViT: argument 'x': expected images (N, C, {self.img_size}, {self.img_size}), got shape {x.shape}"
            )
        x, n, side = self.patch_embed(x), x.shape[0], self.img_size // self.patch_size
        if self.class_token:
            x = cat([OPS.expand(self.cls_token, shape=(n, 1, x.shape[-1])), x], 1)
        x = self.dropout(x + self.pos_embed)
        for k, block in enumerate(self.blocks):
            if k in self.merge_at:
                merged = self.merges[str(k)](x[:, self.prefix :], side, side)
                x = cat([x[:, :1], merged], 1) if self.prefix else merged
                side //= 2
            if self.window and k not in self.global_blocks:
                x = _unsquared(block(_squares(x, side, side, self.window)), n, side, side, self.window)
            else:
                x = block(x)
        return self.norm(x)

    def forward(self, x):
        x = self.forward_features(x)
        x = x[:, self.prefix :].mean(1) if self.global_pool == "avg" else x[:, 0]
        return self.head(self.dropout(self.fc_norm(x)))


def _drawn(shape: tuple, std: float, dtype) -> nn.Parameter:
    return nn.init.trunc_normal_(nn.Parameter(_core.empty(shape, dtype or np.float32)), std=std)


def vit_tiny(num_classes: int = 1000, **options) -> ViT:
    """ViT-Ti/16: width 192, 12 blocks, 3 heads; options as ViT's."""
    return ViT(num_classes=num_classes, **{"embed_dim": 192, "num_heads": 3, **options})


def vit_small(num_classes: int = 1000, **options) -> ViT:
    """ViT-S/16: width 384, 12 blocks, 6 heads; options as ViT's."""
    return ViT(num_classes=num_classes, **{"embed_dim": 384, "num_heads": 6, **options})


def vit_base(num_classes: int = 1000, **options) -> ViT:
    """ViT-B/16: width 768, 12 blocks, 12 heads; options as ViT's."""
    return ViT(num_classes=num_classes, **options)
