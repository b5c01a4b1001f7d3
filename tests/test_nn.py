"""Modules: what belongs to them, their state, hooks, copies, text and errors."""

import copy
import gc
import math
import pickle

import numpy as np
import pytest

import pynn
from pynn import nn
from pynn.nn.module import structure_version


def values(x):
    return np.asarray(x.detach())


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.act = nn.Tanh()
        self.last = nn.Linear(4, 2, bias=False)
        self.scale = nn.Parameter([2.0])
        self.register_buffer("mean", pynn.tensor([1.0, 2.0]))
        self.register_buffer("scratch", pynn.tensor([0.0]), persistent=False)

    def forward(self, x, shift=0.0):
        return self.last(self.act(self.first(x))) * self.scale + shift


def test_names_are_torchs():
    net = Net()
    assert [n for n, _ in net.named_parameters()] == ["scale", "first.weight", "first.bias", "last.weight"]
    assert [n for n, _ in net.named_buffers()] == ["mean", "scratch"]
    assert [n for n, _ in net.named_modules()] == ["", "first", "act", "last"]
    assert [n for n, _ in net.named_children()] == ["first", "act", "last"]
    assert list(net.state_dict()) == ["scale", "mean", "first.weight", "first.bias", "last.weight"]
    assert net.first.bias is net.get_parameter("first.bias")
    assert net.get_submodule("first") is net.first
    with pytest.raises(AttributeError, match=r"no submodule 'first\.x'"):
        net.get_submodule("first.x")
    with pytest.raises(AttributeError, match=r"no parameter 'last\.bias'"):
        net.get_parameter("last.bias")


def test_call_passes_arguments_on():
    net, x = Net(), pynn.tensor(np.ones((2, 3), np.float32))
    y = net(x)
    assert np.array_equal(values(net(x, 1.0)), values(y) + 1)
    assert np.array_equal(values(net(x, shift=1.0)), values(y) + 1)
    assert np.array_equal(values(net(x=x)), values(y))
    with pytest.raises(TypeError):
        net()
    with pytest.raises(NotImplementedError, match="forward"):
        nn.Module()(x)


def test_gradients_reach_every_parameter():
    net = Net()
    net(pynn.tensor(np.ones((2, 3), np.float32))).sum().backward()
    for p in net.parameters():
        assert p.grad.shape == p.shape
    net.zero_grad(set_to_none=False)
    assert all(not values(p.grad).any() for p in net.parameters())
    net.zero_grad()
    assert all(p.grad is None for p in net.parameters())


def test_parameter():
    source = np.arange(6.0).reshape(2, 3).T
    p = nn.Parameter(source)
    assert isinstance(p, pynn.Tensor)
    assert p.requires_grad
    assert p.is_leaf
    assert p.is_contiguous()
    assert p.dtype == np.float64
    source[:] = 0
    assert values(p).tolist() == [[0, 3], [1, 4], [2, 5]]
    assert not nn.Parameter([1.0], requires_grad=False).requires_grad
    assert nn.Parameter().shape == (0,)
    assert repr(nn.Parameter([1.0])) == "Parameter containing:\ntensor([1.], requires_grad=True)"
    with pytest.raises(TypeError, match="requires_grad: expected a floating dtype, got int64"):
        nn.Parameter([1, 2])
    with pytest.raises(TypeError, match="expected real numbers"):
        nn.Parameter(["a"])
    for twin in (copy.deepcopy(p), pickle.loads(pickle.dumps(p))):
        assert type(twin) is nn.Parameter
        assert twin.requires_grad
        assert np.array_equal(values(twin), values(p))


