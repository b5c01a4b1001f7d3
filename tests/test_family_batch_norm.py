"""Batch, group and instance norm: PyTorch's semantics and state, means far from 0, replay, errors."""

from pathlib import Path

import numpy as np
import pytest
from fixtures.make_batch_norm_torch import CASES, draws

import pynn
from pynn import nn, optim
from pynn.nn import functional as F

TORCH = np.load(Path(__file__).parent / "fixtures" / "batch_norm_torch.npz")


def leaf(a):
    x = pynn.tensor(np.asarray(a))
    x.requires_grad = True
    return x


def made(name, dtype=np.float64):
    args, options, _ = CASES[name]
    m = getattr(nn, name.split("_")[0])(*args, **options, dtype=dtype)
    with pynn.no_grad():
        for p, value in zip(m.parameters(), draws(name)[0]):
            p.copy_(value)
    return m


@pytest.mark.parametrize("name", CASES)
def test_against_torch(name):
    """Values, gradients, running statistics, eval() and the names of the state, over three steps."""
    m = made(name)
    assert list(m.state_dict()) == TORCH[f"{name}/keys"].tolist()
    for step, (x, dy) in enumerate(draws(name)[1]):
        x = leaf(x)
        m.zero_grad()
        y = m(x)
        y.backward(pynn.tensor(dy))
        np.testing.assert_allclose(y.detach().numpy(), TORCH[f"{name}/{step}/y"], rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(x.grad.numpy(), TORCH[f"{name}/{step}/dx"], rtol=1e-9, atol=1e-12)
    for key, p in m.named_parameters():
        np.testing.assert_allclose(p.grad.numpy(), TORCH[f"{name}/grad/{key}"], rtol=1e-10, atol=1e-12)
    m.eval()
    with pynn.no_grad():
        np.testing.assert_allclose(m(x).numpy(), TORCH[f"{name}/eval"], rtol=1e-10, atol=1e-12)
    for key, b in m.named_buffers():
        want = TORCH[f"{name}/buffer/{key}"]
        assert b.dtype == want.dtype
        np.testing.assert_allclose(b.numpy(), want, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("shape", [(64, 9, 3, 3), (2000, 3, 1, 1), (7, 40, 9, 8), (3, 200, 11, 7)])
@pytest.mark.parametrize("offset", [0, 1e2, 1e4, -1e5])
def test_channels_far_from_0(shape, offset):
    """float32: neither E[x²] − E[x]² nor a rounded mean would pass."""
    rng = np.random.default_rng(1)
    x = (rng.standard_normal(shape) + offset).astype(np.float32)
    g, w = rng.standard_normal(shape).astype(np.float32), rng.uniform(-2, 2, shape[1]).astype(np.float32)
    results = []
    for dtype in (np.float32, np.float64):
        leaves = [leaf(a.astype(dtype)) for a in (x, w, w)]
        y = F.batch_norm(leaves[0], None, None, *leaves[1:], training=True)
        y.backward(pynn.tensor(g.astype(dtype)))
        results.append([y.detach().numpy_copy(), *(p.grad.numpy_copy() for p in leaves)])
    for got, want in zip(*results):
        np.testing.assert_allclose(got, want, atol=2e-5 * max(1, np.abs(want).max()))


def test_an_outlier_in_the_first_line():
    """The line that sums are taken from may be the worst choice."""
    x = np.random.default_rng(0).standard_normal((5000, 4, 1, 1)).astype(np.float32)
    x[0] = 1e5
    got = F.batch_norm(pynn.tensor(x), training=True).numpy()
    wide = F.batch_norm(pynn.tensor(x.astype(np.float64)), training=True).numpy()
    np.testing.assert_allclose(got, wide, atol=2e-5 * np.abs(wide).max())
    spread = got[1:].astype(np.float64).std(axis=0) / wide[1:].std(axis=0)
    np.testing.assert_allclose(spread, 1, atol=3e-5)


def test_constant_channels_have_variance_0():
    m = nn.BatchNorm2d(3, momentum=1.0)
    y = m(pynn.full((4, 3, 2, 2), 0.3))
    assert not y.detach().numpy().any()
    assert m.running_var.tolist() == [0, 0, 0]
    np.testing.assert_array_equal(m.running_mean.numpy(), np.float32(0.3))


@pytest.mark.parametrize("momentum", [0.1, None])
def test_replayed_steps_move_the_statistics(momentum):
    """A compiled step of training is replayed; its statistics and weights are those of eager steps, to the bit."""
    rng = np.random.default_rng(0)
    batches = [rng.standard_normal((8, 5)).astype(np.float32) * (k + 1) + k for k in range(6)]

    def trained(compiled):
        pynn.manual_seed(0)
        model = nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7, momentum=momentum), nn.ReLU(), nn.Linear(7, 1))
        opt = optim.SGD(model.parameters(), lr=0.1)

        def step(x):
            opt.zero_grad()
            loss = (model(x) ** 2).mean()
            loss.backward()
            opt.step()
            return loss

        run = pynn.compile(step) if compiled else step
        losses = [run(pynn.tensor(x)).item() for x in batches]
        return losses, model.state_dict(), getattr(run, "replays", None)

    eager_losses, eager, _ = trained(False)
    losses, state, replays = trained(True)
    assert replays == len(batches) - 1
    assert losses == eager_losses
    assert state["1.num_batches_tracked"] == len(batches)
    for key, value in eager.items():
        np.testing.assert_array_equal(state[key], value, err_msg=key)
    assert (state["1.running_mean"] != 0).all()


