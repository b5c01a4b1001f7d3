"""Tensor: a NumPy-like array with a place in the computation graph. Its methods read like PyTorch's.

What is compiled (shape, dtype, storage, grad) is in pynn/_core/tensor.pxi; every computation here is
an op of pynn/ops, found in the registry OPS.
"""

from __future__ import annotations

import contextlib
import functools
import operator

import numpy as np

from . import _core
from .op import OPS

__all__ = ["Tensor", "from_dlpack", "from_numpy", "tensor"]

float32, float64, int64, int32, uint8, bool_ = _core.DTYPES


class Tensor(_core.TensorBase):
    """An array of float32, float64, int64, int32, uint8 or bool, with an optional history.

    Make one with `pynn.tensor` (copies), `pynn.from_numpy` (shares memory), `pynn.zeros`, `pynn.randn`, …
    Values with history never change; leaves may be written under `pynn.no_grad()`.
    """

    __slots__ = ()
    __array_ufunc__ = None  # so that array * tensor reaches Tensor.__rmul__
    __hash__ = object.__hash__
    is_sparse = False  # a pynn.RowGradient is

    def __new__(cls, data=None, dtype=None, requires_grad: bool = False):
        if data is None:
            return super().__new__(cls)
        x = tensor(data, dtype)
        if cls is not Tensor:
            x, values = super().__new__(cls), x
            x._rebind(values)
        if requires_grad:
            x.requires_grad = True
        return x

    # ---- making ------------------------------------------------------------------------------

    @staticmethod
    def zeros_like(x: Tensor) -> Tensor:
        return OPS.zeros(x.detach())

    @staticmethod
    def ones_like(x: Tensor) -> Tensor:
        return full(x.shape, 1, x.dtype)

    # ---- arithmetic --------------------------------------------------------------------------

    def __pow__(self, other):
        if isinstance(other, (int, float)) and self.dtype.kind == "f":
            if other == 2:
                return OPS.mul(self, self)
            if other == 1:
                return OPS.copy(self)
            if other == 0.5:
                return OPS.sqrt(self)
        return OPS.pow(self, other)

    def __rpow__(self, other):
        return OPS.pow(other, self)

    def __neg__(self):
        return OPS.neg(self)

    def __pos__(self):
        return self

    def __abs__(self):
        return OPS.abs(self)

    def __invert__(self):
        return OPS.logical_not(self)

    def __and__(self, other):
        return OPS.logical_and(self, other)

    def __or__(self, other):
        return OPS.logical_or(self, other)

    def __eq__(self, other):
        return OPS.eq(self, other) if isinstance(other, _COMPARABLE) else NotImplemented

    def __ne__(self, other):
        return OPS.ne(self, other) if isinstance(other, _COMPARABLE) else NotImplemented

    def __lt__(self, other):
        return OPS.lt(self, other)

    def __le__(self, other):
        return OPS.le(self, other)

    def __gt__(self, other):
        return OPS.gt(self, other)

    def __ge__(self, other):
        return OPS.ge(self, other)

    # ---- Python's protocols ------------------------------------------------------------------

    def __len__(self):
        if self.ndim == 0:
            raise TypeError("len() of a 0-d tensor")
        return self.shape[0]

    def __iter__(self):
        if self.ndim == 0:
            raise TypeError("iteration over a 0-d tensor")
        return (self[k] for k in range(self.shape[0]))

    def __bool__(self):
        return bool(self.item())

    def __float__(self):
        return float(self.item())

    def __int__(self):
        return int(self.item())

    def __index__(self):
        if self.dtype.kind == "f":
            raise TypeError(f"only integer tensors can be an index, got dtype {self.dtype}")
        return int(self.item())

    def __format__(self, spec):
        return format(self.item(), spec) if self.ndim == 0 and spec else format(str(self), spec)

    def __array__(self, dtype=None, copy=None):
        view = self.numpy()
        if copy or (dtype is not None and view.dtype != dtype):
            if copy is False:
                raise ValueError(f"a tensor of dtype {self.dtype} cannot become {dtype} without a copy")
            return np.array(view, dtype=dtype)
        return view

    def __dlpack__(self, **kwargs):
        """The memory for another library, as DLPack; BufferError for a tensor that requires grad."""
        if self.requires_grad:
            raise BufferError("__dlpack__: a tensor that requires grad cannot be exported; use x.detach()")
        return self.numpy().__dlpack__(**kwargs)

    def __dlpack_device__(self):
        return (1, 0)  # kDLCPU

    def __repr__(self):
        if self.storage_ is None:
            return f"tensor(<no values>, shape={self.shape}, dtype={self.dtype})"
        values = np.array2string(self.detach().numpy_copy(), separator=", ", prefix="tensor(", precision=4)
        notes = f", shape={self.shape}" if self.size == 0 and self.ndim > 1 else ""
        notes += "" if self.dtype in (float32, int64, bool_) else f", dtype={self.dtype}"
        if self.grad_fn is not None:
            notes += f", grad_fn=<{self.grad_fn.name}>"
        elif self.requires_grad:
            notes += ", requires_grad=True"
        return f"tensor({values}{notes})"

    def __deepcopy__(self, memo):
        if not self.is_leaf:
            raise RuntimeError("deepcopy: only leaves can be copied; use x.detach() for a computed tensor")
        if id(self) not in memo:
            twin = memo[id(self)] = type(self).__new__(type(self))
            twin._rebind(OPS.copy(self.detach()))
            twin.requires_grad = self.requires_grad
            if self.grad is not None:
                twin.grad = self.grad.detach().clone()
        return memo[id(self)]

    def __reduce__(self):
        return _unpickle, (type(self), self.detach().numpy_copy(), self.requires_grad)

    # ---- host values ---------------------------------------------------------------------------

    def numpy_copy(self) -> np.ndarray:
        """The values in a NumPy array of its own, in logical order."""
        return np.array(self._array(), order="C")

    def _array(self) -> np.ndarray:
        """A read-only view that leaves the storage's caches on."""
        return _core.read_view(self)

    def tolist(self):
        """The values as nested lists of Python numbers."""
        return self._array().tolist()

    @contextlib.contextmanager
    def writable(self):
        """A writable NumPy array on this leaf's memory, for the time of the context.

        Raises RuntimeError for a tensor with history, and for one that requires grad outside no_grad().
        """
        array, storage = self._writable(), self.storage_
        storage.hold_open(1)
        try:
            yield array
        finally:
            array.flags.writeable = False
            storage.hold_open(-1)
            self._bump()

    # ---- derivatives ---------------------------------------------------------------------------

    def backward(self, gradient=None, retain_graph=None, create_graph: bool = False) -> None:
        """Adds the gradients of this tensor to the leaves' `.grad`; see pynn.backward."""
        retain = create_graph if retain_graph is None else retain_graph
        _core.run_backward(
            [self], None if gradient is None else [gradient], None, create_graph, retain, True, "backward"
        )

    def requires_grad_(self, requires_grad: bool = True) -> Tensor:
        self.requires_grad = requires_grad
        return self

    def register_hook(self, hook):
        """Calls hook(gradient) when this tensor's gradient is known; what it returns replaces the gradient.

        Returns a handle, whose remove() takes the hook away; so does calling it.
        """
        if not self.requires_grad:
            raise RuntimeError("register_hook: the tensor does not require grad")
        if not callable(hook):
            raise TypeError(f"register_hook: argument 'hook': expected a function, got {type(hook).__name__}")
        if self.is_leaf:
            hooks = self._hooks or []
            hooks.append(hook)
            self._set_hooks(hooks)
            return HookHandle(lambda: hooks.remove(hook))
        node, k = self.grad_fn, _core.output_index(self)
        node._add_hook(k, hook)
        return HookHandle(lambda: node._remove_hook(k, hook))

    def retain_grad(self) -> None:
        """Keeps the gradient of a computed tensor in its `.grad`."""
        if self.is_leaf:
            return
        _core.retain_grad(self)

    # ---- changing in place -----------------------------------------------------------------------

    def copy_(self, source) -> Tensor:
        """Overwrites the values with source's, broadcast and converted; the version is bumped."""
        if not isinstance(source, Tensor):
            source = self._source(source, "copy_: argument 'source'")
        if self.is_leaf:
            _check_history(source, "copy_")
        OPS.copy_(source.detach(), self)
        return self

    def _source(self, data, what: str) -> Tensor:
        """What is to be written here: Python's integers must fit, arrays are converted as the kernel does."""
        x = _core.from_array(data, None, what)
        if x.dtype.kind == "i" and self.dtype.kind in "iu" and not isinstance(data, (np.ndarray, np.generic)):
            x = _core.from_array(data, self.dtype, what)
        return x

    def fill_(self, value) -> Tensor:
        return self.copy_(value if isinstance(value, Tensor) else tensor(value, self.dtype))

    def zero_(self) -> Tensor:
        return self.fill_(0)

    def __setitem__(self, key, value):
        if not self.is_leaf:
            raise RuntimeError(
                "a tensor with history cannot be assigned to in place; compute a new one with pynn.where or "
                "pynn.index_put"
            )
        if not isinstance(value, Tensor):
            value = self._source(value, "assignment to an element: value")
        _check_history(value, "assignment to an element")
        target = self._writable()  # checks that it may be written before anything is
        try:
            target[_numpy_key(key)] = value._array()
        except (IndexError, ValueError) as e:
            raise type(e)(f"assignment to elements of shape {self.shape}: {e}") from None
        finally:
            self._bump()

    # ---- shapes ----------------------------------------------------------------------------------

    def __getitem__(self, key):
        return OPS_getitem(self, key)

    def reshape(self, *shape) -> Tensor:
        """The same elements in row-major order under another shape; one size may be -1."""
        return OPS.reshape(self, shape=_sizes(shape))

    view = reshape

    def flatten(self, start_dim: int = 0, end_dim: int = -1) -> Tensor:
        """Dimensions start_dim..end_dim merged into one."""
        if self.ndim == 0:
            return self.reshape(1)
        a, b = axis_of(start_dim, self.ndim, "flatten"), axis_of(end_dim, self.ndim, "flatten")
        if a > b:
            raise ValueError(f"flatten: expected start_dim <= end_dim, got {start_dim} and {end_dim} for shape "
                             f"{self.shape}")  # fmt: skip
        shape = self.shape
        n = int(np.prod(shape[a : b + 1], dtype=np.int64))
        return OPS.reshape(self, shape=(*shape[:a], n, *shape[b + 1 :]))

    def permute(self, *dims) -> Tensor:
        return OPS.permute(self, axes=_sizes(dims))

    def transpose(self, dim0: int, dim1: int) -> Tensor:
        axes = list(range(self.ndim))
        a, b = axis_of(dim0, self.ndim, "transpose"), axis_of(dim1, self.ndim, "transpose")
        axes[a], axes[b] = axes[b], axes[a]
        return OPS.permute(self, axes=tuple(axes))

    @property
    def T(self) -> Tensor:
        """Dimensions reversed."""
        return OPS.permute(self, axes=tuple(range(self.ndim - 1, -1, -1)))

    @property
    def mT(self) -> Tensor:
        """The last two dimensions exchanged."""
        return self.transpose(-1, -2)

    def squeeze(self, dim: int | None = None) -> Tensor:
        """Without dimensions of size 1 (all, or dim where its size is 1)."""
        shape = self.shape
        if dim is None:
            return OPS.reshape(self, shape=tuple(n for n in shape if n != 1))
        d = axis_of(dim, self.ndim, "squeeze")
        return OPS.reshape(self, shape=shape[:d] + shape[d + 1 :]) if shape[d] == 1 else self

    def unsqueeze(self, dim: int) -> Tensor:
        d = axis_of(dim, self.ndim + 1, "unsqueeze")
        return OPS.reshape(self, shape=(*self.shape[:d], 1, *self.shape[d:]))

    def expand(self, *shape) -> Tensor:
        """Broadcast to shape without a copy; -1 keeps a size."""
        shape = list(_sizes(shape))
        for k in range(1, min(len(shape), self.ndim) + 1):
            if shape[-k] == -1:
                shape[-k] = self.shape[-k]
        return OPS.expand(self, shape=tuple(shape))

    def contiguous(self) -> Tensor:
        """The same values row-major: itself, or a copy with history."""
        return self if self.is_contiguous() else OPS.reshape(OPS.reshape(self, shape=(-1,)), shape=self.shape)

    def clone(self) -> Tensor:
        """A copy in memory of its own, with history."""
        return OPS.copy(self)

    def astype(self, dtype) -> Tensor:
        """This tensor as another dtype; itself where it has it already."""
        dtype = np.dtype(dtype)
        return self if self.dtype == dtype else OPS.cast(self, dtype=dtype)

    to = astype

    def float(self) -> Tensor:
        return self.astype(float32)

    def double(self) -> Tensor:
        return self.astype(float64)

    def long(self) -> Tensor:
        return self.astype(int64)

    def bool(self) -> Tensor:
        return self.astype(bool_)

    def numel(self) -> int:
        return self.size

    def dim(self) -> int:
        return self.ndim


