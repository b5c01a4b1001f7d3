"""The progress bar of a fit: one line that shows epoch, step, rate, loss and metrics."""

from __future__ import annotations

import sys
from time import perf_counter

__all__ = ["Progress"]

REFRESH = 0.1  # seconds between two looks at the figures; a step must not pay for text


class Progress:
    """A tqdm bar over all steps of a fit, or nothing at all."""

    def __init__(self, shown: bool, epochs: int, steps: int):
        self._bar = None
        self._epochs = epochs
        self._pending = 0
        self._next = 0.0
        self._epoch = ""
        self._done = ""  # figures of the last whole epoch
        if shown:
            from tqdm import tqdm

            live = sys.stderr is not None and sys.stderr.isatty()
            # into a file or a pipe, a line now and then
            self._bar = tqdm(total=epochs * steps, unit="step", dynamic_ncols=live, mininterval=REFRESH if live else 10)

    def epoch(self, number: int) -> None:
        """A new epoch begins."""
        if self._bar is not None:
            self._bar.set_description_str(f"epoch {number}/{self._epochs}", refresh=False)

    def step(self, totals) -> None:
        """One more step was made; totals are asked for figures only when it is time to show them."""
        if self._bar is None:
            return
        self._pending += 1
        now = perf_counter()
        if now >= self._next:
            self._next = now + REFRESH
            self._bar.set_postfix_str(_text(totals.means()) + self._done, refresh=False)
            self._bar.update(self._pending)
            self._pending = 0

    def epoch_done(self, figures: dict[str, float]) -> None:
        """Shows the figures of a whole epoch."""
        if self._bar is None:
            return
        validation = {k: v for k, v in figures.items() if k.startswith("val_")}
        self._done = ", " + _text(validation) if validation else ""
        self._bar.set_postfix_str(_text(figures), refresh=False)
        self._bar.update(self._pending)
        self._pending = 0

    def close(self) -> None:
        """Leaves the bar as it stands."""
        if self._bar is not None:
            self._bar.update(self._pending)
            self._bar.close()


def _text(figures: dict[str, float]) -> str:
    return ", ".join(f"{name}={value:.4g}" for name, value in figures.items() if name != "seconds")
