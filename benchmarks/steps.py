"""Whole training steps, pynn beside PyTorch eager.

    python benchmarks/steps.py T1 T2 T3 T10 T10_sparse [--python PEER] [--threads N] [--rounds N] [--plan]

PEER is a Python that has torch (default: this one). Each library runs in a process of its own; they
take turns, one working at a time, for at least 5 rounds; the table tells the median of the rounds'
ratios with its range and lower quartile. A step is zero_grad, a fresh batch, forward, loss, backward,
optimizer; the loss is read every 10 steps. The first losses of both are compared before timing. With
--plan pynn replays its step (pynn.compile). At the end each process tells its peak of resident memory.
"""

import argparse
import itertools
import json
import os
import resource
import sys
import time

import numpy as np
from turns import Worker, ratio, take_turns, told

WORKLOADS = {  # sizes, batch, optimizer, activation
    "T1": ((784, 256, 128, 10), 64, "Adam", "ReLU"),
    "T2": ((64, 32, 10), 32, "SGD", "ReLU"),
    "T3": ((1024, 4096, 4096, 1024), 256, "AdamW", "GELU"),
}
BAGS = {"T10": False, "T10_sparse": True}  # bag of words; whether the table's gradient is by rows
VOCABULARY, WIDTH, TOKENS, CLASSES, BAG_BATCH = 50_000, 64, 32, 5, 256


def make_data(sizes, batch):
    """Weights and batches that both libraries start from."""
    rng = np.random.default_rng(0)
    weights = [(rng.standard_normal((o, i)) / np.sqrt(i), np.zeros(o)) for i, o in itertools.pairwise(sizes)]
    x = rng.standard_normal((64 * batch, sizes[0])).astype(np.float32)
    y = rng.integers(0, sizes[-1], 64 * batch)
    return weights, x, y


def library(lib):
    """(the library, its nn, its optim)."""
    if lib == "pynn":
        import pynn as L
        from pynn import nn, optim
    else:
        import torch as L
        from torch import nn, optim
    return L, nn, optim


def repeated(L, nn, model, optimizers, x, y, batch, plan):
    """A function that runs one step on the next batch and returns the loss."""
    criterion, tensor = nn.CrossEntropyLoss(), L.from_numpy
    count = 0

    def train(xs, ys):
        for opt in optimizers:
            opt.zero_grad()
        loss = criterion(model(xs), ys)
        loss.backward()
        for opt in optimizers:
            opt.step()
        return loss

    if plan:
        train = L.compile(train)

    def step():
        nonlocal count
        k = count * batch % len(x)
        count += 1
        loss = train(tensor(x[k : k + batch]), tensor(y[k : k + batch]))
        if count % 10 == 0:
            loss.item()
        return loss

    return step


def make_bags(lib, name, fused, plan):
    """A step of the bag of words: embedding, mean over the tokens, linear; Adam, or SparseAdam for the table."""
    L, nn, optim = library(lib)
    rng = np.random.default_rng(0)
    x = rng.integers(0, VOCABULARY, (64 * BAG_BATCH, TOKENS))
    y = rng.integers(0, CLASSES, len(x))
    start = rng.standard_normal((VOCABULARY, WIDTH), np.float32), rng.standard_normal((CLASSES, WIDTH), np.float32)
    table, head = nn.Embedding(VOCABULARY, WIDTH, sparse=BAGS[name]), nn.Linear(WIDTH, CLASSES)
    with L.no_grad():
        for p, w in zip((table.weight, head.weight, head.bias), (*start, np.zeros(CLASSES, np.float32))):
            p.copy_(L.from_numpy(w))
    extra = {"fused": True} if fused else {}
    if BAGS[name]:
        optimizers = optim.SparseAdam([table.weight], lr=1e-3), optim.Adam(head.parameters(), lr=1e-3, **extra)
    else:
        optimizers = (optim.Adam([table.weight, head.weight, head.bias], lr=1e-3, **extra),)
    return repeated(L, nn, lambda i: head(table(i).mean(1)), optimizers, x, y, BAG_BATCH, plan)


def make_step(lib, name, fused=False, plan=False):
    """A function that runs one step and returns the loss tensor."""
    if name in BAGS:
        return make_bags(lib, name, fused, plan)
    sizes, batch, optimizer, activation = WORKLOADS[name]
    weights, x, y = make_data(sizes, batch)
    L, nn, optim = library(lib)
    layers = []
    for i, o in itertools.pairwise(sizes):
        layers += [nn.Linear(i, o), getattr(nn, activation)()]
    model = nn.Sequential(*layers[:-1])
    with L.no_grad():
        for layer, (w, b) in zip(layers[::2], weights):
            layer.weight.copy_(L.from_numpy(w.astype(np.float32)))
            layer.bias.copy_(L.from_numpy(b.astype(np.float32)))
    settings = {"lr": 0.01, "momentum": 0.9} if optimizer == "SGD" else {"lr": 1e-3}
    if fused:
        settings["fused"] = True
    opt = getattr(optim, optimizer)(model.parameters(), **settings)
    return repeated(L, nn, model, (opt,), x, y, batch, plan)


def worker(lib, name, threads, plan):
    """Answers each line of input, a number of steps, with the seconds that they took."""
    if lib == "pynn":
        import pynn

        pynn.set_num_threads(threads)
    else:
        import torch

        torch.set_num_threads(threads)
    step = make_step("pynn" if lib == "pynn" else "torch", name, lib.startswith("torch+"), plan and lib == "pynn")
    print(json.dumps([step().item() for _ in range(5)]), flush=True)
    for line in sys.stdin:
        n = int(line)
        start = time.perf_counter()
        for _ in range(n):
            step()
        print(time.perf_counter() - start, flush=True)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, flush=True)


def compare(name, peers, options):
    """Runs the rounds of one workload; returns the rows of the report."""
    workers = {}
    for lib in ("pynn", *peers):
        python = sys.executable if lib == "pynn" else options.python
        env = {**os.environ, "LD_PRELOAD": options.preload} if lib == "torch+mem" else None
        args = [python, __file__, name, "--worker", lib, "--threads", str(options.threads)]
        args += ["--plan"] if options.plan else []
        workers[lib] = Worker(args, env)
    losses = {lib: w.results() for lib, w in workers.items()}
    for lib in peers:
        np.testing.assert_allclose(losses["pynn"], losses[lib], rtol=1e-4)
    times = take_turns(workers, str, max(5, options.rounds))
    peak = {lib: w.close() for lib, w in workers.items()}
    return [
        {"workload": name, "threads": options.threads, "peer": lib, **ratio(times, lib),
         "pynn_mb": peak["pynn"], "peer_mb": peak[lib]}
        for lib in peers
    ]  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="+", choices=[*WORKLOADS, *BAGS])
    parser.add_argument("--python", default=sys.executable, help="a Python that has torch")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--preload", help="an allocator's library (jemalloc) for one more variant of the peer")
    parser.add_argument("--plan", action="store_true", help="let pynn replay its step")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(options.worker, options.names[0], options.threads, options.plan)
        return
    peers = ("torch", "torch+", *(["torch+mem"] if options.preload else []))
    for name in options.names:
        for r in compare(name, peers, options):
            print(f"{name} {options.threads} thread(s): {told(r['peer'], r)}; "
                  f"peak {r['pynn_mb']:.0f} and {r['peer_mb']:.0f} MB")  # fmt: skip


if __name__ == "__main__":
    main()
