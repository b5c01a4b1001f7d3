"""BLAS as the other back end of products: what chooses it, what it is called for, that the rest stays as it is."""

import ctypes
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from conftest import FULL

import pynn
from pynn import OPS, _core, nn, tensor, testing

pytest.importorskip("scipy", reason="the BLAS is SciPy's")


@pytest.fixture(autouse=True)
def restored():
    before = pynn.get_gemm()
    yield
    pynn.set_gemm(before)


def run(code, **env):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **env})
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def threads_of(module):
    """The number of threads of the OpenBLAS that a module is linked with; None where it is another BLAS."""
    library = ctypes.CDLL(module.__file__)
    for name in ("scipy_openblas", "openblas"):
        for end in ("", "64_"):
            if hasattr(library, f"{name}_get_num_threads{end}"):
                return getattr(library, f"{name}_get_num_threads{end}")()
    return None


# ---- choosing ---------------------------------------------------------------------------------------------


def test_set_gemm_returns_what_was():
    pynn.set_gemm("native")
    assert pynn.set_gemm("blas") == "native"
    assert pynn.get_gemm() == "blas"
    assert pynn.set_gemm("blas") == "blas"
    assert pynn.set_gemm("native") == "blas"
    with pynn.using_gemm("blas"):
        assert pynn.get_gemm() == "blas"
        with pynn.using_gemm("native"):
            assert pynn.get_gemm() == "native"
        assert pynn.get_gemm() == "blas"
    assert pynn.get_gemm() == "native"


@pytest.mark.parametrize("name", ["x", "BLAS", None, 1])
def test_unknown_name(name):
    with pytest.raises(ValueError, match=r"^set_gemm: argument 'name': expected 'native' or 'blas', got "):
        pynn.set_gemm(name)


def test_show_config(capsys):
    with pynn.using_gemm("native"):
        pynn.show_config()
        assert "pynn: own kernels" in capsys.readouterr().out
        assert pynn.config()["blas"]["pynn"] == {"gemm": "native"}
    with pynn.using_gemm("blas"):
        pynn.show_config()
        found = pynn.config()["blas"]["pynn"]
        assert f"pynn: SciPy's {found['library']} {found['version']} (" in capsys.readouterr().out
        assert found["gemm"] == "blas"
        assert found["int_bits"] in (32, 64, None)


def test_environment():
    code = "import sys, pynn; print(pynn.get_gemm(), 'scipy' in sys.modules)"
    assert run(code, PYNN_GEMM="blas") == "blas True"
    assert run(code, PYNN_GEMM="native") == "native False"
    code = "import warnings; warnings.simplefilter('error'); import pynn"
    with pytest.raises(AssertionError, match="PYNN_GEMM='mkl' is ignored: expected one of native, blas"):
        run(code, PYNN_GEMM="mkl")


def test_without_scipy():
    code = """
import sys
sys.modules["scipy"] = None  # an import of it fails
import pynn
try:
    pynn.set_gemm("blas")
except ImportError as e:
    print(pynn.get_gemm(), e)
"""
    assert run(code, PYNN_GEMM="") == (
        'native set_gemm: "blas" is the BLAS that comes with SciPy, which cannot be imported: pip install scipy'
    )


SIGNATURE = "void (char *, char *, I *, I *, I *, R *, R *, I *, R *, I *, R *, R *, I *)"


@pytest.mark.parametrize(
    ("integer", "bits"),
    [("int", 32), ("int64_t", 64), ("npy_int64", 64), ("__pyx_t_5scipy_6linalg_11cython_blas_blas_int", None)],
)
def test_signatures(integer, bits):
    """The spellings of builds with integers of 32 and of 64 bits."""
    for real in ("float", "__pyx_t_5scipy_6linalg_11cython_blas_s"):
        text = SIGNATURE.replace("I", integer).replace("R", real)
        assert _core.blas_int_bits("sgemm", text) == bits
        for routine, bad in (
            ("sgemm", text.replace("char *, ", "", 1)),
            ("sgemm", text.replace(integer, "short")),
            ("sgemm", text.replace(f"{integer} *", "short *", 1)),
            ("sgemm", text.replace("void", "int", 1)),
            ("sgemv", text),
            ("dgemm", text),
        ):
            with pytest.raises(ImportError, match=f"set_gemm: scipy.linalg.cython_blas.{routine} has the signature"):
                _core.blas_int_bits(routine, bad)


def test_a_blas_without_the_routines():
    with pytest.raises(ImportError, match=r"scipy\.linalg\.cython_blas has no sgemm"):
        _core.load_blas({})


def test_threads_of_the_libraries():
    """SciPy's BLAS has one thread in this mode and its own number after it; NumPy's is not touched."""
    from numpy._core import _multiarray_umath
    from scipy.linalg import cython_blas

    if threads_of(cython_blas) is None:
        pytest.skip("SciPy's BLAS is no OpenBLAS")
    pynn.set_gemm("native")
    before, numpys = threads_of(cython_blas), threads_of(_multiarray_umath)
    with pynn.using_gemm("blas"):
        assert threads_of(cython_blas) == 1
        assert pynn.config()["blas"]["pynn"]["threads"] == 1
        if "numpy.libs" in Path("/proc/self/maps").read_text():  # a copy of its own, as in the wheels
            assert threads_of(_multiarray_umath) == numpys
    assert threads_of(cython_blas) == before


# ---- computing -----------------------------------------------------------------------------------------------


