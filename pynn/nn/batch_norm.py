"""Batch, group and instance norm as modules; the equations and their derivatives are in pynn/ops/batch_norm.py."""

from __future__ import annotations

import numpy as np

from .. import _core
from ..tensor import Tensor
from . import functional as F
from . import init
from .module import Module, Parameter

__all__ = ["BatchNorm1d", "BatchNorm2d", "GroupNorm", "InstanceNorm1d", "InstanceNorm2d"]


class _ChannelNorm(Module):
    """weight and bias for each channel where affine."""

    def __init__(self, num_features: int, affine: bool, dtype):
        super().__init__()
        if num_features < 0:
            raise ValueError(f"{self._get_name()}: expected a number of channels >= 0, got {num_features}")
        self.affine = affine
        for name in ("weight", "bias"):
            values = Parameter(_core.empty((num_features,), dtype or np.float32)) if affine else None
            self.register_parameter(name, values)

    def reset_parameters(self) -> None:
        """Sets weight to 1 and bias to 0."""
        if self.affine:
            init.ones_(self.weight)
            init.zeros_(self.bias)


class _Tracking(_ChannelNorm):
    """Running statistics as buffers, and which numbers of dimensions are taken."""

    dims: tuple[int, ...] = ()

    def __init__(self, num_features, eps, momentum, affine, track_running_stats, dtype):
        super().__init__(num_features, affine, dtype)
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.track_running_stats = track_running_stats
        made = (
            Tensor(np.zeros(num_features, dtype or np.float32)),
            Tensor(np.ones(num_features, dtype or np.float32)),
            Tensor(np.array(0)),
        )
        for name, values in zip(("running_mean", "running_var", "num_batches_tracked"), made):
            self.register_buffer(name, values if track_running_stats else None)
        self.reset_parameters()

    def reset_running_stats(self) -> None:
        """Forgets the batches seen: mean 0, variance 1."""
        if self.track_running_stats:
            self.running_mean.zero_()
            self.running_var.fill_(1)
            self.num_batches_tracked.zero_()

    def reset_parameters(self) -> None:
        """Sets weight to 1 and bias to 0, and forgets the batches seen."""
        self.reset_running_stats()
        super().reset_parameters()

    def _check(self, x) -> None:
        if x.ndim not in self.dims:
            wanted = " or ".join(f"{n}-D" for n in self.dims)
            raise ValueError(f"{self._get_name()}: argument 'input': expected {wanted} input, got shape {x.shape}")

    def extra_repr(self) -> str:
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
            f"track_running_stats={self.track_running_stats}"
        )


class _BatchNorm(_Tracking):
    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        dtype=np.float32,
    ):
        super().__init__(num_features, eps, momentum, affine, track_running_stats, dtype)

    def forward(self, input, residual=None, relu=False):
        self._check(input)
        own = self.running_mean is None  # without running statistics the batch's serve in eval() too
        return F.batch_norm(
            input, self.running_mean, self.running_var, self.weight, self.bias, self.training or own, self.momentum,
            self.eps, residual=residual, relu=relu, num_batches_tracked=self.num_batches_tracked,
        )  # fmt: skip


_DOC = """y = (x − μ)/√(σ² + eps)·weight + bias, μ and σ² of each channel of x {shape} over all else.

    In training they are the batch's, and running_mean and running_var follow them, the latter with the
    variance divided by n − 1; in eval() the running ones serve. The call also takes relu=True, and residual=
    beside it: relu(y + residual) in the same pass.

    Args:
        num_features: C. eps: added to the variance.
        momentum: the share of the newest batch in the running statistics; None averages over all batches.
        affine: whether there are weight and bias. track_running_stats: False keeps no running statistics, and
            uses the batch's own in eval() too.
        dtype: float32 or float64 of the parameters, and so of x.

    Parameters: weight (C,) of ones, bias (C,) of zeros; buffers: running_mean (C,), running_var (C,),
    num_batches_tracked (), as {torch}.

    Raises:
        ValueError: another number of dimensions or channels; one value for each channel in training.
        TypeError: x has another dtype than weight.

    Source: Ioffe and Szegedy, arXiv 1502.03167; S1 §5.3.
    """


class BatchNorm1d(_BatchNorm):
    __doc__ = _DOC.format(shape="(N, C) or (N, C, L)", torch="torch.nn.BatchNorm1d")
    dims = (2, 3)


class BatchNorm2d(_BatchNorm):
    __doc__ = _DOC.format(shape="(N, C, H, W)", torch="torch.nn.BatchNorm2d")
    dims = (4,)


class GroupNorm(_ChannelNorm):
    """y = (x − μ)/√(σ² + eps)·weight + bias, μ and σ² of each item of x (N, C, …) and each group of channels.

    Args:
        num_groups: into how many groups of neighbours the channels are split. num_channels: C.
        affine: whether there are weight (C,) of ones and bias (C,) of zeros.
        dtype: float32 or float64 of the parameters, and so of x.

    Raises:
        ValueError: num_groups does not divide num_channels; x has other channels. TypeError: x has another dtype.

    Source: Wu and He, arXiv 1803.08494.
    """

    def __init__(
        self, num_groups: int, num_channels: int, eps: float = 1e-5, affine: bool = True, dtype=np.float32
    ):  # fmt: skip
        super().__init__(num_channels, affine, dtype)
        if num_groups < 1 or num_channels % num_groups:
            raise ValueError(
                f"GroupNorm: argument 'num_groups': expected a divisor of num_channels={num_channels}, got {num_groups}"
            )
        self.num_groups, self.num_channels, self.eps = num_groups, num_channels, eps
        self.reset_parameters()

    def forward(self, input):
        return F.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return f"{self.num_groups}, {self.num_channels}, eps={self.eps}, affine={self.affine}"


class _InstanceNorm(_Tracking):
    """y = (x − μ)/√(σ² + eps)·weight + bias, μ and σ² of each item of the batch and each channel.

    Args and buffers as BatchNorm2d's, with affine=False and track_running_stats=False to begin with. Running
    statistics serve in eval() where they are tracked.

    Raises:
        ValueError: another number of dimensions; one value for each item and channel in training.

    Source: Ulyanov, Vedaldi and Lempitsky, arXiv 1607.08022.
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
        dtype=np.float32,
    ):
        super().__init__(num_features, eps, momentum, affine, track_running_stats, dtype)

    def forward(self, input):
        self._check(input)
        if input.shape[1] != self.num_features:
            raise ValueError(
                f"{self._get_name()}: argument 'input': expected {self.num_features} channels, got shape {input.shape}"
            )
        own = self.training or not self.track_running_stats
        return F.instance_norm(
            input, self.running_mean, self.running_var, self.weight, self.bias, own, self.momentum, self.eps
        )


class InstanceNorm1d(_InstanceNorm):
    __doc__ = _InstanceNorm.__doc__
    dims = (3,)


class InstanceNorm2d(_InstanceNorm):
    __doc__ = _InstanceNorm.__doc__
    dims = (4,)
