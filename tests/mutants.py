"""Flips one sign per kernel in a scratch copy of the tree: the tests of the kernel's op must fail.

    python tests/mutants.py [--kernel NAME]... [--each N] [--limit N] [--tests PATH]... [--isa LEVEL] [--list]

The sign stands in the kernel's own text if there is one: in its body, or in helpers and macros that no
other kernel uses. Else it is one of code that kernels share, each of which is flipped for one kernel
only. Where there is no sign, a comparison is turned round, a result negated, at last a sign of an
address flipped. Exits with 1 where a mutant survives. The copy stays in build/mutants, so that the next
run compiles only what changed.

Levels share their source, so only the highest one that this machine has is compiled with the flip, and the
tests that compare levels are left out: they would notice any flip. Give --isa for code of another level.
"""

import argparse
import os
import re
import resource
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from pynn import _core

ROOT = Path(__file__).resolve().parents[1]
COPY = ROOT / "build" / "mutants"
ENV = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
TIMEOUT = 600  # a mutant that hangs is a mutant noticed
MEMORY = 12 << 30  # so is one that asks for all there is
EQUIVALENT = (
    "i + k == 0 ||",  # argmax: k < BLOCK, and i is 0 or at least that
    "TILE, end - o",  # reductions: the next chunk's outputs are written twice, with the same values
)


class Kernel(NamedTuple):
    stem: str
    name: str

    @property
    def op(self):
        return re.sub(r"_(fwd|bwd|step)\w*$", "", self.name)


class Mutant(NamedTuple):
    start: int
    end: int
    text: str
    ops: tuple  # whose kernels have this text


def kernels():
    table = (ROOT / "csrc" / "kernels.inc").read_text()
    return [Kernel(*m) for m in re.findall(r"^PN_KERNEL\((\w+),\s*(\w+),", table, re.M)]


# ---- where a kernel's text is -----------------------------------------------------------------------


