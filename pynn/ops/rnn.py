"""Recurrent layers' common parts, and the plain recurrent layer; kernels in csrc/ops/rnn.c."""

import numpy as np

from ..op import OPS, Op
from ..tensor import Tensor, from_numpy
from .index import stack

__all__ = ["as_lengths", "cells", "rnn", "shape_error", "start", "unrolled", "walked"]


# ---- for the formulas: all sequences at once, in Tensor operations ------------------------------------


def start(state, x, width):
    """The state before the first step, [N, width]: zeros where none is given."""
    return Tensor(np.zeros((x.shape[1], width), x.dtype)) if state is None else state


def projected(x, w, *biases):
    """x·wᵀ + biases"""
    y = OPS.matmul(x, OPS.permute(w, axes=(1, 0)))
    for b in biases:
        y = y if b is None else y + b
    return y


def unrolled(step, steps, state, lengths, reverse, widths):
    """(kept, state): what step(t, *state) → (state, kept) keeps, [T, N, width] each, and the last state.

    Sequences that have no step t are left as they are, and keep 0 there.
    """
    rows = [None] * steps
    for t in range(steps - 1, -1, -1) if reverse else range(steps):
        new, kept = step(t, *state)
        if lengths is not None:
            alive = OPS.reshape(lengths > t, shape=(-1, 1))
            new = [OPS.where(alive, a, b) for a, b in zip(new, state)]
            kept = [OPS.where(alive, a, 0.0) for a in kept]
        state, rows[t] = new, kept
    if not steps:
        n, dtype = state[0].shape[0], state[0].dtype
        return [Tensor(np.zeros((0, n, w), dtype)) for w in widths], state
    return [stack([r[k] for r in rows]) for k in range(len(widths))], state


# ---- for the references: one sequence after another, in NumPy -------------------------------------------


def walked(step, x, states, lengths, reverse, widths):
    """As unrolled, of step(x_t, *state) → (state, kept) on vectors; states are arrays [N, width]."""
    steps, n = x.shape[:2]
    kept = [np.zeros((steps, n, w), x.dtype) for w in widths]
    last = [s.copy() for s in states]
    for i in range(n):
        length = steps if lengths is None else int(lengths[i])
        state = [s[i] for s in states]
        for t in range(length - 1, -1, -1) if reverse else range(length):
            state, values = step(x[t, i], *state)
            for k, v in zip(kept, values):
                k[t, i] = v
        for to, s in zip(last, state):
            to[i] = s
    return kept, last


def sigmoid(x):
    return 0.5 * (1 + np.tanh(0.5 * x))


# ---- for the entries and the layers -------------------------------------------------------------------


def shape_error(name, argument, expected, got):
    return ValueError(f"{name}: argument '{argument}': expected shape {expected}, got {got}")


def cells(rng, gates, n_states, proj=False):
    """Samples: (x, states, w_ih, w_hh, b_ih, b_hh, w_hr or nothing, lengths), params. Odd sizes, no step, no sequence,
    so few rows that weights are not packed, more sequences than one group, several panels; lengths in any order."""

    def drawn(t, n, i, h, lengths=None, p=None, states=True, bias=True, **params):
        def some(*shape, scale=1.0):
            return scale * rng.standard_normal(shape)

        w = (some(gates * h, i, scale=0.6), some(gates * h, p or h, scale=0.6))
        first = [some(n, p or h), some(n, h)][:n_states]
        biases = [some(gates * h), some(gates * h)]
        last = [some(p, h) if p else None] if proj else []
        return (
            some(t, n, i), *(s if states else None for s in first), *w, *(b if bias else None for b in biases), *last,
            None if lengths is None else np.array(lengths),
        ), params  # fmt: skip

    yield drawn(3, 2, 4, 5)
    yield drawn(1, 1, 1, 1, states=False)
    yield drawn(2, 1, 3, 17, bias=False)
    yield drawn(5, 3, 7, 18, reverse=True)
    yield drawn(4, 0, 3, 2)
    yield drawn(0, 2, 3, 4)
    yield drawn(3, 33, 5, 20, states=False)
    yield drawn(4, 6, 3, 6, lengths=[3, 1, 0, 4, 2, 4])
    yield drawn(4, 6, 3, 6, lengths=[3, 1, 0, 4, 2, 4], reverse=True)
    yield drawn(2, 26, 40, 70, lengths=[2, 1] * 13)
    if proj:
        yield drawn(3, 4, 5, 6, p=3, reverse=True)
        yield drawn(1, 2, 3, 9, p=2, states=False)
        yield drawn(3, 9, 4, 37, p=21, lengths=[1, 3, 0, 2, 2, 3, 1, 3, 2])
    (x, *rest), params = drawn(3, 5, 4, 7)
    yield (x * 1e4, *rest), params


