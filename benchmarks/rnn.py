"""Recurrent layers beside PyTorch, JAX and ONNX Runtime.

    python benchmarks/rnn.py T6 T7 K3 I_lstm step [--python PEER] [--threads N] [--rounds N] [--json FILE]

    T6      training step: LSTM 64→128, T = 50, batch 32, linear head on the last step, Adam
    T7      training step: 2-layer bidirectional GRU 128→256, T = 100, batch 16, linear head, Adam
    K3_1, K3_32, K3_256 (K3: all three)  LSTM 256→256, T = 32, forward and backward, at that batch
    I_lstm_1, I_lstm_64 (I_lstm: both)   inference of T6's model, arrays in, arrays out
    step    one step of an LSTM 256→256 at batch 1 in a session, beside the time in which its weights are read

PEER is a Python that has torch, jax, onnx and onnxruntime (default: this one). Each library runs in a process of its
own; they take turns; the table tells the median of the rounds' ratios, lower quartile and range. What all compute is
compared before timing. pynn runs eagerly and, as pynn+plan, replayed. JAX and ONNX Runtime are pinned to one CPU where
one thread is asked for.
"""

import argparse
import json
import os
import sys
import tempfile
import time

import numpy as np
from turns import Worker, ratio, take_turns, told, write

TRAIN = {"T6": ("LSTM", 64, 128, 1, False, 50, 32), "T7": ("GRU", 128, 256, 2, True, 100, 16)}
CLASSES = 10
GROUPS = {"K3": ["K3_1", "K3_32", "K3_256"], "I_lstm": ["I_lstm_1", "I_lstm_64"]}
NAMES = [*TRAIN, *GROUPS["K3"], *GROUPS["I_lstm"], "step"]
SIZE, STEPS = 256, 32  # K3


def peers_of(name):
    if name.startswith("T"):
        return ["torch"]
    return ["torch", "jax"] if name.startswith("K3") else ["ort"] if name.startswith("I") else ["memory"]


def state(shapes, seed=0):
    """Values by name that all libraries start from, as large as PyTorch's."""
    rng = np.random.default_rng(seed)
    return {k: (rng.uniform(-1, 1, s) / np.sqrt(s[-1])).astype(np.float32) for k, s in sorted(shapes.items())}


def library(lib):
    if lib.startswith("pynn"):
        import pynn as L
        from pynn import nn, optim
    else:
        import torch as L
        from torch import nn, optim
    return L, nn, optim


def load(L, module, seed):
    with L.no_grad():
        values = state({k: tuple(p.shape) for k, p in module.named_parameters()}, seed)
        for k, p in module.named_parameters():
            p.copy_(L.from_numpy(values[k]))


# ---- training steps ---------------------------------------------------------------------------------


def train_step(lib, name):
    """A step, and what to compare: the first losses."""
    kind, i, h, layers, both, t, n = TRAIN[name]
    L, nn, optim = library(lib)
    body = getattr(nn, kind)(i, h, num_layers=layers, bidirectional=both)
    head = nn.Linear(h * (2 if both else 1), CLASSES)
    load(L, body, 1)
    load(L, head, 2)
    opt = optim.Adam([*body.parameters(), *head.parameters()], lr=1e-3)
    rng, criterion = np.random.default_rng(0), nn.CrossEntropyLoss()
    xs = [L.from_numpy(rng.standard_normal((t, n, i)).astype(np.float32)) for _ in range(8)]
    ts = [L.from_numpy(rng.integers(0, CLASSES, n)) for _ in range(8)]
    count = 0

    def train(x, target):
        opt.zero_grad()
        loss = criterion(head(body(x)[0][-1]), target)
        loss.backward()
        opt.step()
        return loss

    run = L.compile(train) if lib == "pynn+plan" else train

    def step():
        nonlocal count
        loss = run(xs[count % 8], ts[count % 8])
        count += 1
        if count % 10 == 0:
            loss.item()
        return loss

    return step, [step().item() for _ in range(4)]


# ---- K3 ---------------------------------------------------------------------------------------------


