"""Resizing and padding of images; kernels in csrc/ops/resize2d.c.

Both are y = A·x·Bᵀ in each channel, with one or two numbers in a row of A and B: linear, and their adjoint is the
other op here. Padding by a constant is pynn.ops.index's.
"""

import math

import numpy as np

from ..arrays import as_count, as_counts
from ..op import OPS, Op
from ..tensor import takes_tensor
from .index import constant_pad
from .pool2d import _as_given, _as_images

__all__ = ["interpolate", "pad", "pixel_shuffle", "pixel_unshuffle"]

NEAREST, BILINEAR, ALIGNED, REFLECT, REPLICATE, CIRCULAR = range(6)
_PADS = {"reflect": REFLECT, "replicate": REPLICATE, "circular": CIRCULAR}
_PARAMS = {"mode": int, "rh": float, "rw": float, "size": tuple}


def _matrix(mode, n, m, r):
    """A [m, n], and which of x each of the m outputs looks at, if with weight 0."""
    a, seen = np.zeros((m, n)), np.zeros((m, n), bool)
    for i in range(m):
        if mode in (BILINEAR, ALIGNED):
            s = max(0.0, i * r if mode == ALIGNED else (i + 0.5) * r - 0.5)
            lo = min(n - 1, math.floor(s))
            for at, share in ((lo, 1 - (s - lo)), (min(n - 1, lo + 1), s - lo)):
                a[i, at] += share
                seen[i, at] = True
            continue
        at = min(n - 1, math.floor(i * r)) if mode == NEAREST else i - int(r)
        if mode == REFLECT:
            at = (n - 1) - abs((n - 1) - abs(at))
        elif mode == REPLICATE:
            at = min(max(at, 0), n - 1)
        elif mode == CIRCULAR:
            at %= n
        a[i, at], seen[i, at] = 1, True
    return a, seen


def _product(spec, a, x, b, seen):
    """einsum of a·x·bᵀ; NaN where one is seen."""
    y = np.einsum(spec, a, np.where(np.isnan(x), 0, x), b)
    bad = np.einsum(spec, seen[0].astype(float), np.isnan(x).astype(float), seen[1].astype(float))
    return np.where(bad > 0, np.nan, y)


def _reference(x, mode, rh, rw, size):
    a, rows = _matrix(mode, x.shape[2], size[0], rh)
    b, columns = _matrix(mode, x.shape[3], size[1], rw)
    return _product("ph,nchw,qw->ncpq", a, x, b, (rows, columns))


def _spread_reference(dy, mode, rh, rw, size):
    a, rows = _matrix(mode, size[0], dy.shape[2], rh)
    b, columns = _matrix(mode, size[1], dy.shape[3], rw)
    return _product("ph,ncpq,qw->nchw", a, dy, b, (rows, columns))


def _check(name, image, made, mode, ratios):
    """Raises ValueError where an output would take from outside of the image."""
    if not NEAREST <= mode <= CIRCULAR:
        raise ValueError(f"{name}: argument 'mode': expected a number of 0 to 5, got {mode}")
    for n, m, r in zip(image[2:], made[2:], ratios):
        if m and n < 1:
            raise ValueError(f"{name}: expected an image that is not empty, got shape {image}")
        if mode < REFLECT and not (math.isfinite(r) and r >= 0):
            raise ValueError(f"{name}: expected a finite ratio >= 0 of the sizes, got {r}")
        before, after = r, m - n - r
        most = {REFLECT: n - 1, CIRCULAR: n}.get(mode, math.inf)
        if mode >= REFLECT and (r != int(r) or before > most or after > most):
            raise ValueError(f"{name}: argument 'pad': expected whole numbers, at most {most} of {n} elements, got "
                             f"{before:g} before and {after:g} after")  # fmt: skip
        if mode >= REFLECT and (before <= -n or after <= -n):
            raise ValueError(f"{name}: argument 'pad': nothing remains of {n} elements with {before:g} and {after:g}")


def _made(shapes, size, mode, rh, rw):
    y = (*shapes[0][:2], *size)
    _check("resize2d", shapes[0], y, mode, (rh, rw))
    return [y]


def _unmade(shapes, size, mode, rh, rw):
    x = (*shapes[0][:2], *size)
    _check("resize_spread2d", x, shapes[0], mode, (rh, rw))
    return [x]


