"""Readers of the user's own, named `package.module:Class`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.data.dataset import open_dataset
from pipelines.errors import UserError
from pipelines.preparation.readers.own_reader import own_reader, own_recipe
from pipelines.prepare import main
from tests.support import ROOT
from tests.support.camvid_source import CamVidSource
from tests.support.own_reader import READER, options


def test_recipe_is_the_same_in_every_process(own_module: Path) -> None:
    """Python orders sets of text by a number that it draws at its start."""
    script = "from own_drives import Own; from pipelines.preparation.readers.own_reader import "
    script += "own_recipe; reader = Own('source', frozenset({'north', 'south', 'east', 'west'})); "
    script += "print(own_recipe(reader))"
    recipes = set()
    for seed in "123":
        paths = os.pathsep.join([str(own_module.parent), str(ROOT)])
        environment = {**os.environ, "PYTHONPATH": paths, "PYTHONHASHSEED": seed}
        line = [sys.executable, "-c", script]
        recipes.add(subprocess.check_output(line, env=environment, text=True))
    assert len(recipes) == 1
    with pytest.raises(UserError, match="the field first is a object, which has no text"):
        own_recipe(own_reader("own_drives:Own")("source", object()))


@pytest.mark.slow
@pytest.mark.parametrize("command", ["pipelines.prepare", "orchestrator prepare"])
def test_reader_in_the_working_directory_prepares_in_worker_processes(
    own_module: Path, camvid: CamVidSource, tmp_path: Path, command: str
) -> None:
    line = [sys.executable, "-m", *command.split(), "own_drives:Own", "--first", "2"]
    process = subprocess.run(
        [*line, *options(camvid, tmp_path / "out")[:-1], "2"],
        cwd=own_module.parent,
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
    own_module: Path, capsys: pytest.CaptureFixture[str]
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
    own_module: Path, camvid: CamVidSource, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["own_drives:Own", *options(camvid, tmp_path / "out")]
    assert main(arguments) == 0
    assert main(arguments) == 0
    capsys.readouterr()
    assert main([*arguments, "--first", "1"]) == 2
    assert "or by a reader that has changed since" in capsys.readouterr().err
    own_module.write_text(READER + "\n# changed\n")
    assert main(arguments) == 2
    assert "or by a reader that has changed since" in capsys.readouterr().err


def test_source_of_a_base_class_counts(
    own_module: Path, camvid: CamVidSource, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own_module.with_name("other_base.py").write_text(READER)
    own_module.write_text("from other_base import Own as Base\nclass Own(Base):\n    pass\n")
    arguments = ["own_drives:Own", *options(camvid, tmp_path / "out")]
    assert main(arguments) == 0
    own_module.with_name("other_base.py").write_text(READER + "\n# changed\n")
    assert main(arguments) == 2
    assert "or by a reader that has changed since" in capsys.readouterr().err


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
    own_module: Path,
    camvid: CamVidSource,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    text: str,
    message: str,
) -> None:
    own_module.write_text(READER + "\n" + text)
    assert main(["own_drives:Own", *options(camvid, tmp_path / "out")]) == 2
    assert message in (printed := capsys.readouterr().err)
    assert "Traceback" not in printed
    assert not (tmp_path / "out").exists()


def test_missing_argument_of_the_constructor_names_the_class(
    own_module: Path, camvid: CamVidSource, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = READER.index("    @classmethod")
    end = READER.index("    def listing")
    own_module.write_text(READER[:start].replace("int = 0", "int") + READER[end:])
    assert main(["own_drives:Own", *options(camvid, tmp_path / "out")]) == 2
    assert "Own cannot be constructed (TypeError: " in capsys.readouterr().err


@pytest.mark.slow
def test_error_in_a_worker_process_names_the_line_of_the_reader(
    own_module: Path, camvid: CamVidSource, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, message = FAILURES["values"]
    own_module.write_text(
        READER + "\n" + text.replace("[record.split]", "[record.split, 'worker']")
    )
    arguments = ["own_drives:Own", *options(camvid, tmp_path / "out")[:-1], "2"]
    assert main(arguments) == 2
    assert message.partition(" (")[0] in (printed := capsys.readouterr().err)
    assert "Traceback" not in printed
