"""A character-level GPT learns Python from the standard library's own sources, and writes some while it learns.

    python examples/gpt_stdlib.py

The text is that of lstm_text.py: the modules found on this machine. A step reads 16 excerpts of 128 characters and
predicts each from those before it. Steps are recorded once and replayed. Text is written with a cache of keys and
values, a character a step. The figure to beat is the entropy of single characters; bits are per character.
"""

from __future__ import annotations

import math
import runpy
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np

import pynn
from pynn import models, nn, optim

BRIEF = {"steps": 110, "size": 100_000, "depth": 2, "dim": 64}
TEXT = runpy.run_path(str(Path(__file__).with_name("lstm_text.py")))
CHARACTERS, read = TEXT["CHARACTERS"], TEXT["read"]
CONTEXT, BATCH, RATE = 128, 16, 3e-3


def bits(model, data):
    """Bits per character of data, each predicted from at least half a context where there is one."""
    serve, half, total, count = model.session(), CONTEXT // 2, 0.0, 0
    for start in range(0, len(data) - CONTEXT, 32 * half):
        places = np.arange(start, min(start + 32 * half, len(data) - CONTEXT), half)
        x = data[places[:, None] + np.arange(CONTEXT)]
        scores = serve.predict(x)[:, half - 1 : -1]
        scores = scores - scores.max(-1, keepdims=True)
        logs = scores - np.log(np.exp(scores).sum(-1, keepdims=True))
        total -= np.take_along_axis(logs, x[:, half:, None], -1).sum()
        count += x[:, half:].size
    return total / count / np.log(2)


def write(model, start, length):
    """`start` and `length` characters drawn behind it."""
    tokens = model.generate([[CHARACTERS.index(c) for c in start]], length, temperature=0.7, top_k=20)
    return "".join(CHARACTERS[k] for k in tokens[0])


def trained(model, data, steps, compile, show, rng):
    """The model after so many steps; it tells how many of them were replayed."""
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim == 1]
    opt = optim.AdamW([{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}], lr=RATE)
    criterion = nn.CrossEntropyLoss()

    def step(x, target):
        opt.zero_grad()
        loss = criterion(model(x).reshape(-1, len(CHARACTERS)), target)
        loss.backward()
        opt.step(max_norm=1.0)
        return loss.detach()

    run = pynn.compile(step) if compile else step
    for k in range(steps):
        rate = RATE * min(1.0, (k + 1) / 50) * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * k / steps)))
        for group in opt.param_groups:
            group["lr"] = rate
        text = data[rng.integers(0, len(data) - CONTEXT, BATCH)[:, None] + np.arange(CONTEXT + 1)]
        loss = run(pynn.tensor(text[:, :-1]), pynn.tensor(text[:, 1:].reshape(-1)))
        if (k + 1) % (steps // 5 or 1) == 0:
            show(f"step {k + 1}: {loss.item() / np.log(2):.2f} bits; {write(model, 'def ', 60)!r}")
    return SimpleNamespace(model=model, steps=steps, replayed=run.replays if compile else 0)


def main(
    steps: int = 1000, dim: int = 128, depth: int = 4, size: int = 2_000_000, seed: int = 0, compile: bool = True,
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
    model = models.GPT(len(CHARACTERS), CONTEXT, dim, depth, num_heads=4, positions="rotary")
    trainer = trained(model, train, steps, compile, show, np.random.default_rng(seed))
    reached, text = bits(model, valid), write(model, "def ", 300)
    show(f"{reached:.2f} bits on text that it has not seen; it writes\n\n{text}")
    return {
        "bits": reached, "bits_of_single_characters": single, "trainer": trainer, "text": text,
        "seconds": time.perf_counter() - begin,
    }  # fmt: skip


if __name__ == "__main__":
    main()
