"""Gated recurrent units as modules; the equations and their derivatives are in pynn/ops/gru.py."""

from __future__ import annotations

from ..op import OPS
from .rnn import RNNBase, RNNCellBase

__all__ = ["GRU", "GRUCell"]


class GRU(RNNBase):
    """r, z = σ(x_t·W_ihᵀ + b_ih + h·W_hhᵀ + b_hh), n = tanh(x_t·W_inᵀ + b_in + r·(h·W_hnᵀ + b_hn)), h = h_(t−1);
    h_t = (1 − z)·n + z·h, over whole sequences.

    Args:
        reset_after: whether r acts after the product with W_hn, as above and in PyTorch, or before it, as in
            S3 §9.3: n = tanh(x_t·W_inᵀ + b_in + (r·h)·W_hnᵀ + b_hn).
        The others as for LSTM.

    Shapes: input (T, N, input_size), h_0 → output (T, N, D·hidden_size), h_n, as for LSTM.

    Parameters: weight_ih_l0 (3·hidden_size, input_size), weight_hh_l0 (3·hidden_size, hidden_size), bias_ih_l0 and
    bias_hh_l0 (3·hidden_size,), … gates in the order r, z, n, as torch.nn.GRU.

    Raises: as LSTM.

    Source: Cho et al. 2014; S3 §9.3, whose z is 1 − z here.
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
        dtype=None,
        reset_after: bool = True,
    ):
        super().__init__(
            "GRU", input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, 0, dtype
        )
        self.reset_after = reset_after

    def extra_repr(self) -> str:
        return super().extra_repr() + ("" if self.reset_after else ", reset_after=False")


class GRUCell(RNNCellBase):
    """One step of a GRU: input (N, input_size), h (N, hidden_size) → h'.

    Without a batch: (input_size,), (hidden_size,). h is zeros where not given. reset_after as for GRU.

    Parameters: weight_ih (3·hidden_size, input_size), weight_hh (3·hidden_size, hidden_size), bias_ih, bias_hh
    (3·hidden_size,), as torch.nn.GRUCell.

    Raises: ValueError: shapes that do not fit. TypeError: another dtype than the weights'.

    Source: S3 §9.3.
    """

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, dtype=None, reset_after: bool = True):
        super().__init__(input_size, hidden_size, bias, 3, dtype)
        self.reset_after = reset_after

    def forward(self, input, hx=None):
        return self._step(OPS.gru, input, (hx,), None, reset_after=self.reset_after)[0]
