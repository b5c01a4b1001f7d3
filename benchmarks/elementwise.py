"""Memory-bound operations, pynn beside PyTorch eager and JAX jit (workload K4).

    python benchmarks/elementwise.py [ROW ...] [--python PEER] [--peers torch,jax] [--threads N] [--rounds N]

PEER is a Python that has torch and jax (default: this one). Each library runs in a process of its own;
they take turns, one working at a time; the table tells the median of the rounds' ratios with its lower
quartile and range, then the geometric mean of the ratios to the best peer of each row. `fwd` computes
the value; `both` the value and the gradients of all inputs from a given one of the value, as a layer
amid a network does, and every library returns all of them. Results are compared before timing.
"""

import argparse
import json
import math
import os
import sys
import time

import numpy as np
from turns import Worker, ratio, take_turns, told

TOKENS, FAR = (8, 197, 768), (4096, 4096)  # activations of a ViT; 64 MB, beyond any last-level cache meant here
IMAGES = (32, 64, 32, 32)  # of a ResNet on CIFAR's; pynn has them channels-last, peers N,C,H,W unless the row says last
# row: op, shapes of its inputs, whether the backward is timed
ROWS = {
    "layernorm": ("layer_norm", (TOKENS, TOKENS[-1:], TOKENS[-1:]), True),
    "softmax": ("softmax", ((8, 3, 197, 197),), True),
    "softmax768": ("softmax", (TOKENS,), True),
    "gelu": ("gelu", (TOKENS,), True),
    "gelu3072": ("gelu", ((8, 197, 3072),), True),
    "relu": ("relu", (TOKENS,), True),
    "add": ("add", (TOKENS, TOKENS), False),
    "add_l2": ("add", ((256, 128), (256, 128)), False),
    "add_far": ("add", (FAR, FAR), False),
    "rmsnorm": ("rms_norm", (TOKENS, TOKENS[-1:]), True),
    "log_softmax": ("log_softmax", (TOKENS,), True),
    "gelu_tanh": ("gelu_tanh", (TOKENS,), True),
    "cross_entropy": ("cross_entropy", ((1576, 1000),), True),
    "dropout": ("dropout", (TOKENS,), True),
    "relu_far": ("relu", (FAR,), True),
    "batchnorm": ("batch_norm", (IMAGES, IMAGES[1:2], IMAGES[1:2]), True),
    "batchnorm_last": ("batch_norm", (IMAGES, IMAGES[1:2], IMAGES[1:2]), True),
    "batchnorm_relu": ("batch_norm_relu", (IMAGES, IMAGES[1:2], IMAGES[1:2]), True),
    "layernorm_far": ("layer_norm", (FAR, FAR[-1:], FAR[-1:]), True),
}
K4 = ("layernorm", "softmax", "softmax768", "gelu", "gelu3072", "relu", "add", "add_l2", "add_far",
      "batchnorm", "batchnorm_last")  # fmt: skip
RANDOM = ("dropout",)  # not compared: each library draws its own mask


def passes(row):
    return ("fwd", "both") if ROWS[row][2] else ("fwd",)


def arrays(row):
    """(inputs, labels where the op takes some)."""
    rng = np.random.default_rng(0)
    op, shapes, _ = ROWS[row]
    xs = [rng.standard_normal(s, np.float32) for s in shapes]
    return xs, rng.integers(0, shapes[0][-1], shapes[0][:-1]) if op == "cross_entropy" else None


def function(F, lib, op, labels):
    """op of pynn's or PyTorch's functional module F, as a function of the inputs."""
    table = {
        "layer_norm": lambda x, w, b: F.layer_norm(x, x.shape[-1:], w, b),
        "rms_norm": lambda x, w: F.rms_norm(x, x.shape[-1:], w),
        "softmax": lambda x: F.softmax(x, -1),
        "log_softmax": lambda x: F.log_softmax(x, -1),
        "gelu": F.gelu,
        "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
        "relu": F.relu,
        "batch_norm": lambda x, w, b: F.batch_norm(x, None, None, w, b, training=True),
        "batch_norm_relu": (
            (lambda x, w, b: F.batch_norm(x, None, None, w, b, training=True, relu=True))
            if lib.__name__ == "pynn"
            else lambda x, w, b: F.relu(F.batch_norm(x, None, None, w, b, training=True))
        ),
        "add": lib.add,
        "cross_entropy": lambda x: F.cross_entropy(x, labels),
        "dropout": lambda x: F.dropout(x, 0.1),
    }
    return table[op]


