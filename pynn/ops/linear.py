"""The affine map x·Wᵀ + b, with the bias in the product's epilogue."""

import numpy as np

from ..op import OPS, Op

__all__ = ["linear"]


def _back(g, x, w, need):
    """dx = g·W, dW = gᵀ·x, db = Σ g, in products again, so that every further order stays fused."""
    dx = dw = db = None
    rows = OPS.reshape(g, shape=(-1, w.shape[0]) if g.size else (0, w.shape[0]))
    if need[0]:
        dx = OPS.reshape(OPS.matmul(rows, w), shape=x.shape)
    if need[1]:
        xs = OPS.reshape(x, shape=(rows.shape[0], w.shape[1]))
        dw = OPS.matmul(OPS.permute(rows, axes=(1, 0)), xs)
    if need[2]:
        db = OPS.sum_to(rows, shape=(w.shape[0],))
    return dx, dw, db


def _reference(x, w, b=None):
    y = x @ w.T
    return y if b is None else y + b


def _samples(rng):
    for lead, i, o in (
        ((3,), 5, 4),
        ((), 7, 1),
        ((2, 3), 17, 33),
        ((0,), 3, 2),
        ((1,), 1, 1),
        ((4,), 0, 3),
        ((64,), 64, 10),
    ):
        x, w = rng.standard_normal((*lead, i)), rng.standard_normal((o, i))
        yield (x, w, rng.standard_normal(o)), {}
        yield (x, w, None), {}


linear = Op(
    "linear", "x[...,I] W[O,I] b[O]?", "y[...,O]", kernel="linear_fwd", saves="x W", flops="2*n*I", promote=False,
    bwd="linear_bwd", bwd_formula=_back, samples=_samples, reference=_reference,
    errors=[((np.ones((2, 3)), np.ones((4, 5)), None), {}, ValueError,
             r"linear: argument 'W': expected shape \[O,I\] with I=3, got \(4, 5\)")],
    doc="y = x·Wᵀ + b. Source: S0; S1 §2.8; S3 §2.",
)  # fmt: skip
