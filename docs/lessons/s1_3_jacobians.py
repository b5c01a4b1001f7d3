"""S1 chapter 3: explicit Jacobians of three layers, their product, and backpropagation, which forms none of them; how
the loss enters by the first backward signal alone.

python docs/lessons/s1_3_jacobians.py [--picture PATH]
"""

from __future__ import annotations

import sys

import numpy as np

import pynn
from pynn import OPS, Tensor, inspect


def constant(values) -> Tensor:
    return Tensor(np.array(values, np.float64))


LAYERS = {  # §3.5.1
    "J1": lambda x: OPS.maximum(constant([[1.0, 2.0], [-0.5, 1.5]]) @ x + constant([0.1, -0.2]), 0.0),
    "J2": lambda a: OPS.tanh(constant([[0.7, -1.2], [1.1, 0.3]]) @ a + constant([0.05, -0.1])),
    "J3": lambda a: OPS.sigmoid(constant([[1.4, -0.8]]) @ a + 0.2),
}


def network(x: Tensor) -> Tensor:
    for layer in LAYERS.values():
        x = layer(x)
    return x


def v7(x1: Tensor, x2: Tensor) -> Tensor:
    """§3.11.1: v₇ = x₁·e^x₂ + cos(x₁x₂)."""
    return x1 * OPS.exp(x2) + OPS.cos(x1 * x2)


SIGNALS = {  # Table 3.3: dv₇ of L = v₇, ½(v₇ − t)², |v₇ − t| and log(1 + (v₇ − t)²); nothing else of backward changes
    "v7": lambda v, t: 1.0,
    "½(v7 − t)²": lambda v, t: v - t,
    "|v7 − t|": lambda v, t: float(np.sign(v - t)),
    "log(1 + (v7 − t)²)": lambda v, t: 2 * (v - t) / (1 + (v - t) ** 2),
}


def descend(goal: str, start: float, rate: float, steps: int, target: float = 0.0) -> np.ndarray:
    """Gradient descent from (start, start), its seed the loss's dv₇: the points (x₁, x₂, v₇) on the way."""
    x1, x2 = Tensor(start, dtype=np.float64, requires_grad=True), Tensor(start, dtype=np.float64, requires_grad=True)
    points = []
    for k in range(steps + 1):
        v = v7(x1, x2)
        points.append((x1.item(), x2.item(), v.item()))
        if k < steps:
            dv7 = Tensor(SIGNALS[goal](v.item(), target), dtype=np.float64)
            d1, d2 = pynn.grad(v, [x1, x2], dv7)
            with pynn.no_grad():
                x1.copy_(x1 - rate * d1)
                x2.copy_(x2 - rate * d2)
    return np.array(points)


def experiments() -> dict[str, np.ndarray]:
    """§3.15, with the steps and rates of the seed's code, and Table 3.3's robust losses toward the same target.

    §3.15.3 prints (−42.54, −82.86) for its third; its own code leads to (2.28e-5, 0.3793), where v₇ is 1 as well.
    """
    return {
        "v7 down": descend("v7", 0.6, 1e-2, 10),
        "v7 → 0": descend("½(v7 − t)²", 0.5, 1e-3, 5000),
        "v7 → 1": descend("½(v7 − t)²", 1.5, 1e-3, 5000, 1.0),
        "v7 → 1, |v7 − t|": descend("|v7 − t|", 1.5, 1e-3, 5000, 1.0),
        "v7 → 1, log-squared": descend("log(1 + (v7 − t)²)", 1.5, 1e-3, 5000, 1.0),
    }


def layers() -> dict[str, np.ndarray]:
    """The Jacobian of each layer and of all, (ŷ − y)·J by their product, and the same by one backward pass (§3.5–3.6).

    Where the seed's §3.5.6 prints ∇ₓL = (−0.002876, 0.000531), the product of its own Jacobians is §3.6.3's.
    """
    x = a = constant([2.0, 1.0])
    found = {}
    for name, layer in LAYERS.items():
        found[name] = inspect.jacobian(layer, a).numpy_copy()
        a = layer(a).detach()
    found["network"] = inspect.jacobian(network, x).numpy_copy()
    found["by product"] = (a.numpy_copy() - 1.0) @ found["J3"] @ found["J2"] @ found["J1"]
    _, gradient = pynn.vjp(lambda x: 0.5 * ((network(x) - 1.0) ** 2).sum(), x)
    found["by backpropagation"] = gradient.numpy_copy()
    return found


def main(short: bool = False) -> dict[str, np.ndarray]:
    return layers() | experiments()


def draw(found: dict, path: str) -> None:
    from pynn.inspect._figures import figure

    a, b = np.meshgrid(np.linspace(-1.2, 1.8, 120), np.linspace(-0.6, 1.8, 120))
    with figure(path, 1, 2) as (left, right):
        drawn = left.contour(a, b, v7(Tensor(a), Tensor(b)).numpy_copy(), np.linspace(-3, 10, 27), linewidths=0.4)
        left.clabel(drawn, fontsize="x-small")
        for name in experiments():
            left.plot(*found[name][:, :2].T, lw=1.2, label=name)
            right.plot(found[name][:, 2], label=name)
        left.set(title="v7 and the ways on it", xlabel="x1", ylabel="x2")
        right.set(xlabel="steps", ylabel="v7", xscale="symlog")
        right.legend(fontsize="x-small")


if __name__ == "__main__":
    np.set_printoptions(precision=8, suppress=True)
    result = main()
    for title, values in result.items():
        if title.startswith("v7"):
            print(f"{title}: after {len(values) - 1} steps x1, x2, v7 = {values[-1]}")
        else:
            print(f"{title}\n{values}")
    if "--picture" in sys.argv:
        draw(result, sys.argv[sys.argv.index("--picture") + 1])
