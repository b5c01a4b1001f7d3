"""The command line: python -m pynn COMMAND. Each command is a module here, with main(argv) → exit status."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

__all__ = ["main"]

COMMANDS = {
    "bench": "every op against the machine's limits",
    "demo": "train a network on real handwritten digits, and draw what came out",
    "info": "what pynn found on this machine: versions, ISA level, threads and why, BLAS, memory",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status."""
    argv = sys.argv[1:] if argv is None else list(argv)
    listed = "\n".join(f"  {name:8}{text}" for name, text in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="python -m pynn",
        usage="python -m pynn COMMAND [-h] …",
        description=f"commands:\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=COMMANDS, help=argparse.SUPPRESS)
    command = parser.parse_args(argv[:1]).command
    return importlib.import_module("." + command, __name__).main(argv[1:])