_COMPARABLE = (Tensor, int, float, np.ndarray, np.generic, list, tuple)  # with others, == is Python's own


class HookHandle:
    """What registering a hook of a tensor returns. remove(), or a call, takes the hook away; later ones do nothing."""

    __slots__ = ("_take_away",)

    def __init__(self, take_away):
        self._take_away = take_away

    def remove(self) -> None:
        take_away, self._take_away = self._take_away, None
        if take_away is not None:
            take_away()

    __call__ = remove


def _method(name: str):
    """A method that calls the op or function of that name with self first."""

    def method(self, *args, **kwargs):
        return FUNCTIONS[name](self, *args, **kwargs)

    method.__name__ = name
    return method


# functions of pynn/ops that are methods too; pynn/ops/__init__.py fills FUNCTIONS
FUNCTIONS: dict = {}
METHODS = (
    "abs sign sqrt exp expm1 log log1p sin cos tanh erf sigmoid floor ceil round pow matmul maximum minimum where "
    "sum mean var std amax amin max min argmax argmin prod norm softmax log_softmax relu clamp "
    "all any split chunk index_put gather cumsum logsumexp"
).split()
for _name in METHODS:
    setattr(Tensor, _name, _method(_name))


def OPS_getitem(x: Tensor, key):
    return FUNCTIONS["getitem"](x, key)


