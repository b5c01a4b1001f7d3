"""Callbacks: functions called at documented points of a fit.

    class Say(Callback):
        def on_epoch_end(self, run):
            print(run.epoch, run.figures["loss"])

Points, in the order in which they come; `run` is the pynn.train.Run, which tells all and can be told to stop:

    on_fit_begin    before the first step of fit or resume
    on_epoch_begin  before an epoch; run.epoch epochs lie behind
    on_batch_end    after a batch was differentiated: run.loss, run.input, run.output, run.target
    on_step_end     after the parameters changed: run.step steps lie behind; gradients are still there
    on_epoch_end    after validation and history: run.figures; run.epoch counts this epoch
    on_fit_end      after the last epoch, or after run.stop()

Callbacks are called in the order of their priority, lower ones first, then in the order given. At each point the run is
in a state that can be saved and gone on from. An exception leaves it so: it is raised once the others were called,
which have then seen all that the run has.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ..arrays import as_count

if TYPE_CHECKING:
    from .run import Run

__all__ = ["POINTS", "Callback", "Callbacks", "Checkpoint", "EarlyStopping"]

POINTS = ("on_fit_begin", "on_epoch_begin", "on_batch_end", "on_step_end", "on_epoch_end", "on_fit_end")


class Callback:
    """The base of callbacks; every point does nothing.

    Attributes:
        priority: lower ones are called first. EarlyStopping has 100, Checkpoint 1000.
    """

    priority = 0

    def on_fit_begin(self, run: Run) -> None:
        """Before the first step."""

    def on_epoch_begin(self, run: Run) -> None:
        """Before an epoch."""

    def on_batch_end(self, run: Run) -> None:
        """After a batch was differentiated."""

    def on_step_end(self, run: Run) -> None:
        """After the parameters changed."""

    def on_epoch_end(self, run: Run) -> None:
        """After validation and history."""

    def on_fit_end(self, run: Run) -> None:
        """After the last epoch."""

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps: numbers, strings, arrays, lists and dicts of them; "best_weights" under best."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from what state_dict gave."""


class _Function(Callback):
    """A plain function as a callback."""

    def __init__(self, f: Callable):
        self.on_epoch_end = f  # type: ignore[method-assign]


class Callbacks:
    """The callbacks of a fit, in order.

    Raises:
        TypeError: what is neither a Callback nor a function of a run, which is then called on_epoch_end.
    """

    def __init__(self, callbacks):
        given = []
        for c in callbacks:
            if not isinstance(c, Callback) and (isinstance(c, type) or not callable(c)):
                raise TypeError(f"Trainer: argument 'callbacks': expected Callbacks or functions of a run, got {c!r}")
            given.append(c if isinstance(c, Callback) else _Function(c))
        self.all = sorted(given, key=lambda c: c.priority)
        own = {point: getattr(Callback, point) for point in POINTS}
        # only those that do something: a step must not pay for the others
        self.at = {
            point: [f for c in self.all if getattr(f := getattr(c, point), "__func__", f) is not own[point]]
            for point in POINTS
        }

    def call(self, run: Run, *points: str) -> None:
        """Calls all that have something to do at these points, then raises the first error of theirs."""
        failed = None
        for point in points:
            for f in self.at[point]:
                try:
                    f(run)
                except Exception as e:
                    failed = failed or e
        if failed is not None:
            try:
                raise failed
            finally:
                del failed  # it knows this frame: a cycle

    def state(self) -> list:
        """[[class, state], …]"""
        return [[type(c).__name__, c.state_dict()] for c in self.all]

    def check(self, state: list) -> None:
        """Raises ValueError where state is of other callbacks."""
        names, mine = [name for name, _ in state], [type(c).__name__ for c in self.all]
        if names != mine:
            raise ValueError(f"resume: the run had the callbacks {names}, got {mine}")

    def set_state(self, state: list) -> None:
        """Gives each callback its state back."""
        for c, (_, own) in zip(self.all, state, strict=True):
            c.load_state_dict(own)


