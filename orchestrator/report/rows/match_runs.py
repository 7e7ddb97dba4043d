"""Matches the trials of a study with the runs in the tracking store.

A trial's identity depends on the data set's fingerprint, the precision on its device, and the
digests of its initial weights. If these have not been resolved, every combination in the tracking
store is tried. Data and weights on this machine must then have the recorded content. If they are
not on this machine, their recorded path must be the same, or the run must be recorded for this very
trial.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from orchestrator.study.identity import code_version, trial_identity
from orchestrator.study.resolved import absolute, absolute_weights
from orchestrator.study.study import Study, Trial
from orchestrator.study.user_code import modules_of
from orchestrator.tracking.runs import TrialRun, select_run
from pipelines.data.dataset import open_dataset
from pipelines.data.manifest import DatasetError
from pipelines.network.config import Precision
from pipelines.network.published_weights import PUBLISHED_WEIGHTS
from pipelines.network.weight_files import WeightsError, locate_weights, weights_digest
from pipelines.preparation.embedded import EMBEDDED

# Fingerprint of the data, precision, digests of the initial weights (backbone, network).
RunInputs = tuple[str, str, tuple[str | None, str | None]]

_PRECISIONS: dict[str, Precision] = {"bf16": "bf16", "fp32": "fp32"}


@dataclass(frozen=True)
class Match:
    """The run of a trial. uncertainty: why it may not be the trial's; empty if it certainly is."""

    run: TrialRun
    uncertainty: str = ""


class Contents:
    """Content hashes by location, each computed once; None if missing here or unreadable."""

    def __init__(self) -> None:
        self.fingerprint = cache(_fingerprint)
        self.digest = cache(_digest)


def find_runs(
    study: Study,
    runs: Sequence[TrialRun],
    codes: Mapping[str, str],
    identities: Mapping[str, str] | None = None,
) -> dict[str, Match]:
    """Return the run of each trial that has one, by trial name: the same run that the study's
    command uses.

    runs: of all studies, oldest first. codes: see `current_code_versions`. identities: by trial
    name, if they have been resolved.
    """
    by_identity: dict[str, list[TrialRun]] = {}
    for run in runs:
        by_identity.setdefault(run.identity, []).append(run)
    inputs = {(run.data, run.precision, run.digests) for run in runs}
    contents, name = Contents(), study.config.study
    matches = {}
    for trial in study.trials:
        if identities is not None:
            possible = by_identity.get(identities[trial.name], [])
            uncertainties = {run.run_id: "" for run in possible}
        else:
            possible_identities = _possible_identities(trial, inputs)
            possible = [run for run in runs if run.identity in possible_identities]
            uncertainties = {
                run.run_id: uncertainty
                for run in possible
                if (uncertainty := _uncertainty(run, trial, name, contents)) is not None
            }
        certain = {run_id for run_id, uncertainty in uncertainties.items() if not uncertainty}
        candidates = [run for run in possible if run.run_id in (certain or uncertainties)]
        selected = select_run(candidates, name, codes[trial.name])
        if selected is not None:
            uncertainty = uncertainties[selected.run_id] or _ambiguity(selected, candidates)
            matches[trial.name] = Match(selected, uncertainty)
    return matches


def current_code_versions(study: Study) -> dict[str, str]:
    """Return the code version that each trial would be trained with now, by trial name."""
    versions: dict[tuple[str, ...], str] = {}
    codes = {}
    for trial in study.trials:
        modules = modules_of(trial.experiment, study.config.imports)
        libraries = trial.experiment.libraries
        key = (*(module.__name__ for module in modules), *libraries)
        if key not in versions:
            versions[key] = code_version(modules, libraries)
        codes[trial.name] = versions[key]
    return codes


def _possible_identities(trial: Trial, inputs: Iterable[RunInputs]) -> set[str]:
    """Return the trial's identity with each of the run inputs that fit it."""
    training = trial.experiment.training
    weights = (training.backbone_weights, training.init)
    identities = set()
    for data, precision, digests in inputs:
        fits = all((a is None) == (b is None) for a, b in zip(weights, digests, strict=True))
        if fits and precision in _PRECISIONS and training.precision in ("auto", precision):
            resolved = replace(training, precision=_PRECISIONS[precision])
            experiment = replace(trial.experiment, training=resolved)
            identities.add(trial_identity(experiment, data, *digests))
    return identities


def _uncertainty(run: TrialRun, trial: Trial, study: str, contents: Contents) -> str | None:
    """Return why a run of the same experiment may not be the trial's; empty if it certainly is,
    None if its data or weights differ."""
    training, data = trial.experiment.training, trial.experiment.data.dataset
    weights = (training.backbone_weights, training.init)
    compared = [(data, run.dataset, contents.fingerprint(data), run.data)]
    compared += [
        (requested, path or "", contents.digest(requested), digest or "")
        for requested, path, digest in zip(weights, run.weights, run.digests, strict=True)
        if requested is not None
    ]
    reasons = []
    for requested, recorded_path, current, recorded in compared:
        if current is not None:
            if current != recorded:
                return None
        elif absolute(requested) != absolute(recorded_path):
            if (study, trial.name) not in run.trials:
                return None
            reasons.append(
                f"{requested} is not on this machine; the trial's run used {recorded_path}"
            )
    return "; ".join(reasons)


def _ambiguity(selected: TrialRun, candidates: Sequence[TrialRun]) -> str:
    """Return a message if several different training runs match; empty otherwise."""
    count = len({run.identity for run in candidates if run.status == selected.status})
    if count < 2:
        return ""
    return (
        f"{count} training runs match, which differ in precision or in the content of data or "
        "weights; this study's own run is shown, or else the latest"
    )


def _fingerprint(dataset: str) -> str | None:
    """Return the fingerprint of a prepared data set; None if it is not here or unreadable."""
    if dataset == EMBEDDED or not _is_here(dataset):
        return None
    try:
        return open_dataset(absolute(dataset)).manifest.fingerprint
    except DatasetError:
        return None


def _digest(weights: str) -> str | None:
    """Return the digest of a weights file, or of the one in a checkpoint directory or an installed
    package, or of a downloaded one; None if it is not here or unreadable."""
    published = PUBLISHED_WEIGHTS.get(weights)
    if published is None and not _is_here(weights):
        return None
    if published is not None and published.path is None:
        return None
    try:
        return weights_digest(locate_weights(absolute_weights(weights)))
    except WeightsError:
        return None


def _is_here(location: str) -> bool:
    return "://" not in location and Path(absolute(location)).exists()
