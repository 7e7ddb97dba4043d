"""The work of `orchestrator.figures`: draw what trained models predict and compute."""

import argparse
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress

from models import FENet
from orchestrator.console import InputError, progress, say
from orchestrator.evaluation.extract_features import extract_features
from orchestrator.evaluation.options import (
    FORMATS,
    inference_settings,
    storage_of,
)
from orchestrator.evaluation.records import CHECKPOINTS, is_current
from orchestrator.evaluation.trained_model import (
    ModelError,
    TrainedModel,
    check_images,
    load_model,
    store_for_model,
    to_device,
)
from orchestrator.tracking.store import TrackingError, TrackingStore
from pipelines.data.dataset import PreparedDataset, Split, open_dataset
from pipelines.data.loading import EvaluationBatches
from pipelines.evaluation.config import EvaluationConfig, InferenceConfig
from pipelines.evaluation.counts import Counts, read_counts
from pipelines.evaluation.evaluate import count_pixels
from pipelines.evaluation.image_selection import image_gains, most_different
from pipelines.evaluation.inference import predict_image
from pipelines.figures.comparison import ComparedImage, draw_comparison
from pipelines.figures.features import draw_features
from pipelines.network.precision import Numerics
from pipelines.preparation.embedded import dataset_location

_BATCH = 4


def _compare(options: argparse.Namespace, console: Console) -> int:
    outputs = _outputs(options.out or ["comparison.png"])
    config = InferenceConfig(**inference_settings(options))
    dataset, split = _open_split(options)
    drawn: list[TrainedModel] = []
    stores: list[TrackingStore | None] = []
    scored: list[list[Counts]] = []
    with progress(console) as bar:
        for names in ((options.a, *options.seed_of_a), (options.b, *options.seed_of_b)):
            scored.append([])
            for name in names:
                store = store_for_model(name, storage_of(options).local)
                model = load_model(name, store, options.imports)
                _check_classes(model, dataset)
                counts = _recorded_counts(model, store, dataset, options.split, config)
                if counts is None:
                    counts = _predicted_counts(model, split, to_device(model), config, bar)
                if not scored[-1]:  # the first of each side is drawn
                    drawn.append(model)
                    stores.append(store)
                scored[-1].append(counts)
        numerics = [to_device(model) for model in drawn]
        gains = image_gains(scored[0], scored[1])
        if options.image:
            chosen = _positions(split, options.image)
        else:
            chosen = most_different(gains, options.images, scored[0][0].groups)
        by_image = [[counts.image_miou for counts in side] for side in scored]
        has_seeds = max(len(side) for side in scored) > 1
        rows = []
        for position in bar.track(chosen, description="images drawn"):
            image, label = split.read(position)
            predictions = [
                predict_image(
                    model.network, torch.tensor(image), each, config, model.image_format
                ).numpy()
                for model, each in zip(drawn, numerics, strict=True)
            ]
            mious = [[float(each[position]) for each in side] for side in by_image]
            rows.append(
                ComparedImage(
                    split.identifiers[position],
                    split.image_format.drawn(image),
                    label,
                    predictions[0],
                    predictions[1],
                    (mious[0][0], mious[1][0]),
                    (fmean(mious[0]), fmean(mious[1])) if has_seeds else None,
                )
            )
        labels = options.names or [
            _label(model, store) for model, store in zip(drawn, stores, strict=True)
        ]
        notes = [_score_note(side) for side in scored]
        better = int((gains > 0).sum())
        worse = int((gains < 0).sum())
        mean = _mean_of_seeds(scored)
        if options.image:
            selection = "selected images"
        elif better or worse:
            selection = "images where the mIoU differs most"
        else:
            selection = "images at equal distances, since the mIoU differs on none"
        title = (
            f"{dataset.manifest.name} {options.split}: {selection}"
            f"{mean and f', by the {mean}'}; predictions of {_seeds_drawn(drawn)}\n"
            f'"{labels[1]}" has the higher mIoU{mean and f", {mean},"} on {better} of {len(split)} '
            f'images, "{labels[0]}" on {worse}'
        )
        draw_comparison(
            outputs,
            rows,
            dataset.manifest.classes,
            (labels[0], labels[1]),
            (notes[0], notes[1]),
            title,
        )
    for row in rows:
        first, second = row.mious
        say(console, f"{row.identifier}: mIoU {100 * first:.1f} -> {100 * second:.1f}")
    say(console, f"written: {', '.join(map(str, outputs))}")
    return 0


def _features(options: argparse.Namespace, console: Console) -> int:
    outputs = _outputs(options.out or ["features.png"])
    dataset, split = _open_split(options)
    store = store_for_model(options.model, storage_of(options).local)
    model = load_model(options.model, store, options.imports)
    _check_classes(model, dataset)
    network = model.network
    if not isinstance(network, FENet) or not network.config.flows:
        kind = f"{type(network).__name__} without flows"
        raise ModelError(f"{model.name} is a {kind}; choose a FENet with flows")
    levels = network.backbone.strides
    if not 1 <= options.level <= len(levels):
        raise InputError(f"--level must be from 1 to {len(levels)}, received {options.level}")
    numerics = to_device(model)
    if options.image:
        chosen = _positions(split, options.image)
    else:
        evenly_spaced = np.linspace(0, len(split) - 1, min(options.images, len(split)))
        chosen = [int(position) for position in evenly_spaced.round()]
    with progress(console) as bar:
        rows = [
            extract_features(
                network,
                split.identifiers[position],
                split.read(position)[0],
                options.level,
                numerics,
                model.image_format,
            )
            for position in bar.track(chosen, description="images drawn")
        ]
    label = options.name or _label(model, store)
    title = f"{label} on {dataset.manifest.name} {options.split}: features before and after flows"
    stride = levels[options.level - 1]
    draw_features(outputs, rows, dataset.manifest.classes, stride, title)
    say(console, f"written: {', '.join(map(str, outputs))}")
    return 0


