"""The graph and its walk: several uses, orders, hooks, modes, what is saved and freed, and what must raise."""

import gc
import math
import threading

import numpy as np
import pytest

import pynn
from pynn import OPS, Tensor, _core, backward, detect_anomaly, enable_grad, grad, no_grad
from pynn.nn import functional as F


def leaf(value, dtype=np.float64):
    return Tensor(np.array(value, dtype=dtype), requires_grad=True)


# ---- accumulation and order ------------------------------------------------------------------------


def test_several_uses_add_up():
    """F-AD-1: v3 feeds v5 and v6; df/dv3 = 18 + 20 = 38 (S1 §2.10)."""
    x = leaf(3.0)
    v3 = x * x
    v5, v6 = 2 * v3, v3 + 1
    f = v5 * v6
    assert (v3.item(), v5.item(), v6.item(), f.item()) == (9, 18, 10, 180)
    d5, d6, d3, dx = grad(f, [v5, v6, v3, x])
    assert (d5.item(), d6.item(), d3.item(), dx.item()) == (10, 18, 38, 38 * 6)


def test_each_node_is_walked_once():
    """A chain of n squares of sums has 2ⁿ paths and n nodes."""
    x = leaf(1.0)
    y = x
    for _ in range(60):
        y = (y + y) * 0.5
    (g,) = grad(y, [x])
    assert g.item() == 1.0


def test_gradients_of_intermediate_and_repeated_inputs():
    x = leaf([1.0, 2.0])
    h = x * 3
    y = (h * h).sum()
    gh, gx, again, gy = grad(y, [h, x, h, y])
    np.testing.assert_array_equal(gh.numpy(), [6, 12])
    np.testing.assert_array_equal(gx.numpy(), [18, 36])
    np.testing.assert_array_equal(again.numpy(), gh.numpy())
    assert gy.item() == 1


def test_several_outputs_and_a_leaf_as_output():
    x = leaf([1.0, 2.0])
    seed = Tensor(np.array([10.0, 20.0]))
    (g,) = grad([x * 2, x], [x], [seed, seed])
    np.testing.assert_array_equal(g.numpy(), [30, 60])
    backward([x * x, x], [seed, seed])
    np.testing.assert_array_equal(x.grad.numpy(), [2 * 1 * 10 + 10, 2 * 2 * 20 + 20])


def test_unused_inputs():
    x, z = leaf(1.0), leaf(2.0)
    y = x * 2
    with pytest.raises(
        RuntimeError, match=r"^grad: input 1 was not used to compute the outputs; pass allow_unused=True"
    ):
        grad(y, [x, z], retain_graph=True)
    gx, gz = grad(y, [x, z], allow_unused=True)
    assert gx.item() == 2
    assert gz is None
    with pytest.raises(RuntimeError, match=r"^grad: input 0 of shape \(\) does not require grad$"):
        grad(x * 2, [Tensor(1.0)])
    with pytest.raises(TypeError, match=r"^grad: argument 'inputs': expected Tensors, got float at 1$"):
        grad(x * 2, [x, 1.0])


# ---- leaves' gradients -------------------------------------------------------------------------------


def test_gradients_accumulate_into_one_buffer():
    x = leaf([1.0, 2.0])
    (x * 3).sum().backward()
    first = x.grad
    (x * x).sum().backward()
    assert x.grad is first
    np.testing.assert_array_equal(x.grad.numpy(), [5, 7])


def test_gradients_own_their_memory():
    """Neither the seed nor another leaf's gradient changes when a gradient accumulates."""
    a, b = leaf([1.0, 2.0]), leaf([3.0, 4.0])
    seed = Tensor(np.array([1.0, 1.0]))
    for _ in range(2):
        (a + b).backward(seed)
        a.backward(seed)
        a.reshape(2, 1).backward(seed.reshape(2, 1))
    np.testing.assert_array_equal(seed.numpy(), [1, 1])
    np.testing.assert_array_equal(a.grad.numpy(), [6, 6])
    np.testing.assert_array_equal(b.grad.numpy(), [2, 2])
    assert a.grad.storage_ is not b.grad.storage_


