"""Noise: of a mini-batch's gradient, and of a whole training as bias and variance."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from ..arrays import as_count
from ..curvature import gradient_at
from ..recompute import repeatable
from ..tensor import Tensor

__all__ = ["BiasVariance", "GradientNoise", "bias_variance", "gradient_noise"]


@dataclass
class GradientNoise:
    """The spread of mini-batch gradients.

    Attributes:
        sizes: of the batches. spread: root of the gradient's total variance tr Σ_B for each size, measured.
        sigma: root of tr Σ of a single sample's gradient. gradient_norm: |G| of the whole data.
        scale: tr Σ/|G|², the batch size at which noise and gradient are alike (McCandlish et al., arXiv 1812.06162).
    """

    sizes: np.ndarray
    spread: np.ndarray
    sigma: float
    gradient_norm: float
    scale: float

    def expected(self) -> np.ndarray:
        """σ/√B (S1 §5.2.9)."""
        return self.sigma / np.sqrt(self.sizes)


def gradient_noise(
    loss: Callable[[np.ndarray], Tensor], params: Iterable[Tensor], n: int, sizes=(1, 4, 16, 64), draws: int = 64,
    seed: int = 0,
) -> GradientNoise:  # fmt: skip
    """How far gradients of random batches lie from the gradient of all data.

    Args:
        loss: loss(index) is the mean loss of the samples that the array of numbers index names.
        n: how many samples there are.
        sizes: batch sizes; drawn with replacement, draws times each.

    σ comes from the samples one by one (all, or 4·draws of them).

    Source: S1 §5.2.9; F-TR-5.
    """
    as_count("gradient_noise", "n", n)
    draws = as_count("gradient_noise", "draws", draws)
    params, loss = [p for p in params if p.requires_grad], repeatable(loss)
    rng = np.random.default_rng(seed)
    whole = gradient_at(lambda: loss(np.arange(n)), params)
    some = np.arange(n) if n <= 4 * draws else rng.choice(n, 4 * draws, replace=False)
    far = [np.sum((gradient_at(lambda i=i: loss(np.array([i])), params) - whole) ** 2) for i in some]
    variance = float(np.mean(far))
    spread = []
    for size in sizes:
        batches = rng.integers(0, n, (draws, size))
        off = [gradient_at(lambda k=k: loss(k), params) - whole for k in batches]
        spread.append(np.sqrt(np.mean([np.sum(d * d) for d in off])))
    norm = float(np.linalg.norm(whole))
    return GradientNoise(np.array(sizes), np.array(spread), variance**0.5, norm, variance / norm**2 if norm else np.inf)


@dataclass
class BiasVariance:
    """E(y − ŷ)² = bias² + variance + noise, means over the test points.

    Attributes: bias2, variance, noise, error (measured on the noisy targets), predictions [resamples, points, …].
    """

    bias2: float
    variance: float
    noise: float
    error: float
    predictions: np.ndarray

    def __str__(self):
        return (f"error {self.error:.4g} = bias² {self.bias2:.4g} + variance {self.variance:.4g} + noise "
                f"{self.noise:.4g}")  # fmt: skip


def bias_variance(
    fit: Callable[[np.ndarray, np.ndarray, int], Callable[[np.ndarray], np.ndarray]],
    draw: Callable[[np.random.Generator], tuple[np.ndarray, np.ndarray]],
    x: np.ndarray, truth: np.ndarray, noise: float = 0.0, resamples: int = 20, seed: int = 0,
) -> BiasVariance:  # fmt: skip
    """Bias and variance of a way to train, by training anew on data drawn anew.

    Args:
        fit: fit(X, y, seed) → a function that predicts.
        draw: draw(generator) → (X, y), a training set; of given data: a bootstrap sample of it.
        x, truth: test points, and the true function's values there, without noise.
        noise: standard deviation of the targets' noise, which no model can avoid.

    error is measured on targets truth + noise that are drawn for each resample.

    Source: S1 §6.14.1; F-UND-5.
    """
    resamples = as_count("bias_variance", "resamples", resamples, 2)
    rng = np.random.default_rng(seed)
    truth = np.asarray(truth, np.float64)
    found, errors = [], []
    for k in range(resamples):
        guess = np.asarray(fit(*draw(rng), seed + k)(x), np.float64)
        if guess.shape != truth.shape:
            raise ValueError(f"bias_variance: expected predictions of the truth's shape {truth.shape}, got "
                             f"{guess.shape}")  # fmt: skip
        found.append(guess)
        errors.append(np.mean((truth + noise * rng.standard_normal(truth.shape) - guess) ** 2))
    predictions = np.stack(found)
    bias2 = float(np.mean((predictions.mean(axis=0) - truth) ** 2))
    return BiasVariance(bias2, float(predictions.var(axis=0).mean()), noise**2, float(np.mean(errors)), predictions)
