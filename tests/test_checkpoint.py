"""Activation checkpointing: F-AD-9. Everything equals the plain block bit for bit."""

from collections import namedtuple

import numpy as np
import pytest
from optim_helpers import values

import pynn
from pynn import Tensor, _core, nn
from pynn.nn import functional as F

RNG = np.random.default_rng(5)
X = RNG.standard_normal((6, 5))
W = RNG.standard_normal(3)


def parts(many=0):
    """A block that depends on an argument, on parameters, and on a value computed outside; its leaves."""
    pynn.manual_seed(1)
    layers = [nn.Linear(5, 8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 3)]
    layers += [nn.Linear(3, 3) for _ in range(many)]
    net = nn.Sequential(*layers, nn.BatchNorm1d(3)).double()
    return net, Tensor(X, requires_grad=True), Tensor(W, requires_grad=True)


def run(wrap, many=0, walk=lambda loss: loss.backward()):
    """Values, gradients, statistics and the random state after a step with wrap(block, input)."""
    net, x, w = parts(many)
    outside = w * 3.0
    y = wrap(lambda a: net(a) * outside, x * 2.0)
    loss = (y * y).sum() + F.dropout(y, 0.3).sum()
    walk(loss)
    leaves = [x, w, *net.parameters()]
    norm = net[len(net) - 1]
    return [y.numpy_copy(), np.array(loss.item()), *(p.grad.numpy_copy() for p in leaves),
            norm.running_mean.numpy_copy(), norm.running_var.numpy_copy(), norm.num_batches_tracked.numpy_copy(),
            pynn.default_generator.get_state().numpy_copy()]  # fmt: skip


def plain(fn, *args):
    return fn(*args)


@pytest.mark.parametrize("many", [0, 20])
def test_equals_plain_bit_for_bit(many):
    """F-AD-9, with dropout, batch norm's statistics, and more parameters than one op has arguments."""
    for a, b in zip(run(plain, many), run(pynn.checkpoint, many), strict=True):
        np.testing.assert_array_equal(a, b)


def test_dropout_would_differ_with_other_random_numbers():
    """The mask of the second run is the first's: without that the gradient is another."""
    pynn.manual_seed(0)
    x = Tensor(np.ones(200), requires_grad=True)
    y = pynn.checkpoint(lambda a: F.dropout(a, 0.5), x)
    F.dropout(x.detach(), 0.5)
    y.backward(Tensor(np.ones(200)))
    np.testing.assert_array_equal(x.grad.numpy_copy(), y.numpy_copy())
    state = pynn.default_generator.get_state().tolist()
    assert state[1] == 2


def test_grad_of_any_order_and_nested():
    net, x, w = parts()
    net.eval()

    def block(a):
        return net(a) * w

    def twice(a):
        return pynn.checkpoint(lambda b: pynn.checkpoint(block, b) * 2.0, a)

    def loss(a, wrapped):
        return (wrapped(a) ** 2).sum()

    for wrapped, factor in ((lambda a: pynn.checkpoint(block, a), 1.0), (twice, 4.0)):
        want = pynn.grad(loss(x, block), [x, w])
        got = pynn.grad(loss(x, wrapped), [x, w])
        for a, b in zip(want, got):
            np.testing.assert_allclose(b.numpy_copy(), factor * a.numpy_copy(), rtol=1e-14)
        v = [Tensor(np.cos(np.arange(t.size)).reshape(t.shape)) for t in (x, w)]
        second = [
            pynn.grad(list(pynn.grad(loss(x, f), [x, w], create_graph=True)), [x, w], v) for f in (block, wrapped)
        ]
        for a, b in zip(*second):
            np.testing.assert_allclose(b.numpy_copy(), factor * a.numpy_copy(), rtol=1e-12)


def test_retained_graphs_can_be_walked_twice():
    def walk(loss):
        loss.backward(retain_graph=True)
        loss.backward()

    for a, b in zip(run(plain, walk=walk), run(pynn.checkpoint, walk=walk), strict=True):
        np.testing.assert_array_equal(a, b)


