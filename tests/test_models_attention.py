"""ViT, GPT and the sequence-to-sequence model: F-LAY-12 to 14, F-UND-9, and what decoding must keep."""

import math

import numpy as np
import pytest

import pynn
from pynn import Tensor, inspect, models, nn, optim
from pynn.nn import functional as F
from pynn.plan_report import calls_of

# ---- ViT ------------------------------------------------------------------------------------------------

COUNTS = {"vit_tiny": (192, 5_717_416), "vit_small": (384, 22_050_664), "vit_base": (768, 86_567_656)}  # timm's


@pytest.mark.parametrize(("name", "depth"), [("vit_tiny", 12), ("vit_small", 12), ("vit_base", 1)])
def test_vit_has_timms_parameters(name, depth):
    """vit_{tiny,small,base}_patch16_224; of the last, one block alone is drawn, and all are counted below."""
    width, count = COUNTS[name]
    model = getattr(models, name)(depth=depth)
    block = [("norm1.weight", (width,)), ("norm1.bias", (width,)), ("attn.qkv.weight", (3 * width, width)),
             ("attn.qkv.bias", (3 * width,)), ("attn.proj.weight", (width, width)), ("attn.proj.bias", (width,)),
             ("norm2.weight", (width,)), ("norm2.bias", (width,)), ("mlp.fc1.weight", (4 * width, width)),
             ("mlp.fc1.bias", (4 * width,)), ("mlp.fc2.weight", (width, 4 * width)),
             ("mlp.fc2.bias", (width,))]  # fmt: skip
    want = [
        ("cls_token", (1, 1, width)), ("pos_embed", (1, 197, width)), ("patch_embed.proj.weight", (width, 3, 16, 16)),
        ("patch_embed.proj.bias", (width,)), *[(f"blocks.{k}.{n}", s) for k in range(depth) for n, s in block],
        ("norm.weight", (width,)), ("norm.bias", (width,)), ("head.weight", (1000, width)), ("head.bias", (1000,)),
    ]  # fmt: skip
    assert [(k, v.shape) for k, v in model.state_dict().items()] == want
    missing = (12 - depth) * sum(math.prod(s) for _, s in block)
    assert sum(p.size for p in model.parameters()) == count - missing


def test_mean_over_patches_has_its_norm_behind_it():
    names = list(models.ViT(8, 4, 1, 3, "avg", 8, 1, 2).state_dict())
    assert names[-4:] == ["fc_norm.weight", "fc_norm.bias", "head.weight", "head.bias"]
    assert "cls_token" in names
    assert "cls_token" not in models.ViT(8, 4, 1, 3, "avg", 8, 1, 2, class_token=False).state_dict()


VITS = {
    "token": {},
    "no biases": {"qkv_bias": False, "num_classes": 0},
    "mean": {"global_pool": "avg"},
    "windows": {"global_pool": "avg", "class_token": False, "window": 2, "global_blocks": (1,)},
    "merging": {"merge_at": (1, 2)},
    "windows and merging": {"global_pool": "avg", "class_token": False, "window": 2, "merge_at": (1,)},
}


def vit(**options):
    pynn.manual_seed(0)
    sizes = {"img_size": 16, "patch_size": 4, "in_chans": 2, "num_classes": 5, "embed_dim": 12, "depth": 3}
    return models.ViT(**{**sizes, "num_heads": 3, "mlp_ratio": 2, **options})


@pytest.mark.parametrize("name", VITS)
def test_vit_shapes_and_gradients(name):
    model, x = vit(**VITS[name]), pynn.randn(3, 2, 16, 16)
    y = model(x)
    assert y.shape == (3, VITS[name].get("num_classes", 5) or 12)
    (y * pynn.randn(*y.shape)).sum().backward()
    for key, p in model.named_parameters():
        assert np.isfinite(p.grad.numpy()).all(), key
        assert p.grad.numpy().any(), key
    model.eval()
    with pynn.no_grad():
        np.testing.assert_allclose(model(x[:1]).numpy(), model(x).numpy()[:1], rtol=2e-4, atol=2e-5)


