"""The entries of every op, by family; the stems are those of csrc/ops."""

from .. import _core
from .. import tensor as _tensor
from ..op import OPS
from . import (
    activation, copy, dropout, elementwise, index, linear, losses, matmul, optim, reduce, softmax,
)  # fmt: skip

_tensor.FUNCTIONS.update(
    {name: OPS[name] for name in _tensor.METHODS if name in OPS},
    sum=reduce.sum_, max=reduce.max_, min=reduce.min_, all=reduce.all_, any=reduce.any_, matmul=matmul.matmul,
    softmax=softmax.softmax, log_softmax=softmax.log_softmax,
    **{name: getattr(reduce, name) for name in "mean var std amax amin argmax argmin prod norm".split()},
    **{name: getattr(index, name) for name in "getitem index_put gather split chunk clamp cumsum".split()},
    where=lambda x, condition, other: index.where(condition, x, other),
)  # fmt: skip

_core.bind_core(OPS)
