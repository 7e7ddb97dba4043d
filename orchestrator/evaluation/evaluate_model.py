"""The work of `orchestrator.evaluate`: score a trained model on a data set."""

import argparse
import csv
import hashlib
import io
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from orchestrator.cluster.address import check_address
from orchestrator.console import InputError, progress, say
from orchestrator.evaluation.options import inference_settings, storage_of
from orchestrator.evaluation.records import CHECKPOINTS, log_scores
from orchestrator.evaluation.trained_model import (
    ModelError,
    TrainedModel,
    check_images,
    load_model,
    store_for_model,
    to_device,
)
from orchestrator.study.report_options import SCORE_LABELS
from orchestrator.tracking.store import TrackingError
from pipelines.command import EXIT_FAILED
from pipelines.config import ConfigurationError, configure, load_yaml
from pipelines.data.config import DataConfig
from pipelines.data.dataset import PreparedDataset, open_dataset
from pipelines.data.facts import check_labeled
from pipelines.data.loading import EvaluationBatches
from pipelines.data.split_names import splits_overlap
from pipelines.evaluation.config import EvaluationConfig, MetricConfig, metric_configs
from pipelines.evaluation.evaluate import count_pixels
from pipelines.evaluation.scores import Scores
from pipelines.preparation.embedded import dataset_location


def evaluate_model(options: argparse.Namespace, console: Console) -> int:
    """Score the model and print the scores; return the command's exit status."""
    if options.batch < 1:
        raise InputError(f"--batch must be at least 1, received {options.batch}")
    if options.address is not None:
        check_address(options.address)
    config = _evaluation_config(options)
    storage = storage_of(options)
    store = store_for_model(options.model, storage.local)
    model = load_model(options.model, store, options.imports, to_record=True)
    location = dataset_location(options.dataset, storage.at("datasets"))
    if Path(location).exists():
        location = str(Path(location).resolve())  # a cluster's processes run in other directories
    dataset = open_dataset(location)
    _check_classes(model, dataset, options.dataset)
    check_images(model, dataset)
    split_name = options.split or _default_split(model, dataset)
    check_labeled(dataset, split_name, "choose a labeled split with --split")
    split = dataset.split(split_name)

    if options.address is None:
        numerics = to_device(model)
        batches = EvaluationBatches(split, config.batch)
        with progress(console) as bar:
            task = bar.add_task("images scored", total=len(split))
            state = count_pixels(
                model.network,
                batches,
                len(model.class_names),
                numerics,
                config,
                lambda images: bar.advance(task, images),
                model.image_format,
            )
    else:
        # Ray takes seconds to import.
        from orchestrator.evaluation.scoring import DatasetRef, count_on_cluster

        reference = DatasetRef(location, dataset.manifest.fingerprint, split_name)
        with progress(console) as bar:
            state = count_on_cluster(options.address, model, reference, config, bar)
    scores = state.scores()

    notes = _notes(model, dataset, split_name)
    if options.json or options.csv:
        description = {
            "model": model.name,
            "checkpoint": model.checkpoint,
            "dataset": dataset.manifest.name,
            "fingerprint": dataset.manifest.fingerprint,
            "split": split_name,
            "images": len(split),
            "protocol": config.protocol,
            "notes": notes,
        }
        values = _values(scores, model.class_names)
        sys.stdout.write((_as_json if options.json else _as_csv)(description, values))
        sys.stdout.flush()
    else:
        say(
            console,
            f"{model.name} (checkpoint: {CHECKPOINTS[model.checkpoint]})\n"
            f"on {dataset.manifest.name} {split_name}, {len(split)} images, "
            f"protocol {config.protocol}",
        )
        console.print(_table(scores, model.class_names))
    for note in notes:
        say(console, f"  {note}")
    if store is None or model.run_id is None:
        say(console, "not logged: MODEL does not belong to a run")
        return 0
    name = evaluation_name(dataset, split_name, model.checkpoint, config)
    try:
        with store.readable_write_errors():
            log_scores(store, model, name, scores, dataset, split_name, config)
    except TrackingError as error:
        say(console, f"not logged: {error}")
        return EXIT_FAILED
    say(console, f"logged to run {model.run_id} under eval/{name}/")
    return 0


def _evaluation_config(options: argparse.Namespace) -> EvaluationConfig:
    """Return the settings of the evaluation. Raises InputError if they are not valid."""
    settings = inference_settings(options)
    try:
        metrics = metric_configs(tuple(_metric_config(text) for text in options.metrics))
    except ConfigurationError as error:
        raise InputError(str(error)) from None
    except (ValueError, yaml.YAMLError) as error:
        raise InputError(f"--metric: {error}") from None
    try:
        return EvaluationConfig(**settings, batch=options.batch, metrics=metrics)
    except ValueError as error:
        raise InputError(f"--metric: {error}") from None


def _metric_config(text: str) -> MetricConfig:
    value = load_yaml(text)
    values = value if isinstance(value, dict) else {"name": value}
    return configure(MetricConfig, values, "--metric")


