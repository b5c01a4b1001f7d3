"""Classes of sequences of tokens, by an LSTM."""

from __future__ import annotations

from .. import nn
from ..ops.index import cat

__all__ = ["LSTMClassifier"]


class LSTMClassifier(nn.Module):
    """Vectors of the tokens, an LSTM over them, dropout, and an affine map of its last state.

    Args:
        vocab_size, embedding_dim: of the table of vectors.
        hidden_size, num_layers, bidirectional: of the LSTM. Both directions' last states are taken together.
        num_classes: scores of a sequence.
        dropout: in training, between the LSTM's layers and before the affine map.
        padding_idx: a token whose vector stays 0.
        dtype: float32 or float64 of the parameters.

    Shapes: input (N, T) integers below vocab_size, lengths (N,) integers up to T, or None: all T → scores
    (N, num_classes). With lengths, tokens beyond them have no influence.

    Raises:
        IndexError: a token out of range. ValueError: lengths out of range, sizes that are not positive.

    Source: S3 §9.2; Graves and Schmidhuber 2005 for both directions.
    """

    def __init__(
        self,
        vocab_size: int,
        num_classes: int,
        embedding_dim: int = 64,
        hidden_size: int = 128,
        num_layers: int = 1,
        bidirectional: bool = False,
        dropout: float = 0.0,
        padding_idx: int | None = None,
        dtype=None,
    ):
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, embedding_dim, padding_idx=padding_idx, dtype=dtype)
        self.lstm = nn.LSTM(
            embedding_dim, hidden_size, num_layers, dropout=dropout, bidirectional=bidirectional, dtype=dtype
        )
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(hidden_size * (2 if bidirectional else 1), num_classes, dtype=dtype)

    def forward(self, input, lengths=None):
        if input.ndim != 2:
            raise ValueError(f"LSTMClassifier: argument 'input': expected 2 dimensions (N, T), got shape {input.shape}")
        vectors = self.embedding(input.transpose(0, 1))
        _, (h, _) = self.lstm(vectors, lengths=lengths)
        last = cat([h[-2], h[-1]], 1) if self.lstm.bidirectional else h[-1]
        return self.head(self.dropout(last))
