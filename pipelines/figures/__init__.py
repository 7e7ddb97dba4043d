"""Figures of predictions and features.

Within pipelines it imports `errors`, `data`, `network` and `evaluation`. It cannot change a trained
result, so it is not part of the code version.
"""
