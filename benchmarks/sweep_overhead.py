"""What does a trial cost beyond its training loop?

    python -m benchmarks.sweep_overhead [--trials N] [--plain N]

Compares in one run, on all cores of this machine, for trials that train for about a second:

  bare loop          `pipelines` alone: one process per core that runs trainings one after another
  plain Ray          a Ray Tune function that drives a `TorchTrainer`, as Ray documents it, with
                     Ray's default settings and no tracking
  this project       `python -m orchestrator.sweep` on a study file, including results and MLflow

Every trial trains, validates, writes a checkpoint and draws its panels. The seconds per trial are
core seconds (wall time x cores / trials) from the end of the first trial on each core to the end of
the last trial. One-time costs, such as imports and starting Ray, are printed separately.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from mlflow.tracking import MlflowClient

from orchestrator.study.load import load_study
from pipelines.data.dataset import open_dataset
from pipelines.machine import cores
from pipelines.preparation.embedded import prepare_streets
from pipelines.training.experiment import Experiment
from pipelines.training.loop import Training, TrainingReport
from pipelines.training.results import write_results

CORES = cores()
NAME = "sweep-overhead"
STUDY = """\
study: NAME
base:
  data: {dataset: DATASET, crop: [32, 48]}
  model: {backbone: dfnet1, channels: 8, flows: []}
  training: {epochs: 1, batch: 4, learning_rate: 0.02, precision: fp32}
variants:
  baseline: {}
seeds: SEEDS
resources: {workers: 1, cpus_per_worker: 1, node_cache: null}
"""


def train(experiment: Experiment, report: Any) -> None:
    """Run one training; `report` is called with the directory of its checkpoint."""
    torch.set_num_threads(1)
    training = Training(experiment, open_dataset(experiment.data.dataset), torch.device("cpu"))

    def send(result: TrainingReport) -> None:
        with tempfile.TemporaryDirectory() as directory:
            result.snapshot().write_into(Path(directory))
            write_results(Path(directory) / "results", training, result)
            report(directory)

    training.run(send)


def bare(experiments: Sequence[Experiment]) -> list[float]:
    """Run the trainings one after another and return the time at the end of each."""
    ends = []
    for experiment in experiments:
        train(experiment, lambda directory: None)
        ends.append(time.time())
    return ends


def plain(experiments: Sequence[Experiment], storage: Path) -> list[float]:
    """Run the trials as Ray's documentation combines Tune and Train; return their end times."""
    import ray
    from ray import tune
    from ray.train import Checkpoint, RunConfig, ScalingConfig
    from ray.train import report as report_to_train
    from ray.train.torch import TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

    class Ends(tune.Callback):
        def on_trial_complete(
            self, iteration: int, trials: list[Any], trial: Any, **_: Any
        ) -> None:
            ends.append(time.time())

    def train_in_worker(config: dict[str, Experiment]) -> None:
        train(
            config["experiment"],
            lambda directory: report_to_train(
                {"epoch": 1}, checkpoint=Checkpoint.from_directory(directory)
            ),
        )

    def trial(config: dict[str, int]) -> None:
        TorchTrainer(
            train_in_worker,
            train_loop_config={"experiment": experiments[config["index"]]},
            scaling_config=ScalingConfig(num_workers=1, resources_per_worker={"CPU": 0.9}),
            run_config=RunConfig(
                name=f"trial-{config['index']}",
                storage_path=str(storage),
                callbacks=[TuneReportCallback()],
            ),
        ).fit()

    ends: list[float] = []
    ray.init(num_cpus=CORES, log_to_driver=False)
    tune.Tuner(
        tune.with_resources(trial, {"CPU": 0.01}),
        param_space={"index": tune.grid_search(list(range(len(experiments))))},
        tune_config=tune.TuneConfig(max_concurrent_trials=CORES),
        run_config=tune.RunConfig(storage_path=str(storage), verbose=0, callbacks=[Ends()]),
    ).fit()
    ray.shutdown()
    return ends