def test_several_results_and_arguments():
    a, b = Tensor(X, requires_grad=True), Tensor(X * 2, requires_grad=True)

    def fn(a, scale, b, *, k):
        return a * b, (a + b) * scale, k, Tensor(np.arange(3))

    y, z, k, n = pynn.checkpoint(fn, a, 3.0, b, k="text")
    assert (k, n.tolist(), n.requires_grad) == ("text", [0, 1, 2], False)
    (y.sum() + z.sum()).backward()
    np.testing.assert_allclose(a.grad.numpy_copy(), X * 2 + 3)
    np.testing.assert_allclose(b.grad.numpy_copy(), X + 3)
    a.grad = b.grad = None
    y, *_ = pynn.checkpoint(fn, a, 3.0, b, k=0)  # one of the results alone
    y.sum().backward()
    np.testing.assert_allclose(a.grad.numpy_copy(), X * 2)


def test_without_gradients_it_is_a_call():
    x = Tensor(X)
    assert pynn.checkpoint(lambda a: a * 2.0, x).grad_fn is None
    leaf = Tensor(X, requires_grad=True)
    with pynn.no_grad():
        assert pynn.checkpoint(lambda a: a * 2.0, leaf).grad_fn is None


def test_own_generators():
    g = pynn.Generator(3)
    x = Tensor(np.ones(100), requires_grad=True)
    y = pynn.checkpoint(lambda a: F.dropout(a, 0.5, generator=g), x, generators=(g,))
    F.dropout(x.detach(), 0.5, generator=g)
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy_copy(), y.numpy_copy())


def test_changes_between_the_runs_are_told():
    net, x, _ = parts()
    for changed in (net[0].weight, x):
        y = pynn.checkpoint(net, x)
        with pynn.no_grad():
            changed.copy_(changed * 2.0)
        with pytest.raises(RuntimeError, match="changed in place"):
            y.sum().backward()


def test_too_many_arguments_are_told():
    xs = [Tensor(1.0, requires_grad=True) for _ in range(17)]
    with pytest.raises(ValueError, match="checkpoint: expected at most 16 arguments"):
        pynn.checkpoint(lambda *a: sum(a[1:], a[0]), *xs)


def test_memory_of_deep_blocks():
    """F-AD-9: sixteen blocks of five activations each keep their inputs alone, which saves two thirds at least."""
    x = Tensor(RNG.standard_normal((256, 64)).astype("f4"), requires_grad=True)
    blocks = [nn.Sequential(*[nn.Tanh(), nn.Sigmoid(), nn.GELU(), nn.SiLU(), nn.Tanh()]) for _ in range(16)]

    def held(wrap):
        before = _core.alloc_stats()["live"]
        y = x
        for b in blocks:
            y = wrap(b, y)
        return _core.alloc_stats()["live"] - before

    assert held(pynn.checkpoint) < held(plain) / 3


def test_memory_goes_with_the_walk():
    """A loss that is kept keeps nothing of the block once it was walked."""
    x = Tensor(RNG.standard_normal((256, 64)).astype("f4"), requires_grad=True)
    before = _core.alloc_stats()["live"]
    loss = pynn.checkpoint(nn.Tanh(), x * 2.0).sum()
    loss.backward()
    x.grad = None
    assert _core.alloc_stats()["live"] - before < x.size * 4 / 2


def test_gradients_by_rows():
    table = nn.Embedding(10, 4, sparse=True)
    index = Tensor(np.array([1, 3, 3]))
    pynn.checkpoint(lambda i: table(i) * 3.0, index).sum().backward()
    assert type(table.weight.grad) is pynn.RowGradient
    rows = table.weight.grad._rows.numpy_copy()
    np.testing.assert_array_equal(rows[:2], np.array([3.0, 6.0])[:, None] * np.ones(4))


