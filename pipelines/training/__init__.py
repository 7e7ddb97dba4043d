"""Experiments and their training loop, optimization, checkpoints and results.

Within pipelines, this package imports only `config`, `data`, `errors`, `evaluation`, `figures` and
`network`.
"""
