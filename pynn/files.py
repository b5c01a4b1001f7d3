"""Files of pynn's own: one safetensors file holds tensors by name and, in its metadata, all other state as JSON.

    pynn.format   version of this layout, an integer
    pynn.kind     what is inside: "model", "checkpoint"
    pynn.state    the state, JSON; {"tensor": name} in it stands for a tensor of the file
    pynn.sha256   of names, dtypes, shapes, values, kind and state, whatever their order in the file

Nothing in a file can run. A file is written under another name, reaches the disk, and takes the place of the former
one in one step, so that at any moment the former or the new one is whole.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Mapping
from typing import Any

import numpy as np

__all__ = ["FORMAT", "pack", "read", "row_major", "unpack", "write"]

FORMAT = 1
DTYPES = frozenset(("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"))


# ---- trees of state ----------------------------------------------------------------------------------


def pack(value: Any, name: str, tensors: dict[str, np.ndarray]) -> Any:
    """value (numbers, strings, arrays, and tuples, lists and dicts of them) as JSON; arrays go to tensors, by name.

    Raises:
        TypeError: a value of another type, named by its place.
    """
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, (int, np.integer)):
        return int(value)
    if isinstance(value, (float, np.floating)):
        value = float(value)
        return value if math.isfinite(value) else {"float": repr(value)}
    if isinstance(value, np.dtype):
        return {"dtype": value.name}
    if isinstance(value, np.bool_):
        return bool(value)
    if isinstance(value, np.ndarray):
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, (list, tuple)):
        items = [pack(v, f"{name}.{k}", tensors) for k, v in enumerate(value)]
        return items if isinstance(value, list) else {"tuple": items}
    if isinstance(value, Mapping):
        pairs = [
            [pack(k, name, tensors) if not isinstance(k, str) else k, pack(v, f"{name}.{k}", tensors)]
            for k, v in value.items()
        ]
        return {"dict": pairs}
    raise TypeError(
        f"{name}: expected numbers, strings, arrays, or lists and dicts of them, got {type(value).__name__}"
    )


def unpack(form: Any, tensors: Mapping[str, np.ndarray]) -> Any:
    """What `pack` made form of.

    Raises:
        ValueError: a form that pack does not make. KeyError: a tensor that is not there.
    """
    if isinstance(form, list):
        return [unpack(v, tensors) for v in form]
    if not isinstance(form, dict):
        return form
    if len(form) == 1:
        ((tag, value),) = form.items()
        if tag == "tuple":
            return tuple(unpack(v, tensors) for v in value)
        if tag == "dict":
            return {unpack(k, tensors): unpack(v, tensors) for k, v in value}
        if tag == "float" and value in ("inf", "-inf", "nan"):
            return float(value)
        if tag == "dtype" and np.dtype(value).str[1:] in DTYPES:
            return np.dtype(value)
        if tag == "tensor":
            return tensors[value]
    raise ValueError(f"state: {str(form)[:60]!r} is not understood")


# ---- writing -----------------------------------------------------------------------------------------


def row_major(value: Any) -> np.ndarray:
    """value as an array that may be written: row-major, native byte order. safetensors writes memory as it lies."""
    arr = np.asarray(value)
    return np.asarray(arr, arr.dtype.newbyteorder("="), order="C")


def write(
    path: str | os.PathLike,
    kind: str,
    tensors: Mapping[str, np.ndarray],
    state: Any,
    *,
    keep: bool = False,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes a file of pynn's.

    Args:
        tensors: arrays of any strides.
        state: JSON.
        keep: keep the file that was at path as path + ".former".
        metadata: {text: text} for other readers.

    Raises:
        OSError: naming path and cause; what was at path is as it was. TypeError: a dtype that the format has not.
    """
    text = json.dumps(state, separators=(",", ":"), allow_nan=False)
    arrays = {name: _writable(name, value) for name, value in tensors.items()}
    own = {
        "pynn.format": str(FORMAT),
        "pynn.kind": kind,
        "pynn.state": text,
        "pynn.sha256": _digest(arrays, kind, text),
    }
    save_whole(path, arrays, {**(metadata or {}), **own}, keep)


def _writable(name: str, value: Any) -> np.ndarray:
    arr = row_major(value)
    if arr.dtype.str[1:] not in DTYPES:
        raise TypeError(f"save: {name!r}: expected real numbers or bools, got dtype {arr.dtype}")
    return arr


