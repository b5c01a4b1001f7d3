"""Learning rates by step or epoch, under the names of torch.optim.lr_scheduler and with its arguments.

A schedule writes `group["lr"]`, which stands in a tensor that kernels read: recorded steps go on being replayed. step()
is called after the optimizer's, each batch or each epoch: that is the unit of t, the calls made so far, and of every
argument that counts. η is a group's rate, η₀ the one it began with. All take the optimizer, whose groups get the rates,
and last_epoch, the t to go on from, less one (−1 begins); what is no optimizer is a TypeError. Equations are those of
torch.optim.lr_scheduler, and of the papers named.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Sequence

from ..arrays import as_count
from .optimizer import Optimizer, ParamGroup
from .scheduler import LRScheduler

__all__ = [
    "ChainedScheduler", "ConstantLR", "CosineAnnealingLR", "CosineAnnealingWarmRestarts", "CyclicLR", "ExponentialLR",
    "LRScheduler", "LambdaLR", "LinearLR", "MultiStepLR", "MultiplicativeLR", "OneCycleLR", "PolynomialLR",
    "ReduceLROnPlateau", "SequentialLR", "StepLR",
]  # fmt: skip


class _ByFunction(LRScheduler):
    """One function of t for all groups, or one for each."""

    def __init__(self, optimizer: Optimizer, lr_lambda: Callable[[int], float] | Sequence, last_epoch: int = -1):
        n = len(optimizer.param_groups)
        self.lr_lambdas = list(lr_lambda) if isinstance(lr_lambda, (list, tuple)) else [lr_lambda] * n
        if len(self.lr_lambdas) != n:
            raise ValueError(f"LambdaLR: argument 'lr_lambda': expected {n} functions, got {len(self.lr_lambdas)}")
        super().__init__(optimizer, last_epoch)


class LambdaLR(_ByFunction):
    """η = η₀·f(t).

    Args:
        lr_lambda: f, a function of the integer t that gives a factor, or a list with one for each group. It is no part
            of state_dict.

    Raises:
        ValueError: another number of functions than of groups.
    """

    def get_lr(self):
        return [base * f(self.last_epoch) for base, f in zip(self.base_lrs, self.lr_lambdas)]


class MultiplicativeLR(_ByFunction):
    """η ← η·f(t) from t = 1 on.

    Args:
        lr_lambda: as for LambdaLR.

    Raises:
        ValueError: as LambdaLR.
    """

    def get_lr(self):
        rates = [g["lr"] for g in self.optimizer.param_groups]
        if self.last_epoch == 0:
            return rates
        return [lr * f(self.last_epoch) for lr, f in zip(rates, self.lr_lambdas)]


class StepLR(LRScheduler):
    """η = η₀·γ^⌊t/step_size⌋.

    Args:
        step_size: steps between two reductions, at least 1.
        gamma: γ, the factor.

    Raises:
        ValueError: a step_size that is no positive integer.
    """

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1, last_epoch: int = -1):
        as_count(type(self).__name__, "step_size", step_size)
        self.step_size, self.gamma = step_size, gamma
        super().__init__(optimizer, last_epoch)

    def rate(self, base, now, group):
        return now if self.last_epoch == 0 or self.last_epoch % self.step_size else now * self.gamma


class MultiStepLR(LRScheduler):
    """η is multiplied by γ at each t among milestones.

    Args:
        milestones: values of t, in any order; one that occurs twice counts twice.
        gamma: γ, the factor.
    """

    def __init__(self, optimizer: Optimizer, milestones: Sequence[int], gamma: float = 0.1, last_epoch: int = -1):
        self.milestones, self.gamma = sorted(milestones), gamma
        super().__init__(optimizer, last_epoch)

    def rate(self, base, now, group):
        return now * self.gamma ** self.milestones.count(self.last_epoch)


class ConstantLR(LRScheduler):
    """η = η₀·factor for t < total_iters, then η₀.

    Args:
        factor: in [0, 1]. total_iters: steps at the smaller rate.

    Raises:
        ValueError: a factor outside of [0, 1].
    """

    def __init__(self, optimizer: Optimizer, factor: float = 1.0 / 3, total_iters: int = 5, last_epoch: int = -1):
        if not 0 <= factor <= 1.0:
            raise ValueError(f"ConstantLR: argument 'factor': expected a number in [0, 1], got {factor}")
        self.factor, self.total_iters = factor, total_iters
        super().__init__(optimizer, last_epoch)

    def rate(self, base, now, group):
        if self.last_epoch == 0:
            return now * self.factor
        return now if self.last_epoch != self.total_iters else now * (1.0 / self.factor)


class LinearLR(LRScheduler):
    """η = η₀·(start + (end − start)·min(1, t/total_iters)): a warm-up.

    Args:
        start_factor: of η₀ at t = 0, in (0, 1]. end_factor: of η₀ from t = total_iters on, in [0, 1].
        total_iters: steps from one to the other.

    Raises:
        ValueError: a factor out of its range. Source: Goyal et al., arXiv 1706.02677, §2.2.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        start_factor: float = 1.0 / 3,
        end_factor: float = 1.0,
        total_iters: int = 5,
        last_epoch: int = -1,
    ):
        if not 0 < start_factor <= 1.0:
            raise ValueError(f"LinearLR: argument 'start_factor': expected a number in (0, 1], got {start_factor}")
        if not 0 <= end_factor <= 1.0:
            raise ValueError(f"LinearLR: argument 'end_factor': expected a number in [0, 1], got {end_factor}")
        self.start_factor, self.end_factor, self.total_iters = start_factor, end_factor, total_iters
        super().__init__(optimizer, last_epoch)

    def rate(self, base, now, group):
        t, slope = self.last_epoch, self.end_factor - self.start_factor
        if t == 0:
            return now * self.start_factor
        if t > self.total_iters:
            return now
        return now * (1.0 + slope / (self.total_iters * self.start_factor + (t - 1) * slope))


