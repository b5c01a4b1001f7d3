"""Indexing, gathering and scattering, joining and splitting; kernels in csrc/ops/index.c.

Gathers and scatters are each other's derivatives, so derivatives of every order are again these. Basic
indexing is a view; the keys of NumPy's advanced indexing are turned into row numbers on the host.
"""

from collections.abc import Iterable
from math import prod

import numpy as np

from .. import _core
from .._keys import Key, out_of_bounds, plain_key
from ..op import OPS, Op
from ..tensor import Tensor, axis_of, from_numpy, number, operand, takes_tensor

__all__ = [
    "cat", "chunk", "clamp", "constant_pad", "cumsum", "flip", "gather", "getitem", "index_put", "one_hot", "roll",
    "split", "stack", "take_along_dim", "where",
]  # fmt: skip

# ---- the ops ---------------------------------------------------------------------------------------


def _scatter_reference(g, idx, rows, skip=-1):
    y = np.zeros((rows, g.shape[-1]), g.dtype)
    lead = np.broadcast_shapes(idx.shape, g.shape[:-1])
    counts = (idx != skip)[..., None]
    np.add.at(y, np.broadcast_to(idx, lead), np.where(counts, np.broadcast_to(g, (*lead, g.shape[-1])), 0.0))
    return y


def _scatter_back(n, dy):
    lead = np.broadcast_shapes(n.ins[1].shape, n.ins[0].shape[:-1])
    return OPS.gather_rows(dy, OPS.expand(n.ins[1], shape=lead), skip=n.params["skip"]), None


def _draw(rng, shape, below):
    return rng.integers(0, below, shape) if below else np.zeros(shape, np.int64)


def _gather_samples(rng):
    shapes = (4,), (2, 3), (), (3, 1), (0,), (2,), (40,)
    for (rows, cols), shape in zip(((5, 3), (7, 1), (1, 9), (6, 70), (3, 2), (4, 0), (9, 5)), shapes):
        yield (rng.standard_normal((rows, cols)), _draw(rng, shape, rows)), {}
    yield (rng.standard_normal((4, 3)), _draw(rng, (3, 7), 4)), {"skip": 2}


def _scatter_samples(rng):
    for (x, idx), params in _gather_samples(rng):
        yield (rng.standard_normal((*idx.shape, x.shape[1])), idx), {"rows": x.shape[0], **params}
    yield (rng.standard_normal((900, 33)), _draw(rng, (900,), 300)), {"rows": 300}
    yield (rng.standard_normal((5, 1, 70)), _draw(rng, (5, 60), 3)), {"rows": 3}
    yield (np.zeros((0, 3)), np.zeros(0, np.int64)), {"rows": 2}


gather_rows = Op(
    "gather_rows", "x[R,C]:A idx[...]:i<R", "y[...,C]:A", kernel="gather_rows_fwd", saves="idx", params={"skip": -1},
    bytes="2*n*item + 8*lead",
    vjp=lambda n, g: (OPS.scatter_add(g, n.ins[1], rows=n.ins[0].shape[0], skip=n.params["skip"]), None),
    samples=_gather_samples,
    reference=lambda x, idx, skip: np.where((idx == skip)[..., None], 0.0, x[idx]),
    errors=[((np.ones((3, 2)), np.array([[0, 1], [3, -1]])), {}, IndexError,
             r"gather_rows: argument 'idx': expected 0 <= value < 3, got 3 at idx\[1, 0\]"),
            ((np.ones((3, 2)), np.array([0.5])), {}, TypeError, r"gather_rows: argument 'idx': expected integers")],
    doc="y[n, c] = x[idx[n], c], or 0 where idx[n] is `skip`. Source: S1 §2.9.",
)  # fmt: skip

scatter_add = Op(
    "scatter_add", "g[...,C] idx[...]:i<rows", "y[rows,C]", kernel="scatter_add_fwd", saves="idx",
    params={"rows": int, "skip": -1},
    vjp=_scatter_back, samples=_scatter_samples, reference=_scatter_reference,
    errors=[((np.ones((2, 2)), np.array([0, -1])), {"rows": 3}, IndexError,
             r"scatter_add: argument 'idx': expected 0 <= value < 3, got -1 at idx\[1\]")],
    doc="y[r, c] = Σ g[n, c] over idx[n] = r ≠ skip, added in the order of n: the adjoint of gather_rows.",
)  # fmt: skip