def products(rng, dtype):
    """Pairs of every layout and of sizes that BLAS takes, takes by rows, or leaves to pynn's kernels."""

    def array(*shape):
        return rng.standard_normal(shape).astype(dtype)

    yield array(5, 7), array(7, 3)
    yield array(300, 200), array(200, 500)
    yield array(7, 5).T, array(3, 7).T
    yield array(1, 700), array(700, 900)  # by gemv
    yield array(900, 700), array(700, 1)
    yield array(1, 700), array(900, 700).T
    yield array(700, 1).T, array(700, 2)[:, ::2]
    yield array(6, 8)[::2, ::2], array(8, 9)[::-2, ::3]  # strides in both dimensions
    yield array(6, 8)[::-1], array(8, 9)[:, ::-1]
    yield np.broadcast_to(array(8), (6, 8)), np.broadcast_to(array(8, 1), (8, 5))
    yield array(4, 0), array(0, 3)
    yield array(0, 4), array(4, 3)
    yield array(5, 2, 6, 4), array(2, 4, 3)
    yield array(40, 30, 20), array(40, 20, 25)
    yield array(2, 3, 4).transpose(0, 2, 1), array(3, 5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_products(dtype):
    for a, b in products(np.random.default_rng(1), dtype):
        want = a.astype(np.float64) @ b.astype(np.float64)
        with pynn.using_gemm("blas"):
            got = (pynn.from_numpy(a) @ pynn.from_numpy(b)).numpy()
        assert got.dtype == dtype
        np.testing.assert_allclose(got, want, rtol=0, atol=np.finfo(dtype).eps * 8 * (a.shape[-1] + 1))


def test_blas_does_compute():
    """In float32 its sums differ from those of pynn's kernels in some of many bits."""
    a, b = pynn.randn(200, 300), pynn.randn(300, 200)
    with pynn.using_gemm("native"):
        native = (a @ b).numpy_copy()
    with pynn.using_gemm("blas"):
        blas = (a @ b).numpy_copy()
    assert (native != blas).any()
    np.testing.assert_allclose(native, blas, atol=1e-4)


def test_nan_and_what_memory_held():
    """NaN stays NaN, and none comes from what lay in the result's memory."""
    pynn.set_gemm("blas")
    for shape in ((1, 40), (40, 1), (33, 40)):
        junk = tensor(np.full((shape[0], 50), np.nan, np.float32))
        del junk  # its memory is the result's
        a = np.ones(shape, np.float32)
        b = np.ones((shape[1], 50), np.float32)
        assert ((tensor(a) @ tensor(b)).numpy() == shape[1]).all()
        a[0, 0] = np.nan
        y = (tensor(a) @ tensor(b)).numpy()
        assert np.isnan(y[0]).all()
        assert not np.isnan(y[1:]).any()


def test_large_products_are_cut_over_the_team():
    pynn.set_gemm("blas")
    a, b = pynn.randn(256, 256), pynn.randn(256, 512)
    with pynn.threads(2):
        _core.par_stats(reset=True)
        y = a @ b
        assert _core.par_stats()["regions"] == 1
    np.testing.assert_allclose(y.numpy(), a.numpy() @ b.numpy(), atol=1e-3)


@pytest.mark.parametrize("op", list(OPS) if FULL else [OPS.matmul, OPS.linear, OPS.linear_act], ids=lambda op: op.name)
def test_ops(op):
    """The checks of the ops hold under it too, but for the promise of equal bits for any number of threads."""
    if any(s[0].endswith("_list") for s in op.in_specs):
        pytest.skip("an op of lists")
    pynn.set_gemm("blas")
    for sample in testing.samples(op, np.random.default_rng(3)):
        for name, check in testing.CHECKS.items():
            if name != "threads":
                check(op, sample)


def test_training():
    """Losses are those of pynn's own kernels."""

    def losses():
        pynn.manual_seed(3)
        model = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 5))
        x, y = pynn.randn(96, 20), pynn.randint(0, 5, (96,))
        from pynn import optim

        opt = optim.Adam(model.parameters(), lr=1e-2)
        found = []
        for _ in range(20):
            opt.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            opt.step()
            found.append(loss.item())
        return found

    native = losses()
    with pynn.using_gemm("blas"):
        blas = losses()
    assert blas[-1] < 0.5 * blas[0]
    np.testing.assert_allclose(blas, native, rtol=1e-3)


def test_callers_and_children():
    """Products from four Python threads at once, and in a forked child."""
    pynn.set_gemm("blas")
    a, b = pynn.randn(128, 300), pynn.randn(300, 256)
    want = (a @ b).numpy_copy()
    found = []
    callers = [threading.Thread(target=lambda: found.extend((a @ b).numpy_copy() for _ in range(20))) for _ in range(4)]
    for t in callers:
        t.start()
    for t in callers:
        t.join()
    assert len(found) == 80
    for y in found:
        np.testing.assert_allclose(y, want, atol=1e-4)
    code = """
import os, pynn, numpy as np
pynn.set_gemm("blas")
a, b = pynn.randn(256, 300), pynn.randn(300, 512)
want = (a @ b).numpy_copy()
child = os.fork()
if child == 0:
    ok = np.allclose((a @ b).numpy(), want, atol=1e-4)
    os._exit(0 if ok else 1)
print(os.waitpid(child, 0)[1])
"""
    assert run(code, PYNN_NUM_THREADS="2") == "0"
