"""What the benchmarks beside other libraries share: each library in a process of its own, and they take turns."""

import atexit
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

PACKAGES = ("numpy", "scipy", "torch", "jax", "optax", "scikit-learn", "onnxruntime")


def start(command, **options):
    """A process that answers lines; it goes on, and so ends, when this program ends."""
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **options)
    atexit.register(resume, process)
    return process


def pause(process):
    """Stops a process whose turn is over: threads of some libraries spin for milliseconds after their last call."""
    if hasattr(signal, "SIGSTOP"):
        process.send_signal(signal.SIGSTOP)


def resume(process):
    if hasattr(signal, "SIGCONT"):
        process.send_signal(signal.SIGCONT)


class Worker:
    """A process that prints its first results as a line of JSON, then answers each line with seconds.

    cpus: how many CPUs it may use at all, for libraries that do not obey a setting.
    """

    def __init__(self, command, env=None, cpus=None):
        def pin():
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cpus])

        pinned = pin if cpus and hasattr(os, "sched_setaffinity") else None
        self.process = start(command, env=env, preexec_fn=pinned)

    def results(self):
        found = json.loads(self._line())
        pause(self.process)
        return found

    def seconds(self, request):
        resume(self.process)
        self.process.stdin.write(f"{request}\n")
        self.process.stdin.flush()
        found = float(self._line())
        pause(self.process)
        return found

    def _line(self):
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"this ended with status {self.process.wait()}: {' '.join(self.process.args)}")
        return line

    def close(self):
        """What the process says last, a number, where it says something: its peak of memory in MB."""
        resume(self.process)
        self.process.stdin.close()
        last = self.process.stdout.read().strip()
        self.process.wait()
        return float(last) if last else None


def serve(first, calls):
    """The worker's side: prints `first`; answers "NAME n" or "n" with the seconds of n calls of calls[NAME] (or of
    the only one); at the end tells the peak of resident memory in MB."""
    print(json.dumps(first), flush=True)
    for line in sys.stdin:
        *name, n = line.split()
        call = calls[name[0]] if name else next(iter(calls.values()))
        start = time.perf_counter()
        for _ in range(int(n)):
            result = call()
        finished(result)
        print(time.perf_counter() - start, flush=True)
    print(peak_mb(), flush=True)


def finished(result):
    """Waits for a result of JAX, whose calls return before they are done."""
    if hasattr(result, "block_until_ready"):
        result.block_until_ready()


def peak_mb():
    """VmHWM: the peak of this process's resident memory."""
    try:
        status = Path("/proc/self/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) / 1024
    except (OSError, IndexError):
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1024)


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


def excerpt(arrays):
    """Some elements of each array, evenly chosen."""
    import numpy as np

    flat = [np.asarray(a).reshape(-1) for a in arrays]
    return [a[:: max(1, a.size // 97)].tolist() for a in flat]


# ---- what a run leaves ---------------------------------------------------------------------------------


def versions():
    """The versions of PACKAGES that this Python has."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def machine():
    """Its processor, as the system names it, with the ISA level and the CPUs that pynn may use, and the date."""
    import pynn

    found = {"system": f"{platform.system()} {platform.machine()}", "cpus": len(os.sched_getaffinity(0)),
             "isa": pynn._core.isa(), "date": time.strftime("%Y-%m-%d", time.gmtime())}  # fmt: skip
    if os.path.exists("/proc/cpuinfo"):
        text = Path("/proc/cpuinfo").read_text()
        fields = {k.strip(): v.strip() for k, _, v in (line.partition(":") for line in text.splitlines())}
        found["cpu"] = " ".join(f"{fields.get('model name', '')} family {fields.get('cpu family', '?')}".split())
    return found


def commit():
    """The commit of this tree, with a + where files differ from it; None outside of a repository."""
    here = Path(__file__).parent

    def git(*args):
        return subprocess.run(["git", *args], cwd=here, capture_output=True, text=True).stdout.strip()

    head = git("rev-parse", "--short", "HEAD")
    return head + "+" * bool(git("status", "--porcelain", "--untracked-files=no")) if head else None


def write(path, benchmark, rows, python, **more):
    """A run as JSON: what benchmarks/report.py reads."""
    peer = subprocess.run([python, __file__], capture_output=True, text=True, check=True).stdout
    facts = {"benchmark": benchmark, "commit": commit(), "machine": machine(), "pynn_runs_on": versions(),
             "peers_run_on": json.loads(peer), **more, "rows": rows}  # fmt: skip
    Path(path).write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    print(json.dumps(versions()))
