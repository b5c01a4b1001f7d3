"""Images moved, cut out and recoloured; kernel in csrc/ops/augment.c, chance in pynn/data/augment.py."""

import numpy as np

from ..op import Op

__all__ = ["augment"]


def _shape(shapes, size, scale):
    (n, _, _, c), place, colour, hole = shapes
    for name, got, want in (("place", place, (n, 6)), ("colour", colour, (n, c, c + 1)), ("hole", hole, (n, 4))):
        if got is not None and got != want:
            raise ValueError(f"augment: argument '{name}': expected shape {want} for images {shapes[0]}, got {got}")
    if colour is not None and c > 64:
        raise ValueError(f"augment: argument 'colour': expected at most 64 channels, got {c}")
    return [(n, *size, c)]


def _reference(x, place, colour, hole, size, scale):
    n, h, w, c = x.shape
    framed = np.zeros((n, h + 4, w + 4, c))
    framed[:, 2:-2, 2:-2] = x
    p, q = np.mgrid[: size[0], : size[1]]
    y = np.zeros((n, *size, c))
    for i, a in enumerate(place):
        sx, sy = a[0] * q + a[1] * p + a[2], a[3] * q + a[4] * p + a[5]
        sx, sy = (np.where((s > -2) & (s < m + 1), s, -2.0) for s, m in ((sx, w), (sy, h)))
        col, row = np.floor(sx).astype(int), np.floor(sy).astype(int)
        for dr in (0, 1):
            for dc in (0, 1):
                share = np.abs(1 - dr - (sy - row)) * np.abs(1 - dc - (sx - col))
                y[i] += np.where(share, 1, 0)[..., None] * share[..., None] * framed[
                    i, np.minimum(row + dr + 2, h + 3), np.minimum(col + dc + 2, w + 3)]  # fmt: skip
        y[i] *= scale
        if colour is not None:
            y[i] = y[i] @ colour[i, :, :-1].T + colour[i, :, -1]
        if hole is not None:
            r0, r1, c0, c1 = np.maximum(hole[i], 0)
            y[i, r0:r1, c0:c1] = 0
    return y


def _samples(rng):
    for k, (shape, size, byte) in enumerate((
        ((3, 5, 7, 3), (5, 7), True), ((2, 4, 6, 1), (9, 3), False), ((0, 4, 6, 1), (4, 6), False),
        ((1, 1, 1, 1), (1, 1), True), ((9, 16, 17, 3), (16, 17), False),
    )):  # fmt: skip
        n, c = shape[0], shape[3]
        x = rng.integers(0, 256, shape).astype(np.uint8) if byte else rng.standard_normal(shape)
        place = np.array([1.0, 0, 0, 0, 1, 0]) + rng.uniform(-0.7, 0.7, (n, 6)) * (k != 1)
        # what float32 rounds may pass a pixel's edge, or the frame's: eighths are exact
        place = np.round(place * 8) / 8
        colour = rng.standard_normal((n, c, c + 1)) if k % 2 == 0 else None
        hole = np.sort(rng.integers(-1, 8, (n, 2, 2))).reshape(n, 4) if k in (0, 4) else None
        yield (x, place, colour, hole), {"size": size, "scale": 1 / 256 if byte else 1.0}


augment = Op(
    "augment", "x[N,H,W,K]:* place[N,A]:C colour[N,K,B]?:C hole[N,D]?:i", "y[N,P,Q,K]:C", kernel="augment_fwd",
    layout="dense", promote=False, params={"size": tuple, "scale": 1.0}, shape=_shape, flops="20*n",
    vjp=lambda n, *g: (None,) * 4, reference=_reference, samples=_samples,
    valid={"x": "images of uint8 or of place's dtype"},
    errors=[((np.zeros((1, 2, 2, 1)), np.zeros((1, 5))), {"size": (2, 2)}, ValueError,
             r"augment: argument 'place': expected shape \(1, 6\)"),
            ((np.zeros((1, 2, 2, 1), np.int64), np.zeros((1, 6))), {"size": (2, 2)}, (ValueError, IndexError),
             "augment: argument 'x': expected images of uint8")],
    doc="y[p, q] = scale·x(a₀q + a₁p + a₂, a₃q + a₄p + a₅), a = place, column first; bilinear between pixels, 0 "
        "outside; then colour·(y, 1), then 0 in rows hole₀ … hole₁, columns hole₂ … hole₃. A constant for derivatives.",
)  # fmt: skip
