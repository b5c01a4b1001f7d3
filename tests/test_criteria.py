"""Losses of pynn/nn/criteria.py against SciPy, NumPy and closed forms; derivatives of orders 1 and 2 by differences."""

import numpy as np
import pytest
from scipy.spatial import distance
from scipy.special import expit, log_softmax, rel_entr, softmax

import pynn
from pynn import Tensor, nn, testing
from pynn.nn import functional as F

RNG = np.random.default_rng(4)


def close(got, want, tol=1e-12):
    np.testing.assert_allclose(got.detach().numpy_copy() if isinstance(got, Tensor) else got, want, rtol=tol, atol=tol)


def checked(fn, *args, order=2):
    testing.gradcheck(fn, args, order=order)


def reductions(fn, want):
    """fn(reduction) gives each reduction of the losses `want`."""
    close(fn("none"), want)
    close(fn("sum"), want.sum())
    close(fn("mean"), want.mean())
    with pytest.raises(ValueError, match="'reduction'"):
        fn("median")


# ---- classes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2), (0.8, 0.5), (-1, 0)])
def test_sigmoid_focal(alpha, gamma):
    """F-LOSS-7, binary: −α_t(1 − p_t)^γ ln p_t; γ = 0 without α is the cross-entropy; no overflow for large logits."""
    x, t = RNG.standard_normal((4, 3)), RNG.integers(0, 2, (4, 3)).astype(float)
    p = expit(x)
    pt = np.where(t == 1, p, 1 - p)
    at = 1 if alpha < 0 else np.where(t == 1, alpha, 1 - alpha)
    want = -at * (1 - pt) ** gamma * np.log(pt)
    reductions(lambda r: F.sigmoid_focal_loss(Tensor(x), Tensor(t), alpha, gamma, r), want)
    if alpha < 0:
        close(F.sigmoid_focal_loss(Tensor(x), Tensor(t), -1, 0, "mean"),
              F.binary_cross_entropy_with_logits(Tensor(x), Tensor(t)).item())  # fmt: skip
    checked(lambda a: F.sigmoid_focal_loss(a, Tensor(t), alpha, gamma), x)
    big = Tensor(np.array([1e4, -1e4]), requires_grad=True)
    loss = F.sigmoid_focal_loss(big, Tensor(np.array([1.0, 1.0])), 0.25, 2.0)
    close(loss, [0, 2500])
    loss.sum().backward()
    close(big.grad, [0, -0.25])


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal(gamma):
    """F-LOSS-7, multiclass, with class weights and dimensions behind the classes."""
    x, t, a = RNG.standard_normal((4, 3)), np.array([0, 2, 1, 2]), np.array([0.2, 1.0, 3.0])
    log_p = log_softmax(x, axis=1)[np.arange(4), t]
    want = -a[t] * (1 - np.exp(log_p)) ** gamma * log_p
    reductions(lambda r: F.focal_loss(Tensor(x), Tensor(t), a, gamma, r), want)
    close(nn.FocalLoss(a, gamma)(Tensor(x), Tensor(t)), want.mean())
    close(nn.FocalLoss(gamma=gamma, reduction="none")(Tensor(x), Tensor(t)), want / a[t])
    if gamma == 0:
        close(F.focal_loss(Tensor(x), Tensor(t), gamma=0), F.cross_entropy(Tensor(x), Tensor(t)).item())
    checked(lambda z: F.focal_loss(z, Tensor(t), a, gamma), x)
    image = np.moveaxis(x.reshape(2, 2, 3), 2, 1)
    close(F.focal_loss(Tensor(image), Tensor(t.reshape(2, 2)), a, gamma, "none"), want.reshape(2, 2))


def test_focal_of_a_sure_class():
    x = Tensor(np.array([[1e4, 0.0]]), requires_grad=True)
    loss = F.focal_loss(x, Tensor(np.array([0])), gamma=0.5)
    loss.backward()
    assert loss.item() == 0
    assert np.isfinite(x.grad.numpy_copy()).all()


