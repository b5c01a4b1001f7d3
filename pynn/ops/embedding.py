"""Rows of a table by number and sums of them, with gradients by rows; kernels in csrc/ops/embedding.c."""

import numpy as np

from .. import _core
from ..op import OPS, Op
from ..sparse import RowGradient
from ..tensor import Tensor, from_numpy, number, operand
from .index import _draw, _indices

__all__ = ["embedding", "embedding_bag"]


def _by_rows(n):
    """Whether the walk asks for a gradient by rows; one that is itself recorded is dense."""
    return n.params["sparse"] and not _core.grad_enabled()


def _embedding_back(n, dy):
    weight, input = n.ins
    rows, skip = weight.shape[0], n.params["padding_idx"]
    if n.params["scale_grad_by_freq"]:
        dy = OPS.div(dy, _frequency(input, rows, dy.dtype))
    if _by_rows(n):
        return RowGradient._of(*OPS.merge_rows(dy, input, rows=rows, skip=skip), weight.shape), None
    return OPS.scatter_add(dy, input, rows=rows, skip=skip), None


def _frequency(input, rows, dtype):
    """How often each number of input occurs in it, in a last dimension of 1."""
    ones = OPS.expand(Tensor(1.0, dtype), shape=(*input.shape, 1))
    return OPS.gather_rows(OPS.scatter_add(ones, input, rows=rows), input)


def _embedding_samples(rng):
    for (v, e), shape in (((5, 3), (4,)), ((7, 1), (2, 3)), ((6, 70), (40,)), ((3, 2), (0,)), ((4, 33), (3, 5))):
        yield (rng.standard_normal((v, e)), _draw(rng, shape, v)), {}


_embedding = Op(
    "embedding", "weight[V,E] input[...]:i<V", "y[...,E]", kernel="embedding_fwd", saves="input",
    params={"padding_idx": -1, "scale_grad_by_freq": False, "sparse": False},
    vjp=_embedding_back, samples=_embedding_samples,
    reference=lambda weight, input: weight[input],
    errors=[((np.ones((3, 2)), np.array([[0, 1], [3, -1]])), {}, IndexError,
             r"embedding: argument 'input': expected 0 <= value < 3, got 3 at input\[1, 0\]"),
            ((np.ones((3, 0)), np.array([3])), {}, IndexError, r"expected 0 <= value < 3, got 3"),
            ((np.ones((3, 2)), np.array([0.5])), {}, TypeError, r"embedding: argument 'input': expected integers")],
    doc="y[n, e] = weight[input[n], e]. dweight[v] = Σ dy[n] over input[n] = v ≠ padding_idx, added in the order of n, "
        "and divided by their number with scale_grad_by_freq; by rows with `sparse`. Source: S1 §2.9.",
)  # fmt: skip


# ---- sums of rows ------------------------------------------------------------------------------------


def _sum_back(n, dy):
    x, source, target, weight = n.ins
    from_skip, to_skip, rows = n.params["skip_source"], n.params["skip_target"], x.shape[0]
    if _by_rows(n):
        g = OPS.gather_rows(dy, target, skip=to_skip)
        g = g if weight is None else g * weight.unsqueeze(-1)
        return RowGradient._of(*OPS.merge_rows(g, source, rows=rows, skip=from_skip), x.shape), None, None, None
    dx = OPS.sum_rows(dy, target, source, weight, rows=rows, skip_source=to_skip, skip_target=from_skip)
    return dx, None, None, None


def _sum_reference(x, source, target, weight, rows, skip_source, skip_target):
    source, target, weight = np.broadcast_arrays(source, target, 1.0 if weight is None else weight)
    live = (source != skip_source) & (target != skip_target)
    y = np.zeros((rows, x.shape[1]), x.dtype)
    np.add.at(y, target[live], x[source[live]] * weight[live][:, None])
    return y


def _sum_samples(rng):
    for s, r, shape, c in (
        (5, 3, (7,), 4), (1, 1, (1,), 1), (6, 4, (3, 5), 33), (40, 7, (60, 9), 70), (3, 500, (900,), 17),
        (4, 2, (0,), 3), (3, 5, (2, 2), 0),
    ):  # fmt: skip
        args = rng.standard_normal((s, c)), _draw(rng, shape, s), _draw(rng, shape, r)
        yield (*args, None), {"rows": r}
        yield (*args, rng.standard_normal(shape)), {"rows": r, "skip_source": s - 1, "skip_target": 0}
    bags = np.repeat(np.arange(5), 6).reshape(5, 6)  # in order already
    yield (rng.standard_normal((9, 20)), _draw(rng, (5, 6), 9), bags, None), {"rows": 5}
    yield (rng.standard_normal((9, 20)), _draw(rng, (5, 6), 9), np.arange(5)[:, None], None), {"rows": 5}


