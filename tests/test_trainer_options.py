"""What fit takes, and what each option of the Trainer means: weights, accumulation, clipping, schedules, metrics."""

import itertools
import math

import numpy as np
import pytest

import pynn
from pynn import nn, optim
from pynn.data import BalancedSampler, DataLoader, SequenceLoader, WeightedRandomSampler, class_weights, pad_sequences
from pynn.train import Callback, EarlyStopping, Metric, Trainer

RNG = np.random.default_rng(0)
X = RNG.standard_normal((60, 4)).astype("f4")
Y = (X[:, :3] + 0.3 * RNG.standard_normal((60, 3))).argmax(1)


def model_of(*sizes, seed=0):
    pynn.manual_seed(seed)
    layers = []
    for a, b in itertools.pairwise(sizes):
        layers += [nn.Linear(a, b), nn.Tanh()]
    return nn.Sequential(*layers[:-1])


def trainer_of(loss=None, metrics="auto", lr=0.1, **options):
    model = model_of(4, 8, 3)
    return Trainer(model, loss or nn.CrossEntropyLoss(), optim.SGD(model.parameters(), lr=lr), metrics, **options)


def weights(t):
    return np.concatenate([v.ravel() for v in t.model.state_dict().values()])


def close(a, b, tol=2e-6):
    np.testing.assert_allclose(weights(a), weights(b), rtol=0, atol=tol)


def fit(t, *args, **kwargs):
    pynn.manual_seed(1)
    kwargs = {"epochs": 2, "batch_size": 20, "shuffle": False, "progress": False, **kwargs}
    t.fit(*args, **kwargs)
    return t


# ---- what fit takes --------------------------------------------------------------------------------------


class Two(nn.Module):
    """Two inputs and, on request, two outputs."""

    def __init__(self, both=False):
        super().__init__()
        self.a, self.b, self.both = nn.Linear(4, 3), nn.Linear(2, 3), both

    def forward(self, left, right):
        y = self.a(left) + self.b(right)
        return (y, y * 2.0) if self.both else y


def two_loss(y, t):
    return nn.functional.mse_loss(y[0], t[0]) + nn.functional.mse_loss(y[1], t[1])


def test_several_inputs_and_targets():
    right = RNG.standard_normal((60, 2))
    results = []
    for given in ((X, right), {"left": X, "right": right}, {"right": right, "left": X}):
        pynn.manual_seed(0)
        model = Two()
        t = fit(Trainer(model, nn.CrossEntropyLoss(), optim.SGD(model.parameters(), 0.1)), given, Y)
        results.append(weights(t))
        assert t.predict(given).shape == (60, 3)
        assert t.evaluate(given, Y)["loss"] < 1.2
        assert t.replayed > 0
    assert all(np.array_equal(r, results[0]) for r in results)
    targets = RNG.standard_normal((60, 3)), RNG.standard_normal((60, 3))
    model = Two(both=True)
    t = fit(Trainer(model, two_loss, optim.SGD(model.parameters(), 0.1)), (X, right), targets)
    assert t.history["loss"][1] < t.history["loss"][0]
    a, b = t.predict((X, right))
    np.testing.assert_array_equal(b, 2 * a)
    with pytest.raises(ValueError, match=r"expected X\[0\], X\[1\] and y of one length, got 60, 59 and 60 samples"):
        t.fit((X, right[:-1]), Y)
    with pytest.raises(ValueError, match=r"'X\[1\]': expected finite numbers, got nan at X\[1\]\[3, 0\]"):
        t.fit((X, np.where(np.arange(60)[:, None] == 3, np.nan, right)), targets)
    with pytest.raises(TypeError, match="metrics need one output and one target"):
        Trainer(model, two_loss, t.optimizer, ["mae"]).fit((X, right), targets, progress=False)


