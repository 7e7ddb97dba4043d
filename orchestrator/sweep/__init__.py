"""`python -m orchestrator.sweep`: drives all stages of a study.

May import every other package of orchestrator; only `orchestrator.studies` imports it.
"""
