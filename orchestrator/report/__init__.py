"""`python -m orchestrator.report`: a study's table with its statistics, in several formats.

Its packages build on each other in this order: statistics, rows, tables, notes, charts, documents;
`study_report` uses them all. Imports `storage`, `study`, `tracking`, `console` and
`evaluation.records`; never Ray.
"""
