"""Folds: their assignment against scikit-learn, and as splits of a data set and of the cache."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import GroupKFold

from pipelines.data.config import DataConfig
from pipelines.data.dataset import PreparedDataset, open_dataset
from pipelines.data.folds import fold_rows
from pipelines.data.manifest import DatasetError
from pipelines.data.node_cache import NodeCache
from pipelines.data.split_names import (
    FoldBy,
    FoldName,
    check_split_name,
    general_name,
    parse_fold,
    split_parts,
    splits_overlap,
)


@st.composite
def samples(draw: st.DrawFn) -> tuple[list[str], list[str | None], int]:
    """Draw identifiers, groups (some samples have none) and a number of folds that fits them."""
    identifiers = draw(st.lists(st.text(min_size=1), min_size=4, max_size=40, unique=True))
    possible = st.one_of(st.none(), st.sampled_from(["bonn", "aachen", "ulm", "köln", "1"]))
    groups = draw(st.lists(possible, min_size=len(identifiers), max_size=len(identifiers)))
    units = len(set(groups) - {None}) + groups.count(None)
    return identifiers, groups, draw(st.integers(2, max(2, units)))


def held_out(
    count: int, identifiers: list[str], groups: list[str | None], by: FoldBy = "group"
) -> list[set[str]]:
    """Return the names of the samples of each fold."""
    folds = [FoldName("train", index, count, by) for index in range(count)]
    return [{identifiers[row] for row in fold_rows(fold, identifiers, groups)} for fold in folds]


@settings(max_examples=50)
@given(samples(), st.randoms(use_true_random=False))
def test_folds_are_those_of_a_grouped_cross_validation(drawn, random) -> None:
    """Every sample is held out once, groups are not divided, sizes are those of scikit-learn's
    `GroupKFold`, and the order of the samples has no effect."""
    identifiers, groups, count = drawn
    units = [(name,) if group is None else group for name, group in zip(*drawn[:2], strict=True)]
    if len(set(units)) < count:
        with pytest.raises(ValueError, match="too few for 2 folds"):
            held_out(count, identifiers, groups)
        return
    folds = held_out(count, identifiers, groups)
    assert Counter(name for fold in folds for name in fold) == Counter(identifiers)
    for unit in set(units):
        members = {n for n, own in zip(identifiers, units, strict=True) if own == unit}
        assert sum(bool(members & fold) for fold in folds) == 1
    numbers = [list(dict.fromkeys(units)).index(unit) for unit in units]
    reference = GroupKFold(count).split(np.zeros(len(units)), groups=numbers)
    assert sorted(map(len, folds)) == sorted(len(test) for _, test in reference)

    order = list(range(len(identifiers)))
    random.shuffle(order)
    shuffled = [identifiers[index] for index in order], [groups[index] for index in order]
    assert held_out(count, *shuffled) == folds


@given(samples())
def test_images_by_themselves_are_balanced(drawn) -> None:
    identifiers, groups, count = drawn
    count = min(count, len(identifiers))
    sizes = [len(fold) for fold in held_out(count, identifiers, groups, by="image")]
    assert max(sizes) - min(sizes) <= 1
    assert sum(sizes) == len(identifiers)


@given(samples(), st.integers(0, 1))
def test_training_samples_are_all_others_in_order(drawn, index: int) -> None:
    identifiers, groups, _ = drawn
    rows = [
        fold_rows(FoldName("train", index, 2, "image", held), identifiers, groups)
        for held in (True, False)
    ]
    assert sorted(rows[0] + rows[1]) == list(range(len(identifiers)))
    assert rows == [sorted(rows[0]), sorted(rows[1])]


def test_assignment_never_changes() -> None:
    """Finished trials of a study are of these folds."""
    names = [f"image-{index}" for index in range(8)]
    rows = [fold_rows(FoldName("train", index, 3), names, [None] * 8) for index in range(3)]
    assert rows == [[0, 2, 5], [1, 3, 7], [4, 6]]


@given(
    st.sampled_from(["train", "train+val"]),
    st.integers(2, 20).flatmap(lambda n: st.tuples(st.integers(0, n - 1), st.just(n))),
    st.sampled_from(["group", "image"]),
    st.booleans(),
)
def test_names_are_parsed_as_written(split, numbers, by, held) -> None:
    fold = FoldName(split, *numbers, by, held)
    assert parse_fold(str(fold)) == fold
    check_split_name("split", str(fold))
    assert split_parts(str(fold)) == split_parts(split)


def test_names_of_other_splits_are_no_folds() -> None:
    for name in ("train", "fold-1", "train+val", "fold-1-of-5", "train:fold-one-of-5"):
        assert parse_fold(name) is None
        assert general_name(name) == name
    for name, message in (
        ("train:fold-5-of-5", "fold must be from 0 to 4 with 5 folds, received 5"),
        ("train:fold-0-of-1", "folds must be at least 2, received 1"),
        ("train:fold-0-of-2:fold-0-of-2", "must name a split"),
    ):
        with pytest.raises(ValueError, match=message):
            check_split_name("split", name)


@given(st.data())
def test_overlap_of_names_is_that_of_the_samples(data: st.DataObject) -> None:
    """Names of the same division overlap if their samples do; others with a common part always."""
    count = data.draw(st.integers(2, 4))
    first, second = (
        FoldName("train", data.draw(st.integers(0, count - 1)), count, "group", held)
        for held in (data.draw(st.booleans()), data.draw(st.booleans()))
    )
    names, groups = [str(index) for index in range(12)], [None] * 12
    rows = [set(fold_rows(fold, names, groups)) for fold in (first, second)]
    assert splits_overlap(str(first), str(second)) == bool(rows[0] & rows[1])
    assert splits_overlap(str(first), "train+val")
    assert not splits_overlap(str(first), "val")
    assert splits_overlap(str(first), f"train:fold-0-of-{count + 1}")


def test_a_data_set_has_its_folds_as_splits(streets: PreparedDataset, tmp_path: Path) -> None:
    """The samples of all folds are those of the split, encoded and in the node cache."""
    whole = streets.split("train")
    cache = NodeCache(tmp_path)
    seen: list[str] = []
    for index in range(3):
        name, others = f"train:fold-{index}-of-3", f"train:without-fold-{index}-of-3"
        fold, rest = streets.split(name), streets.split(others)
        seen += fold.identifiers
        assert sorted(fold.identifiers + rest.identifiers) == sorted(whole.identifiers)
        decoded = cache.decoded(streets, others)
        assert decoded.identifiers == rest.identifiers
        assert np.array_equal(decoded.centroids, rest.centroids)
        for row, identifier in enumerate(rest.identifiers):
            expected = whole.read(whole.identifiers.index(identifier))
            for split in (rest, decoded):
                for actual, pixels in zip(split.read(row), expected, strict=True):
                    assert np.array_equal(actual, pixels)
    assert sorted(seen) == sorted(whole.identifiers)
    assert len(list(tmp_path.glob("*.arrow"))) == 1


def test_impossible_folds_are_refused(streets: PreparedDataset, cityscapes: Path) -> None:
    with pytest.raises(DatasetError, match="'train' has 11 images, too few for 15 folds; use at"):
        streets.split("train:fold-0-of-15")
    with pytest.raises(DatasetError, match="fold must be from 0 to 1 with 2 folds, received 2"):
        streets.split("train:fold-2-of-2")
    with pytest.raises(DatasetError, match="no samples in split 'nothing'"):
        streets.split("nothing:fold-0-of-2")
    grouped = open_dataset(cityscapes)
    with pytest.raises(DatasetError, match="1 group, too few for 2 folds; use no folds, or divide"):
        grouped.split("train:fold-0-of-2")
    assert len(grouped.split("train:fold-0-of-2-by-image")) == 2
    assert grouped.split("train+val:fold-1-of-2").groups == ["bonn", "bonn"]


def test_held_out_fold_is_the_validation_split() -> None:
    data = DataConfig(train_split="train+val", folds=5, fold=2)
    assert data.trained_on == "train+val:without-fold-2-of-5"
    assert data.validation_split == "train+val:fold-2-of-5"
    assert DataConfig(**vars(data)) == data  # as read from a file that was written
    assert DataConfig().trained_on == "train"
    assert DataConfig(folds=2, fold=0, fold_by="image").trained_on.endswith("-by-image")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"folds": 5}, "folds and fold must be set together, such as 5 and 0; received 5 and None"),
        ({"fold": 0}, "folds and fold must be set together"),
        ({"folds": 1, "fold": 0}, "folds must be at least 2, received 1"),
        ({"folds": 5, "fold": 5}, "fold must be from 0 to 4 with 5 folds, received 5"),
        ({"fold_by": "image"}, "fold_by needs folds and fold"),
        ({"folds": 5, "fold": 0, "fold_by": "city"}, "fold_by must be one of group, image"),
        ({"folds": 5, "fold": 0, "validation_split": None}, "validation_split must be left out"),
        ({"folds": 5, "fold": 0, "validation_split": "test"}, "received 'test'"),
        ({"folds": 5, "fold": 0, "train_split": "train:fold-0-of-2"}, "must be a whole split"),
    ],
)
def test_wrong_folds_are_refused(values: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DataConfig(**values)
