"""The command `pipelines.prepare`."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

from pipelines.data.dataset import PreparedDataset
from pipelines.data.manifest import Manifest
from pipelines.data.sampling import GlobalBatches
from pipelines.preparation.prepare_dataset import prepare
from pipelines.prepare import main
from tests.support.camvid_source import CamVidSource


def test_inspect_and_preview_write_sheets_and_reject_invalid_input(
    streets: PreparedDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = streets.location.path
    assert main(["inspect", uri, "--verify", "--out", str(tmp_path / "a.png")]) == 0
    assert main(["preview", uri, "--crop", "32x64", "--out", str(tmp_path / "b.png")]) == 0
    for name in ("a.png", "b.png"):
        with Image.open(tmp_path / name) as sheet:
            assert sheet.size[0] > 500
    printed = capsys.readouterr().out
    assert "verified" in printed
    assert "augmented crops of 32 x 64 pixels (height x width)" in printed
    off = {"scale": [1, 1], "flip": 0, "hue": 0, "blur": [0, 0]}
    off |= dict.fromkeys(("brightness", "contrast", "saturation"), 0)
    recipe = {"data": {"crop": [32, 64], "augmentation": off, "train_split": "val"}}
    (tmp_path / "plain.yaml").write_text(json.dumps(recipe))  # JSON is valid YAML
    arguments = ["preview", uri, "--experiment", str(tmp_path / "plain.yaml"), "--count", "1"]
    assert main([*arguments, "--out", str(tmp_path / "c.png")]) == 0
    order = GlobalBatches(3, seed=0, batch=1).epoch(0)
    image, _ = streets.split("val").read(int(order[0].samples[0]))
    enlarged = Image.fromarray(image).resize((320, 160), Image.Resampling.BOX)
    with Image.open(tmp_path / "c.png") as sheet:
        assert np.array_equal(np.asarray(sheet)[14:174, :320], np.asarray(enlarged))
    transforms = [{"name": "kornia.augmentation:RandomInvert", "arguments": {"p": 1.0}}]
    recipe["data"]["augmentation"] = {**off, "transforms": transforms}
    (tmp_path / "plain.yaml").write_text(json.dumps(recipe))
    assert main([*arguments, "--out", str(tmp_path / "d.png")]) == 0
    inverted = Image.fromarray(255 - image).resize((320, 160), Image.Resampling.BOX)
    with Image.open(tmp_path / "d.png") as sheet:
        assert np.array_equal(np.asarray(sheet)[14:174, :320], np.asarray(inverted))
    recipe["data"]["augmentation"] = {"transforms": ["kornia.augmentation:RandomInverse"]}
    (tmp_path / "plain.yaml").write_text(json.dumps(recipe))
    assert main(arguments) == 2
    assert "has no torch.nn.Module RandomInverse" in capsys.readouterr().err
    (tmp_path / "plain.yaml").write_text("data: {crops: 3}")
    assert main(arguments) == 2
    assert "plain.yaml: unknown key data.crops" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["preview", uri, "--count", "0"])
    assert "must be a whole number from 1, received '0'" in capsys.readouterr().err
    assert main(["inspect", str(tmp_path / "nowhere")]) == 2
    assert "does not exist" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("sheet.foo", "cannot be written as '.foo'; use .png, .jpg"),
        ("sheet", "cannot be written as ''; use .png"),
        ("nowhere/sheet.png", "there is no directory"),
        ("taken.png", "is a directory"),
    ],
)
@pytest.mark.parametrize("command", ["inspect", "preview"])
def test_invalid_output_path_is_rejected_before_reading_data(
    streets: PreparedDataset,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    message: str,
    command: str,
) -> None:
    (tmp_path / "taken.png").mkdir()
    monkeypatch.setattr(PreparedDataset, "split", None)  # fails if data are read
    assert main([command, streets.location.path, "--out", str(tmp_path / name)]) == 2
    assert message in capsys.readouterr().err


def test_source_that_is_not_utf8_is_reported(
    camvid: CamVidSource, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")
    camvid.directory.rename(source)
    for paths in ((source, str(tmp_path / "out")), (str(tmp_path), f"{source}-out")):
        arguments = ["camvid", "--source", paths[0], "--destination", paths[1], "--workers", "1"]
        assert main(arguments) == 2
        assert r"/caf\xe9" in (printed := capsys.readouterr().err)
        assert "its name is not UTF-8; rename it" in printed


def test_prepare_says_that_it_waits_for_another_process(
    camvid: CamVidSource,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lock = FileLock(tmp_path / ".out.lock")
    lock.acquire()

    def contended(*args: Any, waiting: Callable[[], None], **options: Any) -> Manifest:
        def finish() -> None:
            waiting()
            lock.release()

        return prepare(*args, waiting=finish, **options)

    monkeypatch.setattr("pipelines.run_preparation.prepare", contended)
    out = tmp_path / "out"
    arguments = ["camvid", "--source", str(camvid.directory), "--destination", str(out)]
    assert main([*arguments, "--workers", "1"]) == 0
    printed = capsys.readouterr().err
    assert printed == f"{out}: another process prepares it; waiting until it is done\n"
    assert not lock.is_locked


def test_prepare_prints_progress_result_and_errors(
    camvid: CamVidSource,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pipelines.run_preparation._LINE_SECONDS", 0.0)
    monkeypatch.setenv("FORCE_COLOR", "1")  # many CI services set it
    arguments = ["camvid", "--source", str(camvid.directory), "--workers", "1"]
    assert main([*arguments, "--destination", str(tmp_path / "out"), "--verify"]) == 0
    printed = capsys.readouterr()
    assert "camvid, 3 train, 3 val, 11 classes" in printed.out
    assert "verified: every shard and every sample" in printed.out
    assert "preparing camvid: 6 of 6 samples after " in printed.err
    assert "verifying: 3 of 6 samples" in printed.err
    assert "\x1b" not in printed.err
    camvid.image().write_bytes(camvid.image().read_bytes()[:100])
    assert main([*arguments, "--destination", str(tmp_path / "other")]) == 2
    assert "train/0001TP_train000" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()
    with pytest.raises(SystemExit):
        main(["streets", "--destination", str(tmp_path / "x"), "--size", "huge"])
    assert "must be HEIGHTxWIDTH" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["streets", "--destination", str(tmp_path / "x"), "--seed", "-1"])
    assert "must be a whole number from 0, received '-1'" in capsys.readouterr().err
