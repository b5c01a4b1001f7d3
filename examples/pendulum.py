"""An MLP learns the period of a pendulum that swings far, from measurements with noise.

T = 2π √(L/g) / agm(1, cos(θ/2)), with the arithmetic-geometric mean; for small angles θ, T = 2π √(L/g). What the
network finds is compared with the exact formula, which it never sees, and with the formula for small angles.

    python examples/pendulum.py
"""

from __future__ import annotations

import numpy as np

import pynn
from pynn import nn
from pynn.train import Trainer

BRIEF = {"epochs": 4}
NOISE = 0.01  # seconds, of a measured period


def period(length: np.ndarray, gravity: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """The exact period in seconds, for metres, m/s² and radians."""
    a, b = np.ones_like(angle), np.cos(angle / 2)
    for _ in range(6):  # converges quadratically
        a, b = (a + b) / 2, np.sqrt(a * b)
    return small_angles(length, gravity) / a


def small_angles(length: np.ndarray, gravity: np.ndarray) -> np.ndarray:
    return 2 * np.pi * np.sqrt(length / gravity)


def data(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(X, T): lengths of 0.2 to 2 m, gravity from the Moon's to Jupiter's, amplitudes up to 160°."""
    X = np.stack([rng.uniform(0.2, 2.0, n), rng.uniform(1.6, 24.8, n), rng.uniform(0.0, 2.8, n)], 1)
    return X, period(*X.T)[:, None]


def main(epochs: int = 60, seed: int = 0, compile: bool = True, progress: bool = True) -> dict:
    rng = np.random.default_rng(seed)
    X, T = data(4000, rng)
    X_test, T_test = data(1000, rng)
    center, spread = X.mean(0), X.std(0)
    pynn.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 1))
    trainer = Trainer(model, nn.MSELoss(), pynn.optim.Adam(model.parameters(), lr=3e-3), compile=compile)
    noisy = T + rng.normal(0, NOISE, T.shape)
    history = trainer.fit((X - center) / spread, noisy, epochs=epochs, batch_size=64, progress=progress)
    found = trainer.predict((X_test - center) / spread)
    return {
        "trainer": trainer,
        "history": history,
        "rmse": float(np.sqrt(np.mean((found - T_test) ** 2))),
        "rmse of small angles": float(np.sqrt(np.mean((small_angles(*X_test.T[:2])[:, None] - T_test) ** 2))),
    }


if __name__ == "__main__":
    found = main()
    print(f"Root mean square error of the period: {found['rmse']:.4f} s; measurements had {NOISE} s of noise")
    print(f"The formula for small angles: {found['rmse of small angles']:.4f} s")
