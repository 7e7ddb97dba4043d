"""From a study file to resolved trials: reading, validation, expansion, identity.

Imports nothing else of orchestrator, and neither Ray nor MLflow.
"""
