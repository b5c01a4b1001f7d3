"""S4, Session 01 Part C: backpropagation derived, slopes of activations, vanishing gradients, what it costs and keeps.

python docs/lessons/s4_derivations.py [--picture PATH]
"""

from __future__ import annotations

import itertools
import sys

import numpy as np

import pynn
from pynn import OPS, Tensor, inspect, nn
from pynn.nn import functional as F


def chain_rule(x: float = 2.0) -> dict[str, float]:
    """Calculus Review: y = (3x + 5)² has dy/dx = 18x + 30."""
    t = Tensor(x, requires_grad=True)
    (g,) = pynn.grad((3.0 * t + 5.0) ** 2, [t])
    return {"by pynn": g.item(), "18x + 30": 18 * x + 30}


def two_layers(rng) -> dict[str, float]:
    """Two-Layer Network and Vectorization: δ² = (a² − y) ⊙ σ′(z²), δ¹ = W²ᵀδ² ⊙ σ′(z¹); weights get δaᵀ, of a batch
    (1/B)ΔᵀA, biases δ. Largest differences from pynn's gradients of the mean over the batch of ½‖a² − y‖²."""
    batch = 8
    model = nn.Sequential(nn.Linear(3, 4), nn.Sigmoid(), nn.Linear(4, 2), nn.Sigmoid()).double()
    x, y = rng.standard_normal((batch, 3)), rng.random((batch, 2))
    w1, b1, w2, b2 = (p.numpy_copy() for p in model.parameters())
    a1 = 1 / (1 + np.exp(-(x @ w1.T + b1)))
    a2 = 1 / (1 + np.exp(-(a1 @ w2.T + b2)))
    d2 = (a2 - y) * a2 * (1 - a2)
    d1 = d2 @ w2 * a1 * (1 - a1)
    want = d1.T @ x / batch, d1.mean(0), d2.T @ a1 / batch, d2.mean(0)
    (((model(Tensor(x)) - Tensor(y)) ** 2).sum() * (0.5 / batch)).backward()
    return {name: float(np.abs(p.grad.numpy_copy() - w).max()) for (name, p), w in zip(model.named_parameters(), want)}


SLOPES = {  # Computing Gradients for Common Activation Functions: f, and f′ from the summary table
    "ReLU": (F.relu, lambda z, y: np.where(z > 0, 1.0, 0.0)),
    "sigmoid": (OPS.sigmoid, lambda z, y: y * (1 - y)),
    "tanh": (OPS.tanh, lambda z, y: 1 - y * y),
    "leaky ReLU": (lambda z: F.leaky_relu(z, 0.1), lambda z, y: np.where(z > 0, 1.0, 0.1)),
}


def slopes() -> dict[str, tuple[float, float]]:
    """(largest slope, largest difference from the table) over z from −6 to 6, 0 included."""
    found, z = {}, np.linspace(-6, 6, 241)
    for name, (f, table) in SLOPES.items():
        t = Tensor(z, requires_grad=True)
        y = f(t)
        g = pynn.grad(y.sum(), [t])[0].numpy_copy()
        found[name] = float(g.max()), float(np.abs(g - table(z, y.detach().numpy_copy())).max())
    return found


def cross_entropy() -> dict[str, np.ndarray]:
    """Softmax and Cross-Entropy: ∂L/∂z = p̂ − y, also where the exponentials would overflow."""
    z = Tensor(np.array([[1000.0, 998.0, 0.0]]), requires_grad=True)
    loss = F.cross_entropy(z, Tensor(np.array([1])))
    return {"L": np.array([loss.item()]), "∂L/∂z": pynn.grad(loss, [z])[0].numpy_copy()[0]}


