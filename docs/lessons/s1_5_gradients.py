"""S1 chapter 5: a narrow valley and four ways down; gradients that vanish, by activation and depth.

python docs/lessons/s1_5_gradients.py [--picture PATH]
"""

from __future__ import annotations

import sys

import numpy as np

import pynn
from pynn import Tensor, inspect, nn
from pynn.optim import SGD, Adam, NewtonCG

STEEP, FLAT = 100.0, 1.0  # curvatures of the valley
START = (1.0, 1.0)
WAYS = {
    "gradient descent": lambda w: SGD([w], lr=0.019),  # just below 2/λmax = 0.02
    "momentum": lambda w: SGD([w], lr=0.01, momentum=0.8),
    "Adam": lambda w: Adam([w], lr=0.1),
    "Newton-CG": lambda w: NewtonCG([w], curvature="hessian", radius=10.0, tol=1e-9),
}


def valley(way: str, goal: float = 1e-6, most: int = 3000) -> np.ndarray:
    """§5.2.10, example 2: the points on the way to a loss below goal."""
    w, curvature = Tensor(np.array(START), requires_grad=True), Tensor(np.array([STEEP, FLAT]))
    optimizer, points = WAYS[way](w), [np.array(START)]

    def loss():
        return 0.5 * (curvature * w * w).sum()

    for _ in range(most):
        if loss().item() < goal:
            break
        if isinstance(optimizer, NewtonCG):
            optimizer.step(loss)
        else:
            optimizer.zero_grad()
            loss().backward()
            optimizer.step()
        points.append(w.numpy_copy())
    return np.stack(points)


def flow(activation: type, depth: int, width: int = 32) -> inspect.Flow:
    """§5.2.13: what arrives at the first of `depth` layers of what the last one gets; He's and Xavier's scales."""
    pynn.manual_seed(0)
    layers = []
    for _ in range(depth):
        linear = nn.Linear(width, width)
        init = nn.init.kaiming_normal_ if activation is nn.ReLU else nn.init.xavier_normal_
        init(linear.weight)
        layers.append(nn.Sequential(linear, activation()))
    return inspect.gradient_flow(nn.Sequential(*layers), pynn.randn(8, width), iterations=0)


def main(short: bool = False) -> dict:
    depths = (5, 20) if short else (5, 10, 20, 40)
    return {
        "ways": {way: valley(way) for way in WAYS},
        "flows": {(a.__name__, d): flow(a, d) for a in (nn.Sigmoid, nn.Tanh, nn.ReLU) for d in depths},
    }


def draw(found: dict, path: str) -> None:
    from pynn.inspect._figures import figure

    with figure(path, 1, 2) as (left, right):
        a, b = np.meshgrid(np.linspace(-1.1, 1.1, 80), np.linspace(-0.4, 1.1, 80))
        left.contour(a, b, 0.5 * (STEEP * a * a + FLAT * b * b), np.logspace(-2, 1.8, 14), linewidths=0.4)
        for way, points in found["ways"].items():
            left.plot(*points[:60].T, "o-", ms=2, lw=0.7, label=f"{way}: {len(points) - 1} steps")
        left.legend(fontsize="x-small")
        for name in ("Sigmoid", "Tanh", "ReLU"):
            flows = {d: f.ratio for (a, d), f in found["flows"].items() if a == name}
            right.semilogy(list(flows), list(flows.values()), "o-", label=name)
        right.set(xlabel="layers", ylabel="gradient at the first by that at the last")
        right.legend()


if __name__ == "__main__":
    result = main()
    for way, points in result["ways"].items():
        turns = int(np.sum(np.diff(np.sign(points[:, 0])) != 0))
        print(f"{way:17} {len(points) - 1:4} steps, {turns:4} times across the valley")
    for (name, depth), f in result["flows"].items():
        print(f"{name:8} {depth:3} layers: {f.words}")
    if "--picture" in sys.argv:
        draw(result, sys.argv[sys.argv.index("--picture") + 1])
