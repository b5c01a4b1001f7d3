"""Images as people have them: folders, MNIST's and CIFAR's files; and batches of them, augmented ahead of time."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..arrays import as_count
from ..tensor import Tensor
from .augment import Augment
from .loader import DataLoader
from .prefetch import prefetched

__all__ = ["ImageLoader", "image_folder", "read_cifar", "read_idx"]

_IDX = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")


def read_idx(path) -> np.ndarray:
    """The array of an IDX file, MNIST's format, gzip'd or not.

    Raises:
        ValueError: another format, or a file of another length than its header says.

    Source: the header is 0, 0, dtype, number of dimensions, then each size as a big-endian uint32.
    """
    path = Path(path)
    data = path.read_bytes()
    if data[:2] == b"\x1f\x8b":
        data = gzip.decompress(data)
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] not in _IDX:
        raise ValueError(f"read_idx: {path}: expected an IDX file, got one that begins with {data[:4]!r}")
    dtype, ndim = np.dtype(_IDX[data[2]]), data[3]
    if len(data) < 4 + 4 * ndim:
        raise ValueError(f"read_idx: {path}: expected {ndim} sizes, the file ends within them")
    shape = struct.unpack(f">{ndim}I", data[4 : 4 + 4 * ndim])
    want = 4 + 4 * ndim + int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    if len(data) != want:
        raise ValueError(f"read_idx: {path}: expected {want} bytes for shape {shape}, got {len(data)}")
    return np.frombuffer(data, dtype, offset=4 + 4 * ndim).reshape(shape).astype(dtype.newbyteorder("="))


def read_cifar(*paths, coarse: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """(uint8 images (N, 32, 32, 3), int64 labels) of CIFAR's binary files, CIFAR-100's where a file has "100" records.

    A record is one label (CIFAR-10) or a coarse and a fine one (CIFAR-100), then the red, green and blue planes. Which
    of them, the length of the file tells. coarse: the coarse labels of CIFAR-100.

    Raises:
        ValueError: a file that holds no whole number of records.
    """
    images, labels = [], []
    for path in map(Path, paths):
        data = np.fromfile(path, np.uint8)
        n_labels = next((k for k in (1, 2) if data.size and data.size % (3072 + k) == 0), None)
        if n_labels is None:
            raise ValueError(f"read_cifar: {path}: expected records of 3073 or 3074 bytes, got {data.size} bytes")
        records = data.reshape(-1, 3072 + n_labels)
        labels.append(records[:, 0 if coarse else n_labels - 1].astype(np.int64))
        images.append(records[:, n_labels:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    if not images:
        raise ValueError("read_cifar: expected at least one path")
    return np.ascontiguousarray(np.concatenate(images)), np.concatenate(labels)


def image_folder(path, size: tuple[int, int] | None = None, mode: str = "RGB"):
    """(uint8 images (N, H, W, C), int64 labels, names of classes) of a folder that has one of images for each class.

    Args:
        size: (height, width) to which images are resized; None asks that all have one size.
        mode: "RGB", or "L" for grey images of one channel.

    Classes and files are taken by name, in order. Needs Pillow: pip install pynn-core[image].

    Raises:
        ImportError: no Pillow. ValueError: no images, several sizes without `size`, a file that is no image.
    """
    try:
        from PIL import Image
    except ImportError:
        raise ImportError("image_folder needs Pillow: pip install pynn-core[image]") from None
    classes = sorted(p.name for p in Path(path).iterdir() if p.is_dir())
    found = [(k, f) for k, c in enumerate(classes) for f in sorted((Path(path) / c).iterdir())
             if f.suffix.lower() in SUFFIXES]  # fmt: skip
    if not found:
        raise ValueError(f"image_folder: {path}: expected folders of images, found none")
    images = []
    for _, file in found:
        try:
            with Image.open(file) as opened:
                image = opened.convert(mode)
        except OSError as e:
            raise ValueError(f"image_folder: {file}: {e}") from None
        image = image if size is None else image.resize((size[1], size[0]), Image.Resampling.BILINEAR)
        images.append(np.asarray(image, np.uint8).reshape(image.height, image.width, -1))
        if images[-1].shape != images[0].shape:
            raise ValueError(f"image_folder: {file}: expected shape {images[0].shape} as the first image has, got "
                             f"{images[-1].shape}; give size=")  # fmt: skip
    return np.stack(images), np.array([k for k, _ in found]), classes


class ImageLoader:
    """Batches (images, labels) of arrays, augmented; `prefetch` of them are made ahead by a thread.

    Args:
        images: uint8 (N, H, W, C) or (N, H, W), or floats (N, C, H, W); memory maps too. labels: (N,).
        augment: an Augment; None only converts. n_classes: for mixup.
        batch_size, shuffle, drop_last, generator: as DataLoader's.
        prefetch: how many batches are kept ready; 0 makes each when it is asked for. The batches are the same.

    Each iteration is an epoch; set `epoch` to begin with another. A Trainer resumes within one.

    Raises:
        ValueError: another number of labels than of images, prefetch below 0.
    """

    def __init__(
        self, images, labels, augment: Augment | None = None, *, batch_size: int = 32, shuffle: bool = False,
        drop_last: bool = False, generator=None, prefetch: int = 0, n_classes: int | None = None,
    ):  # fmt: skip
        self.prefetch = as_count("ImageLoader", "prefetch", prefetch, 0)
        if len(images) != len(labels):
            raise ValueError(f"ImageLoader: expected a label for each of {len(images)} images, got {len(labels)}")
        self.images, self.labels, self.augment = images, np.asarray(labels), augment or Augment()
        self.n_classes, self.epoch = n_classes, 0
        self._numbers = DataLoader(
            np.arange(len(images)), batch_size, shuffle, drop_last=drop_last, generator=generator
        )

    def __len__(self) -> int:
        """The number of batches of an epoch."""
        return len(self._numbers)

    def take_key(self) -> list[int]:
        """What fixes one iteration: the epoch, then DataLoader's key where the order is drawn."""
        epoch, self.epoch = self.epoch, self.epoch + 1
        return [epoch, *(self._numbers.take_key() or ())]

    def batches(self, key: list[int], start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches from number `start` on, of the epoch and in the order that key fixes."""
        epoch, *order = key
        self.epoch = epoch + 1
        made = (self._batch(rows.numpy_copy(), epoch) for (rows,) in self._numbers.batches(order or None, start))
        return prefetched(made, self.prefetch) if self.prefetch else made

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return self.batches(self.take_key())

    def _batch(self, rows, epoch):
        images, labels = self.images[rows], self.labels[rows]
        x, y = self.augment(images, labels, epoch=epoch, index=rows, n_classes=self.n_classes)
        return x, y if isinstance(y, Tensor) else Tensor(y)
