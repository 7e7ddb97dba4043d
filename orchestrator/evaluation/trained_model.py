"""Loads a trained model given as a run, a registered model or a directory.

Nothing is unpickled, and the sources that a model in MLflow carries are not executed: the installed
code is used.
"""

import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from orchestrator.storage import Storage
from orchestrator.study.overlay import validate_experiment
from orchestrator.study.user_code import import_modules
from orchestrator.study.validation import validate
from orchestrator.study.yaml_source import Source, read_yaml
from pipelines.data.dataset import PreparedDataset
from pipelines.data.image_format import ImageFormat
from pipelines.errors import UserError
from pipelines.model_directory import ClassList
from pipelines.network.build import build_network
from pipelines.network.checkpoint import load_weights
from pipelines.network.file_names import WEIGHTS_FILE
from pipelines.network.precision import Numerics
from pipelines.network.weight_files import WeightsError, locate_weights, weights_digest
from pipelines.serving import CLASSES_FILE, EXPERIMENT_FILE
from pipelines.training.experiment import Experiment

# Not needed in tasks on a cluster, and MLflow takes a second.
if TYPE_CHECKING:
    from orchestrator.tracking.store import TrackingStore

_RUN = re.compile(r"runs:/([\w-]+)/(best|last|model)/?")

_REGISTERED = re.compile(r"models:/[^/@]+(@[^/@]+|/[^/@]+)")


class ModelError(UserError, ValueError):
    """A model cannot be used; the message says which, what is wrong, and what to do."""


@dataclass(frozen=True)
class TrainedModel:
    """A network with its weights, on the CPU and ready to predict, and its origin.

    name: as the user wrote it. run_id: of the run it belongs to; None for a directory.
    checkpoint: `best` or `last` of that run, otherwise `model`. imports: modules that register its
    components.
    """

    name: str
    run_id: str | None
    checkpoint: str
    experiment: Experiment
    class_list: ClassList
    network: nn.Module
    imports: tuple[str, ...] = ()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the weights without the network: models of libraries hold objects that cannot be
        pickled. Another process builds the network again."""
        values = {key: value.cpu() for key, value in self.network.state_dict().items()}
        origin = self.name, self.run_id, self.checkpoint
        return _rebuilt, (*origin, self.experiment, self.class_list, values, self.imports)

    @property
    def class_names(self) -> list[str]:
        """The classes, in the order of the network's outputs."""
        return [entry.name for entry in self.class_list.classes]

    @property
    def image_format(self) -> ImageFormat:
        """The format and normalization of the images that the network was trained on."""
        return self.class_list.images


def _rebuilt(
    name: str,
    run_id: str | None,
    checkpoint: str,
    experiment: Experiment,
    class_list: ClassList,
    values: Mapping[str, Tensor],
    imports: tuple[str, ...],
) -> TrainedModel:
    """Return the model that was pickled with these weights."""
    for module in imports:
        import_module(module)
    network = _build(experiment, class_list)
    network.load_state_dict(values)
    return TrainedModel(name, run_id, checkpoint, experiment, class_list, network.eval(), imports)


def _build(experiment: Experiment, class_list: ClassList) -> nn.Module:
    channels = class_list.images.channels
    return build_network(experiment.model, len(class_list.classes), experiment.seed, channels)


def check_images(model: TrainedModel, dataset: PreparedDataset) -> None:
    """Check that the images of a data set have the channels and bits that a model was trained on.

    Raises ModelError if not.
    """
    trained, images = model.image_format, dataset.manifest.images
    if (trained.channels, trained.bits) != (images.channels, images.bits):
        raise ModelError(
            f"{model.name} was trained on images of {trained}, but {dataset.location.uri} has "
            f"images of {images}; choose a data set prepared like the training data"
        )


def store_for_model(name: str, storage: Path) -> "TrackingStore | None":
    """Open the tracking store that holds the model `name`; return None for a directory.

    Raises ModelError if `name` is malformed or the store cannot be opened.
    """
    if not name.startswith(("runs:", "models:")):
        return None
    if not (_RUN.fullmatch(name) or _REGISTERED.fullmatch(name)):
        raise ModelError(
            f"MODEL {name!r} is not a valid model URI; write runs:/ID/model, runs:/ID/best, "
            "runs:/ID/last, models:/NAME@ALIAS, models:/NAME/VERSION or a directory"
        )
    from orchestrator.tracking.open_store import open_existing_store
    from orchestrator.tracking.store import TrackingError

    try:
        return open_existing_store(storage)
    except TrackingError as error:
        raise ModelError(f"{name}: {error}") from None


