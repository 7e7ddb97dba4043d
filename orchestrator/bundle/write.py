"""Writes the bundle of a study from its tracking store."""

import platform
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from importlib import metadata
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any

from orchestrator.bundle.content import (
    COUNTS,
    DATASETS,
    DESCRIPTION,
    ORIGINAL_FILE,
    OWN,
    SOURCES,
    STUDY_FILE,
    TABLES,
    WEIGHTS,
    Bundle,
    History,
    Sources,
    digests,
)
from orchestrator.bundle.saved_models import bundled_weights, copy_saved_models, renamed
from orchestrator.report.documents.report import Report
from orchestrator.report.rows.match_runs import current_code_versions
from orchestrator.report.rows.results import Result, score_of
from orchestrator.report.study_report import StudyReport, write_documents
from orchestrator.study.identity import library_versions, source_paths
from orchestrator.study.import_closure import source_files
from orchestrator.study.resolved import absolute
from orchestrator.study.study import Study, Trial
from orchestrator.study.user_code import modules_named, modules_of
from orchestrator.tracking.queries import history
from orchestrator.tracking.runs import TrialRun
from orchestrator.tracking.store import TrackingError, TrackingStore
from pipelines.data.dataset import open_dataset
from pipelines.data.files import file_digest
from pipelines.data.manifest import MANIFEST_NAME, DatasetError, Manifest
from pipelines.evaluation.statistics_file import STATISTICS_FILE
from pipelines.network.file_names import WEIGHTS_FILE

# Compared epoch by epoch when a trial is trained again.
REPLAYED = ("train/loss", "val/miou")


def write_bundle(
    study: Study,
    overrides: Sequence[tuple[str, str]],
    study_report: StudyReport,
    storage: Path,
    directory: Path,
    with_weights: bool,
) -> Report:
    """Write the files of a bundle to a new directory; return the report that it holds.

    overrides: each `--set`. storage: where the embedded data set may be. with_weights: include the
    weights of the last checkpoints, not only their SHA-256, and those of saved models.
    """
    report = study_report.read()
    study = report.study  # with the samples of a search
    results = [result for row in report.rows for result in row.results]
    directory.mkdir(parents=True)
    (directory / ORIGINAL_FILE).write_text(study.text, encoding="utf-8")
    texts = [study.resolved, *(value for _, value in overrides)]
    models = copy_saved_models(texts, directory, with_weights)
    resolved = renamed(study.resolved, lambda name: models.get(name, name))
    (directory / STUDY_FILE).write_text(resolved, encoding="utf-8")
    write_documents(directory / TABLES, study_report.documents(report, links=False))
    store = study_report.store
    for result in results:
        _write_counts(study, result, store, directory)
    runs = {
        result.trial.name: _as_in_study(result.run, result.trial, models)
        for result in results
        if result.run is not None
    }
    distinct = {run.run_id: run for run in runs.values()}
    codes = current_code_versions(study)
    bundle = Bundle(
        study=study.config.study,
        overrides=tuple(
            (key, renamed(value, lambda name: models.get(name, name))) for key, value in overrides
        ),
        runs=runs,
        codes=codes,
        sources=_write_sources(study, codes, directory),
        weights=_write_weights(distinct.values(), store, directory, with_weights),
        histories={run_id: _history(store, run_id) for run_id in distinct},
        table=list(report.records()),
        datasets=_write_datasets(distinct, storage, directory),
        environment=environment(),
        files=digests(directory),
    )
    (directory / DESCRIPTION).write_text(bundle.to_json(), encoding="utf-8")
    return report


def _as_in_study(run: TrialRun, trial: Trial, models: Mapping[str, str]) -> TrialRun:
    """Return a run with the names of its data set and initial weights in the study, instead of the
    paths of the training's machine. models: names in the bundle of saved models."""
    training = trial.experiment.training
    backbone, whole = (
        location and bundled_weights(location, models)
        for location in (training.backbone_weights, training.init)
    )
    return replace(run, dataset=trial.experiment.data.dataset, weights=(backbone, whole))


def environment() -> dict[str, Any]:
    """Return the versions of Python and of all installed packages, and the platform."""
    packages = {each.name: each.version for each in metadata.distributions()}
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "packages": dict(sorted(packages.items(), key=lambda each: each[0].lower())),
    }


