"""Bad input: a clear error that names the op, the argument, what was expected and what came; or the right result."""

import gc
import resource
import sys

import numpy as np
import pytest

import pynn
from pynn import OPS, _core, nn, no_grad, tensor


def raises(exception, text):
    return pytest.raises(exception, match=text)


def test_shapes():
    x, w = tensor(np.ones((2, 3))), tensor(np.ones((4, 5)))
    with raises(ValueError, r"^linear: argument 'W': expected shape \[O,I\] with I=3, got \(4, 5\)$"):
        OPS.linear(x, w, None)
    with raises(ValueError, r"^linear: argument 'b': expected shape \[O\] with O=4, got \(3,\)$"):
        OPS.linear(x, tensor(np.ones((4, 3))), tensor(np.ones(3)))
    with raises(ValueError, r"^linear: argument 'x': expected shape \[\.\.\.,I\], got \(\)$"):
        OPS.linear(tensor(np.float64(1)), w, None)
    with raises(ValueError, r"^matmul: argument 'a': expected shape \[\.\.\.,M,K\], got \(3,\)$"):
        OPS.matmul(tensor(np.ones(3)), x)
    with raises(ValueError, r"^copy_: argument 'y' is written and cannot be broadcast from \(3,\) to \(2, 3\)$"):
        tensor([1.0, 2.0, 3.0]).copy_(x)


def test_arguments():
    x = tensor([1.0, 2.0])
    with raises(TypeError, r"^add: argument 'b': expected a Tensor, got None$"):
        OPS.add(x, None)
    with raises(TypeError, r"^add: argument 'b': expected a Tensor, got None$"):
        OPS.add(x)
    with raises(TypeError, r"^add: expected at most 2 arguments \(a, b\), got 3$"):
        OPS.add(x, x, x)
    with raises(TypeError, r"^add: unexpected argument 'out'; expected no named arguments$"):
        OPS.add(x, x, out=x)
    with raises(TypeError, r"^sum_to: missing argument 'shape'$"):
        OPS.sum_to(x)
    with raises(TypeError, r"^leaky_relu: unexpected argument 'slope'; expected negative_slope$"):
        OPS.leaky_relu(x, slope=0.1)
    with raises(TypeError, r"^add: argument 'b': expected a Tensor, an array or a number, got dict$"):
        x + {}
    with raises(TypeError, r"^logical_not: argument 'a': expected dtype bool, got dtype float32$"):
        ~x
    with raises(TypeError, r"^linear: argument 'x': expected a floating dtype, got int64$"):
        OPS.linear(tensor([[1, 2]]), tensor([[1, 2]]), None)
    with raises(AttributeError, r"no_such_op"):
        OPS.no_such_op


def test_labels_out_of_range_say_which_and_where():
    logits = tensor(np.zeros((4, 3), "f4"), requires_grad=True)
    for labels, value, place in (([0, 1, 3, 2], 3, 2), ([0, -1, 1, 7], -1, 1), ([2**40, 0, 0, 0], 2**40, 0)):
        with raises(
            IndexError,
            rf"^cross_entropy: argument 'target': expected 0 <= value < 3, got {value} at target\[{place}\]$",
        ):
            nn.functional.cross_entropy(logits, tensor(labels))
    x = tensor(np.zeros((3, 2)))
    with raises(IndexError, r"expected 0 <= value < 3, got 5 at idx\[1, 0\]$"):
        OPS.gather_rows(x, tensor([[0, 1], [5, 9]]))


def test_the_first_bad_index_is_named_whatever_the_threads():
    idx = np.zeros(50_000, np.int64)
    idx[[30_000, 200, 49_999, 17_000]] = 99, 77, -3, 88
    _core.set_chunk_div(64)
    for n in (1, 2, 4):
        _core.set_num_threads(n)
        for _ in range(5):
            with raises(IndexError, r"got 77 at idx\[200\]$"):
                OPS.gather_rows(tensor(np.zeros((3, 4))), tensor(idx))


