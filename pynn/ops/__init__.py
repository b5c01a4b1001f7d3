"""The entries of every op, by family; the stems are those of csrc/ops."""

from .. import _core
from .. import tensor as _tensor
from ..op import OPS
from . import (
    activation,
    adaptive,
    attention,
    augment,
    batch_norm,
    conv2d,
    copy,
    dropout,
    elementwise,
    embedding,
    gru,
    index,
    layer_norm,
    linear,
    losses,
    lstm,
    matmul,
    optim,
    pool2d,
    reduce,
    resize2d,
    rnn,
    softmax,
)

# what `pynn` offers as functions of tensors, by PyTorch's names
FUNCTIONS = {
    **{name: OPS[name] for name in (
        "add sub mul div neg abs sign maximum minimum eq ne lt le gt ge logical_and logical_or logical_not sqrt exp "
        "expm1 log log1p sin cos tanh sigmoid erf pow floor ceil round").split()},
    **{name: getattr(reduce, name) for name in "mean var std amax amin argmax argmin prod norm".split()},
    **{name: getattr(index, name) for name in (
        "cat chunk clamp cumsum flip gather index_put roll split stack take_along_dim where").split()},
    "sum": reduce.sum_, "max": reduce.max_, "min": reduce.min_, "all": reduce.all_, "any": reduce.any_,
    "matmul": matmul.matmul, "relu": activation.relu, "softmax": softmax.softmax,
    "log_softmax": softmax.log_softmax, "logsumexp": softmax.logsumexp,
}  # fmt: skip

_tensor.FUNCTIONS.update(  # a method's first argument is a Tensor already
    {name: getattr(FUNCTIONS[name], "__wrapped__", FUNCTIONS[name]) for name in _tensor.METHODS},
    getitem=index.getitem,
    where=lambda x, condition, other: index.where(condition, x, other),
)

_core.bind_core(OPS)
OPS.seal()
