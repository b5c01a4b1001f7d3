"""Reductions over any dimensions; kernels in csrc/ops/reduce.c.

The primitives sum_to, amax, amin and argmax take the result's shape, right-aligned, with 1 where the
input is reduced; the functions below take PyTorch's `dim` and `keepdim`.
"""

from collections import namedtuple

import numpy as np

from ..op import OPS, Op
from ..tensor import axis_of, number, takes_tensor
from .index import _narrow, cat

__all__ = [
    "all_",
    "amax",
    "amin",
    "any_",
    "argmax",
    "argmin",
    "max_",
    "mean",
    "min_",
    "norm",
    "prod",
    "std",
    "sum_",
    "var",
]


def _axes(shape, x):
    """The dimensions of x over which a reduction to shape runs."""
    lead = len(x) - len(shape)
    return tuple(d for d in range(len(x)) if d < lead or shape[d - lead] == 1)


def _check(name):
    def shapes_of(shapes, shape):
        (x,) = shapes
        lead = len(x) - len(shape)
        if lead < 0 or any(n not in (1, m) for n, m in zip(shape, x[lead:])):
            raise ValueError(f"{name}: argument 'shape': expected a shape that broadcasts to {x}, got {shape}")
        if name not in ("sum_to", "prod") and 0 in x and any(x[d] == 0 for d in _axes(shape, x)) and 0 not in shape:
            raise ValueError(f"{name}: argument 'x': expected at least one element to choose from, got shape {x}")
        return [shape]

    return shapes_of


def _samples(empty):
    def samples(rng):
        for x, shape in (
            ((3, 4), (4,)), ((3, 4), (3, 1)), ((2, 3, 5), (1, 3, 1)), ((700,), ()), ((1,), ()), ((70, 33), (33,)),
            ((2, 1030), (2, 1)),
            ((2, 3, 300), (2, 1, 300)), ((0, 3), (1, 3) if empty else (0, 1)), ((3, 0), (3, 1) if empty else (1, 0)),
        ):  # fmt: skip
            yield (rng.permutation(int(np.prod(x))).reshape(x) / 7.0 - 3,), {"shape": shape}

    return samples


sum_to = Op(
    "sum_to", "x[...]:A", "y[...]:A", kernel="sum_to_fwd", params={"shape": tuple}, shape=_check("sum_to"),
    vjp=lambda n, g: OPS.expand(g, shape=n.ins[0].shape),
    samples=_samples(True),
    reference=lambda x, shape: x.sum(axis=_axes(shape, x.shape), keepdims=True).reshape(shape),
    doc="y = x summed to `shape`: the adjoint of broadcasting.",
)  # fmt: skip


def _prod_formula(x, shape):
    """By pairs, which is differentiable where factors are 0."""
    lead = x.ndim - len(shape)
    for dim in _axes(shape, x.shape):
        if x.shape[dim] == 0:
            x = OPS.sum_to(x, shape=(*x.shape[:dim], 1, *x.shape[dim + 1 :])) + 1
        while x.shape[dim] > 1:
            n = x.shape[dim]
            half = n // 2
            y = _narrow(x, dim, 0, half) * _narrow(x, dim, half, half)
            x = y if n % 2 == 0 else cat([y, _narrow(x, dim, n - 1, 1)], dim)
    return OPS.reshape(x, shape=shape) if lead else x


prod_to = Op(
    "prod", "x[...]:A", "y[...]:A", kernel="prod_fwd", params={"shape": tuple}, shape=_check("prod"),
    formula=_prod_formula,
    samples=lambda rng: [(((1 + np.sin(x) / 100) * np.sign(np.cos(x)),), p) for (x,), p in _samples(True)(rng)]
    + [((np.array([[0.0, 2, 3], [0, 4, 0], [5, 6, 7]]),), {"shape": (3, 1)}),
       ((np.array([[0.0, 2, 3], [0, 4, 0], [5, 6, 7]]),), {"shape": ()})],
    reference=lambda x, shape: x.prod(axis=_axes(shape, x.shape), keepdims=True).reshape(shape),
    doc="y = the product of x over what `shape` reduces, 1 for no factor; differentiable where factors are 0.",
)  # fmt: skip