def channels_last(x):
    """x of N,C,H,W, stored N,H,W,C."""
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)


def eager_calls(name, row):
    """{pass: call} of pynn or PyTorch."""
    if name == "pynn":
        import pynn as lib
        from pynn.nn import functional as F
    else:
        import torch as lib
        from torch.nn import functional as F
    xs, labels = arrays(row)
    last = row.endswith("_last") or (name == "pynn" and ROWS[row][0].startswith("batch_norm"))
    xs = [lib.from_numpy(channels_last(x) if last and x.ndim == 4 else x) for x in xs]
    f = function(F, lib, ROWS[row][0], None if labels is None else lib.from_numpy(labels))
    leaves = [x.clone() for x in xs]
    for x in leaves:
        x.requires_grad = True
    shape = () if labels is not None else xs[0].shape
    g = np.random.default_rng(1).standard_normal(shape, np.float32).reshape(shape)
    g = lib.from_numpy(channels_last(g) if last else g)

    def both():
        y = f(*leaves)
        y.backward(g)
        grads = [x.grad for x in leaves]
        for x in leaves:
            x.grad = None
        return y.detach(), *grads

    return {"fwd": lambda: (f(*xs),), "both": both}


def jax_calls(row):
    """{pass: call} of jitted functions, each waiting for its results."""
    import jax
    import jax.numpy as jnp

    def norm(x, w, b=None):
        d = x if b is None else x - x.mean(-1, keepdims=True)
        y = d * jax.lax.rsqrt((d * d).mean(-1, keepdims=True) + (1e-5 if b is not None else 2.0**-23)) * w
        return y if b is None else y + b

    table = {
        "layer_norm": norm,
        "rms_norm": norm,
        "softmax": lambda x: jax.nn.softmax(x, -1),
        "log_softmax": lambda x: jax.nn.log_softmax(x, -1),
        "gelu": lambda x: jax.nn.gelu(x, approximate=False),
        "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
        "relu": jax.nn.relu,
        "add": jnp.add,
        "cross_entropy": lambda x: -jnp.take_along_axis(jax.nn.log_softmax(x, -1), target[:, None], -1).mean(),
    }

    def norm_channels(x, w, b, axes=(0, 2, 3)):
        mean, var = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
        of_channel = (-1, 1, 1) if axes == (0, 2, 3) else (-1,)
        return (x - mean) * jax.lax.rsqrt(var + 1e-5) * w.reshape(of_channel) + b.reshape(of_channel)

    axes = (0, 1, 2) if row.endswith("_last") else (0, 2, 3)
    table["batch_norm"] = lambda x, w, b: norm_channels(x, w, b, axes)
    table["batch_norm_relu"] = lambda x, w, b: jax.nn.relu(norm_channels(x, w, b, axes))
    xs, labels = arrays(row)
    if row.endswith("_last"):
        xs[0] = xs[0].transpose(0, 2, 3, 1)
    target = None if labels is None else jnp.asarray(labels)
    if ROWS[row][0] == "dropout":
        table["dropout"] = lambda x: jnp.where(jax.random.bernoulli(jax.random.key(0), 0.9, x.shape), x / 0.9, 0.0)
    f = table[ROWS[row][0]]
    xs = [jnp.asarray(x) for x in xs]
    shape = () if labels is not None else ROWS[row][1][0]
    g = np.random.default_rng(1).standard_normal(shape, np.float32)
    g = jnp.asarray(g.transpose(0, 2, 3, 1) if row.endswith("_last") else g)

    def both(g, *xs):
        y, back = jax.vjp(f, *xs)
        return y, *back(g)

    fwd, both = jax.jit(f), jax.jit(both)
    return {"fwd": lambda: (fwd(*xs).block_until_ready(),), "both": lambda: jax.block_until_ready(both(g, *xs))}


