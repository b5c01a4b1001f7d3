"""Weights in files: safetensors, which hold numbers and nothing that could run."""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np

from ..nn.module import Module

__all__ = ["load_state", "save_state"]


def save_state(state: Module | Mapping[str, np.ndarray], path: str | os.PathLike, metadata: dict | None = None) -> None:
    """Writes a module's state_dict, or any dict of arrays, as a safetensors file.

    The file appears whole or not at all: it is written under another name first.

    Args:
        metadata: {text: text} kept in the file's header.

    Raises:
        TypeError: neither a module nor a mapping.
    """
    from safetensors.numpy import save_file

    if isinstance(state, Module):
        state = state.state_dict()
    if not isinstance(state, Mapping):
        raise TypeError(
            f"save_state: argument 'state': expected a Module or a dict of arrays, got {type(state).__name__}"
        )
    # safetensors writes memory as it lies: everything row-major first
    arrays = {name: np.asarray(value, order="C") for name, value in state.items()}
    part = f"{os.fspath(path)}.{os.getpid()}.part"
    try:
        save_file(arrays, part, metadata)
        os.replace(part, path)
    finally:
        if os.path.exists(part):
            os.unlink(part)


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
