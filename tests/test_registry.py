"""The house holds together: kernels, entries, stems and classes agree, imports go one way, files stay small."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import pynn
from pynn import OPS, Op, _core

ROOT = Path(__file__).resolve().parents[1]
KERNELS = _core.kernels()
ENTRIES = list(OPS)
BY_ID = {line[0]: name for name, line in KERNELS.items()}
LISTED = {n for n, (_, _, ins, outs, _) in KERNELS.items() if any(a.endswith("_list") for a in ins + outs)}
in_tree = pytest.mark.skipif(not (ROOT / "csrc").is_dir(), reason="not in the source tree")


def sources(*patterns):
    found = [p for pattern in patterns for p in sorted(ROOT.glob(pattern))]
    return [p for p in found if "build" not in p.relative_to(ROOT).parts and p.name != "engine.c"]


# ---- kernels and entries ---------------------------------------------------------------------------


def test_every_kernel_has_an_entry():
    used = {op.kernel_id for op in ENTRIES} | {op.bwd.kernel_id for op in ENTRIES if op.bwd}
    assert set(BY_ID) <= used, f"kernels without an entry: {sorted(BY_ID[k] for k in set(BY_ID) - used)}"


@pytest.mark.parametrize("op", ENTRIES, ids=lambda op: op.name)
def test_entry_and_kernel_agree(op):
    """Names of arguments, parameters and stems; docs; an outside implementation or a formula."""
    assert op.doc.strip()
    for one in filter(None, (op, op.bwd)):
        if one.kernel_id < 0:
            continue
        name = BY_ID[one.kernel_id]
        _, stem, ins, outs, pars = KERNELS[name]
        assert stem == KERNELS[BY_ID[op.kernel_id]][1] if op.kernel_id >= 0 else True
        assert one.par_names == pars
        assert set(pars) <= set(op.defaults)
        assert re.fullmatch(r"\w+_(fwd|bwd|step)", name)
        assert name.endswith("_bwd") == (one is not op)
        if name not in LISTED:
            n_read = one.n_in - one.n_write
            assert one.in_names[:n_read] == ins
            assert one.in_names[n_read:] + one.out_names == tuple(n for n in outs if n != "scratch")
        assert one.has_scratch == ("scratch" in outs)
        declared = vars(sys.modules[f"pynn.ops.{stem}"]).values()
        assert any(v is op for v in declared), f"pynn/ops/{stem}.py does not declare {op.name}"
    if op.kernel_id >= 0 and op.kernel not in LISTED:
        assert op.reference or op.formula, "neither a reference nor a formula"
    assert op.n_write or op.vjp or op.formula or op.bwd_formula, "no derivative"


@in_tree
def test_stems():
    """csrc/ops/X.c ↔ lines of kernels.inc with stem X ↔ pynn/ops/X.py; nn/X.py has a stem or is none."""
    in_c = {p.stem for p in (ROOT / "csrc/ops").glob("*.c")}
    assert {line[1] for line in KERNELS.values()} == in_c
    in_python = {p.stem for p in (ROOT / "pynn/ops").glob("*.py")} - {"__init__"}
    assert in_c == in_python
    machinery = {
        "__init__",
        "checkpoint",
        "config",
        "containers",
        "criteria",
        "features",
        "functional",
        "init",
        "module",
        "positions",
        "saving",
        "scaling",
        "state",
        "summary",
        "transformer",
        "utils",
    }
    classes = {p.stem for p in (ROOT / "pynn/nn").glob("*.py")} - machinery
    assert classes <= in_c, f"pynn/nn files without a stem: {sorted(classes - in_c)}"
    for stem in in_c:
        text = (ROOT / "csrc/ops" / f"{stem}.c").read_text()
        defined = set(re.findall(r"^PN_(?:FN|EACH)\((\w+)", text, re.M))
        own = {name for name, line in KERNELS.items() if line[1] == stem}
        assert {n for n in defined if re.search(r"_(fwd|bwd|step)$", n)} <= own
        assert re.match(rf"/\* {stem}\.c: ", text), f"csrc/ops/{stem}.c does not open with what it computes"


def test_effects_have_no_derivative_and_ops_write_nothing():
    for op in ENTRIES:
        assert bool(op.n_write) == isinstance(op, pynn.Effect)
        if op.n_write:
            assert op.vjp is None
            assert op.bwd is None


# ---- imports -----------------------------------------------------------------------------------------

# An arrow goes from a lower number to a higher; modules of one number may see each other.
LAYERS = {
    "_core": 0, "config": 1, "op": 1, "tensor": 1, "autograd": 1, "creation": 1, "random": 1, "_keys": 1, "sparse": 1,
    "files": 1, "arrays": 1, "limits": 1, "recompute": 1, "curvature": 1,
    "_samples": 3, "_compare": 3,
    "ops": 2, "nn": 3, "optim": 3, "plan": 3, "plan_report": 3, "session": 3, "testing": 3,
    "data": 4, "models": 4, "train": 5, "inspect": 6, "interop": 6, "cli": 7, "__main__": 8,
}  # fmt: skip
EXCEPTIONS: set[tuple[str, str]] = set()  # (file, module) pairs; none
OUTSIDE = {"numpy"}  # what may be imported when pynn is; the rest inside of functions


def imports(path):
    """(module, whether at module level) of every import of a file; pynn's own as pynn.x."""
    tree = ast.parse(path.read_text())
    package = ("pynn", *path.relative_to(ROOT / "pynn").parts[:-1])
    inside = {
        id(n) for f in ast.walk(tree) if isinstance(f, ast.FunctionDef | ast.AsyncFunctionDef) for n in ast.walk(f)
    }
    for node in ast.walk(tree):
        top = id(node) not in inside
        if isinstance(node, ast.Import):
            yield from ((a.name, top) for a in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *((node.module or "").split(".") if node.module else [])])
            if module == "pynn":
                yield from ((f"pynn.{a.name}", top) for a in node.names)
            else:
                yield module, top


