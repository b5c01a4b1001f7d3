"""python -m pynn demo|info: see pynn/cli."""

import sys

from .cli import main

sys.exit(main())
