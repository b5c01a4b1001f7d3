"""Penalties and constraints: F-REG, against closed forms and the seeds' numbers."""

import numpy as np
import pytest

import pynn
from pynn import OPS, Tensor, nn, testing
from pynn.optim import L1, L2, SGD, Lp, MaxNorm, Rescaling, Tangent


def model(seed=0):
    pynn.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)).double()


def gradients(net, penalty, *data):
    net.zero_grad()
    penalty(net, *data).backward()
    return {n: None if p.grad is None else p.grad.numpy_copy() for n, p in net.named_parameters()}


@pytest.mark.parametrize("p", [0.5, 1.0, 1.5, 2.0, 3.0])
def test_lp(p):
    """F-REG-3, on weights only: λ/p·Σ|w|ᵖ, gradient λ|w|^(p−2)·w, 0 at 0 (S1 §6.10–6.11)."""
    net = model()
    with pynn.no_grad():
        net[0].weight[0, 0] = 0.0
    found = gradients(net, Lp(0.3, p))
    w = net[0].weight.numpy_copy()
    want = 0.3 * np.abs(w + (w == 0)) ** (p - 2) * w
    np.testing.assert_allclose(found["0.weight"], want, rtol=1e-12)
    assert found["0.bias"] is None
    total = sum(np.sum(np.abs(net[k].weight.numpy_copy()) ** p) for k in (0, 2))
    np.testing.assert_allclose(Lp(0.3, p)(net).item(), 0.3 / p * total, rtol=1e-12)


def test_l1_and_l2_and_their_sum():
    """F-REG-1, F-REG-2: λ·sign(w) and λ·w; the sum's gradient is the sum of theirs."""
    net = model()
    both = L1(1e-2) + L2(1e-3, on="weight") + Lp(1e-2, 3, on="bias")
    found = gradients(net, both)
    for name in ("0.weight", "2.weight"):
        w = net.get_parameter(name).numpy_copy()
        np.testing.assert_allclose(found[name], 1e-2 * np.sign(w) + 1e-3 * w, rtol=1e-12)
    b = net[0].bias.numpy_copy()
    np.testing.assert_allclose(found["0.bias"], 1e-2 * np.abs(b) * b, rtol=1e-12)
    np.testing.assert_allclose(both(net).item(), L1(1e-2)(net).item() + L2(1e-3)(net).item()
                               + Lp(1e-2, 3, on="bias")(net).item())  # fmt: skip
    assert repr(both) == "L1(0.01, p=1, on='weight') + L2(0.001, p=2, on='weight') + Lp(0.01, p=3, on='bias')"


def test_which_parameters():
    """F-REG-4: layer by layer, by name or by a function; frozen ones never."""
    net = model()
    squares = {n: np.sum(p.numpy_copy() ** 2) / 2 for n, p in net.named_parameters()}
    for on, names in (("all", squares), ("bias", ["0.bias", "2.bias"]), ("2.", ["2.weight", "2.bias"]),
                      (lambda n, p: p.shape == (3, 4), ["0.weight"])):  # fmt: skip
        np.testing.assert_allclose(L2(1.0, on=on)(net).item(), sum(squares[n] for n in names), rtol=1e-12)
    net[0].weight.requires_grad = False
    np.testing.assert_allclose(L2(1.0)(net).item(), squares["2.weight"], rtol=1e-12)
    assert L2(1.0, on="9.")(net).item() == 0
    with pytest.raises(ValueError, match="expected on="):
        L2(1.0, on="weights")(net)
    with pytest.raises(ValueError, match="'strength'"):
        L1(-1.0)


def test_l2_fused_into_the_step():
    """F-REG-1, F-REG-4: groups with weight_decay take the steps of the penalty in the loss."""
    one, two = model(), model()
    x = Tensor(np.random.default_rng(0).standard_normal((5, 4)))
    fused, plain = SGD(L2(0.1).groups(one), lr=0.1), SGD(two.parameters(), lr=0.1)
    assert [g["weight_decay"] for g in fused.param_groups] == [0.1, 0.0]
    for _ in range(4):
        for net, opt, penalty in ((one, fused, None), (two, plain, L2(0.1))):
            opt.zero_grad()
            loss = (net(x) ** 2).sum()
            (loss if penalty is None else loss + penalty(net)).backward()
            opt.step()
    for a, b in zip(one.parameters(), two.parameters()):
        np.testing.assert_allclose(a.numpy_copy(), b.numpy_copy(), rtol=1e-12)


