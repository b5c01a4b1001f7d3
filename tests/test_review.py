"""Faults found by review: each once crashed the interpreter or gave a wrong derivative."""

import contextlib
import threading

import numpy as np
import pytest

import pynn
from pynn import OPS, _core, nn


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


def test_more_than_eight_dimensions_raise():
    idx = np.zeros((1,) * 8, np.int64)
    for make in (
        lambda: pynn.ones(5, 3)[idx],
        lambda: OPS.gather_rows(pynn.ones(5, 3), idx),
        lambda: OPS.scatter_add(pynn.ones(1, 3), idx, rows=3),
        lambda: pynn.Op("deep", "x[A,B,C,D,E,F,G,H,I]", "y[A]", formula=lambda x: x, register=False),
        lambda: pynn.Op("long", "x[A]", "y[A]", formula=lambda x: x, flops="*".join("n" * 60), register=False),
    ):
        with pytest.raises(ValueError, match=r"8 dimensions|8 factors"):
            make()
    assert OPS.add(pynn.ones((1,) * 8), 1.0).ndim == 8
    assert OPS.matmul(pynn.ones((1,) * 8), pynn.ones((1,) * 8)).ndim == 8


def test_second_order_of_a_formula_reaches_inputs_that_were_not_asked_for():
    op = pynn.Op("fmul", "a[...] b[...]", "y[...]", kernel=lambda o, i: np.multiply(*i, out=o[0]),
                 formula=lambda a, b: a * b, register=False)  # fmt: skip
    a, b = pynn.tensor([2.0, 3.0], requires_grad=True), pynn.tensor([5.0, 7.0], requires_grad=True)
    (g,) = pynn.grad(op(a, b).sum(), [a], create_graph=True)
    assert pynn.grad(g.sum(), [b])[0].tolist() == [1, 1]


def test_a_leaf_hook_sees_the_whole_gradient_once():
    x = pynn.tensor([1.0], requires_grad=True)
    seen = []

    def hook(g):
        seen.append(g.item())
        return g.clamp(max=3.0)

    x.register_hook(hook)
    (x * 2 + x * 3).sum().backward()
    assert seen == [5.0]
    assert x.grad.tolist() == [3.0]
    assert pynn.grad((x * 2 + x * 3).sum(), [x])[0].tolist() == [3.0]


def test_tensors_without_values_raise():
    x = pynn.ones(3, requires_grad=True) * 2
    husk = (x + 1).grad_fn.ins[0]
    for t in (pynn.Tensor(), husk):
        for use in (
            lambda t: t + 1, lambda t: t.numpy(), lambda t: t.numpy_copy(), lambda t: t.reshape(-1)[0].item(),
            lambda t: t._version, lambda t: t.writable().__enter__(), lambda t: t.detach().fill_(0),
        ):  # fmt: skip
            with pytest.raises(RuntimeError, match="without values"):
                use(t)
    op = pynn.Op("sq", "a[...]", "y[...]", kernel=lambda o, i: np.square(i[0], out=o[0]),
                 vjp=lambda n, g: g * 2 * n.ins[0], register=False)  # fmt: skip
    with pytest.raises(RuntimeError, match="saves"):
        op(x).sum().backward()
    with pytest.raises(TypeError):
        type(x.grad_fn)()
    with pytest.raises(TypeError):
        _core.read_view(None)


def test_memory_lives_until_the_kernel_that_reads_it_ends():
    m, x = nn.Linear(512, 512), pynn.ones(512, 512)
    stop = []

    def run():
        with pynn.no_grad():
            while not stop:
                with contextlib.suppress(TypeError):  # weights of the other dtype
                    m(x)

    t = threading.Thread(target=run)
    t.start()
    for _ in range(20):
        m.double()
        m.float()
        _core.empty_cache()
    stop.append(1)
    t.join()