def test_assignment_registers_and_replaces():
    m = nn.Module()
    m.w = nn.Parameter([1.0])
    m.w = nn.Parameter([2.0])
    assert [values(p).item() for p in m.parameters()] == [2.0]
    m.w = None
    assert list(m.parameters()) == []
    assert m.w is None
    m.w = nn.Parameter([3.0])
    with pytest.raises(TypeError, match="attribute 'w': expected a Parameter or None, got Tensor"):
        m.w = pynn.tensor([1.0])
    m.w = nn.ReLU()  # another kind of part takes the name over
    assert list(m.parameters()) == []
    assert [n for n, _ in m.named_children()] == ["w"]
    with pytest.raises(TypeError, match="attribute 'w': expected a Module or None, got int"):
        m.w = 3
    del m.w
    assert not hasattr(m, "w")
    assert list(m.children()) == []
    m.register_buffer("b", pynn.tensor([1.0]))
    m.b = pynn.tensor([5.0])
    assert m.state_dict()["b"].tolist() == [5.0]
    with pytest.raises(TypeError, match="attribute 'b': expected a Tensor or None, got float"):
        m.b = 1.0
    m.plain = 3
    assert m.plain == 3
    with pytest.raises(AttributeError, match="absent"):
        m.absent
    with pytest.raises(AttributeError, match="absent"):
        del m.absent


def test_registration_errors():
    m = nn.Module()
    m.plain = 1
    for call in (m.register_parameter, m.register_buffer, m.add_module):
        with pytest.raises(KeyError, match="without dots"):
            call("a.b", None)
        with pytest.raises(KeyError, match="'plain' already"):
            call("plain", None)
        with pytest.raises(TypeError, match="expected a string"):
            call(3, None)
    with pytest.raises(TypeError, match="expected a Parameter or None, got Tensor"):
        m.register_parameter("w", pynn.tensor([1.0]))
    with pytest.raises(ValueError, match="without history, got one computed by mul"):
        m.register_buffer("w", nn.Parameter([1.0]) * 2.0)


def test_assignment_before_init_is_named():
    class Early(nn.Module):
        def __init__(self):
            self.fc = nn.Linear(1, 1)

    class Later(nn.Module):
        def __init__(self):
            self.size = 3
            super().__init__()

    with pytest.raises(AttributeError, match=r"Early: 'fc' was assigned before super\(\).__init__\(\)"):
        Early()
    assert Later().size == 3


def test_tied_weights_count_once_and_stay_tied():
    m = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    m[1].weight = m[0].weight
    assert [n for n, _ in m.named_parameters()] == ["0.weight", "0.bias", "1.bias"]
    assert len(list(m.named_parameters(remove_duplicate=False))) == 4
    assert list(m.state_dict()) == ["0.weight", "0.bias", "1.weight", "1.bias"]
    for twin in (copy.deepcopy(m), pickle.loads(pickle.dumps(m)), m.double()):
        assert twin[0].weight is twin[1].weight
        assert len(list(twin.parameters())) == 3
    same = nn.ReLU()
    assert len(list(nn.Sequential(same, same).modules())) == 2
    assert len(nn.Sequential(same, same)) == 2


def test_copies_are_independent():
    net = Net()
    net(pynn.tensor(np.ones((1, 3), np.float32))).sum().backward()
    before = net.state_dict()
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert all(np.array_equal(a, b) for a, b in zip(before.values(), twin.state_dict().values(), strict=True))
        with pynn.no_grad():
            for p in twin.parameters():
                p.zero_()
        twin.register_forward_hook(lambda *a: None)
        assert twin.first.weight is twin.get_parameter("first.weight")
    assert all(np.array_equal(a, b) for a, b in zip(before.values(), net.state_dict().values(), strict=True))
    assert not net._forward_hooks
    assert np.array_equal(values(copy.deepcopy(net).scale.grad), values(net.scale.grad))


def test_train_and_eval_reach_all():
    net = nn.Sequential(nn.Dropout(0.5), nn.Sequential(nn.Dropout(0.5)))
    assert net.eval() is net
    assert not any(m.training for m in net.modules())
    x = pynn.tensor(np.ones((4, 4), np.float32))
    assert net(x) is x
    net.train()
    assert all(m.training for m in net.modules())
    y = values(net(x))
    assert set(np.unique(y)) <= {0.0, 4.0}
    with pytest.raises(ValueError, match="expected a bool, got int"):
        net.train(1)


