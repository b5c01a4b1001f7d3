"""Losses with PyTorch's weights and reductions, fused with their derivatives; kernels in csrc/ops/losses.c.

The ops take `reduction` as a number (NONE, MEAN, SUM) and classes in the last dimension; the functions
below take PyTorch's arguments without the deprecated size_average and reduce. Unlike PyTorch's mse_loss,
l1_loss and huber_loss, which warn, every loss raises where input and target differ in shape.
"""

import math

import numpy as np

from ..op import OPS, Op
from ..tensor import Tensor

__all__ = [
    "binary_cross_entropy", "binary_cross_entropy_with_logits", "cross_entropy", "dice_loss", "huber_loss", "iou_loss",
    "l1_loss", "mse_loss", "nll_loss", "smooth_l1_loss",
]  # fmt: skip

NONE, MEAN, SUM = range(3)
REDUCTIONS = {"none": NONE, "mean": MEAN, "sum": SUM}


def _reduced(loss, reduction, total):
    """The formula's reduction; the mean of nothing is NaN."""
    if reduction == NONE:
        return loss
    y = OPS.sum_to(loss, shape=())
    return y / total if reduction == MEAN else y


# ---- classes -------------------------------------------------------------------------------------


def _last(x):
    return OPS.sum_to(x, shape=(*x.shape[:-1], 1)).reshape(x.shape[:-1])


def _labels(target, n_classes, ignore_index, dtype):
    """(1 where the class is the row's label and the row counts, 1 where the row counts)."""
    counts = OPS.ne(target, ignore_index)
    hit = OPS.eq(target.unsqueeze(-1), Tensor(np.arange(n_classes)))
    return OPS.cast(OPS.logical_and(hit, counts.unsqueeze(-1)), dtype=dtype), OPS.cast(counts, dtype=dtype)


def _weighted(x, q, weight):
    """−Σ q·w·log p of each row; a class of q = 0 adds nothing, even where log p is −inf."""
    qw = q if weight is None else q * weight
    return -_last(OPS.where(OPS.eq(q, 0.0), 0.0, qw * OPS.log_softmax(x)))


def _norm(x):
    """(max, ln Σ e^(x − max)) of each row, which the kernel saves: constants for derivatives."""
    top = OPS.amax(x.detach(), shape=(*x.shape[:-1], 1))
    log_sum = OPS.log(OPS.sum_to(OPS.exp(x.detach() - top), shape=top.shape))
    first = Tensor(np.array([1, 0])).astype(x.dtype)
    return top * first + log_sum * (1.0 - first)


def _index_formula(input, target, weight, ignore_index, reduction, label_smoothing):
    c = input.shape[-1]
    hit, counts = _labels(target, c, ignore_index, input.dtype)
    q = (1.0 - label_smoothing) * hit + (label_smoothing / c) * counts.unsqueeze(-1)
    total = OPS.sum_to(hit if weight is None else hit * weight, shape=())
    norm = OPS.where(OPS.ne(target, ignore_index).unsqueeze(-1), _norm(input), 0.0)
    return _reduced(_weighted(input, q, weight), reduction, total), norm, total


def _soft_formula(input, target, weight, reduction, label_smoothing):
    c = input.shape[-1]
    q = (1.0 - label_smoothing) * target + label_smoothing / c
    loss = -_last((q if weight is None else q * weight) * OPS.log_softmax(input))
    return _reduced(loss, reduction, float(loss.size)), _norm(input)


def _nll_formula(input, target, weight, ignore_index, reduction):
    hit, _ = _labels(target, input.shape[-1], ignore_index, input.dtype)
    q = hit if weight is None else hit * weight
    total = OPS.sum_to(q, shape=())
    return _reduced(-_last(OPS.where(OPS.eq(hit, 0.0), 0.0, q * input)), reduction, total), total


def _reference_loss(x, q, w, counts, total, reduction):
    from scipy.special import log_softmax

    terms = np.where(q == 0, 0.0, q * w) * log_softmax(x, axis=-1)
    return _reduce_reference(np.where(counts, -terms.sum(axis=-1), 0.0), total, reduction)


def _reduce_reference(loss, total, reduction):
    return loss if reduction == NONE else loss.sum() / (total if reduction == MEAN else 1)


def _reference_norm(x):
    from scipy.special import logsumexp

    top = x.max(axis=-1)
    return np.stack([top, logsumexp(x - top[..., None], axis=-1)], axis=-1)


