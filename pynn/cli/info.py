"""python -m pynn info"""

from __future__ import annotations

import argparse
import json

from ..config import config, show_config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print the same as JSON")


def run(args: argparse.Namespace) -> int:
    """Prints what pynn found and uses."""
    if args.json:
        print(json.dumps(config(), indent=2))
    else:
        show_config()
    return 0
