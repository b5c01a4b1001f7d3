"""Scaled dot-product attention, fused with its derivative; kernels in csrc/ops/attention.c."""

import math

import numpy as np

from .. import _core
from ..op import OPS, Op
from ..tensor import Tensor
from .index import where
from .softmax import softmax

__all__ = ["additive", "attention_weights", "scaled_dot_product_attention", "self_attention"]


def _swap(x):
    return OPS.permute(x, axes=(*range(x.ndim - 2), x.ndim - 1, x.ndim - 2))


def _shared(x):
    """[B, G, M, D] as [B, G, 1, M, D]: one for all heads of queries."""
    return OPS.reshape(x, shape=(*x.shape[:2], 1, *x.shape[2:]))


def places(n):
    """0, 1, …, n − 1, by ops: an array that becomes a tensor could not be recorded."""
    ones = OPS.zeros(_core.empty((1, n, 1), np.float64)) + 1.0
    return OPS.reshape(OPS.cumsum(ones) - 1.0, shape=(n,))


def seen_keys(n, m, causal, window, offset):
    """bool [n, m]: whether query i at place i + offset sees key j; None where all do."""
    if not causal and window <= 0:
        return None
    away = OPS.reshape(places(n) + float(offset), shape=(n, 1)) - places(m)
    near = None if window <= 0 else OPS.abs(away) < float(window)
    if not causal:
        return near
    return away >= 0.0 if near is None else OPS.logical_and(away >= 0.0, near)


def _scores(q, k, mask, scale, causal, window, offset):
    s = OPS.matmul(q * scale, _swap(_shared(k)))
    s = s if mask is None else s + mask
    seen = seen_keys(*s.shape[-2:], causal, window, offset)
    return s if seen is None else where(seen, s, -math.inf)


def _top(s):
    """The largest of each row of scores, −inf of none, which derivatives do not see."""
    one = (*s.shape[:-1], 1)
    return OPS.amax(s.detach(), shape=one) if s.shape[-1] else Tensor(np.full(one, -np.inf, s.dtype))


def _weights(s):
    """The softmax of scores; a row of −inf alone is 0."""
    blind = _top(s) == -math.inf
    return where(blind, 0.0, softmax(where(blind, 0.0, s), -1))


def _formula(q, k, v, mask, key, scale, causal, window, offset, dropout):
    s = _scores(q, k, mask, scale, causal, window, offset)
    top = _top(s)
    top = where(top == -math.inf, 0.0, top)
    e = OPS.exp(s - top)
    total = OPS.sum_to(e, shape=top.shape)
    p = e / where(total == 0, 1.0, total)
    y = OPS.matmul(OPS.dropout(p, key, p=dropout) if dropout else p, _shared(v))
    return y, OPS.reshape((OPS.log(total) + top).detach(), shape=s.shape[:-1])


def _reference(q, k, v, mask=None, key=None, scale=1.0, causal=False, window=0, offset=0, dropout=0.0):
    """A query at a time."""
    from scipy.special import logsumexp, softmax

    from .dropout import mask_reference

    B, G, R, N, _ = q.shape
    M = k.shape[2]
    kept = mask_reference(key, (B, G, R, N, M), dropout) / (1 - dropout) if dropout else np.ones((B, G, R, N, M))
    y, lse = np.zeros((B, G, R, N, v.shape[3])), np.full((B, G, R, N), -np.inf)
    for b, g, r, i in np.ndindex(B, G, R, N):
        at = i + offset
        lo = max(0, at - window + 1) if window > 0 else 0
        hi = min(M, at + 1 if causal else M, at + window if window > 0 else M)
        s = np.array([np.dot(q[b, g, r, i], k[b, g, j]) * scale for j in range(lo, hi)])
        if mask is not None:
            s = s + mask[b, g, r, i, lo : max(lo, hi)]
        if not np.all(s == -np.inf):
            p = softmax(s) * kept[b, g, r, i, lo:hi]
            y[b, g, r, i], lse[b, g, r, i] = p @ v[b, g, lo:hi], logsumexp(s)
    return y, lse


KEY = np.array([7, 3])


