"""Weights of convolutions in plans: packed once, and batch norm multiplied into them where a session is asked."""

import numpy as np
import pytest
from plan_helpers import eager

import pynn
from pynn import OPS, Tensor, _core, nn
from pynn.models import resnet18
from pynn.nn import functional as F


@pytest.fixture(params=["fast", "exact"])
def precision(request):
    old = pynn.get_float32_precision()
    pynn.set_float32_precision(request.param)
    yield request.param
    pynn.set_float32_precision(old)


def rand(*shape, seed=0, dtype="f4"):
    return Tensor(np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype))


def names(plan):
    return [row[0] for row in _core.describe_plan(plan)]


def moved(model, seed=0):
    """model with other statistics and factors in its norms than those it began with."""
    rng = np.random.default_rng(seed)
    with pynn.no_grad():
        for m in model.modules():
            if isinstance(m, nn.BatchNorm2d):
                for p, low, high in (
                    (m.running_mean, -1, 1),
                    (m.running_var, 0.3, 2),
                    (m.weight, -2, 2),
                    (m.bias, -1, 1),
                ):
                    p.copy_(Tensor(rng.uniform(low, high, p.shape).astype(p.dtype)))
    return model


# N, C, H, W, O, kernel, options: panels, F(4×4), F(2×2) for few tiles, tiles shared by workers, strips of channels
FORMS = {
    "rows": (2, 5, 9, 11, 33, 3, {}), "1x1": (3, 40, 7, 9, 70, 1, {}), "stem": (1, 3, 40, 40, 64, 7, {"stride": 2}),
    "f4": (2, 64, 20, 20, 48, 3, {}), "f2": (1, 256, 14, 14, 256, 3, {}), "shared": (4, 300, 8, 8, 530, 3, {}),
    "depthwise": (2, 35, 9, 9, 35, 3, {"groups": 35}), "groups": (2, 8, 9, 9, 12, (2, 3), {"groups": 4, "dilation": 2}),
}  # fmt: skip


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("form", FORMS)
def test_packed_weights_give_the_same_bits(form, dtype, precision):
    n, c, h, w, o, kernel, options = FORMS[form]
    layer = nn.Conv2d(c, o, kernel, padding=1, dtype=np.dtype(dtype), **options)
    model, x = nn.Sequential(layer, nn.ReLU()), rand(n, c, h, w, dtype=dtype)
    with pynn.no_grad():
        for fn in (model, layer, lambda x: F.conv2d(x, layer.weight, None, padding=1, **options)):
            f, want = pynn.compile(fn), fn(x).numpy_copy()
            for threads in (1, 2, 4):
                with pynn.threads(threads):
                    for _ in range(2):
                        assert f(x).numpy_copy().tobytes() == want.tobytes()
            assert f.replays
            assert _core.n_turned(f.plans[0]) == 1


def test_packed_weights_follow_parameters_and_precision():
    old = pynn.get_float32_precision()
    layer = nn.Conv2d(64, 64, 3, padding=1)
    f, x = pynn.compile(layer), rand(2, 64, 20, 20)
    with pynn.no_grad():
        for k in range(3):
            for precision in ("fast", "exact", "fast"):
                pynn.set_float32_precision(precision)
                for _ in range(2):
                    np.testing.assert_array_equal(f(x).numpy(), layer(x).numpy())
            layer.weight.copy_(rand(64, 64, 3, 3, seed=k))
    pynn.set_float32_precision(old)


def test_packed_weights_are_shared_by_batches_and_never_by_training():
    layer = nn.Conv2d(64, 64, 3, padding=1)
    f = pynn.compile(layer)
    with pynn.no_grad():
        f(rand(4, 64, 20, 20))
        packed = f.nbytes - f.plans[0].nbytes
        f(rand(5, 64, 20, 20))
    assert packed > 0
    assert f.nbytes - sum(plan.nbytes for plan in f.plans) == packed

    def step(x):
        layer.weight.grad = None
        layer(x).sum().backward()

    g = pynn.compile(step)
    g(rand(4, 64, 20, 20))
    assert _core.n_turned(g.plans[0]) == 0


