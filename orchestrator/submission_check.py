"""Whether a study's data suit the test server that its predictions are for."""

from collections.abc import Sequence
from pathlib import PurePath

from orchestrator.cells import Cell
from orchestrator.study import Plan
from pipelines.submission import SUBMISSIONS


def check_submission(plan: Plan, cells: Sequence[Cell]) -> None:
    """Raises DatasetError where a data set lacks the split, SubmissionError where its pictures or
    classes are not the benchmark's; before anything is trained."""
    wanted = plan.study.submission
    if wanted is None:
        return
    benchmark = SUBMISSIONS[wanted.benchmark]
    for location in dict.fromkeys(cell.location for cell in cells):
        dataset = next(cell.dataset for cell in cells if cell.location == location)
        benchmark.check_classes([entry.name for entry in dataset.manifest.classes])
        benchmark.check_names([PurePath(n) for n in dataset.split(wanted.split).identifiers])
