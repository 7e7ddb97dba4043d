"""The model card of an exported model: `README.md` as a Hugging Face hub reads it."""

import hashlib
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from models.config import LossTermConfig
from models.cost import count_parameters
from orchestrator.evaluation.hub_metadata import TITLES, dataset_name, hub_metadata, ordered
from orchestrator.evaluation.recorded_scores import RecordedScores
from orchestrator.evaluation.trained_model import TrainedModel
from orchestrator.tracking.runs import TrialRun
from pipelines.config import dump_yaml
from pipelines.data.split_names import splits_overlap
from pipelines.evaluation.config import COUNTED
from pipelines.network.config import NetworkConfig

CARD = "README.md"

_CHECKPOINTS = {
    "last": "This is the last checkpoint of the training; it was not selected by its score.",
    "best": "This checkpoint was selected as the best on the validation split, so its score there "
    "is optimistic; compare the last checkpoint with published numbers.",
    "model": "Which checkpoint of a training this is was not recorded.",
}
_BEST_TRIAL = (
    "Its training was selected among those of its study by this score, which is therefore "
    "optimistic; the table of the study has the means of its rows."
)
_SEED = (
    "It is one training with one seed. Another seed gives another score, and the card does not say "
    "how different."
)
_VALIDATION = (
    "The validation split was not trained on, but settings may have been chosen by its score; a "
    "test split gives an unbiased one."
)
_TRAINED_ON = (
    "The validation split, or a part of it, was also trained on; its score is not of new images."
)
_DOMAIN = "Images unlike those of the training data were not scored."
_LIBRARIES = ("segmentation-orchestrator", "torch", "kornia", "transformers")
_MARK = re.compile(r"<!-- Written by orchestrator\.export, ([0-9a-f]{16})\. -->\n\Z")

# The image is read as RGB of 8 bits; `metadata.json` has the values for others.
_ONNX = """\
```python
import json
import numpy as np, onnxruntime
from PIL import Image

session = onnxruntime.InferenceSession({file})
about = session.get_modelmeta().custom_metadata_map
mean, std = (np.float32(json.loads(about[key])) for key in ("mean", "std"))
image = np.asarray(Image.open("image.png").convert("RGB"), np.float32) / 255
images = ((image - mean) / std).transpose(2, 0, 1)[None]
labels = session.run(["logits"], {{"images": images}})[0][0].argmax(0)  # class indices
```
"""


@dataclass(frozen=True)
class CardOptions:
    """What the user decides about a card.

    name: title, also of the scores in the metadata. files: by format, as they were exported.
    repository: OWNER/NAME on a hub, None if the card is for a folder. license: of the weights, as
    the hub names it; None to leave it out. size: height and width of the only images that the
    exported networks take; None if they take every size.
    """

    name: str
    files: Mapping[str, str]
    repository: str | None = None
    license: str | None = None
    size: tuple[int, int] | None = None


def model_card(
    model: TrainedModel,
    run: TrialRun | None,
    scores: Sequence[RecordedScores],
    options: CardOptions,
) -> str:
    """Return the text of the card. run: that trained the model; None if it is not known."""
    classes = model.class_list
    metadata = hub_metadata(model, scores, options.name, options.license, options.files)
    sections = [
        f"---\n{dump_yaml(metadata)}---",
        f"# {_text(options.name)}",
        f"Semantic segmentation of {len(classes.classes)} classes of {_text(classes.dataset)}, "
        f"trained with segmentation-orchestrator: {_network(model)}.",
        "## Scores",
        *_score_tables(model, scores),
        "## Training",
        _table(("", ""), _training(model, run)),
        "## Use",
        *_use(model, options),
        "## Limits",
        "\n".join(f"- {each}" for each in _limits(model, run, scores)),
        "## Versions",
        _table(("", ""), _versions(run)),
    ]
    text = "\n\n".join(section.strip("\n") for section in sections) + "\n\n"
    return f"{text}<!-- Written by orchestrator.export, {_digest(text)}. -->\n"


def is_edited(text: str) -> bool:
    """Whether a card is not, or no longer, what `model_card` wrote."""
    mark = _MARK.search(text)
    return mark is None or mark[1] != _digest(text[: mark.start()])


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _score_tables(model: TrainedModel, scores: Sequence[RecordedScores]) -> list[str]:
    if not scores:
        return ["No scores are recorded with this model.", _class_table(model, [])]
    keys = dict.fromkeys(key for each in scores for key, _ in ordered(each.overall))
    titles = [f"{TITLES[key]} %" if key in TITLES else key for key in keys]
    rows = [
        (
            f"{dataset_name(model, each)} {each.split}",
            each.name or "validation",
            each.protocol,
            "?" if each.images is None else each.images,
            *(_value(key, each.metrics.get(key)) for key in keys),
        )
        for each in scores
    ]
    header = ("data", "evaluation", "applied as", "images", *titles)
    note = "Scores of the exported weights; `applied as` is how the model was applied to an image."
    return [note, _table(header, rows), _class_table(model, scores)]


def _class_table(model: TrainedModel, scores: Sequence[RecordedScores]) -> str:
    """Return a table of all classes, with the IoU of each in the scores that have one."""
    scored = [
        each for each in scores if any(each.iou(name) is not None for name in model.class_names)
    ]
    rows = [
        (index, name, *(_value("miou", each.iou(name)) for each in scored))
        for index, name in enumerate(model.class_names)
    ]
    titles = [f"IoU %, {each.name or 'validation'}" for each in scored]
    return _table(("index", "class", *titles), rows)


def _value(key: str, value: float | None) -> str:
    if value is None:
        return ""
    return f"{100 * value:.2f}" if key in COUNTED else f"{value:.4g}"


