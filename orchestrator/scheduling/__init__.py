"""Pure decisions on resources: which placements fit, which trial starts next, the budget.

Imports `study`; never Ray or MLflow.
"""
