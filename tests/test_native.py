"""The C core's own tests, compiled and run: team, allocator, vector functions, products, the whole without Python.

Vector functions and products are tested once per ISA level that this machine has and dtype, and once with
vectors of 64 bytes at the highest, which is how machines without AVX-512 see the widest code.
"""

import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import FULL

from pynn import _core

ROOT = Path(__file__).resolve().parents[1]
CC = os.environ.get("CC", "cc").split()
FLAGS = "-std=gnu11 -O3 -ffp-contract=off -fno-math-errno -Wall -Wextra -Werror -Icsrc".split()
LEVELS = {
    "base": "-mssse3 -msse4.2 -mpopcnt",
    "avx2": "-mavx2 -mfma -mbmi -mbmi2",
    "avx512": "-mavx2 -mfma -mbmi -mbmi2 -mavx512f -mavx512dq -mavx512bw -mavx512vl -mprefer-vector-width=512",
    "neon": "",
}
FORMS = [(level, "") for level in _core.isa_levels()] + [
    (_core.isa_levels()[-1], "-DPN_VBYTES=64 -O1")
]  # -O1: their code is long

pytestmark = [
    pytest.mark.skipif(not shutil.which(CC[0]), reason=f"no C compiler ({CC[0]})"),
    pytest.mark.skipif(not (ROOT / "csrc").is_dir(), reason="not in the source tree"),
]


def build(folder, *args):
    program = folder / "program"
    done = subprocess.run([*CC, *FLAGS, *args, "-lm", "-o", str(program)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return program


def run(program, *args, **env):
    limit, env = 1800 if FULL else 300, {**os.environ, **env}
    done = subprocess.run([str(program), *args], capture_output=True, text=True, timeout=limit, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("wait", ["-DPN_FUTEX", "-DPN_NO_FUTEX"])
def test_par(tmp_path, wait):
    """The team, whose threads sleep on a futex or on a condition variable."""
    assert "ok" in run(build(tmp_path, "-pthread", wait, "tests/c/test_par.c", "csrc/pn_par.c"))


def test_alloc(tmp_path):
    assert "ok" in run(build(tmp_path, "-pthread", "tests/c/test_alloc.c", "csrc/pn_alloc.c"))


@pytest.mark.parametrize("dtype", ["f32", "f64"])
@pytest.mark.parametrize("form", FORMS, ids=lambda f: f[0] + ("-64 bytes" if f[1] else ""))
def test_math(tmp_path, form, dtype):
    """Every vector function within 4 ULP; f32 at a stride through all bit patterns."""
    level, more = form
    flags = [*LEVELS[level].split(), *more.split(), f"-DPN_ISA_NAME={level}", f"-DPN_TNAME={dtype}"]
    out = run(build(tmp_path, *flags, "tests/c/test_math.c"), *(["257"] if FULL and dtype == "f32" else []))
    assert "passed, 0 failures" in out


@pytest.mark.parametrize("dtype", ["f32", "f64"])
@pytest.mark.parametrize("form", FORMS, ids=lambda f: f[0] + ("-64 bytes" if f[1] else ""))
def test_gemm(tmp_path, form, dtype):
    """Random products against their definition, to the bit."""
    level, more = form
    flags = [*LEVELS[level].split(), *more.split(), f"-DPN_ISA_NAME={level}", f"-DPN_TNAME={dtype}", "-pthread"]
    program = build(tmp_path, *flags, "tests/c/test_gemm.c", "csrc/pn_gemm.c", "csrc/pn_par.c")
    out = run(program, "2000" if FULL else "120", "7")
    assert re.search(r"largest error 0\.\d+ of its bound", out), out


@pytest.mark.parametrize("dtype", ["f32", "f64"])
@pytest.mark.parametrize("form", FORMS, ids=lambda f: f[0] + ("-64 bytes" if f[1] else ""))
def test_blas(tmp_path, form, dtype):
    """The same products by way of a BLAS that adds in the same order, to the bit."""
    level, more = form
    flags = [*LEVELS[level].split(), *more.split(), f"-DPN_ISA_NAME={level}", f"-DPN_TNAME={dtype}", "-pthread"]
    sources = ["csrc/pn_blas.c", "csrc/pn_gemm.c", "csrc/pn_par.c"]
    out = run(build(tmp_path, *flags, "tests/c/test_blas.c", *sources), "2000" if FULL else "120", "7")
    assert "by gemv" in out


@pytest.mark.parametrize("function", ["exp", "log", "tanh", "sigmoid", "erf", "expm1", "log1p", "sin", "cos", "pow"])
def test_f64_against_many_digits(function):
    """Functions of float64 within 4 ULP of mpmath, on the best level; the whole is tests/c/ulp_f64.py."""
    mpmath = pytest.importorskip("mpmath")
    import numpy as np

    from pynn import OPS, tensor

    rng = np.random.default_rng(5)
    n = 400
    x = np.concatenate([rng.standard_normal(n) * s for s in (1e-3, 1, 10, 100)])
    if function in ("log", "log1p", "pow"):
        x = np.abs(x) + 1e-12
    y = rng.uniform(-5, 5, x.size)
    args = (x, y) if function == "pow" else (x,)
    got = getattr(OPS, function)(*map(tensor, args)).numpy()
    exact = {"sigmoid": lambda v: 1 / (1 + mpmath.exp(-v)), "pow": mpmath.power}.get(function) or getattr(
        mpmath, function
    )
    with mpmath.workdps(40):
        for k in range(x.size):
            want = exact(*(mpmath.mpf(float(a[k])) for a in args))
            if not 1e-300 < abs(want) < 1.7e308:
                continue
            ulp = abs(mpmath.mpf(float(got[k])) - want) / mpmath.mpf(float(np.spacing(abs(float(want)))))
            assert ulp <= 4, f"{function}({[float(a[k]) for a in args]}): {float(ulp):.2f} ULP"


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="links the levels of x86-64")
def test_core_without_python(tmp_path):
    """tests/c/selftest.c linked with the objects of this build: every level, no Python."""
    objects = [str(p) for p in sorted((ROOT / "build").glob("temp*/csrc/*/*.o"))]
    if not objects:
        pytest.skip("no objects of a build in place")
    if any(b"__asan_init" in Path(p).read_bytes() for p in objects[:1]):
        pytest.skip("the build is instrumented")
    out = run(build(tmp_path, "-pthread", "tests/c/selftest.c", *objects))
    for level in _core.isa_levels():
        assert f"selftest, {level}: ok" in out
