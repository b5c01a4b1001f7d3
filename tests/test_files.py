"""Models in files: what comes back, and what is said about files that are no good."""

import ast
import inspect
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from conftest import FULL

import pynn
from pynn import Session, nn
from pynn.files import FORMAT, pack, read, unpack, write
from pynn.train import load_state, save_state


def same_state(a, b):
    a, b = a.state_dict(), b.state_dict()
    assert list(a) == list(b)
    for name in a:
        assert a[name].dtype == b[name].dtype
        np.testing.assert_array_equal(a[name], b[name])


def through_file(model, path):
    pynn.save(model, path)
    before = pynn.default_generator.get_state().tolist()
    back = pynn.load(path)
    assert pynn.default_generator.get_state().tolist() == before, "loading draws nothing"
    assert repr(back) == repr(model)
    assert [m.training for m in back.modules()] == [m.training for m in model.modules()]
    assert [p.requires_grad for p in back.parameters()] == [p.requires_grad for p in model.parameters()]
    same_state(model, back)
    return back


# ---- architectures ---------------------------------------------------------------------------------------


@nn.register("tests.Net")
class Net(nn.Module):
    """A class of a user's, with arguments of many kinds."""

    def __init__(self, body, sizes=(3, 4), *, act=nn.ReLU, squash=None, table=None, dtype=None):
        super().__init__()
        self.body = body
        self.sizes = sizes
        self.act, self.squash = act(), squash
        self.head = nn.Linear(*sizes, dtype=dtype)
        self.register_buffer("table", pynn.tensor(np.arange(3) if table is None else table))

    def forward(self, x):
        y = self.head(self.act(self.body(x)))
        return y if self.squash is None else self.squash(y)


@nn.register("tests.Positional")
class Positional(nn.Module):
    def __init__(self, a, /, b, *rest, **options):
        super().__init__()
        self.a, self.b, self.rest, self.options = a, b, rest, options


def changed():
    """A model that is not what its constructors made."""
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.3), nn.LayerNorm(8), nn.Linear(8, 3, bias=False))
    model[2].p = 0.5
    model.insert(1, nn.GELU("tanh"))
    model[1].approximate = "none"
    model[0].bias = None
    model[-1].weight.requires_grad = False
    model[3].eval()
    del model[2]
    return model.double()


def tied():
    embedding = nn.Embedding(7, 4)
    out = nn.Linear(4, 7, bias=False)
    out.weight = embedding.weight
    twice = nn.Linear(4, 4)
    return nn.Sequential(embedding, twice, nn.Tanh(), twice, out)


MODELS = {
    "mlp": lambda: nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)),
    "named": lambda: nn.Sequential({"in": nn.Linear(4, 8, activation="relu"), "out": nn.Linear(8, 3)}),
    "one layer": lambda: nn.Linear(3, 2, dtype=np.float64),
    "containers": lambda: nn.ModuleDict(
        {
            "list": nn.ModuleList(nn.Linear(k, 2) for k in range(1, 4)),
            "numbers": nn.ParameterList([np.zeros(3), np.ones((2, 2))]),
            "nested": nn.Sequential(nn.Sequential(nn.PReLU(3), nn.Softmax(dim=1)), nn.ModuleList()),
        }
    ),
    "activations": lambda: nn.Sequential(
        nn.ELU(0.5), nn.LeakyReLU(negative_slope=0.2), nn.Hardtanh(-2, 3), nn.Softplus(2.0), nn.LogSoftmax(-1)
    ),
    "tables": lambda: nn.ModuleList(
        [nn.Embedding(5, 3, padding_idx=-1), nn.EmbeddingBag(5, 3, mode="sum", sparse=True)]
    ),
    "from pretrained": lambda: nn.Sequential(nn.Embedding.from_pretrained(pynn.randn(4, 2))),
    "norms": lambda: nn.Sequential(nn.LayerNorm([2, 3], eps=1e-3), nn.RMSNorm(3), nn.Flatten(0), nn.Identity(1, a=2)),
    "changed": changed,
    "tied": tied,
    "own": lambda: Net(nn.Sequential(nn.Linear(2, 3)), act=nn.SiLU, squash=nn.functional.softplus, dtype=np.float32),
    "own, other arguments": lambda: Net(nn.Identity(), [3, 5], table=np.eye(2), dtype=np.dtype("f8")),
    "own, required layer replaced": lambda: replaced(Net(nn.Linear(2, 3))),
    "positional": lambda: Positional(1, (2, "x", None), 3.5, True, c={"k": [1, {2: float("inf")}]}),
}  # fmt: skip


def replaced(net):
    net.body = nn.Tanh()
    net.head = nn.Linear(3, 9, bias=False)
    net.extra = nn.Dropout(0.9)
    return net


