"""Encoder and decoder layers of the transformer, and stacks of them."""

from __future__ import annotations

import copy
from typing import Any

from ..arrays import as_count
from ..op import OPS
from . import functional as F
from .attention import MultiheadAttention
from .containers import ModuleList
from .dropout import Dropout
from .layer_norm import LayerNorm
from .linear import Linear
from .module import Module

__all__ = ["SwiGLU", "TransformerDecoder", "TransformerDecoderLayer", "TransformerEncoder", "TransformerEncoderLayer"]


class SwiGLU(Module):
    """y = (silu(x·W1ᵀ) ∘ x·W3ᵀ)·W2ᵀ: a feed-forward network with a gate, (…, dim) → (…, dim).

    Args:
        dim: width of x and y. hidden_dim: in between; 8/3 of dim, rounded up to a multiple of 8, if None, which
            has as many weights as 4·dim without a gate.
        bias: whether the maps have biases. dtype: float32 or float64 of the parameters.

    Parameters: w1.weight, w3.weight (hidden_dim, dim), w2.weight (dim, hidden_dim), Llama's names.

    Source: Shazeer, arXiv 2002.05202.
    """

    def __init__(self, dim: int, hidden_dim: int | None = None, bias: bool = False, dtype=None):
        super().__init__()
        as_count("SwiGLU", "dim", dim)
        hidden_dim = -(-8 * dim // 24) * 8 if hidden_dim is None else as_count("SwiGLU", "hidden_dim", hidden_dim)
        self.w1, self.w2 = Linear(dim, hidden_dim, bias, dtype), Linear(hidden_dim, dim, bias, dtype)
        self.w3 = Linear(dim, hidden_dim, bias, dtype)

    def forward(self, x):
        return self.w2(OPS.silu(self.w1(x)) * self.w3(x))


def _name_of(activation: Any) -> str | None:
    """The name of the elementwise op that activation, a name or a function, stands for; None for another function."""
    if not callable(activation):
        return activation
    name = getattr(activation, "__name__", "")
    return name if name in OPS and getattr(F, name, None) is activation else None


class _Layer(Module):
    """What encoder and decoder layers share: sublayers with residuals, and the feed-forward network."""

    attentions: tuple[str, ...]  # names of the attention modules

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation="relu",
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        dtype=None,
    ):
        super().__init__()
        as_count(self._get_name(), "dim_feedforward", dim_feedforward)
        for name in self.attentions:
            attention = MultiheadAttention(d_model, nhead, dropout, bias, batch_first=batch_first, dtype=dtype)
            self.add_module(name, attention)
        self.linear1 = Linear(d_model, dim_feedforward, bias, dtype, _name_of(activation))
        self.dropout = Dropout(dropout)
        self.linear2 = Linear(dim_feedforward, d_model, bias, dtype)
        self.activation, self.norm_first = activation, norm_first
        sublayers = range(1, len(self.attentions) + 2)
        for k in sublayers:
            self.add_module(f"norm{k}", LayerNorm(d_model, layer_norm_eps, bias=bias, dtype=dtype))
        for k in sublayers:
            self.add_module(f"dropout{k}", Dropout(dropout))

    def _residual(self, k: int, x, sublayer):
        """x + sublayer k, its norm before it (norm_first) or behind the sum."""
        norm, dropout = getattr(self, f"norm{k}"), getattr(self, f"dropout{k}")
        if self.norm_first:
            return x + dropout(sublayer(norm(x)))
        return norm(x + dropout(sublayer(x)))

    def _feed_forward(self, x):
        h = self.linear1(x)
        h = self.activation(h) if self.linear1.activation is None else h
        return self.linear2(self.dropout(h))