def _index_reference(x, target, weight=None, ignore_index=-100, reduction=MEAN, label_smoothing=0.0):
    c, counts = x.shape[-1], target != ignore_index
    w = np.ones(c) if weight is None else weight
    label = np.where(counts, target, 0)
    q = (1 - label_smoothing) * np.eye(c)[label] + label_smoothing / c
    total = np.where(counts, w[label], 0.0).sum()
    loss = _reference_loss(x, q, w, counts, total, reduction)
    return loss, np.where(counts[..., None], _reference_norm(x), 0.0), total


def _soft_reference(x, target, weight=None, reduction=MEAN, label_smoothing=0.0):
    c = x.shape[-1]
    q = (1 - label_smoothing) * target + label_smoothing / c
    rows = math.prod(x.shape[:-1])
    w = np.ones(c) if weight is None else weight
    return _reference_loss(x, q, w, True, rows, reduction), _reference_norm(x)


def _nll_reference(x, target, weight=None, ignore_index=-100, reduction=MEAN):
    counts = target != ignore_index
    label = np.where(counts, target, 0)
    w = np.where(counts, (np.ones(x.shape[-1]) if weight is None else weight)[label], 0.0)
    loss = np.where(counts, -w * np.take_along_axis(x, label[..., None], -1)[..., 0], 0.0)
    return _reduce_reference(loss, w.sum(), reduction), w.sum()


def _class_samples(soft, **extra):
    def samples(rng):
        shapes = ((5, 4), (1, 1 + soft), (4,), (2, 3, 5), (17, 33), (70, 3), (600, 7))
        for k, shape in enumerate(shapes):
            x, c = rng.standard_normal(shape), shape[-1]
            q = rng.dirichlet(np.ones(c), shape[:-1]) if soft else np.asarray(rng.integers(0, c, shape[:-1]))
            if not soft:
                q.reshape(-1)[0] = 0  # one label at least is not ignored
            w = rng.uniform(0.3, 2, c) if k % 2 else None
            yield (x, q, w), {"reduction": (k + 1) % 3}
            for name, value in extra.items():
                yield (x, q, w), {"reduction": (k + 2) % 3, name: value}
        x = rng.choice([-1e4, 0.5, 1e4], (6, 5))
        yield (x, np.eye(5)[[0, 1, 2, 3, 4, 0]] if soft else np.arange(6) % 5, None), {}
        empty = np.zeros((0, 4))
        yield (empty, empty if soft else np.zeros(0, int), None), {"reduction": SUM}

    return samples


def _class_shapes(name, soft, norm, total):
    """Checks target against input and gives the shapes of loss, norm and total."""

    def shapes_of(shapes, reduction, ignore_index=None, label_smoothing=None):
        x, target, _ = shapes
        rows = x[:-1]
        want = x if soft else rows
        if target != want:
            raise ValueError(
                f"{name}: argument 'target': expected shape {want} for input {x} with classes last, got {target}"
            )
        if x[-1] == 0 and math.prod(rows):
            raise ValueError(f"{name}: argument 'input': expected at least one class, got shape {x}")
        loss = rows if reduction == NONE else ()
        if not norm:
            return loss, ()
        return (loss, (*rows, 2), ()) if total else (loss, (*rows, 2))

    return shapes_of


