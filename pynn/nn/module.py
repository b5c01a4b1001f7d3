"""Module, the base of layers and models, and Parameter, a tensor that a module learns.

A module keeps its parameters, buffers and submodules twice: as plain attributes, which are as fast to
read as any, and by name in `_parameters`, `_buffers` and `_modules`, which say what belongs to it.
`__setattr__` and `__delattr__` keep the two alike.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from .. import _core
from ..autograd import no_grad
from ..op import OPS
from ..tensor import Tensor
from .state import checked_state, recorded

__all__ = ["Module", "Parameter", "bump_structure", "structure_version"]

_base_requires_grad = Tensor.requires_grad
bump_structure, structure_version = _core.bump_structure, _core.structure_version


class Parameter(Tensor):
    """A tensor that a module learns: assigned to an attribute of a Module, it is one of its parameters.

    Args:
        data: anything that makes a tensor; copied into dense memory. None: no elements.
        requires_grad: whether it gets gradients.

    Raises:
        TypeError: text, objects, complex numbers, or requires_grad with a dtype that is not floating.
    """

    __slots__ = ()

    def __new__(cls, data=None, requires_grad: bool = True):
        x = super().__new__(cls)
        if data is None:
            x._rebind(_core.empty((0,)))
        else:
            x._rebind(_core.from_array(data._array() if isinstance(data, Tensor) else data, None, "Parameter: data"))
        _base_requires_grad.__set__(x, requires_grad)
        return x

    @property
    def requires_grad(self) -> bool:
        """Whether derivatives flow to this parameter."""
        return _base_requires_grad.__get__(self)

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        _base_requires_grad.__set__(self, value)
        bump_structure()

    def __repr__(self):
        return "Parameter containing:\n" + super().__repr__()


class RemovableHandle:
    """What registering a hook returns: remove() takes the hook away; as a context it does so at the end."""

    _next_id = 0

    def __init__(self, hooks: dict):
        self.id = RemovableHandle._next_id
        RemovableHandle._next_id += 1
        self._hooks = hooks

    def remove(self) -> None:
        if self._hooks.pop(self.id, None) is not None:
            bump_structure()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.remove()


_NOTHING = object()
LoadResult = namedtuple("LoadResult", ["missing_keys", "unexpected_keys"])


class Module:
    """Base of layers and models. A subclass calls super().__init__(), assigns its parts, defines forward().

    Source: torch.nn.Module, whose names and semantics these are; state_dict() gives NumPy arrays.
    """

    training: bool
    _arguments: dict[str, Any]  # of the constructor, for pynn.save

    def __new__(cls, *args, **kwargs):
        self = super().__new__(cls)
        object.__setattr__(self, "_arguments", recorded(cls, args, kwargs))
        return self

    def __init__(self):
        put = object.__setattr__  # never self.__dict__: asking for it makes every later read slower
        put(self, "training", True)
        put(self, "_parameters", {})
        put(self, "_buffers", {})
        put(self, "_not_saved", set())  # names of buffers that state_dict leaves out
        put(self, "_modules", {})
        put(self, "_forward_hooks", {})
        put(self, "_forward_pre_hooks", {})

    def forward(self, *args, **kwargs):
        raise NotImplementedError(f"{type(self).__name__}: forward() is not defined")

    # ---- the call ------------------------------------------------------------------------------

    def __call__(self, x=_NOTHING, /, *args, **kwargs):
        # one argument and no hooks, the usual case, goes without packing and unpacking: 0.2 µs instead of 0.4
        if x is _NOTHING:
            args = ()
        elif not (args or kwargs or self._forward_hooks or self._forward_pre_hooks):
            return self.forward(x)
        else:
            args = (x, *args)
        if self._forward_hooks or self._forward_pre_hooks:
            return self._call_with_hooks(args, kwargs)
        return self.forward(*args, **kwargs)

    def _call_with_hooks(self, args: tuple, kwargs: dict):
        _core.not_recordable(f"a hook of {type(self).__name__}")
        for hook, with_kwargs in list(self._forward_pre_hooks.values()):
            got = hook(self, args, kwargs) if with_kwargs else hook(self, args)
            if got is None:
                continue
            if with_kwargs:
                if not (isinstance(got, tuple) and len(got) == 2):
                    raise TypeError(f"forward_pre_hook: expected (args, kwargs) or None, got {type(got).__name__}")
                args, kwargs = got
            else:
                args = got if isinstance(got, tuple) else (got,)
        y = self.forward(*args, **kwargs)
        for hook, with_kwargs in list(self._forward_hooks.values()):
            got = hook(self, args, kwargs, y) if with_kwargs else hook(self, args, y)
            y = y if got is None else got
        return y

    def session(self, **options):
        """This model as a function from arrays to arrays, for serving; see pynn.Session for the options."""
        from ..session import Session

        return Session(self, **options)

    def summary(self, *inputs):
        """Parameters, floating-point operations and bytes of activations of each layer, of one forward pass.

        Args:
            inputs: what forward takes: tensors, arrays, or shapes, for which zeros stand.

        Returns:
            a Summary: a list of rows that prints as a table, with parameters, trained, flops and nbytes in all.
        """
        from .summary import summary_of

        return summary_of(self, inputs)

    def register_forward_hook(self, hook: Callable, *, prepend: bool = False, with_kwargs: bool = False):
        """Calls hook(module, args, output) after forward; what it returns, if not None, replaces the output.

        With with_kwargs, hook(module, args, kwargs, output). Returns a handle with remove().
        """
        return _add_hook(self._forward_hooks, hook, prepend, with_kwargs)

    def register_forward_pre_hook(self, hook: Callable, *, prepend: bool = False, with_kwargs: bool = False):
        """Calls hook(module, args) before forward; what it returns, if not None, replaces the arguments.

        With with_kwargs, hook(module, args, kwargs), which returns (args, kwargs) or None. Returns a handle.
        """
        return _add_hook(self._forward_pre_hooks, hook, prepend, with_kwargs)

    # ---- attributes ------------------------------------------------------------------------------

    def __setattr__(self, name: str, value: Any) -> None:
        bump_structure()
        try:
            params, buffers, modules = self._parameters, self._buffers, self._modules
        except AttributeError:
            if isinstance(value, (Parameter, Module)):
                raise AttributeError(
                    f"{type(self).__name__}: {name!r} was assigned before super().__init__() was called in __init__"
                ) from None
            return object.__setattr__(self, name, value)
        if isinstance(value, Parameter):
            return self._place(params, name, value)
        if isinstance(value, Module):
            return self._place(modules, name, value)
        for registry, kind in ((params, Parameter), (modules, Module), (buffers, Tensor)):
            if name in registry:
                if value is not None and not isinstance(value, kind):
                    raise TypeError(
                        f"{type(self).__name__}: attribute {name!r}: expected a {kind.__name__} or None, "
                        f"got {type(value).__name__}"
                    )
                registry[name] = value
        return object.__setattr__(self, name, value)

    def _place(self, registry: dict, name: str, value) -> None:
        """Enters value under name into registry and into no other."""
        for other in (self._parameters, self._buffers, self._modules):
            if other is not registry:
                other.pop(name, None)
        self._not_saved.discard(name)
        registry[name] = value
        object.__setattr__(self, name, value)

    def __delattr__(self, name: str) -> None:
        bump_structure()
        object.__delattr__(self, name)
        for registry in (self._parameters, self._buffers, self._modules):
            registry.pop(name, None)
        self._not_saved.discard(name)

    def _check_new(self, kind: str, name: str, registry: str, value, of: type) -> None:
        if not hasattr(self, registry):
            raise AttributeError(f"{type(self).__name__}: {kind} {name!r} was added before super().__init__()")
        if not isinstance(name, str):
            raise TypeError(f"{kind}: argument 'name': expected a string, got {type(name).__name__}")
        if not name or "." in name:
            raise KeyError(f"{kind}: argument 'name': expected a name without dots, got {name!r}")
        if name not in getattr(self, registry) and hasattr(self, name):
            raise KeyError(f"{kind}: {type(self).__name__} has an attribute {name!r} already")
        if value is not None and not isinstance(value, of):
            raise TypeError(f"{kind} {name!r}: expected a {of.__name__} or None, got {type(value).__name__}")
        if isinstance(value, Tensor) and not value.is_leaf:
            raise ValueError(
                f"{kind} {name!r}: expected a tensor without history, got one computed by {value.grad_fn.name}"
            )

    def register_parameter(self, name: str, param: Parameter | None) -> None:
        """Adds a parameter under name; None keeps the name for one that may come."""
        self._check_new("register_parameter", name, "_parameters", param, Parameter)
        bump_structure()
        self._place(self._parameters, name, param)

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """Adds a tensor that belongs to the state but is not learned; persistent=False keeps it out of state_dict."""
        self._check_new("register_buffer", name, "_buffers", tensor, Tensor)
        bump_structure()
        self._place(self._buffers, name, tensor)
        if not persistent:
            self._not_saved.add(name)

    def add_module(self, name: str, module: Module | None) -> None:
        """Adds a submodule under name."""
        self._check_new("add_module", name, "_modules", module, Module)
        bump_structure()
        self._place(self._modules, name, module)

    register_module = add_module

    def get_submodule(self, target: str) -> Module:
        """The submodule at a dotted path; '' is this module.

        Raises:
            AttributeError: no such module.
        """
        module = self
        for part in target.split(".") if target else ():
            module = module._modules.get(part)
            if module is None:
                raise AttributeError(f"get_submodule: {type(self).__name__} has no submodule {target!r}")
        return module

    def get_parameter(self, target: str) -> Parameter:
        """The parameter at a dotted path; AttributeError where there is none."""
        path, _, name = target.rpartition(".")
        found = self.get_submodule(path)._parameters.get(name)
        if found is None:
            raise AttributeError(f"get_parameter: {type(self).__name__} has no parameter {target!r}")
        return found

    # ---- walking ---------------------------------------------------------------------------------

    def named_modules(self, memo: set | None = None, prefix: str = "", remove_duplicate: bool = True):
        """(path, module) for this module and all below it; one that occurs twice is given once."""
        memo = set() if memo is None else memo
        if self in memo:
            return
        if remove_duplicate:
            memo.add(self)
        yield prefix, self
        for name, module in self._modules.items():
            if module is not None:
                yield from module.named_modules(memo, f"{prefix}.{name}" if prefix else name, remove_duplicate)

    def modules(self) -> Iterator[Module]:
        """This module and all below it, each once."""
        return (m for _, m in self.named_modules())

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """(name, module) of the direct submodules, each once."""
        seen = set()
        for name, module in self._modules.items():
            if module is not None and module not in seen:
                seen.add(module)
                yield name, module

    def children(self) -> Iterator[Module]:
        """The direct submodules, each once."""
        return (m for _, m in self.named_children())

    def _named(self, registry: str, prefix: str, recurse: bool, remove_duplicate: bool):
        seen = set()
        walk = self.named_modules(None, prefix, remove_duplicate) if recurse else [(prefix, self)]
        for path, module in walk:
            for name, x in getattr(module, registry).items():
                if x is None or x in seen:
                    continue
                if remove_duplicate:
                    seen.add(x)
                yield f"{path}.{name}" if path else name, x

    def named_parameters(self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True):
        """(path, parameter) of this module and all below it; tied parameters once, under their first name."""
        return self._named("_parameters", prefix, recurse, remove_duplicate)

    def parameters(self, recurse: bool = True) -> Iterator[Parameter]:
        """The parameters, each once."""
        return (p for _, p in self.named_parameters(recurse=recurse))

    def named_buffers(self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True):
        """(path, buffer) of this module and all below it."""
        return self._named("_buffers", prefix, recurse, remove_duplicate)

    def buffers(self, recurse: bool = True) -> Iterator[Tensor]:
        """The buffers, each once."""
        return (b for _, b in self.named_buffers(recurse=recurse))

    # ---- changing all of it ------------------------------------------------------------------------

    def apply(self, fn: Callable[[Module], Any]) -> Module:
        """Calls fn on every submodule and then on this module."""
        for module in self.children():
            module.apply(fn)
        fn(self)
        return self

    def train(self, mode: bool = True) -> Module:
        """Switches this module and all below it to training (dropout acts, statistics are taken)."""
        if not isinstance(mode, bool):
            raise ValueError(f"train: argument 'mode': expected a bool, got {type(mode).__name__}")
        for module in self.modules():
            if module.training is not mode:
                module.training = mode
        return self

    def eval(self) -> Module:
        """Switches this module and all below it to inference."""
        return self.train(False)

    def requires_grad_(self, requires_grad: bool = True) -> Module:
        """Sets requires_grad of every parameter: False freezes the module."""
        for p in self.parameters():
            p.requires_grad = requires_grad
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clears the parameters' gradients, or fills them with zeros."""
        for p in self.parameters():
            if set_to_none or p.grad is None:
                p.grad = None
            else:
                p.grad = Tensor.zeros_like(p.grad)

    def to(self, dtype) -> Module:
        """Parameters, their gradients and floating buffers as dtype, float32 or float64; the objects stay the same.

        Raises:
            TypeError: another dtype.
        """
        if not isinstance(dtype, np.dtype):
            try:
                dtype = np.dtype(dtype)
            except TypeError:
                raise TypeError(f"to: argument 'dtype': expected float32 or float64, got {dtype!r}") from None
        if dtype not in (np.float32, np.float64):
            raise TypeError(f"to: argument 'dtype': expected float32 or float64, got {dtype}")
        bump_structure()
        for x in [*self.parameters(), *self.buffers()]:
            if x.dtype != dtype and x.dtype.kind == "f":
                grad, x.grad = x.grad, None  # a gradient has its tensor's dtype at any time
                x._rebind(OPS.cast(x.detach(), dtype=dtype))
                if grad is not None:
                    x.grad = OPS.cast(grad.detach(), dtype=dtype)
        return self

    def float(self) -> Module:
        """Everything floating as float32."""
        return self.to(np.float32)

    def double(self) -> Module:
        """Everything floating as float64."""
        return self.to(np.float64)

    # ---- state -------------------------------------------------------------------------------------

    def _state(self) -> dict[str, Tensor]:
        """Every tensor of the state by path; tied ones under each of their names."""
        state = {}
        for path, module in self.named_modules(remove_duplicate=False):
            own = {**module._parameters, **{k: b for k, b in module._buffers.items() if k not in module._not_saved}}
            state.update({f"{path}.{k}" if path else k: x for k, x in own.items() if x is not None})
        return state

    def state_dict(self, prefix: str = "") -> dict[str, np.ndarray]:
        """Parameters and persistent buffers by path, as NumPy arrays of their own."""
        return {prefix + name: x.numpy_copy() for name, x in self._state().items()}

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> LoadResult:
        """Copies the values of state_dict (arrays, tensors, lists) into the memory of this module's state.

        Args:
            state_dict: values by path; converted to the dtype found here.
            strict: every name must occur on both sides. Shapes must fit in any case.

        Returns:
            (missing_keys, unexpected_keys).

        Raises:
            ValueError: lists everything missing, unexpected or misshapen; nothing has been changed then.
            TypeError: no mapping, or values that are no real numbers.
        """
        state = self._state()
        values, missing, unexpected = checked_state(type(self).__name__, state, state_dict, strict)
        with no_grad():
            for name, value in values.items():
                state[name].copy_(value)
        return LoadResult(missing, unexpected)

    # ---- text --------------------------------------------------------------------------------------

    def extra_repr(self) -> str:
        """What repr shows between the parentheses besides the submodules."""
        return ""

    def _get_name(self) -> str:
        return type(self).__name__

    def __repr__(self) -> str:
        extra = self.extra_repr()
        lines = [f"({name}): {_indented(repr(m))}" for name, m in self._modules.items()]
        if not lines:
            return f"{self._get_name()}({_indented(extra)})"
        body = "\n  ".join((extra.split("\n") if extra else []) + lines)
        return f"{self._get_name()}(\n  {body}\n)"


def _indented(text: str) -> str:
    """text with all but its first line moved to the right."""
    return text.replace("\n", "\n  ")


def _add_hook(hooks: dict, hook: Callable, prepend: bool, with_kwargs: bool) -> RemovableHandle:
    if not callable(hook):
        raise TypeError(f"register hook: expected a function, got {type(hook).__name__}")
    handle = RemovableHandle(hooks)
    entry = {handle.id: (hook, with_kwargs)}
    if prepend:
        entry.update(hooks)
        hooks.clear()
    hooks.update(entry)
    bump_structure()
    return handle


_core.bind_module(Module)
