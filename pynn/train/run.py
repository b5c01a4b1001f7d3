"""A run: everything about a fit that is going on, and that a checkpoint keeps."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import numpy as np

from ..tensor import tensor
from .history import History
from .totals import Totals

if TYPE_CHECKING:
    from .trainer import Trainer

__all__ = ["Run"]


class Run:
    """What a fit has done so far, for callbacks to look at.

    Attributes:
        trainer, model, optimizer: what is trained, by what.
        epochs: how many were asked for; epoch: whole ones so far; batch: batches of the next one so far.
        step: updates of the parameters in this run.
        loss, input, output, target: of the last batch.
        figures: what the last whole epoch measured; history: of all epochs.
        stopped: why it ended early; None where it did not.
    """

    def __init__(self, trainer: Trainer, options: dict[str, Any]):
        self._trainer = weakref.ref(trainer)  # which holds the run: no cycle keeps both waiting for the collector
        self.options = options  # epochs, batch_size, … as fit was given them: plain values
        self.epoch = self.batch = self.step = 0
        self.begun = False  # whether the next epoch has
        self.key: list[int] | None = None  # what fixes the order of the epoch's batches
        self.split: list[int] | None = None  # and that of the split for validation
        self.totals: Totals | None = None
        self.seconds = 0.0  # of the epoch so far
        self.history = History()
        self.figures: dict[str, float] = {}
        self.norms: dict[str, list[float]] = {}  # norm of each parameter's gradient in the last step of each epoch
        self.stopped: str | None = None
        self.data: list = []  # what was fitted: shapes and dtypes
        self.held: list = []  # gradients by rows of the batches before in the step; dense ones are in .grad
        self.loss: float | None = None
        self.input: Any = None
        self.output: Any = None
        self.target: Any = None

    @property
    def trainer(self) -> Trainer:
        found = self._trainer()
        assert found is not None, "the Trainer of this run is gone"
        return found

    @property
    def model(self):
        return self.trainer.model

    @property
    def optimizer(self):
        return self.trainer.optimizer

    @property
    def epochs(self) -> int:
        return self.options["epochs"]

    @property
    def done(self) -> bool:
        """Whether there is no epoch left to train."""
        return self.stopped is not None or self.epoch >= self.epochs

    def stop(self, why: str = "a callback asked for it") -> None:
        """Ends the fit after this epoch."""
        self.stopped = self.stopped or why

    def better(self, name: str) -> str:
        """ "max" or "min": what is better of a figure of history."""
        name = name.removeprefix("val_")
        return next((m.better for m in self.trainer.metrics if m.name == name), "min")

    def weights(self) -> dict[str, np.ndarray]:
        """Copies of the model's parameters and buffers, and of the running means where there are some."""
        means = (self.trainer._average or {}).values()
        found = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        return {**found, **{f"average.{k}": m.numpy_copy() for k, m in enumerate(means)}}

    def set_weights(self, weights: dict[str, np.ndarray]) -> None:
        """Writes what weights() gave."""
        self.model.load_state_dict({k[6:]: v for k, v in weights.items() if k.startswith("model.")})
        for k, mean in enumerate((self.trainer._average or {}).values()):
            mean.copy_(tensor(weights[f"average.{k}"]))

    def state(self) -> dict[str, Any]:
        """All of it but the model and the optimizer, as plain values and arrays."""
        plain = {name: getattr(self, name) for name in _PLAIN}
        return {**plain, "history": dict(self.history), "totals": self.totals.state() if self.totals else None}

    @classmethod
    def of_state(cls, trainer: Trainer, state: dict[str, Any]) -> Run:
        """The run that state() described."""
        run = cls(trainer, state["options"])
        for name in _PLAIN:
            setattr(run, name, state[name])
        run.history.update(state["history"])
        if state["totals"] is not None:
            run.totals = trainer._totals()
            run.totals.set_state(state["totals"])
        return run


_PLAIN = (
    "options",
    "epoch",
    "batch",
    "step",
    "begun",
    "key",
    "split",
    "seconds",
    "figures",
    "norms",
    "stopped",
    "data",
)
