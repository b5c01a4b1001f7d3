"""Corners of the kernels and entries that samples of the registry do not reach."""

import numpy as np
import pytest

import pynn
from pynn import OPS, no_grad, tensor


@pytest.mark.parametrize(
    "call",
    [
        lambda: OPS.gather_rows(tensor(np.ones((3, 2))), tensor(np.zeros((1,) * 8, np.int64))),
        lambda: OPS.cross_entropy(tensor(np.zeros((1,) * 7 + (3,))), tensor(np.zeros((1,) * 8, np.int64)), None),
        lambda: OPS.scatter_add(tensor(np.zeros((2, 3))), tensor(np.zeros((1,) * 7 + (2,), np.int64)), rows=2),
    ],
)
def test_nine_dimensions_are_an_error(call):
    with pytest.raises(ValueError, match="expected at most 8 dimensions, got 9"):
        call()
