"""T8: a ViT-Tiny on images of 224×224. T9: a causal GPT of width 256, 6 blocks, 8 heads, on texts of 256 tokens.
I_vit_1, I_vit_64: inference of T8's ViT, arrays in and out.
"""

import numpy as np

from . import VARIANTS, workload
from .serving import served
from .steps import steps

CLASSES, VOCABULARY, WIDTH, DEPTH, HEADS, LENGTH, BATCH = 1000, 5000, 256, 6, 8, 256, 8


def load(L, model):
    """Values that both libraries start from, by the parameters' names."""
    rng = np.random.default_rng(0)
    with L.no_grad():
        for name, p in sorted(model.named_parameters()):
            norm = ".norm" in name or name.startswith("norm")
            drawn = 0.02 * rng.standard_normal(tuple(p.shape), np.float32)
            p.copy_(L.from_numpy(np.ones_like(drawn) if norm and name.endswith("weight") else drawn))
    return model


def train(v, model, call, x, y, batch):
    fused = {"fused": True} if v.fused else {}
    optim = v.modules()[2]
    return steps(v, call, (optim.AdamW(model.parameters(), lr=1e-4, **fused),), x, y, batch)


def tiny(v):
    L, nn, _ = v.modules()
    if v.library == "pynn":
        from pynn.models import vit_tiny

        return load(L, vit_tiny(CLASSES))
    return load(L, torch_vit(L, nn, 192, 12, 3))


def images(n):
    return np.random.default_rng(1).standard_normal((n, 3, 224, 224), np.float32)


@workload("pynn torch", "T8")
def vit(name, v):
    model, x = tiny(v), images(8 * BATCH)
    return train(v, model, model, x, np.random.default_rng(2).integers(0, CLASSES, len(x)), BATCH)


@workload("pynn torch onnxruntime", "I_vit_1", "I_vit_64")
def vit_served(name, v):
    model = tiny(VARIANTS["torch"] if v.library == "onnxruntime" else v)
    return served(v, model, images(int(name.split("_")[2])))


@workload("pynn torch", "T9")
def gpt(name, v):
    L, nn, _ = v.modules()
    if v.library == "pynn":
        from pynn.models import GPT

        model = GPT(VOCABULARY, LENGTH, WIDTH, DEPTH, HEADS, tied=False)
    else:
        model = torch_gpt(L, nn)
    text = np.random.default_rng(1).integers(0, VOCABULARY, 16 * BATCH * LENGTH + 1)

    def call(tokens):  # flat, as the targets are
        return model(tokens.reshape(BATCH, LENGTH)).reshape(-1, VOCABULARY)

    return train(v, load(L, model), call, text[:-1], text[1:], BATCH * LENGTH)


# ---- the same in PyTorch ----------------------------------------------------------------------------


def torch_block(nn, width, heads, causal, eps):
    from torch.nn.functional import scaled_dot_product_attention

    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

        def forward(self, x):
            n, t, d = x.shape
            q, k, v = self.qkv(x).reshape(n, t, 3, heads, d // heads).permute(2, 0, 3, 1, 4)
            y = scaled_dot_product_attention(q, k, v, is_causal=causal)
            return self.proj(y.transpose(1, 2).reshape(n, t, d))

    class Mlp(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1, self.act, self.fc2 = nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)

        def forward(self, x):
            return self.fc2(self.act(self.fc1(x)))

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm1, self.attn = nn.LayerNorm(width, eps), Attention()
            self.norm2, self.mlp = nn.LayerNorm(width, eps), Mlp()

        def forward(self, x):
            x = x + self.attn(self.norm1(x))
            return x + self.mlp(self.norm2(x))

    return Block()


def torch_vit(L, nn, width, depth, heads):
    class Patches(nn.Module):
        def __init__(self):
            super().__init__()
            self.proj = nn.Conv2d(3, width, 16, 16)

        def forward(self, x):
            return self.proj(x).flatten(2).transpose(1, 2)

    class ViT(nn.Module):
        def __init__(self):
            super().__init__()
            self.cls_token = nn.Parameter(L.zeros(1, 1, width))
            self.pos_embed = nn.Parameter(L.zeros(1, 197, width))
            self.patch_embed = Patches()
            self.blocks = nn.ModuleList(torch_block(nn, width, heads, False, 1e-6) for _ in range(depth))
            self.norm, self.head = nn.LayerNorm(width, 1e-6), nn.Linear(width, CLASSES)

        def forward(self, x):
            x = L.cat([self.cls_token.expand(len(x), -1, -1), self.patch_embed(x)], 1) + self.pos_embed
            for block in self.blocks:
                x = block(x)
            return self.head(self.norm(x)[:, 0])

    return ViT()


def torch_gpt(L, nn):
    class Positions(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(L.zeros(LENGTH, WIDTH))

    class GPT(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.positions = nn.Embedding(VOCABULARY, WIDTH), Positions()
            self.blocks = nn.ModuleList(torch_block(nn, WIDTH, HEADS, True, 1e-5) for _ in range(DEPTH))
            self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, VOCABULARY, bias=False)

        def forward(self, tokens):
            x = self.embedding(tokens) + self.positions.weight
            for block in self.blocks:
                x = block(x)
            return self.head(self.norm(x))

    return GPT()