def logical(arrays, row):
    """JAX's results as N,C,H,W where it has them N,H,W,C."""
    return [a.transpose(0, 3, 1, 2) if row.endswith("_last") and a.ndim == 4 else a for a in map(np.asarray, arrays)]


def excerpt(arrays):
    """Some elements of each array, evenly chosen."""
    flat = [np.asarray(a).reshape(-1) for a in arrays]
    return [a[:: max(1, a.size // 97)].tolist() for a in flat]


def worker(lib, row, threads):
    """Answers each line of input, a pass and a number of calls, with the seconds that they took."""
    if lib == "jax":
        calls = jax_calls(row)
    elif lib == "pynn":
        import pynn

        pynn.set_num_threads(threads)
        calls = eager_calls("pynn", row)
    else:
        import torch

        torch.set_num_threads(threads)
        calls = eager_calls("torch", row)
    told = {k: calls[k]() for k in passes(row)}
    print(json.dumps({k: excerpt(logical(v, row) if lib == "jax" else v) for k, v in told.items()}), flush=True)
    for line in sys.stdin:
        name, n = line.split()
        call = calls[name]
        start = time.perf_counter()
        for _ in range(int(n)):
            call()
        print(time.perf_counter() - start, flush=True)


def compare(row, peers, options):
    """Rows of the report: the ratio of each pass to each peer."""
    os.environ["XLA_FLAGS"] = f"--xla_cpu_multi_thread_eigen={str(options.threads > 1).lower()}"
    workers = {}
    for lib in ("pynn", *peers):
        python = sys.executable if lib == "pynn" else options.python
        workers[lib] = Worker([python, __file__, row, "--worker", lib, "--threads", str(options.threads)])
    results = {lib: w.results() for lib, w in workers.items()}
    for lib in peers if ROWS[row][0] not in RANDOM else ():
        for name in passes(row):
            for a, b in zip(results["pynn"][name], results[lib][name], strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * np.abs(b).max(), err_msg=f"{row} {name} {lib}")
    rows = []
    for name in passes(row):
        times = take_turns(workers, lambda n, name=name: f"{name} {n}", options.rounds, options.budget, least=3)
        rows += [{"row": row, "pass": name, "peer": lib, **ratio(times, lib)} for lib in peers]
    for w in workers.values():
        w.close()
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", nargs="*", help=f"of {', '.join(ROWS)} (default: those of K4)")
    parser.add_argument("--python", default=sys.executable, help="a Python that has torch and jax")
    parser.add_argument("--peers", default="torch,jax")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--budget", type=float, default=0.1, help="seconds of a round")
    parser.add_argument("--json", metavar="FILE", help="also write the rows as JSON")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    unknown = [r for r in options.rows if r not in ROWS]
    if unknown:
        parser.error(f"no such row: {', '.join(unknown)}; there are {', '.join(ROWS)}")
    if options.worker:
        worker(options.worker, options.rows[0], options.threads)
        return
    rows, best = [], []
    for row in options.rows or K4:
        found = compare(row, options.peers.split(","), options)
        for r in found:
            print(f"{row} {r['pass']} {options.threads} thread(s): {told(r['peer'], r)}", flush=True)
        best += [min(r["ratio"] for r in found if r["pass"] == name) for name in passes(row)]
        rows += found
    mean = math.exp(sum(map(math.log, best)) / len(best))
    print(f"to the best peer: geometric mean {mean:.2f}, least {min(best):.2f}, of {len(best)} rows")
    if options.json:
        with open(options.json, "w") as f:
            json.dump({"threads": options.threads, "rows": rows, "mean": mean, "least": min(best)}, f, indent=1)


if __name__ == "__main__":
    main()
