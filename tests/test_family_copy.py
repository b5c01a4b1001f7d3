"""Copies that turn memory round: every order of dimensions, every dtype, sizes around the squares."""

import itertools

import numpy as np
import pytest

import pynn
from pynn import OPS, _core

SHAPES = ((5, 7), (33, 70), (4, 4), (64, 32), (3, 40, 37), (9, 1, 5, 6), (37, 3, 2, 35), (0, 5, 8))


@pytest.mark.parametrize("dtype", ["f4", "f8", "i4", "i8", "u1", "?"])
@pytest.mark.parametrize("shape", SHAPES)
def test_copy_of_permuted_and_reversed_arrays(dtype, shape):
    a = np.arange(np.prod(shape)).reshape(shape)
    a = (a % 2 if dtype == "?" else a % 251).astype(dtype)
    back = (slice(None, None, -1),) * len(shape)
    for axes, div in itertools.product(itertools.permutations(range(len(shape))), (1, 64)):
        before = _core.get_chunk_div()
        _core.set_chunk_div(div)
        try:
            x = pynn.from_numpy(a).permute(*axes)
            plain, reversed_ = OPS.copy(x), OPS.copy(x[back])
        finally:
            _core.set_chunk_div(before)
        np.testing.assert_array_equal(plain.numpy(), a.transpose(axes))
        np.testing.assert_array_equal(reversed_.numpy(), a.transpose(axes)[back])


def test_copy_into_part_of_an_array_leaves_the_rest():
    whole = np.full((70, 80), -1.0, np.float32)
    a = np.arange(40 * 50, dtype=np.float32).reshape(40, 50)
    pynn.from_numpy(whole)[3:53, 5:45].copy_(pynn.from_numpy(a).T)
    want = np.full((70, 80), -1.0, np.float32)
    want[3:53, 5:45] = a.T
    np.testing.assert_array_equal(whole, want)
    pynn.from_numpy(whole).T[5:45, 3:53].copy_(pynn.from_numpy(a) + 1)
    want[3:53, 5:45] = a.T + 1
    np.testing.assert_array_equal(whole, want)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8, np.int64, np.int32, np.bool_])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_few_channels_are_woven(dtype, channels):
    """N,C,H,W to N,H,W,C and back: whole, of a part, and large."""
    rng = np.random.default_rng(channels)
    whole = (rng.random((3, channels + 1, 9, 34)) * 200).astype(dtype)
    parts = whole[:, :channels], whole[1:, 1:, 2:, :31], whole[:, :channels, :, ::2], whole[:, channels - 1 :: -1]
    for a in (*parts, np.tile(parts[0], (1, 1, 20, 5))):  # the last: of many chunks, that end within images
        x = pynn.from_numpy(a)
        np.testing.assert_array_equal(x.permute(0, 2, 3, 1).contiguous().numpy(), a.transpose(0, 2, 3, 1))
        last = pynn.from_numpy(np.ascontiguousarray(a.transpose(0, 2, 3, 1))).permute(0, 3, 1, 2)
        np.testing.assert_array_equal(last.contiguous().numpy(), a)
