"""Later evaluations of finished runs."""

import time
from pathlib import Path

import pytest

from orchestrator.study.resolved import ResolvedTrial
from orchestrator.tracking.evaluations import log_evaluation
from orchestrator.tracking.study_run import StudyRun
from tests.support.tracked_trials import finish


@pytest.mark.slow
@pytest.mark.parametrize("evaluated_before", [False, True])
def test_interrupted_evaluation_is_not_recorded(
    study_run: StudyRun,
    trial: ResolvedTrial,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    evaluated_before: bool,
) -> None:
    """Killed between its writes, also with an earlier evaluation of the same name."""
    run_id, store = finish(study_run, trial), study_run.store
    files = tmp_path / "files"
    files.mkdir()
    (files / "counts.arrow").write_text("counts")
    if evaluated_before:
        log_evaluation(store, run_id, "flip", {"miou": 0.4}, {"protocol": "old"}, files)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(store.client, "log_artifacts", killed)
        with pytest.raises(KeyboardInterrupt):
            log_evaluation(store, run_id, "flip", {"miou": 0.5}, {"protocol": "new"}, files)
    protocols = [tags.get("protocol") for tags in store.evaluations(run_id).values()]
    assert not {"old", "new"} & set(protocols)
    log_evaluation(store, run_id, "flip", {"miou": 0.5}, {"protocol": "new"}, files)
    assert store.evaluations(run_id) == {"flip": {"protocol": "new"}}
    assert store.trial_run(run_id).metrics["eval/flip/miou"] == 0.5


def test_repeated_evaluation_counts_despite_a_slow_clock(
    study_run: StudyRun, trial: ResolvedTrial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Evaluated again on a machine with a clock that is behind."""
    run_id, store = finish(study_run, trial), study_run.store
    files = tmp_path / "files"
    files.mkdir()
    now = time.time()
    for score, clock_lag in ((0.5, 0), (0.4, 3600), (0.3, 7200)):
        monkeypatch.setattr(time, "time", lambda clock_lag=clock_lag: now - clock_lag)
        log_evaluation(store, run_id, "flip", {"miou": score}, {"protocol": "a"}, files)
        assert store.trial_run(run_id).metrics["eval/flip/miou"] == score
