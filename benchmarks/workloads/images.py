"""T4: a CNN of two convolutions on 1×28×28, Adam. T5: ResNet-18 for 3×32×32, SGD with momentum; T5_exact is without
Winograd. Inference, arrays in and out: I_cnn_1 and I_cnn_64 of T4's CNN, I_resnet18 of an image of 3×224×224.
"""

import itertools
import math

import numpy as np

from . import VARIANTS, workload
from .serving import served
from .steps import jax_steps, steps

CLASSES = 10
TRAIN = {"T4": (64, (1, 28, 28)), "T5": (32, (3, 32, 32)), "T5_exact": (32, (3, 32, 32))}  # batch, image
SERVED = {"I_cnn_1": (1, (1, 28, 28)), "I_cnn_64": (64, (1, 28, 28)), "I_resnet18": (1, (3, 224, 224))}


def images(n, shape):
    return np.random.default_rng(1).standard_normal((n, *shape), np.float32)


def drawn(name, shape):
    """The value of a parameter or buffer that all libraries start from, by its name and shape."""
    rng = np.random.default_rng(list(name.encode()))
    if len(shape) > 1:
        return rng.standard_normal(shape, np.float32) * np.float32(math.sqrt(2 / math.prod(shape[1:])))
    if name.endswith("var") or name.endswith("weight"):
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    return rng.uniform(-0.1, 0.1, shape).astype(np.float32)


def load(L, model):
    with L.no_grad():
        for name, p in itertools.chain(model.named_parameters(), model.named_buffers()):
            if "num_batches" not in name:
                p.copy_(L.from_numpy(drawn(name, tuple(p.shape))))
    return model


def cnn(nn):
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64 * 49, 128), nn.ReLU(), nn.Linear(128, CLASSES),
    )  # fmt: skip


def network(name, v):
    """The network of a workload in pynn or PyTorch."""
    L, nn, _ = v.modules()
    if name == "T4" or name.startswith("I_cnn"):
        return load(L, cnn(nn))
    stem = "imagenet" if name == "I_resnet18" else "cifar"
    if v.library == "pynn":
        from pynn.models import resnet18

        return load(L, resnet18(CLASSES, stem=stem))
    return load(L, torch_resnet18(nn, stem))


@workload("pynn torch", *TRAIN)
def train(name, v):
    """torch+ is channels-last, and its optimizer fused."""
    batch, shape = TRAIN[name]
    L, _, optim = v.modules()
    model, fused = network(name, v), {"fused": True} if v.fused else {}
    if v.library == "pynn":
        L.set_float32_precision("exact" if name.endswith("exact") else "fast")
    elif v.fused:
        model = model.to(memory_format=L.channels_last)
    if name == "T4":
        opt = optim.Adam(model.parameters(), lr=1e-3, **fused)
    else:
        opt = optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, **fused)
    x = images(8 * batch, shape)
    if v.fused or v.library == "pynn":  # stored N,H,W,C
        x = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    return steps(v, model, (opt,), x, np.random.default_rng(2).integers(0, CLASSES, len(x)), batch)


@workload("jax", "T4")
def train_jax(name, v):
    import jax
    import jax.numpy as jnp
    import optax

    batch, shape = TRAIN[name]
    names = [f"{k}.{what}" for k in (0, 3, 7, 9) for what in ("weight", "bias")]
    shapes = [(32, 1, 3, 3), (32,), (64, 32, 3, 3), (64,), (128, 64 * 49), (128,), (CLASSES, 128), (CLASSES,)]
    values = [drawn(n, s) for n, s in zip(names, shapes)]
    values[4] = values[4].reshape(128, 64, 49).transpose(0, 2, 1).reshape(128, -1)  # its flatten ends with channels
    values = [w.transpose(2, 3, 1, 0) if w.ndim == 4 else w.T for w in values]

    def pool(h):
        n, p, q, c = h.shape
        return h.reshape(n, p // 2, 2, q // 2, 2, c).max((2, 4))

    def logits(params, h):
        for w, b in zip(params[:4:2], params[1:4:2]):
            h = jax.lax.conv_general_dilated(h, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
            h = pool(jax.nn.relu(h + b))
        h = jax.nn.relu(h.reshape(len(h), -1) @ params[4] + params[5])
        return h @ params[6] + params[7]

    x = images(8 * batch, shape).transpose(0, 2, 3, 1)
    y = np.random.default_rng(2).integers(0, CLASSES, len(x))
    return jax_steps(logits, [jnp.asarray(a) for a in values], optax.adam(1e-3), np.ascontiguousarray(x), y, batch)


@workload("pynn torch onnxruntime", *SERVED)
def serve(name, v):
    return served(v, network(name, v if v.library != "onnxruntime" else VARIANTS["torch"]), images(*SERVED[name]))


# ---- ResNet-18 in PyTorch, with torchvision's names -----------------------------------------------------


def torch_resnet18(nn, stem):
    class Block(nn.Module):
        def __init__(self, i, o, stride):
            super().__init__()
            self.conv1, self.bn1 = nn.Conv2d(i, o, 3, stride, 1, bias=False), nn.BatchNorm2d(o)
            self.relu = nn.ReLU(inplace=True)
            self.conv2, self.bn2 = nn.Conv2d(o, o, 3, 1, 1, bias=False), nn.BatchNorm2d(o)
            self.downsample = None
            if stride > 1:
                self.downsample = nn.Sequential(nn.Conv2d(i, o, 1, stride, bias=False), nn.BatchNorm2d(o))

        def forward(self, x):
            same = x if self.downsample is None else self.downsample(x)
            return self.relu(self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x))))) + same)

    class ResNet(nn.Module):
        def __init__(self):
            super().__init__()
            large = stem == "imagenet"
            self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False) if large else nn.Conv2d(3, 64, 3, 1, 1, bias=False)
            self.bn1, self.relu = nn.BatchNorm2d(64), nn.ReLU(inplace=True)
            self.maxpool = nn.MaxPool2d(3, 2, 1) if large else nn.Identity()
            widths = (64, 64, 128, 256, 512)
            for k in range(1, 5):
                i, o = widths[k - 1 : k + 1]
                self.add_module(f"layer{k}", nn.Sequential(Block(i, o, 1 if k == 1 else 2), Block(o, o, 1)))
            self.avgpool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(512, CLASSES)

        def forward(self, x):
            x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
            x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
            return self.fc(self.avgpool(x).flatten(1))

    return ResNet()
