"""A trained model by the name a user has for it: a run, a registered model or a directory.

Nothing of it is unpickled, and of the sources that a model in MLflow carries none is run: what is
here is used.
"""

import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from orchestrator.storage import Storage
from orchestrator.study.overlay import read_experiment
from orchestrator.study.user_code import import_modules
from orchestrator.study.validation import validate
from orchestrator.study.yaml_source import Source, read_yaml
from orchestrator.tracking.store import TrackingStore, tracking_uri
from pipelines.errors import UserError
from pipelines.model_directory import ClassList
from pipelines.network.build import build_network
from pipelines.network.checkpoint import WEIGHTS_FILE, load_weights
from pipelines.network.precision import Numerics
from pipelines.network.weights import WeightsError, locate_weights, weights_digest
from pipelines.serving import CLASSES_FILE, EXPERIMENT_FILE
from pipelines.training.experiment import Experiment

_RUN = re.compile(r"runs:/([\w-]+)/(best|last|model)/?")

_REGISTERED = re.compile(r"models:/[^/@]+(@[^/@]+|/[^/@]+)")


class ModelError(UserError, ValueError):
    """A model that cannot be used; says which, what is wrong and what would work."""


@dataclass(frozen=True)
class TrainedModel:
    """A network with its weights, on the CPU and ready to predict, and where it comes from.

    name: as the user wrote it. run_id: of the run it belongs to; None for a directory.
    checkpoint: `best` or `last` of that run, else `model`.
    """

    name: str
    run_id: str | None
    checkpoint: str
    experiment: Experiment
    learned: ClassList
    network: nn.Module

    @property
    def class_names(self) -> list[str]:
        """The classes, in the order of the network's outputs."""
        return [entry.name for entry in self.learned.classes]


def open_store_of(name: str, storage: Path) -> TrackingStore | None:
    """The ledger that the model `name` is in; None for a directory.

    Raises ModelError where there is neither ledger nor directory, TrackingError where the ledger
    cannot be reached.
    """
    if not name.startswith(("runs:", "models:")):
        return None
    if not (_RUN.fullmatch(name) or _REGISTERED.fullmatch(name)):
        raise ModelError(
            f"MODEL is {name!r}; write runs:/ID/model, runs:/ID/best, runs:/ID/last, "
            "models:/NAME@ALIAS, models:/NAME/VERSION or a directory"
        )
    uri = tracking_uri(storage)
    file = Path(uri.removeprefix("sqlite:///"))
    if uri.startswith("sqlite:///") and not file.exists():
        raise ModelError(
            f"{name}: there is no {file}; name the storage of the study with --storage, or the "
            "tracking server with MLFLOW_TRACKING_URI"
        )
    return TrackingStore(uri, None)


def load_model(name: str, store: TrackingStore | None, imports: Sequence[str] = ()) -> TrainedModel:
    """Load the model `name`, from `ledger` unless it is a directory.

    imports: modules that register what its experiment names.

    Raises ModelError, TrackingError, StudyError (a file in it is not valid), NetworkError or
    CheckpointError.
    """
    import_modules(imports, Source("--import", list(imports)))
    if store is None:
        directory = Path(name).expanduser()
        if not directory.is_dir():
            raise ModelError(
                f"{name}: no such directory; MODEL may also be runs:/ID/model, runs:/ID/best, "
                "runs:/ID/last or models:/NAME@ALIAS"
            )
        return _read(name, None, "model", directory)
    run = _RUN.fullmatch(name)
    run_id, checkpoint = run.groups() if run else (None, "model")
    with tempfile.TemporaryDirectory(prefix="model-") as temporary:
        directory = store.download(name, Path(temporary))
        if checkpoint == "model":
            recorded, checkpoint = _origin(directory)
            # A registered model may come from a store whose runs are not in this one.
            if run_id is None and recorded is not None and store.exists(recorded):
                run_id = recorded
        return _read(name, run_id, checkpoint, directory)


def _origin(directory: Path) -> tuple[str | None, str]:
    """Of a model in MLflow: the run that it was recorded with, and which checkpoint of it."""
    file = directory / "MLmodel"
    described = read_yaml(file).value if file.is_file() else {}
    checkpoint = (described.get("metadata") or {}).get("checkpoint")
    return described.get("run_id"), checkpoint if checkpoint in ("best", "last") else "model"


def _read(name: str, run_id: str | None, checkpoint: str, directory: Path) -> TrainedModel:
    # What MLflow logs as a model wraps the directory into one of its own.
    found = sorted(path.parent for path in directory.rglob(EXPERIMENT_FILE))
    if not found:
        raise ModelError(
            f"{name}: no model, because it has no {EXPERIMENT_FILE}; a model directory holds "
            f"{EXPERIMENT_FILE}, {CLASSES_FILE} and {WEIGHTS_FILE}"
        )
    if len(found) > 1:
        listed = ", ".join(str(path.relative_to(directory)) for path in found)
        raise ModelError(f"{name}: holds several models ({listed}); name one of them")
    directory = found[0]
    for file in (CLASSES_FILE, WEIGHTS_FILE):
        if not (directory / file).is_file():
            raise ModelError(f"{name}: no model, because it has no {file}")
    experiment = read_experiment(_mapping(directory / EXPERIMENT_FILE))
    learned = validate(_mapping(directory / CLASSES_FILE), ClassList)
    network = build_network(experiment.model, len(learned.classes), experiment.seed)
    load_weights(directory, network)
    return TrainedModel(name, run_id, checkpoint, experiment, learned, network.eval())


def _mapping(path: Path) -> Source:
    source = read_yaml(path)
    value: Any = source.value
    if not isinstance(value, dict):
        raise ModelError(f"{path}: must be a mapping of keys")
    return source


def place(model: TrainedModel) -> Numerics:
    """Put the network where it computes best, in the precision it was trained in."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    training = model.experiment.training
    numerics = Numerics.choose(device, training.precision, training.memory_format)
    numerics.to_device(model.network)
    return numerics


def local_weights(uri: str, storage: Storage) -> str:
    """A file of weights for `training.init`.

    `runs:/ID/best` and `models:/NAME@ALIAS` are copied from the ledger into the storage, under a
    name that follows from the content; what is elsewhere stays there. Raises WeightsError, or
    TrackingError where the ledger has no such model.
    """
    try:
        store = open_store_of(uri, storage.here)
    except ModelError as error:
        raise WeightsError(f"training.init: {error}") from None
    if store is None:
        found = locate_weights(uri)
        return found if "://" in found else str(Path(found).expanduser().resolve())
    folder = storage.here / "initial"
    folder.mkdir(parents=True, exist_ok=True)
    # Beside the place it goes to, so that moving it there is one rename.
    with tempfile.TemporaryDirectory(prefix="download-", dir=folder) as temporary:
        directory = store.download(uri, Path(temporary))
        files = sorted(directory.rglob(WEIGHTS_FILE))
        if len(files) != 1:
            raise WeightsError(f"training.init: {uri} holds {len(files)} files {WEIGHTS_FILE}")
        return storage.keep(files[0], f"initial/{weights_digest(files[0])}.safetensors")
