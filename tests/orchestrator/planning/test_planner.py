"""On which device a study's times rest, where no machine is there to be asked."""

from pathlib import Path

import pytest
from rich.console import Console

from orchestrator.context import RunContext, StopRequest
from orchestrator.planning.estimate import Measurement
from orchestrator.planning.forecast import workload
from orchestrator.planning.planner import Planner
from orchestrator.preflight.preflight import measurements
from orchestrator.preflight.run import PreflightResult
from orchestrator.preflight.worker import PreflightTimings
from orchestrator.scheduling.capacity import plan_placement
from orchestrator.scheduling.devices import device_of_kind
from orchestrator.storage import Storage
from orchestrator.study.load import load_study
from orchestrator.study.resolve import resolve_trials

STUDY = """\
study: elsewhere
base:
  data: {dataset: DATASET, crop: [32, 48]}
  model: {backbone: dfnet1, channels: 8}
  training: {epochs: 10, batch: 6, precision: fp32}
variants: {one: {}}
"""
L40S = {"CPU": 48.0, "GPU": 4.0, "accelerator_type:L40S": 1.0}
T4 = {"CPU": 48.0, "GPU": 4.0, "accelerator_type:T4": 1.0}


class Study:
    """A study whose trial took two seconds a step wherever it was timed."""

    def __init__(self, directory: Path, dataset: Path) -> None:
        file = directory / "study.yaml"
        file.write_text(STUDY.replace("DATASET", str(dataset)))
        self.study = load_study(file)
        self.trials = resolve_trials(self.study.trials, "cuda", directory)
        self.directory = directory

    def planner(
        self, *nodes: dict[str, float], device: str = "", timed: tuple[str, ...]
    ) -> Planner:
        load = workload(self.trials[0], self.study.config.resources)
        known = [Measurement(load, each, "fp32", "trial", 2.0) for each in timed]
        context = RunContext(
            Storage.parse(str(self.directory)),
            None,
            Console(),
            self.directory / "log",
            StopRequest(),
        )
        placement = plan_placement(self.study.config.resources, nodes)
        return Planner(self.study, self.trials, placement, nodes, device, known, context)

    def step(self, planner: Planner) -> float | None:
        """Seconds of a step, where they were measured."""
        weakest = planner.forecaster.weakest
        load = workload(self.trials[0], self.study.config.resources)
        return None if weakest.source is None else weakest.step(load)


@pytest.fixture
def study(tmp_path: Path, small_streets: Path) -> Study:
    return Study(tmp_path, small_streets)


def test_what_was_timed_on_the_kind_of_gpu_to_come_counts(study: Study) -> None:
    found = study.planner(L40S, timed=("NVIDIA L40S", "Tesla T4"))
    assert study.step(found) == 2.0
    # Where it cannot be told, it is not said.
    assert study.step(study.planner(L40S, timed=("Tesla T4", "NVIDIA L40S, 0.5 of it"))) is None
    assert study.step(study.planner(L40S, T4, timed=("Tesla T4",))) is None
    assert study.step(study.planner({"CPU": 8.0, "GPU": 1.0}, timed=("Tesla T4",))) is None


def test_a_machine_that_answers_counts_alone(study: Study) -> None:
    found = study.planner(L40S, device="NVIDIA L40S-24Q", timed=("NVIDIA L40S",))
    assert study.step(found) is None
    assert found.probe_would_help
    # None is started for a question.
    assert not study.planner(L40S, timed=()).probe_would_help


@pytest.mark.parametrize("timed", [(), ("NVIDIA L40S",)])
def test_preflight_runs_reveal_the_device(study: Study, timed: tuple[str, ...]) -> None:
    found = study.planner(L40S, timed=timed)
    took = PreflightTimings(step=7.0, validation=None, preparing=1.0, whole=9.0, memory_gib=1.0)
    result = PreflightResult(study.trials[0].name, took, device="NVIDIA L40S-48C")
    found.learn(measurements([result], study.trials, study.study.config.resources, "preflight"))
    assert study.step(found) == 7.0


def test_failed_preflight_runs_reveal_nothing(study: Study) -> None:
    found = study.planner(L40S, timed=("NVIDIA L40S",))
    failed = PreflightResult(study.trials[0].name, None)
    found.learn(measurements([failed], study.trials, study.study.config.resources, "preflight"))
    assert study.step(found) == 2.0


@pytest.mark.parametrize(
    ("kind", "device"),
    [
        ("H100", "NVIDIA H100 80GB HBM3"),
        ("A100", "NVIDIA A100-SXM4-40GB"),
        ("A10G", "NVIDIA A10G"),
        ("RTX-PRO-6000", "NVIDIA RTX PRO 6000 Blackwell Server Edition"),
        ("T4", "Tesla T4"),
    ],
)
def test_a_kind_of_gpu_is_among_the_words_of_its_name(kind: str, device: str) -> None:
    others = ["NVIDIA A10", "NVIDIA T400", "NVIDIA GH100", "T4, 2 cores"]
    assert device_of_kind([*others, device], kind, 1.0) == device
    assert device_of_kind(others, kind, 1.0) == ""
    assert device_of_kind([device, f"{device}, 0.5 of it"], kind, 0.5) == f"{device}, 0.5 of it"
    assert device_of_kind([device, f"{device} again"], kind, 1.0) == ""