def kernel_step(lib, name):
    """Forward and backward of an LSTM; to compare: sums of |gradients|."""
    batch = int(name.split("_")[1])
    x = np.random.default_rng(3).standard_normal((STEPS, batch, SIZE)).astype(np.float32)
    if lib == "jax":
        return kernel_jax(x)
    L, nn, _ = library(lib)
    layer = nn.LSTM(SIZE, SIZE)
    load(L, layer, 1)
    params, x = list(layer.parameters()), L.from_numpy(x)
    x.requires_grad = True

    def run(x):
        for p in params:
            p.grad = None
        x.grad = None
        layer(x)[0].sum().backward()

    plan = L.compile(run) if lib == "pynn+plan" else run

    def step():
        plan(x)

    step()
    found = [float(np.abs(np.asarray(p.grad)).sum()) for p in [*params, x]]
    return step, found


def kernel_jax(x):
    import jax
    from jax import numpy as J

    shapes = {"bias_hh_l0": (4 * SIZE,), "bias_ih_l0": (4 * SIZE,), "weight_hh_l0": (4 * SIZE, SIZE),
              "weight_ih_l0": (4 * SIZE, SIZE)}  # fmt: skip
    p = {k: J.asarray(v) for k, v in state(shapes, 1).items()}

    def total(p, x):
        given = x @ p["weight_ih_l0"].T + p["bias_ih_l0"] + p["bias_hh_l0"]
        w = p["weight_hh_l0"].T

        def step(hc, a):
            h, c = hc
            i, f, g, o = J.split(a + h @ w, 4, axis=1)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * J.tanh(g)
            h = jax.nn.sigmoid(o) * J.tanh(c)
            return (h, c), h

        zero = J.zeros((x.shape[1], SIZE), x.dtype)
        return jax.lax.scan(step, (zero, zero), given)[1].sum()

    run, x = jax.jit(jax.grad(total, argnums=(0, 1))), J.asarray(x)
    gp, gx = run(p, x)
    order = ["weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"]
    found = [float(np.abs(np.asarray(gp[k])).sum()) for k in order] + [float(np.abs(np.asarray(gx)).sum())]
    return lambda: jax.block_until_ready(run(p, x)), found


# ---- inference --------------------------------------------------------------------------------------


def inference(lib, name):
    _, i, h, _, _, t, _ = TRAIN["T6"]
    batch = int(name.split("_")[2])
    x = np.random.default_rng(4).standard_normal((t, batch, i)).astype(np.float32)
    values = state({"weight_ih": (4 * h, i), "weight_hh": (4 * h, h), "bias_ih": (4 * h,), "bias_hh": (4 * h,),
                    "head": (CLASSES, h), "head_bias": (CLASSES,)})  # fmt: skip
    run = (inference_pynn if lib == "pynn" else inference_ort)(values, i, h)
    return lambda: run(x), run(x).ravel().tolist()


def inference_pynn(values, i, h):
    from pynn import from_numpy, nn, no_grad

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = nn.LSTM(i, h), nn.Linear(h, CLASSES)

        def forward(self, x):
            return self.head(self.body(x)[0][-1])

    model = Model()
    with no_grad():
        for name, p in model.named_parameters():
            key = name.removeprefix("body.").removesuffix("_l0")
            p.copy_(from_numpy(values[{"head.weight": "head", "head.bias": "head_bias"}.get(name, key)]))
    return model.session().predict  # its first dimension need not count samples without batch_rows


