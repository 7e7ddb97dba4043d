"""A trained model as files for other programs."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file

from models import FENetConfig, split_output
from orchestrator.evaluation import export_model
from orchestrator.evaluation.trained_model import load_model
from orchestrator.export import main
from pipelines.data.config import DataConfig
from pipelines.data.dataset import open_dataset
from pipelines.data.image_format import ImageFormat
from pipelines.data.normalization import normalize
from pipelines.model_directory import write_model_directory
from pipelines.network.build import build_network
from pipelines.network.export import METADATA, ExportError, export_program, save_onnx
from pipelines.network.file_names import WEIGHTS_FILE
from pipelines.training.config import TrainingConfig
from pipelines.training.experiment import Experiment
from tests.support.finished_run import FinishedRun
from tests.support.fixed_size import EVEN_SIZE, fixed_size, write_model
from tests.support.model_hub import TOKEN, ModelHub
from tests.support.servers import serving

# Sizes of which none was exported: small, odd, and flat.
SIZES = ((33, 64), (75, 133), (257, 40))


@pytest.fixture
def model(tmp_path: Path, small_streets: Path) -> Path:
    """A model directory. Its network has few layers, because exporting takes time for each."""
    config = FENetConfig("tests.support.shallow_backbones:ShallowDFNet1", channels=8)
    return _write_model(tmp_path, small_streets, config)


def _write_model(folder: Path, dataset: Path, config: FENetConfig, **training: Any) -> Path:
    """Write a model directory of an untrained network in `folder`; return its path."""
    experiment = Experiment(
        data=DataConfig(str(dataset), crop=(32, 32)),
        model=config,
        training=TrainingConfig(precision="fp32", **training),
    )
    checkpoint = folder / "checkpoint"
    checkpoint.mkdir()
    network = build_network(experiment.model, 10, seed=0)
    save_file(dict(network.state_dict()), checkpoint / WEIGHTS_FILE)
    directory = folder / "model"
    write_model_directory(directory, checkpoint, experiment, open_dataset(dataset).manifest)
    return directory


def test_metadata_names_a_directory_without_its_path(model: Path) -> None:
    name = f"runs:/{'1f' * 16}/model"
    loaded = load_model(f"{model}/", None)
    assert export_model.model_metadata(loaded)["model"] == "model"
    assert export_model.model_metadata(replace(loaded, name=name))["model"] == name


def test_metadata_says_how_images_become_the_input(model: Path) -> None:
    loaded = load_model(str(model), None)
    deep = ImageFormat(4, 16, (100, 9000), (0.1, 0.2, 0.3, 0.4), (0.5, 0.6, 0.7, 0.8))
    metadata = export_model.model_metadata(
        replace(loaded, class_list=replace(loaded.class_list, images=deep)), (40, 56)
    )
    assert metadata["input"] == (
        "images: float32 (1, 4, 40, 56), 4 channels from 0 to 1, where 100 is 0, 9000 is 1 and "
        "other values are clipped, minus mean, divided by std"
    )
    assert metadata["output"].startswith("logits: float32 (1, classes, 40, 56); ")
    assert (metadata["bits"], metadata["scale"]) == (16, [100, 9000])
    assert (metadata["mean"], metadata["std"]) == ([0.1, 0.2, 0.3, 0.4], [0.5, 0.6, 0.7, 0.8])
    assert metadata["palette"] == [list(entry.color) for entry in loaded.class_list.classes]
    plain = export_model.model_metadata(loaded)["input"]
    assert plain == (
        "images: float32 (batch, 3, height, width), RGB from 0 to 1, minus mean, divided by std"
    )


@pytest.mark.slow
def test_exported_model_computes_what_torch_computes(
    model: Path, small_streets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "exported"
    assert main([str(model), "--out", str(out)]) == 0
    printed = capsys.readouterr()
    assert printed.out.count("100.000 % of the pixels get the class that torch predicts") == 3
    assert "8 images and parts of images" in printed.out
    assert f"{out / 'README.md'}: model card with 0 recorded evaluations" in printed.out
    assert printed.err == ""

    network = load_model(str(model), None).network
    copy = load_model(str(out), None).network
    program = torch.export.load(out / "model.pt2").module()
    session = onnxruntime.InferenceSession(out / "model.onnx", providers=["CPUExecutionProvider"])
    for batch, size in enumerate(SIZES, start=1):
        images = torch.randn(batch, 3, *size)
        with torch.no_grad():
            expected = split_output(network(images))[0]
            assert torch.equal(split_output(copy(images))[0], expected)
            torch.testing.assert_close(program(images), expected, rtol=1e-4, atol=1e-5)
        (logits,) = session.run(["logits"], {"images": images.numpy()})
        np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)

    manifest = open_dataset(small_streets).manifest
    metadata = json.loads((out / METADATA).read_text())
    assert metadata["classes"] == [entry.name for entry in manifest.classes]
    assert metadata["palette"] == [list(entry.color) for entry in manifest.classes]
    pixels = torch.randint(256, (1, 3, 8, 8), dtype=torch.uint8)
    mean, std = (torch.tensor(metadata[name])[:, None, None] for name in ("mean", "std"))
    torch.testing.assert_close((pixels / 255 - mean) / std, normalize(pixels))
    exported = onnx.load(out / "model.onnx")
    onnx.checker.check_model(exported)
    properties = {entry.key: entry.value for entry in exported.metadata_props}
    assert json.loads(properties["classes"]) == metadata["classes"]
    shape = exported.graph.input[0].type.tensor_type.shape
    axes = [axis.dim_param or axis.dim_value for axis in shape.dim]
    assert axes == ["batch", 3, "height", "width"]
    extra = {METADATA: ""}
    torch.export.load(out / "model.pt2", extra_files=extra)
    assert json.loads(extra[METADATA]) == metadata


@pytest.mark.slow
def test_network_with_windows_is_exported_for_one_size(
    small_streets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # The second layer of the first stage shifts its windows.
    swin = {"embed_dim": 8, "depths": [2, 1], "num_heads": [1, 1], "window_size": 4}
    config = FENetConfig("hf:swin", channels=8, flows=(), ppm=False, backbone_arguments=swin)
    model = _write_model(tmp_path, small_streets, config)
    out = tmp_path / "exported"
    arguments = [str(model), "--out", str(out), "--format", "onnx", "--format", "torch"]
    assert main([*arguments, "--size", "40x56"]) == 0
    assert "4 images, resized, of" in capsys.readouterr().out
    images = torch.randn(1, 3, 40, 56)
    with torch.no_grad():
        expected = split_output(load_model(str(model), None).network(images))[0]
    expected = torch.nn.functional.interpolate(expected, (40, 56), mode="bilinear")
    program = torch.export.load(out / "model.pt2").module()
    torch.testing.assert_close(program(images), expected, rtol=1e-4, atol=1e-5)
    session = onnxruntime.InferenceSession(out / "model.onnx", providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape == [1, 3, 40, 56]
    (logits,) = session.run(["logits"], {"images": images.numpy()})
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)
    assert "(1, 3, 40, 56)" in json.loads((out / METADATA).read_text())["input"]
    assert "for one image of 40 x 56 pixels" in (out / "README.md").read_text()

    assert main([*arguments, "--size", "40x9999999"]) == 2
    assert "--size may be at most 8192x8192" in capsys.readouterr().out


@pytest.mark.slow
def test_exported_folder_is_pushed_with_its_card(
    finished_run: FinishedRun,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Hub(ModelHub):
        pass

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    out = tmp_path / "exported"
    arguments = [f"runs:/{finished_run.run_id}/model", "--storage", str(finished_run.storage)]
    arguments += ["--out", str(out), "--format", "safetensors", "--license", "mit"]
    with serving(Hub) as url:
        monkeypatch.setenv("HF_ENDPOINT", url)
        assert main([*arguments, "--push", "user/fenet", "--private"]) == 0
        assert f"{url}/user/fenet (commit " in capsys.readouterr().out
        repository = Hub.repositories["user/fenet"]
        written = {file.name: file.read_bytes() for file in out.iterdir()}
        assert repository.private
        assert repository.files == {".gitattributes": b"", **written}
        card = ModelCard(written["README.md"].decode())
        score, *_ = card.data.eval_results  # other tests evaluate the same run
        assert (score.dataset_name, score.dataset_split) == ("streets", "val")
        assert (score.metric_type, score.metric_value) == ("mean_iou", 0.25)
        assert (card.data.license, card.data.model_name) == ("mit", "fenet")
        assert f"| MLflow run | {finished_run.run_id} |" in card.text
        assert not [each for each in written.values() if bytes(finished_run.dataset.parent) in each]

        (out / "README.md").write_text("---\nlicense: mit\n---\nBy hand\n")
        assert main([*arguments, "--push", "user/fenet"]) == 0
        assert "README.md: kept, because it was written or edited by hand" in (
            capsys.readouterr().out.replace("\n", " ")
        )
        assert repository.files["README.md"] == b"---\nlicense: mit\n---\nBy hand\n"

        assert main([*arguments, "--push", "nobody/fenet"]) == 2
        output = capsys.readouterr().out
        assert f"the exported files are in {out}" in output.splitlines()[-1]
    huggingface_hub.close_session()

    assert main([*arguments, "--private"]) == 2
    assert "add --push OWNER/NAME" in capsys.readouterr().out
    assert main([*arguments, "--push", "fenet"]) == 2
    assert "write OWNER/NAME" in capsys.readouterr().out


def test_model_directory_is_not_overwritten(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {file.name: file.read_bytes() for file in model.iterdir()}
    assert main([str(model), "--out", f"{model}/../model"]) == 2
    assert "is the directory of the model itself; choose another one" in capsys.readouterr().out
    assert {file.name: file.read_bytes() for file in model.iterdir()} == before
    assert main([str(model), "--out", str(model / WEIGHTS_FILE)]) == 2
    assert "is a file; choose a directory" in capsys.readouterr().out


def test_network_of_one_size_is_checked_on_it(
    small_streets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_model(tmp_path / "model", small_streets, fixed_size(32, 48))
    out = tmp_path / "exported"
    arguments = [model, "--out", str(out), "--format", "safetensors"]
    for size, pixels, advice in (
        ([], "96 x 192", "name a size that it takes with --size HxW"),
        (["--size", "32x40"], "32 x 40", "choose another --size"),
    ):
        assert main([*arguments, *size]) == 2
        printed = capsys.readouterr()
        assert f"the network cannot be applied to an image of {pixels} pixels (" in printed.out
        assert advice in printed.out
        assert printed.err == ""
        assert list(out.iterdir()) == []
    other = shutil.copytree(small_streets, tmp_path / "other")
    assert main([*arguments, "--size", "32x48", "--dataset", str(other), "--split", "train"]) == 0
    assert f"4 images, resized, of {other} train" in capsys.readouterr().out
    images = torch.zeros(1, 3, 32, 48)
    with torch.no_grad():
        expected = load_model(model, None).network(images)
        assert torch.equal(load_model(str(out), None).network(images), expected)


@pytest.mark.slow
def test_network_of_even_sizes_asks_for_a_size(
    small_streets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """torch exports it for every size, although it takes even ones only."""
    model = write_model(tmp_path / "model", small_streets, EVEN_SIZE)
    formats = ["--format", "torch", "--format", "onnx"]
    assert main([model, "--out", str(tmp_path / "exported"), *formats]) == 2
    printed = capsys.readouterr()
    assert "--size HxW" in printed.out
    assert printed.err == ""


def test_files_of_another_export_are_not_mixed_in(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "exported"
    out.mkdir()
    for name in ("model.onnx", "model.pt2", METADATA, "README.md"):
        (out / name).write_text(name)
    before = {file: file.read_text() for file in out.iterdir()}
    assert main([str(model), "--out", str(out), "--format", "safetensors"]) == 2
    printed = capsys.readouterr().out
    assert f"--out {out} has model.onnx and model.pt2, which this export would not" in printed
    assert {file: file.read_text() for file in out.iterdir()} == before
    for name in ("model.onnx", "model.pt2"):
        (out / name).unlink()
    for name in ("experiment.yaml", WEIGHTS_FILE):  # the same files are replaced
        (out / name).write_text("older")
    assert main([str(model), "--out", str(out), "--format", "safetensors"]) == 0
    assert load_file(out / WEIGHTS_FILE).keys() == load_file(model / WEIGHTS_FILE).keys()
    assert (out / "experiment.yaml").read_text() != "older"


class _Deciding(torch.nn.Module):
    """A network with a condition on values, which cannot be exported."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images if images.sum() > 0 else -images


