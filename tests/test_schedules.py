"""Learning rates: PyTorch's, to the last digits; they go on from a state, and recorded steps go on being replayed."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

import pynn
from pynn import nn
from pynn.files import pack, unpack
from pynn.optim import SGD, Adam, lr_scheduler

sys.path.insert(0, str(Path(__file__).parent / "fixtures"))
import make_schedules_torch as made

WANTED = json.loads((Path(__file__).parent / "fixtures/schedules_torch.json").read_text())
CASES = [*made.CASES, *made.SEVERAL]


def parameters():
    return [nn.Parameter(np.zeros(2, "f4")) for _ in made.RATES]


@pytest.mark.parametrize("case", CASES)
def test_rates_are_pytorchs(case):
    found = made.rates(lr_scheduler, SGD, parameters(), case)
    np.testing.assert_allclose(found, WANTED[case], rtol=1e-12, atol=1e-17)


def schedule_of(case):
    optimizer = SGD([{"params": [p], "lr": lr} for p, lr in zip(parameters(), made.RATES)], momentum=0.9)
    if case in made.SEVERAL:
        return optimizer, made.SEVERAL[case](lr_scheduler, optimizer)
    name, options = made.CASES[case]
    return optimizer, getattr(lr_scheduler, name)(optimizer, **options)


@pytest.mark.parametrize("case", CASES)
def test_a_schedule_goes_on_from_its_state(case):
    """At several places; the state goes through what a file would hold."""

    def step(schedule, t):
        schedule.step(*[made.figure(t)] if case.startswith("plateau") else [])

    for at in (0, 3, 6, 17):
        optimizer, schedule = schedule_of(case)
        for t in range(at):
            step(schedule, t)
        kept = json.loads(json.dumps(pack(schedule.state_dict(), "schedule", {})))
        state = optimizer.state_dict()
        rates = []
        for t in range(at, at + 20):
            step(schedule, t)
            rates.append([g["lr"] for g in optimizer.param_groups])
        other, again = schedule_of(case)
        other.load_state_dict(state)
        again.load_state_dict(unpack(kept, {}))
        for t, want in zip(range(at, at + 20), rates):
            step(again, t)
            assert [g["lr"] for g in other.param_groups] == want
            assert again.get_last_lr() == want


def test_recorded_steps_are_replayed_while_the_rate_changes():
    pynn.manual_seed(0)
    x, y = pynn.randn(16, 4), pynn.randn(16, 1)
    results = []
    for compiled in (True, False):
        pynn.manual_seed(1)
        model = nn.Linear(4, 1)
        optimizer = Adam(model.parameters(), lr=0.1)
        schedule = lr_scheduler.OneCycleLR(optimizer, 0.5, 30)

        def step(x, y, model=model, optimizer=optimizer):
            optimizer.zero_grad()
            e = ((model(x) - y) ** 2).mean()
            e.backward()
            optimizer.step()
            return e

        step = pynn.compile(step) if compiled else step
        for _ in range(29):
            step(x, y)
            schedule.step()
        results.append([p.numpy_copy() for p in model.parameters()])
        assert not compiled or (step.captures, step.replays) == (1, 28)
    for a, b in zip(*results):
        np.testing.assert_array_equal(a, b)


BAD = {
    "no optimizer": (lambda m, o: m.StepLR(3, 1), TypeError, "StepLR: argument 'optimizer': expected an .*got int"),
    "step size": (lambda m, o: m.StepLR(o, 0), ValueError, "'step_size': expected an integer >= 1, got 0"),
    "lambdas": (lambda m, o: m.LambdaLR(o, [abs, abs]), ValueError, "'lr_lambda': expected 1 functions, got 2"),
    "constant": (lambda m, o: m.ConstantLR(o, 2), ValueError, "'factor': expected a number"),
    "linear start": (lambda m, o: m.LinearLR(o, 0), ValueError, "'start_factor'"),
    "linear end": (lambda m, o: m.LinearLR(o, 0.1, 2), ValueError, "'end_factor'"),
    "restarts": (lambda m, o: m.CosineAnnealingWarmRestarts(o, 1.5), ValueError, "'T_0': expected an integer >= 1"),
    "steps": (lambda m, o: m.OneCycleLR(o, 1.0), ValueError, r"expected total_steps, or epochs"),
    "pct": (lambda m, o: m.OneCycleLR(o, 1.0, 10, pct_start=2), ValueError, "'pct_start': expected a number"),
    "anneal": (lambda m, o: m.OneCycleLR(o, 1.0, 10, anneal_strategy="x"), ValueError, "'cos' or 'linear'"),
    "tops": (lambda m, o: m.OneCycleLR(o, [1.0, 2.0], 10), ValueError, "expected 1 values for max_lr, got 2"),
    "cyclic": (lambda m, o: m.CyclicLR(o, 0.1, 1.0, mode="x"), ValueError, "'mode': expected a known mode"),
    "milestones": (lambda m, o: m.SequentialLR(o, [m.StepLR(o, 1)], [3]), ValueError, "'milestones': expected 0"),
    "none": (lambda m, o: m.ChainedScheduler([]), ValueError, "expected at least one, got none"),
    "two optimizers": (lambda m, o: m.ChainedScheduler([m.StepLR(o, 1), m.StepLR(SGD(parameters()), 1)]),
                       ValueError, "to be of one optimizer"),
    "chained plateau": (lambda m, o: m.ChainedScheduler([m.ReduceLROnPlateau(o)]), TypeError, "got ReduceLROnPlateau"),
    "sequence in a sequence": (
        lambda m, o: m.SequentialLR(o, [m.StepLR(o, 1), m.ChainedScheduler([m.StepLR(o, 1)])], [3]),
        TypeError, "expected schedules that step alike, got ChainedScheduler",
    ),
    "no schedule": (lambda m, o: m.ChainedScheduler([abs]), TypeError, "got builtin_function_or_method"),
    "plateau": (lambda m, o: m.ReduceLROnPlateau(o, factor=1.0), ValueError, "'factor': expected a number below 1"),
    "plateau mode": (lambda m, o: m.ReduceLROnPlateau(o, "best"), ValueError, "expected 'min' or 'max', got 'best'"),
    "resume": (lambda m, o: m.StepLR(o, 1, last_epoch=3), KeyError, "initial_lr"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments(case):
    make, error, text = BAD[case]
    with pytest.raises(error, match=text):
        make(lr_scheduler, SGD(parameters(), lr=0.1))


def test_a_cycle_ends():
    optimizer = SGD(parameters(), lr=0.1)
    schedule = lr_scheduler.OneCycleLR(optimizer, 1.0, 3)
    for _ in range(3):
        schedule.step()
    with pytest.raises(ValueError, match="step 4 is beyond total_steps=3"):
        schedule.step()


@pytest.mark.parametrize(
    ("mode", "kind", "border"), [("min", "rel", 1.5), ("max", "rel", 2.5), ("min", "abs", 1.75), ("max", "abs", 2.25)]
)
def test_what_a_plateau_takes_for_better(mode, kind, border):
    """F-OPT-11: from a best of 2 a figure must go beyond 2·(1 ∓ ¼), or 2 ∓ ¼, to count."""
    schedule = lr_scheduler.ReduceLROnPlateau(SGD(parameters(), lr=0.1), mode, threshold=0.25, threshold_mode=kind)
    step = -0.125 if mode == "min" else 0.125
    assert not schedule.is_better(border, 2.0)
    assert not schedule.is_better(border - step, 2.0)
    assert schedule.is_better(border + step, 2.0)
