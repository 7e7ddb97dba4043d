"""A model directory: `experiment.yaml`, `classes.yaml` and the weights as safetensors.

MODEL on the command line names one, every checkpoint of a run is one, and a model in MLflow
contains one. Nothing in it is ever unpickled.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from yaml import YAMLError

from pipelines.config import ConfigurationError, dump_yaml, load_yaml
from pipelines.data.image_format import RGB, ImageFormat
from pipelines.data.manifest import ClassInfo, Manifest
from pipelines.network.file_names import WEIGHTS_FILE
from pipelines.network.init_weights import stored_tensors
from pipelines.network.weight_files import WeightsError, locate_weights, read_bytes
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


def initial_class_warnings(weights: str, skip: Sequence[str], manifest: Manifest) -> list[str]:
    """Return in a sentence which classes of initial weights differ from those of a data set.

    weights: path or URI of a file or directory. skip: patterns of tensors that are not loaded.
    Nothing is returned for weights whose classes are unknown, because they are not in a model
    directory, or for another number of classes, which loading the weights reports; nor if `skip`
    leaves out all classifiers.
    """
    file = locate_weights(weights)
    path, mark, query = file.partition("?") if "://" in file else (file, "", "")
    classes_file = f"{path.rpartition('/')[0] or '.'}/{CLASSES_FILE}{mark}{query}"
    try:
        described = load_yaml(read_bytes(classes_file).decode("utf-8"))
        trained = [str(each["name"]) for each in described["classes"]]
    except (WeightsError, ConfigurationError, YAMLError, ValueError, TypeError, KeyError):
        return []
    present = [entry.name for entry in manifest.classes]
    pairs = list(zip(trained, present, strict=False))
    differ = [index for index, (one, other) in enumerate(pairs) if one != other]
    if len(trained) != len(present) or not differ:
        return []
    loaded = _classifiers(file, skip)
    if loaded == [] or (loaded is None and skip):
        return []
    first, others = differ[0], len(differ) - 1
    more = f", and {others} more differ" if others else ""
    advice = f"`init_skip: {[*skip, *loaded]}`" if loaded else "`init_skip`"
    return [
        f"training.init: class {first} is {trained[first]} in the weights and {present[first]} in "
        f"the data{more}; leave out the classifier of the weights with {advice}"
    ]


def _classifiers(file: str, skip: Sequence[str]) -> list[str] | None:
    """Return patterns of the classifiers that are loaded from a file of weights; None if no tensor
    is named so."""
    try:
        names = sorted(stored_tensors(file))
    except WeightsError:  # loading the weights reports it
        return None
    names = [name for name in names if "classifier" in name.split(".")]
    if not names:
        return None
    loaded = [name for name in names if not any(fnmatchcase(name, each) for each in skip)]
    return list(dict.fromkeys(f"{name.rpartition('.')[0]}.*" for name in loaded))


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
