"""What users give to fit and its like beside the ordinary, and what is left behind where something fails."""

import copy
import sys
import tracemalloc

import numpy as np
import pytest
from test_trainer_options import X, Y, close, fit, trainer_of, weights

import pynn
from pynn import nn, optim
from pynn.data import BalancedSampler, DataLoader
from pynn.files import read, write
from pynn.nn import Standardize
from pynn.train import Callback, EarlyStopping, Trainer
from pynn.train.progress import Progress

# ---- arrays ------------------------------------------------------------------------------------------------


def test_frames_of_several_dtypes():
    """pandas gives objects for bools beside floats and for dtypes that know NA."""
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": X[:, 0], "b": X[:, 1] > 0, "c": pandas.array(Y, dtype="Int64"), "d": X[:, 3]})
    plain = np.column_stack([X[:, 0], X[:, 1] > 0, Y, X[:, 3]])
    labels = pandas.Series(Y, dtype="Int64")
    close(fit(trainer_of(), frame, labels), fit(trainer_of(), plain, Y), 0)
    layers = [Standardize(4).fit(a) for a in (frame, plain)]
    np.testing.assert_array_equal(layers[0](pynn.tensor(X)).numpy(), layers[1](pynn.tensor(X)).numpy())
    frame.loc[7, "c"] = pandas.NA
    with pytest.raises(ValueError, match=r"expected finite numbers, got nan at X\[7, 2\]"):
        fit(trainer_of(), frame, Y)
    frame["c"] = pandas.Categorical(["x"] * len(X))
    with pytest.raises(TypeError, match="expected real numbers, got dtype object"):
        fit(trainer_of(), frame, Y)


def test_masks_are_refused():
    with pytest.raises(TypeError, match="argument 'X': expected an array without a mask, got MaskedArray"):
        fit(trainer_of(), np.ma.masked_array(X, X > 1), Y)


def test_a_split_of_a_memory_map_stays_on_the_disk(tmp_path):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "x.npy", rng.standard_normal((100_000, 64)).astype("f4"))
    x, y = np.load(tmp_path / "x.npy", mmap_mode="r"), rng.integers(0, 3, 100_000)
    model = nn.Linear(64, 3)
    wide = Trainer(model, nn.CrossEntropyLoss(), optim.SGD(model.parameters(), 0.1))
    tracemalloc.start()
    try:
        t = fit(wide, x, y, epochs=0, validation_split=0.3)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * y.nbytes, "the orders of rows, and no copy of X"
    loader = DataLoader((x, y), 1000, True, rows=np.arange(10, 2000, 3), generator=pynn.Generator(1))
    seen = np.concatenate([b.numpy() for _, b in loader])
    assert sorted(seen) == sorted(y[10:2000:3])
    assert len(loader) == 1
    in_order = DataLoader((x, y), 100, rows=[3, 1, 2])
    assert [b.tolist() for _, b in in_order] == [y[[3, 1, 2]].tolist()]
    assert np.array_equal(in_order.first(2)[0].numpy(), x[[3, 1]])
    with pytest.raises(IndexError, match=r"'rows': expected rows 0 <= row < 3, got 0 to 3"):
        DataLoader(np.zeros(3), rows=[0, 3])
    assert t.run.split is not None


class Order:
    """A sampler that gives what it is told."""

    def __init__(self, order, n=60):
        self.n, self.given = n, order

    def __len__(self):
        return self.n

    def order(self, rng):
        return self.given


def test_samplers_that_do_not_fit_are_refused():
    rows = np.arange(60)
    close(fit(trainer_of(), X, Y, sampler=Order(rows.tolist())), fit(trainer_of(), X, Y), 0)
    cases = (
        (Order(rows + 1), IndexError, r"expected rows 0 <= row < 60, got 1 to 60"),
        (Order(rows - 1), IndexError, r"got -1 to 58"),
        (Order(rows[:20]), ValueError, "expected an order of its length, 60, got 20 rows"),
        (Order(rows * 1.0), ValueError, "expected integers in one dimension, got float64"),
        (BalancedSampler(np.concatenate([Y, Y])), IndexError, "expected rows 0 <= row < 60"),
    )
    for sampler, kind, text in cases:
        with pytest.raises(kind, match=text):
            fit(trainer_of(), X, Y, sampler=sampler)
    with pytest.raises(ValueError, match="no sampler, which counts all samples"):
        fit(trainer_of(), X, Y, sampler=BalancedSampler(Y), validation_split=0.2)


