"""Looking at plans: what a plan calls, where a replay's time goes, and whether it does what the function does."""

from __future__ import annotations

import math
import statistics
from typing import NamedTuple

import numpy as np

from . import _core, limits
from .plan import flattened
from .tensor import Tensor

__all__ = ["Call", "Profile", "describe", "profile", "verify"]


class Call(NamedTuple):
    """One call of a plan: the op, the shapes that it reads and writes, bytes moved at least, operations."""

    op: str
    reads: tuple
    writes: tuple
    nbytes: int
    flops: float


def calls_of(plan) -> list[Call]:
    return [Call(*row) for row in _core.describe_plan(plan)]


def describe(plan) -> str:
    """A table of the plan's calls."""
    calls = calls_of(plan)
    lines = [f"{'call':>4} {'op':26} {'reads':44} {'writes':30} {'bytes':>12} {'flops':>12}"]
    for k, c in enumerate(calls):
        lines.append(f"{k:4} {c.op:26} {_shapes(c.reads, 44)} {_shapes(c.writes, 30)} {c.nbytes:12,} {c.flops:12,.0f}")
    nbytes, flops = sum(c.nbytes for c in calls), sum(c.flops for c in calls)
    lines.append(f"{len(calls)} calls, {nbytes:,} bytes, {flops:,.0f} flops; pool of {plan.pool_bytes:,} bytes")
    return "\n".join(lines)


def _shapes(shapes: tuple, width: int) -> str:
    text = " ".join("x".join(map(str, s)) or "()" for s in shapes)
    return (text if len(text) <= width else text[: width - 1] + "…").ljust(width)


# ---- time ----------------------------------------------------------------------------------------


class Profile:
    """Where the time of a replay goes.

    Attributes:
        calls: the plan's calls. ns: the median nanoseconds of each. total_ns: of the whole replay.
    """

    def __init__(self, calls: list[Call], ns: list[float]):
        self.calls, self.ns = calls, ns
        self.total_ns = sum(ns)

    def roofline(self, k: int) -> float:
        """The share of what the machine could reach in call k: of its bandwidth for such bytes, or of its flops."""
        c = self.calls[k]
        read, written = (sum(map(math.prod, shapes)) for shapes in (c.reads, c.writes))
        written = c.nbytes * written / max(read + written, 1)
        least = limits.roofline(c.nbytes - written, written, c.flops)
        return least / (self.ns[k] * 1e-9) if self.ns[k] else 0.0

    def __str__(self):
        lines = [f"{'call':>4} {'op':26} {'writes':30} {'µs':>10} {'share':>7} {'roofline':>9}"]
        for k, c in enumerate(self.calls):
            share = self.ns[k] / max(self.total_ns, 1)
            lines.append(
                f"{k:4} {c.op:26} {_shapes(c.writes, 30)} {self.ns[k] / 1e3:10.2f} {share:7.1%} {self.roofline(k):9.0%}"
            )
        lines.append(f"{len(self.calls)} calls, {self.total_ns / 1e3:.2f} µs")
        return "\n".join(lines)

    def plot(self, path: str | None = None):
        """A timeline of the replay, a bar for each call; written to path where one is given.

        Returns:
            the matplotlib figure. Raises ImportError, naming the extra, without matplotlib.
        """
        try:
            from matplotlib.figure import Figure
        except ImportError:
            raise ImportError("plot needs matplotlib: pip install 'pynn-core[plot]'") from None
        figure = Figure(figsize=(10, 0.22 * len(self.calls) + 1.2), layout="constrained")
        axes = figure.subplots()
        starts = np.cumsum([0.0, *self.ns[:-1]]) / 1e3
        names = sorted({c.op for c in self.calls})
        for k, c in enumerate(self.calls):
            axes.barh(k, max(self.ns[k] / 1e3, 1e-3), left=starts[k], color=f"C{names.index(c.op) % 10}")
        axes.set_yticks(range(len(self.calls)), [c.op for c in self.calls], fontsize=7)
        axes.invert_yaxis()
        axes.set_xlabel(f"µs; {self.total_ns / 1e3:.1f} in all")
        axes.set_title("One replay")
        if path is not None:
            figure.savefig(path, dpi=120)
        return figure


