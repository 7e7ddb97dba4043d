"""The Ray cluster: joining or starting one, its nodes, its autoscaler, and job submission.

Imports `study`, `scheduling` and `storage`; never MLflow.
"""
