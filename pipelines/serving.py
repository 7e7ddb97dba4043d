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
from pipelines.data.image_format import ImageFormat
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
        image_format: of the images that it takes.
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
        learned = _read(directory / CLASSES_FILE)
        classes = learned["classes"]
        self.image_format = configure(ImageFormat, learned.get("images", {}), "images")
        self.classes = [str(entry["name"]) for entry in classes]
        self.palette = np.array([entry["color"] for entry in classes], np.uint8)
        self.inference = settings.inference
        network = build_network(settings.model, len(self.classes), 0, self.image_format.channels)
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
        """Return class indices, uint8 `(height, width)`, for an image `(height, width, channels)`
        with the stored values of the training data: uint8 with 3 channels for RGB images.

        params: `{"output": "probabilities"}` returns float32 `(classes, height, width)` instead,
        and `{"output": "colors"}` the palette's colors, uint8 `(height, width, 3)`.

        Several images of one size, `(images, height, width, channels)`, return an array with one
        result for each image.

        Raises ValueError for anything else, InputSizeError for a size that the network cannot take.
        """
        output = (params or {}).get("output", OUTPUTS[0])
        if output not in OUTPUTS:
            raise ValueError(f"output is {output!r}; use one of {', '.join(OUTPUTS)}")
        pixels, images_format = np.asarray(images), self.image_format
        if isinstance(images, list) and pixels.dtype.kind in "iu":
            # Arrays that arrive as JSON have lost their dtype.
            largest = np.iinfo(images_format.dtype).max
            if pixels.size and not (pixels.min() >= 0 and pixels.max() <= largest):
                raise ValueError(
                    f"received values from {pixels.min()} to {pixels.max()}; "
                    f"{_expected(images_format)}"
                )
            pixels = pixels.astype(images_format.dtype)
        channels = images_format.channels
        shaped = pixels.ndim in (3, 4) and pixels.shape[-1] == channels and pixels.size
        if pixels.dtype != images_format.dtype or not shaped:
            raise ValueError(f"received {pixels.dtype} {pixels.shape}; {_expected(images_format)}")
        if pixels.ndim == 4:
            return np.stack([self.predict(image, params) for image in pixels])
        image = torch.tensor(np.ascontiguousarray(pixels))  # torch has no negative strides
        if output == "probabilities":
            return predict_probabilities(
                self.network,
                image,
                self.numerics,
                len(self.classes),
                self.inference,
                images_format,
            ).numpy()
        classes = predict_image(
            self.network, image, self.numerics, self.inference, images_format
        ).numpy()
        colors: np.ndarray = self.palette[classes]
        return colors if output == "colors" else classes


def _expected(image_format: ImageFormat) -> str:
    channels = image_format.channels
    values = f"{channels} channels, with the values of the training data,"
    if image_format.is_stored_as_rgb:
        values = "red, green and blue from 0 to 255,"
    return (
        f"an image must be a {image_format.dtype} array (height, width, {channels}) of {values} "
        f"several images (images, height, width, {channels})"
    )


@dataclass(frozen=True)
class _Settings:
    """The part of an experiment that decides how its network is applied."""

    model: ModelConfig
    inference: InferenceConfig


def _read(path: Path) -> dict[str, Any]:
    values: dict[str, Any] = load_yaml(path.read_text(encoding="utf-8"))
    return values