_cross_entropy = Op(
    "cross_entropy", "input[...,C] target[...]:i<C weight[C]?:C", "loss[...] norm[...,2]:C total[]:C",
    kernel="cross_entropy_fwd", bwd="cross_entropy_bwd", saves="input target weight norm total", layout="dense",
    formula=_index_formula, params={"ignore_index": -100, "reduction": MEAN, "label_smoothing": 0.0},
    shape=_class_shapes("cross_entropy", False, True, True),
    reference=_index_reference, samples=_class_samples(False, ignore_index=1, label_smoothing=0.1),
    errors=[((np.zeros((2, 3)), np.array([0, 3]), None), {}, IndexError,
             r"cross_entropy: argument 'target': expected 0 <= value < 3, got 3 at target\[1\]"),
            ((np.zeros((2, 3)), np.array([0, 1, 2]), None), {}, ValueError, r"'target': expected shape .*got \(3,\)"),
            ((np.zeros((2, 3)), np.array([0.0, 1.0]), None), {}, TypeError, r"'target': expected integers")],
    doc="l = −(1−ε)·w[t]·log p[t] − ε/C·Σ w·log p, p = softmax(x); mean: Σ l/Σ w[t]; dx = p − y combined. "
        "norm and total are what backward needs. Source: S0; S1 §1.2; S3 §2.3; label smoothing: arXiv 1512.00567.",
)  # fmt: skip
_cross_entropy_soft = Op(
    "cross_entropy_soft", "input[...,C] target[...,C] weight[C]?:C", "loss[...] norm[...,2]:C",
    kernel="cross_entropy_soft_fwd", bwd="cross_entropy_soft_bwd", saves="input target weight norm", layout="dense",
    formula=_soft_formula, params={"reduction": MEAN, "label_smoothing": 0.0},
    shape=_class_shapes("cross_entropy_soft", True, True, False),
    reference=_soft_reference, samples=_class_samples(True, label_smoothing=0.2),
    errors=[((np.zeros((2, 3)), np.zeros((2, 4)), None), {}, ValueError, r"'target': expected shape .*got \(2, 4\)")],
    doc="l = −Σ q'·w·log p, q' = (1−ε)·q + ε/C, p = softmax(x); mean: Σ l/rows. Source: S1 §1.2; arXiv 1512.00567.",
)  # fmt: skip
_nll_loss = Op(
    "nll_loss", "input[...,C] target[...]:i<C weight[C]?:C", "loss[...] total[]:C",
    kernel="nll_loss_fwd", bwd="nll_loss_bwd", saves="input target weight total", layout="dense",
    bytes="2*lead*item + 8*lead",
    formula=_nll_formula, params={"ignore_index": -100, "reduction": MEAN},
    shape=_class_shapes("nll_loss", False, False, True),
    reference=_nll_reference, samples=_class_samples(False, ignore_index=1),
    errors=[((np.zeros((2, 3)), np.array([-1, 0]), None), {}, IndexError,
             r"nll_loss: argument 'target': expected 0 <= value < 3, got -1 at target\[0\]")],
    doc="l = −w[t]·x[t] for log-probabilities x; mean: Σ l/Σ w[t]. Source: S1 §1.2.",
)  # fmt: skip


# ---- numbers -------------------------------------------------------------------------------------


def _pair_shapes(name):
    """Checks that target has input's shape and that weights broadcast to it; gives the loss's shape."""

    def shapes_of(shapes, reduction, **_):
        x = shapes[0]
        if shapes[1] != x:
            raise ValueError(f"{name}: argument 'target': expected the shape of input {x}, got {shapes[1]}")
        for arg, w in zip(("weight", "pos_weight"), shapes[2:]):
            if w is not None and (len(w) > len(x) or any(m not in (1, n) for m, n in zip(w[::-1], x[::-1]))):
                raise ValueError(f"{name}: argument '{arg}': expected a shape that broadcasts to input {x}, got {w}")
        return [x if reduction == NONE else ()]

    return shapes_of


def _pair_samples(weights=0, unit=False, **extra):
    """input, target and `weights` optional weights; unit: both in (0, 1)."""

    def samples(rng):
        for k, shape in enumerate([(3, 5), (1,), (), (2, 3, 7), (67, 33), (300, 260), (0, 3)]):
            x = np.asarray(rng.uniform(0.1, 0.9, shape) if unit else rng.standard_normal(shape))
            apart = rng.choice([-1, 1], shape) * rng.uniform(0.2, 3, shape)
            t = np.asarray(rng.uniform(0, 1, shape) if unit or weights else x + apart)
            ws = [rng.uniform(0.3, 2, shape[-1:]) if (k + j) % 2 == 0 else None for j in range(weights)]
            params = {"reduction": SUM if x.size == 0 else (k + 1) % 3}
            yield (x, t, *ws), params
            for name, value in extra.items():
                yield (x, t, *ws), {**params, name: value}
        if not unit:
            x = rng.choice([-1e4, 0.5, 1e4], (6, 5))
            yield (x, rng.choice([0.0, 1.0], (6, 5)), *[None] * weights), {"reduction": NONE}

    return samples


_ERRORS = {
    n: [((np.zeros((2, 3)), np.zeros((3,)), *[None] * k), {}, ValueError,
         rf"{n}: argument 'target': expected the shape of input \(2, 3\), got \(3,\)")]
    for n, k in (("mse_loss", 0), ("l1_loss", 0), ("huber_loss", 0), ("binary_cross_entropy", 1),
                 ("binary_cross_entropy_with_logits", 2))
}  # fmt: skip


