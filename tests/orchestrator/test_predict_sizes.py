"""`orchestrator.predict` on images of sizes that a network does not take."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from orchestrator.predict import main
from tests.support.fixed_size import write_model


def test_image_that_the_network_cannot_take_is_skipped(
    small_streets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_model(tmp_path / "model", small_streets, (32, 48))
    images, out = tmp_path / "in", tmp_path / "out"
    images.mkdir()
    for name, size in (("large", (40, 50)), ("right", (32, 48)), ("small", (32, 20))):
        Image.fromarray(np.zeros((*size, 3), np.uint8)).save(images / f"{name}.png")
    command = [model, str(images), "--out", str(out)]
    assert main(command) == 1
    printed = capsys.readouterr()
    for name, size in (("large", "40 x 50"), ("small", "32 x 20")):
        start = f"skipped {images / name}.png: the network cannot be applied to an image of {size}"
        assert start in printed.out
    assert "with --window HxW" in printed.out
    assert f"1 label maps in {out}, 2 images skipped" in printed.out
    assert printed.err == ""
    assert [file.name for file in out.iterdir()] == ["right.png"]

    assert main([*command, "--window", "32x48"]) == 1
    printed = capsys.readouterr()
    assert "small.png: the network cannot be applied to 32 x 20 pixels of an image that is" in (
        printed.out
    )
    assert f"2 label maps in {out}, 1 images skipped" in printed.out
