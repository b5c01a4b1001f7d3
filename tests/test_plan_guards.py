"""What a plan depends on besides its arguments: each change is seen, or the function runs eagerly."""

import threading
import warnings

import numpy as np
import pytest
from plan_helpers import batches, make_model, make_step

import pynn
from pynn import NotRecordable, Tensor, _core, nn, optim

# ---- what a function reads besides its arguments ------------------------------------------------------


def test_closures_over_changing_numbers():
    k = 1.0
    f = pynn.compile(lambda x: x * k)
    x = pynn.ones(1)
    seen = []
    for k in (1.0, 2.0, 2.0, 3.0, 1.0):  # noqa: B007
        seen.append(f(x).item())
    assert seen == [1, 2, 2, 3, 1]
    assert f.captures == 3


SCALE = 2.0
MASK = Tensor([1.0, 0.0])


def scaled(x):
    return x * SCALE


def test_globals_and_functions_that_are_called(monkeypatch):
    f = pynn.compile(lambda x: scaled(x) * MASK)
    x = pynn.ones(2)
    assert f(x).tolist() == [2, 0]
    assert f(x).tolist() == [2, 0]
    monkeypatch.setitem(globals(), "SCALE", 5.0)
    assert f(x).tolist() == [5, 0]
    monkeypatch.setitem(globals(), "MASK", Tensor([0.0, 1.0]))
    assert f(x).tolist() == [0, 5]
    monkeypatch.setitem(globals(), "scaled", lambda x: x + 1)
    assert f(x).tolist() == [0, 2]
    assert f(x).tolist() == [0, 2]


def test_a_tensor_of_the_closure_that_is_written():
    w = pynn.ones(3)
    f = pynn.compile(lambda x: x + w)
    x = pynn.zeros(3)
    f(x)
    w.fill_(4)
    assert f(x).tolist() == [4] * 3
    assert f.replays == 1


def test_parameters_changed_and_replaced_between_calls():
    model, x = make_model(), batches(1)[0][0]
    model.eval()
    f = pynn.compile(model)
    with pynn.no_grad():
        f(x)
        model[0].weight.fill_(0.1)
        np.testing.assert_array_equal(f(x).numpy(), model(x).numpy())
        assert f.replays == 1
        model[0].weight = nn.Parameter(np.full((12, 8), 0.2, "f4"))
        np.testing.assert_array_equal(f(x).numpy(), model(x).numpy())
        model.load_state_dict(make_model(seed=5).state_dict())
        np.testing.assert_array_equal(f(x).numpy(), model(x).numpy())
        model.double()
        np.testing.assert_array_equal(f(x.double()).numpy(), model(x.double()).numpy())
        model.float()
        np.testing.assert_array_equal(f(x).numpy(), model(x).numpy())
        model[1] = nn.ReLU()
        np.testing.assert_array_equal(f(x).numpy(), model(x).numpy())


def test_a_module_switched_to_eval_and_back():
    model, x = make_model(dropout=0.5), batches(1)[0][0]
    f = pynn.compile(model)
    with pynn.no_grad():
        seen = []
        for mode in (True, False, False, True, True):
            model.train(mode)
            seen.append(f(x).numpy_copy())
        np.testing.assert_array_equal(seen[1], seen[2])
        assert not np.array_equal(seen[0], seen[3])
        assert not np.array_equal(seen[3], seen[4])
        np.testing.assert_array_equal(seen[1], model.eval()(x).numpy())


def test_hooks_are_never_replayed_over():
    model, x = make_model(), batches(1)[0][0]
    f = pynn.compile(model)
    with pynn.no_grad():
        f(x)
        calls = []
        handle = model[0].register_forward_hook(lambda m, a, y: calls.append(1))
        with pytest.raises(NotRecordable, match="a hook of Linear"):
            f(x)
        assert calls == [1]
        handle.remove()
        f(x)
        assert calls == [1]


def test_freezing_a_parameter():
    model, (x, y) = make_model(), batches(1)[0]
    step = pynn.compile(make_step(model, optim.SGD(model.parameters(), lr=0.1)))
    step(x, y)
    step(x, y)
    model[0].weight.requires_grad_(False)
    before = model[0].weight.numpy_copy()
    step(x, y)
    step(x, y)
    np.testing.assert_array_equal(model[0].weight.numpy(), before)
    assert model[0].weight.grad is None


def test_the_learning_rate_and_other_options():
    def run(compiled):
        model = make_model()
        o = optim.SGD(model.parameters(), lr=0.1)
        step = make_step(model, o)
        step = pynn.compile(step) if compiled else step
        for k, (x, y) in enumerate(batches(12)):
            o.param_groups[0]["lr"] = 0.1 / (1 + k)
            if k == 6:
                o.param_groups[0]["momentum"] = 0.9
            step(x, y)
        return [p.numpy_copy() for p in model.parameters()], step

    want, _ = run(False)
    got, step = run(True)
    for a, b in zip(got, want):
        np.testing.assert_array_equal(a, b)
    assert (step.captures, step.replays) == (2, 10)


