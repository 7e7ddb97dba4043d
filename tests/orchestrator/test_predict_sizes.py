"""`orchestrator.predict` on images of sizes that do not fit, and on a full disk."""

import errno
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from orchestrator.predict import main
from tests.support.finished_run import FinishedRun
from tests.support.fixed_size import fixed_size, write_model


def write_images(directory: Path, sizes: dict[str, tuple[int, int]]) -> Path:
    """Write a black image for each name, with this height and width."""
    directory.mkdir()
    for name, size in sizes.items():
        Image.fromarray(np.zeros((*size, 3), np.uint8)).save(directory / f"{name}.png")
    return directory


def test_image_that_the_network_cannot_take_is_skipped(
    small_streets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_model(tmp_path / "model", small_streets, fixed_size(32, 48))
    sizes = {"large": (40, 50), "right": (32, 48), "small": (32, 20)}
    images, out = write_images(tmp_path / "in", sizes), tmp_path / "out"
    command = [model, str(images), "--out", str(out)]
    assert main(command) == 1
    printed = capsys.readouterr()
    for name, size in (("large", "40 x 50"), ("small", "32 x 20")):
        start = f"skipped {images / name}.png: the network cannot be applied to an image of {size}"
        assert start in printed.out
    assert "with --window HxW" in printed.out
    assert f"1 label map in {out}, 2 images skipped" in printed.out
    assert printed.err == ""
    assert [file.name for file in out.iterdir()] == ["right.png"]

    assert main([*command, "--window", "32x48"]) == 1
    printed = capsys.readouterr()
    assert "small.png: the network cannot be applied to 32 x 20 pixels of an image that is" in (
        printed.out
    )
    assert f"2 label maps in {out}, 1 image skipped" in printed.out


def test_image_too_wide_for_an_overlay_keeps_its_label_map(
    small_streets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_model(tmp_path / "model", small_streets, fixed_size(1, 48))
    images, out = write_images(tmp_path / "in", {"a": (1, 65536), "b": (1, 48)}), tmp_path / "out"
    options = [str(images), "--out", str(out), "--overlay", "--window", "1x48"]
    assert main([model, *options]) == 1
    printed = capsys.readouterr()
    assert f"no overlay of {images / 'a.png'}: it would have " in printed.out
    assert "JPEG takes at most 65500 per side; cut the image into tiles" in printed.out
    assert f"2 label maps in {out}, 0 images skipped, 1 overlay missing" in printed.out
    assert printed.err == ""
    assert {file.name for file in out.iterdir()} == {"a.png", "b.png", "b.overlay.jpg"}


def test_full_disk_leaves_no_half_written_label_map(
    finished_run: FinishedRun,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    image, out = tmp_path / "a.png", tmp_path / "out"
    Image.fromarray(np.zeros((32, 48, 3), np.uint8)).save(image)

    def write_half(path: Path, data: bytes) -> None:
        with path.open("wb") as file:
            file.write(data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", write_half)
    assert main([str(finished_run.directory), str(image), "--out", str(out)]) == 1
    assert "the disk is full; make room" in capsys.readouterr().out
    assert list(out.iterdir()) == []
