"""Callbacks that watch a training: norms of gradients, update ratios, histograms, the way through weight space."""

from __future__ import annotations

import os

import numpy as np

from .. import _core
from ..arrays import as_count
from ..train.callbacks import Callback

__all__ = ["GradientFlow", "Trajectory"]


def _values(x) -> np.ndarray:
    """The elements of a tensor, of a gradient by rows its rows, in float64."""
    return _core.read_view(getattr(x, "_rows", x)).astype(np.float64).ravel()


class GradientFlow(Callback):
    """Per parameter and recorded step: the gradient's norm, and the update's norm by the parameter's.

    Args:
        every: record one step of so many.
        bins: of the histograms of each epoch; 0: none.

    Attributes:
        steps: the steps recorded. norms, ratios: {parameter: [number, …]}, one for each of steps.
        histograms: {parameter: [(counts, edges), …]} of the last gradient of each epoch.

    A ratio about 1e-3 is usual; 1e-6 means that a layer stands still, 1 that it is thrown about.

    Source: S4 (monitoring); F-TR-3.
    """

    priority = 50

    def __init__(self, every: int = 1, bins: int = 30):
        self.every = as_count("GradientFlow", "every", every)
        self.bins = as_count("GradientFlow", "bins", bins, 0)
        self.steps: list[int] = []
        self.norms: dict[str, list[float]] = {}
        self.ratios: dict[str, list[float]] = {}
        self.histograms: dict[str, list] = {}
        self._before: dict[str, np.ndarray] = {}

    def on_fit_begin(self, run):
        self._keep(run)

    def on_step_end(self, run):
        if run.step % self.every == 0:
            self.steps.append(run.step)
            for name, p in run.model.named_parameters():
                norm = 0.0 if p.grad is None else float(np.linalg.norm(_values(p.grad)))
                change = float(np.linalg.norm(_values(p) - self._before.get(name, 0.0)))
                size = float(np.linalg.norm(self._before.get(name, 0.0)))
                self.norms.setdefault(name, []).append(norm)
                self.ratios.setdefault(name, []).append(change / size if size else np.inf)
        if (run.step + 1) % self.every == 0:
            self._keep(run)

    def on_epoch_end(self, run):
        for name, p in run.model.named_parameters():
            if self.bins and p.grad is not None:
                counts, edges = np.histogram(_values(p.grad), self.bins)
                self.histograms.setdefault(name, []).append((counts, edges))

    def _keep(self, run) -> None:
        self._before = {name: _values(p) for name, p in run.model.named_parameters()}

    def state_dict(self):
        return {"steps": self.steps, "norms": self.norms, "ratios": self.ratios, "histograms": self.histograms}

    def load_state_dict(self, state):
        self.steps, self.norms, self.ratios = state["steps"], state["norms"], state["ratios"]
        self.histograms = {name: [tuple(h) for h in rows] for name, rows in state["histograms"].items()}

    def table(self) -> str:
        """Medians over the steps recorded, a line for each parameter."""
        width = max(map(len, self.norms), default=9)
        lines = [f"{'parameter':{width}}  gradient norm  update ratio"]
        for name, norms in self.norms.items():
            lines.append(f"{name:{width}}  {np.median(norms):13.3e}  {np.median(self.ratios[name]):12.3e}")
        return "\n".join(lines)

    def draw(self, path: str | os.PathLike) -> None:
        """A picture of norms and ratios over the steps; needs matplotlib."""
        from ._figures import figure

        with figure(path, 1, 2) as axes:
            for ax, what, rows in ((axes[0], "gradient norm", self.norms), (axes[1], "update ratio", self.ratios)):
                for name, values in rows.items():
                    ax.semilogy(self.steps, values, label=name, lw=0.8)
                ax.set(xlabel="step", ylabel=what)
            axes[1].legend(fontsize="x-small")


class Trajectory(Callback):
    """The parameters after every so many steps, and before the first: the way of a training through weight space.

    Args:
        every: keep one step of so many.

    Attributes:
        steps, losses: of the points. points: arrays, flat, in float32.
    """

    priority = 50

    def __init__(self, every: int = 10):
        self.every = as_count("Trajectory", "every", every)
        self.steps: list[int] = []
        self.losses: list[float | None] = []
        self.points: list[np.ndarray] = []

    def _add(self, run) -> None:
        self.steps.append(run.step)
        self.losses.append(run.loss)
        parts = [_values(p) for p in run.model.parameters() if p.requires_grad]
        self.points.append(np.concatenate(parts).astype(np.float32))

    def on_fit_begin(self, run):
        if not self.steps or self.steps[-1] != run.step:  # a resumed run begins at the last point
            self._add(run)

    def on_step_end(self, run):
        if run.step % self.every == 0:
            self._add(run)

    def state_dict(self):
        return {"steps": self.steps, "losses": self.losses, "points": self.points}

    def load_state_dict(self, state):
        self.steps, self.losses, self.points = state["steps"], state["losses"], state["points"]