def load_model(
    name: str, store: "TrackingStore | None", imports: Sequence[str] = (), to_record: bool = False
) -> TrainedModel:
    """Load the model `name` from `store`, or from a directory if `store` is None.

    imports: modules that register components of the model. to_record: if the model belongs to a
    run, scores will be recorded with it, under the version of all code of the training. Otherwise
    the user's code for the network is enough.

    Raises ModelError, TrackingError, StudyError (an invalid file), NetworkError or CheckpointError.
    """
    import_modules(imports, Source("--import", list(imports)))
    if store is None:
        directory = Path(name).expanduser()
        if not directory.is_dir():
            raise ModelError(
                f"{name}: no such directory; MODEL may also be runs:/ID/model, runs:/ID/best, "
                "runs:/ID/last or models:/NAME@ALIAS"
            )
        return _read(name, None, "model", directory, imports, for_training=False)
    run = _RUN.fullmatch(name)
    run_id, checkpoint = run.groups() if run else (None, "model")
    with tempfile.TemporaryDirectory(prefix="model-") as temporary:
        directory = store.download(name, Path(temporary))
        if checkpoint == "model":
            model_run_id, checkpoint = _origin(directory)
            # The run of a registered model may be in another store.
            if run_id is None and model_run_id is not None and store.exists(model_run_id):
                run_id = model_run_id
        for_training = to_record and run_id is not None
        return _read(name, run_id, checkpoint, directory, imports, for_training)


def _origin(directory: Path) -> tuple[str | None, str]:
    """Return the run id and the checkpoint that a model in MLflow was recorded with."""
    file = directory / "MLmodel"
    metadata = read_yaml(file).value if file.is_file() else {}
    checkpoint = (metadata.get("metadata") or {}).get("checkpoint")
    return metadata.get("run_id"), checkpoint if checkpoint in ("best", "last") else "model"


def _read(
    name: str,
    run_id: str | None,
    checkpoint: str,
    directory: Path,
    imports: Sequence[str],
    for_training: bool,
) -> TrainedModel:
    # In MLflow, the model directory is inside MLflow's own directory of the model.
    directories = sorted(path.parent for path in directory.rglob(EXPERIMENT_FILE))
    if not directories:
        raise ModelError(
            f"{name} is not a model: it has no {EXPERIMENT_FILE}; a model directory holds "
            f"{EXPERIMENT_FILE}, {CLASSES_FILE} and {WEIGHTS_FILE}"
        )
    if len(directories) > 1:
        listed = ", ".join(str(path.relative_to(directory)) for path in directories)
        raise ModelError(f"{name} holds several models ({listed}); choose one of them")
    directory = directories[0]
    for file in (CLASSES_FILE, WEIGHTS_FILE):
        if not (directory / file).is_file():
            raise ModelError(f"{name} is not a model: it has no {file}")
    experiment = validate_experiment(_mapping(directory / EXPERIMENT_FILE), for_training)
    class_list = validate(_mapping(directory / CLASSES_FILE), ClassList)
    network = _build(experiment, class_list)
    load_weights(directory, network)
    network.eval()
    return TrainedModel(name, run_id, checkpoint, experiment, class_list, network, tuple(imports))


def _mapping(path: Path) -> Source:
    source = read_yaml(path)
    value: Any = source.value
    if not isinstance(value, dict):
        raise ModelError(f"{path}: must be a mapping of keys")
    return source


def to_device(model: TrainedModel) -> Numerics:
    """Move the network to the GPU if there is one, in the precision it was trained in."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    training = model.experiment.training
    numerics = Numerics.choose(device, training.precision, training.memory_format)
    numerics.to_device(model.network)
    return numerics


def local_weights(uri: str, storage: Storage) -> str:
    """Return the path or URI of a weights file for `training.init`.

    `runs:/ID/best` and `models:/NAME@ALIAS` are copied from the tracking store into the storage,
    under a name derived from the content; other locations are returned as they are. Raises
    WeightsError, or TrackingError if the store has no such model.
    """
    try:
        store = store_for_model(uri, storage.local)
    except ModelError as error:
        raise WeightsError(f"training.init: {error}") from None
    if store is None:
        location = locate_weights(uri)
        return location if "://" in location else str(Path(location).expanduser().resolve())
    folder = storage.local / "initial"
    folder.mkdir(parents=True, exist_ok=True)
    # In the target's own folder, so that moving the file is one rename.
    with tempfile.TemporaryDirectory(prefix="download-", dir=folder) as temporary:
        directory = store.download(uri, Path(temporary))
        files = sorted(directory.rglob(WEIGHTS_FILE))
        if len(files) != 1:
            raise WeightsError(
                f"training.init: {uri} holds {len(files)} files named {WEIGHTS_FILE}; name one "
                "model"
            )
        target = f"initial/{weights_digest(files[0])}"
        classes = files[0].with_name(CLASSES_FILE)
        if classes.is_file():  # to compare them with those of the data
            storage.put(classes, f"{target}/{CLASSES_FILE}")
        return storage.put(files[0], f"{target}/{WEIGHTS_FILE}")