def test_lists_of_batches():
    cut = [(X[k : k + 20], Y[k : k + 20]) for k in (0, 20, 40)]
    want = fit(trainer_of(), X, Y)
    for batches in (cut, [list(b) for b in cut], [{"x": x, "y": y} for x, y in cut]):
        t = fit(trainer_of(), batches, validation_data=batches)
        close(t, want, 0)
        assert t.evaluate(batches) == want.evaluate(X, Y, 20)
    with pytest.raises(TypeError, match="argument 'y': expected an array"):
        fit(trainer_of(), X.tolist())
    with pytest.raises(ValueError, match="validation_split sets samples of arrays aside: expected y"):
        fit(trainer_of(), cut, validation_split=0.5)
    with pytest.raises(ValueError, match=r"batch 1: expected at least one sample, got none \(X has shape \(0, 4\)\)"):
        fit(trainer_of(), [cut[0], (X[:0], Y[:0])])
    assert fit(trainer_of(), X.tolist(), Y.tolist(), validation_data=[X.tolist(), Y.tolist()]).history.epochs == 2


def test_predict_refuses_what_are_no_samples():
    t = trainer_of()
    with pytest.raises(TypeError, match="expected arrays, got DataLoader: it batches them by itself"):
        t.predict(DataLoader(X, 5))
    with pytest.raises(ValueError, match=r"a row for each of 4 samples, got shape \(3,\)"):
        t.predict(X[0])


def test_weights_of_yes_and_no_and_their_names():
    model = nn.Linear(4, 1)
    state = copy.deepcopy(model.state_dict())
    found = []
    for weights_of in ({"class_weight": {1: 3.0}}, {"sample_weight": np.where(Y == 1, 3.0, 1.0)}):
        model.load_state_dict(state)
        t = Trainer(model, nn.BCEWithLogitsLoss(), optim.SGD(model.parameters(), 0.1))
        found.append(weights(fit(t, X, (Y == 1)[:, None], **weights_of)))
    np.testing.assert_array_equal(*found)
    with pytest.raises(ValueError, match="argument 'class_weight': expected numbers >= 0"):
        fit(trainer_of(), X, Y, class_weight={0: -1.0})


def test_metrics_that_give_no_number():
    def nothing(y, found):
        return None

    with pytest.raises(TypeError, match="metric 'nothing': expected a number, got None"):
        fit(trainer_of(metrics=[nothing]), X, Y)


# ---- callbacks ---------------------------------------------------------------------------------------------


class Failing(Callback):
    """Raises once, before the others are called."""

    priority = -1

    def __init__(self, point):
        self.failed = False
        setattr(self, point, self.fail)

    def fail(self, run):
        if run.step >= 2 and not self.failed:
            self.failed = True
            raise RuntimeError("once")


class Noting(Callback):
    def __init__(self):
        self.seen = []

    def on_batch_end(self, run):
        self.seen.append(("batch", run.epoch, run.loss))

    def on_step_end(self, run):
        self.seen.append(("step", run.step))

    def on_epoch_end(self, run):
        self.seen.append(("epoch", run.epoch))


@pytest.mark.parametrize("point", ["on_epoch_begin", "on_batch_end", "on_step_end", "on_epoch_end", "on_fit_end"])
def test_an_error_of_one_callback_costs_the_others_nothing(point):
    want = Noting()
    t = fit(trainer_of(), X, Y, callbacks=[want])
    t = trainer_of()
    noting, failing = Noting(), Failing(point)
    with pytest.raises(RuntimeError, match="once"):
        fit(t, X, Y, callbacks=[noting, failing])
    t.resume(X, Y, progress=False)
    assert noting.seen == want.seen


def test_early_stopping_begins_anew_with_each_fit():
    stopping = EarlyStopping("loss", patience=1, min_delta=10.0)
    t = trainer_of(callbacks=[stopping])
    for _ in range(2):
        fit(t, X, Y, epochs=9)
        assert (t.run.epoch, stopping.best_epoch) == (3, 1)
        assert stopping.best == t.history["loss"][0]


def test_a_fit_that_never_began_changes_nothing():
    t = trainer_of()
    noting = Noting()
    with pytest.raises(RuntimeError, match="once"):
        fit(t, X, Y, callbacks=[noting, Failing("on_step_end")])
    with pytest.raises(ValueError, match="got nan at"):
        fit(t, np.full_like(X, np.nan), Y)
    t.resume(X, Y, progress=False)
    assert noting.seen[-1] == ("epoch", 2), "the callbacks are those of the run that goes on"


# ---- checkpoints -------------------------------------------------------------------------------------------


def whole(t):
    """Everything that load changes."""
    found = dict(t.model.state_dict())
    for k, state in t.optimizer.state_dict()["state"].items():
        found.update({f"optimizer.{k}.{name}": np.asarray(v) for name, v in state.items()})
    for k, p in enumerate(t.model.parameters()):
        found[f"grad.{k}"] = np.zeros(0) if p.grad is None else p.grad.numpy_copy()
    found["rng"] = np.array(pynn.default_generator.get_state().tolist())
    found["numbers"] = np.array([t.steps, t.optimizer.param_groups[0]["lr"], t.schedule.last_epoch])
    return found


