"""class Op: an operation, declared once. From its entry derive the call, the derivatives of every
order, the checks of its arguments, its tests, its benchmark row and its documentation.

The strings of an entry
    ins, outs   arguments by name with their dimensions: "x[...,I] W[O,I] b[O]?"
                N        a named dimension, the same wherever it occurs; 4H a multiple; 3 a number
                ...      any dimensions, broadcast over the inputs that have them
                ?        may be None
                :kind    T (the default) the call's floating dtype, differentiable; C the same dtype, a
                         constant for derivatives; A the call's dtype, integers included; i int64;
                         b bool; * any dtype of its own
                :i<C     indices below dimension C, checked by the kernel
    flops       a sum of products of named dimensions; n is the number of elements of the first output
    bytes       the same, where a call does not read its arguments and write its results once each, as a
                gather; item is the bytes of an element of the first output, lead the elements of "..."
    saves       names of the inputs and outputs whose values backward needs

The derivative is given in one of three ways
    vjp          vjp(node, *dys) → gradients of the inputs, in Tensor operations: primitives
    formula      the value in Tensor operations; its derivative is the op's
    bwd          a fused kernel for the first order beside formula, or beside bwd_formula(*dys, *saved),
                 which the second order differentiates. Where that takes `need`, it is told, for each
                gradient, whether it is wanted; None will do in place of one that is not
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from . import _core

__all__ = ["OPS", "Effect", "ListEffect", "Op"]

_ARG = re.compile(r"(\w+)\[([^\]]*)\](\?)?(?::([TCAib*])(?:<(\w+))?)?")
_DIM = re.compile(r"(\d{0,9})([A-Za-z]\w*)?")
_NUMBER = re.compile(r"\d+(\.\d*)?")
_KERNELS = _core.kernels()
LAYOUTS = ("any", "dense", "nhwc")  # that kernels want, as the engine numbers them
_COUNTS = {"n": -1, "item": -2, "lead": -3}  # in flops and bytes, beside the named dimensions


class Registry:
    """Every op by name, as attributes: OPS.add. A user's op may be registered again, pynn's own not."""

    __slots__ = ("__dict__", "_own")

    def __init__(self):
        self._own: frozenset[str] = frozenset()

    def seal(self) -> None:
        """Keeps what is registered so far from being replaced."""
        self._own = frozenset(vars(self))

    def add_entry(self, op: Op) -> None:
        if op.name in self._own:
            raise ValueError(f"{op.name}: pynn has an op of this name; choose another")
        setattr(self, op.name, op)

    def __iter__(self) -> Iterable[Op]:
        return iter(list(vars(self).values()))

    def __getitem__(self, name: str) -> Op:
        return vars(self)[name]

    def __contains__(self, name: str) -> bool:
        return name in vars(self)


OPS = Registry()


@functools.cache  # few texts differ, and `import pynn` reads them all
def parse_args(text: str, known: tuple[str, ...]) -> tuple[tuple[tuple, ...], tuple[str, ...]]:
    """(name, ((symbol index, factor)), ellipsis place, kind, optional, bound) for each argument of text, and
    the symbols: those known, then new ones."""
    specs, symbols = [], list(known)
    rest = _ARG.sub("", text).strip()
    if rest:
        raise ValueError(f"entry: could not read {rest!r} in {text!r}")
    for name, inner, optional, kind, bound in _ARG.findall(text):
        dims, ell = [], -1
        for token in filter(None, (t.strip() for t in inner.split(","))):
            if token == "..." and ell < 0:
                ell = len(dims)
                continue
            read = _DIM.fullmatch(token)
            if not read or (read[1] and read[2] and int(read[1]) == 0):
                raise ValueError(f"entry: could not read dimension {token!r} of {name!r} in {text!r}")
            factor, symbol = read.groups()
            if symbol and symbol not in symbols:
                symbols.append(symbol)
            dims.append((symbols.index(symbol) if symbol else -1, int(factor or 1)))
        if bound and bound not in symbols:
            symbols.append(bound)
        specs.append((name, tuple(dims), ell, kind or "T", bool(optional), symbols.index(bound) if bound else -1))
    return tuple(specs), tuple(symbols)


def parse_flops(text: str, symbols: tuple[str, ...]) -> list[tuple[float, list[int]]]:
    """[(coefficient, [symbol index, or what _COUNTS says])] of a sum of products."""
    terms = []
    for product in text.split("+"):
        coef, syms = 1.0, []
        for factor in (f.strip() for f in product.split("*")):
            if _NUMBER.fullmatch(factor):
                coef *= float(factor)
            elif factor in _COUNTS or factor in symbols:
                syms.append(_COUNTS[factor] if factor in _COUNTS else symbols.index(factor))
            else:
                known = ", ".join([*_COUNTS, *symbols])
                raise ValueError(f"entry: could not read {factor!r} in {text!r}: expected a sum of products of "
                                 f"numbers and {known}")  # fmt: skip
        terms.append((coef, syms))
    return terms


class Op(_core.OpBase):
    """One operation; see the module's text for the entry's strings. Calling it computes its value.

    Args:
        name: unique; also the attribute of pynn.OPS.
        ins, outs: arguments and results.
        kernel: name in csrc/kernels.inc, or a Python function kernel(outs, ins, **params) on NumPy arrays.
        vjp, formula, bwd, bwd_formula, saves: the derivative. bwd is a kernel like `kernel`, whose
            arguments are the gradients of the outputs, the saved inputs, the saved outputs, and whose
            results are the gradients of the inputs of kind T.
        params: {name: default}; a type in place of a default makes it required.
        shape: shape(in_shapes, **params) → shapes of the outputs, where the strings cannot say them.
        dtype: dtype(*in_dtypes, **params) of outputs of kind *.
        layout: "any" strides, "dense" where the kernel wants row-major arguments, or "nhwc": 4-D arguments and
            results are channels-last, logically N,C,H,W and stored N,H,W,C; others row-major.
        like: the result takes the memory layout of the first 4-D operand (elementwise ops).
        promote: whether mixed dtypes are promoted; layers raise instead.
        compares: a comparison of two inputs, which is exact for Python integers beyond the other's dtype.
        view: name of a view instead of a kernel.
        flops, bytes: cost, for the release of the GIL, the roofline and summaries.
        samples: samples(rng) → (args, params) pairs beside those drawn from the strings.
        domain: {input: (low, high)} from which samples are drawn; kinks: points that gradcheck avoids.
        errors: (args, params, exception, pattern) of bad calls.
        valid: {input: text}: what a kernel that reports PN_E_VALUE expected, for the message.
        reference: reference(*arrays, **params), an outside implementation.
        doc: the equation and its source.
    """

    __slots__ = (
        "__dict__",
        "bwd_formula",
        "bytes",
        "doc",
        "domain",
        "errors",
        "flops",
        "in_specs",
        "kernel",
        "kinks",
        "layout",
        "out_specs",
        "reference",
        "samples",
        "saves",
        "stem",
        "valid",
    )

    def __init__(
        self,
        name: str,
        ins: str,
        outs: str,
        *,
        writes: str = "",
        kernel: str | Callable | None = None,
        bwd: str | Callable | None = None,
        vjp: Callable | None = None,
        formula: Callable | None = None,
        bwd_formula: Callable | None = None,
        saves: str = "",
        params: dict[str, Any] | None = None,
        shape: Callable | None = None,
        dtype: Callable | None = None,
        layout: str = "any",
        like: bool = False,
        promote: bool = True,
        compares: bool = False,
        view: str | None = None,
        flops: str = "n",
        bytes: str | None = None,
        samples: Callable | None = None,
        domain: dict[str, tuple[float, float]] | None = None,
        kinks: tuple[float, ...] = (),
        errors: Iterable = (),
        valid: dict[str, str] | None = None,
        reference: Callable | None = None,
        doc: str = "",
        register: bool = True,
    ):
        read, symbols = parse_args(ins, ())
        written, symbols = parse_args(writes, symbols)
        self.in_specs = read + written
        self.out_specs, symbols = parse_args(outs, symbols)
        self.doc, self.samples, self.errors, self.reference = doc, samples, tuple(errors), reference
        self.domain, self.kinks, self.kernel, self.layout = domain or {}, kinks, kernel, layout
        self.valid = valid or {}
        self.bwd_formula, self.saves, self.flops, self.bytes = bwd_formula, saves, flops, bytes
        self.__doc__ = f"{name}({ins}) → {outs}\n\n{doc}"
        self._set_name(name, dict(params or {}))
        self.compares = compares
        self._set_specs(self.in_specs, self.out_specs, symbols, len(written))
        self._set_flops(parse_flops(flops, symbols))
        if bytes is not None:
            self._set_bytes(parse_flops(bytes, symbols))
        self._bind_kernel(kernel, LAYOUTS.index(layout), like, promote)
        save_in, save_out = self._save_masks(saves, bool(vjp or bwd_formula))
        py_kernel = kernel if callable(kernel) else None
        self._set_rules(shape, dtype, py_kernel, vjp, formula, save_in, save_out, view)
        if bwd is not None:
            self._set_bwd(self._derive_bwd(bwd, save_in, save_out))
        elif bwd_formula is not None:
            raise ValueError(f"{name}: bwd_formula is the formula of a bwd kernel, and there is none")
        if register:
            OPS.add_entry(self)

    def _save_masks(self, saves: str, lean: bool) -> tuple[int, int]:
        """Bit masks of the saved inputs and outputs; a formula needs every input."""
        names = saves.split()
        unknown = set(names) - set(self.in_names) - set(self.out_names)
        if unknown:
            raise ValueError(f"{self.name}: saves names no argument: {', '.join(sorted(unknown))}")
        save_in = sum(1 << k for k, n in enumerate(self.in_names) if n in names)
        if not lean:
            save_in = (1 << self.n_in) - 1
        return save_in, sum(1 << k for k, n in enumerate(self.out_names) if n in names)

    def _bind_kernel(self, kernel: str | Callable | None, layout: int, like: bool, promote: bool) -> None:
        """Looks up a C kernel and compares its line in kernels.inc with the entry."""
        if not isinstance(kernel, str):
            self._set_kernel(-1, (), b"", False, layout, like, promote)
            return
        if kernel not in _KERNELS:
            raise ValueError(f"{self.name}: there is no kernel {kernel!r} in csrc/kernels.inc")
        number, stem, k_ins, k_outs, k_pars = _KERNELS[kernel]
        self.stem = stem
        scratch = bool(k_outs) and k_outs[-1] == "scratch"
        n_read = self.n_in - self.n_write
        want = (self.in_names[:n_read], self.in_names[n_read:] + self.out_names)
        if want != (k_ins, k_outs[:-1] if scratch else k_outs):
            raise ValueError(f"{self.name}: the entry has {want}, kernel {kernel} has {(k_ins, k_outs)}")
        missing = [p for p in k_pars if p not in self.defaults]
        if missing:
            raise ValueError(f"{self.name}: kernel {kernel} asks for parameters {missing} that the entry lacks")
        kinds = "".join(
            "f" if self.defaults[p] is float or isinstance(self.defaults[p], float) else "i" for p in k_pars
        )
        self._set_kernel(number, k_pars, kinds.encode(), scratch, layout, like, promote)

    def _derive_bwd(self, kernel: str | Callable, save_in: int, save_out: int) -> Op:
        """The op of the first-order backward, whose own derivative comes from the formula."""
        dys = [("d" + n, dims, ell, "T", False, -1) for n, dims, ell, kind, _, _ in self.out_specs if kind == "T"]
        ins = [s for k, s in enumerate(self.in_specs) if save_in & (1 << k)]
        flows = "T" if self.bwd_formula else "C"  # where a formula gives the derivative, saved outputs are constants
        outs = [
            (*s[:3], flows if s[3] == "T" else s[3], *s[4:])
            for k, s in enumerate(self.out_specs)
            if save_out & (1 << k)
        ]
        grads = [("d" + n, dims, ell, "T", True, -1) for n, dims, ell, kind, _, _ in self.in_specs if kind == "T"]
        b = _DerivedBwd.__new__(_DerivedBwd)
        b.in_specs, b.out_specs = (*dys, *ins, *outs), tuple(grads)
        b._set_name(self.name + "_bwd", {**self.defaults, "_need": -1})
        b._set_specs(b.in_specs, b.out_specs, self.sym_names, 0)
        b._set_flops(parse_flops(self.flops, self.sym_names))
        b._bind_kernel(kernel, LAYOUTS.index(self.layout), self.like, True)
        if self.bwd_formula is not None:
            formula = _asking(self.bwd_formula, [k for k, s in enumerate(self.in_specs) if s[3] == "T"])
        else:
            formula = _formula_of_bwd(self, len(dys), len(ins))
        py_kernel = kernel if callable(kernel) else None
        b._set_rules(None, None, py_kernel, None, formula, -1, 0, None)
        return b


class _DerivedBwd(Op):
    """An op that no one calls by name: the fused backward of another."""

    __slots__ = ()


def _asking(fn: Callable, places: list[int]) -> Callable:
    """bwd_formula as an op's formula. One that takes `need` is told which gradients are wanted."""
    tells = "need" in inspect.signature(fn).parameters

    def formula(*args, _need, **params):
        if tells:
            params["need"] = tuple(_need >> k & 1 == 1 for k in places)
        return fn(*args, **params)

    return formula


