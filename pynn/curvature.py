"""Second-order matrices of a loss, known by their products: the Hessian and the Gauss–Newton matrix.

Each keeps the graph of the gradient: building one costs a forward and a backward pass, each product after that one
walk (Hessian) or three (GaussNewton), whatever the number of parameters. BatchMean keeps none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from .autograd import enable_grad, grad, no_grad
from .recompute import repeatable
from .sparse import RowGradient
from .tensor import Tensor

__all__ = ["BatchMean", "GaussNewton", "Hessian", "Operator", "Point", "gradient_at", "grads_of", "scalar_loss"]


def zeros_for(g, x):
    return Tensor.zeros_like(x) if g is None else g


def grads_of(ys: list, xs: list, seeds: list | None, create_graph: bool = False) -> list:
    """Gradients of those ys that have a history; zeros where nothing flows. The graph is kept."""
    live = [k for k, y in enumerate(ys) if y.requires_grad]
    if not live:
        return [Tensor.zeros_like(x) for x in xs]
    seed = None if seeds is None else [seeds[k] for k in live]
    found = grad([ys[k] for k in live], xs, seed, retain_graph=True, create_graph=create_graph, allow_unused=True)
    return [zeros_for(g, x) for g, x in zip(found, xs)]


class Operator:
    """A symmetric matrix over the parameters, known by its products alone.

    Attributes:
        params: the tensors, in whose order a flat vector has its parts; size: their elements in all.
        gradient: of the loss, flat, in float64.
        products: how many were computed.
    """

    def __init__(self, params: Iterable[Tensor]):
        self.params = [p for p in params if p.requires_grad]
        if not self.params:
            raise ValueError(f"{type(self).__name__}: argument 'params': expected tensors that require grad, got none")
        self.size = sum(p.size for p in self.params)
        self.products = 0
        self.gradient = np.zeros(self.size)

    def product(self, vs: Sequence[Tensor]) -> list[Tensor]:
        """The matrix times the vector of which vs are the parts, each of its parameter's shape."""
        raise NotImplementedError

    def matvec(self, v: np.ndarray) -> np.ndarray:
        """The matrix times a flat vector, in float64; the product itself has the parameters' dtype."""
        return self.flat(self.product(self.parts(v)))

    __matmul__ = matvec

    def parts(self, v: np.ndarray) -> list[Tensor]:
        """A flat vector as tensors of the parameters' shapes and dtypes."""
        v = np.asarray(v, np.float64).reshape(-1)
        if v.size != self.size:
            raise ValueError(f"{type(self).__name__}: expected a vector of {self.size} elements, got {v.size}")
        ends = np.cumsum([p.size for p in self.params])[:-1]
        return [Tensor(part.reshape(p.shape).astype(p.dtype)) for part, p in zip(np.split(v, ends), self.params)]

    @staticmethod
    def flat(tensors: Iterable[Tensor]) -> np.ndarray:
        """Tensors, and gradients by rows, as one float64 vector."""
        dense = (t.to_dense() if isinstance(t, RowGradient) else t.detach() for t in tensors)
        return np.concatenate([t.numpy_copy().astype(np.float64).ravel() for t in dense])

    def linear_operator(self):
        """This matrix for SciPy's solvers."""
        from scipy.sparse.linalg import LinearOperator

        return LinearOperator((self.size, self.size), matvec=self.matvec, rmatvec=self.matvec, dtype=np.float64)

    def dense(self) -> np.ndarray:
        """The whole matrix, by a product for each parameter; symmetrized."""
        h = np.stack([self.matvec(e) for e in np.eye(self.size)], axis=1)
        return (h + h.T) / 2


def scalar_loss(loss, what: str) -> Tensor:
    """loss; raises where it is no scalar Tensor."""
    if not isinstance(loss, Tensor) or loss.size != 1:
        got = f"shape {loss.shape}" if isinstance(loss, Tensor) else type(loss).__name__
        raise TypeError(f"{what}: expected a function that returns a scalar Tensor, got {got}")
    return loss


class Hessian(Operator):
    """The Hessian of closure() with respect to params.

    Args:
        closure: computes the scalar loss from params; called once, with recording on.
        params: leaves that require grad; a model's parameters.
        effects: whether the call changes the state of random numbers and batch norm's statistics, as in a training.

    Products repeat until a parameter changes, which they then tell by a RuntimeError: make a new one.

    Source: Pearlmutter 1994; S1 §2.11; F-AD-7.
    """

    def __init__(self, closure: Callable[[], Tensor], params: Iterable[Tensor], effects: bool = False):
        super().__init__(params)
        with enable_grad():
            loss = scalar_loss((closure if effects else repeatable(closure))(), type(self).__name__)
            gs = grads_of([loss], self.params, None, create_graph=True)
        self.loss = loss.item()
        self.gradient = self.flat(gs)
        self._gs = gs

    def product(self, vs):
        self.products += 1
        return grads_of(self._gs, self.params, list(vs))


