"""Arithmetic, comparisons and elementary functions, with broadcasting; kernels in csrc/ops/elementwise.c.

The primitives of the algebra: each vjp is written in these same ops, so that it can be differentiated
again. A gradient for a broadcast operand is summed to its shape by the engine.
"""

import math

import numpy as np

from ..op import OPS, Effect, Op

_UNARY, _BINARY = "a[...]", "a[...] b[...]"


def _unary(name, vjp, reference, saves="a", **entry):
    return Op(
        name, _UNARY, "y[...]", kernel=name + "_fwd", vjp=vjp, saves=saves, reference=reference, like=True, **entry
    )


def _number(name, ins, vjp, reference, saves="", **entry):
    """An op for integers too."""
    ins = " ".join(a + ":A" for a in ins.split())
    return Op(
        name, ins, "y[...]:A", kernel=name + "_fwd", vjp=vjp, saves=saves, reference=reference, like=True, **entry
    )


def _flat(node, *gs):
    """What has no derivative: comparisons."""
    return (None,) * len(node.ins)


def _level(node, g):
    """The derivative of what is constant almost everywhere."""
    return OPS.zeros(g)


add = _number("add", _BINARY, lambda n, g: (g, g), np.add, doc="y = a + b")
sub = _number("sub", _BINARY, lambda n, g: (g, -g if n.need(1) else None), np.subtract, doc="y = a − b")
mul = _number(
    "mul", _BINARY,
    lambda n, g: (g * n.ins[1] if n.need(0) else None, g * n.ins[0] if n.need(1) else None),
    np.multiply, saves="a b", doc="y = a·b (Hadamard). Source: S0 Other Jacobians.",
)  # fmt: skip
neg = _number("neg", _UNARY, lambda n, g: -g, np.negative, doc="y = −a")
abs_ = _number(
    "abs", _UNARY, lambda n, g: g * OPS.sign(n.ins[0]), np.abs, saves="a", kinks=(0,),
    doc="y = |a|; the subgradient at 0 is 0 (S1 §5.1).",
)  # fmt: skip
sign = _number("sign", _UNARY, _level, np.sign, kinks=(0,), doc="y = −1, 0 or 1; NaN stays NaN; its derivative is 0.")


def _chosen(n, g):
    """The larger (smaller) operand gets the gradient; at a tie each gets half, beside a NaN each gets all."""
    a, b = n.ins
    beaten = OPS.lt if n.name == "maximum" else OPS.gt
    g = OPS.where(OPS.eq(a, b), 0.5 * g, g)
    return (
        OPS.where(beaten(a, b), 0.0, g) if n.need(0) else None,
        OPS.where(beaten(b, a), 0.0, g) if n.need(1) else None,
    )


def _apart(rng):
    a = rng.standard_normal((4, 5))
    return [((a, a + rng.choice([-0.5, 0.5], (4, 5))), {})]


maximum = _number("maximum", _BINARY, _chosen, np.maximum, saves="a b", samples=_apart,
                  doc="y = max(a, b); NaN where either is. At ties each operand gets half the gradient.")  # fmt: skip
minimum = _number("minimum", _BINARY, _chosen, np.minimum, saves="a b", samples=_apart,
                  doc="y = min(a, b); NaN where either is. At ties each operand gets half the gradient.")  # fmt: skip

where = Op(
    "where", "cond[...]:b a[...]:A b[...]:A", "y[...]:A", kernel="where_fwd", saves="cond", like=True,
    vjp=lambda n, g: (None, OPS.where(n.ins[0], g, 0.0) if n.need(1) else None,
                      OPS.where(n.ins[0], 0.0, g) if n.need(2) else None),
    reference=np.where, doc="y = a where cond, else b",
)  # fmt: skip


def _compare(name, reference, sign):
    return Op(name, "a[...]:A b[...]:A", "y[...]:b", kernel=name + "_fwd", vjp=_flat, reference=reference, like=True,
              compares=True, doc=f"y = a {sign} b, a bool")  # fmt: skip


eq = _compare("eq", np.equal, "=")
ne = _compare("ne", np.not_equal, "≠")
lt = _compare("lt", np.less, "<")
le = _compare("le", np.less_equal, "≤")
gt = _compare("gt", np.greater, ">")
ge = _compare("ge", np.greater_equal, "≥")


def _logic(name, ins, reference, doc):
    ins = " ".join(a + ":b" for a in ins.split())
    return Op(name, ins, "y[...]:b", kernel=name + "_fwd", vjp=_flat, reference=reference, like=True, doc=doc)