def adam_of(schedule=optim.lr_scheduler.StepLR, optimizer=optim.Adam):
    pynn.manual_seed(4)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    made = optimizer(model.parameters(), lr=0.02)
    return Trainer(model, nn.CrossEntropyLoss(), made, accumulate=3, schedule=schedule(made, 2))


def test_a_checkpoint_that_does_not_fit_changes_nothing(tmp_path):
    """Whatever its state says, with a good check sum: ValueError, and the trainer is as it was."""
    t = adam_of()

    def on_batch_end(run):
        if run.batch == 4:  # amid a step
            raise RuntimeError

    amid = Callback()
    amid.on_batch_end = on_batch_end
    with pytest.raises(RuntimeError):
        fit(t, X, Y, epochs=3, batch_size=7, callbacks=[EarlyStopping("loss"), amid])
    t.save(tmp_path / "run")
    tensors, form = read(tmp_path / "run", "checkpoint")
    assert {name.partition(".")[0] for name in tensors} == {"model", "optimizer", "rng", "pending"}
    before, run = whole(t), t.run

    def refused(tensors, form):
        write(tmp_path / "broken", "checkpoint", tensors, form)
        with pytest.raises(ValueError, match=r"^load: .*broken' does not fit this Trainer"):
            t.load(tmp_path / "broken")
        now = whole(t)
        assert t.run is run
        for name, value in before.items():
            np.testing.assert_array_equal(now[name], value, err_msg=name)

    for name in form:
        if name != "config":
            refused(tensors, {k: v for k, v in form.items() if k != name})
    for name in ("model", "optimizer", "parts", "run", "rng", "best"):
        for value in (5, "x", [], {"dict": []}):
            if (name, value) != ("best", {"dict": []}):
                refused(tensors, {**form, name: value})
    for name in tensors:
        refused({k: v for k, v in tensors.items() if k != name}, form)
        if tensors[name].ndim:
            refused({**tensors, name: np.zeros((5, 2), tensors[name].dtype)}, form)
    t.load(tmp_path / "run")
    assert t.run is not run


def test_another_optimizer_or_schedule_is_refused(tmp_path):
    t = fit(adam_of(), X, Y)
    t.save(tmp_path / "run")
    with pytest.raises(ValueError, match="whose schedule was StepLR, got CosineAnnealingLR"):
        adam_of(optim.lr_scheduler.CosineAnnealingLR).load(tmp_path / "run")
    with pytest.raises(ValueError, match="whose optimizer was Adam, got RMSprop"):
        adam_of(optimizer=optim.RMSprop).load(tmp_path / "run")
    adam_of().load(tmp_path / "run")


def test_the_best_weights_have_a_prefix_of_their_own(tmp_path):
    t = fit(trainer_of(), X, Y, callbacks=[EarlyStopping("loss")])
    t.save(tmp_path / "run")
    tensors, _ = read(tmp_path / "run", "checkpoint")
    assert {name.partition(".")[0] for name in tensors} >= {"model", "rng", "best"}
    np.testing.assert_array_equal(tensors["best.0.model.0.weight"], t.model.state_dict()["0.weight"])


# ---- progress ----------------------------------------------------------------------------------------------


class Shell:
    """What IPython's shell of a notebook is called."""

    ZMQInteractiveShell = type("ZMQInteractiveShell", (), {})

    @classmethod
    def get_ipython(cls):
        return cls.ZMQInteractiveShell()


class Bar:
    """A notebook's bar that notes what it is told."""

    made: list = []

    def __init__(self, **options):
        self.options, self.n, self.texts, self.open = options, options["initial"], [], True
        self.made.append(self)

    def set_description_str(self, text, refresh):
        self.texts.append(text)

    set_postfix_str = set_description_str

    def update(self, n):
        self.n += n

    def close(self):
        self.open = False


def test_notebooks_get_their_bar_and_a_run_that_goes_on_its_place(monkeypatch):
    import tqdm.auto

    monkeypatch.setitem(sys.modules, "IPython", Shell)
    monkeypatch.setattr(tqdm.auto, "tqdm", Bar)
    t = trainer_of()
    with pytest.raises(RuntimeError):
        fit(t, X, Y, epochs=3, progress=True, validation_data=(X, Y), callbacks=[Failing("on_epoch_begin"), At(4)])
    t.resume(X, Y, (X, Y))
    first, second = Bar.made
    assert (first.options["total"], first.options["unit"]) == (9, "step")
    assert first.n == second.options["initial"] == 3
    assert second.n == 9
    assert not first.open
    assert not second.open
    assert any("loss=" in text and "val_accuracy=" in text for text in second.texts)
    assert "epoch 3/3" in second.texts


class At(Callback):
    """Nothing; a run has two callbacks."""

    def __init__(self, n):
        self.n = n


def test_no_progress_is_no_bar():
    shown = Progress(False, 2, 3)
    shown.epoch(1)
    shown.close()
    assert shown._bar is None
