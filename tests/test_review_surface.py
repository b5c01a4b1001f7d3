"""A hostile pass over the public surface: what once crashed, or raised an error that named nothing."""

import copy
import gc
import pickle
import subprocess
import sys
import threading

import numpy as np
import pytest

import pynn
from pynn import OPS, nn


def raises(exception, text):
    return pytest.raises(exception, match=text)


def some(*values, dtype="float32"):
    return pynn.tensor(np.array(values), dtype)


def fill_one(outs, ins, **params):
    for out in outs:
        if out is not None:
            out[...] = 1


def entry(ins, outs, **more):
    return pynn.Op("odd", ins, outs, register=False, **{"kernel": fill_one, "vjp": lambda n, *g: g, **more})


def test_entries_that_say_nothing_sensible_are_refused():
    for ins, outs, more, text in (
        ("a[0N]", "y[N]", {}, "could not read dimension '0N' of 'a'"),
        ("a[N-1]", "y[N]", {}, "could not read dimension 'N-1' of 'a'"),
        ("a[99999999999999999999N]", "y[N]", {}, "could not read dimension"),
        ("a[...,...]", "y[N]", {}, r"could not read dimension '\.\.\.' of 'a'"),
        ("a[N]", "y[N]", {"flops": "Q*2"}, "could not read 'Q' in 'Q\\*2': expected a sum of products of numbers and"),
        ("a[N]", "y[N]", {"bytes": "N/2"}, "could not read 'N/2'"),
    ):
        with raises(ValueError, text):
            entry(ins, outs, **more)
    for shapes in (lambda s: [], lambda s: None, lambda s: [(1,), (2,)], lambda s: 3):
        with raises(ValueError, r"^odd: expected 1 shapes, one for each output, from its shape, got"):
            entry("a[N]", "y[N]", shape=shapes)(pynn.ones(2))
    for op, args in ((entry("a[N]", "y[M]"), (pynn.ones(2),)), (entry("a[N]? b[K]", "y[2,N]"), (None, pynn.ones(2)))):
        with raises(ValueError, r"^odd: the arguments given do not tell the shape \[.*\] of its output 'y'$"):
            op(*args)
    assert entry("a[2N]", "y[N,0]")(pynn.ones(4)).shape == (2, 0)


def test_parameters_of_nodes_and_entries_are_not_for_changing():
    x = pynn.ones(2, requires_grad=True)
    y = nn.functional.leaky_relu(x)
    for shared in (y.grad_fn.params, OPS.leaky_relu.defaults):
        assert shared["negative_slope"] == 0.01
        with raises((TypeError, AttributeError), "mappingproxy"):
            shared["negative_slope"] = 3.0
        with raises((TypeError, AttributeError), "mappingproxy"):
            shared.clear()


def test_hooks_of_tensors():
    x = pynn.ones(2, requires_grad=True)
    for t in (x, x * 2):
        with raises(TypeError, r"^register_hook: argument 'hook': expected a function, got int$"):
            t.register_hook(3)
        seen = []
        handle, other = t.register_hook(seen.append), t.register_hook(lambda g: None)
        t.sum().backward(retain_graph=True)
        handle.remove()
        handle.remove()
        other()
        other()
        t.sum().backward()
        assert len(seen) == 1


def test_equality_with_what_is_no_number_is_pythons_own():
    x = pynn.ones(2)
    for other in (None, "a", {}, object(), len):
        assert (x == other) is False
        assert (other == x) is False
        assert (x != other) is True
    assert [None, x].index(None) == 0
    assert (x == [1, 2]).tolist() == [True, False]
    assert (x == np.float32(1)).all()

    class Other:
        def __eq__(self, other):
            return "mine"

    assert (x == Other()) == "mine"


def test_what_a_tensor_prints():
    assert repr(pynn.Tensor()) == "tensor(<no values>, shape=(), dtype=float32)"
    husk = ((pynn.ones(3, requires_grad=True) * 2) + 1).grad_fn.ins[0]
    assert repr(husk).startswith("tensor(<no values>, shape=(3,)")
    assert repr(pynn.zeros(3, 0)) == "tensor([], shape=(3, 0))"
    assert repr(pynn.zeros(0)) == "tensor([])"
    assert f"{pynn.tensor(1.5):.3f}" == "1.500"
    with raises(ValueError, "format"):
        f"{pynn.ones(2):.3f}"


class Mine(pynn.Tensor):
    """Nothing of its own."""


def test_subclasses_keep_their_class():
    x = Mine([1.0, 2.0], requires_grad=True)
    assert type(x) is Mine
    assert x.requires_grad
    assert x.dtype == np.float32
    twin = copy.deepcopy(x)
    assert type(twin) is Mine
    assert twin.tolist() == [1, 2]
    assert type(pickle.loads(pickle.dumps(Mine(3)))) is Mine
    assert Mine(3).dtype == np.int64


