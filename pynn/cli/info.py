"""python -m pynn info"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

from ..config import config, show_config


def main(argv: Sequence[str] | None = None) -> int:
    """Prints what pynn found and uses."""
    parser = argparse.ArgumentParser(prog="python -m pynn info", description="what pynn found on this machine")
    parser.add_argument("--json", action="store_true", help="print the same as JSON")
    if parser.parse_args(argv).json:
        print(json.dumps(config(), indent=2))
    else:
        show_config()
    return 0
