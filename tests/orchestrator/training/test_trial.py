"""What a trial's workers report to Tune."""

from types import SimpleNamespace

import pytest
from ray import tune
from ray.train.v2.api.exceptions import ControllerError

from orchestrator.training.diagnosis import diagnose
from orchestrator.training.failures import WrongTrialError
from orchestrator.training.trial import ReportToTune
from orchestrator.training.worker import RUN


def test_a_report_of_another_trials_worker_is_not_handed_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    handed: list[object] = []
    monkeypatch.setattr(tune, "report", handed.append)
    ours = SimpleNamespace(run_config=SimpleNamespace(name="ours"))
    report = ReportToTune().after_report
    with pytest.raises(WrongTrialError, match="'ours' received data of 'theirs'") as caught:
        report(ours, [{RUN: "ours", "epoch": 1}, {RUN: "theirs", "epoch": 1}], None)  # type: ignore[arg-type]
    assert not handed
    assert not diagnose(ControllerError(caught.value)).retryable
    report(ours, [{RUN: "ours", "epoch": 1}, {RUN: "ours", "epoch": 1}], None)  # type: ignore[arg-type]
    assert handed == [{RUN: "ours", "epoch": 1}]