sum_rows = Op(
    "sum_rows", "x[S,C] source[...]:i<S target[...]:i<rows weight[...]?:C", "y[rows,C]", kernel="sum_rows_fwd",
    saves="source target weight",
    params={"rows": int, "skip_source": -1, "skip_target": -1, "sparse": False},
    vjp=_sum_back, samples=_sum_samples, reference=_sum_reference,
    errors=[((np.ones((2, 2)), np.array([0, 2]), np.array([0, 0])), {"rows": 3}, IndexError,
             r"sum_rows: argument 'source': expected 0 <= value < 2, got 2 at source\[1\]"),
            ((np.ones((2, 2)), np.array([0, 1]), np.array([3, -1])), {"rows": 3}, IndexError,
             r"sum_rows: argument 'target': expected 0 <= value < 3, got 3 at target\[0\]")],
    doc="y[r, c] = Σ weight[n]·x[source[n], c] over target[n] = r, in the order of n, without pairs whose source is "
        "skip_source or whose target is skip_target: its own adjoint, with source and target exchanged.",
)  # fmt: skip


def _merge_reference(g, idx, rows, skip):
    lead = np.broadcast_shapes(idx.shape, g.shape[:-1])
    idx, g = np.broadcast_to(idx, lead), np.broadcast_to(g, (*lead, g.shape[-1]))
    index = np.unique(idx[idx != skip])
    dense = np.zeros((rows + 1, g.shape[-1]))
    np.add.at(dense, idx[idx != skip], g[idx != skip])
    room = min(idx.size, rows)
    index = np.concatenate([index, np.full(room - index.size, rows, np.int64)])
    return index, dense[index]


def _merge_samples(rng):
    for rows, shape, c in ((3, (7,), 4), (1, (1,), 1), (50, (3, 5), 33), (70, (60, 9), 70), (4, (0,), 3), (5, (2,), 0)):
        yield (rng.standard_normal((*shape, c)), _draw(rng, shape, rows)), {"rows": rows}
    yield (rng.standard_normal((9, 3)), _draw(rng, (9,), 4)), {"rows": 4, "skip": 1}
    yield (rng.standard_normal((9, 3)), _draw(rng, (9,), 5)), {"rows": 4, "skip": 4}


merge_rows = Op(
    "merge_rows", "g[...,C]:C idx[...]:i<rows", "index[K]:i values[K,C]", kernel="merge_rows_fwd",
    params={"rows": int, "skip": -1},
    shape=lambda shapes, rows, skip: [
        (m := min(int(np.prod(np.broadcast_shapes(shapes[0][:-1], shapes[1]))), rows),),
        (m, shapes[0][-1]),
    ],
    vjp=lambda n, *g: (None, None),
    samples=_merge_samples, reference=_merge_reference,
    errors=[((np.ones((2, 2)), np.array([0, 4])), {"rows": 3}, IndexError,
             r"merge_rows: argument 'idx': expected 0 <= value < 3, got 4 at idx\[1\]")],
    doc="index: the different numbers in idx but for `skip`, in order; values[k] = Σ g[n] over idx[n] = index[k], in "
        "the order of n. Both have room for min(n, rows) and end with index = rows, values = 0: a gradient by rows.",
)  # fmt: skip


def _bag_reference(x, idx, bag, rows, skip):
    y = np.zeros((rows, x.shape[1]), np.int64)
    for b in range(rows):
        own = idx[(bag == b) & (idx != skip)]
        if own.size:
            y[b] = own[x[own].argmax(0)]
    return y


def _bag_samples(rng):
    for v, e, lengths, skip in (
        (5, 3, (2, 0, 4, 1), -1),
        (9, 300, (5, 7), 3),
        (60, 40, (9,) * 30, -1),
        (2, 1, (1,), 0),
    ):
        bag = np.repeat(np.arange(len(lengths)), lengths)
        yield (rng.permutation(v * e).reshape(v, e) / 7, _draw(rng, bag.shape, v), bag), {
            "rows": len(lengths), "skip": skip,
        }  # fmt: skip


bag_argmax = Op(
    "bag_argmax", "x[V,E] idx[N]:i<V bag[N]:i", "y[rows,E]:i", kernel="bag_argmax_fwd",
    params={"rows": int, "skip": -1}, shape=lambda shapes, rows, skip: [(rows, shapes[0][1])],
    valid={"bag": "numbers below rows that never fall"},
    vjp=lambda n, g: (None, None, None),
    samples=_bag_samples, reference=_bag_reference,
    errors=[((np.ones((2, 2)), np.array([0, 1]), np.array([1, 0])), {"rows": 3}, IndexError,
             r"bag_argmax: argument 'bag': expected numbers below rows that never fall, got 0 at bag\[1\]"),
            ((np.ones((2, 2)), np.array([0, 2]), np.array([1, 1])), {"rows": 3}, IndexError,
             r"bag_argmax: argument 'idx': expected 0 <= value < 2, got 2 at idx\[1\]")],
    doc="y[b, e] = that idx[n] ≠ skip with bag[n] = b for which x[idx[n], e] is largest, the first of equals, a NaN "
        "before all; 0 for a bag without any.",
)  # fmt: skip