def inference_ort(values, i, h):
    import onnx
    import onnxruntime
    from onnx import helper, numpy_helper

    def turned(w):  # ONNX has the gates in the order i, o, f, c
        a, f, g, o = np.split(w, 4)
        return np.concatenate([a, o, f, g])

    weights = {
        "W": turned(values["weight_ih"])[None], "R": turned(values["weight_hh"])[None],
        "B": np.concatenate([turned(values["bias_ih"]), turned(values["bias_hh"])])[None],
        "head": values["head"].T.copy(), "head_bias": values["head_bias"], "zero": np.array([0], np.int64),
    }  # fmt: skip
    nodes = [
        helper.make_node("LSTM", ["x", "W", "R", "B"], ["", "last"], hidden_size=h),
        helper.make_node("Squeeze", ["last", "zero"], ["flat"]),
        helper.make_node("Gemm", ["flat", "head", "head_bias"], ["y"]),
    ]
    one = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        nodes, "lstm", [helper.make_tensor_value_info("x", one, ["t", "n", i])],
        [helper.make_tensor_value_info("y", one, ["n", CLASSES])],
        [numpy_helper.from_array(v, k) for k, v in weights.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(os.environ["BENCH_THREADS"])
    with tempfile.NamedTemporaryFile(suffix=".onnx") as f:
        f.write(model.SerializeToString())
        f.flush()
        session = onnxruntime.InferenceSession(f.name, options, providers=["CPUExecutionProvider"])
    return lambda x: session.run(None, {"x": x})[0]


def single_step(lib, name):
    """An LSTM's step in a session; or reading as many bytes as it has weights."""
    n = 2 * 4 * SIZE * SIZE
    if lib == "memory":
        import pynn

        x = pynn.from_numpy(np.ones(n, np.float32))
        total = pynn.compile(lambda x: x.sum())
        total(x)
        return lambda: total(x), []
    from pynn import nn

    cell = nn.LSTMCell(SIZE, SIZE)
    session = cell_session(cell)
    args = [np.random.default_rng(k).standard_normal((1, SIZE)).astype(np.float32) for k in range(3)]
    return lambda: session.predict(*args), []


def cell_session(cell):
    from pynn import Session, nn

    class Step(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = cell

        def forward(self, x, h, c):
            return self.cell(x, (h, c))

    return Session(Step())


# ---- the rounds -------------------------------------------------------------------------------------


def worker(lib, name, threads):
    if lib.startswith("pynn") or lib == "memory":
        import pynn

        pynn.set_num_threads(threads)
    elif lib == "torch":
        import torch

        torch.set_num_threads(threads)
    elif threads == 1:
        os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[-1]})
    os.environ["BENCH_THREADS"] = str(threads)
    make = train_step if name in TRAIN else kernel_step if name.startswith("K3") else inference
    step, found = (single_step if name == "step" else make)(lib, name)
    print(json.dumps(found), flush=True)
    for line in sys.stdin:
        n = int(line)
        begin = time.perf_counter()
        for _ in range(n):
            step()
        print(time.perf_counter() - begin, flush=True)


def compare(name, options):
    """Rows of the report, of pynn eager and replayed beside each peer."""
    mine = ["pynn"] if name.startswith("I") or name == "step" else ["pynn", "pynn+plan"]
    workers = {}
    for lib in [*mine, *peers_of(name)]:
        python = sys.executable if lib.startswith("pynn") or lib == "memory" else options.python
        workers[lib] = Worker([python, __file__, name, "--worker", lib, "--threads", str(options.threads)])
    found = {lib: w.results() for lib, w in workers.items()}
    for lib in found:
        np.testing.assert_allclose(found[lib] if name != "step" else [], found["pynn"] if name != "step" else [],
                                   rtol=2e-3, atol=1e-5, err_msg=lib)  # fmt: skip
    times = take_turns(workers, str, max(5, options.rounds), options.budget)
    for w in workers.values():
        w.close()
    rows = []
    for own in mine:
        for peer in peers_of(name):
            r = ratio({"pynn": times[own], peer: times[peer]}, peer)
            print(f"{name} {options.threads} thread(s), {own}: {told(peer, r)}", flush=True)
            rows.append({"row": name, "threads": options.threads, "plan": own == "pynn+plan", "peer": peer, **r})
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="+", choices=[*NAMES, *GROUPS])
    parser.add_argument("--python", default=sys.executable, help="a Python that has the peers")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--budget", type=float, default=0.3, help="seconds of a library in each round")
    parser.add_argument("--json", metavar="FILE", help="also write the rows as JSON")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(options.worker, options.names[0], options.threads)
        return
    rows = [row for name in options.names for one in GROUPS.get(name, [name]) for row in compare(one, options)]
    if options.json:
        write(options.json, "rnn", rows, options.python)


if __name__ == "__main__":
    main()
