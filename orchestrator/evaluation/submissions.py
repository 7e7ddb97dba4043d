"""A study's submission: each finished trial's label maps of a test split, packed for the server.

Wanted is a state, as with training: what the ledger has already is not predicted again.
"""

import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from orchestrator.console import progress, say
from orchestrator.evaluation.protocols import Evaluations
from orchestrator.evaluation.records import is_current, settings
from orchestrator.evaluation.scoring import predict_files
from orchestrator.evaluation.trained_model import load_model
from orchestrator.study.config import Submission
from orchestrator.study.resolve import ResolvedTrial
from orchestrator.study.study import Study
from orchestrator.tracking.store import TrackingStore
from pipelines.evaluation.inference import InferenceConfig
from pipelines.submission import pack


@dataclass(frozen=True)
class MissingPackage:
    """A finished trial whose predictions have not been packed. run_id: of its run."""

    trial: ResolvedTrial
    run_id: str


def missing_packages(
    study: Study,
    trials: Sequence[ResolvedTrial],
    run_ids: Mapping[str, str],
    evaluations: Callable[[str], Evaluations],
) -> Iterator[MissingPackage]:
    """What is to be packed. run_ids: of the finished trials, by their names; evaluations: what the
    ledger holds of a run."""
    wanted = study.config.submission
    if wanted is None:
        return
    for trial in trials:
        run_id = run_ids.get(trial.name)
        if run_id is None:
            continue
        recorded = evaluations(run_id).get(_name(wanted), {})
        fingerprint = trial.dataset.manifest.fingerprint
        if not is_current(recorded, _config(study), 0, fingerprint, wanted.split):
            yield MissingPackage(trial, run_id)


def pack_missing(
    missing: Sequence[MissingPackage],
    study: Study,
    store: TrackingStore,
    directory: Path,
    console: Console,
    stop_requested: Callable[[], bool],
) -> dict[str, str]:
    """Predict on the connected cluster, pack into `directory` and the runs' artifacts; why what
    failed did, by the trial's name."""
    wanted = study.config.submission
    assert wanted is not None, "something is missing of it"
    failures: dict[str, str] = {}
    with progress(console) as bar:
        for entry in missing:
            name = entry.trial.name
            if stop_requested():
                failures[name] = "its predictions are not packed: stopped"
                continue
            try:
                model = load_model(f"runs:/{entry.run_id}/last", store, study.config.imports)
                files = predict_files(
                    model,
                    entry.trial.location,
                    entry.trial.dataset.manifest.fingerprint,
                    wanted.split,
                    _config(study),
                    wanted.benchmark,
                    study.config.imports,
                    bar,
                )
                package = directory / f"{re.sub(r'[^A-Za-z0-9._+-]+', '-', name)}.zip"
                pack(package, files)
                _record(store, entry, wanted, _config(study), package)
            except Exception as error:  # the other trials can still be packed
                failures[name] = f"its predictions are not packed: {error}"
                continue
            say(console, f"{name}: {len(files)} label maps for {wanted.benchmark} in {package}")
    return failures


def _record(
    store: TrackingStore,
    entry: MissingPackage,
    wanted: Submission,
    config: InferenceConfig,
    package: Path,
) -> None:
    tags = {
        "protocol": settings(config),
        "checkpoint": "last",
        "data": entry.trial.dataset.manifest.fingerprint,
        "split": wanted.split,
        "code": entry.trial.code,
    }
    with tempfile.TemporaryDirectory(prefix="submission-") as temporary:
        files = Path(temporary)
        (files / package.name).symlink_to(package)
        store.log_evaluation(entry.run_id, _name(wanted), {}, tags, files)


def _name(wanted: Submission) -> str:
    return f"submission-{wanted.benchmark}"


def _config(study: Study) -> InferenceConfig:
    wanted = study.config.submission
    if wanted is None or wanted.protocol is None:
        return InferenceConfig()
    return study.config.protocols[wanted.protocol]
