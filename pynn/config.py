"""What pynn found on this machine and what it uses of it: threads, ISA level, BLAS, memory.

At import the number of threads is set to the smallest of what the process may use (CPU affinity), what
its cgroups grant (CPU quota, v1 and v2), and OMP_NUM_THREADS, which workers of joblib are given too.
Environment: PYNN_NUM_THREADS overrides that number, PYNN_ISA caps the ISA level, PYNN_GEMM=blas gives
matrix products to SciPy's BLAS, PYNN_CHUNK_DIV shrinks the chunks of work.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from . import _core

__all__ = [
    "config", "get_float32_precision", "get_gemm", "get_num_threads", "set_float32_precision", "set_gemm",
    "set_num_threads", "show_config", "threads", "using_gemm",
]  # fmt: skip

__version__ = "0.1.0"

_reason = ""  # why this number of threads
CGROUP_ROOT = "/sys/fs/cgroup"


# ---- threads -----------------------------------------------------------------------------------------


def _read(path: str) -> str:
    """The text of a small file, empty where there is none."""
    try:
        with open(path, "rb", buffering=0) as f:
            return f.read(4096).decode(errors="replace")
    except OSError:
        return ""


def _quota_at(folder: str) -> float | None:
    """CPUs granted by the cgroup in folder, of either version; None without a limit."""
    fields = _read(f"{folder}/cpu.max").split()
    if not fields:
        fields = [_read(f"{folder}/cpu.cfs_quota_us").strip(), _read(f"{folder}/cpu.cfs_period_us").strip()]
    try:
        quota, period = float(fields[0]), float(fields[1])
    except (IndexError, ValueError):
        return None  # "max", or no such files
    return quota / period if quota > 0 and period > 0 else None


def cgroup_quota(own: str | None = None, root: str = CGROUP_ROOT) -> float | None:
    """CPUs granted by the cgroups of this process, the smallest on the way up to the root; None without a limit.

    own: the text of /proc/self/cgroup, lines "id:controllers:path".
    """
    found = []
    for line in (_read("/proc/self/cgroup") if own is None else own).splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers:
            mounts = [root, f"{root}/unified"]
        elif "cpu" in controllers.split(","):
            mounts = [f"{root}/cpu", f"{root}/{controllers}"]
        else:
            continue
        parts = [p for p in path.split("/") if p and p != ".."]
        for mount in filter(os.path.isdir, mounts):
            for k in range(len(parts), -1, -1):
                found.append(_quota_at("/".join([mount, *parts[:k]])))
    return min((q for q in found if q is not None), default=None)


def _env_int(name: str) -> int | None:
    """A positive integer of the environment; what is none is ignored with a warning."""
    text = os.environ.get(name, "").split(",")[0].strip()  # OMP_NUM_THREADS may list one number a level
    if not text:
        return None
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        warnings.warn(f"pynn: {name}={text!r} is ignored: expected a positive integer", RuntimeWarning, stacklevel=2)
        return None
    return value


def default_threads() -> tuple[int, str]:
    """(number of threads, why)."""
    wanted = _env_int("PYNN_NUM_THREADS")
    if wanted is not None:
        return wanted, f"PYNN_NUM_THREADS={wanted}"
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    n, why = cpus, [f"affinity {cpus}"]
    quota = cgroup_quota()
    if quota is not None:
        n = min(n, max(1, int(quota)))
        why.append(f"cgroup quota {quota:g}")
    omp = _env_int("OMP_NUM_THREADS")
    if omp is not None:
        n = min(n, omp)
        why.append(f"OMP_NUM_THREADS={omp}")
    return n, f"{', '.join(why)} → {n}"


def set_num_threads(n: int) -> None:
    """Lets kernels use n threads. The results do not depend on it.

    Raises:
        TypeError: no integer. ValueError: less than 1.
    """
    global _reason
    if isinstance(n, bool) or not hasattr(n, "__index__"):
        raise TypeError(f"set_num_threads: argument 'n': expected an integer, got {type(n).__name__}")
    _core.set_num_threads(n)
    _reason = f"set_num_threads({n})"


def get_num_threads() -> int:
    """The number of threads that a kernel may use."""
    return _core.get_num_threads()


class threads:
    """A context within which kernels use n threads, in the whole process: `with pynn.threads(1): …`"""

    def __init__(self, n: int):
        self.n = n
        self._before: list[tuple[int, str]] = []

    def __enter__(self):
        self._before.append((get_num_threads(), _reason))
        try:
            set_num_threads(self.n)
        except BaseException:
            self._before.pop()
            raise
        return self

    def __exit__(self, *exc):
        global _reason
        n, why = self._before.pop()
        _core.set_num_threads(n)
        _reason = why


# ---- matrix products -----------------------------------------------------------------------------------

GEMMS = ("native", "blas")
_blas: dict[str, Any] | None = None  # the BLAS that was loaded: library, version, core, int_bits
_blas_threads: tuple[Callable, Callable] | None = None  # its functions that get and set its number of threads
_blas_threads_before: int | None = None

# By library: the functions that get and set its number of threads, and that of OpenBLAS that tells what it is
_BLAS_FUNCTIONS = [
    *(
        (f"{name}_get_num_threads{end}", f"{name}_set_num_threads{end}", f"{name}_get_config{end}")
        for name in ("scipy_openblas", "openblas")
        for end in ("", "64_")
    ),
    ("MKL_Get_Max_Threads", "MKL_Set_Num_Threads", ""),
    ("bli_thread_get_num_threads", "bli_thread_set_num_threads", ""),
]  # fmt: skip


def _load_blas() -> None:
    """Finds the BLAS of SciPy, which is imported for it, and what sets its threads."""
    global _blas, _blas_threads
    import ctypes

    try:
        from scipy.linalg import cython_blas
    except ImportError as e:
        raise ImportError(
            'set_gemm: "blas" is the BLAS that comes with SciPy, which cannot be imported: pip install scipy'
        ) from e
    found = {"library": "unknown", "version": "unknown", **((_scipy() or {}).get("blas") or {})}
    found["library"] = found.pop("name", found["library"])
    found["int_bits"] = _core.load_blas(cython_blas.__pyx_capi__)
    # names are looked up in this module and in what it was linked with, and so never in NumPy's own copy
    library = ctypes.CDLL(cython_blas.__file__)
    for get, set_, tell in _BLAS_FUNCTIONS:
        if hasattr(library, get) and hasattr(library, set_):
            _blas_threads = getattr(library, get), getattr(library, set_)
            if tell and hasattr(library, tell):
                ask = getattr(library, tell)
                ask.restype = ctypes.c_char_p
                words = ask().decode().split()
                found["library"], found["version"] = words[:2]
            break
    else:
        warnings.warn("pynn: found no way to set the threads of SciPy's BLAS; let it use one thread, lest it compete "
                      "with pynn's own", RuntimeWarning, stacklevel=4)  # fmt: skip
    _blas = found


def set_gemm(name: str) -> str:
    """Chooses what computes matrix products: "native", pynn's own kernels, or "blas", the BLAS that SciPy has.

    Under "blas" SciPy is imported, and its BLAS set to one thread, as pynn cuts large products over its own;
    "native" gives it back the threads that it had. NumPy's BLAS is another copy in the wheels, and stays as it
    is. What BLAS cannot take, such as strides in both dimensions, the native kernels compute. A BLAS may add
    in another order in another place: with it, results are not promised to repeat bit for bit.

    Returns:
        What was chosen before.

    Raises:
        ValueError: another name. ImportError: SciPy is missing, or has no BLAS that pynn knows how to call.
    """
    global _blas_threads_before
    if name not in GEMMS:
        raise ValueError(f"set_gemm: argument 'name': expected 'native' or 'blas', got {name!r}")
    before = get_gemm()
    if name == before:
        return before
    if name == "blas" and _blas is None:
        _load_blas()
    if _blas_threads is not None:
        get, set_ = _blas_threads
        if name == "blas":
            _blas_threads_before = get()
            set_(1)
        else:
            _core.use_blas(False)
            set_(_blas_threads_before)
    _core.use_blas(name == "blas")
    return before


def get_gemm() -> str:
    """What computes matrix products: "native" or "blas"."""
    return GEMMS[_core.blas_used()]


class using_gemm:
    """A context within which `name` computes matrix products, as set_gemm: `with pynn.using_gemm("blas"): …`"""

    def __init__(self, name: str):
        self.name = name
        self._before: list[str] = []

    def __enter__(self):
        self._before.append(set_gemm(self.name))
        return self

    def __exit__(self, *exc):
        set_gemm(self._before.pop())


def _gemm_config() -> dict[str, Any]:
    """Which back end computes products, and the BLAS that it is."""
    if get_gemm() == "native":
        return {"gemm": "native"}
    return {"gemm": "blas", **_blas, "threads": _blas_threads and _blas_threads[0]()}


# ---- precision -----------------------------------------------------------------------------------------

PRECISIONS = ("fast", "exact")


def set_float32_precision(name: str) -> str:
    """Chooses how float32 convolutions are computed: "fast", the default, or "exact".

    Under "fast" kernels may use algorithms with fewer multiplications and larger rounding: 3×3 convolutions of
    stride 1 are computed by Winograd's, whose largest error on normal data, and in trained networks, is at most
    1e-4 of the result's RMS (cuDNN's TF32, PyTorch's default, errs by some 1e-3). A NaN or an infinity then reaches
    up to 3 pixels further. "exact" sums the products as they are, with float32's own rounding. Which algorithm
    computes what depends on sizes alone; float64 is always exact. Plans follow the setting of the moment.

    Returns:
        What was chosen before.

    Raises:
        ValueError: another name.
    """
    if name not in PRECISIONS:
        raise ValueError(f"set_float32_precision: argument 'name': expected 'exact' or 'fast', got {name!r}")
    before = get_float32_precision()
    _core.use_exact(name == "exact")
    return before


def get_float32_precision() -> str:
    """How float32 convolutions are computed: "fast" or "exact"."""
    return PRECISIONS[_core.exact()]


def _start() -> None:
    """Applies the environment; called once, at import."""
    global _reason
    n, _reason = default_threads()
    _core.set_num_threads(n)
    div = _env_int("PYNN_CHUNK_DIV")
    if div is not None:
        _core.set_chunk_div(div)
    cap = os.environ.get("PYNN_ISA", "").strip()
    if cap:
        levels = _core.isa_levels()
        if cap in levels:
            _core.use_isa(cap)
        elif cap not in ("avx2", "avx512"):  # those are no cap where the machine has less
            warnings.warn(f"pynn: PYNN_ISA={cap!r} is ignored: expected one of {', '.join(levels)}", RuntimeWarning,
                          stacklevel=2)  # fmt: skip
    gemm = os.environ.get("PYNN_GEMM", "").strip()
    if gemm in GEMMS:
        set_gemm(gemm)
    elif gemm:
        warnings.warn(f"pynn: PYNN_GEMM={gemm!r} is ignored: expected one of {', '.join(GEMMS)}", RuntimeWarning,
                      stacklevel=2)  # fmt: skip


# ---- what there is -------------------------------------------------------------------------------------


def _blas_of(build: dict) -> dict[str, str]:
    """Name and version of the BLAS in what numpy.show_config and scipy.__config__ know."""
    blas = build.get("Build Dependencies", {}).get("blas", {})
    return {"name": str(blas.get("name", "unknown")), "version": str(blas.get("version", "unknown"))}


def _scipy() -> dict[str, Any] | None:
    """SciPy's version and BLAS, read from its files without importing it; None where it is not installed."""
    import importlib.metadata
    import importlib.util

    spec = importlib.util.find_spec("scipy")
    if spec is None or not spec.submodule_search_locations:
        return None
    path = os.path.join(spec.submodule_search_locations[0], "__config__.py")
    found: dict[str, Any] = {"version": importlib.metadata.version("scipy"), "imported": "scipy" in sys.modules}
    if os.path.exists(path):
        single = importlib.util.spec_from_file_location("_pynn_scipy_config", path)
        module = importlib.util.module_from_spec(single)
        single.loader.exec_module(module)
        found["blas"] = _blas_of(getattr(module, "CONFIG", {}))
    return found


