"""A training step in two halves, each replayed as one C call. The loss is looked at between them, before any
parameter changes."""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from .. import _core
from ..autograd import no_grad
from ..nn.module import Module
from ..nn.utils import clip_grad_value_
from ..op import OPS
from ..optim.regularizers import Penalty
from ..plan import compile
from ..sparse import RowGradient
from ..tensor import Tensor

__all__ = ["Snapshot", "Step", "applied", "eval_mode", "weighted"]


def applied(model: Callable, x: Any) -> Any:
    """The model's output for an input, several of them (a tuple), or inputs by name (a dict)."""
    if isinstance(x, Tensor):
        return model(x)
    return model(**x) if isinstance(x, Mapping) else model(*x)


@contextlib.contextmanager
def eval_mode(model: Module):
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


def weighted(loss: Callable) -> Callable:
    """loss(y, t, w) = Σ wₖ·lossₖ/Σ wₖ of a loss that can give one number a sample (reduction="none").

    A sample's loss is the mean over its elements. Where the loss has reduction="sum" it is their sum, and Σ wₖ·lossₖ is
    divided by nothing.

    Raises:
        TypeError: a loss without an argument or attribute `reduction`.
    """
    if isinstance(loss, Module) and hasattr(loss, "reduction"):
        each: Callable = copy.copy(loss)
        each.reduction = "none"  # type: ignore[attr-defined]
    elif not isinstance(loss, Module) and "reduction" in inspect.signature(loss).parameters:
        each = functools.partial(loss, reduction="none")
    else:
        raise TypeError(f"fit: weights of samples need a loss with `reduction`, which can give a number for each "
                        f"sample, got {loss!r}")  # fmt: skip

    summed = getattr(loss, "reduction", "mean") == "sum"

    def reduced(y, t, w):
        e = each(y, t)
        if e.ndim > 1:
            e = e.reshape(len(e), -1)
            e = e.sum(1) if summed else e.mean(1)
        total = (e * w).sum()
        return total if summed else total / OPS.maximum(w.sum(), np.finfo(e.dtype).tiny)

    return reduced


class Step:
    """differentiate(x, t, …) → (loss, output, gradients by rows), then update(gradients by rows).

    Gradients by rows go from one half to the other as plain tensors: a plan binds dense ones only.

    Args:
        compiled: record the halves and replay them.
        penalty: penalty(model, x) is added to the loss of each batch.
        max_norm, clip_value: clipping of gradients, by their common norm or by element.
        average: {parameter: Tensor}, running means that an update moves, and their decay.
    """

    def __init__(
        self, model: Module, loss: Callable, optimizer, compiled: bool, max_norm: float | None = None,
        clip_value: float | None = None, average: dict[Tensor, Tensor] | None = None,
        penalty: Penalty | None = None, *, decay: float = 0.0,
    ):  # fmt: skip
        params = list(model.parameters())
        kept = list((average or {}).items())
        of_weighted: list = []  # made when first needed: a loss without weights need not be able to

        def differentiate(x, t, w=None, scale=None, held=None):
            """held: gradients by rows of the batches before in this step; None begins the step."""
            if held is None:
                optimizer.zero_grad()
            else:
                _bind(params, held)
            y = applied(model, x)
            e = loss(y, t) if w is None else of_weighted[0](y, t, w)
            if penalty is not None:
                e = e + penalty(model, x)
            e.backward(scale)
            return e, y, _unbind(params)

        def update(rows):
            _bind(params, rows)
            if clip_value is not None:
                clip_grad_value_(params, clip_value)
            optimizer.step() if max_norm is None else optimizer.step(max_norm=max_norm)
            with no_grad():
                for p, mean in kept:
                    mean.copy_(mean * decay + p * (1.0 - decay))
            _unbind(params)

        self._parts = model, loss, optimizer, max_norm, clip_value, average, penalty
        self._recorded = repr(penalty)  # a plan does not see what changes within it
        self._of_weighted = of_weighted
        self.params = params
        self.differentiate, self.update = differentiate, update
        if compiled:
            self.differentiate = compile(differentiate, strict=False)
            self.update = compile(update, strict=False)

    def use_weights(self) -> None:
        """Prepares for batches with weights; raises TypeError where the loss cannot take them."""
        if not self._of_weighted:
            self._of_weighted.append(weighted(self._parts[1]))

    def belong_to(self, *parts) -> bool:
        """Whether this is the step of (model, loss, optimizer, max_norm, clip_value, average, penalty)."""
        same = all(a is b or a == b for a, b in zip(self._parts, parts, strict=True))
        return same and self._recorded == repr(parts[-1])

    @property
    def replayed(self) -> int:
        """Steps of which both halves were replayed."""
        return min(getattr(f, "replays", 0) for f in (self.differentiate, self.update))

    def bind(self, rows: list) -> None:
        """Puts gradients by rows where hooks and callbacks look for them."""
        _bind(self.params, rows)


def _bind(params: list, rows: list) -> None:
    for k, index, values in rows:
        params[k].grad = RowGradient._of(index, values, params[k].shape)


def _unbind(params: list) -> list:
    """[(number of the parameter, row numbers, rows)], which .grad holds no more."""
    rows = [(k, p.grad._index, p.grad._rows) for k, p in enumerate(params) if type(p.grad) is RowGradient]
    for k, _, _ in rows:
        params[k].grad = None
    return rows


class Snapshot:
    """What a step changes besides parameters and optimizer: statistics and random state, to be put back if it fails."""

    def __init__(self, model: Module, states: list[Tensor]):
        self._tensors = [*model.buffers(), *states]
        self._copies = [np.empty(x.shape, x.dtype) for x in self._tensors]

    def take(self) -> None:
        """Keeps the values of now."""
        for x, kept in zip(self._tensors, self._copies):
            np.copyto(kept, _core.read_view(x))

    def put_back(self) -> None:
        """Writes the values that were kept."""
        for x, kept in zip(self._tensors, self._copies):
            with no_grad(), x.writable() as a:
                a[...] = kept
