"""The affine map x·Wᵀ + b, with the bias, and an activation where one is asked for, in the product's epilogue."""

import numpy as np

from .. import _core
from ..op import OPS, Op

__all__ = ["activation_of", "linear"]


def _back(dy, x, w, _need):
    """dx = dy·W, dW = dyᵀ·x, db = Σ dy, in products again, so that every further order stays fused."""
    rows = OPS.reshape(dy, shape=(-1, w.shape[0]) if dy.size else (0, w.shape[0]))
    dx = dw = db = None
    if _need & 1:
        dx = OPS.reshape(OPS.matmul(rows, w), shape=x.shape)
    if _need & 2:
        xs = OPS.reshape(x, shape=(rows.shape[0], w.shape[1]))
        dw = OPS.matmul(OPS.permute(rows, axes=(1, 0)), xs)
    if _need & 4:
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
             r"linear: argument 'b': expected dtype float64 as 'x' has, got float32")],
    doc="y = x·Wᵀ + b. Source: S0; S1 §2.8; S3 §2.",
)  # fmt: skip


# ---- with an activation ----------------------------------------------------------------------------


def _numbers_of(act: Op) -> tuple[int, int, bool] | None:
    """(its kernel, that of its backward, whether that one reads x) where linear_act can call them, else None."""
    good = act.n_in == act.n_out == 1 and act.like and act.kernel_id >= 0 and act.bwd and act.bwd.kernel_id >= 0
    if not good or act.par_names != act.bwd.par_names or act.par_kinds not in (b"", b"f", b"ff"):
        return None
    return act.kernel_id, act.bwd.kernel_id, not act.save_out


_fusable: dict[str, tuple[int, int, bool]] = {}  # by name, found when first asked for


def _choice(name: str) -> tuple[int, int, bool]:
    """What _numbers_of says of the activation called name."""
    try:
        return _fusable[name]
    except (KeyError, TypeError):
        _fusable.update({op.name: found for op in OPS if (found := _numbers_of(op))})
    if not isinstance(name, str) or name not in _fusable:
        raise ValueError(f"linear: argument 'activation': expected None or one of {', '.join(sorted(_fusable))}, "
                         f"got {name!r}")  # fmt: skip
    return _fusable[name]


class _LinearAct(Op):
    """Turns the activation's name into its kernels' numbers, and keeps z where the backward will read it."""

    __slots__ = ()

    def __call__(self, *args, activation=None, **params):
        if activation is None:
            return super().__call__(*args, **params)  # which says what is missing
        fwd, bwd, by_x = _choice(activation)
        size = 0
        if by_x and _core.grad_enabled() and any(getattr(a, "requires_grad", False) for a in args):
            shape = np.shape(args[1]) if len(args) > 1 else ()
            size = shape[0] if shape else 0
        return super().__call__(*args, activation=activation, fwd=fwd, bwd=bwd, Z=size, **params)


def _act_formula(x, w, b, activation, p, q, Z, **numbers):
    z = OPS.linear(x, w, b)
    act = OPS[activation]
    return act(z, **dict(zip(act.par_names, (p, q)))), z[..., :Z]


def _act_reference(x, w, b, activation, p, q):
    z = _reference(x, w, b)
    act = OPS[activation]
    return act.reference(z, **dict(zip(act.par_names, (p, q)))), z[..., :0]


def _act_samples(rng):
    for lead, i, o, act in (
        ((3,), 5, 4, {"activation": "relu"}),
        ((), 7, 1, {"activation": "leaky_relu", "p": 0.2}),
        ((2, 3), 17, 33, {"activation": "softplus", "p": 2.5, "q": 3.0}),
        ((0,), 3, 2, {"activation": "silu"}),
        ((1,), 1, 1, {"activation": "tanh"}),
        ((4,), 0, 3, {"activation": "sigmoid"}),
        ((64,), 64, 10, {"activation": "gelu"}),
        ((150,), 3, 9, {"activation": "hardtanh", "p": -1.5, "q": 2.0}),
    ):
        x, w = rng.standard_normal((*lead, i)), rng.standard_normal((o, i))
        yield (x, w, rng.standard_normal(o)), act
        yield (x, w, None), act


_linear_act = _LinearAct(
    "linear_act", "x[...,I] W[O,I] b[O]?", "y[...,O] z[...,Z]:C", kernel="linear_act_fwd", saves="y z",
    flops="2*n*I", promote=False, params={"activation": str, "p": 0.0, "q": 0.0, "fwd": -1, "bwd": -1, "Z": 0},
    bwd="linear_act_bwd", formula=_act_formula, samples=_act_samples, reference=_act_reference,
    errors=[((np.ones((2, 3)), np.ones((4, 5)), None), {"activation": "relu"}, ValueError,
             r"linear_act: argument 'W': expected shape \[O,I\] with I=3, got \(4, 5\)"),
            ((np.ones((2, 3)), np.ones((4, 3)), None), {"activation": "exp"}, ValueError,
             r"linear: argument 'activation': expected None or one of elu, gelu, .*tanh, got 'exp'")],
    doc="y = act(z), z = x·Wᵀ + b; z is kept where act's backward reads it. p and q are act's parameters in order.",
)  # fmt: skip


def activation_of(activation) -> tuple[str, float, float]:
    """(name, p, q) of an activation as `linear` takes it.

    Raises:
        ValueError: linear knows no such activation. TypeError: it has no such parameters.
    """
    name, given = activation if isinstance(activation, tuple) and len(activation) == 2 else (activation, {})
    _choice(name)
    act = OPS[name]
    if not isinstance(given, dict) or given.keys() - act.defaults.keys():
        names = ", ".join(act.par_names) or "no parameters"
        raise TypeError(f"linear: argument 'activation': expected ({name!r}, a dict of {names}), got {activation!r}")
    params = {**act.defaults, **given}
    p, q, *_ = [*(float(params[k]) for k in act.par_names), 0.0, 0.0]
    return name, p, q


def linear(input, weight, bias=None, activation=None):
    """y = x·Wᵀ + b on the last dimension (S0; S1 §2.8; S3 §2), or act(x·Wᵀ + b), in one pass.

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
    name, p, q = activation_of(activation)
    return _linear_act(input, weight, bias, activation=name, p=p, q=q)[0]
