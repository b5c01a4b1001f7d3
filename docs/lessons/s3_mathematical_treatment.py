"""S3, A Mathematical Treatment: its equations in NumPy, line by line, against pynn; where a letter of them is wrong.

python docs/lessons/s3_mathematical_treatment.py [--picture PATH]
"""

from __future__ import annotations

import sys

import numpy as np

import pynn
from pynn import Tensor, nn
from pynn.nn import functional as F
from pynn.optim import SGD, Adam


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def softmax(z):
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def correlate(x, k, full: bool = False):
    """§8.1's (X * K)ᵢⱼ = Σ X[i+m, j+n]·K[m, n], which is no convolution but a correlation; full: of X within zeros."""
    m, n = k.shape
    if full:
        x = np.pad(x, ((m - 1, m - 1), (n - 1, n - 1)))
    shape = x.shape[0] - m + 1, x.shape[1] - n + 1
    return np.array([[np.sum(x[i : i + m, j : j + n] * k) for j in range(shape[1])] for i in range(shape[0])])


def backpropagation(rng) -> dict[str, float]:
    """§2–4: a batch of m samples through tanh and softmax; δ, the mean of δ·aᵀ, and cross-entropy's ŷ − y."""
    m = 6
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    x, labels = rng.standard_normal((m, 4)), rng.integers(0, 3, m)
    w1, b1, w2, b2 = (p.numpy_copy() for p in model.parameters())
    a1 = np.tanh(x @ w1.T + b1)
    d2 = softmax(a1 @ w2.T + b2) - np.eye(3)[labels]  # §3.2
    d1 = d2 @ w2 * (1 - a1 * a1)  # §4.2
    want = [d1.T @ x / m, d1.mean(0), d2.T @ a1 / m, d2.mean(0)]  # §4.4
    F.cross_entropy(model(Tensor(x)), Tensor(labels)).backward()
    return {name: apart(p.grad, g) for (name, p), g in zip(model.named_parameters(), want)}


def half_mse(rng) -> dict[str, float]:
    """§3.1: L = Σ‖y − ŷ‖²/2N has the gradient (ŷ − y)/N; the seed prints ŷ − y, which is that of N = 1."""
    y, guess = rng.standard_normal((2, 8, 1))
    z = Tensor(guess, requires_grad=True)
    (g,) = pynn.grad(0.5 * F.mse_loss(z, Tensor(y)), [z])
    return {"(ŷ − y)/N": apart(g, (guess - y) / 8), "ŷ − y": apart(g, guess - y)}


def optimizers(rng) -> dict[str, float]:
    """§5.2 and §5.3 for five steps on ½‖Cw‖²: v ← γv + η∇L, W ← W − v, and Adam, whose ε stands outside the root."""
    c, start = rng.standard_normal((4, 4)), rng.standard_normal(4)
    found = {}
    w, v = start.copy(), np.zeros(4)
    for _ in range(5):
        v = 0.9 * v + 0.01 * (c.T @ (c @ w))
        w = w - v
    found["momentum"] = apart(descended(lambda p: SGD(p, lr=0.01, momentum=0.9), c, start), w)
    w, m, v = start.copy(), np.zeros(4), np.zeros(4)
    for t in range(1, 6):
        g = c.T @ (c @ w)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        w = w - 0.01 / (np.sqrt(v / (1 - 0.999**t)) + 1e-8) * (m / (1 - 0.9**t))
    return found | {"Adam": apart(descended(lambda p: Adam(p, lr=0.01), c, start), w)}


def descended(make, c, start) -> Tensor:
    w = Tensor(start, requires_grad=True)
    optimizer = make([w])
    for _ in range(5):
        optimizer.zero_grad()
        (0.5 * (Tensor(c) @ w) ** 2).sum().backward()
        optimizer.step()
    return w


def batch_norm(rng) -> dict[str, float]:
    """§6.3, with the variance divided by m; the running variance is divided by m − 1, as PyTorch's."""
    x, layer = rng.standard_normal((7, 3)), nn.BatchNorm1d(3, momentum=1.0).double()
    y = layer(Tensor(x))
    return {"y": apart(y, (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5)),
            "running variance": apart(layer.running_var, x.var(0, ddof=1))}  # fmt: skip


def convolution(rng) -> dict[str, float]:
    """§8.3: ∂L/∂X is dY with K turned by 180°, correlated with zeros around ("full"), ∂L/∂K = X * dY."""
    x, k, dy = rng.standard_normal((6, 5)), rng.standard_normal((3, 2)), rng.standard_normal((4, 4))
    tx, tk = (Tensor(a[None, None], requires_grad=True) for a in (x, k))
    y = F.conv2d(tx, tk)
    dx, dk = pynn.grad(y, [tx, tk], Tensor(dy[None, None]))
    return {"Y": apart(y, correlate(x, k)), "∂L/∂X": apart(dx, correlate(dy, k[::-1, ::-1], full=True)),
            "∂L/∂K": apart(dk, correlate(x, dy))}  # fmt: skip


