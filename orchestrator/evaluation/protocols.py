"""A study's further protocols: each finished trial's last checkpoint is scored under each of them.

Wanted is a state, as with training: what the ledger has already is not scored again, and a protocol
that is added later scores what was trained before.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console

from orchestrator.console import progress, say
from orchestrator.evaluation.records import is_current, log_scores, study_config
from orchestrator.evaluation.scoring import count
from orchestrator.evaluation.trained_model import load_model
from orchestrator.study.resolve import ResolvedTrial
from orchestrator.study.study import Study
from orchestrator.tracking.store import TrackingStore
from pipelines.evaluation.config import EvaluationConfig

# By the name of an evaluation, what the ledger's tags say of it.
Evaluations = Mapping[str, Mapping[str, str]]


@dataclass(frozen=True)
class MissingScore:
    """A finished trial that has not been scored under a protocol of the study. run_id: of its run;
    split: of its data set."""

    trial: ResolvedTrial
    run_id: str
    protocol: str
    split: str
    config: EvaluationConfig


def missing_scores(
    study: Study,
    trials: Sequence[ResolvedTrial],
    run_ids: Mapping[str, str],
    evaluations: Callable[[str], Evaluations],
) -> Iterator[MissingScore]:
    """What is to be scored, each run and protocol once. run_ids: of the finished trials, by their
    names; evaluations: what the ledger holds of a run.

    A trial without a validation split is not scored: its images are all trained on.
    """
    seen: set[tuple[str, str]] = set()
    for trial in trials:
        run_id, data = run_ids.get(trial.name), trial.experiment.data
        if run_id is None or data.validation_split is None or not study.config.protocols:
            continue
        known = evaluations(run_id)
        fingerprint = trial.dataset.manifest.fingerprint
        for name, protocol in study.config.protocols.items():
            own = trial.experiment.evaluation
            config = study_config(protocol, own)
            recorded = known.get(name, {})
            if (run_id, name) in seen or is_current(
                recorded, config, config.boundary, fingerprint, data.validation_split
            ):
                continue
            seen.add((run_id, name))
            yield MissingScore(trial, run_id, name, data.validation_split, config)


def score(
    missing: Sequence[MissingScore],
    store: TrackingStore,
    imports: Sequence[str],
    console: Console,
    stop_requested: Callable[[], bool],
) -> dict[str, str]:
    """Score on the connected cluster and record it; why what failed did, by the trial's name."""
    failures: dict[str, str] = {}
    with progress(console) as bar:
        for entry in missing:
            name = entry.trial.name
            if stop_requested():
                failures.setdefault(name, f"not scored under {entry.protocol}: stopped")
                continue
            try:
                model = load_model(f"runs:/{entry.run_id}/last", store, imports)
                dataset = entry.trial.dataset
                state = count(
                    model,
                    entry.trial.location,
                    dataset.manifest.fingerprint,
                    entry.split,
                    entry.config,
                    imports,
                    bar,
                )
                scores = state.scores()
                log_scores(
                    store,
                    entry.run_id,
                    entry.protocol,
                    scores,
                    model,
                    dataset,
                    entry.split,
                    entry.config,
                    imports,
                )
            except Exception as error:  # the other trials can still be scored
                cause = f"not scored under {entry.protocol}: {error}"
                failures[name] = f"{failures[name]}; {cause}" if name in failures else cause
                continue
            say(console, f"{name}: {100 * scores.miou:.2f} % mIoU under {entry.protocol}")
    return failures