def evaluation_name(
    dataset: PreparedDataset, split: str, checkpoint: str, config: EvaluationConfig
) -> str:
    """Return the name under which an evaluation is logged, unique to its data, split, checkpoint,
    protocol and metrics."""
    manifest = dataset.manifest
    parts = [
        f"{manifest.name}-{manifest.fingerprint[:8]}",
        split.replace(":", "-"),
        checkpoint,
        config.protocol,
    ]
    parts += [_metric_name(metric) for metric in config.metric_configs]
    return "_".join(parts)


def _metric_name(metric: MetricConfig) -> str:
    """Return a metric's key, with a hash of the settings that it does not tell."""
    is_named = metric.key == metric.name
    if is_named and not metric.arguments:
        return metric.key
    text = json.dumps(metric.arguments if is_named else asdict(metric), sort_keys=True)
    return f"{metric.key}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _check_classes(model: TrainedModel, dataset: PreparedDataset, location: str) -> None:
    names = [entry.name for entry in dataset.manifest.classes]
    if len(names) != len(model.class_names):
        raise ModelError(
            f"{model.name} predicts {len(model.class_names)} classes "
            f"({_shorten(model.class_names)}), but {location} has {len(names)} "
            f"({_shorten(names)}); evaluate on data with the model's classes"
        )


def _shorten(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _default_split(model: TrainedModel, dataset: PreparedDataset) -> str:
    """Return the fold that was held out of the model's training, or `val`."""
    held_out = model.experiment.data.held_out
    same = dataset.manifest.fingerprint == model.class_list.fingerprint
    return str(held_out) if held_out is not None and same else DataConfig.validation_split or ""


def _notes(model: TrainedModel, dataset: PreparedDataset, split: str) -> list[str]:
    """Return caveats about the scores."""
    notes = []
    data = model.experiment.data
    if dataset.manifest.fingerprint == model.class_list.fingerprint:
        if splits_overlap(split, data.trained_on):
            some = "" if data.held_out is None or split == data.trained_on else "some of "
            notes.append(f"the model was trained on {some}these images")
        elif split == data.validation_split and model.checkpoint == "best":
            notes.append("this checkpoint was chosen on these images")
    names = [entry.name for entry in dataset.manifest.classes]
    for index, (own, other) in enumerate(zip(model.class_names, names, strict=True)):
        if own != other:
            notes.append(f"class {index} is {own} in the model and {other} in the data")
    return notes


def _values(scores: Scores, classes: Sequence[str]) -> list[tuple[str, str, float | None]]:
    """Return (metric, class, value) of every score, from 0 to 1; the class is empty for a mean, the
    value None for a class that occurs in no label and no prediction."""
    metrics = scores.metrics(classes)
    return [
        *((name, "", value) for name, value in metrics.items() if "/" not in name),
        *(
            (metric, name, None if math.isnan(value) else value)
            for metric, values in scores.class_scores.items()
            for name, value in zip(classes, values.tolist(), strict=True)
        ),
    ]


def _as_json(description: Mapping[str, Any], values: Sequence[tuple[str, str, Any]]) -> str:
    document: dict[str, Any] = {**description, "scores": {}, "classes": {}}
    for metric, name, value in values:
        scores = document["classes"].setdefault(name, {}) if name else document["scores"]
        scores[metric] = value
    return json.dumps(document, indent=2) + "\n"


def _as_csv(description: Mapping[str, Any], values: Sequence[tuple[str, str, Any]]) -> str:
    """Return one line per value, with the columns that tell the lines of several files apart."""
    names = ("model", "checkpoint", "dataset", "fingerprint", "split", "protocol")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*names, "metric", "class", "value"])
    for value in values:
        writer.writerow([*(description[name] for name in names), *value])
    return text.getvalue()


def _table(scores: Scores, classes: Sequence[str]) -> Table:
    table = Table()
    table.add_column("class")
    percent = {each.key: each.metric.in_percent for each in scores.measured}
    columns = scores.class_scores
    for key in columns:
        unit = " %" if percent.get(key, True) else ""
        table.add_column(f"{SCORE_LABELS.get(key, key)}{unit}", justify="right")
    formats = [_percent if percent.get(key, True) else _plain for key in columns]
    for name, *values in zip(classes, *columns.values(), strict=True):
        table.add_row(name, *(show(value) for show, value in zip(formats, values, strict=True)))
    table.add_section()
    means = [scores.miou, *(each.score for each in scores.measured if each.key in columns)]
    table.add_row("mean", *(show(mean) for show, mean in zip(formats, means, strict=True)))
    table.add_section()
    others = {key: value for key, value in scores.counted.items() if key != "miou"}
    others |= {each.key: each.score for each in scores.measured if each.key not in columns}
    for key, value in others.items():
        show = _percent if percent.get(key, True) else _plain
        table.add_row(SCORE_LABELS.get(key, key), show(value))
    return table


def _plain(value: float) -> str:
    return "absent" if value != value else f"{value:.4g}"


def _percent(value: float | None) -> str:
    return "absent" if value is None or value != value else f"{100 * value:.2f}"
