"""When trials that `--only` leaves out are resolved for the names of their runs."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.study.load import load_study
from orchestrator.study.study import Study
from orchestrator.sweep.left_out import misnamed_trials
from orchestrator.tracking.runs import TrialRun
from pipelines.errors import UserError

STUDY: dict[str, Any] = {
    "study": "edited",
    "base": {"data": {"dataset": "data/here"}},
    "variants": {
        "a": {},
        "b": {"set": {"model": {"flows": []}}},
        "far": {"set": {"data": {"dataset": "s3://elsewhere/data"}}},
        "tuned": {"set": {"training": {"init": "weights.pt"}}},
    },
}


def run_of(name: str, identity: str, **values: Any) -> TrialRun:
    values = {"study": "edited", **values}
    return TrialRun("id", values.pop("study"), identity, "FINISHED", "c", 1, {}, name, **values)


class Resolved:
    """Resolves trials, and remembers which."""

    def __init__(self, fails: bool = False) -> None:
        self.fails = fails
        self.names: list[str] = []

    def __call__(self, study: Study) -> list[Any]:
        self.names += [trial.name for trial in study.trials]
        if self.fails:
            raise UserError("the data set is not here")
        return list(study.trials)


def misnamed(runs: Sequence[TrialRun], resolve: Resolved) -> list[str]:
    study = load_study(STUDY, only=["a"])
    trials: Any = [SimpleNamespace(name="a", identity="of a")]
    return [trial.name for trial in misnamed_trials(study, trials, runs, resolve)]


@pytest.mark.parametrize(
    "run",
    [
        run_of("a", "of a"),
        run_of("b", "another"),
        run_of("a", "another", study="other"),
        run_of("a", "another", superseded=True),
    ],
)
def test_nothing_is_resolved_unless_a_run_has_the_name_of_another_trial(run: TrialRun) -> None:
    resolve = Resolved()
    assert misnamed([run], resolve) == []
    assert resolve.names == []


def test_only_trials_with_the_same_data_and_weights_are_resolved() -> None:
    assert misnamed([run_of("a", "of a"), run_of("a", "another")], Resolved()) == ["b"]


def test_trials_that_cannot_be_resolved_are_left_to_a_command_on_the_whole_study() -> None:
    resolve = Resolved(fails=True)
    assert misnamed([run_of("a", "another")], resolve) == []
    assert resolve.names == ["b"]
