"""Trials on Ray: Tune functions, Train groups of workers, failures and retries, elastic scaling.

Imports `study`, `scheduling`, `cluster` and `storage`; never MLflow, rich, planning or tracking.
"""
