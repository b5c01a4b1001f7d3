"""Checks of operations, for pynn's own and for users': samples drawn from an entry, gradcheck, check_op.

    op = pynn.Op("square_plus", "x[...]", "y[...]", kernel=..., formula=...)
    pynn.testing.check_op(op)

check_op runs every check of CHECKS on every sample; each check is also a function of its own that takes
(op, sample) and raises AssertionError with the op, the sample and the first difference.
"""

from __future__ import annotations

import contextlib
import inspect
import itertools
import re
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from . import _core
from ._compare import _array, _assert_close, assert_same_bits
from ._samples import SampleInput, is_float, pushed, samples
from .autograd import grad, vjp
from .op import Op
from .plan import compile
from .tensor import Tensor, from_numpy

__all__ = ["CHECKS", "SampleInput", "assert_same_bits", "check_op", "gradcheck", "samples", "with_team"]

FLOATS = (np.float64, np.float32)
HOST_READERS = ("unslice",)  # their derivatives read arguments on the host
CHUNK_DIV = 64  # chunks so small that samples of some hundred elements split among threads


def _tolerance(dtype, reduced: float) -> float:
    return 1e-12 if dtype == np.float64 else 1e-5 * max(1.0, reduced) ** 0.5


def _reduced(args: tuple, outs: list) -> float:
    """How many elements an output sums over, at most."""
    sizes = [a.size for a in args if isinstance(a, np.ndarray)]
    by_dims = max([n for a in args if isinstance(a, np.ndarray) for n in a.shape], default=1)
    smallest = min([y.size for y in outs if y is not None and y.size], default=1)
    return max(1, by_dims, max(sizes, default=1) / smallest)


# ---- calling ----------------------------------------------------------------------------------------


def _rounded(sample: SampleInput, dtype) -> SampleInput:
    """The sample with its floating values rounded to dtype, still float64."""
    with np.errstate(over="ignore"):
        args = tuple(a.astype(dtype).astype(np.float64) if is_float(a) else a for a in sample.args)
    return sample._replace(args=args)


def _tensors(op: Op, sample: SampleInput, dtype, derive: bool = False, arrange: Callable | None = None) -> list:
    xs = []
    for k, (spec, a) in enumerate(zip(op.in_specs, sample.args)):
        if isinstance(a, np.ndarray):
            a = a.astype(dtype) if a.dtype.kind == "f" else a
            a = from_numpy(arrange(a)) if arrange and k < op.n_in - op.n_write else Tensor(a)
            if derive and spec[3] in "TA*" and a.dtype.kind == "f":
                a.requires_grad = True
        xs.append(a)
    return xs


def _listed(ys: Any) -> list:
    return [] if ys is None else list(ys) if isinstance(ys, (tuple, list)) else [ys]


def _evaluate(op: Op, xs: list, params: dict) -> list:
    """The results of a call, and after them what it wrote."""
    return _listed(op(*xs, **params)) + xs[op.n_in - op.n_write :]


def _seeds(ys: list) -> list:
    rng = np.random.default_rng(7)
    return [Tensor(rng.standard_normal(y.shape).astype(y.dtype)) for y in ys]


def _flowing(op: Op, ys: Any) -> list:
    """The results through which derivatives flow."""
    return [y for s, y in zip(op.out_specs, _listed(ys)) if s[3] not in "Cib" and y is not None]


def _gradients(op: Op, fn: Callable, xs: list, params: dict) -> list:
    """Gradients of the inputs that ask for one, from fixed random seeds; zeros where nothing flows."""
    wanted = [x for x in xs if isinstance(x, Tensor) and x.requires_grad]
    ys = [y for y in _flowing(op, fn(*xs, **params)) if y.requires_grad]
    if not wanted or not ys:
        return []
    found = grad(ys, wanted, _seeds(ys), allow_unused=True)
    return [Tensor.zeros_like(x) if g is None else g for g, x in zip(found, wanted)]


def _all(op: Op, sample: SampleInput, dtype, arrange: Callable | None = None) -> list:
    """Values and gradients of a call."""
    ys = _evaluate(op, _tensors(op, sample, dtype, arrange=arrange), sample.params)
    if op.n_write:
        return ys
    return ys + _gradients(op, op, _tensors(op, sample, dtype, derive=True, arrange=arrange), sample.params)


