"""Plans: replay = eager bit for bit, and the traps that systems of this kind fall into, one by one."""

import gc
import threading
import warnings

import numpy as np
import pytest

import pynn
from pynn import NotRecordable, Tensor, _core, nn, optim
from pynn.nn.utils import clip_grad_norm_


def batches(n, rows=16, seed=0):
    rng = np.random.default_rng(seed)
    return [(Tensor(rng.standard_normal((rows, 8)).astype("f4")), Tensor(rng.integers(0, 4, rows))) for _ in range(n)]


def make_model(dropout=0.0, seed=0):
    pynn.manual_seed(seed)
    return nn.Sequential(nn.Linear(8, 12), nn.Tanh(), nn.Dropout(dropout), nn.Linear(12, 4))


def make_step(model, optimizer, clip=None, loss=None):
    loss = loss or nn.CrossEntropyLoss()

    def step(x, y):
        optimizer.zero_grad()
        e = loss(model(x), y)
        e.backward()
        if clip:
            clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        return e

    return step


def trained(compiled, steps=60, optimizer=lambda p: optim.Adam(p, lr=0.01), dropout=0.3, clip=0.5):
    model = make_model(dropout)
    o = optimizer(model.parameters())
    step = make_step(model, o, clip)
    step = pynn.compile(step) if compiled else step
    losses = [step(x, y).item() for x, y in batches(steps)]
    return losses, [p.numpy_copy() for p in model.parameters()], step


