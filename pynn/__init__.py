"""pynn: a compiled neural-network core for Python on CPUs."""

import importlib

from . import ops as ops
from .autograd import *  # noqa: F403
from .config import (
    __version__,
    config,
    get_float32_precision,
    get_gemm,
    get_num_threads,
    set_float32_precision,
    set_gemm,
    set_num_threads,
    show_config,
    threads,
    using_gemm,
)
from .creation import *  # noqa: F403
from .op import OPS, Effect, Op
from .plan import Compiled, NotRecordable, compile
from .random import (
    Generator,
    bernoulli,
    default_generator,
    initial_seed,
    manual_seed,
    normal,
    rand,
    randint,
    randn,
    randperm,
    uniform,
)  # fmt: skip
from .recompute import checkpoint
from .sparse import RowGradient
from .tensor import Tensor, from_dlpack, from_numpy, tensor

globals().update(ops.FUNCTIONS)  # pynn.add, pynn.exp, pynn.sum, pynn.cat, …

# loaded when first asked for, so that `import pynn` costs little more than `import numpy`
_LAZY = ("data", "inspect", "models", "nn", "optim", "train")
_LAZY_NAMES = {"Session": "session", "load": "nn.saving", "save": "nn.saving"}


def __getattr__(name: str):
    if name in _LAZY:
        return importlib.import_module("." + name, __name__)
    if name in _LAZY_NAMES:
        return getattr(importlib.import_module("." + _LAZY_NAMES[name], __name__), name)
    raise AttributeError(f"module 'pynn' has no attribute {name!r}")


def __dir__():
    return sorted([*globals(), *_LAZY, *_LAZY_NAMES])
