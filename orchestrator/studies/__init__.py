"""`python -m orchestrator.studies`: lists, compares, follows, stops and resumes studies.

Imports `console`, `storage`, `study`, `tracking`, `training`, `report` and `sweep`; no package
imports it.
"""