class ExponentialLR(LRScheduler):
    """η = η₀·γᵗ.

    Args:
        gamma: γ, the factor of each step.
    """

    def __init__(self, optimizer: Optimizer, gamma: float, last_epoch: int = -1):
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def rate(self, base, now, group):
        return now if self.last_epoch == 0 else now * self.gamma


class PolynomialLR(LRScheduler):
    """η = η₀·(1 − min(1, t/total_iters))^power.

    Args:
        total_iters: steps until the rate is 0. power: 1 is a straight line.
    """

    def __init__(self, optimizer: Optimizer, total_iters: int = 5, power: float = 1.0, last_epoch: int = -1):
        self.total_iters, self.power = total_iters, power
        super().__init__(optimizer, last_epoch)

    def rate(self, base, now, group):
        t, n = self.last_epoch, self.total_iters
        return now if t == 0 or t > n else now * ((1.0 - t / n) / (1.0 - (t - 1) / n)) ** self.power


class CosineAnnealingLR(LRScheduler):
    """η = η_min + (η₀ − η_min)(1 + cos(πt/T_max))/2: half a wave down; beyond T_max it goes up again.

    Args:
        T_max: steps from η₀ to η_min. eta_min: η_min, a rate, the same for all groups.

    Source: Loshchilov & Hutter, arXiv 1608.03983, eq. 5.
    """

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0, last_epoch: int = -1):
        self.T_max, self.eta_min = T_max, eta_min
        super().__init__(optimizer, last_epoch)

    def rate(self, base, now, group):
        t, n, least = self.last_epoch, self.T_max, self.eta_min
        if t == 0:
            return now
        if (t - 1 - n) % (2 * n) == 0:  # at the minimum: the quotient below is 0/0
            return now + (base - least) * (1 - math.cos(math.pi / n)) / 2
        return (1 + math.cos(math.pi * t / n)) / (1 + math.cos(math.pi * (t - 1) / n)) * (now - least) + least