def test_plans_replay_it():
    """The second run is recorded with the step; random numbers go on from step to step."""
    x = Tensor(X.astype("f4"))
    found = []
    for wrap, compiled in ((plain, False), (pynn.checkpoint, False), (pynn.checkpoint, True)):
        pynn.manual_seed(2)
        net = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 3))
        opt = pynn.optim.SGD(net.parameters(), lr=0.1)

        def step(x, net=net, opt=opt, wrap=wrap):
            opt.zero_grad()
            loss = (wrap(net, x) ** 2).sum()
            loss.backward()
            opt.step()
            return loss

        call = pynn.compile(step) if compiled else step
        for _ in range(5):
            call(x)
        assert not compiled or call.replays >= 3
        found.append(values(net.parameters()))
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])


def test_checkpointed_module():
    pynn.manual_seed(1)
    block = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    wrapped = nn.Checkpointed(block)
    assert [n for n, _ in wrapped.named_parameters()] == [
        "block.0.weight",
        "block.0.bias",
        "block.2.weight",
        "block.2.bias",
    ]
    x = Tensor(X, requires_grad=True)
    y = wrapped(x)
    assert y.grad_fn.name == "checkpoint"
    (y**2).sum().backward()
    got = [x.grad.numpy_copy(), *(p.grad.numpy_copy() for p in block.parameters())]
    x.grad = None
    block.zero_grad()
    (block(x) ** 2).sum().backward()
    for a, b in zip(got, [x.grad, *(p.grad for p in block.parameters())]):
        np.testing.assert_array_equal(a, b.numpy_copy())
    wrapped.eval()
    assert wrapped(x).grad_fn.name != "checkpoint"


@pytest.mark.parametrize("create_graph", [False, True])
def test_a_captured_tensor_and_its_ancestor(create_graph):
    """The block's own walk ends where it began: what is below is the outer walk's."""
    w = Tensor(np.array([1.0, 2.0, 3.0]), requires_grad=True)
    x = Tensor(np.array([10.0, 20.0, 30.0]), requires_grad=True)
    z = w * 2

    def block(q):
        return q * z + w

    for _ in range(2):  # z's graph is as it was
        gs = [
            pynn.grad(y.sum(), [x, w], create_graph=create_graph, retain_graph=True)
            for y in (pynn.checkpoint(block, x), block(x))
        ]
        for got, want in zip(*gs, strict=True):
            np.testing.assert_array_equal(got.detach().numpy(), want.detach().numpy())
    (pynn.checkpoint(block, x) * pynn.checkpoint(block, x)).sum().backward()
    found = w.grad.numpy().copy()
    w.grad, z = None, w * 2
    (block(x) * block(x)).sum().backward()
    np.testing.assert_allclose(found, w.grad.numpy(), rtol=1e-14)


def test_nested_results():
    """Tuples, dicts and named tuples of results, as of an LSTM, and a captured leaf among them."""
    Pair = namedtuple("Pair", "first second")
    x, w = (Tensor(np.ones(3, "f4"), requires_grad=True) for _ in range(2))
    pair = pynn.checkpoint(lambda a: Pair({"y": a * 2}, [w, (a * w, "text")]), x)
    assert isinstance(pair, Pair)
    assert pair.second[1][1] == "text"
    (pair.first["y"].sum() + (pair.second[0] * 3).sum() + pair.second[1][0].sum()).backward()
    assert x.grad.tolist() == [3, 3, 3]
    assert w.grad.tolist() == [4, 4, 4]
    lstm = nn.Checkpointed(nn.LSTM(4, 3))
    v = Tensor(np.ones((5, 2, 4), "f4"), requires_grad=True)
    _, (h, c) = lstm(v)
    (h.sum() + c.sum()).backward()
    assert np.abs(v.grad.numpy()).sum() > 0


def test_changes_in_place_of_what_needs_no_gradient():
    x, m = Tensor(np.ones(3, "f4"), requires_grad=True), Tensor(np.ones(3, "f4"))
    y = pynn.checkpoint(lambda q, m: (q * m).exp(), x, m)
    m.copy_(Tensor(np.full(3, 5.0, "f4")))
    with pytest.raises(RuntimeError, match=r"checkpoint: argument 1 of shape \(3,\) was changed in place"):
        y.sum().backward()
