"""The computation graph as a picture, and a report of what it saved for the backward pass."""

from __future__ import annotations

import html
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

from .. import _core
from ..nn.module import Module
from ..tensor import Tensor

__all__ = ["Graph", "Saved", "SavedReport", "graph", "saved_tensors"]


def _nodes(y: Tensor) -> list:
    """The nodes below y, each once, consumers before producers."""
    if y.grad_fn is None:
        raise ValueError("expected a tensor with history, got one that was computed from nothing that requires grad")
    found, todo = {}, [y.grad_fn]
    while todo:
        node = todo.pop()
        if node in found:
            continue
        found[node] = True
        todo += [n for n, _ in node.next_functions if n is not None and not isinstance(n, Tensor)]
    return sorted(found, key=lambda n: -_core.node_number(n))


# ---- what was saved --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Saved:
    """One tensor that an op saved: whether it is a leaf (a parameter, held anyhow) or has been counted before."""

    op: str
    name: str
    shape: tuple[int, ...]
    nbytes: int
    leaf: bool
    again: bool


class SavedReport(list):
    """Rows of Saved, in the order in which backward will use them. `nbytes` counts each memory once, leaves not."""

    @property
    def nbytes(self) -> int:
        return sum(r.nbytes for r in self if not r.leaf and not r.again)

    def __str__(self):
        lines = ["op                    saved       shape                 bytes"]
        for r in self:
            note = "  (leaf)" if r.leaf else "  (again)" if r.again else ""
            lines.append(f"{r.op:20.20}  {r.name:10.10}  {r.shape!s:20.20}  {r.nbytes:>9,}{note}")
        return "\n".join([*lines, f"saved for backward: {self.nbytes:,} bytes"])


def saved_tensors(y: Tensor) -> SavedReport:
    """What each op below y keeps for backward, as S1's Table 2.8; empty for a y without history (F-AD-8)."""
    report, seen = SavedReport(), set()
    if y.grad_fn is None:
        return report
    for node in _nodes(y):
        kept = dict(zip(node.op.in_names, node.ins))
        kept.update(zip(node.op.out_names, node.outs))
        for name, shape, _, nbytes in node.saved:
            t = kept.get(name)
            storage = None if t is None else t.storage_
            key = (name, id(node)) if storage is None else storage.ptr
            leaf = t is not None and t.is_leaf and t.requires_grad
            report.append(Saved(node.name, name, shape, nbytes, leaf, key in seen))
            seen.add(key)
    return report


# ---- the picture ------------------------------------------------------------------------------------

COLORS = {"leaf": "#cfe8cf", "both": "#eeeeee", "result": "#ffe0a3"}
BRANCHES = ("#cfdcf5", "#f5cfd6", "#e5d3f2", "#d0efee")


