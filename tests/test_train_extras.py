"""Report, exports of history, summaries, event files, the search for a rate, fits with several seeds."""

import csv
import html.parser
import json
import math
import shutil
import subprocess
import sys

import numpy as np
import pytest

import pynn
from pynn import nn, optim
from pynn.train import EarlyStopping, History, TensorBoard, Trainer, lr_find, repeat

RNG = np.random.default_rng(0)
X = RNG.standard_normal((120, 6)).astype("f4")
Y = X[:, :3].argmax(1)


def make(lr=0.1, metrics="auto", **options):
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 3))
    return Trainer(model, nn.CrossEntropyLoss(), optim.SGD(model.parameters(), lr, 0.9), metrics, **options)


# ---- history and report ----------------------------------------------------------------------------------


def test_history_goes_into_tables(tmp_path):
    h = make().fit(X, Y, epochs=3, validation_split=0.2, progress=False)
    h.csv(tmp_path / "h.csv")
    with open(tmp_path / "h.csv", newline="") as f:
        head, *rows = csv.reader(f)
    assert head == ["epoch", *h]
    assert [[float(v) for v in row[1:]] for row in rows] == [list(v) for v in zip(*h.values())]
    assert json.loads(h.json(tmp_path / "h.json")) == json.loads((tmp_path / "h.json").read_text()) == dict(h)
    odd = History()
    odd.add(loss=math.nan, auc=math.inf)
    assert json.loads(odd.json()) == {"loss": [None], "auc": [None]}
    pandas = pytest.importorskip("pandas")
    frame = h.frame()
    assert isinstance(frame, pandas.DataFrame)
    assert frame.index.tolist() == [1, 2, 3]
    assert frame["val_loss"].tolist() == h["val_loss"]


def test_frame_without_pandas_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install pandas"):
        History().frame()


class Page(html.parser.HTMLParser):
    """Notes what a page would fetch, and whether its elements are closed."""

    void = frozenset(("meta", "br", "img", "link", "hr"))

    def __init__(self, text):
        super().__init__()
        self.fetched, self.open, self.words = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        assert tag not in ("script", "link", "iframe"), tag
        self.fetched += [v for k, v in attrs if k in ("src", "href", "xlink:href") and not v.startswith(("#", "data:"))]
        if tag not in self.void:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words += data


def test_report_is_one_page_without_a_network(tmp_path):
    pytest.importorskip("matplotlib")
    t = make(metrics=["accuracy", "auc"])
    with pytest.raises(ValueError, match="no whole epoch to report"):
        t.report(tmp_path / "r.html")
    t.schedule = optim.lr_scheduler.ExponentialLR(t.optimizer, 0.9)
    t.fit(X, Y, epochs=4, validation_data=(X[:30], Y[:30]), progress=False, callbacks=[EarlyStopping(patience=0)])
    t.report(tmp_path / "r.html", (X, Y))
    page = Page((tmp_path / "r.html").read_text(encoding="utf-8"))
    assert not page.fetched
    assert not page.open
    found = t.evaluate(X, Y)["accuracy"]
    for words in ("Curves", "Confusion", f"{found:.2%} of 120 samples", "Gradient norms", "0.weight", "3.bias", "SGD",
                  "momentum=0.9", "ExponentialLR", "Linear(in_features=6", "versions.pynn", "validation"):  # fmt: skip
        assert words in page.words, words
    assert f"{t.history['loss'][-1]:.4g}" in page.words
    model = nn.Linear(6, 2)
    r = Trainer(model, nn.MSELoss(), optim.SGD(model.parameters(), 0.1))
    r.fit(X, X[:, :2], epochs=2, progress=False)
    r.report(tmp_path / "r.html", (X, X[:, :2]))
    assert "Predictions against targets" in Page((tmp_path / "r.html").read_text(encoding="utf-8")).words
    for data in (X, (X, X, X), [(X, Y)] * 3):
        with pytest.raises(TypeError, match=r"report: argument 'data': expected \(X, y\)"):
            r.report(tmp_path / "r.html", data)
    with pytest.raises(TypeError, match="expected one target, and a model with one output"):
        r.report(tmp_path / "r.html", (X, {"a": Y}))


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_report_in_a_browser(tmp_path):
    """Without a network nothing is wider than a narrow window, and pictures are drawn."""
    pytest.importorskip("matplotlib")
    Image = pytest.importorskip("PIL.Image")
    t = make(metrics=["accuracy", "auc"])
    t.fit(X, Y, epochs=4, validation_split=0.2, progress=False)
    t.report(tmp_path / "r.html", (X, Y))
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    # the probe says in colour what a picture cannot tell: whether something lies beyond its right edge
    probe = """<script>
        const wide = document.documentElement.scrollWidth > innerWidth;
        document.body.style.borderTop = "40px solid " + (wide ? "#f00" : "#0f0");
    </script>"""
    (tmp_path / "probe.html").write_text(page.replace("</body>", probe + "</body>"), encoding="utf-8")
    run = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND",
         f"--user-data-dir={tmp_path / 'profile'}", "--window-size=600,2500", f"--screenshot={tmp_path / 'r.png'}",
         (tmp_path / "probe.html").as_uri()], capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    picture = np.asarray(Image.open(tmp_path / "r.png").convert("RGB")).astype(int)
    assert picture[20, 300].tolist() == [0, 255, 0], "the page is wider than its window"
    blue = (picture[:, :, 2] - picture[:, :, 0] > 60).sum(1)  # curves of training, and the confusion's classes
    assert (blue[100:] > 0).sum() > 200


