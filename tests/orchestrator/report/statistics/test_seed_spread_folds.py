"""The report of a study with folds, against its runs in the tracking store and closed forms."""

import csv
import io
import statistics
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from mlflow.tracking import MlflowClient

from orchestrator.report.documents.report import Report
from orchestrator.report.rows.image_differences import image_list
from orchestrator.report.study_report import StudyReport
from orchestrator.report.tables.class_differences import heat_map
from orchestrator.study.load import load_study
from orchestrator.tracking.open_store import tracking_uri
from orchestrator.tracking.store import TrackingStore
from tests.support.fabricated_studies import PLAIN, fabricate_study, report_of

SEEDS, FOLDS = (0, 1), 3
MISSING = "b, seed 1, fold 2"


@pytest.fixture(scope="module")
def study(
    tmp_path_factory: pytest.TempPathFactory,
    small_streets: Path,
    make_storage: Callable[[Path], Path],
) -> Path:
    """Return the file of a study without one of its 12 trials; its storage is next to it."""
    directory = tmp_path_factory.mktemp("folds")
    make_storage(directory)
    text = f"{PLAIN}seeds: {list(SEEDS)}\nfolds: {FOLDS}\n"
    return fabricate_study(directory, small_streets, text, fates={MISSING: "missing"})


@pytest.fixture(scope="module")
def report(study: Path) -> Report:
    return report_of(study).read()


def test_runs_have_their_fold(study: Path) -> None:
    client = MlflowClient(tracking_uri(study.parent / "storage"))
    experiment = client.get_experiment_by_name("plain")
    assert experiment is not None
    runs = client.search_runs(
        [experiment.experiment_id], "tags.`orchestrator.fold` = '1' and params.`data.fold` = '1'"
    )
    assert {run.info.run_name for run in runs} == {
        f"{variant}, dfnet1, streets, seed {seed}, fold 1" for variant in "ab" for seed in SEEDS
    }
    split = runs[0].data.params["data.validation_split"]
    assert split == "train:fold-1-of-3"
    (inputs,) = runs[0].inputs.dataset_inputs
    assert inputs.tags[0].value == "train:without-fold-1-of-3, train:fold-1-of-3"


def test_scores_are_means_over_seeds_and_folds(report: Report) -> None:
    lines = list(csv.DictReader(io.StringIO(report.csv())))
    for line, row, count in zip(lines, report.rows, (6, 5), strict=True):
        values = [result.miou for result in row.results if result.miou is not None]
        assert (int(line["n"]), len(values)) == (count, count)
        assert float(line["miou_mean"]) == pytest.approx(statistics.fmean(values))
        assert float(line["miou_sd"]) == pytest.approx(statistics.stdev(values))
        assert float(line["miou_seed_1_fold_1"]) == row.miou[1, 1]
        assert (line["seeds_requested"], line["folds_requested"]) == ("2", "3")
        assert line["split"] == "train (the held-out one of 3 folds)"
    assert lines[1]["miou_seed_1_fold_2"] == ""
    assert report.notes.unfinished == (f"missing: {MISSING}",)


def test_differences_are_paired_by_seed_and_fold(report: Report) -> None:
    base, row = report.rows
    difference = row.difference
    assert difference is not None
    assert list(difference.by_seed) == [
        (seed, fold) for seed in SEEDS for fold in range(FOLDS) if (seed, fold) != (1, 2)
    ]
    paired = {key: row.miou[key] - base.miou[key] for key in difference.by_seed}
    assert difference.by_seed == pytest.approx(paired)
    means = [
        statistics.fmean(value for (_, own), value in paired.items() if own == fold)
        for fold in range(FOLDS)
    ]
    # Nadeau and Bengio (2003), on the means over seeds of each fold.
    error = statistics.stdev(means) * np.sqrt(1 / FOLDS + 1 / (FOLDS - 1))
    reach = 4.302653 * error  # Student's t with 2 degrees of freedom
    assert difference.interval == pytest.approx(
        (difference.mean - reach, difference.mean + reach), abs=1e-5
    )
    assert difference.spread == pytest.approx(statistics.stdev(means))
    assert difference.p is not None


def test_notes_say_what_folds_mean(report: Report) -> None:
    notes = "\n".join(report.notes.footnotes)
    assert "mIoU is that of the last checkpoint on split train (the held-out one of 3" in notes
    assert "one for each fold of each seed (3 folds x 2 seeds planned)" in notes
    assert "1/J + 1/2 instead of 1/J (Nadeau and Bengio, 2003)" in notes
    assert "over folds instead of a pooled one" in notes
    assert "uses seeds 0 (folds 0, 1, 2), 1 (folds 0, 1)" in notes
    assert not [line for line in report.notes.warnings if "trained on" in line or "seeds" in line]
    assert "standard deviation over 3 folds of 2 seeds" in report.latex()


def test_images_are_those_of_all_folds(report: Report) -> None:
    """Each image is scored once per seed; its score is the mean over seeds."""
    study, rows = report.study, report.rows
    images = image_list(study, rows, ())
    assert images is not None
    lines = {line.identifier: line for line in (*images.best, *images.worst)}
    assert len({name.split("_")[1] for name in lines}) > 1
    row = rows[1]
    for name, line in lines.items():
        counts = [result.counts for result in row.finished if result.counts is not None]
        values = [
            each.image_miou[each.identifiers.index(name)]
            for each in counts
            if name in each.identifiers
        ]
        assert len(values) == (1 if "_2_" in name else 2)
        assert line.miou == pytest.approx(100 * np.mean(values))
    heat = heat_map(study, rows, ())
    assert heat is not None
    (cell, *_) = heat.lines[1].classes
    assert len(cell.seeds) == FOLDS
    assert cell.mean is not None
    assert cell.mean == pytest.approx(statistics.fmean(cell.seeds))


def test_part_of_a_study_shows_whole_rows(study: Path) -> None:

    part = load_study(study, only=["*fold 0"])
    assert len(part.trials) == 4
    store = TrackingStore(tracking_uri(study.parent / "storage"), None)
    assert [len(row.miou) for row in StudyReport(part, store).read().rows] == [6, 5]
