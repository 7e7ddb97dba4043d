"""`python -m orchestrator.predict MODEL IMAGE|DIR|GLOB... --out DIR`: predict label maps of images.

File names and folders are kept. Images that cannot be read are reported and skipped; the exit
status is then 1.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console

from orchestrator.console import InputError, progress, run_command, say
from orchestrator.evaluation.input_images import InputImage, find_images
from orchestrator.evaluation.options import add_options, inference_settings, storage_directory
from orchestrator.evaluation.trained_model import load_model, store_for_model, to_device
from pipelines.data.image_io import (
    Array,
    ImageError,
    encode_jpeg,
    encode_palette_png,
    encode_png,
    open_image,
    to_rgb,
)
from pipelines.data.overlays import overlay
from pipelines.data.prefetch import prefetch
from pipelines.errors import EXIT_FAILED
from pipelines.evaluation.inference import InferenceConfig, predict_image
from pipelines.submission import SUBMISSIONS


def main(
    arguments: Sequence[str] | None = None, prog: str = "python -m orchestrator.predict"
) -> int:
    """Run the command; return its exit status: 0 all predicted, 1 some skipped, 2 bad input, 130
    interrupted."""
    options = _parser(prog).parse_args(arguments)
    return run_command(lambda console: _predict(options, console))


def _predict(options: argparse.Namespace, console: Console) -> int:
    config = InferenceConfig(**inference_settings(options))
    out = Path(options.out).expanduser()
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out} is a file; choose a folder")
    images = find_images(options.inputs, out)
    submission = SUBMISSIONS[options.submission] if options.submission else None
    if submission is not None:
        submission.check_names([image.path for image in images])
    store = store_for_model(options.model, storage_directory(options))
    model = load_model(options.model, store, options.imports)
    if submission is not None:
        submission.check_classes(model.class_names)
    numerics = to_device(model)

    skipped = 0
    with progress(console) as bar:
        prefetched = prefetch(_read, images, 2, 4)
        for image, pixels in bar.track(prefetched, len(images), description="images"):
            if isinstance(pixels, str):
                skipped += 1
                say(console, f"skipped {image.path}: {pixels}")
                continue
            classes = predict_image(model.network, torch.tensor(pixels), numerics, config).numpy()
            if submission is not None:
                encoded = encode_png(submission.encode(classes))
            else:
                colors = [entry.color for entry in model.class_list.classes]
                encoded = encode_palette_png(classes, colors)
            _write(image.result(out), encoded)
            if options.overlay:
                blended = overlay(pixels, classes, model.class_list.classes)
                _write(image.result(out, ".overlay.jpg"), encode_jpeg(blended))
    say(console, f"{len(images) - skipped} label maps in {out}, {skipped} images skipped")
    return EXIT_FAILED if skipped else 0


def _read(image: InputImage) -> tuple[InputImage, Array | str]:
    """Return the image and its pixels, uint8 (height, width, 3), or why it cannot be read."""
    try:
        return image, to_rgb(open_image(image.path.read_bytes()))
    except (ImageError, OSError) as error:
        return image, str(error)


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Predict the label maps of images with a trained model.",
    )
    add_options(parser)
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="IMAGE|DIR|GLOB",
        help="images; folders are searched recursively",
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for the results")
    parser.add_argument(
        "--overlay",
        action="store_true",
        help="also write NAME.overlay.jpg: class colors blended over the image",
    )
    parser.add_argument(
        "--submission",
        choices=sorted(SUBMISSIONS),
        help="encode label maps for this benchmark's server instead of as class indices",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
