"""Host batches: contents, order, errors and memory bounds."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.data.augmentation import Augmentation
from pipelines.data.config import AugmentationConfig, DataConfig
from pipelines.data.dataset import PreparedDataset, open_dataset
from pipelines.data.image_format import RGB
from pipelines.data.loading import BufferPool, EvaluationBatches, TrainingBatches
from pipelines.data.manifest import DatasetError
from pipelines.data.node_cache import NodeCache
from pipelines.data.prefetch import prefetch
from pipelines.data.sampling import Draws
from pipelines.preparation.prepare_dataset import prepare
from pipelines.preparation.readers.camvid import CamVid
from tests.support.camvid_source import CamVidSource

DATA = DataConfig(crop=(24, 40))


@pytest.mark.slow
def test_training_batches_contain_windows_of_their_samples(streets: PreparedDataset) -> None:
    split = streets.split("train")
    batches = TrainingBatches(split, DATA, seed=0, global_batch=4)
    names = []
    for batch in batches.epoch(0):
        names += batch.identifiers
        assert batch.windows.dtype == batch.labels.dtype == torch.uint8
        assert batch.windows.is_contiguous(memory_format=torch.channels_last)
        for row, name in enumerate(batch.identifiers):
            image, label = split.read(split.identifiers.index(name))
            (source, _, _, top), (width, _, _, left) = batch.geometry[row].tolist()
            assert (source, width) == label.shape
            window = batch.windows[row, :, :3, :3].permute(1, 2, 0).numpy()
            assert np.array_equal(window, image[top : top + 3, left : left + 3])
            assert np.array_equal(batch.labels[row, :3, :3], label[top : top + 3, left : left + 3])
    assert len(names) == len(batches) * 4 == 12
    assert set(names) == set(split.identifiers)


@pytest.mark.parametrize("class_uniform", [0.0, 0.5])
@pytest.mark.slow
def test_ranks_share_the_batches_of_a_single_rank(
    streets: PreparedDataset, class_uniform: float
) -> None:
    """The augmented inputs of the network are bitwise equal."""
    split = streets.split("train")
    data = DataConfig(crop=(24, 40), class_uniform=class_uniform)
    augmentation = Augmentation(data.augmentation, data.crop)
    single_rank = list(TrainingBatches(split, data, 5, 4).epoch(1))
    for world in (2, 3, 4):
        shares = [
            list(TrainingBatches(split, data, 5, 4, rank, world).epoch(1)) for rank in range(world)
        ]
        for whole, *parts in zip(single_rank, *shares, strict=True):
            assert whole.identifiers == sum((part.identifiers for part in parts), start=())
            for name in ("sample_keys", "geometry", "flips"):
                joined = torch.cat([getattr(part, name) for part in parts])
                assert torch.equal(joined, getattr(whole, name))
            augmented = zip(*map(augmentation, parts), strict=True)
            for joined, expected in zip(
                map(torch.cat, augmented), augmentation(whole), strict=True
            ):
                assert torch.equal(joined, expected)


class ManySizes:
    """Noise images of many sizes, from 4 to 35 pixels."""

    identifiers = [str(index) for index in range(400)]
    heights = 4 + np.arange(400) % 32
    widths = 4 + np.arange(400) * 7 % 32
    groups = [None] * 400
    class_pixels = np.zeros((400, 1), np.int64)
    centroids = np.zeros((0, 4), np.int64)
    image_format = RGB

    def __len__(self) -> int:
        return len(self.identifiers)

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        size = (self.heights[index], self.widths[index])
        rng = np.random.default_rng(index)
        return rng.integers(0, 256, (*size, 3), np.uint8), rng.integers(0, 9, size, np.uint8)


def test_former_content_of_the_buffers_changes_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows are smaller than the buffers; positions in them are rounded."""
    data = DataConfig(crop=(16, 16), augmentation=AugmentationConfig(scale=(0.5, 2.0)))
    augmentation = Augmentation(data.augmentation, data.crop)
    take = BufferPool.take
    augmented = []
    for content in (0, 255):
        monkeypatch.setattr(
            BufferPool, "take", lambda *args, value=content: take(*args).fill_(value)
        )
        batches = TrainingBatches(ManySizes(), data, seed=0, global_batch=20)
        augmented.append([augmentation(batch) for batch in batches.epoch(0)])
    for (images, labels), (others, other_labels) in zip(*augmented, strict=True):
        assert torch.equal(images, others)
        assert torch.equal(labels, other_labels)


def test_epoch_resumes_from_any_step(streets: PreparedDataset) -> None:
    batches = TrainingBatches(streets.split("train"), DATA, 0, 4)
    whole = [batch.sample_keys.tolist() for batch in batches.epoch(3)]
    assert [batch.sample_keys.tolist() for batch in batches.epoch(3, first_step=2)] == whole[2:]


