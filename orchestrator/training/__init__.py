"""One trial on Ray: its Tune function, its Train workers, failures and retries, elastic scaling.

Imports `study`, `scheduling`, `cluster` and `storage`; never MLflow, rich, planning or tracking.
"""
