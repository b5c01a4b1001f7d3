"""S1 chapter 3: explicit Jacobians of three layers, their product, and backpropagation, which forms none of them.

python docs/lessons/s1_3_jacobians.py
"""

from __future__ import annotations

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


def main(short: bool = False) -> dict[str, np.ndarray]:
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


if __name__ == "__main__":
    np.set_printoptions(precision=8, suppress=True)
    for title, values in main().items():
        print(f"{title}\n{values}")
