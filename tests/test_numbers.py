"""Python's numbers at the door: taken as they are, or refused by an error that names op, argument and range."""

import numpy as np
import pytest

import pynn
from pynn import OPS, _core

BIG, HUGE = 2**70, 10**5000  # beyond 64 bits; beyond float64, and longer than Python is willing to print


def raises(exception, text):
    return pytest.raises(exception, match=text)


COMPARE = {
    "==": lambda a, b: a == b, "!=": lambda a, b: a != b, "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b, ">": lambda a, b: a > b, ">=": lambda a, b: a >= b,
}  # fmt: skip


@pytest.mark.parametrize("sign", COMPARE)
@pytest.mark.parametrize("dtype", ["uint8", "int32", "int64"])
def test_comparisons_with_integers_out_of_range_are_exact(sign, dtype):
    compare, info = COMPARE[sign], np.iinfo(dtype)
    values = np.array([[info.min, 0, 7, info.max]], dtype)
    x = pynn.tensor(values)
    for n in (-1, 300, 2**31, 2**40, -(2**40), 2**63, -(2**63) - 1, BIG, -BIG, HUGE, -HUGE, int(info.max) + 1):
        want = [[compare(v, n) for v in values.ravel().tolist()]]
        got = compare(x, n)
        assert got.tolist() == want, n
        assert got.dtype == np.bool_
        assert compare(n, x).tolist() == [[compare(n, v) for v in values.ravel().tolist()]], n
    assert compare(pynn.zeros((0, 3), dtype=dtype), BIG).shape == (0, 3)


def test_comparisons_of_bools_with_integers():
    x = pynn.tensor([True, False])
    assert (x < BIG).tolist() == [True, True]
    assert (x == 2).tolist() == [False, False]
    assert (x == 1).tolist() == [True, False]


def test_numbers_out_of_range_name_op_argument_and_range():
    u, i = pynn.tensor([1, 2], "uint8"), pynn.tensor([1, 2])
    f = pynn.tensor([1.0, 2.0])
    with raises(OverflowError, r"^add: argument 'b': expected 0 <= value <= 255 for dtype uint8, got 300$"):
        u + 300
    with raises(OverflowError, r"^sub: argument 'a': expected 0 <= value <= 255 for dtype uint8, got -1$"):
        -1 - u
    with raises(OverflowError, r"^mul: argument 'b': expected -9\d+ <= value <= 9\d+ for dtype int64, got 1180591620"):
        i * BIG
    with raises(OverflowError, r"^add: argument 'b': expected a number within .* got an integer of 16610 bits$"):
        f + HUGE
    with raises(OverflowError, r"^lt: argument 'b': expected a number within the range of float64"):
        OPS.lt(f, HUGE)
    with raises(OverflowError, r"^leaky_relu: argument 'negative_slope': expected a number within the range"):
        OPS.leaky_relu(f, negative_slope=HUGE)
    with raises(TypeError, r"^leaky_relu: argument 'negative_slope': expected a number, got 'steep'$"):
        OPS.leaky_relu(f, negative_slope="steep")
    with raises(OverflowError, r"^gather_rows: argument 'idx': expected -9\d+ <= value"):
        OPS.gather_rows(pynn.ones(3, 2), BIG)
    with raises(OverflowError, r"^copy_: argument 'source': expected 0 <= value <= 255 for dtype uint8, got 300$"):
        u.copy_(300)
    with raises(OverflowError, r"^assignment to an element: value: expected 0 <= value <= 255"):
        u[0] = [-1]
    with raises(OverflowError, r"^tensor: argument 'data': expected integers of at most 64 bits, got \[118059"):
        pynn.tensor([BIG, 1])
    with raises(OverflowError, r"^set_number: argument 'number': expected a number within"):
        _core.set_number(pynn.tensor(1.0), HUGE)
    assert u.tolist() == [1, 2]