def _scatter_along_reference(g, idx, rows):
    y = np.zeros((g.shape[0], rows, g.shape[2]), g.dtype)
    b, _, c = np.indices(idx.shape)
    np.add.at(y, (b, idx, c), g)
    return y


def _along_samples(rng):
    for b, r, n, c in ((2, 5, 4, 3), (1, 7, 9, 1), (3, 2, 1, 20), (2, 3, 0, 4), (0, 3, 2, 2)):
        yield (rng.standard_normal((b, r, c)), rng.integers(0, r, (b, n, c))), {}
        yield (rng.standard_normal((b, r, c)), np.broadcast_to(rng.integers(0, r, (n, 1)), (b, n, c))), {}


def _scatter_along_samples(rng):
    for (x, idx), _ in _along_samples(rng):
        yield (rng.standard_normal(idx.shape), idx), {"rows": x.shape[1]}


gather_along = Op(
    "gather_along", "x[B,R,C]:A idx[B,N,C]:i<R", "y[B,N,C]:A", kernel="gather_along_fwd", saves="idx",
    bytes="2*n*item + 8*n",
    vjp=lambda n, g: (OPS.scatter_along(g, n.ins[1], rows=n.ins[0].shape[1]), None),
    samples=_along_samples,
    reference=lambda x, idx: np.take_along_axis(x, idx, 1),
    errors=[((np.ones((1, 2, 1)), np.array([[[2]]])), {}, IndexError,
             r"gather_along: argument 'idx': expected 0 <= value < 2, got 2 at idx\[0, 0, 0\]")],
    doc="y[b, n, c] = x[b, idx[b, n, c], c].",
)  # fmt: skip

scatter_along = Op(
    "scatter_along", "g[B,N,C] idx[B,N,C]:i<rows", "y[B,rows,C]", kernel="scatter_along_fwd", saves="idx",
    params={"rows": int},
    vjp=lambda n, g: (OPS.gather_along(g, n.ins[1]), None),
    samples=_scatter_along_samples,
    reference=_scatter_along_reference,
    errors=[((np.ones((1, 1, 1)), np.array([[[2]]])), {"rows": 2}, IndexError, r"expected 0 <= value < 2, got 2")],
    doc="y[b, r, c] = Σ g[b, n, c] over idx[b, n, c] = r, added in the order of n: the adjoint of gather_along.",
)  # fmt: skip

_CAT_MAX = 10


def _cat_back(n, g):
    grads, start = [], 0
    for k, x in enumerate(n.ins):
        if x is None:
            grads.append(None)
            continue
        grads.append(_narrow(g, 1, start, x.shape[1]) if n.need(k) else None)
        start += x.shape[1]
    return grads


def _cat_samples(rng):
    many = range(_CAT_MAX)
    for b, sizes, c in ((2, (3, 1, 4), 5), (1, (2,), 3), (3, (0, 2), 1), (1, many, 20), (2, (1, 2), 0), (0, (1, 2), 3)):
        yield tuple(rng.standard_normal((b, n, c)) for n in sizes), {}


join = Op(
    "cat", " ".join(f"a{k}[B,N{k},C]:A" + "?" * (k > 0) for k in range(_CAT_MAX)).replace(":A?", "?:A"), "y[B,...,C]:A",
    kernel="cat_fwd",
    shape=lambda shapes: [(shapes[0][0], sum(s[1] for s in shapes if s), shapes[0][2])],
    vjp=_cat_back, samples=_cat_samples,
    reference=lambda *xs: np.concatenate([x for x in xs if x is not None], 1),
    errors=[((np.ones((2, 1, 3)), np.ones((2, 1, 4))), {}, ValueError, r"cat: argument 'a1': expected shape")],
    doc="y = a0, a1, … one after the other along the middle dimension.",
)  # fmt: skip

running_sum = Op(
    "cumsum", "x[B,N,C]", "y[B,N,C]", kernel="cumsum_fwd",
    vjp=lambda n, g: flip(OPS.cumsum(flip(g, 1)), 1),
    samples=lambda rng: [((rng.standard_normal(s),), {})
                         for s in ((2, 5, 3), (1, 70, 1), (2, 3, 130), (0, 3, 2), (2, 0, 2))],
    reference=lambda x: np.cumsum(x, 1),
    doc="y[b, n, c] = x[b, 0, c] + … + x[b, n, c], summed in double precision.",
)  # fmt: skip