class EarlyStopping(Callback):
    """Stops when a figure has not improved for some epochs, and gives the model its best weights back.

    Args:
        monitor: a name of history; "val_loss" needs validation data.
        patience: epochs without improvement that are borne.
        min_delta: less than this is no improvement.
        mode: "min", "max", or "auto": "max" for metrics that are better when larger, "min" for losses and errors.
        restore_best: at the end, give back the parameters and buffers of the best epoch, and their running means.

    Raises:
        ValueError: arguments out of range; KeyError: history has no such figure.

    Source: Prechelt 1998; S3 §6; F-REG.
    """

    priority = 100

    def __init__(
        self,
        monitor: str = "val_loss",
        patience: int = 10,
        min_delta: float = 0.0,
        mode: str = "auto",
        restore_best: bool = True,
    ):
        if mode not in ("auto", "min", "max"):
            raise ValueError(f"EarlyStopping: argument 'mode': expected 'auto', 'min' or 'max', got {mode!r}")
        self.patience = as_count("EarlyStopping", "patience", patience, 0)
        if not min_delta >= 0:
            raise ValueError(f"EarlyStopping: argument 'min_delta': expected a number >= 0, got {min_delta!r}")
        self.monitor, self.min_delta = monitor, min_delta
        self.mode, self.restore_best = mode, restore_best
        self.best: float | None = None
        self.best_epoch = 0
        self.bad_epochs = 0
        self._weights: dict[str, np.ndarray] | None = None

    def on_fit_begin(self, run):
        if run.epoch == 0 and not run.begun:  # a run of its own, not one that is gone on with
            self.best, self.best_epoch, self.bad_epochs, self._weights = None, 0, 0, None

    def on_epoch_end(self, run):
        if self.monitor not in run.figures:
            raise KeyError(
                f"EarlyStopping: history has no {self.monitor!r}, but {', '.join(run.figures)}"
                + ("; fit needs validation_data or validation_split" if self.monitor.startswith("val_") else "")
            )
        value = run.figures[self.monitor]
        sign = -1.0 if self.mode == "max" or (self.mode == "auto" and run.better(self.monitor) == "max") else 1.0
        if self.best is None or sign * value < sign * self.best - self.min_delta:
            self.best, self.best_epoch, self.bad_epochs = value, run.epoch, 0
            if self.restore_best:
                self._weights = run.weights()
        else:
            self.bad_epochs += 1
            if self.bad_epochs > self.patience:
                run.stop(f"{self.monitor} has not improved since epoch {self.best_epoch}")

    def on_fit_end(self, run):
        if self.restore_best and self._weights is not None:
            run.set_weights(self._weights)

    def state_dict(self):
        return {
            "best": self.best,
            "best_epoch": self.best_epoch,
            "bad_epochs": self.bad_epochs,
            "best_weights": self._weights,
        }

    def load_state_dict(self, state):
        self.best, self.best_epoch, self.bad_epochs = state["best"], state["best_epoch"], state["bad_epochs"]
        self._weights = state["best_weights"]


class Checkpoint(Callback):
    """Saves the whole run, so that trainer.load(path) and trainer.resume(…) go on as if nothing had been.

    Args:
        path: the file; `{epoch}` and `{step}` in it become numbers.
        every_epochs, every_steps: how often; None: not at such times.
        keep: keep the former file as path + ".former".

    Raises:
        ValueError: neither is given, or one is not positive.
    """

    priority = 1000  # after all that changes with the epoch

    def __init__(
        self, path: str | os.PathLike, every_epochs: int | None = 1, every_steps: int | None = None, keep: bool = False
    ):
        if every_epochs is None and every_steps is None:
            raise ValueError("Checkpoint: expected every_epochs or every_steps, got neither")
        for name, value in (("every_epochs", every_epochs), ("every_steps", every_steps)):
            if value is not None:
                as_count("Checkpoint", name, value)
        self.path, self.keep = os.fspath(path), keep
        self.every_epochs, self.every_steps = every_epochs, every_steps

    def on_step_end(self, run):
        if self.every_steps and run.step % self.every_steps == 0:
            self._save(run)

    def on_epoch_end(self, run):
        if self.every_epochs and run.epoch % self.every_epochs == 0:
            self._save(run)

    def _save(self, run) -> None:
        path = self.path.replace("{epoch}", str(run.epoch)).replace("{step}", str(run.step))
        run.trainer.save(path, keep=self.keep)
