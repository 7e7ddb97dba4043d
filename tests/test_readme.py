"""The README names no file that is not there."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_pictures_and_links_are_there() -> None:
    text = (ROOT / "README.md").read_text()
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (ROOT / target).exists(), target
