"""Networks for training: construction, precision, batch norm, weights and checkpoint files.

Within pipelines, this package imports only `data`, `errors` and `wording`.
"""
