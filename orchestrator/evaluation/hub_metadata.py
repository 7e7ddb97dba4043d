"""The metadata of a model card, as a Hugging Face hub reads them.

See https://huggingface.co/docs/hub/model-cards for their names.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from orchestrator.evaluation.recorded_scores import RecordedScores
from orchestrator.evaluation.trained_model import TrainedModel
from pipelines.evaluation.config import COUNTED

# Names of published data sets on the hub. Others may be private, or unknown there.
_ON_THE_HUB = {"cityscapes": "cityscapes", "ade20k": "scene_parse_150"}
TITLES = {
    "miou": "mIoU",
    "dice": "Dice",
    "pixel_accuracy": "Pixel accuracy",
    "mean_accuracy": "Mean accuracy",
    "frequency_weighted_iou": "Frequency-weighted IoU",
}
_HUB_METRICS = {"miou": "mean_iou", "pixel_accuracy": "accuracy"}


def hub_metadata(
    model: TrainedModel,
    scores: Sequence[RecordedScores],
    name: str,
    license: str | None,
    formats: Collection[str],
) -> dict[str, Any]:
    """Return the metadata of the card. name, license: see `CardOptions`; formats: of the files."""
    dataset = model.class_list.dataset
    tags = ["semantic-segmentation", "pytorch"] + ["onnx"] * ("onnx" in formats)
    metadata: dict[str, Any] = {
        "library_name": "segmentation-orchestrator",
        "pipeline_tag": "image-segmentation",
        "tags": tags,
    }
    if license is not None:
        metadata["license"] = license
    if dataset in _ON_THE_HUB:
        metadata["datasets"] = [_ON_THE_HUB[dataset]]
    results = [_result(model, each) for each in scores if each.overall]
    if results:
        metadata["model-index"] = [{"name": name, "results": results}]
    return metadata


def _result(model: TrainedModel, scores: RecordedScores) -> dict[str, Any]:
    name = dataset_name(model, scores)
    described: dict[str, Any] = {
        "name": name,
        "type": _ON_THE_HUB.get(name, name),
        "split": scores.split,
    }
    if scores.name:
        described["config"] = scores.name
    described["args"] = {"fingerprint": scores.fingerprint, "protocol": scores.protocol}
    if scores.images is not None:
        described["args"]["images"] = scores.images
    return {
        "task": {"type": "image-segmentation", "name": "Semantic segmentation"},
        "dataset": described,
        "metrics": [
            {"type": _HUB_METRICS.get(key, key), "value": value, "name": TITLES.get(key, key)}
            for key, value in ordered(scores.overall)
        ],
    }


def ordered(metrics: Mapping[str, float]) -> list[tuple[str, float]]:
    """Return the metrics from pixel counts in their usual order, then the others."""
    keys = [*(key for key in COUNTED if key in metrics), *sorted(metrics.keys() - {*COUNTED})]
    return [(key, metrics[key]) for key in keys]


def dataset_name(model: TrainedModel, scores: RecordedScores) -> str:
    """Return the name of the data set of a score; a part of its fingerprint if it is another."""
    classes = model.class_list
    return classes.dataset if scores.fingerprint == classes.fingerprint else scores.fingerprint[:12]
