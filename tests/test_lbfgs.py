"""L-BFGS: PyTorch's way, its state, and what is left behind where the closure raises."""

import copy

import numpy as np
import pytest
from scipy.optimize import minimize, rosen, rosen_der

import pynn
from pynn import Tensor, nn
from pynn.optim import LBFGS

START = np.array([-1.2, 1.0, 0.7, 0.1])

# options, and where torch.optim.LBFGS of PyTorch 2.13 is after three steps on Rosenbrock's function, with its counts
TORCH = (
    (
        {"lr": 0.05, "history_size": 3},
        [-0.920146507462578, 0.8392718748116442, 0.6882876989129761, 0.4569521075963991],
        60,
        60,
    ),
    (
        {"line_search_fn": "strong_wolfe", "history_size": 2, "max_iter": 7},
        [-0.7870187349832132, 0.631228997106141, 0.40270530657745934, 0.16129052893908127],
        25,
        21,
    ),
    (
        {"lr": 0.3, "max_iter": 4, "max_eval": 3},
        [-0.9106608457271692, 0.8220884464551692, 0.6146526317143175, 0.3111354391882554],
        9,
        6,
    ),
)


def rosenbrock(p):
    a, b = p[:-1], p[1:]
    return (100.0 * (b - a * a) ** 2 + (1.0 - a) ** 2).sum()


def problem(**options):
    p = Tensor(START, requires_grad=True)
    opt = LBFGS([p], **options)

    def closure():
        opt.zero_grad()
        loss = rosenbrock(p)
        loss.backward()
        return loss

    return p, opt, closure


@pytest.mark.parametrize(("options", "want", "evaluations", "iterations"), TORCH)
def test_steps_are_pytorchs(options, want, evaluations, iterations):
    p, opt, closure = problem(**options)
    first = opt.step(closure)
    assert first.item() == pytest.approx(rosen(START), rel=1e-14)
    opt.step(closure)
    opt.step(closure)
    np.testing.assert_allclose(p.numpy_copy(), want, rtol=1e-11)
    state = opt.state_dict()["state"][0]
    assert (state["func_evals"], state["n_iter"]) == (evaluations, iterations)


@pytest.mark.parametrize("search", [None, "strong_wolfe"])
def test_steps_go_on_with_what_was_learned(search):
    """Many steps of one iteration are one step of many; without the pairs they would be gradient descent."""
    options = {"lr": 0.1 if search is None else 1.0, "line_search_fn": search, "tolerance_change": 0.0}
    many, opt, closure = problem(max_iter=1, **options)
    for _ in range(25):
        opt.step(closure)
    one, opt, closure = problem(max_iter=25, max_eval=1000, **options)
    opt.step(closure)
    np.testing.assert_allclose(many.numpy_copy(), one.numpy_copy(), rtol=1e-6)


@pytest.mark.parametrize("search", [None, "strong_wolfe"])
def test_a_state_goes_on_bit_for_bit(search):
    options = {"lr": 0.2 if search is None else 1.0, "max_iter": 4, "line_search_fn": search, "history_size": 5}
    p, opt, closure = problem(**options)
    for _ in range(3):
        opt.step(closure)
    kept = p.numpy_copy(), opt.state_dict()
    opt.step(closure)
    want = p.numpy_copy()
    q, again, closure = problem(**options)
    with pynn.no_grad():
        q.copy_(Tensor(kept[0]))
    again.load_state_dict(copy.deepcopy(kept[1]))
    again.step(closure)
    np.testing.assert_array_equal(q.numpy_copy(), want)
    assert len(again.state_dict()["state"][0]["old_dirs"]) == 5
    wrong = copy.deepcopy(kept[1])
    wrong["state"][0]["d"] = np.zeros(3)
    with pytest.raises(ValueError, match=r"'d': expected shape \(4,\), got \(3,\)"):
        again.load_state_dict(wrong)
    del wrong["state"][0]["d"]
    with pytest.raises(ValueError, match="got no d"):
        again.load_state_dict(wrong)
    np.testing.assert_array_equal(again.state_dict()["state"][0]["d"], opt.state_dict()["state"][0]["d"])


@pytest.mark.parametrize("search", [None, "strong_wolfe"])
def test_a_closure_that_raises_changes_nothing(search):
    """Whichever evaluation it is: parameters and state are those before the step, which can then be made again."""
    options = {"lr": 0.2 if search is None else 1.0, "max_iter": 4, "line_search_fn": search}
    want, opt, closure = problem(**options)
    for _ in range(2):
        opt.step(closure)
    before, calls = want.numpy_copy(), opt.evaluations + 3
    opt.step(closure)
    for fails in range(1, min(calls, opt.evaluations) + 1):
        p, opt, closure = problem(**options)
        for _ in range(2):
            opt.step(closure)
        state, left = opt.state_dict(), [fails]

        def broken(closure=closure, left=left):
            left[0] -= 1
            if not left[0]:
                raise KeyboardInterrupt
            return closure()

        with pytest.raises(KeyboardInterrupt):
            opt.step(broken)
        np.testing.assert_array_equal(p.numpy_copy(), before)
        now = opt.state_dict()["state"][0]
        for name, value in state["state"][0].items():
            np.testing.assert_array_equal(now[name], value, err_msg=name)
        opt.step(closure)
        np.testing.assert_array_equal(p.numpy_copy(), want.numpy_copy())


