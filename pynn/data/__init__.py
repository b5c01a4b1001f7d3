"""Batches of arrays and of images."""

from .augment import Augment
from .images import ImageLoader, image_folder, read_cifar, read_idx
from .loader import DataLoader, TensorDataset