def test_kl_divergence():
    """F-LOSS-10: Σ P ln(P/Q), 0·ln 0 = 0, against SciPy; log targets; batchmean."""
    p, q = softmax(RNG.standard_normal((4, 5)), axis=1), softmax(RNG.standard_normal((4, 5)), axis=1)
    p[0, :2] = 0.0
    want = rel_entr(p, q)
    reductions(lambda r: F.kl_div(Tensor(np.log(q)), Tensor(p), r), want)
    close(F.kl_div(Tensor(np.log(q)), Tensor(p), "batchmean"), want.sum() / 4)
    close(nn.KLDivLoss("batchmean")(Tensor(np.log(q)), Tensor(p)), want.sum() / 4)
    full = softmax(RNG.standard_normal((4, 5)), axis=1)
    close(F.kl_div(Tensor(np.log(q)), Tensor(np.log(full)), "sum", log_target=True), rel_entr(full, q).sum())
    checked(lambda a, b: F.kl_div(a, b, "sum"), np.log(q), full)
    g = Tensor(p, requires_grad=True)
    F.kl_div(Tensor(np.log(q)), g, "sum").backward()
    assert np.isfinite(g.grad.numpy_copy()).all()
    with pytest.raises(ValueError, match="kl_div: argument 'target'"):
        F.kl_div(Tensor(q), Tensor(p[:2]))


def test_nll_huber_smooth_l1():
    """F-LOSS-3 with δ, and F-LOSS-4's log-likelihood, as modules."""
    x, t = np.array([0.0, 0.0, 0.0, 0.0]), np.array([0.5, -2.0, 3.0, 1.0])
    close(nn.HuberLoss(delta=2.0, reduction="none")(Tensor(x), Tensor(t)), [0.125, 2.0, 2 * (3 - 1), 0.5])
    close(nn.SmoothL1Loss(beta=2.0, reduction="none")(Tensor(x), Tensor(t)), [0.0625, 1.0, 2.0, 0.25])
    log_p = log_softmax(RNG.standard_normal((3, 4)), axis=1)
    close(nn.NLLLoss(Tensor(np.array([1.0, 2.0, 3.0, 4.0])))(Tensor(log_p), Tensor(np.array([3, 0, 1]))),
          -(4 * log_p[0, 3] + log_p[1, 0] + 2 * log_p[2, 1]) / 7)  # fmt: skip


# ---- distances --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [1.0, 2.0, 3.0, np.inf])
def test_triplet(p):
    """F-LOSS-11: max(0, d(a,p) − d(a,n) + m), by SciPy's distances; swap takes the nearer of the two."""
    a, b, c = RNG.standard_normal((3, 6, 4))
    d = lambda u, v: np.array([distance.minkowski(x + 1e-6, y, p) for x, y in zip(u, v)])  # noqa: E731
    want = np.maximum(0, d(a, b) - d(a, c) + 0.7)
    reductions(lambda r: F.triplet_margin_loss(*map(Tensor, (a, b, c)), margin=0.7, p=p, reduction=r), want)
    swapped = np.maximum(0, d(a, b) - np.minimum(d(a, c), d(b, c)) + 0.7)
    close(nn.TripletMarginLoss(0.7, p, swap=True)(*map(Tensor, (a, b, c))), swapped.mean())
    assert 0 < (want > 0).sum() < 6 or p != 2
    checked(lambda *z: F.triplet_margin_loss(*z, margin=0.7, p=p), a, b, c, order=2 if p == 2 else 1)


def test_hard_triplets():
    """F-LOSS-11: by looking at every triplet."""
    x, labels = RNG.standard_normal((9, 3)), np.array([0, 0, 1, 1, 1, 2, 2, 0, 3])
    d = distance.cdist(x, x)
    for margin in (None, 1.0):
        found = list(zip(*F.hard_triplets(Tensor(x), labels, margin)))
        assert [a for a, _, _ in found] == list(range(8)), "the one without a partner is no anchor"
        for a, b, c in found:
            assert labels[a] == labels[b] != labels[c]
            assert a != b
            assert d[a, b] == max(d[a, k] for k in range(9) if labels[k] == labels[a])
            others = [d[a, k] for k in range(9) if labels[k] != labels[a]]
            semi = [v for v in others if margin and d[a, b] < v < d[a, b] + margin]
            np.testing.assert_allclose(d[a, c], min(semi or others))
    with pytest.raises(ValueError, match="expected 9 labels"):
        F.hard_triplets(Tensor(x), labels[:3])


def test_contrastive():
    """F-LOSS-12: pairs that belong together are pulled by ½d², others pushed beyond the margin."""
    a, b, t = RNG.standard_normal((6, 4)), RNG.standard_normal((6, 4)), np.array([1.0, 0, 1, 0, 0, 1])
    a[3] = b[3] + 0.1
    d = np.array([distance.euclidean(x + 1e-6, y) for x, y in zip(a, b)])
    want = np.where(t == 1, 0.5 * d**2, 0.5 * np.maximum(0, 1.5 - d) ** 2)
    reductions(lambda r: F.contrastive_loss(Tensor(a), Tensor(b), Tensor(t), 1.5, reduction=r), want)
    close(nn.ContrastiveLoss(1.5)(Tensor(a), Tensor(b), Tensor(t)), want.mean())
    checked(lambda u, v: F.contrastive_loss(u, v, Tensor(t), 1.5), a, b)
    u, v = Tensor(a, requires_grad=True), Tensor(b)
    F.contrastive_loss(u, v, Tensor(t), 1.5, reduction="sum").backward()
    toward = np.sum(u.grad.numpy_copy() * (a - b), axis=1)
    assert (toward[t == 1] > 0).all(), "descent brings them together"
    assert toward[3] < 0, "and moves these apart"


