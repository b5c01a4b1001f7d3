"""Long short-term memory over whole sequences; kernels in csrc/ops/lstm.c."""

import numpy as np

from ..op import OPS, Op
from .index import cat
from .rnn import cells, projected, shape_error, sigmoid, start, unrolled, walked

__all__ = ["lstm"]


def _shape(shapes, reverse):
    x, w_hh, w_hr = shapes[0], shapes[4], shapes[7]
    if w_hh[0] % 4:
        raise shape_error("lstm", "w_hh", "[4H,P]", w_hh)
    hidden, width = w_hh[0] // 4, w_hh[1]
    if w_hr is None and width != hidden:
        raise shape_error("lstm", "w_hh", f"[4H,H] with H={hidden} without w_hr", w_hh)
    return [(*x[:2], width), (x[1], width), (x[1], hidden), (*x[:2], 5 * hidden)]


def _formula(x, h0, c0, w_ih, w_hh, b_ih, b_hh, w_hr, lengths, reverse):
    n = w_hh.shape[0] // 4
    parts = [slice(k * n, (k + 1) * n) for k in range(4)]
    given = projected(x, w_ih, b_ih, b_hh)

    def step(t, h, c):
        a = given[t] + projected(h, w_hh)
        i, f, o = (OPS.sigmoid(a[:, parts[k]]) for k in (0, 1, 3))
        g = OPS.tanh(a[:, parts[2]])
        c = f * c + i * g
        h = o * OPS.tanh(c)
        if w_hr is not None:
            h = projected(h, w_hr)
        return (h, c), (h, cat([i, f, g, o, c], 1))

    state = start(h0, x, w_hh.shape[1]), start(c0, x, n)
    (y, saved), (h, c) = unrolled(step, x.shape[0], state, lengths, reverse, (w_hh.shape[1], 5 * n))
    return y, h, c, saved.detach()


def _reference(x, h0, c0, w_ih, w_hh, b_ih=None, b_hh=None, w_hr=None, lengths=None, reverse=False):
    n, width = w_hh.shape[0] // 4, w_hh.shape[1]
    bias = sum(b for b in (b_ih, b_hh, np.zeros(4 * n)) if b is not None)

    def step(x, h, c):
        i, f, g, o = np.split(w_ih @ x + w_hh @ h + bias, 4)
        i, f, g, o = sigmoid(i), sigmoid(f), np.tanh(g), sigmoid(o)
        c = f * c + i * g
        h = o * np.tanh(c)
        h = h if w_hr is None else w_hr @ h
        return (h, c), (h, np.concatenate([i, f, g, o, c]))

    h0 = np.zeros((x.shape[1], width)) if h0 is None else h0
    c0 = np.zeros((x.shape[1], n)) if c0 is None else c0
    (y, saved), (h, c) = walked(step, x, (h0, c0), lengths, reverse, (width, 5 * n))
    return y, h, c, saved


def _errors():
    def call(x=(2, 3, 4), h0=(3, 5), c0=(3, 5), w_ih=(20, 4), w_hh=(20, 5), w_hr=None, lengths=None):
        zeros = [None if s is None else np.zeros(s) for s in (x, h0, c0, w_ih, w_hh, None, None, w_hr)]
        return (*zeros, None if lengths is None else np.array(lengths))

    def bad(pattern, kind=ValueError, **changed):
        return call(**changed), {}, kind, f"^lstm: argument {pattern}"

    return [
        bad(r"'x': expected shape \[T,N,I\], got \(2, 3\)$", x=(2, 3)),
        bad(r"'h0': expected shape \[N,P\] with N=3, got \(2, 5\)$", h0=(2, 5)),
        bad(r"'w_ih': expected shape \[4H,I\] with I=4, H=5, got \(20, 3\)$", w_ih=(20, 3)),
        bad(r"'w_hh': expected shape \[4H,P\] with P=5, H=5, got \(20, 6\)$", w_hh=(20, 6)),
        bad(r"'w_hh': expected shape \[4H,H\] with H=5 without w_hr, got \(20, 2\)$", h0=None, w_hh=(20, 2)),
        bad(r"'lengths': expected 0 <= value <= T, got 3 at lengths\[1\]$", lengths=[1, 3, 2]),
        bad(r"'lengths': expected 0 <= value <= T, got -1 at lengths\[2\]$", lengths=[1, 2, -1]),
        bad(r"'lengths': expected integers", TypeError, lengths=[0.5, 1, 2]),
    ]


lstm = Op(
    "lstm", "x[T,N,I] h0[N,P]? c0[N,H]? w_ih[4H,I] w_hh[4H,P] b_ih[4H]? b_hh[4H]? w_hr[P,H]? lengths[N]?:i",
    "y[T,N,P] hn[N,P] cn[N,H] saved[T,N,5H]:C",
    kernel="lstm_fwd", bwd="lstm_bwd", saves="y saved", layout="dense", promote=False, params={"reverse": False},
    shape=_shape, formula=_formula, reference=_reference, errors=_errors(),
    samples=lambda rng: cells(rng, 4, 2, proj=True), valid={"lengths": "0 <= value <= T"},
    flops="8*T*N*H*I + 8*T*N*H*P",
    doc="i, f, o = σ(a), g = tanh(a), a = x_t·w_ihᵀ + b_ih + h·w_hhᵀ + b_hh, in the order i, f, g, o; c = f·c + i·g, "
        "h = o·tanh(c), or that times w_hrᵀ; y_t = h. From the last step on with `reverse`. Where lengths are given, "
        "sequence n has the steps below lengths[n]; y is 0 beyond. saved is what backward needs. "
        "Source: Hochreiter and Schmidhuber 1997, Gers et al. 2000; S3 §9.2.",
)  # fmt: skip
