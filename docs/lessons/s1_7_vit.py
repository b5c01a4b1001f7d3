"""S1 chapter 7: what a Vision Transformer costs, before it is built.

python docs/lessons/s1_7_vit.py [--picture PATH]
"""

from __future__ import annotations

import sys

from pynn import inspect

SIZES = {
    "Tiny/16": {"patch": 16},
    "Tiny/8": {"patch": 8},
    "Small/16": {"dim": 384, "heads": 6},
    "Base/16": {"dim": 768, "heads": 12},
    "Base/16 at 384": {"dim": 768, "heads": 12, "image": 384},
    "Tiny/16, r = 2": {"mlp_ratio": 2},
}


def main(short: bool = False) -> dict[str, inspect.ViTCost]:
    """§7.5–7.7: 197 tokens and 116 427 entries of attention a layer; patches of 8 make 785 tokens and 1 848 675."""
    return {name: inspect.vit_cost(**size) for name, size in SIZES.items()}


def draw(found: dict, path: str) -> None:
    from pynn.inspect._figures import figure

    with figure(path) as ax:
        done = [0.0] * len(found)
        for part in ("attention", "projection", "mlp", "patch"):
            sizes = [getattr(c, f"{part}_flops") / 1e9 for c in found.values()]
            ax.bar(list(found), sizes, bottom=done, label=part)
            done = [a + b for a, b in zip(done, sizes)]
        ax.set(ylabel="GFLOP of one image")
        ax.tick_params("x", labelrotation=30, labelsize="small")
        ax.legend()


if __name__ == "__main__":
    result = main()
    print("                 tokens   attention  parameters    GFLOP  of attention  of MLPs  activations")
    for name, c in result.items():
        print(f"{name:15} {c.tokens:7} {c.attention_entries:11,} {c.parameters:11,} {c.flops / 1e9:8.2f} "
              f"{c.attention_flops / c.flops:13.0%} {c.mlp_flops / c.flops:8.0%} {c.activations:12,}")  # fmt: skip
    if "--picture" in sys.argv:
        draw(result, sys.argv[sys.argv.index("--picture") + 1])