def _training(model: TrainedModel, run: TrialRun | None) -> list[tuple[str, object]]:
    experiment, classes = model.experiment, model.class_list
    data, training = experiment.data, experiment.training
    length = f"{training.epochs} epochs" if training.steps is None else f"{training.steps} steps"
    optimizer, schedule = training.optimizer_config, training.schedule_config
    rows: list[tuple[str, object]] = []
    if run is not None:
        rows += [("study", run.study), ("trial", run.labeled_name), ("MLflow run", run.run_id)]
        length += f" ({run.epoch} epochs trained)"
    rows += [
        ("network", _network(model)),
        ("data set", f"{classes.dataset}, split {data.trained_on}"),
        ("fingerprint of the data", classes.fingerprint),
        ("images", str(model.image_format)),
        ("crop", " x ".join(map(str, data.crop))),
        ("length", length),
        ("batch", training.batch),
        (
            "optimizer",
            f"{optimizer.name}, learning rate {training.learning_rate:g}, "
            f"weight decay {training.weight_decay:g}, schedule {schedule.name}",
        ),
        ("loss", ", ".join(map(_weighted, training.loss.term_configs))),
        ("seed", experiment.seed),
    ]
    groups = [f"no decay of {each}" for each in optimizer.no_decay]
    groups += [f"{each}: {rate:g} times the rate" for each, rate in optimizer.rate_factors.items()]
    if optimizer.layer_decay is not None:
        groups.append(f"layer decay {optimizer.layer_decay.factor:g}")
    if groups:
        rows.append(("parameter groups", ", ".join(groups)))
    if training.ema is not None:
        rows.append(("weights", f"exponential moving average, decay {training.ema:g}"))
    starts = (("backbone", training.backbone_weights), ("whole network", training.init))
    digests = run.digests if run is not None else (None, None)
    for (part, location), digest in zip(starts, digests, strict=True):
        if location is not None:
            named = without_folder(location)
            rows.append((f"initial weights, {part}", named + (f" ({digest})" if digest else "")))
    return rows


def _weighted(term: LossTermConfig) -> str:
    return term.name if term.weight == 1 else f"{term.weight:g} x {term.name}"


def _network(model: TrainedModel) -> str:
    config = model.experiment.model
    if isinstance(config, NetworkConfig):
        named = config.network
    else:
        named = f"FENet on {config.backbone}, flows: {', '.join(config.flows) or 'none'}"
    millions = count_parameters(model.network) / 1e6  # as in tables, without auxiliary heads
    return f"{named}, {millions:.2f} M parameters"


def without_folder(location: str) -> str:
    """Return the last part of a path or URI; folders and buckets may be private."""
    if location.startswith(("runs:", "models:", "hf:")):
        return location
    return location.rstrip("/").rpartition("/")[2]


def _use(model: TrainedModel, options: CardOptions) -> Iterable[str]:
    folder = "."
    if options.repository is not None:
        folder = options.repository.partition("/")[2]
        yield f"```sh\nhf download {options.repository} --local-dir {folder}\n```"
    if "safetensors" in options.files:
        imports = "".join(f" --import {shlex.quote(name)}" for name in model.imports)
        yield (
            "With `pip install segmentation-orchestrator`, the folder is a MODEL of its commands; "
            "`experiment.yaml` has all settings:\n\n```sh\n"
            f"orchestrator predict {folder} image.png --out predicted{imports}\n"
            f"orchestrator evaluate {folder} --dataset DATASET{imports}\n```"
        )
    if "onnx" in options.files and model.image_format.is_stored_as_rgb:
        if options.size is None:
            yield "With onnxruntime, for images of every size:"
        else:
            yield "With onnxruntime, for one image of {} x {} pixels:".format(*options.size)
        yield _ONNX.format(file=repr((Path(folder) / options.files["onnx"]).as_posix()))
    if options.files.keys() - {"safetensors"}:
        yield (
            "`metadata.json` has class names, palette and normalization of "
            + " and ".join(
                f"`{file}`" for kind, file in options.files.items() if kind != "safetensors"
            )
            + "."
        )


def _limits(
    model: TrainedModel, run: TrialRun | None, scores: Sequence[RecordedScores]
) -> Iterable[str]:
    data = model.experiment.data
    yield _CHECKPOINTS[model.checkpoint]
    if re.fullmatch(r"models:/[^/]+@best", model.name):
        yield _BEST_TRIAL
    if any(each.split == data.validation_split for each in scores):
        overlap = splits_overlap(data.trained_on, data.validation_split or "")
        yield _TRAINED_ON if overlap else _VALIDATION
    yield _SEED
    yield _DOMAIN
    if run is not None:
        yield from (_text(warning) for warning in run.data_warnings)
        if run.stopped_early:
            yield "The early stopping of a search ended its training."
        elif run.status != "FINISHED":
            yield f"Its training is not finished: the state of its run is {run.status}."
    own = sorted({name.partition(":")[0] for name in model.experiment.network_class_names})
    own = [name for name in own if name.partition(".")[0] not in ("models", "pipelines")]
    if own:
        yield f"The weights need these modules, which are not in this folder: {', '.join(own)}."


def _versions(run: TrialRun | None) -> list[tuple[str, object]]:
    rows: list[tuple[str, object]] = []
    if run is not None and run.code:
        rows.append(("code version of the training", run.code))
    for library in _LIBRARIES:
        try:
            rows.append((f"{library}, of the export", version(library)))
        except PackageNotFoundError:
            continue
    return rows


def _table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(_text(cell) for cell in line)} |" for line in lines)


def _text(value: object) -> str:
    """Return a value as text within one line or cell of Markdown."""
    text = " ".join(str(value).split())
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")
