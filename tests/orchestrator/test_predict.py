"""`orchestrator.predict`: the files it writes, their names, and the inputs it rejects."""

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file

from models import FENetConfig
from orchestrator.console import InputError
from orchestrator.evaluate import main as evaluate_main
from orchestrator.evaluation.input_images import find_images
from orchestrator.evaluation.trained_model import load_model
from orchestrator.predict import main
from pipelines.data.manifest import ClassInfo
from pipelines.evaluation.config import InferenceConfig
from pipelines.evaluation.inference import predict_image
from pipelines.figures.labeled_overlay import draw_overlay
from pipelines.network.build import build_network
from pipelines.network.precision import Numerics
from pipelines.preparation.prepare_dataset import prepare
from pipelines.preparation.readers.ade20k import ADE20K
from pipelines.preparation.readers.cityscapes import Cityscapes
from pipelines.training.config import TrainingConfig
from pipelines.training.experiment import Experiment
from tests.support.cityscapes import make_cityscapes, official_scores
from tests.support.finished_run import FinishedRun

CPU = Numerics.choose(torch.device("cpu"), "fp32")


def write_image(path: Path, seed: int = 0, size: tuple[int, int] = (24, 40)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def saved_model(directory: Path, classes: Sequence[ClassInfo]) -> str:
    """Write a model directory with a randomly initialized network and return its path."""
    directory.mkdir(parents=True)
    experiment = Experiment(
        model=FENetConfig(backbone="dfnet1", channels=8), training=TrainingConfig(precision="fp32")
    )
    network = build_network(experiment.model, len(classes), seed=0)
    save_file(dict(network.state_dict()), directory / "model.safetensors")
    (directory / "experiment.yaml").write_text(json.dumps(asdict(experiment)))
    listed = [{"name": entry.name, "color": list(entry.color)} for entry in classes]
    described = {"dataset": "made", "fingerprint": "0", "ignore_index": 255, "classes": listed}
    (directory / "classes.yaml").write_text(yaml.safe_dump(described))
    return str(directory)


def files(directory: Path) -> set[str]:
    return {f.relative_to(directory).as_posix() for f in directory.rglob("*") if f.is_file()}


def test_labels_and_overlays_keep_names_and_folders(
    finished_run: FinishedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, out = tmp_path / "images", tmp_path / "out"
    first = write_image(images / "day" / "a.b.png")
    write_image(images / "night" / "a.b.jpg", 1, (17, 33))
    (images / "notes.txt").write_text("not an image")
    gray = tmp_path / "grey.png"
    Image.fromarray(np.arange(100, dtype=np.uint8).reshape(10, 10)).save(gray)
    model = str(finished_run.directory)
    options = ["--out", str(out), "--overlay", "--flip", "--scales", "1,1.5"]
    assert main([model, str(images), str(gray), *options]) == 0
    assert f"3 label maps in {out}, 0 images skipped" in capsys.readouterr().out
    names = {"day/a.b", "night/a.b", "grey"}
    assert files(out) == {f"{name}{end}" for name in names for end in (".png", ".overlay.jpg")}

    trained = load_model(model, None)
    with Image.open(first) as opened:
        pixels = np.array(opened)
    config = InferenceConfig(scales=(1, 1.5), flip=True)
    expected = predict_image(trained.network, torch.tensor(pixels), CPU, config).numpy()
    with Image.open(out / "day" / "a.b.png") as label:
        assert label.mode == "P"
        assert np.array_equal(np.asarray(label), expected)
        colors = np.array([entry.color for entry in trained.class_list.classes])[expected]
        assert np.array_equal(np.asarray(label.convert("RGB")), colors)
    with Image.open(out / "day" / "a.b.overlay.jpg") as overlay:
        drawn = draw_overlay(pixels, expected, trained.class_list.classes)
        assert abs((np.asarray(overlay).astype(float) - drawn).mean()) < 2
    with Image.open(out / "night" / "a.b.png") as label:
        assert label.size == (33, 17)


def test_unreadable_images_are_reported_and_skipped(
    finished_run: FinishedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = tmp_path / "images"
    good_image = write_image(images / "good.png")
    (images / "cut.png").write_bytes(good_image.read_bytes()[:400])
    (images / "empty.jpg").touch()
    good_image = write_image(images / "padded.jpg")
    size = good_image.stat().st_size
    for length in (size // 2, size):  # the second half becomes zeros
        os.truncate(good_image, length)
    (tmp_path / "notes.txt").write_text("not an image")
    inputs = [str(images), str(tmp_path / "notes.txt")]
    out = tmp_path / "out"
    assert main([str(finished_run.directory), *inputs, "--out", str(out)]) == 1
    printed = capsys.readouterr().out
    assert f"skipped {images / 'cut.png'}: damaged or truncated" in printed
    assert f"skipped {images / 'empty.jpg'}: the file is empty" in printed
    assert f"skipped {images / 'padded.jpg'}: damaged or truncated (no end-of-image" in printed
    assert f"skipped {tmp_path / 'notes.txt'}: not an image" in printed
    assert f"1 label map in {out}, 4 images skipped" in printed
    assert files(out) == {"good.png"}


@pytest.mark.slow
def test_official_script_reads_a_cityscapes_submission(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The script's scores for the predictions equal those of `orchestrator.evaluate`."""
    root = tmp_path / "cityscapes"
    make_cityscapes(root, list(range(34)), np.random.default_rng(0))
    prepare(Cityscapes(root), tmp_path / "prepared")
    model = saved_model(tmp_path / "model", Cityscapes(Path()).classes)
    results = tmp_path / "results"
    inputs = [str(root / "leftImg8bit" / "val"), "--out", str(results), "--overlay"]
    assert main([model, *inputs, "--submission", "cityscapes"]) == 0
    expected = official_scores(root, results)
    capsys.readouterr()
    assert evaluate_main([model, "--dataset", str(tmp_path / "prepared")]) == 0
    printed = capsys.readouterr().out
    for line in printed.splitlines():
        columns = [column.strip() for column in line.split("│")]
        if len(columns) > 2 and columns[1] in expected["classScores"] and columns[2] != "absent":
            assert columns[2] == f"{100 * expected['classScores'][columns[1]]:.2f}"
    (mean,) = [line for line in printed.splitlines() if line.startswith("│ mean  ")]
    assert f"{100 * expected['averageScoreClasses']:.2f}" in mean
    assert len([name for name in files(results) if name.endswith("_leftImg8bit.png")]) == 3


@pytest.mark.slow
def test_ade20k_submission_starts_at_one(tmp_path: Path) -> None:
    model = saved_model(tmp_path / "model", ADE20K(Path()).classes)
    image = write_image(tmp_path / "ADE_test_00000001.jpg")
    options = [str(image), "--out", str(tmp_path / "out")]
    assert main([model, *options]) == 0
    with Image.open(tmp_path / "out" / "ADE_test_00000001.png") as opened:
        indices = np.array(opened)
    assert main([model, *options, "--submission", "ade20k"]) == 0
    with Image.open(tmp_path / "out" / "ADE_test_00000001.png") as opened:
        assert opened.mode == "L"
        assert np.array_equal(np.array(opened), indices + 1)


@pytest.mark.slow
def test_submission_leaves_the_exif_orientation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The server's labels have the size of the stored pixels."""
    model = saved_model(tmp_path / "model", ADE20K(Path()).classes)
    exif = Image.Exif()
    exif[0x0112] = 6
    image, out = tmp_path / "ADE_test_00000001.png", tmp_path / "out"
    Image.fromarray(np.zeros((24, 40, 3), np.uint8)).save(image, exif=exif)
    options = [model, str(image), "--out", str(out)]
    for more, size, said in (
        ([], (24, 40), "1 image turned upright by EXIF orientation"),
        (
            ["--submission", "ade20k"],
            (40, 24),
            "1 image not turned by EXIF orientation, as on the server",
        ),
    ):
        assert main([*options, *more]) == 0
        assert said in capsys.readouterr().out
        with Image.open(out / "ADE_test_00000001.png") as opened:
            assert opened.size == size


def test_bad_input_is_reported_and_nothing_is_written(
    finished_run: FinishedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = tmp_path / "images"
    image, twin = write_image(images / "a.png"), write_image(tmp_path / "twin" / "a.jpg")
    (tmp_path / "empty").mkdir()
    out, model = str(tmp_path / "out"), str(finished_run.directory)
    city = write_image(tmp_path / "c" / "berlin_000000_000019_leftImg8bit.png")
    again = write_image(tmp_path / "d" / "berlin_000000_000019_other.png")
    before = files(tmp_path)
    for message, options in (
        ("no such file or folder", [str(tmp_path / "nothing"), "--out", out]),
        ("matches no file", [str(tmp_path / "*.tif"), "--out", out]),
        ("no images in this folder", [str(tmp_path / "empty"), "--out", out]),
        ("is a file; choose a directory", [str(image), "--out", str(image)]),
        ("would be overwritten", [str(image), "--out", str(images)]),
        ("would both be written to", [str(image), str(twin), "--out", out]),
        ("such as berlin_000000", [str(image), "--out", out, "--submission", "cityscapes"]),
        (
            "are the same image",
            [str(city), str(again), "--out", out, "--submission", "cityscapes"],
        ),
        ("has 19 classes", [str(city), "--out", out, "--submission", "cityscapes"]),
    ):
        assert main([model, *options]) == 2, message
        assert message in capsys.readouterr().out
    assert files(tmp_path) == before


def test_submission_with_reordered_classes_is_rejected(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = saved_model(tmp_path / "model", Cityscapes(Path()).classes[::-1])
    image = write_image(tmp_path / "berlin_000000_000019.png")
    options = [str(image), "--out", str(tmp_path / "out"), "--submission", "cityscapes"]
    assert main([model, *options]) == 2
    assert "class 0 must be 'road', but the model's is 'bicycle'" in capsys.readouterr().out


def test_pattern_keeps_the_folders_below_its_fixed_part(tmp_path: Path) -> None:
    for name in ("val/munster/a.png", "val/lindau/a.png", "train/ulm/a.png", "val/munster/b.txt"):
        write_image(tmp_path / name.replace(".txt", ".png"))
    out = tmp_path / "out"
    for pattern, expected_paths in (
        ("val/*/a.png", ["lindau/a.png", "munster/a.png"]),
        ("*/*/a.png", ["train/ulm/a.png", "val/lindau/a.png", "val/munster/a.png"]),
        ("**/munster/[ab].png", ["val/munster/a.png", "val/munster/b.png"]),
    ):
        images = find_images([str(tmp_path / pattern)], out).images
        assert [entry.relative_path.as_posix() for entry in images] == expected_paths


def test_results_of_an_earlier_run_are_not_inputs(tmp_path: Path) -> None:
    write_image(tmp_path / "a.jpg")
    write_image(tmp_path / "out" / "a.png")
    (image,) = find_images([str(tmp_path)], tmp_path / "out").images
    assert image.relative_path.as_posix() == "a.jpg"
    # An image given twice is read once.
    twice = find_images([str(tmp_path), str(tmp_path / "a.jpg")], tmp_path / "out")
    assert len(twice.images) == 1


def test_links_to_one_file_are_separate_images(tmp_path: Path) -> None:
    write_image(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "b.png").symlink_to("a.png")
    (tmp_path / "again").symlink_to("in")
    names = [str(tmp_path / name) for name in ("in", "again", "in/b.png")]
    images = find_images(names, tmp_path / "out").images
    assert [str(image.relative_path) for image in images] == ["a.png", "b.png"]


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "an input is empty"), ("~no-such-user/x.png", "~no-such-user/x.png: there is no such")],
)
def test_input_that_names_nothing_is_reported(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=f"^{message}"):
        find_images([text], tmp_path / "out")


def test_names_that_are_not_utf8_are_reported(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png")
    name = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png")
    os.rename(write_image(tmp_path / "b.png"), name)
    for text in (str(tmp_path), str(tmp_path / "*.png")):
        found = find_images([text], tmp_path / "out")
        assert [str(image.relative_path) for image in found.images] == ["a.png"]
        (problem,) = found.problems
        assert problem.startswith(rf"{tmp_path}/caf\xe9.png: its name is not UTF-8; rename it")
    with pytest.raises(InputError, match=r"caf\\xe9\.png: its name is not UTF-8; rename it"):
        find_images([name], tmp_path / "out")


@given(st.lists(st.sampled_from(["a.png", "a.jpg", "b.png", "s/a.png", "s/t/b.jpg"]), unique=True))
def test_no_result_overwrites_another_result_or_an_input(
    tmp_path_factory: pytest.TempPathFactory, names: list[str]
) -> None:
    root = tmp_path_factory.mktemp("inputs")
    try:
        for name in names:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).touch()
        for out in (root, root / "s", root / "out"):
            try:
                images = find_images([str(root / name) for name in names], out).images
            except InputError:
                continue
            results = [
                entry.result(out, end) for entry in images for end in (".png", ".overlay.jpg")
            ]
            assert len(set(results)) == len(results)
            assert not {path.resolve() for path in results} & {entry.path for entry in images}
    finally:
        shutil.rmtree(root)


def test_folders_with_links_hidden_files_and_other_formats(
    finished_run: FinishedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = tmp_path / "photos"
    write_image(photos / "a.png")
    write_image(tmp_path / "disk" / "c.png")
    for name in ("._a.png", ".cache/d.png", "notes.txt"):
        (photos / name).parent.mkdir(exist_ok=True)
        (photos / name).write_bytes(b"\0\5\26\7")
    (photos / "linked").symlink_to(tmp_path / "disk")
    (photos / "linked" / "back").symlink_to(photos)
    (photos / "gone.png").symlink_to("/nowhere/x.png")
    deep = np.random.default_rng(0).integers(0, 4096, (24, 40)).astype(np.uint16)
    Image.fromarray(deep).save(photos / "xray.png")
    out, model = tmp_path / "out", str(finished_run.directory)
    assert main([model, str(photos), "--out", str(out)]) == 1
    printed = capsys.readouterr().out
    assert f"{photos}: 1 file with an unknown extension (.txt)" in printed
    assert f"skipped {photos / 'gone.png'}: links to /nowhere/x.png, which does not" in printed
    assert f"skipped {photos / 'xray.png'}: stores 16-bit gray values" in printed
    assert "--scale=0,4095" in printed
    assert f"2 label maps in {out}, 2 images skipped" in printed
    assert files(out) == {"a.png", "linked/c.png"}

    assert main([model, str(photos / "xray.png"), "--out", str(out), "--scale=0,4095"]) == 0
    gray = np.rint(deep / 4095 * 255).astype(np.uint8)
    Image.fromarray(gray).save(tmp_path / "gray.png")
    assert main([model, str(tmp_path / "gray.png"), "--out", str(out)]) == 0
    assert (out / "xray.png").read_bytes() == (out / "gray.png").read_bytes()


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("CPU: can't allocate memory: 9")])
def test_image_that_exceeds_memory_is_skipped(
    finished_run: FinishedRun,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    write_image(tmp_path / "in/a.png", size=(48, 64))
    write_image(tmp_path / "in/b.png")

    def predict(network: object, image: torch.Tensor, *arguments: object) -> torch.Tensor:
        if image.shape[0] == 48:
            raise error
        return torch.zeros(image.shape[:2], dtype=torch.uint8)

    monkeypatch.setattr("orchestrator.evaluation.predict_images.predict_image", predict)
    command = [str(finished_run.directory), str(tmp_path / "in"), "--out", str(tmp_path / "out")]
    assert main(command) == 1
    printed = capsys.readouterr().out
    assert "a.png: not enough memory to predict 48 x 64 pixels at once; predict it in" in printed
    assert "--window 512x512" in printed
    assert files(tmp_path / "out") == {"b.png"}
    assert main([*command, "--window", "32x32"]) == 1
    assert "use a --window smaller than 32x32" in capsys.readouterr().out