OPTIMIZERS = {
    "sgd": lambda p: optim.SGD(p, lr=0.1),
    "momentum": lambda p: optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "adam": lambda p: optim.Adam(p, lr=0.01, amsgrad=True),
    "adamw": lambda p: optim.AdamW(p, lr=0.01),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_training_step_is_replayed_bit_for_bit(name):
    losses, params, _ = trained(False, optimizer=OPTIMIZERS[name])
    replayed, mine, step = trained(True, optimizer=OPTIMIZERS[name])
    assert replayed == losses
    for a, b in zip(mine, params):
        np.testing.assert_array_equal(a, b)
    assert step.captures == 1
    assert step.replays == 59


# ---- outputs ---------------------------------------------------------------------------------------


def test_outputs_belong_to_the_caller():
    f = pynn.compile(lambda x: (x * 2, x + 1))
    xs = [Tensor([float(k)] * 5) for k in range(6)]
    kept = [f(x) for x in xs]
    for k, (a, b) in enumerate(kept):
        np.testing.assert_array_equal(a.numpy(), [2 * k] * 5)
        np.testing.assert_array_equal(b.numpy(), [k + 1] * 5)
    views = [f(x)[0].numpy() for x in xs]  # the tensors are gone, the arrays are not
    for k, a in enumerate(views):
        np.testing.assert_array_equal(a, [2 * k] * 5)
    a = f(xs[1])[0]
    a.fill_(7)
    np.testing.assert_array_equal(f(xs[1])[0].numpy(), [2] * 5)
    np.testing.assert_array_equal(a.numpy(), [7] * 5)


def test_an_output_fed_back_as_input():
    f = pynn.compile(lambda x: x * 2 + 1)
    x = y = Tensor([1.0, 2.0])
    for _ in range(8):
        x, y = f(x), y * 2 + 1
        np.testing.assert_array_equal(x.numpy(), y.numpy())


def test_an_output_that_is_an_input_or_a_view_of_one():
    f = pynn.compile(lambda x: (x, x.reshape(2, 2), (x * 1).reshape(2, 2).T))
    for k in range(3):
        x = Tensor(np.arange(4.0) + k)
        same, view, other = f(x)
        assert same is x
        assert np.shares_memory(view.numpy(), x.numpy())
        np.testing.assert_array_equal(other.numpy(), (np.arange(4.0) + k).reshape(2, 2).T)


def test_two_outputs_of_one_memory():
    f = pynn.compile(lambda x: (lambda y: (y, y[1:]))(x * 3))
    for k in range(3):
        y, tail = f(pynn.ones(4) * k)
        assert np.shares_memory(y.numpy(), tail.numpy())
        np.testing.assert_array_equal(tail.numpy(), [3 * k] * 3)


def test_nested_results_and_plain_values():
    f = pynn.compile(lambda x: {"a": [x * 2, (x + 1, "text")], "n": 3, "none": None})
    for k in range(3):
        y = f(pynn.ones(2) * k)
        assert (y["n"], y["none"], y["a"][1][1]) == (3, None, "text")
        np.testing.assert_array_equal(y["a"][1][0].numpy(), [k + 1] * 2)


# ---- inputs ----------------------------------------------------------------------------------------


def test_the_same_array_passed_twice():
    f = pynn.compile(lambda x, y: x * 2 + y)
    a, b = np.ones(3, "f4"), np.full(3, 5, "f4")
    np.testing.assert_array_equal(f(a, a).numpy(), [3] * 3)
    np.testing.assert_array_equal(f(a, b).numpy(), [7] * 3)  # not what was recorded for two of one memory
    np.testing.assert_array_equal(f(b, b).numpy(), [15] * 3)
    np.testing.assert_array_equal(f(b, a).numpy(), [11] * 3)
    x = Tensor(a)
    np.testing.assert_array_equal(f(x, x).numpy(), [3] * 3)


def test_overlapping_arrays():
    f = pynn.compile(lambda x, y: x * 2 + y)
    a = np.arange(8, dtype="f4")
    for _ in range(3):
        np.testing.assert_array_equal(f(a[:5], a[3:]).numpy(), a[:5] * 2 + a[3:])
    assert f.replays == 2
    g = pynn.compile(lambda x, y: x * 2 + y)
    g(a[:4].copy(), a[4:].copy())
    np.testing.assert_array_equal(g(a[:4], a[2:6]).numpy(), a[:4] * 2 + a[2:6])  # replayed: only read
    assert g.replays == 1


def test_an_argument_in_memory_that_the_step_writes():
    """x is the parameter's own memory: eager semantics, whichever comes first, the reading or the writing."""
    w = pynn.ones(4)

    def f(x):
        w.copy_(w * 2)
        return x + 1

    g = pynn.compile(f)
    g(pynn.zeros(4))
    np.testing.assert_array_equal(w.numpy(), [2] * 4)
    np.testing.assert_array_equal(g(pynn.zeros(4)).numpy(), [1] * 4)
    np.testing.assert_array_equal(w.numpy(), [4] * 4)
    assert g.replays == 1
    x = w.detach()
    with pytest.raises(NotRecordable, match="overlaps memory"):
        g(x)
    np.testing.assert_array_equal(w.numpy(), [8] * 4)


def test_written_arguments():
    f = pynn.compile(lambda x, out: out.copy_(x * 2))
    for k in range(3):
        x, out = pynn.ones(3) * k, pynn.zeros(3)
        before = out._version
        f(x, out)
        np.testing.assert_array_equal(out.numpy(), [2 * k] * 3)
        assert out._version != before
    big = pynn.zeros(6)
    with pytest.raises(NotRecordable, match="is written, and not contiguous"):
        f(pynn.ones(3), big[::2])
    np.testing.assert_array_equal(big.numpy(), [2, 0, 2, 0, 2, 0])


def test_layouts_dtypes_and_shapes_have_plans_of_their_own():
    f = pynn.compile(lambda x: x * 2 + x.sum())
    rng = np.random.default_rng(0)
    for shape in ((3, 4), (4, 3), (0, 3), (1,)):
        for dtype in ("f4", "f8"):
            a = rng.standard_normal(shape).astype(dtype)
            for b in (a, a.T, a[::-1], a[..., ::2], a.astype(a.dtype.newbyteorder())):
                for _ in range(2):
                    want = Tensor(b) * 2 + Tensor(b).sum()
                    got = f(b)
                    assert got.dtype == want.dtype
                    np.testing.assert_array_equal(got.numpy(), want.numpy())
    assert f.replays > 40


def test_inputs_that_require_grad():
    def f(x):
        (x * x).sum().backward()
        return x.grad

    g = pynn.compile(f)
    for k in range(4):
        x = Tensor([1.0 + k, 2.0], requires_grad=True)
        np.testing.assert_array_equal(g(x).numpy(), [2 + 2 * k, 4])
        np.testing.assert_array_equal(x.grad.numpy(), [2 + 2 * k, 4])
    assert g.replays == 3
    x = Tensor([1.0, 2.0])
    with pytest.raises(RuntimeError, match="no history"):
        g(x)  # another signature: x asks for no gradient


def test_arguments_with_history():
    w = Tensor([2.0], requires_grad=True)
    g = pynn.compile(lambda x: x * 2)
    with pytest.raises(NotRecordable, match="history"):
        g(w * 1)
    with pynn.no_grad():
        assert g(w * 1).item() == 4
        assert g(w * 3).item() == 12


def test_plain_arguments_are_part_of_the_signature():
    f = pynn.compile(lambda x, k, *, up=True: x * k if up else x - k)
    x = pynn.ones(2)
    for _ in range(2):
        assert f(x, 2).tolist() == [2, 2]
        assert f(x, 3).tolist() == [3, 3]
        assert f(x, 3, up=False).tolist() == [-2, -2]
        assert f(x, True).dtype == np.float32
    assert f.replays == 4


# ---- what a function reads besides its arguments ------------------------------------------------------


def test_closures_over_changing_numbers():
    k = 1.0
    f = pynn.compile(lambda x: x * k)
    x = pynn.ones(1)
    seen = []
    for k in (1.0, 2.0, 2.0, 3.0, 1.0):
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


# ---- gradients --------------------------------------------------------------------------------------


def test_gradients_that_are_kept_stay():
    model = make_model()
    step = pynn.compile(make_step(model, optim.SGD(model.parameters(), lr=0.1)))
    twin = make_model()
    eager = make_step(twin, optim.SGD(twin.parameters(), lr=0.1))
    kept, want = [], []
    for x, y in batches(6):
        step(x, y)
        eager(x, y)
        kept.append(model[0].weight.grad)
        want.append(twin[0].weight.grad)
    for a, b in zip(kept, want):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


@pytest.mark.parametrize("how", ["zero_grad", "accumulate", "to zero", "mixed"])
def test_grad_set_to_none_or_not(how):
    def run(compiled):
        model = make_model()
        loss = nn.CrossEntropyLoss()

        def backward(x, y):
            e = loss(model(x), y)
            e.backward()
            return e

        backward = pynn.compile(backward) if compiled else backward
        seen = []
        for k, (x, y) in enumerate(batches(8)):
            if how == "zero_grad":
                model.zero_grad()
            elif how == "to zero":
                model.zero_grad(set_to_none=False)
            elif how == "mixed" and k % 3 == 0:
                model.zero_grad()
            backward(x, y)
            seen.append([p.grad.numpy_copy() for p in model.parameters()])
        return seen, backward

    want, _ = run(False)
    got, f = run(True)
    for a, b in zip(got, want):
        for u, v in zip(a, b):
            np.testing.assert_array_equal(u, v)
    assert f.replays >= 4


def test_no_memory_grows_and_none_is_asked_for():
    model = make_model(0.1)
    step = pynn.compile(make_step(model, optim.Adam(model.parameters())))
    data = batches(4)
    for k in range(20):
        step(*data[k % 4])
    gc.collect()
    before = _core.alloc_stats()
    for k in range(200):
        step(*data[k % 4])
    after = _core.alloc_stats()
    assert after["n_alloc"] == before["n_alloc"]
    assert after["live"] == before["live"]


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
        (host_item, r"item\(\) reads .* on the host \(at .*test_plan.py:\d+\)"),
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
    with pytest.warns(RuntimeWarning, match="stays eager: .* on the host"):
        for a in ([1.0, -1.0, 2.0], [1.0, 2.0, 3.0], [-1.0, -2.0, -3.0], [1.0, 1.0, -1.0]):
            assert f(Tensor(a)).item() == sum(v for v in a if v > 0)


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


# ---- random state, anomaly, cache ------------------------------------------------------------------------


def test_dropout_draws_anew_at_each_replay():
    drop = nn.Dropout(0.5)
    f = pynn.compile(drop)
    x = pynn.ones(200)
    pynn.manual_seed(3)
    want = [drop(x).numpy_copy() for _ in range(5)]
    pynn.manual_seed(3)
    got = [f(x).numpy_copy() for _ in range(5)]
    for a, b in zip(got, want):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(got[1], got[2])
    assert f.replays == 4


def test_anomalies_are_named_in_replays():
    f = pynn.compile(lambda x: pynn.log(x) * 2)
    f(pynn.ones(3))
    with pynn.detect_anomaly(), pytest.raises(FloatingPointError, match="log made NaN"):
        f(pynn.ones(3) * -1)
    assert f(pynn.ones(3)).tolist() == [0] * 3
    assert f.replays >= 1


def test_the_cache_is_bounded():
    f = pynn.compile(lambda x: (x * 2 + 1) * x, max_bytes=200_000)
    for n in range(1, 400):
        np.testing.assert_array_equal(f(pynn.ones(n)).numpy(), [3] * n)
    assert 1 < len(f.plans) < 399
    assert f.nbytes <= 200_000
    small = f.captures
    f(pynn.ones(399))
    assert f.captures == small


def test_lives_of_temporaries_share_a_pool():
    def deep(x):
        for _ in range(50):
            x = pynn.tanh(x) + 0.5
        return x

    f = pynn.compile(deep)
    x = pynn.ones(1000)
    f(x)
    np.testing.assert_array_equal(f(x).numpy(), deep(x).numpy())
    assert f.plans[0].pool_bytes <= 2 * 4096  # two values alive at once, not a hundred


def test_dead_calls_are_left_out():
    f = pynn.compile(lambda x: (pynn.exp(x), x * 2)[1])
    f(pynn.ones(3))
    assert f.plans[0].n_call == 1


def test_bad_arguments():
    with pytest.raises(TypeError, match="compile: argument 'fn': expected a function"):
        pynn.compile(3)
    with pytest.raises(ValueError, match="compile: argument 'max_bytes'"):
        pynn.compile(lambda x: x, max_bytes=0)

    @pynn.compile(strict=False)
    def f(x):
        """Doubles."""
        return x * 2

    assert (f.__name__, f.__doc__) == ("f", "Doubles.")
    assert f(pynn.ones(1)).item() == 2
