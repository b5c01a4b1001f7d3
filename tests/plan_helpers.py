"""A model, a step and batches to make plans of."""

import numpy as np

import pynn
from pynn import Tensor, nn
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


def eager(model, x):
    """What the model gives in evaluation mode, as an array; its mode stays."""
    mode = model.training
    with pynn.no_grad():
        y = model.eval()(pynn.tensor(x)).numpy_copy()
    model.train(mode)
    return y
