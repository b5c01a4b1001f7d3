"""Philox and dropout, generators and random tensors, creation functions."""

import pickle
import subprocess
import sys
import threading

import numpy as np
import pytest

import pynn
from pynn import OPS, Tensor, _core
from pynn.ops import dropout as drop_entries
from pynn.ops.dropout import dropout, philox, philox_words

KEY = Tensor([3, 4])


def numbered(*shape):
    return np.arange(float(np.prod(shape))).reshape(shape)


def assert_parallel(call):
    """That the team takes part; on a busy machine a worker may come too late for one call."""
    _core.par_stats(reset=True)
    assert any(call() is not None and _core.par_stats()["parallel"] for _ in range(200)), _core.par_stats()


# ---- Philox and dropout ------------------------------------------------------------------------------


def hexes(text):
    return [int(w, 16) for w in text.split()]


@pytest.mark.parametrize(
    ("counter", "key", "want"),  # the vectors published with Random123, philox4x32 10
    [
        ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_philox_known_answers(counter, key, want):
    assert philox(hexes(counter), hexes(key)).tolist() == hexes(want)


def kernel_words(key, n):
    """The kernel's 32-bit words, by bisection with masks: mask(p) is word < round((1 - p)·2³²)."""
    low = np.zeros(n, np.int64)
    for bit in range(31, -1, -1):
        # all words whose upper bits are a common prefix are compared with one threshold
        for prefix in np.unique(low):
            at = low == prefix
            below = OPS.philox_mask(Tensor(key), shape=(n,), p=1 - (int(prefix) + 2**bit) / 2**32).numpy()
            low[at & ~below] += 2**bit
    return low


@pytest.mark.parametrize("level", _core.isa_levels())
def test_kernel_bits_are_philox(level):
    _core.use_isa(level)
    first = [f"{w:08x}" for w in kernel_words(np.array([0, 0]), 32)[::8]]
    assert first == ["6627e8d5", "e169c58d", "bc57ac4c", "9b00dbd8"]
    for key in (np.array([0x299F31D0A4093822, 0x0370734413198A2E]), np.array([-1, -1])):
        np.testing.assert_array_equal(kernel_words(key, 70), philox_words(key, 70))


def test_one_mask_for_every_isa_layout_chunk_and_team():
    key, shape, p = Tensor([5, 6]), (6, 5, 7, 40), 0.3
    want = OPS.philox_mask(key, shape=shape, p=p).numpy()
    assert want.sum() == (philox_words([5, 6], want.size) < round(0.7 * 2**32)).sum()
    x = pynn.rand(*shape) + 0.5
    value = np.where(want, x.numpy() * np.float32(1 / 0.7), 0)
    reversed_value = np.where(want, x.numpy()[::-1] * np.float32(1 / 0.7), 0)
    repeated = philox_words([5, 6], 77) < round(0.7 * 2**32)
    for level in _core.isa_levels():
        _core.use_isa(level)
        for threads, div in ((1, 1), (2, 64), (4, 1000), (2, 10**6)):
            _core.set_num_threads(threads)
            _core.set_chunk_div(div)
            np.testing.assert_array_equal(OPS.philox_mask(key, shape=shape, p=p).numpy(), want)
            np.testing.assert_array_equal(OPS.dropout(x, key, p=p).numpy(), value)
            last = OPS.copy(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            assert last.is_channels_last()
            assert OPS.dropout(last, key, p=p).is_channels_last()
            np.testing.assert_array_equal(OPS.dropout(last, key, p=p).numpy(), value)
            np.testing.assert_array_equal(OPS.dropout(x[::-1], key, p=p).numpy(), reversed_value)
            np.testing.assert_array_equal(OPS.dropout(x[0, 0, 0, 0].expand(77), key, p=p).numpy() != 0, repeated)
    _core.set_num_threads(2)
    _core.set_chunk_div(64)
    assert_parallel(lambda: OPS.dropout(x, key, p=p))


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_dropout_statistics(p):
    """F-REG-6: p is the probability to drop; what stays is divided by 1 − p in training."""
    n = 400_000
    pynn.manual_seed(1)
    y = dropout(pynn.ones(n), p).numpy()
    kept = y != 0
    assert set(np.unique(y)) <= {np.float32(0), np.float32(1 / (1 - p))}
    sigma = (p * (1 - p) / n) ** 0.5
    assert abs(kept.mean() - (1 - p)) < 4 * sigma
    for lag in (1, 8, 32, 256):  # neighbours in a word, a block, a group and a batch of groups are independent
        assert abs((kept[lag:] & kept[:-lag]).mean() - (1 - p) ** 2) < 6 * sigma
    assert abs((kept & (dropout(pynn.ones(n), p).numpy() != 0)).mean() - (1 - p) ** 2) < 6 * sigma


def test_dropout_at_the_ends_and_its_gradient():
    x = Tensor(np.random.default_rng(12).standard_normal((30, 30)), requires_grad=True)
    assert dropout(x, 0.0) is x
    assert dropout(x, 0.7, training=False) is x
    y = dropout(x, 1.0)
    assert not y.detach().numpy().any()
    assert not pynn.grad(y.sum(), x)[0].numpy().any()
    assert not OPS.dropout(Tensor([float("inf"), 1.0]), KEY, p=1.0).numpy().any()
    np.testing.assert_array_equal(OPS.dropout(x, KEY, p=0.0).detach().numpy(), x.detach().numpy())
    y = dropout(x, 0.25)
    (g,) = pynn.grad(y.sum(), x)
    np.testing.assert_array_equal(g.numpy(), np.where(y.detach().numpy() != 0, 1 / 0.75, 0))
    for bad in (-0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match="dropout: argument 'p': expected 0 <= p <= 1"):
            dropout(x, bad)


def test_rng_take_gives_each_key_once():
    state = Tensor([9, 0])
    assert [drop_entries.rng_take(state).tolist() for _ in range(3)] == [[9, 0], [9, 1], [9, 2]]
    version = state._version
    OPS.rng_take(state)
    assert state._version != version
    last = Tensor([1, 2**63 - 1])
    OPS.rng_take(last)
    assert last.tolist() == [1, -(2**63)]
    gen, keys = pynn.Generator(3), []

    def take():
        keys.extend(gen.take().tolist()[1] for _ in range(500))

    threads = [threading.Thread(target=take) for _ in range(8)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert sorted(keys) == list(range(4000))


# ---- generators and random tensors -------------------------------------------------------------------


def draws(**kw):
    return [
        pynn.rand(3, 4, **kw), pynn.randn((3, 4), **kw), pynn.randint(0, 9, (5,), **kw), pynn.randperm(7, **kw),
        pynn.normal(1.0, 2.0, (4,), **kw), pynn.uniform(-1, 1, (4,), **kw), pynn.bernoulli(pynn.full((9,), 0.5), **kw),
        dropout(pynn.ones(50), 0.5, **kw),
    ]  # fmt: skip


def test_the_same_seed_gives_the_same_numbers():
    assert pynn.manual_seed(42).initial_seed() == pynn.initial_seed() == 42
    a = draws()
    state = pynn.default_generator.get_state()
    b = draws()
    pynn.default_generator.set_state(state)
    c = draws()
    pynn.manual_seed(42)
    d = draws()
    e = draws(generator=pynn.Generator(42))
    for k in range(len(a)):
        assert a[k].tolist() == d[k].tolist() == e[k].tolist()
        assert b[k].tolist() == c[k].tolist()
        assert a[k].tolist() != b[k].tolist()
    assert pickle.loads(pickle.dumps(pynn.default_generator)).take().tolist() == pynn.default_generator.take().tolist()


def test_generator_arguments():
    assert pynn.Generator(2**64 - 1).initial_seed() == 2**64 - 1
    assert pynn.Generator(-1).initial_seed() == 2**64 - 1
    assert pynn.Generator().initial_seed() != pynn.Generator().initial_seed()
    assert repr(pynn.Generator(3)) == "Generator(seed=3, taken=0)"
    with pytest.raises(TypeError, match="manual_seed: argument 'seed': expected an integer, got float"):
        pynn.manual_seed(1.5)
    with pytest.raises(ValueError, match="manual_seed: argument 'seed': expected an integer of 64 bits"):
        pynn.manual_seed(2**64)
    with pytest.raises(ValueError, match=r"set_state: argument 'state': expected shape \(2,\)"):
        pynn.Generator(1).set_state(Tensor([1, 2, 3]))
    with pytest.raises(TypeError, match="set_state: argument 'state': expected dtype int64"):
        pynn.Generator(1).set_state(Tensor([1.0, 2.0]))
    state = pynn.Generator(1).get_state()
    gen = pynn.Generator(1)
    gen.take()
    assert gen.get_state().tolist() == [1, 1]
    assert state.tolist() == [1, 0]


def test_random_tensors():
    pynn.manual_seed(0)
    u, z = pynn.rand(200_000), pynn.randn(200_000, dtype=np.float64, requires_grad=True)
    assert u.dtype == np.float32
    assert z.requires_grad
    assert 0 <= u.numpy().min() < u.numpy().max() < 1
    assert abs(u.mean().item() - 0.5) < 0.005
    assert abs(z.mean().item()) < 0.02
    assert abs(z.std().item() - 1) < 0.01
    assert pynn.rand().shape == ()
    assert pynn.rand(0, 3).shape == (0, 3)
    n = pynn.normal(Tensor([0.0, 100.0]), Tensor([1.0, 0.0]))
    assert n[1].item() == 100
    assert pynn.normal(5.0, 0.0, (2, 2)).tolist() == [[5, 5], [5, 5]]
    r = pynn.randint(3, 6, (1000,))
    assert set(r.tolist()) == {3, 4, 5}
    assert r.dtype == np.int64
    assert set(pynn.randint(2, (100,)).tolist()) == {0, 1}
    assert pynn.randint(low=1, high=2, size=(3,)).tolist() == [1, 1, 1]
    assert sorted(pynn.randperm(50).tolist()) == list(range(50))
    assert pynn.bernoulli(Tensor([0.0, 1.0])).tolist() == [0, 1]
    assert abs(pynn.bernoulli(pynn.zeros(10_000), 0.3).mean().item() - 0.3) < 0.03
    x = pynn.uniform(2, 3, 1000).numpy()
    assert 2 <= x.min() < x.max() < 3
    assert pynn.rand_like(z).dtype == np.float64
    assert pynn.randn_like(u[:3]).shape == (3,)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: pynn.rand(2, dtype="i8"), TypeError, "rand: argument 'dtype': expected float32 or float64, got int64"),
        (lambda: pynn.randint(5, 5, (2,)), ValueError, "randint: expected low < high, got low=5 and high=5"),
        (lambda: pynn.randint(5), TypeError, "randint: expected high and size"),
        (lambda: pynn.normal(0.0, -1.0, (2,)), ValueError, "normal: argument 'std': expected std >= 0"),
        (lambda: pynn.normal(pynn.ones(2), 1.0, (2,)), ValueError, "normal: argument 'size': expected none"),
        (lambda: pynn.bernoulli(Tensor([1.5])), ValueError, r"bernoulli: expected probabilities in \[0, 1\]"),
        (lambda: pynn.bernoulli(Tensor([1])), TypeError, "bernoulli: argument 'input': expected a floating dtype"),
        (lambda: pynn.rand(2, -1), ValueError, "shape: expected non-negative"),
        (lambda: pynn.tril(pynn.ones(3)), ValueError, "tril: argument 'input': expected at least 2 dimensions"),
        (lambda: pynn.arange(0, 3, 0), ValueError, "arange: argument 'step'"),
    ],
)
def test_bad_arguments(call, error, text):
    with pytest.raises(error, match=text):
        call()


def test_import_leaves_numpys_random_out():
    code = "import sys, numpy; a = set(sys.modules); import pynn; print('numpy.random' in set(sys.modules) - a)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


# ---- creation ----------------------------------------------------------------------------------------


def test_creation():
    assert pynn.zeros(2, 3).shape == pynn.zeros((2, 3)).shape == pynn.empty([2, 3]).shape == (2, 3)
    assert pynn.zeros(2).dtype == pynn.ones(()).dtype == np.float32
    assert pynn.ones(2, dtype=np.int32).tolist() == [1, 1]
    assert pynn.zeros(2, requires_grad=True).requires_grad
    assert pynn.full((2,), 7).dtype == np.int64
    assert pynn.full((2,), 7.0).dtype == np.float32
    assert pynn.full((2,), True).dtype == np.bool_
    assert pynn.arange(4).dtype == np.int64
    assert pynn.arange(1, 7, 2).tolist() == [1, 3, 5]
    assert pynn.arange(0, 1, 0.25).tolist() == [0, 0.25, 0.5, 0.75]
    assert pynn.arange(3.0).dtype == np.float32
    assert pynn.linspace(0, 1, 5).tolist() == [0, 0.25, 0.5, 0.75, 1]
    np.testing.assert_array_equal(pynn.eye(2, 3).numpy(), np.eye(2, 3))
    x = Tensor(numbered(3, 4))
    for like, value in ((pynn.zeros_like, 0), (pynn.ones_like, 1), (lambda t, **k: pynn.full_like(t, 3, **k), 3)):
        assert like(x).tolist() == [[value] * 4] * 3
        assert like(x).dtype == np.float64
        assert like(x, dtype=np.int64).dtype == np.int64
    assert pynn.empty_like(x).shape == (3, 4)
    for diagonal in (-5, -1, 0, 1, 5):
        np.testing.assert_array_equal(pynn.tril(x, diagonal).numpy(), np.tril(x.numpy(), diagonal))
        np.testing.assert_array_equal(pynn.triu(x, diagonal).numpy(), np.triu(x.numpy(), diagonal))
    assert pynn.tril(Tensor([[1, 2], [3, 4]])).dtype == np.int64
