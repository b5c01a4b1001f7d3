"""Augmentation and images: what each kind does, repeatable whatever the batch and the thread; files of images."""

import gzip
import struct
import time

import numpy as np
import pytest

import pynn
from pynn.data import Augment, ImageLoader, image_folder, read_cifar, read_idx

RNG = np.random.default_rng(0)
BYTES = RNG.integers(0, 256, (6, 8, 9, 3)).astype(np.uint8)
EVERYTHING = {
    "shift": 2, "flip": True, "rotate": 20, "scale": (0.8, 1.2), "brightness": 0.3, "contrast": 0.3, "saturation": 0.3,
    "noise": 0.1, "cutout": 3, "seed": 5,
}  # fmt: skip


def nhwc(y):
    return y.numpy().transpose(0, 2, 3, 1)


def test_nothing_asked_changes_nothing():
    y = Augment()(BYTES)
    assert y.shape == (6, 3, 8, 9)
    assert y.dtype == np.float32
    assert y.is_channels_last()
    np.testing.assert_array_equal(nhwc(y), BYTES.astype(np.float32) * np.float32(1 / 255))
    floats = RNG.standard_normal((2, 3, 5, 4)).astype(np.float32)
    np.testing.assert_array_equal(Augment()(floats).numpy(), floats)
    np.testing.assert_array_equal(Augment()(BYTES[..., 0]).numpy()[:, 0], Augment()(BYTES[..., :1]).numpy()[:, 0])


def test_flips_and_shifts_move_whole_pixels():
    plain = nhwc(Augment()(BYTES))
    flipped = nhwc(Augment(flip=True)(BYTES))
    kinds = {bool((f == p[:, ::-1]).all()) for f, p in zip(flipped, plain)}
    assert kinds == {True, False}
    assert all((f == p).all() or (f == p[:, ::-1]).all() for f, p in zip(flipped, plain))
    moved, framed = nhwc(Augment(shift=2)(BYTES)), np.pad(plain, ((0, 0), (2, 2), (2, 2), (0, 0)))
    offsets = set()
    for m, f in zip(moved, framed):
        fits = [(a, b) for a in range(5) for b in range(5) if (m == f[a : a + 8, b : b + 9]).all()]
        assert len(fits) == 1
        offsets.update(fits)
    assert len(offsets) > 2


def test_a_quarter_turn_is_exact_up_to_rounding():
    a = RNG.random((40, 1, 7, 7)).astype(np.float32)
    augment = Augment(rotate=90)
    augment._place = lambda u, h, w, size, place=augment._place: place(np.where(np.arange(16) == 0, 1.0, u), h, w, size)
    y = augment(a).numpy()
    np.testing.assert_allclose(y, np.rot90(a, -1, (2, 3)), atol=1e-5)


def test_scale_is_about_the_centre():
    a = np.zeros((1, 1, 9, 9), np.float32)
    a[0, 0, 3:6, 3:6] = 1
    y = Augment(scale=(2.0, 2.0))(a).numpy()[0, 0]
    np.testing.assert_allclose(y, y[::-1, ::-1], atol=1e-6)
    assert 25 < y.sum() < 45
    assert y[4, 4] == 1


def test_colours():
    grey = np.repeat(BYTES[..., :1], 3, -1)
    y = nhwc(Augment(saturation=1.0)(grey))
    np.testing.assert_allclose(y, grey / 255, atol=1e-6)  # grey has no colour to lose
    plain = BYTES / 255
    b = nhwc(Augment(brightness=0.5)(BYTES))
    factors = (b / np.maximum(plain, 1e-9))[plain > 0.1]
    assert factors.min() >= 0.5 - 1e-5
    assert factors.max() <= 1.5 + 1e-5
    for f, p in zip(b, plain):
        np.testing.assert_allclose(f, p * (f.sum() / p.sum()), rtol=1e-4, atol=1e-6)
    c = nhwc(Augment(contrast=0.5)(BYTES))
    weights = np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose((c @ weights).mean((1, 2)), (plain @ weights).mean((1, 2)), rtol=1e-5)
    assert not np.allclose(c, plain)


def test_cutout_and_noise():
    ones = np.ones((200, 1, 10, 10), np.float32)
    y = Augment(cutout=4)(ones).numpy()
    holes = (y == 0).sum((1, 2, 3))
    assert holes.max() == 16
    assert holes.min() >= 4
    n = Augment(noise=0.5)(np.zeros((200, 1, 10, 10), np.float32)).numpy()
    assert abs(n.std() - 0.5) < 0.01
    assert abs(n.mean()) < 0.01
    assert len(np.unique(n)) > 0.99 * n.size


