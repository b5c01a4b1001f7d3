"""Trainer(penalty=…): penalties join the loss of each batch."""

import numpy as np
import pytest
from test_trainer_options import X, Y, close, fit, model_of, trainer_of, weights

import pynn
from pynn import nn, optim
from pynn.optim import L1, L2, MaxNorm, Penalty, Rescaling, Tangent
from pynn.train import Callback, Trainer


def test_l2_is_the_weight_decay_of_the_weights():
    fused = trainer_of()
    fused.optimizer = optim.SGD(L2(0.3).groups(fused.model), lr=0.1)
    want = fit(fused, X, Y)
    t = fit(trainer_of(penalty=L2(0.3)), X, Y)
    close(t, want)
    assert np.abs(weights(t) - weights(fit(trainer_of(), X, Y))).max() > 0.01


def test_the_loss_of_history_has_it_in():
    penalty = L1(0.01, on="all") + L2(0.2, on="bias")
    for options in ({}, {"sample_weight": np.arange(60) % 3 + 1.0}):
        t = fit(trainer_of(lr=0.0, penalty=penalty), X, Y, epochs=1, validation_data=(X, Y), **options)
        data = t.evaluate(X, Y, **options)["loss"]
        assert t.history["loss"][0] == pytest.approx(data + penalty(t.model).item(), rel=1e-6)
        assert t.history["val_loss"][0] == pytest.approx(t.evaluate(X, Y)["loss"], rel=1e-6)


@pytest.mark.parametrize("penalty", [L1(0.02) + L2(0.1, on="0."), Tangent(0.1, lambda x: x * 0.5 + 1.0)], ids=repr)
def test_it_is_replayed_and_accumulated(penalty):
    want = fit(trainer_of(penalty=penalty, compile=False), X, Y, batch_size=30)
    t = fit(trainer_of(penalty=penalty), X, Y, batch_size=30)
    assert t.replayed >= 2
    close(t, want, 0)
    close(fit(trainer_of(penalty=penalty, accumulate=3), X, Y, batch_size=10), want)
    assert np.abs(weights(t) - weights(fit(trainer_of(), X, Y, batch_size=30))).max() > 1e-4


def test_a_run_with_a_penalty_goes_on_bit_for_bit(tmp_path):
    class Stop(Callback):
        at = 1, 2

        def on_batch_end(self, run):
            if (run.epoch, run.batch) == self.at:
                raise RuntimeError

    stop = Stop()

    def make(**options):
        t = trainer_of(penalty=L1(0.01) + L2(0.1), accumulate=3, **options)
        t.optimizer = optim.Adam(t.model.parameters(), lr=0.01)
        return t

    want = fit(make(), X, Y, epochs=3, batch_size=8)
    with pytest.raises(RuntimeError):
        fit(t := make(), X, Y, epochs=3, batch_size=8, callbacks=[stop])
    t.save(tmp_path / "run")
    t = make()
    t.load(tmp_path / "run")
    stop.at = None
    t.resume(X, Y, progress=False, callbacks=[stop])
    close(t, want, 0)
    assert t.history["loss"] == want.history["loss"]


def test_its_strength_may_change_between_epochs():
    def annealed(penalty):
        def ease(run):
            penalty.strength = 0.5 / 2**run.epoch

        return ease

    results = []
    for compiled in (True, False):
        penalty = L2(0.5)
        t = trainer_of(penalty=penalty, compile=compiled)
        results.append(weights(fit(t, X, Y, epochs=5, callbacks=[annealed(penalty)])))
    np.testing.assert_array_equal(*results)
    assert np.abs(results[0] - weights(fit(trainer_of(penalty=L2(0.5)), X, Y, epochs=5))).max() > 0.01


def test_tables_with_gradients_by_rows():
    ids = np.random.default_rng(0).integers(0, 20, (60, 4))
    found = []
    for sparse in (True, False):
        pynn.manual_seed(3)
        model = nn.Sequential(nn.EmbeddingBag(20, 4, mode="sum", sparse=sparse), nn.Linear(4, 3))
        t = Trainer(model, nn.CrossEntropyLoss(), optim.SGD(model.parameters(), 0.1), penalty=L1(0.01))
        found.append(weights(fit(t, ids, Y)))
    np.testing.assert_allclose(*found, atol=1e-6)


def test_penalties_of_ones_own():
    class Outputs(Penalty):
        """Of the outputs, which should be small."""

        def __call__(self, model, *data):
            (x,) = data
            return (model(x) ** 2).mean() * 0.1

    t = fit(trainer_of(penalty=Outputs() + L1(0.0)), X, Y, epochs=20)
    plain = fit(trainer_of(), X, Y, epochs=20)
    assert np.square(t.predict(X)).mean() < 0.9 * np.square(plain.predict(X)).mean()
    two = model_of(4, 8, 3)
    rescaling = Rescaling(0.1, two[0].weight, two[2].weight)
    fit(Trainer(two, nn.CrossEntropyLoss(), optim.SGD(two.parameters(), 0.1), penalty=rescaling), X, Y)


def test_what_is_no_penalty_is_refused():
    for bad in (1e-3, "l2", MaxNorm(1.0), lambda model: 0.0, L1):
        with pytest.raises(TypeError, match=r"argument 'penalty': expected a pynn.optim.Penalty"):
            trainer_of(penalty=bad)
    t = trainer_of(penalty=L2(1.0, on="weights"))
    before = weights(t)
    with pytest.raises(ValueError, match="expected on="):
        fit(t, X, Y)
    np.testing.assert_array_equal(weights(t), before)
    t = trainer_of(penalty=L2(3e38))
    with pytest.raises(FloatingPointError, match="loss became inf in epoch 1, step 1"):
        fit(t, X, Y)
    np.testing.assert_array_equal(weights(t), before)
