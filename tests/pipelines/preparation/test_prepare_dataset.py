"""Preparation of valid and invalid sources."""

from __future__ import annotations

import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipelines.data.dataset import DatasetError, open_dataset
from pipelines.data.node_cache import NodeCache
from pipelines.preparation import prepare_dataset
from pipelines.preparation.embedded import prepare_streets
from pipelines.preparation.inspection import verify
from pipelines.preparation.prepare_dataset import prepare
from pipelines.preparation.readers.camvid import CamVid
from pipelines.preparation.readers.folder import Folder
from pipelines.preparation.readers.streets import Streets
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


def truncate(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def cut_tail(path: Path) -> None:
    """Cut the end off a file; all pixels remain, and decoders raise no error."""
    path.write_bytes(path.read_bytes()[:-8])


def flip_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[data.index(b"IDAT") + 40] ^= 1
    path.write_bytes(data)


def truncated_jpeg(source: CamVidSource) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(source.image(), format="JPEG", quality=95)
    truncate(source.image())


def padded_jpeg(source: CamVidSource) -> None:
    """Replace the end of a JPEG by zeros, which decoders read as gray pixels."""
    pixels = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(source.image(), format="JPEG", quality=95)
    size = source.image().stat().st_size
    for length in (size - 100, size):
        os.truncate(source.image(), length)


def mismatched_size(source: CamVidSource) -> None:
    Image.fromarray(np.zeros((12, 15), np.uint8)).save(source.label())


def rgb_label(source: CamVidSource) -> None:
    Image.fromarray(np.zeros((12, 16, 3), np.uint8)).save(source.label())


def unknown_value(source: CamVidSource) -> None:
    Image.fromarray(np.full((12, 16), 12, np.uint8)).save(source.label())


def wide_label(source: CamVidSource) -> None:
    Image.fromarray(np.full((12, 16), 4000, np.uint16)).save(source.label())


BAD: list[tuple[Callable[[CamVidSource], object], str]] = [
    (lambda source: truncate(source.image()), r"train000\.png: image damaged or truncated"),
    (lambda source: truncate(source.label()), r"annot/.*train000\.png: label damaged or truncated"),
    (truncated_jpeg, "image damaged or truncated"),
    (padded_jpeg, r"image damaged or truncated \(no end-of-image marker\)"),
    (lambda source: cut_tail(source.image()), r"image damaged or truncated .broken PNG file"),
    (lambda source: cut_tail(source.label()), r"label damaged or truncated .broken PNG file"),
    (lambda source: flip_bit(source.image()), "image damaged or truncated"),
    (lambda source: flip_bit(source.label()), "label damaged or truncated"),
    (lambda source: source.image().write_bytes(b""), "image the file is empty"),
    (lambda source: source.label().write_bytes(b""), "label the file is empty"),
    (lambda source: source.label().write_bytes(b"not an image"), "label not an image"),
    (mismatched_size, "label of 12 x 15 pixels for an image of 12 x 16"),
    (rgb_label, "label has colors .mode RGB. instead of one index per pixel"),
    (unknown_value, r"label has unknown values 12 in 192 pixels; known are 0-11, 255"),
    (wide_label, "label has unknown values 4000"),
    (lambda source: source.label().unlink(), "image has no label; expected .*trainannot/"),
    (lambda source: source.image().unlink(), "label has no image; expected .*train/"),
]


@pytest.mark.parametrize(("damage", "message"), BAD)
def test_bad_sample_is_reported_or_skipped(
    camvid: CamVidSource,
    tmp_path: Path,
    damage: Callable[[CamVidSource], object],
    message: str,
) -> None:
    damage(camvid)
    out = tmp_path / "out"
    with pytest.raises(DatasetError, match=r"(?s)1 problem.*train/0001TP_train000: .*" + message):
        prepare(CamVid(camvid.directory), out)
    assert [path.name for path in tmp_path.iterdir()] == ["camvid"]
    manifest = prepare(CamVid(camvid.directory), out, skip_invalid=True)
    assert manifest.counts == {"train": 2, "val": 3}
    assert len(manifest.skipped) == 1
    assert open_dataset(out).split("train").identifiers[0] == "0001TP_train001"


def test_all_problems_are_listed_together(camvid: CamVidSource, tmp_path: Path) -> None:
    truncate(camvid.image("train", 0))
    rgb_label(camvid)
    truncate(camvid.image("val", 2))
    camvid.label("train", 2).unlink()
    with pytest.raises(DatasetError, match="4 problems") as caught:
        prepare(CamVid(camvid.directory), tmp_path / "out")
    for part in (
        "train/0001TP_train000: .*image damaged",
        "train/0001TP_train000: .*label has colors",
        "train/0001TP_train002: .*image has no label",
        "val/0001TP_val002: .*image damaged",
    ):
        assert re.search(part, str(caught.value))


def test_missing_and_malformed_lists_are_reported(camvid: CamVidSource, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="nothing: no such directory"):
        prepare(CamVid(tmp_path / "nothing"), tmp_path / "out")
    (camvid.directory / "train.txt").write_text("only-one-name\n")
    with pytest.raises(DatasetError, match=r"train\.txt:1: expected an image and a label"):
        prepare(CamVid(camvid.directory), tmp_path / "out")
    (camvid.directory / "train.txt").write_text("\n")
    truncate(camvid.image("val", 1))
    with pytest.raises(DatasetError, match=r"(?s)2 problems.*lists no samples.*val/0001TP_val001"):
        prepare(CamVid(camvid.directory), tmp_path / "out")
    manifest = prepare(CamVid(camvid.directory), tmp_path / "out", skip_invalid=True)
    assert manifest.counts == {"val": 2}
    assert "train.txt" in manifest.skipped[0]
    assert "val001" in manifest.skipped[1]
    with pytest.raises(DatasetError, match="not CamVid"):
        prepare(CamVid(tmp_path), tmp_path / "out")


def test_duplicate_names_are_reported_or_skipped(camvid: CamVidSource, tmp_path: Path) -> None:
    camvid.list("train", ["0001TP_train000", "0001TP_train001", "0001TP_train000"])
    truncate(camvid.image("val", 2))
    repeated = r"train/0001TP_train000: .*png: its name occurs 2 times in the split"
    with pytest.raises(DatasetError, match=rf"(?s)3 problems.*{repeated}.*{repeated}.*val002"):
        prepare(CamVid(camvid.directory), tmp_path / "out")
    manifest = prepare(CamVid(camvid.directory), tmp_path / "out", skip_invalid=True)
    assert manifest.counts == {"train": 1, "val": 2}


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


def test_preparing_again_is_a_no_op_unless_the_source_changed(
    camvid: CamVidSource, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    first = prepare(CamVid(camvid.directory), out)
    modified = (out / "manifest.json").stat().st_mtime_ns
    assert prepare(CamVid(camvid.directory), out) == first
    assert (out / "manifest.json").stat().st_mtime_ns == modified
    later = os.stat(camvid.label()).st_mtime_ns + 10**9
    os.utime(camvid.label(), ns=(later, later))  # as if fixed without changing the size
    with pytest.raises(DatasetError, match="already holds the data set 'camvid'"):
        prepare(CamVid(camvid.directory), out)
    text = (out / "manifest.json").read_text()
    (out / "manifest.json").write_text(text.replace('"version": 2', '"version": 1'))
    with pytest.raises(DatasetError, match=r"format version 1 is not 2.*; delete .*/out and"):
        prepare(CamVid(camvid.directory), out)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("important")
    with pytest.raises(DatasetError, match="exists but is not a prepared data set"):
        prepare(CamVid(camvid.directory), tmp_path / "mine")


@pytest.mark.parametrize("name", ["val-*.parquet", "index.pq", "manifest.json"])
def test_advice_for_a_lost_file_leads_to_a_whole_data_set(
    camvid: CamVidSource, tmp_path: Path, name: str
) -> None:
    out = tmp_path / "out"
    whole = prepare(CamVid(camvid.directory), out)
    next(out.glob(name)).unlink()
    with pytest.raises(DatasetError, match=f"delete {out} and prepare it again"):
        open_dataset(out)
    if name == "manifest.json":
        with pytest.raises(
            DatasetError, match=r"no manifest\.json; .* delete it and prepare it again"
        ):
            prepare(CamVid(camvid.directory), out)
    shutil.rmtree(out)
    assert prepare(CamVid(camvid.directory), out) == whole
    verify(open_dataset(out))


def test_concurrent_threads_prepare_once(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        manifests = list(
            pool.map(lambda _: prepare_streets(tmp_path / "s", 4, 2, (24, 48)), range(4))
        )
    assert len({manifest.fingerprint for manifest in manifests}) == 1
    assert not (tmp_path / ".s.partial").exists()


@pytest.mark.slow
def test_concurrent_processes_prepare_once(tmp_path: Path) -> None:
    arguments = ["streets", "--destination", str(tmp_path / "s"), "--workers", "1",
                 "--train", "4", "--val", "2", "--size", "24x48"]  # fmt: skip
    command = [sys.executable, "-m", "pipelines.prepare", *arguments]
    processes = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert outputs[0][0] == outputs[1][0]
    waiting = f"{tmp_path / 's'}: another process prepares it; waiting until it is done\n"
    assert {stderr for _, stderr in outputs} <= {"", waiting}
    assert [path.name for path in tmp_path.iterdir()] == ["s"]
    verify(open_dataset(tmp_path / "s"))


@pytest.mark.slow
def test_killed_preparation_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kill the preparation at several points; finished shards are not rendered again."""
    out = tmp_path / "out"
    code = (
        "from pipelines.preparation import prepare_dataset\n"
        "from pipelines.preparation.embedded import prepare_streets\n"
        "prepare_dataset.SHARD_BYTES = 20000\n"
        f"prepare_streets({str(out)!r}, 40, 8, (64, 96))\n"
    )
    for shards, delay in ((1, 0.0), (3, 0.013), (6, 0.029)):
        process = subprocess.Popen([sys.executable, "-c", code])
        deadline = time.monotonic() + 60
        while len(list((tmp_path / ".out.partial").glob("*.parquet"))) < shards:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.001)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not out.exists()
    monkeypatch.setattr(prepare_dataset, "SHARD_BYTES", 20000)
    progress: list[int] = []
    manifest = prepare(
        Streets(train=40, val=8, size=(64, 96)),
        out,
        progress=lambda done, total: progress.append(done),
    )
    assert progress[0] >= 2 * 5  # two samples per shard; the journal may lack the last
    monkeypatch.setattr(prepare_dataset, "SHARD_BYTES", 128 << 20)
    uninterrupted = prepare_streets(tmp_path / "untouched", 40, 8, (64, 96))
    assert manifest.class_pixels == uninterrupted.class_pixels
    assert manifest.image_mean == pytest.approx(uninterrupted.image_mean)
    assert not (tmp_path / ".out.partial").exists()


@pytest.mark.slow
def test_workers_exit_when_the_preparation_is_killed(tmp_path: Path) -> None:
    arguments = ["streets", "--destination", str(tmp_path / "out"), "--workers", "2",
                 "--train", "500", "--size", "64x96"]  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-m", "pipelines.prepare", *arguments], start_new_session=True
    )
    deadline = time.monotonic() + 60
    while len(group_members(process.pid)) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(group_members(process.pid)) >= 3
    process.send_signal(signal.SIGKILL)
    process.wait()
    while group_members(process.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert group_members(process.pid) == []


@pytest.mark.slow
def test_killed_worker_is_reported_and_finished_shards_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel kills a worker when memory runs out."""
    monkeypatch.setattr(prepare_dataset, "SHARD_BYTES", 20000)
    reader = Streets(train=40, val=0, size=(64, 96))

    def kill(done: int, total: int) -> None:
        if done == 5:
            os.kill(multiprocessing.active_children()[0].pid or 0, signal.SIGKILL)

    with pytest.raises(ChildProcessError, match=r"a worker process was killed.*fewer --workers"):
        prepare(reader, tmp_path / "out", workers=2, progress=kill)
    assert not (tmp_path / "out").exists()
    progress: list[int] = []
    prepare(reader, tmp_path / "out", progress=lambda done, total: progress.append(done))
    assert progress[0] >= 4


def group_members(group: int) -> list[int]:
    """Return the IDs of the running processes in a process group."""
    members = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, _, pgrp = (entry / "stat").read_text().rpartition(")")[2].split()[:3]
            except OSError:
                continue
            if int(pgrp) == group and state != "Z":
                members.append(int(entry.name))
    return members
