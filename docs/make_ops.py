"""Writes docs/ops.md from the registry: python docs/make_ops.py [--check]."""

import argparse
import sys
from pathlib import Path

from pynn.op import OPS, Effect, Op

PAGE = Path(__file__).with_name("ops.md")


def spec(specs, symbols) -> str:
    """An entry's arguments as it writes them."""
    words = []
    for name, dims, ell, kind, optional, bound in specs:
        tokens = [(str(f) if f != 1 or s < 0 else "") + (symbols[s] if s >= 0 else "") for s, f in dims]
        if ell >= 0:
            tokens.insert(ell, "...")
        words.append(
            f"{name}[{','.join(tokens)}]"
            + ("?" if optional else "")
            + (f":{kind}" if kind != "T" else "")
            + (f"<{symbols[bound]}" if bound >= 0 else "")
        )
    return " ".join(words)


def derivative(op: Op) -> str:
    if isinstance(op, Effect):
        return "none: an effect"
    if op.bwd is not None:
        return "fused kernel" + (", its formula" if op.bwd_formula else ", the formula's")
    return "rule in tensor ops" if op.vjp is not None else "the formula's"


def page() -> str:
    lines = [
        "# Operations",
        "",
        "Made from the entries by `python docs/make_ops.py`; `pynn/op.py` explains the notation.",
    ]
    families: dict[str, list[Op]] = {}
    for op in OPS:
        families.setdefault(family(op), []).append(op)
    for name in sorted(families):
        lines += [
            "",
            f"## {name}",
            "",
            "| op | arguments | result | parameters | derivative | meaning |",
            "|---|---|---|---|---|---|",
        ]
        for op in families[name]:
            cells = [
                f"`{op.name}`",
                f"`{spec(op.in_specs, op.sym_names)}`",
                f"`{spec(op.out_specs, op.sym_names)}`" if op.out_specs else "–",
                ", ".join(f"`{k}`" for k in op.defaults) or "–",
                derivative(op),
                " ".join(op.doc.split()),
            ]
            lines.append("| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |")
    return "\n".join(lines) + "\n"


def family(op: Op) -> str:
    """The stem of the entry's kernel, or that of the views."""
    return getattr(op, "stem", None) or "copy"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail where the page is not what the entries say")
    if parser.parse_args().check:
        return int(PAGE.read_text() != page())
    PAGE.write_text(page())
    return 0


if __name__ == "__main__":
    sys.exit(main())