def _samples(rng):
    """Odd sizes beside whole blocks, shared heads, values of another width, masks, nothing to see."""
    sizes = (
        (1, 1, 1, 1, 1, 1, 1), (1, 2, 1, 5, 7, 3, 4), (2, 1, 3, 4, 9, 8, 8), (0, 1, 1, 3, 3, 2, 2),
        (1, 1, 1, 0, 3, 2, 2), (1, 1, 1, 3, 0, 2, 2), (1, 1, 2, 70, 150, 17, 33), (1, 2, 1, 33, 20, 40, 5),
    )  # fmt: skip
    for B, G, R, N, M, D, E in sizes:
        q, k, v = (rng.standard_normal(s) for s in ((B, G, R, N, D), (B, G, M, D), (B, G, M, E)))
        yield (q, k, v, None, None), {"scale": D**-0.5}
        yield (q, k, v, None, None), {"scale": 0.4, "causal": True}
    q, k, v = (rng.standard_normal(s) for s in ((1, 2, 2, 9, 4), (1, 2, 12, 4), (1, 2, 12, 3)))
    mask = rng.standard_normal((1, 2, 2, 9, 12))
    mask[..., 3, :] = mask[..., 5] = -np.inf
    yield (q, k, v, mask, None), {"scale": 0.5}
    yield (q, k, v, mask, None), {"scale": 0.5, "causal": True, "offset": 3}
    yield (q, k, v, None, None), {"scale": 0.5, "window": 3}
    yield (q, k, v, None, None), {"scale": 0.5, "window": 2, "causal": True, "offset": -2}
    yield (q * 5, k * 5, v, None, None), {"scale": 1.0}
    yield (q[..., 4:5, :], k, v, None, None), {"scale": 0.5}
    yield (q[..., 4:5, :], k, v, None, KEY), {"scale": 0.5, "window": 9, "dropout": 0.4}
    yield (q, k, v, mask, KEY), {"scale": 0.5, "window": 4, "causal": True, "offset": 2, "dropout": 0.3}
    yield (q[..., 4:5, :], k, v, mask[..., 4:5, :], None), {"scale": 0.5, "window": 5, "offset": 6}
    q, k, v = (rng.standard_normal(s) for s in ((2, 1, 1, 70, 6), (2, 1, 150, 6), (2, 1, 150, 5)))
    yield (q, k, v, None, KEY), {"scale": 0.4, "dropout": 0.5}


_PARAMS = {"scale": 1.0, "causal": False, "window": 0, "offset": 0, "dropout": 0.0}

_attention = Op(
    "attention", "q[B,G,R,N,D] k[B,G,M,D] v[B,G,M,E] mask[B,G,R,N,M]?:C key[2]?:i", "y[B,G,R,N,E] lse[B,G,R,N]:C",
    kernel="attention_fwd", bwd="attention_bwd", saves="q k v mask key y lse", promote=False, formula=_formula,
    params=_PARAMS,
    flops="2*B*G*R*N*M*D+2*B*G*R*N*M*E", samples=_samples, reference=_reference,
    domain={"q": (-3.0, 3.0), "k": (-3.0, 3.0)},
    errors=[
        ((np.ones((1, 1, 1, 2, 3)), np.ones((1, 1, 4, 2)), np.ones((1, 1, 4, 2)), None, None), {}, ValueError,
         r"^attention: argument 'k': expected shape \[B,G,M,D\] with B=1, G=1, D=3, got \(1, 1, 4, 2\)$"),
        ((np.ones((1, 1, 1, 2, 3)), np.ones((1, 1, 4, 3)), np.ones((1, 1, 5, 2)), None, None), {}, ValueError,
         r"^attention: argument 'v': expected shape \[B,G,M,E\] with B=1, G=1, M=4, got \(1, 1, 5, 2\)$"),
    ],
    doc="y_i = Σ_j p_ij v_j, p_ij = e^(s_ij)/Σ_j e^(s_ij), s_ij = scale·q_i·k_j + mask_ij over the keys that query i "
        "sees (causal: none later; window: fewer than so many places away), y_i = 0 where it sees none; R heads of "
        "queries share a head of keys; lse_i = ln Σ_j e^(s_ij). ds_ij = p_ij (dy_i·v_j − dy_i·y_i). With dropout, "
        "p in y and dy·v in ds are what dropout under key leaves of them, p[B,G,R,N,M] by position. Source: S1 §7.3; "
        "arXiv 1706.03762, 2205.14135.",
)  # fmt: skip


def _parts(x):
    """x[B, N, 3, H, D] as queries, keys and values by heads."""
    q, k, v = (OPS.permute(x[:, :, k], axes=(0, 2, 1, 3)) for k in range(3))
    return OPS.reshape(q, shape=(*q.shape[:2], 1, *q.shape[2:])), k, v


def _self_formula(x, mask, key, **params):
    mask = None if mask is None else OPS.reshape(mask, shape=(*mask.shape[:2], 1, *mask.shape[2:]))
    y, lse = _formula(*_parts(x), mask, key, **params)
    y, lse = (OPS.reshape(t, shape=(*t.shape[:2], *t.shape[3:])) for t in (y, lse))
    return OPS.permute(y, axes=(0, 2, 1, 3)), lse