def test_vit_by_its_definition():
    """F-LAY-12, S1 §7.2–7.4: patches row by row, the class token first, blocks, the class token's scores."""
    model = vit(dtype=np.float64)
    for p in model.parameters():  # so that biases and the class token count
        nn.init.normal_(p, 0.0, 0.4)
    x = np.random.default_rng(0).standard_normal((2, 2, 16, 16))
    s = model.state_dict()

    def norm(h, name):
        h = h - h.mean(-1, keepdims=True)
        return h / np.sqrt((h * h).mean(-1, keepdims=True) + 1e-6) * s[f"{name}.weight"] + s[f"{name}.bias"]

    def linear(h, name):
        return h @ s[f"{name}.weight"].T + s[f"{name}.bias"]

    gelu = pynn.OPS.gelu.reference
    rows = [[x[n, :, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4].ravel() for i in range(4) for j in range(4)] for n in (0, 1)]
    w = s["patch_embed.proj.weight"].reshape(12, -1)
    h = np.array(rows) @ w.T + s["patch_embed.proj.bias"]
    h = np.concatenate([np.repeat(s["cls_token"], 2, 0), h], 1) + s["pos_embed"]
    for k in range(3):
        name = f"blocks.{k}"
        qkv = linear(norm(h, f"{name}.norm1"), f"{name}.attn.qkv").reshape(2, 17, 3, 3, 4)
        q, key, v = qkv.transpose(2, 0, 3, 1, 4)
        e = np.exp(q @ key.swapaxes(-1, -2) / 2)
        y = (e / e.sum(-1, keepdims=True) @ v).transpose(0, 2, 1, 3).reshape(2, 17, 12)
        h = h + linear(y, f"{name}.attn.proj")
        h = h + linear(gelu(linear(norm(h, f"{name}.norm2"), f"{name}.mlp.fc1")), f"{name}.mlp.fc2")
    want = linear(norm(h, "norm")[:, 0], "head")
    np.testing.assert_allclose(model(Tensor(x)).detach().numpy(), want, rtol=1e-9, atol=1e-10)


def test_windows_keep_attention_inside():
    """F-LAY-13: a patch changes the tokens of its own 2×2 square and no others; a global block changes all."""
    x = pynn.randn(1, 2, 16, 16).numpy_copy()
    other = x.copy()
    other[:, :, 4:8, 8:12] += 1.0  # patch (1, 2), of the square of columns 2, 3 and rows 0, 1
    for blocks, reach in (((), 4), ((2,), 16)):
        model = vit(**{**VITS["windows"], "global_blocks": blocks})
        model.norm = nn.Identity()
        a, b = (model.forward_features(Tensor(v)).detach().numpy() for v in (x, other))
        changed = (a != b).any(-1)[0].reshape(4, 4)
        assert changed.sum() == reach
        assert changed[:2, 2:].all()


def test_merging_joins_2x2_patches():
    """F-LAY-14: tokens after merging, of which each comes from its four."""
    model = vit(merge_at=(1, 2))
    assert model.forward_features(pynn.randn(1, 2, 16, 16)).shape == (1, 1 + 1, 12)
    merge = models.vit.TokenMerging(3)
    x = np.arange(16.0, dtype=np.float32).reshape(1, 16, 1).repeat(3, 2)
    x[0, :, 1:] = np.random.default_rng(0).standard_normal((16, 2))
    y = merge(Tensor(x), 4, 4).detach().numpy()
    first = x[0, [0, 1, 4, 5]].reshape(1, 1, 12)  # upper left, upper right, lower left, lower right
    want = merge.reduction(merge.norm(Tensor(first))).detach().numpy()
    np.testing.assert_allclose(y[:, :1], want, rtol=1e-5, atol=1e-6)
    assert y.shape == (1, 4, 3)