@pytest.mark.parametrize("stem", ["cifar", "imagenet"])
def test_sessions_multiply_batch_norm_into_convolutions(stem, precision):
    model, x = moved(resnet18(7, stem=stem)), rand(2, 3, 40, 40).numpy()
    session = model.session()
    for _ in range(2):
        y, want = session.predict(x), eager(model, x)
        np.testing.assert_allclose(y, want, rtol=0, atol=2e-5 * np.abs(want).max())
    found = names(session._plans.plans[0])
    assert found.count("conv2d_norm") == 20
    assert not {"batch_norm_eval", "conv2d", "relu", "add"} & set(found)
    f = pynn.compile(model.eval())
    with pynn.no_grad():
        np.testing.assert_array_equal(f(Tensor(x)).numpy(), want)  # without a session the bits stay
        np.testing.assert_array_equal(f(Tensor(x)).numpy(), want)


def test_folded_weights_follow_training():
    model, rng = moved(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())), np.random.default_rng(0)
    session = model.session()
    for k in range(12):  # beyond the number of changes after which weights stay where they are
        x = rng.standard_normal((4, 3, 9, 9)).astype("f4")
        for _ in range(2):
            np.testing.assert_allclose(session.predict(x), eager(model, x), rtol=0, atol=1e-5)
        assert (_core.n_turned(session._plans.plans[0]) > 0) == (k < 8)
        model.train()(Tensor(x))  # moves the statistics


class Block(nn.Module):
    """A residual block as most write it."""

    def __init__(self, before):
        super().__init__()
        self.conv, self.norm, self.before = nn.Conv2d(5, 5, 3, padding=1), nn.BatchNorm2d(5), before

    def forward(self, x):
        y = self.norm(self.conv(x))
        return F.relu(x + y if self.before else y + x)


@pytest.mark.parametrize("before", [False, True])
def test_residuals_and_relu_are_part_of_folded_convolutions(before):
    layers = nn.Conv2d(3, 5, 1), Block(before), nn.Conv2d(5, 7, 1), nn.BatchNorm2d(7), nn.ReLU(), nn.Flatten()
    model = moved(nn.Sequential(*layers))
    session, x = model.session(), rand(3, 3, 6, 7).numpy()
    for _ in range(2):
        np.testing.assert_allclose(session.predict(x), eager(model, x), rtol=0, atol=1e-5)
    found = names(session._plans.plans[0])
    assert found.count("conv2d_norm") == 2
    assert not {"relu", "add"} & set(found)
    flops = {row[0]: row[4] for row in _core.describe_plan(session._plans.plans[0])}
    assert flops["conv2d_norm"] == 2 * 3 * 7 * 42 * 5  # of the last


class Twice(nn.Module):
    """y + y: the residual is the result itself."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(5, 5, 3, padding=1), nn.BatchNorm2d(5)

    def forward(self, x):
        y = self.norm(self.conv(x))
        return y + y


def test_a_result_is_no_residual_of_its_own():
    model, x = moved(Twice()), rand(2, 5, 6, 7).numpy()
    session = model.session()
    for _ in range(2):
        np.testing.assert_allclose(session.predict(x), eager(model, x), rtol=0, atol=1e-5)


class Branches(nn.Module):
    """What must not be folded: a convolution that is read twice, a norm of something else."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6)

    def forward(self, x):
        y = self.conv(x)
        return self.norm(y) + y, self.norm(OPS.abs(self.conv(x)))


def test_what_else_reads_a_convolution_sees_it():
    model, x = moved(Branches()).eval(), rand(2, 4, 8, 8)
    session = model.session()
    with pynn.no_grad():
        want = [y.numpy_copy() for y in model(x)]
    for _ in range(2):
        for y, w in zip(session.predict(x.numpy()), want):
            np.testing.assert_array_equal(y, w)
    assert names(session._plans.plans[0]).count("batch_norm_eval") == 2
