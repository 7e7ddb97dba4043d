"""What a reader of the user's own describes is checked: its class, its options, its listing."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

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
        READER.replace('"--first"', '"--workers", dest="first"'),
        "reader own_drives:Own: argument --workers: conflicting option string: --workers; rename",
    ),
    "option of the command": (
        READER.replace('"--first"', '"--command"'),
        "reader own_drives:Own: --command sets `command`, as the command itself does; rename it",
    ),
    "destination": (
        READER.replace('"--first"', '"--first", dest="skip_invalid"'),
        "reader own_drives:Own: --first sets `skip_invalid`, as the command itself does",
    ),
    "positional": (
        READER.replace('"--first"', '"command"'),
        "reader own_drives:Own: an argument sets `command`, as the command itself does",
    ),
    "defaults": (
        READER.replace("add_argument(", "set_defaults(command='a')\n        parser.add_argument("),
        "reader own_drives:Own: set_defaults sets `command`, as the command itself does",
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
    ("kind", "error"),
    [
        ("{}.__getitem__", "KeyError: 'x'"),
        ("lambda path: open(path).read()", "FileNotFoundError: [Errno 2] "),
        ("lambda text: 1 / 0", "ZeroDivisionError: division by zero"),
    ],
)
def test_option_that_cannot_be_read_is_one_sentence(
    own_module: Path, capsys: pytest.CaptureFixture[str], kind: str, error: str
) -> None:
    own_module.write_text(READER.replace("type=int", f"type={kind}"))
    assert main(["own_drives:Own", "--source", ".", "--destination", "out", "--first", "x"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"reader own_drives:Own: its options cannot be read ({error}" in line


def test_refused_value_of_an_option_shows_the_usage(
    own_module: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["own_drives:Own", "--source", ".", "--destination", "out", "--first", "x"])
    assert caught.value.code == 2
    assert "error: argument --first: invalid int value: 'x'" in capsys.readouterr().err


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


RETURNED = {
    "nothing": ("read(self, record): return None", "read must return the bytes .* not NoneType"),
    "path": ("read(self, record): return record.image, b'x'", "not PosixPath, bytes"),
    "list": (
        "indices(self, record, image): return [[1]]",
        r"indices must return an array of uint16 \(H, W\), received \[\[1\]\]",
    ),
    "fractions": (
        "indices(self, record, image): return super().indices(record, image) / 1",
        r"received float64 \(12, 16\)",
    ),
    "no values": ("values(self, record): return {}", r"values must map .*, received \{\}"),
    "class": (
        "values(self, record): return {value: value for value in range(12)}",
        "indices of the 11 classes or 255, received 11: 11",
    ),
    "negative": ("values(self, record): return {-1: 0}", "received -1: 0"),
    "name": ("values(self, record): return {0: ['road']}", r"received 0: \['road'\]"),
}


@pytest.mark.parametrize(("method", "message"), RETURNED.values(), ids=RETURNED)
def test_what_a_reader_returns_is_checked(
    own_module: Path,
    camvid: CamVidSource,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    method: str,
    message: str,
) -> None:
    own_module.write_text(f"{READER}\n    def {method}\n")
    assert main(["own_drives:Own", *options(camvid, tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(f"^error: reader Own: .*{message}", line)


SENT = {
    "attribute": (
        "object.__setattr__(self, 'lock', threading.Lock())",
        "its attribute `lock` cannot be sent to worker processes (TypeError: cannot pickle",
    ),
    "reader": (
        "pass\n\n    def __reduce__(self): return {}[1]",
        "it cannot be sent to worker processes (KeyError: 1); create what cannot be pickled in",
    ),
    "in a worker": (
        "pass\n\n    def __setstate__(self, state): raise KeyError(2)",
        "it cannot be sent to worker processes (KeyError: 2)",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize(("text", "message"), SENT.values(), ids=SENT)
def test_reader_that_cannot_be_sent_to_worker_processes_is_one_sentence(
    own_module: Path,
    camvid: CamVidSource,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    text: str,
    message: str,
) -> None:
    own_module.write_text(f"import threading\n{READER}\n    def __post_init__(self): {text}\n")
    arguments = ["own_drives:Own", *options(camvid, tmp_path / "out")]
    assert main([*arguments[:-1], "2"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"error: reader Own: {message}" in line
    if "its attribute" in message:
        assert main(arguments) == 0


@pytest.mark.slow
def test_record_that_cannot_be_sent_is_named(
    own_module: Path, camvid: CamVidSource, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change = """
        from pipelines.preparation.readers.reader import Record
        class Local(Record): ...
        listing.records = [Local(**vars(record)) for record in listing.records]
        return listing"""
    own_module.write_text(READER.replace("\n        return listing", change))
    arguments = ["own_drives:Own", *options(camvid, tmp_path / "out")]
    assert main([*arguments[:-1], "2"]) == 2
    assert "its record 0001TP_train000 cannot be sent" in capsys.readouterr().err


def test_advice_on_labels_fits_the_reader(
    own_module: Path, camvid: CamVidSource, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shape = camvid.size
    rows = np.broadcast_to(np.arange(shape[0], dtype=np.uint8)[:, None] % 2, shape)
    Image.fromarray(np.full(shape, 12, np.uint8)).save(camvid.label("train", 0))
    Image.fromarray(rows * 255).save(camvid.label("train", 1))
    Image.fromarray(np.full((*shape, 3), (9, 1, 0), np.uint8)).save(camvid.label("train", 2))
    palette = Image.fromarray(rows).convert("P")
    palette.putpalette([5, 0, 0, 3, 0, 0])
    palette.save(camvid.label("val", 0))
    palette.save(camvid.label("val", 1), format="GIF")
    Image.fromarray(np.full(shape, 300, np.uint16)).save(camvid.image("val", 2))
    values = "    def values(self, record): return {0: 0, 1: 1, 2: 255}"
    own_module.write_text(f"{READER}\n{values}\n")
    assert main(["own_drives:Own", *options(camvid, tmp_path / "out")]) == 2
    printed = capsys.readouterr().err
    assert "; `values` of Own must map every value that labels store" in printed
    assert "map both values in `values` of Own" in printed
    assert printed.count("`indices` of Own can read the colors") == 3
    assert "` in `image_reading` of the reader may be right" in printed
    assert "folder" not in printed.replace(str(tmp_path), "")


def test_reader_without_samples_says_what_it_expects(
    own_module: Path, camvid: CamVidSource, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["own_drives:Own", "--first", "9", *options(camvid, tmp_path / "out")]) == 2
    assert "has no samples; expected drives of my own" in capsys.readouterr().err
