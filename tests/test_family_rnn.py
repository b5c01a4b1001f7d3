"""Recurrent layers and cells: against PyTorch, step by step against whole sequences, lengths, states, errors."""

from pathlib import Path

import numpy as np
import pytest
from fixtures.make_rnn_torch import CASES, HIDDEN, SIZE, drawn, shapes

import pynn
from pynn import OPS, Tensor, _core, grad, nn, optim, testing

LAYERS = {"LSTM": nn.LSTM, "GRU": nn.GRU, "RNN": nn.RNN}


def filled(module, rng):
    """The module in float64, with parameters from rng."""
    module.double()
    module.load_state_dict({k: rng.uniform(-0.6, 0.6, v.shape) for k, v in module.state_dict().items()})
    return module


def listed(y):
    """The tensors of y, a tensor or tuples of them, in order."""
    return [t for part in y for t in listed(part)] if isinstance(y, tuple) else [y]


def arrays(y):
    return [t.detach().numpy_copy() for t in listed(y)]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("case", CASES)
def test_as_pytorch(case, dtype):
    """Outputs, last states and all gradients; parameters by PyTorch's names."""
    with np.load(Path(__file__).with_name("fixtures") / "rnn_torch.npz") as file:
        want = file[case]
    kind, options, given, lengths = CASES[case]
    layer = getattr(nn, kind)(SIZE, HIDDEN, dtype=np.dtype(dtype), **options)
    named = sorted((n, p.shape) for n, p in layer.named_parameters())
    values, x, states, weights = drawn(case, named, *shapes(case))
    layer.load_state_dict(values)
    x, *states = (Tensor(a.astype(dtype), requires_grad=True) for a in (x, *states))
    hx = None if not given else tuple(states) if kind.startswith("LSTM") else states[0]
    ys = listed(layer(x, hx, lengths) if lengths else layer(x, hx))
    loss = sum((y * Tensor(w.astype(dtype))).sum() for y, w in zip(ys, weights, strict=True))
    loss.backward()
    grads = [x.grad, *[s.grad for s in states if given], *[p.grad for _, p in sorted(layer.named_parameters())]]
    found = np.concatenate([t.detach().numpy().ravel() for t in [*ys, *grads]])
    tolerance = 1e-12 if dtype == "float64" else 3e-5
    np.testing.assert_allclose(found, want, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("kind", LAYERS)
def test_state_dict_is_pytorchs(kind, both):
    layer = LAYERS[kind](3, 4, num_layers=2, bidirectional=both)
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[kind]
    ways = ("", "_reverse") if both else ("",)
    want = {}
    for k in range(2):
        for way in ways:
            want[f"weight_ih_l{k}{way}"] = (gates * 4, 3 if k == 0 else 4 * len(ways))
            want[f"weight_hh_l{k}{way}"] = (gates * 4, 4)
            want[f"bias_ih_l{k}{way}"] = want[f"bias_hh_l{k}{way}"] = (gates * 4,)
    assert list(want.items()) == [(k, v.shape) for k, v in layer.state_dict().items()]
    assert all(np.abs(v).max() <= 0.5 for v in layer.state_dict().values())


CELLS = {
    "LSTM": (nn.LSTM, nn.LSTMCell, {}),
    "GRU": (nn.GRU, nn.GRUCell, {}),
    "GRU before": (nn.GRU, nn.GRUCell, {"reset_after": False}),
    "RNN": (nn.RNN, nn.RNNCell, {"nonlinearity": "relu"}),
}


@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize("kind", CELLS)
def test_cells_step_as_layers_do(kind, batch):
    """Streaming: a cell's states after each step are the layer's outputs."""
    layer, cell, options = CELLS[kind]
    rng = np.random.default_rng(0)
    layer, cell = filled(layer(3, 18, **options), rng), cell(3, 18, **options).double()
    cell.load_state_dict({k.removesuffix("_l0"): v for k, v in layer.state_dict().items()})
    x = Tensor(rng.standard_normal((6, batch, 3)))
    y, last = layer(x)
    state = None
    for t in range(6):
        state = cell(x[t], state)
        h = state[0] if kind == "LSTM" else state
        np.testing.assert_allclose(h.detach().numpy(), y[t].detach().numpy(), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(
        np.concatenate(arrays(state)), np.concatenate([a[0] for a in arrays(last)]), rtol=1e-12, atol=1e-14
    )
    alone = cell(x[0, 0])
    np.testing.assert_allclose(arrays(alone)[0], y[0, 0].detach().numpy(), rtol=1e-12, atol=1e-14)


def test_a_cell_streams_in_a_session():
    """Arrays in and out, replayed from the second call on, with the bits of the eager cell."""
    cell = nn.LSTMCell(7, 21)

    class Step(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = cell

        def forward(self, x, h, c):
            return self.cell(x, (h, c))

    session = Step().session()
    rng = np.random.default_rng(0)
    h = c = np.zeros((1, 21), np.float32)
    eager = None
    for _ in range(5):
        x = rng.standard_normal((1, 7)).astype(np.float32)
        h, c = session.predict(x, h, c)
        with pynn.no_grad():
            eager = cell(Tensor(x), eager)
        testing.assert_same_bits([h, c], list(eager), "streamed")


@pytest.mark.parametrize("kind", LAYERS)
def test_a_sequence_in_two_parts(kind):
    """The state after the first part begins the second."""
    rng = np.random.default_rng(1)
    layer = filled(LAYERS[kind](3, 5, num_layers=2), rng)
    x, start = Tensor(rng.standard_normal((7, 2, 3))), Tensor(rng.standard_normal((2, 2, 5)))
    start = (start, start * 0.5) if kind == "LSTM" else start
    whole, last = layer(x, start)
    first, middle = layer(x[:3], start)
    second, end = layer(x[3:], middle)
    np.testing.assert_allclose(arrays(whole)[0], np.concatenate(arrays((first, second))), rtol=1e-12, atol=1e-14)
    for a, b in zip(arrays(last), arrays(end)):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("kind", LAYERS)
def test_the_other_direction_is_time_reversed(kind):
    rng = np.random.default_rng(2)
    both = filled(LAYERS[kind](3, 5, bidirectional=True), rng)
    one = LAYERS[kind](3, 5).double()
    one.load_state_dict({k: both.state_dict()[k + "_reverse"] for k in one.state_dict()})
    x = rng.standard_normal((6, 2, 3))
    y = arrays(both(Tensor(x))[0])[0][..., 5:]
    flipped = arrays(one(Tensor(x[::-1].copy()))[0])[0][::-1]
    testing.assert_same_bits(y, flipped, "reverse")


# ---- lengths ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("both", [False, True])
def test_lengths(kind, both):
    """Each sequence as if it were alone, with its gradients; padding, NaN included, has no influence."""
    rng = np.random.default_rng(3)
    options = {"proj_size": 4} if kind == "LSTM" else {}
    layer = filled(LAYERS[kind](3, 6, num_layers=2, bidirectional=both, **options), rng)
    lengths = [4, 2, 0, 5, 1, 3, 5]
    x = rng.standard_normal((5, 7, 3))
    seeds = rng.standard_normal((5, 7, (2 if both else 1) * (4 if kind == "LSTM" else 6)))

    def run(x, lengths, seeds):
        x = Tensor(x, requires_grad=True)
        y, last = layer(x, lengths=lengths)
        loss = (y * Tensor(seeds)).sum() + sum((s * s).sum() for s in listed(last))
        return [*arrays(y), *arrays(last)], [g.numpy_copy() for g in grad([loss], [x, *layer.parameters()])]

    spoilt = x.copy()
    for n, length in enumerate(lengths):
        spoilt[length:, n] = np.nan
    values, grads = run(x, lengths, seeds)
    again, grads_again = run(spoilt, np.array(lengths), seeds)
    testing.assert_same_bits(again, values, "padding")
    testing.assert_same_bits(grads_again, grads, "gradients under padding")
    total = [np.zeros_like(g) for g in grads[1:]]
    for n, length in enumerate(lengths):
        assert not values[0][length:, n].any()
        assert not grads[0][length:, n].any()
        alone, parts = run(x[:length, n : n + 1], None, seeds[:length, n : n + 1])
        np.testing.assert_allclose(values[0][:length, n], alone[0][:, 0], rtol=1e-11, atol=1e-13)
        for a, b in zip(values[1:], alone[1:]):
            np.testing.assert_allclose(a[:, n], b[:, 0], rtol=1e-11, atol=1e-13)
        np.testing.assert_allclose(grads[0][:length, n], parts[0][:, 0], rtol=1e-11, atol=1e-13)
        total = [t + p for t, p in zip(total, parts[1:])]
    for g, t in zip(grads[1:], total):
        np.testing.assert_allclose(g, t, rtol=1e-11, atol=1e-12)


def test_lengths_in_a_plan():
    """Lengths are values: a plan serves all of them, and refuses those out of range without losing itself."""
    layer = nn.GRU(3, 4, bidirectional=True)
    x = pynn.randn(5, 3, 3)
    run = pynn.compile(lambda x, lengths: layer(x, lengths=lengths))
    with pynn.no_grad():
        for lengths in ([5, 5, 5], [1, 0, 4], [2, 5, 3]):
            got = run(x, Tensor(np.array(lengths)))
            testing.assert_same_bits(listed(tuple(got)), listed(layer(x, lengths=lengths)), f"{lengths}")
        with pytest.raises(
            ValueError, match=r"^gru: argument 'lengths': expected 0 <= value <= T, got 6 at lengths\[2\]"
        ):
            run(x, Tensor(np.array([1, 2, 6])))
        testing.assert_same_bits(listed(tuple(run(x, Tensor(np.array([3, 3, 3]))))), listed(layer(x, lengths=[3] * 3)))
    assert run.replays >= 3


# ---- truncated backpropagation through time ---------------------------------------------------------------


def test_truncated_backpropagation():
    """With the state detached after each part, a part's gradients are those of that part alone from this state; with
    it kept, they are those of the whole sequence."""
    rng = np.random.default_rng(4)
    layer = filled(nn.LSTM(3, 5), rng)
    x = rng.standard_normal((6, 2, 3))
    params = list(layer.parameters())

    def gradients(detach):
        total, state = [np.zeros(p.shape) for p in params], None
        loss = 0
        for k in range(0, 6, 2):
            y, state = layer(Tensor(x[k : k + 2]), state)
            if detach:
                found = grad([(y * y).sum()], params)
                total = [t + g.numpy() for t, g in zip(total, found)]
                state = tuple(s.detach() for s in state)
                assert not any(s.requires_grad for s in state)
            else:
                loss = loss + (y * y).sum()
        return total if detach else [g.numpy_copy() for g in grad([loss], params)]

    y, _ = layer(Tensor(x))
    whole = [g.numpy_copy() for g in grad([(y * y).sum()], params)]
    for a, b in zip(gradients(detach=False), whole):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-13)
    truncated = gradients(detach=True)
    difference = max(np.abs(a - b).max() for a, b in zip(truncated, whole))
    assert difference > 1e-3
    state, alone = None, [np.zeros(p.shape) for p in params]
    for k in range(0, 6, 2):  # from states that are numbers
        y, end = layer(Tensor(x[k : k + 2]), state)
        alone = [t + g.numpy() for t, g in zip(alone, grad([(y * y).sum()], params))]
        state = tuple(Tensor(s.detach().numpy_copy()) for s in end)
    for a, b in zip(truncated, alone):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)


def test_truncated_training_is_replayed():
    """Steps that hand a detached state on are recorded once; replays train with the same bits."""

    def trained(plan):
        pynn.manual_seed(3)
        layer, head = nn.GRU(4, 9), nn.Linear(9, 4)
        opt = optim.Adam([*layer.parameters(), *head.parameters()], lr=0.01)

        def step(x, h):
            opt.zero_grad()
            y, end = layer(x, h)
            loss = ((head(y[:-1]) - x[1:]) ** 2).mean()
            loss.backward()
            opt.step()
            return loss, end.detach()

        run = pynn.compile(step) if plan else step
        h, losses = pynn.zeros(1, 3, 9), []
        data = np.random.default_rng(0).standard_normal((12, 5, 3, 4)).astype(np.float32)
        for x in data:
            loss, h = run(Tensor(x), h)
            losses.append(loss.item())
        return losses, layer.state_dict(), run

    losses, state, run = trained(True)
    eager, eager_state, _ = trained(False)
    assert losses == eager
    testing.assert_same_bits(list(state.values()), list(eager_state.values()), "parameters")
    assert run.replays >= 10


# ---- sizes, threads, dropout --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", LAYERS)
def test_no_step_and_no_sequence(kind):
    layer = LAYERS[kind](3, 4, num_layers=2)
    h = pynn.randn(2, 5, 4)
    y, last = layer(pynn.zeros(0, 5, 3), (h, h) if kind == "LSTM" else h)
    assert y.shape == (0, 5, 4)
    for s in listed(last):
        testing.assert_same_bits(s, h, "the state is as it was")
    y, last = layer(pynn.zeros(6, 0, 3))
    assert y.shape == (6, 0, 4)
    assert {s.shape for s in listed(last)} == {(2, 0, 4)}
    (y.sum() + listed(last)[0].sum()).backward()
    assert all(not p.grad.numpy().any() for p in layer.parameters())


@pytest.mark.parametrize("kind", LAYERS)
def test_threads_and_batches_change_no_bit(kind):
    """1, 2 and 4 threads; a sequence alone or among others."""
    pynn.manual_seed(1)
    options = {"proj_size": 50} if kind == "LSTM" else {"reset_after": False} if kind == "GRU" else {}
    layer = LAYERS[kind](40, 130, num_layers=2, bidirectional=True, **options)
    x = pynn.randn(7, 37, 40)
    lengths = np.random.default_rng(0).integers(0, 8, 37)
    lengths[:2] = 7

    def run():
        y, last = layer(x, lengths=lengths)
        loss = (y * y).sum() + sum(s.sum() for s in listed(last))
        return [y, *listed(last), *grad([loss], list(layer.parameters()))]

    first = run()
    for n in (2, 4):
        _core.set_num_threads(n)
        testing.assert_same_bits(testing.with_team(run), first, f"{n} threads")
    _core.set_num_threads(1)
    y = layer(x[:, :2], lengths=[7, 7])[0]
    testing.assert_same_bits(y, first[0][:, :2], "alone")


def test_dropout_acts_between_layers_in_training():
    layer = nn.LSTM(3, 8, num_layers=2, dropout=0.5)
    x = pynn.randn(4, 2, 3)
    pynn.manual_seed(5)
    a = layer(x)[0]
    pynn.manual_seed(5)
    testing.assert_same_bits(layer(x)[0], a, "the same seed")
    assert np.abs((layer(x)[0] - a).detach().numpy()).max() > 1e-4
    layer.eval()
    plain = nn.LSTM(3, 8, num_layers=2)
    plain.load_state_dict(layer.state_dict())
    testing.assert_same_bits(layer(x)[0], plain(x)[0], "no dropout in eval")
    single = nn.LSTM(3, 8, dropout=0.9)
    testing.assert_same_bits(single(x)[0], single.eval()(x)[0], "nothing behind the last layer")


def test_without_a_batch():
    layer = nn.LSTM(3, 4, bidirectional=True)
    x, h, c = pynn.randn(5, 3), pynn.randn(2, 4), pynn.randn(2, 4)
    y, (hn, cn) = layer(x, (h, c))
    full, (hn_full, cn_full) = layer(x.unsqueeze(1), (h.unsqueeze(1), c.unsqueeze(1)))
    testing.assert_same_bits([y, hn, cn], [full.squeeze(1), hn_full.squeeze(1), cn_full.squeeze(1)])


def test_reset_before_is_seeds_gru():
    """S3 §9.3, whose z is 1 − z: by the formula of the text, without biases."""
    rng = np.random.default_rng(6)
    layer = filled(nn.GRU(3, 4, bias=False, reset_after=False), rng)
    w, u = (layer.state_dict()[f"weight_{k}_l0"] for k in ("ih", "hh"))
    x, h = rng.standard_normal((5, 3)), np.zeros(4)
    for t, y in enumerate(layer(Tensor(x[:, None]))[0].detach().numpy()[:, 0]):
        r = 1 / (1 + np.exp(-(w[:4] @ x[t] + u[:4] @ h)))
        z = 1 / (1 + np.exp(w[4:8] @ x[t] + u[4:8] @ h))
        h = (1 - z) * h + z * np.tanh(w[8:] @ x[t] + u[8:] @ (r * h))
        np.testing.assert_allclose(y, h, rtol=1e-12, atol=1e-14)


def test_third_order():
    """Derivatives go on through the formula: the third of a step of a cell without biases, against differences."""
    w = Tensor(np.array([[0.7], [-0.3], [0.9], [0.4]]))
    zero = Tensor(np.zeros((4, 1)))

    def derivatives(value, order):
        x = Tensor(np.array([[[value]]]), requires_grad=True)
        y = OPS.lstm(x, None, None, w, zero, None, None, None, None)[0].sum()
        for _ in range(order):
            (y,) = grad([y.sum()], [x], create_graph=True)
        return y.detach().numpy().item()

    for order in (1, 2, 3):
        numeric = (derivatives(0.4 + 1e-5, order - 1) - derivatives(0.4 - 1e-5, order - 1)) / 2e-5
        np.testing.assert_allclose(derivatives(0.4, order), numeric, rtol=1e-8)


def test_classifier():
    """pynn.models.LSTMClassifier: lengths count, padding does not; it learns which token came first."""
    pynn.manual_seed(0)
    model = pynn.models.LSTMClassifier(11, 3, embedding_dim=8, hidden_size=16, bidirectional=True, padding_idx=0)
    rng = np.random.default_rng(0)
    tokens, lengths = rng.integers(1, 11, (64, 9)), rng.integers(1, 10, 64)
    other = np.where(np.arange(9) < lengths[:, None], tokens, rng.integers(1, 11, (64, 9)))
    scores = model(Tensor(tokens), lengths)
    assert scores.shape == (64, 3)
    testing.assert_same_bits(model(Tensor(other), lengths), scores, "padding")
    opt, target = optim.Adam(model.parameters(), lr=0.02), Tensor(tokens[:, 0] % 3)
    losses = []
    for _ in range(60):
        opt.zero_grad()
        loss = nn.functional.cross_entropy(model(Tensor(tokens), lengths), target)
        loss.backward()
        opt.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]
    with pytest.raises(ValueError, match=r"^LSTMClassifier: argument 'input': expected 2 dimensions"):
        model(Tensor(tokens[0]))


