"""Runs all benchmarks and keeps their figures as JSON, which benchmarks/report.py turns into a report.

    python benchmarks/run.py [PART ...] [--python PEER] [--threads N,N] [--out build/bench]

PEER is a Python that has the peers (`make bench-peers` makes one). Each part is a command of its own and takes one to
three minutes; PART is a name or a pattern, as in 'K4-*'; without any, all are run. The machine should have nothing
else to do.
"""

import argparse
import fnmatch
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
# part: its program and arguments; more workloads are one line more here
PARTS = {
    "K1": "elementwise.py K1 --peers torch",
    "K2": "conv.py",
    "K2-exact": "conv.py --exact --peers torch,torch+",
    "K2-random": "conv.py --random 200 --rounds 5 --peers torch,torch+",
    "K3": "rnn.py K3",
    "K4": "elementwise.py K4",
    "far": "elementwise.py far",
    "reduce": "elementwise.py reductions",
    "move": "elementwise.py moves",
    "K5": "optim.py",
    "K6": "gemm.py",
    "T1-T2": "steps.py T1 T2",
    "T3": "steps.py T3 --rounds 5",
    "T4": "steps.py T4",
    "T5": "steps.py T5 T5_exact --rounds 5 --budget 1",
    "I": "steps.py I_cnn_1 I_cnn_64 I_resnet18",
    "T6": "rnn.py T6 I_lstm",
    "T7": "rnn.py T7 --rounds 5",
    "T8": "steps.py T8 --rounds 5",
    "T9": "steps.py T9 --rounds 5",
    "I_vit": "steps.py I_vit_1 I_vit_64 --peers torch,onnxruntime",
    "step": "rnn.py step",
    "T10": "steps.py T10 T10_sparse",
}


def parts(threads):
    """{part: its command}; PEER stands for the other Python."""
    found = {}
    for n in threads:
        found[f"limits-{n}"] = ["-m", "pynn", "bench", "--limits", "--threads", n]
        found[f"ops-{n}"] = ["-m", "pynn", "bench", "--size", "large", "--threads", n]
        for part, text in PARTS.items():
            program, *rest = text.split()
            found[f"{part}-{n}"] = [HERE / program, *rest, "--threads", n, "--python", "PEER"]
            if program == "steps.py" and part.startswith("T"):
                found[f"{part}-plan-{n}"] = [*found[f"{part}-{n}"], "--plan", "--peers", "torch"]
    return found


def chosen(patterns, known, parser):
    """The parts that the patterns name, in the order of known."""
    found = [{part for part in known if fnmatch.fnmatchcase(part, p)} for p in patterns or ["*"]]
    if unknown := [p for p, names in zip(patterns, found) if not names]:
        parser.error(f"no such part: {', '.join(unknown)}; there are {', '.join(known)}")
    return [part for part in known if part in set().union(*found)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help="a name or a pattern (default: all)")
    parser.add_argument("--threads", default="1,2", help="numbers of threads, default 1,2")
    parser.add_argument("--python", default=sys.executable, help="a Python that has the peers")
    parser.add_argument("--out", default="build/bench", type=Path, help="where the JSON goes, a file a part")
    options = parser.parse_args()
    known = parts(options.threads.split(","))
    wanted = chosen(options.parts, known, parser)
    options.out.mkdir(parents=True, exist_ok=True)
    for part in wanted:
        print(f"== {part}", flush=True)
        command = [options.python if word == "PEER" else str(word) for word in known[part]]
        subprocess.run([sys.executable, *command, "--json", str(options.out / f"{part}.json")], check=True)


if __name__ == "__main__":
    main()