def _pair(name, loss, reference, weights=0, unit=False, params=None, extra=None, errors=(), **entry):
    """An entry from loss(input, target, *weights, **params) in Tensor operations and in NumPy's."""
    ins = ("input[...] target[...]", " weight[...]?:C", " pos_weight[...]?:C")
    params = params or {}

    def formula(input, *args, reduction, **params):
        y = loss(input, *args, **params)
        return _reduced(y, reduction, float(y.size))

    def as_numpy(x, *args, reduction=MEAN, **params):
        y = reference(x, *[1.0 if a is None else a for a in args], **params)
        return _reduce_reference(y, y.size or np.nan, reduction)

    return Op(
        name, "".join(ins[: weights + 1]), "loss[...]", kernel=name + "_fwd", bwd=name + "_bwd", layout="dense",
        formula=formula, reference=as_numpy, params={"reduction": MEAN, **params}, shape=_pair_shapes(name),
        samples=_pair_samples(weights, unit, **(extra or {})), errors=[*_ERRORS[name], *errors], **entry,
    )  # fmt: skip


def _times(y, weight):
    return y if weight is None else y * weight


def _huber(x, t, delta):
    d = OPS.abs(x - t)
    near = OPS.minimum(d, delta)
    return near * (d - 0.5 * near)


def _huber_reference(x, t, delta=1.0):
    d = np.abs(x - t)
    return np.where(d <= delta, 0.5 * d * d, delta * (d - 0.5 * delta))


_mse_loss = _pair(
    "mse_loss", lambda x, t: (x - t) * (x - t), lambda x, t: (x - t) ** 2,
    doc="l = (x − t)²; the half sum of squares is 0.5·sum. Source: S0; S1 §1.2; S3 §2.3.",
)  # fmt: skip
_l1_loss = _pair(
    "l1_loss", lambda x, t: OPS.abs(x - t), lambda x, t: np.abs(x - t),
    doc="l = |x − t|; the derivative at 0 is 0. Source: S1 §1.2; S3 §2.3.",
)  # fmt: skip
_huber_loss = _pair(
    "huber_loss", _huber, _huber_reference, params={"delta": 1.0}, extra={"delta": 0.15},
    doc="l = d²/2 where d = |x − t| ≤ delta, else delta·(d − delta/2) (Huber 1964). Source: S1 §1.2.",
)  # fmt: skip


def _log_of(p):
    """ln p, not below −100, with a derivative of 0 where p is 0."""
    zero = OPS.eq(p, 0.0)
    return OPS.maximum(OPS.where(zero, -100.0, OPS.log(OPS.where(zero, 1.0, p))), -100.0)


def _log_rest(p):
    """ln(1 − p), likewise."""
    one = OPS.eq(p, 1.0)
    return OPS.maximum(OPS.where(one, -100.0, OPS.log1p(-OPS.where(one, 0.0, p))), -100.0)


def _bce(x, t, weight):
    return _times(-(t * _log_of(x) + (1.0 - t) * _log_rest(x)), weight)


def _bce_back(dloss, input, target, weight, reduction):
    g = _times(dloss / float(input.size) if reduction == MEAN else dloss, weight)
    dx = g * (input - target) / OPS.maximum(input * (1.0 - input), 1e-12)
    return dx, g * (_log_rest(input) - _log_of(input))


def _bce_reference(x, t, weight=1.0):
    with np.errstate(divide="ignore"):
        return -weight * (t * np.maximum(np.log(x), -100) + (1 - t) * np.maximum(np.log1p(-x), -100))


_binary_cross_entropy = _pair(
    "binary_cross_entropy", _bce, _bce_reference, weights=1, unit=True, saves="input target weight",
    bwd_formula=_bce_back, domain={"input": (0.1, 0.9)}, valid={"input": "0 <= value <= 1"},
    errors=[((np.array([0.5, 1.5]), np.zeros(2), None), {}, ValueError,
             r"binary_cross_entropy: argument 'input': expected 0 <= value <= 1, got 1.5 at input\[1\]")],
    doc="l = −w·(t·ln x + (1−t)·ln(1−x)), logarithms not below −100; dx = w·(x−t)/max(x(1−x), 1e-12). "
        "Source: S0; S1 §1.2; S3 §2.3.",
)  # fmt: skip


def _bce_logits(x, t, weight, pos_weight):
    positive = _times(t * OPS.softplus(-x, threshold=math.inf), pos_weight)
    return _times((1.0 - t) * OPS.softplus(x, threshold=math.inf) + positive, weight)