def test_dropout_follows_the_seed():
    x = pynn.tensor(np.ones((50, 50), np.float32))
    layer = nn.Dropout(0.25)
    pynn.manual_seed(3)
    a, b = values(layer(x)), values(layer(x))
    pynn.manual_seed(3)
    assert np.array_equal(values(layer(x)), a)
    assert not np.array_equal(a, b)
    assert abs((a == 0).mean() - 0.25) < 0.05
    assert np.allclose(a[a != 0], 1 / 0.75)
    with pytest.raises(ValueError, match=r"Dropout: argument 'p': expected 0 <= p <= 1, got 1\.5"):
        nn.Dropout(1.5)


def test_dtype_of_all():
    net = Net()
    net.register_buffer("steps", pynn.tensor(3))
    net(pynn.tensor(np.ones((2, 3), np.float32))).sum().backward()
    first, grad = net.first.weight, values(net.first.weight.grad).copy()
    assert net.double() is net
    assert net.first.weight is first
    assert {p.dtype for p in net.parameters()} == {np.dtype(np.float64)}
    assert net.mean.dtype == np.float64
    assert net.steps.dtype == np.int64
    assert first.grad.dtype == np.float64
    assert np.array_equal(values(first.grad), grad)
    assert net(pynn.tensor(np.ones((2, 3)))).dtype == np.float64
    with pytest.raises(TypeError, match=r"linear: .*dtype"):
        net(pynn.tensor(np.ones((2, 3), np.float32)))
    assert net.to("float32").first.weight.dtype == np.float32
    for bad in (np.int64, "text", 3.5):
        with pytest.raises(TypeError, match="to: argument 'dtype': expected float32 or float64"):
            net.to(bad)


def test_freezing():
    net = Net().requires_grad_(False)
    assert not net(pynn.tensor(np.ones((2, 3), np.float32))).requires_grad
    assert all(p.requires_grad for p in net.requires_grad_().parameters())


def test_apply_visits_children_first():
    seen = []
    Net().apply(lambda m: seen.append(type(m).__name__))
    assert seen == ["Linear", "Tanh", "Linear", "Net"]


# ---- state -------------------------------------------------------------------------------------------


def test_state_goes_round():
    a, b = Net(), Net()
    state = a.state_dict()
    assert all(type(v) is np.ndarray for v in state.values())
    state["scale"][:] = 7  # copies: the module does not see it
    assert values(a.scale).item() == 2.0
    memory = b.first.weight.numpy().ctypes.data
    assert b.load_state_dict(state) == ([], [])
    assert b.first.weight.numpy().ctypes.data == memory
    assert values(b.scale).item() == 7.0
    assert np.array_equal(values(b.first.weight), values(a.first.weight))
    assert next(iter(a.state_dict(prefix="net."))) == "net.scale"


def test_state_is_converted():
    net = nn.Linear(2, 2)
    weight = np.array([[1, 2], [3, 4]], dtype=">f8").T
    net.load_state_dict({"weight": weight, "bias": [5, 6]})
    assert values(net.weight).tolist() == [[1, 3], [2, 4]]
    assert net.weight.dtype == np.float32
    assert values(net.bias).tolist() == [5, 6]


