"""Sessions: arrays in, arrays out, from many threads."""

import threading

import numpy as np
import pytest
from plan_helpers import eager

import pynn
from pynn import NotRecordable, Session, _core, nn
from pynn.ops.dropout import dropout


def make(seed=0, dropout=0.5):
    pynn.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, 3))


X = np.random.default_rng(0).standard_normal((40, 6)).astype("f4")


def test_predictions_are_the_models_in_evaluation_mode():
    model = make()
    session = model.session()
    for rows in (1, 7, 40, 0, 7, 1):
        y = session.predict(X[:rows])
        assert isinstance(y, np.ndarray)
        assert y.flags.owndata
        np.testing.assert_array_equal(y, eager(model, X[:rows]))
    assert model.training
    assert all(m.training for m in model.modules())
    assert len(session._plans.plans) == 3 + 1


def test_a_model_that_was_called_in_training_is_served_in_evaluation_mode():
    model = make()
    model(pynn.tensor(X))
    np.testing.assert_array_equal(model.session().predict(X), eager(model, X))


def test_any_array_is_taken():
    model = make()
    session = model.session()
    want = eager(model, X)
    wide = np.zeros((40, 12), "f4")
    wide[:, ::2] = X
    for x in (X.astype("f8"), X.tolist(), wide[:, ::2], np.asfortranarray(X), X.astype(">f4"), pynn.tensor(X)):
        y = session.predict(x)
        assert y.dtype == np.float32
        np.testing.assert_allclose(y, want, rtol=1e-5, atol=1e-6)
    readonly = X.copy()
    readonly.flags.writeable = False
    np.testing.assert_array_equal(session.predict(readonly), want)


def test_results_belong_to_the_caller():
    session = make().session()
    kept = [session.predict(X[k : k + 1]) for k in range(10)]
    for k, y in enumerate(kept):
        np.testing.assert_array_equal(y, session.predict(X[k : k + 1]))
    out = np.empty((1, 3), "f4")
    assert session.predict(X[:1], out=out) is out
    np.testing.assert_array_equal(out, kept[0])


@pytest.mark.parametrize(
    ("out", "match"),
    [
        (np.empty((2, 3), "f4"), r"expected an array of shape \(1, 3\) and float32, got \(2, 3\)"),
        (np.empty((1, 3), "f8"), "got .* float64"),
        ([1, 2, 3], "expected 1 arrays, got 3"),
        (np.empty((3, 1), "f4").T, "C-contiguous"),
    ],
)
def test_a_bad_out(out, match):
    if isinstance(out, np.ndarray) and out.shape == (1, 3) and out.flags.c_contiguous and out.dtype == "f4":
        out = np.empty((1, 6), "f4")[:, ::2]
    with pytest.raises(ValueError, match=match):
        make().session().predict(X[:1], out=out)


def test_bad_inputs():
    session = make().session()
    with pytest.raises(ValueError, match=r"linear: argument .*expected shape"):
        session.predict(X[:2, :5])
    with pytest.raises(TypeError, match="predict: argument 0: expected real numbers, got dtype <U1"):
        session.predict(["a"])
    with pytest.raises(ValueError, match="predict: argument 0: expected a rectangular array"):
        session.predict([[1.0], [1.0, 2.0]])
    np.testing.assert_array_equal(session.predict(X), session.predict(X))


def test_it_follows_the_parameters():
    model = make()
    session = model.session()
    session.predict(X)
    with pynn.no_grad():
        model[0].weight.copy_(model[0].weight * 2)
    np.testing.assert_array_equal(session.predict(X), eager(model, X))
    model[3] = nn.Linear(16, 5)
    np.testing.assert_array_equal(session.predict(X), eager(model, X))
    model.double()
    np.testing.assert_array_equal(session.predict(X), eager(model, X.astype("f8")))


