"""Multi-head attention, transformer layers, positions, the cache: F-LAY-10 and 11."""

from pathlib import Path

import numpy as np
import pytest
from fixtures.make_transformer_torch import CASES, HEADS, HIDDEN, WIDTH, called, drawn, flat, made

import pynn
from pynn import Tensor, nn
from pynn.nn import functional as F


def softmax(s):
    with np.errstate(invalid="ignore"):
        p = np.exp(s - s.max(-1, keepdims=True))
        return np.nan_to_num(p / p.sum(-1, keepdims=True))


def step_by_step(layer, query, key, value, seen=None):
    """Multi-head attention (batch first) as it is written, a sample, head and query at a time."""
    state = layer.state_dict()
    e, d, groups = layer.embed_dim, layer.head_dim, layer.num_kv_heads
    cuts = np.cumsum([e, groups * d])
    wq, wk, wv = np.split(state["in_proj_weight"], cuts)
    bq, bk, bv = np.split(state["in_proj_bias"], cuts)
    out = np.zeros(query.shape)
    for n in range(len(query)):
        q, k, v = query[n] @ wq.T + bq, key[n] @ wk.T + bk, value[n] @ wv.T + bv
        for h in range(layer.num_heads):
            g = h // (layer.num_heads // groups)
            mine, theirs = slice(h * d, h * d + d), slice(g * d, g * d + d)
            for i in range(len(q)):
                s = k[:, theirs] @ q[i, mine] / np.sqrt(d)
                if seen is not None:
                    s = np.where(seen[n, i], s, -np.inf)
                out[n, i, mine] = softmax(s) @ v[:, theirs]
    return out @ state["out_proj.weight"].T + state["out_proj.bias"]


def attention(width=8, heads=4, dtype=np.float64, **options):
    pynn.manual_seed(1)
    layer = nn.MultiheadAttention(width, heads, batch_first=True, dtype=dtype, **options)
    for p in layer.parameters():  # biases too
        nn.init.normal_(p, 0.0, 0.5)
    return layer.eval()


def draw(*shapes, dtype=np.float64, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(s).astype(dtype) for s in shapes]


