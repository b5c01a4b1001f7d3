"""From a sequence of tokens to another one, by recurrent layers with attention between them."""

from __future__ import annotations

import numpy as np

from .. import nn
from ..arrays import as_count
from ..autograd import no_grad
from ..nn import functional as F
from ..ops.attention import places
from ..ops.index import cat
from ..ops.rnn import as_lengths
from ..tensor import Tensor

__all__ = ["Seq2Seq"]


class Seq2Seq(nn.Module):
    """Scores of the next target token: a GRU reads the source, another one, which begins with its state, the target so
    far; each of its states attends to the source's.

    y_t = GRU(target tokens up to t), c_t = Σ_s softmax_s(y_tᵀ·W_a·e_s)·e_s, scores = W_o·tanh(W_c·[c_t; y_t]).

    Args:
        source_size, target_size: tokens of either side are the integers below.
        embedding_dim, hidden_size, num_layers: of both sides.
        dropout: in training, between layers and before the scores.
        dtype: float32 or float64 of the parameters.

    Shapes: source (N, S), target (N, T) integers, lengths (N,) of the sources or None: all S → (N, T, target_size),
    the scores of the tokens behind each of target's. With lengths, tokens beyond them have no influence.

    Raises:
        ValueError: shapes that do not fit, lengths out of range. IndexError: a token out of range.

    Source: Luong, Pham and Manning, arXiv 1508.04025, global attention, "general" scores, without input feeding.
    """

    def __init__(
        self, source_size: int, target_size: int, embedding_dim: int = 64, hidden_size: int = 128, num_layers: int = 1,
        dropout: float = 0.0, dtype=None,
    ):  # fmt: skip
        super().__init__()
        self.source_embedding = nn.Embedding(source_size, embedding_dim, dtype=dtype)
        self.target_embedding = nn.Embedding(target_size, embedding_dim, dtype=dtype)
        options = {"dropout": dropout, "batch_first": True, "dtype": dtype}
        self.encoder = nn.GRU(embedding_dim, hidden_size, num_layers, **options)
        self.decoder = nn.GRU(embedding_dim, hidden_size, num_layers, **options)
        self.query = nn.Linear(hidden_size, hidden_size, bias=False, dtype=dtype)
        self.combine = nn.Linear(2 * hidden_size, hidden_size, bias=False, dtype=dtype)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(hidden_size, target_size, dtype=dtype)

    def encode(self, source, lengths=None):
        """(states of the source (N, S, H), its last state, the mask of the tokens that count or None)."""
        if source.ndim != 2:
            raise ValueError(f"Seq2Seq: argument 'source': expected 2 dimensions (N, S), got shape {source.shape}")
        n, s = source.shape
        lengths = None if lengths is None else as_lengths("Seq2Seq", lengths, n)
        states, last = self.encoder(self.source_embedding(source), lengths=lengths)
        return states, last, None if lengths is None else places(s) < lengths.reshape(n, 1, 1)

    def decode(self, target, state, encoded, mask=None):
        """(scores (N, T, target_size), the state behind target) from the state before it."""
        if target.ndim != 2:
            raise ValueError(f"Seq2Seq: argument 'target': expected 2 dimensions (N, T), got shape {target.shape}")
        y, state = self.decoder(self.target_embedding(target), state)
        c = F.scaled_dot_product_attention(self.query(y), encoded, encoded, mask, scale=1.0)
        return self.head(self.dropout(self.combine(cat([c, y], 2)).tanh())), state

    def forward(self, source, target, lengths=None):
        encoded, state, mask = self.encode(source, lengths)
        return self.decode(target, state, encoded, mask)[0]

    def generate(self, source, start: int, n: int, lengths=None) -> np.ndarray:
        """The n best tokens behind `start`, one after the other, for each source (N, S): integers (N, n)."""
        as_count("generate", "n", n, 0)
        training = [m for m in self.modules() if m.training]
        try:
            if training:
                self.eval()
            with no_grad():
                source = Tensor(np.asarray(source, np.int64))
                encoded, state, mask = self.encode(source, lengths)
                token, text = Tensor(np.full((source.shape[0], 1), start, np.int64)), []
                for _ in range(n):
                    scores, state = self.decode(token, state, encoded, mask)
                    token = Tensor(scores.numpy().argmax(-1))
                    text.append(token.numpy())
                return np.concatenate(text, 1) if text else np.zeros((source.shape[0], 0), np.int64)
        finally:
            for m in training:
                m.training = True