def output_sizes() -> dict[tuple, tuple[int, int]]:
    """§8.2: ⌊(W − K + 2P)/S⌋ + 1, and what a layer gives, of (W, K, P, S)."""
    sizes = ((28, 3, 1, 1), (28, 5, 0, 2), (224, 7, 3, 2), (8, 3, 0, 3))
    layers = {s: nn.Conv2d(1, 1, s[1], stride=s[3], padding=s[2]) for s in sizes}
    return {(w, k, p, s): ((w - k + 2 * p) // s + 1, layers[w, k, p, s](pynn.zeros(1, 1, w, w)).shape[2])
            for w, k, p, s in sizes}  # fmt: skip


def recurrent(rng) -> dict[str, float]:
    """§9: steps of RNN, LSTM and GRU. In S3's GRU the reset gate acts before the product and z weighs the new state, in
    PyTorch's the old one; S3's is nn.GRU(reset_after=False) with its update gate negated: 1 − σ(a) = σ(−a)."""
    x, n = rng.standard_normal((4, 1, 3)), 5
    found = {}
    for kind, step in (("RNN", rnn), ("LSTM", lstm), ("GRU", gru)):
        layer = (nn.GRU(3, n, reset_after=False) if kind == "GRU" else getattr(nn, kind)(3, n)).double()
        wx, wh, bx, bh = (p.numpy_copy() for p in layer.parameters())
        h, c = np.zeros(n), np.zeros(n)
        for xt in x[:, 0]:
            h, c = step(wx, wh, bx, bh, xt, h, c)
        found[kind] = apart(layer(Tensor(x))[0][-1, 0], h)
    return found


def rnn(wx, wh, bx, bh, x, h, c):
    return np.tanh(wh @ h + bh + wx @ x + bx), c


def lstm(wx, wh, bx, bh, x, h, c):
    i, f, g, o = np.split(wx @ x + bx + wh @ h + bh, 4)  # PyTorch's order
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def gru(wx, wh, bx, bh, x, h, c):
    (xr, xz, xn), (hr, hz, hn) = np.split(wx @ x + bx, 3), np.split(wh, 3)
    br, bz, bn = np.split(bh, 3)
    r, z = sigmoid(xr + hr @ h + br), sigmoid(-(xz + hz @ h + bz))
    return (1 - z) * h + z * np.tanh(xn + hn @ (r * h) + bn), c


def attention(rng) -> dict[str, float]:
    """§10: softmax(QKᵀ/√d)V, and several heads with W_Q, W_K, W_V in one matrix and Wᴼ behind them."""
    q, k, v = rng.standard_normal((3, 4, 6))
    one = softmax(q @ k.T / np.sqrt(6)) @ v
    layer = nn.MultiheadAttention(6, 2, batch_first=True).double()
    x = rng.standard_normal((4, 6))
    w, b = layer.in_proj_weight.numpy_copy(), layer.in_proj_bias.numpy_copy()
    q2, k2, v2 = (np.split(a, 2, axis=1) for a in np.split(x @ w.T + b, 3, axis=1))
    heads = [softmax(qh @ kh.T / np.sqrt(3)) @ vh for qh, kh, vh in zip(q2, k2, v2)]
    both = np.concatenate(heads, axis=1) @ layer.out_proj.weight.numpy_copy().T + layer.out_proj.bias.numpy_copy()
    tx = Tensor(x[None])
    return {"one head": apart(F.scaled_dot_product_attention(*(Tensor(a[None, None]) for a in (q, k, v)))[0, 0], one),
            "two heads": apart(layer(tx, tx, tx)[0][0], both)}  # fmt: skip


def apart(found: Tensor, want) -> float:
    """The largest difference."""
    return float(np.abs(found.detach().numpy_copy() - want).max())


EQUATIONS = {
    "backpropagation": backpropagation, "½MSE": half_mse, "optimizers": optimizers, "batch norm": batch_norm,
    "convolution": convolution, "recurrent": recurrent, "attention": attention,
}  # fmt: skip


def bumps(size: int = 24) -> dict[str, np.ndarray]:
    """§8: a square, what the kernel (−1, 0, 1) makes of it, and where the gradient of one pixel comes from."""
    x = np.zeros((size, size))
    x[6:18, 6:18] = 1
    k = np.array([[-1.0, 0.0, 1.0]] * 3)
    dy = np.zeros((size - 2, size - 2))
    dy[11, 11] = 1
    return {"X": x, "Y = X * K": correlate(x, k), "∂y₁₁/∂X": correlate(dy, k[::-1, ::-1], full=True)}


def main(short: bool = False) -> dict:
    pynn.manual_seed(0)
    rng = np.random.default_rng(0)
    found = {name: f(rng) for name, f in EQUATIONS.items()}
    return {"apart": found, "sizes": output_sizes(), "images": bumps(20 if short else 24)}


def draw(found: dict, path: str) -> None:
    from pynn.inspect._figures import figure

    with figure(path, 1, 3) as axes:
        for ax, (title, image) in zip(axes, found["images"].items()):
            ax.imshow(image, cmap="coolwarm", vmin=-3, vmax=3)
            ax.set(title=title)


if __name__ == "__main__":
    result = main()
    print("largest difference of pynn from the equation")
    for name, rows in result["apart"].items():
        print(f"{name:16}", ", ".join(f"{k}: {v:.1e}" for k, v in rows.items()))
    for (w, k, p, s), (said, given) in result["sizes"].items():
        print(f"W = {w}, K = {k}, P = {p}, S = {s}: {said}, and a layer gives {given}")
    if "--picture" in sys.argv:
        draw(result, sys.argv[sys.argv.index("--picture") + 1])
