"""Activation checkpointing: the backward pass computes a block anew instead of keeping what it saved.

    y = pynn.checkpoint(block, x)        # in place of block(x)

A block is run once as usual, to learn on which tensors beside its arguments it depends; what it saved is dropped at
once. The result is linked to those tensors by one node, whose derivative runs the block again, with the random state
of then, and differentiates it. Values and gradients are those of the plain block, bit for bit.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from . import _core
from .autograd import enable_grad, is_grad_enabled
from .op import OPS, Op
from .tensor import Tensor

if TYPE_CHECKING:
    from .random import Generator

__all__ = ["checkpoint", "recomputing", "repeatable"]

_PART, _RESULTS = 16, 6  # tensors that one node links, results of a block: an op has 24 arguments at most
_state = threading.local()


def recomputing() -> bool:
    """Whether a checkpointed block is being run again: effects other than the random state's took place before."""
    return getattr(_state, "on", False)


@contextlib.contextmanager
def _again(generators: list, keys: list):
    """A second run: generators go on from keys and get their state back, statistics stay."""
    now = [OPS.copy(g._state) for g in generators]
    before, _state.on = recomputing(), True
    for g, key in zip(generators, keys):
        OPS.copy_(key, g._state)
    try:
        yield
    finally:
        _state.on = before
        for g, key in zip(generators, now):
            OPS.copy_(key, g._state)


def repeatable(fn: Callable) -> Callable:
    """fn as it would be now, each time: it draws the random numbers that the default generator has next, which still
    has them afterwards, and takes no statistics (batch norm).

    A loss under dropout so is one function of its parameters, whose values at two points can be compared.
    """
    from .random import default_generator

    key = OPS.copy(default_generator._state)

    def again(*args, **kwargs):
        with _again([default_generator], [key]):
            return fn(*args, **kwargs)

    return again


class _Block:
    """One call of a checkpointed function: what it needs to be run again, and gradients on their way to its parts.

    Attributes:
        places: of the arguments that require grad. caught: tensors with gradients that fn finds by other ways.
        live: the places of the results that have a gradient.
        found: gradients of caught, between the walk's visit of the block's node and of their own.
    """

    def __init__(self, fn: Callable, args: tuple, kwargs: dict, generators: list):
        self.fn, self.kwargs, self.generators = fn, kwargs, generators
        self.places = [k for k, a in enumerate(args) if isinstance(a, Tensor) and a.requires_grad]
        # those of places are the node's inputs, which go when it was walked
        self.args = [None if k in self.places else a for k, a in enumerate(args)]
        self.versions = [(k, a._version) for k, a in enumerate(self.args) if isinstance(a, Tensor)]
        self.keys = [OPS.copy(g._state) for g in generators]
        self.caught: list[Tensor] = []
        self.live: list[int] = []
        self.found: list = []

    def run(self, inputs: list[Tensor]):
        """What fn gives, with inputs as those arguments that require grad."""
        args = list(self.args)
        for k, version in self.versions:
            if args[k]._version != version:
                raise RuntimeError(f"checkpoint: argument {k} of shape {args[k].shape} was changed in place afterwards")
        for k, x in zip(self.places, inputs):
            args[k] = x
        with enable_grad():
            return self.fn(*args, **self.kwargs)

    def backward(self, inputs: list[Tensor], dys: list) -> list:
        """Gradients of inputs; those of caught are kept in found."""
        deeper = is_grad_enabled()  # the walk itself is being recorded
        xs = []
        for x in inputs:
            x = OPS.alias(x) if deeper and x.requires_grad else x.detach()
            if not x.requires_grad:
                x.requires_grad = True
            xs.append(x)
        since = _core.next_number()  # older nodes are the outer walk's
        with _again(self.generators, self.keys):
            ys = _tensors(self.run(xs))
        pairs = [(ys[k], d) for k, d in zip(self.live, dys) if ys[k].requires_grad]
        wanted = xs + self.caught
        gs = [None] * len(wanted)
        if pairs:
            gs = _core.run_backward([y for y, _ in pairs], [d for _, d in pairs], wanted, deeper, deeper, True,
                                    "checkpoint", since)  # fmt: skip
        self.found = gs[len(xs) :]
        return gs[: len(xs)]


def _block_vjp(node, *dys):
    block, n = node.params["block"], node.params["inputs"]
    gs = block.backward(list(node.ins[:n]), list(dys))
    return (*gs, *(Tensor.zeros_like(t) for t in node.ins[n:]))  # the links' gradients call their nodes


def _link_vjp(node, _):
    found, part = node.params["block"].found, slice(node.params["first"], node.params["first"] + len(node.ins))
    gs, found[part] = found[part], [None] * len(node.ins)
    return gs


