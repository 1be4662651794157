"""Accuracy of a predictor: COCO's mean average precision, and precision, recall and F1."""

from __future__ import annotations

from paretune.evaluation.accuracy import Accuracy, accuracy_of, evaluate

__all__ = ["Accuracy", "accuracy_of", "evaluate"]
