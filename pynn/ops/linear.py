"""The affine map x·Wᵀ + b, with the bias, and an activation where one is asked for, in the product's epilogue."""

from typing import NamedTuple

import numpy as np

from .. import _core
from ..op import OPS, Op

__all__ = ["Activation", "activated", "activation_of", "linear"]


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
        ((150,), 3, 9),  # several blocks of rows in db
    ):
        x, w = rng.standard_normal((*lead, i)), rng.standard_normal((o, i))
        yield (x, w, rng.standard_normal(o)), {}
        yield (x, w, None), {}


_linear = Op(
    "linear", "x[...,I] W[O,I] b[O]?", "y[...,O]", kernel="linear_fwd", saves="x W", flops="2*n*I", promote=False,
    bwd="linear_bwd", bwd_formula=_back, samples=_samples, reference=_reference,
    errors=[((np.ones((2, 3)), np.ones((4, 5)), None), {}, ValueError,
             r"linear: argument 'W': expected shape \[O,I\] with I=3, got \(4, 5\)"),
            ((np.ones((2, 3)), np.ones((4, 3), np.float32), None), {}, TypeError,
             r"linear: argument 'x': expected dtype float32 as 'W' has, got float64"),
            ((np.ones((2, 3)), np.ones((4, 3)), np.ones(4, np.float32)), {}, TypeError,
             r"linear: argument 'b': expected dtype float64 as 'W' has, got float32")],
    doc="y = x·Wᵀ + b. Source: S0; S1 §2.8; S3 §2.",
)  # fmt: skip


# ---- with an activation ----------------------------------------------------------------------------


class Activation(NamedTuple):
    """What `linear` applies to its result: an op, its parameters, and those of linear_act that mean the same."""

    op: Op
    params: dict
    numbers: dict
    by_x: bool  # whether the op's backward reads its argument, which linear_act does not keep


def _kernels_of(act: Op) -> tuple[int, int] | None:
    """The numbers of act's kernels, where linear_act can call them: of one argument and up to two parameters."""
    good = act.n_in == act.n_out == 1 and act.like and act.kernel_id >= 0 and act.bwd and act.bwd.kernel_id >= 0
    if not good or act.par_names != act.bwd.par_names or act.par_kinds not in (b"", b"f", b"ff"):
        return None
    return act.kernel_id, act.bwd.kernel_id


def activation_of(activation, layer="linear") -> Activation:
    """What a name, or a pair of a name and a dict of parameters, stands for; `layer` is what errors name.

    Raises:
        ValueError: there is no such activation. TypeError: it has no such parameters.
    """
    name, given = activation if isinstance(activation, tuple) and len(activation) == 2 else (activation, {})
    kernels = _kernels_of(OPS[name]) if isinstance(name, str) and name in OPS else None
    if kernels is None:
        names = ", ".join(sorted(op.name for op in OPS if _kernels_of(op)))
        raise ValueError(f"{layer}: argument 'activation': expected None or one of {names}, got {activation!r}")
    op = OPS[name]
    if not isinstance(given, dict) or given.keys() - op.defaults.keys():
        names = ", ".join(op.par_names) or "no parameters"
        raise TypeError(f"{layer}: argument 'activation': expected ({name!r}, a dict of {names}), got {activation!r}")
    params = {**op.defaults, **{k: float(v) for k, v in given.items()}}
    p, q, *_ = *(params[k] for k in op.par_names), 0.0, 0.0
    numbers = {"activation": name, "p": p, "q": q, "fwd": kernels[0], "bwd": kernels[1]}
    return Activation(op, params, numbers, not op.save_out)


def _activated(x, w, b, act: Activation):
    if act.by_x and _core.grad_enabled() and any(getattr(a, "requires_grad", False) for a in (x, w, b)):
        return act.op(_linear(x, w, b), **act.params)
    return _linear_act._apply((x, w, b), act.numbers)


def activated(x, w, b, act: Activation):
    """act(x·Wᵀ + b), by one op unless a gradient will need what act is applied to."""
    try:
        return _activated(x, w, b, act)
    except (TypeError, ValueError):
        _linear(x, w, b)  # raises what is wrong with the arguments in the name of the layer that was called
        raise