def _full_shapes(op: Op, ins: list) -> list[tuple[int, ...] | None]:
    """The shapes that ins are broadcast to in a call: "..." is the same for all that have it."""
    parts = [(x.shape, s[2], len(s[1]) - s[2]) for x, s in zip(ins, op.in_specs) if x is not None and s[2] >= 0]
    wide = np.broadcast_shapes(*(shape[before : len(shape) - after] for shape, before, after in parts))
    return [
        None if x is None else x.shape if s[2] < 0 else
        (*x.shape[: s[2]], *wide, *x.shape[x.ndim - len(s[1]) + s[2] :])
        for x, s in zip(ins, op.in_specs)
    ]  # fmt: skip


def _formula_of_bwd(op: Op, n_dy: int, n_in: int) -> Callable:
    """The first-order backward as a formula: the derivative of op's own formula."""
    kinds = [s[3] for s in op.in_specs]
    floating = [s[3] == "T" for s in op.out_specs]

    def formula(*args, _need, **params):
        dys, ins = args[:n_dy], list(args[n_dy : n_dy + n_in])
        places = [k for k in range(n_in) if kinds[k] == "T" and ins[k] is not None and _need & (1 << k)]
        shapes = _full_shapes(op, ins)
        for k in places:  # the kernel's gradients have the shapes that the inputs are broadcast to
            x = ins[k] if ins[k].requires_grad else ins[k].detach()
            x.requires_grad = True
            ins[k] = OPS.expand(x, shape=shapes[k])
        ys = op.formula(*ins, **params)
        ys = ys if isinstance(ys, (tuple, list)) else (ys,)
        ys = [y for y, f in zip(ys, floating) if f]
        pairs = [(y, d) for y, d in zip(ys, dys) if y.requires_grad]
        found = dict.fromkeys(k for k in range(n_in) if kinds[k] == "T")
        if pairs:
            ys, ds = zip(*pairs)
            wanted = [ins[k] for k in places]
            found.update(zip(places, _core.run_backward(list(ys), list(ds), wanted, True, True, True, op.name)))
        return tuple(found.values())

    return formula


