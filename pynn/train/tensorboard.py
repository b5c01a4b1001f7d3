"""A callback that writes TensorBoard event files, by the package tensorboardX (extra `tensorboard`)."""

from __future__ import annotations

import os
import time
from typing import Any

import numpy as np

from .. import _core
from ..arrays import as_count
from ..plan import compile
from ..plan_report import calls_of
from ..sparse import RowGradient
from ..tensor import Tensor
from .callbacks import Callback
from .inputs import nested
from .step import applied, eval_mode

__all__ = ["TensorBoard"]


class TensorBoard(Callback):
    """Scalars of each epoch, histograms of weights and gradients by parameter, the calls of the model as a graph.

    Args:
        folder: where the event files go.
        histograms: every how many epochs; 0: none.
        graph: the calls of one forward pass, at the first step.

    Raises:
        ImportError: without tensorboardX. ValueError: histograms below 0.
    """

    priority = 200

    def __init__(self, folder: str | os.PathLike, histograms: int = 1, graph: bool = True):
        histograms = as_count("TensorBoard", "histograms", histograms, 0)
        try:
            from tensorboardX import SummaryWriter
        except ImportError as e:
            raise ImportError("TensorBoard needs tensorboardX: pip install 'pynn-core[tensorboard]'") from e
        self.folder, self.histograms, self.graph = os.fspath(folder), histograms, graph
        self._make = SummaryWriter
        self._writer: Any = None

    def on_fit_begin(self, run):
        if self._writer is not None:
            self._writer.close()
        # what an interrupted run wrote of later steps does not count; a file of its own each time, not each second
        later = run.epoch + 1 if run.epoch else None
        self._writer = self._make(self.folder, purge_step=later, filename_suffix=f".{time.time_ns()}")

    def on_epoch_end(self, run):
        for name, value in run.figures.items():
            group, name = ("validation", name[4:]) if name.startswith("val_") else ("training", name)
            self._writer.add_scalar(f"{name}/{group}", value, run.epoch)
        if self.histograms and run.epoch % self.histograms == 0:
            for name, p in run.model.named_parameters():
                self._writer.add_histogram(f"weights/{name}", np.array(_core.read_view(p)), run.epoch)
                g = p.grad
                if g is not None:
                    values = g._rows if type(g) is RowGradient else g
                    self._writer.add_histogram(f"gradients/{name}", np.array(_core.read_view(values)), run.epoch)
        if self.graph:
            self._add_graph(run)
            self.graph = False
        self._writer.flush()

    def on_fit_end(self, run):
        self._writer.close()

    def _add_graph(self, run) -> None:
        """The calls of a forward pass; nothing for a model that cannot be recorded."""
        x = run.input
        if x is None:
            return
        form, flat = (None, (x,)) if isinstance(x, Tensor) else (len(x), x)
        if isinstance(x, dict):
            form, flat = tuple(x), x.values()
        own = compile(lambda *a: applied(run.model, nested(form, a)), strict=False)
        with eval_mode(run.model):
            own(*flat)
        if own.plans:
            self._writer.file_writer.add_event(_graph(calls_of(own.plans[0])))


def _graph(calls: list) -> Any:
    """An event with calls as TensorBoard's graph: a node each, in order, with the shapes that it reads and writes."""
    from tensorboardX.proto.attr_value_pb2 import AttrValue
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.proto.graph_pb2 import GraphDef
    from tensorboardX.proto.node_def_pb2 import NodeDef
    from tensorboardX.proto.versions_pb2 import VersionDef

    nodes = [NodeDef(name="input", op="input")]
    for k, c in enumerate(calls):
        shapes = AttrValue(s=f"{c.reads} -> {c.writes}".encode())
        nodes.append(NodeDef(name=f"{k}.{c.op}", op=c.op, input=[nodes[-1].name], attr={"shapes": shapes}))
    return Event(graph_def=GraphDef(node=nodes, versions=VersionDef(producer=22)).SerializeToString())
