"""An LSTM forecasts two series: a pendulum that is driven into chaos, and a recorded electroencephalogram.

The pendulum obeys θ'' = −sin θ − θ'/2 + 3/2 cos(2t/3) (damped, driven, without units); of it the network sees sin θ
and cos θ, not the speed and not the drive, and forecasts them a second ahead. The electroencephalogram is the one that
matplotlib ships: 4 channels, 10 s at 80 Hz, forecast a sample ahead. Both are cut in time: the last fifth is for the
test, the fifth before it says after which epoch to stop. Errors are root mean squares beside those of two other
forecasts: that nothing changes, and the best linear one from the last 16 values (least squares on the same past).
The pendulum is far from linear; of the electroencephalogram's few samples the LSTM learns no more than that.

    python examples/forecast.py
"""

from __future__ import annotations

import numpy as np
from matplotlib import cbook

import pynn
from pynn import nn
from pynn.train import EarlyStopping, Trainer

BRIEF = {"epochs": 12}
LAGS, WINDOW = 16, 64  # values that the linear forecast reads, and that a training sequence has


def pendulum(n: int, dt: float = 0.2) -> np.ndarray:
    """sin θ and cos θ at n times, (n, 2): Runge and Kutta's method of order 4, ten steps between."""

    def rate(t, s):
        return np.array([s[1], -np.sin(s[0]) - s[1] / 2 + 1.5 * np.cos(2 * t / 3)])

    h, s, found = dt / 10, np.array([0.2, 0.0]), []
    for k in range(10 * n):
        if k % 10 == 0:
            found.append((np.sin(s[0]), np.cos(s[0])))
        t = k * h
        a = rate(t, s)
        b = rate(t + h / 2, s + h / 2 * a)
        c = rate(t + h / 2, s + h / 2 * b)
        d = rate(t + h, s + h * c)
        s = s + h / 6 * (a + 2 * b + 2 * c + d)
    return np.array(found)


def brain() -> np.ndarray:
    """The electroencephalogram, (800, 4)."""
    with cbook.get_sample_data("eeg.dat") as f:
        return np.frombuffer(f.read(), np.float64).reshape(800, 4)


class Forecaster(nn.Module):
    """What is added to the series (N, T, C) to have it some steps later, at every step."""

    def __init__(self, channels: int, hidden: int, dropout: float):
        super().__init__()
        self.lstm = nn.LSTM(channels, hidden, batch_first=True)
        self.dropout, self.head = nn.Dropout(dropout), nn.Linear(hidden, channels)

    def forward(self, x):
        return x + self.head(self.dropout(self.lstm(x)[0]))


def linear(past: np.ndarray, ahead: int) -> np.ndarray:
    """Weights of the best linear forecast of `past`, (LAGS·C + 1, C)."""
    return np.linalg.lstsq(lagged(past)[:-ahead], past[LAGS - 1 + ahead :], rcond=None)[0]


def lagged(x: np.ndarray) -> np.ndarray:
    """The last LAGS values at each time from LAGS − 1 on, and a one."""
    rows = np.lib.stride_tricks.sliding_window_view(x, LAGS, 0).reshape(len(x) - LAGS + 1, -1)
    return np.concatenate([rows, np.ones((len(rows), 1))], 1)


def windows(x: np.ndarray, ahead: int) -> tuple[np.ndarray, np.ndarray]:
    """Every other sequence of WINDOW values, and what they are some steps later."""
    places = np.arange(0, len(x) - WINDOW - ahead + 1, 2)[:, None] + np.arange(WINDOW)
    return x[places], x[places + ahead]


def rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(x**2)))


def learn(series: np.ndarray, ahead: int, hidden: int, dropout: float, epochs: int, seed: int, **options) -> dict:
    """The trainer, and errors on the test part in units of the series' deviation."""
    cuts = int(0.6 * len(series)), int(0.8 * len(series))
    series = ((series - series[: cuts[0]].mean(0)) / series[: cuts[0]].std(0)).astype(np.float32)
    past, held, test = series[: cuts[0]], series[cuts[0] : cuts[1]], series[cuts[1] :]
    pynn.manual_seed(seed)
    model = Forecaster(series.shape[1], hidden, dropout)
    optimizer = pynn.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1e-2)
    trainer = Trainer(model, nn.MSELoss(), optimizer, compile=options["compile"])
    trainer.fit(
        *windows(past, ahead), epochs=epochs, batch_size=16, drop_last=True, validation_data=windows(held, ahead),
        progress=options["progress"],
        callbacks=[EarlyStopping(patience=20)],
    )  # fmt: skip
    seen = slice(LAGS - 1, -ahead)  # all forecasts have as much to go by
    want = test[LAGS - 1 + ahead :]
    found = trainer.predict(test[None])[0]
    return {
        "trainer": trainer, "LSTM": rms(found[seen] - want), "no change": rms(test[seen] - want),
        "linear": rms(lagged(test)[:-ahead] @ linear(past, ahead) - want),
    }  # fmt: skip


def main(epochs: int = 150, seed: int = 0, compile: bool = True, progress: bool = True) -> dict:
    options = {"epochs": epochs, "seed": seed, "compile": compile, "progress": progress}
    found = {
        "pendulum": learn(pendulum(3000), 5, 64, 0.0, **options),
        "electroencephalogram": learn(brain(), 1, 16, 0.5, **options),
    }
    return {"trainers": [part.pop("trainer") for part in found.values()], **found}


if __name__ == "__main__":
    for name, errors in main().items():
        if name != "trainers":
            print(name + ":", ", ".join(f"{how} {error:.4f}" for how, error in errors.items()))
