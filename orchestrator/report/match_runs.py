"""Which run of the ledger stands for which trial of a study, told from the ledger alone.

A trial's identity needs the data set's fingerprint, the precision of the device it was trained on
and the digests of the weights it starts from. Where these have not been resolved, those that the
ledger knows are tried; what is on this machine must then be what the run was trained on, and what
is not must have lain in the same place, or the run must be known to stand for the very cell.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from orchestrator.study.identity import code_version, trial_identity
from orchestrator.study.resolve import absolute
from orchestrator.study.study import Study, Trial
from orchestrator.study.user_code import modules_of
from orchestrator.tracking.runs import TrialRun, select_run
from pipelines.data.dataset import DatasetError, open_dataset
from pipelines.network.precision import Precision
from pipelines.network.weights import WeightsError, locate_weights, weights_digest
from pipelines.preparation.embedded import EMBEDDED

# Fingerprint of the data, precision, digests of the weights to start from.
Circumstances = tuple[str, str, tuple[str | None, str | None]]

_PRECISIONS: dict[str, Precision] = {"bf16": "bf16", "fp32": "fp32"}


@dataclass(frozen=True)
class Match:
    """The run that stands for a trial. assumed: what of that could not be made sure, in words;
    empty where there is no doubt."""

    run: TrialRun
    assumed: str = ""


class Contents:
    """Contents by location, each looked at once; None for what is not here or cannot be read."""

    def __init__(self) -> None:
        self.fingerprint = cache(_fingerprint)
        self.digest = cache(_digest)


def find_runs(
    study: Study,
    runs: Sequence[TrialRun],
    codes: Mapping[str, str],
    identities: Mapping[str, str] | None = None,
) -> dict[str, Match]:
    """The run to go by for each trial that has one, by the trial's name: the one that the study's
    command goes by, too.

    runs: of all studies, oldest first. codes: see `present_codes`. identities: by the trial's name,
    where they have been resolved.
    """
    by_identity: dict[str, list[TrialRun]] = {}
    for run in runs:
        by_identity.setdefault(run.identity, []).append(run)
    known = {(run.data, run.precision, run.digests) for run in runs}
    contents, name = Contents(), study.config.study
    found = {}
    for trial in study.trials:
        if identities is not None:
            fitting = by_identity.get(identities[trial.name], [])
            doubts = {run.run_id: "" for run in fitting}
        else:
            possible = _possible_identities(trial, known)
            fitting = [run for run in runs if run.identity in possible]
            doubts = {
                run.run_id: doubt
                for run in fitting
                if (doubt := _doubt(run, trial, name, contents)) is not None
            }
        sure = {run_id for run_id, doubt in doubts.items() if not doubt}
        candidates = [run for run in fitting if run.run_id in (sure or doubts)]
        chosen = select_run(candidates, name, codes[trial.name])
        if chosen is not None:
            assumed = doubts[chosen.run_id] or _several(chosen, candidates)
            found[trial.name] = Match(chosen, assumed)
    return found


def present_codes(study: Study) -> dict[str, str]:
    """The code version that each trial would be trained with now, by its name."""
    versions: dict[tuple[str, ...], str] = {}
    codes = {}
    for trial in study.trials:
        modules = modules_of(trial.experiment, study.config.imports)
        key = tuple(module.__name__ for module in modules)
        if key not in versions:
            versions[key] = code_version(modules)
        codes[trial.name] = versions[key]
    return codes


def _possible_identities(trial: Trial, known: Iterable[Circumstances]) -> set[str]:
    """The trial's identity under each of the circumstances that fit it."""
    training = trial.experiment.training
    starts = (training.backbone_weights, training.init)
    identities = set()
    for data, precision, digests in known:
        fits = all((a is None) == (b is None) for a, b in zip(starts, digests, strict=True))
        if fits and precision in _PRECISIONS and training.precision in ("auto", precision):
            resolved = replace(training, precision=_PRECISIONS[precision])
            experiment = replace(trial.experiment, training=resolved)
            identities.add(trial_identity(experiment, data, *digests))
    return identities


def _doubt(run: TrialRun, trial: Trial, study: str, contents: Contents) -> str | None:
    """What remains unsure where the run, alike in all else, is taken for the trial's; empty for
    nothing. None where its data or weights are others."""
    training, data = trial.experiment.training, trial.experiment.data.dataset
    starts = (training.backbone_weights, training.init)
    compared = [(data, run.dataset, contents.fingerprint(data), run.data)]
    compared += [
        (wanted, place or "", contents.digest(wanted), digest or "")
        for wanted, place, digest in zip(starts, run.weights, run.digests, strict=True)
        if wanted is not None
    ]
    doubts = []
    for wanted, place, here, recorded in compared:
        if here is not None:
            if here != recorded:
                return None
        elif absolute(wanted) != absolute(place):
            if (study, trial.name) not in run.trials:
                return None
            doubts.append(f"{wanted} is not on this machine, the run of this cell had {place}")
    return "; ".join(doubts)


def _several(chosen: TrialRun, candidates: Sequence[TrialRun]) -> str:
    """Words for that other trainings might as well be meant; empty where there are none."""
    count = len({run.identity for run in candidates if run.status == chosen.status})
    if count < 2:
        return ""
    return (
        f"{count} trainings fit, which differ in the content of their data or weights or in "
        "precision, and the study's own or latest is shown"
    )


def _fingerprint(dataset: str) -> str | None:
    """Of a prepared data set."""
    if dataset == EMBEDDED or not _is_here(dataset):
        return None
    try:
        return open_dataset(absolute(dataset)).manifest.fingerprint
    except DatasetError:
        return None


def _digest(weights: str) -> str | None:
    """Of a file of weights, or of the one in a checkpoint's directory."""
    if not _is_here(weights):
        return None
    try:
        return weights_digest(locate_weights(absolute(weights)))
    except WeightsError:
        return None


def _is_here(location: str) -> bool:
    return "://" not in location and Path(absolute(location)).exists()
