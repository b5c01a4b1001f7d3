"""Which samples an epoch sees, and in which order. A sampler is a function of a NumPy generator, order(rng) → rows."""

from __future__ import annotations

import numpy as np

from ..arrays import as_count

__all__ = ["BalancedSampler", "RandomSampler", "WeightedRandomSampler", "class_weights"]


class RandomSampler:
    """Every sample once, in a new order each epoch."""

    def __init__(self, n: int):
        self.n = n

    def __len__(self) -> int:
        return self.n

    def order(self, rng: np.random.Generator) -> np.ndarray:
        """Rows of an epoch."""
        return rng.permutation(self.n)


class WeightedRandomSampler:
    """Samples drawn with chances in proportion to weights.

    Args:
        weights: (N,) numbers >= 0, one for each sample.
        num_samples: draws in an epoch.
        replacement: whether a sample may be drawn several times.

    Raises:
        ValueError: negative or not finite weights, none above 0, more draws than there are samples to draw.

    Source: torch.utils.data.WeightedRandomSampler.
    """

    def __init__(self, weights, num_samples: int, replacement: bool = True):
        w = np.asarray(weights, np.float64)
        if w.ndim != 1 or not np.all(np.isfinite(w)) or np.any(w < 0) or not w.sum() > 0:
            raise ValueError("WeightedRandomSampler: argument 'weights': expected numbers >= 0 in one dimension, "
                             f"one of them positive, got shape {w.shape}")  # fmt: skip
        num_samples = as_count("WeightedRandomSampler", "num_samples", num_samples)
        if not replacement and num_samples > np.count_nonzero(w):
            raise ValueError(f"WeightedRandomSampler: expected at most {np.count_nonzero(w)} draws without "
                             f"replacement, got num_samples={num_samples}")  # fmt: skip
        self.p, self.num_samples, self.replacement = w / w.sum(), num_samples, replacement

    def __len__(self) -> int:
        return self.num_samples

    def order(self, rng: np.random.Generator) -> np.ndarray:
        """Rows of an epoch."""
        return rng.choice(len(self.p), self.num_samples, self.replacement, self.p)


class BalancedSampler:
    """Every class as often as any other: an epoch has as many samples as there are, those of rare classes repeatedly.

    Within a class every sample comes once before one comes again.

    Args:
        labels: (N,) class of each sample.

    Raises:
        ValueError: no labels, or not one for each sample.
    """

    def __init__(self, labels):
        labels = np.asarray(labels)
        if labels.ndim != 1 or not len(labels):
            raise ValueError(
                f"BalancedSampler: argument 'labels': expected one label a sample, got shape {labels.shape}"
            )
        self.n = len(labels)
        self.rows = [np.flatnonzero(labels == c) for c in np.unique(labels)]

    def __len__(self) -> int:
        return self.n

    def order(self, rng: np.random.Generator) -> np.ndarray:
        """Rows of an epoch."""
        classes = len(self.rows)
        counts = np.full(classes, self.n // classes)
        counts[rng.permutation(classes)[: self.n % classes]] += 1  # whose turn the rest is, chance says
        drawn = []
        for rows, count in zip(self.rows, counts):
            turns = [rng.permutation(rows) for _ in range(-(-count // len(rows)))]
            drawn.append(np.concatenate(turns)[:count] if turns else rows[:0])
        return rng.permutation(np.concatenate(drawn))


def class_weights(labels, weights="balanced") -> np.ndarray:
    """A weight for each sample, by its class.

    Args:
        labels: (N,) classes.
        weights: "balanced": N/(K·count of the class), so that all K classes weigh the same; or {class: weight}, where
            others weigh 1; or an array indexed by class.

    Raises:
        ValueError: labels of another shape, a class that the array does not reach. TypeError: another kind of weights.
    """
    labels = np.asarray(labels)
    if labels.ndim != 1:
        raise ValueError(f"class_weight: expected one label a sample, got shape {labels.shape}")
    if isinstance(weights, str):
        if weights != "balanced":
            raise ValueError(f"class_weight: expected 'balanced', a dict or an array, got {weights!r}")
        _, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
        return (len(labels) / (len(counts) * counts))[inverse]
    if isinstance(weights, dict):
        found = np.ones(len(labels))
        for c, w in weights.items():
            found[labels == c] = w
        return found
    by_class = np.asarray(weights, np.float64)
    if by_class.ndim != 1:
        raise TypeError(f"class_weight: expected 'balanced', a dict or an array, got {type(weights).__name__}")
    known = labels.astype(np.int64)
    if len(known) and (known.min() < 0 or known.max() >= len(by_class)):
        raise ValueError(f"class_weight: expected a weight for each class up to {known.max()}, got {len(by_class)}")
    return by_class[known]
