"""Pooling, resizing and padding: PyTorch's values, gradients and indices; modules; ties, NaN; errors."""

from pathlib import Path

import numpy as np
import pytest
from fixtures.make_pool_torch import CASES, draw, seed

import pynn
from pynn import nn
from pynn.nn import functional as F

TORCH = np.load(Path(__file__).parent / "fixtures" / "pool_torch.npz")


@pytest.mark.parametrize("name", CASES)
def test_against_torch(name):
    fn, options, _ = CASES[name]
    x = pynn.tensor(draw(name))
    x.requires_grad = True
    y = getattr(F, fn)(x, **options)
    if isinstance(y, tuple):
        y, index = y
        np.testing.assert_array_equal(index.numpy(), TORCH[f"{name}/index"])
        assert index.dtype == np.int64
    np.testing.assert_allclose(y.detach().numpy(), TORCH[f"{name}/y"], rtol=1e-12, atol=1e-12)
    y.backward(pynn.tensor(seed(y.shape)))
    np.testing.assert_allclose(x.grad.numpy(), TORCH[f"{name}/dx"], rtol=1e-12, atol=1e-12)


MODULES = [
    (nn.MaxPool2d(3, 2, 1), "max"), (nn.MaxPool2d(2), "max_chw"), (nn.AvgPool2d(3, 2, 1), "avg"),
    (nn.AvgPool2d(2, divisor_override=3), "avg_divisor"), (nn.AvgPool1d(4, 3, 2), "avg1d"),
    (nn.MaxPool1d(3, 2, 1), "max1d"), (nn.AdaptiveAvgPool2d((3, None)), "adaptive_avg"),
    (nn.AdaptiveMaxPool2d((3, 2)), "adaptive_max"), (nn.AdaptiveAvgPool1d(4), "adaptive_avg1d"),
    (nn.AdaptiveMaxPool1d(3), "adaptive_max1d"), (nn.Upsample(scale_factor=2), "nearest"),
    (nn.Upsample((9, 4), mode="bilinear", align_corners=True), "bilinear_corners"),
    (nn.ConstantPad2d((1, 2, 3, 0), 0.5), "pad"), (nn.ReflectionPad2d((2, 1, 3, 0)), "pad_reflect"),
    (nn.ReplicationPad2d((2, 1, 3, 0)), "pad_replicate"), (nn.PixelShuffle(2), "shuffle"),
    (nn.PixelUnshuffle(2), "unshuffle"),
]  # fmt: skip


@pytest.mark.parametrize(("module", "name"), MODULES, ids=lambda v: v if isinstance(v, str) else "")
def test_modules(module, name):
    y = module(pynn.tensor(draw(name)))
    np.testing.assert_allclose(y.numpy(), TORCH[f"{name}/y"], rtol=1e-12, atol=1e-12)
    assert repr(module).startswith(type(module).__name__ + "(")
    assert not module.state_dict()


def test_zero_pad():
    y = nn.ZeroPad2d(1)(pynn.ones(1, 2, 3, 3))
    assert y.shape == (1, 2, 5, 5)
    assert y.sum().item() == 18


def test_the_first_of_equal_elements_takes_the_gradient():
    x = pynn.zeros(1, 1, 4, 4)
    x.requires_grad = True
    F.max_pool2d(x, 2).sum().backward()
    assert x.grad.numpy()[0, 0].tolist() == [[1, 0, 1, 0], [0, 0, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]]


def test_a_nan_is_the_largest():
    a = np.zeros((1, 1, 2, 4), np.float32)
    a[0, 0, 1, 0] = np.nan
    y, index = F.max_pool2d(pynn.tensor(a), 2, return_indices=True)
    np.testing.assert_array_equal(y.numpy()[0, 0], [[np.nan, 0]])
    assert index.tolist() == [[[[4, 2]]]]


def test_a_window_of_more_than_256_elements():
    """Places no longer fit a byte."""
    x = pynn.randn(2, 3, 40, 30)
    x.requires_grad = True
    y, index = F.max_pool2d(x, (20, 30), return_indices=True)
    y.sum().backward()
    flat = x.detach().numpy().reshape(2, 3, 2, 600)
    np.testing.assert_array_equal(y.detach().numpy()[..., 0], flat.max(-1))
    np.testing.assert_array_equal(index.numpy()[..., 0], flat.argmax(-1) + np.array([0, 600]))
    assert x.grad.sum().item() == 12


def test_average_of_a_large_image_is_accurate():
    x = np.random.default_rng(0).standard_normal((1, 2, 300, 300)).astype(np.float32) + 1e3
    y = F.adaptive_avg_pool2d(pynn.tensor(x), 1).numpy()
    np.testing.assert_allclose(y[..., 0, 0], x.astype(np.float64).mean((2, 3)), rtol=2e-6)


def test_steps_with_pooling_and_padding_are_replayed():
    def step(x):
        y = F.interpolate(F.max_pool2d(F.pad(x, (1, 1, 1, 1)), 3, 2), scale_factor=2)
        return pynn.grad([(F.avg_pool2d(y, 2) ** 2).sum()], [x])[0]

    def leaf(k):
        x = pynn.randn(2, 3, 8, 9, generator=pynn.Generator(k))
        x.requires_grad = True
        return x

    run = pynn.compile(step)
    for k in range(3):
        np.testing.assert_array_equal(run(leaf(k)).numpy(), step(leaf(k)).numpy())
    assert run.replays == 2


def test_bad_arguments():
    x = pynn.ones(2, 3, 4, 4)
    for call, pattern in (
        (lambda: F.max_pool2d(x, 5), "max_pool2d: argument 'input': a window of 5 elements does not fit into 4"),
        (lambda: F.max_pool2d(x, 2, padding=2), "max_pool2d: argument 'padding': expected at most half"),
        (lambda: F.avg_pool2d(x, 2, stride=0), "avg_pool2d: argument 'stride': expected an integer >= 1 or 2"),
        (lambda: F.max_pool2d(pynn.ones(3), 2), "max_pool2d: argument 'input': expected 3 or 4 dimensions"),
        (lambda: F.avg_pool2d(x, 2, divisor_override=0), "avg_pool2d: argument 'divisor_override': expected"),
        (lambda: F.adaptive_avg_pool2d(x, 0), "argument 'output_size': expected sizes >= 1"),
        (lambda: F.interpolate(x), "interpolate: expected one of size and scale_factor"),
        (lambda: F.interpolate(x, 3, mode="bicubic"), "interpolate: argument 'mode': expected 'nearest' or 'bilinear'"),
        (lambda: F.interpolate(x, 3, align_corners=True), "interpolate: argument 'align_corners': expected mode"),
        (lambda: F.interpolate(x, scale_factor=0.1), "interpolate: expected sizes >= 1"),
        (lambda: F.pad(x, (4, 0), "reflect"), "at most 3 of 4 elements, got 4 before"),
        (lambda: F.pad(x, (1, 2, 3)), "pad: argument 'pad': expected at most 4 pairs"),
        (lambda: F.pad(x, (1, 2), "mirror"), "pad: argument 'mode': expected one of constant, reflect"),
        (lambda: F.pixel_shuffle(x, 2), "pixel_shuffle: argument 'input': expected a multiple of 4 channels, got 3"),
        (lambda: F.pixel_unshuffle(x, 3), "pixel_unshuffle: argument 'input': expected multiples of 3"),
    ):
        with pytest.raises(ValueError, match=pattern):
            call()
    with pytest.raises(ValueError, match="max_pool2d: argument 'kernel_size': expected an integer >= 1 or 2 of them"):
        F.max_pool2d(x, 2.5)
