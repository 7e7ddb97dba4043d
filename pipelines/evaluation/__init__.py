"""Inference and scores: whole images, windows, scales; confusion counts and metrics.

Of pipelines it imports `data` and `network`.
"""
