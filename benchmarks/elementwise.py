"""Operations that memory bounds, and attention, pynn beside PyTorch eager, JAX jit and NumPy (workloads K4 and K1,
reductions, copies).

    python benchmarks/elementwise.py [ROW ...] [--python PEER] [--peers torch,jax] [--threads N] [--rounds N]

PEER is a Python that has torch and jax (default: this one). Each library runs in a process of its own;
they take turns, one working at a time (JAX, which obeys no setting, is kept to as many CPUs as pynn has threads);
the table tells the median of the rounds' ratios with its lower quartile and range, then the geometric mean of the
ratios to the best peer of each row. `fwd` computes the value; `both` the value and the gradients of all inputs from
a given one of the value, as a layer amid a network does, and every library returns all of them. Results are
compared before timing.
"""

import argparse
import math
import sys

import numpy as np
from turns import Worker, excerpt, ratio, serve, take_turns, told, write

TOKENS, FAR = (8, 197, 768), (4096, 4096)  # activations of a ViT; 64 MB, beyond any last-level cache meant here
HEADS = (4, 8, 1024, 64)
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
    "gelu_far": ("gelu", (FAR,), True),
    "batchnorm": ("batch_norm", (IMAGES, IMAGES[1:2], IMAGES[1:2]), True),
    "batchnorm_last": ("batch_norm", (IMAGES, IMAGES[1:2], IMAGES[1:2]), True),
    "batchnorm_relu": ("batch_norm_relu", (IMAGES, IMAGES[1:2], IMAGES[1:2]), True),
    "layernorm_far": ("layer_norm", (FAR, FAR[-1:], FAR[-1:]), True),
    "softmax_far": ("softmax", (FAR,), True),
    "copy_far": ("copy", (FAR,), False),
    "layernorm_far_768": ("layer_norm", ((21845, 768), (768,), (768,)), True),
    "attention": ("attention", (HEADS, HEADS, HEADS), True),
    "attention_causal": ("attention_causal", (HEADS, HEADS, HEADS), True),
    # op and dimension; "" is all of them
    "sum": ("sum", (TOKENS,), False),
    "sum_0": ("sum_0", ((1576, 768),), False),
    "sum_1": ("sum_1", ((1576, 768),), False),
    "sum_0_narrow": ("sum_0", ((8192, 10),), False),
    "sum_1_narrow": ("sum_1", ((8192, 10),), False),
    "sum_1_middle": ("sum_1", ((64, 197, 33),), False),
    "sum_0_odd": ("sum_0", ((1001, 333),), False),
    "amax": ("amax", (TOKENS,), False),
    "amax_0": ("amax_0", ((1576, 768),), False),
    "amax_1": ("amax_1", ((1576, 768),), False),
    "amax_1_narrow": ("amax_1", ((8192, 10),), False),
    "argmax_0": ("argmax_0", ((1576, 768),), False),
    "argmax_1": ("argmax_1", ((1576, 1000),), False),
    "argmax_1_narrow": ("argmax_1", ((8192, 10),), False),
    "prod_0": ("prod_0", ((1001, 333),), False),
    "prod_1": ("prod_1", ((1001, 333),), False),
    # what is moved
    "copy": ("copy", (TOKENS,), False),
    "transpose": ("transpose", ((1024, 1024),), False),
    "transpose_odd": ("transpose", ((1001, 333),), False),
    "heads": ("heads", ((8, 197, 3, 64),), False),
    "channels": ("channels", ((16, 64, 56, 56),), False),
    "embedding": ("embedding", ((50_000, 64),), True),
    "cat": ("cat", ((1576, 768), (1576, 768)), False),
}
GROUPS = {
    "K4": ("layernorm", "softmax", "softmax768", "gelu", "gelu3072", "relu", "add", "add_l2", "batchnorm",
           "batchnorm_last"),
    "far": ("layernorm_far", "layernorm_far_768", "softmax_far", "gelu_far", "relu_far", "add_far", "copy_far"),
    "K1": ("attention", "attention_causal"),
    "reductions": tuple(r for r, (op, *_) in ROWS.items() if op.split("_")[0] in ("sum", "amax", "argmax", "prod")),
    "moves": ("copy", "transpose", "transpose_odd", "heads", "channels", "embedding", "cat", "dropout", "rmsnorm",
              "log_softmax", "gelu_tanh", "cross_entropy"),
}  # fmt: skip
RANDOM = ("dropout",)  # not compared: each library draws its own mask
AXES = {"transpose": (1, 0), "heads": (0, 2, 1, 3), "channels": (0, 2, 3, 1)}


