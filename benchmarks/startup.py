"""How long does a command take to answer, as a ratio to importing torch?

    python -m benchmarks.startup [--rounds N] [--trials N ...] [--foreign N]

Runs each command in turn with `python -c "import torch"`, and prints the medians of processor time
and wall time, the ratio of the processor times, and the largest memory. Processor time hardly
depends on what else runs on the machine. Commands: `--help` of every command, a usage error, a
study file with a mistake, `--plan` of untrained trials, and `studies list`, `studies status` and
`report` of a store with one recorded study. `--foreign` adds runs of other experiments to the
store.
"""

import argparse
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from benchmarks.planning import STUDY
from orchestrator.__main__ import COMMANDS

_MISTAKE = "study: mistake\nbase: {training: {epochz: 3}}\nvariants: {a: {}}\n"
_CONFIGURATIONS = 20  # trials of one seed in STUDY


@dataclass(frozen=True)
class Usage:
    """Processor and wall time in seconds, and memory in MB, of a process."""

    processor: float
    wall: float
    memory: float


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.startup")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each command; default: 3")
    parser.add_argument(
        "--trials", type=int, nargs="+", default=[20, 1000, 10_000], help="of the planned studies"
    )
    parser.add_argument(
        "--foreign", type=int, default=0, help="runs of other experiments in the store; default: 0"
    )
    options = parser.parse_args()
    print(f"{_processor()}, {os.cpu_count()} cores; medians of {options.rounds}")
    print(f"{'command':48}{'CPU s':>8}{'wall s':>8}{'/ torch':>9}{'MB':>7}")
    with tempfile.TemporaryDirectory() as directory:
        for name, command in _commands(Path(directory), options.trials, options.foreign):
            _compare(name, command, options.rounds)


def _commands(
    directory: Path, trials: Sequence[int], foreign: int
) -> list[tuple[str, Sequence[str]]]:
    """Write the studies and the store; return the commands by name."""
    modules = {name: module.removesuffix(".__main__") for name, (module, _) in COMMANDS.items()}
    commands: list[tuple[str, Sequence[str]]] = [
        (f"{name} --help", ["-m", module, "--help"]) for name, module in modules.items()
    ]
    commands.append(("sweep without a study", ["-m", modules["sweep"]]))
    (directory / "mistake.yaml").write_text(_MISTAKE)
    storage = directory / "storage"
    options = ["--storage", str(storage)]
    for name in ("sweep", "report"):
        line = ["-m", modules[name], str(directory / "mistake.yaml"), *options]
        commands.append((f"{name} of a study with a mistake", line))
    for count in trials:
        seeds = list(range(max(1, count // _CONFIGURATIONS)))
        study = directory / f"plan-{count}.yaml"
        study.write_text(STUDY.replace("SEEDS", str(seeds)).replace("planning", f"plan-{count}"))
        line = ["-m", modules["sweep"], str(study), "--plan", *options]
        commands.append((f"sweep --plan of {count} trials", line))
    recorded = directory / "recorded.yaml"
    recorded.write_text(STUDY.replace("SEEDS", "[0]").replace("planning", "recorded"))
    process = get_context("spawn").Process(target=_record, args=(recorded, storage, foreign))
    process.start()
    process.join()
    if process.exitcode:
        sys.exit("the study could not be recorded")
    for arguments in (["list"], ["status", "recorded"]):
        line = ["-m", modules["studies"], *arguments, *options]
        commands.append((f"studies {arguments[0]}", line))
    commands.append(("report", ["-m", modules["report"], str(recorded), *options]))
    return commands


def _record(file: Path, storage: Path, foreign: int) -> None:
    """Record the study's trials as finished, and runs of another experiment; store timings of this
    device, which a first plan would measure.

    Runs in a process of its own: a command inherits the peak memory of the process that starts it.
    """
    from orchestrator.planning.estimate import Measurement
    from orchestrator.planning.forecast import workload
    from orchestrator.planning.measurements import save_measurements
    from orchestrator.scheduling.devices import worker_device
    from orchestrator.study.load import load_study
    from orchestrator.study.resolve import resolve_trials
    from orchestrator.tracking.open_store import tracking_uri
    from orchestrator.tracking.store import TrackingStore
    from orchestrator.tracking.study_run import StudyRun

    study = load_study(file)
    trials = resolve_trials(study.trials, "cpu", storage / "datasets")
    resources = study.config.resources
    device = worker_device("cpu", resources.share("cpu"))
    save_measurements(
        storage,
        [
            Measurement(
                workload(trial, resources), device, precision, "probe", 0.1 * trial.cost.gflops
            )
            for trial in trials
            for precision in ("bf16", "fp32")
        ],
    )
    store = TrackingStore(tracking_uri(storage), storage / "artifacts")
    study_run = StudyRun.open(store, study)
    for trial in trials:
        run_id = study_run.begin_trial(trial, None, None)
        study_run.start_trial(run_id, trial.code)
        for epoch in range(1, trial.duration.epochs + 1):
            study_run.log_epoch(run_id, epoch, {"val/miou": 0.1 * epoch, "train/loss": 1 / epoch})
        study_run.end_trial(run_id, "FINISHED", "")
    study_run.close("FINISHED")
    if foreign:
        experiment = store.client.create_experiment("foreign")
        for _ in range(foreign):
            run = store.client.create_run(experiment)
            store.log(run.info.run_id, {f"p{n}": n for n in range(20)}, {"loss": 1.0, "score": 0.5})


def _compare(name: str, command: Sequence[str], rounds: int) -> None:
    """Print the usage of the command and its ratio to importing torch."""
    usages, references = [], []
    for _ in range(rounds):
        usages.append(_run(command))
        references.append(_run(["-c", "import torch"]).processor)
    processor = statistics.median(usage.processor for usage in usages)
    wall = statistics.median(usage.wall for usage in usages)
    memory = max(usage.memory for usage in usages)
    ratio = processor / statistics.median(references)
    print(f"{name:48}{processor:8.2f}{wall:8.2f}{ratio:9.2f}{memory:7.0f}", flush=True)


def _run(arguments: Sequence[str]) -> Usage:
    """Run Python with the arguments and return what the process used."""
    environment = {name: text for name, text in os.environ.items() if not name.startswith("MLFLOW")}
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *arguments],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return Usage(usage.ru_utime + usage.ru_stime, time.perf_counter() - started, _mb(usage, unit))


def _mb(usage: resource.struct_rusage, unit: int) -> float:
    return usage.ru_maxrss / unit


def _processor() -> str:
    """Return the name of the processor."""
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
