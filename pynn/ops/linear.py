"""The affine map x·Wᵀ + b, with the bias in the product's epilogue."""

import numpy as np

from ..op import OPS, Op

__all__ = ["linear"]


def _back(n, g):
    """dx = g·W, dW = gᵀ·x, db = Σ g."""
    x, w, b = n.ins
    dx = OPS.matmul(g, w) if g.ndim > 1 else OPS.matmul(g.unsqueeze(0), w).squeeze(0)
    dw = db = None
    if n.need(1):
        rows = g.reshape(-1, w.shape[0]) if g.size else g.reshape(0, w.shape[0])
        dw = OPS.matmul(rows.T, x.reshape(rows.shape[0], w.shape[1]))
    if b is not None and n.need(2):
        db = OPS.sum_to(g, shape=b.shape)
    return dx if n.need(0) else None, dw, db


def _reference(x, w, b=None):
    y = x @ w.T
    return y if b is None else y + b


def _samples(rng):
    for lead, i, o in (((3,), 5, 4), ((), 7, 1), ((2, 3), 17, 33), ((0,), 3, 2), ((1,), 1, 1), ((4,), 0, 3), ((64,), 64, 10)):
        x, w = rng.standard_normal((*lead, i)), rng.standard_normal((o, i))
        yield (x, w, rng.standard_normal(o)), {}
        yield (x, w, None), {}


linear = Op(
    "linear", "x[...,I] W[O,I] b[O]?", "y[...,O]", kernel="linear_fwd", saves="x W", flops="2*n*I", promote=False,
    vjp=_back, samples=_samples, reference=_reference,
    errors=[((np.ones((2, 3)), np.ones((4, 5)), None), {}, ValueError,
             r"linear: argument 'W': expected shape \[O,I\] with I=3, got \(4, 5\)")],
    doc="y = x·Wᵀ + b. Source: S0; S1 §2.8; S3 §2.",
)  # fmt: skip
