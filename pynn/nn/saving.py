"""Models in files: pynn.save and pynn.load; the file is described in pynn/files.py."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from .. import _core
from ..config import __version__
from ..files import read, write
from .config import built, described
from .module import Module

__all__ = ["load", "model_from", "model_state", "save", "state_arrays"]

PREFIX = "model."


def save(model: Module, path: str | os.PathLike, *, keep: bool = False, metadata: Mapping[str, str] | None = None):
    """Writes a model, its architecture and its state, as one safetensors file, from which `load` makes it again.

    The file appears whole or not at all, and is on the disk when save returns.

    Args:
        model: a Module of classes of pynn.nn, and of your own that @pynn.nn.register names.
        keep: keep the file that was at path, as path + ".former".
        metadata: {text: text} that other readers of safetensors find in the header.

    Raises:
        TypeError: no Module, or one with a class or an argument that a file cannot tell. OSError: naming path and
        cause; what was at path is as it was.
    """
    if not isinstance(model, Module):
        raise TypeError(f"save: argument 'model': expected a Module, got {type(model).__name__}")
    tensors: dict[str, np.ndarray] = {}
    try:
        form = model_state(model, tensors)
    except TypeError as e:
        raise TypeError(f"save: {e}") from None
    write(path, "model", tensors, {"pynn": __version__, "model": form}, keep=keep, metadata=metadata)


def load(path: str | os.PathLike) -> Module:
    """The model in a file of `save`, or in a Trainer's checkpoint. Modules are in the mode that they were saved in.

    Raises:
        FileNotFoundError: no such file. ValueError: the file is damaged, truncated, no model, made by a newer
        version, or holds a class that is not registered; the text says which.
    """
    tensors, state = read(path, "model", "checkpoint")
    if state["model"]["architecture"] is None:
        raise ValueError(f"load: {os.fspath(path)!r} is a checkpoint of a model whose class is not registered "
                         "(pynn.nn.register): make the model, and Trainer.load")  # fmt: skip
    return model_from(state["model"], tensors)


def state_arrays(model: Module) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """({path: array}, {path: first path}): the state of a model, that of tied tensors once; memory is shared."""
    arrays, tied, first = {}, {}, {}
    for name, x in model._state().items():
        if id(x) in first:
            tied[name] = first[id(x)]
        else:
            first[id(x)] = name
            arrays[name] = _core.read_view(x)
    return arrays, tied


def model_state(model: Module, tensors: dict[str, np.ndarray], architecture: bool = True) -> dict[str, Any]:
    """A model as JSON; its tensors go to tensors under "model."."""
    arrays, tied = state_arrays(model)
    tensors.update({PREFIX + name: a for name, a in arrays.items()})
    return {
        "architecture": described(model, tensors) if architecture else None,
        "tied": tied,
        "frozen": [name for name, p in model.named_parameters() if not p.requires_grad],
    }


def model_from(form: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> Module:
    """The model that `model_state` described.

    Raises:
        ValueError: as built and load_state_dict.
    """
    model = built(form["architecture"], tensors)
    for name, first in form["tied"].items():
        _tie(model, name, first)
    arrays = {name[len(PREFIX) :]: a for name, a in tensors.items() if name.startswith(PREFIX)}
    for name, x in model._state().items():
        arr = arrays.get(form["tied"].get(name, name))
        if arr is not None and (x.shape == (0,) or (arr.shape == x.shape and arr.dtype != x.dtype)):
            x._rebind(_core.from_array(arr))  # another dtype, or a parameter that the constructor did not make
    for name in form["frozen"]:
        model.get_parameter(name).requires_grad = False
    model.load_state_dict({**arrays, **{name: arrays[first] for name, first in form["tied"].items()}})
    return model


def _tie(model: Module, name: str, first: str) -> None:
    """Makes the tensor at path name the one at path first."""
    path, _, key = first.rpartition(".")
    owner = model.get_submodule(path)
    x = owner._parameters.get(key, owner._buffers.get(key))
    path, _, key = name.rpartition(".")
    owner = model.get_submodule(path)
    registry = owner._parameters if key in owner._parameters else owner._buffers
    if x is None or key not in registry:
        raise ValueError(f"load: the model has no tensors {first!r} and {name!r} to tie")
    if registry[key] is not x:
        setattr(owner, key, x)
