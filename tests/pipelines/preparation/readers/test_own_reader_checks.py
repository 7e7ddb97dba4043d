"""What a reader of the user's own describes is checked: its class, its options, its listing."""

from pathlib import Path

import pytest

from pipelines.prepare import main
from tests.support.camvid_source import CamVidSource
from tests.support.own_reader import READER, options

ERRORS = {
    "no module": (None, "cannot import own_nothing (ModuleNotFoundError"),
    "broken": ("1 / 0\n", "cannot import own_drives (ZeroDivisionError: division by zero)"),
    "script": ("import sys\nsys.exit(3)\n", "cannot import own_drives (SystemExit: 3)"),
    "no class": ("", "own_drives has no pipelines.preparation.readers.Reader Own"),
    "no reader": ("class Own: ...\n", "has no pipelines.preparation.readers.Reader Own"),
    "abstract": (
        "from pipelines.preparation.readers import Reader\nclass Own(Reader): ...\n",
        "reader own_drives:Own: the class does not define classes, listing, name, help",
    ),
    "option": (
        READER.replace('"--first"', '"--workers"'),
        "reader own_drives:Own: argument --workers: conflicting option string: --workers; rename",
    ),
    "arguments": (
        READER.replace("parser.add_argument(", "parser.add_option("),
        "own_drives.py:23: Own failed (AttributeError: 'ArgumentParser' object has no",
    ),
    "percent": (
        READER.replace("first image that", "50 % of them"),
        "reader own_drives:Own: argparse cannot print the help of its options",
    ),
}


@pytest.mark.parametrize(("text", "message"), ERRORS.values(), ids=ERRORS)
def test_reader_that_cannot_be_used_is_one_sentence(
    own_module: Path, capsys: pytest.CaptureFixture[str], text: str | None, message: str
) -> None:
    if text is not None:
        own_module.write_text(text)
    assert main([f"{'own_nothing' if text is None else 'own_drives'}:Own", "--help"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (
            'name = "own"',
            'name = " "',
            "reader Own: name must be text without a slash, received ' '",
        ),
        ("return CLASSES", "return (*CLASSES, CLASSES[0])", "received 'class 0' 2 times"),
        ("return CLASSES", "return (CLASSES[0].__class__('a', 'red'),)", "received 'red'"),
        (
            "return CLASSES",
            "return (CLASSES[0].__class__('a', (1, 2, 600)),)",
            "the color of class 'a' must be (red, green, blue), 0 to 255, received (1, 2, 600)",
        ),
        ("return listing", "return listing.records", "must return a Listing, not list"),
        (
            "return listing",
            "import dataclasses\n        listing.records[0] = dataclasses.replace("
            "listing.records[0], group=3)\n        return listing",
            "must be text or None, received 3",
        ),
        (
            "return listing",
            "import dataclasses\n        listing.records[0] = dataclasses.replace("
            "listing.records[0], image='a.png')\n        return listing",
            "must be a Path, received 'a.png'",
        ),
    ],
)
def test_what_a_reader_describes_is_checked_first(
    own_module: Path,
    camvid: CamVidSource,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    before: str,
    after: str,
    message: str,
) -> None:
    own_module.write_text(READER.replace(before, after))
    assert main(["own_drives:Own", *options(camvid, tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (tmp_path / "out").exists()
