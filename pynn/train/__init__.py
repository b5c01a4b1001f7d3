"""Training for people who want it done: Trainer, its callbacks and history, runs and weights in files."""

from .callbacks import Callback, Checkpoint, EarlyStopping
from .checkpoint import load_state, save_state
from .history import History
from .metrics import Metric
from .run import Run
from .tensorboard import TensorBoard
from .tools import lr_find, repeat
from .trainer import Trainer
