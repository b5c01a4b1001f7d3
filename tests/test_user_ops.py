"""A user's own op, with kernels in Python, works and gets the checks of pynn.testing; wrong ones fail them."""

import numpy as np
import pytest

import pynn
from pynn import OPS, Op, Tensor, grad, testing


def forward(outs, ins, scale):
    (y,), (x, w) = outs, ins
    y[...] = scale * np.sin(x) * w


def backward(outs, ins, scale, _need=-1):
    dx, dw = outs
    dy, x, w = ins
    if dx is not None:
        dx[...] = dy * scale * np.cos(x) * w
    if dw is not None:
        dw[...] = dy * scale * np.sin(x)


def formula(x, w, scale):
    return scale * OPS.sin(x) * w


def make(**changes):
    entry = {
        "kernel": forward, "bwd": backward, "formula": formula, "params": {"scale": 2.0},
        "reference": lambda x, w, scale: scale * np.sin(x) * w, "doc": "y = s·sin(x)·w",
        "errors": [((np.ones((2, 3)), np.ones((4, 5))), {}, ValueError, r"scaled_sine: argument 'w': expected shape")],
    }  # fmt: skip
    return Op("scaled_sine", "x[...] w[...]", "y[...]", register=False, **{**entry, **changes})


def test_own_op_passes_every_check():
    testing.check_op(make())


def test_own_op_is_an_op():
    op = make()
    x, w = Tensor(np.array([0.1, 0.2]), requires_grad=True), Tensor(np.array([3.0, 4.0]), requires_grad=True)
    y = op(x, w, scale=5.0)
    np.testing.assert_allclose(y.detach().numpy(), 5 * np.sin([0.1, 0.2]) * [3, 4], rtol=1e-15)
    (g,) = grad(y.sum(), [x], create_graph=True)
    (h,) = grad(g.sum(), [x])
    np.testing.assert_allclose(h.numpy(), -5 * np.sin([0.1, 0.2]) * [3, 4], rtol=1e-13)
    assert "scaled_sine" not in OPS
    assert y.grad_fn.name == "scaled_sine"


def test_own_op_without_backward_is_differentiated_by_its_formula():
    testing.check_op(make(bwd=None))


def test_own_op_with_a_vjp():
    def rule(node, g):
        x, w = node.ins
        s = node.params["scale"]
        return g * (s * OPS.cos(x) * w), g * (s * OPS.sin(x))

    testing.check_op(make(bwd=None, formula=None, vjp=rule, saves="x w"))


def wrong_sign(outs, ins, scale, _need=-1):
    backward(outs, ins, scale)
    if outs[0] is not None:
        outs[0] *= -1


def slightly_wrong(outs, ins, scale, _need=-1):
    backward(outs, ins, scale)
    if outs[1] is not None and outs[1].size:
        outs[1].flat[-1] *= 1.001


def forgets_nan(outs, ins, scale):
    forward(outs, ins, scale)
    outs[0][...] = np.nan_to_num(outs[0])


calls = iter(range(10**9))


def not_deterministic(outs, ins, scale):
    forward(outs, ins, scale)
    outs[0][...] += 1e-15 * next(calls)