clip = Op(
    "clamp", "x[...]", "y[...]", kernel="clamp_fwd", params={"min": -np.inf, "max": np.inf}, saves="x", like=True,
    vjp=lambda n, g: OPS.where(OPS.logical_and(n.ins[0] >= n.params["min"], n.ins[0] <= n.params["max"]), g, 0.0),
    samples=lambda rng: [((np.array([-3, -1, -0.5, 0.25, 2, 5]),), {"min": -1.0, "max": 2.0}),
                         ((rng.standard_normal((3, 37)),), {"min": 0.125}),
                         ((rng.standard_normal((2, 5)),), {"max": 0.5}),
                         ((rng.standard_normal((0, 5)),), {"max": 0.5})],
    kinks=(-1.0, 0.125, 0.5, 2.0),
    reference=lambda x, min=-np.inf, max=np.inf: np.minimum(np.maximum(x, min), max),
    doc="y = min(max(x, min), max); the derivative is 1 from min to max, both included, else 0. NaN stays NaN.",
)  # fmt: skip


# ---- indexing ---------------------------------------------------------------------------------------


def getitem(x, key):
    """x[key] by NumPy's rules. Ints, slices, None and Ellipsis give a view; masks and integer arrays a copy.

    Raises:
        IndexError: an index out of bounds (which, dimension and size), too many indices, a mask that does not
            fit, arrays that do not broadcast, or an entry of another kind; before anything is computed.
    """
    shape = x.shape
    plain = plain_key(shape, key)
    if plain is not None:
        begin, size, step, view = plain
        y = OPS.slice(x, begin=begin, shape=size, step=step)
        return y if view == size else OPS.reshape(y, shape=view)
    k = Key(shape, key)
    y = OPS.slice(x, begin=tuple(k.begin), shape=tuple(k.shape), step=tuple(k.step))
    if tuple(k.view) != y.shape:
        y = OPS.reshape(y, shape=tuple(k.view))
    if not k.arrays:
        return y
    dims = [d for d, _ in k.arrays]
    if k.apart:  # their dimensions come first
        y = OPS.permute(y, axes=(*dims, *(d for d in range(y.ndim) if d not in dims)))
    return _take(y, 0 if k.apart else dims[0], len(dims), k.rows())


def _take(x, first, n, idx):
    """x with its n dimensions from first replaced by idx's, which counts through them."""
    shape = x.shape
    lead, rest = shape[:first], shape[first + n :]
    b, r, c = prod(lead), prod(shape[first : first + n]), prod(rest)
    at = Tensor(idx)  # a copy: backward needs it, and the key may change
    if b == 1:
        y = OPS.gather_rows(OPS.reshape(x, shape=(r, c)), at)
    else:
        at = OPS.expand(OPS.reshape(at, shape=(1, idx.size, 1)), shape=(b, idx.size, c))
        y = OPS.gather_along(OPS.reshape(x, shape=(b, r, c)), at)
    return OPS.reshape(y, shape=(*lead, *idx.shape, *rest))


@takes_tensor
def index_put(x, indices, values, accumulate=False):
    """A copy of x in which x[indices] is values (broadcast), or x[indices] + values with accumulate.

    indices: any key of x[...]. Where it names an element several times the last value stands, or all are
    added up. Differentiable in x and in values.

    Raises:
        IndexError: as x[indices]. ValueError: values do not broadcast to x[indices].
    """
    shape, size = x.shape, x.size
    values = values if isinstance(values, Tensor) else Tensor(values, dtype=x.dtype)
    places = getitem(from_numpy(np.arange(size).reshape(shape)), indices)
    try:
        values = OPS.expand(values, shape=places.shape)
    except ValueError:
        raise ValueError(f"index_put: argument 'values': expected a shape that broadcasts to {places.shape}, "
                         f"got {values.shape}") from None  # fmt: skip
    at = places.numpy_copy().reshape(-1)
    if x.dtype.kind != "f" and values.dtype.kind != "f":
        y = x.numpy_copy()
        (np.add.at if accumulate else np.put)(y.reshape(-1), at, values.numpy_copy().reshape(-1))
        return Tensor(y)
    values = OPS.reshape(values, shape=(at.size, 1))
    if not accumulate:
        last = at.size - 1 - np.unique(at[::-1], return_index=True)[1]
        if last.size < at.size:
            values, at = OPS.gather_rows(values, Tensor(last)), at[last]
    put = OPS.reshape(OPS.scatter_add(values, Tensor(at), rows=size), shape=shape)
    if accumulate:
        return OPS.add(x, put)
    mask = np.zeros(size, np.bool_)
    mask[at] = True
    return OPS.where(from_numpy(mask.reshape(shape)), put, x)


