"""`python -m orchestrator.study.schema`: writes the JSON schema of study files, for editors.

The schema is generated from the dataclasses that validate study files and their docstrings.
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

from models import FENetConfig, LossConfig, LossTermConfig
from models.backbones import BACKBONES
from models.config import LOSSES
from models.enhancement import FEM_KINDS  # with the kinds that this module registers
from models.registry import Registry
from orchestrator.study.conditions import VARIANT
from orchestrator.study.config import StudyConfig
from orchestrator.study.overlay import OPEN_MAPPINGS, known_keys
from pipelines.data.config import TRANSFORMS, AugmentationConfig, TransformConfig
from pipelines.evaluation.config import METRICS, EvaluationConfig, MetricConfig
from pipelines.network.config import NetworkConfig
from pipelines.training.config import (
    OPTIMIZERS,
    SCHEDULES,
    OptimizerConfig,
    ScheduleConfig,
    TrainingConfig,
)
from pipelines.training.experiment import Experiment

FILE = Path(__file__).parents[1] / "study.schema.json"
_DRAFT = "https://json-schema.org/draft/2020-12/schema"
# A docstring line that begins the description of one field, or of several separated by commas.
_ENTRY = re.compile(r"^\s*(\w+(?:, \w+)*): (.*)$")

# Dotted keys of arguments and patterns.
_OPEN_KEYS = "^(" + "|".join(re.escape(key) for key in OPEN_MAPPINGS) + r")\."
_CLASS_NAME = r"^[\w.]+:\w+$"
_NETWORK_NAME = r"^(hf:.+|[\w.]+:\w+)$"

Schema = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the schema; with `--check`, return 0 if the file is current and 1 otherwise."""
    parser = argparse.ArgumentParser(
        prog="python -m orchestrator.study.schema",
        description=f"Write the JSON schema of study files to {FILE.name}.",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="write nothing; exit with status 1 if the file is out of date",
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
    print(f"{FILE}: out of date; run python -m orchestrator.study.schema", file=sys.stderr)
    return 1


def schema_text() -> str:
    """Return the content of the schema file."""
    return json.dumps(study_schema(), indent=1, ensure_ascii=False) + "\n"


def study_schema() -> Schema:
    """Return the JSON schema (2020-12) of study files, and of files that studies extend."""
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
    report = definitions["ReportOptions"]["properties"]
    report["published_setting"] |= {"$ref": "#/$defs/Condition"}
    properties["grid"] |= _by_key({"anyOf": [{"type": "array", "minItems": 1}, {"type": "null"}]})
    limits = {"anyOf": [{"$ref": "#/$defs/RangeConfig"}, {"type": "null"}]}
    properties["sample"] |= _by_key(limits)
    for name in ("variants", "protocols"):  # null removes an inherited entry
        entry = properties[name]["additionalProperties"]
        properties[name]["additionalProperties"] = {"anyOf": [entry, {"type": "null"}]}
    del schema["required"]
    # A file that others extend may lack `study` and `variants`; a file with one needs the other.
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
    """Return the schema of an experiment with all keys optional and all references inlined, without
    the seed and the folds, which are keys of the study."""
    whole: Schema = TypeAdapter(Experiment).json_schema()
    definitions = whole.pop("$defs")
    for kind in _dataclasses(Experiment):
        _describe(definitions.get(kind.__name__, whole if kind is Experiment else {}), kind)
    fenet = definitions[FENetConfig.__name__]["properties"]
    fenet["backbone"]["examples"] = _built_in(BACKBONES)
    fenet["flows"]["items"]["examples"] = _built_in(FEM_KINDS)
    network = definitions[NetworkConfig.__name__]["properties"]
    network["network"]["pattern"] = _NETWORK_NAME
    for key, kind, registry in (
        ("optimizer", OptimizerConfig, OPTIMIZERS),
        ("schedule", ScheduleConfig, SCHEDULES),
    ):
        name = definitions[kind.__name__]["properties"]["name"]
        name |= _names(registry)
        del name["type"]
        setting = definitions[TrainingConfig.__name__]["properties"][key]
        setting["anyOf"][0] = _names(registry)
    # Null removes an inherited pattern.
    factors = definitions[OptimizerConfig.__name__]["properties"]["rate_factors"]
    factors["additionalProperties"] = {"type": ["number", "null"]}
    for key, owner, item, listed in (
        ("terms", LossConfig, LossTermConfig, LOSSES),
        ("transforms", AugmentationConfig, TransformConfig, TRANSFORMS),
        ("metrics", EvaluationConfig, MetricConfig, METRICS),
    ):
        name = definitions[item.__name__]["properties"]["name"]
        name |= _names(listed)
        del name["type"]
        setting = definitions[owner.__name__]["properties"][key]
        setting["items"]["anyOf"][0] = _names(listed)
    inlined: Schema = _inlined(whole, definitions)
    inlined["properties"]["model"] = {
        "description": "FENet's configuration, or another network: `package.module:Class`, "
        "`hf:NAME`, or a mapping of `network` and `arguments`.",
        "anyOf": [
            {"type": "string", "pattern": _NETWORK_NAME},
            {"type": "object", "properties": {**fenet, **network}, "additionalProperties": False},
        ],
    }
    del inlined["properties"]["seed"]
    for key in ("folds", "fold", "fold_by"):
        del inlined["properties"]["data"]["properties"][key]
    return _without_defaults_of_objects(inlined)


def _names(registry: Registry[Any]) -> Schema:
    """Return the schema of a short name, or of a class's name."""
    short = [{"type": "string", "enum": sorted(registry.built_in)}] if registry.built_in else []
    return {"anyOf": [*short, {"type": "string", "pattern": _CLASS_NAME}]}


def _built_in(registered: Mapping[str, type[Any]]) -> list[str]:
    """Return the names of this project's classes, without those registered by user code."""
    return sorted(n for n, kind in registered.items() if kind.__module__.startswith("models."))


def _condition() -> Schema:
    keys = [key for key, is_group in known_keys().items() if not is_group]
    return {
        "type": "object",
        "description": "Dotted keys of the experiment, or `variant`, each with a value or a list "
        "of values.",
        "properties": {key: {} for key in [VARIANT, *keys]},
        "patternProperties": {_OPEN_KEYS: {}},
        "additionalProperties": False,
    }


def _by_key(values: Schema) -> Schema:
    """Return the schema of a mapping by dotted keys of an experiment. values: of each key."""
    return {
        "properties": dict.fromkeys(known_keys(), values),
        "patternProperties": {_OPEN_KEYS: values},
        "additionalProperties": False,
    }


def _describe(schema: Schema, kind: type[Any]) -> None:
    """Add the docstring of a dataclass to its schema: its summary, and each field's description."""
    summary, entries = _documentation(kind)
    if summary:
        schema["description"] = summary
    for name, entry in schema.get("properties", {}).items():
        if name in entries:
            entry["description"] = entries[name]


def _documentation(kind: type[Any]) -> tuple[str, Mapping[str, str]]:
    """Return the first paragraph of a docstring, and the description of each field, including
    inherited ones."""
    entries: dict[str, str] = {}
    summary = ""
    for each in reversed([base for base in kind.__mro__ if is_dataclass(base)]):
        paragraphs = (each.__doc__ or "").split("\n\n")
        summary = " ".join(paragraphs[0].split())
        names: list[str] = []
        for line in "\n\n".join(paragraphs[1:]).splitlines():
            match = _ENTRY.match(line)
            if not line.strip():
                names = []
            elif match:
                names = match[1].split(", ")
                entries |= dict.fromkeys(names, match[2].strip())
            else:
                entries |= {name: f"{entries[name]} {line.strip()}" for name in names}
    return summary, entries


def _dataclasses(kind: Any) -> list[type[Any]]:
    """Return a dataclass and all dataclasses nested in it."""
    kinds: list[type[Any]] = []

    def visit(each: Any) -> None:
        if is_dataclass(each) and isinstance(each, type):
            if each not in kinds:
                kinds.append(each)
                hints = get_type_hints(each)
                for entry in fields(each):
                    visit(hints[entry.name])
        elif get_origin(each) in (Union, UnionType, list, tuple, dict):
            for member in get_args(each):
                visit(member)

    visit(kind)
    return kinds


def _inlined(schema: Any, definitions: Mapping[str, Any]) -> Any:
    """Return a schema with its references replaced by their targets."""
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
    """Remove the defaults of whole sections, which repeat those of their keys."""
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
    """Remove titles, which repeat the keys, and everything but the description next to a `$ref`."""
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
