"""Every program of docs/lessons runs, in its short form, and shows what it says."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).parents[1] / "docs" / "lessons"
FILES = sorted(FOLDER.glob("*.py"))
pytestmark = pytest.mark.skipif(not FILES, reason="not in the source tree")


def lesson(name):
    spec = importlib.util.spec_from_file_location(f"lesson_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_backpropagation():
    """F-EX-1, F-EX-2, F-EX-4: the digits that S1 prints, those of the errata where it errs."""
    found = lesson("s1_2_backpropagation").main(short=True)
    assert round(found["neuron"]["ŷ"], 6) == 0.999089
    values = {n: round(v, 6) for n, v in found["values"].items()}
    assert values == {"z1": 2.0, "a1": 2.0, "z2": 1.1, "a2": 0.800499, "z3": 1.300998, "a3": 0.786003, "loss": 0.022897}
    assert round(found["gradients"]["w1"], 6) == -0.025859
    updated = {n: round(v, 6) for n, v in found["updated"].items()}
    assert updated == {"w1": 1.502586, "b1": -0.998707, "w2": 0.505172, "b2": 0.102586, "w3": 2.002881, "b3": -0.296401}
    assert found["product"] == [-1.0, -1.0]


def test_jacobians():
    """F-EX-3, F-AD-5: §3.6.3's gradient, which the product of the Jacobians and backpropagation both give."""
    found = lesson("s1_3_jacobians").main(short=True)
    assert found["J1"].tolist() == [[1.0, 2.0], [-0.5, 1.5]]
    assert np.round(found["J2"], 6).tolist() == [[0.016535, -0.028345], [0.000543, 0.000148]]
    for way in ("by product", "by backpropagation"):
        np.testing.assert_allclose(found[way], [-0.00287601, 0.00096332], atol=5e-9)
    np.testing.assert_allclose(found["network"], found["J3"] @ found["J2"] @ found["J1"], rtol=1e-12)


def test_dimensions():
    """F-UND-7, F-LAY-15: Tables 4.1 and 4.2, and bumps that no longer reach each other."""
    found = lesson("s1_4_dimensions").main(short=True)
    assert found["coefficients of a cubic"][100] == 176851
    assert found["cells of a grid of 10"][10] == 10**10
    errors = found["error of 200 bumps"]
    assert errors[1] < errors[2] < errors[5] < errors[20]
    assert errors[2] < 0.01 < 0.1 < errors[20]


def test_vit():
    """F-UND-9."""
    found = lesson("s1_7_vit").main(short=True)
    assert (found["Tiny/16"].attention_entries, found["Tiny/8"].attention_entries) == (116427, 1848675)
    assert found["Tiny/8"].attention_flops / found["Tiny/16"].attention_flops == (785 / 197) ** 2


def test_gradients(tmp_path):
    """F-UND-4: gradient descent zig-zags with the factor 1 − ηλ; Newton needs a few steps. F-TR-4: sigmoids vanish."""
    module = lesson("s1_5_gradients")
    found = module.main(short=True)
    ways = found["ways"]
    slow = ways["gradient descent"]
    assert (slow[1:50, 0] * slow[:49, 0] < 0).all(), "across the valley in each step"
    np.testing.assert_allclose(slow[30], [(1 - 0.019 * 100) ** 30, (1 - 0.019) ** 30], rtol=1e-9)
    steps = {way: len(points) - 1 for way, points in ways.items()}
    assert steps["Newton-CG"] <= 4 < steps["momentum"] < steps["gradient descent"]
    flows = found["flows"]
    assert flows["Sigmoid", 20].verdict == "vanishing"
    assert flows["ReLU", 20].verdict == "healthy"
    assert flows["Sigmoid", 20].ratio < flows["Sigmoid", 5].ratio ** 2
    pytest.importorskip("matplotlib")
    module.draw(found, str(tmp_path / "a.png"))


def test_double_descent(tmp_path):
    """F-UND-6: the error rises toward as many features as samples, and falls beyond; F-REG-2, F-REG-9, F-REG-7."""
    module = lesson("s1_6_regularization")
    found = module.main(short=True)
    errors = found["errors"]
    assert errors[40] > 5 * errors[15], "the peak is at interpolation"
    assert errors[640] < errors[40] / 5, "and far beyond it the error is small again"
    f = found["filters"]
    assert np.abs(f["ridge"] - f["early stopping"]).max() < 0.25
    assert (np.diff(f["ridge"]) > 0).all()
    one, two = np.abs(found["L1"]), np.abs(found["L2"])
    assert (one[3:] < 0.02).all(), "L1 makes weights vanish, up to the size of a step"
    assert (two[3:] > 0.02).any()
    pytest.importorskip("matplotlib")
    module.draw(found, str(tmp_path / "a.png"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_lessons_say_how_they_are_run(path):
    assert f"python docs/lessons/{path.name}" in path.read_text().split('"""')[1]
    assert f"`{path.name}`" in (FOLDER / "README.md").read_text()
    code = f"import runpy; runpy.run_path({str(path)!r}, run_name='imported')"
    run = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", ""), "importing it runs nothing"
