"""Recurrent layers: what RNN, LSTM and GRU share, and the plain ones; the equations are in pynn/ops/rnn.py."""

from __future__ import annotations

import math

import numpy as np

from .. import _core
from ..arrays import as_count
from ..op import OPS
from ..ops.index import cat, stack
from ..ops.rnn import as_lengths, shape_error
from . import functional as F
from . import init
from .module import Module, Parameter

__all__ = ["RNN", "RNNBase", "RNNCell", "RNNCellBase"]


class _Recurrent(Module):
    """Parameters of recurrent layers: all uniform in ±1/√hidden_size to begin with."""

    hidden_size: int

    def reset_parameters(self) -> None:
        """Draws all parameters anew from the default generator."""
        bound = 1 / math.sqrt(self.hidden_size) if self.hidden_size > 0 else 0.0
        for p in self.parameters():
            init.uniform_(p, -bound, bound)

    def _check_sizes(self, **sizes) -> None:
        for name, n in sizes.items():
            as_count(self._get_name(), name, n)

    def _add(self, name: str, shape: tuple, dtype, wanted: bool = True) -> None:
        self.register_parameter(name, Parameter(_core.empty(shape, dtype or np.float32)) if wanted else None)


_GATES = {"RNN_TANH": 1, "RNN_RELU": 1, "LSTM": 4, "GRU": 3}


