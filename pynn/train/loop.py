"""The loop: batches, steps, epochs. Between two batches the run can be saved, and gone on from, at any time."""

from __future__ import annotations

import contextlib
import math
import signal
import threading
from collections.abc import Iterator
from itertools import islice
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _core
from ..autograd import enable_grad
from ..random import default_generator
from ..tensor import Tensor, tensor
from .callbacks import Callbacks
from .progress import Progress
from .run import Run
from .step import Snapshot, Step, applied, eval_mode
from .totals import Totals

if TYPE_CHECKING:
    from .trainer import Trainer

__all__ = ["Interrupts", "measure", "run_on"]


class Interrupts:
    """Ctrl-C: the first lets the batch in flight end, the second raises at once. Only the main thread can tell."""

    def __init__(self) -> None:
        self.asked = False

    def __enter__(self) -> Interrupts:
        self._before: Any = None
        if threading.current_thread() is threading.main_thread():
            before = signal.getsignal(signal.SIGINT)
            if before is signal.default_int_handler:  # a handler of the program's own stays
                self._before = before
                signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *exc) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _handle(self, number, frame) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

    def check(self) -> None:
        """Raises KeyboardInterrupt if one was asked for."""
        if self.asked:
            raise KeyboardInterrupt("fit was interrupted between two batches; trainer.resume(…) goes on from there")


def measure(trainer: Trainer, feed, totals: Totals, interrupts: Interrupts | None = None) -> Totals:
    """The loss and the metrics of a feed, in evaluation mode."""
    weighted = trainer._weighted_loss() if getattr(feed, "weighted", False) else None
    with eval_mode(trainer.model):
        for x, t, w in feed.batches(None):
            y = applied(trainer.model, x)
            e = trainer.loss(y, t) if w is None else (weighted or trainer._weighted_loss())(y, t, w)
            totals.add(e.item(), y, t, _samples(x), None if w is None else _sum(w))
            if interrupts is not None:
                interrupts.check()
    return totals


def _samples(x: Any) -> int:
    if isinstance(x, Tensor):
        return len(x)
    return len(next(iter(x.values())) if isinstance(x, dict) else x[0])


def _sum(w: Tensor) -> float:
    """The sum of the weights of a batch."""
    return float(_core.read_view(w).sum(dtype=np.float64))


def run_on(run: Run, feed, validation, callbacks: Callbacks, shown: Progress) -> None:
    """Trains until the run is done."""
    loop = _Loop(run, feed, validation, callbacks, shown)
    with loop.interrupts, enable_grad():
        callbacks.call(run, "on_fit_begin")
        while run.begun or not run.done:
            loop.epoch()
        callbacks.call(run, "on_fit_end")


