"""The JSON schema of study files is current and supports editors."""

from pathlib import Path
from typing import Any

import jsonschema
import pytest

from orchestrator.study.schema import FILE, main, study_schema
from orchestrator.study.yaml_source import read_yaml

ROOT = Path(__file__).parents[3]
FILES = [
    ROOT / "ablations.yaml",
    *sorted(ROOT.glob("studies/**/*.yaml")),
    *sorted(ROOT.glob("examples/*.yaml")),
    ROOT / "orchestrator" / "first_study.yaml",
]


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    schema = study_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def test_committed_schema_is_current(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check"]) == 0, "run python -m orchestrator.study.schema"
    assert "current" in capsys.readouterr().out


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_study_file_is_valid_and_names_the_schema(
    path: Path, validator: jsonschema.Draft202012Validator
) -> None:
    validator.validate(read_yaml(path).value)
    (line,) = [line for line in path.read_text().splitlines() if "yaml-language-server" in line]
    schema_path = line.partition("$schema=")[2]
    assert (path.parent / schema_path).resolve() == FILE


@pytest.mark.parametrize(
    "invalid",
    [
        {"variant": {}},
        {"variants": {"a": {"sets": {}}}},
        {"variants": {"a": {"set": {"training": {"epoch": 3}}}}},
        {"variants": {"a": {"set": {"model": {"flow": []}}}}},
        {"variants": {"a": {"reference": {"mIoU": 3}}}},
        {"variants": {"a": {"reference": [{"when": {"model.bakbone": 3}, "miou": 3}]}}},
        {"base": {"data": {"augmentation": {"flips": 0.5}}}},
        {"base": {"training": {"epochs": "three"}}},
        {"base": {"training": {"schedule": "linear"}}},
        {"base": {"training": {"optimizer": {"name": "adam"}}}},
        {"base": {"training": {"optimizer": {"betas": [0.9, 0.95]}}}},
        {"base": {"seed": 3}},
        {"grid": {"model.bakbone": ["dfnet1"]}},
        {"when": [{"if": {"backbone": "dfnet1"}, "set": {"training": {"epochs": 3}}}]},
        {"when": [{"set": {"training": {"epochs": 3}}}]},
        {"protocols": {"flip": {"flipped": True}}},
        {"resources": {"gpus": 3}},
        {"kind": "sweep"},
        {"report": {"protocols": "a"}},
        {"variants": {}},
    ],
    ids=str,
)
def test_schema_rejects_invalid_keys_and_values(
    invalid: dict[str, Any], validator: jsonschema.Draft202012Validator
) -> None:
    study = {"study": "small", "variants": {"a": {}}}
    assert validator.is_valid(study)
    if invalid == {"variants": {}}:  # variants without the study's name
        study = {}
    assert not validator.is_valid({**study, **invalid})


def test_schema_describes_every_key() -> None:
    schema = study_schema()
    described = [*schema["properties"].values()]
    for definition in schema["$defs"].values():
        described += definition.get("properties", {}).values()
    conditions = schema["$defs"]["Condition"]["properties"].values()
    bare = [entry for entry in described if "description" not in entry and entry not in conditions]
    assert not bare
    training = schema["$defs"]["PartialExperiment"]["properties"]["training"]["properties"]
    names = training["schedule"]["anyOf"][0]["anyOf"][0]["enum"]
    assert names == ["cosine", "one-cycle", "poly", "step"]
    assert training["epochs"]["default"] == 300
    assert training["epochs"]["description"] == "passes over the training split."
    assert "dfnet1" in str(schema["$defs"]["PartialExperiment"]["properties"]["model"])
