"""The compiled engine: storage, tensors, apply, the backward walk, threads."""

from .engine import *  # noqa: F403
