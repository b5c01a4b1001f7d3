"""Ridge regression in closed form, and what it and early stopping do to singular directions."""

from __future__ import annotations

import numpy as np

__all__ = ["early_stopping_filter", "prior_strength", "ridge", "ridge_filter"]


def ridge(a: np.ndarray, b: np.ndarray, strength: float) -> np.ndarray:
    """argmin ‖Ax − b‖² + λ‖x‖² = (AᵀA + λI)⁻¹Aᵀb, by the singular value decomposition (S1 §6.1.1; F-REG-9)."""
    u, s, vt = np.linalg.svd(np.asarray(a, np.float64), full_matrices=False)
    return vt.T @ (ridge_filter(s, strength) * (u.T @ np.asarray(b, np.float64)).T).T


def ridge_filter(s, strength: float) -> np.ndarray:
    """σ/(σ² + λ), which stands for 1/σ: directions of small singular values are damped (S1 §6.3)."""
    s = np.asarray(s, np.float64)
    return s / (s * s + strength)


def early_stopping_filter(s, rate: float, steps: int) -> np.ndarray:
    """(1 − (1 − ησ²)ᵏ)/σ: what k steps of gradient descent on ½‖Ax − b‖² from 0 make of 1/σ (S1 §6.5.3; F-REG-7, 9)."""
    s = np.asarray(s, np.float64)
    return (1 - (1 - rate * s * s) ** steps) / s


def prior_strength(noise: float, prior: float) -> float:
    """λ = σ²/τ²: the ridge that a Gaussian prior of standard deviation τ means under noise σ (S1 §6.4; F-REG-14)."""
    return noise**2 / prior**2
