"""Random numbers: a generator whose state is a tensor, and PyTorch's functions of them.

A generator holds (seed, counter). Every draw takes a key, the pair as it is, and raises the counter, so
that the n-th draw depends on the seed and on n alone. Kernels (dropout) turn their key into bits by
Philox4x32-10, the functions here into numbers by NumPy's Philox4x64-10.
"""

from __future__ import annotations

import os

import numpy as np

from . import _core
from .op import OPS
from .tensor import Tensor, from_numpy, number, takes_tensor

__all__ = [
    "Generator", "bernoulli", "default_generator", "initial_seed", "manual_seed", "normal", "rand", "randint", "randn",
    "randperm", "uniform",
]  # fmt: skip


class Generator:
    """A stream of random numbers. The same seed gives the same numbers, whatever the threads and the ISA.

    Args:
        seed: any integer of at most 64 bits; drawn from the system if None.
    """

    def __init__(self, seed: int | None = None):
        self._state = from_numpy(np.zeros(2, np.int64))
        self.manual_seed(int.from_bytes(os.urandom(7), "little") if seed is None else seed)

    def manual_seed(self, seed: int) -> Generator:
        """Starts the stream of this seed. Raises TypeError, ValueError for what is no integer of 64 bits."""
        if isinstance(seed, bool) or not hasattr(seed, "__index__"):
            raise TypeError(f"manual_seed: argument 'seed': expected an integer, got {type(seed).__name__}")
        seed = seed.__index__()
        if not -(2**63) <= seed < 2**64:
            raise ValueError(f"manual_seed: argument 'seed': expected an integer of 64 bits, got {seed}")
        self._write([seed - 2**64 if seed >= 2**63 else seed, 0])
        return self

    def initial_seed(self) -> int:
        """The seed of the stream, in [0, 2⁶⁴)."""
        return self._state.tolist()[0] % 2**64

    def get_state(self) -> Tensor:
        """A copy of (seed, counter): int64, shape [2]."""
        return OPS.copy(self._state)

    def set_state(self, state) -> Generator:
        """Goes on from what get_state gave. Raises ValueError, TypeError for anything but int64 of shape [2]."""
        state = state if isinstance(state, Tensor) else Tensor(state)
        if state.shape != (2,):
            raise ValueError(f"set_state: argument 'state': expected shape (2,), got {state.shape}")
        if state.dtype != np.int64:
            raise TypeError(f"set_state: argument 'state': expected dtype int64, got {state.dtype}")
        self._write(state.tolist())
        return self

    def _write(self, pair) -> None:
        # in place: a recorded step reads this tensor
        OPS.copy_(Tensor(pair, dtype=np.int64), self._state)

    def take(self) -> Tensor:
        """A key that was never given before: int64, shape [2]."""
        return OPS.rng_take(self._state)

    def numpy(self) -> np.random.Generator:
        """A NumPy generator of its own stream, which follows from the next key."""
        return stream_of(self.take().tolist())

    def __getstate__(self):
        return self._state.tolist()

    def __setstate__(self, pair):
        self._state = from_numpy(np.array(pair, np.int64))

    def __repr__(self):
        seed, count = self._state.tolist()
        return f"Generator(seed={seed % 2**64}, taken={count % 2**64})"


def stream_of(key) -> np.random.Generator:
    """The NumPy generator that a key (seed, counter) stands for."""
    return np.random.Generator(np.random.Philox(key=np.array(key, np.int64).view(np.uint64)))


default_generator = Generator()


def manual_seed(seed: int) -> Generator:
    """Starts the default generator's stream of this seed; returns the generator."""
    return default_generator.manual_seed(seed)


def initial_seed() -> int:
    """The seed of the default generator."""
    return default_generator.initial_seed()


def _stream(generator):
    return (generator or default_generator).numpy()


def _sizes(size):
    """rand(2, 3) and rand((2, 3)) alike."""
    return tuple(size[0]) if len(size) == 1 and isinstance(size[0], (tuple, list)) else size


def _float(dtype, what):
    dtype = np.dtype(np.float32 if dtype is None else dtype)
    if dtype not in (np.float32, np.float64):
        raise TypeError(f"{what}: argument 'dtype': expected float32 or float64, got {dtype}")
    return dtype


def _drawn(what, draw, size, generator, dtype, requires_grad=False):
    """A tensor in pynn's own memory, filled by draw(NumPy generator, array)."""
    x = _core.empty(_sizes(size), _float(dtype, what))
    a = x._writable()
    draw(_stream(generator), a)
    x._bump()
    x.requires_grad = requires_grad
    return x


