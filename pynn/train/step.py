"""A training step in two halves, each replayed as one C call. The loss is looked at between them, before any
parameter changes."""

from __future__ import annotations

from collections.abc import Callable

from ..nn.module import Module
from ..plan import compile
from ..sparse import RowGradient

__all__ = ["Step"]


class Step:
    """differentiate(x, t) → (loss, output, gradients by rows), then update(gradients by rows).

    Gradients by rows go from one half to the other as plain tensors: a plan binds dense ones only.
    """

    def __init__(self, model: Module, loss: Callable, optimizer, compiled: bool):
        params = list(model.parameters())

        def differentiate(x, t):
            optimizer.zero_grad()
            y = model(x)
            e = loss(y, t)
            e.backward()
            rows = [(k, p.grad._index, p.grad._rows) for k, p in enumerate(params) if type(p.grad) is RowGradient]
            for k, _, _ in rows:
                params[k].grad = None
            return e, y, rows

        def update(rows):
            for k, index, values in rows:
                params[k].grad = RowGradient._of(index, values, params[k].shape)
            optimizer.step()
            for k, _, _ in rows:
                params[k].grad = None

        self._parts = model, loss, optimizer
        self.differentiate, self.update = differentiate, update
        if compiled:
            self.differentiate = compile(differentiate, strict=False)
            self.update = compile(update, strict=False)

    def belong_to(self, *parts) -> bool:
        return all(a is b for a, b in zip(self._parts, parts))

    @property
    def replayed(self) -> int:
        """Steps of which both halves were replayed."""
        return min(getattr(f, "replays", 0) for f in (self.differentiate, self.update))
