"""Dictionaries and copies of optimizers."""

import copy
import pickle

import numpy as np
import pytest
from optim_helpers import data, leaves, set_grads, values

import pynn
from pynn.optim import SGD, Adam, AdamW

DTYPES = ("float32", "float64")

MAKERS = {
    "sgd": lambda p: SGD(p, 0.05, momentum=0.9, dampening=0.4),
    "adam": lambda p: Adam(p, 0.05, amsgrad=True),
    "adamw": lambda p: AdamW([{"params": p[:2]}, {"params": p[2:], "lr": 0.2}], 0.05),
}


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_resume_equals_never_having_stopped(name, dtype):
    start, grads = data(6, dtype=dtype)
    params = leaves(start, dtype)
    opt = MAKERS[name](params)
    for k, gs in enumerate(grads):
        if k == 3:
            saved = pickle.loads(pickle.dumps(opt.state_dict()))
            others = leaves([p.numpy_copy() for p in params], dtype)
            other = MAKERS[name](others)
            other.param_groups[0]["lr"] = 9.0
            other.load_state_dict(saved)
        set_grads(params, gs)
        opt.step()
        if k >= 3:
            set_grads(others, gs)
            other.step()
    assert values(params).tobytes() == values(others).tobytes()
    assert other.param_groups[0]["lr"] == 0.05


def test_state_dict_has_pytorchs_structure():
    params = leaves([[1.0, 2.0], [3.0]], "float32")
    set_grads(params, [[1.0, 1.0], None])
    opt = Adam([{"params": params[:1]}, {"params": params[1:], "lr": 0.5}], amsgrad=True)
    opt.step()
    found = opt.state_dict()
    assert list(found["state"]) == [0]
    assert set(found["state"][0]) == {"step", "exp_avg", "exp_avg_sq", "max_exp_avg_sq"}
    assert all(isinstance(v, np.ndarray) for v in found["state"][0].values())
    assert found["state"][0]["step"].shape == ()
    assert [g["params"] for g in found["param_groups"]] == [[0], [1]]
    assert found["param_groups"][1] == {
        "lr": 0.5, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0, "amsgrad": True, "maximize": False,
        "decoupled_weight_decay": False, "params": [1],
    }  # fmt: skip
    sgd = SGD(params, 0.1, momentum=0.5)
    sgd.step()
    assert list(sgd.state_dict()["state"][0]) == ["momentum_buffer"]


def test_load_takes_pytorchs_dictionary_and_keeps_the_parameters_dtype():
    base = pynn.tensor(np.zeros((2, 4, 5, 3)))
    p = base.permute(0, 3, 1, 2).detach().requires_grad_()
    mean = np.arange(120, dtype=np.float32).reshape(2, 3, 4, 5)
    saved = {
        "state": {7: {"step": np.float32(3), "exp_avg": mean.tolist(), "exp_avg_sq": mean + 1}},
        "param_groups": [
            {"lr": 0.25, "betas": (0.5, 0.6), "eps": 1e-8, "weight_decay": 0, "amsgrad": False, "foreach": None,
             "maximize": False, "capturable": False, "differentiable": False, "fused": None, "params": [7]}
        ],
    }  # fmt: skip
    opt = Adam([p])
    opt.load_state_dict(saved)
    group, state = opt.param_groups[0], opt.state[p]
    assert (group["lr"], group.lr_tensor.item(), group["betas"]) == (0.25, 0.25, (0.5, 0.6))
    assert state["exp_avg"].dtype == np.float64
    assert state["exp_avg"].strides == p.strides
    np.testing.assert_array_equal(state["exp_avg"].numpy_copy(), mean)
    assert state["step"].item() == 3
    held = dict(state)
    opt.load_state_dict(saved)
    assert all(opt.state[p][k] is v for k, v in held.items())  # a recorded step goes on with these tensors


def test_load_sgd_without_momentum_buffers():
    params = leaves([[1.0]], "float32")
    opt = SGD(params, 0.1, momentum=0.9, dampening=0.5)
    set_grads(params, [[1.0]])
    opt.step()
    saved = {"state": {0: {"momentum_buffer": None}}, "param_groups": opt.state_dict()["param_groups"]}
    opt.load_state_dict(saved)
    opt.step()
    assert opt.state[params[0]]["momentum_buffer"].tolist() == [1.0]  # the first step again


def test_load_refuses_what_does_not_fit_and_changes_nothing():
    params = leaves([[1.0, 2.0], [3.0]], "float32")
    opt = Adam(params, lr=0.1)
    set_grads(params, [[1.0, 1.0], [1.0]])
    opt.step()
    before = opt.state_dict()
    bad = copy.deepcopy(before)
    bad["param_groups"].append(bad["param_groups"][0])
    with pytest.raises(ValueError, match="different number of parameter groups"):
        opt.load_state_dict(bad)
    bad = copy.deepcopy(before)
    bad["param_groups"][0]["params"] = [0]
    with pytest.raises(ValueError, match="doesn't match the size of optimizer's group"):
        opt.load_state_dict(bad)
    bad = copy.deepcopy(before)
    bad["param_groups"][0]["lr"] = 5.0
    bad["state"][1]["exp_avg_sq"] = np.zeros(3)
    with pytest.raises(ValueError, match=r"state 1, 'exp_avg_sq': expected the parameter's shape \(1,\), got \(3,\)"):
        opt.load_state_dict(bad)
    bad = copy.deepcopy(before)
    bad["state"][0] = {"momentum_buffer": np.zeros(2)}
    with pytest.raises(ValueError, match="state 0: expected step, exp_avg, exp_avg_sq, got momentum_buffer"):
        opt.load_state_dict(bad)
    bad = copy.deepcopy(before)
    bad["state"][0]["step"] = np.zeros(2)
    with pytest.raises(ValueError, match="'step': expected one number"):
        opt.load_state_dict(bad)
    after = opt.state_dict()
    assert after["param_groups"] == before["param_groups"]
    for k in (0, 1):
        for name, v in before["state"][k].items():
            np.testing.assert_array_equal(after["state"][k][name], v)


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["copy", "pickle"])
def test_copies_go_on_alike_and_apart(clone):
    start, grads = data(4)
    params = leaves(start, "float64")
    opt = Adam(params, lr=0.1)
    set_grads(params, grads[0])
    opt.step()
    params2, opt2 = clone((params, opt))
    opt2.param_groups[0]["lr"] = 0.01
    assert opt.param_groups[0]["lr"] == opt.param_groups[0].lr_tensor.item() == 0.1
    opt2.param_groups[0]["lr"] = 0.1
    for gs in grads[1:]:
        for ps, o in ((params, opt), (params2, opt2)):
            set_grads(ps, gs)
            o.step()
    np.testing.assert_array_equal(values(params), values(params2))
    assert params[0] is not params2[0]
