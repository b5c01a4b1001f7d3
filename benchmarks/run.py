"""Runs all benchmarks and keeps their figures as JSON, which benchmarks/report.py turns into a report.

    python benchmarks/run.py [PART ...] [--python PEER] [--out build/bench]

PEER is a Python that has the peers (`make bench-peers` makes one). Each part is a command of its own and takes one to
three minutes; without PART all are run. The machine should have nothing else to do.
"""

import argparse
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
STEPS = {"T1-T2": "T1 T2", "T3": "T3 --rounds 5", "T10": "T10 T10_sparse"}  # more workloads: one line more here
FAR = "add_far relu_far layernorm_far softmax_far copy_far"


def parts():
    """{part: its command}; PEER stands for the other Python."""
    found = {}
    for n in ("1", "2"):
        found[f"limits-{n}"] = ["-m", "pynn", "bench", "--limits", "--threads", n]
        found[f"ops-{n}"] = ["-m", "pynn", "bench", "--size", "large", "--threads", n]
        for part, rows in {"K4": "", "far": FAR, "reduce": "reductions", "move": "moves"}.items():
            found[f"{part}-{n}"] = [HERE / "elementwise.py", *rows.split(), "--threads", n, "--python", "PEER"]
        found[f"K5-{n}"] = [HERE / "optim.py", "--threads", n, "--python", "PEER"]
        for part, names in STEPS.items():
            found[f"{part}-{n}"] = [HERE / "steps.py", *names.split(), "--threads", n, "--python", "PEER"]
            found[f"{part}-plan-{n}"] = [*found[f"{part}-{n}"], "--plan", "--peers", "torch"]
    return found


def main():
    known = parts()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(known)} (default: all)")
    parser.add_argument("--python", default=sys.executable, help="a Python that has the peers")
    parser.add_argument("--out", default="build/bench", type=Path, help="where the JSON goes, a file a part")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(known):
        parser.error(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    options.out.mkdir(parents=True, exist_ok=True)
    for part in options.parts or known:
        print(f"== {part}", flush=True)
        command = [options.python if word == "PEER" else str(word) for word in known[part]]
        subprocess.run([sys.executable, *command, "--json", str(options.out / f"{part}.json")], check=True)


if __name__ == "__main__":
    main()
