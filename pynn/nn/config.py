"""What a module is, as JSON, and a module of that JSON: classes by name, arguments, parts. No code, no pickle.

Every Module keeps the arguments that it was made with (module.py). Its description is those, its plain attributes as
they are now, and its submodules. `built` makes a module with the same arguments and then changes what is different:
attributes set later, parts added, replaced and removed.

A class of pynn's has its name; one of a user's gets one by `register`.
"""

from __future__ import annotations

import contextlib
import types
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..files import pack, unpack
from ..random import default_generator
from ..tensor import Tensor
from . import functional
from .module import Module, Parameter
from .state import parameters_of

__all__ = ["built", "described", "register"]

_NAMED: dict[str, type] = {}  # what `register` was told


def register(name: str) -> Callable[[type], type]:
    """Lets pynn.save and pynn.load know a Module class of yours by name: @pynn.nn.register("my.Net").

    The program that loads must register it too. The arguments of its constructor are saved: numbers, strings, lists
    and dicts of them, arrays, modules, classes of pynn.nn and functions of pynn.nn.functional.

    Raises:
        TypeError: no text, or no subclass of Module. ValueError: the name is taken.
    """
    if not isinstance(name, str) or not name:
        raise TypeError(f"register: argument 'name': expected a text, got {name!r}")

    def enter(cls: type) -> type:
        if not (isinstance(cls, type) and issubclass(cls, Module)):
            raise TypeError(f"register: {name!r}: expected a subclass of Module, got {cls!r}")
        other = _builtin(name) or _NAMED.get(name)
        # the same class defined anew, in a notebook or by reload, takes its own place
        if other and (other.__module__, other.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ValueError(f"register: {name!r} is the name of {other.__module__}.{other.__qualname__}")
        _NAMED[name] = cls
        return cls

    return enter


def _builtin(name: str) -> type | None:
    """pynn's own class of that name."""
    from .. import nn

    found = getattr(nn, name, None)
    return found if isinstance(found, type) and issubclass(found, Module) else None


def _name_of(cls: type) -> str:
    if _builtin(cls.__name__) is cls:
        return cls.__name__
    for name, other in _NAMED.items():
        if other is cls:
            return name
    raise TypeError(f"{cls.__qualname__} is no class of pynn.nn: write @pynn.nn.register({cls.__name__!r}) above it")


def _class_of(name: Any) -> type:
    cls = (_builtin(name) or _NAMED.get(name)) if isinstance(name, str) else None
    if cls is None:
        raise ValueError(
            f"load: the file holds a module of class {name!r}, which is not known: import what registers it "
            "(pynn.nn.register), or update pynn"
        )
    return cls


# ---- describing --------------------------------------------------------------------------------------


def described(module: Module, tensors: dict[str, np.ndarray], name: str = "argument") -> dict[str, Any]:
    """module as JSON; arrays among its arguments go to tensors, under names that begin with `name`.

    Raises:
        TypeError: a class that is not registered, an argument that JSON cannot hold.
    """
    return _described(module, tensors, name, "", {})


def _described(module: Module, tensors, name: str, path: str, seen: dict[int, str]) -> dict[str, Any]:
    if id(module) in seen:
        return {"same": seen[id(module)]}
    seen[id(module)] = path
    at = f"{path}." if path else ""
    arguments = _arguments(module, tensors, f"{name}.{path}" if path else name)
    usual = {**_defaults(type(module)), **arguments}  # what the constructor keeps under the argument's own name
    return {
        "class": _name_of(type(module)),
        "arguments": arguments,
        "attributes": {k: v for k, v in _attributes(module).items() if k not in usual or usual[k] != v},
        "parameters": {k: p is not None for k, p in module._parameters.items()},
        "parts": {
            k: None if m is None else _described(m, tensors, name, at + k, seen) for k, m in module._modules.items()
        },
    }


def _defaults(cls: type) -> dict[str, Any]:
    """The defaults of a constructor that are numbers and text, as JSON, and that modules begin in training."""
    found: dict[str, Any] = {"training": True}
    for p in parameters_of(cls).values():
        with contextlib.suppress(TypeError):
            found[p.name] = pack(p.default, p.name, {})
    return found


def _attributes(module: Module) -> dict[str, Any]:
    """The public attributes of numbers and text, as JSON. The constructor makes the others."""
    found = {}
    known = module._parameters, module._buffers, module._modules
    for name, value in vars(module).items():
        held: dict[str, np.ndarray] = {}
        if not name.startswith("_") and not any(name in registry for registry in known):
            with contextlib.suppress(TypeError):
                form = pack(value, name, held)
                if not held:
                    found[name] = form
    return found


def _arguments(module: Module, tensors: dict[str, np.ndarray], name: str) -> dict[str, Any]:
    """The arguments that module was made with, as JSON."""
    forms = {}
    for key, value in module._arguments.items():
        try:
            forms[key] = _form(value, f"{name}.{key}", tensors)
        except TypeError as e:
            raise TypeError(f"{type(module).__name__}, argument {key!r}: {e}") from None
    return forms


def _form(value: Any, name: str, tensors: dict[str, np.ndarray]) -> Any:
    """An argument as JSON."""
    if isinstance(value, Module):
        return {"module": described(value, tensors, name)}
    if isinstance(value, type) and issubclass(value, Module):
        return {"class": _name_of(value)}
    if isinstance(value, type) and issubclass(value, np.generic):
        return {"dtype": np.dtype(value).name}
    if isinstance(value, types.FunctionType) and getattr(functional, value.__name__, None) is value:
        return {"function": value.__name__}
    if isinstance(value, (list, tuple)) and any(isinstance(v, (Module, type)) for v in value):
        items = [_form(v, f"{name}.{k}", tensors) for k, v in enumerate(value)]
        return {"tuple": items} if isinstance(value, tuple) else items
    return pack(value._array() if isinstance(value, Tensor) else value, name, tensors)


# ---- building ----------------------------------------------------------------------------------------


def built(form: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> Module:
    """A module as `described`; its parameters have the constructor's values.

    Raises:
        ValueError: a class that is not known, or a description that its constructor refuses.
    """
    before = default_generator.get_state()
    try:
        return _built(form, tensors)
    except (KeyError, TypeError, AttributeError, IndexError) as e:
        raise ValueError(f"load: the description of the model does not fit: {type(e).__name__}: {e}") from e
    finally:
        default_generator.set_state(before)


def _built(form: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> Module:
    module = _made(form, tensors)
    _join(module, module, form)
    return module


def _made(form: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> Module:
    cls = _class_of(form["class"])
    named = {name: _value(v, tensors) for name, v in form["arguments"].items()}
    rest = named.pop("*", [])
    slots = [p for p in parameters_of(cls).values() if p.kind == p.POSITIONAL_ONLY or (rest and p.kind == 1)]
    module = cls(*[named.pop(p.name) for p in slots if p.name in named], *rest, **named)
    _adapt(module, form, tensors)
    return module


def _adapt(module: Module, form: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> None:
    """Changes a module fresh from its constructor where form says otherwise."""
    now = _attributes(module)
    for name, value in form["attributes"].items():
        if name not in now or now[name] != value:
            setattr(module, name, unpack(value, tensors))
    for name in [n for n in module._parameters if n not in form["parameters"]]:
        delattr(module, name)
    for name, there in form["parameters"].items():
        if (module._parameters.get(name) is not None) != there or name not in module._parameters:
            module.register_parameter(name, Parameter() if there else None)  # its values come with the state
    parts, have = form["parts"], dict(module._modules)
    if list(have) != list(parts):
        for name in have:
            delattr(module, name)
    for name, part in parts.items():
        old = have.get(name)
        if part is None or "same" in part:
            module.add_module(name, old if part else None)
        elif old is not None and _alike(old, part):
            _adapt(old, part, tensors)
            module.add_module(name, old)
        else:
            module.add_module(name, _made(part, tensors))


def _join(root: Module, module: Module, form: Mapping[str, Any]) -> None:
    """Puts modules that occur more than once under all of their names."""
    for name, part in form["parts"].items():
        if part is None:
            continue
        if "same" in part:
            module.add_module(name, root.get_submodule(part["same"]))
        else:
            _join(root, module._modules[name], part)


def _alike(module: Module, form: Mapping[str, Any]) -> bool:
    """Whether module was made as form says."""
    return type(module) is _class_of(form["class"]) and _arguments(module, {}, "") == form["arguments"]


def _value(form: Any, tensors: Mapping[str, np.ndarray]) -> Any:
    """What `_form` made form of."""
    if isinstance(form, list):
        return [_value(v, tensors) for v in form]
    if isinstance(form, dict) and len(form) == 1:
        ((tag, value),) = form.items()
        if tag == "module":
            return _built(value, tensors)
        if tag == "class":
            return _class_of(value)
        if tag == "function":
            if value not in functional.__all__:
                raise ValueError(f"load: pynn.nn.functional has no function {value!r}")
            return getattr(functional, value)
        if tag == "tuple":
            return tuple(_value(v, tensors) for v in value)
    return unpack(form, tensors)