@pytest.mark.parametrize("world", [1, 2, 3])
def test_evaluation_reads_every_image_once(streets: PreparedDataset, world: int) -> None:
    split = streets.split("train")
    indices: list[int] = []
    for rank in range(world):
        for batch in EvaluationBatches(split, 4, rank, world):
            indices += batch.indices.tolist()
            for row, index in enumerate(batch.indices.tolist()):
                image, label = split.read(index)
                assert np.array_equal(batch.images[row].permute(1, 2, 0).numpy(), image)
                assert np.array_equal(batch.labels[row].numpy(), label)
                assert batch.identifiers[row] == split.identifiers[index]
    assert sorted(indices) == list(range(11))


def test_evaluation_batches_contain_images_of_one_size() -> None:
    class MixedSizes:
        identifiers = [str(index) for index in range(7)]
        heights = np.array([4, 6, 4, 4, 6, 4, 4])
        widths = np.array([5, 5, 5, 8, 5, 5, 5])
        centroids = np.zeros((0, 4), np.int64)
        image_format = RGB

        def __len__(self) -> int:
            return 7

        def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
            size = (self.heights[index], self.widths[index])
            return np.full((*size, 3), index, np.uint8), np.full(size, index, np.uint8)

    batches = EvaluationBatches(MixedSizes(), 3)
    batch_indices = [batch.indices.tolist() for batch in batches]
    assert len(batches) == 4
    assert batch_indices == [[0, 2, 5], [6], [1, 4], [3]]


def test_error_names_the_damaged_sample(streets: PreparedDataset, tmp_path: Path) -> None:
    directory = Path(shutil.copytree(streets.location.path, tmp_path / "copy"))
    stored, _ = open_dataset(directory).split("train").read_encoded(3)
    shard = next(directory.glob("train-*"))
    data = bytearray(shard.read_bytes())
    data[data.index(stored) + 50] ^= 1
    shard.write_bytes(data)
    batches = TrainingBatches(open_dataset(directory).split("train"), DATA, 0, 4)
    with pytest.raises(DatasetError, match="sample 'train-00003'"):
        list(batches.epoch(0))
    assert not [t for t in threading.enumerate() if t.name.startswith("loading")]


