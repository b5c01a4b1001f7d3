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
    assert round(found["neuron"]["dL/dw"] * 1e6, 4) == -1.6585, "−2·(1 − ŷ)·ŷ(1 − ŷ)"
    two = {n: float(f"{v:.6g}") for n, v in found["two neurons"].items()}
    assert two == {
        "ŷ": 0.880414, "σ′(z2)": 0.105285, "dL/dŷ": -0.119586, "dL/dz2": -0.0125906, "dL/dw2": -0.0125792,
        "dL/db2": -0.0125906, "dL/da1": -0.0503626, "dL/dz1": -4.58411e-5, "dL/dw1": -9.16822e-5, "dL/db1": -4.58411e-5,
    }  # fmt: skip
    values = {n: round(v, 6) for n, v in found["values"].items()}
    assert values == {"z1": 2.0, "a1": 2.0, "z2": 1.1, "a2": 0.800499, "z3": 1.300998, "a3": 0.786003, "loss": 0.022897}
    assert {n: round(v, 6) for n, v in found["gradients"].items()} == {
        "a3": -0.213997, "z3": -0.035995, "w3": -0.028814, "b3": -0.035995, "a2": -0.071990, "z2": -0.025859,
        "w2": -0.051718, "b2": -0.025859, "a1": -0.012929, "z1": -0.012929, "w1": -0.025859, "b1": -0.012929,
    }  # fmt: skip
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


def test_experiments_with_dv7():
    """F-EX-5, F-AD-4, S1 §3.15 as printed or in the errata; by signals alone, each loss finds its target."""
    module = lesson("s1_3_jacobians")
    found = module.main(short=True)
    assert found["v7 down"][-1, :2].round(3).tolist() == [0.441, 0.523]
    assert (np.diff(found["v7 down"][:, 2]) < 0).all(), "v7 falls all the way"
    x1, x2, v = found["v7 → 0"][-1]
    assert (round(x1, 3), round(x2, 3)) == (-0.555, 0.543)
    assert abs(v) < 1e-8
    np.testing.assert_allclose(found["v7 → 1"][-1], [2.28e-5, 0.3793, 1.0], atol=5e-5)
    for name in ("v7 → 1", "v7 → 1, |v7 − t|", "v7 → 1, log-squared"):
        x1, x2, v = found[name].T
        np.testing.assert_allclose(v, x1 * np.exp(x2) + np.cos(x1 * x2), rtol=1e-14)
        assert abs(v[-1] - 1) < 5e-3
    x1, x2, v = found["v7 → 1, |v7 − t|"][0]
    slope = np.array([np.exp(x2) - x2 * np.sin(x1 * x2), x1 * np.exp(x2) - x1 * np.sin(x1 * x2)])
    step = {name: (found[name][1] - found[name][0])[:2] for name in found if name.startswith("v7")}
    np.testing.assert_allclose(step["v7 → 1, |v7 − t|"], -1e-3 * slope, rtol=1e-9)
    np.testing.assert_allclose(step["v7 → 1"], -1e-3 * (v - 1) * slope, rtol=1e-9)
    np.testing.assert_allclose(step["v7 → 1, log-squared"], -1e-3 * 2 * (v - 1) / (1 + (v - 1) ** 2) * slope, rtol=1e-9)


def test_dimensions():
    """F-UND-7, F-LAY-15: Tables 4.1 and 4.2, and bumps that no longer reach each other."""
    found = lesson("s1_4_dimensions").main(short=True)
    assert found["cells of a grid of 10"][2] == 100
    np.testing.assert_allclose([found["volume in the outer tenth"][d] for d in (5, 20)], [1 - 0.9**5, 1 - 0.9**20])
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


