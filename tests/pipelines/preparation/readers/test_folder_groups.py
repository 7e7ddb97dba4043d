"""Groups of a `folder` data set, from its description to folds."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.data.dataset import PreparedDataset, open_dataset
from pipelines.data.manifest import DatasetError
from pipelines.preparation.prepare_dataset import prepare
from pipelines.preparation.readers import folder_groups
from pipelines.preparation.readers.folder import Folder
from pipelines.preparation.readers.folder_groups import shared_group_notes, with_groups
from pipelines.preparation.readers.reader import Listing, Record
from pipelines.prepare import main
from tests.support.label_sources import write_image, write_label

# Of different sizes; the number of one patient starts with that of another.
NAMES = [f"site/patient{patient}_{image}" for patient in (1, 2, 12, 20) for image in range(patient)]


def source(root: Path, group: str | None, names: Sequence[str] = NAMES) -> Folder:
    """A source with the samples `names` in split `train`, and one sample in `val`."""
    for split, samples in (("train", names), ("val", names[:1])):
        for name in samples:
            if not (root / split / f"{name}.png").exists():
                write_image(root / split / f"{name}.png")
                write_label(root / f"{split}-labels" / f"{name}.png", [0, 1])
    text = "classes: {ground: [110, 80, 60], tree: [40, 120, 40]}\nsplits:\n"
    text += "".join(
        f"  {split}: {{images: {split}, labels: {split}-labels}}\n" for split in ("train", "val")
    )
    if group is not None:
        text += f"group: {group}\n"
    (root / "dataset.yaml").write_text(text)
    return Folder(root)


def prepared(tmp_path: Path, group: str | None, name: str) -> PreparedDataset:
    prepare(source(tmp_path / "source", group), tmp_path / name)
    return open_dataset(tmp_path / name)


def test_samples_of_a_group_are_in_one_fold(tmp_path: Path) -> None:
    dataset = prepared(tmp_path, r"'.*/(patient\d+)_.*'", "set")
    patients = dict(zip(NAMES, (name[5:].partition("_")[0] for name in NAMES), strict=True))
    train = dataset.split("train")
    assert dict(zip(train.identifiers, train.groups, strict=True)) == patients
    held_out = [set(dataset.split(f"train:fold-{index}-of-3").groups) for index in range(3)]
    rest = [set(dataset.split(f"train:without-fold-{index}-of-3").groups) for index in range(3)]
    assert not any(fold & others for fold, others in zip(held_out, rest, strict=True))
    assert sorted(map(len, held_out)) == [1, 1, 2]


def test_other_groups_are_another_data_set(tmp_path: Path) -> None:
    by_patient = prepared(tmp_path, r"'.*/(patient\d+)_.*'", "patients")
    with pytest.raises(DatasetError, match="prepared from another source or with other options"):
        prepared(tmp_path, "site", "patients")
    by_site = prepared(tmp_path, "site", "sites")
    same = prepared(tmp_path, r"'site/(?:x|(patient\d+))'", "same")
    without = prepared(tmp_path, None, "without")
    assert set(by_site.split("train").groups) == {"site"}
    assert set(without.split("train").groups) == {None}
    assert same.manifest.fingerprint == by_patient.manifest.fingerprint
    sets = by_patient, by_site, without
    assert len({dataset.manifest.fingerprint for dataset in sets}) == 3


def test_prepare_prints_the_number_of_groups(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source(tmp_path / "source", r".*/patient\d+")
    arguments = ["folder", "--source", str(tmp_path / "source"), "--workers", "1"]
    assert main([*arguments, "--destination", str(tmp_path / "set")]) == 0
    printed = capsys.readouterr().out
    assert "train: 35 images in 4 groups, 2 of 2 classes occur in labels" in printed
    assert "val: 1 image in 1 group, 2 of 2 classes" in printed
    assert "val shares 1 of 1 group with train, so scores on one of them do not meas" in printed


def test_groups_that_splits_share_are_named() -> None:
    groups = {"train": "abcdefgh", "val": "ijabbcdefg", "test": "kj"}
    records = [
        Record(f"{number}", split, Path("a.png"), None, group=group)
        for split, letters in groups.items()
        for number, group in enumerate(letters)
    ]
    of_train, of_val = shared_group_notes(records)
    assert of_train.startswith("val shares 7 of 9 groups with train, so scores on one of them")
    assert of_train.endswith(": a, b, c, d, e and 2 more")
    assert of_val.startswith("test shares 1 of 2 groups with val")
    assert shared_group_notes([replace(each, group=None) for each in records]) == []


@pytest.mark.parametrize(
    ("group", "message"),
    [
        ("3", r"group must be a regular expression in quotes, such as .*, received 3; leave it"),
        ("", r"group must be a regular expression in quotes, such as .*, received None"),
        (r"'(patient\d+'", r"group must be .* received `\(patient\\d\+`, which is invalid \(miss"),
        ("a{99999999999999999999}", r"received `a\{9+\}`, which is invalid \(the repetition"),
        (
            r"'(site)/(patient\d+)'",
            r"at most one capturing group, received `.*` with 2; write the others as \(\?:\.\.\.\)",
        ),
        (
            r"'patient(\d+)'",
            r"train: group `patient\(\\d\+\)` finds no group in the names of 35 of 35 samples, "
            r"first 'site/patient12_0'; change it",
        ),
        (r"'site/patient(?:1|(\d+))_'", r"in the names of 1 of 35 samples, first '.*nt1_0'"),
        (r"'site/patient1(\d*)_'", r"in the names of 23 of 35 samples, first '.*nt1_0'"),
    ],
)
def test_unusable_groups_are_reported(tmp_path: Path, group: str, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        prepare(source(tmp_path / "source", group), tmp_path / "set")


def test_samples_without_a_group_can_be_skipped(tmp_path: Path) -> None:
    reader = source(tmp_path / "source", r"'.*/(patient\d+)'", [*NAMES, "other/9"])
    manifest = prepare(reader, tmp_path / "set", skip_invalid=True)
    assert manifest.counts == {"train": len(NAMES), "val": 1}
    (skipped,) = manifest.skipped
    assert skipped.startswith("train: group `.*/(patient")
    assert "1 of 36 samples, first 'other/9'" in skipped


@given(
    st.lists(
        st.tuples(st.text(min_size=1), st.booleans(), st.integers(0, 9)), min_size=1, unique=True
    )
)
def test_group_is_what_the_expression_captures(drawn: list[tuple[str, bool, int]]) -> None:
    """Names are built from groups of any text without the separator; only some have a number."""
    names = [
        (group.replace("@", "a").replace("\n", "b"), f"@{number}" if matches else "")
        for group, matches, number in drawn
    ]
    records = [Record(group + end, "train", Path("a.png"), None) for group, end in names]
    grouped = with_groups(Listing(records, ["a problem"], ["a note"]), "train", r"(.*)@\d")
    assert [(record.identifier, record.group) for record in grouped.records] == [
        (group + end, group) for group, end in names if end
    ]
    missing = sum(not end for _, end in names)
    assert grouped.problems[:1] == ["a problem"]
    assert len(grouped.problems) == 1 + bool(missing)
    assert all(f"{missing} of {len(names)} samples" in each for each in grouped.problems[1:])
    found = {record.group for record in grouped.records}
    suspicious = len(grouped.records) > 2 and len(found) in (1, len(grouped.records))
    assert grouped.notes[:1] == ["a note"]
    assert len(grouped.notes) == 1 + suspicious


@pytest.mark.parametrize(
    ("group", "note"),
    [
        ("site", "train: with group `site`, all samples are in one group, first 'site'; check"),
        (".*", "train: with group `.*`, each sample is a group, first 'site/patient"),
        (r".*/patient\d+", None),
    ],
)
def test_expressions_that_group_all_or_nothing_are_noted(
    group: str, note: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source(tmp_path / "source", group)
    arguments = ["folder", "--source", str(tmp_path / "source"), "--workers", "1"]
    assert main([*arguments, "--destination", str(tmp_path / "set")]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert ("check it if that is not" in printed) == (note is not None)
    assert note is None or note in printed


def test_expression_that_does_not_end_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_groups, "_MATCH_SECONDS", 0.1)
    before = signal.getsignal(signal.SIGVTALRM)
    reader = source(tmp_path, r"'(\w+\d*)+x'", ["a" * 40])
    message = r"dataset\.yaml: group `.*` does not end on the name 'aaa.*' within 0\.1 s; write it"
    with pytest.raises(DatasetError, match=message):
        prepare(reader, tmp_path / "out")
    assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0, 0)
    assert signal.getsignal(signal.SIGVTALRM) == before
