"""Mapillary Vistas in the layouts of v1.2 and v2.0."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.data.dataset import open_dataset
from pipelines.data.manifest import DatasetError
from pipelines.preparation.prepare_dataset import prepare
from pipelines.preparation.readers.mapillary import Mapillary
from pipelines.prepare import main
from tests.support.label_sources import write_image, write_label

LABELS: list[dict[str, Any]] = [
    {"name": "animal--bird", "readable": "Bird", "color": [165, 42, 42], "evaluate": True},
    {"name": "void--dynamic", "readable": "Dynamic", "color": [111, 74, 0], "evaluate": False},
    {"name": "nature--sky", "readable": "Sky", "color": [70, 130, 180], "evaluate": True},
    {"name": "void--unlabeled", "readable": "Unlabeled", "color": [0, 0, 0], "evaluate": False},
]


def write_config(path: Path, labels: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"labels": labels, "version": 1.1}))


def make_vistas(root: Path, config: str, folder: str, labels: list[dict[str, Any]]) -> np.ndarray:
    """Write an image per split, with the labels of one version; return the stored values."""
    write_config(root / config, labels)
    for split in ("training", "validation"):
        write_image(root / split / "images/key.jpg")
        palette = [tuple(label["color"]) for label in labels]
        stored = write_label(root / split / folder / "key.png", [*range(len(labels))], palette)
    write_image(root / "testing/images/key.jpg")
    return stored


@pytest.mark.parametrize(
    ("config", "folder"),
    [
        ("config.json", "labels"),
        ("config_v1.2.json", "v1.2/labels"),
        ("config_v2.0.json", "v2.0/labels"),
    ],
)
def test_classes_and_colors_are_those_of_the_config(
    tmp_path: Path, config: str, folder: str
) -> None:
    stored = make_vistas(tmp_path / "source", config, folder, LABELS)
    prepare(Mapillary(tmp_path / "source"), tmp_path / "out")
    dataset = open_dataset(tmp_path / "out")
    assert dataset.manifest.counts == {"train": 1, "val": 1, "test": 1}
    classes = [(entry.name, entry.color) for entry in dataset.manifest.classes]
    assert classes == [("Bird", (165, 42, 42)), ("Sky", (70, 130, 180))]
    assert np.array_equal(dataset.split("val").read(0)[1], np.array([0, 255, 1, 255])[stored])
    assert dataset.split("test").read_encoded(0)[1] is None
    assert config in dataset.manifest.notes[0]


def test_labels_option_chooses_the_version(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_vistas(tmp_path, "config_v2.0.json", "v2.0/labels", LABELS)
    arguments = ["mapillary", "--source", str(tmp_path), "--labels", "v1.2", "--workers", "1"]
    assert main([*arguments, "--destination", str(tmp_path / "out")]) == 2
    message = capsys.readouterr().err
    assert "not Mapillary Vistas v1.2; expected " in message
    assert "config_v1.2.json and training/v1.2/labels" in message
    make_vistas(tmp_path, "config_v1.2.json", "v1.2/labels", LABELS[::-1])
    names = {
        version: [entry.name for entry in Mapillary(tmp_path, version).classes]
        for version in (None, "v1.2", "v2.0")
    }
    assert names == {None: ["Sky", "Bird"], "v1.2": ["Sky", "Bird"], "v2.0": ["Bird", "Sky"]}
    versions = {version: Mapillary(tmp_path, version).version for version in names}
    assert versions[None] == versions["v1.2"] != versions["v2.0"]


def test_full_names_replace_readable_names_that_coincide(tmp_path: Path) -> None:
    labels = [LABELS[0], {**LABELS[2], "readable": "Bird"}]
    make_vistas(tmp_path, "config.json", "labels", labels)
    names = [entry.name for entry in Mapillary(tmp_path).classes]
    assert names == ["animal--bird", "nature--sky"]


@pytest.mark.parametrize(
    "change",
    [
        lambda label: label.pop("evaluate"),
        lambda label: label.update(color=[0, 0]),
        lambda label: label.update(color=[0, 0, 256]),
        lambda label: label.update(color=None),
        lambda label: label.pop("readable"),
    ],
)
def test_damaged_config_is_reported(
    tmp_path: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    make_vistas(tmp_path / "source", "config.json", "labels", LABELS)
    damaged = {**LABELS[2]}
    change(damaged)
    for content in ([LABELS[0], damaged], {"a": 1}, 3):
        write_config(tmp_path / "source/config.json", content)
        with pytest.raises(DatasetError, match=r"config\.json: is not a config file of Mapillary"):
            prepare(Mapillary(tmp_path / "source"), tmp_path / "out")


def test_unknown_values_and_missing_labels_are_reported(tmp_path: Path) -> None:
    root = tmp_path / "source"
    make_vistas(root, "config.json", "labels", LABELS)
    write_label(root / "training/labels/key.png", [0, 2, 4])
    (root / "validation/labels/key.png").unlink()
    with pytest.raises(DatasetError, match="2 problems") as caught:
        prepare(Mapillary(root), tmp_path / "out")
    assert "training/labels/key.png: label has unknown values 4 in 96 pixels" in str(caught.value)
    assert "validation/images/key.jpg: image has no label" in str(caught.value)