def _reference(op: Op, sample: SampleInput) -> list:
    """The reference's results, called with those parameters that it takes."""
    params = {**op.defaults, **sample.params}
    try:
        takes = inspect.signature(op.reference).parameters.values()
    except ValueError:  # NumPy's functions written in C
        takes = ()
    if not any(p.kind is p.VAR_KEYWORD for p in takes):
        names = {p.name for p in takes}
        params = {k: v for k, v in params.items() if k in names}
    with np.errstate(all="ignore"):
        args = [a.copy() if isinstance(a, np.ndarray) else a for a in sample.args]
        return _listed(op.reference(*args, **params))


def _name(op: Op, sample: SampleInput, what: str) -> str:
    return f"{op.name}, sample '{sample.name}': {what}"


# ---- gradcheck --------------------------------------------------------------------------------------


def gradcheck(
    fn: Callable, args: tuple, params: dict | None = None, *, order: int = 1, eps: float = 1e-3, tol: float = 1e-6,
    rng: np.random.Generator | None = None,
) -> None:  # fmt: skip
    """Compares the derivatives of fn, in float64, with four-point differences along random directions.

    Args:
        fn: an Op, or any function of Tensors that returns a Tensor or several.
        args: arrays; derivatives are checked for the floating ones. params: named arguments of fn.
        order: up to which order; order 2 differentiates the vector–Jacobian product, its seed included.
        eps: step of the differences, along directions of largest component 1; where they disagree, eps/8 and eps/64
            are tried.
        tol: of the difference, relative to the size of the terms that the projection sums.

    Raises:
        AssertionError: with the argument, the order and both values.

    Source: the fourth-order central difference (8[f(h) − f(−h)] − [f(2h) − f(−2h)])/12h; S1 §2.11, §3.10.
    """
    rng = np.random.default_rng(0) if rng is None else rng
    params = params or {}
    arrays = [np.array(a, dtype=np.float64) if is_float(a) else a for a in args]
    constant = [s[3] in "Cib" for s in fn.in_specs] if isinstance(fn, Op) else [False] * len(arrays)
    places = [k for k, a in enumerate(arrays) if is_float(a) and not constant[k]]
    names = list(fn.in_names) if isinstance(fn, Op) else [f"argument {k}" for k in range(len(arrays))]
    title = fn.name if isinstance(fn, Op) else getattr(fn, "__name__", "function")

    def f(*xs):
        full = [Tensor(a) if isinstance(a, np.ndarray) else a for a in arrays]
        for k, x in zip(places, xs):
            full[k] = x
        ys = fn(*full, **params)
        ys = _flowing(fn, ys) if isinstance(fn, Op) else _listed(ys)
        return tuple(y for y in ys if y.dtype == np.float64)

    _check_derivative(f, [arrays[k] for k in places], [names[k] for k in places], title, 1, order, eps, tol, rng)


def _check_derivative(f, points, names, title, level, order, eps, tol, rng) -> None:
    ys = f(*[Tensor(p) for p in points])
    seeds = [rng.standard_normal(y.shape) for y in ys]

    def back(*z):
        """The vector–Jacobian product at z = (points, seeds)."""
        xs, us = list(z[: len(points)]), list(z[len(points) :])
        live = [k for k, y in enumerate(f(*_as_leaves(xs))) if y.requires_grad]
        if not live:
            return tuple(Tensor.zeros_like(x) for x in xs)
        return tuple(vjp(lambda *a: [f(*a)[k] for k in live], xs, [us[k] for k in live], create_graph=True)[1])

    if not points or not ys or not all(np.isfinite(y.detach().numpy()).all() for y in ys):
        return
    found = [g.detach().numpy_copy() for g in back(*map(Tensor, points), *map(Tensor, seeds))]
    for k, (x, g) in enumerate(zip(points, found)):
        where = f"gradcheck of {title}, order {level}, {names[k]}"
        assert g.shape == x.shape, f"{where}: gradient of shape {g.shape} for an input of shape {x.shape}"
        direction = rng.uniform(-1, 1, x.shape)
        analytic, spread = float((g * direction).sum()), float(np.linalg.norm(g * direction))
        for step in (eps, eps / 8, eps / 64):  # a smaller one where the function bends much
            numeric, size = _difference(f, points, k, direction, seeds, step)
            allowed = tol * max(abs(numeric), abs(analytic), spread) + 1e-14 / step * size + 1e-15
            if abs(numeric - analytic) <= allowed:
                break
        else:
            raise AssertionError(
                f"{where}: derivative {analytic!r}, by differences {numeric!r} (allowed difference {allowed:.1e})"
            )
    if level < order:
        deeper = [*names, *(f"seed {k} of order {level}" for k in range(len(seeds)))]
        _check_derivative(back, [*points, *seeds], deeper, title, level + 1, order, eps, tol, rng)