def passes(row):
    return ("fwd", "both") if ROWS[row][2] else ("fwd",)


def arrays(row):
    """(inputs, labels where the op takes some)."""
    rng = np.random.default_rng(0)
    op, shapes, _ = ROWS[row]
    xs = [rng.standard_normal(s, np.float32) for s in shapes]
    if op == "embedding":
        return xs, rng.integers(0, len(xs[0]), (256, 32))
    return xs, rng.integers(0, shapes[0][-1], shapes[0][:-1]) if op == "cross_entropy" else None


def gradient_shape(row):
    """The shape of the value of a row whose backward is timed."""
    op, shapes, _ = ROWS[row]
    return {"cross_entropy": (), "embedding": (256, 32, 64)}.get(op, shapes[0])


def reduction(op):
    """(name, dimension or None) of an op like sum_0; None where it is no reduction."""
    name, _, dim = op.partition("_")
    return (name, int(dim) if dim else None) if name in ("sum", "amax", "argmax", "prod") else None


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
        "attention": F.scaled_dot_product_attention,
        "attention_causal": lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
        "copy": lambda x: x.clone(),
        "embedding": lambda w: F.embedding(labels, w),
        "cat": lambda x, y: lib.cat((x, y), 1),
    }
    if op in AXES:  # into row-major memory
        return lambda x: x.permute(AXES[op]).contiguous()
    if found := reduction(op):
        name, dim = found
        return lambda x: getattr(x, name)(*(() if dim is None else (dim,)))
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
    shape = gradient_shape(row)
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
        "copy": lambda x: jnp.array(x, copy=True),
        "embedding": lambda w: w[target],
        "cat": lambda x, y: jnp.concatenate((x, y), 1),
    }

    def norm_channels(x, w, b, axes=(0, 2, 3)):
        mean, var = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
        of_channel = (-1, 1, 1) if axes == (0, 2, 3) else (-1,)
        return (x - mean) * jax.lax.rsqrt(var + 1e-5) * w.reshape(of_channel) + b.reshape(of_channel)

    axes = (0, 1, 2) if row.endswith("_last") else (0, 2, 3)

    def attention(q, k, v, causal=False):
        scores = q @ k.swapaxes(-1, -2) / math.sqrt(q.shape[-1])
        if causal:
            scores = jnp.where(jnp.tril(jnp.ones(scores.shape[-2:], bool)), scores, -jnp.inf)
        return jax.nn.softmax(scores, -1) @ v

    table["attention"], table["attention_causal"] = attention, lambda q, k, v: attention(q, k, v, True)
    table["batch_norm"] = lambda x, w, b: norm_channels(x, w, b, axes)
    table["batch_norm_relu"] = lambda x, w, b: jax.nn.relu(norm_channels(x, w, b, axes))
    xs, labels = arrays(row)
    if row.endswith("_last"):
        xs[0] = xs[0].transpose(0, 2, 3, 1)
    target = None if labels is None else jnp.asarray(labels)
    if ROWS[row][0] == "dropout":
        table["dropout"] = lambda x: jnp.where(jax.random.bernoulli(jax.random.key(0), 0.9, x.shape), x / 0.9, 0.0)
    op = ROWS[row][0]
    if op in AXES:
        table[op] = lambda x: x.transpose(AXES[op])
    if found := reduction(op):
        table[op] = lambda x: getattr(jnp, found[0])(x, found[1])
    f = table[op]
    xs = [jnp.asarray(x) for x in xs]
    g = np.random.default_rng(1).standard_normal(gradient_shape(row), np.float32)
    g = jnp.asarray(g.transpose(0, 2, 3, 1) if row.endswith("_last") else g)

    def both(g, *xs):
        y, back = jax.vjp(f, *xs)
        return y, *back(g)

    fwd, both = jax.jit(f), jax.jit(both)
    return {"fwd": lambda: (fwd(*xs).block_until_ready(),), "both": lambda: jax.block_until_ready(both(g, *xs))}


