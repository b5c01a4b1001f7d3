"""How gradients fare on their way down: Jacobian norms layer by layer, and what they mean in plain words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from ..autograd import enable_grad, grad, jvp, vjp
from ..nn.containers import Sequential
from ..nn.module import Module
from ..random import Generator
from ..recompute import repeatable
from ..tensor import Tensor
from ..train.step import eval_mode

__all__ = ["Flow", "LayerFlow", "gradient_flow", "spectral_norm"]

VANISHED, EXPLODED = 1e-3, 1e3  # of a gradient between the last and the first layer


def spectral_norm(func: Callable, x: Tensor, iterations: int = 30, seed: int = 0) -> np.ndarray:
    """‖J‖ of func at each sample of x, by power iteration on JᵀJ; func must treat samples each by itself.

    Returns: an array with a number for each sample.

    Source: S1 §5.2.12.
    """
    rng, func = np.random.default_rng(seed), repeatable(func)

    def unit(a):
        flat = a.reshape(len(a), -1)
        norm = np.linalg.norm(flat, axis=1)
        return (flat / np.maximum(norm, np.finfo(a.dtype).tiny)[:, None]).reshape(a.shape), norm

    v, _ = unit(rng.standard_normal(x.shape))
    norms = np.zeros(len(v))
    for _ in range(iterations):
        _, u = jvp(func, x, Tensor(v.astype(x.dtype)))
        u, norms = unit(u.detach().numpy_copy().astype(np.float64))
        _, v = vjp(func, x, Tensor(u.astype(x.dtype)))
        v, _ = unit(v.detach().numpy_copy().astype(np.float64))
    return norms


@dataclass
class LayerFlow:
    """One layer.

    Attributes:
        name: its path in the model.
        norm: mean over samples of its Jacobian's spectral norm.
        gain: ‖Jᵀv‖/‖v‖ for random v, root mean square: what a gradient is multiplied by on average.
        gradient: norm of the gradient that arrives at its output, where 1 starts at the model's.
    """

    name: str
    norm: float
    gain: float
    gradient: float


@dataclass
class Flow:
    """Layers in the order of their calls, and a verdict: "vanishing", "exploding" or "healthy"."""

    layers: list[LayerFlow] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        """The gradient at the first layer's output by that at the last one's."""
        first, last = self.layers[0].gradient, self.layers[-1].gradient
        return first / last if last else 0.0

    @property
    def per_layer(self) -> float:
        """The mean factor a layer: the ratio's root."""
        return self.ratio ** (1 / max(1, len(self.layers) - 1))

    @property
    def verdict(self) -> str:
        ratio = self.ratio
        return "vanishing" if ratio < VANISHED else "exploding" if not ratio <= EXPLODED else "healthy"

    @property
    def words(self) -> str:
        """The verdict in plain words, with the layer that contributes most."""
        n = len(self.layers)
        if n < 2:
            return "one layer alone: there is no way for a gradient to get lost"
        text = (f"a gradient at the last of {n} layers arrives at the first as {self.ratio:.2g} of it, "
                f"a factor of {self.per_layer:.3g} a layer")  # fmt: skip
        if self.verdict == "healthy":
            return f"healthy: {text}."
        steps = [(a.gradient / b.gradient if b.gradient else 0.0, b.name) for a, b in zip(self.layers, self.layers[1:])]
        if self.verdict == "vanishing":
            worst, cure = min(steps), "ReLU-like activations, He initialization, normalization or residual connections"
            return (f"vanishing: {text}; early layers hardly learn. Most is lost in '{worst[1]}' (x {worst[0]:.2g})."
                    f" What helps: {cure}.")  # fmt: skip
        worst, cure = max(steps), "smaller initial weights, normalization, clipping of gradients or a smaller rate"
        return f"exploding: {text}. Most is added in '{worst[1]}' (x {worst[0]:.2g}). What helps: {cure}."

    def __str__(self):
        width = max([len(x.name) for x in self.layers] + [5])
        lines = [f"{'layer':{width}}  ‖J‖        gain       gradient"]
        lines += [f"{x.name:{width}}  {x.norm:9.3e}  {x.gain:9.3e}  {x.gradient:9.3e}" for x in self.layers]
        return "\n".join([*lines, self.words])