# ---- summaries -------------------------------------------------------------------------------------------


def test_summary_counts_parameters_operations_and_bytes():
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Sequential(nn.Dropout(0.5), nn.Linear(16, 3, bias=False)))
    model[2][1].weight.requires_grad = False
    model.train()
    s = model.summary((10, 6))
    assert [(r.name, r.kind, r.shape, r.parameters, r.nbytes) for r in s] == [
        ("0", "Linear", "(10, 16)", 112, 640),
        ("1", "ReLU", "(10, 16)", 0, 640),
        ("2.0", "Dropout", "(10, 16)", 0, 640),
        ("2.1", "Linear", "(10, 3)", 48, 120),
    ]
    assert s[0].flops >= 2 * 10 * 6 * 16
    assert s[3].flops == pytest.approx(2 * 10 * 16 * 3, rel=0.1)
    assert (s.parameters, s.trained, s.nbytes) == (160, 112, 2040)
    assert "160 parameters, 112 of them trained" in str(s)
    assert all(m.training for m in model.modules())
    assert not any(m._forward_hooks for m in model.modules())
    assert [r.flops for r in model.summary(X[:10])] == [r.flops for r in s]
    with pytest.raises(ValueError, match="linear"):
        model.summary((10, 7))
    assert not any(m._forward_hooks for m in model.modules())
    images = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(288, 10)).summary((2, 3, 8, 8))
    assert [r.flops for r in images] == [2 * 2 * 8 * 6 * 6 * 27, 0, 2 * 2 * 288 * 10]
    table = nn.Sequential(nn.Embedding(5, 2))
    assert table.summary(np.array([[1, 2, 3]]))[0].shape == "(1, 3, 2)"

    class Counts(nn.Module):
        def forward(self, x):
            return x * float(x.sum().item())

    assert Counts().summary((2, 2))[0].flops is None


# ---- event files -----------------------------------------------------------------------------------------


def test_event_files(tmp_path):
    pytest.importorskip("tensorboardX")
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.proto.graph_pb2 import GraphDef

    t = make()
    t.fit(X, Y, epochs=3, validation_split=0.2, progress=False, callbacks=[TensorBoard(tmp_path, histograms=2)])
    (path,) = tmp_path.iterdir()
    raw, events = path.read_bytes(), []
    while raw:  # length, its check sum, the event, its check sum
        n = int.from_bytes(raw[:8], "little")
        events.append(Event.FromString(raw[12 : 12 + n]))
        raw = raw[16 + n :]
    scalars, histograms = {}, {}
    for e in events:
        for v in e.summary.value:
            if v.HasField("histo"):
                histograms.setdefault(v.tag, []).append((e.step, v.histo))
            else:
                scalars.setdefault(v.tag, []).append(v.simple_value)
    assert scalars["loss/training"] == [float(np.float32(v)) for v in t.history["loss"]]
    assert scalars["accuracy/validation"] == [float(np.float32(v)) for v in t.history["val_accuracy"]]
    names = [n for n, _ in t.model.named_parameters()]
    assert sorted(histograms) == sorted([*(f"weights/{n}" for n in names), *(f"gradients/{n}" for n in names)])
    assert [step for step, _ in histograms["weights/0.weight"]] == [2]
    assert histograms["weights/0.weight"][0][1].num == 96
    (graph,) = [GraphDef.FromString(e.graph_def) for e in events if e.graph_def]
    assert [n.op for n in graph.node][1:] == ["linear_act", "linear"]
    with pytest.raises(ValueError, match="'histograms'"):
        TensorBoard(tmp_path, -1)


