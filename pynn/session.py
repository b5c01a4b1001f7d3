"""Sessions: a model as a function from arrays to arrays, for serving.

    session = model.session()         # or Session.from_file("model.safetensors")
    y = session.predict(x)            # from any number of threads

A session reads the model's parameters where they are: training goes on, and predictions follow. It computes in
evaluation mode without touching the model's own mode. A convolution and the batch norm behind it are one operation
here, whose result differs from theirs in last bits; all else has the bits of the model's own calls.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Sequence

import numpy as np

from . import _core
from .autograd import no_grad
from .nn.module import Module
from .op import OPS
from .plan import CACHE_BYTES, Compiled, NotRecordable
from .tensor import Tensor

__all__ = ["Session"]


class Session:
    """Predictions of a model.

    Args:
        model: a Module, or a function of tensors; its results are tensors of which none is an argument.
        max_bytes: of memory for plans; one is made for each shape of the arguments.
        batch_rows: gather the rows of several callers into one run of up to so many; 0: each caller for itself.
            Rows are independent in most models, so that results are the same but for the last bits of a row that
            would have run alone; those that mix rows must not use it.
        wait: seconds that the first of several callers waits for others.

    Raises:
        TypeError: model cannot be called. ValueError: a number out of range.
    """

    def __init__(self, model, *, max_bytes: int = CACHE_BYTES, batch_rows: int = 0, wait: float = 200e-6):
        if not callable(model):
            raise TypeError(f"Session: argument 'model': expected a Module or function, got {type(model).__name__}")
        if batch_rows < 0 or wait < 0:
            raise ValueError(f"Session: expected batch_rows >= 0 and wait >= 0, got {batch_rows} and {wait}")
        self.model = model
        self._plans = _Served(model, max_bytes)
        self._lock = threading.Lock()
        self._gate = _Gate(self._serve, batch_rows, wait) if batch_rows else None

    @classmethod
    def from_file(cls, path, **options) -> Session:
        """A session of the model in a file that pynn.save wrote; options as for the class.

        Raises:
            as pynn.load: FileNotFoundError, ValueError.
        """
        from .nn.saving import load

        return cls(load(path), **options)

    # ---- predictions ---------------------------------------------------------------------------

    def predict(self, *xs, out=None):
        """The model's results for xs, arrays whose first dimension counts samples.

        Args:
            xs: arrays or anything that turns into one; floats become the dtype of the model's parameters.
            out: array (or tuple of arrays) of the results' shapes and dtypes, C-contiguous, to write into.

        Returns:
            an array of its own (out, where given), or a tuple of them.

        Raises:
            TypeError, ValueError, IndexError: naming the argument, what was expected and what came.
        """
        if out is not None:
            self._serve(xs, out)
            return out
        if self._gate is not None:
            return self._gate(xs)
        y = self._plans.serve(xs, ())
        return self._serve(xs) if y is None else y

    __call__ = predict

    def _serve(self, xs: tuple, out=None):
        xs = tuple(self._array(x, k) for k, x in enumerate(xs))
        outs = () if out is None else tuple(out) if isinstance(out, (tuple, list)) else (out,)
        y = None if outs else self._plans.serve(xs, ())
        while y is None:  # more than once only where another thread drops the plan in between
            with self._lock:
                plan = self._plans.plan_for(xs)
            _check_out(_core.result_forms(plan), outs)
            xs = tuple(x.copy() if any(np.may_share_memory(x, o) for o in outs) else x for x in xs)
            y = self._plans.serve(xs, outs)
        return y

    def _array(self, x, k: int) -> np.ndarray:
        """x as an array that a kernel can read: native, aligned, row-major, floats in the model's dtype."""
        if isinstance(x, Tensor):
            x = _core.read_view(x)
        try:
            arr = np.asarray(x)
        except ValueError as e:
            raise ValueError(f"predict: argument {k}: expected a rectangular array, got a ragged one ({e})") from None
        if arr.dtype.kind not in "fiub":
            raise TypeError(f"predict: argument {k}: expected real numbers, got dtype {arr.dtype}")
        want = self._dtype if arr.dtype.kind == "f" else np.int64 if arr.dtype.kind in "iu" else arr.dtype
        if arr.dtype == np.uint8:
            want = np.uint8
        return np.require(arr, want, ["C", "A"])

    @property
    def _dtype(self) -> np.dtype:
        parameters = getattr(self.model, "parameters", tuple)()
        return next((p.dtype for p in parameters if p.dtype.kind == "f"), np.dtype(np.float32))

    def warm_up(self, *shapes: Sequence[int], dtype=None) -> Session:
        """Makes the plan for arguments of these shapes, so that the first prediction is as fast as the next."""
        self._serve(tuple(np.zeros(s, dtype or self._dtype) for s in shapes))
        return self

    def __repr__(self):
        return f"Session of {type(self.model).__name__}: {len(self._plans.plans)} plans, {self._plans.replays} replays"


def _check_out(forms: list, outs: tuple) -> None:
    if outs and len(forms) != len(outs):
        raise ValueError(f"predict: argument 'out': expected {len(forms)} arrays, got {len(outs)}")
    for (shape, dtype), o in zip(forms, outs):
        if not isinstance(o, np.ndarray) or o.shape != shape or o.dtype != dtype:
            got = f"{o.shape} and {o.dtype}" if isinstance(o, np.ndarray) else type(o).__name__
            raise ValueError(f"predict: argument 'out': expected an array of shape {shape} and {dtype}, got {got}")
        if not (o.flags.c_contiguous and o.flags.aligned and o.flags.writeable):
            raise ValueError("predict: argument 'out': expected a writable, aligned, C-contiguous array")
    if any(np.may_share_memory(a, b) for a, b in itertools.combinations(outs, 2)):
        raise ValueError("predict: argument 'out': expected arrays that do not overlap")


