"""What to do about each trial, how long it takes and what it costs.

Imports `study`, `tracking`, `scheduling` and `context`; never Ray.
"""