def seconds_of_a_trial(ends: Sequence[float]) -> float:
    """Return the core seconds per trial from the trials' end times, without each core's first."""
    ends = sorted(ends)
    return (ends[-1] - ends[CORES - 1]) * CORES / (len(ends) - CORES)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sweep_overhead")
    parser.add_argument("--trials", type=int, default=100, help="trials of the study; default: 100")
    parser.add_argument("--plain", type=int, default=8, help="trials of plain Ray; default: 8")
    parser.add_argument("--part", nargs=2, metavar=("KIND", "DIRECTORY"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if min(options.trials, options.plain) <= CORES:
        parser.error(
            f"--trials and --plain must exceed {CORES}, because the first {CORES} do not count"
        )
    if options.part:
        print(json.dumps(_part(*options.part)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        prepare_streets(directory / "streets", train=8, val=4, size=(32, 64))
        print(f"{options.trials} trials of one epoch on {CORES} cores")
        print(f"{'':20}{'s/trial':>10}{'above bare':>12}{'once, s':>10}", flush=True)
        loop = _row("bare loop", _bare(directory, options.trials), None)
        _row("plain Ray", _plain(directory, options.plain), loop)
        ends, total = _ours(directory, options.trials)
        _row("this project", (ends, total), loop)
        if len(ends) >= 4 * CORES + 4:
            half = len(ends) // 2
            first, second = (seconds_of_a_trial(part) for part in (ends[:half], ends[half:]))
            print(f"{'  first half':20}{first:10.2f}\n{'  second half':20}{second:10.2f}")


def _row(name: str, measured: tuple[list[float], float], loop: float | None) -> float:
    """Print one row of the table and return its seconds per trial.

    measured: the trials' end times, and the total seconds.
    """
    ends, total = measured
    each = seconds_of_a_trial(ends)
    above = "" if loop is None else f"{each - loop:.2f}"
    print(f"{name:20}{each:10.2f}{above:>12}{total - each * len(ends) / CORES:10.1f}", flush=True)
    return each


def _bare(directory: Path, trials: int) -> tuple[list[float], float]:
    """Run one process per core, each with its share of the trials."""
    _write_study(directory, -(-trials // CORES) + 1)
    started = time.time()
    processes = [_start("bare", directory) for _ in range(CORES)]
    outputs = [process.communicate()[0] for process in processes]
    ends = [end for output in outputs for end in json.loads(output.splitlines()[-1])]
    return ends, time.time() - started


def _plain(directory: Path, trials: int) -> tuple[list[float], float]:
    _write_study(directory, trials)
    started = time.time()
    output = _start("plain", directory).communicate()[0]
    return json.loads(output.splitlines()[-1]), time.time() - started


def _ours(directory: Path, trials: int) -> tuple[list[float], float]:
    study, storage = _write_study(directory, trials), directory / "storage"
    started = time.time()
    command = [sys.executable, "-m", "orchestrator.sweep", str(study), "--storage", str(storage)]
    environment = {name: text for name, text in os.environ.items() if not name.startswith("MLFLOW")}
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
    total = time.time() - started
    client = MlflowClient(f"sqlite:///{storage / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(NAME)
    assert experiment is not None, "the study was run"
    runs = client.search_runs(
        [experiment.experiment_id], "tags.`orchestrator.kind` = 'trial'", max_results=10_000
    )
    ends = sorted(
        datetime.fromisoformat(run.data.tags["orchestrator.ended"]).timestamp()
        for run in runs
        if run.info.status == "FINISHED"
    )
    assert len(ends) == trials, f"{len(ends)} of {trials} trials finished"
    return ends, total


def _write_study(directory: Path, trials: int) -> Path:
    text = STUDY.replace("NAME", NAME).replace("DATASET", str(directory / "streets"))
    path = directory / "study.yaml"
    path.write_text(text.replace("SEEDS", str(list(range(trials)))))
    return path


def _start(kind: str, directory: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.sweep_overhead", "--part", kind, str(directory)],
        stdout=subprocess.PIPE,
        text=True,
    )


def _part(kind: str, directory: str) -> list[float]:
    """Run one process of the measurement and return its trials' end times."""
    experiments = [t.experiment for t in load_study(Path(directory) / "study.yaml").trials]
    if kind == "bare":
        return bare(experiments)
    return plain(experiments, Path(directory) / "plain")


if __name__ == "__main__":
    main()