FAULTS = {
    "backward of the wrong sign": ({"bwd": wrong_sign}, "against formula's|gradcheck of scaled_sine, order 1, x"),
    "one wrong element": ({"bwd": slightly_wrong}, "against formula's|gradcheck of scaled_sine, order 1, w"),
    "wrong formula": ({"formula": lambda x, w, scale: scale * OPS.cos(x) * w}, "kernel against formula"),
    "wrong reference": ({"reference": lambda x, w: x * w}, "value against reference"),
    "kernel that forgets NaN": ({"kernel": forgets_nan}, "places of NaN|against"),
    "kernel that differs from call to call": ({"kernel": not_deterministic}, "threads against 1|twice|against"),
    "errors that are not raised": ({"errors": [((1.0, 2.0), {}, ValueError, "")]}, "expected ValueError.*went through"),
    "errors with another text": (
        {"errors": [((np.ones((2, 3)), np.ones((4, 5))), {}, ValueError, "no such text")]},
        "expected an error that matches"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_op_fails(fault):
    changes, text = FAULTS[fault]
    with pytest.raises(AssertionError, match=rf"scaled_sine.*({text})"):
        testing.check_op(make(**changes))


def test_a_kernel_cannot_change_its_input():
    def kernel(outs, ins):
        ins[0][...] = 0

    op = Op("careless", "x[...]", "y[...]", kernel=kernel, vjp=lambda n, g: g, register=False)
    with pytest.raises(ValueError, match="read-only"):
        op(Tensor(np.ones(3)))


RULES = {
    "too few": (lambda n, g: (g,), ValueError, r"^odd: expected 2 gradients from its vjp, one for each input, got 1$"),
    "too many": (lambda n, g: (g, g, g), ValueError, r"^odd: expected 2 gradients from its vjp.*got 3$"),
    "no tensor": (lambda n, g: (g, 1.0), TypeError,
                  r"^odd: expected a Tensor or None from its vjp for 'w', got float$"),
    "array": (lambda n, g: (g.numpy(), g), TypeError, r"^odd: expected a Tensor .* for 'x', got ndarray$"),
    "wrong shape": (lambda n, g: (g, g.reshape(3, 1)), ValueError,
                    r"expected a shape that broadcasts to \(3, 1\), got \(3,\)"),
}  # fmt: skip


@pytest.mark.parametrize("rule", RULES)
def test_a_wrong_vjp_raises(rule):
    vjp, exception, text = RULES[rule]
    op = Op("odd", "x[...] w[...]", "y[...]", kernel=lambda o, i: np.copyto(o[0], i[0]), vjp=vjp, register=False)
    x, w = Tensor(np.ones(3), requires_grad=True), Tensor(np.ones(3), requires_grad=True)
    with pytest.raises(exception, match=text):
        op(x, w).sum().backward()


FORMULAS = {
    "no tensor": (lambda x: 1.0, TypeError, r"^odd: expected Tensors from its formula, got float$"),
    "two values": (lambda x: (x, x), ValueError, r"^odd: expected 1 values from its formula, got 2$"),
    "wrong shape": (lambda x: x.sum(), ValueError, r"^odd: expected shape \(3,\) from its formula for 'y', got \(\)$"),
}


@pytest.mark.parametrize("case", FORMULAS)
def test_a_wrong_formula_raises(case):
    formula, exception, text = FORMULAS[case]
    op = Op("odd", "x[...]", "y[...]", kernel=lambda o, i: np.copyto(o[0], i[0]), formula=formula, register=False)
    with pytest.raises(exception, match=text):
        op(Tensor(np.ones(3), requires_grad=True)).sum().backward()


def test_gradcheck_of_a_wrong_function():
    """Without formula and reference gradcheck alone finds the fault, at the order where it is."""

    def stopped(x):
        return x * x.detach()  # its derivative by differences is 2x, by the graph x

    with pytest.raises(AssertionError, match=r"gradcheck of stopped, order 1, argument 0: derivative"):
        testing.gradcheck(stopped, (np.array([1.0, 2.0]),))

    class Wrong:
        """A value and first derivative that are right, a second that is not."""

        op = Op(
            "wrong_second", "x[...]", "y[...]", kernel=lambda outs, ins: np.copyto(outs[0], ins[0] ** 3), saves="x",
            vjp=lambda n, g: g * 3 * n.ins[0] * n.ins[0].detach(), register=False,
        )  # fmt: skip

    testing.gradcheck(Wrong.op, (np.array([1.0, 2.0]),))
    with pytest.raises(AssertionError, match=r"gradcheck of wrong_second, order 2, x: derivative"):
        testing.gradcheck(Wrong.op, (np.array([1.0, 2.0]),), order=2)


def test_gradcheck_of_a_function_of_several_arguments():
    def f(x, k, y):
        return x * y, OPS.sum_to(x + k, shape=())

    testing.gradcheck(f, (np.ones((2, 3)), np.arange(3), np.full((2, 3), 0.5)), order=3)


def test_an_exception_in_a_kernel_reaches_the_caller():
    def broken(outs, ins):
        raise KeyError("from the kernel")

    op = Op("broken", "x[...]", "y[...]", kernel=broken, vjp=lambda n, g: g, register=False)
    with pytest.raises(KeyError, match="from the kernel"):
        op(Tensor(np.ones(3)))


def test_assert_same_bits():
    a = np.array([[1.0, 2.0], [3.0, np.nan]])
    testing.assert_same_bits([a, None], (Tensor(a), None))
    testing.assert_same_bits(a.T, a.T.copy())
    b = a.copy()
    b[1, 0] = np.nextafter(3.0, 4.0)
    with pytest.raises(
        AssertionError, match=r"y: 1 of 4 differ, first at \(1, 0\): .*3\.0.* against .*3\.0000000000000004"
    ):
        testing.assert_same_bits(a, b, "y")
    with pytest.raises(AssertionError, match=r"1 of 2 differ"):
        testing.assert_same_bits(np.array([0.0, 1.0]), np.array([-0.0, 1.0]))
    with pytest.raises(AssertionError, match=r"float64\(2,\) against float32\(2,\)"):
        testing.assert_same_bits(np.zeros(2), np.zeros(2, np.float32))


@pytest.mark.parametrize(
    ("ins", "outs", "entry", "text"),
    [
        ("x[...", "y[...]", {}, r"could not read"),
        ("x[...]", "y[...]", {"kernel": "no_such_kernel"}, r"odd: there is no kernel 'no_such_kernel'"),
        ("x[...]", "y[...]", {"kernel": "add_fwd"}, r"odd: the entry has .* kernel add_fwd has"),
        ("x[...]", "y[...]", {"saves": "z", "vjp": lambda n, g: g}, r"odd: saves names no argument: z"),
        ("x[...]", "y[...]", {"bwd_formula": lambda *a: a}, r"odd: bwd_formula is the formula of a bwd kernel"),
    ],
)
def test_wrong_entries(ins, outs, entry, text):
    with pytest.raises(ValueError, match=text):
        Op("odd", ins, outs, register=False, **entry)


def test_samples_cover_what_they_promise():
    """Sizes of one, none and no multiple of a tile, ±1e4, ties; optional inputs absent, present; indices in range."""

    def kernel(outs, ins, axis):
        outs[0][...] = 0

    op = Op(
        "drawn", "x[N,3H] i[N]:i<C b[H]? m[N]:b", "y[N,C]", kernel=kernel, params={"C": int, "axis": 0}, register=False
    )
    found = testing.samples(op, np.random.default_rng(0))
    assert found[0].params == {"C": found[0].params["C"]}
    shapes = [s.args[0].shape for s in found]
    assert (1, 3) in shapes
    assert any(n == 0 for n, _ in shapes)
    assert any(n % 2 and n > 16 for n, _ in shapes)
    assert any(np.abs(s.args[0]).max(initial=0) == 1e4 for s in found)
    assert any((s.args[0] == 0).any() for s in found)
    assert {s.args[2] is None for s in found} == {True, False}
    for s in found:
        x, i, b, m = s.args
        assert x.dtype == np.float64
        assert i.dtype == np.int64
        assert m.dtype == bool
        assert x.shape[1] % 3 == 0
        assert b is None or 3 * len(b) == x.shape[1]
        assert i.min(initial=0) >= 0
        assert i.max(initial=-1) < s.params["C"]
    with pytest.raises(ValueError, match=r"^mute: the entry's strings do not say which calls are good"):
        testing.samples(Op("mute", "x[...]", "y[...]", params={"k": int}, kernel=kernel, register=False))


def test_registry():
    assert OPS["add"] is OPS.add
    assert "add" in OPS
    assert {op.name for op in OPS} >= {"add", "matmul", "sum_to"}
    assert repr(OPS.add) == "<op add>"
    assert pynn.OPS.matmul.__doc__.startswith("matmul(a[...,M,K] b[...,K,N])")


def test_an_op_may_ask_for_channels_last():
    """Its 4-D results are channels-last, whatever comes in; a leaf's gradient is laid out as the leaf."""

    def kernel(outs, ins):
        outs[0][...] = ins[0] * ins[1][:, None, None]

    def back(outs, ins):
        outs[0][...] = ins[0] * ins[2][:, None, None]

    scaled = Op(
        "scaled_channels", "x[N,C,H,W] w[C]", "y[N,C,H,W]", kernel=kernel, bwd=back, layout="nhwc", register=False,
        formula=lambda x, w: x * OPS.reshape(w, shape=(-1, 1, 1)),
    )  # fmt: skip
    rng = np.random.default_rng(0)
    a, w = rng.standard_normal((2, 3, 4, 5)), rng.standard_normal(6)[::2]
    last = np.ascontiguousarray(a.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    for form in (a, last, a[:, :, ::-1], a[:, :, :1], a[:, :1], a[:0]):
        x, v = pynn.from_numpy(form).detach(), pynn.from_numpy(w[: form.shape[1]])
        x.requires_grad = True
        y = scaled(x, v)
        assert y.is_channels_last()
        np.testing.assert_array_equal(y.numpy_copy(), form * w[: form.shape[1], None, None])
        y.sum().backward()
        if x.is_contiguous() or x.is_channels_last():
            assert x.grad.is_channels_last() == x.is_channels_last()
        np.testing.assert_array_equal(x.grad.numpy(), np.broadcast_to(w[: form.shape[1], None, None], form.shape))
