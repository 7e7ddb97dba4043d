"""The precision follows the devices that a trial may get; weights count by content; transforms are
applied."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch

from models.backbones import build_backbone
from orchestrator.study.load import load_study
from orchestrator.study.resolve import resolve_trials
from pipelines.data.dataset import open_dataset
from pipelines.data.manifest import DatasetError
from pipelines.data.transforms import TransformError
from pipelines.errors import UserError
from pipelines.network.precision import PrecisionError
from pipelines.network.published_weights import PUBLISHED_WEIGHTS
from pipelines.network.weight_files import WeightsError, weights_digest
from pipelines.preparation.prepare_dataset import prepare
from pipelines.preparation.readers.folder import Folder
from tests.support.many_channels import write_field
from tests.support.published_package import install_package

STUDY = """
study: precision
base:
  data: {dataset: DATASET, crop: [32, 48]}
  model: {backbone: dfnet1, channels: 8}
variants: {a: {}}
"""


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.slow
def test_precision_follows_the_gpus_of_the_trials(
    small_streets: Path, tmp_path: Path, native: bool
) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(STUDY.replace("DATASET", str(small_streets)))
    (trial,) = resolve_trials(load_study(path).trials, "cuda", tmp_path, native_bfloat16=native)
    assert trial.experiment.training.precision == ("bf16" if native else "fp32")
    path.write_text(path.read_text() + "grid: {training.precision: [bf16]}\n")
    trials = load_study(path).trials
    if native:
        assert len(resolve_trials(trials, "cuda", tmp_path, native_bfloat16=True)) == 1
        return
    with pytest.raises(PrecisionError, match=r"^a.*: training\.precision is bf16, but GPUs below"):
        resolve_trials(trials, "cuda", tmp_path, native_bfloat16=False)


def test_reason_that_many_trials_share_is_reported_once(
    small_streets: Path, tmp_path: Path
) -> None:
    text = STUDY.replace("DATASET", str(small_streets))
    path = tmp_path / "study.yaml"
    path.write_text(text + "folds: 40\n")
    with pytest.raises(DatasetError) as caught:
        resolve_trials(load_study(path).trials, "cpu", tmp_path)
    (line,) = str(caught.value).splitlines()
    assert line.startswith("a, fold 0 and 39 more: ")
    assert line.endswith("has 14 images, too few for 40 folds; use at most 14 folds")
    variants = """
  b: {set: {training: {optimizer: {name: adamw, arguments: {betas: 3}}}}}
  c: {set: {training: {optimizer: {name: adamw, arguments: {betas: 4}}}}}
seeds: [0, 1]
"""
    path.write_text(text.replace(" {a: {}}", variants))
    with pytest.raises(UserError) as raised:
        resolve_trials(load_study(path).trials, "cpu", tmp_path)
    (line,) = str(raised.value).splitlines()
    assert line.startswith("b, seed 0 and 3 more: optimizer adamw: ")


@pytest.mark.slow
def test_published_weights_are_identified_by_content(
    small_streets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "efficientnet-lite0"
    state = build_backbone(name, None, dilation=False).state_dict()
    file = install_package(
        PUBLISHED_WEIGHTS[name], tmp_path / "site", safetensors.torch.save(state), monkeypatch
    )
    copy = tmp_path / "weights.safetensors"
    copy.write_bytes(file.read_bytes())
    text = STUDY.replace("DATASET", str(small_streets)).replace("dfnet1", name)
    path = tmp_path / "study.yaml"
    path.write_text(f"{text}grid: {{training.backbone_weights: [{name}, {copy}]}}\n")
    trials = load_study(path).trials
    by_name, by_path = resolve_trials(trials, "cpu", tmp_path)
    # Every worker finds the package in its own installation.
    assert by_name.experiment.training.backbone_weights == name
    assert by_name.digests == (weights_digest(file), None)
    assert by_name.identity == by_path.identity
    assert by_name.pretrained is not None
    assert by_name.pretrained.missing == {}
    file.unlink()
    with pytest.raises(WeightsError, match=rf"^a.*: {name}: .*not installed on this machine"):
        resolve_trials(trials, "cpu", tmp_path)


def test_transform_that_fails_is_reported_before_training(
    small_streets: Path, tmp_path: Path
) -> None:
    path = tmp_path / "study.yaml"
    transform = "{name: 'kornia.augmentation:RandomResizedCrop', arguments: {size: [SIZE], p: 1.0}}"
    variant = f"variants: {{a: {{set: {{data: {{augmentation: {{transforms: [{transform}]}}}}}}}}}}"
    text = STUDY.replace("DATASET", str(small_streets)).replace("variants: {a: {}}", variant)
    path.write_text(text.replace("SIZE", "32, 48"))
    assert len(resolve_trials(load_study(path).trials, "cpu", tmp_path)) == 1
    path.write_text(text.replace("SIZE", "16, 24"))
    with pytest.raises(TransformError, match=r"^a.*: images must be float32 \(1, 3, 32, 48\)"):
        resolve_trials(load_study(path).trials, "cpu", tmp_path)


FOUR_CHANNELS = """
study: field
base:
  data: {dataset: DATASET, crop: [64, 64]}
  model: {channels: 8}
variants:
  dfnet: {set: {model: {backbone: dfnet1-half}}}
  convnext:
    set:
      model:
        backbone: hf:convnext
        backbone_arguments: {hidden_sizes: [8, 8, 16, 16], depths: [1, 1, 1, 1]}
  segformer:
    set:
      model:
        network: hf:segformer
        arguments: {hidden_sizes: [8, 8, 8, 8], depths: [1, 1, 1, 1], decoder_hidden_size: 16}
"""


@pytest.mark.slow
def test_networks_take_the_channels_of_their_data(tmp_path: Path) -> None:
    write_field(tmp_path / "source", images=3)
    prepare(Folder(tmp_path / "source"), tmp_path / "field")
    path = tmp_path / "study.yaml"
    path.write_text(FOUR_CHANNELS.replace("DATASET", str(tmp_path / "field")))
    trials = resolve_trials(load_study(path).trials, "cpu", tmp_path)
    assert [trial.variant for trial in trials] == ["dfnet", "convnext", "segformer"]


def test_class_names_that_cannot_be_recorded_are_reported(
    small_streets: Path, tmp_path: Path
) -> None:
    directory = Path(shutil.copytree(small_streets, tmp_path / "set"))
    manifest = open_dataset(directory).manifest
    first, *others = manifest.classes
    classes = (replace(first, name="road/"), *others)
    (directory / "manifest.json").write_text(replace(manifest, classes=classes).to_json())
    path = tmp_path / "study.yaml"
    path.write_text(STUDY.replace("DATASET", str(directory)))
    with pytest.raises(DatasetError, match="classes: the name 'road/' cannot be recorded"):
        resolve_trials(load_study(path).trials, "cpu", tmp_path)