def test_cosine_embedding():
    """F-LOSS-13, by SciPy's cosine distance."""
    a, b, t = RNG.standard_normal((6, 4)), RNG.standard_normal((6, 4)), np.array([1, -1, 1, -1, -1, 1])
    a[1] = 2 * b[1]
    cos = np.array([1 - distance.cosine(x, y) for x, y in zip(a, b)])
    close(F.cosine_similarity(Tensor(a), Tensor(b)), cos)
    want = np.where(t == 1, 1 - cos, np.maximum(0, cos - 0.2))
    reductions(lambda r: F.cosine_embedding_loss(Tensor(a), Tensor(b), Tensor(t), 0.2, r), want)
    close(nn.CosineEmbeddingLoss(0.2)(Tensor(a), Tensor(b), Tensor(t)), want.mean())
    checked(lambda u, v: F.cosine_embedding_loss(u, v, Tensor(t), 0.2), a, b)
    zero = Tensor(np.zeros((1, 3)), requires_grad=True)
    F.cosine_embedding_loss(zero, Tensor(np.ones((1, 3))), Tensor(np.array([1]))).backward()
    assert np.isfinite(zero.grad.numpy_copy()).all()


# ---- regression and images ------------------------------------------------------------------------------------------


def test_log_squared():
    """F-LOSS-16, Table 3.3: log(1 + (v − t)²), dv = 2(v − t)/(1 + (v − t)²)."""
    v, t = RNG.standard_normal(7) * 3, RNG.standard_normal(7)
    reductions(lambda r: F.log_squared_loss(Tensor(v), Tensor(t), r), np.log(1 + (v - t) ** 2))
    x = Tensor(v, requires_grad=True)
    nn.LogSquaredLoss(reduction="sum")(x, Tensor(t)).backward()
    close(x.grad, 2 * (v - t) / (1 + (v - t) ** 2))
    checked(lambda a: F.log_squared_loss(a, Tensor(t)), v)


@pytest.mark.parametrize("power", [1, 2])
def test_total_variation(power):
    """F-LOSS-15: sums of neighbours' differences; 0 for a flat image, the height of the step times its length."""
    x = RNG.standard_normal((2, 3, 4, 5))
    want = sum((np.abs(np.diff(x, axis=d)) ** power).sum((1, 2, 3)) for d in (2, 3))
    reductions(lambda r: F.total_variation_loss(Tensor(x), power, r), want)
    close(nn.TotalVariationLoss(power)(Tensor(x)), want.mean())
    step = np.zeros((1, 1, 6, 8))
    step[..., 3:] = 2.0
    close(F.total_variation_loss(Tensor(step), power), 6 * 2.0**power)
    checked(lambda a: F.total_variation_loss(a, power), x)
    with pytest.raises(ValueError, match="expected shape"):
        F.total_variation_loss(Tensor(x[0]))


def test_perceptual():
    """F-LOSS-14: the distance of features; the network is frozen, in eval mode, and passes gradients to the input."""
    pynn.manual_seed(0)
    phi = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Dropout(0.5)).double()
    loss = nn.PerceptualLoss(phi)
    loss.train()
    assert loss.training
    assert not phi.training
    a, b = RNG.standard_normal((3, 4)), RNG.standard_normal((3, 4))
    w, c = phi[0].weight.numpy_copy(), phi[0].bias.numpy_copy()
    x, y = Tensor(a, requires_grad=True), Tensor(b, requires_grad=True)
    value = loss(x, y)
    ours, theirs = np.tanh(a @ w.T + c), np.tanh(b @ w.T + c)
    close(value, np.mean((ours - theirs) ** 2))
    value.backward()
    close(x.grad, (2 * (ours - theirs) / 18 * (1 - ours**2)) @ w)
    assert y.grad is None
    assert all(p.grad is None and not p.requires_grad for p in phi.parameters())

    class Two(nn.Module):
        def forward(self, x):
            return x, x * 2.0

    close(nn.PerceptualLoss(Two(), F.l1_loss)(Tensor(a), Tensor(b)), 3 * np.mean(np.abs(a - b)))