# ---- gathering along a dimension -------------------------------------------------------------------


def _indices(index, what, name):
    if not isinstance(index, Tensor):
        _core.note_array(index, what)
        index = operand(index, f"{what}: argument '{name}'")
    if index.dtype.kind not in "iu":
        raise TypeError(f"{what}: argument '{name}': expected integers, got dtype {index.dtype}")
    return index


def _blame(what, name, index, dim, size):
    """The error of the first index out of [0, size)."""
    a = index._array()
    place = np.argwhere((a < 0) | (a >= size))[0].tolist()
    return out_of_bounds(what, a[tuple(place)], dim, size, f" at {name}{place}" if place else "")


@takes_tensor
def gather(input, dim, index):
    """y[i, j, …] = input[i, index[i, j, …], …], the index standing in dimension dim.

    Shapes: index has as many dimensions as input and, but for dim, at most its sizes; y has index's shape.

    Raises:
        IndexError: an index out of [0, size of dim). ValueError: shapes that do not fit. TypeError: no integers.
    """
    index = _indices(index, "gather", "index")
    shape, want = input.shape, index.shape
    d = axis_of(dim, len(shape), "gather")
    if len(want) != len(shape) or any(m > n for k, (m, n) in enumerate(zip(want, shape)) if k != d):
        raise ValueError(
            f"gather: argument 'index': expected a shape of at most {shape} but for dimension {d}, got {want}"
        )
    part = want[:d] + shape[d : d + 1] + want[d + 1 :]
    x = input if part == shape else OPS.slice(input, begin=(0,) * len(shape), shape=part, step=(1,) * len(shape))
    b, c = prod(want[:d]), prod(want[d + 1 :])
    try:
        y = OPS.gather_along(OPS.reshape(x, shape=(b, shape[d], c)), OPS.reshape(index, shape=(b, want[d], c)))
    except IndexError:
        raise _blame("gather", "index", index, d, shape[d]) from None
    return OPS.reshape(y, shape=want)


@takes_tensor
def take_along_dim(input, indices, dim=None):
    """gather with input and indices broadcast against each other but for dim; without dim, of input flattened."""
    index = _indices(indices, "take_along_dim", "indices")
    if dim is None:
        return gather(OPS.reshape(input, shape=(-1,)), 0, OPS.reshape(index, shape=(-1,)))
    if index.ndim != input.ndim:
        raise ValueError(f"take_along_dim: argument 'indices': expected {input.ndim} dimensions, got {index.ndim}")
    d = axis_of(dim, input.ndim, "take_along_dim")
    a, b = list(input.shape), list(index.shape)
    a[d] = b[d] = 1
    both = np.broadcast_shapes(tuple(a), tuple(b))
    x = OPS.expand(input, shape=(*both[:d], input.shape[d], *both[d + 1 :]))
    return gather(x, d, OPS.expand(index, shape=(*both[:d], index.shape[d], *both[d + 1 :])))


def one_hot(input, num_classes=-1):
    """1 at the class in a new last dimension of size num_classes, else 0; int64. By default the largest class + 1.

    Raises:
        IndexError: a class out of [0, num_classes). TypeError: input is not of integers.
    """
    input = _indices(input, "one_hot", "input")
    a = input._array()
    if num_classes == -1:
        if a.size == 0:
            raise ValueError("one_hot: argument 'num_classes': expected a number for an empty input, got -1")
        num_classes = int(a.max()) + 1
    if a.size and (a.min() < 0 or a.max() >= num_classes):
        raise _blame("one_hot", "input", input, a.ndim, num_classes)
    return OPS.eq(input.unsqueeze(-1), from_numpy(np.arange(num_classes))).astype(np.int64)


# ---- joining and splitting -------------------------------------------------------------------------


