"""S1 chapter 5: subgradients, models of an error surface and its stationary points, a narrow valley and four ways
down, noise of mini-batches, gradients that vanish by activation and depth, batch norm against layer norm.

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


def subgradients() -> dict[str, float]:
    """§5.1: of the sets [−1, 1] of |x| and [0, 1] of ReLU at 0, the elements that are taken."""
    found = {}
    for name, f in (("|x|", abs), ("ReLU", nn.functional.relu)):
        x = Tensor(0.0, requires_grad=True)
        found[name] = pynn.grad(f(x), [x])[0].item()
    return found


def two_wells(w: Tensor) -> Tensor:
    """E = ¼w₁⁴ − ½w₁² + ½w₂²: minima at (±1, 0), a saddle at (0, 0)."""
    a, b = w[0], w[1]
    return 0.25 * a**4 - 0.5 * a * a + 0.5 * b * b


def surface() -> dict[str, str]:
    """§5.2.5–5.2.8, Table 5.1: the kind of a point by the signs of its curvatures."""
    found = {}
    for place in ((0.0, 0.0), (1.0, 0.0), (0.5, 0.5)):
        w = Tensor(np.array(place), requires_grad=True)
        found[str(place)] = str(inspect.classify(inspect.Hessian(lambda w=w: two_wells(w), [w])))
    return found


def models() -> inspect.stability.Taylor:
    """§5.2.2, §5.2.7: E and its first- and second-order models along (1, 1) from (0.5, 0.5); errors fall as s², s³."""
    w = Tensor(np.array([0.5, 0.5]), requires_grad=True)
    return inspect.taylor(lambda: two_wells(w), [w], np.array([1.0, 1.0]), [0.1, 0.01])


def batches(draws: int) -> inspect.GradientNoise:
    """§5.2.9: how far gradients of mini-batches lie from that of all data: σ/√B. Least squares of 200 samples."""
    rng = np.random.default_rng(0)
    x, y = Tensor(rng.standard_normal((200, 3))), Tensor(rng.standard_normal((200, 1)))
    w = Tensor(np.ones((3, 1)), requires_grad=True)
    return inspect.gradient_noise(lambda k: 0.5 * ((x[k] @ w - y[k]) ** 2).mean(), [w], 200, (1, 4, 16, 100), draws)


def rate() -> inspect.StableRate:
    """§5.2.10: η < 2/λmax, and what gradient descent does on either side."""
    w = Tensor(np.array(START), requires_grad=True)
    return inspect.stable_rate(lambda: 0.5 * (Tensor(np.array([STEEP, FLAT])) * w * w).sum(), [w])


def norms(batch: int, features: int = 6) -> dict[str, float]:
    """§5.3, Table 5.4: how much a sample's output of a layer in training depends on the other samples, and how far
    inference is from training; root mean squares."""
    pynn.manual_seed(0)
    rng = np.random.default_rng(0)
    layers = {"BN": nn.BatchNorm1d(features), "LN": nn.LayerNorm(features)}
    x = 3.0 + 2.0 * rng.standard_normal((batch, features)).astype(np.float32)
    other = x.copy()
    other[1:] = 3.0 + 2.0 * rng.standard_normal((batch - 1, features))
    found = {}
    for name, layer in layers.items():
        for _ in range(200):  # running averages
            layer(Tensor(3.0 + 2.0 * rng.standard_normal((batch, features)).astype(np.float32)))
        here, there = (layer(Tensor(a)).detach().numpy_copy()[0] for a in (x, other))
        found[f"{name}: other samples"] = float(np.sqrt(np.mean((here - there) ** 2)))
        infer = layer.eval()(Tensor(x)).detach().numpy_copy()[0]
        found[f"{name}: inference"] = float(np.sqrt(np.mean((here - infer) ** 2)))
    return found


def main(short: bool = False) -> dict:
    depths = (5, 20) if short else (5, 10, 20, 40)
    return {
        "subgradients": subgradients(),
        "surface": surface(),
        "models": models(),
        "noise": batches(40 if short else 400),
        "rate": rate(),
        "norms": {b: norms(b) for b in (2, 8, 64, 512)},
        "ways": {way: valley(way) for way in WAYS},
        "flows": {(a.__name__, d): flow(a, d) for a in (nn.Sigmoid, nn.Tanh, nn.ReLU) for d in depths},
    }


def draw(found: dict, path: str) -> None:
    from pynn.inspect._figures import figure

    with figure(path, 1, 3) as (left, right, last):
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
        for name in ("BN: other samples", "BN: inference", "LN: other samples"):
            last.plot(list(found["norms"]), [row[name] for row in found["norms"].values()], "o-", label=name)
        last.set(xlabel="batch", xscale="log", title="what a sample's output owes to its batch")
        last.legend(fontsize="x-small")


if __name__ == "__main__":
    result = main()
    for place, kind in result["surface"].items():
        print(f"two wells at {place}: {kind}")
    m = result["models"]
    for s, loss, one, two in zip(m.steps, m.loss, m.first, m.second):
        print(f"step {s}: E {loss:.6f}, first-order model off by {one - loss:.1e}, second-order by {two - loss:.1e}")
    print(result["rate"])
    for size, spread, expected in zip(result["noise"].sizes, result["noise"].spread, result["noise"].expected()):
        print(f"batches of {size}: gradients lie {spread:.3f} from the whole's, σ/√B = {expected:.3f}")
    for way, points in result["ways"].items():
        turns = int(np.sum(np.diff(np.sign(points[:, 0])) != 0))
        print(f"{way:17} {len(points) - 1:4} steps, {turns:4} times across the valley")
    for (name, depth), f in result["flows"].items():
        print(f"{name:8} {depth:3} layers: {f.words}")
    for batch, row in result["norms"].items():
        print(f"batch {batch:3}: a sample's output changes by", ", ".join(f"{k} {v:.4f}" for k, v in row.items()))
    print("at 0 the slope is", result["subgradients"])
    if "--picture" in sys.argv:
        draw(result, sys.argv[sys.argv.index("--picture") + 1])
