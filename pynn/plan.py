"""Plans: a function's kernels recorded once and run again as one C call.

The contract. `compile(fn)` runs fn eagerly the first time that it meets a signature (shapes, dtypes and layout of
the tensors among the arguments, plain values among them, grad mode, threads) and records the kernels. Later calls
of that signature replay the record: bit for bit what fn would compute, without Python, without allocations.
An argument that is neither dense nor channels-last is made dense first, in the recorded call too: where a product of
few rows or columns reads it, its last bits are those of fn called on such a copy.

Looked at again before each replay: the arguments; every parameter's memory; which `.grad`s are there; grad mode,
threads, ISA level and precision; everything set on modules (attributes, train and eval, hooks) and on optimizers; what
closure cells, globals and defaults hold, of fn, of the functions that these lead to, and of the methods of modules.
Where something differs, another plan is looked for, or a new one made. Learning rates are read from tensors and may
change freely. What a step binds (`p.grad`) is bound again after each replay.

Not seen: what changes inside of lists, dicts and other objects. `verify` runs replay and function side by side on
copies of the state and names the first difference.

Not recordable: what reads a value on the host (`item()`, `bool()`, `numpy()`), hooks, kernels written in Python,
arrays that become tensors inside, results with history. Such a run goes on eagerly to its end; then `strict=True`
raises NotRecordable with the line that caused it, and `strict=False` warns once and stays eager.
"""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Callable

from . import _core
from .autograd import no_grad
from .op import OPS
from .tensor import Tensor

__all__ = ["Compiled", "NotRecordable", "compile"]

CACHE_BYTES = 256 << 20  # of all plans of a function
TRIES = 3  # runs that may fail to be recorded before non-strict use gives up: lazily made state comes first


class NotRecordable(RuntimeError):
    """A function did something that a replay could not repeat. The call itself was completed."""


def compile(fn: Callable | None = None, *, strict: bool = True, max_bytes: int = CACHE_BYTES) -> Compiled:
    """fn, a function or Module, such that repeated calls run as one C call; see the contract in pynn/plan.py.

    Args:
        fn: takes and returns tensors, arrays, plain values, and tuples, lists and dicts of them. Arrays among
            the arguments become tensors on the same memory.
        strict: raise where fn cannot be recorded, instead of staying eager.
        max_bytes: of memory for plans; those used longest ago are dropped.

    Returns:
        a Compiled, called as fn is. Also a decorator: @pynn.compile, @pynn.compile(strict=False).

    Raises:
        TypeError: fn cannot be called. ValueError: max_bytes is not positive. NotRecordable: at calls, if strict.
    """
    if fn is None:
        return functools.partial(compile, strict=strict, max_bytes=max_bytes)
    return Compiled(fn, strict=strict, max_bytes=max_bytes)


