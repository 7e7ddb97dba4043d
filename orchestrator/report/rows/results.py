"""The state, scores and per-image counts of each trial of a study, from the tracking store."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from orchestrator.evaluation.records import evaluation_differences
from orchestrator.report.rows.match_runs import Match, current_code_versions, find_runs
from orchestrator.report.statistics.resampled import (
    CountsReader,
    CountsSource,
    ResampledCounts,
    ScoreRef,
)
from orchestrator.study.study import Study, Trial
from orchestrator.study.trial_state import TrialState
from orchestrator.tracking.queries import StoreSnapshot
from orchestrator.tracking.runs import TrialRun


@dataclass(frozen=True)
class Result:
    """One trial in the report.

    state: `not scored` means trained to the end, but not yet scored under the report's protocol.
    miou: mIoU of the last checkpoint in percent.
    best: mIoU in percent of the best epoch, which is selected on the same images.
    counts: resampled per-image counts behind `miou`; None if the run has none.
    stale: whether the trial was trained with a different code version than the current one.
    scored_stale: whether it was scored with a different code version.
    score_mismatch: how the score recorded under the report's protocol differs from what the study
        requests; empty if it does not, or if there is none.
    uncertainty: why `run` may not be this trial's; empty if it certainly is.
    """

    trial: Trial
    run: TrialRun | None
    state: TrialState
    miou: float | None = None
    best: float | None = None
    counts: ResampledCounts | None = None
    stale: bool = False
    scored_stale: bool = False
    score_mismatch: str = ""
    uncertainty: str = ""


class Results:
    """Reads the results of one study repeatedly while it runs; counts are read once.

    identities: the trials' identities by name, if they have been resolved. codes: the code versions
    by trial name that count as current; by default, those of the code here.
    """

    def __init__(
        self,
        study: Study,
        source: CountsSource,
        identities: Mapping[str, str] | None = None,
        codes: Mapping[str, str] | None = None,
    ) -> None:
        self._study = study
        self._identities = identities
        self._codes = codes
        report = study.config.report
        self._counts = CountsReader(source, report.resampled_metrics, report.class_groups)

    def read(self, snapshot: StoreSnapshot) -> list[Result]:
        """Return the results in the order of the study. snapshot: of the tracking store."""
        codes = self._codes or current_code_versions(self._study)
        matches = find_runs(self._study, snapshot.trials, codes, self._identities)
        results = [
            self._result(trial, matches[trial.name], codes[trial.name])
            if trial.name in matches
            else Result(trial, None, TrialState.MISSING)
            for trial in self._study.trials
        ]
        scores = [score_of(self._study, result) for result in results]
        counts = self._counts.read(score for score in scores if score is not None)
        return [
            result if score is None else replace(result, counts=counts.get(score))
            for result, score in zip(results, scores, strict=True)
        ]

    def _result(self, trial: Trial, match: Match, code: str) -> Result:
        """Return a trial's result without its counts. code: the current code version."""
        run, name = match.run, self._study.config.report.protocol
        searching = self._study.config.kind == "search"
        state = TrialState.INTERRUPTED if run.stopped_early and not searching else run.state
        result = Result(trial, run, state, uncertainty=match.uncertainty)
        if run.status != "FINISHED":
            return result
        result = replace(result, stale=run.code != code)
        if name is None:
            miou, best = run.metrics.get("val/miou"), run.metrics.get("val/best_miou")
            validated = trial.experiment.data.validation_split is not None
            unscored = validated and miou is None
            state = TrialState.NOT_SCORED if unscored else TrialState.FINISHED
            return replace(result, state=state, miou=_percent(miou), best=_percent(best))
        miou, recorded = run.metrics.get(f"eval/{name}/miou"), run.evaluations.get(name)
        if miou is None or recorded is None:
            return replace(result, state=TrialState.NOT_SCORED)
        # Another study may use the same protocol name, and this study may have been edited.
        config = self._study.config.evaluation_under(name, trial.experiment.evaluation)
        validation = trial.experiment.data.validation_split
        split = self._study.config.scored_split(name, validation) or ""
        mismatch = evaluation_differences(recorded, config, run.data, split)
        if mismatch:
            text = "; ".join(mismatch)
            return replace(result, state=TrialState.NOT_SCORED, score_mismatch=text)
        return replace(result, miou=_percent(miou), scored_stale=recorded.get("code") != code)


def score_of(study: Study, result: Result) -> ScoreRef | None:
    """Return the score of a trial in the report, and where its counts are; None if it has none."""
    if result.run is None or result.miou is None:
        return None
    name = study.config.report.protocol
    prefix, folder = ("val", "") if name is None else (f"eval/{name}", f"eval/{name}/")
    metric = f"{prefix}/miou"
    counts = f"{folder}counts.arrow"
    return ScoreRef(result.run.run_id, counts, result.run.metrics[metric], metric)


def _percent(value: float | None) -> float | None:
    return None if value is None else 100 * value