@pytest.mark.parametrize("name", MODELS)
def test_a_model_goes_through_a_file(name, tmp_path):
    model = MODELS[name]()
    back = through_file(model, tmp_path / "m.safetensors")
    through_file(back, tmp_path / "again.safetensors")
    assert (tmp_path / "m.safetensors").stat().st_size == (tmp_path / "again.safetensors").stat().st_size
    assert sorted(f.name for f in tmp_path.iterdir()) == ["again.safetensors", "m.safetensors"]


CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.ParameterList)
CLASSES = sorted(
    (c for c in vars(nn).values() if isinstance(c, type) and issubclass(c, nn.Module) and c not in CONTAINERS),
    key=lambda c: c.__name__,
)


def sample_of(cls):
    """An instance of any class of pynn.nn: 4 for what it must be told, a layer where it asks for one."""
    told = list(inspect.signature(cls.__init__).parameters.values())[1:]  # Python 3.10 reads __new__ of the class
    known = [p for p in told if p.default is p.empty and p.kind <= 1]
    layers = {"encoder_layer": "TransformerEncoderLayer", "decoder_layer": "TransformerDecoderLayer"}
    values = {p.name: sample_of(getattr(nn, layers[p.name])) for p in known if p.name in layers} | {
        "mode": "LSTM",
        "features": nn.Identity(),
        "block": nn.Identity(),
    }
    return cls(*[values.get(p.name, 4) for p in known])


@pytest.mark.parametrize("cls", CLASSES, ids=lambda c: c.__name__)
def test_every_class_goes_through_a_file(cls, tmp_path):
    back = through_file(nn.Sequential(sample_of(cls).eval()), tmp_path / "m")
    assert type(back[0]) is cls


def test_what_comes_back_computes_the_same(tmp_path):
    model = MODELS["own"]()
    back = through_file(model, tmp_path / "m")
    assert back.squash is nn.functional.softplus
    x = pynn.randn(6, 2)
    np.testing.assert_array_equal(model(x).numpy_copy(), back(x).numpy_copy())
    args = through_file(MODELS["positional"](), tmp_path / "m")
    assert (args.a, args.b, args.rest, args.options) == (1, (2, "x", None), (3.5, True), {"c": {"k": [1, {2: np.inf}]}})


def test_tied_tensors_and_modules_are_stored_once_and_tied_again(tmp_path):
    back = through_file(tied(), tmp_path / "m")
    assert back[4].weight is back[0].weight
    assert back[3] is back[1]
    assert sorted(load_state(tmp_path / "m")) == ["model.0.weight", "model.1.bias", "model.1.weight"]
    optimizer = pynn.optim.SGD(back.parameters(), lr=0.1)
    back(pynn.tensor([1, 2])).sum().backward()
    optimizer.step()
    assert back[4].weight is back[0].weight


def test_a_class_must_be_registered(tmp_path):
    class Own(nn.Module):
        pass

    with pytest.raises(
        TypeError, match=r"save: .*Own is no class of pynn.nn: write @pynn.nn.register\('Own'\) above it"
    ):
        pynn.save(nn.Sequential(Own()), tmp_path / "m")
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match=r"'Linear' is the name of pynn\.nn\.linear"):
        nn.register("Linear")(Own)
    with pytest.raises(ValueError, match=r"'tests.Net' is the name of .*Net"):
        nn.register("tests.Net")(Own)
    with pytest.raises(TypeError, match="expected a subclass of Module"):
        nn.register("x")(int)
    with pytest.raises(TypeError, match="expected a text, got <class"):
        nn.register(Own)
    with pytest.raises(TypeError, match=r"save: Net, argument 'squash': .*got function"):
        pynn.save(Net(nn.Identity(), squash=lambda y: y), tmp_path / "m")
    with pytest.raises(TypeError, match="argument 'model': expected a Module, got dict"):
        pynn.save({}, tmp_path / "m")


def test_a_class_that_the_reader_does_not_know(tmp_path):
    pynn.save(Net(nn.Identity()), tmp_path / "m")
    code = f"import pynn; pynn.load({str(tmp_path / 'm')!r})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "ValueError: load: the file holds a module of class 'tests.Net', which is not known: import" in run.stderr


def test_a_session_is_built_straight_from_a_file(tmp_path):
    model = MODELS["mlp"]()
    pynn.save(model, tmp_path / "m")
    x = np.random.default_rng(0).standard_normal((9, 4)).astype("f4")
    np.testing.assert_array_equal(Session.from_file(tmp_path / "m").predict(x), model.session().predict(x))
    with pytest.raises(ValueError, match="batch_rows"):
        Session.from_file(tmp_path / "m", batch_rows=-1)


# ---- arrays and state ------------------------------------------------------------------------------------


