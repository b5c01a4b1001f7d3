"""What a fit shows: a bar with epoch, step, rate, ETA, loss and metrics; a line an epoch where there is no terminal."""

from __future__ import annotations

import os
import sys
from time import perf_counter

__all__ = ["Progress"]

REFRESH = 0.1  # seconds between two looks at the figures; a step must not pay for text
WIDTH, HEIGHT = 100, 24  # of a terminal that does not tell its own
EVERY = 1.0  # seconds between two lines of a log


class Progress:
    """A tqdm bar over all steps of a fit in a console or a notebook, a plain log elsewhere, or nothing at all.

    Args:
        shown: False: nothing.
        epochs: of the whole run; steps: batches of an epoch, 0 where they are not known.
        done, batches: epochs that lie behind, and batches of the one after them.
    """

    def __init__(self, shown: bool, epochs: int, steps: int, done: int = 0, batches: int = 0):
        self._bar = None
        self._log = False
        self._epochs, self._steps, self._first = epochs, steps, done
        self._number = done
        self._pending = 0
        self._next = self._next_line = 0.0
        self._done = ""  # figures of the last whole epoch
        if shown and (_notebook() or (sys.stderr is not None and sys.stderr.isatty())):
            if _notebook():
                from tqdm.auto import tqdm
            else:
                from tqdm import tqdm

            total, known = epochs * steps or None, _has_width()
            self._bar = tqdm(
                total=total,
                initial=done * steps + batches,
                unit="step",
                dynamic_ncols=known,
                ncols=None if known else WIDTH,
                nrows=None if known else HEIGHT,
                mininterval=REFRESH,
            )
        elif shown and sys.stderr is not None:
            self._log = True
            self._began = perf_counter()

    def epoch(self, number: int, behind: int = 0) -> None:
        """An epoch begins, or goes on with so many batches behind it."""
        self._number = number
        self._batches = behind
        if self._bar is not None:
            self._bar.set_description_str(f"epoch {number}/{self._epochs}", refresh=False)

    def step(self, totals) -> None:
        """One more batch; totals are asked for figures only when it is time to show them."""
        self._batches += 1
        if self._bar is None:
            return
        self._pending += 1
        now = perf_counter()
        if now >= self._next:
            self._next = now + REFRESH
            self._bar.set_postfix_str(_text(totals.means(cheap=True)) + self._done, refresh=False)
            self._bar.update(self._pending)
            self._pending = 0

    def epoch_done(self, figures: dict[str, float]) -> None:
        """Shows the figures of a whole epoch."""
        if self._log:
            self._line(figures)
        if self._bar is None:
            return
        validation = {k: v for k, v in figures.items() if k.startswith("val_")}
        self._done = ", " + _text(validation) if validation else ""
        self._bar.set_postfix_str(_text(figures), refresh=False)
        self._bar.update(self._pending)
        self._pending = 0

    def _line(self, figures: dict[str, float]) -> None:
        now = perf_counter()
        if now < self._next_line and self._number < self._epochs:
            return
        self._next_line = now + EVERY
        left = (now - self._began) / (self._number - self._first) * (self._epochs - self._number)
        rate = self._batches / max(figures["seconds"], 1e-9)
        print(
            f"epoch {self._number}/{self._epochs}, {self._batches}/{self._steps or self._batches} steps, "
            f"{rate:.0f} steps/s, {left:.0f} s left: {_text(figures)}",
            file=sys.stderr,
            flush=True,
        )

    def close(self) -> None:
        """Leaves the bar as it stands."""
        if self._bar is not None:
            self._bar.update(self._pending)
            self._bar.close()


def _has_width() -> bool:
    """Whether the terminal says how wide it is; a bar of no width would be none."""
    try:
        return _notebook() or os.get_terminal_size(sys.stderr.fileno()).columns > 0
    except (OSError, ValueError):
        return False


def _notebook() -> bool:
    """Whether this runs in a notebook: its shell is not that of a terminal."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and type(shell).__name__ == "ZMQInteractiveShell"


def _text(figures: dict[str, float]) -> str:
    return ", ".join(f"{name}={value:.4g}" for name, value in figures.items() if name != "seconds")
