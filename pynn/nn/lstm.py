"""Long short-term memory as modules; the equations and their derivatives are in pynn/ops/lstm.py."""

from __future__ import annotations

from ..op import OPS
from .rnn import RNNBase, RNNCellBase

__all__ = ["LSTM", "LSTMCell"]


class LSTM(RNNBase):
    """i, f, o = σ(a_i), σ(a_f), σ(a_o), g = tanh(a_g), a = x_t·W_ihᵀ + b_ih + h_(t−1)·W_hhᵀ + b_hh;
    c_t = f·c_(t−1) + i·g, h_t = o·tanh(c_t), or that times W_hrᵀ, over whole sequences.

    Args:
        input_size, hidden_size: of x_t and of c_t.
        num_layers: how many, each above the last.
        bias: whether there are biases.
        batch_first: input and output are (N, T, ·) rather than (T, N, ·); states are not.
        dropout: probability, in training, with which the outputs of all layers but the last are dropped.
        bidirectional: a second layer beside each, from the last step to the first; outputs are concatenated.
        proj_size: size of h_t where it is projected; 0: it is not.
        dtype: float32 or float64 of the parameters, and so of the input.

    Shapes, D = 2 if bidirectional else 1, H_out = proj_size or hidden_size: called as layer(input, (h_0, c_0), lengths)
        input (T, N, input_size), or (T, input_size) without a batch
        h_0 (D·num_layers, N, H_out), c_0 (D·num_layers, N, hidden_size): zeros where not given
        lengths: N integers from 0 to T: sequence n has the steps below lengths[n]; output is 0 beyond, and what input
            holds there has no influence
        → output (T, N, D·H_out), (h_n, c_n), the states after the last step, as (h_0, c_0).

    Parameters, of layer k: weight_ih_lk (4·hidden_size, size of its input), weight_hh_lk (4·hidden_size, H_out),
    bias_ih_lk, bias_hh_lk (4·hidden_size,), weight_hr_lk (proj_size, hidden_size), gates in the order i, f, g, o; those
    of the other direction end in _reverse. All uniform in ±1/√hidden_size to begin with, as torch.nn.LSTM.

    Raises:
        ValueError: shapes that do not fit, sizes and lengths out of range. TypeError: another dtype than the
            weights', a hx that is no pair.

    Source: Hochreiter and Schmidhuber 1997; S3 §9.2.
    """

    def __init__(
        self,
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
        super().__init__(
            "LSTM", input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, proj_size, dtype
        )


class LSTMCell(RNNCellBase):
    """One step of an LSTM: input (N, input_size), (h, c) (N, hidden_size) each → (h', c').

    Without a batch: (input_size,), (hidden_size,). States are zeros where not given.

    Parameters: weight_ih (4·hidden_size, input_size), weight_hh (4·hidden_size, hidden_size), bias_ih, bias_hh
    (4·hidden_size,), as torch.nn.LSTMCell.

    Raises:
        ValueError: shapes that do not fit. TypeError: another dtype than the weights', a hx that is no pair.

    Source: S3 §9.2.
    """

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, dtype=None):
        super().__init__(input_size, hidden_size, bias, 4, dtype)

    def forward(self, input, hx=None):
        if hx is not None and not (isinstance(hx, (tuple, list)) and len(hx) == 2):
            raise TypeError(f"LSTMCell: argument 'hx': expected a pair (h, c), got {type(hx).__name__}")
        h, c = self._step(OPS.lstm, input, hx or (None, None), None, None)
        return h, c
