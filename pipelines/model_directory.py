"""A model directory: `experiment.yaml`, `classes.yaml` and the weights as safetensors.

MODEL on the command line names one, every checkpoint of a run is one, and a model in MLflow
contains one. Nothing in it is ever unpickled.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

from pipelines.config import dump_yaml
from pipelines.data.image_format import RGB, ImageFormat
from pipelines.data.manifest import ClassInfo, Manifest
from pipelines.network.file_names import WEIGHTS_FILE
from pipelines.serving import CLASSES_FILE, EXPERIMENT_FILE
from pipelines.training.experiment import Experiment


@dataclass(frozen=True)
class ClassList:
    """`classes.yaml`: the classes that a model predicts, the data set it was trained on, and the
    format of its images, which is left out for 8-bit RGB."""

    __pydantic_config__ = {"extra": "forbid"}

    dataset: str
    fingerprint: str
    ignore_index: int
    classes: tuple[ClassInfo, ...]
    images: ImageFormat = RGB


def metadata_files(experiment: Experiment, manifest: Manifest) -> dict[str, str]:
    """Return the files of a model directory other than the weights: file name to text."""
    learned = ClassList(
        manifest.name,
        manifest.fingerprint,
        manifest.ignore_index,
        manifest.classes,
        manifest.images,
    )
    return file_texts(experiment, learned)


def file_texts(experiment: Experiment, class_list: ClassList) -> dict[str, str]:
    """Return the same files of a model that has been loaded: file name to text."""
    described = asdict(class_list)
    if class_list.images == RGB:
        del described["images"]
    return {EXPERIMENT_FILE: dump_yaml(asdict(experiment)), CLASSES_FILE: dump_yaml(described)}


def write_model_directory(
    directory: Path, checkpoint: Path, experiment: Experiment, manifest: Manifest
) -> None:
    """Write a model directory that links to the weights of `checkpoint`.

    manifest: of the data set that the model was trained on.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in metadata_files(experiment, manifest).items():
        (directory / name).write_text(text, encoding="utf-8")
    (directory / WEIGHTS_FILE).symlink_to(checkpoint.resolve() / WEIGHTS_FILE)
