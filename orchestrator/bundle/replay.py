"""Trains one trial of a bundle again and compares it with the bundle, bit for bit."""

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast, get_args

import numpy as np

from orchestrator.bundle.check import bundled_study
from orchestrator.bundle.content import COUNTS, DESCRIPTION, Bundle, BundleError
from orchestrator.bundle.saved_models import missing_weights
from orchestrator.bundle.write import REPLAYED, environment, last_weights
from orchestrator.report.rows.results import score_of
from orchestrator.report.study_report import StudyReport
from orchestrator.study.resolved import absolute
from orchestrator.study.study import Study, Trial
from orchestrator.tracking.connection import database_file
from orchestrator.tracking.open_store import open_existing_store, tracking_uri
from orchestrator.tracking.queries import history, read_snapshot
from orchestrator.tracking.runs import TrialRun
from orchestrator.tracking.store import TrackingStore
from pipelines.data.dataset import open_dataset
from pipelines.data.files import file_digest
from pipelines.evaluation.counts import read_counts
from pipelines.network.config import Precision
from pipelines.preparation.embedded import EMBEDDED
from pipelines.wording import suggestion

# Trains the study's selected trials in a storage; returns whether they are finished.
Train = Callable[[Study, Path], bool]


@dataclass(frozen=True)
class ReplayResult:
    """The result of a replay. same: what is equal bit for bit. problems: what is not, one sentence
    each. notes: differences of the circumstances that may be the cause."""

    same: tuple[str, ...]
    problems: tuple[str, ...]
    notes: tuple[str, ...]


def replay(
    directory: Path, name: str, storage: Path, dataset: str | None, train: Train
) -> ReplayResult:
    """Train the trial `name` of a bundle again, with as many workers, and compare it.

    storage: of the replay; another replay of the trial there is compared without training again.
    dataset: location of the data set here; by default, as in the study.

    Raises BundleError if the bundle has no such finished trial or not the weights that it starts
    from, or the data differ.
    """
    bundle = Bundle.read(directory)
    if name not in bundle.runs:
        raise BundleError(f"no trial {name!r} has a run; {suggestion(name, list(bundle.runs))}")
    recorded = bundle.runs[name]
    if recorded.status != "FINISHED":
        raise BundleError(
            f"trial {name!r} is not finished in the bundle; choose one that is finished"
        )
    overrides = [*bundle.overrides, ("resources.workers", recorded.workers.split("+")[-1] or "1")]
    # Nobody is notified, no program of the bundle is started, and nothing is written elsewhere.
    overrides += [("notify.url", "null"), ("notify.command", "[]")]
    overrides += [("mirror.tensorboard", "null"), ("mirror.wandb", "null")]
    study = _trained_as(bundled_study(bundle, directory, overrides), recorded, name, dataset)
    study = replace(study, trials=tuple(each for each in study.trials if each.name == name))
    if model := missing_weights(study.trials[0].experiment.training.backbone_weights, directory):
        raise BundleError(
            f"trial {name!r} starts from the weights of the saved model {model}, which this bundle "
            "does not hold; write the bundle with --weights to train it again"
        )
    location = study.trials[0].experiment.data.dataset
    if location != EMBEDDED:  # it is made during the training
        _check_data(open_dataset(absolute(location)).manifest.fingerprint, recorded)
    with _own_store():
        _check_storage(bundle, storage)
        if not train(study, storage):
            raise BundleError(f"trial {name!r} could not be trained again; its error is above")
        store = open_existing_store(storage)
        (result,) = [
            result
            for row in StudyReport(study, store).read().rows
            for result in row.results
            if result.trial.name == name
        ]
        assert result.run is not None, "the trial is finished"
        _check_data(result.run.data, recorded)
        same, problems = _compare(bundle, recorded, result.run, store)
        score = score_of(study, result)
        if score is not None:
            with tempfile.TemporaryDirectory(prefix="counts-") as temporary:
                path = Path(temporary)
                counts = read_counts(store.download_file(score.run_id, score.counts_path, path))
                file = directory / COUNTS / recorded.run_id / score.counts_path
                equal = False
                with suppress(ValueError):  # missing, or another file
                    equal = bool(np.array_equal(read_counts(file).values, counts.values))
            (same if equal else problems).append("the counts by image and class")
    return ReplayResult(tuple(same), tuple(problems), _notes(bundle, recorded, result.run))


