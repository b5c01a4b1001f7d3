"""Keys of x[key] by NumPy's rules, against a shape: what is sliced, and which rows the index arrays name."""

import operator

import numpy as np

from . import _core
from .tensor import Tensor

__all__ = ["Key", "out_of_bounds", "plain_key"]


def _entry(k):
    """One entry of a key as None, Ellipsis, a slice, an int, or an array of int64 or bool."""
    if k is None or k is Ellipsis or isinstance(k, slice):
        return k
    if isinstance(k, (bool, np.bool_)):
        return np.array(k)
    if isinstance(k, (int, np.integer)):
        return int(k)
    if isinstance(k, Tensor):
        a = k._array()
    elif isinstance(k, (np.ndarray, list, tuple, range)):
        _core.note_array(k, "an index")
        a = np.asarray(k)
        if a.size == 0 and not isinstance(k, np.ndarray):
            a = a.astype(np.int64)
    elif hasattr(k, "__index__"):
        return operator.index(k)
    else:
        a = None
    if a is None or a.dtype.kind not in "iub":
        got = type(k).__name__ if a is None else f"an array of dtype {a.dtype}"
        raise IndexError(f"getitem: expected ints, slices, None, Ellipsis, masks or arrays of integers, got {got}")
    if a.dtype.kind == "b":
        return a
    return int(a) if a.ndim == 0 else a.astype(np.int64, copy=False)


def _entries(shape, key):
    """key's entries, one for each dimension of shape beside None and masks; an Ellipsis stays before its slices."""
    parts = [_entry(k) for k in (key if isinstance(key, tuple) else (key,))]
    used = 0
    for k in parts:
        mask = isinstance(k, np.ndarray) and k.dtype.kind == "b"
        used += k.ndim if mask else k is not None and k is not Ellipsis
    if used > len(shape):
        raise IndexError(f"getitem: too many indices: shape {shape} has {len(shape)} dimensions, the key has {used}")
    dots = [i for i, k in enumerate(parts) if k is Ellipsis]
    if len(dots) > 1:
        raise IndexError("getitem: expected at most one Ellipsis")
    at = dots[0] + 1 if dots else len(parts)
    parts[at:at] = [slice(None)] * (len(shape) - used)
    return parts


def out_of_bounds(what, index, dim, size, where=""):
    index = _core.shown(int(index))
    return IndexError(f"{what}: index {index}{where} is out of bounds for dimension {dim} of size {size}")


def _wrapped(a, dim, size):
    """The indices a along dimension dim, those from the end counted from the start."""
    if a.size == 0:
        return a
    low, high = a.min(), a.max()
    if low < -size or high >= size:
        bad = a[(a < -size) | (a >= size)].flat[0]
        raise out_of_bounds("getitem", bad, dim, size)
    return np.where(a < 0, a + size, a) if low < 0 else a


class Key:
    """A key against a shape: a slice of every dimension, then new dimensions, then index arrays.

    begin, shape, step: the slice. view: its shape with the dimensions of ints dropped and new ones put in.
    arrays: (dimension of view, indices along it). apart: whether something else stands between the arrays.
    """

    def __init__(self, shape, key):
        self.begin, self.shape, self.step, self.view, self.arrays, self.apart = [], [], [], [], [], False
        parts = _entries(shape, key)
        fancy = any(isinstance(k, np.ndarray) for k in parts)
        last = None  # the place in the key of the last array
        for i, k in enumerate(parts):
            dim = len(self.begin)
            if k is None:
                self.view.append(1)
            elif isinstance(k, slice):
                begin, stop, step = k.indices(shape[dim])
                self._slice(begin, len(range(begin, stop, step)), step)
                self.view.append(self.shape[-1])
            elif k is not Ellipsis and not fancy:
                self._slice(int(_wrapped(np.array(k), dim, shape[dim])), 1, 1)
            elif k is not Ellipsis:
                self.apart |= last is not None and last != i - 1
                last = i
                self._array(np.array(k) if isinstance(k, int) else k, shape)

    def _slice(self, begin, size, step):
        self.begin.append(begin)
        self.shape.append(size)
        self.step.append(step)

    def _array(self, k, shape):
        if k.dtype.kind != "b":
            dim = len(self.begin)
            self._slice(0, shape[dim], 1)
            self.arrays.append((len(self.view), _wrapped(k, dim, shape[dim])))
            self.view.append(shape[dim])
            return
        if k.ndim == 0:  # a single bool makes a dimension of size 1 or 0
            self.arrays.append((len(self.view), np.zeros(int(k), np.int64)))
            self.view.append(1)
            return
        for at, n in zip(k.nonzero(), k.shape):
            dim = len(self.begin)
            if shape[dim] != n:
                raise IndexError(
                    f"getitem: a mask of shape {k.shape} does not fit dimension {dim} of size {shape[dim]}"
                )
            self._slice(0, n, 1)
            self.arrays.append((len(self.view), at))
            self.view.append(n)

    def rows(self):
        """The index arrays as one, which counts through their dimensions row-major."""
        if len(self.arrays) == 1:
            return self.arrays[0][1]
        try:
            arrays = np.broadcast_arrays(*[a for _, a in self.arrays])
        except ValueError:
            shapes = ", ".join(str(a.shape) for _, a in self.arrays)
            raise IndexError(f"getitem: index arrays of shapes {shapes} do not broadcast together") from None
        flat = arrays[0]
        for (dim, _), a in zip(self.arrays[1:], arrays[1:]):
            flat = flat * self.view[dim] + a
        return flat


def plain_key(shape, key):
    """(begin, shape, step) of a key of ints and slices alone and the shape without the ints' dimensions: the
    usual case of Key, with less work. None where the key holds anything else."""
    begin, size, step, view = [], [], [], []
    for k in key if type(key) is tuple else (key,):
        dim = len(begin)
        if dim == len(shape):
            return None
        n = shape[dim]
        if type(k) is int:
            if not -n <= k < n:
                raise out_of_bounds("getitem", k, dim, n)
            begin.append(k + n if k < 0 else k)
            size.append(1)
            step.append(1)
        elif type(k) is slice:
            first, stop, by = k.indices(n)
            begin.append(first)
            size.append(len(range(first, stop, by)))
            step.append(by)
            view.append(size[-1])
        else:
            return None
    rest = shape[len(begin) :]
    for part, fill in ((begin, (0,) * len(rest)), (size, rest), (step, (1,) * len(rest)), (view, rest)):
        part += fill
    return tuple(begin), tuple(size), tuple(step), tuple(view)
