"""S1 chapter 1: activations and their slopes, losses and outliers, one step of each optimizer, one step by hand.

python docs/lessons/s1_1_building_blocks.py [--picture PATH]
"""

from __future__ import annotations

import sys

import numpy as np

import pynn
from pynn import OPS, Tensor, nn, optim
from pynn.nn import functional as F

ACTIVATIONS = {  # §1.1
    "sigmoid": OPS.sigmoid,
    "tanh": OPS.tanh,
    "ReLU": F.relu,
    "leaky ReLU": lambda x: F.leaky_relu(x, 0.1),
    "GELU": F.gelu,
}
LOSSES = {  # §1.2, of each error against 0
    "MSE": lambda e: F.mse_loss(e, Tensor.zeros_like(e), reduction="none"),
    "MAE": lambda e: F.l1_loss(e, Tensor.zeros_like(e), reduction="none"),
    "Huber": lambda e: F.huber_loss(e, Tensor.zeros_like(e), reduction="none", delta=1.0),
    "log-squared": lambda e: F.log_squared_loss(e, Tensor.zeros_like(e), reduction="none"),
}
OPTIMIZERS = {  # §1.3: ε within the root; averaged momentum (dampening), which as in PyTorch starts at g, not at 0
    "SGD": lambda w: optim.SGD(w, lr=0.1),
    "Momentum": lambda w: optim.SGD(w, lr=0.1, momentum=0.9, dampening=0.9),
    "Adagrad": lambda w: optim.Adagrad(w, lr=0.1, eps_inside=True),
    "RMSProp": lambda w: optim.RMSprop(w, lr=0.1, alpha=0.9, eps_inside=True),
    "Adam": lambda w: optim.Adam(w, lr=0.1, eps_inside=True),
    "AdamW": lambda w: optim.AdamW(w, lr=0.1, weight_decay=0.1, eps_inside=True),
    "LAMB": lambda w: optim.LAMB(w, lr=0.1, eps_inside=True),
}


def with_slopes(functions: dict, x: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """(values, derivatives) at each x: a sum has the elements' derivatives as its gradient."""
    found = {}
    for name, f in functions.items():
        t = Tensor(x, requires_grad=True)
        y = f(t)
        found[name] = y.detach().numpy_copy(), pynn.grad(y.sum(), [t])[0].numpy_copy()
    return found


def steps(name: str, n: int) -> np.ndarray:
    """n steps on ½(4w₁² + w₂²) from (1, 1)."""
    w, points = Tensor(np.array([1.0, 1.0]), requires_grad=True), [np.ones(2)]
    optimizer = OPTIMIZERS[name]([w])
    for _ in range(n):
        optimizer.zero_grad()
        (0.5 * Tensor([4.0, 1.0], dtype=np.float64) * w * w).sum().backward()
        optimizer.step()
        points.append(w.numpy_copy())
    return np.stack(points)


def by_tables(rate: float = 0.5, seed: int = 0) -> dict[str, float]:
    """Tables 1.1–1.3: three sigmoid layers, the errors' way back, the update, with row vectors; against autograd.

    S1 adds lr·err because its error is Y − Ŷ: that is descent on ½‖Y − Ŷ‖².
    """
    rng = np.random.default_rng(seed)
    model = nn.Sequential(*[part for i, o in ((3, 4), (4, 4), (4, 2)) for part in (nn.Linear(i, o), nn.Sigmoid())])
    model.double()
    x, target = rng.standard_normal((1, 3)), rng.random((1, 2))
    weights = [(p.weight.numpy_copy().T, p.bias.numpy_copy()) for p in model[::2]]
    outputs = [x]
    for w, b in weights:
        outputs.append(1 / (1 + np.exp(-(outputs[-1] @ w + b))))
    error = (target - outputs[-1]) * outputs[-1] * (1 - outputs[-1])
    updated = []
    for (w, b), before in zip(reversed(weights), reversed(outputs[:-1])):
        updated.append((w + rate * before.T @ error, b + rate * error[0]))
        error = error @ w.T * before * (1 - before)
    optimizer = optim.SGD(model.parameters(), lr=rate)
    (0.5 * (model(Tensor(x)) - Tensor(target)) ** 2).sum().backward()
    optimizer.step()
    apart = [np.abs(p.weight.numpy_copy().T - w).max() + np.abs(p.bias.numpy_copy() - b).max()
             for p, (w, b) in zip(model[::2], reversed(updated))]  # fmt: skip
    return {f"layer {k + 1}": float(a) for k, a in enumerate(apart)}


def main(short: bool = False) -> dict:
    at = np.array([-10.0, -1.0, 0.0, 1.0, 10.0])
    logits = Tensor(np.array([[2.0, 1.0, -1.0]]), requires_grad=True)
    p = OPS.softmax(logits).detach().numpy_copy()[0]
    F.cross_entropy(logits, Tensor(np.array([0]))).backward()
    return {
        "activations": with_slopes(ACTIVATIONS, at),
        "losses": with_slopes(LOSSES, np.array([0.5, 10.0])),
        "softmax": p,
        "p − y": logits.grad.numpy_copy()[0],
        "ways": {name: steps(name, 10 if short else 100) for name in OPTIMIZERS},
        "tables": by_tables(),
    }


def draw(found: dict, path: str) -> None:
    from pynn.inspect._figures import figure

    x = np.linspace(-4, 4, 201)
    with figure(path, 2, 2) as axes:
        for name, (y, slope) in with_slopes(ACTIVATIONS, x).items():
            axes[0, 0].plot(x, y, label=name)
            axes[0, 1].plot(x, slope, label=name)
        axes[0, 0].set(title="activations", ylim=(-1.2, 4))
        axes[0, 1].set(title="their derivatives")
        for name, (y, _) in with_slopes(LOSSES, x).items():
            axes[1, 0].plot(x, y, label=name)
        axes[1, 0].set(title="losses of an error", ylim=(0, 5))
        for name, points in found["ways"].items():
            axes[1, 1].plot(*points.T, "o-", ms=2, lw=0.7, label=name)
        axes[1, 1].set(title="optimizers on ½(4w₁² + w₂²)")
        for ax in axes.ravel():
            ax.legend(fontsize="x-small")


if __name__ == "__main__":
    result = main()
    print("           value at −10, −1, 0, 1, 10                      derivative there")
    for name, (y, slope) in result["activations"].items():
        print(f"{name:11}", *(f"{v:8.4f}" for v in y), "  ", *(f"{v:8.4f}" for v in slope))
    print("\nloss         of an error of 0.5 and of an outlier of 10, and how hard each pulls")
    for name, (y, slope) in result["losses"].items():
        print(f"{name:12}", *(f"{v:9.4f}" for v in y), "  ", *(f"{v:9.4f}" for v in slope))
    print("\nsoftmax (2, 1, −1):", np.round(result["softmax"], 6), " p − y:", np.round(result["p − y"], 6))
    for name, points in result["ways"].items():
        print(f"{name:9} after 1 step {points[1].round(6)}, after 10 {points[10].round(6)}")
    print("Tables 1.1–1.3 against autograd, largest difference:", result["tables"])
    if "--picture" in sys.argv:
        draw(result, sys.argv[sys.argv.index("--picture") + 1])