_NAMES = [chr(ord("a") + k) for k in range(_PART)]
_INS = " ".join(f"{n}[...]?:*" for n in _NAMES)
_BLOCK = Op("checkpoint", _INS, " ".join(f"y{k}[...]:*" for k in range(_RESULTS)), vjp=_block_vjp, register=False,
            doc="fn(a, b, …), differentiated by running fn again. Source: Chen et al., arXiv 1604.06174.")  # fmt: skip
_LINK = Op("checkpoint_link", _INS, "y[]:*", vjp=_link_vjp, register=False, doc="What a checkpointed function catches.")


def _tensors(given: Any) -> list[Tensor]:
    """The Tensors in what a function gave, which may be tuples, lists and dicts of them."""
    if isinstance(given, Tensor):
        return [given]
    parts = given.values() if isinstance(given, dict) else given if isinstance(given, (tuple, list)) else ()
    return [t for part in parts for t in _tensors(part)]


def _with(given: Any, ys: Iterator[Tensor]) -> Any:
    """given with the next of ys for each Tensor."""
    if isinstance(given, Tensor):
        return next(ys)
    if isinstance(given, dict):
        return {k: _with(v, ys) for k, v in given.items()}
    if isinstance(given, (tuple, list)):
        parts = [_with(v, ys) for v in given]
        return type(given)(*parts) if hasattr(given, "_fields") else type(given)(parts)
    return given


def _caught(ys: list[Tensor], inputs: list[Tensor], since: int) -> list[Tensor]:
    """Tensors that require grad, were there before the run that made ys, and are not among its inputs."""
    known, caught, seen = {id(x) for x in inputs}, {}, set()
    todo = []
    for y in ys:
        if y.grad_fn is not None and _core.node_number(y.grad_fn) >= since:
            todo.append(y.grad_fn)
        elif id(y) not in known:
            caught.setdefault(id(y) if y.grad_fn is None else (y.grad_fn, _core.output_index(y)), y)
    while todo:
        node = todo.pop()
        if node in seen:
            continue
        seen.add(node)
        for t, (below, k) in zip(node.ins, node.next_functions):
            if isinstance(below, Tensor):
                if id(below) not in known:
                    caught.setdefault(id(below), below)
            elif below is not None and _core.node_number(below) < since:
                caught.setdefault((below, k), t)
            elif below is not None:
                todo.append(below)
    return list(caught.values())


def checkpoint(fn: Callable, *args, generators: Iterable[Generator] = (), **kwargs):
    """fn(*args, **kwargs), of which nothing but the arguments is kept for backward, which runs fn once more.

    Args:
        fn: a block: a Module, or any function of Tensors that gives a Tensor or several, also nested (6 at most that
            require grad). It must compute the same again: its random numbers are those of the default generator.
        args: up to 16 Tensors that require grad, and whatever else fn takes.
        generators: further generators from which fn takes keys.

    Gradients reach arguments, parameters and whatever else fn depends on, of any order, by backward and by grad.
    Statistics (batch norm) are taken in the first run alone. Memory: the block's activations are there while it runs
    and while it is differentiated, not between. It costs one more forward pass.

    Limits: other effects of fn (prints, counters, writes to tensors) happen twice; what it changes from outside
    between the runs changes its gradients; a second walk (retain_graph) runs it a third time.

    Raises:
        ValueError: more arguments or results than that. RuntimeError, in backward: an argument, or a
        tensor that fn depends on besides, was changed in place meanwhile.

    Source: Chen et al., arXiv 1604.06174; S4 Memory; F-AD-9.
    """
    from .random import default_generator  # it draws when imported, for which ops must be there

    if not is_grad_enabled():
        return fn(*args, **kwargs)
    block = _Block(fn, args, kwargs, [default_generator, *generators])
    inputs = [args[k] for k in block.places]
    leaves = [x.detach().requires_grad_() for x in inputs]
    mark = _core.next_number()
    given = block.run(leaves)
    ys = _tensors(given)
    block.live = live = [k for k, y in enumerate(ys) if y.requires_grad]
    if not live:
        return given
    block.caught = _caught([ys[k] for k in live], leaves, mark)
    parts = range(0, len(block.caught), _PART)
    if len(inputs) + len(parts) > _PART or len(live) > _RESULTS:
        raise ValueError(f"checkpoint: expected at most {_PART - len(parts)} arguments that require grad and "
                         f"{_RESULTS} results, got {len(inputs)} and {len(live)}")  # fmt: skip
    ys = [y.detach() if k in live else y for k, y in enumerate(ys)]
    given = _with(given, iter(ys))  # what the run saved goes here
    links = []
    for first in parts:
        link, some = Tensor(0.0), tuple(block.caught[first : first + _PART])
        _core.linked(_LINK, some, {"block": block, "first": first}, [link], (1 << len(some)) - 1)
        links.append(link)
    n = len(inputs)
    _core.linked(_BLOCK, (*inputs, *links), {"block": block, "inputs": n}, [ys[k] for k in live], (1 << n) - 1)
    return given
