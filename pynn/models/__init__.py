"""Whole models."""

from .lstm_classifier import LSTMClassifier
