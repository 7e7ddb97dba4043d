"""The caveats of a report: failed trials, older code versions, and rows scored on other splits."""

import csv
import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from PIL import Image

from orchestrator.report.documents.report import Report
from orchestrator.report.notes.caveats import caveats
from orchestrator.report.notes.differences import difference_notes
from orchestrator.report.rows.comparisons import compare_rows
from orchestrator.report.rows.image_differences import image_list
from orchestrator.report.rows.results import Result
from orchestrator.report.statistics.bootstrap import labeled_classes, sampling_of
from orchestrator.report.statistics.resampled import ResampledCounts
from orchestrator.report.tables.class_differences import heat_map
from orchestrator.report.tables.table import main_table
from pipelines.preparation.prepare_dataset import prepare
from pipelines.preparation.readers.folder import Folder
from tests.support.fabricated_counts import counts_of, random_counts, resampled_miou
from tests.support.fabricated_studies import PLAIN, fabricate_study, report_of

pytestmark = pytest.mark.usefixtures("own_store")

STUDY = PLAIN + (
    "  split: {label: 'other_split <b>', set: {data: {validation_split: train}}}\n"
    "seeds: [0, 1, 2]\n"
)


def report(directory: Path, dataset: Path, statuses: dict[str, str]) -> Report:
    path = fabricate_study(
        directory,
        dataset,
        STUDY,
        fates=statuses,
        code=lambda trial: "older" if trial.name == "a, seed 0" else trial.code,
    )
    return report_of(path).read()


@pytest.fixture(scope="module")
def complete(
    tmp_path_factory: pytest.TempPathFactory,
    small_streets: Path,
    make_storage: Callable[[Path], Path],
) -> Report:
    """The report of a study without failures."""
    directory = tmp_path_factory.mktemp("study")
    make_storage(directory)
    return report(directory, small_streets, {})


@pytest.fixture(scope="module")
def with_failure(
    tmp_path_factory: pytest.TempPathFactory,
    small_streets: Path,
    make_storage: Callable[[Path], Path],
) -> Report:
    """The report of a study in which one of three seeds of a row has failed."""
    directory = tmp_path_factory.mktemp("study")
    make_storage(directory)
    return report(directory, small_streets, {"b, seed 1": "FAILED"})


@pytest.mark.slow
def test_notes_describe_what_is_compared(with_failure: Report) -> None:
    result = with_failure
    notes = "\n".join([*result.notes.warnings, *result.notes.footnotes])
    text = result.markdown()
    # One of three seeds has failed, so the means in the table are over other seeds.
    assert (
        "b: the difference uses seeds 0, 2, which both rows finished; it is not the difference "
        "between the two means shown." in notes
    )
    # The other row has the older code version, which also affects this row's difference.
    assert "The difference for b compares runs with different code versions or precisions" in notes
    (line,) = [line for line in text.splitlines() if line.startswith("| b |")]
    assert "]\u00a0† |" in line
    assert "Scored on images the model was trained on (trained on train, scored on train)" in notes
    assert "this is not a test score: other_split <b>." in notes
    # Markdown escapes all markup in labels.
    assert "**\\* Trained with another version of the code" in text
    assert "other\\_split \\<b\\>." in text
    assert "other_split" not in text.replace("other\\_split", "")
    lines = {line["variant"]: line for line in csv.DictReader(io.StringIO(result.csv()))}
    assert [lines[name]["split"] for name in ("a", "b", "split")] == ["val", "val", "train"]
    assert lines["b"]["protocol"] == "whole"


@pytest.mark.slow
def test_figures_use_comparable_runs_only(with_failure: Report) -> None:
    result = with_failure
    heat = heat_map(result.study, result.rows, ())
    assert heat is not None
    assert [line.label for line in heat.lines] == ["a", "b"]
    base, row = ({r.trial.experiment.seed: r for r in row.results} for row in result.rows[:2])
    differences = [
        100 * (ours.iou[0] - theirs.iou[0])
        for seed in (0, 2)
        if (ours := row[seed].counts) and (theirs := base[seed].counts)
    ]
    assert heat.lines[1].classes[0].text == f"{sum(differences) / 2:+.2f}"
    images = image_list(result.study, result.rows, ())
    assert images is not None
    assert (images.label, images.compared_to) == ("b", "a")


@pytest.mark.slow
def test_bitwise_equal_trainings_are_reported(tmp_path: Path, small_streets: Path) -> None:
    result = report(tmp_path, small_streets, {})
    assert "exactly the same" not in "\n".join(result.notes.warnings)
    runs = {r.trial.name: r.run for row in result.rows for r in row.results}
    client = MlflowClient(f"sqlite:///{tmp_path / 'storage' / 'mlflow.db'}")
    theirs, ours = runs["a, seed 1"], runs["b, seed 2"]
    assert theirs is not None
    assert ours is not None
    for metric in ("train/loss", "val/miou"):
        client.log_metric(ours.run_id, metric, theirs.metrics[metric], step=3)
        warnings = "\n".join(report_of(tmp_path / "study.yaml").read().notes.warnings)
        is_listed = "although their settings differ: a, seed 1; b, seed 2." in warnings
        assert is_listed == (metric == "val/miou")


