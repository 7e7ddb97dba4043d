"""One trial on Ray: Tune's side, Train's workers, failures and retries, elastic scaling.

Imports `study`, `scheduling`, `cluster` and `storage`; never MLflow, rich, planning or tracking.
"""
