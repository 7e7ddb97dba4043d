"""Which device's measurements the planner uses while no machine of the cluster is running."""

from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from orchestrator.context import RunContext, StopRequest
from orchestrator.planning.estimate import Measurement, Workload
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
    """A study with one trial, measured at two seconds per step on every device."""

    def __init__(self, directory: Path, dataset: Path) -> None:
        file = directory / "study.yaml"
        file.write_text(STUDY.replace("DATASET", str(dataset)))
        self.study = load_study(file)
        self.trials = resolve_trials(self.study.trials, "cuda", directory)
        self.directory = directory

    def planner(
        self,
        *nodes: dict[str, float],
        device: str = "",
        timed: tuple[str, ...],
        load: Workload | None = None,
    ) -> Planner:
        """load: of the measurements; by default that of the trial."""
        load = load or workload(self.trials[0], self.study.config.resources)
        measured = [Measurement(load, kind, "fp32", "trial", 2.0) for kind in timed]
        context = RunContext(
            Storage.parse(str(self.directory)),
            None,
            Console(),
            self.directory / "log",
            StopRequest(),
        )
        placement = plan_placement(self.study.config.resources, nodes)
        return Planner(self.study, self.trials, placement, nodes, device, measured, context)

    def step(self, planner: Planner) -> float | None:
        """Return the measured seconds per step, or None if the planner has no measurement."""
        weakest = planner.forecaster.weakest
        load = workload(self.trials[0], self.study.config.resources)
        return weakest.step(load) if weakest.measured else None


@pytest.fixture
def study(tmp_path: Path, small_streets: Path) -> Study:
    return Study(tmp_path, small_streets)


def test_measurements_of_the_expected_gpu_are_used(study: Study) -> None:
    planner = study.planner(L40S, timed=("NVIDIA L40S", "Tesla T4"))
    assert study.step(planner) == 2.0
    # No measurement is used if the device is ambiguous.
    assert study.step(study.planner(L40S, timed=("Tesla T4", "NVIDIA L40S, 0.5 of it"))) is None
    assert study.step(study.planner(L40S, T4, timed=("Tesla T4",))) is None
    assert study.step(study.planner({"CPU": 8.0, "GPU": 1.0}, timed=("Tesla T4",))) is None


def test_detected_device_takes_precedence(study: Study) -> None:
    planner = study.planner(L40S, device="NVIDIA L40S-24Q", timed=("NVIDIA L40S",))
    assert study.step(planner) is None
    assert planner.probe_would_help(study.trials)
    assert not study.planner(L40S, device="a", timed=("a",)).probe_would_help(study.trials)
    # Timings of trainings unlike this one do not replace a probe.
    load = workload(study.trials[0], study.study.config.resources)
    for factor, helps in ((1.2, False), (1e4, True)):
        other = replace(load, gflops=load.gflops * factor, megapixels=load.megapixels * factor)
        planner = study.planner(L40S, device="a", timed=("a",), load=other)
        assert planner.probe_would_help(study.trials) == helps
    # No machine is started only to probe its device.
    assert not study.planner(L40S, timed=()).probe_would_help(study.trials)


@pytest.mark.parametrize("timed", [(), ("NVIDIA L40S",)])
def test_preflight_runs_reveal_the_device(study: Study, timed: tuple[str, ...]) -> None:
    planner = study.planner(L40S, timed=timed)
    timings = PreflightTimings(step=7.0, validation=None, preparing=1.0, whole=9.0, memory_gib=1.0)
    result = PreflightResult(study.trials[0].name, timings, device="NVIDIA L40S-48C")
    planner.learn(measurements([result], study.trials, study.study.config.resources, "preflight"))
    assert study.step(planner) == 7.0


def test_failed_preflight_runs_reveal_nothing(study: Study) -> None:
    planner = study.planner(L40S, timed=("NVIDIA L40S",))
    failed = PreflightResult(study.trials[0].name, None)
    planner.learn(measurements([failed], study.trials, study.study.config.resources, "preflight"))
    assert study.step(planner) == 2.0


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
def test_gpu_type_is_matched_by_the_words_of_the_device_name(kind: str, device: str) -> None:
    others = ["NVIDIA A10", "NVIDIA T400", "NVIDIA GH100", "T4, 2 cores"]
    assert device_of_kind([*others, device], kind, 1.0) == device
    assert device_of_kind(others, kind, 1.0) == ""
    assert device_of_kind([device, f"{device}, 0.5 of it"], kind, 0.5) == f"{device}, 0.5 of it"
    assert device_of_kind([device, f"{device} again"], kind, 1.0) == ""