def _trained_as(study: Study, recorded: TrialRun, name: str, dataset: str | None) -> Study:
    """Return a study with the recorded precision, and if `dataset` is given its location, for the
    trial `name`, and without the latency of another machine. Overrides could change an axis of the
    grid, and thus the trials' names, or make the study invalid."""

    def changed(trial: Trial) -> Trial:
        experiment = trial.experiment
        if trial.name == name and recorded.precision in get_args(Precision):
            training = replace(experiment.training, precision=cast(Precision, recorded.precision))
            experiment = replace(experiment, training=training)
        if trial.name == name and dataset is not None:
            experiment = replace(experiment, data=replace(experiment.data, dataset=dataset))
        return replace(trial, experiment=experiment)

    with_samples = study.with_samples
    return replace(
        study,
        config=replace(study.config, latency=None),
        trials=tuple(map(changed, study.trials)),
        all_trials=tuple(map(changed, study.all_trials)),
        with_samples=with_samples
        and (lambda samples: _trained_as(with_samples(samples), recorded, name, dataset)),
    )


def _check_data(fingerprint: str, recorded: TrialRun) -> None:
    """Raise BundleError unless the fingerprint is that of the data of the recorded run."""
    if fingerprint != recorded.data:
        raise BundleError(
            f"the data set here has the fingerprint {fingerprint[:12]}, but the trial was trained "
            f"on {recorded.data[:12]}; give its location with --dataset"
        )


def _check_storage(bundle: Bundle, storage: Path) -> None:
    """Raise BundleError if the storage holds a run of the bundle, which would be its own replay."""
    file = database_file(tracking_uri(storage))
    if file is None or not file.exists():
        return
    recorded = {run.run_id for run in bundle.runs.values()}
    if any(run.run_id in recorded for run in read_snapshot(open_existing_store(storage)).trials):
        raise BundleError(
            f"--storage {storage} holds the runs of the bundle, which a replay must not find; "
            "choose another directory"
        )


def _compare(
    bundle: Bundle, recorded: TrialRun, run: TrialRun, store: TrackingStore
) -> tuple[list[str], list[str]]:
    """Compare weights and metrics of each epoch; return what is equal and what is not."""
    same: list[str] = []
    problems: list[str] = []
    with tempfile.TemporaryDirectory(prefix="weights-") as temporary:
        file = last_weights(store, run.run_id, Path(temporary))
        digest = None if file is None else file_digest(file)
    if recorded.run_id in bundle.weights:
        equal = bundle.weights[recorded.run_id] == digest
        (same if equal else problems).append("the weights of the last checkpoint")
    for metric in REPLAYED:
        before = bundle.histories.get(recorded.run_id, {}).get(metric, [])
        after = [[epoch, value] for epoch, value in history(store, run.run_id, metric)]
        if before == after:
            same += [f"{metric} of {len(before)} epochs"] if before else []
            continue
        pairs = zip(before, after, strict=False)
        first = next((int(old[0]) for old, new in pairs if old != new), None)
        length = f"of {len(after)} epochs instead of {len(before)}"
        problems.append(f"{metric}, {length if first is None else f'from epoch {first} on'}")
    return same, problems


def _notes(bundle: Bundle, recorded: TrialRun, run: TrialRun) -> tuple[str, ...]:
    """Return differences of code, precision and worker count."""
    notes = [
        f"{name} is {getattr(run, name)} here and {getattr(recorded, name)} in {DESCRIPTION}"
        for name in ("code", "precision", "workers")
        if getattr(run, name) != getattr(recorded, name)
    ]
    here, recorded_environment = environment(), bundle.environment
    pairs = [(key, here[key], recorded_environment.get(key)) for key in ("platform", "machine")]
    versions = (each.get("packages", {}).get("torch") for each in (here, recorded_environment))
    pairs.append(("torch", *versions))
    notes += [
        f"{name} is {current} here and {before} in {DESCRIPTION}"
        for name, current, before in pairs
        if current != before
    ]
    return tuple(notes)


@contextmanager
def _own_store() -> Iterator[None]:
    """Within this context, a storage holds its own tracking store, whatever the environment says:
    a replay must not be linked to the run that it repeats."""
    saved: Mapping[str, str] = {
        key: os.environ.pop(key) for key in ("MLFLOW_TRACKING_URI",) if key in os.environ
    }
    try:
        yield
    finally:
        os.environ.update(saved)
