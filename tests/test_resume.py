"""A run that was interrupted anywhere and gone on with equals one that never was, bit for bit."""

import contextlib
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

import pynn
from pynn import nn, optim
from pynn.data import DataLoader
from pynn.train import Callback, Checkpoint, EarlyStopping, Trainer

RNG = np.random.default_rng(0)
X = RNG.standard_normal((90, 6)).astype("f4")
Y = (X[:, :3] + 0.5 * RNG.standard_normal((90, 3))).argmax(1)
X_VAL, Y_VAL = X[:30] + 0.1, Y[:30]
IDS = RNG.integers(0, 40, (90, 5))


class Stop(Exception):
    pass


class StopAt(Callback):
    """Raises after so many batches."""

    def __init__(self, batches):
        self.left = batches

    def on_batch_end(self, run):
        self.left -= 1
        if self.left == 0:
            raise Stop

    priority = 500


class Counting(Callback):
    """A callback with state of its own."""

    def __init__(self):
        self.seen = []

    def on_batch_end(self, run):
        self.seen.append(run.loss)

    def state_dict(self):
        return {"seen": self.seen}

    def load_state_dict(self, state):
        self.seen = state["seen"]


def dense(seed):
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Dropout(0.3), nn.LayerNorm(16), nn.Linear(16, 3)), X


def sparse(seed):
    return nn.Sequential(nn.EmbeddingBag(40, 8, sparse=True, mode="sum"), nn.Dropout(0.2), nn.Linear(8, 3)), IDS


def trainer_of(kind="dense", accumulate=1, every="epoch", seed=3, compile=True):
    pynn.manual_seed(seed)
    model, _ = {"dense": dense, "sparse": sparse}[kind](seed)
    optimizer = optim.Adam(model.parameters(), lr=0.02) if kind == "dense" else optim.SGD(model.parameters(), 0.1, 0.9)
    schedule = {
        "step": lambda: optim.lr_scheduler.OneCycleLR(optimizer, 0.05, 60),
        "epoch": lambda: optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0),
    }[every]()
    return Trainer(
        model, nn.CrossEntropyLoss(), optimizer, ["accuracy", "f1", "auc", "top2"], schedule=schedule,
        schedule_every=every, accumulate=accumulate, max_norm=1.0, ema=0.9 if kind == "dense" else None,
        compile=compile,
    )  # fmt: skip


def callbacks_of():
    return [EarlyStopping(patience=3), Counting()]


FIT = {"epochs": 4, "batch_size": 10, "validation_data": None, "progress": False}


def fit_options(kind):
    val = X_VAL if kind == "dense" else IDS[:30]
    return {**FIT, "validation_data": (val, Y_VAL)}


def everything(t, counting):
    """All that must be equal in the end."""
    found = {f"model.{k}": v for k, v in t.model.state_dict().items()}
    for k, state in t.optimizer.state_dict()["state"].items():
        found.update({f"optimizer.{k}.{name}": v for name, v in state.items()})
    found.update({f"history.{k}": np.array(v) for k, v in t.history.items() if k != "seconds"})
    found["rates"] = np.array([g["lr"] for g in t.optimizer.param_groups])
    found["rng"] = np.array(pynn.default_generator.get_state().tolist())
    found["seen"] = np.array(counting.seen)
    found["steps"] = np.array([t.steps, t.run.step])
    for k, m in enumerate((t._average or {}).values()):
        found[f"average.{k}"] = m.numpy_copy()
    return found


def uninterrupted(kind, **options):
    t = trainer_of(kind, **options)
    _, x = {"dense": dense, "sparse": sparse}[kind](0)
    pynn.manual_seed(7)
    callbacks = callbacks_of()
    t.fit(x, Y, **fit_options(kind), callbacks=callbacks)
    return everything(t, callbacks[1])


def same(found, wanted):
    assert list(found) == list(wanted)
    for name in wanted:
        np.testing.assert_array_equal(found[name], wanted[name], err_msg=name)