class Graph:
    """Nodes with a label, a kind and edges from producers to consumers.

    Attributes:
        labels: [text of each node]. kinds: "result", "leaf", "both" or the number of the branch it belongs to alone.
        edges: {(producer, consumer)} by number.
    """

    def __init__(self, labels: list[str], kinds: list, edges: set[tuple[int, int]]):
        self.labels, self.kinds, self.edges = labels, kinds, edges

    def branch(self, k: int) -> list[str]:
        """The labels of what the k-th input of the result depends on alone."""
        return [text for text, kind in zip(self.labels, self.kinds) if kind == k]

    def _color(self, kind) -> str:
        return COLORS[kind] if kind in COLORS else BRANCHES[kind % len(BRANCHES)]

    def dot(self) -> str:
        """The graph in Graphviz's language."""
        lines = ["digraph {", '  node [shape=box, style="filled,rounded", fontname="sans-serif", fontsize=10];']
        for k, (text, kind) in enumerate(zip(self.labels, self.kinds)):
            label = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
            lines.append(f'  n{k} [label="{label}", fillcolor="{self._color(kind)}"];')
        lines += [f"  n{a} -> n{b};" for a, b in sorted(self.edges)]
        return "\n".join([*lines, "}"])

    def _places(self) -> list[tuple[int, float]]:
        """(row, column) of each node: below all that it depends on, near the mean of these."""
        before: list[list[int]] = [[] for _ in self.labels]
        for a, b in self.edges:
            before[b].append(a)
        rows = [0] * len(self.labels)
        for k in reversed(range(len(self.labels))):  # producers have larger numbers
            rows[k] = max((rows[a] + 1 for a in before[k]), default=0)
        columns = [0.0] * len(self.labels)
        for row in range(max(rows) + 1):
            members = [k for k in range(len(rows)) if rows[k] == row]
            wish = {k: sum(columns[a] for a in before[k]) / len(before[k]) if before[k] else k for k in members}
            taken = -1.0
            for k in sorted(members, key=lambda k: (wish[k], -k)):
                taken = columns[k] = max(taken + 1, wish[k] if row else taken + 1)
        return list(zip(rows, columns))

    def svg(self) -> str:
        """The graph as SVG by a layout of pynn's own: a row for each depth, the result below."""
        w, h, dx, dy = 130, 34, 150, 64
        places = [(10 + c * dx, 10 + r * dy) for r, c in self._places()]
        wide, high = max(x for x, _ in places) + w + 10, max(y for _, y in places) + h + 10
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide:.0f} {high:.0f}" width="{wide:.0f}" '
            f'height="{high:.0f}" font-family="sans-serif" font-size="10">',
            '<defs><marker id="arrow" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="6" markerHeight="6" '
            'orient="auto"><path d="M0 0L8 4L0 8z" fill="#555"/></marker></defs>',
        ]
        for a, b in sorted(self.edges):
            (x0, y0), (x1, y1) = places[a], places[b]
            parts.append(f'<line x1="{x0 + w / 2:.0f}" y1="{y0 + h:.0f}" x2="{x1 + w / 2:.0f}" y2="{y1:.0f}" '
                         'stroke="#555" marker-end="url(#arrow)"/>')  # fmt: skip
        for text, kind, (x, y) in zip(self.labels, self.kinds, places):
            parts.append(f'<rect x="{x:.0f}" y="{y:.0f}" width="{w}" height="{h}" rx="5" stroke="#555" '
                         f'fill="{self._color(kind)}"/>')  # fmt: skip
            for j, line in enumerate(text.split("\n")[:2]):
                parts.append(f'<text x="{x + w / 2:.0f}" y="{y + 14 + 13 * j:.0f}" text-anchor="middle">'
                             f"{html.escape(line)}</text>")  # fmt: skip
        return "\n".join([*parts, "</svg>"])

    def save(self, path: str | os.PathLike) -> None:
        """Writes .dot as text, .svg by Graphviz or else by pynn's own layout, other endings by Graphviz.

        Raises:
            RuntimeError: an ending that needs Graphviz's program `dot`, which is not there.
        """
        path = os.fspath(path)
        kind = os.path.splitext(path)[1][1:]
        dot = shutil.which("dot")
        if kind == "dot" or (kind == "svg" and dot is None):
            with open(path, "w", encoding="utf-8") as file:
                file.write(self.dot() if kind == "dot" else self.svg())
        elif dot is None:
            raise RuntimeError(f"graph: saving {path!r} needs Graphviz's program dot; .svg and .dot do without")
        else:
            subprocess.run([dot, f"-T{kind}", "-o", path], input=self.dot(), text=True, check=True)


def graph(y: Tensor, names: Module | Mapping[str, Tensor] | None = None) -> Graph:
    """The graph below y. Nodes that only one input of the last op leads to have that branch's color: of a loss plus
    a penalty, the two branches of S1 §6.12, which share nothing but the parameters.

    Args:
        names: a Module, or {name: Tensor}, to call leaves by.

    Source: S1 §6.12; F-AD-3.
    """
    named = dict(names.named_parameters()) if isinstance(names, Module) else dict(names or {})
    called = {id(t): name for name, t in named.items()}
    order: dict = {}
    edges = set()
    nodes = _nodes(y)
    for n in nodes:
        order[n] = len(order)
    below: dict = {}
    for n in nodes:
        for t, _ in n.next_functions:
            if t is None:
                continue
            key = t if not isinstance(t, Tensor) else id(t)
            if key not in order:
                order[key] = len(order)
                below[key] = t
            edges.add((order[key], order[n]))
    labels = [n.name for n in nodes]
    labels += [f"{called.get(key, 'leaf')}\n{tuple(t.shape)}" for key, t in below.items()]
    kinds: list = ["result"] + ["both"] * (len(nodes) - 1) + ["leaf"] * len(below)
    for k, reached in _branches(nodes[0], edges, order).items():
        kinds[k] = kinds[k] if kinds[k] in ("result", "leaf") or len(reached) > 1 else next(iter(reached))
    return Graph(labels, kinds, edges)


def _branches(result, edges: set, order: dict) -> dict[int, set[int]]:
    """{node: the inputs of the result that it leads to}."""
    before: dict[int, list[int]] = {}
    for a, b in edges:
        before.setdefault(b, []).append(a)
    found: dict[int, set[int]] = {}
    for branch, (t, _) in enumerate(result.next_functions):
        if t is None:
            continue
        todo = [order[id(t) if isinstance(t, Tensor) else t]]
        while todo:
            k = todo.pop()
            if branch not in found.setdefault(k, set()):
                found[k].add(branch)
                todo += before.get(k, [])
    return found