def test_event_files_of_fits_within_a_second(tmp_path):
    """Each has its own, and inputs by name are drawn as any other."""
    pytest.importorskip("tensorboardX")
    events = TensorBoard(tmp_path)
    t = make(callbacks=[events])

    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.line = nn.Linear(6, 3)

        def forward(self, a, b):
            return self.line(a) + b

    for _ in range(3):
        t.fit(X, Y, epochs=1, progress=False)
    assert len(list(tmp_path.iterdir())) == 3
    t = Trainer(Named(), nn.CrossEntropyLoss(), None)
    t.optimizer = optim.SGD(t.model.parameters(), 0.1)
    t.fit({"a": X, "b": X[:, :3]}, Y, epochs=1, progress=False, callbacks=[TensorBoard(tmp_path / "named")])
    (path,) = (tmp_path / "named").iterdir()
    assert b"linear" in path.read_bytes()


def test_event_files_need_a_package(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ImportError, match=r"pip install 'pynn-core\[tensorboard\]'"):
        TensorBoard(tmp_path)


# ---- rates and seeds -------------------------------------------------------------------------------------


def test_a_search_for_the_rate_changes_nothing():
    results = []
    for search in (False, True):
        pynn.manual_seed(0)
        t = make(lr=0.03)
        if search:
            r = lr_find(t, X, Y, batch_size=20)
            assert 1e-3 < r.suggestion < 10
            assert (np.diff(r.rates) > 0).all()
            assert len(r.rates) == len(r.losses) > 20
            assert t.steps == 0
        t.fit(X, Y, epochs=2, progress=False)
        results.append([*t.model.state_dict().values(), t.history["loss"]])
    for a, b in zip(*results, strict=True):
        np.testing.assert_array_equal(a, b)
    for bad in ({"low": 0}, {"low": 2, "high": 1}, {"steps": 3}, {"smooth": 1}):
        with pytest.raises(ValueError, match="lr_find: expected 0 < low < high"):
            lr_find(t, X, Y, **bad)


def test_a_search_weighs_samples_and_leaves_modes():
    t, w = make(), 1.0 + 9.0 * (Y == 1)
    t.model.eval()
    found = lr_find(t, [(X, Y, w)], smooth=0.0)
    assert found.losses[0] == pytest.approx(t.evaluate(X, Y, sample_weight=w)["loss"], rel=0.1)
    assert abs(found.losses[0] - t.evaluate(X, Y)["loss"]) > 0.02
    assert not any(m.training for m in t.model.modules())
    averaging = Trainer(t.model, t.loss, t.optimizer, ema=0.5)
    before = averaging.predict(X)  # by the running means
    lr_find(averaging, X, Y)
    np.testing.assert_array_equal(averaging.predict(X), before)
    with pytest.raises(ValueError, match="made without an optimizer"):
        lr_find(Trainer(t.model, t.loss), X, Y)


def test_several_seeds():
    runs = repeat(make, (1, 2, 1), X, Y, epochs=2, progress=False)
    first, second, third = (list(t.model.state_dict().values()) for t in runs.trainers)
    assert all(np.array_equal(a, b) for a, b in zip(first, third))
    assert not all(np.array_equal(a, b) for a, b in zip(first, second))
    last = [h["loss"][-1] for h in runs.histories]
    assert runs.summary()["loss"] == pytest.approx((np.mean(last), np.std(last, ddof=1)))
    assert "accuracy: " in str(runs)
    with pytest.raises(ValueError, match="'seeds': expected at least one"):
        repeat(make, ())
    with pytest.raises(TypeError, match="'make': expected a function that gives a Trainer"):
        repeat(lambda: 3, (1,))
