"""S0, Neural Computation: why non-linearities, reverse mode and its cost, dropout as noise, scales of initial weights.

python docs/lessons/s0_neural_computation.py [--picture PATH]
"""

from __future__ import annotations

import sys
import timeit

import numpy as np

import pynn
from pynn import OPS, Tensor, nn
from pynn.nn import functional as F


def logistic_unit() -> dict[str, float]:
    """Binary Logistic Regression Unit: P = ½ on the boundary wᵀx + b = 0, and P grows along w."""
    w, b = np.array([2.0, -1.0]), 0.5
    points = {"on the boundary": [0.25, 1.0], "along w": [0.65, 0.8], "against w": [-0.15, 1.2]}
    return {name: OPS.sigmoid(Tensor(w) @ Tensor(np.array(x)) + b).item() for name, x in points.items()}


def collapse(activation: type[nn.Module]) -> float:
    """Non-linearities: how far two layers are from the one layer W₂W₁x + W₂b₁ + b₂, largest difference."""
    pynn.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), activation(), nn.Linear(6, 3)).double()
    first, _, second = model
    one = nn.Linear(4, 3).double()
    with pynn.no_grad():
        one.weight.copy_(second.weight @ first.weight)
        one.bias.copy_(second.weight @ first.bias + second.bias)
        x = pynn.randn(100, 4, dtype=np.float64)
        return float(abs(model(x) - one(x)).amax().item())


def graph() -> dict[str, float]:
    """Computation Graphs: v₃ = x² is used by v₅ = 2v₃ and v₆ = v₃ + 1, f = v₅v₆ at x = 3; both uses add up (+=)."""
    x = Tensor(3.0, requires_grad=True)
    v3 = x * x
    v5, v6 = 2.0 * v3, v3 + 1.0
    names, nodes = ("df/dv6", "df/dv5", "df/dv3", "df/dx"), (v6, v5, v3, x)
    return dict(zip(names, (g.item() for g in pynn.grad(v5 * v6, list(nodes)))))


def cost(width: int, repeat: int) -> dict[str, float]:
    """Backpropagation: all derivatives in a few forward passes; differences take one more for each parameter."""
    model = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 1))
    params, x = list(model.parameters()), pynn.randn(128, width)

    def forward():
        with pynn.no_grad():
            model(x)

    def both():
        pynn.grad((model(x) ** 2).sum(), params)

    best = [min(timeit.repeat(f, number=1, repeat=repeat)) for f in (forward, both)]
    return {"parameters": sum(p.size for p in params), "forward and backward, in forward passes": best[1] / best[0]}


def vectorization(n: int = 96) -> float:
    """Vectorization: the time of a matrix product by loops in Python, by that of one call."""
    x = pynn.randn(n, n, dtype=np.float64)
    a = x.tolist()

    def loops():
        return [[sum(row[k] * a[k][j] for k in range(n)) for j in range(n)] for row in a]

    return min(timeit.repeat(loops, number=1, repeat=1)) / min(timeit.repeat(lambda: x @ x, number=1, repeat=20))


def dropout(p: float, draws: int) -> dict[str, float]:
    """Dropout, of the inputs of a linear model: over masks the squares of the error have the mean
    ‖y − Xw‖² + p/(1 − p)·Σ xᵢⱼ²wⱼ², a ridge whose strength each input sets for its weight. p: dropped.

    The seed prints p/(1 − p) where its p is the probability of keeping; then it is (1 − p)/p.
    """
    rng = np.random.default_rng(0)
    x, w, noise = rng.standard_normal((20, 5)), rng.standard_normal(5), rng.standard_normal(20)
    y = x @ w + noise
    pynn.manual_seed(0)
    big = Tensor(np.broadcast_to(x, (draws, 20, 5)).copy())
    with pynn.no_grad():
        guess = F.dropout(big, p) @ Tensor(w)
        errors = ((guess - Tensor(y)) ** 2).sum(1).numpy_copy()
    return {
        "mean over masks": float(errors.mean()),
        "its standard error": float(errors.std() / np.sqrt(draws)),
        "without dropout": float(noise @ noise),
        "and the ridge": float(noise @ noise + p / (1 - p) * np.sum(x**2 * w**2)),
    }


def scales(init, activation: type[nn.Module], depth: int, width: int) -> np.ndarray:
    """Parameter Initialization: the root mean square of a signal behind each of so many layers."""
    pynn.manual_seed(0)
    x, found = pynn.randn(256, width), []
    with pynn.no_grad():
        for _ in range(depth):
            layer = nn.Linear(width, width, bias=False)
            init(layer.weight)
            x = activation()(layer(x))
            found.append(float((x * x).mean().item()) ** 0.5)
    return np.array(found)


STARTS = {
    "N(0, 0.01²), ReLU": (lambda w: nn.init.normal_(w, 0, 0.01), nn.ReLU),
    "He, ReLU": (lambda w: nn.init.kaiming_normal_(w, nonlinearity="relu"), nn.ReLU),
    "Xavier, ReLU": (nn.init.xavier_normal_, nn.ReLU),
    "Xavier, tanh": (nn.init.xavier_normal_, nn.Tanh),
    "orthogonal, no activation": (nn.init.orthogonal_, nn.Identity),
}


def main(short: bool = False) -> dict:
    depth, width = (10, 64) if short else (30, 256)
    return {
        "unit": logistic_unit(),
        "collapse": {a.__name__: collapse(a) for a in (nn.Identity, nn.Tanh, nn.ReLU)},
        "graph": graph(),
        "cost": cost(64 if short else 256, 5 if short else 30),
        "loops": vectorization(24 if short else 96),
        "dropout": {p: dropout(p, 2000 if short else 20000) for p in (0.1, 0.5, 0.8)},
        "scales": {name: scales(*how, depth, width) for name, how in STARTS.items()},
    }


def draw(found: dict, path: str) -> None:
    from pynn.inspect._figures import figure

    with figure(path, 1, 2) as (left, right):
        for name, sizes in found["scales"].items():
            left.semilogy(np.arange(1, len(sizes) + 1), sizes, label=name)
        left.set(xlabel="layers", ylabel="size of the signal")
        left.legend(fontsize="x-small")
        rows = found["dropout"]
        for name in ("mean over masks", "and the ridge", "without dropout"):
            right.plot(list(rows), [r[name] for r in rows.values()], "x--" if "ridge" in name else "o-", label=name)
        right.set(xlabel="probability of dropping an input", ylabel="squared error")
        right.legend()


if __name__ == "__main__":
    result = main()
    print("a logistic unit:", {k: round(v, 4) for k, v in result["unit"].items()})
    for name, apart in result["collapse"].items():
        print(f"two layers with {name:8} differ from one layer by {apart:.2g}")
    print("two uses add up:", result["graph"])
    print("the cost of a gradient:", result["cost"])
    print(f"a product by loops takes {result['loops']:.0f} times as long")
    for p, row in result["dropout"].items():
        print(f"dropping {p}:", ", ".join(f"{k} {v:.3f}" for k, v in row.items()))
    for name, sizes in result["scales"].items():
        print(f"{name:26} signal after 1 layer {sizes[0]:.3g}, after {len(sizes)} {sizes[-1]:.3g}")
    if "--picture" in sys.argv:
        draw(result, sys.argv[sys.argv.index("--picture") + 1])
