"""Optimizer: parameter groups, state and their dictionaries, as in PyTorch. A subclass says what a step is."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from .. import _core
from ..autograd import enable_grad
from ..ops.optim import clip_scale, gradients
from ..tensor import Tensor, tensor

__all__ = ["Optimizer", "ParamGroup"]

float64 = np.dtype(np.float64)
_ONE = tensor(1.0, float64)


class ParamGroup(dict):
    """The parameters that share hyper-parameters, and these. Reads and writes like a dict of plain values.

    The learning rate stands in the 0-d tensor `lr_tensor` too, which the kernels read: what is written to
    group["lr"] takes effect in the next step, be it called or replayed.
    """

    __slots__ = ("lr_tensor",)

    def __new__(cls, *args, **kwargs):
        group = super().__new__(cls)
        group.lr_tensor = tensor(0.0, float64)
        return group

    def __init__(self, *args, **kwargs):
        super().__init__()
        self.update(*args, **kwargs)

    def __setitem__(self, key, value):
        if key == "lr":
            value = number(value, "lr")
            _core.set_number(self.lr_tensor, value)
        elif self.get(key) is not value:
            _core.bump_structure()
        super().__setitem__(key, value)

    def update(self, *args, **kwargs):
        for key, value in dict(*args, **kwargs).items():
            self[key] = value

    def setdefault(self, key, default=None):
        if key not in self:
            self[key] = default
        return self[key]

    def __ior__(self, other):
        self.update(other)
        return self


class _State(defaultdict):
    """{parameter: {name: Tensor}}. Plans see what is taken out."""

    def clear(self):
        _core.bump_structure()
        super().clear()

    def pop(self, *args):
        _core.bump_structure()
        return super().pop(*args)

    def __delitem__(self, key):
        _core.bump_structure()
        super().__delitem__(key)


class Optimizer:
    """The base of all optimizers.

    Args:
        params: Tensors, or dicts with "params" and values that differ from the defaults.
        defaults: hyper-parameters of groups that do not give their own.

    Attributes:
        param_groups: list of dicts; `param_groups[0]["lr"] = 0.1` takes effect in the next step.
        state: {parameter: {name: Tensor}}, filled by the first step that sees the parameter's gradient.

    A subclass defines `check(group)`, which raises ValueError for bad hyper-parameters, and `update(group)`, which
    multiplies gradients by the 0-d tensor `self._scale`.
    """

    def __init__(self, params: Iterable[Tensor] | Iterable[dict[str, Any]], defaults: dict[str, Any]):
        if isinstance(params, Tensor):
            raise TypeError(
                "params argument given to the optimizer should be an iterable of Tensors or dicts, but got Tensor"
            )
        self.defaults = defaults
        self.state: defaultdict[Tensor, dict[str, Any]] = _State(dict)
        self.param_groups: list[ParamGroup] = []
        if not isinstance(params, Iterable):
            raise TypeError(
                f"params argument given to the optimizer should be an iterable of Tensors or dicts, but got "
                f"{type(params).__name__}"
            )
        groups = list(params)
        if not groups:
            raise ValueError("optimizer got an empty parameter list")
        if not isinstance(groups[0], dict):
            groups = [{"params": groups}]
        for group in groups:
            self.add_param_group(group)

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("_"):
            _core.bump_structure()
        object.__setattr__(self, name, value)

    def check(self, group: dict[str, Any]) -> None:
        """Raises ValueError where a hyper-parameter of group is out of its range."""
        raise NotImplementedError

    def update(self, group: ParamGroup) -> None:
        """One step of the parameters of group that have a gradient."""
        raise NotImplementedError

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group of parameters; values it does not give are the defaults.

        Raises:
            TypeError: not a dict, a set of parameters, a parameter that is no Tensor. ValueError: a parameter with
            history, one that occurs twice, a hyper-parameter out of range.
        """
        if not isinstance(param_group, dict):
            raise TypeError(f"param_group must be a dict, but got {type(param_group)}")
        group = {**self.defaults, **param_group}
        group["params"] = _checked_params(param_group.get("params"))
        seen = {id(p) for g in self.param_groups for p in g["params"]}
        if any(id(p) in seen for p in group["params"]):
            raise ValueError("some parameters appear in more than one parameter group")
        self.check(group)
        self.param_groups.append(ParamGroup(group))

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drops the gradients of all parameters, or overwrites them with zeros."""
        for group in self.param_groups:
            for p in group["params"]:
                if set_to_none:
                    p.grad = None
                elif p.grad is not None:
                    p.grad = p.grad.detach().zero_()

    def step(self, closure: Callable[[], Any] | None = None, *, max_norm: float | None = None):
        """Updates every parameter that has a gradient.

        Args:
            closure: computes the loss anew, with its gradients; called with recording on.
            max_norm: steps as after nn.utils.clip_grad_norm_(all parameters, max_norm), but the gradients are scaled
                as they are read and keep their values: a pass over them less.

        Returns:
            what closure returned.

        Raises:
            ValueError: max_norm < 0 or NaN; a gradient by rows of a parameter that is not row-major.
        """
        loss = None
        if closure is not None:
            with enable_grad():
                loss = closure()
        before, put = _core.set_grad_enabled(False), object.__setattr__  # at a tenth of __setattr__'s cost
        try:
            put(self, "_scale", _ONE if max_norm is None else self._clip(max_norm))
            for group in self.param_groups:
                self.update(group)
        finally:
            put(self, "_scale", _ONE)  # a plan cannot be made where what a step computed outlives it
            _core.set_grad_enabled(before)
        return loss

    _scale: Tensor  # what gradients are multiplied by in this step

    def _clip(self, max_norm: float) -> Tensor:
        """The scale of gradients whose common norm is to be at most max_norm."""
        if not float(max_norm) >= 0:
            raise ValueError(f"step: argument 'max_norm': expected a number >= 0, got {max_norm}")
        grads = gradients(self._params())
        return clip_scale(grads, float(max_norm)) if grads else _ONE

    # ---- dictionaries --------------------------------------------------------------------------

    needed: tuple[str, ...] = ()  # what the state of a parameter must hold, where there is any
    hidden: tuple[str, ...] = ()  # state that PyTorch's dictionaries do not have

    def state_dict(self) -> dict[str, Any]:
        """{"state": {index: {name: array}}, "param_groups": [...]} in PyTorch's structure, with NumPy arrays."""
        index = {id(p): k for k, p in enumerate(self._params())}
        state = {}
        for p, values in self.state.items():
            if id(p) in index:
                state[index[id(p)]] = {
                    name: v.numpy_copy() if isinstance(v, Tensor) else v
                    for name, v in values.items()
                    if name not in self.hidden
                }
        groups = [{**group, "params": [index[id(p)] for p in group["params"]]} for group in self.param_groups]
        return {"state": dict(sorted(state.items())), "param_groups": groups}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over what `state_dict` returned here or in PyTorch; values may be anything that turns into an array.

        State gets the dtype and the memory layout of its parameter. Nothing changes where something does not fit.

        Raises:
            ValueError: other numbers of groups or parameters, state that lacks a name or has another shape.
        """
        groups = state_dict["param_groups"]
        if len(groups) != len(self.param_groups):
            raise ValueError("loaded state dict has a different number of parameter groups")
        if any(len(g["params"]) != len(mine["params"]) for g, mine in zip(groups, self.param_groups)):
            raise ValueError(
                "loaded state dict contains a parameter group that doesn't match the size of optimizer's group"
            )
        order = [k for g in groups for k in g["params"]]
        new = {}
        for k, p in zip(order, self._params()):
            loaded = {name: v for name, v in state_dict["state"].get(k, {}).items() if v is not None}
            if missing := [name for name in self.needed if name not in loaded] if loaded else []:
                raise ValueError(f"load_state_dict: state {k}: expected {', '.join(missing)}, got {', '.join(loaded)}")
            if loaded:
                new[p] = {name: _as_state(p, k, name, v) for name, v in loaded.items()}
        merged = [{**mine, **g, "params": mine["params"]} for g, mine in zip(groups, self.param_groups)]
        for group in merged:
            self.check(group)
        for group, values in zip(self.param_groups, merged):
            group.update(values)
        for p in list(self.state):
            if p not in new:
                _core.bump_structure()
                del self.state[p]
        for p, values in new.items():
            _replace_state(self.state[p], values)

    def _params(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"]]

    def __repr__(self):
        lines = [f"{type(self).__name__} ("]
        for k, group in enumerate(self.param_groups):
            lines.append(f"Parameter Group {k}")
            lines += [f"    {key}: {group[key]}" for key in sorted(group) if key != "params"]
        return "\n".join([*lines, ")"])


def number(value, name: str) -> float:
    """A hyper-parameter as a float; raises TypeError for what is none."""
    try:
        return float(None if isinstance(value, (str, bytes)) else value)
    except (TypeError, ValueError):
        raise TypeError(f"optimizer: '{name}': expected a number, got {value!r}") from None


def check_not_negative(group: dict[str, Any], name: str, what: str) -> None:
    """Raises where group[name] is negative, NaN, or no number."""
    if not number(group[name], name) >= 0.0:
        raise ValueError(f"Invalid {what}: {group[name]}")


def _checked_params(params) -> list[Tensor]:
    """The parameters of a group as a list; raises what cannot be optimized."""
    if isinstance(params, Tensor):
        params = [params]
    elif isinstance(params, (set, frozenset)):
        raise TypeError(
            "optimizer parameters need to be organized in ordered collections, but the ordering of tensors in sets "
            "will change between runs. Please use a list instead."
        )
    elif params is None:
        raise ValueError("optimizer: expected a parameter group with the key 'params', got one without it")
    params = list(params)
    for p in params:
        if not isinstance(p, Tensor):
            raise TypeError(f"optimizer can only optimize Tensors, but one of the params is {type(p).__name__}")
        if not p.is_leaf:
            raise ValueError("can't optimize a non-leaf Tensor")
    if len({id(p) for p in params}) != len(params):
        raise ValueError("optimizer contains a parameter group with duplicate parameters")
    return params


def zero_number() -> Tensor:
    """A step count: a 0-d float64 tensor, exact for 2⁵³ steps."""
    return tensor(0.0, float64)


def _as_state(p: Tensor, index: int, name: str, value) -> Tensor | float:
    """A loaded value as state of p: 0-d ones as numbers in float64, large ones as p lies in memory."""
    value = value._array() if isinstance(value, Tensor) else np.asarray(value)
    if name in ("step", "mu_product"):
        if value.size != 1:
            raise ValueError(f"load_state_dict: state {index}, {name!r}: expected one number, got shape {value.shape}")
        return tensor(value.reshape(()), float64)
    if value.shape != p.shape:
        raise ValueError(
            f"load_state_dict: state {index}, '{name}': expected the parameter's shape {p.shape}, got {value.shape}"
        )
    x = _core.zeros_as(p)
    return x.copy_(tensor(value))


def _replace_state(old: dict[str, Any], new: dict[str, Tensor]) -> None:
    """Makes old equal to new, in the tensors that are there already where they fit."""
    for name in [name for name in old if name not in new]:
        _core.bump_structure()
        del old[name]
    for name, x in new.items():
        y = old.get(name)
        if isinstance(y, Tensor) and (y.shape, y.dtype, y.strides) == (x.shape, x.dtype, x.strides):
            y.copy_(x)
        else:
            _core.bump_structure()
            old[name] = x


_core.bind_optimizer(Optimizer)