MODULES = sources("pynn/**/*.py")


@in_tree
@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_one_way(path):
    parts = path.relative_to(ROOT / "pynn").with_suffix("").parts
    if parts == ("__init__",):
        return  # the surface sees everything
    assert parts[0] in LAYERS, f"pynn/{parts[0]} has no place in the house: add it to LAYERS"
    for module, top in imports(path):
        first, *rest = module.split(".")
        if first != "pynn":
            assert not top or first in OUTSIDE or first in sys.stdlib_module_names, f"imports {module} at module level"
        elif rest:
            allowed = LAYERS.get(rest[0], LAYERS["cli"]) <= LAYERS[parts[0]]
            assert allowed or (str(path.relative_to(ROOT)), module) in EXCEPTIONS, f"{path.name} imports {module}"
        else:
            assert parts[0] == "cli", f"{path.name} imports pynn itself"


def test_importing_pynn_is_light():
    """Nothing but NumPy comes along, neither at import nor with the first steps of training."""
    program = """
import sys, pynn, pynn.nn, pynn.optim
heavy = {"scipy", "matplotlib", "sklearn", "tqdm", "torch", "safetensors"}
m = pynn.nn.Linear(3, 2); o = pynn.optim.SGD(m.parameters(), lr=0.1)
for _ in range(10):
    o.zero_grad(); m(pynn.randn(4, 3)).sum().backward(); o.step()
loaded = heavy & set(sys.modules)
assert not loaded, loaded
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 0, run.stderr


# ---- rules for the C core ----------------------------------------------------------------------------------


@in_tree
def test_kernels_do_not_thread_allocate_or_know_python():
    for path in sources("csrc/*.[ch]", "csrc/ops/*.[ch]"):
        text = re.sub(r"/\*.*?\*/", "", path.read_text(), flags=re.S)
        name = str(path.relative_to(ROOT))
        if name != "csrc/pn_par.c":
            assert "#pragma omp" not in text, name
        assert "Python.h" not in text, name
        if name.startswith("csrc/ops/"):
            assert not re.search(r"\b(malloc|calloc|realloc|alloca|pn_alloc)\s*\(", text), f"{name} allocates"
            assert not re.search(
                r"^static\s+(?!const|inline|void|int|int64_t|T\b|V\b|VI\b)\w+\s+\w+\s*(=|;)", text, re.M
            )


@in_tree
def test_flags():
    text = (ROOT / "setup.py").read_text()
    for flag in ("-ffast-math", "-Ofast", "-march=native", "-mtune=native", "-funsafe-math"):
        assert flag not in text
    assert "-ffp-contract=off" in text


MAX_LINES = 600


@in_tree
def test_files_are_small():
    paths = sources(
        "csrc/**/*.[ch]", "csrc/*.inc", "pynn/**/*.py", "pynn/**/*.p[yx][xid]", "tests/**/*.py", "tests/**/*.[ch]"
    )
    paths += sources("benchmarks/**/*.py", "examples/**/*.py")
    sizes = {str(p.relative_to(ROOT)): len(p.read_text().splitlines()) for p in paths}
    long = {name: n for name, n in sizes.items() if n > MAX_LINES}
    assert not long, f"files of more than {MAX_LINES} lines: {long}"
    assert len(sizes) > 50


@in_tree
def test_functions_are_short():
    """Python functions of less than 60 lines."""
    long = []
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno >= 60:
                long.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}")
    assert not long, long


@in_tree
def test_the_page_of_ops_is_up_to_date():
    """In a process of its own: tests register ops, too."""
    env = {**os.environ, "PYTHONPATH": str(Path(pynn.__file__).parents[1])}
    run = subprocess.run([sys.executable, "docs/make_ops.py", "--check"], cwd=ROOT, env=env)
    assert run.returncode == 0, "python docs/make_ops.py writes it anew"


@in_tree
def test_hooks_and_make_lint_use_the_same_linters():
    hooks = (ROOT / ".pre-commit-config.yaml").read_text()
    pins = set(re.search(r"^LINTERS = (.*)", (ROOT / "Makefile").read_text(), re.M)[1].split())
    assert pins == set(re.findall(r"[\w-]+==[\d.]+", hooks)) - set(re.findall(r"pre-commit-hooks==[\d.]+", hooks))
    assert all("==" in pin for pin in pins)


@in_tree
def test_make_targets_run_files_that_exist():
    named = set(re.findall(r"\$\((?:PY|PYTHON)\) ([\w/]+\.py)", (ROOT / "Makefile").read_text()))
    assert len(named) > 3
    assert [f for f in sorted(named) if not (ROOT / f).is_file()] == []


def test_ops_are_ops():
    assert all(isinstance(op, Op) for op in OPS)
    assert len({op.name for op in OPS}) == len(ENTRIES)
