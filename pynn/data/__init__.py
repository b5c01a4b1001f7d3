"""Batches of arrays."""

from .loader import DataLoader, TensorDataset
