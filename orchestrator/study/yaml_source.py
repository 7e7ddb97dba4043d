"""Study files as plain values, with the line every value came from.

The YAML is that of `pipelines.config`, and a key that stands twice is an error.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from yaml.reader import ReaderError

from pipelines.config import CoreLoader
from pipelines.errors import UserError

Keys = tuple[str | int, ...]

# A study is written by a person; what is longer is another file, or aliases that multiply.
_MOST_BYTES = 4 * 2**20
_MOST_VALUES = 200_000


@dataclass(frozen=True)
class SourceLocation:
    """Where a value was written: a file with line and column (from 1), or a command-line option."""

    name: str
    line: int | None = None
    column: int | None = None

    def __str__(self) -> str:
        if self.line is None:
            return self.name
        return f"{self.name}:{self.line}:{self.column}"


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a study: where, and a sentence with what would work."""

    place: SourceLocation
    message: str

    def __str__(self) -> str:
        return f"{self.place}: {self.message}"


class StudyError(UserError, ValueError):
    """A study that cannot be run. `problems` holds everything found, each once, file by file and in
    its order."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = sorted(
            dict.fromkeys(problems),
            key=lambda problem: (
                problem.place.name,
                problem.place.line or 0,
                problem.place.column or 0,
            ),
        )
        super().__init__("\n".join(str(problem) for problem in self.problems))


@dataclass
class Source:
    """A tree of plain values and the place of each of its nodes, by the keys that lead to it."""

    name: str
    value: Any
    places: dict[Keys, SourceLocation] = field(default_factory=dict)

    def place(self, keys: Keys) -> SourceLocation:
        """The place of the node at `keys`, or of the nearest node above it."""
        while keys and keys not in self.places:
            keys = keys[:-1]
        return self.places.get(keys, SourceLocation(self.name))

    def at(self, keys: Keys) -> Any:
        """The value at `keys`, which must be there."""
        return _at(self.value, keys)

    def subtree(self, keys: Keys) -> "Source":
        """The tree below `keys`, with its places."""
        value = self.value
        for key in keys:
            value = value[key]
        inner = {
            path[len(keys) :]: p for path, p in self.places.items() if path[: len(keys)] == keys
        }
        return Source(self.name, value, inner)

    def without(self, key: str) -> "Source":
        """This tree without the top-level `key`."""
        return self.reduced({name: inner for name, inner in self.value.items() if name != key})

    def reduced(self, value: Any) -> "Source":
        """`value`, which is this tree without some of its nodes, with the places of the others."""
        places = {keys: place for keys, place in self.places.items() if _has(value, keys)}
        return Source(self.name, value, places)

    def merged(self, other: "Source") -> "Source":
        """This tree with `other` laid over it: mappings merge, everything else is replaced."""
        result = Source(self.name, self.value, dict(self.places))
        result.value = _merge(self.value, other.value)
        for keys, place in other.places.items():
            if not isinstance(_at(other.value, keys), dict):
                for stale in [path for path in result.places if path[: len(keys)] == keys]:
                    del result.places[stale]
            result.places[keys] = place
        return result


def single_value(dotted: str, value: Any, place: SourceLocation) -> Source:
    """A tree that holds nothing but `value` at the keys of `dotted`, such as `training.epochs`."""
    keys = tuple(dotted.split("."))
    tree: Any = value
    for key in reversed(keys):
        tree = {key: tree}
    return Source(place.name, tree, {keys[:depth]: place for depth in range(1, len(keys) + 1)})


def read_yaml(path: Path, problems: list[Problem] | None = None) -> Source:
    """Read a YAML file.

    problems: takes what is wrong in a file that can be read all the same, such as a key that stands
    twice. Raises StudyError where it cannot be read; without `problems`, for them too.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise StudyError([Problem(SourceLocation(str(path)), "there is no such file")]) from None
    except OSError as error:
        told = f"cannot be read: {error.strerror or error}"
        raise StudyError([Problem(SourceLocation(str(path)), told)]) from None
    if len(content) > _MOST_BYTES:
        told = f"a study file has at most {_MOST_BYTES >> 20} MiB, this one {len(content) >> 20}"
        raise StudyError([Problem(SourceLocation(str(path)), told)])
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        place = _place_in(content[: error.start].decode("utf-8"), str(path))
        told = f"not UTF-8 (byte 0x{content[error.start]:02x}); save the file as UTF-8"
        raise StudyError([Problem(place, told)]) from None
    return parse_yaml(text, str(path), problems)


