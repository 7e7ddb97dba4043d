"""Layout, classes and ignore rule of each benchmark."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.data.dataset import PreparedDataset, open_dataset
from pipelines.data.manifest import DatasetError
from pipelines.preparation.labels.colors import voc_color
from pipelines.preparation.prepare_dataset import prepare
from pipelines.preparation.readers import READERS, Reader
from pipelines.preparation.readers.ade20k import ADE20K
from pipelines.preparation.readers.cityscapes import Cityscapes
from pipelines.preparation.readers.folder import Folder
from pipelines.preparation.readers.pascal_context import PascalContext
from pipelines.preparation.readers.reader import Record
from pipelines.preparation.readers.streets import Streets
from pipelines.prepare import main

SIZE = (10, 14)
RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (*SIZE, 3), dtype=np.uint8)


def write(path: Path, values: np.ndarray = PIXELS) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)
    return path


def values_up_to(largest: int) -> np.ndarray:
    """Return a label that contains every value from 0 to `largest`."""
    return np.resize(np.arange(largest + 1, dtype=np.uint8), SIZE)


def prepare_and_open(reader: Reader, tmp_path: Path) -> PreparedDataset:
    prepare(reader, tmp_path / "prepared")
    return open_dataset(tmp_path / "prepared")


def test_readers_have_distinct_classes_and_a_help_text() -> None:
    counts = {"cityscapes": 19, "ade20k": 150, "pascal-context": 59, "camvid": 11, "streets": 10}
    counts |= {"voc": 21, "coco-stuff": 171, "loveda": 7}
    for name, count in counts.items():
        names = [each.name for each in READERS[name](source=Path()).classes]
        assert (len(names), len(set(names))) == (count, count)
        assert READERS[name].help


# What the authors' papers and code say about values of their labels.
PUBLISHED = {
    "ade20k": {1: "wall", 2: "building", 3: "sky", 4: "floor", 5: "tree", 7: "road", 13: "person"}
    | {21: "car", 22: "water", 150: "flag"},
    "camvid": dict(
        enumerate(
            ("sky", "building", "pole", "road", "pavement", "tree", "sign symbol", "fence", "car")
        )
    )
    | {9: "pedestrian", 10: "bicyclist"},
    "loveda": {1: "background", 2: "building", 3: "road", 4: "water", 5: "barren", 6: "forest"}
    | {7: "agricultural"},
    "pascal-context": {1: "aeroplane", 59: "wood"},
    "voc": {0: "background", 1: "aeroplane", 7: "car", 15: "person", 20: "tvmonitor"},
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_label_values_have_the_published_meaning(name: str) -> None:
    reader = READERS[name](source=Path())
    values = reader.values(Record("a", "train", Path("a.jpg"), Path("a.png")))
    meanings = {value: reader.classes[values[value]].name for value in PUBLISHED[name]}
    assert meanings == PUBLISHED[name]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (Streets(seed=0), Streets(seed=1)),
        (Streets(size=(32, 64)), Streets(size=(64, 32))),
        (PascalContext(Path(), order="official"), PascalContext(Path(), order="alphabetical")),
        (PascalContext(Path()), PascalContext(Path(), background=True)),
    ],
)
def test_same_files_that_are_read_differently_are_another_version(
    first: Reader, second: Reader
) -> None:
    assert first.version != second.version


def test_folder_of_another_description_is_another_version(tmp_path: Path) -> None:
    first = folder(tmp_path, DESCRIPTION, values_up_to(1)).version
    second = folder(tmp_path, DESCRIPTION + "values: {1: ground, 0: tree}\n", values_up_to(1))
    assert second.version != first


def test_splits_of_streets_share_no_scene() -> None:
    reader = Streets(train=3, val=3, size=(16, 32))
    records = reader.listing().records
    assert [record.split for record in records] == ["train"] * 3 + ["val"] * 3
    assert len({reader.read(record)[0] for record in records}) == 6


@pytest.mark.parametrize("packed", [False, True])
def test_cityscapes_layout_classes_and_ignored_ids(tmp_path: Path, packed: bool) -> None:
    root = tmp_path / "cityscapes"
    images = root / "leftImg8bit_trainvaltest" / "leftImg8bit" if packed else root / "leftImg8bit"
    labels = root / "gtFine_trainvaltest" / "gtFine" if packed else root / "gtFine"
    stored = values_up_to(33)
    for split, city, frame in (
        ("train", "aachen", "000000_000019"),
        ("train", "zurich", "000001_000019"),
        ("val", "munster", "000002_000019"),
        ("test", "berlin", "000000_000019"),
    ):
        stem = f"{city}_{frame}"
        write(images / split / city / f"{stem}_leftImg8bit.png")
        for kind in ("labelIds", "instanceIds", "color"):
            write(labels / split / city / f"{stem}_gtFine_{kind}.png", stored)
    dataset = prepare_and_open(Cityscapes(root), tmp_path)
    assert dataset.manifest.counts == {"train": 2, "val": 1, "test": 1}
    assert dataset.split("train").groups == ["aachen", "zurich"]
    assert dataset.split("train").identifiers == ["aachen_000000_000019", "zurich_000001_000019"]
    _, label = dataset.split("train").read(0)
    assert label[stored == 7].tolist() == [0] * (stored == 7).sum()  # road
    assert set(label[stored == 33]) == {18}  # bicycle
    assert set(label[stored == 26]) == {13}  # car
    assert set(label[np.isin(stored, [0, 6, 9, 14, 16, 18, 29, 30])]) == {255}
    assert set(dataset.split("test").read(0)[1].ravel()) == {255}
    assert dataset.split("test").read_encoded(0)[1] is None
    assert dataset.manifest.classes[13].name == "car"
    assert dataset.manifest.classes[13].color == (0, 0, 142)


def test_cityscapes_prefers_training_ids_if_present(tmp_path: Path) -> None:
    root = tmp_path / "cityscapes"
    write(root / "leftImg8bit/val/munster/munster_0_0_leftImg8bit.png")
    stored = values_up_to(18)
    stored[0, 0] = 255
    write(root / "gtFine/val/munster/munster_0_0_gtFine_labelTrainIds.png", stored)
    write(root / "leftImg8bit/val/munster/munster_0_1_leftImg8bit.png")
    orphan = write(root / "gtFine/val/munster/munster_0_2_gtFine_labelIds.png", values_up_to(33))
    with pytest.raises(DatasetError, match="2 problems") as caught:
        prepare(Cityscapes(root), tmp_path / "failed")
    assert re.search(r"has no label; .*munster_0_1_gtFine_labelIds\.png", str(caught.value))
    assert re.search(r"has no image; .*munster_0_2_leftImg8bit\.png", str(caught.value))
    orphan.unlink()
    write(root / "gtFine/val/munster/munster_0_1_gtFine_labelIds.png", values_up_to(33))
    write(root / "gtFine/val/munster/munster_0_0_gtFine_labelIds.png", values_up_to(33))
    dataset = prepare_and_open(Cityscapes(root), tmp_path)
    assert dataset.manifest.notes == (
        "labels are read from *_gtFine_labelIds.png for 1 images",
        "labels are read from *_gtFine_labelTrainIds.png for 1 images",
    )
    split = dataset.split("val")
    assert np.array_equal(split.read(0)[1], stored)
    assert split.read(1)[1].max() == 255


@pytest.mark.parametrize("parent", [True, False])
def test_ade20k_layout_and_classes(tmp_path: Path, parent: bool) -> None:
    root = tmp_path / "ADEChallengeData2016"
    stored = np.resize(np.arange(151, dtype=np.uint8), (12, 14))
    pixels = RNG.integers(0, 256, (12, 14, 3), dtype=np.uint8)
    for folder, name in (("training", "ADE_train_1"), ("validation", "ADE_val_1")):
        write(root / "images" / folder / f"{name}.jpg", pixels)
        write(root / "annotations" / folder / f"{name}.png", stored)
    dataset = prepare_and_open(ADE20K(tmp_path if parent else root), tmp_path)
    assert dataset.manifest.counts == {"train": 1, "val": 1}
    image, label = dataset.split("val").read(0)
    assert np.array_equal(label, np.where(stored == 0, 255, stored.astype(int) - 1))
    written = (root / "images/validation/ADE_val_1.jpg").read_bytes()
    assert dataset.split("val").read_encoded(0)[0] == written
    assert np.array_equal(image, np.asarray(Image.open(root / "images/validation/ADE_val_1.jpg")))
    assert dataset.manifest.classes[0].name == "wall"
    assert dataset.manifest.classes[149].name == "flag"


@pytest.mark.parametrize(
    "folder",
    ["ADEChallengeData2016/images", "ADEChallengeData2016/release_test", "release_test"],
)
def test_ade20k_test_images_have_no_labels(tmp_path: Path, folder: str) -> None:
    root = tmp_path / "ADEChallengeData2016"
    write(root / "images/training/ADE_train_1.jpg")
    write(root / "annotations/training/ADE_train_1.png", values_up_to(9))
    write(tmp_path / folder / "testing" / "ADE_test_00000001.jpg", 255 - PIXELS)
    dataset = prepare_and_open(ADE20K(tmp_path), tmp_path)
    assert dataset.manifest.counts == {"train": 1, "test": 1}
    test = dataset.split("test")
    assert test.identifiers == ["ADE_test_00000001"]
    assert (test.read(0)[1] == 255).all()


def test_ade20k_reports_unpaired_images_and_labels(tmp_path: Path) -> None:
    root = tmp_path / "ADEChallengeData2016"
    write(root / "images/training/alone.jpg")
    write(root / "annotations/training/orphan.png", values_up_to(9))
    with pytest.raises(DatasetError, match=r"2 problems") as caught:
        prepare(ADE20K(tmp_path), tmp_path / "out")
    assert re.search(r"alone\.jpg: image has no label; .*/alone\.png", str(caught.value))
    assert re.search(r"orphan\.png: label has no image; .*/orphan\.jpg", str(caught.value))


@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("folder", ["", "VOC2010", "VOCdevkit/VOC2010"])
def test_pascal_context_layout_and_background(
    tmp_path: Path, background: bool, folder: str
) -> None:
    root = tmp_path / "source" / folder
    stored = values_up_to(59)
    stored[0, 0] = 255
    for split, name in (("train", "2008_000002"), ("val", "2008_000003")):
        write(root / "JPEGImages" / f"{name}.jpg")
        write(root / "SegmentationClassContext" / f"{name}.png", stored)
        write(root / "JPEGImages" / "2007_unlisted.jpg")
        lists = root / "ImageSets/SegmentationContext"
        lists.mkdir(parents=True, exist_ok=True)
        (lists / f"{split}.txt").write_text(f"\ufeff{name}\r\n", encoding="utf-8")
    dataset = prepare_and_open(PascalContext(tmp_path / "source", background=background), tmp_path)
    assert dataset.manifest.counts == {"train": 1, "val": 1}
    assert len(dataset.manifest.classes) == 59 + background
    _, label = dataset.split("val").read(0)
    expected = stored if background else np.where(stored == 0, 255, stored.astype(int) - 1)
    assert np.array_equal(label, np.where(stored == 255, 255, expected))
    assert dataset.manifest.classes[label[stored == 59][0]].name == "wood"


def test_pascal_context_label_sets_map_to_class_names(tmp_path: Path) -> None:
    """2008_000002 shows a television, stored as 55 or 20 depending on the label set."""
    names = {}
    for folder, stored in (("SegmentationClassContext", 55), ("59_context_labels", 20)):
        root = tmp_path / folder
        write(root / "JPEGImages/2008_000002.jpg")
        values = np.full(SIZE, stored, np.uint8)
        values[-1] = 1  # labels need a second class
        write(root / folder / "2008_000002.png", values)
        (root / "ImageSets/SegmentationContext").mkdir(parents=True)
        (root / "ImageSets/SegmentationContext/val.txt").write_text("2008_000002\n")
        for order in (None, "official"):
            dataset = prepare_and_open(
                PascalContext(root, order=order), tmp_path / f"{folder} {order}"
            )
            _, label = dataset.split("val").read(0)
            names[folder, order] = dataset.manifest.classes[label[0, 0]].name
    assert names == {
        ("SegmentationClassContext", None): "tvmonitor",
        ("SegmentationClassContext", "official"): "truck",
        ("59_context_labels", None): "tvmonitor",
        ("59_context_labels", "official"): "tvmonitor",
    }


def test_voc_colors_match_the_development_kit() -> None:
    assert [voc_color(i) for i in (0, 1, 2, 3, 7, 20)] == [
        (0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (128, 128, 128), (0, 64, 128)
    ]  # fmt: skip


DESCRIPTION = """
name: orchard
classes:
  ground: [110, 80, 60]
  tree: [40, 120, 40]
