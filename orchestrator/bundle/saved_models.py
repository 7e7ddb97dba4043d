"""Folders of saved models that a study names (`hf:./FOLDER`), as a bundle holds them."""

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from models.hugging_face.configuration import saved_files
from orchestrator.study.yaml_source import parse_yaml
from pipelines.config import dump_yaml

MODELS = "models"
_NAME = f"hf:./{MODELS}/"


def copy_saved_models(texts: Iterable[str], directory: Path, with_weights: bool) -> dict[str, str]:
    """Copy the folders of saved models that YAML texts name into a bundle's directory.

    with_weights: copy the weights, too. Models on the hub are left out. Returns the name of each
    model in the bundle by its name in the texts.
    """
    found: dict[str, str] = {}
    for name in dict.fromkeys(name for text in texts for name in _texts(_parsed(text))):
        files = saved_files(name)
        if not files:
            continue
        folder = f"{len(found) + 1}-{files[0].parent.resolve().name}"
        target = directory / MODELS / folder
        target.mkdir(parents=True)
        for file in files:
            if with_weights or file.suffix == ".json":
                shutil.copyfile(file, target / file.name)
        found[name] = f"{_NAME}{folder}"
    return found


def bundled_weights(location: str, models: Mapping[str, str]) -> str:
    """Return the location of weights; if they are those of a saved model, that in the bundle.
    models: see `copy_saved_models`."""
    for name, bundled in models.items():
        folder = saved_files(name)[0].parent.resolve()
        if Path(location).is_relative_to(folder):
            return f"{bundled.removeprefix('hf:')}/{Path(location).name}"
    return location


def local_model(name: str, directory: Path) -> str:
    """Return the path of a saved model if `name` is its name in a bundle, otherwise `name`."""
    if not name.startswith(_NAME):
        return name
    return f"hf:{directory.resolve() / MODELS / name.removeprefix(_NAME)}"


def missing_weights(location: str | None, directory: Path) -> str | None:
    """Return the name of the saved model in a bundle whose weights `location` names, if the bundle
    was written without them, otherwise None."""
    if location is None:
        return None
    path = Path(location)
    inside = path.is_relative_to(directory.resolve() / MODELS)
    return path.parent.name if inside and not path.exists() else None


def renamed(text: str, rename: Callable[[str], str]) -> str:
    """Return a YAML text with each string renamed; comments are kept at its top only."""
    value = _parsed(text)
    if all(rename(name) == name for name in _texts(value)):
        return text
    if isinstance(value, str):
        return rename(value)
    comments = [line for line in text.splitlines(keepends=True) if line.startswith("#")]
    return "".join(comments) + dump_yaml(_renamed(value, rename))


def _parsed(text: str) -> Any:
    return parse_yaml(text, "the study").value


def _texts(value: Any) -> Iterator[str]:
    """Yield the strings in plain values, without keys of mappings."""
    if isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _texts(each)
    elif isinstance(value, str):
        yield value


def _renamed(value: Any, rename: Callable[[str], str]) -> Any:
    if isinstance(value, dict):
        return {key: _renamed(each, rename) for key, each in value.items()}
    if isinstance(value, list):
        return [_renamed(each, rename) for each in value]
    return rename(value) if isinstance(value, str) else value