class _LinearAct(Op):
    """Called by the activation's name, as `activated`."""

    __slots__ = ()

    def __call__(self, *args, activation=None, p=0.0, q=0.0, **params):
        if params:
            raise TypeError(f"linear_act: unexpected argument {next(iter(params))!r}; expected activation, p, q")
        if activation is None:
            return super().__call__(*args)  # which says what is missing
        names = OPS[activation].par_names if activation in OPS else ()
        act = activation_of((activation, dict(zip(names, (p, q)))))
        if len(args) > 3:
            return self._apply(args, act.numbers)  # which counts them
        return _activated(*(*args, None, None, None)[:3], act)


def _act_formula(x, w, b, activation, p, q, **numbers):
    act = OPS[activation]
    return act(OPS.linear(x, w, b), **dict(zip(act.par_names, (p, q))))


def _act_back(dy, x, w, y, activation, p, q, fwd, bwd, need):
    act = OPS[activation]
    return _back(act.bwd_formula(dy, y, **dict(zip(act.par_names, (p, q)))), x, w, need)


def _act_reference(x, w, b, activation, p=0.0, q=0.0):
    act = OPS[activation]
    return act.reference(_reference(x, w, b), **dict(zip(act.par_names, (p, q))))


def _act_samples(rng):
    for lead, i, o, act in (
        ((3,), 5, 4, {"activation": "relu"}),
        ((), 7, 1, {"activation": "leaky_relu", "p": 0.2}),
        ((2, 3), 17, 33, {"activation": "softplus", "p": 2.5, "q": 3.0}),
        ((0,), 3, 2, {"activation": "sigmoid"}),
        ((1,), 1, 1, {"activation": "tanh"}),
        ((4,), 0, 3, {"activation": "sigmoid"}),
        ((64,), 64, 10, {"activation": "tanh"}),
        ((150,), 3, 9, {"activation": "hardtanh", "p": -1.5, "q": 2.0}),
    ):
        x, w = rng.standard_normal((*lead, i)), rng.standard_normal((o, i))
        yield (x, w, rng.standard_normal(o)), act
        yield (x, w, None), act


_linear_act = _LinearAct(
    "linear_act", "x[...,I] W[O,I] b[O]?", "y[...,O]", kernel="linear_act_fwd", saves="x W y", flops="2*n*I",
    promote=False, params={"activation": str, "p": 0.0, "q": 0.0, "fwd": -1, "bwd": -1}, bwd="linear_act_bwd",
    formula=_act_formula, bwd_formula=_act_back, samples=_act_samples, reference=_act_reference,
    errors=[((np.ones((2, 3)), np.ones((4, 5)), None), {"activation": "relu"}, ValueError,
             r"linear_act: argument 'W': expected shape \[O,I\] with I=3, got \(4, 5\)"),
            ((np.ones((2, 3)), np.ones((4, 3)), None), {"activation": "exp"}, ValueError,
             r"linear: argument 'activation': expected None or one of elu, gelu, .*tanh, got \('exp'")],
    doc="y = act(x·Wᵀ + b), by the kernels of the op that is called `activation`; p and q are its parameters.",
)  # fmt: skip


def linear(input, weight, bias=None, activation=None):
    """y = x·Wᵀ + b on the last dimension (S0; S1 §2.8; S3 §2), or act(x·Wᵀ + b).

    Shapes: input [..., I], weight [O, I], bias [O] or None → [..., O].

    Args:
        activation: the name of an elementwise op ("relu", "gelu", "gelu_tanh", "silu", "tanh", …), or of one and
            its parameters: ("leaky_relu", {"negative_slope": 0.2}). The bits of value and gradients are those of
            the op called on the result.

    Raises:
        ValueError: shapes that do not fit; an activation that is none. TypeError: dtypes that differ.
    """
    if activation is None:
        return _linear(input, weight, bias)
    return activated(input, weight, bias, activation_of(activation))