logical_and = _logic("logical_and", _BINARY, np.logical_and, "y = a and b")
logical_or = _logic("logical_or", _BINARY, np.logical_or, "y = a or b")
logical_not = _logic("logical_not", _UNARY, np.logical_not, "y = not a")

div = Op(
    "div", _BINARY, "y[...]", kernel="div_fwd", saves="a b", like=True, domain={"b": (0.3, 3)},
    vjp=lambda n, g: (g / n.ins[1] if n.need(0) else None,
                      -g * (n.ins[0] / n.ins[1]) / n.ins[1] if n.need(1) else None),  # b² could overflow
    reference=np.true_divide, doc="y = a / b",
)  # fmt: skip
sqrt = _unary("sqrt", lambda n, g: g * 0.5 / n.outs[0], np.sqrt, saves="y", domain={"a": (0.2, 4)}, doc="y = √a")
exp = _unary("exp", lambda n, g: g * n.outs[0], np.exp, saves="y", doc="y = eᵃ")
expm1 = _unary("expm1", lambda n, g: g * (n.outs[0] + 1.0), np.expm1, saves="y", doc="y = eᵃ − 1, accurate near 0")
log = _unary("log", lambda n, g: g / n.ins[0], np.log, domain={"a": (0.2, 4)}, doc="y = ln a")
log1p = _unary("log1p", lambda n, g: g / (1.0 + n.ins[0]), np.log1p, domain={"a": (-0.7, 4)},
               doc="y = ln(1 + a), accurate near 0")  # fmt: skip
sin = _unary("sin", lambda n, g: g * OPS.cos(n.ins[0]), np.sin, doc="y = sin a")
cos = _unary("cos", lambda n, g: -g * OPS.sin(n.ins[0]), np.cos, doc="y = cos a")
tanh = _unary("tanh", None, np.tanh, saves="y", bwd="tanh_bwd", bwd_formula=lambda dy, y: dy * (1.0 - y * y),
              doc="y = tanh a, dy/da = 1 − y². Source: S0; S1 §1.1.")  # fmt: skip
sigmoid = _unary(
    "sigmoid", None, lambda a: np.exp(-np.logaddexp(0, -a)), saves="y",
    bwd="sigmoid_bwd", bwd_formula=lambda dy, y: dy * (y * (1.0 - y)),
    doc="y = 1/(1 + e⁻ᵃ), dy/da = y(1 − y). Source: S0; S1 §1.1.",
)  # fmt: skip
erf = _unary(
    "erf", lambda n, g: g * (2 / math.sqrt(math.pi)) * OPS.exp(-(n.ins[0] * n.ins[0])),
    np.vectorize(math.erf, otypes=[np.float64]), doc="y = 2/√π ∫₀ᵃ e^(−t²) dt",
)  # fmt: skip


def _pow_back(n, g):
    a, b = n.ins
    da = db = None
    if n.need(0):  # at a = b = 0 it is 0, not 0·inf
        da = g * b * OPS.pow(a, OPS.where(OPS.logical_and(a == 0.0, b == 0.0), 1.0, b) - 1.0)
    if n.need(1):  # at a = 0 the limit of y·ln a is 0 for b > 0
        db = g * OPS.where(a == 0.0, 0.0, n.outs[0] * OPS.log(OPS.where(a == 0.0, 1.0, a)))
    return da, db


pow_ = Op(
    "pow", _BINARY, "y[...]", kernel="pow_fwd", saves="a b y", like=True, vjp=_pow_back,
    domain={"a": (0.3, 2), "b": (-2, 3)}, reference=np.power,
    doc="y = aᵇ, by C's rules for signs, zeros and infinities",
)  # fmt: skip

_WHOLE = tuple(range(-8, 9))
floor = _unary("floor", _level, np.floor, saves="", kinks=_WHOLE, doc="y = ⌊a⌋; its derivative is 0")
ceil = _unary("ceil", _level, np.ceil, saves="", kinks=_WHOLE, doc="y = ⌈a⌉; its derivative is 0")
round_ = _unary("round", _level, np.round, saves="", kinks=tuple(k + 0.5 for k in _WHOLE),
                doc="y = a rounded to the nearest integer, ties to even; its derivative is 0")  # fmt: skip

accumulate_ = Effect(
    "accumulate_", "x[...]", "y[...]", kernel="accumulate_step", reference=lambda x, y: y + x,
    doc="y += x, in place: a leaf's gradient",
)  # fmt: skip