# ---- against PyTorch and by the definition ---------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("case", CASES)
def test_as_pytorch(case, dtype):
    """Outputs, weights and all gradients; parameters by PyTorch's names."""
    with np.load(Path(__file__).with_name("fixtures") / "transformer_torch.npz") as file:
        want = file[case]
    layer = made(nn, case, dtype=np.dtype(dtype))
    named = sorted((n, p.shape) for n, p in layer.named_parameters())
    values, inputs, masks, weights = drawn(case, named)
    layer.load_state_dict(values)
    inputs = [Tensor(x.astype(dtype), requires_grad=True) for x in inputs]
    masks = {k: Tensor(m if m.dtype == bool else m.astype(dtype)) for k, m in masks.items()}
    y, p = called(layer, case, inputs, masks)
    (y * Tensor(weights.astype(dtype))).sum().backward()
    grads = [*[x.grad for x in inputs], *[q.grad for _, q in sorted(layer.named_parameters())]]
    found = flat([t.detach().numpy() for t in [y, *([] if p is None else [p]), *grads]])
    tolerance = 1e-11 if dtype == "float64" else 1e-4
    np.testing.assert_allclose(found, want, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("groups", [4, 2, 1])
def test_multihead_attention_by_its_definition(groups):
    """F-LAY-10, S1 eq. 7.4 and 7.5; heads that share keys too, with weights and without."""
    layer = attention(num_kv_heads=groups)
    query, key, value = draw((2, 5, 8), (2, 7, 8), (2, 7, 8))
    hidden = np.random.default_rng(3).random((5, 7)) < 0.4
    hidden[2] = True  # sees nothing
    for mask, seen in ((None, None), (Tensor(hidden), np.broadcast_to(~hidden, (2, 5, 7)))):
        want = step_by_step(layer, query, key, value, seen)
        for need in (True, False):
            y, p = layer(*map(Tensor, (query, key, value)), need_weights=need, attn_mask=mask)
            np.testing.assert_allclose(y.detach().numpy(), want, rtol=1e-12, atol=1e-13)
            assert (p is None) is not need
            if need:
                total = np.ones((2, 5)) if seen is None else seen.any(-1)
                np.testing.assert_allclose(p.sum(-1).detach().numpy(), total, rtol=1e-12)


@pytest.mark.parametrize("need", [True, False])
@pytest.mark.parametrize("same", [True, False])
def test_what_sees_nothing_is_zero(same, need):
    """Rows that are masked whole: weights and results 0, no NaN, gradients included."""
    layer = attention()
    x, other = (Tensor(a, requires_grad=True) for a in draw((2, 4, 8), (2, 4, 8)))
    padding = Tensor(np.array([[True] * 4, [False] * 3 + [True]]))
    k = x if same else other
    y, p = layer(x, k, k, padding, need)
    bias = layer.out_proj.bias.numpy_copy()
    np.testing.assert_array_equal(y.detach().numpy()[0], np.broadcast_to(bias, (4, 8)))
    if need:
        assert not p.detach().numpy()[0].any()
        np.testing.assert_allclose(p.detach().numpy()[1].sum(-1), 1)
    y.sum().backward()
    assert all(np.isfinite(q.grad.numpy()).all() for q in [x, *layer.parameters()] if q.grad is not None)
    if not same:
        np.testing.assert_array_equal(k.grad.numpy()[0], 0)


def test_state_dicts_are_pytorchs():
    """Names, shapes and order, as torch 2.13 lists them."""
    attn = [("in_proj_weight", (3 * WIDTH, WIDTH)), ("in_proj_bias", (3 * WIDTH,)),
            ("out_proj.weight", (WIDTH, WIDTH)), ("out_proj.bias", (WIDTH,))]  # fmt: skip
    feed = [("linear1.weight", (HIDDEN, WIDTH)), ("linear1.bias", (HIDDEN,)), ("linear2.weight", (WIDTH, HIDDEN)),
            ("linear2.bias", (WIDTH,))]  # fmt: skip

    def norms(n):
        return [(f"norm{k}.{p}", (WIDTH,)) for k in range(1, n + 1) for p in ("weight", "bias")]

    def inside(name):
        return [(f"{name}.{k}", s) for k, s in attn]

    def listed(module):
        return [(k, v.shape) for k, v in module.state_dict().items()]

    assert listed(nn.MultiheadAttention(WIDTH, HEADS)) == attn
    more = [("bias_k", (1, 1, WIDTH)), ("bias_v", (1, 1, WIDTH))]
    assert listed(nn.MultiheadAttention(WIDTH, HEADS, add_bias_kv=True)) == attn[:2] + more + attn[2:]
    apart = [("q_proj_weight", (WIDTH, WIDTH)), ("k_proj_weight", (WIDTH, 5)), ("v_proj_weight", (WIDTH, 7))]
    assert listed(nn.MultiheadAttention(WIDTH, HEADS, kdim=5, vdim=7)) == apart + attn[1:]
    encoder = inside("self_attn") + feed + norms(2)
    assert listed(nn.TransformerEncoderLayer(WIDTH, HEADS, HIDDEN)) == encoder
    stack = nn.TransformerEncoder(nn.TransformerEncoderLayer(WIDTH, HEADS, HIDDEN), 2, nn.LayerNorm(WIDTH))
    want = [(f"layers.{i}.{k}", s) for i in range(2) for k, s in encoder]
    assert listed(stack) == [*want, ("norm.weight", (WIDTH,)), ("norm.bias", (WIDTH,))]
    decoder = inside("self_attn") + inside("multihead_attn") + feed + norms(3)
    assert listed(nn.TransformerDecoderLayer(WIDTH, HEADS, HIDDEN)) == decoder


# ---- what holds for every transformer --------------------------------------------------------------------


def encoder(**options):
    pynn.manual_seed(2)
    layer = nn.TransformerEncoderLayer(12, 3, 20, 0.1, batch_first=True, **options)
    return nn.TransformerEncoder(layer, 2).eval()


@pytest.mark.parametrize("first", [False, True])
def test_permuted_tokens_give_permuted_results(first):
    """F-LAY-11: without positions an encoder does not see order."""
    model = encoder(norm_first=first, dtype=np.float64)
    (x,) = draw((2, 9, 12))
    order = np.random.default_rng(5).permutation(9)
    y, turned = model(Tensor(x)), model(Tensor(x[:, order]))
    np.testing.assert_allclose(turned.detach().numpy(), y.detach().numpy()[:, order], rtol=1e-11, atol=1e-12)
    placed = nn.SinusoidalPositions(9, 12, dtype=np.float64)
    apart = model(placed(Tensor(x[:, order]))).detach().numpy() - model(placed(Tensor(x))).detach().numpy()[:, order]
    assert np.abs(apart).max() > 1e-3


@pytest.mark.parametrize("heads", [{}, {"num_kv_heads": 1}])
@pytest.mark.parametrize("value", [3.0, np.nan])
def test_later_tokens_change_no_bit(value, heads):
    """The causal order, by whatever route: one product for q, k, v, or three."""
    layer = attention(24, 3, np.float32, **heads)
    (x,) = draw((2, 70, 24), dtype=np.float32)
    before = layer(*[Tensor(x)] * 3, need_weights=False, is_causal=True)[0].detach().numpy_copy()
    for t in (1, 33, 69):
        later = x.copy()
        later[:, t:] = value
        after = layer(*[Tensor(later)] * 3, need_weights=False, is_causal=True)[0].detach().numpy()
        assert after[:, :t].tobytes() == before[:, :t].tobytes()
        assert not np.array_equal(after[:, t:], before[:, t:])


def test_padding_has_no_influence():
    model = encoder(dtype=np.float64)
    (x,) = draw((2, 7, 12))
    padding = np.arange(7) >= np.array([[4], [7]])
    other = np.where(padding[:, :, None], 9.0, x)
    a, b = (model(Tensor(v), src_key_padding_mask=Tensor(padding)).detach().numpy() for v in (x, other))
    np.testing.assert_array_equal(a[~padding], b[~padding])
    alone = model(Tensor(x[:1, :4])).detach().numpy()
    np.testing.assert_allclose(a[:1, :4], alone, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("shape", [(1, 1, 12), (1, 5, 12), (3, 1, 12), (0, 4, 12)])
def test_small_sizes(shape):
    model = encoder(dtype=np.float64)
    (x,) = draw(shape)
    y = model(Tensor(x)).detach().numpy()
    assert y.shape == shape
    for n in range(shape[0]):
        np.testing.assert_allclose(model(Tensor(x[n])).detach().numpy(), y[n], rtol=1e-11, atol=1e-12)


def test_a_single_token_attends_to_itself():
    layer = attention()
    (x,) = draw((1, 1, 8))
    y, p = layer(*[Tensor(x)] * 3)
    np.testing.assert_array_equal(p.detach().numpy(), 1)
    np.testing.assert_allclose(y.detach().numpy(), step_by_step(layer, x, x, x), rtol=1e-12)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_steps_are_replayed_with_the_same_bits(dropout):
    """Causal, with masks and dropped weights, and with weights that are asked for."""
    x, padding = pynn.randn(2, 6, 12), Tensor(np.arange(6) >= np.array([[4], [6]]))
    found = []
    for compiled in (False, True):
        pynn.manual_seed(3)
        model = nn.TransformerDecoder(nn.TransformerDecoderLayer(12, 3, 20, dropout, batch_first=True), 2)
        attn = nn.MultiheadAttention(12, 3, dropout, batch_first=True)

        def step(x, padding, model=model, attn=attn):
            y = model(x, x, tgt_is_causal=True, memory_key_padding_mask=padding)
            z, p = attn(y, x, x, padding, is_causal=True)
            z.sum().backward()
            return z.detach(), p.detach()

        run = pynn.compile(step) if compiled else step
        for _ in range(4):
            for p in model.parameters():
                p.grad = None
            z, p = run(x, padding)
        found.append([z.numpy_copy(), p.numpy_copy(), *[q.grad.numpy_copy() for q in
                      model.parameters()]])  # fmt: skip
        if compiled:
            assert run.replays >= 2
    assert all(a.tobytes() == b.tobytes() for a, b in zip(*found, strict=True))


def test_threads_change_no_bit():
    model, x = encoder(norm_first=True), pynn.randn(3, 130, 12)
    found = []
    for threads in (1, 2, 4):
        with pynn.threads(threads):
            for p in model.parameters():
                p.grad = None
            y = model(x, is_causal=True)
            (y * y).sum().backward()
            found.append([y.detach().numpy_copy(), *[p.grad.numpy_copy() for p in model.parameters()]])
    assert all(a.tobytes() == b.tobytes() == c.tobytes() for a, b, c in zip(*found))


@pytest.mark.parametrize("norm", [True, False])
def test_saved_and_loaded(norm, tmp_path):
    layer = nn.TransformerEncoderLayer(12, 3, 20, activation=F.gelu, norm_first=True, batch_first=True)
    stack = nn.TransformerEncoder(layer, 2, nn.LayerNorm(12) if norm else None)
    model = nn.Sequential(nn.SinusoidalPositions(9, 12), stack, nn.SwiGLU(12)).eval()
    pynn.save(model, tmp_path / "model.safetensors")
    other, x = pynn.load(tmp_path / "model.safetensors").eval(), pynn.randn(2, 5, 12)
    np.testing.assert_array_equal(other(x).detach().numpy(), model(x).detach().numpy())
    np.testing.assert_array_equal(model.session().predict(x), model(x).detach().numpy())


# ---- feed-forward, positions, cache ------------------------------------------------------------------------


def test_activations_by_name_and_as_functions():
    (x,) = draw((2, 3, 12))
    by_name, by_function, own = (
        encoder(activation=a, dtype=np.float64)(Tensor(x)).detach().numpy()
        for a in ("gelu", F.gelu, lambda h: F.gelu(h))
    )
    np.testing.assert_array_equal(by_name, by_function)
    np.testing.assert_allclose(by_name, own, rtol=1e-13)
    assert not np.allclose(by_name, encoder(dtype=np.float64)(Tensor(x)).detach().numpy())


def test_swiglu():
    layer = nn.SwiGLU(6, dtype=np.float64)
    assert {k: v.shape for k, v in layer.state_dict().items()} == {
        "w1.weight": (16, 6), "w2.weight": (6, 16), "w3.weight": (16, 6)
    }  # fmt: skip
    (x,) = draw((3, 6))
    w1, w2, w3 = (layer.state_dict()[f"w{k}.weight"] for k in (1, 2, 3))
    a = x @ w1.T
    np.testing.assert_allclose(layer(Tensor(x)).detach().numpy(), (a / (1 + np.exp(-a)) * (x @ w3.T)) @ w2.T)


@pytest.mark.parametrize("dim", [6, 5])
def test_sinusoidal_positions(dim):
    y = nn.SinusoidalPositions(9, dim, dtype=np.float64)(pynn.zeros(2, 4, dim, dtype=np.float64), offset=3).numpy()
    for t in range(4):
        for i in range(dim):
            angle = (t + 3) / 10000 ** (i // 2 * 2 / dim)
            np.testing.assert_allclose(y[:, t, i], np.cos(angle) if i % 2 else np.sin(angle), atol=1e-15)
    assert not nn.SinusoidalPositions(9, dim).state_dict()


def test_learned_positions():
    layer = nn.LearnedPositions(9, 5)
    (x,) = draw((2, 4, 5), dtype=np.float32)
    np.testing.assert_array_equal(layer(Tensor(x), 2).detach().numpy(), x + layer.weight.detach().numpy()[2:6])
    layer(Tensor(x), 2).sum().backward()
    np.testing.assert_array_equal(layer.weight.grad.numpy(), [[2.0 * (2 <= t < 6)] * 5 for t in range(9)])


@pytest.mark.parametrize("interleaved", [False, True])
def test_rotary_positions(interleaved):
    """Each pair is a complex number, turned by e^(iφ); products depend on the distance alone."""
    turn = nn.RotaryPositions(40, 6, interleaved=interleaved, dtype=np.float64)
    q, k = draw((2, 3, 10, 6), (2, 3, 10, 6))
    parts = (slice(0, 6, 2), slice(1, 6, 2)) if interleaved else (slice(0, 3), slice(3, 6))
    y = turn(Tensor(q), 7).numpy()
    angle = (np.arange(10) + 7)[:, None] * 10000.0 ** (-np.arange(3) / 3)
    want = (q[..., parts[0]] + 1j * q[..., parts[1]]) * np.exp(1j * angle)
    np.testing.assert_allclose(y[..., parts[0]] + 1j * y[..., parts[1]], want, rtol=1e-12, atol=1e-13)
    one, other = (turn(Tensor(q), o) @ turn(Tensor(k), o).transpose(2, 3) for o in (0, 25))
    np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=1e-10, atol=1e-11)


def test_cache_keeps_what_is_appended():
    cache = nn.KeyValueCache(2, 1, 3, 5, 4)
    k, v = (Tensor(a) for a in draw((1, 3, 4, 4), (1, 3, 4, 4), dtype=np.float32))
    for layer in (cache[0], cache[1]):
        layer.append(k[:, :, :3], v[:, :, :3])
        both = layer.append(k[:, :, 3:], v[:, :, 3:])
        for have, given in zip(both, (k, v)):
            np.testing.assert_array_equal(have.numpy(), given.numpy())
    assert cache.length == 4
    with pytest.raises(ValueError, match="KeyValueCache: expected at most 5 tokens, got 8"):
        cache[0].append(k, v)
    cache.reset()
    assert cache.length == 0
    assert len(cache) == 2
    with pytest.raises(ValueError, match="expected keys and values of shape"):
        cache[0].append(k[:, :2], v)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: nn.MultiheadAttention(10, 3), "MultiheadAttention: argument 'num_heads': expected a divisor of 10"),
        (lambda: nn.MultiheadAttention(8, 4, num_kv_heads=3), "argument 'num_kv_heads': expected a divisor of 4"),
        (lambda: nn.MultiheadAttention(8, 4, dropout=2.0), "argument 'dropout'"),
        (lambda: attention()(*[pynn.zeros(2, 3, 7)] * 3), r"argument 'query': expected shape \(…, …, 8\)"),
        (lambda: attention()(*map(pynn.zeros, [(2, 3, 8), (2, 4, 8), (2, 5, 8)])), "argument 'value'"),
        (lambda: attention(dtype=None)(*[pynn.zeros(2, 3, 8)] * 3, attn_mask=pynn.zeros(3, 4)),
         r"argument 'attn_mask': expected shape \(3, 3\) or \(8, 3, 3\), got \(3, 4\)"),
        (lambda: attention(dtype=None)(*[pynn.zeros(2, 3, 8)] * 3, pynn.zeros(2, 4)),
         r"argument 'key_padding_mask': expected shape \(2, 3\), got \(2, 4\)"),
        (lambda: nn.TransformerEncoderLayer(8, 2, activation="softmix"), "argument 'activation'"),
        (lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2), 0), "argument 'num_layers'"),
        (lambda: nn.RotaryPositions(4, 3), "argument 'dim': expected an even number"),
        (lambda: nn.SinusoidalPositions(4, 6)(pynn.zeros(5, 6)), "expected places below max_len 4, got 0 to 4"),
        (lambda: nn.LearnedPositions(4, 6)(pynn.zeros(2, 5)), r"argument 'x': expected shape \(…, T, 6\)"),
    ],
)  # fmt: skip
def test_bad_calls(call, text):
    with pytest.raises(ValueError, match=text):
        call()


