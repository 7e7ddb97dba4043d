"""`python -m orchestrator.study.schema`: the JSON schema of study files, for editors.

Generated from the types that validate them; descriptions are the types' own documentation.
"""

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter

from models import FENetConfig
from models.backbones import BACKBONES
from models.enhancement import FEM_KINDS
from orchestrator.study.conditions import VARIANT
from orchestrator.study.config import StudyConfig
from orchestrator.study.overlay import known_keys
from pipelines.network.build import NetworkConfig
from pipelines.training.experiment import Experiment

FILE = Path(__file__).parents[1] / "study.schema.json"
_DRAFT = "https://json-schema.org/draft/2020-12/schema"
# A line of a docstring that begins the description of one field, or of several with a comma.
_ENTRY = re.compile(r"^\s*(\w+(?:, \w+)*): (.*)$")

Schema = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the schema, or with `--check` say whether the file is current (status 0) or not (1)."""
    parser = argparse.ArgumentParser(
        prog="python -m orchestrator.study.schema",
        description=f"Write the JSON schema of study files to {FILE.name}.",
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing; fail where the file is not current"
    )
    options = parser.parse_args(arguments)
    text = schema_text()
    if not options.check:
        FILE.write_text(text, encoding="utf-8")
        print(f"{FILE}: written")
        return 0
    if FILE.exists() and FILE.read_text(encoding="utf-8") == text:
        print(f"{FILE}: current")
        return 0
    print(f"{FILE}: not current; run python -m orchestrator.study.schema", file=sys.stderr)
    return 1


def schema_text() -> str:
    """The schema as the file holds it."""
    return json.dumps(study_schema(), indent=1, ensure_ascii=False) + "\n"


def study_schema() -> Schema:
    """The JSON schema (2020-12) of study files, and of files that studies extend."""
    schema: Schema = TypeAdapter(StudyConfig).json_schema()
    definitions = schema.pop("$defs")
    for kind in _dataclasses(StudyConfig):
        described = definitions.get(kind.__name__, schema if kind is StudyConfig else {})
        _describe(described, kind)
    partial = {**_partial_experiment(), "description": "A partial experiment."}
    definitions["PartialExperiment"] = partial
    definitions["Condition"] = _condition()
    properties = schema["properties"]
    properties["base"] |= {"$ref": "#/$defs/PartialExperiment"}
    for name in ("VariantConfig", "ConditionalConfig"):
        definitions[name]["properties"]["set"] |= {"$ref": "#/$defs/PartialExperiment"}
    definitions["ConditionalConfig"]["properties"]["if"] |= {"$ref": "#/$defs/Condition"}
    for name in ("Reference", "EnteredScore", "PublishedRow"):
        definitions[name]["properties"]["when"] |= {"$ref": "#/$defs/Condition"}
    properties["grid"] |= _grid()
    for name in ("variants", "protocols"):  # null drops what is inherited
        entry = properties[name]["additionalProperties"]
        properties[name]["additionalProperties"] = {"anyOf": [entry, {"type": "null"}]}
    del schema["required"]
    # A file that is only extended has neither name nor rows; what has rows is a study.
    named, rows = {"required": ["study"]}, {"required": ["variants"]}
    extending = {"required": ["extends"]}
    schema["allOf"] = [
        {"if": rows, "then": {"anyOf": [named, extending]}},
        {"if": named, "then": {"anyOf": [rows, extending]}},
    ]
    return _tidy(
        {"$schema": _DRAFT, "title": "Study", **schema, "$defs": dict(sorted(definitions.items()))}
    )


def _partial_experiment() -> Schema:
    """An experiment of which anything may be left out, with everything inlined but `seed`, which a
    study lists apart."""
    whole: Schema = TypeAdapter(Experiment).json_schema()
    definitions = whole.pop("$defs")
    for kind in _dataclasses(Experiment):
        _describe(definitions.get(kind.__name__, whole if kind is Experiment else {}), kind)
    fenet = definitions[FENetConfig.__name__]["properties"]
    fenet["backbone"]["examples"] = _own(BACKBONES)
    fenet["flows"]["items"]["examples"] = _own(FEM_KINDS)
    own = definitions[NetworkConfig.__name__]["properties"]
    own["network"]["pattern"] = r"^[\w.]+:\w+$"
    inlined: Schema = _inlined(whole, definitions)
    inlined["properties"]["model"] = {
        "description": "FENet's configuration, or a network of one's own: `package.module:Class`, "
        "or a mapping of `network` and `arguments`.",
        "anyOf": [
            {"type": "string", "pattern": r"^[\w.]+:\w+$"},
            {"type": "object", "properties": {**fenet, **own}, "additionalProperties": False},
        ],
    }
    del inlined["properties"]["seed"]
    return _without_defaults_of_objects(inlined)


def _own(registered: Mapping[str, type[Any]]) -> list[str]:
    """The names of this project's classes, without those that a study's `imports` registered."""
    return sorted(n for n, kind in registered.items() if kind.__module__.startswith("models."))


def _condition() -> Schema:
    keys = [key for key, holds_more in known_keys().items() if not holds_more]
    return {
        "type": "object",
        "description": "Dotted keys of the experiment, or `variant`, each with a value or a list "
        "of values.",
        "properties": {key: {} for key in [VARIANT, *keys]},
        "patternProperties": {r"^model\.arguments\.": {}},
        "additionalProperties": False,
    }


def _grid() -> Schema:
    values = {"anyOf": [{"type": "array", "minItems": 1}, {"type": "null"}]}
    return {
        "properties": dict.fromkeys(known_keys(), values),
        "patternProperties": {r"^model\.arguments\.": values},
        "additionalProperties": False,
    }


def _describe(schema: Schema, kind: type[Any]) -> None:
    """Put the docstring of a dataclass into its schema: as a whole, and entry by entry."""
    summary, entries = _documentation(kind)
    if summary:
        schema["description"] = summary
    for name, entry in schema.get("properties", {}).items():
        if name in entries:
            entry["description"] = entries[name]


def _documentation(kind: type[Any]) -> tuple[str, Mapping[str, str]]:
    """The first paragraph of a docstring, and what it says of each field; inherited too."""
    entries: dict[str, str] = {}
    summary = ""
    for each in reversed([base for base in kind.__mro__ if is_dataclass(base)]):
        paragraphs = (each.__doc__ or "").split("\n\n")
        summary = " ".join(paragraphs[0].split())
        names: list[str] = []
        for line in "\n\n".join(paragraphs[1:]).splitlines():
            found = _ENTRY.match(line)
            if not line.strip():
                names = []
            elif found:
                names = found[1].split(", ")
                entries |= dict.fromkeys(names, found[2].strip())
            else:
                entries |= {name: f"{entries[name]} {line.strip()}" for name in names}
    return summary, entries


def _dataclasses(kind: Any) -> list[type[Any]]:
    """A dataclass and all that stand below it."""
    found: list[type[Any]] = []

    def visit(each: Any) -> None:
        if is_dataclass(each) and isinstance(each, type):
            if each not in found:
                found.append(each)
                hints = get_type_hints(each)
                for entry in fields(each):
                    visit(hints[entry.name])
        elif get_origin(each) in (Union, UnionType, list, tuple, dict):
            for member in get_args(each):
                visit(member)

    visit(kind)
    return found


def _inlined(schema: Any, definitions: Mapping[str, Any]) -> Any:
    """A schema whose references are replaced by what they refer to."""
    if isinstance(schema, dict):
        inner = {key: _inlined(value, definitions) for key, value in schema.items()}
        reference = inner.pop("$ref", None)
        if reference is not None:
            target = _inlined(definitions[reference.removeprefix("#/$defs/")], definitions)
            return {**deepcopy(target), **inner}
        return inner
    if isinstance(schema, list):
        return [_inlined(entry, definitions) for entry in schema]
    return schema


def _without_defaults_of_objects(schema: Any) -> Any:
    """Defaults of single values help; those of whole sections only repeat them."""
    if isinstance(schema, dict):
        return {
            key: _without_defaults_of_objects(value)
            for key, value in schema.items()
            if not (key == "default" and isinstance(value, dict))
        }
    if isinstance(schema, list):
        return [_without_defaults_of_objects(entry) for entry in schema]
    return schema


def _tidy(schema: Any) -> Any:
    """Without the titles that only repeat a key, and without what a reference already says."""
    if isinstance(schema, dict):
        kept = {key: _tidy(value) for key, value in schema.items()}
        if isinstance(kept.get("title"), str) and kept["title"] != "Study":
            del kept["title"]
        if "$ref" in kept:
            kept = {key: kept[key] for key in ("$ref", "description") if key in kept}
        kept.pop("discriminator", None)
        if "oneOf" in kept:
            kept["anyOf"] = kept.pop("oneOf")
        return kept
    if isinstance(schema, list):
        return [_tidy(entry) for entry in schema]
    return schema


if __name__ == "__main__":
    sys.exit(main())