ODD = {
    "transposed": np.arange(6.0).reshape(2, 3).T,
    "fortran": np.asfortranarray(np.arange(24.0).reshape(2, 3, 4)),
    "backwards": np.arange(5)[::-2],
    "every other": np.arange(20, dtype="f4").reshape(4, 5)[::2, 1::2],
    "broadcast": np.broadcast_to(np.arange(3, dtype="i2"), (4, 3)),
    "channels last": np.arange(24, dtype="f4").reshape(1, 2, 3, 4).transpose(0, 3, 1, 2),
    "big-endian": np.arange(4, dtype=">f8"),
    "number": np.array(3.5),
    "scalar": np.float64(3),
    "empty": np.zeros((0, 3), "u1"),
    "bools": np.array([True, False]),
    "half": np.arange(3, dtype="f2"),
}


def test_strided_arrays_are_stored_in_logical_order(tmp_path):
    """safetensors' NumPy writer takes memory as it lies, and says nothing."""
    write(tmp_path / "m", "test", ODD, None)
    save_state(ODD, tmp_path / "s")
    for back in (read(tmp_path / "m", "test")[0], load_state(tmp_path / "s")):
        assert {k: v.shape for k, v in back.items()} == {k: np.shape(v) for k, v in ODD.items()}
        for name, arr in ODD.items():
            np.testing.assert_array_equal(back[name], arr)
            assert back[name].dtype == np.asarray(arr).dtype.newbyteorder("=")


def test_trees_of_state():
    tree = {
        "numbers": [1, -(2**70), 0.1, float("inf"), -float("inf"), True, None, np.float32(0.1), np.int8(3)],
        3: ("a", ["b", ()], {}),
        "arrays": {"x": np.arange(3), "nested": [np.eye(2)]},
        "dtype": np.dtype("f4"),
    }
    tensors = {}
    form = json.loads(json.dumps(pack(tree, "root", tensors), allow_nan=False))
    assert sorted(tensors) == ["root.arrays.nested.0", "root.arrays.x"]
    back = unpack(form, tensors)
    assert back["numbers"] == [1, -(2**70), 0.1, float("inf"), -float("inf"), True, None, float(np.float32(0.1)), 3]
    assert back[3] == tree[3]
    assert list(back) == list(tree)
    assert back["dtype"] == np.float32
    assert np.isnan(unpack(pack(float("nan"), "x", {}), {}))
    with pytest.raises(TypeError, match=r"root\.a\.1: expected numbers, strings, .* got set"):
        pack({"a": [1, {2}]}, "root", {})
    for bad in ({"x": 1}, {"float": "1"}, {"dtype": "O"}, {"tuple": [], "b": 1}):
        with pytest.raises(ValueError, match=r"not understood"):
            unpack(bad, {})


# ---- bad files -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("files") / "whole"
    pynn.manual_seed(0)
    pynn.save(MODELS["mlp"](), path)
    return path.read_bytes()


def header_of(raw):
    n = struct.unpack("<Q", raw[:8])[0]
    return json.loads(raw[8 : 8 + n]), raw[8 + n :]


def joined(header, data):
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


def lie(raw, rng):
    """A header that says something else about sizes, offsets, dtypes or names."""
    header, data = header_of(raw)
    name = rng.choice([k for k in header if k != "__metadata__"])
    entry = header[name]
    kind = rng.integers(6)
    if kind == 0:
        entry["shape"] = [int(v) for v in rng.choice([0, 1, 7, 2**31, 2**62], 2)]
    elif kind == 1:
        entry["data_offsets"] = sorted(int(v) for v in rng.integers(0, 2 ** int(rng.integers(4, 63)), 2))
    elif kind == 2:
        entry["dtype"] = str(rng.choice(["F64", "I8", "BF16", "F8_E4M3", "X"]))
    elif kind == 3:
        header[name + "x"] = header.pop(name)
    elif kind == 4:
        other = rng.choice([k for k in header if k not in ("__metadata__", name)])
        header[name], header[other] = header[other], header[name]
    else:
        key = str(rng.choice(["pynn.format", "pynn.kind", "pynn.state", "pynn.sha256"]))
        text = header["__metadata__"][key]
        header["__metadata__"][key] = str(rng.choice(["", "0", "-1", "2", "9" * 20, "{}", text[:-1], text + "0"]))
    return joined(header, data)


def flip(raw, rng):
    broken = bytearray(raw)
    for _ in range(rng.integers(1, 4)):
        broken[rng.integers(len(raw))] ^= 1 << rng.integers(8)
    return bytes(broken)


def foreign(raw, rng):
    heads = (b"\x80\x04\x95", b"PK\x03\x04", b"\x93NUMPY", b"\x89HDF", b"{}", b"", b"hello", raw[:8], b"\xff" * 8)
    return heads[rng.integers(len(heads))] + rng.bytes(int(rng.integers(0, 3000)))


