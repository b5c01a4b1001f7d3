"""What a training run measured, epoch by epoch, and its picture."""

from __future__ import annotations

import csv
import json
import os
from typing import Any

__all__ = ["History"]


class History(dict):
    """Lists with one number an epoch: "loss", the metrics, the same with "val_", and "seconds".

    history["loss"] is the list of training losses.
    """

    def add(self, **values: float) -> None:
        """Appends the figures of one epoch."""
        for name, value in values.items():
            self.setdefault(name, []).append(value)

    @property
    def epochs(self) -> int:
        """The number of epochs seen."""
        return len(self.get("loss", ()))

    def frame(self):
        """The figures as a pandas DataFrame: a row an epoch, from 1 on, a column a figure.

        Raises:
            ImportError: without pandas.
        """
        try:
            import pandas
        except ImportError as e:
            raise ImportError("History.frame needs pandas: pip install pandas") from e
        return pandas.DataFrame(dict(self), index=pandas.RangeIndex(1, self.epochs + 1, name="epoch"))

    def csv(self, path: str | os.PathLike) -> None:
        """Writes a table: epoch and the figures, a line an epoch, every digit of them."""
        with open(path, "w", newline="", encoding="utf-8") as f:
            table = csv.writer(f)
            table.writerow(["epoch", *self])
            table.writerows(zip(range(1, self.epochs + 1), *self.values(), strict=True))

    def json(self, path: str | os.PathLike | None = None) -> str:
        """{figure: [numbers]} as text, written to path where one is given; NaN and infinities become null."""
        finite = {k: [v if v - v == 0 else None for v in values] for k, values in self.items()}
        text = json.dumps(finite, indent=1, allow_nan=False)
        if path is not None:
            with open(path, "w", encoding="utf-8") as f:
                f.write(text + "\n")
        return text

    def plot(self, path_or_ax: Any = None):
        """Draws the curves: the loss, and each metric, of training and validation.

        Args:
            path_or_ax: a file to write (PNG, SVG, PDF by its ending), or matplotlib axes, which get the
                loss alone; None makes a figure.

        Returns:
            the matplotlib Figure.

        Raises:
            ImportError: without matplotlib. ValueError: nothing was measured yet.
        """
        try:
            from matplotlib.figure import Figure
        except ImportError as e:
            raise ImportError("History.plot needs matplotlib: pip install 'pynn-core[plot]'") from e
        if not self.epochs:
            raise ValueError("History.plot: there is no epoch to draw yet")
        if path_or_ax is not None and not isinstance(path_or_ax, (str, os.PathLike)):
            self._draw(path_or_ax, "loss")
            return path_or_ax.figure
        names = self.panels()
        if path_or_ax is None:
            from matplotlib import pyplot

            figure = pyplot.figure(figsize=(4.8 * len(names), 3.6), layout="constrained")
        else:
            figure = Figure(figsize=(4.8 * len(names), 3.6), layout="constrained")
        for name, ax in zip(names, figure.subplots(1, len(names), squeeze=False)[0], strict=True):
            self._draw(ax, name)
        if path_or_ax is not None:
            figure.savefig(path_or_ax, dpi=150)
        return figure

    def panels(self) -> list[str]:
        """The figures that get a picture of their own."""
        return [n for n in self if n != "seconds" and not n.startswith("val_")]

    def _draw(self, ax, name: str) -> None:
        """One panel: the curve of training and, where there is one, of validation."""
        from matplotlib.ticker import MaxNLocator

        x = range(1, self.epochs + 1)
        dots = {"marker": "o", "markersize": 3} if self.epochs <= 30 else {}
        ax.plot(x, self[name], color="#1f5fa8", label="training", **dots)
        if "val_" + name in self:
            ax.plot(x, self["val_" + name], color="#d9731a", label="validation", **dots)
        ax.set_xlabel("epoch")
        ax.set_ylabel(name)
        drawn = self[name] + self.get("val_" + name, [])
        if name == "loss" and min(drawn) > 0 and max(drawn) > 20 * min(drawn):
            ax.set_yscale("log")  # what comes after the first epochs would be a flat line
            ax.yaxis.set_major_formatter("{x:g}")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.grid(alpha=0.25)
        ax.spines[["top", "right"]].set_visible(False)
        ax.legend(frameon=False)
