"""Training a trial of a bundle again."""

import json
import shutil
from pathlib import Path

import pytest

from orchestrator.bundle.__main__ import main
from orchestrator.bundle.content import BundleError
from orchestrator.bundle.replay import replay
from orchestrator.study.study import Study
from pipelines.preparation.embedded import prepare_streets
from tests.support.fabricated_studies import PLAIN, fabricate, fabricate_study


def test_replay_needs_a_directory(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(bundle), "--replay", "b, seed 2", "--storage", "s3://b/x"]) == 2
    assert "--storage s3://b/x cannot hold the replay's own" in capsys.readouterr().out


def test_replay_compares_bit_for_bit(
    bundle: Path, tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fabricated trials are the same in every storage."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # not used

    def train(study: Study, storage: Path) -> bool:
        assert [trial.name for trial in study.trials] == ["b, seed 2"]
        assert study.config.resources.most_workers == 1
        storage.mkdir()
        shutil.copy(empty_store, storage)
        fabricate(study, storage)
        return True

    result = replay(bundle, "b, seed 2", tmp_path / "again", None, train)
    assert result.problems == ()
    assert result.notes == ()
    assert result.same == (
        *("train/loss of 3 epochs", "val/miou of 3 epochs", "the counts by image and class"),
    )
    document = json.loads((bundle / "bundle.json").read_text())
    run_id = document["runs"]["b, seed 2"]["run_id"]
    document["histories"][run_id]["train/loss"][1][1] += 1e-12
    (bundle / "bundle.json").write_text(json.dumps(document))
    result = replay(bundle, "b, seed 2", tmp_path / "more", None, train)
    assert result.problems == ("train/loss, from epoch 2 on",)
    with pytest.raises(BundleError, match="no trial 'b, seed 9' has a run"):
        replay(bundle, "b, seed 9", tmp_path / "third", None, train)


def test_replay_of_a_study_with_latency_and_a_precision_axis(
    small_streets: Path, tmp_path: Path, own_store: Path, empty_store: Path
) -> None:
    text = f"{PLAIN}grid: {{training.precision: [fp32, bf16]}}\nlatency: {{size: [64, 64]}}\n"
    text += "report: {columns: [miou, latency_ms, inference_memory_gib]}\n"
    file = fabricate_study(tmp_path, small_streets, text)
    out = tmp_path / "bundle"
    main([str(file), "--storage", str(own_store), "--out", str(out)])

    def train(study: Study, storage: Path) -> bool:
        assert study.config.latency is None
        assert [trial.experiment.training.precision for trial in study.trials] == ["bf16"]
        storage.mkdir()
        shutil.copy(empty_store, storage)
        fabricate(study, storage)
        return True

    result = replay(out, "b, bf16", tmp_path / "again", None, train)
    assert (result.problems, result.notes) == ((), ())


def test_replay_is_no_comparison_of_a_run_with_itself(
    bundle: Path, small_streets: Path, tmp_path: Path, own_store: Path
) -> None:
    file = fabricate_study(tmp_path, small_streets, PLAIN)
    out = tmp_path / "bundle"
    assert main([str(file), "--storage", str(own_store), "--out", str(out)]) == 0

    def train(study: Study, storage: Path) -> bool:
        raise AssertionError("nothing is trained")

    with pytest.raises(BundleError, match="holds the runs of the bundle"):
        replay(out, "a", own_store, None, train)
    other = tmp_path / "other"
    prepare_streets(other, train=3, val=2, size=(32, 64))
    with pytest.raises(BundleError, match=r"has the fingerprint .* with --dataset"):
        replay(out, "a", tmp_path / "new", str(other), train)