def test_frames_memory_maps_and_batches_are_the_same(tmp_path):
    want = fit(trainer_of(), X, Y)
    for dtype in ("f4", "f8", "f2"):
        np.save(tmp_path / "x.npy", X.astype(dtype))
        mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
        t = fit(trainer_of(), mapped, Y, prefetch=2)
        close(t, fit(trainer_of(), np.array(mapped), Y), 0)

    class Again:
        def __init__(self, form):
            self.form = form

        def __iter__(self):
            for k in range(0, 60, 20):
                x, y = X[k : k + 20].astype("f8"), Y[k : k + 20]
                yield {"x": x, "y": y} if self.form is dict else self.form((x, y))

    for source in (DataLoader((X, Y), 20), Again(tuple), Again(list), Again(dict), list(Again(tuple))):
        t = trainer_of()
        pynn.manual_seed(1)
        t.fit(source, epochs=2, validation_data=source, progress=False)
        close(t, want, 0)
        assert t.evaluate(source) == want.evaluate(X, Y, 20)
    with pytest.raises(TypeError, match=r"gone through again and again, got generator"):
        trainer_of().fit((b for b in Again(tuple)), epochs=1)
    broken = X.copy()
    broken[45, 1] = np.inf
    with pytest.raises(ValueError, match=r"fit: batch 2: argument 'X': expected finite numbers, got inf at X\[5, 1\]"):
        trainer_of().fit(DataLoader((broken, Y), 20), progress=False)


def test_dataframes():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X, columns=list("abcd"))
    t = fit(trainer_of(), frame, pandas.Series(Y), validation_split=0.25)
    close(t, fit(trainer_of(), X, Y, validation_split=0.25), 0)
    assert np.array_equal(t.predict(frame), t.predict(X))


def test_integers_stay_integers_for_tables():
    ids = RNG.integers(0, 30, (60, 4)).astype("i4")

    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.line = nn.EmbeddingBag(30, 4), nn.Linear(4, 3)

        def forward(self, words, x):
            return self.line(self.table(words) + x)

    model = Mixed()
    t = Trainer(model, nn.CrossEntropyLoss(), optim.SGD(model.parameters(), 0.1))
    fit(t, (ids, X), Y)
    assert t.predict((ids, X)).shape == (60, 3)
    with pytest.raises(IndexError, match="30"):
        t.predict((ids + 30, X))


# ---- weights ---------------------------------------------------------------------------------------------


def test_a_weight_of_two_is_the_sample_twice():
    w = np.where(Y == 1, 2.0, 1.0)
    twice = np.concatenate([np.arange(60), np.flatnonzero(Y == 1)])
    for loss in (nn.CrossEntropyLoss(label_smoothing=0.1), nn.functional.cross_entropy):
        want = fit(trainer_of(loss), X[twice], Y[twice], batch_size=100)
        close(fit(trainer_of(loss), X, Y, batch_size=100, sample_weight=w), want)
        close(fit(trainer_of(loss), X, Y, batch_size=100, class_weight={1: 2.0}), want)
        close(fit(trainer_of(loss), X, Y, batch_size=100, class_weight=[1, 2, 1]), want)
        close(
            fit(trainer_of(loss), X, Y, batch_size=100, sample_weight=np.ones(60)),
            fit(trainer_of(loss), X, Y, batch_size=100),
        )
    t = trainer_of()
    assert t.evaluate(X, Y, sample_weight=w)["loss"] == pytest.approx(t.evaluate(X[twice], Y[twice])["loss"], rel=1e-6)
    assert t.evaluate(X, Y, 7, sample_weight=w)["loss"] == pytest.approx(
        t.evaluate(X, Y, sample_weight=w)["loss"], rel=1e-6
    )
    target = X[:, :2].astype("f8")
    t = Trainer(model_of(4, 2), nn.MSELoss())
    each = ((t.predict(X) - target) ** 2).mean(1)
    assert t.evaluate(X, target, sample_weight=w)["loss"] == pytest.approx((each * w).sum() / w.sum(), rel=1e-5)


