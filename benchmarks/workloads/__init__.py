"""The workloads of benchmarks/steps.py: whole training steps, and inference.

To add one: in a module here, one function per library, decorated with @workload("LIBRARY ...", "NAME", ...), that
takes (name, v) and returns a function of no arguments: a step that returns its loss, or a call from NumPy to NumPy.
v is a Variant below. Import the module at the end of this file. Results of 5 calls are compared before timing.
"""

import importlib
from dataclasses import dataclass

WORKLOADS = {}  # name: {library: function}


@dataclass(frozen=True)
class Variant:
    """One way to run a library: its name, and what is switched on."""

    library: str
    fused: bool = False  # optimizers that step all parameters in one pass
    compiled: bool = False  # torch.compile, pynn.compile
    preload: bool = False  # with jemalloc in place of the system's allocator
    only_cpus: bool = False  # threads are limited by the CPUs of the process

    def modules(self):
        """(the library, its nn, its optim) of pynn or PyTorch, whose classes have the same names."""
        return tuple(importlib.import_module(self.library + part) for part in ("", ".nn", ".optim"))


VARIANTS = {
    "pynn": Variant("pynn"),
    "pynn, plan": Variant("pynn", compiled=True),
    "torch": Variant("torch"),
    "torch+": Variant("torch", fused=True),
    "torch+jemalloc": Variant("torch", fused=True, preload=True),
    "torch.compile": Variant("torch", fused=True, compiled=True),
    "jax": Variant("jax", only_cpus=True),
    "sklearn": Variant("sklearn", only_cpus=True),
    "onnxruntime": Variant("onnxruntime"),
}


def workload(libraries, *names):
    """Registers a function as what builds the workloads `names` in `libraries`."""

    def register(function):
        for name in names:
            WORKLOADS.setdefault(name, {}).update(dict.fromkeys(libraries.split(), function))
        return function

    return register


def variants(name):
    """The variants that workload `name` has, without pynn's."""
    return [v for v, how in VARIANTS.items() if how.library in WORKLOADS[name] and how.library != "pynn"]


def build(name, variant):
    """The call of one workload."""
    how = VARIANTS[variant]
    return WORKLOADS[name][how.library](name, how)


from . import bags, images, mlp, transformers  # noqa: E402  they register themselves
