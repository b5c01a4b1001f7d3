"""What training steps share: zero_grad, a fresh batch, forward, loss, backward, optimizer; the loss is read every
10 steps."""


def batches(x, y, batch):
    """Slices of x and y in turn, for ever."""
    while True:
        for k in range(0, len(x) - batch + 1, batch):
            yield x[k : k + batch], y[k : k + batch]


def steps(v, model, optimizers, x, y, batch):
    """A function that runs one step of pynn or PyTorch and returns the loss."""
    L, nn, _ = v.modules()
    criterion, tensor, data = nn.CrossEntropyLoss(), L.from_numpy, batches(x, y, batch)
    count = 0
    if v.compiled and v.library == "torch":
        model = L.compile(model)

    def train(xs, ys):
        for opt in optimizers:
            opt.zero_grad()
        loss = criterion(model(xs), ys)
        loss.backward()
        for opt in optimizers:
            opt.step()
        return loss

    if v.compiled and v.library == "pynn":
        train = L.compile(train)

    def step():
        nonlocal count
        count += 1
        loss = train(*map(tensor, next(data)))
        if count % 10 == 0:
            loss.item()
        return loss.detach()

    return step


def jax_steps(logits, params, optimizer, x, y, batch):
    """The same of JAX: the whole step is one jitted function, which reuses the memory of parameters and state."""
    import functools

    import jax
    import jax.numpy as jnp
    import optax

    data, count = batches(x, y.astype("int32"), batch), 0
    state = optimizer.init(params)

    def loss_of(params, xs, ys):
        return optax.softmax_cross_entropy_with_integer_labels(logits(params, xs), ys).mean()

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def train(params, state, xs, ys):
        loss, grads = jax.value_and_grad(loss_of)(params, xs, ys)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state, loss

    def step():
        nonlocal params, state, count
        count += 1
        params, state, loss = train(params, state, *map(jnp.asarray, next(data)))
        if count % 10 == 0:
            loss.item()
        return loss

    return step
