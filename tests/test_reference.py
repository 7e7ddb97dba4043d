"""The generated pages of docs/reference/ are current and complete."""

import json
import runpy
import sys
from pathlib import Path

import pytest

from orchestrator.tracking import tags

ROOT = Path(__file__).parent.parent
GENERATE = runpy.run_path(str(ROOT / "docs" / "generate.py"))


@pytest.mark.parametrize(
    "page",
    [
        # argparse formats its help differently in other versions.
        pytest.param(
            "commands_page",
            marks=pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="argparse's wording"),
        ),
        "study_file_page",
        "mlflow_page",
    ],
)
def test_page_is_current(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", GENERATE["WIDTH"])
    name = page.removesuffix("_page").replace("_", "-")
    written = (ROOT / "docs" / "reference" / f"{name}.md").read_text(encoding="utf-8")
    assert GENERATE[page]() == written, "run python docs/generate.py"


def test_every_tag_is_documented() -> None:
    constants = {name for name in vars(tags) if name.isupper()} - {"PREFIX"}
    assert len(list(GENERATE["documented_tags"]())) == len(constants)


def test_every_key_of_a_study_has_a_description() -> None:
    schema = json.loads((ROOT / "orchestrator" / "study.schema.json").read_text())
    for name, definition in {"": schema, **schema["$defs"]}.items():
        if name == "Condition":
            continue  # any dotted key of the experiment
        for key, entry in definition["properties"].items():
            if name != "PartialExperiment":
                assert entry.get("description"), f"{name}.{key}"
