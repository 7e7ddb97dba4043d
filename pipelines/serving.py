"""A trained model for other programs: images as arrays in, label maps out.

Needs only torch, safetensors and PyYAML, because it also runs without this project installed: a
model in MLflow contains this module and everything it imports.
"""

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipelines.config import configure, load_yaml
from pipelines.evaluation.config import InferenceConfig
from pipelines.evaluation.inference import predict_image, predict_probabilities
from pipelines.network.build import build_network
from pipelines.network.checkpoint import load_weights
from pipelines.network.config import ModelConfig
from pipelines.network.precision import Numerics

EXPERIMENT_FILE = "experiment.yaml"
CLASSES_FILE = "classes.yaml"

OUTPUTS = ("classes", "probabilities", "colors")  # of `predict`; the first is the default


class SegmentationModel:
    """A model directory's network, with the inference settings it was validated with.

    Uses the GPU if there is one.

    Attributes:
        classes: names of the classes; class k has value k in a label map.
        palette: colors of the classes, uint8 `(classes, 3)`.
    """

    def __init__(self, directory: Path, imports: Sequence[str] = ()) -> None:
        """Load a model directory.

        imports: modules that register what the experiment names.

        Raises ConfigurationError, NetworkError, CheckpointError or OSError.
        """
        for name in imports:
            importlib.import_module(name)
        experiment = _read(directory / EXPERIMENT_FILE)
        training, evaluation = experiment["training"], experiment["evaluation"]
        inference = {field.name: evaluation[field.name] for field in fields(InferenceConfig)}
        settings = configure(_Settings, {"model": experiment["model"], "inference": inference})
        classes = _read(directory / CLASSES_FILE)["classes"]
        self.classes = [str(entry["name"]) for entry in classes]
        self.palette = np.array([entry["color"] for entry in classes], np.uint8)
        self.inference = settings.inference
        network = build_network(settings.model, len(self.classes), seed=0)
        load_weights(directory, network)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.numerics = Numerics.choose(device, training["precision"], training["memory_format"])
        self.network = self.numerics.to_device(network.eval())

    def get_raw_model(self) -> "SegmentationModel":
        """Return this model; so does `get_raw_model` of the model in MLflow."""
        return self

    def predict(
        self, images: np.ndarray | Sequence[object], params: Mapping[str, Any] | None = None
    ) -> np.ndarray:
        """Return class indices, uint8 `(height, width)`, for an image, uint8 `(height, width, 3)`.

        params: `{"output": "probabilities"}` returns float32 `(classes, height, width)` instead,
        and `{"output": "colors"}` the palette's colors, uint8 `(height, width, 3)`.

        Several images of one size, `(images, height, width, 3)`, return an array with one result
        for each image. Raises ValueError for anything else.
        """
        output = (params or {}).get("output", OUTPUTS[0])
        if output not in OUTPUTS:
            raise ValueError(f"output is {output!r}; use one of {', '.join(OUTPUTS)}")
        pixels = np.asarray(images)
        if isinstance(images, list) and pixels.dtype.kind in "iu":
            # Arrays that arrive as JSON have lost their dtype.
            if pixels.size and not (pixels.min() >= 0 and pixels.max() <= 255):
                raise ValueError(
                    f"received values from {pixels.min()} to {pixels.max()}; {_EXPECTED}"
                )
            pixels = pixels.astype(np.uint8)
        shaped = pixels.ndim in (3, 4) and pixels.shape[-1] == 3 and pixels.size
        if pixels.dtype != np.uint8 or not shaped:
            raise ValueError(f"received {pixels.dtype} {pixels.shape}; {_EXPECTED}")
        if pixels.ndim == 4:
            return np.stack([self.predict(image, params) for image in pixels])
        image = torch.tensor(pixels)
        if output == "probabilities":
            return predict_probabilities(
                self.network, image, self.numerics, len(self.classes), self.inference
            ).numpy()
        classes = predict_image(self.network, image, self.numerics, self.inference).numpy()
        colors: np.ndarray = self.palette[classes]
        return colors if output == "colors" else classes


_EXPECTED = (
    "an image must be a uint8 array (height, width, 3) of red, green and blue from 0 to 255, "
    "several images (images, height, width, 3)"
)


@dataclass(frozen=True)
class _Settings:
    """The part of an experiment that decides how its network is applied."""

    model: ModelConfig
    inference: InferenceConfig


def _read(path: Path) -> dict[str, Any]:
    values: dict[str, Any] = load_yaml(path.read_text(encoding="utf-8"))
    return values
