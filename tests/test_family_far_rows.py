"""Rows beyond the caches are read, computed and stored by loops of their own, with the bits of those that fit."""

import numpy as np
import pytest

import pynn
from pynn import OPS, _core

FAR = (12 << 20) // 64  # bytes of a result that count as far where chunks are a 64th of their size
CALLS = {
    "softmax": (lambda x, w, b: OPS.softmax(x), 1),
    "log_softmax": (lambda x, w, b: OPS.log_softmax(x), 1),
    "layer_norm": (lambda x, w, b: OPS.layer_norm(x, w, b)[0], 3),
    "layer_norm without weight": (lambda x, w, b: OPS.layer_norm(x, None, None)[0], 1),
    "layer_norm without bias": (lambda x, w, b: OPS.layer_norm(x, w, None)[0], 2),
    "rms_norm": (lambda x, w, b: OPS.rms_norm(x, w)[0], 2),
    "rms_norm without weight": (lambda x, w, b: OPS.rms_norm(x, None)[0], 1),
}


def found(f, arrays, g, div, threads):
    """The value and all gradients, as bytes."""
    _core.set_chunk_div(div)
    _core.set_num_threads(threads)
    leaves = [pynn.tensor(a) for a in arrays]
    for x in leaves:
        x.requires_grad = True
    y = f(*leaves, *[None] * (3 - len(leaves)))
    y.backward(pynn.tensor(g))
    return [a.numpy_copy().tobytes() for a in (y.detach(), *(x.grad for x in leaves))]


@pytest.mark.parametrize("level", _core.isa_levels())
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [16, 48, 50, 768, 2560, 4096, 8192, 8208])
@pytest.mark.parametrize("name", CALLS)
def test_far_rows_have_the_bits_of_near_ones(name, n, dtype, level):
    _core.use_isa(level)
    f, n_leaf = CALLS[name]
    rows = FAR // (n * np.dtype(dtype).itemsize) + 7
    rng = np.random.default_rng(0)
    x, g = (rng.standard_normal((rows, n)).astype(dtype) for _ in range(2))
    if "softmax" in name:  # neighbours are computed together: one must not reach the other
        x[2], x[5, 1], x[rows - 1, n - 1] = -np.inf, np.nan, np.inf
    arrays = [x, *rng.uniform(-2, 2, (2, n)).astype(dtype)][:n_leaf]
    near = found(f, arrays, g, 1, 1)
    for threads in (1, 2, 4):
        assert found(f, arrays, g, 64, threads) == near
