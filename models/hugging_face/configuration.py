"""Models of the library `transformers`, named `hf:MODEL`, as configurations; imports no torch.

MODEL is a type of model, such as `convnext` or `segformer`; a folder with a saved model, such as
`./convnext-tiny`; or a model on the Hugging Face hub, `OWNER/NAME` or `OWNER/NAME@REVISION`.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from models.imagenet import IMAGENET_MEAN, IMAGENET_STD

Kind = Literal["backbone", "network"]

_PREFIX = "hf:"
_CONFIG_FILE = "config.json"
_PREPROCESSOR_FILE = "preprocessor_config.json"
_WEIGHTS_FILE = "model.safetensors"
_HUB_NAME = re.compile(r"(?P<repository>[\w-][\w.-]*/[\w.-]+)(@(?P<revision>[\w./-]+))?")

#: The types of models of each kind, in `transformers.models.auto.modeling_auto`.
_TYPES = {
    "backbone": "MODEL_FOR_BACKBONE_MAPPING_NAMES",
    "network": "MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES",
}

#: Arguments of this project rather than of a model's configuration.
_NORMALIZATION = ("image_mean", "image_std")

#: Entries of a saved configuration that do not describe the network, or that the data set decides.
_IGNORED = {
    *(
        "_name_or_path",
        "architectures",
        "dtype",
        "id2label",
        "label2id",
        "model_type",
        "num_labels",
    ),
    *("problem_type", "torch_dtype", "transformers_version"),
}


@dataclass(frozen=True)
class SavedModel:
    """A saved model: its type, the arguments that rebuild it, and where its weights are.

    name: `hf:TYPE`. weights: path of a file, or `hf:OWNER/NAME@REVISION` for a model on the hub.
    """

    name: str
    arguments: dict[str, Any]
    weights: str


def transformers() -> Any:
    """Return the module `transformers`.

    Raises:
        ValueError: it is not installed.
    """
    try:
        return import_module("transformers")
    except ImportError as error:
        raise ValueError(
            f"models named hf:... need the package transformers, which cannot be imported "
            f"({error}); run: pip install transformers (or install this project's extra, "
            "'segmentation-orchestrator[transformers]')"
        ) from error


def is_saved(name: str) -> bool:
    """Whether `name` is `hf:` with a folder or a model on the hub, rather than a type of model."""
    return name.startswith((_PREFIX + ".", _PREFIX + "~")) or (
        name.startswith(_PREFIX) and "/" in name
    )


def read_saved(name: str, arguments: Mapping[str, Any]) -> SavedModel:
    """Read the configuration and the normalization of a saved model, but not its weights.

    name: `hf:FOLDER` or `hf:OWNER/NAME`. arguments: override entries of the configuration.

    Raises:
        ValueError: there is no such model, or it needs images that this project does not provide.
    """
    source = name.removeprefix(_PREFIX)
    folder = Path(source).expanduser()
    if folder.is_dir():
        file, weights = folder / _CONFIG_FILE, str(folder.resolve() / _WEIGHTS_FILE)
        preprocessor: Path | None = folder / _PREPROCESSOR_FILE
    elif match := _HUB_NAME.fullmatch(source):
        file = _hub_file(match["repository"], _CONFIG_FILE, match["revision"])
        # The files of a revision are in a folder named by its commit.
        commit = file.parent.name
        weights = f"{_PREFIX}{match['repository']}@{commit}"
        preprocessor = _hub_file(match["repository"], _PREPROCESSOR_FILE, commit, optional=True)
    else:
        raise ValueError(f"{name}: no such folder; for a model on the hub, write hf:OWNER/NAME")
    stored = _read_json(file)
    model_type = stored.get("model_type")
    if not isinstance(model_type, str):
        raise ValueError(f"{file} has no model_type, so it is not the configuration of a model")
    known = _known_arguments(_config_class(model_type))
    kept = {key: value for key, value in stored.items() if key in known}
    if len(kept.get("out_indices") or ()) <= 1:  # the default: the last stage only
        kept = {key: value for key, value in kept.items() if not key.startswith("out_")}
    kept |= _normalization_arguments(name, _read_json(preprocessor))
    return SavedModel(_PREFIX + model_type, {**kept, **arguments}, weights)


def saved_files(name: str) -> list[Path]:
    """Return the files of a folder `hf:FOLDER` that hold a saved model: its configuration first,
    then those of its normalization and its weights that exist; none for any other name."""
    folder = Path(name.removeprefix(_PREFIX)).expanduser()
    if not is_saved(name) or not (folder / _CONFIG_FILE).is_file():
        return []
    others = (folder / _PREPROCESSOR_FILE, folder / _WEIGHTS_FILE)
    return [folder / _CONFIG_FILE, *(file for file in others if file.is_file())]


def resolve(name: str, arguments: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """Return `hf:TYPE` and the arguments that rebuild a model, also of a saved one.

    Raises:
        ValueError: see `read_saved`.
    """
    if not is_saved(name):
        return name, arguments
    saved = read_saved(name, arguments)
    return saved.name, saved.arguments


def saved_weights(name: str) -> Path:
    """Return the file of the weights of a model on the hub, from the local cache or downloaded.

    name: `hf:OWNER/NAME` or `hf:OWNER/NAME@REVISION`.

    Raises:
        ValueError: the file cannot be found.
    """
    match = _HUB_NAME.fullmatch(name.removeprefix(_PREFIX))
    if match is None:
        raise ValueError(f"{name} is not of the form hf:OWNER/NAME")
    return _hub_file(match["repository"], _WEIGHTS_FILE, match["revision"])


def model_config(kind: Kind, name: str, arguments: Mapping[str, Any]) -> Any:
    """Return the configuration of a model as an object of `transformers`.

    name: `hf:TYPE`. arguments: entries of the configuration; those of the normalization are left
    out, see `normalization`.

    Raises:
        ValueError: `transformers` has no such type of this kind, or an argument is not valid.
    """
    library = transformers()
    model_type = name.removeprefix(_PREFIX)
    types = getattr(import_module("transformers.models.auto.modeling_auto"), _TYPES[kind])
    if model_type not in types:
        close = get_close_matches(model_type, list(types), 1)
        advice = f"did you mean {_PREFIX}{close[0]}?" if close else f"known: {', '.join(types)}."
        raise ValueError(
            f"transformers has no {kind} of type {model_type!r}; {advice} A folder is written "
            f"{_PREFIX}./FOLDER, a model on the hub {_PREFIX}OWNER/NAME"
        )
    known = _known_arguments(_config_class(model_type))
    entries = {key: value for key, value in arguments.items() if key not in _NORMALIZATION}
    for key in entries:
        if key not in known:
            close = get_close_matches(key, known, 1)
            advice = f"did you mean {close[0]}?" if close else f"known: {', '.join(sorted(known))}"
            raise ValueError(f"{name}: unknown argument `{key}`; {advice}")
    try:
        config = library.AutoConfig.for_model(model_type, **entries)
    except Exception as error:  # the library validates with errors of its own
        raise ValueError(f"{name}: {' '.join(str(error).split())}") from error
    _use_lists(config)
    return config


def _use_lists(config: Any) -> None:
    """Replace tuples in a configuration by lists, as a saved one has them; ConvNeXt cannot be built
    from the library's own defaults."""
    for key, value in list(vars(config).items()):
        if isinstance(value, tuple):
            setattr(config, key, list(value))
        elif isinstance(value, transformers().PreTrainedConfig):
            _use_lists(value)