class Effect(Op):
    """An op that changes state: it writes its last inputs (`writes`), has no derivative, and never
    occurs in a formula. What it writes gets a new version."""

    __slots__ = ()

    def __init__(self, name: str, ins: str, writes: str, outs: str = "", *, whole: bool = False, **entry):
        """whole: what it writes does not depend on what was there."""
        super().__init__(name, ins, outs, writes=writes, **entry)
        if whole:
            self._set_whole()


class ListEffect(Effect):
    """An effect over any number of tensors in one call of its kernel: an optimizer's step, clipping.

    Arguments with names ending in `_list` are columns of a table. Called as effect(*singles, rows, **params)
    with a tuple of tensors for each row, in the entry's order; see _core.run_list.

    needs: {optional argument: parameter}: a call in which the parameter is not 0 must give the argument.
    """

    __slots__ = ()

    def __init__(self, name: str, ins: str, writes: str, *, needs: dict[str, str] | None = None, **entry):
        super().__init__(name, ins, writes, **entry)
        unknown = {k for k in needs or () if k not in self.in_names} | {
            p for p in (needs or {}).values() if p not in self.defaults
        }
        if unknown:
            raise ValueError(f"{name}: needs names neither an argument nor a parameter: {', '.join(sorted(unknown))}")
        self._set_needs(tuple((self.in_names.index(k), p) for k, p in (needs or {}).items()))

    def __call__(self, *args, **params):
        unknown = params.keys() - self.defaults.keys()
        missing = [k for k in self.required if k not in params]
        if not args or unknown or missing:
            raise TypeError(f"{self.name}: expected single tensors, rows and {', '.join(self.defaults)}, got "
                            f"{len(args)} arguments and {', '.join(params)}")  # fmt: skip
        _core.run_list(self, args[:-1], args[-1], {**self.defaults, **params})
