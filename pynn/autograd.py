"""Derivatives of any order: backward, grad, vjp, jvp, hvp, and what switches recording.

The rules of the single ops are in pynn/ops; the walk is in pynn/_core/autograd.pxi.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from _thread import get_ident
from collections.abc import Callable

import numpy as np

from . import _core
from .tensor import Tensor, operand

__all__ = ["backward", "detect_anomaly", "enable_grad", "grad", "hvp", "is_grad_enabled", "jvp", "no_grad", "vjp"]


class _GradMode(contextlib.ContextDecorator):
    def __init__(self, on: bool):
        self._on = on
        self._before: dict[int, list[bool]] = {}  # by thread: several may be inside at once

    def __enter__(self):
        self._before.setdefault(get_ident(), []).append(_core.set_grad_enabled(self._on))
        return self

    def __exit__(self, *exc):
        me = get_ident()
        _core.set_grad_enabled(self._before[me].pop())
        if not self._before[me]:
            del self._before[me]

    def __call__(self, fn):
        if inspect.isgeneratorfunction(fn):
            return self._stepwise(fn)

        @functools.wraps(fn)
        def wrapped(*args, **kwargs):
            with type(self)():
                return fn(*args, **kwargs)

        return wrapped

    def _stepwise(self, fn):
        """A generator runs in this mode, what it yields to does not."""

        @functools.wraps(fn)
        def wrapped(*args, **kwargs):
            steps, value = fn(*args, **kwargs), None
            step = steps.send
            while True:
                try:
                    with type(self)():
                        out = step(value)
                except StopIteration as end:
                    return end.value
                step = steps.send
                try:
                    value = yield out
                except GeneratorExit:
                    with type(self)():
                        steps.close()
                    raise
                except BaseException as e:
                    step, value = steps.throw, e

        return wrapped


class no_grad(_GradMode):
    """Nothing is recorded on this thread inside: no history, nothing saved. A context or a decorator."""

    def __init__(self):
        super().__init__(False)


class enable_grad(_GradMode):
    """History is recorded on this thread inside, also within no_grad()."""

    def __init__(self):
        super().__init__(True)


is_grad_enabled = _core.grad_enabled


@contextlib.contextmanager
def detect_anomaly():
    """The output of every kernel that this thread calls inside is checked for NaN and Inf; FloatingPointError
    names the op that made it."""
    before = _core.set_anomaly(True)
    try:
        yield
    finally:
        _core.set_anomaly(before)


def _listed(value) -> list:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def backward(tensors, grad_tensors=None, retain_graph: bool | None = None, create_graph: bool = False) -> None:
    """Adds the gradients of tensors to the `.grad` of the leaves they were computed from.

    Args:
        tensors: a Tensor or several.
        grad_tensors: gradients to start from, of the tensors' shapes; may be left out for scalars (1).
        retain_graph: keep the graph for another walk; by default what create_graph is.
        create_graph: record the walk itself, so that the gradients can be differentiated.

    Raises:
        RuntimeError: no history, a non-scalar without a seed, a freed graph, or a saved value changed in place.

    Source: S0 Computation Graphs; S1 §2.10.
    """
    retain = create_graph if retain_graph is None else retain_graph
    _core.run_backward(_listed(tensors), grad_tensors, None, create_graph, retain, True, "backward")


def grad(
    outputs,
    inputs,
    grad_outputs=None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    allow_unused: bool = False,
) -> tuple[Tensor | None, ...]:
    """The gradients of outputs with respect to inputs, without touching any `.grad`.

    Args and errors as for `backward`; an input that the outputs do not depend on raises RuntimeError,
    or gives None with allow_unused.

    Returns:
        a tuple with one Tensor of each input's shape.
    """
    retain = create_graph if retain_graph is None else retain_graph
    xs = _listed(inputs)
    for k, x in enumerate(xs):
        if not isinstance(x, Tensor):
            raise TypeError(f"grad: argument 'inputs': expected Tensors, got {type(x).__name__} at {k}")
    return tuple(_core.run_backward(_listed(outputs), grad_outputs, xs, create_graph, retain, allow_unused, "grad"))


def _leaves(inputs, create_graph: bool, what: str) -> list[Tensor]:
    from .op import OPS

    leaves = []
    for x in _listed(inputs):
        x = operand(x, f"{what}: argument 'inputs'")
        x = OPS.alias(x) if create_graph and x.requires_grad else x.detach()
        x.requires_grad = True
        leaves.append(x)
    return leaves


def _settle(leaves: list[Tensor]) -> None:
    """Nobody outside has these leaves: what is differentiated later gives them no gradient, and needs no new plan."""
    for x in leaves:
        if x.is_leaf:
            x.requires_grad = False


def _directions(v, leaves: list[Tensor], what: str) -> list:
    """v as one direction of its shape for each leaf."""
    vs = _listed(v)
    if len(vs) != len(leaves):
        raise ValueError(f"{what}: argument 'v': expected {len(leaves)} directions, one for each input, got {len(vs)}")
    for k, (d, x) in enumerate(zip(vs, leaves)):
        shape = d.shape if isinstance(d, Tensor) else np.shape(d)
        if shape != x.shape:
            raise ValueError(f"{what}: argument 'v': expected shape {x.shape} as input {k} has, got {shape}")
    return vs


def _packed(values, like):
    return tuple(values) if isinstance(like, (list, tuple)) else values[0]


def _zeros(g, x):
    return Tensor.zeros_like(x) if g is None else g


def vjp(func: Callable, inputs, v=None, create_graph: bool = False):
    """(func(*inputs), vᵀJ): the vector–Jacobian product at inputs, without the Jacobian (S1 §3.10).

    v has the shape of the output (a list of shapes for several); it may be left out for a scalar.
    """
    leaves = _leaves(inputs, create_graph, "vjp")
    with enable_grad():
        ys = func(*leaves)
    gs = _core.run_backward(_listed(ys), v, leaves, create_graph, create_graph, True, "vjp")
    _settle(leaves)
    return ys, _packed([_zeros(g, x) for g, x in zip(gs, leaves)], inputs)


def jvp(func: Callable, inputs, v=None, create_graph: bool = False):
    """(func(*inputs), J v): the derivative along v, as the VJP of the VJP (which is linear in its seed).

    v has the shapes of the inputs; it may be left out for scalars.
    """
    leaves = _leaves(inputs, create_graph, "jvp")
    if v is None and any(x.size != 1 for x in leaves):
        raise ValueError("jvp: argument 'v': expected a direction of the inputs' shapes, got none")
    vs = [Tensor.ones_like(x) for x in leaves] if v is None else _directions(v, leaves, "jvp")
    with enable_grad():
        ys = func(*leaves)
        y_list = _listed(ys)
        seeds = [Tensor.zeros_like(y) for y in y_list]
        for u in seeds:
            u.requires_grad = True
        live = [(y, u) for y, u in zip(y_list, seeds) if y.requires_grad]
        if not live:
            return ys, _packed([Tensor.zeros_like(y) for y in y_list], ys)
        gs = _core.run_backward([y for y, _ in live], [u for _, u in live], leaves, True, True, True, "jvp")
        pairs = [(g, d) for g, d in zip(gs, vs) if g is not None and g.requires_grad]
        ts = [None] * len(seeds)
        if pairs:
            ts = _core.run_backward(
                [g for g, _ in pairs], [d for _, d in pairs], seeds, create_graph, True, True, "jvp"
            )
    _settle([*leaves, *seeds])
    return ys, _packed([_zeros(t, y) for t, y in zip(ts, y_list)], ys)


def hvp(func: Callable, inputs, v, create_graph: bool = False):
    """(func(*inputs), H v) for a scalar func: the exact Hessian–vector product by a second backward (S1 §2.11)."""
    leaves = _leaves(inputs, create_graph, "hvp")
    vs = _directions(v, leaves, "hvp")
    with enable_grad():
        y = func(*leaves)
        gs = _core.run_backward([y], None, leaves, True, True, True, "hvp")
        pairs = [(g, d) for g, d in zip(gs, vs) if g is not None and g.requires_grad]
        hs = [None] * len(leaves)
        if pairs:
            hs = _core.run_backward(
                [g for g, _ in pairs], [d for _, d in pairs], leaves, create_graph, create_graph, True, "hvp"
            )
    _settle(leaves)
    return y, _packed([_zeros(h, x) for h, x in zip(hs, leaves)], inputs)
