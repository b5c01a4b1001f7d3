"""Running means of a model's weights: SWA and exponential averages, as torch.optim.swa_utils has them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable

from ..autograd import no_grad
from ..nn.batch_norm import _BatchNorm
from ..nn.module import Module
from ..tensor import Tensor, tensor

__all__ = ["AveragedModel", "update_bn"]


class AveragedModel(Module):
    """A copy of a model whose parameters are means over the calls of update_parameters.

    Args:
        model: copied.
        avg_fn: avg_fn(mean, new value, how many were averaged) → the new mean; by default the plain mean of SWA.
        decay: in place of avg_fn, an exponential average: mean·decay + new·(1 − decay).
        use_buffers: average floating buffers too; by default they are copied.

    Batch norm's statistics are those of no weights that were trained: run update_bn before use.

    Source: Izmailov et al., arXiv 1803.05407.
    """

    def __init__(
        self, model: Module, avg_fn: Callable | None = None, use_buffers: bool = False, *, decay: float | None = None
    ):
        super().__init__()
        if decay is not None:
            if avg_fn is not None or not 0 <= decay <= 1:
                raise ValueError(
                    f"AveragedModel: argument 'decay': expected a number in [0, 1] and no avg_fn, got {decay}"
                )
            avg_fn = lambda mean, new, n: mean * decay + new * (1 - decay)  # noqa: E731
        self.module = copy.deepcopy(model)
        self.avg_fn = avg_fn or (lambda mean, new, n: mean + (new - mean) / float(n + 1))
        self.use_buffers = use_buffers
        self.register_buffer("n_averaged", tensor(0))

    def forward(self, *args, **kwargs):
        return self.module(*args, **kwargs)

    @no_grad()
    def update_parameters(self, model: Module) -> None:
        """Takes the model's parameters of now into the mean; the first ones are copied."""
        n = int(self.n_averaged.item())
        pairs = [(a, b, True) for a, b in zip(self.module.parameters(), model.parameters(), strict=True)]
        pairs += [(a, b, self.use_buffers) for a, b in zip(self.module.buffers(), model.buffers(), strict=True)]
        for mine, new, mean in pairs:
            new = new.detach()
            mine.copy_(self.avg_fn(mine.detach(), new, n) if mean and n and new.dtype.kind == "f" else new)
        self.n_averaged.copy_(tensor(n + 1))


@no_grad()
def update_bn(loader: Iterable, model: Module) -> None:
    """The statistics of all batch norms anew, as the mean over the batches of loader: tensors, or (input, …).

    Source: Izmailov et al., arXiv 1803.05407, §3.2.
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
    if not norms:
        return
    kept = [(m, m.momentum) for m in norms]
    training = [m for m in model.modules() if m.training]
    for m in norms:
        m.reset_running_stats()
        m.momentum = None  # the plain mean
    model.train()
    try:
        for batch in loader:
            x = batch[0] if isinstance(batch, (tuple, list)) else batch
            model(x if isinstance(x, Tensor) else Tensor(x))
    finally:
        model.eval()
        for m in training:
            m.training = True
        for m, momentum in kept:
            m.momentum = momentum
