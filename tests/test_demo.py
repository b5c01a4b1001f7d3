"""The demo learns: five seeds, each at least 96 % on the test scans, their median at least 97 %."""

import statistics
from time import perf_counter

import numpy as np
import pytest

pytest.importorskip("sklearn")

from pynn.cli.demo import digits, main, train

EPOCHS = 40
SEEDS = range(5)


def test_split_is_fixed_and_stratified():
    X, y, X_val, y_val, X_test, y_test = digits()
    assert (len(X), len(X_val), len(X_test)) == (1212, 135, 450)
    assert (np.bincount(y_test) >= 43).all()
    assert all(np.array_equal(a, b) for a, b in zip(digits(), (X, y, X_val, y_val, X_test, y_test), strict=True))
    assert X.min() == 0
    assert X.max() == 1


def test_five_seeds():
    data = digits()
    scores, times = [], []
    for seed in SEEDS:
        start = perf_counter()
        trainer, history = train(seed, EPOCHS, data, progress=False)
        times.append(perf_counter() - start)
        assert history.epochs == EPOCHS
        scores.append(trainer.evaluate(data[4], data[5])["accuracy"])
    print(f"test accuracies {scores}, seconds {times}")
    assert min(scores) >= 0.96
    assert statistics.median(scores) >= 0.97


def test_what_is_printed_is_what_was_measured(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    assert main(["--out", str(tmp_path), "--epochs", "3", "--quiet", "--seed", "1"]) == 0
    trainer, _ = train(1, 3, digits(), progress=False)
    accuracy = trainer.evaluate(*digits()[4:])["accuracy"]
    assert f"Test accuracy: {accuracy:.2%} ({round(accuracy * 450)} of 450" in capsys.readouterr().out