def available_memory() -> int | None:
    """Bytes that the system could still give (MemAvailable); None where it does not say."""
    for line in _read("/proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def config() -> dict[str, Any]:
    """What pynn found and uses, as nested dicts: versions, isa, threads, blas, memory."""
    import platform

    import numpy as np

    numpy_build = np.show_config(mode="dicts") or {}
    scipy = _scipy()
    return {
        "versions": {
            "pynn": __version__,
            "python": platform.python_version(),
            "numpy": np.__version__,
            "scipy": scipy["version"] if scipy else None,
            "system": f"{platform.system()} {platform.machine()}",
        },
        "float32_precision": get_float32_precision(),
        "isa": {"level": _core.isa(), "available": _core.isa_levels()},
        "threads": {
            "n": get_num_threads(),
            "why": _reason,
            "backend": _core.par_stats()["backend"],
            "team": _core.par_stats()["team"],
        },
        "blas": {"pynn": _gemm_config(), "numpy": _blas_of(numpy_build), "scipy": scipy and scipy.get("blas")},
        "memory": {**_core.alloc_stats(), "available": available_memory()},
    }


def _mb(n: int | None) -> str:
    return "unknown" if n is None else f"{n / 2**20:,.1f} MB"


def _lines(c: dict[str, Any]) -> Iterator[str]:
    v, isa, team, blas, memory = c["versions"], c["isa"], c["threads"], c["blas"], c["memory"]
    yield f"pynn      {v['pynn']} (Python {v['python']}, NumPy {v['numpy']}, SciPy {v['scipy'] or 'not installed'})"
    yield f"system    {v['system']}"
    yield f"ISA       {isa['level']} (available: {', '.join(isa['available'])})"
    yield f"threads   {team['n']} ({team['why']}), {team['backend']}"
    yield f"float32   {c['float32_precision']}"
    of = [f"{k} {b['name']} {b['version']}" for k, b in (("NumPy", blas["numpy"]), ("SciPy", blas["scipy"])) if b]
    own = blas["pynn"]
    if own["gemm"] == "native":
        used = "own kernels"
    else:
        bits, threads = (own[k] or "unknown" for k in ("int_bits", "threads"))
        used = f"SciPy's {own['library']} {own['version']} ({bits}-bit integers, threads: {threads})"
    yield f"BLAS      pynn: {used}; found: {', '.join(of) or 'none'}"
    yield (
        f"memory    {_mb(memory['live'])} live, {_mb(memory['peak_live'])} at the peak, "
        f"{_mb(memory['cached'])} cached; {_mb(memory['available'])} available on the system"
    )


def show_config(file=None) -> None:
    """Prints what `config()` knows, to file or to standard output."""
    print("\n".join(_lines(config())), file=file)


_start()
