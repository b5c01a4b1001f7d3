"""Optimizers and clipping on gradients by rows, against dense steps on the rows used and against PyTorch."""

from pathlib import Path

import numpy as np
import pytest
from fixtures.make_sparse_adam_torch import CASES, SHAPE, STEPS, draws
from optim_helpers import data, leaves, set_grads, values

import pynn
from pynn import RowGradient, Tensor, nn
from pynn.nn.utils import clip_grad_norm_, clip_grad_value_
from pynn.optim import LAMB, SGD, Adagrad, Adam, AdamW, Lion, NAdam, RAdam, RMSprop, SparseAdam

DTYPES = ("float32", "float64")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES)
def test_sparse_adam_as_pytorch(case, dtype):
    with np.load(Path(__file__).with_name("fixtures") / "sparse_adam_torch.npz") as file:
        want, moments = file[f"{case}/{dtype}"], file[f"{case}/{dtype}/state"]
    start, grads = draws()
    (p,) = leaves([start], dtype)
    opt = SparseAdam([p], **CASES[case])
    rows = []
    for step, (index, g) in enumerate(grads, 1):
        p.grad = RowGradient(index, g.astype(dtype), SHAPE)
        opt.step()
        if step in (1, 2, STEPS):
            rows.append(p.detach().numpy_copy())
    tolerance = 1e-13 if dtype == "float64" else 1e-6
    np.testing.assert_allclose(np.stack(rows), want, rtol=tolerance, atol=tolerance)
    found = opt.state[p]
    np.testing.assert_allclose([found["exp_avg"].numpy(), found["exp_avg_sq"].numpy()], moments,
                               rtol=tolerance * 10, atol=tolerance)  # fmt: skip
    assert found["step"].item() == STEPS