class CosineAnnealingWarmRestarts(LRScheduler):
    """η = η_min + (η₀ − η_min)(1 + cos(πT/Tᵢ))/2: T steps after a restart, Tᵢ = T_0·T_multⁱ from it to the next.

    Args:
        T_0: steps until the first restart. T_mult: how many times longer each stretch is than the one before.
        eta_min: η_min, a rate.

    Raises:
        ValueError: T_0 or T_mult that is no positive integer. Source: Loshchilov & Hutter, arXiv 1608.03983.
    """

    def __init__(self, optimizer: Optimizer, T_0: int, T_mult: int = 1, eta_min: float = 0.0, last_epoch: int = -1):
        as_count(type(self).__name__, "T_0", T_0)
        as_count(type(self).__name__, "T_mult", T_mult)
        self.T_0, self.T_mult, self.eta_min = T_0, T_mult, eta_min
        super().__init__(optimizer, last_epoch)

    def rate(self, base, now, group):
        past, length = self.last_epoch, self.T_0
        if self.T_mult == 1:
            past %= length
        while past >= length:
            past, length = past - length, length * self.T_mult
        return self.eta_min + (base - self.eta_min) * (1 + math.cos(math.pi * past / length)) / 2


class _Cycling(LRScheduler):
    """Schedules that may move momentum against the rate: SGD's, or the first of Adam's betas."""

    cycle_momentum = False

    def _set_momentum(self, group: ParamGroup, value: float) -> None:
        if "betas" in group:
            group["betas"] = (value, *group["betas"][1:])
        else:
            group["momentum"] = value

    def _check_momentum(self, optimizer: Optimizer) -> None:
        if self.cycle_momentum and not ("momentum" in optimizer.defaults or "betas" in optimizer.defaults):
            raise ValueError("cycle_momentum=True: expected an optimizer with momentum or betas, got one without")


