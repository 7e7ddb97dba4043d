"""`python -m orchestrator.sweep`: drives all stages of a study.

May import every other package of orchestrator except `bundle`; only `bundle`, `api` and `studies`
import it.
"""