def test_state_mismatch_changes_nothing_and_lists_all():
    net = Net()
    before = net.state_dict()
    bad = net.state_dict()
    bad["scale"] = np.array([9.0])
    bad["mean"] = np.zeros(3)
    bad["extra"] = np.zeros(1)
    del bad["first.bias"]
    with pytest.raises(ValueError) as e:
        net.load_state_dict(bad)
    assert str(e.value).splitlines() == [
        "load_state_dict: the state does not fit Net:",
        "  missing: 'first.bias'",
        "  misshapen: mean: expected (2,), got (3,)",
        "  unexpected: 'extra'",
    ]
    with pytest.raises(ValueError, match="misshapen") as e:
        net.load_state_dict(bad, strict=False)
    assert "missing" not in str(e.value)
    with pytest.raises(TypeError, match="'scale': expected real numbers, got dtype <U1"):
        net.load_state_dict({**before, "mean": np.zeros(2) + 5, "scale": np.array(["a"])})
    with pytest.raises(TypeError, match="'scale': expected real numbers, got dtype complex128"):
        net.load_state_dict({**before, "scale": np.array([1j])})
    with pytest.raises(TypeError, match="expected a mapping, got list"):
        net.load_state_dict([1])
    assert all(np.array_equal(a, b) for a, b in zip(before.values(), net.state_dict().values(), strict=True))
    bad["mean"] = np.zeros(2)
    assert net.load_state_dict(bad, strict=False) == (["first.bias"], ["extra"])
    assert values(net.scale).item() == 9.0


# ---- hooks -------------------------------------------------------------------------------------------


def test_hooks_see_and_replace():
    m, x = nn.Identity(), pynn.tensor([1.0])
    log = []
    pre = m.register_forward_pre_hook(lambda mod, args: log.append("pre") or (args[0] + 1.0))
    post = m.register_forward_hook(lambda mod, args, out: log.append("post") or out * 10.0)
    seen = m.register_forward_hook(lambda mod, args, kwargs, out: log.append((len(args), kwargs)), with_kwargs=True)
    assert m(x).item() == 20.0
    assert log == ["pre", "post", (1, {})]
    post.remove()
    post.remove()  # twice is once
    assert m(x).item() == 2.0
    pre.remove()
    seen.remove()
    with m.register_forward_hook(lambda mod, args, out: out * 3.0):
        assert m(x).item() == 3.0
    assert m(x) is x
    with pytest.raises(TypeError, match="expected a function, got int"):
        m.register_forward_hook(3)


def test_hooks_order_and_kwargs():
    net, log = Net(), []
    net.register_forward_hook(lambda *a: log.append("second"))
    net.register_forward_hook(lambda *a: log.append("first"), prepend=True)
    net.register_forward_pre_hook(lambda mod, args, kw: (args, {"shift": 5.0}), with_kwargs=True)
    x = pynn.tensor(np.zeros((1, 3), np.float32))
    with_shift = values(net(x, shift=1.0))
    assert log == ["first", "second"]
    plain = Net()
    plain.load_state_dict(net.state_dict())
    assert np.allclose(with_shift, values(plain(x)) + 5, atol=1e-6)
    net.register_forward_pre_hook(lambda mod, args, kw: 3, with_kwargs=True)
    with pytest.raises(TypeError, match="forward_pre_hook: expected"):
        net(x)


@pytest.mark.parametrize("through", [lambda m: pickle.loads(pickle.dumps(m)), copy.deepcopy])
def test_a_sequential_that_was_called_can_be_copied(through):
    m, x = nn.Sequential(nn.Linear(3, 2), nn.ReLU()), pynn.ones(4, 3)
    y = m(x)
    twin = through(m)
    np.testing.assert_array_equal(twin(x).detach().numpy(), y.detach().numpy())
    twin[1] = nn.Tanh()
    assert (twin(x).detach().numpy() != y.detach().numpy()).any()


def test_structure_version_counts_what_plans_depend_on():
    net = Net()
    x = pynn.tensor(np.zeros((1, 3), np.float32))

    def changes(act):
        before = structure_version()
        act()
        return structure_version() != before

    handles = []
    assert changes(lambda: setattr(net, "limit", 3))
    assert changes(lambda: setattr(net, "act", nn.ReLU()))
    assert changes(net.eval)
    assert not changes(net.eval)
    assert changes(net.train)
    assert changes(lambda: handles.append(net.register_forward_hook(lambda *a: None)))
    assert changes(lambda: handles[0].remove())
    assert changes(lambda: net.requires_grad_(False))
    assert changes(lambda: delattr(net, "limit"))
    assert changes(lambda: net.double().float())
    assert not changes(lambda: net(x))
    net.requires_grad_()
    assert not changes(lambda: net(x).sum().backward())
    assert not changes(net.zero_grad)


