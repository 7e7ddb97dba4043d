"""How a report matches runs to trials by the tracking store alone."""

from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
from safetensors.torch import save_file

from models.backbones import build_backbone
from orchestrator.report.rows.results import Result
from orchestrator.study.load import load_study
from orchestrator.study.resolve import resolve_trials
from orchestrator.tracking.claims import Owner
from orchestrator.tracking.links import sync_links
from orchestrator.tracking.open_store import tracking_uri
from orchestrator.tracking.queries import read_snapshot
from orchestrator.tracking.store import TrackingStore
from orchestrator.tracking.study_run import StudyRun
from pipelines.network.build import build_network
from pipelines.network.published_weights import PUBLISHED_WEIGHTS
from pipelines.preparation.embedded import prepare_streets
from tests.support.fabricated_studies import (
    PLAIN,
    fabricate,
    fabricate_study,
    report_of,
    write_study,
)
from tests.support.published_package import install_package

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


def write_starts_study(tmp_path: Path, dataset: Path) -> Path:
    """Write a study whose two rows differ only in their initial weights, with fabricated runs."""
    model = load_study(write_study(tmp_path, dataset, PLAIN)).trials[0].experiment.model
    for seed, name in enumerate(("one", "two")):
        network = build_network(model, 10, seed=seed)
        save_file(dict(network.state_dict()), tmp_path / f"{name}.safetensors")
    return fabricate_study(tmp_path, dataset, STARTS.replace("DIRECTORY", str(tmp_path)))


def results(path: Path) -> dict[str, Result]:
    return {row.variant: row.results[0] for row in report_of(path).read().rows}


def variant_of(result: Result) -> str | None:
    """Return the variant of the run, for a study with one seed and no grid."""
    return None if result.run is None else result.run.name


@pytest.mark.slow
def test_rows_that_differ_only_in_their_weights_are_distinguished(
    tmp_path: Path, small_streets: Path
) -> None:
    path = write_starts_study(tmp_path, small_streets)
    for weights_present in (True, False):
        report = report_of(path).read()
        assert [variant_of(row.results[0]) for row in report.rows] == ["a", "b"]
        difference = report.rows[1].difference
        assert difference is not None
        assert difference.mean != 0
        assert not report.notes.warnings
        if weights_present:
            for name in ("one", "two"):
                (tmp_path / f"{name}.safetensors").rename(tmp_path / f"{name}.away")


@pytest.mark.slow
def test_available_weights_are_matched_by_content(tmp_path: Path, small_streets: Path) -> None:
    path = write_starts_study(tmp_path, small_streets)
    (tmp_path / "one.safetensors").rename(tmp_path / "moved.safetensors")
    text = path.read_text().replace("one.safetensors", "moved.safetensors")
    path.write_text(text)
    assert variant_of(results(path)["a"]) == "a"
    (tmp_path / "moved.safetensors").write_bytes((tmp_path / "two.safetensors").read_bytes())
    result_of = results(path)
    assert variant_of(result_of["a"]) == variant_of(result_of["b"]) == "b"
    (tmp_path / "two.safetensors").write_bytes(b"others")
    assert results(path)["b"].state == "missing"


