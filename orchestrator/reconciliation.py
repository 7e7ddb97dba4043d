"""What is to be done about each trial of a study: what its file asks for against what the ledger
holds. Pure decisions; the effects are elsewhere."""

from collections.abc import Mapping, Sequence
from typing import Literal

from orchestrator.cells import Cell
from orchestrator.ledger import Record

Standing = Literal["finished", "stale", "to resume", "failed", "missing"]


def standing(record: Record | None, code: str) -> Standing:
    """What is to be done about a trial, by its run in the ledger. code: the present version."""
    if record is None:
        return "missing"
    if record.status == "FINISHED":
        return "finished" if record.code == code else "stale"
    return "failed" if record.status == "FAILED" else "to resume"


def standings(cells: Sequence[Cell], records: Mapping[str, Record]) -> dict[str, Standing]:
    """By the trial's name; `records` by identity."""
    return {cell.trial.name: standing(records.get(cell.identity), cell.code) for cell in cells}