def test_several_inputs_and_results():
    w = pynn.ones(6)
    table = pynn.ones(6, 1)

    def f(x, idx):
        y = x * w
        return y, y.sum(1), pynn.ones(2, 2), x, y.T, pynn.OPS.gather_rows(table, idx)

    session = Session(f)
    idx = np.array([0, 5])
    for k in (1.0, 2.0):
        a, b, c, d, e, g = session.predict(X * np.float32(k), idx)
        np.testing.assert_array_equal(a, X * np.float32(k))
        np.testing.assert_array_equal(d, a)
        np.testing.assert_array_equal(e, a.T)
        assert (b.shape, c.shape, g.tolist()) == ((40,), (2, 2), [[1], [1]])
        d[:] = 0
        np.testing.assert_array_equal(a, X * np.float32(k))
    with pytest.raises(IndexError, match="expected"):
        session.predict(X, np.array([0, 6]))
    assert session.predict(X, idx)[5].tolist() == [[1], [1]]


def test_models_that_cannot_be_served():
    drop = pynn.compile(lambda x: dropout(x, 0.5))
    with pytest.raises(NotRecordable, match="changes what outlives the call"):
        drop.predict(X)
    with pytest.raises(NotRecordable, match="reads a value"):
        Session(lambda x: x * x.sum().item()).predict(X)
    with pytest.raises(TypeError, match="expected the model to return Tensors"):
        Session(lambda x: 3).predict(X)
    with pytest.raises(ValueError, match="batch_rows"):
        Session(make(), batch_rows=-1)
    with pytest.raises(TypeError, match="Session: argument 'model': expected a Module or function, got int"):
        Session(3)


def run_threads(work, n):
    faults = []

    def guarded(k):
        try:
            work(k)
        except BaseException as e:
            faults.append(e)

    threads = [threading.Thread(target=guarded, args=(k,)) for k in range(n)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not faults, faults


def assert_near(y, want):
    """Equal but for the order of sums: a row alone is a dot product, see docs/decisions.md."""
    np.testing.assert_allclose(y, want, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("batch_rows", [0, 16])
def test_many_threads(batch_rows):
    model = make()
    session = model.session(batch_rows=batch_rows, wait=1e-3)
    want = eager(model, X)

    def work(k):
        for i in range(100):
            rows = 1 + (i + k) % 4
            at = (7 * k + i) % 36
            assert_near(session.predict(X[at : at + rows]), want[at : at + rows])

    run_threads(work, 8)


def test_rows_of_several_callers_run_together():
    model = make()
    session = model.session(batch_rows=8, wait=0.5)
    start = threading.Barrier(8)
    want = eager(model, X)

    def work(k):
        start.wait()
        assert_near(session.predict(X[k : k + 1]), want[k : k + 1])

    run_threads(work, 8)
    assert session._plans.captures + session._plans.replays <= 4

    def bad(k):
        start.wait()
        if k == 3:
            with pytest.raises(ValueError, match="linear: argument"):
                session.predict(X[:1, :2])
        else:
            work2 = session.predict(X[k : k + 1])
            assert_near(work2, want[k : k + 1])

    run_threads(bad, 8)


def test_warm_up_and_steady_state():
    session = make().session().warm_up((5, 6))
    assert session._plans.captures == 1
    session.predict(X[:5])
    assert (session._plans.captures, session._plans.replays) == (1, 2)
    before = _core.alloc_stats()
    for _ in range(100):
        session.predict(X[:5])
    after = _core.alloc_stats()
    assert after["n_alloc"] == before["n_alloc"]
    assert "1 plans" in repr(session)


def test_out_may_lie_in_the_argument_and_not_in_another_out():
    session = nn.Linear(6, 6).session()
    x = X.copy()
    want = session.predict(x)
    session.predict(x, out=x)
    np.testing.assert_array_equal(x, want)
    two = Session(lambda x: (x * 2, x + 1))
    both = np.empty((2, 6), "f4")
    with pytest.raises(ValueError, match="do not overlap"):
        two.predict(X[:1], out=(both[:1], both[:1]))
