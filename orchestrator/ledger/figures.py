"""The figures of a study, with its run: artifacts, and a tag that says what each was drawn from."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from orchestrator.ledger.records import TAG
from orchestrator.ledger.study_run import StudyRun

FIGURES = "figures"


def has_figure(study_run: StudyRun, kind: str, drawn_from: Sequence[str]) -> bool:
    """Whether the study's run holds this figure, drawn from the same."""
    tags = study_run.ledger.client.get_run(study_run.parent_id).data.tags
    return bool(tags.get(f"{TAG}figure.{kind}") == _digest(drawn_from))


def keep_figure(study_run: StudyRun, kind: str, drawn_from: Sequence[str], directory: Path) -> None:
    """Copy the files of `directory` to `figures/` of the study's run."""
    study_run.ledger.log_artifact(study_run.parent_id, directory, FIGURES)
    tags = {f"{TAG}figure.{kind}": _digest(drawn_from)}
    study_run.ledger.set_tags(study_run.parent_id, tags)


def _digest(drawn_from: Sequence[str]) -> str:
    return hashlib.sha256("\0".join(drawn_from).encode()).hexdigest()[:16]