def _as_leaves(xs: list) -> list:
    leaves = [x.detach() for x in xs]
    for x in leaves:
        x.requires_grad = True
    return leaves


def _difference(f, points, k, direction, seeds, eps) -> tuple[float, float]:
    """(derivative of Σ seed·f along direction by differences, size of the terms that cancel in it)."""
    total, size = 0.0, 0.0
    for weight, step in ((8, eps), (-8, -eps), (-1, 2 * eps), (1, -2 * eps)):
        moved = [Tensor(p + step * direction if j == k else p) for j, p in enumerate(points)]
        terms = [y.detach().numpy_copy() * s for y, s in zip(f(*moved), seeds)]
        total += weight * sum(float(t.sum()) for t in terms)
        size = max(size, sum(float(np.abs(t).sum()) for t in terms))
    return total / (12 * eps), size


# ---- the checks: (op, sample) each ---------------------------------------------------------------------


def check_formula(op: Op, sample: SampleInput) -> None:
    """The kernel's values are those of the formula: float64 to 1e-12, float32 to 1e-5·√K, of max|y|."""
    if op.formula is None or (op.kernel_id < 0 and op.py_kernel is None):
        return
    params = {**op.defaults, **sample.params}
    for dtype in FLOATS:
        exact = _rounded(sample, dtype)
        want = _listed(op.formula(*_tensors(op, exact, np.float64), **params))
        got = _evaluate(op, _tensors(op, sample, dtype), sample.params)
        _compare(op, exact, got, [_array(y) for y in want], dtype, "kernel against formula")
        if not op.n_write and sample.smooth:
            exact_grads = _gradients(op, op.formula, _tensors(op, exact, np.float64, derive=True), params)
            grads = _gradients(op, op, _tensors(op, sample, dtype, derive=True), sample.params)
            _compare(op, exact, grads, [_array(g) for g in exact_grads], dtype, "gradient against formula's")


def check_reference(op: Op, sample: SampleInput) -> None:
    """The values are those of the entry's reference."""
    if op.reference is None:
        return
    for dtype in FLOATS:
        exact = _rounded(sample, dtype)
        got = _evaluate(op, _tensors(op, sample, dtype), sample.params)
        _compare(op, exact, got, _reference(op, exact), dtype, "value against reference")


def _compare(op: Op, sample: SampleInput, got: list, want: list, dtype, what: str) -> None:
    assert len(got) == len(want), _name(op, sample, f"{what}: {len(got)} results, expected {len(want)}")
    tol = _tolerance(dtype, _reduced(sample.args, got))
    for k, (y, w) in enumerate(zip(got, want)):
        _assert_close(y, w, tol, _name(op, sample, f"{what}, {np.dtype(dtype)}, result {k}"))


def check_float32(op: Op, sample: SampleInput) -> None:
    """Values and gradients in float32 are those in float64."""
    if not sample.smooth:
        return
    exact = _rounded(sample, np.float32)
    want = [_array(y) for y in _all(op, exact, np.float64)]
    _compare(op, exact, _all(op, sample, np.float32), want, np.float32, "float32 against float64")


def check_gradient(op: Op, sample: SampleInput) -> None:
    """First derivatives by differences, in float64, to 1e-6."""
    _gradcheck_sample(op, sample, 1)