def test_deltas_are_unchanged():
    """S1 §6.11.2: a penalty on weights changes no gradient of an activation or bias."""
    net = model()
    x = Tensor(np.ones((2, 4)), requires_grad=True)

    def walk(penalty):
        net.zero_grad()
        loss = (net(x) ** 2).sum()
        return pynn.grad(loss + penalty(net) if penalty else loss, [x, net[0].bias, net[0].weight])

    plain, with_penalty = walk(None), walk(Lp(0.1, 3))
    np.testing.assert_array_equal(plain[0].numpy_copy(), with_penalty[0].numpy_copy())
    np.testing.assert_array_equal(plain[1].numpy_copy(), with_penalty[1].numpy_copy())
    w = net[0].weight.numpy_copy()
    np.testing.assert_allclose(with_penalty[2].numpy_copy() - plain[2].numpy_copy(), 0.1 * np.abs(w) * w, atol=1e-14)


def test_rescaling_symmetry():
    """F-REG-13, S1 §6.13.5: L2 goes from 13λ/2 to 18.25λ/2 under c = 2, the function and this penalty stay."""
    for c, twice in ((1.0, 13.0), (2.0, 18.25)):
        net = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Identity(), nn.Linear(1, 1, bias=False)).double()
        with pynn.no_grad():
            net[0].weight.fill_(2.0 * c)
            net[2].weight.fill_(3.0 / c)
        assert L2(0.1)(net).item() == pytest.approx(0.1 * twice / 2)
        assert net(Tensor(np.array([[1.5]]))).item() == pytest.approx(9.0)
        assert Rescaling(0.1, net[0].weight, net[2].weight)().item() == pytest.approx(0.6)


def test_rescaling_is_the_least_l2_of_all_rescalings():
    """Units scaled by (‖out‖/‖in‖)^½ make λ/2·Σw² smallest, and equal to it; derivatives, also of a dead unit."""
    net = model()
    net[0].bias.requires_grad = net[2].bias.requires_grad = False
    first, second = net[0].weight, net[2].weight
    penalty = Rescaling(0.3, first, second)
    a, b = first.numpy_copy(), second.numpy_copy()
    c = np.sqrt(np.linalg.norm(b, axis=0) / np.linalg.norm(a, axis=1))
    np.testing.assert_allclose(
        penalty().item(), 0.15 * (np.sum((c[:, None] * a) ** 2) + np.sum((b / c) ** 2)), rtol=1e-12
    )
    testing.gradcheck(lambda p, q: Rescaling(1.0, p, q)(), (a, b), order=2)
    with pynn.no_grad():
        first[0] = 0.0
    assert all(np.isfinite(g.numpy_copy()).all() for g in pynn.grad(penalty(), [first, second]))
    with pytest.raises(ValueError, match="expected weights of shapes"):
        Rescaling(1.0, first, first)


def test_tangent_penalty():
    """F-REG-10: of y = Wx it is λ/2·mean‖Wt‖²; 0 along what the function does not see; differentiable by weights."""
    rng = np.random.default_rng(0)
    w, x, t = rng.standard_normal((2, 3)), rng.standard_normal((5, 3)), rng.standard_normal((5, 3))
    net = nn.Linear(3, 2).double()
    with pynn.no_grad():
        net.weight.copy_(Tensor(w))
    penalty = Tangent(0.4, lambda x: Tensor(t))
    np.testing.assert_allclose(
        penalty(net, Tensor(x)).item(), 0.2 * np.mean(np.sum((t @ w.T) ** 2, axis=1)), rtol=1e-12
    )
    found = gradients(net, penalty, Tensor(x))["weight"]
    np.testing.assert_allclose(found, 0.4 / 5 * (t @ w.T).T @ t, rtol=1e-12)
    blind = Tangent(1.0, lambda x: Tensor(np.array([[1.0, 1.0]])))
    assert blind(lambda x: OPS.sin(x[:, :1] - x[:, 1:]), Tensor(np.array([[0.3, 0.1]]))).item() == 0


def test_max_norm():
    """F-REG-12: rows beyond C come back to it in their own direction; others stay."""
    net = nn.Linear(2, 3).double()
    rows = np.array([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]])
    with pynn.no_grad():
        net.weight.copy_(Tensor(rows))
        net.bias.fill_(9.0)
    MaxNorm(2.0)(net)
    np.testing.assert_allclose(net.weight.numpy_copy(), [[1.2, 1.6], [0.3, 0.4], [0.0, 0.0]], rtol=1e-14)
    assert net.bias.tolist() == [9.0] * 3
    MaxNorm(0.5, by_unit=False)(net)
    np.testing.assert_allclose(np.linalg.norm(net.weight.numpy_copy()), 0.5, rtol=1e-14)
    with pytest.raises(ValueError, match="'limit'"):
        MaxNorm(0.0)
