"""Turns what benchmarks/run.py measured into Markdown and a picture.

    python benchmarks/report.py [--from build/bench] [--out docs/benchmarks.md]

The picture, bars of ratios, gets the name of the page with .png. Needs matplotlib.
"""

import argparse
import json
import math
from pathlib import Path

TITLES = {
    "steps": "Whole steps",
    "elementwise": "Operations that memory bounds, and attention (K4, K1)",
    "gemm": "Matrix products (K6)",
    "conv": "Convolutions (K2)",
    "rnn": "Recurrent layers (K3, T6, T7)",
    "optim": "Optimizers, 10 million parameters in 50 tensors (K5)",
}
INTRO = """# Benchmarks

One run on one machine, by `make bench-peers`; this page is written by `benchmarks/report.py`, the figures by the
programs in `benchmarks/`, each of which says at its top what it does. A ratio is the peer's time divided by pynn's:
above 1 pynn is faster. Each library runs in a process of its own, they take turns, and the median of the rounds'
ratios is told with its lower quartile and range. Results are compared before they are timed.
"""


def load(folder):
    """[(name, run)] of every file, in order."""
    return [(f.stem, json.loads(f.read_text())) for f in sorted(folder.glob("*.json"))]


def table(head, rows):
    """A Markdown table; all but the first column are set right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def time_of(us):
    """Microseconds, as a person would write them."""
    return f"{us:.1f} µs" if us < 1000 else f"{us / 1e3:.2f} ms" if us < 1e6 else f"{us / 1e6:.2f} s"


def label(r):
    """A row's name."""
    return r["row"] + (" " + r["pass"] if "pass" in r else "") + (", plan" if r.get("plan") else "")


def facts(runs):
    """What was run on what."""
    run = next(run for _, run in runs if "machine" in run)
    m, commits = run["machine"], sorted({run["commit"] for _, run in runs if run.get("commit")})
    peers = ", ".join(f"{k} {v}" for k, v in run["peers_run_on"].items())
    return (f"{m.get('cpu', m['system'])}, {m['cpus']} CPUs, {m['system']}, ISA level {m['isa']}, {m['date']}; "
            f"pynn at {', '.join(commits)}. Peers: {peers}.\n")  # fmt: skip


def limits(runs):
    """The machine's limits."""
    parts = []
    for run in (run for _, run in runs if "limits" in run):
        x = run["limits"]
        sizes = sorted({b["bytes"] for b in x["bandwidth"]})
        rates = ", ".join(f"{level} {rate:.0f}" for level, rate in x["gflops"].items())
        parts.append(f"{x['threads']} thread(s): multiply-adds {rates} GFLOP/s; a region of the team "
                     f"{x['region_hot_us']:.2f} µs hot, {x['region_parked_us']:.1f} µs parked. GB/s read and written, "
                     "by footprint:\n")  # fmt: skip
        rows = {}
        for b in x["bandwidth"]:
            mix = f"{b['reads']} : {b['writes']}" + (", in place" if b["in_place"] else "")
            rows.setdefault(mix, {})[b["bytes"]] = f"{b['gbs']:.0f}"
        head = [f"{n >> 20} MB" if n >> 20 else f"{n >> 10} KB" for n in sizes]
        parts.append(
            table(["arrays read : written", *head], [[k, *(v[n] for n in sizes)] for k, v in rows.items()]) + "\n"
        )
    return "\n".join(["## The machine's limits", "", *parts]) if parts else ""


def peers(runs, benchmark):
    """All rows of one benchmark, with the geometric mean of the ratios to the best peer."""
    rows = [r for _, run in runs if run.get("benchmark") == benchmark for r in run["rows"]]
    if not rows:
        return ""
    parts = [f"## {TITLES[benchmark]}", ""]
    for threads in sorted({r["threads"] for r in rows}):
        mine = [r for r in rows if r["threads"] == threads]
        least = best(mine)
        mean = math.exp(sum(math.log(r["ratio"]) for r in least.values()) / len(least))
        parts.append(f"{threads} thread(s); to the best peer of each row: geometric mean {mean:.2f}, least "
                     f"{min(r['ratio'] for r in least.values()):.2f}.\n")  # fmt: skip
        memory = any("peer_mb" in r for r in mine)
        head = ["row", "peer", "pynn", "peer's", "ratio", "lower quartile", "range"] + ["peak MB: pynn, peer"] * memory
        parts.append(table(head, [cells(r, memory) for r in mine]) + "\n")
    for r in (r for r in rows if "clipping_adds" in r):
        parts.append(f"- {r['row']}, {r['threads']} thread(s): clipping adds {r['clipping_adds']:.0%} to pynn's step")
    return "\n".join([*parts, ""])


