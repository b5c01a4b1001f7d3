"""Batches of arrays and of sequences, and which samples they hold."""

from .loader import DataLoader, TensorDataset
from .samplers import BalancedSampler, WeightedRandomSampler, class_weights
from .sequences import SequenceLoader, pad_sequences
