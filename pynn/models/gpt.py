"""A causal transformer that predicts the next token, and writes."""

from __future__ import annotations

import math

import numpy as np

from .. import nn
from ..arrays import as_count
from ..autograd import no_grad
from ..nn import functional as F
from ..random import default_generator
from ..tensor import Tensor
from .blocks import Block, norm_of

__all__ = ["GPT"]


class GPT(nn.Module):
    """Scores of the next token at every place: a table of vectors, positions, causal blocks, a norm, an affine map.

    Args:
        vocab_size: tokens are the integers below it. context: places at most.
        dim, depth, num_heads: width of a token, number of blocks, and heads of attention in each.
        mlp_ratio: width between the maps of the feed-forward network, as a multiple of dim.
        dropout: in training, of attention weights and behind each map.
        positions: "learned", "sinusoidal" or "rotary".
        tied: the scores are products with the table of vectors; otherwise head has weights of its own.
        num_kv_heads: heads of keys and values, each shared by as many of the queries'; num_heads if None.
        window: a token sees only those fewer than so many places before it; 0: all.
        swiglu, rms: the gated feed-forward network and RMS norm, as in Llama. bias: whether maps and norms have one.
        dtype: float32 or float64 of the parameters.

    Shapes: tokens (N, T) integers, T up to context → scores (N, T, vocab_size). forward(tokens, cache) takes the
    tokens behind those that a cache of make_cache has, and adds them to it.

    Parameters: embedding.weight, positions.weight where they are learned, blocks.k.{norm1, attn.qkv, attn.proj, norm2,
    mlp}, norm, head.weight. Weights begin as N(0, 2/(5·dim)), those at the end of a residual smaller by √(2·depth),
    biases as 0.

    Raises:
        ValueError: sizes that do not fit, more places than context. IndexError: a token out of range.

    Source: Vaswani et al., arXiv 1706.03762; Radford et al. 2019 for norms and residuals, Nguyen and Salazar,
    arXiv 1910.05895, for initial values.
    """

    def __init__(
        self, vocab_size: int, context: int = 256, dim: int = 192, depth: int = 6, num_heads: int = 6,
        mlp_ratio: float = 4.0, dropout: float = 0.0, positions: str = "learned", tied: bool = True,
        num_kv_heads: int | None = None, window: int = 0, swiglu: bool = False, rms: bool = False, bias: bool = True,
        dtype=None,
    ):  # fmt: skip
        super().__init__()
        for name, n in (("context", context), ("dim", dim), ("depth", depth)):
            as_count("GPT", name, n)
        self.context, self.tied = context, tied
        self.embedding = nn.Embedding(vocab_size, dim, dtype=dtype)
        self.positions = rotary = None
        if positions == "learned":
            self.positions = nn.LearnedPositions(context, dim, dtype=dtype)
        elif positions == "sinusoidal":
            self.positions = nn.SinusoidalPositions(context, dim, dtype=dtype)
        elif positions == "rotary":
            rotary = nn.RotaryPositions(context, nn.attention.heads_of("GPT", dim, num_heads, None)[0], dtype=dtype)
        else:
            raise ValueError(
                f"GPT: argument 'positions': expected 'learned', 'sinusoidal' or 'rotary', got {positions!r}"
            )
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            Block(dim, num_heads, mlp_ratio, bias, dropout, swiglu=swiglu, rms=rms, dtype=dtype, causal=True,
                  window=window, num_kv_heads=num_kv_heads, rotary=rotary)
            for _ in range(depth)
        )  # fmt: skip
        self.norm = norm_of(dim, 1e-5, rms, bias, dtype)
        self.head = None if tied else nn.Linear(dim, vocab_size, bias=False, dtype=dtype)
        self._draw(depth)

    def _draw(self, depth: int) -> None:
        std = math.sqrt(2 / (5 * self.embedding.embedding_dim))
        for name, p in self.named_parameters():
            if name.endswith((".proj.weight", ".fc2.weight", ".w2.weight")):
                nn.init.normal_(p, 0.0, std / math.sqrt(2 * depth))
            elif p.ndim == 2:
                nn.init.normal_(p, 0.0, std)
            elif name.endswith("bias"):
                nn.init.zeros_(p)

    def forward(self, tokens, cache=None):
        if tokens.ndim != 2:
            raise ValueError(f"GPT: argument 'tokens': expected 2 dimensions (N, T), got shape {tokens.shape}")
        offset = 0 if cache is None else cache.length
        if offset + tokens.shape[1] > self.context:
            raise ValueError(
                f"GPT: argument 'tokens': expected at most {self.context} places, got {offset + tokens.shape[1]}"
            )
        x = self.embedding(tokens)
        x = self.dropout(x if self.positions is None else self.positions(x, offset))
        for k, block in enumerate(self.blocks):
            x = block(x, None if cache is None else cache[k])
        x = self.norm(x)
        return F.linear(x, self.embedding.weight) if self.tied else self.head(x)

    # ---- writing ---------------------------------------------------------------------------------

    def make_cache(self, batch: int = 1) -> nn.KeyValueCache:
        """Room for the keys and values of `context` tokens of `batch` texts."""
        attn = self.blocks[0].attn
        return nn.KeyValueCache(
            len(self.blocks), batch, attn.num_kv_heads, self.context, attn.head_dim, self.embedding.weight.dtype
        )

    def generate(
        self, tokens, n: int, temperature: float = 1.0, top_k: int | None = None, generator=None
    ) -> np.ndarray:  # fmt: skip
        """tokens (N, T) and n tokens behind them, one after the other: integers (N, T + n).

        Each costs a step with the cache up to `context` places; from there on the last `context` tokens are read anew
        for every token.

        Args:
            temperature: divides the scores; 0 takes the best token.
            top_k: draw among so many of the best, of equal ones those of lower number; all if None.
            generator: pynn.Generator; the default one if None.

        Raises:
            ValueError: no token to begin with, a temperature below 0, n below 0, top_k below 1.
        """
        if not temperature >= 0:
            raise ValueError(f"generate: argument 'temperature': expected a number >= 0, got {temperature}")
        as_count("generate", "n", n, 0)
        if top_k is not None:
            as_count("generate", "top_k", top_k)
        tokens = np.asarray(tokens, np.int64)
        if tokens.ndim != 2 or tokens.shape[1] == 0:
            raise ValueError(
                f"generate: argument 'tokens': expected shape (N, T) with at least 1 token, got {tokens.shape}"
            )
        numbers = (generator or default_generator).numpy() if temperature else None
        training = [m for m in self.modules() if m.training]
        try:
            if training:
                self.eval()
            with no_grad():
                return self._generated(tokens, n, temperature, top_k, numbers)
        finally:
            for m in training:
                m.training = True

    def _generated(self, tokens, n, temperature, top_k, numbers):
        cache, start = self.make_cache(tokens.shape[0]), tokens.shape[1]
        text = np.concatenate([tokens, np.zeros((tokens.shape[0], n), np.int64)], 1)
        for end in range(start, start + n):
            if end > self.context:
                scores = self(Tensor(text[:, end - self.context : end]))
            else:
                scores = self(Tensor(text[:, cache.length : end]), cache)
            text[:, end] = _drawn(scores[:, -1].numpy(), temperature, top_k, numbers)
        return text


def _drawn(scores: np.ndarray, temperature: float, top_k: int | None, numbers) -> np.ndarray:
    """A token for each row of scores."""
    if not temperature:
        return scores.argmax(1)
    scores = scores.astype(np.float64) / temperature
    if top_k is not None and top_k < scores.shape[1]:
        others = np.argsort(-scores, 1, kind="stable")[:, top_k:]
        np.put_along_axis(scores, others, -np.inf, 1)
    # the best of scores with Gumbel noise is a draw from their softmax
    return (scores + numbers.gumbel(size=scores.shape)).argmax(1)