def _write_counts(study: Study, result: Result, store: TrackingStore, directory: Path) -> None:
    """Copy the counts behind a trial's score, if it has one."""
    score = score_of(study, result)
    if score is None:
        return
    target = directory / COUNTS / score.run_id / score.counts_path
    if target.exists():  # of a trial with the same identity
        return
    target.parent.mkdir(parents=True)
    with tempfile.TemporaryDirectory(prefix="counts-") as temporary:
        file = store.download_file(score.run_id, score.counts_path, Path(temporary))
        shutil.copyfile(file, target)
        # Statistics by image of the study's other metrics, which not every run has.
        path = str(PurePosixPath(score.counts_path).with_name(STATISTICS_FILE))
        with suppress(TrackingError):
            file = store.download_file(score.run_id, path, Path(temporary))
            shutil.copyfile(file, target.with_name(STATISTICS_FILE))


def _write_sources(study: Study, codes: Mapping[str, str], directory: Path) -> dict[str, Sources]:
    """Copy the sources that decide the results; return them by code version."""
    representatives: dict[str, Trial] = {codes[trial.name]: trial for trial in study.trials}
    sources = {}
    for code, trial in representatives.items():
        experiment = trial.experiment
        modules = modules_of(experiment, study.config.imports)
        own = {path: name for module in modules for path, name in _own_paths(module)}
        files = []
        for name, path in source_paths(modules):
            is_package = path.name == "__init__.py"
            default = f"{name.replace('.', '/')}{'/__init__' * is_package}.py"
            copied = own.get(path, default)
            target = directory / SOURCES / copied
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
            files.append((name, f"{SOURCES}/{copied}"))
        sources[code] = Sources(tuple(files), library_versions(experiment.libraries))
    for module in modules_named(study.config.user_code):  # metrics of protocols train nothing
        for path, name in _own_paths(module):
            target = directory / SOURCES / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    return sources


def _own_paths(module: ModuleType) -> Iterator[tuple[Path, str]]:
    """Yield the files of a module or package of the user, with their paths below SOURCES."""
    paths = [Path(path) for path in getattr(module, "__path__", [])]
    root = (paths[0] if paths else Path(str(module.__file__))).parent
    for path in source_files(module):
        yield path, f"{OWN}/{path.relative_to(root).as_posix()}"


def _write_weights(
    runs: Iterable[TrialRun], store: TrackingStore, directory: Path, keep: bool
) -> dict[str, str]:
    """Return the SHA-256 of the last weights of each finished run; copy them if `keep`."""
    weights = {}
    for run in runs:
        if run.status != "FINISHED":
            continue
        with tempfile.TemporaryDirectory(prefix="weights-") as temporary:
            file = last_weights(store, run.run_id, Path(temporary))
            if file is None:
                continue
            weights[run.run_id] = file_digest(file)
            if keep:
                target = directory / WEIGHTS / run.run_id / WEIGHTS_FILE
                target.parent.mkdir(parents=True)
                shutil.copyfile(file, target)
    return weights


def last_weights(store: TrackingStore, run_id: str, directory: Path) -> Path | None:
    """Copy a run's last model into `directory`; return the file of its weights, None if it has no
    model."""
    try:
        model = store.download(f"runs:/{run_id}/model", directory)
    except TrackingError:
        return None
    return next(iter(sorted(model.rglob(WEIGHTS_FILE))), None)


def _history(store: TrackingStore, run_id: str) -> History:
    return {
        metric: [[epoch, value] for epoch, value in history(store, run_id, metric)]
        for metric in REPLAYED
    }


def _write_datasets(
    runs: Mapping[str, TrialRun], storage: Path, directory: Path
) -> list[dict[str, str]]:
    """Return the data sets of the runs; copy the manifests of those on this machine."""
    locations = {run.data: run.dataset for run in runs.values()}
    datasets = []
    for fingerprint, location in locations.items():
        manifest = _manifest(fingerprint, location, storage)
        entry = {"location": location, "fingerprint": fingerprint}
        if manifest is not None:
            entry["manifest"] = f"{DATASETS}/{fingerprint[:12]}.json"
            (directory / DATASETS).mkdir(exist_ok=True)
            (directory / entry["manifest"]).write_text(manifest.to_json(), encoding="utf-8")
        datasets.append(entry)
    return datasets


def _manifest(fingerprint: str, location: str, storage: Path) -> Manifest | None:
    """Return the manifest of a data set; None if it is not on this machine."""
    embedded = [str(file.parent) for file in storage.glob(f"datasets/*/{MANIFEST_NAME}")]
    for candidate in (absolute(location), *embedded):
        try:
            manifest = open_dataset(candidate).manifest
        except (DatasetError, OSError):
            continue
        if manifest.fingerprint == fingerprint:
            return manifest
    return None