def _self_reference(x, mask=None, key=None, **params):
    q, k, v = x.transpose(2, 0, 3, 1, 4)
    y, lse = _reference(q[:, :, None], k, v, None if mask is None else mask[:, :, None], key, **params)
    return y[:, :, 0].transpose(0, 2, 1, 3), lse[:, :, 0]


def _self_samples(rng):
    for B, N, H, D in ((1, 1, 1, 1), (2, 5, 3, 4), (0, 3, 1, 2), (1, 0, 2, 3), (1, 150, 2, 17), (2, 33, 1, 40)):
        x = rng.standard_normal((B, N, 3, H, D))
        yield (x, None, None), {"scale": D**-0.5}
        yield (x, None, None), {"scale": 0.4, "causal": True, "window": 7 if N > 40 else 0}
    mask = rng.standard_normal((2, 2, 6, 6))
    mask[..., 3] = -np.inf
    yield (rng.standard_normal((2, 6, 3, 2, 4)), mask, None), {"scale": 0.5}
    x = rng.standard_normal((2, 40, 3, 2, 4))
    yield (x, None, KEY), {"scale": 0.5, "window": 9, "causal": True, "dropout": 0.4}


_self_attention = Op(
    "self_attention", "x[B,N,3,H,D] mask[B,H,N,N]?:C key[2]?:i", "y[B,N,H,D] lse[B,H,N]:C",
    kernel="self_attention_fwd", bwd="self_attention_bwd", saves="x mask key y lse", promote=False,
    formula=_self_formula, params=_PARAMS, flops="4*B*H*N*N*D", samples=_self_samples,
    reference=_self_reference, domain={"x": (-2.0, 2.0)},
    errors=[((np.ones((1, 2, 2, 1, 3)), None, None), {}, ValueError,
             r"^self_attention: argument 'x': expected shape \[B,N,3,H,D\], got \(1, 2, 2, 1, 3\)$")],
    doc="attention whose queries, keys and values x[:, :, 0], x[:, :, 1], x[:, :, 2] lie side by side, as one linear "
        "layer gives them, by heads in place. Source: as attention.",
)  # fmt: skip


# ---- functions -----------------------------------------------------------------------------------


def additive(mask, dtype, what="scaled_dot_product_attention: argument 'attn_mask'"):
    """A mask of bools, true where a key takes part, as what is added to the scores; None and numbers of dtype stay."""
    if mask is None or mask.dtype == dtype:
        return mask
    if mask.dtype != bool:
        raise TypeError(f"{what}: expected bool or {dtype}, got {mask.dtype}")
    return OPS.cast(where(mask, 0.0, -math.inf), dtype=dtype)


def _lead(x, lead):
    return x if x.shape[:-2] == lead else OPS.expand(x, shape=(*lead, *x.shape[-2:]))


def _checked(query, key, value, attn_mask, dropout_p, enable_gqa):
    """The leading dimensions of all, heads included, and how many heads of queries share one of keys."""
    name = "scaled_dot_product_attention"
    for what, x in (("query", query), ("key", key), ("value", value)):
        if x.ndim < 2:
            raise ValueError(f"{name}: argument '{what}': expected at least 2 dimensions, got shape {x.shape}")
    if key.shape[-1] != query.shape[-1]:
        raise ValueError(f"{name}: argument 'key': expected {query.shape[-1]} features as in query, got {key.shape}")
    if value.shape[-2] != key.shape[-2]:
        raise ValueError(f"{name}: argument 'value': expected {key.shape[-2]} places as in key, got {value.shape}")
    if not 0 <= dropout_p <= 1:
        raise ValueError(f"{name}: argument 'dropout_p': expected 0 <= p <= 1, got {dropout_p}")
    if enable_gqa:
        heads = [x.shape[-3] if x.ndim > 2 else 1 for x in (query, key, value)]
        if heads[1] != heads[2] or heads[1] == 0 or heads[0] % heads[1]:
            raise ValueError(f"{name}: expected heads of query to be a multiple of those of key and value, got "
                             f"{heads[0]}, {heads[1]} and {heads[2]}")  # fmt: skip
        return query.shape[:-2], heads[0] // heads[1]
    try:
        return np.broadcast_shapes(*(x.shape[:-2] for x in (query, key, value))), 1
    except ValueError:
        raise ValueError(f"{name}: expected leading dimensions that can be broadcast, got shapes {query.shape}, "
                         f"{key.shape} and {value.shape}") from None  # fmt: skip