WHOLE = 4 * 9
PLACES = {1, 9, WHOLE, *(int(v) for v in np.random.default_rng(1).choice([*range(2, 9), *range(10, 36)], 17, False))}
CASES = [("dense", 1, "epoch"), ("dense", 4, "step"), ("sparse", 1, "epoch"), ("sparse", 4, "step")]


@pytest.mark.parametrize(("kind", "accumulate", "every"), CASES)
def test_resume_equals_never_having_stopped(kind, accumulate, every, tmp_path):
    """At 20 places: amid accumulation, on the last batch of an epoch and of all; in memory, and through a file."""
    want = uninterrupted(kind, accumulate=accumulate, every=every)
    _, x = {"dense": dense, "sparse": sparse}[kind](0)
    options = fit_options(kind)
    assert len(PLACES) == 20
    for place in sorted(PLACES):
        t = trainer_of(kind, accumulate, every)
        pynn.manual_seed(7)
        callbacks = callbacks_of()
        with pytest.raises(Stop):
            t.fit(x, Y, **options, callbacks=[*callbacks, StopAt(place)])
        t.save(tmp_path / "run")
        t.resume(x, Y, options["validation_data"], False)  # in memory; StopAt is spent
        same(everything(t, callbacks[1]), want)

        other = trainer_of(kind, accumulate, every, seed=99)
        pynn.manual_seed(98)
        other.load(tmp_path / "run")
        callbacks = callbacks_of()
        other.resume(x, Y, options["validation_data"], False, callbacks=[*callbacks, StopAt(0)])
        same(everything(other, callbacks[1]), want)


def test_a_checkpoint_of_each_step_and_epoch(tmp_path):
    want = uninterrupted("dense")
    t = trainer_of()
    pynn.manual_seed(7)
    t.fit(
        X, Y, **fit_options("dense"),
        callbacks=[*callbacks_of(), Checkpoint(tmp_path / "{epoch}-{step}", every_steps=5)],
    )  # fmt: skip
    files = sorted(os.listdir(tmp_path))
    assert len(files) == 7 + 4
    for name in files:
        other = trainer_of(seed=1).load(tmp_path / name)
        callbacks = callbacks_of()
        other.resume(X, Y, (X_VAL, Y_VAL), False, callbacks=[*callbacks, Checkpoint(tmp_path / "x")])
        same(everything(other, callbacks[1]), want)
        assert (tmp_path / "x").exists() == (other.history.epochs > int(name[0]))
        (tmp_path / "x").unlink(missing_ok=True)


def test_a_run_of_batches_is_gone_on_with():
    """A DataLoader gives its order back; other iterables are gone through again."""

    class Plain:
        def __iter__(self):
            return iter([(X[k : k + 10], Y[k : k + 10]) for k in range(0, 90, 10)])

    def loader():
        return DataLoader((X, Y), 10, shuffle=True)

    for source in (loader, Plain):
        results = []
        for place in (None, 4, 13, 18):
            t = trainer_of("dense", 2, "step")
            pynn.manual_seed(7)
            callbacks = callbacks_of()[1:]
            if place is None:
                t.fit(source(), epochs=3, progress=False, callbacks=callbacks)
            else:
                with pytest.raises(Stop):
                    t.fit(source(), epochs=3, progress=False, callbacks=[*callbacks, StopAt(place)])
                t.resume(source(), progress=False)
            results.append(everything(t, callbacks[0]))
        for found in results[1:]:
            same(found, results[0])


def test_more_epochs_and_splits():
    results = []
    for parts in ((5,), (2, 5)):
        t = trainer_of()
        pynn.manual_seed(7)
        t.fit(X, Y, epochs=parts[0], batch_size=10, validation_split=0.2, progress=False)
        for n in parts[1:]:
            t.resume(X, Y, progress=False, epochs=n)
        results.append(t.history)
        assert t.history.epochs == 5
    for name in results[0]:
        assert name == "seconds" or results[0][name] == results[1][name]
    assert t.resume(X, Y, progress=False).epochs == 5, "nothing is left to do"


