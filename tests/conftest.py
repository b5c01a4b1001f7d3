"""What all tests share. PYNN_TEST_ALL=1 selects the full product of ops, samples and dimensions."""

import os

import hypothesis
import pytest

import pynn
from pynn import _core

hypothesis.settings.register_profile("same", derandomize=True, deadline=None)
hypothesis.settings.load_profile("same")

FULL = os.environ.get("PYNN_TEST_ALL") == "1"


@pytest.fixture(autouse=True)
def settings():
    """Restores ISA level, threads, chunk sizes, grad mode and anomaly detection after each test."""
    before = _core.isa(), _core.get_num_threads(), _core.get_chunk_div(), _core.grad_enabled()
    anomaly = _core.set_anomaly(False)
    _core.set_anomaly(anomaly)
    pynn.manual_seed(0)
    yield
    _core.use_isa(before[0])
    _core.set_num_threads(before[1])
    _core.set_chunk_div(before[2])
    _core.set_grad_enabled(before[3])
    _core.set_anomaly(anomaly)
