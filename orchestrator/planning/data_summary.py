"""Prints what a study's command says about its data before it trains."""

from collections.abc import Sequence
from dataclasses import replace

from rich.console import Console
from rich.text import Text

from orchestrator.study.resolved import ResolvedTrial
from orchestrator.study.study import Study
from pipelines.data.dataset import PreparedDataset
from pipelines.data.facts import (
    augmentation_warnings,
    sampling_warnings,
    summary,
    training_warnings,
)
from pipelines.data.split_names import FoldName, parse_fold
from pipelines.model_directory import initial_class_warnings
from pipelines.training.loss_division import division_warnings


def show_data(study: Study, trials: Sequence[ResolvedTrial], console: Console) -> None:
    """Print the classes and ignored pixels of each split that is used, and warnings about them,
    about the batches and their division, and about initial weights."""
    lines: dict[str, Text] = {}
    used, sampled, initial = {}, {}, {}
    others: list[str] = []
    for trial in trials:
        data = trial.experiment.data
        scored = tuple(study.config.scored_splits(data.validation_split))
        used[data.dataset, data.trained_on, scored] = trial.dataset
        training = trial.experiment.training
        sampled[data.dataset, data.trained_on, training.batch, data.crop] = trial.dataset
        if trial.init is not None:
            initial[trial.init, training.init_skip, data.dataset] = trial.dataset
        workers = study.config.resources.most_workers
        others += division_warnings(training.loss, training.accumulation, workers)
        for line in augmentation_warnings(trial.dataset.manifest.images, data.augmentation):
            others.append(f"{data.dataset} {line}")

    def warn(text: str) -> None:
        lines.setdefault(text, Text.assemble(("warning", "yellow"), f"  {text}"))

    for (name, train, scored), dataset in used.items():
        divided = [fold for split in (train, *scored) if (fold := parse_fold(split))]
        whole = [fold.split for fold in divided]
        undivided = [split for split in (train, *scored) if parse_fold(split) is None]
        shown = summary(dataset, list(dict.fromkeys([*whole, *undivided])))
        for line in (*shown, *(_folds_text(dataset, fold) for fold in divided)):
            text = f"{name} {line}"
            lines.setdefault(text, Text(text, "dim"))
        for line in training_warnings(dataset, train, scored):
            warn(f"{name} {line}")
    for (name, train, batch, crop), dataset in sampled.items():
        for line in sampling_warnings(dataset, train, batch, crop):
            warn(f"{name} {line}")
    for (weights, skip, name), dataset in initial.items():
        for line in initial_class_warnings(weights, skip, dataset.manifest):
            warn(f"{name} {line}")
    for text in others:
        warn(text)
    for styled in lines.values():
        console.print(styled, highlight=False, soft_wrap=True)


def _folds_text(dataset: PreparedDataset, fold: FoldName) -> str:
    """Return the number and sizes of the folds of a split."""
    folds = [replace(fold, index=index, held_out=True) for index in range(fold.count)]
    sizes = [len(dataset.split(str(each))) for each in folds]
    low, high = min(sizes), max(sizes)
    size = f"{low}" if low == high else f"{low} to {high}"
    groups = set(dataset.split(fold.split).groups) - {None}
    grouped = bool(groups) and fold.by == "group"
    whole = f"; each of its {len(groups)} groups is whole in one of them" if grouped else ""
    return f"{fold.split}: {fold.count} folds of {size} images{whole}"
