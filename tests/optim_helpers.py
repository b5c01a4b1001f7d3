"""What the tests of optimizers, clipping and initialisers share."""

import numpy as np

import pynn

SHAPES = ((5, 7), (), (33,), (0, 4), (2, 3, 4, 5))


def leaves(arrays, dtype):
    return [pynn.tensor(np.asarray(a, dtype), requires_grad=True) for a in arrays]


def set_grads(params, grads):
    for p, g in zip(params, grads):
        p.grad = None if g is None else pynn.tensor(np.asarray(g, p.dtype))


def values(tensors):
    return np.concatenate([t.numpy_copy().ravel() for t in tensors])


def data(steps, shapes=SHAPES, dtype="float64", seed=1):
    """(parameters, gradients of each step), rounded to dtype."""
    rng = np.random.default_rng(seed)

    def one():
        return [np.asarray(rng.standard_normal(s), dtype) for s in shapes]

    return one(), [[g * np.dtype(dtype).type(0.8**k) for g in one()] for k in range(steps)]


def views(a):
    """The values of a 4-D array as leaves of many layouts, and the arrays that hold them."""
    wide = np.full((a.shape[0] * 2, *a.shape[1:3], a.shape[3] + 3), 77.0, a.dtype)
    wide[::2, :, :, 1:-2] = a
    flipped = np.ascontiguousarray(a[::-1, :, ::-1])
    nhwc = np.ascontiguousarray(a.transpose(0, 2, 3, 1))
    turned = np.ascontiguousarray(a.transpose(3, 1, 0, 2))
    plain = np.array(a)
    for base, view in (
        (plain, plain),
        (nhwc, nhwc.transpose(0, 3, 1, 2)),
        (turned, turned.transpose(2, 1, 3, 0)),
        (wide, wide[::2, :, :, 1:-2]),
        (flipped, flipped[::-1, :, ::-1]),
    ):
        yield base, pynn.from_numpy(view).requires_grad_()
