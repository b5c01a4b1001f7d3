"""Batches of arrays, images and sequences, and which samples they hold."""

from .augment import Augment
from .images import ImageLoader, image_folder, read_cifar, read_idx
from .loader import DataLoader, TensorDataset
from .samplers import BalancedSampler, WeightedRandomSampler, class_weights
from .sequences import SequenceLoader, pad_sequences
