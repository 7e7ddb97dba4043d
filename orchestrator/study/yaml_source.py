"""Reads study files into plain values and remembers the line and column of every value.

The YAML dialect is that of `pipelines.config`; in addition, a duplicate key is an error.
"""

import sys
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from yaml.reader import ReaderError

from pipelines.config import CoreLoader
from pipelines.errors import UserError

Keys = tuple[str | int, ...]

# Study files are written by hand. Anything larger is the wrong file, or aliases that multiply.
_MAX_BYTES = 4 * 2**20
_MAX_VALUES = 200_000


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
    """One error in a study: its location, and a message that says what would work."""

    location: SourceLocation
    message: str

    def __str__(self) -> str:
        return f"{self.location}: {self.message}"


class StudyError(UserError, ValueError):
    """A study that cannot be run. `problems` holds every problem once, sorted by file and line."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = sorted(
            dict.fromkeys(problems),
            key=lambda problem: (
                problem.location.name,
                problem.location.line or 0,
                problem.location.column or 0,
            ),
        )
        super().__init__("\n".join(str(problem) for problem in self.problems))


@dataclass
class Source:
    """A tree of plain values, with the location of each node by the keys that lead to it."""

    name: str
    value: Any
    locations: dict[Keys, SourceLocation] = field(default_factory=dict)

    def location(self, keys: Keys) -> SourceLocation:
        """Return the location of the node at `keys`, or of its nearest ancestor."""
        while keys and keys not in self.locations:
            keys = keys[:-1]
        return self.locations.get(keys, SourceLocation(self.name))

    def at(self, keys: Keys) -> Any:
        """Return the value at `keys`, which must exist."""
        return _value_at(self.value, keys)

    def subtree(self, keys: Keys) -> "Source":
        """Return the tree below `keys`, with its locations."""
        depth = len(keys)
        inner = {
            path[depth:]: location
            for path, location in self.locations.items()
            if path[:depth] == keys
        }
        return Source(self.name, _value_at(self.value, keys), inner)

    def without(self, key: str) -> "Source":
        """Return this tree without the top-level `key`."""
        return self.pruned({name: inner for name, inner in self.value.items() if name != key})

    def pruned(self, value: Any) -> "Source":
        """Return `value`, which is this tree with some nodes removed, with the locations of the
        remaining nodes."""
        locations = {
            keys: location for keys, location in self.locations.items() if _has(value, keys)
        }
        return Source(self.name, value, locations)

    def merged(self, other: "Source") -> "Source":
        """Return this tree overridden by `other`: mappings merge, everything else is replaced."""
        result = Source(self.name, self.value, dict(self.locations))
        result.value = _merge(self.value, other.value)
        for keys in _replacing(other.value):
            for stale in [path for path in result.locations if path[: len(keys)] == keys]:
                del result.locations[stale]
            result.locations[keys] = other.location(keys)
        result.locations |= other.locations
        return result


def single_value(dotted: str, value: Any, location: SourceLocation) -> Source:
    """Return a tree that holds only `value`, at a dotted key such as `training.epochs`."""
    keys: Keys = tuple(dotted.split("."))
    tree: Any = value
    for key in reversed(keys):
        tree = {key: tree}
    locations = {keys[:depth]: location for depth in range(1, len(keys) + 1)}
    return Source(location.name, tree, locations)


def without_nodes(value: Any, removed: Collection[Keys], keys: Keys = ()) -> Any:
    """Return nested mappings and lists without the nodes at `removed`. keys: of `value` itself."""
    if isinstance(value, dict):
        return {
            key: without_nodes(inner, removed, (*keys, key))
            for key, inner in value.items()
            if (*keys, key) not in removed
        }
    if isinstance(value, list):
        return [
            without_nodes(inner, removed, (*keys, index))
            for index, inner in enumerate(value)
            if (*keys, index) not in removed
        ]
    return value


def read_yaml(path: Path, problems: list[Problem] | None = None) -> Source:
    """Read a YAML file.

    problems: collects errors that do not prevent reading, such as a duplicate key. Without it,
    these errors are raised, too. Raises StudyError if the file cannot be read.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise StudyError([Problem(SourceLocation(str(path)), "there is no such file")]) from None
    except (OSError, ValueError) as error:  # ValueError: the path has the character NUL
        message = f"cannot be read: {getattr(error, 'strerror', None) or error}"
        raise StudyError([Problem(SourceLocation(str(path)), message)]) from None
    if len(content) > _MAX_BYTES:
        message = (
            f"the file has {len(content) >> 20} MiB; a study file may have at most "
            f"{_MAX_BYTES >> 20} MiB"
        )
        raise StudyError([Problem(SourceLocation(str(path)), message)])
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        location = _end_location(content[: error.start].decode("utf-8"), str(path))
        message = f"not UTF-8 (byte 0x{content[error.start]:02x}); save the file as UTF-8"
        raise StudyError([Problem(location, message)]) from None
    return parse_yaml(text, str(path), problems)


