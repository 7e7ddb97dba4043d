"""A study with metrics of the user's own, from the study file to the table."""

import csv
import os
from pathlib import Path

import pytest

from pipelines.evaluation.statistics_file import read_statistics
from tests.support.own_metric import WRONG
from tests.support.sweep_command import runs, sweep

ROOT = Path(__file__).parents[2]
OWN = f"""{WRONG}
class Confidence(Metric):
    def statistics(self, prediction, labels, probabilities):
        confidence = probabilities.amax(dim=0)[labels != 255].double()
        return torch.stack([confidence.sum(), (labels != 255).sum().double()])

    def score(self, sums):
        return sums[..., 0] / sums[..., 1]
"""
STUDY = """\
study: tiny
compare_to: none
base:
  data: {dataset: DATASET, crop: [32, 48]}
  model: {backbone: dfnet1, channels: 8}
  training: {epochs: 1, batch: 6}
  evaluation: {metrics: [{name: "own_sweep_metrics:Wrong", arguments: {factor: 0.5}, key: half}]}
variants:
  none: {set: {model: {flows: []}}}
  full: {}
protocols: {whole: {metrics: ["own_sweep_metrics:Confidence"]}}
report: {protocol: whole, columns: [miou, half, difference/half, Confidence, pixel_accuracy]}
resources: {workers: 1, cpus_per_worker: 0.5}
"""


@pytest.mark.slow
def test_own_metrics_of_training_and_protocol_reach_the_table(
    tmp_path: Path, small_streets: Path, own_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_sweep_metrics.py").write_text(OWN)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(tmp_path), str(ROOT))))
    study = tmp_path / "study.yaml"
    study.write_text(STUDY.replace("DATASET", str(small_streets)))
    result = sweep(study)
    assert result.returncode == 0, result.stdout + result.stderr
    (parent,), trials, client = runs(study)
    table = Path(client.download_artifacts(parent.info.run_id, "report/table.csv")).read_text()
    lines = {line["variant"]: line for line in csv.DictReader(table.splitlines())}
    for name, run in trials.items():
        metrics = run.data.metrics
        # Both are functions of the same pixels.
        assert metrics["val/half"] == pytest.approx((1 - metrics["val/pixel_accuracy"]) / 2)
        assert metrics["eval/whole/half"] == pytest.approx(metrics["val/half"])
        assert 0.1 < metrics["eval/whole/Confidence"] <= 1
        assert "val/Confidence" not in metrics
        assert float(lines[name]["half_mean"]) == pytest.approx(100 * metrics["val/half"])
        expected = 100 * metrics["eval/whole/Confidence"]
        assert float(lines[name]["Confidence_mean"]) == pytest.approx(expected)
        folder = Path(client.download_artifacts(run.info.run_id, ""))
        for file, keys in (
            ("statistics.arrow", ["half"]),
            ("eval/whole/statistics.arrow", ["half", "Confidence"]),
        ):
            statistics = read_statistics(folder / file)
            assert list(statistics.values) == keys
            wrong, pixels = statistics.values["half"].sum(axis=0)
            assert wrong / pixels == pytest.approx(metrics["val/half"])
    expected = float(lines["full"]["half_mean"]) - float(lines["none"]["half_mean"])
    assert float(lines["full"]["difference/half"]) == pytest.approx(expected, abs=1e-6)
