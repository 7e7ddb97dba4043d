"""Networks as they are trained: building, precision, batch norm, weights, checkpoint files.

Of pipelines it imports `data`.
"""