class RNNBase(_Recurrent):
    """Layers of recurrent ops, in one direction or both: what RNN, LSTM and GRU share.

    Args:
        mode: "RNN_TANH", "RNN_RELU", "LSTM" or "GRU".
        The others as for LSTM.
    """

    def __init__(
        self,
        mode: str,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        dtype=None,
    ):
        super().__init__()
        name = self._get_name()
        if mode not in _GATES:
            raise ValueError(f"{name}: argument 'mode': expected one of {', '.join(_GATES)}, got {mode!r}")
        self._check_sizes(input_size=input_size, hidden_size=hidden_size, num_layers=num_layers)
        if not 0 <= dropout <= 1:
            raise ValueError(f"{name}: argument 'dropout': expected 0 <= dropout <= 1, got {dropout}")
        if not 0 <= proj_size < hidden_size:
            raise ValueError(
                f"{name}: argument 'proj_size': expected 0 <= proj_size < hidden_size {hidden_size}, got {proj_size}"
            )
        if proj_size and mode != "LSTM":
            raise ValueError(
                f"{name}: argument 'proj_size': expected 0, as only LSTM has a projection, got {proj_size}"
            )
        self.mode, self.input_size, self.hidden_size, self.num_layers = mode, input_size, hidden_size, num_layers
        self.bias, self.batch_first, self.dropout = bias, batch_first, float(dropout)
        self.bidirectional, self.proj_size = bidirectional, proj_size
        self._names = []
        rows, width = _GATES[mode] * hidden_size, proj_size or hidden_size
        for layer in range(num_layers):
            size = input_size if layer == 0 else width * (2 if bidirectional else 1)
            for suffix in ("", "_reverse") if bidirectional else ("",):
                end = f"l{layer}{suffix}"
                self._add(f"weight_ih_{end}", (rows, size), dtype)
                self._add(f"weight_hh_{end}", (rows, width), dtype)
                for b in ("bias_ih", "bias_hh") if bias else ():
                    self._add(f"{b}_{end}", (rows,), dtype)
                if proj_size:
                    self._add(f"weight_hr_{end}", (proj_size, hidden_size), dtype)
                self._names.append(end)
        self.reset_parameters()

    def _direction(self, end: str, x, state: tuple, lengths, reverse: bool):
        """(y, the last states) of one layer in one direction."""
        w = [getattr(self, f"{name}_{end}", None) for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
        if self.mode == "LSTM":
            hr = getattr(self, f"weight_hr_{end}", None)
            y, h, c, _ = OPS.lstm(x, *state, *w, hr, lengths, reverse=reverse)
            return y, (h, c)
        if self.mode == "GRU":
            y, h, _ = OPS.gru(x, *state, *w, lengths, reverse=reverse, reset_after=self.reset_after)
            return y, (h,)
        y, h = OPS.rnn(x, *state, *w, lengths, reverse=reverse, relu=self.mode == "RNN_RELU")
        return y, (h,)

    def _states(self, hx, n: int, batched: bool) -> list[tuple]:
        """The states that layers and directions begin with, as (h,) or (h, c)."""
        name, count = self._get_name(), 2 if self.mode == "LSTM" else 1
        if hx is None:
            return [(None,) * count] * len(self._names)
        if count == 2 and not (isinstance(hx, (tuple, list)) and len(hx) == 2):
            raise TypeError(f"{name}: argument 'hx': expected a pair (h_0, c_0), got {type(hx).__name__}")
        hx = tuple(hx) if count == 2 else (hx,)
        widths = (self.proj_size or self.hidden_size, self.hidden_size)
        for s, width in zip(hx, widths):
            want = (len(self._names), n, width) if batched else (len(self._names), width)
            if s.shape != want:
                raise shape_error(name, "hx", want, s.shape)
        hx = hx if batched else tuple(s.unsqueeze(1) for s in hx)
        return [tuple(s[k] for s in hx) for k in range(len(self._names))]

    def forward(self, input, hx=None, lengths=None):
        name = self._get_name()
        if input.ndim not in (2, 3):
            raise ValueError(f"{name}: argument 'input': expected 2 or 3 dimensions, got shape {input.shape}")
        if input.shape[-1] != self.input_size:
            raise shape_error(name, "input", f"(…, {self.input_size})", input.shape)
        batched = input.ndim == 3
        x = input if batched else input.unsqueeze(1)
        if batched and self.batch_first:
            x = x.transpose(0, 1)
        n = x.shape[1]
        lengths = None if lengths is None else as_lengths(name, lengths, n)
        starts, ends, each = self._states(hx, n, batched), [], 2 if self.bidirectional else 1
        for layer in range(self.num_layers):
            ys = []
            for k in range(layer * each, layer * each + each):
                y, end = self._direction(self._names[k], x, starts[k], lengths, k % each == 1)
                ys.append(y)
                ends.append(end)
            x = ys[0] if each == 1 else cat(ys, 2)
            if self.dropout and self.training and layer < self.num_layers - 1:
                x = F.dropout(x, self.dropout, True)
        last = tuple(s[0].unsqueeze(0) if len(s) == 1 else stack(s) for s in zip(*ends))
        if not batched:
            x, last = x.squeeze(1), tuple(s.squeeze(1) for s in last)
        elif self.batch_first:
            x = x.transpose(0, 1)
        return x, last if self.mode == "LSTM" else last[0]

    def extra_repr(self) -> str:
        text = f"{self.input_size}, {self.hidden_size}"
        for name, default in (("proj_size", 0), ("num_layers", 1), ("bias", True), ("batch_first", False),
                              ("dropout", 0.0), ("bidirectional", False)):  # fmt: skip
            if getattr(self, name) != default:
                text += f", {name}={getattr(self, name)}"
        return text


class RNN(RNNBase):
    """h_t = tanh(x_t·W_ihᵀ + b_ih + h_(t−1)·W_hhᵀ + b_hh), or max(·, 0), over whole sequences.

    Args:
        nonlinearity: "tanh" or "relu". The others as for LSTM.

    Shapes: input (T, N, input_size), h_0 → output (T, N, D·hidden_size), h_n, as for LSTM.

    Parameters: weight_ih_l0 (hidden_size, input_size), weight_hh_l0 (hidden_size, hidden_size), bias_ih_l0 and
    bias_hh_l0 (hidden_size,), … as torch.nn.RNN.

    Raises: as LSTM. ValueError: an unknown nonlinearity.

    Source: S3 §9.1.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        dtype=None,
    ):
        _check_nonlinearity("RNN", nonlinearity)
        mode = f"RNN_{nonlinearity.upper()}"
        super().__init__(mode, input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, 0, dtype)
        self.nonlinearity = nonlinearity


def _check_nonlinearity(name: str, nonlinearity: str) -> None:
    if nonlinearity not in ("tanh", "relu"):
        raise ValueError(f"{name}: argument 'nonlinearity': expected 'tanh' or 'relu', got {nonlinearity!r}")


class RNNCellBase(_Recurrent):
    """One step with the state in and out: the op of the whole sequence on a sequence of one step."""

    def __init__(self, input_size: int, hidden_size: int, bias: bool, num_chunks: int, dtype=None):
        super().__init__()
        self._check_sizes(input_size=input_size, hidden_size=hidden_size)
        self.input_size, self.hidden_size, self.bias = input_size, hidden_size, bias
        self._add("weight_ih", (num_chunks * hidden_size, input_size), dtype)
        self._add("weight_hh", (num_chunks * hidden_size, hidden_size), dtype)
        self._add("bias_ih", (num_chunks * hidden_size,), dtype, bias)
        self._add("bias_hh", (num_chunks * hidden_size,), dtype, bias)
        self.reset_parameters()

    def _step(self, op, input, states: tuple, *rest, **params):
        """The op's results after the first, which is y, for input (N, I) or (I,)."""
        name = self._get_name()
        if input.ndim not in (1, 2) or input.shape[-1] != self.input_size:
            raise shape_error(name, "input", f"(N, {self.input_size}) or ({self.input_size},)", input.shape)
        batched = input.ndim == 2
        x = input.unsqueeze(0) if batched else input.reshape(1, 1, self.input_size)
        for s in states:
            want = (*input.shape[:-1], self.hidden_size)
            if s is not None and s.shape != want:
                raise shape_error(name, "hx", want, s.shape)
        states = [s if s is None or batched else s.unsqueeze(0) for s in states]
        y_and_last = op(x, *states, self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh, *rest, **params)
        last = y_and_last[1 : 1 + len(states)]
        return last if batched else [s.squeeze(0) for s in last]

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}" + ("" if self.bias else ", bias=False")


class RNNCell(RNNCellBase):
    """h' = tanh(x·W_ihᵀ + b_ih + h·W_hhᵀ + b_hh), or max(·, 0): input (N, input_size), h (N, hidden_size) → h'.

    Args:
        nonlinearity: "tanh" or "relu". Without a batch: (input_size,), (hidden_size,). h is zeros where not given.

    Parameters: weight_ih, weight_hh, bias_ih, bias_hh, as torch.nn.RNNCell.

    Raises: ValueError: shapes that do not fit; an unknown nonlinearity. TypeError: another dtype than the weights'.

    Source: S3 §9.1.
    """

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, nonlinearity: str = "tanh", dtype=None):
        _check_nonlinearity("RNNCell", nonlinearity)
        super().__init__(input_size, hidden_size, bias, 1, dtype)
        self.nonlinearity = nonlinearity

    def forward(self, input, hx=None):
        return self._step(OPS.rnn, input, (hx,), None, relu=self.nonlinearity == "relu")[0]