class _Served(_core.ServedPlans, Compiled):
    """The plans of a session: those of the model in evaluation mode, without history."""

    def __init__(self, model, max_bytes: int):
        Compiled.__init__(self, self._run, max_bytes=max_bytes)
        self.model = model

    def _run(self, *xs):
        model = _evaluating(self.model) if isinstance(self.model, Module) else self.model
        ys = model(*xs)
        made: list = []
        for y in ys if isinstance(ys, (tuple, list)) else (ys,):
            if not isinstance(y, Tensor):
                raise TypeError(f"Session: expected the model to return Tensors, got {type(y).__name__}")
            # an array that is handed out has memory of its own
            own = _core.fills_new_storage(y) and all(y.storage_ is not z.storage_ for z in made)
            made.append(y if own else OPS.copy(y.contiguous()))
        return made

    def plan_for(self, xs: tuple):
        """The plan for arrays like xs, made where there is none."""
        with no_grad():
            args = tuple(_core.share_array(x) for x in xs)
            form, tensors = self._signature(args)
            while (plan := self._found(form, tensors)) is None:  # again where another thread changes a module meanwhile
                self._record(args, {}, form, tensors, tensors)
        why = _core.not_servable(plan)
        if why:
            self.clear()
            raise NotRecordable(f"Session: {why}")
        return plan

    _by_mode, _joint = False, OPS.conv2d_norm

    def _dependencies(self):
        return _core.dependencies(self.model)


def _evaluating(module: Module) -> Module:
    """module in evaluation mode: a twin on the same parameters, so that the module's own mode stays as it is."""
    twin = object.__new__(type(module))
    twin.__dict__.update(module.__dict__)
    twin.__dict__["training"] = False
    twin.__dict__.pop("_plan", None)  # a Sequential's: it names the parts that are not twins
    twin.__dict__["_modules"] = {}
    for name, child in module._modules.items():
        twin.__dict__["_modules"][name] = None if child is None else _evaluating(child)
        if module.__dict__.get(name) is child:
            twin.__dict__[name] = twin.__dict__["_modules"][name]
    return twin


class _Gate:
    """Gathers the rows of callers that come within a moment of each other into one run."""

    def __init__(self, serve, rows: int, wait: float):
        self._serve, self._rows, self._wait = serve, rows, wait
        self._changed = threading.Condition()
        self._queue: list[_Request] = []
        self._led = False

    def __call__(self, xs: tuple):
        mine = _Request(tuple(np.asarray(x) for x in xs))
        with self._changed:
            self._queue.append(mine)
            self._changed.notify_all()
            while not mine.done and self._led:
                self._changed.wait()
            if not mine.done:
                self._led = True
                self._gather(mine.form)
                batch = self._take(mine)
        if not mine.done:
            try:
                self._run(batch)
            finally:
                with self._changed:
                    self._led = False
                    self._changed.notify_all()
        if mine.error is not None:
            raise mine.error
        return mine.result

    def _gather(self, form) -> None:
        """Waits for more rows, as long as the leader may."""
        end = time.monotonic() + self._wait
        while sum(r.rows for r in self._queue if r.form == form) < self._rows:
            left = end - time.monotonic()
            if left <= 0:
                break
            self._changed.wait(left)

    def _take(self, mine: _Request) -> list[_Request]:
        """Takes requests like mine, which is among them, off the queue, up to the rows of a batch."""
        batch, rows = [mine], mine.rows
        for r in list(self._queue):
            if r is not mine and r.form == mine.form and rows + r.rows <= self._rows:
                batch.append(r)
                rows += r.rows
        self._queue = [r for r in self._queue if r not in batch]
        return batch

    def _run(self, batch: list[_Request]) -> None:
        if len(batch) > 1:
            try:
                ys = self._serve(tuple(np.concatenate(part) for part in zip(*(r.xs for r in batch))))
            except Exception:
                ys = None  # whose fault it is shows when each runs alone
            if ys is not None and _rows_of(ys) == sum(r.rows for r in batch):
                at = 0
                for r in batch:
                    part = slice(at, at + r.rows)
                    r.finish(tuple(y[part].copy() for y in ys) if isinstance(ys, tuple) else ys[part].copy())
                    at += r.rows
                return
        for r in batch:
            try:
                r.finish(self._serve(r.xs))
            except BaseException as e:
                r.finish(None, e)


def _rows_of(ys) -> int:
    """The rows that all results have; -1 where they differ."""
    rows = {y.shape[0] if y.ndim else -1 for y in (ys if isinstance(ys, tuple) else (ys,))}
    return rows.pop() if len(rows) == 1 else -1


class _Request:
    """The call of one caller at the gate."""

    def __init__(self, xs: tuple):
        self.xs = xs
        self.rows = xs[0].shape[0] if xs and xs[0].ndim else 1
        self.form = tuple((x.shape[1:], x.dtype, x.ndim) for x in xs)
        self.done, self.result, self.error = False, None, None

    def finish(self, result, error: BaseException | None = None) -> None:
        self.result, self.error, self.done = result, error, True
