"""Convolution and its two adjoints, each the derivative of the others, and what torch.nn.functional makes of them.

conv2d, conv2d_by_data and conv2d_by_weight are linear in each of their two operands. With ⟨·,·⟩ the sum of
products, ⟨conv2d(x, W), dy⟩ = ⟨x, by_data(dy, W)⟩ = ⟨W, by_weight(dy, x)⟩ for every x, W and dy of given sizes:
that is what makes a derivative of any order another call of the three.
"""

from __future__ import annotations

import numpy as np

from .. import _core
from ..arrays import as_count, as_counts
from ..op import OPS, Op
from .linear import Activation, activation_of

__all__ = ["activated", "conv1d", "conv2d", "conv_transpose1d", "conv_transpose2d", "geometry"]

GEOMETRY = {"sh": 1, "sw": 1, "ph": 0, "pw": 0, "dh": 1, "dw": 1, "groups": 1}


# ---- shapes ------------------------------------------------------------------------------------------


def _check(name, params):
    for what, low, keys in (("stride", 1, ("sh", "sw")), ("padding", 0, ("ph", "pw")), ("dilation", 1, ("dh", "dw"))):
        if min(params[k] for k in keys) < low:
            raise ValueError(f"{name}: argument '{what}': expected numbers of at least {low}, got "
                             f"({params[keys[0]]}, {params[keys[1]]})")  # fmt: skip


def _check_groups(name, groups, *channels):
    """channels: (of what, how many, argument)."""
    for what, n, arg in channels:
        if groups < 1 or n % groups:
            raise ValueError(f"{name}: argument '{arg}': expected {what} that groups={groups} divide, got {n}")


def _check_weight(name, arg, n, w, groups):
    """w: the weight's shape; n channels of `arg` fall into groups."""
    if n != w[1] * groups:
        raise ValueError(f"{name}: argument '{arg}': expected {w[1] * groups} channels, W's {w[1]} for each of "
                         f"groups={groups}, got {n}")  # fmt: skip


def _shape(shapes, size, groups, **params):
    x, w, _ = shapes
    _check("conv2d", params)
    _check_groups("conv2d", groups, ("output channels", w[0], "W"))
    _check_weight("conv2d", "x", x[1], w, groups)
    return [(x[0], w[0], *size)]


def _act_shape(shapes, activation, p, q, fwd, bwd, **params):
    return _shape(shapes, **params)


def _by_data_shape(shapes, size, groups, **params):
    dy, w, _ = shapes
    _check("conv2d_by_data", params)
    _check_groups("conv2d_by_data", groups, ("output channels", w[0], "W"))
    return [(dy[0], w[1] * groups, *size)]


