"""Weights in files, and whole runs in files: safetensors, which hold numbers and nothing that could run."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _core
from ..config import __version__, config
from ..files import pack, read, row_major, save_whole, unpack, write
from ..nn.module import Module
from ..nn.saving import PREFIX, model_state
from ..nn.state import checked_state
from ..random import default_generator
from ..sparse import RowGradient
from ..tensor import tensor
from .run import Run

if TYPE_CHECKING:
    from .trainer import Trainer

__all__ = ["load_checkpoint", "load_state", "save_checkpoint", "save_state"]


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


# ---- whole runs --------------------------------------------------------------------------------------


def save_checkpoint(trainer: Trainer, path: str | os.PathLike, keep: bool) -> None:
    """Writes everything that training goes on from."""
    tensors: dict[str, np.ndarray] = {}
    try:
        model = model_state(trainer.model, tensors)
    except TypeError:  # a class that is not registered: the trainer that loads has the model
        model = model_state(trainer.model, tensors, architecture=False)
    c = config()
    state: dict[str, Any] = {
        "optimizer": None if trainer.optimizer is None else trainer.optimizer.state_dict(),
        "schedule": None if trainer.schedule is None else trainer.schedule.state_dict(),
        "average": [_array(m) for m in trainer._average.values()] if trainer._average else None,
        "run": None if trainer.run is None else trainer.run.state(),
        "callbacks": trainer._callbacks.state() if trainer._callbacks else None,
        "pending": _pending(trainer),
        "rng": [_array(g._state) for g in (default_generator, trainer._generator) if g is not None],
        "steps": trainer.steps,
        "isa": c["isa"]["level"],
        "config": _plain(c),
    }
    forms = {name: pack(value, name, tensors) for name, value in state.items()}
    write(path, "checkpoint", tensors, {"pynn": __version__, "model": model, **forms}, keep=keep)


def _array(x) -> np.ndarray:
    return np.array(_core.read_view(x))


def _plain(value: Any) -> Any:
    """A nested dict with texts for what is neither number nor text."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def _pending(trainer: Trainer) -> list | None:
    """The gradients of a step of which some batches were differentiated: per parameter an array, rows, or None."""
    run = trainer.run
    if run is None or not run.batch % run.options["accumulate"]:
        return None
    found: list = [
        None if p.grad is None or type(p.grad) is RowGradient else _array(p.grad) for p in trainer.model.parameters()
    ]
    for k, index, rows in run.held:
        found[k] = {"index": _array(index), "rows": _array(rows)}
    return found


def load_checkpoint(trainer: Trainer, path: str | os.PathLike) -> None:
    """Puts trainer where it was. Everything is checked before anything is changed."""
    tensors, form = read(path, "checkpoint")
    state = {k: unpack(v, tensors) for k, v in form.items() if k not in ("pynn", "model")}
    arrays = {name[len(PREFIX) :]: a for name, a in tensors.items() if name.startswith(PREFIX)}
    arrays.update({name: arrays[first] for name, first in form["model"]["tied"].items()})
    _check(trainer, state, arrays)
    run = None if state["run"] is None else Run.of_state(trainer, state["run"])
    if trainer.optimizer is not None:
        trainer.optimizer.load_state_dict(state["optimizer"])  # checks, then changes
    trainer.model.load_state_dict(arrays)
    if trainer.schedule is not None:
        trainer.schedule.load_state_dict(state["schedule"])
    for mean, value in zip((trainer._average or {}).values(), state["average"] or ()):
        mean.copy_(tensor(value))
    trainer.run = run
    trainer._loaded_callbacks = state["callbacks"]
    trainer.steps = state["steps"]
    if trainer._generator is not None:
        trainer._generator.set_state(state["rng"][1])
    default_generator.set_state(state["rng"][0])
    _bind_pending(trainer, state["pending"])
    _warn_of_other_bits(state["isa"], form["pynn"], path)


def _check(trainer: Trainer, state: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """Raises ValueError where the checkpoint is of another trainer."""
    checked_state(type(trainer.model).__name__, trainer.model._state(), arrays, True)
    for name, own in (
        ("optimizer", trainer.optimizer),
        ("schedule", trainer.schedule),
        ("average", trainer._average),
    ):
        if (state[name] is None) != (own is None):
            has = "none" if state[name] is None else "one"
            raise ValueError(
                f"load: the checkpoint has {has} where the trainer has {'none' if own is None else 'one'}: {name}"
            )
    if (len(state["rng"]) == 2) != (trainer._generator is not None):
        raise ValueError("load: expected a Trainer with a seed of its own exactly where the checkpoint's had one")
    if trainer.optimizer is not None:
        mine = [g["params"] for g in trainer.optimizer.param_groups]
        theirs = [g["params"] for g in state["optimizer"]["param_groups"]]
        if [len(g) for g in mine] != [len(g) for g in theirs]:
            raise ValueError("load: the checkpoint's optimizer has other parameters than the trainer's")


def _bind_pending(trainer: Trainer, pending: list | None) -> None:
    """Gives the parameters the gradients of a step that is not whole yet."""
    if trainer.run is not None:
        trainer.run.held = []
    for k, (p, g) in enumerate(zip(trainer.model.parameters(), pending or ())):
        if isinstance(g, dict):
            trainer.run.held.append((k, tensor(g["index"]), tensor(g["rows"])))
            p.grad = None
        else:
            p.grad = None if g is None else _core.zeros_as(p).copy_(tensor(g))


def _warn_of_other_bits(isa: str, version: str, path) -> None:
    now = config()["isa"]["level"]
    if isa != now or version != __version__:
        warnings.warn(
            f"load: {os.fspath(path)!r} was written by pynn {version} on {isa} kernels, and goes on with pynn "
            f"{__version__} on {now}: bits will differ from those of a run that was never interrupted",
            RuntimeWarning,
            stacklevel=4,
        )
