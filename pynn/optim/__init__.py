"""Optimizers with PyTorch's names, arguments and update rules; each step is one call of a fused kernel."""

from . import schedules as lr_scheduler
from .adam import Adam, AdamW, SparseAdam
from .optimizer import Optimizer
from .sgd import SGD

__all__ = ["SGD", "Adam", "AdamW", "Optimizer", "SparseAdam", "lr_scheduler"]
