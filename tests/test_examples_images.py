"""The examples of networks for images run, are replayed, learn, and end in the same bits with plans and without."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sklearn")

FOLDER = Path(__file__).parents[1] / "examples"
NAMES = ("digits_cnn", "unet_shapes", "equivariance")


def example(name):
    spec = importlib.util.spec_from_file_location(f"example_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", NAMES[:2])
def test_steps_are_replayed_with_the_same_bits(name):
    module = example(name)
    mine, plain = (module.main(**module.BRIEF, compile=compiled, progress=False) for compiled in (True, False))
    assert mine["replayed"] >= 0.95 * mine["steps"]
    assert plain["replayed"] == 0
    assert mine["losses"] == plain["losses"]
    assert mine["losses"][-1] < 0.8 * mine["losses"][0]
    for key, value in plain["model"].state_dict().items():
        np.testing.assert_array_equal(mine["model"].state_dict()[key], value, err_msg=key)
    assert mine.get("accuracy", 1) > 0.8
    assert mine.get("iou", 1) > 0.4


def test_report_of_equivariance(tmp_path):
    module = example("equivariance")
    picture = tmp_path / "report.png"
    found = module.main(**{**module.BRIEF, "picture": picture}, progress=False)["report"]
    assert picture.stat().st_size > 1000
    assert found[0, 0]["invariance"] == 0
    assert max(row["equivariance"] for row in found.values()) < 1e-5
    assert found[0, 0]["accuracy"] > found[2, 2]["accuracy"]
    assert found[2, 2]["invariance"] > found[0, 1]["invariance"]


@pytest.mark.parametrize("name", NAMES)
def test_examples_say_how_they_are_run(name):
    assert f"python examples/{name}.py" in (FOLDER / f"{name}.py").read_text().split('"""')[1]
    assert f"`{name}.py`" in (FOLDER / "README.md").read_text()
