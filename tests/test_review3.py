"""Faults found by a third review: what once crashed, leaked, lied, or raised an error that named nothing."""

import copy
import gc
import pickle
import subprocess
import sys
import threading
import weakref

import numpy as np
import pytest

import pynn
from pynn import OPS, _core, nn


def raises(exception, text):
    return pytest.raises(exception, match=text)


# ---- effects over lists ------------------------------------------------------------------------------


def some(*values, dtype="float32"):
    return pynn.tensor(np.array(values), dtype)


def test_a_column_that_a_parameter_asks_for_must_be_given():
    p, g, lr, t = some(1, 2), some(3, 4), pynn.tensor(0.1), pynn.tensor(0.0)
    for row, name in (((g, p, None, t), "momentum_list"), ((g, p, some(0, 0), None), "step_list")):
        with raises(ValueError, rf"^sgd_step: argument '{name}': expected a Tensor, which momentum asks for, got"):
            OPS.sgd_step(lr, pynn.tensor(1.0), [row], momentum=0.9)
    m, v = some(0, 0), some(0, 0)
    with raises(ValueError, r"^adam_step: argument 'vmax_list': expected a Tensor, which amsgrad asks for, got None$"):
        OPS.adam_step(lr, pynn.tensor(1.0), [(g, p, m, v, None, t)], amsgrad=True)
    with raises(TypeError, r"^adam_step: argument 'step_list': expected a Tensor, got None$"):
        OPS.adam_step(lr, pynn.tensor(1.0), [(g, p, m, v, None, None)])
    assert p.tolist() == [1, 2]
    OPS.sgd_step(lr, pynn.tensor(1.0), [(g, p, None, None)])
    assert p.tolist() != [1, 2]
    with raises(ValueError, r"^bad: needs names neither an argument nor a parameter: no_list$"):
        pynn.op.ListEffect("bad", "", "x_list[...]", kernel="grad_clamp_step", params={"clip_value": float},
                           needs={"no_list": "clip_value"}, register=False)  # fmt: skip


def test_a_bad_row_changes_nothing_in_the_others():
    """Rows of both dtypes are two calls of the kernel; both are checked first."""
    p, q, lr = some(1, 2), some(1, 2, dtype="float64"), pynn.tensor(0.1)
    for bad in (
        (some(1, 2, 3, dtype="float64"), q, None, None), (some(1, 2), q, None, None), (None, q, None, None), (q,),
        [some(1, 2), p, None, None], ("g", q, None, None), (q, None, None, None), (q, pynn.Tensor(), None, None), None,
    ):  # fmt: skip
        with raises((TypeError, ValueError, RuntimeError), r"sgd_step|without values"):
            OPS.sgd_step(lr, pynn.tensor(1.0), [(some(3, 4), p, None, None), bad])
        assert p.tolist() == [1, 2], bad
        assert q.tolist() == [1, 2], bad
    for lrs in ((), (lr, lr, lr), (None, lr), (0.1, lr), (pynn.Tensor(), lr), (lr, some(1, 2))):
        with raises((TypeError, ValueError, RuntimeError), r"sgd_step|without values"):
            OPS.sgd_step(*lrs, [(some(3, 4), p, None, None)])


def test_a_list_of_rows_may_change_during_the_call():
    """The kernel gets the rows that there were at the start."""
    n = 200_000
    rows = [(pynn.ones(n), pynn.zeros(n), None, None) for _ in range(4)]
    lr, kept, stop = pynn.tensor(1.0), list(rows), threading.Event()

    def change():
        while not stop.is_set():
            del rows[1:]
            rows.extend(kept[1:] * 30)
            del rows[4:]

    t = threading.Thread(target=change)
    t.start()
    try:
        for _ in range(30):
            OPS.sgd_step(lr, pynn.tensor(1.0), rows)
    finally:
        stop.set()
        t.join()
    assert kept[0][1].tolist()[0] == -30
    x = pynn.ones(3)
    OPS.grad_clamp_step(((x,) for _ in range(1)), clip_value=0.5)
    assert x.tolist() == [0.5] * 3


# ---- what kernels report -----------------------------------------------------------------------------


