"""The choices of csrc/pn_gemm_choices.h, each against other values of it.

    python benchmarks/gemm_choices.py [NAME=VALUE ...] [--level avx512|avx2|base] [--dtype f32|f64] [--rounds N]

For each NAME=VALUE (default: those of TRIED) tests/c/test_gemm.c is built with it, and timed by turns with the
build as committed, on the products that the choice is about. The table tells the median of the rounds' ratios of
speed, other ÷ committed, with their range: above 1 the other value is better. Needs a C compiler.
"""

import argparse
import os
import re
import statistics
import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FLAGS = {
    "avx512": "-mavx2 -mfma -mbmi -mbmi2 -mavx512f -mavx512dq -mavx512bw -mavx512vl -mprefer-vector-width=512",
    "avx2": "-mavx2 -mfma -mbmi -mbmi2",
    "base": "-mssse3 -msse4.2 -mpopcnt",
}
ROW, SQUARE, FEW = ("1 784 256", "1 1024 1024"), ("256 256 256", "1024 1024 1024"), ("64 784 256", "64 64 64")
TRIED = {
    "STREAMS": ((2, 8), ROW), "RUN": ((1, 4), ROW), "ROW_AHEAD": ((0, 1024), ROW), "DOT_AHEAD": ((0, 256), ROW),
    "NARROW": ((1 << 20,), ("64 128 10",)), "TURN_ROWS": ((0, 1), ("64 128 10", "64 128 6", "64 128 3")),
    "WAY_BYTES": ((1, 1 << 20), (*SQUARE, "512 512 512", "1000 1000 1000")),
    "WIDE_BYTES": ((32768, 65536, 131072), FEW), "IN_PLACE": ((28, 1000), FEW),
    "MC": ((96, 384), SQUARE), "AHEAD": ((0, 8), SQUARE),
}  # fmt: skip


def build(folder, name, level, dtype, define=()):
    """The path of a test_gemm with the choices of define."""
    program = Path(folder) / name
    subprocess.run(
        [*os.environ.get("CC", "cc").split(), *"-std=gnu11 -O3 -ffp-contract=off -fno-math-errno -Icsrc".split(),
         *FLAGS[level].split(), f"-DPN_ISA_NAME={level}", f"-DPN_TNAME={dtype}", *define, "tests/c/test_gemm.c",
         "csrc/pn_gemm.c", "csrc/pn_par.c", "-pthread", "-lm", "-o", str(program)], cwd=ROOT, check=True,
    )  # fmt: skip
    return program


def speeds(program, shape):
    """{form: GFLOP/s} on one thread."""
    out = subprocess.run([program, "bench", "1", *shape.split()], capture_output=True, text=True, check=True).stdout
    return {form: float(rate) for form, rate in re.findall(r"\| (\S+) +([\d.]+)", out)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("choices", nargs="*", metavar="NAME=VALUE")
    parser.add_argument("--level", default="avx512", choices=FLAGS)
    parser.add_argument("--dtype", default="f32", choices=("f32", "f64"))
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    pairs = [c.partition("=")[::2] for c in options.choices]
    pairs = pairs or [(name, value) for name, (values, _) in TRIED.items() for value in values]
    with tempfile.TemporaryDirectory() as folder:
        base = build(folder, "committed", options.level, options.dtype)
        for name, value in pairs:
            other = build(folder, f"{name}_{value}", options.level, options.dtype, [f"-D{name}={value}"])
            for shape in TRIED[name][1] if name in TRIED else (*ROW, *FEW, *SQUARE):
                rounds = [(speeds(other, shape), speeds(base, shape)) for _ in range(options.rounds)]
                cells = []
                for form in rounds[0][1]:
                    ratios = sorted(theirs[form] / ours[form] for theirs, ours in rounds)
                    cells.append(f"{form} {statistics.median(ratios):.2f} ({ratios[0]:.2f}–{ratios[-1]:.2f})")
                print(f"{name}={value}".ljust(20), shape.replace(" ", "×").ljust(16), " | ".join(cells), flush=True)


if __name__ == "__main__":
    main()
