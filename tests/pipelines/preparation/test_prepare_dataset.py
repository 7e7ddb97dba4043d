"""Preparation of valid sources."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipelines.data.dataset import open_dataset
from pipelines.data.manifest import DatasetError
from pipelines.data.node_cache import NodeCache
from pipelines.preparation.embedded import prepare_streets
from pipelines.preparation.prepare_dataset import prepare
from pipelines.preparation.readers.camvid import CamVid
from pipelines.preparation.readers.folder import Folder
from tests.support.camvid_source import CamVidSource


def test_camvid_rows_match_the_source_files(camvid: CamVidSource, tmp_path: Path) -> None:
    manifest = prepare(CamVid(camvid.directory), tmp_path / "out")
    assert manifest.counts == {"train": 3, "val": 3}
    assert [each.name for each in manifest.classes][:3] == ["sky", "building", "pole"]
    assert manifest.classes[8].color == (64, 0, 128)
    split = open_dataset(tmp_path / "out").split("train")
    assert split.groups == ["0001TP"] * 3
    for index in range(3):
        image, label = split.read(index)
        assert np.array_equal(image, np.asarray(Image.open(camvid.image(index=index))))
        stored = np.asarray(Image.open(camvid.label(index=index)))
        assert np.array_equal(label, np.where(stored == 11, 255, stored))
        # The image file is stored unchanged.
        assert split.read_encoded(index)[0] == camvid.image(index=index).read_bytes()


def test_destination_among_the_source_files_is_rejected(camvid: CamVidSource) -> None:
    folder = camvid.image().parent
    for destination in (folder, folder / "deep" / "out"):
        with pytest.raises(DatasetError, match="which holds images or labels of the source"):
            prepare(CamVid(camvid.directory), destination)
    assert not (folder / "deep").exists()
    prepare(CamVid(camvid.directory), camvid.directory / "out")


@pytest.mark.parametrize("exists", [True, False])
def test_destination_may_be_a_link(camvid: CamVidSource, tmp_path: Path, exists: bool) -> None:
    (tmp_path / "disk").mkdir()
    if exists:
        (tmp_path / "disk" / "out").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "out")
    manifest = prepare(CamVid(camvid.directory), tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert open_dataset(tmp_path / "link").manifest == manifest
    assert sorted(path.name for path in (tmp_path / "disk").iterdir()) == ["out"]
    assert prepare(CamVid(camvid.directory), tmp_path / "link") == manifest


def test_mount_point_is_refused_before_any_work(
    camvid: CamVidSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(CamVid(camvid.directory), tmp_path / "mounted")
    monkeypatch.setattr(os.path, "ismount", lambda path: True)
    prepare(CamVid(camvid.directory), tmp_path / "mounted")  # already there
    checked: list[int] = []
    with pytest.raises(DatasetError, match="is a mount point, which cannot be replaced"):
        prepare(
            CamVid(camvid.directory),
            tmp_path / "other",
            progress=lambda done, total: checked.append(done),
        )
    assert not checked
    assert not (tmp_path / ".other.partial").exists()


def test_failure_at_the_end_keeps_the_finished_shards(
    camvid: CamVidSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Path, target: Path) -> None:
        raise OSError("no permission")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", fail)
        with pytest.raises(DatasetError, match="no permission"):
            prepare(CamVid(camvid.directory), tmp_path / "out")
    progress: list[int] = []
    prepare(
        CamVid(camvid.directory),
        tmp_path / "out",
        progress=lambda done, total: progress.append(done),
    )
    assert progress == [6]
    assert not (tmp_path / "out" / "journal.json").exists()


@pytest.mark.parametrize("prefix", ["/SegNet/CamVid/", "camvid/", "./", "C:/data/CamVid/"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n", ";\n", " \n\n"])
def test_published_lists_resolve_by_folder_and_name(
    camvid: CamVidSource, prefix: str, line_end: str
) -> None:
    """Published lists contain folder names of the machine they were written on."""
    names = [f"0001TP_train{index:03d}" for index in range(3)]
    camvid.list("train", names, prefix, line_end)
    listing = CamVid(camvid.directory).listing()
    assert not listing.problems
    files = [(record.image, record.label) for record in listing.records[:3]]
    assert files == [(camvid.image(index=index), camvid.label(index=index)) for index in range(3)]


def test_camvid_test_split_is_read_if_present(camvid: CamVidSource, tmp_path: Path) -> None:
    camvid.add("test", "Seq05VD_f00000")
    camvid.list("test", ["Seq05VD_f00000"])
    assert prepare(CamVid(camvid.directory), tmp_path / "out").counts["test"] == 1
    assert open_dataset(tmp_path / "out").split("test").groups == ["Seq05VD"]


@pytest.mark.slow
def test_result_does_not_depend_on_worker_count(tmp_path: Path) -> None:
    serial = prepare_streets(tmp_path / "one", train=5, val=2, size=(24, 48), workers=1)
    parallel = prepare_streets(tmp_path / "two", train=5, val=2, size=(24, 48), workers=2)
    assert serial == parallel
    assert (
        serial.fingerprint
        != prepare_streets(tmp_path / "other", train=5, val=2, size=(24, 48), seed=1).fingerprint
    )


@pytest.mark.parametrize("mode", ["CMYK", "L", "RGBA", "P"])
def test_every_color_mode_becomes_rgb(camvid: CamVidSource, tmp_path: Path, mode: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    source = Image.fromarray(pixels).convert(mode)
    expected = np.asarray(source.convert("RGB"))
    source.save(camvid.image(), format="TIFF" if mode == "CMYK" else "PNG")
    prepare(CamVid(camvid.directory), tmp_path / "out")
    image, _ = open_dataset(tmp_path / "out").split("train").read(0)
    assert np.array_equal(image, expected)


@pytest.mark.parametrize("label_is_rotated", [True, False])
def test_exif_rotation_is_applied_if_the_label_is_rotated(
    camvid: CamVidSource, tmp_path: Path, label_is_rotated: bool
) -> None:
    stored = np.random.default_rng(0).integers(0, 256, (16, 12, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # display rotated clockwise by 90 degrees
    Image.fromarray(stored).save(camvid.image(), exif=exif)
    rotated = np.rot90(stored, -1) if label_is_rotated else stored
    Image.fromarray(np.zeros(rotated.shape[:2], np.uint8)).save(camvid.label())
    prepare(CamVid(camvid.directory), tmp_path / "out")
    image, label = open_dataset(tmp_path / "out").split("train").read(0)
    assert np.array_equal(image, rotated)
    assert label.shape == rotated.shape[:2]


def test_invalid_exif_orientation_is_ignored(camvid: CamVidSource, tmp_path: Path) -> None:
    """A text orientation, on which Pillow fails, and an orientation outside the defined values."""
    entries = [
        b"\x01\x12\x00\x02" + b"\0\0\0\x01" + bytes(4),
        b"\x01\x12\x00\x03\0\0\0\x01\0\x63\0\0",
    ]
    stored = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    for index, entry in enumerate(entries):
        exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01" + entry + bytes(4)
        Image.fromarray(stored).save(camvid.image(index=index), exif=exif)
    prepare(CamVid(camvid.directory), tmp_path / "out")
    split = open_dataset(tmp_path / "out").split("train")
    assert all(np.array_equal(split.read(index)[0], stored) for index in range(2))


SIZES = st.lists(st.tuples(st.integers(1, 33), st.integers(1, 33)), min_size=1, max_size=4)


@given(sizes=SIZES, seed=st.integers(0, 2**32 - 1), wide=st.booleans())
@settings(max_examples=15, deadline=None)
def test_images_survive_preparation_and_node_cache(
    sizes: list[tuple[int, int]], seed: int, wide: bool
) -> None:
    """Images and labels may have any size; labels have 8 or 16 bits."""
    rng = np.random.default_rng(seed)
    with TemporaryDirectory() as name:
        source = Path(name, "source")
        expected = []
        for index, size in enumerate(sizes):
            image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
            stored = rng.choice([0, 1, 2, 255], size).astype(np.uint16 if wide else np.uint8)
            for kind, values in (("images", image), ("labels", stored)):
                (source / kind).mkdir(parents=True, exist_ok=True)
                Image.fromarray(values).save(source / kind / f"{index}.png")
            expected.append((image, stored))
        (source / "dataset.yaml").write_text(
            "classes: {a: [1, 1, 1], b: [2, 2, 2], c: [3, 3, 3]}\n"
            "splits: {train: {images: images, labels: labels}}\n"
        )
        values = np.concatenate([stored.ravel() for _, stored in expected])
        if len(set(values.tolist()) - {255}) < 2:  # see test_facts
            with pytest.raises(DatasetError, match=r"the only class|every pixel"):
                prepare(Folder(source), Path(name, "set"))
            return
        manifest = prepare(Folder(source), Path(name, "set"))
        dataset = open_dataset(Path(name, "set"))
        assert manifest.class_pixels == tuple((values == index).sum() for index in range(3))
        assert manifest.ignored_pixels == (values == 255).sum()
        for split in (
            dataset.split("train"),
            NodeCache(Path(name, "cache")).decoded(dataset, "train"),
        ):
            for index, pair in enumerate(expected):
                assert all(map(np.array_equal, split.read(index), pair))


def test_sample_names_may_be_non_ascii(camvid: CamVidSource, tmp_path: Path) -> None:
    camvid.add("train", "straße_ü漢字")
    camvid.list("train", ["straße_ü漢字"])
    prepare(CamVid(camvid.directory), tmp_path / "zürich")
    assert open_dataset(tmp_path / "zürich").split("train").identifiers == ["straße_ü漢字"]