def test_a_bad_index_is_told_exactly():
    for n in (2**53 + 1, 2**63 - 1, -(2**63)):
        with raises(IndexError, rf"expected 0 <= value < 3, got {n} at idx\[1, 0\]$"):
            OPS.gather_rows(pynn.ones(3, 2), pynn.tensor([[0, 1], [n, 2]]))
        with raises(IndexError, rf"expected 0 <= value < 3, got {n} at idx\[0, 1\]$"):
            OPS.gather_rows(pynn.ones(3, 2), pynn.tensor([[0, 1], [n, 2]]).T)


# ---- modes of a thread -------------------------------------------------------------------------------


def on_a_thread(fn):
    """fn() on a thread of its own; what it returned or raised."""
    found = []

    def run():
        try:
            found.append(fn())
        except BaseException as e:
            found.append(e)

    t = threading.Thread(target=run)
    t.start()
    t.join()
    return found[0]


def test_anomaly_detection_belongs_to_a_thread():
    def divide():
        return (pynn.ones(2) / 0.0).tolist()

    with pynn.detect_anomaly():
        assert on_a_thread(divide) == [np.inf, np.inf]
        with raises(FloatingPointError, r"^detect_anomaly: div made Inf"):
            divide()

    def inside():
        with pynn.detect_anomaly():
            assert on_a_thread(divide) == [np.inf, np.inf]
            divide()

    assert isinstance(on_a_thread(inside), FloatingPointError)
    assert divide() == [np.inf, np.inf]


def test_one_grad_mode_object_serves_several_threads():
    mode, entered, left = pynn.no_grad(), threading.Event(), threading.Event()

    def other():
        with pynn.no_grad(), mode:
            entered.set()
            left.wait(10)
        return pynn.is_grad_enabled()

    found = []
    t = threading.Thread(target=lambda: found.append(other()))
    t.start()
    entered.wait(10)
    with mode:
        left.set()
        t.join()
    assert pynn.is_grad_enabled()
    assert found == [True]
    with mode, mode:
        assert not pynn.is_grad_enabled()
    assert pynn.is_grad_enabled()


def test_no_grad_of_a_generator_holds_while_it_runs():
    seen = []

    @pynn.no_grad()
    def steps(n):
        try:
            for k in range(n):
                seen.append(pynn.is_grad_enabled())
                try:
                    got = yield k
                except KeyError as e:
                    got = e
                seen.append(got)
        finally:
            seen.append(pynn.is_grad_enabled())
        return "end"

    g = steps(3)
    assert next(g) == 0
    assert pynn.is_grad_enabled()
    assert g.send("a") == 1
    assert g.throw(KeyError("b")) == 2
    with raises(StopIteration, "end"):
        next(g)
    assert seen[:2] == [False, "a"]
    assert [type(s) for s in seen] == [bool, str, bool, KeyError, bool, type(None), bool]
    assert not any(s for s in seen if isinstance(s, bool))
    g = steps(3)
    next(g)
    g.close()
    assert seen[-1] is False
    assert pynn.is_grad_enabled()


def test_nn_utils_is_an_attribute():
    done = subprocess.run([sys.executable, "-c", "import pynn; print(pynn.nn.utils.clip_grad_norm_.__name__)"],
                          capture_output=True, text=True)  # fmt: skip
    assert done.stdout.strip() == "clip_grad_norm_", done.stderr


# ---- memory and half-made objects --------------------------------------------------------------------


class Owner(np.ndarray):
    """An array that may hold the tensor on its memory."""


def test_an_array_that_holds_its_own_tensor_is_collected():
    gc.collect()
    ends, alive = [], []
    for _ in range(3):
        a = np.ones(1000).view(Owner)
        a.tensor = pynn.from_numpy(a)
        weakref.finalize(a, ends.append, 1)
        alive.append(weakref.ref(a.tensor))
    del a
    gc.collect()
    assert ends == [1, 1, 1]
    assert [r() for r in alive] == [None] * 3
    b = np.ones(3).view(Owner)
    b.tensor = pynn.from_numpy(b)
    keep = b.tensor
    del b
    gc.collect()
    assert keep.sum().item() == 3
    assert keep.storage_.owner.tensor is keep