def _by_weight_shape(shapes, size, groups, **params):
    dy, x = shapes
    _check("conv2d_by_weight", params)
    _check_groups("conv2d_by_weight", groups, ("channels", x[1], "x"), ("channels", dy[1], "dy"))
    return [(dy[1], x[1] // groups, *size)]


# ---- derivatives -----------------------------------------------------------------------------------------


def _sum_pixels(g):
    return OPS.reshape(OPS.sum_to(g, shape=(1, g.shape[1], 1, 1)), shape=(g.shape[1],))


def _back(dy, x, w, need, size, **geo):
    dx = OPS.conv2d_by_data(dy, w, size=x.shape[2:], **geo) if need[0] else None
    dw = OPS.conv2d_by_weight(dy, x, size=w.shape[2:], **geo) if need[1] else None
    return dx, dw, _sum_pixels(dy) if need[2] else None


def _by_data_vjp(n, g):
    dy, w, _ = n.ins
    geo = {k: n.params[k] for k in GEOMETRY}
    return (
        OPS.conv2d(g, w, size=dy.shape[2:], **geo) if n.need(0) else None,
        OPS.conv2d_by_weight(dy, g, size=w.shape[2:], **geo) if n.need(1) else None,
        _sum_pixels(g) if n.need(2) else None,
    )


def _by_weight_vjp(n, g):
    dy, x = n.ins
    geo = {k: n.params[k] for k in GEOMETRY}
    return (
        OPS.conv2d(x, g, size=dy.shape[2:], **geo) if n.need(0) else None,
        OPS.conv2d_by_data(dy, g, size=x.shape[2:], **geo) if n.need(1) else None,
    )


# ---- an outside implementation: loops over taps ----------------------------------------------------------


def _taps(x, kernel, size, sh, sw, ph, pw, dh, dw):
    """(a, b, view of the padded x, writable, that tap a, b reads) for every tap; at last the padded x."""
    rows = max(ph + x.shape[2], (size[0] - 1) * sh + (kernel[0] - 1) * dh + 1)
    cols = max(pw + x.shape[3], (size[1] - 1) * sw + (kernel[1] - 1) * dw + 1)
    wide = np.zeros((*x.shape[:2], rows, cols), x.dtype)
    wide[:, :, ph : ph + x.shape[2], pw : pw + x.shape[3]] = x
    views = [
        (a, b, wide[:, :, a * dh : a * dh + (size[0] - 1) * sh + 1 : sh, b * dw : b * dw + (size[1] - 1) * sw + 1 : sw])
        for a in range(kernel[0])
        for b in range(kernel[1])
    ]
    return views, wide


def _grouped(a, groups):
    """[N,C,...] as [N,groups,C/groups,...]."""
    return a.reshape(a.shape[0], groups, a.shape[1] // groups, *a.shape[2:])


def _reference(x, W, b, size, groups=1, **geo):
    y = np.zeros((x.shape[0], groups, W.shape[0] // groups, *size), x.dtype)
    w = W.reshape(groups, W.shape[0] // groups, *W.shape[1:])
    for i, j, view in _taps(x, W.shape[2:], size, **geo)[0]:
        y += np.einsum("ngcpq,goc->ngopq", _grouped(view, groups), w[:, :, :, i, j])
    y = y.reshape(x.shape[0], W.shape[0], *size)
    return y if b is None else y + b[:, None, None]


def _by_data_reference(dy, W, b, size, groups=1, **geo):
    """dy goes on as zeros, which are multiplied by W where a pixel of dx would see them."""
    (sh, sw), (ph, pw), (a, b_) = (geo["sh"], geo["sw"]), (geo["ph"], geo["pw"]), W.shape[2:]
    before = [-(-((k - 1) * d) // s) + 1 for k, d, s in ((a, geo["dh"], sh), (b_, geo["dw"], sw))]
    after = [max(0, -(-(n + p) // s) - m) + 1 for n, p, s, m in zip(size, (ph, pw), (sh, sw), dy.shape[2:])]
    wide_dy = np.pad(dy, ((0, 0), (0, 0), *zip(before, after)))
    top, left = ph + before[0] * sh, pw + before[1] * sw
    like = np.zeros((dy.shape[0], W.shape[1] * groups, *size), dy.dtype)
    views, wide = _taps(like, W.shape[2:], wide_dy.shape[2:], **{**geo, "ph": top, "pw": left})
    w = W.reshape(groups, W.shape[0] // groups, *W.shape[1:])
    for i, j, view in views:
        view += np.einsum("ngopq,goc->ngcpq", _grouped(wide_dy, groups), w[:, :, :, i, j]).reshape(view.shape)
    dx = wide[:, :, top : top + size[0], left : left + size[1]]
    return dx if b is None else dx + b[:, None, None]


def _by_weight_reference(dy, x, size, groups=1, **geo):
    """A tap's products with what lies outside of x are left out, so that a NaN in dy stays away from it."""
    dw = np.zeros((groups, dy.shape[1] // groups, x.shape[1] // groups, *size), dy.dtype)
    there = _taps(np.ones((1, 1, *x.shape[2:]), bool), size, dy.shape[2:], **geo)[0]
    for (i, j, view), (_, _, mask) in zip(_taps(x, size, dy.shape[2:], **geo)[0], there):
        seen = np.where(mask, dy, 0)
        dw[..., i, j] = np.einsum("ngopq,ngcpq->goc", _grouped(seen, groups), _grouped(view, groups))
    return dw.reshape(dy.shape[1], x.shape[1] // groups, *size)


# ---- samples --------------------------------------------------------------------------------------------

# None is for Winograd, over whose tiles a NaN spreads: tests/test_family_conv2d.py has those.
_CASES = (  # (x, O, kernel, stride, padding, dilation, groups)
    ((2, 3, 5, 7), 4, (3, 3), (1, 1), (1, 1), (1, 1), 1),
    ((1, 1, 1, 1), 1, (1, 1), (1, 1), (0, 0), (1, 1), 1),
    ((0, 3, 5, 4), 2, (3, 3), (1, 1), (1, 1), (1, 1), 1),
    ((2, 5, 9, 8), 33, (2, 3), (2, 3), (1, 2), (1, 1), 1),
    ((1, 4, 11, 10), 6, (3, 2), (3, 2), (2, 0), (2, 3), 2),
    ((3, 6, 6, 5), 6, (3, 3), (1, 2), (1, 1), (1, 1), 6),
    ((2, 3, 7, 6), 6, (3, 3), (2, 1), (2, 2), (2, 1), 3),
    ((2, 17, 4, 4), 19, (1, 1), (1, 1), (0, 0), (1, 1), 1),
    ((1, 9, 7, 5), 5, (1, 1), (3, 2), (0, 0), (1, 1), 1),
    ((2, 3, 12, 11), 8, (7, 7), (2, 2), (3, 3), (1, 1), 1),
    ((1, 2, 2, 3), 3, (3, 3), (1, 1), (4, 5), (1, 1), 1),  # padded by more than the kernel
    ((3, 1, 6, 6), 18, (3, 3), (1, 1), (1, 1), (1, 1), 1),
    ((4, 3, 1, 30), 5, (1, 4), (1, 2), (0, 3), (1, 2), 1),  # of one dimension
    ((2, 33, 9, 9), 40, (3, 2), (1, 1), (1, 1), (1, 1), 1),
    ((3, 40, 20, 21), 36, (2, 3), (1, 1), (1, 1), (1, 1), 1),
)


def _out_size(size, kernel, stride, pad, dil):
    return tuple((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in zip(size, kernel, stride, pad, dil))


def _cases():
    for x, o, kernel, stride, pad, dil, groups in _CASES:
        size = _out_size(x[2:], kernel, stride, pad, dil)
        geo = {"sh": stride[0], "sw": stride[1], "ph": pad[0], "pw": pad[1], "dh": dil[0], "dw": dil[1],
               "groups": groups}  # fmt: skip
        yield x, (o, x[1] // groups, *kernel), (x[0], o, *size), geo


def _samples(rng):
    for k, (x, w, y, geo) in enumerate(_cases()):
        b = rng.standard_normal(w[0]) if k % 2 else None
        yield (rng.standard_normal(x), rng.standard_normal(w), b), {"size": y[2:], **geo}


def _act_samples(rng):
    acts = (
        {"activation": "relu"},
        {"activation": "leaky_relu", "p": 0.2},
        {"activation": "tanh"},
        {"activation": "hardtanh", "p": -1.5, "q": 2.0},
        {"activation": "softplus", "p": 2.5, "q": 20.0},
    )
    for k, (args, params) in enumerate(_samples(rng)):
        yield args, {**acts[k % len(acts)], **params}


def _by_data_samples(rng):
    for k, (x, w, y, geo) in enumerate(_cases()):
        b = rng.standard_normal(x[1]) if k % 2 else None
        yield (rng.standard_normal(y), rng.standard_normal(w), b), {"size": x[2:], **geo}


def _by_weight_samples(rng):
    for x, w, y, geo in _cases():
        yield (rng.standard_normal(y), rng.standard_normal(x)), {"size": w[2:], **geo}


def _errors(name, args, size):
    ones = [np.ones(s) for s in args]
    bad = (({"groups": 2}, r"that groups=2 divide, got 3"), ({"groups": 0}, r"that groups=0 divide, got 3"),
           ({"sw": 0}, r"^{0}: argument 'stride': expected numbers of at least 1, got \(1, 0\)"),
           ({"dh": -1}, r"^{0}: argument 'dilation': expected numbers of at least 1, got \(-1, 1\)"),
           ({"pw": -1}, r"^{0}: argument 'padding': expected numbers of at least 0, got \(0, -1\)"))  # fmt: skip
    found = [(ones, {"size": size, **p}, ValueError, text.replace("{0}", name)) for p, text in bad]
    found.append((ones, {}, TypeError, f"{name}: missing argument 'size'"))
    mixed = [ones[0].astype(np.float32), *ones[1:]]
    found.append((mixed, {"size": size}, TypeError, rf"{name}: argument '\w+': expected dtype float64"))
    return found


# ---- entries -----------------------------------------------------------------------------------------------

_conv2d = Op(
    "conv2d", "x[N,C,H,W] W[O,I,A,B] b[O]?", "y[N,O,P,Q]", kernel="conv2d_fwd", bwd="conv2d_bwd", saves="x W",
    layout="nhwc", promote=False, params={"size": tuple, **GEOMETRY}, shape=_shape, bwd_formula=_back,
    flops="2*n*I*A*B", samples=_samples, reference=_reference,
    errors=[*_errors("conv2d", [(2, 3, 4, 4), (3, 3, 3, 3)], (2, 2)),
            ((np.ones((2, 4, 4, 4)), np.ones((3, 3, 3, 3))), {"size": (2, 2)}, ValueError,
             r"conv2d: argument 'x': expected 3 channels, W's 3 for each of groups=1, got 4"),
            ((np.ones((2, 3, 4, 4)), np.ones((3, 3, 3, 3)), np.ones(4)), {"size": (2, 2)}, ValueError,
             r"conv2d: argument 'b': expected shape \[O\] with O=3, got \(4,\)")],
    doc="y[n, o, p, q] = b[o] + Σ x[n, i, p·sh − ph + a·dh, q·sw − pw + b·dw]·W[o, i, a, b] over i, a, b, with 0 "
        "outside of x; i runs over the group of o. `size` is (P, Q). Source: arXiv 1603.07285.",
)  # fmt: skip

_conv2d_by_data = Op(
    "conv2d_by_data", "dy[N,O,P,Q] W[O,I,A,B] b[C]?", "dx[N,C,H,W]", kernel="conv2d_by_data_fwd", saves="dy W",
    layout="nhwc", promote=False, params={"size": tuple, **GEOMETRY}, shape=_by_data_shape, vjp=_by_data_vjp,
    flops="2*N*O*P*Q*I*A*B", samples=_by_data_samples, reference=_by_data_reference,
    errors=_errors("conv2d_by_data", [(2, 3, 2, 2), (3, 3, 3, 3)], (4, 4)),
    doc="The adjoint of conv2d in x, plus a bias: the transposed convolution. `size` is (H, W).",
)  # fmt: skip

_conv2d_by_weight = Op(
    "conv2d_by_weight", "dy[N,O,P,Q] x[N,C,H,W]", "dW[O,I,A,B]", kernel="conv2d_by_weight_fwd", saves="dy x",
    layout="nhwc", promote=False, params={"size": tuple, **GEOMETRY}, shape=_by_weight_shape, vjp=_by_weight_vjp,
    flops="2*n*N*P*Q", samples=_by_weight_samples, reference=_by_weight_reference,
    errors=_errors("conv2d_by_weight", [(2, 3, 2, 2), (2, 3, 4, 4)], (3, 3)),
    doc="The adjoint of conv2d in W. `size` is (A, B).",
)  # fmt: skip


# ---- with an activation ------------------------------------------------------------------------------------


def _plain(numbers):
    return {k: v for k, v in numbers.items() if k == "size" or k in GEOMETRY}


def _activated(x, w, b, act: Activation, geo: dict):
    if act.by_x and _core.grad_enabled() and any(getattr(a, "requires_grad", False) for a in (x, w, b)):
        return act.op(_conv2d(x, w, b, **geo), **act.params)
    return _conv2d_act._apply((x, w, b), {**act.numbers, **GEOMETRY, **geo})


class _Conv2dAct(Op):
    """Called by the activation's name, as `activated`."""

    __slots__ = ()

    def __call__(self, *args, activation=None, p=0.0, q=0.0, **params):
        if activation is None or "size" not in params or params.keys() - GEOMETRY.keys() - {"size"} or len(args) > 3:
            return super().__call__(*args, **({} if activation is None else {"activation": activation}), **params)
        names = OPS[activation].par_names if activation in OPS else ()
        act = activation_of((activation, dict(zip(names, (p, q)))), "conv2d_act")
        return _activated(*(*args, None, None, None)[:3], act, params)


def _act_formula(x, w, b, activation, p, q, **numbers):
    act = OPS[activation]
    return act(_conv2d(x, w, b, **_plain(numbers)), **dict(zip(act.par_names, (p, q))))


def _act_back(dy, x, w, y, activation, p, q, need, **numbers):
    act = OPS[activation]
    return _back(act.bwd_formula(dy, y, **dict(zip(act.par_names, (p, q)))), x, w, need, **_plain(numbers))


def _act_reference(x, W, b, activation, p=0.0, q=0.0, **numbers):
    act = OPS[activation]
    return act.reference(_reference(x, W, b, **_plain(numbers)), **dict(zip(act.par_names, (p, q))))


_conv2d_act = _Conv2dAct(
    "conv2d_act", "x[N,C,H,W] W[O,I,A,B] b[O]?", "y[N,O,P,Q]", kernel="conv2d_act_fwd", bwd="conv2d_act_bwd",
    saves="x W y", layout="nhwc", promote=False, shape=_act_shape, flops="2*n*I*A*B",
    params={"activation": str, "p": 0.0, "q": 0.0, "fwd": -1, "bwd": -1, "size": tuple, **GEOMETRY},
    formula=_act_formula, bwd_formula=_act_back, samples=_act_samples, reference=_act_reference,
    errors=[((np.ones((1, 2, 4, 4)), np.ones((3, 2, 3, 3))), {"activation": "exp", "size": (2, 2)}, ValueError,
             r"conv2d_act: argument 'activation': expected None or one of elu, gelu, .*tanh, got \('exp'"),
            ((np.ones((1, 2, 4, 4)), np.ones((3, 2, 3, 3))), {"size": (2, 2)}, TypeError,
             "conv2d_act: missing argument 'activation'")],
    doc="y = act(conv2d(x, W, b)), by the kernels of the op that is called `activation`; p and q are its parameters.",
)  # fmt: skip


# ---- with batch norm of given statistics ---------------------------------------------------------------------


def _norm_shape(shapes, eps, relu, **params):
    if shapes[7] is not None and shapes[7] != (shapes[0][0], shapes[1][0], *params["size"]):
        raise ValueError(f"conv2d_norm: argument 'residual': expected shape "
                         f"{(shapes[0][0], shapes[1][0], *params['size'])}, got {shapes[7]}")  # fmt: skip
    return _shape(shapes[:3], **params)


def _norm_formula(x, w, b, weight, bias, running_mean, running_var, residual, eps, relu, **numbers):
    y = _conv2d(x, w, b, **_plain(numbers))
    return OPS.batch_norm_eval(y, weight, bias, running_mean, running_var, residual, eps=eps, relu=relu)


def _norm_reference(x, W, b, weight, bias, running_mean, running_var, residual=None, eps=1e-5, relu=False, **numbers):
    y = _reference(x, W, b, **_plain(numbers))
    return OPS["batch_norm_eval"].reference(y, weight, bias, running_mean, running_var, residual, eps, relu)


def _norm_samples(rng):
    for k, (x, w, y, geo) in enumerate(_cases()):
        given = [rng.uniform(-2, 2, w[0]) if k % (2 + j) == 0 else None for j in range(3)]
        residual = rng.standard_normal(y) if k % 3 != 1 else None
        arrays = rng.standard_normal(x), rng.standard_normal(w), *given, rng.standard_normal(w[0])
        yield (*arrays, rng.uniform(0.25, 4, w[0]), residual), {"size": y[2:], "relu": k % 4 == 3, **geo}


_conv2d_norm = Op(
    "conv2d_norm", "x[N,C,H,W] W[O,I,A,B] b[O]? weight[O]? bias[O]? running_mean[O]:C running_var[O]:C "
    "residual[N,O,P,Q]?", "y[N,O,P,Q]", kernel="conv2d_norm_fwd", layout="nhwc", promote=False, shape=_norm_shape,
    params={"eps": 1e-5, "relu": False, "size": tuple, **GEOMETRY}, formula=_norm_formula, flops="2*n*I*A*B",
    reference=_norm_reference, samples=_norm_samples, domain={"running_var": (0.25, 4)},
    errors=[((np.ones((1, 2, 4, 4)), np.ones((3, 2, 3, 3)), None, None, None, np.ones(3), np.ones(3),
              np.ones((1, 3, 1, 2))), {"size": (2, 2)}, ValueError, "conv2d_norm: argument 'residual': expected")],
    doc="batch_norm_eval(conv2d(x, W, b), …) in one pass, W and b multiplied by the norm's factor beforehand. Sessions "
        "compute so.",
)  # fmt: skip


# ---- functions ---------------------------------------------------------------------------------------------


def geometry(name, n, stride, padding, dilation, groups, first="stride", second="padding"):
    """stride, padding and dilation as tuples of n numbers; padding may be "same" or "valid", groups is checked.

    first, second: what errors call stride and padding.

    Raises:
        ValueError: no such numbers or words; "same" with a stride.
    """
    strides, dilations = as_counts(name, first, stride, n), as_counts(name, "dilation", dilation, n)
    as_count(name, "groups", groups)
    if isinstance(padding, str):
        if padding not in ("same", "valid"):
            raise ValueError(f"{name}: argument '{second}': expected numbers, 'same' or 'valid', got {padding!r}")
        if padding == "same" and max(strides) > 1:
            raise ValueError(
                f"{name}: argument '{second}': expected numbers or 'valid' with {first} {stride}, got 'same'"
            )
        return strides, padding, dilations
    return strides, as_counts(name, second, padding, n, 0), dilations


def _check_ranks(name, n, x, w, out_dim):
    """Of input and weight, whose dimension out_dim holds the output channels; batch and channels come first."""
    dims = "L" if n == 1 else "H, W"
    if x.ndim not in (n + 1, n + 2):
        raise ValueError(f"{name}: argument 'input': expected shape (N, C, {dims}) or (C, {dims}), got {x.shape}")
    if w.ndim != n + 2:
        shape = ("O, I, " if out_dim == 0 else "C, O, ") + ("K" if n == 1 else "kH, kW")
        raise ValueError(f"{name}: argument 'weight': expected shape ({shape}), got {w.shape}")


def _named(strides, pads, dilations, groups):
    """Parameters of the ops; what has one dimension is of one row."""
    (sh, sw), (ph, pw), (dh, dw) = (
        (fill, *v) if len(v) == 1 else v for fill, v in ((1, strides), (0, pads), (1, dilations))
    )
    return {"sh": sh, "sw": sw, "ph": ph, "pw": pw, "dh": dh, "dw": dw, "groups": int(groups)}


def _image(x, n):
    """x as N,C,H,W."""
    x = x if x.ndim == n + 2 else x.unsqueeze(0)
    return x if n == 2 else x.unsqueeze(2)


def _unimage(y, n, batched):
    y = y if n == 2 else y.squeeze(2)
    return y if batched else y.squeeze(0)


def _conv(name, n, x, w, b, stride, padding, dilation, groups, act=None):
    strides, pads, dilations = geometry(name, n, stride, padding, dilation, groups)
    _check_ranks(name, n, x, w, 0)
    kernel, ends = w.shape[2:], x.shape[-n:]
    spans = tuple(d * (k - 1) + 1 for d, k in zip(dilations, kernel))
    if pads == "valid":
        pads = (0,) * n
    total = tuple(s - 1 for s in spans) if pads == "same" else tuple(2 * p for p in pads)
    pads = tuple(t // 2 for t in total)
    for what, groups_of, m in (("input", "channels", x.shape[-n - 1]), ("weight", "output channels", w.shape[0])):
        if m % groups:
            raise ValueError(f"{name}: argument '{what}': expected {groups_of} that groups={groups} divide, got {m}")
    if x.shape[-n - 1] != w.shape[1] * groups:
        raise ValueError(f"{name}: argument 'input': expected {w.shape[1] * groups} channels, as weight {w.shape} has "
                         f"with groups={groups}, got shape {x.shape}")  # fmt: skip
    if b is not None and b.shape != (w.shape[0],):
        raise ValueError(f"{name}: argument 'bias': expected shape ({w.shape[0]},), got {b.shape}")
    if any(s < 1 or e + t < s for s, e, t in zip(spans, ends, total)):
        raise ValueError(f"{name}: argument 'input': expected at least as many elements, padded, as the kernel spans "
                         f"{spans}, got {tuple(e + t for e, t in zip(ends, total))} of shape {x.shape}")  # fmt: skip
    size = tuple((e + t - s) // d + 1 for e, t, s, d in zip(ends, total, spans, strides))
    geo = {"size": size if n == 2 else (1, *size), **_named(strides, pads, dilations, groups)}
    image, weight = _image(x, n), w if n == 2 else w.unsqueeze(2)
    try:
        y = _conv2d(image, weight, b, **geo) if act is None else _activated(image, weight, b, act, geo)
    except (TypeError, ValueError):
        if act is not None:
            _conv2d(image, weight, b, **geo)  # raises what is wrong in the name of the layer that was called
        raise
    return _unimage(y, n, x.ndim == n + 2)


def conv2d(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1, activation=None):
    """The cross-correlation of images with weight's kernels, plus bias (arXiv 1603.07285).

    Shapes: input (N, C, H, W) or (C, H, W), weight (O, C/groups, kH, kW), bias (O,) or None → (N, O, P, Q), P =
    ⌊(H + 2·padding − dilation·(kH − 1) − 1)/stride⌋ + 1 and likewise Q, in channels-last memory.

    Args:
        stride, padding, dilation: a number, or one for rows and one for columns. padding may be "valid", none, or
            "same", what keeps the size at stride 1 (one more at the end where it is odd).
        groups: channels fall into so many groups, each seen by its own kernels; groups = C is depthwise.
        activation: what is applied to the result, as for `linear`; a fused ReLU costs nothing.

    Raises:
        ValueError: shapes that do not fit, a kernel larger than the padded input, bad numbers. TypeError: dtypes that
            differ.
    """
    act = None if activation is None else activation_of(activation, "conv2d")
    return _conv("conv2d", 2, input, weight, bias, stride, padding, dilation, groups, act)


def conv1d(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1, activation=None):
    """As conv2d along one dimension: input (N, C, L) or (C, L), weight (O, C/groups, K) → (N, O, M)."""
    act = None if activation is None else activation_of(activation, "conv1d")
    return _conv("conv1d", 1, input, weight, bias, stride, padding, dilation, groups, act)


def activated(n, x, w, b, stride, padding, dilation, groups, act: Activation):
    """act(conv1d or conv2d of the arguments), for layers that know their activation."""
    return _conv(f"conv{n}d", n, x, w, b, stride, padding, dilation, groups, act)


def _conv_transpose(name, n, x, w, b, stride, padding, output_padding, groups, dilation):
    strides, pads, dilations = geometry(name, n, stride, padding, dilation, groups)
    _check_ranks(name, n, x, w, 1)
    if isinstance(pads, str):
        raise ValueError(f"{name}: argument 'padding': expected numbers, got {pads!r}")
    more = as_counts(name, "output_padding", output_padding, n, 0)
    if any(m >= max(s, d) for m, s, d in zip(more, strides, dilations)):
        raise ValueError(f"{name}: argument 'output_padding': expected less than stride {strides} or dilation "
                         f"{dilations}, got {more}")  # fmt: skip
    if w.shape[0] % groups:
        raise ValueError(
            f"{name}: argument 'weight': expected input channels that groups={groups} divide, got {w.shape[0]}"
        )
    if x.shape[-n - 1] != w.shape[0]:
        raise ValueError(f"{name}: argument 'input': expected {w.shape[0]} channels, as weight {w.shape} has, got "
                         f"shape {x.shape}")  # fmt: skip
    if b is not None and b.shape != (w.shape[1] * groups,):
        raise ValueError(f"{name}: argument 'bias': expected shape ({w.shape[1] * groups},), got {b.shape}")
    size = tuple((e - 1) * s - 2 * p + d * (k - 1) + m + 1
                 for e, s, p, d, k, m in zip(x.shape[-n:], strides, pads, dilations, w.shape[2:], more))  # fmt: skip
    if min(size) < 1 or min(x.shape[-n:]) < 1:
        raise ValueError(f"{name}: argument 'input': expected a result of at least one element, got {size} from shape "
                         f"{x.shape}")  # fmt: skip
    geo = {"size": size if n == 2 else (1, *size), **_named(strides, pads, dilations, groups)}
    y = _conv2d_by_data(_image(x, n), w if n == 2 else w.unsqueeze(2), b, **geo)
    return _unimage(y, n, x.ndim == n + 2)


def conv_transpose2d(input, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1):
    """The adjoint of conv2d in its input, plus bias: each pixel adds its multiple of the kernels to the result.

    Shapes: input (N, C, H, W) or (C, H, W), weight (C, O/groups, kH, kW), bias (O,) or None → (N, O, P, Q), P =
    (H − 1)·stride − 2·padding + dilation·(kH − 1) + output_padding + 1 and likewise Q.

    Raises:
        ValueError: shapes that do not fit, bad numbers, output_padding not below stride or dilation. TypeError:
            dtypes that differ.
    """
    return _conv_transpose(
        "conv_transpose2d", 2, input, weight, bias, stride, padding, output_padding, groups, dilation
    )  # fmt: skip


def conv_transpose1d(input, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1):
    """As conv_transpose2d along one dimension: input (N, C, L) or (C, L), weight (C, O/groups, K) → (N, O, M)."""
    return _conv_transpose(
        "conv_transpose1d", 1, input, weight, bias, stride, padding, output_padding, groups, dilation
    )  # fmt: skip