def test_empty_batch():
    """An empty batch works: an empty result, zero gradients."""
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    y = model(tensor(np.zeros((0, 4), "f4")))
    assert y.shape == (0, 3)
    loss = nn.CrossEntropyLoss(reduction="sum")(y, tensor(np.zeros(0, np.int64)))
    assert loss.item() == 0
    loss.backward()
    for p in model.parameters():
        assert p.grad.shape == p.shape
        assert not p.grad.numpy().any()


def test_state_dict_that_does_not_fit():
    model = nn.Linear(3, 2)
    before = model.weight.numpy().copy()
    with raises(ValueError, r"(?s)missing: 'bias'\n *unexpected: 'extra'"):
        model.load_state_dict({"weight": np.zeros((2, 3), "f4"), "extra": np.zeros(1)})
    with raises(ValueError, r"(?s)weight.*\(2, 3\).*\(3, 3\)"):
        model.load_state_dict({"weight": np.zeros((3, 3), "f4"), "bias": np.zeros(2, "f4")})
    np.testing.assert_array_equal(model.weight.numpy(), before)  # a failed load changes nothing


def test_an_error_leaves_everything_usable():
    """After errors of every kind: grad mode, versions and memory as before."""
    gc.collect()
    x = tensor(np.ones((2, 3)), requires_grad=True)
    before, version = _core.alloc_stats()["live"], x._version
    for bad in (
        lambda: x + tensor(np.ones(7)),
        lambda: OPS.exp("text"),
        lambda: pynn.empty(2**50),
        lambda: x.zero_(),
        lambda: (x * 2).backward(),
        lambda: OPS.gather_rows(x, tensor([9])),
    ):
        with pytest.raises((ValueError, TypeError, MemoryError, RuntimeError, IndexError)):
            bad()
    gc.collect()
    assert _core.alloc_stats()["live"] == before
    assert x._version == version
    assert pynn.is_grad_enabled()
    (x * 2).sum().backward()
    assert (x.grad.numpy() == 2).all()


def test_memory_that_ends():
    """MemoryError when the allocator gets no more, also from results and scratch, and life goes on after it."""
    import subprocess

    program = """
import resource, numpy as np, pynn
from pynn import OPS, tensor
x = tensor(np.ones(1 << 20), requires_grad=True)   # 8 MB
y = tensor(np.ones((1500, 1500), "f4"))
y @ y
with open("/proc/self/statm") as f:
    used = int(f.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (48 << 20), resource.RLIM_INFINITY))
kept, n = [], 0
try:
    while n < 1000:
        kept.append(OPS.exp(x)); n += 1
except MemoryError as e:
    print("ended", n, e)
del kept
OPS.exp(x).sum().backward()
print("on", (x.grad.numpy() > 2.7).all(), n > 1)
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "ended" in run.stdout
    assert "could not allocate" in run.stdout
    assert "on True True" in run.stdout


def available_bytes():
    with open("/proc/meminfo") as f:
        return {line.split(":")[0]: int(line.split()[1]) * 1024 for line in f}["MemAvailable"]


def test_sizes_beyond_32_bits():
    """Elements more than 2³¹ places apart, in memory that is touched at its ends only."""
    n = 2**31 + 5
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if available_bytes() < 2**30 or (soft not in (-1, resource.RLIM_INFINITY) and soft < 2**34):
        pytest.skip("memory is short")
    table = np.zeros((n, 1), np.uint8)  # calloc'd: pages come when they are touched
    table[0], table[-1] = 3, 7
    t = pynn.from_numpy(table)
    assert t.size == n
    assert t[n - 1].tolist() == [7]
    assert OPS.gather_rows(t, tensor([0, n - 1, 1])).tolist() == [[3], [7], [0]]
    assert t[:: n - 1].tolist() == [[3], [7]]


def test_nothing_prints(capfd):
    """Neither errors nor work write to the terminal."""
    with pytest.raises(ValueError):
        tensor([1.0, 2.0]) + tensor([1.0, 2.0, 3.0])
    with no_grad():
        tensor(np.ones((300, 300))) @ tensor(np.ones((300, 300)))
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")
