"""Gives the runs of an edited study the names and labels that their trials have now."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from mlflow.entities import Run

from orchestrator.study.resolved import ResolvedTrial
from orchestrator.tracking import tags as tag
from orchestrator.tracking.descriptions import outcome_note, trial_note, with_outcome
from orchestrator.tracking.runs import TrialRun
from orchestrator.tracking.study_run import StudyRun


def rename_runs(
    study_run: StudyRun, trials: Sequence[ResolvedTrial], runs: Mapping[str, TrialRun]
) -> bool:
    """Update the name, tags and description of the study's runs whose trials have other names,
    labels or grid values than when they were trained; return whether there are any.

    trials: the trials of this command. runs: by trial name, of those that have one. What was
    trained and the runs of other studies do not change. Does nothing if the study's page shows
    another table than this command's, because a `--set` does not change the study. Raises
    StudyLockLostError.
    """
    if not study_run.page.is_own:
        return False
    query = f"tags.`{tag.KIND}` = 'trial'"
    recorded = study_run.store.search([study_run.experiment_id], query)
    own = list(_own_runs(recorded, study_run, trials))
    outdated = [each for each in own if tag.changed_trial_tags(each[0].data.tags, each[1])]
    if not outdated:
        return False
    study_run.check_lock()
    # The descriptions first: a run that keeps its earlier name is described again. Those of other
    # runs may name the renamed ones.
    names = {run.info.run_id: run.data.tags.get(tag.TRIAL, "") for run in recorded}
    names |= {run.info.run_id: trial.name for run, trial in own}
    run_ids = {name: (study_run.experiment_id, run_id) for run_id, name in names.items()}
    run_ids |= {name: (run.experiment_id, run.run_id) for name, run in runs.items()}
    study = study_run.study.whole
    renamed = {run.info.run_id for run, _ in outdated}
    for run, trial in own:
        tags = run.data.tags
        if run.info.run_id not in renamed and not any(
            run_id in tags.get("mlflow.note.content", "") for run_id in renamed
        ):
            continue
        outcome = outcome_note(run.info.status, tags.get(tag.REASON, ""), tag.CODE in tags)
        note = with_outcome(trial_note(trial, study, run_ids, study_run.experiment_id), outcome)
        if tags.get("mlflow.note.content") != note:
            study_run.describe_trial(run.info.run_id, note)
    for run, trial in outdated:
        study_run.rename_trial(run, trial)
    return True


def _own_runs(
    recorded: Iterable[Run], study_run: StudyRun, trials: Sequence[ResolvedTrial]
) -> Iterator[tuple[Run, ResolvedTrial]]:
    """Yield the recorded runs of `trials`, each with the trial after which it is named: of several
    with equal identities, the one that it is named after now, or else the first."""
    by_identity: dict[str, dict[str, ResolvedTrial]] = {}
    for trial in trials:
        by_identity.setdefault(trial.identity, {})[trial.name] = trial
    settings = {trial.name: trial.experiment for trial in study_run.study.all_trials}
    for run in recorded:
        name = run.data.tags.get(tag.TRIAL, "")
        same = by_identity.get(run.data.tags.get(tag.IDENTITY, ""), {})
        if name in same:
            yield run, same[name]
        elif same:
            first = next(iter(same.values()))
            # `--only` may leave out the trial that the run is named after.
            if name not in settings or settings[name] != settings.get(first.name):
                yield run, first
