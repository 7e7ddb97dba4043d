"""Trained models in MLflow: one for each trial, and the best of a study under a registered name."""

import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import mlflow.pyfunc
import numpy as np
from mlflow.entities import LoggedModelOutput, Metric, Run
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.types import DataType, ParamSchema, ParamSpec, Schema, TensorSpec

from orchestrator.study.resolved import ResolvedTrial
from orchestrator.tracking import pyfunc_loader
from orchestrator.tracking import tags as tag
from orchestrator.tracking.datasets import DatasetKey
from orchestrator.tracking.model_package import Package, package
from orchestrator.tracking.store import TrackingStore
from orchestrator.tracking.user_uri import global_uri
from pipelines.data.image_format import Pixels
from pipelines.data.manifest import ClassInfo
from pipelines.model_directory import write_model_directory
from pipelines.serving import OUTPUTS
from pipelines.training.lineage import WEIGHTS, check_lineage, lineage

MODEL = "model"

_BEST = "best"

_LABEL_SPEC = TensorSpec(np.dtype(np.uint8), (-1, -1))

_MEASURED = ("train/", "val/")  # prefixes of metrics that depend on the data set

# The best score belongs to another checkpoint.
_NOT_OF_MODEL = ("val/best_miou", "val/seconds")

_EXAMPLE_SIZE = 64  # maximum length of an example's longer side, in pixels


def log_model(
    store: TrackingStore,
    run_id: str,
    directory: Path,
    package: Package,
    example: np.ndarray,
    classes: Sequence[ClassInfo],
    tags: Mapping[str, str],
    step: int,
    dataset: DatasetKey,
) -> None:
    """Record the model `directory` as the model of a run: `runs:/ID/model`.

    `mlflow.pyfunc.load_model` loads it as a predictor of label maps wherever the libraries of
    `package` are installed. example: an image, `(height, width, channels)`. classes: those that
    it predicts. tags: shown with the model. step: the model's epoch. dataset: the one it was
    trained and scored on.

    The model has the run's parameters and the run's current metrics that describe it.
    """
    client = store.client
    run = client.get_run(run_id)
    experiment_id = run.info.experiment_id
    labels = {f"{tag.PREFIX}{name}": value for name, value in tags.items()}
    model = client.create_logged_model(
        experiment_id,
        name=MODEL,
        source_run_id=run_id,
        tags=labels,
        params=run.data.params,
        model_type="segmentation",
    )
    (directory / pyfunc_loader.SOURCES).write_bytes(package.sources)
    params = ParamSchema([ParamSpec("output", DataType.string, OUTPUTS[0])])
    image_spec = TensorSpec(example.dtype, (-1, -1, example.shape[2]))
    signature = ModelSignature(Schema([image_spec]), Schema([_LABEL_SPEC]), params)
    # Turns off MLflow's input check, which would reject a list of images; the model checks itself.
    signature._is_signature_from_type_hint = True
    with tempfile.TemporaryDirectory(prefix="model-") as temporary:
        saved = Path(temporary) / MODEL
        mlflow.pyfunc.save_model(
            str(saved),
            loader_module=pyfunc_loader.__name__.rpartition(".")[2],
            data_path=str(directory),
            code_paths=[pyfunc_loader.__file__],
            pip_requirements=[f"mlflow=={mlflow.__version__}", *package.requirements],
            signature=signature,
            input_example=example,
            metadata={
                **tags,
                "classes": [entry.name for entry in classes],
                "palette": [list(entry.color) for entry in classes],
            },
            mlflow_model=Model(
                artifact_path=model.artifact_location,
                run_id=run_id,
                model_uuid=model.model_id,
                model_id=model.model_id,
            ),
        )
        client.log_model_artifacts(model.model_id, str(saved))
    store.log_metric_entries(run_id, _model_metrics(run, model.model_id, dataset))
    client.finalize_logged_model(model.model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=step)])