def test_balanced_weights_and_labels_that_do_not_count():
    labels = np.array([0, 0, 0, 1])
    np.testing.assert_allclose(class_weights(labels), [2 / 3, 2 / 3, 2 / 3, 2])
    ignored = np.where(np.arange(60) < 50, Y, -100)
    close(
        fit(trainer_of(), X, ignored, batch_size=60, sample_weight=np.ones(60)),
        fit(trainer_of(), X[:50], Y[:50], batch_size=60),
    )
    for weights in ("balanced", [1, 2, 3]):
        close(
            fit(trainer_of(), X, ignored, batch_size=60, class_weight=weights),
            fit(trainer_of(), X[:50], Y[:50], batch_size=60, class_weight=weights),
        )
    for bad, text in (
        ([1.0] * 59, r"expected shape \(60,\)"),
        (-np.ones(60), "expected numbers >= 0"),
        (np.zeros(60), "one is positive"),
        (np.full(60, np.nan), "got nan at sample_weight"),
    ):
        with pytest.raises(ValueError, match=text):
            fit(trainer_of(), X, Y, sample_weight=bad)
    with pytest.raises(TypeError, match="need a loss with `reduction`"):
        fit(trainer_of(lambda y, t: nn.functional.cross_entropy(y, t)), X, Y, sample_weight=np.ones(60))
    with pytest.raises(ValueError, match="a weight for each class up to 2, got 2"):
        fit(trainer_of(), X, Y, class_weight=[1, 2])


# ---- steps -----------------------------------------------------------------------------------------------


def test_accumulated_batches_are_one_batch():
    for n, w in ((60, None), (50, None), (60, RNG.random(60))):
        one = fit(trainer_of(), X[:n], Y[:n], batch_size=30, sample_weight=None if w is None else w[:n])
        many = fit(trainer_of(accumulate=3), X[:n], Y[:n], batch_size=10, sample_weight=None if w is None else w[:n])
        close(one, many)
        assert one.steps == many.steps == 4
        assert many.replayed > 0
        assert many.history["loss"][0] == pytest.approx(one.history["loss"][0], rel=1e-5)


