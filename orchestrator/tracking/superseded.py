"""Marks the runs of trials that a study had before its file was edited."""

from collections.abc import Sequence

from orchestrator.study.resolved import ResolvedTrial
from orchestrator.study.study import Study
from orchestrator.tracking import tags as tag
from orchestrator.tracking.runs import TrialRun
from orchestrator.tracking.study_run import StudyRun
from pipelines.wording import counted, first_names, option

_LISTED = 3


def mark_superseded(
    study_run: StudyRun, trials: Sequence[ResolvedTrial], runs: Sequence[TrialRun]
) -> None:
    """Tag the study's runs whose trial it no longer has, and untag those that it has again.

    trials: the trials of this command, and those that `--only` leaves out whose runs may have the
    name of one of them. runs: all trials' runs in the tracking store. With `--only`, runs with
    other names keep their tag: their trials may be left out, and be renamed. Does nothing if the
    study's page shows another table than this command's, because a `--set` does not change the
    study. Raises StudyLockLostError.
    """
    if not study_run.page.is_own:
        return
    study_run.check_lock()
    identities = {trial.identity for trial in trials}
    names = {trial.name for trial in trials}
    for run in runs:
        if run.study != study_run.study.config.study:
            continue
        if run.identity in identities:
            if run.superseded:
                study_run.store.client.delete_tag(run.run_id, tag.SUPERSEDED)
        elif not run.superseded and (run.name in names or not study_run.study.is_partial):
            study_run.store.set_tags(run.run_id, {tag.SUPERSEDED: "yes"})


def superseded_note(study: Study, trials: Sequence[ResolvedTrial], runs: Sequence[TrialRun]) -> str:
    """Return which finished trials leave the table because the study file no longer has them, or
    has them with other settings; empty if there are none that an earlier command has not marked.

    trials: of the study. runs: all trials' runs in the tracking store. Empty also with `--only`, or
    with a `--set` that changes results: then the table of the file stays.
    """
    if study.is_partial or study.overridden:
        return ""
    identities = {trial.identity for trial in trials}
    names = [
        repr(run.name)
        for run in runs
        if run.study == study.config.study
        and run.status == "FINISHED"
        and not run.superseded
        and run.identity not in identities
    ]
    if not names:
        return ""
    return (
        f"study {study.config.study!r} has {counted(len(names), 'finished trial')} that this file "
        f"does not have, or has with other settings: {first_names(names, _LISTED)}; without them "
        "in the file, the table leaves them out. If they belong to another study, rename this "
        f"one, for example with {option('set')} study=NAME"
    )


def newest(runs: Sequence[TrialRun]) -> TrialRun:
    """Return the run that represents a trial's name: the latest of the current definition, or the
    latest of all if the study no longer has the trial."""
    return max(runs, key=lambda run: (not run.superseded, run.started_at, run.run_id))
