"""Weights in files, and whole runs in files: safetensors, which hold numbers and nothing that could run."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _core
from ..autograd import no_grad
from ..config import __version__, config
from ..files import pack, read, row_major, save_whole, unpack, write
from ..nn.module import Module
from ..nn.saving import PREFIX, model_state
from ..random import default_generator
from ..sparse import RowGradient
from ..tensor import tensor
from .run import Run

if TYPE_CHECKING:
    from .trainer import Trainer

__all__ = ["load_checkpoint", "load_state", "save_checkpoint", "save_state", "undo"]


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
    callbacks = trainer._callbacks.state() if trainer._callbacks else None
    state: dict[str, Any] = {
        "parts": _parts(trainer),
        "optimizer": None if trainer.optimizer is None else trainer.optimizer.state_dict(),
        "schedule": None if trainer.schedule is None else trainer.schedule.state_dict(),
        "average": [_array(m) for m in trainer._average.values()] if trainer._average else None,
        "run": None if trainer.run is None else trainer.run.state(),
        "best": {k: own["best_weights"] for k, (_, own) in enumerate(callbacks or ()) if "best_weights" in own},
        "callbacks": callbacks and [[name, _without(own, "best_weights")] for name, own in callbacks],
        "pending": _pending(trainer),
        "rng": [_array(g._state) for g in (default_generator, trainer._generator) if g is not None],
        "steps": trainer.steps,
        "isa": c["isa"]["level"],
        "config": _plain(c),
    }
    forms = {name: pack(value, name, tensors) for name, value in state.items()}
    write(path, "checkpoint", tensors, {"pynn": __version__, "model": model, **forms}, keep=keep)


def _parts(trainer: Trainer) -> dict[str, Any]:
    """What a trainer must have in common with the one that loads."""
    parts = {"optimizer": trainer.optimizer, "schedule": trainer.schedule}
    counts = {"running means": len(trainer._average or ()), "a seed of its own": trainer._generator is not None}
    return {**{name: None if x is None else type(x).__name__ for name, x in parts.items()}, **counts}


def _without(state: dict[str, Any], name: str) -> dict[str, Any]:
    return {k: v for k, v in state.items() if k != name}


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
    """Puts trainer where it was, or leaves it as it is."""
    tensors, form = read(path, "checkpoint")
    put_back = undo(trainer)
    try:
        state = {k: unpack(v, tensors) for k, v in form.items() if k not in ("pynn", "model")}
        arrays = {name[len(PREFIX) :]: a for name, a in tensors.items() if name.startswith(PREFIX)}
        arrays.update({name: arrays[first] for name, first in form["model"]["tied"].items()})
        trainer.model.load_state_dict(arrays)
        _check(trainer, state)
        _set(trainer, state)
        written = state["isa"], form["pynn"]
    except BaseException as e:
        put_back()
        if isinstance(e, (ValueError, KeyError, TypeError, IndexError, AttributeError)):
            text = str(e) if isinstance(e, ValueError) else f"{type(e).__name__}: {e}"
            raise ValueError(f"load: {os.fspath(path)!r} does not fit this Trainer: {text}") from e
        raise
    _warn_of_other_bits(*written, path)


def _check(trainer: Trainer, state: dict[str, Any]) -> None:
    """Raises ValueError where the checkpoint is of another trainer."""
    for name, mine in _parts(trainer).items():
        if state["parts"][name] != mine:
            raise ValueError(
                f"expected a Trainer like the one that was saved, whose {name} was {state['parts'][name]}, got {mine}"
            )
    if trainer.optimizer is not None:
        mine = [g["params"] for g in trainer.optimizer.param_groups]
        theirs = [g["params"] for g in state["optimizer"]["param_groups"]]
        if [len(g) for g in mine] != [len(g) for g in theirs]:
            raise ValueError("the checkpoint's optimizer has other parameters than the trainer's")


def _set(trainer: Trainer, state: dict[str, Any]) -> None:
    """Puts all but the model where state says."""
    run = None if state["run"] is None else Run.of_state(trainer, state["run"])
    if trainer.optimizer is not None:
        trainer.optimizer.load_state_dict(state["optimizer"])
    if trainer.schedule is not None:
        trainer.schedule.load_state_dict(state["schedule"])
    for mean, value in zip((trainer._average or {}).values(), state["average"] or ()):
        mean.copy_(tensor(value))
    trainer.run, trainer.steps = run, state["steps"]
    for k, weights in state["best"].items():
        state["callbacks"][k][1]["best_weights"] = weights
    trainer._loaded_callbacks = state["callbacks"]
    if trainer._generator is not None:
        trainer._generator.set_state(state["rng"][1])
    default_generator.set_state(state["rng"][0])
    _bind_pending(trainer, state["pending"])


def undo(trainer: Trainer) -> Callable[[], None]:
    """A function that makes trainer what it is now."""
    stateful = [x for x in (trainer.optimizer, trainer.schedule) if x is not None]
    states = [x.state_dict() for x in stateful]
    tensors = [*trainer.model._state().values(), *(trainer._average or {}).values()]
    values = [x.detach().clone() for x in tensors]
    generators = [g for g in (default_generator, trainer._generator) if g is not None]
    randoms = [g.get_state() for g in generators]
    plain = {name: getattr(trainer, name) for name in ("run", "steps", "_loaded_callbacks")}
    grads = [(p, p.grad) for p in trainer.model.parameters()]

    def put_back():
        for x, state in zip(stateful, states):
            x.load_state_dict(state)
        with no_grad():
            for x, value in zip(tensors, values):
                x.copy_(value)
        for g, random in zip(generators, randoms):
            g.set_state(random)
        vars(trainer).update(plain)
        for p, grad in grads:
            p.grad = grad

    return put_back


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
