"""Random bits by position and dropout; kernels in csrc/ops/dropout.c.

A key (seed, counter) fixes all bits. It comes from a generator's state through rng_take, the only effect
here, so that the value, the derivative and a recomputation see one mask.
"""

import numpy as np

from ..op import OPS, Effect, Op
from ..random import default_generator
from ..tensor import number

__all__ = ["dropout", "philox_words"]

_M0, _M1, _W0, _W1 = 0xD2511F53, 0xCD9E8D57, 0x9E3779B9, 0xBB67AE85
_LOW = np.uint64(0xFFFFFFFF)


def philox(counter, key):
    """Philox4x32-10 on uint64 arrays of 32-bit values: counter[4, …], key[2] → [4, …]. The kernels' reference.

    Source: Salmon, Moraes, Dror, Shaw: Parallel random numbers: as easy as 1, 2, 3, SC 2011.
    """
    c0, c1, c2, c3 = (np.asarray(c, np.uint64) for c in counter)
    k0, k1 = int(key[0]), int(key[1])
    for _ in range(10):
        p0, p1 = c0 * np.uint64(_M0), c2 * np.uint64(_M1)
        c0, c1 = (p1 >> np.uint64(32)) ^ c1 ^ np.uint64(k0), p1 & _LOW
        c2, c3 = (p0 >> np.uint64(32)) ^ c3 ^ np.uint64(k1), p0 & _LOW
        k0, k1 = (k0 + _W0) & 0xFFFFFFFF, (k1 + _W1) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3])


def philox_words(key, n):
    """The 32-bit words of positions 0 .. n - 1 under key (seed, counter), as the kernels number them."""
    seed, count = (int(v) & 0xFFFFFFFFFFFFFFFF for v in key)
    block = np.arange(-(-n // 32) * 8, dtype=np.uint64)
    flat = np.zeros_like(block)
    low, high = (flat + np.uint64(v) for v in (count & 0xFFFFFFFF, count >> 32))
    counter = (block & _LOW, block >> np.uint64(32), low, high)
    words = philox(counter, (seed & 0xFFFFFFFF, seed >> 32))
    return words.reshape(4, -1, 8).swapaxes(0, 1).reshape(-1)[:n]


def mask_reference(key, shape, p):
    n = int(np.prod(shape, dtype=np.int64))
    return (philox_words(key, n) < np.floor((1 - p) * 2.0**32 + 0.5)).reshape(shape)


def _check_p(name, p):
    if not 0 <= number(p, f"{name}: argument 'p'") <= 1:
        raise ValueError(f"{name}: argument 'p': expected 0 <= p <= 1, got {p}")


def _mask_shape(shapes, shape, p):
    _check_p("philox_mask", p)
    return [shape]


def _dropout_shape(shapes, p):
    _check_p("dropout", p)
    return shapes[:1]


_KEYS = [np.array([7, 3]), np.array([-(2**63) + 5, -2])]

rng_take = Effect(
    "rng_take", "", "state[2]:i", "key[2]:i", kernel="rng_take_step",
    reference=lambda state: (state, state + np.array([0, 1])),
    doc="key = state = (seed, counter), and counter += 1: a key that was never given before.",
)  # fmt: skip

_SIZES = (((3, 5), 0.5), ((), 0.1), ((0, 4), 0.5), ((2, 3, 200), 0.9), ((33,), 0.0), ((33,), 1.0))

philox_mask = Op(
    "philox_mask", "key[2]:i", "mask[...]:b", kernel="philox_mask_fwd", params={"shape": tuple, "p": float},
    flops="20*n", shape=_mask_shape, vjp=lambda n, *g: None, reference=mask_reference,
    samples=lambda rng: [((k,), {"shape": s, "p": p}) for k in _KEYS for s, p in _SIZES],
    errors=[((_KEYS[0],), {"shape": (2,), "p": 1.5}, ValueError,
             r"philox_mask: argument 'p': expected 0 <= p <= 1, got 1.5")],
    doc="mask = true with probability 1 − p: whether word i of Philox4x32-10 is below (1 − p)·2³², i the row-major "
        "position. Source: Salmon, Moraes, Dror, Shaw: Parallel random numbers: as easy as 1, 2, 3, SC 2011.",
)  # fmt: skip


def _formula(x, key, p):
    scale = 1 / (1 - p) if p < 1 else 0.0
    return OPS.where(OPS.philox_mask(key, shape=x.shape, p=p), x * scale, 0.0)


def _reference(x, key, p):
    return np.where(mask_reference(key, x.shape, p), x / (1 - p) if p < 1 else 0, 0)


drop = Op(
    "dropout", "x[...] key[2]:i", "y[...]", kernel="dropout_fwd", params={"p": float}, saves="key", like=True,
    flops="20*n", shape=_dropout_shape, formula=_formula, reference=_reference,
    vjp=lambda n, g: (OPS.dropout(g, n.ins[1], p=n.params["p"]), None),
    samples=lambda rng: [((rng.standard_normal(s), k), {"p": p}) for k in _KEYS for s, p in _SIZES],
    errors=[((np.ones(3), _KEYS[0]), {"p": -0.1}, ValueError,
             r"dropout: argument 'p': expected 0 <= p <= 1, got -0.1")],
    doc="y = x/(1 − p) where philox_mask(key) is true, else 0. Linear in x. Source: S0 Dropout; S1 §6.5.2; S3 §6.2.",
)  # fmt: skip


def dropout(input, p=0.5, training=True, generator=None):
    """input with each element set to 0 with probability p and the others divided by 1 − p; input itself
    where not training.

    generator: where the key is taken from; the default one (pynn.manual_seed) if None.

    Raises:
        ValueError: p outside of [0, 1]. Source: S0 Dropout; S1 §6.5.2; S3 §6.2.
    """
    _check_p("dropout", p)
    if not training or p == 0:
        return input
    key = (generator or default_generator).take()
    return OPS.dropout(input, key, p=float(p))