def blank(text):
    """The text with comments, strings and preprocessor lines as spaces, at the same places."""

    def spaces(m):
        return re.sub(r"[^\n]", " ", m.group())

    text = re.sub(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"', spaces, text, flags=re.S)
    return re.sub(r"^[ \t]*#(?!define)(?:[^\n]*\\\n)*[^\n]*", spaces, text, flags=re.M)


def closing(text, at):
    """The place after the bracket that closes the one at `at`."""
    pairs = {"(": ")", "{": "}", "[": "]"}
    depth, inner, outer = 0, text[at], pairs[text[at]]
    for i in range(at, len(text)):
        depth += (text[i] == inner) - (text[i] == outer)
        if depth == 0:
            return i + 1
    return len(text)


def bodies(text, pattern):
    """(start, end) of the bodies or macro calls that begin with the pattern, which ends at a '('."""
    found = []
    for m in re.finditer(pattern, text, re.M):
        end = closing(text, m.end() - 1)
        body = re.compile(r"\s*\{").match(text, end)
        if body:
            found.append((end, closing(text, body.end() - 1)))
        elif not re.compile(r"\s*;").match(text, end):  # a declaration only
            found.append((m.end() - 1, end))
    return found


def own_text(text, kernel):
    """The kernel's function or macro call; a macro's table line may name the op alone: DEFINE(amax, ...)."""
    return bodies(text, rf"^\s*[A-Z]\w*\((?=\s*(?:{kernel.name}|{kernel.op})\b)")


def helper(text, word):
    """The function of that name in the same file, or what the macro stands for."""
    functions = bodies(text, rf"^(?:static|PN_INLINE)\b[^;{{}}()]*\b{word}\(")
    return functions + [m.span(1) for m in re.finditer(rf"^#define {word}\([^)]*\)((?:.*\\\n)*.*)", text, re.M)]


def regions(text, kernel):
    """The kernel's own text, then that of the helpers of the same file that it names, and they name."""
    found = own_text(text, kernel)
    seen = set()
    for a, b in found:  # grows
        for word in dict.fromkeys(re.findall(r"\b[A-Za-z_]\w*", text[a:b])):
            if word not in seen:
                seen.add(word)
                found += [span for span in helper(text, word) if span not in found]
    return found


# ---- what can be flipped ------------------------------------------------------------------------------

SIGN = {"+": "-", "-": "+"}
TURNED = {"<": ">", ">": "<", "<=": ">", ">=": "<", "==": "!=", "!=": "==", "&&": "||", "||": "&&"}
LESS = {"min": "max", "max": "min"}
RULES = (  # the most telling ones first
    (r"(?<=[\w)\].]) ?(\+|-)=?(?![+\->=]) ?(?=[\w(.])(?<![eE][+-])", SIGN),
    (r"(?<=, )([+-])(?=,)", SIGN),  # an operator as a macro's argument
    (r"(?<=[=(?:,] )(-)(?=[\w(])|(?<=\()(-)(?=[\w(])", SIGN),
    (r"\b(pn_fma|pn_fnma)(?=\()", {"pn_fma": "pn_fnma", "pn_fnma": "pn_fma"}),
    (r" (<=?|>=?|==|!=|&&|\|\|) ", TURNED),
    (r"\bpn_v(min|max)\b", LESS),
    (r"= (!)(?=\w)", {"!": "!!"}),
    (r"[;{},]\s*\*?\w+(?:\[[^\]\n]*\])? = ()(?=[\w(])", {"": "-"}),
    (r"[(,=]\s*()(?=PAR\()", {"": "-"}),
)


def addresses(text, start, end):
    """Spans whose signs are not arithmetic of values: indices, loop heads, integers, addresses."""
    spans = []
    for m in re.finditer(r"\[|\b(?:for|while|sizeof|pn_load\w*|pn_store\w*|mem\w+)\s*\(", text[start:end]):
        a = start + m.end() - 1
        spans.append((a, closing(text, a)))
    for m in re.finditer(r"\b(?:int|int\d+_t|size_t|char|void|T|pn_array) \*?\w[^;{}]*;", text[start:end]):
        if not re.match(r"T \w", m.group()):  # a T is a value
            spans.append((start + m.start(), start + m.end()))
    return spans


def sites(text, start, end):
    """(rank, mutant) for what can be flipped between start and end; rank: the lower the more telling."""
    skip = addresses(text, start, end)
    for rank, (pattern, flip) in enumerate(RULES):
        for m in re.compile(pattern).finditer(text, start, end):
            group = m.lastindex
            at, old = m.start(group), m.group(group)
            address = any(a <= at < b for a, b in skip)
            same = any(text.find(e, at - len(e), at + len(e)) >= 0 for e in EQUIVALENT)
            if not same and (not address or flip is SIGN):  # only a sign of an address is worth a try
                yield rank + len(RULES) * address, Mutant(at, m.end(group), flip[old], ())


def choices(source, stem):
    """{kernel: its mutants, the one to try first in front} for the kernels of a file."""
    text = blank(source)
    reach = {k: regions(text, k) for k in kernels() if k.stem == stem}
    taken, found = set(), {}
    for k, spans in reach.items():
        ranked = []
        for span in spans:
            ops = tuple(other.op for other in reach if span in reach[other])
            ranked += [(len(ops) > 1, rank, m._replace(ops=ops)) for rank, m in sites(text, *span)]
        ranked.sort(key=lambda x: x[:2])
        found[k] = [m for _, _, m in ranked if m not in taken]
        if found[k] and len(found[k][0].ops) > 1:
            taken.add(found[k][0])
    return found


# ---- the scratch copy -----------------------------------------------------------------------------------


def sync():
    """Brings the copy up to date; files that are the same keep their time, so nothing is rebuilt for them."""
    skip = shutil.ignore_patterns(
        ".git", ".venv*", "mutants", "asan", "aarch64", "wheel", "dist", "__pycache__", ".*_cache"
    )
    if not COPY.exists():
        shutil.copytree(ROOT, COPY, symlinks=True, ignore=skip)
        return
    for folder in ("csrc", "pynn", "tests"):
        for old in (COPY / folder).rglob("*"):
            built = old.suffix == ".so" or (old.suffix == ".c" and folder == "pynn")
            if old.is_file() and not built and not (ROOT / old.relative_to(COPY)).exists():
                old.unlink()
    files = [ROOT / f for f in ("setup.py", "pyproject.toml", "README.md", "LICENSE")]
    for folder in ("csrc", "pynn", "tests"):
        files += [f for f in (ROOT / folder).rglob("*") if f.suffix not in (".so", ".pyc") and f.is_file()]
    for f in files:
        to = COPY / f.relative_to(ROOT)
        if f.exists() and not (to.exists() and to.read_bytes() == f.read_bytes()):
            to.parent.mkdir(parents=True, exist_ok=True)
            to.write_bytes(f.read_bytes())


def build():
    """The compiler's last words, or None where it succeeded. Warnings do not count: a mutant may have some."""
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    env = {k: v for k, v in ENV.items() if k != "PYNN_WERROR"}
    run = subprocess.run(command, cwd=COPY, env={**env, "CFLAGS": "-O1"}, capture_output=True, text=True)
    return run.stderr[-2000:] if run.returncode else None


def spare(stem, isa):
    """Lets the next build pass over the forms of a file for other ISA levels."""
    for obj in (COPY / "build").glob(f"temp*/csrc/*/{stem}.o"):
        if not obj.parent.name.startswith(f"{isa}_"):
            obj.touch()


def tests_fail(paths, ops, isa):
    """(whether the ops' tests fail, the line that says so)."""
    chosen = f"({' or '.join(ops)}) and not isa"
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *paths, "-k", chosen]
    env = {**ENV, "PYNN_ISA": isa}
    try:
        run = subprocess.run(command, cwd=COPY, env=env, capture_output=True, text=True, timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        return True, "timed out"
    if run.returncode < 0:
        return True, f"ended by signal {-run.returncode}"
    lines = run.stdout.strip().splitlines() or [run.stderr.strip()[-200:]]
    if run.returncode == 5:
        return False, "no test has the op's name"
    return run.returncode != 0, next((x for x in lines if x.startswith(("FAILED", "ERROR"))), lines[-1])


def try_kernel(kernel, tests, each, isa):
    """Yields ('caught', 'survived' or 'no site', and why) of the kernel's first mutants that compile."""
    file = COPY / "csrc" / "ops" / f"{kernel.stem}.c"
    source = file.read_text()
    why, tried = "nothing to flip", 0
    for mutant in choices(source, kernel.stem)[kernel]:
        if tried == each:
            return
        file.write_text(source[: mutant.start] + mutant.text + source[mutant.end :])
        spare(kernel.stem, isa)
        try:
            if why := build():
                continue
            caught, note = tests_fail(tests, mutant.ops, isa)
        finally:
            file.write_text(source)  # with a new time: the mutant's objects are stale
        tried += 1
        yield ("caught" if caught else "survived"), f"{described(source, mutant)}; {note}"
    if not tried:
        yield "no site", why.strip().splitlines()[-1]


def described(source, mutant):
    line = source.count("\n", 0, mutant.start)
    flip = f"{source[mutant.start : mutant.end] or '(nothing)'} -> {mutant.text}"
    return f"line {line + 1}: {source.splitlines()[line].strip()} [{flip}]"


def options():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--kernel", action="append", help="only this kernel (may be given more than once)")
    p.add_argument("--each", type=int, default=1, help="flips per kernel (default: 1)")
    p.add_argument("--limit", type=int, help="only the first N kernels")
    p.add_argument("--tests", action="append", help="test files (default: test_ops*.py, test_family_*.py)")
    p.add_argument(
        "--isa", choices=_core.isa_levels(), default=_core.isa_levels()[-1], help="the level that is flipped"
    )
    p.add_argument("--list", action="store_true", help="show the first flips of each kernel and stop")
    return p.parse_args()


def main():
    opt = options()
    chosen = [k for k in kernels() if not opt.kernel or k.name in opt.kernel][: opt.limit]
    if not chosen:
        sys.exit("mutants: no such kernel")
    if opt.list:
        for k in chosen:
            source = (ROOT / "csrc" / "ops" / f"{k.stem}.c").read_text()
            for m in choices(source, k.stem)[k][: opt.each]:
                print(f"{k.name:24} {described(source, m)}")
        return
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    found = [f for pattern in ("test_ops*.py", "test_family_*.py") for f in sorted((ROOT / "tests").glob(pattern))]
    tests = opt.tests or [str(f.relative_to(ROOT)) for f in found]
    sync()
    if error := build():
        sys.exit(f"mutants: the tree does not build\n{error}")
    failed, note = tests_fail(tests, [k.op for k in chosen], opt.isa)
    if failed or "no test" in note:
        sys.exit(f"mutants: the tests must pass, and exist, before a flip means anything: {note}")
    count = Counter(caught=0, survived=0)
    for k in chosen:
        for verdict, note in try_kernel(k, tests, opt.each, opt.isa):
            count[verdict] += 1
            print(f"{verdict:8} {k.stem}/{k.name}: {note}", flush=True)
    print(", ".join(f"{n} {verdict}" for verdict, n in count.items()))
    sys.exit(1 if count["survived"] else 0)


if __name__ == "__main__":
    main()