def test_gradients():
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
    assert found["subgradients"] == {"|x|": 0.0, "ReLU": 0.0}
    kinds = [text.split(":")[0] for text in found["surface"].values()]
    assert kinds == ["saddle", "minimum", "not stationary"]
    assert "from -1 to 1" in found["surface"]["(0.0, 0.0)"]
    assert "from 1 to 2" in found["surface"]["(1.0, 0.0)"]
    model, s = found["models"], np.array([0.1, 0.01])
    at = 0.5 + s
    np.testing.assert_allclose(model.loss, 0.25 * at**4 - 0.5 * at**2 + 0.5 * at**2, rtol=1e-12)
    np.testing.assert_allclose(model.loss - model.first, 0.375 * s**2 + 0.5 * s**3 + 0.25 * s**4, rtol=1e-9)
    np.testing.assert_allclose(model.loss - model.second, 0.5 * s**3 + 0.25 * s**4, rtol=1e-6)
    np.testing.assert_allclose(found["noise"].spread, found["noise"].expected(), rtol=0.35)
    np.testing.assert_allclose(found["rate"].rate, 0.02)
    np.testing.assert_allclose(list(found["rate"].measured.values()), [0.8, 1.2], rtol=1e-3)
    norms = found["norms"]
    assert all(row["LN: other samples"] == row["LN: inference"] == 0 for row in norms.values())
    for what in ("BN: other samples", "BN: inference"):
        assert norms[2][what] > 2 * norms[64][what] > 0, "Table 5.4: small batches are unstable"


def test_double_descent():
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
    assert found["rescaled"]["output at 1"] == (6.0, 6.0)
    assert found["rescaled"]["L2"] == (13 / 2, 18.25 / 2)
    np.testing.assert_allclose(found["rescaled"]["rescaling-invariant"], 6.0, rtol=1e-12)
    off = found["symmetries"]
    assert max(off["convolution, shifted"], off["set, reordered"]) < 1e-12 < 0.1 < off["linear layer, shifted"]
    line, good, wild = found["trade-off"].values()
    assert line.bias2 > 10 * good.bias2
    assert wild.variance > 2 * good.variance
    for s, (a, b) in zip(module.STRENGTHS, found["geometry"][2.0]):
        np.testing.assert_allclose([a, b], [8 / (4 + s), 1 / (1 + s)], atol=1e-3)
    for s, (a, b) in zip(module.STRENGTHS, found["geometry"][1.0]):
        np.testing.assert_allclose([a, b], [2 - s / 4, max(0.0, 1 - s)], atol=5e-3)
    for p in (1.5, 4.0):
        for s, w in zip(module.STRENGTHS, found["geometry"][p]):
            np.testing.assert_allclose([4, 1] * (w - [2, 1]) + s * np.abs(w) ** (p - 2) * w, 0, atol=5e-3)


def descents():
    """One and ten steps of S1 §1.3's optimizers on ½(4w₁² + w₂²) from (1, 1), in NumPy; ε within the root, 1e-8."""
    h, eps, found = np.array([4.0, 1.0]), 1e-8, {}

    def run(name, step):
        w, s, points = np.ones(2), {"m": None, "v": np.zeros(2), "a": np.zeros(2)}, []
        for t in range(1, 11):
            w = w - step(h * w, w, s, t)
            points.append(w)
        found[name] = points[0], points[9]

    def momentum(g, w, s, t):
        s["m"] = g if t == 1 else 0.9 * s["m"] + 0.1 * g
        return 0.1 * s["m"]

    def adagrad(g, w, s, t):
        s["v"] = s["v"] + g * g
        return 0.1 * g / np.sqrt(s["v"] + 1e-10)

    def rmsprop(g, w, s, t):
        s["v"] = 0.9 * s["v"] + 0.1 * g * g
        return 0.1 * g / np.sqrt(s["v"] + eps)

    def ratio(g, s, t, eps=eps):
        s["a"], s["v"] = 0.9 * s["a"] + 0.1 * g, 0.999 * s["v"] + 0.001 * g * g
        return s["a"] / (1 - 0.9**t) / np.sqrt(s["v"] / (1 - 0.999**t) + eps)

    def lamb(g, w, s, t):
        r = ratio(g, s, t, 1e-6)
        return 0.1 * np.linalg.norm(w) / np.linalg.norm(r) * r

    run("SGD", lambda g, w, s, t: 0.1 * g)
    run("Momentum", momentum)
    run("Adagrad", adagrad)
    run("RMSProp", rmsprop)
    run("Adam", lambda g, w, s, t: 0.1 * ratio(g, s, t))
    run("AdamW", lambda g, w, s, t: 0.1 * (ratio(g, s, t) + 0.1 * w))
    run("LAMB", lamb)
    return found


