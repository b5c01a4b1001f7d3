"""Every program in examples/ runs, is replayed, and computes the same bits with plans and without."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sklearn")

FOLDER = Path(__file__).parents[1] / "examples"
FILES = sorted(FOLDER.glob("*.py"))
REPLAYED = 0.95  # of the steps, at least


def example(path):
    spec = importlib.util.spec_from_file_location(f"example_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def trainers_of(found):
    return found["trainers"] if "trainers" in found else [found["trainer"]]


def test_there_are_examples():
    assert {"digits", "pendulum", "tabular", "words"} <= {p.stem for p in FILES}
    listed = (FOLDER / "README.md").read_text()
    assert all(f"`{p.name}`" in listed for p in FILES), "examples/README.md lists them all"


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_steps_are_replayed_with_the_same_bits(path):
    module = example(path)
    runs = [module.main(**module.BRIEF, compile=compiled, progress=False) for compiled in (True, False)]
    assert all(isinstance(found, dict) for found in runs)
    mine, plain = map(trainers_of, runs)
    for a, b in zip(mine, plain, strict=True):
        assert a.steps == b.steps >= 100, f"{a.steps} steps: BRIEF is too short to tell"
        assert b.replayed == 0
        assert a.replayed >= REPLAYED * a.steps, f"{a.replayed} of {a.steps} steps were replayed"
        for (name, x), y in zip(a.model.state_dict().items(), b.model.state_dict().values(), strict=True):
            np.testing.assert_array_equal(x, y, err_msg=name)


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_examples_say_how_they_are_run(path):
    text = path.read_text()
    assert f"python examples/{path.name}" in text.split('"""')[1]
    code = f"import runpy; runpy.run_path({str(path)!r}, run_name='imported')"
    run = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", ""), "importing it runs nothing"