@pytest.mark.slow
def test_published_weights_are_matched_by_content(
    tmp_path: Path, small_streets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "efficientnet-lite0"
    state = build_backbone(name, None, dilation=False).state_dict()
    file = install_package(
        PUBLISHED_WEIGHTS[name], tmp_path / "site", safetensors.torch.save(state), monkeypatch
    )
    text = PLAIN.replace("backbone: dfnet1", f"backbone: {name}").replace(
        "training: {", f"training: {{backbone_weights: {name}, "
    )
    path = write_study(tmp_path, small_streets, text)
    (trial, *_) = fabricate(load_study(path), tmp_path / "storage")
    assert trial.experiment.training.backbone_weights == name
    assert {variant: variant_of(result) for variant, result in results(path).items()} == {
        "a": "a",
        "b": "b",
    }
    file.write_bytes(b"others")
    assert {result.state for result in results(path).values()} == {"missing"}


@pytest.mark.slow
def test_unverifiable_weights_cause_a_warning(tmp_path: Path, small_streets: Path) -> None:
    path = write_starts_study(tmp_path, small_streets)
    path.write_text(path.read_text().replace(f"{tmp_path}/two", "/nowhere/two"))
    report = report_of(path).read()
    assert variant_of(report.rows[1].results[0]) == "b"
    (warning,) = report.notes.warnings
    assert "/nowhere/two.safetensors" in warning
    assert f"{tmp_path}/two.safetensors" in warning
    assert warning.endswith(": b.")


def test_cells_with_the_same_name_in_another_study_do_not_match(
    tmp_path: Path, small_streets: Path
) -> None:
    path = fabricate_study(tmp_path, small_streets, PLAIN)
    path.write_text(
        path.read_text().replace("study: plain", "study: new").replace(str(small_streets), "/none")
    )
    assert {result.state for result in results(path).values()} == {"missing"}


def test_link_determines_the_run_of_a_cell(tmp_path: Path, small_streets: Path) -> None:
    """The other study reads the same data from another path, which does not exist here."""
    path = write_study(tmp_path, small_streets, PLAIN)
    trials = fabricate(load_study(path), tmp_path / "storage")
    path.write_text(path.read_text().replace("study: plain", "study: new"))
    store = TrackingStore(tracking_uri(tmp_path / "storage"), tmp_path)
    study_run = StudyRun.open(store, load_study(path))
    by_name = {trial.name: trial for trial in trials}
    runs = read_snapshot(store).by_identity(trial.identity for trial in trials)
    sync_links(study_run, by_name, {n: runs[c.identity][0] for n, c in by_name.items()})
    study_run.close("FINISHED")
    path.write_text(path.read_text().replace(str(small_streets), "/none"))
    assert [variant_of(result) for result in results(path).values()] == ["a", "b"]


@pytest.mark.slow
def test_data_changed_at_the_same_path_causes_a_warning(tmp_path: Path) -> None:
    data = tmp_path / "data"
    prepare_streets(data, train=14, val=4, size=(32, 64))
    path = fabricate_study(tmp_path, data, PLAIN)
    data.rename(tmp_path / "old")
    prepare_streets(data, train=12, val=4, size=(32, 64))
    assert results(path)["a"].state == "missing"
    (first, *_) = fabricate(load_study(path), tmp_path / "storage")
    report = report_of(path).read()
    run = report.rows[0].results[0].run
    assert run is not None
    assert run.data == first.dataset.manifest.fingerprint
    assert not report.notes.warnings
    data.rename(tmp_path / "away")
    (warning,) = report_of(path).read().notes.warnings
    assert "2 training runs" in warning


@pytest.mark.slow
def test_report_prefers_the_runs_of_its_own_study(tmp_path: Path, small_streets: Path) -> None:
    """Another study trains the same trials later."""
    path = write_study(tmp_path, small_streets, PLAIN)
    study = load_study(path)
    fabricate(study, tmp_path / "storage")
    later = replace(study, config=replace(study.config, study="later"))
    fabricate(later, tmp_path / "storage")
    runs = [result.run for result in results(path).values()]
    assert [run.study for run in runs if run is not None] == ["plain", "plain"]


def test_trial_being_trained_by_another_study_is_listed_as_training(
    tmp_path: Path, small_streets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_study(tmp_path, small_streets, PLAIN)
    study = load_study(path)
    (first, *_) = resolve_trials(study.trials, "cpu", tmp_path)
    store = TrackingStore(tracking_uri(tmp_path / "storage"), tmp_path)
    study_run = StudyRun.open(store, replace(study, config=replace(study.config, study="other")))
    study_run.start_trial(study_run.begin_trial(first, None, None), first.code)
    unfinished = report_of(path).read().notes.unfinished
    assert unfinished == ("missing: a", "missing: b")
    # From the view of another process.
    other = Owner("another-host", 1, 1)
    monkeypatch.setattr(Owner, "this_process", lambda: other)
    unfinished = report_of(path).read().notes.unfinished
    assert unfinished == ("missing: b", "training: a, in study other, epoch 0 of 3")
    study_run.close("KILLED")
