"""Faults found by review: each once crashed the interpreter or gave a wrong derivative."""

import pytest

import pynn
from pynn import OPS


def test_sizes_that_overflow_are_refused():
    big = 2**32
    for make in (
        lambda: pynn.zeros(0).reshape(big, big),
        lambda: pynn.zeros(4).reshape(7, 4, 0x6DB6DB6DB6DB6DB7),
        lambda: OPS.slice(pynn.ones(10), begin=(0,), shape=(2**62 + 1,), step=(4,)),
        lambda: pynn.ones(1).expand(big, big),
        lambda: pynn.ones(4, 1, 1).expand(4, 7, 0x6DB6DB6DB6DB6DB7),
    ):
        with pytest.raises((ValueError, IndexError, MemoryError)):
            make()
    assert pynn.zeros(0, 5).reshape(3, 0, big, big).shape == (3, 0, big, big)
    assert pynn.arange(10)[9::-3].tolist() == [9, 6, 3, 0]
