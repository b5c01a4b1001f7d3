"""Trainer: fit, evaluate, predict over arrays."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any

import numpy as np

from .. import _core
from ..autograd import enable_grad, no_grad
from ..data.arrays import check_finite, real_array
from ..data.loader import DataLoader, TensorDataset
from ..nn.module import Module
from ..random import Generator
from ..tensor import Tensor
from .history import History
from .metrics import accuracy_for, takes_labels, total_of
from .progress import Progress
from .step import Step

__all__ = ["Trainer"]

BATCH_BYTES = 4 << 20  # a batch of predict and evaluate takes about this much of the input …
BATCH_ROWS = 1024  # … and no more samples than this
HELD_BATCHES, HELD_BYTES = 32, 1 << 20  # outputs held back for the metrics


class _Totals:
    """Running sums of an epoch. Outputs are held back for the metrics, which take many batches at a time."""

    def __init__(self, metrics: dict[str, Callable], per_sample: bool):
        self._metrics = metrics
        self._per_sample = per_sample  # the loss is a mean over its batch, not a sum
        self._loss = 0.0
        self._seen = 0
        self._held: list[tuple[np.ndarray, np.ndarray]] = []
        self._held_bytes = 0
        self._sums = {name: [0.0, 0] for name in metrics}

    def add(self, loss: float, output: Tensor, target: Tensor) -> None:
        n = len(output)
        self._loss += loss * n if self._per_sample else loss
        self._seen += n
        if self._metrics:
            y, t = _core.read_view(output), _core.read_view(target)
            self._held.append((y, t))
            self._held_bytes += y.nbytes + t.nbytes
            if len(self._held) == HELD_BATCHES or self._held_bytes > HELD_BYTES:
                self._count()

    def _count(self) -> None:
        """Gives the batches held back to the metrics."""
        for name, metric in self._metrics.items() if self._held else ():
            value, count = metric(self._held)
            pair = self._sums[name]
            pair[0] += value
            pair[1] += count
        self._held.clear()
        self._held_bytes = 0

    def means(self, prefix: str = "") -> dict[str, float]:
        """The loss and each metric, averaged over the samples so far."""
        self._count()
        figures = {prefix + "loss": self._loss / self._seen if self._seen else math.nan}
        for name, (value, count) in self._sums.items():
            figures[prefix + name] = float(value / count) if count else math.nan
        return figures


class Trainer:
    """Trains and applies a model on arrays.

    Args:
        model: a Module.
        loss: loss(output, target) → a scalar tensor, such as nn.CrossEntropyLoss().
        optimizer: one of pynn.optim over the model's parameters; fit needs it, the rest does not.
        metrics: "accuracy", and functions metric(output, target) → mean over a batch, of NumPy arrays.
            "auto" is the accuracy where the loss is one of classification; None is none.
        seed: of the order of the samples. None draws it from the default generator, which dropout and
            initialisation use too: pynn.manual_seed then repeats everything.
        compile: replay recorded steps (pynn.compile): the same bits, sooner. A step that cannot be recorded is
            run as it is, after one warning.

    Arrays may have any real dtype: inputs become the parameters' dtype, class labels int64.
    """

    def __init__(
        self,
        model: Module,
        loss: Callable,
        optimizer=None,
        metrics: Sequence[str | Callable] | str | None = "auto",
        seed: int | None = None,
        *,
        compile: bool = True,
    ):
        if not isinstance(model, Module):
            raise TypeError(f"Trainer: argument 'model': expected a Module, got {type(model).__name__}")
        if not callable(loss):
            raise TypeError(f"Trainer: argument 'loss': expected a loss or a function, got {type(loss).__name__}")
        if optimizer is not None and not (hasattr(optimizer, "step") and hasattr(optimizer, "zero_grad")):
            raise TypeError(f"Trainer: argument 'optimizer': expected an optimizer, got {type(optimizer).__name__}")
        self.model, self.loss, self.optimizer = model, loss, optimizer
        self._metrics = _metrics_of(metrics, loss)
        self._per_sample = getattr(loss, "reduction", "mean") == "mean"
        self._generator = None if seed is None else Generator(seed)
        self._compile = compile
        self._phases: Step | None = None
        self.steps = 0  # made so far

    @property
    def replayed(self) -> int:
        """How many of the steps so far were replayed from a record, forward, backward and update."""
        return self._phases.replayed if self._phases else 0

    # ---- the three verbs -------------------------------------------------------------------------

    def fit(
        self,
        X,
        y,
        epochs: int = 10,
        batch_size: int = 32,
        validation_data: tuple | None = None,
        shuffle: bool = True,
        progress: bool = True,
    ) -> History:
        """Trains the model on the samples X[k] → y[k].

        Args:
            X, y: arrays with samples along the first dimension.
            epochs: how often every sample is seen.
            batch_size: samples a step.
            validation_data: (X, y) measured after each epoch, never trained on.
            shuffle: a new order each epoch.
            progress: show a progress bar.

        Raises:
            TypeError: text, objects, complex numbers. ValueError: no samples, different lengths, NaN or Inf
            (where), shapes that do not fit; IndexError: a label that is no class (which, where). All of
            these before the first step. FloatingPointError: the loss became NaN or Inf; the parameters are
            those before that step.
        """
        if self.optimizer is None:
            raise ValueError("fit: the Trainer was made without an optimizer")
        if isinstance(epochs, bool) or not isinstance(epochs, (int, np.integer)) or epochs < 0:
            raise ValueError(f"fit: argument 'epochs': expected an integer >= 0, got {epochs!r}")
        self._check_optimizer()
        batches = self._batches("fit", X, y, batch_size, shuffle)
        validation = self._validation(batches, validation_data)
        self._check_fit("fit", batches)
        if validation is not None:
            self._check_fit("fit: validation_data", validation)
        history, shown = History(), Progress(progress, epochs, len(batches))
        try:
            for epoch in range(1, epochs + 1):
                shown.epoch(epoch)
                start = perf_counter()
                figures = self._epoch(epoch, batches, shown)
                if validation is not None:
                    figures.update(self._measure(validation).means("val_"))
                figures["seconds"] = perf_counter() - start
                history.add(**figures)
                shown.epoch_done(figures)
        finally:
            shown.close()
        return history

    def evaluate(self, X, y, batch_size: int | None = None) -> dict[str, float]:
        """The loss and the metrics on the samples X[k] → y[k], in eval mode, without recording.

        Raises:
            as fit.
        """
        batches = self._batches("evaluate", X, y, batch_size, False)
        self._check_fit("evaluate", batches)
        return self._measure(batches).means()

    def predict(self, X, batch_size: int | None = None) -> np.ndarray:
        """The model's outputs for the samples X[k], in eval mode, without recording; no samples give no rows.

        Raises:
            TypeError: text, objects, complex numbers. ValueError: NaN or Inf (where), shapes that do not fit.
        """
        x = self._inputs("predict", X)
        loader = DataLoader(x, _rows(x) if batch_size is None else batch_size, dtypes=(self._input_dtype(x),))
        with _eval_mode(self.model):
            if len(x) == 0:
                return _output(self.model(_core.from_array(x, self._dtype()))).numpy_copy()
            result = None
            at = 0
            for (batch,) in loader:
                y = _output(self.model(batch))
                if result is None:
                    result = np.empty((len(x), *y.shape[1:]), y.dtype)
                result[at : at + len(batch)] = y._array()
                at += len(batch)
        return result

    # ---- the loops ---------------------------------------------------------------------------------

    def _epoch(self, epoch: int, batches: DataLoader, shown: Progress) -> dict[str, float]:
        """One pass over the batches with a step for each."""
        totals = _Totals(self._metrics, self._per_sample)
        self.model.train()
        phases = self._phases_of_a_step()
        with enable_grad():
            for k, (x, t) in enumerate(batches):
                e, y, rows = phases.differentiate(x, t)
                value = e.item()
                if not math.isfinite(value):
                    raise FloatingPointError(
                        f"fit: the loss became {value} in epoch {epoch}, step {k + 1}; a smaller learning rate, "
                        "clipping or pynn.detect_anomaly() may help. The parameters are those before this step"
                    )
                phases.update(rows)
                self.steps += 1
                totals.add(value, y, t)
                shown.step(totals)
        return totals.means()

    def _phases_of_a_step(self) -> Step:
        if self._phases is None or not self._phases.belong_to(self.model, self.loss, self.optimizer):
            self._phases = Step(self.model, self.loss, self.optimizer, self._compile)
        return self._phases

    def _measure(self, batches: DataLoader) -> _Totals:
        totals = _Totals(self._metrics, self._per_sample)
        with _eval_mode(self.model):
            for x, t in batches:
                y = self.model(x)
                totals.add(self.loss(y, t).item(), y, t)
        return totals

    # ---- the door ------------------------------------------------------------------------------------

    def _dtype(self) -> np.dtype:
        """The dtype of the model's parameters."""
        return next((p.dtype for p in self.model.parameters() if p.dtype.kind == "f"), np.dtype(np.float32))

    def _inputs(self, what: str, X) -> np.ndarray:
        arr = real_array(X, f"{what}: argument 'X'")
        if arr.dtype.kind in "iu" and len(arr) and self._takes_numbers(arr[:2]):
            return arr.astype(np.int64, copy=False)
        return _cast(arr, self._dtype(), f"{what}: argument 'X'", "X")

    def _input_dtype(self, x: np.ndarray) -> np.dtype:
        return x.dtype if x.dtype == np.int64 else self._dtype()

    def _takes_numbers(self, x: np.ndarray) -> bool:
        """Whether the model takes integers for what they are, as tables do, and refuses floats."""
        with _eval_mode(self.model):
            for dtype in (self._dtype(), np.int64):
                with contextlib.suppress(TypeError):
                    self.model(_core.from_array(x, dtype))
                    return dtype is np.int64
        return False

    def _targets(self, what: str, y) -> tuple[np.ndarray, np.dtype]:
        """y with the dtype of its batches: labels int64, everything else as the parameters."""
        name = f"{what}: argument 'y'"
        arr = real_array(y, name)
        if arr.dtype.kind in "iu" and (takes_labels(self.loss) or not isinstance(self.loss, Module)):
            if arr.dtype == np.uint64 and arr.size and arr.max() > np.iinfo(np.int64).max:
                raise ValueError(f"{name}: expected labels that int64 holds, got {arr.max()}")
            return arr.astype(np.int64, copy=False), np.dtype(np.int64)
        return _cast(arr, self._dtype(), name, "y"), self._dtype()

    def _batches(self, what: str, X, y, batch_size: int | None, shuffle: bool) -> DataLoader:
        """Checked batches of (X, y)."""
        x = self._inputs(what, X)
        t, t_dtype = self._targets(what, y)
        if len(x) != len(t):
            raise ValueError(f"{what}: expected X and y of one length, got {len(x)} and {len(t)} samples")
        if len(x) == 0:
            raise ValueError(f"{what}: expected at least one sample, got none (X has shape {x.shape})")
        size = _rows(x) if batch_size is None else batch_size
        return DataLoader(
            TensorDataset(x, t), size, shuffle, generator=self._generator, dtypes=(self._input_dtype(x), t_dtype)
        )

    def _validation(self, batches: DataLoader, data) -> DataLoader | None:
        if data is None:
            return None
        if not isinstance(data, (tuple, list)) or len(data) != 2:
            raise TypeError(f"fit: argument 'validation_data': expected (X, y), got {type(data).__name__}")
        found = self._batches("fit: validation_data", data[0], data[1], None, False)
        for name, a, b in zip("Xy", batches.dataset.arrays, found.dataset.arrays, strict=True):
            if a.shape[1:] != b.shape[1:]:
                raise ValueError(
                    f"fit: validation_data: expected samples of {name} of shape {a.shape[1:]}, got {b.shape[1:]}"
                )
        return found

    def _check_optimizer(self) -> None:
        own = {id(p) for p in self.model.parameters()}
        groups = getattr(self.optimizer, "param_groups", None)
        if groups is not None and not any(id(p) in own for g in groups for p in g["params"]):
            raise ValueError("fit: the optimizer holds none of the model's parameters (was the model copied?)")

    def _check_fit(self, what: str, batches: DataLoader) -> None:
        """Tries two samples without training, and all targets against their outputs: faults show before any step."""
        targets = batches.dataset.arrays[1]
        x, t = batches.first(2)
        with _eval_mode(self.model):
            y = _output(self.model(x))
            if takes_labels(self.loss):
                if t.dtype.kind == "f" and t.shape != y.shape:
                    raise ValueError(
                        f"{what}: argument 'y': expected integer labels, or probabilities of the shape of the model's "
                        f"output, {_samples_of(y)}, got floats of shape {_samples_of(t)}"
                    )
                if y.ndim > 1:
                    _check_labels(what, targets, y.shape[1], getattr(self.loss, "ignore_index", -100))
            elif isinstance(self.loss, Module) and y.shape != t.shape:
                raise ValueError(
                    f"{what}: expected y of the shape of the model's output, {_samples_of(y)}, got {_samples_of(t)}"
                )
            e = self.loss(y, t)
        if not isinstance(e, Tensor) or e.size != 1:
            got = f"shape {e.shape}" if isinstance(e, Tensor) else type(e).__name__
            raise ValueError(f"{what}: expected a loss that is one number, got {got} (reduction='mean' averages)")