def test_small_things_that_failed():
    x = pynn.ones(2, requires_grad=True)
    x.sum().backward()
    del x.grad
    assert x.grad is None
    y = pynn.exp(x)
    node = y.grad_fn
    assert [row[0] for row in node.saved] == ["y"]
    y.sum().backward()
    assert node.saved == []
    assert node.outs == (None,)
    z = pynn.ones(3)
    with raises(ValueError, r"^assignment to elements of shape \(3,\): "):
        z[0] = [1, 2, 3]
    with raises(IndexError, r"^assignment to elements of shape \(3,\): "):
        z["a"] = 1
    with raises(TypeError, r"^split: argument 'split_size_or_sections': expected an integer or a list, got 1.5$"):
        z.split(1.5)


SIGNALS = """
import faulthandler, signal, threading, time
faulthandler.dump_traceback_later(100, exit=True)  # should it hang, where
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
import numpy as np, pynn
from pynn import _core

main = threading.main_thread().ident
asked, seen = 0, 0  # plain numbers: an interrupt within a lock's methods would leave it taken

def interrupt():
    sent = 0
    while True:
        if asked > sent:
            sent = asked
            time.sleep(0.01)
            signal.pthread_kill(main, signal.SIGINT)
            since = time.monotonic()
            while seen < sent:  # one within the handling of another would end the program
                time.sleep(0.001)
                if time.monotonic() - since > 5:  # one within a destructor is only printed
                    signal.pthread_kill(main, signal.SIGINT)
                    since = time.monotonic()
        time.sleep(0.001)

hits = 0
x = pynn.ones(200, 200, requires_grad=True)
w = x
for _ in range(300):
    w = pynn.tanh(w @ x * 1e-3)
threading.Thread(target=interrupt, daemon=True).start()
while hits < 20:
    try:
        asked = hits + 1
        while True:
            w.sum().backward(retain_graph=True)
            with pynn.no_grad(), pynn.detect_anomaly():
                x @ x
    except KeyboardInterrupt:
        hits += 1
        seen = hits
x.grad = None
w.sum().backward()
print(hits, pynn.is_grad_enabled(), _core.set_anomaly(False), np.isfinite(x.grad.numpy()).all())
"""


