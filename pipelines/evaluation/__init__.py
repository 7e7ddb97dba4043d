"""Inference on whole images, windows and scales; pixel counts and metrics.

Within pipelines it imports `errors`, `wording`, `data` and `network`.
"""
