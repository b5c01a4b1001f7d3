"""The block of ViT and GPT: self-attention and a feed-forward network, norms first."""

from __future__ import annotations

from .. import nn
from ..nn import functional as F
from ..nn.attention import heads_of
from ..ops.attention import self_attention

__all__ = ["Block", "Mlp", "SelfAttention"]


class SelfAttention(nn.Module):
    """Multi-head attention of a sequence to itself, x (N, T, dim) → (N, T, dim), by one product for q, k and v.

    Args:
        dim: width of a token. num_heads: divides it.
        bias: whether qkv and proj have biases. qkv_bias: whether qkv has, if not None.
        dropout: of attention weights, in training.
        causal: a token sees those before it. window: and only those fewer than so many places away; 0: all.
        num_kv_heads: heads of keys and values, each shared by as many of the queries'; num_heads if None.
        rotary: an nn.RotaryPositions that turns queries and keys.
        dtype: float32 or float64 of the parameters.

    forward(x, cache), cache a layer of an nn.KeyValueCache: x are the tokens behind those that it has.

    Parameters: qkv.weight, qkv.bias, proj.weight, proj.bias, timm's names.
    """

    def __init__(
        self, dim: int, num_heads: int, bias: bool = True, dropout: float = 0.0, causal: bool = False, window: int = 0,
        num_kv_heads: int | None = None, rotary: nn.Module | None = None, qkv_bias: bool | None = None, dtype=None,
    ):  # fmt: skip
        super().__init__()
        qkv_bias = bias if qkv_bias is None else qkv_bias
        self.head_dim, self.num_kv_heads = heads_of("SelfAttention", dim, num_heads, num_kv_heads)
        self.num_heads, self.dropout, self.causal, self.window = num_heads, dropout, causal, window
        self.qkv = nn.Linear(dim, dim + 2 * self.num_kv_heads * self.head_dim, qkv_bias, dtype)
        self.proj = nn.Linear(dim, dim, bias, dtype)
        self.add_module("rotary", rotary)

    def forward(self, x, cache=None):
        n, t, dim = x.shape
        heads, groups, dropped = self.num_heads, self.num_kv_heads, self.dropout if self.training else 0.0
        qkv = self.qkv(x)
        if groups == heads and cache is None and self.rotary is None:
            y = self_attention(qkv.reshape(n, t, 3, heads, self.head_dim), None, self.causal, self.window, dropped)
            return self.proj(y.reshape(n, t, dim))
        qkv = qkv.reshape(n, t, heads + 2 * groups, self.head_dim).transpose(1, 2)
        q, k, v = qkv[:, :heads], qkv[:, heads : heads + groups], qkv[:, heads + groups :]
        offset = 0 if cache is None else cache.length
        if self.rotary is not None:
            q, k = self.rotary(q, offset), self.rotary(k, offset)
        if cache is not None:
            k, v = cache.append(k, v)
        y = F.scaled_dot_product_attention(
            q, k, v, None, dropped, self.causal, enable_gqa=groups < heads, window=self.window, offset=offset
        )
        return self.proj(y.transpose(1, 2).reshape(n, t, dim))


class Mlp(nn.Module):
    """y = fc2(gelu(fc1(x))), with dropout behind both.

    Parameters: fc1.weight (hidden_dim, dim), fc1.bias, fc2.weight (dim, hidden_dim), fc2.bias, timm's names.
    """

    def __init__(self, dim: int, hidden_dim: int, bias: bool = True, dropout: float = 0.0, dtype=None):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim, bias, dtype, activation="gelu")
        self.fc2 = nn.Linear(hidden_dim, dim, bias, dtype)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x):
        return self.dropout(self.fc2(self.dropout(self.fc1(x))))


def norm_of(dim: int, eps: float, rms: bool, bias: bool, dtype) -> nn.Module:
    """RMS norm, or layer norm with a bias or without."""
    return nn.RMSNorm(dim, eps, dtype=dtype) if rms else nn.LayerNorm(dim, eps, bias=bias, dtype=dtype)


class Block(nn.Module):
    """x = x + attn(norm1(x)), y = x + mlp(norm2(x)), with dropout behind both.

    Args:
        dim, num_heads: as SelfAttention's, and so are options.
        mlp_ratio: width between the maps of the feed-forward network, as a multiple of dim.
        swiglu: nn.SwiGLU with as many weights in place of GELU. rms: nn.RMSNorm in place of nn.LayerNorm.
        eps: of the norms. bias: whether all maps, and nn.LayerNorm, have one.
        dropout: in training, of attention weights and behind each map.
    """

    def __init__(
        self, dim: int, num_heads: int, mlp_ratio: float = 4.0, bias: bool = True, dropout: float = 0.0,
        eps: float = 1e-5, swiglu: bool = False, rms: bool = False, dtype=None, **options,
    ):  # fmt: skip
        super().__init__()
        hidden = int(mlp_ratio * dim)
        self.norm1 = norm_of(dim, eps, rms, bias, dtype)
        self.attn = SelfAttention(dim, num_heads, bias, dropout, dtype=dtype, **options)
        self.norm2 = norm_of(dim, eps, rms, bias, dtype)
        if swiglu:
            self.mlp = nn.SwiGLU(dim, -(-2 * hidden // 24) * 8, bias, dtype)
        else:
            self.mlp = Mlp(dim, hidden, bias, dropout, dtype)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x, cache=None):
        x = x + self.dropout(self.attn(self.norm1(x), cache))
        h = self.mlp(self.norm2(x))
        return x + (self.dropout(h) if isinstance(self.mlp, nn.SwiGLU) else h)