def chain(w: float, depth: int) -> inspect.Flow:
    """Gradient Flow: linear layers w·Q, Q orthogonal, with tanh in its linear part (s = 1): (ws)^{L−ℓ} exactly."""
    pynn.manual_seed(0)
    layers = []
    for _ in range(depth):
        linear = nn.Linear(16, 16, bias=False).double()
        nn.init.orthogonal_(linear.weight, gain=w)
        layers.append(nn.Sequential(linear, nn.Tanh()))
    return inspect.gradient_flow(nn.Sequential(*layers), np.zeros((4, 16)), iterations=0)


def flops(widths, batch: int) -> dict[str, int]:
    """Complexity, in multiplications and additions: forward 2·B·Σ n·m. Backward takes that for ∂L/∂W and that again for
    δ, but for the first layer's, which nothing needs: about two forwards, so that the whole is about three. The seed's
    "all gradients for roughly twice the cost of a single forward pass" is right for the backward pass alone."""
    pairs = list(itertools.pairwise(widths))
    forward = sum(2 * batch * m * n for m, n in pairs)
    return {"forward": forward, "backward": 2 * forward - 2 * batch * widths[0] * widths[1]}


def memory(depth: int, batch: int, width: int) -> dict[str, int]:
    """Memory: what is kept grows with Σ n·B; without recording nothing is kept; a checkpointed network keeps the inputs
    of its blocks alone, and its gradients are the same to the bit."""
    pynn.manual_seed(0)
    model = nn.Sequential(*[nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh())
                            for _ in range(depth)])  # fmt: skip
    x, params = pynn.randn(batch, width), list(model.parameters())

    def blocks(x):
        for block in model:
            x = pynn.checkpoint(block, x)
        return x

    with pynn.no_grad():
        found = {"without recording": inspect.saved_tensors(model(x)).nbytes}
    plain, spared = model(x), blocks(x)
    found |= {"plain": inspect.saved_tensors(plain).nbytes, "checkpointed": inspect.saved_tensors(spared).nbytes}
    a, b = (pynn.grad((y * y).sum(), params) for y in (plain, spared))
    return found | {"gradients that differ": sum(not (p == q).all().item() for p, q in zip(a, b))}


def main(short: bool = False) -> dict:
    pynn.manual_seed(0)
    return {
        "chain": chain_rule(),
        "deltas": two_layers(np.random.default_rng(0)),
        "slopes": slopes(),
        "loss": cross_entropy(),
        "flows": {w: chain(w, 6 if short else 30) for w in (0.5, 0.9, 1.0, 1.1, 2.0)},
        "flops": flops((784, 256, 128, 10), 64),
        "memory": memory(3 if short else 10, 16, 32),
    }


def draw(found: dict, path: str) -> None:
    from pynn.inspect._figures import figure

    with figure(path, 1, 2) as (left, right):
        z = np.linspace(-6, 6, 241)
        for name, (f, table) in SLOPES.items():
            left.plot(z, table(z, f(Tensor(z)).numpy_copy()), label=name)
        left.set(title="derivatives of activations")
        left.legend(fontsize="x-small")
        for w, flow in found["flows"].items():
            right.semilogy([x.gradient for x in flow.layers], label=f"‖W‖ = {w}: {flow.verdict}")
        right.set(xlabel="layer", ylabel="gradient")
        right.legend(fontsize="x-small")


if __name__ == "__main__":
    result = main()
    print("d(3x + 5)²/dx at 2:", result["chain"])
    print("deltas by hand against pynn:", {k: f"{v:.1e}" for k, v in result["deltas"].items()})
    for name, (largest, off) in result["slopes"].items():
        print(f"{name:10} largest slope {largest:.4f}; off the table by {off:.1e}")
    print("cross-entropy of logits 1000, 998, 0 for the second:", {k: v.round(6) for k, v in result["loss"].items()})
    for w, flow in result["flows"].items():
        print(f"‖W‖ = {w}: {flow.words}")
    print("multiplications and additions of 784-256-128-10 at 64:", result["flops"])
    print("bytes kept for backward:", result["memory"])
    if "--picture" in sys.argv:
        draw(result, sys.argv[sys.argv.index("--picture") + 1])