def test_gradient_has_the_shape_dtype_and_strides_of_its_leaf():
    """F-AD-10 (S1 §3.12)."""
    base = np.arange(12, dtype=np.float32).reshape(3, 4)
    x = pynn.from_numpy(base.T)
    x.requires_grad = True
    y = x * Tensor(np.ones((2, 4, 3)))
    assert y.dtype == np.float64
    y.sum().backward()
    assert (x.grad.shape, x.grad.dtype, x.grad.strides) == ((4, 3), np.float32, x.strides)
    np.testing.assert_array_equal(x.grad.numpy(), np.full((4, 3), 2))


def test_grad_can_be_set_cleared_and_is_checked():
    x = leaf([1.0, 2.0])
    x.grad = Tensor(np.array([5.0, 5.0]))
    x.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), [6, 6])
    x.grad = None
    assert x.grad is None
    with pytest.raises(ValueError, match=r"^grad: expected shape \(2,\) and dtype float64, got \(3,\) and float64$"):
        x.grad = Tensor(np.zeros(3))
    with pytest.raises(TypeError, match=r"^grad: expected a Tensor or None, got ndarray$"):
        x.grad = np.zeros(2)


def test_kinks():
    """F-AD-11: the subgradients of |x| and ReLU at 0 are 0; ties of max and min share evenly (S1 §5.1)."""
    x = leaf([-2.0, 0.0, 3.0])
    (g,) = grad(abs(x).sum(), [x])
    np.testing.assert_array_equal(g.numpy(), [-1, 0, 1])
    (g,) = grad(F.relu(x).sum(), [x])
    np.testing.assert_array_equal(g.numpy(), [0, 0, 1])
    for f, want in ((OPS.maximum, [0, 0.5, 1]), (OPS.minimum, [1, 0.5, 0])):
        (g,) = grad(f(x, 0.0).sum(), [x])
        np.testing.assert_array_equal(g.numpy(), want)
    x = leaf([1.0, 5.0, 5.0])
    (g,) = grad(x.amax(), [x])
    np.testing.assert_array_equal(g.numpy(), [0, 0.5, 0.5])


@pytest.mark.parametrize("name", ["sign", "floor", "ceil", "round"])
def test_levels_have_the_derivative_0(name):
    """As PyTorch's: zeros, which reach leaves, by backward, grad and twice, and in a plan again and again."""
    f = getattr(OPS, name)
    x = leaf([-1.5, 0.25, 3.75])
    (g,) = grad(f(x).sum(), [x], create_graph=True)
    np.testing.assert_array_equal(g.numpy(), [0, 0, 0])
    (g,) = grad((x * f(x)).sum(), [x])
    np.testing.assert_array_equal(g.numpy(), f(x).detach().numpy())
    f(x).sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), [0, 0, 0])

    @pynn.compile
    def step(x, w):
        (f(x * w)).sum().backward()
        (w * 2.0).sum().backward()

    w = leaf([1.0, 2.0, 3.0])
    for k in range(1, 4):
        step(x.detach(), w)
        np.testing.assert_array_equal(w.grad.numpy(), [2.0 * k] * 3)


# ---- hooks -------------------------------------------------------------------------------------------


def test_hooks_see_and_replace_gradients():
    x = leaf([1.0, 2.0])
    h = x * 2
    seen = []
    remove = h.register_hook(lambda g: seen.append(g.numpy().copy()))
    h.register_hook(lambda g: g * 10)
    x.register_hook(lambda g: g + 1)
    (h * h).sum().backward(retain_graph=True)
    np.testing.assert_array_equal(seen[0], [4, 8])
    np.testing.assert_array_equal(x.grad.numpy(), [4 * 10 * 2 + 1, 8 * 10 * 2 + 1])
    remove()
    (h * h).sum().backward()
    assert len(seen) == 1
    with pytest.raises(RuntimeError, match=r"^register_hook: the tensor does not require grad$"):
        Tensor(1.0).register_hook(print)


def test_hook_sees_the_sum_of_all_uses():
    x = leaf(3.0)
    h = x * 1
    seen = []
    h.register_hook(lambda g: seen.append(g.item()))
    (h * 2 + h * 5).backward()
    assert seen == [7]