_binary_cross_entropy_with_logits = _pair(
    "binary_cross_entropy_with_logits", _bce_logits,
    lambda x, t, w=1.0, pw=1.0: w * ((1 - t) * np.logaddexp(0, x) + pw * t * np.logaddexp(0, -x)), weights=2,
    doc="l = w·((1−t)·ln(1 + eˣ) + pw·t·ln(1 + e⁻ˣ)), finite for every finite x; dx = w·((1 + (pw−1)t)·σ(x) − pw·t). "
        "Source: S0; S1 §1.2.",
)  # fmt: skip


# ---- functions -----------------------------------------------------------------------------------


def _number(reduction, what):
    try:
        return REDUCTIONS[reduction]
    except (KeyError, TypeError):
        raise ValueError(f"{what}: argument 'reduction': expected 'none', 'mean' or 'sum', got {reduction!r}") from None


def _classes_last(x):
    """[N,C,d1,…] as [N,d1,…,C]."""
    return OPS.permute(x, axes=(0, *range(2, x.ndim), 1))


def _check_target(what, shape, target, classes):
    if target.shape != shape:
        raise ValueError(f"{what}: argument 'target': expected shape {shape} for input {classes}, got {target.shape}")


def _tensor(x):
    return x if isinstance(x, Tensor) else Tensor(x)


def cross_entropy(input, target, weight=None, ignore_index=-100, reduction="mean", label_smoothing=0.0):
    """−ln softmax(input) at the labels, by label or by class probabilities (S0; S1 §1.2).

    Shapes:
        input: logits [C], [N,C] or [N,C,d1,…]. target: labels without the dimension C, or floating class
        probabilities of input's shape. weight: [C].
        Result: 0-d, or with "none" one loss a label (0 where it is ignore_index).

    The mean divides by the sum of the weights of the labels that count; by the number of rows for
    probabilities. NaN where nothing counts, as in PyTorch.

    Raises:
        IndexError: a label neither in [0, C) nor ignore_index. TypeError: labels that are no integers.
        ValueError: shapes that do not fit, another reduction, label_smoothing outside of [0, 1].
    """
    input, target, code = _tensor(input), _tensor(target), _number(reduction, "cross_entropy")
    shape = input.shape
    if not shape:
        raise ValueError("cross_entropy: argument 'input': expected shape [C], [N,C] or [N,C,...], got ()")
    if not 0.0 <= label_smoothing <= 1.0:
        raise ValueError(f"cross_entropy: argument 'label_smoothing': expected 0 to 1, got {label_smoothing}")
    if target.shape == shape:
        if target.dtype.kind != "f":
            raise TypeError(f"cross_entropy: argument 'target': expected floating class probabilities, for it has "
                            f"the shape {shape} of input, got dtype {target.dtype}")  # fmt: skip
        if len(shape) > 2:
            input, target = _classes_last(input), _classes_last(target)
        return _cross_entropy_soft(input, target, weight, reduction=code, label_smoothing=label_smoothing)[0]
    if len(shape) > 2:
        _check_target("cross_entropy", shape[:1] + shape[2:], target, shape)
        input = _classes_last(input)
    return _cross_entropy(input, target, weight, ignore_index=ignore_index, reduction=code,
                          label_smoothing=label_smoothing)[0]  # fmt: skip


def nll_loss(input, target, weight=None, ignore_index=-100, reduction="mean"):
    """−input at the labels, for log-probabilities. Shapes, weights and errors as cross_entropy's with labels."""
    input, target, code = _tensor(input), _tensor(target), _number(reduction, "nll_loss")
    shape = input.shape
    if not shape:
        raise ValueError("nll_loss: argument 'input': expected shape [C], [N,C] or [N,C,...], got ()")
    if len(shape) > 2:
        _check_target("nll_loss", shape[:1] + shape[2:], target, shape)
        input = _classes_last(input)
    return _nll_loss(input, target, weight, ignore_index=ignore_index, reduction=code)[0]


def mse_loss(input, target, reduction="mean"):
    """(input − target)², reduced (S0; S1 §1.2).

    Shapes: input and target alike; result 0-d, or theirs with "none".

    Raises:
        ValueError: shapes that differ, another reduction.
    """
    return _mse_loss(input, target, reduction=_number(reduction, "mse_loss"))


def l1_loss(input, target, reduction="mean"):
    """|input − target|, reduced; the derivative at 0 is 0. Shapes and errors as mse_loss's (S1 §1.2)."""
    return _l1_loss(input, target, reduction=_number(reduction, "l1_loss"))


