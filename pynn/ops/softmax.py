"""Softmax, log-softmax and log-sum-exp along any dimension; kernels in csrc/ops/softmax.c."""

import numpy as np

from ..op import OPS, Op
from ..tensor import axis_of, takes_tensor
from .reduce import amax, sum_

__all__ = ["log_softmax", "logsumexp", "softmax"]


def _row_sum(x):
    return OPS.sum_to(x, shape=(*x.shape[:-1], 1))


def _shifted(x):
    """x minus its maximum along the row, which derivatives do not see."""
    return x - OPS.amax(x.detach(), shape=(*x.shape[:-1], 1))


def _softmax_formula(x):
    e = OPS.exp(_shifted(x))
    return e / _row_sum(e)


def _log_softmax_formula(x):
    z = _shifted(x)
    return z - OPS.log(_row_sum(OPS.exp(z)))


def _softmax_reference(x):
    from scipy.special import softmax

    return softmax(x, axis=-1)


def _log_softmax_reference(x):
    from scipy.special import log_softmax

    return log_softmax(x, axis=-1)


_softmax = Op(
    "softmax", "x[...,C]", "y[...,C]", kernel="softmax_fwd", bwd="softmax_bwd", saves="y", layout="dense",
    formula=_softmax_formula, bwd_formula=lambda dy, y: y * (dy - _row_sum(dy * y)),
    reference=_softmax_reference, flops="20*n",
    doc="y = e^(x − max)/Σ e^(x − max) along the last dimension; dx = y·(dy − Σ dy·y). "
        "A row of −inf alone, or with an inf, gives NaN. Source: S0; S1 §1.1; S3 §2.2; S4.",
)  # fmt: skip
_log_softmax = Op(
    "log_softmax", "x[...,C]", "y[...,C]", kernel="log_softmax_fwd", bwd="log_softmax_bwd", saves="y", layout="dense",
    formula=_log_softmax_formula, bwd_formula=lambda dy, y: dy - OPS.exp(y) * _row_sum(dy),
    reference=_log_softmax_reference, flops="20*n",
    doc="y = (x − max) − ln Σ e^(x − max) along the last dimension; dx = dy − e^y·Σ dy. Source: S0; S1 §1.2.",
)  # fmt: skip


def _along(op, x, dim, dtype):
    """op along dimension dim of x."""
    if dtype is not None:
        x = x.astype(dtype)
    n = x.ndim
    if n == 0:
        if dim not in (0, -1):
            raise IndexError(f"{op.name}: argument 'dim': expected 0 or -1 for a 0-d tensor, got {dim}")
        return OPS.reshape(op(OPS.reshape(x, shape=(1,))), shape=())
    dim = axis_of(dim, n, op.name)
    if dim == n - 1:
        return op(x)
    axes = (*range(dim), n - 1, *range(dim + 1, n - 1), dim)  # its own inverse: dim and the last change places
    return OPS.permute(op(OPS.permute(x, axes=axes)), axes=axes)


@takes_tensor
def softmax(input, dim=-1, dtype=None):
    """e^x/Σ e^x along dim, without overflow. Shape as input's (S0; S1 §1.1).

    Args:
        dtype: what input is converted to first.

    Raises:
        IndexError: dim out of range.
    """
    return _along(_softmax, input, dim, dtype)


@takes_tensor
def log_softmax(input, dim=-1, dtype=None):
    """ln softmax(input, dim), accurate where the softmax is 0 or 1 to rounding. Arguments and errors as softmax."""
    return _along(_log_softmax, input, dim, dtype)


def _without(x, dim):
    """x's shape without dim."""
    drop = {d % max(1, x.ndim) for d in (dim if isinstance(dim, (tuple, list)) else (dim,))}
    return tuple(n for d, n in enumerate(x.shape) if d not in drop)


@takes_tensor
def logsumexp(input, dim, keepdim=False):
    """ln Σ e^x over dim (one dimension or several), without overflow; −inf for no elements, or −inf alone.

    Raises:
        IndexError: dim out of range.
    """
    if not input.size:
        return OPS.log(sum_(OPS.exp(input), dim, keepdim))
    top = amax(input.detach(), dim, True)
    top = OPS.where(OPS.lt(OPS.abs(top), np.inf), top, 0.0)  # inf − inf would be NaN
    y = OPS.log(sum_(OPS.exp(input - top), dim, True)) + top
    return y if keepdim else OPS.reshape(y, shape=_without(input, dim))