MAKERS = {
    "sgd": lambda p: SGD(p, 0.1),
    "momentum": lambda p: SGD(p, 0.1, momentum=0.9, dampening=0.2, weight_decay=0.1),
    "nesterov": lambda p: SGD(p, 0.1, momentum=0.9, nesterov=True, maximize=True),
    "adagrad": lambda p: Adagrad(p, 0.1, lr_decay=0.3, weight_decay=0.1),
    "adagrad inside": lambda p: Adagrad(p, 0.1, eps=0.1, eps_inside=True, maximize=True),
    "adam": lambda p: Adam(p, 0.1, weight_decay=0.1),
    "amsgrad": lambda p: Adam(p, 0.1, betas=(0.5, 0.6), amsgrad=True),
    "adamw": lambda p: AdamW(p, 0.1, weight_decay=0.3),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", MAKERS)
def test_steps_by_rows_are_the_dense_steps_of_these_rows(name, dtype):
    """Rows that every step uses follow the dense optimizer to the bit; the others do not move, nor does their state."""
    rng = np.random.default_rng(5)
    used, table = [1, 2, 6], rng.standard_normal((8, 37))
    (p,), (q,) = leaves([table], dtype), leaves([table[used]], dtype)
    one, two = MAKERS[name]([p]), MAKERS[name]([q])
    for k in range(6):
        g = (rng.standard_normal((3, 37)) * 0.7**k).astype(dtype)
        p.grad, q.grad = RowGradient(used, g, p.shape), Tensor(g)
        one.step()
        two.step()
    after = p.detach().numpy_copy()
    np.testing.assert_array_equal(after[used], q.detach().numpy())
    np.testing.assert_array_equal(np.delete(after, used, 0), np.delete(table.astype(dtype), used, 0))
    for key, value in one.state.get(p, {}).items():
        if value.ndim == 2:
            np.testing.assert_array_equal(value.numpy()[used], two.state[q][key].numpy())
            assert not np.delete(value.numpy(), used, 0).any()
        else:
            assert value.item() == 6


def test_adagrad_by_rows_as_pytorch():
    """torch.optim.Adagrad([p], lr=0.5, lr_decay=0.25, initial_accumulator_value=0.125) on sparse gradients, in
    float64: two steps on rows (2, 0, 2) and (0, 3) of ones, which add up."""
    (p,) = leaves([np.ones((4, 1))], "float64")
    opt = Adagrad([p], 0.5, lr_decay=0.25, initial_accumulator_value=0.125)
    for index, g in (([2, 0, 2], [[1.0], [-2.0], [0.5]]), ([0, 3], [[1.0], [4.0]])):
        p.grad = RowGradient(index, np.array(g), (4, 1))
        opt.step()
    want = [1 + 1 / np.sqrt(4.125) - 0.4 / np.sqrt(5.125), 1.0, 1 - 0.75 / np.sqrt(2.375), 1 - 1.6 / np.sqrt(16.125)]
    np.testing.assert_allclose(p.detach().numpy()[:, 0], want, rtol=1e-9)
    np.testing.assert_allclose(opt.state[p]["sum"].numpy()[:, 0], [5.125, 0.125, 2.375, 16.125], rtol=1e-15)


@pytest.mark.parametrize("make", [RMSprop, NAdam, RAdam, Lion, LAMB])
def test_others_refuse_gradients_by_rows_as_pytorch_does(make):
    (p,) = leaves([np.ones((3, 2))], "float32")
    opt = make([p])
    p.grad = RowGradient([1], np.ones((1, 2), np.float32), (3, 2))
    with pytest.raises(RuntimeError, match=f"{make.__name__} does not support gradients by rows; SGD, Adagrad, Adam"):
        opt.step()
    assert (p.detach().numpy() == 1).all()


def test_rows_that_one_step_lacks_keep_their_state():
    (p,) = leaves([np.ones((4, 2))], "float64")
    opt = Adam([p], 0.1)
    p.grad = RowGradient([0, 1], np.ones((2, 2)), (4, 2))
    opt.step()
    before, moment = p.detach().numpy_copy(), opt.state[p]["exp_avg"].numpy_copy()
    p.grad = RowGradient([1, 3], np.ones((2, 2)), (4, 2))
    opt.step()
    after = p.detach().numpy()
    np.testing.assert_array_equal(after[[0, 2]], before[[0, 2]])
    assert (after[[1, 3]] < before[[1, 3]]).all()
    np.testing.assert_array_equal(opt.state[p]["exp_avg"].numpy()[0], moment[0])
    assert opt.state[p]["step"].item() == 2


def test_dense_and_sparse_in_one_optimizer():
    model = nn.Sequential(nn.EmbeddingBag(9, 4, sparse=True), nn.Linear(4, 2))
    twin = nn.Sequential(nn.EmbeddingBag(9, 4), nn.Linear(4, 2))
    twin.load_state_dict(model.state_dict())
    x = Tensor(np.random.default_rng(0).integers(0, 9, (6, 5)))
    for m in (model, twin):
        opt = SGD(m.parameters(), 0.1)
        for _ in range(4):
            opt.zero_grad()
            (m(x) ** 2).sum().backward()
            opt.step()
    assert model[0].weight.grad.is_sparse
    for name, value in model.state_dict().items():
        np.testing.assert_allclose(value, twin.state_dict()[name], rtol=1e-6, err_msg=name)


def test_sparse_adam_errors():
    (p,) = leaves([np.ones((3, 2))], "float32")
    set_grads([p], [np.ones((3, 2))])
    with pytest.raises(RuntimeError, match="SparseAdam does not support dense gradients, please consider Adam"):
        SparseAdam([p]).step()
    for options, text in (({"lr": -1}, "Invalid learning rate: -1"), ({"betas": (1.0, 0.9)}, "Invalid beta parameter"),
                          ({"eps": -1.0}, "Invalid epsilon value")):  # fmt: skip
        with pytest.raises(ValueError, match=text):
            SparseAdam([p], **options)


def test_a_table_that_is_not_row_major_is_refused():
    p = pynn.from_numpy(np.ones((2, 3), np.float32).T)
    p.requires_grad = True
    p.grad = RowGradient([1], np.ones((1, 2), np.float32), (3, 2))
    with pytest.raises(ValueError, match="sgd_rows_step: argument 'p' is written and must be row-major"):
        SGD([p], 0.1).step()


BAD = (([-1, 0, 1], 0), ([0, 4, 4], 1), ([1, 1, 2], 1), ([2, 1, 3], 1), ([0, 3, 1], 2))  # and the place that is wrong


@pytest.mark.parametrize("make", [SGD, Adam, Adagrad])
def test_an_index_that_does_not_rise_moves_no_row(make):
    """Threads share rows out, so that none may come twice; the number of rows fills an index up, for nothing."""

    def table(index):
        (p,) = leaves([np.ones((3, 2))], "float32")
        p.grad = RowGradient([0, 1, 2], np.ones((3, 2), np.float32), (3, 2))
        p.grad._index = pynn.tensor(np.array(index))
        return p

    for index, place in BAD:
        p = table(index)
        with pytest.raises(ValueError, match=rf"rising row numbers, .*, got {index[place]} at index\[{place}\]"):
            make([p], 0.1).step()
        assert (p.numpy() == 1).all()
    p = table([1, 3, 3])
    make([p], 0.1).step()
    assert (p.numpy() != 1).any(1).tolist() == [False, True, False]


# ---- clipping ---------------------------------------------------------------------------------------------


def mixed(dtype, seed=2):
    """A dense parameter and a table, with gradients."""
    rng = np.random.default_rng(seed)
    params = leaves([rng.standard_normal((5, 7)), rng.standard_normal((6, 3))], dtype)
    params[0].grad = Tensor(rng.standard_normal((5, 7)).astype(dtype))
    params[1].grad = RowGradient([4, 0, 4], rng.standard_normal((3, 3)).astype(dtype), (6, 3))
    return params


def dense(p):
    return p.grad.to_dense().numpy_copy() if p.grad.is_sparse else p.grad.numpy_copy()


@pytest.mark.parametrize("dtype", DTYPES)
def test_clipping_of_gradients_by_rows(dtype):
    params = mixed(dtype)
    before = [dense(p) for p in params]
    want = np.sqrt(sum(np.square(g, dtype=np.float64).sum() for g in before))
    norm = clip_grad_norm_(params, 0.5)
    np.testing.assert_allclose(norm.item(), want, rtol=1e-6)
    assert params[1].grad.indices.tolist() == [0, 4]
    for p, g in zip(params, before):
        np.testing.assert_allclose(dense(p), g * (0.5 / (want + 1e-6)), rtol=1e-5, atol=1e-9)
    clip_grad_value_(params, 0.01)
    assert max(np.abs(dense(p)).max() for p in params) <= np.dtype(dtype).type(0.01)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", MAKERS)
def test_step_with_max_norm_is_clipping_and_a_step(name, dtype):
    for max_norm in (0.25, 1e9, 0.0):
        one, two = mixed(dtype), mixed(dtype)
        before = [dense(p) for p in one]
        a, b = MAKERS[name](one), MAKERS[name](two)
        for _ in range(3):
            a.step(max_norm=max_norm)
            for p, fresh in zip(two, mixed(dtype)):
                p.grad = fresh.grad
            clip_grad_norm_(two, max_norm)
            b.step()
        tolerance = 1e-12 if dtype == "float64" else 1e-5
        np.testing.assert_allclose(values(one), values(two), rtol=tolerance, atol=tolerance)
        for p, g in zip(one, before):
            np.testing.assert_array_equal(dense(p), g)
        a.step()  # the scale was that step's
        assert a._scale.item() == 1.0


def test_max_norm_where_the_norm_is_not_finite_and_errors():
    (p,) = leaves([[1.0, 2.0]], "float32")
    opt = SGD([p], 0.1)
    opt.step(max_norm=1.0)  # no gradient, nothing to do
    assert p.tolist() == [1.0, 2.0]
    for bad in (-1.0, np.nan):
        with pytest.raises(ValueError, match=r"step: argument 'max_norm': expected a number >= 0, got"):
            opt.step(max_norm=bad)
    set_grads([p], [[np.nan, 1.0]])
    opt.step(max_norm=1.0)
    assert np.isnan(p.detach().numpy()).all()


def test_max_norm_over_gradients_of_both_dtypes():
    one, two = (leaves([[3.0, 4.0]], "float32") + leaves([[12.0]], "float64") for _ in range(2))
    for params in (one, two):
        set_grads(params, [[3.0, 4.0], [12.0]])
    SGD(one, 1.0).step(max_norm=6.5)
    clip_grad_norm_(two, 6.5)
    SGD(two, 1.0).step()
    np.testing.assert_allclose(values(one), [1.5, 2.0, 6.0], rtol=1e-6)
    np.testing.assert_allclose(values(one), values(two), rtol=1e-6)


@pytest.mark.parametrize("make", [lambda p: Adam(p, 0.1), lambda p: SGD(p, 0.1, momentum=0.9)], ids=["adam", "sgd"])
def test_lists_beyond_the_caches_are_stepped_as_short_ones(make):
    """Lists above a size fetch ahead: the values are the same."""
    n = 1_100_000
    start, (g,) = data(1, ((n,),), "float32")
    (p,), (q,) = leaves(start, "float32"), leaves([start[0][:1000]], "float32")
    for x, k in ((p, n), (q, 1000)):
        opt = make([x])
        set_grads([x], [g[0][:k]])
        opt.step()
        opt.step()
    np.testing.assert_array_equal(p.detach().numpy()[:1000], q.detach().numpy())
