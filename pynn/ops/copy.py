"""Copies, casts and views: what moves values without computing."""

import numpy as np

from ..op import OPS, Effect, Op
from ..tensor import Tensor

__all__ = ["alias", "cast", "copy", "copy_", "expand", "permute", "reshape", "slice_", "unslice", "zeros"]


def _inverse(axes):
    inverse = [0] * len(axes)
    for k, d in enumerate(axes):
        inverse[d % len(axes)] = k
    return tuple(inverse)


copy = Op(
    "copy", "x[...]:A", "y[...]:A", kernel="copy_fwd", like=True,
    vjp=lambda n, g: g,
    reference=lambda x: np.array(x),
    doc="y = x in memory of its own.",
)  # fmt: skip

cast = Op(
    "cast", "x[...]:*", "y[...]:*", kernel="copy_fwd", like=True, params={"dtype": object},
    dtype=lambda x, dtype: dtype,
    vjp=lambda n, g: OPS.cast(g, dtype=n.ins[0].dtype),
    samples=lambda rng: [((rng.standard_normal(n),), {"dtype": np.dtype(d)}) for d in ("f4", "f8")
                         for n in ((3, 5), 3000)],
    reference=lambda x, dtype: x.astype(dtype),
    doc="y = x as another dtype. A float out of an integer's range becomes the nearest that fits, NaN becomes 0.",
)  # fmt: skip

copy_ = Effect(
    "copy_", "x[...]:*", "y[...]:*", kernel="copy_fwd", whole=True,
    reference=lambda x, y: np.broadcast_to(x, y.shape).astype(y.dtype),
    doc="y = x, in place, converted to y's dtype.",
)  # fmt: skip

zeros = Op(
    "zeros", "like[...]:A", "y[...]:A", kernel="zeros_fwd", like=True,
    vjp=lambda n, g: None,
    reference=lambda x: np.zeros_like(x),
    doc="y = 0 of the shape and dtype of `like`.",
)  # fmt: skip

alias = Op(
    "alias", "x[...]:*", "y[...]:*", view="alias",
    vjp=lambda n, g: g,
    reference=lambda x: x,
    doc="y = x, a value of its own in the graph.",
)  # fmt: skip

permute = Op(
    "permute", "x[...]:*", "y[...]:*", view="permute", params={"axes": tuple},
    vjp=lambda n, g: OPS.permute(g, axes=_inverse(n.params["axes"])),
    samples=lambda rng: [((rng.standard_normal((2, 3, 5)),), {"axes": (2, 0, 1)})],
    reference=lambda x, axes: np.transpose(x, axes),
    doc="Dimension k of y is dimension axes[k] of x.",
)  # fmt: skip

expand = Op(
    "expand", "x[...]:*", "y[...]:*", view="expand", params={"shape": tuple},
    vjp=lambda n, g: OPS.sum_to(g, shape=n.ins[0].shape),
    samples=lambda rng: [((rng.standard_normal((3, 1)),), {"shape": (2, 3, 4)})],
    reference=lambda x, shape: np.broadcast_to(x, shape),
    doc="x repeated along dimensions of size 1 and along new leading ones, without a copy.",
)  # fmt: skip

reshape = Op(
    "reshape", "x[...]:*", "y[...]:*", view="reshape", params={"shape": tuple},
    vjp=lambda n, g: OPS.reshape(g, shape=n.ins[0].shape),
    samples=lambda rng: [((rng.standard_normal((3, 4)),), {"shape": (2, -1)}),
                         ((rng.standard_normal((3, 4)).T,), {"shape": (2, 6)})],
    reference=lambda x, shape: np.reshape(x, shape),
    doc="The same elements in logical (row-major) order; a view where the strides allow it, else a copy.",
)  # fmt: skip


def _place(params):
    return Tensor(np.array([params["begin"], params["step"]], dtype=np.int64).reshape(2, -1))


def _unslice_reference(x, place, shape):
    y = np.zeros(shape, x.dtype)
    where = tuple(b + s * np.arange(n) for b, s, n in zip(*place, x.shape))
    y[np.ix_(*where)] = x
    return y


slice_ = Op(
    "slice", "x[...]:*", "y[...]:*", view="slice", params={"begin": tuple, "shape": tuple, "step": tuple},
    vjp=lambda n, g: OPS.unslice(g, _place(n.params), shape=n.ins[0].shape),
    samples=lambda rng: [((rng.standard_normal((5, 6)),), {"begin": (1, 5), "shape": (2, 3), "step": (2, -2)})],
    reference=lambda x, begin, shape, step: x[next(b + s * np.arange(n) for b, s, n in zip(begin, step, shape))][
        :, begin[1] + step[1] * np.arange(shape[1])],
    doc="y[i] = x[begin + i·step], 0 ≤ i < shape, along each dimension.",
)  # fmt: skip


def _slice_back(n, g):
    begin, step = n.ins[1].numpy().tolist()
    return OPS.slice(g, begin=tuple(begin), shape=n.ins[0].shape, step=tuple(step)), None


def _unslice_shape(shapes, shape):
    if not len(shapes[0]) == shapes[1][1] == len(shape):
        raise ValueError(f"unslice: argument 'place': expected a column for each dimension of x {shapes[0]} and of "
                         f"{shape}, got {shapes[1]}")  # fmt: skip
    return [shape]


unslice = Op(
    "unslice", "x[...]:A place[2,D]:i", "y[...]:A", kernel="unslice_fwd", params={"shape": tuple}, saves="place",
    shape=_unslice_shape, valid={"place": "steps within shape"},
    vjp=_slice_back,
    samples=lambda rng: [((rng.standard_normal((2, 3)), np.array([[1, 5], [2, -2]])), {"shape": (5, 6)}),
                         ((rng.standard_normal((40, 30)), np.array([[3, 61], [1, -2]])), {"shape": (50, 62)}),
                         ((rng.standard_normal((0, 3)), np.array([[0, 0], [1, 1]])), {"shape": (2, 3)})],
    errors=[((np.ones(2), np.array([[4], [1]])), {"shape": (5,)}, IndexError,
             r"unslice: argument 'place': expected steps within shape, got 1 at place\[1, 0\]"),
            ((np.ones(2), np.array([[-1], [1]])), {"shape": (5,)}, IndexError, r"got -1 at place\[0, 0\]"),
            ((np.ones(2), np.array([[1], [1]])), {"shape": (5, 5)}, ValueError, r"'place': expected a column")],
    reference=_unslice_reference,
    doc="y = 0 but for y[begin + i·step] = x[i], place = (begin, step): the adjoint of slice.",
)  # fmt: skip
