"""Gated recurrent units over whole sequences; kernels in csrc/ops/gru.c."""

import numpy as np

from ..op import OPS, Op
from .index import cat
from .rnn import cells, projected, shape_error, sigmoid, start, unrolled, walked

__all__ = ["gru"]


def _shape(shapes, reverse, reset_after):
    x, w_hh = shapes[0], shapes[3]
    if w_hh[0] != 3 * w_hh[1]:
        raise shape_error("gru", "w_hh", "[3H,H]", w_hh)
    return [(*x[:2], w_hh[1]), (x[1], w_hh[1]), (*x[:2], 4 * w_hh[1])]


def _part(x, begin, end):
    return None if x is None else x[begin:end]


def _formula(x, h0, w_ih, w_hh, b_ih, b_hh, lengths, reverse, reset_after):
    n = w_hh.shape[1]
    given = projected(x, w_ih, b_ih)

    def step(t, h):
        by_x = given[t]
        gates = OPS.sigmoid(by_x[:, : 2 * n] + projected(h, w_hh[: 2 * n], _part(b_hh, 0, 2 * n)))
        r, z = gates[:, :n], gates[:, n:]
        q = projected(h, w_hh[2 * n :], _part(b_hh, 2 * n, 3 * n)) if reset_after else r * h
        by_h = r * q if reset_after else projected(q, w_hh[2 * n :], _part(b_hh, 2 * n, 3 * n))
        new = OPS.tanh(by_x[:, 2 * n :] + by_h)
        h = (1 - z) * new + z * h
        return (h,), (h, cat([r, z, new, q], 1))

    (y, saved), (h,) = unrolled(step, x.shape[0], (start(h0, x, n),), lengths, reverse, (n, 4 * n))
    return y, h, saved.detach()


def _reference(x, h0, w_ih, w_hh, b_ih=None, b_hh=None, lengths=None, reverse=False, reset_after=True):
    n = w_hh.shape[1]
    b_ih, b_hh = (np.zeros(3 * n) if b is None else b for b in (b_ih, b_hh))

    def step(x, h):
        xr, xz, xn = np.split(w_ih @ x + b_ih, 3)
        hr, hz, hn = np.split(w_hh @ h + b_hh, 3)
        r, z = sigmoid(xr + hr), sigmoid(xz + hz)
        q = hn if reset_after else r * h
        new = np.tanh(xn + (r * hn if reset_after else w_hh[2 * n :] @ q + b_hh[2 * n :]))
        h = (1 - z) * new + z * h
        return (h,), (h, np.concatenate([r, z, new, q]))

    h0 = np.zeros((x.shape[1], n)) if h0 is None else h0
    (y, saved), (h,) = walked(step, x, (h0,), lengths, reverse, (n, 4 * n))
    return y, h, saved


def _samples(rng):
    for args, params in cells(rng, 3, 1):
        yield args, params
        yield args, {**params, "reset_after": False}


def _errors():
    def bad(pattern, x=(2, 3, 4), h0=(3, 5), w_ih=(15, 4), w_hh=(15, 5), lengths=None):
        zeros = [np.zeros(s) for s in (x, h0, w_ih, w_hh)]
        args = (*zeros, None, None, None if lengths is None else np.array(lengths))
        return args, {}, ValueError, f"^gru: argument {pattern}"

    return [
        bad(r"'x': expected shape \[T,N,I\], got \(2, 3\)$", x=(2, 3)),
        bad(r"'h0': expected shape \[N,H\] with N=3, got \(2, 5\)$", h0=(2, 5)),
        bad(r"'w_ih': expected shape \[3H,I\] with I=4, H=5, got \(15, 3\)$", w_ih=(15, 3)),
        bad(r"'w_hh': expected shape \[3H,H\] with H=5, got \(15, 6\)$", w_hh=(15, 6)),
        bad(r"'lengths': expected 0 <= value <= T, got 3 at lengths\[1\]$", lengths=[1, 3, 2]),
    ]


gru = Op(
    "gru", "x[T,N,I] h0[N,H]? w_ih[3H,I] w_hh[3H,H] b_ih[3H]? b_hh[3H]? lengths[N]?:i",
    "y[T,N,H] hn[N,H] saved[T,N,4H]:C",
    kernel="gru_fwd", bwd="gru_bwd", saves="y saved", layout="dense", promote=False,
    params={"reverse": False, "reset_after": True}, shape=_shape, formula=_formula, reference=_reference,
    errors=_errors(), samples=_samples, valid={"lengths": "0 <= value <= T"}, flops="6*T*N*H*I + 6*T*N*H*H",
    doc="r, z = σ(x_t·w_ihᵀ + b_ih + h·w_hhᵀ + b_hh), in the order r, z, n; n = tanh(x_t·w_inᵀ + b_in + r·q), "
        "q = h·w_hnᵀ + b_hn, or, where not `reset_after`, n = tanh(x_t·w_inᵀ + b_in + q·w_hnᵀ + b_hn), q = r·h; "
        "h = (1 − z)·n + z·h; y_t = h. From the last step on with `reverse`. Where lengths are given, sequence n has "
        "the steps below lengths[n]; y is 0 beyond. saved is what backward needs. Source: Cho et al. 2014; S3 §9.3, "
        "whose z is 1 − z here, as in PyTorch.",
)  # fmt: skip
