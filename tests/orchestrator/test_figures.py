"""`python -m orchestrator.figures` on a run in a real tracking store and on model directories."""

import re
from pathlib import Path

import matplotlib
import pytest
from PIL import Image

from orchestrator.figures import main
from pipelines.data.dataset import open_dataset
from tests.support.finished_run import FinishedRun
from tests.support.fixed_size import fixed_size, write_model


def command(run: FinishedRun, kind: str, *options: str) -> int:
    return main([kind, *options, "--dataset", str(run.dataset), "--storage", str(run.storage)])


@pytest.mark.slow
def test_comparison_of_two_models(
    finished_run: FinishedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    best, last = (f"runs:/{finished_run.run_id}/{name}" for name in ("best", "last"))
    outputs = [tmp_path / "new" / f"two.{suffix}" for suffix in ("png", "pdf")]
    options = [part for path in outputs for part in ("--out", str(path))]
    assert command(finished_run, "compare", best, last, *options, "--images", "2") == 0
    printed = capsys.readouterr().out
    gains = [
        float(second) - float(first)
        for first, second in re.findall(r"mIoU ([\d.]+) -> ([\d.]+)", printed)
    ]
    assert len(gains) == 2
    assert gains == sorted(gains, reverse=True)
    with Image.open(outputs[0]) as image:
        assert image.width > 1500
    assert outputs[1].read_bytes().startswith(b"%PDF")

    # With two seeds of one model, the title and the captions say that scores are means.
    seeds = ["--seed-of-a", last, "--seed-of-b", last, "--out", str(tmp_path / "seeds.svg")]
    seeds += ["--names", "a", "without flows"]
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        assert command(finished_run, "compare", best, last, *seeds, "--images", "1") == 0
    text = (tmp_path / "seeds.svg").read_text()
    assert "by the mean of 2 seeds; predictions of seed 0" in text
    sentence = (
        r'"without flows" has the higher mIoU, mean of 2 seeds, on \d of \d images, "a" on \d<'
    )
    assert re.search(sentence, text)
    assert text.count(", mean of 2 seeds<") == 2
    assert len(re.findall(r"mIoU [\d.]+, mean [\d.]+<", text)) == 2
    capsys.readouterr()

    # A model directory holds the same network; images can be selected by identifier.
    identifiers = open_dataset(finished_run.dataset).split("val").identifiers
    options_for_image = ["--image", identifiers[1], "--out", str(tmp_path / "one.png")]
    assert (
        command(finished_run, "compare", best, str(finished_run.directory), *options_for_image) == 0
    )
    assert f"{identifiers[1]}: mIoU" in capsys.readouterr().out


def test_feature_maps(finished_run: FinishedRun, tmp_path: Path) -> None:
    path = tmp_path / "features.png"
    model = f"runs:/{finished_run.run_id}/model"
    assert command(finished_run, "features", model, "--out", str(path), "--level", "1") == 0
    with Image.open(path) as image:
        assert image.width > 1500


def test_bad_input_is_reported(
    finished_run: FinishedRun, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(finished_run.directory)
    for message, options in (
        ("must end in one of .png, .pdf, .svg", ["--out", "figure.gif"]),
        ("--image nowhere is not in split 'val', which has", ["--image", "nowhere"]),
        ("--images must be at least 1, received 0", ["--images", "0"]),
        ("--level must be from 1 to 4, received 5", ["--level", "5"]),
        ("no samples in split 'test'", ["--split", "test"]),
    ):
        assert command(finished_run, "features", model, *options) == 2, message
        assert message in capsys.readouterr().out


def test_image_that_the_network_cannot_take_is_reported(
    finished_run: FinishedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_model(tmp_path / "model", finished_run.dataset, fixed_size(32, 48))
    assert command(finished_run, "compare", model, model, "--out", str(tmp_path / "a.png")) == 2
    printed = capsys.readouterr()
    assert "error: the network cannot be applied to an image of 32 x 64 pixels" in printed.out
    assert printed.err == ""