class TransformerEncoderLayer(_Layer):
    """Self-attention and a feed-forward network, each with dropout, a residual and layer norm.

    x = norm1(x + attention(x)), y = norm2(x + linear2(act(linear1(x)))); with norm_first
    x = x + attention(norm1(x)), y = x + linear2(act(linear1(norm2(x)))).

    Args:
        d_model: width of the tokens. nhead: heads of the attention. dim_feedforward: width between the two maps.
        dropout: probability, in training, for attention weights, in and behind the feed-forward network.
        activation: "relu", "gelu" or another elementwise op by name, or a function.
        layer_norm_eps: of the norms. bias: whether maps and norms have biases.
        batch_first: tokens are (N, T, d_model) rather than (T, N, d_model).
        dtype: float32 or float64 of the parameters.

    Called as layer(src, src_mask, src_key_padding_mask, is_causal), masks as MultiheadAttention's.

    Parameters: self_attn.…, linear1.…, linear2.…, norm1.…, norm2.…, as torch.nn.TransformerEncoderLayer.

    Raises:
        ValueError: sizes and shapes that do not fit, an unknown activation.

    Source: S1 §7.3; Vaswani et al., arXiv 1706.03762; norms first: Xiong et al., arXiv 2002.04745.
    """

    attentions = ("self_attn",)

    def forward(self, src, src_mask=None, src_key_padding_mask=None, is_causal=False):
        def attend(x):
            return self.self_attn(x, x, x, src_key_padding_mask, False, src_mask, is_causal=is_causal)[0]

        return self._residual(2, self._residual(1, src, attend), self._feed_forward)


class TransformerDecoderLayer(_Layer):
    """Self-attention, attention to what an encoder made (memory), and a feed-forward network, as in
    TransformerEncoderLayer, whose arguments it has.

    Called as layer(tgt, memory, tgt_mask, memory_mask, tgt_key_padding_mask, memory_key_padding_mask, tgt_is_causal,
    memory_is_causal), masks as MultiheadAttention's.

    Parameters: self_attn.…, multihead_attn.…, linear1.…, linear2.…, norm1.… to norm3.…, as
    torch.nn.TransformerDecoderLayer.

    Raises:
        ValueError: sizes and shapes that do not fit, an unknown activation.

    Source: Vaswani et al., arXiv 1706.03762.
    """

    attentions = ("self_attn", "multihead_attn")

    def forward(
        self, tgt, memory, tgt_mask=None, memory_mask=None, tgt_key_padding_mask=None, memory_key_padding_mask=None,
        tgt_is_causal=False, memory_is_causal=False,
    ):  # fmt: skip
        def attend(x):
            return self.self_attn(x, x, x, tgt_key_padding_mask, False, tgt_mask, is_causal=tgt_is_causal)[0]

        def look(x):
            return self.multihead_attn(
                x, memory, memory, memory_key_padding_mask, False, memory_mask, is_causal=memory_is_causal
            )[0]

        x = self._residual(2, self._residual(1, tgt, attend), look)
        return self._residual(3, x, self._feed_forward)


class _Stack(Module):
    """num_layers copies of a layer, which begin with the same values, and a norm at the end."""

    def __init__(self, layer: Module, num_layers: int, norm: Module | None):
        super().__init__()
        as_count(self._get_name(), "num_layers", num_layers)
        self.layers = ModuleList(copy.deepcopy(layer) for _ in range(num_layers))
        self.num_layers = num_layers
        self.add_module("norm", norm)

    def _finish(self, x):
        return x if self.norm is None else self.norm(x)


class TransformerEncoder(_Stack):
    """num_layers copies of encoder_layer, one behind the other, and norm at the end where there is one.

    Called as encoder(src, mask, src_key_padding_mask, is_causal), which every layer gets.

    Parameters: layers.0.… and so on, norm.…, as torch.nn.TransformerEncoder. Source: as the layer's.
    """

    def __init__(self, encoder_layer: Module, num_layers: int, norm: Module | None = None):
        super().__init__(encoder_layer, num_layers, norm)

    def forward(self, src, mask=None, src_key_padding_mask=None, is_causal=False):
        for layer in self.layers:
            src = layer(src, mask, src_key_padding_mask, is_causal)
        return self._finish(src)


class TransformerDecoder(_Stack):
    """num_layers copies of decoder_layer, one behind the other, and norm at the end where there is one.

    Called as its layers are; every layer gets the same memory and masks.

    Parameters: layers.0.… and so on, norm.…, as torch.nn.TransformerDecoder. Source: as the layer's.
    """

    def __init__(self, decoder_layer: Module, num_layers: int, norm: Module | None = None):
        super().__init__(decoder_layer, num_layers, norm)

    def forward(
        self, tgt, memory, tgt_mask=None, memory_mask=None, tgt_key_padding_mask=None, memory_key_padding_mask=None,
        tgt_is_causal=False, memory_is_causal=False,
    ):  # fmt: skip
        for layer in self.layers:
            tgt = layer(
                tgt, memory, tgt_mask, memory_mask, tgt_key_padding_mask, memory_key_padding_mask, tgt_is_causal,
                memory_is_causal,
            )  # fmt: skip
        return self._finish(tgt)
