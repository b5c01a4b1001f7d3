"""What Trainer looks at before the first step, so that faults show there and name what is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..arrays import as_count
from ..nn.module import Module
from ..optim.regularizers import Penalty
from ..optim.schedules import LRScheduler, ReduceLROnPlateau
from ..tensor import Tensor
from .inputs import ArrayFeed
from .metrics import takes_labels
from .step import applied, eval_mode, weighted

if TYPE_CHECKING:
    from .trainer import Trainer


def check_parts(model, loss, optimizer) -> None:
    """Raises TypeError for what is no model, loss or optimizer."""
    if not isinstance(model, Module):
        raise TypeError(f"Trainer: argument 'model': expected a Module, got {type(model).__name__}")
    if not callable(loss):
        raise TypeError(f"Trainer: argument 'loss': expected a loss or a function, got {type(loss).__name__}")
    if optimizer is not None and not (hasattr(optimizer, "step") and hasattr(optimizer, "zero_grad")):
        raise TypeError(f"Trainer: argument 'optimizer': expected an optimizer, got {type(optimizer).__name__}")


def check_options(optimizer, schedule, every, accumulate, max_norm, clip_value, ema, penalty) -> None:
    """Raises for options out of range."""
    if schedule is not None and not isinstance(schedule, LRScheduler):
        raise TypeError(f"Trainer: argument 'schedule': expected one of pynn.optim.lr_scheduler, got {schedule!r}")
    if schedule is not None and schedule.optimizer is not optimizer:
        raise ValueError("Trainer: argument 'schedule': expected one of the Trainer's optimizer, got one of another")
    if every not in ("epoch", "step"):
        raise ValueError(f"Trainer: argument 'schedule_every': expected 'epoch' or 'step', got {every!r}")
    if every == "step" and isinstance(schedule, ReduceLROnPlateau):
        raise ValueError("Trainer: argument 'schedule_every': expected 'epoch' for ReduceLROnPlateau, got 'step'")
    as_count("Trainer", "accumulate", accumulate)
    for name, value in (("max_norm", max_norm), ("clip_value", clip_value)):
        if value is not None and not value >= 0:
            raise ValueError(f"Trainer: argument '{name}': expected a number >= 0, got {value!r}")
    if ema is not None and not 0 <= ema < 1:
        raise ValueError(f"Trainer: argument 'ema': expected a number in [0, 1), got {ema!r}")
    if penalty is not None and not isinstance(penalty, Penalty):
        raise TypeError(
            f"Trainer: argument 'penalty': expected a pynn.optim.Penalty, such as L2(1e-3), got {penalty!r}"
        )


def check_fit_arguments(epochs, split, validation_data, sampler, X, y) -> None:
    """Raises ValueError for numbers out of range and arguments that exclude one another."""
    as_count("fit", "epochs", epochs, 0)
    if not 0 <= split < 1:
        raise ValueError(f"fit: argument 'validation_split': expected a number in [0, 1), got {split!r}")
    if split and (validation_data is not None or sampler is not None or y is None):
        raise ValueError(
            "fit: validation_split sets samples of arrays aside: expected y, no validation_data, no batches, and no "
            "sampler, which counts all samples"
        )


def check_optimizer(trainer: Trainer) -> None:
    """Raises ValueError where the optimizer would train nothing of the model."""
    own = {id(p) for p in trainer.model.parameters()}
    groups = getattr(trainer.optimizer, "param_groups", None)
    if groups is not None and not any(id(p) in own for g in groups for p in g["params"]):
        raise ValueError("fit: the optimizer holds none of the model's parameters (was the model copied?)")


def common_length(what: str, arrays: Mapping[str, np.ndarray]) -> int:
    """The samples that all arrays have; ValueError where they differ."""
    lengths = {k: len(a) for k, a in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"{what}: expected arrays of one length, got {lengths}")
    return next(iter(lengths.values()))


def output(y: Any, n: int | None = None) -> Any:
    """y, if it is a Tensor or a tuple, list or dict of them; raises TypeError. ValueError for no row a sample of n."""
    parts = y.values() if isinstance(y, Mapping) else y if isinstance(y, (tuple, list)) and len(y) else (y,)
    if not all(isinstance(part, Tensor) for part in parts):
        raise TypeError(f"Trainer: expected the model to return Tensors, got {type(y).__name__}")
    if n is not None and (bad := [part.shape for part in parts if part.shape[:1] != (n,)]):
        raise ValueError(f"predict: expected outputs with a row for each of {n} samples, got shape {bad[0]}")
    return y


def check_alike(feed, validation) -> None:
    """Raises ValueError where validation data have samples of another shape."""
    if not isinstance(feed, ArrayFeed):
        return
    both = zip(feed.arrays.items(), validation.arrays.values())
    for (name, a), b in both:
        if name != "sample_weight" and a.shape[1:] != b.shape[1:]:
            raise ValueError(
                f"fit: validation_data: expected samples of {name} of shape {a.shape[1:]}, got {b.shape[1:]}"
            )


def check_samples(trainer: Trainer, what: str, feed) -> None:
    """Tries two samples without training, and all targets against their outputs: faults show before any step.

    Batches of the user's are not touched: they may be different ones each time.
    """
    if not isinstance(feed, ArrayFeed):
        return
    loss = trainer.loss
    x, t, w = feed.first(2)
    with eval_mode(trainer.model):
        y = output(applied(trainer.model, x))
        if isinstance(y, Tensor) and isinstance(t, Tensor):
            _check_targets(what, loss, y, t, feed.targets()[0])
        e = loss(y, t) if w is None else weighted(loss)(y, t, w)
    if not isinstance(e, Tensor) or e.size != 1:
        got = f"shape {e.shape}" if isinstance(e, Tensor) else type(e).__name__
        raise ValueError(f"{what}: expected a loss that is one number, got {got} (reduction='mean' averages)")


def _check_targets(what: str, loss, y: Tensor, t: Tensor, targets: np.ndarray) -> None:
    if takes_labels(loss):
        if t.dtype.kind == "f" and t.shape != y.shape:
            raise ValueError(
                f"{what}: argument 'y': expected integer labels, or probabilities of the shape of the model's "
                f"output, {_samples_of(y)}, got floats of shape {_samples_of(t)}"
            )
        if y.ndim > 1:
            _check_labels(what, targets, y.shape[1], getattr(loss, "ignore_index", -100))
    elif isinstance(loss, Module) and y.shape != t.shape:
        raise ValueError(
            f"{what}: expected y of the shape of the model's output, {_samples_of(y)}, got {_samples_of(t)}"
        )


def _check_labels(what: str, labels: np.ndarray, classes: int, ignored: int) -> None:
    """Raises IndexError for the first label that is no class."""
    if labels.dtype.kind not in "iu":
        return  # the loss says what it expects
    if labels.size and labels.min() >= 0 and labels.max() < classes:
        return
    bad = (labels != ignored) & ((labels < 0) | (labels >= classes))
    if bad.any():
        where = np.unravel_index(int(bad.argmax()), labels.shape)
        place = f"y[{', '.join(map(str, where))}]"
        raise IndexError(f"{what}: argument 'y': expected labels 0 <= y < {classes}, got {labels[where]} at {place}")


def _samples_of(x: Tensor) -> str:
    return f"({', '.join(['N', *map(str, x.shape[1:])])})"