def rand(*size, generator=None, dtype=None, requires_grad=False) -> Tensor:
    """Uniform numbers in [0, 1) of shape size (numbers or one tuple); float32 by default."""
    return _drawn("rand", lambda g, a: g.random(out=a, dtype=a.dtype), size, generator, dtype, requires_grad)


def randn(*size, generator=None, dtype=None, requires_grad=False) -> Tensor:
    """Standard normal numbers of shape size (numbers or one tuple); float32 by default."""
    return _drawn("randn", lambda g, a: g.standard_normal(out=a, dtype=a.dtype), size, generator, dtype, requires_grad)


def uniform(low=0.0, high=1.0, size=(), *, generator=None, dtype=None, requires_grad=False) -> Tensor:
    """Uniform numbers in [low, high) of shape size."""
    low, high = number(low, "uniform: argument 'low'"), number(high, "uniform: argument 'high'")

    def draw(g, a):
        g.random(out=a, dtype=a.dtype)
        np.multiply(a, high - low, out=a)
        np.add(a, low, out=a)

    size = size if isinstance(size, (tuple, list)) else (size,)
    return _drawn("uniform", draw, (size,), generator, dtype, requires_grad)


def normal(mean=0.0, std=1.0, size=None, *, generator=None, dtype=None, requires_grad=False) -> Tensor:
    """Normal numbers. mean and std may be tensors, which then give the shape; size goes with numbers.

    Raises:
        ValueError: a negative std, or size beside a tensor.
    """
    mean, std = (v._array() if isinstance(v, Tensor) else v for v in (mean, std))
    shape = np.broadcast_shapes(np.shape(mean), np.shape(std))
    if size is not None and shape:
        raise ValueError(f"normal: argument 'size': expected none beside tensors of shape {shape}, got {size}")
    if np.any(np.asarray(std) < 0):
        raise ValueError("normal: argument 'std': expected std >= 0, got a negative one")

    def draw(g, a):
        g.standard_normal(out=a, dtype=a.dtype)
        np.multiply(a, std, out=a, casting="same_kind")
        np.add(a, mean, out=a, casting="same_kind")

    size = shape if size is None else size if isinstance(size, (tuple, list)) else (size,)
    return _drawn("normal", draw, (size,), generator, dtype, requires_grad)


def randint(*args, low=None, high=None, size=None, generator=None, dtype=np.int64) -> Tensor:
    """Integers in [low, high): randint(high, size) or randint(low, high, size).

    Raises:
        ValueError: an empty range. TypeError: not two or three of low, high and size.
    """
    names = ("low", "high", "size") if len(args) == 3 or low is not None else ("high", "size")
    given = {"low": low, "high": high, "size": size}
    free = [n for n in names if given[n] is None]
    if len(args) != len(free) or (given["low"] is not None and "low" in free):
        raise TypeError(f"randint: expected high and size, or low, high and size, got {len(args)} positional arguments")
    given.update(zip(free, args))
    low, high, size = given["low"] or 0, given["high"], given["size"]
    low, high = number(low, "randint: argument 'low'"), number(high, "randint: argument 'high'")
    if not low < high:
        raise ValueError(f"randint: expected low < high, got low={_core.shown(low)} and high={_core.shown(high)}")
    if low < -(2**63) or high > 2**63:
        raise OverflowError(
            f"randint: expected a range of 64-bit integers, got low={_core.shown(low)} and high={_core.shown(high)}"
        )
    _core.check_shape(size, np.int64)
    return Tensor(_stream(generator).integers(low, high, size, np.int64), dtype=dtype)


def randperm(n: int, *, generator=None, dtype=np.int64) -> Tensor:
    """The integers 0 .. n - 1 in random order."""
    _core.check_shape((n,), np.int64)
    return Tensor(_stream(generator).permutation(n), dtype=dtype)


@takes_tensor
def bernoulli(input, p=None, *, generator=None) -> Tensor:
    """1 with probability input (or p, for input's shape), else 0; of input's dtype.

    Raises:
        ValueError: a probability outside of [0, 1]. TypeError: probabilities of an integer dtype.
    """
    chance = input._array() if p is None else p
    if p is None and chance.dtype.kind != "f":
        raise TypeError(f"bernoulli: argument 'input': expected a floating dtype, got {input.dtype}")
    if not np.all((np.asarray(chance) >= 0) & (np.asarray(chance) <= 1)):
        raise ValueError("bernoulli: expected probabilities in [0, 1]")
    return Tensor(_stream(generator).random(input.shape) < chance, dtype=input.dtype)
