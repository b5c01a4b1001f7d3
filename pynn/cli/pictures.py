"""The demo's picture of what the test showed."""

from __future__ import annotations

import os

import numpy as np

SHOWN = 12  # wrongly read scans in the picture


def confusion_picture(X: np.ndarray, y: np.ndarray, predicted: np.ndarray, path: str | os.PathLike) -> None:
    """Writes the confusion matrix of ten digits, with the 8×8 scans that were read wrongly beside it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 5.4), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1.45, 1))
    _matrix(left.subplots(), y, predicted)
    wrong = np.flatnonzero(y != predicted)
    right.suptitle(f"{len(wrong)} of {len(y)} read wrongly" + (f", {SHOWN} shown" if len(wrong) > SHOWN else ""))
    panels = right.subplots(4, 3).ravel()
    for ax in panels:
        ax.axis("off")
    for ax, k in zip(panels, wrong, strict=False):
        ax.imshow(X[k].reshape(8, 8), cmap="gray_r", vmin=0, vmax=1)
        ax.set_title(f"{y[k]} read as {predicted[k]}", fontsize=9)
    figure.savefig(path, dpi=150)


def _matrix(ax, y: np.ndarray, predicted: np.ndarray) -> None:
    """Counts by (digit, reading): right ones blue, wrong ones orange, each shaded by its share of the row."""
    counts = np.zeros((10, 10), dtype=int)
    np.add.at(counts, (y, predicted), 1)
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    diagonal = np.eye(10, dtype=bool)
    ax.imshow(np.where(diagonal, share, np.nan), cmap="Blues", vmin=0, vmax=1.25)
    ax.imshow(np.where(diagonal | (counts == 0), np.nan, share), cmap="Oranges", vmin=-0.1, vmax=0.25)
    for i, j in np.argwhere(counts):
        ax.text(
            j, i, counts[i, j], ha="center", va="center", color="white" if share[i, j] > 0.7 else "black", fontsize=10
        )
    ax.set_xticks(range(10))
    ax.set_yticks(range(10))
    ax.set_xticks(np.arange(-0.5, 10), minor=True)
    ax.set_yticks(np.arange(-0.5, 10), minor=True)
    ax.grid(which="minor", color="0.9", linewidth=0.8)
    ax.tick_params(which="both", length=0)
    ax.spines[:].set_visible(False)
    ax.set_xlabel("read as")
    ax.set_ylabel("digit")
    ax.set_title(f"Test accuracy {np.mean(y == predicted):.2%}")
