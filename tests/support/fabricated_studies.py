"""Studies in a real tracking store with generated, plausible metrics instead of training.

`python -m tests.support.fabricated_studies DIR` makes an example with seven variants, two backbones
and five seeds, and prints the command that shows its report.
"""

import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from orchestrator.evaluation.records import protocol_tag
from orchestrator.report.study_report import StudyReport
from orchestrator.study.load import load_study
from orchestrator.study.resolve import resolve_trials
from orchestrator.study.resolved import ResolvedTrial
from orchestrator.study.study import Study
from orchestrator.tracking.evaluations import log_evaluation
from orchestrator.tracking.open_store import tracking_uri
from orchestrator.tracking.store import TrackingStore
from orchestrator.tracking.study_run import StudyRun
from pipelines.evaluation.config import InferenceConfig
from pipelines.evaluation.counts import ImageCounts, write_counts
from pipelines.evaluation.measuring import build_metrics
from pipelines.evaluation.metrics import Measured
from pipelines.evaluation.scores import Scores
from pipelines.evaluation.statistics_file import write_statistics
from pipelines.preparation.embedded import prepare_streets

CITIES = {"frankfurt": 267, "lindau": 59, "munster": 174}
FEW = {"aachen": 6, "bonn": 4}
Fate = str  # "FINISHED", "FAILED", "KILLED" or "missing"

STUDY = """\
study: table-1-fabricated
description: |
  **Table 1 in form, not in fact.** Every number is made up; the rows, labels and published values
  are those of the paper.
compare_to: strong
base:
  data: {dataset: DATASET, crop: [128, 128]}
  training: {epochs: 40, precision: fp32}
grid: {model.backbone: [resnet18, resnet50]}
seeds: [0, 1, 2, 3, 4]
variants:
  baseline:
    label: baseline (addition)
    set: {model: {ppm: false, flows: []}}
    reference: [{miou: 73.2, source: &a "Table 1(a)", when: {model.backbone: resnet18}},
                {miou: 75.4, source: &b "Table 1(b)", when: {model.backbone: resnet50}}]
  strong:
    label: strong baseline
    set: {model: {flows: []}}
    reference: [{miou: 77.3, source: *a, when: {model.backbone: resnet18}},
                {miou: 79.3, source: *b, when: {model.backbone: resnet50}}]
  strong+df:
    label: strong + DF
    set: {model: {flows: [detail]}}
    reference: {miou: 78.8, source: *a, when: {model.backbone: resnet18}}
  strong+sf:
    label: strong + SF
    set: {model: {flows: [semantic]}}
    reference: {miou: 78.9, source: *a, when: {model.backbone: resnet18}}
  strong+df+sf:
    label: strong + DF + SF
    set: {model: {flows: [detail, semantic]}}
    reference: {miou: 79.6, source: *a, when: {model.backbone: resnet18}}
  strong+df+sf+ss(4):
    label: strong + DF + SF + SS(4)
    set: {model: {supervision: [1, 2, 3, 4]}}
    reference: {miou: 80.0, source: *a, when: {model.backbone: resnet18}}
  strong+df+sf+ss(2):
    label: strong + DF + SF + SS(2)
    set: {model: {supervision: [3, 4]}}
    reference: [{miou: 80.1, source: *a, when: {model.backbone: resnet18}},
                {miou: 81.7, source: *b, when: {model.backbone: resnet50}}]
published:
  - {label: GFFNet, miou: 81.2, parameters_m: 70.5, source: "Table 3(a)"}
  - {label: CCNet, miou: 79.8, parameters_m: 68.8, source: "Table 3(a)"}
"""

PLAIN = """\
study: plain
compare_to: a
base:
  data: {dataset: DATASET, crop: [64, 64]}
  model: {backbone: dfnet1, channels: 8}
  training: {epochs: 3, precision: fp32}
variants:
  a: {}
  b: {set: {model: {flows: []}}}
"""


def write_study(tmp_path: Path, dataset: Path, text: str) -> Path:
    """Write a study file in `tmp_path` with DATASET replaced by `dataset`; return its path."""
    path = tmp_path / "study.yaml"
    path.write_text(text.replace("DATASET", str(dataset)))
    return path


