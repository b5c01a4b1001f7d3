"""The check of a state_dict against a module, before anything of the module is changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .. import _core
from ..tensor import Tensor

__all__ = ["checked_state"]


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
