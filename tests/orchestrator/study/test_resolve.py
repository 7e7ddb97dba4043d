"""The precision of a trial follows the devices that it may get."""

from pathlib import Path

import pytest

from orchestrator.study.load import load_study
from orchestrator.study.resolve import resolve_trials
from pipelines.network.precision import PrecisionError

STUDY = """
study: precision
base:
  data: {dataset: DATASET, crop: [32, 48]}
  model: {backbone: dfnet1, channels: 8}
variants: {a: {}}
"""


@pytest.mark.parametrize("native", [True, False])
def test_precision_follows_the_gpus_of_the_trials(
    small_streets: Path, tmp_path: Path, native: bool
) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(STUDY.replace("DATASET", str(small_streets)))
    (trial,) = resolve_trials(load_study(path).trials, "cuda", tmp_path, native_bfloat16=native)
    assert trial.experiment.training.precision == ("bf16" if native else "fp32")
    path.write_text(path.read_text() + "grid: {training.precision: [bf16]}\n")
    trials = load_study(path).trials
    if native:
        assert len(resolve_trials(trials, "cuda", tmp_path, native_bfloat16=True)) == 1
        return
    with pytest.raises(PrecisionError, match=r"^a.*: training\.precision is bf16, but GPUs below"):
        resolve_trials(trials, "cuda", tmp_path, native_bfloat16=False)