def test_cost_of_a_vit():
    """F-UND-9: what pynn.inspect.vit_cost says is what these models have, and what plans count."""
    assert inspect.vit_cost().parameters == COUNTS["vit_tiny"][1]
    assert inspect.vit_cost(dim=768, heads=12).parameters == COUNTS["vit_base"][1]
    run = pynn.compile(models.ViT(16, 4, 2, 5, embed_dim=12, depth=3, num_heads=3, mlp_ratio=2))
    with pynn.no_grad():
        run(pynn.randn(2, 2, 16, 16))
    calls = [c for c in calls_of(run.plans[0]) if c.op in ("conv2d", "linear", "linear_act", "self_attention")]
    cost = inspect.vit_cost(16, 4, 12, 3, 3, 2, 2, 5)
    assert sum(c.flops for c in calls) == 2 * cost.flops
    assert sum(c.flops for c in calls if c.op == "self_attention") == 2 * cost.attention_flops


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"patch_size": 5}, "argument 'patch_size': expected a divisor of 16"),
        ({"global_pool": "max"}, "argument 'global_pool'"),
        ({"class_token": False}, "argument 'global_pool': expected 'avg', or 'token' with a class token"),
        ({"window": 2}, "argument 'window': expected 0 with a class token"),
        ({"window": 3, "class_token": False, "global_pool": "avg"}, "argument 'window': expected a divisor of 4"),
        ({"merge_at": (0, 1, 2)}, "argument 'merge_at'"),
        ({"merge_at": (3,)}, "argument 'merge_at': expected numbers of blocks below 3"),
    ],
)
def test_bad_vits(options, text):
    with pytest.raises(ValueError, match=text):
        vit(**options)
    with pytest.raises(ValueError, match=r"ViT: argument 'x': expected images \(N, C, 16, 16\)"):
        vit()(pynn.zeros(1, 2, 16, 12))


# ---- GPT ------------------------------------------------------------------------------------------------

GPTS = {
    "learned": {},
    "sinusoidal, window": {"positions": "sinusoidal", "window": 6},
    "like Llama": {"positions": "rotary", "num_kv_heads": 2, "swiglu": True, "rms": True, "tied": False, "bias": False},
    "float64": {"dtype": np.float64, "positions": "rotary"},
}


def gpt(name="learned", drawn=True, **options):
    pynn.manual_seed(0)
    model = models.GPT(30, **{"context": 24, "dim": 16, "depth": 2, "num_heads": 4, **GPTS[name], **options})
    for p in model.parameters() if drawn else ():  # with its small initial values attention matters little
        nn.init.normal_(p, 0.0, 0.3)
    return model


def draw(*shape):
    return np.random.default_rng(0).integers(0, 30, shape)


@pytest.mark.parametrize("name", GPTS)
def test_later_tokens_change_no_bit(name):
    model, text = gpt(name), draw(2, 24)
    before = model(Tensor(text)).detach().numpy()
    for t in (1, 11, 23):
        later = text.copy()
        later[:, t:] = (later[:, t:] + 7) % 30
        after = model(Tensor(later)).detach().numpy()
        assert after[:, :t].tobytes() == before[:, :t].tobytes()
        assert (after[:, t:] != before[:, t:]).any(-1).all()


@pytest.mark.parametrize("name", GPTS)
@pytest.mark.parametrize("chunks", [[1] * 24, [10, 1, 1, 12], [24]])
def test_cached_scores_are_those_of_the_whole(name, chunks):
    model, text = gpt(name).eval(), draw(3, 24)
    with pynn.no_grad():
        whole, cache, found = model(Tensor(text)).numpy(), model.make_cache(3), []
        for n in chunks:
            found.append(model(Tensor(text[:, cache.length : cache.length + n]), cache).numpy_copy())
    tolerance = 1e-12 if model.embedding.weight.dtype == np.float64 else 1e-5
    scale = np.abs(whole).max()
    np.testing.assert_allclose(np.concatenate(found, 1) / scale, whole / scale, rtol=0, atol=tolerance)
    assert cache.length == 24


@pytest.mark.parametrize("name", GPTS)
def test_greedy_text_is_that_of_whole_forwards(name):
    """Beyond the context too, where the last `context` tokens are read for each."""
    model, text = gpt(name, dropout=0.2), draw(2, 3)
    found = model.generate(text, 40, temperature=0)
    assert model.training
    model.eval()
    want = text
    with pynn.no_grad():
        for _ in range(40):
            scores = model(Tensor(want[:, -24:]))[:, -1].numpy()
            want = np.concatenate([want, scores.argmax(1)[:, None]], 1)
    np.testing.assert_array_equal(found, want)


def test_drawn_text():
    model = gpt()
    pynn.manual_seed(5)
    one = model.generate(draw(1, 4), 8)
    pynn.manual_seed(5)
    np.testing.assert_array_equal(model.generate(draw(1, 4), 8), one)
    gen = pynn.Generator(5)
    np.testing.assert_array_equal(model.generate(draw(1, 4), 8, generator=gen), one)
    np.testing.assert_array_equal(model.generate(draw(1, 4), 0), draw(1, 4))
    assert (model.generate(draw(1, 4), 8, top_k=1) == model.generate(draw(1, 4), 8, temperature=0)).all()