def test_building_blocks():
    """S1 chapter 1, every number from its formula: F-ACT-1 … 6, F-LOSS-1 … 3, 16, 4, F-OPT-1, 2, 4 … 8."""
    from scipy.special import expit
    from scipy.stats import norm

    module = lesson("s1_1_building_blocks")
    found = module.main(short=True)
    x = np.array([-10.0, -1.0, 0.0, 1.0, 10.0])
    s, t = expit(x), np.tanh(x)
    want = {
        "sigmoid": (s, s * (1 - s)), "tanh": (t, 1 - t * t), "ReLU": (np.maximum(x, 0), x > 0),
        "leaky ReLU": (np.where(x > 0, x, 0.1 * x), np.where(x > 0, 1, 0.1)),
        "GELU": (x * norm.cdf(x), norm.cdf(x) + x * norm.pdf(x)),
    }  # fmt: skip
    assert list(want) == list(found["activations"])
    for name, pair in want.items():
        np.testing.assert_allclose(found["activations"][name], pair, rtol=1e-9, atol=1e-12, err_msg=name)
    losses = {"MSE": ([0.25, 100], [1, 20]), "MAE": ([0.5, 10], [1, 1]), "Huber": ([0.125, 9.5], [0.5, 1]),
              "log-squared": (np.log([1.25, 101]), [0.8, 20 / 101])}  # fmt: skip
    assert list(losses) == list(found["losses"])
    for name, pair in losses.items():
        np.testing.assert_allclose(found["losses"][name], pair, rtol=1e-12, err_msg=name)
    p = np.exp([2.0, 1.0, -1.0]) / np.exp([2.0, 1.0, -1.0]).sum()
    np.testing.assert_allclose(found["softmax"], p, rtol=1e-6)
    np.testing.assert_allclose(found["p − y"], p - [1, 0, 0], rtol=1e-6)
    for name, (one, ten) in descents().items():
        np.testing.assert_allclose(found["ways"][name][[1, 10]], [one, ten], rtol=1e-7, err_msg=name)
    assert max(found["tables"].values()) < 1e-15


def test_neural_computation():
    """S0: F-AD-1, F-AD-2, F-REG-6 as noise, F-INIT-1 … 3, and the collapse of linear layers."""
    module = lesson("s0_neural_computation")
    found = module.main(short=True)
    unit = found["unit"]
    assert unit["on the boundary"] == 0.5
    np.testing.assert_allclose([unit["along w"], unit["against w"]], [1 / (1 + np.exp(-1)), 1 / (1 + np.exp(1))])
    collapse = found["collapse"]
    assert collapse["Identity"] < 1e-14 < 0.1 < min(collapse["Tanh"], collapse["ReLU"])
    assert found["graph"] == {"df/dv6": 18.0, "df/dv5": 10.0, "df/dv3": 38.0, "df/dx": 228.0}
    assert found["cost"]["parameters"] == 2 * 64 * 65 + 65
    assert found["cost"]["forward and backward, in forward passes"] < 100, "and not a pass a parameter"
    assert found["loops"] > 1
    for p, row in found["dropout"].items():
        assert abs(row["mean over masks"] - row["and the ridge"]) < 4 * row["its standard error"], p
        assert row["mean over masks"] > row["without dropout"] + 4 * row["its standard error"], p
    rng = np.random.default_rng(0)
    x, w, noise = rng.standard_normal((20, 5)), rng.standard_normal(5), rng.standard_normal(20)
    np.testing.assert_allclose(found["dropout"][0.8]["and the ridge"], noise @ noise + 4 * np.sum((x * w) ** 2))
    scales = {name: sizes[-1] / sizes[0] for name, sizes in found["scales"].items()}
    assert 0.5 < scales["He, ReLU"] < 2
    np.testing.assert_allclose(scales["orthogonal, no activation"], 1, rtol=1e-5)
    np.testing.assert_allclose(np.log2(scales["Xavier, ReLU"]) / 9, -0.5, atol=0.1)  # half the variance a layer
    assert scales["N(0, 0.01²), ReLU"] < 1e-8


