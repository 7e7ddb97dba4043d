"""Figures of predictions and features.

Of pipelines it imports `data`, `network` and `evaluation`. Decides no trained result: it does not
count for the code version.
"""
