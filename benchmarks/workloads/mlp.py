"""T1, T2, T3: multilayer perceptrons."""

import itertools

import numpy as np

from . import workload
from .steps import batches, jax_steps, steps

SIZES = {  # widths, batch, optimizer, activation
    "T1": ((784, 256, 128, 10), 64, "Adam", "ReLU"),
    "T2": ((64, 32, 10), 32, "SGD", "ReLU"),
    "T3": ((1024, 4096, 4096, 1024), 256, "AdamW", "GELU"),
}
SETTINGS = {"SGD": {"lr": 0.01, "momentum": 0.9}, "Adam": {"lr": 1e-3}, "AdamW": {"lr": 1e-3}}


def make_data(name):
    """Weights and batches that all libraries start from."""
    widths, batch, _, _ = SIZES[name]
    rng = np.random.default_rng(0)
    weights = [
        (rng.standard_normal((o, i), np.float32) / np.float32(np.sqrt(i)), np.zeros(o, np.float32))
        for i, o in itertools.pairwise(widths)
    ]
    x = rng.standard_normal((64 * batch, widths[0]), np.float32)
    return weights, x, rng.integers(0, widths[-1], 64 * batch)


@workload("pynn torch", "T1", "T2", "T3")
def mlp(name, v):
    widths, batch, optimizer, activation = SIZES[name]
    weights, x, y = make_data(name)
    L, nn, optim = v.modules()
    layers = []
    for i, o in itertools.pairwise(widths):
        layers += [nn.Linear(i, o), getattr(nn, activation)()]
    model = nn.Sequential(*layers[:-1])
    with L.no_grad():
        for layer, (w, b) in zip(layers[::2], weights):
            layer.weight.copy_(L.from_numpy(w))
            layer.bias.copy_(L.from_numpy(b))
    fused = {"fused": True} if v.fused else {}
    opt = getattr(optim, optimizer)(model.parameters(), **SETTINGS[optimizer], **fused)
    return steps(v, model, (opt,), x, y, batch)


@workload("jax", "T1", "T2", "T3")
def mlp_jax(name, v):
    import functools

    import jax
    import jax.numpy as jnp
    import optax

    _, batch, optimizer, activation = SIZES[name]
    weights, x, y = make_data(name)
    act = {"ReLU": jax.nn.relu, "GELU": functools.partial(jax.nn.gelu, approximate=False)}[activation]
    opt = {
        "SGD": lambda: optax.sgd(0.01, momentum=0.9),
        "Adam": lambda: optax.adam(1e-3),
        "AdamW": lambda: optax.adamw(1e-3, weight_decay=1e-2),
    }[optimizer]()

    def logits(params, h):
        for k, (w, b) in enumerate(params):
            h = h @ w + b
            h = act(h) if k < len(params) - 1 else h
        return h

    return jax_steps(logits, [(jnp.asarray(w.T), jnp.asarray(b)) for w, b in weights], opt, x, y, batch)


@workload("sklearn", "T1", "T2")
def mlp_sklearn(name, v):
    """MLPClassifier.partial_fit with a batch is one step. It makes its own weights at the first: they are replaced."""
    from sklearn.neural_network import MLPClassifier

    widths, batch, optimizer, _ = SIZES[name]
    weights, x, y = make_data(name)
    net = MLPClassifier(widths[1:-1], solver=optimizer.lower(), alpha=0, batch_size=batch, momentum=0.9,
                        nesterovs_momentum=False, learning_rate_init=SETTINGS[optimizer]["lr"])  # fmt: skip
    classes = np.arange(widths[-1])
    net.partial_fit(x[:batch], y[:batch], classes=classes)
    for to_w, to_b, (w, b) in zip(net.coefs_, net.intercepts_, weights):
        to_w[...], to_b[...] = w.T, b
    for state in ("ms", "vs", "velocities"):
        for a in getattr(net._optimizer, state, ()):
            a[...] = 0
    if optimizer == "Adam":
        net._optimizer.t = 0
    data = batches(x, y, batch)

    def step():
        net.partial_fit(*next(data))
        return net.loss_

    return step