def test_mathematical_treatment():
    """S3, its equations in NumPy against pynn; the gradient of §3.1 as printed is wrong by the factor N."""
    module = lesson("s3_mathematical_treatment")
    found = module.main(short=True)
    wrong = found["apart"]["½MSE"].pop("ŷ − y")
    assert wrong > 0.1
    assert [len(rows) for rows in found["apart"].values()] == [4, 1, 2, 2, 3, 3, 2]
    for name, rows in found["apart"].items():
        assert max(rows.values()) < 1e-14, (name, rows)
    assert list(found["sizes"].values()) == [(28, 28), (12, 12), (112, 112), (2, 2)]
    edge = found["images"]["Y = X * K"]
    assert (edge.min(), edge.max(), edge.sum()) == (-3, 3, 0)


def test_derivations():
    """S4: F-AD-9, F-TR-4, F-AD-8, F-ACT-1 … 4, F-LOSS-4; deltas by hand."""
    module = lesson("s4_derivations")
    found = module.main(short=True)
    assert found["chain"] == {"by pynn": 66.0, "18x + 30": 66.0}
    assert len(found["deltas"]) == 4
    assert max(found["deltas"].values()) < 1e-15
    assert {name: largest for name, (largest, _) in found["slopes"].items()} == {
        "ReLU": 1, "sigmoid": 0.25, "tanh": 1, "leaky ReLU": 1,
    }  # fmt: skip
    assert max(off for _, off in found["slopes"].values()) < 1e-15
    p = 1 / (1 + np.exp(-2))
    np.testing.assert_allclose(found["loss"]["∂L/∂z"], [p, -p, 0], rtol=1e-6)
    np.testing.assert_allclose(found["loss"]["L"], np.log(1 + np.exp(2)), rtol=1e-6)
    for w, flow in found["flows"].items():
        np.testing.assert_allclose([x.gradient for x in flow.layers], w ** np.arange(5.0, -1, -1), rtol=1e-9)
    assert found["flops"] == {"forward": 128 * 234752, "backward": 256 * 234752 - 128 * 784 * 256}
    memory = found["memory"]
    assert (memory["without recording"], memory["gradients that differ"]) == (0, 0)
    assert memory["plain"] == 16 * 32 * 4 * 7, "the input and what each tanh gave"
    assert memory["checkpointed"] == 16 * 32 * 4 * 2, "the inputs of the second and third block"


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_every_lesson_has_a_picture(path, tmp_path):
    """As `make docs` draws them; the long forms are for people."""
    pytest.importorskip("matplotlib")
    module = lesson(path.stem)
    module.draw(module.main(short=True), str(tmp_path / "a.png"))
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_lessons_say_how_they_are_run(path):
    assert f"python docs/lessons/{path.name}" in path.read_text().split('"""')[1]
    assert f"`{path.name}`" in (FOLDER / "README.md").read_text()
    code = f"import runpy; runpy.run_path({str(path)!r}, run_name='imported')"
    run = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", ""), "importing it runs nothing"