def _metrics_of(metrics, loss) -> dict[str, Callable]:
    """{name: function(pairs of output and target) → (sum, count)}."""
    if metrics is None:
        return {}
    accuracy = accuracy_for(loss)
    if isinstance(metrics, str):
        if metrics == "auto":
            return {} if accuracy is None else {"accuracy": accuracy}
        metrics = (metrics,)
    found = {}
    for m in metrics:
        if m == "accuracy":
            if accuracy is None:
                raise ValueError(f"Trainer: metric 'accuracy' needs a loss of classification, got {loss!r}")
            found["accuracy"] = accuracy
        elif callable(m):
            found[getattr(m, "__name__", type(m).__name__)] = total_of(m)
        else:
            raise ValueError(f"Trainer: argument 'metrics': expected 'accuracy' or functions, got {m!r}")
    return found


def _cast(arr: np.ndarray, dtype: np.dtype, what: str, name: str) -> np.ndarray:
    """arr as dtype, finite. What is smaller than dtype stays as it is and is cast a batch at a time."""
    if arr.dtype == dtype or (arr.dtype.kind in "iub" and arr.itemsize < dtype.itemsize):
        cast = arr
    else:
        with np.errstate(over="ignore"):  # what becomes Inf is reported with its place
            cast = arr.astype(dtype)
    check_finite(cast, what, name, arr)
    return cast


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


def _rows(x: np.ndarray) -> int:
    """Samples in a batch of predict and evaluate."""
    row = max(1, x[:1].nbytes)
    return max(1, min(BATCH_ROWS, BATCH_BYTES // row))


def _samples_of(x: Tensor) -> str:
    return f"({', '.join(['N', *map(str, x.shape[1:])])})"


def _output(y: Any) -> Tensor:
    if not isinstance(y, Tensor):
        raise TypeError(f"Trainer: expected the model to return one Tensor, got {type(y).__name__}")
    return y


@contextlib.contextmanager
def _eval_mode(model: Module):
    """Evaluation without recording; each module gets back the mode that it had."""
    training = [m for m in model.modules() if m.training]
    for m in training:
        m.training = False
    try:
        with no_grad():
            yield
    finally:
        for m in training:
            m.training = True