def test_mixup():
    labels = np.array([0, 1, 2, 0, 1, 2])
    y, t = Augment(mixup=0.4)(BYTES, labels, n_classes=3)
    np.testing.assert_allclose(t.numpy().sum(1), 1, rtol=1e-6)
    plain = nhwc(Augment()(BYTES))
    for k in range(6):
        best = min(
            np.abs(nhwc(y)[k] - (s * plain[k] + (1 - s) * plain[j])).max()
            for j in range(6)
            for s in [t.numpy()[k, labels[k]]]
            if j != k
        )
        assert best < 1e-5 or (t.numpy()[k] == 1).any()
    with pytest.raises(ValueError, match="mixup needs labels and n_classes"):
        Augment(mixup=1.0)(BYTES)


def test_an_image_does_not_depend_on_its_batch():
    augment = Augment(**EVERYTHING)
    whole = augment(BYTES, epoch=3, index=np.arange(6)).numpy()
    part = augment(BYTES[[4, 1]], epoch=3, index=[4, 1]).numpy()
    np.testing.assert_array_equal(part, whole[[4, 1]])
    assert (augment(BYTES, epoch=4).numpy() != whole).any()
    assert (Augment(**{**EVERYTHING, "seed": 6})(BYTES, epoch=3).numpy() != whole).any()


@pytest.mark.parametrize("threads", [1, 2])
def test_prefetching_changes_nothing(threads):
    images, labels = RNG.integers(0, 256, (50, 8, 9, 3)).astype(np.uint8), np.arange(50)
    runs = []
    for prefetch in (0, 3):
        loader = ImageLoader(images, labels, Augment(**EVERYTHING), batch_size=8, shuffle=True, prefetch=prefetch,
                             generator=pynn.Generator(1))  # fmt: skip
        assert len(loader) == 7
        with pynn.threads(threads):
            runs.append([(x.numpy_copy(), y.numpy_copy()) for _ in range(2) for x, y in loader])
    assert len(runs[0]) == 14
    for (x, y), (x2, y2) in zip(*runs):
        np.testing.assert_array_equal(x, x2)
        np.testing.assert_array_equal(y, y2)
    assert sorted(np.concatenate([y for _, y in runs[0][:7]])) == list(range(50))
    assert (runs[0][0][1] != runs[0][7][1]).any()


def test_prefetching_overlaps_stops_and_tells_errors():
    class Slow(Augment):
        def __call__(self, *args, epoch, **kwargs):
            time.sleep(0.05)
            if epoch == 1:
                raise RuntimeError("told")
            return super().__call__(*args, epoch=epoch, **kwargs)

    loader = ImageLoader(BYTES, np.arange(6), Slow(), batch_size=1, prefetch=2)
    start = time.perf_counter()
    for _ in loader:
        time.sleep(0.05)
    assert time.perf_counter() - start < 0.55  # 0.6 s one after the other
    with pytest.raises(RuntimeError, match="told"):
        list(loader)
    loader.epoch = 0
    for _ in loader:
        break  # the thread ends with the iteration


def test_memory_maps(tmp_path):
    np.save(tmp_path / "x.npy", BYTES)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    (x, y), *_ = ImageLoader(mapped, np.arange(6), batch_size=4)
    np.testing.assert_array_equal(nhwc(x), nhwc(Augment()(BYTES[:4])))
    assert y.tolist() == [0, 1, 2, 3]


# ---- files ------------------------------------------------------------------------------------------------


def test_idx(tmp_path):
    a = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    data = b"\0\0\x08\x03" + struct.pack(">3I", *a.shape) + a.tobytes()
    (tmp_path / "a").write_bytes(data)
    (tmp_path / "a.gz").write_bytes(gzip.compress(data))
    for name in ("a", "a.gz"):
        np.testing.assert_array_equal(read_idx(tmp_path / name), a)
    b = np.array([1, -2, 70000], ">i4")
    (tmp_path / "b").write_bytes(b"\0\0\x0c\x01" + struct.pack(">I", 3) + b.tobytes())
    assert read_idx(tmp_path / "b").tolist() == [1, -2, 70000]
    for bad, pattern in ((data[:-1], "expected 40 bytes .* got 39"), (b"PNG!", "expected an IDX file"),
                         (data[:9], "ends within them")):  # fmt: skip
        (tmp_path / "bad").write_bytes(bad)
        with pytest.raises(ValueError, match=pattern):
            read_idx(tmp_path / "bad")


