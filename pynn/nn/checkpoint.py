"""A block whose activations are not kept; the mechanism is pynn.checkpoint."""

from __future__ import annotations

from ..recompute import checkpoint
from .module import Module

__all__ = ["Checkpointed"]


class Checkpointed(Module):
    """block(x) in training without keeping what it saves for backward, which runs it again; block(x) itself in eval().

    Limits as pynn.checkpoint's. The block's state is found under "block.".

    Source: Chen et al., arXiv 1604.06174; S4 Memory.
    """

    def __init__(self, block: Module):
        super().__init__()
        self.block = block

    def forward(self, *args, **kwargs):
        if not self.training:
            return self.block(*args, **kwargs)
        return checkpoint(self.block, *args, **kwargs)
