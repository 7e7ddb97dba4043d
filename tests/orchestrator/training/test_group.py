"""The group of a trial: its reports to Tune, and the processes that it starts."""

from types import SimpleNamespace

import pytest
from ray import tune
from ray.train import ScalingConfig
from ray.train.v2._internal.callbacks import BackendSetupCallback, DatasetsCallback
from ray.train.v2.api.exceptions import ControllerError

from orchestrator.training.diagnosis import diagnose
from orchestrator.training.failures import WrongTrialError
from orchestrator.training.group import ReportToTune, TrialTrainer
from orchestrator.training.worker import RUN


def test_report_of_another_trials_worker_is_rejected(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reported: list[object] = []
    monkeypatch.setattr(tune, "report", reported.append)
    context = SimpleNamespace(run_config=SimpleNamespace(name="ours"))
    report = ReportToTune().after_report
    with pytest.raises(WrongTrialError, match="'ours' received data of 'theirs'") as caught:
        report(context, [{RUN: "ours", "epoch": 1}, {RUN: "theirs", "epoch": 1}], None)  # type: ignore[arg-type]
    assert not reported
    assert not diagnose(ControllerError(caught.value)).retryable
    report(context, [{RUN: "ours", "epoch": 1}, {RUN: "ours", "epoch": 1}], None)  # type: ignore[arg-type]
    assert reported == [{RUN: "ours", "epoch": 1}]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Ray's own
def test_no_process_serves_data_sets_of_ray() -> None:
    trainer = TrialTrainer(lambda: None, scaling_config=ScalingConfig(num_workers=2))
    kinds = {type(callback) for callback in trainer._create_default_callbacks()}
    assert BackendSetupCallback in kinds
    assert DatasetsCallback not in kinds
