"""What the ledger holds of each trial of a study: its state, its figures and its counts."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from orchestrator.evaluation.records import evaluation_differences, protocol_config
from orchestrator.report.match_runs import Match, find_runs, present_codes
from orchestrator.report.resampled import CountsReader, ResampledCounts, ScoreRef
from orchestrator.study.study import Study, Trial
from orchestrator.study.trial_state import TrialState
from orchestrator.tracking.queries import Snapshot, take_snapshot
from orchestrator.tracking.runs import TrialRun
from orchestrator.tracking.store import TrackingStore


@dataclass(frozen=True)
class Result:
    """One trial in the report.

    state: `not scored` is trained to the end, but not scored under the report's protocol yet;
    unscored: why what the ledger has under that name does not count, empty where it has nothing.
    miou: in percent, of the last checkpoint; best: of the epoch chosen on the same images. stale:
    trained by another version of the code than the present one; scored_stale: scored by one.
    assumed: what is not sure about that `run` is the trial's, empty where nothing is.
    """

    trial: Trial
    run: TrialRun | None
    state: TrialState
    miou: float | None = None
    best: float | None = None
    scored: ResampledCounts | None = None
    stale: bool = False
    scored_stale: bool = False
    unscored: str = ""
    assumed: str = ""


class Results:
    """The results of one study, read again and again while it runs: what is finished is read once.

    identities: of the trials, by name, where they have been resolved.
    """

    def __init__(
        self, study: Study, store: TrackingStore, identities: Mapping[str, str] | None = None
    ) -> None:
        self._study = study
        self._store = store
        self._identities = identities
        self._scored = CountsReader(store)

    def read(self, snapshot: Snapshot | None = None) -> list[Result]:
        """The results in the order of the study. snapshot: of the tracking store; taken now for
        None."""
        snapshot = snapshot or take_snapshot(self._store)
        codes = present_codes(self._study)
        matches = find_runs(self._study, snapshot.trials, codes, self._identities)
        results = [
            self._result(trial, matches[trial.name], codes[trial.name])
            if trial.name in matches
            else Result(trial, None, TrialState.MISSING)
            for trial in self._study.trials
        ]
        figures = [self._figure(result) for result in results]
        scored = self._scored.of(figure for figure in figures if figure is not None)
        return [
            result if figure is None else replace(result, scored=scored.get(figure))
            for result, figure in zip(results, figures, strict=True)
        ]

    def _result(self, trial: Trial, match: Match, code: str) -> Result:
        """Without its counts. code: the present version."""
        run, name = match.run, self._study.config.report.protocol
        searching = self._study.config.kind == "search"
        state = TrialState.INTERRUPTED if run.stopped_early and not searching else run.state
        result = Result(trial, run, state, assumed=match.assumed)
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
        # Another study may use the name, too, and this one may have been edited.
        config = protocol_config(self._study.config.protocols[name], trial.experiment.evaluation)
        split = trial.experiment.data.validation_split or ""
        unlike = evaluation_differences(recorded, config, config.boundary, run.data, split)
        if unlike:
            return replace(result, state=TrialState.NOT_SCORED, unscored="; ".join(unlike))
        return replace(result, miou=_percent(miou), scored_stale=recorded.get("code") != code)

    def _figure(self, result: Result) -> ScoreRef | None:
        if result.run is None or result.miou is None:
            return None
        name = self._study.config.report.protocol
        prefix, folder = ("val", "") if name is None else (f"eval/{name}", f"eval/{name}/")
        miou = result.run.metrics[f"{prefix}/miou"]
        return ScoreRef(result.run.run_id, f"{folder}counts.arrow", miou)


def _percent(value: float | None) -> float | None:
    return None if value is None else 100 * value