def test_retain_grad():
    x = leaf([1.0, 2.0])
    h = x * 2
    h.retain_grad()
    (h * h).sum().backward()
    np.testing.assert_array_equal(h.grad.numpy(), [4, 8])
    x.retain_grad()  # a leaf's is kept anyway


def test_hooks_must_return_gradients():
    x = leaf([1.0, 2.0])
    for hook, exception, text in (
        (lambda g: 1.0, TypeError, r"^hook: expected a Tensor or None as its result, got float$"),
        (
            lambda g: g.sum(),
            ValueError,
            r"^hook: expected a gradient of shape \(2,\) and dtype float64, got \(\) and float64$",
        ),
        (lambda g: g.float(), ValueError, r"and dtype float64, got \(2,\) and float32$"),
    ):
        for t in (x, x * 2):
            remove = t.register_hook(hook)
            with pytest.raises(exception, match=text):
                (t * 1).sum().backward()
            remove()
    with pytest.raises(TypeError, match=r"^backward: expected Tensors to differentiate, got ndarray at 1$"):
        backward([x.sum(), np.ones(3)])


def test_a_failing_hook_leaves_the_engine_in_order():
    x = leaf(1.0)
    h = x * 2

    def fail(g):
        raise KeyError("from the hook")

    remove = h.register_hook(fail)
    y = h * h
    with pytest.raises(KeyError, match="from the hook"):
        y.backward(retain_graph=True)
    assert pynn.is_grad_enabled()
    remove()
    y.backward()
    assert x.grad.item() == 8


# ---- what must raise -----------------------------------------------------------------------------------


def test_backward_twice():
    x = leaf(2.0)
    y = x * x
    y.backward()
    with pytest.raises(
        RuntimeError,
        match=r"^backward: the graph of 'mul' was freed by an earlier backward; call that one with retain_graph=True",
    ):
        y.backward()
    assert x.grad.item() == 4
    y = x * x
    y.backward(retain_graph=True)
    y.backward()
    assert x.grad.item() == 12


