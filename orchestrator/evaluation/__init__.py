"""Trained models: loading them, scoring them under protocols, packing submissions.

Imports `study`, `tracking`, `scheduling`, `cluster`, `storage` and `console`.
"""
