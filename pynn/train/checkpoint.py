"""Weights in files: safetensors, which hold numbers and nothing that could run."""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np

from ..files import row_major, save_whole
from ..nn.module import Module

__all__ = ["load_state", "save_state"]


def save_state(state: Module | Mapping[str, np.ndarray], path: str | os.PathLike, metadata: dict | None = None) -> None:
    """Writes a module's state_dict, or any dict of arrays, as a safetensors file.

    The file appears whole or not at all. pynn.save writes the architecture too.

    Args:
        metadata: {text: text} kept in the file's header.

    Raises:
        TypeError: neither a module nor a mapping. OSError: naming path and cause; what was at path is as it was.
    """
    if isinstance(state, Module):
        state = state.state_dict()
    if not isinstance(state, Mapping):
        raise TypeError(
            f"save_state: argument 'state': expected a Module or a dict of arrays, got {type(state).__name__}"
        )
    save_whole(path, {name: row_major(value) for name, value in state.items()}, metadata)


def load_state(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file, for Module.load_state_dict.

    Raises:
        FileNotFoundError: no such file. ValueError: it is no safetensors file.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path)
    except SafetensorError as e:
        raise ValueError(f"load_state: {os.fspath(path)!r} is no safetensors file: {e}") from e
