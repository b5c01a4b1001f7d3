"""benchmarks/: a workload beside another library, and the report made of it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.skipif(not (ROOT / "benchmarks").is_dir(), reason="needs the source tree")


def run(script, *args):
    command = [sys.executable, str(ROOT / "benchmarks" / script), *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


def test_steps_are_compared_timed_and_reported(tmp_path):
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")
    path = tmp_path / "steps.json"
    done = run("steps.py", "T2", "--peers", "sklearn", "--rounds", "5", "--budget", "0.01", "--json", path)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(path.read_text())["rows"]
    low, high = row["range"]
    assert low <= row["lower_quartile"] <= row["ratio"] <= high
    assert min(row["pynn_us"], row["peer_us"], row["pynn_mb"], row["peer_mb"]) > 0
    page = tmp_path / "page.md"
    done = run("report.py", "--from", tmp_path, "--out", page)
    assert done.returncode == 0, done.stderr
    assert f"| T2 | sklearn | {row['pynn_us']:.1f} µs |" in page.read_text()
    assert page.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_benchmarks_refuse_unknown_names(tmp_path):
    for script, *args in (["steps.py", "T99"], ["elementwise.py", "fly"], ["run.py", "fly"], ["optim.py", "fly"],
                          ["vision.py", "fly"]):  # fmt: skip
        done = run(script, *args)
        assert done.returncode == 2, done.stderr
        assert args[0] in done.stderr
    assert run("report.py", "--from", tmp_path).returncode == 2
