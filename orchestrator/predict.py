"""`python -m orchestrator.predict MODEL IMAGE|DIR|GLOB... --out DIR`: label maps of any pictures.

Names and folders are kept. What cannot be read is reported and skipped, and the status is then 1.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console

from orchestrator.console import InputError, progress, run_command, say
from orchestrator.evaluation.input_images import Picture, find_pictures
from orchestrator.evaluation.options import add_options, inference_settings, storage_of
from orchestrator.evaluation.trained_model import load_model, open_store_of, place
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
    """Run the command; its exit status: 0 all predicted, 1 some skipped, 2 bad input, 130
    interrupted."""
    options = _parser(prog).parse_args(arguments)
    return run_command(lambda console: _predict(options, console))


def _predict(options: argparse.Namespace, console: Console) -> int:
    config = InferenceConfig(**inference_settings(options))
    out = Path(options.out).expanduser()
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out}: is a file; name a folder")
    pictures = find_pictures(options.inputs, out)
    submission = SUBMISSIONS[options.submission] if options.submission else None
    if submission is not None:
        submission.check_names([picture.path for picture in pictures])
    store = open_store_of(options.model, storage_of(options))
    model = load_model(options.model, store, options.imports)
    if submission is not None:
        submission.check_classes(model.class_names)
    numerics = place(model)

    skipped = 0
    with progress(console) as bar:
        read = prefetch(_read, pictures, 2, 4)
        for picture, pixels in bar.track(read, len(pictures), description="pictures"):
            if isinstance(pixels, str):
                skipped += 1
                say(console, f"skipped {picture.path}: {pixels}")
                continue
            classes = predict_image(model.network, torch.tensor(pixels), numerics, config).numpy()
            if submission is not None:
                encoded = encode_png(submission.encode(classes))
            else:
                colors = [entry.color for entry in model.learned.classes]
                encoded = encode_palette_png(classes, colors)
            _write(picture.result(out), encoded)
            if options.overlay:
                covered = overlay(pixels, classes, model.learned.classes)
                _write(picture.result(out, ".overlay.jpg"), encode_jpeg(covered))
    say(console, f"{len(pictures) - skipped} label maps in {out}, {skipped} pictures skipped")
    return EXIT_FAILED if skipped else 0


def _read(picture: Picture) -> tuple[Picture, Array | str]:
    """The picture's pixels, uint8 (height, width, 3), or why there are none."""
    try:
        return picture, to_rgb(open_image(picture.path.read_bytes()))
    except (ImageError, OSError) as error:
        return picture, str(error)


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Predict the label maps of pictures with a trained model.",
    )
    add_options(parser)
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="IMAGE|DIR|GLOB",
        help="pictures; a folder is searched with all below it",
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="where the results go")
    parser.add_argument(
        "--overlay", action="store_true", help="NAME.overlay.jpg as well: colours over the picture"
    )
    parser.add_argument(
        "--submission",
        choices=sorted(SUBMISSIONS),
        help="label maps as this benchmark's server wants them, instead of class indices",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
