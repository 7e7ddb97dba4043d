"""Readers of the user's own, named `package.module:Class`."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.data.dataset import open_dataset
from pipelines.errors import UserError
from pipelines.preparation.readers.own_reader import own_reader, own_recipe
from pipelines.prepare import main
from tests.support import ROOT
from tests.support.camvid_source import CamVidSource

READER = """
from dataclasses import dataclass

from own_classes import CLASSES
from pipelines.preparation.readers.camvid import CamVid


class Base(CamVid):
    @property
    def classes(self):
        return CLASSES


@dataclass(frozen=True)
class Own(Base):
    name = "own"
    help = "drives of my own"
    first: int = 0

    @classmethod
    def add_arguments(cls, parser):
        super().add_arguments(parser)
        parser.add_argument("--first", type=int, default=0, help="first image that counts")

    @classmethod
    def from_arguments(cls, arguments):
        return cls(arguments.source, arguments.first)

    def listing(self):
        listing = super().listing()
        listing.records = listing.records[self.first :]
        return listing
"""
CLASSES = """
from pipelines.data.manifest import ClassInfo

CLASSES = tuple(ClassInfo(f"class {index}", (index, 0, 0)) for index in range(11))
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module with a reader, in a folder that is searched for modules."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "own_classes.py").write_text(CLASSES)
    (folder / "own_drives.py").write_text(READER)
    monkeypatch.syspath_prepend(folder)
    before = set(sys.modules)
    yield folder / "own_drives.py"
    for name in {"own_drives", "own_classes", "other_base"} - before:
        sys.modules.pop(name, None)


def test_recipe_is_the_same_in_every_process(module: Path) -> None:
    """Python orders sets of text by a number that it draws at its start."""
    script = "from own_drives import Own; from pipelines.preparation.readers.own_reader import "
    script += "own_recipe; reader = Own('source', frozenset({'north', 'south', 'east', 'west'})); "
    script += "print(own_recipe(reader))"
    recipes = set()
    for seed in "123":
        paths = os.pathsep.join([str(module.parent), str(ROOT)])
        environment = {**os.environ, "PYTHONPATH": paths, "PYTHONHASHSEED": seed}
        line = [sys.executable, "-c", script]
        recipes.add(subprocess.check_output(line, env=environment, text=True))
    assert len(recipes) == 1
    with pytest.raises(UserError, match="the field first is a object, which has no text"):
        own_recipe(own_reader("own_drives:Own")("source", object()))


def options(camvid: CamVidSource, destination: Path) -> list[str]:
    return ["--source", str(camvid.directory), "--destination", str(destination), "--workers", "1"]


@pytest.mark.slow
@pytest.mark.parametrize("command", ["pipelines.prepare", "orchestrator prepare"])
def test_reader_in_the_working_directory_prepares_in_worker_processes(
    module: Path, camvid: CamVidSource, tmp_path: Path, command: str
) -> None:
    line = [sys.executable, "-m", *command.split(), "own_drives:Own", "--first", "2"]
    process = subprocess.run(
        [*line, *options(camvid, tmp_path / "out")[:-1], "2"],
        cwd=module.parent,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    dataset = open_dataset(tmp_path / "out")
    assert dataset.manifest.name == "own"
    assert dataset.manifest.counts == {"train": 1, "val": 3}
    assert [each.name for each in dataset.manifest.classes][:2] == ["class 0", "class 1"]


def test_help_shows_the_options_of_the_reader(
    module: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["own_drives:Own", "--help"])
    assert caught.value.code == 0
    printed = capsys.readouterr().out
    assert "usage: python -m pipelines.prepare own_drives:Own" in printed
    for text in ("drives of my own", "first image that counts", "--skip-invalid"):
        assert text in printed
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "COMMAND may also be `package.module:Class`" in capsys.readouterr().out


def test_destination_is_up_to_date_until_source_or_arguments_of_the_reader_change(
    module: Path, camvid: CamVidSource, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["own_drives:Own", *options(camvid, tmp_path / "out")]
    assert main(arguments) == 0
    assert main(arguments) == 0
    capsys.readouterr()
    assert main([*arguments, "--first", "1"]) == 2
    assert "or by a reader that has changed since" in capsys.readouterr().err
    module.write_text(READER + "\n# changed\n")
    assert main(arguments) == 2
    assert "or by a reader that has changed since" in capsys.readouterr().err


def test_source_of_a_base_class_counts(
    module: Path, camvid: CamVidSource, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module.with_name("other_base.py").write_text(READER)
    module.write_text("from other_base import Own as Base\nclass Own(Base):\n    pass\n")
    arguments = ["own_drives:Own", *options(camvid, tmp_path / "out")]
    assert main(arguments) == 0
    module.with_name("other_base.py").write_text(READER + "\n# changed\n")
    assert main(arguments) == 2
    assert "or by a reader that has changed since" in capsys.readouterr().err


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
    module: Path, capsys: pytest.CaptureFixture[str], text: str | None, message: str
) -> None:
    if text is not None:
        module.write_text(text)
    assert main([f"{'own_nothing' if text is None else 'own_drives'}:Own", "--help"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


FAILURES = {
    "constructor": (
        "    def __post_init__(self):\n        raise KeyError('drive')\n",
        "own_drives.py:35: Own failed (KeyError: 'drive')",
    ),
    "factory": (
        "    @classmethod\n    def from_arguments(cls, arguments):\n        return cls(first=1)\n",
        "own_drives.py:36: Own failed (TypeError: ",
    ),
    "listing": (
        "    def listing(self):\n        return self.drives\n",
        "own_drives.py:35: Own failed (AttributeError: 'Own' object has no attribute 'drives')",
    ),
    "values": (
        "    def values(self, record):\n        return {}[record.split]\n",
        "own_drives.py:35: Own failed (KeyError: 'train')",
    ),
}


@pytest.mark.parametrize(("text", "message"), FAILURES.values(), ids=FAILURES)
def test_error_in_the_code_of_the_reader_names_its_line(
    module: Path,
    camvid: CamVidSource,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    text: str,
    message: str,
) -> None:
    module.write_text(READER + "\n" + text)
    assert main(["own_drives:Own", *options(camvid, tmp_path / "out")]) == 2
    assert message in (printed := capsys.readouterr().err)
    assert "Traceback" not in printed
    assert not (tmp_path / "out").exists()


def test_missing_argument_of_the_constructor_names_the_class(
    module: Path, camvid: CamVidSource, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = READER.index("    @classmethod")
    end = READER.index("    def listing")
    module.write_text(READER[:start].replace("int = 0", "int") + READER[end:])
    assert main(["own_drives:Own", *options(camvid, tmp_path / "out")]) == 2
    assert "Own cannot be constructed (TypeError: " in capsys.readouterr().err


@pytest.mark.slow
def test_error_in_a_worker_process_names_the_line_of_the_reader(
    module: Path, camvid: CamVidSource, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, message = FAILURES["values"]
    module.write_text(READER + "\n" + text.replace("[record.split]", "[record.split, 'worker']"))
    arguments = ["own_drives:Own", *options(camvid, tmp_path / "out")[:-1], "2"]
    assert main(arguments) == 2
    assert message.partition(" (")[0] in (printed := capsys.readouterr().err)
    assert "Traceback" not in printed


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
    module: Path,
    camvid: CamVidSource,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    before: str,
    after: str,
    message: str,
) -> None:
    module.write_text(READER.replace(before, after))
    assert main(["own_drives:Own", *options(camvid, tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (tmp_path / "out").exists()