def test_steps_with_a_cache_are_not_replayed():
    model, text = gpt(), draw(1, 5)
    model.eval()
    with pynn.no_grad():
        want = model(Tensor(text)).numpy()
        cache = model.make_cache()
        step = pynn.compile(lambda x: model(x, cache), strict=False)
        with pytest.warns(RuntimeWarning, match="KeyValueCache"):
            found = [step(Tensor(text[:, t : t + 1])).numpy() for t in range(5)]
        np.testing.assert_allclose(np.concatenate(found, 1), want, rtol=1e-5, atol=1e-5)
        with pytest.raises(pynn.NotRecordable, match="a KeyValueCache"):
            pynn.compile(lambda x: model(x, model.make_cache()))(Tensor(text))


def test_equal_scores_are_no_more_than_top_k():
    model = gpt()
    with pynn.no_grad():
        for p in model.parameters():
            p.copy_(pynn.zeros(*p.shape))
    drawn = model.generate(np.repeat(draw(1, 2), 200, 0), 1, top_k=3)[:, -1]
    assert set(drawn.tolist()) == {0, 1, 2}


@pytest.mark.parametrize(("temperature", "top_k"), [(1.0, None), (0.5, None), (1.0, 4)])
def test_draws_have_the_scores_distribution(temperature, top_k):
    model, text = gpt().eval(), draw(1, 5)
    with pynn.no_grad():
        scores = model(Tensor(text))[0, -1].numpy().astype(float) / temperature
    kept = np.argsort(scores)[-(top_k or 30) :]
    p = np.zeros(30)
    p[kept] = np.exp(scores[kept] - scores.max())
    p /= p.sum()
    drawn = model.generate(np.repeat(text, 4000, 0), 1, temperature, top_k, pynn.Generator(1))[:, -1]
    share = np.bincount(drawn, minlength=30) / 4000
    assert not share[p == 0].any()
    assert (np.abs(share - p) <= 4.5 * np.sqrt(p * (1 - p) / 4000) + 1e-9).all()


@pytest.mark.parametrize("name", ["learned", "like Llama"])
def test_training_a_gpt_is_replayed(name):
    found = []
    for compiled in (True, False):
        model = gpt(name, drawn=False, dropout=0.1)
        opt = optim.AdamW(model.parameters(), lr=1e-2)
        x, target = Tensor(draw(4, 24)), Tensor(np.roll(draw(4, 24), -1, 1).ravel())

        def step(x, target, model=model, opt=opt):
            opt.zero_grad()
            loss = F.cross_entropy(model(x).reshape(-1, 30), target)
            loss.backward()
            opt.step()
            return loss.detach()

        run = pynn.compile(step) if compiled else step
        pynn.manual_seed(1)
        losses = [run(x, target).item() for _ in range(30)]
        assert losses[-1] < 0.8 * losses[0]
        assert not compiled or run.replays == 29
        found.append(model.state_dict())
    for key, v in found[0].items():
        np.testing.assert_array_equal(v, found[1][key], err_msg=key)


def test_gpt_parameters():
    model = gpt()
    names = list(model.state_dict())
    assert names[:3] == ["embedding.weight", "positions.weight", "blocks.0.norm1.weight"]
    assert not any("head" in n for n in names), "tied"
    llama = {k: v.shape for k, v in gpt("like Llama").state_dict().items()}
    assert llama["head.weight"] == (30, 16)
    assert llama["blocks.1.attn.qkv.weight"] == (16 + 2 * 2 * 4, 16)
    assert {k for k in llama if "blocks.0.mlp" in k} == {f"blocks.0.mlp.w{k}.weight" for k in (1, 2, 3)}


def test_a_gpt_in_a_session():
    model, text = gpt(), draw(2, 9)
    np.testing.assert_array_equal(model.session().predict(text), model.eval()(Tensor(text)).detach().numpy())


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: gpt(positions="absolute"), "GPT: argument 'positions'"),
        (lambda: gpt(num_heads=3), "expected a divisor of 16, got 3"),
        (lambda: gpt()(Tensor(draw(1, 25))), "GPT: argument 'tokens': expected at most 24 places, got 25"),
        (lambda: gpt()(Tensor(draw(5))), "GPT: argument 'tokens': expected 2 dimensions"),
        (lambda: gpt().generate(draw(1, 0), 3), "generate: argument 'tokens'"),
        (lambda: gpt().generate(draw(1, 2), 3, -1), "generate: argument 'temperature'"),
        (lambda: gpt().generate(draw(1, 2), 3, float("nan")), "generate: argument 'temperature'"),
        (lambda: gpt().generate(draw(1, 2), -3), "generate: argument 'n'"),
        (lambda: gpt().generate(draw(1, 2), 3, top_k=0), "generate: argument 'top_k'"),
    ],
)
def test_bad_gpts(call, text):
    with pytest.raises(ValueError, match=text):
        call()