def _forms(query, key, value, attn_mask, lead, shared):
    """query, key, value and mask as the op wants them."""
    heads = lead[-1] if lead else 1
    outer = math.prod(lead[:-1])
    groups = heads // shared
    kv = (*lead[:-1], groups) if lead else ()
    q = OPS.reshape(_lead(query, lead), shape=(outer, groups, shared, *query.shape[-2:]))
    k, v = (OPS.reshape(_lead(x, kv), shape=(outer, groups, *x.shape[-2:])) for x in (key, value))
    mask = additive(attn_mask, query.dtype)
    if mask is not None:
        full = (*lead, query.shape[-2], key.shape[-2])
        try:
            mask = OPS.expand(mask, shape=full)
        except ValueError:
            raise ValueError("scaled_dot_product_attention: argument 'attn_mask': expected a shape that can be "
                             f"broadcast to {full}, got {attn_mask.shape}") from None  # fmt: skip
        if 0 not in lead and len(lead) > 1 and mask.strides[: len(lead) - 1] == (0,) * (len(lead) - 1):
            mask = OPS.expand(mask[(0,) * (len(lead) - 1)], shape=(outer, *mask.shape[len(lead) - 1 :]))
        mask = OPS.reshape(mask, shape=(outer, groups, shared, *full[-2:]))
    return q, k, v, mask


def attention_weights(
    query, key, attn_mask=None, is_causal=False, scale=None, enable_gqa=False, *, window=0, offset=0
):  # fmt: skip
    """The matrix of weights softmax(scale·query·keyᵀ + attn_mask), [..., N, M]; a row that sees no key is 0.

    Arguments and errors as scaled_dot_product_attention's.
    """
    lead, shared = _checked(query, key, key, attn_mask, 0.0, enable_gqa)
    q, k, _, mask = _forms(query, key, key, attn_mask, lead, shared)
    p = _weights(_scores(q, k, mask, _scale(query, scale), is_causal, window, offset))
    return OPS.reshape(p, shape=(*lead, *p.shape[-2:]))


def _scale(query, scale):
    return float(query.shape[-1] ** -0.5 if scale is None and query.shape[-1] else scale or 0.0)


def _key(dropout_p):
    """A key for what dropout draws, None where it draws nothing."""
    from ..random import default_generator  # which needs ops

    return default_generator.take() if dropout_p > 0 else None


def scaled_dot_product_attention(
    query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False, *, window=0,
    offset=0,
):  # fmt: skip
    """softmax(query·keyᵀ·scale + attn_mask)·value, without the matrix of weights in memory.

    Args:
        query: [..., N, D], or [..., H, N, D] with enable_gqa. key: [..., M, D]. value: [..., M, E].
        attn_mask: broadcast to [..., N, M]; bool, true where a key takes part, or added to the scores. It may
            stand beside is_causal. One that requires grad takes memory for the weights.
        dropout_p: probability with which a weight is dropped, whatever the mode.
        is_causal: query i sees keys j <= i + offset.
        scale: 1/√D if None.
        enable_gqa: key and value may have fewer heads (dimension −3); each serves as many of query's in turn.
        window: query i sees keys fewer than so many places from i + offset; 0: all.
        offset: the place of the first query among the keys, as when keys are cached.

    Returns:
        [..., N, E]; 0 for a query that sees no key.

    Raises:
        ValueError: shapes that do not fit, dropout_p outside of [0, 1]. TypeError: mixed dtypes, another mask.

    Source: S1 §7.3; Vaswani et al., arXiv 1706.03762; Dao et al., arXiv 2205.14135.
    """
    lead, shared = _checked(query, key, value, attn_mask, dropout_p, enable_gqa)
    q, k, v, mask = _forms(query, key, value, attn_mask, lead, shared)
    options = {"scale": _scale(query, scale), "causal": bool(is_causal), "window": int(window), "offset": int(offset)}
    if attn_mask is not None and attn_mask.requires_grad:
        from .dropout import dropout

        y = OPS.matmul(dropout(_weights(_scores(q, k, mask, **options)), dropout_p), _shared(v))
    else:
        y = _attention(q, k, v, mask, _key(dropout_p), dropout=float(dropout_p), **options)[0]
    return OPS.reshape(y, shape=(*lead, query.shape[-2], value.shape[-1]))


def self_attention(x, mask=None, is_causal=False, window=0, dropout_p=0.0):
    """Attention of x (B, N, 3, H, D), queries, keys and values side by side, to itself: (B, N, H, D).

    mask is added to the scores and broadcast to (B, H, N, N); is_causal, window and dropout_p as in
    scaled_dot_product_attention.
    """
    b, n, _, h, d = x.shape
    if mask is not None:
        mask = OPS.expand(mask, shape=(b, h, n, n))
    return _self_attention(
        x, mask, _key(dropout_p), scale=d**-0.5, causal=bool(is_causal), window=int(window), dropout=float(dropout_p)
    )[0]
