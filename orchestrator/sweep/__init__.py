"""`python -m orchestrator.sweep`: drives all stages of a study.

Imports `console`, `storage`, `context`, `study`, `tracking`, `scheduling`, `cluster`, `planning`,
`training`, `preflight`, `evaluation` and `report`; only `bundle`, `api` and `studies` import it.
"""