# ---- containers ----------------------------------------------------------------------------------------


def test_sequential():
    a, b, c = nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)
    m = nn.Sequential(a, b)
    assert m.append(c) is m
    assert (m[0], m[-1], len(m), list(m)) == (a, c, 3, [a, b, c])
    assert m[1:][0] is b
    assert list(m[1:].state_dict()) == ["2.weight", "2.bias"]  # a slice keeps its names
    m[1] = nn.Tanh()
    assert isinstance(m[1], nn.Tanh)
    del m[0]
    assert [n for n, _ in m.named_children()] == ["0", "1"]
    m.insert(0, b)
    assert next(iter(m)) is b
    named = nn.Sequential({"fc": a, "act": b})
    assert named.fc is a
    assert list(named.state_dict()) == ["fc.weight", "fc.bias"]
    x = pynn.tensor(np.ones((1, 2), np.float32))
    assert np.array_equal(values(named(x)), np.maximum(values(a(x)), 0))
    with pytest.raises(IndexError, match=r"expected an index in \[-3, 3\), got 3"):
        m[3]
    with pytest.raises(TypeError, match="expected an integer index, got str"):
        m["x"]
    for bad in (lambda: nn.Sequential(3), lambda: m.append(None), lambda: m.insert(0, "x")):
        with pytest.raises(TypeError, match="Sequential: expected a Module at"):
            bad()


def test_lists_and_dicts():
    layers = nn.ModuleList(nn.Linear(2, 2) for _ in range(3))
    assert len(list(layers.parameters())) == 6
    layers.extend([nn.ReLU()])
    assert isinstance(layers[1:], nn.ModuleList)
    assert [n for n, _ in layers[2:].named_children()] == ["0", "1"]
    with pytest.raises(NotImplementedError):
        layers(1)
    by_name = nn.ModuleDict({"a": nn.Linear(1, 1)})
    by_name["b"] = nn.ReLU()
    by_name.update([("c", nn.Tanh())])
    assert list(by_name) == list(by_name.keys()) == ["a", "b", "c"]
    assert "a" in by_name
    assert len(by_name) == len(by_name.values()) == len(by_name.items()) == 3
    assert isinstance(by_name.pop("b"), nn.ReLU)
    with pytest.raises(KeyError):
        by_name["b"]
    with pytest.raises(KeyError):
        del by_name["b"]
    by_name.clear()
    assert list(by_name.parameters()) == []
    params = nn.ParameterList([np.ones(2, np.float32), nn.Parameter([3.0])])
    params.append([4.0])
    params.insert(0, [0.0])
    assert [p.size for p in params] == [1, 2, 1, 1]
    assert list(params.state_dict()) == ["0", "1", "2", "3"]
    params[0] = [7.0]
    assert values(params[0]).tolist() == [7.0]


# ---- layers ----------------------------------------------------------------------------------------------


def test_linear():
    pynn.manual_seed(0)
    layer = nn.Linear(400, 300)
    for p in layer.parameters():
        assert abs(values(p)).max() <= 1 / math.sqrt(400)
        assert abs(values(p)).max() > 0.95 / math.sqrt(400)
    assert not np.array_equal(values(nn.Linear(400, 300).weight), values(layer.weight))
    pynn.manual_seed(0)
    assert np.array_equal(values(nn.Linear(400, 300).weight), values(layer.weight))
    x = np.random.default_rng(0).standard_normal((2, 5, 400)).astype(np.float32)
    want = x.astype(float) @ values(layer.weight).T + values(layer.bias)
    assert np.allclose(values(layer(pynn.tensor(x))), want, atol=1e-5)
    assert nn.Linear(2, 3, dtype=np.float64).weight.dtype == np.float64
    assert nn.Linear(2, 3, bias=False).bias is None
    assert layer(pynn.tensor(np.zeros((0, 400), np.float32))).shape == (0, 300)
    assert nn.Linear(0, 2)(pynn.tensor(np.zeros((3, 0), np.float32))).shape == (3, 2)
    with pytest.raises(ValueError, match=r"linear: argument 'W': expected shape \[O,I\] with I=3, got \(300, 400\)"):
        layer(pynn.tensor(np.zeros((2, 3), np.float32)))
    with pytest.raises(ValueError, match="non-negative integers"):
        nn.Linear(-1, 2)