_CASES = (  # image, mode, rh, rw, size
    ((2, 3, 4, 5), NEAREST, 0.5, 0.5, (8, 10)),
    ((2, 17, 5, 7), NEAREST, 5 / 3, 7 / 9, (3, 9)),
    ((1, 1, 1, 1), BILINEAR, 1, 1 / 2, (1, 2)),
    ((2, 5, 4, 6), BILINEAR, 0.5, 0.5, (8, 12)),
    ((3, 18, 7, 5), BILINEAR, 7 / 4, 5 / 9, (4, 9)),
    ((2, 4, 4, 3), ALIGNED, 3 / 7, 2 / 4, (8, 5)),
    ((2, 70, 4, 5), REPLICATE, -1, 0, (4, 3)),
    ((2, 3, 4, 5), REFLECT, 3, 1, (9, 10)),
    ((2, 3, 4, 5), REPLICATE, 2, -1, (9, 4)),
    ((2, 3, 4, 5), CIRCULAR, 4, 1, (9, 7)),
    ((0, 3, 4, 5), BILINEAR, 0.5, 0.5, (8, 10)),
    ((7, 150, 5, 4), NEAREST, 0.5, 0.5, (10, 8)),
)  # fmt: skip


def _samples(spread):
    def samples(rng):
        for shape, mode, rh, rw, size in _CASES:
            params = {"mode": mode, "rh": float(rh), "rw": float(rw), "size": shape[2:] if spread else size}
            yield (rng.standard_normal((*shape[:2], *size) if spread else shape),), params
        if not spread:
            params = {"mode": BILINEAR, "rh": 0.5, "rw": 0.5, "size": (4, 6)}
            yield (rng.choice([-1e4, 0.5, 1e4], (2, 5, 2, 3)),), params

    return samples


_X = np.zeros((1, 2, 3, 4))
resize = Op(
    "resize2d", "x[N,C,H,W]", "y[N,C,P,Q]", kernel="resize2d_fwd", layout="nhwc", params=_PARAMS,
    shape=_made, flops="6*n", saves="",
    vjp=lambda n, g: OPS.resize_spread2d(
        g, mode=n.params["mode"], rh=n.params["rh"], rw=n.params["rw"], size=n.ins[0].shape[2:]),
    reference=_reference, samples=_samples(False),
    errors=[((_X,), {"mode": REFLECT, "rh": 3.0, "rw": 0.0, "size": (6, 4)}, ValueError,
             "resize2d: argument 'pad': expected whole numbers, at most 2 of 3 elements, got 3 before and 0 after"),
            ((_X,), {"mode": 6, "rh": 1.0, "rw": 1.0, "size": (3, 4)}, ValueError,
             "resize2d: argument 'mode': expected a number of 0 to 5, got 6"),
            ((_X,), {"mode": BILINEAR, "rh": math.nan, "rw": 1.0, "size": (3, 4)}, ValueError,
             "resize2d: expected a finite ratio"),
            ((_X,), {"mode": REPLICATE, "rh": -3.0, "rw": 0.0, "size": (1, 4)}, ValueError,
             "resize2d: argument 'pad': nothing remains of 3 elements")],
    doc="y[p, q] = Σ a[p, h]·b[q, w]·x[h, w]. By mode: 0 nearest, floor(p·rh); "
        "1 bilinear, about (p + ½)·rh − ½; 2 bilinear with corners aligned, about p·rh; pads of rh before the first: "
        "3 reflect, 4 replicate, 5 circular.",
)  # fmt: skip
spread = Op(
    "resize_spread2d", "dy[N,C,P,Q]", "dx[N,C,H,W]", kernel="resize_spread2d_fwd", layout="nhwc", params=_PARAMS,
    shape=_unmade, flops="6*n", saves="",
    vjp=lambda n, g: OPS.resize2d(
        g, mode=n.params["mode"], rh=n.params["rh"], rw=n.params["rw"], size=n.ins[0].shape[2:]),
    reference=_spread_reference, samples=_samples(True),
    doc="dx[h, w] = Σ a[p, h]·b[q, w]·dy[p, q]: the adjoint of resize2d.",
)  # fmt: skip


# ---- functions ---------------------------------------------------------------------------------------