class OneCycleLR(_Cycling):
    """Up from max_lr/div_factor to max_lr within pct_start of the steps, down to a final_div_factor-th of the start.

    Args:
        max_lr: the highest rate, one for all groups or one for each.
        total_steps, or epochs and steps_per_epoch: how many steps there are; step() is called after each.
        pct_start: the part of them, in [0, 1], on which the rate goes up.
        div_factor, final_div_factor: quotients of rates: the highest by the first, and the first by the last.
        anneal_strategy: "cos" or "linear".
        cycle_momentum, base_momentum, max_momentum: momentum goes the other way. False by default, unlike PyTorch's:
            kernels take momentum as a constant, so that a changing one makes every step be recorded anew.
        three_phase: down as long as up, then to the end.

    Raises:
        ValueError: arguments out of range; step() beyond the last step. Source: Smith & Topin, arXiv 1708.07120.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        max_lr: float | Sequence[float],
        total_steps: int | None = None,
        epochs: int | None = None,
        steps_per_epoch: int | None = None,
        pct_start: float = 0.3,
        anneal_strategy: str = "cos",
        cycle_momentum: bool = False,
        base_momentum: float = 0.85,
        max_momentum: float = 0.95,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        three_phase: bool = False,
        last_epoch: int = -1,
    ):
        if total_steps is None:
            if epochs is None or steps_per_epoch is None:
                raise ValueError("OneCycleLR: expected total_steps, or epochs and steps_per_epoch, got neither")
            as_count(type(self).__name__, "epochs", epochs)
            as_count(type(self).__name__, "steps_per_epoch", steps_per_epoch)
            total_steps = epochs * steps_per_epoch
        as_count(type(self).__name__, "total_steps", total_steps)
        if not 0 <= pct_start <= 1:
            raise ValueError(f"OneCycleLR: argument 'pct_start': expected a number in [0, 1], got {pct_start}")
        if anneal_strategy not in ("cos", "linear"):
            raise ValueError(
                f"OneCycleLR: argument 'anneal_strategy': expected 'cos' or 'linear', got {anneal_strategy!r}"
            )
        self.total_steps, self.anneal_strategy, self.cycle_momentum = total_steps, anneal_strategy, cycle_momentum
        self._check_momentum(optimizer)
        self.momenta = (max_momentum, base_momentum)
        up = float(pct_start * total_steps) - 1
        ends = [up, 2 * up, total_steps - 1] if three_phase else [up, total_steps - 1]
        marks = ["initial_lr", "max_lr", "initial_lr", "min_lr"] if three_phase else ["initial_lr", "max_lr", "min_lr"]
        self.phases = list(zip([0.0, *ends], ends, marks, marks[1:]))
        if last_epoch == -1:
            tops = max_lr if isinstance(max_lr, (list, tuple)) else [max_lr] * len(optimizer.param_groups)
            if len(tops) != len(optimizer.param_groups):
                raise ValueError(f"expected {len(optimizer.param_groups)} values for max_lr, got {len(tops)}")
            for group, top in zip(optimizer.param_groups, tops):
                start = top / div_factor
                group.update(initial_lr=start, max_lr=top, min_lr=start / final_div_factor)
                if cycle_momentum:
                    self._set_momentum(group, max_momentum)
        super().__init__(optimizer, last_epoch)

    def _between(self, start: float, end: float, part: float) -> float:
        if self.anneal_strategy == "cos":
            return end + (start - end) / 2.0 * (math.cos(math.pi * part) + 1)
        return (end - start) * part + start

    def rate(self, base, now, group):
        t = self.last_epoch
        if t > self.total_steps:
            raise ValueError(f"OneCycleLR: step {t} is beyond total_steps={self.total_steps}")
        for k, (begin, end, low, high) in enumerate(self.phases):
            if t <= end or k == len(self.phases) - 1:
                part = (t - begin) / (end - begin)
                if self.cycle_momentum:
                    at = [self.momenta[name == "max_lr"] for name in (low, high)]
                    self._set_momentum(group, self._between(*at, part))
                return self._between(group[low], group[high], part)
        raise AssertionError("the last phase takes every step")


class CyclicLR(_Cycling):
    """Up and down between base_lr and max_lr, again and again: η = base_lr + (max_lr − base_lr)·height(t)·scale.

    height rises from 0 to 1 in step_size_up steps and falls to 0 in step_size_down.

    Args:
        base_lr, max_lr: the ends, rates, one for all groups or one for each.
        step_size_up, step_size_down: steps of each way; down as long as up by default.
        mode: "triangular"; "triangular2" halves the height each cycle; "exp_range" multiplies it by gammaᵗ.
        scale_fn, scale_mode: a function of one's own of the "cycle" or of "iterations", instead of mode.
        cycle_momentum, base_momentum, max_momentum: as in OneCycleLR, False by default.

    Raises:
        ValueError: an unknown mode, other numbers of rates than of groups. Source: Smith, arXiv 1506.01186.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        base_lr: float | Sequence[float],
        max_lr: float | Sequence[float],
        step_size_up: int = 2000,
        step_size_down: int | None = None,
        mode: str = "triangular",
        gamma: float = 1.0,
        scale_fn: Callable[[float], float] | None = None,
        scale_mode: str = "cycle",
        cycle_momentum: bool = False,
        base_momentum: float = 0.8,
        max_momentum: float = 0.9,
        last_epoch: int = -1,
    ):
        if mode not in ("triangular", "triangular2", "exp_range") and scale_fn is None:
            raise ValueError(f"CyclicLR: argument 'mode': expected a known mode, or a scale_fn, got {mode!r}")
        self.max_lrs = _one_each(max_lr, optimizer, "max_lr")
        if last_epoch == -1:
            for group, lr in zip(optimizer.param_groups, _one_each(base_lr, optimizer, "base_lr")):
                group.update(lr=lr, initial_lr=lr)
        down = step_size_up if step_size_down is None else step_size_down
        self.total_size, self.step_ratio = float(step_size_up + down), step_size_up / (step_size_up + down)
        self.mode, self.gamma, self.scale_fn = mode, gamma, scale_fn
        self.scale_mode = scale_mode if scale_fn else "iterations" if mode == "exp_range" else "cycle"
        self.cycle_momentum = cycle_momentum
        self._check_momentum(optimizer)
        self.momenta = (base_momentum, max_momentum)
        super().__init__(optimizer, last_epoch)

    def _scale(self, x: float) -> float:
        if self.scale_fn is not None:
            return self.scale_fn(x)
        return {"triangular": 1.0, "triangular2": 1 / 2.0 ** (x - 1), "exp_range": self.gamma**x}[self.mode]

    def get_lr(self):
        t = self.last_epoch
        cycle = math.floor(1 + t / self.total_size)
        x = 1.0 + t / self.total_size - cycle
        height = x / self.step_ratio if x <= self.step_ratio else (x - 1) / (self.step_ratio - 1)
        scale = self._scale(cycle if self.scale_mode == "cycle" else t)
        if self.cycle_momentum:
            low, high = self.momenta
            for group in self.optimizer.param_groups:
                self._set_momentum(group, high - (high - low) * height * scale)
        return [base + (top - base) * height * scale for base, top in zip(self.base_lrs, self.max_lrs)]


