"""The work of `orchestrator.export`: write a trained model as files for other programs, check that
they compute what torch computes, and push them to a hub."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from rich.console import Console
from safetensors.torch import save
from torch import Tensor

from models.resampling import resize
from orchestrator.console import InputError, check_directory, say
from orchestrator.evaluation.agreement import Predict, agreement, load_onnx, load_torch
from orchestrator.evaluation.hub import check_push, push
from orchestrator.evaluation.model_card import (
    CARD,
    CardOptions,
    is_edited,
    model_card,
    without_folder,
)
from orchestrator.evaluation.options import storage_of
from orchestrator.evaluation.recorded_scores import recorded_scores
from orchestrator.evaluation.trained_model import (
    TrainedModel,
    check_images,
    load_model,
    store_for_model,
)
from orchestrator.tracking.store import TrackingStore
from pipelines.data.dataset import open_dataset
from pipelines.data.manifest import DatasetError
from pipelines.data.normalization import normalize
from pipelines.model_directory import file_texts
from pipelines.network.export import (
    METADATA,
    PATIENCE,
    export_program,
    save_onnx,
    save_program,
    whole_image_logits,
)
from pipelines.network.file_names import WEIGHTS_FILE
from pipelines.preparation.embedded import dataset_location
from pipelines.serving import CLASSES_FILE, EXPERIMENT_FILE
from pipelines.wording import counted

FILES = {"torch": "model.pt2", "onnx": "model.onnx", "safetensors": WEIGHTS_FILE}
_DIRECTORY_FILES = (EXPERIMENT_FILE, CLASSES_FILE)  # beside the weights
_CHECKED_IMAGES = 4
# Coarse features of a smaller image, or of a part of it, have one row: a size of its own in torch.
_SMALLEST = 96
_LARGEST = 8192  # of --size: the activations of larger images do not fit into memory
_NOISE_SIZES = ((96, 160), (129, 75))


def export_model(options: argparse.Namespace, console: Console) -> int:
    """Write and check the files, and push them; return the command's exit status."""
    out = Path(options.out).expanduser()
    check_directory(out, "--out")
    if out.is_dir() and out.resolve() == Path(options.model).expanduser().resolve():
        raise InputError(f"--out {out} is the directory of the model itself; choose another one")
    if options.push is not None:
        check_push(options.push)
    elif options.private:
        raise InputError("--private is about a repository; add --push OWNER/NAME, or leave it out")
    if options.size is not None and max(options.size) > _LARGEST:
        raise InputError(f"--size may be at most {_LARGEST}x{_LARGEST}")
    kinds = list(dict.fromkeys(options.format or FILES))
    _check_unreplaced(out, kinds)
    store = store_for_model(options.model, storage_of(options).local)
    model = load_model(options.model, store, options.imports)
    images, described = _check_images(model, options)
    limit = "" if options.size else f" (a network that takes more than {PATIENCE:g} s needs --size)"
    say(console, f"exporting {model.name}; this takes about a minute{limit}", style="dim")
    out.mkdir(parents=True, exist_ok=True)
    # Files get their names once all are checked.
    with TemporaryDirectory(prefix=".export-", dir=out) as temporary:
        directory = Path(temporary)
        agreements = _write(model, kinds, directory, images, options.size)
        lines = [f"{out / FILES[kind]}: {agreements[kind]} of {described}" for kind in kinds]
        text = json.dumps(model_metadata(model, options.size), indent=2) + "\n"
        (directory / METADATA).write_text(text, encoding="utf-8")
        lines.append(f"{out / METADATA}: classes, palette and normalization, also inside each file")
        lines.append(_write_card(model, store, options, out, directory))
        written = sorted(file.name for file in directory.iterdir())
        for name in written:
            (directory / name).replace(out / name)
    for line in lines:
        say(console, line)
    if options.push:
        push(options.push, out, sorted({*written, CARD}), options.private, console)
    return 0


def _check_unreplaced(out: Path, kinds: Sequence[str]) -> None:
    """Raise InputError if files of another model might stay beside those of this export."""
    written = {FILES[kind] for kind in kinds}
    if "safetensors" in kinds:
        written |= {*_DIRECTORY_FILES}
    others = sorted({*FILES.values(), *_DIRECTORY_FILES} - written)
    kept = [name for name in others if (out / name).exists()]
    if kept:
        raise InputError(
            f"--out {out} has {' and '.join(kept)}, which this export would not replace and which "
            "may belong to another model; choose another directory, delete them, or name all "
            "formats in one command"
        )


def _write(
    model: TrainedModel,
    kinds: Sequence[str],
    directory: Path,
    images: Sequence[Tensor],
    size: tuple[int, int] | None,
) -> dict[str, str]:
    """Write the files of each kind and check them; return how well each agrees with torch."""
    program = None
    if {*kinds} - {"safetensors"}:
        program = export_program(model.network, model.image_format.channels, size)
    metadata = model_metadata(model, size)
    writers = {"torch": save_program, "onnx": save_onnx}
    load = {"torch": load_torch, "onnx": load_onnx}
    agreements = {}
    for kind in kinds:
        file = directory / FILES[kind]
        if program is None or kind not in writers:
            exported = _save_model_directory(model, directory)
        else:
            writers[kind](program, file, metadata)
            exported = load[kind](file)
        agreements[kind] = agreement(model.network, exported, images, file.name, size)
    return agreements


