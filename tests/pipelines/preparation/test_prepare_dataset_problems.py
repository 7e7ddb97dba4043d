"""Bad source files: each problem is reported, or its sample is skipped."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.data.dataset import open_dataset
from pipelines.data.manifest import DatasetError
from pipelines.preparation.prepare_dataset import prepare
from pipelines.preparation.readers.camvid import CamVid
from pipelines.prepare import main
from tests.support.camvid_source import CamVidSource


def truncate(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def cut_tail(path: Path) -> None:
    """Cut the end off a file; all pixels remain, and decoders raise no error."""
    path.write_bytes(path.read_bytes()[:-8])


def flip_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[data.index(b"IDAT") + 40] ^= 1
    path.write_bytes(data)


def truncated_jpeg(source: CamVidSource) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(source.image(), format="JPEG", quality=95)
    truncate(source.image())


def padded_jpeg(source: CamVidSource) -> None:
    """Replace the end of a JPEG by zeros, which decoders read as gray pixels."""
    pixels = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(source.image(), format="JPEG", quality=95)
    size = source.image().stat().st_size
    for length in (size - 100, size):
        os.truncate(source.image(), length)


def mismatched_size(source: CamVidSource) -> None:
    Image.fromarray(np.zeros((12, 15), np.uint8)).save(source.label())


def rgb_label(source: CamVidSource) -> None:
    Image.fromarray(np.zeros((12, 16, 3), np.uint8)).save(source.label())


def unknown_value(source: CamVidSource) -> None:
    Image.fromarray(np.full((12, 16), 12, np.uint8)).save(source.label())


def wide_label(source: CamVidSource) -> None:
    Image.fromarray(np.full((12, 16), 4000, np.uint16)).save(source.label())


BAD: list[tuple[Callable[[CamVidSource], object], str]] = [
    (lambda source: truncate(source.image()), r"train000\.png: image damaged or truncated"),
    (lambda source: truncate(source.label()), r"annot/.*train000\.png: label damaged or truncated"),
    (truncated_jpeg, "image damaged or truncated"),
    (padded_jpeg, r"image damaged or truncated \(no end-of-image marker\)"),
    (lambda source: cut_tail(source.image()), r"image damaged or truncated .broken PNG file"),
    (lambda source: cut_tail(source.label()), r"label damaged or truncated .broken PNG file"),
    (lambda source: flip_bit(source.image()), "image damaged or truncated"),
    (lambda source: flip_bit(source.label()), "label damaged or truncated"),
    (lambda source: source.image().write_bytes(b""), "image the file is empty"),
    (lambda source: source.label().write_bytes(b""), "label the file is empty"),
    (lambda source: source.label().write_bytes(b"not an image"), "label not an image"),
    (mismatched_size, "label of 12 x 15 pixels for an image of 12 x 16"),
    (rgb_label, "label has colors .mode RGB. instead of one index per pixel"),
    (unknown_value, r"label has unknown values 12 in 192 pixels; known are 0-11, 255"),
    (wide_label, "label has unknown values 4000"),
    (lambda source: source.label().unlink(), "image has no label; expected .*trainannot/"),
    (lambda source: source.image().unlink(), "label has no image; expected .*train/"),
]


@pytest.mark.parametrize(("damage", "message"), BAD)
def test_bad_sample_is_reported_or_skipped(
    camvid: CamVidSource,
    tmp_path: Path,
    damage: Callable[[CamVidSource], object],
    message: str,
) -> None:
    damage(camvid)
    out = tmp_path / "out"
    with pytest.raises(DatasetError, match=r"(?s)1 problem.*train/0001TP_train000: .*" + message):
        prepare(CamVid(camvid.directory), out)
    assert [path.name for path in tmp_path.iterdir()] == ["camvid"]
    manifest = prepare(CamVid(camvid.directory), out, skip_invalid=True)
    assert manifest.counts == {"train": 2, "val": 3}
    assert len(manifest.skipped) == 1
    assert open_dataset(out).split("train").identifiers[0] == "0001TP_train001"


def test_all_problems_are_listed_together(camvid: CamVidSource, tmp_path: Path) -> None:
    truncate(camvid.image("train", 0))
    rgb_label(camvid)
    truncate(camvid.image("val", 2))
    camvid.label("train", 2).unlink()
    with pytest.raises(DatasetError, match="4 problems") as caught:
        prepare(CamVid(camvid.directory), tmp_path / "out")
    for part in (
        "train/0001TP_train000: .*image damaged",
        "train/0001TP_train000: .*label has colors",
        "train/0001TP_train002: .*image has no label",
        "val/0001TP_val002: .*image damaged",
    ):
        assert re.search(part, str(caught.value))


def test_missing_and_malformed_lists_are_reported(camvid: CamVidSource, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="nothing: no such directory"):
        prepare(CamVid(tmp_path / "nothing"), tmp_path / "out")
    (camvid.directory / "train.txt").write_text("only-one-name\n")
    with pytest.raises(DatasetError, match=r"train\.txt:1: expected an image and a label"):
        prepare(CamVid(camvid.directory), tmp_path / "out")
    (camvid.directory / "train.txt").write_text("\n")
    truncate(camvid.image("val", 1))
    with pytest.raises(DatasetError, match=r"(?s)2 problems.*lists no samples.*val/0001TP_val001"):
        prepare(CamVid(camvid.directory), tmp_path / "out")
    message = r"(?s)3 problems.*train\.txt: lists no samples.*val001.*\n  train: no sample is left$"
    with pytest.raises(DatasetError, match=message):
        prepare(CamVid(camvid.directory), tmp_path / "out", skip_invalid=True)
    with pytest.raises(DatasetError, match="not CamVid"):
        prepare(CamVid(tmp_path), tmp_path / "out")


def test_duplicate_names_are_reported_or_skipped(camvid: CamVidSource, tmp_path: Path) -> None:
    camvid.list("train", ["0001TP_train000", "0001TP_train001", "0001TP_train000"])
    truncate(camvid.image("val", 2))
    repeated = r"train/0001TP_train000: .*png: its name occurs 2 times in the split"
    with pytest.raises(DatasetError, match=rf"(?s)3 problems.*{repeated}.*{repeated}.*val002"):
        prepare(CamVid(camvid.directory), tmp_path / "out")
    manifest = prepare(CamVid(camvid.directory), tmp_path / "out", skip_invalid=True)
    assert manifest.counts == {"train": 1, "val": 2}


@pytest.mark.parametrize("split", ["train", "val"])
def test_skipping_all_samples_of_a_split_for_training_is_an_error(
    camvid: CamVidSource, tmp_path: Path, split: str
) -> None:
    for index in range(3):
        truncate(camvid.label(split, index))
    message = rf"(?s)4 problems.*{split}002.*\n  {split}: no sample is left$"
    with pytest.raises(DatasetError, match=message):
        prepare(CamVid(camvid.directory), tmp_path / "out", skip_invalid=True)
    assert [path.name for path in tmp_path.iterdir()] == ["camvid"]


def test_skipping_all_samples_of_another_split_is_noted(
    camvid: CamVidSource, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    camvid.add("test", "0001TP_test000")
    camvid.list("test", ["0001TP_test000"])
    truncate(camvid.image("test"))
    line = ["camvid", "--source", str(camvid.directory), "--destination", str(tmp_path / "out")]
    assert main([*line, "--workers", "1", "--skip-invalid"]) == 0
    printed = capsys.readouterr().out
    assert ": camvid, 3 train, 3 val, 11 classes" in printed
    assert "note: test: no sample is left\n" in printed