class GaussNewton(Operator):
    """JᵀH_L J, the generalized Gauss–Newton matrix: the Hessian of the loss without the outputs' own curvature.

    Positive semidefinite where the loss is convex in the outputs, as cross-entropy and squares are.

    Args:
        closure: computes (loss, outputs), the loss from the outputs and these from params; called once.
        params: leaves that require grad. effects: as for Hessian.

    Source: Schraudolph 2002; Martens 2010; S1 §2.11.5.
    """

    def __init__(self, closure: Callable[[], tuple[Tensor, Tensor]], params: Iterable[Tensor], effects: bool = False):
        super().__init__(params)
        with enable_grad():
            both = (closure if effects else repeatable(closure))()
            if not isinstance(both, tuple) or len(both) != 2:
                raise TypeError("GaussNewton: argument 'closure': expected a function that returns (loss, outputs), "
                                f"got {type(both).__name__}")  # fmt: skip
            loss, self._z = scalar_loss(both[0], "GaussNewton"), both[1]
            self._u = Tensor.zeros_like(self._z)
            self._u.requires_grad = True
            self._back = grads_of([self._z], self.params, [self._u], create_graph=True)  # Jᵀu
            (self._dz,) = grads_of([loss], [self._z], None, create_graph=True)
        self.loss = loss.item()
        self.gradient = self.flat(grads_of([self._z], self.params, [self._dz.detach()]))

    def product(self, vs):
        self.products += 1
        (jv,) = grads_of(self._back, [self._u], list(vs))
        (hjv,) = grads_of([self._dz], [self._z], [jv])
        return grads_of([self._z], self.params, [hjv])


class BatchMean(Operator):
    """The mean of the matrices of batches, weighted by their sizes: that of the mean loss over a whole data set.

    Args:
        closure: closure(*batch) computes what `kind` takes: the mean loss of the batch, or (loss, outputs).
        params: leaves that require grad.
        batches: what can be walked any number of times: a DataLoader, or a list of tuples of Tensors or arrays, whose
            first member tells the size. Each product walks it once, a batch in memory at a time, and costs a gradient
            more than the products of `kind` alone. A shuffled loader has one order throughout, unless it has a
            generator of its own.
        kind: Hessian or GaussNewton.

    Raises:
        ValueError: no batches, such as of a generator that has been used up.

    Source: F-UND-2.
    """

    def __init__(self, closure: Callable, params: Iterable[Tensor], batches: Iterable, kind: type = Hessian):
        super().__init__(params)
        self.closure, self.batches, self.kind = closure, batches, kind
        self._mean = repeatable(self._walk)  # a shuffled loader gives one order, dropout one mask a batch
        both = self._mean(lambda op: np.append(op.gradient, op.loss))
        self.gradient, self.loss = both[:-1], float(both[-1])

    def _walk(self, of: Callable[[Operator], np.ndarray]) -> np.ndarray:
        """The mean of what of() gives of each batch's matrix."""
        found, total = np.zeros(1), 0
        for batch in self.batches:
            batch = [t if isinstance(t, Tensor) else Tensor(np.asarray(t)) for t in batch]
            op = self.kind(lambda batch=batch: self.closure(*batch), self.params, effects=True)
            found = found + len(batch[0]) * of(op)
            total += len(batch[0])
        if not total:
            raise ValueError("BatchMean: argument 'batches': expected batches each time that it is walked, got none")
        return found / total

    def matvec(self, v):
        self.products += 1
        return self._mean(lambda op: op.matvec(v))

    __matmul__ = matvec

    def product(self, vs):
        return self.parts(self.matvec(self.flat(vs)))


class Point:
    """The parameters as a place to go to and come back from."""

    def __init__(self, params: Iterable[Tensor]):
        self.params = [p for p in params if p.requires_grad]
        self.start = [p.numpy_copy() for p in self.params]

    @property
    def at(self) -> np.ndarray:
        """The start, flat, in float64."""
        return np.concatenate([a.astype(np.float64).ravel() for a in self.start])

    def direction(self, d, what: str) -> np.ndarray:
        """d as a flat float64 vector of as many elements; raises where it is none."""
        d = np.asarray(d, np.float64).ravel()
        if d.size != sum(p.size for p in self.params):
            raise ValueError(f"{what}: expected a direction of {sum(p.size for p in self.params)} elements, as the "
                             f"parameters that require grad have, got {d.size}")  # fmt: skip
        return d

    def go(self, offset: np.ndarray) -> None:
        """To the start plus a flat offset."""
        ends = np.cumsum([p.size for p in self.params])[:-1]
        with no_grad():
            for p, a, d in zip(self.params, self.start, np.split(offset, ends)):
                p.copy_(Tensor((a + d.reshape(a.shape)).astype(a.dtype)))

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        with no_grad():
            for p, a in zip(self.params, self.start):
                p.copy_(Tensor(a))


def gradient_at(closure: Callable, params: list[Tensor]) -> np.ndarray:
    """The gradient of closure() with respect to params, flat, in float64; zeros where nothing leads to one."""
    with enable_grad():
        found = grad(closure(), params, allow_unused=True)
    return Operator.flat(map(zeros_for, found, params))