def parse_yaml(text: str, name: str, problems: list[Problem] | None = None) -> Source:
    """Parse YAML `text`; messages call it `name`. See `read_yaml`."""
    parser = _Parser(Source(name, None))
    try:
        node = yaml.compose(text, Loader=CoreLoader)
        if node is not None:
            parser.source.value = parser.parse(node, ())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        location = (
            SourceLocation(name, mark.line + 1, mark.column + 1) if mark else SourceLocation(name)
        )
        problem = " ".join(part for part in (error.problem, error.context) if part)
        raise StudyError([Problem(location, f"not valid YAML: {problem}")]) from None
    except ReaderError as error:
        location = _end_location(text[: error.position], name)
        message = f"not valid YAML: the character #x{error.character:02x} is not allowed; remove it"
        raise StudyError([Problem(location, message)]) from None
    except RecursionError:
        raise StudyError(
            [Problem(SourceLocation(name, 1, 1), "nested too deeply to be read")]
        ) from None
    if parser.problems and problems is None:
        raise StudyError(parser.problems)
    if problems is not None:
        problems += parser.problems
    return parser.source


@dataclass
class _Parser:
    """Turns YAML nodes into plain values. open: the nodes being parsed, outermost first."""

    source: Source
    problems: list[Problem] = field(default_factory=list)
    open: list[yaml.Node] = field(default_factory=list)

    def parse(self, node: yaml.Node, keys: Keys) -> Any:
        """Return the node's value, and record its location and those of its descendants."""
        location = _location(self.source.name, node)
        self.source.locations[keys] = location
        if len(self.source.locations) > _MAX_VALUES:
            message = f"more than {_MAX_VALUES} values after expanding aliases (*)"
            raise StudyError([Problem(location, message)])
        if any(node is each for each in self.open):
            self._report(location, "this value contains itself through an alias (*)")
            return None
        self.open.append(node)
        try:
            return self._value(node, keys, location)
        finally:
            self.open.pop()

    def _value(self, node: yaml.Node, keys: Keys, location: SourceLocation) -> Any:
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, keys)
        if isinstance(node, yaml.SequenceNode):
            return [self.parse(child, (*keys, index)) for index, child in enumerate(node.value)]
        try:
            value = CoreLoader("").construct_object(node)
        except ValueError:
            # Python refuses to parse integers of thousands of digits.
            self._report(location, f"a number of {len(node.value)} digits is too long")
            return None
        if problem := value_problem(value):
            self._report(location, problem)
        return value

    def _mapping(self, node: yaml.MappingNode, keys: Keys) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            location = _location(self.source.name, key_node)
            if not isinstance(key_node, yaml.ScalarNode):
                self._report(location, "a key must be plain text, not a list or a mapping")
                continue
            key = str(key_node.value)
            if problem := text_problem(key):
                self._report(location, problem)
            elif key == "<<":
                self._report(location, "merge keys (<<) are not supported; use `set`")
            elif key in mapping:
                self._report(location, f"duplicate key `{key}`; keep one of them")
            else:
                mapping[key] = self.parse(value_node, (*keys, key))
                # Messages point to the key of an entry, not to its value.
                self.source.locations[(*keys, key)] = location
        return mapping

    def _report(self, location: SourceLocation, message: str) -> None:
        self.problems.append(Problem(location, message))


def value_problem(value: Any) -> str:
    """Return why a study cannot contain this text or number; empty if it can."""
    if isinstance(value, int) and abs(value) > sys.float_info.max:  # no float can hold it
        return "a number of more than 308 digits is too long; use a smaller one"
    return text_problem(value) if isinstance(value, str) else ""


def text_problem(text: str) -> str:
    """Return why a study cannot contain `text`; empty if it can. Paths cannot hold the character
    NUL, and surrogates are no characters."""
    for character in text:
        if character == "\0" or "\ud800" <= character <= "\udfff":
            return f"the character #x{ord(character):02x} is not allowed; remove it"
    return ""


def _end_location(text: str, name: str) -> SourceLocation:
    """Return the location just after `text`."""
    return SourceLocation(name, text.count("\n") + 1, len(text) - (text.rfind("\n") + 1) + 1)


def _location(name: str, node: yaml.Node) -> SourceLocation:
    return SourceLocation(name, node.start_mark.line + 1, node.start_mark.column + 1)


def _value_at(value: Any, keys: Keys) -> Any:
    for key in keys:
        value = value[key]
    return value


def _replacing(value: Any, keys: Keys = ()) -> Iterator[Keys]:
    """Yield the keys of each list and single value of a tree, below `keys`."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _replacing(inner, (*keys, key))
    else:
        yield keys


def _has(value: Any, keys: Keys) -> bool:
    for key in keys:
        if isinstance(value, dict) and key not in value:
            return False
        value = value[key]
    return True


def _merge(base: Any, override: Any) -> Any:
    if isinstance(base, dict) and isinstance(override, dict):
        keys = list(base) + [key for key in override if key not in base]
        return {
            key: _merge(base.get(key), override[key]) if key in override else base[key]
            for key in keys
        }
    return override
