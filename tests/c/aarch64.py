"""Cross-compiles the C core for aarch64 and runs tests/c/selftest.c under qemu-user."""

import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CSRC = ROOT / "csrc"
BUILD = ROOT / "build" / "aarch64"
CC = os.environ.get("AARCH64_CC", "aarch64-linux-gnu-gcc")
QEMU = os.environ.get("QEMU_AARCH64", "qemu-aarch64")
SYSROOT = os.environ.get("AARCH64_SYSROOT", "/usr/aarch64-linux-gnu")
CFLAGS = "-std=gnu11 -O2 -ffp-contract=off -fno-math-errno -Wall -Wextra -Werror".split()
KINDS = {"FLOATS": {"f32", "f64"}, "NUMBERS": {"f32", "f64", "i64"}, "BOOLS": {"i64"}, "ANY": {"any"}}


def units():
    """(source, object, flags) of every translation unit."""
    stems = {}
    table = (CSRC / "kernels.inc").read_text()
    for stem, kind in re.findall(r"^PN_KERNEL\((\w+),\s*\w+,\s*(\w+),", table, re.M):
        stems.setdefault(CSRC / "ops" / f"{stem}.c", set()).update(KINDS[kind])
    for source in CSRC.glob("*.c"):
        if re.search(r"\bPN_(NAME|FN)\(", source.read_text()):
            stems[source] = {"f32", "f64"}
        else:
            yield source, BUILD / f"{source.stem}.o", []
    for source, dtypes in stems.items():
        for t in sorted(dtypes):
            own = ["-fwrapv"] if t == "i64" else []
            yield source, BUILD / f"{source.stem}_{t}.o", ["-DPN_ISA_NAME=neon", f"-DPN_TNAME={t}", *own]
    yield ROOT / "tests" / "c" / "selftest.c", BUILD / "selftest.o", []


def compile_one(unit):
    source, obj, own = unit
    subprocess.run([CC, *CFLAGS, f"-I{CSRC}", *own, "-c", source, "-o", obj], check=True)
    return obj


def main():
    for tool, what in ((CC, "a cross compiler: gcc-aarch64-linux-gnu"), (QEMU, "qemu-user")):
        if not shutil.which(tool):
            sys.exit(f"make aarch64: {tool} not found; install {what}, or set AARCH64_CC, QEMU_AARCH64")
    BUILD.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compile_one, units()))
    program = BUILD / "selftest"
    subprocess.run([CC, "-pthread", *objects, "-lm", "-o", program], check=True)
    sys.exit(subprocess.run([QEMU, "-L", SYSROOT, program]).returncode)


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as e:
        sys.exit(f"make aarch64: {Path(e.cmd[0]).name} failed")