def check_second_order(op: Op, sample: SampleInput) -> None:
    """First and second derivatives by differences, in float64, to 1e-6."""
    _gradcheck_sample(op, sample, 2)


def _gradcheck_sample(op: Op, sample: SampleInput, order: int) -> None:
    if op.n_write or not sample.smooth or any(is_float(a) and a.size > 3000 for a in sample.args):
        return
    args = tuple(pushed(a, op.kinks) if is_float(a) else a for a in sample.args)
    try:
        gradcheck(op, args, sample.params, order=order)
    except AssertionError as e:
        raise AssertionError(_name(op, sample, str(e))) from None


def _transposed(a):
    return np.array(a, order="F")


def _strided(a):
    return np.repeat(a, 2, axis=-1)[..., ::2] if a.ndim else a


def _reversed(a):
    flip = (slice(None, None, -1),) * a.ndim
    return np.array(a[flip], order="C")[flip]


def _repeated(a):
    return np.broadcast_to(a[..., :1], a.shape) if a.ndim and a.size else a


def _offset(a):
    flat = np.concatenate([np.zeros(1, a.dtype), a.ravel()])
    return flat[1:].reshape(a.shape)


def _read_only(a):
    a = a.copy()
    a.flags.writeable = False
    return a


def _channels_last(a):
    return np.ascontiguousarray(a.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2) if a.ndim == 4 else a


LAYOUTS = {
    f.__name__[1:]: f for f in (_transposed, _strided, _reversed, _repeated, _offset, _read_only, _channels_last)
}


def check_layouts(op: Op, sample: SampleInput) -> None:
    """Values and gradients do not depend on how the arguments lie in memory."""
    n_read = op.n_in - op.n_write
    for (name, arrange), dtype in itertools.product(LAYOUTS.items(), FLOATS):
        moved = tuple(arrange(a) if isinstance(a, np.ndarray) and k < n_read else a for k, a in enumerate(sample.args))
        plain = sample._replace(args=tuple(np.array(a, order="C") if isinstance(a, np.ndarray) else a for a in moved))
        if name == "repeated" and ((op.n_write and op.valid) or (op.domain == {} and not sample.smooth)):
            continue  # indices of what is written must differ
        want = [_array(y) for y in _all(op, plain, dtype)]
        _compare(op, plain, _all(op, plain, dtype, arrange), want, dtype, f"{name} against row-major arguments")


def check_integers(op: Op, sample: SampleInput) -> None:
    """Ops for numbers of any kind compute exactly with integers."""
    kinds = {s[3] for s in op.in_specs}
    if "A" not in kinds or op.reference is None or op.n_write or not kinds <= set("Aib"):
        return
    for dtype in (np.int64, np.int32, np.uint8):
        args = tuple(
            np.asarray(np.rint(a * 3)).astype(np.int64).astype(dtype) if is_float(a) else a for a in sample.args
        )
        whole = sample._replace(args=args)
        got = _evaluate(op, [Tensor(a) if isinstance(a, np.ndarray) else a for a in args], sample.params)
        for k, (y, w) in enumerate(zip(got, _reference(op, whole), strict=True)):
            kind = op.out_specs[k][3]
            assert kind != "A" or y.dtype == dtype, _name(op, sample, f"{np.dtype(dtype)} gave {y.dtype}")
            _assert_close(y, w, 0.0, _name(op, sample, f"value against reference, {np.dtype(dtype)}"))