def _outputs(names: Sequence[str]) -> list[Path]:
    paths = [Path(name).expanduser() for name in names]
    for path in paths:
        if path.suffix.lower() not in FORMATS:
            raise InputError(f"--out {path}: must end in one of {', '.join(FORMATS)}")
        path.parent.mkdir(parents=True, exist_ok=True)
    return paths


def _open_split(options: argparse.Namespace) -> tuple[PreparedDataset, Split]:
    if options.images < 1:
        raise InputError(f"--images must be at least 1, received {options.images}")
    location = dataset_location(options.dataset, storage_of(options).at("datasets"))
    dataset = open_dataset(location)
    return dataset, dataset.split(options.split)


def _positions(split: Split, identifiers: Sequence[str]) -> list[int]:
    for identifier in identifiers:
        if identifier not in split.identifiers:
            examples = ", ".join(split.identifiers[:3])
            raise InputError(
                f"--image {identifier} is not in split {split.name!r}, which has {examples}, ..."
            )
    return [split.identifiers.index(identifier) for identifier in identifiers]


def _check_classes(model: TrainedModel, dataset: PreparedDataset) -> None:
    names = [entry.name for entry in dataset.manifest.classes]
    if names != model.class_names:
        raise ModelError(
            f"{model.name} predicts {len(model.class_names)} classes "
            f"({', '.join(model.class_names[:3])}, ...), but data set {dataset.manifest.name} "
            f"has {len(names)} ({', '.join(names[:3])}, ...)"
        )
    check_images(model, dataset)


def _recorded_counts(
    model: TrainedModel,
    store: TrackingStore | None,
    dataset: PreparedDataset,
    split: str,
    config: InferenceConfig,
) -> Counts | None:
    """Return the counts in the run's artifacts if it was scored on this split and data with this
    config, during its training or later."""
    experiment, fingerprint = model.experiment, dataset.manifest.fingerprint
    if store is None or model.run_id is None or model.checkpoint == "best":
        return None
    files = [
        f"eval/{name}/counts.arrow"
        for name, tags in store.evaluations(model.run_id).items()
        if tags.get("checkpoint") != CHECKPOINTS["best"]
        and is_current(tags, config, fingerprint, split)
    ]
    if (
        model.class_list.fingerprint == fingerprint
        and experiment.data.validation_split == split
        and experiment.evaluation.protocol == config.protocol
    ):
        files.insert(0, "counts.arrow")
    with tempfile.TemporaryDirectory(prefix="counts-") as folder:
        for file in files:
            with suppress(TrackingError, ValueError):
                return read_counts(store.download(f"runs:/{model.run_id}/{file}", Path(folder)))
    return None


def _predicted_counts(
    model: TrainedModel,
    split: Split,
    numerics: Numerics,
    config: InferenceConfig,
    bar: Progress,
) -> Counts:
    """Predict the whole split and return its counts."""
    settings = EvaluationConfig(
        config.scales, config.flip, config.window, config.stride, batch=_BATCH
    )
    task = bar.add_task(f"images scored with {model.name}", total=len(split))
    state = count_pixels(
        model.network,
        EvaluationBatches(split, _BATCH),
        len(model.class_names),
        numerics,
        settings,
        lambda images: bar.advance(task, images),
        model.image_format,
    )
    images = state.scores().images
    assert images is not None, "the images were counted"
    return Counts(
        tuple(split.identifiers),
        tuple(split.groups),
        tuple(model.class_names),
        images.counts.numpy(),
    )


def _score_note(scored: Sequence[Counts]) -> str:
    """Return the mIoU of a model, the mean over its seeds as in a study's table."""
    miou = 100 * fmean(counts.miou for counts in scored)
    return f"mIoU {miou:.1f}" + (f", mean of {len(scored)} seeds" if len(scored) > 1 else "")


def _mean_of_seeds(scored: Sequence[Sequence[Counts]]) -> str:
    """Return `mean of N seeds`, for the title; empty if both models have one seed."""
    numbers = dict.fromkeys(len(side) for side in scored)
    seeds = " and ".join(str(number) for number in numbers)
    return f"mean of {seeds} seeds" if max(numbers) > 1 else ""


def _seeds_drawn(drawn: Sequence[TrainedModel]) -> str:
    """Return the seeds of the models, for the title."""
    seeds = dict.fromkeys(model.experiment.seed for model in drawn)
    return f"seed{'s' * (len(seeds) > 1)} {' and '.join(map(str, seeds))}"


def _label(model: TrainedModel, store: TrackingStore | None) -> str:
    """Return the name of the model's run or directory."""
    if store is not None and model.run_id is not None:
        return store.run_name(model.run_id)
    return Path(model.name).name


# By the name of the subcommand.
FIGURES = {"compare": _compare, "features": _features}
