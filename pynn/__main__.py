"""python -m pynn demo|info|bench: see pynn/cli."""

import sys

from .cli import main

sys.exit(main())
