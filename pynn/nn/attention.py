"""Multi-head attention as a module, and the cache of keys and values that decoding keeps; the op is in
pynn/ops/attention.py."""

from __future__ import annotations

import itertools

import numpy as np

from .. import _core
from ..arrays import as_count
from ..op import OPS
from ..ops.attention import additive, attention_weights, self_attention
from ..ops.index import cat
from ..tensor import Tensor
from . import functional as F
from . import init
from .linear import Linear
from .module import Module, Parameter

__all__ = ["KeyValueCache", "MultiheadAttention"]


class MultiheadAttention(Module):
    """Attention in num_heads subspaces: heads_h = softmax(q_h·k_hᵀ/√d + mask)·v_h, joined and mapped by out_proj.

    Args:
        embed_dim: width of the query and of the output; num_heads divides it.
        dropout: probability, in training, with which a weight is dropped.
        bias: whether the four maps have biases.
        add_bias_kv: a learned key and value more. add_zero_attn: a key and value of zeros more.
        kdim, vdim: widths of key and value; embed_dim if None.
        batch_first: inputs and output are (N, L, ·) rather than (L, N, ·).
        dtype: float32 or float64 of the parameters, and so of the inputs.
        num_kv_heads: heads of keys and values, each of which serves as many of the query's in turn; num_heads if None.

    Shapes: query (L, N, embed_dim), key (S, N, kdim), value (S, N, vdim), all without N where there is no batch
        key_padding_mask: (N, S), (S,) without a batch. attn_mask: (L, S) or (N·num_heads, L, S). Of bools, true where
            a key does not take part (unlike scaled_dot_product_attention's), or of numbers, added to the scores.
        is_causal: query i sees keys j <= i; attn_mask may stand beside it.
        → output as query, and weights (N, L, S), the mean over heads, or (N, num_heads, L, S) with
        average_attn_weights=False; None with need_weights=False, which keeps no L×S matrix in memory.

    A query that sees no key gets weights of 0, where PyTorch gives NaN.

    Parameters: in_proj_weight ((embed_dim + 2·width of all heads of keys), embed_dim), or q_proj_weight,
    k_proj_weight, v_proj_weight where widths differ; in_proj_bias; out_proj.weight, out_proj.bias; bias_k and bias_v
    (1, 1, ·): names, order and initial values as torch.nn.MultiheadAttention.

    Raises:
        ValueError: sizes and shapes that do not fit. TypeError: another dtype than the weights', masks of another.

    Source: S1 §7.4; Vaswani et al., arXiv 1706.03762; shared heads: Ainslie et al., arXiv 2305.13245.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        add_bias_kv: bool = False,
        add_zero_attn: bool = False,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
        dtype=None,
        num_kv_heads: int | None = None,
    ):
        super().__init__()
        name = "MultiheadAttention"
        as_count(name, "embed_dim", embed_dim)
        head_dim, groups = heads_of(name, embed_dim, num_heads, num_kv_heads)
        if not 0 <= dropout <= 1:
            raise ValueError(f"{name}: argument 'dropout': expected 0 <= dropout <= 1, got {dropout}")
        self.embed_dim, self.num_heads, self.head_dim, self.num_kv_heads = embed_dim, num_heads, head_dim, groups
        self.dropout, self.batch_first, self.add_zero_attn = float(dropout), batch_first, add_zero_attn
        self.kdim, self.vdim = (embed_dim if n is None else n for n in (kdim, vdim))
        width = groups * head_dim
        rows = {"q": embed_dim, "k": width, "v": width}
        columns = {"q": embed_dim, "k": self.kdim, "v": self.vdim}
        self._apart = self.kdim != embed_dim or self.vdim != embed_dim
        self._add("in_proj_weight", (embed_dim + 2 * width, embed_dim), dtype, not self._apart)
        for part in "qkv":
            self._add(f"{part}_proj_weight", (rows[part], columns[part]), dtype, self._apart)
        self._add("in_proj_bias", (embed_dim + 2 * width,), dtype, bias)
        self.out_proj = Linear(embed_dim, embed_dim, bias, dtype)
        self._add("bias_k", (1, 1, width), dtype, add_bias_kv)
        self._add("bias_v", (1, 1, width), dtype, add_bias_kv)
        self.reset_parameters()

    def _add(self, name: str, shape: tuple, dtype, wanted: bool) -> None:
        self.register_parameter(name, Parameter(_core.empty(shape, dtype or np.float32)) if wanted else None)

    def reset_parameters(self) -> None:
        """Draws the parameters anew from the default generator; biases are 0."""
        for w in (self.in_proj_weight, self.q_proj_weight, self.k_proj_weight, self.v_proj_weight):
            if w is not None:
                init.xavier_uniform_(w)
        if self.in_proj_bias is not None:
            init.zeros_(self.in_proj_bias)
            init.zeros_(self.out_proj.bias)
        for b in (self.bias_k, self.bias_v):
            if b is not None:
                init.xavier_normal_(b)

    # ---- the parts of a call ---------------------------------------------------------------------

    def _maps(self):
        """(weight, bias) of query, key and value, as views of what is learned."""
        width = self.num_kv_heads * self.head_dim
        cuts = (0, self.embed_dim, self.embed_dim + width, self.embed_dim + 2 * width)
        places = [slice(a, b) for a, b in itertools.pairwise(cuts)]
        bias, weight = self.in_proj_bias, self.in_proj_weight
        apart = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        weights = apart if weight is None else [weight[p] for p in places]
        return zip(weights, [None] * 3 if bias is None else [bias[p] for p in places])

    def _checked(self, query, key, value):
        """Whether there is a batch; raises for shapes that do not fit."""
        name = "MultiheadAttention"
        if query.ndim not in (2, 3):
            raise ValueError(f"{name}: argument 'query': expected 2 or 3 dimensions, got shape {query.shape}")
        for what, x, size in (("query", query, self.embed_dim), ("key", key, self.kdim), ("value", value, self.vdim)):
            if x.ndim != query.ndim or x.shape[-1] != size:
                want = "(…, …, " if query.ndim == 3 else "(…, "
                raise ValueError(f"{name}: argument '{what}': expected shape {want}{size}), got {x.shape}")
        if key.shape[:-1] != value.shape[:-1]:
            raise ValueError(
                f"{name}: argument 'value': expected the length and batch of key {key.shape[:-1]}, got {value.shape}"
            )
        batch = 0 if self.batch_first else 1
        if query.ndim == 3 and key.shape[batch] != query.shape[batch]:
            raise ValueError(
                f"{name}: argument 'key': expected a batch of {query.shape[batch]} as in query, got shape {key.shape}"
            )
        return query.ndim == 3

    def _mask(self, attn_mask, key_padding_mask, n: int, rows: int, keys: int, dtype, extra: int):
        """Both masks as one that is added to scores, broadcast to (N, heads, L, extra + S); None of none."""
        name, mask = "MultiheadAttention", None
        if attn_mask is not None:
            full = (n * self.num_heads, rows, keys)
            if attn_mask.shape not in (full, full[1:]):
                raise ValueError(
                    f"{name}: argument 'attn_mask': expected shape {full[1:]} or {full}, got {attn_mask.shape}"
                )
            mask = _hidden(attn_mask, dtype, "attn_mask")
            mask = mask if mask.ndim == 2 else mask.reshape(n, self.num_heads, rows, keys)
        if key_padding_mask is not None:
            want = (n, keys)
            if key_padding_mask.shape != want and (n != 1 or key_padding_mask.shape != (keys,)):
                raise ValueError(
                    f"{name}: argument 'key_padding_mask': expected shape {want}, got {key_padding_mask.shape}"
                )
            padding = _hidden(key_padding_mask, dtype, "key_padding_mask").reshape(n, 1, 1, keys)
            mask = padding if mask is None else mask + padding
        if mask is not None and extra:
            mask = F.pad(mask, (extra, 0))
        return mask

    def _more_keys(self, k, v):
        """k and v (N, S, G, D) with the learned pair and the zeros in front of them, where order does not count."""
        n, shape = k.shape[0], (k.shape[0], 1, self.num_kv_heads, self.head_dim)
        if self.add_zero_attn:
            zeros = OPS.zeros(OPS.expand(k.detach()[:1, :1], shape=shape)) if k.shape[1] and n else None
            k, v = (x if zeros is None else cat([zeros, x], 1) for x in (k, v))
        if self.bias_k is not None:
            k, v = (
                cat([OPS.expand(b.reshape(1, 1, *shape[2:]), shape=shape), x], 1)
                for b, x in ((self.bias_k, k), (self.bias_v, v))
            )
        return k, v

    def forward(
        self, query, key, value, key_padding_mask=None, need_weights=True, attn_mask=None, average_attn_weights=True,
        is_causal=False,
    ):  # fmt: skip
        batched = self._checked(query, key, value)
        same = query is key and key is value
        query, key, value = (self._batch_first(x, batched) for x in (query, key, value))
        n, rows, keys = query.shape[0], query.shape[1], key.shape[1]
        extra = (self.bias_k is not None) + self.add_zero_attn
        mask = self._mask(attn_mask, key_padding_mask, n, rows, keys, query.dtype, extra)
        dropped = self.dropout if self.training else 0.0
        weights = None
        whole = not (self._apart or need_weights or extra or (mask is not None and mask.requires_grad))
        if whole and same and self.num_kv_heads == self.num_heads:
            x = F.linear(query, self.in_proj_weight, self.in_proj_bias)
            y = self_attention(x.reshape(n, rows, 3, self.num_heads, self.head_dim), mask, is_causal, 0, dropped)
        else:
            counts = self.num_heads, self.num_kv_heads, self.num_kv_heads
            q, k, v = (
                F.linear(x, w, b).reshape(*x.shape[:2], heads, self.head_dim)
                for x, (w, b), heads in zip((query, key, value), self._maps(), counts)
            )
            q, k, v = (x.transpose(1, 2) for x in (q, *self._more_keys(k, v)))
            options = {"is_causal": is_causal, "offset": extra, "enable_gqa": self.num_kv_heads < self.num_heads}
            if need_weights:
                weights = F.dropout(attention_weights(q, k, mask, **options), dropped)
                heads = self.num_heads // self.num_kv_heads
                y = weights @ _repeated(v, heads)
                weights = weights if not extra else cat([weights[..., extra:], weights[..., :extra]], -1)
                weights = weights.mean(1) if average_attn_weights else weights
            else:
                y = F.scaled_dot_product_attention(q, k, v, mask, dropped, **options)
            y = y.transpose(1, 2)
        y = self.out_proj(y.reshape(n, rows, self.embed_dim))
        if not batched:
            return y.squeeze(0), None if weights is None else weights.squeeze(0)
        return y if self.batch_first else y.transpose(0, 1), weights

    def _batch_first(self, x, batched: bool):
        """x as (N, L, ·)."""
        if not batched:
            return x.unsqueeze(0)
        return x if self.batch_first else x.transpose(0, 1)

    def extra_repr(self) -> str:
        text = f"embed_dim={self.embed_dim}, num_heads={self.num_heads}"
        for name, default in (("num_kv_heads", self.num_heads), ("dropout", 0.0), ("kdim", self.embed_dim),
                              ("vdim", self.embed_dim), ("batch_first", False)):  # fmt: skip
            if getattr(self, name) != default:
                text += f", {name}={getattr(self, name)}"
        return text


def heads_of(what: str, width: int, num_heads: int, num_kv_heads: int | None) -> tuple[int, int]:
    """(size of a head, heads of keys); raises ValueError where heads do not divide width, or one another."""
    as_count(what, "num_heads", num_heads)
    if width % num_heads:
        raise ValueError(f"{what}: argument 'num_heads': expected a divisor of {width}, got {num_heads}")
    groups = num_heads if num_kv_heads is None else as_count(what, "num_kv_heads", num_kv_heads)
    if num_heads % groups:
        raise ValueError(f"{what}: argument 'num_kv_heads': expected a divisor of {num_heads}, got {groups}")
    return width // num_heads, groups


def _hidden(mask, dtype, name: str):
    """A mask of bools, true where a key is hidden, or of numbers, as what is added to the scores."""
    return additive(~mask if mask.dtype == bool else mask, dtype, f"MultiheadAttention: argument '{name}'")


def _repeated(x, times: int):
    """x (N, G, S, D) with each head `times` times in turn."""
    if times == 1:
        return x
    n, g, s, d = x.shape
    return OPS.expand(x.unsqueeze(2), shape=(n, g, times, s, d)).reshape(n, g * times, s, d)


class KeyValueCache:
    """Keys and values of the tokens so far, for each layer of a model that decodes token by token.

    Args:
        layers: of the model. batch, heads, capacity, head_dim: sizes of a layer's keys (batch, heads, capacity,
            head_dim) and values.
        dtype: float32 or float64.

    cache[i].append(k, v), under pynn.no_grad(), puts keys and values (batch, heads, T, head_dim) behind those that
    layer i has, and returns all that it has, views of the cache. `length` is how many tokens the last layer has. Its
    steps are no plans: where each writes is another place.

    Raises:
        ValueError: more tokens than there is room for, shapes that do not fit. RuntimeError: keys with history.
        NotRecordable: within pynn.compile, unless it is not strict.
    """

    def __init__(self, layers: int, batch: int, heads: int, capacity: int, head_dim: int, dtype=None):
        shape = (batch, heads, capacity, head_dim)
        for name, n in zip(("layers", "batch", "heads", "capacity", "head_dim"), (layers, *shape)):
            as_count("KeyValueCache", name, n)
        self.capacity = capacity
        self._layers = [_LayerCache(shape, dtype or np.float32) for _ in range(layers)]

    @property
    def length(self) -> int:
        return self._layers[-1].length

    def __len__(self) -> int:
        return len(self._layers)

    def __getitem__(self, layer: int) -> _LayerCache:
        return self._layers[layer]

    def reset(self) -> None:
        """Forgets all tokens."""
        for layer in self._layers:
            layer.length = 0


class _LayerCache:
    """What one layer keeps."""

    def __init__(self, shape: tuple, dtype):
        self.k, self.v = (Tensor(np.zeros(shape, dtype)) for _ in range(2))
        self.length = 0

    def append(self, k, v):
        _core.not_recordable("a KeyValueCache, whose length is another in each call")
        end = self.length + k.shape[2]
        if end > self.k.shape[2]:
            raise ValueError(f"KeyValueCache: expected at most {self.k.shape[2]} tokens, got {end}")
        for have, new in ((self.k, k), (self.v, v)):
            place = have[:, :, self.length : end]
            if new.shape != place.shape:
                raise ValueError(f"KeyValueCache: expected keys and values of shape {place.shape}, got {new.shape}")
            place.copy_(new)
        self.length = end
        return self.k[:, :, :end], self.v[:, :, :end]
