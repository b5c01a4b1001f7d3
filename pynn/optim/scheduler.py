"""The base of schedules of the learning rate; schedules.py has them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .optimizer import Optimizer, ParamGroup

__all__ = ["LRScheduler"]


class LRScheduler:
    """The base of schedules. A subclass defines rate(base, now, group) or get_lr().

    Args:
        optimizer: whose param_groups get the rates.
        last_epoch: steps that were made already, less one; −1 begins.

    Attributes:
        last_epoch: t. base_lrs: η₀ of each group.

    Raises:
        TypeError: no optimizer. KeyError: last_epoch ≥ 0 for groups that have no "initial_lr".
    """

    def __init__(self, optimizer: Optimizer, last_epoch: int = -1):
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"{type(self).__name__}: argument 'optimizer': expected an Optimizer, got "
                            f"{type(optimizer).__name__}")  # fmt: skip
        self.optimizer = optimizer
        for k, group in enumerate(optimizer.param_groups):
            if last_epoch == -1:
                group.setdefault("initial_lr", group["lr"])
            elif "initial_lr" not in group:
                raise KeyError(
                    f"{type(self).__name__}: param_groups[{k}] has no 'initial_lr', which last_epoch >= 0 needs"
                )
        self.base_lrs = [group["initial_lr"] for group in optimizer.param_groups]
        self.last_epoch = last_epoch
        self._last_lr: list[float] = []
        self.step()

    def get_lr(self) -> list[float]:
        """The rate of each group after last_epoch steps."""
        return [self.rate(base, g["lr"], g) for base, g in zip(self.base_lrs, self.optimizer.param_groups)]

    def rate(self, base: float, now: float, group: ParamGroup) -> float:
        """The rate of a group that began with base and has now."""
        raise NotImplementedError

    def get_last_lr(self) -> list[float]:
        """The rates that the last step wrote."""
        return self._last_lr

    def step(self) -> None:
        """One step, or epoch, was made: writes the next rates."""
        self.last_epoch += 1
        self._write(self.get_lr())

    def _write(self, rates: Sequence[float]) -> None:
        for group, lr in zip(self.optimizer.param_groups, rates):
            group["lr"] = lr
        self._last_lr = [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """What goes on from step to step: everything but the optimizer and functions."""
        return {k: v for k, v in vars(self).items() if k != "optimizer" and not _has_function(v)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from what state_dict gave. The rates themselves are the optimizer's state."""
        vars(self).update(state_dict)


def _has_function(value: Any) -> bool:
    return callable(value) or (isinstance(value, (list, tuple)) and any(map(_has_function, value)))