def check_nan(op: Op, sample: SampleInput) -> None:
    """NaN goes where the reference, or the formula, says."""
    if op.n_write or not (op.reference or op.formula):
        return
    for k, a in enumerate(sample.args):
        if not is_float(a) or a.size == 0:
            continue
        spoilt = a.copy()
        spoilt.flat[a.size // 2] = np.nan
        ill = sample._replace(args=(*sample.args[:k], spoilt, *sample.args[k + 1 :]))
        if op.reference:
            want = _reference(op, ill)
        else:
            want = _listed(op.formula(*_tensors(op, ill, np.float64), **{**op.defaults, **sample.params}))
        for dtype in FLOATS:
            for y, w in zip(_evaluate(op, _tensors(op, ill, dtype), sample.params), want, strict=True):
                y, w = _array(y), _array(w)
                if y.dtype.kind == "f" and w.dtype.kind == "f":
                    what = _name(op, sample, f"NaN in '{op.in_names[k]}', {np.dtype(dtype)}: places of NaN")
                    assert_same_bits(np.isnan(y), np.isnan(w), what)


def check_purity(op: Op, sample: SampleInput) -> None:
    """A call changes nothing but what the entry says it writes, and that gets a new version."""
    n_read = op.n_in - op.n_write
    xs = _tensors(op, sample, np.float64)
    before = [(_array(x), x._version) if isinstance(x, Tensor) else None for x in xs]
    ys = _listed(op(*xs, **sample.params))
    for k, (x, was) in enumerate(zip(xs, before)):
        if was is None:
            continue
        what = _name(op, sample, f"argument '{op.in_names[k]}'")
        if k < n_read:
            assert_same_bits(x, was[0], f"{what} was changed")
            assert x._version == was[1], f"{what} got another version"
        else:
            assert x._version != was[1], f"{what} was written without a new version"
    if op.view_kind == 0 and (op.kernel_id >= 0 or op.py_kernel):
        stores = [id(x.storage_) for x in xs if isinstance(x, Tensor)]
        shared = [k for k, y in enumerate(ys) if y.size and id(y.storage_) in stores]
        assert not shared, _name(op, sample, f"results {shared} share an argument's memory")


@contextlib.contextmanager
def _settings() -> Iterator[None]:
    """Restores threads, chunk sizes and ISA level."""
    threads, div, isa = _core.get_num_threads(), _core.get_chunk_div(), _core.isa()
    try:
        yield
    finally:
        _core.set_num_threads(threads)
        _core.set_chunk_div(div)
        _core.use_isa(isa)


def with_team(call: Callable[[], Any], seconds: float = 20.0) -> Any:
    """call()'s result from a time when the thread team took part.

    On a busy machine workers may come too late for a short call, which then runs alone: it is tried again.

    Raises:
        AssertionError: no worker came within `seconds`.
    """
    end = time.monotonic() + seconds
    while True:
        _core.par_stats(reset=True)
        result = call()
        stats = _core.par_stats()
        if stats["chunks_by_workers"]:
            return result
        assert time.monotonic() < end, f"no region ran in parallel: {stats}"


def check_threads(op: Op, sample: SampleInput) -> bool:
    """The same bits with 1, 2 and 4 threads. True where the team took part."""
    ran = False
    with _settings():
        _core.set_chunk_div(CHUNK_DIV)
        for dtype in FLOATS:
            first = None

            def call(dtype=dtype):
                return [_array(y) for y in _all(op, sample, dtype)]

            for n in (1, 2, 4):
                _core.set_num_threads(n)
                _core.par_stats(reset=True)
                ys = call()
                if n > 1 and _core.par_stats()["regions"]:
                    ys = ys if _core.par_stats()["chunks_by_workers"] else with_team(call)
                    ran = True
                first = ys if first is None else first
                assert_same_bits(ys, first, _name(op, sample, f"{n} threads against 1, {np.dtype(dtype)}"))
    return ran


def check_isa(op: Op, sample: SampleInput) -> None:
    """Each ISA level repeats its bits, and all levels agree to the tolerance of the values."""
    if op.kernel_id < 0 and op.view_kind == 0 and op.py_kernel:
        return
    with _settings():
        for dtype in FLOATS:
            first = None
            for level in _core.isa_levels():
                _core.use_isa(level)
                ys = [_array(y) for y in _all(op, sample, dtype)]
                again = _all(op, sample, dtype)
                assert_same_bits(again, ys, _name(op, sample, f"{level} twice, {np.dtype(dtype)}"))
                first = ys if first is None else first
                if sample.smooth:
                    _compare(op, sample, ys, first, dtype, f"{level} against {_core.isa_levels()[0]}")


def check_callers(op: Op, sample: SampleInput, n_callers: int = 4, times: int = 4) -> None:
    """Calls from several Python threads at once give the bits of a call alone."""
    want = [_array(y) for y in _all(op, sample, np.float32)]
    faults: list[BaseException] = []
    start = threading.Barrier(n_callers)

    def call():
        try:
            start.wait()
            for _ in range(times):
                assert_same_bits(_all(op, sample, np.float32), want, _name(op, sample, f"{n_callers} callers at once"))
        except BaseException as e:
            faults.append(e)

    with _settings():
        _core.set_chunk_div(CHUNK_DIV)
        want = [_array(y) for y in _all(op, sample, np.float32)]
        callers = [threading.Thread(target=call) for _ in range(n_callers)]
        for t in callers:
            t.start()
        for t in callers:
            t.join()
    if faults:
        raise faults[0]


def check_replay(op: Op, sample: SampleInput) -> None:
    """A replay gives the bits of an eager call, values and gradients, on arguments that the recorder never saw."""
    if op.py_kernel is not None:
        return
    halved = sample._replace(args=tuple(np.asarray(a / 2) if is_float(a) else a for a in sample.args))
    for dtype in FLOATS:
        values = compile(lambda *xs: _listed(op(*xs, **sample.params)))
        values(*_tensors(op, halved, dtype))
        xs = _tensors(op, sample, dtype)
        got = values(*xs) + xs[op.n_in - op.n_write :]
        assert_same_bits(got, _evaluate(op, _tensors(op, sample, dtype), sample.params), _name(op, sample, "replayed"))
        assert values.replays == 1, _name(op, sample, f"was not replayed: {values!r}")
        if not op.n_write and op.name not in HOST_READERS:
            _check_replayed_gradients(op, sample, halved, dtype)


def _check_replayed_gradients(op: Op, sample: SampleInput, halved: SampleInput, dtype) -> None:
    seeds = _seeds(_flowing(op, op(*_tensors(op, sample, dtype, derive=True), **sample.params)))

    def gradients(xs, seeds):
        wanted = [x for x in xs if isinstance(x, Tensor) and x.requires_grad]
        pairs = [(y, s) for y, s in zip(_flowing(op, op(*xs, **sample.params)), seeds) if y.requires_grad]
        if not wanted or not pairs:
            return []
        return grad([y for y, _ in pairs], wanted, [s for _, s in pairs], allow_unused=True)

    replayed = compile(gradients)
    replayed(_tensors(op, halved, dtype, derive=True), seeds)
    got = replayed(_tensors(op, sample, dtype, derive=True), seeds)
    want = gradients(_tensors(op, sample, dtype, derive=True), seeds)
    assert replayed.replays == 1, _name(op, sample, f"its gradients were not replayed: {replayed!r}")
    assert [g is None for g in got] == [g is None for g in want]
    assert_same_bits(
        [g for g in got if g is not None], [g for g in want if g is not None],
        _name(op, sample, f"gradients replayed, {np.dtype(dtype)}"),
    )  # fmt: skip


def check_errors(op: Op) -> None:
    """The entry's bad calls raise what it says, with its text."""
    for args, params, exception, pattern in op.errors:
        xs = [Tensor(a) if isinstance(a, np.ndarray) and a.dtype.kind in "fiub" else a for a in args]
        try:
            op(*xs, **params)
        except exception as e:
            assert re.search(pattern, str(e)), f"{op.name}: expected an error that matches {pattern!r}, got {e!s}"
        else:
            raise AssertionError(f"{op.name}: expected {exception.__name__} ({pattern!r}), the call went through")


CHECKS: dict[str, Callable[[Op, SampleInput], Any]] = {
    "formula": check_formula,
    "reference": check_reference,
    "float32": check_float32,
    "gradient": check_gradient,
    "second_order": check_second_order,
    "layouts": check_layouts,
    "integers": check_integers,
    "nan": check_nan,
    "purity": check_purity,
    "threads": check_threads,
    "isa": check_isa,
    "callers": check_callers,
    "replay": check_replay,
}


def check_op(op: Op, rng: np.random.Generator | None = None) -> None:
    """Every check on every sample of op, a user's own or one of pynn's.

    Raises:
        AssertionError: naming the op, the sample, and what differs where.
    """
    for sample in samples(op, rng):
        for check in CHECKS.values():
            check(op, sample)
    check_errors(op)
