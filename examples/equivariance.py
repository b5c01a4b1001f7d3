"""What a trained CNN does when its input moves: convolutions move along, logits should stay. Report and pictures.

python examples/equivariance.py
"""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np

import pynn
from pynn import nn

BRIEF = {"epochs": 3, "picture": None}
SHIFTS = range(-2, 3)


def moved(images: np.ndarray, dy: int, dx: int) -> np.ndarray:
    """Images shifted by whole pixels, 0 where nothing comes from."""
    padded = np.pad(images, ((0, 0), (0, 0), (2, 2), (2, 2)))
    h, w = images.shape[2:]
    return padded[:, :, 2 - dy : 2 - dy + h, 2 - dx : 2 - dx + w]


def features(model: nn.Sequential, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(what the first convolution gives, logits)."""
    model.eval()
    with pynn.no_grad():
        x = pynn.tensor(np.ascontiguousarray(images))
        return model[0](x).numpy_copy(), model(x).numpy_copy()


def report(model: nn.Sequential, images: np.ndarray, labels: np.ndarray) -> dict:
    """Errors of equivariance and invariance for each shift, and the accuracy then.

    equivariance: |conv(shift x) − shift conv(x)| away from the edges, relative to |conv(x)|: 0 for a convolution.
    invariance: |logits(shift x) − logits(x)| relative to |logits(x)|: what augmentation makes small.
    """
    base, logits = features(model, images)
    found = {}
    for dy in SHIFTS:
        for dx in SHIFTS:
            conv, out = features(model, moved(images, dy, dx))
            want, inner = moved(base, dy, dx), (..., slice(3, -3), slice(3, -3))
            found[dy, dx] = {
                "equivariance": float(np.abs(conv[inner] - want[inner]).max() / np.abs(base).max()),
                "invariance": float(np.linalg.norm(out - logits) / np.linalg.norm(logits)),
                "accuracy": float((out.argmax(1) == labels).mean()),
            }
    return found


def draw(found: dict, path: Path) -> None:
    """A picture of the invariance error and of the accuracy for each shift."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 4))
    for ax, what in zip(axes, ("invariance", "accuracy")):
        grid = np.array([[found[dy, dx][what] for dx in SHIFTS] for dy in SHIFTS])
        shown = ax.imshow(grid, extent=(-2.5, 2.5, 2.5, -2.5))
        ax.set(title=what, xlabel="shift to the right / pixels", ylabel="shift down / pixels")
        figure.colorbar(shown, ax=ax)
    figure.savefig(path, dpi=120, bbox_inches="tight")
    plt.close(figure)


def main(
    epochs: int = 20,
    seed: int = 0,
    compile: bool = True,
    progress: bool = True,
    picture: str | None = "equivariance.png",
) -> dict:
    digits = runpy.run_path(str(Path(__file__).with_name("digits_cnn.py")))
    _, X_test, _, y_test = digits["data"]()
    trained = digits["main"](epochs=epochs, seed=seed, compile=compile, progress=progress)
    found = report(trained["trainer"].model, X_test, y_test)
    if picture is not None:
        draw(found, Path(picture))
    return {**trained, "report": found}


if __name__ == "__main__":
    result = main()["report"]
    print("shift  equivariance error  invariance error  accuracy")
    for (dy, dx), row in result.items():
        print(f"{dy:+d} {dx:+d}  {row['equivariance']:18.1e}  {row['invariance']:16.3f}  {row['accuracy']:8.2%}")
