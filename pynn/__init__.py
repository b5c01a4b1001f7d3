"""pynn: a compiled neural-network core for Python on CPUs."""

from . import ops as ops
from .autograd import *  # noqa: F403
from .op import OPS, Effect, Op
from .tensor import Tensor, from_numpy, tensor
