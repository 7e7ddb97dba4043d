"""Experiments and their training loop, optimization, checkpoints and results.

Within pipelines, this package imports only `errors`, `device_memory`, `config`, `data`, `network`,
`evaluation` and `figures`.
"""
