"""What the benchmarks beside other libraries share: each library in a process of its own, and they take turns."""

import json
import statistics
import subprocess


class Worker:
    """A process that prints its first results as a line of JSON, then answers each line with seconds."""

    def __init__(self, command, env=None):
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)

    def results(self):
        return json.loads(self.process.stdout.readline())

    def seconds(self, request):
        self.process.stdin.write(f"{request}\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())

    def close(self):
        """What the process says last, a number, where it says something: its peak of memory in MB."""
        self.process.stdin.close()
        last = self.process.stdout.read().strip()
        self.process.wait()
        return float(last) if last else None


def take_turns(workers, request, rounds, budget=0.3, least=2):
    """{library: seconds of one call in each round}; request(n) asks for n calls, of about budget seconds."""
    n = {}
    for lib, worker in workers.items():
        worker.seconds(request(1))  # the first calls may be slow
        first = worker.seconds(request(2)) / 2
        n[lib] = max(least, int(budget / first))
    times = {lib: [] for lib in workers}
    for _ in range(rounds):
        for lib, worker in workers.items():
            times[lib].append(worker.seconds(request(n[lib])) / n[lib])
    return times


def ratio(times, peer):
    """How many times as long the peer takes as pynn: median of the rounds, lower quartile, range."""
    ratios = sorted(b / a for a, b in zip(times["pynn"], times[peer]))
    return {
        "pynn_us": statistics.median(times["pynn"]) * 1e6, "peer_us": statistics.median(times[peer]) * 1e6,
        "ratio": statistics.median(ratios), "lower_quartile": ratios[len(ratios) // 4],
        "range": [ratios[0], ratios[-1]],
    }  # fmt: skip


def told(peer, r):
    low, high = r["range"]
    return (f"pynn {r['pynn_us']:.1f} µs, {peer} {r['peer_us']:.1f} µs, ratio {r['ratio']:.2f} "
            f"(quartile {r['lower_quartile']:.2f}, range {low:.2f}–{high:.2f})")  # fmt: skip