def _model_metrics(run: Run, model_id: str, dataset: DatasetKey) -> list[Metric]:
    """Return the run's current loss, scores and cost as metrics of its model.

    They repeat the run's entries with step and time, because MLflow records the metrics of a model
    with its run too, but not an entry that is already there.
    """
    return [
        Metric(
            entry.key,
            entry.value,
            entry.timestamp,
            entry.step,
            model_id,
            *((dataset.name, dataset.digest) if entry.key.startswith(_MEASURED) else ()),
        )
        for entry in run.data.to_proto().metrics
        if entry.key.startswith((*_MEASURED, "model/")) and entry.key not in _NOT_OF_MODEL
    ]


def register_best(store: TrackingStore, study: str, run_id: str) -> str | None:
    """Register the model of a run as `models:/STUDY@best`; return that name.

    Nothing is registered again if the name already refers to this run. Returns None if the run
    holds no model.
    """
    client = store.client
    model_id = store.model_id(run_id)
    if model_id is None:
        return None
    # Registered names must not contain the separators of model URIs.
    name = re.sub(r"[/:]+", "-", study)
    uri = f"models:/{name}@{_BEST}"
    current = _current_best(store, name)
    if current is not None and current.run_id == run_id:
        return uri
    model = client.get_logged_model(model_id)
    if current is None and not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name, description=f"Models of the study {study}.")
    tags = {key: value for key, value in model.tags.items() if key.startswith(tag.PREFIX)}
    with global_uri(store.tracking_uri):  # MLflow looks for the model only there
        version = client.create_model_version(
            name, f"models:/{model.model_id}", run_id, tags=tags, model_id=model.model_id
        )
    client.set_registered_model_alias(name, _BEST, version.version)
    return uri


def _current_best(store: TrackingStore, name: str) -> ModelVersion | None:
    try:
        return store.client.get_model_version_by_alias(name, _BEST)
    except MlflowException:
        return None


def log_models(
    store: TrackingStore,
    run_id: str,
    trial: ResolvedTrial,
    imports: Sequence[str],
    last: Path,
    best: Path | None,
    metrics: Mapping[str, float],
) -> None:
    """Record the checkpoint directories of a trial: `last` as the run's model, `best` as artifacts.

    The table shows the score of the last checkpoint, so that is what other programs load. best:
    None for a trial without validation. metrics: of the last epoch, which the run already has.

    Raises CheckpointError if a checkpoint's experiment, data or weights are not the trial's.
    """
    experiment, manifest = trial.experiment, trial.dataset.manifest
    digests = dict(zip(WEIGHTS, trial.digests, strict=True))
    for checkpoint in filter(None, (last, best)):
        check_lineage(checkpoint, lineage(experiment, manifest.fingerprint, digests))
    with tempfile.TemporaryDirectory(prefix="models-") as temporary:
        directory = Path(temporary) / "last"
        write_model_directory(directory, last, experiment, manifest)
        tags = {
            "data": manifest.fingerprint,
            "protocol": experiment.evaluation.protocol,
            "checkpoint": "last",
            "code": trial.code,
            "variant": trial.variant,
            "seed": str(experiment.seed),
        }
        if experiment.data.fold is not None:
            tags["fold"] = str(experiment.data.fold)
        if "val/miou" in metrics:
            tags["miou"] = f"{metrics['val/miou']:.6f}"
        log_model(
            store,
            run_id,
            directory,
            package(experiment, imports),
            _example(trial),
            manifest.classes,
            tags,
            step=int(metrics["epoch"]),
            dataset=DatasetKey.of(trial.dataset),
        )
        if best is not None:
            directory = Path(temporary) / "best"
            write_model_directory(directory, best, experiment, manifest)
            store.log_artifact(run_id, directory, "best")


def _example(trial: ResolvedTrial) -> Pixels:
    """Return the first training image, subsampled to sides that are multiples of 32, because MLflow
    stores examples as text."""
    image, _ = trial.dataset.split(trial.experiment.data.trained_on).read(0)
    step = -(-max(image.shape[:2]) // _EXAMPLE_SIZE)
    small: Pixels = image[::step, ::step]
    height, width = (max(32, length // 32 * 32) for length in small.shape[:2])
    return np.ascontiguousarray(small[:height, :width])
