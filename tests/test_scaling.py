"""Layers fitted on training data."""

import numpy as np
import pytest

import pynn
from pynn import nn

X = np.random.default_rng(0).standard_normal((50, 3)) * [1, 100, 1e-3] + [1e4, -3, 0]


def test_tables_are_brought_to_one_scale(tmp_path):
    for layer, want in (
        (nn.Standardize(3, dtype=np.float64), (X - X.mean(0)) / X.std(0)),
        (nn.Normalize(3, dtype=np.float64), (X - X.min(0)) / (X.max(0) - X.min(0))),
    ):
        assert layer.fit(X) is layer
        y = layer(pynn.tensor(X))
        np.testing.assert_allclose(y.numpy(), want, atol=1e-9)
        np.testing.assert_allclose(layer.inverse(y).numpy(), X, rtol=1e-12)
        assert not list(layer.parameters())
        model = nn.Sequential(layer, nn.Linear(3, 1, dtype=np.float64))
        pynn.save(model, tmp_path / "m")
        back = pynn.load(tmp_path / "m")
        np.testing.assert_array_equal(back.session().predict(X), model.session().predict(X))


def test_images_and_memory_maps(tmp_path):
    images = np.random.default_rng(0).integers(0, 255, (20, 3, 4, 5)).astype("u1")
    np.save(tmp_path / "x.npy", images)
    layer = nn.Standardize(3, dim=1).fit(np.load(tmp_path / "x.npy", mmap_mode="r"))
    y = layer(pynn.tensor(images.astype("f4"))).numpy()
    np.testing.assert_allclose(y.mean((0, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(y.std((0, 2, 3)), 1, atol=1e-5)


def test_parts_are_merged(monkeypatch):
    whole = nn.Standardize(3).fit(X)
    monkeypatch.setattr("pynn.nn.scaling.CHUNK", 100)
    for layer, other in ((nn.Standardize(3).fit(X), whole), (nn.Normalize(3).fit(X), nn.Normalize(3).fit(X))):
        np.testing.assert_allclose(layer.shift.numpy(), other.shift.numpy(), rtol=1e-6)
        np.testing.assert_allclose(layer.scale.numpy(), other.scale.numpy(), rtol=1e-6)


def test_a_feature_that_never_changes_is_only_shifted():
    layer = nn.Standardize(2).fit(np.array([[1.0, 5.0], [3.0, 5.0]]))
    np.testing.assert_array_equal(layer(pynn.tensor(np.array([[1, 5], [3, 6]], "f4"))).numpy(), [[-1, 0], [1, 1]])


def test_bad_data():
    layer = nn.Standardize(3)
    for bad, text in (
        (X[:, :2], r"expected 3 features along dimension -1, got shape \(50, 2\)"),
        (X[:0], "at least one sample"),
        (np.where(np.arange(50)[:, None] == 7, np.nan, X), r"got nan at X\[7, 0\]"),
    ):
        with pytest.raises(ValueError, match=text):
            layer.fit(bad)
    with pytest.raises(ValueError, match="'num_features': expected an integer >= 1, got 0"):
        nn.Normalize(0)