def random_shapes(runs):
    """How the ratios of the generator's shapes to the best peer are distributed."""
    parts = []
    for run in (run for _, run in runs if run.get("benchmark") == "conv_random"):
        found = sorted(r["ratio"] for r in best(run["rows"]).values())
        shares = (0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9)
        cells = [f"{found[0]:.2f}", *(f"{found[int(s * len(found))]:.2f}" for s in shares), f"{found[-1]:.2f}"]
        low = {limit: sum(r < limit for r in found) for limit in (0.6, 0.4)}
        parts.append(f"{len(found)} shapes of a seeded generator (benchmarks/conv.py), forward and backward, "
                     f"{run['rows'][0]['threads']} thread(s), to PyTorch's better format: "
                     f"{low[0.6]} below 0.6, {low[0.4]} below 0.4.\n")  # fmt: skip
        parts.append(table(["least", *(f"{s:.0%}" for s in shares), "most"], [cells]) + "\n")
    return "\n".join(parts)


def cells(r, memory):
    """A row of the table."""
    found = [label(r), r["peer"], time_of(r["pynn_us"]), time_of(r["peer_us"]), f"**{r['ratio']:.2f}**",
             f"{r['lower_quartile']:.2f}", f"{r['range'][0]:.2f}–{r['range'][1]:.2f}"]  # fmt: skip
    return [*found, f"{r['pynn_mb']:.0f}, {r['peer_mb']:.0f}"] if memory else found


def best(rows):
    """{label: the row of the fastest peer}"""
    found = {}
    for r in sorted(rows, key=lambda r: r["ratio"]):
        found.setdefault(label(r), r)
    return {label(r): found[label(r)] for r in rows}


def ops(runs):
    """Every op of the registry against the roofline."""
    head = ["op", "forward", "GB/s", "GFLOP/s", "of the roofline", "forward and backward", "of the roofline"]
    parts = []
    for run in (run for _, run in runs if "dtype" in run and "rows" in run):
        rows = []
        for r in (r for r in run["rows"] if r["bytes"] > 1e6):
            rates = [f"{r[what] / r['forward_us'] / 1e3:.1f}" for what in ("bytes", "flops")]
            both = time_of(r["forward_backward_us"]) if "forward_backward_us" in r else ""
            share = f"{r['forward_backward_share']:.0%}" if "forward_backward_share" in r else ""
            rows.append([r["op"], time_of(r["forward_us"]), *rates, f"{r['share']:.0%}", both, share])
        parts.append(f"{run['threads']} thread(s), {run['dtype']}\n\n{table(head, rows)}\n")
    if not parts:
        return ""
    text = """## Every op against the roofline (`python -m pynn bench --size large`)

The roofline is the time that the bytes read and written once take at the best rate of the same mix and footprint, or
the flops that the entry states at the peak; an op of exponentials or Philox words needs more arithmetic than that.
Ops that only make views, and those of small samples, are left out.
"""
    return "\n".join([text, *parts])


def picture(runs, path):
    """Bars of the ratio to the fastest peer of each row."""
    from matplotlib.figure import Figure

    rows = [r for _, run in runs if run.get("benchmark") in TITLES for r in run["rows"] if not r.get("plan")]
    threads = sorted({r["threads"] for r in rows})
    bars = {n: best([r for r in rows if r["threads"] == n]) for n in threads}
    names = list(bars[threads[0]])
    figure = Figure(figsize=(8, 0.21 * len(names) + 1.2), layout="constrained")
    ax = figure.subplots()
    height = 0.8 / len(threads)
    for k, n in enumerate(threads):
        known = [(i, bars[n][name]["ratio"]) for i, name in enumerate(names) if name in bars[n]]
        places = [i + (k - (len(threads) - 1) / 2) * height for i, _ in known]
        color = ("#1f6f8b", "#e08e45")[k % 2]
        ax.barh(places, [x - 1 for _, x in known], height, left=1, label=f"{n} thread(s)", color=color)
    ax.axvline(1, color="black", linewidth=0.8)
    ax.set_xscale("log", base=2)
    ax.set_xticks([0.5, 1, 2, 4, 8], ["½", "1", "2", "4", "8"])
    ax.set_yticks(range(len(names)), names, fontsize=7)
    ax.invert_yaxis()
    ax.margins(y=0.01)
    ax.set_xlabel("time of the fastest peer ÷ time of pynn (eager): beyond 1, pynn is faster")
    ax.grid(axis="x", linewidth=0.4)
    ax.set_axisbelow(True)
    figure.legend(loc="outside upper right", ncols=len(threads), fontsize=8)
    figure.savefig(path, dpi=110)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--from", dest="folder", default="build/bench", type=Path)
    parser.add_argument("--out", default="docs/benchmarks.md", type=Path)
    options = parser.parse_args()
    runs = load(options.folder)
    if not any("machine" in run for _, run in runs):
        parser.error(f"nothing measured in {options.folder}: run benchmarks/run.py")
    image = options.out.with_suffix(".png")
    picture(runs, image)
    parts = [INTRO, facts(runs), f"![Bars: ratio to the fastest peer of each row]({image.name})\n"]
    parts += [peers(runs, name) for name in TITLES] + [random_shapes(runs), limits(runs), ops(runs)]
    options.out.write_text("\n".join(filter(None, parts)).rstrip() + "\n")
    print(f"{options.out} and {image} ({image.stat().st_size >> 10} KB)")


if __name__ == "__main__":
    main()
