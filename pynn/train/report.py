"""Trainer.report: one HTML page with everything in it, pictures as SVG, no script, nothing from a network."""

from __future__ import annotations

import html
import io
import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..config import config
from .metrics import METRICS, metrics_of

if TYPE_CHECKING:
    from .trainer import Trainer

__all__ = ["write_report"]

CLASSES = 30  # more are not drawn as a matrix
POINTS = 2000  # of predictions against targets

STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, "DejaVu Sans", sans-serif; color: #1a1a1a; background: #fff; margin: 0 auto;
       max-width: 60rem; padding: 2rem 1.25rem 4rem; }
h1 { font-size: 1.6rem; margin: 0 0 .25rem; } h2 { font-size: 1.15rem; margin: 2.25rem 0 .5rem; }
p.lead { color: #555; margin: 0 0 1.5rem; } figure { margin: 0; } svg { max-width: 100%; height: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; } .wide { overflow-x: auto; }
th, td { text-align: left; padding: .25rem .9rem .25rem 0; border-bottom: 1px solid #e4e4e4; vertical-align: top; }
td.n, th.n { text-align: right; } pre { background: #f6f6f6; padding: .8rem 1rem; overflow-x: auto; font-size: .85rem; }
"""


def write_report(trainer: Trainer, path: str | os.PathLike, data=None) -> None:
    """Writes the page; see Trainer.report."""
    run = trainer.run
    if run is None or not run.history.epochs:
        raise ValueError("report: there is no whole epoch to report yet: fit first")
    try:
        import matplotlib  # noqa: F401
    except ImportError as e:
        raise ImportError("report needs matplotlib: pip install 'pynn-core[plot]'") from e
    parts = [
        ("Figures", _figures(run)),
        ("Curves", _svg(_curves(run.history))),
        *_of_data(trainer, data),
        *([("Gradient norms", _svg(_norms(run.norms)))] if run.norms else []),
        ("Model", f"<pre>{html.escape(repr(trainer.model))}</pre>" + _table(_model_rows(trainer))),
        ("Training", _table(_training_rows(trainer))),
        ("Machine", _table(_flat(config()))),
    ]
    title = f"{type(trainer.model).__name__}: {run.epoch} epochs"
    body = "\n".join(f"<h2>{name}</h2>\n{text}" for name, text in parts)
    page = (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<style>{STYLE}</style></head>\n'
        f"<body>\n<h1>{html.escape(title)}</h1>\n"
        f'<p class="lead">{html.escape(_lead(trainer))}</p>\n{body}\n</body></html>\n'
    )
    with open(path, "w", encoding="utf-8") as f:
        f.write(page)


def _lead(trainer: Trainer) -> str:
    run = trainer.run
    assert run is not None
    seconds = sum(run.history.get("seconds", ()))
    part = f"{trainer.replayed / trainer.steps:.0%} of the steps replayed" if trainer.steps else "no steps"
    ended = f"; ended early: {run.stopped}" if run.stopped else ""
    return f"{run.step} steps in {seconds:.3g} s, {part}{ended}."


def _figures(run) -> str:
    """Last and best of each figure, training beside validation."""
    rows = []
    for name in run.history.panels():
        cells = [name]
        for key in (name, "val_" + name):
            values = np.array(run.history.get(key, []), float)
            if not len(values) or np.isnan(values).all():
                cells += ["", ""]
                continue
            best = np.nanargmax(values) if run.better(name) == "max" else np.nanargmin(values)
            cells += [f"{values[-1]:.4g}", "" if name == "lr" else f"{values[best]:.4g} (epoch {best + 1})"]
        rows.append(cells)
    head = ["", "training", "best", "validation", "best"]
    if not any(r[3] for r in rows):
        head, rows = head[:3], [r[:3] for r in rows]
    return _table(rows, head)


def _table(rows: Iterable, head: list[str] | None = None) -> str:
    def line(cells, tag):
        return "<tr>" + "".join(f"<{tag}>{html.escape(str(c))}</{tag}>" for c in cells) + "</tr>"

    top = line(head, "th") if head else ""
    return f'<div class="wide"><table>{top}{"".join(line(r, "td") for r in rows)}</table></div>'


def _svg(figure) -> str:
    """A figure as SVG that stands in the page; its text stays text."""
    import matplotlib

    out = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "pynn"}):
        figure.savefig(out, format="svg", metadata={"Date": None})
    text = out.getvalue()
    return f"<figure>{text[text.index('<svg') :]}</figure>"


def _grid(n: int, width: float = 4.6, height: float = 3.2, columns: int = 2):
    """(figure, its axes): n panels."""
    from matplotlib.figure import Figure

    columns = min(n, columns)
    rows = -(-n // columns)
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax in axes[n:]:
        ax.axis("off")
    return figure, axes[:n]


def _curves(history):
    names = history.panels()
    figure, axes = _grid(len(names))
    for name, ax in zip(names, axes):
        history._draw(ax, name)
    return figure


def _norms(norms: dict[str, list[float]]):
    """The norm of each parameter's gradient by epoch."""
    figure, (ax,) = _grid(1, 9.2, 3.4)
    from matplotlib import colormaps

    colors = colormaps["viridis"](np.linspace(0, 0.9, len(norms)))
    for (name, values), color in zip(norms.items(), colors):
        ax.plot(range(1, len(values) + 1), values, label=name, color=color)
    if all(v > 0 for values in norms.values() for v in values):
        ax.set_yscale("log")
    ax.set_xlabel("epoch")
    ax.set_ylabel("norm in the last step")
    ax.grid(alpha=0.25)
    ax.spines[["top", "right"]].set_visible(False)
    if len(norms) <= 16:
        ax.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _of_data(trainer: Trainer, data) -> list[tuple[str, str]]:
    """The confusion of classes, or predictions against targets, of the data given."""
    if data is None:
        return []
    if not isinstance(data, (tuple, list)) or len(data) != 2:
        raise TypeError(f"report: argument 'data': expected (X, y), got {type(data).__name__}")
    X, y = data
    classes = metrics_of(["f1"], trainer.loss)[0] if _classifies(trainer.loss) else None
    output = trainer.predict(X)
    if not isinstance(output, np.ndarray) or isinstance(y, (tuple, Mapping)):
        raise TypeError("report: argument 'data': expected one target, and a model with one output, got several")
    if classes is None:
        return [("Predictions against targets", _svg(_scatter(output, np.asarray(y))))]
    classes.update(output, np.asarray(y))
    counts = classes.counts
    right = np.trace(counts) / max(counts.sum(), 1)
    text = f"<p>{right:.2%} of {counts.sum()} samples are in the right class.</p>"
    return [("Confusion", text + (_svg(_confusion(counts)) if len(counts) <= CLASSES else ""))]


def _classifies(loss) -> bool:
    try:
        return bool(metrics_of([METRICS[0]], loss))
    except ValueError:
        return False


def _confusion(counts: np.ndarray):
    """Counts by (class, what it was taken for), shaded by their share of the class."""
    n = len(counts)
    size = min(9.2, 2.2 + 0.55 * n)
    figure, (ax,) = _grid(1, size, size * 0.9)
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    ax.imshow(share, cmap="Blues", vmin=0, vmax=1.15)
    for i, j in np.argwhere(counts):
        color = "white" if share[i, j] > 0.6 else "#222"
        ax.text(j, i, counts[i, j], ha="center", va="center", fontsize=8, color=color)
    ax.set_xticks(range(n))
    ax.set_yticks(range(n))
    ax.set_xlabel("taken for")
    ax.set_ylabel("class")
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return figure


def _scatter(output: np.ndarray, target: np.ndarray):
    figure, (ax,) = _grid(1, 5.2, 4.6)
    y, t = output.ravel(), target.ravel()
    step = max(1, len(y) // POINTS)
    ax.plot(t[::step], y[::step], ".", markersize=3, alpha=0.5, color="#1f5fa8")
    ends = [min(t.min(), y.min()), max(t.max(), y.max())]
    ax.plot(ends, ends, color="#999", linewidth=1)
    ax.set_xlabel("target")
    ax.set_ylabel("prediction")
    ax.grid(alpha=0.25)
    ax.spines[["top", "right"]].set_visible(False)
    return figure


def _model_rows(trainer: Trainer) -> list:
    parameters = list(trainer.model.parameters())
    trained = sum(p.size for p in parameters if p.requires_grad)
    return [("parameters", f"{sum(p.size for p in parameters):,}"), ("trained", f"{trained:,}")]


def _training_rows(trainer: Trainer) -> list:
    run = trainer.run
    assert run is not None
    rows: list = [("loss", repr(trainer.loss)), ("optimizer", type(trainer.optimizer).__name__)]
    for k, group in enumerate(trainer.optimizer.param_groups):
        name = f"group {k}" if len(trainer.optimizer.param_groups) > 1 else "its options"
        rows.append((name, ", ".join(f"{key}={value}" for key, value in group.items() if key != "params")))
    rows += list(run.options.items())
    for name in ("schedule", "max_norm", "clip_value", "ema", "penalty"):
        value = getattr(trainer, name)
        if value is not None:
            rows.append((name, type(value).__name__ if name == "schedule" else value))
    return rows


def _flat(value: Any, name: str = "") -> list:
    """[(dotted name, text)] of nested dicts."""
    if isinstance(value, Mapping):
        return [row for k, v in value.items() for row in _flat(v, f"{name}.{k}" if name else str(k))]
    return [(name, ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else value)]