def _narrow(x, dim, start, size):
    """Elements start .. start + size - 1 along dim; a view."""
    begin, shape = [0] * x.ndim, list(x.shape)
    begin[dim], shape[dim] = start, size
    return OPS.slice(x, begin=tuple(begin), shape=tuple(shape), step=(1,) * x.ndim)


def _tensors(tensors, what):
    if not isinstance(tensors, Iterable):
        raise TypeError(f"{what}: argument 'tensors': expected several tensors, got {type(tensors).__name__}")
    xs = [operand(x, f"{what}: argument 'tensors'") for x in tensors]
    if not xs:
        raise ValueError(f"{what}: argument 'tensors': expected at least one tensor, got none")
    return xs


def cat(tensors, dim=0):
    """The tensors one after the other along dim; their other sizes must be equal, mixed dtypes are promoted.

    Where the first of 4-D tensors is stored channels-last, so is the result.

    Raises:
        ValueError: no tensors, or shapes that do not fit.
    """
    xs = _tensors(tensors, "cat")
    shape = xs[0].shape
    if not shape:
        raise ValueError("cat: argument 'tensors': expected at least 1 dimension, got a 0-d tensor")
    d = axis_of(dim, len(shape), "cat")
    for k, x in enumerate(xs):
        if x.ndim != len(shape) or any(x.shape[e] != shape[e] for e in range(len(shape)) if e != d):
            raise ValueError(
                f"cat: argument 'tensors': expected shape {shape} but for dimension {d}, got {x.shape} at {k}"
            )
    if xs[0].is_channels_last() and not xs[0].is_contiguous():
        y = _join([OPS.permute(x, axes=(0, 2, 3, 1)) for x in xs], (0, 3, 1, 2)[d])
        return OPS.permute(y, axes=(0, 3, 1, 2))
    return _join(xs, d)


def _join(xs, d):
    shape = xs[0].shape
    b, c = prod(shape[:d]), prod(shape[d + 1 :])
    parts = [OPS.reshape(x, shape=(b, x.shape[d], c)) for x in xs]
    while len(parts) > 1 or len(xs) == 1:
        parts = [OPS.cat(*parts[k : k + _CAT_MAX]) for k in range(0, len(parts), _CAT_MAX)]
        if len(parts) == 1:
            break
    return OPS.reshape(parts[0], shape=(*shape[:d], parts[0].shape[1], *shape[d + 1 :]))


def stack(tensors, dim=0):
    """Tensors of one shape side by side along a new dimension dim. Raises ValueError where shapes differ."""
    xs = _tensors(tensors, "stack")
    for k, x in enumerate(xs):
        if x.shape != xs[0].shape:
            raise ValueError(f"stack: argument 'tensors': expected shape {xs[0].shape}, got {x.shape} at {k}")
    d = axis_of(dim, xs[0].ndim + 1, "stack")
    return cat([x.unsqueeze(d) for x in xs], d)


@takes_tensor
def split(tensor, split_size_or_sections, dim=0):
    """Views of tensor along dim: of split_size each (the last may be smaller), or of the sizes in a list."""
    d = axis_of(dim, tensor.ndim, "split")
    n, sizes = tensor.shape[d], split_size_or_sections
    if not isinstance(sizes, (int, tuple, list)):
        raise TypeError(f"split: argument 'split_size_or_sections': expected an integer or a list, got {sizes!r}")
    if isinstance(sizes, int):
        if sizes < 0 or (sizes == 0 and n > 0):
            raise ValueError(f"split: argument 'split_size_or_sections': expected a positive size, got {sizes}")
        sizes = [min(sizes, n - k) for k in range(0, n, sizes)] if n else [0]
    if sum(sizes) != n or any(s < 0 for s in sizes):
        raise ValueError(f"split: argument 'split_size_or_sections': expected sizes that add up to {n} "
                         f"(dimension {d}), got {list(sizes)}")  # fmt: skip
    starts = np.cumsum([0, *sizes]).tolist()
    return tuple(_narrow(tensor, d, start, size) for start, size in zip(starts, sizes))