def test_the_minimum_is_scipys():
    p, opt, closure = problem(line_search_fn="strong_wolfe", max_iter=200, tolerance_grad=1e-9, tolerance_change=0.0)
    opt.step(closure)
    want = minimize(rosen, START, jac=rosen_der, method="L-BFGS-B", options={"gtol": 1e-9, "ftol": 1e-15})
    np.testing.assert_allclose(p.numpy_copy(), want.x, atol=1e-6)
    assert opt.evaluations < 3 * want.nfev


def test_a_network_of_float32():
    pynn.manual_seed(0)
    rng = np.random.default_rng(0)
    x, t = Tensor(rng.standard_normal((50, 4)).astype("f4")), Tensor(rng.standard_normal((50, 2)).astype("f4"))
    model = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 2))
    model[0].bias.requires_grad = False
    kept = model[0].bias.numpy_copy()
    opt = LBFGS(model.parameters(), line_search_fn="strong_wolfe")
    losses = []

    def closure():
        opt.zero_grad()
        loss = ((model(x) - t) ** 2).mean()
        loss.backward()
        return loss

    for _ in range(5):
        losses.append(opt.step(closure).item())
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.5 * losses[0]
    np.testing.assert_array_equal(model[0].bias.numpy_copy(), kept)
    model[0].bias.requires_grad = True  # other parameters: the pairs are of no use
    assert opt.step(closure).item() < losses[-1]


def test_a_loss_that_is_no_number_ends_a_step():
    for search in (None, "strong_wolfe"):
        p, opt, closure = problem(line_search_fn=search)
        closure = lambda p=p, opt=opt: (opt.zero_grad(), (loss := rosenbrock(p) * np.nan).backward(), loss)[2]  # noqa: E731
        opt.step(closure)
        np.testing.assert_array_equal(p.numpy_copy(), START)


def test_bad_arguments():
    p, opt, closure = problem()
    with pytest.raises(TypeError, match="needs a closure"):
        opt.step()
    with pytest.raises(TypeError, match="clips nothing"):
        opt.step(closure, max_norm=1.0)
    for options, text in (
        ({"lr": -1}, "Invalid learning rate"), ({"max_iter": 0}, "Invalid max_iter"), ({"max_eval": 0}, "max_eval"),
        ({"history_size": 0}, "Invalid history_size"), ({"tolerance_grad": -1}, "Invalid tolerance_grad"),
        ({"line_search_fn": "armijo"}, "None or 'strong_wolfe'"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=text):
            LBFGS([p], **options)
    with pytest.raises(ValueError, match="parameter groups"):
        LBFGS([{"params": [p]}, {"params": [Tensor(START, requires_grad=True)]}])


def test_a_step_that_begins_at_a_minimum():
    """It leaves counts and no vectors, and the next step, or one after a load, begins anew."""
    aim = [0.0]
    p, opt = Tensor(np.zeros(2), requires_grad=True), None

    def closure():
        opt.zero_grad()
        e = ((p - aim[0]) ** 2).sum()
        e.backward()
        return e

    opt = LBFGS([p])
    opt.step(closure)
    assert (opt.iterations, opt.evaluations) == (0, 1)
    state = opt.state_dict()
    opt = LBFGS([p])
    opt.load_state_dict(state)
    aim[0] = 3.0
    opt.step(closure)
    np.testing.assert_allclose(p.numpy_copy(), 3.0, rtol=1e-12)
    assert opt.state_dict()["state"][0]["func_evals"] == 1 + opt.evaluations


@pytest.mark.parametrize("search", [None, "strong_wolfe"])
def test_a_rate_of_0_moves_nothing(search, recwarn):
    p, opt, closure = problem(lr=0.01, line_search_fn=search)
    opt.step(closure)
    before = p.numpy_copy()
    opt.param_groups[0]["lr"] = 0.0
    for _ in range(2):
        opt.step(closure)
    np.testing.assert_array_equal(p.numpy_copy(), before)
    assert not recwarn


def test_gradients_by_rows():
    table, found = np.linspace(-1, 1, 8).reshape(4, 2), []
    for sparse in (False, True):
        layer = nn.Embedding.from_pretrained(table, freeze=False, sparse=sparse)
        opt = LBFGS(layer.parameters(), line_search_fn="strong_wolfe")

        def closure(layer=layer, opt=opt):
            opt.zero_grad()
            e = (layer(Tensor(np.array([2, 0, 2]))) ** 2).sum()
            e.backward()
            return e

        opt.step(closure)
        found.append(layer.weight.numpy_copy())
    np.testing.assert_array_equal(*found)
    assert np.abs(found[0][[0, 2]]).max() < 1e-4
    np.testing.assert_array_equal(found[0][[1, 3]], table[[1, 3]])