def numpy_calls(row):
    """{pass: call} of NumPy, which has no backward."""
    op = ROWS[row][0]
    xs, labels = arrays(row)
    table = {
        "add": lambda x, y: x + y,
        "relu": lambda x: np.maximum(x, 0),
        "copy": np.copy,
        "embedding": lambda w: w[labels],
        "cat": lambda x, y: np.concatenate((x, y), 1),
    }
    if op in AXES:
        table[op] = lambda x: np.ascontiguousarray(x.transpose(AXES[op]))
    if found := reduction(op):
        table[op] = lambda x: getattr(np, found[0])(x, found[1])
    return {"fwd": lambda: (table[op](*xs),)}


def logical(arrays, row):
    """JAX's results as N,C,H,W where it has them N,H,W,C."""
    return [a.transpose(0, 3, 1, 2) if row.endswith("_last") and a.ndim == 4 else a for a in map(np.asarray, arrays)]


def worker(lib, row, threads):
    """Answers each line of input, a pass and a number of calls, with the seconds that they took."""
    if lib == "jax":
        calls = jax_calls(row)
    elif lib == "numpy":
        calls = numpy_calls(row)
    elif lib == "pynn":
        import pynn

        pynn.set_num_threads(threads)
        calls = eager_calls("pynn", row)
    else:
        import torch

        torch.set_num_threads(threads)
        calls = eager_calls("torch", row)
    told = {k: calls[k]() for k in passes(row)}
    serve({k: excerpt(logical(v, row) if lib == "jax" else v) for k, v in told.items()}, calls)


def compare(row, peers, options):
    """Rows of the report: the ratio of each pass to each peer."""
    workers = {}
    for lib in ("pynn", *peers):
        python = sys.executable if lib == "pynn" else options.python
        command = [python, __file__, row, "--worker", lib, "--threads", str(options.threads)]
        workers[lib] = Worker(command, cpus=options.threads if lib == "jax" else None)
    results = {lib: w.results() for lib, w in workers.items()}
    for lib in peers if ROWS[row][0] not in RANDOM else ():
        for name in passes(row):
            for a, b in zip(results["pynn"][name], results[lib][name], strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * np.abs(b).max(), err_msg=f"{row} {name} {lib}")
    rows = []
    for name in passes(row):
        times = take_turns(workers, lambda n, name=name: f"{name} {n}", options.rounds, options.budget, least=3)
        rows += [
            {"row": row, "pass": name, "threads": options.threads, "peer": lib, **ratio(times, lib)} for lib in peers
        ]
    for w in workers.values():
        w.close()
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", nargs="*", help=f"of {', '.join(ROWS)}, or a group, {', '.join(GROUPS)} (default: K4)")
    parser.add_argument("--python", default=sys.executable, help="a Python that has torch and jax")
    parser.add_argument("--peers", default="torch,jax")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--budget", type=float, default=0.1, help="seconds of a round")
    parser.add_argument("--json", metavar="FILE", help="also write the rows as JSON")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    unknown = [r for r in options.rows if r not in {**ROWS, **GROUPS}]
    if unknown:
        parser.error(f"no such row: {', '.join(unknown)}; there are {', '.join([*GROUPS, *ROWS])}")
    if options.worker:
        worker(options.worker, options.rows[0], options.threads)
        return
    rows, best = [], []
    for row in [r for name in options.rows or ("K4",) for r in GROUPS.get(name, (name,))]:
        found = compare(row, options.peers.split(","), options)
        for r in found:
            print(f"{row} {r['pass']} {options.threads} thread(s): {told(r['peer'], r)}", flush=True)
        best += [min(r["ratio"] for r in found if r["pass"] == name) for name in passes(row)]
        rows += found
    mean = math.exp(sum(map(math.log, best)) / len(best))
    print(f"to the best peer: geometric mean {mean:.2f}, least {min(best):.2f}, of {len(best)} rows")
    if options.json:
        write(options.json, "elementwise", rows, options.python, mean=mean, least=min(best))


if __name__ == "__main__":
    main()
