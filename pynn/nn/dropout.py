"""Dropout as a module; the mask and its derivative are in pynn/ops/dropout.py."""

from __future__ import annotations

from ..tensor import number
from . import functional as F
from .module import Module

__all__ = ["Dropout"]


class Dropout(Module):
    """In training, each element is 0 with probability p and x/(1 − p) otherwise; in eval() y = x.

    The mask is drawn from the default generator: pynn.manual_seed repeats it.

    Raises:
        ValueError: p outside of [0, 1].

    Source: S3 §6 (p is the probability of dropping); S0 Dropout.
    """

    def __init__(self, p: float = 0.5, inplace: bool = False):
        super().__init__()
        if not 0 <= number(p, "Dropout: argument 'p'") <= 1:
            raise ValueError(f"Dropout: argument 'p': expected 0 <= p <= 1, got {p}")
        self.p, self.inplace = p, inplace

    def forward(self, x):
        return F.dropout(x, self.p, True) if self.training else x

    def extra_repr(self) -> str:
        return f"p={self.p}, inplace={self.inplace}"