def test_what_does_not_fit_is_refused(tmp_path):
    t = trainer_of()
    with pytest.raises(ValueError, match="resume: there is no run to go on with"):
        t.resume(X, Y)
    with pytest.raises(Stop):
        t.fit(X, Y, **fit_options("dense"), callbacks=[StopAt(5)])
    t.save(tmp_path / "run")
    with pytest.raises(ValueError, match=r"resume: the run was trained on \[\[\[90, 6\], 'float32'\]"):
        t.resume(X[:80], Y[:80])
    other = trainer_of(seed=5)
    before = other.model.state_dict()

    def unchanged():
        return all(np.array_equal(before[k], v) for k, v in other.model.state_dict().items()) and other.run is None

    raw = (tmp_path / "run").read_bytes()
    for broken in (raw[:-1], raw[:-1] + bytes([raw[-1] ^ 1]), raw[: len(raw) // 2], b"", raw[:8]):
        (tmp_path / "broken").write_bytes(broken)
        with pytest.raises(ValueError, match="damaged"):
            other.load(tmp_path / "broken")
        assert unchanged()
    with pytest.raises(ValueError, match="does not fit Sequential"):
        trainer_of("sparse").load(tmp_path / "run")
    mute = Trainer(other.model, other.loss)
    with pytest.raises(ValueError, match="whose optimizer was Adam, got None"):
        mute.load(tmp_path / "run")
    seeded = Trainer(other.model, other.loss, other.optimizer, other.metrics, 1, schedule=other.schedule, ema=0.9)
    with pytest.raises(ValueError, match="a seed of its own"):
        seeded.load(tmp_path / "run")
    assert unchanged()
    other.load(tmp_path / "run")
    with pytest.raises(ValueError, match=r"the run had the callbacks \['StopAt'\], got \['EarlyStopping'\]"):
        other.resume(X, Y, callbacks=[EarlyStopping()])
    pynn.save(other.model, tmp_path / "model")
    with pytest.raises(ValueError, match="expected a checkpoint, got a model"):
        other.load(tmp_path / "model")


def test_a_checkpoint_holds_a_model(tmp_path):
    t = trainer_of()
    t.fit(X, Y, epochs=1, progress=False)
    t.save(tmp_path / "run")
    model = pynn.load(tmp_path / "run")
    assert repr(model) == repr(t.model)
    np.testing.assert_array_equal(model.session().predict(X), t.model.session().predict(X))


def test_other_kernels_warn(tmp_path, settings):
    if len(pynn._core.isa_levels()) < 2:
        pytest.skip("one ISA level")
    t = trainer_of()
    t.fit(X, Y, epochs=1, progress=False)
    t.save(tmp_path / "run")
    pynn._core.use_isa(next(level for level in pynn._core.isa_levels() if level != pynn._core.isa()))
    with pytest.warns(RuntimeWarning, match=r"was written by pynn .* kernels.*bits will differ"):
        t.load(tmp_path / "run")


# ---- interruptions ---------------------------------------------------------------------------------------


@pytest.fixture
def listening():
    """Python's own handler of Ctrl-C, also where the tests run in the background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_ends_the_batch_and_the_run_goes_on(listening):
    want = uninterrupted("dense", accumulate=4, every="step")
    for place in (1, 6, 9, 20, 36):
        t = trainer_of("dense", 4, "step")
        pynn.manual_seed(7)
        callbacks = callbacks_of()

        class Press(Callback):
            n = 0

            def on_batch_end(self, run, place=place):
                self.n += 1
                if self.n == place:
                    os.kill(os.getpid(), signal.SIGINT)

        with pytest.raises(KeyboardInterrupt, match=r"between two batches; trainer.resume"):
            t.fit(X, Y, **fit_options("dense"), callbacks=[*callbacks, Press()])
        assert t.run.epoch * 9 + t.run.batch == place
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        t.resume(X, Y, (X_VAL, Y_VAL), False)
        same(everything(t, callbacks[1]), want)


def test_a_second_ctrl_c_raises_at_once():
    code = """
import os, signal, time, numpy as np, pynn
from pynn import nn
signal.signal(signal.SIGINT, signal.default_int_handler)
class Slow(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 1)
    def forward(self, x):
        if self.training:
            print("in", flush=True)
            time.sleep(30)
        return self.layer(x)
m = Slow()
t = pynn.train.Trainer(m, nn.MSELoss(), pynn.optim.SGD(m.parameters()), compile=False)
try:
    t.fit(np.ones((4, 2)), np.ones((4, 1)), progress=False)
except KeyboardInterrupt:
    print("out", t.run.batch)
"""
    with subprocess.Popen([sys.executable, "-u", "-c", code], stdout=subprocess.PIPE, text=True) as p:
        assert p.stdout.readline() == "in\n"
        p.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            p.wait(0.3)
        assert p.poll() is None, "the first one waits for the batch"
        p.send_signal(signal.SIGINT)
        assert p.stdout.read() == "out 0\n"


def test_errors_in_data_leave_a_run_that_goes_on():
    class Broken:
        fail = True

        def __iter__(self):
            for k in range(0, 90, 10):
                if k == 50 and self.fail:
                    self.fail = False
                    raise OSError("the disk is gone")
                yield X[k : k + 10], Y[k : k + 10]

    results = []
    for fail in (False, True):
        source = Broken()
        source.fail = fail
        t = trainer_of("dense", 2, "step")
        pynn.manual_seed(7)
        counting = Counting()
        if fail:
            with pytest.raises(OSError, match="the disk is gone"):
                t.fit(source, epochs=2, progress=False, callbacks=[counting])
            t.resume(source, progress=False)
        else:
            t.fit(source, epochs=2, progress=False, callbacks=[counting])
        results.append(everything(t, counting))
    same(results[1], results[0])


@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_loss_that_is_not_finite_leaves_the_last_good_state(accumulate):
    """Parameters, buffers, random state and place are those before the step; with other data the run goes on."""

    class Counter(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("mean", pynn.tensor(np.zeros(6, "f4")))
            self.layer, self.drop = nn.Linear(6, 3), nn.Dropout(0.2)

        def forward(self, x):
            if self.training:
                with pynn.no_grad():
                    self.mean.copy_(self.mean * 0.9 + x.mean(0) * 0.1)
            return self.drop(self.layer(x))

    class Rows:
        bad = True

        def __iter__(self):
            for k in range(0, 90, 10):
                yield X[k : k + 10] * (1e38 if self.bad and k == 40 else 1), Y[k : k + 10]

    def loss(y, t):
        return nn.functional.cross_entropy(y * y, t)

    results = []
    for bad in (True, False):
        pynn.manual_seed(0)
        model = Counter()
        t = Trainer(model, loss, optim.Adam(model.parameters()), None, accumulate=accumulate)
        rows = Rows()
        rows.bad = bad
        if bad:
            with pytest.raises(FloatingPointError, match=r"loss became (nan|inf) in epoch 1, step 5"):
                t.fit(rows, epochs=2, progress=False)
            assert t.run.batch == 4 // accumulate * accumulate
            assert all(np.isfinite(v).all() for v in model.state_dict().values())
            rows.bad = False
            t.resume(rows, progress=False)
        else:
            t.fit(rows, epochs=2, progress=False)
        results.append(
            {**model.state_dict(), "loss": t.history["loss"], "rng": pynn.default_generator.get_state().tolist()}
        )
    for name in results[0]:
        np.testing.assert_array_equal(results[0][name], results[1][name], err_msg=name)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_thousand_fits_leave_no_memory():
    code = """
import resource, numpy as np, pynn
from pynn import nn
def rss():
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * resource.getpagesize()
X, y = np.random.default_rng(0).standard_normal((64, 8)), np.arange(64) % 3
def fit():
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
    t = pynn.train.Trainer(model, nn.CrossEntropyLoss(), pynn.optim.Adam(model.parameters()))
    t.fit(X, y, epochs=2, validation_split=0.2, progress=False)
for _ in range(100):
    fit()
before = rss()
for _ in range(1000):
    fit()
print(rss() - before)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(run.stdout) < 2 << 20
