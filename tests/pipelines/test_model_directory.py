"""Classes of initial weights, against those of a data set."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pipelines.data.dataset import open_dataset
from pipelines.data.manifest import Manifest
from pipelines.model_directory import initial_class_warnings, metadata_files
from pipelines.network.file_names import WEIGHTS_FILE
from pipelines.training.experiment import Experiment

TENSORS = (
    *("backbone.stem.weight", "head.conv.weight", "head.classifier.weight"),
    *("head.classifier.bias", "auxiliary.stage3.classifier.weight"),
)


@pytest.fixture
def manifest(small_streets: Path) -> Manifest:
    return open_dataset(small_streets).manifest


@pytest.fixture
def directory(tmp_path: Path, manifest: Manifest) -> Path:
    for name, text in metadata_files(Experiment(), manifest).items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    save_file({name: torch.zeros(1) for name in TENSORS}, tmp_path / WEIGHTS_FILE)
    return tmp_path


def test_equal_classes_are_no_warning(directory: Path, manifest: Manifest) -> None:
    assert initial_class_warnings(str(directory), (), manifest) == []


def test_other_names_are_named(directory: Path, manifest: Manifest) -> None:
    first, second, *others = manifest.classes
    exchanged = replace(manifest, classes=(second, first, *others))
    for weights in (directory, directory / WEIGHTS_FILE):
        (line,) = initial_class_warnings(str(weights), (), exchanged)
        assert line.startswith(
            f"training.init: class 0 is {first.name} in the weights and {second.name} in the data, "
            "and 1 more differ; leave out the classifier of the weights with `init_skip: "
            "['auxiliary.stage3.classifier.*', 'head.classifier.*']`"
        )
    renamed = replace(manifest, classes=(replace(first, name="other"), second, *others))
    (line,) = initial_class_warnings(str(directory), (), renamed)
    assert "in the weights and other in the data; leave" in line


@pytest.mark.parametrize(
    ("skip", "advised"),
    [
        (("head.*", "auxiliary.*"), None),
        (("*classifier*",), None),
        (("backbone.*",), "['backbone.*', 'auxiliary.stage3.classifier.*', 'head.classifier.*']"),
        (("head.*",), "['head.*', 'auxiliary.stage3.classifier.*']"),
        (
            ("head.classifier.bias",),
            "['head.classifier.bias', 'auxiliary.stage3.classifier.*', 'head.classifier.*']",
        ),
    ],
)
def test_classifiers_that_are_left_out_are_no_warning(
    directory: Path, manifest: Manifest, skip: tuple[str, ...], advised: str | None
) -> None:
    reordered = replace(manifest, classes=manifest.classes[::-1])
    lines = initial_class_warnings(str(directory), skip, reordered)
    assert [line.rpartition("init_skip: ")[2] for line in lines] == (
        [] if advised is None else [f"{advised}`"]
    )


def test_tensors_of_other_names_are_left_to_the_user(directory: Path, manifest: Manifest) -> None:
    save_file({"output.weight": torch.zeros(1)}, directory / WEIGHTS_FILE)
    reordered = replace(manifest, classes=manifest.classes[::-1])
    (line,) = initial_class_warnings(str(directory), (), reordered)
    assert line.endswith("leave out the classifier of the weights with `init_skip`")
    assert initial_class_warnings(str(directory), ("output.*",), reordered) == []


def test_unknown_classes_and_other_numbers_are_no_warning(
    directory: Path, manifest: Manifest
) -> None:
    fewer = replace(manifest, classes=manifest.classes[1:])
    assert initial_class_warnings(str(directory), (), fewer) == []
    for text in ("classes: 3\n", "- a\n", "classes: [{}]\n", "a: [\n", ""):
        (directory / "classes.yaml").write_text(text)
        assert initial_class_warnings(str(directory), (), manifest) == []
    (directory / "classes.yaml").unlink()
    assert initial_class_warnings(str(directory), (), manifest) == []


def test_names_and_addresses_are_those_of_loading(directory: Path, manifest: Manifest) -> None:
    """Data-parallel training adds a prefix; an address may end in a query."""
    reordered = replace(manifest, classes=manifest.classes[::-1])
    wrapped = {f"module.{name}": torch.zeros(1) for name in TENSORS}
    save_file(wrapped, directory / WEIGHTS_FILE)
    skip = ("head.classifier.*", "auxiliary.*")
    for weights in (str(directory), f"{directory.as_uri()}?option=1/2"):
        assert len(initial_class_warnings(weights, (), reordered)) == 1
        assert initial_class_warnings(weights, skip, reordered) == []