def _one_each(value: float | Sequence[float], optimizer: Optimizer, name: str) -> list[float]:
    values = list(value) if isinstance(value, (list, tuple)) else [value] * len(optimizer.param_groups)
    if len(values) != len(optimizer.param_groups):
        raise ValueError(f"expected {len(optimizer.param_groups)} values for {name}, got {len(values)}")
    return values


class _Several(LRScheduler):
    """Schedules of one optimizer together."""

    refuses: tuple[type, ...] = ()

    def __init__(self, schedulers: Sequence[LRScheduler], optimizer: Optimizer | None):
        name = type(self).__name__
        if len(schedulers) < 1:
            raise ValueError(f"{name}: argument 'schedulers': expected at least one, got none")
        for s in schedulers:
            if not isinstance(s, LRScheduler) or isinstance(s, (ReduceLROnPlateau, *self.refuses)):
                raise TypeError(f"{name}: argument 'schedulers': expected schedules that step alike, got "
                                f"{type(s).__name__}")  # fmt: skip
        self.optimizer = schedulers[0].optimizer if optimizer is None else optimizer
        for k, s in enumerate(schedulers):
            if s.optimizer is not self.optimizer:
                raise ValueError(
                    f"{name}: argument 'schedulers': expected all to be of one optimizer, got another's at {k}"
                )
        self._schedulers = list(schedulers)

    def state_dict(self):
        own = {k: v for k, v in vars(self).items() if k not in ("optimizer", "_schedulers")}
        return {**own, "_schedulers": [s.state_dict() for s in self._schedulers]}

    def load_state_dict(self, state_dict):
        own = dict(state_dict)
        for s, state in zip(self._schedulers, own.pop("_schedulers"), strict=True):
            s.load_state_dict(state)
        vars(self).update(own)


class SequentialLR(_Several):
    """One schedule after the other.

    Args:
        schedulers: of the optimizer, in their order, each made before.
        milestones: t at which the second, third, … begins, with its own t = 0 and the rates that groups began with.

    Raises:
        ValueError: no schedules, of several optimizers, or not one milestone less than schedules. TypeError: one that
        has no t of its own to begin at: ReduceLROnPlateau, and schedules of several.
    """

    refuses = (_Several,)

    def __init__(
        self, optimizer: Optimizer, schedulers: Sequence[LRScheduler], milestones: Sequence[int], last_epoch: int = -1
    ):
        super().__init__(schedulers, optimizer)
        if len(milestones) != len(schedulers) - 1:
            raise ValueError(f"SequentialLR: argument 'milestones': expected {len(schedulers) - 1} "
                             f"for {len(schedulers)} schedulers, got {len(milestones)}")  # fmt: skip
        self._milestones, self.last_epoch = list(milestones), last_epoch + 1
        for group in optimizer.param_groups:  # the schedules have all made their first step
            group["lr"] = group["initial_lr"]
        for s in self._schedulers:
            s.last_epoch -= 1
        self._schedulers[0].step()
        self._last_lr = self._schedulers[0].get_last_lr()

    def step(self):
        self.last_epoch += 1
        k = bisect.bisect_right(self._milestones, self.last_epoch)
        s = self._schedulers[k]
        if k and self._milestones[k - 1] == self.last_epoch:
            s.last_epoch = -1  # begins from the rates that the groups began with
            for group, base in zip(self.optimizer.param_groups, s.base_lrs):
                group["lr"] = base
        s.step()
        self._last_lr = s.get_last_lr()


