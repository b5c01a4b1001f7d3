"""Tests derived from the registry: every op × every check of pynn.testing.

By default a check that repeats an op under many conditions takes some of its samples, always the largest;
with PYNN_TEST_ALL=1 every check takes every sample, from three seeds.
"""

import zlib

import numpy as np
import pytest
from conftest import FULL

import pynn
from pynn import testing

# Ops of lists of tensors are called through functions of their own, and tested with them.
LISTED = {name for name, line in pynn._core.kernels().items() if any(a.endswith("_list") for a in line[2] + line[3])}
OPS = [op for op in pynn.OPS if op.kernel not in LISTED]
REPEATING = {"second_order", "layouts", "isa", "callers"}
SEEDS = 3 if FULL else 1
# Results of one element, of none, or of one for each channel: there is nothing that threads could share.
SERIAL = {"rng_take", "bn_update"}
# Families whose products PYNN_GEMM=blas gives to a BLAS.
PRODUCTS = {"matmul", "linear"}


def taken(op, check):
    """The samples of op on which check runs."""
    found = []
    for seed in range(SEEDS):
        found += testing.samples(op, np.random.default_rng([zlib.crc32(op.name.encode()), seed]))
    if FULL or check not in REPEATING or len(found) <= 5:
        return found
    by_size = sorted(range(len(found)), key=lambda k: -sum(np.size(a) for a in found[k].args))
    step = max(1, len(found) // 4)
    return [found[k] for k in sorted({by_size[0], *range(list(testing.CHECKS).index(check) % step, len(found), step)})]


@pytest.mark.parametrize("check", [c for c in testing.CHECKS if c != "threads"])
@pytest.mark.parametrize("op", OPS, ids=lambda op: op.name)
def test_op(op, check):
    for sample in taken(op, check):
        testing.CHECKS[check](op, sample)


@pytest.mark.parametrize("op", OPS, ids=lambda op: op.name)
def test_threads(op):
    """The same bits with 1, 2 and 4 threads; the team takes part in at least one sample of each C kernel."""
    if pynn.get_gemm() == "blas" and getattr(op, "stem", None) in PRODUCTS:
        pytest.skip("the bits of a BLAS are its own: see set_gemm")
    ran = [testing.CHECKS["threads"](op, sample) for sample in taken(op, "threads")]
    assert any(ran) or op.kernel_id < 0 or op.name in SERIAL


@pytest.mark.parametrize("op", [op for op in OPS if op.errors], ids=lambda op: op.name)
def test_errors(op):
    testing.check_errors(op)


@pytest.mark.parametrize("op", OPS, ids=lambda op: op.name)
def test_unexpected_arguments(op):
    """Too many arguments and unknown names raise TypeErrors that name the op."""
    sample = taken(op, "purity")[0]
    with pytest.raises(TypeError, match=rf"{op.name}: unexpected argument 'no_such_thing'"):
        op(*sample.args, **sample.params, no_such_thing=1)
    if op.view_kind == 0:
        with pytest.raises(TypeError, match=rf"{op.name}: expected at most {op.n_in} arguments"):
            op(*sample.args, 1, **sample.params)
    for text in ("text", object(), 1j):
        with pytest.raises(TypeError, match=rf"^{op.name}: argument '\w+': expected"):
            op(text, *sample.args[1:], **sample.params)