def report_of(path: Path) -> StudyReport:
    """Return the report of a study file, with the tracking store in `storage` next to the file."""
    return StudyReport(load_study(path), TrackingStore(tracking_uri(path.parent / "storage"), None))


def fabricate(
    study: Study,
    storage: Path,
    fates: Mapping[str, Fate] = MappingProxyType({}),
    cities: dict[str, int] = FEW,
    code: Callable[[ResolvedTrial], str] = lambda trial: trial.code,
    workers: Callable[[ResolvedTrial], int] = lambda trial: 1,
    lacks: Callable[[ResolvedTrial], Sequence[int]] = lambda trial: (),
) -> list[ResolvedTrial]:
    """Record the trials of `study` in the storage's tracking store as if they had been trained.

    Later variants score higher. Scores also vary by image, by city and by trial. fates: outcome of
    each trial that is not finished, by its name. cities: number of validation images of each city.
    code, workers and lacks: functions from a trial to its code version, to the number of its
    workers and to the classes that none of its labels has.
    """
    trials = resolve_trials(study.trials, "cpu", storage / "datasets")
    store = TrackingStore(tracking_uri(storage), storage / "artifacts")
    study_run = StudyRun.open(store, study)
    variants = list(study.config.variants)
    for trial in trials:
        fate = fates.get(trial.name, "FINISHED")
        if fate == "missing":
            continue
        run_id = study_run.begin_trial(replace(trial, code=code(trial)), None, None)
        study_run.start_trial(run_id, code(trial))
        study_run.record_workers(run_id, workers(trial))
        ability = 0.9 + 0.12 * variants.index(trial.variant) ** 0.7
        ability += 0.15 * sum(len(str(value)) % 7 for value in trial.axes.values())
        scores, identifiers, groups = _scores(trial, ability, cities, lacks(trial))
        _log_history(study_run, run_id, trial, scores, fate == "FINISHED")
        if fate == "FINISHED":
            with tempfile.TemporaryDirectory() as directory:
                path = Path(directory) / "counts.arrow"
                classes = [entry.name for entry in trial.dataset.manifest.classes]
                assert scores.images is not None
                write_counts(path, scores.images, identifiers, classes, groups)
                configs = trial.experiment.evaluation.metric_configs
                write_statistics(
                    Path(directory), scores.images, scores.measured, configs, identifiers
                )
                for file in Path(directory).iterdir():
                    store.log_artifact(run_id, file)
        study_run.end_trial(
            run_id, fate, "loss nan in epoch 12, step 3" if fate == "FAILED" else ""
        )
    study_run.close("FINISHED")
    return trials


def fabricate_study(directory: Path, dataset: Path, text: str, **options: Any) -> Path:
    """Write a study file in `directory` and record its trials in the `storage` next to it; return
    the file's path. options: as of `fabricate`.
    """
    path = write_study(directory, dataset, text)
    fabricate(load_study(path), directory / "storage", **options)
    return path


def evaluate_again(
    storage: Path,
    run_id: str,
    trial: ResolvedTrial,
    name: str,
    config: InferenceConfig,
    ability: float = 2.0,
    split: str = "val",
) -> float:
    """Record generated scores of a run under `eval/NAME/`; return their mIoU in percent."""
    scores, identifiers, groups = _scores(trial, ability, FEW)
    tags = {
        "protocol": protocol_tag(config),
        "data": trial.dataset.manifest.fingerprint,
        "split": split,
        "code": trial.code,
    }
    classes = [entry.name for entry in trial.dataset.manifest.classes]
    with tempfile.TemporaryDirectory() as directory:
        assert scores.images is not None
        path = Path(directory) / "counts.arrow"
        write_counts(path, scores.images, identifiers, classes, groups)
        store = TrackingStore(tracking_uri(storage), None)
        log_evaluation(store, run_id, name, scores.metrics(classes), tags, Path(directory))
    return 100 * scores.miou