splits:
  train: {images: images/train, labels: labels/train}
  test: {images: images/test}
"""


def folder(tmp_path: Path, description: str, labels: np.ndarray) -> Folder:
    root = tmp_path / "source"
    for name in ("a b", "deep/ü"):
        write(root / "images/train" / f"{name}.png")
        write(root / "labels/train" / f"{name}.png", labels)
    write(root / "images/test/x.png")
    (root / "dataset.yaml").write_text(description, encoding="utf-8")
    return Folder(root)


def test_folder_reads_images_labels_and_classes(tmp_path: Path) -> None:
    labels = RNG.choice([0, 1, 255], SIZE).astype(np.uint8)
    dataset = prepare_and_open(folder(tmp_path, DESCRIPTION, labels), tmp_path)
    assert dataset.manifest.name == "orchard"
    assert dataset.manifest.counts == {"train": 2, "test": 1}
    assert [each.name for each in dataset.manifest.classes] == ["ground", "tree"]
    assert dataset.split("train").identifiers == ["a b", "deep/ü"]
    assert np.array_equal(dataset.split("train").read(1)[1], labels)


def test_folder_help_contains_a_valid_description(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["folder", "--help"])
    help_text = capsys.readouterr().out
    reader = folder(tmp_path, help_text[help_text.index("name: orchard") :], values_up_to(1))
    assert [entry.name for entry in reader.classes] == ["ground", "tree"]
    assert list(reader.description["splits"]) == ["train", "val", "test"]


def test_class_may_be_named_no(tmp_path: Path) -> None:
    reader = folder(tmp_path, DESCRIPTION.replace("tree:", "no:"), values_up_to(1))
    assert [entry.name for entry in reader.classes] == ["ground", "no"]


def test_folder_maps_stored_values_to_classes(tmp_path: Path) -> None:
    description = DESCRIPTION + "values: {7: tree, 255: ground}\nignore: [3, 4]\n"
    labels = RNG.choice([3, 4, 7, 255], SIZE).astype(np.uint8)
    _, label = (
        prepare_and_open(folder(tmp_path, description, labels), tmp_path).split("train").read(0)
    )
    assert np.array_equal(label, np.select([labels == 7, labels == 255], [1, 0], 255))


def test_listed_ignored_values_replace_255(tmp_path: Path) -> None:
    reader = folder(tmp_path, DESCRIPTION + "ignore: 3\n", np.resize(np.uint8([0, 1, 255]), SIZE))
    with pytest.raises(DatasetError, match=r"has unknown values 255 .* known are 0-1, 3"):
        prepare(reader, tmp_path / "out")


def test_folder_converts_colors_to_indices(tmp_path: Path) -> None:
    indices = RNG.choice([0, 1, 2], SIZE)
    palette = np.array([[110, 80, 60], [40, 120, 40], [0, 0, 0]], np.uint8)
    reader = folder(tmp_path, DESCRIPTION, palette[indices])
    with pytest.raises(DatasetError, match="label_colors: true"):
        prepare(reader, tmp_path / "failed")
    reader = folder(tmp_path, DESCRIPTION + "label_colors: true\n", palette[indices])
    _, label = prepare_and_open(reader, tmp_path).split("train").read(0)
    assert np.array_equal(label, np.where(indices == 2, 255, indices))
    unknown = palette[indices].copy()
    unknown[0, 0] = (1, 2, 3)
    reader = folder(tmp_path, DESCRIPTION + "label_colors: true\n", unknown)
    with pytest.raises(DatasetError, match=r"colors of no class, such as \[1, 2, 3\]"):
        prepare(reader, tmp_path / "failed")


@pytest.mark.parametrize("listed", [True, False])
def test_folder_reads_ignored_colors_and_several_colors_of_a_class(
    tmp_path: Path, listed: bool
) -> None:
    """As VOC: a border in another color than black, and black as the color of a class."""
    description = DESCRIPTION.replace("[110, 80, 60]", "[0, 0, 0]")
    description = description.replace("[40, 120, 40]", "[[40, 120, 40], [40, 120, 41]]")
    description += "label_colors: true\n" + "ignore_colors: [[224, 224, 192]]\n" * listed
    palette = np.array([[0, 0, 0], [40, 120, 40], [40, 120, 41], [224, 224, 192]], np.uint8)
    indices = RNG.choice(3 + listed, SIZE)
    dataset = prepare_and_open(folder(tmp_path, description, palette[indices]), tmp_path)
    assert [each.color for each in dataset.manifest.classes] == [(0, 0, 0), (40, 120, 40)]
    _, label = dataset.split("train").read(0)
    assert np.array_equal(label, np.array([0, 1, 1, 255])[indices])


def test_listed_ignored_colors_replace_black(tmp_path: Path) -> None:
    description = DESCRIPTION + "label_colors: true\nignore_colors: [[224, 224, 192]]\n"
    reader = folder(tmp_path, description, np.zeros((*SIZE, 3), np.uint8))
    with pytest.raises(DatasetError, match=r"such as \[0, 0, 0\]; .* in `ignore_colors`"):
        prepare(reader, tmp_path / "out")


def test_transparent_pixels_have_no_class(tmp_path: Path) -> None:
    indices = RNG.choice([0, 1, 2], SIZE)
    palette = np.array([[110, 80, 60], [40, 120, 40], [0, 0, 0]], np.uint8)
    description = DESCRIPTION + "label_colors: true\n"
    alpha = np.array([255, 255, 0], np.uint8)[indices]  # ignored pixels may be transparent
    reader = folder(tmp_path, description, np.dstack([palette[indices], alpha]))
    _, label = prepare_and_open(reader, tmp_path).split("train").read(0)
    assert np.array_equal(label, np.where(indices == 2, 255, indices))
    count = (indices == 1).sum()
    message = rf"{count} transparent pixels .*\[40, 120, 40\] of .*, with an alpha of"
    for least in (0, 1, 254):  # also at edges that were smoothed
        alpha = np.where(indices == 1, least, 255).astype(np.uint8)
        reader = folder(tmp_path, description, np.dstack([palette[indices], alpha]))
        with pytest.raises(DatasetError, match=f"{message} {least}; save .* without transparency"):
            prepare(reader, tmp_path / "failed")


def test_palette_of_transparent_colors_is_refused(tmp_path: Path) -> None:
    indices = RNG.choice([0, 1], SIZE).astype(np.uint8)
    colors = np.array([[110, 80, 60], [40, 120, 40]], np.uint8)
    reader = folder(tmp_path, DESCRIPTION + "label_colors: true\n", colors[indices])
    image = Image.fromarray(indices).convert("P")
    image.putpalette(colors.ravel().tolist())
    path = tmp_path / "source/labels/train/deep/ü.png"
    image.save(path, transparency=bytes([255, 128]))
    with pytest.raises(DatasetError, match=r"of 'tree', with an alpha of 128; save the label"):
        prepare(reader, tmp_path / "out")
    image.save(path, transparency=bytes([255, 255]))
    assert prepare(reader, tmp_path / "out").class_pixels[1] == 2 * indices.sum()


def test_folder_reads_sample_names_from_a_list(tmp_path: Path) -> None:
    description = DESCRIPTION.replace("labels/train}", "labels/train, names: names.txt}")
    reader = folder(tmp_path, description, values_up_to(1))
    (tmp_path / "source/names.txt").write_text("deep/ü\n\n", encoding="utf-8")
    assert prepare_and_open(reader, tmp_path).split("train").identifiers == ["deep/ü"]


def test_folder_reports_missing_and_damaged_files_together(tmp_path: Path) -> None:
    description = DESCRIPTION.replace("labels/train}", "labels/train, names: names.txt}")
    description += "  val: {images: empty, labels: labels/train}\n  more: {images: nowhere}\n"
    reader = folder(tmp_path, description, values_up_to(1))
    (tmp_path / "source/empty").mkdir()
    (tmp_path / "source/names.txt").write_text("a b.png\nabsent\n", encoding="utf-8")
    (tmp_path / "source/labels/train/a b.png").write_bytes(b"")
    with pytest.raises(DatasetError, match="4 problems") as caught:
        prepare(reader, tmp_path / "out")
    for part in (
        "names.txt:2: no image or label named 'absent'",
        "empty: contains no images",
        "nowhere: no such folder",
        "train/a b: ",
    ):
        assert part in str(caught.value)
    with pytest.raises(
        DatasetError, match=r"(?s)7 problems.*more: no .*train: no .*val: no sample"
    ):
        prepare(reader, tmp_path / "out", skip_invalid=True)


def test_hidden_files_are_ignored(tmp_path: Path) -> None:
    """Archives made on a Mac contain a `._` metadata file for every file."""
    root = tmp_path / "ADEChallengeData2016"
    city = tmp_path / "cityscapes/leftImg8bit/test/berlin"
    write(root / "images/training/ADE_train_1.jpg")
    write(root / "annotations/training/ADE_train_1.png", values_up_to(9))
    write(city / "berlin_0_0_leftImg8bit.png")
    for path in (root / "images/training/._ADE_train_1.jpg", city / "._berlin_0_0_leftImg8bit.png"):
        path.write_bytes(b"Mac OS X")
    assert prepare_and_open(ADE20K(tmp_path), tmp_path / "ade").manifest.counts == {"train": 1}
    dataset = prepare_and_open(Cityscapes(tmp_path / "cityscapes"), tmp_path / "city")
    assert dataset.manifest.counts == {"test": 1}


def test_folder_reports_two_images_with_the_same_name(tmp_path: Path) -> None:
    reader = folder(tmp_path, DESCRIPTION, values_up_to(1))
    write(tmp_path / "source/images/train/a b.jpg")
    with pytest.raises(DatasetError, match=r"a b: 2 images have this name, .*a b\.jpg, .*a b\.png"):
        prepare(reader, tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("tree: [40, 120, 40]", "tree: [40, 120]"), "classes.tree must be"),
        (("splits:", "spilts:"), "unknown key 'spilts' in the file; known: name, classes"),
        (("images: images/test", "image: x"), "unknown key 'image' in splits.test"),
        (("images: images/test", "labels: x"), "splits.test must have `images`"),
        (("images/test", "nowhere"), "nowhere: no such folder"),
        (("name: orchard", "name: [orchard"), "invalid YAML"),
        (("name: orchard", "values: {1: bush}"), "values.1 must map"),
        (("name: orchard", "values: {0: ground, 65536: tree}"), "values.65536 must map a stored"),
        (("name: orchard", "ignore: none"), "ignore must be stored values"),
        (("name: orchard", "values: {}"), "values must map .* received {}; leave it out"),
        (("name: orchard", "name: {a: b}"), "name must be text .* received {'a': 'b'}"),
        (("name: orchard", "name: null"), "name must be text .* received None"),
        (("name: orchard", "name: ''"), "name must be text .* received ''"),
        (("name: orchard", "name: a/b"), "name must be text without a slash, received 'a/b'"),
        (("  tree:", "  null:"), "classes: the name None must be text; put it in quotes"),
        (("  tree:", "  .nan:"), "classes: the name nan must be text; put it in quotes"),
        (("  tree:", '  "a\\nb":'), "has a line break or a control character"),
        (("  test:", "  null:"), "splits.None: a split's name may have letters, digits"),
        (
            ("  test:", '  1: {images: images/test}\n  "1":'),
            "splits has 1 as a number and as text; rename one",
        ),
        (
            ("[40, 120, 40]", "[[1, 2, 3], [1, 2, 3]]\nlabel_colors: true"),
            r"classes.tree has the color \[1, 2, 3\] twice; remove one of them",
        ),
        (("name: orchard", "values: 3"), "values must map stored values to classes, received 3"),
        (("images: images/test", "images: 3"), "splits.test.images must be a path, received 3"),
        (("  test:", "  a/b:"), "splits.a/b: a split's name may have letters, digits"),
        (("  test:", "  a+b:"), r"splits.a\+b: a split's name may have letters, digits"),
        (
            ("name: orchard", "label_colors: true\nignore: 0"),
            "ignore has no meaning with label",
        ),
        (("name: orchard", "label_colors: 3"), "label_colors must be true or false, received 3"),
        (("name: orchard", "name: a\nname: b"), "the key 'name' occurs twice"),
        (("  tree: [", "  ground: ["), "the key 'ground' occurs twice"),
        (("  tree: [40, 120, 40]\n", ""), "classes has only 'ground'.*`background`"),
        (
            ("name: orchard", 'values: {"0": ground, 1: tree}'),
            "values has the key '0' as text in quotes, .* without quotes, `0: ground`",
        ),
        (("  tree:", "  './tree':"), r"classes: the name '\./tree' cannot be recorded"),
        (("  tree:", "  '?':"), r"classes: the name '\?' has no letter or digit"),
        (("tree:", "plus+: [1, 2, 3]\n  plus-:"), r"'plus\+' and 'plus-' would both be recorded"),
        (("[40, 120, 40]", "[[40, 120, 40], [1, 2, 3]]"), "classes.tree has 2 colors, which needs"),
        (("[40, 120, 40]", "[]"), "classes.tree must be .* or a list of such colors; received"),
        (("name: orchard", "ignore: 0"), "ignore has 0.*class 'ground'.*{1: ground, 2: tree}"),
        (("name: orchard", "ignore: [1, 255]"), "ignore has 1, which .* class 'tree'"),
        (
            ("name: orchard", "values: {0: ground, 255: tree}\nignore: [3, 255]"),
            "255 is both in ignore and in values, as 'tree'",
        ),
        (("name: orchard", "ignore_colors: [[0, 0, 0]]"), "ignore_colors needs label_colors: true"),
        (
            ("[40, 120, 40]", "[110, 80, 60]\nlabel_colors: true"),
            r"classes.tree has the color \[110, 80, 60\], which classes.ground has, too",
        ),
        (
            ("name: orchard", "label_colors: true\nignore_colors: [[1, 2, 3], [110, 80, 60]]"),
            r"ignore_colors has \[110, 80, 60\], which is the color of classes.ground",
        ),
        (
            ("name: orchard", "label_colors: true\nignore_colors: black"),
            "ignore_colors must be a list of colors .* received 'black'",
        ),
    ],
)
def test_invalid_descriptions_are_reported(
    tmp_path: Path, change: tuple[str, str], message: str
) -> None:
    reader = folder(tmp_path, DESCRIPTION.replace(*change), values_up_to(1))
    with pytest.raises(DatasetError, match=message):
        prepare(reader, tmp_path / "out")


def test_description_without_classes_and_splits_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "dataset.yaml").write_text("name: orchard\n")
    with pytest.raises(DatasetError, match="has neither `classes` nor `splits`"):
        prepare(Folder(tmp_path), tmp_path / "out")


@pytest.mark.parametrize("name", [name for name in READERS if name != "streets"])
def test_empty_and_missing_sources_are_reported(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    for source in ("empty", "missing"):
        arguments = [name, "--source", str(tmp_path / source), "--destination", str(tmp_path / "x")]
        assert main(arguments) == 2
        assert str(tmp_path / source) in capsys.readouterr().err