def _extreme_back(n, g):
    """Ties share the gradient evenly."""
    x = n.ins[0]
    hit = OPS.cast(OPS.eq(x, OPS.expand(n.outs[0], shape=x.shape)), dtype=g.dtype)
    share = g / OPS.sum_to(hit, shape=n.params["shape"])
    return hit * OPS.expand(share, shape=x.shape)


def _extreme(name, reference):
    return Op(
        name, "x[...]:A", "y[...]:A", kernel=name + "_fwd", params={"shape": tuple}, shape=_check(name), saves="x y",
        vjp=_extreme_back, samples=_samples(False),
        reference=lambda x, shape: reference(x, axis=_axes(shape, x.shape), keepdims=True).reshape(shape),
        doc=f"y = {name[1:]} of x over what `shape` reduces; NaN where any is. Ties share the gradient evenly.",
    )  # fmt: skip


amax_to = _extreme("amax", np.max)
amin_to = _extreme("amin", np.min)


def _argmax_reference(x, shape):
    axes = _axes(shape, x.shape)
    keep = [d for d in range(x.ndim) if d not in axes]
    n = int(np.prod([x.shape[d] for d in axes]))
    return x.transpose(*keep, *axes).reshape(*[x.shape[d] for d in keep], n).argmax(-1).reshape(shape)


argmax_to = Op(
    "argmax", "x[...]:A", "y[...]:i", kernel="argmax_fwd", params={"shape": tuple}, shape=_check("argmax"),
    vjp=lambda n, g: None, samples=_samples(False), reference=_argmax_reference,
    doc="y = the first place, row-major over the reduced dimensions, where x is largest; that of a NaN if any.",
)  # fmt: skip


# ---- functions -----------------------------------------------------------------------------------


def _to_shape(x, dim, what):
    """(shape with 1 where dim is reduced, shape without those dimensions)."""
    shape = x.shape
    if dim is None:
        dims = set(range(len(shape)))
    else:
        dims = set()
        for d in dim if isinstance(dim, (tuple, list)) else (dim,):
            dims.add(axis_of(d, len(shape), what))
    return tuple(1 if d in dims else n for d, n in enumerate(shape)), tuple(
        n for d, n in enumerate(shape) if d not in dims
    )


def _reduce(op, x, dim, keepdim):
    kept, dropped = _to_shape(x, dim, op.name)
    y = op(x, shape=kept)
    return y if keepdim or kept == dropped else OPS.reshape(y, shape=dropped)


@takes_tensor
def sum_(x, dim=None, keepdim=False):
    """The sum over dim (all dimensions by default); integers and bools add up as int64."""
    return _reduce(sum_to, x if x.dtype.kind == "f" else x.astype(np.int64), dim, keepdim)


@takes_tensor
def mean(x, dim=None, keepdim=False):
    """The mean over dim (all dimensions by default); an empty mean is NaN.

    Integers are added up as int64 and give float64; uint8 and bool give float32, as they do in any quotient.
    """
    kept, _ = _to_shape(x, dim, "mean")
    n = int(np.prod([m for m, k in zip(x.shape, kept) if k == 1], dtype=np.int64))
    y = OPS.div(sum_(x, dim, keepdim), float(n))
    return OPS.cast(y, dtype=np.dtype(np.float32)) if x.dtype in (np.uint8, np.bool_) else y


@takes_tensor
def var(x, dim=None, correction=1, keepdim=False):
    """Σ(x − mean)²/(n − correction) over dim, in two passes."""
    kept, _ = _to_shape(x, dim, "var")
    n = int(np.prod([m for m, k in zip(x.shape, kept) if k == 1], dtype=np.int64))
    n = max(0, n - number(correction, "var: argument 'correction'"))
    d = x - mean(x, dim, keepdim=True)
    return OPS.div(_reduce(sum_to, d * d, dim, keepdim), float(n))


