"""Tables of vectors by number, and bags of them; the ops are in pynn/ops/embedding.py."""

from __future__ import annotations

import numpy as np

from .. import _core
from ..autograd import no_grad
from ..tensor import Tensor, operand
from . import functional as F
from . import init
from .module import Module, Parameter

__all__ = ["Embedding", "EmbeddingBag"]


class _Table(Module):
    """What both share: a weight (num_embeddings, embedding_dim), N(0, 1) to begin with, 0 at padding_idx."""

    def __init__(self, num_embeddings, embedding_dim, padding_idx, weight, dtype):
        super().__init__()
        name = type(self).__name__
        if padding_idx is not None:
            if not -num_embeddings <= padding_idx < num_embeddings:
                raise ValueError(f"{name}: argument 'padding_idx': expected {-num_embeddings} <= value < "
                                 f"{num_embeddings}, got {padding_idx}")  # fmt: skip
            padding_idx %= num_embeddings
        self.num_embeddings, self.embedding_dim, self.padding_idx = num_embeddings, embedding_dim, padding_idx
        shape = num_embeddings, embedding_dim
        if weight is None:
            self.weight = Parameter(_core.empty(shape, dtype or np.float32))
            self.reset_parameters()
            return
        if weight.shape != shape:
            raise ValueError(f"{name}: argument '_weight': expected shape {shape}, got {weight.shape}")
        self.weight = weight if isinstance(weight, Parameter) else Parameter(weight)

    def reset_parameters(self) -> None:
        """Draws the weight anew from the default generator; the row padding_idx is 0."""
        init.normal_(self.weight)
        if self.padding_idx is not None:
            with no_grad():
                self.weight[self.padding_idx] = 0.0

    @classmethod
    def from_pretrained(cls, embeddings: Tensor, freeze: bool = True, **options):
        """A layer on a copy of the table `embeddings` (V, E); frozen, it is not trained. Options as for the class."""
        embeddings = operand(embeddings, f"{cls.__name__}.from_pretrained: argument 'embeddings'")
        if embeddings.ndim != 2:
            raise ValueError(f"{cls.__name__}.from_pretrained: argument 'embeddings': expected 2 dimensions, got shape "
                             f"{embeddings.shape}")  # fmt: skip
        layer = cls(*embeddings.shape, _weight=embeddings, **options)
        layer.weight.requires_grad = not freeze
        return layer

    def _options(self) -> str:
        """The options that differ from the defaults."""
        shown = []
        for name, default in (("padding_idx", None), ("max_norm", None), ("norm_type", 2.0),
                              ("scale_grad_by_freq", False), ("sparse", False)):  # fmt: skip
            if getattr(self, name) != default:
                shown.append(f", {name}={getattr(self, name)}")
        return f"{self.num_embeddings}, {self.embedding_dim}" + "".join(shown)


class Embedding(_Table):
    """y[…, :] = weight[input[…], :]: vectors by number, integers (…) → (…, embedding_dim).

    Args:
        num_embeddings, embedding_dim: shape of the table.
        padding_idx: a row that starts at 0 and gets no gradient.
        max_norm, norm_type: rows that are used are scaled to at most this norm first, in the table itself.
        scale_grad_by_freq: a row's gradient is divided by how often the input names it.
        sparse: weight.grad is a pynn.RowGradient, and optimizers update the rows that were used.
        dtype: float32 or float64 of the table.

    Parameters: weight (num_embeddings, embedding_dim), N(0, 1) to begin with, as torch.nn.Embedding.

    Raises:
        IndexError: a number out of [0, num_embeddings). TypeError: the input is not of integers. ValueError:
        padding_idx out of range.

    Source: S1 §2.9; torch.nn.Embedding.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        sparse: bool = False,
        _weight: Tensor | None = None,
        dtype=None,
    ):
        super().__init__(num_embeddings, embedding_dim, padding_idx, _weight, dtype)
        self.max_norm, self.norm_type = max_norm, norm_type
        self.scale_grad_by_freq, self.sparse = scale_grad_by_freq, sparse

    def forward(self, input):
        return F.embedding(
            input, self.weight, self.padding_idx, self.max_norm, self.norm_type, self.scale_grad_by_freq, self.sparse
        )

    def extra_repr(self) -> str:
        return self._options()


class EmbeddingBag(_Table):
    """The sum, mean or maximum of vectors over bags of numbers: (B, L), or (N,) with offsets (B,) → (B, embedding_dim).

    Args:
        mode: "sum", "mean" or "max"; an empty bag gives 0.
        include_last_offset: offsets (B + 1,) end with where the last bag ends.
        padding_idx: numbers that do not count in a bag; this row starts at 0.
        The others as for Embedding; sparse and scale_grad_by_freq not with "max".

    Parameters: weight (num_embeddings, embedding_dim), N(0, 1) to begin with, as torch.nn.EmbeddingBag.

    Raises:
        as pynn.nn.functional.embedding_bag. Source: torch.nn.EmbeddingBag.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        mode: str = "mean",
        sparse: bool = False,
        _weight: Tensor | None = None,
        include_last_offset: bool = False,
        padding_idx: int | None = None,
        dtype=None,
    ):
        super().__init__(num_embeddings, embedding_dim, padding_idx, _weight, dtype)
        self.max_norm, self.norm_type = max_norm, norm_type
        self.scale_grad_by_freq, self.sparse = scale_grad_by_freq, sparse
        self.mode, self.include_last_offset = mode, include_last_offset

    def forward(self, input, offsets=None, per_sample_weights=None):
        return F.embedding_bag(
            input, self.weight, offsets, self.max_norm, self.norm_type, self.scale_grad_by_freq, self.mode, self.sparse,
            per_sample_weights, self.include_last_offset, self.padding_idx,
        )  # fmt: skip

    def extra_repr(self) -> str:
        return f"{self._options()}, mode={self.mode!r}"
