"""Training a trial of a bundle again."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch

from orchestrator.bundle.__main__ import main
from orchestrator.bundle.content import Bundle, BundleError
from orchestrator.bundle.replay import replay
from orchestrator.study.mirrors import MirrorOptions
from orchestrator.study.notifications import NotifyOptions
from orchestrator.study.study import Study
from orchestrator.tracking.store import TrackingStore
from pipelines.evaluation.counts import ImageCounts, write_counts
from pipelines.network.file_names import WEIGHTS_FILE
from pipelines.preparation.embedded import prepare_streets
from tests.support.fabricated_studies import PLAIN, fabricate, fabricate_study
from tests.support.finished_run import FinishedRun, make_finished_run


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
    document["histories"][run_id]["val/miou"].append([4, 0.5])
    document["runs"]["b, seed 2"]["workers"] = "2+1"  # resumed with one
    document["runs"]["b, seed 1"]["status"] = "FAILED"
    (bundle / "bundle.json").write_text(json.dumps(document))
    other = document["runs"]["a, seed 0"]["run_id"]
    counts = bundle / "counts"
    shutil.copy(counts / other / "counts.arrow", counts / run_id / "counts.arrow")
    result = replay(bundle, "b, seed 2", tmp_path / "more", None, train)
    assert result.same == ()
    assert result.problems == (
        "train/loss, from epoch 2 on",
        "val/miou, of 3 epochs instead of 4",
        "the counts by image and class",
    )
    assert result.notes == ("workers is 1 here and 2+1 in bundle.json",)
    with pytest.raises(BundleError, match="no trial 'b, seed 9' has a run"):
        replay(bundle, "b, seed 9", tmp_path / "third", None, train)
    with pytest.raises(BundleError, match="trial 'b, seed 1' is not finished in the bundle"):
        replay(bundle, "b, seed 1", tmp_path / "third", None, train)


def test_replay_of_a_study_with_latency_and_a_precision_axis(
    small_streets: Path,
    tmp_path: Path,
    own_store: Path,
    empty_store: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It notifies nobody, starts no program of the bundle and writes no mirror."""
    text = f"{PLAIN}grid: {{training.precision: [fp32, bf16]}}\nlatency: {{size: [64, 64]}}\n"
    text += "report: {columns: [miou, latency_ms, inference_memory_gib]}\n"
    text += "notify: {url: 'https://127.0.0.1:9/hook', command: [touch, notified]}\n"
    text += f"mirror: {{tensorboard: '{tmp_path}/board'}}\n"
    file = fabricate_study(tmp_path, small_streets, text)
    out = tmp_path / "bundle"
    main([str(file), "--storage", str(own_store), "--out", str(out)])
    assert "contains the webhook address of notify.url" in capsys.readouterr().out

    def train(study: Study, storage: Path) -> bool:
        assert study.config.latency is None
        assert (study.config.notify, study.config.mirror) == (NotifyOptions(), MirrorOptions())
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


def finish_run(storage: Path, dataset: Path, empty_store: Path) -> FinishedRun:
    """Record a run with checkpoints, the same in every storage."""
    storage.mkdir()
    shutil.copy(empty_store, storage)
    run = make_finished_run(storage, dataset)
    counts = ImageCounts(torch.arange(1), torch.ones(1, 10, 3, dtype=torch.int64))
    write_counts(storage / "counts.arrow", counts, ["x"], list("abcdefghij"), [None])
    TrackingStore(run.uri, None).log_artifact(run.run_id, storage / "counts.arrow")
    return run


@pytest.mark.slow
def test_replay_compares_the_weights_of_the_last_checkpoint(
    small_streets: Path, tmp_path: Path, empty_store: Path
) -> None:
    run = finish_run(tmp_path / "storage", small_streets, empty_store)
    arguments = [str(run.storage / "study.yaml"), "--storage", str(run.storage), "--out"]
    out = tmp_path / "bundle"
    assert main([*arguments, str(out)]) == 0
    assert main([*arguments, str(tmp_path / "whole"), "--weights"]) == 0
    last = (run.directory / WEIGHTS_FILE).read_bytes()
    written = tmp_path / "whole" / "weights" / run.run_id / WEIGHTS_FILE
    assert written.read_bytes() == last
    assert not (out / "weights").exists()
    digest = hashlib.sha256(last).hexdigest()
    assert Bundle.read(out).weights == {run.run_id: digest}

    def train(study: Study, storage: Path) -> bool:
        finish_run(storage, small_streets, empty_store)
        return True

    result = replay(out, "full", tmp_path / "again", None, train)
    assert result.same[0] == "the weights of the last checkpoint"
    assert result.problems == ()
    text = (out / "bundle.json").read_text()
    (out / "bundle.json").write_text(text.replace(digest, "0" * 64))
    result = replay(out, "full", tmp_path / "again", None, lambda *_: True)
    assert result.problems == ("the weights of the last checkpoint",)