def test_sizes_beyond_64_bits_are_named():
    f = pynn.ones(2)
    for make in (
        pynn.zeros, pynn.ones, pynn.empty, pynn.rand, pynn.randn, pynn.randperm, pynn.arange, pynn.eye,
        lambda n: pynn.full((n,), 1), lambda n: pynn.linspace(0, 1, n), lambda n: pynn.randint(0, 9, (n,)),
        lambda n: pynn.normal(0, 1, (n,)), lambda n: pynn.uniform(0, 1, (n,)), lambda n: f.expand(n, 2),
        lambda n: pynn.eye(1, n),
    ):  # fmt: skip
        for n in (BIG, 2**62, HUGE):
            with raises(MemoryError, r"^pynn: a tensor of shape \(?.*(1180591620717411303424|4611686018427387904|can)"):
                make(n)
    for shape in ((BIG,), (-1, BIG), (-BIG, 2), (HUGE,)):
        with raises((OverflowError, ValueError), r"^reshape: argument 'shape': expected"):
            f.reshape(shape)
    with raises(OverflowError, r"^slice: argument 'begin': expected an integer of at most 64 bits"):
        OPS.slice(f, begin=(BIG,), shape=(1,), step=(1,))
    with raises(ValueError, r"^permute: argument 'axes': expected a permutation of 1 axes"):
        f.permute(BIG)
    with raises(OverflowError, r"^randint: expected a range of 64-bit integers"):
        pynn.randint(0, BIG, (2,))
    with raises(IndexError, r"^getitem: index an integer of 16610 bits is out of bounds for dimension 0 of size 2$"):
        f[HUGE]
    assert pynn.tril(pynn.ones(2, 2), BIG).tolist() == [[1, 1], [1, 1]]
    assert pynn.arange(5, 2).shape == (0,)
    assert pynn.arange(0.0, 1.0, 0.25).shape == (4,)


def test_integer_parameters_are_integers():
    g, idx = pynn.ones(2, 2), pynn.tensor([0, 1])
    for rows, error, text in (
        (-1, ValueError, "expected a size >= 0, got -1"), (BIG, OverflowError, "expected an integer of at most 64"),
        (2.5, TypeError, "expected an integer, got 2.5"), (None, TypeError, "expected an integer, got None"),
        ("2", TypeError, "expected an integer, got '2'"),
    ):  # fmt: skip
        with raises(error, rf"^scatter_add: argument 'rows': {text}"):
            OPS.scatter_add(g, idx, rows=rows)
    assert OPS.scatter_add(g, idx, rows=np.int64(3)).shape == (3, 2)
    with raises(TypeError, r"^reshape: argument 'shape': expected an integer, got 2.0$"):
        g.reshape(2.0, 2)
    for dim in (0.5, "a", None):
        for reduce in (lambda d: g.softmax(d), lambda d: g.unsqueeze(d), lambda d: pynn.cat([g, g], d)):
            with raises(TypeError, r"argument 'dim': expected an integer, got"):
                reduce(dim)
    with raises(TypeError, r"^sum_to: argument 'dim': expected an integer, got 0.5$"):
        g.sum(0.5)


def test_settings_name_what_they_refuse():
    for n in (0, -1, 5000, 2**40):
        with raises(ValueError, r"^set_num_threads: argument 'n': expected at (least 1|most 4095), got"):
            pynn.set_num_threads(n)
    with raises(OverflowError, r"^set_num_threads: argument 'n': expected an integer of at most 64 bits"):
        pynn.set_num_threads(BIG)
    with raises(OverflowError, r"^set_num_threads"), pynn.threads(BIG):
        pass
    with raises(OverflowError, r"^set_chunk_div: argument 'div'"):
        _core.set_chunk_div(BIG)
    with raises(TypeError, r"^set_chunk_div: argument 'div': expected an integer, got 1.5$"):
        _core.set_chunk_div(1.5)