class ChainedScheduler(_Several):
    """Several schedules at once, each changing what the one before left: for those that multiply the rate.

    Args:
        schedulers: of one optimizer. optimizer: that one; None takes it from them.

    Raises:
        ValueError: no schedules, or of several optimizers. TypeError: ReduceLROnPlateau, which steps by a figure.
    """

    def __init__(self, schedulers: Sequence[LRScheduler], optimizer: Optimizer | None = None):
        super().__init__(schedulers, optimizer)
        self._last_lr = [group["lr"] for group in self.optimizer.param_groups]

    def step(self):
        for s in self._schedulers:
            s.step()
        self._last_lr = [group["lr"] for group in self.optimizer.param_groups]


class ReduceLROnPlateau(LRScheduler):
    """η ← max(η·factor, min_lr) once a figure has not improved for more than `patience` epochs. step(figure).

    The figure is a number, by epoch as a rule. A Trainer gives "val_loss", or "loss" without validation.

    Args:
        mode: "min" or "max": what is better.
        factor: below 1. patience: calls without improvement that are borne.
        min_lr: the least rate, one for all groups or one for each.
        threshold, threshold_mode: what counts as better: by this part ("rel") or amount ("abs").
        cooldown: epochs after a reduction that do not count.
        eps: smaller changes of the rate are not made.

    Raises:
        ValueError: factor ≥ 1, or an unknown mode.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        mode: str = "min",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: str = "rel",
        cooldown: int = 0,
        min_lr: float | Sequence[float] = 0,
        eps: float = 1e-8,
    ):
        if factor >= 1.0:
            raise ValueError(f"ReduceLROnPlateau: argument 'factor': expected a number below 1, got {factor}")
        if mode not in ("min", "max"):
            raise ValueError(f"ReduceLROnPlateau: argument 'mode': expected 'min' or 'max', got {mode!r}")
        if threshold_mode not in ("rel", "abs"):
            raise ValueError(
                f"ReduceLROnPlateau: argument 'threshold_mode': expected 'rel' or 'abs', got {threshold_mode!r}"
            )
        if not isinstance(optimizer, Optimizer):
            raise TypeError(
                f"ReduceLROnPlateau: argument 'optimizer': expected an Optimizer, got {type(optimizer).__name__}"
            )
        self.optimizer, self.mode, self.factor, self.patience = optimizer, mode, factor, patience
        self.threshold, self.threshold_mode, self.cooldown, self.eps = threshold, threshold_mode, cooldown, eps
        self.min_lrs = _one_each(min_lr, optimizer, "min_lrs")
        self.best = math.inf if mode == "min" else -math.inf
        self.num_bad_epochs = self.cooldown_counter = self.last_epoch = 0
        self._last_lr = [group["lr"] for group in optimizer.param_groups]

    def step(self, metrics):  # type: ignore[override]
        """An epoch ended with this figure."""
        now = float(metrics)
        self.last_epoch += 1
        if self.is_better(now, self.best):
            self.best, self.num_bad_epochs = now, 0
        else:
            self.num_bad_epochs += 1
        if self.cooldown_counter > 0:
            self.cooldown_counter -= 1
            self.num_bad_epochs = 0
        if self.num_bad_epochs > self.patience:
            for group, least in zip(self.optimizer.param_groups, self.min_lrs):
                lr = max(group["lr"] * self.factor, least)
                if group["lr"] - lr > self.eps:
                    group["lr"] = lr
            self.cooldown_counter, self.num_bad_epochs = self.cooldown, 0
        self._last_lr = [group["lr"] for group in self.optimizer.param_groups]

    def is_better(self, a: float, best: float) -> bool:
        """Whether a is better than best by the threshold."""
        sign = 1 if self.mode == "min" else -1
        border = best * (1 - sign * self.threshold) if self.threshold_mode == "rel" else best - sign * self.threshold
        return sign * a < sign * border
