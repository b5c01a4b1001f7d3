"""A bag of words tells from which package of Python's standard library a piece of source text comes.

Words are hashed to rows of a table (65 536 of them); a text is the mean of its words' rows. The table's gradient is
by rows, so that a step costs what the words of its batch cost, whatever the size of the table. Whole files are either
trained on or tested on.

    python examples/words.py
"""

from __future__ import annotations

import re
import sysconfig
import zlib
from pathlib import Path

import numpy as np

import pynn
from pynn import nn
from pynn.train import Trainer

BRIEF = {"epochs": 2}
PACKAGES = ("asyncio", "concurrent", "ctypes", "email", "html", "http", "importlib", "json", "logging",
            "multiprocessing", "sqlite3", "tkinter", "unittest", "urllib", "xml")  # fmt: skip
ROWS = 1 << 16
LINES, WORDS = 12, 48  # of a piece of text; fewer words are filled up with row 0, which does not count
WORD = re.compile(r"[A-Za-z]{2,}|[^\w\s]")


def pieces(path: Path) -> list[list[int]]:
    """The rows of the words of each piece of a file. Lines that import are left out: they would tell."""
    lines = [s for s in path.read_text(errors="replace").splitlines() if s.strip() and "import" not in s]
    texts = [" ".join(lines[k : k + LINES]) for k in range(0, len(lines), LINES)]
    found = [[1 + zlib.crc32(w.encode()) % (ROWS - 1) for w in WORD.findall(text)[:WORDS]] for text in texts]
    return [words + [0] * (WORDS - len(words)) for words in found if len(words) >= WORDS // 2]


def data() -> tuple[np.ndarray, ...]:
    """(X, y, X_test, y_test); every fifth file is for the test."""
    root = Path(sysconfig.get_paths()["stdlib"])
    parts: tuple[list, ...] = ([], [], [], [])
    for label, package in enumerate(p for p in PACKAGES if (root / p).is_dir()):
        for k, path in enumerate(sorted((root / package).rglob("*.py"))):
            if "test" in path.parts or "idle_test" in path.parts:
                continue
            rows, test = pieces(path), 2 * (k % 5 == 2)
            parts[test].extend(rows)
            parts[test + 1].extend([label] * len(rows))
    return tuple(np.array(p, dtype=np.int64) for p in parts)


def main(epochs: int = 12, seed: int = 0, compile: bool = True, progress: bool = True) -> dict:
    X, y, X_test, y_test = data()
    pynn.manual_seed(seed)
    classes = int(y.max()) + 1
    model = nn.Sequential(nn.EmbeddingBag(ROWS, 32, mode="mean", sparse=True, padding_idx=0), nn.Linear(32, classes))
    trainer = Trainer(model, nn.CrossEntropyLoss(), pynn.optim.Adam(model.parameters(), lr=5e-3), compile=compile)
    history = trainer.fit(X, y, epochs=epochs, progress=progress)
    most = np.bincount(y).argmax()
    return {
        "trainer": trainer,
        "history": history,
        "texts": len(X),
        "most frequent": float(np.mean(y_test == most)),
        **trainer.evaluate(X_test, y_test),
    }


if __name__ == "__main__":
    found = main()
    print(f"{found['texts']} pieces of text to train on, {len(PACKAGES)} packages")
    print(f"Right about pieces of other files: {found['accuracy']:.1%}; naming the largest package: "
          f"{found['most frequent']:.1%}")  # fmt: skip
