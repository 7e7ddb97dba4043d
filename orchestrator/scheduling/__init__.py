"""Pure decisions on resources: which placements fit, which trial starts next, the budget.

Of orchestrator it imports `study` only; neither Ray nor MLflow.
"""