@takes_tensor
def chunk(input, chunks, dim=0):
    """At most `chunks` views of equal size along dim; the last may be smaller."""
    if number(chunks, "chunk: argument 'chunks'") < 1:
        raise ValueError(f"chunk: argument 'chunks': expected at least 1, got {chunks}")
    d = axis_of(dim, input.ndim, "chunk")
    if input.shape[d] == 0:
        return split(input, [0] * chunks, d)
    return split(input, -(-input.shape[d] // chunks), d)


# ---- choosing and moving -----------------------------------------------------------------------------


def where(condition, input, other):
    """input where condition (bools), else other; the three are broadcast."""
    return OPS.where(condition, input, other)


@takes_tensor
def clamp(input, min=None, max=None):
    """min(max(input, min), max); a bound may be None, a number or a tensor, which gets what it decides as gradient."""
    if min is None and max is None:
        raise ValueError("clamp: expected 'min' or 'max', got neither")
    if any(isinstance(b, (Tensor, np.ndarray)) for b in (min, max)) or input.dtype.kind != "f":
        y = input if min is None else OPS.where(OPS.lt(input, min), min, input)
        return y if max is None else OPS.where(OPS.gt(y, max), max, y)
    return OPS.clamp(
        input, **{k: number(v, f"clamp: argument '{k}'") for k, v in (("min", min), ("max", max)) if v is not None}
    )


def constant_pad(input, pad, value=None):
    """input between constants; pad and value as F.pad's, which checks that there are pairs of pad."""
    n, shape = input.ndim, input.shape
    lo, hi = [0] * n, [0] * n
    for k in range(len(pad) // 2):
        lo[n - 1 - k], hi[n - 1 - k] = pad[2 * k], pad[2 * k + 1]
    if any(abs(w) >= 2**62 for w in pad):
        raise ValueError(f"pad: argument 'pad': expected widths below 2**62, got {_core.shown(tuple(pad))}")
    size = [a + m + b for a, m, b in zip(lo, shape, hi)]
    kept = [m + min(a, 0) + min(b, 0) for a, m, b in zip(lo, shape, hi)]
    if any(m < 0 for m in (*size, *kept)):
        raise ValueError(f"pad: argument 'pad': expected widths that leave shape {shape} a size, got {tuple(pad)}")
    ones = (1,) * n
    x = OPS.slice(input, begin=tuple(max(-a, 0) for a in lo), shape=tuple(kept), step=ones)
    place = Tensor(np.array([[max(a, 0) for a in lo], ones], dtype=np.int64).reshape(2, n))
    y = OPS.unslice(x, place, shape=tuple(size))
    if not value:
        return y
    inside = OPS.unslice(OPS.expand(Tensor(True), shape=x.shape), place, shape=tuple(size))
    return OPS.where(inside, y, value)


@takes_tensor
def flip(input, dims):
    """A copy with the order along dims reversed."""
    dims = {axis_of(d, input.ndim, "flip") for d in (dims if isinstance(dims, (tuple, list)) else (dims,))}
    key = tuple(slice(None, None, -1) if d in dims else slice(None) for d in range(input.ndim))
    return OPS.copy(getitem(input, key))


@takes_tensor
def roll(input, shifts, dims=None):
    """Elements moved by shifts along dims, round the end; without dims, of input flattened."""
    if dims is None:
        return OPS.reshape(roll(OPS.reshape(input, shape=(-1,)), shifts, 0), shape=input.shape)
    shifts, dims = ((v if isinstance(v, (tuple, list)) else (v,)) for v in (shifts, dims))
    if len(shifts) != len(dims):
        raise ValueError(f"roll: expected as many shifts as dims, got {len(shifts)} and {len(dims)}")
    for s, d in zip(shifts, dims):
        d = axis_of(d, input.ndim, "roll")
        n = input.shape[d]
        if n and s % n:
            input = cat([_narrow(input, d, n - s % n, s % n), _narrow(input, d, 0, n - s % n)], d)
    return input


@takes_tensor
def cumsum(input, dim):
    """The running sum along dim; integers and bools add up as int64."""
    d = axis_of(dim, input.ndim, "cumsum") if input.ndim else 0
    if input.dtype.kind != "f":
        return Tensor(np.cumsum(input._array(), axis=d if input.ndim else None, dtype=np.int64).reshape(input.shape))
    shape = input.shape
    y = OPS.cumsum(OPS.reshape(input, shape=(prod(shape[:d]), prod(shape[d : d + 1]), prod(shape[d + 1 :]))))
    return OPS.reshape(y, shape=shape)
