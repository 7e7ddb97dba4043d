"""The work of `orchestrator.predict`: predict the label maps of images and write them."""

import argparse
from functools import partial
from pathlib import Path

import torch
from rich.console import Console

from orchestrator.console import InputError, check_directory, progress, say
from orchestrator.evaluation.input_images import InputImage, find_images
from orchestrator.evaluation.options import inference_settings, storage_of
from orchestrator.evaluation.trained_model import (
    TrainedModel,
    load_model,
    store_for_model,
    to_device,
)
from pipelines.command import EXIT_FAILED
from pipelines.data.files import atomic_file
from pipelines.data.image_format import Pixels
from pipelines.data.image_io import (
    Array,
    ImageError,
    encode_jpeg,
    encode_palette_png,
    encode_png,
)
from pipelines.data.prefetch import prefetch
from pipelines.errors import is_out_of_memory
from pipelines.evaluation.config import InferenceConfig
from pipelines.evaluation.inference import InputSizeError, predict_image
from pipelines.figures.labeled_overlay import draw_overlay
from pipelines.network.precision import Numerics
from pipelines.preparation.images.pixels import SourceImage, read_pixels
from pipelines.preparation.images.reading import ImageReading, scale_note
from pipelines.preparation.images.value_range import ValueRange, merged_range
from pipelines.submission import SUBMISSIONS
from pipelines.wording import counted

_LARGEST_JPEG = 65500  # pixels per side that libjpeg takes; the format itself takes 65535


def predict_images(options: argparse.Namespace, console: Console) -> int:
    """Predict and write the label maps; return the command's exit status."""
    config = InferenceConfig(**inference_settings(options))
    out = Path(options.out).expanduser()
    check_directory(out, "--out")
    found = find_images(options.inputs, out)
    images = found.images
    submission = SUBMISSIONS[options.submission] if options.submission else None
    if submission is not None:
        submission.check_names([image.path for image in images])
    store = store_for_model(options.model, storage_of(options).local)
    model = load_model(options.model, store, options.imports)
    if submission is not None:
        submission.check_classes(model.class_names)
    numerics, images_format = to_device(model), model.image_format
    reading = _reading(options, model)

    for note in found.notes:
        say(console, note)
    for problem in found.problems:
        say(console, f"skipped {problem}")
    skipped, turned, undrawn = len(found.problems), 0, 0
    stored: list[ValueRange | None] = []
    with progress(console) as bar:
        prefetched = prefetch(partial(_read, reading=reading), images, 2, 4)
        for image, source in bar.track(prefetched, len(images), description="images"):
            try:
                if isinstance(source, str):
                    raise ImageError(source)
                classes = _classes(model, source.pixels, numerics, config)
            except (ImageError, InputSizeError) as error:
                skipped += 1
                say(console, f"skipped {image.path}: {error}")
                continue
            turned += source.turned
            stored.append(source.stored)
            if submission is not None:
                encoded = encode_png(submission.encode(classes))
            else:
                colors = [entry.color for entry in model.class_list.classes]
                encoded = encode_palette_png(classes, colors)
            _write(image.result(out), encoded)
            if options.overlay:
                overlay = image.result(out, ".overlay.jpg")
                try:
                    _write(overlay, _overlay(model, source.pixels, classes))
                except ImageError as error:
                    undrawn += 1
                    say(console, f"no overlay of {image.path}: {error}")
    values = merged_range(stored)
    if values is not None and images_format.bits == 8:
        say(console, scale_note(reading, values))
    if turned and reading.exif == "apply":
        say(console, f"{counted(turned, 'image')} turned upright by EXIF orientation")
    elif turned:
        say(console, f"{counted(turned, 'image')} not turned by EXIF orientation, as on the server")
    count = len(images) + len(found.problems) - skipped
    missing = f", {counted(undrawn, 'overlay')} missing" if undrawn else ""
    written = f"{counted(count, 'label map')} in {out}"
    say(console, f"{written}, {counted(skipped, 'image')} skipped{missing}")
    return EXIT_FAILED if skipped or undrawn else 0


def _reading(options: argparse.Namespace, model: TrainedModel) -> ImageReading:
    """Return how images become the arrays that the model takes. Raises InputError."""
    images = model.image_format
    if options.bands is not None and len(options.bands) != images.channels:
        raise InputError(
            f"--bands names {len(options.bands)} bands, but {model.name} was trained on images of "
            f"{images}; name {images.channels}"
        )
    if options.scale is not None and images.bits == 16:
        raise InputError(
            f"--scale has no effect, because {model.name} takes the stored 16-bit values; remove it"
        )
    return ImageReading(
        options.scale,
        options.bands,
        # Servers compare with labels of the pixels as stored.
        exif="ignore" if options.submission else "apply",
        file="",
        bits=images.bits,
        model_channels=images.channels,
    )


def _read(image: InputImage, reading: ImageReading) -> tuple[InputImage, SourceImage | str]:
    """Return the image and its pixels, or why it cannot be read."""
    try:
        return image, read_pixels(image.path.read_bytes(), reading)
    except MemoryError:
        return image, "not enough memory to decode it; cut it into tiles"
    except (ImageError, OSError) as error:
        return image, str(error)


def _classes(
    model: TrainedModel, pixels: Pixels, numerics: Numerics, config: InferenceConfig
) -> Array:
    """Predict an image's classes, uint8 (height, width).

    Raises ImageError if memory runs out, InputSizeError if the network cannot take the image.
    """
    try:
        image = torch.tensor(pixels)
        return predict_image(model.network, image, numerics, config, model.image_format).numpy()
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        if config.window is None:
            advice = "predict it in windows, such as --window 512x512"
        else:
            height, width = config.window
            advice = f"use a --window smaller than {height}x{width}, or cut the image into tiles"
        size = f"{pixels.shape[0]} x {pixels.shape[1]} pixels"
    # The error's traceback, which holds the tensors of the attempt, is gone here.
    torch.cuda.empty_cache()
    raise ImageError(f"not enough memory to predict {size} at once; {advice}")


def _overlay(model: TrainedModel, pixels: Pixels, classes: Array) -> bytes:
    """Return a JPEG of an image's classes, uint8 (height, width), over its pixels.

    Raises ImageError if JPEG does not take the overlay's size, or memory runs out.
    """
    try:
        drawn = model.image_format.drawn(pixels)
        blended = draw_overlay(drawn, classes, model.class_list.classes)
        height, width = blended.shape[:2]
        if max(height, width) > _LARGEST_JPEG:
            raise ImageError(
                f"it would have {height} x {width} pixels with its legend, and JPEG takes at most "
                f"{_LARGEST_JPEG} per side; cut the image into tiles"
            )
        return encode_jpeg(blended)
    except MemoryError:
        raise ImageError("not enough memory to draw it; cut the image into tiles") from None


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path, sync=False) as partial:
        partial.write_bytes(data)
