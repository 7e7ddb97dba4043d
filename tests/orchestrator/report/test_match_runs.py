"""Which run stands for which trial, where a report has only the ledger to go by."""

from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import save_file

from orchestrator.report.results import Result
from orchestrator.study.load import load_study
from orchestrator.study.resolve import resolve_trials
from orchestrator.tracking import queries
from orchestrator.tracking.links import sync_links
from orchestrator.tracking.queries import take_snapshot
from orchestrator.tracking.store import TrackingStore, tracking_uri
from orchestrator.tracking.study_run import StudyRun
from pipelines.network.build import build_network
from pipelines.preparation.embedded import prepare_streets
from tests.support.fabricated_studies import FEW, PLAIN, fabricate, report_of, written

pytestmark = pytest.mark.usefixtures("own_store")

STARTS = """\
study: starts
compare_to: a
base:
  data: {dataset: DATASET, crop: [64, 64]}
  model: {backbone: dfnet1, channels: 8}
  training: {epochs: 3, precision: fp32}
variants:
  a: {set: {training: {init: DIRECTORY/one.safetensors}}}
  b: {set: {training: {init: DIRECTORY/two.safetensors}}}
"""


def starts(tmp_path: Path, dataset: Path) -> Path:
    """A study of two rows that differ in the weights they start from alone, as if trained."""
    path = written(tmp_path, dataset, STARTS.replace("DIRECTORY", str(tmp_path)))
    model = load_study(written(tmp_path, dataset, PLAIN)).trials[0].experiment.model
    for seed, name in enumerate(("one", "two")):
        network = build_network(model, 10, seed=seed)
        save_file(dict(network.state_dict()), tmp_path / f"{name}.safetensors")
    path = written(tmp_path, dataset, STARTS.replace("DIRECTORY", str(tmp_path)))
    fabricate(load_study(path), tmp_path / "storage", cities=FEW)
    return path


def results(path: Path) -> dict[str, Result]:
    return {row.variant: row.results[0] for row in report_of(path).read().rows}


def variant_of(result: Result) -> str | None:
    """The variant that the run was trained for, of a study with one seed and no grid."""
    return None if result.run is None else result.run.name


def test_rows_that_differ_in_their_weights_alone_are_told_apart(
    tmp_path: Path, small_streets: Path
) -> None:
    path = starts(tmp_path, small_streets)
    for at_hand in (True, False):
        report = report_of(path).read()
        assert [variant_of(row.results[0]) for row in report.rows] == ["a", "b"]
        difference = report.rows[1].difference
        assert difference is not None
        assert difference.mean != 0
        assert not report.notes.warnings
        if at_hand:
            for name in ("one", "two"):
                (tmp_path / f"{name}.safetensors").rename(tmp_path / f"{name}.away")


def test_weights_at_hand_count_by_their_content(tmp_path: Path, small_streets: Path) -> None:
    path = starts(tmp_path, small_streets)
    (tmp_path / "one.safetensors").rename(tmp_path / "moved.safetensors")
    moved = path.read_text().replace("one.safetensors", "moved.safetensors")
    path.write_text(moved)
    assert variant_of(results(path)["a"]) == "a"
    (tmp_path / "moved.safetensors").write_bytes((tmp_path / "two.safetensors").read_bytes())
    found = results(path)
    assert variant_of(found["a"]) == variant_of(found["b"]) == "b"
    (tmp_path / "two.safetensors").write_bytes(b"others")
    assert results(path)["b"].state == "missing"


def test_what_cannot_be_compared_is_not_taken_in_silence(
    tmp_path: Path, small_streets: Path
) -> None:
    path = starts(tmp_path, small_streets)
    path.write_text(path.read_text().replace(f"{tmp_path}/two", "/nowhere/two"))
    report = report_of(path).read()
    assert variant_of(report.rows[1].results[0]) == "b"
    (warning,) = report.notes.warnings
    assert "/nowhere/two.safetensors" in warning
    assert f"{tmp_path}/two.safetensors" in warning
    assert warning.endswith(": b.")


def test_another_study_s_cell_of_the_same_name_is_another_cell(
    tmp_path: Path, small_streets: Path
) -> None:
    path = written(tmp_path, small_streets, PLAIN)
    fabricate(load_study(path), tmp_path / "storage", cities=FEW)
    path.write_text(
        path.read_text().replace("study: plain", "study: new").replace(str(small_streets), "/none")
    )
    assert {result.state for result in results(path).values()} == {"missing"}


def test_a_link_says_whose_run_a_cell_shows(tmp_path: Path, small_streets: Path) -> None:
    """The other study reads the same data from another place, which is not here."""
    path = written(tmp_path, small_streets, PLAIN)
    trials = fabricate(load_study(path), tmp_path / "storage", cities=FEW)
    path.write_text(path.read_text().replace("study: plain", "study: new"))
    store = TrackingStore(tracking_uri(tmp_path / "storage"), tmp_path)
    study_run = StudyRun.open(store, load_study(path))
    by_name = {trial.name: trial for trial in trials}
    runs = take_snapshot(store).by_identity(trial.identity for trial in trials)
    sync_links(study_run, by_name, {n: runs[c.identity][0] for n, c in by_name.items()})
    study_run.close("FINISHED")
    path.write_text(path.read_text().replace(str(small_streets), "/none"))
    assert [variant_of(result) for result in results(path).values()] == ["a", "b"]


def test_data_that_changed_in_its_place_is_told(tmp_path: Path) -> None:
    data = tmp_path / "data"
    prepare_streets(data, train=14, val=4, size=(32, 64))
    path = written(tmp_path, data, PLAIN)
    fabricate(load_study(path), tmp_path / "storage", cities=FEW)
    data.rename(tmp_path / "old")
    prepare_streets(data, train=12, val=4, size=(32, 64))
    assert results(path)["a"].state == "missing"
    (first, *_) = fabricate(load_study(path), tmp_path / "storage", cities=FEW)
    report = report_of(path).read()
    run = report.rows[0].results[0].run
    assert run is not None
    assert run.data == first.dataset.manifest.fingerprint
    assert not report.notes.warnings
    data.rename(tmp_path / "away")
    (warning,) = report_of(path).read().notes.warnings
    assert "2 trainings" in warning


def test_report_and_command_go_by_the_same_run(tmp_path: Path, small_streets: Path) -> None:
    """Another study has trained the same again, later."""
    path = written(tmp_path, small_streets, PLAIN)
    study = load_study(path)
    fabricate(study, tmp_path / "storage", cities=FEW)
    later = replace(study, config=replace(study.config, study="later"))
    fabricate(later, tmp_path / "storage", cities=FEW)
    runs = [result.run for result in results(path).values()]
    assert [run.study for run in runs if run is not None] == ["plain", "plain"]


def test_what_another_study_trains_right_now_is_running(
    tmp_path: Path, small_streets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, small_streets, PLAIN)
    study = load_study(path)
    (first, *_) = resolve_trials(study.trials, "cpu", tmp_path)
    store = TrackingStore(tracking_uri(tmp_path / "storage"), tmp_path)
    study_run = StudyRun.open(store, replace(study, config=replace(study.config, study="other")))
    study_run.start_trial(study_run.begin_trial(first, None, None), first.code)
    unfinished = report_of(path).read().notes.unfinished
    assert unfinished == ("missing: a", "missing: b")
    # As another process sees it.
    monkeypatch.setattr(queries, "lock_holder", lambda parent: (None, 0.0))
    unfinished = report_of(path).read().notes.unfinished
    assert unfinished == ("missing: b", "training: a, in study other, epoch 0 of 3")
    study_run.close("KILLED")