def _check_history(source: Tensor, what: str) -> None:
    """In-place writes have no derivative: a source that requires grad would lose it without a word."""
    if source.requires_grad and _core.grad_enabled():
        raise RuntimeError(
            f"{what}: the source requires grad, and what is written in place has no history; use pynn.where or "
            "pynn.index_put, source.detach(), or pynn.no_grad()"
        )


def _sizes(args) -> tuple[int, ...]:
    """reshape(2, 3) and reshape((2, 3)) alike."""
    return tuple(args[0]) if len(args) == 1 and isinstance(args[0], (tuple, list)) else args


def operand(x, what: str) -> Tensor:
    """x as an op takes it: arrays, lists and numbers become constants. Raises a TypeError that begins with what."""
    if isinstance(x, Tensor):
        return x
    if isinstance(x, (np.ndarray, np.generic, list, tuple, int, float)):
        return _core.from_array(x, None, what)
    raise TypeError(f"{what}: expected a Tensor, an array or a number, got {type(x).__name__}")


def takes_tensor(fn):
    """fn with a first argument that is a Tensor, opened to all that ops take."""
    arg = fn.__code__.co_varnames[0]
    what = f"{fn.__name__.rstrip('_')}: argument '{arg}'"

    @functools.wraps(fn)
    def wrapped(*args, **kwargs):
        if args:
            if type(args[0]) is not Tensor:
                args = (operand(args[0], what), *args[1:])
        elif arg in kwargs:
            kwargs[arg] = operand(kwargs[arg], what)
        return fn(*args, **kwargs)

    return wrapped