# ---- sequence to sequence --------------------------------------------------------------------------------


def seq2seq(**options):
    pynn.manual_seed(0)
    return models.Seq2Seq(12, 11, 8, 16, **options)


def test_seq2seq_by_its_definition():
    model = seq2seq(dtype=np.float64)
    source, target, lengths = np.array([[1, 2, 3, 4], [5, 6, 0, 0]]), np.array([[1, 2, 3], [4, 5, 6]]), [4, 2]
    found = model(Tensor(source), Tensor(target), lengths).detach().numpy()
    s = model.state_dict()
    for n in range(2):
        enc, h = model.encoder(model.source_embedding(Tensor(source[n : n + 1, : lengths[n]])))
        dec = model.decoder(model.target_embedding(Tensor(target[n : n + 1])), h)[0].detach().numpy()[0]
        enc = enc.detach().numpy()[0]
        for t, y in enumerate(dec):
            e = np.exp(enc @ (s["query.weight"] @ y))
            c = e / e.sum() @ enc
            scores = np.tanh(s["combine.weight"] @ np.concatenate([c, y])) @ s["head.weight"].T + s["head.bias"]
            np.testing.assert_allclose(found[n, t], scores, rtol=1e-10, atol=1e-12)


def test_seq2seq_learns_to_reverse():
    """What only attention tells: the tokens of the source, from the last to the first."""
    model = seq2seq()
    rng = np.random.default_rng(0)
    opt = optim.Adam(model.parameters(), lr=1e-2)

    @pynn.compile
    def step(source, target, wanted):
        opt.zero_grad()
        loss = F.cross_entropy(model(source, target).reshape(-1, 11), wanted)
        loss.backward()
        opt.step()
        return loss.detach()

    for _ in range(400):
        source = rng.integers(1, 11, (64, 5))
        wanted = source[:, ::-1]
        target = np.concatenate([np.zeros((64, 1), np.int64), wanted[:, :-1]], 1)
        step(Tensor(source), Tensor(target), Tensor(wanted.reshape(-1).copy()))
    source = rng.integers(1, 11, (100, 5))
    text = model.generate(source, 0, 5)
    assert text.shape == (100, 5)
    assert (text == source[:, ::-1]).mean() > 0.95


def test_padding_of_sources_has_no_influence():
    model, target = seq2seq(num_layers=2).eval(), Tensor(draw(2, 4) % 11)
    source = draw(2, 6) % 12
    other = source.copy()
    other[0, 3:] = 7
    a, b = (model(Tensor(x), target, [3, 6]).detach().numpy() for x in (source, other))
    np.testing.assert_array_equal(a, b)
    with pytest.raises(ValueError, match="Seq2Seq: argument 'source'"):
        model(Tensor(source[0]), target)
    with pytest.raises(ValueError, match="Seq2Seq: argument 'lengths'"):
        model(Tensor(source), target, [3, 6, 1])


# ---- threads ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [lambda: gpt(), lambda: vit(), lambda: seq2seq()], ids=["gpt", "vit", "seq2seq"])
def test_threads_change_no_bit(make):
    model = make()
    args = {"ViT": (pynn.randn(5, 2, 16, 16),), "GPT": (Tensor(draw(5, 24)),)}.get(
        type(model).__name__, (Tensor(draw(5, 7) % 12), Tensor(draw(5, 6) % 11))
    )
    found = []
    for threads in (1, 2, 4):
        with pynn.threads(threads):
            model.zero_grad()
            y = model(*args)
            (y * y).sum().backward()
            found.append([y.detach().numpy_copy(), *[p.grad.numpy_copy() for p in model.parameters()]])
    assert all(a.tobytes() == b.tobytes() == c.tobytes() for a, b, c in zip(*found))
