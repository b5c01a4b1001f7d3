"""Calls of an op drawn from its entry; pynn.testing is the way to them."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from .op import Op

_SIZES = {
    "ordinary": (3, 5, 4, 2, 7, 6),
    "one": (1,),
    "ragged": (17, 33, 67, 9, 5, 3),
    "large": (4, 3, 5, 2, 6, 7),
    "ties": (5, 6, 3, 4, 2, 7),
}
_ELLIPSIS = {"ordinary": (2, 3), "one": (1,), "ragged": (67, 33), "large": (3, 4), "ties": (4, 5)}
_MOST = 300_000  # elements of one argument


class SampleInput(NamedTuple):
    """Arguments and parameters of a call. `smooth`: derivatives may be compared with differences there."""

    name: str
    args: tuple
    params: dict
    smooth: bool = True


def samples(op: Op, rng: np.random.Generator | None = None) -> list[SampleInput]:
    """Calls of op: float64, int64 and bool arrays drawn from the strings of its entry, and the entry's own samples.

    From the strings come ordinary distinct sizes, one element, an empty batch, sizes that are no multiple of
    a tile, values at ±1e4, ties and zeros, operands to broadcast, optional inputs absent. Where the strings
    do not say which calls are good (a shape function, a required parameter) the entry's own samples are all.
    """
    rng = np.random.default_rng(zlib.crc32(op.name.encode())) if rng is None else rng
    found = list(_drawn(op, rng)) if _strings_suffice(op) else []
    for k, (args, params) in enumerate(op.samples(rng) if op.samples else ()):
        args = tuple(args) + (None,) * (op.n_in - len(args))
        tame = all(a.size == 0 or np.abs(a).max() < 1e3 for a in args if is_float(a))
        found.append(SampleInput(f"own{k}", args, dict(params), tame))
    if not found:
        raise ValueError(f"{op.name}: the entry's strings do not say which calls are good; give it samples")
    return found


def _strings_suffice(op: Op) -> bool:
    required = {k for k, v in op.defaults.items() if isinstance(v, type)}
    return op.shape_fn is None and required <= set(op.sym_names)


def _drawn(op: Op, rng: np.random.Generator) -> Iterator[SampleInput]:
    n_sym = len(op.sym_names)
    for name, pattern in _SIZES.items():
        sizes = [pattern[k % len(pattern)] for k in range(n_sym)]
        while name == "ragged" and _largest(op, sizes, _ELLIPSIS[name]) > _MOST:
            sizes[sizes.index(max(sizes))] = 3
        yield _draw(op, rng, name, sizes, [_ELLIPSIS[name]] * op.n_in)
    sizes = [_SIZES["ordinary"][k % 6] for k in range(n_sym)]
    yield from _empty(op, rng, sizes)
    yield from _broadcast(op, rng, sizes)
    optional = [k for k, s in enumerate(op.in_specs) if s[4]]
    for m in range(1, len(optional) + 1):
        for absent in itertools.combinations(optional, m) if len(optional) < 4 or m == len(optional) else ():
            names = ",".join(op.in_names[k] for k in absent)
            s = _draw(op, rng, f"without {names}", sizes, [(2, 3)] * op.n_in)
            yield s._replace(args=tuple(None if k in absent else a for k, a in enumerate(s.args)))


def _largest(op: Op, sizes: list[int], ell: tuple) -> int:
    return max(int(np.prod(_shape(s, sizes, ell))) for s in op.in_specs + op.out_specs)


def _empty(op: Op, rng: np.random.Generator, sizes: list[int]) -> Iterator[SampleInput]:
    """An empty batch: "..." holds a 0, or else the first dimension that bounds no index is 0."""
    if any(s[2] >= 0 for s in op.in_specs):
        yield _draw(op, rng, "empty", sizes, [(0, 3)] * op.n_in)
        return
    bounds = {s[5] for s in op.in_specs}
    for sym, _ in op.in_specs[0][1]:
        if sym >= 0 and sym not in bounds:
            yield _draw(op, rng, "empty", [0 if k == sym else n for k, n in enumerate(sizes)], [()] * op.n_in)
            return


def _broadcast(op: Op, rng: np.random.Generator, sizes: list[int]) -> Iterator[SampleInput]:
    n_read = op.n_in - op.n_write
    wide = [k for k in range(n_read) if op.in_specs[k][2] >= 0]
    if len(wide) < 2:
        return
    for name, shapes in (
        ("row", [(2, 3), (3,)]),
        ("column", [(2, 1), (2, 3)]),
        ("outer", [(3, 1), (1, 4)]),
        ("scalar", [(2, 3), ()]),
        ("0-d", [()]),
        ("one repeated", [(1, 1), (5, 7)]),
        ("empty repeated", [(0, 1), (3,)]),
    ):
        ells = [shapes[0]] * op.n_in
        for j, k in enumerate(wide):
            ells[k] = shapes[j % len(shapes)]
        for k in range(n_read, op.n_in):  # what is written is not broadcast
            ells[k] = np.broadcast_shapes(*shapes)
        yield _draw(op, rng, f"broadcast {name}", sizes, ells)


def _shape(spec: tuple, sizes: list[int], ell: tuple) -> tuple[int, ...]:
    _, dims, place, *_ = spec
    shape = [f if s < 0 else f * sizes[s] for s, f in dims]
    return tuple(shape if place < 0 else [*shape[:place], *ell, *shape[place:]])


def _draw(op: Op, rng: np.random.Generator, name: str, sizes: list[int], ells: list[tuple]) -> SampleInput:
    args = []
    for spec, ell in zip(op.in_specs, ells):
        arg, _, _, kind, _, bound = spec
        shape = _shape(spec, sizes, ell)
        if kind == "b":
            args.append(np.asarray(rng.random(shape) < 0.5))
        elif kind == "i":
            low, high = op.domain.get(arg, (0, sizes[bound] if bound >= 0 else 4))
            args.append(np.asarray(rng.integers(int(low), max(int(high), int(low) + 1), shape)))
        else:
            args.append(np.asarray(_values(op, rng, name, arg, shape)))
    params = {n: sizes[k] for k, n in enumerate(op.sym_names) if isinstance(op.defaults.get(n), type)}
    return SampleInput(name, tuple(args), params, name not in ("large", "ties"))


def _values(op: Op, rng: np.random.Generator, name: str, arg: str, shape: tuple) -> np.ndarray:
    if arg in op.domain:
        low, high = op.domain[arg]
        grid = {"large": np.array([low, high]), "ties": np.linspace(low, high, 5)[1:-1]}
    else:
        low, high, grid = None, None, {"large": np.array([-1e4, 1e4, 0.5]), "ties": np.array([-1.0, 0.0, 1.0])}
    if name in grid:
        return rng.choice(grid[name], shape)
    if low is not None:
        return pushed(rng.uniform(low, high, shape), op.kinks)
    # arguments lie on grids of their own, so that no two elements meet where a derivative has a kink
    place, n = op.in_names.index(arg), op.n_in
    x = np.floor(8 * rng.standard_normal(shape)) + (place + rng.uniform(0.25, 0.75, shape)) / n
    return pushed(x / 8, op.kinks)


def pushed(x: np.ndarray, kinks: tuple, distance: float = 0.05) -> np.ndarray:
    """x with elements near a kink moved away from it."""
    for k in kinks:
        x = np.where(np.abs(x - k) < distance, k + np.where(x < k, -1, 1) * 2 * distance, x)
    return x


def is_float(a: Any) -> bool:
    return isinstance(a, np.ndarray) and a.dtype.kind == "f"
