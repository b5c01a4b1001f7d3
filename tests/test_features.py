"""docs/features.md lists every row of the seeds' features, with links that lead somewhere; and F-AD-2."""

import ast
import re
import timeit
from pathlib import Path

import numpy as np
import pytest

import pynn
from pynn import nn
from pynn.nn import functional as F

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "features.md"
COUNTS = {"AD": 11, "ACT": 6, "LOSS": 16, "OPT": 12, "REG": 14, "INIT": 3, "NORM": 4, "LAY": 16, "TR": 6, "UND": 9,
          "EX": 5}  # fmt: skip
ROWS = re.findall(r"^\| (F-[A-Z]+-\d+) \| (.+?) \| (.+?) \| (.+?) \|$", PAGE.read_text(), re.M) if PAGE.exists() else []


@pytest.mark.skipif(not ROWS, reason="not in the source tree")
def test_every_row_is_listed_once():
    assert [r[0] for r in ROWS] == [f"F-{kind}-{k}" for kind, n in COUNTS.items() for k in range(1, n + 1)]


@pytest.mark.parametrize("row", ROWS, ids=lambda r: r[0])
def test_links_lead_somewhere(row):
    """To a file, and to tests of that name."""
    _, _, where, tests = row
    (path,) = re.fullmatch(r"\[[^\]]+\]\(([^)]+)\)", where).groups()
    assert (PAGE.parent / path).is_file(), path
    for test in tests.split(", "):
        name, path = re.fullmatch(r"\[(\w+)\]\(([^)]+)\)", test).groups()
        tree = ast.parse((PAGE.parent / path).read_text())
        assert name in {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)}, f"{path} has no {name}"


def test_backward_costs_two_forwards():
    """F-AD-2: value and gradient take about three times a forward pass (two products for each of its own, but for the
    first layer, whose input needs no gradient); differences need a pass for each parameter (S0, S4 Complexity)."""
    model = nn.Sequential(nn.Linear(384, 384), nn.ReLU(), nn.Linear(384, 384), nn.ReLU(), nn.Linear(384, 384))
    params = list(model.parameters())
    x, y = pynn.randn(256, 384), pynn.Tensor(np.zeros(256, np.int64))

    def forward():
        with pynn.no_grad():
            F.cross_entropy(model(x), y)

    def both():
        pynn.grad(F.cross_entropy(model(x), y), params)

    best = [min(timeit.repeat(f, number=1, repeat=30)) for f in (forward, both)]
    assert 1.5 < best[1] / best[0] < 5
    assert best[0] * sum(p.size for p in params) > 10_000 * best[1]