def test_arrays_of_tensors_share_their_storage():
    """What is written through one is noticed by the others; chains of views stay short."""
    x = pynn.ones(4)
    y = pynn.from_numpy(x.numpy()[::-2])
    assert y.storage_ is x.storage_
    w = pynn.ones(4, requires_grad=True)
    z = (w * x).sum()
    y.fill_(2)
    assert x.tolist() == [1, 2, 1, 2]
    with raises(RuntimeError, "was changed in place"):
        z.backward()
    frozen = pynn.from_numpy(w.numpy())
    assert frozen.storage_ is not w.storage_
    with raises(ValueError, "read-only"):
        frozen.fill_(0)
    for _ in range(200_000):
        frozen = pynn.from_numpy(frozen.numpy())
    assert frozen.storage_.owner is w.storage_
    del w, z
    assert frozen.tolist() == [1] * 4
    a = np.arange(6.0)
    back = pynn.from_numpy(a[::-1])  # overlaps are found whatever the direction
    pynn.from_numpy(a[1:]).copy_(back[:5])
    assert a.tolist() == [0, 5, 4, 3, 2, 1]


HALF_MADE = """
import gc, pynn
from pynn import _core, OPS

x = pynn.ones(3, requires_grad=True)
kinds = [c for c in vars(_core).values() if isinstance(c, type) and c.__module__.startswith("pynn")]
kinds += [pynn.Tensor, pynn.Op, pynn.Effect, pynn.op.ListEffect, pynn.op._DerivedBwd, pynn.nn.Parameter]
calls = [(), (None,), (x,), (1,), (None, None), (x, x), ([],), ((),), (None, None, None)]

def poke(f, *args):
    try:
        return f(*args)
    except Exception as e:
        return e

for kind in kinds:
    make = lambda: kind.__new__(kind)
    if isinstance(poke(make), Exception):
        continue
    for f in (repr, str, hash, bool, len, iter, float, int, gc.get_referents):
        poke(f, make())
    for name in dir(kind):
        for value in (None, 1, x, "a", [], ()):
            poke(setattr, make(), name, value) if name[:2] != "__" else None
        one = make()
        if callable(poke(getattr, one, name)):
            for args in calls:
                poke(getattr(make(), name), *args)
    if issubclass(kind, _core.OpBase):
        for args in calls:
            poke(make(), *args)
            poke(_core.run_list, make(), (), [args], {})
poke(_core.run_list, OPS.add, (x, x), [()], {})
poke(_core.OpBase.__call__, OPS.sgd_step, x, x, x, None, None)
for name in "read_view output_index retain_grad zeros_as has_form share_array empty run_backward".split():
    for args in calls + [([None], None, [None], 0, 0, 0, ""), ([x], [x], [x], 1, 1, 1, ""), (10**6, "f4")]:
        poke(getattr(_core, name), *args)
print("alive", len(kinds))
"""


