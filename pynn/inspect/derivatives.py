"""Jacobians and Hessians of functions, and products with them; those of a model's loss are in pynn/curvature.py."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..autograd import enable_grad, hvp
from ..curvature import BatchMean, GaussNewton, Hessian, Operator, grads_of, scalar_loss
from ..op import OPS
from ..recompute import repeatable
from ..tensor import Tensor

__all__ = ["BatchMean", "GaussNewton", "Hessian", "Operator", "ggn_vp", "hessian", "hvp", "jacobian"]


def _listed(value) -> list:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _leaves(inputs, what: str) -> list[Tensor]:
    leaves = []
    for x in _listed(inputs):
        if not isinstance(x, Tensor) or x.dtype.kind != "f":
            got = f"one of {x.dtype}" if isinstance(x, Tensor) else type(x).__name__
            raise TypeError(f"{what}: argument 'inputs': expected floating Tensors, got {got}")
        x = x.detach()
        x.requires_grad = True
        leaves.append(x)
    return leaves


def _units(x: Tensor):
    """The tensors of x's shape with a single 1, in row-major order."""
    for k in range(x.size):
        e = np.zeros(x.size, x.dtype)
        e[k] = 1
        yield Tensor(e.reshape(x.shape))


def _rows(y: Tensor, xs: list) -> list[np.ndarray]:
    """dy/dx of each x by one walk for each element of y: arrays [y.size, x.size]."""
    rows = [np.zeros((y.size, x.size), x.dtype) for x in xs]
    for k, e in enumerate(_units(y)):
        for row, g in zip(rows, grads_of([y], xs, [e])):
            row[k] = g.detach().numpy_copy().ravel()
    return rows


def _columns(y: Tensor, x: Tensor) -> np.ndarray:
    """dy/dx by one walk for each element of x: Jᵀu is linear in u, and its derivative along e is J e."""
    u = Tensor.zeros_like(y)
    u.requires_grad = True
    (g,) = grads_of([y], [x], [u], create_graph=True)
    return np.stack([grads_of([g], [u], [e])[0].detach().numpy_copy().ravel() for e in _units(x)], axis=1)


def jacobian(func: Callable, inputs):
    """The derivative of func(*inputs), a Tensor, with respect to each input (S1 §3.2).

    One walk over the graph for each element of the output, or of the input where that has fewer.

    Returns:
        a Tensor of shape (*output, *input); a tuple of them where inputs are several.

    Raises:
        TypeError: inputs that are no floating Tensors, a func that returns no Tensor.

    Source: S1 §3.2–3.6; F-AD-5, F-AD-6.
    """
    xs = _leaves(inputs, "jacobian")
    with enable_grad():
        y = repeatable(func)(*xs)
    if not isinstance(y, Tensor):
        raise TypeError(f"jacobian: argument 'func': expected a function that returns a Tensor, got {type(y).__name__}")
    by_columns = len(xs) == 1 and 0 < xs[0].size < y.size
    found = [_columns(y, xs[0])] if by_columns else _rows(y, xs)
    found = [Tensor(j.reshape(*y.shape, *x.shape)) for j, x in zip(found, xs)]
    return tuple(found) if isinstance(inputs, (list, tuple)) else found[0]


def hessian(func: Callable, inputs):
    """The second derivatives of a scalar func(*inputs): a Tensor of shape (*input, *input), or a tuple of rows of them
    where inputs are several, [k][j] of shape (*input k, *input j).

    Source: S1 §5.2.7.
    """
    xs = _leaves(inputs, "hessian")
    with enable_grad():
        y = scalar_loss(repeatable(func)(*xs), "hessian")
        gs = grads_of([y], xs, None, create_graph=True)
    rows = []
    for x, g in zip(xs, gs):
        blocks = _rows(g, xs) if g.requires_grad else [np.zeros((x.size, z.size), x.dtype) for z in xs]
        rows.append(tuple(Tensor(b.reshape(*x.shape, *z.shape)) for b, z in zip(blocks, xs)))
    return tuple(rows) if isinstance(inputs, (list, tuple)) else rows[0][0]


def ggn_vp(func: Callable, loss: Callable, inputs, v):
    """(loss(func(*inputs)), G v), G the generalized Gauss–Newton matrix with respect to inputs.

    v has the shapes of the inputs. Source: Schraudolph 2002; S1 §2.11.5.
    """
    xs = _leaves(inputs, "ggn_vp")
    vs = [OPS.cast(d, dtype=x.dtype) if isinstance(d, Tensor) else Tensor(np.asarray(d, x.dtype))
          for d, x in zip(_listed(v), xs)]  # fmt: skip
    if [d.shape for d in vs] != [x.shape for x in xs]:
        raise ValueError(f"ggn_vp: argument 'v': expected shapes {[x.shape for x in xs]}, got {[d.shape for d in vs]}")

    def closure():
        z = func(*xs)
        return loss(z), z

    g = GaussNewton(closure, xs)
    found = g.product(vs)
    return g.loss, tuple(found) if isinstance(inputs, (list, tuple)) else found[0]