def test_interrupts_leave_everything_usable():
    done = subprocess.run([sys.executable, "-c", SIGNALS], capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["20", "True", "False", "True"], done.stderr[-3000:]


def test_threads_that_walk_one_graph_or_feed_one_leaf():
    """Either the whole gradient, or an error that says that the graph is gone; never half of a sum."""
    leaf = pynn.ones(1000, requires_grad=True)
    kept = (leaf * leaf).sum()
    errors = set()

    def feed():
        for _ in range(50):
            (leaf * 2).sum().backward()
            kept.backward(retain_graph=True)

    threads = [threading.Thread(target=feed) for _ in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert set(leaf.grad.tolist()) == {6 * 50 * 4.0}
    for _ in range(30):
        y = pynn.ones(10, requires_grad=True)
        for _ in range(30):
            y = y * 1.5 + 1
        y = y.sum()

        def walk(y=y):
            try:
                y.backward()
            except RuntimeError as e:
                errors.add("was freed" in str(e))

        threads = [threading.Thread(target=walk) for _ in range(3)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
    assert errors <= {True}


def test_deep_things_are_freed_without_recursion():
    x = pynn.ones(2)
    for _ in range(100_000):
        y = pynn.ones(2)
        y.grad, x = x, y
    hooked = pynn.ones(2, requires_grad=True)
    for _ in range(100_000):
        y = pynn.ones(2, requires_grad=True)
        y.register_hook(lambda g, keep=hooked: None)
        hooked = y
    del x, y, hooked
    gc.collect()


def composed():
    """(how it is called, the function, what it needs beside its first argument) of functions written in Python."""
    more = {"chunk": (2,), "split": (1,), "cumsum": (0,), "flip": (0,), "roll": (1,), "gather": (0, [[0], [1]]),
            "take_along_dim": ([[0], [1]], 1), "index_put": ((0,), 1.0), "logsumexp": (0,), "clamp": (0.5,),
            "matmul": ([[1.0], [2.0], [3.0]],), "layer_norm": (3,), "rms_norm": (3,), "prelu": ([0.25],),
            "full_like": (2,)}  # fmt: skip
    functions = {**pynn.ops.FUNCTIONS, **{n: getattr(nn.functional, n) for n in ("layer_norm", "rms_norm", "prelu")}}
    names = "zeros_like ones_like full_like empty_like rand_like randn_like tril triu"
    functions.update({n: getattr(pynn, n) for n in names.split()})
    for name, fn in functions.items():
        if not isinstance(fn, pynn.Op) and name not in ("cat", "stack", "where", "relu"):
            yield pytest.param(name, fn, more.get(name, ()), id=name)


@pytest.mark.parametrize(("name", "fn", "more"), list(composed()))
def test_functions_take_what_ops_take(name, fn, more):
    """Arrays and lists as constants; of anything else a TypeError that names function and argument."""
    a = np.array([[1.0, 2, 3], [4, 5, 6]], np.float32)
    listed = [list(y) if isinstance(y, tuple) else [y] for y in (fn(x, *more) for x in (pynn.tensor(a), a, a.tolist()))]
    for ys in zip(*listed):
        assert len({y.shape for y in ys}) == 1
        if not name.startswith(("empty", "rand")):
            assert len({y.numpy().astype("f4").tobytes() for y in ys}) == 1
    for bad in ("text", object(), None, 1j, {}, {1}, np.array(["text"])):
        with raises(TypeError, rf"^{name}: argument '\w+': expected (a Tensor, an array or a number|real numbers)"):
            fn(bad, *more)


def test_numbers_that_are_none_are_named():
    x = some(1, 2, 3)
    for call, text in (
        (lambda: nn.functional.dropout(x, "half"), r"^dropout: argument 'p': expected a number, got 'half'$"),
        (lambda: nn.Dropout(None), r"^Dropout: argument 'p': expected a number, got None$"),
        (lambda: pynn.norm(x, "fro"), r"^norm: argument 'p': expected a number, got 'fro'$"),
        (lambda: pynn.var(x, correction="n"), r"^var: argument 'correction': expected a number, got 'n'$"),
        (lambda: pynn.chunk(x, "two"), r"^chunk: argument 'chunks': expected a number, got 'two'$"),
        (lambda: pynn.clamp(x, "low"), r"^clamp: argument 'min': expected a number, got 'low'$"),
        (lambda: pynn.arange("end"), r"^arange: argument 'end': expected a number, got 'end'$"),
        (lambda: pynn.uniform(None), r"^uniform: argument 'low': expected a number, got None$"),
        (lambda: pynn.randint("ten", (2,)), r"^randint: argument 'high': expected a number, got 'ten'$"),
        (lambda: nn.functional.hardtanh(x, "low"), r"^hardtanh: argument 'min_val': expected a number, got 'low'$"),
        (lambda: nn.init.constant_(x, "one"), r"^constant_: argument 'val': expected a number, got 'one'$"),
        (lambda: nn.init.uniform_(x, 0, "b"), r"^uniform_: argument 'b': expected a number, got 'b'$"),
        (lambda: nn.init.normal_(x, "m"), r"^normal_: argument 'mean': expected a number, got 'm'$"),
        (lambda: nn.utils.clip_grad_norm_([x], "max"), r"^clip_grad_norm_: argument 'max_norm': expected a number"),
        (lambda: nn.utils.clip_grad_value_([x], "v"), r"^clip_grad_value_: argument 'clip_value': expected a number"),
    ):
        with raises(TypeError, text):
            call()
    assert nn.init.constant_(x, pynn.tensor(2.0)).tolist() == [2, 2, 2]


def test_what_is_no_tensor_is_named():
    for fill in ("constant_", "uniform_", "normal_", "xavier_normal_", "kaiming_uniform_", "ones_", "zeros_", "eye_"):
        with raises(TypeError, rf"^{fill}: argument 'tensor': expected a Tensor, got ndarray$"):
            getattr(nn.init, fill)(np.ones((2, 2)), *([1.0] if fill == "constant_" else []))
    with raises(TypeError, r"^optimizer: 'lr': expected a number, got '0.1'$"):
        pynn.optim.SGD([some(1)], lr="0.1")
    x = pynn.ones(2, requires_grad=True)
    with raises(ValueError, r"^grad: expected another tensor, got the tensor itself$"):
        x.grad = x
    masked = np.ma.masked_array([1.0, 2.0], [False, True])
    for take, what in (
        (pynn.tensor, "tensor: argument 'data'"), (pynn.from_numpy, "from_numpy: argument 'array'"),
        (pynn.exp, "exp: argument 'a'"),
    ):  # fmt: skip
        with raises(TypeError, f"^{what}: expected an array without a mask, got MaskedArray"):
            take(masked)
    with raises(TypeError, r"^params argument given to the optimizer should be an iterable .* but got int$"):
        pynn.optim.SGD(3, lr=0.1)
    for what in (pynn.cat, pynn.stack):
        with raises(TypeError, rf"^{what.__name__}: argument 'tensors': expected several tensors, got int$"):
            what(3)
        with raises(TypeError, rf"^{what.__name__}: argument 'tensors': expected a Tensor, an array or a number"):
            what([some(1), None])
    with raises(TypeError, r"^vjp: argument 'inputs': expected a Tensor, an array or a number, got str$"):
        pynn.vjp(pynn.exp, "x")
    with raises(ValueError, r"^embedding: argument 'weight': expected 2 dimensions, got shape \(\)$"):
        nn.functional.embedding([0], pynn.tensor(1.0))
    with raises(TypeError, r"^Embedding.from_pretrained: argument 'embeddings': expected a Tensor"):
        nn.Embedding.from_pretrained({})
    for shape in ("text", 2.5, (), (-1,), None, {3}):
        with raises(ValueError, r"^LayerNorm: argument 'normalized_shape': expected sizes of at least one dimension"):
            nn.LayerNorm(shape)
