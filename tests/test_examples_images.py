"""What the examples of networks for images find."""

import pytest
from test_examples import FOLDER, example


@pytest.mark.parametrize("name", ["digits_cnn", "unet_shapes"])
def test_networks_learn(name):
    module = example(FOLDER / f"{name}.py")
    found = module.main(**module.BRIEF, progress=False)
    assert found["history"]["loss"][-1] < 0.8 * found["history"]["loss"][0]
    assert found.get("accuracy", 1) > 0.8
    assert found.get("iou", 1) > 0.4


def test_report_of_equivariance(tmp_path):
    module = example(FOLDER / "equivariance.py")
    picture = tmp_path / "report.png"
    found = module.main(**{**module.BRIEF, "picture": picture}, progress=False)["report"]
    assert picture.stat().st_size > 1000
    assert found[0, 0]["invariance"] == 0
    assert max(row["equivariance"] for row in found.values()) < 1e-5
    assert found[0, 0]["accuracy"] > found[2, 2]["accuracy"]
    assert found[2, 2]["invariance"] > found[0, 1]["invariance"]
