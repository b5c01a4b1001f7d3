"""Models: torchvision's names, shapes that come out, gradients that reach every parameter; overlap losses."""

import math

import numpy as np
import pytest
from fixtures.resnet_names import COUNTS, parameters

import pynn
from pynn import models, nn, optim
from pynn.nn import functional as F
from pynn.testing import gradcheck


@pytest.mark.parametrize("name", COUNTS)
def test_resnet_has_torchvisions_parameters(name):
    model = getattr(models, name)()
    assert [(k, p.shape) for k, p in model.named_parameters()] == parameters(name)
    assert sum(p.size for p in model.parameters()) == COUNTS[name]
    buffers = [k for k, _ in model.named_buffers()]
    assert buffers[:3] == ["bn1.running_mean", "bn1.running_var", "bn1.num_batches_tracked"]
    assert list(model.state_dict())[:6] == ["conv1.weight", "bn1.weight", "bn1.bias", *buffers[:3]]


CALLS = {
    "lenet": (lambda: models.LeNet(image_size=16), (3, 1, 16, 16), (3, 10)),
    "resnet18 cifar": (lambda: models.resnet18(7, stem="cifar"), (2, 3, 16, 16), (2, 7)),
    "resnet50": (lambda: models.resnet50(5), (2, 3, 64, 64), (2, 5)),
    "unet": (lambda: models.UNet(2, 3, width=4), (2, 2, 12, 8), (2, 3, 12, 8)),
    "autoencoder": (lambda: models.ConvAutoencoder(1, 8, 3, 4), (2, 1, 8, 8), (2, 1, 8, 8)),
}


@pytest.mark.parametrize("name", CALLS)
def test_shapes_and_gradients(name):
    make, given, made = CALLS[name]
    pynn.manual_seed(0)
    model = make()
    x = pynn.randn(*given)
    y = model(x)
    assert y.shape == made
    (y * pynn.randn(*made)).sum().backward()
    for key, p in model.named_parameters():
        assert p.grad is not None, key
        assert np.isfinite(p.grad.numpy()).all(), key
        assert p.grad.numpy().any(), key
    model.eval()
    with pynn.no_grad():
        np.testing.assert_allclose(model(x[:1]).numpy(), model(x).numpy()[:1], rtol=2e-4, atol=2e-4)


def test_a_residual_block_is_its_equation():
    pynn.manual_seed(1)
    block = models.BasicBlock(4, 4)
    x = pynn.randn(3, 4, 5, 5)
    y = block(x)
    out = F.relu(nn.BatchNorm2d(4)(block.conv1(x)))
    out = F.relu(nn.BatchNorm2d(4)(block.conv2(out)) + x)
    np.testing.assert_array_equal(y.detach().numpy(), out.detach().numpy())


def test_zero_init_residual_begins_as_shortcuts():
    model = models.ResNet(models.BasicBlock, (1, 1, 1, 1), 3, stem="cifar", zero_init_residual=True)
    x = pynn.randn(2, 64, 4, 4)
    np.testing.assert_array_equal(model.layer1[0](x).detach().numpy(), F.relu(x).numpy())


def test_a_training_step_is_replayed():
    pynn.manual_seed(0)
    model = models.ResNet(models.BasicBlock, (1, 1, 1, 1), 3, stem="cifar")
    opt = optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    x, target = pynn.randn(4, 3, 8, 8), pynn.tensor([0, 1, 2, 1])

    def step(x, target):
        opt.zero_grad()
        loss = F.cross_entropy(model(x), target)
        loss.backward()
        opt.step()
        return loss

    run = pynn.compile(step)
    losses = [run(x, target).item() for _ in range(6)]
    assert run.replays == 5
    assert losses[-1] < 0.5 * losses[0]
    assert model.bn1.num_batches_tracked.item() == 6


def test_bad_models():
    with pytest.raises(ValueError, match="ResNet: argument 'stem'"):
        models.resnet18(stem="mnist")
    with pytest.raises(ValueError, match=r"UNet: argument 'x': expected .* multiples of 4"):
        models.UNet()(pynn.zeros(1, 1, 10, 8))
    with pytest.raises(ValueError, match="LeNet: argument 'image_size'"):
        models.LeNet(image_size=8)
    with pytest.raises(ValueError, match="ConvAutoencoder: argument 'image_size'"):
        models.ConvAutoencoder(image_size=10)


# ---- overlap losses: F-LOSS-8 and 9 ---------------------------------------------------------------------


@pytest.mark.parametrize("smooth", [0.0, 1.0])
def test_overlap_losses_in_closed_form(smooth):
    """Squares of 4 and 6 pixels that share 2: Dice 2·2/10, IoU 2/8. Equal masks lose nothing."""
    p, t = np.zeros((2, 1, 4, 4)), np.zeros((2, 1, 4, 4))
    p[0, 0, :2, :2] = 1
    t[0, 0, 1:3, :3] = 1
    p[1] = t[1] = 1
    dice = F.dice_loss(pynn.tensor(p), pynn.tensor(t), smooth, "none").numpy()
    iou = F.iou_loss(pynn.tensor(p), pynn.tensor(t), smooth, "none").numpy()
    np.testing.assert_allclose(dice, [[1 - (4 + smooth) / (10 + smooth)], [0]], atol=1e-15)
    np.testing.assert_allclose(iou, [[1 - (2 + smooth) / (8 + smooth)], [0]], atol=1e-15)
    for loss, each, module in ((F.dice_loss, dice, nn.DiceLoss), (F.iou_loss, iou, nn.IoULoss)):
        args = pynn.tensor(p), pynn.tensor(t)
        assert loss(*args, smooth).item() == pytest.approx(each.mean())
        assert module(smooth, reduction="sum")(*args).item() == pytest.approx(each.sum())


def test_iou_from_dice():
    """IoU = Dice/(2 − Dice), for probabilities too."""
    rng = np.random.default_rng(0)
    p, t = (pynn.tensor(rng.random((2, 3, 4, 5))) for _ in range(2))
    d = 1 - F.dice_loss(p, t, 0.0, "none").numpy()
    np.testing.assert_allclose(1 - F.iou_loss(p, t, 0.0, "none").numpy(), d / (2 - d), rtol=1e-12)


@pytest.mark.parametrize("loss", [F.dice_loss, F.iou_loss])
def test_derivatives_of_overlap_losses(loss):
    rng = np.random.default_rng(0)
    args = rng.random((2, 2, 3, 4)), rng.random((2, 2, 3, 4))
    gradcheck(lambda p, t: loss(p, t, reduction="sum"), args, order=2)


def test_empty_masks_and_bad_arguments():
    zero = pynn.zeros(1, 1, 3, 3)
    assert F.dice_loss(zero, zero).item() == 0
    assert F.iou_loss(zero, zero).item() == 0
    assert math.isnan(F.dice_loss(zero, zero, 0.0).item())
    with pytest.raises(ValueError, match="dice_loss: argument 'target': expected shape"):
        F.dice_loss(zero, zero[0])
    with pytest.raises(ValueError, match="iou_loss: argument 'smooth': expected a number >= 0"):
        F.iou_loss(zero, zero, -1.0)
    with pytest.raises(ValueError, match="dice_loss: argument 'reduction'"):
        F.dice_loss(zero, zero, reduction="max")
    with pytest.raises(ValueError, match=r"dice_loss: argument 'input': expected shape \(N, C, …\)"):
        F.dice_loss(zero[0, 0], zero[0, 0])
