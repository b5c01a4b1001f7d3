"""Module.summary(): parameters, operations and memory of activations, layer by layer."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..autograd import no_grad
from ..plan import compile
from ..plan_report import calls_of
from ..tensor import Tensor, tensor
from .module import Module

__all__ = ["Row", "Summary", "summary_of"]


MOVES = ("cast", "copy")  # compute nothing: to a layout's order of memory, or to another dtype


class Row(NamedTuple):
    """A layer: its path and class, the shape of its output, parameters, operations, bytes of its output."""

    name: str
    kind: str
    shape: str
    parameters: int
    trained: int
    flops: float | None  # None: it cannot be recorded, so that its operations are not known
    nbytes: int


class Summary(list):
    """The rows of a summary, in the order of the calls; prints as a table."""

    parameters = trained = 0  # of the whole model, tied ones once

    @property
    def flops(self) -> float:
        """Operations of a forward pass, without layers that cannot be recorded."""
        return sum(r.flops or 0.0 for r in self)

    @property
    def nbytes(self) -> int:
        """Bytes of all layers' outputs."""
        return sum(r.nbytes for r in self)

    def __str__(self) -> str:
        head = ("layer", "class", "output", "parameters", "FLOPs", "bytes")
        cells = [
            (r.name or "(model)", r.kind, r.shape, f"{r.parameters:,}", "?" if r.flops is None else f"{r.flops:,.0f}",
             f"{r.nbytes:,}") for r in self
        ]  # fmt: skip
        widths = [max(len(row[k]) for row in (head, *cells)) for k in range(len(head))]
        lines = ["  ".join(c.ljust(w) if k < 3 else c.rjust(w) for k, (c, w) in enumerate(zip(row, widths))) for row in
                 (head, *cells)]  # fmt: skip
        lines.insert(1, "-" * len(lines[0]))
        lines.append(f"{self.parameters:,} parameters, {self.trained:,} of them trained; {self.flops:,.0f} FLOPs and "
                     f"{self.nbytes:,} bytes of activations, forward")  # fmt: skip
        return "\n".join(line.rstrip() for line in lines)

    __repr__ = __str__


def summary_of(model: Module, inputs: tuple) -> Summary:
    """See Module.summary."""
    args = [_as_input(x, model) for x in inputs]
    seen: list[tuple[str, Module, tuple, dict, Any]] = []
    training = [m for m in model.modules() if m.training]
    handles = []
    try:
        for path, m in model.named_modules():
            if not any(child is not None for child in m._modules.values()):
                handles.append(m.register_forward_hook(_noting(seen, path), with_kwargs=True))
        model.eval()
        with no_grad():
            model(*args)
            rows = [_row(*call) for call in list(seen)]
    finally:
        for h in handles:
            h.remove()
        for m in training:
            m.training = True
    found = Summary(rows)
    parameters = list(model.parameters())
    found.parameters = sum(p.size for p in parameters)
    found.trained = sum(p.size for p in parameters if p.requires_grad)
    return found


def _as_input(x: Any, model: Module) -> Tensor:
    """A tensor as it is; an array as one; a shape as zeros in the model's dtype."""
    if isinstance(x, Tensor):
        return x
    if isinstance(x, (tuple, list)) and all(isinstance(n, (int, np.integer)) for n in x):
        dtype = next((p.dtype for p in model.parameters() if p.dtype.kind == "f"), np.dtype(np.float32))
        return tensor(np.zeros(tuple(x), dtype))
    return tensor(x)


def _noting(seen: list, path: str):
    def note(module, args, kwargs, output):
        seen.append((path, module, args, kwargs, output))

    return note


def _row(path: str, module: Module, args: tuple, kwargs: dict, output: Any) -> Row:
    parts = list(_tensors(output))
    own = list(module._parameters.values())
    sizes = [p.size for p in own if p is not None]
    trained = sum(p.size for p in own if p is not None and p.requires_grad)
    shape = ", ".join(str(y.shape) for y in parts)
    nbytes = sum(y.size * y.dtype.itemsize for y in parts)
    return Row(path, type(module).__name__, shape, sum(sizes), trained, _flops(module, args, kwargs), nbytes)


def _tensors(value: Any):
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for v in value:
            yield from _tensors(v)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))


def _flops(module: Module, args: tuple, kwargs: dict) -> float | None:
    """Operations of the calls that a layer makes; None where it cannot be recorded."""
    own = compile(lambda *a: module.forward(*a, **kwargs), strict=False)
    own(*args)
    return sum(c.flops for c in calls_of(own.plans[0]) if c.op not in MOVES) if own.plans else None
