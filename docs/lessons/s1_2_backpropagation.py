"""S1 chapter 2: forward and backward through a neuron and through three layers, digit for digit.

python docs/lessons/s1_2_backpropagation.py [--picture PATH]
"""

from __future__ import annotations

import sys

import numpy as np

import pynn
from pynn import OPS, Tensor


def leaf(value: float) -> Tensor:
    return Tensor(np.array(value, np.float64), requires_grad=True)


def single_neuron() -> dict[str, float]:
    """§2.7, Table 2.1: ŷ = σ(3·2 + 1). The seed cuts digits off where it prints 0.999088 and 4.16e-7."""
    w, b = leaf(3.0), leaf(1.0)
    z = w * 2.0 + b
    y = OPS.sigmoid(z)
    loss = 0.5 * (1.0 - y) ** 2
    dz, dw, db = pynn.grad(loss, [z, w, b])
    return {"z": z.item(), "ŷ": y.item(), "L": loss.item(), "dL/dz": dz.item(), "dL/dw": dw.item(), "dL/db": db.item()}


def two_neurons() -> dict[str, float]:
    """Tables 2.2–2.3, whose example the text leaves out: w₂ = 4, b₂ = −2 behind the neuron of Table 2.1, y = 1. The
    seed's σ′ = 0.105233 is 0.105285, and what is multiplied by it follows."""
    w1, b1, w2, b2 = leaf(3.0), leaf(1.0), leaf(4.0), leaf(-2.0)
    z1 = w1 * 2.0 + b1
    a1 = OPS.sigmoid(z1)
    z2 = w2 * a1 + b2
    y = OPS.sigmoid(z2)
    names = ("ŷ", "z2", "w2", "b2", "a1", "z1", "w1", "b1")
    found = pynn.grad(0.5 * (y - 1.0) ** 2, [y, z2, w2, b2, a1, z1, w1, b1], retain_graph=True)
    (slope,) = pynn.grad(y, [z2])
    return {"ŷ": y.item(), "σ′(z2)": slope.item()} | {f"dL/d{n}": g.item() for n, g in zip(names, found)}


def three_layers(rate: float = 0.1) -> tuple[dict[str, float], dict[str, float], dict[str, float]]:
    """§2.8 and §3.9: ReLU, tanh, sigmoid. (values, gradients, parameters after one step of gradient descent)."""
    p = {k: leaf(v) for k, v in {"w1": 1.5, "b1": -1.0, "w2": 0.5, "b2": 0.1, "w3": 2.0, "b3": -0.3}.items()}
    q = dict(p)
    for k, activation in ((1, lambda z: OPS.maximum(z, 0.0)), (2, OPS.tanh), (3, OPS.sigmoid)):
        before = q[f"a{k - 1}"] if k > 1 else 2.0
        q[f"z{k}"] = p[f"w{k}"] * before + p[f"b{k}"]
        q[f"a{k}"] = activation(q[f"z{k}"])
    loss = q["loss"] = 0.5 * (q["a3"] - 1.0) ** 2
    names = [n for n in reversed(q) if n != "loss"]
    gradients = dict(zip(names, (g.item() for g in pynn.grad(loss, [q[n] for n in names], retain_graph=True))))
    loss.backward()
    optimizer = pynn.optim.SGD(p.values(), lr=rate)
    optimizer.step()
    return {n: q[n].item() for n in q if n not in p}, gradients, {n: t.item() for n, t in p.items()}


def hessian_product() -> list[float]:
    """§2.11.1: H = [[2, 3], [3, 4]], u = (1, −1): Hu = (−1, −1) by a second backward pass."""
    h = Tensor(np.array([[2.0, 3.0], [3.0, 4.0]]))
    _, (hu,) = pynn.hvp(lambda w: 0.5 * (w * (h @ w)).sum(), [Tensor(np.zeros(2))], [Tensor(np.array([1.0, -1.0]))])
    return hu.tolist()


def main(short: bool = False) -> dict:
    values, gradients, updated = three_layers()
    return {
        "neuron": single_neuron(),
        "two neurons": two_neurons(),
        "values": values,
        "gradients": gradients,
        "updated": updated,
        "product": hessian_product(),
    }


def draw(found: dict, path: str) -> None:
    from pynn.inspect._figures import figure

    with figure(path, 1, 2) as axes:
        for ax, title in zip(axes, ("values", "gradients")):
            ax.barh(list(found[title]), list(found[title].values()))
            ax.invert_yaxis()
            ax.set(title=f"{title} of the three layers, in the order of their computation")
            ax.title.set_fontsize("small")


if __name__ == "__main__":
    result = main()
    for title, table in result.items():
        print(title)
        for name, value in table.items() if isinstance(table, dict) else enumerate(table):
            print(f"  {name:6} {value: .8g}")
    if "--picture" in sys.argv:
        draw(result, sys.argv[sys.argv.index("--picture") + 1])
