"""Training for people who want it done: Trainer over arrays, its history, weights in files."""

from .checkpoint import load_state, save_state
from .history import History
from .trainer import Trainer
