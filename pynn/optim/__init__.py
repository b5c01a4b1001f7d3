"""Optimizers with PyTorch's names, arguments and update rules; each step is one call of a fused kernel."""

from . import schedules as lr_scheduler
from .adam import Adam, AdamW, SparseAdam
from .adaptive import LAMB, Adagrad, Lion, NAdam, RAdam, RMSprop
from .averaged import AveragedModel, update_bn
from .lbfgs import LBFGS
from .newton_cg import NewtonCG
from .optimizer import Optimizer
from .regularizers import L1, L2, Lp, MaxNorm, Penalty, Rescaling, Tangent
from .sgd import SGD

__all__ = [
    "L1",
    "L2",
    "LAMB",
    "LBFGS",
    "SGD",
    "Adagrad",
    "Adam",
    "AdamW",
    "AveragedModel",
    "Lion",
    "Lp",
    "MaxNorm",
    "NAdam",
    "NewtonCG",
    "Optimizer",
    "Penalty",
    "RAdam",
    "RMSprop",
    "Rescaling",
    "SparseAdam",
    "Tangent",
    "lr_scheduler",
    "update_bn",
]
