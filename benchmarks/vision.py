"""What networks on images need besides convolutions, each figure beside its target.

    python benchmarks/vision.py [norm] [augment] [scaling] [--threads N] [--rounds N]

norm     batch norm with ReLU, forward and backward, beside the best rate of its mix of reads and writes
augment  a batch of 256 images of 32×32×3, beside a training step of T5
scaling  training steps of T4 and T5 on two threads, beside one

Medians of the rounds' ratios, with quartiles. Batch norm's mix is counted pass by pass: statistics need all of a
batch before its first element can be written, so forward reads x twice and writes y, backward reads dy, x and y
(ReLU's mask) twice and writes dx. The best rate is that of four arrays read and one written, of the same size, again
and again: it finds at least as much in the caches.
"""

import argparse
import statistics
import time

import numpy as np
from workloads import build

import pynn
from pynn import limits
from pynn.data import Augment
from pynn.nn import functional as F

SHAPES = ((32, 64, 32, 32), (32, 64, 56, 56), (16, 64, 112, 112))
PASSES = (8, 2)  # arrays read and written: x twice, y; dy, x and y twice, dx
KINDS = {
    "shift and flip": {"shift": 4, "flip": True},
    "and cut-out": {"shift": 4, "flip": True, "cutout": 8},
    "all but mixup": {"shift": 4, "flip": True, "rotate": 15.0, "scale": (0.9, 1.1), "brightness": 0.2, "contrast": 0.2,
                      "saturation": 0.2, "noise": 0.05, "cutout": 8},
}  # fmt: skip


def timed(fn, n=1):
    start = time.perf_counter()
    for _ in range(n):
        fn()
    return (time.perf_counter() - start) / n


def quartiles(values):
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def norm(rounds):
    rng = np.random.default_rng(0)
    for shape in SHAPES:
        n, c, h, w = shape
        x, dy = (pynn.from_numpy(rng.standard_normal((n, h, w, c), np.float32)).permute(0, 3, 1, 2) for _ in range(2))
        weight, bias = pynn.ones(c), pynn.zeros(c)
        for leaf in (x, weight, bias):
            leaf.requires_grad = True

        def both(x=x, weight=weight, bias=bias, dy=dy):
            x.grad = weight.grad = bias.grad = None
            F.batch_norm(x, None, None, weight, bias, training=True, relu=True).backward(dy)

        both()
        nbytes = 4 * x.size
        rate = limits.bandwidth(4, 1, 5 * nbytes)
        shares = [sum(PASSES) * nbytes / timed(both, 5) / rate for _ in range(rounds)]
        print(f"norm {shape}: {quartiles(shares)} of {rate / 1e9:.0f} GB/s, 4 read : 1 written; target ≥ 0.8")


def augment(rounds):
    step = build("T5", "pynn")
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (256, 32, 32, 3), np.uint8)
    for _ in range(3):
        step()
    for name, options in KINDS.items():
        change = Augment(**options)
        change(images)
        shares = [timed(lambda change=change: change(images), 3) / timed(step) for _ in range(rounds)]
        ms = timed(lambda change=change: change(images)) * 1e3
        print(f"augment, {name}: {ms:.2f} ms, {quartiles(shares)} of T5's step; target ≤ 0.2")


def scaling(rounds):
    for name, variant, n in (("T4", "pynn", 20), ("T4", "pynn, plan", 20), ("T5", "pynn", 1), ("T5", "pynn, plan", 1)):
        step, times = build(name, variant), {1: [], 2: []}
        for _ in range(rounds + 1):
            for threads, found in times.items():
                pynn.set_num_threads(threads)
                step()
                found.append(timed(step, n))
        ratios = [a / b for a, b in zip(times[1][1:], times[2][1:])]
        print(f"scaling, {name}, {variant}: two threads {quartiles(ratios)} times as fast as one; target ≥ 1.75")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help="norm, augment, scaling (default: all)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    parts = {"norm": norm, "augment": augment, "scaling": scaling}
    if unknown := set(options.parts) - set(parts):
        parser.error(f"no such part: {', '.join(unknown)}; there are {', '.join(parts)}")
    pynn.set_num_threads(options.threads)
    for part in options.parts or parts:
        parts[part](options.rounds)


if __name__ == "__main__":
    main()
