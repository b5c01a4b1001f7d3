"""pynn: a compiled neural-network core for Python on CPUs."""

from . import ops as ops
from .autograd import *  # noqa: F403
from .creation import *  # noqa: F403
from .op import OPS, Effect, Op
from .ops.index import (
    cat, chunk, clamp, cumsum, flip, gather, index_put, roll, split, stack, take_along_dim, where,
)  # fmt: skip
from .random import (
    Generator, bernoulli, default_generator, initial_seed, manual_seed, normal, rand, randint, randn, randperm, uniform,
)  # fmt: skip
from .tensor import Tensor, from_numpy, tensor
