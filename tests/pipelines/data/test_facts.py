"""What the labels of a prepared data set allow, against label maps that are known."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from pipelines.data.dataset import PreparedDataset, open_dataset
from pipelines.data.facts import (
    check_trainable,
    dataset_warnings,
    sampling_warnings,
    split_facts,
    summary,
    training_warnings,
)
from pipelines.data.manifest import INDEX_NAME, MANIFEST_NAME, DatasetError
from pipelines.preparation.prepare_dataset import prepare
from pipelines.preparation.readers.folder import Folder
from pipelines.prepare import main as prepare_command
from pipelines.train import main as train_command

CLASSES = "name: case\nclasses: {ground: [110, 80, 60], tree: [40, 160, 40], car: [60, 60, 200]}\n"
ALL = np.resize(np.array([0, 1, 2, 255], np.uint8), (8, 12))  # a quarter of each
IGNORED = np.full((8, 12), 255, np.uint8)
Labels = Mapping[str, np.ndarray | None]


def source(root: Path, splits: Mapping[str, Labels], classes: str = CLASSES) -> Folder:
    """A source with an image for each name of each split; equal names have equal images."""
    text = f"{classes}splits:\n"
    for split, labels in splits.items():
        labeled = any(label is not None for label in labels.values())
        text += f"  {split}: {{images: {split}" + f", labels: {split}-labels" * labeled + "}\n"
        for name, label in labels.items():
            pixels = np.random.default_rng(sum(name.encode())).integers(0, 256, (8, 12, 3))
            for folder, values in ((split, pixels.astype(np.uint8)), (f"{split}-labels", label)):
                if values is not None:
                    (root / folder).mkdir(parents=True, exist_ok=True)
                    Image.fromarray(values).save(root / folder / f"{name}.png")
    (root / "dataset.yaml").write_text(text)
    return Folder(root)


def prepared(tmp_path: Path, splits: Mapping[str, Labels]) -> PreparedDataset:
    prepare(source(tmp_path / "source", splits), tmp_path / "set")
    return open_dataset(tmp_path / "set")


def test_facts_and_warnings_of_labels_and_shared_images(tmp_path: Path) -> None:
    partly = np.where(ALL == 2, 255, ALL)  # no car, half ignored
    dataset = prepared(
        tmp_path,
        {
            "train": {"a": ALL, "b": IGNORED, "c": ALL},
            "val": {"d": partly, "a": partly},
            "test": {"e": None, "c": None},
        },
    )
    facts = split_facts(dataset, "train")
    assert (facts.images, facts.unlabeled, facts.ignored) == (3, ("b",), 0.25)
    assert split_facts(dataset, "val").missing == ("car",)
    assert split_facts(dataset, "train+val").ignored == pytest.approx(0.375)
    assert summary(dataset, ["val", "test"]) == [
        "val: 2 images, 2 of 3 classes occur in labels, 50.0% of the pixels are ignored",
        "test: 2 images, no pixel is labeled",
    ]
    unlabeled = "train: 1 of 3 images have no labeled pixel: b"
    missing = "val: 1 of 3 classes occurs in no label: car"
    shared = "val shares 1 image of 2 with train, so scores on one of them do not measure "
    shared += "generalization from the other: a"
    assert training_warnings(dataset, "train", ["val"]) == [unlabeled, missing, shared]
    assert training_warnings(dataset, "train", []) == [unlabeled]
    *_, line = training_warnings(dataset, "train", ["val", "test"])
    assert line.startswith("test shares 1 image of 2 with train")
    assert not any("shares" in line for line in training_warnings(dataset, "train+val", ["val"]))
    lines = dataset_warnings(dataset)
    assert lines[:3] == [unlabeled, missing, shared]
    assert lines[3].startswith("test shares 1 image of 2 with train")


def test_batches_and_crops_that_exceed_the_images_are_reported(tmp_path: Path) -> None:
    dataset = prepared(tmp_path, {"train": {"a": ALL, "b": ALL}})  # 8 x 12 pixels
    assert sampling_warnings(dataset, "train", 2, (9, 12)) == []
    large, padded = sampling_warnings(dataset, "train", 3, (9, 13))
    assert large.startswith("train: has 2 images, fewer than the batch of 3, so every step uses")
    assert padded == (
        "train: the crop of 9 x 13 pixels is larger than every image (at most 8 x 12), so the rest "
        "of a crop is padding, which is ignored"
    )


def test_classes_of_one_color_are_reported(tmp_path: Path) -> None:
    classes = CLASSES.replace("[60, 60, 200]", "[40, 160, 40]")
    prepare(source(tmp_path / "source", {"train": {"a": ALL}}, classes), tmp_path / "set")
    (line,) = dataset_warnings(open_dataset(tmp_path / "set"))
    assert line.startswith("classes tree, car have the same color [40, 160, 40]")


def test_an_image_is_recognized_under_another_name_and_format(tmp_path: Path) -> None:
    folder = source(tmp_path / "source", {"train": {"a": ALL}, "val": {"b": ALL}})
    pixels = Image.open(tmp_path / "source/train/a.png")
    (tmp_path / "source/val/b.png").unlink()
    pixels.save(tmp_path / "source/val/b.bmp")
    prepare(folder, tmp_path / "set")
    (line,) = dataset_warnings(open_dataset(tmp_path / "set"))
    assert line.startswith("val shares 1 image of 1 with train")
    assert line.endswith(": b (a)")


def test_repeated_images_and_their_labels_are_reported(tmp_path: Path) -> None:
    # Names of the same letters have equal images. The last two labels have equal counts.
    other, flipped = np.roll(ALL, 1), np.fliplr(ALL)
    dataset = prepared(
        tmp_path,
        {
            "train": {"ab": ALL, "ba": other, "abc": ALL, "acb": flipped, "d": ALL, "ef": ALL},
            "val": {"abd": ALL, "adb": ALL, "dab": ALL, "e": ALL},
            "test": {"abe": None, "aeb": None},
        },
    )
    contradiction = "train: 2 images with the same pixels but different labels, of which at most "
    contradiction += "one is right: ab = ba, abc = acb"
    repeated = "val: 3 of 4 images have the same pixels as another one, so an interval over its "
    repeated += "images is too narrow: abd = adb = dab"
    assert training_warnings(dataset, "train", ["val", "test"]) == [contradiction, repeated]
    lines = dataset_warnings(dataset)
    assert [lines[0], lines[2]] == [contradiction, repeated]
    assert lines[1].startswith("train: 4 of 6 images have the same pixels as another one")


def test_repeated_image_without_labels_contradicts_nothing(tmp_path: Path) -> None:
    dataset = prepared(tmp_path, {"train": {"ab": ALL, "ba": IGNORED}})  # of equal images
    assert training_warnings(dataset, "train", []) == [
        "train: 1 of 2 images have no labeled pixel: ba"
    ]


def test_index_without_digests_of_images_is_an_error(tmp_path: Path) -> None:
    prepared(tmp_path, {"train": {"a": ALL}})
    index, manifest = (tmp_path / "set" / name for name in (INDEX_NAME, MANIFEST_NAME))
    pq.write_table(pq.read_table(index).drop_columns("image_digest"), index)
    digest = hashlib.sha256(index.read_bytes()).hexdigest()
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"index_sha256": digest}))
    dataset = open_dataset(tmp_path / "set")
    with pytest.raises(DatasetError, match=r"index\.pq: has no column 'image_digest'; delete"):
        dataset.split("train")


def test_card_and_file_names_suit_hugging_face_datasets(tmp_path: Path) -> None:
    prepared(tmp_path, {"fold-1": {"a": ALL}, "fold-2": {"b": ALL}})
    _, head, _ = (tmp_path / "set/README.md").read_text().split("---\n")
    (config,) = yaml.safe_load(head)["configs"]
    assert [entry["split"] for entry in config["data_files"]] == ["fold_1", "fold_2"]
    listed = [name for entry in config["data_files"] for name in entry["path"]]
    assert sorted(listed) == sorted(path.name for path in (tmp_path / "set").glob("*.parquet"))
    assert all("image" in pq.read_schema(tmp_path / "set" / name).names for name in listed)


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (np.where(ALL == 0, 0, 255), "'ground' is the only class .*`values: {0: ground, 255: tree"),
        (np.zeros_like(ALL), "'ground' is the only class .*label at least two classes"),
        (IGNORED, "every pixel of every label is ignored"),
    ],
)
def test_labels_of_a_single_class_are_rejected(
    tmp_path: Path, label: np.ndarray, message: str
) -> None:
    labels = {"a": label.astype(np.uint8)}
    folder = source(tmp_path / "source", {"train": labels, "val": labels, "test": {"b": None}})
    with pytest.raises(DatasetError, match=message):
        prepare(folder, tmp_path / "set")
    assert not (tmp_path / "set").exists()


def test_splits_that_cannot_be_trained_or_scored_are_rejected(tmp_path: Path) -> None:
    one = np.where(ALL == 255, 255, 1).astype(np.uint8)
    dataset = prepared(
        tmp_path,
        {"train": {"a": ALL}, "one": {"b": one}, "none": {"c": IGNORED}, "test": {"d": None}},
    )
    check_trainable(dataset, "train", "train")
    check_trainable(dataset, "one+train", None)
    for validation in ("none", "test"):
        with pytest.raises(DatasetError, match=f"'{validation}' has no .*validation_split.*null"):
            check_trainable(dataset, "train", validation)
    with pytest.raises(DatasetError, match=r"'one' has only the class 'tree'.*validation_split"):
        check_trainable(dataset, "train", "one")
    with pytest.raises(DatasetError, match=r"'none' has no labeled pixel.*data\.train_split"):
        check_trainable(dataset, "none", "train")
    with pytest.raises(DatasetError, match="'one' has only the class 'tree' in its labels"):
        check_trainable(dataset, "one", "train")


def test_folds_of_one_class_are_rejected(tmp_path: Path) -> None:
    """Two of the three images have one class each."""
    labels: Labels = {"a": np.zeros_like(ALL), "b": ALL, "c": np.ones_like(ALL)}
    dataset = prepared(tmp_path, {"train": labels, "val": {"d": ALL}})
    messages = []
    for index in range(3):
        part = f"train:fold-{index}-of-3"
        for splits in ((part, "val"), ("val", part)):
            try:
                check_trainable(dataset, *splits)
            except DatasetError as error:
                messages.append(str(error))
    assert len(messages) == 4
    assert all("; choose another number of folds, or `folds: " in each for each in messages)


def test_commands_print_warnings_and_stop_before_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source(tmp_path / "source", {"train": {"a": ALL}, "val": {"a": ALL, "b": IGNORED}})
    (tmp_path / "source/train/notes.heic").touch()
    arguments = ["folder", "--source", str(tmp_path / "source"), "--workers", "1"]
    assert prepare_command([*arguments, "--destination", str(tmp_path / "set")]) == 0
    captured = capsys.readouterr()
    printed = captured.out + captured.err
    assert "note: train: " in printed
    assert "train: 1 image, 3 of 3 classes occur in labels, 25.0% of the pixels" in printed
    assert "warning: val: 1 of 2 images have no labeled pixel: b" in printed
    for line in printed.splitlines():
        assert printed.count(line) == 1, "a line is printed twice"
    assert "warning: val shares 1 image of 2 with train" in printed
    (tmp_path / "experiment.yaml").write_text("data: {crop: [8, 8], validation_split: test}\n")
    train = [str(tmp_path / "experiment.yaml"), "--dataset", str(tmp_path / "set")]
    assert train_command([*train, "--out", str(tmp_path / "out")]) == 2
    assert "no samples in split 'test'" in capsys.readouterr().err
