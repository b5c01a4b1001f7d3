"""Builds pynn._core: the kernels once per ISA level and dtype, each with an output folder of its own.

Environment: PYNN_WERROR=1 makes warnings errors; PYNN_SANITIZE=address,undefined instruments the C;
PYNN_NO_EXT=1 packs Python alone, around an extension that is built already.
"""

import os
import platform
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()
CSRC = Path("csrc")  # relative to ROOT, so that a copied tree can go on with the objects of the first
X86 = platform.machine().lower() in ("x86_64", "amd64")
LEVELS = (
    {
        "base": ["-mssse3", "-msse4.2", "-mpopcnt"],
        "avx2": ["-mavx2", "-mfma", "-mbmi", "-mbmi2"],
        "avx512": "-mavx2 -mfma -mbmi -mbmi2 -mavx512f -mavx512dq -mavx512bw -mavx512vl "
        "-mprefer-vector-width=512".split(),
    }
    if X86
    else {"neon": []}
)
KINDS = {"FLOATS": ["f32", "f64"], "NUMBERS": ["f32", "f64", "i64"], "BOOLS": ["i64"], "ANY": ["any"]}
# what several kernels call, in the same forms, and what kernels are held against
SHARED = {"pn_gemm": ["f32", "f64"], "pn_blas": ["f32", "f64"], "pn_limits": ["f32"]}
ONCE = ["cpu", "table", "pn_par", "pn_alloc", "pn_chain"]
# Integers wrap around, as NumPy's do. Unsigned detours would do so too, but gcc 12 loses terms of sums of them.
OWN_FLAGS = {"i64": ["-fwrapv"]}
CFLAGS = "-std=gnu11 -O3 -fPIC -ffp-contract=off -fno-math-errno -fvisibility=hidden -Wall -Wextra".split()


def forms():
    """{stem: the dtypes that its kernels come in}, from kernels.inc."""
    stems = {}
    for stem, kind in re.findall(
        r"^PN_KERNEL\((\w+),\s*\w+,\s*(\w+),", (ROOT / CSRC / "kernels.inc").read_text(), re.M
    ):
        stems[stem] = sorted(set(stems.get(stem, [])) | set(KINDS[kind]))
    return stems


def units(build):
    """(source, object, flags) of every translation unit of the C core."""
    for name in ONCE:
        yield CSRC / f"{name}.c", build / "once" / f"{name}.o", []
    for level, flags in LEVELS.items():
        for folder, stems in ((CSRC / "ops", forms()), (CSRC, SHARED)):
            for stem, dtypes in stems.items():
                for t in dtypes:
                    own = [f"-DPN_ISA_NAME={level}", f"-DPN_TNAME={t}", *OWN_FLAGS.get(t, [])]
                    yield folder / f"{stem}.c", build / f"{level}_{t}" / f"{stem}.o", [*flags, *own]


def stale(obj, command):
    """Whether obj is older than a file it was made from, or was made by another command."""
    note = obj.with_suffix(".cmd")
    deps = obj.with_suffix(".d")
    if not (obj.exists() and note.exists() and deps.exists()) or note.read_text() != command:
        return True
    made = obj.stat().st_mtime
    files = deps.read_text().replace("\\\n", " ").split()[1:]
    return any(not os.path.exists(f) or os.path.getmtime(f) > made for f in files)


def compiled(command):
    """The object that the command makes, its last word; made anew only where stale."""
    obj = ROOT / command[-1]
    text = " ".join(command)
    if stale(obj, text):
        obj.parent.mkdir(parents=True, exist_ok=True)
        run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
        if run.returncode:
            raise RuntimeError(f"{text}\n{run.stderr}")
        sys.stderr.write(run.stderr)
        obj.with_suffix(".cmd").write_text(text)
    return str(obj)


class BuildExt(build_ext):
    """Compiles engine and C core in parallel, then links them."""

    def build_extension(self, ext):
        link = ["-pthread"]
        if sanitize := os.environ.get("PYNN_SANITIZE"):
            link.append(f"-fsanitize={sanitize}")
        elif sys.platform == "linux":
            link.append("-Wl,--strip-debug")  # Python's own flags ask for symbols that take half of the file
        workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        with ThreadPoolExecutor(workers) as pool:
            ext.extra_objects = list(pool.map(compiled, self.commands(ext)))
        ext.sources = []  # left to setuptools, the engine would be compiled anew whenever a kernel was
        ext.depends = ext.extra_objects
        ext.extra_link_args = [*link, "-lm"]
        super().build_extension(ext)

    def commands(self, ext):
        """The compiler's calls, the longest first: the engine's, then those of the C core."""
        build = Path(os.path.relpath(self.build_temp, ROOT)) / "csrc"
        include = [f"-I{d}" for d in [*ext.include_dirs, *self.include_dirs]]
        define = [f"-D{name}={value}" for name, value in ext.define_macros]
        engine = [*self.compiler.compiler_so, *include, *define, *ext.extra_compile_args]
        yield [*engine, "-MMD", "-c", *ext.sources, "-o", str(build.parent / "engine.o")]

        cc = os.environ.get("CC", "cc").split()
        flags = [*CFLAGS, f"-I{CSRC}", *os.environ.get("CFLAGS", "").split()]
        if os.environ.get("PYNN_WERROR"):
            flags.append("-Werror")
        if sanitize := os.environ.get("PYNN_SANITIZE"):
            flags += [f"-fsanitize={sanitize}", "-fno-omit-frame-pointer", "-g", "-fno-sanitize-recover=undefined"]
        for source, obj, own in units(build):
            yield [*cc, *flags, *own, "-MMD", "-c", str(source), "-o", str(obj)]


core = Extension(
    "pynn._core.engine",
    ["pynn/_core/engine.pyx"],
    include_dirs=[str(CSRC), numpy.get_include()],
    define_macros=[("NPY_NO_DEPRECATED_API", "NPY_1_25_API_VERSION"), ("NPY_TARGET_VERSION", "NPY_1_25_API_VERSION")],
    extra_compile_args=["-std=gnu11", "-O2", "-fvisibility=hidden", "-Wno-unused-function"],
)

setup(
    ext_modules=[]
    if os.environ.get("PYNN_NO_EXT")
    else cythonize(
        [core],
        language_level=3,
        compiler_directives={
            "boundscheck": False,
            "wraparound": False,
            "cdivision": True,
            "initializedcheck": False,
            "embedsignature": True,
        },
    ),
    cmdclass={"build_ext": BuildExt},
)