def test_any_read_error_names_the_sample(
    streets: PreparedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Errors of the node cache do not contain a sample name themselves."""
    decoded = NodeCache(tmp_path).decoded(streets, "train")
    read = type(decoded).read

    def failing(self: object, index: int) -> object:
        if index == 5:
            raise RuntimeError("a gremlin")
        return read(decoded, index)

    monkeypatch.setattr(type(decoded), "read", failing)
    for batches in (TrainingBatches(decoded, DATA, 0, 4).epoch(0), EvaluationBatches(decoded, 2)):
        with pytest.raises(DatasetError, match=r"sample 'train-00005'.*RuntimeError: a gremlin"):
            list(batches)


def test_prefetch_takes_an_item_for_each_result_and_a_few_ahead() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for item in range(100):
            taken.append(item)
            yield item

    results = prefetch(str, items(), threads=2, ahead=3)
    for used in range(5):
        assert next(results) == str(used)
        assert taken == list(range(used + 1 + 3))
    results.close()  # type: ignore[attr-defined]
    assert len(taken) == 5 + 3


def test_prefetch_keeps_the_order() -> None:
    assert list(prefetch(str, range(10), threads=3, ahead=5)) == list(map(str, range(10)))


def test_batch_moves_all_tensors_to_the_device(streets: PreparedDataset) -> None:
    batch = next(TrainingBatches(streets.split("train"), DATA, 0, 4).epoch(0))
    moved = batch.to("meta")
    assert {moved.windows.device.type, moved.sample_keys.device.type} == {"meta"}
    assert moved.identifiers == batch.identifiers


@pytest.mark.parametrize("crop", [(0, 5), (4,)])
def test_invalid_crops_are_rejected(crop: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="crop must be two sizes in pixels"):
        DataConfig(crop=crop)


def test_class_uniform_crops_contain_the_centroid(streets: PreparedDataset) -> None:
    """Every class-uniform crop contains the drawn centroid."""
    split = streets.split("train")
    data = DataConfig(crop=(12, 20), class_uniform=1.0)
    batches = TrainingBatches(split, data, 0, 4)
    for draws in batches.batches.epoch(0):
        batch = batches.load(draws)
        for row, (centroid_row, centroid_column) in enumerate(draws.contained.tolist()):
            for (source, resized, offset, _), crop, pixel in zip(
                batch.geometry[row].tolist(),
                data.crop,
                (centroid_row, centroid_column),
                strict=True,
            ):
                assert 0 <= int((pixel + 0.5) * resized / source) - offset < crop


@pytest.mark.parametrize("crop", [(12, 20), (48, 80)])
def test_crop_has_the_label_of_the_centroid(
    streets: PreparedDataset, crop: tuple[int, int]
) -> None:
    """Check crops smaller and larger than the 32 x 64 images; padding shifts the offset."""
    split = streets.split("train")
    plain = AugmentationConfig(scale=(1, 1), flip=0)
    data = DataConfig(crop=crop, class_uniform=1.0, augmentation=plain)
    batches = TrainingBatches(split, data, 0, 4)
    augmentation = Augmentation(plain, crop)
    for draws in batches.batches.epoch(0):
        batch = batches.load(draws)
        _, labels = augmentation.crops(batch)
        for row, (sample, centroid) in enumerate(zip(draws.samples, draws.contained, strict=True)):
            position = centroid - batch.geometry[row, :, 2].numpy()
            assert (
                labels[row, position[0], position[1]] == split.read(int(sample))[1][tuple(centroid)]
            )


@pytest.mark.parametrize("pixel", [(0, 0), (0, 33), (31, 0)])
def test_crop_contains_a_centroid_on_the_border(
    streets: PreparedDataset, pixel: tuple[int, int]
) -> None:
    data = DataConfig(crop=(12, 20), class_uniform=1.0)
    batches = TrainingBatches(streets.split("train"), data, 0, 4)
    keys = np.arange(20)
    batch = batches.load(Draws(keys % 11, keys, np.full((20, 2), pixel)))
    source, resized, offset, _ = batch.geometry.unbind(2)
    position = ((torch.tensor(pixel) + 0.5) * resized / source).int() - offset
    assert ((position >= 0) & (position < torch.tensor(data.crop))).all()


def test_batches_are_mixed_with_any_image_and_anew_in_each_epoch() -> None:
    data = DataConfig(crop=(16, 16), augmentation=AugmentationConfig(classmix=1.0))
    batches = TrainingBatches(ManySizes(), data, seed=0, global_batch=100)
    first, other = (next(batches.epoch(epoch)) for epoch in (0, 1))
    assert first.partners is not None
    assert len(set(first.partners.identifiers)) > 70
    # The order of an image's classes.
    assert first.class_draws is not None
    assert other.class_draws is not None
    orders = [dict(zip(b.identifiers, b.class_draws, strict=True)) for b in (first, other)]
    both = orders[0].keys() & orders[1].keys()
    assert len(both) > 10
    assert not any(torch.equal(orders[0][name], orders[1][name]) for name in both)


def test_class_uniform_requires_labels() -> None:
    class Unlabeled:
        identifiers = ["a"]
        heights = widths = np.array([8])
        centroids = np.zeros((0, 4), np.int64)
        image_format = RGB

        def __len__(self) -> int:
            return 1

        def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
            raise NotImplementedError

    with pytest.raises(ValueError, match="class_uniform needs labels"):
        TrainingBatches(Unlabeled(), DataConfig(class_uniform=0.5), 0, 1)
    with pytest.raises(ValueError, match=r"fraction from 0 to 1, received 1\.5"):
        DataConfig(class_uniform=1.5)


def test_buffer_is_reused_only_when_unreferenced() -> None:
    pool = BufferPool(pin=False)
    first = pool.take((4, 5), np.dtype(np.uint8))
    address = first.data_ptr()
    row = first.permute(1, 0)[2:]
    del first
    assert pool.take((4, 5), np.dtype(np.uint8)).data_ptr() != address
    del row
    reused = [pool.take((4, 5), np.dtype(np.uint8)) for _ in range(2)]
    assert address in [tensor.data_ptr() for tensor in reused]
    assert len({tensor.data_ptr() for tensor in reused}) == 2


@pytest.mark.slow
def test_memory_does_not_grow_with_data_set_size(tmp_path: Path) -> None:
    """Compare the anonymous memory over two epochs of 8 samples with that of 96 samples."""
    source = CamVidSource(tmp_path / "source", samples=0, size=(256, 512))
    for split, count in (("val", 8), ("train", 96)):
        names = [f"0001TP_{split}{index:03d}" for index in range(count)]
        source.list(split, names)
        for name in names:
            source.add(split, name, flat=True)
    prepare(CamVid(source.directory), tmp_path / "set")
    dataset = open_dataset(tmp_path / "set")
    cache = NodeCache(tmp_path / "cache")
    decoded = (96 - 8) * 256 * 512 * 4  # bytes of the additional images of the larger split
    for open_split in (dataset.split, lambda name: cache.decoded(dataset, name)):
        small, large = (
            peak_memory(TrainingBatches(open_split(name), DataConfig(crop=(64, 64)), 0, 4))
            for name in ("val", "train")
        )
        assert large - small < decoded / 2


def peak_memory(batches: TrainingBatches) -> int:
    """Return the peak anonymous memory of this process in bytes over two epochs."""
    return max(anonymous_memory() for epoch in range(2) for _ in batches.epoch(epoch))


def anonymous_memory() -> int:
    """Return the anonymous memory of this process in bytes, without pages of mapped files."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("RssAnon:")[1].split()[0]) * 1024


def test_memory_is_bounded_by_the_prefetch_depth(streets: PreparedDataset) -> None:
    batches = TrainingBatches(streets.split("train"), DATA, 0, 1, threads=2, ahead=3)
    addresses = {batch.windows.data_ptr() for epoch in range(3) for batch in batches.epoch(epoch)}
    assert len(addresses) <= 3 + 2  # prefetched, in use by the loop, and in transfer