def interpolate(input, size=None, scale_factor=None, mode="nearest", align_corners=None):
    """input resized in its last one or two dimensions.

    Args:
        input: (N, C, L) or (N, C, H, W).
        size: the new sizes, an integer or one for each dimension. scale_factor: in place of them, how many times
            the old ones; the ratio then is scale_factor's own, also where sizes are rounded down.
        mode: "nearest" takes the pixel at floor(i·ratio); "linear" (three dimensions) and "bilinear" (four) blend
            the neighbours of (i + ½)·ratio − ½.
        align_corners: whether the corners' centres stay in place instead, in the blending modes.

    Raises:
        ValueError: both or neither of size and scale_factor, an unknown mode, empty images.

    Source: torch.nn.functional.interpolate.
    """
    dims = input.ndim - 2
    if dims not in (1, 2):
        raise ValueError(f"interpolate: argument 'input': expected 3 or 4 dimensions, got shape {input.shape}")
    blends = ("linear", "bilinear")[dims - 1]
    if mode not in ("nearest", blends):
        raise ValueError(f"interpolate: argument 'mode': expected 'nearest' or {blends!r} for shape {input.shape}, got "
                         f"{mode!r}")  # fmt: skip
    if align_corners is not None and mode == "nearest":
        raise ValueError(f"interpolate: argument 'align_corners': expected mode {blends!r} beside it")
    if (size is None) == (scale_factor is None):
        raise ValueError("interpolate: expected one of size and scale_factor")
    old = input.shape[2:]
    if size is not None:
        new = as_counts("interpolate", "size", size, dims)
        ratios = [n / m if m else 1.0 for n, m in zip(old, new)]
    else:
        given = scale_factor if isinstance(scale_factor, (tuple, list)) else [scale_factor] * dims
        factors = [float(f) for f in given]
        if len(factors) != dims or not all(math.isfinite(f) and f > 0 for f in factors):
            raise ValueError(f"interpolate: argument 'scale_factor': expected {dims} positive numbers, got "
                             f"{scale_factor!r}")  # fmt: skip
        new, ratios = tuple(math.floor(n * f) for n, f in zip(old, factors)), [1 / f for f in factors]
    if min(new) < 1:
        raise ValueError(f"interpolate: expected sizes >= 1, got {new}")
    kind = NEAREST if mode == "nearest" else ALIGNED if align_corners else BILINEAR
    if kind == ALIGNED:
        ratios = [(n - 1) / (m - 1) if m > 1 else 0.0 for n, m in zip(old, new)]
    if dims == 1:
        new, ratios = (1, *new), [1.0, *ratios]
    y = OPS.resize2d(_as_images("interpolate", input, dims), mode=kind, rh=ratios[0], rw=ratios[1], size=new)
    return _as_given(y, input, dims)


@takes_tensor
def pad(input, pad, mode="constant", value=None):
    """input with pad[0] elements more before and pad[1] after in its last dimension, pad[2] and pad[3] in the one
    before it, and so on; negative numbers crop.

    Args:
        mode: what they are: "constant" is value (0 if None); "reflect" mirrors without the edge, "replicate" repeats
            the edge, "circular" goes on at the other side, these in the last one or two dimensions.

    Raises:
        ValueError: an odd count of numbers, too many for input, more than mode can give.

    Source: torch.nn.functional.pad.
    """
    pad = tuple(int(p) for p in pad)
    if mode != "constant" and mode not in _PADS:
        raise ValueError(f"pad: argument 'mode': expected one of constant, {', '.join(_PADS)}, got {mode!r}")
    if len(pad) % 2 or len(pad) > 2 * input.ndim:
        raise ValueError(f"pad: argument 'pad': expected at most {input.ndim} pairs for shape {input.shape}, got {pad}")
    if mode == "constant":
        return constant_pad(input, pad, value)
    if len(pad) > 4 or value:
        raise ValueError(f"pad: mode {mode!r} pads one or two dimensions and takes no value")
    pad += (0, 0) * (len(pad) // 2 % 2)
    if not any(pad):
        return input
    left, right, top, bottom = pad
    batch, (h, w) = input.shape[:-2], (1, *input.shape)[-2:]
    size = h + top + bottom, w + left + right
    images = input if input.ndim == 4 else input.reshape(-1, 1, h, w)
    y = OPS.resize2d(images, mode=_PADS[mode], rh=float(top), rw=float(left), size=size)
    return y if input.ndim == 4 else y.reshape(*batch, *size) if input.ndim > 1 else y.reshape(-1)


def pixel_shuffle(input, upscale_factor):
    """(…, C·r², H, W) → (…, C, H·r, W·r): r² channels become squares of r × r pixels.

    Raises:
        ValueError: channels that are no multiple of r². Source: Shi et al., arXiv 1609.05158.
    """
    r = as_count("pixel_shuffle", "upscale_factor", upscale_factor)
    *batch, c, h, w = input.shape
    if c % (r * r):
        raise ValueError(f"pixel_shuffle: argument 'input': expected a multiple of {r * r} channels, got {c}")
    n, k = len(batch), c // (r * r)
    x = input.reshape(*batch, k, r, r, h, w).permute(*range(n + 1), n + 3, n + 1, n + 4, n + 2)
    return x.reshape(*batch, k, h * r, w * r)


def pixel_unshuffle(input, downscale_factor):
    """(…, C, H·r, W·r) → (…, C·r², H, W): the inverse of pixel_shuffle.

    Raises:
        ValueError: a height or width that is no multiple of r.
    """
    r = as_count("pixel_unshuffle", "downscale_factor", downscale_factor)
    *batch, c, h, w = input.shape
    if h % r or w % r:
        raise ValueError(f"pixel_unshuffle: argument 'input': expected multiples of {r} as height and width, got {h} "
                         f"and {w}")  # fmt: skip
    n = len(batch)
    x = input.reshape(*batch, c, h // r, r, w // r, r).permute(*range(n + 1), n + 2, n + 4, n + 1, n + 3)
    return x.reshape(*batch, c * r * r, h // r, w // r)
