"""A character-level LSTM learns Python from the standard library's own sources, and writes some.

    python examples/lstm_text.py

The text is that of the modules found on this machine. The model reads 32 places of it at once, 64 characters a step,
and hands its state on to the next step without its history (truncated backpropagation through time). Steps are
recorded once and replayed. The figure to beat is the entropy of single characters; bits are per character.
"""

from __future__ import annotations

import sysconfig
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np

import pynn
from pynn import nn, optim

BRIEF = {"steps": 110, "size": 300_000}
CHARACTERS = "\n" + "".join(map(chr, range(32, 127)))


def read(size):
    """About `size` characters of the standard library's modules, as numbers."""
    number = np.full(256, CHARACTERS.index(" "), np.int64)
    number[[ord(c) for c in CHARACTERS]] = range(len(CHARACTERS))
    found, total = [], 0
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        text = path.read_bytes()
        if text.isascii() and total < size:
            found.append(number[np.frombuffer(text, np.uint8)])
            total += len(text)
    return np.concatenate(found)[:size]


class Model(nn.Module):
    """Scores of the next character, and the state, from characters (T, N) and the state before."""

    def __init__(self, hidden):
        super().__init__()
        self.embedding = nn.Embedding(len(CHARACTERS), 48)
        self.lstm = nn.LSTM(48, hidden)
        self.head = nn.Linear(hidden, len(CHARACTERS))

    def forward(self, x, h, c):
        y, (h, c) = self.lstm(self.embedding(x), (h, c))
        return self.head(y), h, c


def parts(data, batch, length):
    """(x, target) of steps of `length` characters, `batch` places of the text side by side."""
    n = (len(data) - 1) // batch
    x, target = (data[k : k + n * batch].reshape(batch, n).T for k in (0, 1))
    for t in range(0, n - length + 1, length):
        yield x[t : t + length], target[t : t + length]


def bits(model, data, hidden):
    """Bits per character of data."""
    serve, h = model.session(), np.zeros((1, 16, hidden), np.float32)
    c, total, count = h, 0.0, 0
    for x, target in parts(data, 16, 64):
        scores, h, c = serve.predict(x, h, c)
        scores = scores - scores.max(-1, keepdims=True)
        logs = scores - np.log(np.exp(scores).sum(-1, keepdims=True))
        total -= np.take_along_axis(logs, target[..., None], -1).sum()
        count += target.size
    return total / count / np.log(2)


def write(model, hidden, start, length, rng):
    """`length` characters after `start`, drawn one by one."""
    serve, h = model.session(), np.zeros((1, 1, hidden), np.float32)
    c, text = h, start
    for k in range(len(start) + length - 1):
        x = np.array([[CHARACTERS.index(text[k])]])
        scores, h, c = serve.predict(x, h, c)
        if k >= len(start) - 1:
            p = np.exp((scores[0, 0] - scores.max()).astype(np.float64) / 0.7)
            text += CHARACTERS[rng.choice(len(p), p=p / p.sum())]
    return text


def trained(model, data, steps, compile, show):
    """The model after so many steps; it tells how many of them were replayed."""
    opt, criterion = optim.Adam(model.parameters(), lr=4e-3), nn.CrossEntropyLoss()

    def step(x, target, h, c):
        opt.zero_grad()
        scores, h, c = model(x, h, c)
        loss = criterion(scores.reshape(-1, len(CHARACTERS)), target.reshape(-1))
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        opt.step()
        return loss, h.detach(), c.detach()

    run, done = pynn.compile(step) if compile else step, 0
    while done < steps:
        h = c = pynn.zeros(1, 32, model.lstm.hidden_size)
        for x, target in parts(data, 32, 64):
            opt.param_groups[0]["lr"] = 4e-3 * (1 - done / steps) + 1e-4
            loss, h, c = run(pynn.tensor(x), pynn.tensor(target), h, c)
            done += 1
            if done % (steps // 5 or 1) == 0:
                show(f"step {done}: {loss.item() / np.log(2):.2f} bits")
            if done == steps:
                break
    return SimpleNamespace(model=model, steps=done, replayed=run.replays if compile else 0)


def main(
    steps: int = 700, hidden: int = 192, size: int = 2_000_000, seed: int = 0, compile: bool = True,
    progress: bool = True,
) -> dict:  # fmt: skip
    """Trains and returns what came of it: bits per character, the model with its steps, a text, seconds."""
    begin = time.perf_counter()
    show = print if progress else lambda text: None
    pynn.manual_seed(seed)
    data = read(size)
    train, valid = data[: len(data) * 9 // 10], data[len(data) * 9 // 10 :]
    share = np.bincount(train, minlength=len(CHARACTERS)) / len(train)
    single = float(-np.mean(np.log2(np.maximum(share, 1e-9))[valid]))
    show(f"{len(train)} characters, {single:.2f} bits each by their frequency alone")
    trainer = trained(Model(hidden), train, steps, compile, show)
    reached = bits(trainer.model, valid, hidden)
    text = write(trainer.model, hidden, "def ", 300, np.random.default_rng(seed))
    show(f"{reached:.2f} bits on text that it has not seen; it writes\n\n{text}")
    return {
        "bits": reached, "bits_of_single_characters": single, "trainer": trainer, "text": text,
        "seconds": time.perf_counter() - begin,
    }  # fmt: skip


if __name__ == "__main__":
    main()
