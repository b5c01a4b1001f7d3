"""The command line: python -m pynn COMMAND. Each command is a module here with add_arguments() and run()."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence

__all__ = ["main"]

COMMANDS = {
    "demo": "train a network on real handwritten digits, and draw what came out",
    "info": "what pynn found on this machine: versions, ISA level, threads and why, BLAS, memory",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m pynn", description="pynn: neural networks on CPUs")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    modules = {name: importlib.import_module("." + name, __name__) for name in COMMANDS}
    for name, text in COMMANDS.items():
        modules[name].add_arguments(commands.add_parser(name, help=text, description=text))
    args = parser.parse_args(argv)
    return modules[args.command].run(args)
