"""Modules that hold modules or parameters: Sequential, ModuleList, ModuleDict, ParameterList."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ..ops.linear import Activation, activation_of
from .activation import AS_OP
from .conv2d import Conv1d, Conv2d
from .linear import Linear
from .module import Module, Parameter, structure_version

__all__ = ["ModuleDict", "ModuleList", "ParameterList", "Sequential"]


class _Numbered(Module):
    """Parts under the names "0", "1", …: what the sequences below share."""

    _registry = "_modules"

    def _parts(self) -> list:
        return list(getattr(self, self._registry).values())

    def _fill(self, parts: Iterable) -> None:
        """Holds exactly these parts."""
        for name in list(getattr(self, self._registry)):
            delattr(self, name)
        self.extend(parts)

    def _name_of(self, index: int) -> str:
        """The name of the part at index, which may be negative."""
        names = list(getattr(self, self._registry))
        try:
            return names[index]
        except TypeError:
            raise TypeError(f"{self._get_name()}: expected an integer index, got {type(index).__name__}") from None
        except IndexError:
            raise IndexError(
                f"{self._get_name()}: expected an index in [-{len(names)}, {len(names)}), got {index}"
            ) from None

    def _add(self, name: str, part) -> None:
        if not isinstance(part, Module):  # None, which add_module takes, is no part of a sequence
            raise TypeError(f"{self._get_name()}: expected a Module at {name}, got {type(part).__name__}")
        self.add_module(name, part)

    def __len__(self) -> int:
        return len(getattr(self, self._registry))

    def __iter__(self) -> Iterator:
        return iter(getattr(self, self._registry).values())

    def __getitem__(self, index: int | slice):
        if isinstance(index, slice):
            return type(self)(self._parts()[index])
        return getattr(self, self._registry)[self._name_of(index)]

    def __setitem__(self, index: int, part) -> None:
        self._add(self._name_of(index), part)

    def __delitem__(self, index: int | slice) -> None:
        parts = self._parts()
        if not isinstance(index, slice):
            self._name_of(index)  # raises for what is no index
        del parts[index]
        self._fill(parts)

    def append(self, part):
        """Adds part at the end."""
        self._add(str(len(self)), part)
        return self

    def extend(self, parts: Iterable):
        """Adds parts at the end."""
        for part in parts:
            self.append(part)
        return self

    def insert(self, index: int, part):
        """Puts part before the one at index."""
        if not isinstance(part, (Module, Parameter)):
            raise TypeError(f"{self._get_name()}: expected a Module at {index}, got {type(part).__name__}")
        parts = self._parts()
        parts.insert(index, part)
        self._fill(parts)
        return self


class Sequential(_Numbered):
    """Modules applied one after the other. Takes them as arguments, or one dict of name → module.

    A slice is a Sequential that shares its modules with this one. A Linear or a convolution and an activation behind
    it, neither of them changed or hooked, become one operation where that is faster, with the same bits.
    """

    _plan: tuple[int, list] = (-1, [])  # (module, activation to apply with it or None), for that structure_version

    def __init__(self, *modules):
        super().__init__()
        if len(modules) == 1 and isinstance(modules[0], Mapping):
            for name, module in modules[0].items():
                self._add(name, module)
        else:
            self.extend(modules)

    def __getitem__(self, index: int | slice):
        if isinstance(index, slice):
            return Sequential(dict(list(self._modules.items())[index]))
        return super().__getitem__(index)

    def __getstate__(self):
        """What copies and pickles take: all but the plan, whose structure_version is this process's."""
        return {name: v for name, v in self.__dict__.items() if name != "_plan"}

    def forward(self, x):
        version, plan = self._plan
        if version != structure_version():
            plan = self._make_plan()
        for layer, act in plan:
            x = layer(x) if act is None else layer._activated(x, act)
        return x

    def _make_plan(self) -> list:
        """(module, None), or (a layer, the activation behind it) for every call that forward makes."""
        plan: list = []
        for module in self._modules.values():
            before = plan[-1][0] if plan and plan[-1][1] is None else None
            act = _joined(before, module)
            if act is None:
                plan.append((module, None))
            else:
                plan[-1] = before, act
        object.__setattr__(self, "_plan", (structure_version(), plan))
        return plan