def test_a_different_thread_count_and_isa_level():
    model, x = make_model(), batches(1, rows=300)[0][0]
    f = pynn.compile(model)
    with pynn.no_grad():
        want = f(x).numpy_copy()
        for threads in (1, 2, 4, 1):
            _core.set_num_threads(threads)
            np.testing.assert_array_equal(f(x).numpy(), want)
        _core.use_isa("base")
        np.testing.assert_array_equal(f(x).numpy(), model(x).numpy())
        np.testing.assert_array_equal(f(x).numpy(), model(x).numpy())


# ---- what cannot be recorded --------------------------------------------------------------------------


def host_item(x):
    return x * x.sum().item()


def host_bool(x):
    return x * 2 if (x.sum() > 0) else x


def host_numpy(x):
    return Tensor(np.asarray(x)) * 2


def inner_array(x):
    return x + np.ones(2, "f4")


def inner_index(x):
    return x[np.array([1, 0])]


def with_history(x):
    return x * Tensor([1.0, 2.0], requires_grad=True)


class Holder:
    last = None


def kept_outside(x):
    Holder.last = x * 2
    return x + 1


@pytest.mark.parametrize(
    ("fn", "match"),
    [
        (host_item, r"item\(\) reads .* on the host \(at .*test_plan_guards.py:\d+\)"),
        (host_bool, r"item\(\) reads"),
        (host_numpy, "reads a value"),
        (inner_array, "an array becomes a tensor inside"),
        (inner_index, "an array becomes a tensor inside"),
        (with_history, "with history"),
        (kept_outside, "kept outside"),
    ],
)
def test_what_cannot_be_recorded(fn, match):
    f = pynn.compile(fn)
    x = Tensor([1.0, 2.0])
    with pytest.raises(NotRecordable, match=match):
        f(x)
    g = pynn.compile(fn, strict=False)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for _ in range(5):
            np.testing.assert_array_equal(g(x).detach().numpy(), fn(x).detach().numpy())
    assert len([w for w in seen if "stays eager" in str(w.message)]) == 1
    assert g.replays == 0


def test_data_dependent_shapes():
    f = pynn.compile(lambda x: x[x > 0].sum(), strict=False)
    inputs = [1.0, -1.0, 2.0], [1.0, 2.0, 3.0], [-1.0, -2.0, -3.0], [1.0, 1.0, -1.0]
    with pytest.warns(RuntimeWarning, match=r"stays eager: .* on the host"):
        seen = [f(Tensor(a)).item() for a in inputs]
    assert seen == [sum(v for v in a if v > 0) for a in inputs]


def test_exceptions_during_capture_and_replay():
    state = {"fail": True}

    def f(x):
        y = x * 2
        if state["fail"]:
            raise KeyError("mine")
        return y

    g = pynn.compile(f)
    with pytest.raises(KeyError, match="mine"):
        g(pynn.ones(2))
    assert not _core.recording()
    state["fail"] = False
    assert g(pynn.ones(2)).tolist() == [2, 2]
    assert g(pynn.ones(2)).tolist() == [2, 2]


def test_a_bad_batch_changes_nothing():
    model = make_model(dropout=0.5)
    step = pynn.compile(make_step(model, optim.Adam(model.parameters())))
    data = batches(4)
    for x, y in data[:2]:
        step(x, y)
    params = [p.numpy_copy() for p in model.parameters()]
    state = pynn.default_generator.get_state().tolist()
    bad = Tensor(np.array([0] * 15 + [9]))
    with pytest.raises(IndexError, match=r"cross_entropy: argument 'target': expected 0 <= value < 4, got 9 at .*15"):
        step(data[2][0], bad)
    assert pynn.default_generator.get_state().tolist() == state
    for p, was in zip(model.parameters(), params):
        np.testing.assert_array_equal(p.numpy(), was)
    got = step(*data[3]).item()
    twin = make_model(dropout=0.5)
    eager = make_step(twin, optim.Adam(twin.parameters()))
    for x, y in data[:2]:
        eager(x, y)
    assert got == eager(*data[3]).item()


def test_capture_inside_capture():
    inner = pynn.compile(lambda x: x * 2)
    outer = pynn.compile(lambda x: inner(x) + 1)
    for k in range(4):
        assert outer(pynn.ones(2) * k).tolist() == [2 * k + 1] * 2
    assert (outer.replays, inner.captures) == (3, 0)
    assert inner(pynn.ones(2)).tolist() == [2, 2]


def test_two_threads_capturing():
    models = [make_model(0.2, seed=k) for k in range(4)]
    steps = [pynn.compile(make_step(m, optim.Adam(m.parameters()))) for m in models]
    gens = batches(30)
    faults = []

    def work(k):
        try:
            for x, y in gens:
                steps[k](x, y)
        except BaseException as e:
            faults.append(e)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not faults
    assert [s.captures for s in steps] == [1] * 4
    assert [s.replays for s in steps] == [29] * 4


def test_one_plan_from_many_threads():
    model = make_model().eval()
    f = pynn.compile(model)
    data = [x for x, _ in batches(8)]
    with pynn.no_grad():
        want = [model(x).numpy_copy() for x in data]
        f(data[0])
    faults = []

    def work():
        try:
            with pynn.no_grad():
                for _ in range(40):
                    for x, y in zip(data, want):
                        np.testing.assert_array_equal(f(x).numpy(), y)
        except BaseException as e:
            faults.append(e)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not faults
    assert f.captures == 1