# ---- functions ---------------------------------------------------------------------------------------


def _padding(padding_idx, weight, what):
    if weight.ndim != 2:
        raise ValueError(f"{what}: argument 'weight': expected 2 dimensions, got shape {weight.shape}")
    if padding_idx is None:
        return -1
    rows = weight.shape[0]
    if not -rows <= padding_idx < rows:
        raise ValueError(f"{what}: argument 'padding_idx': expected {-rows} <= value < {rows}, got {padding_idx}")
    return padding_idx % rows


def _check_sparse(weight, sparse, what):
    if sparse and not weight.is_leaf:
        raise ValueError(f"{what}: argument 'sparse': a gradient by rows stops at the weight: expected a weight that "
                         f"was not computed, got one from '{weight.grad_fn.name}'")  # fmt: skip


def _shorten(weight, input, max_norm, norm_type, what):
    """Scales the rows that input names to a norm of at most max_norm, in place."""
    if not number(max_norm, f"{what}: argument 'max_norm'") > 0:
        raise ValueError(f"{what}: argument 'max_norm': expected a number > 0, got {max_norm}")
    used = np.unique(input._array())
    if used.size and not 0 <= used[0] <= used[-1] < weight.shape[0]:
        return  # the lookup tells
    before = _core.set_grad_enabled(False)
    try:
        with weight.writable() as table:
            norm = np.linalg.norm(table[used], norm_type, axis=1, keepdims=True)
            table[used] *= np.where(norm > max_norm, max_norm / (norm + 1e-7), 1).astype(table.dtype)
    finally:
        _core.set_grad_enabled(before)


def embedding(
    input, weight, padding_idx=None, max_norm=None, norm_type=2.0, scale_grad_by_freq=False, sparse=False
):  # fmt: skip
    """Rows of weight by number: y[…, :] = weight[input[…], :].

    Shapes: input […] integers, weight [V, E] → […, E].

    Args:
        padding_idx: a row that gets no gradient from here.
        max_norm: rows that are used are scaled to at most this norm (of order norm_type) first, in weight itself.
        scale_grad_by_freq: the gradient of a row is divided by how often input names it.
        sparse: weight.grad is a pynn.RowGradient, which holds the rows that were used.

    Raises:
        IndexError: a number out of [0, V). TypeError: input is not of integers. ValueError: padding_idx out of
        range, or sparse with a weight that was computed. Source: S1 §2.9.
    """
    input, weight = _indices(input, "embedding", "input"), operand(weight, "embedding: argument 'weight'")
    padding_idx = _padding(padding_idx, weight, "embedding")
    _check_sparse(weight, sparse, "embedding")
    if max_norm is not None:
        _shorten(weight, input, max_norm, norm_type, "embedding")
    return OPS.embedding(weight, input, padding_idx=padding_idx, scale_grad_by_freq=bool(scale_grad_by_freq),
                         sparse=bool(sparse))  # fmt: skip


def _bags(input, offsets, include_last_offset):
    """(input, the bag of each token, number of bags); both of one shape, bags in order."""
    what = "embedding_bag: argument 'offsets'"
    if input.ndim == 2:
        if offsets is not None:
            raise ValueError(f"{what}: expected none beside a 2-D input, whose rows are the bags")
        n = input.shape[0]
        return input, OPS.expand(from_numpy(np.arange(n)[:, None]), shape=input.shape), n
    if input.ndim != 1:
        raise ValueError(f"embedding_bag: argument 'input': expected 1 or 2 dimensions, got shape {input.shape}")
    if offsets is None:
        raise ValueError(f"{what}: expected where the bags of a 1-D input begin, got none")
    starts = _indices(offsets, "embedding_bag", "offsets")._array()
    if starts.ndim != 1 or (include_last_offset and not starts.size):
        raise ValueError(f"{what}: expected 1 dimension{' and the end of the last bag' if include_last_offset else ''}"
                         f", got shape {starts.shape}")  # fmt: skip
    ends = starts if include_last_offset else np.append(starts, input.size)
    lengths = np.diff(ends)
    if starts.size and (starts[0] != 0 or lengths.min(initial=0) < 0 or ends[-1] > input.size):
        raise ValueError(f"{what}: expected numbers that begin at 0 and rise to at most {input.size}, got "
                         f"{starts.tolist()}")  # fmt: skip
    used = int(ends[-1]) if starts.size else 0
    return input[:used], from_numpy(np.repeat(np.arange(lengths.size), lengths)), int(lengths.size)