def parse_yaml(text: str, name: str, problems: list[Problem] | None = None) -> Source:
    """Parse YAML `text`; `name` stands for it in messages. See `read_yaml`."""
    reading = _Reading(Source(name, None))
    try:
        node = yaml.compose(text, Loader=CoreLoader)
        if node is not None:
            reading.source.value = reading.plain(node, ())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = (
            SourceLocation(name, mark.line + 1, mark.column + 1) if mark else SourceLocation(name)
        )
        problem = " ".join(part for part in (error.problem, error.context) if part)
        raise StudyError([Problem(place, f"not valid YAML: {problem}")]) from None
    except ReaderError as error:
        place = _place_in(text[: error.position], name)
        told = f"not valid YAML: the character #x{error.character:02x} must not stand in a file"
        raise StudyError([Problem(place, told)]) from None
    except RecursionError:
        raise StudyError(
            [Problem(SourceLocation(name, 1, 1), "nested too deeply to be read")]
        ) from None
    if reading.problems and problems is None:
        raise StudyError(reading.problems)
    if problems is not None:
        problems += reading.problems
    return reading.source


@dataclass
class _Reading:
    """One reading of a file. open: the nodes that are being read, each inside the one before."""

    source: Source
    problems: list[Problem] = field(default_factory=list)
    open: list[yaml.Node] = field(default_factory=list)

    def plain(self, node: yaml.Node, keys: Keys) -> Any:
        """The node's value; its place and those below it are entered into the source."""
        place = _place(self.source.name, node)
        self.source.places[keys] = place
        if len(self.source.places) > _MOST_VALUES:
            told = f"more than {_MOST_VALUES} values, with each alias (*) written out"
            raise StudyError([Problem(place, told)])
        if any(node is each for each in self.open):
            self._refuse(place, "what is here contains itself, by an alias (*)")
            return None
        self.open.append(node)
        try:
            return self._value(node, keys, place)
        finally:
            self.open.pop()

    def _value(self, node: yaml.Node, keys: Keys, place: SourceLocation) -> Any:
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, keys)
        if isinstance(node, yaml.SequenceNode):
            return [self.plain(child, (*keys, index)) for index, child in enumerate(node.value)]
        try:
            return CoreLoader("").construct_object(node)
        except ValueError:
            # Python refuses to read integers of thousands of digits.
            self._refuse(place, f"a number of {len(node.value)} digits is too long")
            return None

    def _mapping(self, node: yaml.MappingNode, keys: Keys) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            place = _place(self.source.name, key_node)
            if not isinstance(key_node, yaml.ScalarNode):
                self._refuse(place, "a key must be a plain word")
                continue
            key = str(key_node.value)
            if key == "<<":
                self._refuse(place, "merge keys (<<) are not supported; use `set`")
            elif key in mapping:
                self._refuse(place, f"`{key}` stands here twice; keep one of them")
            else:
                mapping[key] = self.plain(value_node, (*keys, key))
                # A mapping entry is found by its key, which is where a reader looks.
                self.source.places[(*keys, key)] = place
        return mapping

    def _refuse(self, place: SourceLocation, message: str) -> None:
        self.problems.append(Problem(place, message))


def _place_in(text: str, name: str) -> SourceLocation:
    """The place of what comes after `text`."""
    return SourceLocation(name, text.count("\n") + 1, len(text) - (text.rfind("\n") + 1) + 1)


def _place(name: str, node: yaml.Node) -> SourceLocation:
    return SourceLocation(name, node.start_mark.line + 1, node.start_mark.column + 1)


def _at(value: Any, keys: Keys) -> Any:
    for key in keys:
        value = value[key]
    return value


def _has(value: Any, keys: Keys) -> bool:
    for key in keys:
        if isinstance(value, dict) and key not in value:
            return False
        value = value[key]
    return True


def _merge(below: Any, above: Any) -> Any:
    if isinstance(below, dict) and isinstance(above, dict):
        keys = list(below) + [key for key in above if key not in below]
        return {
            key: _merge(below.get(key), above[key]) if key in above else below[key] for key in keys
        }
    return above
