"""Classes of initial weights, against those of a data set."""

from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.data.dataset import open_dataset
from pipelines.data.manifest import Manifest
from pipelines.model_directory import initial_class_warnings, metadata_files
from pipelines.network.file_names import WEIGHTS_FILE
from pipelines.training.experiment import Experiment


@pytest.fixture
def manifest(small_streets: Path) -> Manifest:
    return open_dataset(small_streets).manifest


@pytest.fixture
def directory(tmp_path: Path, manifest: Manifest) -> Path:
    for name, text in metadata_files(Experiment(), manifest).items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / WEIGHTS_FILE).touch()
    return tmp_path


def test_equal_classes_are_no_warning(directory: Path, manifest: Manifest) -> None:
    assert initial_class_warnings(str(directory), manifest) == []


def test_other_names_are_named(directory: Path, manifest: Manifest) -> None:
    first, second, *others = manifest.classes
    exchanged = replace(manifest, classes=(second, first, *others))
    for weights in (directory, directory / WEIGHTS_FILE):
        (line,) = initial_class_warnings(str(weights), exchanged)
        assert line.startswith(
            f"training.init: class 0 is {first.name} in the weights and {second.name} in the data, "
            "and 1 more differ; set `init_skip: [head.*]`"
        )
    renamed = replace(manifest, classes=(replace(first, name="other"), second, *others))
    (line,) = initial_class_warnings(str(directory), renamed)
    assert "in the weights and other in the data; set" in line


def test_unknown_classes_and_other_numbers_are_no_warning(
    directory: Path, manifest: Manifest
) -> None:
    fewer = replace(manifest, classes=manifest.classes[1:])
    assert initial_class_warnings(str(directory), fewer) == []
    for text in ("classes: 3\n", "- a\n", "classes: [{}]\n", "a: [\n", ""):
        (directory / "classes.yaml").write_text(text)
        assert initial_class_warnings(str(directory), manifest) == []
    (directory / "classes.yaml").unlink()
    assert initial_class_warnings(str(directory), manifest) == []
