"""The generated pages of docs/reference/ are current and complete."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.tracking import tags

ROOT = Path(__file__).parent.parent
GENERATE = runpy.run_path(str(ROOT / "docs" / "generate.py"))


@pytest.mark.slow
def test_pages_are_current() -> None:
    """In a process of its own: other tests register networks, which the help texts list."""
    command = [sys.executable, "docs/generate.py", "--check"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if sys.version_info[:2] != (3, 11):  # argparse's wording of commands.md is 3.11's
        assert result.stderr in ("", "not current: commands.md; run python docs/generate.py\n")
    else:
        assert (result.returncode, result.stderr) == (0, "")


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
