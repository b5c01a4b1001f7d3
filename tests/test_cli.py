"""The command line, and what pynn.config finds: threads and why, ISA level, BLAS, memory."""

import json
import math
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

import pynn
from pynn import OPS, Effect, _core, limits
from pynn.cli import bench, main
from pynn.config import cgroup_quota, default_threads


def python(*args, **env):
    """A fresh Python's (exit status, output, errors); an environment variable set to None is absent."""
    whole = {k: v for k, v in os.environ.items() if not k.startswith(("PYNN_", "OMP_"))}
    whole.update({k: v for k, v in env.items() if v is not None})
    done = subprocess.run([sys.executable, *args], capture_output=True, text=True, env=whole)
    return done.returncode, done.stdout, done.stderr


# ---- commands -----------------------------------------------------------------------------------------


def test_info():
    status, out, err = python("-m", "pynn", "info")
    assert (status, err) == (0, "")
    lines = dict(line.split(None, 1) for line in out.splitlines())
    assert list(lines) == ["pynn", "system", "ISA", "threads", "float32", "BLAS", "memory"]
    assert pynn.__version__ in lines["pynn"]
    assert "NumPy" in lines["pynn"]
    levels = lines["ISA"].partition("(available: ")[2].rstrip(")").split(", ")
    assert lines["ISA"].split()[0] == levels[-1]
    assert f"affinity {len(os.sched_getaffinity(0))}" in lines["threads"]
    assert lines["float32"] == "fast"
    assert "NumPy" in lines["BLAS"]
    assert "available on the system" in lines["memory"]


def test_info_as_json():
    status, out, _ = python("-m", "pynn", "info", "--json", OMP_NUM_THREADS="1")
    assert status == 0
    c = json.loads(out)
    assert set(c) == {"versions", "isa", "float32_precision", "threads", "blas", "memory"}
    assert c["threads"]["n"] == 1
    assert "OMP_NUM_THREADS=1 → 1" in c["threads"]["why"]
    assert c["memory"]["available"] > 0


def test_info_reads_scipy_without_importing_it():
    code = "import pynn, sys; c = pynn.config(); print(c['versions']['scipy'], 'scipy' in sys.modules)"
    pytest.importorskip("scipy")
    _, out, err = python("-c", code)
    version, imported = out.split()
    assert version[0].isdigit(), err
    assert imported == "False"


def test_unknown_and_no_command(capsys):
    for argv in ([], ["fly"], ["--help"]):
        with pytest.raises(SystemExit) as e:
            main(argv)
        assert e.value.code == (0 if "--help" in argv else 2)
        text = "".join(capsys.readouterr())
        assert "demo" in text or "command" in text


@pytest.mark.parametrize("op", [op for op in OPS if not isinstance(op, Effect)], ids=lambda op: op.name)
def test_bench_can_call_every_op(op, monkeypatch):
    """Its arguments fit the op, forward and backward."""
    monkeypatch.setattr(bench, "timed", lambda call: (call(), 1.0)[1])
    monkeypatch.setattr(bench.limits, "roofline", lambda read, written, flops: 1.0)
    for dtype in ("f4", "f8"):
        row = bench.row(op, "small", np.random.default_rng(0), np.dtype(dtype))
        assert row is None or row["bytes"] > 0


def test_bench_measures_ops(tmp_path, capsys):
    """Rows with times, and with the bytes and flops that the entry says: n for a sum, 2·M·K·N for a product."""
    path = tmp_path / "rows.json"
    assert main(["bench", "add", "matmul", "scatter_add", "--size", "small", "--json", str(path)]) == 0
    assert "of roof" in capsys.readouterr().out
    rows = {r["op"]: r for r in json.loads(path.read_text())["rows"]}
    add, matmul, scatter_add = rows["add"], rows["matmul"], rows["scatter_add"]
    (*batch, m, k), (*_, n) = matmul["shapes"]
    assert matmul["flops"] == 2 * m * k * n * math.prod(batch)
    assert add["flops"] == math.prod(add["shapes"][0])
    assert add["bytes"] == 3 * 4 * add["flops"]
    assert min(add["forward_us"], add["forward_backward_us"], scatter_add["forward_us"]) > 0
    assert all(r["share"] == pytest.approx(r["roofline_us"] / r["forward_us"]) for r in rows.values())
    assert min(r["roofline_us"] for r in rows.values()) > 0