def test_identity_and_flatten():
    x = pynn.tensor(np.arange(24.0).reshape(2, 3, 4))
    assert nn.Identity(54, unused=1)(x) is x
    assert nn.Flatten()(x).shape == (2, 12)
    assert nn.Flatten(0, 1)(x).shape == (6, 4)


def _sigmoid(x):
    return 1 / (1 + np.exp(-x))


ACTIVATIONS = [
    (nn.ReLU(), lambda x: np.maximum(x, 0)),
    (nn.LeakyReLU(0.2), lambda x: np.where(x > 0, x, 0.2 * x)),
    (nn.GELU(), lambda x: 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))),
    (nn.GELU("tanh"), lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))),
    (nn.SiLU(), lambda x: x * _sigmoid(x)),
    (nn.ELU(0.5), lambda x: np.where(x > 0, x, 0.5 * np.expm1(x))),
    (nn.SELU(), lambda x: 1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * np.expm1(x))),
    (nn.Softplus(), lambda x: np.log1p(np.exp(x))),
    (nn.Softplus(2.0, 3.0), lambda x: np.where(2 * x > 3, x, np.log1p(np.exp(2 * x)) / 2)),
    (nn.Hardswish(), lambda x: x * np.clip(x + 3, 0, 6) / 6),
    (nn.Hardsigmoid(), lambda x: np.clip(x + 3, 0, 6) / 6),
    (nn.ReLU6(), lambda x: np.clip(x, 0, 6)),
    (nn.Hardtanh(-2.0, 0.5), lambda x: np.clip(x, -2, 0.5)),
    (nn.PReLU(), lambda x: np.where(x > 0, x, 0.25 * x)),
    (nn.Mish(), lambda x: x * np.tanh(np.log1p(np.exp(x)))),
    (nn.Sigmoid(), _sigmoid),
    (nn.Tanh(), np.tanh),
    (nn.LogSigmoid(), lambda x: -np.log1p(np.exp(-x))),
    (nn.Softmax(1), lambda x: np.exp(x) / np.exp(x).sum(1, keepdims=True)),
    (nn.Softmax(), lambda x: np.exp(x) / np.exp(x).sum(1, keepdims=True)),
    (nn.LogSoftmax(0), lambda x: x - np.log(np.exp(x).sum(0, keepdims=True))),
]


@pytest.mark.parametrize(("layer", "formula"), ACTIVATIONS, ids=lambda v: repr(v) if isinstance(v, nn.Module) else "")
def test_activations(layer, formula):
    x = np.linspace(-7, 8, 60).reshape(4, 15)
    layer = copy.deepcopy(layer).double()
    assert np.allclose(values(layer(pynn.tensor(x))), formula(x), rtol=1e-12, atol=1e-12)


def test_prelu_has_one_slope_a_channel():
    layer = nn.PReLU(3, init=0.5)
    x = pynn.tensor(-np.ones((2, 3, 2), np.float32))
    with pynn.no_grad():
        layer.weight[1] = 0.0
    assert values(layer(x))[0].tolist() == [[-0.5, -0.5], [0.0, 0.0], [-0.5, -0.5]]
    layer(x).sum().backward()
    assert values(layer.weight.grad).tolist() == [-4, -4, -4]