_FUSING = (Linear, Conv1d, Conv2d)
_FORWARDS = {kind: kind.forward for kind in (*_FUSING, *AS_OP)}  # as they were written


def _plain(module) -> bool:
    """Whether a call of module is its class's forward and nothing else."""
    forward = _FORWARDS.get(type(module))
    hooks = module._forward_hooks or module._forward_pre_hooks
    return forward is not None and not hooks and getattr(module.forward, "__func__", None) is forward


def _joined(layer, module) -> Activation | None:
    """module as an activation that `layer` may apply, or None where both are to be called."""
    if type(layer) not in _FUSING or layer.activation is not None or type(module) not in AS_OP:
        return None
    act = AS_OP[type(module)](module)
    if act is None or not all(isinstance(v, (int, float)) for v in act[1].values()):
        return None  # a call of module tells what is wrong
    return activation_of(act) if _plain(layer) and _plain(module) else None


class ModuleList(_Numbered):
    """A list of modules, all of which belong to the model. It has no forward of its own."""

    def __init__(self, modules: Iterable[Module] | None = None):
        super().__init__()
        self.extend(modules or ())

    def __repr__(self) -> str:
        """Neighbours that print alike stand in one line, as (0-2): 3 x Linear(…)."""
        runs: list[list] = []
        for k, text in enumerate(map(repr, self)):
            if runs and runs[-1][2] == text:
                runs[-1][1] = k
            else:
                runs.append([k, k, text])
        if not runs:
            return f"{self._get_name()}()"
        lines = []
        for first, last, text in runs:
            head = f"({first})" if first == last else f"({first}-{last})"
            count = "" if first == last else f"{last - first + 1} x "
            lines.append(f"  {head}: {count}" + text.replace("\n", "\n  "))
        return f"{self._get_name()}(\n" + "\n".join(lines) + "\n)"


class ModuleDict(Module):
    """Modules by name, in order of insertion. It has no forward of its own."""

    def __init__(self, modules: Mapping[str, Module] | None = None):
        super().__init__()
        self.update(modules or {})

    def __getitem__(self, key: str) -> Module:
        return self._modules[key]

    def __setitem__(self, key: str, module: Module) -> None:
        self.add_module(key, module)

    def __delitem__(self, key: str) -> None:
        if key not in self._modules:
            raise KeyError(key)
        delattr(self, key)

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __contains__(self, key: str) -> bool:
        return key in self._modules

    def keys(self) -> Iterable[str]:
        return self._modules.keys()

    def values(self) -> Iterable[Module]:
        return self._modules.values()

    def items(self) -> Iterable[tuple[str, Module]]:
        return self._modules.items()

    def pop(self, key: str) -> Module:
        """Removes the module under key and returns it."""
        module = self[key]
        del self[key]
        return module

    def clear(self) -> None:
        """Removes every module."""
        for key in list(self._modules):
            del self[key]

    def update(self, modules: Mapping[str, Module] | Iterable[tuple[str, Module]]) -> None:
        """Adds the modules of a mapping, or of pairs (name, module)."""
        for key, module in modules.items() if isinstance(modules, Mapping) else modules:
            self[key] = module


class ParameterList(_Numbered):
    """A list of parameters, all of which belong to the model. Tensors and arrays become parameters."""

    _registry = "_parameters"

    def __init__(self, values: Iterable[Any] | None = None):
        super().__init__()
        self.extend(values or ())

    def _add(self, name: str, part) -> None:
        self.register_parameter(name, part if isinstance(part, Parameter) else Parameter(part))

    def insert(self, index: int, part):
        return super().insert(index, part if isinstance(part, Parameter) else Parameter(part))

    def __repr__(self) -> str:
        lines = [f"  ({k}): Parameter containing: [{p.dtype} of shape {p.shape}]" for k, p in enumerate(self)]
        return f"{self._get_name()}(\n" + "\n".join(lines) + "\n)" if lines else f"{self._get_name()}()"
