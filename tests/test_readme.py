"""The README maps every file, and names no file that is not there."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
FOLDERS = ("models", "pipelines", "orchestrator", "benchmarks", "examples", "tests")


def test_every_source_file_has_its_line() -> None:
    listed = re.findall(r"^\| `([^`]+)` \| \S", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert len(set(listed)) == len(listed)
    sources = {
        file.relative_to(ROOT).as_posix()
        for name in FOLDERS
        for file in (ROOT / name).rglob("*.py")
    }
    assert sources <= set(listed), sorted(sources - set(listed))
    assert all((ROOT / name).exists() for name in listed)


def test_pictures_and_links_are_there() -> None:
    text = (ROOT / "README.md").read_text()
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (ROOT / target).exists(), target
