"""The entries of every op, by family; the stems are those of csrc/ops."""

from .. import _core
from .. import tensor as _tensor
from ..op import OPS
from . import copy, elementwise, reduce

_core.bind_core(OPS)