def _chosen(model: Module, layers) -> list[tuple[str, Module]]:
    if layers is not None:
        names = {id(m): name for name, m in model.named_modules()}
        return [(names.get(id(m), type(m).__name__), m) for m in layers]
    if isinstance(model, Sequential):
        return list(model.named_children())
    return [(name, m) for name, m in model.named_modules() if name and not list(m.children())]


def _calls(model: Module, chosen: list, x: Tensor) -> tuple[Tensor, list]:
    """(output, [(name, module, input, output), …]) of one recorded forward pass, in the order of the calls."""
    found, handles = [], []
    for name, m in chosen:

        def note(module, args, output, name=name):
            if isinstance(output, Tensor) and args and isinstance(args[0], Tensor) and output.requires_grad:
                found.append((name, module, args[0], output))

        handles.append(m.register_forward_hook(note))
    try:
        with enable_grad():
            y = model(x)
    finally:
        for handle in handles:
            handle.remove()
    return y, found


def gradient_flow(
    model: Module, x, layers=None, seed: int = 0, iterations: int = 20, grad_output: Tensor | None = None
) -> Flow:
    """Jacobian norms of a model's layers at a batch, and how a gradient fares between its output and them.

    Args:
        model: evaluated in eval mode: dropout is off, batch norm uses its running statistics.
        x: a batch (Tensor or array), of which a few samples will do.
        layers: modules to look at; by default the children of a Sequential, else the modules without children. Each
            must take and give one Tensor, sample by sample.
        seed: of random directions; iterations: of the power method; 0: no norms (they are NaN then).
        grad_output: the gradient that starts at the output; random by default, of norm 1.

    Source: S1 §5.2.11–5.2.14; F-TR-4.
    """
    if not isinstance(model, Module):
        raise TypeError(f"gradient_flow: argument 'model': expected a Module, got {type(model).__name__}")
    x = x if isinstance(x, Tensor) else Tensor(x)
    x = x.detach()
    if x.dtype.kind == "f":
        x.requires_grad = True
    with eval_mode(model):
        y, calls = _calls(model, _chosen(model, layers), x)
        if not calls:
            raise ValueError("gradient_flow: argument 'layers': no layer was called with a Tensor that leads to a "
                             "parameter or input")  # fmt: skip
        if grad_output is None:
            a = Generator(seed).numpy().standard_normal(y.shape)
            grad_output = Tensor((a / np.linalg.norm(a)).astype(y.dtype))
        with enable_grad():
            found = grad(y, [out for *_, out in calls], grad_output, retain_graph=True, allow_unused=True)
        flow = Flow()
        for k, ((name, module, into, _), g) in enumerate(zip(calls, found)):
            size = 0.0 if g is None else float(np.linalg.norm(g.detach().numpy_copy().astype(np.float64)))
            flow.layers.append(LayerFlow(name, *_measured(module, into, iterations, seed + k), size))
    return flow


def _measured(module: Module, into: Tensor, iterations: int, seed: int) -> tuple[float, float]:
    """(mean spectral norm, root mean square gain) of a layer at its input."""
    if into.dtype.kind != "f" or not iterations:
        return np.nan, np.nan
    into = into.detach()
    rng = np.random.default_rng(seed)
    norm = float(spectral_norm(module, into, iterations, seed).mean())
    gains = []
    for _ in range(8):
        with enable_grad():
            y = module(into)
        v = rng.standard_normal(y.shape)
        _, g = vjp(module, into, Tensor(v.astype(into.dtype)))
        gains.append(np.sum(g.numpy_copy().astype(np.float64) ** 2) / np.sum(v * v))
    return norm, float(np.sqrt(np.mean(gains)))