def profile(compiled, args: tuple, kwargs: dict, repeats: int) -> Profile:
    if repeats < 1:
        raise ValueError(f"profile: argument 'repeats': expected at least 1, got {repeats}")
    plan, tensors, ins = _prepared(compiled, args, kwargs)
    with _State(plan, tensors) as state:
        runs = []
        for _ in range(repeats + 1):
            state.restore()
            runs.append(_core.timed_replay(plan, tensors, ins)[1])
    return Profile(calls_of(plan), [statistics.median(ns) for ns in zip(*runs[1:])])


def _prepared(compiled, args: tuple, kwargs: dict):
    found = compiled._prepared(args, kwargs)
    if found is None:
        raise RuntimeError("compile: there is no plan for these arguments: call the function with them first")
    return found


# ---- state that replays change, and comparing ----------------------------------------------------------


class _State:
    """What a replay changes, as it was on entering; put back on leaving."""

    def __init__(self, plan, tensors: list):
        self.storages = _core.written_storages(plan)
        self.leaves = _core.grad_leaves(plan, tensors)
        self.inputs = [tensors[k] for k in plan.written_args]

    def __enter__(self):
        self.held = [_core.storage_bytes(s) for s in self.storages]
        self.grads = [x.grad for x in self.leaves]
        self.values = [None if g is None or g.is_sparse else g.numpy_copy() for g in self.grads]
        self.arrays = [x.numpy_copy() for x in self.inputs]
        return self

    def restore(self) -> None:
        for s, old in zip(self.storages, self.held):
            _core.set_storage_bytes(s, old)
        for x, g, old in zip(self.leaves, self.grads, self.values):
            if old is not None:  # one by rows is replaced, never written
                _core.overwrite(g, old)
            x.grad = g
        for x, old in zip(self.inputs, self.arrays):
            _core.overwrite(x, old)

    def __exit__(self, *exc):
        self.restore()

    def found(self, outs: list) -> list[tuple[str, bytes | None]]:
        """Every value after a call, by name."""
        rows = [(f"result {k}", v.numpy_copy().tobytes() if isinstance(v, Tensor) else repr(v).encode())
                for k, v in enumerate(outs)]  # fmt: skip
        rows += [
            (f"the gradient of the leaf of shape {x.shape}", None if x.grad is None else _dense(x.grad).tobytes())
            for x in self.leaves
        ]
        rows += [(f"state {k} of {s.nbytes} bytes", _core.storage_bytes(s)) for k, s in enumerate(self.storages)]
        return rows + [(f"a written argument of shape {x.shape}", x.numpy_copy().tobytes()) for x in self.inputs]


def _dense(grad: Tensor) -> np.ndarray:
    return (grad.to_dense() if grad.is_sparse else grad).numpy_copy()


def verify(compiled, args: tuple, kwargs: dict, n: int) -> None:
    if n < 1:
        raise ValueError(f"verify: argument 'n': expected at least 1, got {n}")
    plan, tensors, ins = _prepared(compiled, args, kwargs)
    names = _state_names(compiled)
    with _State(plan, tensors) as state:
        replayed = [state.found(_core.timed_replay(plan, tensors, ins)[0]) for _ in range(n)]
        state.restore()
        for k in range(n):
            flat: list = []
            flattened(compiled._eager(args, kwargs, tensors), flat)
            for (what, got), (_, want) in zip(replayed[k], state.found(flat), strict=True):
                if got != want:
                    name = _named(what, state, names)
                    raise AssertionError(f"verify: call {k + 1} of {n}: {name}: the replay differs from the function")


def _state_names(compiled) -> dict:
    """{storage: name} of the parameters and buffers of modules and the state of optimizers."""
    names = {}
    for thing in compiled._dependencies()[1]:
        if hasattr(thing, "param_groups"):
            for values in thing.state.values():
                names.update({v.storage_: f"an optimizer's {k}" for k, v in values.items() if isinstance(v, Tensor)})
        else:
            for kind in (thing.named_parameters, thing.named_buffers):
                names.update({x.storage_: name for name, x in kind()})
    return names


def _named(what: str, state: _State, names: dict) -> str:
    if what.startswith("state "):
        return names.get(state.storages[int(what.split()[1])], what)
    return what