def _largest(weight, input, bag, n, skip):
    """Each bag's largest value by column; 0 for an empty one."""
    flat = {"input": OPS.reshape(input, shape=(-1,)), "bag": OPS.reshape(bag, shape=(-1,))}
    if weight.shape[0] == 0:
        return OPS.sum_rows(weight, input, bag, rows=n)
    at = OPS.bag_argmax(weight.detach(), flat["input"], flat["bag"], rows=n, skip=skip)
    y = OPS.gather_along(weight.unsqueeze(0), at.unsqueeze(0))
    return OPS.where(_count(weight, input, bag, n, skip) > 0, OPS.reshape(y, shape=at.shape), 0.0)


def _count(weight, input, bag, n, skip):
    """How many tokens each bag has, [n, 1]."""
    ones = OPS.expand(Tensor(1.0, weight.dtype), shape=(weight.shape[0], 1))
    return OPS.sum_rows(ones, input, bag, rows=n, skip_source=skip)


def embedding_bag(
    input, weight, offsets=None, max_norm=None, norm_type=2.0, scale_grad_by_freq=False, mode="mean", sparse=False,
    per_sample_weights=None, include_last_offset=False, padding_idx=None,
):  # fmt: skip
    """The sum, mean or maximum of rows of weight over bags of tokens, without the rows themselves in memory.

    Shapes: input [B, L] integers, a bag a row, or [N] with offsets [B], where the bags begin; weight [V, E] → [B, E].

    Args:
        mode: "sum", "mean" or "max"; an empty bag gives 0.
        per_sample_weights: factors of the tokens, of input's shape; for "sum" only.
        include_last_offset: offsets [B + 1] end with where the last bag ends.
        padding_idx: tokens of this number do not count, forward and backward.
        max_norm, norm_type, scale_grad_by_freq, sparse: as in `embedding`; the last two not for "max".

    Raises:
        IndexError: a number out of [0, V). TypeError: input or offsets are not of integers. ValueError: shapes,
        offsets or options that do not fit together.
    """
    input, weight = _indices(input, "embedding_bag", "input"), operand(weight, "embedding_bag: argument 'weight'")
    skip = _padding(padding_idx, weight, "embedding_bag")
    _check_bag(input, weight, mode, sparse, scale_grad_by_freq, per_sample_weights)
    shape = input.shape
    input, bag, n = _bags(input, offsets, include_last_offset)
    if max_norm is not None:
        _shorten(weight, input, max_norm, norm_type, "embedding_bag")
    if mode == "max":
        return _largest(weight, input, bag, n, skip)
    factors = per_sample_weights
    if factors is not None and factors.shape != input.shape:
        factors = factors[: input.shape[0]]
    if scale_grad_by_freq or (factors is not None and factors.requires_grad):
        y = OPS.embedding(weight, input, padding_idx=skip, scale_grad_by_freq=scale_grad_by_freq, sparse=bool(sparse))
        y = y if factors is None else y * factors.unsqueeze(-1)
        live = bag if skip < 0 else OPS.where(input == skip, n, bag)
        y = OPS.scatter_add(y, live, rows=n, skip=n)
    else:
        y = OPS.sum_rows(weight, input, bag, factors, rows=n, skip_source=skip, sparse=bool(sparse))
    if mode == "mean":
        if len(shape) == 2 and skip < 0:
            return y * (1.0 / max(1, shape[1]))
        y = y / OPS.maximum(_count(weight, input, bag, n, skip), 1.0)
    return y


def _check_bag(input, weight, mode, sparse, scale_grad_by_freq, per_sample_weights):
    if mode not in ("sum", "mean", "max"):
        raise ValueError(f"embedding_bag: argument 'mode': expected 'sum', 'mean' or 'max', got {mode!r}")
    if mode == "max" and (sparse or scale_grad_by_freq):
        name = "sparse" if sparse else "scale_grad_by_freq"
        raise ValueError(f"embedding_bag: argument '{name}': expected False with mode 'max'")
    _check_sparse(weight, sparse, "embedding_bag")
    if per_sample_weights is None:
        return
    if mode != "sum":
        raise ValueError(f"embedding_bag: argument 'per_sample_weights': expected mode 'sum' with it, got {mode!r}")
    if per_sample_weights.shape != input.shape:
        raise ValueError(f"embedding_bag: argument 'per_sample_weights': expected input's shape {input.shape}, got "
                         f"{per_sample_weights.shape}")  # fmt: skip
