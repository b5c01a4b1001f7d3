"""S1 chapter 6: ridge and early stopping as spectral filters, the geometry of L1, L2 and Lp, symmetries, what rescaling
does to penalties, bias and variance, and double descent.

python docs/lessons/s1_6_regularization.py [--picture PATH]
"""

from __future__ import annotations

import sys

import numpy as np

import pynn
from pynn import Tensor, inspect, nn
from pynn.optim import L1, L2, SGD, Lp, Rescaling

STRENGTHS = (0.0, 0.5, 1.0, 2.0, 4.0)


def filters(strength: float = 0.05, rate: float = 0.5) -> dict[str, np.ndarray]:
    """§6.3, §6.5.3: what is left of 1/σ: ridge, and gradient descent stopped after 1/(η·λ) steps, are nearly alike."""
    s = np.logspace(-2, 0, 25)
    steps = round(1 / (rate * strength))
    return {
        "σ": s,
        "ridge": s * inspect.ridge_filter(s, strength),
        "early stopping": s * inspect.early_stopping_filter(s, rate, steps),
    }


def sparse(penalty, steps: int) -> np.ndarray:
    """§6.10: weights found where 3 of 20 inputs matter."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((60, 20))
    y = x[:, :3] @ np.array([[2.0], [-1.0], [1.5]]) + 0.1 * rng.standard_normal((60, 1))
    model = nn.Linear(20, 1, bias=False).double()
    pynn.nn.init.zeros_(model.weight)
    optimizer = SGD(model.parameters(), lr=0.05)
    for _ in range(steps):
        optimizer.zero_grad()
        (nn.functional.mse_loss(model(Tensor(x)), Tensor(y)) + penalty(model)).backward()
        optimizer.step()
    return model.weight.numpy_copy()[0]


def geometry(p: float, strength: float, steps: int, rate: float = 0.03) -> np.ndarray:
    """§6.10.3: where ½(4(w₁ − 2)² + (w₂ − 1)²) + λ/p·Σ|w|ᵖ is least, by gradient descent from the minimum (2, 1) of the
    first part: directions of small curvature shrink most, under L1 to 0."""
    model = nn.Linear(2, 1, bias=False).double()
    with pynn.no_grad():
        model.weight.copy_(Tensor(np.array([[2.0, 1.0]])))
    penalty, centre, curvature = Lp(strength, p), Tensor(np.array([[2.0, 1.0]])), Tensor(np.array([[4.0, 1.0]]))
    for k in range(steps):
        optimizer = SGD(model.parameters(), lr=rate * (1 - k / steps))  # down to 0, as |w| has a kink
        optimizer.zero_grad()
        ((0.5 * curvature * (model.weight - centre) ** 2).sum() + penalty(model)).backward()
        optimizer.step()
    return model.weight.numpy_copy()[0]


def rescaled() -> dict[str, tuple[float, float]]:
    """§6.13.5: W₁ = 2, W₂ = 3, and the same function as W₁ = 4, W₂ = 3/2: by L2 13/2 and 18.25/2, which differ; by a
    penalty that respects the symmetry, alike. (λ = 1)"""
    found: dict[str, list] = {"output at 1": [], "L2": [], "rescaling-invariant": []}
    for first, second in ((2.0, 3.0), (4.0, 1.5)):
        model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)).double()
        with pynn.no_grad():
            model[0].weight.fill_(first)
            model[1].weight.fill_(second)
        alike = Rescaling(1.0, model[0].weight, model[1].weight)
        for row, value in zip(found.values(), (model(Tensor(np.ones((1, 1)))), L2(1.0)(model), alike())):
            row.append(value.item())
    return {name: tuple(row) for name, row in found.items()}


def symmetries() -> dict[str, float]:
    """§6.8: relative differences of S(T(x)) from T′(S(x)): a convolution of a periodic image moves along with it, a sum
    over a set does not see its order, a linear layer of pixels has neither symmetry."""
    pynn.manual_seed(0)
    image, points = np.random.default_rng(0).standard_normal((2, 1, 8, 8)), np.random.default_rng(1).random((2, 5, 3))
    conv = nn.Conv2d(1, 2, 3, padding=1, padding_mode="circular").double()
    dense = nn.Linear(64, 64).double()

    def pixels(x):
        return dense(x.reshape(-1, 64)).reshape(x.shape)

    def shift(a):
        return np.roll(a, (1, 2), (2, 3))

    return {
        "convolution, shifted": inspect.equivariance(conv, image, shift, shift).relative,
        "linear layer, shifted": inspect.equivariance(pixels, image, shift, shift).relative,
        "set, reordered": inspect.equivariance(nn.SetPool(), points, lambda a: a[:, ::-1]).relative,
    }


def trade_off(orders, resamples: int) -> dict[int, inspect.BiasVariance]:
    """§6.14.1: polynomials fitted anew to 25 noisy points of a sine: stiff ones are biased, supple ones vary."""
    x = np.linspace(0.05, 0.95, 60)

    def draw(rng):
        at = rng.uniform(0, 1, 25)
        return at, np.sin(2 * np.pi * at) + 0.3 * rng.standard_normal(25)

    def fit(order):
        return lambda at, y, seed: np.poly1d(np.polyfit(at, y, order))

    return {k: inspect.bias_variance(fit(k), draw, x, np.sin(2 * np.pi * x), 0.3, resamples) for k in orders}


def double_descent(widths, samples: int = 40, draws: int = 8) -> dict[int, float]:
    """§6.14.3: the test error of the least-norm fit on random ReLU features, swept past `samples` of them."""
    found = {}
    for width in widths:
        errors = []
        for k in range(draws):
            pynn.manual_seed(k)
            features = nn.Sequential(nn.Linear(5, width), nn.ReLU()).double()
            rng = np.random.default_rng(k)
            x, beyond, beta = rng.standard_normal((samples, 5)), rng.standard_normal((500, 5)), rng.standard_normal(5)
            y = x @ beta + 0.3 * rng.standard_normal(samples)
            with pynn.no_grad():
                a, b = features(Tensor(x)).numpy_copy(), features(Tensor(beyond)).numpy_copy()
            weights = np.linalg.lstsq(a, y, rcond=None)[0]
            errors.append(np.mean((b @ weights - beyond @ beta) ** 2))
        found[width] = float(np.median(errors))
    return found


def main(short: bool = False) -> dict:
    steps = 400 if short else 3000
    widths = (5, 15, 40, 160, 640) if short else (5, 10, 15, 20, 30, 35, 40, 45, 60, 80, 160, 320, 640, 1280)
    return {
        "filters": filters(),
        "L1": sparse(L1(0.2), steps),
        "L2": sparse(L2(0.2), steps),
        "geometry": {p: np.stack([geometry(p, s, steps) for s in STRENGTHS]) for p in (1.0, 1.5, 2.0, 4.0)},
        "rescaled": rescaled(),
        "symmetries": symmetries(),
        "trade-off": trade_off((1, 3, 9), 30 if short else 200),
        "errors": double_descent(widths, draws=4 if short else 12),
    }


def draw(found: dict, path: str) -> None:
    from pynn.inspect._figures import figure

    with figure(path, 1, 4) as axes:
        f = found["filters"]
        for name in ("ridge", "early stopping"):
            axes[0].semilogx(f["σ"], f[name], label=name)
        axes[0].set(xlabel="singular value", ylabel="share that is kept")
        axes[0].legend()
        for k, name in enumerate(("L1", "L2")):
            axes[1].bar(np.arange(20) + 0.4 * k, found[name], 0.4, label=name)
        axes[1].set(xlabel="weight")
        axes[1].legend()
        axes[2].loglog(list(found["errors"]), list(found["errors"].values()), "o-")
        axes[2].set(xlabel="random features (40 samples)", ylabel="test error")
        a, b = np.meshgrid(np.linspace(-0.3, 2.4, 80), np.linspace(-0.3, 1.6, 80))
        axes[3].contour(a, b, 0.5 * (4 * (a - 2) ** 2 + (b - 1) ** 2), 14, linewidths=0.4)
        for p, points in found["geometry"].items():
            axes[3].plot(*points.T, "o-", ms=3, label=f"p = {p:g}")
        axes[3].set(title="where the penalty pulls the minimum")
        axes[3].legend(fontsize="x-small")


if __name__ == "__main__":
    result = main()
    print("σ       ridge   early stopping")
    for row in zip(*result["filters"].values()):
        print("  ".join(f"{v:.4f}" for v in row))
    for name in ("L1", "L2"):
        print(name, np.round(result[name], 3))
    for name, (before, after) in result["rescaled"].items():
        print(f"{name}: {before:g} and, rescaled, {after:g}")
    for name, off in result["symmetries"].items():
        print(f"{name}: off by {off:.1g}")
    for order, parts in result["trade-off"].items():
        print(f"polynomials of order {order}: {parts}")
    for p, points in result["geometry"].items():
        print(f"p = {p:g}, λ = {STRENGTHS}:", ", ".join(f"({a:.3f}, {b:.3f})" for a, b in points))
    for width, error in result["errors"].items():
        print(f"{width:5} features: test error {error:.4f}")
    if "--picture" in sys.argv:
        draw(result, sys.argv[sys.argv.index("--picture") + 1])