def test_limits_of_the_machine():
    """Rates that no kernel exceeds: 256³ multiply-adds, and arrays beside those that are read and written alone."""
    a = pynn.ones((256, 256))
    start = time.perf_counter()
    for _ in range(5):
        a @ a
    rate = 5 * 2 * 256**3 / (time.perf_counter() - start)
    assert rate / 2 < limits.peak_flops() < 1e15
    assert limits.peak_flops("base" if "base" in _core.isa_levels() else "neon") > 1e8
    assert 1e8 < limits.bandwidth(2, 1, 1 << 16) < 1e14
    assert [limits.nearest_mix(8, 4), limits.nearest_mix(0, 4)] == [(2, 1), (0, 1)]
    assert limits.roofline(8e6, 4e6, 0) > limits.roofline(0, 0, 1e3) > 0
    assert _core.limit_region(2) > 0


@pytest.mark.parametrize("args", [(5, 1, 64, 1), (0, 0, 64, 1), (1, 1, 0, 1), (1, 1, 64, 0), (1, 1, 64, 1, "fast")])
def test_limits_of_the_machine_refuse(args):
    with pytest.raises(ValueError, match="limit_stream: expected"):
        _core.limit_stream(*args)
    with pytest.raises(ValueError, match="expected an ISA level"):
        _core.limit_fma("mmx", 1)


