"""`python -m orchestrator.report`: the table with its statistics, in every format.

Imports `study`, `tracking`, `console` and `evaluation.records`; never Ray.
"""
