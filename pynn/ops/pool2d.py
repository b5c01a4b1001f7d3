"""Max and average pooling, of fixed windows and adaptive ones; kernels in csrc/ops/pool2d.c.

Average pooling is linear, and so is max pooling once its places are known: their derivatives are one
another's kernels. The functions take PyTorch's arguments; those for (N, C, L) are windows of one row.
"""

import numpy as np

from ..arrays import as_counts
from ..op import OPS, Op
from ..tensor import Tensor

__all__ = [
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_max_pool1d", "adaptive_max_pool2d", "avg_pool1d",
    "avg_pool2d", "max_pool1d", "max_pool2d",
]  # fmt: skip

_WINDOW = {"kh": int, "kw": int, "sh": 1, "sw": 1, "ph": 0, "pw": 0, "dh": 1, "dw": 1, "size": tuple}
_AVERAGE = {**_WINDOW, "whole": True, "divisor": 0}


def _params(k, s, p, d):
    return {"kh": k[0], "kw": k[1], "sh": s[0], "sw": s[1], "ph": p[0], "pw": p[1], "dh": d[0], "dw": d[1]}


def _most(n, m, kernel):
    """The elements of the largest window."""
    return kernel or (min(n, -(-n // m) + 1) if m else 0)


def _place_dtype(n_of_window):
    return np.dtype(np.uint8 if n_of_window <= 256 else np.int32)


def _fitting(n, kernel, stride, pad, dilation):
    """The most outputs whose windows begin within the image or its left padding."""
    return max(0, (n + 2 * pad - dilation * (kernel - 1) - 1) // stride + 1)


def _check_windows(name, image, pooled, w):
    """Raises ValueError unless the sizes `pooled` are those of the windows, or, rounded up, one more."""
    for d, (n, m) in zip("hw", zip(image[2:], pooled[2:])):
        k, s, p, dil = (w[q + d] for q in "kspd")
        bad = next(
            (f"{q}{d}={w[q + d]}" for q, least in (("k", 0), ("s", 1), ("p", 0), ("d", 1)) if w[q + d] < least), ""
        )
        if bad:
            raise ValueError(f"{name}: expected a kernel and padding >= 0, stride and dilation >= 1, got {bad}")
        if 2 * p > max(0, dil * (k - 1) + 1):
            raise ValueError(f"{name}: argument 'padding': expected at most half of the window's extent "
                             f"{dil * (k - 1) + 1}, got {p}")  # fmt: skip
        if k and not (0 < m - _fitting(n, k, s, p, dil) + 1 <= 2 and (m - 1) * s < n + p):
            raise ValueError(f"{name}: no window of {k} elements (stride {s}, padding {p}, dilation {dil}) fits "
                             f"{m} times into {n}")  # fmt: skip
        if not k and (m < 1 or n < 1):
            raise ValueError(f"{name}: argument 'output_size': expected sizes >= 1 of an image that is not empty, got "
                             f"{m} of {n}")  # fmt: skip


def _pooled(name, places=False):
    def shapes_of(shapes, size, **w):
        y = (*shapes[0][:2], *size)
        _check_windows(name, shapes[0], y, w)
        return [y, y] if places else [y]

    return shapes_of


def _unpooled(name):
    def shapes_of(shapes, size, **w):
        x = (*shapes[0][:2], *size)
        _check_windows(name, x, shapes[0], w)
        return [x]

    return shapes_of


def _checked_pick(name, pooled):
    """Shapes of ops that take places beside x or dy."""

    def shapes_of(shapes, size, **w):
        (x, place), result = shapes, pooled(shapes, size=size, **w)
        want = result[0] if name == "max_pick2d" else x
        if place != want:
            raise ValueError(f"{name}: argument 'place': expected shape {want}, got {place}")
        return result

    return shapes_of


# ---- references: every window by itself ------------------------------------------------------------


def _windows(n, m, kernel, stride, pad, dilation):
    """[(elements within the image, their numbers in the window, elements within the padded image)] of one dimension."""
    found = []
    for i in range(m):
        if kernel:
            at = np.arange(kernel) * dilation + i * stride - pad
            inside = (at >= 0) & (at < n)
            found.append((at[inside], np.flatnonzero(inside), int((at < n + pad).sum())))
        else:
            at = np.arange(i * n // m, -(-(i + 1) * n // m))
            found.append((at, np.arange(len(at)), len(at)))
    return found


def _each(shape, size, w):
    """(p, q, rows, columns, their numbers, both extents) for each window; and the width of the widest."""
    rows = _windows(shape[2], size[0], w["kh"], w["sh"], w["ph"], w["dh"])
    columns = _windows(shape[3], size[1], w["kw"], w["sw"], w["pw"], w["dw"])
    for p, (r, nr, er) in enumerate(rows):
        for q, (c, nc, ec) in enumerate(columns):
            yield p, q, np.ix_(r, c), nr, nc, (er, ec)


def _max_reference(x, size, **w):
    y = np.zeros((*x.shape[:2], *size))
    place = np.zeros(y.shape, np.int64)
    widest = _most(x.shape[3], size[1], w["kw"])
    for p, q, at, nr, nc, _ in _each(x.shape, size, w):
        part = x[:, :, at[0], at[1]].reshape(*x.shape[:2], len(nr) * len(nc))
        best = part.argmax(-1)
        y[:, :, p, q] = np.take_along_axis(part, best[..., None], -1)[..., 0]
        place[:, :, p, q] = (nr[:, None] * widest + nc).reshape(-1)[best]
    return y, place


def _pick_reference(x, place, size, **w):
    y = np.zeros((*x.shape[:2], *size))
    widest = _most(x.shape[3], size[1], w["kw"])
    for p, q, at, nr, nc, _ in _each(x.shape, size, w):
        hit = place[:, :, p, q][:, :, None, None] == nr[:, None] * widest + nc
        y[:, :, p, q] = np.where(hit, x[:, :, at[0], at[1]], 0).sum((2, 3))
    return y


def _spread_reference(dy, place, size, **w):
    x = np.zeros((*dy.shape[:2], *size))
    widest = _most(size[1], dy.shape[3], w["kw"])
    for p, q, at, nr, nc, _ in _each(x.shape, dy.shape[2:], w):
        hit = place[:, :, p, q][:, :, None, None] == nr[:, None] * widest + nc
        x[:, :, at[0], at[1]] += np.where(hit, dy[:, :, p, q][:, :, None, None], 0)
    return x


def _count(at, extents, whole, divisor):
    return divisor or (extents[0] * extents[1] if whole else at[0].size * at[1].size)


def _average_reference(x, size, whole, divisor, **w):
    y = np.zeros((*x.shape[:2], *size))
    for p, q, at, _, _, extents in _each(x.shape, size, w):
        y[:, :, p, q] = x[:, :, at[0], at[1]].sum((2, 3)) / _count(at, extents, whole, divisor)
    return y


def _average_spread_reference(dy, size, whole, divisor, **w):
    x = np.zeros((*dy.shape[:2], *size))
    for p, q, at, _, _, extents in _each(x.shape, dy.shape[2:], w):
        x[:, :, at[0], at[1]] += dy[:, :, p, q][:, :, None, None] / _count(at, extents, whole, divisor)
    return x


# ---- samples ---------------------------------------------------------------------------------------

# (image, kernel, stride, padding, dilation, rounded up); kernel 0 is adaptive, with its output in place of the stride
_CASES = (
    ((2, 3, 6, 7), (2, 2), (2, 2), (0, 0), (1, 1), False),
    ((1, 1, 1, 1), (1, 1), (1, 1), (0, 0), (1, 1), False),
    ((3, 17, 9, 8), (3, 3), (2, 2), (1, 1), (1, 1), True),
    ((2, 5, 11, 10), (3, 2), (1, 3), (1, 0), (2, 3), False),
    ((2, 40, 7, 5), (2, 3), (3, 2), (1, 1), (1, 1), True),
    ((0, 3, 6, 7), (2, 2), (2, 2), (0, 0), (1, 1), False),
    ((2, 3, 7, 5), (0, 0), (3, 2), (0, 0), (1, 1), False),
    ((3, 4, 3, 4), (0, 0), (5, 4), (0, 0), (1, 1), False),
    ((2, 19, 18, 17), (0, 0), (1, 1), (0, 0), (1, 1), False),
    ((5, 33, 16, 12), (2, 2), (2, 2), (0, 0), (1, 1), False),
)  # fmt: skip


def _calls(average):
    for shape, k, s, p, d, up in _CASES:
        if average and d != (1, 1):
            d = (1, 1)
        size = s if k == (0, 0) else tuple(
            _size("sample", n, kk, ss, pp, dd, up) for n, kk, ss, pp, dd in zip(shape[2:], k, s, p, d))  # fmt: skip
        w = _params(k, (1, 1) if k == (0, 0) else s, p, d)
        yield shape, {**w, "size": size}


def _values(rng, shape):
    """Normal numbers of which no two in an image are close, so that differences do not change the largest."""
    n = int(np.prod(shape))
    return (rng.permutation(n).reshape(shape) / max(1, n) - 0.5) * 4 if n < 3000 else rng.standard_normal(shape)


def _max_samples(rng):
    for shape, w in _calls(False):
        yield (_values(rng, shape),), w
    yield (rng.choice([-1e4, 0.5, 1e4], (2, 5, 4, 6)),), {**_params((2, 2), (2, 2), (0, 0), (1, 1)), "size": (2, 3)}


def _pick_samples(rng):
    for shape, w in _calls(False):
        x = rng.standard_normal(shape)
        yield (x, _max_reference(x, **w)[1].astype(_place_dtype(w["kh"] * w["kw"] or 257))), w


def _spread_samples(rng):
    for shape, w in _calls(False):
        y, place = _max_reference(rng.standard_normal(shape), **w)
        place = place if shape[1] == 5 else place.astype(np.int32)
        yield (rng.standard_normal(y.shape), place), {**w, "size": shape[2:]}


def _average_samples(rng):
    for k, (shape, w) in enumerate(_calls(True)):
        yield (rng.standard_normal(shape),), {**w, "whole": k % 2 == 0, "divisor": 3 if k == 4 else 0}
    yield (rng.choice([-1e4, 0.5, 1e4], (2, 5, 4, 6)),), {**_params((2, 2), (2, 2), (0, 0), (1, 1)), "size": (2, 3)}


def _average_spread_samples(rng):
    for k, (shape, w) in enumerate(_calls(True)):
        dy = rng.standard_normal((*shape[:2], *w["size"]))
        yield (dy,), {**w, "size": shape[2:], "whole": k % 2 == 0, "divisor": 3 if k == 4 else 0}


def _errors(name, *places):
    w = {**_params((2, 2), (2, 2), (0, 0), (1, 1)), "size": (2, 2)}
    x = np.zeros((1, 3, 4, 4))
    return [
        ((x, *places), {**w, "size": (9, 2)}, ValueError, f"^{name}: no window of 2 elements"),
        ((x, *places), {**w, "ph": 2}, ValueError, f"^{name}: argument 'padding': expected at most half of the window"),
        ((x, *places), {**w, "sw": 0}, ValueError, f"^{name}: expected a kernel and padding >= 0, .* got sw=0"),
    ]


# ---- entries -----------------------------------------------------------------------------------------

_DOC = "The window of (p, q) is p·s − pad + k·dilation, 0 ≤ k < kernel, within the image; adaptive with kernel 0. "


def _window_of(n):
    return {k: n.params[k] for k in _WINDOW if k != "size"}


max_pool = Op(
    "max_pool2d", "x[N,C,H,W]", "y[N,C,P,Q] place[N,C,P,Q]:*", kernel="max_pool2d_fwd", layout="nhwc",
    params=_WINDOW, shape=_pooled("max_pool2d", places=True), saves="place", flops="4*n",
    # windows of an adaptive kernel differ with the image, which dtype does not see
    dtype=lambda x, kh, kw, **_: _place_dtype(kh * kw if kh and kw else 257),
    vjp=lambda n, g, *_: OPS.max_spread2d(g, n.outs[1], size=n.ins[0].shape[2:], **_window_of(n)),
    reference=_max_reference, samples=_max_samples, errors=_errors("max_pool2d"),
    doc=_DOC + "y = max x over the window, place the number of the largest, the first of equal ones; a NaN is larger "
        "than all. Source: S1 §3.7.",
)  # fmt: skip
max_pick = Op(
    "max_pick2d", "x[N,C,H,W] place[N,C,P,Q]:*", "y[N,C,P,Q]", kernel="max_pick2d_fwd", layout="nhwc",
    params=_WINDOW, shape=_checked_pick("max_pick2d", _pooled("max_pick2d")), saves="place", flops="2*n",
    vjp=lambda n, g: (OPS.max_spread2d(g, n.ins[1], size=n.ins[0].shape[2:], **_window_of(n)), None),
    reference=_pick_reference, samples=_pick_samples,
    doc=_DOC + "y = x at the window's place: max pooling with its places known, linear in x.",
)  # fmt: skip
max_spread = Op(
    "max_spread2d", "dy[N,C,P,Q] place[N,C,P,Q]:*", "dx[N,C,H,W]", kernel="max_spread2d_fwd", layout="nhwc",
    params=_WINDOW, shape=_checked_pick("max_spread2d", _unpooled("max_spread2d")), saves="place", flops="2*n",
    vjp=lambda n, g: (OPS.max_pick2d(g, n.ins[1], size=n.ins[0].shape[2:], **_window_of(n)), None),
    reference=_spread_reference, samples=_spread_samples,
    doc=_DOC + "dx = Σ dy of the windows whose place is this element: the adjoint of max_pick2d.",
)  # fmt: skip


def _average_of(n):
    return {k: n.params[k] for k in _AVERAGE if k != "size"}


avg_pool = Op(
    "avg_pool2d", "x[N,C,H,W]", "y[N,C,P,Q]", kernel="avg_pool2d_fwd", layout="nhwc",
    params=_AVERAGE, shape=_pooled("avg_pool2d"), flops="4*n", saves="",
    vjp=lambda n, g: OPS.avg_spread2d(g, size=n.ins[0].shape[2:], **_average_of(n)),
    reference=_average_reference, samples=_average_samples, errors=_errors("avg_pool2d"),
    doc=_DOC + "y = Σ x over the window / divisor; with divisor 0 the count of its elements, those of the padding "
        "included where `whole`. Source: S1 §3.7.",
)  # fmt: skip
avg_spread = Op(
    "avg_spread2d", "dy[N,C,P,Q]", "dx[N,C,H,W]", kernel="avg_spread2d_fwd", layout="nhwc",
    params=_AVERAGE, shape=_unpooled("avg_spread2d"), flops="4*n", saves="",
    vjp=lambda n, g: OPS.avg_pool2d(g, size=n.ins[0].shape[2:], **_average_of(n)),
    reference=_average_spread_reference, samples=_average_spread_samples,
    doc=_DOC + "dx = Σ dy / count of the windows that hold this element: the adjoint of avg_pool2d.",
)  # fmt: skip


# ---- functions ---------------------------------------------------------------------------------------


def _size(name, n, kernel, stride, pad, dilation, up):
    """How many windows there are along n elements."""
    rest = n + 2 * pad - dilation * (kernel - 1) - 1
    m = (-(-rest // stride) if up else rest // stride) + 1
    if up and (m - 1) * stride >= n + pad:
        m -= 1  # a window that begins in the padding on the right holds nothing
    if rest < 0 or m < 1:
        raise ValueError(f"{name}: argument 'input': a window of {dilation * (kernel - 1) + 1} elements does not fit "
                         f"into {n} with padding {pad}")  # fmt: skip
    return m


def _as_images(name, input, dims):
    """input (N, C, …) or (C, …) with dims spatial dimensions as (N, C, H, W)."""
    if not isinstance(input, Tensor):
        raise TypeError(f"{name}: argument 'input': expected a Tensor, got {type(input).__name__}")
    if input.ndim not in (dims + 1, dims + 2):
        raise ValueError(f"{name}: argument 'input': expected {dims + 1} or {dims + 2} dimensions, got shape "
                         f"{input.shape}")  # fmt: skip
    n, c = input.shape[: input.ndim - dims] if input.ndim == dims + 2 else (1, input.shape[0])
    shape = (n, c, 1, *input.shape[-1:]) if dims == 1 else (n, c, *input.shape[-2:])
    return input if input.shape == shape else input.reshape(shape)


def _as_given(y, input, dims):
    """y (N, C, P, Q) with the dimensions that input has."""
    shape = (*input.shape[:-dims], *y.shape[4 - dims :])
    return y if y.shape == shape else y.reshape(shape)


def _fixed(name, dims, input, kernel_size, stride, padding, dilation, ceil_mode):
    """(input as images, the window's parameters)."""
    x = _as_images(name, input, dims)
    k = as_counts(name, "kernel_size", kernel_size, dims)
    s = k if stride is None else as_counts(name, "stride", stride, dims)
    p, d = as_counts(name, "padding", padding, dims, 0), as_counts(name, "dilation", dilation, dims)
    size = tuple(_size(name, *v, ceil_mode) for v in zip(input.shape[-dims:], k, s, p, d))
    if dims == 1:
        k, s, p, d, size = (1, *k), (1, *s), (0, *p), (1, *d), (1, *size)
    return x, {**_params(k, s, p, d), "size": size}


def _adaptive(name, dims, input, output_size):
    x = _as_images(name, input, dims)
    sizes = output_size if isinstance(output_size, (tuple, list)) else (output_size,) * dims
    kept = [n if s is None else s for s, n in zip(sizes, input.shape[-dims:])]
    sizes = as_counts(name, "output_size", kept if len(sizes) == dims else sizes, dims, 0)
    return x, {**_params((0, 0), (1, 1), (0, 0), (1, 1)), "size": (1, *sizes) if dims == 1 else sizes}


def _indices(place, x, w):
    """The places as PyTorch counts them, row·W + column in the image."""
    (h, width), (p, q) = x.shape[2:], w["size"]
    within = place._array().astype(np.int64)
    widest = _most(width, q, w["kw"])
    rows = np.arange(p) * w["sh"] - w["ph"] if w["kh"] else np.arange(p) * h // p
    columns = np.arange(q) * w["sw"] - w["pw"] if w["kw"] else np.arange(q) * width // q
    row = rows[:, None] + within // max(1, widest) * w["dh"]
    return Tensor(row * width + columns + within % max(1, widest) * w["dw"])


def _maximum(dims, input, x, w, return_indices):
    y, place = OPS.max_pool2d(x, **w)
    y = _as_given(y, input, dims)
    return (y, _indices(place, x, w).reshape(y.shape)) if return_indices else y


def max_pool2d(input, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False):
    """The largest element of each window; padding counts as −∞, a NaN is larger than all.

    Args:
        input: (N, C, H, W) or (C, H, W).
        kernel_size, stride, padding, dilation: integers, or pairs for height and width; stride None is kernel_size.
        ceil_mode: also windows that reach beyond the padding on the right, as long as they begin before it.
        return_indices: also where the largest are, int64, row·W + column in the image; reads the host.

    Raises:
        ValueError: windows that do not fit, padding of more than half a window. TypeError: no floating Tensor.

    Source: S1 §3.7; torch.nn.functional.max_pool2d.
    """
    x, w = _fixed("max_pool2d", 2, input, kernel_size, stride, padding, dilation, ceil_mode)
    return _maximum(2, input, x, w, return_indices)


def max_pool1d(input, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False):
    """max_pool2d along the last dimension of (N, C, L) or (C, L)."""
    x, w = _fixed("max_pool1d", 1, input, kernel_size, stride, padding, dilation, ceil_mode)
    return _maximum(1, input, x, w, return_indices)


def avg_pool2d(
    input, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True, divisor_override=None
):
    """The average of each window.

    Args:
        input, kernel_size, stride, padding, ceil_mode: as max_pool2d's; padding counts as 0.
        count_include_pad: whether padding counts as elements of the window.
        divisor_override: what sums are divided by, in place of the number of elements.

    Raises:
        ValueError: windows that do not fit, padding of more than half a window, a divisor of 0.

    Source: S1 §3.7; torch.nn.functional.avg_pool2d.
    """
    x, w = _fixed("avg_pool2d", 2, input, kernel_size, stride, padding, 1, ceil_mode)
    if divisor_override is not None and not int(divisor_override):
        raise ValueError("avg_pool2d: argument 'divisor_override': expected an integer other than 0, got 0")
    y = OPS.avg_pool2d(x, whole=bool(count_include_pad), divisor=int(divisor_override or 0), **w)
    return _as_given(y, input, 2)


def avg_pool1d(input, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True):
    """avg_pool2d along the last dimension of (N, C, L) or (C, L)."""
    x, w = _fixed("avg_pool1d", 1, input, kernel_size, stride, padding, 1, ceil_mode)
    return _as_given(OPS.avg_pool2d(x, whole=bool(count_include_pad), **w), input, 1)


def adaptive_max_pool2d(input, output_size, return_indices=False):
    """The largest of each of output_size windows that share the image: window i is floor(i·H/P) … ceil((i + 1)·H/P).

    output_size: an integer or a pair; None keeps the size. Otherwise as max_pool2d.
    """
    return _maximum(2, input, *_adaptive("adaptive_max_pool2d", 2, input, output_size), return_indices)


def adaptive_max_pool1d(input, output_size, return_indices=False):
    """adaptive_max_pool2d along the last dimension of (N, C, L) or (C, L)."""
    return _maximum(1, input, *_adaptive("adaptive_max_pool1d", 1, input, output_size), return_indices)


def adaptive_avg_pool2d(input, output_size):
    """The averages of windows as adaptive_max_pool2d's; output_size 1 is global average pooling."""
    x, w = _adaptive("adaptive_avg_pool2d", 2, input, output_size)
    return _as_given(OPS.avg_pool2d(x, **w), input, 2)


def adaptive_avg_pool1d(input, output_size):
    """adaptive_avg_pool2d along the last dimension of (N, C, L) or (C, L)."""
    x, w = _adaptive("adaptive_avg_pool1d", 1, input, output_size)
    return _as_given(OPS.avg_pool2d(x, **w), input, 1)