def test_losses():
    rng = np.random.default_rng(0)
    x, t = rng.standard_normal((6, 3)), rng.random((6, 3))
    X, T = pynn.tensor(x), pynn.tensor(t)
    labels = np.array([0, 2, 1, 1, -100, 0])
    log_p = x - np.log(np.exp(x).sum(1, keepdims=True))
    kept = labels >= 0
    picked = -log_p[kept, labels[kept]]
    close = lambda a, b: np.testing.assert_allclose(values(a), b, rtol=1e-10)  # noqa: E731
    close(nn.CrossEntropyLoss()(X, pynn.tensor(labels)), picked.mean())
    w = np.array([1.0, 2.0, 0.5])
    weighted = nn.CrossEntropyLoss(pynn.tensor(w))
    close(weighted(X, pynn.tensor(labels)), (picked * w[labels[kept]]).sum() / w[labels[kept]].sum())
    assert list(weighted.state_dict()) == ["weight"]
    close(nn.CrossEntropyLoss(reduction="sum")(X, pynn.tensor(labels)), picked.sum())
    soft = t / t.sum(1, keepdims=True)
    close(nn.CrossEntropyLoss()(X, pynn.tensor(soft)), -(soft * log_p).sum(1).mean())
    smooth = nn.CrossEntropyLoss(ignore_index=-1, label_smoothing=0.1)(X[:4], pynn.tensor(labels[:4]))
    close(smooth, (0.9 * picked[:4] - 0.1 * log_p[:4].mean(1)).mean())
    close(nn.MSELoss()(X, T), ((x - t) ** 2).mean())
    close(nn.L1Loss(reduction="none")(X, T), abs(x - t))
    p = _sigmoid(x)
    bce = -(t * np.log(p) + (1 - t) * np.log(1 - p))
    close(nn.BCELoss(reduction="sum")(pynn.tensor(p), T), bce.sum())
    close(nn.BCEWithLogitsLoss()(X, T), bce.mean())
    heavy = nn.BCEWithLogitsLoss(pos_weight=pynn.tensor(w))
    close(heavy(X, T), -(w * t * np.log(p) + (1 - t) * np.log(1 - p)).mean())
    with pytest.raises(ValueError, match="MSELoss: argument 'reduction': expected one of mean, sum, none, got 'avg'"):
        nn.MSELoss(reduction="avg")
    with pytest.raises(ValueError, match="label_smoothing"):
        nn.CrossEntropyLoss(label_smoothing=2)


# ---- text --------------------------------------------------------------------------------------------------


def test_repr_is_torchs():
    m = nn.Sequential(
        nn.Linear(2, 3), nn.LeakyReLU(), nn.Dropout(0.2), nn.ModuleList([nn.ReLU(), nn.ReLU(inplace=True)])
    )
    assert repr(m) == (
        "Sequential(\n"
        "  (0): Linear(in_features=2, out_features=3, bias=True)\n"
        "  (1): LeakyReLU(negative_slope=0.01)\n"
        "  (2): Dropout(p=0.2, inplace=False)\n"
        "  (3): ModuleList(\n"
        "    (0): ReLU()\n"
        "    (1): ReLU(inplace=True)\n"
        "  )\n"
        ")"
    )
    assert (
        repr(nn.ModuleList([nn.Tanh(), nn.Tanh(), nn.ReLU()])) == "ModuleList(\n  (0-1): 2 x Tanh()\n  (2): ReLU()\n)"
    )
    assert repr(nn.Module()) == "Module()"
    assert repr(nn.Softmax(dim=1)) == "Softmax(dim=1)"
    assert repr(nn.GELU()) == "GELU(approximate='none')"


def test_modules_leave_no_cycles():
    gc.collect()
    gc.disable()
    try:
        live = pynn._core.alloc_stats()["live"]
        net = Net()
        net(pynn.tensor(np.ones((2, 3), np.float32))).sum().backward()
        copy.deepcopy(net)
        del net
        assert pynn._core.alloc_stats()["live"] == live
    finally:
        gc.enable()