def number(v, what: str):
    """v, a real number of Python's or NumPy's, or the one in a tensor. Raises a TypeError that begins with what."""
    if isinstance(v, (int, float, np.integer, np.floating)):
        return v
    if isinstance(v, (Tensor, np.ndarray)) and v.size == 1 and v.dtype.kind in "fiub":
        return v.item()
    raise TypeError(f"{what}: expected a number, got {_core.shown(v)}")


def axis_of(dim: int, ndim: int, what: str) -> int:
    """dim, which may count from the end, in [0, ndim). Raises TypeError, IndexError that begin with `what`."""
    try:
        d = operator.index(dim)
    except TypeError:
        raise TypeError(f"{what}: argument 'dim': expected an integer, got {_core.shown(dim)}") from None
    if not -ndim <= d < ndim:
        raise IndexError(f"{what}: argument 'dim': expected {-ndim} <= dim < {ndim}, got {_core.shown(dim)}")
    return d % ndim


def _numpy_key(key):
    if isinstance(key, tuple):
        return tuple(k._array() if isinstance(k, Tensor) else k for k in key)
    return key._array() if isinstance(key, Tensor) else key


def _unpickle(cls, values, requires_grad):
    x = _core.from_array(values, values.dtype)
    if cls is not Tensor:
        twin = cls.__new__(cls)
        twin._rebind(x)
        x = twin
    x.requires_grad = requires_grad
    return x


def tensor(data, dtype=None, requires_grad: bool = False) -> Tensor:
    """A tensor on a copy of data (numbers, nested lists, arrays, tensors).

    Python floats become float32, ints int64; arrays keep their dtype (byte-swapped, float16 and small
    integers are converted).

    Raises:
        TypeError: text, objects, complex numbers. ValueError: ragged lists.
    """
    if isinstance(data, Tensor):
        data = data._array()
    x = _core.from_array(data, dtype, "tensor: argument 'data'")
    if requires_grad:
        x.requires_grad = True
    return x


def from_numpy(array: np.ndarray) -> Tensor:
    """A tensor on the same memory as array, which is kept alive. A read-only array gives a read-only tensor.

    Raises:
        TypeError: not an array, or a dtype or byte order that needs a conversion. ValueError: unaligned.
    """
    return _core.share_array(array)


def from_dlpack(x) -> Tensor:
    """A tensor on the memory of another library's array, by DLPack.

    Raises:
        TypeError: no such object, or a dtype that needs a conversion. BufferError: memory that is not the CPU's.
    """
    if not hasattr(x, "__dlpack__"):
        raise TypeError(f"from_dlpack: argument 'x': expected an object with __dlpack__, got {type(x).__name__}")
    return _core.share_array(np.from_dlpack(x), "from_dlpack: argument 'x'")


def full(shape, value, dtype=float32) -> Tensor:
    x = _core.empty(shape, dtype)
    return x.fill_(value)


_core.set_tensor_type(Tensor)