def set_channels(name: str, config: Any, channels: int) -> None:
    """Set the number of channels of the images in a model's configuration.

    Raises:
        ValueError: the configuration has no such entry, so the model takes three channels only.
    """
    parts = [config, getattr(config, "backbone_config", None)]
    counted = [part for part in parts if hasattr(part, "num_channels")]
    for part in counted:
        part.num_channels = channels
    if not counted and channels != 3:
        raise ValueError(
            f"{name}: its configuration has no `num_channels`, so it takes RGB images only, but "
            f"the images have {channels} channels"
        )


def channels_of(config: Any) -> int:
    """Return the number of channels of the images of a model."""
    inner = config if hasattr(config, "num_channels") else getattr(config, "backbone_config", None)
    return int(getattr(inner, "num_channels", 3))


def check_channels(name: str, arguments: Mapping[str, Any], channels: int) -> None:
    """Check the argument `num_channels`, which the images decide. A model that was saved for three
    channels is adapted.

    Raises:
        ValueError: it is another number.
    """
    stated = arguments.get("num_channels", channels)
    if stated not in (3, channels):
        raise ValueError(
            f"{name}: num_channels is {stated}, but the images have {channels} channels; remove it"
        )


def normalization(arguments: Mapping[str, Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of the images in [0, 1], by default ImageNet's.

    Raises:
        ValueError: a value is not three numbers, or a deviation is not above 0.
    """
    values = []
    defaults = (IMAGENET_MEAN, IMAGENET_STD)
    for key, default in zip(_NORMALIZATION, defaults, strict=True):
        value = arguments.get(key, default)
        numbers = value if isinstance(value, list | tuple) else [value] * 3
        if len(numbers) != 3 or not all(_is_number(each) for each in numbers):
            raise ValueError(f"{key} is {value!r}; it must be three numbers, one by channel")
        values.append(tuple(float(each) for each in numbers))
    mean, std = values
    if min(std) <= 0:
        raise ValueError(f"image_std is {list(std)}; its values must be above 0")
    return mean, std


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _normalization_arguments(name: str, preprocessor: Mapping[str, Any]) -> dict[str, Any]:
    """Return `image_mean` and `image_std` for images in [0, 1]."""
    if preprocessor.get("do_flip_channel_order"):
        raise ValueError(
            f"{name} expects images with blue, green and red channels, which are not supported; "
            "name its type with arguments and train it from scratch"
        )
    if not preprocessor:
        return {}
    mean: list[float] = [0.0] * 3
    std: list[float] = [1.0] * 3
    if preprocessor.get("do_normalize", True):
        defaults = normalization({})
        mean = preprocessor.get("image_mean", list(defaults[0]))
        std = preprocessor.get("image_std", list(defaults[1]))
    # Values up to `scale` instead of up to 1 enter the network's own normalization.
    scale = 1.0
    if not preprocessor.get("do_rescale", True):
        scale = 255.0
    elif "rescale_factor" in preprocessor:
        scale = round(255 * preprocessor["rescale_factor"], 9)
    result = {
        "image_mean": [value / scale for value in mean],
        "image_std": [value / scale for value in std],
    }
    normalization(result)
    return result


@cache
def _config_class(model_type: str) -> Any:
    """Return the class of a model's configuration. Raises ValueError."""
    library = transformers()
    try:
        return type(library.AutoConfig.for_model(model_type))
    except Exception as error:
        raise ValueError(f"transformers has no model of type {model_type!r}") from error


@cache
def _known_arguments(config_class: Any) -> frozenset[str]:
    names = {*config_class().to_dict(), *getattr(config_class, "attribute_map", {})}
    return frozenset(names - _IGNORED - {"stage_names"})


def _read_json(file: Path | None) -> dict[str, Any]:
    """Return the content of a file; nothing if it is optional and does not exist."""
    if file is None or (not file.is_file() and file.name != _CONFIG_FILE):
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{file}: cannot be read ({error})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file}: holds {type(content).__name__}, not a JSON object")
    return content


def _hub_file(repository: str, file: str, revision: str | None, optional: bool = False) -> Any:
    """Return the local path of a file of a model on the hub, downloaded unless it is cached; None
    if it is optional and does not exist."""
    transformers()
    hub, errors = import_module("huggingface_hub"), import_module("huggingface_hub.errors")
    try:
        return Path(hub.hf_hub_download(repository, file, revision=revision))
    except errors.LocalEntryNotFoundError as error:
        if optional:
            return None
        reason: Exception = error
    except errors.EntryNotFoundError as error:
        if optional:
            return None
        reason = error
    except Exception as error:  # the library and its HTTP client raise many kinds
        reason = error
    text = str(reason).strip().split("\n")[0]
    raise ValueError(
        f"{_PREFIX}{repository}: {file} is neither a local folder's nor in the cache of the hub, "
        f"and cannot be downloaded ({type(reason).__name__}: {text})"
    ) from reason
