"""T10: bag of words: embedding, mean over the tokens, linear; Adam, or SparseAdam for the table (T10_sparse)."""

import numpy as np

from . import workload
from .steps import jax_steps, steps

VOCABULARY, WIDTH, TOKENS, CLASSES, BATCH = 50_000, 64, 32, 5, 256


def make_data():
    rng = np.random.default_rng(0)
    x = rng.integers(0, VOCABULARY, (64 * BATCH, TOKENS))
    y = rng.integers(0, CLASSES, len(x))
    table, head = (
        rng.standard_normal((VOCABULARY, WIDTH), np.float32),
        rng.standard_normal((CLASSES, WIDTH), np.float32),
    )
    return table, head, np.zeros(CLASSES, np.float32), x, y


@workload("pynn torch", "T10", "T10_sparse")
def bags(name, v):
    L, nn, optim = v.modules()
    *start, x, y = make_data()
    sparse = name == "T10_sparse"
    table, head = nn.Embedding(VOCABULARY, WIDTH, sparse=sparse), nn.Linear(WIDTH, CLASSES)
    with L.no_grad():
        for p, w in zip((table.weight, head.weight, head.bias), start):
            p.copy_(L.from_numpy(w))
    fused = {"fused": True} if v.fused else {}
    if sparse:
        optimizers = optim.SparseAdam([table.weight], lr=1e-3), optim.Adam(head.parameters(), lr=1e-3, **fused)
    else:
        optimizers = (optim.Adam([table.weight, head.weight, head.bias], lr=1e-3, **fused),)
    return steps(v, lambda i: head(table(i).mean(1)), optimizers, x, y, BATCH)


@workload("jax", "T10")
def bags_jax(name, v):
    import jax.numpy as jnp
    import optax

    table, w, b, x, y = make_data()

    def logits(params, i):
        table, w, b = params
        return table[i].mean(1) @ w + b

    params = (jnp.asarray(table), jnp.asarray(w.T), jnp.asarray(b))
    return jax_steps(logits, params, optax.adam(1e-3), x.astype("int32"), y, BATCH)