def test_a_step_whose_weights_are_all_0():
    """Its gradient is 0, as that of one batch of such samples is."""
    w = np.where(np.arange(60) < 30, 0.0, 1.0)
    one, many = (
        fit(trainer_of(accumulate=k), X[:60], Y[:60], batch_size=30 // k, shuffle=False, sample_weight=w)
        for k in (1, 3)
    )
    close(one, many)
    assert many.history["loss"][0] == pytest.approx(one.history["loss"][0], rel=1e-5)


@pytest.mark.parametrize("elements", [False, True])
def test_a_loss_that_sums(elements):
    """Weights of 1 change nothing, those of 2 are samples twice; accumulated batches are one batch of all."""
    loss, y = (nn.MSELoss, RNG.standard_normal((60, 3))) if elements else (nn.CrossEntropyLoss, Y[:60])

    def fitted(rows=slice(60), **options):
        accumulate = options.pop("accumulate", 1)
        t = trainer_of(loss(reduction="sum"), None, 1e-3, accumulate=accumulate)
        return fit(t, X[rows], y[rows], **{"batch_size": 60, **options})

    one, twice = fitted(), np.repeat(np.arange(60), 2)
    for same in (
        fitted(sample_weight=np.ones(60)),
        fitted(accumulate=3, batch_size=20),
        fitted(accumulate=3, batch_size=20, sample_weight=np.ones(60)),
    ):
        close(one, same)
        assert same.history["loss"] == pytest.approx(one.history["loss"], rel=1e-5)
    close(fitted(sample_weight=np.full(60, 2.0)), fitted(twice, batch_size=120))


def test_clipping():
    def stepped(t, clip):
        t.optimizer.zero_grad()
        t.loss(t.model(pynn.tensor(X)), pynn.tensor(Y)).backward()
        clip(t.model.parameters())
        t.optimizer.step()
        return t

    one = {"epochs": 1, "batch_size": 60}
    close(fit(trainer_of(max_norm=0.05, lr=1.0), X, Y, **one),
          stepped(trainer_of(lr=1.0), lambda p: nn.utils.clip_grad_norm_(p, 0.05)))  # fmt: skip
    close(fit(trainer_of(clip_value=0.01, lr=1.0), X, Y, **one),
          stepped(trainer_of(lr=1.0), lambda p: nn.utils.clip_grad_value_(p, 0.01)))  # fmt: skip


def test_schedules_by_step_and_by_epoch():
    rates = []

    class Note(Callback):
        def on_step_end(self, run):
            rates.append(run.optimizer.param_groups[0]["lr"])

    t = trainer_of(callbacks=[Note()])
    t.schedule, t.schedule_every = optim.lr_scheduler.ExponentialLR(t.optimizer, 0.5), "step"
    fit(t, X, Y)
    np.testing.assert_allclose(rates, 0.1 * 0.5 ** np.arange(1, 7))
    assert t.replayed >= t.steps - 2
    t = trainer_of()
    t.schedule = optim.lr_scheduler.ExponentialLR(t.optimizer, 0.5)
    assert fit(t, X, Y, epochs=3).history["lr"] == [0.1, 0.05, 0.025]
    t = trainer_of(lr=1e-12)
    t.schedule = optim.lr_scheduler.ReduceLROnPlateau(t.optimizer, patience=0, eps=0)
    assert fit(t, X, Y, epochs=4, validation_data=(X, Y)).history["lr"][-1] < 1e-13
    other = trainer_of()
    for options, text in (
        ({"schedule": optim.lr_scheduler.StepLR(other.optimizer, 1)}, "got one of another"),
        ({"schedule_every": "day"}, "expected 'epoch' or 'step'"),
        ({"accumulate": 0}, "'accumulate': expected an integer >= 1"),
        ({"max_norm": -1}, "'max_norm'"),
        ({"ema": 1.0}, r"'ema': expected a number in \[0, 1\)"),
    ):
        with pytest.raises(ValueError, match=text):
            trainer_of(**options)
    plateau = optim.lr_scheduler.ReduceLROnPlateau(other.optimizer)
    with pytest.raises(ValueError, match="'schedule_every': expected 'epoch' for ReduceLROnPlateau, got 'step'"):
        Trainer(other.model, other.loss, other.optimizer, schedule=plateau, schedule_every="step")


def test_running_means_of_the_parameters():
    t = trainer_of(ema=0.5)
    trained = []

    class Note(Callback):
        def on_step_end(self, run):
            trained.append(weights(t))

    mean = weights(t)
    fit(t, X, Y, callbacks=[Note()], validation_data=(X, Y))
    for w in trained:
        mean = 0.5 * mean + 0.5 * w
    np.testing.assert_array_equal(weights(t), trained[-1])
    model = model_of(4, 8, 3)
    at = 0
    for p in model.parameters():
        with pynn.no_grad():
            p.copy_(pynn.tensor(mean[at : at + p.size].reshape(p.shape).astype("f4")))
        at += p.size
    np.testing.assert_allclose(t.predict(X), Trainer(model, t.loss).predict(X), atol=1e-6)
    assert t.history["val_loss"][-1] == pytest.approx(t.evaluate(X, Y)["loss"], rel=1e-6)
    assert t.replayed >= t.steps - 2


# ---- callbacks -------------------------------------------------------------------------------------------


def test_points_and_priorities():
    seen = []

    class First(Callback):
        priority = -1

    class Last(Callback):
        priority = 7

    for cls in (First, Last):
        for point in ("on_fit_begin", "on_epoch_begin", "on_batch_end", "on_step_end", "on_epoch_end", "on_fit_end"):
            setattr(
                cls,
                point,
                lambda self, run, point=point: seen.append((type(self).__name__, point, run.epoch, run.step)),
            )
    given = []
    t = trainer_of(accumulate=2, callbacks=[Last(), lambda run: given.append(run.figures["loss"])])
    fit(t, X, Y, epochs=2, callbacks=[First()])
    points = [p for who, p, *_ in seen if who == "First"]
    one = ["on_batch_end", "on_batch_end", "on_step_end", "on_batch_end", "on_step_end"]
    epoch = ["on_epoch_begin", *one, "on_epoch_end"]
    assert points == ["on_fit_begin", *epoch, *epoch, "on_fit_end"]
    assert [who for who, *_ in seen[:4]] == ["First", "Last"] * 2
    assert [(e, s) for who, p, e, s in seen if (who, p) == ("Last", "on_epoch_end")] == [(1, 2), (2, 4)]
    assert given == t.history["loss"]
    with pytest.raises(TypeError, match="expected Callbacks or functions of a run, got 3"):
        fit(t, X, Y, callbacks=[3])


def test_early_stopping_gives_the_best_weights_back():
    class Scripted(Callback):
        """Figures of a validation that is written down."""

        def on_epoch_end(self, run):
            run.figures["val_loss"] = [3, 2, 2.5, 1.95, 2, 1.99, 1][run.epoch - 1]
            kept.append(weights(t))

    cases = (
        ({"patience": 1}, 6, 4),
        ({"patience": 0}, 3, 2),
        ({"patience": 1, "min_delta": 0.1}, 4, 2),
        ({"patience": 9}, 7, 7),
        ({"patience": 1, "mode": "max"}, 3, 1),
    )
    for options, epochs, best in cases:
        kept = []
        t = trainer_of()
        stopping = EarlyStopping(**options)
        fit(t, X, Y, epochs=7, callbacks=[Scripted(), stopping])
        assert (t.run.epoch, stopping.best_epoch) == (epochs, best)
        np.testing.assert_array_equal(weights(t), kept[best - 1])
        assert (t.run.stopped is None) == (epochs == 7)
    t = trainer_of(ema=0.3)
    fit(t, X, Y, epochs=9, validation_data=(X, Y), callbacks=[EarlyStopping(mode="max")])
    assert t.evaluate(X, Y)["loss"] == pytest.approx(max(t.history["val_loss"]), rel=1e-6), "the best means are back"
    t = trainer_of()
    fit(t, X, Y, epochs=20, validation_split=0.3, callbacks=[EarlyStopping("val_accuracy", patience=2)])
    with pytest.raises(KeyError, match=r"history has no 'val_loss'.*needs validation_data"):
        fit(trainer_of(), X, Y, callbacks=[EarlyStopping()])
    for options in ({"mode": "x"}, {"patience": -1}, {"min_delta": -1}):
        with pytest.raises(ValueError, match="EarlyStopping: argument"):
            EarlyStopping(**options)


# ---- metrics ---------------------------------------------------------------------------------------------


def sk_auc(t, p):
    from sklearn.metrics import roc_auc_score

    e = np.exp(p - p.max(1, keepdims=True))
    return roc_auc_score(t, e / e.sum(1, keepdims=True), multi_class="ovr")


def test_metrics_of_classes_are_scikit_learns():
    metrics = pytest.importorskip("sklearn.metrics")
    t = trainer_of(metrics=["accuracy", "precision", "recall", "f1", "auc", "top2", sk_auc])
    fit(t, X, Y, epochs=1)
    scores = t.predict(X).astype("f8")
    found = scores.argmax(1)
    for batch in (60, 7, 1):
        got = t.evaluate(X, Y, batch)
        assert got["accuracy"] == metrics.accuracy_score(Y, found)
        for name in ("precision", "recall", "f1"):
            want = getattr(metrics, f"{name}_score")(Y, found, average="macro", zero_division=0)
            assert got[name] == pytest.approx(want, abs=1e-12)
        assert got["auc"] == pytest.approx(got["sk_auc"], abs=1e-6)
        assert got["top2"] == pytest.approx(metrics.top_k_accuracy_score(Y, scores, k=2), abs=1e-12)
    ignored = np.where(np.arange(60) < 40, Y, -100)
    t = Trainer(t.model, t.loss, metrics=["f1", "auc"])
    assert t.evaluate(X, ignored) == t.evaluate(X[:40], Y[:40])


def test_metrics_of_yes_and_no():
    metrics = pytest.importorskip("sklearn.metrics")
    target = (Y == 0)[:, None]
    t = Trainer(model_of(4, 1), nn.BCEWithLogitsLoss(), metrics=["accuracy", "precision", "recall", "f1", "auc"])
    y = t.predict(X)[:, 0]
    got = t.evaluate(X, target, 7)
    for name in ("accuracy", "precision", "recall", "f1"):
        assert got[name] == pytest.approx(getattr(metrics, f"{name}_score")(target[:, 0], y > 0), abs=1e-12)
    assert got["auc"] == pytest.approx(metrics.roc_auc_score(target[:, 0], y), abs=1e-12)
    assert math.isnan(t.evaluate(X, np.zeros((60, 1)))["auc"])


def test_metrics_of_numbers_are_of_the_whole_epoch():
    metrics = pytest.importorskip("sklearn.metrics")
    target = X[:, :2].astype("f8") + 1000

    def worst(y, found):
        assert y.shape == found.shape == (60, 2)
        return np.abs(y - found).max()

    class Range(Metric):
        """A metric of one's own: the range of the outputs."""

        name, kept = "range", ("low", "high")

        def reset(self):
            self.low, self.high = math.inf, -math.inf

        def update(self, output, target):
            self.low, self.high = min(self.low, output.min()), max(self.high, output.max())

        def value(self):
            return float(self.high - self.low)

    t = Trainer(model_of(4, 2), nn.MSELoss(), metrics=["mae", "rmse", "r2", worst, Range()])
    with pynn.no_grad():
        t.model[0].bias.copy_(t.model[0].bias + 1000.0)
    y = t.predict(X)
    stored, y = target.astype("f4").astype("f8"), y.astype("f8")
    for batch in (60, 7):
        got = t.evaluate(X, target, batch)
        assert got["mae"] == pytest.approx(metrics.mean_absolute_error(stored, y), rel=1e-9)
        assert got["rmse"] == pytest.approx(metrics.mean_squared_error(stored, y) ** 0.5, rel=1e-6)
        assert got["r2"] == pytest.approx(metrics.r2_score(stored, y), rel=1e-6)
        assert got["worst"] == np.abs(stored - y).max()
        assert got["range"] == y.max() - y.min()


# ---- data ------------------------------------------------------------------------------------------------


def test_samplers():
    labels = np.array([0] * 50 + [1] * 8 + [2] * 2)
    order = BalancedSampler(labels).order(np.random.default_rng(0))
    assert np.bincount(labels[order]).tolist() == [20, 20, 20]
    assert len(set(order[labels[order] == 0])) == 20
    assert sorted(set(order[labels[order] == 1])) == list(range(50, 58))
    drawn = WeightedRandomSampler([0, 1, 3], 4000).order(np.random.default_rng(0))
    assert np.bincount(drawn)[0] == 0
    assert 2800 < np.bincount(drawn)[2] < 3200
    t = trainer_of()
    fit(t, X, Y, sampler=BalancedSampler(Y), shuffle=True)
    assert t.steps == 6
    a, b = (np.concatenate([np.asarray(x) for (x,) in DataLoader(np.arange(60.0), 7, sampler=WeightedRandomSampler(
        np.arange(60), 20), generator=pynn.Generator(3))]) for _ in range(2))  # fmt: skip
    assert np.array_equal(a, b)
    assert len(a) == 20
    for make, text in (
        (lambda: WeightedRandomSampler([-1, 2], 3), "expected numbers >= 0"),
        (lambda: WeightedRandomSampler([0, 2], 2, False), "at most 1 draws without replacement"),
        (lambda: WeightedRandomSampler([1], 0), "'num_samples'"),
        (lambda: BalancedSampler([]), "expected one label a sample"),
        (lambda: DataLoader(X, 2, True, BalancedSampler(Y)), "expected shuffle or a sampler, got both"),
    ):
        with pytest.raises(ValueError, match=text):
            make()


def test_prefetch_gives_the_same_and_ends():
    import threading

    before = threading.active_count()
    for shuffle in (False, True):
        plain, ahead = (DataLoader((X, Y), 7, shuffle, prefetch=n, generator=pynn.Generator(1)) for n in (0, 3))
        for (a, b), (c, d) in zip(plain, ahead, strict=True):
            assert np.array_equal(a.numpy(), c.numpy())
            assert np.array_equal(b.numpy(), d.numpy())
    part = iter(DataLoader((X, Y), 7, prefetch=2))
    next(part)
    part.close()
    assert threading.active_count() == before
    with pytest.raises(ValueError, match="'prefetch': expected an integer >= 0"):
        DataLoader(X, prefetch=-1)


def test_sequences_are_padded_in_buckets():
    lengths = np.random.default_rng(0).integers(1, 40, 100)
    sequences = [np.full(n, k + 1) for k, n in enumerate(lengths)]
    loader = SequenceLoader(sequences, np.arange(100), 10, True, multiple=4, window=10, generator=pynn.Generator(0))
    seen, filled = [], 0
    for (x, n), y in loader:
        assert x.shape[1] % 4 == 0
        x = x.numpy()
        filled += x.size
        for row, length, label in zip(x, n.tolist(), y.tolist()):
            assert length == lengths[label]
            assert (row[:length] == label + 1).all()
            assert not row[length:].any()
        seen += y.tolist()
    assert sorted(seen) == list(range(100))
    assert len(loader) == 10
    unsorted = pad_sequences(sequences).size
    assert filled < 0.7 * unsorted
    in_order = [n.tolist() for (x, n), y in SequenceLoader(sequences, np.arange(100), 10)]
    assert list(itertools.chain(*in_order)) == sorted(lengths.tolist())

    class Mean(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.out = nn.Embedding(101, 8, padding_idx=0), nn.Linear(8, 3)

        def forward(self, x, lengths):
            return self.out(self.table(x).sum(1) / lengths.reshape(-1, 1).astype(np.float32))

    model = Mean()
    t = Trainer(model, nn.CrossEntropyLoss(), optim.Adam(model.parameters(), 0.05))
    t.fit(SequenceLoader(sequences, lengths % 3, 10, True, multiple=16), epochs=12, progress=False)
    assert t.history["loss"][-1] < 0.7 * t.history["loss"][0]
    assert t.replayed > 0.5 * t.steps
    for make, text in (
        (lambda: SequenceLoader([[1], []]), "sequence 1: expected at least one element"),
        (lambda: SequenceLoader([[1.0], [np.nan]]), "sequence 1: expected finite"),
        (lambda: SequenceLoader([[1]], [1, 2]), "a target for each of 1 sequences, got 2"),
        (lambda: SequenceLoader([[1]], multiple=0), "'multiple': expected an integer >= 1"),
        (lambda: pad_sequences([]), "at least one sequence"),
        (lambda: pad_sequences([np.zeros((2, 3)), np.zeros((2, 4))]), "of one shape beyond l"),
    ):
        with pytest.raises(ValueError, match=text):
            make()