def huge(raw, rng):
    size = (2**26, 2**27, 2**40, 2**63, 2**64 - 1)[rng.integers(5)]
    return struct.pack("<Q", size) + raw[8:]


DAMAGE = {
    "truncated": lambda raw, rng: raw[: rng.integers(len(raw))],
    "longer": lambda raw, rng: raw + rng.bytes(int(rng.integers(1, 100))),
    "bits flipped": flip,
    "lies": lie,
    "foreign": foreign,
    "huge header": huge,
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_bad_files_are_refused(kind, whole, tmp_path):
    """6 × 100 files; the memory that a refusal takes is bounded."""
    path = tmp_path / "m"
    rng = np.random.default_rng(len(kind))
    pynn.load(written(path, whole))
    tracemalloc.start()
    try:
        for case in range(100):
            raw = DAMAGE[kind](whole, rng)
            if raw == whole:
                continue
            with pytest.raises(ValueError, match=r"^load: ") as e:
                pynn.load(written(path, raw))
            assert str(path) in str(e.value), f"case {case} does not name the file"
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def written(path, raw):
    path.write_bytes(raw)
    return path


def test_what_is_said(whole, tmp_path):
    path = tmp_path / "m"

    def said(raw):
        with pytest.raises(ValueError, match=r"^load: ") as e:
            pynn.load(written(path, raw))
        return str(e.value)

    header, data = header_of(whole)
    header["__metadata__"]["pynn.format"] = str(FORMAT + 1)
    assert f"format {FORMAT + 1}, which is newer than this pynn, which reads {FORMAT}: update pynn" in said(
        joined(header, data)
    )
    assert "is damaged: its SHA-256" in said(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert "is damaged, or no safetensors file" in said(whole[:-1])
    assert "is damaged, or no safetensors file" in said(b"hello")
    save_state(pynn.load(written(path, whole)), path)
    assert "was not written by pynn.save" in said(path.read_bytes())
    write(path, "other", {}, None)
    assert "expected a model, got a other" in said(path.read_bytes())
    for place in (tmp_path / "absent", tmp_path):
        with pytest.raises(FileNotFoundError, match="no such file"):
            pynn.load(place)


# ---- saving ----------------------------------------------------------------------------------------------


def test_the_former_file_is_kept_on_request(tmp_path):
    path = tmp_path / "m"
    models = [nn.Linear(2, k) for k in (1, 2, 3, 4)]
    pynn.save(models[0], path, keep=True)
    assert os.listdir(tmp_path) == ["m"]
    pynn.save(models[1], path)
    assert os.listdir(tmp_path) == ["m"]
    for k in (2, 3):
        pynn.save(models[k], path, keep=True)
        assert sorted(os.listdir(tmp_path)) == ["m", "m.former"]
        same_state(pynn.load(path), models[k])
        same_state(pynn.load(tmp_path / "m.former"), models[k - 1])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="puts functions before those of libc")
def test_faults_while_saving(tmp_path):
    """Kills, errors and short writes at every system call: the former or the new model, whole, and the cause named."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        pytest.skip("needs a C compiler")
    here = Path(__file__).parent
    shim, folder = tmp_path / "faults.so", Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else tmp_path
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", shim, here / "c/faults.c", "-ldl"], check=True)
    with tempfile.TemporaryDirectory(dir=folder) as place:
        run = subprocess.run(
            [sys.executable, here / "save_faults.py", place, "2000" if FULL else "200"],
            env={**os.environ, "LD_PRELOAD": str(shim)},
            capture_output=True,
            text=True,
        )
    assert run.returncode == 0, run.stderr
    ends = ast.literal_eval(run.stdout)
    assert all(ends[kind] > 20 for kind in ("error", "killed", "saved")), ends


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits the size of files")
def test_a_full_disk(tmp_path):
    path = tmp_path / "m"
    pynn.save(nn.Linear(3, 3), path)
    former = path.read_bytes()
    code = f"""
import resource, pynn
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
pynn.save(pynn.nn.Linear(300, 300), {str(path)!r})
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "OSError: [Errno 27] save: File too large; what was there is unchanged" in run.stderr
    assert path.read_bytes() == former
    assert os.listdir(tmp_path) == ["m"]


def test_folders_that_cannot_be_written(tmp_path):
    with pytest.raises(FileNotFoundError, match="save: No such file or directory; what was there is unchanged"):
        pynn.save(nn.Linear(2, 2), tmp_path / "absent" / "m")
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        pynn.save(nn.Linear(2, 2), tmp_path / "folder")
    assert os.listdir(tmp_path) == ["folder"]
