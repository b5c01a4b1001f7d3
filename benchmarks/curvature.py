"""What curvature costs: Hessian–vector products against gradients, eigenvalues, Newton–CG against Adam.

python benchmarks/curvature.py [hvp] [eigenvalues] [newton] [--threads N] [--seconds N]
"""

from __future__ import annotations

import argparse
import itertools
import time

import numpy as np

import pynn
from pynn import nn
from pynn.inspect import GaussNewton, Hessian, eigenvalues
from pynn.nn import functional as F
from pynn.optim import Adam, NewtonCG


def mlp(*widths, activation=nn.ReLU):
    layers = [part for i, o in itertools.pairwise(widths) for part in (nn.Linear(i, o), activation())]
    return nn.Sequential(*layers[:-1])


def cnn():
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64 * 49, 128), nn.ReLU(), nn.Linear(128, 10),
    )  # fmt: skip


def digits():
    from sklearn.datasets import load_digits

    data = load_digits()
    return pynn.Tensor((data.data / 16).astype(np.float32)), pynn.Tensor(data.target)


def products(name, model, shape, rounds):
    """Times of products by that of a gradient, round by round: median and quartiles."""
    rng = np.random.default_rng(0)
    x, y = pynn.Tensor(rng.standard_normal(shape).astype(np.float32)), pynn.Tensor(rng.integers(0, 10, shape[0]))
    params = list(model.parameters())
    vs = [pynn.randn(*p.shape) for p in params]

    def gradient(x=x, create_graph=False):
        return pynn.grad(F.cross_entropy(model(x), y), params, create_graph=create_graph)

    def hvp(x=x):
        return pynn.grad(list(gradient(x, True)), params, vs)

    def outputs():
        z = model(x)
        return F.cross_entropy(z, y), z

    h, g = Hessian(lambda: outputs()[0], params), GaussNewton(outputs, params)
    planned = [pynn.compile(gradient), pynn.compile(hvp)]
    calls = {"gradient": gradient, "hvp": hvp, "hvp again": lambda: h.product(vs), "ggn again": lambda: g.product(vs),
             "gradient, plan": lambda: planned[0](x), "hvp, plan": lambda: planned[1](x)}  # fmt: skip
    for call in calls.values():
        call(), call()
    times = np.empty((rounds, len(calls)))
    for r in range(rounds):
        for k, call in enumerate(calls.values()):
            start = time.perf_counter()
            call()
            times[r, k] = time.perf_counter() - start
    print(f"{name}: gradient {np.median(times[:, 0]) * 1e3:.3f} ms, by plan {np.median(times[:, 4]) * 1e3:.3f} ms")
    for k, what in enumerate(calls):
        if what not in ("gradient", "gradient, plan"):
            low, mid, high = np.percentile(times[:, k] / times[:, 4 if "plan" in what else 0], [25, 50, 75])
            print(f"  {what:10} {mid:.2f} ({low:.2f} to {high:.2f}) times its gradient")


def top_eigenvalues():
    """The ten largest of 64-256-128-10 on all 1797 digits."""
    x, y = digits()
    model = mlp(64, 256, 128, 10)
    start = time.perf_counter()
    h = Hessian(lambda: F.cross_entropy(model(x), y), model.parameters())
    found = eigenvalues(h, 10)
    print(
        f"10 eigenvalues: {time.perf_counter() - start:.2f} s, {h.products} products; {found[0]:.3f} to {found[-1]:.3f}"
    )


def autoencoder():
    pynn.manual_seed(0)
    widths = (64, 128, 64, 32, 8, 32, 64, 128, 64)
    layers = []
    for k, (i, o) in enumerate(itertools.pairwise(widths)):
        linear = nn.Linear(i, o)
        nn.init.xavier_normal_(linear.weight, gain=2.0)
        nn.init.zeros_(linear.bias)
        layers += [linear] if k in (3, 7) else [linear, nn.Sigmoid()]
    return nn.Sequential(*layers)


def newton(seconds):
    """The loss of a deep autoencoder of the digits after so many seconds, and after how many gradients."""
    x, _ = digits()
    for name, rate in (("Newton-CG", None), ("Adam", 1e-3), ("Adam", 3e-3), ("Adam", 1e-2)):
        model = autoencoder()
        params = list(model.parameters())
        optimizer = Adam(params, lr=rate) if rate else NewtonCG(params, damping=1e-2, max_cg=60, tol=1e-2)

        def closure(model=model):
            z = model(x)
            return F.mse_loss(z, x), z

        steps, end = 0, time.perf_counter() + seconds
        while time.perf_counter() < end:
            if rate:
                optimizer.zero_grad()
                closure()[0].backward()
                optimizer.step()
            else:
                optimizer.step(closure)
            steps += 1
        used = steps if rate else optimizer.evaluations["gradient"] + 2 * optimizer.evaluations["product"]
        print(f"{name} {rate or '':<6}: {steps} steps, {used} gradients, loss {closure()[0].item():.5f}")


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("what", nargs="*", help="hvp, eigenvalues, newton; all by default")
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--seconds", type=float, default=14)
    options = p.parse_args()
    pynn.set_num_threads(options.threads)
    what = options.what or ["hvp", "eigenvalues", "newton"]
    if "hvp" in what:
        products("MLP 784-256-128-10, batch 64", mlp(784, 256, 128, 10), (64, 784), 200)
        products("CNN 1x28x28, batch 64", cnn(), (64, 1, 28, 28), 20)
    if "eigenvalues" in what:
        top_eigenvalues()
    if "newton" in what:
        newton(options.seconds)


if __name__ == "__main__":
    main()