@takes_tensor
def std(x, dim=None, correction=1, keepdim=False):
    """The square root of var; its derivative where that is 0 is 0."""
    return _root(var(x, dim, correction, keepdim), 2)


def _root(s, p):
    """s^(1/p), with a derivative of 0 where s is 0."""
    zero = OPS.eq(s, 0.0)
    s = OPS.where(zero, 1.0, s)
    return OPS.where(zero, 0.0, OPS.sqrt(s) if p == 2 else OPS.pow(s, 1.0 / p))


@takes_tensor
def norm(x, p=2.0, dim=None, keepdim=False):
    """(Σ|x|ᵖ)^(1/p) over dim, with a derivative of 0 where it is 0.

    p = ±inf: the largest or smallest |x|; 0: how many are not 0.
    """
    if abs(number(p, "norm: argument 'p'")) == float("inf"):
        return (amax if p > 0 else amin)(OPS.abs(x), dim, keepdim)
    if p == 0:
        return sum_(OPS.cast(OPS.ne(x, 0.0), dtype=x.dtype), dim, keepdim)
    if p == 2:
        return _root(sum_(x * x, dim, keepdim), 2)
    if p == 1:
        return sum_(OPS.abs(x), dim, keepdim)
    total = sum_(OPS.pow(OPS.abs(x), p), dim, keepdim)
    return _root(total, p) if p > 0 else OPS.pow(total, 1.0 / p)


@takes_tensor
def amax(x, dim=None, keepdim=False):
    """The largest element over dim; NaN where any is. Ties share the gradient evenly."""
    return _reduce(amax_to, x, dim, keepdim)


@takes_tensor
def amin(x, dim=None, keepdim=False):
    """The smallest element over dim; NaN where any is. Ties share the gradient evenly."""
    return _reduce(amin_to, x, dim, keepdim)


@takes_tensor
def argmax(x, dim=None, keepdim=False):
    """The first place of the largest element along dim, or among all in row-major order; int64."""
    return _reduce(argmax_to, x, dim, keepdim)


@takes_tensor
def argmin(x, dim=None, keepdim=False):
    """The first place of the smallest element along dim, or among all in row-major order; int64."""
    # for integers −1 − x, which never wraps around, as −x does at the smallest
    return _reduce(argmax_to, OPS.neg(x) if x.dtype.kind == "f" else OPS.sub(-1, x.astype(np.int64)), dim, keepdim)


Extreme = namedtuple("Extreme", "values indices")


@takes_tensor
def max_(x, dim=None, keepdim=False):
    """The largest element; with dim, (values, indices) along it."""
    return amax(x) if dim is None else Extreme(amax(x, dim, keepdim), argmax(x, dim, keepdim))


@takes_tensor
def min_(x, dim=None, keepdim=False):
    """The smallest element; with dim, (values, indices) along it."""
    return amin(x) if dim is None else Extreme(amin(x, dim, keepdim), argmin(x, dim, keepdim))


@takes_tensor
def prod(x, dim=None, keepdim=False):
    """The product over dim (all dimensions by default), 1 for no factor; integers and bools multiply as int64."""
    return _reduce(prod_to, x if x.dtype.kind == "f" else x.astype(np.int64), dim, keepdim)


@takes_tensor
def all_(x, dim=None, keepdim=False):
    """Whether every element is true (not 0)."""
    return _reduce(amin_to, x.astype(np.bool_), dim, keepdim) if x.size else x.astype(np.bool_).sum(dim, keepdim) == 0


@takes_tensor
def any_(x, dim=None, keepdim=False):
    """Whether any element is true (not 0)."""
    return _reduce(amax_to, x.astype(np.bool_), dim, keepdim) if x.size else x.astype(np.bool_).sum(dim, keepdim) != 0