def save_whole(path, arrays: Mapping[str, np.ndarray], metadata: dict[str, str] | None, keep: bool = False) -> None:
    """Writes row-major arrays as a safetensors file that appears whole or not at all, and is on the disk then.

    Raises:
        OSError: naming path and cause; what was at path is as it was, or the text says that it is replaced.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    path = os.path.abspath(os.fspath(path))
    part = f"{path}.{os.getpid()}.part"
    now = "what was there is unchanged"
    try:
        with open(part, "wb"):  # tells what is wrong with the folder, as Python does
            pass
        save_file(arrays, part, metadata)
        _to_disk(part)
        if keep and os.path.exists(path):
            _keep(path)
        os.replace(part, path)
        now = "the new file is there, but may not outlast a power cut"
        _to_disk(os.path.dirname(path))
    except SafetensorError as e:
        found = re.search(r"os error (\d+)", str(e))
        code = int(found[1]) if found else errno.EIO
        raise OSError(code, f"save: {os.strerror(code)}; {now}", path) from e
    except OSError as e:
        raise OSError(e.errno, f"save: {e.strerror}; {now}", path) from e
    finally:
        with contextlib.suppress(OSError):
            os.unlink(part)


def _keep(path: str) -> None:
    """Gives the file at path a second name, by which it outlives its successor; path names it all the time."""
    former = path + ".former"
    part = f"{former}.{os.getpid()}.part"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(part)
    try:
        os.link(path, part)
    except OSError:  # no hard links here
        shutil.copyfile(path, part)
        _to_disk(part)
    os.replace(part, former)


def _to_disk(path: str) -> None:
    """Waits until the file, or the names in the folder, at path are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _digest(arrays: Mapping[str, np.ndarray], kind: str, text: str) -> str:
    """SHA-256 of everything that a reader gets."""
    h = hashlib.sha256()
    for name in sorted(arrays):
        arr = arrays[name]
        h.update(json.dumps([name, arr.dtype.name, arr.shape]).encode())
        if arr.size:
            h.update(arr.reshape(-1).view(np.uint8))
    h.update(json.dumps([kind, text]).encode())
    return h.hexdigest()


# ---- reading -----------------------------------------------------------------------------------------


def read(path: str | os.PathLike, *kinds: str) -> tuple[dict[str, np.ndarray], Any]:
    """(tensors, state) of a file of one of these kinds that `write` made.

    Raises:
        FileNotFoundError: no such file. ValueError: damaged, truncated, made by something else or by a newer
        version, of another kind; the text says which.
    """
    from safetensors import SafetensorError, safe_open

    path = os.fspath(path)
    if not os.path.isfile(path):
        raise FileNotFoundError(errno.ENOENT, "load: no such file", path)
    try:
        with safe_open(path, framework="np") as f:
            metadata = f.metadata() or {}
            _check_origin(path, metadata, kinds)
            tensors = {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118
    except (SafetensorError, UnicodeDecodeError, OverflowError) as e:
        raise ValueError(f"load: {path!r} is damaged, or no safetensors file: {e}") from e
    text = metadata.get("pynn.state", "")
    if metadata.get("pynn.sha256") != _digest(tensors, metadata["pynn.kind"], text):
        raise ValueError(f"load: {path!r} is damaged: its SHA-256 is not the one it was written with")
    return tensors, json.loads(text)


def _check_origin(path: str, metadata: Mapping[str, str], kinds: tuple[str, ...]) -> None:
    version = metadata.get("pynn.format")
    if version is None:
        raise ValueError(
            f"load: {path!r} was not written by pynn.save, or is damaged: it says nothing of a model. "
            "pynn.train.load_state reads its tensors"
        )
    if not re.fullmatch(r"[1-9]\d{0,8}", version):
        raise ValueError(f"load: {path!r} is damaged: its format is {version[:20]!r}")
    if int(version) > FORMAT:
        raise ValueError(
            f"load: {path!r} has format {version}, which is newer than this pynn, which reads {FORMAT}: update pynn"
        )
    if metadata.get("pynn.kind") not in kinds:
        raise ValueError(f"load: {path!r}: expected a {kinds[0]}, got a {str(metadata.get('pynn.kind'))[:20]}")