def huber_loss(input, target, reduction="mean", delta=1.0):
    """d²/2 where d = |input − target| ≤ delta, else delta·(d − delta/2). Shapes and errors as mse_loss's.

    Raises:
        ValueError: delta ≤ 0.
    """
    if delta <= 0:
        raise ValueError(f"huber_loss: argument 'delta': expected a number > 0, got {delta}")
    return _huber_loss(input, target, reduction=_number(reduction, "huber_loss"), delta=delta)


def smooth_l1_loss(input, target, reduction="mean", beta=1.0):
    """huber_loss/beta: d²/(2·beta) where d = |input − target| < beta, else d − beta/2; l1_loss for beta = 0.

    Raises:
        ValueError: beta < 0, and as mse_loss.
    """
    if beta < 0:
        raise ValueError(f"smooth_l1_loss: argument 'beta': expected a number >= 0, got {beta}")
    code = _number(reduction, "smooth_l1_loss")
    if beta == 0:
        return _l1_loss(input, target, reduction=code)
    return _huber_loss(input, target, reduction=code, delta=beta) / float(beta)


def binary_cross_entropy(input, target, weight=None, reduction="mean"):
    """−(t·ln x + (1−t)·ln(1−x)) of probabilities x, logarithms not below −100 (S0; S1 §1.2).

    Shapes: input and target alike, weight broadcasts to them; result 0-d, or theirs with "none". The mean
    divides by the number of elements.

    Raises:
        ValueError: an input outside of [0, 1], shapes that do not fit, another reduction.
    """
    return _binary_cross_entropy(input, target, weight, reduction=_number(reduction, "binary_cross_entropy"))


def binary_cross_entropy_with_logits(input, target, weight=None, reduction="mean", pos_weight=None):
    """binary_cross_entropy of σ(input), finite for every finite input (S0; S1 §1.2).

    pos_weight multiplies the term of t = 1. Shapes and errors as binary_cross_entropy's; pos_weight
    broadcasts to input.
    """
    code = _number(reduction, "binary_cross_entropy_with_logits")
    return _binary_cross_entropy_with_logits(input, target, weight, pos_weight, reduction=code)


# ---- overlap of masks: in Tensor operations, for the sums of an image are little work --------------------


def _overlap(what, input, target, smooth, reduction):
    """(Σ p·t, Σ p + Σ t, the reduction's number), sums over the image of each item and channel."""
    input, target, code = _tensor(input), _tensor(target), _number(reduction, what)
    if input.ndim < 3:
        raise ValueError(f"{what}: argument 'input': expected shape (N, C, …), got {input.shape}")
    _check_target(what, input.shape, target, input.shape)
    if smooth < 0:
        raise ValueError(f"{what}: argument 'smooth': expected a number >= 0, got {smooth}")
    shape = input.shape[:2]
    to = (*shape, *(1,) * (input.ndim - 2))
    both = OPS.sum_to(input * target, shape=to).reshape(shape)
    return both, OPS.sum_to(input + target, shape=to).reshape(shape), code


def dice_loss(input, target, smooth=1.0, reduction="mean"):
    """1 − (2 Σ p·t + smooth)/(Σ p + Σ t + smooth), the soft Dice loss of each item and channel.

    Shapes:
        input: probabilities p (N, C, …). target: masks or probabilities t, alike.
        Result: 0-d, or (N, C) with "none".

    smooth: keeps small and empty masks stable; with 0 two empty masks give NaN.

    Raises:
        ValueError: shapes that do not fit, another reduction, smooth below 0.

    Source: S1 §1.2.6; Milletari, Navab and Ahmadi, arXiv 1606.04797.
    """
    both, total, code = _overlap("dice_loss", input, target, smooth, reduction)
    loss = 1.0 - (2.0 * both + smooth) / (total + smooth)
    return _reduced(loss, code, float(loss.size or math.nan))


def iou_loss(input, target, smooth=1.0, reduction="mean"):
    """1 − (Σ p·t + smooth)/(Σ p + Σ t − Σ p·t + smooth), the soft IoU or Jaccard loss; otherwise as dice_loss.

    Source: S1 §1.2.6; Rahman and Wang, ISVC 2016.
    """
    both, total, code = _overlap("iou_loss", input, target, smooth, reduction)
    loss = 1.0 - (both + smooth) / (total - both + smooth)
    return _reduced(loss, code, float(loss.size or math.nan))