def test_network_that_cannot_be_exported_is_reported() -> None:
    with pytest.raises(
        ExportError, match=r"cannot export this network for all sizes .*; .* --size HxW"
    ):
        export_program(_Deciding())


ENDLESS = """\
import signal, torch
from pipelines.network import export


class Endless(torch.nn.Module):  # keeps the export busy, as conditions on sizes can for hours
    def forward(self, images):
        while images.shape[2] > 1:
            images = images + 1
        return images


export.export_program(torch.nn.Conv2d(3, 2, 1))  # imports torch's compiler
export.PATIENCE = 0.3
try:
    export.export_program(Endless())
except export.ExportError as error:
    print(error)
assert signal.getitimer(signal.ITIMER_PROF) == (0.0, 0.0)
assert signal.getsignal(signal.SIGPROF) is signal.SIG_DFL
"""


@pytest.mark.slow
def test_export_for_all_sizes_has_an_end() -> None:
    """In a process of its own: torch may not recover."""
    ended = subprocess.run(
        [sys.executable, "-c", ENDLESS], capture_output=True, text=True, check=True, timeout=300
    )
    assert "torch.export did not finish this network for all sizes in" in ended.stdout
    assert "--size HxW" in ended.stdout


@pytest.mark.parametrize("key", ["init", "backbone_weights"])
def test_exported_directory_names_initial_weights_without_their_folder(
    key: str, small_streets: Path, tmp_path: Path
) -> None:
    config = FENetConfig("tests.support.shallow_backbones:ShallowDFNet1", channels=8)
    model = _write_model(tmp_path, small_streets, config, **{key: "/home/me/whole.safetensors"})
    out = tmp_path / "exported"
    assert main([str(model), "--out", str(out), "--format", "safetensors"]) == 0
    written = {file.name: file.read_bytes() for file in out.iterdir()}
    assert any(b"whole.safetensors" in content for content in written.values())
    assert [name for name, content in written.items() if b"/home/me" in content] == []


def test_file_that_computes_something_else_is_not_written(
    finished_run: FinishedRun,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """NaN differs from every number."""
    classes = len(open_dataset(finished_run.dataset).manifest.classes)
    other = torch.nn.Conv2d(3, classes, 1)
    torch.nn.init.constant_(other.weight, torch.nan)
    program = export_program(other)
    monkeypatch.setattr(export_model, "export_program", lambda *_: program)
    out = tmp_path / "exported"
    arguments = [str(finished_run.directory), "--out", str(out), "--format", "torch"]
    assert main(arguments) == 2
    assert "model.pt2 does not compute what torch computes" in capsys.readouterr().out
    assert list(out.iterdir()) == []
    assert main([*arguments, "--split", "vall"]) == 2
    assert "'vall'" in capsys.readouterr().out


def test_missing_onnx_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    program = export_program(torch.nn.Conv2d(3, 4, 1))
    with pytest.raises(ExportError, match=r"pip install 'segmentation-orchestrator\[onnx\]'"):
        save_onnx(program, tmp_path / "model.onnx", {})
