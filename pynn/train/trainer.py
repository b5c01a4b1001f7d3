"""Trainer: fit, evaluate, predict."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from .. import _core
from ..arrays import as_count, real_array
from ..autograd import no_grad
from ..data.samplers import class_weights
from ..nn.module import Module
from ..optim.regularizers import Penalty
from ..optim.schedules import LRScheduler, ReduceLROnPlateau
from ..random import Generator, default_generator, stream_of
from ..tensor import Tensor
from . import checks
from .callbacks import Callbacks
from .checkpoint import load_checkpoint, save_checkpoint
from .history import History
from .inputs import ArrayFeed, Door, StreamFeed, checked_weights, is_stream, nested, rows_of_a_batch
from .loop import measure, run_on
from .metrics import Metric, metrics_of, takes_labels
from .progress import Progress
from .run import Run
from .step import Step, applied, eval_mode, weighted
from .totals import Totals

__all__ = ["Trainer"]


class Trainer:
    """Trains and applies a model.

    Args:
        model: a Module.
        loss: loss(output, target) → a scalar tensor, such as nn.CrossEntropyLoss().
        optimizer: one of pynn.optim over the model's parameters; fit needs it, the rest does not.
        metrics: "accuracy", "top5" (or another number), "precision", "recall", "f1", "auc", "mae", "rmse", "r2", and
            functions f(y, ŷ) of all targets and outputs of an epoch, as NumPy arrays. "auto" is the accuracy where
            the loss is one of classification; None is none.
        seed: of the order of the samples. None draws it from the default generator, which dropout and
            initialisation use too: pynn.manual_seed then repeats everything.
        compile: replay recorded steps (pynn.compile): the same bits, sooner. A step that cannot be recorded is
            run as it is, after one warning.
        schedule: one of pynn.optim.lr_scheduler, stepped after each "epoch" or "step" (schedule_every).
        accumulate: batches whose gradients make one step, as one batch of all their samples would.
        max_norm, clip_value: clip gradients by their common norm, or by element.
        penalty: one of pynn.optim's, such as L1(1e-4) + L2(1e-3, on="weight"), or a Penalty of your own, whose value
            for the model and the batch's input is added to the loss. history["loss"] has it in, "val_loss" has not.
        ema: decay of running means of the parameters, which evaluate, predict and validation then use; None: none.
        callbacks: see pynn.train.callbacks.

    Arrays may have any real dtype: inputs become the parameters' dtype, class labels int64. Integers stay what they
    are where the model looks them up in a table. A tuple of arrays is several inputs, model(*X); a dict inputs by
    name, model(**X); a DataFrame is one array. Instead of arrays fit and evaluate take anything that can be iterated
    over again and again, such as a DataLoader or a list: batches (x, y), (x, y, sample_weight), or dicts of which "y"
    (or "target", "labels") is the target.

    Attributes:
        run: the fit that is going on, or went on last; see pynn.train.Run. history: its History.
        steps: updates made; replayed: those of them that were replayed from a record.
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
        schedule: LRScheduler | None = None,
        schedule_every: str = "epoch",
        accumulate: int = 1,
        max_norm: float | None = None,
        clip_value: float | None = None,
        ema: float | None = None,
        penalty: Penalty | None = None,
        callbacks: Sequence = (),
    ):
        checks.check_parts(model, loss, optimizer)
        checks.check_options(optimizer, schedule, schedule_every, accumulate, max_norm, clip_value, ema, penalty)
        self.model, self.loss, self.optimizer = model, loss, optimizer
        self.metrics: list[Metric] = metrics_of(metrics, loss)
        self._validation_metrics = metrics_of(metrics, loss)  # state of their own
        self._per_sample = getattr(loss, "reduction", "mean") == "mean"
        self._generator = None if seed is None else Generator(seed)
        self._compile = compile
        self.schedule, self.schedule_every, self.accumulate = schedule, schedule_every, accumulate
        self.max_norm, self.clip_value, self.ema, self.penalty = max_norm, clip_value, ema, penalty
        self._average = {p: p.detach().clone() for p in model.parameters()} if ema is not None else None
        self.callbacks = list(callbacks)
        self._callbacks: Callbacks | None = None
        self._loaded_callbacks: list | None = None
        self._made_step: Step | None = None
        self._door: Door | None = None
        self.run: Run | None = None
        self.steps = 0

    @property
    def replayed(self) -> int:
        """How many of the steps so far were replayed from a record, forward, backward and update."""
        return self._made_step.replayed if self._made_step else 0

    @property
    def history(self) -> History:
        """What the last fit measured."""
        return History() if self.run is None else self.run.history

    # ---- the three verbs -------------------------------------------------------------------------

    def fit(
        self,
        X,
        y=None,
        epochs: int = 10,
        batch_size: int = 32,
        validation_data=None,
        shuffle: bool = True,
        progress: bool = True,
        *,
        validation_split: float = 0.0,
        sample_weight=None,
        class_weight=None,
        callbacks: Sequence = (),
        sampler=None,
        drop_last: bool = False,
        prefetch: int = 0,
    ) -> History:
        """Trains the model on the samples X[k] → y[k].

        Args:
            X, y: arrays with samples along the first dimension, or X alone: batches. See the class.
            epochs: how often every sample is seen.
            batch_size: samples a batch.
            validation_data: (X, y), or batches, measured after each epoch, never trained on.
            shuffle: a new order each epoch.
            progress: show a progress bar, or a line an epoch where there is no terminal.
            validation_split: the part of the samples that is set aside as validation data, by chance.
            sample_weight: a weight for each sample: a batch's loss is Σ wₖ·lossₖ/Σ wₖ, or
                Σ wₖ·lossₖ where the loss sums (reduction="sum").
            class_weight: "balanced", {class: weight} or an array by class: weights of samples by their label.
            callbacks: besides the Trainer's own.
            sampler, drop_last, prefetch: as in pynn.data.DataLoader.

        Ctrl-C lets the batch in flight end and raises KeyboardInterrupt; a second one raises at once. After that, and
        after any other exception, `run` is as it was between two batches: `resume` goes on from there, `save` keeps it.

        Raises:
            TypeError: text, objects, complex numbers. ValueError: no samples, different lengths, NaN or Inf
            (where), shapes that do not fit; IndexError: a label that is no class (which, where). All of
            these before the first step, or for batches before their step. FloatingPointError: the loss became NaN or
            Inf; the parameters are those before that step.
        """
        if self.optimizer is None:
            raise ValueError("fit: the Trainer was made without an optimizer")
        checks.check_fit_arguments(epochs, validation_split, validation_data, sampler, X, y)
        checks.check_optimizer(self)
        options = {
            "epochs": int(epochs),
            "batch_size": batch_size,
            "shuffle": bool(shuffle),
            "drop_last": drop_last,
            "validation_split": validation_split,
            "accumulate": self.accumulate,
        }
        run = Run(self, options)
        made = Callbacks([*self.callbacks, *callbacks])
        return self._go(run, made, (X, y, validation_data, sample_weight, class_weight, sampler, prefetch), progress)

    def resume(
        self,
        X,
        y=None,
        validation_data=None,
        progress: bool = True,
        *,
        epochs: int | None = None,
        sample_weight=None,
        class_weight=None,
        callbacks: Sequence | None = None,
        sampler=None,
        prefetch: int = 0,
    ) -> History:
        """Goes on with a fit that was interrupted, here or in the process that saved it, as if it had not been.

        Args:
            X, y, validation_data, sample_weight, class_weight, sampler: what fit was given. Batches of the user's own
                are gone through up to where the run stands; that they are the same ones is their affair.
            epochs: another number in all; None: the one that fit was given.
            callbacks: of the same classes, in the same order, as fit was given. None: those of the fit in this process.

        Raises:
            ValueError: there is no run, or the data have other shapes; besides, as fit.
        """
        if self.run is None:
            raise ValueError("resume: there is no run to go on with: fit, or load a checkpoint, first")
        run = self.run
        if epochs is not None:
            as_count("resume", "epochs", epochs, 0)
            run.options["epochs"] = int(epochs)
        made, loaded = self._callbacks, self._loaded_callbacks
        if loaded is not None or callbacks is not None or made is None:
            made = Callbacks([*self.callbacks, *(callbacks or ())])
            if loaded is not None:
                made.check(loaded)
                made.set_state(loaded)
        return self._go(run, made, (X, y, validation_data, sample_weight, class_weight, sampler, prefetch), progress)

    def _go(self, run: Run, callbacks: Callbacks, data: tuple, progress: bool) -> History:
        """Trains run until it is done, on data that are checked first."""
        feed, validation = self._feeds(run, *data)
        signature = feed.signature()
        if run.data and run.data != signature:
            raise ValueError(f"resume: the run was trained on {run.data}, got {signature}")
        run.data = signature
        self.run, self._callbacks, self._loaded_callbacks = run, callbacks, None
        shown = Progress(progress, run.epochs, len(feed), run.epoch, run.batch)
        try:
            run_on(run, feed, validation, callbacks, shown)
        finally:
            shown.close()
        return run.history

    def evaluate(self, X, y=None, batch_size: int | None = None, sample_weight=None) -> dict[str, float]:
        """The loss and the metrics on the samples X[k] → y[k], in eval mode, without recording.

        Raises:
            as fit.
        """
        feed = self._feed("evaluate", X, y, batch_size, self._weights("evaluate", y, sample_weight, None))
        checks.check_samples(self, "evaluate", feed)
        with self._averaged():
            return measure(self, feed, self._totals(fresh=True)).means()

    def predict(self, X, batch_size: int | None = None) -> Any:
        """The model's outputs for the samples X[k], in eval mode, without recording; no samples give no rows.

        Returns:
            an array, or a tuple or dict of them where the model gives several outputs.

        Raises:
            TypeError: text, objects, complex numbers. ValueError: NaN or Inf (where), shapes that do not fit.
        """
        if is_stream(X):
            raise TypeError(
                f"predict: argument 'X': expected arrays, got {type(X).__name__}: it batches them by itself"
            )
        form, arrays, dtypes = self._the_door().inputs("predict", X)
        n = checks.common_length("predict", arrays)
        xs = list(arrays.values())
        rows = rows_of_a_batch(xs) if batch_size is None else batch_size
        with eval_mode(self.model), self._averaged():
            if n == 0:
                y = applied(self.model, nested(form, [_core.from_array(a, d) for a, d in zip(xs, dtypes)]))
                return _each(checks.output(y), lambda part: part.numpy_copy())
            as_count("predict", "batch_size", rows)
            made: Any = None
            for at in range(0, n, rows):
                batch = [_core.from_array(np.ascontiguousarray(a[at : at + rows]), d) for a, d in zip(xs, dtypes)]
                y = checks.output(applied(self.model, nested(form, batch)), len(batch[0]))
                if made is None:
                    made = _each(y, lambda part: np.empty((n, *part.shape[1:]), part.dtype))
                _fill(made, y, at)
        return made

    # ---- files -----------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike, *, keep: bool = False) -> None:
        """Writes a checkpoint: model, optimizer, schedule, callbacks, history, random state, and where the run stands.

        `load` and `resume` then go on as if the run had never stopped, bit for bit, also from the middle of an epoch.

        Args:
            keep: keep the file that was at path, as path + ".former".

        Raises:
            OSError: naming path and cause; what was at path is as it was. TypeError: a callback's state that a file
            cannot hold.
        """
        save_checkpoint(self, path, keep)

    def load(self, path: str | os.PathLike) -> Trainer:
        """Puts this Trainer, which has the same model, optimizer and schedule, where the one that saved path was.

        Raises:
            FileNotFoundError: no such file. ValueError: damaged, truncated, of a newer version, or of another model or
            optimizer. Nothing is changed then. Warns where another ISA or version makes bits differ.
        """
        load_checkpoint(self, path)
        return self

    def report(self, path: str | os.PathLike, data=None) -> None:
        """Writes one HTML page, which needs no network: curves, confusion, gradient norms, model and configuration.

        Args:
            data: (X, y) for the confusion of classes, or for predictions against targets.

        Raises:
            ImportError: without matplotlib. ValueError: nothing was fitted yet.
        """
        from .report import write_report

        write_report(self, path, data)

    # ---- parts -----------------------------------------------------------------------------------

    def _step(self) -> Step:
        parts = self.model, self.loss, self.optimizer, self.max_norm, self.clip_value, self._average, self.penalty
        if self._made_step is None or not self._made_step.belong_to(*parts):
            self._made_step = Step(*parts[:3], self._compile, *parts[3:], decay=self.ema or 0.0)
        return self._made_step

    def _totals(self, fresh: bool = False) -> Totals:
        """Sums for an epoch of training; fresh ones for validation beside them."""
        return Totals(self._validation_metrics if fresh else self.metrics, self._per_sample)

    def _weighted_loss(self) -> Callable:
        return weighted(self.loss)

    @contextlib.contextmanager
    def _averaged(self):
        """The running means in the place of the parameters, where there are some."""
        if not self._average:
            yield
            return
        kept = [(p, p.detach().clone()) for p in self._average]
        with no_grad():
            for p, mean in self._average.items():
                p.copy_(mean)
        try:
            yield
        finally:
            with no_grad():
                for p, value in kept:
                    p.copy_(value)

    def _step_schedule(self, figures: dict[str, float]) -> None:
        if self.schedule is None or self.schedule_every == "step":
            return
        if isinstance(self.schedule, ReduceLROnPlateau):
            self.schedule.step(figures.get("val_loss", figures["loss"]))
        else:
            self.schedule.step()

    def _dtype(self) -> np.dtype:
        """The dtype of the model's parameters."""
        return next((p.dtype for p in self.model.parameters() if p.dtype.kind == "f"), np.dtype(np.float32))

    def _the_door(self) -> Door:
        dtype = self._dtype()
        if self._door is None or self._door.dtype != dtype or self._door.model is not self.model:
            labels = takes_labels(self.loss) or not isinstance(self.loss, Module)
            self._door = Door(dtype, labels, self.model)
        return self._door

    def _feed(self, what: str, X, y, batch_size: int | None, weights=None, **options):
        if y is None and is_stream(X):
            if options.get("sampler") is not None or weights is not None:
                raise ValueError(
                    f"{what}: batches bring their own order and weights: expected no sampler or sample_weight"
                )
            return StreamFeed(self._the_door(), what, X)
        if y is None and isinstance(X, Mapping):
            raise TypeError(f"{what}: argument 'y': expected an array, got None")
        if y is None:
            raise TypeError(f"{what}: argument 'y': expected an array (or X that gives batches), got None")
        return ArrayFeed(self._the_door(), what, X, y, batch_size, weights, generator=self._generator, **options)

    def _weights(self, what: str, y, sample_weight, class_weight) -> np.ndarray | None:
        """A weight for each sample, of both kinds together; those whose label does not count weigh nothing."""
        if sample_weight is None and class_weight is None:
            return None
        if y is None:
            raise ValueError(f"{what}: batches bring their own weights: expected no sample_weight or class_weight")
        several = isinstance(y, (tuple, Mapping))
        if several and class_weight is not None:
            raise ValueError(f"{what}: argument 'class_weight': expected one target, got several")
        labels = np.asarray(next(iter(y.values())) if isinstance(y, Mapping) else y[0] if several else y)
        n = len(labels)
        labels = labels.ravel() if labels.size == n else labels  # (N, 1) too
        counted = np.ones(n, bool)
        if labels.ndim == 1 and takes_labels(self.loss):
            counted = labels != getattr(self.loss, "ignore_index", -100)
        w = np.ones(n) if sample_weight is None else checked_weights(what, sample_weight, n)
        if class_weight is not None:
            of_class = class_weights(labels[counted], class_weight)
            w[counted] *= checked_weights(what, of_class, len(of_class), "class_weight")
        w[~counted] = 0.0
        return checked_weights(what, w, n)

    def _feeds(self, run: Run, X, y, validation_data, sample_weight, class_weight, sampler, prefetch):
        """(training, validation) feeds, checked."""
        o = run.options
        weights = self._weights("fit", y, sample_weight, class_weight)
        held, rows = self._split(run, y, o["validation_split"]) if o["validation_split"] else (None, None)
        options = {"shuffle": o["shuffle"] and sampler is None, "sampler": sampler, "drop_last": o["drop_last"],
                   "prefetch": prefetch, "rows": rows}  # fmt: skip
        stream = y is None and is_stream(X)
        feed = self._feed("fit", X, y, o["batch_size"], weights, **({"sampler": sampler} if stream else options))
        validation = None
        if held is not None:
            validation = self._feed("fit: validation_split", X, y, None, weights, rows=held)
        elif validation_data is not None:
            validation = self._validation(feed, validation_data)
        checks.check_samples(self, "fit", feed)
        if validation is not None:
            checks.check_samples(self, "fit: validation_data", validation)
        return feed, validation

    def _validation(self, feed, data):
        what = "fit: validation_data"
        if is_stream(data):
            return self._feed(what, data, None, None)
        if not isinstance(data, (tuple, list)) or len(data) not in (2, 3):
            raise TypeError(f"fit: argument 'validation_data': expected (X, y), got {type(data).__name__}")
        weights = self._weights(what, data[1], data[2], None) if len(data) == 3 else None
        found = self._feed(what, data[0], data[1], None, weights)
        checks.check_alike(feed, found)
        return found

    def _split(self, run: Run, y, part: float) -> tuple[np.ndarray, np.ndarray]:
        """The rows for validation and those to train on, by a key that the run keeps."""
        first = next(iter(y.values())) if isinstance(y, Mapping) else y[0] if isinstance(y, tuple) else y
        n = len(real_array(first, "fit: argument 'y'"))
        count = round(n * part)
        if not 0 < count < n:
            raise ValueError(f"fit: argument 'validation_split': expected a part that leaves samples on both sides, "
                             f"got {part} of {n} samples")  # fmt: skip
        if run.split is None:
            run.split = (self._generator or default_generator).take().tolist()
        order = stream_of(run.split).permutation(n)
        return np.sort(order[:count]), np.sort(order[count:])


def _each(y: Any, f: Callable) -> Any:
    """f of a tensor, or of each of several."""
    if isinstance(y, Mapping):
        return {k: _each(v, f) for k, v in y.items()}
    return tuple(_each(v, f) for v in y) if isinstance(y, (tuple, list)) else f(y)


def _fill(made: Any, y: Any, at: int) -> None:
    """Writes the rows y into made, from row `at` on."""
    if isinstance(made, dict):
        for k in made:
            _fill(made[k], y[k], at)
    elif isinstance(made, tuple):
        for m, part in zip(made, y):
            _fill(m, part, at)
    else:
        part = y._array() if isinstance(y, Tensor) else y
        made[at : at + len(part)] = part
