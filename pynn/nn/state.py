"""What a module keeps beside its parts: the check of a state_dict against it, and the arguments it was made with."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from .. import _core
from ..tensor import Tensor

__all__ = ["checked_state", "parameters_of", "recorded"]


def as_array(name: str, value: Any) -> np.ndarray:
    """value as a NumPy array of real numbers; other libraries' tensors lose their history first."""
    if isinstance(value, Tensor):
        return value._array()
    if not isinstance(value, np.ndarray) and hasattr(value, "detach"):
        value = value.detach()
    arr = np.asarray(value)
    if arr.dtype.kind not in "fiub":
        raise TypeError(f"load_state_dict: {name!r}: expected real numbers, got dtype {arr.dtype}")
    return arr


def checked_state(
    owner: str, state: dict[str, Tensor], given: Mapping[str, Any], strict: bool
) -> tuple[dict[str, Tensor], list[str], list[str]]:
    """(values to copy, missing names, unexpected names) of given for state.

    Raises:
        ValueError: one text with everything that does not fit. TypeError: no mapping, or no numbers.
    """
    if not isinstance(given, Mapping):
        raise TypeError(f"load_state_dict: argument 'state_dict': expected a mapping, got {type(given).__name__}")
    missing = [k for k in state if k not in given]
    unexpected = [k for k in given if k not in state]
    values, misshapen = {}, []
    for name, x in state.items():
        if name in given:
            arr = as_array(name, given[name])
            if arr.shape != x.shape:
                misshapen.append(f"{name}: expected {x.shape}, got {arr.shape}")
            else:
                values[name] = _core.from_array(arr, None, f"load_state_dict: {name!r}")
    faults = [f"misshapen: {'; '.join(misshapen)}"] if misshapen else []
    if strict:
        faults += [f"unexpected: {', '.join(map(repr, unexpected))}"] if unexpected else []
        faults = ([f"missing: {', '.join(map(repr, missing))}"] if missing else []) + faults
    if faults:
        raise ValueError(f"load_state_dict: the state does not fit {owner}:\n  " + "\n  ".join(faults))
    return values, missing, unexpected


_SIGNATURES: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def parameters_of(cls: type) -> dict[str, inspect.Parameter]:
    """The parameters of a class's constructor; none where it does not tell them."""
    found = _SIGNATURES.get(cls)
    if found is None:
        try:
            found = dict(list(inspect.signature(cls.__init__).parameters.items())[1:])
        except (TypeError, ValueError):
            found = {}
        _SIGNATURES[cls] = found
    return found


def recorded(cls: type, args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a module's constructor by name, those of *args under "*".

    Left out where the constructor does without: modules, parameters and iterators, which the module holds as parts,
    and what has a private name (_weight), which its state holds.
    """
    known = parameters_of(cls)
    slots = [p.name for p in known.values() if p.kind <= p.POSITIONAL_OR_KEYWORD]
    found = {**dict(zip(slots, args)), **kwargs}
    for name in [n for n, v in found.items() if _is_part(v) or n.startswith("_")]:
        if name not in known or known[name].default is not inspect.Parameter.empty:
            del found[name]
    rest = args[len(slots) :]
    if rest and not _is_part(rest):
        found["*"] = list(rest)
    return found


def _is_part(value: Any) -> bool:
    """Whether value is, or holds, what a module holds as its parts."""
    if isinstance(value, (str, int, float, type, type(None))):
        return False
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return any(map(_is_part, value))
    return isinstance(value, Iterator) or hasattr(value, "_modules") or getattr(value, "requires_grad", False)