@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize(("name", "size"), [("attn_mask", (3, 3)), ("key_padding_mask", (2, 3))])
@pytest.mark.parametrize("dtype", [np.int64, np.float64])
def test_masks_of_other_dtypes_are_refused(dtype, name, size, need_weights):
    layer, x = attention(dtype=None), pynn.zeros(2, 3, 8)
    with pytest.raises(TypeError, match=f"MultiheadAttention: argument '{name}': expected bool or float32, got"):
        layer(x, x, x, need_weights=need_weights, **{name: Tensor(np.ones(size, dtype))})


@pytest.mark.parametrize("batch_first", [False, True])
def test_batches_of_query_and_key_differ(batch_first):
    layer = nn.MultiheadAttention(8, 2, batch_first=batch_first)
    q, k = (pynn.zeros(4, 3, 8), pynn.zeros(1, 3, 8)) if batch_first else (pynn.zeros(3, 4, 8), pynn.zeros(3, 1, 8))
    with pytest.raises(ValueError, match=r"argument 'key': expected a batch of 4 as in query, got shape"):
        layer(q, k, k, need_weights=False)


def test_dropped_weights_take_no_matrix():
    from pynn import _core

    layer, x = nn.MultiheadAttention(16, 2, dropout=0.1, batch_first=True), pynn.zeros(1, 3000, 16)
    layer(x, x, x, need_weights=False)
    _core.reset_peak()
    before = _core.alloc_stats()["live"]
    layer(x, x, x, need_weights=False)[0].sum().backward()
    assert _core.alloc_stats()["peak_live"] - before < 3000 * 3000 * 4 / 4


@pytest.mark.parametrize("shape", [(0, 3, 6), (2, 0, 6)])
@pytest.mark.parametrize("need_weights", [False, True])
def test_empty_batches_and_lengths(shape, need_weights):
    layer = nn.MultiheadAttention(6, 2, batch_first=True)
    x = Tensor(np.ones(shape, "f4"), requires_grad=True)
    y, weights = layer(x, x, x, need_weights=need_weights)
    y.sum().backward()
    assert y.shape == x.grad.shape == shape
    assert weights is None or weights.shape == (shape[0], shape[1], shape[1])


def test_an_empty_batch_with_a_mask_for_all():
    q, k = pynn.ones(0, 2, 1, 3), pynn.ones(0, 2, 15, 3)
    assert F.scaled_dot_product_attention(q, k, k, pynn.zeros(1, 15)).shape == (0, 2, 1, 3)