def test_eval_changes_nothing_and_ignores_the_batch():
    m = nn.BatchNorm2d(4)
    x = pynn.randn(6, 4, 3, 3)
    m(x)
    before = m.state_dict()
    m.eval()
    one, many = m(x[:1]).detach().numpy(), m(x).detach().numpy()
    np.testing.assert_array_equal(one, many[:1])
    for key, value in m.state_dict().items():
        np.testing.assert_array_equal(value, before[key])


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("with_residual", [True, False])
def test_relu_and_residual_have_the_bits_of_three_ops(training, with_residual):
    rng = np.random.default_rng(2)
    a, r, g = (rng.standard_normal((5, 6, 7, 3)).astype(np.float32) for _ in range(3))
    results = []
    for fused in (True, False):
        m = nn.BatchNorm2d(6).train(training)
        x, res = leaf(a), leaf(r) if with_residual else None
        if fused:
            y = m(x, residual=res, relu=True)
        else:
            y = m(x)
            y = F.relu(y if res is None else y + res)
        y.backward(pynn.tensor(g))
        grads = [p.grad.numpy_copy() for p in (x, m.weight, m.bias, *([res] if with_residual else []))]
        results.append([y.detach().numpy_copy(), *grads])
    for got, want in zip(*results):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("channels", [32, 33])
def test_large_images_have_the_bits_of_three_ops(channels):
    """Beyond the caches, where results go past them: the same bits for any number of threads, in any memory."""
    rng = np.random.default_rng(4)
    a, r, g = (rng.standard_normal((7, 120, 125, channels)).astype(np.float32).transpose(0, 3, 1, 2) for _ in range(3))
    assert a.nbytes > 12 << 20
    results = []
    for threads, fused in ((1, True), (2, True), (4, True), (2, False)):
        with pynn.threads(threads):
            m, x, res = nn.BatchNorm2d(channels), leaf(a), leaf(r)
            y = m(x, residual=res, relu=True) if fused else F.relu(m(x) + res)
            y.backward(pynn.tensor(g))
            results.append([p.numpy_copy() for p in (y.detach(), x.grad, res.grad, m.weight.grad, m.bias.grad)])
    for found in results[1:]:
        for got, want in zip(found, results[0]):
            np.testing.assert_array_equal(got, want)
    mean, var = a.mean((0, 2, 3), dtype=np.float64), a.var((0, 2, 3), dtype=np.float64)
    want = np.maximum((a - mean[:, None, None]) / np.sqrt(var + 1e-5)[:, None, None] + r, 0)
    np.testing.assert_allclose(results[0][0], want, rtol=0, atol=1e-5)
    out = np.empty(a.size + 16, np.float32)[3 : a.size + 3].reshape(a.shape)  # on no line's border
    session = nn.Sequential(nn.BatchNorm2d(channels)).session()
    np.testing.assert_array_equal(session.predict(a, out=out), session.predict(a))


