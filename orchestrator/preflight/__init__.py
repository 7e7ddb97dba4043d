"""A few training steps of each distinct experiment before the long trials start.

Imports `study`, `scheduling`, `planning`, `cluster`, `training`, `context` and `storage`.
"""
