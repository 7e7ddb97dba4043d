"""The experiment and its training loop, optimization, checkpoints and results.

Of pipelines it imports `data`, `network`, `evaluation` and `figures`.
"""