def test_cifar(tmp_path):
    image = RNG.integers(0, 256, (3, 32, 32)).astype(np.uint8)
    (tmp_path / "ten").write_bytes((b"\x07" + image.tobytes()) * 2)
    x, y = read_cifar(tmp_path / "ten", tmp_path / "ten")
    assert x.shape == (4, 32, 32, 3)
    assert y.tolist() == [7] * 4
    np.testing.assert_array_equal(x[0], image.transpose(1, 2, 0))
    (tmp_path / "hundred").write_bytes(b"\x02\x31" + image.tobytes())
    assert read_cifar(tmp_path / "hundred")[1].tolist() == [0x31]
    assert read_cifar(tmp_path / "hundred", coarse=True)[1].tolist() == [2]
    (tmp_path / "bad").write_bytes(b"\x02\x31")
    with pytest.raises(ValueError, match="expected records of 3073 or 3074 bytes, got 2"):
        read_cifar(tmp_path / "bad")


def test_image_folder(tmp_path):
    Image = pytest.importorskip("PIL.Image")
    for name, colour in (("cat", (255, 0, 0)), ("dog", (0, 255, 0))):
        (tmp_path / name).mkdir()
        for k in range(2):
            Image.new("RGB", (4, 3), colour).save(tmp_path / name / f"{k}.png")
        (tmp_path / name / "notes.txt").write_text("no image")
    x, y, classes = image_folder(tmp_path)
    assert classes == ["cat", "dog"]
    assert y.tolist() == [0, 0, 1, 1]
    assert x.shape == (4, 3, 4, 3)
    assert x[:, 0, 0].tolist() == [[255, 0, 0]] * 2 + [[0, 255, 0]] * 2
    assert image_folder(tmp_path, (6, 5), "L")[0].shape == (4, 6, 5, 1)
    Image.new("RGB", (5, 5)).save(tmp_path / "dog" / "2.png")
    with pytest.raises(ValueError, match=r"expected shape .* as the first image has"):
        image_folder(tmp_path)
    (tmp_path / "dog" / "2.png").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"image_folder: .*2\.png"):
        image_folder(tmp_path)
    with pytest.raises(ValueError, match="expected folders of images"):
        image_folder(tmp_path / "cat")


def test_bad_arguments():
    for options, pattern in (
        ({"shift": -1}, "'shift': expected a number >= 0"),
        ({"contrast": 1.5}, r"'contrast': expected a number in \[0"),
        ({"scale": (0, 1)}, "'scale': expected 0 < least"),
        ({"noise": float("nan")}, "'noise': expected a number >= 0"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=f"Augment: argument {pattern}"):
            Augment(**options)
    with pytest.raises(ValueError, match="Augment: argument 'images': expected uint8"):
        Augment()(np.zeros((3, 4)))
    with pytest.raises(TypeError, match="Augment: argument 'images': expected uint8 or a floating dtype, got int64"):
        Augment()(np.zeros((1, 1, 2, 2), int))
    with pytest.raises(ValueError, match="Augment: argument 'index'"):
        Augment()(BYTES, index=[1])
    with pytest.raises(ValueError, match="ImageLoader: expected a label for each of 6"):
        ImageLoader(BYTES, [1])
    with pytest.raises(ValueError, match="ImageLoader: argument 'prefetch'"):
        ImageLoader(BYTES, range(6), prefetch=-1)


@pytest.mark.parametrize("prefetch", [0, 2])
@pytest.mark.parametrize("shuffle", [False, True])
def test_an_epoch_goes_on_from_its_middle(prefetch, shuffle):
    images = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), np.uint8)
    loader = ImageLoader(
        images, np.arange(20), Augment(shift=1, rotate=10, seed=3), batch_size=4, shuffle=shuffle, prefetch=prefetch
    )
    list(loader)
    key = loader.take_key()
    whole = [x.numpy_copy() for x, _ in loader.batches(key)]
    rest = [x.numpy_copy() for x, _ in loader.batches(key, 3)]
    assert len(whole) == 5
    np.testing.assert_array_equal(rest, whole[3:])
    assert loader.epoch == key[0] + 1 == 2