CHANGES = {
    "copy_": lambda t: t.copy_(Tensor(np.zeros(2))),
    "zero_": lambda t: t.zero_(),
    "fill_": lambda t: t.fill_(3),
    "setitem": lambda t: t.__setitem__(0, 1.0),
    "view": lambda t: t.detach().reshape(2, 1).zero_(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_saved_input(change):
    x, w = leaf([1.0, 2.0]), leaf([3.0, 4.0])
    y = (x * w).sum()
    with no_grad():
        CHANGES[change](w)
    with pytest.raises(
        RuntimeError, match=r"^backward: 'b' of shape \(2,\), saved for the derivative of 'mul', was changed in place"
    ):
        y.backward()


def test_changed_through_writable():
    x, w = leaf([1.0, 2.0]), leaf([3.0, 4.0])
    y = (x * w).sum()
    with no_grad(), w.writable() as a:
        a[0] = 0
    with pytest.raises(RuntimeError, match=r"saved for the derivative of 'mul', was changed in place"):
        y.backward()


def test_changed_saved_output():
    x = leaf([1.0, 2.0])
    y = OPS.exp(x)
    y.detach().zero_()
    with pytest.raises(
        RuntimeError, match=r"'y' of shape \(2,\), saved for the derivative of 'exp', was changed in place"
    ):
        y.sum().backward()


def test_changing_what_is_not_saved_is_allowed():
    x, w = leaf([1.0, 2.0]), leaf([3.0, 4.0])
    y = (x + w).sum()
    with no_grad():
        w.zero_()
    y.backward()
    np.testing.assert_array_equal(w.grad.numpy(), [1, 1])


def test_values_with_history_do_not_change():
    x = leaf([1.0, 2.0])
    y = x * 2
    for change in (lambda: y.zero_(), lambda: y.copy_(x), lambda: OPS.accumulate_(x, y)):
        with pytest.raises(RuntimeError, match=r"a tensor with history cannot be changed in place.*pynn\.where"):
            change()
    with pytest.raises(RuntimeError, match=r"cannot be assigned to in place.*pynn\.where.*pynn\.index_put"):
        y[0] = 1.0
    with pytest.raises(
        RuntimeError, match=r"a leaf that requires grad can be changed in place only under pynn\.no_grad"
    ):
        x.zero_()
    z = y
    z += 1  # rebinds
    np.testing.assert_array_equal(y.detach().numpy(), [2, 4])


def test_seeds():
    x = leaf([1.0, 2.0])
    y = x * 2
    with pytest.raises(
        RuntimeError,
        match=r"^backward: the gradient of a non-scalar needs a seed: expected one of shape \(2,\), got none$",
    ):
        y.backward()
    with pytest.raises(ValueError, match=r"^backward: expected a gradient of shape \(2,\), got \(3,\)$"):
        y.backward(Tensor(np.ones(3)))
    with pytest.raises(ValueError, match=r"^grad: expected 1 gradients, one for each output, got 2$"):
        grad(y, [x], [Tensor(1.0), Tensor(1.0)])
    with pytest.raises(RuntimeError, match=r"^backward: the output of shape \(\) has no history"):
        Tensor(1.0).backward()
    y.backward(np.array([1.0, 10.0]))
    np.testing.assert_array_equal(x.grad.numpy(), [2, 20])
    one = leaf([[4.0]])
    (one * one).backward()  # one element is a scalar whatever its dimensions
    np.testing.assert_array_equal(one.grad.numpy(), [[8]])


def test_requires_grad_rules():
    with pytest.raises(TypeError, match=r"^requires_grad: expected a floating dtype, got int64$"):
        Tensor(np.arange(3), requires_grad=True)
    y = leaf(1.0) * 2
    y.requires_grad = True
    with pytest.raises(RuntimeError, match=r"^requires_grad: only a leaf's can be cleared; use x\.detach\(\)"):
        y.requires_grad = False
    assert not y.detach().requires_grad
    assert not OPS.gt(y, 1.0).requires_grad


# ---- modes ---------------------------------------------------------------------------------------------


def test_no_grad_and_enable_grad_nest():
    x = leaf(1.0)
    with no_grad():
        assert not (x * 2).requires_grad
        with enable_grad():
            assert (x * 2).requires_grad
            with no_grad():
                assert not (x * 2).requires_grad
            assert (x * 2).requires_grad
        assert not (x * 2).requires_grad
        assert not x[:1].requires_grad if x.ndim else not x.reshape(1).requires_grad
    assert (x * 2).requires_grad

    @no_grad()
    def inside():
        return x * 2

    assert not inside().requires_grad
    with pytest.raises(KeyError), no_grad():
        raise KeyError
    assert pynn.is_grad_enabled()


def test_grad_mode_belongs_to_its_thread():
    x = leaf(1.0)
    seen = []
    with no_grad():
        t = threading.Thread(target=lambda: seen.append((x * 2).requires_grad))
        t.start()
        t.join()
    assert seen == [True]


def test_inference_saves_nothing():
    """F-AD-8: under no_grad the intermediate values are freed as they are passed (S1 §2.9, §2.12)."""
    x = leaf(np.ones(100_000, np.float32), np.float32)
    before = _core.alloc_stats()["live"]

    def run():
        y = x
        for _ in range(10):
            y = OPS.tanh(y)
        return y

    y = run()
    trained = _core.alloc_stats()["live"] - before
    assert y.requires_grad
    del y
    with no_grad():
        y = run()
    inferred = _core.alloc_stats()["live"] - before
    assert not y.requires_grad
    assert trained == 10 * x.size * 4
    assert inferred == y.size * 4


def test_report_of_what_was_saved():
    """Table 2.8 of S1 §2.9: what each op keeps for backward."""
    x, w = leaf([1.0, 2.0]), leaf([3.0, 4.0])
    assert (x * w).grad_fn.saved == [("a", (2,), np.float64, 16), ("b", (2,), np.float64, 16)]
    assert OPS.tanh(x).grad_fn.saved == [("y", (2,), np.float64, 16)]
    assert (x + w).grad_fn.saved == []


def test_detect_anomaly_names_the_op():
    x = leaf([-1.0, 4.0])
    with detect_anomaly():
        with pytest.raises(FloatingPointError, match=r"^detect_anomaly: log made NaN in its output of shape \(2,\)$"):
            OPS.log(x)
        with pytest.raises(FloatingPointError, match=r"^detect_anomaly: div made Inf"):
            x / 0.0
    z = leaf([0.0, 1.0])
    y = OPS.sqrt(z).sum()
    with detect_anomaly(), pytest.raises(FloatingPointError, match=r"made Inf.*in the backward of 'sqrt'$"):
        y.backward()
    OPS.log(x)  # nothing is checked outside


# ---- the graph as an object --------------------------------------------------------------------------------


def test_walk_by_hand():
    """F-AD-3: grad_fn and next_functions lead from the loss to the leaves (S1 §6.12)."""
    x, w, b = Tensor(np.ones((2, 3))), leaf(np.ones((3, 1))), leaf([0.5])
    loss = ((x @ w + b) * 2.0).sum()
    names, leaves, stack = [], [], [loss.grad_fn]
    while stack:
        node = stack.pop()
        names.append(node.name)
        for below, k in node.next_functions:
            if isinstance(below, Tensor):
                leaves.append(below)
            elif below is not None:
                assert k == 0
                stack.append(below)
    assert names[-4:] == ["sum_to", "mul", "add", "matmul"]  # before them, the reshape of the sum
    assert {id(t) for t in leaves} == {id(w), id(b)}
    assert repr(loss.grad_fn).endswith("node>")
    assert "grad_fn=" in repr(loss)


LONG = 1_000_000


def test_a_million_nodes():
    """Built, differentiated and freed without recursion, on a thread with a small stack."""
    result = []

    def run():
        x = leaf(1.0)
        y = x
        for _ in range(LONG):
            y = -y
        y.backward()
        result.append(x.grad.item())
        y = x
        for _ in range(LONG):
            y = y * x  # keeps its inputs whole
        del y  # freed without a walk
        result.append("freed")

    gc.collect()
    gc.disable()  # a million live nodes are slow to look through, and nothing here waits for it
    live = _core.alloc_stats()["live"]
    size = threading.stack_size(256 * 1024)
    try:
        t = threading.Thread(target=run)
        t.start()
    finally:
        threading.stack_size(size)
    t.join()
    gc.enable()
    assert result == [1.0, "freed"]
    assert _core.alloc_stats()["live"] <= live


def test_memory_goes_without_the_collector():
    """No cycle holds memory: with gc off, live bytes return to the baseline after each step."""
    gc.collect()
    gc.disable()
    try:
        w = leaf(np.ones((64, 64), np.float32), np.float32)
        x = Tensor(np.ones((8, 64), np.float32))
        baseline = None
        for _ in range(5):
            h = OPS.tanh(x @ w)
            h.register_hook(lambda g: None)
            loss = (h * OPS.exp(h)).mean()
            (g,) = grad(loss, [w], create_graph=True)
            ((g * g).sum() + loss).backward()
            w.grad = None
            del h, loss, g
            live = _core.alloc_stats()["live"]
            baseline = live if baseline is None else baseline
            assert live == baseline
        y = OPS.exp(w)  # dropped without a walk
        z = OPS.exp(y) * y
        z.retain_grad()
        del y, z
        assert _core.alloc_stats()["live"] == baseline
    finally:
        gc.enable()


def test_graph_is_freed_as_it_is_walked():
    """Backward lets go of what a node saved as soon as it has passed it."""
    x = leaf(np.ones(100_000, np.float32), np.float32)
    y = x
    for _ in range(20):
        y = OPS.tanh(y)
    _core.reset_peak()
    before = _core.alloc_stats()["live"]
    y.sum().backward()
    assert _core.alloc_stats()["peak_live"] - before <= 5 * x.size * 4


def test_scalars_and_mixed_dtypes_get_their_gradients():
    a, b = leaf(2.0, np.float32), leaf([1.0, 2.0, 3.0], np.float64)
    (a * b).sum().backward()
    assert a.grad.dtype == np.float32
    assert a.grad.item() == 6
    np.testing.assert_array_equal(b.grad.numpy(), [2, 2, 2])
    assert math.isclose(float((a * 0.1).item()), float(np.float32(2) * np.float32(0.1)))
