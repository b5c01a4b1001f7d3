"""The stub of the compiled engine names what the engine has: every name, method, attribute and parameter."""

import ast
import inspect
from pathlib import Path

import pytest

from pynn._core import engine

PACKAGE = Path(engine.__file__).resolve().parents[1]
STUB = ast.parse((PACKAGE / "_core" / "engine.pyi").read_text())
CLASSES = {s.name: s for s in STUB.body if isinstance(s, ast.ClassDef) and not s.name.startswith("_")}
# a class's own methods that a stub repeats: the rest of what it inherits from object is object's
SPECIAL = {"__init__", "__call__", "__getitem__", "__len__", "__iter__", "__enter__", "__exit__"}
SPECIAL |= {f"__{side}{name}__" for name in ("add", "sub", "mul", "truediv", "matmul") for side in ("", "r")}


def parameters(function):
    """The names of a stub's or of an engine's function's parameters, those with a default followed by '='."""
    if isinstance(function, ast.FunctionDef):
        a = function.args
        names = [x.arg for x in [*a.posonlyargs, *a.args]]
        first = len(names) - len(a.defaults)
        return [n + "=" * (k >= first) for k, n in enumerate(names)]
    return [p.name + "=" * (p.default is not p.empty) for p in inspect.signature(function).parameters.values()]


def stubbed(body):
    """{name: its parameters, or None for an attribute or class} of a stub's statements."""
    found = {}
    for s in body:
        if isinstance(s, ast.FunctionDef):
            found[s.name] = None if s.decorator_list else parameters(s)
        elif isinstance(s, ast.AnnAssign) and ast.unparse(s.annotation) != "TypeAlias":
            found[s.target.id] = None
        elif isinstance(s, ast.ClassDef):
            found[s.name] = None
    return found


def compiled(space, keep):
    """The same of a compiled module or class: what `keep` takes of its names."""
    plain = {n: v for n, v in vars(space).items() if keep(n) and not inspect.ismodule(v)}
    return {n: parameters(v) if inspect.isroutine(v) and not inspect.isclass(v) and not inspect.isdatadescriptor(v)
            else None for n, v in plain.items()}  # fmt: skip


def test_names_and_parameters_of_the_module():
    stub = {n: p for n, p in stubbed(STUB.body).items() if not n.startswith("_")}
    assert compiled(engine, lambda n: not n.startswith("_")) == stub


@pytest.mark.parametrize("name", CLASSES)
def test_attributes_and_methods_of(name):
    stub = stubbed(CLASSES[name].body)
    found = compiled(getattr(engine, name), lambda n: not n.startswith("__"))
    assert found == {n: p for n, p in stub.items() if n not in SPECIAL}
    special = {n for n in vars(getattr(engine, name)) if n in SPECIAL}
    assert special == {n for n in stub if n in SPECIAL}


@pytest.mark.parametrize("name", CLASSES)
def test_settable_attributes_of(name):
    """A stub's property has a setter exactly where the engine's attribute can be set."""
    stub = {ast.unparse(d.value) for s in CLASSES[name].body if isinstance(s, ast.FunctionDef)
            for d in s.decorator_list if isinstance(d, ast.Attribute) and d.attr == "setter"}  # fmt: skip
    cls = getattr(engine, name)
    blank = cls.__new__(cls)
    found = set()
    for attribute, p in compiled(cls, lambda n: not n.startswith("__")).items():
        if p is None:
            try:
                setattr(blank, attribute, None)
            except AttributeError as e:
                if "not writable" in str(e) or "can't set" in str(e) or "read-only" in str(e):
                    continue
            except Exception:  # a setter that does not like None
                pass
            found.add(attribute)
    assert found == stub


def test_what_python_uses_of_the_core_is_there():
    """Every `_core.name` in the package exists; a lost one would show only where it is called."""
    used = {}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "_core":
                used.setdefault(node.attr, path.name)
    assert len(used) > 20
    missing = {name: path for name, path in used.items() if not hasattr(engine, name)}
    assert not missing, missing


def test_the_stub_is_marked_as_typed():
    assert (PACKAGE / "py.typed").is_file()