def test_objects_that_were_never_set_up_raise():
    done = subprocess.run([sys.executable, "-X", "faulthandler", "-c", HALF_MADE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout.split()[1]) > 10
    node = type((pynn.ones(1, requires_grad=True) * 2).grad_fn)
    assert "no call made" in repr(node.__new__(node))
    assert "no call made" in node.__new__(node).name
    with raises(TypeError, "neither a kernel nor a formula"):
        pynn.Op.__new__(pynn.Op)()


def test_what_belongs_to_the_engine_is_not_pickled():
    y = pynn.ones(2, requires_grad=True) * 2
    for thing in (y.grad_fn, y.storage_, OPS.add):
        for copy_of in (pickle.dumps, copy.copy, copy.deepcopy):
            with raises(TypeError, "cannot pickle|no default __reduce__"):
                copy_of(thing)


def test_dtypes_that_are_none():
    for bad in ("c8", [], {}, object(), "no", 3, None):
        with raises(TypeError, r"^dtype: expected one of float32, float64, int64, int32, uint8, bool, got"):
            _core.empty((2,), bad)


# ---- what backward computes --------------------------------------------------------------------------


def test_second_order_computes_no_gradient_that_nobody_wants():
    """bwd_formula is told what the first order wanted, less what no gradient comes in for."""
    seen = []

    def back(g, a, b, need):
        seen.append(need)
        return g * b if need[0] else None, g * a if need[1] else None

    def backward(outs, ins, _need=-1):
        for out, other in zip(outs, (ins[2], ins[1])):
            if out is not None:
                np.multiply(ins[0], other, out=out)

    op = pynn.Op("product_of_two", "a[...] b[...]", "y[...]", kernel=lambda o, i: np.multiply(*i, out=o[0]),
                 bwd=backward, bwd_formula=back, saves="a b", register=False)  # fmt: skip
    a, b = pynn.tensor([2.0, 3.0], requires_grad=True), pynn.tensor([5.0, 7.0], requires_grad=True)
    (g,) = pynn.grad(op(a, b).sum(), [a], create_graph=True)
    assert pynn.grad(g.sum(), [b])[0].tolist() == [1, 1]
    assert seen == [(True, False)]
    ga, gb = pynn.grad(op(a, b).sum(), [a, b], create_graph=True)
    assert pynn.grad(gb.sum(), [a], retain_graph=True)[0].tolist() == [1, 1]
    assert seen[1:] == [(False, True)]
    assert pynn.grad((ga + gb).sum(), [a, b])[0].tolist() == [1, 1]
    assert seen[2:] == [(True, True)]


def test_a_gradient_penalty_makes_only_the_products_it_needs():
    """d/dW of Σ dy/dx through two layers takes 4 products and no gradient of a weight or bias of the first
    order; allocations count results."""
    model, x = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3)), pynn.randn(6, 4, requires_grad=True)
    (g,) = pynn.grad(model(x).sum(), [x], create_graph=True)
    total = g.sum()
    before = _core.alloc_stats()["n_alloc"]
    gs = pynn.grad(total, [model[0].weight, model[1].weight])
    assert _core.alloc_stats()["n_alloc"] - before <= 7  # 11 with all of them
    want = np.ones((6, 4)), np.ones((6, 3))
    w0, w1 = (m.weight.numpy_copy() for m in model)
    np.testing.assert_allclose(gs[0].numpy(), (want[1] @ w1).T @ want[0], rtol=1e-5)
    np.testing.assert_allclose(gs[1].numpy(), want[1].T @ (want[0] @ w0.T), rtol=1e-5)


def test_mixed_dtypes_blame_the_input_rather_than_the_parameters():
    x, w, b = pynn.ones(2, 3), pynn.ones(4, 3), pynn.ones(4)
    for args, name, want, other, got in (
        ((x.double(), w, b), "x", "float32", "b", "float64"),
        ((x.double(), w, None), "x", "float32", "W", "float64"),
        ((x, w.double(), None), "x", "float64", "W", "float32"),
        ((x, w.double(), b), "W", "float32", "b", "float64"),
        ((x, w, b.double()), "b", "float32", "W", "float64"),
        ((x.long(), w, b), "x", "float32", "b", "int64"),
        ((x.long(), w, None), "x", "float32", "W", "int64"),
        ((x, w.long(), None), "W", "float32", "x", "int64"),
    ):
        with raises(TypeError, rf"^linear: argument '{name}': expected dtype {want} as '{other}' has, got {got}$"):
            OPS.linear(*args)


# ---- what a call costs -------------------------------------------------------------------------------


def test_a_gather_is_charged_for_the_rows_that_it_reads():
    x, idx = pynn.ones(100_000, 8), pynn.tensor([3, 1, 4])
    y = OPS.gather_rows(x, idx)
    assert _core.bytes_of(OPS.gather_rows, (x, idx), (y,), {}) == 2 * 3 * 8 * 4 + 3 * 8
    at = pynn.zeros(100, 2, 8, dtype="int64")
    x = x.reshape(100, 1000, 8)
    y = OPS.gather_along(x, at)
    assert _core.bytes_of(OPS.gather_along, (x, at), (y,), {}) == 2 * y.size * 4 + at.size * 8
    assert _core.bytes_of(OPS.add, (y, y), (y,), {}) == 3 * y.size * 4
    g = pynn.ones(3, 8)
    y = OPS.scatter_add(g, idx, rows=50)
    assert _core.bytes_of(OPS.scatter_add, (g, idx), (y,), {"rows": 50}) == (3 + 50) * 8 * 4 + 3 * 8
    with raises(TypeError, r"^bytes_of: expected the 2 arguments and 1 results of gather_rows, got 1 and 0$"):
        _core.bytes_of(OPS.gather_rows, (x,), (), {})