@pytest.mark.slow
def test_warnings_of_the_data_are_reported(tmp_path: Path) -> None:
    """Both splits read one folder, and class `car` occurs in no label."""
    source = tmp_path / "source"
    rng = np.random.default_rng(0)
    for folder, shape, high in (("images", (16, 16, 3), 256), ("labels", (16, 16), 2)):
        (source / folder).mkdir(parents=True)
        pixels = rng.integers(0, high, shape, dtype=np.uint8)
        Image.fromarray(pixels).save(source / folder / "a.png")
    (source / "dataset.yaml").write_text(
        "classes: {ground: [1, 2, 3], tree: [4, 5, 6], car: [7, 8, 9]}\nsplits:\n"
        "  train: {images: images, labels: labels}\n  val: {images: images, labels: labels}\n"
    )
    prepare(Folder(source), tmp_path / "set")
    warnings = report(tmp_path, tmp_path / "set", {}).notes.warnings
    shared = [line for line in warnings if line.startswith("Data: val shares 1 image of 1 with tr")]
    assert len(shared) == 1
    assert shared[0].endswith(": a (a, b).")
    # The row `split` is scored on the training images.
    assert "Data: train: 1 of 3 classes occurs in no label: car (all rows)." in warnings
    assert "Data: val: 1 of 3 classes occurs in no label: car (a, b)." in warnings


@pytest.mark.slow
def test_single_shared_seed_is_not_tested(tmp_path: Path, small_streets: Path) -> None:
    result = report(tmp_path, small_streets, {"b, seed 1": "FAILED", "a, seed 2": "missing"})
    assert result.notes.unfinished[0].startswith("failed: b, seed 1")
    notes = "\n".join(result.notes.footnotes)
    assert 'One seed: "images ±" is half of the 95 % range under other validation images' in notes
    assert "p is" not in notes
    (column,) = [c for c in main_table(result.study, result.rows, []).columns if "to a" in c.name]
    assert column.name == "difference to a"
    assert "images\u00a0±" in column.values[1]


@pytest.mark.slow
def test_seeds_added_later_are_reported(tmp_path: Path, small_streets: Path) -> None:
    three = STUDY.replace("  split:", "  c: {set: {model: {flows: [detail]}}}\n  split:")
    path = fabricate_study(tmp_path, small_streets, three.replace("[0, 1, 2]", "[0, 1]"))
    assert "Seeds were added" not in "\n".join(report_of(path).read().notes.warnings)
    missing = {
        f"{name}, seed {seed}": "missing" for name in ("a", "b", "c", "split") for seed in (0, 1)
    }
    path = fabricate_study(tmp_path, small_streets, three, fates=missing)
    result = report_of(path).read()
    assert "Seeds were added after results were available (2 -> 3: 2)." in "\n".join(
        result.notes.warnings
    )


def without_class(result: Result) -> Result:
    """Return the result with an IoU of 0 for the fifth class."""
    assert result.counts is not None
    iou = result.counts.iou.copy()
    iou[4] = 0
    return replace(result, counts=replace(result.counts, iou=iou))


@pytest.mark.slow
def test_class_that_no_row_predicts_is_named(complete: Report) -> None:
    result = complete
    assert "IoU is 0" not in "\n".join(result.notes.warnings)
    rows = [replace(row, results=tuple(map(without_class, row.results))) for row in result.rows]
    counts = rows[0].results[0].counts
    assert counts is not None
    assert f"IoU is 0 in every row for: {counts.classes[4]}." in "\n".join(
        caveats(result.study, rows)
    )
    uncounted = replace(rows[0].results[0], counts=None)
    rows[0] = replace(rows[0], results=(uncounted, *rows[0].results[1:]))
    text = "\n".join(caveats(result.study, rows))
    assert "IoU is 0" not in text, "the missing counts may show otherwise"
    assert f"or of another score than the recorded one: {uncounted.trial.name!r}" in text


@pytest.mark.slow
def test_classes_without_labels_do_not_enter_differences(complete: Report) -> None:
    """Two rows that differ in a few pixels predicted as a class without labels do not differ."""
    counts = random_counts(0, (None,) * 9).values
    counts[:, 2] = 0
    extra = counts.copy()
    extra[0, 2, 1] = 3  # false positives
    result = complete
    resampled = [
        ResampledCounts(
            identifiers=each.identifiers,
            groups=each.groups,
            classes=each.classes,
            iou=each.iou,
            labeled=labeled_classes(each),
            image_miou=each.image_miou,
            resampled=resampled_miou([each])[0],
            sampling=sampling_of(each),
        )
        for each in (counts_of(counts, (None,) * 9), counts_of(extra, (None,) * 9))
    ]
    rows = []
    for row, each in zip(result.rows[:2], resampled, strict=True):
        iou = float(np.nanmean(each.iou))
        results = tuple(replace(r, counts=each, miou=100 * iou) for r in row.results)
        rows.append(replace(row, results=results, miou=dict.fromkeys(row.miou, 100 * iou)))
    compared = compare_rows(result.study, rows).rows
    assert compared[0].miou[0] > compared[1].miou[0] + 5
    difference = compared[1].difference
    assert difference is not None
    assert (difference.mean, difference.interval, difference.p) == (0.0, (0.0, 0.0), 1.0)
    notes = "\n".join(note for note, *_ in difference_notes(result.study, compared))
    assert "b: predictions have classes that no label has (car)." in notes


def test_one_image_is_the_reason_for_no_interval(tmp_path: Path, small_streets: Path) -> None:
    path = fabricate_study(tmp_path, small_streets, PLAIN, cities={"aachen": 1})
    footnotes = report_of(path).read().notes.footnotes
    (note,) = [note for note in footnotes if note.startswith("No intervals")]
    assert note == "No intervals: the rows are scored on one image, which cannot be resampled."
