"""Run by `make wheel` in a clean environment outside of the source tree: the installed wheel trains a network.

python -I wheel_smoke.py [--without-scipy]
"""

import importlib.util
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np

import pynn

place = Path(pynn.__file__).resolve()
assert "site-packages" in place.parts, f"not the wheel's: {place}"
assert version("pynn-core")
stray = [str(f) for f in place.parent.rglob("*") if f.suffix in (".c", ".pyx", ".pxi", ".h")]
assert not stray, f"sources in the wheel: {stray}"
for typed in ("py.typed", "_core/engine.pyi"):
    assert (place.parent / typed).is_file(), f"not in the wheel: {typed}"
if "--without-scipy" in sys.argv:
    assert importlib.util.find_spec("scipy") is None

rng = np.random.default_rng(0)
X = rng.standard_normal((256, 8)).astype(np.float32)
y = (X[:, 0] * X[:, 1] > 0).astype(np.int64)

pynn.manual_seed(0)
model = pynn.nn.Sequential(pynn.nn.Linear(8, 32), pynn.nn.ReLU(), pynn.nn.Linear(32, 2))
loss = pynn.nn.CrossEntropyLoss()
optimizer = pynn.optim.Adam(model.parameters(), lr=0.01)
losses = []
for _ in range(50):
    optimizer.zero_grad()
    value = loss(model(pynn.tensor(X)), pynn.tensor(y))
    value.backward()
    optimizer.step()
    losses.append(value.item())
assert losses[-1] < 0.7 * losses[0], losses
assert "scipy" not in sys.modules, "training imported scipy"

trainer = pynn.train.Trainer(model, loss, optimizer)
trainer.fit(X, y, epochs=2, batch_size=64, validation_data=(X, y))
assert np.asarray(trainer.predict(X)).shape == (256, 2)
assert "scipy" not in sys.modules, "the trainer imported scipy"
print(f"wheel_smoke: ok, pynn {version('pynn-core')}, loss {losses[0]:.3f} -> {losses[-1]:.3f}")
