"""Matrix products. Multilinear, and so closed under vjp: derivatives of every order are products again."""

import numpy as np

from ..op import OPS, Op
from ..tensor import Tensor, operand

__all__ = ["matmul"]


def _swap(x):
    return OPS.permute(x, axes=(*range(x.ndim - 2), x.ndim - 1, x.ndim - 2))


product = Op(
    "matmul", "a[...,M,K] b[...,K,N]", "y[...,M,N]", kernel="matmul_fwd", saves="a b", flops="2*n*K",
    vjp=lambda n, g: (OPS.matmul(g, _swap(n.ins[1])) if n.need(0) else None,
                      OPS.matmul(_swap(n.ins[0]), g) if n.need(1) else None),
    reference=np.matmul,
    errors=[((np.ones((2, 3)), np.ones((4, 5))), {}, ValueError,
             r"matmul: argument 'b': expected shape \[...,K,N\] with K=3, got \(4, 5\)")],
    doc="y = a·b over the last two dimensions; the leading ones are broadcast.",
)  # fmt: skip


def matmul(a, b):
    """The matrix product; a 1-d operand counts as a row (left) or a column (right), as in NumPy.

    Shapes: [..., M, K] × [..., K, N] → [..., M, N]; leading dimensions are broadcast.
    """
    if not (isinstance(a, Tensor) and isinstance(b, Tensor)):
        a, b = operand(a, "matmul: argument 'a'"), operand(b, "matmul: argument 'b'")
    m, n = a.ndim, b.ndim
    if m > 1 and n > 1:
        return OPS.matmul(a, b)
    row, column = m == 1, n == 1
    if m == 0 or n == 0:
        raise ValueError(f"matmul: expected operands of at least 1 dimension, got shapes {a.shape} and {b.shape}")
    y = OPS.matmul(a.unsqueeze(0) if row else a, b.unsqueeze(1) if column else b)
    if column:
        y = y.squeeze(-1)
    return y.squeeze(-1 if column else -2) if row else y