class Compiled(_core.PlanCache):
    """What `compile` returns: fn with its plans.

    Attributes:
        captures, replays: calls that were recorded, and calls that were replayed.
        plans: those in the cache, the one used last first.
        why: why the last recording could not be used; None where it could.
    """

    def __init__(self, fn: Callable, *, strict: bool = True, max_bytes: int = CACHE_BYTES):
        if not callable(fn):
            raise TypeError(f"compile: argument 'fn': expected a function or Module, got {type(fn).__name__}")
        if not max_bytes > 0:
            raise ValueError(f"compile: argument 'max_bytes': expected a positive number, got {max_bytes}")
        self.fn = fn
        self.strict = strict
        self.max_bytes = max_bytes
        self.captures = 0
        self.why: str | None = None
        self._failed = 0
        self._session = None
        functools.update_wrapper(self, fn, updated=())

    def __reduce__(self):
        """What stands under its own name, as a decorated function does, goes by it; others make plans of their own."""
        name = getattr(self, "__qualname__", "")
        found = sys.modules.get(self.__module__)
        for part in name.split("."):
            found = getattr(found, part, None)
        if found is self:
            return name
        return functools.partial(Compiled, strict=self.strict, max_bytes=self.max_bytes), (self.fn,)

    def session(self, **options):
        """The function that is compiled as a pynn.Session: arrays in, arrays out."""
        from .session import Session

        return Session(self.fn, **options)

    def predict(self, *xs, out=None):
        """The function's results for arrays, as arrays; see pynn.Session.predict."""
        if self._session is None:
            self._session = self.session()
        return self._session.predict(*xs, out=out)

    # ---- looking at plans ------------------------------------------------------------------------

    def describe(self) -> str:
        """The plan used last as a table: each call with shapes, bytes and floating-point operations."""
        from .plan_report import describe

        return describe(self._last_plan())

    def profile(self, *args, repeats: int = 20, **kwargs):
        """Replays the plan for these arguments on copied state, timing every call; see plan_report.Profile.

        Raises:
            RuntimeError: there is no plan for these arguments: call the function with them first.
        """
        from .plan_report import profile

        return profile(self, args, kwargs, repeats)

    def verify(self, *args, n: int = 1, **kwargs) -> None:
        """Runs n replays, and the function itself n times, on copied state with these arguments, and compares bits.

        The state (parameters, optimizer state, random numbers, gradients) is as before afterwards. What the function
        changes besides (lists, counters) is changed by n calls.

        Raises:
            AssertionError: naming the first value that differs, and in which of the n calls. RuntimeError: there is
            no plan for these arguments: call the function with them first.
        """
        from .plan_report import verify

        verify(self, args, kwargs, n)

    def _last_plan(self):
        if not self.plans:
            raise RuntimeError("compile: there is no plan yet: call the function first")
        return self.plans[0]

    # ---- calls -------------------------------------------------------------------------------------

    def _missed(self, args, kwargs, form, tensors, ins):
        """A call for which there is no plan."""
        if self._failed >= TRIES and not self.strict:
            return self._eager(args, kwargs, tensors)
        return self._record(args, kwargs, form, tensors, ins)

    def _eager(self, args, kwargs, tensors: list):
        args, kwargs = _core.restore([list(args), kwargs], tensors)
        return self.fn(*args, **kwargs)

    # ---- recording -----------------------------------------------------------------------------

    def _record(self, args, kwargs, form, tensors, ins):
        """Runs fn eagerly with a recorder beside it, and keeps the plan where there is one."""
        recorder = _core.Recorder()
        # an argument's memory is known by a storage of its own: what else the function finds there is no argument
        own = _wrapped(tensors, ins)
        problem = _unfit(recorder, tensors, own)
        if problem:
            return self._not_recorded(problem, self._eager(args, kwargs, tensors))
        args, kwargs = _core.restore([list(args), kwargs], own)
        before, versions = _core.structure_version(), [y._version for y in own]
        recorder.start(_where)
        try:
            out = self.fn(*args, **kwargs)
        finally:
            recorder.stop()
            written = [k for k, y in enumerate(own) if y._version != versions[k]]
            for k in written:
                _write_back(own[k], tensors[k])
        if recorder.restructured:
            recorder.spoil("an attribute of a module, or an option of an optimizer, is set inside")
        flat: list = []
        results = flattened(out, flat)
        plan = _core.plan_of(recorder, own, flat, self._packs(), self._joint)
        out = _core.rebuild(results, iter([_instead(v, own, tensors) for v in flat]))
        if plan is None:
            return self._not_recorded(recorder.why, out)
        for k in written:
            if tensors[k] is not ins[k] or not _core.same_memory(own[k], tensors[k]):
                return self._not_recorded(f"argument tensor {k} is written, and not contiguous or part of another", out)
        self.captures += 1
        self._failed = 0
        self.why = None
        guards, things = self._dependencies()
        state = _core.described(things, self._by_mode) if things else None
        if _core.structure_version() == before:  # else another thread has changed something: what, no one knows
            self._add(form, ins, plan, guards, results, state, before, self.max_bytes)
        return out

    def _not_recorded(self, why: str, out):
        self.why = why
        self._failed += 1
        name = _name_of(self.fn)
        if self.strict:
            raise NotRecordable(f"compile: {name} cannot be replayed: {why}. The call itself was completed")
        if self._failed == TRIES:
            warnings.warn(f"compile: {name} stays eager: {why}", RuntimeWarning, stacklevel=3)
        return out

    _joint = None  # the op for a convolution and the batch norm behind it, where last bits may change
    _by_mode = True  # whether train and eval have plans of their own

    def _dependencies(self) -> tuple[list, list]:
        """What is compared before a replay, and the modules and optimizers that fn leads to."""
        return _core.dependencies(self.fn)

    def _state_of_modules(self):
        """What the modules and optimizers that fn leads to are like; None where none is found."""
        things = self._dependencies()[1]
        return _core.described(things, self._by_mode) if things else None

    def __repr__(self):
        counts = f"{len(self.plans)} plans, {self.captures} captures, {self.replays} replays"
        return f"<compiled {_name_of(self.fn)}: {counts}>"


def _name_of(fn) -> str:
    return getattr(fn, "__qualname__", type(fn).__name__)


def _wrapped(tensors: list, ins: list) -> list:
    """ins, each on a storage of its own; those that ask for a gradient, and copies, as they are."""
    own: dict[int, Tensor] = {}
    for x, y in zip(tensors, ins):
        if id(y) not in own:
            own[id(y)] = _core.rewrapped(y) if x is y and not x.requires_grad else y
    return [own[id(y)] for y in ins]


def _instead(v, own: list, tensors: list):
    """The argument itself where v is what stood for it."""
    return next((x for x, y in zip(tensors, own) if y is v), v)


def _write_back(x: Tensor, target: Tensor) -> None:
    if not _core.same_memory(x, target):
        with no_grad():
            target.copy_(x)
    target._bump()


def _unfit(recorder, tensors: list, own: list) -> str | None:
    """Why these arguments cannot be recorded; None where they can. Enters them, overlapping ones as copies."""
    for k, (x, y) in enumerate(zip(tensors, own)):
        if x.grad_fn is not None and _core.grad_enabled():
            return f"argument tensor {k} of shape {x.shape} has history; pass x.detach(), or call under no_grad()"
        if x.requires_grad and (x is not y or type(x) is not Tensor) and _core.grad_enabled():
            return f"argument tensor {k} of shape {x.shape} requires grad, and is a parameter or not contiguous"
        if not recorder.add_input(y, k):
            if x.requires_grad and _core.grad_enabled():
                return f"argument tensor {k} of shape {x.shape} requires grad and overlaps another argument"
            own[k] = OPS.copy(y.detach())
            recorder.add_input(own[k], k)
    return None


def _where() -> str:
    """The line outside of pynn that is running."""
    frame = sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__", "").split(".")[0] == "pynn":
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame else ""


def flattened(out, flat: list):
    """How out is nested, with its leaves in flat; None for one tensor."""
    if isinstance(out, Tensor):
        flat.append(out)
        return None
    return _form(out, flat)


def _form(v, flat: list):
    if type(v) in (tuple, list):
        return type(v), [_form(u, flat) for u in v]
    if type(v) is dict:
        return dict, {k: _form(u, flat) for k, u in v.items()}
    flat.append(v)
    return None