def test_demo_makes_its_files(tmp_path, capsys):
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")
    assert main(["demo", "--out", str(tmp_path), "--epochs", "2", "--quiet"]) == 0
    out = capsys.readouterr().out
    assert "Test accuracy: " in out
    assert "of 450 scans" in out
    assert "model = pynn.load(" in out
    assert sorted(f.name for f in tmp_path.iterdir()) == ["confusion.png", "curves.png", "model.safetensors"]
    for name in ("confusion.png", "curves.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    model = pynn.load(tmp_path / "model.safetensors")
    assert model[0].weight.shape == (256, 64)
    assert model.session().predict(np.zeros((3, 64))).shape == (3, 10)


@pytest.mark.parametrize("missing", ["sklearn", "matplotlib"])
def test_demo_without_its_extra_names_it(missing, monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, missing, None)
    assert main(["demo", "--out", str(tmp_path / "x")]) == 1
    assert "pip install 'pynn-core[demo]'" in capsys.readouterr().out
    assert not (tmp_path / "x").exists()


# ---- threads --------------------------------------------------------------------------------------------


def write(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text + "\n")


def test_quota_of_cgroup_v2(tmp_path):
    write(tmp_path / "a" / "b", cpu__max="max 100000")
    assert cgroup_quota("0::/a/b", str(tmp_path)) is None
    write(tmp_path / "a", cpu__max="150000 100000")
    assert cgroup_quota("0::/a/b", str(tmp_path)) == 1.5
    write(tmp_path / "a" / "b", cpu__max="50000 100000")
    assert cgroup_quota("0::/a/b", str(tmp_path)) == 0.5
    assert cgroup_quota("0::/../a/absent", str(tmp_path)) == 1.5
    write(tmp_path, cpu__max="20000 100000")  # in a container the own group is the root
    assert cgroup_quota("0::/elsewhere", str(tmp_path)) == 0.2
    assert cgroup_quota("", str(tmp_path)) is None


def test_quota_of_cgroup_v1(tmp_path):
    own = "9:name=systemd:/\n4:memory:/pod\n1:cpu,cpuacct:/pod/job\n0::/"
    write(tmp_path / "cpu,cpuacct" / "pod", cpu__cfs_quota_us="-1", cpu__cfs_period_us="100000")
    assert cgroup_quota(own, str(tmp_path)) is None
    write(tmp_path / "cpu,cpuacct" / "pod", cpu__cfs_quota_us="250000")
    assert cgroup_quota(own, str(tmp_path)) == 2.5
    assert cgroup_quota(own.replace("cpu,cpuacct", "cpuset"), str(tmp_path)) is None
    write(tmp_path / "cpu,cpuacct" / "pod", cpu__cfs_quota_us="words")
    assert cgroup_quota(own, str(tmp_path)) is None


def test_default_is_the_smallest_limit(monkeypatch):
    module = sys.modules["pynn.config"]  # pynn.config itself is the function
    for name in ("PYNN_NUM_THREADS", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setattr(module, "cgroup_quota", lambda: None)
    assert default_threads() == (8, "affinity 8 → 8")
    monkeypatch.setattr(module, "cgroup_quota", lambda: 1.5)
    assert default_threads() == (1, "affinity 8, cgroup quota 1.5 → 1")
    monkeypatch.setattr(module, "cgroup_quota", lambda: 0.2)
    assert default_threads()[0] == 1
    monkeypatch.setattr(module, "cgroup_quota", lambda: 6.0)
    monkeypatch.setenv("OMP_NUM_THREADS", "3,2")
    assert default_threads() == (3, "affinity 8, cgroup quota 6, OMP_NUM_THREADS=3 → 3")
    monkeypatch.setenv("PYNN_NUM_THREADS", "16")
    assert default_threads() == (16, "PYNN_NUM_THREADS=16")
    monkeypatch.setenv("PYNN_NUM_THREADS", "many")
    with pytest.warns(RuntimeWarning, match="PYNN_NUM_THREADS='many' is ignored: expected a positive integer"):
        assert default_threads()[0] == 3


def test_environment_at_import():
    code = "import pynn; c = pynn.config(); print(c['threads']['n'], c['isa']['level'], pynn._core.get_chunk_div())"
    _, out, _ = python("-c", code, PYNN_NUM_THREADS="3", PYNN_CHUNK_DIV="64", PYNN_ISA=pynn._core.isa_levels()[0])
    assert out.split() == ["3", pynn._core.isa_levels()[0], "64"]
    _, out, err = python("-c", code, PYNN_ISA="sse9", OMP_NUM_THREADS="0")
    assert out.split()[1] == pynn._core.isa_levels()[-1]
    assert "PYNN_ISA='sse9' is ignored" in err
    assert "OMP_NUM_THREADS='0' is ignored" in err
    assert python("-c", code, PYNN_ISA="avx512")[2] == ""


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two CPUs")
def test_affinity_is_respected():
    code = """
    import os
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    import pynn
    print(pynn.get_num_threads(), pynn.config()["threads"]["why"])
    """
    assert python("-c", textwrap.dedent(code))[1].split(None, 1)[0] == "1"


def test_set_threads_and_context(capsys):
    pynn.set_num_threads(2)
    with pynn.threads(3) as outer:
        assert pynn.get_num_threads() == 3
        with pynn.threads(1), outer:
            assert pynn.get_num_threads() == 3
        assert pynn.get_num_threads() == 3
    assert pynn.get_num_threads() == 2
    pynn.show_config()
    assert "2 (set_num_threads(2))" in capsys.readouterr().out
    for bad in (0, -1):
        with pytest.raises(ValueError, match="set_num_threads: argument 'n': expected at least 1"):
            pynn.set_num_threads(bad)
    for bad in (1.5, "2", True, None):
        with pytest.raises(TypeError, match="set_num_threads: argument 'n': expected an integer"):
            pynn.set_num_threads(bad)
    with pytest.raises(ValueError, match="expected at least 1"), pynn.threads(0):
        pass
    assert pynn.get_num_threads() == 2


# ---- the package ----------------------------------------------------------------------------------------


def test_version_is_that_of_the_distribution():
    text = (Path(__file__).parent.parent / "pyproject.toml").read_text()
    assert f'\nversion = "{pynn.__version__}"\n' in text


def test_parts_are_loaded_when_asked_for():
    code = """
    import sys
    import pynn
    heavy = {"pynn.nn", "pynn.train", "pynn.optim", "pynn.data", "tqdm", "scipy", "matplotlib", "safetensors"}
    print(sorted(heavy & set(sys.modules)))
    assert {"nn", "optim", "train", "data", "tensor"} <= set(dir(pynn))
    pynn.nn.Linear, pynn.train.Trainer, pynn.optim.SGD, pynn.data.DataLoader
    try:
        pynn.nonsense
    except AttributeError as e:
        print(e)
    """
    out = python("-c", textwrap.dedent(code))[1]
    assert out == "[]\nmodule 'pynn' has no attribute 'nonsense'\n"