def _scores(
    trial: ResolvedTrial, ability: float, cities: dict[str, int], lacks: Sequence[int] = ()
) -> tuple[Scores, list[str], list[str | None]]:
    """Return generated scores with a matching confusion matrix, and the images' IDs and groups."""
    fold = trial.experiment.data.fold
    # The same for all trials, or for all of the same fold.
    image_rng = np.random.default_rng(0 if fold is None else [0, fold])
    seed = trial.experiment.seed
    trial_rng = np.random.default_rng([seed, *trial.name.encode()])
    classes = len(trial.dataset.manifest.classes)
    groups = [city for city, count in cities.items() for _ in range(count)]
    easiness = {city: image_rng.normal(0, 0.2) for city in cities}
    count = len(groups)
    level = np.array([easiness[city] for city in groups])[:, None] + image_rng.normal(
        0, 0.4, (count, 1)
    )
    level = level + image_rng.normal(0, 0.6, classes) + ability + trial_rng.normal(0, 0.02)
    level = level + trial_rng.normal(0, 0.05, classes) + trial_rng.normal(0, 0.15, (count, classes))
    pixels = image_rng.integers(0, 4000, (count, classes)) * (
        image_rng.random((count, classes)) < 0.8
    )
    pixels[:, list(lacks)] = 0
    true = trial_rng.binomial(pixels, 1 / (1 + np.exp(-level)))
    missed = pixels - true
    taken = np.roll(missed, 1, axis=1)
    values = torch.from_numpy(np.stack([true, taken, missed], axis=-1))
    confusion = torch.diag(values[..., 0].sum(0))
    confusion += torch.diag(values[:, :-1, 2].sum(0), 1)
    confusion[-1, 0] += values[:, -1, 2].sum()
    part = "" if fold is None else f"{fold}_"
    identifiers = [f"{city}_{part}{index:06d}" for index, city in enumerate(groups)]
    measured = tuple(
        Measured(each.key, each.metric, 1 + trial_rng.random((count, each.length)))
        for each in build_metrics(trial.experiment.evaluation.metric_configs, classes)
    )
    scores = Scores(confusion, ImageCounts(torch.arange(count), values), measured)
    return scores, identifiers, [*groups]


def _log_history(
    study_run: StudyRun, run_id: str, trial: ResolvedTrial, scores: Scores, to_the_end: bool
) -> None:
    epochs = trial.experiment.training.epochs
    trial_rng = np.random.default_rng([7, *trial.name.encode()])
    best = 0.0
    names = [entry.name for entry in trial.dataset.manifest.classes]
    for epoch in range(1, (epochs if to_the_end else max(1, epochs // 3)) + 1):
        part = epoch / epochs
        miou = scores.miou * (1 - 0.5 * np.exp(-5 * part)) + trial_rng.normal(0, 0.008) * (1 - part)
        main_loss = 0.25 + 1.5 * np.exp(-4 * part) + abs(trial_rng.normal(0, 0.03))
        heads = len(trial.experiment.model.supervision)
        metrics = {"train/loss": main_loss * (1 + heads)}
        if heads:
            metrics["train/loss/main"] = main_loss
        scores_of_epoch = scores.metrics(names) if epoch == epochs else {"miou": miou}
        best = max(best, scores_of_epoch["miou"])
        metrics |= {f"val/{name}": value for name, value in scores_of_epoch.items()}
        metrics |= {"val/best_miou": best, "learning_rate": 0.01 * (1 - part) + 1e-5}
        metrics |= {"images_per_second": 21.0 + trial_rng.normal(0, 0.4), "memory_gib": 9.7}
        metrics["trial/seconds"] = epoch * 2975 / 21
        study_run.log_epoch(run_id, epoch, metrics)


def main(directory: Path) -> None:
    """Make the example study under `directory`, with one failed and one missing trial."""
    directory.mkdir(parents=True)
    dataset = directory / "streets"
    prepare_streets(dataset, train=14, val=5, size=(32, 64))
    study = directory / "study.yaml"
    study.write_text(STUDY.replace("DATASET", str(dataset)))
    fates = {"strong+sf, resnet50, seed 1": "FAILED", "strong+df+sf, resnet50, seed 2": "missing"}
    storage = directory / "storage"
    fabricate(load_study(study), storage, fates, CITIES)
    print(f"python -m orchestrator.report {study} --storage {storage}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