class _Loop:
    """What the epochs of one call of fit or resume share."""

    def __init__(self, run: Run, feed, validation, callbacks: Callbacks, shown: Progress):
        self.run, self.feed, self.validation, self.callbacks, self.shown = run, feed, validation, callbacks, shown
        self.trainer = run.trainer
        self.group = run.options["accumulate"]
        self.interrupts = Interrupts()
        self.started = 0.0

    def epoch(self) -> None:
        """One epoch, or what is left of it."""
        run, trainer = self.run, self.trainer
        self.shown.epoch(run.epoch + 1, run.batch)
        if not run.begun:
            run.key = self.feed.take_key()
            run.totals, run.seconds, run.begun = trainer._totals(), 0.0, True
            self.callbacks.call(run, "on_epoch_begin")
        self.started = perf_counter() - run.seconds
        trainer.model.train()
        step = trainer._step()
        if getattr(self.feed, "weighted", False):
            step.use_weights()
        snapshot = Snapshot(trainer.model, [default_generator._state])
        first = run.batch - run.batch % self.group  # of the group that was interrupted
        batches = self.feed.batches(run.key, first)
        with contextlib.closing(batches) if hasattr(batches, "close") else contextlib.nullcontext():
            if self.group == 1:
                for x, t, w in batches:
                    self._one(step, snapshot, x, t, w)
            else:
                for group in _groups(batches, self.group):
                    self._several(step, snapshot, group)
        if not run.batch:
            raise ValueError("fit: expected at least one batch, got none")
        self._end_of_epoch()

    def _one(self, step: Step, snapshot: Snapshot, x, t, w) -> None:
        """A step of one batch."""
        run = self.run
        snapshot.take()
        try:
            if w is None:
                e, y, rows = step.differentiate(x, t)
            else:
                step.use_weights()
                e, y, rows = step.differentiate(x, t, w)
            value = e.item()
            self._check_loss(value)
            step.update(rows)
        except BaseException:
            snapshot.put_back()
            raise
        if rows:
            step.bind(rows)
        run.batch += 1
        self._note(value, x, y, t, w)
        self._stepped()

    def _several(self, step: Step, snapshot: Snapshot, group: list) -> None:
        """A step of several batches: the gradient of the mean over all of their samples (or over their weights), or of
        the sum where the loss is one."""
        run, dtype = self.run, self.trainer._dtype()
        done = run.batch % self.group
        if done == len(group):  # the epoch's last group, shorter than the others, was whole
            return
        parts = [_samples(x) if w is None else _sum(w) for x, _, w in group]
        whole = sum(parts) or 1.0  # of weights that are all 0, the gradient is 0
        scales = [tensor(n / whole if self.trainer._per_sample else 1.0, dtype) for n in parts]
        snapshot.take()
        begin = run.batch, run.totals.state(), run.held, _grads(step.params) if done else None
        for k in range(done, len(group)):
            x, t, w = group[k]
            with self._undone(snapshot, step, *begin):
                if w is not None:
                    step.use_weights()
                e, y, run.held = step.differentiate(x, t, w, scales[k], run.held if k else None)
                value = e.item()
                self._check_loss(value)
            run.batch += 1
            self._note(value, x, y, t, w)
            if k < len(group) - 1:
                self.callbacks.call(run, "on_batch_end")
                self.interrupts.check()
        with self._undone(snapshot, step, *begin):
            step.update(run.held)
        step.bind(run.held)
        run.held = []
        self._stepped()

    @contextlib.contextmanager
    def _undone(self, snapshot: Snapshot, step: Step, batch: int, totals: dict, held: list, grads: list | None):
        """Goes back to where the step began, or was gone on with, when something in it fails."""
        try:
            yield
        except BaseException:
            run = self.run
            snapshot.put_back()
            run.batch, run.held = batch, held
            run.totals.set_state(totals)
            for p, g in zip(step.params, grads or ()):
                p.grad = g
            raise

    def _check_loss(self, value: float) -> None:
        if not math.isfinite(value):
            raise FloatingPointError(
                f"fit: the loss became {value} in epoch {self.run.epoch + 1}, step {self.run.batch + 1}; a smaller "
                "learning rate, clipping or pynn.detect_anomaly() may help. The parameters are those before this step"
            )

    def _note(self, value: float, x, y, t, w) -> None:
        run = self.run
        run.totals.add(value, y, t, _samples(x), None if w is None else _sum(w))
        run.loss, run.input, run.output, run.target = value, x, y, t
        run.seconds = perf_counter() - self.started
        self.shown.step(run.totals)

    def _stepped(self) -> None:
        """After the parameters changed."""
        self.run.step += 1
        self.trainer.steps += 1
        if self.trainer.schedule is not None and self.trainer.schedule_every == "step":
            self.trainer.schedule.step()
        self.callbacks.call(self.run, "on_batch_end", "on_step_end")
        self.interrupts.check()

    def _end_of_epoch(self) -> None:
        """Validation, history, schedule."""
        run, trainer = self.run, self.trainer
        figures = run.totals.means()
        if self.validation is not None:
            with trainer._averaged():
                figures.update(
                    measure(trainer, self.validation, trainer._totals(fresh=True), self.interrupts).means("val_")
                )
        if trainer.schedule is not None:
            figures["lr"] = trainer.optimizer.param_groups[0]["lr"]
        figures["seconds"] = perf_counter() - self.started
        for name, p in trainer.model.named_parameters():
            if p.grad is not None:
                run.norms.setdefault(name, []).append(_norm(p.grad))
        run.history.add(**figures)
        run.figures = figures
        run.epoch += 1
        run.batch, run.begun, run.totals, run.key = 0, False, None, None
        trainer._step_schedule(figures)
        self.shown.epoch_done(figures)
        self.callbacks.call(run, "on_epoch_end")
        self.interrupts.check()


def _groups(batches: Iterator, n: int) -> Iterator[list]:
    """Lists of n batches; the last may be shorter."""
    while group := list(islice(batches, n)):
        yield group


def _grads(params: list[Tensor]) -> list:
    return [None if p.grad is None else p.grad.clone() for p in params]


def _norm(grad: Tensor) -> float:
    values = grad._rows if hasattr(grad, "_rows") else grad
    return float(np.linalg.norm(_core.read_view(values).astype(np.float64).ravel()))