def _save_model_directory(model: TrainedModel, directory: Path) -> Predict:
    """Write a model directory without the paths of this machine, and load it."""
    experiment = model.experiment
    init, weights = experiment.training.init, experiment.training.backbone_weights
    experiment = replace(
        experiment,
        data=replace(experiment.data, dataset=model.class_list.dataset),
        training=replace(
            experiment.training,
            init=init and without_folder(init),
            backbone_weights=weights and without_folder(weights),
        ),
    )
    for name, text in file_texts(experiment, model.class_list).items():
        (directory / name).write_text(text, encoding="utf-8")
    state = model.network.state_dict()
    # Copies, because the format does not allow tensors that share memory.
    copies = {name: tensor.contiguous().clone() for name, tensor in state.items()}
    (directory / WEIGHTS_FILE).write_bytes(save(copies))  # `save_file` keeps others from reading it
    network = load_model(str(directory), None, model.imports).network
    return lambda images: whole_image_logits(network, images)


def _write_card(
    model: TrainedModel,
    store: TrackingStore | None,
    options: argparse.Namespace,
    out: Path,
    directory: Path,
) -> str:
    """Write the card, unless `out` has one that was written or edited by hand; return what to say
    about it."""
    card = out / CARD
    if card.is_file() and is_edited(card.read_text(encoding="utf-8", errors="replace")):
        return f"{card}: kept, because it was written or edited by hand; delete it for a new one"
    run = None
    if store is not None and model.run_id is not None:
        run = store.trial_run(model.run_id)
    scores = recorded_scores(model, run, store) if run is not None and store is not None else []
    name = options.push.partition("/")[2] if options.push else out.resolve().name
    files = {kind: FILES[kind] for kind in options.format or FILES}
    described = CardOptions(name, files, options.push, options.license, options.size)
    text = model_card(model, run, scores, described)
    (directory / CARD).write_text(text, encoding="utf-8")
    return f"{card}: model card with {counted(len(scores), 'recorded evaluation')}"


def model_metadata(model: TrainedModel, size: tuple[int, int] | None = None) -> dict[str, Any]:
    """Return what a program needs to apply the exported network and to show what it predicts.

    size: height and width of the images, if the network takes no others.
    """
    classes, images = model.class_list, model.image_format
    low, high = images.scale
    channels = "RGB" if images.is_stored_as_rgb else f"{images.channels} channels"
    scaled = "from 0 to 1"
    if images.bits == 16:
        scaled += f", where {low} is 0, {high} is 1 and other values are clipped"
    batch, height, width = ("batch", "height", "width") if size is None else (1, *size)
    return {
        "model": without_folder(model.name),
        "classes": model.class_names,
        "palette": [list(entry.color) for entry in classes.classes],
        "ignore_index": classes.ignore_index,
        "bits": images.bits,
        "scale": list(images.scale),
        "mean": list(images.mean),
        "std": list(images.std),
        "input": f"images: float32 ({batch}, {images.channels}, {height}, {width}), {channels} "
        f"{scaled}, minus mean, divided by std",
        "output": f"logits: float32 ({batch}, classes, {height}, {width}); the class is the argmax "
        "over axis 1, the probabilities are the softmax",
        "dataset": classes.dataset,
        "fingerprint": classes.fingerprint,
        "protocol": model.experiment.evaluation.protocol,
    }


def _check_images(model: TrainedModel, options: argparse.Namespace) -> tuple[Sequence[Tensor], str]:
    """Return normalized images, each `(1, channels, height, width)`, and what they are: validation
    images and a part of each, of another size, or noise if the training's data set is not here.
    With `--size`, all images have that size."""
    data = model.experiment.data
    split = options.split or data.validation_split or data.trained_on
    try:
        location = dataset_location(
            options.dataset or data.dataset, storage_of(options).at("datasets")
        )
        dataset = open_dataset(location)
        check_images(model, dataset)
        samples = dataset.split(split)
    except (DatasetError, OSError):
        if options.dataset or options.split:
            raise
        generator = torch.Generator().manual_seed(0)
        channels = model.image_format.channels
        sizes = [options.size] * len(_NOISE_SIZES) if options.size else _NOISE_SIZES
        noise = [torch.randn((1, channels, *size), generator=generator) for size in sizes]
        return noise, f"{len(noise)} random images ({data.dataset} is not here; see --dataset)"
    images = []
    for index in range(min(_CHECKED_IMAGES, len(samples))):
        pixels, _ = samples.read(index)
        whole = normalize(torch.tensor(pixels).permute(2, 0, 1)[None], model.image_format)
        size = options.size or _at_least(*whole.shape[-2:])
        whole = resize(whole, whole.new_empty(size))
        images.append(whole)
        if options.size is None:
            height, width = size
            images.append(whole[..., : 1 + 2 * height // 3, : 1 + 3 * width // 4])
    kind = "images and parts of images" if options.size is None else "images, resized,"
    return images, f"{len(images)} {kind} of {location} {split}"


def _at_least(height: int, width: int) -> tuple[int, int]:
    """Return a size of an image's proportions with sides of at least _SMALLEST pixels."""
    scale = max(1.0, _SMALLEST / min(height, width))
    return round(scale * height), round(scale * width)
