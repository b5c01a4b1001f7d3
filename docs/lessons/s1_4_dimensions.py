"""S1 chapter 4: what many dimensions do to polynomials, grids, volumes and distances; a fixed basis of bumps.

python docs/lessons/s1_4_dimensions.py [--picture PATH]
"""

from __future__ import annotations

import sys

import numpy as np

from pynn import Tensor, inspect, nn


def bumps(samples: int, dim: int, width: float = 1.0, seed: int = 0) -> float:
    """§4.5: the root mean square error, on new points of a smooth function, of bumps on the samples."""
    rng = np.random.default_rng(seed)
    x, beyond = rng.uniform(-1, 1, (samples, dim)), rng.uniform(-1, 1, (300, dim))
    basis = nn.RBF(dim, samples, x, width * np.sqrt(dim), learned=False)
    a, b = (basis(Tensor(points)).numpy_copy() for points in (x, beyond))

    def truth(points):
        return np.sin(2 * points).sum(axis=1) / np.sqrt(dim)

    return float(np.sqrt(np.mean((b @ inspect.ridge(a, truth(x), 1e-8) - truth(beyond)) ** 2)))


def main(short: bool = False) -> dict:
    dims = (1, 2, 5, 20, 100)
    return {
        "coefficients of a cubic": {d: inspect.polynomial_terms(d, 3) for d in (*dims, 1024)},
        "cells of a grid of 10": {d: inspect.grid_cells(d, 10) for d in (2, 5, 10)},
        "volume in the outer tenth": {d: inspect.shell_volume(d, 0.1) for d in dims},
        "contrast of distances": {d: inspect.distance_contrast(d) for d in dims},
        "error of 200 bumps": {d: bumps(100 if short else 200, d) for d in (1, 2, 5, 20)},
    }


def draw(found: dict, path: str) -> None:
    from pynn.inspect._figures import figure

    with figure(path, 1, 3) as axes:
        for name in ("coefficients of a cubic", "cells of a grid of 10"):
            axes[0].loglog(list(found[name]), list(found[name].values()), "o-", label=name)
        for name in ("volume in the outer tenth", "contrast of distances"):
            axes[1].loglog(list(found[name]), list(found[name].values()), "o-", label=name)
        for ax in axes[:2]:
            ax.legend(fontsize="x-small")
        axes[2].semilogy(*zip(*found["error of 200 bumps"].items()), "o-")
        axes[2].set(title="error of 200 bumps")
        for ax in axes:
            ax.set(xlabel="dimensions")


if __name__ == "__main__":
    result = main()
    for title, table in result.items():
        print(title)
        for dim, value in table.items():
            print(f"  D = {dim:5}  {value:.6g}")
    if "--picture" in sys.argv:
        draw(result, sys.argv[sys.argv.index("--picture") + 1])
