"""Pictures by matplotlib, without a window."""

from __future__ import annotations

import contextlib
import os


@contextlib.contextmanager
def figure(path: str | os.PathLike, rows: int = 1, columns: int = 1):
    """Axes to draw on; what was drawn is saved at the end.

    Raises:
        ImportError: without matplotlib.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as e:
        raise ImportError("pictures need matplotlib: pip install matplotlib") from e
    drawn = Figure(figsize=(5 * columns, 4 * rows), layout="constrained")
    FigureCanvasAgg(drawn)
    yield drawn.subplots(rows, columns)
    drawn.savefig(os.fspath(path), dpi=110)
