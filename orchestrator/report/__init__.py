"""`python -m orchestrator.report`: a study's table with its statistics, in several formats.

Imports `study`, `tracking`, `console` and `evaluation.records`; never Ray.
"""
