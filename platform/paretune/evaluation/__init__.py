"""Accuracy of a predictor: COCO's mean average precision, and precision, recall and F1."""