# ---- errors -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "kind", "text"),
    [
        (lambda: nn.LSTM(0, 4), ValueError, r"^LSTM: argument 'input_size': expected an integer >= 1, got 0$"),
        (lambda: nn.GRU(3, 4.0), ValueError, r"^GRU: argument 'hidden_size': expected an integer >= 1, got 4\.0$"),
        (lambda: nn.RNN(3, 4, nonlinearity="sin"), ValueError,
         r"^RNN: argument 'nonlinearity': expected 'tanh' or 'relu', got 'sin'$"),
        (lambda: nn.RNNCell(3, 4, nonlinearity="sin"), ValueError, r"^RNNCell: argument 'nonlinearity'"),
        (lambda: nn.LSTM(3, 4, dropout=1.5), ValueError,
         r"^LSTM: argument 'dropout': expected 0 <= dropout <= 1, got 1\.5$"),
        (lambda: nn.LSTM(3, 4, proj_size=4), ValueError,
         r"'proj_size': expected 0 <= proj_size < hidden_size 4, got 4"),
        (lambda: nn.RNNBase("SRU", 3, 4), ValueError,
         r"^RNNBase: argument 'mode': expected one of RNN_TANH, .*, got 'SRU'"),
        (lambda: nn.RNNBase("GRU", 3, 4, proj_size=2), ValueError,
         r"^RNNBase: argument 'proj_size': expected 0, as only"),
        (lambda: nn.LSTM(3, 4)(pynn.zeros(5, 2, 4)), ValueError,
         r"^LSTM: argument 'input': expected shape \(…, 3\), got \(5, 2, 4\)$"),
        (lambda: nn.LSTM(3, 4)(pynn.zeros(3)), ValueError, r"^LSTM: argument 'input': expected 2 or 3 dimensions, got"),
        (lambda: nn.LSTM(3, 4)(pynn.zeros(5, 2, 3), pynn.zeros(1, 2, 4)), TypeError,
         r"^LSTM: argument 'hx': expected a pair \(h_0, c_0\), got Tensor$"),
        (lambda: nn.GRU(3, 4)(pynn.zeros(5, 2, 3), pynn.zeros(2, 4)), ValueError,
         r"^GRU: argument 'hx': expected shape \(1, 2, 4\), got \(2, 4\)$"),
        (lambda: nn.GRU(3, 4)(pynn.zeros(5, 2, 3), None, [5, 4, 3]), ValueError,
         r"^GRU: argument 'lengths': expected shape \(2,\), got \(3,\)$"),
        (lambda: nn.GRU(3, 4)(pynn.zeros(5, 2, 3), None, [5, 4.5]), TypeError,
         r"^GRU: argument 'lengths': expected integers, got float64$"),
        (lambda: nn.RNN(3, 4)(pynn.zeros(5, 2, 3), None, [5, 6]), ValueError,
         r"^rnn: argument 'lengths': expected 0 <= value <= T, got 6 at lengths\[1\]$"),
        (lambda: nn.RNN(3, 4)(pynn.zeros(5, 2, 3).double()), TypeError, r"^rnn: argument 'x': expected dtype float32"),
        (lambda: nn.LSTMCell(3, 4)(pynn.zeros(2, 3), pynn.zeros(2, 4)), TypeError,
         r"^LSTMCell: argument 'hx': expected a pair \(h, c\), got Tensor$"),
        (lambda: nn.LSTMCell(3, 4)(pynn.zeros(2, 3), (pynn.zeros(2, 4), pynn.zeros(3, 4))), ValueError,
         r"^LSTMCell: argument 'hx': expected shape \(2, 4\), got \(3, 4\)$"),
        (lambda: nn.GRUCell(3, 4)(pynn.zeros(2, 2, 3)), ValueError,
         r"^GRUCell: argument 'input': expected shape \(N, 3\) or \(3,\), got \(2, 2, 3\)$"),
    ],
)  # fmt: skip
def test_errors(call, kind, text):
    with pytest.raises(kind, match=text):
        call()
