"""The classes of a `folder` data set, and which stored values or colors mean them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.data.manifest import ClassInfo, DatasetError, name_problem
from pipelines.preparation.labels import IGNORE
from pipelines.preparation.labels.colors import BLACK

LARGEST_VALUE = 65535


def check_classes(path: Path, content: Mapping[str, Any]) -> None:
    """Check `classes`: names, and a color or a list of colors for each. Raises DatasetError."""
    classes = content.get("classes")
    if not isinstance(classes, dict) or not 1 <= len(classes) <= IGNORE:
        raise DatasetError(f"{path}: classes must map 2 to {IGNORE} names to [red, green, blue]")
    if len(classes) == 1:
        (name,) = classes
        raise DatasetError(
            f"{path}: classes has only {name!r}, which every pixel would be; name the rest as a "
            f"class of its own, such as `background`, and for masks of 0 and 255 write `values: "
            f"{{0: background, 255: {name}}}`"
        )
    for name in classes:
        if not is_name(name):
            raise DatasetError(f"{path}: classes: the name {name!r} must be text; put it in quotes")
    names = [str(name) for name in classes]
    problem = name_problem(names)
    if problem:
        raise DatasetError(f"{path}: classes: {problem}")
    for name, value in classes.items():
        if not _colors(value):
            raise DatasetError(
                f"{path}: classes.{name} must be [red, green, blue], 0-255 each, or a list of such "
                f"colors; received {value!r}"
            )


def check_label_values(path: Path, content: Mapping[str, Any]) -> None:
    """Check `values`, `ignore`, `label_colors` and `ignore_colors`, after `check_classes`.

    Raises:
        DatasetError: a wrong form, or a value or color with two meanings; the message names the
            key.
    """
    classes, in_colors = content["classes"], content.get("label_colors", False)
    if not isinstance(in_colors, bool):
        raise DatasetError(f"{path}: label_colors must be true or false, received {in_colors!r}")
    if in_colors:
        _check_label_colors(path, content)
        return
    if "ignore_colors" in content:
        raise DatasetError(f"{path}: ignore_colors needs label_colors: true; remove one of them")
    for name, value in classes.items():
        if len(_colors(value)) > 1:
            raise DatasetError(
                f"{path}: classes.{name} has {len(_colors(value))} colors, which needs "
                "label_colors: true; keep the color to draw it in"
            )
    values = content.get("values")
    if "values" in content and not (isinstance(values, dict) and values):
        raise DatasetError(
            f"{path}: values must map stored values to classes, received {values!r}; leave it out "
            "if the values are class indices"
        )
    for value, name in (values or {}).items():
        if isinstance(value, str) and value.strip().isdecimal():
            raise DatasetError(
                f"{path}: values has the key {value!r} as text in quotes, but stored values are "
                f"numbers; write it without quotes, `{value.strip()}: {name}`"
            )
        if name not in list(classes) or not _is_stored_value(value):  # a list has no hash
            raise DatasetError(
                f"{path}: values.{value} must map a stored value to one of {list(classes)}, "
                f"received {name!r}"
            )
    ignored = _listed(content.get("ignore"))
    for value in ignored:
        if not _is_stored_value(value):
            raise DatasetError(
                f"{path}: ignore must be stored values, received {content['ignore']!r}"
            )
        if values is not None and value in values:
            raise DatasetError(
                f"{path}: {value} is both in ignore and in values, as {values[value]!r}; remove it "
                "from one of them"
            )
        if values is None and value < len(classes):
            shifted = ", ".join(f"{index + 1}: {name}" for index, name in enumerate(classes))
            raise DatasetError(
                f"{path}: ignore has {value}, which without `values` is the index of class "
                f"{list(classes)[value]!r}; say what the values mean"
                + (f", such as `values: {{{shifted}}}`" if ignored == [0] else " with `values`")
            )


def _check_label_colors(path: Path, content: Mapping[str, Any]) -> None:
    """Check the colors of labels in colors: each has one meaning."""
    for key, instead in (("values", "classes"), ("ignore", "ignore_colors")):
        if key in content:
            raise DatasetError(
                f"{path}: {key} has no meaning with label_colors: true, where {instead} lists "
                "colors; remove it"
            )
    owners: dict[tuple[int, int, int], str] = {}
    for name, value in content["classes"].items():
        for color in _colors(value):
            if owners.get(color) == name:
                raise DatasetError(
                    f"{path}: classes.{name} has the color {list(color)} twice; remove one of them"
                )
            if color in owners:
                raise DatasetError(
                    f"{path}: classes.{name} has the color {list(color)}, which "
                    f"classes.{owners[color]} has, too; with label_colors: true, each color must "
                    "mean one class"
                )
            owners[color] = name
    if "ignore_colors" not in content:
        return
    ignored = _colors(content["ignore_colors"])
    if not ignored and content["ignore_colors"] != []:
        raise DatasetError(
            f"{path}: ignore_colors must be a list of colors [red, green, blue], received "
            f"{content['ignore_colors']!r}"
        )
    for color in ignored:
        if color in owners:
            raise DatasetError(
                f"{path}: ignore_colors has {list(color)}, which is the color of "
                f"classes.{owners[color]}; remove it from one of them"
            )


def described_classes(description: Mapping[str, Any]) -> tuple[ClassInfo, ...]:
    """Return the classes with the color that each is drawn in, the first of its list."""
    entries = description["classes"].items()
    return tuple(ClassInfo(str(name), _colors(value)[0]) for name, value in entries)


def class_of_values(description: Mapping[str, Any]) -> dict[int, int]:
    """Return the class index (or IGNORE) of each stored value."""
    names = list(description["classes"])
    stored = description.get("values")
    if stored is None:
        indices = {index: index for index in range(len(names))}
    else:
        indices = {value: names.index(name) for value, name in stored.items()}
    if description.get("ignore") is None:
        return {IGNORE: IGNORE, **indices}
    return {**indices, **dict.fromkeys(_listed(description["ignore"]), IGNORE)}


def class_of_colors(description: Mapping[str, Any]) -> dict[tuple[int, int, int], int]:
    """Return the class index (or IGNORE) of each color of a label."""
    ignored = _colors(description.get("ignore_colors", [BLACK]))
    indices = dict.fromkeys(ignored, IGNORE)
    for index, value in enumerate(description["classes"].values()):
        indices |= dict.fromkeys(_colors(value), index)
    return indices


def is_name(value: object) -> bool:
    """Whether a YAML value is a name: text, or a whole number that was written without quotes."""
    return isinstance(value, str) or type(value) is int  # a bool is an int, too


def _listed(value: object) -> list[Any]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def _is_stored_value(value: object) -> bool:
    return type(value) is int and 0 <= value <= LARGEST_VALUE  # a bool is an int, too


def _colors(value: object) -> list[tuple[int, int, int]]:
    """Return the colors in a color or a list of colors; empty if it is neither."""
    colors = [value] if _is_color(value) else value
    if not isinstance(colors, list) or not all(map(_is_color, colors)):
        return []
    return [(red, green, blue) for red, green, blue in colors]


def _is_color(value: object) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) == 3
        and all(type(part) is int and 0 <= part <= 255 for part in value)
    )
