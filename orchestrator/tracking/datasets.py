"""Prepared data sets in MLflow: the inputs of runs, and what the metrics of models refer to."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlflow.entities import Dataset, DatasetInput, InputTag
from mlflow.types import ColSpec, DataType, Schema
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

if TYPE_CHECKING:
    from pipelines.data.dataset import PreparedDataset


_DIGEST_LENGTH = 16  # MLflow accepts 36 characters; a fingerprint has 64

# The columns of the shards that hold samples; the others are derived from them.
_SCHEMA = Schema(
    [
        ColSpec(DataType.string, "identifier"),
        ColSpec(DataType.string, "split"),
        ColSpec(DataType.string, "group", required=False),
        ColSpec(DataType.binary, "image"),
        ColSpec(DataType.binary, "label", required=False),
        ColSpec(DataType.long, "height"),
        ColSpec(DataType.long, "width"),
    ]
)


@dataclass(frozen=True)
class DatasetKey:
    """What identifies a data set in MLflow. digest: the start of its fingerprint."""

    name: str
    digest: str

    @staticmethod
    def of(dataset: "PreparedDataset") -> "DatasetKey":
        """Return the key of a prepared data set."""
        manifest = dataset.manifest
        return DatasetKey(manifest.name, manifest.fingerprint[:_DIGEST_LENGTH])


def dataset_input(dataset: "PreparedDataset", splits: Iterable[str | None]) -> DatasetInput:
    """Return a data set as a run's input. splits: the ones that the run uses; None is left out."""
    key, manifest, location = DatasetKey.of(dataset), dataset.manifest, dataset.location
    uri = location.path if location.is_local else location.uri
    profile = {
        "images": dict(manifest.counts),
        "classes": [entry.name for entry in manifest.classes],
        "class_frequencies": [round(share, 6) for share in manifest.class_frequencies],
        "ignored_pixels": manifest.ignored_pixels,
        "fingerprint": manifest.fingerprint,
    }
    scheme, separator, _ = uri.partition("://")
    entity = Dataset(
        key.name,
        key.digest,
        source_type=scheme if separator else "local",
        source=json.dumps({"uri": uri}),
        schema=json.dumps({"mlflow_colspec": _SCHEMA.to_dict()}),
        profile=json.dumps(profile),
    )
    context = ", ".join(split for split in splits if split is not None)
    return DatasetInput(entity, [InputTag(MLFLOW_DATASET_CONTEXT, context)])