def as_lengths(name, lengths, n):
    """lengths, integers in any form, as a Tensor [n]."""
    if not isinstance(lengths, Tensor):
        a = np.asarray(lengths)
        if a.dtype.kind not in "iu":
            raise TypeError(f"{name}: argument 'lengths': expected integers, got {a.dtype}")
        lengths = from_numpy(a.astype(np.int64))
    if lengths.shape != (n,):
        raise shape_error(name, "lengths", (n,), lengths.shape)
    return lengths


# ---- the plain recurrent layer --------------------------------------------------------------------------


def _shape(shapes, reverse, relu):
    x, w_hh = shapes[0], shapes[3]
    return [(*x[:2], w_hh[1]), (x[1], w_hh[1])]


def _formula(x, h0, w_ih, w_hh, b_ih, b_hh, lengths, reverse, relu):
    n = w_hh.shape[1]
    given = projected(x, w_ih, b_ih, b_hh)

    def step(t, h):
        a = given[t] + projected(h, w_hh)
        h = OPS.relu(a) if relu else OPS.tanh(a)
        return (h,), (h,)

    (y,), (h,) = unrolled(step, x.shape[0], (start(h0, x, n),), lengths, reverse, (n,))
    return y, h


def _reference(x, h0, w_ih, w_hh, b_ih=None, b_hh=None, lengths=None, reverse=False, relu=False):
    n = w_hh.shape[1]
    bias = sum(b for b in (b_ih, b_hh, np.zeros(n)) if b is not None)

    def step(x, h):
        a = w_ih @ x + w_hh @ h + bias
        h = np.maximum(a, 0) if relu else np.tanh(a)
        return (h,), (h,)

    h0 = np.zeros((x.shape[1], n)) if h0 is None else h0
    (y,), (h,) = walked(step, x, (h0,), lengths, reverse, (n,))
    return y, h


def _samples(rng):
    for k, (args, params) in enumerate(cells(rng, 1, 1)):
        yield args, {**params, "relu": k % 3 == 2}


def _errors():
    def bad(pattern, x=(2, 3, 4), h0=(3, 5), w_ih=(5, 4), w_hh=(5, 5), lengths=None):
        zeros = [np.zeros(s) for s in (x, h0, w_ih, w_hh)]
        args = (*zeros, None, None, None if lengths is None else np.array(lengths))
        return args, {}, ValueError, f"^rnn: argument {pattern}"

    return [
        bad(r"'x': expected shape \[T,N,I\], got \(2, 3\)$", x=(2, 3)),
        bad(r"'w_hh': expected shape \[H,H\] with H=5, got \(5, 6\)$", w_hh=(5, 6)),
        bad(r"'lengths': expected 0 <= value <= T, got 3 at lengths\[1\]$", lengths=[1, 3, 2]),
    ]


rnn = Op(
    "rnn", "x[T,N,I] h0[N,H]? w_ih[H,I] w_hh[H,H] b_ih[H]? b_hh[H]? lengths[N]?:i", "y[T,N,H] hn[N,H]",
    kernel="rnn_fwd", bwd="rnn_bwd", saves="y", layout="dense", promote=False,
    params={"reverse": False, "relu": False}, shape=_shape, formula=_formula, reference=_reference, errors=_errors(),
    samples=_samples, valid={"lengths": "0 <= value <= T"}, flops="2*T*N*H*I + 2*T*N*H*H",
    doc="h = tanh(x_t·w_ihᵀ + b_ih + h·w_hhᵀ + b_hh), or max(·, 0) with `relu`; y_t = h. From the last step on with "
        "`reverse`. Where lengths are given, sequence n has the steps below lengths[n]; y is 0 beyond. Source: Elman "
        "1990; S3 §9.1.",
)  # fmt: skip
