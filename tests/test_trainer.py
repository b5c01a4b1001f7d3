"""Trainer, DataLoader, History, weights in files: what they do, and what they say to bad input."""

import contextlib
import copy
import os
import subprocess
import sys
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

import pynn
from pynn import nn
from pynn.data import DataLoader, TensorDataset
from pynn.train import History, Trainer, load_state, save_state


def blobs(n=120, seed=0):
    """Three classes of points in four dimensions, easy to tell apart."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, n)
    return (rng.standard_normal((n, 4)) + 4 * np.eye(3, 4)[y]).astype(np.float32), y


def classifier(seed=0, **kwargs):
    pynn.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 3))
    return Trainer(model, nn.CrossEntropyLoss(), pynn.optim.Adam(model.parameters(), lr=0.02), **kwargs)


def weights(trainer):
    return list(trainer.model.state_dict().values())


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


X, Y = blobs()


# ---- fit, evaluate, predict ----------------------------------------------------------------------------


def test_fit_learns_and_reports():
    t = classifier()
    before = t.evaluate(X, Y)
    h = t.fit(X, Y, epochs=8, validation_data=blobs(50, 1), progress=False)
    after = t.evaluate(X, Y)
    assert list(h) == ["loss", "accuracy", "val_loss", "val_accuracy", "seconds"]
    assert {len(v) for v in h.values()} == {h.epochs} == {8}
    assert after["loss"] < 0.3 * before["loss"]
    assert after["accuracy"] > 0.95
    assert t.predict(X).shape == (120, 3)
    assert after["accuracy"] == (t.predict(X).argmax(1) == Y).mean()


def test_same_seed_same_bits():
    runs = []
    for seed in (1, 1, 2):
        t = classifier(seed)
        t.fit(X, Y, epochs=2, progress=False)
        runs.append(weights(t))
    assert same(runs[0], runs[1])
    assert not same(runs[0], runs[2])


def test_own_seed_fixes_the_order():
    start = classifier().model.eval()
    runs = []
    for seed in (5, 5, 6):
        model = copy.deepcopy(start)
        model[2].p = 0.0
        t = Trainer(model, nn.CrossEntropyLoss(), pynn.optim.SGD(model.parameters(), lr=0.1), seed=seed)
        t.fit(X, Y, epochs=1, progress=False)
        runs.append(weights(t))
    assert same(runs[0], runs[1])
    assert not same(runs[0], runs[2])


def test_loss_and_accuracy_are_averages_over_samples():
    t = classifier()
    scores = t.predict(X[:50]).astype(float)
    log_p = scores - np.log(np.exp(scores).sum(1, keepdims=True))
    got = t.evaluate(X[:50], Y[:50], batch_size=32)  # batches of 32 and 18
    assert got["loss"] == pytest.approx(-log_p[np.arange(50), Y[:50]].mean(), rel=1e-5)
    assert got["accuracy"] == (scores.argmax(1) == Y[:50]).mean()
    soft = t.evaluate(X[:50], np.eye(3)[Y[:50]])
    assert soft == pytest.approx(got, rel=1e-5)
    ignored = np.where(np.arange(50) < 40, Y[:50], -100)
    assert t.evaluate(X[:50], ignored)["accuracy"] == (scores.argmax(1) == Y[:50])[:40].mean()
    total = Trainer(t.model, nn.CrossEntropyLoss(reduction="sum"))
    assert total.evaluate(X[:50], Y[:50], batch_size=32)["loss"] == pytest.approx(got["loss"], rel=1e-5)


def test_predict_is_eval_without_recording_and_restores_each_mode():
    t = classifier()
    t.model[2].p = 0.9
    t.model[0].eval()
    modes = [m.training for m in t.model.modules()]
    assert len(X) % 6 != 1  # a row alone is added up in another order
    assert np.array_equal(t.predict(X), t.predict(X, batch_size=6))
    assert [m.training for m in t.model.modules()] == modes == [True, False, True, True, True]
    t.model.register_forward_hook(lambda m, args, out: pytest.fail("recorded") if out.requires_grad else None)
    t.predict(X)

    def broken(*_):
        raise KeyError("mine")

    t.model.register_forward_hook(broken)
    with pytest.raises(KeyError, match="mine"):
        t.predict(X)
    assert [m.training for m in t.model.modules()] == modes
    assert pynn.is_grad_enabled()


def test_fit_goes_on_where_it_was():
    t = classifier()
    t.fit(X, Y, epochs=3, progress=False)
    first = t.fit(X, Y, epochs=1, progress=False)["loss"][0]
    assert first < classifier().fit(X, Y, epochs=1, progress=False)["loss"][0]
    kept = weights(t)
    assert t.fit(X, Y, epochs=0, progress=False) == {}
    assert same(kept, weights(t))


def test_unshuffled_is_in_order():
    class Seen(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter([0.0])
            self.rows = []

        def forward(self, x):
            if self.training:
                self.rows.append(np.asarray(x)[:, 0].tolist())
            return x * self.w

    model = Seen()
    x = np.arange(5.0)[:, None]
    t = Trainer(model, nn.MSELoss(), pynn.optim.SGD(model.parameters(), lr=0.1), compile=False)  # it reads x
    t.fit(x, x, epochs=1, batch_size=2, shuffle=False, progress=False)
    assert model.rows == [[0, 1], [2, 3], [4]]
    model.rows.clear()
    t.fit(x, x, epochs=2, batch_size=2, progress=False)
    first, second = list(chain(*model.rows[:3])), list(chain(*model.rows[3:]))
    assert sorted(first) == sorted(second) == [0, 1, 2, 3, 4]


def test_regression_and_own_metrics():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((64, 2))
    y = x @ [[1.0], [-2.0]] + 0.5
    pynn.manual_seed(0)
    model = nn.Linear(2, 1)

    def largest(output, target):
        return abs(output - target).max()

    t = Trainer(model, nn.MSELoss(), pynn.optim.SGD(model.parameters(), lr=0.1), metrics=[largest])
    h = t.fit(x, y, epochs=30, progress=False)
    assert set(h) == {"loss", "largest", "seconds"}
    assert h["largest"][-1] < 1e-2
    assert np.allclose(np.asarray(model.weight.detach()), [[1, -2]], atol=1e-2)
    assert set(Trainer(model, nn.MSELoss()).evaluate(x, y)) == {"loss"}
    assert set(classifier(metrics=None).evaluate(X, Y)) == {"loss"}
    with pytest.raises(ValueError, match="metric 'accuracy' needs a loss of classification, got MSELoss"):
        Trainer(model, nn.MSELoss(), metrics=("accuracy",))
    with pytest.raises(ValueError, match=r"expected names of accuracy, .*, or functions, got 'f2'"):
        Trainer(model, nn.MSELoss(), metrics="f2")


def test_binary_classification():
    x, y = blobs()
    pynn.manual_seed(0)
    model = nn.Linear(4, 1)
    target = (y == 0)[:, None]  # bools: numbers to this loss
    t = Trainer(model, nn.BCEWithLogitsLoss(), pynn.optim.Adam(model.parameters(), lr=0.1))
    assert t.fit(x, target, epochs=10, progress=False)["accuracy"][-1] > 0.9
    whole = t.evaluate(x, target.astype(int))
    assert whole == t.evaluate(x, target)
    assert Trainer(nn.Sequential(model, nn.Sigmoid()), nn.BCELoss()).evaluate(x, target) == pytest.approx(
        whole, rel=1e-4
    )


def test_own_loss_function():
    model = nn.Linear(4, 3)

    def loss(output, labels):
        assert labels.dtype == np.int64
        return nn.functional.cross_entropy(output, labels)

    h = Trainer(model, loss, pynn.optim.SGD(model.parameters(), lr=0.1)).fit(X, Y, epochs=2, progress=False)
    assert h["loss"][1] < h["loss"][0]


# ---- the door --------------------------------------------------------------------------------------------


def unaligned(x):
    raw = np.empty(x.nbytes + 1, np.uint8)[1:].view(x.dtype).reshape(x.shape)
    raw[:] = x
    return raw


def readonly(x):
    x = x.copy()
    x.flags.writeable = False
    return x


X_INT = np.random.default_rng(3).integers(0, 100, (40, 4))
FORMS = {
    "float64": lambda x: x.astype(np.float64),
    "float16": lambda x: x.astype(np.float16),
    "longdouble": lambda x: x.astype(np.longdouble),
    "int64": lambda x: x,
    "int8": lambda x: x.astype(np.int8),
    "uint8": lambda x: x.astype(np.uint8),
    "uint16": lambda x: x.astype(np.uint16),
    "byte-swapped": lambda x: x.astype(">f4"),
    "byte-swapped int": lambda x: x.astype(">i4"),
    "fortran": lambda x: np.asfortranarray(x.astype(np.float32)),
    "strided": lambda x: np.repeat(x.astype(np.float32), 2, axis=1)[:, ::2],
    "reversed": lambda x: x.astype(np.float32)[::-1][::-1],
    "read-only": lambda x: readonly(x.astype(np.float32)),
    "unaligned": lambda x: unaligned(x.astype(np.float32)),
    "list": lambda x: x.tolist(),
    "tensor": lambda x: pynn.tensor(x.astype(np.float32)),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shuffle", [False, True])
def test_any_real_array_is_the_same_to_fit_and_predict(form, shuffle):
    results = []
    for x, y in ((X_INT.astype(np.float32), Y[:40]), (FORMS[form](X_INT), Y[:40].astype(">i2"))):
        t = classifier()
        t.fit(x, y, epochs=2, batch_size=16, shuffle=shuffle, progress=False)
        results.append([*weights(t), t.predict(x), np.array(list(t.evaluate(x, y).values()))])
    assert same(*results)


def test_model_of_float64():
    t = classifier()
    t.model.double()
    t.fit(X, Y, epochs=1, progress=False)
    assert t.predict(X).dtype == np.float64


def test_bool_inputs():
    t = classifier()
    assert np.array_equal(t.predict(X > 0), t.predict((X > 0).astype(np.float32)))


def test_predict_of_nothing():
    y = classifier().predict(np.zeros((0, 4)))
    assert y.shape == (0, 3)
    assert y.dtype == np.float32


BAD = {
    "nan": (lambda x, y: (set_at(x, (3, 2), np.nan), y), ValueError,
            r"fit: argument 'X': expected finite numbers, got nan at X\[3, 2\]$"),
    "infs": (lambda x, y: (set_at(x, ([3, 4], 2), -np.inf), y), ValueError,
             r"got -inf at X\[3, 2\] \(2 such values in all\)"),
    "too large": (lambda x, y: (set_at(x.astype(float), (3, 2), 1e300), y), ValueError,
                  r"got 1e\+300 at X\[3, 2\], which float32 cannot hold"),
    "nan target": (lambda x, y: (x, set_at(np.eye(3)[y], (1, 0), np.nan)), ValueError,
                   r"argument 'y': expected finite numbers, got nan at y\[1, 0\]"),
    "lengths": (lambda x, y: (x, y[:-1]), ValueError, "fit: expected X and y of one length, got 120 and 119 samples"),
    "text": (lambda x, y: (x.astype(str), y), TypeError, "argument 'X': expected real numbers, got dtype <U"),
    "objects": (lambda x, y: (x.astype(object), y), TypeError, "got dtype object; np.asarray"),
    "complex": (lambda x, y: (x.astype(complex), y), TypeError, "got dtype complex128"),
    "dates": (lambda x, y: (x, np.array(["2020-01-01"] * 120, "M8[D]")), TypeError, "'y'.* got dtype datetime64"),
    "ragged": (lambda x, y: ([[1.0], [1.0, 2.0]], y[:2]), ValueError, "'X': expected numbers in a rectangular array"),
    "number": (lambda x, y: (3.0, y), ValueError, "'X'.*got a single number"),
    "empty": (lambda x, y: (x[:0], y[:0]), ValueError, r"expected at least one sample, got none .*\(0, 4\)"),
    "features": (lambda x, y: (x[:, :3], y), ValueError, r"linear: .*I=3"),
    "label high": (lambda x, y: (x, set_at(y, 70, 3)), IndexError,
                   r"fit: argument 'y': expected labels 0 <= y < 3, got 3 at y\[70\]"),
    "label low": (lambda x, y: (x, set_at(y, 71, -1)), IndexError, r"got -1 at y\[71\]"),
    "label huge": (lambda x, y: (x, set_at(y.astype(np.uint64), 0, 2**63)), ValueError, "labels that int64 holds"),
    "classes": (lambda x, y: (x, np.eye(4)[y]), ValueError,
                r"'y': expected integer labels, or .* output, \(N, 3\), got floats of shape \(N, 4\)"),
    "labels as floats": (lambda x, y: (x, y / 1), ValueError, r"expected integer labels.*got floats of shape \(N\)"),
    "labels' shape": (lambda x, y: (x, np.stack([y, y], 1)), ValueError, r"cross_entropy: .*\(2, 2\)"),
}  # fmt: skip


def set_at(a, where, value):
    a = a.copy()
    a[where] = value
    return a


@pytest.mark.parametrize("case", BAD)
def test_bad_data_raises_before_the_first_step(case):
    make, error, text = BAD[case]
    t = classifier()
    before = weights(t)
    with pytest.raises(error, match=text):
        t.fit(*make(X, Y), progress=False)
    with pytest.raises(error):
        t.evaluate(*make(X, Y))
    assert same(before, weights(t))
    with pytest.raises(error, match=r"validation|linear|cross_entropy"):
        t.fit(X, Y, validation_data=make(X, Y), progress=False)
    assert same(before, weights(t))
    assert t.model.training


def test_other_bad_arguments():
    t = classifier()
    with pytest.raises(ValueError, match=r"predict: argument 'X'.*nan at X\[0, 0\]"):
        t.predict([[np.nan] * 4])
    with pytest.raises(ValueError, match="'batch_size': expected an integer >= 1, got 0"):
        t.fit(X, Y, batch_size=0)
    with pytest.raises(ValueError, match=r"'epochs': expected an integer >= 0, got 1\.5"):
        t.fit(X, Y, epochs=1.5)
    with pytest.raises(TypeError, match=r"'validation_data': expected \(X, y\), got ndarray"):
        t.fit(X, Y, validation_data=X)
    with pytest.raises(ValueError, match=r"samples of X of shape \(4,\), got \(3,\)"):
        t.fit(X, Y, validation_data=(X[:, :3], Y))
    with pytest.raises(ValueError, match="without an optimizer"):
        Trainer(t.model, t.loss).fit(X, Y)
    with pytest.raises(ValueError, match="holds none of the model's parameters"):
        Trainer(copy.deepcopy(t.model), t.loss, t.optimizer).fit(X, Y)
    with pytest.raises(ValueError, match="one number, got shape"):
        Trainer(t.model, nn.CrossEntropyLoss(reduction="none"), t.optimizer).fit(X, Y)
    with pytest.raises(TypeError, match="'model': expected a Module, got function"):
        Trainer(lambda x: x, t.loss)
    with pytest.raises(TypeError, match="'loss': expected a loss or a function, got str"):
        Trainer(t.model, "mse")
    with pytest.raises(TypeError, match="'optimizer': expected an optimizer, got str"):
        Trainer(t.model, t.loss, "adam")


def test_target_that_would_broadcast_is_refused():
    model = nn.Linear(4, 1)
    t = Trainer(model, nn.MSELoss(), pynn.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(ValueError, match=r"expected y of the shape of the model's output, \(N, 1\), got \(N\)"):
        t.fit(X, X[:, 0], progress=False)


def test_divergence_stops_with_the_last_finite_parameters():
    model = nn.Linear(4, 1)
    t = Trainer(model, nn.MSELoss(), pynn.optim.SGD(model.parameters(), lr=1e6))
    with pytest.raises(FloatingPointError, match=r"fit: the loss became (inf|nan) in epoch \d+, step \d+"):
        t.fit(X, X[:, :1], epochs=50, progress=False)
    assert all(np.isfinite(w).all() for w in weights(t))


# ---- batches -----------------------------------------------------------------------------------------------


def test_loader_shapes_and_memory():
    a, b = np.arange(10.0), np.arange(20, dtype=np.int16).reshape(10, 2)
    loader = DataLoader((a, b), batch_size=4)
    assert len(loader) == 3
    batches = list(loader)
    assert [x.shape for x, _ in batches] == [(4,), (4,), (2,)]
    assert batches[0][1].dtype == np.int32
    assert batches[0][0].numpy().ctypes.data == loader.dataset.arrays[0].ctypes.data
    assert len(list(DataLoader((a, b), batch_size=4, drop_last=True))) == 2
    assert len(DataLoader(a, batch_size=4, drop_last=True)) == 2
    assert [x.tolist() for (x,) in DataLoader(TensorDataset(a), batch_size=5)] == [a[:5].tolist(), a[5:].tolist()]
    assert list(DataLoader(a[:0], batch_size=4)) == []
    assert [c.tolist() for c in TensorDataset(a, b)[3]] == [3.0, [6, 7]]


def test_loader_shuffles_by_its_generator():
    a = np.arange(100)
    orders = []
    for seed in (1, 1, 2):
        loader = DataLoader((a, -a), batch_size=7, shuffle=True, generator=pynn.Generator(seed))
        rows = [(x.tolist(), y.tolist()) for x, y in loader]
        assert all(p == [-v for v in q] for p, q in rows)
        orders.append(list(chain(*(p for p, _ in rows))))
        assert sorted(orders[-1]) == a.tolist()
        assert list(chain(*(x.tolist() for x, _ in loader))) != orders[-1]  # the next epoch has another order
    assert orders[0] == orders[1] != orders[2]


def test_loader_errors():
    with pytest.raises(ValueError, match=r"expected arrays of one length, got \[3, 2\]"):
        DataLoader((np.zeros(3), np.zeros(2)))
    with pytest.raises(ValueError, match="at least one array"):
        TensorDataset()
    for bad in (0, -1, 2.0, True, "4"):
        with pytest.raises(ValueError, match="'batch_size': expected an integer >= 1"):
            DataLoader(np.zeros(3), batch_size=bad)
    with pytest.raises(TypeError, match="array 0: expected real numbers"):
        DataLoader(np.array(["a"]))


# ---- history, files, imports -------------------------------------------------------------------------------


def test_history_plot(tmp_path):
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    h = History()
    with pytest.raises(ValueError, match="no epoch to draw"):
        h.plot()
    for k in range(3):
        h.add(loss=1 / (k + 1), accuracy=k / 3, val_loss=2 / (k + 1), val_accuracy=k / 4, seconds=0.1)
    figure = h.plot(tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert [ax.get_ylabel() for ax in figure.axes] == ["loss", "accuracy"]
    assert [[line.get_label() for line in ax.lines] for ax in figure.axes] == [["training", "validation"]] * 2
    assert figure.axes[1].lines[1].get_ydata().tolist() == h["val_accuracy"]
    ax = Figure().subplots()
    assert h.plot(ax) is ax.figure
    assert ax.lines[0].get_ydata().tolist() == h["loss"]
    assert ax.get_yscale() == "linear"
    h.add(loss=0.01, accuracy=1.0, val_loss=0.02, val_accuracy=1.0, seconds=0.1)
    assert [a.get_yscale() for a in h.plot(tmp_path / "curves.svg").axes] == ["log", "linear"]


def test_plot_without_matplotlib_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    h = History()
    h.add(loss=1.0)
    with pytest.raises(ImportError, match=r"pip install 'pynn-core\[plot\]'"):
        h.plot()


def test_weights_go_through_a_file(tmp_path):
    path = tmp_path / "model.safetensors"
    a, b = classifier(1), classifier(2)
    save_state(a.model, path, {"epoch": "3"})
    assert [f.name for f in tmp_path.iterdir()] == ["model.safetensors"]
    b.model.load_state_dict(load_state(path))
    assert same(weights(a), weights(b))
    odd = {"t": np.arange(6.0).reshape(2, 3).T, "s": np.float64(3), "i": np.arange(4)[::-2], "b": np.array([True])}
    save_state(odd, path)
    back = load_state(path)
    assert all(np.array_equal(back[k], odd[k]) and back[k].dtype == odd[k].dtype for k in odd)
    assert {k: v.shape for k, v in back.items()} == {k: np.shape(v) for k, v in odd.items()}
    (tmp_path / "text").write_text("hello")
    with pytest.raises(ValueError, match="no safetensors file"):
        load_state(tmp_path / "text")
    with pytest.raises(FileNotFoundError):
        load_state(tmp_path / "absent")
    with pytest.raises(TypeError, match="expected a Module or a dict of arrays, got list"):
        save_state([1], path)


def test_progress_shows_figures(capsys):
    classifier().fit(X, Y, epochs=2, validation_data=(X, Y))
    text = capsys.readouterr().err
    for part in ("epoch 2/2", "4/4 steps", "steps/s", "s left", "loss=", "accuracy=", "val_loss=", "val_accuracy="):
        assert part in text
    classifier().fit(X, Y, epochs=1, progress=False)
    assert capsys.readouterr().err == ""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="makes a terminal")
def test_a_terminal_gets_a_bar():
    import pty

    code = f"""
import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_trainer import X, Y, classifier
classifier().fit(X, Y, epochs=300, validation_data=(X, Y))
"""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, "-c", code])
    text = b""
    with contextlib.suppress(OSError):  # how a terminal ends
        while part := os.read(terminal, 65536):
            text += part
    assert os.waitpid(pid, 0)[1] == 0, text.decode()
    drawn = text.decode().replace("\n", "\r").split("\r")
    assert len(drawn) > 2
    last = [line for line in drawn if line.strip()][-1]
    for words in ("epoch 300/300", "100%", "1200/1200", "step/s", "loss=", "accuracy="):
        assert words in last, last


def test_training_imports_neither_scipy_nor_matplotlib():
    code = """
import sys
import numpy as np
import pynn
from pynn import nn
X, y = np.ones((320, 4)), np.arange(320) % 3
model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))
trainer = pynn.train.Trainer(model, nn.CrossEntropyLoss(), pynn.optim.Adam(model.parameters()))
trainer.fit(X, y, epochs=1)
trainer.predict(X)
print(sorted({m.partition(".")[0] for m in sys.modules} & {"scipy", "matplotlib", "sklearn", "pandas", "torch"}))
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout == "[]\n"
