"""What the examples of networks for images find."""

import importlib.util
from pathlib import Path

import pytest

pytest.importorskip("sklearn")

FOLDER = Path(__file__).parents[1] / "examples"


def example(name):
    spec = importlib.util.spec_from_file_location(f"example_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["digits_cnn", "unet_shapes"])
def test_networks_learn(name):
    module = example(name)
    found = module.main(**module.BRIEF, progress=False)
    assert found["losses"][-1] < 0.8 * found["losses"][0]
    assert found.get("accuracy", 1) > 0.8
    assert found.get("iou", 1) > 0.4


def test_report_of_equivariance(tmp_path):
    module = example("equivariance")
    picture = tmp_path / "report.png"
    found = module.main(**{**module.BRIEF, "picture": picture}, progress=False)["report"]
    assert picture.stat().st_size > 1000
    assert found[0, 0]["invariance"] == 0
    assert max(row["equivariance"] for row in found.values()) < 1e-5
    assert found[0, 0]["accuracy"] > found[2, 2]["accuracy"]
    assert found[2, 2]["invariance"] > found[0, 1]["invariance"]
