"""Which run of the ledger stands for which trial of a study, told from the ledger alone.

A trial's identity needs the data set's fingerprint, the precision of the device it was trained on
and the digests of the weights it starts from. Where data, device and weights are elsewhere, those
that the ledger knows are tried: what comes out is the identity of a run, or the trial is missing.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from orchestrator.extensions import modules_of
from orchestrator.identity import code_version, trial_identity
from orchestrator.ledger.reading import TrialRun
from orchestrator.study import Plan, Trial
from pipelines.precision import Precision

# Fingerprint of the data, precision, digests of the weights to start from.
Circumstances = tuple[str, str, tuple[str | None, str | None]]
_PRECISIONS: dict[str, Precision] = {"bf16": "bf16", "fp32": "fp32"}


def find_runs(
    plan: Plan, runs: Sequence[TrialRun], identities: Mapping[str, str] | None = None
) -> dict[str, TrialRun]:
    """The run to go by for each trial that has one, by the trial's name.

    A finished run of the present code comes first, then a finished one of other code, then the
    latest of the study itself that is unfinished. identities: by the trial's name, where they have
    been resolved.
    """
    by_identity: dict[str, list[TrialRun]] = {}
    for run in runs:
        if run.status == "FINISHED" or run.study == plan.study.study:
            by_identity.setdefault(run.identity, []).append(run)
    known = {(run.data, run.precision, run.digests) for run in runs}
    codes = present_codes(plan)
    found = {}
    for trial in plan.trials:
        if identities is not None:
            candidates: Iterable[str] = [identities[trial.name]]
        else:
            candidates = _possible_identities(trial, known)
        there = [run for identity in candidates for run in by_identity.get(identity, [])]
        if identities is None:
            there = [run for run in there if _speaks_of(run, trial)]
        if there:
            code = codes[trial.name]
            found[trial.name] = max(there, key=lambda run: (_rank(run, code), run.started))
    return found


def present_codes(plan: Plan) -> dict[str, str]:
    """The code version that each trial would be trained with now, by its name."""
    versions: dict[tuple[str, ...], str] = {}
    codes = {}
    for trial in plan.trials:
        modules = modules_of(trial.experiment, plan.study.imports)
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


def _speaks_of(run: TrialRun, trial: Trial) -> bool:
    """Whether the run's data is the trial's: it has the name that the study gives it, or the run
    was trained for this very cell. Another data set's run may be the same in all else."""
    axes = {axis: str(value) for axis, value in trial.axes.items()}
    cell = (trial.variant, trial.experiment.seed, axes)
    return run.dataset == trial.experiment.data.dataset or (run.variant, run.seed, run.axes) == cell


def _rank(run: TrialRun, code: str) -> int:
    if run.status == "FINISHED":
        return 2 if run.code == code else 1
    return 0