@pytest.mark.parametrize("wanted", range(1, 8))
def test_each_gradient_alone_has_the_bits_of_all(wanted):
    rng = np.random.default_rng(3)
    arrays = [rng.standard_normal(s).astype(np.float32) for s in ((31, 19, 3, 1), (19,), (19,))]
    g = pynn.tensor(rng.standard_normal((31, 19, 3, 1)).astype(np.float32))
    every = [leaf(a) for a in arrays]
    F.batch_norm(every[0], None, None, *every[1:], training=True).backward(g)
    some = [leaf(a) if wanted >> k & 1 else pynn.tensor(a) for k, a in enumerate(arrays)]
    F.batch_norm(some[0], None, None, *some[1:], training=True).backward(g)
    for k in range(3):
        if wanted >> k & 1:
            np.testing.assert_array_equal(some[k].grad.numpy(), every[k].grad.numpy())
        else:
            assert some[k].grad is None


def test_norms_of_one_another():
    """Instance norm is group norm with a group for each channel; group norm with one group is layer norm."""
    x = pynn.randn(3, 6, 4, 5)
    np.testing.assert_array_equal(F.instance_norm(x).numpy(), F.group_norm(x, 6).numpy())
    layer = F.layer_norm(x, (6, 4, 5))
    np.testing.assert_allclose(F.group_norm(x, 1).numpy(), layer.numpy(), atol=2e-6)


def test_reset_and_repr():
    m = nn.BatchNorm1d(3)
    m(pynn.randn(5, 3))
    m.reset_running_stats()
    assert m.running_mean.tolist() == [0, 0, 0]
    assert m.running_var.tolist() == [1, 1, 1]
    assert m.num_batches_tracked.item() == 0
    assert repr(m) == "BatchNorm1d(3, eps=1e-05, momentum=0.1, affine=True, track_running_stats=True)"
    assert repr(nn.GroupNorm(2, 6)) == "GroupNorm(2, 6, eps=1e-05, affine=True)"
    assert not nn.InstanceNorm2d(3).state_dict()


def test_bad_arguments():
    x = pynn.ones(2, 3, 4, 4)
    for m, y in ((nn.BatchNorm2d(3), pynn.ones(2, 3)), (nn.BatchNorm1d(3), x), (nn.InstanceNorm2d(3), pynn.ones(2, 3))):
        with pytest.raises(
            ValueError, match=rf"{m._get_name()}: argument 'input': expected .*-D input, got shape \(2,"
        ):
            m(y)
    with pytest.raises(ValueError, match=r"batch_norm: argument 'weight': expected shape \[C\] with C=3, got \(4,\)"):
        nn.BatchNorm2d(4)(x)
    with pytest.raises(ValueError, match="InstanceNorm2d: argument 'input': expected 4 channels"):
        nn.InstanceNorm2d(4)(x)
    with pytest.raises(ValueError, match=r"batch_norm: .*expected more than 1 value for each channel .*\(1, 3, 1, 1\)"):
        nn.BatchNorm2d(3)(x[:1, :, :1, :1])
    with pytest.raises(ValueError, match=r"instance_norm: .*expected more than 1 value for each item and channel"):
        F.instance_norm(x[:, :, :1, :1])
    with pytest.raises(
        ValueError, match="GroupNorm: argument 'num_groups': expected a divisor of num_channels=6, got 4"
    ):
        nn.GroupNorm(4, 6)
    with pytest.raises(ValueError, match="batch_norm: expected running_mean and running_var, since"):
        F.batch_norm(x)
    with pytest.raises(ValueError, match="batch_norm: expected running_mean and running_var, or neither"):
        F.batch_norm(x, pynn.ones(3), training=True)
    with pytest.raises(ValueError, match="batch_norm: argument 'residual': expected relu=True beside it"):
        F.batch_norm(x, training=True, residual=x)
    with pytest.raises(ValueError, match=r"batch_norm: argument 'residual': expected input's shape \(2, 3, 4, 4\)"):
        F.batch_norm(x, training=True, residual=x[:1], relu=True)
    with pytest.raises(ValueError, match="batch_norm: argument 'momentum': expected a number, since no"):
        F.batch_norm(x, pynn.ones(3), pynn.ones(3), training=True, momentum=None)
    with pytest.raises(TypeError, match="batch_norm: argument 'x': expected dtype float32 as 'bias' has, got float64"):
        nn.BatchNorm2d(3)(x.double())
    with pytest.raises(ValueError, match=r"group_norm: argument 'input': expected shape \(N, C, …\)"):
        F.group_norm(x[0, 0, 0], 1)
